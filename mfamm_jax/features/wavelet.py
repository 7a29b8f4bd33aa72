r"""Continuous wavelet transform (13), with the conjugate that the rulebook drops and units that can be checked:

$$W(a, b) = \frac{1}{\sqrt a}\int s(t)\,\overline{\psi\!\left(\tfrac{t-b}{a}\right)}\,dt,
  \qquad \int |\psi|^2 = 1, \qquad \widehat{W}(a, \omega) = \sqrt a\;\overline{\hat\psi(a\omega)}\,\hat s(\omega).$$

One Fourier transform, a product per scale, an inverse transform per scale. Symmetric wavelets look as far ahead as back: use this
on closed windows of the past, and `wavelet_bank` for signals.

Source: docs/equations.md, (13); Torrence & Compo (1998) for the wavelets.
"""

import abc
import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erfc
from jaxtyping import Array, Bool, Float, Inexact

from mfamm_jax.fields import Checked, real_field, static_field

SQRT_2 = math.sqrt(2.0)
REACH = 5.0  # scales from the centre, where psi has fallen to 1e-4 of its peak; padding is twice that


class AbstractWavelet(Checked):
    """A wavelet of unit energy by its Fourier transform."""

    is_real: eqx.AbstractClassVar[bool]

    @abc.abstractmethod
    def response(self, frequency: Float[Array, "*b"]) -> Inexact[Array, "*b"]:
        r"""$\hat\psi(\omega) = \int \psi(t) e^{-i\omega t} dt$."""

    @abc.abstractmethod
    def ridge_scale(self, frequency: Float[Array, "*b"]) -> Float[Array, "*b"]:
        r"""The scale at which a cosine of angular frequency $\omega$ is largest."""


class DerivativeOfGaussian(AbstractWavelet):
    r"""$\psi = \frac{(-1)^{m+1}}{\sqrt{\Gamma(m+1/2)}} \frac{d^m}{dt^m} e^{-t^2/2}$: m vanishing moments.

    Args:
        order: m; 2, the default, is the Mexican hat: constants and linear trends give exactly 0.
    """

    order: int = static_field(default=2, lower=1, source="(13)", help="vanishing moments")
    is_real = True

    def response(self, frequency: Float[Array, "*b"]) -> Inexact[Array, "*b"]:
        """Real for even orders, imaginary for odd ones."""
        m = self.order
        size = math.sqrt(2 * math.pi) / math.exp(0.5 * math.lgamma(m + 0.5))
        phase = (-1) ** (m + 1) * 1j**m
        value = size * frequency**m * jnp.exp(-0.5 * frequency**2)
        return value * (phase.real if m % 2 == 0 else phase)

    def ridge_scale(self, frequency: Float[Array, "*b"]) -> Float[Array, "*b"]:
        r"""$\sqrt{m + 1/2}/\omega$."""
        return math.sqrt(self.order + 0.5) / frequency


class Morlet(AbstractWavelet):
    r"""$\psi(t) = \pi^{-1/4} e^{i\omega_0 t - t^2/2}$, without the correction that matters below $\omega_0 = 5$.

    Args:
        central_frequency: $\omega_0$.
    """

    central_frequency: Float[Array, ""] = real_field(
        default=6.0, lower=0.0, strict=True, usual=(5.0, 20.0), source="(13)", help="oscillations per scale, times 2 pi"
    )
    is_real = False

    def response(self, frequency: Float[Array, "*b"]) -> Inexact[Array, "*b"]:
        """Real."""
        away = frequency - self.central_frequency
        return math.pi**-0.25 * math.sqrt(2 * math.pi) * jnp.exp(-0.5 * away**2)

    def ridge_scale(self, frequency: Float[Array, "*b"]) -> Float[Array, "*b"]:
        r"""$(\omega_0 + \sqrt{\omega_0^2 + 2})/(2\omega)$."""
        w = self.central_frequency
        return (w + jnp.sqrt(w**2 + 2)) / (2 * frequency)


def wavelet_transform(
    series: Float[Array, "*b row"],
    scales: Float[Array, " scale"],
    wavelet: AbstractWavelet | None = None,
    time_step: Float[Array, ""] | float = 1.0,
    edge: Literal["zero", "reflect"] = "zero",
    n_padding: int | None = None,
) -> Inexact[Array, "*b scale row"]:
    """W of (13) at every row.

    Args:
        series: Equally spaced samples, finite; remove the mean before padding with zeros.
        scales: a, rising [time]; at least two steps, where the wavelet still fits below the Nyquist frequency.
        wavelet: The Mexican hat by default.
        time_step: Between rows [time].
        edge: What lies beyond the ends: nothing, or the mirrored series (random walks).
        n_padding: Rows added, at least 10 of the largest scale; needed only where scales or the step are traced.

    Returns:
        Real for real wavelets; [series sqrt(time)]. Mask the ends with `outside_cone`.
    """
    wavelet = DerivativeOfGaussian() if wavelet is None else wavelet
    if n_padding is None:
        n_padding = _padding(series, scales, time_step)
    n = series.shape[-1]
    reflected = min(n_padding // 2, n - 1) if edge == "reflect" else 0
    if edge not in ("zero", "reflect"):
        raise ValueError(f'edge is {edge!r}, expected "zero" or "reflect"')
    wide = [(0, 0)] * (series.ndim - 1)
    padded = jnp.pad(series, [*wide, (reflected, reflected)], mode="reflect") if reflected else series
    size = _fast_length(n + 2 * reflected + n_padding)
    step = jnp.asarray(time_step, series.dtype)
    if wavelet.is_real:
        frequency = 2 * jnp.pi * jnp.fft.rfftfreq(size).astype(series.dtype) / step
        spectrum = jnp.fft.rfft(padded, size)[..., None, :] * _kernels(wavelet, scales, frequency)
        out = jnp.fft.irfft(spectrum, size)
    else:
        frequency = 2 * jnp.pi * jnp.fft.fftfreq(size).astype(series.dtype) / step
        out = jnp.fft.ifft(jnp.fft.fft(padded, size)[..., None, :] * _kernels(wavelet, scales, frequency))
    return out[..., reflected : reflected + n]


def _kernels(
    wavelet: AbstractWavelet, scales: Float[Array, " scale"], frequency: Float[Array, " frequency"]
) -> Inexact[Array, "scale frequency"]:
    return jnp.sqrt(scales)[:, None] * jnp.conj(wavelet.response(scales[:, None] * frequency))


def outside_cone(
    n_rows: int,
    scales: Float[Array, " scale"],
    time_step: Float[Array, ""] | float = 1.0,
    multiple: Float[Array, ""] | float = SQRT_2,
) -> Bool[Array, "scale row"]:
    """Where coefficients do not feel the ends: rows at least `multiple` scales away (sqrt 2 for pictures, 5 for numbers)."""
    row = jnp.arange(n_rows)
    away = jnp.minimum(row, n_rows - 1 - row) * time_step
    # A distance of exactly `multiple` scales is outside, whatever rounding does.
    return away >= multiple * scales[:, None] * (1 - 1e-6)


def mexican_hat_energy(
    scale: Float[Array, "*b"],
    process: Literal["white_noise", "brownian", "ornstein_uhlenbeck"],
    volatility: Float[Array, "*b"] | float = 1.0,
    rate: Float[Array, "*b"] | float = 1.0,
) -> Float[Array, "*b"]:
    r"""$E|W(a, \cdot)|^2$ in theory, $\frac1\pi\int_0^\infty a|\hat\psi(a\omega)|^2 S(\omega)\,d\omega$.

    White noise $\sigma^2$; Brownian motion $\frac23\sigma^2 a^2$; Ornstein-Uhlenbeck with $k = a\theta$
    $a^2 C^2\sigma^2[\frac{\sqrt\pi}{2} - k^2\sqrt\pi + \pi k^3 e^{k^2}\mathrm{erfc}(k)]$, by Gauss-Hermite quadrature of the same integral
    where the bracket cancels (k > 2).

    Args:
        scale: a [time].
        process: Which one.
        volatility: $\sigma$ [per sqrt(time); for white noise the density's root].
        rate: $\theta$ [1/time], of the Ornstein-Uhlenbeck process only.
    """
    square = jnp.asarray(volatility, scale.dtype) ** 2
    if process == "white_noise":
        return square * jnp.ones_like(scale)
    if process == "brownian":
        return 2 / 3 * square * scale**2
    if process != "ornstein_uhlenbeck":
        raise ValueError(f'process is {process!r}, expected "white_noise", "brownian" or "ornstein_uhlenbeck"')
    k = scale * rate
    small = jnp.minimum(k, 2.0)
    root = math.sqrt(math.pi)
    closed = root / 2 - small**2 * root + math.pi * small**3 * jnp.exp(small**2) * erfc(small)
    nodes, weights = (jnp.asarray(x, scale.dtype) for x in np.polynomial.hermite.hermgauss(120))
    large = jnp.maximum(k, 2.0)[..., None]
    quadrature = jnp.sum(weights * nodes**4 / (nodes**2 + large**2), axis=-1)
    return scale**2 * 4 / (3 * root) * square * jnp.where(k < 2.0, closed, quadrature)


def _padding(series: Array, scales: Array, time_step: Array | float) -> int:
    """Rows to add, after looking at concrete arguments."""
    if any(isinstance(x, jax.core.Tracer) for x in (scales, time_step)):
        raise ValueError(
            "n_padding is needed where scales or time_step are traced: 10 largest scale/time_step, rounded up"
        )
    values, step = np.asarray(scales, float), float(time_step)
    if not step > 0 or not math.isfinite(step):
        raise ValueError(f"time_step is {step}, expected a finite number > 0")
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all() or (np.diff(values) <= 0).any():
        raise ValueError(f"scales must be a rising list of finite numbers, got {values}")
    if values[0] < 2 * step * (1 - 1e-9):
        raise ValueError(
            f"the smallest scale {values[0]:g} is below two steps ({2 * step:g}): the wavelet does not fit the samples"
        )
    n = series.shape[-1]
    if n * step < 2 * values[-1]:
        raise ValueError(
            f"{n} rows of {step:g} cannot hold the scale {values[-1]:g}: expected at least {math.ceil(2 * values[-1] / step)}"
        )
    if not isinstance(series, jax.core.Tracer) and not np.isfinite(np.asarray(series)).all():
        row = int(np.argwhere(~np.isfinite(np.asarray(series)))[0][-1])
        raise ValueError(f"row {row} of the series is not finite: fill gaps before the transform")
    return math.ceil(2 * REACH * values[-1] / step)


def _fast_length(n: int) -> int:
    """The next length of the form 2^i 3^j 5^k."""
    best = 1 << (n - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            best = min(best, three << max(math.ceil(math.log2(n / three)), 0)) if three < n else min(best, three)
            three *= 3
        five *= 5
    return best
