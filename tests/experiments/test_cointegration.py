"""Experiment `cointegration`: planted relations are found and traded, unrelated panels are not, nothing looks ahead."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from statsmodels.tsa.stattools import coint
from statsmodels.tsa.vector_ar.vecm import coint_johansen

from mfamm_jax.experiments.cointegration import Strategy
from mfamm_jax.experiments.cointegration_run import estimate, family_p_values, look_ahead, null_ratios, walk_forward
from mfamm_jax.experiments.config import ConfigError, load_config
from mfamm_jax.experiments.panels import PlantedPanel
from mfamm_jax.experiments.record import RunFolder
from mfamm_jax.experiments.runner import DONE, run
from mfamm_jax.market.events import DataError
from mfamm_jax.models.cointegration import p_values
from mfamm_jax.simulation.spread_trading import SpreadRule

SCALES, EDGE, BLOCK = (4.0, 8.0, 16.0, 32.0), 3.0, 10
SMALL = ["panel.n_rows=900", "strategy.window=400", "test.n_draws=199", "scales.n_scales=5"]
everything = {2: [[0, 1]], 3: [[0, 1, 2]]}


def run_small(root, *overrides):
    config = load_config("cointegration", [*SMALL, *overrides])
    folder = RunFolder(root, config)
    folder.open(fresh=False)
    return run(config, folder, say=lambda _: None)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return run_small(tmp_path_factory.mktemp("runs") / "one")


_estimate = jax.jit(estimate, static_argnums=(1, 2, 3))
_null = jax.jit(null_ratios, static_argnums=(3, 4, 5, 6))


def planted(n=1500, seed=0, **kwargs):
    levels = PlantedPanel(n_rows=n, **kwargs).load(seed)[0].levels
    return jnp.asarray(levels - levels[0])


def estimated(levels):
    groups = jnp.asarray(everything[levels.shape[1]])
    return jax.tree.map(lambda x: x[0], _estimate(levels, SCALES, EDGE, BLOCK, groups))


def test_a_planted_relation_has_its_weights_and_johansen_agrees():
    levels = planted(3000)
    found = estimated(levels)
    assert abs(float(found.common[1]) + 0.5) < 0.02
    johansen = coint_johansen(np.asarray(levels), 0, 1)
    theirs = johansen.evec[:, 0] / johansen.evec[0, 0]
    # Two estimators of one vector: at 3,000 rows each is within about 0.02 of the truth.
    np.testing.assert_allclose(found.common, theirs, atol=0.05)
    assert float(found.slope) < 1.5
    walk = estimated(planted(3000, autoregression=1.0))
    assert float(walk.slope) > 1.7


@pytest.mark.slow
def test_p_values_of_unrelated_panels_are_uniform_and_small_where_there_is_a_relation():
    groups, unrelated, related = jnp.asarray([[0, 1]]), [], []
    for seed in range(40):
        for autoregression, p in ((1.0, unrelated), (0.8, related)):
            levels = planted(600, seed, n_assets=2, autoregression=autoregression)
            null = _null(jax.random.key(seed), levels, groups, SCALES, EDGE, BLOCK, 99)[:, 0]
            p.append(float(p_values(estimated(levels).ratio, null)[-1]))
    # Of 40 at 10 %: 4 expected, standard deviation 1.9.
    assert (np.array(unrelated) <= 0.1).sum() <= 10
    assert 0.3 < np.mean(unrelated) < 0.7
    assert (np.array(related) <= 0.05).mean() > 0.8
    assert np.mean([coint(*np.asarray(planted(600, s, n_assets=2)).T)[1] < 0.05 for s in range(5)]) > 0.5


@pytest.mark.thorough
def test_draws_are_blocks_of_increments():
    """With one block as long as the panel a draw is the panel, turned around the circle: its ratios are nearly the panel's."""
    levels = planted(600)
    groups = jnp.asarray([[0, 1, 2]])
    turned = _null(jax.random.key(0), levels, groups, (700.0 / 100, 14.0), EDGE, 13, 20)
    assert turned.shape == (20, 1, 3)
    assert (np.asarray(turned) > 0).all()
    again = _null(jax.random.key(0), levels, groups, (7.0, 14.0), EDGE, 13, 20)
    np.testing.assert_array_equal(turned, again)


def test_family_p_values_by_hand():
    rng = np.random.default_rng(0)
    null = rng.random((99, 5))
    p = np.array([0.01, 0.2, 0.5, 0.03, 1.0])
    ranks = np.array([[(null[:, g] <= null[d, g]).sum() for g in range(5)] for d in range(99)])
    smallest = ((1 + ranks) / 100).min(axis=1)
    expected = [(1 + (smallest <= x + 1e-9).sum()) / 100 for x in p]
    np.testing.assert_allclose(family_p_values(jnp.asarray(p), jnp.asarray(null)), expected)


def strategy(**kwargs):
    return Strategy(rule=SpreadRule(), window=400, every=50, half_spread=0.05, **kwargs)


@pytest.mark.thorough
def test_the_walk_uses_the_past_only():
    levels = planted(900)
    null = _null(jax.random.key(0), levels[:400], jnp.asarray([[0, 1, 2]]), SCALES, EDGE, BLOCK, 99)[:, 0]
    walk = jax.jit(lambda x: walk_forward(x, null, SCALES, EDGE, BLOCK, strategy(), jnp.asarray(0.05)))
    here, there = walk(levels), walk(levels.at[700:].multiply(1.5))
    np.testing.assert_array_equal(here.trades.side[:300], there.trades.side[:300])
    np.testing.assert_array_equal(here.weights[:7], there.weights[:7])
    assert (here.weights[8] != there.weights[8]).any()
    # Weights of a window are those of its rows alone.
    for k in (0, 4):
        past = levels[50 * k : 400 + 50 * k]
        np.testing.assert_allclose(here.weights[k], estimated(past).common, rtol=1e-8)
    assert here.trades.pnl.shape == (500,)


@pytest.mark.thorough
def test_a_backtest_that_knows_the_future_looks_better_on_noise():
    """A hundred unrelated panels: the relation of the whole sample earns on average, that of the past does not."""
    null = jnp.full((99, 5), 2.0)  # everything is significant
    free = strategy(only_significant=False)

    @jax.jit
    def both(levels):
        walk = walk_forward(levels, null, SCALES, EDGE, BLOCK, free, jnp.asarray(0.5))
        ahead = look_ahead(levels, SCALES, EDGE, BLOCK, free)
        return jnp.sum(walk.trades.pnl + walk.trades.cost), jnp.sum(ahead.pnl + ahead.cost)

    found = np.array([both(planted(900, seed, autoregression=1.0)) for seed in range(100)])
    mean, error = found.mean(axis=0), found.std(axis=0) / np.sqrt(100)
    assert mean[1] > 3 * error[1]
    assert mean[0] < 3 * error[0]


@pytest.mark.thorough
def test_the_run_has_numbers_pictures_and_the_truth(outcome):
    assert outcome.code == DONE
    metrics = outcome.metrics
    assert metrics["p_common"] <= 0.05
    assert metrics["truth"]["weights"][1] == -0.5
    assert metrics["walk_forward_low"] <= metrics["walk_forward_pnl"] <= metrics["walk_forward_high"]
    arrays = np.load(outcome.folder / "arrays/base.npz")
    assert abs(arrays["walk/trades/pnl"].sum() - metrics["walk_forward_pnl"]) < 1e-9
    page = (outcome.folder / "report.html").read_text()
    for text in ("Relation by time scale", "P&amp;L after costs", "past windows only", "smallest over largest energy"):
        assert text in page


@pytest.mark.slow
def test_a_sweep_of_costs_and_pairs_run(tmp_path):
    outcome = run_small(tmp_path / "sweep", "sweep.strategy.half_spread=[0.0,0.02]", "strategy.only_significant=false")
    rows = pl.read_parquet(outcome.folder / "parts/part-00000.parquet")
    assert rows["ok"].all()
    assert rows["cost"][0] == 0 < rows["cost"][1]
    pairs = run_small(tmp_path / "pairs", "test.groups=pairs", "panel.n_assets=5", "panel.n_rows=3000")
    assert pairs.metrics["tests"] == 10
    assert pairs.metrics["rejections_family"] >= 1
    assert pairs.metrics["tables"][0]["rows"][0][0] == "asset 1 and asset 2"


def test_what_cannot_be_tested_is_said(tmp_path):
    with pytest.raises(DataError, match=r"expected at least 394 for the scale 64"):
        run_small(tmp_path / "a", "scales.n_scales=6", "strategy.window=300")
    with pytest.raises(DataError, match=r"test\.block = 20 rows: expected at most half the largest scale \(32\)"):
        run_small(tmp_path / "b", "test.block=20")
    with pytest.raises(DataError, match=r"strategy\.window \+ 2 strategy\.every = 1000"):
        run_small(tmp_path / "c", "strategy.window=800")
    with pytest.raises(ConfigError, match=r"test\.groups"):
        run_small(tmp_path / "d", "test.groups=triples")


@pytest.mark.slow
@pytest.mark.skipif("MFAMM_DATA" not in os.environ, reason="MFAMM_DATA is not set: no recorded data")
@pytest.mark.parametrize("what", ["fx", "btc", "etf"])
def test_recorded_panels(tmp_path, what):
    """The triangle has the weights of arithmetic at every scale, the venues are one market, ETFs are not related after correction."""
    files = {
        "fx": "panel_fx_h4_2012_2022/fx_h4_close_points.parquet",
        "btc": "panel_btc_venues_100ms_20240808/btc_mids_100ms.parquet",
        "etf": "panel_etf_daily_2008_2016/etf_prices.csv.gz",
    }
    path = Path(os.environ["MFAMM_DATA"]) / files[what]
    overrides = [f"panel={{kind='file', path='{path}'}}", "test.log=true", "strategy.half_spread=5e-5"]
    overrides += ["test.groups=pairs", "test.n_draws=499"] if what == "etf" else ["test.n_draws=199"]
    config = load_config("cointegration", overrides)
    folder = RunFolder(tmp_path / what, config)
    folder.open(fresh=False)
    metrics = run(config, folder, say=lambda _: None).metrics
    if what == "etf":
        assert metrics["tests"] == 253
        assert metrics["rejections_uncorrected"] <= 2 * metrics["expected_by_chance"]
        assert metrics["rejections_family"] <= 0.05 * 253
        assert metrics["rejections_benjamini_hochberg"] <= 0.05 * 253
        return
    assert metrics["p_common"] <= 0.01
    if what == "fx":
        arrays = np.load(folder.root / "arrays/base.npz")
        weights = np.vstack([arrays["estimate/weights"][0], arrays["estimate/common"]])
        np.testing.assert_allclose(weights / weights[:, :1], np.tile([1.0, -1.0, -1.0], (7, 1)), atol=0.01)
