"""Laws of losses by maximum likelihood: one loss, one given covariates, several together.

Source: docs/equations.md, (18).
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.models.joint_loss_flow import JointLossFlow, first_joint_flow
from mfamm_jax.models.loss_flow import LossFlow, check_losses, conditional_flow, first_flow
from mfamm_jax.results import RESULTS, Solution, when
from mfamm_jax.solvers.descent import minimise_until_worse

PATIENCE = 20
# Of the log likelihood in that many steps, or a search ends: a twentieth of what a further parameter gains by chance.
LEAST_GAIN = 0.02
# Of the splines' numbers, as if known before: without it bins close around single losses, and the likelihood has no maximum.
PRIOR_DEVIATION = 1.0


def fit_loss_flow(
    losses: Float[Array, " n"], *, n_layers: int = 1, n_bins: int = 8, bound: float = 3.0, max_iterations: int = 300
) -> Solution:
    """The law of one loss. `vmap` over samples.

    Args:
        losses: Independent draws, positive = lost [loss].
        n_layers, n_bins, bound: Of the splines; with more than one layer of 8 bins a few thousand losses are followed too closely.
        max_iterations: Of L-BFGS.

    Returns:
        `Solution` of a `LossFlow`; stats: mean log density, iterations.
    """
    start, center, log_unit = _standard(first_flow(losses, n_layers=n_layers, n_bins=n_bins, bound=bound))
    standard = (losses - center) / jnp.exp(log_unit)

    def loss(flow: LossFlow) -> Float[Array, ""]:
        prior = 0.5 * optax.tree.norm(flow.layers, squared=True) / PRIOR_DEVIATION**2
        return prior / losses.shape[0] - jnp.mean(flow.log_density(standard))

    # Not by the gradient: it jumps where a knot passes a loss, and need not come near 0.
    least = LEAST_GAIN / losses.shape[0]
    found, ended, count = minimise_until_worse(loss, loss, start, max_iterations, PATIENCE, least)
    value = jnp.mean(found.log_density(standard))
    result = when(ended, RESULTS.successful, RESULTS.not_converged)
    stats = {"log_density": value - log_unit, "iterations": count}
    return Solution(_in_units(found, center, log_unit), when(jnp.isfinite(value), result, RESULTS.nonfinite), stats)


def _standard(flow: LossFlow) -> tuple[LossFlow, Array, Array]:
    """The flow of (losses - center)/exp(log_unit), at 0 with scale 1: a search must not depend on the losses' unit."""
    center, log_unit = flow.location, flow.log_scale
    return _in_units(flow, -center * jnp.exp(-log_unit), -log_unit), center, log_unit


def _in_units(flow: LossFlow, center: Array, log_unit: Array) -> LossFlow:
    """The flow of center + exp(log_unit) times the loss."""
    moved = center + jnp.exp(log_unit) * flow.location, flow.log_scale + log_unit
    return eqx.tree_at(lambda f: (f.location, f.log_scale), flow, moved)


def fit_conditional_flow(
    losses: Float[Array, " n"],
    covariates: Float[Array, "row covariate"],
    key: PRNGKeyArray,
    *,
    width: int = 16,
    max_iterations: int = 300,
) -> Solution:
    """The law of a loss given what was known before it, found by steps until the last fifth of the rows is fitted best.

    Args:
        losses: By row, in order of time [loss].
        covariates: By row; standardised inside.
        key: Of the network's first layer.
        width: Of the hidden layer.
        max_iterations: Of L-BFGS.

    Returns:
        `Solution` of a `ConditionalLossFlow`; stats: mean log density of the rows stepped on and of those held out, iterations.
    """
    check_losses(losses)
    if covariates.shape[:1] != losses.shape:
        raise ValueError(f"{covariates.shape[0]} rows of covariates for {losses.shape[0]} losses, expected as many")
    if not isinstance(covariates, jax.core.Tracer) and not np.isfinite(np.asarray(covariates)).all():
        row, column = np.argwhere(~np.isfinite(np.asarray(covariates)))[0]
        raise ValueError(f"covariate {column + 1} of row {row + 1} is not finite: drop or fill gaps first")
    n = _n_fitted(losses)
    base, center, log_unit = _standard(fit_loss_flow(losses[:n]).value)
    start = conditional_flow(base, covariates[:n], key, width=width)
    found = _fit_held_out(start, ((losses - center) / jnp.exp(log_unit), covariates), n, max_iterations, log_unit)
    flow = eqx.tree_at(lambda f: f.base, found.value, _in_units(found.value.base, center, log_unit))
    return Solution(flow, found.result, found.stats)


def fit_joint_flow(
    losses: Float[Array, "n loss"], key: PRNGKeyArray, *, max_iterations: int = 300, **shape: Any
) -> Solution:
    """The joint law of several losses, found by steps until the last fifth of the rows is fitted best.

    Args:
        losses: One row per time [loss].
        key: Of the networks' first layers.
        max_iterations: Of L-BFGS.
        shape: Of `first_joint_flow`.

    Returns:
        `Solution` of a `JointLossFlow`; stats as of `fit_conditional_flow`.
    """
    n = _n_fitted(losses)
    start = first_joint_flow(losses[:n], key, **shape)
    center, unit = start.location, jnp.linalg.norm(start.triangle(), axis=1)
    start = _joint_in_units(start, -center / unit, 1 / unit)
    found = _fit_held_out(start, ((losses - center) / unit,), n, max_iterations, jnp.sum(jnp.log(unit)))
    return Solution(_joint_in_units(found.value, center, unit), found.result, found.stats)


def _joint_in_units(flow: JointLossFlow, center: Array, unit: Array) -> JointLossFlow:
    """The flow of center + unit times the losses, loss by loss."""
    factor = jnp.tril(flow.factor, -1) * unit[:, None] + jnp.diag(jnp.diag(flow.factor) + jnp.log(unit))
    return eqx.tree_at(lambda f: (f.location, f.factor), flow, (center + unit * flow.location, factor))


def _n_fitted(losses: Array) -> int:
    """Four fifths."""
    n = losses.shape[0] * 4 // 5
    if n < 50:
        raise ValueError(f"{losses.shape[0]} rows, expected at least 63 to fit and to hold out")
    return n


def _fit_held_out(start: Any, rows: tuple[Array, ...], n: int, max_iterations: int, log_unit: Array) -> Solution:
    """Rows in standard units; log densities are reported in the losses' own."""

    def loss(flow: Any) -> Float[Array, ""]:
        return -jnp.mean(flow.log_density(*(x[:n] for x in rows)))

    def judge(flow: Any) -> Float[Array, ""]:
        return -jnp.mean(flow.log_density(*(x[n:] for x in rows)))

    found, ended, count = minimise_until_worse(loss, judge, start, max_iterations, PATIENCE)
    fitted, held_out = -loss(found) - log_unit, -judge(found) - log_unit
    stats = {"log_density": fitted, "held_out_log_density": held_out, "iterations": count}
    result = when(ended, RESULTS.successful, RESULTS.not_converged)
    return Solution(found, when(jnp.isfinite(stats["log_density"]), result, RESULTS.nonfinite), stats)
