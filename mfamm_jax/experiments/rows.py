"""Which parameter sets a sweep visits: every combination of listed values, or random or Sobol points, each with one or several seeds."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

METHODS = ("grid", "random", "sobol")
# Of one axis' list, and of a sweep: scipy's Sobol sequence has 30 bits.
MOST_VALUES, MOST_ROWS = 1_000_000, 2**30


@dataclasses.dataclass(frozen=True)
class Axis:
    """Values of one setting.

    Args:
        values: Listed ones; empty for a range.
        ends: Of a range.
        is_log: Whether a range is uniform in the logarithm.
    """

    values: tuple[Any, ...] = ()
    ends: tuple[float, float] = (0.0, 0.0)
    is_log: bool = False

    def at(self, unit: np.ndarray) -> np.ndarray:
        """Values of a range at numbers in [0, 1)."""
        low, high = np.log(self.ends) if self.is_log else self.ends
        inside = low + (high - low) * unit
        return np.clip(np.exp(inside) if self.is_log else inside, min(self.ends), max(self.ends))

    def given(self) -> Any:
        """As a config file has it."""
        return list(self.values) if self.values else {"log" if self.is_log else "linear": list(self.ends)}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Rows in order: the last axis varies faster than the others, the seed fastest of all.

    Args:
        axes: Dotted path -> values, in file order.
        method: One of `METHODS`.
        n_points: Of random and Sobol points.
        n_seeds: Random keys for every point, the same ones for all points (common random numbers); 0 = every row its own.
        seed: Of the points' draw.
    """

    axes: Mapping[str, Axis]
    method: str = "grid"
    n_points: int = 0
    n_seeds: int = 0
    seed: int = 0

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Points per axis of a grid."""
        return tuple(len(axis.values) for axis in self.axes.values())

    @property
    def n_rows(self) -> int:
        """0 = no sweep."""
        if not self.axes and not self.n_seeds:
            return 0
        points = math.prod(self.shape) if self.method == "grid" else self.n_points
        return points * max(self.n_seeds, 1)

    @functools.cached_property
    def _units(self) -> np.ndarray:
        """(point, axis) numbers in [0, 1)."""
        if self.method == "random":
            return np.random.default_rng(self.seed).random((self.n_points, len(self.axes)))
        from scipy.stats import qmc  # half a second that other sweeps need not wait for

        sequence = qmc.Sobol(len(self.axes), scramble=True, rng=np.random.default_rng(self.seed))
        return sequence.random(self.n_points)

    def _points(self, ids: np.ndarray) -> np.ndarray:
        return np.asarray(ids) // max(self.n_seeds, 1)

    def index(self, path: str, ids: np.ndarray) -> np.ndarray:
        """Which of a list's values a row has."""
        number = list(self.axes).index(path)
        if self.method == "grid":
            return np.unravel_index(self._points(ids), self.shape)[number]
        n = len(self.axes[path].values)
        return np.minimum((self._units[self._points(ids), number] * n).astype(int), n - 1)

    def column(self, path: str, ids: np.ndarray) -> np.ndarray:
        """Values of a setting in some rows."""
        axis = self.axes[path]
        if axis.values:
            return np.array(axis.values)[self.index(path, ids)]
        return axis.at(self._units[self._points(ids), list(self.axes).index(path)])

    def seeds(self, ids: np.ndarray) -> np.ndarray:
        """What is folded into the run's key."""
        return np.asarray(ids) % self.n_seeds if self.n_seeds else np.asarray(ids)

    def given(self) -> dict[str, Any]:
        """As a config file has it."""
        keys = {"method": self.method} if self.method != "grid" else {}
        keys |= {name: getattr(self, name) for name in ("n_points", "n_seeds") if getattr(self, name)}
        return keys | {path: axis.given() for path, axis in self.axes.items()}


def read_axis(value: Any, method: str) -> Axis | None:
    """An axis as a config file has it: a list, {log = [a, b], num = n} or {linear = [a, b], num = n}, without num if points are drawn."""
    if isinstance(value, list) and value:
        return Axis(tuple(value))
    if not isinstance(value, dict):
        return None
    kind = "log" if "log" in value else "linear"
    wanted = {kind, "num"} if method == "grid" else {kind}
    ends = value.get(kind)
    if set(value) != wanted or not (isinstance(ends, list) and len(ends) == 2 and all(map(_is_finite, ends))):
        return None
    if kind == "log" and min(ends) <= 0:
        return None
    low, high = float(ends[0]), float(ends[1])
    if method != "grid":
        return Axis(ends=(low, high), is_log=kind == "log")
    n = value["num"]
    if not isinstance(n, int) or isinstance(n, bool) or not 2 <= n <= MOST_VALUES:
        return None
    a, b = (math.log(low), math.log(high)) if kind == "log" else (low, high)
    between = [a + (b - a) * i / (n - 1) for i in range(1, n - 1)]
    # The ends are exactly as written; exp(log(x)) would miss them by a rounding error.
    return Axis((low, *(math.exp(x) if kind == "log" else x for x in between), high))


def _is_finite(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)
