"""Numbers and tables of experiment `impact_fit`."""

from typing import Any

import numpy as np

LABELS = ("structured (20)", "free network (21)", "linear propagator", "immediate and linear")


def impact_metrics(experiment: Any, prepared: Any, results: dict[str, Any]) -> dict[str, Any]:
    """Headline numbers, then tables."""
    flow, fit, judge = prepared.report["flow"], results["fit"], results["judge"]
    explained, clean = np.asarray(judge["explained"], float), np.asarray(judge["explained_clean"], float)
    headline = {
        "ok": bool(fit["converged"]),
        "explained": explained[0],
        "explained_low": float(judge["interval"][0, 0]),
        "explained_high": float(judge["interval"][0, 1]),
        "explained_by_free_network": explained[1],
        "second_singular_value": float(fit["singular_values"][1] / fit["singular_values"][0]),
        "noise": flow.noise,
    }
    if flow.clean is not None:
        headline |= {"explained_of_the_noiseless": clean[0], "free_of_the_noiseless": clean[1]}
    return headline | {"tables": [_models(flow, judge, clean), _kernel(flow, fit)]}


def _models(flow: Any, judge: dict[str, Any], clean: np.ndarray) -> dict[str, Any]:
    rows = []
    for i, label in enumerate(LABELS):
        low, high = (float(x) for x in judge["interval"][i])
        row = [label, float(judge["explained"][i]), f"{low:.4g} to {high:.4g}"]
        rows.append(row + ([clean[i]] if flow.clean is not None else []))
    what = "the price's changes" if flow.noise == "random_walk" else "the price"
    return {
        "title": "Share of variance explained in the last part",
        "header": [
            "model",
            f"of {what}",
            "95 % interval",
            *(["of the noiseless response"] if flow.clean is not None else []),
        ],
        "rows": rows,
        "notes": [
            "Fitted on the first part. Volume of a step explains the price at its end, so this is impact, not a forecast. Intervals: bootstrap "
            "over stretches of the last part.",
        ],
    }


def _kernel(flow: Any, fit: dict[str, Any]) -> dict[str, Any]:
    kernel, rows = np.asarray(fit["kernel"], float), []
    for k in (0, 1, 2, 5, 10, 20, 50, 100, 200):
        rows.append([k, kernel[k], *([float(flow.kernel[k])] if flow.kernel is not None else [])])
    values = np.asarray(fit["singular_values"], float)
    return {
        "title": "Decay of impact",
        "header": ["lag [steps]", "f, 1 at lag 0", *(["true"] if flow.kernel is not None else [])],
        "rows": rows,
        "notes": [
            f"Time constants: {', '.join(f'{1 / r:.3g}' for r in np.asarray(fit['rates_of_decay'], float))} steps. Least squares without structure "
            f"on 30 lags has the singular values {', '.join(f'{x:.3g}' for x in values[:3])}: if (20) holds, all but the first are noise."
        ],
    }
