r"""Triplet loss (12), with which an embedding of order books is trained to tell buying from selling pressure."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mfamm_jax.fields import Checked, real_field


class TripletLoss(Checked):
    r"""$\max(0, \|a - p\|_2 - \|a - n\|_2 + \epsilon)$ of embedded anchors, positives (same label) and negatives (other label).

    Source: rulebook (12). The margin has a meaning for embeddings of length one, whose distances lie in [0, 2].

    Args:
        margin: $\epsilon$.
    """

    margin: Float[Array, ""] = real_field(
        default=0.3, lower=0.0, usual=(0.2, 0.5), source="(12) epsilon", help="how much further negatives must be"
    )

    def __call__(
        self,
        anchor: Float[Array, "*batch embedding"],
        positive: Float[Array, "*batch embedding"],
        negative: Float[Array, "*batch embedding"],
    ) -> Float[Array, "*batch"]:
        """Loss of each triplet."""
        return jnp.maximum(0.0, _distance(anchor, positive) - _distance(anchor, negative) + self.margin)


def _distance(x: Float[Array, "*batch embedding"], y: Float[Array, "*batch embedding"]) -> Float[Array, "*batch"]:
    """Euclidean; equal points have slope zero instead of 0/0."""
    square = jnp.sum((x - y) ** 2, axis=-1)
    apart = square > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1.0)), 0.0)
