"""A recorded session laid out for replay: one sequence of trades, book changes, decisions and order arrivals.

The order book is a dense ladder of ticks, so that an order finds its level by its price. Level changes that nothing of ours
can tell apart from simultaneous ones are applied in one step: between two trades, arrivals or decisions, changes of
different levels commute as long as the best prices stay, because a queue position depends on its own level alone. That,
and leaving out levels far from the market, is the event reducer: it shortens the sequence and changes no fill.
"""

import dataclasses
from enum import IntEnum
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mfamm_jax.fields import in_precision
from mfamm_jax.market.events import NS, BookUpdates, DataError, Kind, Session
from mfamm_jax.market.ladder import NO_ASK, NO_BID, Ladder, build_ladder, placed_rows
from mfamm_jax.simulation.latency import AbstractLatency, nanoseconds
from mfamm_jax.simulation.timeline import Step, Timeline, make_timeline

WIDTH = 32  # most level changes in one step


class Action(IntEnum):
    """What a step of the tape is."""

    TRADE = 0
    LEVELS = 1
    ARRIVE = 2
    DECIDE = 3


class Moment(eqx.Module):
    """One step, or S of them.

    Args:
        action: `Action`.
        index: Decision number of ARRIVE and DECIDE steps.
        seconds: Since the step before [s].
        best_bid, best_ask: After the step [ticks from the tape's reference]; NO_BID, NO_ASK where a side is empty.
        lowest_bid, highest_ask: How far down the book is shown [ticks].
        mid: After the step; the last one while a side is empty [price].
        is_trading: False while trading is halted.
        first_change, n_changes: Which level changes the step makes.
        aggressor: +1 buyer, -1 seller, 0 no trade.
        trade_ticks: Price executed.
        trade_size: [recorded units].
        is_hidden: Whether a hidden order was executed.
        trade_placed: Event at which the executed order took its place in the queue; -1 = unknown.
        later_mid: Mid some given times after the step; the last one where that is after the end [price].
    """

    action: Int[Array, "*step"]
    index: Int[Array, "*step"]
    seconds: Float[Array, "*step"]
    best_bid: Int[Array, "*step"]
    best_ask: Int[Array, "*step"]
    lowest_bid: Int[Array, "*step"]
    highest_ask: Int[Array, "*step"]
    mid: Float[Array, "*step"]
    is_trading: Bool[Array, "*step"]
    first_change: Int[Array, "*step"]
    n_changes: Int[Array, "*step"]
    aggressor: Int[Array, "*step"]
    trade_ticks: Int[Array, "*step"]
    trade_size: Float[Array, "*step"]
    is_hidden: Bool[Array, "*step"]
    trade_placed: Int[Array, "*step"]
    later_mid: Float[Array, "*step later"]


class Tape(eqx.Module):
    """What every policy of a sweep shares. S steps, J decisions, M level changes, a ladder of W ticks a side.

    Args:
        moment: The steps in order of time.
        change_slot: Place in the ladder (bids, then asks) of each change, padded by one step's width.
        change_size: Quantity shown after it [recorded units].
        change_removed: Quantity that the changed order lost; only of order feeds, otherwise one step's width.
        change_placed: Event at which it took its place in the queue.
        ladder: Quantities at the start, bids then asks.
        base: Tick of the ladder's first place.
        decision_mid: Mid each decision sees [price].
        decision_bid, decision_ask: Best prices it sees [ticks].
        sees_market: Whether it sees a book at all; without one it does not quote.
        time_left: From each decision to the end [s].
        answered: First decision that knows what became of each decision's messages.
        arrival_event: Last event before the decision's orders arrive.
        refused: Whether the venue refuses the decision's messages.
        tick_size: [price].
        reference_price: What relative prices are relative to [price].
        n_pending: Most decisions on their way at the same time.
        width: Most changes in one step.
        has_orders: Whether changes tell single orders apart.
        first_row: Row of the session that is event 0.
    """

    moment: Moment
    change_slot: Int[Array, " change"]
    change_size: Float[Array, " change"]
    change_removed: Float[Array, " order_change"]
    change_placed: Int[Array, " order_change"]
    ladder: Float[Array, " slot"]
    base: Int[Array, ""]
    decision_mid: Float[Array, " decision"]
    decision_bid: Int[Array, " decision"]
    decision_ask: Int[Array, " decision"]
    sees_market: Bool[Array, " decision"]
    time_left: Float[Array, " decision"]
    answered: Int[Array, " decision"]
    arrival_event: Int[Array, " decision"]
    refused: Bool[Array, " decision"]
    tick_size: Float[Array, ""]
    reference_price: Float[Array, ""]
    n_pending: int = eqx.field(static=True)
    width: int = eqx.field(static=True)
    has_orders: bool = eqx.field(static=True)
    first_row: int = eqx.field(static=True)


def build_tape(
    session: Session,
    *,
    decision_interval: float | np.ndarray | None,
    order_latency: float | AbstractLatency = 0.0,
    response_latency: float = 0.0,
    feed_latency: float = 0.0,
    start_ns: int | None = None,
    end_ns: int | None = None,
    reference_ticks: int | None = None,
    depth_ticks: int = 1000,
    markout_seconds: tuple[float, ...] = (),
    reduce: bool = True,
    ladder: Ladder | None = None,
) -> tuple[Tape, Timeline]:
    """Lays a session out on the device; timing as in `make_timeline`, prices relative to a tick near the first mid.

    Args:
        session: Recorded session.
        decision_interval: [s]; None = a decision at every event received; or the times of the decisions, int64 [ns].
        order_latency: From us to the exchange [s], or a latency model.
        response_latency: From the exchange to us, for our own fills [s].
        feed_latency: From the exchange to us, for market data [s]; on top of the recorded times of receipt.
        start_ns: First decision; default: the first event.
        end_ns: Default: the last event.
        reference_ticks: Default: the first mid, rounded down.
        depth_ticks: Orders farther than this outside the range of the best prices are filled only by prices beyond theirs:
            their queues are not kept.
        markout_seconds: Times after a fill at which its gain is measured [s].
        reduce: False = one step for every event, to compare.
        ladder: From `build_ladder`, when several tapes are made of one session.

    Returns:
        The tape and its timeline, whose rows count from `tape.first_row`.
    """
    updates = session.updates
    t_ns = updates.t_ns
    ladder = build_ladder(session) if ladder is None else ladder
    received = t_ns if updates.local_ns is None else updates.local_ns
    start = int(t_ns[0]) if start_ns is None else start_ns
    first = _first_row(t_ns, received, start, nanoseconds("feed_latency", feed_latency))
    rows = slice(first, int(np.searchsorted(t_ns, t_ns[-1] if end_ns is None else end_ns, side="right")))
    if rows.stop <= rows.start or (end_ns is not None and end_ns <= start):
        raise DataError(
            f"{session.name}: nothing to replay between {start / NS:.3f} s and its end: the events lie between "
            f"{t_ns[0] / NS:.3f} and {t_ns[-1] / NS:.3f} s after midnight"
        )
    timeline = make_timeline(
        t_ns[rows],
        decision_interval=decision_interval,
        order_latency=order_latency,
        response_latency=response_latency,
        feed_latency=feed_latency,
        local_ns=None if updates.local_ns is None else updates.local_ns[rows],
        start_ns=start,
        end_ns=end_ns,
    )
    seen = _as_received(session, ladder, rows)
    tape, tape_ns = _tape(session, ladder, seen, rows, timeline, reference_ticks, depth_ticks, reduce)
    if markout_seconds:
        later = np.stack([_later_mid(tape, tape_ns, seconds) for seconds in markout_seconds], axis=1)
        tape = eqx.tree_at(lambda t: t.moment.later_mid, tape, in_precision(later))
    return tape, dataclasses.replace(timeline, tape_ns=tape_ns)


def _first_row(t_ns: np.ndarray, received: np.ndarray, start: int, feed: int) -> int:
    """First row to replay: the book in force at the first decision is the one of the row that it has received last."""
    all_seen = np.searchsorted(np.maximum.accumulate(received), start - feed, side="right") - 1
    order = np.argsort(received, kind="stable")
    last_seen = order[max(np.searchsorted(received[order], start - feed, side="right") - 1, 0)]
    happened = np.searchsorted(t_ns, start, side="right") - 1
    return max(int(min(all_seen, last_seen, happened)), 0)


def _later_mid(tape: Tape, tape_ns: np.ndarray, seconds: float) -> np.ndarray:
    """Mid in force that long after each step."""
    row = np.searchsorted(tape_ns, tape_ns + nanoseconds("markout_seconds", seconds), side="right") - 1
    return np.asarray(tape.moment.mid)[row]


class _Touch(NamedTuple):
    """Best prices [ticks], whether both were seen by then, and the mid in half ticks, carried while a side is empty."""

    bid: np.ndarray
    ask: np.ndarray
    seen: np.ndarray
    twice_mid: np.ndarray


def _touch(name: str, ladder: Ladder, rows: slice) -> _Touch:
    two_sided = ladder.two_sided
    if not two_sided[rows].any():
        raise DataError(f"{name}: no row of the replayed part has both a bid and an ask")
    bid, ask = ladder.best_bid.astype(np.int64), ladder.best_ask.astype(np.int64)
    first = int(np.argmax(two_sided))
    last = np.maximum.accumulate(np.where(two_sided, np.arange(len(bid)), first))
    touch = _Touch(bid, ask, np.arange(len(bid)) >= first, (bid + ask)[last])
    return _Touch(*(column[rows] for column in touch))


def _as_received(session: Session, ladder: Ladder, rows: slice) -> _Touch:
    """Best prices of the book that we see, built in the order of receipt, at the row received last.

    Book rows need no building, but the last mid before an empty side is the last one received.
    """
    updates = session.updates
    local = updates.local_ns
    touch = _touch(session.name, ladder, rows)
    if local is None or (np.diff(local) >= 0).all():
        return touch
    order = np.argsort(local, kind="stable")
    if session.books is None:
        columns = (updates.t_ns, updates.kind, updates.side, updates.price_ticks, updates.size, updates.order_id)
        as_received = BookUpdates(*(column[order] for column in columns))
        seen = build_ladder(dataclasses.replace(session, updates=as_received))
    else:
        seen = dataclasses.replace(ladder, best_bid=ladder.best_bid[order], best_ask=ladder.best_ask[order])
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    place = back[rows]
    whole = _touch(session.name, seen, slice(None))
    return _Touch(*(column[place] for column in whole))


def _is_trading(updates: BookUpdates) -> np.ndarray:
    """False from a halt until trading resumes (price 1 on a HALT row)."""
    change = np.flatnonzero(updates.kind == Kind.HALT)
    last = np.searchsorted(change, np.arange(len(updates)), side="right") - 1
    if len(change) == 0:
        return np.ones(len(updates), bool)
    return (last < 0) | (updates.price_ticks[change[np.maximum(last, 0)]] == 1)


class _Changes(NamedTuple):
    """Level changes inside the ladder and the replayed rows, and the ladder before them."""

    row: np.ndarray  # from the first replayed row
    slot: np.ndarray
    size: np.ndarray
    removed: np.ndarray
    placed: np.ndarray
    start: np.ndarray
    base: int
    width: int


def _changes(ladder: Ladder, touch: _Touch, rows: slice, depth_ticks: int) -> _Changes:
    bids, asks = touch.bid[touch.bid > NO_BID], touch.ask[touch.ask < NO_ASK]
    base = int(min(bids.min(), asks.min())) - depth_ticks
    width = int(max(bids.max(), asks.max())) + depth_ticks + 1 - base
    ticks = ladder.ticks.astype(np.int64) - base
    inside = (ticks >= 0) & (ticks < width)
    slot = np.where(ladder.side > 0, ticks, ticks + width)
    before = inside & (ladder.row < rows.start)
    start = np.zeros(2 * width)
    start[slot[before]] = ladder.size[before]  # later rows overwrite earlier ones
    kept = np.flatnonzero(inside & (ladder.row >= rows.start) & (ladder.row < rows.stop))
    placed = np.where(ladder.placed[kept] >= rows.start, ladder.placed[kept] - rows.start, -1)
    columns = (ladder.row[kept] - rows.start, slot[kept], ladder.size[kept], ladder.removed[kept], placed)
    return _Changes(*columns, start, base, width)


def _groups(row: np.ndarray, slot: np.ndarray, barrier: np.ndarray, version: np.ndarray, width: int) -> np.ndarray:
    """First change of each group that is applied in one step.

    Args:
        row: Row of each change.
        slot: Its place in the ladder.
        barrier: How many trades, arrivals and decisions happened before each change.
        version: How often best prices, shown range or trading had changed before each row.
        width: Most changes in a group.
    """
    n = len(row)
    order = np.lexsort((np.arange(n), slot))
    previous = np.full(n, -1)
    again = np.flatnonzero(slot[order][1:] == slot[order][:-1]) + 1
    previous[order[again]] = order[again - 1]
    breaks = np.append(True, (np.diff(barrier) != 0) | (np.diff(version[row]) != 0)) if n else np.zeros(0, bool)
    firsts, first = [], 0
    for change, (forced, before) in enumerate(zip(breaks.tolist(), previous.tolist())):
        if forced or before >= first or change - first >= width:
            first = change
            firsts.append(change)
    return np.array(firsts, np.int64)


def _tape(
    session: Session,
    ladder: Ladder,
    seen: _Touch,
    rows: slice,
    timeline: Timeline,
    reference_ticks: int | None,
    depth_ticks: int,
    reduce: bool,
) -> tuple[Tape, np.ndarray]:
    updates, tick = session.updates, session.tick_size
    touch = _touch(session.name, ladder, rows)
    reference = int(touch.twice_mid[0] // 2) if reference_ticks is None else reference_ticks
    changes = _changes(ladder, touch, rows, depth_ticks)
    shown = (ladder.lowest_bid[rows].astype(np.int64), ladder.highest_ask[rows].astype(np.int64))
    trading = _is_trading(updates)[rows]
    is_trade = np.isin(updates.kind[rows], (Kind.TRADE, Kind.HIDDEN_TRADE))
    step_kind, step_index = timeline.kind, timeline.index.astype(np.int64)
    is_event = step_kind == Step.MARKET
    n_events = int(is_event.sum())
    place = np.flatnonzero(is_event)  # step of each event
    keep = changes.row < n_events
    row, slot = changes.row[keep], changes.slot[keep]

    # Every trade, arrival and decision is a step; changes between them form groups.
    trade_row = np.flatnonzero(is_trade[:n_events])
    other = np.flatnonzero(~is_event)
    alone = np.concatenate([2 * place[trade_row], 2 * other])
    alone.sort()
    state = np.stack([touch.bid, touch.ask, *shown, trading])
    changed = np.append(False, (np.diff(state, axis=1) != 0).any(0))
    if reduce:
        barrier = np.searchsorted(alone, 2 * place[row] + 1)
        version = np.cumsum(changed) - changed
    else:
        barrier, version = row, np.zeros(len(touch.bid), np.int64)
    first = _groups(row, slot, barrier, version, WIDTH)
    last = np.append(first[1:], len(row)) - 1
    key = np.concatenate([2 * place[trade_row], 2 * other, 2 * place[row[last]] + 1])
    # Trading may resume at a crossed price without any change of a level.
    empty = np.setdiff1d(np.flatnonzero(changed[:n_events]), row)
    if not reduce:  # events that change nothing inside the ladder take a step, too
        empty = np.union1d(empty, np.setdiff1d(np.arange(n_events), np.concatenate([row, trade_row])))
    key = np.concatenate([key, 2 * place[empty] + 1])
    action = np.repeat(
        np.array([Action.TRADE, Action.LEVELS, Action.LEVELS, Action.LEVELS], np.int8),
        [len(trade_row), len(other), len(first), len(empty)],
    )
    action[len(trade_row) : len(trade_row) + len(other)] = np.where(
        step_kind[other] == Step.ARRIVE, Action.ARRIVE, Action.DECIDE
    )
    # The event whose book is in force after the step; a trade is seen before the change that it causes.
    after = np.concatenate([trade_row - 1, np.cumsum(is_event)[other] - 1, row[last], empty])
    index = np.concatenate([trade_row, step_index[other], row[last], empty])
    counts = [np.zeros(len(trade_row) + len(other), np.int64)] * 2
    starts = np.concatenate([counts[0], first, np.zeros(len(empty), np.int64)])
    numbers = np.concatenate([counts[1], last + 1 - first, np.zeros(len(empty), np.int64)])
    order = np.argsort(key, kind="stable")
    action, after, index, starts, numbers, key = (x[order] for x in (action, after, index, starts, numbers, key))
    now = np.maximum(after, 0)
    none = after < 0

    def relative(ticks: np.ndarray, absent: int) -> np.ndarray:
        return np.where((np.abs(ticks) < NO_ASK) & ~none, ticks - reference, absent)

    trade = np.where(action == Action.TRADE, index, 0)
    is_trade_step = action == Action.TRADE
    trades = {name: getattr(updates, name)[rows][trade] for name in ("price_ticks", "size", "kind", "aggressor")}
    t_ns = timeline.t_ns[key // 2]
    by_order = session.feed == "orders" and bool((updates.order_id[rows] != 0).any())
    placed = placed_rows(updates)[rows][trade] - rows.start if by_order else np.full(len(trade), -1)
    moment = Moment(
        action=_whole(action),
        index=_whole(np.where((action == Action.ARRIVE) | (action == Action.DECIDE), index, 0)),
        seconds=in_precision(np.diff(t_ns, prepend=timeline.t_ns[:1]) / NS),
        best_bid=_whole(relative(touch.bid[now], NO_BID)),
        best_ask=_whole(relative(touch.ask[now], NO_ASK)),
        lowest_bid=_whole(relative(shown[0][now], NO_BID)),
        highest_ask=_whole(relative(shown[1][now], NO_ASK)),
        mid=in_precision((touch.twice_mid[now] / 2 - reference) * tick),
        is_trading=jnp.asarray(np.where(is_trade_step, trading[trade], trading[now])),
        first_change=_whole(starts),
        n_changes=_whole(numbers),
        aggressor=_whole(np.where(is_trade_step, trades["aggressor"], 0)),
        trade_ticks=_whole(np.where(is_trade_step, trades["price_ticks"] - np.int64(reference), 0)),
        trade_size=in_precision(np.where(is_trade_step, trades["size"], 0.0)),
        is_hidden=jnp.asarray(is_trade_step & (trades["kind"] == Kind.HIDDEN_TRADE)),
        trade_placed=_whole(np.where(is_trade_step & (placed >= 0), placed, -1)),
        later_mid=in_precision(np.zeros((len(action), 0))),
    )
    width = int(max(numbers.max(initial=1), 1))
    pad = np.zeros(width)
    known = np.maximum(timeline.seen_row, 0)
    orders = (changes.removed[keep], changes.placed[keep]) if by_order else (np.zeros(0), np.zeros(0))
    tape = Tape(
        moment=moment,
        change_slot=_whole(np.append(slot, pad)),
        change_size=in_precision(np.append(changes.size[keep], pad)),
        change_removed=in_precision(np.append(orders[0], pad)),
        change_placed=_whole(np.append(orders[1], pad)),
        ladder=in_precision(changes.start),
        base=_whole(changes.base - reference),
        decision_mid=in_precision((seen.twice_mid[known] / 2 - reference) * tick),
        decision_bid=_whole(np.where(seen.bid[known] > NO_BID, seen.bid[known] - reference, NO_BID)),
        decision_ask=_whole(np.where(seen.ask[known] < NO_ASK, seen.ask[known] - reference, NO_ASK)),
        sees_market=jnp.asarray((timeline.seen_row >= 0) & seen.seen[known]),
        time_left=in_precision((timeline.end_ns - timeline.decision_ns) / NS),
        answered=jnp.asarray(timeline.answered),
        arrival_event=jnp.asarray(timeline.arrival_row),
        refused=jnp.asarray(timeline.refused),
        tick_size=in_precision(tick),
        reference_price=in_precision(reference * tick),
        n_pending=max(timeline.n_pending, 1),
        width=width,
        has_orders=by_order,
        first_row=rows.start,
    )
    return tape, t_ns


def _whole(x: np.ndarray | int) -> Int[Array, "..."]:
    return jnp.asarray(x, jnp.int32)
