"""The write-up and the bot against their identities and limits; numbers worked out elsewhere are in `mfamm verify`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.policies.avellaneda_stoikov import (
    AvellanedaStoikovPolicy,
    SpreadParameters,
    Wallet,
    advance_cycle,
    margin_of_decay,
    needs_recalculation,
    parameters_of_limits,
    relative_quotes,
    text_quotes,
)
from mfamm_jax.policies.quotes import Covariates, MarketState
from mfamm_jax.solvers.volume_decay import fit_volume_decay

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads


def real(*values):
    return [jnp.asarray(value, dtype=jnp.result_type(float)) for value in values]


def text(inventory, volatility, averse, low, high, time_left=1.0, mid=100.0):
    mid, time_left = real(mid, time_left)
    parameters, _, capped = parameters_of_limits(inventory, volatility, averse, low * mid, high * mid, averse / 10)
    amount = jnp.ones_like(inventory)
    return text_quotes(mid, inventory, volatility, time_left, parameters, low, high, amount), parameters, capped


def test_ten_thousand_cycles_start_at_the_widest_spread(precision):
    rng = np.random.default_rng(0)
    n = 10_000
    inventory = rng.choice([-1, 1], n) * np.exp(rng.uniform(-2, 5, n))
    volatility, averse = np.exp(rng.uniform(-4, 1, n)), rng.uniform(0, 1, n)
    low = np.exp(rng.uniform(-8, -5, n))
    high = low * np.exp(rng.uniform(0, 3, n))
    quotes, _, capped = text(*real(inventory, volatility, averse, low, high))
    widest = 100 * ((2 - averse) * high + averse * low)
    tolerance = 1e-10 if precision == "float64" else 1e-5
    np.testing.assert_allclose(quotes.spread, widest, rtol=tolerance)
    # TX-5: the far side is quoted at Max, the near side between Min and Max; no limit binds at the start of a cycle.
    free = ~np.asarray(capped)
    far = np.where(inventory > 0, 100 - quotes.bid_unclamped, quotes.ask_unclamped - 100)
    near = np.where(inventory > 0, quotes.ask_unclamped - 100, 100 - quotes.bid_unclamped)
    rounding = 1e-12 if precision == "float64" else 2e-5
    np.testing.assert_allclose(far[free], 100 * high[free], atol=100 * rounding)
    np.testing.assert_allclose(near[free], 100 * ((1 - averse) * high + averse * low)[free], atol=100 * rounding)


def test_without_inventory_risk_aversion_it_is_pure_market_making():
    quotes, parameters, _ = text(*real(3.0, 0.5, 0.0, 0.001, 0.01))
    assert (float(quotes.reservation_price), float(quotes.spread)) == (100.0, 2.0)
    assert float(parameters.intensity_decay) == 1.0
    assert float(quotes.bid_size) == 1.0


def test_near_the_target_risk_aversion_is_capped_and_said():
    quotes, parameters, capped = text(*real(0.0, 0.5, 0.8, 0.001, 0.01))
    assert bool(capped)
    assert float(parameters.risk_aversion) == pytest.approx(1.28 / 0.25)
    assert np.isinf(parameters.intensity_decay)
    assert float(quotes.reservation_price) == 100.0


def test_gradients_are_finite_at_the_limits():
    def ask(inventory, averse):
        return text(inventory, *real(0.5), averse, *real(0.001, 0.01))[0].ask_unclamped

    for inventory, averse in ((0.0, 0.5), (2.0, 0.0), (0.0, 0.0)):
        assert np.isfinite(jax.grad(ask, (0, 1))(*real(inventory, averse))).all()
    check_grads(jax.jit(ask), real(2.0, 0.4), order=1, rtol=1e-6)
    slope = jax.grad(margin_of_decay)(*real(0.0, 1.5))
    assert_close(slope, -1 / (2 * 1.5**2))  # (1/g) ln(1 + g/k) = 1/k - g/(2 k^2) + ...


def test_the_paper_centres_quotes_on_the_reservation_price():
    """hjb_cases.json, as_seed2."""
    policy = AvellanedaStoikovPolicy(0.1, 2.0, 1.5)
    zero, inventory, left = real(0.0, 2.0, 1.0)
    quotes = policy(MarketState(zero, inventory, zero, left, Covariates.neutral(2.0)))
    assert_close(jnp.stack([quotes.ask_depth, quotes.bid_depth]), [0.0453852113757, 1.64538521138], 1e-10)


@pytest.mark.parametrize("compat", ["hummingbot-2021-12", "hummingbot-2022"])
def test_relative_quotes_mirror_and_rescale(compat):
    """Prices x c: volatility x c, risk aversion and decay / c, as long as the inventory risk is linear in both."""

    def quotes(base, c=1.0, scale=1.0):
        mid, volatility, left, low, amount = real(100.0 * c, 0.3 * c, 0.5, 0.0, 1.0)
        parameters = SpreadParameters(0.8 * scale, margin_of_decay(*real(0.8 * scale, 3.0 / c)), 1.0)
        return relative_quotes(mid, volatility, Wallet(base, 500.0 * c, 0.5), left, parameters, low, amount, compat)

    # In lots of the mid: base 5 is the target; 2 and 12.5 are mirror images, (2/7 - 1/2) = -(12.5/17.5 - 1/2).
    low, high = quotes(2.0), quotes(12.5)
    assert_close(low.ask - 100, 100 - high.bid)
    assert_close(low.ask_size, high.bid_size)
    c = 7.0
    power = 1.0 if compat == "hummingbot-2021-12" else 0.0
    if power:  # the code of 2022 uses the volatility where the variance belongs, and does not rescale
        assert_close(quotes(2.0, c, 1 / c).ask, c * quotes(2.0).ask)


def test_infinite_horizon_of_december_2021_has_no_quote_at_the_target():
    mid, volatility, low, amount = real(100.0, 0.1, 0.0, 1.0)
    parameters = SpreadParameters(0.8, 0.1, 0.0)
    at = relative_quotes(mid, volatility, Wallet(5.0, 500.0, 0.5), None, parameters, low, amount, "hummingbot-2021-12")
    assert np.isnan(at.spread)
    assert float(at.reservation_price) < 100.0


def test_cycle_and_recalculation():
    left, ended = jax.vmap(advance_cycle, (0, None, None))(*real([0.3, 0.2, 1e-18], 2.0, 10.0))
    np.testing.assert_allclose(left, [0.1, 1.0, 1.0], rtol=1e-12)
    np.testing.assert_array_equal(ended, [False, True, True])
    assert not needs_recalculation(*real(1.0, 0.0, 0.1))


def test_volume_decay_of_noise_free_volumes_and_of_one_depth():
    depth = jnp.linspace(0.5, 6.0, 12)
    solution = fit_volume_decay(depth, 3.0 * jnp.exp(-0.7 * depth))
    some = jnp.arange(depth.size) % 2 == 0
    masked = fit_volume_decay(depth, jnp.where(some, 3.0 * jnp.exp(-0.7 * depth), 0.0), some)
    assert_close(jnp.stack(masked.value), jnp.stack(solution.value), float64=1e-6)
    assert_close(jnp.stack(solution.value), [3.0, 0.7], 1e-9)
    rising = fit_volume_decay(depth, 1.0 + depth)
    assert_close(jnp.stack(rising.value), [1.0 + 3.25, 0.0], 1e-9)
    assert fit_volume_decay(jnp.ones(3), jnp.ones(3)).result != solution.result


def test_jit_vmap_and_loop_agree():
    inventory, averse = real(np.linspace(-3, 3, 7), np.linspace(0, 1, 7))
    assert_jit_vmap_loop_agree(lambda q, a: text(q, *real(0.5), a, *real(0.001, 0.01))[0], inventory, averse)
