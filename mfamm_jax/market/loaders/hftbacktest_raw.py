"""Raw captures of hftbacktest's collector for Binance: `<local time> <JSON>` lines of depth, trades and best quotes.

The book starts at the REST snapshot; diffs it already contains are dropped, the others must follow one another without a
gap (futures: `pu` = previous `u`; spot: `U` = previous `u` + 1). Trades other than market orders' (`X`) are no trades of
the book. `m` says that the buyer was the maker: a sell-initiated trade, whose resting side is the bid.
"""

import dataclasses
import json
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, no_type_check

import numpy as np

from mfamm_jax.market.events import BestQuotes, BookSnapshots, DataError, Kind, Session
from mfamm_jax.market.loaders.assemble import Columns, assemble, clock_correction
from mfamm_jax.market.loaders.files import (
    LATEST_S,
    MAX_SIZE,
    MAX_TICKS,
    check_grid,
    file_hash,
    grid_step,
    multiples,
    read_blocks,
)

BID, ASK = 1, -1
MS = 1_000_000
MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)
LINE = re.compile(rb"(\d{1,30}) (.*)")


def load_hftbacktest_raw(
    path: str | Path | Sequence[str | Path],
    *,
    tick_size: float | None = None,
    size_unit: float | None = None,
    gap: Literal["error", "resync"] = "error",
) -> Session:
    """Reads a capture, or the files of one recording in order: only its first file has the snapshot.

    Args:
        path: .gz file or files.
        tick_size: [price]; None = detected.
        size_unit: Lot of the venue; None = detected.
        gap: After a gap in the update numbers refuse, or clear the book until the next snapshot.

    Raises:
        DataError: Names file and line, says what was expected and what to do.
    """
    files = [Path(path)] if isinstance(path, str | Path) else [Path(p) for p in path]
    name = files[0].name.split(".")[0]
    reader = _Reader(gap)
    for file in files:
        for number, (local, message) in enumerate(_lines(file), 1):
            place, reader.line = f"{file}: line {number}", number
            try:
                reader.take(place, local, message)
            except MALFORMED as error:
                raise _named(place, error) from error
    if reader.snapshot_id is None:
        listed = ", ".join(str(file) for file in files)
        raise DataError(f"{listed}: no depth snapshot; give the first file of the recording before this one")
    return reader.session(name, tick_size, size_unit, tuple((f.name, file_hash(f)) for f in files))


def _named(place: str, error: Exception) -> DataError:
    """The error as one about a line of the file."""
    if isinstance(error, DataError):
        return error
    what = f"no {error}" if isinstance(error, KeyError) else error
    return DataError(
        f"{place}: not a message of a depth, trade or bookTicker stream ({what}); remove the line or record it again"
    )


def _number(value: Any) -> float:
    """A price or size."""
    number = float(value)
    if isinstance(value, bool) or not 0 <= number <= MAX_SIZE or (isinstance(value, str) and "_" in value):
        raise ValueError(f"price or size {value!r}, expected a number >= 0 and at most 2^53")
    return number


def _whole(data: dict, name: str) -> int:
    """An update or trade number."""
    if type(data[name]) is not int:
        raise ValueError(f"{name} is {data[name]!r}, expected a whole number")
    return data[name]


def _time(data: dict, name: str) -> int:
    """An exchange time [ns]."""
    if type(data[name]) is not int or not 10**12 <= data[name] <= LATEST_S * 1000:
        raise ValueError(f"{name} is {data[name]!r}, expected UTC epoch ms before 2100")
    return data[name] * MS


def _levels(data: dict, names: str) -> list[tuple[int, float, float]]:
    """Side, price and size of the levels of a message."""
    sides = [(side, data[name]) for side, name in zip((BID, ASK), names.split())]
    if not all(isinstance(levels, list) for _, levels in sides):
        raise ValueError("levels that are no list")
    return [(side, _number(price), _number(size)) for side, levels in sides for price, size in levels]


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    for block in read_blocks(file):
        for line in block.splitlines():
            number += 1
            match = LINE.fullmatch(line)
            try:
                message = json.loads(match[2]) if match else None
            except (ValueError, RecursionError):
                message = None
            if match is None or message is None:
                raise DataError(f"{file}: line {number}: {line[:60]!r}, expected a local time and a JSON message")
            yield int(match[1]), message


class _Reader:
    """Turns messages into rows, checking the sequence of update numbers."""

    def __init__(self, gap: str):
        self.gap = gap
        self.columns = [array("q"), array("q"), array("b"), array("b"), array("d"), array("d")]
        self.quotes = [array("q"), array("q"), *(array("d") for _ in range(4))]
        self.line = 0  # of the file
        self.lines, self.quote_lines = array("q"), array("q")  # that the rows are from
        self.waiting: list[tuple[str, int, int, dict]] = []  # diffs received before the snapshot that may follow it
        self.streams: Counter[str] = Counter()
        self.snapshot_id: int | None = None
        self.last_id: int | None = None  # of the last diff applied; None = the next one may overlap the snapshot
        self.synced = False
        self.latest = 0  # exchange time
        self.book_time = 0  # exchange time of the book's last message; the book never goes back
        self.earliest_lead = 0
        self.first: int | None = None
        self.counts = Counter(dropped_diffs=0, applied_diffs=0, gaps=0, other_trades=0, trade_id_gaps=0)
        self.trade_id: int | None = None
        self.event_lead: array = array("q")

    @no_type_check  # called for every line
    def take(self, place: str, local: int, message: dict) -> None:
        """One line."""
        if 10**15 <= local < 10**16:
            local *= 1000  # microseconds in captures of 2023, nanoseconds later
        if not 10**18 <= local <= LATEST_S * 1000 * MS:
            raise ValueError(f"local time {local}, expected 16 (us) or 19 digits (ns)")
        data = message.get("data", message)
        stream = message.get("stream", data.get("e", "")).split("@", 1)[-1]
        event = data.get("e", stream)
        if "lastUpdateId" in data:
            self.streams["rest_depth_snapshot"] += 1
            self._snapshot(local, data)
            return
        self.streams[stream] += 1
        if event == "bookTicker":
            if "E" in data:
                self.event_lead.append(local - _time(data, "E"))
            self._quote(local, data)
            return
        if event not in ("depthUpdate", "trade"):
            return
        exchange = _time(data, "T" if "T" in data else "E")
        self.event_lead.append(local - _time(data, "E"))
        self.latest = max(self.latest, exchange)
        self.first = exchange if self.first is None else min(self.first, exchange)
        self.earliest_lead = min(self.earliest_lead, local - exchange)
        if event == "trade":
            self._trade(local, exchange, data)
        elif self.synced:
            self._diff(place, local, data)
        else:
            self.waiting.append((place, self.line, local, data))

    @no_type_check
    def _add(self, local, exchange, kind, side, price, size) -> None:
        if price == 0 < size:
            raise ValueError(f"price 0 of size {size}")
        self.lines.append(self.line)
        for column, value in zip(self.columns, (exchange, local, kind, side, price, size)):
            column.append(value)

    @no_type_check
    def _trade(self, local, exchange, data) -> None:
        number = _whole(data, "t")
        if self.trade_id is not None and number != self.trade_id + 1:
            self.counts["trade_id_gaps"] += 1
        self.trade_id = number
        if data.get("X", "MARKET") != "MARKET":
            self.counts["other_trades"] += 1
            return
        if not isinstance(data["m"], bool) or _number(data["q"]) == 0:
            raise ValueError(f"m is {data['m']!r}, q is {data['q']!r}, expected true or false and a number > 0")
        self._add(local, exchange, Kind.TRADE, BID if data["m"] else ASK, _number(data["p"]), _number(data["q"]))

    @no_type_check
    def _quote(self, local, data) -> None:
        bid, bid_size, ask, ask_size = values = [_number(data[name]) for name in "bBaA"]
        if bid == 0 < bid_size or ask == 0 < ask_size:
            raise ValueError(f"prices and sizes {values}")
        if bid >= ask and bid_size > 0 and ask_size > 0:
            self.counts["crossed_quotes"] += 1
            return
        self.quote_lines.append(self.line)
        for column, value in zip(self.quotes, (_time(data, "T") if "T" in data else 0, local, *values)):
            column.append(value)

    @no_type_check
    def _snapshot(self, local, data) -> None:
        number = _whole(data, "lastUpdateId")
        if self.synced and self.last_id is not None and number < self.last_id:
            self.counts["older_snapshots"] += 1
            return  # the book is newer, and the diffs that would make up for it are applied
        # Spot snapshots have no time. Diffs that follow one may have been sent before it came.
        exchange = self.book_time = max(_time(data, "T") if "T" in data else self.latest, self.book_time)
        self.snapshot_id, self.last_id, self.synced = number, None, True
        self.counts["snapshot_levels"] = max(len(data["bids"]), len(data["asks"]))
        self._add(local, exchange, Kind.CLEAR, 0, 0.0, 0.0)
        for side, price, size in _levels(data, "bids asks"):
            self._add(local, exchange, Kind.SNAPSHOT, side, price, size)
        waiting, self.waiting = self.waiting, []
        for place, self.line, received, diff in waiting:
            if self.synced:
                self._later_diff(place, local, diff)  # known only once the snapshot is
            else:
                self.waiting.append((place, self.line, received, diff))

    @no_type_check
    def _later_diff(self, place, local, data) -> None:
        try:
            self._diff(place, local, data)
        except MALFORMED as error:
            raise _named(place, error) from error

    @no_type_check
    def _diff(self, place, local, data) -> None:
        is_futures = "pu" in data
        first, last = _whole(data, "U"), _whole(data, "u")
        if self.last_id is None and (last < self.snapshot_id or (not is_futures and last == self.snapshot_id)):
            self.counts["dropped_diffs"] += 1
            return
        if self.last_id is None:
            follows = first <= self.snapshot_id + 1
        else:
            follows = _whole(data, "pu") == self.last_id if is_futures else first == self.last_id + 1
        exchange = self.book_time = max(_time(data, "T" if "T" in data else "E"), self.book_time)
        if not follows:
            self.counts["gaps"] += 1
            if self.gap == "error":
                raise DataError(
                    f'{place}: gap in the depth updates before number {first}; load with gap = "resync" to clear the '
                    "book there until the next snapshot"
                )
            self.synced = False
            self._add(local, exchange, Kind.CLEAR, 0, 0.0, 0.0)
            self.waiting.append((place, self.line, local, data))  # the next snapshot may be older than it
            return
        self.last_id = last
        self.counts["applied_diffs"] += 1
        for side, price, size in _levels(data, "b a"):
            self._add(local, exchange, Kind.LEVEL, side, price, size)

    def session(self, name: str, tick_size: float | None, size_unit: float | None, source: tuple) -> Session:
        """What was read."""
        exchange, local, kind, side, price, size = (np.array(column) for column in self.columns)
        quotes = [np.array(column) for column in self.quotes]
        known = exchange > 0  # a spot snapshot before every message with a time has none
        exchange = np.where(known, exchange, exchange[known].min() if known.any() else local)
        self._check_grid(", ".join(file for file, _ in source), (price, size), quotes, tick_size, size_unit)
        notes = (f"{self.counts['crossed_quotes']:,} crossed or locked best quotes dropped",)
        tick = tick_size or grid_step([price, quotes[2], quotes[4]])
        unit = size_unit or grid_step([size, quotes[3], quotes[5]])
        lead = np.array(self.event_lead) / MS
        leads = {"min": lead.min(), "median": np.median(lead), "max": lead.max()} if len(lead) else {}
        session = assemble(
            name,
            Columns(exchange, local, kind, side, price, size),
            "levels",
            tick_size=tick,
            size_unit=unit,
            # As hftbacktest's converter: over all depth and trade lines, dropped ones too.
            correction_ns=max(-self.earliest_lead, clock_correction(exchange, local)),
            counts={
                "n_lines": sum(self.streams.values()),
                "lines_by_stream": dict(self.streams),
                "first_exchange_ns": self.first,
                "snapshot_lastUpdateId": self.snapshot_id,
                "local_minus_exchange_E_ms": leads,
                **self.counts,
            },
            notes=notes if self.counts["crossed_quotes"] else (),
            source=source,
        )
        return _with_quotes(session, quotes)

    def _check_grid(
        self, files: str, rows: tuple, quotes: list[np.ndarray], tick: float | None, unit: float | None
    ) -> None:
        """Refuses prices and sizes off a given grid, or too far apart for one, by their lines."""
        check_grid(files, {"price": rows[0]}, {"size": rows[1]}, tick, unit, np.array(self.lines))
        if self.quote_lines:
            prices, sizes = (
                {f"bookTicker {n}": quotes[k] for n, k in p} for p in ((("b", 2), ("a", 4)), (("B", 3), ("A", 5)))
            )
            check_grid(files, prices, sizes, tick, unit, np.array(self.quote_lines))


def _with_quotes(session: Session, quotes: list[np.ndarray]) -> Session:
    """Adds the bookTicker stream; spot sends it without a time, so its local time serves as exchange time too."""
    exchange, local, *values = quotes
    if len(local) == 0:
        return session
    local = local + session.counts["clock_correction_ns"] - session.epoch_ns
    files = ", ".join(file for file, _ in session.source)
    steps = ((session.tick_size, MAX_TICKS), (session.size_unit, MAX_SIZE)) * 2
    bid, bid_size, ask, ask_size = (
        multiples(f"{files} bookTicker", x, step, "check or give tick_size and size_unit", largest=largest)[:, None]
        for x, (step, largest) in zip(values, steps)
    )
    books = BookSnapshots(bid.astype(np.int32), bid_size.astype(float), ask.astype(np.int32), ask_size.astype(float))
    t_ns = np.where(exchange > 0, exchange - session.epoch_ns, local)
    return dataclasses.replace(session, best_quotes=BestQuotes(t_ns, local, books))
