"""Rows do not depend on who computes them, and every row is there."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from mfamm_jax.experiments.config import ConfigError, construct, load_config
from mfamm_jax.experiments.hjb_sweep import HJBExperiment
from mfamm_jax.experiments.record import RunFolder, reasons
from mfamm_jax.experiments.runner import run
from mfamm_jax.experiments.sweep import compute_parts, lay_out, row_bytes
from mfamm_jax.solvers.hjb import Grid, TaylorAction

COMMAND = [sys.executable, "-m", "mfamm_jax.experiments"]
# 75 rows, 16 in a batch: the last batch is short, and so is the last call on two or three devices.
SMALL = ["max_inventory=3", "batch_rows=16", "sweep.parameters.volatility={linear=[0.1,0.5],num=5}"]
SMALL += ["sweep.parameters.risk_aversion={log=[0.01,1.0],num=15}", "sweep.parameters.bid_intensity=[1.0]"]
SMALL += ["sweep.parameters.ask_intensity=[1.0]"]


def mfamm(*arguments, cwd, code=0, **environment):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "COLUMNS": "200"} | environment
    done = subprocess.run([*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def sets(overrides):
    return [word for item in overrides for word in ("--set", item)]


def run_here(root, overrides, name="hjb_sweep"):
    config = load_config(name, overrides)
    folder = RunFolder(root, config)
    folder.open(fresh=False)
    return run(config, folder, say=lambda _: None)


def rows(folder):
    paths = sorted((folder / "parts").glob("part-*.parquet"))
    return pl.concat([pl.read_parquet(path) for path in paths], how="diagonal").sort("config_id")


@pytest.mark.thorough
def test_rows_are_the_same_to_the_bit_for_every_part_size_device_count_and_number_of_processes(tmp_path):
    outcome = run_here(tmp_path / "one", SMALL)
    assert outcome.metrics["sweep"] == {"rows": 75, "failed": 0}
    run_here(tmp_path / "parts", [*SMALL, "chunk_size=32"])
    arguments = ["run", "hjb_sweep", *sets(SMALL)]
    mfamm(*arguments, "--out", "three", cwd=tmp_path, XLA_FLAGS="--xla_force_host_platform_device_count=3")
    done = mfamm(*arguments, "--out", "two", "--engine", "distributed", "--workers", "2", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["metrics"]["sweep"] == {"rows": 75, "failed": 0}
    one = rows(tmp_path / "one")
    assert one["config_id"].to_list() == list(range(75))
    for other in ("parts", "three", "two"):
        assert rows(tmp_path / other).equals(one), other
        assert (tmp_path / other / "metrics.json").read_bytes() == (tmp_path / "one" / "metrics.json").read_bytes()
    manifest = json.loads((tmp_path / "three" / "manifest.json").read_text())
    assert manifest["devices"]["local"] == 3
    assert manifest["sweep"]["batch_rows"] == 16
    assert set(manifest["stages"]["solve"]) == {"total", "trace", "compile", "cached", "run"}


@pytest.mark.slow
def test_simulated_and_replayed_rows_are_the_same_to_the_bit_on_several_devices(tmp_path):
    """The rows of `quoting` hold a scan over events, a value table and an exact law: more that could round otherwise."""
    few = ["market.duration=120", "simulation.n_paths=16", "batch_rows=2", "hjb.horizon=60.0", "simulation.n_steps=60"]
    few += ["sweep.hjb.risk_aversion=[0.05,0.1,0.2]", "sweep.hjb.decay_scale=[0.8,1.0]"]
    mfamm("run", "quickstart", *sets(few), "--out", "one", cwd=tmp_path)
    mfamm(
        "run",
        "quickstart",
        *sets(few),
        "--out",
        "two",
        cwd=tmp_path,
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )
    assert rows(tmp_path / "one").equals(rows(tmp_path / "two"))


def test_a_group_that_cannot_be_prepared_fails_alone_and_says_why(tmp_path):
    """Decays differ, which uniformisation refuses; the explicit scheme's rows are there nevertheless."""
    overrides = [*SMALL, "parameters.bid_decay=1.2", 'sweep.scheme=["uniformization","explicit"]', 'scheme="explicit"']
    outcome = run_here(tmp_path, overrides)
    assert outcome.code == 4
    assert outcome.metrics["sweep"] == {"rows": 150, "failed": 75}
    table = rows(tmp_path)
    assert table["config_id"].to_list() == list(range(150))
    failed = pl.read_parquet(tmp_path / "failed.parquet")
    assert set(failed["scheme"]) == {"uniformization"}
    assert all("bid and ask decay differ" in reason for reason in failed["reason"])
    assert "bid and ask decay differ" in (tmp_path / "report.html").read_text()
    fine = table.filter(pl.col("ok"))
    assert len(fine) == 75
    assert fine["spread"].is_finite().all()


def test_rows_that_a_solver_refuses_are_listed(tmp_path):
    """A depth limit that binds in some rows, which the linear scheme only sees afterwards: `auto` would not have taken it."""
    overrides = [*SMALL, "parameters.horizon=5", "parameters.max_depth=10.0", "sweep.parameters.max_depth=[0.7,10.0]"]
    config = load_config("hjb_sweep", overrides)
    fixed = (TaylorAction(4, 60), Grid(3, 1)), "for the test"
    experiment = type("Forced", (HJBExperiment,), {"plan": lambda self, batch, prepared: fixed})(
        **vars(construct(config))
    )
    layout = lay_out(config, experiment)
    tables = compute_parts(layout, layout.parts, jax.random.key(0), lambda _: (experiment, None), lambda _: None)
    table = pl.concat([table for _, table in tables])
    told = reasons(table.filter(~pl.col("ok")))
    assert set(told["parameters.max_depth"]) == {0.7}
    assert set(told["reason"]) == {"a solver did not succeed"}


def test_the_reason_of_a_failed_row_names_the_columns_that_are_not_finite():
    table = pl.DataFrame(
        {"a": [1.0, float("nan"), 2.0], "b": [float("inf"), float("nan"), 1.0], "n": [1, 2, 3], "ok": [False] * 3}
    )
    assert reasons(table)["reason"].to_list() == ["not finite: b", "not finite: a, b", "a solver did not succeed"]


def test_paired_seeds_give_all_points_the_same_random_numbers():
    def row(self, plan, prepared, key):
        return {"drawn": jax.random.uniform(key) + self.parameters.risk_aversion, "ok": jnp.asarray(True)}

    dice = type("Dice", (HJBExperiment,), {"row": row})
    overrides = ["sweep.parameters.risk_aversion=[0.0,1.0]", "sweep.parameters.volatility=[0.2]", *SMALL[-2:]]
    drawn = {}
    for n_seeds in (0, 3):
        config = load_config("hjb_sweep", [*overrides, f"sweep.n_seeds={n_seeds}"])
        experiment = dice(**vars(construct(config)))
        layout = lay_out(config, experiment)
        known = (experiment, None)
        [(_, table)] = compute_parts(layout, layout.parts, jax.random.key(0), lambda _, x=known: x, lambda _: None)
        drawn[n_seeds] = table
    assert drawn[3]["seed"].to_list() == [0, 1, 2, 0, 1, 2]
    numbers = drawn[3]["drawn"].to_numpy()
    assert len(set(numbers[:3])) == 3
    np.testing.assert_allclose(numbers[3:], numbers[:3] + 1.0, rtol=1e-12)
    # Without seeds every row has numbers of its own.
    assert abs(drawn[0]["drawn"][1] - drawn[0]["drawn"][0] - 1.0) > 1e-3


def test_parts_hold_whole_batches_and_groups_keep_apart():
    config = load_config("hjb_sweep", [*SMALL, "sweep.max_inventory=[2,3]", "chunk_size=30"])
    layout = lay_out(config, construct(config))
    assert layout.chunk_size == 32
    assert [len(part.ids) for part in layout.parts] == [32, 32, 11] * 2
    assert [values for values, _ in layout.groups] == [{"max_inventory": 2}, {"max_inventory": 3}]
    seen = sorted(int(i) for part in layout.parts for i in part.ids)
    assert seen == list(range(150))


def test_a_static_setting_needs_a_list():
    overrides = ["sweep.method=random", "sweep.n_points=4", "sweep.execution.decision_interval={linear=[0.1,0.5]}"]
    overrides += [f"sweep.hjb.{name}={{linear=[0.5,1]}}" for name in ("risk_aversion", "decay_scale")]
    config = load_config("quickstart", overrides)
    with pytest.raises(ConfigError, match="decision_interval: expected a list"):
        lay_out(config, construct(config))


def test_sizes_follow_the_memory_estimate():
    config = load_config("quickstart")
    wide = load_config("quickstart", ["hjb.max_inventory=200", "hjb.axes.n_risk=40"])
    batches = [lay_out(c, construct(c)).batch_rows for c in (config, wide)]
    assert batches[0] == 256
    assert batches[1] < 16
    assert row_bytes(wide, construct(wide)) * batches[1] <= 2**30
