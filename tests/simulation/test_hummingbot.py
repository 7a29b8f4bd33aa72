"""The bot tick by tick: what rests, when it is replaced, what a fill does. Quotes themselves are the reference cases' matter."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.policies import Covariates, MarketState
from mfamm_jax.simulation.hummingbot import Bot, DepthTable

from ..checks import assert_close


def bot(**changes):
    settings = {
        "base": 10.0,
        "quote": 1000.0,
        "target": 0.5,
        "order_amount": 1.0,
        "volatility": 0.5,
        "min_spread": 0.001,
        "max_spread": 0.01,
        "inventory_risk_aversion": 0.5,
        "vol_to_spread_multiplier": 0.0,
        "volatility_sensibility": 0.2,
        "risk_factor": 1.0,
        "intensity_decay": 10.0,
        "order_shape": 0.0,
        "closing_time": 100.0,
        "maker_fee": 0.0,
        "refresh_time": 5.0,
        "fill_delay": 3.0,
        "level_distance_pct": 0.0,
        "n_buffered": 2,
    }
    return Bot(**settings | changes)


def play(it, mids, fills=None):
    """Quotes per tick of one second; `fills` maps a tick to what (bid, ask) was filled in it."""
    memory, quotes, inventory = it.start(), [], 0.0
    for tick, mid in enumerate(mids):
        state = MarketState(mid, inventory, -inventory * 100.0, 100.0, Covariates.neutral(0.1))
        memory, quote = it.act(memory, state, jnp.asarray(1.0))
        quotes.append(quote)
        bought, sold = (fills or {}).get(tick, (0.0, 0.0))
        inventory += bought - sold
        memory = it.filled(memory, jnp.asarray(bought), jnp.asarray(sold))
    return quotes, memory


def sizes(quotes):
    return [(float(q.bid_size.sum()), float(q.ask_size.sum())) for q in quotes]


@pytest.mark.thorough
def test_it_waits_for_its_buffer_and_orders_rest_at_their_price(precision):
    mids = [100.0, 100.1, 100.2, 100.3, 100.4, 100.5, 100.6, 100.6]
    quotes, _ = play(bot(model="text"), mids)
    assert sizes(quotes)[0] == (0.0, 0.0)
    assert all(min(size) > 0 for size in sizes(quotes)[1:])
    prices = [mid - float(q.bid_depth[0]) for mid, q in zip(mids, quotes, strict=True)][1:]
    # Five ticks at one price, then a new one.
    assert_close(jnp.asarray(prices[:5]), np.full(5, prices[0]), float64=1e-12, float32=1e-5)
    assert prices[5] > prices[0] + 0.2


def test_a_fill_leaves_the_other_side_until_the_pause_is_over():
    quotes, _ = play(bot(model="text"), [100.0] * 9, {1: (1.0, 0.0)})
    assert sizes(quotes)[1] == (1.0, 1.0)
    # Three seconds after the fill both sides are new.
    assert sizes(quotes)[2:5] == [(0.0, 1.0)] * 3
    # Now a lot above the target: the bid is smaller by the shaping of sizes.
    assert 0.9 < sizes(quotes)[5][0] < 1.0
    assert sizes(quotes)[5][1] == 1.0


def test_a_fill_takes_the_nearest_levels():
    it = bot(model="hummingbot-2022", n_levels=3, level_distance_pct=20.0)
    quotes, memory = play(it, [100.0, 100.1], {1: (2.0, 0.0)})
    depths = quotes[1].bid_depth
    assert np.all(np.diff(depths) > 0)
    np.testing.assert_array_equal(memory.orders.bid_size, [0.0, 0.0, 1.0])
    np.testing.assert_array_equal(memory.orders.ask_size, [1.0, 1.0, 1.0])


def test_budgets_run_out_level_by_level():
    it = bot(model="hummingbot-2022", n_levels=3, level_distance_pct=20.0, base=1.5, quote=150.0, target=0.5)
    quotes, _ = play(it, [100.0, 100.1])
    np.testing.assert_allclose(quotes[1].ask_size, [1.0, 0.5, 0.0], atol=1e-12)
    bought = np.asarray(quotes[1].bid_size)
    assert bought[0] == 1.0
    assert 0.4 < bought[1] < 0.6
    assert bought[2] == 0.0


def test_a_cycle_recalculates_and_holds_between():
    it = bot(model="text", closing_time=6.0, refresh_time=1.0)
    seen = []
    memory = it.start()
    for tick in range(14):
        # Inventory moves away from the target from tick 3 on.
        inventory = 2.0 if tick >= 3 else 0.0
        state = MarketState(100.0, inventory, -100.0 * inventory, 100.0, Covariates.neutral(0.1))
        memory, _ = it.act(memory, state, jnp.asarray(1.0))
        seen.append(float(memory.parameters.risk_aversion))
    assert len(set(seen[:6])) == 1
    assert seen[6] != seen[5]
    assert len(set(seen[6:12])) == 1


def test_a_long_cycle_ends_on_time_in_float32():
    with jax.enable_x64(False):
        it = bot(model="hummingbot-2022", closing_time=3600.0)

        def tick(memory, _):
            state = MarketState(100.0, 0.0, 0.0, 100.0, Covariates.neutral(0.1))
            memory, _ = it.act(memory, state, jnp.asarray(1.0))
            return memory, memory.ticks

        _, ticks = jax.lax.scan(tick, it.start(), length=7201)
        np.testing.assert_array_equal(np.flatnonzero(ticks == 0), [3599, 7199])


def test_2021_keeps_silent_at_its_target_and_recalculates_with_the_volatility():
    at_target = bot(model="hummingbot-2021", n_buffered=3)
    quotes, _ = play(at_target, [100.0] * 5)
    assert sizes(quotes) == [(0.0, 0.0)] * 5
    off = bot(model="hummingbot-2021", n_buffered=3, base=12.0, refresh_time=1.0)
    memory, seen = off.start(), []
    for mid in (100.0, 100.1, 100.2, 100.3, 100.4, 102.0):
        state = MarketState(mid, 0.0, 0.0, 100.0, Covariates.neutral(0.1))
        memory, _ = off.act(memory, state, jnp.asarray(1.0))
        seen.append(float(memory.parameters.risk_aversion))
    assert np.isnan(seen[:2]).all()
    # The standard deviation of three mids stays within a fifth, then jumps.
    assert seen[2] == seen[3] == seen[4]
    assert seen[5] != seen[4]


def test_the_solved_bot_reads_its_table_and_stops_at_its_end():
    lots = np.arange(-2, 3)
    bid = np.where(lots == 2, np.nan, 0.1 + 0.01 * lots) * np.ones((2, 1))
    ask = np.where(lots == -2, np.nan, 0.1 - 0.01 * lots) * np.ones((2, 1))
    table = DepthTable(jnp.asarray([0.0, 100.0]), jnp.asarray(bid), jnp.asarray(ask))
    it = bot(model="hjb", depths=table)
    quotes, _ = play(it, [100.0] * 2)
    assert_close(quotes[1].bid_depth, [0.1], float64=1e-12)
    full = eqx.tree_at(lambda b: (b.base, b.quote), it, (jnp.asarray(12.0), jnp.asarray(800.0)))
    quotes, _ = play(full, [100.0] * 2)
    assert sizes(quotes)[1] == (0.0, 1.0)
    assert_close(quotes[1].ask_depth, [0.08], float64=1e-12)


def test_ticks_are_compiled_once_for_all_settings():
    mids = jnp.asarray([100.0, 100.1, 100.2, 100.3])

    def total(risk_factor):
        it = bot(model="hummingbot-2022", risk_factor=risk_factor)

        def tick(memory, mid):
            state = MarketState(mid, 0.0, 0.0, 100.0, Covariates.neutral(0.1))
            memory, quotes = it.act(memory, state, jnp.asarray(1.0))
            return memory, quotes.bid_depth[0]

        return jax.lax.scan(tick, it.start(), mids)[1]

    factors = jnp.asarray([0.5, 1.0, 2.0])
    together = jax.jit(jax.vmap(total))(factors)
    assert_close(together, jnp.stack([total(f) for f in factors]), float64=1e-12)
