r"""The law of a loss as a normalizing flow (18): $L = m + s\,\phi_K \circ \dots \circ \phi_1(z)$, z Student's t.

Every $\phi_k$ is a monotone spline, the identity far out, so that the tail is the base's: a power law whose exponent is learned. With a
normal base the same flow understates the conditional value at risk of heavy-tailed losses at 99.9 % by a fifth.

In one dimension the flow *is* the quantile function: tail risk needs no sampling (`risk.cvar.quadrature_tail_risk`).

Source: docs/equations.md, (18).
"""

from typing import Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.models import student_t
from mfamm_jax.models.perceptron import Perceptron, silent_perceptron
from mfamm_jax.models.spline import Spline, spline_forward, spline_inverse, through_layers

FREEDOM = (1.05, 100.0)  # below 1 there is no mean; above 100 the law is normal for any sample


class LossFlow(eqx.Module):
    """Parameters of the law of one loss.

    Args:
        location, log_scale: m and log s [loss].
        tail: Of the base's degrees of freedom, any number.
        layers: Splines, the first nearest to the base.
    """

    location: Float[Array, ""]
    log_scale: Float[Array, ""]
    tail: Float[Array, ""]
    layers: Spline

    @property
    def degrees_of_freedom(self) -> Float[Array, ""]:
        """Of the base, and of the tail of the losses."""
        return freedom_of(self.tail)

    def log_density(self, losses: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """[log 1/loss]."""
        z, log_slope = self.to_base(losses)
        return student_t.log_density(z, self.degrees_of_freedom) + log_slope

    def log_survival(self, losses: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """log P(L > losses)."""
        return student_t.log_survival(self.to_base(losses)[0], self.degrees_of_freedom)

    def survival_quantile(self, probability: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """The loss exceeded with this probability."""
        return self.from_base(student_t.survival_quantile(probability, self.degrees_of_freedom))[0]

    def sample(self, key: PRNGKeyArray, n: int) -> Float[Array, " n"]:
        """Losses; differentiable in every parameter."""
        return self.from_base(student_t.sample(key, self.degrees_of_freedom, n))[0]

    def from_base(self, z: Float[Array, "*n"]) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        """T(z) and log T'(z)."""
        y, slope = through_layers(spline_forward, z, self.layers)
        return self.location + jnp.exp(self.log_scale) * y, slope + self.log_scale

    def to_base(self, losses: Float[Array, "*n"]) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        """z = T^-1(losses) and log dz/dL."""
        start = (losses - self.location) * jnp.exp(-self.log_scale)
        z, slope = through_layers(spline_inverse, start, self.layers, reverse=True)
        return z, slope - self.log_scale


def first_flow(
    losses: Float[Array, " n"],
    *,
    n_layers: int = 1,
    n_bins: int = 8,
    bound: float = 3.0,
    degrees_of_freedom: float = 5.0,
) -> LossFlow:
    """A Student's t around the median, as wide as the middle half of the losses: where a fit starts.

    Raises:
        ValueError: Losses that are not finite, or of which half are the same.
    """
    check_losses(losses)
    low, middle, high = jnp.quantile(losses, jnp.asarray([0.25, 0.5, 0.75], losses.dtype))
    if not isinstance(losses, jax.core.Tracer) and not float(high) > float(low):
        raise ValueError(f"half of the losses are {float(middle):g}: a density needs losses that differ")
    zeros = jnp.zeros((n_layers, n_bins), losses.dtype)
    return LossFlow(
        location=middle,
        log_scale=jnp.log((high - low) / 1.45),  # middle half of t with 5 degrees of freedom
        tail=tail_number(degrees_of_freedom, losses.dtype),
        layers=Spline(zeros, zeros, zeros[:, 1:], bound),
    )


def freedom_of(tail: Float[Array, ""]) -> Float[Array, ""]:
    """Degrees of freedom that any number gives."""
    low, high = FREEDOM
    return low + (high - low) * jax.nn.sigmoid(tail)


def tail_number(degrees_of_freedom: float, dtype: Any) -> Float[Array, ""]:
    """The `tail` that gives these degrees of freedom."""
    share = (degrees_of_freedom - FREEDOM[0]) / (FREEDOM[1] - FREEDOM[0])
    return jnp.asarray(np.log(share / (1 - share)), dtype)


def check_losses(losses: Float[Array, " n"]) -> None:
    """Concrete ones; tracers pass."""
    if isinstance(losses, jax.core.Tracer):
        return
    values = np.asarray(losses)
    if values.size < 2:
        raise ValueError(f"{values.size} losses, expected at least 2")
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"loss {row + 1} is {values[row]}, expected finite numbers: drop or fill gaps first")


class ConditionalLossFlow(eqx.Module):
    """A `LossFlow` for every vector of covariates: a base flow whose numbers a small network moves (dynamic tail risk).

    Args:
        base: The flow where the network says nothing.
        network: From standardised covariates to changes of every number of `base`.
        center, scale: Of the covariates.
    """

    base: LossFlow
    network: Perceptron
    center: Float[Array, " covariate"]
    scale: Float[Array, " covariate"]

    def at(self, covariates: Float[Array, " covariate"]) -> LossFlow:
        """The law of the loss given one vector of covariates; `vmap` for many."""
        numbers, rebuild = jax.flatten_util.ravel_pytree(self.base)
        moved = rebuild(numbers + self.network((covariates - self.center) / self.scale))
        # The network speaks of the location in units of the base's scale.
        shift = (moved.location - self.base.location) * jnp.exp(self.base.log_scale)
        return eqx.tree_at(lambda f: f.location, moved, self.base.location + shift)

    def log_density(self, losses: Float[Array, " n"], covariates: Float[Array, "n covariate"]) -> Float[Array, " n"]:
        """Of every loss given its own covariates."""
        return jax.vmap(lambda loss, x: self.at(x).log_density(loss))(losses, covariates)


def conditional_flow(
    base: LossFlow, covariates: Float[Array, "n covariate"], key: PRNGKeyArray, *, width: int = 16
) -> ConditionalLossFlow:
    """A network that says nothing yet, for covariates like these."""
    numbers, _ = jax.flatten_util.ravel_pytree(base)
    network = silent_perceptron(key, covariates.shape[1], numbers.size, width)
    scale = jnp.std(covariates, axis=0)
    return ConditionalLossFlow(base, network, jnp.mean(covariates, axis=0), jnp.where(scale > 0, scale, 1))
