"""A run again: the same to the bit, or told what changed."""

import json
import shutil
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from mfamm_jax.experiments.config import ConfigError, load_config
from mfamm_jax.experiments.record import RunFolder
from mfamm_jax.experiments.reproduce import changes, reproduce, run_config, worst_pair
from mfamm_jax.experiments.runner import run

SMALL = ["max_inventory=3", "batch_rows=8", "sweep.parameters.volatility=[0.1,0.2,0.3]"]
SMALL += [f"sweep.parameters.{name}=[0.5,1.0]" for name in ("risk_aversion", "bid_intensity", "ask_intensity")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("before") / "run"
    config = load_config("hjb_sweep", SMALL)
    folder = RunFolder(root, config)
    folder.open(fresh=False)
    run(config, folder, say=lambda _: None)
    return root


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def again(folder, where):
    config, manifest = run_config(folder)
    return reproduce(folder, config, manifest, where, lambda _: None)


def edit(folder, name, change):
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def test_a_run_is_reproduced_to_the_bit_from_its_resolved_config_alone(copy, tmp_path):
    (copy / "config.toml").unlink()
    answer = again(copy, tmp_path / "again")
    assert answer["same"]
    assert answer["exact"]
    assert answer["differences"] == []
    assert answer["compared"]["metrics"] >= 8
    assert answer["compared"]["arrays"] >= 9
    assert answer["compared"]["sweep"] >= 11


def test_a_number_that_was_changed_is_found_wherever_it_stands(copy, tmp_path):
    edit(copy, "metrics.json", lambda m: m.update(spread=m["spread"] * (1 + 1e-15)))
    with np.load(copy / "arrays" / "base.npz") as file:
        arrays = dict(file)
    arrays["value"][0, 2] += 1e-12
    np.savez(copy / "arrays" / "base.npz", **arrays)
    part = copy / "parts" / "part-00001.parquet"
    table = pl.read_parquet(part)
    table[3, "ask_depth"] = 7.0
    table.write_parquet(part)
    answer = again(copy, tmp_path / "again")
    assert not answer["same"]
    assert {d["what"] for d in answer["differences"]} == {"metrics/spread", "arrays/value", "sweep/ask_depth"}
    assert next(d for d in answer["differences"] if d["what"] == "sweep/ask_depth")["before"] == 7.0


def test_on_another_version_small_differences_are_allowed_and_the_change_is_named(copy, tmp_path):
    edit(copy, "manifest.json", lambda m: m["versions"].update(jaxlib="0.9.0"))
    edit(copy, "metrics.json", lambda m: m.update(spread=m["spread"] * (1 + 1e-9)))
    answer = again(copy, tmp_path / "one")
    assert answer["same"]
    assert not answer["exact"]
    assert len(answer["reasons"]) == 1
    assert answer["reasons"][0].startswith("jaxlib: was 0.9.0, is ")
    edit(copy, "metrics.json", lambda m: m.update(spread=m["spread"] * 1.001))
    assert not again(copy, tmp_path / "two")["same"]


def test_changed_data_and_devices_are_named_but_not_the_number_of_devices():
    before = {
        "versions": {"jax": "1"},
        "git_commit": "a",
        "devices": {"kind": "cpu"},
        "machine": {"processor": "p", "system": "s", "XLA_FLAGS": ""},
        "data": {"source": [["book.csv", "12"]]},
    }
    now = before | {
        "devices": {"kind": "H100"},
        "machine": {"processor": "p", "system": "s", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
        "data": {"source": [["book.csv", "34"]]},
    }
    assert changes(before, before) == []
    assert changes(before, now) == ["device: was cpu, is H100", "data book.csv: was 12, is 34"]


def test_values_that_differ_most_are_shown_and_nan_equals_nan():
    one, other = np.array([1.0, np.nan, 3.0]), np.array([1.5, np.nan, 5.0])
    assert worst_pair(one, one.copy()) is None
    assert worst_pair(one, other) == (3.0, 5.0)
    assert worst_pair(np.array([1.0]), np.array([np.nan]))[0] == 1.0
    assert worst_pair(np.array([1]), np.array([1.0])) == ("int64[1]", "float64[1]")
    assert worst_pair(np.array(["a", "b"]), np.array(["a", "c"])) == ("b", "c")
    assert worst_pair(None, 3) == (None, 3)
    assert worst_pair(1, True) == (1, True)
    assert worst_pair(0.0, 0.0) is None


def test_with_tolerances_the_worst_is_what_exceeds_them_most_and_not_the_largest_difference():
    before, after = np.array([1e6, 1e-3]), np.array([1e6 + 0.3, 1.02e-3])
    assert worst_pair(before, after) == (1e6, 1e6 + 0.3)
    assert worst_pair(before, after, 1e-6, 1e-8) == (1e-3, 1.02e-3)


def test_a_folder_that_holds_something_is_not_compared_with_itself(copy, tmp_path):
    with pytest.raises(ConfigError, match="expected a new folder"):
        again(copy, copy)


def test_a_run_that_did_not_end_is_refused(copy):
    edit(copy, "manifest.json", lambda m: m.update(status="interrupted"))
    with pytest.raises(ConfigError, match="its run is interrupted, not finished"):
        run_config(copy)


def test_every_kind_of_difference_can_be_written_as_json(copy, tmp_path):
    part = copy / "parts" / "part-00000.parquet"
    table = pl.read_parquet(part)
    table[0, "ok"] = not table[0, "ok"]
    table[1, "value"] = float("nan")
    table[2, "config_id"] = 77_000
    table.write_parquet(part)
    answer = again(copy, tmp_path / "again")
    assert "NaN" not in json.dumps(answer)
    assert {"sweep/ok", "sweep/value", "sweep/config_id"} <= {d["what"] for d in answer["differences"]}


@pytest.mark.parametrize("missing", ["manifest.json", "metrics.json", "resolved.toml"])
def test_an_unfinished_run_is_refused(copy, missing):
    (copy / missing).unlink()
    with pytest.raises(ConfigError, match=f"no finished run here: {missing} is missing"):
        run_config(copy)


@pytest.mark.thorough
def test_the_command_ends_with_0_or_3(copy, tmp_path):
    command = [sys.executable, "-m", "mfamm_jax.experiments", "reproduce", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    # This process runs with float64 set for all; the fixture and the command agree nevertheless.
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reproduced to the bit" in done.stdout
    edit(copy, "metrics.json", lambda m: m.update(spread=1.0))
    done = subprocess.run([*command, "--json"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 3
    assert [d["what"] for d in json.loads(done.stdout)["differences"]] == ["metrics/spread"]
