"""Figures of experiment `optimal_schedule`: what is left of the order, opponents, and programmes under concave impact."""

from typing import Any

import numpy as np

from mfamm_jax.experiments.figures import BASELINE, OURS, Arrays, figure_axes, svg_text

COLOURS = ("tab:gray", "tab:purple", "tab:green", "tab:blue")


def schedules_and_opponents(arrays: Arrays, metrics: dict[str, Any]) -> str:
    """Three panels."""
    figure, axes = figure_axes(3, 3.2)
    left, against, programme = axes[0]
    trades = arrays["linear/trades"]
    steps = np.arange(trades.shape[1] + 1)
    for row, name, colour in zip(trades, metrics["schedules"], COLOURS):
        held = np.concatenate([[0], np.cumsum(row)]) / row.sum()
        left.plot(steps, 1 - held, color=colour, label=name)
    left.set(xlabel="step", ylabel="share of the order left")
    left.legend(fontsize=7)
    for name, style in (("informed", "-"), ("learned", "--")):
        for index in (2, 3):
            position = np.concatenate([[0], np.cumsum(arrays[f"opponents/{name}_trades"][index])]) / trades[index].sum()
            label = f"{name}, {metrics['schedules'][index]}"
            against.plot(steps, position, style, color=COLOURS[index], label=label)
    against.axhline(0, color="black", lw=0.5)
    against.set(xlabel="step", ylabel="opponent's position [order]")
    against.legend(fontsize=6)
    for name, colour, label in (("forward", OURS, "forward only"), ("both", "tab:orange", "with reversals")):
        rates = arrays[f"search/{name}/rates"]
        if np.abs(rates).max() < 1e3 * np.abs(arrays["search/forward/rates"]).max():
            programme.step(np.arange(len(rates)), rates, where="mid", color=colour, label=label)
    programme.axhline(0, color=BASELINE, lw=0.5)
    programme.set(xlabel="step", ylabel="rate [shares/time]")
    programme.legend(fontsize=7)
    return svg_text(figure)
