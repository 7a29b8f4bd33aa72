"""Nasdaq TotalView-ITCH 5.0 files, plain or .gz: a two-byte length before each message, prices x 10,000.

Messages of other stocks are skipped by their stock locate, undecoded; meatpy decodes the rest. Decisions:

- A replaced order (U) loses its place in the queue: DELETE and ADD.
- An execution with a price (C) is still one of the resting order. If it is not printable it belongs to a cross, whose volume
  the cross message (Q) reports, and only takes its quantity from the book (CANCEL, DELETE).
- P, the execution of an order that was never displayed, has said B whichever side rested since 2014: if no P of the stock
  says S, the side is unknown (0).

Source: Nasdaq TotalView-ITCH 5.0 specification; the frames are Nasdaq's BinaryFILE format.
"""

import datetime
import struct
import zoneinfo
from collections.abc import Iterator
from pathlib import Path
from typing import Any, no_type_check

import numpy as np

from mfamm_jax.market.events import NS, BookUpdates, DataError, Kind, Session
from mfamm_jax.market.loaders.files import (
    BLOCK_BYTES,
    DAY_NS,
    MAX_TICKS,
    file_hash,
    first_of,
    open_binary,
    read_block,
    shown,
)

CENT = 100  # file units of 0.0001
STATES = {b"H": -1, b"P": -1, b"Q": 0, b"T": 1}
SIDES = {b"B": 1, b"S": -1}
SHOWN = 20  # symbols listed in an error
CLOCK = "exchange event time, ns after midnight New York"


def load_itch(path: str | Path, *, symbol: str | None = None, session_date: str | None = None) -> Session:
    """Reads one stock's messages of a day.

    Args:
        path: File.
        symbol: Stock; None = an error that lists some of those in the file.
        session_date: YYYY-MM-DD, which the file does not tell: for the name and `epoch_ns`.

    Raises:
        DataError: Names file and message, says what was expected and what to do.
    """
    file = Path(path)
    try:
        from meatpy.itch50.itch50_market_message import ITCH50MarketMessage
    except ImportError as error:
        raise DataError(f'{file}: ITCH files need an extra package: pip install "mfamm-jax[itch]"') from error
    epoch = _midnight(session_date) if session_date else 0
    stock, by_type = _Stock(), [0] * 256
    for number, content in _messages_of(file, symbol, by_type):
        try:
            stock.apply(ITCH50MarketMessage.from_bytes(content))
        except (struct.error, ValueError, KeyError) as error:
            what = f"unknown code {error}" if isinstance(error, KeyError) else first_of(error)
            raise DataError(f"{file}: message {number:,}: {what}; expected ITCH 5.0") from error
    if not stock.rows:
        raise DataError(f"{file}: no order or trade of {symbol}; give another symbol")
    updates, unit, off_tick, notes = _updates(stock)
    if (np.diff(updates.t_ns) < 0).any():
        raise DataError(f"{file}: time goes backwards among the messages of {symbol}; download it again")
    messages = {chr(letter): count for letter, count in enumerate(by_type) if count}
    return Session(
        name=f"{symbol} {session_date}" if session_date else str(symbol),
        tick_size=unit / 10_000,
        updates=updates,
        books=None,
        clock=CLOCK,
        feed="orders",
        epoch_ns=epoch,
        counts={"messages": messages, **stock.counts},
        source=((file.name, file_hash(file)),),
        notes=notes,
        n_off_tick=off_tick,
    )


def _midnight(session_date: str) -> int:
    """UTC nanoseconds of New York's midnight."""
    try:
        day = datetime.date.fromisoformat(session_date)
    except ValueError as error:
        raise DataError(f"session_date is {session_date!r}, expected YYYY-MM-DD") from error
    start = datetime.datetime(day.year, day.month, day.day, tzinfo=zoneinfo.ZoneInfo("America/New_York"))
    return int(start.timestamp()) * NS


@no_type_check  # loops over every message of every stock
def _messages_of(file: Path, symbol: str | None, by_type: list[int]) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of one stock's messages; counts all stocks' messages by type."""
    name, locate, stocks = (symbol or "").encode().ljust(8), None, []
    for number, content in enumerate(_messages(file), 1):
        by_type[content[0]] += 1
        if content[0] == ord("R"):
            stocks.append(content[11:19])
            if content[11:19] == name:
                locate = content[1:3]
        if content[1:3] == locate:
            yield number, content
    if locate is None:
        listed = ", ".join(stock.decode(errors="replace").strip() for stock in stocks[:SHOWN])
        more = ", ..." if len(stocks) > SHOWN else ""
        raise DataError(
            f"{file}: no stock {symbol or 'given'}; symbol must be one of {shown(listed) or '(none)'}{more}"
        )


@no_type_check
def _messages(file: Path) -> Iterator[bytes]:
    """Messages without their lengths; a length of zero ends the file."""
    rest, number = b"", 0
    with open_binary(file) as stream:
        while block := read_block(file, stream, BLOCK_BYTES):
            block = rest + block
            start, end = 0, len(block)
            while start + 2 <= end:
                stop = start + 2 + (block[start] << 8 | block[start + 1])
                if stop > end:
                    break
                if stop == start + 2:
                    if block[stop:] or read_block(file, stream, 1):
                        raise DataError(
                            f"{file}: message {number + 1:,}: length 0, but the file goes on; the lengths are damaged: "
                            "write each message's true length (by its type) in front of it"
                        )
                    return
                number += 1
                yield block[start + 2 : stop]
                start = stop
            rest = block[start:]
    if rest:
        raise DataError(f"{file}: ends within message {number + 1:,}; download it again")
    if not number:
        raise DataError(f"{file}: empty; expected ITCH 5.0 messages")


class _Stock:
    """Orders of one stock while its messages pass by: [side, price, quantity left] by order reference.

    Rows: (t_ns, kind, side, price in 0.0001, size, order id).
    """

    def __init__(self):
        self.orders: dict[int, list[int]] = {}
        self.rows: list[tuple[int, int, int, int, int, int]] = []
        self.counts = dict.fromkeys(("unknown_orders", "repeated_adds", "not_printable", "broken_trades"), 0)

    @no_type_check
    def apply(self, message: Any) -> None:
        """Appends the rows of one message."""
        letter, t_ns = message.type, message.timestamp
        if t_ns >= DAY_NS:
            raise ValueError(f"time {t_ns} ns, which is after the day's end")
        if letter in (b"A", b"F"):
            self.add(t_ns, message.order_ref, SIDES[message.bsindicator], message.price, message.shares)
        elif letter in (b"E", b"C", b"X", b"D", b"U"):
            reference = message.original_ref if letter == b"U" else message.order_ref
            order = self.orders.get(reference)
            if order is None:
                self.counts["unknown_orders"] += 1
            elif letter in (b"D", b"U"):
                self.take(t_ns, Kind.DELETE, reference, order[2])
                if letter == b"U":
                    self.add(t_ns, message.new_ref, order[0], message.price, message.shares)
            elif letter == b"E" or (letter == b"C" and message.printable != b"N"):
                price = message.execution_price if letter == b"C" else order[1]
                _check(price, message.shares)
                self.take(t_ns, Kind.TRADE, reference, message.shares, price)
            else:
                self.counts["not_printable"] += letter == b"C"
                shares = message.canceled_shares if letter == b"X" else message.shares
                self.take(t_ns, Kind.CANCEL, reference, shares)
        elif letter == b"P":
            _check(message.price, message.shares)
            side = SIDES[message.bsindicator]
            self.rows.append((t_ns, Kind.HIDDEN_TRADE, side, message.price, message.shares, 0))
        elif letter == b"Q" and message.shares:
            _check(message.cross_price, message.shares)
            self.rows.append((t_ns, Kind.CROSS, 0, message.cross_price, message.shares, 0))
        elif letter == b"H":
            self.rows.append((t_ns, Kind.HALT, 0, STATES[message.state], 0, 0))
        elif letter == b"B":
            self.counts["broken_trades"] += 1

    def add(self, t_ns: int, reference: int, side: int, price: int, shares: int) -> None:
        """New order, in place of one with the same reference."""
        _check(price, shares)
        if reference in self.orders:
            self.counts["repeated_adds"] += 1
            self.take(t_ns, Kind.DELETE, reference, self.orders[reference][2])
        self.orders[reference] = [side, price, shares]
        self.rows.append((t_ns, Kind.ADD, side, price, shares, reference))

    def take(self, t_ns: int, kind: int, reference: int, shares: int, price: int | None = None) -> None:
        """Less of an order; the last of it when cancelled is a DELETE."""
        order = self.orders[reference]
        if shares > order[2]:
            raise ValueError(f"{shares} shares of an order that has {order[2]} left")
        order[2] -= shares
        if order[2] <= 0:
            del self.orders[reference]
            kind = Kind.DELETE if kind == Kind.CANCEL else kind
        self.rows.append((t_ns, kind, order[0], order[1] if price is None else price, shares, reference))


def _check(price: int, shares: int) -> None:
    if not 0 < price <= MAX_TICKS or shares <= 0:
        raise ValueError(f"{shares} shares at a price of {price} x 0.0001")


def _updates(stock: _Stock) -> tuple[BookUpdates, int, int, tuple[str, ...]]:
    """Rows as columns, tick in 0.0001, number of executions off the tick grid, notes."""
    t_ns, kind, side, price, size, order = (
        np.array(column, dtype) for column, dtype in zip(zip(*stock.rows), (np.int64,) * 4 + (np.float64, np.uint64))
    )
    notes = ()
    hidden = kind == Kind.HIDDEN_TRADE
    if hidden.any() and (side[hidden] > 0).all():
        side[hidden] = 0
        notes = ("hidden executions do not tell their side",)
    halt = kind == Kind.HALT
    unit = 1 if (price[np.isin(kind, (Kind.ADD, Kind.CANCEL, Kind.DELETE))] % CENT).any() else CENT
    off = (price % unit != 0) & ~halt
    # Towards the mid: up for a resting bid, down for a resting ask, to the nearest if the side is unknown.
    ticks = np.where(side > 0, -(-price // unit), np.where(side < 0, price // unit, (price + unit // 2) // unit))
    if off.any():
        notes = (*notes, f"{off.sum():,} executions off the tick grid, moved to the next tick towards the mid")
    updates = BookUpdates(
        t_ns=t_ns,
        kind=kind.astype(np.int8),
        side=side.astype(np.int8),
        price_ticks=np.where(halt, price, ticks).astype(np.int32),
        size=size,
        order_id=order,
    )
    return updates, unit, int(off.sum()), notes
