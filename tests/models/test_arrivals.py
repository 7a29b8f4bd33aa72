import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models import ExponentialIntensity, HawkesArrivals, SeasonalArrivals
from mfamm_jax.policies import Covariates, SymmetricPolicy
from mfamm_jax.simulation.episode import Episodes, episode_law, simulate_episode
from mfamm_jax.simulation.step import PoissonMarket


def side():
    return ExponentialIntensity(2.0, 1.5)


def episodes_of(arrivals, n_paths=400, n_steps=4000, horizon=40.0, depth=0.0):
    market = PoissonMarket(side(), side(), volatility=0.0, arrivals=arrivals)
    policy = SymmetricPolicy(depth, 1e6)
    shape = Episodes(2, n_steps, horizon)
    run = jax.jit(
        jax.vmap(lambda key: simulate_episode(policy, market, shape, Covariates.neutral(0.1), jnp.zeros(()), key))
    )
    return run(jax.random.split(jax.random.key(2), n_paths))


def test_hawkes_orders_come_at_the_stationary_rate_in_bunches():
    """Quotes at the mid see every order: rate Lambda/(1 - n), and Fano factor 1/(1 - n)^2 of the sum of both sides."""
    result = episodes_of(HawkesArrivals(0.3, 0.2, 5.0))
    counts = np.asarray(result.bid_fills + result.ask_fills)
    expected = 2 * 2.0 / 0.5 * 40.0
    # A cold start of 1/(beta (1 - n)) = 0.4 s, at most one order a step of 0.01 s (rate 4: 2%), five standard errors.
    assert counts.mean() == pytest.approx(expected, rel=0.045)
    fano = counts.var() / counts.mean()
    assert 3.0 < fano < 4.6
    each = np.asarray(result.bid_fills)
    assert np.corrcoef(each, np.asarray(result.ask_fills))[0, 1] > 0.2


def test_an_order_has_its_children_whatever_the_step():
    """The sum over all steps to come of what one order adds to the rate, times the step."""
    arrivals = HawkesArrivals(0.3, 0.2, 5.0)
    for step in (0.01, 0.5):
        step = jnp.asarray(step)
        state = arrivals.advance(arrivals.start(step), jnp.asarray([True, False]), step)
        total = jnp.zeros(2)
        for _ in range(int(4 / step)):
            total = total + state * step
            state = arrivals.advance(state, jnp.asarray([False, False]), step)
        np.testing.assert_allclose(total, [0.3, 0.2], atol=1e-8)


@pytest.mark.thorough
def test_fills_of_a_deeper_quote_are_a_share_of_the_arrivals():
    """Excitement comes from all orders, whether they reach our quote or not."""
    near, far = (episodes_of(HawkesArrivals(0.3, 0.2, 5.0), 200, depth=d).bid_fills.mean() for d in (0.0, 1.0))
    assert float(far / near) == pytest.approx(np.exp(-1.5), rel=0.05)


@pytest.mark.thorough
def test_without_children_hawkes_is_poisson():
    plain, none = (episodes_of(a, 20, 500) for a in (None, HawkesArrivals(0.0)))
    np.testing.assert_array_equal(plain.bid_fills, none.bid_fills)


def test_seasons_follow_their_course():
    arrivals = SeasonalArrivals(jnp.asarray([2.0, 0.5, 1.0]), 30.0)
    factors = [float(arrivals.factors(jnp.asarray(t), jnp.ones(2))[0]) for t in (0.0, 5.0, 10.0, 25.0, 30.0, 40.0)]
    np.testing.assert_allclose(factors, [2.0, 1.25, 0.5, 1.5, 2.0, 0.5])
    result = episodes_of(arrivals, 200, 3000, 30.0)
    # The mean of the course times Lambda times 30 s; one order a step of 0.01 s at most takes 1%.
    assert float(result.bid_fills.mean()) == pytest.approx(2.0 * 30.0 * 3.5 / 3, rel=0.03)


def test_explosive_and_negative_parameters_are_named():
    with pytest.raises(ValueError, match=r"self_excitation \+ cross_excitation is 1\.1"):
        HawkesArrivals(0.6, 0.5)
    with pytest.raises(ValueError, match=r"SeasonalArrivals\.activity"):
        SeasonalArrivals(jnp.asarray([1.0, -1.0]), 30.0)


def test_the_exact_law_refuses_what_it_does_not_know():
    market = PoissonMarket(side(), side(), volatility=0.1, arrivals=HawkesArrivals(0.1))
    with pytest.raises(ValueError, match="episode_law knows"):
        episode_law(SymmetricPolicy(0.4, 3.0), market, Episodes(2, 4, 1.0), Covariates.neutral(0.1), 3)
    market = PoissonMarket(side(), side(), volatility=0.1, fee_rate=1e-3)
    law = episode_law(SymmetricPolicy(0.4, 3.0), market, Episodes(2, 4, 1.0), Covariates.neutral(0.1), 3)
    assert jnp.isnan(law.mean)
    assert jnp.isnan(law.std)
