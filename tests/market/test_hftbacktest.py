import gzip
import json

import numpy as np
import pytest

from mfamm_jax.market.events import DataError, Kind
from mfamm_jax.market.ladder import NO_ASK, NO_BID, book_rows, build_ladder
from mfamm_jax.market.loaders.files import file_hash
from mfamm_jax.market.loaders.hftbacktest import load_hftbacktest
from mfamm_jax.market.loaders.hftbacktest_raw import load_hftbacktest_raw

DAY = 1_723_075_200_000_000_000  # 2024-08-08
RECORD = [
    ("ev", "u8"),
    ("exch_ts", "i8"),
    ("local_ts", "i8"),
    ("px", "f8"),
    ("qty", "f8"),
    ("order_id", "u8"),
    ("ival", "i8"),
    ("fval", "f8"),
]
EXCHANGE, LOCAL, BUY, SELL = 1 << 31, 1 << 30, 1 << 29, 1 << 28
BOTH = EXCHANGE | LOCAL
LEVEL, TRADE, CLEAR, SNAPSHOT, BEST, ADD, CANCEL, MODIFY, FILL = 1, 2, 3, 4, 5, 10, 11, 12, 13
NOTHING = float("nan")


def events(rows):
    """Rows (flags and event, exchange ns, local ns, price, quantity[, order id])."""
    filled = [(ev, DAY + sent, DAY + received, *rest, *[0] * (5 - len(rest))) for ev, sent, received, *rest in rows]
    return np.array([tuple(row) for row in filled], RECORD)


def write(folder, rows, name="feed.npz"):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / name, data=events(rows))
    return folder / name


def columns(session):
    updates = session.updates
    parts = (updates.t_ns, updates.kind, updates.side, updates.price_ticks, updates.size, updates.order_id)
    return list(zip(*(part.tolist() for part in parts)))


def best(session):
    ladder = build_ladder(session)
    return list(zip(ladder.best_bid.tolist(), ladder.best_ask.tolist()))


LEVELS = [
    (BOTH | SNAPSHOT | BUY, 100, 150, 10.0, 3),
    (BOTH | SNAPSHOT | BUY, 100, 150, 9.5, 4),
    (BOTH | SNAPSHOT | SELL, 100, 150, 10.5, 2),
    (BOTH | SNAPSHOT | SELL, 100, 150, 11.5, 6),
    (EXCHANGE | TRADE | BUY, 200, 290, 10.5, 2),  # received after the change that was sent after it
    (EXCHANGE | LEVEL | SELL, 210, 260, 10.5, 0),
    (LOCAL | LEVEL | SELL, 210, 260, 10.5, 0),
    (LOCAL | TRADE | BUY, 200, 290, 10.5, 2),
    (BOTH | BEST | BUY, 215, 295, 10.0, 3),
    (BOTH | TRADE | SELL, 220, 300, 10.0, 1.5),
    (BOTH | LEVEL | BUY, 220, 300, 10.0, 1.5),
    (BOTH | CLEAR | BUY, 300, 350, 9.5, 0),
    (BOTH | LEVEL | BUY, 310, 360, 9.0, 1),
]


def test_the_exchanges_rows_of_a_level_feed_are_read(tmp_path):
    file = write(tmp_path, LEVELS)
    session = load_hftbacktest(file)
    # Ticks and lots of 0.5. A trade's side is its initiator's in the file, the resting order's here.
    assert columns(session) == [
        (100, Kind.SNAPSHOT, 1, 20, 6, 0),
        (100, Kind.SNAPSHOT, 1, 19, 8, 0),
        (100, Kind.SNAPSHOT, -1, 21, 4, 0),
        (100, Kind.SNAPSHOT, -1, 23, 12, 0),
        (200, Kind.TRADE, -1, 21, 4, 0),
        (210, Kind.LEVEL, -1, 21, 0, 0),
        (220, Kind.TRADE, 1, 20, 3, 0),
        (220, Kind.LEVEL, 1, 20, 3, 0),
        (300, Kind.CLEAR, 1, 19, 0, 0),
        (310, Kind.LEVEL, 1, 18, 2, 0),
    ]
    assert session.updates.local_ns.tolist() == [150] * 4 + [290, 260, 300, 300, 350, 360]
    assert session.updates.aggressor.tolist() == [0] * 4 + [1, 0, -1, 0, 0, 0]
    assert (session.feed, session.tick_size, session.size_unit) == ("levels", 0.5, 0.5)
    assert (session.name, session.epoch_ns, session.books) == ("feed", DAY, None)
    assert session.source == (("feed.npz", file_hash(file)),)
    assert session.counts == {
        "rows": 13,
        "rows_by_event": {"1": 4, "2": 3, "3": 1, "4": 4, "5": 1},
        "clock_correction_ns": 0,
    }
    assert best(session)[3:] == [(20, 21), (20, 21), (20, 23), (20, 23), (20, 23), (NO_BID, 23), (18, 23)]


def test_an_array_without_an_archive_is_the_same_session(tmp_path):
    np.save(tmp_path / "feed.npy", events(LEVELS))
    assert columns(load_hftbacktest(str(tmp_path / "feed.npy"))) == columns(
        load_hftbacktest(write(tmp_path, LEVELS), tick_size=0.5, size_unit=0.5)
    )


def test_a_clear_without_a_price_takes_its_side_and_one_without_a_side_everything(tmp_path):
    def after(clear):
        return best(load_hftbacktest(write(tmp_path, [*LEVELS[:4], (BOTH | clear[0], 200, 300, clear[1], 0)])))[-1]

    assert after((CLEAR | BUY, NOTHING)) == (NO_BID, 21)
    assert after((CLEAR | SELL, NOTHING)) == (20, NO_ASK)
    assert after((CLEAR | SELL, 10.5)) == (20, 23)
    assert after((CLEAR, 0.0)) == (NO_BID, NO_ASK)
    assert after((CLEAR, NOTHING)) == (NO_BID, NO_ASK)


def test_a_clear_may_name_a_price_between_ticks(tmp_path):
    session = load_hftbacktest(write(tmp_path, [*LEVELS[:4], (BOTH | CLEAR | BUY, 200, 300, 9.8, 0)]))
    assert session.tick_size == 0.5
    assert best(session)[-1] == (19, 21)


def test_a_receiving_clock_behind_is_set_forward(tmp_path):
    session = load_hftbacktest(
        write(tmp_path, [(BOTH | LEVEL | BUY, t, t - lead, 10, 1) for t, lead in ((9, 5), (20, 7))])
    )
    assert session.updates.local_ns.tolist() == [11, 20]
    assert session.counts["clock_correction_ns"] == 7
    assert "local clock behind" in session.notes[0]


ORDERS = [
    (BOTH | ADD | BUY, 0, 5, 10.0, 5, 1),
    (BOTH | ADD | BUY, 1, 6, 10.0, 7, 2),
    (BOTH | ADD | SELL, 2, 7, 10.2, 4, 3),
    (BOTH | MODIFY | BUY, 3, 8, 10.0, 3, 1),  # smaller: keeps its place
    (BOTH | MODIFY | BUY, 4, 9, 10.0, 8, 1),  # larger: goes to the end of the queue
    (BOTH | MODIFY | SELL, 5, 10, 10.1, 4, 3),  # another price
    (BOTH | TRADE | SELL, 6, 11, 10.0, 2, 0),  # said again by the fill
    (BOTH | FILL | BUY, 6, 11, 10.0, 2, 2),
    (BOTH | CANCEL | BUY, 7, 12, NOTHING, NOTHING, 2),
    (BOTH | FILL | BUY, 8, 13, 10.0, 8, 1),
    (BOTH | CANCEL | BUY, 9, 14, 10.0, 0, 1),  # the fill has taken it all
    (BOTH | CANCEL | SELL, 10, 15, 10.5, 2, 99),  # unknown
    (BOTH | ADD | BUY, 11, 16, 9.9, 1, 4),
    (BOTH | CLEAR, 12, 17, 0, 0, 0),
    (BOTH | MODIFY | SELL, 13, 18, 10.3, 6, 5),  # of an order from before the file
]


def test_order_events_become_additions_cancels_and_executions(tmp_path):
    session = load_hftbacktest(write(tmp_path, ORDERS))
    assert (session.feed, session.tick_size, session.size_unit) == ("orders", 0.1, 1.0)
    assert columns(session) == [
        (0, Kind.ADD, 1, 100, 5, 1),
        (1, Kind.ADD, 1, 100, 7, 2),
        (2, Kind.ADD, -1, 102, 4, 3),
        (3, Kind.CANCEL, 1, 100, 2, 1),
        (4, Kind.DELETE, 1, 100, 3, 1),
        (4, Kind.ADD, 1, 100, 8, 1),
        (5, Kind.DELETE, -1, 102, 4, 3),
        (5, Kind.ADD, -1, 101, 4, 3),
        (6, Kind.TRADE, 1, 100, 2, 2),
        (7, Kind.DELETE, 1, 100, 5, 2),
        (8, Kind.TRADE, 1, 100, 8, 1),
        (10, Kind.DELETE, -1, 105, 2, 99),
        (11, Kind.ADD, 1, 99, 1, 4),
        (12, Kind.CLEAR, 0, 0, 0, 0),
        (13, Kind.ADD, -1, 103, 6, 5),
    ]
    # A fill's side is the resting order's: a seller hit these bids.
    assert session.updates.aggressor[[8, 10]].tolist() == [-1, -1]
    assert session.updates.local_ns[-1] == 18


def test_the_book_of_an_order_feed_by_hand(tmp_path):
    session = load_hftbacktest(write(tmp_path, ORDERS))
    ladder = build_ladder(session)
    assert ladder.row.tolist() == [*range(11), 12, 13, 13, 14]
    assert ladder.size.tolist() == [5, 12, 4, 10, 7, 15, 0, 4, 13, 8, 0, 1, 0, 0, 6]
    assert ladder.removed[:11].tolist() == [-5, -7, -4, 2, 3, -8, 4, -4, 2, 5, 8]
    # The order that grew stands behind the one that came second.
    assert ladder.placed[[3, 4, 5, 8, 10]].tolist() == [0, 0, 5, 1, 5]
    bids = [100] * 10 + [NO_BID] * 2 + [99, NO_BID, NO_BID]
    asks = [NO_ASK] * 2 + [102] * 4 + [NO_ASK] + [101] * 6 + [NO_ASK, 103]
    assert best(session) == list(zip(bids, asks))
    assert ladder.n_unknown == 1


def test_what_is_left_after_fills_does_not_blur_the_lot(tmp_path):
    rows = [(BOTH | ADD | BUY, 0, 5, 10.0, 100.3, 1), (BOTH | FILL | BUY, 1, 6, 10.0, 100.1, 1)]
    session = load_hftbacktest(write(tmp_path, [*rows, (BOTH | CANCEL | BUY, 2, 7, 10.0, 0, 1)]))
    assert session.size_unit == 0.1
    assert session.updates.size.tolist() == [1003, 1001, 2]


GOOD = LEVELS[:4]
BAD = {
    "NaN price": ((BOTH | LEVEL | BUY, 200, 300, NOTHING, 1), "row 6: px is nan, expected a number >= 0"),
    "infinite price": ((BOTH | LEVEL | BUY, 200, 300, np.inf, 1), "row 6: px is inf"),
    "negative price": ((BOTH | TRADE | BUY, 200, 300, -10, 1), r"row 6: px is -10.0"),
    "negative size": ((BOTH | LEVEL | BUY, 200, 300, 10, -1), r"row 6: qty is -1.0, expected a number >= 0"),
    "NaN size": ((BOTH | ADD | BUY, 200, 300, 10, NOTHING, 1), "row 6: qty is nan"),
    "time": (
        (BOTH | LEVEL | BUY, 99, 300, 10, 1),
        "exchange times go backwards; run hftbacktest's correct_event_order",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_named_by_their_place_in_the_file(tmp_path, case):
    row, message = BAD[case]
    local = (LOCAL | LEVEL | BUY, 50, 300, 10, 1)  # not read, but counted; local rows are in local order
    with pytest.raises(DataError, match=f"feed.npz: .*{message}"):
        load_hftbacktest(write(tmp_path, [*GOOD, local, row]))
    load_hftbacktest(write(tmp_path, [*GOOD, local]))
    bad_local = (row[0] & ~EXCHANGE, *row[1:])
    load_hftbacktest(write(tmp_path, [*GOOD, bad_local]))


def test_values_off_a_given_grid_are_named(tmp_path):
    file = write(tmp_path, LEVELS)
    with pytest.raises(DataError, match=r"feed.npz: px: row 2: 9.5 is not a multiple of 1; check tick_size"):
        load_hftbacktest(file, tick_size=1.0)
    with pytest.raises(DataError, match=r"feed.npz: qty: row 10: 1.5 is not a multiple of 1; check size_unit"):
        load_hftbacktest(file, size_unit=1.0)
    fine = load_hftbacktest(file, tick_size=0.25, size_unit=0.1)
    assert (fine.updates.price_ticks[0], fine.updates.size[0]) == (40, 30)


def test_files_that_cannot_be_read_say_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"missing.npz: no such file"):
        load_hftbacktest(tmp_path / "missing.npz")
    file = write(tmp_path, LEVELS)
    file.write_bytes(file.read_bytes()[:-60])
    with pytest.raises(DataError, match=r'not an npz file with an array "data".*convert or download it again'):
        load_hftbacktest(file)
    file.write_bytes(b"")
    with pytest.raises(DataError, match="not an npz file"):
        load_hftbacktest(file)
    np.savez(file, events=events(LEVELS))
    with pytest.raises(DataError, match='not an npz file with an array "data"'):
        load_hftbacktest(file)
    np.savez(file, data=np.zeros(3))
    with pytest.raises(DataError, match="no field ev, exch_ts, local_ts, px, qty, order_id"):
        load_hftbacktest(file)
    np.savez(file, data=events(LEVELS)[["ev", "exch_ts", "local_ts", "px", "qty"]])
    with pytest.raises(DataError, match="no field order_id; expected hftbacktest's event records"):
        load_hftbacktest(file)
    np.savez(file, data=events(LEVELS)[:0])
    with pytest.raises(DataError, match="no events"):
        load_hftbacktest(file)
    with pytest.raises(DataError, match="no exchange rows of depth, trade or order events among 2"):
        load_hftbacktest(write(tmp_path, [(LOCAL | LEVEL | BUY, 0, 1, 10, 1), (BOTH | BEST | BUY, 0, 1, 10, 1)]))
    np.savez(file, data=np.array([{}], object))
    with pytest.raises(DataError, match="not an npz file"):
        load_hftbacktest(file)


@pytest.fixture(scope="module")
def minute():
    """Session of the real minute, made once."""
    loaded = {}

    def load(folder):
        if folder not in loaded:
            loaded[folder] = load_hftbacktest(folder / "hftbacktest" / "btcusdt_usdm_20240808_first60s.npz")
        return loaded[folder]

    return load


def test_the_real_minute_has_the_published_rows(data_folder, minute):
    published = json.loads((data_folder / "facts.json").read_text())["format_fixtures"]
    expected = published["hftbacktest npz (first 60 s of usdm BTCUSDT, made by hftbacktest 2.4.4)"]
    session = minute(data_folder / "format_fixtures")
    assert session.counts["rows"] == expected["rows"]
    assert session.counts["rows_by_event"] == expected["event_kind_counts (ev & 0xff)"]
    updates = session.updates
    assert (updates.local_ns - updates.t_ns).min() == expected["min_local_minus_exch_ns"]
    assert (session.tick_size, session.size_unit) == (0.1, 0.001)
    # 2,519 rows are 2,501 trades: some stand there once for each side of the wire.
    assert (updates.kind == Kind.TRADE).sum() == published["tardis_layout"]["trades_rows"]


def test_the_real_minute_from_its_capture_is_the_same_book(tmp_path, data_folder, minute):
    converted = minute(data_folder / "format_fixtures")
    with gzip.open(data_folder / "binance_btc_20240808" / "usdm_btcusdt_20240808.gz") as stream:
        lines = [next(stream)]
        end = int(lines[0][:19]) + 60 * 10**9
        for line in stream:
            if int(line[:19]) >= end:
                break
            lines.append(line)
    (tmp_path / "minute.gz").write_bytes(gzip.compress(b"".join(lines), 1))
    captured = load_hftbacktest_raw(tmp_path / "minute.gz")
    # The converter's clock correction, to the nanosecond.
    facts = json.loads((data_folder / "facts.json").read_text())["format_fixtures"]
    clock = facts["hftbacktest npz (first 60 s of usdm BTCUSDT, made by hftbacktest 2.4.4)"]
    assert captured.counts["clock_correction_ns"] == clock["clock_correction_applied_ns"]
    trades = [session.updates.kind == Kind.TRADE for session in (converted, captured)]
    for name in ("t_ns", "local_ns", "side", "price_ticks", "size"):
        one, other = (getattr(s.updates, name)[rows] for s, rows in zip((converted, captured), trades))
        np.testing.assert_array_equal(one, other, err_msg=name)
    # All of the book, every second or so and at the end, compared at the end of each exchange time.
    times = np.intersect1d(converted.updates.t_ns, captured.updates.t_ns)
    times = times[times > captured.updates.t_ns[captured.updates.kind == Kind.SNAPSHOT][0]][::300]
    times = np.append(times, captured.updates.t_ns[-1])
    assert len(times) > 5
    books = []
    for session in (converted, captured):
        rows = np.searchsorted(session.updates.t_ns, times, side="right") - 1
        books.append(book_rows(build_ladder(session), rows, 1000))
    for name, values in vars(books[0]).items():
        np.testing.assert_array_equal(values, getattr(books[1], name), err_msg=name)
    assert books[0].bid_size[:, 500].min() > 0
