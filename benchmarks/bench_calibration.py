"""Calibrating three parameters to 200 noisy quotes: evaluations and seconds of L-BFGS by forward tangents, scipy's by differences and CMA-ES; coverage.

    uv run --extra full --with scipy python benchmarks/bench_calibration.py

`experiments/calibrate_quotes.toml`, float64. All methods start from the same point of the box and minimise the same compiled loss; an evaluation of
ours brings the gradient, one tangent a parameter. Arrived: within a tenth of a standard error of the best, 0.005 in negative log likelihood. The
last row is 40 fresh samples: how many standard errors the estimates are from the planted parameters.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from machine import write_results

from mfamm_jax.experiments.calibration_tables import ARRIVED
from mfamm_jax.experiments.config import construct, load_config
from mfamm_jax.experiments.quote_calibration import losses_of, observe_stage
from mfamm_jax.experiments.sweep import compute_parts, lay_out
from mfamm_jax.solvers.calibrate import fit
from mfamm_jax.solvers.cma import evolve

N_SAMPLES, POPULATION, N_GENERATIONS, N_STARTS = 40, 16, 120, 8


def timed(function, *arguments):
    """Answer and CPU seconds of a compiled call; compile seconds apart."""
    begin = time.perf_counter()
    run = jax.jit(function).lower(*arguments).compile()
    compile_s = time.perf_counter() - begin
    cpu = time.process_time()
    answer = jax.block_until_ready(run(*arguments))
    return answer, time.process_time() - cpu, compile_s


def by_differences(loss, box, start):
    """scipy's L-BFGS-B in the logarithms with bounds: evaluations, least value, CPU seconds."""
    low, high = (np.log(np.asarray(x)) for x in (box.low, box.high))
    loss(start).block_until_ready()
    cpu = time.process_time()
    found = scipy.optimize.minimize(
        lambda x: float(loss(jnp.exp(x))),
        np.log(np.asarray(start)),
        method="L-BFGS-B",
        bounds=list(zip(low, high, strict=True)),
    )
    return found.nfev, found.fun, time.process_time() - cpu


def methods():
    experiment = construct(load_config("calibrate_quotes", []))
    batch = jax.tree.map(lambda x: jnp.asarray(x)[None], experiment)
    plan, _ = experiment.plan(batch, None)
    data = jax.jit(lambda e, k: observe_stage(plan, e, experiment.prepare(None, 0, print), {}, k))(
        experiment, jax.random.key(0)
    )["data"]["observed"]
    of_quotes, _ = losses_of(plan, experiment, data)
    box = experiment.box()
    starts = box.draw(jax.random.key(1), N_STARTS)
    runs = []
    gradient = jax.jit(lambda start: fit(of_quotes, box, start[None], max_iterations=200).value)
    (_, _, compile_s) = timed(gradient, starts[0])
    loss = jax.jit(of_quotes)
    evolution = jax.jit(
        lambda start, key: evolve(
            lambda x, _: of_quotes(x), box, start[None], key, population=POPULATION, n_generations=N_GENERATIONS
        )
    )
    _, _, evolution_compile_s = timed(evolution, starts[0], jax.random.key(2))
    for i, start in enumerate(starts):
        cpu = time.process_time()
        found = jax.block_until_ready(gradient(start))
        runs.append(("L-BFGS", int(found.n_evaluations[0]), float(found.losses[0]), time.process_time() - cpu))
        runs.append(("scipy L-BFGS-B, differences", *by_differences(loss, box, start)))
        cpu = time.process_time()
        history = np.asarray(evolution(start, jax.random.key(2 + i)).history, float)[0]
        runs.append(("CMA-ES", np.minimum.accumulate(history), history.min(), time.process_time() - cpu))
    best = min(value for _, _, value, _ in runs)
    rows = []
    for name in dict.fromkeys(name for name, *_ in runs):
        mine = [(count, seconds) for other, count, value, seconds in runs if other == name and value < best + ARRIVED]
        counts = [
            (np.flatnonzero(count < best + ARRIVED)[0] + 1) * POPULATION if np.ndim(count) else count
            for count, _ in mine
        ]
        share = [len(np.flatnonzero(np.atleast_1d(c) >= best + ARRIVED)) + 1 if np.ndim(c) else 1 for c, _ in mine]
        whole = [n / N_GENERATIONS if np.ndim(c) else 1.0 for n, (c, _) in zip(share, mine, strict=True)]
        seconds = [s * w for w, (_, s) in zip(whole, mine, strict=True)]
        row = {
            "method": name,
            "arrived": f"{len(mine)} of {N_STARTS}",
            "median_evaluations": float(np.median(counts)),
            "median_cpu_s": round(float(np.median(seconds)), 3),
        }
        row |= {"compile_s": round(compile_s, 1)} if name == "L-BFGS" else {}
        row |= {"compile_s": round(evolution_compile_s, 1)} if name == "CMA-ES" else {}
        print(row, flush=True)
        rows.append(row)
    return rows


def coverage():
    config = load_config("calibrate_quotes", [f"sweep.n_seeds={N_SAMPLES}", "search.n_generations=0"])
    experiment = construct(config)
    layout = lay_out(config, experiment)
    ready = experiment, experiment.prepare(None, 0, print)
    tables = [t for _, t in compute_parts(layout, layout.parts, jax.random.key(0), lambda _: ready, lambda _: None)]
    z = np.concatenate(
        [np.stack([table[f"{name}_z"].to_numpy() for name in experiment.free], axis=1) for table in tables]
    )
    ok = np.concatenate([table["ok"].to_numpy() for table in tables])
    row = {
        "samples": len(z),
        "converged": int(ok.sum()),
        "mean_z": round(float(z.mean()), 3),
        "deviation_z": round(float(z.std()), 3),
        "share_within_2": round(float((np.abs(z) < 2).mean()), 3),
        "largest": round(float(np.abs(z).max()), 2),
    }
    print(row, flush=True)
    return row


def main():
    with jax.enable_x64(True):
        write_results("calibration", [*methods(), coverage()])


if __name__ == "__main__":
    main()
