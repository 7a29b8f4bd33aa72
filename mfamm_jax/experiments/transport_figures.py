"""Figures of experiment `transport_execution`: plan, what is left over time, and costs by regularization."""

from typing import Any

import numpy as np

from mfamm_jax.experiments.figures import BASELINE, BID, OURS, Arrays, figure_axes, svg_text


def execution(arrays: Arrays, metrics: dict[str, Any]) -> str:
    """Three panels."""
    figure, axes = figure_axes(3, 3.4)
    heat, left, path = axes[0]
    n_times, n_venues = metrics["n_times"], metrics["n_venues"]

    def by_time(name: str) -> np.ndarray:
        plan = arrays[f"{name}/plan"][:, : n_times * n_venues]
        return plan.reshape(len(plan), n_times, n_venues).sum(axis=2) / plan.sum(axis=1, keepdims=True)

    full = by_time("full")
    time = (np.arange(n_times) + 0.5) / n_times
    mesh = heat.pcolormesh(time, np.arange(len(full)), full, shading="nearest", cmap="viridis")
    mesh.set_rasterized(True)
    heat.grid(False)
    names = metrics["columns"] if len(full) <= 12 else []
    heat.set_yticks(np.arange(len(names)), names, fontsize=6)
    heat.set(xlabel="time [day]", title="share of an asset's order")
    figure.colorbar(mesh, ax=heat)
    ends = np.arange(n_times + 1) / n_times
    for name, colour, label in (
        ("pro_rata", BASELINE, "pro rata"),
        ("frozen", BID, "frozen impact"),
        ("full", OURS, "full impact"),
    ):
        rest = 1 - np.concatenate([[0], np.cumsum(by_time(name).mean(axis=0))])
        left.plot(ends, rest, color=colour, label=label)
    left.set(xlabel="time [day]", ylabel="share of the basket left")
    left.legend(fontsize=7)
    own, mutual = arrays["path/costs"].T
    path.plot(arrays["path/regularization"], own, "o-", ms=3, color=OURS, label="own cost")
    path.plot(arrays["path/regularization"], own + mutual, "o-", ms=3, color="black", label="with cross impact")
    path.axhline(metrics["cost_pro_rata"], color=BASELINE, ls="--", lw=0.8, label="pro rata, with cross impact")
    path.set(xscale="log", xlabel="regularization [bp]", ylabel="cost [bp]")
    path.legend(fontsize=7)
    return svg_text(figure)
