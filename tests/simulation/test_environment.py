import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models import ExponentialIntensity, HawkesArrivals
from mfamm_jax.policies import Covariates, SymmetricPolicy
from mfamm_jax.simulation.environment import Environment
from mfamm_jax.simulation.episode import Episodes, simulate_episode
from mfamm_jax.simulation.step import PoissonMarket

from ..checks import assert_close


def world(**changes):
    side = ExponentialIntensity(1.0, 1.5)
    market = PoissonMarket(side, side, volatility=0.3, bid_adverse_selection=0.05, maker_fee=0.01, **changes)
    return Environment(market, Episodes(2, 50, 20.0, 0.02), inventory_penalty=0.01, max_inventory=2)


def play(environment, depths, key):
    """Sum of rewards, last state and when the episode said it was over."""

    def advance(state, index):
        state, observation, reward, done, record = environment.step(state, depths, jax.random.fold_in(key, index))
        return state, (reward, done, observation, record.bid_fill + record.ask_fill)

    state, _ = environment.reset(key)
    state, (rewards, done, observations, fills) = jax.lax.scan(advance, state, jnp.arange(50))
    return state, rewards, done, observations, fills


@pytest.mark.thorough
def test_an_agent_plays_the_game_of_a_policy(precision):
    """The same keys give the same episode; rewards add up to P&L less penalties."""
    environment, key = world(), jax.random.key(4)
    state, rewards, done, observations, _ = jax.jit(play)(environment, jnp.asarray([0.4, 0.4]), key)
    neutral = Covariates.neutral(0.3)
    policy = SymmetricPolicy(0.4, 2.0)
    result = jax.jit(
        lambda k: simulate_episode(policy, environment.market, environment.episodes, neutral, jnp.asarray(0.01), k)
    )(key)
    assert float(result.bid_fills) > 3
    np.testing.assert_array_equal(observations[:, 0] * 2, result.inventory)
    assert_close(state.market.cash, result.pnl - state.market.inventory * state.market.mid, float64=1e-12)
    penalties = 0.01 * jnp.sum(result.inventory**2) * 0.4 + 0.02 * result.final_inventory**2
    assert_close(rewards.sum(), result.pnl - penalties, float64=1e-12)
    assert done.tolist() == [False] * 49 + [True]
    assert_close(observations[:, 1], 1 - jnp.arange(1, 51) / 50, float64=1e-12)


def test_many_environments_at_once_and_one_compile():
    environment = world(arrivals=HawkesArrivals(0.5))
    keys = jax.random.split(jax.random.key(0), 6)
    together = jax.jit(jax.vmap(lambda k: play(environment, jnp.asarray([0.3, 0.5]), k)[1]))(keys)
    alone = jnp.stack([play(environment, jnp.asarray([0.3, 0.5]), k)[1] for k in keys])
    assert_close(together, alone, float64=1e-12)


def test_inventory_stays_within_its_limit():
    environment = world()
    _, _, _, observations, fills = play(environment, jnp.asarray([-1.0, 3.0]), jax.random.key(1))
    assert float(jnp.abs(observations[:, 0]).max()) == 1.0
    assert float(fills.sum()) >= 2


def test_rewards_have_gradients_in_the_action():
    """Fills are random events, but what they earn is smooth in the depths."""

    def total(depths):
        return play(world(), depths, jax.random.key(3))[1].sum()

    depths, step = jnp.asarray([0.4, 0.4]), 1e-6
    gradient = jax.grad(total)(depths)
    for side in range(2):
        moved = [total(depths.at[side].add(sign * step)) for sign in (1, -1)]
        assert_close(gradient[side], (moved[0] - moved[1]) / (2 * step), float64=1e-6)
