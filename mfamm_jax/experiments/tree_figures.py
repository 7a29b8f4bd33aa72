"""Figures of experiment `intensity_trees`: feature effects, and fills and quotes by depth."""

from typing import Any

import numpy as np

from mfamm_jax.experiments.figures import ASK, BID, Arrays, figure_axes, svg_text
from mfamm_jax.experiments.tree_judge import MODELS, QUANTILES

N_SHOWN = 4
LINES = dict(zip(MODELS, ("-", "--", ":")))


def effects(arrays: Arrays, names: list[str], gain: dict[str, dict[str, float]]) -> str:
    """Fill rate against depth with one covariate at its quantiles; the covariates that gained most, both sides."""
    total = {name: sum(gain[side][name] for side in gain) for name in names}
    shown = sorted(names, key=lambda name: -total[name])[:N_SHOWN]
    figure, axes = figure_axes(len(shown), 4.6, rows=2)
    depths = arrays["effect/depths"]
    everything = np.concatenate([arrays[f"effect/{side}/trees"].ravel() for side in gain])
    for row, (side, colour) in zip(axes, (("bid", BID), ("ask", ASK))):
        for axis, name in zip(row, shown):
            which = names.index(name)
            for model in MODELS[:2]:
                rates = arrays[f"effect/{side}/{model}"][:, which]
                for i, quantile in enumerate(QUANTILES):
                    if model == "trees" or i in (0, len(QUANTILES) - 1):
                        label = f"{quantile:.0%}" if model == "trees" else None
                        style = {"color": colour, "alpha": 0.2 + 0.2 * i, "lw": 1.2 if model == "trees" else 0.8}
                        axis.plot(depths, rates[:, i], LINES[model], label=label, **style)
            axis.set(
                yscale="log",
                ylim=(0.8 * everything.min(), 1.25 * everything.max()),
                title=f"{side}: {name.replace('_', ' ')}",
            )
        row[0].set_ylabel("fills per second")
        row[0].legend(fontsize=6, title="quantile", title_fontsize=6)
    for axis in axes[-1]:
        axis.set_xlabel("depth [price]")
    return svg_text(figure)


def fills_and_quotes(arrays: Arrays) -> str:
    """Observed and expected fill rates of the last block by depth, and the quotes each curve leads to."""
    figure, axes = figure_axes(2)
    left, right = axes[0]
    for side, colour in (("bid", BID), ("ask", ASK)):
        seconds = arrays[f"judge/{side}/seconds"]
        left.plot(
            arrays["effect/depths"],
            arrays[f"judge/{side}/fills"] / seconds,
            "o",
            ms=3,
            color=colour,
            label=f"{side} fills",
        )
        for model in MODELS[:2]:
            expected = arrays[f"judge/{side}/expected/{model}"] / seconds
            left.plot(arrays["effect/depths"], expected, LINES[model], color=colour, lw=1)
        for i, model in enumerate(MODELS):
            depth = _finite(arrays[f"control/{side}_depth"][i])
            right.plot(arrays["control/inventory"], depth, LINES[model], color=colour, label=f"{side}, {model}")
    left.set(yscale="log", xlabel="depth [price]", ylabel="fills per second")
    left.legend(fontsize=7)
    right.set(xlabel="inventory [lots]", ylabel="depth from the mid [price]")
    right.legend(fontsize=6)
    return svg_text(figure)


def _finite(values: Any) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan)
