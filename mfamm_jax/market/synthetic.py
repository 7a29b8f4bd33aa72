r"""Seeded order flow with known intensities, so that calibration can be tested for recovery.

Marketable orders of a side arrive at the rate (3) with depth = half the displayed spread,

$$\lambda^{s} = \exp(\beta_0 \pm \beta_{imb}\,I + \beta_{vpin}\,V - k\,h),$$

where the sign is + for buyers (who fill asks) and h, I, V are the half spread in ticks, the queue imbalance and VPIN at that
moment. An order reaches D = h + Exp(k) ticks from the mid: it empties every level nearer than D - 1, and takes a random part of
the level in [D - 1, D]. Everything else (limit orders, cancels, a latent fair price) only keeps the book alive.

Between events all rates are constant, so the simulation by competing exponentials is exact.
"""

import dataclasses
import json
import math
from typing import Any

import numpy as np

from mfamm_jax.market.events import NS, Kind, Session
from mfamm_jax.market.order_flow import ASK, BID, Record, Side

PITFALLS = ("halts", "dummy_levels", "ties", "crossed_row")
START_NS = 34_200 * NS
VPIN_SMOOTHING = 0.25
VPIN_START = 0.25


@dataclasses.dataclass(frozen=True)
class Preset:
    """A market regime. Prices and distances in ticks, rates per second and side.

    Args:
        tick_size: [price].
        price: First fair price.
        intercept, imbalance, vpin, decay: Coefficients of the marketable orders.
        limit_rate: Arrivals of limit orders.
        cancel_rate: Per resting order.
        offset: Distance of the nearest limit orders from the fair price.
        scatter: Mean distance beyond it.
        fair_volatility: Of the fair price [ticks/sqrt(s)].
        impact: Move of the fair price after a marketable order.
        hidden_rate: Executions of hidden orders.
        bucket_volume: Of VPIN [shares].
        sizes: Order sizes, equally likely [shares].
        n_levels: Levels shown.
    """

    tick_size: float
    price: int
    intercept: float
    imbalance: float
    vpin: float
    decay: float
    limit_rate: float
    cancel_rate: float
    offset: float
    scatter: float
    fair_volatility: float
    impact: float
    hidden_rate: float
    bucket_volume: int
    sizes: tuple[int, ...]
    n_levels: int


STOCK_SIZES = (100, 100, 100, 100, 100, 200, 200, 300, 50, 18)
PRESETS = {
    "small_tick": Preset(
        0.01, 58_500, 0.72, 0.8, 0.6, 0.2, 15.0, 0.4, 3.0, 80.0, 2.0, 1.0, 0.3, 2_000, STOCK_SIZES, 10
    ),
    "quiet_small_tick": Preset(
        0.01, 22_300, -0.95, 0.8, 0.6, 0.2, 3.9, 0.14, 1.5, 65.0, 1.0, 1.0, 0.05, 1_000, STOCK_SIZES, 10
    ),
    "large_tick": Preset(
        0.1, 618_000, 5.8, 0.6, 0.6, 6.0, 60.0, 0.1, -1.5, 1.5, 0.15, 0.0, 1.0, 2_000, (1, 2, 5, 10, 20, 50), 5
    ),
}


@dataclasses.dataclass(frozen=True)
class OutsidePrice:
    """A price made elsewhere, to which the fair price returns whatever the flow does to it.

    Args:
        ticks: (n,) price every `step` seconds from the start on, beyond the last one constant.
        step: [s].
        pull: Rate at which the difference decays [1/s].
    """

    ticks: np.ndarray
    step: float
    pull: float

    def at(self, seconds: float) -> float:
        """Straight lines between the points."""
        place = seconds / self.step
        left = min(int(place), len(self.ticks) - 1)
        right = min(left + 1, len(self.ticks) - 1)
        return float(self.ticks[left] + (place - left) * (self.ticks[right] - self.ticks[left]))


def generate_session(
    preset: str, duration: float, seed: int, *, pitfalls: tuple[str, ...] = (), outside: OutsidePrice | None = None
) -> tuple[Session, dict[str, Any]]:
    """A session and the truth behind it.

    Args:
        preset: "small_tick", "quiet_small_tick" or "large_tick".
        duration: [s].
        seed: Same seed, same session.
        pitfalls: Pathologies to plant: "halts", "dummy_levels" (a thin ask side), "ties", "crossed_row".
        outside: Moves the fair price instead of the preset's own volatility.

    Returns:
        The session and a table of plain numbers: coefficients per side, decay, VPIN settings, counts.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset is {preset!r}, expected one of {', '.join(PRESETS)}")
    unknown = set(pitfalls) - set(PITFALLS)
    if unknown:
        raise ValueError(f"unknown pitfalls {', '.join(sorted(unknown))}; expected some of {', '.join(PITFALLS)}")
    if not 0 < duration < math.inf:
        raise ValueError(f"duration is {duration}, expected a finite number of seconds > 0")
    flow = _Flow(PRESETS[preset], seed, pitfalls, outside)
    flow.run(duration)
    updates, books = flow.record.arrays()
    if "crossed_row" in pitfalls:
        row = len(updates) // 2
        books.bid_ticks[row, 0] = books.ask_ticks[row, 0]
    session = Session(
        name=f"{preset} seed {seed}",
        tick_size=flow.preset.tick_size,
        updates=updates,
        books=books,
        clock="simulated exchange time, ns after midnight",
    )
    return session, _truth(preset, flow, duration, seed, session)


def _truth(name: str, flow: "_Flow", duration: float, seed: int, session: Session) -> dict[str, Any]:
    preset = flow.preset
    kinds = session.updates.kind
    truth = {
        "preset": name,
        "seed": seed,
        "duration": duration,
        "tick_size": preset.tick_size,
        "ask": {"intercept": preset.intercept, "vpin": preset.vpin, "imbalance": preset.imbalance},
        "bid": {"intercept": preset.intercept, "vpin": preset.vpin, "imbalance": -preset.imbalance},
        "decay_per_tick": preset.decay,
        "decay": preset.decay / preset.tick_size,
        "bucket_volume": preset.bucket_volume,
        "vpin_smoothing": VPIN_SMOOTHING,
        "vpin_start": VPIN_START,
        "marketable_orders": flow.n_marketable,
        "counts": {kind.name.lower(): int(n) for kind in Kind if (n := (kinds == kind).sum())},
    }
    return json.loads(json.dumps(truth))


class _Flow:
    """State of the simulation."""

    def __init__(self, preset: Preset, seed: int, pitfalls: tuple[str, ...], outside: OutsidePrice | None):
        self.preset, self.pitfalls, self.outside = preset, pitfalls, outside
        self.rng = np.random.default_rng(seed)
        self.book = {BID: Side(BID), ASK: Side(ASK)}
        self.record = Record(preset.n_levels)
        self.fair = float(preset.price) if outside is None else outside.at(0.0)
        self.t_ns, self.next_id, self.n_marketable = START_NS, 1, 0
        self.vpin, self.bought, self.sold = VPIN_START, 0, 0
        for side in (BID, ASK):
            for _ in range(round(preset.limit_rate / preset.cancel_rate)):
                self._place(side)
        self.record = Record(preset.n_levels)  # what was there before the session is not seen arriving

    def run(self, duration: float) -> None:
        """Competing exponentials until the end, at least one order a side being left alone."""
        preset, rng = self.preset, self.rng
        end = START_NS + round(duration * NS)
        todo = {name: START_NS + (end - START_NS) // (2 + i) for i, name in enumerate(("halts", "dummy_levels"))}
        while True:
            buys, sells = self._rate(1), self._rate(-1)
            cancels = [preset.cancel_rate * max(len(self.book[s].where) - 2, 0) for s in (BID, ASK)]
            rates = np.cumsum([buys, sells, preset.limit_rate, preset.limit_rate, *cancels, 2 * preset.hidden_rate])
            wait = rng.exponential(1 / rates[-1])
            before = self.t_ns
            self.t_ns += 0 if "ties" in self.pitfalls and rng.random() < 0.05 else max(round(wait * NS), 1)
            if self.t_ns > end:
                return
            self._move_fair(before, self.t_ns)
            for name in [n for n in todo if n in self.pitfalls and self.t_ns > todo[n]]:
                del todo[name]
                self._halt() if name == "halts" else self._thin_out()
            self._happen(int(np.searchsorted(rates, rng.random() * rates[-1], side="right")))

    def _move_fair(self, before: int, now: int) -> None:
        own = self.preset.fair_volatility * math.sqrt((now - before) / NS) * self.rng.standard_normal()
        if self.outside is None:
            self.fair += own
            return
        then, at = (self.outside.at((t - START_NS) / NS) for t in (before, now))
        self.fair = at + (self.fair - then) * math.exp(-self.outside.pull * (now - before) / NS)

    def _happen(self, event: int) -> None:
        if event < 2:
            self._marketable(1 if event == 0 else -1)
        elif event < 4:
            self._place(BID if event == 2 else ASK)
        elif event < 6:
            self._cancel(BID if event == 4 else ASK)
        else:
            self._hidden()

    def _touch(self) -> tuple[float, float, float]:
        """Mid, half spread and queue imbalance."""
        bid, ask = self.book[BID], self.book[ASK]
        bid_size, ask_size = bid.volume(bid.keys[0]), ask.volume(ask.keys[0])
        imbalance = (bid_size - ask_size) / (bid_size + ask_size)
        return 0.5 * (bid.best + ask.best), 0.5 * (ask.best - bid.best), imbalance

    def _rate(self, aggressor: int) -> float:
        preset = self.preset
        _, half_spread, imbalance = self._touch()
        covariates = aggressor * preset.imbalance * imbalance + preset.vpin * self.vpin
        return math.exp(preset.intercept + covariates - preset.decay * half_spread)  # (3)

    def _marketable(self, aggressor: int) -> None:
        """Sweeps the opposite side as far as the order reaches; at least two orders stay."""
        side = self.book[-aggressor]
        mid, half_spread, _ = self._touch()
        reach = half_spread + self.rng.exponential(1 / self.preset.decay)
        self.n_marketable += 1
        total = 0
        for key in list(side.keys):
            distance = aggressor * (side.price(key) - mid)
            if distance > reach or len(side.where) <= 2:
                break
            volume = side.volume(key)
            if reach < distance + 1 and volume > 1:
                volume = min(int(self.rng.choice(self.preset.sizes)), volume - 1)
            total += self._execute(side, key, volume)
        self._toxicity(aggressor, total)
        self.fair += aggressor * self.preset.impact

    def _execute(self, side: Side, key: int, volume: int) -> int:
        """Oldest orders first, one message each, all with the same stamp."""
        price, left = side.price(key), volume
        for order_id, size in list(side.levels[key].items()):
            if left == 0 or len(side.where) <= 2:
                break
            taken = min(size, left)
            side.reduce(order_id, taken)
            left -= taken
            self.record.append(self.t_ns, Kind.TRADE, side.side, price, taken, order_id, self.book)
        return volume - left

    def _toxicity(self, aggressor: int, size: int) -> None:
        """(5): VPIN changes whenever a bucket of equal volume is complete; orders are split over buckets."""
        while size > 0:
            part = min(size, self.preset.bucket_volume - self.bought - self.sold)
            self.bought += part if aggressor > 0 else 0
            self.sold += part if aggressor < 0 else 0
            size -= part
            if self.bought + self.sold == self.preset.bucket_volume:
                imbalance = abs(self.bought - self.sold) / self.preset.bucket_volume
                self.vpin = (1 - VPIN_SMOOTHING) * self.vpin + VPIN_SMOOTHING * imbalance
                self.bought = self.sold = 0

    def _place(self, side: int) -> None:
        """A limit order around the fair price, never crossing."""
        offset = self.preset.offset + self.rng.exponential(self.preset.scatter)
        price = math.floor(self.fair - offset) if side == BID else math.ceil(self.fair + offset)
        opposite = self.book[-side]
        if opposite.keys:
            price = min(price, opposite.best - 1) if side == BID else max(price, opposite.best + 1)
        size = int(self.rng.choice(self.preset.sizes))
        self.book[side].add(self.next_id, price, size)
        self._seen(Kind.ADD, side, price, size, self.next_id)
        self.next_id += 1

    def _cancel(self, side: int) -> None:
        """An order left behind by the fair price goes first; one in fifty is only reduced."""
        own = self.book[side]
        order_id = own.pick(self.rng)
        if own.keys[0] < -side * self.fair + 0.5 * self.preset.offset:
            order_id = next(iter(own.levels[own.keys[0]]))
        key = own.where[order_id]
        size = own.levels[key][order_id]
        if self.rng.random() < 0.02 and size > 1:
            size = int(self.rng.integers(1, size))
        kind = Kind.DELETE if size == own.levels[key][order_id] else Kind.CANCEL
        is_shown = key in own.keys[: self.preset.n_levels]
        own.reduce(order_id, size)
        if is_shown:
            self.record.append(self.t_ns, kind, side, own.price(key), size, order_id, self.book)

    def _seen(self, kind: Kind, side: int, price: int, size: int, order_id: int) -> None:
        """Recorded only when it happens within the levels shown, as vendors do."""
        if -side * price in self.book[side].keys[: self.preset.n_levels]:
            self.record.append(self.t_ns, kind, side, price, size, order_id, self.book)

    def _hidden(self) -> None:
        """A hidden order inside the spread (at the touch when there is no room) is executed; the book shows nothing."""
        side = BID if self.rng.random() < 0.5 else ASK
        bid, ask = self.book[BID].best, self.book[ASK].best
        price = int(self.rng.integers(bid + 1, ask)) if ask - bid > 1 else (bid if side == BID else ask)
        self.record.append(
            self.t_ns, Kind.HIDDEN_TRADE, side, price, int(self.rng.choice(self.preset.sizes)), 0, self.book
        )

    def _halt(self) -> None:
        """Five seconds without trading: halted, quoting resumes, trading resumes."""
        for price, seconds in ((-1, 0), (0, 4), (1, 1)):
            self.t_ns += seconds * NS
            self.record.append(self.t_ns, Kind.HALT, 0, price, 0, 0, self.book)

    def _thin_out(self) -> None:
        """Deletes all asks beyond the third level."""
        side = self.book[ASK]
        for key in reversed(side.keys[3:]):
            for order_id, size in list(side.levels[key].items()):
                is_shown = key in side.keys[: self.preset.n_levels]
                side.reduce(order_id, size)
                if is_shown:
                    self.record.append(self.t_ns, Kind.DELETE, ASK, key, size, order_id, self.book)
