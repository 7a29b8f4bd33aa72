"""Experiment `risk_constrained`: limits are kept on fresh paths, cost money, and impossible settings are refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.experiments.config import ConfigError, load_config
from mfamm_jax.experiments.record import RunFolder
from mfamm_jax.experiments.risk_constrained import aim_for
from mfamm_jax.experiments.runner import DONE, run

SMALL = [
    "max_inventory=4",
    "scheme=implicit",
    "n_steps=40",
    "parameters.horizon=20",
    "limit.breach_probability=0.02",
    "limit.multiple=1",
    "search.n_iterations=60",
    "search.n_paths=512",
    "search.n_fresh=8192",
    "search.n_frontier=2",
    "search.loosest=0.08",
]


def run_small(root, *overrides):
    config = load_config("risk_constrained", [*SMALL, *overrides])
    folder = RunFolder(root, config)
    folder.open(fresh=False)
    return run(config, folder, say=lambda _: None)


@pytest.mark.thorough
def test_limits_are_kept_and_tighter_ones_cost_more(tmp_path):
    outcome = run_small(tmp_path / "run")
    assert outcome.code == DONE
    metrics = outcome.metrics
    assert metrics["breach_upper_bound"] <= 0.02
    rows = metrics["tables"][0]["rows"]
    assert [row[0] for row in rows] == ["as given", "no limit", "0.08", "0.02"]
    profit = [row[3] for row in rows]
    assert profit[1] >= profit[2] > profit[3]
    assert profit[1] >= profit[0]
    assert rows[3][-1] > 0
    with np.load(tmp_path / "run" / "arrays" / "base.npz") as arrays:
        breach = arrays["draw/best"]
        assert (np.diff(breach) >= -1e-12).all()
        # A bridge sees crossings that counting misses.
        assert (arrays["judge/counted"] < arrays["judge/breach"]).all()
        without = arrays["judge/breach"][1]
    assert without > 0.02
    assert "P(breach" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_drawdowns_from_the_maximum_and_single_precision(tmp_path):
    outcome = run_small(
        tmp_path / "run",
        "precision=float32",
        "limit.kind=max_drawdown",
        "limit.multiple=4",
        "search.n_iterations=120",
        "search.free=risk_aversion",
    )
    assert outcome.code == DONE
    assert outcome.metrics["breach_upper_bound"] <= 0.02


@pytest.mark.slow
def test_optimum_of_one_parameter_is_where_its_grid_says(tmp_path):
    """A sweep judges a grid of fixed values on fresh paths: none that keeps the limit earns more, within the width of the grid."""
    root = tmp_path / "run"
    best = run_small(root, "search.free=risk_aversion", "search.n_iterations=150").metrics
    grid = []
    for factor in (0.4, 0.6, 0.8, 1.25):
        value = best["risk_aversion"] * factor
        fixed = run_small(
            tmp_path / f"at{factor}",
            "search.free=risk_aversion",
            f"parameters.risk_aversion={value}",
            "search.n_iterations=10",
        ).metrics["tables"][0]["rows"][0]
        grid.append((factor, fixed[2], fixed[5]))
    for factor, mean, bound in grid:
        if factor <= 0.6:
            assert bound > 0.02
        if factor > 1:
            assert mean < best["mean_pnl"]


def test_aim_leaves_room_for_fresh_paths():
    aim = float(aim_for(jnp.asarray(0.01), 10_000))
    assert abs(aim + 3.645 * np.sqrt(aim / 10_000) - 0.01) < 1e-12


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("search.free=volatility", 'names "volatility", expected names of risk_aversion'),
        ("parameters.fill_risk_aversion=0", "parameters.fill_risk_aversion is 0, expected > 0"),
        ("search.free=risk_aversion, risk_aversion", "each once"),
        ("parameters.drift=0.1", "expected 0"),
        ("search.n_fresh=1000", "raise n_fresh or limit.breach_probability"),
        ("limit.kind=ruin", "limit.kind"),
        ("limit.tail_level=1.5", "limit.tail_level"),
    ],
)
def test_impossible_settings_are_named(tmp_path, override, text):
    with pytest.raises((ConfigError, ValueError), match=text):
        run_small(tmp_path / "run", "limit.breach_probability=0.005", override)
