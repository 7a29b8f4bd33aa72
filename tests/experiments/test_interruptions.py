"""What happens to a run when the world does not keep still."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest

from mfamm_jax.experiments.config import ConfigError, construct, load_config
from mfamm_jax.experiments.record import RunFolder
from mfamm_jax.experiments.runner import INTERRUPTED, Local, run
from mfamm_jax.experiments.sweep import lay_out

COMMAND = [sys.executable, "-m", "mfamm_jax.experiments"]
# 384 rows in 24 parts.
SMALL = ["max_inventory=3", "batch_rows=16", "chunk_size=16", "sweep.parameters.volatility={linear=[0.1,0.5],num=12}"]
SMALL += ["sweep.parameters.risk_aversion={log=[0.01,1.0],num=32}", "sweep.parameters.bid_intensity=[1.0]"]
SMALL += ["sweep.parameters.ask_intensity=[1.0]"]
ARGUMENTS = ["run", "hjb_sweep", *(word for item in SMALL for word in ("--set", item))]


def start(cwd, *arguments, **environment):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "COLUMNS": "200"} | environment
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [*COMMAND, *ARGUMENTS, *arguments], cwd=cwd, env=environment, start_new_session=True, **pipes
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert "Traceback" not in err
    return process.returncode, out, err


def here(root):
    config = load_config("hjb_sweep", SMALL)
    folder = RunFolder(root, config)
    folder.open(fresh=False)
    return run(config, folder, say=lambda _: None)


def rows(folder):
    paths = sorted((folder / "parts").glob("part-*.parquet"))
    return pl.concat([pl.read_parquet(path) for path in paths]).sort("config_id")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole") / "run"
    here(root)
    return root


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "another part", "gone"])
def test_a_damaged_part_is_put_aside_and_computed_again(copy, whole, damage):
    victim = copy / "parts" / "part-00007.parquet"
    content = victim.read_bytes()
    if damage == "truncated":
        victim.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        middle = 200  # inside the pages of data
        victim.write_bytes(content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :])
    elif damage == "empty":
        victim.write_bytes(b"")
    elif damage == "another part":
        shutil.copy(copy / "parts" / "part-00003.parquet", victim)
    else:
        victim.unlink()
    here(copy)
    assert rows(copy).equals(rows(whole))
    assert rows(copy)["config_id"].to_list() == list(range(384))
    kept = (copy / "parts" / "part-00006.parquet").stat()
    assert kept.st_mtime_ns < victim.stat().st_mtime_ns


def test_parts_of_another_size_do_not_double_rows(copy, whole):
    """A folder whose parts were laid out otherwise, as another machine's memory would: the surplus goes."""
    shutil.copy(copy / "parts" / "part-00003.parquet", copy / "parts" / "part-00024.parquet")
    here(copy)
    assert rows(copy).equals(rows(whole))


def test_a_part_with_other_rows_is_not_taken_for_this_one(copy, whole):
    """As after a batch of another size was chosen, on another machine or by another version."""
    config = load_config("hjb_sweep", SMALL)
    folder = RunFolder(copy, config)
    folder.stamp = json.loads((copy / "base.json").read_text())["stamp"]
    assert folder.is_finished(7, range(7 * 16, 8 * 16))
    assert not folder.is_finished(7, range(8 * 16, 9 * 16))
    assert not folder.is_finished(7, range(7 * 16, 7 * 16 + 8))
    folder.stamp = "of another version"
    assert not folder.is_finished(7, range(7 * 16, 8 * 16))


@pytest.mark.parametrize("damage", ["empty json", "no json", "broken arrays", "another version"])
def test_a_base_that_is_not_whole_or_of_another_version_is_computed_again(copy, whole, damage):
    base, arrays = copy / "base.json", copy / "arrays" / "base.npz"
    if damage == "empty json":
        base.write_text("")
    elif damage == "no json":
        base.unlink()
    elif damage == "broken arrays":
        arrays.write_bytes(arrays.read_bytes()[:300])
    else:
        base.write_text(base.read_text().replace('"stamp": "', '"stamp": "x'))
    here(copy)
    assert (copy / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()
    with np.load(arrays) as file, np.load(whole / "arrays" / "base.npz") as other:
        assert all(np.array_equal(file[name], other[name], equal_nan=True) for name in other.files)


def test_changed_data_are_not_mixed_with_what_was_made_from_the_old(copy):
    base = json.loads((copy / "base.json").read_text())
    (copy / "base.json").write_text(json.dumps(base | {"source": {"data": {"source": [["book.csv", "old"]]}}}))
    with pytest.raises(ConfigError, match="data have changed since it was begun; use --fresh"):
        here(copy)


def test_parts_that_nobody_wrote_are_missed(tmp_path):
    """A process that failed, or wrote to a folder that is not shared: the run must not say done."""

    class Idle(Local):
        def tables(self, *_):
            return iter(())

    config = load_config("hjb_sweep", SMALL)
    folder = RunFolder(tmp_path / "run", config)
    folder.open(fresh=False)
    with pytest.raises(ConfigError, match="24 of 24 parts are missing"):
        run(config, folder, say=lambda _: None, engine=Idle())
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "stopped"
    assert here(tmp_path / "run").code == 0


@pytest.mark.parametrize("left", [[".lock"], [".lock", "parts", "arrays"], [".lock", "resolved.toml.partial"]])
def test_a_folder_that_was_killed_in_its_first_moments_is_taken_up(tmp_path, left):
    root = tmp_path / "run"
    root.mkdir()
    for name in left:
        (root / name).mkdir() if name in ("parts", "arrays") else (root / name).write_text("")
    folder = RunFolder(root, load_config("hjb_sweep", SMALL))
    folder.open(fresh=False)
    folder.close()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match="not empty and no run folder"):
        RunFolder(tmp_path / "other", load_config("hjb_sweep", SMALL)).open(fresh=False)


def test_a_group_that_failed_is_tried_again(tmp_path):
    overrides = [*SMALL, "parameters.bid_decay=1.2", 'sweep.scheme=["uniformization","explicit"]', 'scheme="explicit"']
    config = load_config("hjb_sweep", overrides)
    layout = lay_out(config, construct(config))
    said = []
    for _ in range(2):
        folder = RunFolder(tmp_path / "run", config)
        folder.open(fresh=False)
        assert run(config, folder, say=said.append).metrics["sweep"] == {"rows": 768, "failed": 384}
    half = len(layout.parts) // 2
    assert any(f"{half} of them to do here" in line for line in said)


def test_only_one_process_works_in_a_folder(copy):
    config = load_config("hjb_sweep", SMALL)
    first, second = RunFolder(copy, config), RunFolder(copy, config)
    first.open(fresh=False)
    with pytest.raises(ConfigError, match="another process works in this run folder"):
        second.open(fresh=False)
    first.close()
    second.open(fresh=False)
    second.close()


def test_ctrl_c_keeps_finished_parts_and_the_next_run_continues(copy, whole, monkeypatch):
    for number in range(5, 24):
        (copy / "parts" / f"part-{number:05d}.parquet").unlink()
    write, written = RunFolder.write_part, []

    def interrupted(self, number, table):
        write(self, number, table)
        written.append(number)
        if len(written) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "write_part", interrupted)
    assert here(copy).code == INTERRUPTED
    assert json.loads((copy / "manifest.json").read_text())["status"] == "interrupted"
    monkeypatch.undo()
    assert written == [5, 6, 7, 8]
    assert here(copy).code == 0
    assert rows(copy).equals(rows(whole))
    assert (copy / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()


def test_a_write_that_fails_says_where_and_leaves_a_run_that_continues(copy, whole, monkeypatch):
    for number in range(5, 24):
        (copy / "parts" / f"part-{number:05d}.parquet").unlink()

    def full(self, *_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(OSError, match=r"part-00005\.parquet: cannot be written: .*No space left"):
        here(copy)
    monkeypatch.undo()
    assert not list(copy.rglob("*.partial*"))
    here(copy)
    assert rows(copy).equals(rows(whole))


@pytest.mark.thorough
def test_a_full_disk_ends_in_one_message_and_the_run_continues_elsewhere(tmp_path, whole):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        code, _, err = finish(start(tmp_path, "--out", "small/run"))
        assert code == 2
        assert "No space left" in err
        assert "run the same command again" in err
        shutil.copytree(small / "run", tmp_path / "run")
    finally:
        subprocess.run(["umount", str(small)], check=True)
    code, _, _ = finish(start(tmp_path, "--out", "run"))
    assert code == 0
    assert rows(tmp_path / "run").equals(rows(whole))


@pytest.mark.thorough
def test_a_folder_that_cannot_be_written_is_one_message(tmp_path):
    """Root may write anywhere, but not below a file."""
    (tmp_path / "file").write_text("")
    code, _, err = finish(start(tmp_path, "--out", "file/run"))
    assert code == 2
    assert "file/run" in err
    if os.geteuid():
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
        code, _, err = finish(start(tmp_path, "--out", "locked/run"))
        assert code == 2
        assert "Permission denied" in err


@pytest.mark.thorough
def test_a_peer_that_is_killed_ends_the_group_and_the_run_continues(tmp_path, whole):
    process = start(tmp_path, "--out", "run", "--engine", "distributed", "--workers", "2")
    parts, deadline = tmp_path / "run" / "parts", time.monotonic() + 120
    while time.monotonic() < deadline and len(list(parts.glob("part-*.parquet"))) < 2 and process.poll() is None:
        time.sleep(0.005)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    code, _, err = finish(process)
    assert code == INTERRUPTED
    assert "process 1 was ended by SIGKILL" in err
    assert "run the same command again" in err
    code, _, _ = finish(start(tmp_path, "--out", "run", "--engine", "distributed", "--workers", "2"))
    assert code == 0
    assert rows(tmp_path / "run").equals(rows(whole))


@pytest.mark.thorough
def test_a_launcher_that_is_told_to_stop_takes_its_processes_with_it(tmp_path):
    process = start(tmp_path, "--out", "run", "--engine", "distributed", "--workers", "2")
    deadline = time.monotonic() + 60
    children = []
    while time.monotonic() < deadline and len(children) < 2:
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    code, _, _ = finish(process)
    assert code == INTERRUPTED
    assert not [child for child in children if os.path.exists(f"/proc/{child}")]


def killed_and_continued(tmp_path, whole, n_kills, seed):
    """Kills the run at random moments, start-up included, then lets it end."""
    clock, kept = random.Random(seed), 0
    for _ in range(n_kills):
        process = start(tmp_path, "--out", "run")
        wait = clock.uniform(0.0, 6.0)
        try:
            process.communicate(timeout=wait)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        now = len(list((tmp_path / "run" / "parts").glob("part-*.parquet"))) if (tmp_path / "run").exists() else 0
        assert now >= kept, "a finished part was lost"
        if clock.random() < 0.5 and now > 2:  # so that there is something left to kill
            (tmp_path / "run" / "parts" / f"part-{clock.randrange(now):05d}.parquet").unlink(missing_ok=True)
            now -= 1
        kept = now
    code, _, _ = finish(start(tmp_path, "--out", "run"))
    assert code == 0
    assert rows(tmp_path / "run").equals(rows(whole))
    assert not list((tmp_path / "run").rglob("*.partial*"))


@pytest.mark.thorough
def test_kills_at_random_moments_lose_and_double_nothing(tmp_path, whole):
    killed_and_continued(tmp_path, whole, 4, seed=1)


@pytest.mark.slow
def test_a_hundred_kills_at_random_moments_lose_and_double_nothing(tmp_path, whole):
    killed_and_continued(tmp_path, whole, 100, seed=2)
