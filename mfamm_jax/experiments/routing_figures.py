"""Figures of experiments `routing` and `maxcut`."""

from typing import Any

import numpy as np

from mfamm_jax.experiments.figures import BASELINE, BID, OURS, Arrays, figure_axes, svg_text


def routing(arrays: Arrays, metrics: dict[str, Any]) -> str:
    """Landscape of one layer, costs of what is measured, and the split."""
    figure, axes = figure_axes(3, 3.4)
    heat, costs, split = axes[0]
    _landscape(figure, heat, arrays, "mean cost, one layer")
    sampled = np.sort(arrays["forms/exact diagonal/sampled"])
    every = np.sort(arrays["costs"])
    for values, colour, label in ((every, BASELINE, "all sets"), (sampled, OURS, "QAOA's samples")):
        costs.step(values, np.arange(1, len(values) + 1) / len(values), where="post", color=colour, label=label)
    costs.axvline(metrics["best_cost"], color="black", lw=0.8, ls="--", label="best set")
    costs.axvline(metrics["convex_cost"], color=BID, lw=0.8, ls=":", label="convex split")
    costs.set(xlabel=f"cost [{metrics['cost_unit']}]", ylabel="share of sets at or below", ylim=(0, 1.02))
    costs.legend(fontsize=7, loc="lower right")
    names, place = metrics["venues"], np.arange(len(metrics["venues"]))
    split.bar(place - 0.2, arrays["best/split/quantities"], 0.4, color=OURS, label="best set")
    split.bar(place + 0.2, arrays["convex/split/quantities"], 0.4, color=BASELINE, label="convex split")
    split.set_xticks(place, names, fontsize=7, rotation=0 if max(map(len, names)) < 4 else 20)
    split.set(ylabel=f"quantity [{metrics['unit']}]")
    split.legend(fontsize=7)
    return svg_text(figure)


def maxcut(arrays: Arrays, metrics: dict[str, Any]) -> str:
    """Ratio against depth, and the landscape of one layer."""
    unit = metrics["unit_weights"]
    figure, axes = figure_axes(3 if unit else 2, 3.4)
    ratio, *shares, heat = axes[0]
    layers = arrays["depths"]
    for name, colour, label in (("optimised", OURS, "angles of each graph"), ("fixed", BID, "angles of the tree")):
        values = arrays[f"{name}/ratio"]
        ratio.plot(layers, values.mean(axis=1), "o-", ms=3, color=colour, label=label)
        ratio.fill_between(layers, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.15)
    ratio.axhline(arrays["at_random"].mean(), color=BASELINE, ls="--", lw=0.8, label="at random")
    label = "expected cut / largest cut" if unit else "way from the smallest to the largest cut"
    ratio.set(xlabel="layers", ylabel=label, ylim=(None, 1.01))
    ratio.set_xticks(layers)
    ratio.legend(fontsize=7, loc="center right")
    for share in shares:
        share.plot(layers, arrays["optimised/share"].mean(axis=1), "o-", ms=3, color=OURS, label="these graphs")
        share.plot(layers, arrays["tree_share"], "s--", ms=3, color="black", label="graphs without short cycles")
        share.set(xlabel="layers", ylabel="expected share of edges cut")
        share.set_xticks(layers)
        share.legend(fontsize=7, loc="lower right")
    _landscape(figure, heat, arrays, "<H>, one layer, first graph")
    return svg_text(figure)


def _landscape(figure: Any, axis: Any, arrays: Arrays, title: str) -> None:
    gamma, beta = arrays["landscape/cost_angles"], arrays["landscape/mixer_angles"]
    mesh = axis.pcolormesh(gamma, beta, arrays["landscape/energy"], shading="nearest", cmap="viridis")
    mesh.set_rasterized(True)
    axis.grid(False)
    axis.set(xlabel="cost angle", ylabel="mixer angle", title=title)
    figure.colorbar(mesh, ax=axis)
