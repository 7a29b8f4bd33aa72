"""Path-steps per CPU second of simulated episodes on one core, against numpy on the same model in the same run.

    uv run --extra bench python benchmarks/bench_simulation.py

The model is that of Avellaneda and Stoikov (2008), section 3.3: 200 steps, quotes around the reservation price, fills on both
sides, a binomial or a Gaussian mid. The numpy version is the plain vectorised loop everyone writes: one array per quantity, one
draw per number, nothing else computed. Random numbers bound both: the time for drawing alone is printed beside.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import time

import jax
import jax.numpy as jnp
import numpy as np
from machine import write_results

from mfamm_jax.models import BinomialMid, ExponentialIntensity, HawkesArrivals
from mfamm_jax.policies import Covariates
from mfamm_jax.policies.avellaneda_stoikov import AvellanedaStoikovPolicy
from mfamm_jax.simulation.episode import Episodes, simulate_episodes
from mfamm_jax.simulation.step import PoissonMarket

N_STEPS, RISK_AVERSION, VOLATILITY, INTENSITY, DECAY = 200, 0.1, 2.0, 140.0, 1.5
SIZES = (1_000, 10_000, 100_000)
REPEATS = 5


def market(mid, arrivals):
    """The paper's, with its fill rule."""
    side = ExponentialIntensity(INTENSITY, DECAY)
    return PoissonMarket(side, side, VOLATILITY, mid=mid, arrivals=arrivals, fill_rule="clip_product")


def ours(n_paths, mid=None, arrivals=None):
    """Function of a key: final profit of every path."""
    policy = AvellanedaStoikovPolicy(RISK_AVERSION, VOLATILITY, DECAY)
    episodes, covariates = Episodes(n_paths, N_STEPS, 1.0, 0.0), Covariates.neutral(VOLATILITY)
    world = market(mid, arrivals)
    return jax.jit(lambda key: simulate_episodes(policy, world, episodes, covariates, jnp.zeros(()), key).pnl)


def drawing(n_paths, dtype):
    """Function of a key: nothing but the random numbers of the episodes."""

    def draw(key):
        def tick(total, index):
            return total + jax.random.uniform(jax.random.fold_in(key, index), (3, n_paths), dtype).sum(axis=0), None

        return jax.lax.scan(tick, jnp.zeros((n_paths,), dtype), jnp.arange(N_STEPS))[0]

    return jax.jit(draw)


def numpy_profit(rng, n_paths, binomial):
    """The same paths in numpy."""
    step = 1.0 / N_STEPS
    mid, inventory, cash = np.zeros(n_paths), np.zeros(n_paths), np.zeros(n_paths)
    margin = np.log1p(RISK_AVERSION / DECAY) / RISK_AVERSION
    for i in range(N_STEPS):
        width = RISK_AVERSION * VOLATILITY**2 * (1.0 - i * step)
        price, half = mid - inventory * width, 0.5 * width + margin
        bid, ask = price - half, price + half
        bought = rng.random(n_paths) < INTENSITY * step * np.exp(-DECAY * (mid - bid))
        sold = rng.random(n_paths) < INTENSITY * step * np.exp(-DECAY * (ask - mid))
        cash += sold * ask - bought * bid
        inventory += bought.astype(float) - sold
        noise = np.where(rng.random(n_paths) < 0.5, 1.0, -1.0) if binomial else rng.standard_normal(n_paths)
        mid = mid + VOLATILITY * np.sqrt(step) * noise
    return cash + inventory * mid


def timed(run, n_paths):
    """CPU and wall nanoseconds per path-step, the best of `REPEATS`."""
    best = None
    for _ in range(REPEATS):
        cpu, wall = time.process_time(), time.perf_counter()
        jax.block_until_ready(run())
        row = (time.process_time() - cpu, time.perf_counter() - wall)
        best = row if best is None else min(best, row)
    return [1e9 * x / (n_paths * N_STEPS) for x in best]


def main():
    """Prints and writes the table."""
    rows = []

    def add(name, precision, n_paths, run, compile_s=0.0, profit=None):
        cpu, wall = timed(run, n_paths)
        row = {
            "what": name,
            "precision": precision,
            "paths": n_paths,
            "ns_per_path_step_cpu": round(cpu, 2),
            "ns_per_path_step_wall": round(wall, 2),
            "million_path_steps_per_cpu_second": round(1e3 / cpu, 1),
            "compile_s": round(compile_s, 2),
        }
        if profit is not None:
            row |= {"profit_mean": round(float(profit.mean()), 3), "profit_std": round(float(profit.std()), 3)}
        rows.append(row)
        print(row)

    for n_paths in SIZES:
        rng = np.random.default_rng(0)
        for binomial in (True, False):
            name = f"numpy, {'binomial' if binomial else 'Gaussian'} mid"
            profit = numpy_profit(rng, n_paths, binomial)
            add(name, "float64", n_paths, lambda b=binomial, n=n_paths, r=rng: numpy_profit(r, n, b), profit=profit)
        for precision in ("float32", "float64"):
            with jax.enable_x64(precision == "float64"):
                key, dtype = jax.random.key(0), jnp.result_type(float)
                kinds = {
                    "ours, binomial mid": ours(n_paths, BinomialMid(VOLATILITY)),
                    "ours, Gaussian mid": ours(n_paths),
                    "ours, Gaussian mid, Hawkes arrivals": ours(n_paths, None, HawkesArrivals(0.3, 0.1, 5.0)),
                    "ours, drawing alone": drawing(n_paths, dtype),
                }
                for name, function in kinds.items():
                    begin = time.perf_counter()
                    profit = jax.block_until_ready(function(key))
                    compile_s = time.perf_counter() - begin
                    profit = None if "alone" in name else np.asarray(profit)
                    add(name, precision, n_paths, lambda f=function, k=key: f(k), compile_s, profit)
    write_results("simulation", rows)


if __name__ == "__main__":
    main()
