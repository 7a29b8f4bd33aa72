import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models import BrownianMid, ExponentialIntensity
from mfamm_jax.policies import Covariates, Quotes, SymmetricPolicy
from mfamm_jax.risk import bootstrap_interval, empirical_tail_risk, markouts, max_drawdown, moments
from mfamm_jax.simulation.episode import Episodes, episode_law, simulate_episode, simulate_episodes
from mfamm_jax.simulation.step import PoissonMarket, step


def fills():
    return ExponentialIntensity(1.0, 2.0)


NEUTRAL = Covariates.neutral(0.3)
EPISODES = Episodes(8000, 40, 20.0)


def market(**changes):
    return PoissonMarket(bid=fills(), ask=fills(), **{"volatility": 0.3, **changes})


@pytest.mark.thorough
def test_monte_carlo_agrees_with_the_exact_law_and_the_identity_holds(precision):
    policy = SymmetricPolicy(0.4, 3.0)
    world = market(maker_fee=0.02, ask_adverse_selection=0.05, bid_adverse_selection=0.01, drift=0.01)
    neutral = Covariates.neutral(0.3)
    episodes = Episodes(8000, 40, 20.0)
    law = jax.jit(lambda p: episode_law(p, world, episodes, neutral, 3))(policy)
    result = jax.jit(lambda key: simulate_episodes(policy, world, episodes, neutral, jnp.asarray(0.009), key))(
        jax.random.key(3)
    )
    assert result.inventory.shape == (8000, 40)
    error = float(law.std) / np.sqrt(8000)
    assert abs(float(result.pnl.mean() - law.mean)) < 4 * error
    assert float(result.pnl.std()) == pytest.approx(float(law.std), rel=0.04)
    assert float(result.bid_fills.mean()) == pytest.approx(float(law.bid_fills), rel=0.05)
    np.testing.assert_allclose(law.inventory.sum(axis=1), 1.0, atol=1e-5)
    residual = result.pnl - (result.capture + result.revaluation - result.fees)
    assert float(jnp.abs(residual).max()) < (1e-12 if precision == "float64" else 1e-4)


def test_law_of_one_step_by_hand():
    policy, world = SymmetricPolicy(0.4, 1.0), market(maker_fee=0.1, ask_adverse_selection=0.2)
    law = episode_law(policy, world, Episodes(2, 1, 0.5), NEUTRAL, 1)
    p = 1 - np.exp(-np.exp(-2 * 0.4) * 0.5)
    # Both fill: 0.8 captured, flat. Ask only: 0.4 captured, short one lot while the mid rises 0.2. Bid only: 0.4.
    mean = p * p * (0.8 - 0.2) + p * (1 - p) * ((0.4 - 0.1 - 0.2) + (0.4 - 0.1))
    assert float(law.mean) == pytest.approx(mean, abs=1e-14)
    assert float(law.inventory[0, 2]) == pytest.approx(p * (1 - p), abs=1e-14)
    second = p * p * 0.6**2 + p * (1 - p) * (0.1**2 + 0.3**2)
    noise = 0.09 * 0.5 * 2 * p * (1 - p)
    assert float(law.std) == pytest.approx(np.sqrt(second - mean**2 + noise), abs=1e-14)


@pytest.mark.thorough
def test_mean_has_the_gradient_of_its_finite_difference():
    def mean(half_spread):
        return episode_law(SymmetricPolicy(half_spread, 3.0), market(), EPISODES, NEUTRAL, 3).mean

    gradient, h = jax.grad(mean)(jnp.asarray(0.3)), 1e-5
    assert float(gradient) == pytest.approx(float(mean(0.3 + h) - mean(0.3 - h)) / (2 * h), rel=1e-7)


def test_a_bid_fill_raises_inventory_and_costs_cash():
    certain = PoissonMarket(
        bid=ExponentialIntensity(1e9, 1.0), ask=fills(), volatility=0.0, bid_adverse_selection=0.5, maker_fee=0.01
    )
    state = eqx.tree_at(lambda s: s.mid, certain.start(jnp.asarray(1.0), NEUTRAL), jnp.asarray(10.0))
    quotes = Quotes(jnp.asarray(0.2), jnp.asarray(0.2), jnp.asarray(2.0), jnp.asarray(0.0))
    after, record = step(certain, state, quotes, jnp.asarray(1.0), jnp.asarray(0.1), jax.random.key(0))
    assert float(after.inventory) == 2
    assert float(after.cash) == pytest.approx(-2 * 9.8 - 0.02)
    assert float(after.mid) == pytest.approx(9.5)
    assert float(record.revaluation) == pytest.approx(-1.0)
    assert float(record.reward) == pytest.approx(0.4 - 0.1 * 4)


def test_tail_risk_of_a_known_sample():
    pnl = -jnp.arange(1.0, 101.0)  # losses 1..100
    tail = empirical_tail_risk(pnl, 0.95)
    assert float(tail.value_at_risk) == 95
    assert float(tail.cvar) == pytest.approx(98.0)  # mean of 96..100
    fractional = empirical_tail_risk(-jnp.arange(1.0, 11.0), 0.85)  # tail mass 1.5 samples: 10 and half of 9
    assert float(fractional.cvar) == pytest.approx((10 + 0.5 * 9) / 1.5)


def test_bootstrap_interval_covers_the_normal_theory():
    sample = jax.random.normal(jax.random.key(0), (2000,))
    low, high = bootstrap_interval(jnp.mean, sample, 400, jax.random.key(1))
    assert float(high - low) == pytest.approx(2 * 1.96 / np.sqrt(2000), rel=0.15)
    assert float(low) < float(sample.mean()) < float(high)


def test_drawdown_counts_from_the_start():
    assert float(max_drawdown(jnp.array([-1.0, 2.0, 0.5, 3.0]))) == 1.5
    assert float(max_drawdown(jnp.array([-1.0, -3.0]))) == 3.0


def test_markouts_have_the_sign_of_the_gain():
    side, price = jnp.array([1, -1, 0]), jnp.array([99.0, 101.0, 0.0])
    later = jnp.array([[98.0, 103.0, 0.0]])
    known = jnp.ones((1, 3), bool)
    assert float(markouts(side, price, jnp.array([1.0, 3.0, 9.0]), later, known)[0]) == pytest.approx(-7 / 4)


def test_sharpe_of_a_constant_is_zero():
    assert float(moments(jnp.ones(5)).sharpe) == 0


def test_quotes_that_always_fill_have_no_variance_and_a_finite_gradient():
    def std(depth):
        side = ExponentialIntensity(jnp.asarray(1e6), jnp.asarray(1.0))
        market = PoissonMarket(side, side, volatility=0.0)
        policy = SymmetricPolicy(depth, jnp.asarray(3.0))
        return episode_law(policy, market, Episodes(2, 20, 20.0), Covariates.neutral(0.0), 3).std

    value, slope = jax.value_and_grad(std)(jnp.asarray(0.1))
    assert value < 1e-6
    assert jnp.isfinite(slope)


def test_the_mid_recovers_from_what_fills_did_to_it():
    """One ask fill pushes the mid by 0.5; after 1 s at 2/s the share e^-2 of it is left."""
    world = PoissonMarket(fills(), fills(), volatility=0.0, ask_adverse_selection=0.5, impact_recovery=2.0)
    state = world.start(jnp.asarray(2.0), NEUTRAL)
    certain = Quotes(jnp.asarray(0.0), jnp.asarray(-20.0), jnp.asarray(0.0), jnp.asarray(1.0))
    none = Quotes(jnp.asarray(0.0), jnp.asarray(0.0), jnp.asarray(0.0), jnp.asarray(0.0))
    state, _ = step(world, state, certain, jnp.asarray(0.1), jnp.asarray(0.0), jax.random.key(0))
    assert float(state.mid) == pytest.approx(0.5)
    for index in range(10):
        state, _ = step(world, state, none, jnp.asarray(0.1), jnp.asarray(0.0), jax.random.key(index))
    assert float(state.mid) == pytest.approx(0.5 * np.exp(-2.0), abs=1e-12)


def test_fees_by_the_price():
    world = PoissonMarket(
        fills(), fills(), volatility=0.0, maker_fee=0.01, fee_rate=1e-3, mid=BrownianMid(0.0, start_price=100.0)
    )
    state = world.start(jnp.asarray(2.0), NEUTRAL)
    quotes = Quotes(jnp.asarray(-20.0), jnp.asarray(0.0), jnp.asarray(2.0), jnp.asarray(0.0))
    state, record = step(world, state, quotes, jnp.asarray(0.1), jnp.asarray(0.0), jax.random.key(0))
    assert float(record.fees) == pytest.approx(0.02 + 1e-3 * 2 * 120)
    assert float(state.cash) == pytest.approx(-2 * 120 - 0.26)
    result = simulate_episode(SymmetricPolicy(0.4, 3.0), world, EPISODES, NEUTRAL, jnp.asarray(0.0), jax.random.key(1))
    assert float(result.fees) > 0.5
    assert float(result.pnl) == pytest.approx(float(result.capture + result.revaluation - result.fees), abs=1e-10)


@pytest.mark.parametrize("rule", ["poisson", "clip_product", "product_of_clips"])
def test_nothing_fills_and_nothing_breaks_while_no_orders_arrive(rule):
    world, one = market(fill_rule=rule), jnp.ones(())
    quotes, quiet = Quotes(0.1 * one, 0.2 * one, one, one), (jnp.zeros(()), one)

    def chances(factor):
        return world.fill_probabilities(quotes, jnp.asarray(0.5), (factor, quiet[1]))

    bid, ask = chances(quiet[0])
    assert bid == 0
    assert 0 < ask < 1
    assert np.isfinite(jax.grad(lambda f: chances(f)[0])(quiet[0]))
