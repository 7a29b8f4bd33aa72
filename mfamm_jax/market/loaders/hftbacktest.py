"""hftbacktest's npz event arrays: level feeds (depth, trade, clear, snapshot) and order feeds (add, cancel, modify, fill).

A row whose exchange and local order differ stands twice in such a file, once for each side of the wire; the exchange's
rows are read, with the time at which each was received.
Source: the layout of hftbacktest's `types.py`.
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from mfamm_jax.market.events import DataError, Kind, Session
from mfamm_jax.market.loaders.assemble import Columns, assemble
from mfamm_jax.market.loaders.files import file_hash

FIELDS = ("ev", "exch_ts", "local_ts", "px", "qty", "order_id")
EXCHANGE, BUY, SELL = 1 << 31, 1 << 29, 1 << 28
LEVEL_KINDS = {1: Kind.LEVEL, 2: Kind.TRADE, 3: Kind.CLEAR, 4: Kind.SNAPSHOT}
ORDER_KINDS = {10: Kind.ADD, 11: Kind.CANCEL, 12: Kind.CANCEL, 13: Kind.TRADE}
MODIFY, FILL = 12, 13


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
    counts = {
        "rows": len(data),
        "rows_by_event": {str(k): int(n) for k, n in zip(*np.unique(code, return_counts=True))},
    }
    data, code = (x[(data["ev"] & EXCHANGE) != 0] for x in (data, code))
    known = np.isin(code, [*LEVEL_KINDS, *ORDER_KINDS])
    by_order = bool(np.isin(code, list(ORDER_KINDS)).any())
    if not known.any():
        raise DataError(f"{file}: no exchange rows of depth, trade or order events among {len(data):,}")
    data, code = data[known], code[known]
    if by_order:
        data, code, kind = _order_rows(file, data, code)
    else:
        kind = np.array([LEVEL_KINDS[c] for c in code], np.int8)
    is_bid = (data["ev"] & BUY) != 0
    is_ask = (data["ev"] & SELL) != 0
    side = is_bid.astype(np.int8) - is_ask.astype(np.int8)
    aggressor = (kind == Kind.TRADE) & (
        code != FILL
    )  # a trade carries its initiator's side, a fill the resting order's
    return assemble(
        file.name.split(".")[0],
        Columns(
            data["exch_ts"].astype(np.int64),
            data["local_ts"].astype(np.int64),
            kind,
            np.where(aggressor, -side, side),
            data["px"].astype(np.float64),
            np.where(kind == Kind.CLEAR, 0.0, data["qty"]),
            data["order_id"].astype(np.uint64),
        ),
        "orders" if by_order else "levels",
        tick_size=tick_size,
        size_unit=size_unit,
        counts=counts,
        source=((file.name, file_hash(file)),),
    )


def _read(file: Path) -> np.ndarray:
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    try:
        content = np.load(file, allow_pickle=False)
        data = content if isinstance(content, np.ndarray) else content["data"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f'{file}: not an npz file with an array "data" ({error}); convert or download it again'
        ) from error
    missing = [name for name in FIELDS if name not in (data.dtype.names or ())]
    if missing:
        raise DataError(f"{file}: no field {', '.join(missing)}; expected hftbacktest's event records")
    if len(data) == 0:
        raise DataError(f"{file}: no events")
    if (np.diff(data["exch_ts"][(data["ev"] & EXCHANGE) != 0]) < 0).any():
        raise DataError(f"{file}: exchange times go backwards; run hftbacktest's correct_event_order on it")
    return data


def _order_rows(file: Path, data: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Order events as add, cancel of a quantity, and execution; a modification is a removal and a new order.

    A modified order keeps its place when only its quantity falls. The trade rows of an order feed repeat its fills.
    """
    rows, kinds, sizes = [], [], []
    orders: dict[int, tuple[float, float]] = {}
    columns = (code, data["order_id"], data["px"], data["qty"])
    for row, (event, order, price, size) in enumerate(zip(*(column.tolist() for column in columns))):
        before = orders.get(order)
        if event in (10, MODIFY):
            orders[order] = (price, size)
            if event == MODIFY and before is not None and before[0] == price and size <= before[1]:
                rows.append(row), kinds.append(Kind.CANCEL), sizes.append(before[1] - size)
                continue
            if event == MODIFY and before is not None:
                rows.append(row), kinds.append(Kind.DELETE), sizes.append(before[1])
            rows.append(row), kinds.append(Kind.ADD), sizes.append(size)
        elif event == 11:
            rows.append(row), kinds.append(Kind.DELETE), sizes.append(before[1] if before else size)
            orders.pop(order, None)
        elif event == FILL:
            rows.append(row), kinds.append(Kind.TRADE), sizes.append(size)
            if before is not None:
                orders[order] = (before[0], before[1] - size)
        elif event == 3:
            rows.append(row), kinds.append(Kind.CLEAR), sizes.append(0.0)
    if not rows:
        raise DataError(f"{file}: order events without adds, cancels or fills")
    data = data[rows].copy()
    data["qty"] = sizes
    return data, code[rows], np.array(kinds, np.int8)
