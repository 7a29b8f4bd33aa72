"""Bytes and columns of data files: decompression, blocks of csv rows, units of time, price and size."""

import gzip
import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import polars as pl

from mfamm_jax.market.events import DataError

BLOCK_BYTES = 1 << 26
DAY_NS = 86_400_000_000_000
TIME_UNITS = {10: 1_000_000_000, 13: 1_000_000, 16: 1_000, 19: 1}  # digits of an epoch time -> nanoseconds
GRID = 1_000_000_000  # prices and sizes are multiples of 1e-9


def open_binary(path: Path) -> BinaryIO:
    """A plain, .gz or .zip file (with one member) as a stream of unpacked bytes."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path))
    if path.suffix == ".zip":
        try:
            archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise DataError(f"{path}: not a complete zip archive ({error}); download it again") from error
        members = [name for name in archive.namelist() if not name.endswith("/")]
        if len(members) != 1:
            raise DataError(f"{path}: {len(members)} files inside, expected one; unpack it and give one of them")
        return cast(BinaryIO, archive.open(members[0]))
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


def read_csv(path: Path, columns: dict[str, pl.DataType], has_header: bool | None = None) -> pl.DataFrame:
    """A csv file (plain, .gz, .zip) with these columns first, read block by block.

    Args:
        path: File.
        columns: Names and types in the order of the file; further columns are ignored. With a header the columns are
            found by name and may stand in any order.
        has_header: None = a first line without a number in it is a header.

    Raises:
        DataError: Names file and row of the first cell that has not its column's type.
    """
    parts, row, names = [], 0, list(columns)
    for block in read_blocks(path):
        if row == 0:
            head = block[: block.find(b"\n")].decode(errors="replace").strip().split(",")
            if has_header or (has_header is None and not any(character.isdigit() for character in "".join(head[:3]))):
                block, row = block[block.find(b"\n") + 1 :], 1
                missing = [name for name in columns if name not in head]
                if missing:
                    raise DataError(f"{path}: no column {', '.join(missing)}; found {', '.join(head)}")
                names = head
            elif len(head) < len(names):
                raise DataError(f"{path}: {len(head)} columns, expected {len(names)}: {', '.join(names)}")
            else:
                names = names + [f"column {n + 1}" for n in range(len(names), len(head))]
        if block.strip():
            parts.append(_parse(path, block, names, columns, row))
            row += parts[-1].height
    if not parts:
        raise DataError(f"{path}: empty; expected rows of {', '.join(columns)}")
    return pl.concat(parts)


def _parse(path: Path, block: bytes, names: list[str], columns: dict[str, pl.DataType], row: int) -> pl.DataFrame:
    text = dict.fromkeys(names, pl.String)
    try:
        table = pl.read_csv(io.BytesIO(block), has_header=False, schema=text, columns=list(columns))
    except pl.exceptions.PolarsError as error:
        message = str(error).splitlines()[0]
        raise DataError(f"{path}: not a csv table of {len(names)} columns ({message})") from error
    table = table.select(list(columns))
    typed = table.with_columns(pl.col(name).cast(kind, strict=False) for name, kind in columns.items())
    for name, kind in columns.items():
        bad = (typed[name].is_null() & (table[name].is_not_null() | (kind != pl.String))).to_numpy()
        if bad.any():
            first = int(np.argmax(bad))
            raise DataError(
                f"{path}: row {row + first + 1}: {name} is {table[name][first]!r}, expected {_expected(kind)}"
            )
    return typed


def _expected(kind: pl.DataType) -> str:
    return "text" if kind == pl.String else "true or false" if kind == pl.Boolean else "a number"


def file_hash(path: Path) -> str:
    """sha256 of the file as it lies."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def nanoseconds(place: str, times: np.ndarray) -> np.ndarray:
    """Epoch times as int64 nanoseconds; the unit is told by the number of digits (13 ms, 16 us, 19 ns).

    Args:
        place: File and column, for the error.
        times: int64 (N,).
    """
    digits = {len(str(int(times.min()))), len(str(int(times.max())))}
    if len(digits) != 1 or digits.pop() not in TIME_UNITS:
        raise DataError(
            f"{place}: times from {times.min()} to {times.max()}, expected UTC epoch times of one unit: "
            "13 digits (ms), 16 (us) or 19 (ns)"
        )
    return times.astype(np.int64) * TIME_UNITS[len(str(int(times.max())))]


def midnight(t_ns: np.ndarray | int) -> int:
    """UTC midnight before the first time [ns]."""
    return int(np.min(t_ns)) // DAY_NS * DAY_NS


def grid_step(values: Iterable[np.ndarray]) -> float:
    """Largest step of which all values are multiples (of 1e-9), e.g. the tick of prices; 1 if there are no values."""
    step = 0
    for array in values:
        scaled = np.unique(np.rint(np.asarray(array, float) * GRID).astype(np.int64))
        step = int(np.gcd(step, np.gcd.reduce(scaled))) if len(scaled) else step
    return step / GRID if step else 1.0


def multiples(place: str, values: np.ndarray, step: float, remedy: str) -> np.ndarray:
    """Values as whole multiples of the step, int64.

    Raises:
        DataError: Names the place, the first row that is no multiple, and the remedy.
    """
    whole = np.rint(values / step)
    bad = ~(np.abs(values - whole * step) <= 1e-6 * step + 1e-9 * np.abs(values))
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"{place}: row {row + 1}: {values[row]} is not a multiple of {step:g}; {remedy}")
    if (np.abs(whole) >= 2**31).any():
        row = int(np.argmax(np.abs(whole) >= 2**31))
        raise DataError(f"{place}: row {row + 1}: {values[row]} is absurdly large for steps of {step:g}; {remedy}")
    return whole.astype(np.int64)
