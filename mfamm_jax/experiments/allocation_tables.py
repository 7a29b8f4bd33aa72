"""Numbers and tables of experiment `allocation`."""

from typing import Any

import numpy as np
from scipy.special import stdtrit


def allocation_metrics(
    experiment: Any, report: Any, results: dict[str, Any], learned_names: tuple[str, ...]
) -> dict[str, Any]:
    """Headline numbers, then one table of all allocators."""
    judge = results["judge"]
    learned = np.asarray(judge["learned"], float)
    fixed = {name: np.asarray(x, float) for name, x in judge["fixed"].items()}
    best = fixed.get("optimal filter")
    rows: list[list[Any]] = []
    for name, by_path in fixed.items():
        rows.append([name, by_path.mean(), _interval(by_path), _share(by_path.mean(), best), ""])
    for name, by_seed in zip(learned_names, learned):
        means = by_seed.mean(axis=1)
        # Chance of the judging paths is common to all allocators; between seeds it is the training's.
        rows.append([name, means.mean(), _interval(by_seed.mean(axis=0)), _share(means.mean(), best), _interval(means)])
    gain = learned[0].mean(axis=0) - fixed["equal weight"]
    difference = learned[0].mean(axis=1) - learned[1].mean(axis=1)
    table = {
        "title": "Reward per period of every allocator, on paths that none has seen",
        "header": ["allocator", "mean reward", "95 % interval, paths", "of the optimal filter", "95 % interval, seeds"],
        "rows": [[cell if isinstance(cell, str) else float(cell) for cell in row] for row in rows],
        "notes": [
            f"{report['name']}. Reward (17) with risk {experiment.reward.risk}, lambda {float(experiment.reward.risk_weight):g}, mu "
            f"{float(experiment.reward.divergence_weight):g}. Constant allocations come from the record; networks trained on "
            f"{experiment.training.n_updates * experiment.training.n_paths:,} paths from {learned.shape[1]} beginnings each.",
            f"Ball less Euclid: {difference.mean():.3g} ({_interval(difference)} over seeds). Ball less equal weight: {gain.mean():.3g} "
            f"({_interval(gain)} over paths).",
        ],
    }
    return {
        "ok": bool(np.isfinite(learned).all()),
        "ball": float(learned[0].mean()),
        "euclidean": float(learned[1].mean()),
        "by_score_function": float(learned[2].mean()),
        "equal_weight": float(fixed["equal weight"].mean()),
        "of_optimal_filter": None if best is None or best.mean() <= 0 else float(learned[0].mean() / best.mean()),
        "curvature": experiment.network.curvature,
        "strategies": list(report["names"]),
        "tables": [table],
    }


def _share(mean: float, best: np.ndarray | None) -> Any:
    """Nothing to be a share of where even the best observer does not gain."""
    return "" if best is None or best.mean() <= 0 else f"{100 * mean / best.mean():.1f} %"


def _interval(values: np.ndarray) -> str:
    """Of the mean, by Student's t."""
    if values.size < 2:
        return ""
    half = stdtrit(values.size - 1, 0.975) * values.std(ddof=1) / np.sqrt(values.size)
    return f"{values.mean() - half:.4g} to {values.mean() + half:.4g}"
