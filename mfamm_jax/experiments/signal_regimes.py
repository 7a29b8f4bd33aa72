r"""What the signals' regimes are worth, estimated from the past: how long they last, where the mid goes, who trades.

A market and its mirror image are taken as one market: every estimate pools what a regime did with what its mirror did on the other
side, so that a rising training hour teaches no one to buy.

With G the generator of the regimes and $\mu$ their drifts, the expected move over h is $d = A\mu$, $A = \int_0^h e^{Gs}\,ds$. The mean
moves d are measured, shrunk towards those of a coarser map by $x^2/(x^2 + se^2)$, x their difference, and solved for $\mu$.
"""

import dataclasses

import numpy as np
from scipy.linalg import expm

from mfamm_jax.policies.regime_table import RegimeMap

CLUSTER_SECONDS = 30.0  # stretches taken as independent
PRIOR_SECONDS = 1.0  # of time spent in every regime as on average
PRIOR_ORDERS = 10.0  # arrivals of the average rate


@dataclasses.dataclass(frozen=True)
class SignalClock:
    """What is known at every step of a regular clock in the part of the session that is estimated on.

    Args:
        step: Between rows [s].
        regime: (K,) number.
        mid: (K,) [price].
        half_spread: (K,) [price].
        buys, sells: (K,) marketable orders that come before the next row.
    """

    step: float
    regime: np.ndarray
    mid: np.ndarray
    half_spread: np.ndarray
    buys: np.ndarray
    sells: np.ndarray


@dataclasses.dataclass(frozen=True)
class Regimes:
    """Estimates per regime.

    Args:
        share: Of time.
        sojourn: Mean time in it [s].
        generator: (regime, regime) [1/s].
        measured, error: Mean move of the mid over the horizon and its standard error [price].
        move: The one believed.
        drift: [price/s].
        bid_scale, ask_scale: Fill rates at the mid [1/s].
    """

    share: np.ndarray
    sojourn: np.ndarray
    generator: np.ndarray
    measured: np.ndarray
    error: np.ndarray
    move: np.ndarray
    drift: np.ndarray
    bid_scale: np.ndarray
    ask_scale: np.ndarray


def estimate_regimes(
    clock: SignalClock,
    regimes: RegimeMap,
    horizon: float,
    decay: float,
    coarse: tuple[RegimeMap, Regimes] | None = None,
) -> Regimes:
    """Everything the control problem wants to know.

    Args:
        clock: The past.
        regimes: The map that numbers them.
        horizon: Over which moves are measured [s].
        decay: Of fill rates with depth, when orders are counted at the touch [1/price]; 0 when they are counted from the mid.
        coarse: A map that uses fewer signals, and its estimates, to fall back on where there is little to see.
    """
    n, mirror = regimes.n_regimes, np.array(regimes.mirrored)
    seconds = np.bincount(clock.regime, minlength=n) * clock.step
    generator = _generator(clock, n, mirror)
    steps = max(round(horizon / clock.step), 1)
    move, error = _moves(clock, n, mirror, steps)
    expected, average = np.zeros(n), None
    if coarse is not None:
        own = coarser(coarse[0], regimes)
        expected, average = coarse[1].move[own], coarse[1].ask_scale[own]
    surprise = np.where(np.isfinite(error), move - expected, 0.0)
    shrink = surprise**2 / np.where(surprise != 0, surprise**2 + error**2, 1)
    believed = expected + shrink * surprise
    reach = np.block([[generator, np.eye(n)], [np.zeros((n, 2 * n))]]) * steps * clock.step
    ask = _order_rates(clock, n, mirror, decay, average)
    drift = np.linalg.solve(expm(reach)[:n, n:], believed)
    return Regimes(
        share=seconds / seconds.sum(),
        sojourn=1 / np.maximum(-np.diag(generator), 1e-12),
        generator=generator,
        measured=move,
        error=error,
        move=believed,
        drift=0.5 * (drift - drift[mirror]),  # exactly odd, whatever the solution rounds
        bid_scale=ask[mirror],
        ask_scale=ask,
    )


def _generator(clock: SignalClock, n: int, mirror: np.ndarray) -> np.ndarray:
    """Changes per time spent, with a little of the average: a regime never seen is left as the others are."""
    before, after = clock.regime[:-1], clock.regime[1:]
    changes = np.zeros((n, n))
    np.add.at(changes, (before, after), 1)
    np.fill_diagonal(changes, 0)
    changes += changes[np.ix_(mirror, mirror)]
    seconds = np.bincount(before, minlength=n) * clock.step
    seconds += seconds[mirror]
    entered = changes.sum(axis=0)
    average = np.where(entered.sum() > 0, entered, 1 / (n * seconds.sum())) / seconds.sum()
    rates = (changes + PRIOR_SECONDS * average) / (seconds + PRIOR_SECONDS)[:, None]
    np.fill_diagonal(rates, 0)
    return rates - np.diag(rates.sum(axis=1))


def _moves(clock: SignalClock, n: int, mirror: np.ndarray, ahead: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean move of the mid after each regime, odd under mirroring, and its standard error clustered in time."""
    move = clock.mid[ahead:] - clock.mid[:-ahead]
    regime = clock.regime[:-ahead]
    cluster = (np.arange(len(move)) * clock.step / CLUSTER_SECONDS).astype(int)
    n_clusters = cluster[-1] + 1
    total, count = np.zeros((n_clusters, n)), np.zeros((n_clusters, n))
    np.add.at(total, (cluster, regime), move)
    np.add.at(count, (cluster, regime), 1)
    total, count = total - total[:, mirror], count + count[:, mirror]
    seen = count.sum(axis=0)
    mean = total.sum(axis=0) / np.maximum(seen, 1)
    residual = total - mean * count
    correction = n_clusters / max(n_clusters - 1, 1)
    error = np.sqrt(correction * (residual**2).sum(axis=0)) / np.maximum(seen, 1)
    return mean, np.where(seen > 0, error, np.inf)


def _order_rates(
    clock: SignalClock, n: int, mirror: np.ndarray, decay: float, average: np.ndarray | None
) -> np.ndarray:
    """Rate at the mid of orders that fill asks: buyers here, sellers in the mirror image."""
    reach = np.exp(-decay * clock.half_spread) * clock.step
    exposure = np.bincount(clock.regime, reach, n)
    orders = np.bincount(clock.regime, clock.buys, n) + np.bincount(clock.regime, clock.sells, n)[mirror]
    exposure = exposure + exposure[mirror]
    average = np.full(n, orders.sum() / exposure.sum()) if average is None else average
    return (orders + PRIOR_ORDERS) / (exposure + PRIOR_ORDERS / average)


def coarser(coarse: RegimeMap, fine: RegimeMap) -> np.ndarray:
    """Number on a map that uses fewer signals of each regime of a finer one."""
    pressure, toxicity = np.divmod(np.arange(fine.n_regimes), 2 if fine.uses_vpin else 1)
    return pressure * coarse.uses_imbalance * (2 if coarse.uses_vpin else 1) + toxicity * coarse.uses_vpin


def on_finest(found: Regimes, regimes: RegimeMap) -> dict[str, np.ndarray]:
    """The estimates of a coarser map as parameters on the finest one, where signals it does not use change nothing."""
    finest = RegimeMap(regimes.imbalance, regimes.vpin)
    ignoring = RegimeMap(regimes.imbalance, regimes.vpin, not regimes.uses_imbalance, not regimes.uses_vpin)
    own, other = coarser(regimes, finest), coarser(ignoring, finest)
    # Only what the map listens to moves: states that differ in an ignored signal never meet.
    generator = found.generator[np.ix_(own, own)] * (other[:, None] == other[None, :])
    return {"generator": generator} | {name: getattr(found, name)[own] for name in ("drift", "bid_scale", "ask_scale")}
