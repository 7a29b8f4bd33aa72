"""Many parameter sets at once: rows of like stiffness share a scheme, the batch lies in the trailing axis."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mfamm_jax.models.intensity import ExponentialIntensity
from mfamm_jax.results import RESULTS, Solution
from mfamm_jax.solvers.hjb.choose import choose_scheme, fill_rates, general_scheme, linear_norms
from mfamm_jax.solvers.hjb.problem import AbstractScheme, Grid, HJBProblem, solve_hjb

# Rows of a bucket differ in stiffness by at most this factor.
BUCKET = {"linear": 2.0, "general": 4.0}
# Rows solved together: vectors of a step stay in the cache of a core; an accelerator wants them all.
CHUNK_ROWS = {"cpu": 512}
SHARED_STATS = ("residual", "concavity_violation", "monotonicity_violation", "clamp_activity")


def solve_sweep(problems: HJBProblem, grid: Grid, chunk_rows: int | None = None) -> tuple[Solution, list[str]]:
    """Solves every row of a batch of concrete problems by the cheapest scheme that is right for it.

    Rows with one decay first take the linear path; those where a depth limit then turns out to bind are solved again by steps.
    Rows are independent: what else is in the batch changes a row by rounding only, and a row that fails says so in its own
    `result`. Runs on the host and compiles once per bucket; for gradients map `solve_hjb` instead.

    Args:
        problems: Shape (row,) for the parameters that differ, the others scalars.
        grid: Shared by all rows.
        chunk_rows: Rows solved together; default 512 on a CPU, 65536 elsewhere.

    Returns:
        `Solution` whose arrays end with the row, and one sentence per bucket.
    """
    n_rows = _n_rows(problems)
    leaves, tree = jax.tree.flatten(problems)
    # One array: a chunk is one copy to the device.
    numbers = np.stack([np.broadcast_to(np.asarray(x), (n_rows,)) for x in leaves])
    rows = jax.tree.unflatten(tree, list(numbers))
    chunk_rows = chunk_rows or CHUNK_ROWS.get(jax.default_backend(), 65536)
    limits = np.stack([rows.min_depth, rows.max_depth])
    finite = np.isfinite(numbers).sum(axis=0) == len(leaves) - np.isinf(limits).sum(axis=0)
    out, said = None, []

    def solve(kind: str, stiffness: np.ndarray, chosen: np.ndarray) -> None:
        nonlocal out
        levels = np.ceil(np.log(np.maximum(stiffness[chosen], 1.0)) / np.log(BUCKET[kind]))
        for level in np.unique(levels):
            index = chosen[levels == level]
            batch = jax.tree.unflatten(tree, list(numbers[:, index]))
            if kind == "linear":
                # As if there were no limits: whether one binds is seen afterwards.
                infinite = np.full(index.size, np.inf)
                batch = eqx.tree_at(lambda p: (p.min_depth, p.max_depth), batch, (-infinite, infinite))
            scheme, why = (choose_scheme if kind == "linear" else general_scheme)(batch, grid)
            out = _solve_bucket(numbers, tree, scheme, grid, index, chunk_rows, out)
            said.append(f"{index.size} rows: {why}")

    everything = np.flatnonzero(finite)
    exponential = all(isinstance(side, ExponentialIntensity) for side in (rows.bid, rows.ask))
    if exponential:
        linear = finite & (rows.bid.decay == rows.ask.decay)
        solve("linear", linear_norms(rows, grid), np.flatnonzero(linear))
        again = ~linear & finite
        if out is not None:
            again |= linear & (_code(out.result) == _code(RESULTS.clamp_binds))
        solve(
            "general",
            np.broadcast_to(fill_rates(rows, grid.max_inventory) * rows.horizon, n_rows),
            np.flatnonzero(again),
        )
    else:
        solve("general", np.ones(n_rows), everything)
    if out is None:
        raise ValueError("no row of problems has finite parameters")
    code = _code(out.result)
    code[~finite] = int(_code(RESULTS.nonfinite))
    for leaf in jax.tree.leaves((out.value.relative_value, out.value.offset)):
        leaf[..., ~finite] = np.nan
    return jax.tree.map(jnp.asarray, out), said


def _n_rows(problems: HJBProblem) -> int:
    shapes = {np.shape(x) for x in jax.tree.leaves(problems)} - {()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise ValueError(
            f"solve_sweep needs parameters of one shape (row,) or scalars, got shapes {sorted(shapes)}; for curves with arrays of "
            "their own (tables) use jax.vmap of solve_hjb"
        )
    return next(iter(shapes))[0]


def _code(result: RESULTS) -> np.ndarray:
    return jax.tree.leaves(result)[0]


@eqx.filter_jit
def _solve_chunk(numbers: Array, tree: Any, scheme: AbstractScheme, grid: Grid) -> Solution:
    problem = jax.tree.unflatten(tree, list(numbers))
    solution = solve_hjb(problem, scheme, grid)
    solution = Solution(solution.value, solution.result, {name: solution.stats[name] for name in SHARED_STATS})
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (*x.shape[:-1], numbers.shape[1])), solution)


def _solve_bucket(
    numbers: np.ndarray, tree: Any, scheme: AbstractScheme, grid: Grid, index: np.ndarray, chunk_rows: int, out: Any
) -> Any:
    """Solves the rows of `index` in chunks of one shape and writes them into `out`."""
    size = min(chunk_rows, 1 << (index.size - 1).bit_length())
    chunks = [index[first : first + size] for first in range(0, index.size, size)]
    # The last chunk is filled up by repeating a row: one shape, one compile. Dispatch runs ahead of the copying.
    padded = [np.concatenate([chunk, np.repeat(chunk[:1], size - chunk.size)]) for chunk in chunks]
    solved = [_solve_chunk(jnp.asarray(numbers[:, chunk]), tree, scheme, grid) for chunk in padded]
    if out is None:
        out = jax.tree.map(lambda x: np.zeros((*x.shape[:-1], numbers.shape[1]), x.dtype), solved[0])
    for chunk, solution in zip(chunks, solved, strict=True):
        for everything, part in zip(jax.tree.leaves(out), jax.tree.leaves(solution), strict=True):
            everything[..., chunk] = np.asarray(part)[..., : chunk.size]
    return out
