import gzip
import json
import os
import signal
import subprocess
import sys
import time

import polars as pl
import pytest

COMMAND = [sys.executable, "-m", "mfamm_jax.experiments"]
SWEEP = ["--set", "sweep.parameters.volatility=[0.1,0.3,0.5,0.6]", "--set", "sweep.parameters.risk_aversion=[0.1,0.2]"]


def mfamm(*arguments, cwd, check=True):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "COLUMNS": "200"}
    done = subprocess.run([*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, env=environment)
    assert not check or done.returncode == 0, done.stderr
    return done


def rows(folder):
    return pl.concat([pl.read_parquet(p) for p in sorted((folder / "parts").glob("*.parquet"))]).sort("config_id")


def test_a_run_writes_its_folder_and_repeats_to_the_bit(tmp_path):
    one = mfamm("run", "hjb_sweep", *SWEEP, "--out", "one", "--json", cwd=tmp_path)
    answer = json.loads(one.stdout)
    assert answer["code"] == 0
    assert answer["metrics"]["sweep"] == {"rows": 128, "failed": 0}
    mfamm("run", "hjb_sweep", *SWEEP, "--out", "two", cwd=tmp_path)
    assert (tmp_path / "one/metrics.json").read_bytes() == (tmp_path / "two/metrics.json").read_bytes()
    assert rows(tmp_path / "one").equals(rows(tmp_path / "two"))
    assert len((tmp_path / "one/report.html").read_text()) > 20_000
    refused = mfamm("run", "hjb_sweep", "--out", "one", cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert "parameters.volatility" in refused.stderr


@pytest.mark.thorough
def test_a_killed_sweep_resumes_with_every_row_once_and_the_same_numbers(tmp_path):
    arguments = ["run", "hjb_sweep", "--set", "chunk_size=32", "--set", "n_steps=40"]
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--out", "killed"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    parts, deadline = tmp_path / "killed" / "parts", time.monotonic() + 120
    while time.monotonic() < deadline and len(list(parts.glob("*.parquet"))) < 3 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    n_before = len(list(parts.glob("*.parquet")))
    assert 3 <= n_before < 128
    kept = (parts / "part-00000.parquet").stat().st_mtime_ns
    mfamm(*arguments, "--out", "killed", cwd=tmp_path)
    mfamm(*arguments, "--out", "whole", cwd=tmp_path)
    table = rows(tmp_path / "killed")
    assert table["config_id"].to_list() == list(range(4096))
    assert table.equals(rows(tmp_path / "whole"))
    assert (parts / "part-00000.parquet").stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("parameters.risk_aversoin=0.1", 'did you mean "risk_aversion"'),
        ("parameters.ask_intensity=-1", "ask_intensity: is -1, expected > 0"),
        ("parameters.horizon=0", "horizon: is 0, expected > 0"),
        ("max_inventory=0", "max_inventory: is 0, expected >= 1"),
        ("parameters.volatility=nan", "volatility: is NaN"),
        ('parameters.volatility="high"', "expected a number"),
        ("sweep.parameters.gamma=[1]", "no such setting to sweep"),
        ('scheme="magic"', "expected one of"),
    ],
)
def test_bad_settings_name_the_place_and_leave_nothing_behind(tmp_path, setting, said):
    done = mfamm("run", "hjb_sweep", "--set", setting, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
def test_unknown_config_is_suggested(tmp_path):
    done = mfamm("run", "quickstrat", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert 'did you mean "quickstart"' in done.stderr


def test_help_starts_without_jax(tmp_path):
    code = "import sys; sys.argv = ['mfamm', '--help']\nfrom mfamm_jax.experiments.cli import app\n"
    code += "try: app()\nexcept SystemExit: pass\nassert 'jax' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("config", "unneeded"),
    [
        ("hjb_sweep", {"flax", "optax", "scipy.stats", "matplotlib", "xgboost", "mfamm_jax.market.loaders.lobster"}),
        ("quickstart", {"flax", "scipy.stats", "matplotlib", "xgboost", "mfamm_jax.experiments.hummingbot"}),
    ],
)
def test_a_run_imports_what_it_needs_and_no_more(config, unneeded):
    """Every experiment is imported on demand: half a second to a second of start-up each for flax, scipy.stats and matplotlib."""
    code = "import sys; from mfamm_jax.experiments import launch, runner; from mfamm_jax.experiments.config import construct, load_config"
    code += f"; construct(load_config({config!r})); print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "jax" in loaded
    assert not loaded & unneeded
    assert not loaded & {"ott", "distrax", "evosax", "pennylane", "pywt", "ray"}


def test_importing_the_package_sets_no_flag():
    code = "import mfamm_jax, jax; mfamm_jax.solve_hjb; assert not jax.config.jax_enable_x64"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.thorough
def test_data_commands_write_and_describe_files(tmp_path):
    mfamm("data", "generate", "small_tick", "--out", "flow", "--duration", "60", "--seed", "3", cwd=tmp_path)
    truth = json.loads((tmp_path / "flow" / "truth.json").read_text())
    facts = json.loads(mfamm("data", "inspect", "flow", "--json", cwd=tmp_path).stdout)
    assert facts["events_by_kind"] == truth["counts"]
    assert 10 < facts["spread_ticks_time_mean"] < 25


def damage(folder, what):
    """One generated pair, damaged."""
    mfamm("data", "generate", "small_tick", "--out", "flow", "--duration", "40", cwd=folder)
    message, book = sorted((folder / "flow").glob("*.gz"))
    lines = gzip.decompress(message.read_bytes()).splitlines(keepends=True)
    if what == "truncated":
        book.write_bytes(book.read_bytes()[:2000])
    elif what == "rows":
        message.write_bytes(gzip.compress(b"".join(lines[:-5])))
    elif what == "nan":
        lines[9] = b"nan,1,5,100,5850000,1\n"
        message.write_bytes(gzip.compress(b"".join(lines)))
    elif what == "empty":
        message.write_bytes(gzip.compress(b""))
    else:
        message.unlink()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("truncated", "truncated or damaged gzip"),
        ("rows", "expected as many"),
        ("nan", "row 10: time is 'nan'"),
        ("empty", "empty; expected LOBSTER rows"),
        ("missing", "no pair"),
    ],
)
def test_bad_data_is_one_message_and_leaves_nothing_behind(tmp_path, what, said):
    damage(tmp_path, what)
    done = mfamm("run", "lobster", "--set", "market.path=flow", "--out", "out", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.thorough
def test_list_shows_units_equations_and_usual_ranges(tmp_path):
    shown = mfamm("list", "features", cwd=tmp_path).stdout
    for text in ("vpin_smoothing", "0.25", "usual"):
        assert text in shown
    assert "risk_aversion" not in shown
    triplet = mfamm("list", "triplet", cwd=tmp_path).stdout
    assert "0.3" in triplet
    assert "usual 0.2 to 0.5" in triplet
    # Text in brackets is not taken for colours, and lists look as in a file.
    venues = mfamm("list", "venues", cwd=tmp_path).stdout
    assert "[venue, venue," in venues
    assert "[0.3, 0.1," in venues
    assert "…" not in venues  # a name that is cut off cannot be typed
    assert mfamm("list", "nonsense", cwd=tmp_path, check=False).returncode == 2


@pytest.mark.slow
def test_a_report_can_be_made_again_and_unusual_values_are_said(tmp_path):
    few = ["--set", "sweep.parameters.volatility=[0.1]", "--set", "sweep.parameters.risk_aversion=[0.1]"]
    mfamm("run", "hjb_sweep", *few, "--out", "one", cwd=tmp_path)
    before = (tmp_path / "one" / "report.html").read_bytes()
    (tmp_path / "one" / "report.html").unlink()
    mfamm("report", "one", cwd=tmp_path)
    assert (tmp_path / "one" / "report.html").read_bytes() == before
    assert mfamm("report", "two", cwd=tmp_path, check=False).returncode == 2
