"""The spline flow of losses (18) on one core: log density, its gradient and sampling, against distrax.

    uv run --extra full python benchmarks/bench_flow.py

Four rational-quadratic layers of 16 bins, 100,000 losses, float32 and float64, the same knots in both; the base is normal there and Student's t
here, because distrax has no other. The last row is eight laws of 12,500 losses each under vmap. Compile time is printed apart and not counted.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import time

import distrax
import jax
import jax.numpy as jnp
from machine import write_results

from mfamm_jax.models import student_t
from mfamm_jax.models.loss_flow import LossFlow, first_flow

N, LAYERS, BINS, BOUND, REPEATS = 100_000, 4, 16, 5.0, 7


def measure(function, *arguments):
    """Least CPU and wall milliseconds of a call, and what the first one took beyond them."""
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    first = time.perf_counter() - start
    cpu, wall = [], []
    for _ in range(REPEATS):
        a, b = time.process_time(), time.perf_counter()
        jax.block_until_ready(function(*arguments))
        cpu.append(time.process_time() - a)
        wall.append(time.perf_counter() - b)
    return {
        "cpu_ms": round(min(cpu) * 1e3, 3),
        "wall_ms": round(min(wall) * 1e3, 3),
        "compile_s": round(first - min(wall), 2),
    }


def theirs(numbers):
    splines = [distrax.RationalQuadraticSpline(p, -BOUND, BOUND, boundary_slopes="identity") for p in numbers]
    return distrax.Transformed(distrax.Normal(jnp.zeros(()), jnp.ones(())), distrax.Chain(splines[::-1]))


def main():
    rows = []
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            losses = student_t.sample(jax.random.key(0), jnp.asarray(3.0), N)
            start = first_flow(losses, n_layers=LAYERS, n_bins=BINS, bound=BOUND)
            ours = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape, x.dtype), start)
            numbers = 0.1 * jax.random.normal(jax.random.key(2), (LAYERS, 3 * BINS + 1))
            eight = jax.tree.map(lambda x: jnp.stack([x * (1 + 0.01 * i) for i in range(8)]), (ours, numbers))
            parts = losses.reshape(8, -1)
            tasks = {
                "log density": (
                    (LossFlow.log_density, ours, losses),
                    (lambda p, x: theirs(p).log_prob(x), numbers, losses),
                ),
                "gradient of its mean": (
                    (jax.grad(lambda f, x: jnp.mean(f.log_density(x))), ours, losses),
                    (jax.grad(lambda p, x: jnp.mean(theirs(p).log_prob(x))), numbers, losses),
                ),
                "samples": (
                    (lambda f, k: f.sample(k, N), ours, jax.random.key(3)),
                    (lambda p, k: theirs(p).sample(seed=k, sample_shape=(N,)), numbers, jax.random.key(3)),
                ),
                "log density, 8 laws": (
                    (jax.vmap(LossFlow.log_density), eight[0], parts),
                    (jax.vmap(lambda p, x: theirs(p).log_prob(x)), eight[1], parts),
                ),
            }
            for what, (mine, other) in tasks.items():
                pair = []
                for who, (function, *arguments) in (("ours", mine), ("distrax", other)):
                    row = {"what": what, "who": who, "dtype": dtype, "n": N, **measure(jax.jit(function), *arguments)}
                    print(row, flush=True)
                    pair.append(row)
                pair[0]["times_distrax"] = round(pair[1]["cpu_ms"] / pair[0]["cpu_ms"], 1)
                rows += pair
    print({f"{r['what']}, {r['dtype']}": r["times_distrax"] for r in rows if "times_distrax" in r})
    write_results("flow", rows)


if __name__ == "__main__":
    main()
