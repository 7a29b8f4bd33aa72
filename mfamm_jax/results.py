"""What a solver says about its own answer."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


class RESULTS(eqx.Enumeration):
    """Outcome of a solve; the text tells the user what to change."""

    successful = ""
    nonfinite = 'a value is not finite: check the parameters\' units, use precision = "float64" or more steps'
    unstable_step = "the explicit time step breaks the stability bound: use more substeps (hjb.n_substeps)"
    too_few_terms = 'the horizon is too stiff for the chosen terms: raise n_squarings or n_substeps, or scheme = "auto"'
    clamp_binds = 'a depth limit binds, so a linear scheme does not apply: use scheme = "explicit"'
    unequal_decay = 'bid and ask decay differ, so a linear scheme does not apply: use scheme = "explicit"'
    policy_not_converged = 'the policy iteration did not converge: raise n_iterations, or use precision = "float64"'
    max_steps_reached = "the steps did not reach the horizon: raise max_steps or rtol, or shorten the horizon"
    paid_to_trade = "the model pays for round trips: use an admissible kernel and impact (models.impact.complaints), or forbid reversals"
    not_converged = "the iteration did not converge: check for covariates without events, collinear covariates or parameters that the data leave open"


def when(condition: Bool[Array, "*batch"], then: RESULTS, otherwise: RESULTS) -> RESULTS:
    """As `RESULTS.where`, entry by entry for a batch of conditions."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), then, otherwise)


def worst(result: RESULTS) -> RESULTS:
    """First entry of a batch of results that is not successful, if any."""
    first = jnp.argmax((result != RESULTS.successful).ravel())
    return jax.tree.map(lambda x: x.ravel()[first], result)


class Solution(eqx.Module):
    """Answer of a solver.

    Args:
        value: What was asked for.
        result: How it ended; vmaps like any array.
        stats: Scalars about the work done (steps, residuals).
    """

    value: Any
    result: RESULTS
    stats: dict[str, Any]
