"""Training of the imbalance network on one core: steps per second by way of mining, and what scoring the book costs.

    uv run --extra full python benchmarks/bench_training.py

A step draws a balanced batch, mines triplets, differentiates (12) and the head's loss, and applies AdamW. The peer in the same run is the
same network in flax applied twice (a book and its mirror image) with the same loss by optax, without mining: what the two libraries
charge for the network itself. Compile time is printed apart and not counted.
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
import optax
from flax import nnx
from machine import write_results

from mfamm_jax.experiments.imbalance_data import BLOCKS, GridSettings, Labels, Split, build_samples
from mfamm_jax.experiments.imbalance_fit import Training, make_step, scored, start_state
from mfamm_jax.experiments.imbalance_train import training_data
from mfamm_jax.experiments.imbalance_training import network_for
from mfamm_jax.market.planted import generate_planted
from mfamm_jax.models.flax_function import n_parameters
from mfamm_jax.models.imbalance_network import NetworkSizes
from mfamm_jax.solvers.triplet import TripletLoss

SECONDS, PER_CLASS, N_STEPS, REPEATS = 4000, (32, 64, 128), 50, 5


class Plain(nnx.Module):
    """The body of the network as a flax user would write it."""

    def __init__(self, sizes, rngs):
        self.first = nnx.Conv(3, sizes.n_filters, (3, 3), rngs=rngs)
        self.second = nnx.Conv(sizes.n_filters, sizes.n_filters_second, (3, 3), strides=2, rngs=rngs)
        self.hidden = nnx.Linear(25 * sizes.n_filters_second, sizes.n_hidden, rngs=rngs)
        self.out = nnx.Linear(sizes.n_hidden, 1, rngs=rngs)

    def __call__(self, x):
        x = jax.nn.gelu(self.second(jax.nn.gelu(self.first(x))))
        return self.out(jax.nn.gelu(self.hidden(x.reshape(len(x), -1))))[:, 0]


def seconds_per_call(run, n):
    """CPU and wall seconds of one of n calls, the best of `REPEATS` rounds."""
    best = np.array([np.inf, np.inf])
    for _ in range(REPEATS):
        begin = np.array([time.process_time(), time.perf_counter()])
        for _ in range(n):
            out = run()
        jax.block_until_ready(out)
        best = np.minimum(best, np.array([time.process_time(), time.perf_counter()]) - begin)
    return best / n


def main():
    """Prints and writes the table."""
    session, truth = generate_planted(SECONDS, 4.0, 0)
    samples, facts = build_samples(session, GridSettings(), Labels(), Split(), truth)
    data = training_data(samples.part(BLOCKS[0]), facts)
    sizes, rows = NetworkSizes(), []
    net = network_for(GridSettings(), sizes)

    def add(what, seconds, compile_s, **more):
        cpu, wall = map(float, seconds)
        row = {
            "what": what,
            **more,
            "cpu_ms": round(1e3 * cpu, 3),
            "wall_ms": round(1e3 * wall, 3),
            "per_second": round(1 / wall, 1),
        }
        rows.append(row | {"compile_s": round(compile_s, 2)})
        print(rows[-1])

    for per_class in PER_CLASS:
        for mining in ("semi_hard", "batch_all", "batch_hard"):
            training = Training(mining=mining, n_per_class=per_class)
            step, state, key = (
                make_step(net, training, TripletLoss()),
                start_state(net, training, jax.random.key(0)),
                jax.random.key(1),
            )
            begin = time.perf_counter()
            jax.block_until_ready(step(state, data, key))
            compile_s = time.perf_counter() - begin
            holder = {"state": state}

            def advance(step=step, holder=holder, key=key):
                holder["state"], loss = step(holder["state"], data, key)
                return loss

            add("training step", seconds_per_call(advance, N_STEPS), compile_s, mining=mining, batch=2 * per_class)
        model = Plain(sizes, nnx.Rngs(0))
        optimiser = nnx.Optimizer(model, optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(3e-3)), wrt=nnx.Param)
        grid, label = data.grid[: 2 * per_class], data.label[: 2 * per_class].astype(jnp.float32)

        @nnx.jit
        def plain(model, optimiser, grid, label):
            def loss(model):
                odd = model(grid) - model(net.mirror(grid))
                return jnp.mean(jax.nn.softplus(-2 * odd * label))

            value, slope = nnx.value_and_grad(loss)(model)
            optimiser.update(model, slope)
            return value

        begin = time.perf_counter()
        jax.block_until_ready(plain(model, optimiser, grid, label))
        compile_s = time.perf_counter() - begin
        run = lambda f=plain, *a: f(model, optimiser, grid, label)  # noqa: E731
        add("flax and optax, logistic loss, no mining", seconds_per_call(run, N_STEPS), compile_s, batch=2 * per_class)

    params = net.init(jax.random.key(0))
    for n in (1, 10_000):
        grid = jnp.tile(data.grid[:1], (n, 1, 1, 1))
        begin = time.perf_counter()
        score = jax.jit(lambda p, x: scored(net, p, x)).lower(params, grid).compile()
        add(
            "score",
            seconds_per_call(lambda s=score, g=grid: s(params, g), 3 if n > 1 else 300),
            time.perf_counter() - begin,
            books=n,
        )
    print(f"{n_parameters(params):,} parameters")
    write_results("learning_training", rows)


if __name__ == "__main__":
    main()
