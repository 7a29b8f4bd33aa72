"""Regimes, signals, several assets, parameters in steps, other fill curves: reference cases, limits and symmetries."""

import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models import ExponentialIntensity, LogisticIntensity, TabulatedIntensity
from mfamm_jax.models.intensity import gate_factor
from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.closed_form import stationary_quadratic_value
from mfamm_jax.solvers.hjb import (
    BoxGrid,
    Ergodic,
    ExplicitRK,
    Grid,
    HanWong,
    HJBProblem,
    MultiAssetProblem,
    RegimeProblem,
    Strang,
    TaylorAction,
    Uniformization,
    choose_scheme,
    optimal_depths,
    signal_generator,
    solve_hjb,
    solve_intervals,
)

from ..checks import assert_close, check_grads
from .cases import CASES, regime_problem, symmetric

solve = eqx.filter_jit(solve_hjb)


def within(got, expected, case, precision, rel_float32=None):
    tolerance, suffix = case["tolerance"], "" if precision == "float64" else "_float32"
    expected = np.array(
        jax.tree.map(lambda x: np.nan if x is None else x, expected, is_leaf=lambda x: x is None), float
    )
    rel = rel_float32 if rel_float32 and suffix else tolerance["rel" + suffix]
    np.testing.assert_allclose(np.asarray(got), expected, rtol=rel, atol=tolerance["abs" + suffix])


def steps(precision, fine=600, coarse=80):
    return ExplicitRK(fine if precision == "float64" else coarse)


@pytest.mark.slow
def test_logistic_case(precision):
    case = CASES["hjb/logistic"]
    given = case["inputs"]
    side = LogisticIntensity(given["intensity_scale"], given["logit_offset"], given["decay"])
    names = ("inventory_penalty", "terminal_penalty", "horizon")
    problem = HJBProblem(side, side, **{name: given[name] for name in names})
    solution = jax.jit(lambda p: solve(p, steps(precision), Grid(given["max_inventory"])))(problem)
    assert solution.result == RESULTS.successful
    within(solution.value.initial_value, case["expected"]["value"], case, precision, 1e-4)
    bid, ask = optimal_depths(problem, solution.value.relative_value[-1])
    within(bid, case["expected"]["bid_depth"], case, precision)
    within(ask, case["expected"]["ask_depth"], case, precision)


@pytest.mark.thorough
def test_regime_case(precision):
    case = CASES["hjb/regimes2"]
    problem = regime_problem(case["inputs"])
    solution = jax.jit(lambda p: solve(p, steps(precision), Grid(case["inputs"]["max_inventory"])))(problem)
    assert solution.result == RESULTS.successful
    within(solution.value.initial_value.T, case["expected"]["value"], case, precision, 1e-4)
    bid, ask = optimal_depths(problem.regimes, solution.value.relative_value[-1], axis=0)
    within(bid.T, case["expected"]["bid_depth"], case, precision)
    within(ask.T, case["expected"]["ask_depth"], case, precision)


def intervals_of(given):
    side = ExponentialIntensity(given["ask_intensity"], given["ask_decay"])
    penalty = given["risk_aversion"] * jnp.array(given["volatility"]) ** 2
    return HJBProblem(
        side, side, penalty, given["terminal_penalty"], jnp.diff(jnp.array(given["volatility_breaks"], float))
    )


@pytest.mark.thorough
@pytest.mark.parametrize(
    "scheme", [TaylorAction(4, 40), Uniformization(8, 32), ExplicitRK(300)], ids=lambda s: type(s).__name__
)
def test_volatility_in_steps_case(scheme, precision):
    case = CASES["hjb/volatility_steps"]
    problem, grid = intervals_of(case["inputs"]), Grid(case["inputs"]["max_inventory"], 2)
    solution = jax.jit(lambda p: solve_intervals(p, scheme, grid))(problem)
    assert (solution.result == RESULTS.successful).all()
    within(solution.value.initial_value, case["expected"]["value"], case, precision, 1e-4)
    bid, ask = optimal_depths(symmetric(scale=1.2, decay=1.4), solution.value.relative_value[-1])
    within(bid, case["expected"]["bid_depth"], case, precision)
    within(ask, case["expected"]["ask_depth"], case, precision)
    assert_close(solution.value.time_left, [0, 1.5, 3, 4.5, 6, 7, 8])


@pytest.mark.thorough
def test_equal_intervals_are_one_horizon():
    one = symmetric(horizon=4.0, drift=0.01)
    parts = eqx.tree_at(lambda p: p.horizon, one, jnp.array([1.0, 3.0]))
    scheme, grid = TaylorAction(2, 40), Grid(4)
    joined = solve_intervals(parts, scheme, grid).value
    assert_close(joined.initial_value, solve(one, scheme, grid).value.initial_value, float64=1e-12)


def two_assets(given):
    assets = tuple(
        HJBProblem(
            side := ExponentialIntensity(given["intensity"][i], given["decay"][i]),
            side,
            0.0,
            given["terminal_penalty"],
            given["horizon"],
        )
        for i in range(2)
    )
    s, rho = np.array(given["volatility"]), given["correlation"]
    covariance = np.outer(s, s) * np.array([[1.0, rho], [rho, 1.0]])
    return MultiAssetProblem(assets, jnp.asarray(given["risk_aversion"] * covariance, dtype=jnp.result_type(float)))


@pytest.mark.thorough
def test_two_asset_case(precision):
    case = CASES["hjb/two_asset_neg"]
    grid = BoxGrid(tuple(case["inputs"]["max_inventory"]))
    solution = jax.jit(lambda p: solve(p, steps(precision), grid))(two_assets(case["inputs"]))
    assert solution.result == RESULTS.successful
    within(solution.value.initial_value, case["expected"]["value"], case, precision, 1e-4)


@pytest.mark.slow
def test_uncorrelated_assets_are_solved_one_by_one():
    assets = (symmetric(), symmetric(scale=0.7, decay=1.1, inventory_penalty=0.01))
    scheme = ExplicitRK(60)
    joint = solve(MultiAssetProblem(assets, jnp.zeros((2, 2))), scheme, BoxGrid((3, 2))).value.initial_value
    alone = [solve(a, scheme, Grid(q)).value.initial_value for a, q in zip(assets, (3, 2))]
    assert_close(joint, alone[0][:, None] + alone[1], float64=1e-12)


@pytest.mark.thorough
def test_three_assets_mirror():
    assets = tuple(symmetric(scale=scale) for scale in (1.0, 0.8, 0.6))
    matrix = 0.02 * jnp.array([[1.0, 0.5, -0.3], [0.5, 1.0, 0.2], [-0.3, 0.2, 1.0]])
    value = solve(MultiAssetProblem(assets, matrix), ExplicitRK(40), BoxGrid((2, 2, 1))).value.initial_value
    assert_close(value, value[::-1, ::-1, ::-1], float64=1e-12)


def test_regimes_that_never_change_are_separate_problems():
    regimes = symmetric(drift=jnp.array([-0.02, 0.0, 0.03]))
    scheme, grid = ExplicitRK(60), Grid(4)
    joint = solve(RegimeProblem(regimes, jnp.zeros((3, 3))), scheme, grid).value.initial_value
    for i, drift in enumerate((-0.02, 0.0, 0.03)):
        assert_close(joint[:, i], solve(symmetric(drift=drift), scheme, grid).value.initial_value, float64=1e-12)


def test_regime_risk_aversion_is_continuous_at_zero_and_lowers_the_value():
    problem, scheme, grid = regime_problem(CASES["hjb/regimes2"]["inputs"]), ExplicitRK(60), Grid(4)

    def value(zeta):
        return solve(eqx.tree_at(lambda p: p.regime_risk_aversion, problem, zeta), scheme, grid).value.initial_value

    neutral, tiny, averse = (value(jnp.asarray(z)) for z in (0.0, 1e-8, 0.5))
    assert_close(tiny, neutral, float64=1e-7)
    assert (averse < neutral).all()


def test_signal_chain_has_the_moments_of_the_diffusion():
    nodes = jnp.linspace(-3.0, 3.0, 61)
    generator = signal_generator(nodes, 0.8, 0.6)
    assert_close(generator.sum(axis=1), jnp.zeros(61), float64=1e-12)
    assert (generator - jnp.diag(jnp.diag(generator)) >= 0).all()
    inner = slice(10, 51)  # central differences there: exact drift and variance
    assert_close((generator @ nodes)[inner], -0.8 * nodes[inner], float64=1e-10)
    stationary = np.linalg.svd(np.asarray(generator).T)[2][-1]
    stationary = stationary / stationary.sum()
    assert stationary @ np.asarray(nodes) ** 2 == pytest.approx(0.6**2 / 1.6, rel=1e-2)


@pytest.mark.slow
def test_a_signal_skews_the_quotes_and_converges_with_its_nodes():
    def value(n):
        nodes = jnp.linspace(-1.0, 1.0, n)
        problem = RegimeProblem(symmetric(drift=0.05 * nodes), signal_generator(nodes, 1.0, 0.4))
        table = solve(problem, ExplicitRK(200), Grid(3)).value
        return optimal_depths(problem.regimes, table.relative_value[-1], axis=0)[1][3, [n // 4, n // 2, -1 - n // 4]]

    coarse, middle, fine = value(9), value(17), value(33)
    assert fine[0] < fine[1] < fine[2]  # rising prices: asks move away
    assert 2.5 < float(jnp.abs(coarse - middle).max() / jnp.abs(middle - fine).max()) < 6.0


@pytest.mark.slow
def test_gradients_through_regimes_assets_and_intervals():
    grid, scheme = Grid(2), ExplicitRK(20)
    regimes = regime_problem(CASES["hjb/regimes2"]["inputs"])
    problems = [
        (regimes, lambda p: solve(p, scheme, grid)),
        (two_assets(CASES["hjb/two_asset_neg"]["inputs"]), lambda p: solve(p, scheme, BoxGrid((1, 1)))),
        (intervals_of(CASES["hjb/volatility_steps"]["inputs"]), lambda p: solve_intervals(p, scheme, grid)),
    ]
    for problem, solution in problems:
        # Infinite depth limits stay out of the differences.
        arrays, static = eqx.partition(problem, lambda x: eqx.is_array(x) and bool(jnp.isfinite(x).all()))

        def value(arrays, static=static, solution=solution):
            return solution(eqx.combine(arrays, static)).value.initial_value.sum()

        check_grads(jax.jit(value), (arrays,), order=1, modes=["fwd", "rev"], rtol=1e-5)


@pytest.mark.thorough
def test_certificates():
    free = solve(symmetric(), ExplicitRK(60), Grid(5, 4))
    assert float(free.stats["clamp_activity"]) == 0.0
    assert float(free.stats["concavity_violation"]) < 1e-12
    assert float(free.stats["monotonicity_violation"]) < 1e-12
    clamped = solve(symmetric(min_depth=0.6), ExplicitRK(60), Grid(5, 4))
    bid, ask = optimal_depths(symmetric(min_depth=0.6), clamped.value.relative_value)
    share = float(np.mean(np.concatenate([bid[:, :-1].ravel(), ask[:, 1:].ravel()]) < 0.6 + 1e-9))
    assert float(clamped.stats["clamp_activity"]) == pytest.approx(share)
    # Too few steps: the value wiggles.
    rough = solve(symmetric(inventory_penalty=5.0), ExplicitRK(8), Grid(5, 2))
    assert (rough.result == RESULTS.unstable_step) | (rough.result == RESULTS.nonfinite)


def test_withdrawn_quotes_are_not_quoted_and_never_lower_the_value():
    shared = {"inventory_penalty": 0.4, "max_depth": 0.8, "min_depth": 0.0}
    always, optional = (symmetric(may_withdraw=w, **shared) for w in (False, True))
    scheme, grid = ExplicitRK(400), Grid(4)
    forced, free = (solve(p, scheme, grid).value for p in (always, optional))
    assert (free.initial_value >= forced.initial_value - 1e-12).all()
    assert float(free.initial_value[0] - forced.initial_value[0]) > 1e-3
    bid, _ = optimal_depths(optional, free.relative_value[-1])
    assert np.isnan(bid[-2])
    assert np.isfinite(bid[0])


@pytest.mark.thorough
def test_a_fine_table_of_ticks_tends_to_its_curve():
    curve = ExponentialIntensity(1.0, 1.5)
    errors = []
    for n in (41, 81):
        depths = jnp.linspace(-0.5, 3.5, n)
        table = TabulatedIntensity(depths, curve(depths))
        values = [
            solve(HJBProblem(side, side, 0.01, horizon=4.0), ExplicitRK(60), Grid(3)).value.initial_value
            for side in (table, curve)
        ]
        assert (values[0] <= values[1] + 1e-12).all()  # fewer choices
        errors.append(float(jnp.abs(values[0] - values[1]).max()))
    assert errors[1] < 0.4 * errors[0] < 0.01


def test_trailing_axes_solve_a_batch():
    penalties = jnp.array([0.001, 0.01, 0.1])
    scheme, grid = ExplicitRK(40), Grid(4, 3)
    batch = jax.tree.map(lambda x: jnp.broadcast_to(x, (3,)), symmetric())
    batch = eqx.tree_at(lambda p: p.inventory_penalty, batch, penalties)
    together = solve(batch, scheme, grid)

    def row(phi):
        solution = solve(symmetric(inventory_penalty=phi), scheme, grid)
        return solution.value.value, solution.stats

    values, stats = jax.vmap(row)(penalties)
    assert_close(jnp.moveaxis(together.value.value, -1, 0), values, float64=1e-12)
    assert_close(together.stats["rate_step"], stats["rate_step"], float64=1e-12)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: RegimeProblem(symmetric(), jnp.array([[-1.0, 0.5], [1.0, -1.0]])), "row 0 sums to -0.5"),
        (lambda: RegimeProblem(symmetric(), jnp.array([[1.0, -1.0], [1.0, -1.0]])), "negative rate"),
        (lambda: MultiAssetProblem((symmetric(),) * 2, jnp.array([[1.0, 2.0], [2.0, 1.0]])), "positive semidefinite"),
        (lambda: MultiAssetProblem((symmetric(), symmetric(horizon=5.0)), jnp.eye(2)), "one horizon"),
        (lambda: BoxGrid((0, 2)), "max_inventories"),
        (lambda: RegimeProblem(symmetric(), jnp.array([[-1e-6, 5e-6], [1e-6, -1e-6]])), "row 0 sums to 4e-06"),
        (lambda: RegimeProblem(symmetric(drift=jnp.zeros(3)), jnp.zeros((2, 2))), "2 regimes"),
        (
            lambda: solve_hjb(MultiAssetProblem((symmetric(),) * 2, jnp.eye(2)), ExplicitRK(4), BoxGrid((2,))),
            "one per asset",
        ),
        (lambda: symmetric(horizon=jnp.inf), "horizon is infinite"),
        (lambda: symmetric(min_depth=jnp.inf), "min_depth"),
        (lambda: signal_generator(jnp.array([0.0, jnp.nan]), 0.1, 1.0), "equal steps"),
        (lambda: stationary_quadratic_value(jnp.array([[1.0, 2.0], [2.0, 1.0]]), jnp.ones(2)), "positive semidefinite"),
        (lambda: choose_scheme(symmetric(), Grid(2), Strang), "RegimeProblem"),
        (
            lambda: choose_scheme(symmetric(terminal_penalty=1.0, max_depth=2.0), Grid(20), ExplicitRK),
            "terminal_penalty",
        ),
        (lambda: Ergodic().solve(symmetric(drift=jnp.zeros(3)), Grid(2)), "vmap"),
        (lambda: choose_scheme(RegimeProblem(symmetric(), jnp.zeros((2, 2))), Grid(2), TaylorAction), "RegimeProblem"),
        (lambda: symmetric(min_depth=1.0, max_depth=0.5), "min_depth"),
        (lambda: signal_generator(jnp.linspace(-1.0, 1.0, 5), -0.1, 1.0), "mean_reversion"),
        (lambda: signal_generator(jnp.array([0.0, 1.0, 3.0]), 0.1, 1.0), "equal steps"),
    ],
)
def test_absurd_problems_are_refused_by_name(build, name):
    with pytest.raises(ValueError, match=name):
        build()


@pytest.mark.thorough
def test_a_table_without_an_allowed_node_is_withdrawn():
    table = TabulatedIntensity(jnp.array([0.5, 1.0]), jnp.array([1.0, 0.5]))
    problem = HJBProblem(table, ExponentialIntensity(1.0, 1.5), 0.02, max_depth=0.4, may_withdraw=True)
    solution = solve(problem, ExplicitRK(60), Grid(3))
    bid, ask = optimal_depths(problem, solution.value.relative_value[-1])
    assert solution.result == RESULTS.successful
    assert np.isnan(bid).all()
    assert np.isfinite(ask[4:]).all()


@pytest.mark.thorough
def test_a_steep_terminal_penalty_is_left_to_adaptive_steps():
    steep = symmetric(terminal_penalty=1.0, max_depth=2.0, horizon=jnp.full(2, 5.0))
    scheme, why = choose_scheme(steep, Grid(10))
    assert isinstance(scheme, HanWong), why
    assert (solve(steep, scheme, Grid(10)).result == RESULTS.successful).all()
    assert isinstance(choose_scheme(symmetric(terminal_penalty=2.0, horizon=5.0), Grid(20))[0], HanWong)


def test_toxic_flow_reduces_intensity_in_the_equation_as_in_the_quotes():
    """The gate at its reduced size is the problem with that share of the fills."""
    side = ExponentialIntensity(1.2, 1.5)
    gated = side.scaled(gate_factor(jnp.asarray(0.9), jnp.asarray(0.7), jnp.asarray(0.0), jnp.asarray(0.25)))
    half = HJBProblem(gated, gated, 0.02)
    by_hand = HJBProblem(*[ExponentialIntensity(0.3, 1.5)] * 2, 0.02)
    values = [solve(p, TaylorAction(1, 60), Grid(3)).value.initial_value for p in (half, by_hand)]
    assert_close(values[0], values[1], float64=1e-12)


WRONG_KINDS = """
from mfamm_jax import ExponentialIntensity, Grid, HJBProblem, Implicit
from mfamm_jax.solvers.hjb import fluid_limit
side = ExponentialIntensity(1.0, 1.5)
for build, name in (
    (lambda: HJBProblem(None, side, 0.01), "bid is None"),
    (lambda: Grid(2.5), "max_inventory is 2.5"),
    (lambda: Implicit(4, order=3), "order is 3"),
    (lambda: fluid_limit(HJBProblem(side, side, 0.01), Grid(2), 1.5), "cells_per_lot is 1.5"),
):
    try:
        build()
    except ValueError as error:
        assert name in str(error), error
    else:
        raise AssertionError(name)
"""


def test_values_of_the_wrong_kind_are_refused_by_name():
    """In a process of its own: here types are checked before our checks are reached."""
    done = subprocess.run([sys.executable, "-c", WRONG_KINDS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
