"""LOBSTER message and order-book files: csv, csv.gz, a folder of them or the vendor's zip; also writes the layout.

Message columns: seconds after midnight, type 1-7, order id, size, price x 10,000, direction of the RESTING order. Book
columns: ask price, ask size, bid price, bid size per level, row i AFTER message i. No header, no date.
Source: the vendor's sample readme.
"""

import gzip
import hashlib
import io
import os
import re
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from mfamm_jax.market.events import NS, BookSnapshots, BookUpdates, DataError, Kind, Session
from mfamm_jax.market.loaders.files import ARCHIVE_ERRORS, MAX_SIZE, first_of, no_table, shown

PRICE_UNITS = 10_000  # file units per unit of currency
DUMMY = 9_999_999_999  # price of a level that does not exist
KINDS = {
    1: Kind.ADD,
    2: Kind.CANCEL,
    3: Kind.DELETE,
    4: Kind.TRADE,
    5: Kind.HIDDEN_TRADE,
    6: Kind.CROSS,
    7: Kind.HALT,
}
MESSAGE_COLUMNS = ("time", "type", "order id", "size", "price", "direction")
CLOCK = "exchange event time, ns after midnight New York"
NAME = re.compile(
    r"(?P<ticker>.+)_(?P<date>\d{4}-\d\d-\d\d)_(?P<start>\d+)_(?P<end>\d+)_(?P<what>message|orderbook)_(?P<levels>\d+)\.csv(\.gz)?"
)


def load_lobster(
    path: str | Path, *, tick_size: float | None = None, crossed: Literal["error", "drop"] = "error"
) -> Session:
    """Reads and checks a message file and its order-book file.

    Args:
        path: Folder with one pair, message file (.csv or .csv.gz) or the vendor's .zip.
        tick_size: [price]; None = 0.01 when every displayed price is a multiple of it, else 0.0001.
        crossed: What to do with rows whose best bid is at or above the best ask: refuse or drop them.

    Raises:
        DataError: Names file and row, says what was expected and what to do.
    """
    (message_name, message), (book_name, book) = _open_pair(Path(path))
    messages = _read_messages(message_name, message)
    prices, sizes = _read_book(book_name, book)
    if len(messages) != len(prices):
        raise DataError(
            f"{message_name} has {len(messages):,} rows and {book_name} {len(prices):,}, expected as many; "
            "both must come from the same request and be complete"
        )
    _check_messages(message_name, messages)
    _check_book(book_name, prices, sizes)
    keep, notes = _uncrossed(book_name, prices, sizes, crossed)
    messages, prices, sizes = messages.filter(keep), prices[keep], sizes[keep]
    unit, tick = _tick_units(message_name, messages, prices, sizes, tick_size)
    updates, n_off_tick = _updates(message_name, messages, unit)
    if n_off_tick:
        notes = (*notes, f"{n_off_tick:,} hidden executions off the tick grid, moved to the next tick towards the mid")
    return Session(
        name=_session_name(Path(message_name).name),
        tick_size=tick,
        updates=updates,
        books=_books(book_name, prices, sizes, unit),
        clock=CLOCK,
        source=tuple(
            (Path(n).name, hashlib.sha256(b).hexdigest()) for n, b in ((message_name, message), (book_name, book))
        ),
        notes=notes,
        n_off_tick=n_off_tick,
    )


def _session_name(file: str) -> str:
    match = NAME.fullmatch(file)
    return f"{match['ticker']} {match['date']}" if match else file.split(".")[0]


def _open_pair(path: Path) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    """Places, for errors, and bytes (csv, unpacked) of the message and the book file."""
    if path.is_dir():
        message, book = (path / name for name in _pair([p.name for p in path.iterdir() if p.is_file()], str(path)))
        return (str(message), _read(message)), (str(book), _read(book))
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder; give a LOBSTER folder, message file or zip")
    if path.suffix == ".zip":
        return _open_zip(path)
    if "message" not in path.name:
        raise DataError(f'{path}: expected a file with "message" in its name, a folder or a .zip')
    plain = path.name.removesuffix(".gz").replace("message", "orderbook")
    for book in (path.parent / plain, path.parent / f"{plain}.gz"):
        if book.is_file():
            return (str(path), _read(path)), (str(book), _read(book))
    raise DataError(f"{path}: its order-book file {plain}[.gz] is missing beside it")


def _open_zip(path: Path) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {Path(name).name: name for name in archive.namelist()}
            message, book = _pair(list(members), str(path))
            contents = archive.read(members[message]), archive.read(members[book])
            return (f"{path}/{message}", contents[0]), (f"{path}/{book}", contents[1])
    except DataError:
        raise
    except ARCHIVE_ERRORS as error:
        raise DataError(f"{path}: not a complete zip archive ({first_of(error)}); download it again") from error


def _pair(names: list[str], place: str) -> tuple[str, str]:
    """The one message file that has a book file of the same name and number of levels."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for name in sorted(names):
        if match := NAME.fullmatch(name):
            key = match.group("ticker", "date", "start", "end", "levels")
            found.setdefault(key, {})[match["what"]] = name
    pairs = [(files["message"], files["orderbook"]) for files in found.values() if len(files) == 2]
    if len(pairs) == 1:
        return pairs[0]
    if pairs:
        raise DataError(
            f"{place}: several message files: {', '.join(m for m, _ in pairs)}; give one of them as the path"
        )
    raise DataError(
        f"{place}: no pair TICKER_YYYY-MM-DD_START_END_message_K.csv[.gz] with its orderbook file; "
        f"found {shown(', '.join(sorted(names)) or 'nothing')}; give the vendor's files under their names"
    )


def _read(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except ARCHIVE_ERRORS as error:
        raise DataError(f"{path}: truncated or damaged gzip ({first_of(error)}); download it again") from error


def _table(content: bytes, columns: list[str], as_text: bool = False) -> pl.DataFrame:
    """Columns of whole numbers; the first message column (time) stays text."""
    types = [pl.String if as_text or column == "time" else pl.Int64 for column in columns]
    return pl.read_csv(io.BytesIO(content), has_header=False, schema=dict(zip(columns, types)))


def _read_table(name: str, content: bytes, columns: list[str]) -> pl.DataFrame:
    content = content.rstrip()
    try:
        table = _table(content, columns)
    except (pl.exceptions.PolarsError, OSError):  # OSError: what looks compressed and is not
        table = None
    if table is None or table.null_count().sum_horizontal().item() > 0 or table.height != content.count(b"\n") + 1:
        raise _bad_cell(name, content, columns)
    return table


def _bad_cell(name: str, content: bytes, columns: list[str]) -> DataError:
    """Finds the first cell that is no whole number."""
    try:
        text = _table(content, columns, as_text=True)
    except (pl.exceptions.PolarsError, OSError) as error:
        return no_table(name, content, len(columns), 0, first_of(error))
    if text.height != content.count(b"\n") + 1:
        return no_table(name, content, len(columns), 0, "a quote mark that goes on over several lines")
    for column in columns:
        bad = (text[column] if column == "time" else text[column].cast(pl.Int64, strict=False)).is_null()
        if bad.any():
            row, expected = bad.arg_max() or 0, "a number of seconds" if column == "time" else "a whole number"
            return DataError(f"{name}: row {row + 1}: {column} is {text[column][row]!r}, expected {expected}")
    return no_table(name, content, len(columns), 0, "cells that are no whole numbers")


def _n_columns(name: str, content: bytes) -> int:
    first = content[: content.find(b"\n") if b"\n" in content else None].strip()
    if not first:
        raise DataError(f"{name}: empty; expected LOBSTER rows without a header")
    return first.count(b",") + 1


def _read_messages(name: str, content: bytes) -> pl.DataFrame:
    n = _n_columns(name, content)
    if n != len(MESSAGE_COLUMNS):
        raise DataError(f"{name}: {n} columns, expected 6: {', '.join(MESSAGE_COLUMNS)}")
    table = _read_table(name, content, list(MESSAGE_COLUMNS))
    # Through text: a float would lose nanoseconds. Vendor files have stamps with float dust (43002.632812672004).
    parts = pl.col("time").str.extract_groups(r"^(\d{1,6})(?:\.(\d{1,18}))?$")
    seconds, digits = parts.struct.field("1"), parts.struct.field("2").fill_null("").str.pad_end(10, "0")
    nanoseconds = digits.str.slice(0, 9).cast(pl.Int64) + (digits.str.slice(9, 1).cast(pl.Int64) >= 5)
    table = table.with_columns(t_ns=seconds.cast(pl.Int64, strict=False) * NS + nanoseconds)
    row = _first(table["t_ns"].is_null().to_numpy())
    if row is not None:
        raise DataError(
            f"{name}: row {row + 1}: time is {table['time'][row]!r}, expected seconds after midnight, e.g. 34200.004241176"
        )
    return table.drop("time")


def _read_book(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Prices and sizes, int64 (N, 2 K): ask, bid per level."""
    n = _n_columns(name, content)
    match = NAME.fullmatch(Path(name).name)
    if n % 4 or (match and n != 4 * int(match["levels"])):
        expected = f"{4 * int(match['levels'])} (4 per level)" if match else "4 per level"
        raise DataError(f"{name}: {n} columns, expected {expected}")
    kinds = ("ask price", "ask size", "bid price", "bid size")
    columns = [f"{kind} {level}" for level in range(1, n // 4 + 1) for kind in kinds]
    table = _read_table(name, content, columns).to_numpy()
    return table[:, 0::2], table[:, 1::2]


def _first(bad: np.ndarray) -> int | None:
    """First True row."""
    return int(np.argmax(bad)) if bad.any() else None


def _check_messages(name: str, messages: pl.DataFrame) -> None:
    kind, size, price, side = (messages[c].to_numpy() for c in ("type", "size", "price", "direction"))
    halt = kind == 7
    checks = (
        ((kind < 1) | (kind > 7), "type", kind, "expected 1 to 7"),
        (~np.isin(side, (-1, 1)), "direction", side, "expected 1 (buy) or -1 (sell)"),
        (np.where(halt, size < 0, (size <= 0) & (kind != 6)), "size", size, "expected > 0"),
        ((price <= 0) & ~halt, "price", price, "expected > 0 (price x 10,000)"),
        (halt & ~np.isin(price, (-1, 0, 1)), "price", price, "expected -1, 0 or 1 on a trading halt"),
        (size > MAX_SIZE, "size", size, "expected at most 2^53; check the column"),
    )
    for bad, column, values, expected in checks:
        row = _first(bad)
        if row is not None:
            raise DataError(f"{name}: row {row + 1}: {column} is {values[row]}, {expected}")
    row = _first(np.diff(messages["t_ns"].to_numpy()) < 0)
    if row is not None:
        raise DataError(f"{name}: row {row + 2}: time goes backwards; sort the file or download it again")


def _check_book(name: str, prices: np.ndarray, sizes: np.ndarray) -> None:
    """Sizes are not negative, displayed levels have prices, better levels come first."""
    present = sizes > 0
    displayed = (prices > 0) & (prices < DUMMY)
    for bad, what, values in (
        ((sizes < 0) | (sizes > MAX_SIZE), "size", sizes),
        (present & ~displayed, "price", prices),
    ):
        row = _first(bad.any(1))
        if row is not None:
            worst = values[row][bad[row]][0]
            raise DataError(f"{name}: row {row + 1}: {what} is {worst}, expected > 0 or size 0 for an absent level")
    row = _first((present[:, 2:] & ~present[:, :-2]).any(1))
    if row is not None:
        raise DataError(f"{name}: row {row + 1}: a level behind an absent one, expected the occupied levels first")
    for column, sign, side in ((0, 1, "ask"), (1, -1, "bid")):
        both = present[:, column:-2:2] & present[:, column + 2 :: 2]
        row = _first((both & (sign * np.diff(prices[:, column::2], axis=1) <= 0)).any(1))
        if row is not None:
            raise DataError(f"{name}: row {row + 1}: {side} levels are not sorted, expected the best one first")


def _uncrossed(name: str, prices: np.ndarray, sizes: np.ndarray, crossed: str) -> tuple[np.ndarray, tuple[str, ...]]:
    bad = (sizes[:, 0] > 0) & (sizes[:, 1] > 0) & (prices[:, 1] >= prices[:, 0])
    row = _first(bad)
    if row is None:
        return ~bad, ()
    if crossed == "error":
        raise DataError(
            f"{name}: row {row + 1}: best bid {prices[row, 1]} is at or above best ask {prices[row, 0]} "
            f'({int(bad.sum()):,} such rows); load with crossed = "drop" to leave them out'
        )
    return ~bad, (f"{int(bad.sum()):,} crossed or locked rows dropped",)


def _tick_units(
    name: str, messages: pl.DataFrame, prices: np.ndarray, sizes: np.ndarray, tick_size: float | None
) -> tuple[int, float]:
    """Tick in file units and in price."""
    shown = messages["type"].is_in([1, 2, 3, 4]).to_numpy()
    price = messages["price"].to_numpy()
    if tick_size is None:
        cents = not (price[shown] % 100).any() and not (prices[sizes > 0] % 100).any()
        return (100, 0.01) if cents else (1, 0.0001)
    unit = round(tick_size * PRICE_UNITS)
    if unit < 1 or abs(unit - tick_size * PRICE_UNITS) > 1e-6:
        raise DataError(f"tick_size is {tick_size}, expected a multiple of 0.0001, the unit of LOBSTER prices")
    row = _first(shown & (price % unit != 0))
    if row is not None:
        raise DataError(
            f"{name}: row {row + 1}: price {price[row]} is not a multiple of the tick {tick_size} (= {unit} file units); "
            "leave tick_size unset to detect it"
        )
    return unit, float(tick_size)


def _updates(name: str, messages: pl.DataFrame, unit: int) -> tuple[BookUpdates, int]:
    """Messages with prices in ticks, and how many hidden executions were off the grid."""
    file_kind = messages["type"].to_numpy()
    kind = np.array([0, *KINDS.values()], np.int8)[file_kind]
    halt = kind == Kind.HALT
    price, side = messages["price"].to_numpy(), messages["direction"].to_numpy()
    off = (price % unit != 0) & ~halt
    ticks = np.where(side > 0, -(-price // unit), price // unit)
    _check_int32(name, ticks)
    updates = BookUpdates(
        t_ns=messages["t_ns"].to_numpy(),
        kind=kind,
        side=np.where(halt, 0, side).astype(np.int8),
        price_ticks=np.where(halt, price, ticks).astype(np.int32),
        size=messages["size"].to_numpy().astype(np.float32),
        order_id=np.maximum(messages["order id"].to_numpy(), 0).astype(np.uint64),
    )
    return updates, int(off.sum())


def _check_int32(name: str, ticks: np.ndarray) -> None:
    row = _first(np.abs(ticks) >= 2**31)
    if row is not None:
        raise DataError(f"{name}: row {row + 1}: price {ticks[row]} ticks is absurdly large; check the price column")


def _books(name: str, prices: np.ndarray, sizes: np.ndarray, unit: int) -> BookSnapshots:
    present = sizes > 0
    if (prices[present] % unit).any():
        row = _first((present & (prices % unit != 0)).any(1)) or 0
        raise DataError(f"{name}: row {row + 1}: a displayed price is not a multiple of the tick ({unit} file units)")
    ticks = np.where(present, prices // unit, 0)
    _check_int32(name, ticks.max(1, initial=0))
    ticks, size = ticks.astype(np.int32), sizes.astype(np.float32)
    ask, bid = slice(0, None, 2), slice(1, None, 2)
    return BookSnapshots(
        bid_ticks=np.ascontiguousarray(ticks[:, bid]),
        bid_size=np.ascontiguousarray(size[:, bid]),
        ask_ticks=np.ascontiguousarray(ticks[:, ask]),
        ask_size=np.ascontiguousarray(size[:, ask]),
    )


def write_lobster(session: Session, folder: str | Path, ticker: str, date: str) -> tuple[Path, Path]:
    """Writes a session as csv.gz in the vendor's layout, the same bytes for the same session; returns both paths.

    Args:
        session: Whole sizes; prices in multiples of 0.0001.
        folder: Created when missing.
        ticker: For the file name.
        date: YYYY-MM-DD, for the file name.
    """
    t_ns, n_levels = session.updates.t_ns, session.books.n_levels
    start, end = int(t_ns[0]) // 1_000_000, -(-int(t_ns[-1]) // 1_000_000)
    names = [f"{ticker}_{date}_{start}_{end}_{what}_{n_levels}.csv.gz" for what in ("message", "orderbook")]
    unit = round(session.tick_size * PRICE_UNITS)
    tables = (_message_table(session.updates, unit), _book_table(session.books, unit))
    Path(folder).mkdir(parents=True, exist_ok=True)
    message, book = (_write_gzip(Path(folder) / name, table) for name, table in zip(names, tables))
    return message, book


def _message_table(updates: BookUpdates, unit: int) -> pl.DataFrame:
    file_type = {kind: number for number, kind in KINDS.items()}
    halt = updates.kind == Kind.HALT
    price = updates.price_ticks.astype(np.int64)
    whole, rest = (pl.Series(x).cast(pl.String) for x in (updates.t_ns // NS, updates.t_ns % NS))
    return pl.DataFrame(
        {
            "time": whole + "." + rest.str.zfill(9),
            "type": np.array([file_type[Kind(k)] for k in updates.kind]),
            "id": updates.order_id,
            "size": updates.size.astype(np.int64),
            "price": np.where(halt, price, price * unit),
            "direction": np.where(halt, -1, updates.side).astype(np.int64),
        }
    )


def _book_table(books: BookSnapshots, unit: int) -> pl.DataFrame:
    columns = {}
    for level in range(books.n_levels):
        for side, ticks, size, dummy in (
            ("ask", books.ask_ticks, books.ask_size, DUMMY),
            ("bid", books.bid_ticks, books.bid_size, -DUMMY),
        ):
            shown = size[:, level] > 0
            columns[f"{side} price {level}"] = np.where(shown, ticks[:, level].astype(np.int64) * unit, dummy)
            columns[f"{side} size {level}"] = size[:, level].astype(np.int64)
    return pl.DataFrame(columns)


def _write_gzip(path: Path, table: pl.DataFrame) -> Path:
    """No time stamp or name inside: equal tables give equal bytes."""
    text = table.write_csv(include_header=False).encode()
    partial = path.with_suffix(".partial")
    partial.write_bytes(gzip.compress(text, mtime=0))
    os.replace(partial, path)
    return path
