"""Panels of prices: one row per time, one column per asset, from csv (plain, .gz, .zip) or Parquet."""

import dataclasses
import difflib
import io
import re
from pathlib import Path

import numpy as np
import polars as pl

from mfamm_jax.market.events import DataError
from mfamm_jax.market.loaders.files import PARQUET_ERRORS, file_hash, first_of, read_blocks, refuse, shown

NUMBER = re.compile(r"[-+]?\d*\.\d+(e[-+]?\d+)?", re.IGNORECASE)  # whole numbers may be tickers


@dataclasses.dataclass(frozen=True)
class Panel:
    """Prices of several assets at common times.

    Args:
        name: For titles.
        columns: Names of the assets.
        levels: float64 (row, asset) prices.
        source: File and its sha256.
    """

    name: str
    columns: tuple[str, ...]
    levels: np.ndarray
    source: tuple[tuple[str, str], ...] = ()


def load_panel(path: Path | str, columns: tuple[str, ...] = (), *, prices: bool = True, n_least: int = 2) -> Panel:
    """Reads the named columns, or every numeric one that is not a time.

    A first column of times (text, dates or integers named like time) must rise.

    Args:
        path: csv, csv.gz, zip or Parquet.
        columns: Names; none = every numeric column.
        prices: Numbers must be positive; False = any finite ones, as P&L is.
        n_least: Columns that must be there.

    Raises:
        DataError: Unreadable file, missing column, gaps, non-positive prices, times that do not rise.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        if path.suffix == ".parquet":
            frame = pl.read_parquet(path)
        else:
            frame = pl.read_csv(io.BytesIO(b"".join(read_blocks(path))), infer_schema_length=None)
    except PARQUET_ERRORS as error:
        raise DataError(
            f"{path}: cannot be read as a table ({first_of(error)}); expected csv or Parquet, a row per time; correct it "
            "or download it again"
        ) from error
    _check_text(frame, path)
    if len(frame) < 3:
        raise DataError(f"{path}: {len(frame)} rows, expected at least 3")
    _check_times(frame, path)
    names = columns or tuple(n for n in frame.columns if frame[n].dtype.is_numeric() and not _is_time(n))
    for name in names:
        if name not in frame.columns:
            near = difflib.get_close_matches(name, frame.columns, 1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise DataError(f'{path}: no column "{name}"{hint} Columns: {shown(", ".join(frame.columns))}')
        if not frame[name].dtype.is_numeric():
            raise DataError(f'{path}: column "{name}" holds {frame[name].dtype}, expected numbers')
    if len(names) < n_least:
        raise DataError(f"{path}: {len(names)} columns of numbers, expected at least {n_least}")
    levels = frame.select(pl.col(names).cast(pl.Float64)).to_numpy()
    bad = np.argwhere(~(np.isfinite(levels) & ((levels > 0) | (not prices))))
    if len(bad):
        row, column = bad[0]
        wanted = "a price > 0" if prices else "a finite number"
        raise DataError(
            f'{path}: row {row + 1} of column "{names[column]}" is {levels[row, column]}, expected {wanted} ({len(bad)} such cells); fill or '
            "drop gaps first"
        )
    for column, name in enumerate(names):
        if np.ptp(levels[:, column]) == 0:
            raise DataError(f'{path}: column "{name}" never changes; leave it out')
    return Panel(path.name.split(".")[0], names, levels, ((path.name, file_hash(path)),))


def _is_time(name: str) -> bool:
    return name.lower().startswith(("ts", "time", "date"))


def _check_text(frame: pl.DataFrame, path: Path) -> None:
    """Refuses what would lose a row or a column: no names in the first row, an open quote mark, a word among numbers."""
    if path.suffix != ".parquet" and any(NUMBER.fullmatch(name) for name in frame.columns):
        raise DataError(f"{path}: row 1 is {shown(', '.join(frame.columns))}, expected the names of the columns")
    for name in frame.columns:
        if frame[name].dtype != pl.String or _is_time(name):
            continue
        cells = frame[name].fill_null("")
        refuse(path, cells.str.contains("\n").to_numpy(), f'"{name}"', cells, "one line; close its quote mark")
        words = cells.str.strip_chars().cast(pl.Float64, strict=False).is_null().to_numpy()
        if 2 * words.sum() < len(words):
            refuse(path, words, f'"{name}"', cells, "a number as in the other rows; fill or drop gaps first")


def _check_times(frame: pl.DataFrame, path: Path) -> None:
    """The first column, if it is one of times, rises."""
    first = frame.columns[0]
    if not _is_time(first):
        return
    times = frame[first]
    if times.dtype in (pl.Categorical, pl.Enum):
        times = times.cast(pl.String)
    if not (times.dtype.is_numeric() or times.dtype.is_temporal() or times.dtype == pl.String):
        raise DataError(f'{path}: column "{first}" holds {times.dtype}, expected times')
    later = (times[1:] > times[:-1]).fill_null(False)
    if times.dtype.is_float():
        later = later & times[1:].is_finite().fill_null(False)
    refuse(path, np.append(False, ~later.to_numpy()), f'"{first}"', times, "a time later than the row before")
