"""Config -> run folder: stages of the base run, then the sweep in resumable parts."""

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import polars as pl

from mfamm_jax.experiments.compiled import compile_cache, compiled
from mfamm_jax.experiments.config import Config, ConfigError, construct
from mfamm_jax.experiments.experiment import AbstractExperiment
from mfamm_jax.experiments.plain import flatten, plain
from mfamm_jax.experiments.record import RunFolder, flags_that_matter, git_commit, machine, versions
from mfamm_jax.experiments.registry import outside_sources
from mfamm_jax.experiments.sensitivities import (
    check_paths,
    differentiated,
    moved_columns,
    sensitivity_metrics,
)
from mfamm_jax.experiments.sweep import Layout, Part, Ready, compute_parts, lay_out, stack, with_values

DONE, FAILED, PARTIAL, INTERRUPTED = 0, 1, 4, 130
# Relative and absolute differences that another machine or version may make.
TOLERANCES = {"float32": (1e-3, 1e-4), "float64": (1e-6, 1e-8)}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Exit code, metrics and where everything lies."""

    code: int
    metrics: dict[str, Any]
    folder: Path


@runtime_checkable
class Workers(Protocol):
    """Who computes the parts of a sweep."""

    def share(self, layout: Layout, todo: Sequence[Part]) -> Sequence[Part]:
        """What this process has to compute of what is not finished yet; called once, early."""
        ...

    def tables(
        self, config: Config, layout: Layout, todo: Sequence[Part], ready: Ready, note: Callable[[dict], None]
    ) -> Iterator[tuple[Part, pl.DataFrame]]:
        """The given parts, in any order."""
        ...

    def finish(self) -> None:
        """Returns when the other processes have written theirs."""
        ...


class Local:
    """This process alone, on all its devices."""

    def share(self, layout: Layout, todo: Sequence[Part]) -> Sequence[Part]:
        """Everything."""
        return todo

    def tables(
        self, config: Config, layout: Layout, todo: Sequence[Part], ready: Ready, note: Callable[[dict], None]
    ) -> Iterator[tuple[Part, pl.DataFrame]]:
        """All of them."""
        yield from compute_parts(layout, todo, jax.random.key(config.settings.seed), ready, note)

    def finish(self) -> None:
        """Nobody else."""


def set_precision(config: Config) -> None:
    """The one place that sets JAX's switch; must run before any array exists."""
    jax.config.update("jax_enable_x64", config.settings.precision == "float64")


def enable_compile_cache() -> None:
    """Keeps compiled programs between runs, unless the user's environment says where (or that it should not)."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(compile_cache()))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def run(
    config: Config,
    folder: RunFolder,
    *,
    say: Callable[[str], None],
    progress: Any = None,
    engine: Workers | None = None,
    import_seconds: float | None = None,
) -> Outcome:
    """Runs the experiment and its sweep in an opened folder. What a run of the same config has finished is kept."""
    engine = engine or Local()
    started = time.time()
    manifest: dict[str, Any] = {
        "name": config.settings.name,
        "status": "running",
        "argv": sys.argv[1:],
        "git_commit": git_commit(),
        "seed": config.settings.seed,
        "precision": config.settings.precision,
        "config_hash": folder.config_hash,
        "versions": versions(),
        "machine": machine(),
        "device": str(jax.devices()[0]),
        "devices": {"kind": jax.devices()[0].device_kind, "local": jax.local_device_count(), "all": jax.device_count()},
        "engine": type(engine).__name__.lower(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(started)),
        "warnings": list(config.warnings),
    }
    if outside := outside_sources(config.tables):
        manifest["outside"] = outside
    folder.write_json("manifest.json", manifest)
    say = folder.logged(say)
    metrics: dict[str, Any] = {}
    try:
        experiment = construct(config)
        check_paths(experiment, config.settings.sensitivities)
        layout = lay_out(config, experiment) if config.sweep.n_rows else None
        folder.stamp = stamp(config, layout)
        mine = engine.share(layout, unfinished(layout, folder)) if layout else []
        manifest["tolerances"] = {"*": TOLERANCES[config.settings.precision]} | experiment.tolerances()
        prepared, base = _base(config, experiment, folder, say, progress)
        metrics = base["metrics"]
        stages = ({} if import_seconds is None else {"import": {"total": round(import_seconds, 2)}}) | base["stages"]
        manifest |= {"stages": stages} | base["provenance"]
        code = DONE if metrics.get("ok", True) else FAILED
        if layout:
            begin = time.perf_counter()
            sweep = run_sweep(config, layout, mine, folder, say, progress, (experiment, prepared), engine)
            metrics["sweep"] = {name: sweep.pop(name) for name in ("rows", "failed")}
            stages["sweep"] = {"total": round(time.perf_counter() - begin, 2)}
            manifest["sweep"] = sweep
            code = PARTIAL if metrics["sweep"]["failed"] and code == DONE else code
        else:
            engine.finish()
        folder.write_json("metrics.json", metrics)
        manifest |= {"status": {DONE: "done", FAILED: "failed", PARTIAL: "partial"}[code]}
        manifest["wall_seconds"] = round(time.time() - started, 2)
        folder.write_json("manifest.json", manifest)
        from mfamm_jax.experiments.report import write_report  # matplotlib: a second that errors need not wait for

        write_report(folder.root)
    except KeyboardInterrupt:
        manifest["status"] = "interrupted"
        folder.write_json("manifest.json", manifest)
        return Outcome(INTERRUPTED, metrics, folder.root)
    except BaseException:
        with contextlib.suppress(OSError):  # a full disk is why we are here, perhaps
            folder.write_json("manifest.json", manifest | {"status": "stopped"})
        raise
    finally:
        folder.close()
    return Outcome(code, metrics, folder.root)


def _base(
    config: Config, experiment: AbstractExperiment, folder: RunFolder, say: Callable[[str], None], progress: Any
) -> tuple[Any, dict[str, Any]]:
    """Prepares and runs the stages of the config's own parameters, unless an earlier run of the same config has done so.

    Returns:
        Prepared data; metrics, seconds per stage and what the manifest says about the data.
    """
    begin = time.perf_counter()
    prepared = experiment.prepare(folder.root, config.settings.seed, say, progress)
    stages: dict[str, Any] = {"prepare": {"total": round(time.perf_counter() - begin, 2)}}
    say(f"prepare   {stages['prepare']['total']:6.1f} s")
    source = plain(experiment.provenance(prepared))
    known = _finished_base(folder)
    if known:
        if known["source"] != source:
            raise ConfigError(f"{folder.root}: its data have changed since it was begun; use --fresh, or another --out")
        say("base      finished earlier")
        return prepared, known
    key = jax.random.key(config.settings.seed)
    plan, reason = experiment.plan(stack(experiment, {}, 1), prepared)
    say(f"scheme    {reason}")
    results: dict[str, Any] = {}
    for number, (name, stage) in enumerate(experiment.stages(plan)):
        begin = time.perf_counter()
        arguments = experiment, prepared, results, jax.random.fold_in(key, number)
        program, times = compiled(stage, *arguments)
        running = time.perf_counter()
        results |= jax.block_until_ready(program(*arguments))
        now = time.perf_counter()
        stages[name] = {"total": round(now - begin, 2)} | times | {"run": round(now - running, 3)}
        compiling = (
            "from the cache" if times["cached"] else f"of which {times['trace'] + times['compile']:.1f} s compiling"
        )
        say(f"{name:9} {stages[name]['total']:6.1f} s, {compiling}")
    arrays, told = {}, {}
    if paths := config.settings.sensitivities:
        begin = time.perf_counter()
        arguments = experiment, prepared, key
        around, _ = experiment.plan(stack(experiment, moved_columns(experiment, paths), 2 * len(paths) + 1), prepared)
        try:
            program, times = compiled(lambda e, p, k: differentiated(e, around, p, k, paths), *arguments)
        except TypeError as error:  # jax's word for a rule that only goes backwards
            raise ConfigError(
                f"sensitivities: {config.tables['experiment']} cannot be differentiated forwards: {error}"
            ) from error
        arrays = {"sensitivity": (found := program(*arguments))}
        told = {"sensitivities": sensitivity_metrics(found, paths)}
        stages["sensitivities"] = {"total": round(time.perf_counter() - begin, 2)} | times
        say(f"sensitivities {stages['sensitivities']['total']:.1f} s")
    begin = time.perf_counter()
    metrics = plain(experiment.metrics(plan, prepared, results, key) | told)
    folder.write_arrays("base", flatten(experiment.kept(prepared, results) | arrays))
    logs = {name: folder.write_log(name, table) for name, table in experiment.logs(prepared, results).items()}
    for name, session in experiment.sessions(prepared, results).items():
        folder.write_session(name, session)
    stages["metrics"] = {"total": round(time.perf_counter() - begin, 2)}
    provenance = source | ({"logs": logs} if logs else {})
    base = {"metrics": metrics, "stages": stages, "provenance": provenance, "source": source, "stamp": folder.stamp}
    folder.write_json("base.json", base)
    return prepared, base


def _finished_base(folder: RunFolder) -> dict[str, Any] | None:
    """Metrics and stages of an earlier run by the same versions on the same devices, if they are whole."""
    try:
        base = json.loads((folder.root / "base.json").read_text(encoding="utf-8"))
        with (folder.root / "arrays" / "base.npz").open("rb") as raw, np.load(raw) as file:
            for name in file.files:
                file[name]
    except (OSError, ValueError, zipfile.BadZipFile, EOFError):
        return None
    wanted = {"metrics", "stages", "provenance", "source", "stamp"}
    return base if isinstance(base, dict) and wanted <= base.keys() and base["stamp"] == folder.stamp else None


def stamp(config: Config, layout: Layout | None) -> str:
    """Digest of what decides the bits of a result beside the config: versions, devices, rows of a batch."""
    here = machine()
    here |= {"XLA_FLAGS": flags_that_matter(here["XLA_FLAGS"])}
    facts = [versions(), git_commit(), here, jax.devices()[0].device_kind, layout.batch_rows if layout else 0]
    facts += [outside_sources(config.tables)] if outside_sources(config.tables) else []
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def unfinished(layout: Layout, folder: RunFolder) -> list[Part]:
    """Parts that are not there yet."""
    folder.drop_parts_after(len(layout.parts))
    return [part for part in layout.parts if not folder.is_finished(part.number, part.ids)]


def run_sweep(
    config: Config,
    layout: Layout,
    mine: Sequence[Part],
    folder: RunFolder,
    say: Callable[[str], None],
    progress: Any,
    base: tuple[AbstractExperiment, Any],
    engine: Workers,
) -> dict[str, Any]:
    """Computes this process' parts; returns how many rows there are, how many failed, and what compiling cost."""
    n_groups, n_rows = len(layout.groups), layout.sweep.n_rows
    say(
        f"sweep     {n_rows:,} rows, {n_groups} compile group{'s' if n_groups > 1 else ''}, {len(layout.parts)} parts"
        + (f", {len(mine)} of them to do here" if len(mine) < len(layout.parts) else "")
    )
    groups: list[dict[str, Any]] = []
    task = progress.add_task("sweep", total=n_rows) if progress else None
    if progress:
        progress.advance(task, n_rows - sum(len(part.ids) for part in mine))
    ready = ready_for(config, base, folder.root / "groups")
    for part, table in engine.tables(config, layout, mine, ready, groups.append):
        folder.write_part(part.number, table)
        if progress:
            progress.advance(task, len(part.ids))
    engine.finish()
    missing = sum(not folder.part(part.number).is_file() for part in layout.parts)
    if missing:
        raise ConfigError(
            f"{folder.root}: {missing} of {len(layout.parts)} parts are missing: a process failed, or the folder is not shared by all of them; "
            "finished parts are kept: run the same command again"
        )
    sizes = {"batch_rows": layout.batch_rows, "chunk_size": layout.chunk_size}
    return {"rows": n_rows, "failed": folder.list_failed(), "compile_groups": groups} | sizes


def ready_for(config: Config, base: tuple[AbstractExperiment, Any], folder: Path) -> Ready:
    """Experiment and prepared data of a group whose static settings differ from the base run's.

    Generated data go to a folder of their own, so that the base run's stay what its report describes.
    """

    def ready(values: dict[str, Any]) -> tuple[AbstractExperiment, Any]:
        if not values:
            return base
        experiment = with_values(config, values)
        name = "-".join(str(value) for value in values.values())
        root = folder / "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
        return experiment, experiment.prepare(root, config.settings.seed, lambda _: None)

    return ready
