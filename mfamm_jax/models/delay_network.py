r"""Networks that map past trading to the price (21), "LiNet".

The rulebook's (21) estimates the map $f * g$ of (20) as a whole. `HammersteinNetwork` keeps (20)'s structure,

$$y_t = \sum_{k \ge 0} f_k\,g(v_{t-k}), \qquad f_k = \sum_m c_m e^{-\rho_m k} \Big/ \sum_m c_m, \quad c_m, \rho_m > 0,$$

with g odd, increasing and linear between knots. f and g are known only up to a factor, $(c f, g/c)$: here $f_0 = 1$, and g carries the units.
`FreeDelayNetwork` is the baseline without structure: the last rates into a perceptron (Waibel et al. 1989, tapped delay line). No network
of this name for impact was found in the literature.

Source: docs/equations.md, (20) and (21); Narendra & Gallman (1966) for Hammerstein models.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.fields import static_field
from mfamm_jax.models.flax_function import (
    AbstractFlaxFunction,
    Params,
    apply_function,
    flax_nnx,
    initial_weights,
    layer_options,
)

N_AT_ONCE = 4096  # rows the free network sees together


def hinge_basis(rates: Float[Array, "*b"], knots: Float[Array, " knot"]) -> Float[Array, "*b segment"]:
    """Odd functions that rise by the length of one segment of |v| each: an odd curve linear between knots is their sum by slope.

    Args:
        rates: v.
        knots: > 0, rising; the last segment has no end.
    """
    low = jnp.concatenate([jnp.zeros(1, knots.dtype), knots])
    width = jnp.concatenate([jnp.diff(low), jnp.full(1, jnp.inf, knots.dtype)])
    return jnp.sign(rates)[..., None] * jnp.clip(jnp.abs(rates)[..., None] - low, 0, width)


class HammersteinNetwork(eqx.Module):
    """(20) with everything in it learned; fit by `solvers.delay_fit.fit_hammerstein`.

    Args:
        knots: Sizes of a rate between which g is linear, not trained.
        log_slopes: Of g, by segment [log(price/rate)].
        log_amplitudes: ln c.
        log_rates: ln rho, per step.
    """

    knots: Float[Array, " knot"]
    log_slopes: Float[Array, " segment"]
    log_amplitudes: Float[Array, " term"]
    log_rates: Float[Array, " term"]

    def impact(self, rates: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """g(v)."""
        return jnp.matmul(hinge_basis(rates, self.knots), jnp.exp(self.log_slopes), precision="highest")

    def kernel(self, lags: Float[Array, " lag"]) -> Float[Array, " lag"]:
        """f at lags in steps; 1 at lag 0."""
        shares = jax.nn.softmax(self.log_amplitudes)
        return jnp.matmul(jnp.exp(-jnp.exp(self.log_rates) * lags[:, None]), shares, precision="highest")

    def response(self, rates: Float[Array, " step"]) -> Float[Array, " step"]:
        """y after every step, from rest before the first."""
        lags = jnp.arange(rates.shape[0], dtype=rates.dtype)
        return causal_convolution(self.kernel(lags), self.impact(rates))


def causal_convolution(kernel: Float[Array, " lag"], signal: Float[Array, " step"]) -> Float[Array, " step"]:
    """Sum over k of kernel[k] signal[t - k]; by fast Fourier transform."""
    n = signal.shape[0]
    size = 1 << (2 * n - 1).bit_length()
    return jnp.fft.irfft(jnp.fft.rfft(kernel[:n], size) * jnp.fft.rfft(signal, size), size)[:n]


class FreeDelayNetwork(AbstractFlaxFunction):
    """The last `n_lags` rates into a perceptron; pure functions of its weights."""

    n_lags: int = static_field(
        default=64, lower=1, source="(21)", help="past rates the free network sees, this step's first"
    )
    n_hidden: int = static_field(default=32, lower=1, help="width of the free network's two hidden layers")

    def init(self, key: PRNGKeyArray) -> Params:
        """Random weights in the precision in force."""
        return initial_weights(self, key)

    def response(self, params: Params, rates: Float[Array, " step"]) -> Float[Array, " step"]:
        """y after every step, from rest before the first. Rates and y in units in which both are of size one."""
        padded = jnp.concatenate([jnp.zeros(self.n_lags - 1, rates.dtype), rates])
        rows = jnp.arange(rates.shape[0])
        return jax.lax.map(lambda t: self.at(params, padded, t), rows, batch_size=N_AT_ONCE)

    def at(self, params: Params, padded: Float[Array, " more"], row: Array) -> Float[Array, ""]:
        """y after one step; rates preceded by `n_lags` - 1 zeros."""
        past = jax.lax.dynamic_slice_in_dim(padded, row, self.n_lags)[::-1]
        return apply_function(self, str(padded.dtype))(params, past)[0]

    def build(self, rngs: Any) -> Any:
        """The perceptron."""
        nnx, kinds = flax_nnx(), layer_options(rngs)
        return nnx.Sequential(
            nnx.Linear(self.n_lags, self.n_hidden, **kinds),
            jax.nn.gelu,
            nnx.Linear(self.n_hidden, self.n_hidden, **kinds),
            jax.nn.gelu,
            nnx.Linear(self.n_hidden, 1, **kinds),
        )
