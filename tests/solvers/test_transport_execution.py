import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from scipy.optimize import minimize

from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.transport import solve_transport
from mfamm_jax.solvers.transport_execution import SlotCosts, impact_cost, kyle_matrix, plan_execution

from ..checks import assert_close, assert_jit_vmap_loop_agree

REGULARIZATION = 0.1


def problem(n=3, m=4, seed=0):
    rng = np.random.default_rng(seed)
    half = rng.standard_normal((n, n))
    impact = half @ half.T / n + 0.1 * np.eye(n)
    decay = np.exp(-0.7 * np.abs(np.subtract.outer(np.arange(m), np.arange(m))))
    source, sink = rng.random(n) + 0.2, rng.random(m) + 0.2
    parts = rng.random((n, m)), source / source.sum(), sink / sink.sum(), impact, decay
    return tuple(jnp.asarray(x) for x in parts)


run = jax.jit(plan_execution, static_argnames=("mode", "max_rounds"))


def objective(plan, cost, source, sink, impact, decay):
    product = np.outer(source, sink)
    mutual = 0.5 * np.sum(plan * (np.asarray(impact) @ plan @ np.asarray(decay)))
    return np.sum(plan * np.asarray(cost)) + mutual + REGULARIZATION * np.sum(plan * np.log(plan / product))


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [0, 1])
def test_the_full_plan_is_the_constrained_minimum(seed):
    parts = problem(seed=seed)
    source, sink = parts[1:3]
    solution = run(*parts, regularization=REGULARIZATION)
    assert solution.result == RESULTS.successful
    constraints = [
        {"type": "eq", "fun": lambda x: x.reshape(3, 4).sum(axis=1) - np.asarray(source)},
        {"type": "eq", "fun": lambda x: x.reshape(3, 4).sum(axis=0)[:-1] - np.asarray(sink)[:-1]},
    ]
    best = minimize(
        lambda x: objective(x.reshape(3, 4), *parts),
        np.outer(source, sink).ravel(),
        bounds=[(1e-12, 1)] * 12,
        constraints=constraints,
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert abs(float(solution.value.objective) - best.fun) < 1e-8
    assert_close(solution.value.transport.plan.ravel(), best.x, 1e-4)
    plan = np.asarray(solution.value.transport.plan)
    assert_close(solution.value.objective, objective(plan, *parts), 1e-9)
    found = solution.value
    assert_close(found.linear_cost + found.impact_cost + found.entropy_cost, found.objective, 1e-9)


@pytest.mark.slow
def test_knowing_the_impact_costs_less_than_freezing_it():
    parts = problem()
    full, frozen = (run(*parts, regularization=REGULARIZATION, mode=mode).value for mode in ("full", "frozen"))
    alone = solve_transport(*parts[:3], REGULARIZATION).value.plan
    assert float(full.objective) < float(frozen.objective) < objective(np.asarray(alone), *parts) + 1e-12
    nothing = run(*parts[:3], jnp.zeros((3, 3)), parts[4], regularization=REGULARIZATION).value
    assert_close(nothing.transport.plan, alone, 1e-10)


@pytest.mark.thorough
def test_derivatives_of_the_objective_are_those_of_finite_differences():
    parts = problem()

    def value(*parts):
        return run(*parts, regularization=REGULARIZATION).value.objective

    slopes, step, rng = jax.grad(value, argnums=(0, 3, 4))(*parts), 1e-5, np.random.default_rng(0)
    for slope, i in zip(slopes, (0, 3, 4)):
        along = rng.standard_normal(parts[i].shape)
        along = jnp.asarray(along + along.T if i else along)
        up, down = ([p + s * step * along if j == i else p for j, p in enumerate(parts)] for s in (1, -1))
        assert_close(jnp.sum(slope * along), (value(*up) - value(*down)) / (2 * step), 1e-6)


def test_no_round_trip_makes_money():
    """The impact cost of trades that sum to zero over slots is never negative."""
    _, _, _, impact, decay = problem(4, 6)
    rng = np.random.default_rng(4)
    for _ in range(200):
        trades = rng.standard_normal((4, 6))
        trades -= trades.mean(axis=1, keepdims=True)
        assert float(impact_cost(jnp.asarray(trades), impact, decay)) >= -1e-12


def test_the_kyle_matrix_solves_its_equation():
    for seed in range(3):
        rng = np.random.default_rng(seed)
        flow, moves = (x @ x.T + 0.05 * np.eye(3) for x in rng.standard_normal((2, 3, 3)))
        found = np.asarray(kyle_matrix(jnp.asarray(flow), jnp.asarray(moves)))
        assert_close(found @ flow @ found, moves, 1e-9)
        assert_close(found, found.T, 1e-12)
        assert np.linalg.eigvalsh(found)[0] > 0
        root = scipy.linalg.sqrtm(flow)
        inverse = np.linalg.inv(root)
        assert_close(found, np.real(inverse @ scipy.linalg.sqrtm(root @ moves @ root) @ inverse), 1e-8)


def test_own_costs_by_hand():
    costs = SlotCosts(
        half_spread=jnp.array([1.0, 2.0]),
        fee=jnp.array([0.1, 0.2, 0.3]),
        temporary_impact=jnp.array([4.0, 6.0]),
        volume=jnp.array([[1.0, 2.0, 4.0], [2.0, 2.0, 3.0]]),
        variance=jnp.array([0.5, 0.25]),
        time=jnp.array([0.0, 1.0, 2.0]),
        risk_aversion=2.0,
    )
    assert_close(costs.matrix(), np.array([[5.1, 4.2, 4.3], [5.1, 5.7, 5.3]]))
    with pytest.raises(ValueError, match=r"SlotCosts\.volume is 0, expected > 0"):
        SlotCosts(jnp.ones(1), jnp.ones(1), jnp.ones(1), jnp.zeros((1, 1)), jnp.ones(1), jnp.ones(1))


@pytest.mark.thorough
def test_float32_and_jit_vmap_loop():
    with jax.enable_x64(False):
        single = [x.astype(jnp.float32) for x in problem()]
        found = run(*single, regularization=REGULARIZATION)
        assert found.result == RESULTS.successful
        objective32 = float(found.value.objective)
    double = run(*problem(), regularization=REGULARIZATION).value.objective
    assert abs(objective32 - float(double)) < 1e-5
    batch = [jnp.stack(x) for x in zip(*(problem(seed=s) for s in range(3)))]
    assert_jit_vmap_loop_agree(lambda *p: run(*p, regularization=REGULARIZATION).value.objective, *batch, float64=1e-9)


def test_what_makes_no_sense_is_said():
    cost, source, sink, impact, decay = problem()
    for bad, text in (
        ((impact.at[0, 1].add(1.0), decay), "impact is not symmetric: round trips would make money"),
        ((impact - 5 * jnp.eye(3), decay), "impact has the eigenvalue"),
        ((impact, decay.at[0, 0].set(jnp.nan)), "decay is not finite"),
    ):
        with pytest.raises(ValueError, match=text):
            plan_execution(cost, source, sink, *bad, regularization=0.1)
    with pytest.raises((ValueError, TypeError), match="frozen"):
        plan_execution(cost, source, sink, impact, decay, 0.1, mode="icy")
    with pytest.raises(ValueError, match="flow_covariance is singular"):
        kyle_matrix(jnp.ones((2, 2)), jnp.eye(2))


@pytest.mark.slow
def test_masses_other_than_one_are_priced_alike_in_both_modes():
    """Without cross impact both modes solve one problem; twice the mass at half the price per unit is the same plan twice."""
    rng = np.random.default_rng(3)
    cost, source, sink = jnp.asarray(rng.random((3, 4))), jnp.full(3, 2 / 3), jnp.full(4, 0.5)
    none = jnp.zeros((3, 3)), jnp.zeros((4, 4))
    full, frozen = (
        plan_execution(cost, source, sink, *none, regularization=0.2, mode=m).value for m in ("full", "frozen")
    )
    assert_close(full.objective, frozen.objective, 1e-9)
    assert_close(frozen.objective, frozen.transport.value, 1e-9)
    assert_close(frozen.linear_cost + frozen.entropy_cost, frozen.objective, 1e-9)


@pytest.mark.thorough
@pytest.mark.parametrize("times", [10.0, 300.0])
def test_impact_far_stronger_than_the_regularization_converges(times):
    """Where halfway steps would oscillate: the condition of the minimum, C + Lambda pi G + lambda log(pi/mu nu) = f + g, holds."""
    rng = np.random.default_rng(4)
    cost, root = jnp.asarray(rng.random((3, 5))), rng.standard_normal((3, 3))
    impact = jnp.asarray(times * (root @ root.T))
    gaps = jnp.abs(jnp.arange(5.0)[:, None] - jnp.arange(5.0))
    source, sink = jnp.full(3, 1 / 3), jnp.full(5, 0.2)
    solution = run(cost, source, sink, impact, jnp.exp(-gaps), 0.05)
    assert solution.result == RESULTS.successful
    plan = solution.value.transport.plan
    slope = cost + impact @ plan @ jnp.exp(-gaps) + 0.05 * jnp.log(plan / (source[:, None] * sink))
    rest = slope - slope.mean(axis=1, keepdims=True)
    assert_close(rest - rest.mean(axis=0), 0.0, 1e-7)
