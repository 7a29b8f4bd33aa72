"""Writes a kernel project: byte for byte the same from the same project, complete or not at all."""

import hashlib
import json
import os
import re
import shutil
import struct
import tempfile
import zlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from mfamm_jax.fpga_export.plan import memory_words
from mfamm_jax.fpga_export.project import (
    BLOB_MAGIC,
    N_SCENARIOS,
    SCHEMA,
    KernelProject,
    bank_lines,
    bank_words,
    constant_table,
    context,
    describe_formats,
    format_id,
    golden_files,
    lanes,
    payload,
)
from mfamm_jax.fpga_export.registers import ADDRESSES
from mfamm_jax.fpga_export.vectors import BLOCK, N_SETS, SEED, n_node_vectors

TEMPLATES = Path(__file__).parent / "templates"
MANIFEST = "manifest.json"
# Block RAMs of 36 kbit; "generic" = no limit known.
PARTS = {
    "xcu250-figd2104-2l-e": 2688,
    "xcu50-fsvh2104-2-e": 1344,
    "xcvu9p-flga2104-2l-e": 2160,
    "xczu7ev-ffvc1156-2-e": 312,
    "xc7a100t-csg324-1": 135,
    "xc7z020-clg484-1": 140,
    "generic": None,
}
# Of SystemVerilog (IEEE 1800) and C++.
RESERVED = frozenset(
    """
    accept_on alias alignas alignof always always_comb always_ff always_latch and and_eq asm assert assign assume
    auto automatic before begin bind bins binsof bit bitand bitor bool break buf bufif0 bufif1 byte case casex casez
    catch cell chandle char char16_t char32_t checker class clocking cmos compl concept config const const_cast
    constexpr constraint context continue cover covergroup coverpoint cross deassign decltype default defparam
    delete design disable dist do double dynamic_cast edge else end endcase endchecker endclass endclocking
    endconfig endfunction endgenerate endgroup endinterface endmodule endpackage endprimitive endprogram endproperty
    endsequence endspecify endtable endtask enum event eventually expect explicit export extends extern false final
    first_match float for force foreach forever fork forkjoin friend function generate genvar global goto highz0
    highz1 if iff ifnone ignore_bins illegal_bins implements implies import incdir include initial inline inout
    input inside instance int int32_t integer interconnect interface intersect join join_any join_none large let
    liblist library local localparam logic long longint macromodule main matches medium modport module mutable
    namespace nand negedge nettype new nexttime nmos noexcept nor noshowcancelled not not_eq notif0 notif1 null
    nullptr operator or or_eq output package packed parameter pmos posedge primitive priority private program
    property protected public pull0 pull1 pulldown pullup pulsestyle_ondetect pulsestyle_onevent pure rand randc
    randcase randsequence rcmos real realtime ref reg register reinterpret_cast reject_on release repeat requires
    restrict return rnmos rpmos rtran rtranif0 rtranif1 s_always s_eventually s_nexttime s_until s_until_with
    scalared sequence short shortint shortreal showcancelled signed sizeof small soft solve specify specparam static
    static_assert static_cast std string strong strong0 strong1 struct super supply0 supply1 switch sync_accept_on
    sync_reject_on table tagged task template this thread_local throw throughout time timeprecision timeunit tran
    tranif0 tranif1 tri tri0 tri1 triand trior trireg true try type typedef typeid typename uint32_t union unique
    unique0 unsigned until until_with untyped use using uwire var vectored virtual void volatile wait wait_order
    wand wchar_t weak weak0 weak1 while wildcard wire with within wor xnor xor xor_eq
    """.split()  # noqa: SIM905
)
ROM_FILES = ("rtl/quote_loader.sv",)


def check_settings(name: str, part: str, table_mode: str, clock_ns: float, max_age: int) -> None:
    """ValueError naming a setting that cannot be built; needs no table."""
    taken = name in RESERVED or "__" in name or (name.startswith("quote_") and name != "quote_kernel")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or taken:
        raise ValueError(
            f'top is "{name}", expected an identifier of C++ and SystemVerilog that is no keyword and does not start with "quote_", as the '
            'project\'s own modules do ("quote_kernel" is free)'
        )
    if part not in PARTS:
        raise ValueError(f'part is "{part}"; known parts: {", ".join(PARTS)}; "generic" for any other')
    if table_mode not in ("ram", "rom"):
        raise ValueError(f'table_mode is "{table_mode}", expected "ram" or "rom"')
    if not clock_ns > 0:
        raise ValueError(f"clock_ns is {clock_ns:g}, expected > 0")
    if not 0 < max_age < 1 << 32:
        raise ValueError(f"max_age is {max_age} cycles of {clock_ns:g} ns, expected 1 to {(1 << 32) - 1}")


def check_project(project: KernelProject) -> list[str]:
    """Warnings; ValueError for what cannot be built."""
    check_settings(project.name, project.part, project.table_mode, project.clock_ns, project.max_age)
    warnings = []
    estimate, available = block_rams(project), PARTS[project.part]
    if available is not None and estimate > available:
        raise ValueError(
            f"the table needs about {estimate} block RAMs, {project.part} has {available}: use fewer nodes or inventories"
        )
    if available is not None and estimate > 0.8 * available:
        warnings.append(f"the table takes about {estimate} of the {available} block RAMs of {project.part}")
    if project.clock_ns < 6.0:
        warnings.append(
            f"a clock of {project.clock_ns:g} ns: only ECP5 timing, about 6 ns, has been measured; whether this part meets it is unknown"
        )
    if project.quantized.shrunk_from is not None:
        warnings.append(
            f"the largest skew was lowered from {project.quantized.shrunk_from:g} to {project.form.spec.max_skew:g} to keep the error budget"
        )
    if project.quantized.monotonicity_violations:
        warnings.append(
            f"{project.quantized.monotonicity_violations} neighbouring inventories have quotes in the wrong order"
        )
    share = share_at_limits(project)
    if share > 0.05:
        warnings.append(f"{share:.0%} of the table's depths lie outside depth_min and depth_max")
    return warnings


def share_at_limits(project: KernelProject) -> float:
    """Share of the table's depths that the limits change."""
    depth = project.quantized.table[..., :2].astype(np.int64) << project.form.guard_bits
    return float(np.mean((depth < int(project.registers.depth_min)) | (depth > int(project.registers.depth_max))))


def block_rams(project: KernelProject) -> int:
    """Xilinx 36-kbit block RAMs of the table, an estimate."""
    words, n_banks = memory_words(project.form)
    depth = words * (2 if project.table_mode == "ram" else 1)
    lanes_wide = -(-16 * project.form.n_channels // 36)
    return n_banks * lanes_wide * max(-(-depth // 1024), 1)


def project_files(project: KernelProject) -> dict[str, bytes]:
    """All files by relative path, the manifest included."""
    words = bank_words(project.form, project.quantized.table)
    data = payload(words)
    constant_words = np.broadcast_to(constant_table(project.form).reshape(-1, words.shape[-1])[0], words.shape)
    vectors, numbers = golden_files(project)
    names = context(project) | numbers
    names |= {
        "table": lanes(words),
        "table_crc": f"{zlib.crc32(data):08X}",
        "constant_crc": f"{zlib.crc32(payload(constant_words)):08X}",
        "constant_lane": int(constant_words.flat[0]),
        "n_scenarios": N_SCENARIOS,
        "warnings": check_project(project),
        "bound": project.quantized.bound,
        "observed": project.observed,
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    files: dict[str, bytes] = {}
    for path in sorted(TEMPLATES.rglob("*")):
        if path.is_dir():
            continue
        relative = path.relative_to(TEMPLATES).as_posix()
        target = relative.removesuffix(".j2")
        if project.table_mode == "rom" and target in ROM_FILES:
            continue
        text = environment.get_template(relative).render(names) if relative.endswith(".j2") else path.read_text()
        files[target] = text.encode()
    for path, text in vectors.items():
        files[path] = text.encode()
    for number, bank in enumerate(words):
        files[f"tables/bank{number}.mem"] = bank_lines(bank).encode()
        entries = ",\n".join(bank_lines(bank).split())
        files[f"tables/bank{number}.coe"] = (
            f"memory_initialization_radix=16;\nmemory_initialization_vector=\n{entries};\n".encode()
        )
    files["tables/table.bin"] = table_blob(project, data)
    files[MANIFEST] = manifest(project, files, names)
    return files


def table_blob(project: KernelProject, data: bytes) -> bytes:
    """Magic, format version, format_id, CRC-32, number of words, SHA-256 of the payload, payload; little-endian."""
    head = struct.pack("<8sIIII", BLOB_MAGIC, 1, format_id(project), zlib.crc32(data), len(data) // 4)
    return head + hashlib.sha256(data).digest() + data


def read_blob(blob: bytes) -> tuple[int, int, bytes]:
    """format_id, CRC-32 and payload; ValueError if the blob is not whole."""
    size = struct.calcsize("<8sIIII") + 32
    if len(blob) < size or blob[:8] != BLOB_MAGIC:
        raise ValueError("not a table blob: its first bytes are not " + BLOB_MAGIC.decode())
    _, number, identity, crc, n_words = struct.unpack_from("<8sIIII", blob)
    data = blob[size:]
    if number != 1:
        raise ValueError(f"table blob of format version {number}, expected 1")
    if len(data) != 4 * n_words or zlib.crc32(data) != crc or hashlib.sha256(data).digest() != blob[size - 32 : size]:
        raise ValueError("the table blob is damaged: its length, CRC-32 or SHA-256 is wrong")
    return identity, crc, data


def manifest(project: KernelProject, files: dict[str, bytes], names: dict[str, Any]) -> bytes:
    """Everything a reader or a loader must know, and the hashes of all other files."""
    form, quantized = project.form, project.quantized
    words, n_banks = memory_words(form)
    content = {
        "schema": SCHEMA,
        "name": project.name,
        "generator": {"mfamm_jax": version("mfamm_jax")},
        "format_id": f"{format_id(project):08x}",
        "formats": describe_formats(form),
        "operations": [
            {"name": o.name, "low": o.low, "high": o.high, "bits": o.bits, "fraction": o.fraction}
            for o in form.operations
        ],
        "table": {
            "mode": project.table_mode,
            "banks": n_banks,
            "words_per_bank": words,
            "word_bits": 16 * form.n_channels,
            "load_words": words * n_banks * form.n_channels // 2,
            "crc32": names["table_crc"].lower(),
            "block_ram_36k_estimate": block_rams(project),
        },
        "latency_cycles": {
            "book_to_quote": form.fast_cycles,
            "state_to_offsets": form.slow_cycles,
            "state_to_quote": form.slow_cycles + 1 + form.fast_cycles,
            "initiation_interval": 1,
            "source": "RTL, measured by the test benches; the HLS C++ is not measured",
        },
        "clock_ns": project.clock_ns,
        "part": project.part,
        "errors_ticks": {
            "bound": {
                name: getattr(quantized.bound, name) for name in ("interpolation", "arithmetic", "inputs", "total")
            },
            "observed": {
                name: getattr(project.observed, name) for name in ("n_states", "largest", "p99", "mean", "off_by_one")
            },
            "solver_residual": quantized.residual,
        },
        "domain": {"max_skew": form.spec.max_skew, "max_skew_asked_for": quantized.shrunk_from or form.spec.max_skew},
        "registers": [
            {"address": row[0], "name": name, "access": row[1], "meaning": row[2]} for name, row in ADDRESSES.items()
        ]
        + [
            {
                "address": s.address,
                "name": s.name,
                "access": "read, write",
                "bits": s.bits,
                "signed": s.signed,
                "reset": s.value,
                "unit": s.unit,
                "meaning": s.meaning,
            }
            for s in names["settings"]
        ],
        "vectors": {
            "directed": names["n_directed"],
            "nodes": n_node_vectors(form),
            "digest_blocks": names["n_blocks"],
            "block": BLOCK,
            "register_sets": N_SETS,
            "seed": SEED,
        },
        "warnings": names["warnings"],
        **project.facts,
        "sha256": {path: hashlib.sha256(files[path]).hexdigest() for path in sorted(files)},
    }
    return (json.dumps(_rounded(content), indent=1, sort_keys=True) + "\n").encode()


def _rounded(x: Any, digits: int = 9) -> Any:
    """Rounded numbers: the last digits of a solve differ between machines, of an error more of them."""
    if isinstance(x, float):
        return float(f"{x:.{digits}g}")
    if isinstance(x, dict):
        fewer = {"errors_ticks": 4, "solver_residual": 1}
        return {key: _rounded(value, fewer.get(key, digits)) for key, value in x.items()}
    return [_rounded(value, digits) for value in x] if isinstance(x, list | tuple) else x


def write_project(project: KernelProject, out: Path, *, overwrite: bool = False) -> list[str]:
    """Writes the project and returns its warnings.

    An existing folder is refused unless it is empty, or `overwrite` and a project: then only files that its manifest lists are replaced.
    A new folder appears complete or not at all. If replacing is interrupted, the folder's check says so and the same call mends it.

    Raises:
        ValueError: The folder cannot be used, or the project cannot be built.
    """
    out = out.resolve()
    old = check_target(out, overwrite)
    warnings = check_project(project)
    files = project_files(project)
    foreign = [path for path in files if (out / path).exists() and path not in old]
    if foreign:
        raise ValueError(f"{out / foreign[0]} is not a file of the old project and would be overwritten: move it away")
    try:
        _write(out, files, old)
    except OSError as error:
        raise ValueError(f"{out}: cannot be written ({error.strerror}); run the same command again") from error
    return warnings


def _write(out: Path, files: dict[str, bytes], old: set[str]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        for path, content in files.items():
            target = beside / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        if not old:
            if out.exists():
                out.rmdir()
            beside.chmod(0o755)
            os.replace(beside, out)
            return
        # Until everything is replaced, the manifest lists old and new files: no hash fits, and all of them may be replaced again.
        journal = json.loads(files[MANIFEST])
        journal["sha256"] = dict.fromkeys(sorted((old | set(files)) - {MANIFEST}), "being replaced")
        (beside / "journal").write_text(json.dumps(journal))
        os.replace(beside / "journal", out / MANIFEST)
        for path in sorted(old - set(files)):
            (out / path).unlink(missing_ok=True)
        for path in [*(p for p in files if p != MANIFEST), MANIFEST]:
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(beside / path, out / path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def check_target(out: Path, overwrite: bool) -> set[str]:
    """Files of the old project, if there is one; ValueError if the folder cannot be used."""
    out = out.resolve()
    package = Path(__file__).resolve().parents[1]
    if out == package or package in out.parents:
        raise ValueError(f"{out} lies inside the package: choose another folder")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, expected a new or empty folder")
    if not out.exists() or not any(out.iterdir()):
        return set()
    if not overwrite:
        raise ValueError(f"{out} is not empty: choose another folder, or --overwrite for an older export")
    return {*listed_files(out), MANIFEST}


def listed_files(out: Path) -> dict[str, str]:
    """Hashes by path of a project's manifest; ValueError if there is none, or if it lists a file outside the folder."""
    try:
        content = json.loads((out / MANIFEST).read_text())
        if not (content["generator"]["mfamm_jax"] and content["format_id"] and content["name"]):
            raise KeyError("name")
        listed = dict(content["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{out} has no readable {MANIFEST} of a kernel project") from error
    for path in listed:
        inside = out.resolve() in (out / path).resolve().parents
        if Path(path).is_absolute() or ".." in Path(path).parts or not inside:
            raise ValueError(f'{out / MANIFEST} lists "{path}", which lies outside the folder: nothing was touched')
    return listed


def changed_files(out: Path) -> list[str]:
    """Files that differ from the manifest's hashes or are missing; ValueError without a manifest."""
    bad = []
    for path, digest in listed_files(out).items():
        file = out / path
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            bad.append(path)
    return bad
