"""Numbers and tables of experiment `mfamm`."""

from typing import Any

import numpy as np
from scipy.special import stdtrit

from mfamm_jax.experiments.mfamm_run import variants
from mfamm_jax.experiments.mfamm_state import COMPONENTS

LEAST_SESSIONS, N_BLOCKS = 4, 10
MEANING = {
    "control": "HJB quotes (8)-(10)",
    "imbalance": "imbalance in (3)",
    "toxicity": "VPIN (5) in (3) and at the gate",
    "arbitrage": "pair trade (13), (14)",
    "allocation": "network on the ball (16), (17)",
    "tail_risk": "CVaR limit (18)",
    "drawdown": "barrier (19)",
    "schedule": "transport schedule (15), (20)",
    "routing": "venues (22)-(24)",
}


def mfamm_metrics(experiment: Any, prepared: Any, results: dict[str, Any]) -> dict[str, Any]:
    """Headline numbers; what was learned, where the money came from, and what every component is worth."""
    report, found, learned = prepared.report, results["ablation"], results["learned"]
    pnl = np.asarray(found["pnl"], float)
    parts = {name: np.asarray(values, float)[:, 0] for name, values in found["parts"].items()}
    fingerprints = np.asarray(found["fingerprint"])
    changed = (fingerprints[:, 1:] != fingerprints[:, :1]).sum(axis=0)
    finite = bool(np.isfinite(pnl).all())
    names = [name.removeprefix("without ") for name in variants()[0][1:]]
    residual = np.max(np.abs(np.asarray(found["residual"], float)))
    return {
        "ok": finite and bool(learned["ok"]),
        "pnl": float(pnl[:, 0].mean()),
        "pnl_without_components": float(pnl[:, -1].mean()),
        "pair_pnl": float(parts["pair"].mean()),
        "fills": float(np.asarray(found["fills"], float)[:, 0].mean()),
        "max_drawdown": float(np.asarray(found["max_drawdown"], float)[:, 0].mean()),
        "largest_inventory": float(np.max(np.asarray(found["largest_inventory"], float))),
        "identity_residual": float(residual),
        "half_life": float(results["relation"]["half_life"]),
        "value_at_risk": float(learned["value_at_risk"]),
        "cvar": float(learned["cvar"]),
        "flow_converged": bool(learned["flow_converged"]),
        "angles_converged": bool(results["relation"]["angles_converged"]),
        "sessions": report["n_sessions"],
        "orders_changed": {name: int(n) for name, n in zip(names, changed, strict=True)},
        "tables": [
            _ablation(report, found, changed),
            _attribution(parts, pnl[:, 0]),
            _relation(report, results["relation"]),
            _capital(report, learned, results["rehearsal"]),
        ],
    }


def paired_differences(found: dict[str, Any]) -> tuple[np.ndarray, str]:
    """Full less each variant, by unit: sessions, or blocks of them where there are few."""
    totals = np.asarray(found["totals"], float)  # session, variant, interval
    n_sessions, n_variants, n = totals.shape
    if n_sessions >= LEAST_SESSIONS:
        ends = totals[:, :, -1]
        return ends[:, :1] - ends[:, 1:], f"{n_sessions} sessions"
    edges = np.linspace(0, n, min(N_BLOCKS, n) + 1).round().astype(int)[1:] - 1
    values = totals[:, :, edges]
    blocks = np.diff(values, axis=2, prepend=0.0).transpose(0, 2, 1).reshape(-1, n_variants)
    return blocks[:, :1] - blocks[:, 1:], f"{len(blocks)} blocks of {n_sessions} session{'s' if n_sessions > 1 else ''}"


def _ablation(report: Any, found: dict[str, Any], changed: np.ndarray) -> dict[str, Any]:
    differences, units = paired_differences(found)
    n = differences.shape[0]
    pnl = np.asarray(found["pnl"], float).mean(axis=0)
    steps = np.diff(np.asarray(found["totals"], float), axis=2, prepend=0.0)  # session, variant, interval
    moved = steps.std(axis=2)
    ratio = np.mean(steps.mean(axis=2) / np.where(moved > 0, moved, 1.0) * np.sqrt(steps.shape[2]), axis=0)
    fills, drawdown = (np.asarray(found[name], float).mean(axis=0) for name in ("fills", "max_drawdown"))
    units_each = n / report["n_sessions"]  # blocks add up to sessions
    rows: list[list[Any]] = [
        ["everything", float(pnl[0]), "", "", float(ratio[0]), float(fills[0]), float(drawdown[0]), ""]
    ]
    for i, name in enumerate([*COMPONENTS, "none"]):
        mean = units_each * differences[:, i].mean()
        error = units_each * differences[:, i].std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
        half = stdtrit(n - 1, 0.975) * error
        row = ["no component" if name == "none" else f"without {name}", float(pnl[i + 1]), float(mean)]
        interval = f"{mean - half:.3g} to {mean + half:.3g}" if np.isfinite(half) else "one unit: none"
        orders = f"{changed[i]} of {report['n_sessions']}"
        rows.append([*row, interval, float(ratio[i + 1]), float(fills[i + 1]), float(drawdown[i + 1]), orders])
    return {
        "title": "What every component is worth: everything less everything but one, on the same sessions",
        "header": ["variant", "P&L", "worth", "95 % interval", "Sharpe", "fills", "max drawdown", "other decisions"],
        "rows": rows,
        "notes": [
            f"P&L, fills and drawdown [price lot] per session; Sharpe: mean over deviation of an interval's P&L, scaled to the session; intervals of the paired difference by Student's t over {units}. Other decisions: sessions "
            "in which prices, sizes or children that were decided are not all those of the full strategy. Limits cost money when nothing breaks: their worth is in the drawdown.",
            "; ".join(f"{name}: {meaning}" for name, meaning in MEANING.items())
            + "; no component: symmetric quotes alone.",
        ],
    }


def _attribution(parts: dict[str, np.ndarray], pnl: np.ndarray) -> dict[str, Any]:
    said = {
        "capture": "quotes: distance of fills from the mid",
        "revaluation": "quotes: inventory times moves of the mid",
        "fees": "quotes: fees",
        "pair revaluation": "pair trade: position times moves of the mid",
        "pair half spreads": "pair trade: half spreads",
        "pair impact": "pair trade: impact (20)",
        "pair venues": "pair trade: fees and costs of venues (22)",
    }
    rows = [
        [text, float(parts[name].mean()), float(parts[name].std(ddof=1) if pnl.size > 1 else 0.0)]
        for name, text in said.items()
    ]
    total = sum(parts[name] for name in said)
    rows.append(["all", float(total.mean()), float(total.std(ddof=1) if pnl.size > 1 else 0.0)])
    largest = np.max(np.abs(total - pnl))
    return {
        "title": "Where the full strategy's P&L comes from",
        "header": ["part", "mean of a session", "deviation"],
        "rows": rows,
        "notes": [
            f"[price lot]. The parts add up to the P&L of every session to {largest:.1e}. The pair trade is valued at the last decision's mid, the quotes at "
            "the last mid."
        ],
    }


def _relation(report: Any, relation: dict[str, Any]) -> dict[str, Any]:
    truth = report["truth"]
    weights = np.asarray(relation["weights"], float)
    planted = [""] * weights.size if truth is None else _unit(np.asarray(truth["weights"], float), weights)
    impact = np.asarray(relation["impact"], float)
    rows = [
        [f"weight of asset {i + 1}, {name}", float(weights[i]), planted[i]] for i, name in enumerate(report["names"])
    ]
    known = ("", "") if truth is None else (truth["half_life"], truth["residual_deviation"])
    rows.append(["half-life of the residual [s]", float(relation["half_life"]), known[0]])
    rows.append(["deviation of the residual [price]", float(relation["deviation"]), known[1]])
    rows.append(["smallest over largest eigenvalue, all scales", float(np.asarray(relation["ratio"])[-1]), ""])
    rows.append(["impact of a lot on its own price, mean", float(np.mean(np.diag(impact))), ""])
    rows.append(["cross impact, largest", float(np.max(np.abs(impact - np.diag(np.diag(impact))))), ""])
    return {
        "title": "The relation between the assets, from the training session",
        "header": ["", "found", "planted"],
        "rows": rows,
        "notes": [
            "Weights with the largest at 1; bouncing between bid and ask makes the residual look faster and wider than the prices behind it."
        ],
    }


def _unit(planted: np.ndarray, found: np.ndarray) -> list[float]:
    """With the entry at 1 where the found one has it."""
    return [float(x) for x in planted / planted[int(np.argmax(np.abs(found)))]]


def _capital(report: Any, learned: dict[str, Any], rehearsal: dict[str, Any]) -> dict[str, Any]:
    shares, pnl = np.asarray(learned["shares"], float), np.asarray(rehearsal["pnl"], float)
    names = [*(f"quotes of asset {i + 1}" for i, name in enumerate(report["names"])), "pair trade", "cash"]
    rows = [
        [
            name,
            float(pnl[:, i].mean()),
            float(pnl[:, i].std()),
            float(shares[:, i].mean()),
            float(shares[:, i].min()),
            float(shares[:, i].max()),
        ]
        for i, name in enumerate(names)
    ]
    return {
        "title": "The rehearsal on the training session, and the capital that the network gives",
        "header": ["strategy", "P&L per interval", "deviation", "mean share", "least", "most"],
        "rows": rows,
        "notes": [
            f"An interval's loss has VaR {float(learned['value_at_risk']):.3g} and CVaR {float(learned['cvar']):.3g} [price lot]. The rehearsal trades a relation that was "
            "fitted on the same session: its pair trade looks better than it will be."
        ],
    }
