"""One instrument of a replay: its tape, its exchange's rules, and what each kind of step does there.

The two sides are separate objects with sign +1 (bid) and -1 (ask), each with `n_levels` orders. Prices are ticks relative to
the tape's reference, sizes of ours lots, sizes of the market recorded units.

Source: docs/equations.md, Q-1 to Q-3 (queue), F-1 to F-3 (fees).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mfamm_jax.simulation.account import Account, Fills, after_fills, marked, new_account, revalued, worth
from mfamm_jax.simulation.desk import Desk
from mfamm_jax.simulation.execution import (
    TAKING_TICKS,
    Flags,
    Messages,
    Orders,
    ReplayConfig,
    Sizes,
    Ticks,
    View,
    cut,
    is_shown,
    match_trade,
    move_up,
    opposite_touch,
    take,
)
from mfamm_jax.simulation.tape import Moment, Tape

BID, ASK = 1, -1  # a bid fill raises inventory, an ask fill lowers it
SIDES = (BID, ASK)


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


class Venue(NamedTuple):
    """A tape and the rules of its exchange."""

    tape: Tape
    config: ReplayConfig

    def empty_book(self) -> Ladder:
        """The book at the start of the tape."""
        size = self.tape.ladder
        whole = jnp.zeros(size.shape, jnp.int32)
        by_order = self.config.queue_model == "fifo"
        return Ladder(size, whole, jnp.zeros_like(size) if by_order else None, whole if by_order else None)

    def empty_exchange(self) -> Exchange:
        """No orders, an empty account."""
        dtype, n = self.tape.moment.mid.dtype, self.config.n_levels
        zeros, ticks = jnp.zeros(n, dtype), jnp.zeros(n, jnp.int32)
        orders = Orders(ticks, zeros, zeros, zeros, zeros, ticks, ticks)
        mid = worth(self.config.contract, self.tape.moment.mid[0], self.tape.reference_price)
        return Exchange((orders, orders), new_account(mid, self.tape.moment.later_mid.shape[1]))

    def nothing(self) -> Outcome:
        """No fills, no new orders."""
        zeros = jnp.zeros(self.config.n_levels, self.tape.moment.mid.dtype)
        fills, none = Fills(zeros, zeros), jnp.zeros(self.config.n_levels, bool)
        return Outcome((fills, fills), (none, none), (none, none))

    def change_book(self, book: Ladder, moment: Moment, number: Int[Array, ""], n_changes: Int[Array, ""]) -> Ladder:
        """Applies the step's level changes; other steps have none."""
        tape = self.tape

        def window(array: Array) -> Array:
            return jax.lax.dynamic_slice(array, (moment.first_change,), (tape.width,))

        counts = jnp.arange(tape.width) < n_changes
        slot = jnp.where(counts, window(tape.change_slot), book.size.shape[0])

        def put(array: Array, values: Array) -> Array:
            return array.at[slot].set(values, mode="drop", unique_indices=True)

        return Ladder(
            size=put(book.size, window(tape.change_size)),
            changed_at=book.changed_at.at[slot].set(number, mode="drop", unique_indices=True),
            removed=None if book.removed is None else put(book.removed, window(tape.change_removed)),
            placed=None if book.placed is None else put(book.placed, window(tape.change_placed)),
        )

    def _view(self, sign: int, ticks: Ticks, book: Ladder, number: Int[Array, ""]) -> View:
        slot, inside = self._place(sign, ticks)
        return View(
            quantity=book.size[slot],
            changed=inside & (book.changed_at[slot] == number),
            inside=inside,
            removed=None if book.removed is None else book.removed[slot],
            placed=None if book.placed is None else book.placed[slot],
        )

    def _offered(self, sign: int, book: Ladder, moment: Moment) -> Float[Array, " tick"]:
        """Quantities of the other side from its best price on."""
        slot, inside = self._place(-sign, opposite_touch(sign, moment) + sign * jnp.arange(TAKING_TICKS))
        return jnp.where(inside, book.size[slot], 0.0)

    def _place(self, sign: int, ticks: Int[Array, "..."]) -> tuple[Int[Array, "..."], Bool[Array, "..."]]:
        """Slot of the ladder, and whether the ladder has it."""
        width = self.tape.ladder.shape[0] // 2
        offset = ticks - self.tape.base
        inside = (offset >= 0) & (offset < width)
        return jnp.clip(offset, 0, width - 1) + (0 if sign > 0 else width), inside

    def trade(self, exchange: Exchange, moment: Moment) -> tuple[Exchange, Outcome]:
        """An execution: it fills orders of ours that it passed or whose queue it emptied (Q-2)."""
        sides = [match_trade(self.config, s, o, moment) for s, o in zip(SIDES, exchange.orders)]
        after, outcome = self._settle(exchange, [o for o, _ in sides], [lots for _, lots in sides], moment)
        return after._replace(account=marked(after.account)), outcome

    def levels(
        self, exchange: Exchange, book: Ladder, moment: Moment, number: Int[Array, ""]
    ) -> tuple[Exchange, Outcome]:
        """The book changes: queue positions (Q-3), and orders that the other side's best price has reached are filled."""
        orders, lots = [], []
        for sign, ours in zip(SIDES, exchange.orders):
            view = self._view(sign, ours.ticks, book, number)
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

    def arrive(
        self, exchange: Exchange, desk: Desk, book: Ladder, moment: Moment, number: Int[Array, ""]
    ) -> tuple[Exchange, Outcome]:
        """A decision's messages reach the exchange: old orders are cancelled, new ones queue up, take or are refused."""
        config, tape, index = self.config, self.tape, moment.index
        price = tape.reference_price + moment.mid
        has_book = (moment.best_bid > -(2**29)) | (moment.best_ask < 2**29)
        orders, all_fills, accepted, rejected = [], [], [], []
        row = index % tape.n_pending
        for sign, old, pending in zip(SIDES, exchange.orders, desk.pending):
            message = Messages(*(x[row] for x in pending))
            view = self._view(sign, message.ticks, book, number)
            replaces = message.replaces & ~tape.refused[index]
            size = jnp.where(replaces & has_book, message.size, 0.0)
            size = cut(config, sign, size, jnp.where(replaces, 0.0, old.size), exchange.account.inventory, price)
            touch = opposite_touch(sign, moment)
            crosses = (size > 0) & (sign * (message.ticks - touch) >= 0)
            refused = crosses & (jnp.asarray(config.post_only) | ~moment.is_trading)
            fills = Fills(jnp.zeros_like(size), jnp.zeros_like(size))
            if not config.post_only:
                offered = self._offered(sign, book, moment) if config.partial_fills else None
                taken, paid = take(config, sign, message.ticks, size, offered, touch)
                takes = crosses & ~refused
                fills = Fills(jnp.where(takes, taken, 0.0), jnp.where(takes, paid, 0.0) * tape.tick_size)
            queue = jnp.where(view.inside & is_shown(sign, message.ticks, moment), view.quantity, jnp.inf)
            # What an order cannot take at once is cancelled: the recorded book would offer the same volume again.
            rests = jnp.where(crosses, 0.0, size)
            placed, decision = (jnp.broadcast_to(x, message.ticks.shape) for x in (tape.arrival_event[index], index))
            new = Orders(message.ticks, rests, queue, queue, jnp.zeros_like(queue), placed, decision)
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
        return Exchange(tuple(orders), account), self.nothing()._replace(fills=tuple(fills))

    def _charged(self, account: Account, fills: list[Fills], rate: Float[Array, ""], moment: Moment) -> Account:
        rules, reference = self.config, self.tape.reference_price
        return after_fills(account, tuple(fills), rate, rules.fee_model, rules.contract, reference, moment.later_mid)
