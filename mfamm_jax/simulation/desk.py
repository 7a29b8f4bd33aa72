"""Our side of a replay: what the policy wants, what is kept, and the messages on their way."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mfamm_jax.market.ladder import NO_ASK
from mfamm_jax.policies.quotes import Covariates, MarketState, Quotes
from mfamm_jax.simulation.account import Account
from mfamm_jax.simulation.execution import Messages, Orders, ReplayConfig, Sizes, Ticks, whole_lots
from mfamm_jax.simulation.tape import Tape


class Sent(NamedTuple):
    """What one side sent last: prices, sizes, and the decision that sent it."""

    ticks: Ticks
    size: Sizes
    at: Int[Array, " level"]


class Desk(NamedTuple):
    """What was sent and what is on its way, for (bid, ask)."""

    sent: tuple[Sent, Sent]
    pending: tuple[Messages, Messages]


def empty_desk(tape: Tape, n_levels: int) -> Desk:
    """Nothing sent yet."""
    dtype, slots = tape.moment.mid.dtype, tape.n_pending
    ticks = jnp.zeros(n_levels, jnp.int32)
    sent = Sent(ticks, jnp.zeros(n_levels, dtype), ticks - 1)
    shape = (slots, n_levels)
    messages = Messages(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, dtype), jnp.zeros(shape, bool))
    return Desk((sent, sent), (messages, messages))


def market_state(tape: Tape, covariates: Covariates, account: Account, index: Int[Array, ""]) -> MarketState:
    """What a decision sees."""
    now = jax.tree.map(lambda x: x[index], covariates)
    return MarketState(tape.decision_mid[index], account.inventory, account.cash, tape.time_left[index], now)


def send(
    tape: Tape,
    config: ReplayConfig,
    desk: Desk,
    orders: tuple[Orders, Orders],
    quotes: Quotes,
    index: Int[Array, ""],
) -> Desk:
    """What a decision sends, given its quotes and what is known of our own orders at this moment."""
    wanted = _wanted(tape, config, quotes, index)
    slot = index % tape.n_pending
    all_sent, all_pending = [], []
    for (ticks, size), resting, sent, pending in zip(wanted, orders, desk.sent, desk.pending):
        last = jnp.maximum(sent.at, 0)
        in_flight = (sent.at >= 0) & (tape.answered[last] > index)
        remaining = jnp.where(in_flight, sent.size, resting.size)
        price = jnp.where(in_flight, sent.ticks, resting.ticks)
        if config.n_levels > 1:
            match = _matched(ticks, size, price, remaining, config.refresh_ticks)
            ticks, size = ticks[match], size[match]
        # Ages are differences of rounded times: an order of exactly the highest age is replaced.
        rounding = 2 * jnp.finfo(tape.time_left.dtype).eps * tape.time_left[0]
        age = tape.time_left[jnp.where(in_flight, last, resting.decision)] - tape.time_left[index] + rounding
        near = jnp.abs(ticks - price) < config.refresh_ticks
        keeps = (remaining > 0) & (remaining <= size) & near & (age < config.max_age)
        replaces = ~(keeps | ((remaining == 0) & (size == 0)))
        message = Messages(ticks, size, replaces)
        all_pending.append(Messages(*(old.at[slot].set(new) for old, new in zip(pending, message))))
        new = Sent(ticks, size, jnp.broadcast_to(index, ticks.shape))
        all_sent.append(Sent(*(jnp.where(replaces, n, o) for n, o in zip(new, sent))))
    return Desk(tuple(all_sent), tuple(all_pending))


def _wanted(tape: Tape, config: ReplayConfig, quotes: Quotes, index: Int[Array, ""]) -> list[tuple[Ticks, Sizes]]:
    """Prices and whole lots of the quotes, best level first, for (bid, ask)."""
    mid = tape.decision_mid[index]
    # A price within a millionth of a tick of the grid is on it: rounding error must not cost a whole tick.
    slack = 1e-6 if mid.dtype == jnp.float64 else 1e-3
    wanted = []
    for sign, depth, size in ((1, quotes.bid_depth, quotes.bid_size), (-1, quotes.ask_depth, quotes.ask_size)):
        best = (mid - sign * depth) / tape.tick_size
        price = best - sign * config.level_ticks * jnp.arange(config.n_levels)
        quotable = jnp.isfinite(price) & (jnp.abs(price) < 1e9) & tape.sees_market[index] & (size > 0)
        if config.rounding == "nearest":  # halves go away from the mid, wherever the reference lies
            whole = jnp.ceil(price - 0.5 - slack) if sign > 0 else jnp.floor(price + 0.5 + slack)
        else:
            whole = jnp.floor(price + slack) if sign > 0 else jnp.ceil(price - slack)
        ticks = jnp.where(quotable, whole, 0.0).astype(jnp.int32)
        if not config.improves_touch:  # the whole grid moves back
            touch = tape.decision_bid[index] if sign > 0 else tape.decision_ask[index]
            ticks = ticks - sign * jnp.maximum(sign * (ticks[0] - touch), 0)
            quotable = quotable & (jnp.abs(touch) < NO_ASK)  # an empty side has no best price to join
        wanted.append((ticks, jnp.where(quotable, whole_lots(config, size), 0.0)))
    return wanted


def _matched(
    ticks: Ticks, size: Sizes, resting: Ticks, remaining: Sizes, refresh: Float[Array, ""]
) -> Int[Array, " level"]:
    """Which wanted level each order slot takes: the nearest it can keep, so that a moving grid keeps its places."""
    n = ticks.shape[0]
    distance = jnp.abs(ticks[:, None] - resting)
    near = (distance < refresh) & (remaining > 0) & (size[:, None] > 0)
    slot_of, free = [], jnp.ones(n, bool)
    for level in range(n):
        candidates = near[level] & free
        slot = jnp.where(jnp.any(candidates), jnp.argmin(jnp.where(candidates, distance[level], 2**31 - 1)), n)
        free = free & (jnp.arange(n) != slot)
        slot_of.append(slot)
    slots = jnp.stack(slot_of)
    # Levels without an order take the free slots in turn.
    free_slots = jnp.argsort(~free, stable=True)
    rank = jnp.cumsum(slots == n) - 1
    slots = jnp.where(slots == n, free_slots[jnp.maximum(rank, 0)], slots)
    return jnp.zeros(n, jnp.int32).at[slots].set(jnp.arange(n, dtype=jnp.int32))
