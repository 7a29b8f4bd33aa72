"""What the time-stepping schemes share: start and table in the gauge, the largest defect of a step."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfamm_jax.results import RESULTS, Solution, when
from mfamm_jax.solvers.hjb.certificates import certificates, over_states
from mfamm_jax.solvers.hjb.problem import AbstractProblem, ValueTable


def gauged_start(
    problem: AbstractProblem, grid: Any, start: Float[Array, "inventory *rest"] | None
) -> tuple[Float[Array, "inventory *rest"], Float[Array, "*batch"]]:
    """Relative value and offset with no time left, in the full shape and dtype of a step."""
    start = problem.terminal_value(grid) if start is None else start
    start = start + jnp.zeros_like(problem.value_rate(start) * problem.horizon)
    first = problem.gauge(start)
    return start - first, first


def gauged_rate(
    problem: AbstractProblem, relative: Float[Array, "inventory *rest"]
) -> tuple[Float[Array, "inventory *rest"], Float[Array, "*batch"]]:
    """Rates of the relative value and of the offset."""
    rate = problem.value_rate(relative)
    offset = problem.gauge(rate)
    return rate - offset, offset


def stepped_solution(
    problem: AbstractProblem,
    grid: Any,
    start: tuple,
    rows: tuple,
    last_step: tuple | None,
    result: RESULTS,
    stats: dict,
) -> Solution:
    """Table from its rows; `last_step` is (relative value before, after, duration) of one step at the end, if known."""
    relative = jnp.concatenate([start[0][None], rows[0]])
    offset = jnp.concatenate([start[1][None], rows[1]])
    times = jnp.linspace(0.0, 1.0, grid.n_steps + 1)
    table = ValueTable(jnp.multiply.outer(times, problem.horizon), relative, offset)
    finite = over_states(jnp.all, problem, jnp.isfinite(relative)) & jnp.isfinite(offset).all(axis=0)
    result = when(finite, result, RESULTS.nonfinite)
    if last_step is not None:
        stats["residual"] = defect(problem, *last_step)
    return Solution(table, result, stats | certificates(problem, table))


def defect(
    problem: AbstractProblem,
    before: Float[Array, "inventory *rest"],
    after: Float[Array, "inventory *rest"],
    step: Float[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """Largest violation of the equation [price/s], by the cubic through both ends of a step, in its middle."""
    problem, before, after, step = jax.lax.stop_gradient((problem, before, after, step))
    first, last = gauged_rate(problem, before)[0], gauged_rate(problem, after)[0]
    middle = 0.5 * (before + after) + step / 8 * (first - last)
    slope = 1.5 * (after - before) / step - 0.25 * (first + last)
    return over_states(jnp.max, problem, jnp.abs(slope - gauged_rate(problem, middle)[0]))
