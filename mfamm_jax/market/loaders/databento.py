"""Databento DBN files (.dbn, .dbn.zst): schemas mbo, mbp-10, mbp-1, tbbo and trades.

How records become events:

- mbo. Neither T (the aggressor's print) nor F (fill of a resting order) changes the vendor's book: the C, or M, that follows
  a fill does. Here the F is the execution and takes its quantity from the book at once, and the C or M takes only what
  fills have not taken yet: each execution counts once, and at the end of an event (flag "last") both books are equal.
  A T whose message has no F executed no displayed order: a hidden trade, or an auction, which the schema does not tell apart.
- mbp-10, mbp-1. Every record is a book row; T leaves the book as it is and the records after it show what it took.
- tbbo. A record shows the best prices just BEFORE its trade, so it becomes two rows: the book, then the trade.

A `ts_event` earlier than its predecessor's is raised to it (counts["time_backward_steps"]). Records of a snapshot stand at
the snapshot's time, their `ts_recv`.
Source: databento.com/docs, schemas and "State management of resting orders".
"""

import dataclasses
import datetime
import warnings
from pathlib import Path
from typing import Any, no_type_check

import numpy as np

from mfamm_jax.market.events import NS, BookSnapshots, BookUpdates, DataError, Feed, Kind, Session
from mfamm_jax.market.loaders.assemble import clock_correction
from mfamm_jax.market.loaders.files import GRID, LATEST_S, file_hash, first_of, grid_step, midnight, shown

SCHEMAS = ("mbo", "mbp-10", "mbp-1", "tbbo", "trades")
UNDEFINED = 2**63 - 1  # price of a level that does not exist
CHUNK = 1 << 20  # records
SNAPSHOT, TOP_OF_BOOK = 32, 64
FLAGS = {"last": 128, "top_of_book": TOP_OF_BOOK, "snapshot": SNAPSHOT, "bad_ts_recv": 8, "maybe_bad_book": 4}
TIMES = ("ts_event", "ts_recv")
ACTIONS = [b"A", b"C", b"M", b"R", b"T", b"F", b"N"]
SIDES = {b"B": 1, b"A": -1, b"N": 0}
CLOCK = "exchange matching engine time, ns after midnight UTC"


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Events made from records, N rows: number of the record, price in 1e-9."""

    record: np.ndarray
    kind: np.ndarray
    side: np.ndarray
    price: np.ndarray
    size: np.ndarray
    order_id: np.ndarray


def load_databento(path: str | Path, *, symbol: str | None = None, tick_size: float | None = None) -> Session:
    """Reads one instrument of a DBN file.

    Args:
        path: File.
        symbol: As requested from the vendor, or an instrument id; None = the only one in the file.
        tick_size: [price]; None = largest step of which all displayed prices are multiples.

    Raises:
        DataError: Names file and record, says what was expected and what to do.
    """
    file = Path(path)
    schema, name, records = _read(file, symbol)
    _check(file, schema, records)
    flags = {flag: int(np.count_nonzero(records["flags"] & bit)) for flag, bit in FLAGS.items()}
    counts: dict[str, Any] = {"records": len(records), "flags": flags}
    if schema == "mbo":
        rows, more = _order_rows(file, records)
        return _session(file, name, "orders", records, rows, tick_size, counts | more)
    rows = _level_rows(schema, records)
    return _session(file, name, "trades" if schema == "trades" else "levels", records, rows, tick_size, counts)


def _read(file: Path, symbol: str | None) -> tuple[str, str, np.ndarray]:
    """Schema, name of the instrument, its records."""
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    try:
        import databento
        from databento.common.error import BentoWarning
    except ImportError as error:
        raise DataError(f'{file}: DBN files need an extra package: pip install "mfamm-jax[databento]"') from error
    found: set[int] = set()
    parts = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", BentoWarning)  # of a truncated file
        try:
            with file.open("rb") as stream:  # `from_file` leaves its own open
                store = databento.DBNStore.from_bytes(stream)
            schema = str(store.schema)
            spans = [(name, span["symbol"]) for name, days in store.mappings.items() for span in days]
            names = {int(number): name for name, number in spans if number.isdigit()}
            for chunk in store.to_ndarray(count=CHUNK) if schema in SCHEMAS else ():
                found |= set(np.unique(chunk["instrument_id"]).tolist())
                parts.append(chunk[np.isin(chunk["instrument_id"], _wanted(file, symbol, found, names))])
        except DataError:
            raise
        except Exception as error:  # several unrelated classes, from Python and from Rust
            raise DataError(f"{file}: truncated or not a DBN file ({first_of(error)}); download it again") from error
    if schema not in SCHEMAS:
        raise DataError(f"{file}: schema {schema}, expected {', '.join(SCHEMAS)}; request one of them")
    if not sum(map(len, parts)):
        what = f"no records of {symbol}; give one of {_labels(found, names)}" if found else "empty; expected records"
        raise DataError(f"{file}: {what}")
    records = np.concatenate(parts)
    number = int(records["instrument_id"][0])
    return schema, names.get(number, str(number)), records


def _wanted(file: Path, symbol: str | None, found: set[int], names: dict[int, str]) -> list[int]:
    """Id of the instrument asked for, if it was found."""
    wanted = [number for number in found if symbol in (None, names.get(number), str(number))]
    if len(wanted) > 1:
        raise DataError(
            f"{file}: several instruments: {_labels(wanted, names)}; give one of them, or its id, as symbol"
        )
    return wanted


def _labels(ids: Any, names: dict[int, str]) -> str:
    return ", ".join(f"{names[n]} ({n})" if n in names else str(n) for n in sorted(ids)[:20])


def _check(file: Path, schema: str, records: np.ndarray) -> None:
    """Refuses records whose content cannot be used."""
    action, flags = records["action"], records["flags"]
    by_order = schema == "mbo"
    priced = np.isin(action, [b"A", b"M", b"F", b"T"] if by_order else [b"T"])
    sided = np.isin(action, [b"A", b"M", b"F"]) & by_order
    checks = (
        (~np.isin(action, ACTIONS), "action is {action}, expected A, C, M, R, T, F or N"),
        (~np.isin(records["side"], [b"A", b"B", b"N"]), "side is {side}, expected A, B or N"),
        (sided & (records["side"] == b"N"), "side is {side} of an order, expected A or B"),
        (priced & (records["price"] == UNDEFINED), "price is undefined; leave the record out"),
        (priced & (records["size"] == 0), "size is 0, expected > 0; leave the record out"),
        *((_no_time(records[name]), f"{name} is undefined or after 2100; leave the record out") for name in TIMES),
        (by_order & (flags & TOP_OF_BOOK != 0), "best prices only, no orders (flag 64); request mbp-1 instead"),
    )
    for bad, message in checks:
        if np.any(bad):
            row = int(np.argmax(bad))
            action, side = (shown(records[name][row].decode("latin-1")) for name in ("action", "side"))
            what = message.format(action=action or "empty", side=side or "empty")
            raise DataError(f"{file}: record {row + 1}: {what}")
    venues = records["publisher_id"]
    if (venues != venues[0]).any() and schema != "trades":
        row = int(np.argmax(venues != venues[0]))
        raise DataError(
            f"{file}: record {row + 1}: books of several venues (publishers {np.unique(venues).tolist()}); request one of "
            "them at a time"
        )


def _no_time(times: np.ndarray) -> np.ndarray:
    return (times == 0) | (times > LATEST_S * NS)


@no_type_check  # called once, loops over every record
def _order_rows(file: Path, records: np.ndarray) -> tuple[_Rows, dict[str, int]]:
    """Events of an mbo file. An order: side, price, what is left of it here, what is left according to the file."""
    orders, rows = {}, []
    counts = dict.fromkeys(("unknown_orders", "repeated_adds", "hidden_trades"), 0)
    columns = [
        records[name].tolist() for name in ("action", "side", "price", "size", "order_id", "ts_event", "sequence")
    ]
    filled = {(t, sequence) for action, *_, t, sequence in zip(*columns) if action == b"F"}
    for number, (action, letter, price, size, order, t, sequence) in enumerate(zip(*columns)):
        side = SIDES[letter]
        known = orders.get(order)
        if action == b"R":
            orders = {}
            rows.append((number, Kind.CLEAR, 0, 0, 0, 0))
        elif action == b"T" and (t, sequence) not in filled:
            counts["hidden_trades"] += 1
            rows.append((number, Kind.HIDDEN_TRADE, -side, price, size, 0))
        elif action == b"F":
            if known:
                known[2] -= min(size, known[2])
            counts["unknown_orders"] += known is None
            rows.append((number, Kind.TRADE, side, price, size, order))
        elif action == b"A" or (action == b"M" and (known is None or price != known[1] or size > known[3])):
            counts["unknown_orders"] += action == b"M" and known is None
            counts["repeated_adds"] += action == b"A" and known is not None
            if known and known[2]:
                rows.append((number, Kind.DELETE, known[0], known[1], known[2], order))
            orders[order] = [side, price, size, size]
            rows.append((number, Kind.ADD, side, price, size, order))
        elif action in (b"C", b"M") and known:
            known[3] = size if action == b"M" else max(known[3] - size, 0)
            taken = known[2] - min(known[2], known[3])  # fills may have taken it all
            if taken:
                kind = Kind.CANCEL if known[3] else Kind.DELETE
                rows.append((number, kind, known[0], known[1], taken, order))
            known[2] -= taken
            if not known[3]:
                del orders[order]
        elif action == b"C":
            counts["unknown_orders"] += 1
            rows.append((number, Kind.CANCEL, side, 0 if price == UNDEFINED else price, size, order))
    dtypes = (np.int64, np.int8, np.int8, np.int64, np.float64, np.uint64)
    if not rows:
        raise DataError(f"{file}: no record that changes the book or trades")
    return _Rows(*(np.array(column, dtype) for column, dtype in zip(zip(*rows), dtypes))), counts


def _level_rows(schema: str, records: np.ndarray) -> _Rows:
    """Events of a file without orders: trades, and book rows with what the level they are about shows now."""
    number = np.arange(len(records)).repeat(2 if schema == "tbbo" else 1)
    records = records[number]
    price = records["price"]
    trade, clear = records["action"] == b"T", records["action"] == b"R"
    side = (records["side"] == b"B").astype(np.int8) - (records["side"] == b"A")
    if schema == "tbbo":
        trade[::2], side[::2] = False, 0
    shown = np.zeros(len(records))
    for sign, name in ((1, "bid"), (-1, "ask")):
        ticks, sizes = _levels(records, name)
        sizes = np.where(ticks == price[:, None], sizes, 0).sum(1)
        side = np.where((sizes > 0) & ~trade, sign, side)  # the file's own is missing in some data sets
        shown += sizes
    return _Rows(
        record=number,
        kind=np.where(trade, Kind.TRADE, np.where(clear, Kind.CLEAR, Kind.SNAPSHOT)),
        side=np.where(trade, -side, np.where(clear, 0, side)),
        price=np.where(clear | (price == UNDEFINED), 0, price),
        size=np.where(trade, records["size"], np.where(clear, 0, shown)),
        order_id=np.zeros(len(records)),
    )


def _levels(records: np.ndarray, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Prices and sizes (N, K) of one side's levels, size 0 where there is none; K = 0 in files of trades."""
    columns = [name for name in records.dtype.names or () if name.startswith(f"{side}_px_")]
    price, size = (
        np.array([records[name.replace("px", what)] for name in columns], np.int64).reshape(-1, len(records)).T
        for what in ("px", "sz")
    )
    return price, np.where(price == UNDEFINED, 0, size)


def _session(
    file: Path, name: str, feed: Feed, records: np.ndarray, rows: _Rows, tick_size: float | None, counts: dict[str, Any]
) -> Session:
    """Whole ticks, one clock."""
    levels = [_levels(records[rows.record], side) for side in ("bid", "ask")]
    executed = np.isin(rows.kind, (Kind.TRADE, Kind.HIDDEN_TRADE))
    displayed = [rows.price[~executed], *(price[size > 0] for price, size in levels)]
    tick = tick_size or grid_step([prices / GRID for prices in displayed if prices.any()] or [rows.price / GRID])
    unit = round(tick * GRID)
    if unit < 1 or abs(unit - tick * GRID) > 1e-3:
        raise DataError(f"tick_size is {tick_size}, expected a multiple of 1e-9, the unit of DBN prices")
    # Executions may be off the grid.
    shown = [(rows.price[:, None], True, ~executed[:, None]), *((price, size > 0, True) for price, size in levels)]
    for price, is_there, must_fit in shown:
        large = (price >= 2**30 * unit) | (price <= -(2**30) * unit)
        bad = is_there & (large | (must_fit & (price % unit != 0)))
        if bad.any():
            row, level = np.argwhere(bad)[0]
            raise DataError(
                f"{file}: record {rows.record[row] + 1}: a price is not a (sane) multiple of the tick {tick:g}: "
                f"{price[row, level] / GRID:g}; leave the record out, or tick_size unset to detect it"
            )
    # Towards the mid: up for a resting bid, down for a resting ask, to the nearest if the side is unknown.
    up, down, nearest = -(-rows.price // unit), rows.price // unit, (rows.price + unit // 2) // unit
    ticks = np.where(rows.side > 0, up, np.where(rows.side < 0, down, nearest))
    books, keep, n_crossed = None, np.ones(len(ticks), bool), 0
    if feed == "levels":
        _check_books(file, rows.record, levels)
        books, keep, n_crossed = _uncrossed(_books(levels, unit), executed)
        counts = counts | {"crossed_rows": n_crossed}
    if not keep.any():
        raise DataError(f"{file}: every book is crossed or locked, expected bids below asks")
    rows, ticks = _Rows(*(column[keep] for column in vars(rows).values())), ticks[keep]
    received = records["ts_recv"].astype(np.int64)
    sent = np.where(records["flags"] & SNAPSHOT, received, records["ts_event"].astype(np.int64))
    t_ns = np.maximum.accumulate(sent)
    epoch, correction = midnight(t_ns), clock_correction(t_ns, received)
    notes = (f"local clock behind the exchange's: {correction / NS:.9f} s added to local times",) if correction else ()
    if n_crossed:
        notes = (*notes, f"{n_crossed:,} crossed or locked books dropped")
    off_tick = int(np.count_nonzero(rows.price % unit))
    if off_tick:
        notes = (*notes, f"{off_tick:,} executions off the tick grid, moved to the next tick towards the mid")
    return Session(
        name=f"{name} {datetime.datetime.fromtimestamp(epoch // NS, datetime.UTC):%Y-%m-%d}",
        tick_size=tick,
        updates=BookUpdates(
            t_ns=t_ns[rows.record] - epoch,
            kind=rows.kind.astype(np.int8),
            side=rows.side.astype(np.int8),
            price_ticks=ticks.astype(np.int32),
            size=rows.size.astype(np.float64),
            order_id=rows.order_id.astype(np.uint64),
            local_ns=received[rows.record] - epoch + correction,
        ),
        books=books,
        clock=CLOCK,
        feed=feed,
        epoch_ns=epoch,
        counts=counts
        | {"time_backward_steps": int(np.count_nonzero(np.diff(sent) < 0)), "clock_correction_ns": correction},
        source=((file.name, file_hash(file)),),
        notes=notes,
        n_off_tick=off_tick,
    )


def _check_books(file: Path, record: np.ndarray, levels: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Refuses levels behind absent ones and levels that are not sorted from the best one on."""
    for sign, (price, size) in zip((1, -1), levels):
        shown = size > 0
        worse = price[:, 1:] < price[:, :-1] if sign > 0 else price[:, 1:] > price[:, :-1]
        bad = (shown[:, 1:] & ~(shown[:, :-1] & worse)).any(1)
        if bad.any():
            raise DataError(
                f"{file}: record {record[np.argmax(bad)] + 1}: levels are not sorted, expected the best one first; "
                "download it again"
            )


def _uncrossed(books: BookSnapshots, executed: np.ndarray) -> tuple[BookSnapshots, np.ndarray, int]:
    """Books that do not cross, which rows they are of - executions stay, with the book shown last -, how many do."""
    two_sided = (books.bid_size[:, 0] > 0) & (books.ask_size[:, 0] > 0)
    fine = ~(two_sided & (books.bid_ticks[:, 0] >= books.ask_ticks[:, 0]))
    keep = fine | executed
    latest = np.maximum.accumulate(np.where(fine, np.arange(len(fine)), -1))[keep]
    parts = (np.where(latest[:, None] < 0, 0, part[latest]).astype(part.dtype) for part in vars(books).values())
    return BookSnapshots(*parts), keep, int((~fine).sum())


def _books(levels: list[tuple[np.ndarray, np.ndarray]], unit: int) -> BookSnapshots:
    (bid, bid_size), (ask, ask_size) = (
        (np.where(size > 0, price // unit, 0).astype(np.int32), size.astype(np.float64)) for price, size in levels
    )
    return BookSnapshots(bid, bid_size, ask, ask_size)
