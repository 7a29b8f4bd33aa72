"""HJB solves per CPU second against `scipy.linalg.expm` and the PyPI package `avellaneda-stoikov`, with errors, in one run.

    uv run --extra bench python benchmarks/bench_hjb.py

One core for everyone. A solve takes the parameters to all quotes and values with the whole horizon left, for 61 inventories.
Errors are those of the quotes [price] against scipy's float64 matrix exponential.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from machine import write_results

from mfamm_jax import ExponentialIntensity, Grid, HJBProblem, choose_scheme, optimal_depths, solve_hjb

MAX_INVENTORY, DECAY, TERMINAL = 30, 1.5, 1e-4
N_ROWS, N_PEER = 2048, 64
HORIZONS = (1.0, 10.0, 60.0)
RNG = np.random.default_rng(0)
PENALTY = np.exp(RNG.uniform(np.log(1e-3), np.log(1e-2), N_ROWS))  # risk aversion 0.1, volatility 0.1 to 0.32
BID, ASK = np.exp(RNG.uniform(-0.5, 0.5, (2, N_ROWS)))


def timed(solve, n):
    """Wall and CPU seconds of one call after warming up, best of three; and seconds of the first call."""
    first = time.perf_counter()
    solve()
    first = time.perf_counter() - first
    best = (np.inf, np.inf)
    for _ in range(3):
        wall, cpu = time.perf_counter(), time.process_time()
        answer = solve()
        best = min(best, (time.process_time() - cpu, time.perf_counter() - wall))
    return answer, {
        "solves": n,
        "cpu_s": best[0],
        "wall_s": best[1],
        "solves_per_cpu_s": n / best[0],
        "first_call_s": first,
    }


def ours(dtype, horizon):
    """One compiled call for all rows."""
    grid = Grid(MAX_INVENTORY, 1)

    def problem(penalty, bid, ask):
        sides = [ExponentialIntensity(scale, jnp.asarray(DECAY, dtype)) for scale in (bid, ask)]
        values = [jnp.asarray(x, dtype) for x in (TERMINAL, horizon)]
        return HJBProblem(sides[0], sides[1], penalty, terminal_penalty=values[0], horizon=values[1])

    rows = [jnp.asarray(x, dtype) for x in (PENALTY, BID, ASK)]
    scheme, why = choose_scheme(jax.vmap(problem)(*rows), grid)

    @jax.jit
    @jax.vmap
    def solve(*row):
        one = problem(*row)
        return optimal_depths(one, solve_hjb(one, scheme, grid).value.relative_value[-1])

    return lambda: jax.block_until_ready(solve(*rows)), why


def with_scipy(horizon, n):
    """The same linear system by a general matrix exponential, row by row."""
    q = np.arange(-MAX_INVENTORY, MAX_INVENTORY + 1.0)
    start = np.exp(-DECAY * TERMINAL * q**2)

    def one(penalty, bid, ask):
        a = np.diag(-DECAY * penalty * q**2)
        a += np.diag(np.full(q.size - 1, ask / np.e), -1) + np.diag(np.full(q.size - 1, bid / np.e), 1)
        value = np.log(scipy.linalg.expm(a * horizon) @ start) / DECAY
        rise = np.diff(value)
        return np.append(1 / DECAY - rise, np.inf), np.append(np.inf, 1 / DECAY + rise)

    return lambda: [one(PENALTY[i], BID[i], ASK[i]) for i in range(n)]


def with_package(horizon, n):
    """The explicit Euler scheme of `avellaneda-stoikov`, as many steps as it needs to be stable and accurate to 1e-3."""
    from avellaneda_stoikov.solver import ASParams, solve_value_function

    def one(i):
        parameters = ASParams(
            sigma=0.3,
            lam_plus=float(ASK[i]),
            lam_minus=float(BID[i]),
            kappa_plus=DECAY,
            kappa_minus=DECAY,
            phi=float(PENALTY[i]),
            alpha=TERMINAL,
            q_max=MAX_INVENTORY,
            T=horizon,
            n_steps=int(400 * horizon),
        )
        _, h = solve_value_function(parameters)
        rise = np.diff(h[0])
        return np.append(1 / DECAY - rise, np.inf), np.append(np.inf, 1 / DECAY + rise)

    return lambda: [one(i) for i in range(n)]


def error(answer, reference, n):
    """Largest difference of a quote."""
    mine, theirs = (np.nan_to_num(np.asarray(x, float)[:n], posinf=0.0) for x in (answer, reference))
    return float(np.max(np.abs(mine - theirs)))


def main():
    results = []
    for horizon in HORIZONS:
        reference, scipy_time = timed(with_scipy(horizon, N_PEER), N_PEER)
        reference = np.array(reference)
        results.append({"what": "scipy.linalg.expm, float64", "horizon_s": horizon, "max_error": 0.0} | scipy_time)
        for dtype in (jnp.float32, jnp.float64):
            with jax.enable_x64(dtype == jnp.float64):
                solve, why = ours(dtype, horizon)
                answer, seconds = timed(solve, N_ROWS)
            quotes = np.stack([np.asarray(x) for x in answer], axis=1)
            row = {"what": f"mfamm_jax, {dtype.__name__}", "horizon_s": horizon, "scheme": why}
            results.append(row | {"max_error": error(quotes, reference, N_PEER)} | seconds)
        try:
            answer, seconds = timed(with_package(horizon, 2), 2)
            row = {"what": "avellaneda-stoikov (PyPI), float64", "horizon_s": horizon}
            results.append(row | {"max_error": error(np.array(answer), reference, 2)} | seconds)
        except ImportError:
            print("avellaneda-stoikov is not installed: uv run --extra bench ...")
    for row in results:
        same = next(r for r in results if r["horizon_s"] == row["horizon_s"] and "scipy" in r["what"])
        row["ratio_to_scipy"] = row["solves_per_cpu_s"] / same["solves_per_cpu_s"]
        print(
            f"{row['what']:36} horizon {row['horizon_s']:4.0f} s  {row['solves_per_cpu_s']:10.1f} solves/CPU s  "
            f"x{row['ratio_to_scipy']:7.2f}  max error {row['max_error']:.1e}  first call {row['first_call_s']:.1f} s"
        )
    write_results("hjb", results)


if __name__ == "__main__":
    main()
