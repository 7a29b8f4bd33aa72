"""The golden model: the quote kernel in 32-bit integers, as the C++ and the RTL compute it, bit for bit.

The slow path turns a state into offsets in whole ticks for an even and an odd sum of best bid and best ask; the fast path adds
them to a book. No fraction is left on the fast path, so the split changes nothing.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from mfamm_jax.fpga_export.axes import SegmentedAxis, UniformAxis
from mfamm_jax.fpga_export.plan import PRICE_BITS, VPIN_BITS, KernelFormat

# Flags of a quote.
BID_ON, ASK_ON, SATURATED, COLLARED, CROSSED = 1, 2, 4, 8, 16


class State(eqx.Module):
    """Codes of a state.

    Args:
        inventory: [lots].
        time: Share of the table's horizon left, in 2^-16.
        risk: Place on the risk axis.
        skew: Half log ratio of the intensities, in steps of the format.
        vpin: In 2^-12.
    """

    inventory: Int[Array, "*b"]
    time: Int[Array, "*b"]
    risk: Int[Array, "*b"]
    skew: Int[Array, "*b"]
    vpin: Int[Array, "*b"]


class Book(eqx.Module):
    """Best prices [ticks]."""

    bid: Int[Array, "*b"]
    ask: Int[Array, "*b"]


class Registers(eqx.Module):
    """What a host may change while the kernel runs.

    Args:
        depth_min, depth_max: Limits of a depth, in the format `depth_limit`.
        vpin_gate: VPIN above which quotes widen [2^-12].
        vpin_widen: By how much, in the format `WIDEN`.
        vpin_stop: VPIN from which on nothing is quoted [2^-12]; 4096 = never.
        order_size: [lots].
        max_order_size: A larger `order_size` is not quoted [lots].
        inventory_limit: No quote whose fill would pass it [lots].
        price_low, price_high: Collar of quoted prices [ticks].
        saturated_stops: 1 = nothing is quoted on a state outside the table's domain.
    """

    depth_min: Int[Array, "*b"]
    depth_max: Int[Array, "*b"]
    vpin_gate: Int[Array, "*b"]
    vpin_widen: Int[Array, "*b"]
    vpin_stop: Int[Array, "*b"]
    order_size: Int[Array, "*b"]
    max_order_size: Int[Array, "*b"]
    inventory_limit: Int[Array, "*b"]
    price_low: Int[Array, "*b"]
    price_high: Int[Array, "*b"]
    saturated_stops: Int[Array, "*b"]


class Offsets(eqx.Module):
    """What the slow path hands to the fast one.

    Args:
        ask_even, ask_odd: Ask minus half the sum of the book's prices, rounded down, by the parity of the sum [ticks].
        bid_even, bid_odd: Same for bids.
        bid_size, ask_size: 0 = not quoted [lots].
        saturated: An input was outside its domain.
        ask_depth, bid_depth: Before rounding to ticks, in the format `depth_limit`.
    """

    ask_even: Int[Array, "*b"]
    ask_odd: Int[Array, "*b"]
    bid_even: Int[Array, "*b"]
    bid_odd: Int[Array, "*b"]
    bid_size: Int[Array, "*b"]
    ask_size: Int[Array, "*b"]
    saturated: Int[Array, "*b"]
    ask_depth: Int[Array, "*b"]
    bid_depth: Int[Array, "*b"]


class TickQuotes(eqx.Module):
    """Prices [ticks] and sizes [lots]; both 0 on a side that is not quoted. `flags`: bits of the constants above."""

    bid: Int[Array, "*b"]
    ask: Int[Array, "*b"]
    bid_size: Int[Array, "*b"]
    ask_size: Int[Array, "*b"]
    flags: Int[Array, "*b"]


def _rounded(x: Int[Array, "*b"], bits: int) -> Int[Array, "*b"]:
    """Half up."""
    return (x + ((1 << bits) >> 1)) >> bits


def clamp_state(form: KernelFormat, state: State) -> tuple[State, Int[Array, "*b"]]:
    """Inputs within their domains, and whether inventory, risk or skew was outside.

    Far from the close quotes do not depend on the time, so that a time beyond the table is no fault; it holds the last code.
    """
    top = form.skew_limit - (form.spec.skew is not None)
    inside = State(
        jnp.clip(state.inventory, -form.spec.max_inventory, form.spec.max_inventory),
        jnp.clip(state.time, 0, (1 << 16) - 1),
        jnp.clip(state.risk, 0, form.spec.risk.last_code),
        jnp.clip(state.skew, -form.skew_limit, top),
        jnp.clip(state.vpin, 0, (1 << VPIN_BITS) - 1),
    )
    differs = (inside.inventory != state.inventory) | (inside.risk != state.risk) | (inside.skew != state.skew)
    return inside, differs.astype(jnp.int32)


def _axis_codes(form: KernelFormat, state: State) -> list[tuple[SegmentedAxis | UniformAxis, Int[Array, "*b"]]]:
    spec = form.spec
    codes = {"time": state.time, "risk": state.risk, "skew": state.skew + form.skew_limit}
    return [(axis, codes[axis.name]) for axis in spec.axes]


def interpolate(form: KernelFormat, table: Int[Array, "inventory ..."], state: State) -> Int[Array, "*b channel"]:
    """Depths and derivatives with guard bits, linear along every axis, rounded half up after each."""
    where = [axis.locate(code) for axis, code in _axis_codes(form, state)]
    row = state.inventory + form.spec.max_inventory

    def corner(nodes: tuple) -> Int[Array, "*b channel"]:
        return table[(row, *nodes)]

    def along(axis: int, nodes: tuple) -> Int[Array, "*b channel"]:
        """Value at `nodes` of the later axes: the first axis is interpolated first, as the memory delivers it."""
        if axis < 0:
            return corner(nodes)
        node, place = where[axis]
        low, high = along(axis - 1, (node, *nodes)), along(axis - 1, (node + 1, *nodes))
        guard = form.guard_bits if axis == 0 else 0
        product = (high - low) * place[..., None]
        return (low << guard) + _rounded(product, form.spec.axes[axis].fraction_bits - guard)

    return along(len(where) - 1, ())


def depths_of(form: KernelFormat, table: Int[Array, "inventory ..."], state: State) -> Int[Array, "*b side"]:
    """(ask, bid) depths of a state inside the domains, skewed, in units of 2^-`form.fraction`."""
    value = interpolate(form, table, state)
    if form.slope is None:
        return value
    return value[..., :2] + _rounded(value[..., 2:] * state.skew[..., None], form.skew_shift)


def slow_path(form: KernelFormat, table: Int[Array, "inventory ..."], registers: Registers, state: State) -> Offsets:
    """Offsets of a state; `table` holds the channels (ask, bid[, ask slope, bid slope]) over (inventory, *axes)."""
    state, saturated = clamp_state(form, state)
    ask, bid = jnp.moveaxis(depths_of(form, table, state), -1, 0)
    excess = jnp.maximum(state.vpin - registers.vpin_gate, 0)
    widening = _rounded(excess * registers.vpin_widen, form.widen_shift)
    ask, bid = (jnp.clip(x + widening, registers.depth_min, registers.depth_max) for x in (ask, bid))

    bits = form.fraction
    all_below, half = (1 << bits) - 1, 1 << (bits - 1)
    size = jnp.where(registers.order_size <= registers.max_order_size, registers.order_size, 0)
    stopped = (state.vpin >= registers.vpin_stop) | ((saturated & registers.saturated_stops) == 1)
    size = jnp.where(stopped, 0, size)
    return Offsets(
        ask_even=(ask + all_below) >> bits,
        ask_odd=(ask + half + all_below) >> bits,
        bid_even=(-bid) >> bits,
        bid_odd=(half - bid) >> bits,
        bid_size=jnp.clip(registers.inventory_limit - state.inventory, 0, size),
        ask_size=jnp.clip(registers.inventory_limit + state.inventory, 0, size),
        saturated=saturated,
        ask_depth=ask,
        bid_depth=bid,
    )


def fast_path(registers: Registers, offsets: Offsets, book: Book) -> TickQuotes:
    """Quotes on a book: away from its mid by the offsets, never through its other side, inside the collar."""
    # A book without a side, or with prices beyond the range, is as bad as a crossed one.
    crossed = (book.bid >= book.ask) | (book.bid < 1) | (book.ask >= 1 << (PRICE_BITS - 1))
    best_bid, best_ask = jnp.where(crossed, 1, book.bid), jnp.where(crossed, 2, book.ask)
    total = best_bid + best_ask
    base, is_odd = total >> 1, (total & 1) == 1
    ask = jnp.maximum(base + jnp.where(is_odd, offsets.ask_odd, offsets.ask_even), best_bid + 1)
    bid = jnp.minimum(base + jnp.where(is_odd, offsets.bid_odd, offsets.bid_even), best_ask - 1)
    ask_wanted, bid_wanted = (~crossed & (size > 0) for size in (offsets.ask_size, offsets.bid_size))
    ask_inside, bid_inside = ((registers.price_low <= x) & (x <= registers.price_high) for x in (ask, bid))
    ask_on, bid_on = ask_wanted & ask_inside, bid_wanted & bid_inside
    collared = (ask_wanted & ~ask_inside) | (bid_wanted & ~bid_inside)
    flags = BID_ON * bid_on + ASK_ON * ask_on + SATURATED * offsets.saturated + COLLARED * collared + CROSSED * crossed
    return TickQuotes(
        bid=jnp.where(bid_on, bid, 0),
        ask=jnp.where(ask_on, ask, 0),
        bid_size=jnp.where(bid_on, offsets.bid_size, 0),
        ask_size=jnp.where(ask_on, offsets.ask_size, 0),
        flags=flags.astype(jnp.int32),
    )


def quote(
    form: KernelFormat, table: Int[Array, "inventory ..."], registers: Registers, state: State, book: Book
) -> tuple[TickQuotes, Offsets]:
    """Both paths."""
    offsets = slow_path(form, table, registers, state)
    return fast_path(registers, offsets, book), offsets


quote_many = jax.jit(quote, static_argnums=0)
