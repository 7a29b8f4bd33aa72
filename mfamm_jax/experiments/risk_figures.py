"""Figures of experiment `risk_constrained`: the frontier, breaches over time, and the search."""

from typing import Any

import numpy as np

from mfamm_jax.experiments.figures import BASELINE, OURS, Arrays, figure_axes, svg_text


def frontier(arrays: Arrays, metrics: dict[str, Any]) -> str:
    """Three panels."""
    figure, axes = figure_axes(3, 3.2)
    left, time, search = axes[0]
    breach, error, mean = (arrays[f"judge/{name}"] for name in ("breach", "error", "mean"))
    left.errorbar(breach[2:], mean[2:], xerr=1.96 * error[2:], fmt="o-", ms=3, color=OURS, label="best under a limit")
    left.errorbar(breach[1], mean[1], xerr=1.96 * error[1], fmt="s", ms=4, color="black", label="no limit")
    left.errorbar(breach[0], mean[0], xerr=1.96 * error[0], fmt="^", ms=4, color=BASELINE, label="as given")
    left.axvline(metrics["limit"], color="tab:red", lw=0.8, ls="--", label="limit")
    left.set(xscale="log", xlabel="P(breach)", ylabel="expected P&L")
    left.minorticks_off()
    low, high = left.get_xlim()
    ticks = [x for power in range(-6, 1) for x in (10.0**power, 2 * 10.0**power, 5 * 10.0**power) if low < x < high]
    left.set_xticks(ticks, [f"{x:g}" for x in ticks])
    left.legend(fontsize=7)
    for name, colour, label in (("start", BASELINE, "as given"), ("best", OURS, "best under the limit")):
        breach = arrays[f"draw/{name}"]
        time.plot(np.arange(1, len(breach) + 1), breach, color=colour, label=label)
    time.axhline(metrics["limit"], color="tab:red", lw=0.8, ls="--", label="limit")
    time.set(xlabel="step", ylabel="P(breach so far)")
    time.legend(fontsize=7)
    drawn = arrays["search/path"]
    for row, limit, alpha in zip(drawn[1:], arrays["search/limits"][1:], np.linspace(0.3, 1, len(drawn) - 1)):
        search.plot(row[:, 0], color=OURS, alpha=alpha, label=f"{limit:.2g}")
    search.plot(drawn[0][:, 0], color="black", label="none")
    search.set(yscale="log", xlabel="iteration", ylabel="first free parameter")
    search.legend(fontsize=6, title="limit", title_fontsize=6)
    return svg_text(figure)
