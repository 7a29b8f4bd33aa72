"""Where order flow comes from: generated or recorded, through the same loaders."""

import abc
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from mfamm_jax.experiments.registry import Classes
from mfamm_jax.fields import Checked, listed, static_field
from mfamm_jax.market.events import DataError, Session
from mfamm_jax.market.loaders.binance import load_binance
from mfamm_jax.market.loaders.bitstamp import load_bitstamp
from mfamm_jax.market.loaders.databento import load_databento
from mfamm_jax.market.loaders.files import read_blocks
from mfamm_jax.market.loaders.hftbacktest import load_hftbacktest
from mfamm_jax.market.loaders.hftbacktest_raw import load_hftbacktest_raw
from mfamm_jax.market.loaders.itch import load_itch
from mfamm_jax.market.loaders.lobster import load_lobster, write_lobster
from mfamm_jax.market.loaders.parquet import load_parquet
from mfamm_jax.market.loaders.tardis import load_tardis
from mfamm_jax.market.planted import generate_planted
from mfamm_jax.market.synthetic import generate_session

Preset = Literal["small_tick", "quiet_small_tick", "large_tick"]


class AbstractSource(Checked):
    """Where a session comes from. Its fields are the settings of `[market]`."""

    @abc.abstractmethod
    def load(self, folder: Path, seed: int) -> tuple[Session, dict | None]:
        """The session, and what is known to be true of it where it was generated. `folder` may receive generated files."""


class SyntheticSource(AbstractSource):
    """Seeded order flow with known intensities, written to and read back from LOBSTER files."""

    preset: Preset = static_field(default="small_tick", help="market regime of the generated flow")
    duration: float = static_field(default=600.0, lower=30.0, unit="s", help="length of the session")

    def load(self, folder: Path, seed: int) -> tuple[Session, dict | None]:
        """Generates the session into `folder` and loads it from there, as recorded data would be."""
        message, _, truth = generate_files(self.preset, self.duration, seed, folder / "data")
        content = json.loads(truth.read_text())
        return load_lobster(message, tick_size=content["tick_size"]), content


class PlantedSource(AbstractSource):
    """Books whose next move an interaction across levels and snapshots foretells, and nothing simpler does."""

    duration: float = static_field(
        default=20_000.0, lower=100.0, unit="s", help="length of the session, one move a second"
    )
    strength: float = static_field(
        default=4.0, lower=0.0, help="log odds per standardised unit of signal; 0 = no signal"
    )

    def load(self, folder: Path, seed: int) -> tuple[Session, dict | None]:
        """Generates the session in memory."""
        return generate_planted(round(self.duration), self.strength, seed)


def generate_files(
    preset: str, duration: float, seed: int, folder: Path, pitfalls: tuple[str, ...] = ()
) -> tuple[Path, Path, Path]:
    """Writes message, order-book and truth files; returns their paths."""
    session, truth = generate_session(preset, duration, seed, pitfalls=pitfalls)
    name = preset.replace("_", "").upper()
    message, book = write_lobster(session, folder, ticker=name, date="2000-01-03")
    path = folder / "truth.json"
    path.write_text(json.dumps(truth, indent=1) + "\n")
    return message, book, path


class LobsterSource(AbstractSource):
    """LOBSTER message and order-book files."""

    path: str = static_field(help="folder, message file or the vendor's zip")
    tick_size: float | None = static_field(default=None, lower=0.0, strict=True, unit="price", help="unset = detected")
    crossed: Literal["error", "drop"] = static_field(default="error", help="what to do with crossed or locked books")

    def load(self, folder: Path, seed: int) -> tuple[Session, dict | None]:
        """Loads the files; nothing is known about the truth."""
        try:
            return load_lobster(self.path, tick_size=self.tick_size, crossed=self.crossed), None
        except DataError as error:
            raise DataError(f"{error}{_other_format(Path(self.path))}") from error


class _File(AbstractSource):
    """A recorded file; nothing is known about the truth."""

    path: str = static_field(help="file, or folder of files that belong together")
    tick_size: float | None = static_field(default=None, lower=0.0, strict=True, unit="price", help="unset = detected")


class _UnitFile(_File):
    """A recorded file whose sizes are multiples of a lot."""

    size_unit: float | None = static_field(
        default=None, lower=0.0, strict=True, help="lot of the venue; unset = detected"
    )


class HftbacktestSource(_UnitFile):
    """hftbacktest npz event arrays."""

    def load(self, folder: Path, seed: int) -> tuple[Session, None]:
        """The file."""
        return load_hftbacktest(self.path, tick_size=self.tick_size, size_unit=self.size_unit), None


class HftbacktestRawSource(_UnitFile):
    """Raw captures of hftbacktest's collector (Binance), several files of one recording separated by commas."""

    gap: Literal["error", "resync"] = static_field(default="error", help="what to do at a gap in the depth updates")

    def load(self, folder: Path, seed: int) -> tuple[Session, None]:
        """The files in order."""
        files = [part.strip() for part in self.path.split(",")]
        return load_hftbacktest_raw(files, tick_size=self.tick_size, size_unit=self.size_unit, gap=self.gap), None


class TardisSource(_UnitFile):
    """Tardis csv: incremental_book_L2, trades, book_snapshot_5 or _25; a folder or a file with its trades beside it."""

    def load(self, folder: Path, seed: int) -> tuple[Session, None]:
        """The file or folder."""
        return load_tardis(self.path, tick_size=self.tick_size, size_unit=self.size_unit), None


class BinanceSource(_UnitFile):
    """Binance public dumps: aggTrades, trades, bookTicker; a folder with trades and bookTicker of one day."""

    def load(self, folder: Path, seed: int) -> tuple[Session, None]:
        """The file or folder."""
        return load_binance(self.path, tick_size=self.tick_size, size_unit=self.size_unit), None


class DatabentoSource(_File):
    """Databento DBN files (mbo, mbp-10, mbp-1, tbbo, trades); needs the extra `databento`."""

    symbol: str | None = static_field(default=None, help="needed when the file has several instruments")

    def load(self, folder: Path, seed: int) -> tuple[Session, None]:
        """The file."""
        return load_databento(self.path, symbol=self.symbol, tick_size=self.tick_size), None


class ItchSource(AbstractSource):
    """Nasdaq ITCH 5.0; needs the extra `itch`."""

    path: str = static_field(help="length-prefixed messages, .gz or plain")
    symbol: str | None = static_field(default=None, help="stock; required")
    date: str | None = static_field(default=None, help="YYYY-MM-DD, for absolute times")

    def load(self, folder: Path, seed: int) -> tuple[Session, None]:
        """One stock of the file."""
        return load_itch(self.path, symbol=self.symbol, session_date=self.date), None


class BitstampSource(AbstractSource):
    """Bitstamp order events in obAnalytics' csv layout."""

    path: str = static_field(help="csv or csv.gz")

    def load(self, folder: Path, seed: int) -> tuple[Session, None]:
        """The file."""
        return load_bitstamp(self.path), None


class ParquetSource(_UnitFile):
    """Parquet of the documented schema (docs/data.md)."""

    def load(self, folder: Path, seed: int) -> tuple[Session, None]:
        """The file."""
        return load_parquet(self.path, tick_size=self.tick_size, size_unit=self.size_unit), None


SOURCES = Classes(
    {
        "synthetic": SyntheticSource,
        "planted": PlantedSource,
        "lobster": LobsterSource,
        "hftbacktest": HftbacktestSource,
        "hftbacktest_raw": HftbacktestRawSource,
        "tardis": TardisSource,
        "binance": BinanceSource,
        "databento": DatabentoSource,
        "itch": ItchSource,
        "bitstamp": BitstampSource,
        "parquet": ParquetSource,
    },
    AbstractSource,
)

GENERATED = ("synthetic", "planted")
PATHS = ("path", "paths", "latency_file")  # settings that name files


def guess_kind(path: Path) -> str:
    """The kind of a file or folder by its names and first bytes.

    Raises:
        DataError: Nothing fits.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.is_dir() and not any(path.iterdir()):
        raise DataError(f"{path}: an empty folder, expected data files")
    fitting = _fitting_kinds(path)
    if fitting:
        return fitting[0]
    raise DataError(
        f"{path}: cannot tell its format; name it by `--kind KIND` (mfamm data inspect) or `--set market.kind=KIND` (mfamm run), "
        f"KIND being one of {', '.join(k for k in SOURCES if k not in GENERATED)}; columns of your own: write Parquet by the schema of docs/data.md"
    )


def _fitting_kinds(path: Path) -> list[str]:
    """By names, and only if none fits by the first bytes."""
    names = [path.name] + ([entry.name for entry in path.iterdir()] if path.is_dir() else _members(path))
    fitting = [k for k, pattern in NAMES.items() if any(re.search(pattern, name, re.IGNORECASE) for name in names)]
    if fitting or path.is_dir():
        return fitting
    head = next(read_blocks(path, 1 << 16), b"")
    return [kind for kind, first in FIRST_BYTES.items() if re.match(first, head)]


def _other_format(path: Path) -> str:
    """What to say of a path that was taken for LOBSTER files."""
    try:
        fitting = _fitting_kinds(path) if path.exists() else []
    except DataError:
        return ""
    is_other = fitting and "lobster" not in fitting
    return f"; this looks like {fitting[0]}: use market.kind={fitting[0]}" if is_other else ""


def named_files(tables: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """(setting, file or folder) of all that a config names; what a class from outside calls a path is its own affair."""
    found = []
    is_ours = ":" not in str(tables.get("kind", tables.get("experiment", "")))
    for key, value in tables.items():
        if isinstance(value, dict):
            found += named_files(value, f"{prefix}{key}.")
        elif is_ours and key in PATHS and isinstance(value, str):
            several = (value,) if Path(value).exists() else listed(value)
            found += [(f"{prefix}{key}", file) for file in several]
    return found


def load_file(path: str) -> Session:
    """A recorded session whose format is told from the file or folder."""
    kind = guess_kind(Path(path))
    return SOURCES[kind](path=path).load(Path(), 0)[0]


NAMES = {
    "hftbacktest": r"\.np[yz]$",
    "databento": r"\.dbn(\.zst)?$",
    "parquet": r"\.parquet$",
    "lobster": r"(?<![a-z])lobster(?![a-z])|_(message|orderbook)_\d+\.csv",
    "tardis": r"incremental_book_L2|book_snapshot_\d+|_trades_\d{4}-",
    "binance": r"-(aggTrades|trades|bookTicker|klines|bookDepth)-",
    "itch": r"(?<![a-z])itch(?![a-z])",
}
FIRST_BYTES = {
    "hftbacktest_raw": rb"\d{16,19} \{",
    "bitstamp": rb"id,timestamp,exchange.timestamp,",
    "tardis": rb"exchange,symbol,timestamp,",
}


def _members(path: Path) -> list[str]:
    return zipfile.ZipFile(path).namelist() if zipfile.is_zipfile(path) else []
