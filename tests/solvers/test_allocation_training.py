"""Both ways of learning find what a regime pays; features know only the past."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models.hyperbolic import first_network
from mfamm_jax.models.regime_returns import RegimeReturns
from mfamm_jax.solvers.allocation_training import (
    MEMORIES,
    AllocationTask,
    constant_allocations,
    train_by_score,
    train_pathwise,
)

from ..checks import assert_close

LAW = {
    "means": [[1.0, -1.0], [-1.0, 1.0]],
    "exposures": np.eye(2),
    "covariance": np.eye(2),
    "switching": [[0.95, 0.05], [0.05, 0.95]],
}


def task_and_draw(divergence=0.0, n_paths=8):
    law = RegimeReturns(**LAW)
    numbers = jnp.asarray(0.1), jnp.asarray(divergence)
    task = AllocationTask(law.exposures, law.covariance, *numbers, jnp.ones(2), jnp.ones((2, 2), bool), "portfolio", 10)

    def draw(key):
        return jax.vmap(lambda k: law.sample(k, 60)[0])(jax.random.split(key, n_paths))

    return task, draw


def network(seed=1, curvature=1.0):
    return first_network(
        jax.random.key(seed), n_nodes=2, n_features=2 + len(MEMORIES), dim=3, n_layers=1, curvature=curvature
    )


@pytest.mark.thorough
def test_both_ways_of_learning_beat_every_constant_allocation():
    """Knowing the regime pays 1 less the risk of 0.1; even shares pay nothing."""
    task, draw = task_and_draw()
    fresh = draw(jax.random.key(77))

    def judged(net):
        return float(jnp.mean(jax.vmap(lambda x: task.rewards(task.shares(net, x), x))(fresh)))

    for train, n in ((train_pathwise, 40), (train_by_score, 40)):
        learned, rewards = jax.jit(
            lambda key, train=train, n=n: train(network(), task, draw, key, n_updates=n, learning_rate=0.05)
        )(jax.random.key(2))
        assert rewards.shape == (n,)
        assert judged(learned) > 0.4
    for shares in constant_allocations(fresh.reshape(-1, 2), task).values():
        assert_close(jnp.sum(shares), 1.0, 1e-6)
        constant = jax.vmap(lambda x, p=shares: task.rewards(jnp.broadcast_to(p, x.shape), x))(fresh)
        assert float(jnp.mean(constant)) < 0.3


@pytest.mark.thorough
def test_features_know_only_the_past():
    task, draw = task_and_draw()
    pnl = draw(jax.random.key(1))[0]
    changed = pnl.at[30:].add(5.0)
    before, after = task.features(pnl), task.features(changed)
    assert_close(after[:31], before[:31], 0)
    assert float(jnp.max(jnp.abs(after[31] - before[31]))) > 1
    assert_close(task.rewards(task.shares(network(), pnl), pnl).shape[0], 50)


@pytest.mark.thorough
def test_price_of_moving_keeps_capital_where_it_is():
    def turnover(divergence):
        task, draw = task_and_draw(divergence)
        learned, _ = jax.jit(lambda key: train_pathwise(network(), task, draw, key, n_updates=40, learning_rate=0.05))(
            jax.random.key(2)
        )
        shares = task.shares(learned, draw(jax.random.key(5))[0])
        return float(jnp.mean(jnp.abs(shares[11:] - shares[10:-1])))

    assert turnover(-20.0) < 0.7 * turnover(0.0)


@pytest.mark.thorough
def test_gradient_of_the_reward_is_that_of_finite_differences():
    task, draw = task_and_draw(-0.3, 2)
    pnl = draw(jax.random.key(4))
    flat, build = jax.flatten_util.ravel_pytree(network())

    @eqx.filter_jit
    def value(x):
        return jnp.mean(jax.vmap(lambda y: task.rewards(task.shares(build(x), y), y))(pnl))

    along = jax.random.normal(jax.random.key(6), flat.shape)
    difference = (value(flat + 1e-5 * along) - value(flat - 1e-5 * along)) / 2e-5
    assert_close(jax.grad(value)(flat) @ along, difference, 1e-6)


@pytest.mark.thorough
def test_mean_variance_is_best_under_the_risk_that_is_rewarded():
    """Two hedged strategies and a third: the trace does not see the hedge, and neither may the allocation."""
    exposures = jnp.concatenate([jnp.asarray([[1.0], [-1.0], [0.2]]), 0.3 * jnp.eye(3)], axis=1)
    numbers = jnp.asarray(0.5), jnp.asarray(0.0)
    pnl = jnp.broadcast_to(jnp.asarray([0.1, 0.1, 0.2]), (40, 3))
    tasks = {
        risk: AllocationTask(exposures, jnp.eye(4), *numbers, jnp.ones(3), jnp.ones((3, 3), bool), risk, 10)
        for risk in ("portfolio", "trace")
    }
    rewards = {}
    for made_for, maker in tasks.items():
        shares = jnp.broadcast_to(constant_allocations(pnl, maker)["mean-variance"], pnl.shape)
        for judged_by, judge in tasks.items():
            rewards[made_for, judged_by] = float(jnp.mean(judge.rewards(shares, pnl)))
    assert rewards["portfolio", "portfolio"] > rewards["trace", "portfolio"] + 1e-4
    assert rewards["trace", "trace"] > rewards["portfolio", "trace"] + 1e-4
