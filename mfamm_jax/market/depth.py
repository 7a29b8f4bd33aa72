"""What taking from a recorded book costs: half spread, depth and slope, averaged over the session."""

import dataclasses

import numpy as np

from mfamm_jax.market.events import DataError, Session
from mfamm_jax.market.ladder import book_rows, build_ladder

N_LEVELS = 500  # a side, looked at first


@dataclasses.dataclass(frozen=True)
class Depth:
    """A book as a straight line: the marginal cost of the q-th unit is `half_spread + slope q` up to `capacity`.

    Args:
        mid: Mean mid price [price].
        half_spread: Mean, relative to the mid [bp].
        capacity: Mean quantity within the band [shares or coins].
        slope: So that taking all that the band holds costs what it did on average [bp/unit].
        n_moments: Books that were averaged.
    """

    mid: float
    half_spread: float
    capacity: float
    slope: float
    n_moments: int


def measure_depth(session: Session, side: str, band: float, contract_value: float = 0.0, n_moments: int = 200) -> Depth:
    """Averages over moments equally spaced in time, of the side that a taker meets.

    Args:
        session: With books or messages to build them from.
        side: "buy" meets the asks, "sell" the bids.
        band: Furthest distance from the mid [bp].
        contract_value: Of one contract of an inverse instrument [price x unit]: its sizes become units by it over the price; 0 = sizes are
            units.
        n_moments: Books looked at.

    Raises:
        DataError: No book, or nothing within the band.
    """
    ladder = build_ladder(session)
    t_ns = session.updates.t_ns
    moments = np.linspace(t_ns[0], t_ns[-1], n_moments + 1)[1:].astype(np.int64)
    rows = np.unique(np.searchsorted(t_ns, moments, side="right") - 1)
    rows = rows[ladder.two_sided[rows] & (ladder.best_bid[rows] < ladder.best_ask[rows])]
    if not len(rows):
        raise DataError(f"{session.name}: no moment with both a bid and an ask, expected a book")
    mid = 0.5 * (ladder.best_bid[rows].astype(float) + ladder.best_ask[rows]) * session.tick_size
    half = 0.5 * (ladder.best_ask[rows].astype(float) - ladder.best_bid[rows]) * session.tick_size
    n_levels = N_LEVELS
    while True:
        books = book_rows(ladder, rows, n_levels)
        sign, ticks, size = (
            (1, books.ask_ticks, books.ask_size) if side == "buy" else (-1, books.bid_ticks, books.bid_size)
        )
        price = ticks * session.tick_size
        distance = 1e4 * sign * (price - mid[:, None]) / mid[:, None]
        if not ((size[:, -1] > 0) & (distance[:, -1] <= band)).any():
            break
        n_levels *= 4
    units = size * session.size_unit
    if contract_value:
        units = units * contract_value / np.where(price > 0, price, 1)
    units = np.where((size > 0) & (distance <= band), units, 0)
    capacity = units.sum(axis=1)
    if not capacity.mean() > 0:
        raise DataError(f"{session.name}: no depth within {band:g} bp of the mid, expected a wider band")
    half_spread = float(np.mean(1e4 * half / mid))
    mean_distance = float((units * distance).sum() / units.sum())
    mean_capacity = float(capacity.mean())
    slope = 2 * max(mean_distance - half_spread, 0.0) / mean_capacity
    return Depth(float(mid.mean()), half_spread, mean_capacity, slope, len(rows))
