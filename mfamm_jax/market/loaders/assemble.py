"""Columns of a level, trade or order feed to a `Session`: one clock, exchange order, whole ticks and size units."""

import dataclasses
from typing import Any

import numpy as np

from mfamm_jax.market.events import BookUpdates, DataError, Feed, Kind, Session
from mfamm_jax.market.loaders.files import MAX_SIZE, MAX_TICKS, grid_step, midnight, multiples


@dataclasses.dataclass(frozen=True)
class Columns:
    """Rows as a file has them, in the order received. N rows.

    Args:
        exchange_ns: int64 (N,), UTC epoch.
        local_ns: int64 (N,), UTC epoch of the receiving machine's clock; None = not recorded.
        kind: int8 (N,), `Kind`.
        side: int8 (N,), +1 bid, -1 ask, of the resting order or level.
        price: float64 (N,).
        size: float64 (N,), shares, coins or contracts.
        order_id: uint64 (N,); None = none.
    """

    exchange_ns: np.ndarray
    local_ns: np.ndarray | None
    kind: np.ndarray
    side: np.ndarray
    price: np.ndarray
    size: np.ndarray
    order_id: np.ndarray | None = None


def clock_correction(exchange_ns: np.ndarray, local_ns: np.ndarray) -> int:
    """Nanoseconds to add to local times so that nothing is received before it was sent; 0 if nothing is."""
    return max(-int((local_ns - exchange_ns).min(initial=0)), 0)


def assemble(
    name: str,
    columns: Columns,
    feed: Feed,
    *,
    tick_size: float | None,
    size_unit: float | None,
    correction_ns: int | None = None,
    counts: dict[str, Any] | None = None,
    notes: tuple[str, ...] = (),
    source: tuple[tuple[str, str], ...] = (),
) -> Session:
    """Sorts by exchange time (rows of one time keep their order) and checks prices and sizes.

    A receiving clock that is behind the exchange's is set forward by the largest lead, as hftbacktest's converters do, so
    that the fastest message has no latency; the correction is noted.

    Args:
        name: For tables and errors.
        columns: The rows.
        feed: What a row acts on.
        tick_size: [price]; None = largest step of which all prices are multiples.
        size_unit: As tick_size, for sizes.
        correction_ns: Clock correction; None = from these rows.
        counts: For the facts.
        notes: For the report.
        source: (file, sha256).

    Raises:
        DataError: No rows, a price or size that is no number, negative or off the grid.
    """
    place = ", ".join(file for file, _ in source) + " together" * (len(source) > 1) or name
    if len(columns.kind) == 0:
        raise DataError(f"{place}: no rows; expected at least one trade or book message")
    priced = (columns.kind != Kind.CLEAR) & (columns.kind != Kind.HALT)
    for what, values in (("price", columns.price), ("size", columns.size)):
        bad = ~(np.isfinite(values) & (values >= 0)) & priced
        if bad.any():
            row = int(np.argmax(bad))
            raise DataError(f"{place}: row {row + 1}: {what} is {values[row]}, expected a number >= 0")
    tick = tick_size or grid_step([columns.price[priced]])
    unit = size_unit or grid_step([columns.size[priced]])
    farthest = MAX_TICKS * tick  # a CLEAR may name a price beyond all levels
    price = np.where(priced, columns.price, np.rint(np.clip(columns.price, -farthest, farthest) / tick) * tick)
    ticks = multiples(f"{place}: price", price, tick, "check or give tick_size")
    size = np.where(priced, columns.size, 0.0)
    sizes = multiples(f"{place}: size", size, unit, "check or give size_unit", largest=MAX_SIZE)
    order = np.argsort(columns.exchange_ns, kind="stable")
    exchange, local = columns.exchange_ns[order], columns.local_ns
    epoch = midnight(exchange[0])
    correction = 0
    if local is not None:
        correction = clock_correction(columns.exchange_ns, local) if correction_ns is None else correction_ns
        local = local[order] + correction - epoch
    if correction:
        notes = (*notes, f"local clock behind the exchange's: {correction / 1e9:.6f} s added to local times")
    ids = np.zeros(len(order), np.uint64) if columns.order_id is None else columns.order_id.astype(np.uint64)
    return Session(
        name=name,
        tick_size=tick,
        updates=BookUpdates(
            t_ns=exchange - epoch,
            kind=columns.kind[order].astype(np.int8),
            side=columns.side[order].astype(np.int8),
            price_ticks=ticks[order].astype(np.int32),
            size=sizes[order].astype(np.float64),
            order_id=ids[order],
            local_ns=local,
        ),
        books=None,
        clock="exchange time, ns after midnight UTC",
        feed=feed,
        size_unit=unit,
        epoch_ns=epoch,
        source=source,
        notes=notes,
        counts=(counts or {}) | ({"clock_correction_ns": correction} if columns.local_ns is not None else {}),
    )
