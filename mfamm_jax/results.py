"""What a solver says about its own answer."""

from typing import Any

import equinox as eqx


class RESULTS(eqx.Enumeration):
    """Outcome of a solve; the text tells the user what to change."""

    successful = ""
    nonfinite = 'a value is not finite: check the parameters\' units, use precision = "float64" or more steps'
    unstable_step = "the explicit time step breaks the stability bound: use more substeps (hjb.n_substeps)"
    too_few_terms = 'the horizon is too stiff for the chosen terms: raise n_squarings or n_substeps, or scheme = "auto"'
    clamp_binds = 'a depth limit binds, so a linear scheme does not apply: use scheme = "explicit"'
    unequal_decay = 'bid and ask decay differ, so a linear scheme does not apply: use scheme = "explicit"'
    not_converged = "the iteration did not converge: check for covariates without events or collinear covariates"


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
