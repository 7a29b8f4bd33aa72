"""From event time to a regular grid and back: index arithmetic in NumPy, because nanoseconds need int64."""

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from mfamm_jax.market.events import NS


def last_index(t_ns: Int64[np.ndarray, " event"], at_ns: Int64[np.ndarray, " query"]) -> Int64[np.ndarray, " query"]:
    """Row of the last event at or before each query time; -1 where there is none.

    Clock: any two non-decreasing int64 clocks of one kind, times as well as row numbers. Of several events with equal
    times the last one counts, so a query sees everything that carries its own time stamp.
    """
    return (np.searchsorted(t_ns, at_ns, side="right") - 1).astype(np.int64)


def regular_grid(
    t_ns: Int64[np.ndarray, " event"], step_ns: int
) -> tuple[Int64[np.ndarray, " grid"], Int64[np.ndarray, " grid"]]:
    """Multiples of `step_ns` inside the recorded span, with the last event at or before each (previous tick).

    Clock: events in, regular grid out. The grid starts at the first multiple at or after the first event, so every
    index is valid.

    Args:
        t_ns: Event times, non-decreasing [ns].
        step_ns: Grid spacing [ns].

    Returns:
        Grid times [ns] and event rows.
    """
    if step_ns <= 0:
        raise ValueError(f"step_ns is {step_ns}, expected > 0")
    if len(t_ns) == 0:
        raise ValueError("no events, expected at least one")
    first, last = -(-int(t_ns[0]) // step_ns), int(t_ns[-1]) // step_ns
    grid_ns = np.arange(first, last + 1, dtype=np.int64) * step_ns
    return grid_ns, last_index(t_ns, grid_ns)


def durations(t_ns: Int64[np.ndarray, " event"]) -> Float64[np.ndarray, " gap"]:
    """Seconds between consecutive events, one fewer than there are events.

    Clock: events. The difference is taken in int64: float64 epochs would lose nanoseconds.
    """
    return np.diff(t_ns) / NS


def carry(
    values_at_events: Shaped[np.ndarray, "event *value"],
    index: Int64[np.ndarray, " query"],
    before: float | None = None,
) -> Shaped[np.ndarray, "query *value"]:
    """Values known at the rows `index`, carried forward to a slower or other clock.

    Clock: events in, the clock of `index` out (`last_index`, `regular_grid`).

    Args:
        values_at_events: One row per event.
        index: Rows; -1 = nothing has happened yet.
        before: Value where nothing has happened yet; without it such a query is an error.
    """
    missing = index < 0
    if not missing.any():
        return values_at_events[index]
    if before is None:
        raise ValueError(f"{int(missing.sum())} queries precede the first event, expected a value for `before`")
    padded = np.concatenate(
        [np.full_like(values_at_events, before, shape=(1, *values_at_events.shape[1:])), values_at_events]
    )
    return padded[np.maximum(index, -1) + 1]
