"""Measured order latencies: hftbacktest's npz records, or csv or Parquet columns, of request, exchange and response times."""

from pathlib import Path

import numpy as np
import polars as pl

from mfamm_jax.market.events import NS, DataError
from mfamm_jax.market.loaders.files import (
    LATEST_S,
    PARQUET_ERRORS,
    first_of,
    is_whole,
    nanoseconds,
    read_csv,
    read_records,
    refuse,
)

COLUMNS = ("req_ts", "exch_ts", "resp_ts")


def load_latencies(path: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """When requests were sent, handled by the exchange and answered, as UTC nanoseconds, in order of sending.

    An exchange time of 0 marks a request that the venue refused. Local and exchange clocks must agree.

    Args:
        path: npz (an array of records), csv or parquet with the columns req_ts, exch_ts, resp_ts in one epoch unit.

    Raises:
        DataError: Names file and row, says what was expected and what to do.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    request, exchange, response = _columns(file)
    if len(request) == 0:
        raise DataError(f"{file}: no latencies; expected rows of {', '.join(COLUMNS)}")
    request, response = nanoseconds(f"{file}: req_ts", request), nanoseconds(f"{file}: resp_ts", response)
    handled = exchange != 0
    if handled.any():
        given = np.where(handled, exchange, exchange[handled][0])  # keeps the rows for the error
        exchange = np.where(handled, nanoseconds(f"{file}: exch_ts", given), exchange)
    for what, bad in (
        ("resp_ts before req_ts", response < request),
        ("exch_ts before req_ts", handled & (exchange < request)),
        ("resp_ts before exch_ts", handled & (response < exchange)),
    ):
        if bad.any():
            row = int(np.argmax(bad))
            raise DataError(f"{file}: row {row + 1}: {what}; correct the clocks first")
    order = np.unique(request, return_index=True)[1]
    return request[order], exchange[order], response[order]


def _columns(file: Path) -> tuple[np.ndarray, ...]:
    columns = f"the columns {', '.join(COLUMNS)}"
    if file.suffix in (".npz", ".npy"):
        table = read_records(file, dict.fromkeys(COLUMNS, "iu"), columns)
        found = [pl.Series(name, np.ascontiguousarray(table[name])) for name in COLUMNS]
    elif file.suffix == ".parquet":
        try:
            frame = pl.read_parquet(file, columns=list(COLUMNS))
        except PARQUET_ERRORS as error:
            raise DataError(f"{file}: expected {columns} ({first_of(error)})") from error
        found = [frame[name].to_physical() for name in COLUMNS]
    else:
        frame = read_csv(file, {name: pl.Int64() for name in COLUMNS}, has_header=True)
        found = [frame[name] for name in COLUMNS]
    for column in found:
        if not is_whole(column.dtype) or column.null_count():
            what = "missing in places" if column.null_count() else str(column.dtype).lower()
            raise DataError(f"{file}: {column.name} is {what}, expected whole numbers without gaps")
        large = column.to_numpy() > LATEST_S * NS
        refuse(file, large, column.name, column, "UTC epoch times before 2100; correct or remove the row")
    return tuple(column.to_numpy().astype(np.int64) for column in found)
