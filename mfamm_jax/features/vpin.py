r"""Volume-synchronised probability of informed trading (5).

As printed, (5) divides the sum of $|B_i - S_i|$ by $\kappa V$, which puts purely random flow at 2 for $\kappa = 1/4$.
Here $\kappa$ is the weight of an exponential average of the bucket imbalances $I_i = |B_i - S_i|/(B_i + S_i)$, which
stays in [0, 1]; the printed form is kept as `vpin_literal`. Source: rulebook (5), docs/equations.md; Easley, Lopez de
Prado & O'Hara (2012) for buckets and bulk classification.

The level means nothing without its classifier: bulk-classified Gaussian price changes give 0.5 on average whatever the
information in them, true signs of m equal trades a bucket give $\sqrt{2/(\pi m)}$. Use signed trades where the feed
has them.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr
from jaxtyping import Array, Bool, Float, Int, Real


class VolumeBuckets(eqx.Module):
    """Equal-volume buckets; those not complete are empty, so that they never count.

    Args:
        buy: Buyer-initiated volume [volume].
        sell: Seller-initiated volume [volume].
        n_complete: Number of complete buckets.
    """

    buy: Float[Array, " bucket"]
    sell: Float[Array, " bucket"]
    n_complete: Int[Array, ""]


def bucket_volumes(
    size: Float[Array, " trade"],
    aggressor: Real[Array, " trade"],
    bucket_volume: Float[Array, ""] | float,
    n_buckets: int,
) -> VolumeBuckets:
    """Fills buckets of equal volume with trades in order, splitting a trade in proportion at a bucket edge.

    Clock: trades in, volume out. Differentiable in `size`. Cumulative volume is a float: in float32 keep the total
    below about 1e7 smallest units.

    Args:
        size: Traded volume, >= 0; rows of size 0 are padding [volume].
        aggressor: +1 buyer-initiated, -1 seller-initiated, 0 half each; anything between for trades or bars
            classified in bulk: twice the buy fraction minus 1.
        bucket_volume: Volume of one bucket, > 0 [volume].
        n_buckets: Buckets to return; volume beyond them is left out, so take at least total / `bucket_volume`.
    """
    done, monotone = _cumulative(size)
    edges = jnp.arange(n_buckets + 1, dtype=size.dtype) * bucket_volume
    reached = edges[1:] <= monotone[-1]
    buy = size * (1 + aggressor) / 2
    bought, sold = (_volume_at(edges, size, done, monotone, part) for part in (buy, size - buy))
    return VolumeBuckets(
        jnp.where(reached, jnp.diff(bought), 0), jnp.where(reached, jnp.diff(sold), 0), jnp.sum(reached)
    )


def vpin_ewma(
    buy: Float[Array, " bucket"],
    sell: Float[Array, " bucket"],
    smoothing: Float[Array, ""] | float,
    start: Float[Array, ""] | float | None = None,
) -> Float[Array, " bucket"]:
    r"""$\mathrm{VPIN}_i = (1-\kappa)\,\mathrm{VPIN}_{i-1} + \kappa I_i$ after each bucket, in [0, 1].

    Clock: volume buckets. A bucket without volume leaves the value as it is.

    Args:
        buy, sell: Volumes of each bucket [volume].
        smoothing: $\kappa$ in (0, 1]; the window it stands for is $(2-\kappa)/\kappa$ buckets.
        start: Value before the first bucket; without it the first bucket's imbalance is taken whole (0 before it).
    """
    filled = buy + sell > 0
    weight = jnp.where(filled, smoothing, jnp.zeros_like(buy))
    if start is None:
        weight = jnp.where(filled & (jnp.cumsum(filled) == 1), 1, weight)
    imbalance = _ratio(jnp.abs(buy - sell), buy + sell)

    def average(value: Float[Array, ""], bucket: tuple[Array, Array]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        value = value + bucket[0] * (bucket[1] - value)
        return value, value

    initial = jnp.asarray(0.0 if start is None else start, buy.dtype)
    return jax.lax.scan(average, initial, (weight, imbalance))[1]


def vpin_window(buy: Float[Array, " bucket"], sell: Float[Array, " bucket"], n_window: int) -> Float[Array, " bucket"]:
    r"""$\sum |B_i - S_i| / \sum (B_i + S_i)$ over the last `n_window` buckets (fewer at the start), in [0, 1].

    Clock: volume buckets.
    """
    return _ratio(_trailing_sum(jnp.abs(buy - sell), n_window), _trailing_sum(buy + sell, n_window))


def vpin_literal(
    buy: Float[Array, " bucket"], sell: Float[Array, " bucket"], smoothing: Float[Array, ""] | float
) -> Float[Array, ""]:
    r"""(5) as printed: $\frac{1}{\kappa V}\sum_{i=1}^{V} |B_i - S_i|$, V = number of buckets. For the record only.

    With volumes as fractions of a bucket it ranges over $[0, 1/\kappa]$; it is the usual VPIN only if $\kappa$ is the
    bucket volume. Clock: volume buckets.
    """
    return jnp.sum(jnp.abs(buy - sell)) / (smoothing * buy.shape[0])  # (5)


def bulk_buy_fraction(
    price_change: Float[Array, " bar"], scale: Float[Array, " bar"] | Float[Array, ""] | float
) -> Float[Array, " bar"]:
    r"""Share of a bar's volume taken to be buyer-initiated, $\Phi(\Delta p / \sigma)$.

    Clock: bars. `aggressor = 2 * fraction - 1` feeds `bucket_volumes`.

    Args:
        price_change: $\Delta p$ over the bar [price].
        scale: $\sigma$, standard deviation of such changes, known before the bar [price]; at 0 only the sign counts.
    """
    scale = jnp.broadcast_to(jnp.asarray(scale, price_change.dtype), price_change.shape)
    positive = scale > 0
    fraction = ndtr(price_change / jnp.where(positive, scale, 1))
    return jnp.where(positive, fraction, (1 + jnp.sign(price_change)) / 2)


def vpin_at_trades(
    size: Float[Array, " trade"],
    aggressor: Real[Array, " trade"],
    bucket_volume: Float[Array, ""] | float,
    smoothing: Float[Array, ""] | float,
    n_buckets: int,
    start: Float[Array, ""] | float | None = None,
) -> Float[Array, " trade"]:
    """VPIN known right after each trade: only buckets complete by then count.

    Clock: trades (carry it on with `clock.carry`). NaN once a whole bucket no longer fits into `n_buckets`.

    Args:
        size, aggressor, bucket_volume, n_buckets: As in `bucket_volumes`.
        smoothing, start: As in `vpin_ewma`; before the first complete bucket the value is `start`, or 0.
    """
    buckets = bucket_volumes(size, aggressor, bucket_volume, n_buckets)
    first = jnp.asarray(0.0 if start is None else start, size.dtype)
    values = jnp.concatenate([first[None], vpin_ewma(buckets.buy, buckets.sell, smoothing, start)])
    edges = jnp.arange(1, n_buckets + 2, dtype=size.dtype) * bucket_volume
    complete = jnp.searchsorted(edges, _cumulative(size)[1][1:], side="right")
    return jnp.where(complete > n_buckets, jnp.nan, values[jnp.minimum(complete, n_buckets)])


def _cumulative(
    size: Float[Array, " trade"],
) -> tuple[Float[Array, " trade_and_one"], Float[Array, " trade_and_one"]]:
    """Volume done before and after each trade, and the same made monotone for searching.

    A parallel prefix sum may step back by a rounding error; binary search would then look at the future.
    """
    done = jnp.concatenate([jnp.zeros(1, size.dtype), jnp.cumsum(size)])
    return done, jax.lax.stop_gradient(jax.lax.cummax(done))


def _volume_at(
    edges: Float[Array, " edge"],
    size: Float[Array, " trade"],
    done: Float[Array, " trade_and_one"],
    monotone: Float[Array, " trade_and_one"],
    part: Float[Array, " trade"],
) -> Float[Array, " edge"]:
    """Cumulative `part` of the volume when the total reaches each edge."""
    row = jnp.minimum(jnp.searchsorted(monotone, edges, side="left"), size.shape[0])
    size, part = (jnp.concatenate([jnp.zeros(1, size.dtype), x]) for x in (size, part))
    left_over = _ratio(done[row] - edges, size[row])
    return jnp.cumsum(part)[row] - jnp.clip(left_over, 0, 1) * part[row]


def _ratio(numerator: Float[Array, " n"], denominator: Float[Array, " n"]) -> Float[Array, " n"]:
    """0 where the denominator is 0, with a finite gradient there."""
    positive: Bool[Array, " n"] = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), 0)


def _trailing_sum(x: Float[Array, " n"], n_window: int) -> Float[Array, " n"]:
    # A zero that jax knows: under jit `jnp.zeros` is traced, and a window of unknown start has no derivative.
    return jax.lax.reduce_window(x, x.dtype.type(0), jax.lax.add, (n_window,), (1,), [(n_window - 1, 0)])
