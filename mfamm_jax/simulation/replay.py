r"""A policy's quotes against recorded events: latency, queue position, partial fills, fees, in one scan.

Our orders never move the recorded book. Each side has `n_levels` orders; the sides are separate objects with sign +1 (bid)
and -1 (ask). Prices are ticks relative to the tape's reference, sizes of ours lots, sizes of the market recorded units.

Source: docs/equations.md, Q-1 to Q-3 (queue), F-1 to F-3 (fees).
"""

from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.policies.quotes import AbstractPolicy, Covariates, MarketState
from mfamm_jax.simulation.account import Account, Contract, FeeModel, Fills, after_fills, marked, new_account, revalued, worth
from mfamm_jax.simulation.queue import QueueModel, front_after_change, lots_reached
from mfamm_jax.simulation.tape import Action, Moment, Tape

BID, ASK = 1, -1  # a bid fill raises inventory, an ask fill lowers it
SIDES = (BID, ASK)
TAKING_TICKS = 256  # how deep a taking order looks into the book
Sizes = Float[Array, " level"]
Ticks = Int[Array, " level"]
Flags = Bool[Array, " level"]


class ReplayConfig(Checked):
    """How orders are placed, filled and charged."""

    queue_model: QueueModel = static_field(
        default="power", source="Q-1", help="who cancelled: in front of us or behind; fifo = by order ids"
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
    rounding: Literal["away", "nearest"] = static_field(
        default="away", help="prices to the tick away from the mid, or to the nearest tick"
    )
    improves_touch: bool = static_field(
        default=True, help="false: prices are cut back to the best one seen on their side"
    )
    n_levels: int = static_field(default=1, lower=1, upper=50, help="orders a side, each as large as the quote")
    level_ticks: Float[Array, ""] = real_field(
        default=1.0, lower=1.0, unit="ticks", help="distance from one order of a side to the next"
    )
    contract: Contract = static_field(
        default="linear", help="inverse: settled in the coin, worth 1/price, as coin-margined futures"
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
    size_increment: Float[Array, ""] = real_field(
        default=1.0, lower=0.0, strict=True, unit="lots", help="orders and partial fills are whole multiples of it"
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
    max_notional: Float[Array, ""] = real_field(
        default=jnp.inf, lower=0.0, unit="price lot", help="as max_inventory, for inventory times price"
    )


class ReplayPath(eqx.Module):
    """State after every step of the tape, and fills in it. Sides are (bid, ask); several levels are a last axis.

    Args:
        inventory: [lots].
        value: Cash plus inventory at the mid [price lot].
        mid: [price], relative.
        order_ticks: Resting prices; meaningless where `order_size` is 0.
        order_size: [lots].
        order_front: Quantity in front of each order [recorded units]; inf = not visible.
        fill: [lots].
        fill_price: [price], relative.
        fill_mid: Mid just before the step [price].
        accepted: Orders that the exchange accepted at the step.
    """

    inventory: Float[Array, "*step"]
    value: Float[Array, "*step"]
    mid: Float[Array, "*step"]
    order_ticks: Int[Array, "..."]
    order_size: Float[Array, "..."]
    order_front: Float[Array, "..."]
    fill: Float[Array, "..."]
    fill_price: Float[Array, "..."]
    fill_mid: Float[Array, "*step"]
    accepted: Bool[Array, "..."]


class ReplayResult(eqx.Module):
    """Final numbers of one policy. For inverse contracts money is in the coin.

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


class Orders(NamedTuple):
    """One side's resting orders.

    Args:
        ticks: Price.
        size: Remaining lots; 0 = none.
        front: Quantity before us in the queue [recorded units]; inf = the level was not visible.
        level: Quantity shown at our price; inf = not visible.
        traded: Executed at our price since the level last changed.
        placed: Event after which we took our place.
    """

    ticks: Ticks
    size: Sizes
    front: Sizes
    level: Sizes
    traded: Sizes
    placed: Int[Array, " level"]


class Sent(NamedTuple):
    """What one side sent last: prices, sizes, and the decision that sent it."""

    ticks: Ticks
    size: Sizes
    at: Int[Array, " level"]


class Messages(NamedTuple):
    """One side's messages on their way, one row for each slot: prices, sizes, and whether there is a message at all."""

    ticks: Int[Array, "slot level"]
    size: Float[Array, "slot level"]
    replaces: Bool[Array, "slot level"]


class Ladder(NamedTuple):
    """What the book shows at every tick, and which step changed it last.

    Args:
        size: [recorded units], bids then asks.
        changed_at: Step number.
        removed: Quantity that the order changed last lost there; only with `fifo`.
        placed: Event at which that order took its place.
    """

    size: Float[Array, " slot"]
    changed_at: Int[Array, " slot"]
    removed: Float[Array, " slot"] | None
    placed: Int[Array, " slot"] | None


class View(NamedTuple):
    """What the ladder says at one side's prices: of its orders, or of the messages that arrive.

    Args:
        quantity: Shown [recorded units].
        changed: Whether this step changed it.
        inside: Whether the ladder reaches there.
        removed, placed: As in the ladder.
        offered: Quantities of the other side from its best price on; only where orders may take.
    """

    quantity: Sizes
    changed: Flags
    inside: Flags
    removed: Sizes | None
    placed: Int[Array, " level"] | None
    offered: Float[Array, " tick"] | None


class Exchange(NamedTuple):
    """Our orders (bid, ask), what happened to them, and the account."""

    orders: tuple[Orders, Orders]
    account: Account
    fills: tuple[Fills, Fills]
    accepted: tuple[Flags, Flags]


class Desk(NamedTuple):
    """Our side of the wire: what was sent and what is on its way, for (bid, ask)."""

    sent: tuple[Sent, Sent]
    pending: tuple[Messages, Messages]


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
    if config.queue_model == "fifo" and not tape.has_orders:
        raise ValueError('queue_model = "fifo" needs a feed with order ids; use "power" or another estimate')
    return _Replay(policy, tape, covariates, config).run(record)


class _Replay(NamedTuple):
    """The arguments of `replay`, so that its parts can share them."""

    policy: Any
    tape: Tape
    covariates: Covariates
    config: ReplayConfig

    def run(self, record: str) -> ReplayResult:
        """The scan."""
        quoted = jnp.zeros(2, self.tape.moment.mid.dtype)
        start = (self._book(), self._exchange(), self._desk(), quoted)
        n_steps = self.tape.moment.action.shape[0]
        steps = (jnp.arange(1, n_steps + 1, dtype=jnp.int32), self.tape.moment)

        def advance(state: tuple, step: tuple) -> tuple[tuple, ReplayPath | None]:
            book, exchange, desk, quoted = state
            number, moment = step
            resting = jnp.stack([jnp.any(orders.size > 0) for orders in exchange.orders])
            quoted = quoted + jnp.where(resting, moment.seconds, 0.0)
            book = self._change_book(book, moment, number)
            idle = self._idle(exchange)
            messages = self._arriving(desk, moment)
            # The ladder is read here: an array that enters a branch may be copied at every step.
            views = self._views(book, exchange, messages, moment, number)
            branches = (
                lambda: self._trade(idle, moment),
                lambda: self._levels(idle, views, moment),
                lambda: self._arrive(idle, messages, views, moment),
                lambda: idle,
            )
            after = jax.lax.switch(moment.action, branches)
            decides = moment.action == Action.DECIDE
            desk = jax.lax.cond(decides, lambda: self._decide(desk, exchange, moment.index), lambda: desk)
            path = _record(exchange, after) if record == "path" else None
            return (book, after, desk, quoted), path

        (_, end, _, quoted), path = jax.lax.scan(advance, start, steps)
        return _result(end.account, quoted, jnp.sum(self.tape.moment.seconds), self.config, path)

    def _book(self) -> Ladder:
        size = self.tape.ladder
        whole = jnp.zeros(size.shape, jnp.int32)
        by_order = self.config.queue_model == "fifo"
        return Ladder(size, whole, jnp.zeros_like(size) if by_order else None, whole if by_order else None)

    def _exchange(self) -> Exchange:
        dtype, n = self.tape.moment.mid.dtype, self.config.n_levels
        zeros, ticks = jnp.zeros(n, dtype), jnp.zeros(n, jnp.int32)
        orders, fills = Orders(ticks, zeros, zeros, zeros, zeros, ticks), Fills(zeros, zeros)
        none = jnp.zeros(n, bool)
        return Exchange((orders, orders), new_account(self.tape.moment.mid[0]), (fills, fills), (none, none))

    def _desk(self) -> Desk:
        dtype, n, slots = self.tape.moment.mid.dtype, self.config.n_levels, self.tape.n_pending
        ticks = jnp.zeros(n, jnp.int32)
        sent = Sent(ticks, jnp.zeros(n, dtype), ticks - 1)
        messages = Messages(
            jnp.zeros((slots, n), jnp.int32), jnp.zeros((slots, n), dtype), jnp.zeros((slots, n), bool)
        )
        return Desk((sent, sent), (messages, messages))

    @staticmethod
    def _idle(exchange: Exchange) -> Exchange:
        """Nothing happened at this step yet."""
        fills = tuple(jax.tree.map(jnp.zeros_like, f) for f in exchange.fills)
        accepted = tuple(jnp.zeros_like(a) for a in exchange.accepted)
        return exchange._replace(fills=fills, accepted=accepted)

    def _change_book(self, book: Ladder, moment: Moment, number: Int[Array, ""]) -> Ladder:
        """Applies the step's level changes; other steps have none."""
        tape = self.tape

        def window(array: Array) -> Array:
            return jax.lax.dynamic_slice(array, (moment.first_change,), (tape.width,))

        counts = jnp.arange(tape.width) < moment.n_changes
        slot = jnp.where(counts, window(tape.change_slot), book.size.shape[0])

        def put(array: Array, values: Array) -> Array:
            return array.at[slot].set(values, mode="drop", unique_indices=True)

        return Ladder(
            size=put(book.size, window(tape.change_size)),
            changed_at=book.changed_at.at[slot].set(number, mode="drop", unique_indices=True),
            removed=None if book.removed is None else put(book.removed, window(tape.change_removed)),
            placed=None if book.placed is None else put(book.placed, window(tape.change_placed)),
        )

    def _arriving(self, desk: Desk, moment: Moment) -> list[Messages]:
        """The messages in the decision's slot."""
        row = moment.index % self.tape.n_pending
        return [Messages(*(x[row] for x in pending)) for pending in desk.pending]

    def _views(
        self, book: Ladder, exchange: Exchange, messages: list[Messages], moment: Moment, number: Int[Array, ""]
    ) -> list[View]:
        arrives = moment.action == Action.ARRIVE
        views = []
        for sign, orders, message in zip(SIDES, exchange.orders, messages):
            slot, inside = self._place(sign, jnp.where(arrives, message.ticks, orders.ticks))
            offered = None
            if not self.config.post_only and self.config.partial_fills:
                touch = moment.best_ask if sign > 0 else moment.best_bid
                other, there = self._place(-sign, touch + sign * jnp.arange(TAKING_TICKS))
                offered = jnp.where(there, book.size[other], 0.0)
            views.append(
                View(
                    quantity=book.size[slot],
                    changed=inside & (book.changed_at[slot] == number),
                    inside=inside,
                    removed=None if book.removed is None else book.removed[slot],
                    placed=None if book.placed is None else book.placed[slot],
                    offered=offered,
                )
            )
        return views

    def _place(self, sign: int, ticks: Int[Array, "..."]) -> tuple[Int[Array, "..."], Bool[Array, "..."]]:
        """Slot of the ladder, and whether the ladder has it."""
        width = self.tape.ladder.shape[0] // 2
        offset = ticks - self.tape.base
        inside = (offset >= 0) & (offset < width)
        return jnp.clip(offset, 0, width - 1) + (0 if sign > 0 else width), inside

    def _shown(self, sign: int, ticks: Ticks, moment: Moment) -> Flags:
        """Whether the book is shown as far as these prices."""
        return ticks >= moment.lowest_bid if sign > 0 else ticks <= moment.highest_ask

    def _trade(self, exchange: Exchange, moment: Moment) -> Exchange:
        """An execution: it fills orders of ours that it passed or whose queue it emptied (Q-2)."""
        outcome = [self._match(s, o, moment) for s, o in zip(SIDES, exchange.orders)]
        return self._settle(exchange, [o for o, _ in outcome], [lots for _, lots in outcome], moment)

    def _match(self, sign: int, orders: Orders, moment: Moment) -> tuple[Orders, Sizes]:
        config = self.config
        counts = moment.is_trading & (moment.aggressor == -sign) & (config.hidden_fills | ~moment.is_hidden)
        live = (orders.size > 0) & counts
        at = live & (moment.trade_ticks == orders.ticks)
        if config.queue_model == "fifo":
            # Executions of orders before us move us up when their level changes; one behind us says that our turn had come.
            behind = at & (moment.trade_placed > orders.placed)
            front = jnp.where(behind, -moment.trade_size, orders.front)
        else:
            front = orders.front - jnp.where(at, moment.trade_size, 0.0)
        step = config.size_increment
        reached = jnp.where(at, step * lots_reached(front, config.lot_size * step), 0.0)
        if not config.partial_fills:
            reached = jnp.where(reached > 0, orders.size, 0.0)
        passed = live & ((moment.trade_ticks < orders.ticks) if sign > 0 else (moment.trade_ticks > orders.ticks))
        lots = jnp.where(passed, orders.size, jnp.minimum(reached, orders.size))
        traded = orders.traded + jnp.where(at & ~moment.is_hidden, moment.trade_size, 0.0)
        front = jnp.where(reached > 0, 0.0, front)
        return orders._replace(size=orders.size - lots, front=front, traded=traded), lots

    def _levels(self, exchange: Exchange, views: list[View], moment: Moment) -> Exchange:
        """The book changes: queue positions (Q-3), and orders that the other side's best price has reached are filled."""
        orders, lots = [], []
        for sign, ours, view in zip(SIDES, exchange.orders, views):
            ours = self._moved_up(sign, ours, view, moment)
            touch = moment.best_ask if sign > 0 else moment.best_bid
            crossed = moment.is_trading & (sign * (ours.ticks - touch) >= 0)
            filled = jnp.where(crossed, ours.size, 0.0)
            orders.append(ours._replace(size=ours.size - filled))
            lots.append(filled)
        after = self._settle(exchange, orders, lots, moment)
        # Fills happen at the mid before the event, so that its move against us is inventory loss, not spread.
        account = marked(revalued(after.account, worth(self.config.contract, moment.mid, self.tape.reference_price)))
        return after._replace(account=account)

    def _moved_up(self, sign: int, orders: Orders, view: View, moment: Moment) -> Orders:
        """Queue positions after the level changed; unchanged while it is out of sight."""
        config = self.config
        quantity, changed = view.quantity, view.changed
        shown = self._shown(sign, orders.ticks, moment)
        if view.removed is not None and view.placed is not None:
            ahead = view.placed <= orders.placed
            moved = jnp.clip(orders.front - jnp.where(ahead, jnp.maximum(view.removed, 0.0), 0.0), 0.0, quantity)
        else:
            usable = jnp.isfinite(orders.level) & jnp.isfinite(orders.front)
            front, before = jnp.where(usable, orders.front, 0.0), jnp.where(usable, orders.level, 0.0)
            moved = front_after_change(config.queue_model, front, orders.traded, before, quantity, config.queue_power)
            moved = jnp.where(usable, moved, jnp.minimum(orders.front, quantity))
        changed_in_sight = changed & shown
        return orders._replace(
            front=jnp.where(changed_in_sight, moved, orders.front),
            level=jnp.where(shown & view.inside, jnp.where(changed, quantity, orders.level), jnp.inf),
            traded=jnp.where(changed | ~shown, 0.0, orders.traded),
        )

    def _arrive(self, exchange: Exchange, messages: list[Messages], views: list[View], moment: Moment) -> Exchange:
        """A decision's messages reach the exchange: old orders are cancelled, new ones queue up, take or are refused."""
        config, tape, index = self.config, self.tape, moment.index
        has_book = (moment.best_bid > -(2**29)) | (moment.best_ask < 2**29)
        orders, all_fills, accepted, rejected = [], [], [], jnp.zeros((), jnp.int32)
        for sign, old, message, view in zip(SIDES, exchange.orders, messages, views):
            replaces = message.replaces & ~tape.refused[index]
            size = jnp.where(replaces & has_book, message.size, 0.0)
            size = self._cut(sign, size, jnp.where(replaces, 0.0, old.size), exchange.account, moment)
            touch = moment.best_ask if sign > 0 else moment.best_bid
            crosses = (size > 0) & (sign * (message.ticks - touch) >= 0)
            refused = crosses & (jnp.asarray(config.post_only) | ~moment.is_trading)
            fills = Fills(jnp.zeros_like(size), jnp.zeros_like(size))
            if not config.post_only:
                taken, paid = self._take(sign, message.ticks, size, view, touch)
                takes = crosses & ~refused
                fills = Fills(jnp.where(takes, taken, 0.0), jnp.where(takes, paid, 0.0) * tape.tick_size)
            queue = jnp.where(view.inside & self._shown(sign, message.ticks, moment), view.quantity, jnp.inf)
            # What an order cannot take at once is cancelled: the recorded book would offer the same volume again.
            rests = jnp.where(crosses, 0.0, size)
            placed = jnp.broadcast_to(tape.arrival_event[index], message.ticks.shape)
            new = Orders(message.ticks, rests, queue, queue, jnp.zeros_like(queue), placed)
            orders.append(Orders(*(jnp.where(replaces, n, o) for n, o in zip(new, old))))
            all_fills.append(fills)
            accepted.append(replaces & (size > 0) & ~refused)
            rejected += jnp.sum(replaces & (message.size > 0) & (refused | (size == 0)), dtype=jnp.int32)
        account = exchange.account
        counts = [jnp.sum(a, dtype=jnp.int32) for a in accepted]
        account = account._replace(
            rejected=account.rejected + rejected,
            n_orders=tuple(n + more for n, more in zip(account.n_orders, counts)),
        )
        if not config.post_only:
            account = marked(self._charged(account, all_fills, config.taker_fee))
        return Exchange(tuple(orders), account, tuple(all_fills), tuple(accepted))

    def _cut(self, sign: int, size: Sizes, kept: Sizes, account: Account, moment: Moment) -> Sizes:
        """New orders cut so that all of a side's orders together keep the inventory within its limits."""
        config = self.config
        price = self.tape.reference_price + moment.mid
        notional = config.max_notional / price if config.contract == "linear" else config.max_notional * price
        room = self._whole(jnp.minimum(config.max_inventory, notional) - sign * account.inventory)
        earlier = jnp.sum(kept) + jnp.cumsum(size) - size
        return jnp.clip(size, 0.0, jnp.maximum(room - earlier, 0.0))

    def _take(self, sign: int, ticks: Ticks, size: Sizes, view: View, touch: Int[Array, ""]) -> tuple[Sizes, Sizes]:
        """Lots taken and their mean price [ticks]: all at the touch, or level by level with partial fills."""
        if view.offered is None:
            return size, jnp.broadcast_to(touch, size.shape).astype(size.dtype)
        price = touch + sign * jnp.arange(TAKING_TICKS)
        reach = sign * (ticks[:, None] - price) >= 0
        offered = jnp.where(reach, self._whole(view.offered / self.config.lot_size), 0.0)
        before = jnp.cumsum(offered, axis=1) - offered
        taken = jnp.clip(size[:, None] - before, 0.0, offered)
        total = jnp.sum(taken, axis=1)
        return total, jnp.sum(taken * price, axis=1) / jnp.where(total > 0, total, 1.0)

    def _whole(self, lots: Sizes) -> Sizes:
        """Rounded down to what can be ordered; two thirds of three lots are two lots."""
        step = self.config.size_increment
        return jnp.floor(lots / step + 1e-6) * step

    def _settle(self, exchange: Exchange, orders: list[Orders], lots: list[Sizes], moment: Moment) -> Exchange:
        """Resting fills are paid at their own price."""
        fills = [Fills(n, o.ticks * self.tape.tick_size) for n, o in zip(lots, orders)]
        account = self._charged(exchange.account, fills, self.config.maker_fee)
        return exchange._replace(orders=tuple(orders), account=account, fills=tuple(fills))

    def _charged(self, account: Account, fills: list[Fills], rate: Float[Array, ""]) -> Account:
        config = self.config
        return after_fills(account, tuple(fills), rate, config.fee_model, config.contract, self.tape.reference_price)

    def _decide(self, desk: Desk, exchange: Exchange, index: Int[Array, ""]) -> Desk:
        """A decision: what to send, given what is known of our own orders at this moment."""
        tape, config = self.tape, self.config
        wanted = self._wanted(exchange.account, index)
        slot = index % tape.n_pending
        all_sent, all_pending = [], []
        for (ticks, size), orders, sent, pending in zip(wanted, exchange.orders, desk.sent, desk.pending):
            in_flight = sent.at >= tape.arrived[index]
            remaining = jnp.where(in_flight, sent.size, orders.size)
            resting = jnp.where(in_flight, sent.ticks, orders.ticks)
            if config.n_levels > 1:
                match = _matched(ticks, size, resting, remaining, config.refresh_ticks)
                ticks, size = ticks[match], size[match]
            age = tape.time_left[jnp.maximum(sent.at, 0)] - tape.time_left[index]
            near = jnp.abs(ticks - resting) < config.refresh_ticks
            keeps = (remaining > 0) & (remaining <= size) & near & (age < config.max_age)
            replaces = ~(keeps | ((remaining == 0) & (size == 0)))
            message = Messages(ticks, size, replaces)
            all_pending.append(Messages(*(old.at[slot].set(new) for old, new in zip(pending, message))))
            new = Sent(ticks, size, jnp.broadcast_to(index, ticks.shape))
            # Messages that the venue refuses change nothing: the old order stays.
            sends = replaces & ~tape.refused[index]
            all_sent.append(Sent(*(jnp.where(sends, n, o) for n, o in zip(new, sent))))
        return Desk(tuple(all_sent), tuple(all_pending))

    def _wanted(self, account: Account, index: Int[Array, ""]) -> list[tuple[Ticks, Sizes]]:
        """Prices and whole lots the policy wants, best level first, for (bid, ask)."""
        tape, config = self.tape, self.config
        mid = tape.decision_mid[index]
        now = jax.tree.map(lambda x: x[index], self.covariates)
        cash = account.cash
        quotes = self.policy(MarketState(mid, account.inventory, cash, tape.time_left[index], now))
        # A price within a millionth of a tick of the grid is on it: rounding error must not cost a whole tick.
        slack = 1e-6 if mid.dtype == jnp.float64 else 1e-3
        wanted = []
        for sign, depth, size in ((BID, quotes.bid_depth, quotes.bid_size), (ASK, quotes.ask_depth, quotes.ask_size)):
            best = (mid - sign * depth) / tape.tick_size
            price = best - sign * config.level_ticks * jnp.arange(config.n_levels)
            quotable = jnp.isfinite(price) & (jnp.abs(price) < 1e9) & tape.sees_market[index] & (size > 0)
            if config.rounding == "nearest":
                whole = jnp.round(price)
            else:
                whole = jnp.floor(price + slack) if sign > 0 else jnp.ceil(price - slack)
            ticks = jnp.where(quotable, whole, 0.0).astype(jnp.int32)
            if not config.improves_touch:
                ticks = jnp.minimum(ticks, tape.decision_bid[index]) if sign > 0 else jnp.maximum(ticks, tape.decision_ask[index])
            wanted.append((ticks, jnp.where(quotable, self._whole(size), 0.0)))
        return wanted


def _matched(ticks: Ticks, size: Sizes, resting: Ticks, remaining: Sizes, refresh: Float[Array, ""]) -> Int[Array, " level"]:
    """Which wanted level each order slot takes: the one it already rests at, so that a moving grid keeps its places."""
    n = ticks.shape[0]
    near = (jnp.abs(ticks[:, None] - resting) < refresh) & (remaining > 0) & (size[:, None] > 0)
    slot_of, free = [], jnp.ones(n, bool)
    for level in range(n):
        candidates = near[level] & free
        slot = jnp.where(jnp.any(candidates), jnp.argmax(candidates), n)
        free = free & (jnp.arange(n) != slot)
        slot_of.append(slot)
    slots = jnp.stack(slot_of)
    # Levels without an order take the free slots in turn.
    free_slots = jnp.argsort(~free, stable=True)
    rank = jnp.cumsum(slots == n) - 1
    slots = jnp.where(slots == n, free_slots[jnp.maximum(rank, 0)], slots)
    return jnp.zeros(n, jnp.int32).at[slots].set(jnp.arange(n, dtype=jnp.int32))


def _both(pair: tuple[Array, Array]) -> Array:
    """(bid, ask) as an axis; without the axis of levels when there is one."""
    stacked = jnp.stack(pair)
    return stacked[:, 0] if stacked.shape[1] == 1 else stacked


def _record(before: Exchange, after: Exchange) -> ReplayPath:
    account, orders = after.account, after.orders
    return ReplayPath(
        inventory=account.inventory,
        value=account.cash + account.inventory * account.worth,
        mid=account.worth,
        order_ticks=_both((orders[0].ticks, orders[1].ticks)),
        order_size=_both((orders[0].size, orders[1].size)),
        order_front=_both((orders[0].front, orders[1].front)),
        fill=_both((after.fills[0].lots, after.fills[1].lots)),
        fill_price=_both((after.fills[0].price, after.fills[1].price)),
        fill_mid=before.account.worth,
        accepted=_both(after.accepted),
    )


def _result(
    account: Account, quoted: Float[Array, "2"], seconds: Float[Array, ""], config: ReplayConfig, path: ReplayPath | None
) -> ReplayResult:
    pnl = account.cash + account.inventory * account.worth
    share = quoted / jnp.maximum(seconds, jnp.finfo(seconds.dtype).tiny)
    return ReplayResult(
        pnl=pnl,
        capture=account.capture,
        revaluation=account.revaluation,
        fees=account.fees,
        residual=pnl - (account.capture + account.revaluation - account.fees),
        inventory=account.inventory,
        max_inventory=account.most,
        max_drawdown=account.drawdown,
        bid_fills=account.lots[0],
        ask_fills=account.lots[1],
        n_bid_fills=account.n_fills[0],
        n_ask_fills=account.n_fills[1],
        n_bid_orders=account.n_orders[0],
        n_ask_orders=account.n_orders[1],
        bid_quoted=share[0],
        ask_quoted=share[1],
        rejected=account.rejected,
        path=path,
    )
