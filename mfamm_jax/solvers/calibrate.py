r"""Parameters from what they lead to: bounded fits by gradient from many starts, standard errors, and which directions the data leave open.

The loss is a function of a parameter vector, so that anything differentiable can be calibrated: quotes of a control problem, the exact law of
an episode, a likelihood, or their sum. Bounds hold by a change of coordinates,

$$x = \text{low} + (\text{high} - \text{low})\,\sigma(z), \qquad\text{in logarithms for rates and scales},$$

in which the search (L-BFGS) is free. A minimum at a bound shows as a large |z|.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mfamm_jax.fields import Checked, real_field
from mfamm_jax.results import RESULTS, Solution, when
from mfamm_jax.solvers.descent import minimise

Loss = Callable[[Float[Array, " parameter"]], Float[Array, ""]]
NoisyLoss = Callable[[Float[Array, " parameter"], PRNGKeyArray], Float[Array, ""]]
Residuals = Callable[[Float[Array, " parameter"]], Float[Array, " residual"]]

# Shares of the box that a parameter may start from, and beyond which it counts as lying at a bound.
NEAREST, AT_BOUND = 1e-6, 1e-3
# Parameters up to which tangents beat the way back through a time loop.
FEW = 6


class Box(Checked):
    """Where parameters may lie.

    Args:
        low, high: Bounds.
        is_log: Which parameters are rates or scales: positive, and searched in logarithms.
    """

    low: Float[Array, " parameter"] = real_field(help="lower bounds")
    high: Float[Array, " parameter"] = real_field(help="upper bounds")
    is_log: tuple[bool, ...] = eqx.field(static=True)

    def __check_init__(self) -> None:
        if not self.low.shape == self.high.shape == (len(self.is_log),):
            raise ValueError(f"Box: low {self.low.shape}, high {self.high.shape} and {len(self.is_log)} scales differ")
        if isinstance(self.low, jax.core.Tracer) or isinstance(self.high, jax.core.Tracer):
            return
        for low, high, is_log in zip(self.low.tolist(), self.high.tolist(), self.is_log, strict=True):
            if not low < high or (is_log and low <= 0):
                raise ValueError(f"Box: bounds {low:g} and {high:g}, expected low < high{' and > 0' if is_log else ''}")

    def _scaled(self, x: Float[Array, "*b parameter"]) -> Float[Array, "*b parameter"]:
        log = jnp.asarray(self.is_log)
        return jnp.where(log, jnp.log(jnp.where(log, x, 1.0)), x)

    def at_share(self, share: Float[Array, "*b parameter"]) -> Float[Array, "*b parameter"]:
        """Parameters at shares 0..1 of their range."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        x, log = low + (high - low) * share, jnp.asarray(self.is_log)
        return jnp.where(log, jnp.exp(jnp.where(log, x, 0.0)), x)

    def share(self, parameters: Float[Array, "*b parameter"]) -> Float[Array, "*b parameter"]:
        """The inverse of `at_share`."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        return (self._scaled(parameters) - low) / (high - low)

    def inside(self, free: Float[Array, "*b parameter"]) -> Float[Array, "*b parameter"]:
        """Parameters from free coordinates."""
        return self.at_share(jax.nn.sigmoid(free))

    def free(self, parameters: Float[Array, "*b parameter"]) -> Float[Array, "*b parameter"]:
        """Free coordinates of parameters; those at or beyond a bound are taken just inside."""
        return jax.scipy.special.logit(jnp.clip(self.share(parameters), NEAREST, 1 - NEAREST))

    def draw(self, key: Array, n: int) -> Float[Array, "start parameter"]:
        """Starts spread over the middle nine tenths of every range."""
        return self.at_share(jax.random.uniform(key, (n, self.low.size), self.low.dtype, 0.05, 0.95))


def forward_gradient(loss: Loss) -> Loss:
    """The same loss with its gradient by one tangent per parameter: cheaper than going back through thousands of steps, for few parameters."""

    def value_and_slope(x: Float[Array, " parameter"]) -> tuple[Array, Array]:
        return jax.vmap(lambda t: jax.jvp(loss, (x,), (t,)), out_axes=(None, 0))(jnp.eye(x.size, dtype=x.dtype))

    @jax.custom_vjp
    def same(x: Float[Array, " parameter"]) -> Float[Array, ""]:
        return loss(x)

    same.defvjp(value_and_slope, lambda slope, g: (g * slope,))
    return same


class Fit(eqx.Module):
    """What a search from many starts found.

    Args:
        parameters: The best end.
        loss: There.
        gradient_norm: Before the last step, in free coordinates.
        at_bound: Which parameters ended at a bound.
        ends: Where every start ended.
        losses: There.
        n_evaluations: Of loss and gradient, by start.
    """

    parameters: Float[Array, " parameter"]
    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    at_bound: Bool[Array, " parameter"]
    ends: Float[Array, "start parameter"]
    losses: Float[Array, " start"]
    n_evaluations: Int[Array, " start"]


def fit(
    loss: Loss,
    box: Box,
    starts: Float[Array, "start parameter"],
    *,
    max_iterations: int = 200,
    gradient_limit: float | None = None,
) -> Solution:
    """Smallest loss in a box, by L-BFGS from every start at once.

    Args:
        loss: Differentiable; the negative log likelihood, if standard errors are wanted of it. Up to `FEW` parameters are differentiated
            forwards (`forward_gradient`), more in reverse.
        box: Bounds.
        starts: Inside it.
        max_iterations: Per start.
        gradient_limit: Norm of the gradient in free coordinates that ends a search and counts as converged; default by precision: 1e-6 or 1e-2
            ends it, and so much of the loss's size + 1, which is what rounding leaves, counts as converged.

    Returns:
        `Solution` with a `Fit`.
    """
    size = {8: 1e-6, 4: 1e-2}[starts.dtype.itemsize]
    if starts.shape[-1] <= FEW:
        loss = forward_gradient(loss)

    def one(start: Float[Array, " parameter"]) -> tuple[Array, ...]:
        limit = size if gradient_limit is None else gradient_limit
        found, norm, _, evaluations = minimise(lambda z: loss(box.inside(z)), box.free(start), max_iterations, limit)
        return found, loss(box.inside(found)), norm, evaluations

    free, losses, norms, evaluations = jax.vmap(one)(starts)
    best = jnp.argmin(jnp.where(jnp.isfinite(losses), losses, jnp.inf))
    share = jax.nn.sigmoid(free[best])
    found = Fit(
        parameters=box.inside(free[best]),
        loss=losses[best],
        gradient_norm=norms[best],
        at_bound=(share < AT_BOUND) | (share > 1 - AT_BOUND),
        ends=box.inside(free),
        losses=losses,
        n_evaluations=evaluations,
    )
    limit = size * (1 + jnp.abs(losses[best])) if gradient_limit is None else gradient_limit
    result = when(norms[best] <= limit, RESULTS.successful, RESULTS.not_converged)
    result = when(jnp.isfinite(losses[best]), result, RESULTS.nonfinite)
    return Solution(found, result, {"n_evaluations": jnp.sum(evaluations)})


def fit_noisy(
    loss: NoisyLoss,
    box: Box,
    start: Float[Array, " parameter"],
    key: PRNGKeyArray,
    *,
    n_steps: int,
    learning_rate: float = 0.1,
) -> tuple[Float[Array, " parameter"], Float[Array, "step parameter"]]:
    """Smallest expected loss when every evaluation draws anew: Adam in free coordinates, and the mean of the last quarter of its iterates.

    Args:
        loss: Of parameters and a key, with an unbiased gradient (pathwise, or by the score function).
        box: Bounds.
        start: Inside it.
        key: Draws; the same key gives the same search.
        n_steps: Draws.
        learning_rate: First step in free coordinates; it falls to a tenth.

    Returns:
        The mean and all iterates.
    """
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, n_steps, alpha=0.1))

    def step(state: tuple, index: Array) -> tuple[tuple, Any]:
        free, memory = state
        slope = jax.grad(lambda z: loss(box.inside(z), jax.random.fold_in(key, index)))(free)
        # A draw without a finite gradient is left out: the next one has other paths.
        slope = jnp.where(jnp.all(jnp.isfinite(slope)), slope, 0.0)
        change, memory = optimiser.update(slope, memory)
        free = optax.apply_updates(free, change)
        return (free, memory), free

    first = box.free(start)
    _, path = jax.lax.scan(step, (first, optimiser.init(first)), jnp.arange(n_steps))
    return box.inside(jnp.mean(path[-max(n_steps // 4, 1) :], axis=0)), box.inside(path)


def squared_residual_loss(residuals: Residuals) -> Loss:
    r"""Negative log likelihood of residuals with one unknown normal deviation, which is profiled out: $\frac n2 \ln \overline{r^2}$."""

    def loss(parameters: Float[Array, " parameter"]) -> Float[Array, ""]:
        r = residuals(parameters)
        return 0.5 * r.size * jnp.log(jnp.mean(r**2))

    return loss


def residual_information(
    residuals: Residuals, parameters: Float[Array, " parameter"]
) -> tuple[Float[Array, "parameter parameter"], Float[Array, ""]]:
    r"""$J^\top J/\hat\sigma^2$ with $\hat\sigma^2 = \sum r^2/(n - p)$, and $\hat\sigma$.

    The expected information: first derivatives only, which every scheme has right. The observed one is the Hessian of the loss.
    """
    r, jacobian = residuals(parameters), jax.jacfwd(residuals)(parameters)
    variance = jnp.sum(r**2) / max(r.size - parameters.size, 1)
    return jacobian.T @ jacobian / variance, jnp.sqrt(variance)


class Identification(eqx.Module):
    """How well parameters are known.

    Args:
        standard_errors: Of the parameters; inf where the data say nothing.
        correlation: Of their estimates; close to +-1 for those that an open direction ties together.
        eigenvalues: Of the information about changes in units of `scale`, ascending.
        directions: Unit vectors of these changes, one a row.
        direction_errors: Standard error along each: 0.1 = known to 10 % of the scale; inf where the eigenvalue is what rounding leaves of a zero.
    """

    standard_errors: Float[Array, " parameter"]
    correlation: Float[Array, "parameter parameter"]
    eigenvalues: Float[Array, " direction"]
    directions: Float[Array, "direction parameter"]
    direction_errors: Float[Array, " direction"]


def identify(information: Float[Array, "parameter parameter"], scale: Float[Array, " parameter"]) -> Identification:
    """Standard errors and open directions from an information matrix (the Hessian of a negative log likelihood).

    Args:
        information: Symmetric; may be singular.
        scale: Change of every parameter that counts as one, e.g. the parameter itself for relative changes.
    """
    scaled = information * scale[:, None] * scale
    eigenvalues, vectors = jnp.linalg.eigh(0.5 * (scaled + scaled.T))
    # What rounding leaves of a zero is no information, and what it leaves of a direction's part in a parameter no part.
    eps, tiny = jnp.finfo(scaled.dtype).eps, jnp.finfo(scaled.dtype).tiny
    least = jnp.maximum(10 * eps * scaled.shape[0] * eigenvalues[-1], tiny)
    known = eigenvalues > least
    variances = jnp.where(known, 1 / jnp.where(known, eigenvalues, 1.0), jnp.inf)
    share = vectors**2
    part = jnp.where(share > 100 * eps, share * variances, 0.0)
    covariance = (vectors / jnp.maximum(eigenvalues, least)) @ vectors.T
    deviations = jnp.sqrt(jnp.diagonal(covariance))
    return Identification(
        standard_errors=jnp.sqrt(jnp.sum(part, axis=1)) * scale,
        correlation=covariance / deviations[:, None] / deviations,
        eigenvalues=eigenvalues,
        directions=vectors.T,
        direction_errors=jnp.sqrt(variances),
    )
