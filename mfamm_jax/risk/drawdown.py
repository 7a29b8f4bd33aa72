"""Drawdown of value paths."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def max_drawdown(value: Float[Array, "*batch step"]) -> Float[Array, "*batch"]:
    """Largest fall from a running maximum that starts at zero, the value before the first step."""
    peak = jnp.maximum(jax.lax.cummax(value, axis=value.ndim - 1), 0.0)
    return jnp.max(peak - value, axis=-1)
