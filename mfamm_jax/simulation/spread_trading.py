"""A mean-reverting combination traded on bands that were known beforehand, after costs."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mfamm_jax.fields import Checked, real_field, static_field


class BandPlan(eqx.Module):
    """What is known at each row, from rows before it.

    Args:
        weights: Combination that reverts.
        mean, band, deviation: Of its residual: where it returns to, how far from it to trade, its stationary deviation.
        size: Units of the combination per position.
        trades: Whether to hold a position at all.
    """

    weights: Float[Array, "row asset"]
    mean: Float[Array, " row"]
    band: Float[Array, " row"]
    deviation: Float[Array, " row"]
    size: Float[Array, " row"]
    trades: Bool[Array, " row"]


class SpreadRule(Checked):
    """How a plan is traded.

    Args:
        stop: Deviations beyond which a position is given up until the residual is back inside its band.
        delay: Rows between seeing a level and trading at one.
    """

    stop: Float[Array, ""] = real_field(
        default=4.0,
        lower=0.0,
        strict=True,
        unit="stationary deviations",
        help="beyond it the relation counts as broken",
    )
    delay: int = static_field(default=1, lower=0, unit="rows", help="from seeing a level to trading at one")


class SpreadTrades(eqx.Module):
    """Row by row.

    Args:
        side: +1 long the combination, -1 short, 0 flat, decided at the row.
        holdings: Held from the row to the next [units of each asset].
        cost: Paid at the row.
        pnl: Change of value up to the row minus its cost; adds up to the total.
        residual: weights . levels, as the decision saw it.
    """

    side: Float[Array, " row"]
    holdings: Float[Array, "row asset"]
    cost: Float[Array, " row"]
    pnl: Float[Array, " row"]
    residual: Float[Array, " row"]


def trade_spread(
    levels: Float[Array, "row asset"],
    plan: BandPlan,
    half_spreads: Float[Array, " asset"],
    rule: SpreadRule | None = None,
) -> SpreadTrades:
    """Buys the combination below mean - band, sells it above mean + band, gives up beyond the stop.

    The position of the last row is closed there, at its cost.

    Args:
        levels: Prices, or log prices: then holdings are amounts of money and gains relative.
        plan: Known before each row.
        half_spreads: Cost of trading one unit of each asset.
        rule: Stop and delay.
    """
    rule = SpreadRule() if rule is None else rule
    residual = jnp.sum(plan.weights * levels, axis=1)

    def decide(carry: tuple[Array, Array], row: tuple[Array, Array, Array, Array]) -> tuple:
        side, is_stopped = carry
        away, band, stop, trades = row
        broken = jnp.abs(away) > stop
        # A stopped relation must come home before it is traded again.
        home = jnp.abs(away) < band
        is_stopped = (is_stopped & ~home) | broken
        wanted = jnp.where(away > band, -1.0, jnp.where(away < -band, 1.0, side))
        side = jnp.where(is_stopped | ~trades, 0.0, wanted)
        return (side, is_stopped), side

    away = residual - plan.mean
    zero = jnp.zeros((), levels.dtype)
    rows = (away, plan.band, rule.stop * plan.deviation, plan.trades)
    _, side = jax.lax.scan(decide, (zero, jnp.zeros((), bool)), rows)
    wanted = (side * plan.size)[:, None] * plan.weights
    holdings = jnp.concatenate([jnp.zeros((rule.delay, levels.shape[1]), levels.dtype), wanted])[: levels.shape[0]]
    holdings = holdings.at[-1].set(0.0)
    before = jnp.concatenate([jnp.zeros_like(holdings[:1]), holdings[:-1]])
    cost = jnp.abs(holdings - before) @ half_spreads
    change = jnp.diff(levels, axis=0, prepend=levels[:1])
    return SpreadTrades(side, holdings, cost, jnp.sum(before * change, axis=1) - cost, residual)
