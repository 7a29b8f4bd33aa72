"""Figures of experiment `imbalance_training`: training curves, embedding map, reliability curve."""

import numpy as np

from mfamm_jax.experiments.figures import ASK, BASELINE, BID, OURS, Arrays, figure_axes, svg_text, thin
from mfamm_jax.experiments.imbalance_data import MEASURES


def training(arrays: Arrays) -> str:
    """Losses, AUC on the stopping block, and whether the embedding keeps its extent."""
    figure, axes = figure_axes(3)
    looks = dict(zip(MEASURES, arrays["imbalance/history"].T))
    loss, score, extent = axes[0]
    loss.plot(looks["step"], looks["loss"], color=BASELINE, label="batches: (12) and head")
    loss.plot(looks["step"], looks["stopping_loss"], color=OURS, label="stopping block: (12)")
    loss.set(ylabel="loss")
    score.plot(looks["step"], looks["stopping_area"], "o-", ms=3, color=OURS)
    score.axhline(0.5, color=BASELINE, lw=0.8, ls="--")
    best = int(np.argmax(looks["stopping_area"]))
    score.plot(looks["step"][best], looks["stopping_area"][best], "o", color="black", label="weights kept")
    score.set(ylabel="AUC of the stopping block")
    for name, colour in (("positive_distance", BID), ("negative_distance", ASK), ("mean_distance", BASELINE)):
        extent.plot(looks["step"], looks[name], color=colour, label=name.replace("_", " ").replace("mean", "any"))
    extent.set(ylabel="mean distance of embeddings", ylim=(0, 2))
    for axis in axes[0]:
        axis.set_xlabel("step")
        axis.legend(fontsize=7)
    return svg_text(figure)


def embedding_and_reliability(arrays: Arrays) -> str:
    """Test samples in the plane of their two main directions, and predicted against observed frequencies."""
    figure, axes = figure_axes(2, 4.0)
    left, right = axes[0]
    embedding, label = arrays["imbalance/embedding"], arrays["imbalance/label"]
    centred = embedding - embedding.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    plane = embedding @ directions[:2].T
    plane *= np.where(label @ plane < 0, -1, 1)  # up samples to the right
    shown = thin(len(label))
    for sign, colour, name in ((1, BID, "up"), (-1, ASK, "down")):
        chosen = shown[label[shown] == sign]
        left.plot(*plane[chosen].T, ".", ms=4, alpha=0.4, color=colour, label=name, rasterized=True)
    left.set(
        xlabel="first direction", ylabel="second direction", xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal"
    )
    left.legend()
    predicted, observed, count = (arrays[f"imbalance/reliability/{n}"] for n in ("predicted", "observed", "count"))
    error = 1.96 * np.sqrt(np.maximum(observed * (1 - observed), 0.25 / count) / count)
    right.errorbar(predicted, observed, error, fmt="o", ms=4, color=OURS, capsize=2)
    right.plot([0, 1], [0, 1], "--", color=BASELINE, lw=0.8)
    right.set(
        xlabel="predicted probability of up", ylabel="observed frequency", xlim=(0, 1), ylim=(0, 1), aspect="equal"
    )
    return svg_text(figure)
