"""What a benchmark ran on, and where its numbers go."""

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


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
