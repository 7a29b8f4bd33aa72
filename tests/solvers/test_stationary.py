"""Stationary, fluid and quadratic forms: reference values, closed forms and each other."""

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models import ExponentialIntensity
from mfamm_jax.models.intensity import utility
from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.closed_form import (
    ambiguity_penalties,
    avellaneda_stoikov_depths,
    cartea_jaimungal_value,
    fluid_stationary_slope,
    hamiltonian_curvature,
    hamiltonian_slope,
    matrix_quadratic_value,
    quadratic_skew,
    quadratic_value,
    stationary_depths,
    stationary_quadratic_value,
)
from mfamm_jax.solvers.hjb import Ergodic, Grid, HJBProblem, choose_scheme, fluid_limit, optimal_depths, solve_hjb
from mfamm_jax.solvers.hjb.ergodic import generator

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads
from .cases import CASES, REFERENCE
from .cases import symmetric as any_symmetric

solve = eqx.filter_jit(solve_hjb)


def symmetric(**changes):
    return any_symmetric(**{"inventory_penalty": 0.009, "horizon": 10.0} | changes)


@pytest.mark.thorough
def test_ergodic_case(precision):
    expected = CASES["hjb/erg_rb1"]["expected"]
    problem, grid = symmetric(), Grid(5)
    solution = jax.jit(lambda p: solve(p, Ergodic(), grid))(problem)
    assert solution.result == RESULTS.successful
    tolerance = {"float64": 1e-10, "float32": 1e-5}
    assert_close(solution.stats["gain"], expected["ergodic_value"], **tolerance)
    assert_close(solution.value.relative_value[-1], expected["relative_value"], **tolerance)
    for depths, name in zip(optimal_depths(problem, solution.value.relative_value[-1]), ("bid_depth", "ask_depth")):
        assert_close(depths, [np.nan if x is None else x for x in expected[name]], **tolerance)
    slope = jax.grad(lambda phi: solve(symmetric(inventory_penalty=phi), Ergodic(), grid).stats["gain"])
    got = slope(jnp.asarray(0.009))
    rel = 1e-7 if precision == "float64" else 1e-3
    assert float(got) == pytest.approx(expected["d_ergodic_value_d_inventory_penalty"], rel=rel)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "changes",
    [{}, {"drift": 0.02, "fill_risk_aversion": 0.2}, {"min_depth": 0.3, "max_depth": 1.2}, {"inventory_penalty": 2.0}],
)
def test_long_horizons_tend_to_the_ergodic_solution(changes):
    problem, grid = symmetric(horizon=120.0, **changes), Grid(6, 2)
    stationary = solve(problem, Ergodic(), grid)
    assert stationary.result == RESULTS.successful
    moving = solve(problem, choose_scheme(problem, grid)[0], grid).value
    assert_close(moving.relative_value[-1], stationary.value.relative_value[-1], float64=1e-6)
    gain = (moving.offset[-1] - moving.offset[-2]) / 60.0
    assert_close(gain, stationary.stats["gain"], float64=1e-6)


@pytest.mark.thorough
def test_derivative_of_the_gain_is_the_mean_of_the_derivative_of_the_reward():
    problem = symmetric(min_depth=0.2, drift=0.01)
    value = solve(problem, Ergodic(), Grid(6)).value.relative_value[-1]
    law = np.linalg.svd(np.asarray(generator(problem, value)).T)[2][-1]
    law = law / law.sum()
    q = np.arange(-6, 7)
    gradient = jax.grad(lambda p: solve(p, Ergodic(), Grid(6)).stats["gain"])(problem)
    assert_close(gradient.inventory_penalty, -law @ q**2, float64=1e-9)
    assert_close(gradient.drift, law @ q, float64=1e-9)


@pytest.mark.thorough
def test_gradients_of_the_stationary_quotes():
    def depths(decay, penalty, scale):
        sides = ExponentialIntensity(scale, decay), ExponentialIntensity(1.2, 1.3)
        problem = HJBProblem(*sides, penalty)
        value = solve(problem, Ergodic(), Grid(4)).value.relative_value[-1]
        return [d[2:-2] for d in optimal_depths(problem, value)]

    check_grads(jax.jit(depths), tuple(map(jnp.asarray, (1.5, 0.02, 0.8))), order=1, modes=["fwd", "rev"], rtol=1e-5)


@pytest.mark.thorough
def test_two_hundred_lots_and_a_too_short_iteration():
    solution = solve(symmetric(), Ergodic(30), Grid(200))
    assert solution.result == RESULTS.successful
    assert float(solution.stats["concavity_violation"]) < 1e-8
    assert solve(symmetric(), Ergodic(1), Grid(20)).result == RESULTS.policy_not_converged


@pytest.mark.thorough
def test_jit_vmap_and_loop_agree():
    def gain(phi):
        return solve(symmetric(inventory_penalty=phi), Ergodic(), Grid(3)).stats["gain"]

    assert_jit_vmap_loop_agree(gain, jnp.array([0.001, 0.01, 0.1]))


def test_fluid_slope_case(precision):
    expected = CASES["hjb/fluid_erg"]["expected"]
    slope = fluid_stationary_slope(ExponentialIntensity(1.0, 1.5), 0.009, jnp.arange(6.0))
    assert_close(-slope, expected["minus_value_slope"], float64=1e-11, float32=1e-6)


@pytest.mark.slow
def test_fluid_scheme_converges_to_the_closed_form_with_order_one():
    exact = float(fluid_stationary_slope(ExponentialIntensity(1.0, 1.5), 0.009, jnp.asarray(2.0)))
    errors = []
    for cells in (1, 2, 4, 8):
        problem, grid = fluid_limit(symmetric(), Grid(10), cells)
        value = solve(problem, Ergodic(40), grid).value.relative_value[-1]
        node = 10 * cells + 2 * cells
        # Mean of the two one-sided slopes: the jump premia of the refined problem.
        errors.append(float(value[node + 1] - value[node]) - exact)
    assert all(1.8 < a / b < 2.2 for a, b in pairwise(errors)), errors


def test_one_cell_per_lot_is_the_jump_equation():
    problem, grid = fluid_limit(symmetric(drift=0.01), Grid(4), 1)
    assert_close(
        solve(problem, Ergodic(), grid).stats["gain"],
        solve(symmetric(drift=0.01), Ergodic(), grid).stats["gain"],
    )


def test_quadratic_value_case_and_its_equation():
    case = REFERENCE["riccati1"]
    curvature = 2 * hamiltonian_curvature(ExponentialIntensity(case["Lambda"], case["k"]))
    got = quadratic_value(case["phi"], case["alpha"], curvature, case["T"])
    assert_close(got, case["B"], float64=1e-11)
    slope = jax.grad(lambda t: quadratic_value(0.02, 0.01, curvature, t))(jnp.asarray(1.3))
    value = quadratic_value(0.02, 0.01, curvature, jnp.asarray(1.3))
    assert_close(slope, 2 * 0.02 - curvature * value**2, float64=1e-12)


def test_many_asset_form_solves_its_equation_and_contains_one_asset():
    given = CASES["hjb/two_asset_neg"]["inputs"]
    s, rho = np.array(given["volatility"]), given["correlation"]
    matrix = given["risk_aversion"] * np.outer(s, s) * np.array([[1, rho], [rho, 1]])
    curvature = jnp.array(
        [2 * hamiltonian_curvature(ExponentialIntensity(a, k)) for a, k in zip(given["intensity"], given["decay"])]
    )
    got = stationary_quadratic_value(jnp.asarray(matrix), curvature)
    assert_close(2 * got @ jnp.diag(curvature) @ got, matrix, float64=1e-14)
    single = stationary_quadratic_value(jnp.array([[0.009]]), curvature[:1])[0, 0]
    assert_close(2 * single, quadratic_value(0.009, 0.0, curvature[0], 1e6), float64=1e-12)


def test_stationary_depths_are_the_quadratic_ones():
    side = ExponentialIntensity(140.0, 1.5)
    curvature = 2 * hamiltonian_curvature(side, 0.1)
    half = quadratic_value(0.2, 0.0, curvature, 1e6) / 2
    bid, ask = stationary_depths(side, 0.2, jnp.array([0.0, 3.0]), 0.1)
    assert_close(bid - ask, 4 * half * jnp.array([0.0, 3.0]), float64=1e-10)


def test_ambiguity_is_the_worst_case_of_an_entropic_adversary():
    phi, xi = ambiguity_penalties(0.4, 0.7, 0.3)
    drifts = np.linspace(-1, 1, 200001)
    for q in (1.0, 3.0):
        worst = (drifts * q + drifts**2 / (2 * 0.4 * 0.3**2)).min()
        assert_close(-phi * q**2, worst, float64=1e-8)
    margin, factor = 0.8, np.linspace(1e-6, 3, 300001)
    worst = (factor * margin + (factor * np.log(factor) - factor + 1) / 0.7).min()
    assert_close(utility(jnp.asarray(margin), xi), worst, float64=1e-8)


@pytest.mark.parametrize("terminal", [0.0, 0.05, 3.0])
def test_quadratic_skew_obeys_its_equation(terminal):
    """Terminal penalties below and above the stationary curvature; the equation by differentiation, c(0) = 0."""
    bid, ask = ExponentialIntensity(1.2, 1.4), ExponentialIntensity(0.7, 1.7)
    terms = [(hamiltonian_slope(s), hamiltonian_curvature(s)) for s in (bid, ask)]

    def skew(t):
        return quadratic_skew(0.02, terminal, 0.03, *terms, t)

    curvature = terms[0][1] + terms[1][1]
    for t in (0.0, 0.4, 2.0, 30.0):
        t = jnp.asarray(t)
        value = quadratic_value(0.02, terminal, curvature, t)
        expected = 0.03 - curvature * value * skew(t) + value * (terms[0][0] - terms[1][0])
        expected = expected + value**2 * (terms[0][1] - terms[1][1]) / 2
        assert_close(jax.grad(skew)(t), expected, float64=1e-11)
    assert_close(skew(jnp.asarray(0.0)), 0.0, float64=1e-14)
    assert np.isfinite(skew(jnp.asarray(1e5)))


def test_quadratic_quotes_approach_the_exact_ones_when_fills_are_frequent():
    """Lambda = 140, k = 1.5, sigma = 2: figures worked out apart, error below 1e-3."""
    side = ExponentialIntensity(140.0, 1.5)
    problem, grid = HJBProblem(side, side, 0.2, 0.0, horizon=1.0, drift=0.05, fill_risk_aversion=0.1), Grid(20)
    exact = solve(problem, choose_scheme(problem, grid)[0], grid).value.relative_value[-1]
    bid, ask = (d[20] for d in optimal_depths(problem, exact))
    terms = hamiltonian_slope(side, 0.1), hamiltonian_curvature(side, 0.1)
    c = quadratic_skew(0.2, 0.0, 0.05, terms, terms, 1.0)
    half = quadratic_value(0.2, 0.0, 2 * terms[1], 1.0) / 2
    margin = side.natural_margin(jnp.asarray(0.1))
    assert_close(jnp.stack([margin - c + half, margin + c + half]), jnp.stack([bid, ask]), float64=1e-3)


@pytest.mark.thorough
def test_matrix_riccati_in_finite_time():
    matrix = 0.02 * jnp.array([[1.0, 0.5, -0.3], [0.5, 1.0, 0.2], [-0.3, 0.2, 1.0]])
    curvature, terminal = jnp.array([1.0, 0.7, 1.6]), jnp.array([0.01, 0.3, 0.0])

    def value(t):
        return matrix_quadratic_value(matrix, curvature, terminal, t)

    for t in (0.0, 0.7, 9.0):
        a = value(jnp.asarray(t))
        assert_close(jax.jacfwd(value)(jnp.asarray(t)), matrix - 2 * a @ jnp.diag(curvature) @ a, float64=1e-12)
    assert_close(value(jnp.asarray(0.0)), jnp.diag(terminal), float64=1e-14)
    assert_close(value(jnp.asarray(1e4)), stationary_quadratic_value(matrix, curvature), float64=1e-12)
    one = matrix_quadratic_value(matrix[:1, :1], curvature[:1], terminal[:1], 2.0)
    assert_close(2 * one[0, 0], quadratic_value(0.02, 0.01, 1.0, 2.0), float64=1e-12)
    flat = matrix_quadratic_value(jnp.zeros((1, 1)), curvature[:1], jnp.array([0.3]), 2.0)
    assert_close(flat[0, 0], 0.3 / (1 + 2 * 0.3 * 2.0), float64=1e-12)


def test_cartea_jaimungal_value_is_the_solvers():
    bid, ask = ExponentialIntensity(1.2, 1.5), ExponentialIntensity(0.8, 1.5)
    problem, grid = HJBProblem(bid, ask, 0.02, 0.05, horizon=4.0), Grid(5)
    exact = solve(problem, choose_scheme(problem, grid)[0], grid).value.initial_value
    assert_close(cartea_jaimungal_value(1.2, 0.8, 1.5, 0.02, 0.05, 4.0, 5), exact, float64=1e-11)


@pytest.mark.thorough
def test_avellaneda_stoikov_depths_are_centred_on_the_reservation_price():
    """Half the published spread around s - q gamma sigma^2 tau; the exact quotes skew less."""
    q = jnp.arange(-3.0, 4.0)
    bid, ask = avellaneda_stoikov_depths(0.1, 2.0, 1.5, q, 1.0)
    assert_close((ask - bid) / 2, -q * 0.1 * 4.0, float64=1e-14)
    assert_close(ask + bid, 0.4 + 20 * np.log1p(0.1 / 1.5) * np.ones(7), float64=1e-12)
    side = ExponentialIntensity(140.0, 1.5)
    problem, grid = HJBProblem(side, side, 0.2, 0.0, horizon=1.0, fill_risk_aversion=0.1), Grid(10)
    exact = optimal_depths(problem, solve(problem, choose_scheme(problem, grid)[0], grid).value.relative_value[-1])
    assert float(bid[3]) == pytest.approx(0.845, abs=1e-3)
    assert float(exact[0][10]) == pytest.approx(0.672, abs=1e-3)
