"""Books from messages: how every price level's quantity changes, and the best prices after each message.

The book of a session without books of its own is rebuilt here, from level messages or from single orders. A book that
crosses is resolved in favour of the newer message: the older side's levels at or beyond it no longer count as its best.
Orders are known to rest until told otherwise, so in an order feed such levels count again once the newer ones have left
(a marketable order that is shown until it has been matched); in a level feed they are stale.
"""

import dataclasses
from typing import no_type_check

import numpy as np

from mfamm_jax.market.events import BookSnapshots, BookUpdates, DataError, Kind, Session

NO_BID, NO_ASK = -(2**30), 2**30  # best price of an empty side: every comparison with a price comes out right
BID, ASK = 1, -1


@dataclasses.dataclass(frozen=True)
class Ladder:
    """Level changes (M rows) and best prices after each of the session's N rows.

    Args:
        row: int64 (M,), row of the session that changed the level; non-decreasing.
        side: int8 (M,), +1 bid, -1 ask.
        ticks: int32 (M,).
        size: float64 (M,), quantity shown afterwards; 0 = level gone.
        removed: float64 (M,), quantity that the order of an order feed lost (negative: added).
        placed: int64 (M,), row at which that order took its place in the queue; -1 = before the recording or no order feed.
        best_bid, best_ask: int32 (N,); NO_BID and NO_ASK for an empty side.
        lowest_bid, highest_ask: int32 (N,), how far down the book is shown.
        n_crossed: Messages that crossed the book.
        n_unknown: Messages about orders that are not in the book, and additions of orders that are.
    """

    row: np.ndarray
    side: np.ndarray
    ticks: np.ndarray
    size: np.ndarray
    removed: np.ndarray
    placed: np.ndarray
    best_bid: np.ndarray
    best_ask: np.ndarray
    lowest_bid: np.ndarray
    highest_ask: np.ndarray
    n_crossed: int = 0
    n_unknown: int = 0

    @property
    def two_sided(self) -> np.ndarray:
        """bool (N,): whether the book has both a bid and an ask."""
        return (self.best_bid > NO_BID) & (self.best_ask < NO_ASK)


def build_ladder(session: Session) -> Ladder:
    """Level changes of a session from its book rows, level messages or orders.

    Raises:
        DataError: The session has trades only.
    """
    if session.books is not None:
        return _from_books(session.updates, session.books)
    if session.feed == "trades":
        raise DataError(f"{session.name}: trades without a book; a replay needs book rows, level or order messages")
    return _from_messages(session.updates, session.feed)


class _Side:
    """One side's levels by tick, and its best price. `sign` +1 bid, -1 ask."""

    def __init__(self, sign: int):
        self.sign = sign
        self.none = NO_BID if sign > 0 else NO_ASK
        self.best = self.none
        self.levels: dict[int, float] = {}
        self.worst = -self.none  # no occupied level lies beyond
        self.hides = False  # levels better than `best` exist, the other side crosses them

    @no_type_check  # called for every message
    def set(self, ticks: int, size: float, is_loss: bool) -> None:
        """The level now shows this quantity; a loss does not bring a hidden level back."""
        if size > 0:
            self.levels[ticks] = size
            if (ticks - self.best) * self.sign > 0 and not is_loss:
                self.best = ticks
            if (ticks - self.worst) * self.sign < 0:
                self.worst = ticks
        else:
            self.levels.pop(ticks, None)
            if ticks == self.best:
                self.best = self.next_worse(ticks)

    @no_type_check
    def next_worse(self, ticks: int) -> int:
        """Best occupied level strictly beyond."""
        levels, sign = self.levels, self.sign
        for candidate in range(ticks - sign, ticks - 513 * sign, -sign):
            if candidate in levels:
                return candidate
            if (candidate - self.worst) * sign < 0:
                return self.none
        beyond = [level for level in levels if (level - ticks) * sign < 0]
        return (max(beyond) if sign > 0 else min(beyond)) if beyond else self.none

    @no_type_check
    def uncover(self, opposite: int) -> None:
        """Hidden levels that the other side's best no longer crosses count again."""
        hidden = [level for level in self.levels if (level - self.best) * self.sign > 0]
        free = [level for level in hidden if (opposite - level) * self.sign > 0]
        self.best = (max(free) if self.sign > 0 else min(free)) if free else self.best
        self.hides = len(free) < len(hidden)


@no_type_check
def _from_messages(updates: BookUpdates, feed: str) -> Ladder:
    """Replays level or order messages in plain Python: a few hundred nanoseconds a message."""
    bid, ask = _Side(BID), _Side(ASK)
    rows, sides, ticks, sizes, removed, placed = [], [], [], [], [], []
    best_bid, best_ask = [], []
    orders: dict[int, list] = {}
    n_crossed = n_unknown = 0
    by_order = feed == "orders"
    columns = (updates.kind, updates.side, updates.price_ticks, updates.size, updates.order_id)
    for row, (kind, side, tick, size, order) in enumerate(zip(*(column.tolist() for column in columns))):
        changes = ()
        if by_order:
            changes, known = _order_message(orders, bid, ask, row, kind, side, tick, size, order)
            n_unknown += not known
        elif kind in (Kind.LEVEL, Kind.SNAPSHOT):
            changes = ((side, tick, size, 0.0, -1),)
        if kind == Kind.CLEAR:
            changes = [(s.sign, t, 0.0, 0.0, -1) for s in (bid, ask) if s.sign == side or side == 0
                       for t in [t for t in s.levels if side == 0 or (t - tick) * s.sign >= 0]]  # fmt: skip
            cleared = {(sign, t) for sign, t, *_ in changes}
            orders = {} if side == 0 else {o: e for o, e in orders.items() if (e[3], e[0]) not in cleared}
        for sign, tick, size, taken, since in changes:
            ours, other = (bid, ask) if sign > 0 else (ask, bid)
            before = ours.best
            ours.set(tick, size, taken > 0)
            if size > 0 and bid.best >= ask.best:
                n_crossed += 1
                other.best = other.next_worse(ours.best)
                other.hides = by_order
                if ours.hides:
                    ours.uncover(other.best)
            elif other.hides and ours.best != before:
                other.uncover(ours.best)
            rows.append(row)
            sides.append(sign)
            ticks.append(tick)
            sizes.append(size)
            removed.append(taken)
            placed.append(since)
        best_bid.append(bid.best)
        best_ask.append(ask.best)
    n = len(best_bid)
    return Ladder(
        row=np.array(rows, np.int64),
        side=np.array(sides, np.int8),
        ticks=np.array(ticks, np.int32),
        size=np.array(sizes, np.float64),
        removed=np.array(removed, np.float64),
        placed=np.array(placed, np.int64),
        best_bid=np.array(best_bid, np.int32),
        best_ask=np.array(best_ask, np.int32),
        lowest_bid=np.full(n, NO_BID, np.int32),
        highest_ask=np.full(n, NO_ASK, np.int32),
        n_crossed=n_crossed,
        n_unknown=n_unknown,
    )


@no_type_check
def _order_message(orders, bid, ask, row, kind, side, tick, size, order):
    """Level changes of one order message, and whether its order was known, or unknown if it is added."""
    if kind == Kind.ADD:
        ours, before = bid if side > 0 else ask, orders.get(order) if order else None
        orders[order] = [tick, size, row, ours.sign]
        if before is None:
            return ((ours.sign, tick, ours.levels.get(tick, 0.0) + size, -size, row),), True
        # It takes the place of the order that had its number.
        place, left, since, sign = before
        rest = max((bid if sign > 0 else ask).levels.get(place, 0.0) - left, 0.0)
        shown = rest if (sign, place) == (ours.sign, tick) else ours.levels.get(tick, 0.0)
        return ((sign, place, rest, left, since), (ours.sign, tick, shown + size, -size, row)), False
    if kind not in (Kind.CANCEL, Kind.DELETE, Kind.TRADE):
        return (), True
    entry = orders.get(order)
    if entry is None:
        return (), kind == Kind.TRADE and order == 0
    place, left, since, sign = entry
    ours = bid if sign > 0 else ask
    taken = left if kind == Kind.DELETE else min(size, left)
    if taken >= left:
        del orders[order]
    else:
        entry[1] = left - taken
    return ((ours.sign, place, max(ours.levels.get(place, 0.0) - taken, 0.0), taken, since),), True


def placed_rows(updates: BookUpdates) -> np.ndarray:
    """int64 (N,): row at which each message's order took its place in the queue, -1 if that was not recorded."""
    n = len(updates)
    order = np.lexsort((np.arange(n), updates.order_id))
    ids, is_add = updates.order_id[order], (updates.kind == Kind.ADD)[order]
    starts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1])) if n else np.zeros(0, int)
    first = np.repeat(starts, np.diff(np.append(starts, n)))
    last_add = np.maximum.accumulate(np.where(is_add, np.arange(n), -1)) if n else starts
    placed = np.full(n, -1, np.int64)
    known = (last_add >= first) & (ids != 0)
    placed[order[known]] = order[last_add[known]]
    return placed


def _side_changes(ticks: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, ticks, size) wherever a level's quantity differs from the row before; 0 when it is no longer shown."""
    row, level = np.nonzero(size > 0)
    tick, quantity = ticks[row, level].astype(np.int64), size[row, level].astype(np.float64)
    order = np.lexsort((row, tick))
    row, tick, quantity = row[order], tick[order], quantity[order]
    follows = np.zeros(len(row), bool)
    follows[1:] = (tick[1:] == tick[:-1]) & (row[1:] == row[:-1] + 1)
    same = np.zeros(len(row), bool)
    same[1:] = follows[1:] & (quantity[1:] == quantity[:-1])
    goes = np.append(~follows[1:], True) & (row + 1 < len(ticks))
    return (
        np.concatenate([row[~same], row[goes] + 1]),
        np.concatenate([tick[~same], tick[goes]]),
        np.concatenate([quantity[~same], np.zeros(goes.sum())]),
    )


def _from_books(updates: BookUpdates, books: BookSnapshots) -> Ladder:
    """Differences of consecutive book rows; a level that leaves the shown part counts as gone until it returns."""
    parts = []
    for sign, ticks, size in ((BID, books.bid_ticks, books.bid_size), (ASK, books.ask_ticks, books.ask_size)):
        row, tick, quantity = _side_changes(ticks, size)
        parts.append((row, np.full(len(row), sign), tick, quantity))
    row, side, tick, quantity = (np.concatenate(column) for column in zip(*parts))
    order = np.argsort(row, kind="stable")
    row, side, tick, quantity = row[order], side[order], tick[order], quantity[order]
    adds = updates.kind == Kind.ADD
    takes = np.isin(updates.kind, (Kind.CANCEL, Kind.DELETE, Kind.TRADE))
    lost = np.where(takes, updates.size, np.where(adds, -updates.size, 0.0)).astype(np.float64)
    own = (tick == updates.price_ticks[row]) & (side == updates.side[row])
    shown = [(books.bid_size[:, n] > 0, books.ask_size[:, n] > 0) for n in (0, -1)]
    return Ladder(
        row=row.astype(np.int64),
        side=side.astype(np.int8),
        ticks=tick.astype(np.int32),
        size=quantity,
        removed=np.where(own, lost[row], 0.0),
        placed=np.where(own, placed_rows(updates)[row], -1),
        best_bid=np.where(shown[0][0], books.bid_ticks[:, 0], NO_BID).astype(np.int32),
        best_ask=np.where(shown[0][1], books.ask_ticks[:, 0], NO_ASK).astype(np.int32),
        # A book with an empty last level is shown to its end.
        lowest_bid=np.where(shown[1][0], books.bid_ticks[:, -1], NO_BID).astype(np.int32),
        highest_ask=np.where(shown[1][1], books.ask_ticks[:, -1], NO_ASK).astype(np.int32),
    )


def book_rows(ladder: Ladder, rows: np.ndarray, n_levels: int) -> BookSnapshots:
    """The book after each of the session's rows asked for (ascending), best levels first."""
    levels: dict[int, dict[int, float]] = {BID: {}, ASK: {}}
    shape = (len(rows), n_levels)
    ticks = {sign: np.zeros(shape, np.int32) for sign in levels}
    sizes = {sign: np.zeros(shape, np.float64) for sign in levels}
    ends = np.searchsorted(ladder.row, rows, side="right")
    start = 0
    for number, (row, end) in enumerate(zip(np.asarray(rows).tolist(), ends.tolist())):
        for sign, tick, size in zip(*(c[start:end].tolist() for c in (ladder.side, ladder.ticks, ladder.size))):
            if size > 0:
                levels[sign][tick] = size
            else:
                levels[sign].pop(tick, None)
        start = max(start, end)
        for sign, best in ((BID, ladder.best_bid[row]), (ASK, ladder.best_ask[row])):
            behind = [tick for tick in levels[sign] if (tick - best) * sign <= 0]
            best_first = sorted(behind, reverse=sign > 0)[:n_levels]
            ticks[sign][number, : len(best_first)] = best_first
            sizes[sign][number, : len(best_first)] = [levels[sign][tick] for tick in best_first]
    return BookSnapshots(ticks[BID], sizes[BID], ticks[ASK], sizes[ASK])
