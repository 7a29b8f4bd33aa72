"""Every snippet of README.md and docs/**/*.md runs, page by page in a folder of its own, in the order of the page.

A `python` block is executed, a `console` block's `$` lines are run by the shell, a `toml` block that begins with `# NAME.toml` is saved. The lines
below a `$` line, and a `text` block below a `python` block, are what must be printed: `...` stands for anything, a number may differ by one in its
last digit, blanks count alike. Command lines of `mfamm` elsewhere are parsed and their configs validated, not run.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import polars as pl
import pytest
import typer

from mfamm_jax.experiments.cli import app
from mfamm_jax.experiments.config import load_config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Run by test_readme.py (one python block each) and test_extending.py, which assert more about them than a page can.
RUN_ELSEWHERE = {"README.md", "docs/calibration.md", "docs/replay.md", "docs/extending.md"}
# What a page's snippets take as given: the run that is read, the names of a fragment.
GIVEN = {
    "docs/sweeps.md": "mfamm run quickstart --out runs/sweep --set market.duration=120 --set simulation.n_paths=64 --set hjb.n_steps=8"
    " --set hjb.max_inventory=3 --set risk.n_bootstrap=10 --set sweep.hjb.risk_aversion=[0.05,0.2] --set sweep.hjb.decay_scale=[1.0]",
}
MARKS = {
    "docs/sweeps.md": pytest.mark.thorough,
    "docs/tutorials/calibrate.md": pytest.mark.thorough,
    "docs/tutorials/first-quotes.md": pytest.mark.thorough,
    "docs/tutorials/fpga.md": pytest.mark.thorough,
    "docs/tutorials/lobster-file.md": pytest.mark.thorough,
    "docs/tutorials/risk-constraint.md": pytest.mark.thorough,
    "docs/tutorials/sweep.md": pytest.mark.thorough,
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
# Words that stand for a path or a name of the reader's own.
PLACEHOLDER = {"CONFIG": "quickstart"}
# docs/replay.md means the configs of that experiment.


def name(page):
    return str(page.relative_to(ROOT))


def blocks(page):
    return FENCE.findall(page.read_text())


def marked(pages):
    return [pytest.param(page, id=name(page), marks=MARKS.get(name(page), ())) for page in pages]


def is_run(page):
    kinds = {kind for kind, _ in blocks(page)}
    return "console" in kinds or ("python" in kinds and name(page) not in RUN_ELSEWHERE)


def unit(number):
    """One in the last digit."""
    digits, _, power = number.partition("e")
    return 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))


def check_printed(shown, printed):
    """`...` stands for anything, numbers differ by one in the last digit shown at most, blanks count alike."""
    pieces = [re.split(f"({NUMBER.pattern})", piece.strip()) for piece in shown.split("...")]
    numbers = [number for piece in pieces for number in piece[1::2]]

    def pattern(piece):
        texts = [r"\s*".join(map(re.escape, text.split())) for text in piece[::2]]
        return rf"\s*({NUMBER.pattern})\s*".join(texts)

    found = re.fullmatch(r"\s*" + r".*?".join(pattern(piece) for piece in pieces) + r"\s*", printed, re.DOTALL)
    assert found, f"shown:\n{shown}\nprinted:\n{printed}"
    for expected, got in zip(numbers, found.groups(), strict=True):
        difference = abs(float(expected.replace(",", "")) - float(got.replace(",", "")))
        assert difference <= 1.01 * unit(expected), f"{got} is printed, {expected} is shown; printed:\n{printed}"


def shell(command, folder, check=True):
    """Both streams of a command line, in which `mfamm` is this package's."""
    tools = folder.parent / "tools"
    if not tools.exists():
        tools.mkdir()
        (tools / "mfamm").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m mfamm_jax.experiments "$@"\n')
        (tools / "mfamm").chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "JAX_PLATFORMS": "cpu", "COLUMNS": "140"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def run_console(block, folder, compares):
    """Each command with the lines shown below it; none shown, none compared."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, shown = re.fullmatch(r"((?:[^\n]*\\\n)*[^\n]*)\n?(.*)", part, re.DOTALL).groups()
        printed = shell(command, folder)
        if compares and shown.strip():
            check_printed(shown, printed)


def save(kind, block, folder):
    if kind == "toml" and (title := re.match(r"# (\S+\.toml)\n", block)):
        (folder / title[1]).write_text(block)


def run_page(page, folder, n_skipped=0, compares=True):
    """All blocks but the first ones, the names of python ones shared."""
    if name(page) in GIVEN:
        shell(GIVEN[name(page)], folder)
    names: dict = {}
    printed = None
    for kind, block in blocks(page)[n_skipped:]:
        if kind == "text":
            assert printed is not None, f"{page}: a text block that no python block is above"
            if compares:
                check_printed(block, printed)
        printed = None
        if kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as stream:
                exec(compile(block, str(page), "exec"), names)
            printed = stream.getvalue()
        elif kind == "console":
            run_console(block, folder, compares)
        save(kind, block, folder)


@pytest.mark.parametrize(
    ("shown", "printed", "agree"),
    [
        ("a 0.53 ... [b 1,200]", "a  0.54 and\nmore [b 1200 ]", True),
        ("a 0.53", "a 0.55", False),
        ("a 1.2e-07", "a 1.3e-07", True),
        ("a ... b", "a c", False),
        ("s13", "s14", False),
    ],
)
def test_what_is_printed_must_be_what_is_shown(shown, printed, agree):
    with contextlib.nullcontext() if agree else pytest.raises(AssertionError):
        check_printed(shown, printed)


@pytest.mark.parametrize("page", marked(filter(is_run, PAGES)))
def test_every_snippet_of_the_page_runs_and_prints_what_is_shown(page, tmp_path, monkeypatch):
    folder = tmp_path / "page"
    folder.mkdir()
    monkeypatch.chdir(folder)
    run_page(page, folder)


@pytest.mark.thorough
def test_the_lobster_tutorial_runs_on_a_recorded_session(data_folder, tmp_path, monkeypatch):
    folder = tmp_path / "page"
    (folder / "mine").mkdir(parents=True)
    for file in (data_folder / "lobster_aapl_20120621").glob("AAPL*_10.csv.gz"):
        (folder / "mine" / file.name).symlink_to(file)
    monkeypatch.chdir(folder)
    run_page(ROOT / "docs/tutorials/lobster-file.md", folder, n_skipped=1, compares=False)
    fills = pl.read_parquet(folder / "runs/rule/logs/fills.parquet")
    assert fills.height > 100
    assert fills["price"].is_between(550, 600).all()


def command_lines(page):
    """`mfamm ...` in blocks that are not run and between backquotes, from behind `mfamm` to the comment; whether it is only spoken of."""
    text = page.read_text()
    lines = [(line, False) for kind, block in blocks(page) if kind in ("", "sh", "bash") for line in block.splitlines()]
    spoken_of = set(re.findall(r"`(mfamm [^`\n]*)`", FENCE.sub("", text)))
    for line, spoken in lines + [(line, True) for line in sorted(spoken_of)]:
        if not re.search(r"(^|[ /])mfamm ", line):
            continue
        words = shlex.split(re.sub(r"\$\w+", "PATH", line), comments=True)
        places = [i for i, word in enumerate(words) if word == "mfamm" or word.endswith("/mfamm")]
        if places and "..." not in words:
            yield [PLACEHOLDER.get(word, word) for word in words[places[0] + 1 :]], spoken


def check_command(arguments, spoken, has_own_configs):
    """The sub-command and its options exist, the config is found, every --set is one of its settings."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert arguments, "a group without a sub-command"
        word, *arguments = arguments
        assert word in command.commands, word
        command = command.commands[word]
    if spoken and not arguments:
        return
    needs_config = any(option.name == "config" and option.required for option in command.params)
    if spoken and needs_config and arguments[0].startswith("-"):
        arguments = ["quickstart", *arguments]  # `mfamm run --fresh`: of any config
    given = command.make_context(command.name, list(arguments)).params
    config, overrides = given.get("config"), list(given.get("overrides") or ())
    # Runs are there only after a run, and modules of the reader's own (market.kind=my_desk:Source) only at the reader's.
    if config is None or config.startswith("runs/") or any(re.search(r"=\w+:\w", item) for item in overrides):
        return
    path = next((path for path in (ROOT / config, Path(config)) if path.is_file()), config)
    if not (has_own_configs and str(path).endswith(".toml") and path == config):
        load_config(str(path), overrides)


@pytest.mark.parametrize("page", marked(page for page in PAGES if list(command_lines(page))))
def test_every_command_line_of_the_page_parses(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind, block in blocks(page):
        save(kind, block, tmp_path)
    for arguments, spoken in command_lines(page):
        try:
            check_command(arguments, spoken, name(page) in RUN_ELSEWHERE)
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{name(page)}: mfamm {shlex.join(arguments)}: {error}") from error


@pytest.mark.parametrize("page", [pytest.param(page, id=name(page)) for page in PAGES])
def test_every_toml_block_is_toml_and_every_link_leads_somewhere(page):
    for kind, block in blocks(page):
        if kind == "toml":
            tomllib.loads(block)
    for target in re.findall(r"\]\(([^)#]+)", FENCE.sub("", page.read_text())):
        assert target.startswith("https://") or (page.parent / target).exists(), target
