"""Each mechanism alone changes the fills by an amount worked out by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.policies import AbstractPolicy, Quotes
from mfamm_jax.simulation.replay import ReplayConfig, replay
from mfamm_jax.simulation.tape import build_tape

from ..checks import assert_close
from .tapes import ADD, ASK, BID, CANCEL, HALT, HIDDEN, START, TRADE, fills, neutral, quote, run, session

CLOSE = (9.0, ADD, BID, 90, 100, (100, 100, 102, 300))


def sells(size, t=1.0, left=100):
    """A seller hits the bid at 100."""
    return (t, TRADE, BID, 100, size, (100, left, 102, 300))


@pytest.mark.thorough
def test_an_order_fills_only_after_the_queue_in_front_of_it():
    # 300 stand before us: 300 traded leave us first, the next 60 reach more than half of our lot.
    assert fills([START, sells(300)]) == (0, 0)
    assert fills([START, sells(300), sells(49, 2.0)]) == (0, 0)
    assert fills([START, sells(300), sells(60, 2.0)]) == (1, 0)


def test_sides_are_right():
    """A seller fills our bid, at 100; a buyer fills our ask, at 102."""
    bought = run([START, sells(400)])
    assert (bought.bid_fills, bought.ask_fills, bought.inventory) == (1, 0, 1)
    # The mid is 101, our price 100: one tick of spread; the mid has not moved.
    assert_close(bought.capture, 0.01)
    assert_close(bought.pnl, 0.01)
    sold = run([START, (1.0, TRADE, ASK, 102, 400, (100, 300, 102, 100))])
    assert (sold.bid_fills, sold.ask_fills, sold.inventory) == (0, 1, -1)
    assert_close(sold.pnl, 0.01)


def test_volume_added_later_stands_behind_us():
    grown = (1.0, ADD, BID, 100, 900, (100, 1200, 102, 300))
    assert fills([START, grown, sells(360, 2.0, left=840)]) == (1, 0)


FRONT_AFTER_CANCEL = {
    # 300 in front, 100 behind, 200 cancelled; P = probability that they were behind.
    "risk_averse": 200.0,  # all from behind us, as far as there was any
    "power": 300 - 0.9 * 200,  # P = 1 / (1 + 9)
    "power2": 300 - (15 / 16) * 200,  # P = 1 / 16
    "power3": 300 - 0.5625 * 200,  # P = 1 - (3/4)^2 = 0.4375
    "log": 300 - 200 * math.log(301) / (math.log(101) + math.log(301)),
    "log2": 300 - 200 * (1 - math.log(101) / math.log(401)) + min(100 - 200 * math.log(101) / math.log(401), 0),
}


@pytest.mark.thorough
@pytest.mark.parametrize("model", FRONT_AFTER_CANCEL)
def test_each_queue_model_moves_the_order_forward_by_its_own_amount(model):
    rows = [START, (1.0, ADD, BID, 100, 100, (100, 400, 102, 300)), (2.0, CANCEL, BID, 100, 200, (100, 200, 102, 300))]
    reach = min(FRONT_AFTER_CANCEL[model], 200.0) + 50  # half a lot of ours
    assert fills([*rows, sells(math.ceil(reach + 0.01), 3.0)], queue_model=model) == (1, 0)
    assert fills([*rows, sells(math.floor(reach - 0.01), 3.0)], queue_model=model) == (0, 0)


def test_partial_fills_take_what_is_left_of_the_trade():
    rows = [START, sells(500)]
    assert fills(rows, quote(size=5.0), partial_fills=True) == (2, 0)
    assert fills(rows, quote(size=5.0), partial_fills=False) == (5, 0)


def test_a_trade_below_our_price_fills_everything():
    rows = [START, (1.0, TRADE, BID, 99, 10, (98, 100, 102, 300))]
    assert fills(rows, quote(size=5.0)) == (5, 0)


def test_an_offer_at_our_bid_fills_it():
    rows = [START, (1.0, ADD, ASK, 100, 10, (99, 100, 100, 10))]
    assert fills(rows, quote(size=5.0)) == (5, 0)


def test_order_latency_misses_a_trade():
    rows = [START, sells(400), CLOSE]
    assert fills(rows, timing={"order_latency": 0.9}) == (1, 0)
    assert fills(rows, timing={"order_latency": 1.1}) == (0, 0)


def test_an_event_of_the_same_nanosecond_comes_before_the_order():
    assert fills([START, sells(400), CLOSE], timing={"order_latency": 1.0}) == (0, 0)


@pytest.mark.thorough
def test_response_latency_delays_what_is_known_of_our_own_fills():
    rows = [START, sells(400), (2.5, TRADE, BID, 100, 200, (100, 100, 102, 300)), CLOSE]
    timing = {"decision_interval": 1.0}
    # Filled at 1 s. The next decision knows it and joins the 100 shown, so that 200 more reach us ...
    assert fills(rows, timing=timing) == (2, 0)
    # ... or still believes that its order rests.
    assert fills(rows, timing=timing | {"response_latency": 1.6}) == (1, 0)


def test_feed_latency_quotes_around_an_old_mid():
    moved = (1.0, ADD, BID, 101, 100, (101, 100, 103, 100))  # mid 101 -> 102
    hit = (3.0, TRADE, BID, 101, 400, (101, 100, 103, 100))
    timing = {"decision_interval": 2.0}
    assert fills([START, moved, hit], timing=timing) == (1, 0)
    # With 1.5 s delay the decision at 2 s still sees the mid 101 and bids 100.
    assert fills([START, moved, hit], timing=timing | {"feed_latency": 1.5}) == (0, 0)


def test_without_a_book_nothing_is_quoted():
    empty = (0.0, ADD, BID, 100, 300, (100, 300, 0, 0))
    assert fills([empty, sells(400)]) == (0, 0)


def test_maker_fee_is_charged_per_lot_and_a_rebate_is_paid():
    rows = [START, sells(400)]
    free, fee, rebate = (run(rows, maker_fee=rate) for rate in (0.0, 0.003, -0.002))
    assert_close(fee.fees, 0.003)
    assert_close(fee.pnl, free.pnl - 0.003)
    assert_close(rebate.pnl, free.pnl + 0.002)


@pytest.mark.thorough
def test_fee_models():
    rows = [START, sells(500)]
    value = run(rows, quote(size=5.0), fee_model="value", maker_fee=0.0005)
    assert_close(value.fees, 0.0005 * 1.00 * 2)  # two lots at 100 ticks of 0.01
    assert_close(run(rows, quote(size=5.0), fee_model="flat", maker_fee=0.25).fees, 0.25)


def crossing(state_size=2.0):
    """A bid five ticks above the mid."""

    class Crossing(AbstractPolicy):
        def __call__(self, state):
            one = jnp.ones_like(state.mid)
            return Quotes(-0.05 * one, 0.05 * one, state_size * one, 0 * one)

    return Crossing()


def test_post_only_rejects_what_would_take():
    result = run([START, CLOSE], crossing())
    assert (result.bid_fills, result.rejected) == (0, 1)


def test_taking_pays_the_touch_and_the_taker_fee():
    result = run([START, CLOSE], crossing(), post_only=False, taker_fee=0.004, partial_fills=False)
    assert (result.bid_fills, result.rejected) == (2, 0)
    assert_close(result.fees, 2 * 0.004)
    # Bought two lots at 102, the mid is 101.
    assert_close(result.pnl, -2 * 0.01 - 2 * 0.004)


def test_taking_with_partial_fills_walks_the_shown_depth():
    levels = [(100, 300, 102, 100), (99, 100, 104, 200)]
    rows = [(0.0, ADD, BID, 100, 300, levels), (9.0, ADD, BID, 100, 300, levels)]
    result = run(rows, crossing(4.0), post_only=False)
    assert result.bid_fills == 3  # one lot at 102, two at 104, the fourth finds nothing
    assert_close(result.pnl, -(1 * 0.01 + 2 * 0.03))


def test_prices_are_rounded_away_from_the_mid():
    # Mid 101, half spread 0.4 ticks: 100.6 and 101.4 become 100 and 102, not 101.
    result = run([START, CLOSE], quote(0.004), record="path")
    np.testing.assert_array_equal(result.path.order_ticks[-1] + 101, [100, 102])


def test_sizes_are_rounded_down_to_lots():
    result = run([START, CLOSE], quote(size=2.7), record="path")
    np.testing.assert_array_equal(result.path.order_size[-1], [2, 2])
    assert fills([START, sells(400)], quote(size=0.9)) == (0, 0)


def test_lot_size_scales_what_a_trade_reaches():
    assert fills([START, sells(500)], quote(size=9.0), lot_size=100.0) == (2, 0)
    assert fills([START, sells(500)], quote(size=9.0), lot_size=50.0) == (4, 0)


def test_inventory_limit_cuts_orders_at_the_exchange():
    rows = [START, (1.0, TRADE, BID, 99, 10, (98, 100, 102, 300))]
    result = run(rows, quote(size=5.0), max_inventory=3.0)
    assert (result.bid_fills, result.max_inventory) == (3, 3)
    refused = run(rows, quote(size=5.0), max_inventory=0.0)
    assert (refused.bid_fills, refused.rejected) == (0, 2)


FLICKER = [
    START,
    (1.0, TRADE, BID, 100, 200, (100, 300, 102, 300)),  # 100 left before us, 200 new behind
    (1.5, ADD, ASK, 101, 100, (100, 300, 101, 100)),  # mid 100.5: the target moves by half a tick, to 99
    (2.5, ADD, ASK, 102, 100, (100, 300, 102, 100)),  # and back
    (3.5, TRADE, BID, 100, 160, (100, 300, 102, 100)),
    CLOSE,
]


def test_the_refresh_rule_keeps_the_place_in_the_queue():
    timing = {"decision_interval": 1.0}
    assert fills(FLICKER, timing=timing, refresh_ticks=2.0) == (1, 0)
    assert fills(FLICKER, timing=timing, refresh_ticks=1.0) == (0, 0)  # moved to 99 at 2 s, back to the end at 3 s


def test_orders_are_counted_when_the_exchange_accepts_them():
    timing = {"decision_interval": 1.0}
    kept = run(FLICKER, timing=timing, refresh_ticks=2.0)
    # The bid of 0 s fills at 3.5 s and is sent again at 4 s.
    assert (kept.n_bid_orders, kept.n_bid_fills) == (2, 1)
    moved = run(FLICKER, timing=timing, refresh_ticks=1.0)
    assert (moved.n_bid_orders, moved.n_bid_fills) == (3, 0)  # 100, 99, 100
    assert run([START, CLOSE], crossing()).n_bid_orders == 0


def test_an_old_order_is_replaced_and_loses_its_place():
    rows = [START, (1.0, TRADE, BID, 100, 200, (100, 300, 102, 300)), (3.5, TRADE, BID, 100, 160, (100, 300, 102, 300))]
    timing = {"decision_interval": 1.0}
    assert fills([*rows, CLOSE], timing=timing) == (1, 0)
    assert fills([*rows, CLOSE], timing=timing, max_age=2.0) == (0, 0)


@pytest.mark.thorough
def test_hidden_executions_fill_only_when_asked_for():
    rows = [START, (1.0, HIDDEN, BID, 99, 50, (100, 300, 102, 300))]
    assert fills(rows, hidden_fills=False) == (0, 0)
    assert fills(rows, hidden_fills=True) == (1, 0)


def test_nothing_fills_while_trading_is_halted():
    halt = (0.5, HALT, 0, -1, 0, (100, 300, 102, 300))
    quoting = (0.6, HALT, 0, 0, 0, (100, 300, 102, 300))
    resume = (0.7, HALT, 0, 1, 0, (100, 300, 102, 300))
    assert fills([START, halt, sells(400)]) == (0, 0)
    assert fills([START, halt, quoting, sells(400)]) == (0, 0)
    assert fills([START, halt, quoting, resume, sells(400)]) == (1, 0)


def test_a_level_out_of_sight_gives_no_credit_until_it_is_seen():
    """Two levels are shown; our bid at 97 is below both. When it comes into view everything shown is before us."""
    deep = [(100, 300, 102, 300), (99, 300, 103, 300)]
    near = [(98, 10, 102, 300), (97, 80, 103, 300)]
    hit = [(97, 20, 102, 300), (96, 80, 103, 300)]
    rows = [(0.0, ADD, BID, 100, 300, deep), (1.0, CANCEL, BID, 100, 300, near)]
    assert fills([*rows, (2.0, TRADE, BID, 97, 120, hit)], quote(0.04)) == (0, 0)
    assert fills([*rows, (2.0, TRADE, BID, 97, 140, hit)], quote(0.04)) == (1, 0)


def test_our_price_between_levels_is_first_in_its_own_queue():
    wide = (0.0, ADD, BID, 90, 300, (90, 300, 112, 300))
    assert fills([wide, (1.0, TRADE, BID, 100, 60, (90, 300, 112, 300))]) == (1, 0)


def random_session(seed, n=300):
    """Noise with trades, wide enough for every branch."""
    rng = np.random.default_rng(seed)
    mid, rows, t = 200, [], 0.0
    for _ in range(n):
        t += rng.exponential(0.2)
        mid += int(rng.integers(-1, 2))
        book = [
            (mid - 1 - k, int(rng.integers(1, 9)) * 50, mid + 1 + k, int(rng.integers(1, 9)) * 50) for k in range(3)
        ]
        side = int(rng.choice([BID, ASK]))
        kind = rng.choice([ADD, CANCEL, TRADE, TRADE, HIDDEN])
        rows.append((t, kind, side, mid - side * int(rng.integers(1, 3)), int(rng.integers(1, 8)) * 50, book))
    return rows


TIMING = {"decision_interval": 0.5, "order_latency": 0.11, "response_latency": 0.07, "feed_latency": 0.05}


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_capture_revaluation_and_fees_add_up(seed, precision):
    result = run(random_session(seed), quote(0.012, 3.0), timing=TIMING, maker_fee=0.001, max_age=3.0)
    assert result.bid_fills + result.ask_fills > 20
    assert abs(float(result.residual)) < (1e-12 if precision == "float64" else 1e-4)
    assert_close(result.inventory, result.bid_fills - result.ask_fills)


def test_cash_recomputed_from_the_fills_gives_the_same_profit():
    path = run(random_session(3), quote(0.012, 2.0), timing=TIMING, record="path")
    fill, price = np.asarray(path.path.fill), np.asarray(path.path.fill_price)
    cash = np.sum(fill[:, 1] * price[:, 1] - fill[:, 0] * price[:, 0])
    inventory = np.sum(fill[:, 0] - fill[:, 1])
    assert_close(path.pnl, cash + inventory * path.path.mid[-1])
    value = np.asarray(path.path.value)
    assert_close(path.max_drawdown, np.max(np.maximum.accumulate(np.maximum(value, 0)) - value))


def test_mirroring_the_market_mirrors_the_fills():
    rows = random_session(4)
    mirrored = [
        (t, kind, -side, 400 - ticks, size, [(400 - a, az, 400 - b, bz) for b, bz, a, az in book])
        for t, kind, side, ticks, size, book in rows
    ]
    ours, theirs = (run(r, quote(0.012, 2.0), timing=TIMING) for r in (rows, mirrored))
    assert (ours.bid_fills, ours.ask_fills) == (theirs.ask_fills, theirs.bid_fills)
    assert ours.inventory == -theirs.inventory
    assert_close(ours.pnl, theirs.pnl)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(6))
def test_the_future_changes_nothing_before_it(seed):
    """Other events after t leave orders, fills and values up to t bit-identical."""
    rng = np.random.default_rng(seed)
    first, other = random_session(10 + seed), random_session(50 + seed)
    cut = int(rng.integers(20, 280))
    t_cut, shift = first[cut][0], other[cut][0]
    # Same end of the horizon, so that time left is the same.
    changed = first[: cut + 1] + [(t_cut + (row[0] - shift), *row[1:]) for row in other[cut + 1 :]]
    timing = TIMING | {"end_ns": round(min(first[-1][0], changed[-1][0]) * 1e9)}
    paths, steps = [], []
    for rows in (first, changed):
        tape, timeline = build_tape(session(*rows), **timing)
        paths.append(replay(quote(0.012, 2.0), tape, neutral(tape), ReplayConfig(), record="path").path)
        steps.append(int(np.searchsorted(timeline.t_ns, round(t_cut * 1e9), side="right")))
    n = min(steps)
    assert n > 20
    for before, after in zip(jax.tree.leaves(paths[0]), jax.tree.leaves(paths[1])):
        np.testing.assert_array_equal(before[:n], after[:n])


@pytest.mark.thorough
def test_jit_vmap_and_loop_give_the_same_fills():
    tape, _ = build_tape(session(*random_session(5)), **TIMING)
    depths = jnp.array([0.008, 0.012, 0.02, 0.05])

    def one(depth):
        return replay(quote(depth, 2.0), tape, neutral(tape), ReplayConfig(maker_fee=0.001, max_inventory=4.0))

    loop = jax.tree.map(lambda *x: jnp.stack(x), *[one(depth) for depth in depths])
    for result in (jax.vmap(one)(depths), jax.jit(jax.vmap(one))(depths)):
        jax.tree.map(assert_close, result, loop)
    assert len(set(np.asarray(loop.bid_fills).tolist())) > 2


def test_one_compile_serves_all_configs():
    tape, _ = build_tape(session(*random_session(6)), **TIMING)
    traced = []

    @jax.jit
    def one(config):
        traced.append(1)
        return replay(quote(0.012), tape, neutral(tape), config).pnl

    for age in (1.0, 2.0, 5.0):
        one(ReplayConfig(max_age=age, refresh_ticks=age))
    assert len(traced) == 1


@pytest.mark.thorough
def test_sweeping_the_half_spread_widens_capture_and_thins_fills():
    rows = random_session(7, 1500)
    tight, wide = (run(rows, quote(h, 1.0), timing=TIMING) for h in (0.01, 0.03))
    assert tight.bid_fills > wide.bid_fills
    assert tight.capture / (tight.bid_fills + tight.ask_fills) < wide.capture / (wide.bid_fills + wide.ask_fills)
    assert 0 < wide.bid_quoted <= 1
