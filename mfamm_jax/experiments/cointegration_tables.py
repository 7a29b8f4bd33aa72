"""Numbers and tables of experiment `cointegration`."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from mfamm_jax.models.cointegration import adjusted_p_values

MOST_PAIRS = 10


def cointegration_metrics(experiment: Any, prepared: Any, results: dict[str, Any]) -> dict[str, Any]:
    """Headline numbers, then tables."""
    p, level = np.asarray(results["p"]), float(experiment.test.level)
    family = np.asarray(results["family_p"])
    share = np.asarray(adjusted_p_values(jnp.asarray(p[:, -1]), "benjamini_hochberg"))
    headline: dict[str, Any] = {
        "ok": bool(np.isfinite(p).all()),
        "tests": len(p),
        "rejections_uncorrected": int((p[:, -1] <= level).sum()),
        "rejections_family": int((family <= level).sum()),
        "rejections_benjamini_hochberg": int((share <= level).sum()),
        "expected_by_chance": len(p) * level,
    }
    if len(p) > 1:
        return headline | {"tables": [_pairs(prepared, results, p, family, share)]}
    summary = results["summary"]
    for name, label in (("walk", "walk_forward"), ("look_ahead", "look_ahead")):
        headline |= {f"{label}_{k}": float(summary[name][k]) for k in ("pnl", "low", "high")}
    return headline | {
        "p_common": float(p[0, -1]),
        "slope": float(results["estimate"].slope[0]),
        "truth": prepared.report["truth"],
        "scales": list(experiment.scales.values),
        "level": level,
        "window": experiment.strategy.window,
        "every": experiment.strategy.every,
        "tables": [_scales(experiment, prepared, results, p), _strategy(experiment, results)],
    }


def _scales(experiment: Any, prepared: Any, results: dict[str, Any], p: np.ndarray) -> dict[str, Any]:
    found, names = results["estimate"], prepared.report["panel"].columns
    weights, rows = np.asarray(found.weights[0]), []
    for k, a in enumerate(experiment.scales.values):
        numbers = (found.smallest[0, k], found.largest[0, k], found.ratio[0, k], results["critical"][0, k], p[0, k])
        rows.append([f"{a:g} rows", *(float(x) for x in numbers), *weights[k].tolist()])
    common = (found.ratio[0, -1], results["critical"][0, -1], p[0, -1])
    rows.append(
        [
            f"above {experiment.test.block} rows",
            "",
            "",
            *(float(x) for x in common),
            *np.asarray(found.common[0]).tolist(),
        ]
    )
    slope, level = float(found.slope[0]), float(experiment.test.level)
    return {
        "title": "Relation by time scale",
        "header": ["scale", "smallest energy", "largest", "ratio", f"{level:.0%} of the null below", "p", *names],
        "rows": rows,
        "notes": [
            "Energies of combinations with increments of unit variance. The null: blocks of the panel's own increments in random order. The last "
            "row is one combination for the scales above a block: within one, draws keep whatever the panel has, so small scales know nothing.",
            f"Smallest energies grow as the scale to the power {slope:.3g}: 0 = a stationary residual, 2 = a random walk, so the residual is "
            f"integrated of order {slope / 2:.2g}.",
        ],
    }


def _strategy(experiment: Any, results: dict[str, Any]) -> dict[str, Any]:
    rows = []
    for name, label in (("walk", "past windows only"), ("look_ahead", "relation of the whole sample")):
        one = {k: float(v) for k, v in results["summary"][name].items()}
        interval = f"{one['low']:.4g} to {one['high']:.4g}"
        rows.append(
            [label, one["pnl"], interval, one["cost"], int(one["n_trades"]), one["share_held"], one["sharpe_per_block"]]
        )
    used = np.asarray(results["walk"].used)
    strategy = experiment.strategy
    return {
        "title": "Trading it, after costs",
        "header": [
            "estimated on",
            "P&L",
            "95 % interval",
            "costs paid",
            "trades",
            "share of time held",
            "Sharpe per block",
        ],
        "rows": rows,
        "notes": [
            f"{int(used.sum())} of {len(used)} windows of {strategy.window} rows showed a relation that was traded. P&L in multiples of the money at "
            f"risk per stationary deviation; interval by bootstrap over blocks of {strategy.every} rows.",
            "The second line is what a backtest shows that has seen the future: no one can earn it.",
        ],
    }


def _pairs(
    prepared: Any, results: dict[str, Any], p: np.ndarray, family: np.ndarray, share: np.ndarray
) -> dict[str, Any]:
    names, rows = prepared.report["panel"].columns, []
    common = np.asarray(results["estimate"].common)
    for i in np.argsort(p[:, -1], kind="stable")[:MOST_PAIRS]:
        first, second = (names[j] for j in prepared.report["groups"][i])
        rows.append([f"{first} and {second}", *(float(x[i]) for x in (p[:, -1], family, share)), *common[i].tolist()])
    return {
        "title": f"The {len(rows)} pairs that look most related, of {len(p)}",
        "header": ["pair", "p", "family p", "false discoveries", "weight of the first", "of the second"],
        "rows": rows,
        "notes": [
            "One combination for all scales. Family p: share of draws in which some pair looks as related (Westfall and Young); false "
            "discoveries: share of false relations among those as strong (Benjamini and Hochberg)."
        ],
    }
