"""Fixed-point numbers: formats, the integer intervals they hold, and rounding that trains.

A number is an integer times a power of two. Nothing wraps and nothing saturates except where a kernel says so: intervals are carried
through every operation beforehand, and one that does not fit is refused by name.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# The emulator computes in int32 so that it runs without 64-bit integers, on any device.
MAX_BITS = 32
# One multiplier block: 18 x 18 on ECP5, 27 x 18 on DSP48E2.
MULTIPLIER_BITS = 18


@dataclasses.dataclass(frozen=True)
class FixedFormat:
    """`width` bits, `fraction` of them behind the binary point; two's complement if `signed`."""

    signed: bool
    width: int
    fraction: int

    def __post_init__(self) -> None:
        if not 1 <= self.width <= MAX_BITS or (self.signed and self.width < 2):
            raise ValueError(f"a width of {self.width} bits: expected 1 (signed: 2) to {MAX_BITS}")

    def __str__(self) -> str:
        return f"{'s' if self.signed else 'u'}{self.width} F{self.fraction}"

    @property
    def low(self) -> int:
        """Smallest integer."""
        return -(1 << (self.width - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """Largest integer."""
        return (1 << (self.width - self.signed)) - 1

    @property
    def step(self) -> float:
        """Value of the last bit."""
        return 2.0**-self.fraction

    def quantize(self, x: np.ndarray, name: str = "value") -> np.ndarray:
        """Nearest integers, ties up. What is not finite or does not fit raises ValueError naming the first index."""
        x = np.asarray(x, np.float64)
        scaled = np.floor(x / self.step + 0.5)
        for complaint, bad in (
            ("is not finite", ~np.isfinite(x)),
            (f"does not fit {self}", (scaled < self.low) | (scaled > self.high)),
        ):
            if bad.any():
                index = tuple(int(i) for i in np.argwhere(bad)[0])
                raise ValueError(f"{name}{list(index) if index else ''} = {x[index]:g} {complaint}")
        return np.asarray(scaled, np.int32)

    def real(self, integers: np.ndarray) -> np.ndarray:
        """Values of integers."""
        return np.asarray(np.asarray(integers, np.float64) * self.step)


def smallest_format(low: float, high: float, fraction: int) -> FixedFormat:
    """The narrowest signed format with this fraction that holds [low, high]; ValueError above 32 bits."""
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise ValueError(f"a range of [{low:g}, {high:g}]: expected two finite numbers in order")
    ends = np.floor(np.array([low, high]) * 2.0**fraction + 0.5)
    interval = Interval(f"[{low:g}, {high:g}] with {fraction} fraction bits", int(ends[0]), int(ends[1]), fraction)
    return FixedFormat(True, max(interval.bits, 2), fraction)


@dataclasses.dataclass(frozen=True)
class Interval:
    """Smallest and largest integer of an operation's result; `name` says which operation."""

    name: str
    low: int
    high: int
    fraction: int = 0

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"{self.name}: the interval [{self.low}, {self.high}] is empty")
        if self.bits > MAX_BITS:
            raise ValueError(
                f"{self.name}: the interval [{self.low}, {self.high}] needs {self.bits} bits, the kernel has {MAX_BITS}: use fewer fraction bits"
            )

    @property
    def bits(self) -> int:
        """Of the two's complement that holds both ends."""
        return max(self.high.bit_length(), (-self.low - 1).bit_length() if self.low < 0 else 0) + 1

    def _same_point(self, other: "Interval", name: str) -> None:
        if self.fraction != other.fraction:
            raise ValueError(f"{name}: {self.name} has {self.fraction} fraction bits, {other.name} {other.fraction}")

    def plus(self, other: "Interval", name: str) -> "Interval":
        """Sum."""
        self._same_point(other, name)
        return Interval(name, self.low + other.low, self.high + other.high, self.fraction)

    def minus(self, other: "Interval", name: str) -> "Interval":
        """Difference."""
        self._same_point(other, name)
        return Interval(name, self.low - other.high, self.high - other.low, self.fraction)

    def times(self, other: "Interval", name: str) -> "Interval":
        """Product; both factors must fit one multiplier block."""
        for factor in (self, other):
            if factor.bits > MULTIPLIER_BITS:
                raise ValueError(
                    f"{name}: {factor.name} has {factor.bits} bits, a multiplier {MULTIPLIER_BITS}: use fewer fraction bits"
                )
        ends = [a * b for a in (self.low, self.high) for b in (other.low, other.high)]
        return Interval(name, min(ends), max(ends), self.fraction + other.fraction)

    def raised(self, bits: int, name: str) -> "Interval":
        """The same values with more fraction bits."""
        return Interval(name, self.low << bits, self.high << bits, self.fraction + bits)

    def rounded(self, bits: int, name: str) -> "Interval":
        """Half up to fewer fraction bits; the half is added first, which must fit as well."""
        half = (1 << bits) >> 1
        Interval(f"{name}, with its half", self.low + half, self.high + half, self.fraction)
        return Interval(name, (self.low + half) >> bits, (self.high + half) >> bits, self.fraction - bits)

    def within(self, low: int, high: int, name: str) -> "Interval":
        """Clamped."""
        return Interval(name, min(max(self.low, low), high), max(min(self.high, high), low), self.fraction)


def quantize_straight_through(x: Float[Array, "*b"], form: FixedFormat) -> Float[Array, "*b"]:
    """Rounded half up and clipped to the format; the derivative is one inside its range and zero outside.

    For fitting: the kernel itself works on integers. Straight-through estimator, Bengio, Leonard & Courville 2013.
    """
    low, high = form.low * form.step, form.high * form.step
    inside = jnp.clip(x, low, high)
    rounded = jnp.clip(jnp.floor(x / form.step + 0.5), form.low, form.high) * form.step
    return inside + jax.lax.stop_gradient(rounded - inside)
