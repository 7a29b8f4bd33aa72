"""What a value table proves about itself: shape in inventory and how often a depth limit acts."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mfamm_jax.solvers.hjb.problem import AbstractProblem, HJBProblem, ValueTable, indifference_costs, optimal_depths
from mfamm_jax.solvers.hjb.states import MultiAssetProblem, RegimeProblem


def over_states(reduce: Callable[..., Array], problem: AbstractProblem, x: Array) -> Array:
    """Reduces times and states, keeps the axes of a batch of parameters."""
    return reduce(x, axis=tuple(range(x.ndim - problem.horizon.ndim)))


def assets_of(problem: AbstractProblem) -> list[tuple[int, HJBProblem]]:
    """Quoted assets with the axis of their inventory in a value."""
    if isinstance(problem, MultiAssetProblem):
        return list(enumerate(problem.assets))
    if isinstance(problem, RegimeProblem):
        return [(0, problem.regimes)]
    if isinstance(problem, HJBProblem):
        return [(0, problem)]
    raise ValueError(f"no quoted asset known in {type(problem).__name__}")


def certificates(problem: AbstractProblem, table: ValueTable) -> dict[str, Array]:
    """Largest violations [price] of concavity in each inventory and of quotes monotone in it; share of quotes at a limit.

    Exact solutions are concave in inventory: bids widen and asks narrow as it grows. A violation above rounding means too
    coarse steps, or fill curves whose Hamiltonian is not convex.
    """
    problem, relative = jax.lax.stop_gradient((problem, table.relative_value))
    concavity = monotonicity = at_limit = quoted = jnp.zeros_like(problem.horizon)
    for axis, asset in assets_of(problem):
        axis = axis + 1  # time leads
        bid, ask = optimal_depths(asset, relative, axis)
        size = relative.shape[axis]
        concavity = jnp.maximum(concavity, _most(problem, jnp.diff(relative, n=2, axis=axis)))
        bid, ask = jax.lax.slice_in_dim(bid, 0, size - 1, axis=axis), jax.lax.slice_in_dim(ask, 1, size, axis=axis)
        monotonicity = jnp.maximum(monotonicity, _most(problem, -jnp.diff(bid, axis=axis)))
        monotonicity = jnp.maximum(monotonicity, _most(problem, jnp.diff(ask, axis=axis)))
        costs = indifference_costs(asset, relative, axis)
        for cost, side, depth in zip(costs, ("bid", "ask"), (bid, ask), strict=True):
            # As the margin was clipped: adding the cost would round.
            margin = asset.margin(cost, side)
            limited = (margin <= asset.min_depth - cost) | (margin >= asset.max_depth - cost)
            at_limit = at_limit + over_states(jnp.sum, problem, limited)
            quoted = quoted + over_states(jnp.sum, problem, jnp.isfinite(depth))
    return {
        "concavity_violation": concavity,
        "monotonicity_violation": monotonicity,
        "clamp_activity": at_limit / jnp.maximum(quoted, 1),
    }


def _most(problem: AbstractProblem, x: Array) -> Array:
    """Largest positive entry; unquoted entries do not count, NaN tables are reported by `result`."""
    return over_states(jnp.max, problem, jnp.nan_to_num(jnp.maximum(x, 0.0), nan=0.0)) if x.size else jnp.zeros(())
