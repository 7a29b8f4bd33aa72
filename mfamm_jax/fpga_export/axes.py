r"""Axes of the table as hardware reads them: a code's leading bits name the node, the bits behind them the place between two nodes.

Time is segmented by its leading one: equal intervals up to $2^b$, then as many intervals in every octave, because quotes change fastest
just before the close. With 8 intervals an octave, 57 nodes are as good as some 500 equal ones.
Source: hierarchical segmentation of functions in hardware, IEEE TVLSI 2009, doi 10.1109/TVLSI.2008.2003165.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

TIME_BITS = 16


@dataclasses.dataclass(frozen=True)
class SegmentedAxis:
    """Codes 0..2^16-1; the first segment and every octave after it have 2^`log2_intervals` intervals.

    Args:
        n_octaves: Octaves after the first segment.
        log2_intervals: Intervals a segment, as a power of two.
    """

    n_octaves: int
    log2_intervals: int
    name: str = "time"

    def __post_init__(self) -> None:
        if self.n_octaves < 1 or self.log2_intervals < 1 or self.base_bits <= self.log2_intervals:
            raise ValueError(
                f"{self.n_octaves} octaves of {2**self.log2_intervals} intervals: expected at least 1 octave of 2 intervals, and at "
                f"most {TIME_BITS - 1} bits for both, have {self.n_octaves + self.log2_intervals}"
            )

    @property
    def base_bits(self) -> int:
        """The first segment holds 2^`base_bits` codes."""
        return TIME_BITS - self.n_octaves

    @property
    def code_bits(self) -> int:
        """Of the input."""
        return TIME_BITS

    @property
    def n_nodes(self) -> int:
        """The last one is the code 2^16, which no input reaches."""
        return (self.n_octaves + 1) * 2**self.log2_intervals + 1

    @property
    def fraction_bits(self) -> int:
        """Of the place between two nodes: as many as the widest interval has codes."""
        return TIME_BITS - 1 - self.log2_intervals

    @property
    def index_bits(self) -> int:
        """Of a node's number, the last one included."""
        return (self.n_nodes - 1).bit_length()

    @property
    def last_code(self) -> int:
        """Largest input."""
        return (1 << TIME_BITS) - 1

    def codes(self) -> np.ndarray:
        """Codes of the nodes."""
        n = 2**self.log2_intervals
        first = np.arange(n) << (self.base_bits - self.log2_intervals)
        octaves = [(n + np.arange(n)) << (self.base_bits + o - self.log2_intervals) for o in range(self.n_octaves)]
        return np.concatenate([first, *octaves, [1 << TIME_BITS]])

    def locate(self, code: Int[Array, "*b"]) -> tuple[Int[Array, "*b"], Int[Array, "*b"]]:
        """Lower node and the place above it in units of 2^-`fraction_bits`."""
        octave = jnp.zeros_like(code)
        for o in range(self.n_octaves):
            octave = octave + (code >= (1 << (self.base_bits + o))).astype(code.dtype)
        # Without its leading one an octave's code is shifted as the segment before it.
        shift = self.base_bits - self.log2_intervals + jnp.maximum(octave - 1, 0)
        inner = jnp.where(octave > 0, code - (1 << self.base_bits - 1 << octave), code)
        node = (octave << self.log2_intervals) + jax.lax.shift_right_arithmetic(inner, shift)
        place = inner & ((1 << shift) - 1)
        return node, place << (self.fraction_bits - shift)


@dataclasses.dataclass(frozen=True)
class UniformAxis:
    """Equally spaced nodes `low + i * spacing` of a real quantity; codes count 2^-`fraction_bits` of a spacing from the first node.

    The last code lies just below the last node, so that every code has a node above it.
    """

    n_nodes: int
    low: float
    spacing: float
    fraction_bits: int
    name: str

    def __post_init__(self) -> None:
        if self.n_nodes < 2:
            raise ValueError(f"{self.name}: {self.n_nodes} nodes, expected at least 2")
        if not (np.isfinite(self.low) and np.isfinite(self.spacing) and self.spacing > 0):
            raise ValueError(f"{self.name}: nodes from {self.low:g} in steps of {self.spacing:g} do not increase")
        if not 2 <= self.fraction_bits <= 12:
            raise ValueError(f"{self.name}: {self.fraction_bits} fraction bits, expected 2 to 12")

    @property
    def index_bits(self) -> int:
        """Of a node's number; two nodes still have a bit besides their parity."""
        return max((self.n_nodes - 1).bit_length(), 2)

    @property
    def code_bits(self) -> int:
        """Of the input."""
        return self.index_bits + self.fraction_bits

    @property
    def last_code(self) -> int:
        """Largest input that is not clamped."""
        return ((self.n_nodes - 1) << self.fraction_bits) - 1

    def codes(self) -> np.ndarray:
        """Codes of the nodes."""
        return np.arange(self.n_nodes) << self.fraction_bits

    def nodes(self) -> np.ndarray:
        """Real values of the nodes."""
        return self.low + self.spacing * np.arange(self.n_nodes)

    def locate(self, code: Int[Array, "*b"]) -> tuple[Int[Array, "*b"], Int[Array, "*b"]]:
        """Lower node and the place above it in units of 2^-`fraction_bits`."""
        return code >> self.fraction_bits, code & ((1 << self.fraction_bits) - 1)


def cell_samples(axis: SegmentedAxis | UniformAxis, per_cell: int) -> np.ndarray:
    """Codes of `per_cell` equally spaced points of every cell and of the last node: where a table is fitted and judged."""
    codes = axis.codes()
    inner = codes[:-1, None] + np.diff(codes)[:, None] * np.arange(per_cell) / per_cell
    if (inner != np.round(inner)).any():
        raise ValueError(
            f"{axis.name}: the smallest cell has {np.diff(codes).min()} codes, too few for {per_cell} points"
        )
    return np.append(inner.ravel(), codes[-1]).astype(int)


def hat_weights(codes: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """(code, node) weights of linear interpolation."""
    below = np.clip(np.searchsorted(nodes, codes, side="right") - 1, 0, len(nodes) - 2)
    share = (codes - nodes[below]) / (nodes[below + 1] - nodes[below])
    weights = np.zeros((len(codes), len(nodes)))
    rows = np.arange(len(codes))
    weights[rows, below], weights[rows, below + 1] = 1 - share, share
    return weights
