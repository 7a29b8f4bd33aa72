import gzip
import json

import numpy as np
import polars as pl
import pytest

from mfamm_jax.market.events import DataError, Kind
from mfamm_jax.market.ladder import build_ladder
from mfamm_jax.market.loaders.files import file_hash
from mfamm_jax.market.loaders.tardis import load_tardis

DAY = 1_583_020_800_000_000  # 2020-03-01, us
LEVEL_HEADER = "exchange,symbol,timestamp,local_timestamp,is_snapshot,side,price,amount"
TRADE_HEADER = "exchange,symbol,timestamp,local_timestamp,id,side,price,amount"
LEVELS_NAME, TRADES_NAME = "bitmex_incremental_book_L2_2020-03-01_XBTUSD.csv", "bitmex_trades_2020-03-01_XBTUSD.csv"
# (exchange us, local us, rest)
LEVELS = [
    (100, 150, "true,bid,9.5,10"),
    (100, 150, "true,ask,10.0,20"),
    (200, 260, "false,bid,9.5,7"),
    (200, 260, "false,ask,10.5,3.5"),
    (300, 340, "false,bid,9.0,4"),
    (400, 450, "true,bid,9.0,5"),
    (400, 450, "true,ask,9.5,6"),
    (500, 560, "false,ask,9.5,0"),
    (500, 560, "false,ask,10.0,1"),
]
TRADES = [
    (200, 260, "a1,sell,9.5,3"),
    (310, 330, "a2,buy,10.0,1.5"),
    (500, 555, "a3,unknown,9.5,6"),
]


def rows(lines, instrument="bitmex,XBTUSD"):
    return [f"{instrument},{DAY + sent},{DAY + received},{rest}" for sent, received, rest in lines]


def write(folder, name, header, lines):
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join([header, *(rows(lines) if lines and isinstance(lines[0], tuple) else lines)]) + "\n"
    file = folder / name
    file.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return file


def write_both(folder, levels=LEVELS, trades=TRADES):
    write(folder, TRADES_NAME, TRADE_HEADER, trades)
    return write(folder, LEVELS_NAME, LEVEL_HEADER, levels)


def test_levels_and_trades_stand_in_exchange_order(tmp_path):
    write_both(tmp_path)
    session = load_tardis(tmp_path)
    updates = session.updates
    clear, snap, level, trade = Kind.CLEAR, Kind.SNAPSHOT, Kind.LEVEL, Kind.TRADE
    # The trade of 310 was received before the update of 300 and still comes after it; with equal times, trades come first.
    expected = [
        (100, 150, clear, 0, 0, 0),
        (100, 150, snap, 1, 19, 20),
        (100, 150, snap, -1, 20, 40),
        (200, 260, trade, 1, 19, 6),
        (200, 260, level, 1, 19, 14),
        (200, 260, level, -1, 21, 7),
        (300, 340, level, 1, 18, 8),
        (310, 330, trade, -1, 20, 3),
        (400, 450, clear, 0, 0, 0),
        (400, 450, snap, 1, 18, 10),
        (400, 450, snap, -1, 19, 12),
        (500, 555, trade, 0, 19, 12),
        (500, 560, level, -1, 19, 0),
        (500, 560, level, -1, 20, 2),
    ]
    columns = (
        updates.t_ns // 1000,
        updates.local_ns // 1000,
        updates.kind,
        updates.side,
        updates.price_ticks,
        updates.size,
    )
    assert list(zip(*(column.tolist() for column in columns))) == expected
    assert (session.tick_size, session.size_unit) == (0.5, 0.5)
    assert session.feed == "levels"
    assert session.books is None
    assert session.epoch_ns == DAY * 1000
    assert session.name == "bitmex XBTUSD 2020-03-01"
    assert session.counts == {
        "trades": 3,
        "trades_of_unknown_side": 1,
        "level_rows": 9,
        "snapshots": 2,
        "clock_correction_ns": 0,
    }
    assert session.notes == ("1 trades of unknown side, kept with side 0",)
    # A taker's buy takes from an ask.
    assert updates.aggressor[updates.kind == trade].tolist() == [-1, 1, 0]


def test_the_rebuilt_book_starts_anew_at_a_snapshot_in_the_middle(tmp_path):
    write_both(tmp_path)
    ladder = build_ladder(load_tardis(tmp_path))
    assert ladder.best_bid[[2, 7, 10, 13]].tolist() == [19, 19, 18, 18]
    assert ladder.best_ask[[2, 7, 10, 13]].tolist() == [20, 20, 19, 20]


def test_a_book_file_takes_the_trades_beside_it_and_a_trades_file_stays_alone(tmp_path):
    levels = write_both(tmp_path)
    both = load_tardis(levels)
    assert [name for name, _ in both.source] == [TRADES_NAME, LEVELS_NAME]
    assert both.source[1][1] == file_hash(levels)
    assert len(both.updates) == 14
    trades = load_tardis(str(tmp_path / TRADES_NAME))
    assert trades.feed == "trades"
    assert trades.updates.price_ticks.tolist() == [19, 20, 19]
    assert trades.updates.kind.tolist() == [Kind.TRADE] * 3
    (tmp_path / TRADES_NAME).unlink()
    write(tmp_path, TRADES_NAME + ".gz", TRADE_HEADER, TRADES)
    np.testing.assert_array_equal(load_tardis(levels).updates.t_ns, both.updates.t_ns)
    (tmp_path / (TRADES_NAME + ".gz")).unlink()
    assert len(load_tardis(levels).updates) == 11
    assert load_tardis(levels.rename(tmp_path / "mine.csv")).feed == "levels"


def test_rows_out_of_order_give_the_same_session(tmp_path):
    reference = load_tardis(write_both(tmp_path / "a"))
    # In the file the two snapshots follow one another; they are two only in the order received.
    shuffled = load_tardis(write_both(tmp_path / "b", LEVELS[5:7] + LEVELS[:5] + LEVELS[7:], TRADES[::-1]))
    for name, values in vars(reference.updates).items():
        np.testing.assert_array_equal(getattr(shuffled.updates, name), values, err_msg=name)


def test_a_local_clock_behind_is_set_forward_by_its_largest_lead(tmp_path):
    levels = [(100, 60, "false,bid,9.5,1"), (200, 130, "false,bid,9.5,2"), (300, 310, "false,bid,9.5,3")]
    session = load_tardis(write(tmp_path, LEVELS_NAME, LEVEL_HEADER, levels))
    assert (session.updates.local_ns - session.updates.t_ns).tolist() == [30_000, 0, 80_000]
    assert session.counts["clock_correction_ns"] == 70_000
    assert "0.000070 s" in session.notes[0]


def test_a_snapshot_with_only_a_local_time_keeps_its_place_among_the_updates(tmp_path):
    levels = [
        (100, 150, "false,bid,9.5,1"),
        (
            180,
            180,
            "true,bid,9.0,2",
        ),  # by its stamp it would wipe out the update of 170, sent before and received after
        (180, 180, "true,ask,10.0,2"),
        (170, 220, "false,bid,9.5,3"),
    ]
    session = load_tardis(write(tmp_path, LEVELS_NAME, LEVEL_HEADER, levels))
    assert session.updates.kind.tolist() == [Kind.LEVEL, Kind.CLEAR, Kind.SNAPSHOT, Kind.SNAPSHOT, Kind.LEVEL]
    assert (session.updates.t_ns // 1000).tolist() == [100, 170, 170, 170, 170]
    assert build_ladder(session).best_bid[-1] == 19
    assert "2 snapshot rows" in session.notes[0]


def test_crossed_levels_are_kept_and_the_newer_one_counts(tmp_path):
    levels = [*LEVELS[:2], (200, 210, "false,bid,10.5,1")]
    session = load_tardis(write(tmp_path, LEVELS_NAME, LEVEL_HEADER, levels))
    ladder = build_ladder(session)
    assert session.updates.price_ticks.tolist() == [0, 19, 20, 21]
    assert ladder.best_bid[-1] == 21
    assert ladder.best_bid[-1] < ladder.best_ask[-1]
    assert ladder.n_crossed == 1


BOOK_HEADER = "exchange,symbol,timestamp,local_timestamp," + ",".join(
    f"{side}s[{level}].{value}" for level in range(2) for side in ("ask", "bid") for value in ("price", "amount")
)
BOOKS = [
    (100, 150, "10.0,5,9.5,4,10.5,6,9.0,3"),
    (200, 250, "10.0,2,9.5,4,,,9.0,3"),
    (300, 350, "10.5,6,9.0,3,11.0,1,,"),
]
BOOKS_NAME = "bitmex_book_snapshot_5_2020-03-01_XBTUSD.csv"


def test_book_snapshots_are_book_rows_with_absent_levels_empty(tmp_path):
    session = load_tardis(write(tmp_path, BOOKS_NAME, BOOK_HEADER, BOOKS))
    books = session.books
    assert session.updates.kind.tolist() == [Kind.SNAPSHOT] * 3
    assert (session.updates.t_ns // 1000).tolist() == [100, 200, 300]
    assert (session.updates.local_ns // 1000).tolist() == [150, 250, 350]
    assert books.ask_ticks.tolist() == [[20, 21], [20, 0], [21, 22]]
    assert books.ask_size.tolist() == [[5, 6], [2, 0], [6, 1]]
    assert books.bid_ticks.tolist() == [[19, 18], [19, 18], [18, 0]]
    assert books.bid_size.tolist() == [[4, 3], [4, 3], [3, 0]]
    assert build_ladder(session).best_ask.tolist() == [20, 20, 21]


def test_trades_beside_book_snapshots_repeat_the_book_before_them(tmp_path):
    file = write(tmp_path, BOOKS_NAME, BOOK_HEADER, BOOKS)
    trades = [(50, 60, "1,buy,10.0,1"), (200, 220, "2,buy,10.0,3"), (250, 260, "3,buy,10.0,2")]
    write(tmp_path, TRADES_NAME, TRADE_HEADER, trades)
    session = load_tardis(file)
    trade, snap = Kind.TRADE, Kind.SNAPSHOT
    assert session.updates.kind.tolist() == [trade, snap, trade, snap, trade, snap]
    assert session.books.ask_size[:, 0].tolist() == [0, 5, 5, 2, 2, 6]
    assert session.updates.size.tolist() == [1, 0, 3, 0, 2, 0]


def test_crossed_books_are_dropped_and_counted(tmp_path):
    crossed = [BOOKS[0], (200, 250, "9.5,5,9.5,4,10.5,6,9.0,3"), BOOKS[2]]
    session = load_tardis(write(tmp_path, BOOKS_NAME, BOOK_HEADER, crossed))
    assert (session.updates.t_ns // 1000).tolist() == [100, 300]
    assert session.books.bid_ticks[:, 0].tolist() == [19, 18]
    assert session.counts["crossed_rows"] == 1
    assert "1 crossed" in session.notes[0]


def edit(lines, number, new):
    return [*lines[:number], new, *lines[number + 1 :]]


GOOD = rows(LEVELS)
BAD_LEVELS = {
    "word": (edit(GOOD, 1, GOOD[1].replace("ask", "offer")), "row 3: side is 'offer', expected ask or bid"),
    "flag": (edit(GOOD, 0, GOOD[0].replace("true", "yes")), "row 2: is_snapshot is 'yes', expected false or true"),
    "NaN": (edit(GOOD, 2, GOOD[2].replace(",7", ",nan")), "row 4: amount is 'nan', expected a number"),
    "negative": (edit(GOOD, 2, GOOD[2].replace(",7", ",-7")), r"row 4: amount is -7.0, expected >= 0"),
    "price": (edit(GOOD, 2, GOOD[2].replace("9.5,7", "0,7")), r"row 4: price is 0.0, expected > 0"),
    "time": (edit(GOOD, 2, GOOD[2].replace(str(DAY + 200), "x")), "row 4: timestamp is 'x', expected a number"),
    "unit": (
        edit(GOOD, 2, GOOD[2].replace(str(DAY + 200), str(DAY // 1000))),
        "row 4: time 1583020800000, .* one unit",
    ),
    "symbols": (
        edit(GOOD, 2, GOOD[2].replace("XBTUSD", "ETHUSD")),
        "several instruments: bitmex ETHUSD, bitmex XBTUSD",
    ),
    "no rows": ([], "empty"),
}


@pytest.mark.parametrize("case", BAD_LEVELS)
def test_bad_level_rows_are_named(tmp_path, case):
    lines, message = BAD_LEVELS[case]
    with pytest.raises(DataError, match=message):
        load_tardis(write(tmp_path, LEVELS_NAME, LEVEL_HEADER, lines))


BAD_TRADES = {
    "side": ("1,BUY,10.0,1", "row 3: side is 'BUY', expected buy or unknown or sell"),
    "amount": ("1,buy,10.0,0", r"row 3: amount is 0.0, expected > 0"),
    "price": ("1,buy,-10.0,1", r"row 3: price is -10.0, expected > 0"),
}


@pytest.mark.parametrize("case", BAD_TRADES)
def test_bad_trades_are_named(tmp_path, case):
    cells, message = BAD_TRADES[case]
    with pytest.raises(DataError, match=message):
        load_tardis(write(tmp_path, TRADES_NAME, TRADE_HEADER, edit(TRADES, 1, (310, 330, cells))))


BAD_BOOKS = {
    "order": ("10.0,2,9.5,4,9.5,1,9.0,3", r"row 3: asks\[1\].price is 9.5, expected a level worse"),
    "hole": ("10.0,2,,,10.5,1,9.0,3", r"row 3: bids\[1\].price is 9.0, expected a level worse"),
    "negative": ("10.0,-2,9.5,4,10.5,1,9.0,3", r"row 3: asks\[0\].amount is -2.0"),
    "word": ("10.0,two,9.5,4,10.5,1,9.0,3", r"row 3: asks\[0\].amount is 'two'"),
}


@pytest.mark.parametrize("case", BAD_BOOKS)
def test_bad_books_are_named(tmp_path, case):
    cells, message = BAD_BOOKS[case]
    with pytest.raises(DataError, match=message):
        load_tardis(write(tmp_path, BOOKS_NAME, BOOK_HEADER, edit(BOOKS, 1, (200, 250, cells))))


def test_a_given_grid_is_kept_and_values_off_it_are_named(tmp_path):
    file = write_both(tmp_path)
    session = load_tardis(file, tick_size=0.25, size_unit=0.1)
    assert (session.tick_size, session.size_unit) == (0.25, 0.1)
    assert session.updates.price_ticks[1:3].tolist() == [38, 40]
    assert session.updates.size[1:3].tolist() == [100, 200]
    with pytest.raises(DataError, match=r"L2.*csv: price: row 2: 9.5 is not a multiple of 1; check tick_size"):
        load_tardis(write(tmp_path / "alone", LEVELS_NAME, LEVEL_HEADER, LEVELS), tick_size=1.0)
    with pytest.raises(DataError, match=r"trades.*csv: amount: row 3: 1.5 is not a multiple of 1; check size_unit"):
        load_tardis(file, size_unit=1.0)
    books = write(tmp_path / "books", BOOKS_NAME, BOOK_HEADER, BOOKS)
    with pytest.raises(DataError, match=r"bids\[0\].price: row 2: 9.5 is not a multiple of 1"):
        load_tardis(books, tick_size=1.0)


def test_files_that_do_not_fit_say_what_does(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_tardis(tmp_path / "missing.csv")
    with pytest.raises(DataError, match=r"no csv or csv.gz file"):
        load_tardis(tmp_path)
    header = "exchange,symbol,timestamp,local_timestamp,ask_amount,ask_price,bid_price,bid_amount"
    with pytest.raises(DataError, match=r"header of a Tardis file of incremental_book_L2.*found exchange"):
        load_tardis(write(tmp_path / "q", "bitmex_quotes_2020-03-01_XBTUSD.csv", header, []))
    with pytest.raises(DataError, match="liquidations are not"):
        load_tardis(write(tmp_path / "l", TRADES_NAME.replace("trades", "liquidations"), TRADE_HEADER, TRADES))
    write_both(tmp_path / "two")
    write(tmp_path / "two", TRADES_NAME.replace("03-01", "03-02"), TRADE_HEADER, TRADES)
    with pytest.raises(DataError, match="are both trades"):
        load_tardis(tmp_path / "two")
    write_both(tmp_path / "books")
    write(tmp_path / "books", BOOKS_NAME, BOOK_HEADER, BOOKS)
    with pytest.raises(DataError, match="book snapshots and incremental_book_L2"):
        load_tardis(tmp_path / "books")
    write(tmp_path / "mixed", LEVELS_NAME, LEVEL_HEADER, LEVELS)
    write(tmp_path / "mixed", TRADES_NAME, TRADE_HEADER, rows(TRADES, "bitmex,ETHUSD"))
    with pytest.raises(DataError, match=r"different instruments .*ETHUSD.*XBTUSD"):
        load_tardis(tmp_path / "mixed")
    cut = write(tmp_path / "cut", LEVELS_NAME + ".gz", LEVEL_HEADER, LEVELS)
    cut.write_bytes(cut.read_bytes()[:80])
    with pytest.raises(DataError, match="truncated or damaged"):
        load_tardis(cut)


def test_the_real_minute_has_the_published_facts_and_an_uncrossed_book(data_folder):
    published = json.loads((data_folder / "facts.json").read_text())["format_fixtures"]
    folder = data_folder / "format_fixtures" / "tardis_layout"
    session = load_tardis(folder)
    updates = session.updates
    assert session.counts["level_rows"] == published["tardis_layout"]["incremental_book_L2_rows"]
    assert session.counts["trades"] == published["tardis_layout"]["trades_rows"] == (updates.kind == Kind.TRADE).sum()
    assert (session.tick_size, session.size_unit) == (0.1, 0.001)
    assert (np.diff(updates.t_ns) >= 0).all()
    # hftbacktest's own correction, from nanoseconds; the layout has microseconds.
    clock = published["hftbacktest npz (first 60 s of usdm BTCUSDT, made by hftbacktest 2.4.4)"]
    assert abs(session.counts["clock_correction_ns"] - clock["clock_correction_applied_ns"]) < 1000
    assert (updates.local_ns - updates.t_ns).min() == 0
    ladder = build_ladder(session)
    assert ladder.best_bid[-1] < ladder.best_ask[-1]
    # The last state of every level, without a loader: rows since the snapshot's exchange time.
    (file,) = folder.glob("*incremental*")
    table = pl.read_csv(file)
    (start,) = table.filter("is_snapshot")["timestamp"].unique()
    last = table.filter(pl.col("timestamp") >= start).sort("timestamp", maintain_order=True)
    last = last.group_by("side", "price").agg(pl.col("amount").last()).filter(pl.col("amount") > 0)
    best_bid = last.filter(side="bid")["price"].max()
    best_ask = last.filter(side="ask")["price"].min()
    assert ladder.best_bid[-1] * 0.1 == pytest.approx(best_bid)
    assert ladder.best_ask[-1] * 0.1 == pytest.approx(best_ask)
    final_trade = updates.price_ticks[updates.kind == Kind.TRADE][-1]
    assert ladder.best_bid[-1] - 50 <= final_trade <= ladder.best_ask[-1] + 50
