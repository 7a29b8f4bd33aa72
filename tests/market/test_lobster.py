import gzip
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mfamm_jax.market.events import DataError, Kind, merge_marketable_orders
from mfamm_jax.market.facts import session_facts
from mfamm_jax.market.loaders.lobster import load_lobster, write_lobster

NAME = "XYZ_2020-02-03_34200000_34260000_{}_2.csv"
MESSAGES = [
    "34200.004241176,1,11,100,1000100,-1",
    "34200.00426,2,12,30,999900,1",
    "34200.5,3,13,50,999800,1",
    "34201.1,4,11,60,1000100,-1",
    "34201.1,4,14,40,1000200,-1",
    "34202.000000001,5,0,10,1000050,1",
    "34203,7,0,0,-1,-1",
    "34204,7,0,0,1,-1",
    "34205.25,6,0,500,1000000,1",
]
BOOKS = ["1000100,100,999900,70,1000200,200,999800,50"] * 2
BOOKS += ["1000100,100,999900,70,1000200,200,-9999999999,0"]
BOOKS += ["1000100,40,999900,70,1000200,200,-9999999999,0"]
BOOKS += ["1000200,160,999900,70,9999999999,0,-9999999999,0"] * 5


def write(folder, messages=MESSAGES, books=BOOKS, name=NAME):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name.format("message")).write_text("\n".join(messages) + "\n")
    (folder / name.format("orderbook")).write_text("\n".join(books) + "\n")
    return folder


def test_every_message_type_is_read_as_the_readme_says(tmp_path):
    session = load_lobster(write(tmp_path))
    updates, books = session.updates, session.books
    assert session.name == "XYZ 2020-02-03"
    assert session.tick_size == 0.01
    kinds = [Kind.ADD, Kind.CANCEL, Kind.DELETE, Kind.TRADE, Kind.TRADE, Kind.HIDDEN_TRADE, Kind.HALT, Kind.HALT]
    assert updates.kind.tolist() == [*kinds, Kind.CROSS]
    # Stamps are decimal strings with dropped zeros; nanoseconds are exact.
    assert updates.t_ns[:6].tolist() == [
        34200004241176,
        34200004260000,
        34200500000000,
        34201100000000,
        34201100000000,
        34202000000001,
    ]
    # Direction is the resting side: an execution of a sell order is a buyer's trade.
    assert updates.side[3] == -1
    assert updates.aggressor[3] == 1
    assert updates.aggressor[5] == -1  # hidden bid hit by a seller
    assert updates.price_ticks[5] == 10001  # 100.005 is off the grid: towards the mid from a bid
    assert session.n_off_tick == 1
    assert "1 hidden" in session.notes[0]
    assert updates.price_ticks[6:8].tolist() == [-1, 1]
    assert (updates.side[6:8] == 0).all()
    # Dummy levels are absent, each side on its own.
    assert books.bid_size[2].tolist() == [70, 0]
    assert books.ask_size[2].tolist() == [100, 200]
    assert books.ask_size[4].tolist() == [160, 0]
    assert np.abs(books.bid_ticks).max() < 20000
    assert np.abs(books.ask_ticks).max() < 20000


def test_a_sweep_with_one_stamp_is_one_marketable_order(tmp_path):
    trades = merge_marketable_orders(load_lobster(write(tmp_path)).updates)
    assert trades.event.tolist() == [3]
    assert trades.last_event.tolist() == [4]
    assert trades.size.tolist() == [100]
    assert trades.worst_ticks.tolist() == [10002]
    assert trades.aggressor.tolist() == [1]


def test_worst_price_of_a_sellers_sweep_is_its_lowest(tmp_path):
    messages = ["34201.1,4,11,60,999900,1", "34201.1,4,14,40,999800,1", "34201.1,4,15,5,1000100,-1"]
    trades = merge_marketable_orders(load_lobster(write(tmp_path, messages, BOOKS[:3])).updates)
    assert trades.worst_ticks.tolist() == [9998, 10001]
    assert trades.aggressor.tolist() == [-1, 1]


def test_float_dust_in_vendor_stamps_is_rounded_to_nanoseconds(tmp_path):
    messages = ["43002.632812672004,1,1,1,999900,1", "43002.632812672996,1,1,1,999900,1"]
    session = load_lobster(write(tmp_path, messages, BOOKS[:2]))
    assert session.updates.t_ns.tolist() == [43002632812672, 43002632812673]


def test_a_zip_a_folder_a_file_and_gzip_are_the_same_session(tmp_path):
    folder = write(tmp_path / "plain")
    packed = tmp_path / "packed"
    packed.mkdir()
    archive = tmp_path / "sample.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for file in folder.iterdir():
            out.write(file, f"inner/{file.name}")
            (packed / (file.name + ".gz")).write_bytes(gzip.compress(file.read_bytes()))
    reference = load_lobster(folder)
    for path in (archive, packed, packed / (NAME.format("message") + ".gz"), str(folder / NAME.format("message"))):
        session = load_lobster(path)
        np.testing.assert_array_equal(session.updates.t_ns, reference.updates.t_ns)
        np.testing.assert_array_equal(session.books.ask_ticks, reference.books.ask_ticks)


def test_writing_and_reading_gives_the_same_session_and_the_same_bytes(tmp_path):
    session = load_lobster(write(tmp_path / "in", MESSAGES[:5] + MESSAGES[6:8], BOOKS[:5] + BOOKS[6:8]))
    first, _ = write_lobster(session, tmp_path / "a", "XYZ", "2020-02-03")
    second, _ = write_lobster(session, tmp_path / "b", "XYZ", "2020-02-03")
    assert first.read_bytes() == second.read_bytes()
    again = load_lobster(first)
    for part in ("updates", "books"):
        for name, values in vars(getattr(session, part)).items():
            np.testing.assert_array_equal(getattr(getattr(again, part), name), values, err_msg=name)


def test_penny_stock_prices_need_no_cent(tmp_path):
    messages = ["34200.1,1,1,100,5432,1"]
    session = load_lobster(write(tmp_path, messages, ["5433,100,5432,70,5500,200,5400,50"]))
    assert session.tick_size == 0.0001
    assert session.books.bid_ticks[0, 0] == 5432


def edit(rows, number, new):
    return [*rows[:number], new, *rows[number + 1 :]]


BAD = {
    "row counts differ": (MESSAGES[:-1], BOOKS, "8 rows and .* 9"),
    "not a number": (edit(MESSAGES, 3, "34201.1,4,11,abc,1000100,-1"), BOOKS, "row 4: size is 'abc'"),
    "NaN": (edit(MESSAGES, 3, "34201.1,4,11,60,nan,-1"), BOOKS, "row 4: price is 'nan'"),
    "NaN time": (edit(MESSAGES, 3, "nan,4,11,60,1000100,-1"), BOOKS, "row 4: time is 'nan'"),
    "missing cell": (edit(MESSAGES, 2, "34200.5,3,13,50,999800"), BOOKS, "row 3: direction is None"),
    "negative price": (edit(MESSAGES, 0, "34200.1,1,11,100,-5,-1"), BOOKS, "row 1: price is -5, expected > 0"),
    "zero size": (edit(MESSAGES, 0, "34200.1,1,11,0,1000100,-1"), BOOKS, "row 1: size is 0"),
    "unknown type": (edit(MESSAGES, 1, "34200.1,9,11,1,1000100,-1"), BOOKS, "row 2: type is 9, expected 1 to 7"),
    "unknown side": (edit(MESSAGES, 1, "34200.1,1,11,1,1000100,0"), BOOKS, "row 2: direction is 0"),
    "time backwards": (edit(MESSAGES, 2, "34200.001,3,13,50,999800,1"), BOOKS, "row 3: time goes backwards"),
    "crossed": (MESSAGES, edit(BOOKS, 4, "1000200,160,1000300,70,9999999999,0,-9999999999,0"), "row 5: best bid"),
    "locked": (MESSAGES, edit(BOOKS, 4, "1000200,160,1000200,70,9999999999,0,-9999999999,0"), "row 5: best bid"),
    "book size": (MESSAGES, edit(BOOKS, 4, "1000200,-1,999900,70,9999999999,0,-9999999999,0"), "row 5: size is -1"),
    "book price": (MESSAGES, edit(BOOKS, 4, "-7,1,999900,70,9999999999,0,-9999999999,0"), "row 5: price is -7"),
    "unsorted": (MESSAGES, edit(BOOKS, 0, "1000200,100,999900,70,1000100,200,999800,50"), "row 1: ask levels"),
    "book columns": (MESSAGES, [row[:-3] for row in BOOKS], "expected 8"),
    "message columns": ([row + ",0" for row in MESSAGES], BOOKS, "7 columns, expected 6"),
    "empty": ([""], BOOKS, "empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_named_with_what_was_expected(tmp_path, case):
    messages, books, message = BAD[case]
    with pytest.raises(DataError, match=message):
        load_lobster(write(tmp_path, messages, books))


def test_crossed_rows_are_dropped_on_request_and_counted(tmp_path):
    books = edit(BOOKS, 4, "1000200,160,1000300,70,9999999999,0,-9999999999,0")
    session = load_lobster(write(tmp_path, MESSAGES, books), crossed="drop")
    assert len(session.updates) == len(MESSAGES) - 1
    assert "1 crossed" in session.notes[0]
    assert session_facts(session)["crossed_or_locked_rows"] == 0


def test_a_wrong_tick_is_an_error(tmp_path):
    with pytest.raises(DataError, match="not a multiple of the tick"):
        load_lobster(write(tmp_path), tick_size=0.05)
    with pytest.raises(DataError, match="the unit of LOBSTER prices"):
        load_lobster(tmp_path, tick_size=0.00001)


def test_files_that_cannot_be_opened_say_what_to_do(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_lobster(tmp_path / "missing")
    with pytest.raises(DataError, match="no pair"):
        load_lobster(tmp_path)
    folder = write(tmp_path / "one")
    (folder / NAME.format("orderbook")).unlink()
    with pytest.raises(DataError, match="is missing beside it"):
        load_lobster(folder / NAME.format("message"))
    write(folder)
    write(folder, name=NAME.replace("_2.csv", "_1.csv"))
    with pytest.raises(DataError, match="several message files"):
        load_lobster(folder)
    broken = tmp_path / "broken"
    broken.mkdir()
    for what, rows in (("message", MESSAGES), ("orderbook", BOOKS)):
        (broken / (NAME.format(what) + ".gz")).write_bytes(gzip.compress("\n".join(rows).encode())[:60])
    with pytest.raises(DataError, match="truncated or damaged gzip"):
        load_lobster(broken)
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(DataError, match="not a complete zip"):
        load_lobster(tmp_path / "bad.zip")


RENAMED = {"tick_usd": "tick_size", "dummy_level_cells": "absent_level_cells"}
NOT_OURS = {"non_decreasing_time", "visible_px_off_tick_grid", "first_row_book", "last_row_book", "events_by_type"}


@pytest.mark.parametrize(
    ("path", "entry"),
    [
        ("lobster_aapl_20120621", "lobster_aapl_20120621 (10 levels, 09:30-10:30)"),
        (
            "lobster_amzn_20120621/LOBSTER_SampleFile_AMZN_2012-06-21_5.zip",
            "lobster_amzn_20120621 (5 levels, full day)",
        ),
    ],
)
def test_real_files_have_the_published_facts(data_folder: Path, path, entry):
    published = json.loads((data_folder / "facts.json").read_text())[entry]
    session = load_lobster(data_folder / path)
    facts = session_facts(session)
    names = ("add", "cancel", "delete", "trade", "hidden_trade")
    assert facts["events_by_kind"] == dict(zip(names, published["events_by_type"].values()))
    top = zip(session.books.ask_ticks, session.books.ask_size, session.books.bid_ticks, session.books.bid_size)
    ask, ask_size, bid, bid_size = next(top)
    first = [[a * 100, s, b * 100, z] for a, s, b, z in zip(ask, ask_size, bid, bid_size)]
    assert first[0] + first[1] == published["first_row_book"]
    for name, value in published.items():
        if name in NOT_OURS:
            continue
        # The table is rounded: counts are exact, shares to 5 decimals, times to milliseconds, realised volatility 1e-6.
        relative = 0 if isinstance(value, int) else 1e-6 if name.startswith("rv") else 1e-4
        absolute = (
            1e-5 if "share" in name else 5e-4 if name.endswith("_s") and name != "marketable_orders_per_s" else 5e-7
        )
        assert facts[RENAMED.get(name, name)] == pytest.approx(value, rel=relative, abs=absolute), name
