import datetime
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mfamm_jax.market.events import DataError, Kind
from mfamm_jax.market.ladder import book_rows, build_ladder
from mfamm_jax.market.loaders.databento import load_databento

MIDNIGHT = 1_609_113_600_000_000_000  # 2020-12-28 UTC
UNDEFINED = 2**63 - 1
SIZES = {"mbo": ("mbo", 14, 160), "trades": ("trades", 12, 0), "mbp-1": ("mbp_1", 20, 1), "tbbo": ("tbbo", 20, 1)}
NAMES = {7: "AAA", 8: "BBB"}


def write(folder, schema, rows, **more):
    """A DBN file of these records: (action, side, price in cents or None, size, t_ns, further fields by name)."""
    dbn = pytest.importorskip("databento_dbn", reason="the extra databento is not installed")
    record = {"mbo": dbn.MBOMsg, "trades": dbn.TradeMsg, "mbp-1": dbn.MBP1Msg, "tbbo": dbn.MBP1Msg}[schema]
    name, length, rtype = SIZES[schema]
    table = np.zeros(len(rows), record._dtypes)
    table["length"], table["rtype"], table["publisher_id"], table["instrument_id"] = length, rtype, 2, 7
    table["flags"], table["sequence"] = 128, np.arange(len(rows))
    for row, (action, side, cents, size, t_ns, *fields) in zip(table, rows):
        row["action"], row["side"], row["size"] = action, side, size
        row["price"] = UNDEFINED if cents is None else round(cents * 10_000_000)
        row["ts_event"], row["ts_recv"] = MIDNIGHT + t_ns, MIDNIGHT + t_ns + 500
        for field, value in (fields[0] if fields else {}).items():
            row[field] = value
    days = {"start_date": datetime.date(2020, 12, 28), "end_date": datetime.date(2020, 12, 29)}
    metadata = dbn.Metadata(
        dataset="XNAS.ITCH",
        start=MIDNIGHT,
        stype_in=dbn.SType.RAW_SYMBOL,
        stype_out=dbn.SType.INSTRUMENT_ID,
        schema=getattr(dbn.Schema, name.upper()),
        symbols=list(NAMES.values()),
        mappings=[
            SimpleNamespace(raw_symbol=text, intervals=[SimpleNamespace(symbol=str(number), **days)])
            for number, text in NAMES.items()
        ],
        version=3,
    )
    file = folder / f"{more.get('name', 'file')}.dbn"
    file.write_bytes(bytes(metadata) + table.tobytes()[: more.get("n_bytes")])
    return file


def order(number, **fields):
    return {"order_id": number, **fields}


def test_a_fill_is_one_execution_and_its_cancel_takes_nothing_more(tmp_path):
    message = {"sequence": 50}
    session = load_databento(
        write(
            tmp_path,
            "mbo",
            [
                ("A", "A", 10001, 100, 10, order(1)),
                ("A", "A", 10001, 50, 11, order(2)),
                ("A", "B", 10000, 70, 12, order(3)),
                # A buyer takes 120: all of order 1, 20 of order 2.
                ("T", "B", 10001, 120, 20, message),
                ("F", "A", 10001, 100, 20, order(1, **message)),
                ("F", "A", 10001, 20, 20, order(2, **message)),
                ("C", "A", 10001, 100, 20, order(1, **message)),
                ("C", "A", 10001, 20, 20, order(2, **message)),
                ("C", "A", 10001, 30, 30, order(2)),
            ],
        )
    )
    updates = session.updates
    assert session.feed == "orders"
    assert session.name == "AAA 2020-12-28"
    assert updates.kind.tolist() == [Kind.ADD] * 3 + [Kind.TRADE, Kind.TRADE, Kind.DELETE]
    assert updates.size.tolist() == [100, 50, 70, 100, 20, 30]
    assert updates.size.dtype == np.float64
    assert updates.order_id.tolist() == [1, 2, 3, 1, 2, 2]
    assert updates.side.tolist() == [-1, -1, 1, -1, -1, -1]
    assert updates.aggressor[3] == 1
    ladder = build_ladder(session)
    books = book_rows(ladder, np.arange(6), 1)
    assert books.ask_size[:, 0].tolist() == [100, 150, 150, 50, 30, 0]
    assert ladder.n_unknown == 0


def test_a_modify_after_a_fill_takes_nothing_more(tmp_path):
    rows = [
        ("A", "B", 10000, 100, 1, order(1)),
        ("T", "A", 10000, 40, 2, {"sequence": 9}),
        ("F", "B", 10000, 40, 2, order(1, sequence=9)),
        ("M", "B", 10000, 60, 2, order(1, sequence=9)),
        ("C", "B", 10000, 60, 3, order(1)),
    ]
    updates = load_databento(write(tmp_path, "mbo", rows), tick_size=0.01).updates
    assert updates.kind.tolist() == [Kind.ADD, Kind.TRADE, Kind.DELETE]
    assert updates.size.tolist() == [100, 40, 60]


def test_modify_keeps_priority_only_when_the_size_falls(tmp_path):
    rows = [
        ("A", "B", 10000, 100, 1, order(1)),
        ("M", "B", 10000, 80, 2, order(1)),
        ("M", "B", 10000, 90, 3, order(1)),
        ("M", "B", 9999, 90, 4, order(1)),
        ("C", "B", 9999, 40, 5, order(1)),
    ]
    updates = load_databento(write(tmp_path, "mbo", rows)).updates
    fall, grow, move = [Kind.CANCEL], [Kind.DELETE, Kind.ADD], [Kind.DELETE, Kind.ADD]
    assert updates.kind.tolist() == [Kind.ADD, *fall, *grow, *move, Kind.CANCEL]
    assert updates.size.tolist() == [100, 20, 80, 90, 90, 90, 40]
    assert updates.price_ticks.tolist() == [10000, 10000, 10000, 10000, 10000, 9999, 9999]


def test_a_print_without_a_fill_is_a_hidden_trade(tmp_path):
    rows = [
        ("A", "B", 10000, 100, 1, order(1)),
        ("A", "A", 10003, 100, 1, order(2)),
        ("T", "N", 10001, 7, 2),
        ("T", "A", 10000.5, 8, 3),
    ]
    session = load_databento(write(tmp_path, "mbo", rows))
    updates = session.updates
    assert updates.kind.tolist()[2:] == [Kind.HIDDEN_TRADE] * 2
    assert updates.side.tolist()[2:] == [0, 1]
    assert session.tick_size == 0.01
    assert updates.price_ticks[3] == 10001  # off the grid: up for a resting bid
    assert session.n_off_tick == 1
    assert session.counts["hidden_trades"] == 2
    assert build_ladder(session).n_unknown == 0


def test_clear_and_orders_from_before_the_file(tmp_path):
    rows = [
        ("C", "B", 10000, 5, 1, order(9)),
        ("M", "A", 10002, 6, 2, order(8)),
        ("R", "N", None, 0, 3),
        ("A", "B", 9990, 1, 4, order(9)),
    ]
    session = load_databento(write(tmp_path, "mbo", rows))
    assert session.updates.kind.tolist() == [Kind.CANCEL, Kind.ADD, Kind.CLEAR, Kind.ADD]
    assert session.updates.side[2] == 0
    assert session.counts["unknown_orders"] == 2
    books = book_rows(build_ladder(session), np.arange(4), 1)
    assert books.ask_size[:, 0].tolist() == [0, 6, 0, 0]
    assert books.bid_size[:, 0].tolist() == [0, 0, 0, 1]


def test_times_never_go_back_and_a_slow_local_clock_is_set_forward(tmp_path):
    rows = [
        ("A", "B", 10000, 1, 0, order(1, flags=40, ts_event=MIDNIGHT - 10**12, ts_recv=MIDNIGHT)),
        ("A", "B", 9999, 1, 1000, order(2, ts_recv=MIDNIGHT + 300)),
        ("A", "B", 9998, 1, 900, order(3, ts_recv=MIDNIGHT + 400)),
    ]
    session = load_databento(write(tmp_path, "mbo", rows))
    updates = session.updates
    assert session.epoch_ns == MIDNIGHT
    assert updates.t_ns.tolist() == [0, 1000, 1000]  # the snapshot stands at its own time
    assert updates.local_ns.tolist() == [700, 1000, 1100]
    assert session.counts["clock_correction_ns"] == 700
    assert session.counts["time_backward_steps"] == 1
    assert session.counts["flags"]["snapshot"] == 1
    assert "local clock" in session.notes[0]


def level(bid, bid_size, ask, ask_size):
    cents = [UNDEFINED if price is None else price * 10_000_000 for price in (bid, ask)]
    return {"bid_px_00": cents[0], "bid_sz_00": bid_size, "ask_px_00": cents[1], "ask_sz_00": ask_size}


def test_mbp_records_are_book_rows_with_absent_levels_and_trades(tmp_path):
    rows = [
        ("A", "N", 10000, 5, 1, level(10000, 5, None, 0)),
        ("A", "A", 10002, 6, 2, level(10000, 5, 10002, 6)),
        ("T", "B", 10002, 6, 3, level(10000, 5, 10002, 6)),
        ("C", "A", 10002, 6, 3, level(10000, 5, None, 0)),
        ("R", "N", None, 0, 4, level(None, 0, None, 0)),
    ]
    session = load_databento(write(tmp_path, "mbp-1", rows), tick_size=0.01)
    updates, books = session.updates, session.books
    assert session.feed == "levels"
    assert updates.kind.tolist() == [Kind.SNAPSHOT, Kind.SNAPSHOT, Kind.TRADE, Kind.SNAPSHOT, Kind.CLEAR]
    assert updates.side.tolist() == [1, -1, -1, -1, 0]  # the file's missing side is told by the book
    assert updates.size.tolist() == [5, 6, 6, 0, 0]
    assert books.ask_size[:, 0].tolist() == [0, 6, 6, 0, 0]
    assert books.ask_ticks[1, 0] == 10002
    assert books.ask_ticks[0, 0] == 0
    ladder = build_ladder(session)
    assert ladder.two_sided.tolist() == [False, True, True, False, False]


def test_tbbo_shows_the_book_before_each_trade(tmp_path):
    rows = [
        ("T", "B", 10002, 6, 3, level(10000, 5, 10002, 9)),
        ("T", "A", 10000, 2, 4, level(10000, 5, 10002, 3)),
    ]
    session = load_databento(write(tmp_path, "tbbo", rows), tick_size=0.01)
    updates = session.updates
    assert updates.kind.tolist() == [Kind.SNAPSHOT, Kind.TRADE] * 2
    assert updates.side.tolist() == [-1, -1, 1, 1]
    assert updates.size.tolist() == [9, 6, 5, 2]
    assert session.books.ask_size[:, 0].tolist() == [9, 9, 3, 3]
    assert updates.t_ns.tolist() == [3, 3, 4, 4]


def test_trades_store_the_resting_side(tmp_path):
    rows = [("T", "B", 10002, 6, 3), ("T", "A", 10001, 2, 4), ("T", "N", 10003, 1, 5)]
    session = load_databento(write(tmp_path, "trades", rows))
    assert session.feed == "trades"
    assert session.books is None
    assert session.updates.side.tolist() == [-1, 1, 0]
    assert session.updates.aggressor.tolist() == [1, -1, 0]
    assert session.updates.local_ns.tolist() == [503, 504, 505]


def test_several_instruments_need_a_symbol(tmp_path):
    rows = [("T", "B", 10002, 6, 3), ("T", "A", 55500, 2, 4, {"instrument_id": 8}), ("T", "A", 10001, 2, 5)]
    file = write(tmp_path, "trades", rows)
    with pytest.raises(DataError, match=r"several instruments: AAA \(7\), BBB \(8\)"):
        load_databento(file)
    assert load_databento(file, symbol="AAA").updates.t_ns.tolist() == [3, 5]
    assert load_databento(file, symbol="8").name == "BBB 2020-12-28"
    with pytest.raises(DataError, match=r"no records of CCC; give one of AAA \(7\), BBB \(8\)"):
        load_databento(file, symbol="CCC")


BAD = {
    "unknown action": ([("A", "B", 1, 1, 1), ("X", "B", 1, 1, 1)], "record 2: action is X"),
    "unknown side": ([("A", "Q", 1, 1, 1)], "record 1: side is Q"),
    "order without side": ([("A", "N", 1, 1, 1)], "record 1: side is N of an order"),
    "undefined price": ([("A", "B", None, 1, 1)], "record 1: price is undefined"),
    "undefined time": ([("A", "B", 1, 1, 1, {"ts_event": 2**64 - 1})], "record 1: ts_event is undefined"),
    "top of book only": ([("A", "B", 1, 1, 1, {"flags": 64})], "record 1: best prices only"),
    "several venues": ([("A", "B", 1, 1, 1), ("A", "B", 1, 1, 1, {"publisher_id": 3})], "several venues"),
    "nothing happens": ([("N", "N", None, 0, 1)], "no record that changes the book"),
    "empty": ([], "empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_records_are_named_with_what_was_expected(tmp_path, case):
    rows, message = BAD[case]
    with pytest.raises(DataError, match=message):
        load_databento(write(tmp_path, "mbo", rows))


def test_a_wrong_tick_is_an_error(tmp_path):
    file = write(tmp_path, "mbo", [("A", "B", 10005, 1, 1), ("A", "B", 10001, 1, 1)])
    with pytest.raises(DataError, match="record 2: a price is not"):
        load_databento(file, tick_size=0.05)
    with pytest.raises(DataError, match="expected a multiple of 1e-9"):
        load_databento(file, tick_size=1e-11)


def test_files_that_cannot_be_read_say_what_to_do(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_databento(tmp_path / "missing.dbn")
    rows = [("A", "B", 10005, 1, 1)] * 3
    with pytest.raises(DataError, match=r"truncated .* download it again"):
        load_databento(write(tmp_path, "mbo", rows, n_bytes=150))
    for name, content in (
        ("text.dbn", b"id,price\n1,2\n" * 20),
        ("empty.dbn", b""),
        ("cut.dbn.zst", b"\x28\xb5\x2f\xfd"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="not a DBN file"):
            load_databento(tmp_path / name)


def test_a_missing_package_is_named_with_its_install_command(tmp_path, monkeypatch):
    (tmp_path / "file.dbn").write_bytes(b"DBN")
    monkeypatch.setitem(sys.modules, "databento", None)
    with pytest.raises(DataError, match=r'pip install "mfamm-jax\[databento\]"'):
        load_databento(tmp_path / "file.dbn")


def fixture(data_folder: Path, name: str) -> Path:
    pytest.importorskip("databento", reason="the extra databento is not installed")
    return data_folder / "format_fixtures" / "dbn" / name


@pytest.mark.parametrize("venue", ["XNAS.ITCH", "GLBX.MDP3"])
@pytest.mark.parametrize("schema", ["mbo", "mbp-1", "mbp-10", "tbbo", "trades"])
def test_real_files_have_their_records_symbol_and_tick(data_folder: Path, venue, schema):
    facts = json.loads((data_folder / "facts.json").read_text())["format_fixtures"]["dbn"]
    session = load_databento(fixture(data_folder, f"{venue}/test_data.{schema}.dbn.zst"))
    assert session.counts["records"] == facts["records_per_file"]
    assert session.name == facts[f"{venue} symbol"]
    assert session.tick_size == {"XNAS.ITCH": 0.01, "GLBX.MDP3": 0.25}[venue]
    assert (session.updates.local_ns >= session.updates.t_ns).all()
    if session.books is not None:
        assert session.books.n_levels == (10 if schema == "mbp-10" else 1)
    if schema != "trades":
        build_ladder(session)


def test_first_real_mbp_10_row_is_the_published_one(data_folder: Path):
    published = json.loads((data_folder / "facts.json").read_text())["format_fixtures"]["dbn"]["first XNAS mbp-10 row"]
    session = load_databento(fixture(data_folder, "XNAS.ITCH/test_data.mbp-10.dbn.zst"))
    books, t_ns = session.books, session.epoch_ns + int(session.updates.t_ns[0])
    seconds, nanoseconds = divmod(t_ns, 10**9)
    stamp = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    assert f"{stamp:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z" == published["ts_event"]
    assert books.bid_ticks[0, 0] * session.tick_size == published["bid_px_00"]
    assert books.bid_size[0, 0] == published["bid_sz_00"]
    assert books.ask_size[0].tolist() == [0] * 10  # no ask yet
    assert session.updates.side[0] == 1  # the record says N


def test_a_real_file_of_definitions_is_refused(data_folder: Path):
    with pytest.raises(DataError, match="schema definition, expected mbo, mbp-10, mbp-1, tbbo, trades"):
        load_databento(fixture(data_folder, "XNAS.ITCH/test_data.definition.dbn.zst"))
