"""Numbers and tables of experiment `signal_quotes`."""

from typing import Any

import numpy as np

from mfamm_jax.experiments.signal_run import KEPT, POLICIES, regime_map

LABELS = ("without signals", "gates alone", "imbalance", "imbalance, VPIN", "imbalance, VPIN, gates")
BEST = 3  # the policy whose regimes and quotes are shown: all signals, no gates


def signal_metrics(experiment: Any, prepared: Any, results: dict[str, Any]) -> dict[str, Any]:
    """Headline numbers, then tables."""
    policies, gain, report = results["policies"], results["gain"], prepared.report
    headline = {}
    for i, name in enumerate(POLICIES):
        headline[f"pnl_{name}"] = float(policies["pnl"][i])
    for i, name in list(enumerate(POLICIES))[1:]:
        headline[f"gain_{name}"] = float(gain["total"][i])
    return {
        "ok": bool(np.all(policies["ok"])) and bool(results["regimes"]["ok"]),
        **headline,
        "score": experiment.signal.score,
        "decay": float(prepared.decay),
        "volatility": float(prepared.volatility),
        "blocks": prepared.n_blocks,
        "block_seconds": experiment.comparison.block_seconds,
        "regimes": list(regime_map(experiment).names),
        "gain": gain,
        "facts": report["facts"],
        "truth": report["truth"],
        "tables": [_gain_table(policies, gain, experiment, prepared), _regime_table(experiment, prepared, results)],
    }


def verdict(low: float, high: float) -> str:
    """What the interval says."""
    if low <= 0 <= high:
        return "not distinguishable"
    return "better" if low > 0 else "WORSE"


def _gain_table(policies: dict, gain: dict, experiment: Any, prepared: Any) -> dict[str, Any]:
    total, low, high = (np.asarray(gain[name], float) for name in ("total", "low", "high"))
    rows: list[list[Any]] = [[key.replace("_", " "), *np.asarray(policies[key], float).tolist()] for key in KEPT]
    rows.append(["more than without", "", *total[1:].tolist()])
    rows.append(["95 % interval", "", *(f"{a:.4g} to {b:.4g}" for a, b in zip(low[1:], high[1:]))])
    rows.append(["is", "", *(verdict(a, b) for a, b in zip(low[1:], high[1:]))])
    return {
        "title": "Test block: the same market maker with and without signals",
        "header": ["quotes know", *LABELS],
        "rows": rows,
        "notes": [
            f"Replay. Paired block bootstrap over {prepared.n_blocks} stretches of {experiment.comparison.block_seconds:g} s, taken as "
            "independent. One session is one sample of markets: the interval says what chance within it can do, not what another day "
            "would bring.",
            "Gates: above its gate VPIN, and beyond its gate the imbalance, cut sizes to a fraction ([quotes]).",
        ],
    }


def _regime_table(experiment: Any, prepared: Any, results: dict[str, Any]) -> dict[str, Any]:
    regimes, found = regime_map(experiment), prepared.report["regimes"]
    tick = float(prepared.tick_size)
    middle = results["regimes"]["inventory"].shape[0] // 2
    bid, ask = (np.asarray(results["regimes"][f"{side}_depth"])[BEST, middle] / tick for side in ("bid", "ask"))
    horizon = experiment.signal.horizon
    rows = {
        "share of the past": found.share,
        "share of the decisions": np.asarray(results["share_of_decisions"]),
        "mean time in it [s]": found.sojourn,
        f"mean move in {horizon:g} s [ticks]": found.measured / tick,
        "standard error": found.error / tick,
        "believed": found.move / tick,
        "drift [ticks/s]": found.drift / tick,
        "bid fills/s at the mid": found.bid_scale,
        "ask fills/s at the mid": found.ask_scale,
        "bid depth [ticks]": bid,
        "ask depth [ticks]": ask,
    }
    return {
        "title": "Regimes",
        "header": ["", *regimes.names],
        "rows": [[name, *np.asarray(values, float).tolist()] for name, values in rows.items()],
        "notes": [
            f"Estimated on {prepared.report['seconds']['past']:,.0f} s before the test block; every number pools a regime with the mirror "
            "image of its opposite. Depths without inventory at the reference volatility, the whole horizon left.",
            "Surprises against the imbalance alone are believed in proportion to x^2/(x^2 + se^2), and its moves against zero likewise. Drifts "
            "are what gives those moves while regimes change.",
        ],
    }
