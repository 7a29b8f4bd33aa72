"""A recorded session turned into covariates and regression rows. Every value at an event uses that event and earlier ones only.

Host arrays on two clocks: events (value right after the event) and marketable orders (value right after the order).
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from mfamm_jax.features import (
    RobustScale,
    book_shape,
    carry,
    fat_finger,
    last_index,
    regular_grid,
    rolling_volatility,
    vpin_at_trades,
)
from mfamm_jax.fields import Checked, in_precision, static_field
from mfamm_jax.market.book import queue_imbalance
from mfamm_jax.market.events import NS, DataError, Kind, Session, Trades, merge_marketable_orders
from mfamm_jax.solvers.reach import reach_intervals

# One compilation each instead of one per operation.
_book_shape, _fat_fingers = jax.jit(book_shape), jax.jit(fat_finger)
_robust_scale, _reach_intervals = jax.jit(RobustScale.fit), jax.jit(reach_intervals)
_vpin_at_trades = jax.jit(vpin_at_trades, static_argnames="n_buckets")
_rolling_volatility = jax.jit(rolling_volatility, static_argnames=("n_window", "n_minimum", "truncation"))

FEATURE_LIMIT = 4.0  # standardised book features are clipped here: a log-linear rate explodes on an outlier
VOLATILITY_FLOOR_TICKS = 0.01  # per sqrt(s): a frozen mid is no riskless market


class Features(Checked):
    """How covariates are computed."""

    vpin_smoothing: float = static_field(
        default=0.25,
        lower=0.0,
        strict=True,
        upper=1.0,
        usual=(0.1, 0.5),
        source="(5) kappa",
        help="EWMA weight of VPIN",
    )
    vpin_start: float = static_field(
        default=0.25, lower=0.0, upper=1.0, source="(5)", help="VPIN before the first complete bucket"
    )
    bucket_volume: float | None = static_field(
        default=None, lower=0.0, strict=True, unit="shares", source="(5)", help="unset = training volume per minute"
    )
    volatility_window: int = static_field(
        default=300, lower=10, unit="s", source="key parameters", help="window of the rolling volatility (5 min)"
    )
    volatility_coverage: float = static_field(
        default=0.99,
        lower=0.5,
        upper=0.9999,
        source="key parameters",
        help="share of Gaussian returns kept (99% filter)",
    )
    volatility_truncation: Literal["mad", "quantile"] = static_field(
        default="mad", source="key parameters", help='how outliers are cut; "quantile" for heavy-tailed tick data'
    )
    lot_size: float = static_field(
        default=100.0, lower=0.0, strict=True, unit="shares", help="unit of the sizes in (7)"
    )


@dataclasses.dataclass(frozen=True)
class Observed:
    """Covariates of a session on the event clock (N rows) and its marketable orders (M rows).

    Args:
        reference_ticks: Prices are relative to this tick.
        mid_ticks: (N,) relative mid.
        half_spread_ticks: (N,)
        imbalance: (N,) queue imbalance at the touch, in [-1, 1].
        vpin: (N,) EWMA.
        volatility: (N,) [price/sqrt(s)].
        book_features: (N, 6) standardised with the training rows' robust scale.
        scale: That scale.
        trades: Marketable orders.
        bucket_volume: [shares].
        train_end_ns: First instant of the test part.
    """

    reference_ticks: int
    mid_ticks: np.ndarray
    half_spread_ticks: np.ndarray
    imbalance: np.ndarray
    vpin: np.ndarray
    volatility: np.ndarray
    book_features: np.ndarray
    scale: RobustScale
    trades: Trades
    bucket_volume: float
    train_end_ns: int


def observe(
    session: Session,
    features: Features,
    train_share: float = 0.5,
    *,
    train_end_ns: int | None = None,
    like: Observed | None = None,
) -> Observed:
    """Features (5), (7), rolling volatility and simple imbalance of a session; scales come from the training part.

    Args:
        session: With book rows.
        features: How.
        train_share: First share of the session's time is the training part.
        train_end_ns: When it ends, instead.
        like: Another session whose scales and bucket volume are used: fitted coefficients mean the same only on the same scale.
    """
    updates, books = session.updates, session.books
    t_ns = updates.t_ns
    if train_end_ns is None:
        train_end_ns = int(t_ns[0] + train_share * (t_ns[-1] - t_ns[0]))
    training = t_ns < train_end_ns
    trades = merge_marketable_orders(updates)
    in_training = trades.t_ns < train_end_ns
    if in_training.sum() < 20 or training.sum() < 100:
        raise DataError(
            f"{session.name}: {int(in_training.sum())} marketable orders in the training part, expected at least 20; "
            "use a longer session"
        )
    mid_ticks, half_spread, reference = touch(session)
    own_bucket = features.bucket_volume or _volume_per_minute(trades, in_training, int(t_ns[0]), train_end_ns)
    bucket = own_bucket if like is None else like.bucket_volume
    volatility = _volatility(session, features, mid_ticks)
    flags = _fat_finger(trades, mid_ticks * session.tick_size, volatility)
    last_trade = last_index(trades.last_event, np.arange(len(updates)))
    n_rows, n_trades = len(updates), len(trades.size)
    raw = np.asarray(
        _book_shape(
            jnp.asarray(_rounded_up(books.bid_ticks - reference)),
            in_precision(_rounded_up(books.bid_size)),
            jnp.asarray(_rounded_up(books.ask_ticks - reference)),
            in_precision(_rounded_up(books.ask_size)),
            in_precision(_rounded_up(carry(flags, last_trade, before=0.0))),
            features.lot_size,
        )
    )[:n_rows]
    scale = _robust_scale(in_precision(raw[training])) if like is None else like.scale
    vpin = _vpin_at_trades(
        in_precision(_rounded_up(trades.size)),
        jnp.asarray(_rounded_up(trades.aggressor)),
        bucket,
        features.vpin_smoothing,
        n_buckets=len(_rounded_up(np.zeros(int(trades.size.sum() / bucket) + 1))),
        start=features.vpin_start,
    )[:n_trades]
    return Observed(
        reference_ticks=reference,
        mid_ticks=mid_ticks,
        half_spread_ticks=half_spread,
        imbalance=np.asarray(
            queue_imbalance(
                in_precision(_rounded_up(books.bid_size[:, 0])), in_precision(_rounded_up(books.ask_size[:, 0]))
            )
        )[:n_rows],
        vpin=carry(np.asarray(vpin), last_trade, before=features.vpin_start),
        volatility=volatility,
        book_features=np.clip(np.asarray(scale(in_precision(_rounded_up(raw)))), -FEATURE_LIMIT, FEATURE_LIMIT)[
            :n_rows
        ],
        scale=scale,
        trades=trades,
        bucket_volume=float(bucket),
        train_end_ns=train_end_ns,
    )


def _rounded_up(rows: np.ndarray) -> np.ndarray:
    """The last row again, up to a round number of rows: sessions of about one length share a compiled program. For what looks at no later row."""
    n = len(rows)
    step = 2 ** max(n.bit_length() - 4, 6)
    return np.concatenate([rows, np.broadcast_to(rows[-1:], (-n % step, *rows.shape[1:]))])


def touch(session: Session) -> tuple[np.ndarray, np.ndarray, int]:
    """Relative mid and half spread in ticks; one-sided books keep the last two-sided values."""
    books = session.books
    two_sided = (books.bid_size[:, 0] > 0) & (books.ask_size[:, 0] > 0)
    if not two_sided.any():
        raise DataError(f"{session.name}: no row has both a bid and an ask; check that the order-book file is right")
    bid, ask = books.bid_ticks[:, 0].astype(np.int64), books.ask_ticks[:, 0].astype(np.int64)
    first = int(np.argmax(two_sided))
    reference = int((bid[first] + ask[first]) // 2)
    row = np.maximum.accumulate(np.where(two_sided, np.arange(len(bid)), first))
    return (bid[row] + ask[row]) / 2 - reference, (ask[row] - bid[row]) / 2, reference


def _volume_per_minute(trades: Trades, in_training: np.ndarray, start_ns: int, end_ns: int) -> float:
    return float(trades.size[in_training].sum() / ((end_ns - start_ns) / (60 * NS)))


def _volatility(session: Session, features: Features, mid_ticks: np.ndarray) -> np.ndarray:
    """Rolling volatility on a one-second grid, carried to events; before a full minimum window the next value known."""
    t_ns = session.updates.t_ns
    grid_ns, rows = regular_grid(t_ns, NS)
    floor = VOLATILITY_FLOOR_TICKS * session.tick_size
    n_minimum = min(30, len(grid_ns) - 1)
    on_grid = np.asarray(
        _rolling_volatility(
            in_precision(mid_ticks[rows] * session.tick_size),
            1.0,
            floor,
            n_window=features.volatility_window,
            n_minimum=n_minimum,
            coverage=features.volatility_coverage,
            truncation=features.volatility_truncation,
        )
    )
    return carry(on_grid, last_index(grid_ns, t_ns), before=floor)


def _fat_finger(trades: Trades, event_mid: np.ndarray, volatility: np.ndarray) -> np.ndarray:
    """Flag of each marketable order: its size against the trailing window, the mid's move since the order before."""
    mid = event_mid[trades.last_event]
    move = np.diff(mid, prepend=mid[:1])
    seconds = np.maximum(np.diff(trades.t_ns, prepend=trades.t_ns[:1]) / NS, 1e-3)
    before = volatility[np.maximum(trades.event - 1, 0)]
    orders = (trades.size, move, before * np.sqrt(seconds))
    return np.asarray(_fat_fingers(*(in_precision(_rounded_up(x)) for x in orders)))[: len(trades.size)]


@dataclasses.dataclass(frozen=True)
class IntensityRows:
    """Regression rows of (11): one per interval between events, in the training part.

    Args:
        covariates: (R, 8) book features (6), VPIN, imbalance in force during the interval.
        half_spread: (R,) distance of the touch from the mid [price].
        exposure: (R,) [s].
        buys, sells: (R,) buyer- and seller-initiated marketable orders that end the interval.
        minute: (R,) cluster number.
        lower, upper: (M,) reach of each training order as an interval, measured from the touch [price].
        lower_mid, upper_mid: Same measured from the mid.
        aggressor: (M,) of each training order.
    """

    covariates: np.ndarray
    half_spread: np.ndarray
    exposure: np.ndarray
    buys: np.ndarray
    sells: np.ndarray
    minute: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    lower_mid: np.ndarray
    upper_mid: np.ndarray
    aggressor: np.ndarray


def intensity_rows(session: Session, observed: Observed) -> IntensityRows:
    """Rows from the training part. Orders are counted against the covariates in force just before their time stamp."""
    t_ns = session.updates.t_ns
    trades, tick = observed.trades, session.tick_size
    n_rows = int((t_ns < observed.train_end_ns).sum()) - 1
    row = np.searchsorted(t_ns, trades.t_ns, side="left") - 1
    used = (row >= 0) & (row < n_rows) & (trades.t_ns < observed.train_end_ns)

    def counts(sign: int) -> np.ndarray:
        return np.bincount(row[used & (trades.aggressor == sign)], minlength=n_rows)[:n_rows]

    covariates = np.column_stack([observed.book_features, observed.vpin, observed.imbalance])[:n_rows]
    touch, mid = _reach(session, observed, used)
    return IntensityRows(
        covariates=covariates,
        half_spread=observed.half_spread_ticks[:n_rows] * tick,
        exposure=np.diff(t_ns[: n_rows + 1]) / NS,
        buys=counts(1),
        sells=counts(-1),
        minute=(t_ns[:n_rows] - t_ns[0]) // (60 * NS),
        lower=touch[0] * tick,
        upper=touch[1] * tick,
        lower_mid=mid[0] * tick,
        upper_mid=mid[1] * tick,
        aggressor=trades.aggressor[used],
    )


def _book_after(session: Session, event: np.ndarray) -> np.ndarray:
    """Row whose book shows what the execution left: its own in an order feed, the next book row in a level feed."""
    if session.feed == "orders":
        return event
    shows = np.flatnonzero(~np.isin(session.updates.kind, (Kind.TRADE, Kind.HIDDEN_TRADE)))
    following = np.searchsorted(shows, event, side="right")
    return shows[np.minimum(following, len(shows) - 1)]


def _reach(session: Session, observed: Observed, used: np.ndarray) -> tuple[tuple, tuple]:
    """Reach intervals from the touch and from the mid before each order [ticks]."""
    books, trades = session.books, observed.trades
    before, after = trades.event[used] - 1, _book_after(session, trades.last_event[used])
    buys = trades.aggressor[used] > 0
    reference = observed.reference_ticks
    next_ticks = np.where(buys, books.ask_ticks[after, 0], books.bid_ticks[after, 0]) - reference
    next_size = np.where(buys, books.ask_size[after, 0], books.bid_size[after, 0])
    touch = np.where(buys, books.ask_ticks[before, 0], books.bid_ticks[before, 0]) - reference
    worst = trades.worst_ticks[used] - reference

    def intervals(origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lower, upper = _reach_intervals(
            jnp.asarray(trades.aggressor[used].astype(np.int32)),
            jnp.asarray(worst.astype(np.int32)),
            in_precision(origin),
            jnp.asarray(next_ticks.astype(np.int32)),
            in_precision(next_size),
        )
        return np.asarray(lower, float), np.asarray(upper, float)

    return intervals(touch), intervals(observed.mid_ticks[before])
