"""A session as rows of (11) at several depths: what each interval's marketable orders would have filled.

An order fills a quote at a depth if its worst execution lies at least that far from the mid before it: the rule the replay fills by.
Counts at different depths share their orders, so they are fitted together but judged by blocks of time. Inside the recorded
spread every order counts: the book never saw a better quote, and no data say what one would have attracted.
"""

import dataclasses

import numpy as np

from mfamm_jax.experiments.observe import Observed
from mfamm_jax.experiments.tree_fit import Counts, Lives
from mfamm_jax.features import BOOK_FEATURES
from mfamm_jax.market.events import NS, DataError, Session

STATE = ("half_spread", *BOOK_FEATURES, "vpin", "imbalance")
DEEPEST_SHARE = 0.02  # of the orders reach the last depth


@dataclasses.dataclass(frozen=True)
class DepthRows:
    """One side's rows; R intervals between events, J depths.

    Args:
        state: (R, F) covariates in force during the interval, in the order of `STATE`.
        exposure: (R,) [s].
        count: (R, J) orders that reach each depth.
        start: (R,) since the first event [s].
        depths: (J,) from the mid [price].
    """

    state: np.ndarray
    exposure: np.ndarray
    count: np.ndarray
    start: np.ndarray
    depths: np.ndarray

    def between(self, low: float, high: float) -> "DepthRows":
        """Rows that start within [low, high) seconds."""
        rows = (self.start >= low) & (self.start < high)
        return DepthRows(self.state[rows], self.exposure[rows], self.count[rows], self.start[rows], self.depths)

    def keep(self, columns: list[int]) -> "DepthRows":
        """Only some covariates."""
        return dataclasses.replace(self, state=self.state[:, columns])

    def thinned(self, most: int) -> "DepthRows":
        """At most about `most` rows of counts: of the intervals without an order every n-th, standing for n of them.

        The likelihood keeps its expectation, so the fit is not biased; intervals with an order all stay.
        """
        busy = self.count[:, 0] > 0
        room = max(most // len(self.depths) - int(busy.sum()), 1)
        step = -(-int((~busy).sum()) // room)
        if step <= 1:
            return self
        rows = busy.copy()
        rows[np.flatnonzero(~busy)[::step]] = True
        exposure = np.where(busy, self.exposure, step * self.exposure)[rows]
        return DepthRows(self.state[rows], exposure, self.count[rows], self.start[rows], self.depths)

    def features(self) -> np.ndarray:
        """(R J, 1 + F) with the depth in front; depths of an interval follow each other."""
        depth = np.tile(self.depths, len(self.state))
        return np.column_stack([depth, np.repeat(self.state, len(self.depths), axis=0)])

    def counts(self) -> Counts:
        """Every interval at every depth."""
        exposure = np.repeat(self.exposure, len(self.depths))
        return Counts(self.features(), self.count.ravel().astype(float), exposure)

    def lives(self, longest: float) -> Lives:
        """An order placed at every depth each `longest` seconds, cancelled when that time is over unless filled before."""
        end = self.start + self.exposure
        placed = np.arange(self.start[0], end[-1] - longest, longest)
        row = np.searchsorted(self.start, placed, side="right") - 1
        seconds, filled = [], []
        for reached in self.count.T > 0:
            fill = np.append(end[reached], np.inf)
            first = fill[np.searchsorted(fill, placed, side="right")] - placed
            seconds.append(np.minimum(first, longest))
            filled.append(first <= longest)
        depth, state = np.repeat(self.depths, len(placed)), np.tile(self.state[row], (len(self.depths), 1))
        return Lives(np.column_stack([depth, state]), np.concatenate(seconds), np.concatenate(filled))


def tick_depths(session: Session, observed: Observed, n_depths: int) -> np.ndarray:
    """Whole ticks from 1 to where few training orders still reach; `n_depths` of them if there are more [price].

    Raises:
        DataError: The orders hardly walk: depth tells nothing about fills.
    """
    reach, used = order_reach(observed)
    training = used & (observed.trades.t_ns < observed.train_end_ns)
    last = int(np.quantile(reach[training], 1 - DEEPEST_SHARE)) if training.any() else 0
    if last < 2:
        raise DataError(
            f"{session.name}: marketable orders reach no deeper than {last} ticks from the mid, expected at least 2; depth "
            "tells nothing about fills on a large-tick market"
        )
    ticks = np.unique(np.round(np.linspace(1, last, min(n_depths, last))))
    return ticks * session.tick_size


def order_reach(observed: Observed) -> tuple[np.ndarray, np.ndarray]:
    """Distance [ticks] of each order's worst execution from the mid before it, and whether there was one."""
    trades = observed.trades
    before = observed.mid_ticks[np.maximum(trades.event - 1, 0)]
    reach = trades.aggressor * (trades.worst_ticks - observed.reference_ticks - before)
    return reach, (trades.event > 0) & (trades.aggressor != 0)


def depth_rows(session: Session, observed: Observed, aggressor: int, depths: np.ndarray) -> DepthRows:
    """Rows of the whole session for one side: buyers (+1) fill asks, sellers (-1) bids.

    Orders are counted against the covariates in force just before their time stamp.
    """
    t_ns, trades, tick = session.updates.t_ns, observed.trades, session.tick_size
    n_rows = len(t_ns) - 1
    reach, known = order_reach(observed)
    row = np.searchsorted(t_ns, trades.t_ns, side="left") - 1
    used = known & (trades.aggressor == aggressor) & (row >= 0) & (row < n_rows)
    count = np.zeros((n_rows, len(depths)), np.int32)
    np.add.at(count, row[used], (reach[used, None] * tick >= depths - 1e-6 * tick).astype(np.int32))
    state = np.column_stack(
        [observed.half_spread_ticks * tick, observed.book_features, observed.vpin, observed.imbalance]
    )
    exposure = np.diff(t_ns) / NS
    some = (exposure > 0) | (count[:, 0] > 0)
    start = (t_ns[:-1] - t_ns[0]) / NS
    return DepthRows(state[:-1][some], exposure[some], count[some], start[some], depths)
