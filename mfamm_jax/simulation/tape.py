"""A recorded session laid out for replay: one merged sequence of events, decisions and order arrivals."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mfamm_jax.market.events import NS, BookSnapshots, BookUpdates, DataError, Kind, Session
from mfamm_jax.simulation.timeline import Timeline, make_timeline


class Event(eqx.Module):
    """One event, or N of them: the book after it and what it executed. Sides are (bid, ask).

    Args:
        ticks: Occupied levels, best first, relative to the tape's reference.
        size: Volume there [recorded units]; 0 = no level.
        mid: Mid after the event; the last one while a side is empty [price].
        aggressor: +1 buyer, -1 seller, 0 no trade.
        trade_ticks: Price executed.
        trade_size: [recorded units].
        is_hidden: Whether a hidden order was executed.
        is_trading: False while trading is halted.
    """

    ticks: Int[Array, "*event 2 level"]
    size: Float[Array, "*event 2 level"]
    mid: Float[Array, "*event"]
    aggressor: Int[Array, "*event"]
    trade_ticks: Int[Array, "*event"]
    trade_size: Float[Array, "*event"]
    is_hidden: Bool[Array, "*event"]
    is_trading: Bool[Array, "*event"]


class Tape(eqx.Module):
    """What every policy of a sweep shares. N events, J decisions, S = steps of all kinds in order of time.

    Args:
        kind: `Step` of each step.
        index: Event number of MARKET steps, decision number of the others.
        seconds: Since the step before [s].
        event: The events.
        decision_mid: Mid each decision sees [price].
        sees_market: Whether it sees one at all; without it does not quote.
        time_left: From each decision to the end [s].
        arrived: How many earlier decisions' orders are known to have arrived.
        arrival_event: Last event before the decision's orders arrive; -1 = none.
        decision_interval: [s].
        tick_size: [price].
        reference_price: What relative prices are relative to [price].
        n_pending: Most decisions on their way at the same time.
        first_row: Row of the session that is event 0.
    """

    kind: Int[Array, " step"]
    index: Int[Array, " step"]
    seconds: Float[Array, " step"]
    event: Event
    decision_mid: Float[Array, " decision"]
    sees_market: Bool[Array, " decision"]
    time_left: Float[Array, " decision"]
    arrived: Int[Array, " decision"]
    arrival_event: Int[Array, " decision"]
    decision_interval: Float[Array, ""]
    tick_size: Float[Array, ""]
    reference_price: Float[Array, ""]
    n_pending: int = eqx.field(static=True)
    first_row: int = eqx.field(static=True)


def build_tape(
    session: Session,
    *,
    decision_interval: float,
    order_latency: float = 0.0,
    response_latency: float = 0.0,
    feed_latency: float = 0.0,
    start_ns: int | None = None,
    end_ns: int | None = None,
    reference_ticks: int | None = None,
) -> tuple[Tape, Timeline]:
    """Lays a session out on the device; timing as in `make_timeline`, prices relative to a tick near the first mid.

    Args:
        session: Recorded session.
        decision_interval: [s].
        order_latency: From us to the exchange [s].
        response_latency: From the exchange to us, for our own fills [s].
        feed_latency: From the exchange to us, for market data [s].
        start_ns: First decision; default: the first event.
        end_ns: Default: the last event.
        reference_ticks: Default: the first mid, rounded down.

    Returns:
        The tape and its timeline, whose rows count from `tape.first_row`.
    """
    t_ns = session.updates.t_ns
    start = int(t_ns[0]) if start_ns is None else start_ns
    # The book in force at the first decision is the last row that its feed shows.
    first = max(int(np.searchsorted(t_ns, start - round(feed_latency * NS), side="right")) - 1, 0)
    rows = slice(first, int(np.searchsorted(t_ns, t_ns[-1] if end_ns is None else end_ns, side="right")))
    two_sided, mid_ticks, reference = _mids(session, rows, reference_ticks)
    timeline = make_timeline(
        t_ns[rows],
        decision_interval=decision_interval,
        order_latency=order_latency,
        response_latency=response_latency,
        feed_latency=feed_latency,
        start_ns=start,
        end_ns=end_ns,
    )
    return _tape(session, rows, timeline, two_sided, mid_ticks, reference), timeline


def _mids(session: Session, rows: slice, reference_ticks: int | None) -> tuple[np.ndarray, np.ndarray, int]:
    """Whether a mid has been seen yet, the mid in relative ticks (carried while a side is empty) and the reference."""
    books = session.books
    two_sided = ((books.bid_size[rows, 0] > 0) & (books.ask_size[rows, 0] > 0)).astype(bool)
    if not two_sided.any():
        raise DataError(f"{session.name}: no row of the replayed part has both a bid and an ask")
    twice = books.bid_ticks[rows, 0].astype(np.int64) + books.ask_ticks[rows, 0]
    first = int(np.argmax(two_sided))
    reference = int(twice[first] // 2) if reference_ticks is None else reference_ticks
    last = np.maximum.accumulate(np.where(two_sided, np.arange(len(twice)), first))
    return np.arange(len(twice)) >= first, twice[last] / 2 - reference, reference


def _tape(
    session: Session, rows: slice, timeline: Timeline, seen: np.ndarray, mid_ticks: np.ndarray, reference: int
) -> Tape:
    row = timeline.feature_row
    known = np.maximum(row, 0)
    tick = session.tick_size
    return Tape(
        kind=jnp.asarray(timeline.kind),
        index=jnp.asarray(timeline.index),
        seconds=_real(np.diff(timeline.t_ns, prepend=timeline.t_ns[:1]) / NS),
        event=_events(session, rows, mid_ticks * tick, reference),
        decision_mid=_real(mid_ticks[known] * tick),
        sees_market=jnp.asarray((row >= 0) & seen[known]),
        time_left=_real((timeline.end_ns - timeline.decision_ns) / NS),
        arrived=jnp.asarray(timeline.arrived),
        arrival_event=jnp.asarray(timeline.arrival_row),
        decision_interval=_real(timeline.decision_interval),
        tick_size=_real(tick),
        reference_price=_real(reference * tick),
        n_pending=max(timeline.n_pending, 1),
        first_row=rows.start,
    )


def _real(x: np.ndarray | float) -> Float[Array, "..."]:
    return jnp.asarray(x, jnp.result_type(float))


def _events(session: Session, rows: slice, mid: np.ndarray, reference: int) -> Event:
    updates, books = session.updates, session.books
    is_trade = (updates.kind == Kind.TRADE) | (updates.kind == Kind.HIDDEN_TRADE)
    ticks, size = _levels(books, rows, reference)
    return Event(
        ticks=jnp.asarray(ticks),
        size=_real(size),
        mid=_real(mid),
        aggressor=jnp.asarray(updates.aggressor[rows].astype(np.int32)),
        trade_ticks=jnp.asarray(
            np.where(is_trade, updates.price_ticks - np.int64(reference), 0)[rows].astype(np.int32)
        ),
        trade_size=_real(np.where(is_trade, updates.size, 0.0)[rows]),
        is_hidden=jnp.asarray(updates.kind[rows] == Kind.HIDDEN_TRADE),
        is_trading=jnp.asarray(_is_trading(updates)[rows]),
    )


def _levels(books: BookSnapshots, rows: slice, reference: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2, K): bids, asks."""
    ticks = np.stack([books.bid_ticks[rows], books.ask_ticks[rows]], axis=1).astype(np.int64)
    size = np.stack([books.bid_size[rows], books.ask_size[rows]], axis=1)
    return np.where(size > 0, ticks - reference, 0).astype(np.int32), size


def _is_trading(updates: BookUpdates) -> np.ndarray:
    """False from a halt until trading resumes (price 1 on a HALT row)."""
    change = np.flatnonzero(updates.kind == Kind.HALT)
    last = np.searchsorted(change, np.arange(len(updates)), side="right") - 1
    if len(change) == 0:
        return np.ones(len(updates), bool)
    return (last < 0) | (updates.price_ticks[change[np.maximum(last, 0)]] == 1)
