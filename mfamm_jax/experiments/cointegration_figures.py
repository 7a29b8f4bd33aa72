"""Figures of experiment `cointegration`: ratios by scale, the residual with its bands, and what trading made."""

from typing import Any

import numpy as np

from mfamm_jax.experiments.figures import BASELINE, OURS, Arrays, figure_axes, svg_text, thin


def relation_and_trading(arrays: Arrays, metrics: dict[str, Any]) -> str:
    """Ratio of every scale against the null, residual of the walk, and cumulated P&L."""
    figure, axes = figure_axes(3, 3.4)
    ratios, residual, profit = axes[0]
    scales = np.asarray(metrics["scales"])
    ratios.plot(scales, arrays["estimate/ratio"][0, :-1], "o-", ms=3, color=OURS, label="this panel")
    ratios.plot(
        scales,
        arrays["critical"][0, :-1],
        "--",
        color=BASELINE,
        label="null, 5 % below" if metrics["level"] == 0.05 else "null",
    )
    ratios.set(xscale="log", yscale="log", xlabel="scale [rows]", ylabel="smallest over largest energy")
    ratios.set_xticks(scales, [f"{a:g}" for a in scales])
    ratios.minorticks_off()
    ratios.legend(fontsize=7)
    shown = thin(len(arrays["walk/trades/residual"]))
    start = metrics["window"]
    window = np.minimum(
        np.arange(len(arrays["walk/trades/residual"])) // metrics["every"], len(arrays["walk/used"]) - 1
    )
    away = (arrays["walk/trades/residual"] - arrays["walk/reversion/mean"][window]) / arrays[
        "walk/reversion/deviation"
    ][window]
    residual.plot(start + shown, away[shown], color="black", lw=0.5)
    held = arrays["walk/trades/side"] != 0
    residual.plot(
        (start + shown)[held[shown]], away[shown][held[shown]], ".", ms=1.5, color=OURS, label="position held"
    )
    residual.set(xlabel="row", ylabel="residual [stationary deviations of the past]", ylim=(-6, 6))
    residual.legend(fontsize=7)
    for name, colour, label in (
        ("walk/trades", OURS, "past windows only"),
        ("look_ahead", BASELINE, "knows the future"),
    ):
        total = np.cumsum(arrays[f"{name}/pnl"])
        profit.plot(start + shown, total[shown], color=colour, label=label)
    profit.axhline(0, color="black", lw=0.5)
    profit.set(xlabel="row", ylabel="P&L after costs [risk]")
    profit.legend(fontsize=7)
    return svg_text(figure)
