"""Derivatives of a run's metrics, beside finite differences."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.experiments.config import ConfigError, load_config
from mfamm_jax.experiments.record import RunFolder
from mfamm_jax.experiments.runner import run
from mfamm_jax.experiments.sensitivities import sensitivity_metrics

PATHS = ["parameters.risk_aversion", "parameters.volatility", "parameters.drift"]
SMALL = ["max_inventory=4", "sweep={}", "parameters.horizon=10.0"]


def run_small(root, *overrides, name="hjb_sweep", paths=PATHS):
    config = load_config(name, [*overrides, f"sensitivities={json.dumps(paths)}"])
    folder = RunFolder(root, config)
    folder.open(fresh=False)
    return run(config, folder, say=lambda _: None)


@pytest.mark.thorough
def test_derivatives_agree_with_differences_and_obey_the_product_rule(tmp_path):
    told = run_small(tmp_path, *SMALL).metrics["sensitivities"]
    for metric, rows in told.items():
        for path, row in rows.items():
            assert row["agree"] is True, (metric, path, row)
    # Only gamma sigma^2 matters: per relative change the volatility counts twice.
    for metric in ("value", "spread", "skew_per_lot", "inventory_penalty"):
        gamma, sigma = (told[metric][path] for path in PATHS[:2])
        np.testing.assert_allclose(2 * gamma["autodiff"] * 0.1, sigma["autodiff"] * 0.3, rtol=1e-9)
    assert told["inventory_penalty"][PATHS[0]]["autodiff"] == pytest.approx(0.09, rel=1e-12)
    # A drift of the mid moves bid and ask alike.
    assert told["ask_depth"][PATHS[2]]["autodiff"] > 0
    assert told["spread"][PATHS[2]]["autodiff"] == pytest.approx(0, abs=1e-9)
    with np.load(tmp_path / "arrays" / "base.npz") as file:
        value, inventory = file["sensitivity/tangent/surface/value"], file["sensitivity/value/surface/inventory"]
    np.testing.assert_allclose(value[2], -value[2][::-1], atol=1e-9)  # odd in the inventory
    assert inventory.tolist() == list(range(-4, 5))
    assert "tornado" in {path.stem for path in (tmp_path / "figures").iterdir()}


@pytest.mark.thorough
def test_one_side_s_decay_can_be_moved_although_the_run_used_a_linear_scheme(tmp_path):
    """Moved decays differ, which the linear schemes refuse: the differences get a scheme that serves them."""
    told = run_small(tmp_path, *SMALL, paths=["parameters.ask_decay"]).metrics["sensitivities"]
    assert told["ask_depth"]["parameters.ask_decay"]["agree"] is True
    assert told["ask_depth"]["parameters.ask_decay"]["autodiff"] < -0.1


def test_parameters_that_were_not_solved_where_moved_are_told():
    row = {"value": jnp.asarray(1.0)}
    slope = {"value": jnp.asarray([2.0])}
    found = {"at": jnp.ones(1), "unit": jnp.ones(1), "value": {"row": row}, "is_solved": jnp.array([False])}
    found |= {"tangent": {"row": slope}, "difference": {"row": slope}}
    assert sensitivity_metrics(found, ("a",))["value"]["a"]["agree"] is None
    assert sensitivity_metrics(found | {"is_solved": jnp.array([True])}, ("a",))["value"]["a"]["agree"] is True
    other = found | {"is_solved": jnp.array([True]), "difference": {"row": {"value": jnp.asarray([2.1])}}}
    assert sensitivity_metrics(other, ("a",))["value"]["a"]["agree"] is False


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (["parameters.gamma"], "no setting parameters.gamma"),
        (["max_inventory"], "max_inventory is chosen before"),
        (["parameters"], "parameters is chosen before"),
    ],
)
def test_what_has_no_derivative_is_refused(tmp_path, paths, said):
    with pytest.raises(ConfigError, match="sensitivities") as error:
        run_small(tmp_path, *SMALL, paths=paths)
    assert said in str(error.value)


@pytest.mark.parametrize("value", ['"hjb"', "[1]", "true"])
def test_a_wrong_list_is_refused(value):
    with pytest.raises(ConfigError, match="expected a list of settings"):
        load_config("hjb_sweep", [f"sensitivities={value}"])


@pytest.mark.slow
def test_replayed_metrics_are_told_to_jump(tmp_path):
    quick = ["market.duration=120", "simulation.n_paths=16", "simulation.n_steps=60", "sweep={}", "hjb.horizon=60.0"]
    told = run_small(tmp_path, *quick, name="quickstart", paths=["hjb.risk_aversion"]).metrics["sensitivities"]
    assert told["expected_pnl"]["hjb.risk_aversion"]["agree"] is True
    assert told["half_spread"]["hjb.risk_aversion"]["agree"] is True
