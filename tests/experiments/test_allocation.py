"""Experiment `allocation`: learned shares against simple ones and the best observer, generated and recorded."""

import numpy as np
import polars as pl
import pytest

from mfamm_jax.experiments.config import ConfigError, load_config
from mfamm_jax.experiments.record import RunFolder
from mfamm_jax.experiments.runner import DONE, run
from mfamm_jax.market.events import DataError

TINY = [
    "training.n_updates=3",
    "training.n_paths=2",
    "training.n_steps=24",
    "training.n_seeds=2",
    "network.dim=3",
    "network.n_layers=1",
]


def run_small(root, *overrides):
    config = load_config("allocation", list(overrides))
    folder = RunFolder(root, config)
    folder.open(fresh=False)
    return run(config, folder, say=lambda _: None)


@pytest.mark.thorough
def test_the_table_names_every_allocator_and_the_filter_is_best(tmp_path):
    outcome = run_small(tmp_path / "run", *TINY, "strategies.n_test=6", "strategies.n_history=400")
    assert outcome.code == DONE
    rows = {row[0]: row[1] for row in outcome.metrics["tables"][0]["rows"]}
    assert set(rows) == {
        "equal weight", "inverse variance", "mean-variance", "best single", "optimal filter", "ball", "Euclidean",
        "ball, score function",
    }  # fmt: skip
    assert rows["optimal filter"] == max(rows.values())
    with np.load(tmp_path / "run" / "arrays" / "base.npz") as arrays:
        shares = arrays["judge/shares/ball"]
        np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
        assert (np.linalg.norm(arrays["judge/points"], axis=-1) < 1).all()
    assert "two main axes of the ball" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_learned_shares_come_within_five_percent_of_the_best_observer(tmp_path):
    """Ten networks of either kind, judged on the same paths; every one beats equal weight."""
    outcome = run_small(tmp_path / "run", "training.n_seeds=10")
    metrics = outcome.metrics
    assert metrics["of_optimal_filter"] > 0.95
    with np.load(tmp_path / "run" / "arrays" / "base.npz") as arrays:
        by_seed = arrays["judge/learned"].mean(axis=2)
        best = arrays["judge/fixed/optimal filter"].mean()
        assert by_seed.shape == (3, 10)
        mean, error = by_seed.mean(axis=1), by_seed.std(axis=1, ddof=1) / np.sqrt(10)
        assert (mean[:2] - 2.26 * error[:2] > 0.95 * best).all()
        assert (by_seed > 2 * arrays["judge/fixed/equal weight"].mean()).all()


@pytest.mark.slow
def test_recorded_profits_are_learned_and_judged_in_turn(tmp_path):
    draws = np.random.default_rng(0).standard_normal((400, 3))
    path = tmp_path / "pnl.csv"
    pl.DataFrame({"a": draws[:, 0] + 0.1, "b": 2 * draws[:, 1] + 0.5 * draws[:, 0], "c": draws[:, 2]}).write_csv(path)
    given = ["strategies.kind=file", f"strategies.path={path}", "reward.divergence_weight=-0.1", "reward.risk=trace"]
    outcome = run_small(tmp_path / "run", *TINY, *given)
    assert outcome.code == DONE
    rows = {row[0] for row in outcome.metrics["tables"][0]["rows"]}
    assert "optimal filter" not in rows
    assert outcome.metrics["of_optimal_filter"] is None


@pytest.mark.parametrize(
    ("columns", "overrides", "text"),
    [
        ({"a": 100, "b": 100}, [], "expected at least 240 for windows"),
        ({"a": 600, "b": 600}, ["network.edge_threshold=0.9"], "network.edge_threshold: the graph has parts"),
        ({"a": 600}, [], "1 columns of numbers, expected at least 2"),
    ],
)
def test_panels_that_cannot_be_learned_from_are_named(tmp_path, columns, overrides, text):
    draws = np.random.default_rng(0)
    path = tmp_path / "pnl.csv"
    pl.DataFrame({name: draws.standard_normal(n) for name, n in columns.items()}).write_csv(path)
    with pytest.raises((ConfigError, DataError), match=text):
        run_small(tmp_path / "run", "strategies.kind=file", f"strategies.path={path}", *overrides)


def test_strategies_that_repeat_each_other_are_refused(tmp_path):
    one = np.random.default_rng(0).standard_normal(600)
    path = tmp_path / "pnl.csv"
    pl.DataFrame({"a": one, "b": 2 * one}).write_csv(path)
    with pytest.raises(DataError, match="is a combination of others"):
        run_small(tmp_path / "run", "strategies.kind=file", f"strategies.path={path}")
