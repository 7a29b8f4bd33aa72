import dataclasses

import numpy as np
import pytest

from mfamm_jax.market.events import NS, BestQuotes, BookSnapshots, Kind
from mfamm_jax.market.facts import session_facts

from .sessions import make_session

BID, ASK = 1, -1


def make(rows, feed="levels", books=None, received=None, **more):
    """Session from rows (seconds, kind, side, price, size[, order id]) and perhaps rows of a book."""
    updates = [(round(t * NS), kind, side, tick, size, *(rest or [0])) for t, kind, side, tick, size, *rest in rows]
    session = make_session(updates, books or [(0, 0, 0, 0)] * len(rows), more.pop("tick_size", 0.5))
    local = None if received is None else np.array([round(t * NS) for t in received], np.int64)
    updates = dataclasses.replace(session.updates, local_ns=local)
    return dataclasses.replace(session, updates=updates, feed=feed, **({} if books else {"books": None}), **more)


def assert_facts(session, expected, absent=()):
    facts = session_facts(session)
    for name, value in expected.items():
        assert facts[name] == (pytest.approx(value) if isinstance(value, float) else value), name
    for name in absent:
        assert not any(name in fact for fact in facts), name


LEVELS = [
    (0.25, Kind.SNAPSHOT, BID, 100, 5),
    (0.25, Kind.SNAPSHOT, ASK, 102, 4),
    (1.0, Kind.LEVEL, ASK, 101, 3),
    (3.0, Kind.TRADE, ASK, 101, 2),
    (3.0, Kind.TRADE, ASK, 102, 1),
    (3.0, Kind.LEVEL, ASK, 101, 0),
    (4.0, Kind.TRADE, BID, 100, 3),
    (4.5, Kind.LEVEL, BID, 101, 1),
]


def test_a_level_feed_by_hand():
    session = make(
        LEVELS,
        received=[0.3, 0.3, 1.25, 3.0, 3.0, 3.0, 4.5, 4.5],
        size_unit=0.1,
        epoch_ns=NS,
        counts={"gaps": 7},
    )
    # Spreads with both sides there: 2 for 0.75 s, 1 for 2 s, 2 for 1.5 s after three rows of one moment.
    expected = {
        "session": "HAND 2000-01-03",
        "feed": "levels",
        "tick_size": 0.5,
        "size_unit": 0.1,
        "n_events": 8,
        "events_by_kind": {"trade": 3, "snapshot": 2, "level": 3},
        "t_first_s": 0.25,
        "t_last_s": 4.5,
        "duration_s": 4.25,
        "rows_sharing_previous_timestamp": 3,
        "max_gap_s": 2.0,
        "feed_latency_ms": {"min": 0.0, "median": pytest.approx(25.0), "max": pytest.approx(500.0)},
        "received_out_of_order": 0,
        "one_sided_rows": 1,
        "crossed_or_locked_rows": 0,
        "crossing_messages": 0,
        "messages_on_unknown_orders": 0,
        "spread_ticks_event_mean": 10 / 7,
        "spread_ticks_time_mean": (2 * 0.75 + 1 * 2 + 2 * 1.5) / 4.25,
        "spread_ticks_min": 1,
        "spread_ticks_max": 2,
        "one_tick_share_events": 4 / 7,
        "one_tick_share_time": 2 / 4.25,
        "mid_first": 50.5,
        "mid_last": 50.75,
        "mid_min": 50.25,
        "mid_max": 50.75,
        "exec_visible_rows": 3,
        "exec_hidden_rows": 0,
        "exec_rows_per_s": 3 / 4.25,
        "visible_volume": 0.6,
        "hidden_volume": 0.0,
        "buy_initiated_visible_volume": 0.3,
        "sell_initiated_visible_volume": 0.3,
        "buy_initiated_share_of_rows": 2 / 3,
        "marketable_orders": 2,
        "marketable_orders_per_s": 2 / 4.25,
        "mean_exec_size": 0.2,
        "hidden_px_off_tick_grid": 0,
        # The grid starts at the first whole second: mids 100.5, 100.5, 101, 101 half a tick in between.
        "rv_1s_log_over_window": float(np.log(101 / 100.5)),
        "rv_1s_scaled_to_24h": float(np.log(101 / 100.5) * np.sqrt(86400 / 4.25)),
        "rv_5min_log_over_window": 0.0,
        "gaps": 7,
    }
    assert_facts(session, expected, absent=("levels", "depth", "best_quote", "6h30"))


def test_an_order_feed_by_hand():
    session = make(
        [
            (0, Kind.ADD, BID, 100, 50, 1),
            (0, Kind.ADD, ASK, 103, 40, 2),
            (1, Kind.CANCEL, BID, 99, 10, 9),
            (2, Kind.HIDDEN_TRADE, ASK, 102, 30, 0),
            (2, Kind.HIDDEN_TRADE, BID, 101, 20, 8),
            (3, Kind.ADD, BID, 103, 5, 4),
            (5, Kind.DELETE, BID, 103, 5, 4),
            (6, Kind.DELETE, ASK, 103, 40, 2),
        ],
        feed="orders",
        tick_size=0.01,
        n_off_tick=3,
    )
    # The order at 103 locks the book: the ask behind it counts again once it has left.
    expected = {
        "crossing_messages": 1,
        "messages_on_unknown_orders": 1,
        "one_sided_rows": 3,
        "spread_ticks_time_mean": 3.0,
        "spread_ticks_event_mean": 3.0,
        "one_tick_share_time": 0.0,
        "mid_first": 1.015,
        "exec_visible_rows": 0,
        "exec_hidden_rows": 2,
        "hidden_volume": 50.0,
        "mean_exec_size": 0.0,
        "buy_initiated_share_of_rows": 0.0,
        "marketable_orders": 0,
        "hidden_rows_with_order_id_0": 1,
        "hidden_px_off_tick_grid": 3,
        "rv_1s_log_over_window": 0.0,
        "rv_1s_scaled_to_6h30": 0.0,
    }
    assert_facts(session, expected, absent=("size_unit", "feed_latency", "received", "24h"))


def test_trades_alone_have_no_spread():
    rows = [(1, Kind.TRADE, ASK, 100, 2), (1, Kind.TRADE, BID, 99, 3), (1, Kind.TRADE, BID, 98, 1)]
    session = make([*rows, (3, Kind.TRADE, BID, 98, 4)], feed="trades", tick_size=0.01)
    expected = {
        "exec_visible_rows": 4,
        "exec_rows_per_s": 2.0,
        "visible_volume": 10.0,
        "buy_initiated_visible_volume": 2.0,
        "marketable_orders": 3,
        "marketable_orders_per_s": 1.5,
        "mean_exec_size": 2.5,
    }
    assert_facts(session, expected, absent=("spread", "mid", "rv_", "one_sided", "one_tick"))


def test_best_quotes_count_by_their_time_of_receipt():
    books = np.array([[100, 1, 101, 1], [100, 0, 104, 1], [100, 1, 104, 1], [102, 1, 103, 1]], float)[:, None, :]
    quotes = BestQuotes(
        np.array([9, 9, 9, 9], np.int64) * NS,
        (np.array([0.5, 2.5, 3.0, 4.5]) * NS).astype(np.int64),
        BookSnapshots(books[..., 0].astype(np.int32), books[..., 1], books[..., 2].astype(np.int32), books[..., 3]),
    )
    session = make(LEVELS, best_quotes=quotes, epoch_ns=NS)
    expected = {
        "best_quote_rows": 4,
        "one_sided_rows": 1,
        "n_events": 8,
        "spread_ticks_event_mean": 2.0,
        "spread_ticks_time_mean": (1 * 2 + 4 * 1.5) / 3.5,
        "one_tick_share_time": 2 / 3.5,
        "mid_first": 50.25,
        "mid_last": 51.25,
        "exec_rows_per_s": 3 / 4,
        "marketable_orders_per_s": 2 / 4.25,
        # Seconds count from the first quote: 0.5, 1.5, 2.5 (one-sided), 3.5, 4.5.
        "rv_1s_log_over_window": float(np.sqrt(np.log(102 / 100.5) ** 2 + np.log(102.5 / 102) ** 2)),
        "rv_1s_scaled_to_24h": float(np.sqrt(np.log(102 / 100.5) ** 2 + np.log(102.5 / 102) ** 2) * np.sqrt(86400 / 4)),
    }
    assert_facts(session, expected, absent=("crossing_messages",))
    without = dataclasses.replace(session, best_quotes=dataclasses.replace(quotes, local_ns=None))
    assert session_facts(without)["spread_ticks_time_mean"] == 0.0  # all at one moment


def test_depth_of_book_rows_is_in_shares_or_coins():
    wide = [(100 - k, 10 + k, 102 + (k if k < 3 else k + 2), 20 + k) for k in range(5)]
    thin = [(100, 8, 101, 4), (99, 0, 102, 2), (0, 0, 105, 6), (0, 0, 0, 0), (0, 0, 0, 0)]
    rows = [(0, Kind.SNAPSHOT, 0, 0, 0), (1, Kind.SNAPSHOT, 0, 0, 0)]
    expected = {
        "levels": 5,
        "absent_level_cells": 4 + 2,
        "best_bid_size_event_mean": 0.001 * 9,
        "best_ask_size_event_mean": 0.001 * 12,
        "depth5_bid_event_mean": 0.001 * (60 + 8) / 2,
        "depth5_ask_event_mean": 0.001 * (110 + 12) / 2,
        # One gap of four in the first row, one of two in the second.
        "level_gap_gt_1tick_share_ask": 2 / 6,
        "spread_ticks_event_mean": 1.5,
        "size_unit": 0.001,
    }
    assert_facts(make(rows, books=[wide, thin], size_unit=0.001), expected, absent=("depth10",))


def test_book_rows_that_cross_are_counted_and_empty_ones_enter_no_spread():
    rows = [(t, Kind.SNAPSHOT, 0, 0, 0) for t in range(4)]
    session = make(rows, books=[(100, 1, 101, 1), (101, 1, 101, 1), (102, 1, 101, 1), (0, 0, 101, 1)])
    assert_facts(session, {"crossed_or_locked_rows": 2, "one_sided_rows": 1, "spread_ticks_min": -1})
    nobody = make(rows, books=[(0, 0, 101, 1)] * 4)
    assert_facts(nobody, {"one_sided_rows": 4, "exec_rows_per_s": 0.0}, absent=("spread", "mid_", "rv_"))


def test_one_row_has_facts():
    session = make([(1, Kind.TRADE, BID, 100, 2)], books=[(100, 1, 102, 1)])
    assert_facts(session, {"duration_s": 0.0, "max_gap_s": 0.0, "spread_ticks_event_mean": 2.0, "mid_last": 50.5})
