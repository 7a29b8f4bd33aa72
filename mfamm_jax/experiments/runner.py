"""Config -> run folder: stages of the base run, then the sweep in resumable chunks."""

import dataclasses
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from mfamm_jax.experiments.config import Config, construct
from mfamm_jax.experiments.plain import flatten, plain
from mfamm_jax.experiments.record import RunFolder, git_commit, versions
from mfamm_jax.experiments.sweep import stack, static_paths, sweep_rows, with_values

DONE, FAILED, PARTIAL, INTERRUPTED = 0, 1, 4, 130


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Exit code, metrics and where everything lies."""

    code: int
    metrics: dict[str, Any]
    folder: Path


def set_precision(config: Config) -> None:
    """The one place that sets JAX's switch; must run before any array exists."""
    jax.config.update("jax_enable_x64", config.settings.precision == "float64")


def enable_compile_cache() -> None:
    """Keeps compiled programs between runs, unless the user's environment says where (or that it should not)."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(cache / "mfamm_jax"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def run(config: Config, folder: RunFolder, *, say: Callable[[str], None], progress: Any = None) -> Outcome:
    """Runs the experiment and its sweep. Finished chunks are kept and skipped."""
    experiment = construct(config)
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
        "device": str(jax.devices()[0]),
        "started": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(started)),
        "warnings": list(config.warnings),
    }
    folder.write_json("manifest.json", manifest)
    say = folder.logged(say)
    key = jax.random.key(config.settings.seed)
    metrics: dict[str, Any] = {}
    try:
        prepared, results, stages = _base(config, experiment, folder, key, say, progress)
        plan = stages.pop("plan")
        metrics = plain(experiment.metrics(plan, prepared, results, key))
        manifest |= {"stages": stages} | plain(experiment.provenance(prepared))
        folder.write_arrays("base", flatten(experiment.kept(prepared, results)))
        logs = experiment.logs(prepared, results)
        manifest |= {"logs": {name: folder.write_log(name, table) for name, table in logs.items()}} if logs else {}
        code = DONE if metrics.get("ok", True) else FAILED
        if config.sweep:
            begin = time.perf_counter()
            rows, n_failed = run_sweep(config, folder, key, say, progress, (experiment, prepared))
            metrics["sweep"] = {"rows": len(rows), "failed": n_failed}
            stages["sweep"] = round(time.perf_counter() - begin, 2)
            code = PARTIAL if n_failed and code == DONE else code
    except KeyboardInterrupt:
        manifest["status"] = "interrupted"
        folder.write_json("manifest.json", manifest)
        return Outcome(INTERRUPTED, metrics, folder.root)
    folder.write_json("metrics.json", metrics)
    manifest |= {"status": {DONE: "done", FAILED: "failed", PARTIAL: "partial"}[code]}
    manifest["wall_seconds"] = round(time.time() - started, 2)
    folder.write_json("manifest.json", manifest)
    from mfamm_jax.experiments.report import write_report  # matplotlib: a second that errors need not wait for

    write_report(folder.root)
    return Outcome(code, metrics, folder.root)


def _base(
    config: Config, experiment: Any, folder: RunFolder, key: jax.Array, say: Callable[[str], None], progress: Any
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Prepares and runs the stages of the config's own parameters; also returns the plan and seconds per stage."""
    begin = time.perf_counter()
    prepared = experiment.prepare(folder.root, config.settings.seed, say, progress)
    stages: dict[str, Any] = {"prepare": round(time.perf_counter() - begin, 2)}
    say(f"prepare   {stages['prepare']:6.1f} s")
    plan, reason = experiment.plan(stack(experiment, [{}], []), prepared)
    say(f"scheme    {reason}")
    results: dict[str, Any] = {}
    for number, (name, stage) in enumerate(experiment.stages(plan)):
        begin = time.perf_counter()
        new = jax.jit(stage)(experiment, prepared, results, jax.random.fold_in(key, number))
        results |= jax.block_until_ready(new)
        stages[name] = round(time.perf_counter() - begin, 2)
        say(f"{name:9} {stages[name]:6.1f} s with compilation")
    return prepared, results, stages | {"plan": plan}


def run_sweep(
    config: Config, folder: RunFolder, key: jax.Array, say: Callable[[str], None], progress: Any, base: tuple[Any, Any]
) -> tuple[pl.DataFrame, int]:
    """All rows in chunks of one compiled shape per group; returns them and how many failed."""
    rows = sweep_rows(config)
    outer = static_paths(config, base[0])
    inner = [path for path in config.sweep if path not in outer]
    groups: dict[tuple, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(tuple(row[path] for path in outer), []).append(number)
    say(f"sweep: {len(rows):,} rows, {len(groups)} compile group{'s' if len(groups) > 1 else ''}")
    part, size = 0, config.settings.chunk_size
    task = progress.add_task("sweep", total=len(rows)) if progress else None
    for values, members in groups.items():
        chunks = [members[start : start + size] for start in range(0, len(members), size)]
        numbers = range(part, part + len(chunks))
        part += len(chunks)
        compute = None
        for number, chunk in zip(numbers, chunks):
            if not folder.is_finished(number, len(chunk)):
                if compute is None:  # a group whose chunks are all finished is not even prepared
                    ready = base if not outer else _prepared_for(config, folder, dict(zip(outer, values)))
                    compute = _group(ready, [rows[i] for i in members], inner, key, config.settings.chunk_size)
                folder.write_part(number, compute([rows[i] for i in chunk], chunk))
            if progress:
                progress.advance(task, len(chunk))
    table = folder.read_parts(part)
    failed = table.filter(~pl.col("ok"))
    if len(failed):
        failed.write_parquet(folder.root / "failed.parquet")
    return table, len(failed)


def _prepared_for(config: Config, folder: RunFolder, values: dict[str, Any]) -> tuple[Any, Any]:
    """Experiment and prepared data of a group whose static settings differ from the base run's.

    Generated data go to a folder of their own, so that the base run's stay what its report describes.
    """
    experiment = with_values(config, values)
    name = "-".join(str(value) for value in values.values())
    root = folder.root / "groups" / "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
    return experiment, experiment.prepare(root, config.settings.seed, lambda _: None)


def _group(
    ready: tuple[Any, Any], rows: list[dict], inner: list[str], key: jax.Array, chunk_size: int
) -> Callable[[list[dict], list[int]], pl.DataFrame]:
    """Function from rows to their table, compiled once for the group."""
    experiment, prepared = ready
    plan, _ = experiment.plan(stack(experiment, rows, inner), prepared)
    size = min(chunk_size, len(rows))

    @jax.jit
    def evaluate(batch: Any, ids: jax.Array, prepared: Any) -> dict[str, jax.Array]:
        def one(experiment, config_id):
            return experiment.row(plan, prepared, jax.random.fold_in(key, config_id))

        return jax.vmap(one)(batch, ids)

    def compute(chunk: list[dict], ids: list[int]) -> pl.DataFrame:
        # The last chunk is filled up with its last row, so that every chunk has the compiled shape.
        padded = chunk + [chunk[-1]] * (size - len(chunk))
        padded_ids = jnp.asarray(ids + [ids[-1]] * (size - len(ids)))
        found = evaluate(stack(experiment, padded, inner), padded_ids, prepared)
        out: dict[str, Any] = {name: np.asarray(x)[: len(chunk)] for name, x in found.items()}
        out["ok"] = np.all([np.isfinite(x) for x in out.values()], axis=0) & out["ok"]
        return pl.DataFrame({"config_id": ids} | {path: [row[path] for row in chunk] for path in chunk[0]} | out)

    return compute
