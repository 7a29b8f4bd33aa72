r"""Mids driven by a second diffusion, stepped by diffrax: a short-term alpha and Heston's stochastic variance."""

from collections.abc import Callable
from typing import Any

import diffrax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfamm_jax.fields import real_field, static_field
from mfamm_jax.models.mid_price import AbstractMid, normal_of


class _Increments(diffrax.AbstractPath):
    """A path of which fixed steps are taken in order, each with the increments drawn for it."""

    t0: Any  # pyrefly: ignore[bad-override]
    t1: Any  # pyrefly: ignore[bad-override]
    increments: Float[Array, " noise"]

    def evaluate(self, t0, t1=None, left=True, use_jump=True):
        return self.increments


def _euler(
    drift: Callable,
    diffusion: Callable,
    state: Float[Array, " state"],
    time_step: Float[Array, ""],
    uniforms: Float[Array, " number"],
) -> Float[Array, " state"]:
    """As many Ito-Euler steps of diffrax as there are pairs of numbers."""
    normals = normal_of(uniforms).reshape(-1, 2)
    size = time_step / len(normals)
    solver = diffrax.Euler()
    for substep, pair in enumerate(normals):
        begin, end = size * substep, size * (substep + 1)
        noise = _Increments(begin, end, jnp.sqrt(size) * pair)
        terms = diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, noise))
        state = solver.step(terms, begin, end, state, None, None, made_jump=False)[0]
    return state


class ShortTermAlphaMid(AbstractMid):
    r"""$ds = \alpha\,dt + \sigma\,dW$, $d\alpha = -\kappa\alpha\,dt + \eta\,dB$ (Cartea, Jaimungal and Penalva). State: $(s, \alpha)$.

    Args:
        volatility: $\sigma$ [price/sqrt(s)].
        alpha_volatility: $\eta$ [price/s^1.5].
        reversion: $\kappa$ of the alpha [1/s].
        start_alpha: [price/s].
        start_price: [price].
        n_substeps: Euler steps per step.
    """

    volatility: Float[Array, ""] = real_field(lower=0.0, unit="price/sqrt(s)")
    alpha_volatility: Float[Array, ""] = real_field(lower=0.0, unit="price/s^1.5", help="volatility of the alpha")
    reversion: Float[Array, ""] = real_field(lower=0.0, unit="1/s", help="decay of the alpha")
    start_alpha: Float[Array, ""] = real_field(default=0.0, unit="price/s", help="alpha at the start")
    start_price: Float[Array, ""] = real_field(default=0.0, unit="price", help="mid at the start")
    n_substeps: int = static_field(default=1, lower=1, help="Euler steps per step")

    @property
    def n_uniforms(self) -> int:
        """Two per substep."""
        return 2 * self.n_substeps

    def start(self) -> Float[Array, " state"]:
        """Price and alpha."""
        return jnp.stack(jnp.broadcast_arrays(self.start_price, self.start_alpha))

    def advance(
        self, state: Float[Array, " state"], time_step: Float[Array, ""], uniforms: Float[Array, " number"]
    ) -> tuple[Float[Array, " state"], Float[Array, ""]]:
        """Additive noise: Euler's error is that of the drift alone."""
        spread = jnp.diag(jnp.stack([self.volatility, self.alpha_volatility]).astype(state.dtype))

        def drift(t, y, args):
            return jnp.stack([y[1], -self.reversion * y[1]])

        after = _euler(drift, lambda t, y, args: spread, state, time_step, uniforms)
        return after, after[0] - state[0]


class HestonMid(AbstractMid):
    r"""$ds = \mu s\,dt + \sqrt v s\,dW$, $dv = \kappa(\bar v - v)dt + \eta\sqrt v\,dB$, $dW\,dB = \rho\,dt$. State: $(s, v)$.

    Full truncation (Lord, Koekkoek and van Dijk 2010): a variance that a step made negative acts as zero.

    Args:
        start_price: [price].
        start_variance: $v_0$ [1/s].
        mean_variance: $\bar v$ [1/s].
        reversion: $\kappa$ [1/s].
        variance_volatility: $\eta$ [1/s].
        correlation: $\rho$.
        drift: $\mu$ [1/s].
        n_substeps: Euler steps per step.
    """

    start_price: Float[Array, ""] = real_field(lower=0.0, strict=True, unit="price", help="mid at the start")
    start_variance: Float[Array, ""] = real_field(lower=0.0, unit="1/s", help="relative variance at the start")
    mean_variance: Float[Array, ""] = real_field(lower=0.0, unit="1/s", help="where the variance returns to")
    reversion: Float[Array, ""] = real_field(lower=0.0, unit="1/s", help="rate of return")
    variance_volatility: Float[Array, ""] = real_field(lower=0.0, unit="1/s", help="volatility of the variance")
    correlation: Float[Array, ""] = real_field(default=0.0, lower=-1.0, upper=1.0, help="of price and variance")
    drift: Float[Array, ""] = real_field(default=0.0, unit="1/s", help="relative drift")
    n_substeps: int = static_field(default=1, lower=1, help="Euler steps per step")

    @property
    def n_uniforms(self) -> int:
        """Two per substep."""
        return 2 * self.n_substeps

    def start(self) -> Float[Array, " state"]:
        """Price and variance."""
        return jnp.stack(jnp.broadcast_arrays(self.start_price, self.start_variance))

    def advance(
        self, state: Float[Array, " state"], time_step: Float[Array, ""], uniforms: Float[Array, " number"]
    ) -> tuple[Float[Array, " state"], Float[Array, ""]]:
        """Euler steps of price and variance."""
        other = jnp.sqrt(1 - self.correlation**2)

        def drift(t, y, args):
            return jnp.stack([self.drift * y[0], self.reversion * (self.mean_variance - jnp.maximum(y[1], 0.0))])

        def diffusion(t, y, args):
            # The root has no slope at zero.
            positive = y[1] > 0
            root = jnp.where(positive, jnp.sqrt(jnp.where(positive, y[1], 1.0)), 0.0)
            eta, zero = self.variance_volatility * root, jnp.zeros_like(root)
            return jnp.stack([jnp.stack([root * y[0], zero]), jnp.stack([self.correlation * eta, other * eta])]).astype(
                y.dtype
            )

        after = _euler(drift, diffusion, state, time_step, uniforms)
        return after, after[0] - state[0]
