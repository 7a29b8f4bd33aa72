"""Samples for the imbalance network: grids of the book (6), labels from later mids, and blocks of time that do not touch.

A sample at time t uses the book in [t - window, t] and the mids in (t + delay, t + delay + horizon]. Blocks are fit, stopping and
test, in this order. A sample whose window or label reaches into another block, or within the embargo of it, is purged.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from mfamm_jax.features.clock import last_index, regular_grid
from mfamm_jax.features.imbalance_grid import GridScale, book_channels, snapshot_grid
from mfamm_jax.fields import Checked, in_precision, static_field
from mfamm_jax.market.book import microprice, queue_imbalance
from mfamm_jax.market.events import NS, BookSnapshots, DataError, Session

# Columns of a training's history.
MEASURES = (
    *("step", "loss", "stopping_loss", "stopping_area", "learning_rate"),
    *("mean_distance", "positive_distance", "negative_distance", "n_dimensions", "active_share"),
)

BLOCKS = ("fit", "stopping", "test")
MIN_PER_CLASS = {"fit": 50, "stopping": 20, "test": 20}
CHANNELS = {3: ("ask distance", "bid distance", "volume imbalance"), 2: ("distance difference", "volume imbalance")}

_book_channels = jax.jit(book_channels, static_argnames="n_channels")
_fit_scale = jax.jit(GridScale.fit)
_scaled = jax.jit(lambda scale, values, present: scale(values, present))


class GridSettings(Checked):
    """The picture of the book."""

    n_snapshots: int = static_field(default=10, lower=1, source="(6)", help="snapshots in a grid")
    n_levels: int = static_field(default=10, lower=1, source="(6) K", help="levels in a grid; absent ones are masked")
    n_channels: Literal[2, 3] = static_field(
        default=3, source="(6)", help="3: both distances and the imbalance; 2: the distances' difference"
    )
    step: float = static_field(
        default=0.1, lower=1e-6, unit="s", help="from one snapshot to the next; also the grid of the mids"
    )


class Labels(Checked):
    """What the score is to foresee."""

    horizon: float = static_field(
        default=1.0, lower=1e-6, unit="s", help="label: mean of the mids over this time ahead"
    )
    sample_every: float = static_field(default=1.0, lower=1e-6, unit="s", help="from one sample to the next")
    delay: float = static_field(
        default=0.0, lower=0.0, unit="s", help="from the last snapshot to the start of the move"
    )
    flat_share: float = static_field(
        default=1 / 3, lower=0.0, upper=0.95, help="share of the fit block's moves that are too small for a label"
    )
    flat_ticks: float | None = static_field(
        default=None, lower=0.0, unit="ticks", help="moves below it have no label; replaces flat_share"
    )


class Split(Checked):
    """Blocks of time."""

    fit_share: float = static_field(default=0.6, lower=0.05, upper=0.9, help="of the session, to train on")
    stopping_share: float = static_field(default=0.2, lower=0.05, upper=0.9, help="after it, for early stopping")
    embargo: float = static_field(
        default=1.0, lower=0.0, unit="s", help="kept free between blocks, on top of windows and labels"
    )
    n_blocks: int = static_field(default=20, lower=5, help="time blocks of the test part, for the intervals")

    def __check_init__(self) -> None:
        total = self.fit_share + self.stopping_share
        if total > 0.95:
            raise ValueError(f"Split: fit_share + stopping_share is {total:g}, expected <= 0.95: the rest is the test")


@dataclasses.dataclass(frozen=True)
class Samples:
    """N samples in order of time.

    Args:
        grid: (N, snapshot, level, channel) scaled.
        label: int (N,): +1 up, -1 down, 0 flat.
        move_ticks: (N,) of the mid.
        seconds: (N,) since the first event.
        block: int8 (N,): 0 fit, 1 stopping, 2 test, -1 purged.
        microprice_move: (N,) microprice minus mid [ticks].
        queue_imbalance: (N,) at the touch.
        up_probability: (N,) the planted truth at the start of the move; NaN = unknown.
    """

    grid: np.ndarray
    label: np.ndarray
    move_ticks: np.ndarray
    seconds: np.ndarray
    block: np.ndarray
    microprice_move: np.ndarray
    queue_imbalance: np.ndarray
    up_probability: np.ndarray

    def part(self, name: str, labelled: bool = True) -> "Samples":
        """Samples of one block, by default those with a label."""
        chosen = (self.block == BLOCKS.index(name)) & ((self.label != 0) | (not labelled))
        return Samples(**{field: values[chosen] for field, values in vars(self).items()})

    def __len__(self) -> int:
        return len(self.label)


@dataclasses.dataclass(frozen=True)
class SampleFacts:
    """What was done to get the samples.

    Args:
        scale: Location and scale of the grid, from the fit block.
        flat_ticks: Moves below it are flat.
        gap: Anchor and positive are at least so far apart [s].
        counts: Block -> up, down, flat.
        n_purged: Samples between the blocks.
        notes: What a reader should know.
    """

    scale: GridScale
    flat_ticks: float
    gap: float
    counts: dict[str, dict[str, int]]
    n_purged: int
    notes: tuple[str, ...]


def build_samples(
    session: Session,
    grid: GridSettings,
    labels: Labels,
    split: Split,
    truth: dict[str, Any] | None = None,
) -> tuple[Samples, SampleFacts]:
    """Samples of a session with book rows.

    Raises:
        DataError: The session is too short, labels are of one class, nothing in the book changes.
    """
    t_ns = session.updates.t_ns
    step_ns = round(grid.step * NS)
    clock_ns, row = regular_grid(t_ns, step_ns)
    mid_row = _two_sided(session)[row]
    mid = _mid_ticks(session.books)[mid_row]
    delay, horizon, every = label_steps(labels, grid)
    at = _sample_steps(len(clock_ns), grid.n_snapshots - 1, delay + horizon, every, session.name)
    at = at[mid_row[at] <= row[at]]  # before there is a mid there is nothing to foresee
    move = _moves(mid, at, delay, horizon)
    window = (grid.n_snapshots - 1) * grid.step
    seconds = (clock_ns[at] - t_ns[0]) / NS
    total = (t_ns[-1] - t_ns[0]) / NS
    block = assign_blocks(seconds, window, (delay + horizon) * grid.step, total, split)
    in_fit = (clock_ns - t_ns[0]) / NS < split.fit_share * total
    values, scale, notes = _channels(session, row, in_fit, grid)
    snapshots = at[:, None] + np.arange(1 - grid.n_snapshots, 1)
    flat = _flat_ticks(move[block == 0], labels)
    label = np.where(np.abs(move) >= flat, np.sign(move), 0).astype(np.int32)
    books, now = session.books, mid_row[at]
    touch = (books.bid_ticks[now, 0] - mid[at], books.ask_ticks[now, 0] - mid[at])
    sizes = books.bid_size[now, 0], books.ask_size[now, 0]
    samples = Samples(
        grid=np.asarray(snapshot_grid(values, jnp.asarray(snapshots))),
        label=label,
        move_ticks=move,
        seconds=seconds,
        block=block,
        microprice_move=np.asarray(microprice(*(jnp.asarray(x) for x in (*touch, *sizes)))),
        queue_imbalance=np.asarray(queue_imbalance(*(jnp.asarray(x) for x in sizes))),
        up_probability=_known_probability(clock_ns[at + delay], truth),
    )
    counts = {name: _counts(label[block == i]) for i, name in enumerate(BLOCKS)}
    _check_classes(counts, session.name)
    gap = window + (delay + horizon) * grid.step
    return samples, SampleFacts(scale, flat, gap, counts, int((block < 0).sum()), notes)


def assign_blocks(seconds: np.ndarray, window: float, reach: float, total: float, split: Split) -> np.ndarray:
    """Block of each sample, -1 where it or the embargo touches a boundary.

    Args:
        seconds: When each sample is taken.
        window: How far back it looks [s].
        reach: How far ahead its label looks [s].
        total: Length of the session [s].
        split: Shares and embargo.
    """
    edges = np.array([-np.inf, split.fit_share, split.fit_share + split.stopping_share, np.inf]) * total
    block = np.searchsorted(edges, seconds, side="right") - 1
    tiny = 1e-9 * max(total, 1.0)
    starts_inside = (block == 0) | (seconds - window >= edges[block] + split.embargo - tiny)
    ends_inside = (block == 2) | (seconds + reach <= edges[block + 1] + tiny)
    return np.where(starts_inside & ends_inside, block, -1).astype(np.int8)


def label_steps(labels: Labels, grid: GridSettings) -> tuple[int, int, int]:
    """Delay, horizon and distance of samples in steps of the grid."""
    found = []
    for name in ("delay", "horizon", "sample_every"):
        seconds = getattr(labels, name)
        steps = round(seconds / grid.step)
        if abs(seconds / grid.step - steps) > 1e-6 * steps:
            raise ValueError(f"labels.{name} is {seconds:g} s, expected a multiple of grid.step = {grid.step:g} s")
        found.append(steps)
    return found[0], found[1], found[2]


def _sample_steps(n_steps: int, window: int, reach: int, every: int, name: str) -> np.ndarray:
    """Steps of the regular clock at which samples are taken."""
    at = np.arange(window, n_steps - reach, every)
    if len(at) == 0:
        raise DataError(
            f"{name}: {n_steps} steps of the clock, expected more than {window + reach} for one window and one label; use "
            "a longer session"
        )
    return at


def _moves(mid: np.ndarray, at: np.ndarray, delay: int, horizon: int) -> np.ndarray:
    """Mean of the mids over the horizon minus the mid at its start [ticks]."""
    total = np.concatenate([[0.0], np.cumsum(mid - mid[0])])
    start = at + delay + 1
    # One rounding: the numerator is exact, so that equal moves are equal numbers.
    return (total[start + horizon] - total[start] - horizon * (mid[at + delay] - mid[0])) / horizon


def _two_sided(session: Session) -> np.ndarray:
    """For each row the last one with both a bid and an ask, the first such row before there is any."""
    books = session.books
    both = (books.bid_size[:, 0] > 0) & (books.ask_size[:, 0] > 0)
    if not both.any():
        raise DataError(f"{session.name}: no row has both a bid and an ask; check that the order-book file is right")
    found = last_index(np.flatnonzero(both), np.arange(len(both)))
    return np.flatnonzero(both)[np.maximum(found, 0)]


def _mid_ticks(books: BookSnapshots) -> np.ndarray:
    return 0.5 * (books.bid_ticks[:, 0].astype(np.int64) + books.ask_ticks[:, 0])


def _channels(
    session: Session, row: np.ndarray, in_fit: np.ndarray, grid: GridSettings
) -> tuple[jax.Array, GridScale, tuple[str, ...]]:
    """Scaled channels on the regular clock; the scale is that of the fit block."""
    values, present = _book_values(session, row, grid)
    fit = np.flatnonzero(in_fit)
    scale = _fit_scale(values[fit], present[fit])
    known = np.where(np.asarray(present[fit]), np.asarray(values[fit]), np.nan)
    constant = [
        name for i, name in enumerate(CHANNELS[grid.n_channels]) if not _varies(known[..., i].reshape(len(fit), -1))
    ]
    if len(constant) == grid.n_channels:
        raise DataError(
            f"{session.name}: the shown book never changes in the fit block ({', '.join(constant)} constant)"
        )
    notes = tuple(f"{name} never changes in the fit block" for name in constant)
    missing = float(1 - np.asarray(present).mean())
    notes += (f"{missing:.2%} of the grid's entries are absent levels",) if missing > 0 else ()
    return _scaled(scale, values, present), scale, notes


def _book_values(session: Session, row: np.ndarray, grid: GridSettings) -> tuple[jax.Array, jax.Array]:
    """Channels of (6) at the given rows, and which of them exist."""
    books, n = session.books, grid.n_levels
    ladders = (_padded(x[row], n) for x in (books.bid_ticks, books.bid_size, books.ask_ticks, books.ask_size))
    bid, bid_size, ask, ask_size = ladders
    bid_size, ask_size = (in_precision(x) for x in (bid_size, ask_size))
    return _book_channels(jnp.asarray(bid), bid_size, jnp.asarray(ask), ask_size, n_channels=grid.n_channels)


def scaled_books(session: Session, row: np.ndarray, grid: GridSettings, scale: GridScale) -> jax.Array:
    """Scaled channels at the given rows, with a scale fitted before."""
    return _scaled(scale, *_book_values(session, row, grid))


def _varies(columns: np.ndarray) -> bool:
    low, high = (np.where(np.isnan(columns), fill, columns) for fill in (np.inf, -np.inf))
    return bool((low.min(axis=0) < high.max(axis=0)).any())


def _padded(levels: np.ndarray, n: int) -> np.ndarray:
    """The first n levels; what the book does not show has size 0."""
    shown = levels[:, :n]
    return np.pad(shown, ((0, 0), (0, n - shown.shape[1])))


def _flat_ticks(moves: np.ndarray, labels: Labels) -> float:
    if labels.flat_ticks is not None or len(moves) == 0:
        return labels.flat_ticks or 0.0
    # Moves are multiples of half a tick over the horizon: a little less counts as the same.
    return float(np.quantile(np.abs(moves), labels.flat_share)) * (1 - 1e-9)


def _known_probability(at_ns: np.ndarray, truth: dict[str, Any] | None) -> np.ndarray:
    out = np.full(len(at_ns), np.nan)
    if truth is not None and "up_probability" in truth:
        found = np.searchsorted(truth["decision_ns"], at_ns)
        found = np.minimum(found, len(truth["decision_ns"]) - 1)
        same = truth["decision_ns"][found] == at_ns
        out[same] = truth["up_probability"][found[same]]
    return out


def _counts(label: np.ndarray) -> dict[str, int]:
    return {name: int((label == sign).sum()) for name, sign in (("up", 1), ("down", -1), ("flat", 0))}


def _check_classes(counts: dict[str, dict[str, int]], name: str) -> None:
    for block, found in counts.items():
        up, down, least = found["up"], found["down"], MIN_PER_CLASS[block]
        if up + down > least and 0 in (up, down):
            raise DataError(
                f"{name}: all {up + down} labels of the {block} block are {'up' if up else 'down'}, expected both; use a "
                "longer session or another split"
            )
        if min(up, down) < least:
            raise DataError(
                f"{name}: {up} up and {down} down labels in the {block} block, expected at least {least} of each; use a "
                "longer session, a smaller labels.sample_every or a smaller labels.flat_share"
            )
