import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models.impact import ExponentialKernel
from mfamm_jax.solvers.learned_adversary import best_response, train_adversary
from mfamm_jax.solvers.schedule import best_schedule, impact_matrix, schied_zhang

from ..checks import assert_close

THETA = 0.3
_train = jax.jit(train_adversary, static_argnames=("n_steps", "n_hidden", "learning_rate"))


def market(n=8):
    return impact_matrix(ExponentialKernel(jnp.ones(1), jnp.asarray([1.5])), jnp.linspace(0.0, 1.0, n))


def orders(n=64, seed=0):
    """The same programme in either direction and in any size."""
    sizes = jnp.asarray(np.random.default_rng(seed).normal(size=n))
    return sizes[:, None] * best_schedule(market(), 1.0).trades


def test_the_best_response_is_flat_optimal_and_an_equilibrium_answers_itself():
    matrix, schedule = market(), orders()[0]
    found = best_response(schedule, matrix, THETA)
    assert_close(jnp.sum(found.trades), 0.0, 1e-12)
    slope = jax.grad(lambda y: -_profit(y, schedule, matrix))(found.trades)
    assert_close(slope - slope.mean(), 0.0, 1e-12)
    assert_close(found.profit, _profit(found.trades, schedule, matrix), 1e-12)
    game = schied_zhang(matrix, 1.0, 0.0, THETA)
    answer = best_response(game.schedule, matrix, THETA)
    assert_close(answer.trades, game.opponent_schedule, 1e-10)
    assert_close(answer.profit, -game.opponent_cost, 1e-10)
    alone = 0.5 * game.schedule @ (matrix + 2 * THETA * jnp.eye(8)) @ game.schedule
    assert_close(alone + answer.harm, game.cost, 1e-10)


def _profit(y, x, matrix):
    before = jnp.tril(matrix, -1) + 0.5 * jnp.diag(jnp.diag(matrix))
    return -0.5 * y @ (matrix + 2 * THETA * jnp.eye(8)) @ y - y @ before @ x


def test_a_schedule_it_knows_is_exploited_almost_fully():
    matrix = market()
    schedule = best_schedule(matrix, 1.0).trades
    adversary, profits = _train(schedule[None], matrix, THETA, jax.random.key(0), n_steps=1500)
    bound = best_response(schedule, matrix, THETA).profit
    got = adversary(schedule, matrix, THETA)
    assert 0.9 * float(bound) < float(got.profit) <= float(bound) + 1e-9
    assert_close(profits[0], 0.0, 1e-12)
    assert_close(jnp.sum(got.trades), 0.0, 1e-12)


@pytest.mark.thorough
def test_unknown_directions_are_worth_less_and_no_response_beats_its_bound():
    matrix = market()
    adversary, _ = _train(orders(), matrix, THETA, jax.random.key(0), n_steps=1500)
    fresh = orders(200, seed=1)
    got = jax.vmap(lambda x: adversary(x, matrix, THETA))(fresh)
    bound = jax.vmap(lambda x: best_response(x, matrix, THETA))(fresh)
    assert (np.asarray(got.profit) <= np.asarray(bound.profit) + 1e-9).all()
    assert 0.1 * float(bound.profit.mean()) < float(got.profit.mean()) < 0.95 * float(bound.profit.mean())


@pytest.mark.thorough
def test_it_sees_the_past_only():
    matrix, schedule = market(), orders()[0]
    adversary, _ = _train(orders(), matrix, THETA, jax.random.key(0), n_steps=50)
    before = adversary(schedule, matrix, THETA).trades
    after = adversary(schedule.at[4].add(1.0), matrix, THETA).trades
    assert_close(before[:5], after[:5], 0.0)
    assert float(jnp.max(jnp.abs(before[5:] - after[5:]))) > 0


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["float32"])
def test_single_precision_trains_too(precision):
    with jax.enable_x64(False):
        matrix = market()
        schedule = best_schedule(matrix, 1.0).trades
        adversary, _ = _train(schedule[None], matrix, THETA, jax.random.key(0), n_steps=300)
        bound = best_response(schedule, matrix, THETA).profit
        assert 0.5 * float(bound) < float(adversary(schedule, matrix, THETA).profit) <= float(bound) * (1 + 1e-4)
