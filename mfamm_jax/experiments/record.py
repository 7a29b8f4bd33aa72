"""The run folder: what was asked, what came out, and what is already finished."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mfamm_jax.experiments.config import Config, ConfigError, to_toml
from mfamm_jax.experiments.plain import plain

PACKAGES = ("mfamm-jax", "jax", "jaxlib", "numpy", "equinox", "polars")
OPTIONAL = ("flax", "ott-jax", "distrax", "evosax", "pennylane", "PyWavelets", "xgboost")


class RunFolder:
    """Writes every file under a temporary name first, so that what has its name is complete."""

    def __init__(self, root: Path, config: Config):
        self.root = root
        self.resolved = to_toml(config.resolved()).strip() + "\n"
        self.config_hash = hashlib.sha256(self.resolved.encode()).hexdigest()[:16]
        self.text = config.text

    def open(self, fresh: bool) -> None:
        """Creates the folder, or continues in one of the same config."""
        existing = self.root / "resolved.toml"
        if self.root.exists() and any(self.root.iterdir()) and not existing.is_file():
            raise ConfigError(f"{self.root}: not empty and no run folder; choose another --out")
        if existing.is_file() and existing.read_text() != self.resolved:
            mine, theirs = set(self.resolved.splitlines()), set(existing.read_text().splitlines())
            keys = sorted({line.split(" =")[0] for line in mine ^ theirs if " = " in line})
            raise ConfigError(
                f"{self.root}: holds a run of another config (differs in {', '.join(keys)}); use another --out"
            )
        if fresh and existing.is_file():
            shutil.rmtree(self.root)
        (self.root / "parts").mkdir(parents=True, exist_ok=True)
        (self.root / "arrays").mkdir(exist_ok=True)
        self.write_text("config.toml", self.text)
        self.write_text("resolved.toml", self.resolved)

    def is_empty(self) -> bool:
        """Whether no result has been written yet."""
        return not any((self.root / "parts").iterdir()) and not any((self.root / "arrays").iterdir())

    def write_text(self, name: str, text: str) -> None:
        """Atomic."""
        partial = self.root / (name + ".partial")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, self.root / name)

    def logged(self, say: Callable[[str], None]) -> Callable[[str], None]:
        """Says and keeps it in log.txt."""

        def both(text: str) -> None:
            say(text)
            with (self.root / "log.txt").open("a", encoding="utf-8") as log:
                log.write(f"{time.strftime('%H:%M:%S')} {text}\n")

        return both

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Atomic; arrays become lists."""
        self.write_text(name, json.dumps(plain(content), indent=1) + "\n")

    def write_arrays(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Atomic npz."""
        partial = self.root / "arrays" / (name + ".partial.npz")
        np.savez_compressed(partial, **arrays)  # pyrefly: ignore
        os.replace(partial, self.root / "arrays" / (name + ".npz"))

    def write_log(self, name: str, table: dict[str, np.ndarray]) -> str:
        """Atomic Parquet; returns the sha256 of the content, the same for the same rows."""
        (self.root / "logs").mkdir(exist_ok=True)
        path = self.root / "logs" / f"{name}.parquet"
        partial = path.with_suffix(".partial")
        pl.DataFrame(table).write_parquet(partial)
        os.replace(partial, path)
        digest = hashlib.sha256()
        for column, values in table.items():
            digest.update(column.encode() + np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def part(self, number: int) -> Path:
        """Where a chunk of rows goes."""
        return self.root / "parts" / f"part-{number:05d}.parquet"

    def is_finished(self, number: int, n_rows: int) -> bool:
        """Whether the chunk is there and belongs to this config."""
        path = self.part(number)
        if not path.is_file():
            return False
        metadata = pl.read_parquet_metadata(path)
        return metadata.get("config") == self.config_hash and metadata.get("rows") == str(n_rows)

    def write_part(self, number: int, rows: pl.DataFrame) -> None:
        """Atomic: a part with its final name is the checkpoint."""
        path = self.part(number)
        partial = path.with_suffix(".partial")
        rows.write_parquet(partial, metadata={"config": self.config_hash, "rows": str(len(rows))})
        os.replace(partial, path)

    def read_parts(self, n_parts: int) -> pl.DataFrame:
        """All rows, in order."""
        return pl.concat([pl.read_parquet(self.part(number)) for number in range(n_parts)]).sort("config_id")


def git_commit() -> str:
    """Commit of the working copy the package runs from, "+" when changed; empty for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--exclude", "*", "--dirty=+"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def installed(package: str) -> str:
    """Version of an optional package, empty when missing (some come under a second name)."""
    for name in (package, f"{package}-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""


def versions() -> dict[str, str]:
    """Of the packages that decide the numbers."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
