"""Bad days planted in a recorded or generated session: what a quoting policy must survive.

Every scenario takes a session with book rows (`market.thinning.with_books`), a window of time and one size, and gives a session that any loader might
have given: times do not fall, books do not cross. What happened outside the window stays, but for moves that last. Policies do not move recorded books, so
a scenario is an exogenous shock, not a reaction to us.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from mfamm_jax.market.events import NS, BookSnapshots, BookUpdates, Kind, Session

BID, ASK = 1, -1


def flash_crash(session: Session, window: tuple[int, int], size: float) -> Session:
    """All prices fall by `size` ticks within the first fifth of the window and come back by its end."""
    start, end = window
    progress = np.clip((session.updates.t_ns - start) / (end - start), 0.0, 1.0)
    depth = np.where(progress < 0.2, 5 * progress, 1.25 * (1 - progress))
    shift = -np.round(size * depth).astype(np.int64)
    return _moved(session, shift, shift)


def spread_blow_out(session: Session, window: tuple[int, int], size: float) -> Session:
    """Within the window bids stand `size` ticks lower and asks as much higher."""
    inside = _inside(session, window)
    wide = np.where(inside, round(size), 0)
    return _moved(session, -wide, wide)


def feed_gap(session: Session, window: tuple[int, int], size: float) -> Session:
    """Nothing is recorded within the window; the market is elsewhere when it ends. `size` means nothing."""
    return _kept(session, ~_inside(session, window))


def stale_quotes(session: Session, window: tuple[int, int], size: float) -> Session:
    """The window's events are all received at its end, or `size` seconds after it: until then the last book seen is the old one."""
    updates = session.updates
    received = updates.t_ns if updates.local_ns is None else updates.local_ns
    late = np.where(_inside(session, window), window[1] + round(size * NS), received)
    return _replaced(session, local_ns=np.maximum.accumulate(np.maximum(late, received)))


def latency_spike(session: Session, window: tuple[int, int], size: float) -> Session:
    """The window's events are received `size` seconds later; what follows them waits in the same queue."""
    updates = session.updates
    received = updates.t_ns if updates.local_ns is None else updates.local_ns
    late = received + np.where(_inside(session, window), round(size * NS), 0)
    return _replaced(session, local_ns=np.maximum.accumulate(late))


def clock_skew(session: Session, window: tuple[int, int], size: float) -> Session:
    """The exchange's clock runs `size` seconds ahead within the window; later stamps wait until it is right again."""
    updates = session.updates
    ahead = np.maximum.accumulate(updates.t_ns + np.where(_inside(session, window), round(size * NS), 0))
    local = None if updates.local_ns is None else np.maximum(updates.local_ns, ahead)
    return _replaced(session, t_ns=ahead, local_ns=local)


def toxic_flow(session: Session, window: tuple[int, int], size: float) -> Session:
    """Informed sellers: before each of `size` ticks that all prices fall for good, they take the best bid as it is shown."""
    start, end = window
    n = round(size)
    times = start + np.round((np.arange(n) + 0.5) / max(n, 1) * (end - start)).astype(np.int64)
    fallen = np.searchsorted(times, session.updates.t_ns, side="left")
    moved = _moved(session, -fallen, -fallen)
    return _with_sales(moved, np.searchsorted(session.updates.t_ns, times, side="right"), times, n_levels=1)


def fat_finger(session: Session, window: tuple[int, int], size: float) -> Session:
    """One seller sweeps every bid shown; bids stand `size` ticks lower until the window ends."""
    inside = _inside(session, window)
    moved = _moved(session, -np.where(inside, round(size), 0), np.zeros(len(inside), np.int64))
    row = np.searchsorted(session.updates.t_ns, [window[0]], side="left")
    return _with_sales(moved, row, np.array([window[0]]), n_levels=session_books(session).n_levels)


def halt(session: Session, window: tuple[int, int], size: float) -> Session:
    """Trading stops for the window and resumes `size` ticks lower for good."""
    start, end = window
    updates = session.updates
    inside = _inside(session, window)
    after = np.where(updates.t_ns >= end, -round(size), 0).astype(np.int64)
    quiet = _kept(_moved(session, after, after), ~(inside & np.isin(updates.kind, (Kind.TRADE, Kind.HIDDEN_TRADE))))
    t_ns = quiet.updates.t_ns
    rows = np.array([np.searchsorted(t_ns, start, side="left"), *[np.searchsorted(t_ns, end, side="left")] * 2])
    said = {"kind": Kind.HALT, "side": 0, "price_ticks": np.array([-1, 0, 1]), "size": 0.0}
    return _inserted(quiet, rows, np.array([start, end, end]), **said)


Scenario = Callable[[Session, tuple[int, int], float], Session]
SCENARIOS: dict[str, Scenario] = {
    "flash_crash": flash_crash,
    "spread_blow_out": spread_blow_out,
    "feed_gap": feed_gap,
    "stale_quotes": stale_quotes,
    "latency_spike": latency_spike,
    "clock_skew": clock_skew,
    "toxic_flow": toxic_flow,
    "fat_finger": fat_finger,
    "halt": halt,
}


def plant(session: Session, scenario: str, start: float, seconds: float, size: float) -> Session:
    """A session with one scenario. It is in the book rows: messages of single orders no longer tell the same book, and are not written to files.

    Args:
        session: With book rows.
        scenario: Name in `SCENARIOS`.
        start: Of the window, from the session's first event [s].
        seconds: Length of the window.
        size: Of the scenario: ticks, or seconds for `stale_quotes`, `latency_spike` and `clock_skew`.

    Raises:
        ValueError: Unknown scenario, a window outside the session, a size below 0, or a price that would not stay positive.
    """
    if scenario not in SCENARIOS:
        raise ValueError(f"scenario is {scenario!r}, expected one of {', '.join(SCENARIOS)}")
    session_books(session)
    t_ns = session.updates.t_ns
    length = (t_ns[-1] - t_ns[0]) / NS
    if not (start >= 0 and seconds > 0 and start + seconds <= length):
        raise ValueError(
            f"{scenario} from {start:g} s for {seconds:g} s does not lie within the session of {length:g} s"
        )
    if not 0 <= size < np.inf:
        raise ValueError(f"{scenario}: size is {size}, expected a finite number >= 0")
    window = int(t_ns[0]) + round(start * NS), int(t_ns[0]) + round((start + seconds) * NS)
    found = SCENARIOS[scenario](session, window, size)
    if len(found.updates) < 2:
        raise ValueError(f"{scenario} leaves {len(found.updates)} events, expected a shorter window")
    books = session_books(found)
    lowest = np.where(books.bid_size > 0, books.bid_ticks, 1).min()
    if lowest <= 0:
        raise ValueError(f"{scenario} of {size:g} ticks takes a price to {lowest} ticks, expected a smaller size")
    counts = session.counts | {"planted": 1}
    note = f"{scenario}, size {size:g}, planted from {start:g} s for {seconds:g} s"
    return dataclasses.replace(
        found, name=f"{session.name}, {scenario}", notes=(*session.notes, note), counts=counts, best_quotes=None
    )


def session_books(session: Session) -> BookSnapshots:
    """The book rows.

    Raises:
        ValueError: There are none.
    """
    if session.books is None:
        raise ValueError(f"{session.name}: scenarios move book rows, and it has none: use market.thinning.with_books")
    return session.books


def _inside(session: Session, window: tuple[int, int]) -> np.ndarray:
    return (session.updates.t_ns >= window[0]) & (session.updates.t_ns < window[1])


def _replaced(session: Session, **columns: np.ndarray | None) -> Session:
    return dataclasses.replace(session, updates=dataclasses.replace(session.updates, **columns))


def _moved(session: Session, bids: np.ndarray, asks: np.ndarray) -> Session:
    """Bids and asks of every row moved by as many ticks; a message moves with the side it is about."""
    updates, books = session.updates, session_books(session)
    by_side = np.where(updates.side == BID, bids, asks)
    by_side = np.where((updates.kind == Kind.HALT) | (updates.side == 0), 0, by_side)
    moved = dataclasses.replace(updates, price_ticks=(updates.price_ticks + by_side).astype(np.int32))
    shifted = dataclasses.replace(
        books,
        bid_ticks=(books.bid_ticks + bids[:, None]).astype(np.int32),
        ask_ticks=(books.ask_ticks + asks[:, None]).astype(np.int32),
    )
    return dataclasses.replace(session, updates=moved, books=shifted)


def _kept(session: Session, keep: np.ndarray) -> Session:
    columns = {f.name: getattr(session.updates, f.name) for f in dataclasses.fields(BookUpdates)}
    updates = BookUpdates(**{name: None if x is None else x[keep] for name, x in columns.items()})
    books = BookSnapshots(**{name: x[keep] for name, x in vars(session_books(session)).items()})
    return dataclasses.replace(session, updates=updates, books=books)


def _inserted(session: Session, rows: np.ndarray, t_ns: np.ndarray, **columns: Any) -> Session:
    """New messages before the rows given; the book after each is that before it."""
    updates, books = session.updates, session_books(session)
    new = {"t_ns": t_ns, "order_id": 0} | columns
    if updates.local_ns is not None:
        before = updates.local_ns[np.maximum(rows - 1, 0)]
        new["local_ns"] = np.maximum(t_ns, before)
    names = [f.name for f in dataclasses.fields(BookUpdates) if getattr(updates, f.name) is not None]
    changed = {}
    for name in names:
        old = getattr(updates, name)
        values = np.broadcast_to(np.asarray(new[name], old.dtype), rows.shape)
        changed[name] = np.insert(old, rows, values)
    shown = {name: np.insert(x, rows, x[np.maximum(rows - 1, 0)], axis=0) for name, x in vars(books).items()}
    return dataclasses.replace(session, updates=dataclasses.replace(updates, **changed), books=BookSnapshots(**shown))


def _with_sales(session: Session, rows: np.ndarray, t_ns: np.ndarray, n_levels: int) -> Session:
    """Before each row a sale of everything that the best levels show."""
    books = session_books(session)
    before = np.maximum(rows - 1, 0)
    size, ticks = books.bid_size[before, :n_levels], books.bid_ticks[before, :n_levels]
    which, level = np.nonzero(size > 0)
    said = {"kind": Kind.TRADE, "side": BID, "price_ticks": ticks[which, level], "size": size[which, level]}
    return _inserted(session, rows[which], t_ns[which], **said)
