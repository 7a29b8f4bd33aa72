"""Projects: the same bytes every time, whole or not at all, and nobody else's files touched."""

import dataclasses
import hashlib
import json
import os

import jax
import numpy as np
import pytest

from mfamm_jax.fpga_export import emit
from mfamm_jax.fpga_export.emit import changed_files, check_project, project_files, read_blob, write_project
from mfamm_jax.fpga_export.project import bank_words, context, format_id
from mfamm_jax.fpga_export.verify import read_project

from .kernels import project, quantized


@pytest.fixture(scope="module")
def files():
    return project_files(project())


def test_the_same_bytes_again_and_in_float32(files):
    with jax.enable_x64(False):
        again = project_files(project())
    assert files == again


def test_manifest_has_every_hash_and_no_time_or_place(files):
    manifest = json.loads(files["manifest.json"])
    assert manifest["sha256"] == {
        path: hashlib.sha256(data).hexdigest() for path, data in files.items() if path != "manifest.json"
    }
    assert manifest["latency_cycles"]["book_to_quote"] == 3
    assert manifest["latency_cycles"]["state_to_offsets"] == 14
    for path, data in files.items():
        assert b"/tmp" not in data, path
        assert b"/home" not in data, path
    assert max(row["bits"] for row in manifest["operations"]) <= 32


def test_synthesis_sources_hold_integers_only_and_no_test_code(files):
    for path in ("hls/quote_kernel.cpp", "hls/quote_kernel.h", "hls/tables.h", "hls/quote_types.h"):
        text = files[path].decode()
        for word in ("float", "double", "cmath", "printf", "vectors/", "ap_types"):
            assert word not in text, (path, word)
    assert files["hls/quote_kernel.cpp"].count(b"II = 1") == 1
    assert b'#include "ap_int.h"' in files["hls/quote_types.h"]


def test_register_map_of_the_manifest_is_the_rtl_s(files):
    rtl = files["rtl/quote_registers.sv"].decode()
    for row in json.loads(files["manifest.json"])["registers"]:
        assert f"8'h{row['address']:02X}:" in rtl, row["name"]
        if "reset" in row:
            assert f"{row['bits']}'h{row['reset'] & ((1 << row['bits']) - 1):x};" in rtl


@pytest.mark.parametrize(
    "kind", ["slope", *(pytest.param(x, marks=pytest.mark.thorough) for x in ("axis", "stationary"))]
)
def test_a_written_project_is_read_back_whole(kind, tmp_path):
    found = project(kind, "rom" if kind == "stationary" else "ram")
    assert write_project(found, tmp_path / "p") == check_project(found)
    assert changed_files(tmp_path / "p") == []
    form, table, registers, manifest = read_project(tmp_path / "p")
    assert dataclasses.replace(found.form, operations=(), spec=form.spec) == form
    assert form.spec.axes == found.form.spec.axes
    np.testing.assert_array_equal(table, found.quantized.table)
    assert jax.tree.all(jax.tree.map(lambda a, b: int(a) == int(b), registers, found.registers))
    assert manifest["format_id"] == f"{format_id(found):08x}"
    assert (tmp_path / "p/rtl/quote_loader.sv").exists() == (kind != "stationary")


def test_every_node_lies_in_the_bank_of_its_parities():
    table = quantized().table
    words = bank_words(quantized().form, table)
    halves = [axis.index_bits - 1 for axis in quantized().form.spec.axes]
    for q, t, v in ((0, 0, 0), (4, 40, 4), (2, 17, 3), (3, 6, 1)):
        address = (q << sum(halves)) + (t // 2 << halves[1]) + v // 2
        np.testing.assert_array_equal(words[t % 2 + 2 * (v % 2), address], table[q, t, v])


@pytest.mark.thorough
def test_widths_hold_their_intervals():
    """What the RTL truncates to must hold what the plan proves."""
    for kind in ("slope", "axis", "stationary", "tabulated"):
        form = quantized(kind).form
        names = context(project(kind))
        bits = {operation.name: operation.bits for operation in form.operations}
        assert bits["depth plus widening"] <= names["SW"]
        assert bits["widening: depth"] <= names["DW"]
        assert bits["clamped depth"] <= names["DW"]
        assert bits["half ticks up"] <= names["DW"] + 2
        if form.slope is not None:
            assert bits["skew: product"] <= names["TP"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "1kernel"}, 'top is "1kernel"'),
        ({"name": "endmodule"}, "no keyword"),
        ({"name": "constexpr"}, "no keyword"),
        ({"name": "quote_slow"}, "quote_"),
        ({"name": "a__b"}, "identifier"),
        ({"name": "a-b"}, "identifier"),
        ({"part": "xc999"}, "known parts: "),
        ({"table_mode": "flash"}, '"ram" or "rom"'),
        ({"clock_ns": 0.0}, "clock_ns is 0"),
        ({"max_age": 0}, "max_age is 0 cycles"),
        ({"max_age": 1 << 32}, "max_age is"),
    ],
)
def test_settings_that_cannot_be_built_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        check_project(dataclasses.replace(project(), **change))


def test_what_a_reader_should_know_is_a_warning(monkeypatch):
    assert check_project(project()) == []
    fast = check_project(dataclasses.replace(project(), clock_ns=2.0))
    assert "only ECP5 timing" in fast[0]
    shrunk = dataclasses.replace(project().quantized, shrunk_from=0.5, monotonicity_violations=3)
    told = check_project(dataclasses.replace(project(), quantized=shrunk))
    assert "lowered from 0.5" in told[0]
    assert "3 neighbouring inventories" in told[1]
    narrow = dataclasses.replace(project().registers, depth_max=project().registers.depth_min)
    assert "outside depth_min and depth_max" in check_project(dataclasses.replace(project(), registers=narrow))[0]
    monkeypatch.setitem(emit.PARTS, "tiny", emit.block_rams(project()) + 1)
    assert "block RAMs of tiny" in check_project(dataclasses.replace(project(), part="tiny"))[0]
    monkeypatch.setitem(emit.PARTS, "tiny", emit.block_rams(project()) - 1)
    with pytest.raises(ValueError, match="needs about"):
        check_project(dataclasses.replace(project(), part="tiny"))


def test_folders_that_are_someone_else_s_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        write_project(project(), tmp_path / "file")
    with pytest.raises(ValueError, match="is not empty"):
        write_project(project(), tmp_path)
    with pytest.raises(ValueError, match="no readable manifest"):
        write_project(project(), tmp_path, overwrite=True)
    inside = emit.TEMPLATES.parent / "out"
    with pytest.raises(ValueError, match="inside the package"):
        write_project(project(), inside)
    (tmp_path / "link").symlink_to(emit.TEMPLATES.parent, target_is_directory=True)
    with pytest.raises(ValueError, match="inside the package"):
        write_project(project(), tmp_path / "link" / "new")
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("content", ["[]", "3", '{"sha256": null}', '{"sha256": {"file": "x"}}', "{"])
def test_a_manifest_that_is_no_export_s_protects_the_folder(content, tmp_path):
    (tmp_path / "manifest.json").write_text(content)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="no readable manifest"):
        write_project(project(), tmp_path, overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("path", ["../victim", "/etc/hostname", "linked/victim"])
def test_a_manifest_cannot_reach_outside(path, tmp_path):
    out, other = tmp_path / "p", tmp_path / "other"
    write_project(project(), out)
    other.mkdir()
    for victim in (tmp_path / "victim", other / "victim"):
        victim.write_text("mine")
    (out / "linked").symlink_to(other, target_is_directory=True)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["sha256"][path] = "0"
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="outside the folder"):
        write_project(project(), out, overwrite=True)
    assert (tmp_path / "victim").read_text() == (other / "victim").read_text() == "mine"


def test_overwriting_replaces_the_project_s_files_and_no_others(tmp_path):
    out = tmp_path / "p"
    write_project(project(), out)
    (out / "notes.txt").write_text("mine")
    other = dataclasses.replace(project("slope", "rom"), clock_ns=8.0)
    write_project(other, out, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert not (out / "rtl/quote_loader.sv").exists()
    assert changed_files(out) == []
    (out / "rtl/quote_loader.sv").write_text("mine")
    with pytest.raises(ValueError, match="not a file of the old project"):
        write_project(project(), out, overwrite=True)


def test_an_interrupted_overwrite_is_seen_and_can_be_repeated(tmp_path, monkeypatch):
    out = tmp_path / "p"
    write_project(project("slope", "rom"), out)
    true, calls = os.replace, []

    def full(source, target):
        calls.append(target)
        if len(calls) > 20:
            raise OSError(28, "No space left on device")
        true(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ValueError, match="No space left on device"):
        write_project(project(), out, overwrite=True)
    monkeypatch.undo()
    assert changed_files(out)
    assert list(tmp_path.iterdir()) == [out]
    write_project(project(), out, overwrite=True)
    assert changed_files(out) == []
    assert {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} == set(project_files(project()))


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ValueError, match="No space left"):
        write_project(project(), tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage", [lambda b: b[:40], lambda b: b"X" + b[1:], lambda b: b[:-4], lambda b: b[:-1] + b"\x7f"]
)
def test_damaged_blobs_are_refused(files, damage):
    read_blob(files["tables/table.bin"])
    with pytest.raises(ValueError, match="blob"):
        read_blob(damage(files["tables/table.bin"]))


def test_a_table_of_another_kernel_is_refused(files, tmp_path):
    write_project(project(), tmp_path / "p")
    other = project_files(dataclasses.replace(project(), facts={"parameters": {"kind": "another"}}))
    (tmp_path / "p/tables/table.bin").write_bytes(other["tables/table.bin"])
    with pytest.raises(ValueError, match="made for another kernel"):
        read_project(tmp_path / "p")
