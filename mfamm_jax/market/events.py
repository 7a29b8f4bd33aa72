"""Recorded market activity as struct of arrays on the host.

Times are int64 nanoseconds since the session's midnight (or since `epoch_ns`): they fit neither float64 epochs nor JAX's
default integers, so they stay in NumPy and the device gets durations and indices.
"""

import dataclasses
from enum import IntEnum
from typing import Any, Literal

import numpy as np

NS = 1_000_000_000


class Kind(IntEnum):
    """What an event did to the market."""

    ADD = 0
    CANCEL = 1  # partial
    DELETE = 2
    TRADE = 3  # visible execution
    HIDDEN_TRADE = 4  # execution of a hidden order; the displayed book does not change
    CROSS = 5  # auction
    HALT = 6
    CLEAR = 7  # a side's levels from the best one to the row's price (side 0: everything) are gone
    SNAPSHOT = 8  # as LEVEL, from a snapshot; with `books` given: just a new book row
    LEVEL = 9  # a price level now shows the row's size; 0 = level gone


Feed = Literal["orders", "levels", "trades"]


@dataclasses.dataclass(frozen=True)
class BookUpdates:
    """Messages, one row each, in exchange order. N rows.

    Args:
        t_ns: int64 (N,), exchange clock, nanoseconds since midnight of the session (non-decreasing).
        kind: int8 (N,), `Kind`.
        side: int8 (N,), side of the RESTING order or of the level: +1 bid, -1 ask, 0 none.
        price_ticks: int32 (N,). Hidden prints off the tick grid go to the next tick towards the mid (up for a resting bid,
            down for a resting ask), so that they never count as having passed through a quote they did not reach.
            On HALT rows: -1 trading halted, 0 quoting resumes, 1 trading resumes.
        size: float (N,), shares, contracts or multiples of the session's `size_unit`: what was added, taken away or
            executed; on LEVEL and SNAPSHOT rows what the level shows now.
        order_id: uint64 (N,), 0 when unknown.
        local_ns: int64 (N,), when each row was received, on the clock of `t_ns`; None = not recorded.
    """

    t_ns: np.ndarray
    kind: np.ndarray
    side: np.ndarray
    price_ticks: np.ndarray
    size: np.ndarray
    order_id: np.ndarray
    local_ns: np.ndarray | None = None

    @property
    def aggressor(self) -> np.ndarray:
        """int8 (N,): +1 buyer-initiated, -1 seller-initiated trade, 0 for rows that are no trade."""
        is_trade = (self.kind == Kind.TRADE) | (self.kind == Kind.HIDDEN_TRADE)
        return np.where(is_trade, -self.side, 0).astype(np.int8)

    def __len__(self) -> int:
        return len(self.t_ns)


@dataclasses.dataclass(frozen=True)
class BookSnapshots:
    """The book AFTER each event row. N rows, K occupied levels a side, best first.

    Args:
        bid_ticks, ask_ticks: int32 (N, K); meaningless where the matching size is 0 (level absent).
        bid_size, ask_size: float32 (N, K); 0 = level absent.
    """

    bid_ticks: np.ndarray
    bid_size: np.ndarray
    ask_ticks: np.ndarray
    ask_size: np.ndarray

    @property
    def n_levels(self) -> int:
        """K."""
        return self.bid_ticks.shape[1]


@dataclasses.dataclass(frozen=True)
class Trades:
    """Marketable orders: consecutive executions with equal time and aggressor side, merged. M rows.

    Args:
        event: int64 (M,), row of the order's first execution in the `BookUpdates` (book before it: row `event - 1`).
        last_event: int64 (M,), row of its last execution.
        t_ns: int64 (M,).
        aggressor: int8 (M,): +1 buyer-initiated, -1 seller-initiated.
        size: float32 (M,), total executed.
        worst_ticks: int32 (M,), worst price executed.
    """

    event: np.ndarray
    last_event: np.ndarray
    t_ns: np.ndarray
    aggressor: np.ndarray
    size: np.ndarray
    worst_ticks: np.ndarray


@dataclasses.dataclass(frozen=True)
class BestQuotes:
    """Best bid and ask from a stream of their own. Q rows.

    Args:
        t_ns: int64 (Q,), exchange clock of the session.
        local_ns: int64 (Q,), when received, same clock; None = not recorded.
        books: One level a side.
    """

    t_ns: np.ndarray
    local_ns: np.ndarray | None
    books: BookSnapshots


@dataclasses.dataclass(frozen=True)
class Session:
    """One instrument's recorded session: what every loader returns.

    Args:
        name: For tables and titles, e.g. "AAPL 2012-06-21".
        tick_size: [price].
        updates: N messages.
        books: N book rows; None where the file has no books of its own (`market.ladder` builds them).
        clock: Which clock `t_ns` is, e.g. "exchange event time, ns after midnight New York".
        feed: What a message acts on. "orders": single orders (ADD, CANCEL, DELETE and TRADE by order id). "levels": whole
            price levels (LEVEL, SNAPSHOT, CLEAR; a TRADE row leaves the book to the level rows that follow). "trades": no
            book at all.
        size_unit: What sizes count, in shares, coins or contracts; the venue's lot.
        epoch_ns: UTC nanoseconds of the midnight that `t_ns` counts from; 0 = unknown or local time.
        best_quotes: Stream of best bids and asks recorded beside the messages.
        counts: What the loader counted: lines by stream, gaps, rows dropped.
        source: Files read, for the manifest (path, sha256).
        notes: What the loader repaired or dropped, one line each.
        n_off_tick: Hidden executions whose price was not on the tick grid.
    """

    name: str
    tick_size: float
    updates: BookUpdates
    books: BookSnapshots | None
    clock: str
    feed: Feed = "orders"
    size_unit: float = 1.0
    epoch_ns: int = 0
    best_quotes: BestQuotes | None = None
    counts: dict[str, Any] = dataclasses.field(default_factory=dict)
    source: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    n_off_tick: int = 0


def merge_marketable_orders(updates: BookUpdates) -> Trades:
    """Consecutive visible executions with equal time and side are one marketable order that swept the book.

    Other rows between them (hidden executions, cancels with the same stamp) do not split it.
    """
    row = np.flatnonzero(updates.kind == Kind.TRADE)
    t_ns, side = updates.t_ns[row], updates.side[row]
    starts = np.ones(len(row), bool)
    starts[1:] = (np.diff(t_ns) != 0) | (np.diff(side) != 0)
    first = np.flatnonzero(starts)
    last = np.append(first[1:], len(row))[: len(first)] - 1
    aggressor = -side[first]
    # A sweep's worst price is its highest for a buyer, its lowest for a seller.
    signed = -side.astype(np.int64) * updates.price_ticks[row]
    worst = aggressor * np.maximum.reduceat(signed, first) if len(row) else signed
    size = np.add.reduceat(updates.size[row].astype(np.float64), first) if len(row) else updates.size[row]
    return Trades(
        event=row[first],
        last_event=row[last],
        t_ns=t_ns[first],
        aggressor=aggressor.astype(np.int8),
        size=size.astype(np.float32),
        worst_ticks=worst.astype(np.int32),
    )


class DataError(ValueError):
    """A data file cannot be used: says which file and row, what was expected and what to do."""
