"""`mfamm`: run, list and check experiments. Imports jax only inside a command."""

import gc
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.progress import Progress

from mfamm_jax.experiments.printed import (
    metrics_table,
    say,
    show_comparison,
    show_configs,
    show_everything,
    show_named,
    show_outcome,
    size_of,
    stderr,
    stdout,
    table_of,
    warn,
)

EPILOG = """Start with: mfamm run quickstart

Exit codes: 0 done, 1 numerical failure, 2 usage, config or data, 3 a check failed, 4 some sweep rows failed, 130 interrupted and resumable"""
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, epilog=EPILOG)
USAGE, CHECK_FAILED, INTERRUPTED = 2, 3, 130
# Exceptions of libraries that mean a file or the machine, not the package.
FOREIGN = {
    "JaxRuntimeError": "the device, or another process, failed (out of memory: a smaller batch_rows)",
    "XlaRuntimeError": "the device, or another process, failed (out of memory: a smaller batch_rows)",
    "ComputeError": "a Parquet file cannot be read",
    "PanicException": "a Parquet file cannot be read",
    "BadZipFile": "an array file is damaged; --fresh makes it again",
}

ConfigName = Annotated[str, typer.Argument(metavar="CONFIG", help="config file, or the name of a shipped experiment")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="a.b=value, overrides the file")]
AsJson = Annotated[bool, typer.Option("--json", help="exactly one JSON object on stdout")]


def _load(
    name: str,
    overrides: list[str] | None,
    precision: str | None = None,
    seed: int | None = None,
    chunk: int | None = None,
) -> Any:
    from mfamm_jax.experiments.config import load_config

    given = {"precision": precision, "seed": seed, "chunk_size": chunk}
    extra = [f"{key}={value}" for key, value in given.items() if value is not None]
    return load_config(name, [*(overrides or []), *extra])


Engine = Annotated[
    Literal["local", "distributed", "ray"],
    typer.Option(help="who computes the sweep: this process on all its devices, several processes, a Ray cluster"),
]


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(f"mfamm-jax {version('mfamm-jax')}")
        raise typer.Exit
    return asked


@app.callback()
def describe(
    shows_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and stop")
    ] = False,
) -> None:
    """Market-making models in JAX: an experiment or a sweep from a config file to a run folder with numbers, figures and a report."""


@app.command()
def run(
    config: ConfigName,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="run folder; default runs/NAME-HASH")] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="what all random numbers are drawn from: same seed, same numbers; overrides the file"),
    ] = None,
    precision: Annotated[str | None, typer.Option(help="float32 or float64")] = None,
    fresh: Annotated[bool, typer.Option("--fresh/--resume", help="start again, or keep finished parts")] = False,
    chunk: Annotated[
        int | None,
        typer.Option(help="sweep rows in a part: a file, saved when it is finished; overrides chunk_size of the file"),
    ] = None,
    engine: Engine = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="processes on this machine, or Ray workers; default: what the cluster has")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="as `check`: validate, run nothing")] = False,
    as_json: AsJson = False,
) -> None:
    """Run an experiment or sweep and write its run folder and report."""
    if dry_run and as_json:
        raise ValueError("--json belongs to a run; --dry-run says in words what one would do")
    if dry_run:
        return _describe(_load(config, overrides, precision, seed, chunk))
    signal.signal(signal.SIGTERM, _interrupt)  # what a cluster sends before it takes the machine away
    gc.set_threshold(
        200_000, 50, 100
    )  # tracing makes objects by the million and no garbage in cycles: a tenth of a warm run
    if workers and engine == "local":
        raise ValueError("--workers belongs to --engine distributed or ray; local uses all devices of this process")
    if engine == "distributed" and workers and "MFAMM_COORDINATOR" not in os.environ:
        from mfamm_jax.experiments.launch import start_processes

        raise typer.Exit(start_processes(sys.argv[1:], workers, say))
    say_json = _only_json_on_stdout() if engine != "local" else typer.echo
    begin = time.perf_counter()
    from mfamm_jax.experiments.record import RunFolder
    from mfamm_jax.experiments.runner import enable_compile_cache, set_precision
    from mfamm_jax.experiments.runner import run as run_experiment

    loaded = _load(config, overrides, precision, seed, chunk)
    set_precision(loaded)
    enable_compile_cache()
    folder = RunFolder(Path(), loaded)
    folder.root = out or Path("runs") / f"{loaded.settings.name}-{folder.config_hash[:8]}"
    is_new = not folder.root.exists()
    chosen = _engine(engine, workers, loaded, folder, fresh)
    if chosen is None:
        return None
    warn(loaded.warnings)
    seconds = time.perf_counter() - begin
    try:
        with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
            outcome = run_experiment(loaded, folder, say=say, progress=progress, engine=chosen, import_seconds=seconds)
    except ValueError:
        if is_new and folder.is_empty():  # bad input leaves nothing half-written behind
            shutil.rmtree(folder.root)
        raise
    if as_json:
        say_json(json.dumps({"code": outcome.code, "folder": str(outcome.folder), "metrics": outcome.metrics}))
    else:
        show_outcome(outcome)
    if outcome.code == INTERRUPTED:
        stderr.print("interrupted; finished parts are kept: run the same command again to continue")
    raise typer.Exit(outcome.code)


def _engine(name: str, workers: int | None, loaded: Any, folder: Any, fresh: bool) -> Any:
    """The engine, with the folder opened; None in a process that has only helped."""
    from mfamm_jax.experiments.launch import Distributed, Ray, help_with_sweep
    from mfamm_jax.experiments.runner import Local

    if name != "distributed":
        folder.open(fresh)
        return Ray(workers, say) if name == "ray" else Local()
    distributed = Distributed()
    if distributed.rank:
        help_with_sweep(distributed, loaded, folder, say)
        return None
    folder.open(fresh)
    return distributed


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _only_json_on_stdout() -> Any:
    """Sends what libraries print there to stderr; returns a function that still reaches the real one."""
    real = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def write(text: str) -> None:
        real.write(text + "\n")
        real.flush()

    return write


@app.command()
def check(config: ConfigName, overrides: Overrides = None) -> None:
    """Validate a config and say what a run would do; nothing is run."""
    _describe(_load(config, overrides))


def _describe(loaded: Any) -> None:
    from mfamm_jax.experiments.config import construct
    from mfamm_jax.experiments.record import memory_bytes
    from mfamm_jax.experiments.runner import set_precision
    from mfamm_jax.experiments.sources import named_files
    from mfamm_jax.experiments.sweep import lay_out, row_bytes

    set_precision(loaded)
    experiment = construct(loaded)
    warn(loaded.warnings)
    files = named_files(loaded.tables)
    missing = [f"{setting}: {file}: no such file or folder" for setting, file in files if not Path(file).exists()]
    if missing:
        raise ValueError(f"{loaded.place}: {'; '.join(missing)}")
    data = f"; the data of {', '.join(dict.fromkeys(setting for setting, _ in files))} are read by `run` only"
    stdout.print(f"{loaded.place}: {f'settings are valid{data}' if files else 'valid'}", soft_wrap=True)
    if not loaded.sweep.n_rows:
        return stdout.print("no sweep")
    layout = lay_out(loaded, experiment)
    n_groups, n_parts = len(layout.groups), len(layout.parts)
    row, memory = row_bytes(loaded, experiment), memory_bytes()
    needed = row * min(layout.batch_rows, loaded.sweep.n_rows)
    stdout.print(
        f"{loaded.sweep.n_rows:,} sweep rows, {n_groups} compile group{'' if n_groups == 1 else 's'}, "
        f"batches of {layout.batch_rows} in about {size_of(needed)}, {n_parts} part{'' if n_parts == 1 else 's'}",
        soft_wrap=True,
    )
    if needed > memory:
        change = (
            f"set batch_rows to {memory // row:,} at most" if row <= memory else "one row is too large; coarser grids"
        )
        warn([f"a batch takes about {size_of(needed)}, this machine has {size_of(memory)}: {change}"])
    return None


@app.command("list")
def list_command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="a config, an experiment, or the first name of a table")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="settings of all experiments and tables")] = False,
) -> None:
    """Shipped configs; with a name the settings of it, with units, defaults and equations."""
    if every and name is not None:
        raise ValueError(f'give "{name}" or --all, not both')
    if every:
        show_everything()
    elif name is not None:
        show_named(name)
    else:
        show_configs()


@app.command()
def verify(
    cases: Annotated[list[Path] | None, typer.Option(help="case table; default: the shipped one")] = None,
    precision: Annotated[str, typer.Option(help="float32 or float64")] = "float64",
    as_json: AsJson = False,
) -> None:
    """Check the solvers on this machine against reference cases; exit code 3 if any fails."""
    from mfamm_jax.experiments.verify import verify_cases

    answer = verify_cases(cases or [], precision)
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        table = table_of("case", "status", "worst error", "tolerance", "reason")
        for case in answer["cases"]:
            numbers = ["" if case[name] is None else f"{case[name]:.2g}" for name in ("error", "tolerance")]
            table.add_row(case["id"], case["status"], *numbers, case["reason"])
        stdout.print(table)
        stdout.print(", ".join(f"{answer[name]} {name}" for name in ("passed", "failed", "skipped")))
    raise typer.Exit(CHECK_FAILED if answer["failed"] else 0)


@app.command()
def reproduce(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a finished run")],
    out: Annotated[Path | None, typer.Option(help="keep the second run here; default: a temporary folder")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a run again and compare: to the bit on the same machine and versions, else within its tolerances; exit code 3 if not."""
    from mfamm_jax.experiments.reproduce import reproduce as repeat
    from mfamm_jax.experiments.reproduce import run_config
    from mfamm_jax.experiments.runner import enable_compile_cache, set_precision

    config, manifest = run_config(folder)
    set_precision(config)
    enable_compile_cache()
    bar = Progress(console=stderr, transient=True, disable=not stderr.is_terminal)
    with tempfile.TemporaryDirectory(prefix="mfamm-") as own, bar as progress:
        answer = repeat(folder, config, manifest, out or Path(own) / "again", say, progress)
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        show_comparison(answer)
    raise typer.Exit(0 if answer["same"] else CHECK_FAILED)


@app.command()
def report(runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run folders")]) -> None:
    """Make the HTML of finished runs again."""
    from mfamm_jax.experiments.report import write_report

    for folder in runs:
        stdout.print(write_report(folder))


@app.command()
def export(
    config: Annotated[
        str | None, typer.Argument(metavar="[CONFIG_OR_RUN]", help="config file, shipped name or run folder")
    ] = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="new or empty folder for the project")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the files of an older export")] = False,
    check: Annotated[Path | None, typer.Option(help="verify this project instead of writing one")] = None,
    tiers: Annotated[
        str, typer.Option(help="of --check: 0 files and model, 1 C++, 2 ap_int, 3 RTL, 4 place and route")
    ] = "0,1,2,3",
    as_json: AsJson = False,
) -> None:
    """Write a quote kernel as an FPGA project, or check one; a check that could not run everything ends with 4, a failed one with 3."""
    if (check is None) == (config is None) or (check is None and out is None):
        raise ValueError("give a config and --out FOLDER to write a project, or --check FOLDER to verify one")
    if check is not None:
        return _check_export(check, tiers, as_json)
    from mfamm_jax.experiments.fpga_project import export_project

    assert config is not None
    assert out is not None
    found = export_project(config, overrides or [], out, overwrite, say)
    if as_json:
        typer.echo(json.dumps(found))
        return None
    warn(found.pop("warnings"))
    stdout.print(metrics_table(found))
    return stdout.print(f"verify  mfamm export --check {out}    or    make -C {out} check", soft_wrap=True)


def _check_export(folder: Path, tiers: str, as_json: bool) -> None:
    wanted = tuple(int(tier) if tier.strip() in ("0", "1", "2", "3", "4") else -1 for tier in tiers.split(","))
    if -1 in wanted:
        raise ValueError(f'--tiers is "{tiers}", expected some of 0,1,2,3,4')
    from mfamm_jax.fpga_export.verify import TIERS, verify

    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    results = verify(folder, wanted, say)
    if as_json:
        rows = [{"tier": r.tier, "status": r.status, "detail": r.detail, "seconds": r.seconds} for r in results]
        typer.echo(json.dumps({"tiers": rows}))
    else:
        table = table_of("tier", "what", "status", "seconds", "detail")
        for r in results:
            table.add_row(str(r.tier), TIERS[r.tier], r.status, f"{r.seconds:.1f}", r.detail)
        stdout.print(table)
    status = {r.status for r in results}
    raise typer.Exit(CHECK_FAILED if "fail" in status else 4 if "skip" in status else 0)


data = typer.Typer(no_args_is_help=True, help="Generate order flow, or print the facts of a data file.")
app.add_typer(data, name="data")


@data.command()
def generate(
    preset: Annotated[str, typer.Argument(help="small_tick, quiet_small_tick or large_tick")],
    out: Annotated[Path, typer.Option(help="folder for the files")],
    duration: Annotated[float, typer.Option(help="seconds")] = 600.0,
    seed: Annotated[int, typer.Option(help="same seed, same files")] = 0,
    pitfall: Annotated[
        list[str] | None, typer.Option(help="halts, dummy_levels, ties or crossed_row; repeatable")
    ] = None,
) -> None:
    """Write seeded order flow as LOBSTER files, with truth.json beside them."""
    from mfamm_jax.experiments.sources import generate_files

    for path in generate_files(preset, duration, seed, out, tuple(pitfall or ())):
        stdout.print(path)


@data.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="file, or folder of files that belong together")],
    kind: Annotated[str | None, typer.Option(help="format; default: told by names and content")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--set", help="setting of the format, e.g. symbol=AAPL; see mfamm list market")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Events, clocks, spreads, trade rates and gaps of a data file."""
    from mfamm_jax.experiments.config import resolve_market
    from mfamm_jax.experiments.plain import plain
    from mfamm_jax.experiments.sources import guess_kind
    from mfamm_jax.market.facts import session_facts

    source = resolve_market({"path": str(path), "kind": kind or guess_kind(path)}, option or [])
    session, _ = source.load(Path(), 0)
    facts = plain(session_facts(session)) | {"notes": list(session.notes)}
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        stdout.print(metrics_table({name: str(x) if isinstance(x, dict | list) else x for name, x in facts.items()}))


@app.command()
def doctor() -> None:
    """Versions, devices, extras and the compile cache of this machine."""
    import jax

    from mfamm_jax.experiments.record import EXTRAS, PACKAGES, installed, versions
    from mfamm_jax.experiments.runner import enable_compile_cache

    enable_compile_cache()
    table = table_of("what", "found", "remark")
    for name, number in versions().items():
        if name in ("python", *PACKAGES):
            table.add_row(name, number, "")
    for extra, names in EXTRAS.items():
        for name in names:
            found = installed(name)
            table.add_row(name, found or "missing", f"extra {extra}" if found else f'pip install "mfamm-jax[{extra}]"')
    table.add_row("devices", ", ".join(str(device) for device in jax.devices()), "")
    table.add_row("compile cache", str(jax.config.jax_compilation_cache_dir), "")
    stdout.print(table)


def main() -> None:
    """Entry point: errors are one block, without a traceback."""
    try:
        app()
    except KeyboardInterrupt:
        stderr.print("interrupted; finished parts are kept: run the same command again to continue")
        raise SystemExit(INTERRUPTED) from None
    except (ValueError, OSError) as error:
        stderr.print(f"error: {error}", soft_wrap=True)
        if isinstance(error, OSError):
            stderr.print("nothing finished is lost: mend that and run the same command again")
        raise SystemExit(USAGE) from None
    except Exception as error:
        said = FOREIGN.get(type(error).__name__)
        if said is None:
            raise  # a fault of ours: its traceback is wanted
        stderr.print(f"error: {said}: {str(error).strip().splitlines()[0]}", soft_wrap=True)
        stderr.print("nothing finished is lost: mend that and run the same command again")
        raise SystemExit(USAGE) from None
