"""Experiment `fpga_quote_kernel` and `mfamm export`: integer quotes beside float ones, projects, and the committed one."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from mfamm_jax.experiments.cli import app
from mfamm_jax.experiments.config import ConfigError, construct, load_config
from mfamm_jax.experiments.fpga_project import export_project
from mfamm_jax.experiments.fpga_run import agreement
from mfamm_jax.experiments.record import RunFolder
from mfamm_jax.experiments.runner import DONE, run
from mfamm_jax.fpga_export.emit import changed_files
from mfamm_jax.market.events import DataError

ROOT = Path(__file__).parents[2]
# A rough table in few solves.
SMALL = [
    *("market.duration=400.0", "comparison.block_seconds=20.0", "control.horizon=60.0", "float_table.n_steps=64"),
    *("table.n_risk=6", "table.risk_octaves=3.0", "table.time_octaves=4", "table.max_inventory=2"),
    *("table.budget=1.0", "table.max_skew=0.3", "hardware.n_random=1000"),
]


def run_small(root, *overrides):
    config = load_config("fpga_quote_kernel", [*SMALL, *overrides])
    folder = RunFolder(root, config)
    folder.open(fresh=False)
    return run(config, folder, say=lambda _: None)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return run_small(tmp_path_factory.mktemp("runs") / "one")


@pytest.mark.thorough
def test_both_policies_trade_and_their_difference_is_judged(outcome):
    assert outcome.code == DONE
    arrays = np.load(outcome.folder / "arrays/base.npz")
    metrics = outcome.metrics
    np.testing.assert_allclose(arrays["blocks/kernel"].sum(), metrics["pnl_kernel"], atol=1e-9)
    np.testing.assert_allclose(arrays["blocks/float"].sum(), metrics["pnl_float"], atol=1e-9)
    assert metrics["difference"]["total"] == pytest.approx(metrics["pnl_kernel"] - metrics["pnl_float"])
    assert metrics["difference"]["low"] <= metrics["difference"]["total"] <= metrics["difference"]["high"]
    assert arrays["both/float/bid_fills"] > 10
    assert 0 < metrics["error_observed_ticks"] <= metrics["error_bound_ticks"] <= 1.0
    html = (outcome.folder / "report.html").read_text()
    assert "Order by order" in html
    assert html.count("<svg") == 1


@pytest.mark.thorough
def test_orders_are_compared_one_by_one(outcome):
    log = pl.read_parquet(outcome.folder / "logs/orders.parquet")
    agrees = outcome.metrics["agreement"]
    same = log.filter(
        (pl.col("float_size") > 0)
        & (pl.col("kernel_size") > 0)
        & (pl.col("float_inventory") == pl.col("kernel_inventory"))
    )
    assert len(same) == agrees["quotes"] > 300
    shares = [agrees[name] for name in ("same_price", "one_tick_apart", "further_apart")]
    assert sum(shares) == pytest.approx(1.0)
    assert agrees["same_price"] > 0.9
    assert agrees["further_apart"] == 0.0


def test_agreement_counts_what_differs():
    log = {
        "float_size": np.array([1.0, 1.0, 1.0, 0.0, 1.0]),
        "kernel_size": np.array([1.0, 1.0, 1.0, 1.0, 1.0]),
        "float_inventory": np.array([0.0, 0.0, 1.0, 0.0, 0.0]),
        "kernel_inventory": np.zeros(5),
        "float_ticks": np.array([10, 10, 10, 10, 10]),
        "kernel_ticks": np.array([10, 11, 15, 10, 13]),
        "float_lots": np.array([1.0, 0.0, 0.0, 0.0, 1.0]),
        "kernel_lots": np.array([1.0, 0.0, 0.0, 1.0, 2.0]),
    }
    found = agreement(log)
    assert found["quotes"] == 3
    assert (found["same_price"], found["one_tick_apart"], found["further_apart"]) == (1 / 3, 1 / 3, 1 / 3)
    assert found["same_inventory"] == 0.8
    assert found["same_fills"] == pytest.approx(1 / 3)


@pytest.mark.slow
def test_a_sweep_row_is_the_base_run(tmp_path):
    outcome = run_small(tmp_path / "run", "sweep.execution.replay.maker_fee=[0.0,0.0001]")
    rows = pl.read_parquet(outcome.folder / "parts/part-00000.parquet")
    assert rows["ok"].all()
    assert rows["kernel_pnl"][0] == outcome.metrics["pnl_kernel"]
    assert rows["kernel_pnl"][1] < rows["kernel_pnl"][0]


@pytest.mark.thorough
def test_a_session_with_another_tick_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"its tick size is 0.01, control.tick_size is 0.02"):
        run_small(tmp_path / "run", "control.tick_size=0.02")


@pytest.mark.thorough
def test_the_committed_project_is_what_its_config_gives(tmp_path):
    """Byte for byte, so that nobody reads an old kernel."""
    export_project("fpga_quote_kernel", [], tmp_path / "p", False, lambda _: None)
    committed = ROOT / "fpga_export"
    files = {
        p.relative_to(committed).as_posix(): p for p in committed.rglob("*") if p.is_file() and "build" not in p.parts
    }
    made = {p.relative_to(tmp_path / "p").as_posix(): p for p in (tmp_path / "p").rglob("*") if p.is_file()}
    assert set(files) == set(made)
    different = [name for name in files if files[name].read_bytes() != made[name].read_bytes()]
    assert different == []
    assert sum(p.stat().st_size for p in files.values()) < 1_000_000


def test_the_committed_project_is_whole():
    assert changed_files(ROOT / "fpga_export") == []
    measured = json.loads((ROOT / "benchmarks/results/quote_kernel.json").read_text())["rows"]
    manifest = json.loads((ROOT / "fpga_export/manifest.json").read_text())
    assert measured[-1]["format_id"] == manifest["format_id"]
    assert all(row["mhz"] >= 160 for row in measured if "mhz" in row)


@pytest.mark.thorough
def test_a_run_can_be_exported(outcome, tmp_path):
    found = export_project(str(outcome.folder), [], tmp_path / "p", False, lambda _: None)
    assert found["nodes"] == "41 x 6"
    assert changed_files(tmp_path / "p") == []


def test_what_cannot_be_exported_is_refused_before_a_solve(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("x")
    for name, overrides, out, message in (
        ("quickstart", [], "p", '"fpga_quote_kernel"'),
        ("fpga_quote_kernel", ["precision=float32"], "p", "float64"),
        ("fpga_quote_kernel", [], "full", "is not empty"),
        ("fpga_quote_kernel", ["hardware.part=xc1"], "p", "known parts"),
        ("fpga_quote_kernel", ["hardware.top=module"], "p", "no keyword"),
        ("fpga_quote_kernel", ["hardware.max_age=1000.0"], "p", "max_age is"),
        ("fpga_quote_kernel", ["table.skew=axis", "table.n_skew=4"], "p", "an odd number"),
    ):
        with pytest.raises(ValueError, match=message):
            export_project(name, overrides, tmp_path / out, False, lambda _: None)
    assert not (tmp_path / "p").exists()


def test_a_list_of_depths_has_no_float_policy():
    experiment = construct(load_config("fpga_tabulated_kernel"))
    with pytest.raises(ConfigError, match="mfamm export"):
        experiment.float_policy()


def test_command_line(tmp_path):
    """Usage errors, and a check whose exit code says what was found."""
    invoke = CliRunner().invoke
    for arguments in (
        ["export"],
        ["export", "fpga_quote_kernel"],
        ["export", "--check", str(ROOT / "fpga_export"), "--tiers", "7"],
    ):
        assert isinstance(invoke(app, arguments).exception, ValueError), arguments
    (tmp_path / "large").write_text("not a project's file")
    refused = invoke(app, ["export", "--check", str(tmp_path)]).exception
    assert str(refused) == f"{tmp_path} has no readable manifest.json of a kernel project"
    done = invoke(app, ["export", "--check", str(ROOT / "fpga_export"), "--tiers", "0", "--json"])
    assert done.exit_code == 0
    (row,) = json.loads(done.stdout)["tiers"]
    assert row["status"] == "pass"
