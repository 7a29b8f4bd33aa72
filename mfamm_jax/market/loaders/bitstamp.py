"""Bitstamp's order-by-order csv in the columns of obAnalytics, where `volume` is what REMAINS of the order.

The file is in the order received and its times are local: `exchange.timestamp` has whole seconds and repeats the order's
creation on every later row. What the file does not say is decided so:

- Executions are not marked. Two consecutive rows are one if orders of opposite sides lose the same volume within 0.1 s: the
  venue sends a match as two messages, whose volumes differ by rounding. The older order rested: its row is a TRADE, the
  other's a CANCEL or DELETE. An order from before the recording that goes to 0 beside such a loss rested too, with its
  partner's volume. Other losses stay cancels (counts["unmatched_losses"]).
- The venue moves market orders to the price that they reach: a changed price is DELETE and ADD, as is a volume that grows.
- A `deleted` may be received before its `created`: such an order is never added. It is what leaves stale orders behind.
- A book crosses while a marketable order is being matched (0.6 s at most in the recording of 2015). An order that a newer
  one has crossed for longer than a second was deleted unnoticed: it is dropped (counts["stale_orders"]).

Source: obAnalytics, help of `loadData`.
"""

import dataclasses
import heapq
from pathlib import Path
from typing import no_type_check

import numpy as np
import polars as pl

from mfamm_jax.market.events import BookUpdates, DataError, Kind, Session
from mfamm_jax.market.loaders.files import (
    MAX_SIZE,
    check_grid,
    file_hash,
    grid_step,
    midnight,
    multiples,
    nanoseconds,
    read_csv,
)

COLUMNS = {
    "id": pl.UInt64(),
    "timestamp": pl.Int64(),
    "exchange.timestamp": pl.Int64(),
    "price": pl.Float64(),
    "volume": pl.Int64(),
    "action": pl.String(),
    "direction": pl.String(),
}
FIRST_ROW = 2  # below the header
ACTIONS = ("created", "changed", "deleted")
SIDES = {"bid": 1, "ask": -1}
SIZE_UNIT = 1e-8  # BTC
MATCH_NS, ROUNDING = 100_000_000, 2  # between the two messages of a match, and units by which their volumes differ
STALE_NS = 1_000_000_000
CLOCK = "local receive time, ns after midnight UTC"


def load_bitstamp(path: str | Path) -> Session:
    """Reads a csv file (plain, .gz, .zip) of orders.

    Raises:
        DataError: Names file and row, says what was expected and what to do.
    """
    file = Path(path)
    table = read_csv(file, COLUMNS, has_header=True)
    _check(file, table)
    price = table["price"].to_numpy()
    check_grid(file, {"price": price}, {}, None, None, FIRST_ROW)
    tick = grid_step([price])
    ticks = multiples(f"{file}: price", price, tick, "correct the price", FIRST_ROW)
    t_ns = nanoseconds(f"{file}: timestamp", table["timestamp"].to_numpy(), FIRST_ROW)
    replay = _Replay()
    sides = [SIDES[direction] for direction in table["direction"]]
    columns = (t_ns.tolist(), table["action"], table["id"].to_list(), sides, ticks.tolist(), table["volume"].to_list())
    for number, row in enumerate(zip(*columns)):
        replay.apply(number, *row)
    if not replay.rows:
        raise DataError(f"{file}: no order is created; expected a recording that goes on after its first orders")
    dtypes = (np.int64, np.int8, np.int8, np.int32, np.float64, np.uint64)
    times, *rest = (np.array(column, dtype) for column, dtype in zip(zip(*replay.rows), dtypes))
    epoch = midnight(t_ns)
    actions = {action: int((table["action"] == action).sum()) for action in ACTIONS}
    counts = {"rows": len(table), **actions, **replay.counts}
    return Session(
        name=file.name.split(".")[0],
        tick_size=tick,
        updates=BookUpdates(times - epoch, *rest),
        books=None,
        clock=CLOCK,
        feed="orders",
        size_unit=SIZE_UNIT,
        epoch_ns=epoch,
        counts=counts,
        source=((file.name, file_hash(file)),),
        notes=(
            f"{counts['matches']:,} executions inferred from pairs of orders that lost the same volume",
            f"{counts['stale_orders']:,} stale orders dropped that newer ones had crossed",
        ),
    )


def _check(file: Path, table: pl.DataFrame) -> None:
    """Refuses cells that cannot be used; the header is row 1."""
    price, volume, time = (table[name].to_numpy() for name in ("price", "volume", "timestamp"))
    checks = (
        (~(price > 0), "price", "expected a number > 0"),
        ((volume < 0) | (volume > MAX_SIZE), "volume", "expected >= 0, in 1e-8 BTC, and at most 2^53"),
        (~table["action"].is_in(ACTIONS).fill_null(False).to_numpy(), "action", "expected created, changed or deleted"),
        (~table["direction"].is_in(list(SIDES)).fill_null(False).to_numpy(), "direction", "expected bid or ask"),
        (np.append(False, np.diff(time) < 0), "timestamp", "earlier than the row before; sort the rows by timestamp"),
    )
    for bad, name, expected in checks:
        if bad.any():
            row = int(np.argmax(bad))
            raise DataError(f"{file}: row {row + FIRST_ROW}: {name} is {table[name][row]!r}, {expected}")


@dataclasses.dataclass(frozen=True)
class _Loss:
    """Volume that an order lost with one row of the file; None and no `made` row if the order is from before the recording."""

    number: int
    t_ns: int
    order_id: int
    side: int
    price: int
    volume: int | None
    placed: int
    made: int


class _Replay:
    """Orders while the rows pass by: [side, price, remaining volume, number of the row that placed it] by id.

    Rows made: (t_ns, kind, side, price in ticks, size, order id).
    """

    def __init__(self):
        self.orders: dict[int, list[int]] = {}
        self.gone: set[int] = set()
        self.queues: dict[int, list[tuple[int, int]]] = {1: [], -1: []}
        self.crossed: tuple[int, int] | None = None  # order behind its time, since when
        self.loss: _Loss | None = None  # of the row before
        self.rows: list[tuple[int, int, int, int, int, int]] = []
        names = "unknown_orders after_deletion price_moves growths matches unmatched_losses crossings stale_orders"
        self.counts = dict.fromkeys(names.split(), 0)

    @no_type_check  # called for every row
    def apply(self, number: int, t_ns: int, action: str, order_id: int, side: int, price: int, volume: int) -> None:
        """Appends what one row of the file does."""
        while self.crossed and t_ns - self.crossed[1] > STALE_NS:
            self.counts["stale_orders"] += 1
            self.delete(t_ns, self.crossed[0])
            self.look_for_cross(t_ns)
        order, loss = self.orders.get(order_id), None
        if order_id in self.gone:
            self.counts["after_deletion"] += 1
        elif order is None and action == "created":
            self.add(number, t_ns, order_id, side, price, volume)
        elif order is None:
            self.counts["unknown_orders"] += 1
            if action == "deleted":
                self.gone.add(order_id)
                loss = _Loss(number, t_ns, order_id, side, price, None, -1, -1) if volume == 0 else None
        elif action == "deleted":
            self.delete(t_ns, order_id)
            loss = order[2] if volume == 0 else 0
        elif price != order[1] or volume > order[2]:
            self.counts["price_moves" if price != order[1] else "growths"] += 1
            self.delete(t_ns, order_id)
            self.gone.remove(order_id)
            self.add(number, t_ns, order_id, side, price, volume)
        elif volume < order[2]:
            loss = order[2] - volume
            order[2] = volume
            self.rows.append((t_ns, Kind.CANCEL, side, price, loss, order_id))
        if order is not None and loss:
            self.counts["unmatched_losses"] += 1
            loss = _Loss(number, t_ns, order_id, side, order[1], loss, order[3], len(self.rows) - 1)
        self.match(loss or None)
        self.look_for_cross(t_ns)

    def add(self, number: int, t_ns: int, order_id: int, side: int, price: int, volume: int) -> None:
        """New order."""
        self.orders[order_id] = [side, price, volume, number]
        heapq.heappush(self.queues[side], (-side * price, order_id))
        self.rows.append((t_ns, Kind.ADD, side, price, volume, order_id))

    def delete(self, t_ns: int, order_id: int) -> None:
        """What is left of an order."""
        side, price, volume, _ = self.orders.pop(order_id)
        self.gone.add(order_id)
        self.rows.append((t_ns, Kind.DELETE, side, price, volume, order_id))

    def match(self, loss: _Loss | None) -> None:
        """Makes a pair of losses in consecutive rows an execution of the older order."""
        before, self.loss = self.loss, loss
        if before is None or loss is None or before.number + 1 != loss.number or before.side == loss.side:
            return
        resting, taker = (before, loss) if before.placed < loss.placed else (loss, before)
        if taker.volume is None or loss.t_ns - before.t_ns > MATCH_NS:
            return
        if resting.volume is None:
            self.rows.append((loss.t_ns, Kind.TRADE, resting.side, resting.price, taker.volume, resting.order_id))
        elif abs(resting.volume - taker.volume) > ROUNDING:
            return
        else:
            t_ns, _, side, price, volume, order_id = self.rows[resting.made]
            self.rows[resting.made] = (t_ns, Kind.TRADE, side, price, volume, order_id)
        self.counts["matches"] += 1
        self.counts["unmatched_losses"] -= 1 if resting.volume is None else 2
        self.loss = None

    def best(self, side: int) -> int | None:
        """Order with the best price, the oldest of them."""
        queue = self.queues[side]
        while queue:
            rank, order_id = queue[0]
            order = self.orders.get(order_id)
            if order is not None and -side * order[1] == rank:
                return order_id
            heapq.heappop(queue)
        return None

    def look_for_cross(self, t_ns: int) -> None:
        """Remembers the older one of two orders that cross, and since when."""
        bid, ask = self.best(1), self.best(-1)
        if bid is None or ask is None or self.orders[bid][1] < self.orders[ask][1]:
            self.crossed = None
            return
        older = bid if self.orders[bid][3] < self.orders[ask][3] else ask
        self.counts["crossings"] += self.crossed is None
        if self.crossed is None or self.crossed[0] != older:
            self.crossed = (older, t_ns)
