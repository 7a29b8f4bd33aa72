"""Figures of the experiments `calibration`, `policy_search` and `gate_search`."""

import matplotlib.pyplot as plt
import numpy as np

from mfamm_jax.experiments.figures import ASK, BID, OURS, Arrays, figure_axes, svg_text


def fit_and_residuals(arrays: Arrays) -> str:
    """Quotes with what the fitted parameters would quote, residuals, and the losses of both methods."""
    figure, axes = figure_axes(3 if "calibration/evolution/history" in arrays else 2, 3.4)
    inventory = arrays["calibration/observed/quotes/inventory"]
    depths, residuals = arrays["calibration/observed/quotes/depths"], arrays["calibration/residuals"]
    scale = arrays["calibration/observed/scale"]
    for side, (name, colour) in enumerate((("bid", BID), ("ask", ASK))):
        axes[0, 0].plot(inventory, depths[:, side], ".", color=colour, ms=3, alpha=0.6, label=f"{name}, seen")
        fitted = depths[:, side] + scale * residuals[:, side]
        axes[0, 0].plot(inventory, fitted, "_", color="black", ms=6, label="fitted" if side else None)
        axes[0, 1].plot(inventory + 0.2 * side, residuals[:, side], ".", color=colour, ms=3, label=name)
    axes[0, 0].set(xlabel="inventory [lots]", ylabel="depth [price]")
    axes[0, 0].legend(fontsize=7)
    axes[0, 1].axhline(0, color="black", lw=0.8)
    axes[0, 1].set(xlabel="inventory [lots]", ylabel="fitted - seen [half spread]")
    if axes.shape[1] == 3:
        _methods(axes[0, 2], arrays)
    return svg_text(figure)


def _methods(axis: plt.Axes, arrays: Arrays) -> None:
    best = min(arrays["calibration/fit/losses"].min(), arrays["calibration/evolution/history"].min())
    history = np.minimum.accumulate(arrays["calibration/evolution/history"][0]) - best
    population = int(arrays["calibration/evolution/n_evaluations"]) / history.size
    axis.plot(
        population * np.arange(1, history.size + 1),
        np.maximum(history, 1e-8),
        color="tab:gray",
        label="CMA-ES, best so far",
    )
    ends = np.maximum(arrays["calibration/fit/losses"] - best, 1e-8)
    axis.plot(arrays["calibration/fit/n_evaluations"], ends, "o", color=OURS, ms=4, label="ends of L-BFGS")
    axis.set(xscale="log", yscale="log", xlabel="evaluations", ylabel="loss above the best")
    axis.legend(fontsize=7)


def searches(arrays: Arrays, names: list[str]) -> str:
    """Objectives that the methods saw over their evaluations, and the objectives of what they found."""
    figure, axes = figure_axes(2, 3.4)
    history = arrays["search/law_evolution/history"][0]
    population = int(arrays["search/law_evolution/n_evaluations"]) / history.size
    seen = population * np.arange(1, history.size + 1)
    axes[0, 0].plot(seen, -np.minimum.accumulate(history), color="tab:gray", label="CMA-ES, exact law")
    noisy = arrays["search/simulated_evolution/history"][0]
    axes[0, 0].plot(seen, -noisy, color="tab:orange", lw=0.8, label="CMA-ES, best of a simulated generation")
    counts, losses = arrays["search/law_gradient/n_evaluations"], arrays["search/law_gradient/losses"]
    axes[0, 0].plot(counts, -losses, "o", color=OURS, ms=4, label="ends of L-BFGS, exact law")
    axes[0, 0].set(xlabel="evaluations", ylabel="objective [price lot]")
    axes[0, 0].legend(fontsize=7)
    objective, held_out = arrays["search/judge/objective"], arrays["search/judge/held_out"]
    place = np.arange(objective.size)
    axes[0, 1].plot(objective, place, "o", color=OURS, label="exact")
    axes[0, 1].errorbar(
        held_out,
        place + 0.15,
        xerr=1.96 * arrays["search/judge/error"],
        fmt="none",
        color="black",
        label="held out, 95 %",
    )
    axes[0, 1].set_yticks(place, names, fontsize=7)
    axes[0, 1].set(xlabel="objective [price lot]")
    axes[0, 1].invert_yaxis()
    axes[0, 1].legend(fontsize=7)
    return svg_text(figure)


def gates(arrays: Arrays, names: list[str]) -> str:
    """Best of every generation, and what was found on events that were and were not seen."""
    figure, axes = figure_axes(2, 3.2)
    for number, history in enumerate(arrays["gates/evolution/history"]):
        axes[0, 0].plot(-history, label="from the given settings" if number == 0 else f"from drawn ones, {number}")
    axes[0, 0].set(xlabel="generation", ylabel="best objective on the training part")
    axes[0, 0].legend(fontsize=7)
    objective = arrays["gates/judge/objective"]
    place = np.arange(objective.shape[1])
    for part, (label, colour) in enumerate((("training", "tab:gray"), ("test", OURS))):
        axes[0, 1].barh(place + 0.35 * part, objective[part], height=0.32, color=colour, label=label)
    axes[0, 1].set_yticks(place + 0.17, names, fontsize=7)
    axes[0, 1].set(xlabel="P&L - weight x drawdown [price lot]")
    axes[0, 1].invert_yaxis()
    axes[0, 1].legend(fontsize=7)
    return svg_text(figure)
