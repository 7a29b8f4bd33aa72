"""Numbers and tables of `imbalance_training`: the network next to its competitors, with intervals from blocks of time."""

from typing import Any

import jax
import numpy as np

from mfamm_jax.experiments.imbalance_data import BLOCKS, MEASURES, SampleFacts
from mfamm_jax.experiments.imbalance_scores import (
    Estimate,
    Reliability,
    area_estimate,
    gain_estimate,
    reliability,
    time_blocks,
)
from mfamm_jax.models.flax_function import n_parameters

STRONG = 0.3  # |DOI| beyond which the rulebook speaks of pressure


def competitors(prepared: Any, results: dict[str, Any]) -> dict[str, np.ndarray]:
    """Score of every test sample by name, the network first."""
    test = prepared.report["samples"].part("test")
    return {
        "network": np.asarray(results["score"], float),
        "microprice move": test.microprice_move.astype(float),
        "queue imbalance": test.queue_imbalance.astype(float),
        "linear logistic": np.asarray(results["linear"], float),
        "untrained network": np.asarray(results["untrained"], float),
    }


def imbalance_metrics(experiment: Any, prepared: Any, results: dict[str, Any]) -> dict[str, Any]:
    """Headline numbers, then tables."""
    report = prepared.report
    test = report["samples"].part("test")
    scores, n_blocks = competitors(prepared, results), experiment.split.n_blocks
    where = (test.label, time_blocks(test.seconds, n_blocks), n_blocks)
    areas = {name: area_estimate(score, *where) for name, score in scores.items()}
    gains = {name: gain_estimate(scores["network"], s, *where) for name, s in scores.items() if name != "network"}
    network = areas["network"]
    headline: dict[str, Any] = {
        "test_auc": network.value,
        "test_auc_low": network.low,
        "test_auc_high": network.high,
        "significant": network.excludes(0.5),
        "beats_every_baseline": all(gain.low > 0 for gain in gains.values()),
    }
    if np.isfinite(test.up_probability).all():
        areas["planted truth"] = area_estimate(test.up_probability, *where)
        best = areas["planted truth"].value
        headline |= {"bayes_auc": best, "share_of_bayes": (network.value - 0.5) / (best - 0.5) if best > 0.5 else None}
    quality = reliability(np.asarray(results["probability"], float), test.label)
    raw = reliability((1 + scores["network"]) / 2, test.label)
    is_odd = bool((np.asarray(results["mirrored"]) == -np.asarray(results["score"])).all())
    history = np.asarray(prepared.history)
    looks = dict(zip(MEASURES, history[int(np.argmax(history[:, MEASURES.index("stopping_area")]))].tolist()))
    return {
        "ok": bool(np.isfinite(network.value)) and is_odd and not report["is_collapsed"],
        **headline,
        "calibration_error": quality.error,
        "calibration_error_before": raw.error,
        "brier": quality.brier,
        "log_loss": quality.log_loss,
        "odd_to_the_last_bit": is_odd,
        "collapsed": report["is_collapsed"],
        "best_step": int(looks["step"]),
        "parameters": n_parameters(prepared.params),
        "facts": report["facts"],
        "tables": [
            _score_table(areas, gains, len(np.unique(where[1]))),
            _reliability_table(quality, raw),
            _strength_table(scores["network"], test.label, test.move_ticks),
            _sample_table(report["sample_facts"]),
            _look_table(looks, len(history)),
        ],
    }


def kept_arrays(prepared: Any, results: dict[str, Any]) -> dict[str, Any]:
    """What the figures need, and what it takes to use the network elsewhere."""
    samples = prepared.report["samples"].part("test")
    quality = reliability(np.asarray(results["probability"], float), samples.label)
    scale = prepared.report["sample_facts"].scale
    names = [
        ".".join(str(getattr(k, "key", k)) for k in path) for path, _ in jax.tree.leaves_with_path(prepared.params)
    ]
    return {
        "imbalance": {
            **{name: results[name] for name in ("embedding", "score")},
            "label": prepared.label,
            "seconds": samples.seconds,
            "history": prepared.history,
            "reliability": {name: getattr(quality, name) for name in ("predicted", "observed", "count")},
            "scale": {"location": scale.location, "scale": scale.scale},
            "calibration": {"strength": prepared.calibration.strength, "hit": prepared.calibration.hit},
            "weights": dict(zip(names, jax.tree.leaves(prepared.params))),
        }
    }


def _score_table(areas: dict[str, Estimate], gains: dict[str, Estimate], n_blocks: int) -> dict[str, Any]:
    rows = []
    for name, one in areas.items():
        gain = gains.get(name)
        more = [gain.value, str(gain), _verdict(gain)] if gain else ["", "", ""]
        rows.append([name, one.value, one.error, str(one), *more])
    verdict = "differs from chance" if areas["network"].excludes(0.5) else "does NOT differ from chance"
    return {
        "title": "Test block: area under the curve (0.5 = chance)",
        "header": ["score", "AUC", "std. error", "95 % interval", "network more by", "95 % interval ", "network is"],
        "rows": rows,
        "notes": [
            f"Jackknife over {n_blocks} blocks of time; gains on the same samples. The network {verdict} at 5 %.",
            "The microprice and queue imbalance look at the last snapshot only; the linear score sees the whole grid; the untrained "
            "network has random weights and the prototypes of the fit block.",
        ],
    }


def _verdict(gain: Estimate) -> str:
    if not gain.excludes(0):
        return "not distinguishable"
    return "better" if gain.value > 0 else "WORSE"


def _reliability_table(quality: Reliability, raw: Reliability) -> dict[str, Any]:
    rows = [list(row) for row in zip(quality.predicted.tolist(), quality.observed.tolist(), quality.count.tolist())]
    return {
        "title": "Test block: probability of up, from the score by isotonic regression on the stopping block",
        "header": ["predicted", "observed", "samples"],
        "rows": rows,
        "notes": [
            f"Brier score {quality.brier:.4g} (0.25 = a coin), log loss {quality.log_loss:.4g} (0.6931 = a coin), mean distance of predicted "
            f"and observed {quality.error:.4g}; with (1 + DOI)/2 as the probability {raw.brier:.4g}, {raw.log_loss:.4g} and {raw.error:.4g}."
        ],
    }


def _strength_table(score: np.ndarray, label: np.ndarray, move: np.ndarray) -> dict[str, Any]:
    rows = []
    for name, chosen in (
        (f"DOI > {STRONG}: buying pressure", score > STRONG),
        ("between", np.abs(score) <= STRONG),
        (f"DOI < -{STRONG}: selling pressure", score < -STRONG),
    ):
        n = int(chosen.sum())
        up = float((label[chosen] > 0).mean()) if n else ""
        rows.append([name, n, up, float(move[chosen].mean()) if n else ""])
    return {
        "title": "Test block by the rulebook's thresholds",
        "header": ["score", "samples", "share of up", "mean move [ticks]"],
        "rows": rows,
        "notes": ["Labelled samples only."],
    }


def _sample_table(facts: SampleFacts) -> dict[str, Any]:
    rows = [[name, *(facts.counts[name][k] for k in ("up", "down", "flat"))] for name in BLOCKS]
    return {
        "title": "Samples",
        "header": ["block", "up", "down", "flat"],
        "rows": rows,
        "notes": [
            f"Moves below {facts.flat_ticks:.4g} ticks are flat and not used. {facts.n_purged:,} samples near the blocks' boundaries are "
            f"purged. Anchor and positive lie at least {facts.gap:.4g} s apart.",
        ],
    }


def _look_table(looks: dict[str, float], n_looks: int) -> dict[str, Any]:
    return {
        "title": f"Best of {n_looks} looks at the stopping block",
        "header": ["measure", "value"],
        "rows": [[name.replace("_", " ").replace("area", "AUC"), value] for name, value in looks.items()],
        "notes": [
            "Distances of embeddings of length one: random ones are about 1.4 apart, collapsed ones 0. n dimensions: directions in use; "
            "active share: triplets with a loss."
        ],
    }
