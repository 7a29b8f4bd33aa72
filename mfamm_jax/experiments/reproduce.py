"""Runs a finished run again and says what differs, by how much, and what may be the reason."""

import dataclasses
import fnmatch
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mfamm_jax.experiments.config import Config, ConfigError, load_config
from mfamm_jax.experiments.plain import plain
from mfamm_jax.experiments.record import RunFolder, flags_that_matter
from mfamm_jax.experiments.runner import DONE, FAILED, PARTIAL, run


@dataclasses.dataclass(frozen=True)
class Difference:
    """A number that is not the same.

    Args:
        what: Where it stands.
        before, after: In the run and in its repetition; of an array, where they differ most.
        allowed: Largest difference that would do; 0 = not a bit.
    """

    what: str
    before: Any
    after: Any
    allowed: float

    @property
    def is_within(self) -> bool:
        """Whether it is small enough."""
        numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (self.before, self.after))
        return numbers and abs(self.before - self.after) <= self.allowed


def run_config(folder: Path) -> tuple[Config, dict[str, Any]]:
    """What a finished run was made from, and its manifest."""
    for name in ("manifest.json", "metrics.json", "resolved.toml"):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder}: no finished run here: {name} is missing")
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        json.loads((folder / "metrics.json").read_text())
    except ValueError as error:
        raise ConfigError(f"{folder}: damaged: {error}") from error
    if manifest.get("status") not in ("done", "failed", "partial"):
        raise ConfigError(
            f"{folder}: its run is {manifest.get('status')}, not finished; run the same command again first"
        )
    # A batch of another size is another program, which may round otherwise.
    batch = manifest.get("sweep", {}).get("batch_rows")
    return load_config(str(folder / "resolved.toml"), [f"batch_rows={batch}"] if batch else []), manifest


def reproduce(
    before: Path,
    config: Config,
    manifest: dict[str, Any],
    again: Path,
    say: Callable[[str], None],
    progress: Any = None,
) -> dict[str, Any]:
    """Runs the config into `again` and compares.

    Returns:
        `same`: whether all is as it must be; `exact`: whether that was to the bit; `compared` counts; `differences` in numbers;
        `reasons` that may explain them.
    """
    if again.exists() and any(again.iterdir()):
        raise ConfigError(
            f"{again}: not empty; expected a new folder, since finished parts would not be computed again"
        )
    folder = RunFolder(again, config)
    folder.open(fresh=False)
    outcome = run(config, folder, say=say, progress=progress)
    if outcome.code not in (DONE, FAILED, PARTIAL):
        raise KeyboardInterrupt
    now = json.loads((again / "manifest.json").read_text())
    reasons = changes(manifest, now)
    exact = not reasons
    tolerances = [("*", (0.0, 0.0))] if exact else list(manifest.get("tolerances", {"*": (1e-6, 1e-8)}).items())

    differences, counts, repeated = [], {}, _contents(again)
    for kind, content in _contents(before).items():
        counts[kind] = len(content)
        for name in sorted(content.keys() | repeated[kind].keys()):
            path = f"{kind}/{name}"
            tolerance = next(pair for pattern, pair in reversed(tolerances) if fnmatch.fnmatch(path, pattern))
            pair = worst_pair(content.get(name), repeated[kind].get(name), *tolerance)
            if pair is not None:
                differences.append(Difference(path, *pair, _allowed(pair[0], *tolerance)))
    return {
        "same": all(d.is_within for d in differences),
        "exact": exact,
        "compared": counts,
        "differences": [plain(dataclasses.asdict(d)) | {"within": d.is_within} for d in differences],
        "reasons": reasons,
    }


def _contents(folder: Path) -> dict[str, dict[str, Any]]:
    """Everything a run has found: name -> number, text or array."""
    metrics = json.loads((folder / "metrics.json").read_text())
    manifest = json.loads((folder / "manifest.json").read_text())
    with np.load(folder / "arrays" / "base.npz") as file:
        arrays = dict(file)
    parts = sorted((folder / "parts").glob("part-*.parquet"))
    rows = pl.concat([pl.read_parquet(p) for p in parts], how="diagonal").sort("config_id") if parts else pl.DataFrame()
    return {
        "metrics": _flat(metrics),
        "arrays": arrays,
        "logs": manifest.get("logs", {}),
        "sweep": {column.name: column.to_numpy() for column in rows},
    }


def _flat(x: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(x, dict | list):
        items = x.items() if isinstance(x, dict) else enumerate(x)
        return {
            k: v for key, value in items for k, v in _flat(value, f"{prefix}/{key}" if prefix else str(key)).items()
        }
    return {prefix: x}


def _allowed(value: Any, relative: float, absolute: float) -> float:
    return relative * abs(value) + absolute if isinstance(value, int | float) and math.isfinite(value) else 0.0


def worst_pair(before: Any, after: Any, relative: float = 0.0, absolute: float = 0.0) -> tuple[Any, Any] | None:
    """Both values where they exceed what is allowed most, or come nearest to it; None if all are the same (NaN is the same as NaN)."""
    if not isinstance(before, np.ndarray) or not isinstance(after, np.ndarray):
        return None if type(before) is type(after) and before == after else (before, after)
    if before.shape != after.shape or before.dtype != after.dtype:
        return tuple(f"{x.dtype}{list(x.shape)}" for x in (before, after))  # pyrefly: ignore
    is_real = np.issubdtype(before.dtype, np.inexact)
    differs = (before != after) & ~((before != before) & (after != after)) if is_real else before != after
    where = np.flatnonzero(np.asarray(differs).ravel())
    if not where.size:
        return None
    one, other = before.ravel()[where], after.ravel()[where]
    worst = 0
    if np.issubdtype(before.dtype, np.number):
        excess = np.abs(other - one) - (relative * np.abs(one) + absolute)
        worst = int(np.argmax(np.nan_to_num(excess, nan=np.inf)))
    pair = tuple(x[worst].item() if hasattr(x[worst], "item") else x[worst] for x in (one, other))
    return tuple(map(str, pair)) if np.iscomplexobj(before) else pair  # pyrefly: ignore


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is not as it was and may change results."""
    out = []
    for name in sorted(before["versions"].keys() | now["versions"].keys()):
        out += _change(name, before["versions"].get(name), now["versions"].get(name))
    out += _change("commit", before.get("git_commit"), now.get("git_commit"))
    modules = [x.get("outside", {}) for x in (before, now)]
    for name in sorted(modules[0].keys() | modules[1].keys()):
        out += _change(f"module {name}", *(x.get(name) for x in modules))
    out += _change("device", before["devices"]["kind"], now["devices"]["kind"])
    for name in ("processor", "system", "XLA_FLAGS"):
        out += _change(name, *(flags_that_matter(x["machine"].get(name, "")) for x in (before, now)))
    old, new = (
        {
            str(name): digest
            for part in x.values()
            if isinstance(part, dict)
            for name, digest in part.get("source") or []
        }
        for x in (before, now)
    )
    for name in sorted(old.keys() | new.keys()):
        out += _change(f"data {name}", old.get(name), new.get(name))
    return out


def _change(name: str, before: Any, now: Any) -> list[str]:
    return [] if before == now else [f"{name}: was {before}, is {now}"]
