"""A million rows of the HJB sweep: the bare kernel, the runner on one core, on two devices and in two processes, and scipy's expm.

    uv run --extra bench python benchmarks/bench_sweep.py [ROWS]

Rows per second without compiling and planning, which are printed apart. The bare kernel is the same compiled batch called in a loop on numbers
that lie on the device; the runner draws the points, writes parts, checks every number, and can be killed at any time. One core: the process
is pinned to it. On an accelerator only the kernel and the runner of one process are measured.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from machine import write_results

from mfamm_jax.experiments.config import construct, load_config
from mfamm_jax.experiments.sweep import lay_out, stack

CONFIG = """
experiment = "hjb"
precision = "float32"
max_inventory = 10
n_steps = 1
[parameters]
horizon = 10.0
[sweep]
method = "sobol"
n_points = {rows}
"parameters.risk_aversion" = {{ log = [0.01, 1.0] }}
"parameters.volatility" = {{ linear = [0.1, 0.6] }}
"parameters.ask_intensity" = {{ log = [0.5, 2.0] }}
"parameters.bid_intensity" = {{ log = [0.5, 2.0] }}
"""


def bare_kernel(file):
    """Seconds of all rows by the compiled batch alone, and of compiling it."""
    config = load_config(str(file))
    experiment = construct(config)
    layout = lay_out(config, experiment)
    ids = np.arange(layout.sweep.n_rows)
    columns = {path: layout.sweep.column(path, ids).astype(np.float32) for path in layout.inner}
    plan, _ = experiment.plan(stack(experiment, columns, ids.size), None)

    def row(values):
        changed = experiment
        for path, x in values.items():
            name = path.split(".")[1]
            changed = jax.tree_util.tree_map(lambda leaf: leaf, changed)
            object.__setattr__(changed.parameters, name, x)
        return changed.row(plan, None, jax.random.key(0))

    size = layout.batch_rows
    batches = [{p: jnp.asarray(c[i : i + size]) for p, c in columns.items()} for i in range(0, ids.size, size)]
    begin = time.perf_counter()
    program = jax.jit(jax.vmap(row)).lower(batches[0]).compile()
    compiling = time.perf_counter() - begin
    program(batches[0])["value"].block_until_ready()
    begin = time.perf_counter()
    for found in [program(batch) for batch in batches]:
        jax.block_until_ready(found)
    return time.perf_counter() - begin, compiling


def runner(file, folder, *options, pinned=False, **environment):
    """Seconds of all rows, of compiling and planning, and peak memory [MiB], by the command."""
    command = [sys.executable, "-m", "mfamm_jax.experiments", "run", str(file), "--out", str(folder), *options]
    if pinned and shutil.which("taskset"):
        command = ["taskset", "-c", "0", *command]
    timing = ["/usr/bin/time", "-f", "%M"] if Path("/usr/bin/time").is_file() else []
    done = subprocess.run([*timing, *command], env=os.environ | environment, capture_output=True, text=True, check=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    group = (manifest["sweep"]["compile_groups"] or [{"plan": 0, "trace": 0, "compile": 0}])[0]
    before = group["plan"] + group["trace"] + group["compile"]
    memory = int(done.stderr.split()[-1]) / 1024 if timing else None
    return manifest["stages"]["sweep"]["total"] - before, before, memory


def scipy_rows(n=4000):
    """Seconds of one row by scipy: a dense exponential of the tridiagonal generator (CJ-3), no certificates."""
    q, rng = np.arange(-10, 11), np.random.default_rng(0)
    begin = time.perf_counter()
    for _ in range(n):
        gamma, sigma, ask, bid = rng.uniform(0.1, 0.6, 4)
        matrix = (
            np.diag(-1.5 * gamma * sigma**2 * q**2.0) + np.diag([bid / np.e] * 20, 1) + np.diag([ask / np.e] * 20, -1)
        )
        value = np.log(scipy.linalg.expm(10.0 * matrix) @ np.exp(-1.5e-4 * q**2)) / 1.5
        np.diff(value)
    return (time.perf_counter() - begin) / n


def main():
    """Prints and writes the table."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1 << 20
    rows = []

    def add(what, seconds, before=0.0, memory=None):
        rows.append({"what": what, "rows": n, "rows_per_second": round(n / seconds), "seconds": round(seconds, 2)})
        rows[-1] |= {"before_s": round(before, 2)} | ({"peak_MiB": round(memory)} if memory else {})
        print(rows[-1], flush=True)

    with tempfile.TemporaryDirectory() as root:
        root = Path(root)
        file = root / "million.toml"
        file.write_text(CONFIG.format(rows=n))
        on_cpu = jax.default_backend() == "cpu"
        everywhere = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
        if on_cpu and everywhere:
            os.sched_setaffinity(0, {min(everywhere)})
        add("bare kernel, one core" if on_cpu else "bare kernel", *bare_kernel(file))
        if on_cpu and everywhere:
            seconds = scipy_rows()
            os.sched_setaffinity(0, everywhere)
        add("runner, one core" if on_cpu else "runner", *runner(file, root / "one", pinned=on_cpu))
        if on_cpu:
            add(
                "runner, two devices of one process",
                *runner(file, root / "devices", XLA_FLAGS="--xla_force_host_platform_device_count=2"),
            )
            add("runner, two processes", *runner(file, root / "two", "--engine", "distributed", "--workers", "2"))
            add("scipy.linalg.expm, one core", seconds * n)
    write_results("sweep", rows)


if __name__ == "__main__":
    main()
