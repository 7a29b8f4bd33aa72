"""Forms of the routing problem for QAOA: bounds that hold, penalties that bind, lots that are exact."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models.ising import bits_of, cost_diagonal
from mfamm_jax.policies.routing import best_route, every_route, fixed_cost, route
from mfamm_jax.policies.routing_qubo import (
    assignment_costs,
    dual_price,
    lot_bits,
    lot_cost,
    lot_qubo,
    lots_on_venues,
    surplus,
    venue_qubo,
)
from mfamm_jax.solvers.one_hot_qaoa import assignments

from .test_routing import some_venues


@pytest.mark.parametrize("seed", range(5))
def test_every_price_bounds_the_best_cost_and_the_dual_price_bounds_it_best(seed):
    v = some_venues(seed=seed)
    quantity = 0.5 * float(v.capacities.sum())
    best, _, _ = best_route(v, quantity)
    price, bound = dual_price(v, quantity)
    assert bound <= best.cost + 1e-9
    # The gap of these problems is below 3 %; a loose bound would be useless.
    assert bound > 0.97 * float(best.cost)
    bounds = [float(cost_diagonal(venue_qubo(v, quantity, p)).min()) for p in np.linspace(0, 2 * float(price), 41)]
    assert max(bounds) <= float(bound) + 1e-9
    np.testing.assert_allclose(cost_diagonal(venue_qubo(v, quantity, price)).min(), bound, rtol=1e-9)


def test_the_cost_of_a_set_at_a_price_is_its_fixed_cost_less_what_it_saves():
    v = some_venues(seed=3)
    quantity, price = 800.0, 0.6
    diagonal = cost_diagonal(venue_qubo(v, quantity, price))
    sets = bits_of(jnp.arange(32), 5)
    saved, quantities = surplus(jnp.asarray(price), v)
    # What a venue saves at best, by a fine grid.
    grid = np.linspace(0, 1, 20_001)[:, None] * np.asarray(v.capacities)
    values = price * grid - np.asarray(v.fees) * grid - 0.5 * np.asarray(v.impacts) * grid**2
    np.testing.assert_allclose(saved, values.max(axis=0), atol=1e-5)
    assert (quantities <= v.capacities).all()
    fixed = jnp.asarray([fixed_cost(s, v) for s in sets])
    np.testing.assert_allclose(diagonal, fixed - sets @ saved + price * quantity, rtol=1e-12)


def test_slack_bits_keep_to_the_capacities():
    """At a price of 0 no venue is worth its cost: without the penalty none is used, with it enough are."""
    v = some_venues(seed=1)
    quantity = 0.5 * float(v.capacities.sum())
    free = bits_of(jnp.argmin(cost_diagonal(venue_qubo(v, quantity, 0.0))), 5)
    assert not free.any()
    kept = venue_qubo(v, quantity, 0.0, n_slack=6, capacity_penalty=1e4)
    chosen = bits_of(jnp.argmin(cost_diagonal(kept)), 11)[:5]
    assert chosen @ v.capacities >= quantity * (1 - 0.02)
    # By hand, for every set the slack that fits best.
    slacks = np.arange(64) / 63 * (float(v.capacities.sum()) / quantity - 1)
    sets = bits_of(jnp.arange(32), 5)
    load = np.asarray(sets @ v.capacities) / quantity - 1
    miss = ((load[:, None] - slacks) ** 2).min(axis=1)
    fixed = np.array([float(fixed_cost(s, v)) for s in sets])
    np.testing.assert_allclose(cost_diagonal(kept).min(), (fixed + 1e4 * miss).min(), rtol=1e-9)
    np.testing.assert_array_equal(chosen, sets[int((fixed + 1e4 * miss).argmin())])


@pytest.mark.parametrize("seed", range(12))
def test_the_best_lots_are_those_of_enumeration(seed):
    v, n_lots = some_venues(4, seed=seed), 4 + seed % 3
    lot = (0.3 + 0.05 * (seed % 8)) * float(v.capacities.sum()) / n_lots
    most = np.floor(np.asarray(v.capacities) / lot).astype(int)
    allowed = [x for x in itertools.product(*(range(m + 1) for m in most)) if sum(x) == n_lots]
    if not allowed:
        assert most.sum() < n_lots
        return
    expected = min((float(lot_cost(jnp.asarray(x), v, lot)), x) for x in allowed)
    bits = lot_bits(v, lot)
    model = lot_qubo(v, n_lots, lot, bits)
    diagonal = cost_diagonal(model)
    chosen = lots_on_venues(bits_of(jnp.argmin(diagonal), model.n_vertices), bits, 4)
    np.testing.assert_allclose(diagonal.min(), expected[0], rtol=1e-9)
    np.testing.assert_array_equal(chosen, expected[1])
    # The same lots one by one, on the mixer that keeps the sum.
    costs = assignment_costs(v, n_lots, lot)
    np.testing.assert_allclose(costs.min(), expected[0], rtol=1e-9)
    places = np.asarray(assignments(n_lots, 4))[int(costs.argmin())]
    np.testing.assert_array_equal(np.bincount(places, minlength=4), expected[1])
    # Whole lots cannot beat the best split of the same set.
    assert float(route((chosen > 0).astype(jnp.int32), v, n_lots * lot).cost) <= expected[0] + 1e-9


def test_lot_bits_reach_every_count_up_to_the_capacity_and_none_beyond():
    v = some_venues(3, seed=7)
    bits = lot_bits(v, 60.0)
    for venue, capacity in enumerate(np.asarray(v.capacities)):
        weights = np.asarray(bits.lots)[(np.asarray(bits.venue) == venue) & (np.asarray(bits.lots) > 0)]
        reached = {
            sum(w for w, on in zip(weights, mask) if on) for mask in itertools.product((0, 1), repeat=len(weights))
        }
        assert reached == set(range(int(capacity // 60) + 1))


def test_a_bitstring_whose_marks_are_right_costs_its_lots_and_no_other_is_cheaper_than_the_best():
    """Marking the venues of any lots never costs more than leaving one of them out."""
    v = some_venues(3, seed=2)
    bits = lot_bits(v, 150.0)
    model = lot_qubo(v, 3, 150.0, bits)
    n_bits = model.n_vertices
    every = bits_of(jnp.arange(2**n_bits), n_bits)
    lots = lots_on_venues(every, bits, 3)
    marked = every[:, -3:]
    right = np.asarray(((lots > 0) == (marked > 0)).all(axis=1) & (lots.sum(axis=1) == 3))
    costs = np.asarray(cost_diagonal(model))
    expected = np.array([float(lot_cost(x, v, 150.0)) for x in lots[right]])
    np.testing.assert_allclose(costs[right], expected, rtol=1e-9)
    best = costs[right].min()
    assert (costs >= best - 1e-9).all()
    marks = 4 * (lots[:, 0] > 0) + 2 * (lots[:, 1] > 0) + (lots[:, 2] > 0)
    repaired = costs[np.asarray((jnp.arange(2**n_bits) // 8) * 8 + marks)]
    missing = np.asarray(((lots > 0) > (marked > 0)).any(axis=1) & ~((lots > 0) < (marked > 0)).any(axis=1))
    assert missing.any()
    assert (repaired[missing] <= costs[missing] + 1e-9).all()


def test_too_many_venues_for_the_dual_price_are_refused():
    with pytest.raises(ValueError, match="give a price instead"):
        dual_price(some_venues(21), 100.0)
    assert every_route(some_venues(3), 100.0).cost.shape == (8,)
