"""Every shipped experiment at smoke size gives the metrics that are written down, and gives them twice to the bit.

After a change that is meant to move them: `WRITE_GALLERY=1 pytest -n 0 -m "thorough or slow" tests/experiments/test_gallery.py`, and say why in the commit.
"""

import json
import math
import os
from pathlib import Path

import jax
import pytest

from mfamm_jax.experiments.config import load_config, shipped_configs
from mfamm_jax.experiments.record import RunFolder
from mfamm_jax.experiments.reproduce import reproduce, run_config
from mfamm_jax.experiments.runner import DONE, PARTIAL, run

EXPECTED = Path(__file__).with_name("gallery.json")
FPGA = ["market.duration=400.0", "comparison.block_seconds=20.0", "control.horizon=60.0", "float_table.n_steps=64"]
FPGA += [
    "table.n_risk=6",
    "table.risk_octaves=3.0",
    "table.time_octaves=4",
    "table.max_inventory=2",
    "table.budget=1.0",
]
FPGA += ["table.max_skew=0.3", "hardware.n_random=1000"]
CALIBRATE = ["search.n_starts=3", "max_inventory=4", "n_steps=24"]
SMOKE = {
    "avellaneda_stoikov_2008": ["n_paths=200"],
    "calibrate_joint": CALIBRATE,
    "calibrate_quotes": [*CALIBRATE, "search.n_generations=80"],
    "cointegration": ["panel.n_rows=900", "strategy.window=400", "test.n_draws=199", "scales.n_scales=5"],
    "hjb_sweep": ["max_inventory=3", "sweep.parameters.volatility=[0.2]", "sweep.parameters.risk_aversion=[0.1]"],
    "optimal_schedule": ["order.n_steps=8", "opponents.n_training=200", "opponents.n_orders=8", "search.n_starts=3"],
    "quickstart": [
        *("market.duration=240.0", "simulation.n_paths=256", "hjb.n_steps=16", "hjb.max_inventory=4"),
        *("risk.n_bootstrap=20", "sweep.hjb.risk_aversion=[0.05,0.2]", "sweep.hjb.decay_scale=[1.0,1.2]"),
    ],
    "replay_sweep": ["market.duration=60.0", "precision=float64", "sweep={}"],
    "latency": ["market.duration=60.0", "precision=float64", "sweep={}"],
    "transport_execution": ["panel.n_rows=500", "panel.n_assets=4", "slots.n_times=6"],
}
# Minutes on a small machine, or chaotic: what learns, and what needs files. Their own tests run them.
LONGER = {
    "adversarial": [
        *("market.duration=240.0", "hjb.max_inventory=3", "hjb.n_steps=8", "hjb.axes.n_risk=3", "hjb.axes.n_skew=3"),
        *("simulation.n_steps=20", "attack.n_steps=10", "attack.n_random=20", "opponent.n_steps=30", "fuzz.n_paths=32"),
        *("fuzz.n_steps=100", "scenarios.n_draws=1", "scenarios.seconds=10.0"),
    ],
    "allocation": ["training.n_updates=3", "training.n_paths=2", "training.n_steps=24", "training.n_seeds=2"],
    "calibrate_gates": [
        "market.duration=240.0",
        "search.n_restarts=1",
        "search.population=6",
        "search.n_generations=2",
    ],
    "calibrate_policy": [
        "max_inventory=4",
        "n_steps=40",
        "search.n_starts=2",
        "search.n_steps=20",
        "search.n_generations=4",
    ],
    "fpga_quote_kernel": FPGA,
    "hummingbot": [],
    "imbalance_training": ["market.duration=900.0", "training.n_steps=40", "training.n_between=20"],
    "impact_fit": [
        "flow.n_steps=6000",
        "training.n_steps=300",
        "model.n_knots=4",
        "model.n_terms=2",
        "network.n_lags=32",
    ],
    "intensity_trees": [
        "market.duration=400.0",
        "boosting.n_trees=40",
        "blocks.cluster_seconds=10.0",
        "control.horizon=20.0",
    ],
    "maxcut_benchmark": ["graphs.n_graphs=2", "graphs.n_vertices=8"],
    "mfamm": [
        *("clock.interval=2.0", "execution.decision_interval=0.4", "markets.training=260.0", "markets.warm_up=60.0"),
        *("markets.test=60.0", "markets.n_sessions=2", "features.volatility_window=40", "learning.n_steps=20"),
        *("learning.n_updates=5", "hjb.max_inventory=3", "hjb.n_steps=16", "hjb.axes.n_risk=2", "hjb.axes.n_skew=3"),
    ],
    "risk_constrained": ["max_inventory=4", "n_steps=40", "search.n_iterations=60", "search.n_frontier=1"],
    "routing": ["circuit.n_layers=1", "circuit.n_starts=2", "circuit.max_iterations=20", "order.n_lots=3"],
    "signal_quotes": ["market.duration=600.0", "comparison.block_seconds=10.0", "hjb.horizon=10.0", "hjb.n_risk=2"],
    "tail_risk": ["losses.n_rows=2400", "estimation.n_draws=20000", "estimation.n_null=99"],
}
NEEDS_FILES = {"lobster"}
ONLY_EXPORTED = {"fpga_tabulated_kernel"}  # tests/fpga_export
# Rounding errors and gaps between two numbers of about the same size.
NOISE = ("error", "difference", "residual", "gap", "evaluations")
# Relative and absolute: another processor rounds otherwise.
TOLERANCE = {"float64": (1e-4, 1e-7), "float32": (2e-2, 1e-4)}


def finished(root, name, overrides):
    config = load_config(name, overrides)
    with jax.enable_x64(config.settings.precision == "float64"):
        folder = RunFolder(root, config)
        folder.open(fresh=False)
        outcome = run(config, folder, say=lambda _: None)
    assert outcome.code in (DONE, PARTIAL)
    return config, outcome.metrics


def headline(metrics):
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    return {name: value for name, value in numbers.items() if not any(word in name for word in NOISE)}


def test_every_shipped_config_is_in_the_gallery():
    assert SMOKE.keys() | LONGER.keys() | NEEDS_FILES | ONLY_EXPORTED == set(shipped_configs())
    assert set(json.loads(EXPECTED.read_text())) == set(SMOKE)


@pytest.mark.thorough
@pytest.mark.parametrize("name", SMOKE)
def test_metrics_are_those_that_are_written_down(tmp_path, name):
    config, metrics = finished(tmp_path, name, SMOKE[name])
    found = headline(metrics)
    known = json.loads(EXPECTED.read_text()) if EXPECTED.is_file() else {}
    if os.environ.get("WRITE_GALLERY"):
        EXPECTED.write_text(json.dumps(dict(sorted((known | {name: found}).items())), indent=1) + "\n")
        return
    assert found.keys() == known[name].keys()
    relative, absolute = TOLERANCE[config.settings.precision]
    for metric, value in known[name].items():
        assert math.isclose(found[metric], value, rel_tol=relative, abs_tol=absolute), (metric, found[metric], value)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SMOKE, *LONGER])
def test_a_run_is_reproduced_to_the_bit(tmp_path, name):
    finished(tmp_path / "one", name, SMOKE.get(name) or LONGER[name])
    config, manifest = run_config(tmp_path / "one")
    with jax.enable_x64(config.settings.precision == "float64"):
        answer = reproduce(tmp_path / "one", config, manifest, tmp_path / "two", lambda _: None)
    assert answer["exact"], answer["reasons"]
    assert answer["differences"] == []
