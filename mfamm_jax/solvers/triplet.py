r"""Triplet loss (12), with which an embedding of order books is trained to tell buying from selling pressure.

Mining picks the triplets of a batch under fixed shapes: what is no triplet is masked. An anchor and a positive have one label and lie
`min_gap` apart in time, since books a moment apart are nearly the same; a negative has the opposite label. Label 0 is neither.

Batch-hard mining [1] looks for the worst of a batch; with noisy labels that is a mislabelled one, and the embedding may shrink
to a point, where the loss is the margin. Batch-all and semi-hard mining [2] do not. `embedding_spread` tells.

Sources: rulebook (12); [1] Hermans, Beyer & Leibe (2017); [2] Schroff, Kalenichenko & Philbin (2015).
"""

from typing import Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Real

from mfamm_jax.fields import Checked, real_field

Mining = Literal["batch_all", "semi_hard", "batch_hard"]
COLLAPSED_DISTANCE = 0.1  # mean distance of two embeddings of length one; random ones are about 1.4 apart


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
        return self.of_distances(_distance(anchor, positive), _distance(anchor, negative))

    def of_distances(
        self, positive: Float[Array, "*batch"], negative: Float[Array, "*batch"]
    ) -> Float[Array, "*batch"]:
        """Loss of each triplet from the distances of its anchor."""
        return jnp.maximum(0.0, positive - negative + self.margin)  # (12)

    def of_batch(
        self,
        embedding: Float[Array, "sample embedding"],
        label: Int[Array, " sample"],
        seconds: Real[Array, " sample"] | None = None,
        min_gap: Float[Array, ""] | float = 0.0,
        mining: Mining = "batch_all",
    ) -> Float[Array, ""]:
        """Mean loss of the triplets that `mining` picks; 0 when there is none.

        Args:
            embedding: phi of the batch.
            label: +1, -1, or 0 for samples that are in no triplet.
            seconds: When each sample was taken; needed for a gap.
            min_gap: How far apart anchor and positive must be [s].
            mining: "batch_all": every triplet. "semi_hard": for each pair the nearest negative beyond the positive, or the
                furthest one if none is. "batch_hard": for each anchor its furthest positive and nearest negative.
        """
        triplets = mine(embedding, label, seconds, min_gap, mining)
        loss = jnp.where(triplets.exists, self.of_distances(triplets.positive, triplets.negative), 0)
        return jnp.sum(loss) / jnp.maximum(jnp.sum(triplets.exists), 1)


class Triplets(eqx.Module):
    """Distances of anchors to positives and negatives, of one shape with `exists`."""

    positive: Float[Array, "*triplet"]
    negative: Float[Array, "*triplet"]
    exists: Bool[Array, "*triplet"]


def mine(
    embedding: Float[Array, "sample embedding"],
    label: Int[Array, " sample"],
    seconds: Real[Array, " sample"] | None = None,
    min_gap: Float[Array, ""] | float = 0.0,
    mining: Mining = "batch_all",
) -> Triplets:
    """Triplets of a batch; arguments as in `TripletLoss.of_batch`."""
    distance = pair_distances(embedding)
    is_positive, is_negative = pair_masks(label, seconds, min_gap)
    if mining == "batch_hard":
        positive = jnp.max(jnp.where(is_positive, distance, -1), axis=1)
        negative = jnp.min(jnp.where(is_negative, distance, jnp.inf), axis=1)
        exists = is_positive.any(axis=1) & is_negative.any(axis=1)
        return Triplets(jnp.where(exists, positive, 0), jnp.where(exists, negative, 0), exists)
    if mining == "semi_hard":
        is_beyond = is_negative[:, None, :] & (distance[:, None, :] > distance[:, :, None])
        nearest = jnp.min(jnp.where(is_beyond, distance[:, None, :], jnp.inf), axis=2)
        furthest = jnp.max(jnp.where(is_negative, distance, -1), axis=1)[:, None]
        negative = jnp.where(is_beyond.any(axis=2), nearest, furthest)
        exists = is_positive & is_negative.any(axis=1)[:, None]
        return Triplets(jnp.where(exists, distance, 0), jnp.where(exists, negative, 0), exists)
    if mining == "batch_all":
        exists = is_positive[:, :, None] & is_negative[:, None, :]
        positive, negative = jnp.broadcast_arrays(distance[:, :, None], distance[:, None], exists)[:2]
        return Triplets(positive, negative, exists)
    raise ValueError(f'mining is {mining!r}, expected "batch_all", "semi_hard" or "batch_hard"')


def pair_masks(
    label: Int[Array, " sample"],
    seconds: Real[Array, " sample"] | None = None,
    min_gap: Float[Array, ""] | float = 0.0,
) -> tuple[Bool[Array, "sample sample"], Bool[Array, "sample sample"]]:
    """Which pairs may be anchor and positive, and which anchor and negative."""
    product = label[:, None] * label[None, :]
    apart = ~jnp.eye(label.shape[0], dtype=bool)
    if seconds is not None:
        apart &= jnp.abs(seconds[:, None] - seconds[None, :]) >= min_gap
    return (product > 0) & apart, product < 0


def pair_distances(embedding: Float[Array, "sample embedding"]) -> Float[Array, "sample sample"]:
    """Distance of every sample to every other."""
    return _distance(embedding[:, None, :], embedding[None, :, :])


class EmbeddingSpread(eqx.Module):
    """Whether an embedding still tells anything apart.

    Args:
        mean_distance: Of two samples; 0 when all are one point.
        positive_distance, negative_distance: Of samples with equal and with opposite labels.
        n_dimensions: Participation ratio of the covariance: how many directions are in use, between 1 and all.
        active_share: Triplets with a loss above 0, of all that there are.
        is_collapsed: All points nearly one.
    """

    mean_distance: Float[Array, ""]
    positive_distance: Float[Array, ""]
    negative_distance: Float[Array, ""]
    n_dimensions: Float[Array, ""]
    active_share: Float[Array, ""]
    is_collapsed: Bool[Array, ""]


def embedding_spread(
    embedding: Float[Array, "sample embedding"], label: Int[Array, " sample"], margin: Float[Array, ""] | float = 0.3
) -> EmbeddingSpread:
    """Collapse measures of a batch. With all points equal every loss of (12) is the margin and no gradient leads away."""
    distance = pair_distances(embedding)
    is_positive, is_negative = pair_masks(label)
    centred = embedding - jnp.mean(embedding, axis=0)
    covariance = jnp.matmul(centred.T, centred, precision="highest")
    total = jnp.sum(covariance**2)
    exists = is_positive[:, :, None] & is_negative[:, None, :]
    is_active = exists & (distance[:, :, None] - distance[:, None, :] + margin > 0)
    mean_distance = _mean_where(distance, ~jnp.eye(label.shape[0], dtype=bool))
    return EmbeddingSpread(
        mean_distance,
        _mean_where(distance, is_positive),
        _mean_where(distance, is_negative),
        jnp.where(total > 0, jnp.trace(covariance) ** 2 / jnp.where(total > 0, total, 1), 1),
        jnp.sum(is_active) / jnp.maximum(jnp.sum(exists), 1).astype(distance.dtype),
        mean_distance < COLLAPSED_DISTANCE,
    )


def _mean_where(values: Float[Array, "sample sample"], mask: Bool[Array, "sample sample"]) -> Float[Array, ""]:
    return jnp.sum(jnp.where(mask, values, 0)) / jnp.maximum(jnp.sum(mask), 1)


def _distance(x: Float[Array, "... embedding"], y: Float[Array, "... embedding"]) -> Float[Array, "..."]:
    """Euclidean; equal points have slope zero instead of 0/0."""
    square = jnp.sum((x - y) ** 2, axis=-1)
    apart = square > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1.0)), 0.0)
