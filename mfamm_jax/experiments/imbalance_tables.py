"""Numbers and tables of `imbalance_training`: the network next to its competitors, with intervals from blocks of time."""

from typing import Any

import jax
import numpy as np

from mfamm_jax.experiments.imbalance_data import BLOCKS
from mfamm_jax.experiments.imbalance_fit import MEASURES
from mfamm_jax.experiments.imbalance_scores import (
    Estimate,
    area_estimate,
    calibration_slope,
    gain_estimate,
    logit,
    reliability,
    time_blocks,
)

STRONG = 0.3  # |DOI| beyond which the rulebook speaks of pressure


def competitors(experiment: Any, prepared: Any, results: dict[str, Any]) -> dict[str, np.ndarray]:
    """Score of every test sample by name, the network first."""
    test = prepared.report["samples"].part("test")
    grid = np.asarray(prepared.grid, float)
    swapped = np.asarray(experiment.net().mirror(prepared.grid), float)
    linear = ((grid - swapped) / 2).reshape(len(grid), -1) @ np.asarray(prepared.linear, float)
    return {
        "network": np.asarray(results["score"], float),
        "microprice move": test.microprice_move.astype(float),
        "queue imbalance": test.queue_imbalance.astype(float),
        "linear logistic": linear,
        "untrained network": np.asarray(results["untrained"], float),
    }


def imbalance_metrics(experiment: Any, prepared: Any, results: dict[str, Any]) -> dict[str, Any]:
    """Headline numbers, then tables."""
    report = prepared.report
    facts, test = report["sample_facts"], report["samples"].part("test")
    scores = competitors(experiment, prepared, results)
    n_blocks = experiment.split.n_blocks
    where = (test.label, time_blocks(test.seconds, n_blocks), n_blocks)
    areas = {name: area_estimate(score, *where) for name, score in scores.items()}
    gains = {name: gain_estimate(scores["network"], s, *where) for name, s in scores.items() if name != "network"}
    network, best = areas["network"], None
    if np.isfinite(test.up_probability).all():
        areas["planted truth"] = area_estimate(test.up_probability, *where)
        best = areas["planted truth"].value
    share = (network.value - 0.5) / (best - 0.5) if best is not None and best > 0.5 else None
    probability = calibrated(prepared, experiment, scores["network"])
    quality = reliability(probability, test.label)
    is_odd = bool((np.asarray(results["mirrored"]) == -np.asarray(results["score"])).all())
    best_look = int(np.argmax(np.asarray(prepared.history)[:, MEASURES.index("stopping_area")]))
    looks = {name: float(x) for name, x in zip(MEASURES, np.asarray(prepared.history)[best_look])}
    return {
        "ok": bool(np.isfinite(network.value)) and is_odd and not report["is_collapsed"],
        "test_auc": network.value,
        "test_auc_low": network.low,
        "test_auc_high": network.high,
        "significant": network.low > 0.5,
        "beats_every_baseline": all(gain.low > 0 for gain in gains.values()),
        "bayes_auc": best,
        "share_of_bayes": share,
        "calibration_slope": prepared.report["slope"][0] if "slope" in report else None,
        "brier": quality.brier,
        "log_loss": quality.log_loss,
        "odd_to_the_last_bit": is_odd,
        "collapsed": report["is_collapsed"],
        "best_step": int(looks["step"]),
        "parameters": sum(x.size for x in jax.tree.leaves(prepared.params)),
        "facts": report["facts"],
        "tables": [
            _score_table(areas, gains, n_blocks),
            _sample_table(facts, experiment),
            _reliability_table(quality),
            _look_table(prepared, looks),
        ],
    }


def calibrated(prepared: Any, experiment: Any, score: np.ndarray) -> np.ndarray:
    """P(up) of scores, by the slope fitted on the stopping block."""
    return 1 / (1 + np.exp(-stopping_slope(prepared, experiment) * logit(score)))
