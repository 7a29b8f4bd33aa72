"""The stochastic Lagrangian against a problem whose optimum is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.solvers.constrained import maximise_within_limit

from ..checks import assert_close

LOW, HIGH, START = jnp.asarray([-3.0, -3.0]), jnp.asarray([6.0, 3.0]), jnp.asarray([0.5, 1.0])


def objective(x):
    """Best at (0, -0.5); the slope in the first is -x."""
    return 3.0 - 0.5 * x[0] ** 2 - (x[1] + 0.5) ** 2


def probability(x, key):
    """Mean of 200 Bernoulli draws of exp(-2 - x0), with its score."""
    chance = jnp.exp(-2.0 - jnp.maximum(x[0], -1.99))
    hit = jax.random.uniform(key, (200,), x.dtype) < jax.lax.stop_gradient(chance)
    log_chance = jnp.where(hit, jnp.log(chance), jnp.log1p(-chance))
    return jnp.mean(hit * jnp.exp(log_chance - jax.lax.stop_gradient(log_chance)))


@pytest.mark.thorough
def test_binding_limit_is_met_at_its_price(precision):
    """exp(-2 - x) = 0.02 at x = 1.912, where a unit of log limit is worth 1.912. Noise of the draws: 6 %."""
    dtype = jnp.result_type(float)
    low, high, start = (jnp.asarray(x, dtype) for x in (LOW, HIGH, START))
    found = jax.jit(
        lambda key: maximise_within_limit(objective, probability, 0.02, low, high, start, key, n_steps=600)
    )(jax.random.key(1))
    exact = -2 - np.log(0.02)
    assert abs(float(found.parameters[0]) - exact) < 0.12
    assert abs(float(found.parameters[1]) + 0.5) < 0.05
    assert abs(float(found.price) / exact - 1) < 0.15
    assert found.path.shape == (600, 2)


def test_limits_that_do_not_bind_have_no_price_and_leave_the_optimum():
    def best(limit):
        return maximise_within_limit(objective, probability, limit, LOW, HIGH, START, jax.random.key(2), n_steps=300)

    found = jax.jit(jax.vmap(best))(jnp.asarray([1.0, 0.6]))
    assert_close(found.parameters, np.array([[0.0, -0.5]] * 2), 0.02)
    assert_close(found.price, np.zeros(2), 1e-9)
    one = best(0.6)
    assert_close(found.parameters[1], one.parameters, 1e-6)


def test_limits_out_of_reach_end_at_the_edge_with_pressure():
    found = maximise_within_limit(objective, probability, 1e-5, LOW, HIGH, START, jax.random.key(3), n_steps=300)
    assert float(found.parameters[0]) > 4
    assert float(found.price) > 3


def test_probabilities_that_are_zero_do_not_stop_the_search():
    """Nothing to learn about breaches, all the more about profit."""
    for limit in (1.0, 0.01):
        found = maximise_within_limit(
            objective, lambda x, key: 0.0 * x[0], limit, LOW, HIGH, START, jax.random.key(4), n_steps=300
        )
        assert_close(found.parameters, [0.0, -0.5], 0.02)
        assert float(found.price) == 0
