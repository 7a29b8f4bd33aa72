"""What the touch of a book says about its price. Arrays of any batch shape; size 0 means that the side is empty."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Real


def mid(bid: Real[Array, "*batch"], ask: Real[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Half way between the best prices. Ticks relative to a reference keep float32 exact."""
    return 0.5 * (bid + ask)


def spread(bid: Real[Array, "*batch"], ask: Real[Array, "*batch"]) -> Real[Array, "*batch"]:
    """Best ask minus best bid."""
    return ask - bid


def queue_imbalance(bid_size: Float[Array, "*batch"], ask_size: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    r"""$(V^b - V^a)/(V^b + V^a)$ in [-1, 1]: positive under buying pressure, 0 for an empty touch.

    Source: docs/equations.md, (6), the one-level form.
    """
    total = bid_size + ask_size
    return jnp.where(total > 0, bid_size - ask_size, 0.0) / jnp.where(total > 0, total, 1.0)


def microprice(
    bid: Real[Array, "*batch"],
    ask: Real[Array, "*batch"],
    bid_size: Float[Array, "*batch"],
    ask_size: Float[Array, "*batch"],
) -> Float[Array, "*batch"]:
    r"""$\frac{V^b p^a + V^a p^b}{V^b + V^a}$: the mid leaned towards the side with less volume.

    Source: Gatheral & Oomen (2010), zero-intelligence estimator; the mid for an empty touch.
    """
    return mid(bid, ask) + 0.5 * spread(bid, ask) * queue_imbalance(bid_size, ask_size)
