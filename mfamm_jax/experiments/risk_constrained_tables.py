"""Numbers and tables of experiment `risk_constrained`."""

from typing import Any

import numpy as np


def risk_metrics(experiment: Any, results: dict[str, Any]) -> dict[str, Any]:
    """Headline numbers, then the frontier."""
    search, judge = results["search"], {name: np.asarray(x, float) for name, x in results["judge"].items()}
    limit = float(experiment.limit.breach_probability)
    values = np.concatenate([np.asarray(search["start"])[None], np.asarray(search["parameters"])])
    limits = np.asarray(search["limits"], float)
    labels = ["as given", "no limit", *(f"{x:.3g}" for x in limits[1:])]
    price = [None, None, *np.asarray(search["price"], float)[1:]]
    kept = judge["upper"][2:] <= limits[1:] + 1e-12
    rows = []
    for i, label in enumerate(labels):
        interval = f"{judge['breach'][i]:.3g} +- {judge['error'][i]:.1g}"
        rows.append(
            [
                label,
                *(float(x) for x in values[i]),
                float(judge["mean"][i]),
                float(judge["std"][i]),
                interval,
                float(judge["upper"][i]),
                "" if price[i] is None else float(price[i]),
            ]
        )
    n_fresh = -(-experiment.search.n_fresh // experiment.search.n_paths) * experiment.search.n_paths
    what = "the start" if experiment.limit.kind == "barrier" else "the highest point so far"
    table = {
        "title": "The most profitable parameters under each limit on the probability of a breach",
        "header": [
            "limit",
            *experiment.free,
            "mean P&L",
            "std",
            "P(breach)",
            "95 % bound",
            "price of limit",
        ],
        "rows": rows,
        "notes": [
            f"A breach is a fall of {float(experiment.threshold):.4g} below {what}. Means and deviations are exact for the simulated scheme; probabilities "
            f"come from {n_fresh:,} paths that no search has seen, with a bridge between their points. The bound is one-sided.",
            "Price: mean P&L gained per unit of the limit's logarithm.",
        ],
    }
    counts = zip(labels, judge["breach"], judge["counted"], judge["counted_low"], judge["counted_high"])
    counted = {
        "title": "What counting at the ends of steps would have reported",
        "header": ["limit", "P(breach)", "counted", "from", "to"],
        "rows": [[label, *(float(x) for x in numbers)] for label, *numbers in counts],
        "notes": ["Clopper-Pearson's 95 % interval of the counted share. Crossings within steps are missed."],
    }
    if not kept[-1]:
        table["notes"].append(
            "The bound exceeds the limit. If the search ended at the edge of what search.width allows, no parameters in reach keep it: raise the width or "
            "the limit; if not, raise search.n_iterations or search.n_paths."
        )
    return {
        "ok": bool(kept[-1]),
        "mean_pnl": float(judge["mean"][-1]),
        "mean_pnl_without_limit": float(judge["mean"][1]),
        "breach_probability": float(judge["breach"][-1]),
        "breach_upper_bound": float(judge["upper"][-1]),
        "limit": limit,
        "limits_kept": int(kept.sum()),
        "limits_searched": int(kept.size),
        **{name: float(values[-1, i]) for i, name in enumerate(experiment.free)},
        "threshold": float(experiment.threshold),
        "tables": [table, counted],
    }
