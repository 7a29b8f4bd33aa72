import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.transport import solve_transport

from ..checks import assert_close
from .test_transport import problem

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ott-jax imports jaxopt, which announces its retirement
    from mfamm_jax.solvers.transport_ott import solve_by_ott, solve_low_rank

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.thorough
@pytest.mark.parametrize("penalties", [(np.inf, np.inf), (0.5, 2.0), (np.inf, 0.3)])
def test_two_solvers_have_the_same_plan_potentials_and_values(penalties):
    cost, source, sink = problem()
    given = {"source_penalty": penalties[0], "sink_penalty": penalties[1]}
    ours, theirs = (f(cost, source, sink, 0.1, **given) for f in (solve_transport, solve_by_ott))
    assert theirs.result == RESULTS.successful
    assert float(theirs.stats["marginal_error"]) <= 1e-12
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-9), ours.value, theirs.value)


@pytest.mark.slow
def test_two_ways_to_the_derivatives_of_the_plan():
    cost, source, sink = problem(4, 3)
    weights = jnp.asarray(np.random.default_rng(1).standard_normal((4, 3)))

    def slope(solver, **given):
        return jax.grad(lambda c: jnp.sum(weights * solver(c, source, sink, 0.2, **given).value.plan))(cost)

    assert_close(slope(solve_transport, plan_gradient=True), slope(solve_by_ott), 1e-6)


@pytest.mark.slow
def test_low_rank_plans_cost_less_the_higher_the_rank():
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(80, 2))), jnp.asarray(0.5 * rng.normal(size=(100, 2)) + 1)
    source, sink = jnp.full(80, 1 / 80), jnp.full(100, 1 / 100)
    cost = jnp.sum((x[:, None] - y[None]) ** 2, axis=-1)
    best = solve_transport(cost, source, sink, 0.01).value.linear_cost
    costs = [jnp.sum(cost) / 8000]
    for rank in (2, 5, 20):
        solution = solve_low_rank(x, y, source, sink, rank, key=jax.random.key(0))
        assert solution.result == RESULTS.successful
        found = solution.value
        plan = (found.source_factor / found.weights) @ found.sink_factor.T
        assert_close(jnp.sum(plan, axis=1), source, 2e-5)
        assert_close(jnp.sum(plan, axis=0), sink, 2e-5)
        assert_close(found.linear_cost, jnp.sum(plan * cost), 1e-9)
        costs.append(found.linear_cost)
    assert [float(c) for c in costs] == sorted(map(float, costs), reverse=True)
    assert float(costs[-1]) > float(best)
