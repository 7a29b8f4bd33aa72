import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.market.events import NS, DataError, Kind
from mfamm_jax.market.ladder import book_rows, build_ladder
from mfamm_jax.simulation.replay import ReplayConfig
from mfamm_jax.simulation.tape import Action, build_tape

from ..checks import assert_close
from ..market.sessions import make_session
from .oracle_books import LevelBook
from .random_sessions import SESSIONS
from .shapes import padded, recorded
from .tapes import ADD, ASK, BID, CANCEL, HALT, START, TRADE, neutral, quote
from .tapes import session as book_feed

LEVEL, CLEAR = Kind.LEVEL, Kind.CLEAR
BOOK = [(0, LEVEL, BID, 100, 5), (0, LEVEL, BID, 99, 4), (0, LEVEL, ASK, 102, 6), (0, LEVEL, ASK, 103, 7)]
CLOSE = (9.0, ADD, BID, 90, 100, (100, 300, 102, 300))


def level_feed(*rows, received=None):
    """Session from (seconds, kind, side, ticks, size); `received` in seconds."""
    updates = [(round(t * NS), kind, side, ticks, size, 0) for t, kind, side, ticks, size in rows]
    session = make_session(updates, [(0, 0, 0, 0)] * len(rows))
    local = None if received is None else np.array([round(t * NS) for t in received], np.int64)
    return dataclasses.replace(
        session, books=None, feed="levels", updates=dataclasses.replace(session.updates, local_ns=local)
    )


def steps(tape, timeline):
    """(second, action, number of level changes) of every step."""
    columns = (timeline.tape_ns / NS, tape.moment.action.tolist(), tape.moment.n_changes.tolist())
    return [(t, Action(a).name, n) for t, a, n in zip(*columns)]


def test_changes_of_different_levels_that_leave_the_best_prices_share_a_step():
    session = level_feed(
        *BOOK,
        (1, LEVEL, BID, 100, 8),
        (2, LEVEL, ASK, 104, 1),
        (3, LEVEL, BID, 99, 2),
        (4, LEVEL, BID, 99, 3),  # once more: a step of its own
        (5, LEVEL, ASK, 103, 9),
        (6, LEVEL, ASK, 101, 2),  # a new best price ends a step
        (7, LEVEL, BID, 98, 1),
        (8, TRADE, ASK, 101, 1),
        (8.5, LEVEL, ASK, 101, 1),
        (9, LEVEL, BID, 97, 1),
    )
    tape, timeline = build_tape(session, decision_interval=9.0, start_ns=NS // 2, depth_ticks=50)
    assert steps(tape, timeline)[1:] == [
        (0.5, "DECIDE", 0),
        (0.5, "ARRIVE", 0),
        (3, "LEVELS", 3),
        (6, "LEVELS", 3),
        (7, "LEVELS", 1),
        (8, "TRADE", 0),
        (9, "LEVELS", 2),
    ]
    assert tape.width == 3
    whole, timeline = build_tape(session, decision_interval=9.0, start_ns=NS // 2, depth_ticks=50, reduce=False)
    assert [n for _, kind, n in steps(whole, timeline) if kind == "LEVELS"] == [1] * 10
    assert sum(n for _, _, n in steps(tape, timeline=dataclasses.replace(timeline, tape_ns=np.zeros(99)))) == 10


def test_a_step_makes_no_more_changes_than_its_window_holds():
    many = [(1, LEVEL, BID, 90 - n, 1) for n in range(70)]
    tape, timeline = build_tape(level_feed(*BOOK, *many), decision_interval=0.9, start_ns=NS // 10)
    assert [n for t, _, n in steps(tape, timeline) if t == 1] == [32, 32, 6]


def test_a_clear_and_a_halt_change_what_follows():
    session = level_feed(
        *BOOK,
        (1, HALT, 0, -1, 0),
        (2, CLEAR, BID, 100, 0),
        (3, LEVEL, ASK, 104, 1),
        (4, HALT, 0, 1, 0),
        (5, LEVEL, ASK, 104, 2),
    )
    tape, timeline = build_tape(session, decision_interval=4.5, start_ns=NS // 2)
    after = {
        t: (int(b), bool(x)) for t, b, x in zip(timeline.tape_ns / NS, tape.moment.best_bid, tape.moment.is_trading)
    }
    reference = round(float(tape.reference_price / tape.tick_size))
    assert after[2] == (99 - reference, False)
    assert after[3] == (99 - reference, False)
    assert after[4] == (99 - reference, True)


@pytest.mark.parametrize("feed", ["levels", "books", "orders"])
@pytest.mark.parametrize("start", [3.0, 8.0])
def test_a_start_in_mid_session_begins_with_the_book_of_that_moment(feed, start):
    session = SESSIONS[feed](11)
    tape, timeline = build_tape(session, decision_interval=0.5, start_ns=round(start * NS), depth_ticks=40)
    reference = round(float(tape.reference_price / tape.tick_size))
    ladder = build_ladder(session)
    width = tape.ladder.shape[0] // 2
    quantities = np.asarray(tape.ladder)
    assert tape.first_row > 0
    for side, half in ((BID, quantities[:width]), (ASK, quantities[width:])):
        change = (ladder.side == side) & (ladder.row < tape.first_row)
        expected = dict(zip(ladder.ticks[change].tolist(), ladder.size[change].tolist()))
        shown = {n + int(tape.base) + reference: float(half[n]) for n in np.flatnonzero(half)}
        assert shown == {t: s for t, s in expected.items() if s > 0}
    # Every decision finds a row that it has seen; the first row is in force or on its way at the start.
    assert (timeline.seen_row >= 0).all()
    assert session.updates.t_ns[tape.first_row] <= start * NS


@pytest.mark.thorough
def test_the_queue_of_a_new_order_is_the_quantity_shown_when_it_arrives():
    session = SESSIONS["levels"](13)
    tape, timeline = build_tape(session, decision_interval=0.1, order_latency=0.05, depth_ticks=60)
    reference = round(float(tape.reference_price / tape.tick_size))
    wide = padded(tape)
    path = recorded(quote(0.02, 1.0), wide, neutral(wide), ReplayConfig()).path
    book, row, n, checked = LevelBook(), 0, len(timeline.tape_ns), 0
    u = session.updates
    for step in np.flatnonzero(np.asarray(path.accepted).any(1)):
        assert tape.moment.action[step] == Action.ARRIVE
        while row < len(u) and u.t_ns[row] <= timeline.tape_ns[step]:
            book.apply(*(int(x[row]) for x in (u.kind, u.side, u.price_ticks)), float(u.size[row]), 0)
            row += 1
        for column, side in ((0, BID), (1, ASK)):
            if path.accepted[step, column]:
                ticks = int(path.order_ticks[step, column]) + reference
                assert float(path.order_front[step, column]) == book.size(side, ticks)
                checked += 1
    assert n > 100
    assert checked > 20


@pytest.mark.parametrize(("depth", "front", "filled"), [(100, 0.0, [0, 1, 0]), (10, np.inf, [0, 0, 1])])
def test_orders_outside_the_ladder_are_filled_only_by_prices_beyond_theirs(depth, front, filled):
    """Inside, our price is first in an empty level; outside, nothing is known of it. The bid rests at 60."""
    session = level_feed(*BOOK, (1, TRADE, BID, 60, 5000), (2, TRADE, BID, 59, 1), (9, LEVEL, BID, 99, 5))
    tape, timeline = build_tape(session, decision_interval=1000.0, depth_ticks=depth)
    wide = padded(tape)
    path = recorded(quote(0.41), wide, neutral(wide), ReplayConfig()).path
    accepted = np.flatnonzero(np.asarray(path.accepted)[:, 0])
    assert path.order_front[accepted, 0].tolist() == [front]
    lots = np.asarray(path.fill)[: len(timeline.tape_ns), 0]
    assert [lots[timeline.tape_ns == t * NS].sum() for t in (0, 1, 2)] == filled


def test_a_decision_at_every_event_received():
    session = level_feed(*BOOK, (1, LEVEL, BID, 98, 1), (2, LEVEL, BID, 97, 1), (4, LEVEL, BID, 96, 1),
                         received=(0, 0, 0, 0, 3.5, 2.5, 4.5))  # fmt: skip
    tape, timeline = build_tape(session, decision_interval=None)
    assert (timeline.decision_ns / NS).tolist() == [0, 2.5, 3.5]  # once for all that comes together; not after the end
    assert (tape.first_row + timeline.seen_row).tolist() == [3, 5, 4]
    assert (tape.first_row + timeline.feature_row).tolist() == [3, 3, 5]
    _, timeline = build_tape(session, decision_interval=None, feed_latency=0.25, start_ns=NS)
    assert (timeline.decision_ns / NS).tolist() == [2.75, 3.75]


def seen(session, **timing):
    """(mid, bid, ask) in ticks that every decision sees; None for what is not there."""
    tape, _ = build_tape(session, **timing)
    reference = round(float(tape.reference_price / tape.tick_size))
    mid = np.asarray(tape.decision_mid) / float(tape.tick_size) + reference
    sides = [[int(x) + reference if abs(int(x)) < 2**29 else None for x in column]
             for column in (tape.decision_bid, tape.decision_ask)]  # fmt: skip
    return [(round(float(m), 6), b, a) if s else None for m, b, a, s in zip(mid, *sides, tape.sees_market)]


def test_a_decision_sees_the_book_that_it_has_received():
    session = level_feed(
        *BOOK,
        (1, LEVEL, BID, 101, 3),  # overtaken by
        (2, LEVEL, ASK, 102, 0),
        (3, LEVEL, BID, 101, 0),
        (7, LEVEL, BID, 90, 1),
        received=(0, 0, 0, 0, 3.5, 2.5, 4.5, 7),
    )
    # At 3 s the ask has gone, the bid is not known; at 4 s the bid is there; at 5 s it has gone again.
    expected = [(101, 100, 102)] * 3 + [(101.5, 100, 103), (102, 101, 103), (101.5, 100, 103), (101.5, 100, 103)]
    assert seen(session, decision_interval=1.0) == expected
    # What a message says last of a level holds, even if it is the older one.
    session = level_feed(*BOOK, (1, LEVEL, BID, 101, 3), (2, LEVEL, BID, 101, 0), (5, LEVEL, BID, 90, 1),
                         received=(0, 0, 0, 0, 3.5, 2.5, 5))  # fmt: skip
    assert seen(session, decision_interval=1.0)[2:] == [(101, 100, 102)] * 2 + [(101.5, 101, 102)]


def test_a_one_sided_book_keeps_the_last_mid_received():
    session = level_feed(
        *BOOK,
        (1, LEVEL, BID, 101, 3),
        (2, CLEAR, BID, 99, 0),
        (4, LEVEL, BID, 95, 1),
        (6, LEVEL, BID, 95, 2),
        received=(0, 0, 0, 0, 5, 2, 4.5, 6),
    )
    expected = [(101, 100, 102)] * 2 + [(101, None, 102)] * 3 + [(101.5, 101, 102)]
    assert seen(session, decision_interval=1.0) == expected


def test_before_two_sides_are_known_there_is_no_market():
    session = level_feed((0, LEVEL, BID, 100, 5), (1, LEVEL, ASK, 102, 6), (3, LEVEL, ASK, 103, 6))
    assert seen(session, decision_interval=1.0) == [None, (101, 100, 102), (101, 100, 102)]
    with pytest.raises(DataError, match="both a bid and an ask"):
        build_tape(level_feed((0, LEVEL, BID, 100, 5), (1, LEVEL, BID, 102, 6)), decision_interval=0.5)


def test_book_rows_that_overtake_one_another_show_the_row_received_last():
    session = SESSIONS["books"](14)
    u = session.updates
    got = seen(session, decision_interval=0.25)
    ladder = build_ladder(session)
    for number, view in enumerate(got):
        now = int(u.t_ns[0]) + number * NS // 4
        known = [(int(t), row) for row, t in enumerate(u.local_ns) if t <= now]
        row = max(known)[1]
        book = book_rows(ladder, np.array([row]), 1)
        if view is not None:
            bid = int(book.bid_ticks[0, 0]) if book.bid_size[0, 0] else None
            ask = int(book.ask_ticks[0, 0]) if book.ask_size[0, 0] else None
            assert view[1:] == (bid, ask)
            if bid is not None and ask is not None:
                assert_close(view[0], (bid + ask) / 2, float32=1e-6)


@pytest.mark.thorough
def test_the_reference_changes_no_fill():
    rows = SESSIONS["levels"](15)
    results = []
    for reference in (1000, 1001, 700):
        tape, _ = build_tape(rows, decision_interval=0.1, reference_ticks=reference, depth_ticks=60)
        config = ReplayConfig(rounding="nearest")
        wide = padded(tape)
        results.append(recorded(quote(0.01, 2.0), wide, neutral(wide), config))
    assert results[0].n_bid_fills > 3
    for other in results[1:]:
        assert (other.n_bid_fills, other.n_ask_fills) == (results[0].n_bid_fills, results[0].n_ask_fills)
        assert_close(other.pnl, results[0].pnl)


def test_later_mids_are_those_in_force_then():
    session = level_feed(*BOOK, (1, LEVEL, BID, 101, 3), (3, LEVEL, BID, 101, 0), (5, LEVEL, BID, 98, 1))
    tape, timeline = build_tape(session, decision_interval=4.0, markout_seconds=(0.0, 1.5, 100.0), reference_ticks=100)
    ticks = np.asarray(tape.moment.later_mid) / 0.01
    last = dict(zip(timeline.tape_ns / NS, ticks))
    np.testing.assert_allclose(last[1], [1.5, 1.5, 1.0], atol=1e-9)
    np.testing.assert_allclose(last[3], [1.0, 1.0, 1.0], atol=1e-9)
    assert tape.moment.later_mid.dtype == jnp.result_type(float)


def test_a_cancelled_level_of_book_rows_is_a_change_of_one_level():
    rows = [START, (1.0, CANCEL, BID, 100, 100, (100, 200, 102, 300)), CLOSE]
    tape, timeline = build_tape(book_feed(*rows), decision_interval=1000.0)
    assert [n for t, _, n in steps(tape, timeline) if t == 1] == [1]
