from itertools import pairwise

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters.partial_eval import DynamicJaxprTracer
from jaxtyping import TypeCheckError

from mfamm_jax.models import ExponentialIntensity
from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.closed_form import stationary_depths
from mfamm_jax.solvers.hjb import (
    ExplicitRK,
    Grid,
    HanWong,
    HJBProblem,
    TaylorAction,
    Uniformization,
    choose_scheme,
    optimal_depths,
    solve_hjb,
)

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads
from .cases import CASES as ALL_CASES
from .cases import REFERENCE, problem_of

CASES = {name: case for name, case in ALL_CASES.items() if case["kind"] == "hjb_finite_horizon"}
LINEAR = ["hjb/rb1", "hjb/cara_as", "hjb/drift_eps"]


def simple_problem(**changes):
    intensity = ExponentialIntensity(changes.pop("scale", 1.0), changes.pop("decay", 1.5))
    return HJBProblem(bid=intensity, ask=intensity, **{"inventory_penalty": 0.009, **changes})


def within(got, expected, tolerance, precision):
    suffix = "" if precision == "float64" else "_float32"
    expected = np.array([np.nan if x is None else x for x in expected], float)
    np.testing.assert_allclose(got, expected, rtol=tolerance["rel" + suffix], atol=tolerance["abs" + suffix])


def schemes_for(case_id, problem, grid, precision):
    if case_id in LINEAR:
        return [choose_scheme(problem, grid)[0], choose_scheme(problem, grid, Uniformization)[0]]
    steps = choose_scheme(problem, grid)[0].n_substeps
    return [ExplicitRK(8 * steps if precision == "float64" else steps)]


@pytest.mark.parametrize("case_id", CASES)
def test_value_and_quotes_agree_with_two_independent_methods(case_id, precision):
    case = CASES[case_id]
    problem, grid = problem_of(case["inputs"]), Grid(case["inputs"]["max_inventory"], 1)
    expected, tolerance = case["expected"], case["tolerance"]
    middle = grid.max_inventory
    for scheme in schemes_for(case_id, problem, grid, precision):
        solution = jax.jit(lambda p, s=scheme: solve_hjb(p, s, grid))(problem)
        assert bool(solution.result == RESULTS.successful)
        relative = np.array(expected["value"]) - expected["value"][middle]
        within(solution.value.relative_value[-1], relative, tolerance, precision)
        within(
            solution.value.offset[-1:],
            expected["value"][middle : middle + 1],
            tolerance | {"rel_float32": 1e-4},
            precision,
        )
        bid, ask = optimal_depths(problem, solution.value.relative_value[-1])
        within(bid, expected["bid_depth"], tolerance, precision)
        within(ask, expected["ask_depth"], tolerance, precision)


@pytest.mark.thorough
@pytest.mark.parametrize("case_id", ["hjb/rb1", "hjb/asym_k"])
def test_gradients_agree_with_the_sensitivity_equations(case_id, precision):
    case = CASES[case_id]
    problem, grid = problem_of(case["inputs"]), Grid(case["inputs"]["max_inventory"], 1)
    # Explicit: the linear schemes know one common decay only.
    scheme = ExplicitRK(800)
    rel = 1e-7 if precision == "float64" else 1e-3
    for inventory in (0, 2):
        gradient = jax.jit(
            jax.grad(lambda p, q=inventory: solve_hjb(p, scheme, grid).value.initial_value[grid.max_inventory + q])
        )(problem)
        for name, expected in case["expected"][f"value_gradient_at_inventory_{inventory}"].items():
            side, _, what = name.partition("_")
            got = (
                getattr(gradient, name)
                if side not in ("bid", "ask")
                else getattr(getattr(gradient, side), {"intensity": "scale", "decay": "decay"}[what])
            )
            np.testing.assert_allclose(got, expected, rtol=rel)


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [TaylorAction, Uniformization])
def test_linear_schemes_have_the_gradient_of_everything(wanted, precision):
    case = CASES["hjb/rb1"]
    problem, grid = problem_of(case["inputs"]), Grid(5, 1)
    scheme = choose_scheme(problem, grid, wanted)[0]
    gradient = jax.jit(jax.grad(lambda p: solve_hjb(p, scheme, grid).value.initial_value[7]))(problem)
    expected = case["expected"]["value_gradient_at_inventory_2"]
    rel = 1e-7 if precision == "float64" else 1e-3
    np.testing.assert_allclose(gradient.inventory_penalty, expected["inventory_penalty"], rtol=rel)
    np.testing.assert_allclose(gradient.terminal_penalty, expected["terminal_penalty"], rtol=rel)
    np.testing.assert_allclose(gradient.ask.scale, expected["ask_intensity"], rtol=rel)
    np.testing.assert_allclose(gradient.bid.scale, expected["bid_intensity"], rtol=rel)
    np.testing.assert_allclose(gradient.ask.decay, expected["ask_decay"], rtol=rel)
    np.testing.assert_allclose(gradient.bid.decay, expected["bid_decay"], rtol=rel)


@pytest.mark.parametrize("name", REFERENCE["hamiltonian"])
def test_hamiltonian_and_best_depth(name):
    case = REFERENCE["hamiltonian"][name]
    low = -jnp.inf if case["lo"] is None else case["lo"]
    high = jnp.inf if case["hi"] is None else case["hi"]
    limits = tuple(jnp.asarray(x) for x in (case["xi"], low, high))
    intensity, cost = ExponentialIntensity(case["L"], case["k"]), jnp.asarray(case["p"])
    assert_close(cost + intensity.best_margin(cost, *limits), case["delta"], float64=1e-11)
    assert_close(intensity.hamiltonian(cost, *limits), case["h"], float64=1e-11)
    depths = jnp.linspace(jnp.maximum(low, -3.0), jnp.minimum(high, 6.0), 4001)
    gains = intensity(depths) * (
        -jnp.expm1(-case["xi"] * (depths - cost)) / case["xi"] if case["xi"] else depths - cost
    )
    assert float(gains.max()) <= float(intensity.hamiltonian(cost, *limits)) + 1e-12


def test_fill_risk_aversion_is_continuous_with_its_gradient_at_zero():
    intensity, cost = ExponentialIntensity(2.0, 1.2), jnp.asarray(0.3)

    def h(xi):
        return intensity.hamiltonian(cost, xi, jnp.asarray(-jnp.inf), jnp.asarray(jnp.inf))

    slope = jax.grad(h)(jnp.asarray(0.0))
    assert_close(slope, (h(jnp.asarray(1e-4)) - h(jnp.asarray(-1e-4))) / 2e-4, float64=1e-7)
    assert_close(jax.grad(h)(jnp.asarray(1e-8)), slope, float64=1e-6)


@pytest.mark.thorough
def test_volatility_widens_the_spread():
    # The fluid limit of (8) would give 2/k = 1.3333 at any volatility; the jump equation gives 1.4659 at sigma = 0.3.
    grid = Grid(5, 1)
    spreads = []
    for volatility in (0.0, 0.3, 1.0):
        problem = simple_problem(inventory_penalty=0.1 * volatility**2, horizon=200.0)
        solution = solve_hjb(problem, choose_scheme(problem, grid)[0], grid)
        bid, ask = optimal_depths(problem, solution.value.relative_value[-1])
        spreads.append(float(bid[5] + ask[5]))
    assert spreads[0] < spreads[1] < spreads[2]
    assert spreads[1] == pytest.approx(2 * 0.73335599296, abs=1e-8)  # ergodic reference


CLAMPED = {"min_depth": 0.4, "max_depth": 1.1, "fill_risk_aversion": 0.3}


@pytest.mark.thorough
@pytest.mark.parametrize("scheme", [TaylorAction(1, 80), ExplicitRK(30), HanWong()], ids=str)
def test_mirror_symmetry(scheme):
    grid = Grid(5, 3)
    one, two = ExponentialIntensity(1.2, 1.5), ExponentialIntensity(0.7, 1.5)
    more = {} if isinstance(scheme, TaylorAction) else CLAMPED
    left = HJBProblem(bid=one, ask=two, inventory_penalty=0.02, drift=0.03, bid_adverse_selection=0.1, **more)
    right = HJBProblem(bid=two, ask=one, inventory_penalty=0.02, drift=-0.03, ask_adverse_selection=0.1, **more)
    a, b = solve_hjb(left, scheme, grid).value, solve_hjb(right, scheme, grid).value
    assert_close(a.value, b.value[:, ::-1], float64=1e-12)


@pytest.mark.thorough
@pytest.mark.parametrize("scheme", [TaylorAction(1, 80), ExplicitRK(30), HanWong()], ids=str)
def test_price_rescaling(scheme):
    grid, c = Grid(4, 2), 7.0
    more = {} if isinstance(scheme, TaylorAction) else CLAMPED
    scaled_more = {name: x / c if name == "fill_risk_aversion" else x * c for name, x in more.items()}
    base, scaled = (
        simple_problem(**more),
        simple_problem(decay=1.5 / c, inventory_penalty=0.009 * c, terminal_penalty=1e-4 * c, **scaled_more),
    )
    assert_close(
        solve_hjb(scaled, scheme, grid).value.value, c * solve_hjb(base, scheme, grid).value.value, float64=1e-12
    )


@pytest.mark.thorough
def test_runge_kutta_converges_with_order_four():
    problem, grid = problem_of(CASES["hjb/asym_k"]["inputs"]), Grid(5, 1)
    exact = np.array(CASES["hjb/asym_k"]["expected"]["value"])
    errors = [
        float(np.abs(np.asarray(solve_hjb(problem, ExplicitRK(n), grid).value.initial_value) - exact).max())
        for n in (40, 80, 160)
    ]
    assert all(3.6 < np.log2(a / b) < 4.5 for a, b in pairwise(errors))


def test_misuse_is_flagged():
    grid = Grid(5, 1)
    clamped = simple_problem(min_depth=0.5)
    assert bool(solve_hjb(clamped, TaylorAction(1, 64), grid).result == RESULTS.clamp_binds)
    withdrawn = simple_problem(inventory_penalty=0.3, max_depth=0.3, may_withdraw=True)
    assert bool(solve_hjb(withdrawn, TaylorAction(4, 80), grid).result == RESULTS.clamp_binds)
    uneven = eqx.tree_at(lambda p: p.bid.decay, simple_problem(), jnp.asarray(1.7))
    assert bool(solve_hjb(uneven, TaylorAction(1, 64), grid).result == RESULTS.unequal_decay)
    assert bool(solve_hjb(simple_problem(horizon=1e4), TaylorAction(1, 64), grid).result == RESULTS.too_few_terms)
    stiff = simple_problem(inventory_penalty=5.0, horizon=50.0)
    result = solve_hjb(stiff, ExplicitRK(30), grid).result
    assert bool((result == RESULTS.unstable_step) | (result == RESULTS.nonfinite))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"scale": -1.0}, "scale"),
        ({"horizon": 0.0}, "horizon"),
        ({"inventory_penalty": float("nan")}, "inventory_penalty"),
    ],
)
def test_absurd_parameters_are_rejected_by_name(change, name):
    with pytest.raises(ValueError, match=name):
        simple_problem(**change)
    with pytest.raises(ValueError, match="max_inventory"):
        Grid(0)


@pytest.mark.thorough
def test_jit_vmap_and_loop_agree():
    grid = Grid(4, 2)
    scheme = TaylorAction(1, 64)
    penalties = jnp.array([0.001, 0.01, 0.1])
    assert_jit_vmap_loop_agree(
        lambda phi: solve_hjb(simple_problem(inventory_penalty=phi), scheme, grid).value.value, penalties
    )


def test_traced_sides_are_not_compared_where_a_library_made_them_hashable(monkeypatch):
    """As PennyLane does on import. jax keeps what it traced by function, and bound methods compare by their arrays."""
    monkeypatch.setattr(DynamicJaxprTracer, "__hash__", lambda x: 1, raising=False)
    known = []

    @jax.jit
    def terminal(scale):
        side = ExponentialIntensity(scale, 1.5 * scale)
        known.append(side.log_intensity)  # remains alive, as while an error is shown
        return HJBProblem(bid=side, ask=side, inventory_penalty=0.1, terminal_penalty=scale).terminal_value(Grid(1, 1))

    for scale in (1.0, 2.0):
        np.testing.assert_allclose(terminal(jnp.asarray(scale)), [-scale, 0, -scale])
        jax.clear_caches()


def test_one_compile_serves_all_parameters():
    grid, scheme = Grid(4, 2), TaylorAction(1, 64)

    @eqx.filter_jit
    @chex.assert_max_traces(n=1)
    def value(problem):
        return solve_hjb(problem, scheme, grid).value.offset

    for penalty in (0.001, 0.01, 1):
        value(simple_problem(inventory_penalty=penalty))


def test_stationary_closed_form_matches_the_published_formula():
    fixture = REFERENCE["glft"]
    bid, ask = stationary_depths(
        ExponentialIntensity(fixture["A"], fixture["k"]),
        fixture["gamma"] * fixture["sigma"] ** 2 / 2,
        jnp.array([0.0, 1.0]),
        fixture["gamma"],
    )
    assert_close(bid[0], fixture["half_spread"], float64=1e-10)
    assert_close(bid[1] - bid[0], fixture["skew_per_lot"], float64=1e-10)
    assert_close(ask[0] - ask[1], fixture["skew_per_lot"], float64=1e-10)


def stiff_problem(horizon=60.0):
    side = ExponentialIntensity(1.0, 1.5)
    return HJBProblem(bid=side, ask=side, inventory_penalty=0.05, terminal_penalty=1e-3, horizon=horizon)


@pytest.mark.slow
def test_values_beyond_the_range_of_float32_are_carried_in_logarithms():
    """exp(k H) spans 10^-150 here: plain float32 says that it fails, the chosen scheme agrees with float64."""
    grid = Grid(60, 1)
    with jax.enable_x64(True):
        problem = stiff_problem()
        reference = solve_hjb(problem, choose_scheme(problem, grid, Uniformization)[0], grid)
        assert reference.result == RESULTS.successful
        expected = [np.asarray(depth) for depth in optimal_depths(problem, reference.value.relative_value[-1])]
    with jax.enable_x64(False):
        problem = stiff_problem()
        scheme, why = choose_scheme(problem, grid)
        assert scheme.in_logarithms
        assert "e-folds" in why
        solution = solve_hjb(problem, scheme, grid)
        assert solution.result == RESULTS.successful
        found = optimal_depths(problem, solution.value.relative_value[-1])
        plain = solve_hjb(problem, TaylorAction(scheme.n_substeps, scheme.n_terms), grid)
        assert plain.result == RESULTS.nonfinite
    for mine, theirs in zip(found, expected):
        quoted = np.isfinite(theirs)
        # Hundreds of substeps, each right to a few units in the last place of numbers up to e^64.
        np.testing.assert_allclose(np.asarray(mine)[quoted], theirs[quoted], atol=2e-4)


@pytest.mark.slow
def test_float32_does_not_square_away_its_digits():
    """Ten thousand seconds take 13 squarings, each of which doubles the rounding so far."""

    def quotes(wanted=None):
        problem, grid = simple_problem(horizon=10_000.0), Grid(5)
        scheme, why = choose_scheme(problem, grid, wanted)
        solution = solve_hjb(problem, scheme, grid)
        assert solution.result == RESULTS.successful
        return type(scheme), why, np.asarray(optimal_depths(problem, solution.value.relative_value[-1]))

    with jax.enable_x64(True):
        kind, _, expected = quotes()
        assert kind is Uniformization
    with jax.enable_x64(False):
        kind, why, found = quotes()
        assert kind is HanWong
        assert "13 squarings" in why
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert np.nanmax(np.abs(quotes(Uniformization)[2] - expected)) > 1e-4


@pytest.mark.slow
def test_both_forms_of_the_taylor_action_agree_with_their_gradients():
    grid = Grid(8, 3)
    scheme, _ = choose_scheme(stiff_problem(5.0), grid, TaylorAction)
    logarithmic = TaylorAction(2 * scheme.n_substeps, scheme.n_terms, in_logarithms=True)

    def value(penalty, scheme):
        problem = eqx.tree_at(lambda p: p.inventory_penalty, stiff_problem(5.0), penalty)
        solution = solve_hjb(problem, scheme, grid)
        return solution.value.value, solution.result

    plain, result = value(jnp.asarray(0.05), scheme)
    other, other_result = value(jnp.asarray(0.05), logarithmic)
    assert result == RESULTS.successful
    assert other_result == RESULTS.successful
    assert_close(other, plain, float64=1e-11)
    slopes = [jax.jacrev(lambda p, s=s: value(p, s)[0])(jnp.asarray(0.05)) for s in (scheme, logarithmic)]
    assert_close(slopes[1], slopes[0], float64=1e-10)


@pytest.mark.thorough
def test_the_adjoint_is_the_gradient(precision):
    """Every parameter, several sums per row, unequal sides: against differentiating each term."""
    grid = Grid(6, 2)
    with jax.enable_x64(True):
        exact = jax.jit(jax.grad(_weighted_value, argnums=range(6)), static_argnums=(6, 7))(
            *_six(), TaylorAction(2, 60), grid
        )
        exact = [float(x) for x in exact]
    scheme = TaylorAction(2, 60, adjoint=True)
    found = jax.jit(jax.grad(_weighted_value, argnums=range(6)), static_argnums=(6, 7))(*_six(), scheme, grid)
    np.testing.assert_allclose(found, exact, rtol=1e-10 if precision == "float64" else 1e-4, atol=1e-5)


def _six():
    return tuple(jnp.asarray(x, dtype=jnp.result_type(float)) for x in (0.02, 1.2, 0.8, 1.5, 3.0, 0.03))


def _weighted_value(penalty, bid, ask, decay, horizon, drift, scheme, grid):
    sides = ExponentialIntensity(bid, decay), ExponentialIntensity(ask, decay)
    problem = HJBProblem(*sides, penalty, 0.01, horizon, drift)
    value = solve_hjb(problem, scheme, grid).value.value
    return jnp.sum(value * jnp.cos(jnp.arange(value.size, dtype=value.dtype)).reshape(value.shape))


@pytest.mark.slow
@pytest.mark.parametrize(
    "scheme",
    [
        TaylorAction(1, 50),
        pytest.param(TaylorAction(1, 50, in_logarithms=True), marks=pytest.mark.slow),
        pytest.param(Uniformization(4, 24), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_gradients_and_hessians_on_the_linear_path(scheme):
    grid = Grid(3, 2)
    check_grads(jax.jit(lambda *x: _weighted_value(*x, scheme, grid)), _six(), order=2, modes=["fwd", "rev"], rtol=1e-4)


@pytest.mark.thorough
def test_the_adjoint_has_hessians():
    grid = Grid(3, 2)
    plain, adjoint = (
        jax.jit(jax.hessian(lambda x, s=s: _weighted_value(*x, s, grid)))(jnp.stack(_six()))
        for s in (TaylorAction(1, 50), TaylorAction(1, 50, adjoint=True))
    )
    assert_close(adjoint, plain, float64=1e-9)


@pytest.mark.thorough
def test_time_rescaling():
    grid, a = Grid(4, 2), 3.0
    base = simple_problem(drift=0.01, horizon=6.0)
    fast = simple_problem(drift=0.01 * a, horizon=6.0 / a, inventory_penalty=0.009 * a, scale=a)
    for scheme in (TaylorAction(1, 60), ExplicitRK(40), HanWong(1e-6)):
        slow_value, fast_value = (solve_hjb(p, scheme, grid).value.value for p in (base, fast))
        assert_close(fast_value, slow_value, float64=1e-11)


@pytest.mark.thorough
def test_evaluating_the_policy_reproduces_the_value():
    """The quotes of the table, read at their rows and played for ever: a linear equation solved by numpy."""
    problem, grid = simple_problem(min_depth=0.5, drift=0.02, horizon=2.0), Grid(3, 400)
    table = solve_hjb(problem, ExplicitRK(4), grid).value
    bids, asks = (np.nan_to_num(d, nan=np.inf) for d in optimal_depths(problem, table.relative_value))
    inventory = np.arange(-3, 4)

    def rates(depths):
        rate = np.exp(-1.5 * depths)
        return rate, rate * np.where(np.isinf(depths), 0.0, depths)

    def rate_of_change(value, row):
        (buy, earned_buying), (sell, earned_selling) = rates(bids[row]), rates(asks[row])
        gain = earned_buying + earned_selling + 0.02 * inventory - 0.009 * inventory**2
        up, down = np.append(value[1:], 0.0), np.append(0.0, value[:-1])
        return gain + buy * (up - value) + sell * (down - value)

    value, step = -1e-4 * inventory**2.0, 2.0 / 400
    for row in range(400):  # the trapezoidal rule, the policy of both ends
        first = rate_of_change(value, row)
        value = value + step / 2 * (first + rate_of_change(value + step * first, row + 1))
    # Second order in the step of the rows.
    np.testing.assert_allclose(value, table.initial_value, atol=2e-6)


@pytest.mark.thorough
def test_the_value_is_the_mean_of_simulated_objectives():
    """(1) by simulation, fill by fill at exact event times by thinning, with nothing but the quotes from the solver."""
    problem, grid = simple_problem(inventory_penalty=0.05, horizon=3.0, terminal_penalty=0.02), Grid(3, 60)
    table = solve_hjb(problem, TaylorAction(1, 40), grid).value
    # A depth of 50 is never filled.
    depths = np.stack([np.nan_to_num(d, nan=50.0) for d in optimal_depths(problem, table.relative_value)])
    rng, n = np.random.default_rng(3), 40_000
    bound = 2 * np.exp(-1.5 * depths.min())
    time, inventory, gain = np.zeros(n), np.zeros(n, int), np.zeros(n)
    going = np.ones(n, bool)
    while going.any():
        wait = rng.exponential(1 / bound, n)
        until = np.minimum(time + wait, 3.0)
        gain -= np.where(going, 0.05 * inventory**2 * (until - time), 0.0)
        time = until
        going &= time < 3.0
        row = np.clip((3.0 - time) / 0.05, 0, 60)
        low, part = np.minimum(row.astype(int), 59), row - np.minimum(row.astype(int), 59)
        quote = (1 - part) * depths[:, low, inventory + 3] + part * depths[:, low + 1, inventory + 3]
        chance = rng.uniform(0, bound, n)
        buy = going & (chance < np.exp(-1.5 * quote[0]))
        sell = going & ~buy & (chance < np.exp(-1.5 * quote[0]) + np.exp(-1.5 * quote[1]))
        gain += np.where(buy, quote[0], 0.0) + np.where(sell, quote[1], 0.0)
        inventory = inventory + buy - sell
    gain -= 0.02 * inventory**2
    expected = float(table.initial_value[3])
    assert abs(gain.mean() - expected) < 4 * gain.std() / np.sqrt(n)


def test_swapped_and_unwrapped_arguments_are_named():
    problem, grid = simple_problem(), Grid(3, 4)
    scheme, _ = choose_scheme(problem, grid)
    with pytest.raises((ValueError, TypeCheckError), match="Grid"):  # the latter where shapes are checked
        solve_hjb(problem, grid, scheme)
    with pytest.raises((ValueError, TypeCheckError), match=r"pass solution|relative_value"):
        optimal_depths(problem, solve_hjb(problem, scheme, grid))
