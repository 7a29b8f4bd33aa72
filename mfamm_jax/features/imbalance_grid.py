r"""The grid of (6): the last snapshots of the book, level by level, as an image for the imbalance network.

Three channels per snapshot and level: distance of the ask from the mid, distance of the bid from the mid [ticks], and
$(v^b - v^a)/\max(v^b, v^a)$. The two-channel form keeps the difference of the distances instead of both. Distances are in ticks
and scaled afterwards: relative to the mid they are about 1e-4, next to imbalances of order 1.

Mirroring swaps the sides of the book, which exchanges or negates channels and nothing else.
"""

from typing import Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mfamm_jax.features.book_shape import MAD_TO_SIGMA
from mfamm_jax.fields import real_field

GRID_LIMIT = 5.0  # scaled values are clipped here
# Number of channels -> (which channel each one becomes, with which sign) when the sides are swapped.
MIRRORS: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {3: ((1, 0, 2), (1, 1, -1)), 2: ((0, 1), (-1, -1))}


def book_channels(
    bid_ticks: Int[Array, "*row level"],
    bid_size: Float[Array, "*row level"],
    ask_ticks: Int[Array, "*row level"],
    ask_size: Float[Array, "*row level"],
    n_channels: Literal[2, 3] = 3,
) -> tuple[Float[Array, "*row level channel"], Bool[Array, "*row level channel"]]:
    """Channels of (6) for each book, and which of them exist; what does not exist is 0.

    Clock: that of the books; each row uses itself only.

    Args:
        bid_ticks, ask_ticks: Prices [ticks].
        bid_size, ask_size: Volumes, 0 = level absent; absent touch: no distance of the row exists.
        n_channels: 3 or 2.
    """
    has_bid, has_ask = bid_size > 0, ask_size > 0
    two_sided = has_bid[..., :1] & has_ask[..., :1]
    # Twice the mid, and ticks from the touch: whole numbers, exact in float32.
    spread = (ask_ticks[..., :1] - bid_ticks[..., :1]).astype(bid_size.dtype)
    ask = (ask_ticks - ask_ticks[..., :1]).astype(bid_size.dtype) + 0.5 * spread
    bid = (bid_ticks[..., :1] - bid_ticks).astype(bid_size.dtype) + 0.5 * spread
    largest = jnp.maximum(bid_size, ask_size)
    imbalance = (bid_size - ask_size) / jnp.where(largest > 0, largest, 1)  # (6), 0/0 = 0
    sides = (ask, has_ask & two_sided), (bid, has_bid & two_sided)
    if n_channels == 2:
        sides = ((ask - bid, has_ask & has_bid & two_sided),)
    channels = (*sides, (imbalance, has_bid | has_ask))
    values, present = (jnp.stack(parts, axis=-1) for parts in zip(*channels))
    return jnp.where(present, values, 0), present


def snapshot_grid(
    channels: Float[Array, "row level channel"], rows: Int[Array, "*sample snapshot"]
) -> Float[Array, "*sample snapshot level channel"]:
    """The books at the given rows, oldest first, as one grid per sample."""
    return channels[rows]


def mirror(values: Float[Array, "*row channel"]) -> Float[Array, "*row channel"]:
    """What the grid would be with bid and ask swapped; its own inverse."""
    order, signs = MIRRORS[values.shape[-1]]
    return values[..., jnp.array(order)] * jnp.array(signs, values.dtype)


class GridScale(eqx.Module):
    """Centres and scales every level and channel robustly, on the training rows and their mirrors.

    Because both sides are pooled, scaling and mirroring commute, exactly.

    Args:
        location: Median.
        scale: 1.4826 MAD, > 0.
    """

    location: Float[Array, "level channel"] = real_field()
    scale: Float[Array, "level channel"] = real_field(lower=0.0, strict=True)

    @classmethod
    def fit(cls, values: Float[Array, "row level channel"], present: Bool[Array, "row level channel"]) -> "GridScale":
        """From training books; a constant or absent level gets scale 1, an absent one location 0."""
        known = jnp.where(present, values, jnp.nan)
        pooled = jnp.concatenate([known, mirror(known)])
        location = jnp.nan_to_num(jnp.nanmedian(pooled, axis=0))
        scale = jnp.nan_to_num(MAD_TO_SIGMA * jnp.nanmedian(jnp.abs(pooled - location), axis=0))
        return cls(location, jnp.where(scale > 0, scale, 1))

    def __call__(
        self, values: Float[Array, "*row level channel"], present: Bool[Array, "*row level channel"]
    ) -> Float[Array, "*row level channel"]:
        """Scaled and clipped; absent entries are 0, the typical value. Clock: that of the rows."""
        scaled = jnp.clip((values - self.location) / self.scale, -GRID_LIMIT, GRID_LIMIT)
        return jnp.where(present, scaled, 0)
