"""Place and route of the committed quote kernel on an ECP5, and its resources on UltraScale+, with free tools.

    python benchmarks/synth_quote_kernel.py [--seeds 1 2 3] [--project FOLDER]

Needs `pip install "mfamm-jax[fpga]"`. The paths are placed on their own, without pins: the frequency is the kernel's, not a board's.
Xilinx resources are an estimate by Yosys; there is no free timing for these parts.
"""

import argparse
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from machine import write_results

from mfamm_jax.fpga_export.verify import place_and_route, tool_environment

ROOT = Path(__file__).resolve().parents[1]


def make(folder: Path, *targets: str) -> str:
    done = subprocess.run(["make", "-C", str(folder), *targets], capture_output=True, text=True, env=tool_environment())
    if done.returncode:
        raise SystemExit(done.stdout[-3000:] + done.stderr[-3000:])
    return done.stdout


def cells(report: str) -> dict[str, int]:
    """Last table of Yosys' `stat`."""
    last = report[report.rindex("=== ") :]
    return {name: int(n) for n, name in re.findall(r"^\s+(\d+)\s+(?:\S+\s+)?([A-Z][A-Z0-9_]+)\s*$", last, re.M)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, default=ROOT / "fpga_export")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "project"
        shutil.copytree(arguments.project, folder, ignore=shutil.ignore_patterns("build"))
        routed = {}
        for seed in arguments.seeds:
            make(folder, "pnr-ecp5", f"SEED={seed}")
            routed[seed] = place_and_route(folder)
            print(seed, {name: f"{row['mhz']:.1f} MHz" for name, row in routed[seed].items()})
        make(folder, "synth-xilinx")
        xilinx = cells((folder / "build/xilinx.txt").read_text())
    manifest = json.loads((arguments.project / "manifest.json").read_text())
    latency = manifest["latency_cycles"]
    least = {name: min(row[name]["mhz"] for row in routed.values()) for name in ("slow", "fast")}
    rows = [
        {
            "what": "ECP5 85k, speed grade 8",
            "seed": seed,
            "path": path,
            "mhz": round(row["mhz"], 1),
            "used": row["used"],
        }
        for seed, paths in routed.items()
        for path, row in paths.items()
    ]
    for name, path in (("book_to_quote", "fast"), ("state_to_offsets", "slow")):
        cycles = latency[name]
        slowest = round(least[path], 1)
        rows.append({"what": name, "cycles": cycles, "mhz": slowest, "ns": round(1000 * cycles / least[path], 1)})
    rows.append({"what": "whole kernel on UltraScale+, Yosys' estimate", "used": xilinx})
    rows.append({"what": "kernel", "format_id": manifest["format_id"], "formats": manifest["formats"]["depth"]})
    for row in rows:
        print(json.dumps(row))
    write_results("quote_kernel", rows)


if __name__ == "__main__":
    main()
