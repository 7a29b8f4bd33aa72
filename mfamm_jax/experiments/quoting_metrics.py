"""Numbers of a quoting run by name, for `metrics.json`, the screen and the report."""

from typing import Any

import numpy as np

from mfamm_jax.experiments.fit import COVARIATES, SideFit
from mfamm_jax.experiments.plain import flatten, nested
from mfamm_jax.experiments.quoting_feedback import feedback_table
from mfamm_jax.experiments.quoting_run import GRADIENT_NAMES, MARKOUT_SECONDS, Prepared

# Paths and samples stay in arrays/base.npz.
LONG = 8


def quoting_metrics(prepared: Prepared, results: dict[str, Any]) -> dict[str, Any]:
    """Nested tables of numbers; `ok` says whether every solver succeeded and every number is finite."""
    flat = {name: value for name, value in flatten(results).items() if value.size <= LONG and "path/" not in name}
    tables = nested(flat)
    simulation = tables["simulation"]
    headline = {
        "half_spread": flat["half_spread"],
        "inventory_penalty": flat["inventory_penalty"],
        "expected_pnl": simulation["law_mean"],
        "pnl_std": simulation["law_std"],
        "expected_fills": flat["simulation/law_bid_fills"] + flat["simulation/law_ask_fills"],
        "fills_per_step": (flat["simulation/law_bid_fills"] + flat["simulation/law_ask_fills"])
        / results["simulation"]["inventory_quantiles"].shape[1],
        "cvar": flat["simulation/summary/cvar"],
        "symmetric_cvar": flat["simulation/baseline/cvar"],
        "replay_pnl": flat["replay/pnl"],
        "replay_fills": flat["replay/bid_fills"] + flat["replay/ask_fills"],
        "symmetric_replay_pnl": flat["replay_baseline/pnl"],
    }
    gradient = _gradient(tables["gradient"])
    return {
        "ok": bool(flat["solver_ok"]) and all(np.isfinite(value) for value in headline.values()),
        **headline,
        "scheme_difference": np.max(np.abs(results["value_difference"])),
        "closed_form_difference": _closed_form_difference(results),
        "identity_residual": max(abs(flat["simulation/identity_residual"]), abs(flat["replay/residual"])),
        "gradient_error": max(row["relative_error"] for row in gradient.values()),
        "quotes": {
            name: flat[name] for name in ("bid_intensity", "ask_intensity", "bid_decay", "ask_decay", "table_error")
        },
        "reference": {"volatility": prepared.reference.volatility, "vpin": prepared.reference.vpin},
        "fit": {
            "bid": _fit(prepared.bid),
            "ask": _fit(prepared.ask),
            "bucket_volume": prepared.report["bucket_volume"],
        },
        "simulation": simulation,
        "replay": tables["replay"],
        "replay_baseline": tables["replay_baseline"],
        "fill_ratio": {
            side: flat[f"replay/n_{side}_fills"] / max(flat[f"replay/n_{side}_orders"], 1) for side in ("bid", "ask")
        },
        "markouts": {f"{seconds:g} s": value for seconds, value in zip(MARKOUT_SECONDS, results["replay_markouts"])},
        "gradient": gradient,
        "feedback": tables["feedback"],
        "tables": [_quotes_table(results), feedback_table(tables)],
        "truth": prepared.report["truth"],
        "facts": prepared.report["facts"],
    }


def _quotes_table(results: dict[str, Any]) -> dict[str, Any]:
    """Depths with the whole horizon left in the reference state, at up to nine inventories."""
    inventory, bid, ask = (np.asarray(results[name], float) for name in ("inventory", "bid_depth", "ask_depth"))
    bid, ask = bid[-1], ask[-1]
    n = len(inventory) // 2
    shown = sorted({*np.round(np.linspace(0, 2 * n, min(2 * n + 1, 9))).astype(int).tolist(), n - 1, n, n + 1})

    def cells(*values: float) -> list[Any]:
        return [float(f"{x:.4g}") if np.isfinite(x) else "" for x in values]

    rows = [[int(inventory[i]), *cells(bid[i], ask[i], (bid[i] + ask[i]) / 2, (ask[i] - bid[i]) / 2)] for i in shown]
    return {
        "title": "Quotes [price from the mid] with the whole horizon left in an average state",
        "header": ["inventory", "bid depth", "ask depth", "half spread", "reservation price"],
        "rows": rows,
        "notes": [
            "All of them: arrays/base.npz, bid_depth and ask_depth by time_left (last row: the whole horizon) and inventory."
        ],
    }


def _closed_form_difference(results: dict[str, Any]) -> float:
    """Largest distance between the solved quotes and the stationary closed form for up to half the inventory limit."""
    middle = results["inventory"].size // 2
    inner = slice(middle - middle // 2, middle + middle // 2 + 1)
    sides = [np.asarray(results[f"{s}_depth"][-1] - results[f"closed_form_{s}_depth"])[inner] for s in ("bid", "ask")]
    return float(np.max(np.abs(sides)))


def _fit(side: SideFit) -> dict[str, Any]:
    fit = side.fit
    clustered = np.asarray(fit.clustered_standard_errors)
    rows = {
        name: {
            "value": fit.coefficients[i],
            "standard_error": fit.standard_errors[i],
            "clustered_error": clustered[i],
        }
        for i, name in enumerate(COVARIATES)
    }
    return {
        "coefficients": rows,
        "decay": side.decay,
        "own_decay": side.own_decay,
        "own_decay_error": side.own_decay_error,
        "log_likelihood": fit.log_likelihood,
        "n_orders": side.goodness.n_residuals,
        "ks_distance": side.goodness.distance,
        "ks_critical": side.goodness.critical_value,
    }


def _gradient(table: dict[str, Any]) -> dict[str, Any]:
    out = {}
    for i, name in enumerate(GRADIENT_NAMES):
        exact, difference = float(table["autodiff"][i]), float(table["finite_difference"][i])
        error = abs(exact - difference) / max(abs(exact), abs(difference), 1e-300)
        out[name] = {
            "at": table["values"][i],
            "autodiff": exact,
            "finite_difference": difference,
            "relative_error": error,
        }
    return out
