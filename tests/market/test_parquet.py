import dataclasses
from decimal import Decimal

import numpy as np
import polars as pl
import pytest

from mfamm_jax.market.events import DataError, Kind
from mfamm_jax.market.ladder import build_ladder
from mfamm_jax.market.loaders.lobster import load_lobster
from mfamm_jax.market.loaders.parquet import load_parquet, write_parquet
from mfamm_jax.market.loaders.tardis import load_tardis

from .sessions import make_session

DAY = 1_583_020_800_000_000_000  # 2020-03-01
MINE = {
    "t_ns": [DAY + 5, DAY + 5, DAY + 8, DAY + 9],
    "kind": ["level", "level", "trade", "level"],
    "side": ["bid", "ask", "ask", "ask"],
    "price": [9.9, 10.1, 10.1, 10.1],
    "size": [1.5, 2.0, 0.5, 1.5],
}


def write(folder, changes=None, metadata=None, drop=()):
    columns = {name: values for name, values in (MINE | (changes or {})).items() if name not in drop}
    file = folder / "mine.parquet"
    pl.DataFrame(columns).write_parquet(file, metadata=metadata)
    return file


def assert_same(session, other):
    for name, values in vars(session.updates).items():
        found = getattr(other.updates, name)
        if values is None:
            assert found is None, name
        else:
            np.testing.assert_array_equal(found, values, err_msg=name)
    for name in ("name", "tick_size", "size_unit", "feed", "clock", "epoch_ns", "notes", "n_off_tick"):
        assert getattr(other, name) == getattr(session, name), name


def orders_session():
    rows = [
        (-3, Kind.ADD, 1, 9999, 10, 7),
        (5, Kind.ADD, -1, 10001, 4, 2**63 - 1),
        (5, Kind.CANCEL, 1, 9999, 3, 7),
        (6, Kind.TRADE, 1, 9999, 5, 7),
        (7, Kind.HIDDEN_TRADE, -1, 10000, 2, 0),
        (8, Kind.CROSS, 1, 9999, 100, 0),
        (9, Kind.HALT, 0, -1, 0, 0),
        (9, Kind.HALT, 0, 1, 0, 0),
        (10, Kind.DELETE, 1, 9999, 2, 7),
        (11, Kind.CLEAR, -1, 10001, 0, 0),
    ]
    books = [(9999, 1, 10001, 1)] * len(rows)
    return dataclasses.replace(make_session(rows, books), n_off_tick=3, notes=("first note", "second, with a comma"))


def test_writing_and_reading_single_orders_is_exact(tmp_path):
    session = orders_session()
    again = load_parquet(write_parquet(session, tmp_path / "a.parquet"))
    assert_same(session, again)
    assert again.books is None
    assert again.updates.order_id[1] == 2**63 - 1
    np.testing.assert_array_equal(
        load_parquet(write_parquet(again, tmp_path / "b.parquet")).updates.size, again.updates.size
    )
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_writing_and_reading_levels_with_local_times_is_exact(tmp_path):
    rows = [
        (5, Kind.CLEAR, 0, 0, 0, 0),
        (5, Kind.SNAPSHOT, 1, 618003, 7, 0),
        (6, Kind.LEVEL, -1, 618004, 3, 0),
        (7, Kind.TRADE, 0, 618004, 2**24 + 1, 0),
        (7, Kind.LEVEL, -1, 618004, 0, 0),
    ]
    session = make_session(rows, [(0, 0, 0, 0)] * len(rows), tick_size=0.1)
    updates = dataclasses.replace(
        session.updates,
        size=np.array([row[4] for row in rows], float),
        local_ns=np.array([4, 5, 9, 9, 2**62 - DAY]),  # also one that was received before it was sent
    )
    session = dataclasses.replace(
        session, updates=updates, books=None, feed="levels", size_unit=0.001, epoch_ns=DAY, name="ä b", clock="mine"
    )
    assert_same(session, load_parquet(write_parquet(session, tmp_path / "a.parquet")))


def test_a_session_of_book_rows_is_not_written(tmp_path):
    session = dataclasses.replace(orders_session(), feed="levels")
    with pytest.raises(ValueError, match="only in book rows"):
        write_parquet(session, tmp_path / "a.parquet")
    session = orders_session()
    half = dataclasses.replace(session.updates, size=session.updates.size / 2)
    with pytest.raises(ValueError, match="fractions of the size unit"):
        write_parquet(dataclasses.replace(session, updates=half), tmp_path / "a.parquet")
    assert not list(tmp_path.iterdir())


def test_own_data_need_only_five_columns(tmp_path):
    session = load_parquet(write(tmp_path))
    updates = session.updates
    assert updates.t_ns.tolist() == [5, 5, 8, 9]
    assert updates.kind.tolist() == [Kind.LEVEL, Kind.LEVEL, Kind.TRADE, Kind.LEVEL]
    assert updates.side.tolist() == [1, -1, -1, -1]
    assert session.tick_size == 0.1
    assert updates.price_ticks.tolist() == [99, 101, 101, 101]
    assert session.size_unit == 0.5
    assert updates.size.tolist() == [3, 4, 1, 3]
    assert (session.name, session.feed, session.epoch_ns) == ("mine", "levels", DAY)
    assert updates.order_id.tolist() == [0] * 4
    assert updates.local_ns is None
    ladder = build_ladder(session)
    assert (ladder.best_bid[-1], ladder.best_ask[-1]) == (99, 101)


def test_metadata_of_the_file_say_what_rows_do_not_and_arguments_win(tmp_path):
    metadata = {"tick_size": "0.05", "size_unit": "0.25", "name": "XYZ", "feed": "levels"}
    session = load_parquet(write(tmp_path, metadata=metadata))
    assert (session.tick_size, session.size_unit, session.name) == (0.05, 0.25, "XYZ")
    assert session.updates.price_ticks.tolist() == [198, 202, 202, 202]
    session = load_parquet(write(tmp_path, metadata=metadata), tick_size=0.02, size_unit=0.125)
    assert session.updates.price_ticks.tolist() == [495, 505, 505, 505]
    assert session.updates.size.tolist() == [12, 16, 4, 12]
    only_trades = {"kind": ["trade"] * 4}
    assert load_parquet(write(tmp_path, only_trades)).feed == "trades"
    assert load_parquet(write(tmp_path, only_trades, {"feed": "orders"})).feed == "orders"


def test_decimals_float32_categories_and_own_names_are_read(tmp_path):
    reference = load_parquet(write(tmp_path))
    changes = {
        "price": pl.Series([9.9, 10.1, 10.1, 10.1], dtype=pl.Float32),
        "size": [Decimal("1.5"), Decimal("2.0"), Decimal("0.5"), Decimal("1.5")],
        "side": pl.Series(MINE["side"], dtype=pl.Categorical),
        "order_id": pl.Series([1, None, 3, 4], dtype=pl.Int64),
        "unused": [None] * 4,
    }
    session = load_parquet(write(tmp_path, changes))
    np.testing.assert_array_equal(session.updates.price_ticks, reference.updates.price_ticks)
    np.testing.assert_array_equal(session.updates.size, reference.updates.size)
    np.testing.assert_array_equal(session.updates.side, reference.updates.side)
    assert session.updates.order_id.tolist() == [1, 0, 3, 4]
    file = write(
        tmp_path, {"time": [t // 1000 for t in (DAY + 5000, DAY + 6000, DAY + 7000, DAY + 8000)]}, drop=["t_ns"]
    )
    session = load_parquet(file, columns={"time": "t_ns"})
    assert session.updates.t_ns.tolist() == [5000, 6000, 7000, 8000]


def test_a_receiving_clock_behind_is_set_forward(tmp_path):
    local = {"local_ns": [DAY + 3, DAY + 6, DAY + 8, DAY + 20]}
    session = load_parquet(write(tmp_path, local))
    assert (session.updates.local_ns - session.updates.t_ns).tolist() == [0, 3, 2, 13]
    assert session.counts["clock_correction_ns"] == 2


def test_hidden_trades_off_the_grid_go_towards_the_mid_and_halts_keep_their_code(tmp_path):
    changes = {
        "kind": ["level", "hidden_trade", "hidden_trade", "halt"],
        "side": ["bid", "bid", "ask", "none"],
        "price": [9.9, 9.93, 10.07, -1.0],
        "size": [1.0, 1.0, 1.0, 0.0],
    }
    session = load_parquet(write(tmp_path, changes), tick_size=0.1)
    assert session.updates.price_ticks.tolist() == [99, 100, 100, -1]
    assert session.n_off_tick == 2


BAD = {
    "kind": ({"kind": ["level", "fill", "trade", "level"]}, "row 2: kind is fill, expected add, cancel"),
    "side": ({"side": ["bid", "ask", "buy", "ask"]}, "row 3: side is buy, expected ask, none, bid"),
    "sideless level": ({"side": ["bid", "none", "ask", "ask"]}, "row 2: side is none, expected bid or ask"),
    "price": ({"price": [9.9, -1.0, 10.1, 10.1]}, r"row 2: price is -1.0, expected >= 0"),
    "NaN": ({"size": [1.0, 1.0, float("nan"), 1.0]}, "row 3: size is nan, expected >= 0"),
    "null": ({"size": [1.0, None, 1.0, 1.0]}, "row 2: size is None, expected a value"),
    "backwards": (
        {"t_ns": [DAY + 5, DAY + 4, DAY + 8, DAY + 9]},
        "row 2: t_ns is .*4, expected no time before the row",
    ),
    "unit": ({"t_ns": [1583020800, 1583020801, 1583020802, 15830208030]}, "t_ns: row 4: time 15830208030, .* one unit"),
    "seconds as float": ({"t_ns": [0.0, 1.0, 2.0, 3.0]}, "column t_ns holds Float64, expected integers"),
    "text price": ({"price": ["9.9"] * 4}, "column price holds String, expected numbers"),
    "number side": ({"side": [1, -1, -1, -1]}, "column side holds Int64, expected text"),
    "orders and levels": ({"kind": ["level", "add", "trade", "level"]}, "single orders and of whole levels"),
    "halt": ({"kind": ["halt", "level", "trade", "level"]}, r"row 1: price is 9.9, expected -1, 0 or 1 on a halt"),
    "order id": ({"order_id": [1, -2, 3, 4]}, "row 2: order_id is -2, expected >= 0"),
    "empty": ({name: pl.Series(values).clear() for name, values in MINE.items()}, "empty; expected rows of t_ns"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_named(tmp_path, case):
    changes, message = BAD[case]
    with pytest.raises(DataError, match=message):
        load_parquet(write(tmp_path, changes))


def test_files_and_arguments_that_do_not_fit_say_so(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_parquet(tmp_path / "missing.parquet")
    with pytest.raises(DataError, match="no column side; found t_ns"):
        load_parquet(write(tmp_path, drop=["side"]))
    with pytest.raises(DataError, match="no column buysell; found"):
        load_parquet(write(tmp_path), columns={"buysell": "side"})
    with pytest.raises(DataError, match="columns maps to sides; expected t_ns"):
        load_parquet(write(tmp_path), columns={"side": "sides"})
    with pytest.raises(DataError, match="metadata tick_size is 'cent', expected a number"):
        load_parquet(write(tmp_path, metadata={"tick_size": "cent"}))
    with pytest.raises(DataError, match="metadata feed is 'L2', expected orders, levels, trades"):
        load_parquet(write(tmp_path, metadata={"feed": "L2"}))
    with pytest.raises(DataError, match=r"price: row 1: 9.9 is not a multiple of 0.2; check tick_size"):
        load_parquet(write(tmp_path), tick_size=0.2)
    with pytest.raises(DataError, match=r"size: row 1: 1.5 is not a multiple of 1; check size_unit"):
        load_parquet(write(tmp_path), size_unit=1.0)
    file = write(tmp_path)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match="not a complete Parquet file"):
        load_parquet(file)


def test_real_sessions_come_back_exactly(tmp_path, data_folder):
    for session in (
        load_tardis(data_folder / "format_fixtures" / "tardis_layout"),
        load_lobster(data_folder / "lobster_aapl_20120621"),
    ):
        assert_same(session, load_parquet(write_parquet(session, tmp_path / "a.parquet")))
