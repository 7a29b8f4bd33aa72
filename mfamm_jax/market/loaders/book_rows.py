"""Sessions of files that show whole books, a snapshot or the best quotes a row, merged with trades."""

import dataclasses
from typing import Any

import numpy as np

from mfamm_jax.market.events import BookSnapshots, Kind, Session
from mfamm_jax.market.loaders.assemble import Columns, assemble
from mfamm_jax.market.loaders.files import MAX_SIZE, grid_step, multiples


@dataclasses.dataclass(frozen=True)
class BookColumns:
    """Books as a file has them, in the order received, best level first. Q rows, K levels.

    Args:
        exchange_ns: int64 (Q,), UTC epoch.
        local_ns: int64 (Q,), UTC epoch of the receiving machine's clock; None = not recorded.
        bid_price, bid_size, ask_price, ask_size: float64 (Q, K); size 0 = level absent.
    """

    exchange_ns: np.ndarray
    local_ns: np.ndarray | None
    bid_price: np.ndarray
    bid_size: np.ndarray
    ask_price: np.ndarray
    ask_size: np.ndarray


def assemble_books(
    name: str,
    books: BookColumns,
    trades: Columns | None,
    *,
    tick_size: float | None,
    size_unit: float | None,
    counts: dict[str, Any],
    notes: tuple[str, ...],
    source: tuple[tuple[str, str], ...],
) -> Session:
    """A session with a SNAPSHOT row per book and TRADE rows that repeat the book shown last.

    A trade stands before the books of its own time stamp: they may already show it. Crossed or locked books are dropped.

    Args:
        name: For tables and errors.
        books: Book rows.
        trades: Trades; None = none.
        tick_size: [price]; None = detected.
        size_unit: None = detected.
        counts: For the facts.
        notes: For the report.
        source: (file, sha256).

    Raises:
        DataError: As `assemble`.
    """
    shown = [(books.bid_price, books.bid_size), (books.ask_price, books.ask_size)]
    trade_price, trade_size = (trades.price, trades.size) if trades else (np.zeros(0), np.zeros(0))
    tick = tick_size or grid_step([price[size > 0] for price, size in shown] + [trade_price])
    unit = size_unit or grid_step([size for _, size in shown] + [trade_size])
    levels = _levels(", ".join(file for file, _ in source), books, tick, unit)
    one_sided = (levels.bid_size[:, 0] == 0) | (levels.ask_size[:, 0] == 0)
    keep = one_sided | (levels.bid_ticks[:, 0] < levels.ask_ticks[:, 0])
    n_crossed = int((~keep).sum())
    if n_crossed:
        notes = (*notes, f"{n_crossed:,} crossed or locked books dropped")
    rows = _joined(books, keep, trades)
    received = np.zeros(len(rows.kind)) if rows.local_ns is None else rows.local_ns
    order = np.lexsort((received, rows.exchange_ns))  # stable: trades come first among equals
    sorted_rows = Columns(*(None if x is None else x[order] for x in vars(rows).values()))
    session = assemble(
        name, sorted_rows, "levels", tick_size=tick, size_unit=unit, notes=notes, source=source,
        counts=counts | {"book_rows": int(keep.sum()), "crossed_rows": n_crossed},
    )  # fmt: skip
    n_trades = len(trade_price)
    latest = np.maximum.accumulate(np.where(order >= n_trades, np.arange(len(order)), -1))
    book = np.flatnonzero(keep)[np.maximum(order[np.maximum(latest, 0)] - n_trades, 0)]
    absent = (latest < 0)[:, None]
    parts = (np.where(absent, 0, part[book]).astype(part.dtype) for part in vars(levels).values())
    return dataclasses.replace(session, books=BookSnapshots(*parts))


def _joined(books: BookColumns, keep: np.ndarray, trades: Columns | None) -> Columns:
    """Rows of the trades, then of the books kept."""
    n = int(keep.sum())
    zeros = np.zeros(n)
    local = None if books.local_ns is None else books.local_ns[keep]
    kind = np.full(n, Kind.SNAPSHOT, np.int8)
    rows = Columns(books.exchange_ns[keep], local, kind, np.zeros(n, np.int8), zeros, zeros)
    if trades is None:
        return rows
    pairs = zip(vars(trades).values(), vars(rows).values())
    return Columns(*(None if a is None or b is None else np.concatenate([a, b]) for a, b in pairs))


def _levels(files: str, books: BookColumns, tick: float, unit: float) -> BookSnapshots:
    def side(what: str, price: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place, shape = f"{files}: {what}", price.shape
        shown = np.where(size > 0, price, 0.0).ravel()
        ticks = multiples(f"{place} price", shown, tick, "check or give tick_size")
        units = multiples(f"{place} size", size.ravel(), unit, "check or give size_unit", largest=MAX_SIZE)
        return ticks.astype(np.int32).reshape(shape), units.astype(np.float32).reshape(shape)

    return BookSnapshots(
        *side("bid", books.bid_price, books.bid_size),
        *side("ask", books.ask_price, books.ask_size),
    )
