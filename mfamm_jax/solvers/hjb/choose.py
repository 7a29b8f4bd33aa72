"""Which scheme fits a problem, or a whole batch of problems, and why."""

from math import ceil, log2
from typing import Any

import jax
import numpy as np

from mfamm_jax.models.intensity import ExponentialIntensity
from mfamm_jax.solvers.hjb.ergodic import Ergodic
from mfamm_jax.solvers.hjb.explicit import ExplicitRK
from mfamm_jax.solvers.hjb.han_wong import HanWong
from mfamm_jax.solvers.hjb.implicit import Implicit
from mfamm_jax.solvers.hjb.linear import terms_for
from mfamm_jax.solvers.hjb.problem import AbstractProblem, AbstractScheme, HJBProblem
from mfamm_jax.solvers.hjb.states import BoxGrid, MultiAssetProblem, RegimeProblem
from mfamm_jax.solvers.hjb.strang import Strang
from mfamm_jax.solvers.hjb.uniformization import SQUARING_NORM, TaylorAction, Uniformization

# A Taylor sum of this norm stays below float32's largest number and needs about two terms per unit of norm.
ACTION_NORM = 64.0
# E-folds that may separate the largest and the smallest value before the smallest one loses digits.
LOG_RANGE = {"float32": 80.0, "float64": 690.0}
# Runge-Kutta steps are chosen so that step times fill rate stays below this: local error about 0.4^5/120, 1e-4 of a fill.
RATE_STEP = 0.4
# More explicit steps than this are slower than implicit ones, which may be this much longer.
MOST_EXPLICIT_STEPS = 4000
IMPLICIT_RATE_STEP = 8.0
# A splitting step costs as much as this many explicit ones (6 regimes, 21 inventories, one CPU core).
EXPLICIT_STEPS_PER_SPLIT = 2.0
# Changes of regime per splitting step.
SWITCHES_PER_STEP = 0.03
# Squarings double the rounding of float32; Taylor sums beyond this many cost more than adaptive steps.
MOST_SQUARINGS = {"float32": 8, "float64": 1000}
MOST_SUMS = 1000
# A scheme of more steps than this is refused: its solve would not come back.
MOST_STEPS = 10_000_000


def fill_rates(problem: HJBProblem, max_inventory: int) -> np.ndarray:
    r"""Upper estimate of the optimal policy's total fill rate [1/s], one per row of a batch.

    Without a lower depth limit the rate at the inventory limit grows until it carries the penalty away: the fluid solution
    gives $e^{k|H_q|} \le 2(1 + \phi Q^2 e k/(2\Lambda))$, hence a rate of $2\Lambda/e + k(\phi Q^2 + |\mu| Q)$, and at the horizon
    the terminal penalty's slope gives $(\Lambda/e)\,e^{k\alpha(2Q-1)}$.
    """
    q = max_inventory
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
    return np.asarray(total)


def linear_norms(problem: HJBProblem, grid: Any) -> np.ndarray:
    """Shifted norm of A times the horizon."""
    decay, q = np.asarray(problem.ask.decay), grid.max_inventory
    spread = decay * (np.asarray(problem.inventory_penalty) * q**2 + 2 * np.abs(np.asarray(problem.drift)) * q)
    flows = np.asarray(problem.ask.scale) + np.asarray(problem.bid.scale)
    costs = np.minimum(np.asarray(problem.bid_adverse_selection), np.asarray(problem.ask_adverse_selection))
    coupling = flows * np.exp(-1.0 - decay * np.minimum(costs, 0.0))
    return np.asarray((spread + coupling) * np.asarray(problem.horizon))


def _log_range(problem: HJBProblem, grid: Any) -> np.ndarray:
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
    return np.asarray(np.minimum(paid, stationary) + terminal)


def _action_norm_in_logarithms(problem: HJBProblem, grid: Any) -> np.ndarray:
    """As `_linear_norm`; in logarithms the off-diagonals are the optimal policy's fill rates."""
    decay, q = np.asarray(problem.ask.decay), grid.max_inventory
    spread = decay * (np.asarray(problem.inventory_penalty) * q**2 + 2 * np.abs(np.asarray(problem.drift)) * q)
    return np.asarray((spread + fill_rates(problem, q)) * np.asarray(problem.horizon))


def choose_scheme(
    problem: AbstractProblem, grid: Any, wanted: type[AbstractScheme] | None = None
) -> tuple[AbstractScheme, str]:
    """Scheme for concrete parameters; a batch (any axes) gets one scheme that serves every row.

    Args:
        problem: Concrete (not traced) parameters.
        grid: Of the answer.
        wanted: Use this scheme and only choose its steps.

    Returns:
        The scheme and one sentence that says why.
    """
    if isinstance(problem, RegimeProblem) or wanted is Strang:
        return _for_regimes(problem, grid, wanted)
    if isinstance(problem, MultiAssetProblem):
        _allow(problem, wanted, ExplicitRK)
        return _explicit(problem, grid, "several assets")
    if not isinstance(problem, HJBProblem):
        raise ValueError(f"no choice for a {type(problem).__name__}: give ExplicitRK(n_substeps) or Diffrax()")
    if wanted is HanWong:
        return _adaptive(problem, "asked for")
    if wanted is Ergodic:
        return Ergodic(), "asked for"
    if wanted not in (None, ExplicitRK, Implicit, TaylorAction, Uniformization):
        raise ValueError(f"{wanted.__name__} has no steps to choose: build it yourself")
    reason = "asked for" if wanted in (ExplicitRK, Implicit) else why_not_linear(problem)
    if wanted in (TaylorAction, Uniformization) and reason:
        raise ValueError(f'{wanted.__name__} cannot solve this problem: {reason}; use scheme = "explicit"')
    if reason:
        return general_scheme(problem, grid, wanted, reason)
    return _linear(problem, grid, wanted)


def _allow(problem: AbstractProblem, wanted: type[AbstractScheme] | None, *fitting: type[AbstractScheme]) -> None:
    if wanted is not None and wanted not in fitting:
        names = " or ".join(scheme.__name__ for scheme in fitting)
        raise ValueError(f"{wanted.__name__} does not solve a {type(problem).__name__}: use {names}")


def _explicit_steps(problem: AbstractProblem, grid: Any) -> int:
    steps = exit_rate_bound(problem, grid) * float(np.max(problem.horizon)) / grid.n_steps / RATE_STEP
    return max(ceil(min(steps, 1e18)), 4)


def _possible(steps: int, grid: Any) -> int:
    if steps * grid.n_steps > MOST_STEPS:
        raise ValueError(
            f"{steps * grid.n_steps:.3g} equal steps would be needed: the penalties move quotes too fast. Lower terminal_penalty, inventory_penalty (risk_aversion) "
            'or max_inventory, or raise min_depth; from Python HanWong and Diffrax("tsit5") choose their own steps'
        )
    return steps


def _explicit(problem: AbstractProblem, grid: Any, reason: str) -> tuple[AbstractScheme, str]:
    steps = _possible(_explicit_steps(problem, grid), grid)
    return ExplicitRK(steps), f"explicit Runge-Kutta, {steps} steps a row: {reason}"


def exit_rate_bound(problem: AbstractProblem, grid: Any) -> float:
    """Upper estimate [1/s] of the rate at which any state of any row is left under the optimal quotes."""
    if isinstance(problem, RegimeProblem):
        switching = float(np.max(-np.diagonal(np.asarray(problem.generator), axis1=-2, axis2=-1)))
        return switching + exit_rate_bound(problem.regimes, grid)
    if isinstance(problem, MultiAssetProblem) and isinstance(grid, BoxGrid):
        # Near the corner of the box one fill saves at most the asset's own share of the joint penalty.
        joint = np.abs(np.asarray(problem.penalty_matrix)) @ np.asarray(grid.max_inventories, float)
        total = 0.0
        for asset, q, share in zip(problem.assets, grid.max_inventories, joint, strict=True):
            decay = max(float(np.max(side.decay)) for side in (asset.bid, asset.ask))
            total += float(np.max(fill_rates(asset, q))) + 2 * decay * share * q
        return total
    return float(np.max(fill_rates(problem, grid.max_inventory)))


def _for_regimes(
    problem: AbstractProblem, grid: Any, wanted: type[AbstractScheme] | None
) -> tuple[AbstractScheme, str]:
    if not isinstance(problem, RegimeProblem):
        raise ValueError(f"Strang splits a RegimeProblem, not a {type(problem).__name__}")
    _allow(problem, wanted, ExplicitRK, Strang)
    exponential = all(isinstance(s, ExponentialIntensity) for s in (problem.regimes.bid, problem.regimes.ask))
    steps = _explicit_steps(problem, grid) if exponential else MOST_EXPLICIT_STEPS
    horizon = float(np.max(problem.horizon)) / grid.n_steps
    switching = float(np.max(-np.diagonal(np.asarray(problem.generator), axis1=-2, axis2=-1)))
    fills = exit_rate_bound(problem.regimes, grid) if exponential else 0.0
    wanted_splits = min(horizon * max(switching / SWITCHES_PER_STEP, fills / IMPLICIT_RATE_STEP), 1e18)
    most = max(MOST_EXPLICIT_STEPS, EXPLICIT_STEPS_PER_SPLIT * wanted_splits * grid.n_steps)
    if wanted is ExplicitRK or (wanted is None and exponential and steps * grid.n_steps < most):
        return _explicit(problem, grid, "asked for" if wanted else "regimes, cheaper than splitting")
    splits = _possible(max(ceil(wanted_splits), 16), grid)
    why = "asked for" if wanted else "regimes, too stiff for explicit steps"
    return Strang(Implicit(1), splits), f"Strang splitting, {splits} implicit steps a row: {why}"


def _adaptive(problem: HJBProblem, reason: str) -> tuple[AbstractScheme, str]:
    # The large coefficients of order 4 multiply the rounding of float32.
    order, rtol = (2, 1e-4) if np.asarray(problem.horizon).dtype == np.float32 else (4, 1e-5)
    return HanWong(rtol, order=order), f"adaptive Han-Wong, order {order}, quotes to {rtol:g} a step: {reason}"


def general_scheme(
    problem: HJBProblem, grid: Any, wanted: type[AbstractScheme] | None = None, reason: str = "not linear"
) -> tuple[AbstractScheme, str]:
    """A scheme that steps through time, for one asset with any fill curves and limits."""
    exponential = all(isinstance(side, ExponentialIntensity) for side in (problem.bid, problem.ask))
    batch = any(np.ndim(x) for x in jax.tree.leaves(problem)) if exponential else bool(np.ndim(problem.horizon))
    if wanted is ExplicitRK:
        return _explicit(problem, grid, reason)
    steps = _explicit_steps(problem, grid) if exponential else MOST_EXPLICIT_STEPS
    if wanted is None and steps * grid.n_steps < MOST_EXPLICIT_STEPS:
        return _explicit(problem, grid, reason)
    if wanted is None and not batch:
        return _adaptive(problem, reason)
    if wanted is Implicit and not exponential:
        raise ValueError(
            "no step count is known for fill curves that are not exponential: give Implicit(n_substeps) itself"
        )
    steps = max(ceil(steps * RATE_STEP / IMPLICIT_RATE_STEP), 16)
    if not exponential or (wanted is None and steps * grid.n_steps > MOST_EXPLICIT_STEPS):
        # Trailing batches stop when all rows have arrived.
        return _adaptive(problem, reason)
    steps = _possible(steps, grid)
    return Implicit(steps), f"implicit steps with policy iteration, {steps} a row: {reason}, long horizon"


def _linear(problem: HJBProblem, grid: Any, wanted: type[AbstractScheme] | None) -> tuple[AbstractScheme, str]:
    span = float(np.max(_log_range(problem, grid)))
    if wanted is not Uniformization and span > LOG_RANGE[np.asarray(problem.horizon).dtype.name]:
        norm = float(np.max(_action_norm_in_logarithms(problem, grid))) / grid.n_steps
        substeps = max(ceil(min(norm / ACTION_NORM, 1e18)), 1)
        if wanted is None and substeps * grid.n_steps > MOST_SUMS:
            return general_scheme(problem, grid, None, f"values may span {span:.0f} e-folds")
        substeps = _possible(substeps, grid)
        terms = terms_for(norm / substeps)
        why = f"Taylor action in logarithms, {substeps} x {terms} terms a row: values may span {span:.0f} e-folds"
        return TaylorAction(substeps, terms, in_logarithms=True), why
    norm = float(np.max(linear_norms(problem, grid))) / grid.n_steps
    size = 2 * grid.max_inventory + 1
    substeps = max(ceil(norm / ACTION_NORM), 1)
    terms = terms_for(norm / substeps)
    squarings = max(ceil(log2(max(norm / SQUARING_NORM, 1.0))), 0)
    if (
        wanted is None
        and squarings > MOST_SQUARINGS[np.asarray(problem.horizon).dtype.name]
        and substeps * grid.n_steps > 100
    ):
        return general_scheme(problem, grid, None, f"{squarings} squarings would cost float32 its digits")
    # Measured on a CPU core for 11 to 61 inventories: both kinds of products cost the same per operation.
    action_cost = grid.n_steps * substeps * terms * 7 * size
    squaring_cost = 24 * 7 * size**2 + squarings * 2 * size**3 + grid.n_steps * 2 * size**2
    if wanted is TaylorAction or (wanted is None and action_cost <= squaring_cost):
        why = "asked for" if wanted else "equal decay, no depth limit, cheaper than squaring"
        return TaylorAction(substeps, terms), f"Taylor action, {substeps} x {terms} terms a row: {why}"
    why = "asked for" if wanted else "equal decay, no depth limit, cheaper than Taylor sums"
    scheme = Uniformization(squarings, terms_for(SQUARING_NORM))
    return scheme, f"uniformisation, {squarings} squarings: {why}"


def why_not_linear(problem: HJBProblem) -> str:
    """Empty if the linear schemes apply."""
    if not (isinstance(problem.bid, ExponentialIntensity) and isinstance(problem.ask, ExponentialIntensity)):
        return "the fill curve is not exponential"
    if np.any(np.asarray(problem.bid.decay) != np.asarray(problem.ask.decay)):
        return "bid and ask decay differ"
    if np.any(np.isfinite(problem.min_depth)) or np.any(np.isfinite(problem.max_depth)):
        return "depths are limited"
    return ""
