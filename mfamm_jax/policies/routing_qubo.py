r"""The choice of venues as costs of bitstrings for QAOA (22)-(24).

- `routing.finite_costs`: the cost of every set itself as diagonal ("exact diagonal"). Not of the form (22), and making it tells the answer.
- `venue_qubo`: a bit per venue. The split couples all venues; at a price $\mu$ of a unit it does not:
  $q_v = activation_v - \max_q(\mu q - fee_v q - \tfrac12 impact_v q^2)$, a venue's activation less what it saves against that price. Every price gives a
  lower bound of the best route's cost, `dual_price` the highest. Where capacities bind, slack bits and a penalty keep to them.
- `lot_qubo`: bits for the lots that each venue gets, and one whether it is used. Exact for whole lots, at the price of more bits and two penalties.
- `assignment_costs`: every lot on one venue, for `solvers.one_hot_qaoa`, whose mixer keeps the sum.

Source: docs/equations.md, (22)-(24); Lucas (2014) for penalties and slack; Geoffrion (1974) for the price.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mfamm_jax.models.ising import Ising, bits_of, qubo_to_ising
from mfamm_jax.policies.routing import MOST_ENUMERATED, Venues, fixed_cost
from mfamm_jax.solvers.one_hot_qaoa import assignments

N_PRICES = 64  # halvings of the interval that holds the dual price


def surplus(price: Float[Array, ""], venues: Venues) -> tuple[Float[Array, " venue"], Float[Array, " venue"]]:
    r"""What every venue saves against buying at the price, $\max_{0 \le q \le cap}(\mu q - fee\,q - impact\,q^2/2)$, and the q that does."""
    quantities = jnp.clip((price - venues.fees) / venues.impacts, 0, venues.capacities)
    return quantities * (price - venues.fees - 0.5 * venues.impacts * quantities), quantities


def dual_price(venues: Venues, quantity: Float[Array, ""] | float) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The price whose lower bound of the best route's cost is highest, and that bound; by enumeration.

    The bound is concave in the price, its slope the order less what the best set at that price takes. For an order that nothing can
    take it says nothing.
    """
    n = venues.n
    if n > MOST_ENUMERATED:
        raise ValueError(
            f"{n} venues have {2**n:,} sets, expected at most {MOST_ENUMERATED} venues: give a price instead"
        )
    sets = bits_of(jnp.arange(2**n, dtype=jnp.int32), n)
    fixed = jax.vmap(lambda active: fixed_cost(active, venues))(sets)
    quantity = jnp.asarray(quantity, venues.fees.dtype)

    def bound(price: Array) -> tuple[Array, Array]:
        saved, quantities = surplus(price, venues)
        costs = fixed - sets @ saved
        best = jnp.argmin(costs)
        return costs[best] + price * quantity, quantity - sets[best] @ quantities

    def halve(ends: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        low, high = ends
        middle = 0.5 * (low + high)
        rising = bound(middle)[1] > 0
        return (jnp.where(rising, middle, low), jnp.where(rising, high, middle)), None

    # At the highest price every venue is worth its fixed costs and takes all it can.
    highest = jnp.max(venues.fees + venues.impacts * venues.capacities)
    dearest = jnp.sum(venues.activation_costs) + jnp.sum(venues.leakage)
    least = jnp.min(jnp.where(venues.capacities > 0, venues.capacities, jnp.inf))
    ends = jnp.min(venues.fees), highest + dearest / least
    (low, high), _ = jax.lax.scan(halve, ends, None, length=N_PRICES)
    bounds = jnp.stack([bound(low)[0], bound(high)[0]])
    return jnp.where(bounds[0] > bounds[1], low, high), jnp.max(bounds)


def venue_qubo(
    venues: Venues,
    quantity: Float[Array, ""] | float,
    price: Float[Array, ""] | float,
    *,
    n_slack: int = 0,
    capacity_penalty: Float[Array, ""] | float = 0.0,
) -> Ising:
    r"""Venues first, then `n_slack` bits of unused capacity, most significant first:

    $$\sum q_v x_v + \sum_{u<v} leakage_{uv} x_u x_v + \mu Q + A\Big(\frac{\sum cap_v x_v - Q - slack}{Q}\Big)^2.$$

    Args:
        venues: Where it may go.
        quantity: Q.
        price: $\mu$ [cost/unit], e.g. `dual_price`.
        n_slack: Bits of the slack, which reaches from 0 to all capacity that is not needed; 0 = no penalty.
        capacity_penalty: A [cost] of missing the whole order.
    """
    linear = venues.activation_costs - surplus(jnp.asarray(price, venues.fees.dtype), venues)[0]
    quantity = jnp.asarray(quantity, linear.dtype)
    matrix, offset = venues.leakage, price * quantity
    if n_slack:
        most = jnp.sum(venues.capacities) / quantity - 1
        units = most * jnp.asarray([2.0**k for k in range(n_slack - 1, -1, -1)], linear.dtype) / (2**n_slack - 1)
        loads = jnp.concatenate([venues.capacities / quantity, -units])
        penalty = jnp.asarray(capacity_penalty, linear.dtype)
        # (loads x - 1)^2 with x^2 = x.
        linear = jnp.pad(linear, (0, n_slack)) + penalty * (loads**2 - 2 * loads)
        matrix = jnp.pad(matrix, (0, n_slack)) + 2 * penalty * jnp.outer(loads, loads)
        offset = offset + penalty
    return _of_matrix(linear, matrix, offset)


class LotBits(eqx.Module):
    """Which bit of `lot_qubo` means how many lots on which venue.

    Args:
        lots: Of every bit; 0 for the bits that say whether a venue is used, which come last.
        venue: Of every bit.
    """

    lots: Int[Array, " bit"]
    venue: Int[Array, " bit"]


def lot_bits(venues: Venues, lot: float) -> LotBits:
    """Bits for 0 to capacity/lot lots per venue: powers of two, and a last bit that ends at the capacity. Host code."""
    lots, place = [], []
    for v, capacity in enumerate(np.asarray(venues.capacities, float)):
        left = int(np.floor(capacity / lot + 1e-6))
        weights: list[int] = []
        while sum(weights) < left:
            weights.append(min(1 << len(weights), left - sum(weights)))
        lots += weights
        place += [v] * len(weights)
    n = venues.n
    return LotBits(jnp.asarray(lots + [0] * n, jnp.int32), jnp.asarray(place + list(range(n)), jnp.int32))


def lot_qubo(venues: Venues, n_lots: int, lot: Float[Array, ""] | float, bits: LotBits) -> Ising:
    r"""With $q_v = lot \sum_b w_{vb} x_{vb}$ and $y_v$ whether venue v is used:

    $$\sum_v fee_v q_v + \tfrac12 impact_v q_v^2 + activation_v y_v + \sum_{u<v} leakage_{uv} y_u y_v
      + P\Big(\sum_v q_v/lot - n\_lots\Big)^2 + \sum_{v,b} A_v\,x_{vb}(1 - y_v).$$

    The penalties are what their violation can save at most: $A_v$ the activation and leakage of a venue, P that and the dearest lot.
    """
    n = venues.n
    n_bits = bits.lots.shape[0]
    lot = jnp.asarray(lot, venues.fees.dtype)
    counts = bits.lots.astype(lot.dtype)
    at = jax.nn.one_hot(bits.venue, n, dtype=lot.dtype)
    amounts = lot * counts
    used = jnp.arange(n_bits) >= n_bits - n
    per_venue = venues.activation_costs + jnp.sum(venues.leakage, axis=1)
    dearest = lot * jnp.max(jnp.abs(venues.fees) + venues.impacts * (venues.capacities + lot))
    sum_penalty = dearest + jnp.max(per_venue)

    same = jnp.matmul(at, at.T)
    square = (
        same * (at @ venues.impacts)[:, None] * jnp.outer(amounts, amounts)
    )  # twice impact q^2/2, pairs counted once
    linear = amounts * (at @ venues.fees) + 0.5 * jnp.diag(square)
    linear = linear + jnp.where(used, at @ venues.activation_costs, at @ per_venue)
    leak = jnp.matmul(at, jnp.matmul(venues.leakage, at.T)) * jnp.outer(used, used)
    link = -same * (at @ per_venue)[:, None] * (used[:, None] != used[None])
    linear = linear + sum_penalty * (counts**2 - 2 * n_lots * counts)
    matrix = square + leak + link + 2 * sum_penalty * jnp.outer(counts, counts)
    return _of_matrix(linear, matrix, sum_penalty * n_lots**2)


def lots_on_venues(chosen: Int[Array, "*sets bit"], bits: LotBits, n_venues: int) -> Int[Array, "*sets venue"]:
    """Lots of every venue."""
    return (chosen * bits.lots) @ jax.nn.one_hot(bits.venue, n_venues, dtype=jnp.int32)


def lot_cost(lots: Int[Array, " venue"], venues: Venues, lot: Float[Array, ""] | float) -> Float[Array, ""]:
    """Fees, impact, activation and leakage of whole lots; capacities are not looked at."""
    quantities = lots * jnp.asarray(lot, venues.fees.dtype)
    cost = jnp.sum(quantities * (venues.fees + 0.5 * venues.impacts * quantities))
    return cost + fixed_cost((lots > 0).astype(jnp.int32), venues)


def assignment_costs(venues: Venues, n_lots: int, lot: Float[Array, ""] | float) -> Float[Array, " assignment"]:
    """Of every assignment of lots to venues, in the order of `one_hot_qaoa`; a lot beyond a capacity, even in part, costs what it could save at most."""
    places = assignments(n_lots, venues.n)
    lot = jnp.asarray(lot, venues.fees.dtype)
    counts = jnp.sum(jax.nn.one_hot(places, venues.n, dtype=jnp.int32), axis=1)
    per_venue = venues.activation_costs + jnp.sum(venues.leakage, axis=1)
    dearest = lot * jnp.max(jnp.abs(venues.fees) + venues.impacts * (venues.capacities + lot)) + jnp.max(per_venue)
    beyond = jnp.sum(jnp.clip(counts - jnp.floor(venues.capacities / lot + 1e-6), 0), axis=1)
    return jax.vmap(lambda c: lot_cost(c, venues, lot))(counts) + dearest * beyond


def _of_matrix(linear: Array, matrix: Array, offset: Array) -> Ising:
    """Every pair of bits is an edge, so that one shape serves all numbers."""
    first, second = np.triu_indices(linear.shape[0], 1)
    pairs = jnp.asarray(np.stack([first, second], axis=1), jnp.int32)
    return qubo_to_ising(linear, pairs, matrix[first, second], offset)
