"""Numbers and tables of experiment `routing`."""

from typing import Any

import numpy as np

WAYS = {
    "best": "best set, by enumeration",
    "greedy": "greedy flips from no venue",
    "annealed": "simulated annealing",
    "convex": "convex split over all venues",
}


FORMS = ("exact diagonal", "venue QUBO", "venue QUBO, ancilla (22)", "lot QUBO", "one-hot lots, XY mixer")


def routing_metrics(experiment: Any, prepared: Any, results: dict[str, Any]) -> dict[str, Any]:
    """Headline numbers, then tables."""
    found, names = prepared.report["found"], prepared.report["names"]
    n, forms = len(names), {name: results["forms"][name] for name in FORMS if name in results["forms"]}
    best = float(results["best"].cost)
    tables = []
    if found.measured:
        tables.append(
            {
                "title": "Recorded books",
                "header": [
                    "venue",
                    "mid",
                    "half spread [bp]",
                    "taker fee [bp]",
                    "depth in the band",
                    "slope [bp/unit]",
                    "moments",
                ],
                "rows": [list(row) for row in found.measured],
                "notes": [
                    "Averages over moments equally spaced in time; the slope is that of a book which costs the same to take whole."
                ],
            }
        )
    tables += [
        _ways(experiment, results, forms, names, best, found),
        _split(results, names, found),
        _circuits(experiment, forms, n, best),
    ]
    exact = forms["exact diagonal"]
    return {
        "ok": bool(results["best"].split.feasible) and all(bool(form["ok"]) for form in forms.values()),
        "best_cost": best,
        "second_cost": _finite(float(results["second_cost"])),
        "lower_bound": float(results["lower_bound"]),
        "convex_cost": float(results["convex"].cost),
        "greedy_cost": _finite(float(results["greedy"].cost)),
        "annealed_cost": _finite(float(results["annealed"].cost)),
        "qaoa_cost": _finite(float(exact["best"])),
        "qaoa_mean_cost": float(exact["mean"]),
        "qaoa_p_best": float(exact["p_best"]),
        "best_venues": ", ".join(name for name, on in zip(names, np.asarray(results["best"].active)) if on),
        "n_feasible_sets": int(results["n_feasible"]),
        "venues": list(names),
        "unit": found.unit,
        "cost_unit": found.cost_unit,
        "tables": tables,
    }


def _ways(
    experiment: Any, results: dict[str, Any], forms: dict[str, Any], names: tuple[str, ...], best: float, found: Any
) -> dict[str, Any]:
    rows = []
    for name, label in WAYS.items():
        one = results[name]
        used = ", ".join(venue for venue, on in zip(names, np.asarray(one.active)) if on) or "none"
        rows.append(
            [
                label,
                used,
                _cost(float(one.split.cost)),
                _cost(float(one.cost - one.split.cost)),
                _cost(float(one.cost)),
                _excess(float(one.cost), best),
            ]
        )
    for name, form in forms.items():
        used = _names_of(int(form["best_set"]), names)
        rows.append(
            [
                f"QAOA, {name}, best of {experiment.circuit.n_samples}",
                used,
                "",
                "",
                _cost(float(form["best"])),
                _excess(float(form["best"]), best),
            ]
        )
    exact = forms["exact diagonal"]
    cost = float(exact["best_at_random"])
    used = _names_of(int(exact["best_set_at_random"]), names)
    rows.append(
        [f"sets at random, best of {experiment.circuit.n_samples}", used, "", "", _cost(cost), _excess(cost, best)]
    )
    bound, second = float(results["lower_bound"]), float(results["second_cost"])
    others = f"the second best costs {second:,.6g}" if np.isfinite(second) else "no other set can"
    n_sets = 2 ** len(names) - 1
    return {
        "title": f"Routing {float(experiment.order.quantity):,.6g} {found.unit}s over {found.title}: what every way costs [{found.cost_unit}]",
        "header": ["way", "venues", "fees and impact", "activation and leakage", "all", "above the best"],
        "rows": rows,
        "notes": [
            f"{int(results['n_feasible'])} of {n_sets} sets can take the order; {others}. "
            f"No set can cost less than {bound:,.6g}, the bound from the price {float(results['price']):.4g} of a unit.",
            f"{float(results['chains_at_best']):.0%} of {experiment.search.n_chains} annealing chains ended at the best set.",
            "Enumeration is exact and faster than any circuit that can be simulated: QAOA is here to be measured, not to win.",
        ],
    }


def _split(results: dict[str, Any], names: tuple[str, ...], found: Any) -> dict[str, Any]:
    best, convex = results["best"], results["convex"]
    rows = [
        [name, "yes" if on else "no", float(q), float(c)]
        for name, on, q, c in zip(
            names, np.asarray(best.active), np.asarray(best.split.quantities), np.asarray(convex.split.quantities)
        )
    ]
    sums = [float(np.sum(np.asarray(one.split.quantities))) for one in (best, convex)]
    rows.append(["sum", "", *sums])
    marginal = float(best.split.marginal_cost)
    note = (
        "Every used venue is full."
        if np.isnan(marginal)
        else f"Venues below their capacity share the marginal cost {marginal:.6g}."
    )
    return {
        "title": "The best split",
        "header": ["venue", "used", f"quantity [{found.unit}]", "convex split over all"],
        "rows": rows,
        "notes": [note],
    }


def _circuits(experiment: Any, forms: dict[str, Any], n: int, best: float) -> dict[str, Any]:
    rows = []
    for name, form in forms.items():
        states = int(form["n_states"])
        size = (
            f"{states.bit_length() - 1} qubits"
            if not name.startswith("one-hot")
            else f"{experiment.order.n_lots * n} qubits, {states:,} states"
        )
        mean, mean_at_random = float(form["mean"]), float(form["mean_at_random"])
        rows.append(
            [
                name,
                size,
                _share(float(form["ground_decoded"]), best),
                _share(mean, best),
                _share(mean_at_random, best),
                round(float(form["p_best"]), 4),
                round(float(form["p_best_at_random"]), 4),
                round(float(form["p_feasible"]), 3),
            ]
        )
    stuck = [name for name, form in forms.items() if not bool(form["converged"])]
    notes = [
        "Costs are those of the set that a bitstring decodes to, with its best split, above the best cost; infeasible sets count more than "
        "any feasible one, by the share of the order that they miss times the range of feasible costs. At random: every bitstring alike.",
        "The exact diagonal holds the cost of every set and is not of the form (22); making it already tells the answer. The venue QUBO prices "
        "units at the dual price; lots are exact for whole ones, and their penalties make the landscape rough.",
    ]
    if stuck:
        notes.append(f"The search for angles stopped after circuit.max_iterations for: {', '.join(stuck)}.")
    return {
        "title": f"Circuits of {experiment.circuit.n_layers} layers",
        "header": [
            "form",
            "size",
            "its optimum",
            "mean",
            "at random",
            "P(best set)",
            "at random",
            "P(feasible)",
        ],
        "rows": rows,
        "notes": notes,
    }


def _names_of(index: int, names: tuple[str, ...]) -> str:
    n = len(names)
    return ", ".join(name for i, name in enumerate(names) if (index >> (n - 1 - i)) & 1) or "none"


def _finite(cost: float) -> float | None:
    return cost if np.isfinite(cost) else None


def _cost(cost: float) -> float | str:
    return cost if np.isfinite(cost) else ""


def _share(cost: float, best: float) -> str:
    return f"{cost / best - 1:+.1%}" if best > 0 else f"{cost - best:+.3g}"


def _excess(cost: float, best: float) -> str:
    if not np.isfinite(cost):
        return "infeasible"
    if abs(cost - best) <= 1e-9 * abs(best):
        return "+0"
    return f"{cost - best:+,.4g} ({(cost / best - 1):+.2%})" if best > 0 else f"{cost - best:+,.4g}"
