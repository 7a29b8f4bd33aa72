r"""Market impact (20): how trading moves the price and how the move decays.

$$S_t - S_0 = \int_0^t f(t - s)\,g(v_s)\,ds$$

f is the kernel, g the impact of a rate of trading (many papers call them the other way round). Rates are constant within a step, so the
kernel enters by its exact integral over each step, also where it is infinite at 0.

Source: docs/equations.md, (20); Bouchaud et al. (2004), Gatheral (2010).
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfamm_jax.fields import Checked, real_field

N_NODES = 8  # of Gauss's rule on half a step
N_NEAR = 8  # lags at which the exact weights of a power law do not cancel


class AbstractKernel(Checked):
    """f and its integral."""

    @abc.abstractmethod
    def __call__(self, time: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """f(t), t >= 0."""

    @abc.abstractmethod
    def integral(self, time: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """From 0 to t."""

    @abc.abstractmethod
    def mean_weights(self, time_step: Float[Array, ""], n_steps: int) -> Float[Array, " lag"]:
        r"""$w_k = \frac1h\int_0^h\int_0^h f(kh + t - s)\,ds\,dt$ with f = 0 before 0: how a step's impact moves the mean price of the step k later."""


def _tent(kernel: AbstractKernel, time_step: Float[Array, ""], lags: Float[Array, " lag"]) -> Float[Array, " lag"]:
    """The same for lags >= 1 of kernels that are smooth there: integral of f(kh + s)(h - |s|)/h by Gauss's rule on both halves."""
    nodes, weights = (jnp.asarray(x, time_step.dtype) for x in np.polynomial.legendre.leggauss(N_NODES))
    inside, half = 0.5 * (nodes + 1), 0.5 * weights
    before = kernel(time_step * (lags[:, None] - 1 + inside)) @ (half * inside)
    after = kernel(time_step * (lags[:, None] + inside)) @ (half * (1 - inside))
    return time_step * (before + after)


class PowerKernel(AbstractKernel):
    r"""$f(t) = t^{-\gamma}$, infinite at 0.

    Args:
        exponent: $\gamma$ in (0, 1).
    """

    exponent: Float[Array, ""] = real_field(lower=0.0, strict=True, upper=0.999, source="(20)", help="decay of impact")

    def __call__(self, time: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """f(t)."""
        return time**-self.exponent

    def integral(self, time: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """With slope zero at t = 0 instead of an infinite one."""
        rest = 1 - self.exponent
        return jnp.where(time > 0, jnp.where(time > 0, time, 1) ** rest, 0) / rest

    def mean_weights(self, time_step: Float[Array, ""], n_steps: int) -> Float[Array, " lag"]:
        r"""Second differences of $t^{2-\gamma}/((1-\gamma)(2-\gamma))$ near 0, where they do not cancel, and a rule far from it."""
        n_near = min(N_NEAR, n_steps)
        rest = 2 - self.exponent
        edges = jnp.maximum(jnp.arange(-1.0, n_near + 1, dtype=time_step.dtype), 0)
        twice = jnp.where(edges > 0, jnp.where(edges > 0, edges, 1) ** rest, 0) / (rest * (rest - 1))
        near = time_step ** (rest - 1) * (twice[2:] - 2 * twice[1:-1] + twice[:-2])
        far = _tent(self, time_step, jnp.arange(n_near, n_steps, dtype=time_step.dtype))
        return jnp.concatenate([near, far])


class ShiftedPowerKernel(AbstractKernel):
    r"""$f(t) = A(1 + t/t_0)^{-\gamma}$.

    Args:
        amplitude: A.
        time_scale: $t_0$.
        exponent: $\gamma$ > 0, not 1.
    """

    amplitude: Float[Array, ""] = real_field(default=1.0, lower=0.0, strict=True, source="(20)", help="impact at once")
    time_scale: Float[Array, ""] = real_field(default=1.0, lower=0.0, strict=True, help="when the decay sets in")
    exponent: Float[Array, ""] = real_field(default=0.5, lower=0.0, strict=True, help="decay of impact")

    def __call__(self, time: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """f(t)."""
        return self.amplitude * (1 + time / self.time_scale) ** -self.exponent

    def integral(self, time: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """The logarithm at exponent 1 as its limit."""
        rest, stretch = 1 - self.exponent, jnp.log1p(time / self.time_scale)
        safe = jnp.where(rest == 0, 1, rest)
        return self.amplitude * self.time_scale * jnp.where(rest == 0, stretch, jnp.expm1(rest * stretch) / safe)

    def mean_weights(self, time_step: Float[Array, ""], n_steps: int) -> Float[Array, " lag"]:
        """Gauss's rule, with nodes that crowd at 0, where the kernel may fall within a step."""
        nodes, weights = (jnp.asarray(x, time_step.dtype) for x in np.polynomial.legendre.leggauss(3 * N_NODES))
        root, half = 0.5 * (nodes + 1), 0.5 * weights
        inside, share = root**4, 4 * root**3 * half
        first = time_step * jnp.sum(self(time_step * inside) * (1 - inside) * share)
        rest = _tent(self, time_step, jnp.arange(1, max(n_steps, 2), dtype=time_step.dtype))
        plain, halves = np.polynomial.legendre.leggauss(N_NODES)
        after = jnp.asarray(0.5 * (plain + 1), time_step.dtype)
        beyond = jnp.sum(self(time_step * (1 + after)) * (1 - after) * jnp.asarray(0.5 * halves, time_step.dtype))
        second = time_step * (jnp.sum(self(time_step * inside) * inside * share) + beyond)
        return jnp.concatenate([jnp.stack([first, second]), rest[1:]])[:n_steps]


class ExponentialKernel(AbstractKernel):
    r"""$f(t) = \sum_m c_m e^{-\rho_m t}$: impact with a finite memory, a Markov state per term.

    Args:
        amplitudes: $c_m$ > 0.
        rates: $\rho_m$ > 0 [1/time].
    """

    amplitudes: Float[Array, " term"] = real_field(
        lower=0.0, strict=True, source="(20)", help="impact at once, by term"
    )
    rates: Float[Array, " term"] = real_field(lower=0.0, strict=True, unit="1/time", help="resilience, by term")

    def __check_init__(self) -> None:
        if self.amplitudes.shape != self.rates.shape:
            raise ValueError(
                f"ExponentialKernel: {self.amplitudes.shape} amplitudes, {self.rates.shape} rates, expected as many"
            )

    def __call__(self, time: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """f(t)."""
        return jnp.sum(self.amplitudes * jnp.exp(-self.rates * time[..., None]), axis=-1)

    def integral(self, time: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """From 0 to t."""
        return jnp.sum(-self.amplitudes * jnp.expm1(-self.rates * time[..., None]) / self.rates, axis=-1)

    def mean_weights(self, time_step: Float[Array, ""], n_steps: int) -> Float[Array, " lag"]:
        """In closed form."""
        z = self.rates * time_step
        small = z < 0.1
        safe = jnp.where(small, 1, z)
        series = 0.5 - z / 6 * (1 - z / 4 * (1 - z / 5 * (1 - z / 6 * (1 - z / 7))))
        first = jnp.where(small, series, (safe + jnp.expm1(-safe)) / safe**2)
        mean = -jnp.expm1(-z) / z
        lags = jnp.arange(1, n_steps, dtype=time_step.dtype)
        later = jnp.exp(-z * (lags[:, None] - 1)) @ (self.amplitudes * mean**2)
        return time_step * jnp.concatenate([jnp.sum(self.amplitudes * first)[None], later])


class InstantImpact(Checked):
    r"""$g(v) = c\,\mathrm{sign}(v)|v|^\delta$: odd, increasing; linear at $\delta = 1$.

    Args:
        scale: c.
        exponent: $\delta$.
    """

    scale: Float[Array, ""] = real_field(default=1.0, lower=0.0, strict=True, source="(20) g", help="size of impact")
    exponent: Float[Array, ""] = real_field(default=1.0, lower=0.0, strict=True, usual=(0.3, 1.0), help="1 = linear")

    def __call__(self, rate: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """g(v); where its slope at 0 is infinite, below exponent 1, it is taken as 0."""
        size = jnp.abs(rate)
        moves = size > 0
        growth = jnp.where(moves, jnp.where(moves, size, 1) ** (self.exponent - 1), jnp.where(self.exponent == 1, 1, 0))
        return self.scale * rate * growth


def price_path(
    rates: Float[Array, " step"], time_step: Float[Array, ""] | float, kernel: AbstractKernel, impact: InstantImpact
) -> Float[Array, " point"]:
    """S - S_0 at the ends of the steps, with 0 first; by fast Fourier transform."""
    n = rates.shape[0]
    total = kernel.integral(time_step * jnp.arange(n + 1, dtype=rates.dtype))
    size = 2 * n
    spectrum = jnp.fft.rfft(jnp.diff(total), size) * jnp.fft.rfft(impact(rates), size)
    return jnp.concatenate([jnp.zeros(1, rates.dtype), jnp.fft.irfft(spectrum, size)[:n]])


def price_path_by_state(
    rates: Float[Array, " step"], time_step: Float[Array, ""] | float, kernel: ExponentialKernel, impact: InstantImpact
) -> Float[Array, " point"]:
    """As `price_path` for exponential kernels, one step at a time: what a stream or a chip can do."""
    decay = jnp.exp(-kernel.rates * time_step)
    gain = -kernel.amplitudes * jnp.expm1(-kernel.rates * time_step) / kernel.rates

    def step(state: Array, push: Array) -> tuple[Array, Array]:
        state = decay * state + gain * push
        return state, jnp.sum(state)

    _, path = jax.lax.scan(step, jnp.zeros_like(kernel.rates), impact(rates))
    return jnp.concatenate([jnp.zeros(1, rates.dtype), path])


def trading_cost(
    rates: Float[Array, " step"],
    time_step: Float[Array, ""] | float,
    kernel: AbstractKernel,
    impact: InstantImpact,
    half_spread: Float[Array, ""] | float = 0.0,
) -> Float[Array, ""]:
    r"""$\int v_t (S_t - S_0)\,dt$ plus the half spread on every unit traded; exact for rates that are constant within a step."""
    step = jnp.asarray(time_step, rates.dtype)
    pushes = impact(rates)
    size = 2 * rates.shape[0]
    spectrum = jnp.fft.rfft(kernel.mean_weights(step, rates.shape[0]), size) * jnp.fft.rfft(pushes, size)
    mean = jnp.fft.irfft(spectrum, size)[: rates.shape[0]]
    return step * (jnp.sum(rates * mean) + half_spread * jnp.sum(jnp.abs(rates)))


class Metaorder(eqx.Module):
    """What trading at a constant rate does.

    Args:
        price_change: S - S_0 at the times.
        peak: At the end of the order.
        mean_cost_per_share: Average price paid above S_0.
    """

    price_change: Float[Array, " time"]
    peak: Float[Array, ""]
    mean_cost_per_share: Float[Array, ""]


def metaorder(
    rate: Float[Array, ""] | float,
    duration: Float[Array, ""] | float,
    times: Float[Array, " time"],
    kernel: PowerKernel,
    impact: InstantImpact,
) -> Metaorder:
    r"""Closed form for $f = t^{-\gamma}$: rises as $t^{1-\gamma}$, then relaxes."""
    push = impact(jnp.asarray(rate, times.dtype))
    duration = jnp.asarray(duration, times.dtype)
    change = push * (kernel.integral(times) - kernel.integral(jnp.maximum(times - duration, 0)))
    peak = push * kernel.integral(duration)
    return Metaorder(change, peak, peak / (2 - kernel.exponent))


def complaints(kernel: AbstractKernel, impact: InstantImpact) -> tuple[str, ...]:
    """Why a model lets round trips make money, as far as known [Gatheral 2010]; empty = nothing known. Concrete parameters only."""
    delta = float(impact.exponent)
    if abs(delta - 1) < 1e-9:
        return ()
    if not isinstance(kernel, PowerKernel):
        return (f"a kernel that is finite at 0 allows no impact but a linear one, exponent is {delta:g}, expected 1",)
    gamma, least, found = float(kernel.exponent), 2 - np.log(3) / np.log(2), []
    if gamma + delta < 1 - 1e-9:
        found.append(f"kernel and impact exponents {gamma:g} + {delta:g} are below 1")
    if gamma < least:
        found.append(f"the kernel's exponent {gamma:g} is below {least:.3f}")
    return tuple(found)
