"""When things happen: recorded events, decisions and order arrivals merged into one sequence, on the host.

With constant latencies no timing depends on the policy, so the sequence is computed once, in int64 nanoseconds, and every
policy of a sweep shares it.
"""

import dataclasses
from enum import IntEnum

import numpy as np

from mfamm_jax.market.events import NS


class Step(IntEnum):
    """What happens at a step of the merged sequence."""

    MARKET = 0
    ARRIVE = 1
    DECIDE = 2


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Merged sequence of S steps; J decisions.

    Args:
        kind: int8 (S,), `Step`.
        index: int32 (S,), event row of a MARKET step, decision number of the others.
        t_ns: int64 (S,), exchange clock.
        decision_ns: int64 (J,), local time of each decision.
        feature_row: int32 (J,), last event the decision has seen; -1 = none, so it does not quote.
        arrival_row: int32 (J,), last event before the decision's orders reach the exchange; -1 = none.
        arrived: int32 (J,), how many earlier decisions' orders are known to have arrived at the decision.
        n_pending: Most decisions on their way at the same time.
        decision_interval: [s].
        end_ns: End of the horizon.
    """

    kind: np.ndarray
    index: np.ndarray
    t_ns: np.ndarray
    decision_ns: np.ndarray
    feature_row: np.ndarray
    arrival_row: np.ndarray
    arrived: np.ndarray
    n_pending: int
    decision_interval: float
    end_ns: int


def _nanoseconds(name: str, seconds: float) -> int:
    if not 0 <= seconds < np.inf:
        raise ValueError(f"{name} is {seconds}, expected a finite number of seconds >= 0")
    return round(seconds * NS)


def _last_row(t_ns: np.ndarray, at_ns: np.ndarray) -> np.ndarray:
    """Last event at or before each time, -1 for none."""
    return (np.searchsorted(t_ns, at_ns, side="right") - 1).astype(np.int32)


def _merge(times: list[np.ndarray], ranks: list[int], kinds: list[Step]) -> tuple[np.ndarray, ...]:
    """Sorts by time, then rank, then number."""
    t_ns = np.concatenate(times)
    rank = np.repeat(ranks, [len(t) for t in times])
    kind = np.repeat(np.array(kinds, np.int8), [len(t) for t in times])
    index = np.concatenate([np.arange(len(t), dtype=np.int32) for t in times])
    order = np.lexsort((index, rank, t_ns))
    return kind[order], index[order], t_ns[order]


def make_timeline(
    t_ns: np.ndarray,
    *,
    decision_interval: float,
    order_latency: float = 0.0,
    response_latency: float = 0.0,
    feed_latency: float = 0.0,
    start_ns: int | None = None,
    end_ns: int | None = None,
) -> Timeline:
    """Merges events with decisions every `decision_interval` seconds over [start, end).

    A decision at local time t sees the market as of t - `feed_latency` and its own fills as of t - `response_latency`;
    its orders reach the exchange at t + `order_latency`. In the same nanosecond recorded events come first (we queue
    behind them), then arrivals, then decisions: a decision knows what has happened at or before its time, and with no
    latency at all its orders arrive right after it. Orders that would arrive after the end are dropped.

    Args:
        t_ns: int64 (N,), non-decreasing exchange times of the events.
        decision_interval: [s].
        order_latency: From us to the exchange [s].
        response_latency: From the exchange to us, for our own fills [s].
        feed_latency: From the exchange to us, for market data [s].
        start_ns: First decision; default: the first event.
        end_ns: Default: the last event.
    """
    if len(t_ns) == 0 or (np.diff(t_ns) < 0).any():
        raise ValueError("event times must be non-empty and non-decreasing")
    interval = _nanoseconds("decision_interval", decision_interval)
    order = _nanoseconds("order_latency", order_latency)
    response = _nanoseconds("response_latency", response_latency)
    feed = _nanoseconds("feed_latency", feed_latency)
    start = int(t_ns[0]) if start_ns is None else start_ns
    end = int(t_ns[-1]) if end_ns is None else end_ns
    if interval == 0 or end <= start:
        raise ValueError(f"no decisions: interval {decision_interval} s, start {start} ns, end {end} ns")
    decision_ns = np.arange(start, end, interval, dtype=np.int64)
    known_ns, arrival_ns = decision_ns - response, decision_ns + order
    times = [t_ns[t_ns <= end].astype(np.int64), arrival_ns[arrival_ns <= end], known_ns]
    arrival_rank = 1 if response + order > 0 else 3
    kind, index, step_ns = _merge(times, [0, arrival_rank, 2], [Step.MARKET, Step.ARRIVE, Step.DECIDE])
    arrivals = np.cumsum(kind == Step.ARRIVE, dtype=np.int32)
    in_flight = np.cumsum(kind == Step.DECIDE) - arrivals
    return Timeline(
        kind=kind,
        index=index,
        t_ns=step_ns,
        decision_ns=decision_ns,
        feature_row=_last_row(t_ns, decision_ns - feed),
        arrival_row=_last_row(t_ns, arrival_ns),
        arrived=arrivals[kind == Step.DECIDE],
        n_pending=int(in_flight.max()),
        decision_interval=interval / NS,
        end_ns=end,
    )
