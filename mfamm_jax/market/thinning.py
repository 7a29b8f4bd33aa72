"""Sessions of level and order feeds with book rows beside their messages, for features that look at the shown book.

One exchange message often changes many levels: the book between them is no book that anyone could see. Only the last row of
a message is kept, and every trade.
"""

import dataclasses
from typing import no_type_check

import numpy as np

from mfamm_jax.market.events import BookSnapshots, BookUpdates, Kind, Session
from mfamm_jax.market.ladder import Ladder, build_ladder

KEPT_ALONE = (Kind.TRADE, Kind.HIDDEN_TRADE, Kind.CROSS, Kind.HALT)


def with_books(session: Session, n_levels: int = 10) -> tuple[Session, Ladder]:
    """The session with book rows, and its ladder with rows that count the same.

    A session that has book rows already is returned as it is. Level rows become SNAPSHOT rows of side 0; rows of order
    feeds keep what they say, because each of them is a message of its own.

    Raises:
        DataError: The session has trades only.
    """
    ladder = build_ladder(session)
    if session.books is not None:
        return session, ladder
    updates = session.updates
    kept = np.arange(len(updates)) if session.feed == "orders" else _last_of_message(updates)
    where = np.searchsorted(kept, ladder.row)  # the kept row that shows each change
    thinned = dataclasses.replace(
        ladder,
        row=where,
        placed=np.where(ladder.placed >= 0, np.searchsorted(kept, np.maximum(ladder.placed, 0)), -1),
        **{name: getattr(ladder, name)[kept] for name in ("best_bid", "best_ask", "lowest_bid", "highest_ask")},
    )
    columns = {field.name: getattr(updates, field.name) for field in dataclasses.fields(updates)}
    rows = BookUpdates(**{name: None if x is None else x[kept] for name, x in columns.items()})
    if session.feed == "levels":
        is_level = ~np.isin(rows.kind, KEPT_ALONE)
        rows = dataclasses.replace(
            rows,
            kind=np.where(is_level, Kind.SNAPSHOT, rows.kind).astype(np.int8),
            **{
                name: np.where(is_level, 0, getattr(rows, name)).astype(getattr(rows, name).dtype)
                for name in ("side", "price_ticks", "size")
            },
        )
    note = f"{len(kept):,} book rows of {n_levels} levels from {len(updates):,} {session.feed[:-1]} messages"
    books = _books(thinned, len(kept), n_levels)
    return dataclasses.replace(session, updates=rows, books=books, notes=(*session.notes, note)), thinned


def level_messages(session: Session) -> Session:
    """A session with book rows as a level feed without them: what `write_parquet` can write and `with_books` reads back.

    A row's level changes become LEVEL rows, those that leave first; trades, crosses and halts stay before them. Who stood in which order is lost.

    Raises:
        ValueError: There are no book rows.
    """
    if session.books is None:
        raise ValueError(f"{session.name}: it has no book rows to make level messages of")
    updates, ladder = session.updates, build_ladder(session)
    kept = np.flatnonzero(np.isin(updates.kind, KEPT_ALONE))
    row = np.concatenate([kept, ladder.row])
    rank = np.concatenate([np.zeros(len(kept)), np.where(ladder.size > 0, 2, 1)])
    order = np.lexsort((rank, row))
    columns = {
        "kind": np.concatenate([updates.kind[kept], np.full(len(ladder.row), Kind.LEVEL)]).astype(np.int8),
        "side": np.concatenate([updates.side[kept], ladder.side]).astype(np.int8),
        "price_ticks": np.concatenate([updates.price_ticks[kept], ladder.ticks]).astype(np.int32),
        "size": np.concatenate([updates.size[kept], ladder.size]),
    }
    levels = BookUpdates(
        t_ns=updates.t_ns[row][order],
        order_id=np.zeros(len(row), np.uint64),
        local_ns=None if updates.local_ns is None else updates.local_ns[row][order],
        **{name: values[order] for name, values in columns.items()},
    )
    return dataclasses.replace(session, updates=levels, books=None, feed="levels", best_quotes=None)


def _last_of_message(updates: BookUpdates) -> np.ndarray:
    """Rows that are trades or the last of the level rows with one exchange and one local time."""
    n = len(updates)
    ends = np.ones(n, bool)
    same = np.diff(updates.t_ns) == 0
    if updates.local_ns is not None:
        same &= np.diff(updates.local_ns) == 0
    alone = np.isin(updates.kind, KEPT_ALONE)
    ends[:-1] = ~same | alone[1:]
    return np.flatnonzero(ends | alone)


@no_type_check  # called for every change
def _books(ladder: Ladder, n_rows: int, n_levels: int) -> BookSnapshots:
    """Best levels of both sides after every row."""
    sides = {sign: ({}, np.zeros((n_rows, n_levels), np.int32), np.zeros((n_rows, n_levels))) for sign in (1, -1)}
    shown = {sign: ([], []) for sign in sides}
    changes = zip(ladder.row.tolist(), ladder.side.tolist(), ladder.ticks.tolist(), ladder.size.tolist())
    following = next(changes, None)
    touches = zip(ladder.best_bid.tolist(), ladder.best_ask.tolist())
    last_touch = {1: None, -1: None}
    for row, touch in enumerate(touches):
        stale = set()
        while following is not None and following[0] <= row:
            _, sign, tick, size = following
            levels = sides[sign][0]
            if size > 0:
                levels[tick] = size
            else:
                levels.pop(tick, None)
            ticks = shown[sign][0]
            if len(ticks) < n_levels or (tick - ticks[-1]) * sign >= 0:
                stale.add(sign)
            following = next(changes, None)
        for sign, best in zip((1, -1), touch):
            if best != last_touch[sign]:
                stale.add(sign)
                last_touch[sign] = best
        for sign in stale:
            shown[sign] = _shown(sides[sign][0], last_touch[sign], sign, n_levels)
        for sign, (_, ticks, size) in sides.items():
            found, quantity = shown[sign]
            ticks[row, : len(found)] = found
            size[row, : len(found)] = quantity
    (_, bid, bid_size), (_, ask, ask_size) = sides[1], sides[-1]
    return BookSnapshots(bid, bid_size, ask, ask_size)


@no_type_check
def _shown(levels: dict, best: int, sign: int, n_levels: int) -> tuple[list, list]:
    """Occupied levels from the best price on."""
    found = []
    for tick in range(best, best - sign * 40 * n_levels, -sign):
        if tick in levels:
            found.append(tick)
            if len(found) == n_levels:
                break
    if len(found) < n_levels:  # sparse: look at all of them
        found = sorted((t for t in levels if (t - best) * sign <= 0), reverse=sign > 0)[:n_levels]
    return found, [levels[tick] for tick in found]
