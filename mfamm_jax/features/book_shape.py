"""Shape of the order book, the six entries of (7), and the robust scale that makes them comparable.

Ladders are integer ticks and sizes, best level first; size 0 = level absent, and its tick is then meaningless. Every
entry is defined for short and empty ladders and has a finite gradient in the sizes there.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mfamm_jax.fields import real_field

BOOK_FEATURES = (
    "bid_volume",
    "ask_volume",
    "ask_convexity",
    "mean_slope",
    "fat_finger",
    "volume_entropy",
)
N_DEPTH_LEVELS = 5
MAD_TO_SIGMA = 1.482602218505602  # 1 / (third quartile of the standard normal)


def book_shape(
    bid_ticks: Int[Array, "*row level"],
    bid_size: Float[Array, "*row level"],
    ask_ticks: Int[Array, "*row level"],
    ask_size: Float[Array, "*row level"],
    fat_finger_flag: Float[Array, "*row"],
    lot_size: Float[Array, ""] | float = 1.0,
) -> Float[Array, "*row 6"]:
    """(7) row by row, in the order of `BOOK_FEATURES`; raw, to be standardised with `RobustScale`.

    Clock: that of the ladders (events or grid); each row uses itself only.

    Args:
        bid_ticks, ask_ticks: Prices [ticks].
        bid_size, ask_size: Volumes, 0 = level absent [volume].
        fat_finger_flag: `fat_finger` carried to the clock of the ladders.
        lot_size: Volume of one lot [volume].
    """
    bid, ask = bid_size / lot_size, ask_size / lot_size
    features = (
        jnp.log1p(jnp.sum(bid[..., :N_DEPTH_LEVELS], axis=-1)),
        jnp.log1p(jnp.sum(ask[..., :N_DEPTH_LEVELS], axis=-1)),
        ask_convexity(ask_ticks, ask),
        mean_slope(bid_ticks, bid, ask_ticks, ask),
        fat_finger_flag.astype(bid.dtype),
        volume_entropy(bid, ask),
    )
    return jnp.stack(features, axis=-1)  # (7)


def ask_convexity(ask_ticks: Int[Array, "*row level"], ask_lots: Float[Array, "*row level"]) -> Float[Array, "*row"]:
    r"""$\partial^2 p/\partial v^2$ at the best ask: second divided difference over the first three levels [ticks/lot²].

    $$2\left[\frac{p_3-p_2}{m_3-m_2} - \frac{p_2-p_1}{m_2-m_1}\right] \Big/ (m_3-m_1)$$

    with $m_k$ the cumulative volume at the middle of level k, volumes floored at one lot. 0 with fewer than three
    levels. Clock: that of the ladders.
    """
    if ask_lots.shape[-1] < 3:
        return jnp.zeros_like(ask_lots[..., 0])
    step = jnp.diff(ask_ticks[..., :3], axis=-1).astype(ask_lots.dtype)
    present = jnp.all(ask_lots[..., :3] > 0, axis=-1)
    volume = jnp.maximum(ask_lots[..., :3], 1)
    gap = (volume[..., 1:] + volume[..., :-1]) / 2
    slope = step / gap
    convexity = 2 * (slope[..., 1] - slope[..., 0]) / (gap[..., 0] + gap[..., 1])
    return jnp.where(present, convexity, 0)


def mean_slope(
    bid_ticks: Int[Array, "*row level"],
    bid_lots: Float[Array, "*row level"],
    ask_ticks: Int[Array, "*row level"],
    ask_lots: Float[Array, "*row level"],
) -> Float[Array, "*row"]:
    r"""Least-squares slope of $|p_k - p_{mid}|$ on cumulative volume, averaged over both sides [ticks/lot].

    A side with fewer than two levels is left out of the average; 0 if both are. Clock: that of the ladders.
    """
    bid, has_bid = _side_slope(bid_ticks, bid_lots)
    ask, has_ask = _side_slope(ask_ticks, ask_lots)
    n_sides = has_bid.astype(bid.dtype) + has_ask.astype(bid.dtype)
    return (bid + ask) / jnp.maximum(n_sides, 1)


def volume_entropy(bid_lots: Float[Array, "*row level"], ask_lots: Float[Array, "*row level"]) -> Float[Array, "*row"]:
    r"""$-\sum w_k \ln w_k / \ln(2K)$ of the volume shares over the 2K levels, in [0, 1]; 0 for an empty book.

    Clock: that of the ladders.
    """
    volume = jnp.concatenate([bid_lots, ask_lots], axis=-1)
    present = volume > 0
    total = jnp.sum(volume, axis=-1, keepdims=True)
    share = jnp.where(present, volume / jnp.where(total > 0, total, 1), 1)
    return -jnp.sum(jnp.where(present, share * jnp.log(share), 0), axis=-1) / jnp.log(volume.shape[-1])


def fat_finger(
    size: Float[Array, " trade"],
    price_move: Float[Array, " trade"],
    move_scale: Float[Array, " trade"],
    n_window: int = 1000,
    level: float = 0.999,
    n_sigmas: float = 5.0,
) -> Float[Array, " trade"]:
    """1 for a trade larger than the trailing 99.9 % quantile that also moved the price by over five robust sigmas.

    Clock: trades; known right after the trade. The quantile is that of the `n_window` trades strictly before (linear
    interpolation); until there are that many nothing is flagged. A flag has no gradient.

    Args:
        size: Volume of each marketable order [volume].
        price_move: Mid after minus mid before the order [price].
        move_scale: Robust standard deviation of such a move, known before the order [price]: the rolling volatility
            times the square root of the time the move is measured over.
        n_window: Trades the quantile looks back on.
        level: Probability level of the quantile.
        n_sigmas: Moves beyond so many `move_scale` count.
    """
    size, price_move, move_scale = jax.lax.stop_gradient((size, price_move, move_scale))
    if size.shape[0] <= n_window:
        return jnp.zeros_like(size)
    trailing = _trailing_quantile(size, n_window, level)
    is_large = jnp.concatenate([jnp.zeros(n_window, bool), size[n_window:] > trailing])
    return (is_large & (jnp.abs(price_move) > n_sigmas * move_scale)).astype(size.dtype)


class RobustScale(eqx.Module):
    """Centres by the median and divides by the scaled median absolute deviation, both of the training rows.

    Args:
        location: Median of each feature.
        scale: 1.4826 MAD of each feature, > 0.
    """

    location: Float[Array, " feature"] = real_field()
    scale: Float[Array, " feature"] = real_field(lower=0.0, strict=True)

    @classmethod
    def fit(cls, rows: Float[Array, "row feature"]) -> "RobustScale":
        """Location and scale of the training rows; a feature that is constant for most rows gets scale 1."""
        location = jnp.median(rows, axis=0)
        scale = MAD_TO_SIGMA * jnp.median(jnp.abs(rows - location), axis=0)
        return cls(location, jnp.where(scale > 0, scale, 1))

    def __call__(self, rows: Float[Array, "*row feature"]) -> Float[Array, "*row feature"]:
        """Standardised rows; what is later than the training rows may be far from 0. Clock: that of the rows."""
        return (rows - self.location) / self.scale


def _side_slope(
    ticks: Int[Array, "*row level"], lots: Float[Array, "*row level"]
) -> tuple[Float[Array, "*row"], Bool[Array, "*row"]]:
    """Slope of one side and whether it exists. The mid only shifts the distances, so the touch replaces it."""
    present = lots > 0
    count = jnp.sum(present, axis=-1, keepdims=True)
    distance = jnp.where(present, jnp.abs(ticks - ticks[..., :1]), 0).astype(lots.dtype)
    volume = jnp.where(present, jnp.cumsum(lots, axis=-1), 0)
    centred = jnp.where(present, volume - jnp.sum(volume, axis=-1, keepdims=True) / jnp.maximum(count, 1), 0)
    variation = jnp.sum(centred**2, axis=-1)
    exists = (count[..., 0] >= 2) & (variation > 0)
    slope = jnp.sum(centred * distance, axis=-1) / jnp.where(exists, variation, 1)
    return jnp.where(exists, slope, 0), exists


def _trailing_quantile(size: Float[Array, " trade"], n_window: int, level: float) -> Float[Array, " later"]:
    """Quantile of the `n_window` values before each row from `n_window` on, without sorting the windows."""
    from_top = (1 - level) * (n_window - 1)
    rank, fraction = int(from_top), from_top - int(from_top)

    def quantile(first: Int[Array, ""]) -> Float[Array, ""]:
        window = size[first + jnp.arange(n_window)]
        upper, lower = _largest(window, rank), _largest(window, min(rank + 1, n_window - 1))
        return (1 - fraction) * upper + fraction * lower

    return jax.lax.map(quantile, jnp.arange(size.shape[0] - n_window), batch_size=256)


def _largest(window: Float[Array, " window"], rank: int) -> Float[Array, ""]:
    """The value with `rank` others at or above it; walks down the distinct values, of which few are needed."""

    def lower(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        value, count = state
        below = jnp.max(jnp.where(window < value, window, -jnp.inf))
        is_reached = count > rank
        return (jnp.where(is_reached, value, below), jnp.where(is_reached, count, jnp.sum(window >= below))), None

    start = (jnp.asarray(jnp.inf, window.dtype), jnp.asarray(0))
    return jax.lax.scan(lower, start, length=rank + 1)[0][0]
