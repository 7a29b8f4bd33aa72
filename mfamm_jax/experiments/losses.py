"""Where losses come from: generated with a known law, or a file."""

import dataclasses
from typing import Any, Literal

import numpy as np

from mfamm_jax.fields import Checked, static_field
from mfamm_jax.market.loaders.panel import load_panel


@dataclasses.dataclass(frozen=True)
class Losses:
    """A series of losses, positive = lost.

    Args:
        name: For titles.
        values: float64, in order of time.
        scales: Of the true law of every row, which is `scales` times Student's t; None = not known.
        degrees_of_freedom: Of the true law.
        is_constant: Whether every row has one law.
        source: File and its sha256.
    """

    name: str
    values: np.ndarray
    scales: np.ndarray | None = None
    degrees_of_freedom: float = np.nan
    is_constant: bool = False
    source: tuple[tuple[str, str], ...] = ()


class StudentLosses(Checked):
    """Independent losses with heavy tails."""

    n_rows: int = static_field(default=8000, lower=200, help="losses")
    degrees_of_freedom: float = static_field(default=3.0, lower=1.0, strict=True, help="tail exponent")
    scale: float = static_field(default=1.0, lower=0.0, strict=True, help="of Student's t")

    def load(self, seed: int) -> Losses:
        """Draws."""
        drawn = self.scale * np.random.default_rng(seed).standard_t(self.degrees_of_freedom, self.n_rows)
        scales = np.full(self.n_rows, self.scale)
        return Losses(f"Student's t, seed {seed}", drawn, scales, self.degrees_of_freedom, True)


class GarchLosses(Checked):
    """Losses whose volatility remembers: GARCH(1, 1) with innovations of Student's t, deviation 1 on average."""

    n_rows: int = static_field(default=8000, lower=200, help="losses")
    degrees_of_freedom: float = static_field(default=6.0, lower=2.0, strict=True, help="of the innovations")
    reaction: float = static_field(default=0.1, lower=0.0, upper=1.0, help="weight of the last squared loss")
    memory: float = static_field(default=0.87, lower=0.0, upper=0.9999, help="weight of the last variance")

    def __check_init__(self) -> None:
        if self.reaction + self.memory >= 1:
            raise ValueError(
                f"losses.reaction + losses.memory is {self.reaction + self.memory:g}, expected < 1: the variance would have no mean"
            )

    def load(self, seed: int) -> Losses:
        """Draws."""
        nu = self.degrees_of_freedom
        unit = np.random.default_rng(seed).standard_t(nu, self.n_rows + 500) * np.sqrt((nu - 2) / nu)
        variance, rest = np.ones(unit.size), 1 - self.reaction - self.memory
        for t in range(1, unit.size):
            variance[t] = rest + variance[t - 1] * (self.reaction * unit[t - 1] ** 2 + self.memory)
        scales = np.sqrt(variance * (nu - 2) / nu)[500:]
        return Losses(f"GARCH, seed {seed}", (np.sqrt(variance) * unit)[500:], scales, nu)


class FileLosses(Checked):
    """A column of a csv or Parquet file."""

    path: str = static_field(help="csv, csv.gz, zip or Parquet")
    column: str = static_field(help="name of the column")
    content: Literal["log_prices", "prices", "pnl"] = static_field(
        default="log_prices",
        help="log_prices: losses are falls of the logarithm of a price; prices: of a price; pnl: the column is profit and loss",
    )
    position: Literal["long", "short"] = static_field(default="long", help="short: rises are losses")

    def load(self, seed: int) -> Losses:
        """Reads the file."""
        panel = load_panel(self.path, (self.column,), prices=self.content != "pnl", n_least=1)
        series = panel.levels[:, 0]
        profit = (
            series if self.content == "pnl" else np.diff(np.log(series) if self.content == "log_prices" else series)
        )
        values = -profit if self.position == "long" else profit
        return Losses(f"{panel.name}, {self.column}", values, source=panel.source)


LOSSES: dict[str, type] = {"garch": GarchLosses, "student_t": StudentLosses, "file": FileLosses}


def known_before(values: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """What is known of every row before it happens: logarithms of a fast and a slow volatility, and the last loss over the slow one.

    The first rows know no more than the whole scale of the first 50.
    """
    start = np.mean(values[:50] ** 2)
    columns: list[Any] = []
    for memory in (0.8, 0.97):
        square = np.empty(values.size)
        now = start
        for t in range(values.size):
            square[t] = now
            now = memory * now + (1 - memory) * values[t] ** 2
        columns.append(0.5 * np.log(np.maximum(square, 1e-12 * start)))
    last = np.concatenate([[0.0], values[:-1]]) / np.exp(columns[1])
    names = ("log volatility, 5 rows", "log volatility, 33 rows", "last loss over volatility")
    # Bounded: one wild row must not throw the network off the range it has seen.
    return np.column_stack([*columns, np.arctan(last)]), names
