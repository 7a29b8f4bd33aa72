"""Golden vectors: explicit ones for ties and corners, and digests of every node and a million random states.

Test benches draw the same stimuli from a counter, so a project carries one digest for each block of vectors instead of the vectors.
A digest covers the numbers before rounding to ticks as well: wrong rounding changes the final prices too rarely to be seen.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mfamm_jax.fpga_export.axes import TIME_BITS
from mfamm_jax.fpga_export.kernel import Book, Registers, State, quote_many
from mfamm_jax.fpga_export.plan import PRICE_BITS, SIZE_BITS, VPIN_BITS, WIDEN, KernelFormat

BLOCK = 4096
N_SETS = 4
SEED = 0x5EED
INPUTS = ("inventory", "time", "risk", "skew", "vpin", "bid", "ask")
OUTPUTS = (
    *("bid", "ask", "sizes", "flags"),
    *("ask_even", "ask_odd", "bid_even", "bid_odd", "ask_depth", "bid_depth"),
)
CHUNK = 64 * BLOCK
COLLAR = 1 << 27, 1 << 28  # of the last register set


@dataclasses.dataclass(frozen=True)
class Stimuli:
    """Codes of states and books, int32, one column each.

    Args:
        columns: By the names of `INPUTS`.
        register_set: Which registers hold, one per vector.
    """

    columns: dict[str, np.ndarray]
    register_set: np.ndarray

    def __len__(self) -> int:
        return len(self.register_set)


def mix(x: np.ndarray) -> np.ndarray:
    """A 32-bit hash of a counter (uint32)."""
    x = x.astype(np.uint32)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x ^ (x >> np.uint32(16))


def n_node_vectors(form: KernelFormat) -> int:
    """One code below, at and above every node, at every inventory."""
    return 3 * (2 * form.spec.max_inventory + 1) * int(np.prod([axis.n_nodes for axis in form.spec.axes]))


def counted_stimuli(form: KernelFormat, first: int, n: int) -> Stimuli:
    """Vectors number `first` to `first + n`: the table's nodes first, then random ones."""
    spec = form.spec
    number = np.arange(first, first + n, dtype=np.int64)
    word = [mix((SEED + 16 * number + j).astype(np.uint32)).astype(np.int64) for j in range(7)]

    def signed(x, bits):
        return (x & ((1 << bits) - 1)) - ((x & (1 << (bits - 1))) << 1)

    columns = {
        "inventory": signed(word[0], form.inventory.width),
        # Shorter times are drawn more often: quotes change fastest there.
        "time": (word[1] & 0xFFFF) >> (word[1] >> 16 & 7),
        "risk": word[2] & ((1 << spec.risk.code_bits) - 1),
        "skew": signed(word[3], form.skew.width),
        "vpin": word[4] & ((1 << VPIN_BITS) - 1),
        "bid": 1 + (word[5] & ((1 << 29) - 1)),
    }
    columns["ask"] = np.maximum(columns["bid"] + (word[6] & 63) - 4, 1)
    is_node = number < n_node_vectors(form)
    left = number.copy()
    left, row = np.divmod(left, 2 * spec.max_inventory + 1)
    columns["inventory"] = np.where(is_node, row - spec.max_inventory, columns["inventory"])
    places = {}
    for axis in spec.axes:
        left, node = np.divmod(left, axis.n_nodes)
        places[axis.name] = axis.codes()[node]
    step = left % 3 - 1
    for name, code in places.items():
        top = (1 << TIME_BITS if name == "time" else 1 << getattr(spec, name).code_bits) - 1
        code = np.clip(code + step, 0, top)
        if name == "skew":
            code = np.clip(code - form.skew_limit, form.skew.low, form.skew.high)
        columns[name] = np.where(is_node, code, columns[name])
    return Stimuli({k: v.astype(np.int32) for k, v in columns.items()}, (number // BLOCK % N_SETS).astype(np.int32))


def directed_stimuli(form: KernelFormat) -> Stimuli:
    """Every limit and one beyond, parities of the book, crossed books, prices at both ends."""
    spec = form.spec
    top = form.skew_limit
    choices = {
        "inventory": [-spec.max_inventory - 1, -spec.max_inventory, 0, spec.max_inventory, spec.max_inventory + 1],
        "time": [0, 1, 1023, 1024, (1 << 15) - 1, 1 << 15, (1 << TIME_BITS) - 1],
        "risk": [0, 1, spec.risk.last_code, min(spec.risk.last_code + 1, (1 << spec.risk.code_bits) - 1)],
        "skew": [form.skew.low, -top - 1, -top, -1, 0, 1, top - 1, top, form.skew.high],
        "vpin": [0, 1, 2047, 2048, 2049, (1 << VPIN_BITS) - 1],
    }
    books = [
        (100, 101),
        (100, 102),
        (101, 102),
        (7, 7),
        (9, 8),
        (1, 2),
        (1, (1 << PRICE_BITS - 1) - 1),
        (0, 100),
        (100, (1 << PRICE_BITS) - 1),
        ((1 << 30) - 2, (1 << 30) - 1),
    ]
    rows = []
    middle = {"inventory": 0, "time": 20000, "risk": spec.risk.last_code // 2, "skew": 0, "vpin": 0}
    for number, (name, values) in enumerate(choices.items()):
        for value in values:
            for other in range(6):
                row = {key: some[(number + other * 3 + len(rows)) % len(some)] for key, some in choices.items()}
                row = (middle if other < 2 else row) | {name: value}
                rows.append([*row.values(), *books[(len(rows) + other) % len(books)]])
    # Books around the ends of the collar.
    for end in COLLAR:
        for step in range(-12, 13):
            rows.append([*middle.values(), end + step, end + step + 1 + (step & 1)])
    table = np.array(rows, np.int64)
    # Every register set meets every row.
    table, sets = np.tile(table, (N_SETS, 1)), np.repeat(np.arange(N_SETS), len(table))
    return Stimuli({name: table[:, i].astype(np.int32) for i, name in enumerate(INPUTS)}, sets.astype(np.int32))


def register_sets(form: KernelFormat, registers: Registers) -> Registers:
    """The project's registers, then sets that make every limit and guard act; some a host would not be allowed to write."""
    limit, one = form.depth_limit, 1 << form.fraction
    q, most = form.spec.max_inventory, (1 << SIZE_BITS) - 1
    low, high = 0, (1 << PRICE_BITS - 1) - 1
    others = [
        # min, max, gate, widen, stop, size, largest, inventory, collar, saturated
        (limit.low, limit.high, 0, WIDEN.high, 1 << VPIN_BITS, 1, 1, q, low, high, 0),
        (5 * one, 6 * one, 2048, WIDEN.high, 3686, 3, most, max(q - 1, 1), 0, high, 1),
        # Quotes through the mid: the guard against crossing acts.
        (limit.low, -2 * one, 1024, 1 << WIDEN.fraction, 1 << VPIN_BITS, most, most, q, *COLLAR, 0),
    ]
    columns = zip(*[[int(x) for x in jax.tree.leaves(registers)], *others], strict=True)
    return Registers(*(jnp.asarray(column, jnp.int32) for column in columns))


def golden(form: KernelFormat, table: jax.Array, sets: Registers, stimuli: Stimuli) -> np.ndarray:
    """(vector, output) of the JAX model as uint32, in the order of `OUTPUTS`."""
    parts = []
    for start in range(0, len(stimuli), CHUNK):
        some = slice(start, start + CHUNK)
        which = stimuli.register_set[some]
        chosen = jax.tree.map(lambda x, which=which: x[which], sets)
        columns = {name: jnp.asarray(x[some]) for name, x in stimuli.columns.items()}
        state = State(*(columns[name] for name in INPUTS[:5]))
        quotes, offsets = quote_many(form, table, chosen, state, Book(columns["bid"], columns["ask"]))
        found = {name: getattr(offsets, name) for name in OUTPUTS[4:]}
        found |= {"bid": quotes.bid, "ask": quotes.ask, "flags": quotes.flags}
        found["sizes"] = (quotes.bid_size << SIZE_BITS) | quotes.ask_size
        parts.append(np.stack([np.asarray(found[name]) for name in OUTPUTS], axis=1).view(np.uint32))
    return np.concatenate(parts)


def digests(outputs: np.ndarray) -> np.ndarray:
    """One hash (FNV-1a over 32-bit words) for each block of vectors."""
    blocks = outputs.reshape(-1, BLOCK * outputs.shape[1])
    found = np.full(len(blocks), 0x811C9DC5, np.uint32)
    for word in blocks.T:
        found = (found ^ word) * np.uint32(0x01000193)
    return found


def block_digests(form: KernelFormat, table: jax.Array, sets: Registers, n_random: int) -> np.ndarray:
    """Of all nodes and at least `n_random` random vectors."""
    n_blocks = -(-(n_node_vectors(form) + n_random) // BLOCK)
    per_chunk = CHUNK // BLOCK
    parts = []
    for first in range(0, n_blocks, per_chunk):
        n = min(per_chunk, n_blocks - first)
        parts.append(digests(golden(form, table, sets, counted_stimuli(form, first * BLOCK, n * BLOCK))))
    return np.concatenate(parts)
