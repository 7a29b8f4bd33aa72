"""Random sessions of every kind of feed, with what real ones contain: ties in time, crossings, clears, gaps, empty sides,
halts, hidden executions and messages that overtake one another on their way to us."""

import numpy as np

from mfamm_jax.market.events import BookSnapshots, BookUpdates, Kind, Session

from .oracle_books import ASK, BID, LevelBook, OrderBook

TICK = 0.01
CENTRE = 1000  # ticks


def _session(rows, received, feed, books=None):
    t_ns, kind, side, price, size, order = (np.array(column) for column in zip(*rows))
    return Session(
        name="RANDOM 2000-01-03",
        tick_size=TICK,
        updates=BookUpdates(
            t_ns.astype(np.int64),
            kind.astype(np.int8),
            side.astype(np.int8),
            price.astype(np.int32),
            size.astype(np.float32),
            order.astype(np.uint64),
            received,
        ),
        books=books,
        clock="exchange event time, ns",
        feed=feed,
    )


class _Writer:
    """Rows written so far and the book that they make."""

    def __init__(self, rng, book):
        self.rng, self.book, self.rows, self.t, self.next_order = rng, book, [], 0, 1

    def wait(self):
        """Often no time passes at all."""
        self.t += int(self.rng.choice([0, 1, 7_000_000, self.rng.integers(1, 300_000_000)], p=[0.3, 0.1, 0.1, 0.5]))

    def write(self, kind, side, tick, size, order=0):
        self.rows.append((self.t, kind, side, tick, size, order))
        self.book.apply(kind, side, tick, float(size), order)

    def size(self):
        return 10 * int(self.rng.integers(1, 60))

    def middle(self):
        bid, ask = self.book.best(BID), self.book.best(ASK)
        if bid is None and ask is None:
            return CENTRE
        return (bid if bid is not None else ask - 2) + 1

    def halt(self):
        self.write(Kind.HALT, 0, -1, 0)
        self.paused = 6

    paused = 0

    def resume(self):
        self.paused -= 1
        if self.paused == 3:
            self.write(Kind.HALT, 0, 0, 0)
        if self.paused == 0:
            self.write(Kind.HALT, 0, 1, 0)


def _received(rng, rows):
    """Receive times: some messages are overtaken by later ones."""
    delay = np.rint(rng.exponential(20e6, len(rows))).astype(np.int64) * rng.integers(0, 2, len(rows))
    return np.array([row[0] for row in rows], np.int64) + delay


def _level_rows(rng, n, wild):
    """Messages about whole levels. `wild`: also crossings, clears and empty sides."""
    writer = _Writer(rng, LevelBook())
    for side in (BID, ASK):
        for away in (1, 2, 3, 5, 6):
            writer.write(Kind.SNAPSHOT, side, CENTRE - side * away, writer.size())
    while len(writer.rows) < n:
        writer.wait()
        if writer.paused:
            writer.resume()
        side = int(rng.choice([BID, ASK]))
        best = writer.book.best(side)
        what = rng.random()
        if best is None and what < 0.38:
            what = 1.0
        if what < 0.35:
            # An execution, at the best price or beyond it, and often the smaller level after it.
            tick = best - side * int(rng.choice([0, 0, 0, 0, 1, 2]))
            size = writer.size()
            writer.write(Kind.TRADE, side, tick, size)
            shown = writer.book.size(side, tick)
            if rng.random() < 0.8 and shown:
                writer.write(Kind.LEVEL, side, tick, max(shown - size, 0))
        elif what < 0.38:
            writer.write(Kind.HIDDEN_TRADE, side, best + side * int(rng.integers(-1, 2)), writer.size())
        elif wild and what < 0.39 and not writer.paused:
            writer.halt()
        elif wild and what < 0.40:
            writer.write(Kind.CLEAR, side, (best if best is not None else CENTRE) - side * 2, 0)
        elif wild and what < 0.405:
            writer.write(Kind.CLEAR, 0, 0, 0)
        else:
            away = int(rng.choice([0, 1, 1, 2, 2, 3, 4, 6, -1 if wild else 1]))
            tick = writer.middle() - side * away
            other = writer.book.best(-side)
            if not wild and other is not None and (tick - other) * side >= 0:
                continue
            size = 0 if rng.random() < 0.3 else writer.size()
            if size or wild or len(writer.book.sizes[side]) > 2:
                writer.write(Kind.LEVEL, side, tick, size)
    return writer.rows[:n]


def level_session(seed, n=240, wild=True):
    rng = np.random.default_rng(seed)
    rows = _level_rows(rng, n, wild)
    return _session(rows, _received(rng, rows), "levels")


def book_session(seed, n=240, n_levels=3, wild=True):
    """Book rows of few levels; the messages say little about them."""
    rng = np.random.default_rng(seed)
    rows, book, shown = _level_rows(rng, n, wild), LevelBook(), []
    for _, kind, side, tick, size, order in rows:
        book.apply(kind, side, tick, float(size), order)
        both = []
        for s in (BID, ASK):
            good = [t for t in book.sizes[s] if t not in book.stale[s]]
            best = sorted(good, reverse=s > 0)[:n_levels]
            both.append([(t, book.sizes[s][t]) for t in best] + [(0, 0)] * (n_levels - len(best)))
        shown.append(both)
    columns = np.array(shown, float)
    books = BookSnapshots(
        columns[:, 0, :, 0].astype(np.int32),
        columns[:, 0, :, 1].astype(np.float32),
        columns[:, 1, :, 0].astype(np.int32),
        columns[:, 1, :, 1].astype(np.float32),
    )
    return _session(rows, _received(rng, rows), "levels", books)


def order_session(seed, n=240, wild=True):
    """Messages about single orders. Executions mostly take the first order of a queue, some a later one."""
    rng = np.random.default_rng(seed)
    writer = _Writer(rng, OrderBook())

    def add(side, tick):
        writer.write(Kind.ADD, side, tick, writer.size(), writer.next_order)
        writer.next_order += 1

    for side in (BID, ASK):
        for away in (1, 1, 2, 3, 3, 5):
            add(side, CENTRE - side * away)
    while len(writer.rows) < n:
        writer.wait()
        if writer.paused:
            writer.resume()
        side = int(rng.choice([BID, ASK]))
        best = writer.book.best(side)
        what = rng.random()
        alive = list(writer.book.where.items())
        if best is None and what < 0.38:
            what = 1.0
        if what < 0.35:
            queue = writer.book.queue(side, best)
            entry = queue[0 if rng.random() < 0.8 else int(rng.integers(len(queue)))]
            size = int(min(entry["left"], writer.size()))
            writer.write(Kind.TRADE, side, best, size, entry["order"])
        elif what < 0.38:
            writer.write(Kind.HIDDEN_TRADE, side, best + side * int(rng.integers(-1, 2)), writer.size())
        elif wild and what < 0.39 and not writer.paused:
            writer.halt()
        elif wild and what < 0.395:
            writer.write(Kind.CLEAR, 0, 0, 0)
        elif what < 0.6 and len(alive) > 8:
            order, (side, tick, entry) = alive[int(rng.integers(len(alive)))]
            if rng.random() < 0.5:
                writer.write(Kind.DELETE, side, tick, int(entry["left"]), order)
            else:
                writer.write(Kind.CANCEL, side, tick, int(min(entry["left"], writer.size())), order)
        else:
            tick = writer.middle() - side * int(rng.choice([0, 1, 1, 2, 2, 3, 4, 6, -1 if wild else 1]))
            other = writer.book.best(-side)
            if wild or other is None or (tick - other) * side < 0:
                add(side, tick)
    rows = writer.rows[:n]
    return _session(rows, _received(rng, rows), "orders")


SESSIONS = {"levels": level_session, "books": book_session, "orders": order_session}
