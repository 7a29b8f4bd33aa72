"""Experiment `replay` in this process: logs, tables, sweeps and bad input."""

import hashlib
import json

import numpy as np
import polars as pl
import pytest

from mfamm_jax.experiments.config import ConfigError, load_config
from mfamm_jax.experiments.record import RunFolder
from mfamm_jax.experiments.runner import DONE, run
from mfamm_jax.market.events import DataError

SMALL = ["market.duration=60.0", "precision=float64"]


def run_small(root, name, *overrides):
    config = load_config(name, [*SMALL, *overrides])
    folder = RunFolder(root, config)
    folder.open(fresh=False)
    return run(config, folder, say=lambda _: None)


def logs(outcome):
    return (pl.read_parquet(outcome.folder / "logs" / f"{name}.parquet") for name in ("orders", "fills"))


SWEEP = ["sweep.rule.half_spread=[3.0,6.0,12.0]", "sweep.rule.skew=[0.2]", "sweep.exchange.refresh_ticks=[1.0,3.0]"]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return run_small(tmp_path_factory.mktemp("runs") / "one", "replay_sweep", *SWEEP)


def test_the_logs_add_up_to_the_metrics(outcome):
    metrics = outcome.metrics
    assert outcome.code == DONE
    orders, fills = logs(outcome)
    assert len(fills) == metrics["fills"] > 20
    signed = np.where(fills["side"] == "bid", 1, -1) * fills["lots"].to_numpy()
    assert signed.sum() == metrics["final_inventory"]
    np.testing.assert_array_equal(np.cumsum(signed), fills["inventory_after"])
    arrays = np.load(outcome.folder / "arrays/base.npz")
    # Cash from the fills and the inventory at the last mid is the whole profit.
    last_mid = arrays["trading/mid"][-1]
    profit = -(signed * fills["price"].to_numpy()).sum() + signed.sum() * last_mid
    assert abs(profit - metrics["pnl"]) < 0.02 * max(abs(signed.sum()), 1) + 1e-6  # the mid after the last decision
    assert abs(metrics["identity_residual"]) < 1e-9
    accepted = orders.filter(pl.col("outcome") != "refused")
    assert len(accepted) == metrics["orders"]
    assert orders["filled_lots"].sum() == fills["lots"].sum()
    assert (accepted["end_ns"] >= accepted["time_ns"]).all()


def test_every_order_ends_before_the_next_one_of_its_side(outcome):
    orders, fills = logs(outcome)
    for side in ("bid", "ask"):
        ours = orders.filter((pl.col("side") == side) & (pl.col("outcome") != "refused")).sort("time_ns")
        assert (ours["end_ns"].to_numpy()[:-1] <= ours["time_ns"].to_numpy()[1:]).all()
        filled = ours.filter(pl.col("outcome") == "filled")
        assert (filled["filled_lots"] == filled["lots"]).all()
        assert (ours.filter(pl.col("outcome") == "replaced")["filled_lots"] == 0).all()
        ends = set(filled["end_ns"].to_list())
        assert ends <= set(fills.filter(pl.col("side") == side)["time_ns"].to_list())
        # A fill is at its order's price.
        joined = filled.join(fills.filter(pl.col("side") == side), left_on="end_ns", right_on="time_ns")
        np.testing.assert_allclose(joined["price"], joined["price_right"])


def test_the_manifest_has_the_hashes_of_the_logs(outcome):
    manifest = json.loads((outcome.folder / "manifest.json").read_text())
    orders, _ = logs(outcome)
    digest = hashlib.sha256()
    for name in orders.columns:
        values = orders[name].to_numpy()
        values = values.astype("<U11" if name == "outcome" else "<U3") if orders[name].dtype == pl.String else values
        digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
    assert manifest["logs"]["orders"] == digest.hexdigest()


def test_the_sweep_repeats_the_base_run_and_wider_quotes_fill_less(outcome):
    rows = pl.concat([pl.read_parquet(p) for p in sorted((outcome.folder / "parts").glob("*.parquet"))])
    assert rows["ok"].all()
    fills = {(row["rule.half_spread"], row["exchange.refresh_ticks"]): row["fills"] for row in rows.to_dicts()}
    assert fills[3.0, 1.0] > fills[6.0, 1.0] > fills[12.0, 1.0]
    assert abs(rows["residual"]).max() < 1e-9
    page = (outcome.folder / "report.html").read_text()
    for title in ("Orders and fills by side", "Adverse selection", "Queue in front at arrival", "Trading", "Sweep"):
        assert title in page


@pytest.mark.slow
def test_the_same_config_gives_the_same_orders_and_another_seed_others(outcome, tmp_path):
    again = run_small(tmp_path / "again", "replay_sweep", *SWEEP)
    other = run_small(tmp_path / "other", "replay_sweep", "seed=1", *SWEEP)
    hashes = [json.loads((o.folder / "manifest.json").read_text())["logs"] for o in (outcome, again, other)]
    assert hashes[0] == hashes[1]
    assert hashes[0]["orders"] != hashes[2]["orders"]


@pytest.mark.slow
def test_latency_costs_something_and_is_compared_on_the_same_events(tmp_path):
    outcome = run_small(
        tmp_path / "latency", "latency", "market.duration=120.0", "sweep.timing.order_latency=[1e-7,1e-5,0.09]"
    )
    rows = pl.concat([pl.read_parquet(p) for p in sorted((outcome.folder / "parts").glob("*.parquet"))])
    # Nothing happens within ten microseconds; most of a decision interval loses fills.
    assert rows["pnl"][0] == rows["pnl"][1]
    assert rows["fills"][2] < rows["fills"][0]


@pytest.mark.thorough
def test_measured_latencies_come_from_a_file(tmp_path):
    # The generated session has local times since midnight, whose epoch is unknown: 0.
    seconds = np.arange(34_000, 36_000, 1) * 1_000_000_000
    shift = 1_600_000_000_000_000_000
    frame = pl.DataFrame(
        {"req_ts": seconds + shift, "exch_ts": seconds + shift + 10_000_000, "resp_ts": seconds + shift + 20_000_000}
    )
    frame.write_csv(tmp_path / "latencies.csv")
    constant = run_small(
        tmp_path / "a", "latency", "timing.order_latency=0.01", "timing.response_latency=0.01", "sweep={}"
    )
    frame.select(pl.all() - shift).write_parquet(tmp_path / "epoch0.parquet")
    with pytest.raises(DataError, match="req_ts"):  # 14 digits are no epoch
        run_small(tmp_path / "b", "latency", f"timing.latency_file={tmp_path / 'epoch0.parquet'}", "sweep={}")
    measured = run_small(tmp_path / "c", "latency", f"timing.latency_file={tmp_path / 'latencies.csv'}", "sweep={}")
    # Far from the recorded times the first measurement holds: the same 10 ms.
    for name in ("pnl", "fills", "orders"):
        assert measured.metrics[name] == constant.metrics[name]


@pytest.mark.thorough
def test_several_levels_and_inverse_contracts_run(tmp_path):
    outcome = run_small(
        tmp_path / "grid",
        "replay_sweep",
        "exchange.n_levels=3",
        "exchange.level_ticks=4.0",
        'exchange.contract="inverse"',
        "sweep={}",
    )
    assert outcome.code == DONE
    orders, fills = logs(outcome)
    assert set(orders["level"]) == {0, 1, 2}
    assert orders["filled_lots"].sum() == fills["lots"].sum()
    assert abs(outcome.metrics["pnl"]) < 0.1  # lots worth 1/585 each


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("timing.order_latency=-1.0", "timing.order_latency"),
        ("exchange.n_levels=0", "exchange.n_levels"),
        ("rule.half_sprad=2.0", "half_spread"),
        ("exchange.queue_model=lifo", "exchange.queue_model"),
        ("market.kind=tardi", "tardis"),
    ],
)
def test_bad_settings_are_named(override, said):
    with pytest.raises(ConfigError, match=said):
        load_config("replay_sweep", [override])


def test_an_end_before_the_start_is_said(tmp_path):
    with pytest.raises(DataError, match=r"events lie between 34200\.\d+ and 34259"):
        run_small(tmp_path / "bad", "replay_sweep", "timing.end=1.0", "sweep={}")
    assert not list((tmp_path / "bad").glob("metrics.json"))
