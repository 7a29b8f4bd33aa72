import functools
import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mfamm_jax.market.events import DataError, Kind
from mfamm_jax.market.ladder import book_rows, build_ladder
from mfamm_jax.market.loaders.bitstamp import load_bitstamp

MIDNIGHT_MS = 1_430_438_400_000  # 2015-05-01 UTC
HEADER = "id,timestamp,exchange.timestamp,price,volume,action,direction"


def write(folder, rows, header=HEADER, name="orders.csv"):
    """Rows (id, ms after midnight, price, volume, action, direction)."""
    lines = [f"{i},{MIDNIGHT_MS + ms},{MIDNIGHT_MS},{price},{volume},{a},{d}" for i, ms, price, volume, a, d in rows]
    text = "\n".join([header, *lines]) + "\n"
    (folder / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return folder / name


def load(folder, *rows):
    session = load_bitstamp(write(folder, rows))
    u = session.updates
    return session, list(zip((u.t_ns // 10**6).tolist(), u.kind, u.side, u.price_ticks, u.size, u.order_id))


def test_volume_is_what_remains_of_the_order(tmp_path):
    session, rows = load(
        tmp_path,
        (1, 5, 236.47, 200_000_000_000, "created", "bid"),
        (2, 6, 236.50, 70, "created", "ask"),
        (1, 7, 236.47, 150_000_000_000, "changed", "bid"),
        (1, 8, 236.47, 150_000_000_000, "deleted", "bid"),
    )
    assert rows == [
        (5, Kind.ADD, 1, 23647, 2e11, 1),
        (6, Kind.ADD, -1, 23650, 70, 2),
        (7, Kind.CANCEL, 1, 23647, 5e10, 1),
        (8, Kind.DELETE, 1, 23647, 1.5e11, 1),
    ]
    assert session.feed == "orders"
    assert session.size_unit == 1e-8
    assert session.tick_size == 0.01
    assert session.epoch_ns == MIDNIGHT_MS * 10**6
    assert session.updates.size.dtype == np.float64
    assert session.updates.local_ns is None  # the clock is the local one
    assert session.counts["unmatched_losses"] == 1


def test_equal_losses_of_a_bid_and_an_ask_are_an_execution_of_the_older(tmp_path):
    session, rows = load(
        tmp_path,
        (1, 0, 101.0, 50, "created", "ask"),
        (2, 0, 100.0, 50, "created", "bid"),
        (3, 10, 101.0, 80, "created", "bid"),  # a buyer takes all of 1
        (3, 20, 101.0, 30, "changed", "bid"),
        (1, 21, 101.0, 0, "deleted", "ask"),
        (3, 30, 101.0, 30, "deleted", "bid"),  # and withdraws the rest
    )
    assert [row[1] for row in rows[3:]] == [Kind.CANCEL, Kind.TRADE, Kind.DELETE]
    assert rows[4] == (21, Kind.TRADE, -1, 101, 50, 1)
    assert session.counts["matches"] == 1
    assert session.counts["unmatched_losses"] == 0
    ladder = build_ladder(session)
    assert ladder.best_ask[-1] == 2**30
    assert ladder.best_bid[-1] == 100


@pytest.mark.parametrize(
    ("volume", "ms", "side", "is_match"),
    [(32, 20, "ask", True), (33, 20, "ask", False), (30, 131, "ask", False), (30, 20, "bid", False)],
)
def test_a_match_has_two_sides_one_volume_and_one_moment(tmp_path, volume, ms, side, is_match):
    session, rows = load(
        tmp_path,
        (1, 0, 101.0, 50, "created", side),
        (2, 10, 101.0 if side == "ask" else 99.0, 80, "created", "bid"),
        (2, 20, 101.0 if side == "ask" else 99.0, 50, "changed", "bid"),
        (1, ms, 101.0, 50 - volume, "changed", side),
    )
    assert session.counts["matches"] == is_match
    assert session.counts["unmatched_losses"] == (0 if is_match else 2)
    assert rows[-1][1] == (Kind.TRADE if is_match else Kind.CANCEL)


def test_a_resting_order_from_before_the_recording_is_executed_too(tmp_path):
    session, rows = load(
        tmp_path,
        (9, 0, 236.47, 200, "created", "bid"),
        (9, 5, 236.47, 180, "changed", "bid"),
        (4, 7, 236.47, 0, "deleted", "ask"),
    )
    assert rows[1:] == [(5, Kind.CANCEL, 1, 1, 20, 9), (7, Kind.TRADE, -1, 1, 20, 4)]
    assert session.counts["unknown_orders"] == 1
    assert session.counts["matches"] == 1


def test_a_moved_price_and_a_grown_volume_lose_their_place(tmp_path):
    session, rows = load(
        tmp_path,
        (1, 0, 100.0, 50, "created", "bid"),
        (1, 1, 101.0, 40, "changed", "bid"),
        (1, 2, 101.0, 45, "changed", "bid"),
        (1, 3, 101.0, 45, "deleted", "bid"),
    )
    assert [(kind, price, size) for _, kind, _, price, size, _ in rows] == [
        (Kind.ADD, 100, 50),
        (Kind.DELETE, 100, 50),
        (Kind.ADD, 101, 40),
        (Kind.DELETE, 101, 40),
        (Kind.ADD, 101, 45),
        (Kind.DELETE, 101, 45),
    ]
    assert session.counts["price_moves"] == 1
    assert session.counts["growths"] == 1
    assert session.counts["unmatched_losses"] == 0


def test_a_deletion_that_overtakes_its_creation_leaves_no_order(tmp_path):
    session, rows = load(
        tmp_path,
        (1, 0, 100.0, 50, "deleted", "bid"),
        (1, 1, 100.0, 50, "created", "bid"),
        (2, 2, 101.0, 50, "created", "bid"),
        (2, 3, 101.0, 50, "deleted", "bid"),
        (2, 4, 101.0, 50, "deleted", "bid"),
    )
    assert [row[1] for row in rows] == [Kind.ADD, Kind.DELETE]
    assert session.counts["after_deletion"] == 2
    assert session.counts["unknown_orders"] == 1


def test_an_order_crossed_for_more_than_a_second_is_dropped(tmp_path):
    stale = (1, 0, 101.0, 50, "created", "ask")
    rows = [stale, (2, 10, 103.0, 50, "created", "ask"), (3, 20, 102.0, 80, "created", "bid")]
    session, events = load(tmp_path, *rows, (4, 1020, 99.0, 1, "created", "bid"))
    assert session.counts["stale_orders"] == 0
    session, events = load(
        tmp_path, *rows, (4, 1021, 99.0, 1, "created", "bid"), (1, 1022, 101.0, 50, "deleted", "ask")
    )
    assert session.counts["stale_orders"] == 1
    assert session.counts["after_deletion"] == 1
    assert events[3] == (1021, Kind.DELETE, -1, 101, 50, 1)
    ladder = build_ladder(session)
    assert (ladder.best_bid[-1], ladder.best_ask[-1]) == (102, 103)
    assert "1 stale" in session.notes[1]


def test_a_buyer_that_matches_one_seller_after_another_is_not_stale(tmp_path):
    rows = [(n, n, 101.0 + n / 100, 50, "created", "ask") for n in range(1, 5)]
    rows.append((9, 10, 102.0, 500, "created", "bid"))
    for n in range(1, 5):
        rows.append((9, 10 + 500 * n, 102.0, 500 - 50 * n, "changed", "bid"))
        rows.append((n, 10 + 500 * n, 101.0 + n / 100, 0, "deleted", "ask"))
    session, _ = load(tmp_path, *rows)
    assert session.counts["stale_orders"] == 0
    assert session.counts["matches"] == 4
    assert session.counts["crossings"] == 1


GOOD = (1, 0, 100.0, 50, "created", "bid")
BAD = {
    "not a number": ((2, 1, "abc", 50, "created", "bid"), "row 3: price is 'abc', expected a number"),
    "NaN": ((2, 1, "nan", 50, "created", "bid"), "row 3: price is .*nan.*, expected a number"),
    "no price": ((2, 1, "", 50, "created", "bid"), "row 3: price is None"),
    "zero price": ((2, 1, 0.0, 50, "created", "bid"), "row 3: price is 0.0"),
    "negative volume": ((2, 1, 100.0, -5, "created", "bid"), "row 3: volume is -5, expected >= 0"),
    "coins": ((2, 1, 100.0, 0.5, "created", "bid"), "row 3: volume is '0.5'"),
    "unknown action": ((2, 1, 100.0, 5, "moved", "bid"), "row 3: action is 'moved', expected created"),
    "unknown side": ((2, 1, 100.0, 5, "created", "buy"), "row 3: direction is 'buy', expected bid or ask"),
    "time backwards": ((2, -1, 100.0, 5, "created", "bid"), "row 3: timestamp .* earlier than the row before"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_named_with_what_was_expected(tmp_path, case):
    row, message = BAD[case]
    with pytest.raises(DataError, match=message):
        load_bitstamp(write(tmp_path, [GOOD, row]))


def test_files_that_cannot_be_read_say_what_to_do(tmp_path):
    with pytest.raises(DataError, match="no column action"):
        load_bitstamp(write(tmp_path, [GOOD], header=HEADER.replace("action", "event")))
    with pytest.raises(DataError, match="empty"):
        load_bitstamp(write(tmp_path, []))
    with pytest.raises(DataError, match="no such file"):
        load_bitstamp(tmp_path / "missing.csv")
    file = write(tmp_path, [GOOD], name="orders.csv.gz")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match="truncated or damaged archive"):
        load_bitstamp(file)


@functools.cache
def load_recording(file: Path):
    session = load_bitstamp(file)
    return session, build_ladder(session)


@pytest.fixture
def recording(data_folder: Path):
    """Session, ladder, table of the file, published facts."""
    file = data_folder / "bitstamp_btcusd_20150501" / "orders.csv.gz"
    facts = json.loads((data_folder / "facts.json").read_text())["bitstamp_btcusd_20150501"]
    return *load_recording(file), pl.read_csv(file), facts


def test_the_recording_has_the_published_counts(recording):
    session, _, _, published = recording
    assert session.counts["rows"] == published["n_rows"]
    assert {action: session.counts[action] for action in published["actions"]} == published["actions"]
    t_ns = session.updates.t_ns
    assert session.epoch_ns + t_ns[0] == published["first_ts_ms"] * 10**6
    assert session.epoch_ns + t_ns[-1] == published["last_ts_ms"] * 10**6
    assert (np.diff(t_ns) >= 0).all()
    adds = session.updates.price_ticks[session.updates.kind == Kind.ADD] * session.tick_size
    assert (adds.min(), adds.max()) == pytest.approx((published["price_min"], published["price_max"]))


def test_unknown_orders_of_the_recording_are_those_never_created_before(recording):
    session, _, table, _ = recording
    created, deleted, unknown = set(), set(), 0
    for order, action in table.select("id", "action").iter_rows():
        unknown += action != "created" and order not in created and order not in deleted
        if action != "changed":
            (created if action == "created" else deleted).add(order)
    assert session.counts["unknown_orders"] == unknown > 0


def test_the_recorded_book_crosses_only_while_orders_are_matched(recording):
    session, ladder, _, published = recording
    assert session.counts["stale_orders"] == 0
    assert session.counts["matches"] > 550  # of the 567 rows in which a bid loses volume
    assert ladder.n_crossed == session.counts["crossings"]
    assert ladder.n_crossed < published["naive_order_replay_after_first_60s"]["crossed_or_locked_states"] / 50


def test_the_recorded_book_ends_with_the_orders_that_were_never_deleted(recording):
    session, ladder, table, _ = recording
    by_id = table.group_by("id").agg(
        pl.col("action").is_in(["deleted"]).any().alias("deleted"),
        (pl.col("action") == "created").any().alias("created"),
        pl.col("price", "volume", "direction").last(),
    )
    left = by_id.filter(pl.col("created"), ~pl.col("deleted"))
    book = book_rows(ladder, np.array([len(session.updates) - 1]), 1000)
    for side, ticks, size in (("bid", book.bid_ticks, book.bid_size), ("ask", book.ask_ticks, book.ask_size)):
        levels = left.filter(pl.col("direction") == side).group_by("price").agg(pl.col("volume").sum())
        expected = {round(price * 100): volume for price, volume in levels.iter_rows()}
        assert dict(zip(ticks[size > 0].tolist(), size[size > 0].tolist())) == expected
