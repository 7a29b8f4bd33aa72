"""Numbers and tables of a replay for the screen, `metrics.json` and the report."""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np

from mfamm_jax.experiments.replay_log import order_table
from mfamm_jax.risk.adverse import adverse_selection

MARKOUT_SECONDS = (1.0, 5.0, 30.0)
BLOCK_SECONDS = 60.0
QUEUE_EDGES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)


def replay_metrics(experiment: Any, prepared: Any, result: Any) -> dict[str, Any]:
    """Headline numbers, then tables."""
    path, tape, report = result.path, prepared.tape, prepared.report
    orders = order_table(path, tape, report["tape_ns"], report["epoch_ns"])
    residual = float(abs(result.residual))
    size = float(abs(result.capture) + abs(result.revaluation) + abs(result.fees))
    tolerance = 1e-9 if np.asarray(result.pnl).dtype == np.float64 else 1e-3
    adverse = adverse_by_side(path, tape, report["tape_ns"])
    return {
        "ok": bool(np.isfinite(result.pnl)) and residual <= tolerance * max(size, 1.0),
        "pnl": result.pnl,
        "fees": result.fees,
        "fills": result.n_bid_fills + result.n_ask_fills,
        "orders": result.n_bid_orders + result.n_ask_orders,
        "refused": result.rejected,
        "final_inventory": result.inventory,
        "largest_inventory": result.max_inventory,
        "max_drawdown": result.max_drawdown,
        "identity_residual": result.residual,
        "events": report["n_events"],
        "steps": len(report["tape_ns"]),
        "replayed": {"first_ns": int(report["tape_ns"][0]) + report["epoch_ns"]},
        "adverse_selection": adverse,
        "facts": report["facts"],
        "tables": [
            _sides(result),
            _attribution(result),
            _adverse_table(adverse),
            _outcomes(orders),
            _queue(orders),
        ],
    }


def adverse_by_side(path: Any, tape: Any, tape_ns: np.ndarray) -> dict[str, dict[str, dict[str, float]]]:
    """Move of the mid against the fills of each side at each of the tape's later moments, with standard errors."""
    seconds = (tape_ns - tape_ns[0]) / 1e9
    block = (seconds / BLOCK_SECONDS).astype(np.int32)
    n_blocks = int(block[-1]) + 1
    fill = np.asarray(path.fill)
    lots = fill if fill.ndim == 2 else fill.sum(axis=2)
    out: dict[str, Any] = {}
    for column, (side, sign) in enumerate((("bid", 1), ("ask", -1))):
        out[side] = {}
        for number, horizon in enumerate(MARKOUT_SECONDS):
            counts = seconds + horizon <= seconds[-1]
            found = adverse_selection(
                sign=sign,
                lots=jnp.asarray(lots[:, column]),
                mid_before=path.fill_mid,
                mid_later=tape.moment.later_mid[:, number],
                counts=jnp.asarray(counts),
                block=jnp.asarray(block),
                n_blocks=n_blocks,
            )
            names = ("mean", "error", "n_fills", "n_blocks")
            out[side][f"{horizon:g} s"] = dict(zip(names, (float(x) for x in found)))
    return out


def _sides(result: Any) -> dict[str, Any]:
    rows = []
    for side in ("bid", "ask"):
        names = (f"n_{side}_orders", f"n_{side}_fills", f"{side}_fills", f"{side}_quoted")
        orders, fills, lots, quoted = (float(getattr(result, name)) for name in names)
        markouts = [float(x) for x in getattr(result, f"{side}_markouts")]
        rows.append([side, int(orders), int(fills), lots, fills / max(orders, 1), quoted, *markouts])
    horizons = [f"gain per lot after {h:g} s" for h in MARKOUT_SECONDS]
    return {
        "title": "Orders and fills by side",
        "header": ["side", "orders", "fills", "lots", "fills per order", "share of time quoted", *horizons],
        "rows": rows,
        "notes": ["Gains are against the later mid, before fees [price]; near the end against the last mid."],
    }


def _attribution(result: Any) -> dict[str, Any]:
    parts = [float(getattr(result, name)) for name in ("capture", "revaluation", "fees", "pnl", "residual")]
    return {
        "title": "Where the profit comes from",
        "header": ["spread capture", "inventory revaluation", "fees", "P&L", "residual"],
        "rows": [parts],
        "notes": ["Capture + revaluation - fees = P&L [price lot]; the residual is rounding error."],
    }


def _adverse_table(adverse: dict[str, Any]) -> dict[str, Any]:
    rows = [
        [side, horizon, entry["mean"], entry["error"], _interval(entry), int(entry["n_fills"]), int(entry["n_blocks"])]
        for side, by_horizon in adverse.items()
        for horizon, entry in by_horizon.items()
    ]
    return {
        "title": "Adverse selection: how far the mid moved against our fills",
        "header": ["side", "after", "mean [price]", "std. error", "95 % interval", "fills", "minutes with fills"],
        "rows": rows,
        "notes": ["Standard errors are clustered by minute: fills come in bursts. A positive mean is a cost."],
    }


def _interval(entry: dict[str, float]) -> str:
    if not np.isfinite(entry["error"]):
        return "too few minutes with fills"
    half = 1.96 * entry["error"]
    return f"{entry['mean'] - half:.4g} to {entry['mean'] + half:.4g}"


def _outcomes(orders: dict[str, np.ndarray]) -> dict[str, Any]:
    rows = []
    alive = (orders["end_ns"] - orders["time_ns"]) / 1e9
    for word in ("filled", "part filled", "replaced", "refused", "open"):
        which = orders["outcome"] == word
        seconds = float(np.median(alive[which])) if which.any() else 0.0
        rows.append([word, int(which.sum()), float(which.mean()) if len(which) else 0.0, seconds])
    header = ["outcome", "orders", "share", "median life [s]"]
    notes = ["Every order and fill: logs/orders.parquet, logs/fills.parquet."]
    return {"title": "What became of the orders", "header": header, "rows": rows, "notes": notes}


def _queue(orders: dict[str, np.ndarray]) -> dict[str, Any]:
    """Fill ratio by the queue in front at arrival, in classes of equal numbers of orders."""
    front, filled = orders["queue_in_front"], orders["filled_lots"] > 0
    seen = np.isfinite(front)
    rows = []
    if seen.any():
        ahead, hit = front[seen], filled[seen]
        if (ahead == 0).any():
            rows.append(["nothing", int((ahead == 0).sum()), float(hit[ahead == 0].mean())])
        edges = np.unique(np.quantile(ahead[ahead > 0], QUEUE_EDGES)) if (ahead > 0).any() else np.zeros(0)
        for low, high in itertools.pairwise(edges):
            which = (ahead > low if low > edges[0] else ahead >= low) & (ahead <= high)
            rows.append(
                [f"{low:.4g} to {high:.4g}", int(which.sum()), float(hit[which].mean()) if which.any() else 0.0]
            )
    rows.append(["not visible", int((~seen & (orders["outcome"] != "refused")).sum()), 0.0])
    return {
        "title": "Queue in front at arrival",
        "header": ["recorded units in front", "orders", "share filled"],
        "rows": rows,
        "notes": ["Orders beyond the shown book have an unknown queue and fill only when the price goes through them."],
    }
