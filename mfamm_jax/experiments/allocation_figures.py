"""Figures of experiment `allocation`: learning, shares over time, points on the ball."""

from typing import Any

import numpy as np

from mfamm_jax.experiments.figures import BASELINE, OURS, Arrays, figure_axes, svg_text

COLOURS = ("tab:blue", "tab:cyan", "tab:orange", "tab:red", "tab:gray", "tab:purple", "tab:brown", "tab:pink")
N_SHOWN = 200


def allocation(arrays: Arrays, metrics: dict[str, Any]) -> str:
    """Learning, and the ball."""
    figure, axes = figure_axes(2, 3.6)
    learning, ball = axes[0]
    rewards = arrays["learn/rewards"]
    width = max(rewards.shape[2] // 30, 1)
    for row, name, colour in zip(rewards, ("ball", "Euclidean", "score function"), (OURS, BASELINE, "tab:purple")):
        smooth = np.apply_along_axis(lambda x: np.convolve(x, np.ones(width) / width, "valid"), 1, row)
        learning.plot(np.arange(smooth.shape[1]) + width, smooth.mean(axis=0), color=colour, label=name)
    for name, style in (("equal weight", ":"), ("optimal filter", "--")):
        if f"judge/fixed/{name}" in arrays:
            learning.axhline(arrays[f"judge/fixed/{name}"].mean(), color="black", lw=0.8, ls=style, label=name)
    learning.set(xlabel="update", ylabel="mean reward")
    learning.legend(fontsize=7)
    points = np.sqrt(metrics["curvature"]) * arrays["judge/points"]
    flat = points.reshape(-1, points.shape[-1])
    axis = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)[2][:2]
    for node, (name, colour) in enumerate(zip(metrics["strategies"], np.resize(COLOURS, len(metrics["strategies"])))):
        ball.plot(*(points[:, node] @ axis.T).T, ".", ms=2, color=colour, label=name)
    angle = np.linspace(0, 2 * np.pi, 200)
    ball.plot(np.cos(angle), np.sin(angle), color="black", lw=0.5)
    ball.set(aspect="equal", xlabel="two main axes of the ball, in radii", xlim=(-1.05, 1.05), ylim=(-1.05, 1.05))
    ball.legend(fontsize=6, markerscale=4, loc="lower left")
    return svg_text(figure)


def shares(arrays: Arrays, metrics: dict[str, Any]) -> str:
    """Shares over time of the ball network, below those of the optimal filter where it is known."""
    names = [name for name in ("optimal filter", "ball") if f"judge/shares/{name}" in arrays]
    figure, axes = figure_axes(1, 1.6 * len(names) + 0.5, rows=len(names))
    for axis, name in zip(axes[:, 0], names):
        held = arrays[f"judge/shares/{name}"][:N_SHOWN]
        axis.stackplot(
            np.arange(len(held)), held.T, colors=np.resize(COLOURS, held.shape[1]), labels=metrics["strategies"]
        )
        axis.set(ylabel=f"{name}: shares", ylim=(0, 1))
    axes[-1, 0].set(xlabel="period")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, ncols=5, loc="outside upper center")
    return svg_text(figure)
