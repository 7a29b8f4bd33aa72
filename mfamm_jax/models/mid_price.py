r"""How the mid moves by itself; what our fills do to it is `simulation.step`'s.

Each model advances its own state by one step of any length. All but the binomial one have the law of the continuous process at its
end, whatever the number of steps; `models.mid_sde` has the two whose law is not elementary.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfamm_jax.fields import Checked, real_field, static_field


class AbstractMid(Checked):
    """A mid price that nobody pushes."""

    start_price: eqx.AbstractVar[Float[Array, ""]]

    @property
    def n_uniforms(self) -> int:
        """Random numbers per step."""
        return 1

    def start(self) -> Any:
        """State before the first step; a process of independent increments has none."""
        return ()

    @abc.abstractmethod
    def advance(
        self, state: Any, time_step: Float[Array, ""], uniforms: Float[Array, " number"]
    ) -> tuple[Any, Float[Array, ""]]:
        """State after a step, and the change of the mid over it [price], from independent uniform numbers in [0, 1)."""


def _price(**more: Any) -> Any:
    return real_field(unit="price", help="mid at the start", **more)


def normal_of(uniform: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Standard normal number of a uniform one in [0, 1), shifted to the middle of its place on the grid of random numbers."""
    return jnp.sqrt(2.0).astype(uniform.dtype) * jax.lax.erf_inv(2 * uniform - 1 + jnp.finfo(uniform.dtype).eps)


class BrownianMid(AbstractMid):
    r"""$ds = \mu\,dt + \sigma\,dW$.

    Args:
        volatility: $\sigma$ [price/sqrt(s)].
        drift: $\mu$ [price/s].
        start_price: [price].
    """

    volatility: Float[Array, ""] = real_field(lower=0.0, unit="price/sqrt(s)", source="(1)")
    drift: Float[Array, ""] = real_field(default=0.0, unit="price/s")
    start_price: Float[Array, ""] = _price(default=0.0)

    def advance(
        self, state: Any, time_step: Float[Array, ""], uniforms: Float[Array, " number"]
    ) -> tuple[Any, Float[Array, ""]]:
        """Gaussian increment."""
        noise = normal_of(uniforms[0])
        return state, self.drift * time_step + self.volatility * jnp.sqrt(time_step) * noise


class BinomialMid(AbstractMid):
    r"""AS-S1, the random walk of the paper of 2008: $\pm\sigma\sqrt{dt}$ with probability 1/2 each.

    Args:
        volatility: $\sigma$ [price/sqrt(s)].
        start_price: [price].
    """

    volatility: Float[Array, ""] = real_field(lower=0.0, unit="price/sqrt(s)", source="AS-S1")
    start_price: Float[Array, ""] = _price(default=0.0)

    def advance(
        self, state: Any, time_step: Float[Array, ""], uniforms: Float[Array, " number"]
    ) -> tuple[Any, Float[Array, ""]]:
        """Up or down."""
        return state, jnp.where(uniforms[0] < 0.5, 1.0, -1.0) * self.volatility * jnp.sqrt(time_step)


class GeometricMid(AbstractMid):
    r"""$ds = s(\mu\,dt + \sigma\,dW)$, both relative. State: $s$.

    Args:
        start_price: [price].
        volatility: $\sigma$ [1/sqrt(s)].
        drift: $\mu$ [1/s].
    """

    start_price: Float[Array, ""] = _price(lower=0.0, strict=True)
    volatility: Float[Array, ""] = real_field(lower=0.0, unit="1/sqrt(s)", help="relative volatility")
    drift: Float[Array, ""] = real_field(default=0.0, unit="1/s", help="relative drift")

    def start(self) -> Float[Array, ""]:
        """The price."""
        return self.start_price

    def advance(
        self, state: Float[Array, ""], time_step: Float[Array, ""], uniforms: Float[Array, " number"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Log-normal increment."""
        noise = normal_of(uniforms[0])
        growth = (self.drift - 0.5 * self.volatility**2) * time_step + self.volatility * jnp.sqrt(time_step) * noise
        change = state * jnp.expm1(growth)
        return state + change, change


class MeanRevertingMid(AbstractMid):
    r"""Ornstein-Uhlenbeck: $ds = \kappa(\bar s - s)dt + \sigma\,dW$. State: $s - \bar s$.

    Args:
        volatility: $\sigma$ [price/sqrt(s)].
        reversion: $\kappa$ [1/s].
        level: $\bar s$ [price].
        start_price: [price].
    """

    volatility: Float[Array, ""] = real_field(lower=0.0, unit="price/sqrt(s)")
    reversion: Float[Array, ""] = real_field(lower=0.0, strict=True, unit="1/s", help="rate of return to the level")
    level: Float[Array, ""] = real_field(default=0.0, unit="price", help="where the mid returns to")
    start_price: Float[Array, ""] = _price(default=0.0)

    def start(self) -> Float[Array, ""]:
        """Distance from the level."""
        return self.start_price - self.level

    def advance(
        self, state: Float[Array, ""], time_step: Float[Array, ""], uniforms: Float[Array, " number"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Exact Gaussian transition."""
        noise = normal_of(uniforms[0])
        spread = self.volatility * jnp.sqrt(-jnp.expm1(-2 * self.reversion * time_step) / (2 * self.reversion))
        change = state * jnp.expm1(-self.reversion * time_step) + spread * noise
        return state + change, change


class JumpMid(AbstractMid):
    r"""Brownian motion with normally distributed jumps at Poisson times (Merton's, in prices).

    Args:
        volatility: Of the Brownian part [price/sqrt(s)].
        jump_rate: [1/s].
        jump_volatility: Standard deviation of a jump [price].
        jump_mean: [price].
        drift: [price/s].
        start_price: [price].
        most_jumps: More in one step are not drawn; the rate times the step should stay well below.
    """

    volatility: Float[Array, ""] = real_field(lower=0.0, unit="price/sqrt(s)")
    jump_rate: Float[Array, ""] = real_field(lower=0.0, unit="1/s", help="jumps per second")
    jump_volatility: Float[Array, ""] = real_field(lower=0.0, unit="price", help="standard deviation of a jump")
    jump_mean: Float[Array, ""] = real_field(default=0.0, unit="price", help="mean of a jump")
    drift: Float[Array, ""] = real_field(default=0.0, unit="price/s")
    start_price: Float[Array, ""] = _price(default=0.0)
    most_jumps: int = static_field(default=16, lower=1, help="largest number of jumps in a step")

    @property
    def n_uniforms(self) -> int:
        """Size and number."""
        return 2

    def advance(
        self, state: Any, time_step: Float[Array, ""], uniforms: Float[Array, " number"]
    ) -> tuple[Any, Float[Array, ""]]:
        """Given their number, the jumps of a step and its diffusion add up to one normal number."""
        noise = normal_of(uniforms[0])
        # The number of jumps by inversion: how many of the distribution's steps the uniform number exceeds. Its last step is one,
        # else rounding would leave a rare way to the largest number.
        mean = self.jump_rate * time_step
        count = np.arange(self.most_jumps + 1)
        log_factorial = np.concatenate([[0.0], np.cumsum(np.log(count[1:]))])
        log_chance = count * jnp.log(jnp.maximum(mean, 1e-30)) - log_factorial.astype(mean.dtype)
        steps = jnp.cumsum(jnp.exp(log_chance - jnp.max(log_chance)))
        number = jnp.sum(uniforms[1] >= steps / steps[-1]).astype(mean.dtype)
        spread = jnp.sqrt(self.volatility**2 * time_step + self.jump_volatility**2 * number)
        return state, self.drift * time_step + self.jump_mean * number + spread * noise
