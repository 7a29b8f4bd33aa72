"""Orders and fills of a recorded replay as tables, one row each."""

from typing import Any

import numpy as np

from mfamm_jax.simulation.replay import ReplayPath
from mfamm_jax.simulation.tape import Action, Tape

SIDES = ("bid", "ask")


def _columns(x: Any) -> np.ndarray:
    """(step, 2, level), also where there is one level."""
    x = np.asarray(x)
    return x if x.ndim == 3 else x[:, :, None]


def fill_table(path: ReplayPath, tape: Tape, tape_ns: np.ndarray, epoch_ns: int) -> dict[str, np.ndarray]:
    """One row per fill: time, side, level, price, lots, the mid just before, whether it took, and what it gained later.

    Prices are absolute; times are UTC nanoseconds where the recording has a date.
    """
    lots, price = _columns(path.fill), _columns(path.fill_price)
    step, side, level = np.nonzero(lots > 0)
    reference = float(tape.reference_price)
    return {
        "time_ns": tape_ns[step] + epoch_ns,
        "side": np.array(SIDES)[side],
        "level": level.astype(np.int32),
        "price": price[step, side, level] + reference,
        "lots": lots[step, side, level],
        "mid_before": np.asarray(path.fill_mid)[step] + reference,
        "is_taker": np.asarray(tape.moment.action)[step] == Action.ARRIVE,
        "inventory_after": np.asarray(path.inventory)[step],
    }


def order_table(path: ReplayPath, tape: Tape, tape_ns: np.ndarray, epoch_ns: int) -> dict[str, np.ndarray]:
    """One row per order that reached the exchange: arrival, price, size, queue in front, end and why it ended.

    `outcome`: "filled", "part filled" and then replaced, "replaced" (or withdrawn), "refused", "open" at the end.
    """
    sources = {
        "size": path.order_size,
        "ticks": path.order_ticks,
        "front": path.order_front,
        "lots": path.fill,
        "accepted": path.accepted,
        "refused": path.refused,
    }
    recorded = {name: _columns(x) for name, x in sources.items()}
    action = np.asarray(tape.moment.action)
    decision = np.asarray(tape.moment.index)
    parts = []
    for side in range(2):
        for level in range(recorded["size"].shape[2]):
            columns = {name: x[:, side, level] for name, x in recorded.items()}
            parts.append(_orders(side, level, **columns, action=action))
    table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.lexsort((table["level"], table["side"], table["start"]))
    table = {name: values[order] for name, values in table.items()}
    start, end = table.pop("start"), table.pop("end")
    tick, reference = float(tape.tick_size), float(tape.reference_price)
    return {
        "time_ns": tape_ns[start] + epoch_ns,
        "decision": decision[start],
        "side": np.array(SIDES)[table["side"]],
        "level": table["level"],
        "price": table["ticks"] * tick + reference,
        "lots": table["lots"],
        "queue_in_front": table["front"],
        "end_ns": tape_ns[end] + epoch_ns,
        "filled_lots": table["filled"],
        "outcome": table["outcome"],
    }


def _orders(
    side: int,
    level: int,
    size: np.ndarray,
    ticks: np.ndarray,
    front: np.ndarray,
    lots: np.ndarray,
    accepted: np.ndarray,
    refused: np.ndarray,
    action: np.ndarray,
) -> dict[str, np.ndarray]:
    """One side and level's orders in time; an order ends when it is filled or when the next message replaces it."""
    n = len(size)
    start = np.flatnonzero(accepted)
    # A message that withdraws leaves nothing behind without a fill.
    gone = np.flatnonzero((size == 0) & ((action == Action.ARRIVE) | (lots > 0)))
    ends = np.unique(np.concatenate([start, gone, [n]]))
    later = np.searchsorted(ends, start, side="right")
    end = ends[later]
    taken = lots[start] > 0  # at arrival
    end = np.where(taken, start, end)
    filled = np.cumsum(lots)
    total = np.where(end < n, filled[np.minimum(end, n - 1)], filled[-1]) - filled[start] + lots[start]
    # A fill at the step of the replacing message is that message's.
    replaced = (end < n) & ~taken & (action[np.minimum(end, n - 1)] == Action.ARRIVE)
    total = total - np.where(replaced, lots[np.minimum(end, n - 1)], 0.0)
    sent = np.where(taken, lots[start], size[start])
    words = np.full(len(start), "open", dtype="<U11")
    words[replaced] = "replaced"
    words[replaced & (total > 0)] = "part filled"
    words[(total > 0) & (total >= sent * (1 - 1e-9))] = "filled"
    refusals = np.flatnonzero(refused)
    both = np.concatenate([start, refusals])
    return {
        "start": both,
        "end": np.concatenate([np.minimum(end, n - 1), refusals]),
        "side": np.full(len(both), side),
        "level": np.full(len(both), level, np.int32),
        "ticks": ticks[both].astype(np.int64),
        "lots": np.concatenate([sent, np.zeros(len(refusals))]),
        "front": np.concatenate([front[start], np.full(len(refusals), np.nan)]),
        "filled": np.concatenate([total, np.zeros(len(refusals))]),
        "outcome": np.concatenate([words, np.full(len(refusals), "refused")]),
    }
