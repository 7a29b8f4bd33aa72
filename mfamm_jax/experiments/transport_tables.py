"""Numbers and tables of experiment `transport_execution`."""

from typing import Any

import numpy as np

LABELS = {"pro_rata": "pro rata", "frozen": "impact of pro rata priced in", "full": "impact of the plan itself"}


def execution_metrics(experiment: Any, prepared: Any, results: dict[str, Any]) -> dict[str, Any]:
    """Headline numbers, then tables."""
    slots, panel, signs = experiment.slots, prepared.report["panel"], prepared.report["signs"]
    time = np.repeat((np.arange(slots.n_times) + 0.5) / slots.n_times, slots.n_venues)
    rows, costs = [], {}
    for name, label in LABELS.items():
        one = results[name]
        plan = np.asarray(one["plan"], float)[:, : len(time)]
        own, mutual = float(one["own"]), float(one["impact"])
        costs[name] = own + mutual
        rows.append(
            [
                label,
                own,
                mutual,
                own + mutual,
                float(one["objective"]),
                plan.sum(),
                float((plan @ time).sum() / plan.sum()),
            ]
        )
    first = {
        "title": "What the basket costs [bp of its notional]",
        "header": ["plan", "own cost", "cross impact", "both", "objective", "share traded", "mean time [day]"],
        "rows": rows,
        "notes": [
            "Own cost: half spread, fee, temporary impact, waiting, and what stays untraded. The objective adds the price of departing from pro "
            "rata, objective.regularization times the relative entropy; only the last plan minimises it."
        ],
    }
    plan = np.asarray(results["full"]["plan"], float)[:, : len(time)]
    shares = plan / plan.sum(axis=1, keepdims=True)
    rows = []
    for name, sign, share, variance in zip(panel.columns, signs, shares, np.asarray(prepared.variance, float)):
        venues = share.reshape(slots.n_times, slots.n_venues).sum(axis=0)
        rows.append(
            [
                name,
                "buy" if sign > 0 else "sell",
                variance,
                float(share @ time),
                float(share[: len(time) // 2].sum()),
                venues[0],
            ]
        )
    second = {
        "title": "The last plan by asset",
        "header": [
            "asset",
            "side",
            "variance over the mean",
            "mean time [day]",
            "in the first half",
            "on the cheapest venue",
        ],
        "rows": rows,
        "notes": ["Assets of more variance go first; sides whose impacts offset are worked together."],
    }
    return {
        "ok": bool(results["solved"]),
        "cost": costs["full"],
        "cost_frozen": costs["frozen"],
        "cost_pro_rata": costs["pro_rata"],
        "columns": list(panel.columns),
        "n_times": slots.n_times,
        "n_venues": slots.n_venues,
        "tables": [first, second],
    }
