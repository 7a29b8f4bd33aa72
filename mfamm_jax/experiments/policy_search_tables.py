"""Numbers and tables of experiment `policy_search`."""

from typing import Any

import numpy as np

METHODS = (
    "as given",
    "exact law, L-BFGS",
    "simulated, score gradient",
    "exact law, CMA-ES",
    "simulated, CMA-ES",
)
# A search has arrived when this share of what there is to gain is left.
LEFT = 0.01


def search_metrics(experiment: Any, results: dict[str, Any]) -> dict[str, Any]:
    """Headline numbers, then the methods side by side."""
    judge = {name: np.asarray(x, float) for name, x in results["judge"].items()}
    search = experiment.search
    gain = judge["objective"].max() - judge["objective"][0]
    gradient, evolution = results["law_gradient"], results["law_evolution"]
    counts = np.asarray(gradient.n_evaluations)
    generations = search.population * search.n_generations
    evaluations = [0, int(counts.sum()), search.n_steps, generations, generations]
    n_paths = [0, 0, search.n_steps * search.n_paths, 0, generations * search.n_paths]
    best = float(judge["objective"].max())
    history = np.minimum.accumulate(np.asarray(evolution.history, float)[0])
    arrived = np.flatnonzero(history < -best + LEFT * gain)
    rows = []
    for i, method in enumerate(METHODS):
        held_out = f"{judge['held_out'][i]:.5g} +- {judge['error'][i]:.2g}"
        numbers = [float(judge[name][i]) for name in ("mean", "std", "objective")]
        parameters = [float(x) for x in judge["parameters"][i]]
        rows.append([method, *parameters, *numbers, held_out, evaluations[i], n_paths[i]])
    notes = [
        f"Objective: mean - {float(search.risk_weight):g} x standard deviation of an episode's P&L. Mean, std and objective by the exact law of the simulated "
        f"scheme; held out: {search.n_fresh:,} paths that no search has seen, the same ones for all.",
        "Evaluations: solves of the control problem; those by gradient also give the derivative.",
    ]
    typical = int(np.median(counts))
    if arrived.size:
        needed = (int(arrived[0]) + 1) * search.population
        notes.append(
            f"By the exact law one start of L-BFGS takes {typical} evaluations in the median; CMA-ES takes {needed} to leave 1 % of the gain."
        )
    header = ["method", *experiment.free, "mean P&L", "std", "objective", "held out", "evaluations", "paths"]
    at_bound = [n for n, b in zip(experiment.free, np.asarray(gradient.at_bound), strict=True) if b]
    notes += [
        f"{name} ended at a bound of its range: more of it would be better still, or it does not matter."
        for name in at_bound
    ]
    table = {"title": "The best quotes, by four methods", "header": header, "rows": rows, "notes": notes}
    return {
        "ok": bool(results["solver_ok"]) and bool(judge["is_solved"].all()),
        "objective_given": float(judge["objective"][0]),
        "objective": best,
        "worst_method_gap": float(best - judge["objective"][1:].min()),
        "gradient_evaluations": typical,
        "tables": [table],
    }
