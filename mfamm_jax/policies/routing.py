r"""Which venues to use, and how much to send to each.

Using a set S of venues costs their activation and, for every pair in it, leakage; the order is then split at the least cost:

$$\min_q \sum_{v \in S} fee_v\,q_v + \tfrac12 impact_v\,q_v^2, \qquad \sum q_v = Q, \quad 0 \le q_v \le capacity_v.$$

The split is a water filling: all venues between their bounds have the same marginal cost, found exactly among the kinks of the total. The set is a
choice of bits: by enumeration for as many venues as anyone routes to, by a search (`solvers.bit_search`), or by QAOA on a form of
`policies.routing_qubo`.

Source: docs/equations.md, (22)-(24); Cont & Kukanov (2017) for the convex split across venues.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mfamm_jax.fields import Checked, real_field
from mfamm_jax.models.ising import bits_of

MOST_ENUMERATED = 20  # venues


class Venues(Checked):
    """Where an order may go, one number per venue.

    Args:
        fees: Of a unit, negative for a rebate [cost/unit].
        impacts: Slope of the marginal cost [cost/unit^2]: half the spread of the book per unit of depth, or a regression of fills.
        capacities: Largest quantity that the venue takes [unit].
        activation_costs: Of using the venue at all [cost].
        leakage: Cost of using two venues together, symmetric with a zero diagonal [cost].
    """

    fees: Float[Array, " venue"] = real_field(unit="cost/unit")
    impacts: Float[Array, " venue"] = real_field(unit="cost/unit^2", lower=0.0, strict=True)
    capacities: Float[Array, " venue"] = real_field(unit="unit", lower=0.0)
    activation_costs: Float[Array, " venue"] = real_field(unit="cost", lower=0.0)
    leakage: Float[Array, "venue venue"] = real_field(unit="cost", lower=0.0)

    def __check_init__(self) -> None:
        n = self.fees.shape[-1]
        for field in dataclasses.fields(self):
            shape = getattr(self, field.name).shape
            wanted = (n, n) if field.name == "leakage" else (n,)
            if shape[len(shape) - len(wanted) :] != wanted:
                raise ValueError(f"Venues.{field.name} has shape {shape}, expected {wanted} for {n} fees")
        if isinstance(self.leakage, jax.core.Tracer):
            return
        matrix = np.asarray(self.leakage)
        if np.isnan(matrix).any():
            return  # the fields' own check names it
        uneven = (matrix != np.swapaxes(matrix, -1, -2)) | (np.eye(n, dtype=bool) & (matrix != 0))
        if uneven.any():
            u, v = np.argwhere(uneven)[0][-2:]
            raise ValueError(
                f"Venues.leakage[{u}, {v}] is {matrix[..., u, v].flat[0]:g} and [{v}, {u}] {matrix[..., v, u].flat[0]:g}, expected a symmetric "
                "matrix with zeros on the diagonal: a pair counts once"
            )

    @property
    def n(self) -> int:
        """Venues."""
        return self.fees.shape[-1]


class Split(eqx.Module):
    """An order split over venues.

    Args:
        quantities: Of every venue; sum to the order, or all 0 if it does not fit.
        marginal_cost: The common one of the venues between their bounds; NaN if there is none.
        cost: Fees and impact.
        feasible: Whether the capacities suffice.
    """

    quantities: Float[Array, " venue"]
    marginal_cost: Float[Array, ""]
    cost: Float[Array, ""]
    feasible: Bool[Array, ""]


class Route(eqx.Module):
    """A set of venues with its split.

    Args:
        active: 1 where a venue is used.
        split: Of the order over them.
        cost: Everything: split, activation, leakage; infinite if infeasible.
    """

    active: Int[Array, " venue"]
    split: Split
    cost: Float[Array, ""]


def water_filling(
    quantity: Float[Array, ""] | float,
    fees: Float[Array, " venue"],
    impacts: Float[Array, " venue"],
    capacities: Float[Array, " venue"],
) -> Split:
    """The cheapest split, exactly.

    Derivatives are those of the KKT conditions: venues at a bound stay there. Where a venue just reaches one they are those of a smaller order.

    Raises:
        ValueError: If an impact is not positive: the split would not be unique.
    """
    if not isinstance(impacts, jax.core.Tracer) and not bool(np.all(np.asarray(impacts) > 0)):
        raise ValueError(f"an impact is {float(jnp.min(impacts)):g}, expected > 0: without it the split is not unique")
    quantity = jnp.asarray(quantity, fees.dtype)
    kinks = jnp.sort(jnp.concatenate([fees, fees + impacts * capacities]))
    totals = jnp.sum(jnp.clip((kinks[:, None] - fees) / impacts, 0, capacities), axis=1)
    # Between neighbouring kinks the same venues give: the piece in which the total reaches the order, none without a rise.
    rounding = 4 * jnp.finfo(fees.dtype).eps
    first, last = (jnp.argmax(totals > bound) for bound in (totals[0], totals[-1] * (1 - rounding)))
    piece = jnp.searchsorted(totals, quantity, side="left")
    piece = jnp.clip(jnp.clip(piece, first, last), 1, kinks.shape[0] - 1)
    low = kinks[piece - 1]
    level = (0.5 * (low + kinks[piece]) - fees) / impacts
    full, between = level >= capacities, (level > 0) & (level < capacities)
    # From the lower kink on: a sum of large numbers would lose an order that is small beside fee/impact.
    base = jnp.where(full, capacities, jnp.where(between, (low - fees) / impacts, 0))
    slopes = jnp.where(between, 1 / impacts, 0)
    slope = jnp.where(jnp.any(between), jnp.sum(slopes), 1)
    rise = (quantity - jnp.sum(base)) / slope
    inside = base + rise * slopes
    # `where`, not `clip`, whose derivative is halved at a bound.
    inside = jnp.where(inside > capacities, capacities, jnp.where(inside < 0, 0, inside))
    feasible = (quantity >= 0) & (quantity <= jnp.sum(capacities) * (1 + rounding))
    quantities = jnp.where(feasible, inside, 0)
    marginal = low + rise
    strictly = jnp.any((quantities > 0) & (quantities < capacities * (1 - 8 * rounding)) & between)
    cost = jnp.sum(quantities * (fees + 0.5 * impacts * quantities))
    return Split(
        quantities, jnp.where(feasible & strictly, marginal, jnp.nan), jnp.where(feasible, cost, jnp.inf), feasible
    )


def route(active: Int[Array, " venue"], venues: Venues, quantity: Float[Array, ""] | float) -> Route:
    """Decodes bits: the split over the active venues and what it costs in all. It sums to the order or is infeasible."""
    on = active.astype(venues.fees.dtype)
    split = water_filling(quantity, venues.fees, venues.impacts, on * venues.capacities)
    return Route(active.astype(jnp.int32), split, split.cost + fixed_cost(active, venues))


def fixed_cost(active: Int[Array, " venue"], venues: Venues) -> Float[Array, ""]:
    """Activation and leakage of a set."""
    on = active.astype(venues.fees.dtype)
    return on @ venues.activation_costs + 0.5 * on @ jnp.matmul(venues.leakage, on)


def convex_split(venues: Venues, quantity: Float[Array, ""] | float) -> Route:
    """The split over all venues, paying activation and leakage of those that get something: the convex problem, blind to fixed costs."""
    split = water_filling(quantity, venues.fees, venues.impacts, venues.capacities)
    active = (split.quantities > 0).astype(jnp.int32)
    return Route(active, split, split.cost + fixed_cost(active, venues))


def every_route(venues: Venues, quantity: Float[Array, ""] | float) -> Route:
    """All sets in the order of their bitstrings, the empty one first.

    Raises:
        ValueError: For more than `MOST_ENUMERATED` venues.
    """
    n = venues.n
    if n > MOST_ENUMERATED:
        raise ValueError(
            f"{n} venues have {2**n:,} sets, expected at most {MOST_ENUMERATED} venues: use a search instead"
        )
    sets = bits_of(jnp.arange(2**n, dtype=jnp.int32), n)
    return jax.lax.map(lambda active: route(active, venues, quantity), sets, batch_size=min(2**n, 4096))


def best_route(venues: Venues, quantity: Float[Array, ""] | float) -> tuple[Route, Float[Array, ""], Int[Array, ""]]:
    """The cheapest set by enumeration, the next best cost (infinite if there is none), and how many sets are feasible."""
    return best_of(every_route(venues, quantity))


def best_of(routes: Route) -> tuple[Route, Float[Array, ""], Int[Array, ""]]:
    """As `best_route`, of routes that are known."""
    order = jnp.argsort(routes.cost)
    return jax.tree.map(lambda x: x[order[0]], routes), routes.cost[order[1]], jnp.sum(routes.split.feasible)


def finite_costs(routes: Route, venues: Venues, quantity: Float[Array, ""] | float) -> Float[Array, " bitstring"]:
    """Costs of all sets for a circuit: infeasible ones lie above every feasible one, by their missing share times the range of the others.

    With one feasible set or none, by that share of its cost, or of all fixed costs.
    """
    feasible = routes.split.feasible
    quantity = jnp.asarray(quantity, venues.fees.dtype)
    lowest = jnp.min(jnp.where(feasible, routes.cost, jnp.inf))
    highest = jnp.max(jnp.where(feasible, routes.cost, -jnp.inf))
    lowest, highest = (jnp.where(jnp.isfinite(x), x, 0) for x in (lowest, highest))
    missing = 1 - (routes.active @ venues.capacities) / jnp.where(quantity > 0, quantity, 1)
    fixed = jnp.sum(venues.activation_costs) + 0.5 * jnp.sum(venues.leakage)
    step = jnp.where(highest > lowest, highest - lowest, jnp.maximum(jnp.abs(lowest), fixed))
    return jnp.where(feasible, routes.cost, highest + step * jnp.clip(missing, 0, 1))


def searchable_cost(venues: Venues, quantity: Float[Array, ""] | float) -> eqx.Partial:
    """Cost of bits for a search at any number of venues: infeasible sets cost more than any feasible one, less the more they can take."""
    quantity = jnp.asarray(quantity, venues.fees.dtype)
    most = jnp.sum(venues.activation_costs) + 0.5 * jnp.sum(venues.leakage)
    steepest = jnp.max(jnp.abs(venues.fees)) + jnp.max(venues.impacts * venues.capacities)
    return eqx.Partial(_searchable, venues=venues, quantity=quantity, bound=most + steepest * quantity)


def _searchable(bits: Int[Array, " venue"], venues: Venues, quantity: Array, bound: Array) -> Array:
    found = route(bits, venues, quantity)
    missing = 1 - (bits @ venues.capacities) / jnp.where(quantity > 0, quantity, 1)
    return jnp.where(found.split.feasible, found.cost, bound * (1 + jnp.clip(missing, 0, 1)))


def check_order(venues: Venues, quantity: Float[Array, ""] | float) -> None:
    """Raises ValueError if a concrete order is not positive or larger than all capacities together."""
    if isinstance(quantity, jax.core.Tracer) or isinstance(venues.capacities, jax.core.Tracer):
        return
    order, total = np.asarray(quantity, float), np.asarray(venues.capacities, float).sum()
    if not np.isfinite(order).all() or (order <= 0).any():
        raise ValueError(f"the order is {order.flat[0]:g}, expected a positive number")
    if (order > total).any():
        raise ValueError(
            f"the order of {order.max():g} exceeds the capacity of all venues together, {total:g}: nothing can route it"
        )
