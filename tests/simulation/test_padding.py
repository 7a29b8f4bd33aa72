"""Sessions of different lengths in one shape, and strategies that remember."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.policies import Quotes
from mfamm_jax.simulation.execution import ReplayConfig
from mfamm_jax.simulation.merge import merge_tapes
from mfamm_jax.simulation.padding import stack_replays
from mfamm_jax.simulation.replay import replay_strategy, replay_together
from mfamm_jax.simulation.tape import build_tape

from ..checks import assert_close
from .tapes import neutral, quote, session
from .test_replay import random_session

TIMES = {"start_ns": 0, "end_ns": 50_000_000_000, "decision_interval": 0.5, "order_latency": 0.02}
CONFIGS = (ReplayConfig(maker_fee=0.001), ReplayConfig(partial_fills=False))


def replayable(*seeds, **timing):
    built = [build_tape(session(*random_session(seed)), **(TIMES | timing)) for seed in seeds]
    tapes = tuple(tape for tape, _ in built)
    return tapes, merge_tapes(built), tuple(neutral(tape) for tape in tapes)


def counting(memory, states, index):
    """Quotes less the more it has been asked, and says how often and at what price."""
    depth = 0.01 + 0.0001 * memory
    first, second = quote(0.0)(states[0]), quote(0.0)(states[1])
    quotes = tuple(Quotes(depth, depth, q.bid_size, q.ask_size) for q in (first, second))
    return memory + 1, quotes, {"asked": memory, "index": index, "mid": states[0].mid}


def run(tapes, moment, covariates, record="summary"):
    return replay_strategy(counting, jnp.zeros(()), tapes, moment, covariates, CONFIGS, record=record)


def test_a_strategy_remembers_and_what_it_said_is_kept_by_decision():
    tapes, moment, covariates = replayable(1, 2)
    found = jax.jit(lambda *x: run(*x, record="path"))(tapes, moment, covariates)
    n = tapes[0].time_left.shape[0]
    assert float(found.memory) == n == 100
    np.testing.assert_array_equal(found.said["asked"], np.arange(n))
    np.testing.assert_array_equal(found.said["index"], np.arange(n))
    np.testing.assert_array_equal(found.said["mid"], tapes[0].decision_mid)


def test_without_memory_it_is_a_joint_policy():
    tapes, moment, covariates = replayable(1, 2)

    def policy(states):
        return quote(0.012)(states[0]), quote(0.02)(states[1])

    joint = jax.jit(lambda *x: replay_together(policy, *x, CONFIGS))(tapes, moment, covariates)
    alone = jax.jit(
        lambda *x: replay_strategy(lambda memory, states, _: (memory, policy(states), ()), (), *x, CONFIGS)
    )(tapes, moment, covariates)
    for one, other in zip(joint, alone.instruments):
        assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), one, other))
        assert one.bid_fills + one.ask_fills > 5


@pytest.mark.thorough
def test_stacked_sessions_give_what_each_gives_alone_to_the_bit():
    """Other lengths, ladders, numbers of decisions and latencies: the shorter ones are padded."""
    sessions = [replayable(1, 2), replayable(3, 4, end_ns=30_000_000_000), replayable(5, 6, order_latency=0.9)]
    tapes, moment, covariates = stack_replays(sessions)
    assert len({s[1].action.shape[0] for s in sessions}) == 3
    together = jax.jit(lambda *x: jax.lax.map(lambda y: run(*y), x))(tapes, moment, covariates)
    mapped = jax.jit(jax.vmap(run))(tapes, moment, covariates)
    for i, one in enumerate(sessions):
        alone = jax.jit(run)(*one)
        assert float(alone.memory) == float(together.memory[i])
        for instrument in range(2):
            for name, value in vars(alone.instruments[instrument]).items():
                if value is None:
                    continue
                stacked = getattr(together.instruments[instrument], name)[i]
                if "quoted" in name:  # the sum of seconds is taken over another number of steps
                    assert_close(stacked, value)
                else:
                    np.testing.assert_array_equal(np.asarray(stacked), np.asarray(value), err_msg=name)
                assert_close(getattr(mapped.instruments[instrument], name)[i], value)
        assert alone.instruments[0].bid_fills + alone.instruments[0].ask_fills > 3


def test_sessions_of_other_instruments_do_not_stack():
    with pytest.raises(ValueError, match="different numbers of instruments"):
        stack_replays([replayable(1, 2), replayable(3)])


def test_given_decision_times_are_those_of_an_interval():
    times = np.arange(0, 50_000_000_000, 500_000_000, dtype=np.int64)
    one, other = replayable(1, 2), replayable(1, 2, decision_interval=times)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), one, other))
    for wrong in (times[::-1], times[:0], times + 49_900_000_000):
        with pytest.raises(ValueError, match="decision times must be increasing"):
            replayable(1, decision_interval=np.ascontiguousarray(wrong))
