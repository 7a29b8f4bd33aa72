"""Numbers and tables of experiment `gate_search`."""

from typing import Any

import numpy as np

LABELS = ("as given", "mean of the best search", "its luckiest member")


def gate_metrics(experiment: Any, prepared: Any, results: dict[str, Any]) -> dict[str, Any]:
    """Headline numbers, then settings on both parts."""
    judge = {name: np.asarray(x, float) for name, x in results["judge"].items()}
    settings = np.asarray(results["judged"], float)
    names, search = experiment.ranges.free, experiment.search
    rows = []
    for i, label in enumerate(LABELS):
        numbers = [float(judge[name][part, i]) for part in (0, 1) for name in ("objective", "pnl", "drawdown", "fills")]
        rows.append([label, *numbers])
    header = [
        "settings",
        *(f"{name}, {part}" for part in ("training", "test") for name in ("objective", "P&L", "drawdown", "fills")),
    ]
    n = int(np.asarray(results["evolution"].n_evaluations)) * search.n_restarts
    kept = judge["objective"][1, 1] - judge["objective"][1, 0]
    gained = judge["objective"][0, 1] - judge["objective"][0, 0]
    notes = [
        f"Objective: P&L - {float(search.drawdown_weight):g} x largest drawdown. {n:,} replays of the training part; the test part was never seen.",
        "The fit of (3) stays as it was made with the given smoothing: a config with another one would refit it. Widths count only where quotes may be "
        "smaller than a lot (execution.replay.size_increment).",
        "The gain on the training part is what a search can fit; the gain on the test part is what remains of it. One session is one sample.",
    ]
    limit = float(search.max_drawdown)
    if judge["drawdown"][0, 1] > limit:
        notes.append(
            f"The chosen settings exceed search.max_drawdown = {limit:g} on the training part: raise search.penalty or the limit."
        )
    low, high = (np.asarray(x, float) for x in (experiment.box().low, experiment.box().high))
    found = []
    for i, name in enumerate(names):
        found.append([name, float(low[i]), float(high[i]), *(float(x) for x in settings[:, i])])
    tables = [
        {"title": "Replayed on both parts", "header": header, "rows": rows, "notes": notes},
        {"title": "Settings", "header": ["setting", "low", "high", *LABELS], "rows": found, "notes": []},
    ]
    chosen = {name: float(x) for name, x in zip(names, settings[1], strict=True)}
    headline = {
        "ok": bool(np.isfinite(judge["objective"]).all()),
        "gain_training": float(gained),
        "gain_test": float(kept),
    }
    return headline | chosen | {"n_replays": n, "facts": prepared.session.report["facts"], "tables": tables}
