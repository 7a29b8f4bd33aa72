"""The signals on a regular clock: scores of the book, VPIN, mid and marketable orders, each known at its step."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from mfamm_jax.experiments.imbalance_data import GridSettings, scaled_books
from mfamm_jax.experiments.observe import Observed
from mfamm_jax.experiments.signal_regimes import SignalClock
from mfamm_jax.features import last_index, regular_grid
from mfamm_jax.features.imbalance_grid import GridScale, snapshot_grid
from mfamm_jax.market.events import NS, DataError, Session
from mfamm_jax.models.flax_function import Params
from mfamm_jax.models.imbalance_network import ImbalanceNetwork
from mfamm_jax.policies.regime_table import RegimeMap

N_AT_ONCE = 2048
ScoreName = Literal["queue_imbalance", "network"]


@dataclasses.dataclass(frozen=True)
class SignalPath:
    """Signals at every step.

    Args:
        t_ns: (K,) times.
        row: (K,) last event at or before each.
        score: (K,) imbalance in [-1, 1].
        vpin: (K,)
    """

    t_ns: np.ndarray
    row: np.ndarray
    score: np.ndarray
    vpin: np.ndarray


def signal_path(session: Session, observed: Observed, step: float) -> SignalPath:
    """Queue imbalance at the touch as the score."""
    t_ns, row = regular_grid(session.updates.t_ns, round(step * NS))
    return SignalPath(t_ns, row, observed.imbalance[row], observed.vpin[row])


def network_scores(
    path: SignalPath, session: Session, grid: GridSettings, scale: GridScale, net: ImbalanceNetwork, params: Params
) -> SignalPath:
    """The network's score instead; 0 until the first grid is complete."""
    values = scaled_books(session, path.row, grid, scale)
    n = len(path.t_ns)
    if n < grid.n_snapshots:
        raise DataError(f"{session.name}: {n} steps of {grid.step:g} s, expected at least {grid.n_snapshots}")
    last = jnp.arange(grid.n_snapshots - 1, n)

    @jax.jit
    def scores(params: Params, values: jax.Array, last: jax.Array) -> jax.Array:
        def one(at: jax.Array) -> jax.Array:
            return net.score(params, snapshot_grid(values, at + jnp.arange(1 - grid.n_snapshots, 1)))

        return jax.lax.map(one, last, batch_size=N_AT_ONCE)

    score = np.concatenate([np.zeros(grid.n_snapshots - 1), np.asarray(scores(params, values, last))])
    return dataclasses.replace(path, score=score)


def signal_clock(
    session: Session, observed: Observed, path: SignalPath, regimes: RegimeMap, step: float, start_ns: int, end_ns: int
) -> SignalClock:
    """Regimes, mids and orders between two times; orders count for the regime known before they come."""
    trades = observed.trades
    at = np.searchsorted(path.t_ns, trades.t_ns, side="left") - 1
    used = (path.t_ns >= start_ns) & (path.t_ns < end_ns)

    def count(sign: int) -> np.ndarray:
        return np.bincount(at[(at >= 0) & (trades.aggressor == sign)], minlength=len(path.t_ns))[used]

    row = path.row[used]
    regime = regimes(jnp.asarray(path.score[used]), jnp.asarray(path.vpin[used]))
    return SignalClock(
        step=step,
        regime=np.asarray(regime),
        mid=observed.mid_ticks[row] * session.tick_size,
        half_spread=observed.half_spread_ticks[row] * session.tick_size,
        buys=count(1),
        sells=count(-1),
    )


def at_events(path: SignalPath, t_ns: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Score known at events: that of the last step at or before each one's time stamp, 0 before the first."""
    found = last_index(path.t_ns, t_ns[row])
    return np.where(found >= 0, path.score[np.maximum(found, 0)], 0.0)
