"""Several instruments on one clock."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.policies import Quotes
from mfamm_jax.simulation.execution import ReplayConfig
from mfamm_jax.simulation.latency import RandomLatency
from mfamm_jax.simulation.merge import merge_tapes
from mfamm_jax.simulation.replay import replay_together
from mfamm_jax.simulation.tape import build_tape

from ..checks import assert_close
from .tapes import neutral, quote, replay_once, session
from .test_replay import random_session

TIMES = {"start_ns": 0, "end_ns": 50_000_000_000, "decision_interval": 0.5}
together = jax.jit(replay_together, static_argnames=("policy", "record"))


def parts(*seeds, **timing):
    return [build_tape(session(*random_session(seed)), **(TIMES | timing)) for seed in seeds]


def apart(states):
    """Each instrument as if it were alone."""
    return quote(0.012, 2.0)(states[0]), quote(0.02, 1.0)(states[1])


@pytest.mark.parametrize("latency", [0.0, 0.11])
@pytest.mark.slow
def test_instruments_that_ignore_each_other_trade_as_if_alone(latency):
    built = parts(1, 2, order_latency=latency, response_latency=latency / 2)
    tapes = tuple(tape for tape, _ in built)
    covariates = tuple(neutral(tape) for tape in tapes)
    configs = (ReplayConfig(maker_fee=0.001), ReplayConfig(partial_fills=False))
    joint = together(apart, tapes, merge_tapes(built), covariates, configs)
    for result, tape, config, policy in zip(joint, tapes, configs, (quote(0.012, 2.0), quote(0.02, 1.0))):
        alone = replay_once(policy, tape, neutral(tape), config)
        assert alone.bid_fills + alone.ask_fills > 5
        for name, value in vars(alone).items():
            if "quoted" not in name and value is not None:  # shares of a time that starts with the first of the tapes
                assert_close(getattr(result, name), value)


@pytest.mark.thorough
def test_one_decision_knows_all_inventories():
    """The second instrument hedges: it only quotes the side that brings the sum of both inventories back."""

    def hedging(states):
        first = quote(0.012, 2.0)(states[0])
        total = states[0].inventory + states[1].inventory
        hedge = quote(0.02, 1.0)(states[1])
        sizes = (jnp.where(total < 0, 1.0, 0.0), jnp.where(total > 0, 1.0, 0.0))
        return first, Quotes(hedge.bid_depth, hedge.ask_depth, *sizes)

    built = parts(1, 2, order_latency=0.01)
    tapes = tuple(tape for tape, _ in built)
    configs = (ReplayConfig(), ReplayConfig())
    moment = merge_tapes(built)
    covariates = tuple(neutral(tape) for tape in tapes)
    paths = [r.path for r in together(hedging, tapes, moment, covariates, configs, record="path")]
    size, inventory = np.asarray(paths[1].order_size), [np.asarray(p.inventory) for p in paths]
    decides = np.flatnonzero(np.asarray(moment.action) == 6)
    total = inventory[0] + inventory[1]
    assert np.asarray(paths[1].fill).sum() > 5
    # After its message has arrived, what rests is what the decision's total asked for.
    for j in decides[:-1]:
        resting = size[j + 1]
        if np.array_equal(size[j + 1], size[j]):
            continue
        assert resting[0] == 0 or total[j] < 0
        assert resting[1] == 0 or total[j] > 0
    assert_close(paths[0].value[-1] + paths[1].value[-1], sum(p.value[-1] for p in paths))


def test_merged_steps_are_in_order_and_complete():
    built = parts(3, 4, order_latency=0.01)
    moment = merge_tapes(built)
    action = np.asarray(moment.action)
    n_decisions = len(built[0][1].decision_ns)
    assert (action == 6).sum() == n_decisions
    assert len(action) == sum(len(tape.moment.action) for tape, _ in built) - n_decisions
    assert_close(jnp.sum(moment.seconds), (TIMES["end_ns"] - 0) / 1e9, float64=0.5, float32=0.5)


def test_clocks_that_differ_are_refused():
    with pytest.raises(ValueError, match="tape 1 decides at other times"):
        merge_tapes([*parts(1), *parts(2, decision_interval=1.0)])
    random = {"order_latency": RandomLatency(0.01, 0.01, 0.5, 0)}
    with pytest.raises(ValueError, match="response latencies differ"):
        merge_tapes(parts(1, 2, **random))
