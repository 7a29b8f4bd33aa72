"""The exchange's side of a replay: how one side's orders queue, fill and take, one step at a time.

A side has sign +1 (bid) or -1 (ask). Prices are ticks relative to the tape's reference, sizes of ours lots, sizes of the
market recorded units. Our orders never move the recorded book.

Source: docs/equations.md, Q-1 to Q-3 (queue).
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.simulation.account import Contract, FeeModel
from mfamm_jax.simulation.queue import QueueModel, front_after_change, lots_reached
from mfamm_jax.simulation.tape import Moment

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


class Orders(NamedTuple):
    """One side's resting orders.

    Args:
        ticks: Price.
        size: Remaining lots; 0 = none.
        front: Quantity before us in the queue [recorded units]; inf = the level was not visible.
        level: Quantity shown at our price; inf = not visible.
        traded: Executed at our price since the level last changed.
        placed: Event after which we took our place.
        decision: Decision that sent it.
    """

    ticks: Ticks
    size: Sizes
    front: Sizes
    level: Sizes
    traded: Sizes
    placed: Int[Array, " level"]
    decision: Int[Array, " level"]


class Messages(NamedTuple):
    """One side's messages on their way, one row for each slot: prices, sizes, and whether there is a message at all."""

    ticks: Int[Array, "slot level"]
    size: Float[Array, "slot level"]
    replaces: Bool[Array, "slot level"]


class View(NamedTuple):
    """What the ladder says at one side's prices: of its orders, or of the messages that arrive.

    Args:
        quantity: Shown [recorded units].
        changed: Whether this step changed it.
        inside: Whether the ladder reaches there.
        removed, placed: As in the ladder.
    """

    quantity: Sizes
    changed: Flags
    inside: Flags
    removed: Sizes | None
    placed: Int[Array, " level"] | None


def whole_lots(config: ReplayConfig, lots: Float[Array, "..."]) -> Float[Array, "..."]:
    """Rounded down to what can be ordered; two thirds of three lots are two lots."""
    return jnp.floor(lots / config.size_increment + 1e-6) * config.size_increment


def is_shown(sign: int, ticks: Ticks, moment: Moment) -> Flags:
    """Whether the book is shown as far as these prices."""
    return ticks >= moment.lowest_bid if sign > 0 else ticks <= moment.highest_ask


def opposite_touch(sign: int, moment: Moment) -> Int[Array, ""]:
    """Best price of the other side."""
    return moment.best_ask if sign > 0 else moment.best_bid


def match_trade(config: ReplayConfig, sign: int, orders: Orders, moment: Moment) -> tuple[Orders, Sizes]:
    """Orders after an execution that passed them or emptied their queue, and lots filled (Q-2)."""
    counts = moment.is_trading & (moment.aggressor == -sign) & (config.hidden_fills | ~moment.is_hidden)
    live = (orders.size > 0) & counts
    at = live & (moment.trade_ticks == orders.ticks)
    if config.queue_model == "fifo":
        # Executions of orders before us move us up when their level changes; those behind us say that our turn had come,
        # and add up until they reach us.
        behind = at & (moment.trade_placed > orders.placed)
        front = jnp.where(behind, jnp.minimum(orders.front, 0.0) - moment.trade_size, orders.front)
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
    # Whole increments are left, without the rounding error of the difference: it would rest as an order of nothing.
    left = jnp.round((orders.size - lots) / step) * step
    return orders._replace(size=left, front=front, traded=traded), lots


def move_up(config: ReplayConfig, sign: int, orders: Orders, view: View, moment: Moment) -> Orders:
    """Queue positions after the level changed; unchanged while it is out of sight."""
    quantity, shown = view.quantity, is_shown(sign, orders.ticks, moment)
    # A price that comes into sight tells as much as one that changes: all it shows, possibly nothing, stands before us.
    changed = view.changed | (shown & view.inside & jnp.isinf(orders.level))
    if view.removed is not None and view.placed is not None:
        ahead = view.placed <= orders.placed
        moved = jnp.clip(orders.front - jnp.where(ahead, jnp.maximum(view.removed, 0.0), 0.0), 0.0, quantity)
        moved = jnp.where(orders.front < 0, orders.front, moved)
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


def cut(
    config: ReplayConfig, sign: int, size: Sizes, kept: Sizes, inventory: Float[Array, ""], price: Float[Array, ""]
) -> Sizes:
    """New orders cut so that all of a side's orders together keep the inventory within its limits."""
    notional = config.max_notional / price if config.contract == "linear" else config.max_notional * price
    room = jnp.minimum(config.max_inventory, notional) - sign * inventory
    earlier = jnp.sum(kept) + jnp.cumsum(size) - size
    return jnp.maximum(whole_lots(config, jnp.minimum(size, room - earlier)), 0.0)


def take(
    config: ReplayConfig,
    sign: int,
    ticks: Ticks,
    size: Sizes,
    shown: Float[Array, " tick"] | None,
    touch: Int[Array, ""],
) -> tuple[Sizes, Sizes]:
    """Lots taken and their mean price [ticks]: all at the touch, or level by level of what is shown from the touch on."""
    if shown is None:
        return size, jnp.broadcast_to(touch, size.shape).astype(size.dtype)
    price = touch + sign * jnp.arange(TAKING_TICKS)
    reach = sign * (ticks[:, None] - price) >= 0
    offered = jnp.where(reach, whole_lots(config, shown / config.lot_size), 0.0)
    before = jnp.cumsum(offered, axis=1) - offered
    taken = jnp.clip(size[:, None] - before, 0.0, offered)
    total = jnp.sum(taken, axis=1)
    return total, jnp.sum(taken * price, axis=1) / jnp.where(total > 0, total, 1.0)
