"""Every order of experiment `mfamm` in its first test session, one row each."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mfamm_jax.experiments.replay_log import fill_table, order_table
from mfamm_jax.market.events import NS


def order_logs(prepared: Any, results: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """`orders` and `fills` of the quotes by asset, `children` of the pair trade by asset and venue; times of the recording, since 1970 where it has a date."""
    tests = jax.tree.map(lambda x: x[0], prepared.tests)
    moment = tests.moment
    seconds, actions = np.asarray(moment.seconds, np.float64), np.asarray(moment.action)
    known, epoch = prepared.report["times"], prepared.report["epoch_ns"]
    times = int(known["first"]) + epoch + np.round(np.cumsum(seconds) * NS).astype(np.int64)
    decisions = known["decisions"] + epoch
    orders, fills = [], []
    for i, (tape, path) in enumerate(zip(tests.tapes, results["_paths"], strict=True)):
        # Steps of the other assets are none of this one's.
        own = (actions >= 3 * i) & (actions < 3 * i + 3)
        action = jnp.asarray(np.where(own, actions - 3 * i, -1))
        alone = dataclasses.replace(tape, moment=dataclasses.replace(moment, action=action))
        for tables, table in ((orders, order_table), (fills, fill_table)):
            found = table(path, alone, times, 0)
            tables.append({"asset": np.full(len(next(iter(found.values()))), i + 1, np.int32), **found})
    said = results["trade"]
    child, split = np.asarray(said["child"], float), np.asarray(said["split"], float)
    sent = np.abs(child[: len(decisions), :, None] * split[: len(decisions)])
    row, asset, venue = np.nonzero(sent > 0)
    children = {
        "time_ns": decisions[row],
        "asset": (asset + 1).astype(np.int32),
        "side": np.where(child[row, asset] > 0, "buy", "sell"),
        "venue": np.array(prepared.report["venue_names"])[venue],
        "lots": sent[row, asset, venue],
    }
    return {"orders": _joined(orders), "fills": _joined(fills), "children": children}


def _joined(tables: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
