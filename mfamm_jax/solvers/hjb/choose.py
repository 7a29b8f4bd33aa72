"""Which scheme fits a problem, or a whole batch of problems, and why."""

from math import ceil, log2

import numpy as np

from mfamm_jax.models.intensity import ExponentialIntensity
from mfamm_jax.solvers.hjb.explicit import ExplicitRK
from mfamm_jax.solvers.hjb.problem import AbstractScheme, Grid, HJBProblem
from mfamm_jax.solvers.hjb.uniformization import (
    SQUARING_NORM,
    TaylorAction,
    Uniformization,
    terms_for,
)

# A Taylor sum of this norm stays below float32's largest number and needs about two terms per unit of norm.
ACTION_NORM = 64.0
# E-folds that may separate the largest and the smallest value before the smallest one loses digits.
LOG_RANGE = {"float32": 80.0, "float64": 690.0}
# Runge-Kutta steps are chosen so that step times fill rate stays below this: local error about (1/4)^5/120.
RATE_STEP = 0.25


def fill_rate_bound(problem: HJBProblem, grid: Grid) -> float:
    r"""Upper estimate of the optimal policy's total fill rate [1/s] over a batch.

    Without a lower depth limit the rate at the inventory limit grows until it carries the penalty away: the fluid solution
    gives $e^{k|H_q|} \le 2(1 + \phi Q^2 e k/(2\Lambda))$, hence a rate of $2\Lambda/e + k(\phi Q^2 + |\mu| Q)$, and at the horizon
    the terminal penalty's slope gives $(\Lambda/e)\,e^{k\alpha(2Q-1)}$.
    """
    q = grid.max_inventory
    total = np.zeros(())
    for side in (problem.bid, problem.ask):
        if not isinstance(side, ExponentialIntensity):
            raise ValueError(f"no fill-rate bound for {type(side).__name__}: give the scheme and its steps explicitly")
        scale, decay = np.asarray(side.scale, float), np.asarray(side.decay, float)
        penalty = np.asarray(problem.inventory_penalty) * q**2 + np.abs(np.asarray(problem.drift)) * q
        steep = decay * np.asarray(problem.terminal_penalty) * (2 * q - 1)
        free = np.maximum(2 * scale / np.e + decay * penalty, scale * np.exp(np.minimum(steep, 60.0) - 1))
        limited = scale * np.exp(np.minimum(-decay * np.asarray(problem.min_depth, float), 60.0))
        total = total + np.minimum(free, limited)
    return float(np.max(total))


def _linear_norm(problem: HJBProblem, grid: Grid) -> float:
    """Largest shifted norm of A times the horizon over a batch."""
    decay, q = np.asarray(problem.ask.decay), grid.max_inventory
    spread = decay * (np.asarray(problem.inventory_penalty) * q**2 + 2 * np.abs(np.asarray(problem.drift)) * q)
    flows = np.asarray(problem.ask.scale) + np.asarray(problem.bid.scale)
    costs = np.minimum(np.asarray(problem.bid_adverse_selection), np.asarray(problem.ask_adverse_selection))
    coupling = flows * np.exp(-1.0 - decay * np.minimum(costs, 0.0))
    return float(np.max((spread + coupling) * np.asarray(problem.horizon)))


def _log_range(problem: HJBProblem, grid: Grid) -> float:
    r"""Upper estimate of $k (H(0) - H(\pm Q))$, the e-folds that v spans.

    The penalties paid over the horizon, or the stationary sum of $k (H(q-1) - H(q)) \le
    \mathrm{arccosh}(1 + e k \phi q^2/(2\Lambda))$, where the fill rates carry the penalty away.
    """
    decay, q = np.asarray(problem.ask.decay, float)[..., None], np.arange(1, grid.max_inventory + 1)
    slope = np.abs(np.asarray(problem.drift, float))[..., None]
    penalty = np.asarray(problem.inventory_penalty, float)[..., None] * q**2 + slope * q
    scale = np.minimum(np.asarray(problem.bid.scale, float), np.asarray(problem.ask.scale, float))[..., None]
    stationary = np.sum(np.arccosh(1 + np.e * decay * penalty / (2 * scale)), axis=-1)
    paid = (decay * penalty)[..., -1] * np.asarray(problem.horizon)
    terminal = decay[..., 0] * np.asarray(problem.terminal_penalty) * grid.max_inventory**2
    return float(np.max(np.minimum(paid, stationary) + terminal))


def _action_norm_in_logarithms(problem: HJBProblem, grid: Grid) -> float:
    """As `_linear_norm`; in logarithms the off-diagonals are the optimal policy's fill rates."""
    decay, q = np.asarray(problem.ask.decay), grid.max_inventory
    spread = decay * (np.asarray(problem.inventory_penalty) * q**2 + 2 * np.abs(np.asarray(problem.drift)) * q)
    return float(np.max((spread + fill_rate_bound(problem, grid)) * np.asarray(problem.horizon)))


def choose_scheme(
    problem: HJBProblem, grid: Grid, wanted: type[AbstractScheme] | None = None
) -> tuple[AbstractScheme, str]:
    """Scheme for concrete parameters; a batch (leading axes) gets one scheme that serves every row.

    Args:
        problem: Concrete (not traced) parameters.
        grid: Of the answer.
        wanted: Use this scheme and only choose its steps.

    Returns:
        The scheme and one sentence that says why.
    """
    if not isinstance(problem, HJBProblem):
        kind = type(problem).__name__
        raise ValueError(f"no choice for a {kind} yet: give ExplicitRK(n_substeps) and look at stats['rate_step']")
    reason = "asked for" if wanted is ExplicitRK else _why_not_linear(problem)
    if reason:
        if wanted in (TaylorAction, Uniformization):
            raise ValueError(f'{wanted.__name__} cannot solve this problem: {reason}; use scheme = "explicit"')
        bound = fill_rate_bound(problem, grid)
        steps = max(ceil(bound * float(np.max(problem.horizon)) / grid.n_steps / RATE_STEP), 4)
        return ExplicitRK(steps), f"explicit Runge-Kutta, {steps} steps a row: {reason}"
    span = _log_range(problem, grid)
    if wanted is not Uniformization and span > LOG_RANGE[np.asarray(problem.horizon).dtype.name]:
        norm = _action_norm_in_logarithms(problem, grid) / grid.n_steps
        substeps = max(ceil(norm / ACTION_NORM), 1)
        terms = terms_for(norm / substeps)
        why = f"Taylor action in logarithms, {substeps} x {terms} terms a row: values may span {span:.0f} e-folds"
        return TaylorAction(substeps, terms, in_logarithms=True), why
    norm = _linear_norm(problem, grid) / grid.n_steps
    size = 2 * grid.max_inventory + 1
    substeps = max(ceil(norm / ACTION_NORM), 1)
    terms = terms_for(norm / substeps)
    squarings = max(ceil(log2(max(norm / SQUARING_NORM, 1.0))), 0)
    # Measured on a CPU core for 11 to 61 inventories: both kinds of products cost the same per operation.
    action_cost = grid.n_steps * substeps * terms * 7 * size
    squaring_cost = 24 * 7 * size**2 + squarings * 2 * size**3 + grid.n_steps * 2 * size**2
    if wanted is TaylorAction or (wanted is None and action_cost <= squaring_cost):
        why = "asked for" if wanted else "equal decay, no depth limit, cheaper than squaring"
        return TaylorAction(substeps, terms), f"Taylor action, {substeps} x {terms} terms a row: {why}"
    why = "asked for" if wanted else "equal decay, no depth limit, cheaper than Taylor sums"
    scheme = Uniformization(squarings, terms_for(SQUARING_NORM))
    return scheme, f"uniformisation, {squarings} squarings: {why}"


def _why_not_linear(problem: HJBProblem) -> str:
    if not (isinstance(problem.bid, ExponentialIntensity) and isinstance(problem.ask, ExponentialIntensity)):
        return "the fill curve is not exponential"
    if np.any(np.asarray(problem.bid.decay) != np.asarray(problem.ask.decay)):
        return "bid and ask decay differ"
    if np.any(np.isfinite(problem.min_depth)) or np.any(np.isfinite(problem.max_depth)):
        return "depths are limited"
    return ""
