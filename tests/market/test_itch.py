import gzip
import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from mfamm_jax.market.events import DataError, Kind, merge_marketable_orders
from mfamm_jax.market.ladder import book_rows, build_ladder
from mfamm_jax.market.loaders.itch import load_itch

LOCATES = {"AAA": 1, "BBB": 2}
BODIES = {  # after type, stock locate, tracking number and time
    "R": "8sccIcc2scccccIc",
    "H": "8scc4s",
    "A": "QcI8sI",
    "F": "QcI8sI4s",
    "E": "QIQ",
    "C": "QIQcI",
    "X": "QI",
    "D": "Q",
    "U": "QQII",
    "P": "QcI8sIQ",
    "Q": "Q8sIQc",
    "B": "Q",
    "Y": "8sc",
}


def message(letter, t_ns, *fields, stock="AAA"):
    """One message in the layout of the specification, big-endian, with a six-byte time."""
    values = [field.encode().ljust(8) if field == stock else field for field in fields]
    values = [value.encode() if isinstance(value, str) else value for value in values]
    head = letter.encode() + struct.pack("!HH", LOCATES[stock], 0) + t_ns.to_bytes(6, "big")
    return head + struct.pack("!" + BODIES[letter], *values)


def directory(stock):
    return message("R", 1, stock, "N", "N", 100, "N", "A", "Z ", "P", "N", "N", "2", "N", 0, "N", stock=stock)


def write(folder, messages, name="day.itch"):
    pytest.importorskip("meatpy", reason="the extra itch is not installed")
    content = b"".join(struct.pack("!H", len(content)) + content for content in messages)
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder / name


def load(folder, *messages, **more):
    return load_itch(write(folder, [directory("AAA"), directory("BBB"), *messages]), symbol="AAA", **more)


def test_every_message_type_becomes_its_event(tmp_path):
    session = load(
        tmp_path,
        message("H", 10, "AAA", "T", " ", "    "),
        message("A", 20, 1, "B", 100, "AAA", 1_000_000),
        message("F", 30, 2, "S", 200, "AAA", 1_000_200, "MPID"),
        message("A", 31, 3, "S", 900, "BBB", 50_000, stock="BBB"),
        message("E", 40, 2, 50, 7001),
        message("E", 41, 3, 50, 7001, stock="BBB"),
        message("X", 50, 1, 30),
        message("U", 60, 2, 4, 120, 1_000_300),
        message("C", 70, 4, 20, 7002, "Y", 1_000_250),
        message("D", 80, 4),
        message("P", 90, 0, "S", 11, "AAA", 1_000_050, 7003),
        message("P", 91, 0, "B", 12, "AAA", 1_000_050, 7003),
        message("Q", 95, 5000, "AAA", 1_000_100, 7004, "C"),
        message("H", 96, "AAA", "H", " ", "T1  "),
        message("H", 97, "AAA", "Q", " ", "T1  "),
        message("E", 99, 1, 70, 7005),
        session_date="2020-12-28",
    )
    updates = session.updates
    rows = list(zip(updates.t_ns, updates.kind, updates.side, updates.price_ticks, updates.size, updates.order_id))
    assert rows == [
        (10, Kind.HALT, 0, 1, 0, 0),
        (20, Kind.ADD, 1, 10000, 100, 1),
        (30, Kind.ADD, -1, 10002, 200, 2),
        (40, Kind.TRADE, -1, 10002, 50, 2),
        (50, Kind.CANCEL, 1, 10000, 30, 1),
        (60, Kind.DELETE, -1, 10002, 150, 2),
        (60, Kind.ADD, -1, 10003, 120, 4),
        (70, Kind.TRADE, -1, 10002, 20, 4),  # 100.025 is off the grid: down for a resting ask
        (80, Kind.DELETE, -1, 10003, 100, 4),
        (90, Kind.HIDDEN_TRADE, -1, 10000, 11, 0),
        (91, Kind.HIDDEN_TRADE, 1, 10001, 12, 0),
        (95, Kind.CROSS, 0, 10001, 5000, 0),
        (96, Kind.HALT, 0, -1, 0, 0),
        (97, Kind.HALT, 0, 0, 0, 0),
        (99, Kind.TRADE, 1, 10000, 70, 1),
    ]
    assert updates.size.dtype == np.float64
    assert session.name == "AAA 2020-12-28"
    assert session.tick_size == 0.01
    assert session.n_off_tick == 3
    assert session.feed == "orders"
    # New York's midnight in winter is 05:00 UTC.
    assert session.epoch_ns == 1_609_113_600_000_000_000 + 5 * 3600 * 10**9
    assert session.counts["messages"] == {
        "A": 2,
        "C": 1,
        "D": 1,
        "E": 3,
        "F": 1,
        "H": 3,
        "P": 2,
        "Q": 1,
        "R": 2,
        "U": 1,
        "X": 1,
    }
    ladder = build_ladder(session)
    assert ladder.n_unknown == 0
    books = book_rows(ladder, np.array([4, 7, 14]), 2)
    assert books.bid_size[:, 0].tolist() == [70, 70, 0]
    assert books.ask_size.tolist() == [[150, 0], [100, 0], [0, 0]]
    assert books.ask_ticks[1, 0] == 10003  # the execution's price is not the order's


def test_a_cross_is_counted_once(tmp_path):
    session = load(
        tmp_path,
        message("A", 1, 1, "B", 100, "AAA", 1_000_000),
        message("C", 2, 1, 60, 9, "N", 1_000_000),
        message("C", 2, 1, 40, 9, "N", 1_000_000),
        message("Q", 3, 100, "AAA", 1_000_000, 9, "O"),
        message("Q", 4, 0, "AAA", 0, 10, "C"),
    )
    assert session.updates.kind.tolist() == [Kind.ADD, Kind.CANCEL, Kind.DELETE, Kind.CROSS]
    assert session.counts["not_printable"] == 2
    assert len(merge_marketable_orders(session.updates).event) == 0


def test_hidden_executions_that_all_say_buy_have_no_side(tmp_path):
    session = load(
        tmp_path,
        message("A", 1, 1, "B", 100, "AAA", 1_000_000),
        message("P", 2, 0, "B", 11, "AAA", 1_000_051, 7),
        message("P", 3, 0, "B", 11, "AAA", 1_000_049, 7),
    )
    assert session.updates.side.tolist() == [1, 0, 0]
    assert session.updates.price_ticks.tolist() == [10000, 10001, 10000]  # to the nearest tick
    assert "do not tell their side" in session.notes[0]


def test_a_price_below_a_dollar_makes_the_tick_finer(tmp_path):
    session = load(tmp_path, message("A", 1, 1, "B", 100, "AAA", 5432))
    assert session.tick_size == 0.0001
    assert session.updates.price_ticks.tolist() == [5432]


def test_messages_about_orders_that_are_not_in_the_file_are_counted(tmp_path):
    session = load(
        tmp_path,
        message("D", 1, 77),
        message("U", 2, 77, 78, 1, 10_000),
        message("A", 3, 1, "B", 100, "AAA", 1_000_000),
    )
    assert session.counts["unknown_orders"] == 2
    assert len(session.updates) == 1


def test_plain_and_gzip_with_an_end_mark_are_the_same(tmp_path):
    messages = [directory("AAA"), message("A", 3, 1, "B", 100, "AAA", 1_000_000)]
    plain = load_itch(write(tmp_path, messages), symbol="AAA")
    packed = load_itch(write(tmp_path, [*messages, b""], "day.gz"), symbol="AAA")
    assert packed.updates.t_ns.tolist() == plain.updates.t_ns.tolist() == [3]


def test_an_unknown_symbol_lists_those_in_the_file(tmp_path):
    file = write(tmp_path, [directory("AAA"), directory("BBB")])
    with pytest.raises(DataError, match="no stock ZZZ; symbol must be one of AAA, BBB"):
        load_itch(file, symbol="ZZZ")
    with pytest.raises(DataError, match="no stock given; symbol must be one of AAA, BBB"):
        load_itch(file)
    with pytest.raises(DataError, match="no order or trade of BBB"):
        load_itch(file, symbol="BBB")


def test_damaged_files_say_where_and_what_to_do(tmp_path):
    good = [directory("AAA"), message("A", 3, 1, "B", 100, "AAA", 1_000_000)]
    whole = write(tmp_path, good).read_bytes()
    cases = {
        "cut": (whole[:-1], "ends within message 2"),
        "empty": (b"", "empty"),
        "zero": (whole + b"\0\0" + good[1], "message 3: length 0.*write each message's true length"),
        "type": (whole + b"\0\x0bz\0\x01" + bytes(8), "message 3: Unknown message type"),
        "short": (whole + b"\0\x0bA\0\x01" + bytes(8), "message 3: unpack requires"),
        "side": (whole + b"\0\x24" + good[1].replace(b"B", b"?"), r"message 3: .*expected ITCH 5.0"),
        "back": (whole + b"\0\x24" + message("A", 2, 2, "B", 1, "AAA", 1_000_000), "time goes backwards"),
        "packed.gz": (gzip.compress(whole)[:-9], "truncated or damaged archive"),
    }
    for name, (content, text) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=text):
            load_itch(tmp_path / name, symbol="AAA")
    with pytest.raises(DataError, match="no such file"):
        load_itch(tmp_path / "missing", symbol="AAA")
    with pytest.raises(DataError, match="expected YYYY-MM-DD"):
        load_itch(tmp_path / "cut", symbol="AAA", session_date="28.12.2020")


def test_a_missing_package_is_named_with_its_install_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "meatpy.itch50.itch50_market_message", None)
    with pytest.raises(DataError, match=r'pip install "mfamm-jax\[itch\]"'):
        load_itch(tmp_path / "day.itch", symbol="AAA")


def test_the_artificial_day_has_the_published_messages(data_folder: Path):
    pytest.importorskip("meatpy", reason="the extra itch is not installed")
    published = json.loads((data_folder / "facts.json").read_text())["format_fixtures"]["itch (artificial, RITCH)"]
    folder = data_folder / "format_fixtures" / "itch"
    kinds = np.zeros(10, int)
    for symbol in ("ALC", "BOB", "CHAR"):
        session = load_itch(folder / "ex20101224.TEST_ITCH_50.length_prefixed.gz", symbol=symbol)
        assert session.counts["messages"] == dict(sorted(published["messages"].items()))
        kinds += np.bincount(session.updates.kind, minlength=10)
        ladder = build_ladder(session)
        assert ladder.n_unknown == 0
    messages = published["messages"]
    assert kinds[Kind.HIDDEN_TRADE] == messages["P"]
    assert kinds[Kind.HALT] == messages["H"]
    assert messages["A"] + messages["F"] <= kinds[Kind.ADD] <= messages["A"] + messages["F"] + messages["U"]


def test_the_artificial_day_with_lengths_of_zero_is_refused(data_folder: Path):
    pytest.importorskip("meatpy", reason="the extra itch is not installed")
    with pytest.raises(DataError, match="message 1: length 0"):
        load_itch(data_folder / "format_fixtures" / "itch" / "ex20101224.TEST_ITCH_50.gz", symbol="ALC")
