"""Binance's public dumps `SYMBOL-KIND-DATE`: trades, aggTrades and bookTicker of spot and futures; csv, csv.gz or zip.

Files of spot and older ones of futures have no header; the columns read stand in the same places in all of them.
`isBuyerMaker` true is a sell-initiated trade, whose resting side is the bid. Times are ms, of spot us since 2025.
Source: README of the public data repository.
"""

import re
from pathlib import Path

import numpy as np
import polars as pl

from mfamm_jax.market.events import DataError, Kind, Session
from mfamm_jax.market.loaders.assemble import Columns, assemble
from mfamm_jax.market.loaders.book_rows import BookColumns, assemble_books
from mfamm_jax.market.loaders.files import check_grid, file_hash, first_line, is_header, nanoseconds, read_csv, refuse

BID, ASK = 1, -1
NAME = re.compile(r"(?P<symbol>[^-]+)-(?P<kind>\w+)-(?P<date>\d{4}-\d\d(-\d\d)?)\.(csv|csv\.gz|zip)")
BARS = re.compile(r"\d+(s|m|h|d|w|mo)|\w*klines", re.IGNORECASE)
LAYOUTS = {
    "trades": ("id", "price", "qty", "quote_qty", "time", "is_buyer_maker"),
    "aggTrades": ("id", "price", "qty", "first_trade_id", "last_trade_id", "time", "is_buyer_maker"),
    "bookTicker": ("id", "best_bid_price", "best_bid_qty", "best_ask_price", "best_ask_qty", "time"),
}
ALIASES = {"agg_trade_id": "id", "trade_id": "id", "update_id": "id", "quantity": "qty"} | dict.fromkeys(
    ("transact_time", "transaction_time", "timestamp"), "time"
)
UNUSED = ("quote_qty", "first_trade_id", "last_trade_id")
TYPES = {"id": pl.Int64(), "time": pl.Int64(), "is_buyer_maker": pl.Enum(["false", "False", "true", "True"])}
KIND_BY_COLUMN = {
    "agg_trade_id": "aggTrades",
    "is_buyer_maker": "trades",
    "best_bid_price": "bookTicker",
    "open_time": "klines",
    "percentage": "bookDepth",
}


def load_binance(path: str | Path, *, tick_size: float | None = None, size_unit: float | None = None) -> Session:
    """Reads one dump, or a folder with trades and best quotes of one symbol and date.

    A bookTicker dump gives book rows of one level at the transaction time; with trades, their rows repeat the book shown
    before their millisecond. Trades alone are a feed without a book. Gaps in the trade ids are counted.

    Args:
        path: csv, csv.gz or zip file whose name or header tells its kind, or a folder.
        tick_size: [price]; None = detected.
        size_unit: None = detected.

    Raises:
        DataError: Names file and row, says what was expected and what to do.
    """
    path = Path(path)
    files = _folder(path) if path.is_dir() else {_kind(path): path}
    counts, notes = {}, []
    trades = books = None
    for kind, file in files.items():
        if kind == "bookTicker":
            books = _books(file, tick_size, size_unit, counts, notes)
        else:
            trades = _trades(file, kind, tick_size, size_unit, counts, notes)
    first = next(iter(files.values()))
    match = NAME.fullmatch(first.name)
    name = f"{match['symbol']} {match['date']}" if match else first.name.split(".")[0]
    source = tuple((file.name, file_hash(file)) for file in files.values())
    units = {"tick_size": tick_size, "size_unit": size_unit}
    record = {"counts": counts, "notes": tuple(notes), "source": source}
    if books is not None:
        return assemble_books(name, books, trades, **units, **record)
    assert trades is not None
    return assemble(name, trades, "trades", **units, **record)


def _folder(path: Path) -> dict[str, Path]:
    """Files by kind: one of trades, one of best quotes or both, of one symbol and date."""
    named = [(match, file) for file in sorted(path.iterdir()) if (match := NAME.fullmatch(file.name))]
    found = [(match, file) for match, file in named if match["kind"] in LAYOUTS]
    if named and not found:
        _refuse_kind(named[0][1], named[0][0]["kind"])
    listed = ", ".join(file.name for _, file in found)
    if not found:
        raise DataError(f"{path}: no file SYMBOL-KIND-DATE.csv, .csv.gz or .zip with {', '.join(LAYOUTS)}")
    if len({match.group("symbol", "date") for match, _ in found}) > 1:
        raise DataError(f"{path}: several symbols or dates: {listed}; give one of the files as the path")
    if len([match for match, _ in found if match["kind"] != "bookTicker"]) > 1 or len(found) > 2:
        raise DataError(f"{path}: the same trades or quotes several times: {listed}; keep one of them")
    return {match["kind"]: file for match, file in found}


def _kind(file: Path) -> str:
    """Of a dump, from its name or else its header."""
    match = NAME.fullmatch(file.name)
    columns = {_snake(cell) for cell in first_line(file)}
    by_header = next((kind for column, kind in KIND_BY_COLUMN.items() if column in columns), "")
    kind = match["kind"] if match else by_header
    if kind not in LAYOUTS:
        _refuse_kind(file, kind)
    return kind


def _refuse_kind(file: Path, kind: str) -> None:
    if BARS.fullmatch(kind):
        raise DataError(f"{file}: klines are bars without trades or a book; use the aggTrades or trades dump instead")
    if kind == "bookDepth":
        raise DataError(f"{file}: bookDepth is depth summed by distance from the mid, no book; use bookTicker instead")
    raise DataError(
        f"{file}: {kind or 'a dump of unknown kind'}, expected {', '.join(LAYOUTS)}; keep the name SYMBOL-KIND-DATE of "
        "the download"
    )


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])([A-Z])", r"_\1", name).lower()


def _read(file: Path, kind: str) -> tuple[pl.DataFrame, int]:
    """The columns of the layout that are used, and the row of the file that holds the first."""
    head = first_line(file)
    layout = LAYOUTS[kind]
    if not is_header(head):
        types = {name: TYPES.get(name, pl.Float64()) for name in layout}
        return read_csv(file, types, has_header=False).drop(UNUSED, strict=False), 1
    found = {ALIASES.get(_snake(cell), _snake(cell)): cell for cell in head}
    names = {found.get(name, name): name for name in layout if name not in UNUSED}
    types = {own: TYPES.get(name, pl.Float64()) for own, name in names.items()}
    return read_csv(file, types, has_header=True).rename(names), 2


def _trades(
    file: Path, kind: str, tick: float | None, unit: float | None, counts: dict[str, int], notes: list[str]
) -> Columns:
    table, first_row = _read(file, kind)
    ids, price, size = (table[name].to_numpy() for name in ("id", "price", "qty"))
    refuse(file, price <= 0, "price", price, "> 0; remove the row", first_row)
    refuse(file, size <= 0, "qty", size, "> 0; remove the row", first_row)
    check_grid(file, {"price": price}, {"qty": size}, tick, unit, first_row)
    time = nanoseconds(f"{file}: time", table["time"].to_numpy(), first_row)
    maker = table["is_buyer_maker"].to_physical().to_numpy() >= 2
    order = np.argsort(ids, kind="stable")
    steps = np.diff(ids[order])
    repeated = np.zeros(len(ids), bool)
    repeated[order[1:]] = steps == 0
    refuse(file, repeated, "id", ids, "every trade once; remove the copy", first_row)
    n_gaps, n_back = int((steps > 1).sum()), int((np.diff(time[order]) < 0).sum())
    counts |= {"trades": len(ids), "trade_id_gaps": n_gaps}
    if n_gaps:
        notes.append(f"{n_gaps:,} gaps in the trade ids")
    if n_back:
        notes.append(f"{n_back:,} trades with an earlier time than the trade before; sorted by time")
    return Columns(
        exchange_ns=time[order],
        local_ns=None,
        kind=np.full(len(ids), Kind.TRADE, np.int8),
        side=np.where(maker, BID, ASK).astype(np.int8)[order],
        price=price[order],
        size=size[order],
    )


def _books(file: Path, tick: float | None, unit: float | None, counts: dict[str, int], notes: list[str]) -> BookColumns:
    table, first_row = _read(file, "bookTicker")
    time = nanoseconds(f"{file}: transaction_time", table["time"].to_numpy(), first_row)
    for side in ("bid", "ask"):
        price, size = table[f"best_{side}_price"].to_numpy(), table[f"best_{side}_qty"].to_numpy()
        refuse(file, size < 0, f"best_{side}_qty", size, ">= 0; remove the row", first_row)
        bad = (size > 0) & (price <= 0)
        refuse(file, bad, f"best_{side}_price", price, "> 0 beside a quantity; remove the row", first_row)
        check_grid(file, {f"best_{side}_price": price}, {f"best_{side}_qty": size}, tick, unit, first_row)
    order = np.argsort(table["id"].to_numpy(), kind="stable")
    n_unsorted = int((np.diff(order) < 0).sum())
    if n_unsorted:
        notes.append(f"best quotes sorted by update id ({n_unsorted:,} out of order)")
    time = time[order]
    n_back = int((np.diff(time) < 0).sum())
    if n_back:
        notes.append(f"{n_back:,} best quotes with an earlier time than the one before; they take that one's time")
    counts["best_quotes"] = len(time)
    columns = {name: table[name].to_numpy()[order][:, None] for name in LAYOUTS["bookTicker"][1:5]}
    return BookColumns(
        exchange_ns=np.maximum.accumulate(time),
        local_ns=None,
        bid_price=columns["best_bid_price"],
        bid_size=columns["best_bid_qty"],
        ask_price=columns["best_ask_price"],
        ask_size=columns["best_ask_qty"],
    )
