"""Implicit, adaptive and splitting schemes: orders, reference cases, long horizons, gradients, independent solvers."""

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models import ExponentialIntensity, LogisticIntensity
from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.hjb import (
    Ergodic,
    ExplicitRK,
    Grid,
    HanWong,
    HJBProblem,
    Implicit,
    RegimeProblem,
    Strang,
    TaylorAction,
    choose_scheme,
    optimal_depths,
    signal_generator,
    solve_hjb,
)
from mfamm_jax.solvers.hjb.cross_check import Diffrax
from mfamm_jax.solvers.hjb.implicit import solve_tridiagonal

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads
from .cases import CASES, problem_of, regime_problem, symmetric

solve = eqx.filter_jit(solve_hjb)
FINITE = [name for name, case in CASES.items() if case["kind"] == "hjb_finite_horizon"]


def quotes(problem, solution, inner=slice(None)):
    return [np.asarray(d)[inner] for d in optimal_depths(problem, solution.value.relative_value[-1])]


def largest_difference(some, others):
    return max(np.nanmax(np.abs(a - b)) for a, b in zip(some, others, strict=True))


def test_tridiagonal_systems():
    rng = np.random.default_rng(0)
    lower, upper, right = rng.uniform(0, 3, (3, 9, 2))
    lower[0], upper[-1] = 0, 0
    diagonal = 1 + lower + upper
    x = solve_tridiagonal(*map(jnp.asarray, (-lower, diagonal, -upper, right)))
    for i in range(2):
        dense = np.diag(diagonal[:, i]) - np.diag(lower[1:, i], -1) - np.diag(upper[:-1, i], 1)
        assert_close(dense @ x[:, i], right[:, i], float64=1e-12)


@pytest.mark.thorough
@pytest.mark.parametrize("case_id", FINITE)
def test_adaptive_steps_keep_their_tolerance(case_id, precision):
    """A quote within ten tolerances of the reference; float32 adds the rounding of the reference table, 2e-5."""
    case = CASES[case_id]
    problem, grid = problem_of(case["inputs"]), Grid(case["inputs"]["max_inventory"], 1)
    for order, rtol in ((2, 1e-3), (4, 1e-5)) + (((4, 1e-8),) if precision == "float64" else ()):
        solution = solve(problem, HanWong(rtol, order=order), grid)
        assert solution.result == RESULTS.successful
        expected = [np.array(case["expected"][f"{s}_depth"], float) for s in ("bid", "ask")]
        scale = max(1.0, np.nanmax(np.abs(expected)))
        error = largest_difference(quotes(problem, solution), expected)
        assert error <= (10 * rtol + (2e-5 if precision == "float32" else 0)) * scale
        assert int(solution.stats["n_steps"]) < 400
        assert float(solution.stats["howard_change"]) <= rtol * scale + 1e-4


@pytest.mark.thorough
@pytest.mark.parametrize(("order", "counts"), [(1, (40, 80, 160)), (2, (20, 40, 80)), (4, (10, 20, 40))])
def test_implicit_steps_converge_with_their_order(order, counts):
    case = CASES["hjb/asym_k"]
    problem, grid, exact = problem_of(case["inputs"]), Grid(5, 1), np.array(case["expected"]["value"])
    errors = [float(np.abs(solve(problem, Implicit(n, order), grid).value.initial_value - exact).max()) for n in counts]
    rates = [np.log2(a / b) for a, b in pairwise(errors)]
    assert all(order - 0.3 < rate < order + 0.7 for rate in rates), (rates, errors)


@pytest.mark.thorough
def test_an_hour_in_about_a_hundred_steps(precision):
    """k phi Q^2 T = 19,440: explicit steps would number 180,000. By then quotes and gain are stationary."""
    for changes in ({}, {"min_depth": 0.0}):
        with jax.enable_x64(True):
            problem, grid = symmetric(inventory_penalty=0.009, horizon=3600.0, **changes), Grid(20, 1)
            reference = solve(problem, Ergodic(), grid)
            expected, gain = quotes(problem, reference), float(reference.stats["gain"])
        problem = symmetric(inventory_penalty=0.009, horizon=3600.0, **changes)
        solution = solve(problem, HanWong(1e-4, order=2), grid)
        assert solution.result == RESULTS.successful
        assert int(solution.stats["n_steps"]) < 150
        assert int(solution.stats["n_rejected"]) < 10
        assert largest_difference(quotes(problem, solution), expected) < (1e-9 if precision == "float64" else 2e-5)
        # The offset also holds the start, about 0.5 price lots at most.
        assert float(solution.value.offset[-1]) == pytest.approx(3600 * gain, abs=1.0)


@pytest.mark.slow
def test_the_stress_case_and_two_hundred_lots_in_float32():
    """k phi Q^2 T = 900, and 200 lots: against float64 by another scheme."""
    for changes, size, bound in (
        ({"inventory_penalty": 0.1, "horizon": 60.0}, 10, 2e-5),
        # Values reach 181 price lots, whose rounding alone is 2e-5.
        ({"inventory_penalty": 1e-4, "horizon": 60.0}, 200, 2e-4),
    ):
        grid = Grid(size, 1)
        with jax.enable_x64(True):
            problem = symmetric(**changes)
            expected = quotes(problem, solve(problem, choose_scheme(problem, grid)[0], grid))
        with jax.enable_x64(False):
            problem = symmetric(**changes)
            for scheme in (choose_scheme(problem, grid, HanWong)[0], choose_scheme(problem, grid)[0]):
                solution = solve(problem, scheme, grid)
                assert solution.result == RESULTS.successful
                assert largest_difference(quotes(problem, solution), expected) < bound


@pytest.mark.thorough
@pytest.mark.parametrize("scheme", [Implicit(12, 2), Implicit(8, 4), HanWong(1e-4, order=2)], ids=str)
def test_gradients(scheme):
    """Both modes against differences, with a limit that binds on some inventories, in every kind of parameter."""
    grid = Grid(3, 2)

    def value(penalty, scale, decay, horizon, drift, min_depth):
        bid, ask = ExponentialIntensity(scale, decay), ExponentialIntensity(1.1, 1.4)
        problem = HJBProblem(bid, ask, penalty, 0.01, horizon, drift, min_depth=min_depth)
        return solve_hjb(problem, scheme, grid).value.value

    at = tuple(map(jnp.asarray, (0.05, 0.9, 1.5, 3.0, 0.02, 0.45)))
    check_grads(jax.jit(value), at, order=1, modes=["fwd", "rev"], rtol=2e-5, atol=2e-5, eps=1e-6)


@pytest.mark.slow
def test_the_gradient_is_the_one_of_the_exact_solution():
    problem, grid = problem_of(CASES["hjb/asym_k"]["inputs"]), Grid(5, 1)

    def gradient(scheme):
        return jax.jit(jax.grad(lambda p: solve_hjb(p, scheme, grid).value.initial_value[7]))(problem)

    exact, found = gradient(ExplicitRK(400)), gradient(HanWong(1e-8))
    for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(found), strict=True):
        assert_close(b, a, float64=1e-6)


@pytest.mark.slow
def test_rows_of_a_table_and_a_batch_are_single_solves():
    penalties = jnp.array([0.001, 0.02, 0.5])
    batch = jax.tree.map(lambda x: jnp.broadcast_to(x, (3,)), symmetric(min_depth=0.3))
    batch = eqx.tree_at(lambda p: p.inventory_penalty, batch, penalties)
    for scheme in (HanWong(1e-6), Implicit(10), TaylorAction(1, 100)):
        if isinstance(scheme, TaylorAction):
            batch = eqx.tree_at(lambda p: p.min_depth, batch, jnp.full(3, -jnp.inf))
        together = solve(batch, scheme, Grid(4, 3))
        assert (together.result == RESULTS.successful).all()
        for i in range(3):
            one = solve(jax.tree.map(lambda x, i=i: x[i], batch), scheme, Grid(4, 3))
            assert_close(together.value.value[..., i], one.value.value, float64=1e-11)
            for name, stat in one.stats.items():
                assert_close(jnp.broadcast_to(together.stats[name], (3,))[i], stat, float64=1e-9)
        # Row 1 of 3 is the solution at a third of the horizon.
        third = eqx.tree_at(lambda p: p.horizon, jax.tree.map(lambda x: x[1], batch), jnp.asarray(4.0 / 3))
        assert_close(together.value.value[1, :, 1], solve(third, scheme, Grid(4)).value.initial_value, float64=1e-5)


@pytest.mark.slow
def test_a_row_of_nan_harms_no_other():
    good = symmetric(min_depth=0.3)
    batch = jax.tree.map(lambda x: jnp.broadcast_to(x, (2,)), good)
    grid = Grid(4, 2)
    for scheme in (HanWong(), Implicit(10), ExplicitRK(40)):

        def run(penalty, scheme=scheme):
            return solve_hjb(eqx.tree_at(lambda p: p.inventory_penalty, batch, penalty), scheme, grid)

        solution = jax.jit(run)(jnp.array([0.02, jnp.nan]))
        alone = solve(good, scheme, grid)
        first, second = (jax.tree.map(lambda x, i=i: x[i], solution.result) for i in (0, 1))
        assert first == RESULTS.successful
        assert second == RESULTS.nonfinite
        assert_close(solution.value.value[..., 0], alone.value.value, float64=1e-12)
        steps = np.broadcast_to(solution.stats["n_steps"], (2,))
        assert int(steps[0]) == int(alone.stats["n_steps"])


@pytest.mark.slow
def test_jit_vmap_and_loop_agree():
    def value(phi):
        return solve_hjb(symmetric(inventory_penalty=phi), HanWong(max_steps=64), Grid(3)).value.value

    assert_jit_vmap_loop_agree(value, jnp.array([0.001, 0.1]))


@pytest.mark.thorough
def test_too_few_steps_and_wrong_problems_are_said():
    assert solve(symmetric(), HanWong(1e-8, max_steps=16), Grid(5)).result == RESULTS.max_steps_reached
    stiff = symmetric(horizon=3600.0, inventory_penalty=1.0)
    assert solve(stiff, Implicit(4), Grid(20)).result != RESULTS.successful
    long = symmetric(horizon=3600.0, inventory_penalty=0.009)
    assert solve(long, Implicit(20), Grid(20)).result == RESULTS.policy_not_converged
    regimes = regime_problem(CASES["hjb/regimes2"]["inputs"])
    for scheme in (HanWong(), Implicit(4)):
        with pytest.raises(ValueError, match="Strang"):
            solve_hjb(regimes, scheme, Grid(2))
    with pytest.raises(ValueError, match="RegimeProblem"):
        solve_hjb(symmetric(), Strang(Implicit(1), 4), Grid(2))


def test_backward_euler_is_monotone():
    """Order 1 keeps larger penalties below and shapes intact however long the step."""
    grid = Grid(10, 4)
    tables = [solve(symmetric(inventory_penalty=p, horizon=400.0), Implicit(1, 1, 30), grid) for p in (0.01, 0.02)]
    assert (tables[0].value.value[1:] > tables[1].value.value[1:]).all()
    for table in tables:
        assert table.result == RESULTS.successful
        assert float(table.stats["concavity_violation"]) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(
    "inner",
    [Implicit(1, 2), *(pytest.param(s, marks=pytest.mark.slow) for s in (ExplicitRK(4), TaylorAction(1, 40)))],
    ids=lambda s: type(s).__name__,
)
def test_strang_splitting_has_order_two(inner):
    problem, grid = regime_problem(CASES["hjb/regimes2"]["inputs"]), Grid(4, 1)
    for zeta in (0.0, 0.4):
        one = eqx.tree_at(lambda p: p.regime_risk_aversion, problem, jnp.asarray(zeta))
        exact = solve(one, ExplicitRK(400), grid).value.initial_value
        errors = [
            float(jnp.abs(solve(one, Strang(inner, n), grid).value.initial_value - exact).max()) for n in (16, 32, 64)
        ]
        assert all(1.7 < np.log2(a / b) < 2.4 for a, b in pairwise(errors)), errors


@pytest.mark.slow
def test_a_stiff_signal_needs_no_small_steps(precision):
    """41 nodes of a fast signal: explicit steps would follow its rates, the splitting does not."""
    nodes = jnp.linspace(-1.0, 1.0, 41)
    problem = RegimeProblem(symmetric(drift=0.05 * nodes), signal_generator(nodes, 4.0, 1.0))
    grid = Grid(3, 1)
    split = solve(problem, Strang(Implicit(1), 100), grid)
    assert split.result == RESULTS.successful
    exact = solve(problem, ExplicitRK(6000), grid)
    assert exact.result == RESULTS.successful
    found, expected = (optimal_depths(problem.regimes, s.value.relative_value[-1], axis=0) for s in (split, exact))
    assert largest_difference(map(np.asarray, found), map(np.asarray, expected)) < 5e-5


@pytest.mark.slow
def test_gradients_through_the_splitting():
    grid, scheme = Grid(2), Strang(Implicit(1), 6)
    problem = regime_problem(CASES["hjb/regimes2"]["inputs"])

    def value(scale, penalty, rate):
        changed = eqx.tree_at(
            lambda p: (p.regimes.bid.scale, p.regimes.inventory_penalty, p.generator),
            problem,
            (scale, penalty, problem.generator * rate),
        )
        return solve_hjb(changed, scheme, grid).value.initial_value

    at = problem.regimes.bid.scale, problem.regimes.inventory_penalty, jnp.asarray(1.1)
    check_grads(jax.jit(value), at, order=1, modes=["fwd", "rev"], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tsit5", "kvaerno5"])
def test_diffrax_agrees_on_every_kind_of_problem(method):
    side = LogisticIntensity(1.2, 0.3, 1.5)
    problems = [
        symmetric(min_depth=0.4),
        HJBProblem(side, side, 0.02, 0.01, 4.0),
        regime_problem(CASES["hjb/regimes2"]["inputs"]),
    ]
    for problem in problems:
        grid = Grid(4, 3)
        check = solve(problem, Diffrax(method, 1e-9, 1e-9), grid)
        assert check.result == RESULTS.successful
        assert_close(check.value.value, solve(problem, ExplicitRK(300), grid).value.value, float64=1e-7)
        if isinstance(problem, HJBProblem):
            assert_close(check.value.value, solve(problem, HanWong(1e-9), grid).value.value, float64=1e-6)


@pytest.mark.slow
def test_diffrax_agrees_with_the_linear_path_and_says_when_it_stops():
    problem, grid = symmetric(), Grid(4, 2)
    check = solve(problem, Diffrax(rtol=1e-9, atol=1e-9), grid)
    assert_close(check.value.value, solve(problem, choose_scheme(problem, grid)[0], grid).value.value, float64=1e-8)
    assert solve(problem, Diffrax(max_steps=8), grid).result == RESULTS.max_steps_reached


def busy(problem):
    """Sixty times as many fills over a minute: too many for explicit steps."""
    scales = 60 * problem.regimes.bid.scale, 60 * problem.regimes.ask.scale, jnp.asarray(60.0)
    return eqx.tree_at(lambda p: (p.regimes.bid.scale, p.regimes.ask.scale, p.regimes.horizon), problem, scales)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("problem", "grid", "kind"),
    [
        (lambda: symmetric(), Grid(5), TaylorAction),
        (lambda: symmetric(min_depth=0.2), Grid(5), ExplicitRK),
        (lambda: symmetric(min_depth=0.2, horizon=3600.0), Grid(5), HanWong),
        (lambda: symmetric(min_depth=0.2, horizon=jnp.full(2, 3600.0)), Grid(5), Implicit),
        (lambda: HJBProblem(*[LogisticIntensity(1.2, 0.3, 1.5)] * 2, 0.02), Grid(5), HanWong),
        (lambda: regime_problem(CASES["hjb/regimes2"]["inputs"]), Grid(4), ExplicitRK),
        (lambda: eqx.tree_at(lambda p: p.generator, regime_problem(CASES["hjb/regimes2"]["inputs"]),
                             jnp.array([[-500.0, 500.0], [500.0, -500.0]])), Grid(4), ExplicitRK),
        (lambda: busy(regime_problem(CASES["hjb/regimes2"]["inputs"])), Grid(4), Strang),
    ],
)  # fmt: skip
def test_the_chosen_scheme_succeeds(problem, grid, kind):
    problem = problem()
    scheme, why = choose_scheme(problem, grid)
    assert isinstance(scheme, kind), why
    assert jnp.all(solve(problem, scheme, grid).result == RESULTS.successful)


@pytest.mark.parametrize("price", [1.0, 1e-4])
def test_convergence_is_judged_in_the_units_of_the_problem(price):
    problem = symmetric(
        decay=1.5 / price, inventory_penalty=0.009 * price, terminal_penalty=1e-4 * price, horizon=3600.0
    )
    assert solve(problem, Implicit(4), Grid(20)).result == RESULTS.policy_not_converged
    assert solve(problem, Implicit(200), Grid(20)).result == RESULTS.successful


@pytest.mark.parametrize("low", [-np.inf, 0.0])
def test_quotes_at_the_mid_have_an_error_to_control(low):
    solution = solve(symmetric(min_depth=low, max_depth=0.0), HanWong(), Grid(5))
    assert solution.result == RESULTS.successful
    assert_close(
        solution.value.value, solve(symmetric(min_depth=low, max_depth=0.0), ExplicitRK(400), Grid(5)).value.value, 1e-4
    )
