"""Experiment `transport_execution`: masses arrive, the plan that knows its impact is the cheapest, limits are those expected."""

import numpy as np
import pytest

from mfamm_jax.experiments.config import load_config
from mfamm_jax.experiments.record import RunFolder
from mfamm_jax.experiments.runner import DONE, run
from mfamm_jax.market.events import DataError

SMALL = ["panel.n_rows=500", "panel.n_assets=4", "slots.n_times=6"]


def run_small(root, *overrides):
    config = load_config("transport_execution", [*SMALL, *overrides])
    folder = RunFolder(root, config)
    folder.open(fresh=False)
    outcome = run(config, folder, say=lambda _: None)
    assert outcome.code == DONE
    with np.load(root / "arrays" / "base.npz") as file:
        return outcome.metrics, dict(file)


@pytest.mark.thorough
def test_the_plan_that_knows_its_impact_is_the_best_of_its_objective(tmp_path):
    metrics, arrays = run_small(tmp_path / "run")
    objective = {name: float(arrays[f"{name}/objective"]) for name in ("pro_rata", "frozen", "full")}
    assert objective["full"] <= objective["frozen"] <= objective["pro_rata"]
    assert metrics["cost"] < metrics["cost_pro_rata"]
    plan = arrays["full/plan"]
    np.testing.assert_allclose(plan.sum(axis=1), 0.25, atol=1e-9)
    volume = 1 + (2 * (np.arange(6) + 0.5) / 6 - 1) ** 2
    capacity = 2 * np.repeat(volume / volume.sum(), 2) / 2
    assert (plan.sum(axis=0) <= capacity + 1e-9).all()
    # A dearer departure from pro rata costs more, and prices every plan between the two.
    costs = arrays["path/costs"].sum(axis=1)
    assert costs[0] < costs[-1] < metrics["cost_pro_rata"]
    assert "share of the basket left" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.thorough
def test_what_does_not_fit_stays_and_what_just_fits_fills_everything(tmp_path):
    _, short = run_small(tmp_path / "short", "slots.capacity=0.5")
    assert short["full/plan"].shape == (4, 13)
    np.testing.assert_allclose(short["full/plan"][:, -1].sum(), 0.5, atol=1e-9)
    _, exact = run_small(tmp_path / "exact", "slots.capacity=1.0")
    np.testing.assert_allclose(exact["full/plan"].sum(), 1.0, atol=1e-9)


@pytest.mark.slow
def test_waiting_is_cheap_without_risk_aversion_and_the_dear_venue_is_avoided(tmp_path):
    patient, _ = run_small(
        tmp_path / "a", "objective.risk_aversion=0", "slots.fee_step=20", "slots.u_shape=0", "slots.capacity=3.0"
    )
    hurried, _ = run_small(
        tmp_path / "b", "objective.risk_aversion=30", "slots.fee_step=20", "slots.u_shape=0", "slots.capacity=3.0"
    )
    times = [float(m["tables"][0]["rows"][2][6]) for m in (patient, hurried)]
    assert abs(times[0] - 0.5) < 1e-3
    assert times[1] < 0.4
    assert all(row[5] > 0.95 for row in patient["tables"][1]["rows"])


@pytest.mark.slow
def test_hedged_baskets_move_prices_less(tmp_path):
    """Correlated prices: selling one while buying the other offsets."""
    both, _ = run_small(tmp_path / "a", "panel.n_assets=2", "basket.sides=long_short")
    bought, _ = run_small(tmp_path / "b", "panel.n_assets=2", "basket.sides=buy")
    assert both["tables"][0]["rows"][0][2] < 0.5 * bought["tables"][0]["rows"][0][2]


def test_panels_without_a_covariance_are_refused(tmp_path):
    with pytest.raises(DataError, match="returns of 40 assets, expected at least 200"):
        run_small(tmp_path / "run", "panel.n_rows=150", "panel.n_assets=40")
