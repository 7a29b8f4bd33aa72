"""Boosted trees on one core: evaluation in JAX against XGBoost's own predictor, and the table that replaces both in a sweep.

    uv run --extra full python benchmarks/bench_learning.py

The model is a fill rate of ten features fitted here to counts. XGBoost is timed through `inplace_predict` on the array and through
`predict` on a fresh DMatrix (a kept one answers from its cache and would measure nothing). Compile time is printed apart and not
counted. A depth table costs its trees once per market state; afterwards a Hamiltonian is a maximum over its nodes, which is timed
per table lookup. Training of the imbalance network is timed after it, by `bench_training.py`.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import time

import bench_training
import jax
import jax.numpy as jnp
import numpy as np
import xgboost
from machine import write_results

from mfamm_jax.experiments.tree_fit import Boosting, Counts, fit_trees, in_jax
from mfamm_jax.models import depth_table

N_FEATURES, N_FIT, N_TREES = 10, 40_000, 150
ROWS = (100, 10_000, 100_000)
DEPTHS = (3, 4, 6, 8)
N_TICKS, N_STATES = 32, 1_000
REPEATS = 7


def sample(rng, n_rows):
    """Counts with 2 % missing covariates."""
    features = rng.uniform(-1, 1, (n_rows, N_FEATURES)).astype(np.float32)
    features[:, 0] = rng.integers(1, N_TICKS + 1, n_rows) / N_TICKS
    exposure = rng.exponential(2.0, n_rows)
    rate = np.exp(1 - 3 * features[:, 0] ** 2 + np.sin(3 * features[:, 1]) * features[:, 2])
    features[:, 3:][rng.random((n_rows, N_FEATURES - 3)) < 0.02] = np.nan
    return Counts(features, rng.poisson(rate * exposure).astype(float), exposure)


def fitted(training, depth):
    """XGBoost's model and ours, of the same depth and number of trees."""
    settings = {"objective": "count:poisson", "max_depth": depth, "learning_rate": 0.05, "nthread": 1}
    matrix = xgboost.DMatrix(training.features, training.count / training.exposure, weight=training.exposure)
    booster = xgboost.train(settings, matrix, N_TREES)
    return booster, in_jax(booster, training.features[:1000])


def timed(run):
    """CPU seconds, the best of `REPEATS`."""
    best = np.inf
    for _ in range(REPEATS):
        begin = time.process_time()
        jax.block_until_ready(run())
        best = min(best, time.process_time() - begin)
    return best


def compiled(function, *args):
    """The function compiled for the arguments, and the seconds that took."""
    begin = time.perf_counter()
    ready = jax.jit(function).lower(*args).compile()
    return ready, time.perf_counter() - begin


def compare(booster, trees, features, about, add):
    """One batch of rows through all three."""
    on_device, visits = jnp.asarray(features), len(features) * N_TREES
    evaluate, compile_s = compiled(lambda trees, x: trees.margin(x), trees, on_device)
    theirs = booster.inplace_predict(features, predict_type="margin")
    equal = float(np.mean(np.asarray(evaluate(trees, on_device)) == theirs))
    seconds = timed(lambda: evaluate(trees, on_device))
    add("trees in JAX", visits, "tree_visits", seconds, compile_s, **about, bit_equal_share=equal)
    seconds = timed(lambda: booster.inplace_predict(features, predict_type="margin"))
    add("XGBoost, inplace_predict", visits, "tree_visits", seconds, **about)
    seconds = timed(lambda: booster.predict(xgboost.DMatrix(features, nthread=1), output_margin=True))
    add("XGBoost, predict with its DMatrix", visits, "tree_visits", seconds, **about)


def main():
    """Prints and writes the table."""
    rng = np.random.default_rng(0)
    training, rows = sample(rng, N_FIT), []

    def add(what, count, unit, seconds, compile_s=0.0, **more):
        row = {"what": what, **more, unit: count, "cpu_ms": round(1e3 * seconds, 3), "compile_s": round(compile_s, 2)}
        row[f"ns_per_{unit.removesuffix('s')}"] = round(1e9 * seconds / count, 2)
        rows.append(row)
        print(row)

    for depth in DEPTHS:
        booster, trees = fitted(training, depth)
        for n_rows in ROWS:
            compare(booster, trees, sample(rng, n_rows).features, {"rows": n_rows, "depth": depth}, add)

    _, trees = fitted(training, 4)
    states = jnp.asarray(sample(rng, N_STATES).features)
    ticks = jnp.asarray(np.arange(1, N_TICKS + 1) / N_TICKS, jnp.float32)
    tabulate, compile_s = compiled(lambda trees, x: depth_table(trees, x, ticks), trees, states)
    tables = tabulate(trees, states)
    add("depth tables of 1,000 states", N_STATES, "tables", timed(lambda: tabulate(trees, states)), compile_s)
    costs = jnp.asarray(rng.uniform(-0.2, 0.2, (21, N_STATES)), jnp.float32)
    limits = [jnp.asarray(x, jnp.float32) for x in (0.0, -np.inf, np.inf)]
    gain, compile_s = compiled(lambda t, p: t.hamiltonian(p, *limits), tables, costs)
    seconds = timed(lambda: gain(tables, costs))
    add("Hamiltonians from the tables", costs.size, "lookups", seconds, compile_s)
    state, cost = states[0], costs[:, 0]
    direct, compile_s = compiled(
        lambda trees, x, p: depth_table(trees, x, ticks).hamiltonian(p, *limits), trees, state, cost
    )
    add("Hamiltonians from the trees", cost.size, "lookups", timed(lambda: direct(trees, state, cost)), compile_s)

    begin = time.process_time()
    fit = fit_trees(training, sample(rng, N_FIT // 4), Boosting(), ["depth", *(f"x{i}" for i in range(1, N_FEATURES))])
    add("fit with early stopping", N_FIT, "rows", time.process_time() - begin, trees=fit.trees.n_trees)
    write_results("learning_trees", rows)


if __name__ == "__main__":
    main()
    bench_training.main()
