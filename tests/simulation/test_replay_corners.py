"""Cases that random sessions against the plain exchange brought to light, each alone and by hand."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.market.events import NS
from mfamm_jax.policies import AbstractPolicy, Quotes
from mfamm_jax.simulation.replay import ReplayConfig
from mfamm_jax.simulation.tape import build_tape

from ..market.sessions import make_session
from .shapes import padded, recorded
from .tapes import ADD, ASK, BID, CANCEL, DELETE, HALT, START, TRADE, neutral, quote, session

CLOSE = (9.0, ADD, BID, 90, 100, (100, 300, 102, 300))


def play(data, policy=None, *, timing=None, **config):
    tape, _ = build_tape(data, **({"decision_interval": 1000.0, "depth_ticks": 60} | (timing or {})))
    wide = padded(tape)
    return recorded(policy or quote(), wide, neutral(wide), ReplayConfig(**config))


def run(rows, *args, **kwargs):
    return play(session(*rows), *args, **kwargs)


def fills(*args, **kwargs):
    result = run(*args, **kwargs)
    return float(result.bid_fills), float(result.ask_fills)


@pytest.mark.parametrize("reduce", [True, False])
def test_an_order_that_the_other_side_reached_during_a_halt_fills_when_trading_resumes(reduce):
    rows = [
        START,
        (1.0, HALT, 0, -1, 0, (100, 300, 102, 300)),
        (2.0, ADD, ASK, 100, 50, (99, 300, 100, 50)),
        (3.0, HALT, 0, 1, 0, (99, 300, 100, 50)),
        (4.0, CANCEL, ASK, 100, 50, (99, 300, 102, 300)),
    ]
    assert fills(rows, timing={"decision_interval": 1000.0, "reduce": reduce}) == (1, 0)
    assert fills([*rows[:3], rows[4]], timing={"decision_interval": 1000.0, "reduce": reduce}) == (0, 0)


def test_an_empty_price_that_comes_into_sight_has_no_queue():
    """Two levels are shown; our bid at 97 is below both until 98 and 96 are shown."""
    deep = [(100, 300, 102, 300), (99, 300, 103, 300)]
    near = [(98, 10, 102, 300), (96, 80, 103, 300)]
    joined = [(98, 10, 102, 300), (97, 500, 103, 300)]
    rows = [(0.0, ADD, BID, 100, 300, deep), (1.0, CANCEL, BID, 100, 300, near)]
    assert fills([*rows, (2.0, TRADE, BID, 97, 60, near)], quote(0.04)) == (1, 0)
    # Who comes after us stands behind us.
    later = (2.0, ADD, BID, 97, 500, joined)
    assert fills([*rows, later, (3.0, TRADE, BID, 97, 60, joined)], quote(0.04)) == (1, 0)


def test_an_order_of_exactly_the_highest_age_is_replaced():
    """Decisions every 0.1 s and a limit of 0.3 s: the orders of 0, 0.3, 0.6, ... s, whatever their times round to."""
    rows = [START, (10.0, ADD, BID, 90, 100, (100, 300, 102, 300))]
    result = run(rows, timing={"decision_interval": 0.1}, max_age=0.3)
    assert (result.n_bid_orders, result.n_ask_orders) == (34, 34)


def test_whole_increments_are_left_of_a_partly_filled_order():
    """1.2 lots of which 0.7 and 0.5 fill are gone, so that the side is quoted anew."""
    rows = [
        START,
        (1.0, TRADE, BID, 100, 370, (100, 100, 102, 300)),
        (2.0, TRADE, BID, 100, 50, (100, 100, 102, 300)),
        CLOSE,
    ]
    result = run(rows, quote(size=1.2), size_increment=0.1, timing={"decision_interval": 4.0})
    assert result.n_bid_fills == 2
    assert result.n_bid_orders == 2  # at 0 and 4 s
    at = np.asarray(result.path.order_size)[:, 0]
    assert set(np.round(at * 10, 9).tolist()) == {0.0, 5.0, 12.0}


def test_room_for_a_fraction_of_an_increment_is_no_order():
    rows = [START, CLOSE]
    result = run(rows, quote(size=1.0), n_levels=3, size_increment=0.1, max_inventory=1.1 + 1e-12)
    # One lot, a tenth, nothing.
    assert (result.n_bid_orders, result.rejected) == (2, 2)


class At(AbstractPolicy):
    """A bid and an ask at a fixed depth, in ticks of 0.01."""

    depth: object

    def __call__(self, state):
        one = jnp.ones_like(state.mid)
        return Quotes(self.depth * one, self.depth * one, one, one)


@pytest.mark.parametrize("reference", [100, 101])
def test_halves_are_rounded_away_from_the_mid_wherever_the_reference_lies(reference):
    timing = {"decision_interval": 1000.0, "reference_ticks": reference}
    result = run([START, CLOSE], At(jnp.array(0.015)), rounding="nearest", timing=timing)
    np.testing.assert_array_equal(result.path.order_ticks[-1] + reference, [99, 103])  # 101 -+ 1.5


@pytest.mark.thorough
def test_nothing_joins_an_empty_side():
    """The book loses its bids before the second decision: the desk takes its own away and sends none."""
    rows = [START, (1.0, CANCEL, BID, 100, 300, (0, 0, 102, 300)), (9.0, ADD, BID, 99, 1, (99, 1, 102, 300))]
    result = run(rows, improves_touch=False, timing={"decision_interval": 2.0})
    assert (result.n_bid_orders, result.n_ask_orders) == (1, 1)
    assert result.path.order_size[-1].tolist() == [0, 1]


def order_feed(*rows):
    """Session from (seconds, kind, side, ticks, size, order)."""
    updates = [(round(t * NS), *rest) for t, *rest in rows]
    return dataclasses.replace(make_session(updates, [(0, 0, 0, 0)] * len(rows)), books=None)


BOOK = [(0, ADD, BID, 100, 100, 1), (0, ADD, ASK, 102, 100, 2)]


def lots_bought(*rows):
    return float(play(order_feed(*BOOK, *rows, (9, ADD, BID, 90, 1, 99)), queue_model="fifo").bid_fills)


def test_executions_behind_an_order_add_up_until_they_reach_it():
    behind = [(1, ADD, BID, 100, 500, 3), (2, DELETE, BID, 100, 100, 1)]
    small = [(3 + n, TRADE, BID, 100, 20, 3) for n in range(3)]
    assert lots_bought(*behind, *small[:2]) == 0  # 40 of our 100
    assert lots_bought(*behind, *small) == 1  # 60 round to one lot
    # In front of us nothing counts, however much it is.
    assert lots_bought((1, TRADE, BID, 100, 100, 1), (2, ADD, BID, 100, 500, 3)) == 0


def test_fifo_knows_whose_order_left():
    """The level shrinks by as much either way; only an execution behind us says that our turn had come."""
    rows = [(1, ADD, BID, 100, 300, 3), (2, CANCEL, BID, 100, 60, 1), (3, CANCEL, BID, 100, 60, 3)]
    assert lots_bought(*rows, (4, TRADE, BID, 100, 40, 1)) == 0
    assert lots_bought(*rows, (4, TRADE, BID, 100, 100, 3)) == 1


@pytest.mark.thorough
def test_a_grid_slot_keeps_the_nearest_order():
    """Bids rest at 99 and 98; 98 and 97 are wanted. The order at 98 keeps its place, the other one moves."""
    moved = (98, 300, 102, 300)  # the mid goes from 101 to 100
    rows = [START, (1.0, ADD, ASK, 100, 100, moved), (3.0, ADD, ASK, 100, 100, moved)]
    result = run(rows, quote(0.02), n_levels=2, refresh_ticks=2.0, timing={"decision_interval": 2.0})
    assert sorted((result.path.order_ticks[-1, 0] + 101).tolist()) == [97, 98]
    assert result.n_bid_orders == 3
