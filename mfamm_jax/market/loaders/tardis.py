"""Tardis csv files: `incremental_book_L2`, `trades`, `book_snapshot_5` and `book_snapshot_25`.

Times are microseconds UTC. Amounts are absolute (0 removes the level); rows of one `local_timestamp` are one message. The
side of a trade is the taker's: a buy took from a resting ask.
Source: Tardis's description of its downloadable data types.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mfamm_jax.market.events import DataError, Kind, Session
from mfamm_jax.market.loaders.assemble import Columns, assemble
from mfamm_jax.market.loaders.book_rows import BookColumns, assemble_books
from mfamm_jax.market.loaders.files import check_grid, file_hash, first_line, nanoseconds, read_csv, refuse, shown

FIRST_ROW = 2  # below the header
INSTRUMENT = {"exchange": pl.Categorical(), "symbol": pl.Categorical()}
TIMES = {"timestamp": pl.Int64(), "local_timestamp": pl.Int64()}
VALUES = {"price": pl.Float64(), "amount": pl.Float64()}
LEVEL_COLUMNS = (
    INSTRUMENT | TIMES | {"is_snapshot": pl.Enum(["false", "true"]), "side": pl.Enum(["ask", "bid"])} | VALUES
)
TRADE_COLUMNS = INSTRUMENT | TIMES | {"side": pl.Enum(["buy", "unknown", "sell"])} | VALUES
ACCEPTED = "incremental_book_L2, trades, book_snapshot_5 and book_snapshot_25"


def load_tardis(path: str | Path, *, tick_size: float | None = None, size_unit: float | None = None) -> Session:
    """Reads a book file, a trades file or both.

    Rows stand in exchange order; rows of one exchange time in the order received, trades first. A snapshot run begins with
    one CLEAR row. Trades of unknown side have side 0.

    Args:
        path: csv or csv.gz file, whose kind its header tells, or a folder with one file of trades, of a book, or both.
            Trades of the same exchange, date and symbol beside a book file are read too.
        tick_size: [price]; None = detected.
        size_unit: None = detected.

    Raises:
        DataError: Names file and row, says what was expected and what to do.
    """
    files = _files(Path(path))
    names = {content: file.name for content, file in files.items()}
    trades = levels = books = None
    instruments, counts, notes = {}, {}, []
    if "trades" in files:
        trades, instruments["trades"] = _trades(files["trades"], tick_size, size_unit, counts, notes)
    if "book_snapshot" in files:
        books, instruments["book_snapshot"] = _books(files["book_snapshot"], tick_size, size_unit)
    elif "incremental_book_L2" in files:
        file = files["incremental_book_L2"]
        levels, instruments["incremental_book_L2"] = _levels(file, tick_size, size_unit, counts, notes)
    if len(set(instruments.values())) > 1:
        found = ", ".join(f"{names[content]}: {instrument}" for content, instrument in instruments.items())
        raise DataError(f"files of different instruments ({found}); give files of one exchange, symbol and date")
    parts = [part for part in (trades, levels, books) if part is not None]
    date = np.datetime64(min(int(part.exchange_ns.min()) for part in parts), "ns").astype("datetime64[D]")
    name = f"{next(iter(instruments.values()))} {date}"
    source = tuple((file.name, file_hash(file)) for file in files.values())
    units = {"tick_size": tick_size, "size_unit": size_unit}
    record = {"counts": counts, "notes": tuple(notes), "source": source}
    if books is not None:
        return assemble_books(name, books, trades, **units, **record)
    columns = _merged([part for part in (trades, levels) if part is not None])
    return assemble(name, columns, "trades" if levels is None else "levels", **units, **record)


def _files(path: Path) -> dict[str, Path]:
    """Files by content: "trades", and "incremental_book_L2" or "book_snapshot"."""
    if not path.is_dir():
        files = {_content(path): path}
        trades = re.sub(r"_(incremental_book_L2|book_snapshot_\d+)_", "_trades_", path.name).removesuffix(".gz")
        beside = [path.with_name(name) for name in (trades, f"{trades}.gz") if path.with_name(name).is_file()]
        has_trades_beside = beside and trades != path.name.removesuffix(".gz")
        return {"trades": beside[0]} | files if has_trades_beside else files
    files: dict[str, Path] = {}
    for file in sorted(path.glob("*.csv*")):
        content = _content(file)
        if content in files:
            raise DataError(
                f"{path}: {files[content].name} and {file.name} are both {content}; give one of them as the path"
            )
        files[content] = file
    if not files:
        raise DataError(f"{path}: no csv or csv.gz file; expected Tardis files of {ACCEPTED}")
    if {"book_snapshot", "incremental_book_L2"} <= set(files):
        raise DataError(f"{path}: book snapshots and incremental_book_L2; give one of them as the path")
    return files


def _content(file: Path) -> str:
    header = first_line(file)
    if "liquidations" in file.name:  # columns as trades
        raise DataError(f"{file}: liquidations are not the trades of the book; expected {ACCEPTED}")
    if "is_snapshot" in header:
        return "incremental_book_L2"
    if "asks[0].price" in header:
        return "book_snapshot"
    if {"local_timestamp", "side", "price", "amount"} <= set(header):
        return "trades"
    raise DataError(
        f"{file}: the header of a Tardis file of {ACCEPTED} expected; found {shown(', '.join(header)) or 'nothing'}"
    )


def _read(file: Path, columns: dict[str, Any], may_be_empty: tuple[str, ...] = ()) -> tuple[pl.DataFrame, str]:
    """Rows and the one instrument they are of."""
    table = read_csv(file, columns, has_header=True, may_be_empty=may_be_empty)
    found = table.select(*INSTRUMENT).unique().rows()
    if len(found) > 1:
        names = sorted(f"{exchange} {symbol}" for exchange, symbol in found)
        raise DataError(f"{file}: several instruments: {shown(', '.join(names))}; split the file by symbol")
    return table, " ".join(found[0])


def _times(file: Path, table: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Exchange and local time [ns]."""
    exchange, local = (nanoseconds(f"{file}: {name}", table[name].to_numpy(), FIRST_ROW) for name in TIMES)
    return exchange, local


def _trades(
    file: Path, tick: float | None, unit: float | None, counts: dict[str, int], notes: list[str]
) -> tuple[Columns, str]:
    table, instrument = _read(file, TRADE_COLUMNS)
    price, amount = table["price"].to_numpy(), table["amount"].to_numpy()
    refuse(file, price <= 0, "price", price, "> 0; remove the row", FIRST_ROW)
    refuse(file, amount <= 0, "amount", amount, "> 0; remove the row", FIRST_ROW)
    check_grid(file, {"price": price}, {"amount": amount}, tick, unit, FIRST_ROW)
    side = table["side"].to_physical().to_numpy().astype(np.int8) - 1  # resting: a taker's buy -1, unknown 0, sell +1
    counts |= {"trades": len(side), "trades_of_unknown_side": int((side == 0).sum())}
    if counts["trades_of_unknown_side"]:
        notes.append(f"{counts['trades_of_unknown_side']:,} trades of unknown side, kept with side 0")
    exchange, local = _times(file, table)
    return Columns(
        exchange, local, np.full(len(side), Kind.TRADE, np.int8), side.astype(np.int8), price, amount
    ), instrument


def _levels(
    file: Path, tick: float | None, unit: float | None, counts: dict[str, int], notes: list[str]
) -> tuple[Columns, str]:
    table, instrument = _read(file, LEVEL_COLUMNS)
    price, amount = table["price"].to_numpy(), table["amount"].to_numpy()
    refuse(file, price <= 0, "price", price, "> 0; remove the row", FIRST_ROW)
    refuse(file, amount < 0, "amount", amount, ">= 0 (0 removes the level); remove the row", FIRST_ROW)
    check_grid(file, {"price": price}, {"amount": amount}, tick, unit, FIRST_ROW)
    exchange, local = _times(file, table)
    side = (2 * table["side"].to_physical().to_numpy().astype(np.int8) - 1).astype(np.int8)
    is_snapshot = table["is_snapshot"].to_physical().to_numpy() == 1
    order = np.argsort(local, kind="stable")
    exchange, local, side, price, amount, is_snapshot = (
        column[order] for column in (exchange, local, side, price, amount, is_snapshot)
    )
    exchange, n_placed = _place_snapshots(exchange, local, is_snapshot)
    starts = np.flatnonzero(is_snapshot & ~np.append(False, is_snapshot[:-1]))
    counts |= {"level_rows": len(price), "snapshots": len(starts)}
    if n_placed:
        notes.append(
            f"{n_placed:,} snapshot rows without a time of the exchange, placed between the updates around them"
        )
    kind = np.where(is_snapshot, Kind.SNAPSHOT, Kind.LEVEL).astype(np.int8)
    columns = (exchange, local, kind, side, price, amount)
    clear = (exchange[starts], local[starts], Kind.CLEAR, 0, 0.0, 0.0)
    return Columns(*(np.insert(column, starts, value) for column, value in zip(columns, clear))), instrument


def _place_snapshots(exchange: np.ndarray, local: np.ndarray, is_snapshot: np.ndarray) -> tuple[np.ndarray, int]:
    """Exchange times in which snapshots that only have the local time stand between the updates they were received with.

    Otherwise updates sent before and received after the snapshot would come before it and be lost.
    """
    placed = is_snapshot & (exchange == local)
    update = ~placed
    if not placed.any() or not update.any():
        return exchange, 0
    before = np.maximum.accumulate(np.where(update, exchange, np.iinfo(np.int64).min))
    after = np.minimum.accumulate(np.where(update, exchange, np.iinfo(np.int64).max)[::-1])[::-1]
    return np.where(placed, np.maximum(np.minimum(exchange, after), before), exchange), int(placed.sum())


def _books(file: Path, tick: float | None, unit: float | None) -> tuple[BookColumns, str]:
    header = first_line(file)
    n_levels = sum(name.startswith("asks[") and name.endswith("].price") for name in header)
    names = {  # in the order of `BookColumns`
        f"{side} {value}": tuple(f"{side}s[{level}].{value}" for level in range(n_levels))
        for side in ("bid", "ask")
        for value in ("price", "amount")
    }
    cells = tuple(name for group in names.values() for name in group)
    table, instrument = _read(file, INSTRUMENT | TIMES | dict.fromkeys(cells, pl.Float64()), cells)
    # An empty cell: the book has fewer levels.
    values = {key: np.stack([table[c].fill_null(0.0).to_numpy() for c in group], 1) for key, group in names.items()}
    for side, sign in (("bid", 1), ("ask", -1)):
        above, above_shown = np.full(table.height, np.inf * sign), np.ones(table.height, bool)
        for level in range(n_levels):
            price, amount = (values[f"{side} {value}"][:, level] for value in ("price", "amount"))
            price_name, amount_name = (names[f"{side} {value}"][level] for value in ("price", "amount"))
            shown = amount > 0
            refuse(file, amount < 0, amount_name, amount, ">= 0; remove the row", FIRST_ROW)
            refuse(file, shown & (price <= 0), price_name, price, "> 0 beside an amount; remove the row", FIRST_ROW)
            unsorted = shown & ~(above_shown & (sign * (above - price) > 0))
            refuse(file, unsorted, price_name, price, "a level worse than the one before; remove the row", FIRST_ROW)
            on_grid = {price_name: np.where(shown, price, 0.0)}, {amount_name: amount}
            check_grid(file, *on_grid, tick, unit, FIRST_ROW)
            above, above_shown = price, shown
    return BookColumns(*_times(file, table), *values.values()), instrument


def _merged(parts: list[Columns]) -> Columns:
    """Rows of all parts in the order received, the first part's first among equals."""
    joined = [np.concatenate(column) for column in zip(*(list(vars(part).values())[:6] for part in parts))]
    order = np.argsort(joined[1], kind="stable")
    return Columns(*(column[order] for column in joined))
