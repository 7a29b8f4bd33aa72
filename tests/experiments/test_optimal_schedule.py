"""Experiment `optimal_schedule`: schedules are what they claim, opponents are bounded, bad models are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.experiments.config import ConfigError, construct, load_config
from mfamm_jax.experiments.optimal_schedule import step_matrix
from mfamm_jax.experiments.record import RunFolder
from mfamm_jax.experiments.runner import DONE, run
from mfamm_jax.models.impact import InstantImpact, trading_cost

from ..checks import assert_close

SMALL = [
    "order.n_steps=8",
    "opponents.n_training=200",
    "opponents.n_orders=8",
    "search.n_starts=3",
    "search.max_iterations=200",
]


def run_small(root, *overrides):
    config = load_config("optimal_schedule", [*SMALL, *overrides])
    folder = RunFolder(root, config)
    folder.open(fresh=False)
    return run(config, folder, say=lambda _: None)


@pytest.mark.thorough
def test_the_table_says_who_is_cheapest_and_who_loses_least(tmp_path):
    outcome = run_small(tmp_path / "run")
    assert outcome.code == DONE
    first, second = outcome.metrics["tables"]
    rows = {row[0]: row[1:] for row in first["rows"]}
    assert min(rows, key=lambda name: rows[name][0]) == "cheapest alone"
    assert min(rows, key=lambda name: rows[name][1]) == "front-loaded"
    # Against an opponent who knows it the equilibrium costs less in all than what is cheapest alone, or as much.
    total = {name: row[0] + row[3] for name, row in rows.items()}
    assert total["equilibrium"] <= total["cheapest alone"] + 1e-9
    costs = [row[1] for row in second["rows"]]
    assert costs[0] > costs[1] > costs[2] > 0
    with np.load(tmp_path / "run" / "arrays" / "base.npz") as arrays:
        assert_close(arrays["linear/trades"].sum(axis=1), 1.0, 1e-6)
        assert (arrays["opponents/informed_profit"] >= arrays["opponents/learned_profit"] - 1e-9).all()
        assert_close(arrays["opponents/informed_trades"].sum(axis=1), 0.0, 1e-9)
    assert "share of the order left" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["power", "shifted_power", "exponential"])
def test_the_matrix_prices_shares_as_the_impact_model_does(kind):
    with jax.enable_x64(True):
        experiment = construct(
            load_config(
                "optimal_schedule", [f"decay.kind={kind}", "order.n_steps=6", "order.horizon=2", "impact.scale=3"]
            )
        )
        shares = jnp.asarray(np.random.default_rng(0).standard_normal(6))
        matrix = step_matrix(experiment)
        priced = trading_cost(shares * 3, 1 / 3, experiment.decay.kernel(), InstantImpact(3.0, 1.0))
        assert_close(0.5 * shares @ matrix @ shares, priced, 1e-6)
        assert float(jnp.linalg.eigvalsh(matrix)[0]) > 0


def test_models_that_pay_for_round_trips_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="finite at 0 allows no impact but a linear one"):
        run_small(tmp_path / "refused", "decay.kind=exponential", "order.half_spread=0")


@pytest.mark.slow
def test_under_a_half_spread_they_are_reported(tmp_path):
    wild = [
        "decay.kind=exponential",
        "order.half_spread=0.0001",
        "impact.exponent=0.4",
        "decay.resilience=1",
        "order.n_steps=12",
        "search.n_starts=8",
        "search.max_iterations=500",
    ]
    outcome = run_small(tmp_path / "run", *wild)
    assert outcome.metrics["tables"][1]["rows"][2][1] == "without bound: round trips make money"
    assert "finite at 0" in outcome.metrics["tables"][1]["notes"][0]
