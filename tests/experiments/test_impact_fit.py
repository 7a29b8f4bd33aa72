"""Experiment `impact_fit`: planted impact is found, recorded order flow is binned without looking ahead."""

import numpy as np
import pytest

from mfamm_jax.experiments.config import ConfigError, load_config
from mfamm_jax.experiments.flows import PlantedFlow, RecordedFlow
from mfamm_jax.experiments.record import RunFolder
from mfamm_jax.experiments.runner import DONE, run
from mfamm_jax.experiments.sources import SyntheticSource
from mfamm_jax.market.events import NS, DataError, merge_marketable_orders

SMALL = ["flow.n_steps=6000", "training.n_steps=300", "model.n_knots=4", "model.n_terms=2", "network.n_lags=32"]


def run_small(root, *overrides):
    config = load_config("impact_fit", [*SMALL, *overrides])
    folder = RunFolder(root, config)
    folder.open(fresh=False)
    return run(config, folder, say=lambda _: None)


@pytest.mark.thorough
def test_planted_impact_is_found_and_structure_helps(tmp_path):
    outcome = run_small(tmp_path / "run")
    assert outcome.code == DONE
    metrics = outcome.metrics
    assert metrics["explained_of_the_noiseless"] > 0.98
    assert metrics["explained_of_the_noiseless"] > metrics["free_of_the_noiseless"]
    assert metrics["explained_low"] < metrics["explained"] < metrics["explained_high"]
    models, kernel = metrics["tables"]
    assert models["rows"][0][0] == "structured (20)"
    for row in kernel["rows"][:6]:
        assert abs(row[1] - row[2]) < 0.05
    report = (tmp_path / "run" / "report.html").read_text()
    assert "since the order" in report


def test_a_planted_flow_repeats_and_its_noise_is_as_asked(tmp_path):
    first, again, other = (PlantedFlow(n_steps=2000).load(tmp_path, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.response, again.response)
    assert not np.array_equal(first.response, other.response)
    noise = first.response - first.clean
    assert abs(noise.std() / first.clean.std() - 1) < 0.05
    walk = PlantedFlow(n_steps=2000, noise="random_walk").load(tmp_path, 1)
    steps = np.diff(walk.response - walk.clean)
    assert abs(steps.std() / np.diff(walk.clean).std() - 1) < 0.1
    assert abs(np.corrcoef(steps[1:], steps[:-1])[0, 1]) < 0.1


@pytest.mark.thorough
def test_recorded_steps_hold_every_trade_once_and_the_mid_at_their_end(tmp_path):
    source = SyntheticSource(duration=300.0)
    flow = RecordedFlow(source, step=1.0).load(tmp_path, 0)
    session, _ = source.load(tmp_path, 0)
    assert len(flow.rates) == len(flow.response)
    trades = merge_marketable_orders(session.updates)
    second = -(-trades.t_ns // NS)
    first = -(-int(session.updates.t_ns[0]) // NS)
    for i in (0, 5, 100):
        now = second == first + 1 + i
        assert flow.rates[i] == pytest.approx(float((trades.aggressor * trades.size)[now].sum()))
    at = np.searchsorted(session.updates.t_ns, (first + 101) * NS, side="right") - 1
    start = np.searchsorted(session.updates.t_ns, first * NS, side="right") - 1
    mid = (session.books.bid_ticks[:, 0].astype(float) + session.books.ask_ticks[:, 0]) * 0.5 * session.tick_size
    assert flow.response[100] == pytest.approx(mid[at] - mid[start], abs=1e-9)


def test_what_cannot_be_used_is_said(tmp_path):
    with pytest.raises(DataError, match="expected at least 200; use shorter steps"):
        RecordedFlow(SyntheticSource(duration=60.0), step=5.0).load(tmp_path, 0)
    with pytest.raises(ConfigError, match=r"flow\.noise_ratio: is -1"):
        load_config("impact_fit", ["flow.noise_ratio=-1"])
