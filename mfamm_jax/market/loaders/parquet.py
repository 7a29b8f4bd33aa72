"""Own data as Parquet: one row per message. `write_parquet` writes what `load_parquet` reads.

| column | type | meaning |
|---|---|---|
| `t_ns` | integer | UTC epoch nanoseconds of the exchange's clock, non-decreasing |
| `kind` | string | add, cancel, delete, trade, hidden_trade, cross, halt, clear, snapshot or level, as `market.events.Kind` |
| `side` | string | bid, ask or none: side of the RESTING order or of the level |
| `price` | float or decimal | on halt rows -1 trading halted, 0 quoting resumes, 1 trading resumes |
| `size` | float or decimal | shares, coins or contracts |
| `order_id` | integer, optional | 0 or null when unknown |
| `local_ns` | integer, optional | UTC epoch nanoseconds of the receiving clock |

Key-value metadata of the file, all optional: `tick_size`, `size_unit`, `feed`, `name`, and what `write_parquet` adds.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast, get_args

import numpy as np
import polars as pl

from mfamm_jax.market.events import BookUpdates, DataError, Feed, Kind, Session
from mfamm_jax.market.loaders.assemble import Columns, assemble
from mfamm_jax.market.loaders.files import (
    DECIMALS,
    MAX_SIZE,
    PARQUET_ERRORS,
    check_grid,
    file_hash,
    first_of,
    grid_step,
    is_whole,
    nanoseconds,
    refuse,
    shown,
)

REQUIRED = ("t_ns", "kind", "side", "price", "size")
OPTIONAL = ("order_id", "local_ns")
KINDS = tuple(kind.name.lower() for kind in Kind)  # by number
SIDES = ("ask", "none", "bid")  # -1, 0, +1
ORDER_KINDS = (Kind.ADD, Kind.CANCEL, Kind.DELETE)
LEVEL_KINDS = (Kind.LEVEL, Kind.SNAPSHOT)
TRADE_KINDS = (Kind.TRADE, Kind.HIDDEN_TRADE)
EARLIEST_NS, LATEST_NS = -(2**61), 2**62  # differences of such times fit int64


def load_parquet(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    tick_size: float | None = None,
    size_unit: float | None = None,
) -> Session:
    """Reads messages in the schema above.

    Times of a file that `write_parquet` did not write may also be epoch milliseconds or microseconds. Hidden trades off the
    tick grid go to the next tick towards the mid.

    Args:
        path: File.
        columns: Own column name -> name in the schema, for columns that have another name.
        tick_size: [price]; None = the file's metadata, else detected.
        size_unit: None = the file's metadata, else detected.

    Raises:
        DataError: Names file and row, says what was expected and what to do.
    """
    file = Path(path)
    metadata = _metadata(file)
    is_ours = "epoch_ns" in metadata
    table = _read(file, dict(columns or {}))
    t_ns = _times(file, table, "t_ns", is_ours)
    back = np.append(False, np.diff(t_ns) < 0)
    refuse(file, back, "t_ns", t_ns, "no time before the row above; sort the rows in exchange order")
    kind, side = _words(file, table, "kind", KINDS), _words(file, table, "side", SIDES) - np.int8(1)
    sideless = (side == 0) & np.isin(kind, (*ORDER_KINDS, *LEVEL_KINDS))
    refuse(file, sideless, "side", table["side"], "bid or ask on rows that change the book")
    price, size = _values(file, table, "price", kind), _values(file, table, "size", kind)
    traded = np.isin(kind, TRADE_KINDS)
    refuse(file, traded & (size == 0), "size", size, "> 0 of a trade; remove the row")
    needed = traded | np.isin(kind, (Kind.ADD, *LEVEL_KINDS)) & (size > 0)
    refuse(file, needed & (price == 0), "price", price, "> 0 beside a size; remove the row")
    tick_size = tick_size or _step(file, metadata, "tick_size")
    size_unit = size_unit or _step(file, metadata, "size_unit")
    if tick_size is None:
        shown = _displayed(kind)
        check_grid(file, {"price": np.where(shown, price, 0.0)}, {}, None, None, 1)
        tick_size = grid_step([price[shown]])
    price, n_off_tick = _on_grid(price, kind, side, tick_size)
    priced = ~np.isin(kind, (Kind.CLEAR, Kind.HALT))
    on_grid = {"price": np.where(priced, price, 0.0)}, {"size": np.where(priced, size, 0.0)}
    check_grid(file, *on_grid, tick_size, size_unit, 1)
    local_ns = _times(file, table, "local_ns", is_ours) if "local_ns" in table.columns else None
    ids = table["order_id"].to_numpy() if "order_id" in table.columns else None
    session = assemble(
        metadata.get("name", file.name.split(".")[0]),
        Columns(t_ns, local_ns, kind, side, price, size, ids),
        _feed(file, kind, metadata.get("feed")),
        tick_size=tick_size,
        size_unit=size_unit,
        correction_ns=0 if is_ours else None,
        notes=tuple(metadata["notes"].split("\n")) if metadata.get("notes") else (),
        source=((file.name, file_hash(file)),),
    )
    stated = _number(file, metadata, "epoch_ns", int)
    epoch = session.epoch_ns if stated is None else int(stated)
    if not EARLIEST_NS <= epoch <= LATEST_NS:
        raise DataError(f"{file}: metadata epoch_ns is {epoch}, expected UTC nanoseconds; write the file again")
    return dataclasses.replace(
        session,
        updates=_since(session.updates, epoch - session.epoch_ns),
        epoch_ns=epoch,
        clock=metadata.get("clock", session.clock),
        n_off_tick=n_off_tick + (_number(file, metadata, "n_off_tick", int) or 0),
    )


def write_parquet(session: Session, path: str | Path) -> Path:
    """Writes the messages of a session; `load_parquet` gives them back exactly. Books and best quotes are not written.

    Raises:
        ValueError: The book of the session is only in its book rows, or a size is no multiple of the size unit.
    """
    updates, path = session.updates, Path(path)
    if session.books is not None and (session.feed == "levels" or session.counts.get("planted")):
        raise ValueError(
            f"{session.name}: its book is only in book rows; write market.thinning.level_messages(session)"
        )
    if (updates.size % 1 != 0).any():
        raise ValueError(
            f"{session.name}: sizes in fractions of the size unit {session.size_unit}; expected whole multiples"
        )
    price = np.round(updates.price_ticks * session.tick_size, DECIMALS)
    columns = {
        "t_ns": updates.t_ns + session.epoch_ns,
        "kind": pl.Series(np.array(KINDS)[updates.kind]),
        "side": pl.Series(np.array(SIDES)[updates.side.astype(int) + 1]),
        "price": np.where(updates.kind == Kind.HALT, updates.price_ticks, price).astype(np.float64),
        "size": np.round(updates.size.astype(np.float64) * session.size_unit, DECIMALS),
        "order_id": updates.order_id.astype(np.uint64),
    }
    if updates.local_ns is not None:
        columns["local_ns"] = updates.local_ns + session.epoch_ns
    names = ("tick_size", "size_unit", "feed", "name", "clock", "epoch_ns", "n_off_tick")
    metadata = {name: str(getattr(session, name)) for name in names} | {"notes": "\n".join(session.notes)}
    partial = path.with_suffix(".partial")
    pl.DataFrame(columns).write_parquet(partial, metadata=metadata)
    os.replace(partial, path)
    return path


def _metadata(file: Path) -> dict[str, str]:
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    try:
        return pl.read_parquet_metadata(file)
    except PARQUET_ERRORS as error:
        raise DataError(
            f"{file}: not a complete Parquet file ({first_of(error)}); write or download it again"
        ) from error


def _read(file: Path, columns: dict[str, str]) -> pl.DataFrame:
    """Columns of the schema that the file has, of their types and without nulls."""
    unknown = sorted(set(columns.values()) - {*REQUIRED, *OPTIONAL})
    if unknown:
        raise DataError(f"{file}: columns maps to {', '.join(unknown)}; expected {', '.join((*REQUIRED, *OPTIONAL))}")
    try:
        found = pl.read_parquet_schema(file)
    except PARQUET_ERRORS as error:
        raise DataError(f"{file}: damaged Parquet file ({first_of(error)}); write or download it again") from error
    own = {name: name for name in (*REQUIRED, *OPTIONAL)} | {name: mine for mine, name in columns.items()}
    missing = [own[name] for name in (*REQUIRED, *columns.values()) if own[name] not in found]
    if missing:
        raise DataError(
            f"{file}: no column {', '.join(dict.fromkeys(missing))}; found {shown(', '.join(found))}; name your columns with "
            'columns = {"own name": "name in the schema"}'
        )
    used = {own[name]: name for name in own if own[name] in found}
    for mine, name in used.items():
        fits = {"kind": _is_text, "side": _is_text, "price": _is_number, "size": _is_number}.get(name, is_whole)
        if not fits(found[mine]):
            expected = (
                "text" if fits is _is_text else "numbers" if fits is _is_number else "integers (nanoseconds, ids)"
            )
            raise DataError(
                f"{file}: column {shown(mine)} holds {found[mine]}, expected {expected}; cast it before writing"
            )
    try:
        table = pl.read_parquet(file, columns=list(used)).rename(used)
    except PARQUET_ERRORS as error:
        raise DataError(f"{file}: damaged Parquet file ({first_of(error)}); write or download it again") from error
    if table.height == 0:
        raise DataError(f"{file}: empty; expected rows of {', '.join(REQUIRED)}")
    for name in table.columns:
        if name != "order_id":
            refuse(file, table[name].is_null().to_numpy(), name, table[name], "a value; remove the row")
    if "order_id" in table.columns:
        ids = table["order_id"].fill_null(0)
        refuse(file, (ids < 0).to_numpy(), "order_id", ids, ">= 0")
        table = table.with_columns(order_id=ids.cast(pl.UInt64))
    return table


def _is_text(dtype) -> bool:
    return dtype in (pl.String, pl.Categorical, pl.Enum)


def _is_number(dtype) -> bool:
    return dtype.is_numeric()


def _number(file: Path, metadata: dict[str, str], name: str, kind: type = float) -> float | int | None:
    """A number of the metadata; None = not there."""
    try:
        return None if name not in metadata else kind(metadata[name])
    except ValueError as error:
        raise DataError(f"{file}: metadata {name} is {metadata[name]!r}, expected a number") from error


def _step(file: Path, metadata: dict[str, str], name: str) -> float | None:
    """A tick or size unit of the metadata; None = not there."""
    step = _number(file, metadata, name)
    if step is not None and not 0 < step <= MAX_SIZE:
        raise DataError(f"{file}: metadata {name} is {metadata[name]!r}, expected a number > 0 and at most 2^53")
    return step


def _times(file: Path, table: pl.DataFrame, name: str, is_ours: bool) -> np.ndarray:
    times = table[name]
    numbers = times.to_numpy()
    outside = (numbers < EARLIEST_NS) | (numbers > LATEST_NS)
    refuse(file, outside, name, times, "UTC nanoseconds since 1970; correct or remove the row")
    numbers = numbers.astype(np.int64)
    return numbers if is_ours else nanoseconds(f"{file}: {name}", numbers)


def _words(file: Path, table: pl.DataFrame, name: str, words: tuple[str, ...]) -> np.ndarray:
    """int8 (N,): number of each row's word."""
    found = table[name].cast(pl.String)
    numbers = found.cast(pl.Enum(words), strict=False)
    refuse(file, numbers.is_null().to_numpy(), name, found, ", ".join(words))
    return numbers.to_physical().to_numpy().astype(np.int8)


def _values(file: Path, table: pl.DataFrame, name: str, kind: np.ndarray) -> np.ndarray:
    """float64 (N,) of prices or sizes; those of float32 are the decimal numbers they stand for."""
    column = table[name]
    values = (column.cast(pl.String) if column.dtype == pl.Float32 else column).cast(pl.Float64).to_numpy()
    halt = kind == Kind.HALT
    refuse(file, ~(np.isfinite(values) & ((values >= 0) | halt)), name, values, ">= 0; remove the row")
    refuse(file, values > MAX_SIZE, name, values, "at most 2^53; correct or remove the row")
    if name == "price":
        refuse(file, halt & ~np.isin(values, (-1, 0, 1)), name, values, "-1, 0 or 1 on a halt row")
    return values


def _displayed(kind: np.ndarray) -> np.ndarray:
    """bool (N,): rows with prices on the tick grid; hidden trades may be off it."""
    shown = ~np.isin(kind, (Kind.CLEAR, Kind.HALT, Kind.HIDDEN_TRADE))
    return shown if shown.any() else kind == Kind.HIDDEN_TRADE


def _on_grid(price: np.ndarray, kind: np.ndarray, side: np.ndarray, tick: float) -> tuple[np.ndarray, int]:
    """Prices with hidden trades on the grid, up for a resting bid and down for an ask, and how many were off it."""
    exact = price / tick
    nearest = np.rint(exact)
    off = (kind == Kind.HIDDEN_TRADE) & (np.abs(exact - nearest) > 1e-6)
    ticks = np.where(side > 0, np.ceil(exact), np.where(side < 0, np.floor(exact), nearest))
    price = np.where(off, ticks * tick, np.where(kind == Kind.HALT, price * tick, price))
    return price, int(off.sum())


def _feed(file: Path, kind: np.ndarray, stated: str | None) -> Feed:
    """What the rows act on."""
    by_order, by_level = (bool(np.isin(kind, kinds).any()) for kinds in (ORDER_KINDS, LEVEL_KINDS))
    if by_order and by_level:
        raise DataError(f"{file}: rows of single orders and of whole levels; expected one of the two, split the file")
    if stated not in (None, *get_args(Feed)):
        raise DataError(f"{file}: metadata feed is {stated!r}, expected {', '.join(get_args(Feed))}")
    found = "orders" if by_order else "levels" if by_level else "trades"
    if found != "trades" and stated not in (None, found):
        raise DataError(f"{file}: metadata feed is {stated}, expected {found} as its rows are; write the file again")
    return cast(Feed, stated or found)


def _since(updates: BookUpdates, shift_ns: int) -> BookUpdates:
    """Times counted from a midnight that is so much later."""
    local = None if updates.local_ns is None else updates.local_ns - shift_ns
    return dataclasses.replace(updates, t_ns=updates.t_ns - shift_ns, local_ns=local)
