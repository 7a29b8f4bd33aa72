r"""Wavelets that use the past only: the undecimated (MODWT) and the decimated transform on a filter bank, and what they measure.

With $\tilde h = h/\sqrt2$ and $\tilde g = g/\sqrt2$ the wavelet and scaling filters,

$$W_{j,t} = \sum_l \tilde h_l V_{j-1,\,t - 2^{j-1} l}, \qquad V_{j,t} = \sum_l \tilde g_l V_{j-1,\,t - 2^{j-1} l}, \qquad V_0 = x:$$

a coefficient at t uses samples up to t, and the energy of the series is the sum of the levels' energies. Level j belongs to time scales
of $2^{j-1}$ steps; its filter has $L_j = (2^j - 1)(L - 1) + 1$ taps, of which about half is delay.

Source: docs/equations.md, (13); Percival & Walden (2000), chapters 4, 5 and 8.
"""

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.special import digamma, ndtri, polygamma
from jaxtyping import Array, Bool, Float


class FilterBank(eqx.Module):
    """Orthonormal filters.

    Args:
        wavelet: h, sums to 0.
        scaling: g, sums to sqrt(2).
    """

    wavelet: Float[Array, " tap"]
    scaling: Float[Array, " tap"]


def wavelet_filters(name: str = "db4") -> FilterBank:
    """PyWavelets' orthogonal filters by name ("haar", "db4", "sym8", "coif2"); host only.

    Raises:
        ValueError: PyWavelets is missing, or the name is none of its orthogonal wavelets.
    """
    try:
        import pywt
    except ImportError as error:
        raise ValueError('wavelet filters need an extra package: pip install "mfamm-jax[full]"') from error
    known = [n for family in ("haar", "db", "sym", "coif") for n in pywt.wavelist(family)]
    if name not in known:
        raise ValueError(f"wavelet {name!r}: expected one of {', '.join(known)}")
    found, real = pywt.Wavelet(name), jnp.result_type(float)
    return FilterBank(jnp.asarray(found.dec_hi, real), jnp.asarray(found.dec_lo, real))


def level_width(filters: FilterBank, level: int) -> int:
    """Number of taps L_j of the filter of a level, counted from 1."""
    return (2**level - 1) * (filters.wavelet.shape[0] - 1) + 1


class Levels(eqx.Module):
    """Undecimated coefficients.

    Args:
        details: W of levels 1 to J.
        smooth: V of level J.
        known: Whether a row's coefficients use nothing from before the start.
    """

    details: Float[Array, "*b level row"]
    smooth: Float[Array, "*b row"]
    known: Bool[Array, "level row"]


def undecimated_transform(series: Float[Array, "*b row"], filters: FilterBank, n_levels: int) -> Levels:
    """MODWT. Periodic at the start: those coefficients are not `known`, and they are what makes the inverse exact.

    Args:
        series: Equally spaced.
        filters: From `wavelet_filters`.
        n_levels: J.
    """
    n = series.shape[-1]
    if n_levels < 1 or level_width(filters, n_levels) > n:
        raise ValueError(
            f"n_levels is {n_levels}: its filter has {level_width(filters, max(n_levels, 1))} taps, expected at least 1 level and at most {n} taps, the rows"
        )
    details, smooth = [], series
    for level in range(1, n_levels + 1):
        details.append(_filtered(smooth, filters.wavelet, 2 ** (level - 1)))
        smooth = _filtered(smooth, filters.scaling, 2 ** (level - 1))
    widths = jnp.array([level_width(filters, level) for level in range(1, n_levels + 1)])
    known = jnp.arange(n)[None, :] >= widths[:, None] - 1
    return Levels(jnp.stack(details, axis=-2), smooth, known)


def inverse_undecimated(levels: Levels, filters: FilterBank) -> Float[Array, "*b row"]:
    """The series that the coefficients are of."""
    smooth = levels.smooth
    for level in reversed(range(levels.details.shape[-2])):
        detail = levels.details[..., level, :]
        smooth = _filtered(detail, filters.wavelet, -(2**level)) + _filtered(smooth, filters.scaling, -(2**level))
    return smooth


def decimated_transform(
    series: Float[Array, "*b row"], filters: FilterBank, n_levels: int
) -> list[Float[Array, "*b _"]]:
    """DWT, periodic: details of levels 1 to J, each half as long as the one before, then the smooth part.

    Args:
        series: A multiple of 2^J rows.
        filters: From `wavelet_filters`.
        n_levels: J.
    """
    if series.shape[-1] % 2**n_levels:
        raise ValueError(f"{series.shape[-1]} rows: expected a multiple of 2^n_levels = {2**n_levels}")
    out, smooth = [], series
    for _ in range(n_levels):
        out.append(jnp.sqrt(2.0) * _filtered(smooth, filters.wavelet, 1)[..., 1::2])
        smooth = jnp.sqrt(2.0) * _filtered(smooth, filters.scaling, 1)[..., 1::2]
    return [*out, smooth]


def inverse_decimated(parts: list[Float[Array, "*b _"]], filters: FilterBank) -> Float[Array, "*b row"]:
    """The series of `decimated_transform`."""
    *details, smooth = parts
    for detail in reversed(details):
        high, low = (_upsampled(x) for x in (detail, smooth))
        smooth = jnp.sqrt(2.0) * (_filtered(high, filters.wavelet, -1) + _filtered(low, filters.scaling, -1))
    return smooth


def _filtered(x: Float[Array, "*b row"], taps: Float[Array, " tap"], spacing: int) -> Float[Array, "*b row"]:
    """Periodic filter with taps 1/sqrt(2), `spacing` rows apart; a negative spacing looks ahead (the inverse)."""
    shifted = jnp.stack([jnp.roll(x, spacing * lag, axis=-1) for lag in range(taps.shape[0])])
    return jnp.tensordot(taps / jnp.sqrt(2.0), shifted, axes=1, precision="highest")


def _upsampled(x: Float[Array, "*b _"]) -> Float[Array, "*b row"]:
    return jnp.stack([jnp.zeros_like(x), x], axis=-1).reshape(*x.shape[:-1], -1)


class WaveletVariance(eqx.Module):
    r"""Variance of a series by time scale $\tau_j = 2^{j-1}$ steps.

    Args:
        variance: Unbiased: mean square of the known coefficients.
        low, high: Interval, from chi-square with `freedom` degrees.
        freedom: $\max(M_j/2^j, 1)$, M_j known coefficients: they are independent about every 2^j rows.
    """

    variance: Float[Array, "*b level"]
    low: Float[Array, "*b level"]
    high: Float[Array, "*b level"]
    freedom: Float[Array, " level"]


def wavelet_variance(levels: Levels, coverage: float = 0.95) -> WaveletVariance:
    """Wavelet variance with its interval; chi-square quantiles by Wilson and Hilferty, within 1 % from 3 degrees on."""
    count = jnp.sum(levels.known, axis=-1).astype(levels.details.dtype)
    variance = jnp.sum(jnp.where(levels.known, levels.details**2, 0), axis=-1) / jnp.maximum(count, 1)
    freedom = jnp.maximum(count / 2.0 ** jnp.arange(1, count.shape[0] + 1), 1)
    z = ndtri(jnp.asarray(0.5 + 0.5 * coverage, variance.dtype))
    upper, lower = (
        jnp.maximum(1 - 2 / (9 * freedom) + s * z * jnp.sqrt(2 / (9 * freedom)), 0.05) ** 3 for s in (1, -1)
    )
    return WaveletVariance(variance, variance / upper, variance / lower, freedom)


class ScalingExponent(eqx.Module):
    """Slope of log variance on log scale.

    Args:
        slope: -1 white noise, 1 random walk: 2d - 1 for an I(d) series.
        error: Standard error.
    """

    slope: Float[Array, "*b"]
    error: Float[Array, "*b"]

    @property
    def memory(self) -> Float[Array, "*b"]:
        """Order of integration d."""
        return 0.5 * (self.slope + 1)


def scaling_exponent(found: WaveletVariance, first_level: int = 2) -> ScalingExponent:
    """Weighted least squares over levels, corrected for the mean of a log chi-square [Abry & Veitch 1998].

    Args:
        found: Variances.
        first_level: Level 1 and above with small filters feel the sampling of the process: start at 2 or 3.
    """
    use = slice(first_level - 1, None)
    half = 0.5 * found.freedom[use]
    y = jnp.log2(found.variance[..., use]) - (digamma(half) - jnp.log(half)) / jnp.log(2.0)
    x = jnp.arange(first_level - 1, found.freedom.shape[0], dtype=y.dtype)
    weight = jnp.log(2.0) ** 2 / polygamma(1, half)
    centre = jnp.sum(weight * x) / jnp.sum(weight)
    square = jnp.sum(weight * (x - centre) ** 2)
    return ScalingExponent(
        jnp.sum(weight * (x - centre) * y, axis=-1) / square, jnp.broadcast_to(1 / jnp.sqrt(square), y.shape[:-1])
    )
