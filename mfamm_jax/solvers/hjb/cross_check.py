"""diffrax on the same problem object: an independent answer, and a scheme for exotic dynamics. Not made for sweeps."""

from typing import Any, Literal

import diffrax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfamm_jax.fields import real_field, static_field
from mfamm_jax.results import RESULTS, Solution, when
from mfamm_jax.solvers.hjb.problem import AbstractProblem, AbstractScheme
from mfamm_jax.solvers.hjb.steps import gauged_rate, gauged_start, stepped_solution

SOLVERS = {"tsit5": diffrax.Tsit5, "kvaerno5": diffrax.Kvaerno5}


class Diffrax(AbstractScheme):
    """Adaptive Runge-Kutta of diffrax: Tsit5 for mild problems, Kvaerno5 (implicit, dense Newton) for stiff ones.

    Differentiable in reverse mode.

    Args:
        method: Which.
        rtol: Relative tolerance of the value.
        atol: Absolute tolerance of the value [price lot].
        max_steps: Of the whole solve.
    """

    method: Literal["tsit5", "kvaerno5"] = static_field(default="tsit5", help="explicit or implicit")
    rtol: Float[Array, ""] = real_field(default=1e-8, lower=0.0, help="relative tolerance")
    atol: Float[Array, ""] = real_field(default=1e-8, lower=0.0, unit="price lot", help="absolute tolerance")
    max_steps: int = static_field(default=16384, lower=1, help="steps of the whole solve")

    def solve(
        self, problem: AbstractProblem, grid: Any, start: Float[Array, "inventory *rest"] | None = None
    ) -> Solution:
        """Relative value and offset as one system of ordinary differential equations."""
        first = gauged_start(problem, grid, start)
        # Time as a share of the horizon, so that the horizon may be differentiated.
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda _, y, __: tuple(problem.horizon * rate for rate in gauged_rate(problem, y[0]))),
            SOLVERS[self.method](),
            t0=0.0,
            t1=1.0,
            dt0=None,
            y0=first,
            saveat=diffrax.SaveAt(ts=jnp.linspace(0.0, 1.0, grid.n_steps + 1)[1:]),
            stepsize_controller=diffrax.PIDController(rtol=self.rtol, atol=self.atol),
            max_steps=self.max_steps,
            throw=False,
        )
        ended = solution.result == diffrax.RESULTS.successful
        counts = solution.stats
        stats = {"n_steps": counts["num_accepted_steps"], "n_rejected": counts["num_rejected_steps"]}
        stepped = stepped_solution(problem, grid, first, solution.ys, None, RESULTS.successful, stats)
        # Rows that were not reached are infinite: say why.
        return Solution(stepped.value, when(ended, stepped.result, RESULTS.max_steps_reached), stepped.stats)
