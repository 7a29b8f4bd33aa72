"""The pure part of experiment `cointegration`: estimates per scale, the null by simulation, and a walk forward in time."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mfamm_jax.features.wavelet import outside_cone, wavelet_transform
from mfamm_jax.models.cointegration import (
    cointegrate,
    common_vector,
    increment_covariance,
    log_slope,
    p_values,
    scale_covariance,
    scaled_weights,
)
from mfamm_jax.results import RESULTS
from mfamm_jax.simulation.spread_trading import BandPlan, SpreadTrades, trade_spread
from mfamm_jax.solvers.mean_reversion import Reversion, best_band, fit_reversion


class Estimate(eqx.Module):
    """Of one or several groups of assets.

    Args:
        smallest, largest: Eigenvalues per scale.
        weights: Per scale, entry of largest modulus +1.
        common: One combination for all scales, likewise.
        ratio: Smallest over largest per scale, then that of the common problem.
        slope: d log smallest / d log scale: 2 = no relation, 0 = stationary residual.
    """

    smallest: Float[Array, "*group scale"]
    largest: Float[Array, "*group scale"]
    weights: Float[Array, "*group scale asset"]
    common: Float[Array, "*group asset"]
    ratio: Float[Array, "*group test"]
    slope: Float[Array, "*group"]


def covariances(
    levels: Float[Array, "row asset"], scales: tuple[float, ...], edge: float
) -> tuple[Float[Array, "scale asset asset"], Float[Array, "asset asset"]]:
    """G of every scale and N of all assets; time in rows."""
    a = jnp.asarray(scales, levels.dtype)
    centred = (levels - jnp.mean(levels, axis=0)).T
    coefficients = wavelet_transform(centred, a, edge="reflect", n_padding=int(np.ceil(10 * max(scales))))
    known = outside_cone(levels.shape[0], a, multiple=edge)
    return scale_covariance(jnp.swapaxes(coefficients, 0, 1), known), increment_covariance(levels)


def estimate(
    levels: Float[Array, "row asset"],
    scales: tuple[float, ...],
    edge: float,
    block: int,
    groups: Int[Array, "group member"],
) -> Estimate:
    """Closed window in, one estimate per group out: the transform is shared. The common problem is that of scales above a block."""
    first = next(k for k, a in enumerate(scales) if a > block)
    matrix, metric = covariances(levels, scales, edge)

    def one(group: Int[Array, " member"]) -> Estimate:
        g, n = matrix[:, group[:, None], group], metric[group[:, None], group]
        each, together = cointegrate(g, n), common_vector(g[first:], n)
        smallest = each.eigenvalues[:, 0]
        return Estimate(
            smallest,
            each.eigenvalues[:, -1],
            scaled_weights(each.weights[:, 0]),
            scaled_weights(together.weights[0]),
            jnp.concatenate([each.ratio, together.ratio[None]]),
            log_slope(smallest, jnp.asarray(scales, levels.dtype)),
        )

    return jax.vmap(one)(groups)


def null_ratios(
    key: PRNGKeyArray,
    levels: Float[Array, "row asset"],
    groups: Int[Array, "group member"],
    scales: tuple[float, ...],
    edge: float,
    block: int,
    n_draws: int,
) -> Float[Array, "draw group test"]:
    """Ratios of panels without a relation: blocks of the panel's own increments in random order, added up.

    Within a block everything is kept - correlation, short memory, bursts of volatility; levels that belong together do not
    survive from one block to the next. Source: block bootstrap, Kuensch (1989).
    """
    change = jnp.diff(levels, axis=0)
    change = change - jnp.mean(change, axis=0)
    n = change.shape[0]
    n_blocks = -(-n // block)

    def draw(number: Int[Array, ""]) -> Array:
        start = jax.random.randint(jax.random.fold_in(key, number), (n_blocks,), 0, n)
        rows = (start[:, None] + jnp.arange(block)).ravel()[:n] % n
        walk = jnp.concatenate([jnp.zeros_like(levels[:1]), jnp.cumsum(change[rows], axis=0)])
        return estimate(walk, scales, edge, block, groups).ratio

    return jax.lax.map(draw, jnp.arange(n_draws), batch_size=8)


def family_p_values(p: Float[Array, " group"], ratio: Float[Array, "draw group"]) -> Float[Array, " group"]:
    """P-values for all groups at once: share of draws in which some group looks as related as this one.

    Source: Westfall & Young (1993), single-step minP. Uses how the tests depend on one another, which Holm's correction cannot.
    """
    n = ratio.shape[0]
    rank = jax.vmap(lambda x: jnp.searchsorted(jnp.sort(x), x, side="right"), 1, 1)(ratio)
    smallest = jnp.min((1 + rank) / (1 + n), axis=1)
    below = jnp.sum(smallest[None, :] <= p[:, None] * (1 + 1e-9), axis=1)
    return (1 + below) / (1 + n)


class Walk(eqx.Module):
    """What every window said and what came of it.

    Args:
        weights: Common combination of each window.
        reversion: Of its residual.
        p: Of the common ratio.
        used: Whether the window's relation was traded.
        trades: Row by row, after the first window.
    """

    weights: Float[Array, "window asset"]
    reversion: Reversion
    p: Float[Array, " window"]
    used: Bool[Array, " window"]
    trades: SpreadTrades


def walk_forward(
    levels: Float[Array, "row asset"],
    null: Float[Array, "draw test"],
    scales: tuple[float, ...],
    edge: float,
    block: int,
    strategy: Any,
    level: Any,
) -> Walk:
    """Estimates on past windows only, trades the rows after each until the next estimate."""
    n, window, every = levels.shape[0], strategy.window, strategy.every
    everything = jnp.arange(levels.shape[1])[None]
    starts = jnp.asarray(np.arange(window, n, every))

    def one(start: Array) -> tuple[Array, Reversion, Array, Array]:
        past = jax.lax.dynamic_slice_in_dim(levels, start - window, window)
        found = jax.tree.map(lambda x: x[0], estimate(past, scales, edge, block, everything))
        fitted = fit_reversion(past @ found.common)
        p = p_values(found.ratio, null)[-1]
        sure = fitted.value.rate > 2 * fitted.value.rate_error
        used = (fitted.result == RESULTS.successful) & sure & ((p <= level) | (not strategy.only_significant))
        return found.common, fitted.value, p, used

    weights, reversion, p, used = jax.lax.map(one, starts, batch_size=16)
    plan = _plan(weights, reversion, used, strategy)
    rows = jnp.minimum((jnp.arange(window, n) - window) // every, len(starts) - 1)
    plan = jax.tree.map(lambda x: x[rows], plan)
    trades = trade_spread(levels[window:], plan, _costs(strategy, levels.shape[1], levels.dtype), strategy.rule)
    return Walk(weights, reversion, p, used, trades)


def look_ahead(
    levels: Float[Array, "row asset"], scales: tuple[float, ...], edge: float, block: int, strategy: Any
) -> SpreadTrades:
    """The same strategy with the relation of the whole sample: what a backtest shows that knows the future."""
    found = jax.tree.map(lambda x: x[0], estimate(levels, scales, edge, block, jnp.arange(levels.shape[1])[None]))
    fitted = fit_reversion(levels @ found.common)
    weights, reversion = jax.tree.map(lambda x: x[None], (found.common, fitted.value))
    plan = _plan(weights, reversion, (fitted.result == RESULTS.successful)[None], strategy)
    n = levels.shape[0] - strategy.window
    plan = jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape[1:])), plan)
    rows = levels[strategy.window :]
    return trade_spread(rows, plan, _costs(strategy, levels.shape[1], levels.dtype), strategy.rule)


def _costs(strategy: Any, n_assets: int, dtype: Any) -> Float[Array, " asset"]:
    return jnp.broadcast_to(jnp.asarray(strategy.half_spread, dtype), (n_assets,))


def _plan(
    weights: Float[Array, "window asset"], reversion: Reversion, used: Bool[Array, " window"], strategy: Any
) -> BandPlan:
    """Bands that gain most after costs; positions of equal risk.

    A position is taken `delay` rows late, when the residual has gone part of the way: where the rest does not pay for the costs,
    nothing is traded.
    """
    # From one side of the mean to the other is two units of the combination.
    cost = 2 * jnp.abs(weights) @ _costs(strategy, weights.shape[1], weights.dtype)
    band = best_band(reversion, cost)
    left = jnp.exp(-reversion.rate * strategy.rule.delay)
    size = strategy.risk / reversion.deviation
    return BandPlan(weights, reversion.mean, band, reversion.deviation, size, used & (2 * band * left > cost))
