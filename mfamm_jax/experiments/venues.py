"""Where an order may go: venues listed in the config, or measured from recorded books."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from mfamm_jax.experiments.sources import load_file
from mfamm_jax.fields import Checked, listed, static_field
from mfamm_jax.market.depth import measure_depth
from mfamm_jax.market.events import DataError
from mfamm_jax.policies.routing import Venues

LEAST_SLOPE = 1e-9  # of the marginal cost over its level: a flat book still splits uniquely


@dataclasses.dataclass(frozen=True)
class VenueList:
    """Venues with what the report says about them.

    Args:
        title: For tables.
        names: Of the venues.
        venues: Their costs.
        unit: Of a quantity.
        cost_unit: Of a cost.
        measured: Rows of a table about the books, or none.
        source: Files and their sha256.
    """

    title: str
    names: tuple[str, ...]
    venues: Venues
    unit: str
    cost_unit: str
    measured: tuple[tuple[Any, ...], ...] = ()
    source: tuple[tuple[str, str], ...] = ()


class ListedVenues(Checked):
    """Numbers of every venue, given in the config; the defaults are the reference example of five venues."""

    names: str = static_field(default="A, B, C, D, E", help="names of the venues, separated by commas")
    fees: tuple[float, ...] = static_field(
        default=(0.3, 0.1, 0.2, 0.25, 0.05), unit="cost/unit", help="fee of each venue, below 0 for a rebate"
    )
    impacts: tuple[float, ...] = static_field(
        default=(4e-4, 9e-4, 6e-4, 5e-4, 12e-4),
        unit="cost/unit^2",
        lower=0.0,
        strict=True,
        help="slope of the marginal cost of each venue",
    )
    capacities: tuple[float, ...] = static_field(
        default=(500.0, 400.0, 450.0, 500.0, 300.0), unit="unit", lower=0.0, help="capacity of each venue"
    )
    activation_costs: tuple[float, ...] = static_field(
        default=(20.0, 15.0, 18.0, 25.0, 10.0), unit="cost", lower=0.0, help="cost of using each venue at all"
    )
    leakage: tuple[tuple[float, ...], ...] = static_field(
        default=((0.0, 1.0, 18.0), (0.0, 3.0, 30.0), (1.0, 2.0, 8.0), (1.0, 4.0, 12.0), (2.0, 3.0, 22.0)),
        unit="cost",
        help="[venue, venue, cost of using both], counted from 0",
    )

    def load(self, seed: int) -> VenueList:
        """The numbers as arrays."""
        names = listed(self.names)
        n = len(names)
        lists = {name: getattr(self, name) for name in ("fees", "impacts", "capacities", "activation_costs")}
        venues = _venues(names, lists, self.leakage)
        return VenueList(f"{n} venues", names, venues, "unit", "currency")


class BookVenues(Checked):
    """Half spreads, slopes and depths of recorded books, one file per venue; costs in basis points times quantity."""

    paths: str = static_field(
        help="a file or folder per venue, separated by commas, any format of `mfamm data inspect`"
    )
    names: str | None = static_field(
        default=None, help="names of the venues, separated by commas; unset = the files' names"
    )
    side: Literal["buy", "sell"] = static_field(default="buy", help="side of the order")
    band: float = static_field(
        default=5.0, lower=0.0, strict=True, unit="bp", help="depth up to this far from the mid counts"
    )
    fees: tuple[float, ...] = static_field(
        default=(), unit="bp", help="taker fee of each venue, on top of the half spread; empty = 0"
    )
    contract_values: tuple[float, ...] = static_field(
        default=(),
        unit="price x unit",
        lower=0.0,
        help="value of a contract of inverse instruments, 0 for others; empty = 0",
    )
    activation_costs: tuple[float, ...] = static_field(
        default=(), unit="bp x unit", lower=0.0, help="cost of using each venue at all; empty = 0"
    )
    leakage: tuple[tuple[float, ...], ...] = static_field(
        default=(), unit="bp x unit", help="[venue, venue, cost of using both], counted from 0"
    )
    n_moments: int = static_field(default=200, lower=1, upper=10_000, help="books averaged, equally spaced in time")

    def load(self, seed: int) -> VenueList:
        """Measures every book."""
        paths = listed(self.paths)
        names = listed(self.names) if self.names else tuple(Path(path).name.split(".")[0] for path in paths)
        if len(names) != len(paths):
            raise DataError(f"venues.names: {len(names)} names for {len(paths)} paths, expected one each")
        n = len(paths)
        values = _one_each("contract_values", self.contract_values or (0.0,) * n, names)
        fees = _one_each("fees", self.fees or (0.0,) * n, names)
        depths, sources = [], []
        for path, value in zip(paths, values):
            session = load_file(path)
            depths.append(measure_depth(session, self.side, self.band, value, self.n_moments))
            sources += list(session.source)
        level = [fee + depth.half_spread for fee, depth in zip(fees, depths)]
        slopes = [max(d.slope, LEAST_SLOPE * (abs(f) + 1e-3) / d.capacity) for d, f in zip(depths, level)]
        lists = {
            "fees": tuple(level),
            "impacts": tuple(slopes),
            "capacities": tuple(d.capacity for d in depths),
            "activation_costs": self.activation_costs or (0.0,) * n,
        }
        measured = tuple(
            (name, d.mid, d.half_spread, fee, d.capacity, d.slope, d.n_moments)
            for name, d, fee in zip(names, depths, fees)
        )
        venues = _venues(names, lists, self.leakage)
        return VenueList(f"{n} recorded books", names, venues, "unit", "bp x unit", measured, tuple(sources))


VENUES: dict[str, type] = {"listed": ListedVenues, "books": BookVenues}


def _one_each(setting: str, values: tuple[float, ...], names: tuple[str, ...]) -> tuple[float, ...]:
    if len(values) != len(names):
        raise DataError(
            f"venues.{setting}: {len(values)} numbers for {len(names)} venues ({', '.join(names)}), expected one each"
        )
    return values


def _venues(
    names: tuple[str, ...], lists: dict[str, tuple[float, ...]], leakage: tuple[tuple[float, ...], ...]
) -> Venues:
    n = len(names)
    if n < 2:
        raise DataError(f"venues.names: {n} venue, expected at least two to choose from")
    matrix = np.zeros((n, n))
    for row, entry in enumerate(leakage):
        whole = (
            len(entry) == 3 and all(float(x).is_integer() and 0 <= x < n for x in entry[:2]) and entry[0] != entry[1]
        )
        if not whole:
            raise DataError(
                f"venues.leakage[{row}]: {list(entry)}, expected [venue, other venue, cost] with venues 0..{n - 1}"
            )
        u, v = int(entry[0]), int(entry[1])
        if matrix[u, v]:
            raise DataError(f"venues.leakage[{row}]: the pair {u}, {v} occurs twice, expected each pair once")
        matrix[u, v] = matrix[v, u] = entry[2]
    real = jnp.result_type(float)
    arrays = {name: jnp.asarray(_one_each(name, values, names), real) for name, values in lists.items()}
    try:
        return Venues(**arrays, leakage=jnp.asarray(matrix, real))
    except ValueError as error:
        raise DataError(f"venues: {error}") from error
