r"""Seeded sessions of several assets, two of which belong together.

Two assets follow a common factor F, the second `loading` times, and share a residual X that reverts,

$$dF = \sigma\,dW_0, \qquad dX = -\theta X\,dt + s\sqrt{2\theta}\,dW_1, \qquad P_1 = p + F - \frac{X}{2\ell}, \qquad P_2 = p + \ell F + \frac X2,$$

and every further one a walk of its own; these are the outside prices of `market.synthetic`, which the order flow disturbs for a few seconds.
So `P_2 - loading P_1` reverts with deviation s, and nothing else does.
"""

from typing import Any

import numpy as np

from mfamm_jax.market.events import Session
from mfamm_jax.market.synthetic import PRESETS, OutsidePrice, generate_session

STEP = 0.1  # between points of the outside prices [s]


def generate_related(
    preset: str,
    n_assets: int,
    duration: float,
    seed: int,
    *,
    volatility: float = 8.0,
    loading: float = 1.0,
    residual_deviation: float = 90.0,
    half_life: float = 30.0,
    pull: float = 0.5,
) -> tuple[tuple[Session, ...], dict[str, Any]]:
    """Sessions with a planted relation and the truth behind them.

    Args:
        preset: Order flow of every asset, as in `generate_session`.
        n_assets: At least 2.
        duration: [s].
        seed: Same seed, same sessions.
        volatility: Of the factor and of the unrelated walks [ticks/sqrt(s)].
        loading: Of the second asset on the factor.
        residual_deviation: Stationary deviation s of the residual [ticks].
        half_life: Of the residual [s].
        pull: Rate at which what the flow does to a price decays [1/s].

    Returns:
        One session per asset, and plain numbers: weights of the combination that reverts, its deviation and half-life, every asset's own truth.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset is {preset!r}, expected one of {', '.join(PRESETS)}")
    if n_assets < 2:
        raise ValueError(f"n_assets is {n_assets}, expected at least 2: one asset has no relation")
    if not 0 < abs(loading) < np.inf:
        raise ValueError(f"loading is {loading}, expected a finite number that is not 0")
    positive = {"duration": duration, "half_life": half_life, "pull": pull, "residual_deviation": residual_deviation}
    for name, value in positive.items():
        if not 0 < value < np.inf:
            raise ValueError(f"{name} is {value}, expected a finite number > 0")
    rng = np.random.default_rng([seed, n_assets])
    n = int(np.ceil(duration / STEP)) + 1
    steps = volatility * np.sqrt(STEP) * rng.standard_normal((n_assets - 1, n - 1))
    walks = np.concatenate([np.zeros((n_assets - 1, 1)), np.cumsum(steps, axis=1)], axis=1)
    kept = np.exp(-np.log(2) / half_life * STEP)
    residual = np.empty(n)
    residual[0] = residual_deviation * rng.standard_normal()
    noise = residual_deviation * np.sqrt(1 - kept**2) * rng.standard_normal(n - 1)
    for i in range(n - 1):
        residual[i + 1] = kept * residual[i] + noise[i]
    paths = [walks[0] - residual / (2 * loading), loading * walks[0] + residual / 2, *walks[1:]]
    sessions, truths = [], []
    for i, path in enumerate(paths):
        outside = OutsidePrice(PRESETS[preset].price + path, STEP, pull)
        session, truth = generate_session(preset, duration, seed * n_assets + i, outside=outside)
        sessions.append(session)
        truths.append(truth)
    tick = PRESETS[preset].tick_size
    truth = {
        "weights": [-loading, 1.0, *[0.0] * (n_assets - 2)],
        "residual_deviation": residual_deviation * tick,
        "half_life": half_life,
        "assets": truths,
    }
    return tuple(sessions), truth
