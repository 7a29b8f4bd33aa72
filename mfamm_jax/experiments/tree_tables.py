"""Numbers and tables of experiment `intensity_trees` for the screen, `metrics.json` and the report."""

from typing import Any

import numpy as np

from mfamm_jax.experiments.tree_judge import GAINS, MODELS, Prepared

SIDES = ("bid", "ask")
MOST_DEPTHS = 10  # rows of a table; all of them are in arrays/base.npz


def tree_metrics(prepared: Prepared, results: dict[str, Any]) -> dict[str, Any]:
    """Headline numbers, then tables."""
    report, control = prepared.report, results["control"]
    middle = control["inventory"].shape[0] // 2
    half = 0.5 * np.asarray(control["bid_depth"] + control["ask_depth"])[:, middle]
    gains = {side: results["judge"][side]["gains"] for side in SIDES}
    headline = {f"{side}_trees": getattr(prepared, side).trees.n_trees for side in SIDES}
    for side in SIDES:
        headline[f"{side}_gain_over_log_linear"] = gains[side]["trees over log-linear"]["mean"]
    headline |= {f"half_spread_{name.replace('-', '_').replace(' ', '_')}": x for name, x in zip(MODELS, half)}
    return {
        "ok": bool(np.all(control["ok"])) and all(np.isfinite(float(value)) for value in headline.values()),
        **headline,
        "gains": gains,
        "surrogate": results["surrogate"],
        "gain": {side: report["sides"][side]["gain"] for side in SIDES},
        "facts": report["facts"],
        "truth": report["truth"],
        "features": {"used": list(report["names"]), "constant": list(report["constant"])},
        "tables": [
            _gains(gains, results),
            _depths(prepared, results),
            _effects(prepared, results),
            _quotes(prepared, results, half, middle),
            _surrogates(results),
        ],
    }


def _gains(gains: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    rows = []
    for side in SIDES:
        fills, clusters = np.asarray(results["judge"][side]["fills"]).sum(), results["judge"][side]["clusters"]
        for name in GAINS:
            gain = gains[side][name]
            mean, error = float(gain["mean"]), float(gain["error"])
            interval = f"{mean - 1.96 * error:.4g} to {mean + 1.96 * error:.4g}"
            rows.append([side, name, mean, error, interval, int(fills), int(clusters)])
    return {
        "title": "Out of sample: log-likelihood gained per fill",
        "header": ["side", "comparison", "mean", "std. error", "95 % interval", "fills at all depths", "stretches"],
        "rows": rows,
        "notes": [
            "Last block of the session, which neither model has seen. Fills at different depths come from the same orders, and "
            "orders come in bursts: the error allows any dependence within a stretch of time."
        ],
    }


def _depths(prepared: Prepared, results: dict[str, Any]) -> dict[str, Any]:
    rows = []
    for side in SIDES:
        judge = results["judge"][side]
        fills, likelihood = np.asarray(judge["fills"]), judge["likelihood"]
        gain = np.asarray(likelihood["trees"] - likelihood["log-linear"]) / np.maximum(fills, 1)
        for i in np.unique(np.linspace(0, len(fills) - 1, MOST_DEPTHS).round().astype(int)):
            depth = float(prepared.depths[i])
            expected = [float(judge["expected"][name][i]) for name in ("trees", "log-linear")]
            rows.append([side, depth, int(fills[i]), *expected, float(gain[i])])
    return {
        "title": "Out of sample: fills by depth",
        "header": ["side", "depth [price]", "observed", "trees", "log-linear", "gain of the trees per fill"],
        "rows": rows,
        "notes": [
            "A quote counts as filled when an order trades at its price or beyond. All depths: arrays/base.npz, judge."
        ],
    }


def _effects(prepared: Prepared, results: dict[str, Any]) -> dict[str, Any]:
    effect, names = results["effect"], prepared.report["names"][1:]
    middle = prepared.depths.shape[0] // 2
    rows = []
    for side in SIDES:
        gain = prepared.report["sides"][side]["gain"]
        ratios = {}
        for model in MODELS[:2]:
            rates = np.asarray(effect[side][model])[middle]
            ratios[model] = rates[:, -1] / rates[:, 0]
        for i, name in enumerate(names):
            low, high = np.asarray(prepared.quantiles)[i, [0, -1]]
            rows.append([side, name, gain[name], float(low), float(high), *(float(ratios[m][i]) for m in MODELS[:2])])
        rows.append([side, "depth", gain["depth"], float(prepared.depths[0]), float(prepared.depths[-1]), "", ""])
    return {
        "title": "Feature effects",
        "header": [
            "side",
            "feature",
            "share of the gain",
            "5 % quantile",
            "95 % quantile",
            "rate ratio, trees",
            "log-linear",
        ],
        "rows": rows,
        "notes": [
            f"Rate at the high over rate at the low quantile, at a depth of {float(prepared.depths[middle]):.4g} with everything else "
            "at its median. Left out because constant in the fit block: "
            + (", ".join(prepared.report["constant"]) or "nothing")
            + "."
        ],
    }


def _quotes(prepared: Prepared, results: dict[str, Any], half: np.ndarray, middle: int) -> dict[str, Any]:
    control, rows = results["control"], []
    for i, name in enumerate(MODELS):
        bid, ask = (float(control[f"{side}_depth"][i, middle]) for side in SIDES)
        rows.append([name, bid, ask, float(half[i]), float(control["value"][i, middle])])
    return {
        "title": "Quotes without inventory in the median state",
        "header": ["fill curve", "bid depth", "ask depth", "half spread", "expected profit"],
        "rows": rows,
        "notes": [
            f"The HJB equation takes the curves as tables on {prepared.depths.shape[0]} depths and quotes their best node. Expected "
            "profit is what each curve promises itself, so a curve that promises too many fills looks best."
        ],
    }


def _surrogates(results: dict[str, Any]) -> dict[str, Any]:
    rows = []
    for side in SIDES:
        for name in ("soft trees", "exponential"):
            rows.append([side, name, *(float(results["surrogate"][side][name][k]) for k in ("mean", "rms", "largest"))])
    return {
        "title": "What a differentiable fill rate costs",
        "header": ["side", "surrogate", "mean error", "root mean square", "largest"],
        "rows": rows,
        "notes": [
            "Errors of the log rate against the trees: soft thresholds on the last block, one exponential on the table of the median "
            "state."
        ],
    }
