"""Raw captures of hftbacktest's collector for Binance: `<local time> <JSON>` lines of depth, trades and best quotes.

The book starts at the REST snapshot; diffs it already contains are dropped, the others must follow one another without a
gap (futures: `pu` = previous `u`; spot: `U` = previous `u` + 1). Trades other than market orders' (`X`) are no trades of
the book. `m` says that the buyer was the maker: a sell-initiated trade, whose resting side is the bid.
"""

import dataclasses
import json
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, no_type_check

import numpy as np

from mfamm_jax.market.events import BestQuotes, BookSnapshots, DataError, Kind, Session
from mfamm_jax.market.loaders.assemble import Columns, assemble, clock_correction
from mfamm_jax.market.loaders.files import file_hash, grid_step, multiples, read_blocks

BID, ASK = 1, -1
MS = 1_000_000
MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError)


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
            place = f"{file}: line {number}"
            try:
                reader.take(place, local, message)
            except MALFORMED as error:
                raise _named(place, error) from error
    if reader.snapshot_id is None:
        raise DataError(f"{name}: no depth snapshot; give the first file of the recording before this one")
    return reader.session(name, tick_size, size_unit, tuple((f.name, file_hash(f)) for f in files))


def _named(place: str, error: Exception) -> DataError:
    """The error as one about a line of the file."""
    if isinstance(error, DataError):
        return error
    return DataError(f"{place}: not a message of a depth, trade or bookTicker stream ({error!r})")


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    for block in read_blocks(file):
        for line in block.splitlines():
            number += 1
            time, _, text = line.partition(b" ")
            try:
                yield int(time), json.loads(text)
            except ValueError as error:
                raise DataError(
                    f"{file}: line {number}: {line[:60]!r}, expected a local time and a JSON message"
                ) from error


class _Reader:
    """Turns messages into rows, checking the sequence of update numbers."""

    def __init__(self, gap: str):
        self.gap = gap
        self.columns = [array("q"), array("q"), array("b"), array("b"), array("d"), array("d")]
        self.quotes = [array("q"), array("q"), *(array("d") for _ in range(4))]
        self.waiting: list[tuple[str, int, dict]] = []  # diffs received before the snapshot that may follow it
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
        if not 10**18 <= local < 2**63:
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
                self.event_lead.append(local - data["E"] * MS)
            self._quote(local, data)
            return
        if event not in ("depthUpdate", "trade"):
            return
        exchange = data.get("T", data["E"]) * MS
        self.event_lead.append(local - data["E"] * MS)
        self.latest = max(self.latest, exchange)
        self.first = exchange if self.first is None else min(self.first, exchange)
        self.earliest_lead = min(self.earliest_lead, local - exchange)
        if event == "trade":
            self._trade(local, exchange, data)
        elif self.synced:
            self._diff(place, local, data)
        else:
            self.waiting.append((place, local, data))

    @no_type_check
    def _add(self, local, exchange, kind, side, price, size) -> None:
        price, size = float(price), float(size)
        if not (0 <= price < np.inf and 0 <= size < np.inf):
            raise ValueError(f"price {price}, size {size}")
        for column, value in zip(self.columns, (exchange, local, kind, side, price, size)):
            column.append(value)

    @no_type_check
    def _trade(self, local, exchange, data) -> None:
        if self.trade_id is not None and data["t"] != self.trade_id + 1:
            self.counts["trade_id_gaps"] += 1
        self.trade_id = data["t"]
        if data.get("X", "MARKET") != "MARKET":
            self.counts["other_trades"] += 1
            return
        self._add(local, exchange, Kind.TRADE, BID if data["m"] else ASK, data["p"], data["q"])

    @no_type_check
    def _quote(self, local, data) -> None:
        values = [float(data[name]) for name in "bBaA"]
        if not all(0 <= value < np.inf for value in values):
            raise ValueError(f"prices and sizes {values}")
        for column, value in zip(self.quotes, (data.get("T", 0) * MS, local, *values)):
            column.append(value)

    @no_type_check
    def _snapshot(self, local, data) -> None:
        if self.synced and self.last_id is not None and data["lastUpdateId"] < self.last_id:
            self.counts["older_snapshots"] += 1
            return  # the book is newer, and the diffs that would make up for it are applied
        # Spot snapshots have no time. Diffs that follow one may have been sent before it came.
        exchange = self.book_time = max(data.get("T", 0) * MS or self.latest, self.book_time)
        self.snapshot_id, self.last_id, self.synced = data["lastUpdateId"], None, True
        self.counts["snapshot_levels"] = max(len(data["bids"]), len(data["asks"]))
        self._add(local, exchange, Kind.CLEAR, 0, 0.0, 0.0)
        for side, levels in ((BID, data["bids"]), (ASK, data["asks"])):
            for price, size in levels:
                self._add(local, exchange, Kind.SNAPSHOT, side, price, size)
        waiting, self.waiting = self.waiting, []
        for place, received, diff in waiting:
            if self.synced:
                self._later_diff(place, local, diff)  # known only once the snapshot is
            else:
                self.waiting.append((place, received, diff))

    @no_type_check
    def _later_diff(self, place, local, data) -> None:
        try:
            self._diff(place, local, data)
        except MALFORMED as error:
            raise _named(place, error) from error

    @no_type_check
    def _diff(self, place, local, data) -> None:
        is_futures = "pu" in data
        if self.last_id is None and (
            data["u"] < self.snapshot_id or (not is_futures and data["u"] == self.snapshot_id)
        ):
            self.counts["dropped_diffs"] += 1
            return
        if self.last_id is None:
            follows = data["U"] <= self.snapshot_id + 1
        else:
            follows = data["pu"] == self.last_id if is_futures else data["U"] == self.last_id + 1
        exchange = self.book_time = max(data.get("T", data["E"]) * MS, self.book_time)
        if not follows:
            self.counts["gaps"] += 1
            if self.gap == "error":
                raise DataError(
                    f'{place}: gap in the depth updates before number {data["U"]}; load with gap = "resync" to clear the '
                    "book there until the next snapshot"
                )
            self.synced = False
            self._add(local, exchange, Kind.CLEAR, 0, 0.0, 0.0)
            self.waiting.append((place, local, data))  # the next snapshot may be older than it
            return
        self.last_id = data["u"]
        self.counts["applied_diffs"] += 1
        for side, levels in ((BID, data["b"]), (ASK, data["a"])):
            for price, size in levels:
                self._add(local, exchange, Kind.LEVEL, side, price, size)

    def session(self, name: str, tick_size: float | None, size_unit: float | None, source: tuple) -> Session:
        """What was read."""
        exchange, local, kind, side, price, size = (np.array(column) for column in self.columns)
        quotes = [np.array(column) for column in self.quotes]
        known = exchange > 0  # a spot snapshot before every message with a time has none
        exchange = np.where(known, exchange, exchange[known].min() if known.any() else local)
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
            source=source,
        )
        return _with_quotes(session, name, quotes)


def _with_quotes(session: Session, name: str, quotes: list[np.ndarray]) -> Session:
    """Adds the bookTicker stream; spot sends it without a time, so its local time serves as exchange time too."""
    exchange, local, *values = quotes
    if len(local) == 0:
        return session
    local = local + session.counts["clock_correction_ns"] - session.epoch_ns
    steps = (session.tick_size, session.size_unit) * 2
    bid, bid_size, ask, ask_size = (
        multiples(f"{name}: bookTicker", x, step, "check tick_size and size_unit")[:, None]
        for x, step in zip(values, steps)
    )
    books = BookSnapshots(bid.astype(np.int32), bid_size.astype(float), ask.astype(np.int32), ask_size.astype(float))
    t_ns = np.where(exchange > 0, exchange - session.epoch_ns, local)
    return dataclasses.replace(session, best_quotes=BestQuotes(t_ns, local, books))
