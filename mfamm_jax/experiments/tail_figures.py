"""Figures of experiment `tail_risk`: the tail, its conditional value at risk, forecasts over time."""

from typing import Any

import numpy as np

from mfamm_jax.experiments.figures import BASELINE, OURS, Arrays, figure_axes, svg_text

N_SHOWN = 1500


def tail_and_forecasts(arrays: Arrays, metrics: dict[str, Any]) -> str:
    """Three panels."""
    figure, axes = figure_axes(3, 3.2)
    tail, cvar, time = axes[0]
    x, n = arrays["estimate/curve_loss"], metrics["fitted_on"]
    ordered = arrays["estimate/sorted"]
    tail.plot(ordered, (np.arange(ordered.size) + 0.5) / n, ".", ms=3, color="black", label="losses")
    tail.plot(x, arrays["estimate/curve_flow"], color=OURS, label="flow")
    tail.plot(x, arrays["estimate/curve_normal"], color=BASELINE, label="normal")
    positive = ordered.min() > 0
    tail.set(
        xlabel="loss", ylabel="P(larger)", yscale="log", ylim=(0.2 / n, 0.3), xscale="log" if positive else "linear"
    )
    tail.legend(fontsize=7)
    levels, risk, truth = (arrays[f"estimate/{name}"] for name in ("levels", "risk", "truth"))
    at = np.arange(levels.size)
    for index, name, colour, shift in ((0, "sample", "black", -0.12), (1, "flow, quadrature", OURS, 0.0)):
        error = 1.96 * risk[:, index, 2]
        cvar.errorbar(at + shift, risk[:, index, 1], yerr=error, fmt="o", ms=4, color=colour, label=name)
    cvar.plot(at + 0.12, risk[:, 4, 1], "s", ms=4, color=BASELINE, label="normal")
    if np.isfinite(truth).all():
        cvar.plot(at, truth[:, 1], "x", ms=7, color="tab:red", label="truth")
    cvar.set_xticks(at, [f"{level:g}" for level in levels])
    cvar.set(xlabel="level", ylabel="CVaR with 95 % interval", xlim=(-0.5, levels.size - 0.5))
    cvar.legend(fontsize=7, loc="upper left")
    losses = arrays["forecast/losses"][-N_SHOWN:]
    forecasts = arrays["forecast/risk"][:, -N_SHOWN:, -1, 0]
    rows = np.arange(losses.size)
    over = losses > forecasts[3]
    time.plot(rows, losses, color=BASELINE, lw=0.4)
    time.plot(rows, forecasts[3], color=OURS, lw=0.9, label="conditional flow")
    time.plot(rows, forecasts[0], color="black", lw=0.9, label="history")
    time.plot(rows[over], losses[over], "o", ms=3, color="tab:red", label="exceeded")
    time.set(xlabel="row", ylabel=f"loss and value at risk, {levels[-1]:g}")
    time.legend(fontsize=7)
    return svg_text(figure)
