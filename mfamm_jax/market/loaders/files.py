"""Bytes and columns of data files: decompression, blocks of csv rows, units of time, price and size."""

import gzip
import hashlib
import io
import lzma
import struct
import tokenize
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
SHOWN = 300  # characters of a header in an error
MAX_SIZE = 2**53  # in size units, exact in float64
MAX_TICKS = 2**31 - 1  # prices are kept as int32
LATEST_S = 4_102_444_800  # 2100: later times are no times, e.g. the largest integer for a missing one
# What Python's readers of packed files raise about damaged ones; RuntimeError: a method or password they do not know.
ARCHIVE_ERRORS = (OSError, EOFError, RuntimeError, ValueError, MemoryError, struct.error, zlib.error, lzma.LZMAError,
                  zipfile.BadZipFile)  # fmt: skip
PARQUET_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, MemoryError)  # of damaged files


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
                if len(members) == 1:
                    return cast(io.BufferedIOBase, archive.open(members[0]))
        except ARCHIVE_ERRORS as error:
            raise DataError(f"{path}: not a complete zip archive ({first_of(error)}); download it again") from error
        raise DataError(f"{path}: {len(members)} files inside, expected one; unpack it and give one of them")
    return path.open("rb")


def read_blocks(path: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Unpacked content in blocks that end at line ends, so that a day never lies in memory as text."""
    rest = b""
    with open_binary(path) as stream:
        while block := read_block(path, stream, block_bytes):
            block = rest + block
            end = block.rfind(b"\n") + 1
            rest = block[end:]
            if end:
                yield block[:end]
    if rest.strip():
        yield rest


def read_block(path: Path, stream: io.BufferedIOBase, n_bytes: int) -> bytes:
    """The next bytes of a stream that `open_binary` opened."""
    try:
        return stream.read(n_bytes)
    except ARCHIVE_ERRORS as error:
        raise DataError(f"{path}: truncated or damaged archive ({first_of(error)}); download it again") from error


def first_line(path: Path) -> list[str]:
    """Cells of a csv file's first line."""
    return _cells(path, next(read_blocks(path, 1 << 16), b"").split(b"\n", 1)[0])


def _cells(path: Path, line: bytes) -> list[str]:
    text = line.decode("utf-8-sig", errors="replace").rstrip()
    if not text.isprintable() and not text.replace("\t", "").isprintable():
        raise DataError(f"{path}: row 1 starts with {line[:20]!r}, expected text in UTF-8; convert or unpack the file")
    return [cell.strip() for cell in text.split(",")]


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
            head = _cells(path, line)
            if has_header or (has_header is None and is_header(head)):
                block, row = rest, 1
                missing = [name for name in columns if name not in head]
                if missing:
                    raise DataError(f"{path}: no column {', '.join(missing)}; found {shown(', '.join(head))}")
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
    except (pl.exceptions.PolarsError, OSError) as error:  # OSError: what looks compressed and is not
        raise no_table(str(path), block, len(names), row, first_of(error)) from error
    if table.height != block.count(b"\n") + 1:
        raise no_table(str(path), block, len(names), row, "a quote mark that goes on over several lines")
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
            cell = repr(table[name][first])
            raise DataError(
                f"{path}: row {row + first + 1}: {name} is {cell[:SHOWN]}, expected {_expected(kind)}; "
                "correct the row or download the file again"
            )
    return typed


def no_table(place: str, block: bytes, n_columns: int, row: int, what: str) -> DataError:
    """The error about the first line that is no row of a table of so many columns, after `row` rows."""
    bad = (line.count(b",") >= n_columns or line.count(b'"') % 2 or not _is_text(line) for line in block.split(b"\n"))
    number = next((n for n, is_bad in enumerate(bad) if is_bad), 0)
    return DataError(
        f"{place}: row {row + number + 1}: not a csv table of {n_columns} columns ({what}); correct the row or download "
        "the file again"
    )


def _is_text(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def first_of(error: BaseException) -> str:
    """First line of an error's text."""
    return shown(next(iter(str(error).splitlines()), type(error).__name__))


def is_whole(dtype: Any) -> bool:
    """Whether a polars type is one of whole numbers that NumPy has too."""
    return dtype.is_integer() and dtype not in (pl.Int128, getattr(pl, "UInt128", pl.Int128))


def _expected(kind: Any) -> str:
    if isinstance(kind, pl.Enum):
        return " or ".join(kind.categories)
    return "text" if kind in (pl.String, pl.Categorical) else "a number"


def refuse(
    path: Path | str,
    bad: np.ndarray,
    what: str,
    values: np.ndarray | pl.Series,
    expected: str,
    first_row: int | np.ndarray = 1,
) -> None:
    """Raises a `DataError` about the first bad row, if there is one.

    Args:
        path: File, or several.
        bad: bool (N,).
        what: Column.
        values: (N,), its values.
        expected: What it should be, and what to do.
        first_row: Row of the file that holds the first value, or each value's row.
    """
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"{path}: row {_row(first_row, row)}: {what} is {shown(values[row])}, expected {expected}")


def shown(value: Any) -> str:
    """A cell in an error: not too long, and without characters that do not print."""
    text = str(value)
    return (text if text.isprintable() else repr(text))[:SHOWN]


def _row(first_row: int | np.ndarray, number: int) -> int:
    return first_row + number if isinstance(first_row, int) else int(first_row[number])


def read_records(path: Path, fields: Mapping[str, str], what: str) -> np.ndarray:
    """Records (N,) of an npy file, or of an npz file's array "data".

    Args:
        path: File.
        fields: Fields that must be there, and what kinds of NumPy type may be in them, e.g. "iu".
        what: What the records are, for the error.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with path.open("rb") as stream:
            content = np.load(stream, allow_pickle=False)
            data = content if isinstance(content, np.ndarray) else content["data"]
            if not isinstance(data, np.ndarray):
                raise ValueError("the array's header is damaged")
    except (*ARCHIVE_ERRORS, KeyError, SyntaxError, tokenize.TokenError) as error:  # the last two of a damaged header
        raise DataError(
            f'{path}: not an npz file with an array "data" ({first_of(error)}), expected {what}; convert or download it again'
        ) from error
    missing = [name for name in fields if name not in (data.dtype.names or ())]
    if missing:
        raise DataError(f"{path}: no field {', '.join(missing)}; expected {what}")
    for name, kinds in fields.items():
        if data.dtype[name].kind not in kinds:
            numbers = "floating-point numbers" if kinds == "f" else "whole numbers"
            raise DataError(f"{path}: {name} is {data.dtype[name]}, expected {numbers}; convert the file again")
    if data.ndim != 1:
        raise DataError(f"{path}: an array of {data.ndim} dimensions, expected one; convert the file again")
    return data


def file_hash(path: Path) -> str:
    """sha256 of the file as it lies."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_grid(
    path: Path | str,
    prices: Mapping[str, np.ndarray],
    sizes: Mapping[str, np.ndarray],
    tick_size: float | None,
    size_unit: float | None,
    first_row: int | np.ndarray,
) -> None:
    """Raises a `DataError` about the first price or size off a given grid, or too large for any; columns as in the file."""
    for columns, step, option, largest in (
        (prices, tick_size, "tick_size", MAX_TICKS),
        (sizes, size_unit, "size_unit", MAX_SIZE),
    ):
        for name, values in columns.items():
            place = f"{path}: {name}"
            refuse(path, np.abs(values) > MAX_SIZE, name, values, "at most 2^53; correct or remove the row", first_row)
            least = step or 1 / GRID
            tiny = (values > 0) & (values < 0.5 * least)
            refuse(path, tiny, name, values, f"at least {least:g}; correct the row or check {option}", first_row)
            if step is not None:
                multiples(place, values, step, f"check {option} or leave it unset", first_row, largest)
            else:
                _check_step(place, values, option, first_row, largest)


def _check_step(place: str, values: np.ndarray, option: str, first_row: int | np.ndarray, largest: int) -> None:
    """Refuses values so far apart that no step fits them all, naming the row of a large one and of a fine one."""
    large = int(np.argmax(values))
    if values[large] <= largest / GRID:
        return
    step = 10.0 ** np.ceil(np.log10(values[large] / largest))  # the smallest power of ten that would do
    off = np.abs(values - np.rint(values / step) * step) > 1e-6 * step
    if not off.any() or values[large] <= largest * grid_step([values]):
        return
    fine = int(np.argmax(off))
    raise DataError(
        f"{place}: row {_row(first_row, large)}: {values[large]} is absurdly large beside {values[fine]} in row "
        f"{_row(first_row, fine)}; correct one of them or give {option}"
    )


def nanoseconds(place: str, times: np.ndarray, first_row: int = 1) -> np.ndarray:
    """Epoch times as int64 nanoseconds; the unit is told by the number of digits (13 ms, 16 us, 19 ns).

    Args:
        place: File and column, for the error.
        times: int64 (N,).
        first_row: Row of the file that holds the first one.
    """
    digits = len(str(int(times[0])))
    low, high = 10 ** (digits - 1), LATEST_S * 10 ** max(digits - 10, 0)
    bad = (times < low) | (times > high) if digits in TIME_UNITS else np.ones(len(times), bool)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"{place}: row {row + first_row}: time {times[row]}, expected UTC epoch times of one unit: 13 digits (ms), "
            "16 (us) or 19 (ns), before 2100; split a file of mixed units"
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
    place: str,
    values: np.ndarray,
    step: float,
    remedy: str,
    first_row: int | np.ndarray = 1,
    largest: int = MAX_TICKS,
) -> np.ndarray:
    """Values as whole multiples of the step, int64.

    Args:
        place: File and column, for the error.
        values: float64 (N,).
        step: The tick or size unit.
        remedy: What to do, for the error.
        first_row: Row of the file that holds the first value, or each value's row.
        largest: Largest number of steps; prices are kept as int32, sizes as float64.

    Raises:
        DataError: Names the place, the first row that is no multiple, and the remedy.
    """
    whole = np.rint(values / step)
    bad = ~(np.abs(values - whole * step) <= 1e-6 * step + 1e-9 * np.abs(values))
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"{place}: row {_row(first_row, row)}: {values[row]} is not a multiple of {step:g}; {remedy}")
    large = np.abs(whole) > largest
    if large.any():
        row = int(np.argmax(large))
        raise DataError(
            f"{place}: row {_row(first_row, row)}: {values[row]} is absurdly large for steps of {step:g}; {remedy}"
        )
    return whole.astype(np.int64)
