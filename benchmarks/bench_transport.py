"""Entropic transport (15) on one core: milliseconds per Sinkhorn iteration, of the value's gradient, and of batches, against ott-jax and POT.

    uv run --extra full --extra bench python benchmarks/bench_transport.py

Points in the unit square, squared distances, lambda = 0.05 of the mean cost, equal masses. Every method runs the same fixed number of
iterations with its convergence checks at the same spacing, so that a row is the price of an iteration; the last column says how far
its value is from POT's in float64 after as many. Compile time is printed apart and not counted.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import warnings

warnings.simplefilter("ignore")  # ott-jax announces the retirement of jaxopt

import jax
import jax.numpy as jnp
import numpy as np
import ot
from machine import compiled, timed, write_results
from ott.geometry.geometry import Geometry
from ott.problems.linear.linear_problem import LinearProblem
from ott.solvers.linear.sinkhorn import Sinkhorn

from mfamm_jax.solvers.sinkhorn import BLOCK
from mfamm_jax.solvers.transport import solve_transport

SIZES, ITERATIONS = (256, 512, 1024, 2048), 200
BATCH, BATCH_SIZES = 1024, (8, 32)


def problem(n, dtype, seed=0):
    """Costs, masses and lambda."""
    rng = np.random.default_rng(seed)
    x, y = rng.random((n, 2)), rng.random((n, 2))
    cost = ((x[:, None] - y[None]) ** 2).sum(-1)
    masses = np.full(n, 1 / n)
    return cost.astype(dtype), masses.astype(dtype), masses.astype(dtype), float(0.05 * cost.mean())


def ours(cost, source, sink, scale):
    """Value after exactly `ITERATIONS`, without annealing."""
    start = jnp.zeros_like(sink)
    return solve_transport(
        cost, source, sink, scale, tolerance=-1.0, max_iterations=ITERATIONS, start=start
    ).value.value


def by_ott(cost, source, sink, scale):
    """The same by ott-jax in logarithms."""
    solver = Sinkhorn(threshold=-1.0, max_iterations=ITERATIONS, min_iterations=ITERATIONS, inner_iterations=BLOCK)
    return solver(LinearProblem(Geometry(cost_matrix=cost, epsilon=scale), source, sink)).reg_ot_cost


def by_pot(source, sink, cost, scale):
    """The plan by POT in its kernel form."""
    return ot.sinkhorn(source, sink, cost, scale, numItermax=ITERATIONS, stopThr=-1.0, warn=False)


def main():
    """Prints and writes the table."""
    rows = []

    def add(what, n, dtype, seconds, compile_s, error=None, **more):
        row = {
            "what": what,
            "n": n,
            "dtype": dtype,
            **more,
            "cpu_ms_per_iteration": round(1e3 * float(seconds[0]) / ITERATIONS, 4),
        }
        row |= {
            "wall_ms_per_iteration": round(1e3 * float(seconds[1]) / ITERATIONS, 4),
            "compile_s": round(compile_s, 2),
        }
        rows.append(row if error is None else row | {"relative_error": float(f"{error:.1e}")})
        print(rows[-1])

    for n in SIZES:
        wide = problem(n, "float64")
        plan = by_pot(wide[1], wide[2], wide[0], wide[3])
        product = wide[1][:, None] * wide[2][None]
        expected = float(np.sum(plan * wide[0]) + wide[3] * np.sum(plan * np.log(np.maximum(plan, 1e-300) / product)))
        for dtype in ("float32", "float64"):
            with jax.enable_x64(dtype == "float64"):
                cost, source, sink, scale = problem(n, dtype)
                arguments = jnp.asarray(cost), jnp.asarray(source), jnp.asarray(sink), jnp.asarray(scale, dtype)
                for what, function in (("ours", ours), ("ott-jax, logarithms", by_ott)):
                    run, compile_s = compiled(function, *arguments)
                    error = abs(float(run(*arguments)) / expected - 1)
                    add(what, n, dtype, timed(lambda r=run, a=arguments: r(*a)), compile_s, error)
                    run, compile_s = compiled(jax.value_and_grad(function), *arguments)
                    add(f"{what}, with gradient", n, dtype, timed(lambda r=run, a=arguments: r(*a)), compile_s)
                if n <= 1024:
                    seconds = timed(lambda p=(source, sink, cost, scale): by_pot(*p), 2)
                    add("POT, kernel", n, dtype, seconds, 0.0)
        if n <= 1024:
            cost, source, sink, _ = problem(n, "float64")
            seconds = timed(lambda c=cost, s=source, t=sink: ot.emd2(s, t, c), 2)
            rows.append(
                {"what": "POT, exact linear programme, in all", "n": n, "wall_ms": round(1e3 * float(seconds[1]), 2)}
            )
            print(rows[-1])

    for n in BATCH_SIZES:
        with jax.enable_x64(False):
            problems = [problem(n, "float32", seed) for seed in range(BATCH)]
            arguments = [jnp.asarray(np.stack(x), dtype=jnp.float32) for x in zip(*problems)]
            for what, function in (("ours", ours), ("ott-jax, logarithms", by_ott)):
                run, compile_s = compiled(jax.vmap(function), *arguments)
                add(
                    f"{what}, {BATCH} problems at once",
                    n,
                    "float32",
                    timed(lambda r=run, a=arguments: r(*a)),
                    compile_s,
                )
    write_results("transport", rows)


if __name__ == "__main__":
    main()
