"""Tiny recorded sessions for hand-computed replays: best bid 100, best ask 102, tick 0.01, lots of 100."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from mfamm_jax.market.events import NS, Kind
from mfamm_jax.policies import Covariates, SymmetricPolicy
from mfamm_jax.simulation.execution import ReplayConfig
from mfamm_jax.simulation.replay import replay
from mfamm_jax.simulation.tape import build_tape

from ..market.sessions import make_session

ADD, CANCEL, DELETE, TRADE, HIDDEN, HALT = Kind.ADD, Kind.CANCEL, Kind.DELETE, Kind.TRADE, Kind.HIDDEN_TRADE, Kind.HALT
BID, ASK = 1, -1
START = (0.0, ADD, BID, 100, 300, (100, 300, 102, 300))


replay_once = eqx.filter_jit(replay)


def session(*rows):
    """Rows (seconds, kind, resting side, ticks, size, book after): the book is (bid, size, ask, size) or a list of levels.

    Filled up to eight rows with repetitions of the last book, so that most tests share one compilation.
    """
    rows = [*rows, *[(rows[-1][0], ADD, BID, 0, 1, rows[-1][5])] * (8 - len(rows))]
    updates = [
        (round(t * NS), kind, side, ticks, size, number) for number, (t, kind, side, ticks, size, _) in enumerate(rows)
    ]
    books = [np.reshape(book, (-1, 4)) for *_, book in rows]
    return make_session(updates, books)


def quote(half_spread=0.01, size=1.0, max_inventory=10.0):
    """Both sides at the mid -+ half_spread [price]."""
    return SymmetricPolicy(jnp.array(half_spread), jnp.array(max_inventory), jnp.array(size))


def neutral(tape):
    """Nothing to react to."""
    n = tape.decision_mid.shape[0]
    return Covariates(jnp.ones(n), jnp.zeros(n), jnp.zeros(n), jnp.zeros((n, 6)))


def run(rows, policy=None, *, record="summary", timing=None, **config):
    """Replays rows with one decision at the start unless the timing says otherwise."""
    tape, _ = build_tape(session(*rows), **({"decision_interval": 1000.0} | (timing or {})))
    return replay_once(policy or quote(), tape, neutral(tape), ReplayConfig(**config), record=record)


def fills(*args, **kwargs):
    """(lots bought, lots sold)."""
    result = run(*args, **kwargs)
    return float(result.bid_fills), float(result.ask_fills)
