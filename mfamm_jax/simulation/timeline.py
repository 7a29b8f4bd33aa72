"""When things happen: recorded events, decisions and order arrivals merged into one sequence, on the host.

Latencies depend on the time of sending, never on what is sent, so no timing depends on the policy: the sequence is computed
once, in int64 nanoseconds, and every policy of a sweep shares it.
"""

import dataclasses
from enum import IntEnum

import numpy as np

from mfamm_jax.simulation.latency import AbstractLatency, ConstantLatency, nanoseconds


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
        feature_row: int32 (J,), last event such that the decision has seen it and all before it; -1 = none, so it does not
            quote.
        seen_row: int32 (J,), event the decision has received last; differs from `feature_row` where events overtook
            others on their way.
        arrival_row: int32 (J,), last event before the decision's orders reach the exchange; -1 = none.
        answered: int32 (J,), first decision that knows what became of the decision's messages; J = none.
        refused: bool (J,), whether the venue refuses the decision's messages (a negative recorded latency).
        n_pending: Most decisions on their way at the same time.
        end_ns: End of the horizon.
        tape_ns: int64, exchange clock of every step of the tape; empty until one is built.
    """

    kind: np.ndarray
    index: np.ndarray
    t_ns: np.ndarray
    decision_ns: np.ndarray
    feature_row: np.ndarray
    seen_row: np.ndarray
    arrival_row: np.ndarray
    answered: np.ndarray
    refused: np.ndarray
    n_pending: int
    end_ns: int
    tape_ns: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))


def _last_row(t_ns: np.ndarray, at_ns: np.ndarray) -> np.ndarray:
    """Last event at or before each time, -1 for none."""
    return (np.searchsorted(t_ns, at_ns, side="right") - 1).astype(np.int32)


def _merge(times: list[np.ndarray], ranks: list[np.ndarray], kinds: list[Step]) -> tuple[np.ndarray, ...]:
    """Sorts by time, then rank, then number."""
    t_ns, rank = np.concatenate(times), np.concatenate(ranks)
    kind = np.repeat(np.array(kinds, np.int8), [len(t) for t in times])
    index = np.concatenate([np.arange(len(t), dtype=np.int32) for t in times])
    order = np.lexsort((index, rank, t_ns))
    return kind[order], index[order], t_ns[order]


def decision_times(t_ns: np.ndarray, interval: float, start_ns: int | None, end_ns: int | None) -> np.ndarray:
    """Every `interval` seconds over [start, end); defaults: first and last event."""
    step = nanoseconds("decision_interval", interval)
    start = int(t_ns[0]) if start_ns is None else start_ns
    end = int(t_ns[-1]) if end_ns is None else end_ns
    if step == 0 or end <= start:
        raise ValueError(f"no decisions: interval {interval} s, start {start} ns, end {end} ns")
    return np.arange(start, end, step, dtype=np.int64)


def make_timeline(
    t_ns: np.ndarray,
    *,
    decision_interval: float | np.ndarray | None,
    order_latency: float | AbstractLatency = 0.0,
    response_latency: float = 0.0,
    feed_latency: float = 0.0,
    local_ns: np.ndarray | None = None,
    start_ns: int | None = None,
    end_ns: int | None = None,
) -> Timeline:
    """Merges events with decisions every `decision_interval` seconds over [start, end), or at every event received.

    A decision at local time t sees the events received until t - `feed_latency` and its own fills of which the exchange's
    response has arrived; its orders reach the exchange after the order latency, no message overtaking another. In the same
    nanosecond recorded events come first (we queue behind them), then arrivals, then decisions: a decision knows what has
    happened at or before its time, and with no latency at all its orders arrive right after it. Orders that would arrive
    after the end are dropped.

    Args:
        t_ns: int64 (N,), non-decreasing exchange times of the events.
        decision_interval: [s]; None = a decision whenever an event is received; an increasing int64 array = those times.
        order_latency: From us to the exchange [s]; or a model of both ways, which replaces `response_latency`.
        response_latency: From the exchange to us, for our own fills [s].
        feed_latency: From the exchange to us, for market data [s]; on top of `local_ns` where that is given.
        local_ns: int64 (N,), when each event was received.
        start_ns: First decision; default: the first event.
        end_ns: Default: the last event.
    """
    if len(t_ns) == 0 or (np.diff(t_ns) < 0).any():
        raise ValueError("event times must be non-empty and non-decreasing")
    latency = order_latency
    if not isinstance(latency, AbstractLatency):
        latency = ConstantLatency(latency, response_latency)
    feed = nanoseconds("feed_latency", feed_latency)
    received = (t_ns if local_ns is None else local_ns) + feed
    if decision_interval is None:
        times = np.unique(received)
        start, end = (int(t_ns[0]) if start_ns is None else start_ns), (int(t_ns[-1]) if end_ns is None else end_ns)
        decision_ns = times[(times >= start) & (times < end)]
    elif isinstance(decision_interval, np.ndarray):
        decision_ns, end = decision_interval, (int(t_ns[-1]) if end_ns is None else end_ns)
        if len(decision_ns) == 0 or (np.diff(decision_ns) <= 0).any() or decision_ns[-1] >= end:
            raise ValueError("decision times must be increasing, at least one, and end before the last event or end_ns")
    else:
        decision_ns = decision_times(t_ns, decision_interval, start_ns, end_ns)
        end = int(t_ns[-1]) if end_ns is None else end_ns
    entry, refused = latency.entry(decision_ns)
    # A refused message never gets to the exchange and holds up no other.
    arrival_ns = np.maximum.accumulate(decision_ns + np.where(refused, 0, entry))
    inside = arrival_ns <= end
    events = t_ns[t_ns <= end].astype(np.int64)
    known_ns = latency.known_until(decision_ns, np.concatenate([events, arrival_ns[inside & ~refused]]))
    # Whatever arrives in the nanosecond of its decision comes after it, and before decisions that know it already.
    ranks = [
        np.zeros(len(events)),
        np.where(known_ns >= arrival_ns, 3, 1)[inside],
        np.where(known_ns >= decision_ns, 2, 4),
    ]
    kind, index, step_ns = _merge(
        [events, arrival_ns[inside], known_ns], ranks, [Step.MARKET, Step.ARRIVE, Step.DECIDE]
    )
    decides, arrives = kind == Step.DECIDE, kind == Step.ARRIVE
    in_flight = np.cumsum(decides) - np.cumsum(arrives)
    # An arrival is known to the decisions after it in the sequence, a refusal after its latency.
    answered = np.full(len(decision_ns), len(decision_ns), np.int32)
    answered[index[arrives]] = np.cumsum(decides)[arrives]
    answered[refused] = np.searchsorted(decision_ns, (decision_ns + entry)[refused])
    by_arrival = np.argsort(received, kind="stable")
    last = _last_row(received[by_arrival], decision_ns)
    return Timeline(
        kind=kind,
        index=index,
        t_ns=step_ns,
        decision_ns=decision_ns,
        feature_row=_last_row(np.maximum.accumulate(received), decision_ns),
        seen_row=np.where(last >= 0, by_arrival[np.maximum(last, 0)], -1).astype(np.int32),
        arrival_row=_last_row(t_ns, arrival_ns),
        answered=answered,
        refused=refused,
        n_pending=int(in_flight.max(initial=0)),
        end_ns=end,
    )
