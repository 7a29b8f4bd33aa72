"""Figure of experiment `signal_quotes`: what each policy earned, and how regimes move the quotes."""

from typing import Any

import numpy as np

from mfamm_jax.experiments.figures import ASK, BASELINE, BID, Arrays, figure_axes, svg_text
from mfamm_jax.experiments.signal_run import POLICIES
from mfamm_jax.experiments.signal_tables import BEST, LABELS

COLOURS = (BASELINE, "tab:orange", "tab:cyan", "tab:green", "tab:purple")


def gains_and_quotes(arrays: Arrays, metrics: dict[str, Any]) -> str:
    """Cumulated P&L of every policy, and depths per regime beside those without signals."""
    figure, axes = figure_axes(2, 3.8)
    left, right = axes[0]
    blocks = arrays["policies/blocks"]
    minutes = metrics["block_seconds"] / 60 * np.arange(blocks.shape[1] + 1)
    for i, (row, colour) in enumerate(zip(blocks, COLOURS)):
        total = np.concatenate([[0.0], np.cumsum(row)])
        left.plot(minutes, total, color=colour, label=LABELS[i], lw=1.6 if i in (0, len(POLICIES) - 1) else 1)
    left.axhline(0, color="black", lw=0.5)
    left.set(xlabel="time in the test block [min]", ylabel="cash + inventory at the mid [price lot]")
    left.legend(fontsize=7)
    middle, position = arrays["regimes/inventory"].size // 2, np.arange(len(metrics["regimes"]))
    for side, colour, sign in (("bid", BID, -1), ("ask", ASK, 1)):
        depth = arrays[f"regimes/{side}_depth"][:, middle]
        right.plot(position, sign * depth[BEST], "o", color=colour, label=side)
        right.plot(position, sign * depth[0], "--", color=colour, lw=0.8, label=f"{side}, without signals")
    right.axhline(0, color=BASELINE, lw=0.8)
    right.set_xticks(position, [name.replace(" ", "\n") for name in metrics["regimes"]], fontsize=7)
    right.set(ylabel="quote - mid [price]")
    right.legend(fontsize=7, loc="center")
    return svg_text(figure)
