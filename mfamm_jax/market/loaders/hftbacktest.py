"""hftbacktest's npz event arrays: level feeds (depth, trade, clear, snapshot) and order feeds (add, cancel, modify, fill).

A row whose exchange and local order differ stands twice in such a file, once for each side of the wire; the exchange's
rows are read, with the time at which each was received.
Source: the layout of hftbacktest's `types.py`.
"""

from pathlib import Path
from typing import no_type_check

import numpy as np

from mfamm_jax.market.events import NS, DataError, Kind, Session
from mfamm_jax.market.loaders.assemble import Columns, assemble
from mfamm_jax.market.loaders.files import LATEST_S, check_grid, file_hash, read_records, refuse

FIELDS = {"ev": np.uint64, "exch_ts": np.int64, "local_ts": np.int64, "px": float, "qty": float, "order_id": np.uint64}
EXCHANGE, BUY, SELL = 1 << 31, 1 << 29, 1 << 28
LEVEL_KINDS = {1: Kind.LEVEL, 2: Kind.TRADE, 3: Kind.CLEAR, 4: Kind.SNAPSHOT}
ORDER_KINDS = {10: Kind.ADD, 11: Kind.CANCEL, 12: Kind.CANCEL, 13: Kind.TRADE}
TRADE, CLEAR, ADD, CANCEL, MODIFY, FILL = 2, 3, 10, 11, 12, 13


def load_hftbacktest(path: str | Path, *, tick_size: float | None = None, size_unit: float | None = None) -> Session:
    """Reads an npz file (or an npy array) of hftbacktest events.

    Args:
        path: File.
        tick_size: [price]; None = detected.
        size_unit: Lot of the venue; None = detected.

    Raises:
        DataError: Names file and row, says what was expected and what to do.
    """
    file = Path(path)
    data = _read(file)
    code = (data["ev"] & 0xFF).astype(np.int64)
    _check(file, data, code, tick_size, size_unit)
    counts = {
        "rows": len(data),
        "rows_by_event": {str(k): int(n) for k, n in zip(*np.unique(code, return_counts=True))},
    }
    data, code = (x[(data["ev"] & EXCHANGE) != 0] for x in (data, code))
    known = np.isin(code, [*LEVEL_KINDS, *ORDER_KINDS])
    by_order = bool(np.isin(code, list(ORDER_KINDS)).any())
    if not known.any():
        raise DataError(
            f"{file}: no exchange rows of depth, trade or order events among {counts['rows']:,}, expected one"
        )
    data, code = data[known], code[known]
    if by_order:
        data, code, kind = _order_rows(file, data, code)
    else:
        kind = np.array([LEVEL_KINDS[c] for c in code], np.int8)
    is_bid = (data["ev"] & BUY) != 0
    is_ask = (data["ev"] & SELL) != 0
    side = is_bid.astype(np.int8) - is_ask.astype(np.int8)
    # A trade carries its initiator's side, a fill the resting order's.
    aggressor = (kind == Kind.TRADE) & (code != FILL)
    # A clear without a price takes its whole side.
    price = data["px"]
    whole_side = (kind == Kind.CLEAR) & ~np.isfinite(price)
    farthest = np.where(side < 0, price.max(initial=0.0, where=kind != Kind.CLEAR), 0.0)
    return assemble(
        file.name.split(".")[0],
        Columns(
            data["exch_ts"],
            data["local_ts"],
            kind,
            np.where(aggressor, -side, side),
            np.where(whole_side, farthest, price),
            np.where(kind == Kind.CLEAR, 0.0, data["qty"]),
            data["order_id"],
        ),
        "orders" if by_order else "levels",
        tick_size=tick_size,
        size_unit=size_unit,
        counts=counts,
        source=((file.name, file_hash(file)),),
    )


def _read(file: Path) -> np.ndarray:
    kinds = {name: "f" if kind is float else "iu" for name, kind in FIELDS.items()}
    found = read_records(file, kinds, "hftbacktest's event records")
    if len(found) == 0:
        raise DataError(f"{file}: no events; expected at least one")
    for name in ("exch_ts", "local_ts"):
        bad = ((found[name] < 0) | (found[name] > LATEST_S * NS)) & (found["ev"].astype(np.uint64) & EXCHANGE != 0)
        refuse(file, bad, name, found[name], "UTC nanoseconds before 2100; correct or remove the row")
    data = np.empty(len(found), list(FIELDS.items()))
    for name, kind in FIELDS.items():
        data[name] = found[name].astype(kind)
    rows = np.flatnonzero(data["ev"] & EXCHANGE)
    back = np.flatnonzero(np.diff(data["exch_ts"][rows]) < 0)
    if len(back):
        raise DataError(
            f"{file}: row {rows[back[0] + 1] + 1}: exchange times go backwards; run hftbacktest's correct_event_order on it"
        )
    return data


def _check(file: Path, data: np.ndarray, code: np.ndarray, tick_size: float | None, size_unit: float | None) -> None:
    """Refuses prices and sizes that cannot be used, by their row in the file."""
    priced = np.isin(code, [kind for kind in (*LEVEL_KINDS, *ORDER_KINDS) if kind != CLEAR])
    priced &= (data["ev"] & EXCHANGE) != 0
    columns = {}
    # A cancelled order is known by its number.
    needed = priced & (code != CANCEL)
    for name in ("px", "qty"):
        values = data[name]
        usable = np.isfinite(values) & (values >= 0)
        refuse(file, ~usable & needed, name, values, "a number >= 0")
        columns[name] = np.where(priced & usable, values, 0.0)
    executed = needed & np.isin(code, (TRADE, FILL))
    rests = needed & ~executed & (columns["qty"] > 0)
    refuse(file, executed & (columns["qty"] == 0), "qty", data["qty"], "> 0 of a trade; remove the row")
    refuse(file, (executed | rests) & (columns["px"] == 0), "px", data["px"], "> 0; remove the row")
    has_side = (data["ev"] & BUY != 0) ^ (data["ev"] & SELL != 0)
    refuse(file, needed & (code != TRADE) & ~has_side, "ev", data["ev"], "a flag of one side, buy or sell")
    check_grid(file, {"px": columns["px"]}, {"qty": columns["qty"]}, tick_size, size_unit, 1)


@no_type_check  # loops over every event
def _order_rows(file: Path, data: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Order events as add, cancel of a quantity, and execution; a modification is a removal and a new order.

    A modified order keeps its place when only its quantity falls. The trade rows of an order feed repeat its fills.
    """
    rows: list[tuple[int, Kind, float, float]] = []
    orders: dict[int, tuple[float, float]] = {}
    columns = (code, data["order_id"], data["px"], data["qty"])
    for row, (event, order, price, size) in enumerate(zip(*(column.tolist() for column in columns))):
        before = orders.get(order)
        is_left = before is not None and before[1] > 0  # fills may have taken it all
        if event in (ADD, MODIFY):
            orders[order] = (price, size)
            if event == MODIFY and is_left and before[0] == price and size <= before[1]:
                rows.append((row, Kind.CANCEL, price, before[1] - size))
                continue
            if is_left:  # an addition, too, takes the place of what the number stood for
                rows.append((row, Kind.DELETE, *before))
            rows.append((row, Kind.ADD, price, size))
        elif event == CANCEL:
            if before is None:
                rows.append((row, Kind.DELETE, *(x if 0 <= x < np.inf else 0.0 for x in (price, size))))
            elif is_left:
                rows.append((row, Kind.DELETE, *before))
            orders.pop(order, None)
        elif event == FILL:
            rows.append((row, Kind.TRADE, price, size))
            if before is not None:
                orders[order] = (before[0], max(before[1] - size, 0.0))
        elif event == CLEAR:
            rows.append((row, Kind.CLEAR, price, 0.0))
    if not rows:
        raise DataError(f"{file}: order events without adds, cancels or fills")
    row, kind, price, size = (np.array(column) for column in zip(*rows))
    data = data[row].copy()
    data["px"], data["qty"] = price, size
    return data, code[row], kind.astype(np.int8)
