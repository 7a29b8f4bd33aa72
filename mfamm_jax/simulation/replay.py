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

from mfamm_jax.policies.quotes import AbstractPolicy, Covariates
from mfamm_jax.simulation.account import Account, Fills, after_fills, marked, new_account, revalued, worth
from mfamm_jax.simulation.desk import Desk, decide, empty_desk
from mfamm_jax.simulation.execution import (
    TAKING_TICKS,
    Flags,
    Messages,
    Orders,
    ReplayConfig,
    Sizes,
    View,
    cut,
    is_shown,
    match_trade,
    move_up,
    opposite_touch,
    take,
)
from mfamm_jax.simulation.tape import Action, Moment, Tape

BID, ASK = 1, -1  # a bid fill raises inventory, an ask fill lowers it
SIDES = (BID, ASK)


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
        refused: Orders that it refused.
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
    refused: Bool[Array, "..."]


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
        bid_markouts, ask_markouts: Mean gain per lot against the mid at each of the tape's later moments.
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
    bid_markouts: Float[Array, " later"]
    ask_markouts: Float[Array, " later"]
    path: ReplayPath | None


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


class Exchange(NamedTuple):
    """Our orders (bid, ask) and the account."""

    orders: tuple[Orders, Orders]
    account: Account


class Outcome(NamedTuple):
    """What a step did to our orders (bid, ask); kept only in a recorded path."""

    fills: tuple[Fills, Fills]
    accepted: tuple[Flags, Flags]
    refused: tuple[Flags, Flags]


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
        start = (self._book(), self._exchange(), empty_desk(self.tape, self.config.n_levels), quoted)
        n_steps = self.tape.moment.action.shape[0]
        steps = (jnp.arange(1, n_steps + 1, dtype=jnp.int32), self.tape.moment)

        def advance(state: tuple, step: tuple) -> tuple[tuple, ReplayPath | None]:
            book, exchange, desk, quoted = state
            number, moment = step
            resting = jnp.stack([jnp.any(orders.size > 0) for orders in exchange.orders])
            quoted = quoted + jnp.where(resting, moment.seconds, 0.0)
            book = self._change_book(book, moment, number)
            messages = self._arriving(desk, moment)
            # The ladder is read here: an array that enters a branch may be copied at every step.
            views = self._views(book, exchange, messages, moment, number)
            branches = (
                lambda: self._trade(exchange, moment),
                lambda: self._levels(exchange, views, moment),
                lambda: self._arrive(exchange, messages, views, moment),
                lambda: (exchange, self._nothing()),
            )
            if record == "path":
                after, outcome = jax.lax.switch(moment.action, branches)
            else:
                after, outcome = jax.lax.switch(moment.action, [lambda b=b: b()[0] for b in branches]), None
            decides = moment.action == Action.DECIDE
            desk = jax.lax.cond(decides, lambda: self._decide(desk, exchange, moment.index), lambda: desk)
            path = None if outcome is None else _record(after, outcome, moment.mid)
            return (book, after, desk, quoted), path

        (_, end, _, quoted), path = jax.lax.scan(advance, start, steps)
        if path is not None:
            before = jnp.concatenate([path.mid[:1], path.mid[:-1]])
            path = eqx.tree_at(lambda p: p.fill_mid, path, before)
        return _result(end.account, quoted, jnp.sum(self.tape.moment.seconds), path)

    def _book(self) -> Ladder:
        size = self.tape.ladder
        whole = jnp.zeros(size.shape, jnp.int32)
        by_order = self.config.queue_model == "fifo"
        return Ladder(size, whole, jnp.zeros_like(size) if by_order else None, whole if by_order else None)

    def _exchange(self) -> Exchange:
        dtype, n = self.tape.moment.mid.dtype, self.config.n_levels
        zeros, ticks = jnp.zeros(n, dtype), jnp.zeros(n, jnp.int32)
        orders = Orders(ticks, zeros, zeros, zeros, zeros, ticks)
        mid = worth(self.config.contract, self.tape.moment.mid[0], self.tape.reference_price)
        return Exchange((orders, orders), new_account(mid, self.tape.moment.later_mid.shape[1]))

    def _nothing(self) -> Outcome:
        """No fills, no new orders."""
        zeros = jnp.zeros(self.config.n_levels, self.tape.moment.mid.dtype)
        fills, none = Fills(zeros, zeros), jnp.zeros(self.config.n_levels, bool)
        return Outcome((fills, fills), (none, none), (none, none))

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
                touch = opposite_touch(sign, moment)
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

    def _trade(self, exchange: Exchange, moment: Moment) -> tuple[Exchange, Outcome]:
        """An execution: it fills orders of ours that it passed or whose queue it emptied (Q-2)."""
        sides = [match_trade(self.config, s, o, moment) for s, o in zip(SIDES, exchange.orders)]
        after, outcome = self._settle(exchange, [o for o, _ in sides], [lots for _, lots in sides], moment)
        return after._replace(account=marked(after.account)), outcome

    def _levels(self, exchange: Exchange, views: list[View], moment: Moment) -> tuple[Exchange, Outcome]:
        """The book changes: queue positions (Q-3), and orders that the other side's best price has reached are filled."""
        orders, lots = [], []
        for sign, ours, view in zip(SIDES, exchange.orders, views):
            ours = move_up(self.config, sign, ours, view, moment)
            touch = opposite_touch(sign, moment)
            crossed = moment.is_trading & (sign * (ours.ticks - touch) >= 0)
            filled = jnp.where(crossed, ours.size, 0.0)
            orders.append(ours._replace(size=ours.size - filled))
            lots.append(filled)
        after, outcome = self._settle(exchange, orders, lots, moment)
        # Fills happen at the mid before the event, so that its move against us is inventory loss, not spread.
        account = marked(revalued(after.account, worth(self.config.contract, moment.mid, self.tape.reference_price)))
        return after._replace(account=account), outcome

    def _arrive(
        self, exchange: Exchange, messages: list[Messages], views: list[View], moment: Moment
    ) -> tuple[Exchange, Outcome]:
        """A decision's messages reach the exchange: old orders are cancelled, new ones queue up, take or are refused."""
        config, tape, index = self.config, self.tape, moment.index
        price = tape.reference_price + moment.mid
        has_book = (moment.best_bid > -(2**29)) | (moment.best_ask < 2**29)
        orders, all_fills, accepted, rejected = [], [], [], []
        for sign, old, message, view in zip(SIDES, exchange.orders, messages, views):
            replaces = message.replaces & ~tape.refused[index]
            size = jnp.where(replaces & has_book, message.size, 0.0)
            size = cut(config, sign, size, jnp.where(replaces, 0.0, old.size), exchange.account.inventory, price)
            touch = opposite_touch(sign, moment)
            crosses = (size > 0) & (sign * (message.ticks - touch) >= 0)
            refused = crosses & (jnp.asarray(config.post_only) | ~moment.is_trading)
            fills = Fills(jnp.zeros_like(size), jnp.zeros_like(size))
            if not config.post_only:
                taken, paid = take(config, sign, message.ticks, size, view, touch)
                takes = crosses & ~refused
                fills = Fills(jnp.where(takes, taken, 0.0), jnp.where(takes, paid, 0.0) * tape.tick_size)
            queue = jnp.where(view.inside & is_shown(sign, message.ticks, moment), view.quantity, jnp.inf)
            # What an order cannot take at once is cancelled: the recorded book would offer the same volume again.
            rests = jnp.where(crosses, 0.0, size)
            placed = jnp.broadcast_to(tape.arrival_event[index], message.ticks.shape)
            new = Orders(message.ticks, rests, queue, queue, jnp.zeros_like(queue), placed)
            orders.append(Orders(*(jnp.where(replaces, n, o) for n, o in zip(new, old))))
            all_fills.append(fills)
            accepted.append(replaces & (size > 0) & ~refused)
            rejected.append(replaces & (message.size > 0) & (refused | (size == 0)))
        account = exchange.account
        counts = [jnp.sum(a, dtype=jnp.int32) for a in accepted]
        account = account._replace(
            rejected=account.rejected + jnp.sum(jnp.stack(rejected), dtype=jnp.int32),
            n_orders=tuple(n + more for n, more in zip(account.n_orders, counts)),
        )
        if not config.post_only:
            account = marked(self._charged(account, all_fills, config.taker_fee, moment))
        return Exchange(tuple(orders), account), Outcome(tuple(all_fills), tuple(accepted), tuple(rejected))

    def _settle(
        self, exchange: Exchange, orders: list[Orders], lots: list[Sizes], moment: Moment
    ) -> tuple[Exchange, Outcome]:
        """Resting fills are paid at their own price."""
        fills = [Fills(n, o.ticks * self.tape.tick_size) for n, o in zip(lots, orders)]
        account = self._charged(exchange.account, fills, self.config.maker_fee, moment)
        return Exchange(tuple(orders), account), self._nothing()._replace(fills=tuple(fills))

    def _decide(self, desk: Desk, exchange: Exchange, index: Int[Array, ""]) -> Desk:
        account = exchange.account
        return decide(self.policy, self.tape, self.covariates, self.config, desk, exchange.orders, account, index)

    def _charged(self, account: Account, fills: list[Fills], rate: Float[Array, ""], moment: Moment) -> Account:
        rules, reference = self.config, self.tape.reference_price
        return after_fills(account, tuple(fills), rate, rules.fee_model, rules.contract, reference, moment.later_mid)


def _both(pair: tuple[Array, Array]) -> Array:
    """(bid, ask) as an axis; without the axis of levels when there is one."""
    stacked = jnp.stack(pair)
    return stacked[:, 0] if stacked.shape[1] == 1 else stacked


def _record(after: Exchange, outcome: Outcome, mid: Float[Array, ""]) -> ReplayPath:
    account, orders = after.account, after.orders
    return ReplayPath(
        inventory=account.inventory,
        value=account.cash + account.inventory * account.worth,
        mid=mid,
        order_ticks=_both((orders[0].ticks, orders[1].ticks)),
        order_size=_both((orders[0].size, orders[1].size)),
        order_front=_both((orders[0].front, orders[1].front)),
        fill=_both((outcome.fills[0].lots, outcome.fills[1].lots)),
        fill_price=_both((outcome.fills[0].price, outcome.fills[1].price)),
        fill_mid=mid,  # of the step before, once the scan is done
        accepted=_both(outcome.accepted),
        refused=_both(outcome.refused),
    )


def _positive(lots: Float[Array, ""]) -> Float[Array, ""]:
    """Without fills a mean over them is zero."""
    return jnp.where(lots > 0, lots, 1.0)


def _result(
    account: Account, quoted: Float[Array, "2"], seconds: Float[Array, ""], path: ReplayPath | None
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
        bid_markouts=account.marked_out[0] / _positive(account.lots[0]),
        ask_markouts=account.marked_out[1] / _positive(account.lots[1]),
        path=path,
    )
