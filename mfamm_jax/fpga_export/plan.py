"""Widths of every number in the kernel, from the ranges of its table and an error budget.

Intervals are carried through the same operations, in the same order, as `kernel.py`, the C++ and the RTL have them: the plan is the
proof that nothing in any of them can wrap.
"""

import dataclasses

import numpy as np

from mfamm_jax.fpga_export.formats import FixedFormat, Interval, smallest_format
from mfamm_jax.fpga_export.tables import TableSpec

LANE_BITS = 16  # a table number; two of them are one 32-bit word of the loader
VPIN_BITS = 12
PRICE_BITS = 31
WIDEN = FixedFormat(False, 12, 8)  # ticks per unit of VPIN
SKEW_FRACTION = 10
SIZE_BITS = 16
MOST_FRACTION = 12


@dataclasses.dataclass(frozen=True)
class KernelFormat:
    """Everything static about a kernel.

    Args:
        spec: Axes.
        depth: A table's depth [ticks].
        slope: A table's derivative in the skew [ticks]; None if the skew is an axis.
        guard_bits: Fraction bits that interpolation adds.
        operations: Interval of every operation, in order.
    """

    spec: TableSpec
    depth: FixedFormat
    slope: FixedFormat | None
    guard_bits: int
    operations: tuple[Interval, ...] = ()

    @property
    def fraction(self) -> int:
        """Fraction bits of a depth behind the interpolation [ticks]."""
        return self.depth.fraction + self.guard_bits

    @property
    def inventory(self) -> FixedFormat:
        """Input."""
        return FixedFormat(True, (self.spec.max_inventory + 1).bit_length() + 1, 0)

    @property
    def skew(self) -> FixedFormat:
        """Input, in multiples of `skew_step`."""
        return FixedFormat(True, self.skew_limit.bit_length() + 2, 0)

    @property
    def skew_step(self) -> float:
        """Skew of one code."""
        axis = self.spec.skew
        return 2.0**-SKEW_FRACTION if axis is None else axis.spacing / 2**axis.fraction_bits

    @property
    def skew_limit(self) -> int:
        """Largest code that is not clamped; with an axis, codes are clamped to one less above."""
        axis = self.spec.skew
        return (
            int(self.spec.max_skew / self.skew_step + 1e-9)
            if axis is None
            else ((axis.n_nodes - 1) << axis.fraction_bits) // 2
        )

    @property
    def n_channels(self) -> int:
        """Numbers of one table entry: ask and bid depth, ask and bid derivative."""
        return 2 if self.slope is None else 4

    @property
    def depth_limit(self) -> FixedFormat:
        """Of a depth behind the interpolation, skewed and widened as far as any register allows, and of its limits."""
        return FixedFormat(True, self.widest_depth.bits, self.fraction)

    @property
    def skew_shift(self) -> int:
        """From a derivative times a skew to a depth; 0 without derivatives."""
        return 0 if self.slope is None else self.slope.fraction + self.guard_bits + SKEW_FRACTION - self.fraction

    @property
    def widest_depth(self) -> Interval:
        """Before the limits: table, skew and widening at their ends."""
        low, high = self.depth.low << self.guard_bits, self.depth.high << self.guard_bits
        if self.slope is not None:
            largest = -(self.slope.low << self.guard_bits) * self.skew_limit
            shift = (largest + (1 << self.skew_shift >> 1)) >> self.skew_shift
            low, high = low - shift, high + shift
        widening = (((1 << VPIN_BITS) - 1) * WIDEN.high + (1 << self.widen_shift >> 1)) >> self.widen_shift
        return Interval("depth plus widening", low, high + widening, self.fraction)

    @property
    def offset_bits(self) -> int:
        """Of a distance in whole ticks."""
        return self.depth_limit.width - self.fraction + 2

    @property
    def widen_shift(self) -> int:
        """From VPIN times widening to a depth."""
        return VPIN_BITS + WIDEN.fraction - self.fraction

    @property
    def slow_cycles(self) -> int:
        """Stages from a state to offsets: decode, address, memory twice, three an axis, the correction, sum, clamp, ticks."""
        return 4 + 3 * len(self.spec.axes) + (self.slope is not None) + 3

    @property
    def fast_cycles(self) -> int:
        """Stages from a book to quotes."""
        return 3

    def arithmetic_bound(self) -> float:
        """Largest error [ticks] that rounding adds to exact interpolation of the unrounded table."""
        half = 0.5 * 2.0**-self.fraction
        bound = 0.5 * self.depth.step + half * len(self.spec.axes)
        if self.slope is not None:
            rounded = 0.5 * self.slope.step + 0.5 * 2.0 ** -(self.slope.fraction + self.guard_bits) * len(
                self.spec.axes
            )
            bound += self.spec.max_skew * rounded + half
        return bound


def choose_format(
    spec: TableSpec, depth: np.ndarray, slope: np.ndarray | None, arithmetic_budget: float, max_width: int = LANE_BITS
) -> KernelFormat:
    """The fewest fraction bits whose rounding stays within the budget [ticks]; ValueError naming what does not fit.

    Args:
        spec: Axes.
        depth: Node values [ticks].
        slope: Node values of the derivative [ticks], or None.
        arithmetic_budget: [ticks].
        max_width: Of a table's number.
    """
    for name, nodes in (("depth", depth), ("slope", slope)):
        if nodes is not None and not np.isfinite(nodes).all():
            raise ValueError(f"{name}{np.argwhere(~np.isfinite(nodes))[0].tolist()} is not finite")
    if not arithmetic_budget > 0:
        raise ValueError(f"arithmetic_budget is {arithmetic_budget:g}, expected > 0 [ticks]")
    if max_width > LANE_BITS:
        raise ValueError(f"max_width is {max_width}, expected at most {LANE_BITS}: two numbers make one 32-bit word")
    refused = ""
    for fraction in range(1, MOST_FRACTION + 1):
        form = smallest_format(float(depth.min()), float(depth.max()), fraction)
        if form.width > max_width:
            refused = f"a depth range of [{depth.min():g}, {depth.max():g}] ticks needs {form.width} bits with {fraction} fraction bits, max_width is {max_width}"
            break
        slope_form = None
        if slope is not None:
            # Skews are small, so a derivative's rounding counts little.
            slope_form = smallest_format(float(slope.min()), float(slope.max()), fraction + 1)
            if slope_form.width > max_width:
                refused = f"derivatives of up to {np.abs(slope).max():g} ticks need {slope_form.width} bits, max_width is {max_width}"
                break
        plan = KernelFormat(spec, form, slope_form, 1)
        if plan.arithmetic_bound() <= arithmetic_budget:
            return audit(plan, depth, slope)
        refused = f"{fraction} fraction bits round by up to {plan.arithmetic_bound():.3g} ticks"
    need = 1
    while 2.0**-need > arithmetic_budget:
        need += 1
    raise ValueError(
        f"no format keeps rounding within arithmetic_budget = {arithmetic_budget:g} ticks: {refused}; about {need} fraction bits would do: "
        "narrow the depths (inventory limit, risk axis) or raise the budget"
    )


def audit(plan: KernelFormat, depth: np.ndarray, slope: np.ndarray | None) -> KernelFormat:
    """The plan with the interval of every operation; ValueError naming the first that needs more than 32 bits."""
    spec, done = plan.spec, []

    def note(interval: Interval) -> Interval:
        done.append(interval)
        return interval

    def interpolated(table: Interval, name: str) -> Interval:
        value, guard = table, plan.guard_bits
        for axis in spec.axes:
            title = f"{name}, {axis.name}"
            difference = note(value.minus(value, f"{title}: difference"))
            place = Interval(f"{title}: place", 0, (1 << axis.fraction_bits) - 1, axis.fraction_bits)
            product = note(difference.times(place, f"{title}: product"))
            note(product.rounded(axis.fraction_bits - guard, f"{title}: rounded product"))
            # Between two numbers of an interval lie only numbers of that interval.
            value = note(value.raised(guard, f"{title}: value"))
            guard = 0
        return value

    form = plan.depth
    value = interpolated(Interval("depth", form.low, form.high, form.fraction), "depth")
    total = value
    if plan.slope is not None:
        slope_form = plan.slope
        tilt = interpolated(Interval("slope", slope_form.low, slope_form.high, slope_form.fraction), "slope")
        code = Interval("skew", -plan.skew_limit, plan.skew_limit, SKEW_FRACTION)
        product = note(tilt.times(code, "skew: product"))
        total = note(total.plus(note(product.rounded(plan.skew_shift, "skew: shift")), "depth plus skew"))
    excess = Interval("VPIN above its gate", 0, (1 << VPIN_BITS) - 1, VPIN_BITS)
    widening = note(excess.times(Interval("widening", 0, WIDEN.high, WIDEN.fraction), "widening: product"))
    if plan.widen_shift < 1:
        raise ValueError(f"widening: its product has fewer fraction bits than a depth's {plan.fraction}")
    total = note(total.plus(note(widening.rounded(plan.widen_shift, "widening: depth")), "depth plus widening"))
    widest = plan.widest_depth
    if not widest.low <= total.low <= total.high <= widest.high:
        raise ValueError(f"the widest depth, [{widest.low}, {widest.high}], does not hold [{total.low}, {total.high}]")
    limit = plan.depth_limit
    clamped = note(total.within(limit.low, limit.high, "clamped depth"))
    half = 1 << plan.fraction
    offset = note(Interval("half ticks up", clamped.low, clamped.high + half + half // 2, plan.fraction))
    price = Interval("price", 0, (1 << (PRICE_BITS - 1)) - 1)
    note(price.plus(price, "bid plus ask"))
    note(price.plus(offset.rounded(plan.fraction, "offset in ticks"), "quote"))
    return dataclasses.replace(plan, operations=tuple(done))


def memory_words(plan: KernelFormat) -> tuple[int, int]:
    """Words of a bank, and banks: one bank for each parity of each axis' node."""
    bits = sum(axis.index_bits - 1 for axis in plan.spec.axes)
    return (2 * plan.spec.max_inventory + 1) << bits, 1 << len(plan.spec.axes)
