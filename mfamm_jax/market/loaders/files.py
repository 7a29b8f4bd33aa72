"""Bytes and columns of data files: decompression, blocks of csv rows, units of time, price and size."""

import gzip
import hashlib
import io
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl

from mfamm_jax.market.events import DataError

BLOCK_BYTES = 1 << 26
DAY_NS = 86_400_000_000_000
TIME_UNITS = {10: 1_000_000_000, 13: 1_000_000, 16: 1_000, 19: 1}  # digits of an epoch time -> nanoseconds
DECIMALS = 9  # of prices and sizes
GRID = 10**DECIMALS
MAX_SIZE = 2**53  # in size units, exact in float64


def open_binary(path: Path) -> io.BufferedIOBase:
    """A plain, .gz or .zip file (with one member) as a stream of unpacked bytes."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix == ".gz":
        return gzip.open(path)
    if path.suffix == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:  # the file itself stays open until its member is closed
                members = [name for name in archive.namelist() if not name.endswith("/")]
                if len(members) != 1:
                    raise DataError(
                        f"{path}: {len(members)} files inside, expected one; unpack it and give one of them"
                    )
                return cast(io.BufferedIOBase, archive.open(members[0]))
        except zipfile.BadZipFile as error:
            raise DataError(f"{path}: not a complete zip archive ({error}); download it again") from error
    return path.open("rb")


def read_blocks(path: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Unpacked content in blocks that end at line ends, so that a day never lies in memory as text."""
    rest = b""
    try:
        with open_binary(path) as stream:
            while block := stream.read(block_bytes):
                block = rest + block
                end = block.rfind(b"\n") + 1
                rest = block[end:]
                if end:
                    yield block[:end]
    except (EOFError, OSError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: truncated or damaged archive ({error}); download it again") from error
    if rest.strip():
        yield rest


def first_line(path: Path) -> list[str]:
    """Cells of a csv file's first line."""
    line = next(read_blocks(path, 1 << 16), b"").split(b"\n", 1)[0]
    return [cell.strip() for cell in line.decode("utf-8-sig", errors="replace").split(",")]


def is_header(cells: list[str]) -> bool:
    """A first line without a number in its first cells names the columns."""
    return not any(character.isdigit() for character in "".join(cells[:3]))


def read_csv(
    path: Path, columns: Mapping[str, Any], has_header: bool | None = None, may_be_empty: Collection[str] = ()
) -> pl.DataFrame:
    """A csv file (plain, .gz, .zip) with these columns first, read block by block.

    Args:
        path: File.
        columns: Names and polars types (no hints that beartype knows) in the order of the file; further columns are
            ignored. With a header the columns are found by name and may stand in any order. Enum: only its words are
            allowed. Float64: a finite number.
        has_header: None = a first line without a number in it is a header.
        may_be_empty: Columns whose cells may be empty (null).

    Raises:
        DataError: Names file and row (the file's first line is row 1) of the first cell that has not its column's type.
    """
    parts, row, names = [], 0, list(columns)
    for block in read_blocks(path):
        if row == 0:
            line, _, rest = block.partition(b"\n")
            head = [cell.strip() for cell in line.decode("utf-8-sig", errors="replace").split(",")]
            if has_header or (has_header is None and is_header(head)):
                block, row = rest, 1
                missing = [name for name in columns if name not in head]
                if missing:
                    raise DataError(f"{path}: no column {', '.join(missing)}; found {', '.join(head)}")
                names = head
            elif len(head) < len(names):
                raise DataError(f"{path}: {len(head)} columns, expected {len(names)}: {', '.join(names)}")
            else:
                names = names + [f"column {n + 1}" for n in range(len(names), len(head))]
        if block := block.rstrip():
            parts.append(_parse(path, block, names, columns, row, may_be_empty))
            row += parts[-1].height
    if not parts:
        raise DataError(f"{path}: empty; expected rows of {', '.join(columns)}")
    return pl.concat(parts)


def _parse(
    path: Path,
    block: bytes,
    names: list[str],
    columns: Mapping[str, Any],
    row: int,
    may_be_empty: Collection[str],
) -> pl.DataFrame:
    numbered = {name: f"column_{number}" for number, name in enumerate(names)}  # what polars asks for
    text, wanted = dict.fromkeys(numbered.values(), pl.String), {numbered[name]: name for name in columns}
    try:
        table = pl.read_csv(io.BytesIO(block), has_header=False, schema=text, columns=list(wanted))
    except pl.exceptions.PolarsError as error:
        place = next((n for n, line in enumerate(block.splitlines()) if line.count(b",") >= len(names)), 0)
        message = str(error).splitlines()[0]
        raise DataError(
            f"{path}: row {row + place + 1}: not a csv table of {len(names)} columns ({message}); download it again"
        ) from error
    table = table.rename(wanted).select(list(columns))
    typed = table.with_columns(pl.col(name).cast(kind, strict=False) for name, kind in columns.items())
    for name, kind in columns.items():
        bad = typed[name].is_null().to_numpy()
        if kind == pl.String or name in may_be_empty:
            bad = bad & table[name].is_not_null().to_numpy()
        if kind == pl.Float64:
            bad = bad | ~typed[name].is_finite().fill_null(True).to_numpy()
        if bad.any():
            first = int(np.argmax(bad))
            raise DataError(
                f"{path}: row {row + first + 1}: {name} is {table[name][first]!r}, expected {_expected(kind)}; "
                "correct the row or download the file again"
            )
    return typed


def _expected(kind: Any) -> str:
    if isinstance(kind, pl.Enum):
        return " or ".join(kind.categories)
    return "text" if kind in (pl.String, pl.Categorical) else "a number"


def refuse(
    path: Path, bad: np.ndarray, what: str, values: np.ndarray | pl.Series, expected: str, first_row: int = 1
) -> None:
    """Raises a `DataError` about the first bad row, if there is one.

    Args:
        path: File.
        bad: bool (N,).
        what: Column.
        values: (N,), its values.
        expected: What it should be, and what to do.
        first_row: Row of the file that holds the first value.
    """
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"{path}: row {row + first_row}: {what} is {values[row]}, expected {expected}")


def file_hash(path: Path) -> str:
    """sha256 of the file as it lies."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_grid(
    path: Path,
    prices: Mapping[str, np.ndarray],
    sizes: Mapping[str, np.ndarray],
    tick_size: float | None,
    size_unit: float | None,
    first_row: int,
) -> None:
    """Raises a `DataError` about the first price or size off a given grid; the columns stand as in the file."""
    for name, values in prices.items():
        if tick_size is not None:
            multiples(f"{path}: {name}", values, tick_size, "check tick_size or leave it unset", first_row)
    for name, values in sizes.items():
        if size_unit is not None:
            multiples(f"{path}: {name}", values, size_unit, "check size_unit or leave it unset", first_row, MAX_SIZE)


def nanoseconds(place: str, times: np.ndarray, first_row: int = 1) -> np.ndarray:
    """Epoch times as int64 nanoseconds; the unit is told by the number of digits (13 ms, 16 us, 19 ns).

    Args:
        place: File and column, for the error.
        times: int64 (N,).
        first_row: Row of the file that holds the first one.
    """
    digits = len(str(int(times[0])))
    low, high = 10 ** (digits - 1), min(10**digits, 2**63) - 1
    bad = (times < low) | (times > high) if digits in TIME_UNITS else np.ones(len(times), bool)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"{place}: row {row + first_row}: time {times[row]}, expected UTC epoch times of one unit: 13 digits (ms), "
            "16 (us) or 19 (ns); split a file of mixed units"
        )
    return times.astype(np.int64) * TIME_UNITS[digits]


def midnight(t_ns: np.ndarray | np.integer | int) -> int:
    """UTC midnight before the first time [ns]."""
    return int(np.min(t_ns)) // DAY_NS * DAY_NS


def grid_step(values: Iterable[np.ndarray]) -> float:
    """Largest step of which all values are multiples (of 1e-9), e.g. the tick of prices; 1 if there are no values."""
    distinct = [np.unique(np.abs(np.asarray(array, float))) for array in values]
    positive = np.unique(np.concatenate(distinct)) if distinct else np.zeros(0)
    positive = positive[positive > 0]
    if len(positive) == 0:
        return 1.0
    # As few decimals as do: with nine, large values have more digits than a float.
    for decimals in range(DECIMALS + 1):
        scaled = positive * 10.0**decimals
        whole = np.rint(scaled)
        if (np.abs(scaled - whole) <= 1e-15 * scaled).all():
            break
    return int(np.gcd.reduce(np.clip(whole, 1, 2**62).astype(np.int64))) / 10**decimals


def multiples(
    place: str, values: np.ndarray, step: float, remedy: str, first_row: int = 1, largest: int = 2**31 - 1
) -> np.ndarray:
    """Values as whole multiples of the step, int64.

    Args:
        place: File and column, for the error.
        values: float64 (N,).
        step: The tick or size unit.
        remedy: What to do, for the error.
        first_row: Row of the file that holds the first value.
        largest: Largest number of steps; prices are kept as int32, sizes as float64.

    Raises:
        DataError: Names the place, the first row that is no multiple, and the remedy.
    """
    whole = np.rint(values / step)
    bad = ~(np.abs(values - whole * step) <= 1e-6 * step + 1e-9 * np.abs(values))
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"{place}: row {row + first_row}: {values[row]} is not a multiple of {step:g}; {remedy}")
    large = np.abs(whole) > largest
    if large.any():
        row = int(np.argmax(large))
        raise DataError(
            f"{place}: row {row + first_row}: {values[row]} is absurdly large for steps of {step:g}; {remedy}"
        )
    return whole.astype(np.int64)
