r"""A policy's quotes against recorded events: latency, queue position, partial fills, fees, in one scan.

Our orders never move the recorded book. One order rests per side; the two sides are an axis (bid, ask) with sign +1, -1.
Prices are ticks relative to the tape's reference, sizes of ours lots, sizes of the market recorded units.

Source: docs/equations.md, Q-1 to Q-3 (queue), F-1 to F-3 (fees).
"""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.policies.quotes import AbstractPolicy, Covariates, MarketState
from mfamm_jax.policies.rules import round_to_ticks
from mfamm_jax.simulation.queue import QueueModel, front_after_change, lots_reached
from mfamm_jax.simulation.tape import Event, Tape

Sides = Float[Array, "2"]
Ticks = Int[Array, "2"]
Flags = Bool[Array, "2"]
SIGN = np.array([1, -1], np.int32)  # a bid fill raises inventory, an ask fill lowers it

FeeModel = Literal["quantity", "value", "flat"]


class ReplayConfig(Checked):
    """How orders are filled and charged."""

    queue_model: QueueModel = static_field(
        default="power", source="Q-1", help="who cancelled: in front of us or behind"
    )
    queue_power: Float[Array, ""] = real_field(
        default=2.0, lower=0.0, strict=True, source="Q-1", help="n of the power models"
    )
    partial_fills: bool = static_field(
        default=True, source="Q-2", help="false: an order fills completely or not at all"
    )
    hidden_fills: bool = static_field(default=False, help="whether executions of hidden orders can fill ours")
    post_only: bool = static_field(
        default=True, help="reject orders that would take; false: they take and pay taker_fee"
    )
    fee_model: FeeModel = static_field(
        default="quantity", source="F-1 to F-3", help="fees per lot, per value traded or per fill"
    )
    maker_fee: Float[Array, ""] = real_field(
        default=0.0, source="F-1 to F-3", help="of resting fills, negative = rebate"
    )
    taker_fee: Float[Array, ""] = real_field(default=0.0, source="F-1 to F-3", help="of taking fills")
    lot_size: Float[Array, ""] = real_field(
        default=100.0, lower=0.0, strict=True, unit="recorded units", help="size of one lot"
    )
    refresh_ticks: Float[Array, ""] = real_field(
        default=1.0, lower=0.0, unit="ticks", help="a resting order is replaced when its price is off by this much"
    )
    max_age: Float[Array, ""] = real_field(
        default=jnp.inf, lower=0.0, strict=True, unit="s", help="a resting order is replaced at this age"
    )
    max_inventory: Float[Array, ""] = real_field(
        default=jnp.inf, lower=0.0, unit="lots", help="orders are cut at the exchange to stay within it"
    )


class ReplayPath(eqx.Module):
    """State after every step of the tape, and fills in it. Sides are (bid, ask).

    Args:
        inventory: [lots].
        value: Cash plus inventory at the mid [price lot].
        mid: [price], relative.
        order_ticks: Resting prices; meaningless where `order_size` is 0.
        order_size: [lots].
        fill: [lots].
        fill_price: [price], relative.
        fill_mid: Mid just before the step [price].
    """

    inventory: Float[Array, "*step"]
    value: Float[Array, "*step"]
    mid: Float[Array, "*step"]
    order_ticks: Int[Array, "*step 2"]
    order_size: Float[Array, "*step 2"]
    fill: Float[Array, "*step 2"]
    fill_price: Float[Array, "*step 2"]
    fill_mid: Float[Array, "*step"]


class ReplayResult(eqx.Module):
    """Final numbers of one policy.

    Args:
        pnl: Cash plus inventory at the last mid [price lot]; = capture + revaluation - fees + residual.
        capture: Fills' distance from the mid just before, times lots.
        revaluation: Inventory times changes of the mid.
        fees: Paid.
        residual: Rounding error of the identity.
        inventory: Final [lots].
        max_inventory: Largest absolute inventory [lots].
        max_drawdown: Largest fall of the value from its peak.
        bid_fills, ask_fills: Lots bought and sold.
        n_bid_fills, n_ask_fills: Number of fills.
        n_bid_orders, n_ask_orders: Orders the exchange accepted; fills per order are the fill ratio.
        bid_quoted, ask_quoted: Share of time with a resting order.
        rejected: Orders refused (post-only, inventory limit, halt, no book).
        path: Every step; only with `record = "path"`.
    """

    pnl: Float[Array, ""]
    capture: Float[Array, ""]
    revaluation: Float[Array, ""]
    fees: Float[Array, ""]
    residual: Float[Array, ""]
    inventory: Float[Array, ""]
    max_inventory: Float[Array, ""]
    max_drawdown: Float[Array, ""]
    bid_fills: Float[Array, ""]
    ask_fills: Float[Array, ""]
    n_bid_fills: Int[Array, ""]
    n_ask_fills: Int[Array, ""]
    n_bid_orders: Int[Array, ""]
    n_ask_orders: Int[Array, ""]
    bid_quoted: Float[Array, ""]
    ask_quoted: Float[Array, ""]
    rejected: Int[Array, ""]
    path: ReplayPath | None


class Orders(eqx.Module):
    """Resting orders.

    Args:
        ticks: Price.
        size: Remaining lots; 0 = none.
        front: Quantity before us in the queue [recorded units]; inf = the level was not visible.
        level: Quantity shown at our price; inf = not visible.
        traded: Executed at our price since the level last changed.
    """

    ticks: Ticks
    size: Sides
    front: Sides
    level: Sides
    traded: Sides


class Messages(eqx.Module):
    """What we sent last, or what is on its way: prices, sizes, and whether there is a message at all."""

    ticks: Int[Array, "*slot 2"]
    size: Float[Array, "*slot 2"]
    replaces: Bool[Array, "*slot 2"]


class _Book(eqx.Module):
    """The account and running statistics."""

    inventory: Float[Array, ""]
    cash: Float[Array, ""]
    fees: Float[Array, ""]
    capture: Float[Array, ""]
    revaluation: Float[Array, ""]
    mid: Float[Array, ""]
    peak: Float[Array, ""]
    drawdown: Float[Array, ""]
    most: Float[Array, ""]
    fills: Sides
    n_fills: Ticks
    n_orders: Ticks
    quoted: Sides
    rejected: Int[Array, ""]


class _State(eqx.Module):
    orders: Orders
    sent: Messages
    sent_at: Ticks
    pending: Messages
    book: _Book


class _Fills(eqx.Module):
    lots: Sides
    price: Sides


def replay(
    policy: AbstractPolicy,
    tape: Tape,
    covariates: Covariates,
    config: ReplayConfig,
    *,
    record: Literal["summary", "path"] = "summary",
) -> ReplayResult:
    """Replays one policy; `vmap` over policies or configs shares the tape.

    A decision sees the market and its own fills as late as the tape's latencies say, keeps a resting order that is
    near enough and young enough (and its place in the queue), and otherwise replaces it when the message arrives.

    Args:
        policy: Quotes for a state; time left counts to the end of the tape.
        tape: From `build_tape`.
        covariates: One row per decision, known at that decision.
        config: Fill and fee rules.
        record: "path" also returns every step.
    """
    branches = (
        lambda state, index: _market(tape, config, state, index),
        lambda state, index: _arrive(tape, config, state, index),
        lambda state, index: _decide(policy, tape, covariates, config, state, index),
    )

    def advance(state: _State, step: tuple) -> tuple[_State, ReplayPath | None]:
        kind, index, seconds = step
        quoted = state.book.quoted + jnp.where(state.orders.size > 0, seconds, 0.0)
        state = eqx.tree_at(lambda s: s.book.quoted, state, quoted)
        after, fills = jax.lax.switch(kind, branches, state, index)
        return after, _record(state, after, fills) if record == "path" else None

    start = _start(tape)
    end, path = jax.lax.scan(advance, start, (tape.kind.astype(jnp.int32), tape.index, tape.seconds))
    return _result(end.book, jnp.sum(tape.seconds), path)


def _start(tape: Tape) -> _State:
    dtype = tape.event.mid.dtype
    zero, zeros, ticks = jnp.zeros((), dtype), jnp.zeros(2, dtype), jnp.zeros(2, jnp.int32)
    sent = Messages(ticks, zeros, jnp.zeros(2, bool))
    pending = jax.tree.map(lambda x: jnp.zeros((tape.n_pending, *x.shape), x.dtype), sent)
    book = _Book(
        inventory=zero,
        cash=zero,
        fees=zero,
        capture=zero,
        revaluation=zero,
        mid=tape.event.mid[0],
        peak=zero,
        drawdown=zero,
        most=zero,
        fills=zeros,
        n_fills=ticks,
        n_orders=ticks,
        quoted=zeros,
        rejected=jnp.zeros((), jnp.int32),
    )
    return _State(Orders(ticks, zeros, zeros, zeros, zeros), sent, ticks - 1, pending, book)


def _visible(event: Event, ticks: Ticks) -> tuple[Flags, Sides]:
    """Whether the book shows what rests at our prices, and how much (0 between levels)."""
    shown = event.size > 0
    quantity = jnp.sum(jnp.where(shown & (event.ticks == ticks[:, None]), event.size, 0.0), axis=1)
    # A book with an empty last level is shown to its end; otherwise nothing is known below the last level.
    beyond = shown[:, -1] & (SIGN * (ticks - event.ticks[:, -1]) < 0)
    return ~beyond, quantity


def _opposite_touch(event: Event, ticks: Ticks) -> Flags:
    """Whether our price reaches the best price of the other side."""
    touch, size = event.ticks[::-1, 0], event.size[::-1, 0]
    return (size > 0) & (SIGN * (ticks - touch) >= 0)


def _market(tape: Tape, config: ReplayConfig, state: _State, index: Int[Array, ""]) -> tuple[_State, _Fills]:
    """An event: trades fill our orders, then the book changes."""
    event = jax.tree.map(lambda x: x[index], tape.event)
    orders, lots = _match(event, config, state.orders)
    orders = _new_level(event, config, orders)
    fills = _Fills(lots, orders.ticks * tape.tick_size)
    book = _account(tape, config, state.book, fills, config.maker_fee)
    # Fills happen at the mid before the event, so that its move against us is inventory loss, not spread.
    revaluation = book.revaluation + book.inventory * (event.mid - book.mid)
    book = eqx.tree_at(lambda b: (b.revaluation, b.mid), book, (revaluation, event.mid))
    return eqx.tree_at(lambda s: (s.orders, s.book), state, (orders, _marked(book))), fills


def _match(event: Event, config: ReplayConfig, orders: Orders) -> tuple[Orders, Sides]:
    """Orders after the event's execution, and lots filled (Q-2)."""
    live = (orders.size > 0) & event.is_trading
    counts = jnp.logical_or(config.hidden_fills, ~event.is_hidden)
    against = live & counts & (event.aggressor == -SIGN)
    distance = SIGN * (event.trade_ticks - orders.ticks)
    at = against & (distance == 0)
    front = orders.front - jnp.where(at, event.trade_size, 0.0)
    reached = jnp.where(at, lots_reached(front, config.lot_size), 0.0)
    if not config.partial_fills:
        reached = jnp.where(reached > 0, orders.size, 0.0)
    complete = (against & (distance < 0)) | (live & _opposite_touch(event, orders.ticks))
    lots = jnp.where(complete, orders.size, jnp.minimum(reached, orders.size))
    traded = orders.traded + jnp.where(at & ~event.is_hidden, event.trade_size, 0.0)
    front = jnp.where(reached > 0, 0.0, front)
    return Orders(orders.ticks, orders.size - lots, front, orders.level, traded), lots


def _new_level(event: Event, config: ReplayConfig, orders: Orders) -> Orders:
    """Queue positions after the level changed (Q-3); unchanged while it is out of sight."""
    is_known, quantity = _visible(event, orders.ticks)
    usable = jnp.isfinite(orders.level) & jnp.isfinite(orders.front)
    front, before = jnp.where(usable, orders.front, 0.0), jnp.where(usable, orders.level, 0.0)
    moved = front_after_change(config.queue_model, front, orders.traded, before, quantity, config.queue_power)
    moved = jnp.where(usable, moved, jnp.minimum(orders.front, quantity))
    changed = is_known & (quantity != orders.level)
    return Orders(
        ticks=orders.ticks,
        size=orders.size,
        front=jnp.where(changed, moved, orders.front),
        level=jnp.where(is_known, quantity, jnp.inf),
        traded=jnp.where(changed | ~is_known, 0.0, orders.traded),
    )


def _decide(
    policy: AbstractPolicy,
    tape: Tape,
    covariates: Covariates,
    config: ReplayConfig,
    state: _State,
    index: Int[Array, ""],
) -> tuple[_State, _Fills]:
    """A decision: what to send, given what is known of our own orders at this moment."""
    ticks, size = _targets(policy, tape, covariates, state.book, index)
    orders, sent = state.orders, state.sent
    in_flight = state.sent_at >= tape.arrived[index]
    remaining = jnp.where(in_flight, sent.size, orders.size)
    age = (index - state.sent_at) * tape.decision_interval
    near = jnp.abs(ticks - sent.ticks) < config.refresh_ticks
    keeps = (remaining > 0) & (remaining <= size) & near & (age < config.max_age)
    replaces = ~(keeps | ((remaining == 0) & (size == 0)))
    message = Messages(ticks, size, replaces)
    slot = index % tape.n_pending
    pending = jax.tree.map(lambda all_slots, new: all_slots.at[slot].set(new), state.pending, message)
    sent = jax.tree.map(lambda old, new: jnp.where(replaces, new, old), sent, message)
    sent_at = jnp.where(replaces, index, state.sent_at)
    none = _Fills(jnp.zeros_like(size), jnp.zeros_like(size))
    return eqx.tree_at(lambda s: (s.sent, s.sent_at, s.pending), state, (sent, sent_at, pending)), none


def _targets(
    policy: AbstractPolicy, tape: Tape, covariates: Covariates, book: _Book, index: Int[Array, ""]
) -> tuple[Ticks, Sides]:
    """Prices and whole lots the policy wants, rounded away from the mid."""
    mid = tape.decision_mid[index]
    now = jax.tree.map(lambda x: x[index], covariates)
    state = MarketState(mid, book.inventory, book.cash, tape.time_left[index], now)
    quotes = round_to_ticks(policy(state), mid, tape.tick_size)
    price = jnp.stack([mid - quotes.bid_depth, mid + quotes.ask_depth]) / tape.tick_size
    size = jnp.stack([quotes.bid_size, quotes.ask_size])
    quotable = jnp.isfinite(price) & (jnp.abs(price) < 1e9) & tape.sees_market[index] & (size > 0)
    slack = 1e-6  # two thirds of three lots are two lots
    lots = jnp.where(quotable, jnp.floor(size + slack), 0.0)
    return jnp.where(quotable, jnp.round(price), 0.0).astype(jnp.int32), lots


def _arrive(tape: Tape, config: ReplayConfig, state: _State, index: Int[Array, ""]) -> tuple[_State, _Fills]:
    """The decision's messages reach the exchange: old orders are cancelled, new ones queue up, take or are refused."""
    row = tape.arrival_event[index]
    event = jax.tree.map(lambda x: x[jnp.maximum(row, 0)], tape.event)
    message = jax.tree.map(lambda x: x[index % tape.n_pending], state.pending)
    room = jnp.floor(config.max_inventory - SIGN * state.book.inventory)
    size = jnp.where(row >= 0, jnp.clip(message.size, 0.0, jnp.maximum(room, 0.0)), 0.0)
    crosses = (size > 0) & _opposite_touch(event, message.ticks)
    refused = crosses & (jnp.asarray(config.post_only) | ~event.is_trading)
    taken, paid = _take(event, config, message.ticks, size)
    takes = message.replaces & crosses & ~refused
    lots = jnp.where(takes, taken, 0.0)
    # What an order cannot take at once is cancelled: the recorded book would offer the same volume again.
    rests = jnp.where(crosses, 0.0, size)
    is_known, quantity = _visible(event, message.ticks)
    queue = jnp.where(is_known, quantity, jnp.inf)
    new = Orders(message.ticks, rests, queue, queue, jnp.zeros_like(queue))
    orders = jax.tree.map(lambda old, n: jnp.where(message.replaces, n, old), state.orders, new)
    rejected = jnp.sum(message.replaces & (message.size > 0) & (refused | (size == 0)), dtype=jnp.int32)
    fills = _Fills(lots, jnp.where(takes, paid, 0.0) * tape.tick_size)
    book = _account(tape, config, state.book, fills, config.taker_fee)
    accepted = (message.replaces & (size > 0) & ~refused).astype(jnp.int32)
    counts = (book.rejected + rejected, book.n_orders + accepted)
    book = eqx.tree_at(lambda b: (b.rejected, b.n_orders), book, counts)
    return eqx.tree_at(lambda s: (s.orders, s.book), state, (orders, _marked(book))), fills


def _take(event: Event, config: ReplayConfig, ticks: Ticks, size: Sides) -> tuple[Sides, Sides]:
    """Lots taken and their mean price [ticks]: all at the touch, or level by level with partial fills."""
    price, shown = event.ticks[::-1], event.size[::-1]
    if not config.partial_fills:
        return size, price[:, 0].astype(size.dtype)
    reach = (shown > 0) & (SIGN[:, None] * (ticks[:, None] - price) >= 0)
    offered = jnp.where(reach, jnp.floor(shown / config.lot_size), 0.0)
    before = jnp.cumsum(offered, axis=1) - offered
    taken = jnp.clip(size[:, None] - before, 0.0, offered)
    total = jnp.sum(taken, axis=1)
    return total, jnp.sum(taken * price, axis=1) / jnp.where(total > 0, total, 1.0)


def fee_of_fills(
    model: FeeModel, rate: Float[Array, ""], price: Float[Array, "*b"], lots: Float[Array, "*b"]
) -> Float[Array, "*b"]:
    """Paid for fills [price lot], negative = rebate: per value traded (F-1), per lot (F-2) or per fill (F-3)."""
    if model == "value":
        return rate * price * lots
    if model == "quantity":
        return rate * lots
    return jnp.where(lots > 0, rate, 0.0)


def _account(tape: Tape, config: ReplayConfig, book: _Book, fills: _Fills, rate: Float[Array, ""]) -> _Book:
    """Cash, inventory (2) and fees after fills at the mid before the step; a bid fill raises inventory."""
    signed = SIGN * fills.lots
    happened = fills.lots > 0
    fees = jnp.sum(fee_of_fills(config.fee_model, rate, tape.reference_price + fills.price, fills.lots))
    inventory = book.inventory + jnp.sum(signed)
    changed = {
        "inventory": inventory,
        "cash": book.cash - jnp.sum(signed * fills.price) - fees,
        "fees": book.fees + fees,
        "capture": book.capture + jnp.sum(signed * (book.mid - fills.price)),
        "most": jnp.maximum(book.most, jnp.abs(inventory)),
        "fills": book.fills + fills.lots,
        "n_fills": book.n_fills + happened.astype(jnp.int32),
    }
    return eqx.tree_at(lambda b: [getattr(b, name) for name in changed], book, list(changed.values()))


def _marked(book: _Book) -> _Book:
    """Peak and drawdown of the value at the mid."""
    value = book.cash + book.inventory * book.mid
    peak = jnp.maximum(book.peak, value)
    drawdown = jnp.maximum(book.drawdown, peak - value)
    return eqx.tree_at(lambda b: (b.peak, b.drawdown), book, (peak, drawdown))


def _record(before: _State, after: _State, fills: _Fills) -> ReplayPath:
    book = after.book
    return ReplayPath(
        inventory=book.inventory,
        value=book.cash + book.inventory * book.mid,
        mid=book.mid,
        order_ticks=after.orders.ticks,
        order_size=after.orders.size,
        fill=fills.lots,
        fill_price=fills.price,
        fill_mid=before.book.mid,
    )


def _result(book: _Book, seconds: Float[Array, ""], path: ReplayPath | None) -> ReplayResult:
    pnl = book.cash + book.inventory * book.mid
    quoted = book.quoted / jnp.maximum(seconds, jnp.finfo(seconds.dtype).tiny)
    return ReplayResult(
        pnl=pnl,
        capture=book.capture,
        revaluation=book.revaluation,
        fees=book.fees,
        residual=pnl - (book.capture + book.revaluation - book.fees),
        inventory=book.inventory,
        max_inventory=book.most,
        max_drawdown=book.drawdown,
        bid_fills=book.fills[0],
        ask_fills=book.fills[1],
        n_bid_fills=book.n_fills[0],
        n_ask_fills=book.n_fills[1],
        n_bid_orders=book.n_orders[0],
        n_ask_orders=book.n_orders[1],
        bid_quoted=quoted[0],
        ask_quoted=quoted[1],
        rejected=book.rejected,
        path=path,
    )
