"""Books in plain Python, from level messages, from single orders and from recorded rows, for the slow exchange of `oracle`."""

from mfamm_jax.market.events import Kind

BID, ASK = 1, -1


class LevelBook:
    """A book of whole levels. Levels that a newer message of the other side crosses are stale: not part of the best price."""

    stale_for_good = True

    def __init__(self):
        self.sizes = {BID: {}, ASK: {}}
        self.stale = {BID: set(), ASK: set()}

    def apply(self, kind, side, tick, size, order):
        """Levels that the message changed."""
        if kind in (Kind.LEVEL, Kind.SNAPSHOT):
            self.show(side, tick, size, grows=True)
            return [(side, tick)]
        if kind == Kind.CLEAR:
            return self.clear(side, tick)
        return []

    def clear(self, side, tick):
        gone = [(s, t) for s in (BID, ASK) if side in (0, s) for t in self.sizes[s] if side == 0 or (t - tick) * s >= 0]
        for s, t in gone:
            self.show(s, t, 0.0, grows=False)
        return gone

    def show(self, side, tick, size, grows):
        if size <= 0:
            self.sizes[side].pop(tick, None)
            self.stale[side].discard(tick)
        else:
            self.sizes[side][tick] = size
            if grows:
                # A new level speaks for those behind it, against those of the other side that it crosses.
                behind = {other for other in self.stale[side] if (tick - other) * side >= 0}
                self.stale[side] -= behind
                self.stale[-side] |= {other for other in self.sizes[-side] if (tick - other) * side >= 0}
        if not self.stale_for_good:
            for s in (-side, side):
                best = self.best(-s)
                self.stale[s] = {t for t in self.stale[s] if best is not None and (best - t) * s <= 0}

    def best(self, side):
        ticks = [tick for tick in self.sizes[side] if tick not in self.stale[side]]
        return side * max(side * tick for tick in ticks) if ticks else None

    def size(self, side, tick):
        return self.sizes[side].get(tick, 0.0)

    def is_shown(self, side, tick):
        return True


class OrderBook(LevelBook):
    """A book of single orders in queues; ours stand in them as entries without quantity."""

    stale_for_good = False

    def __init__(self):
        super().__init__()
        self.queues, self.where = {}, {}

    def queue(self, side, tick):
        return self.queues.setdefault((side, tick), [])

    def apply(self, kind, side, tick, size, order):
        if kind == Kind.ADD:
            entry = {"order": order, "left": size}
            self.queue(side, tick).append(entry)
            self.where[order] = (side, tick, entry)
            self.show(side, tick, self.size(side, tick) + size, grows=True)
            return [(side, tick)]
        if kind == Kind.CLEAR:
            for queue in self.queues.values():
                queue[:] = [entry for entry in queue if "ours" in entry]
            self.where.clear()
            return self.clear(0, 0)
        if kind in (Kind.CANCEL, Kind.DELETE, Kind.TRADE) and order in self.where:
            side, tick, entry = self.where[order]
            taken = entry["left"] if kind == Kind.DELETE else min(size, entry["left"])
            entry["left"] -= taken
            if entry["left"] == 0:
                self.queue(side, tick).remove(entry)
                del self.where[order]
            self.show(side, tick, self.size(side, tick) - taken, grows=False)
            return [(side, tick)]
        return []

    def stands_behind(self, side, tick, ours, order):
        """Whether the recorded order stands behind ours in this queue."""
        names = [entry.get("ours", entry.get("order")) for entry in self.queue(side, tick)]
        return ours in names and order in names and names.index(order) > names.index(ours)


class RowBook:
    """A book that is given row by row, K levels a side."""

    def __init__(self, books):
        self.books, self.row = books, None
        self.sizes = {BID: {}, ASK: {}}
        self.full = {BID: False, ASK: False}

    def set_row(self, row):
        """Levels that differ from the row before."""
        before = self.sizes
        columns = {BID: (self.books.bid_ticks, self.books.bid_size), ASK: (self.books.ask_ticks, self.books.ask_size)}
        self.sizes = {
            side: {int(t): float(s) for t, s in zip(ticks[row], sizes[row]) if s > 0}
            for side, (ticks, sizes) in columns.items()
        }
        self.full = {side: columns[side][1][row, -1] > 0 for side in columns}
        return [
            (side, tick)
            for side in (BID, ASK)
            for tick in {*before[side], *self.sizes[side]}
            if before[side].get(tick) != self.sizes[side].get(tick)
        ]

    def best(self, side):
        ticks = self.sizes[side]
        return side * max(side * tick for tick in ticks) if ticks else None

    def size(self, side, tick):
        return self.sizes[side].get(tick, 0.0)

    def is_shown(self, side, tick):
        return not self.full[side] or side * tick >= min(side * t for t in self.sizes[side])


def make_book(session):
    if session.books is not None:
        return RowBook(session.books)
    return OrderBook() if session.feed == "orders" else LevelBook()
