r"""The market that hurts a quoting policy most among those that the data do not rule out.

The ambiguity set is an ellipsoid around the fitted market: with z the distances of its parameters from their estimates in standard errors (of the
logarithm, where a parameter is positive), $|z|_2 \le r$. An adversary moves z by projected gradient descent on what the policy is worth; the
derivatives go through the exact law of the simulated episodes. `gap` is what a first-order step could still gain anywhere in the ellipsoid.

Source: docs/equations.md, adversarial testing.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.fields import Checked, real_field
from mfamm_jax.models.intensity import ExponentialIntensity
from mfamm_jax.policies.quotes import AbstractPolicy, Covariates
from mfamm_jax.simulation.episode import Episodes, episode_law
from mfamm_jax.simulation.step import PoissonMarket

PARAMETERS = (
    "volatility",
    "bid fill rate",
    "ask fill rate",
    "bid decay",
    "ask decay",
    "drift",
    "bid adverse selection",
    "ask adverse selection",
)
Objective = Callable[[PoissonMarket], Float[Array, ""]]


class Ambiguity(Checked):
    """How well the market is known; a standard error of 0 says that a parameter is certain.

    Args:
        radius: r of the ellipsoid [standard errors]. 95 % of a Gaussian estimate of eight parameters lie within 3.94.
        volatility: Standard error of its logarithm.
        fill_rate: Of the logarithm of either side's fill rate at the mid.
        decay: Of the logarithm of either side's decay with depth.
        drift: In units of the volatility: 1 / sqrt(length of the record in seconds).
        adverse_selection: Of either side, in units of what the volatility moves the mid in a second.
    """

    radius: Float[Array, ""] = real_field(default=2.0, lower=0.0, unit="standard errors", help="of the ellipsoid")
    volatility: Float[Array, ""] = real_field(default=0.1, lower=0.0, help="standard error of its logarithm")
    fill_rate: Float[Array, ""] = real_field(default=0.2, lower=0.0, help="standard error of its logarithm, per side")
    decay: Float[Array, ""] = real_field(default=0.1, lower=0.0, help="standard error of its logarithm, per side")
    drift: Float[Array, ""] = real_field(default=0.05, lower=0.0, unit="volatility/sqrt(s)", help="standard error")
    adverse_selection: Float[Array, ""] = real_field(
        default=0.1, lower=0.0, unit="volatility sqrt(s)", help="standard error, per side"
    )

    def market(self, nominal: PoissonMarket, z: Float[Array, " parameter"]) -> PoissonMarket:
        """The market at z standard errors from the nominal one, in the order of `PARAMETERS`."""
        for side in (nominal.bid, nominal.ask):
            if not isinstance(side, ExponentialIntensity):
                raise ValueError(
                    f"the market has {type(side).__name__} fills, expected ExponentialIntensity: it is moved by scale and decay"
                )
        sigma = nominal.volatility
        moved = (
            sigma * jnp.exp(self.volatility * z[0]),
            nominal.bid.scale * jnp.exp(self.fill_rate * z[1]),
            nominal.ask.scale * jnp.exp(self.fill_rate * z[2]),
            nominal.bid.decay * jnp.exp(self.decay * z[3]),
            nominal.ask.decay * jnp.exp(self.decay * z[4]),
            nominal.drift + self.drift * sigma * z[5],
            nominal.bid_adverse_selection + self.adverse_selection * sigma * z[6],
            nominal.ask_adverse_selection + self.adverse_selection * sigma * z[7],
        )
        return eqx.tree_at(parameters_of, nominal, moved)


def parameters_of(market: Any) -> tuple[Any, ...]:
    """What an `Ambiguity` moves, in the order of `PARAMETERS`."""
    return (
        market.volatility,
        market.bid.scale,
        market.ask.scale,
        market.bid.decay,
        market.ask.decay,
        market.drift,
        market.bid_adverse_selection,
        market.ask_adverse_selection,
    )


def certainty_equivalent(
    policy: AbstractPolicy,
    market: PoissonMarket,
    episodes: Episodes,
    covariates: Covariates,
    max_inventory: int,
    risk_weight: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """Mean P&L of an episode less `risk_weight` standard deviations, from its exact law [price lot]."""
    law = episode_law(policy, market, episodes, covariates, max_inventory)
    return law.mean - risk_weight * law.std


class WorstMarket(eqx.Module):
    """What the adversary found.

    Args:
        market: The worst one.
        z: Where it lies [standard errors].
        value: Of the objective there.
        nominal: Of the objective at the nominal market.
        gap: Linearised at z, the objective could fall by this much more; 0 at a stationary point.
        path: Value before every step, for every start.
    """

    market: PoissonMarket
    z: Float[Array, " parameter"]
    value: Float[Array, ""]
    nominal: Float[Array, ""]
    gap: Float[Array, ""]
    path: Float[Array, "start step"]


def worst_market(
    objective: Objective,
    nominal: PoissonMarket,
    ambiguity: Ambiguity,
    key: PRNGKeyArray,
    *,
    n_starts: int = 4,
    n_steps: int = 60,
) -> WorstMarket:
    """Projected gradient descent of the objective in the ellipsoid, from its centre and from random points of its surface.

    Args:
        objective: What the policy is worth in a market; differentiable.
        nominal: Centre; exponential intensities.
        ambiguity: The ellipsoid.
        key: Of the starts.
        n_starts: At least 1.
        n_steps: Of each; their length falls from the radius to a thousandth of it.
    """
    dtype = nominal.volatility.dtype
    radius = ambiguity.radius

    def at(z: Array) -> Array:
        return objective(ambiguity.market(nominal, z))

    others = _on_sphere(key, n_starts - 1, dtype) * radius
    starts = jnp.concatenate([jnp.zeros((1, len(PARAMETERS)), dtype), others])

    def descend(start: Array) -> tuple[Array, Array, Array]:
        def step(carry: tuple[Array, Array, Array], length: Array) -> tuple[tuple, Array]:
            z, best, lowest = carry
            value, slope = jax.value_and_grad(at)(z)
            better = value < lowest
            best, lowest = jnp.where(better, z, best), jnp.where(better, value, lowest)
            moved = z - length * radius * _unit(slope)
            return (optax.projections.projection_l2_ball(moved, radius), best, lowest), value

        lengths = jnp.geomspace(1.0, 1e-3, n_steps, dtype=dtype)
        (_, best, lowest), values = jax.lax.scan(step, (start, start, jnp.asarray(jnp.inf, dtype)), lengths)
        return best, lowest, values

    found, lowest, paths = jax.lax.map(descend, starts)
    z = found[jnp.argmin(lowest)]
    value, slope = jax.value_and_grad(at)(z)
    # The least of a linear function over a ball lies against its slope.
    gap = radius * jnp.linalg.norm(slope) + slope @ z
    gap = jnp.where(jnp.isfinite(value), gap, jnp.nan)
    return WorstMarket(ambiguity.market(nominal, z), z, value, paths[0, 0], gap, paths)


def random_markets(
    objective: Objective, nominal: PoissonMarket, ambiguity: Ambiguity, key: PRNGKeyArray, n: int
) -> Float[Array, " market"]:
    """The objective at random points of the ellipsoid's surface: what a search without derivatives sees."""
    z = _on_sphere(key, n, nominal.volatility.dtype) * ambiguity.radius
    return jax.lax.map(lambda one: objective(ambiguity.market(nominal, one)), z)


def _on_sphere(key: PRNGKeyArray, n: int, dtype: jnp.dtype) -> Float[Array, "point parameter"]:
    normal = jax.random.normal(key, (n, len(PARAMETERS)), dtype)
    return normal / jnp.linalg.norm(normal, axis=1, keepdims=True)


def _unit(x: Float[Array, " parameter"]) -> Float[Array, " parameter"]:
    size = jnp.linalg.norm(x)
    return x / jnp.where(size > 0, size, 1.0)
