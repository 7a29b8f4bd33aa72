"""Figures of experiment `impact_fit`: kernel, impact of a size, and the price path of a metaorder."""

from typing import Any

import numpy as np

from mfamm_jax.experiments.figures import BASELINE, OURS, Arrays, figure_axes, svg_text


def kernel_and_curve(arrays: Arrays, metrics: dict[str, Any]) -> str:
    """What was found, and the truth where it is known."""
    figure, axes = figure_axes(3, 3.2)
    decay, size, order = axes[0]
    lags = np.arange(len(arrays["fit/kernel"]))
    decay.plot(lags, arrays["fit/kernel"], color=OURS, label="found")
    if "truth/kernel" in arrays:
        decay.plot(lags, arrays["truth/kernel"][: len(lags)], "--", color="black", lw=0.8, label="true")
    decay.set(xlabel="lag [steps]", ylabel="f, 1 at lag 0", ylim=(0, 1.05))
    decay.legend(fontsize=7)
    size.plot(arrays["fit/sizes"], arrays["fit/impact"], color=OURS, label="found")
    if "truth/impact" in arrays:
        size.plot(arrays["fit/sizes"], arrays["truth/impact"], "--", color="black", lw=0.8, label="true")
    size.set(xlabel="volume of a step", ylabel="g [price]")
    size.legend(fontsize=7)
    steps = np.arange(1, len(arrays["fit/metaorder"]) + 1)
    order.plot(steps, arrays["fit/metaorder"], color=OURS, label="structured")
    order.plot(steps, arrays["free_metaorder"], color=BASELINE, label="free network")
    if "truth/metaorder" in arrays:
        order.plot(steps, arrays["truth/metaorder"], "--", color="black", lw=0.8, label="true")
    order.axvline(50, color="black", lw=0.5)
    order.set(xlabel="steps since the order's start", ylabel="price change")
    order.legend(fontsize=7)
    return svg_text(figure)
