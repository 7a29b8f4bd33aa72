import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.linalg import toeplitz
from scipy.optimize import minimize

from mfamm_jax.models.impact import ExponentialKernel, InstantImpact, PowerKernel, ShiftedPowerKernel, trading_cost
from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.schedule import best_schedule
from mfamm_jax.solvers.schedule_search import search_schedule

from ..checks import assert_close

N = 12
LINEAR, CONCAVE = (1.0, 1.0), (1.0, 0.5)


def kernel_of(name):
    if name == "exponential":
        return ExponentialKernel(jnp.asarray([1.0, 0.3]), jnp.asarray([2.0, 0.1]))
    return PowerKernel(0.5) if name == "power" else ShiftedPowerKernel(1.0, 0.2, 0.5)


def search(kernel, impact, shares=1.0, half_spread=0.0, **given):
    run = jax.jit(
        lambda x: search_schedule(
            kernel, InstantImpact(*impact), x, 1.0, half_spread, jax.random.key(0), n_steps=N, **given
        )
    )
    return run(jnp.asarray(shares))


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["exponential", "power", pytest.param("shifted", marks=pytest.mark.slow)])
@pytest.mark.parametrize("precision", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
def test_under_linear_impact_it_finds_the_quadratic_programme(name, precision):
    with jax.enable_x64(precision == "float64"):
        kernel = kernel_of(name)
        # x' W x / h with W symmetric: the cost of shares x, one step of length h each.
        weights = kernel.mean_weights(jnp.asarray(1 / N), N).at[0].multiply(2)
        exact = best_schedule(toeplitz(weights) * N, jnp.asarray(2.0))
        solution = search(kernel, LINEAR, 2.0, may_reverse=True, n_starts=2)
        assert solution.result == RESULTS.successful
        # The search stops at a gradient of 1e-3 in float32.
        assert_close(solution.value.cost, exact.cost, 1e-7, 1e-3)
        if precision == "float64":  # the minimum is flat
            assert_close(solution.value.rates / N, exact.trades, 5e-3)
        assert_close(jnp.sum(solution.value.rates) / N, 2.0, 1e-12, 1e-5)


@pytest.mark.thorough
def test_without_reversals_it_agrees_with_a_solver_that_knows_bounds():
    kernel = kernel_of("exponential")
    found = search(kernel, LINEAR, n_starts=3).value
    weights = np.asarray(kernel.mean_weights(jnp.asarray(1 / N), N).at[0].multiply(2)) * N
    matrix = np.asarray(toeplitz(jnp.asarray(weights)))
    other = minimize(
        lambda x: 0.5 * x @ matrix @ x,
        np.full(N, 1 / N),
        jac=lambda x: matrix @ x,
        bounds=[(0, None)] * N,
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1, "jac": np.ones_like},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert float(found.sold_share) == 0
    assert (np.asarray(found.rates) >= 0).all()
    assert_close(found.cost, other.fun, 1e-6)


@pytest.mark.slow
def test_concave_impact_is_cheaper_in_bursts_and_never_pays_where_it_is_admissible():
    """The order's cost stays positive, with reversals too: gamma + delta = 1, gamma above 0.415."""
    kernel, even = kernel_of("power"), jnp.ones(N)
    evenly = trading_cost(even, 1 / N, kernel, InstantImpact(*CONCAVE), 0.05)
    forward = search(kernel, CONCAVE, half_spread=0.05).value
    both = search(kernel, CONCAVE, half_spread=0.05, may_reverse=True).value
    assert 0.05 < float(both.cost) < float(forward.cost) < 0.8 * float(evenly)
    assert float(both.sold_share) > 0.1
    assert int(jnp.sum(forward.rates > 1e-3)) < N
    assert_close(forward.cost, trading_cost(forward.rates, 1 / N, kernel, InstantImpact(*CONCAVE), 0.05), 1e-12)


@pytest.mark.thorough
def test_a_model_that_pays_for_round_trips_is_found_out():
    solution = search(kernel_of("shifted"), CONCAVE, may_reverse=True)
    assert solution.result == RESULTS.paid_to_trade
    assert float(solution.value.cost) < 0
    spread_helps_only_so_far = search(kernel_of("shifted"), CONCAVE, half_spread=0.01)
    assert spread_helps_only_so_far.result == RESULTS.successful


@pytest.mark.thorough
def test_selling_is_buying_mirrored_and_costs_scale():
    kernel = kernel_of("exponential")
    bought, sold = search(kernel, LINEAR, 1.0, n_starts=2).value, search(kernel, LINEAR, -3.0, n_starts=2).value
    assert_close(sold.rates, -3 * bought.rates, 5e-3)
    assert_close(sold.cost, 9 * bought.cost, 1e-7)


@pytest.mark.thorough
def test_derivatives_of_the_cost_are_those_of_the_minimum():
    """Central differences of the whole search; the programme moves too, at no cost to first order. Error of the search 1e-6, divided by the step."""

    def cost(numbers):
        exponent, scale, shares, horizon, half_spread = numbers
        impact = InstantImpact(scale, 0.8)
        found = search_schedule(
            PowerKernel(exponent), impact, shares, horizon, half_spread, jax.random.key(0), n_steps=6, n_starts=2
        )
        return found.value.cost

    at = jnp.asarray([0.45, 1.3, 2.0, 1.5, 0.05])
    exact, evaluate = jax.jit(jax.grad(cost))(at), jax.jit(cost)
    for i in range(5):
        step = jnp.zeros(5).at[i].set(1e-3)
        assert_close(exact[i], (evaluate(at + step) - evaluate(at - step)) / 2e-3, 1e-4)


@pytest.mark.slow
def test_many_orders_at_once():
    kernel = kernel_of("power")

    def cost(half_spread):
        impact = InstantImpact(*CONCAVE)
        return search_schedule(kernel, impact, 1.0, 1.0, half_spread, jax.random.key(0), n_steps=N).value

    spreads = jnp.asarray([0.0, 0.1])
    together = jax.jit(jax.vmap(cost))(spreads)
    for i in range(2):
        assert_close(together.cost[i], cost(spreads[i]).cost, 1e-9)


def test_absurd_orders_are_refused():
    for shares, horizon, spread, text in (
        (0.0, 1.0, 0.0, "shares is 0"),
        (1.0, -1.0, 0.0, "horizon is -1"),
        (1.0, 1.0, -0.1, "half_spread is -0.1"),
    ):
        with pytest.raises(ValueError, match=text):
            search_schedule(kernel_of("power"), InstantImpact(), shares, horizon, spread, jax.random.key(0), n_steps=4)
