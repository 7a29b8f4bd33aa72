import numpy as np
import pytest

from mfamm_jax.market.events import NS
from mfamm_jax.simulation.timeline import Step, make_timeline

EVENTS = np.array([0, 1, 2, 4], np.int64) * NS


def steps(timeline):
    """(seconds, kind, index) of each step."""
    return [(t / NS, Step(k).name, int(i)) for t, k, i in zip(timeline.t_ns, timeline.kind, timeline.index)]


def test_without_latency_orders_arrive_right_after_their_decision_and_after_events_of_the_same_time():
    timeline = make_timeline(EVENTS, decision_interval=2.0)
    assert steps(timeline) == [
        (0, "MARKET", 0),
        (0, "DECIDE", 0),
        (0, "ARRIVE", 0),
        (1, "MARKET", 1),
        (2, "MARKET", 2),
        (2, "DECIDE", 1),
        (2, "ARRIVE", 1),
        (4, "MARKET", 3),
    ]
    assert timeline.feature_row.tolist() == [0, 2]
    assert timeline.arrival_row.tolist() == [0, 2]
    assert timeline.answered.tolist() == [1, 2]
    assert timeline.n_pending == 1


def test_latencies_move_what_is_seen_known_and_done():
    timeline = make_timeline(EVENTS, decision_interval=1.0, order_latency=1.5, response_latency=0.25, feed_latency=0.5)
    # The decision at 2 s sees the event at 1 s, knows its own fills as of 1.75 s, and arrives at 3.5 s.
    assert timeline.feature_row.tolist() == [-1, 0, 1, 2]
    assert (1.75, "DECIDE", 2) in steps(timeline)
    assert (3.5, "ARRIVE", 2) in steps(timeline)
    assert timeline.arrival_row[:3].tolist() == [1, 2, 2]  # the fourth order would arrive after the end
    # The decision at 2 s knows what happened until 1.75 s: of the first orders (1.5 s), not of the second's (2.5 s).
    assert timeline.answered.tolist() == [2, 3, 4, 4]
    assert timeline.n_pending == 2


def test_orders_that_would_arrive_after_the_end_are_dropped():
    timeline = make_timeline(EVENTS, decision_interval=1.0, order_latency=1.5, end_ns=3 * NS)
    assert timeline.t_ns.max() <= 3 * NS
    assert [i for _, kind, i in steps(timeline) if kind == "ARRIVE"] == [0, 1]
    assert [i for _, kind, i in steps(timeline) if kind == "MARKET"] == [0, 1, 2]


def test_decisions_fill_the_half_open_interval():
    timeline = make_timeline(EVENTS, decision_interval=1.0, start_ns=NS // 2, end_ns=3 * NS)
    np.testing.assert_array_equal(timeline.decision_ns / NS, [0.5, 1.5, 2.5])


def test_nanoseconds_survive_epoch_times():
    epoch = 1_723_161_254_087_891_268
    timeline = make_timeline(np.array([epoch, epoch + 1, epoch + NS], np.int64), decision_interval=0.5)
    assert timeline.t_ns[0] == epoch
    assert timeline.decision_ns.tolist() == [epoch, epoch + NS // 2]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"order_latency": -0.1}, "order_latency is -0.1"),
        ({"feed_latency": float("nan")}, "feed_latency is nan"),
        ({"decision_interval": 0.0}, "no decisions"),
        ({"end_ns": -1}, "no decisions"),
    ],
)
def test_impossible_timings_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        make_timeline(EVENTS, **({"decision_interval": 1.0} | change))


def test_events_must_be_in_order():
    for times in (EVENTS[::-1], EVENTS[:0]):
        with pytest.raises(ValueError, match="non-decreasing"):
            make_timeline(times, decision_interval=1.0)
