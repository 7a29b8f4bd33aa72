r"""Robust rolling volatility of the mid: the rulebook's "rolling volatility (5min, 99% coarse filter)".

Returns beyond a threshold c are dropped and the rest is rescaled, so that Gaussian returns keep their variance:

$$\sigma^2 = \frac{1}{h\,f}\,\mathrm{mean}\{r^2 : |r| \le c\}, \qquad f = 1 - \frac{2 z \varphi(z)}{p}, \quad
  z = \Phi^{-1}\!\big(\tfrac{1+p}{2}\big)$$

with grid step h and coverage p (z = 2.5758 and f = 0.924756 at 99 %).
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jax.scipy.stats import norm
from jaxtyping import Array, Bool, Float, Int

from mfamm_jax.features.book_shape import MAD_TO_SIGMA

N_ROWS_AT_ONCE = 512  # bounds the memory of the gathered windows


def rolling_volatility(
    mid: Float[Array, " grid"],
    seconds_per_step: Float[Array, ""] | float,
    floor: Float[Array, ""] | float,
    initial: Float[Array, ""] | float = 0.0,
    n_window: int = 300,
    n_minimum: int = 30,
    coverage: Float[Array, ""] | float = 0.99,
    truncation: Literal["mad", "quantile"] = "mad",
) -> Float[Array, " grid"]:
    r"""Volatility known at each grid time [price/sqrt(s)], never below `floor`.

    Clock: regular grid, previous-tick mids (`clock.regular_grid`). Each row uses returns up to itself: the last
    `n_window`, at the start those there are; while there are fewer than `n_minimum` it is `initial`.

    Args:
        mid: Mid price, relative to a reference if float32 [price].
        seconds_per_step: h [s].
        floor: Smallest volatility, > 0; keeps gradients finite [price/sqrt(s)].
        initial: Value of the first rows, e.g. yesterday's; the floor if that is larger [price/sqrt(s)].
        n_window: Returns in a full window: 300 of 1 s are the rulebook's 5 minutes.
        n_minimum: Returns needed before the window is believed.
        coverage: Share p of Gaussian returns that is kept.
        truncation: "mad": c = 1.4826 z median(|r| : r != 0). The zero returns of a discrete price are left out of the
            median, else a quiet minute would make c zero. "quantile": c = the p-quantile of |r| in the window. On
            returns with heavy tails that are no errors "mad" drops much more than 1 - p and reads low; with rare
            gross errors "quantile" reads high.
    """
    if truncation not in ("mad", "quantile"):
        raise ValueError(f'truncation is "{truncation}", expected "mad" or "quantile"')
    padded = jnp.concatenate([jnp.zeros(n_window, mid.dtype), jnp.diff(mid)])
    coverage = jnp.asarray(coverage, mid.dtype)

    def variance(row: Int[Array, ""]) -> Float[Array, ""]:
        age = jnp.arange(n_window)[::-1]
        return _truncated_variance(padded[row + jnp.arange(n_window)], age < row, coverage, truncation)

    rows = jnp.arange(mid.shape[0])
    per_second = jax.lax.map(variance, rows, batch_size=N_ROWS_AT_ONCE) / seconds_per_step
    floor = jnp.asarray(floor, mid.dtype)
    volatility = jnp.sqrt(jnp.maximum(per_second, floor**2))
    return jnp.where(rows < n_minimum, jnp.maximum(initial, floor), volatility)


def truncated_variance_share(coverage: Float[Array, ""]) -> Float[Array, ""]:
    r"""$f = E[Z^2 : |Z| \le z] / p = 1 - 2 z \varphi(z) / p$ for a standard normal Z and $z = \Phi^{-1}((1+p)/2)$."""
    z = ndtri((1 + coverage) / 2)
    return 1 - 2 * z * norm.pdf(z) / coverage


def _truncated_variance(
    returns: Float[Array, " window"],
    known: Bool[Array, " window"],
    coverage: Float[Array, ""],
    truncation: str,
) -> Float[Array, ""]:
    """Variance per step; the choice of what is kept has no gradient."""
    threshold = _mad_threshold if truncation == "mad" else _quantile_threshold
    cut = threshold(jnp.abs(jax.lax.stop_gradient(returns)), known, coverage)
    kept = known & (jnp.abs(returns) <= cut)
    mean_square = jnp.sum(jnp.where(kept, returns**2, 0)) / jnp.maximum(jnp.sum(kept), 1)
    return mean_square / truncated_variance_share(coverage)


def _mad_threshold(
    size: Float[Array, " window"], known: Bool[Array, " window"], coverage: Float[Array, ""]
) -> Float[Array, ""]:
    median = _masked_quantile(size, known & (size > 0), jnp.asarray(0.5, size.dtype))
    return ndtri((1 + coverage) / 2) * MAD_TO_SIGMA * median


def _quantile_threshold(
    size: Float[Array, " window"], known: Bool[Array, " window"], coverage: Float[Array, ""]
) -> Float[Array, ""]:
    return _masked_quantile(size, known, coverage)


def _masked_quantile(
    x: Float[Array, " window"], mask: Bool[Array, " window"], level: Float[Array, ""]
) -> Float[Array, ""]:
    """Quantile of the masked entries by linear interpolation; 0 without any."""
    count = jnp.sum(mask)
    ordered = jnp.sort(jnp.where(mask, x, jnp.inf))
    position = level * jnp.maximum(count - 1, 0)
    below = jnp.floor(position).astype(int)
    above = jnp.minimum(below + 1, jnp.maximum(count - 1, 0))
    low, high = (jnp.where(count > 0, ordered[i], 0) for i in (below, above))
    return low + (position - below) * (high - low)


def tick_volatility(prices: Float[Array, " tick"]) -> Float[Array, ""]:
    r"""Hummingbot's instant volatility since December 2021: $\sqrt{\sum \Delta^2/n}$ over n mids (n - 1 differences) [price per root tick].

    Biased by $\sqrt{1 - 1/n}$ against `rolling_volatility`, and as noisy as the mid bounces. Source: H-E1.
    """
    return jnp.sqrt(jnp.sum(jnp.diff(prices) ** 2) / prices.shape[0])


def population_volatility(prices: Float[Array, " tick"]) -> Float[Array, ""]:
    """Hummingbot's volatility of 2021: population standard deviation of the mids, which grows with the window [price]. Source: H1-11."""
    return jnp.std(prices)
