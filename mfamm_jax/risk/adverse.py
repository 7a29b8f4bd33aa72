"""What our fills cost afterwards: the move of the mid against them, with an interval that knows that fills come in bursts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class AdverseSelection(NamedTuple):
    """Of one side's fills, per lot.

    Args:
        mean: Mean move of the mid against the fill, positive = a cost [price].
        error: Standard error, clustered by block; infinite with fewer than two blocks.
        n_fills: Fills counted.
        n_blocks: Blocks of time with fills.
    """

    mean: Float[Array, ""]
    error: Float[Array, ""]
    n_fills: Int[Array, ""]
    n_blocks: Int[Array, ""]


def adverse_selection(
    sign: int,
    lots: Float[Array, " fill"],
    mid_before: Float[Array, " fill"],
    mid_later: Float[Array, " fill"],
    counts: Bool[Array, " fill"],
    block: Int[Array, " fill"],
    n_blocks: int,
) -> AdverseSelection:
    r"""$\hat\epsilon = \frac{\sum_i q_i s (m_i - m_i^{later})}{\sum_i q_i}$, a ratio over blocks of time.

    Its error is the ratio estimator's, $\frac{\sqrt{B/(B-1) \sum_b (y_b - \hat\epsilon x_b)^2}}{\sum_b x_b}$ over the $B$
    blocks with fills, $x_b$ their lots and $y_b$ their losses. Source: Cochran, Sampling Techniques (1977), 6.4.

    Args:
        sign: +1 for bids (bought), -1 for asks.
        lots: Filled; 0 = no fill.
        mid_before: Mid at the fill [price].
        mid_later: Mid some time later [price].
        counts: False where that time lies after the end.
        block: Number of the fill's block of time, in [0, n_blocks).
        n_blocks: Blocks.
    """
    used = counts & (lots > 0)
    size = jnp.where(used, lots, 0.0)
    loss = jnp.where(used, size * sign * (mid_before - mid_later), 0.0)  # there may be no later mid
    in_block = jax.ops.segment_sum(jnp.stack([size, loss], axis=1), block, n_blocks)
    total = jnp.sum(in_block, axis=0)
    mean = total[1] / jnp.where(total[0] > 0, total[0], 1.0)
    filled = jnp.sum(in_block[:, 0] > 0)
    spread = jnp.sum((in_block[:, 1] - mean * in_block[:, 0]) ** 2) * filled / jnp.maximum(filled - 1, 1)
    error = jnp.where(filled > 1, jnp.sqrt(spread) / jnp.where(total[0] > 0, total[0], 1.0), jnp.inf)
    return AdverseSelection(mean, error, jnp.sum(used), filled)
