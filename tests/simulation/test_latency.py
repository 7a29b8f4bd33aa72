import numpy as np
import pytest

from mfamm_jax.market.events import NS
from mfamm_jax.simulation.latency import ConstantLatency, RandomLatency, RecordedLatency
from mfamm_jax.simulation.replay import ReplayConfig
from mfamm_jax.simulation.tape import build_tape
from mfamm_jax.simulation.timeline import Step, make_timeline

from .shapes import padded, recorded
from .tapes import ADD, ASK, BID, START, TRADE, neutral, quote, session

MS = 1_000_000
EVENTS = np.array([0, 1, 2, 4], np.int64) * NS


def at(*seconds):
    return np.array([round(s * NS) for s in seconds], np.int64)


def round_trips(*rows):
    """Milliseconds (sent, at the exchange, answered)."""
    return RecordedLatency(*(np.array(column, np.int64) * MS for column in zip(*rows)))


def arrivals(timeline):
    """When each decision's message arrives."""
    kind = timeline.kind == Step.ARRIVE
    return dict(zip(timeline.index[kind].tolist(), timeline.t_ns[kind].tolist()))


def decision_steps(timeline):
    kind = timeline.kind == Step.DECIDE
    return timeline.t_ns[kind].tolist()


def test_constant_latency_is_the_same_for_every_message():
    latency = ConstantLatency(0.01, 0.002)
    entry, refused = latency.entry(at(0, 5, 9))
    assert entry.tolist() == [10 * MS] * 3
    assert not refused.any()
    assert latency.response(at(1, 2)).tolist() == [2 * MS] * 2
    # Exact between the moments at which something happened, too.
    assert latency.known_until(at(1.5), at(0, 1, 2)).tolist() == [1_498 * MS]


def test_random_latencies_are_drawn_from_their_seed_once_for_all_policies():
    sent = np.arange(4000, dtype=np.int64) * MS
    first, again, other = (RandomLatency(0.01, 0.02, 0.5, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.entry(sent)[0], again.entry(sent)[0])
    np.testing.assert_array_equal(first.response(sent), again.response(sent))
    assert (first.entry(sent)[0] != other.entry(sent)[0]).mean() > 0.99
    # Paired: the nth message takes as long whatever the interval of decisions, in both ways independently.
    np.testing.assert_array_equal(first.entry(sent)[0], first.entry(2 * sent)[0])
    assert abs(np.corrcoef(first.entry(sent)[0], first.response(sent))[0, 1]) < 0.05


def test_random_latencies_have_their_median_and_spread():
    n = 40_000
    latency = RandomLatency(0.01, 0.02, 0.5, seed=1)
    for values, median in ((latency.entry(np.zeros(n, np.int64))[0], 0.01), (latency.response(np.zeros(n)), 0.02)):
        logs = np.log(values / (median * NS))
        # Four standard errors: of the median 1.25 sigma / sqrt(n), of sigma itself sigma / sqrt(2n).
        assert abs(np.median(logs)) < 4 * 1.25 * 0.5 / np.sqrt(n)
        assert abs(logs.std() - 0.5) < 4 * 0.5 / np.sqrt(2 * n)
    still = RandomLatency(0.01, 0.02, 0.0, seed=1)
    assert set(still.entry(np.zeros(9, np.int64))[0].tolist()) == {10 * MS}


def test_recorded_latencies_are_interpolated_and_held_beyond_the_ends():
    latency = round_trips((1000, 1010, 1016), (2000, 2030, 2034), (3000, 3010, 3020))
    entry, refused = latency.entry(at(0.5, 1.0, 1.25, 2.0, 2.5, 3.0, 9.0))
    assert (entry / MS).tolist() == [10, 10, 15, 30, 20, 10, 10]
    assert not refused.any()
    # The way back takes 6, 4 and 10 ms, measured from the exchange's times.
    back = latency.response(at(0.5, 1.01, 1.52, 2.03, 2.52, 9.0))
    np.testing.assert_allclose(back / MS, [6, 6, 5, 4, 7, 10])


def test_messages_near_a_refused_one_are_refused():
    latency = round_trips((1000, 1010, 1016), (2000, 0, 2060), (3000, 3010, 3020), (4000, 4010, 4020))
    _, refused = latency.entry(at(0.5, 1.0, 1.5, 2.0, 2.9, 3.0, 5.0))
    # Between two measurements either of them refuses; exactly at the third nothing is refused.
    assert refused.tolist() == [False, True, True, True, True, False, False]
    # Answers are interpolated between the messages that the exchange handled.
    assert latency.response(at(2.01)).tolist() == [8 * MS]
    nothing = round_trips((1000, 0, 1016))
    assert nothing.entry(at(1, 7))[1].all()
    assert nothing.response(at(1, 7)).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: ConstantLatency(-0.1, 0.0), "order_latency is -0.1"),
        (lambda: ConstantLatency(0.0, float("inf")), "response_latency is inf"),
        (lambda: RandomLatency(0.01, float("nan"), 0.5, 0), "response_latency is nan"),
        (lambda: RandomLatency(0.01, 0.01, -1.0, 0), "spread is -1.0"),
        (lambda: RandomLatency(0.01, 0.01, 10.0, 0), "spread is 10.0"),
        (lambda: RecordedLatency(at(), at(), at()), "non-empty"),
        (lambda: RecordedLatency(at(1, 2), at(1, 2), at(2)), "equally long"),
        (lambda: round_trips((2, 3, 4), (2, 3, 4)), "must increase"),
        (lambda: round_trips((2, 3, 1)), "before its request"),
    ],
)
def test_impossible_latencies_are_refused(build, said):
    with pytest.raises(ValueError, match=said):
        build()


def test_no_message_overtakes_another():
    falling = round_trips((0, 1500, 1600), (1000, 1100, 1200), (2000, 2100, 2200))
    timeline = make_timeline(EVENTS, decision_interval=1.0, order_latency=falling)
    # Sent at 0 s it takes 1.5 s, sent at 1 s 0.1 s: the second waits for the first.
    assert arrivals(timeline) == {0: 1500 * MS, 1: 1500 * MS, 2: 2100 * MS, 3: 3100 * MS}
    for seed in range(5):
        latency = RandomLatency(0.5, 0.5, 1.5, seed)
        timeline = make_timeline(EVENTS, decision_interval=0.05, order_latency=latency)
        times = list(arrivals(timeline).values())
        assert times == sorted(times)
        assert list(arrivals(timeline)) == sorted(arrivals(timeline))
        assert decision_steps(timeline) == sorted(decision_steps(timeline))
        assert (np.array(decision_steps(timeline)) <= timeline.decision_ns).all()
        assert (timeline.answered > np.arange(len(timeline.answered))).all()


def test_no_answer_overtakes_another():
    # Answers take 900 ms for what happens at 1 s and 50 ms at 1.5 s: the second is known with the first.
    latency = round_trips((900, 1000, 1900), (1400, 1500, 1550))
    known = latency.known_until(at(0.5, 1.85, 1.89, 1.9, 3.0), at(1.0, 1.5))
    assert (known[1:] / MS).tolist() == [known[0] / MS, known[0] / MS, 1500, 1500]
    assert known[0] < 1000 * MS


def test_everything_at_one_moment_is_answered_at_once():
    latency = RandomLatency(0.0, 0.1, 1.0, seed=0)
    moments = at(1.0, 2.0)
    later = at(*np.arange(1, 4, 0.01))
    known = latency.known_until(later, np.repeat(moments, 7))
    np.testing.assert_array_equal(known, latency.known_until(later, moments))


def test_a_message_that_takes_no_time_arrives_after_its_own_decision_only():
    # The first message and its answer take no time, the later ones do.
    latency = round_trips((0, 0, 0), (1000, 1100, 1200), (2000, 2100, 2200))
    timeline = make_timeline(EVENTS, decision_interval=1.0, order_latency=latency)
    order = [(Step(k).name, int(i)) for k, i in zip(timeline.kind, timeline.index) if k != Step.MARKET]
    for decision in (0, 1, 2, 3):
        assert order.index(("DECIDE", decision)) < order.index(("ARRIVE", decision))
    assert timeline.answered[0] == 1
    assert timeline.n_pending >= 1


def test_a_refused_message_holds_up_no_other():
    latency = round_trips((0, -1, 3500), (900, 1000, 1100), (2000, 2100, 2200))
    timeline = make_timeline(EVENTS, decision_interval=1.0, order_latency=latency)
    assert timeline.refused.tolist() == [True, False, False, False]
    assert arrivals(timeline)[1] == 1100 * MS


def run(rows, latency, **config):
    tape, _ = build_tape(session(*rows), decision_interval=1.0, order_latency=latency, depth_ticks=60)
    wide = padded(tape)
    return recorded(quote(), wide, neutral(wide), ReplayConfig(**config))


def sells(size, t):
    return (t, TRADE, BID, 100, size, (100, 400, 102, 300))


@pytest.mark.thorough
def test_an_order_stays_where_its_replacement_was_refused():
    """The bid at 100 keeps its place although the desk wants to leave it while the venue is overloaded."""
    rows = [
        START,
        sells(300, 0.5),
        (1.5, ADD, ASK, 101, 100, (100, 400, 101, 100)),  # the target moves to 99
        sells(60, 2.5),
        (9.0, ADD, ASK, 101, 100, (100, 400, 101, 100)),
    ]
    good = round_trips((0, 10, 20), (20_000, 20_010, 20_020))
    bad = round_trips((0, 10, 20), (1900, 0, 1920), (20_000, 20_010, 20_020))
    refusing = round_trips((0, 10, 20), (1, 11, 21), (1900, 0, 1920), (2900, 0, 2920), (2901, 2911, 2921))
    assert run(rows, good).bid_fills == 0
    result = run(rows, refusing)
    assert result.bid_fills == 1
    # Where the venue refuses from the start nothing ever rests, and nothing counts as refused by its rules.
    nothing = run(rows, bad)
    assert (nothing.bid_fills, nothing.n_bid_orders, nothing.rejected) == (0, 0, 0)


def test_a_refused_replacement_does_not_make_its_order_younger():
    """Orders are replaced at 2 s of age: the refused attempt at 2 s counts for nothing, the next one at 3 s does."""
    rows = [START, sells(200, 0.5), (9.0, ADD, BID, 100, 1, (100, 400, 102, 300))]
    latency = round_trips((0, 10, 20), (1, 11, 21), (1900, 0, 1920), (2900, 2910, 2920), (2901, 2911, 2921))
    result = run(rows, latency, max_age=2.0)
    # Accepted at 0, 3, 5 and 7 s: the order of 0 s is 3 s old when it is replaced at last.
    assert result.n_bid_orders == 4
