"""Panels of prices: one row per time, one column per asset, from csv (plain, .gz, .zip) or Parquet."""

import dataclasses
import difflib
import io
from pathlib import Path

import numpy as np
import polars as pl

from mfamm_jax.market.events import DataError
from mfamm_jax.market.loaders.files import file_hash, read_blocks


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
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: cannot be read as a table: {error}") from error
    if len(frame) < 3:
        raise DataError(f"{path}: {len(frame)} rows, expected at least 3")
    _check_times(frame, path)
    names = columns or tuple(n for n in frame.columns if frame[n].dtype.is_numeric() and not _is_time(n))
    for name in names:
        if name not in frame.columns:
            near = difflib.get_close_matches(name, frame.columns, 1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise DataError(f'{path}: no column "{name}"{hint} Columns: {", ".join(frame.columns)}')
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


def _check_times(frame: pl.DataFrame, path: Path) -> None:
    """The first column, if it is one of times, rises."""
    first = frame.columns[0]
    if not _is_time(first):
        return
    wrong = (
        frame[first].diff() if frame[first].dtype != pl.String else frame[first].rank("dense").cast(pl.Int64).diff()
    )[1:]
    backward = np.flatnonzero(~(wrong.cast(pl.Int64).fill_null(0).to_numpy() > 0))
    if len(backward):
        raise DataError(
            f'{path}: row {backward[0] + 2}: "{first}" is {frame[first][int(backward[0]) + 1]}, not later than the row before'
        )
