"""Events x policies per second of the event replay for 1, 64 and 1,024 policies on one core.

    uv run --extra bench python benchmarks/bench_replay.py [FOLDER_OR_ZIP]

Without a LOBSTER path it takes the AAPL hour under $MFAMM_DATA when that is set, else ten generated minutes. The policy quotes
a half spread around the mid skewed by the inventory, every 0.5 s, with 1 ms latencies and the power queue model; the
policies of a sweep differ in half spread and skew. Where hftbacktest is installed its own figure on the same machine is the
one to compare a single run with; it is not part of this run.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from machine import write_results

from mfamm_jax.market.loaders.lobster import load_lobster
from mfamm_jax.market.synthetic import generate_session
from mfamm_jax.policies import AbstractPolicy, Covariates, Quotes
from mfamm_jax.simulation.replay import ReplayConfig, replay
from mfamm_jax.simulation.tape import build_tape


class Skewed(AbstractPolicy):
    """Half spread around the mid minus skew times inventory."""

    half_spread: jax.Array
    skew: jax.Array

    def __call__(self, state):
        """One lot a side."""
        shift = self.skew * state.inventory
        one = jnp.ones_like(shift)
        return Quotes(self.half_spread + shift, self.half_spread - shift, one, one)


def find_session():
    """The recorded or generated session and its name."""
    if len(sys.argv) > 1:
        return load_lobster(sys.argv[1])
    if "MFAMM_DATA" in os.environ:
        return load_lobster(Path(os.environ["MFAMM_DATA"]) / "lobster_aapl_20120621")
    return generate_session("small_tick", 600.0, 0)[0]


def run(policy, tape, covariates):
    """One policy over the whole tape."""
    return replay(policy, tape, covariates, ReplayConfig(max_inventory=10.0))


def main():
    session = find_session()
    latency = {"order_latency": 1e-3, "response_latency": 1e-3, "feed_latency": 1e-3}
    tape, timeline = build_tape(session, decision_interval=0.5, **latency)
    n_decisions, n_events = len(timeline.decision_ns), len(session.updates)
    zeros = jnp.zeros(n_decisions)
    covariates = Covariates(zeros + 0.05, zeros, zeros, jnp.zeros((n_decisions, 6)))
    print(f"{session.name}: {n_events:,} events, {n_decisions:,} decisions")
    rows = []
    for n in (1, 64, 1024):
        policies = Skewed(jnp.linspace(0.03, 0.15, n), jnp.linspace(0.0, 0.02, n))
        if n == 1:
            policies = jax.tree.map(lambda x: x[0], policies)
        begin = time.perf_counter()
        compiled = (
            jax.jit(run if n == 1 else jax.vmap(run, (0, None, None))).lower(policies, tape, covariates).compile()
        )
        compile_s = time.perf_counter() - begin
        best = (float("inf"), float("inf"))
        for _ in range(3):
            wall, cpu = time.perf_counter(), time.process_time()
            result = jax.block_until_ready(compiled(policies, tape, covariates))
            best = min(best, (time.process_time() - cpu, time.perf_counter() - wall))
        rate = n_events * n / best[0]
        fills = float(jnp.sum(result.bid_fills + result.ask_fills)) / n
        rows.append(
            {
                "policies": n,
                "events": n_events,
                "cpu_s": best[0],
                "wall_s": best[1],
                "compile_s": compile_s,
                "event_policies_per_cpu_s": rate,
                "fills_per_policy": fills,
            }
        )
        print(
            f"{n:5} policies: {rate / 1e6:7.2f} million events x policies per CPU s, {best[0]:.2f} CPU s, {best[1]:.2f} s wall, "
            f"{fills:.0f} fills each (compile {compile_s:.1f} s)"
        )
    write_results("replay", rows)


if __name__ == "__main__":
    main()
