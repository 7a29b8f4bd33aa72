"""Figure of experiment `fpga_quote_kernel`: P&L of float and integer quotes, and the kernel's errors."""

from typing import Any

import numpy as np

from mfamm_jax.experiments.figures import ASK, BASELINE, BID, Arrays, figure_axes, svg_text


def profit_and_errors(arrays: Arrays, metrics: dict[str, Any]) -> str:
    """Value over time, and a histogram of depth errors with their bound."""
    figure, axes = figure_axes(2, 3.6)
    left, right = axes[0]
    minutes = arrays["values/seconds"] / 60
    left.plot(minutes, arrays["values/float"], color=BASELINE, lw=1.6, label="float policy")
    left.plot(minutes, arrays["values/kernel"], color=ASK, lw=0.9, label="integer kernel")
    left.axhline(0, color="black", lw=0.5)
    left.set(xlabel="time in the test part [min]", ylabel="cash + inventory at the mid [price lot]")
    left.legend(fontsize=8)
    bound = metrics["error_bound_ticks"]
    right.hist(arrays["kernel_errors"], bins=np.linspace(-bound, bound, 81), color=BID)
    right.set_yscale("log")
    for end in (-bound, bound):
        right.axvline(end, color="black", lw=0.8, ls="--")
    right.set(xlabel="kernel less exact depth [ticks]; dashed: bound", ylabel="depths at random states")
    return svg_text(figure)
