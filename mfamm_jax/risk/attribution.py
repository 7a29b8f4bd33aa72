"""The P&L identity: spread captured plus inventory revalued minus fees is the whole profit."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


class Attribution(eqx.Module):
    """Parts of a P&L; `residual` is what the identity leaves over, zero up to rounding [price lot]."""

    capture: Float[Array, "*b"]
    revaluation: Float[Array, "*b"]
    fees: Float[Array, "*b"]
    total: Float[Array, "*b"]
    residual: Float[Array, "*b"]


def attribute(
    total: Float[Array, "*b"],
    capture: Float[Array, "*b"],
    revaluation: Float[Array, "*b"],
    fees: Float[Array, "*b"],
) -> Attribution:
    """`total` comes from cash and the final position, the parts from the fills and the mid: two ways to the same number."""
    return Attribution(capture, revaluation, fees, total, total - (capture + revaluation - fees))


def relative_residual(attribution: Attribution) -> Float[Array, ""]:
    """Largest residual relative to the turnover of the parts."""
    size = jnp.abs(attribution.capture) + jnp.abs(attribution.revaluation) + jnp.abs(attribution.fees)
    return jnp.max(jnp.abs(attribution.residual) / jnp.maximum(size, 1.0))
