"""Numbers and tables of experiment `optimal_schedule`."""

from typing import Any

import numpy as np


def schedule_metrics(
    experiment: Any, complaints: tuple[str, ...], results: dict[str, Any], names: tuple[str, ...]
) -> dict[str, Any]:
    """Headline numbers, then tables."""
    linear, opponents, search = results["linear"], results["opponents"], results["search"]
    rows = []
    for i, name in enumerate(names):
        numbers = (
            linear["cost"][i],
            linear["deviation"][i],
            opponents["budget"][i],
            opponents["informed"][i],
            opponents["learned"][i],
        )
        rows.append([name, *(float(x) for x in numbers)])
    first = {
        "title": "Under linear impact: cost of a schedule alone, and what opponents add",
        "header": ["schedule", "cost", "std of cost", "worst of a budget", "knows the schedule", "learned it"],
        "rows": rows,
        "notes": [
            "Costs include the half spread and opponents.quadratic_cost. Opponents end flat. The first may disturb trading by a given length just before us; the second makes the most profitable trades "
            "there are against the whole schedule; the third saw many orders of either direction worked this way and sees only the past. "
            f"They make {_list(opponents['informed_profit'])} and {_list(opponents['learned_profit'])}.",
            "Equilibrium: neither side gains by changing alone, where the opponent knows the schedule [Schied and Zhang 2019].",
        ],
    }
    paid = bool(search["paid"])
    rows = [["even", float(search["even_cost"]), 0.0, experiment.order.n_steps]]
    for label, key in (("found, forward only", "forward"), ("found, with reversals", "both")):
        if key == "both" and paid:
            rows.append([label, "without bound: round trips make money", "", ""])
            continue
        one = search[key]
        rates = np.abs(np.asarray(one.rates, float))
        rows.append([label, float(one.cost), float(one.sold_share), int((rates > 1e-3 * rates.max()).sum())])
    exponent = float(experiment.impact.exponent)
    second = {
        "title": f"Under impact of the rate to the power {exponent:g}, half spread included",
        "header": ["programme", "cost", "share traded against it", "steps in use"],
        "rows": rows,
        "notes": [f"Known grounds for round trips to make money: {'; '.join(complaints) or 'none'}."],
    }
    return {
        "ok": bool(search["solved"]) and bool(np.isfinite(np.asarray(linear["cost"])).all()),
        "cheapest_cost": float(linear["cost"][2]),
        "even_cost": float(linear["cost"][0]),
        "informed_harm_to_cheapest": float(opponents["informed"][2]),
        "informed_harm_to_equilibrium": float(opponents["informed"][3]),
        "concave_even": float(search["even_cost"]),
        "concave_cost": float(search["forward"].cost),
        "schedules": list(names),
        "tables": [first, second],
    }


def _list(values: Any) -> str:
    return ", ".join(f"{float(x):.3g}" for x in np.asarray(values))
