"""Experiment `tail_risk`: estimates agree with the truth and with each other, forecasts are judged, bad losses are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from mfamm_jax.experiments.config import ConfigError, load_config
from mfamm_jax.experiments.losses import FileLosses, GarchLosses, StudentLosses, known_before
from mfamm_jax.experiments.record import RunFolder
from mfamm_jax.experiments.runner import DONE, run
from mfamm_jax.experiments.tail_risk import _standard_error
from mfamm_jax.market.events import DataError
from mfamm_jax.models import student_t
from mfamm_jax.models.loss_flow import first_flow

from ..checks import assert_close

SMALL = ["losses.n_rows=2400", "estimation.n_draws=20000", "estimation.n_null=99"]


def run_small(root, *overrides):
    config = load_config("tail_risk", list(overrides))
    folder = RunFolder(root, config)
    folder.open(fresh=False)
    return run(config, folder, say=lambda _: None)


@pytest.mark.slow
def test_estimators_agree_and_the_truth_is_not_refused(tmp_path):
    outcome = run_small(
        tmp_path / "run",
        "losses.kind=student_t",
        "losses.degrees_of_freedom=4.0",
        *SMALL,
        "estimation.tail_levels=[0.97]",
    )
    assert outcome.code == DONE
    with np.load(tmp_path / "run" / "arrays" / "base.npz") as arrays:
        risk, truth = arrays["estimate/risk"][0], arrays["estimate/truth"][0]
        # Quadrature and both kinds of draws look at one law: apart by the draws' error alone.
        for index in (2, 3):
            assert abs(risk[index, 1] - risk[1, 1]) < 4 * risk[index, 2]
        for index in (0, 1):
            assert abs(risk[index, 1] - truth[1]) < 4 * risk[index, 2]
        assert arrays["estimate/effective_size"][0] > 10_000
        tests = arrays["forecast/tests"]
        assert (tests[4, 0, 1:6] > 0.001).all()
        assert (tests[2, 0, 1:6] > 0.001).all()
        # Twelve hundred losses beyond a normal law's reach.
        assert tests[1, 0, 5] <= 0.01
    text = (tmp_path / "run" / "report.html").read_text()
    assert "flow, quadrature (E3)" in text
    assert "P(larger)" in text


@pytest.mark.slow
def test_covariates_help_where_volatility_remembers(tmp_path):
    metrics = run_small(tmp_path / "run", "losses.n_rows=8000", *SMALL[1:]).metrics
    assert metrics["later_log_density_conditional"] > metrics["later_log_density_flow"] + 0.02
    rows = {(row[0], row[1]): row for row in metrics["tables"][1]["rows"]}
    # Exceedances of the constant forecast come in clusters.
    assert float(rows[0.99, "flow"][5]) < 0.01
    assert float(rows[0.99, "conditional flow"][5]) > 0.01


@pytest.mark.slow
def test_daily_returns_of_a_fund(tmp_path, data_folder):
    path = data_folder / "panel_etf_daily_2008_2016" / "etf_prices.csv.gz"
    given = ["losses.kind=file", f"losses.path={path}", "losses.column=SPY", "precision=float32"]
    outcome = run_small(tmp_path / "run", *given, *SMALL[1:], "estimation.tail_levels=[0.95, 0.99]")
    assert outcome.code == DONE
    metrics = outcome.metrics
    assert 1.5 < metrics["degrees_of_freedom"] < 8
    assert not metrics["known_law"]
    names = [row[1] for row in metrics["tables"][1]["rows"]]
    assert "truth" not in names


def test_generated_losses_have_the_laws_they_say():
    series = GarchLosses(n_rows=40_000).load(1)
    assert abs(series.values.var() - 1) < 0.15
    unit = series.values / series.scales
    assert abs(np.quantile(unit, 0.99) - 3.14) < 0.15  # Student's t with 6 degrees
    square = series.values**2
    assert np.corrcoef(square[1:], square[:-1])[0, 1] > 0.1
    assert StudentLosses().load(3).is_constant
    with pytest.raises(ValueError, match="the variance would have no mean"):
        GarchLosses(reaction=0.5, memory=0.6)


def test_covariates_know_only_the_past():
    values = np.random.default_rng(0).standard_normal(300)
    before, _ = known_before(values)
    changed = values.copy()
    changed[200:] *= 5
    after, _ = known_before(changed)
    assert_close(after[:201], before[:201], 0)
    assert (after[201] != before[201]).any()


def test_signs_of_losses_in_files(tmp_path):
    levels = np.array([100.0, 110.0, 99.0, 99.0])
    path = tmp_path / "a.csv"
    pl.DataFrame({"price": levels, "pnl": [1.0, -2.0, 0.5, 0.0]}).write_csv(path)
    long = FileLosses(path=str(path), column="price").load(0)
    assert_close(long.values, -np.diff(np.log(levels)), 1e-12)
    short = FileLosses(path=str(path), column="price", content="prices", position="short").load(0)
    assert_close(short.values, [10, -11, 0], 1e-12)
    assert_close(FileLosses(path=str(path), column="pnl", content="pnl").load(0).values, [-1, 2, -0.5, 0], 1e-12)
    with pytest.raises(DataError, match=r'row 2 of column "pnl" is -2\.0, expected a price > 0'):
        FileLosses(path=str(path), column="pnl").load(0)


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("estimation.tail_levels=[0.95, 0.999]", "1200 losses leave 1.2 beyond the level 0.999"),
        ("estimation.tail_levels=[1.5]", r"expected rising numbers in \(0, 1\)"),
        ("estimation.tail_levels=0.99", "estimation.tail_levels: expected a list, each entry a number, got 0.99"),
        ("losses.reaction=0.5", "the variance would have no mean"),
    ],
)
def test_impossible_settings_are_named(tmp_path, override, text):
    with pytest.raises((ConfigError, DataError, ValueError), match=text):
        run_small(tmp_path / "run", *SMALL, override)


@pytest.mark.thorough
def test_intervals_of_the_flow_do_not_depend_on_the_unit():
    losses = student_t.sample(jax.random.key(1), jnp.asarray(5.0), 2000)
    errors = [
        float(jax.jit(_standard_error, static_argnums=2)(first_flow(unit * losses), unit * losses, 0.99)) / unit
        for unit in (1.0, 1e-4)
    ]
    assert_close(jnp.asarray(errors[1]), errors[0], 1e-6)
    # About as far as samples of this size are apart: see the formula in docs/equations.md.
    assert 0.1 < errors[0] < 1


def test_constant_losses_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    pl.DataFrame({"pnl": np.r_[np.zeros(999), 1.0]}).write_csv(path)
    given = ["losses.kind=file", f"losses.path={path}", "losses.column=pnl", "losses.content=pnl"]
    with pytest.raises(DataError, match="1 different losses, expected at least 20: constant losses"):
        run_small(tmp_path / "run", *given)


@pytest.mark.thorough
def test_a_short_run_ends_with_its_tables(tmp_path):
    outcome = run_small(
        tmp_path / "run",
        "losses.n_rows=400",
        "estimation.n_draws=1000",
        "estimation.n_null=99",
        "estimation.tail_levels=[0.9]",
    )
    assert outcome.code == DONE
    first, second = outcome.metrics["tables"]
    assert len(first["rows"]) == 5
    assert [row[1] for row in second["rows"]] == ["history", "moving normal", "flow", "conditional flow", "truth"]
