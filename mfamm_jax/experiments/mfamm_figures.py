"""Figures of experiment `mfamm`, from arrays/base.npz."""

import numpy as np

from mfamm_jax.experiments.figures import Arrays, figure_axes, svg_text
from mfamm_jax.experiments.mfamm_state import COMPONENTS


def session(arrays: Arrays) -> str:
    """The first test session: worth by strategy, residual with the pair's position, capital, and the two risk limits."""
    said = {name.removeprefix("mfamm/trade/"): x for name, x in arrays.items() if name.startswith("mfamm/trade/")}
    seconds, worth = said["seconds"], said["worth"]
    figure, axes = figure_axes(rows=4, height=8.5)
    top, middle, capital, limits = axes[:, 0]
    n = worth.shape[1] - 2
    names = [*(f"quotes {i + 1}" for i in range(n)), "pair trade", "cash"]
    for i, name in enumerate(names[:-1]):
        top.plot(seconds, worth[:, i], label=name, linewidth=1)
    top.plot(seconds, worth.sum(axis=1), color="black", label="all", linewidth=1.2)
    top.set_ylabel("worth [price lot]")
    top.legend(ncols=n + 2, fontsize=7)
    middle.plot(seconds, said["residual"], color="tab:gray", linewidth=0.8)
    middle.set_ylabel("residual [price]")
    other = middle.twinx()
    other.step(seconds, said["position"][:, 0], where="post", color="tab:purple", linewidth=1)
    other.set_ylabel("pair, first asset [lots]", color="tab:purple")
    other.grid(False)
    for i, name in enumerate(names):
        capital.step(seconds, said["capital"][:, i], where="post", label=name, linewidth=1)
    capital.set_ylabel("capital, 1 = equal")
    capital.legend(ncols=n + 2, fontsize=7)
    for i, name in enumerate(("CVaR (18)", "barrier (19)")):
        limits.step(seconds, said["scale"][:, i], where="post", label=name, linewidth=1)
    limits.set_ylabel("scale of sizes")
    limits.set_ylim(-0.05, 1.05)
    limits.set_xlabel("time [s]")
    limits.legend(fontsize=7)
    return svg_text(figure)


def ablation(arrays: Arrays) -> str:
    """Paired differences by session, and the mean of all sessions' totals."""
    totals = arrays["mfamm/ablation/totals"]
    ends = totals[:, :, -1]
    figure, axes = figure_axes(2, height=3.6)
    left, right = axes[0]
    names = [*COMPONENTS, "everything"]
    worth = ends[:, :1] - ends[:, 1:]
    for i in range(len(names)):
        left.plot(worth[:, i], np.full(len(worth), i), ".", color="tab:blue", alpha=0.5)
    left.plot(worth.mean(axis=0), np.arange(len(names)), "|", color="black", markersize=12)
    left.axvline(0, color="black", linewidth=0.8)
    left.set_yticks(np.arange(len(names)), names)
    left.invert_yaxis()
    left.set_xlabel("P&L with less P&L without, by session [price lot]")
    share = np.linspace(0, 1, totals.shape[2])
    right.plot(share, totals[:, 0].mean(axis=0), label="everything", color="tab:green")
    right.plot(share, totals[:, -1].mean(axis=0), label="no component", color="tab:gray")
    for path in totals[:, 0]:
        right.plot(share, path, color="tab:green", alpha=0.25, linewidth=0.7)
    right.set_xlabel("share of the session")
    right.set_ylabel("worth [price lot]")
    right.legend()
    return svg_text(figure)
