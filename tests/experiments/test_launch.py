"""Engines beyond one process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

SMALL = ["max_inventory=3", "batch_rows=16", "chunk_size=16", "sweep.parameters.volatility={linear=[0.1,0.5],num=5}"]
SMALL += ["sweep.parameters.risk_aversion={log=[0.01,1.0],num=15}", 'sweep.scheme=["auto","explicit"]']
SMALL += [f"sweep.parameters.{name}=[1.0]" for name in ("ask_intensity", "bid_intensity")]


def mfamm(*arguments, cwd, code=0, **environment):
    command = [sys.executable, "-m", "mfamm_jax.experiments", "run", "hjb_sweep"]
    settings = [word for item in SMALL for word in ("--set", item)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "COLUMNS": "200"} | environment
    done = subprocess.run([*command, *settings, *arguments], cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def rows(folder):
    paths = sorted((folder / "parts").glob("part-*.parquet"))
    return pl.concat([pl.read_parquet(path) for path in paths]).sort("config_id")


@pytest.mark.thorough
def test_ray_workers_give_the_rows_of_one_process_also_when_started_by_uv(tmp_path):
    mfamm("--out", "one", cwd=tmp_path)
    done = mfamm(
        "--out", "ray", "--engine", "ray", "--workers", "2", "--json", cwd=tmp_path, UV_RUN_RECURSION_DEPTH="1"
    )
    assert json.loads(done.stdout)["metrics"]["sweep"] == {"rows": 150, "failed": 0}
    assert "started by `uv run`" in done.stderr
    assert rows(tmp_path / "ray").equals(rows(tmp_path / "one"))
    manifest = json.loads((tmp_path / "ray" / "manifest.json").read_text())
    assert manifest["engine"] == "ray"
    assert {group["rows"] for group in manifest["sweep"]["compile_groups"]} == {75}
    for number in (1, 4):
        (tmp_path / "ray" / "parts" / f"part-{number:05d}.parquet").unlink()
    done = mfamm("--out", "ray", "--engine", "ray", "--workers", "2", cwd=tmp_path)
    assert "10 parts, 2 of them to do here" in done.stderr
    assert rows(tmp_path / "ray").equals(rows(tmp_path / "one"))


def ray_workers(session):
    """Process ids of the actors of one session of ours."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name, owner = (entry / "cmdline").read_bytes(), os.getsid(int(entry.name))
            except OSError:  # ended meanwhile
                continue
            if name.startswith(b"ray::PartWorker") and owner == session:
                found.append(int(entry.name))
    return found


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds Ray's workers under /proc")
def test_a_killed_ray_worker_is_replaced_and_no_row_is_lost_or_doubled(tmp_path):
    mfamm("--out", "one", cwd=tmp_path)
    command = [sys.executable, "-m", "mfamm_jax.experiments", "run", "hjb_sweep", "--out", "ray", "--engine", "ray"]
    settings = [word for item in SMALL for word in ("--set", item)]
    run = subprocess.Popen(
        [*command, "--workers", "1", *settings],
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    killed, deadline = [], time.monotonic() + 240
    while not killed and run.poll() is None and time.monotonic() < deadline:
        if list((tmp_path / "ray").glob("parts/part-*.parquet")):
            for process in ray_workers(run.pid):
                os.kill(process, signal.SIGKILL)
                killed.append(process)
        time.sleep(0.005)
    _, said = run.communicate(timeout=240)
    assert killed, said
    assert run.returncode == 0, said
    assert rows(tmp_path / "ray").equals(rows(tmp_path / "one"))


@pytest.mark.thorough
def test_without_a_cluster_the_distributed_engine_says_what_to_give(tmp_path):
    done = mfamm("--out", "run", "--engine", "distributed", cwd=tmp_path, code=2)
    assert "--workers N" in done.stderr


def test_workers_of_a_single_process_are_refused(tmp_path):
    assert "--workers belongs to" in mfamm("--workers", "2", cwd=tmp_path, code=2).stderr
