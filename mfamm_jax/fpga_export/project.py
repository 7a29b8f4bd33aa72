"""Everything a kernel project is made of, as text and arrays: the templates' context, tables by bank, and the manifest."""

import dataclasses
import hashlib
import itertools
import json
from typing import Any

import jax.numpy as jnp
import numpy as np

from mfamm_jax.fpga_export.axes import TIME_BITS, SegmentedAxis, UniformAxis
from mfamm_jax.fpga_export.kernel import Registers
from mfamm_jax.fpga_export.plan import (
    LANE_BITS,
    PRICE_BITS,
    SIZE_BITS,
    VPIN_BITS,
    WIDEN,
    KernelFormat,
    memory_words,
)
from mfamm_jax.fpga_export.quantize import ObservedError, QuantizedTable
from mfamm_jax.fpga_export.registers import ADDRESSES, IDENTITY, INTERFACE_VERSION, settings
from mfamm_jax.fpga_export.vectors import (
    BLOCK,
    INPUTS,
    N_SETS,
    OUTPUTS,
    SEED,
    Stimuli,
    block_digests,
    counted_stimuli,
    directed_stimuli,
    golden,
    n_node_vectors,
    register_sets,
)

SCHEMA = 1
N_SCENARIOS = 64
# The second page of the kernel's own test bench quotes this depth everywhere.
CONSTANT_DEPTH = 2.0
BLOB_MAGIC = b"MFMKTBL1"


@dataclasses.dataclass(frozen=True)
class KernelProject:
    """What is exported.

    Args:
        name: Of the top module; an identifier of C and Verilog.
        quantized: Table and widths.
        registers: Settings after reset.
        max_age: Cycles after which a state is too old.
        clock_ns: Period asked of the tools.
        part: Of the Xilinx scripts.
        table_mode: "ram" = two pages loaded by the host, "rom" = part of the bitstream.
        n_random: Random vectors of the digests.
        observed: Errors seen.
        facts: What else the manifest says (parameters, hash of the config).
    """

    name: str
    quantized: QuantizedTable
    registers: Registers
    max_age: int
    clock_ns: float
    part: str
    table_mode: str
    n_random: int
    observed: ObservedError
    facts: dict[str, Any]

    @property
    def form(self) -> KernelFormat:
        """Widths."""
        return self.quantized.form


def bank_words(form: KernelFormat, table: np.ndarray) -> np.ndarray:
    """(bank, address, channel) int32: each bank holds the nodes of one parity on every axis; unused places are 0."""
    words, n_banks = memory_words(form)
    axes = form.spec.axes
    found = np.zeros((n_banks, words, table.shape[-1]), np.int32)
    halves = [axis.index_bits - 1 for axis in axes]
    shape = (2 * form.spec.max_inventory + 1, *(1 << h for h in halves))
    for bank, parities in enumerate(bank_parities(len(axes))):
        target = np.zeros((*shape, table.shape[-1]), np.int32)
        source = table[(slice(None), *(slice(p, None, 2) for p in parities))]
        target[tuple(slice(0, n) for n in source.shape)] = source
        found[bank] = target.reshape(words, -1)
    return found


def bank_parities(n_axes: int) -> list[tuple[int, ...]]:
    """Parities of each bank, the first axis changing fastest."""
    return [tuple(reversed(p)) for p in itertools.product((0, 1), repeat=n_axes)]


def lanes(words: np.ndarray) -> np.ndarray:
    """Table numbers as 16-bit patterns."""
    return (words & 0xFFFF).astype(np.uint32)


def payload(words: np.ndarray) -> bytes:
    """32-bit little-endian words in the order of loading: banks, addresses, (ask, bid) depths and then derivatives."""
    halves = lanes(words)
    pairs = halves[..., 0::2] | (halves[..., 1::2] << LANE_BITS)
    return pairs.astype("<u4").tobytes()


def format_id(project: KernelProject) -> int:
    """First 32 bits of the hash of everything a table must agree with."""
    text = json.dumps(
        {"formats": describe_formats(project.form), "parameters": project.facts["parameters"]}, sort_keys=True
    )
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


def describe_axis(axis: SegmentedAxis | UniformAxis) -> dict[str, Any]:
    """For the manifest."""
    common = {"nodes": axis.n_nodes, "fraction_bits": axis.fraction_bits, "code_bits": axis.code_bits}
    if isinstance(axis, SegmentedAxis):
        return common | {
            "kind": "segmented",
            "octaves": axis.n_octaves,
            "intervals": 2**axis.log2_intervals,
            "unit": "share of the horizon x 2^16",
        }
    return common | {
        "kind": "uniform",
        "low": axis.low,
        "spacing": axis.spacing,
        "unit": f"(x - low) / spacing x 2^{axis.fraction_bits}",
    }


def describe_formats(form: KernelFormat) -> dict[str, Any]:
    """Widths and axes for the manifest; equal if and only if tables can be exchanged."""
    return {
        "depth": str(form.depth),
        "slope": None if form.slope is None else str(form.slope),
        "depth_behind_interpolation": str(form.depth_limit),
        "guard_bits": form.guard_bits,
        "inventory": {"bits": form.inventory.width, "limit": form.spec.max_inventory},
        "axes": {axis.name: describe_axis(axis) for axis in form.spec.axes},
        "skew": {"bits": form.skew.width, "limit": form.skew_limit, "step": form.skew_step},
        "vpin": f"u{VPIN_BITS} F{VPIN_BITS}",
        "price_bits": PRICE_BITS,
    }


def _levels(form: KernelFormat, sources: list[str], prefix: str, width: int) -> list[dict[str, Any]]:
    """Interpolations axis by axis: names of inputs and outputs; the banks' first axis is the first to go."""
    levels, names = [], sources
    for number, axis in enumerate(form.spec.axes):
        guard = form.guard_bits if number == 0 else 0
        items, after = [], []
        for i in range(0, len(names), 2):
            last = len(names) == 2
            out = f"{prefix}final" if last else f"{prefix}{axis.name}_{i // 2}"
            items.append({"even": names[i], "odd": names[i + 1], "out": out, "width": width})
            after.append(out)
        first = 5 + 3 * number
        levels.append(
            {
                "axis": axis,
                "guard": guard,
                "items": items,
                "delay": 3 + 3 * number,
                "stages": f"Stages {first} to {first + 2}",
            }
        )
        names, width = after, width + guard
    return levels


def context(project: KernelProject) -> dict[str, Any]:
    """Names of the templates."""
    form = project.form
    spec, axes = form.spec, form.spec.axes
    words, n_banks = memory_words(form)
    ram = project.table_mode == "ram"
    n_rows = 2 * spec.max_inventory + 1
    rows = n_rows * (2 if ram else 1)
    row_bits = (rows - 1).bit_length()
    low_bits = sum(axis.index_bits - 1 for axis in axes)
    channel_formats = [("ask", 0, form.depth), ("bid", 1, form.depth)]
    if form.slope is not None:
        channel_formats += [("ask_slope", 2, form.slope), ("bid_slope", 3, form.slope)]
    merged: list[dict[str, Any]] = []
    for name, channel, lane in channel_formats:
        low = LANE_BITS * channel
        sources = [f"word_{bank}[{low + lane.width - 1}:{low}]" for bank in range(n_banks)]
        for i, level in enumerate(_levels(form, sources, f"{name}_", lane.width)):
            if len(merged) <= i:
                merged.append(level | {"items": []})
            merged[i]["items"] += [
                item | {"even": _signed(item["even"]), "odd": _signed(item["odd"])} for item in level["items"]
            ]
    widest = max(lane.width for _, _, lane in channel_formats)
    cpp_levels = _levels(form, [f"word_{bank}" for bank in range(n_banks)], "", widest)
    depth = form.depth_limit
    value_width = form.depth.width + form.guard_bits
    settings_ = settings(form, project.registers, project.max_age)

    def bank_address(bank: tuple[int, ...]) -> str:
        terms, shift = [], low_bits
        for axis, odd in zip(axes, bank, strict=True):
            shift -= axis.index_bits - 1
            terms.append(f"{axis.name}_{'odd' if odd else 'even'}" + (f" * {1 << shift}" if shift else ""))
        return " + ".join([f"row * {1 << low_bits}", *terms])

    return {
        "top": project.name,
        "Q": spec.max_inventory,
        "QB": form.inventory.width,
        "AB": form.skew.width,
        "DW": depth.width,
        "OB": form.offset_bits,
        "SW": depth.width,
        "VW": value_width,
        "CW": widest,
        "TP": 0 if form.slope is None else form.slope.width + form.guard_bits + form.skew.width,
        "slope_width": 0 if form.slope is None else form.slope.width,
        "axes": axes,
        "time": spec.time,
        "risk": spec.risk,
        "skew": spec.skew,
        "skew_axis": spec.skew is not None,
        "time_bits": TIME_BITS,
        "vpin_bits": VPIN_BITS,
        "widen_bits": WIDEN.width,
        "widen_shift": form.widen_shift,
        "size_bits": SIZE_BITS,
        "price_bits": PRICE_BITS,
        "fraction": form.fraction,
        "skew_limit": form.skew_limit,
        "skew_high": form.skew_limit - (spec.skew is not None),
        "skew_shift": form.skew_shift,
        "slow_cycles": form.slow_cycles,
        "fast_cycles": form.fast_cycles,
        "sum_stage": form.slow_cycles - 2,
        "ram": ram,
        "n_rows": n_rows,
        "row_bits": row_bits,
        "row_only_bits": (n_rows - 1).bit_length(),
        "address_bits": row_bits + low_bits,
        "bank_index_bits": max(n_banks - 1, 1).bit_length(),
        "word_bits": LANE_BITS * form.n_channels,
        "words": words,
        "n_banks": n_banks,
        "n_channels": form.n_channels,
        "banks": bank_parities(len(axes)),
        "bank_address": bank_address,
        "levels": merged,
        "cpp_levels": cpp_levels,
        "settings": settings_,
        "register_names": [setting.name for setting in settings_ if setting.name != "max_age"],
        "n_registers": len(settings_) - 1,
        "address": {name: f"{row[0]:02X}" for name, row in ADDRESSES.items()},
        "identity": f"{IDENTITY:08X}",
        "interface_version": INTERFACE_VERSION,
        "format_id": f"{format_id(project):08X}",
        "words_per_entry": form.n_channels // 2,
        "n_load_words": words * n_banks * form.n_channels // 2,
        "n_outputs": len(OUTPUTS),
        "block": BLOCK,
        "n_sets": N_SETS,
        "seed": SEED,
        "n_node_vectors": n_node_vectors(form),
        "clock_ns": project.clock_ns,
        "clock_mhz": 1000.0 / project.clock_ns,
        "part": project.part,
    }


def _signed(name: str) -> str:
    """A slice of a memory word is unsigned in SystemVerilog."""
    return f"signed'({name})" if "[" in name else name


def hex_lines(rows: np.ndarray) -> str:
    """Lines of 32-bit words, the last word first, as $readmemh reads a concatenation."""
    return "".join("".join(f"{word:08x}" for word in row[::-1]) + "\n" for row in rows.tolist())


def bank_lines(words: np.ndarray) -> str:
    """Lines of one bank: the lanes of an entry, the last one first."""
    return "".join("".join(f"{lane:04x}" for lane in row[::-1]) + "\n" for row in lanes(words).tolist())


def golden_files(project: KernelProject) -> tuple[dict[str, str], dict[str, Any]]:
    """Vector files by path, and numbers that test benches need."""
    form, table = project.form, jnp.asarray(project.quantized.table)
    sets = register_sets(form, project.registers)
    stimuli = directed_stimuli(form)
    columns = np.stack([stimuli.register_set, *(stimuli.columns[name] for name in INPUTS)], axis=1)
    outputs = golden(form, table, sets, stimuli)
    found = block_digests(form, table, sets, project.n_random)
    registers = np.stack([np.asarray(getattr(sets, f.name)) for f in dataclasses.fields(Registers)], axis=1)
    files = {
        "vectors/in.mem": hex_lines(columns.view(np.uint32)),
        "vectors/out.mem": hex_lines(outputs),
        "vectors/digests.mem": hex_lines(found[:, None]),
        "vectors/registers.mem": hex_lines(registers.astype(np.int32).view(np.uint32)),
    }
    names = {"n_directed": len(stimuli), "n_blocks": len(found)}
    if project.table_mode == "ram":
        files |= {"vectors/scenario.mem": hex_lines(_scenarios(project, sets))}
    return files, names


def constant_table(form: KernelFormat) -> np.ndarray:
    """A page that quotes the same depth everywhere."""
    table = np.zeros((2 * form.spec.max_inventory + 1, *(a.n_nodes for a in form.spec.axes), form.n_channels), np.int32)
    table[..., :2] = int(CONSTANT_DEPTH * 2**form.depth.fraction)
    return table


def _scenarios(project: KernelProject, sets: Registers) -> np.ndarray:
    """For the kernel's own bench, under the project's registers: states, books, and quotes of (state i, first book) with both pages and
    of (first state, book i) with the first page."""
    form = project.form
    drawn = counted_stimuli(form, n_node_vectors(form), N_SCENARIOS)
    columns = dict(drawn.columns)
    # Books and states that do quote: nothing would be learned from sides that are off.
    columns["inventory"] = np.clip(columns["inventory"], 1 - form.spec.max_inventory, form.spec.max_inventory - 1)
    columns["ask"] = np.maximum(columns["ask"], columns["bid"] + 1)
    columns["vpin"] = np.minimum(columns["vpin"], max(int(project.registers.vpin_stop) - 1, 0))
    low, high = int(project.registers.price_low), int(project.registers.price_high)
    room = max(min(high, (1 << 30) - 1) - max(low, 1) - 400, 1)
    columns["bid"] = (max(low, 1) + 200 + columns["bid"] % room).astype(np.int32)
    columns["ask"] = (columns["bid"] + 1 + columns["ask"] % 7).astype(np.int32)
    first_set = np.zeros(N_SCENARIOS, np.int32)

    def outputs(table: np.ndarray, states: slice | list[int], books: slice | list[int]) -> np.ndarray:
        mixed = {name: x[states] for name, x in columns.items()} | {
            name: columns[name][books] for name in ("bid", "ask")
        }
        return golden(form, jnp.asarray(table), sets, Stimuli(mixed, first_set))[:, :4]

    every, first = slice(None), [0] * N_SCENARIOS
    table = project.quantized.table
    inputs = np.stack([columns[name] for name in INPUTS], axis=1).view(np.uint32)
    return np.concatenate(
        [
            inputs,
            outputs(table, every, first),
            outputs(constant_table(form), every, first),
            outputs(table, first, every),
        ],
        axis=1,
    )
