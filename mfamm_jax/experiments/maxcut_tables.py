"""Numbers and tables of experiment `maxcut`."""

from typing import Any

import numpy as np


def maxcut_metrics(experiment: Any, prepared: Any, results: dict[str, Any]) -> dict[str, Any]:
    """Headline numbers, then the table by depth."""
    graphs, n_samples = experiment.graphs, experiment.depth.n_samples
    optimised, fixed = results["optimised"], results["fixed"]
    unit = graphs.weights == "unit"
    ring = graphs.degree == 2 and unit
    rows = []
    for i, p in enumerate(np.asarray(results["depths"]).tolist()):
        row = []
        for one in (optimised, fixed):
            ratio = np.asarray(one["ratio"][i], float)
            row += [ratio.mean(), ratio.min()]
        row += [np.mean(np.asarray(optimised[name][i])) for name in ("p_largest", "p_largest_sampled")]
        if unit:
            row += [np.mean(np.asarray(optimised["share"][i])), results["tree_share"][i]]
        row += [(2 * p + 1) / (2 * p + 2)] if ring else []
        rows.append([p, *(round(float(x), 4) for x in row)])
    header = ["layers", "own angles", "worst", "tree's", "worst", "P(largest)", f"in {n_samples}"]
    header += ["edges cut", "no cycles"] if unit else []
    classical = [
        ["greedy flips", float(np.mean(np.asarray(results["greedy"]))), float(np.min(np.asarray(results["greedy"])))],
        [
            "one annealing chain, 50 sweeps",
            float(np.mean(np.asarray(results["annealed"]))),
            float(np.min(np.asarray(results["annealed"]))),
        ],
        [
            "every vertex at random",
            float(np.mean(np.asarray(results["at_random"]))),
            float(np.min(np.asarray(results["at_random"]))),
        ],
    ]
    finite = np.isfinite(np.asarray(optimised["ratio"])).all() and np.isfinite(np.asarray(fixed["ratio"])).all()
    measure = "Expected cut over largest cut" if unit else "Way from the smallest to the largest cut"
    kind = "rings" if graphs.degree == 2 else f"{graphs.degree}-regular graphs"
    shares_note = (
        " 'No cycles' is the share of edges that the tree's angles cut there, a constant of the literature (0.6925, 0.7559, 0.7924, 0.8169, 0.8364 "
        "for degree 3)."
        if unit
        else ""
    )
    ring_note = " A ring's best is (2p + 1)/(2p + 2) as long as it has more than 2p + 1 vertices." if ring else ""
    return {
        "ok": bool(finite),
        "ratio": rows[-1][1],
        "ratio_tree_angles": rows[-1][3],
        "p_largest": rows[-1][5],
        "unit_weights": unit,
        "n_graphs": graphs.n_graphs,
        "n_edges": int(prepared.report["n_edges"]),
        "tables": [
            {
                "title": f"{measure}, {graphs.n_graphs} {kind} of {graphs.n_vertices} vertices",
                "header": header + (["a ring's"] if ring else []),
                "rows": rows,
                "notes": [
                    "Own angles: optimised for each graph. The tree's: the best for graphs without cycles of up to 2p + 1 edges, the same for all "
                    "graphs, cost angles over the root mean square of the weights. P(largest): of measuring a largest cut, once and within the "
                    "samples." + shares_note + ring_note
                ],
            },
            {
                "title": "Without a quantum computer",
                "header": ["search", "ratio", "worst"],
                "rows": classical,
                "notes": ["The largest cut itself is the minimum of the diagonal, which every simulation makes first."],
            },
        ],
    }
