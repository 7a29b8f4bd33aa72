"""HJB solves: schemes x precision x batch x inventories, against scipy, jax.scipy, diffrax and `avellaneda-stoikov`, in one run.

    uv run --extra bench python benchmarks/bench_hjb.py

One core for everyone on a CPU. A solve takes the parameters to the value table, its certificates and all quotes. Errors are those
of the quotes [price] on the first 200 sets: against scipy's float64 matrix exponential without depth limits, against diffrax at
1e-9 with a smallest depth. Gradients: value and derivatives in penalty, both intensities, the common decay and the horizon, of
a value at inventory 2, against the time of a solve. Microseconds are CPU time of one core on a CPU, wall time elsewhere.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from machine import write_results

from mfamm_jax import (
    Diffrax,
    ExplicitRK,
    ExponentialIntensity,
    Grid,
    HanWong,
    HJBProblem,
    Implicit,
    TaylorAction,
    Uniformization,
    choose_scheme,
    optimal_depths,
    solve_hjb,
    solve_sweep,
)

DECAY, TERMINAL, MIN_DEPTH, N_PEER = 1.5, 1e-4, 0.55, 200
ON_CPU = jax.default_backend() == "cpu"
# Rows solved together; reverse mode keeps more vectors per row in the cache.
CHUNK, GRADIENT_CHUNK = (512, 128) if ON_CPU else (65536, 65536)


def parameters(n_rows):
    """Risk aversion 0.1 with volatility 0.1 to 0.32, intensities 0.6 to 1.6 on each side."""
    rng = np.random.default_rng(0)
    penalty = np.exp(rng.uniform(np.log(1e-3), np.log(1e-2), 100_000))
    bid, ask = np.exp(rng.uniform(-0.5, 0.5, (2, 100_000)))
    return penalty[:n_rows], bid[:n_rows], ask[:n_rows]


def problem_of(rows, dtype, horizon, min_depth):
    """All rows as one problem with trailing axis."""
    penalty, bid, ask = (jnp.asarray(x, dtype) for x in rows)
    decay, horizon, terminal, low = (jnp.full(penalty.shape, x, dtype) for x in (DECAY, horizon, TERMINAL, min_depth))
    sides = ExponentialIntensity(bid, decay), ExponentialIntensity(ask, decay)
    problem = HJBProblem(*sides, penalty, terminal_penalty=terminal, horizon=horizon, min_depth=low)
    return jax.tree.map(lambda x: jnp.broadcast_to(x, penalty.shape), problem)


def timed(solve, n, repeats=3):
    """Microseconds per set after warming up, best of `repeats`, and seconds of the first call."""
    first = time.perf_counter()
    solve()
    first = time.perf_counter() - first
    best = np.inf, np.inf
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        answer = solve()
        best = min(best, (time.process_time() - cpu, time.perf_counter() - wall))
    seconds = best[0] if ON_CPU else best[1]
    row = {"us_per_set": seconds / n * 1e6, "wall_us_per_set": best[1] / n * 1e6, "first_call_s": first}
    return answer, row


def quotes(problem, relative):
    """Bid and ask depths of the last row of a table, (2, inventory, row)."""
    return np.stack([np.nan_to_num(np.asarray(d, float)) for d in optimal_depths(problem, relative[-1], axis=0)])


def by_chunks(function, problem, size=CHUNK):
    """Calls a jitted function on chunks of rows, as `solve_sweep` does."""
    n = problem.horizon.size
    size = min(size, n)
    parts = [jax.tree.map(lambda x, i=i: x[i : i + size], problem) for i in range(0, n - size + 1, size)]
    left = n % size
    if left:
        parts.append(jax.tree.map(lambda x: x[n - size :], problem))
    return lambda: jax.block_until_ready([function(part) for part in parts])


def gradient_of(scheme, grid):
    """Value and gradients, row by row of a chunk."""
    if isinstance(scheme, TaylorAction):
        scheme = TaylorAction(scheme.n_substeps, scheme.n_terms, scheme.in_logarithms, adjoint=True)

    def value(free, fixed):
        penalty, bid, ask, decay, horizon = free
        sides = ExponentialIntensity(bid, decay), ExponentialIntensity(ask, decay)
        problem = HJBProblem(
            *sides, penalty, terminal_penalty=fixed.terminal_penalty, horizon=horizon, min_depth=fixed.min_depth
        )
        return solve_hjb(problem, scheme, grid).value.initial_value[grid.max_inventory + 2].sum()

    gradient = eqx.filter_jit(
        lambda p: jax.value_and_grad(value)((p.inventory_penalty, p.bid.scale, p.ask.scale, p.bid.decay, p.horizon), p)
    )
    return gradient  # fmt: skip


def one_scheme(scheme, grid, problem, reference):
    """A scheme by itself."""
    solve = eqx.filter_jit(
        lambda p: (s := solve_hjb(p, scheme, grid), optimal_depths(p, s.value.relative_value[-1], 0))
    )
    n = problem.horizon.size
    answer, row = timed(by_chunks(solve, problem), n, 3 if n <= 1000 else 2)
    depths = np.stack([np.nan_to_num(np.asarray(d, float)) for d in answer[0][1]])
    row["max_error"] = float(np.max(np.abs(depths[..., :N_PEER] - reference[..., : depths.shape[-1]])))
    if n == 1000:
        _, gradient = timed(by_chunks(gradient_of(scheme, grid), problem, GRADIENT_CHUNK), n)
        row["gradient_ratio"] = gradient["us_per_set"] / row["us_per_set"]
        row["gradient_first_call_s"] = gradient["first_call_s"]
    return row


def sweep(grid, problem, reference):
    """The sweep entry: bucketed, checked, assembled."""
    n = problem.horizon.size
    (solution, said), row = timed(lambda: jax.block_until_ready(solve_sweep(problem, grid)), n, 2)
    few = jax.tree.map(lambda x: x[:N_PEER], problem)
    depths = quotes(few, solution.value.relative_value[..., :N_PEER])
    row["max_error"] = float(np.max(np.abs(depths - reference)))
    row["clamp_activity"] = float(solution.stats["clamp_activity"].mean())
    row["failed"] = int((np.asarray(jax.tree.leaves(solution.result)[0]) != 0).sum())
    return row | {"buckets": said}


def with_scipy(size, horizon, exponential, rows):
    """The same linear system by a general matrix exponential, row by row."""
    q = np.arange(-size, size + 1.0)
    start = np.exp(-DECAY * TERMINAL * q**2)

    def one(penalty, bid, ask):
        a = np.diag(-DECAY * penalty * q**2)
        a += np.diag(np.full(q.size - 1, ask / np.e), -1) + np.diag(np.full(q.size - 1, bid / np.e), 1)
        rise = np.diff(np.log(exponential(a * horizon) @ start) / DECAY)
        return np.append(1 / DECAY - rise, 0.0), np.append(0.0, 1 / DECAY + rise)

    return lambda: np.moveaxis(np.array([one(*row) for row in zip(*rows, strict=True)]), 0, -1)


def with_jax_expm(size, horizon, rows, dtype):
    """The same by `jax.scipy.linalg.expm`, compiled and mapped."""
    q = jnp.arange(-size, size + 1, dtype=dtype)
    start = jnp.exp(-DECAY * TERMINAL * q**2)
    rows = [jnp.asarray(x, dtype) for x in rows]

    @jax.jit
    @jax.vmap
    def solve(penalty, bid, ask):
        one = jnp.ones(q.size - 1, dtype)
        a = jnp.diag(-DECAY * penalty * q**2) + jnp.diag(one * ask / np.e, -1) + jnp.diag(one * bid / np.e, 1)
        rise = jnp.diff(jnp.log(jax.scipy.linalg.expm(a * horizon) @ start) / DECAY)
        return jnp.stack([jnp.append(1 / DECAY - rise, 0.0), jnp.append(0.0, 1 / DECAY + rise)])

    return lambda: np.moveaxis(np.asarray(jax.block_until_ready(solve(*rows))), 0, -1)


def with_diffrax(grid, problem, method, tolerance):
    """diffrax on the same problem object, compiled and mapped over rows."""
    scheme = Diffrax(method, tolerance, tolerance)

    @jax.jit
    def solve(problem):
        each = jax.vmap(lambda p: optimal_depths(p, solve_hjb(p, scheme, grid).value.relative_value[-1]), 0, -1)
        return each(problem)

    return lambda: np.stack([np.nan_to_num(np.asarray(d)) for d in jax.block_until_ready(solve(problem))])


def with_package(size, horizon, rows):
    """The explicit Euler scheme of `avellaneda-stoikov` with 400 steps a second, stable and right to 1e-3."""
    from avellaneda_stoikov.solver import ASParams, solve_value_function

    def one(penalty, bid, ask):
        parameters = ASParams(
            sigma=0.3,
            lam_plus=float(ask),
            lam_minus=float(bid),
            kappa_plus=DECAY,
            kappa_minus=DECAY,
            phi=float(penalty),
            alpha=TERMINAL,
            q_max=size,
            T=horizon,
            n_steps=int(400 * horizon),
        )
        rise = np.diff(solve_value_function(parameters)[1][0])
        return np.append(1 / DECAY - rise, 0.0), np.append(0.0, 1 / DECAY + rise)

    return lambda: np.moveaxis(np.array([one(*row) for row in zip(*rows, strict=True)]), 0, -1)


def peers(size, horizon, results):
    """References for both problems, and the peers' times on 200 sets."""
    rows, grid = parameters(N_PEER), Grid(size, 1)
    shared = {"n_inventories": 2 * size + 1, "horizon_s": horizon, "sets": N_PEER, "limited": False}

    def record(what, precision, answer, row, reference, **more):
        n = answer.shape[-1]
        error = float(np.max(np.abs(answer - reference[..., :n])))
        report(results, shared | {"what": what, "precision": precision, "sets": n, "max_error": error} | row | more)

    free, row = timed(with_scipy(size, horizon, scipy.linalg.expm, rows), N_PEER)
    record("scipy.linalg.expm", "float64", free, row, free)
    for dtype in (jnp.float32, jnp.float64):
        with jax.enable_x64(dtype == jnp.float64):
            answer, row = timed(with_jax_expm(size, horizon, rows, dtype), N_PEER)
        record("jax.scipy.linalg.expm", dtype.__name__, answer, row, free)
    with jax.enable_x64(True):
        limited = problem_of(rows, jnp.float64, horizon, MIN_DEPTH)
        reference, row = timed(with_diffrax(grid, limited, "tsit5", 1e-9), N_PEER, 1)
        record("diffrax Tsit5, 1e-9", "float64", reference, row, reference, limited=True)
        few = jax.tree.map(lambda x: x[:20], limited)
        for method, name in (("tsit5", "Tsit5"), ("kvaerno5", "Kvaerno5")):
            part = limited if method == "tsit5" else few
            answer, row = timed(with_diffrax(grid, part, method, 1e-6), part.horizon.size, 1)
            record(f"diffrax {name}, 1e-6", "float64", answer, row, reference, limited=True)
    try:
        few = [x[:2] for x in rows]
        answer, row = timed(with_package(size, horizon, few), 2, 1)
        record("avellaneda-stoikov (PyPI)", "float64", answer, row, free)
    except ImportError:
        print("avellaneda-stoikov is not installed: uv run --extra bench ...")
    return free, reference


def report(results, row):
    """One line, and into the record."""
    results.append(row)
    more = f"  gradient x{row['gradient_ratio']:.1f}" if "gradient_ratio" in row else ""
    print(
        f"{row['what']:34} {row['precision']} {'limited' if row['limited'] else 'free':7} n {row['n_inventories']:2} "
        f"T {row['horizon_s']:4.0f} sets {row['sets']:6}  {row['us_per_set']:10.2f} us/set  error {row['max_error']:.1e}  "
        f"first {row['first_call_s']:.1f} s{more}",
        flush=True,
    )


def ours(size, horizon, references, results, batches, alone):
    """The sweep entry on every batch, the schemes by themselves on those in `alone`."""
    grid = Grid(size, 1)
    for dtype in (jnp.float32, jnp.float64):
        with jax.enable_x64(dtype == jnp.float64):
            for limited, reference in zip((False, True), references, strict=True):
                for n in batches:
                    problem = problem_of(parameters(n), dtype, horizon, MIN_DEPTH if limited else -np.inf)
                    shared = {
                        "n_inventories": 2 * size + 1,
                        "horizon_s": horizon,
                        "sets": n,
                        "limited": limited,
                        "precision": dtype.__name__,
                    }
                    report(results, shared | {"what": "mfamm_jax solve_sweep"} | sweep(grid, problem, reference))
                    if n not in alone:
                        continue
                    explicit = choose_scheme(problem, grid, ExplicitRK)[0]
                    schemes = [explicit, Implicit(40), HanWong(1e-4, order=2), HanWong(1e-5)]
                    if not limited:
                        schemes = [choose_scheme(problem, grid, w)[0] for w in (TaylorAction, Uniformization)] + schemes
                    for scheme in schemes:
                        name = type(scheme).__name__
                        if isinstance(scheme, HanWong):
                            name += f" order {scheme.order}"
                        row = one_scheme(scheme, grid, problem, reference)
                        report(results, shared | {"what": f"mfamm_jax {name}", "scheme": str(scheme)} | row)


def main():
    results = []
    for size in (10, 30):
        references = peers(size, 10.0, results)
        ours(size, 10.0, references, results, (1000, 10_000, 100_000) if size == 10 else (1000, 10_000), (1000, 10_000))
    for horizon in (2.0, 60.0):
        references = peers(10, horizon, results)
        ours(10, horizon, references, results, (10_000,), ())
    for row in results:
        key = ("n_inventories", "horizon_s")
        same = next(r for r in results if "scipy.linalg" in r["what"] and all(r[k] == row[k] for k in key))
        row["ratio_to_scipy"] = same["us_per_set"] / row["us_per_set"]
    write_results("hjb", results)


if __name__ == "__main__":
    main()
