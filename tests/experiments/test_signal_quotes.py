"""Experiment `signal_quotes`: its numbers add up, nothing looks ahead, the network's scores are those of its samples."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from mfamm_jax.experiments.config import ConfigError, load_config
from mfamm_jax.experiments.imbalance_data import GridSettings, Labels, Split, build_samples
from mfamm_jax.experiments.imbalance_training import network_for
from mfamm_jax.experiments.observe import Features, observe
from mfamm_jax.experiments.record import RunFolder
from mfamm_jax.experiments.runner import DONE, run
from mfamm_jax.experiments.signal_path import SignalPath, at_events, network_scores, signal_clock, signal_path
from mfamm_jax.experiments.signal_run import POLICIES
from mfamm_jax.features import regular_grid
from mfamm_jax.market.events import NS, DataError
from mfamm_jax.market.planted import generate_planted
from mfamm_jax.market.synthetic import generate_session
from mfamm_jax.models.imbalance_network import NetworkSizes
from mfamm_jax.policies.regime_table import RegimeMap

pytestmark = pytest.mark.thorough

SMALL = ["market.duration=600.0", "comparison.block_seconds=10.0", "hjb.horizon=10.0", "hjb.n_risk=2", "hjb.n_steps=4"]
TRAINING = ["signal.score=network", "labels.sample_every=0.5", "training.n_steps=20", "training.n_between=10"]


def run_small(root, *overrides):
    config = load_config("signal_quotes", [*SMALL, *overrides])
    folder = RunFolder(root, config)
    folder.open(fresh=False)
    return run(config, folder, say=lambda _: None)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return run_small(tmp_path_factory.mktemp("runs") / "one", "sweep.hjb.risk_aversion=[0.1,1.0]")


@pytest.fixture(scope="module")
def session():
    return generate_session("small_tick", 120.0, seed=3)[0]


def test_blocks_add_up_and_gains_are_differences(outcome):
    assert outcome.code == DONE
    arrays = np.load(outcome.folder / "arrays/base.npz")
    pnl, blocks = arrays["policies/pnl"], arrays["policies/blocks"]
    assert len(pnl) == len(POLICIES)
    np.testing.assert_allclose(blocks.sum(axis=1), pnl, atol=1e-9)
    np.testing.assert_allclose(arrays["gain/total"], pnl - pnl[0], atol=1e-9)
    for i, name in enumerate(POLICIES):
        assert outcome.metrics[f"pnl_{name}"] == pnl[i]
    assert arrays["policies/bid_fills"].min() > 0
    # The interval against a bootstrap of its own; 2,000 resamples know a quantile to a few per cent of the width.
    more, rng = blocks[-1] - blocks[0], np.random.default_rng(0)
    totals = rng.choice(more, (20_000, len(more))).sum(axis=1)
    low, high = np.quantile(totals, [0.025, 0.975])
    assert abs(arrays["gain/low"][-1] - low) < 0.08 * (high - low)
    assert abs(arrays["gain/high"][-1] - high) < 0.08 * (high - low)
    assert arrays["gain/low"][0] == arrays["gain/high"][0] == 0


def test_a_sweep_row_is_the_base_run(outcome):
    rows = pl.read_parquet(outcome.folder / "parts/part-00000.parquet")
    assert rows["ok"].all()
    for name in POLICIES:
        assert abs(rows[f"{name}_pnl"][0] - outcome.metrics[f"pnl_{name}"]) < 1e-9
    assert rows["without_pnl"][1] != rows["without_pnl"][0]


def test_the_report_shows_regimes_and_gains(outcome):
    page = (outcome.folder / "report.html").read_text()
    for text in (
        "with and without signals",
        "buying toxic",
        "95 % interval",
        "block bootstrap",
        "without signals</text>",
    ):
        assert text in page
    arrays = np.load(outcome.folder / "arrays/base.npz")
    middle = arrays["regimes/inventory"].size // 2
    for side, sign in (("bid", 1), ("ask", -1)):
        depth = arrays[f"regimes/{side}_depth"][:, middle]
        assert np.ptp(depth[0]) == 0  # without signals: one quote
        assert sign * (depth[2, 0] - depth[2, 4]) > 0  # selling pressure: bids further, asks nearer than under buying
        np.testing.assert_array_equal(depth[2, ::2], depth[2, 1::2])  # the imbalance alone does not hear VPIN


def test_the_clock_counts_orders_for_the_regime_known_before_them(session):
    step, regimes = 0.1, RegimeMap(0.3, 0.7)
    observed = observe(session, Features(), 0.8)
    path = signal_path(session, observed, step)
    t_ns = session.updates.t_ns
    start, end = int(t_ns[0]) + 20 * NS, int(t_ns[0]) + 60 * NS
    clock = signal_clock(session, observed, path, regimes, step, start, end)
    used = np.flatnonzero((path.t_ns >= start) & (path.t_ns < end))
    buys, sells = np.zeros(len(used), int), np.zeros(len(used), int)
    for at, sign in zip(observed.trades.t_ns, observed.trades.aggressor):
        before = [k for k in range(len(path.t_ns)) if path.t_ns[k] < at][-1] if at > path.t_ns[0] else -1
        if before in used:
            (buys if sign > 0 else sells)[before - used[0]] += 1
    assert (clock.buys == buys).all()
    assert (clock.sells == sells).all()
    assert buys.sum() + sells.sum() > 30
    for k in (0, 57, len(used) - 1):
        row = np.flatnonzero(t_ns <= path.t_ns[used[k]])[-1]
        assert clock.mid[k] == observed.mid_ticks[row] * session.tick_size
        assert clock.regime[k] == int(regimes(jnp.asarray(observed.imbalance[row]), jnp.asarray(observed.vpin[row])))


def test_a_score_at_an_event_is_the_last_one_before_it(session):
    observed = observe(session, Features(), 0.8)
    path = signal_path(session, observed, 0.1)
    rows = np.arange(0, len(session.updates), 37)
    found = at_events(path, session.updates.t_ns, rows)
    for row, score in zip(rows, found):
        before = np.flatnonzero(path.t_ns <= session.updates.t_ns[row])
        assert score == (path.score[before[-1]] if len(before) else 0.0)


def test_the_networks_path_has_the_scores_of_its_samples():
    session, _ = generate_planted(400, 4.0, seed=1)
    grid = GridSettings()
    samples, facts = build_samples(session, grid, Labels(), Split())
    net = network_for(grid, NetworkSizes())
    params = net.init(jax.random.key(0))
    t_ns, row = regular_grid(session.updates.t_ns, NS // 10)
    path = network_scores(SignalPath(t_ns, row, 0.0 * row, 0.0 * row), session, grid, facts.scale, net, params)
    at = np.searchsorted(t_ns, session.updates.t_ns[0] + np.round(samples.seconds * NS).astype(np.int64))
    expected = np.asarray(jax.jit(net.score)(params, jnp.asarray(samples.grid)))
    np.testing.assert_allclose(path.score[at], expected, rtol=0, atol=1e-12)
    assert (path.score[: grid.n_snapshots - 1] == 0).all()


@pytest.mark.slow
def test_the_network_is_trained_on_the_past_and_quotes(tmp_path):
    outcome = run_small(tmp_path / "net", "sweep={}", *TRAINING)
    assert outcome.code == DONE
    assert (tmp_path / "net" / "checkpoints").is_dir()
    again = run_small(tmp_path / "again", "sweep={}", *TRAINING)
    assert outcome.metrics["pnl_imbalance"] == again.metrics["pnl_imbalance"]


def test_what_cannot_be_judged_is_said(tmp_path):
    with pytest.raises(
        DataError, match=r"the test block has 3 stretches of comparison\.block_seconds = 30 s, expected at least 8"
    ):
        run_small(tmp_path / "a", "comparison.block_seconds=30.0")
    with pytest.raises(DataError, match="marketable orders"):
        run_small(
            tmp_path / "b", "market.kind=planted", "market.preset=unset", "market={kind='planted', duration=600.0}"
        )
    with pytest.raises(ConfigError, match=r"signal\.score.*queue_imbalance"):
        run_small(tmp_path / "c", "signal.score=oracle")


@pytest.mark.slow
@pytest.mark.skipif("MFAMM_DATA" not in os.environ, reason="MFAMM_DATA is not set: no recorded data")
def test_a_recorded_hour_runs_with_the_network(tmp_path):
    folder = os.path.join(os.environ["MFAMM_DATA"], "lobster_aapl_20120621")
    config = load_config(
        "signal_quotes",
        [
            f"market={{kind='lobster', path='{folder}'}}",
            "intensity.decay_from=mid",
            "signal.score=network",
            "labels.sample_every=0.2",
            "sweep={}",
        ],
    )
    run_folder = RunFolder(tmp_path / "aapl", config)
    run_folder.open(fresh=False)
    outcome = run(config, run_folder, say=lambda _: None)
    assert outcome.code == DONE
    assert (
        outcome.metrics["gain"]["low"][-1]
        <= outcome.metrics["gain_imbalance_vpin_gates"]
        <= outcome.metrics["gain"]["high"][-1]
    )
