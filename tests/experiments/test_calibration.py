"""Experiments `calibration`, `policy_search` and `gate_search`."""

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from mfamm_jax.experiments.config import ConfigError, construct, load_config
from mfamm_jax.experiments.gate_search import covariates_with
from mfamm_jax.experiments.quote_calibration import quotes_at
from mfamm_jax.experiments.record import RunFolder
from mfamm_jax.experiments.runner import run
from mfamm_jax.experiments.sweep import compute_parts, lay_out
from mfamm_jax.solvers.hjb import ExplicitRK, Grid

QUICK = ["search.n_starts=3", "max_inventory=4", "n_steps=24"]


def run_small(root, name, *overrides):
    config = load_config(name, list(overrides))
    folder = RunFolder(root, config)
    folder.open(fresh=False)
    return run(config, folder, say=lambda _: None)


def rows_of(name, *overrides):
    """The sweep alone, without the base run."""
    config = load_config(name, list(overrides))
    experiment = construct(config)
    layout = lay_out(config, experiment)
    ready = experiment, experiment.prepare(None, 0, lambda _: None)
    tables = compute_parts(layout, layout.parts, jax.random.key(0), lambda _: ready, lambda _: None)
    return pl.concat([table for _, table in tables])


@pytest.mark.thorough
def test_planted_parameters_come_back_and_cma_needs_many_times_the_evaluations(tmp_path):
    outcome = run_small(tmp_path, "calibrate_quotes", *QUICK, "search.n_generations=80")
    metrics = outcome.metrics
    assert outcome.code == 0
    assert metrics["gradient_error"] < 1e-6
    assert metrics["open_directions"] == 0
    for row in metrics["tables"][0]["rows"]:
        assert abs(row[5]) < 3
    # 1 % noise, seen through 384 quotes.
    assert abs(metrics["quote_deviation"] - 0.01) < 0.0012
    methods = {row[0]: row for row in metrics["tables"][2]["rows"]}
    one, evolution = methods["L-BFGS, a start that arrives"], methods["CMA-ES"]
    assert one[2] == "3 of 3 starts"
    assert evolution[2] == "yes"
    assert evolution[1] >= 8 * one[1]
    assert "Methods" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_standard_errors_cover_the_truth_in_twenty_samples():
    """Of 60 distances in standard errors about 57 lie within 2, three of a sample moving together; their mean square is 1."""
    table = rows_of("calibrate_quotes", *QUICK[:2], "search.n_generations=0", "sweep.n_seeds=20", "batch_rows=10")
    z = np.stack([table[f"{name}_z"].to_numpy() for name in ("risk_aversion", "intensity", "decay")])
    assert table["ok"].all()
    assert (np.abs(z) < 2).sum() >= 52
    assert np.abs(z).max() < 4
    assert 0.6 < np.mean(z**2) < 1.5


@pytest.mark.slow
def test_fills_and_quotes_together_cover_the_truth_and_know_more_than_either(tmp_path):
    overrides = ["search.n_starts=3", "max_inventory=4", "n_steps=24"]
    outcome = run_small(tmp_path, "calibrate_joint", *overrides)
    sources = outcome.metrics["tables"][-1]
    for name, quotes, fills, both in sources["rows"]:
        assert both <= quotes, name
        if fills != "not known":
            assert both < fills, name
    known = {row[0]: row[2] for row in sources["rows"]}
    assert known["risk_aversion"] == known["fill_risk_aversion"] == "not known"
    table = rows_of("calibrate_joint", *overrides, "sweep.n_seeds=12", "batch_rows=6")
    z = np.stack(
        [table[f"{name}_z"].to_numpy() for name in ("risk_aversion", "intensity", "decay", "fill_risk_aversion")]
    )
    assert (np.abs(z) < 2).mean() > 0.85


@pytest.mark.thorough
def test_what_quotes_cannot_tell_is_named(tmp_path):
    """Volatility and risk aversion enter by their product gamma sigma^2 alone."""
    free = 'search.free="risk_aversion, volatility, intensity, decay"'
    outcome = run_small(tmp_path, "calibrate_quotes", *QUICK, free, "search.n_generations=0")
    assert outcome.metrics["open_directions"] == 1
    notes = " ".join(outcome.metrics["tables"][1]["notes"])
    assert "risk_aversion +0.89, volatility -0.45" in notes
    product = outcome.metrics["risk_aversion"] * outcome.metrics["volatility"] ** 2
    np.testing.assert_allclose(product, 0.2 * 0.09, rtol=0.02)


@pytest.mark.slow
def test_quotes_of_a_file_are_explained_like_planted_ones(tmp_path):
    config = load_config("calibrate_quotes", QUICK)
    experiment = construct(config)
    rng = np.random.default_rng(5)
    inventory, time_left = rng.integers(-4, 5, 120), rng.uniform(0, 20, 120)
    exact = quotes_at(
        ExplicitRK(60), Grid(4, 96), experiment.parameters, jnp.asarray(inventory), jnp.asarray(time_left)
    )
    seen = np.asarray(exact) * (1 + 0.002 * rng.normal(size=(120, 2)))
    table = pl.DataFrame(
        {"inventory": inventory, "time_left": time_left, "bid_depth": seen[:, 0], "ask_depth": seen[:, 1]}
    )
    table.fill_nan(None).write_csv(tmp_path / "quotes.csv")
    # The same quotes, one side a row: what is not quoted is a gap.
    sides = [table.with_columns(pl.lit(None, pl.Float64).alias(side)) for side in ("bid_depth", "ask_depth")]
    pl.concat(sides).write_parquet(tmp_path / "quotes.parquet")
    found = {}
    for kind in ("csv", "parquet"):
        source = ["observed.kind=file", f"observed.path={tmp_path / f'quotes.{kind}'}"]
        # Another middle: the file knows nothing of the truth.
        middle = [
            "parameters.risk_aversion=0.1",
            "parameters.ask_decay=2.5",
            "parameters.bid_decay=2.5",
            "search.n_generations=0",
        ]
        outcome = run_small(tmp_path / kind, "calibrate_quotes", *QUICK, *source, *middle)
        found[kind] = outcome.metrics
        assert abs(outcome.metrics["risk_aversion"] - 0.2) < 0.01
        assert abs(outcome.metrics["decay"] - 1.5) < 0.02
    assert found["csv"]["risk_aversion"] == pytest.approx(found["parquet"]["risk_aversion"], rel=1e-3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read"),
        ("inventory,time_left,bid_depth\n0,1,0.5\n", "no column ask_depth"),
        ("inventory,time_left,bid_depth,ask_depth\n", "no rows"),
        (
            "inventory,time_left,bid_depth,ask_depth\n0,1,0.5,0.5\n0.5,1,0.5,0.5\n",
            "row 2: inventory is 0.5, expected whole lots",
        ),
        (
            "inventory,time_left,bid_depth,ask_depth\n99,1,0.5,0.5\n",
            "row 1: inventory is 99.0, expected at most max_inventory",
        ),
        ("inventory,time_left,bid_depth,ask_depth\n0,-1,0.5,0.5\n", "row 1: time_left is -1.0"),
        (
            "inventory,time_left,bid_depth,ask_depth\n0,1,wide,0.5\n",
            "row 1: bid_depth is wide, expected a finite number",
        ),
        ("inventory,time_left,bid_depth,ask_depth\n0,1,inf,0.5\n", "row 1: bid_depth is inf"),
        ("inventory,time_left,bid_depth,ask_depth\n0,1,,\n", "no quotes"),
        ("inventory,time_left,bid_depth,ask_depth\n0,1,0.5,0.5\n", "2 quotes cannot tell 3 free parameters"),
    ],
)
def test_a_bad_file_of_quotes_is_refused_with_its_row(tmp_path, text, said):
    file = tmp_path / "quotes.csv"
    file.write_text(text)
    config = load_config("calibrate_quotes", ["observed.kind=file", f"observed.path={file}"])
    with pytest.raises(ConfigError, match=r"quotes\.csv") as error:
        construct(config).prepare(tmp_path, 0, lambda _: None)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("name", "override", "said"),
    [
        ("calibrate_quotes", 'search.free="gamma"', "expected names of risk_aversion"),
        ("calibrate_quotes", 'search.free="decay, ask_decay"', "each parameter once"),
        ("calibrate_quotes", 'search.free="fill_risk_aversion"', "fill_risk_aversion is 0, expected > 0"),
        ("calibrate_quotes", 'search.free="horizon"', "expected names of"),
        ("calibrate_quotes", "parameters.ask_intensity=2.0", "one number for both sides"),
        ("calibrate_policy", "parameters.drift=0.1", "drift is not 0"),
        ("calibrate_policy", 'search.free="volatility"', "expected names of"),
        ("calibrate_policy", 'search.free=""', "at least one name"),
        ("calibrate_gates", "ranges.vpin_gate=[0.9,0.2]", "expected [low, high] with low < high"),
        ("calibrate_gates", "ranges.horizon=[0.0,10.0]", "low > 0"),
        ("calibrate_gates", "ranges.vpin_gate=[0.1]", "expected [low, high]"),
        ("calibrate_gates", "ranges.vpin_smoothing=[0.0,1.5]", "vpin_smoothing"),
        ("calibrate_gates", "ranges.vpin_reduced_size=[0.0,3.0]", "is 3, expected <= 1"),
        ("calibrate_gates", "ranges.max_half_spread=[0.1,inf]", "is infinite"),
    ],
)
def test_impossible_searches_are_refused_before_anything_is_loaded(tmp_path, name, override, said):
    with pytest.raises(ConfigError) as error:
        construct(load_config(name, [override])).prepare(tmp_path, 0, lambda _: None)
    assert said in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
def test_four_methods_find_the_same_quotes(tmp_path):
    quick = ["max_inventory=4", "n_steps=40", "parameters.horizon=20", "search.n_starts=2", "search.n_paths=512"]
    quick += ["search.n_steps=80", "search.n_generations=20", 'search.free="risk_aversion"', "search.n_fresh=4096"]
    outcome = run_small(tmp_path, "calibrate_policy", *quick)
    assert outcome.code == 0
    with np.load(tmp_path / "arrays" / "base.npz") as file:
        arrays = dict(file)
    objective, held_out, error = (arrays[f"search/judge/{n}"] for n in ("objective", "held_out", "error"))
    gain = objective.max() - objective[0]
    assert gain > 0.01
    assert (objective[1:] > objective.max() - 0.15 * gain).all()
    # The exact law and fresh paths agree.
    np.testing.assert_array_less(np.abs(held_out - objective), 4 * error)
    # On the line of one parameter a scan finds nothing better.
    scan = rows_of("calibrate_policy", *quick, "sweep.parameters.risk_aversion={log=[0.001,0.5],num=24}")
    assert objective[1] >= scan["objective"].max() - 1e-9
    assert {"mean_pnl", "cvar", "pnl_std"} <= set(scan.columns)


@pytest.mark.thorough
def test_gates_are_searched_on_one_half_and_judged_on_both(tmp_path):
    quick = ["market.duration=240", "search.n_restarts=1", "search.population=6", "search.n_generations=4"]
    quick += ["hjb.axes.n_risk=3", "hjb.axes.n_skew=3", "hjb.max_inventory=4", "hjb.n_steps=16", "hjb.horizon=60.0"]
    quick += ["ranges.horizon=[20.0,120.0]", "features.volatility_window=60"]
    outcome = run_small(tmp_path, "calibrate_gates", *quick)
    assert outcome.code == 0
    metrics = outcome.metrics
    for name, low, high, *values in metrics["tables"][1]["rows"]:
        assert low <= values[1] <= high, name
        assert low <= values[2] <= high, name
    with np.load(tmp_path / "arrays" / "base.npz") as file:
        objective, best = file["gates/judge/objective"], file["gates/evolution/best_loss"]
    np.testing.assert_allclose(objective[0, 2], -best.min(), rtol=1e-9)
    assert metrics["gain_test"] == pytest.approx(objective[1, 1] - objective[1, 0])


@pytest.mark.thorough
def test_another_smoothing_gives_the_vpin_that_a_config_with_it_would(tmp_path):
    quick = ["market.duration=120", "features.volatility_window=60", "hjb.horizon=60.0"]
    given = construct(load_config("calibrate_gates", quick)).prepare(tmp_path / "a", 0, lambda _: None)
    other = construct(load_config("calibrate_gates", [*quick, "features.vpin_smoothing=0.4"]))
    wanted = other.prepare(tmp_path / "b", 0, lambda _: None)
    parts = (("training_decisions", "training_order"), ("decisions", "test_order"))
    for decisions, order in parts:
        made = covariates_with(
            getattr(given.session, decisions), given.buckets, getattr(given.buckets, order), jnp.asarray(0.4), 0.25
        )
        np.testing.assert_allclose(made.vpin, getattr(wanted.session, decisions).vpin, atol=1e-12)
        assert float(jnp.std(made.vpin)) > 0
