"""The split over venues and the choice of venues: against SLSQP, enumeration in numpy and the KKT conditions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from mfamm_jax.models.ising import bits_of
from mfamm_jax.policies.routing import (
    Venues,
    best_route,
    check_order,
    convex_split,
    every_route,
    finite_costs,
    fixed_cost,
    route,
    searchable_cost,
    water_filling,
)
from mfamm_jax.solvers.bit_search import anneal, greedy_descent

from ..checks import assert_jit_vmap_loop_agree, check_grads


def some_venues(n=5, seed=0, dtype="float64"):
    rng = np.random.default_rng(seed)
    leakage = np.triu(rng.uniform(0, 30, (n, n)), 1)
    numbers = (
        rng.uniform(-0.05, 0.3, n),
        rng.uniform(4e-4, 15e-4, n),
        rng.uniform(200, 900, n),
        rng.uniform(5, 30, n),
        leakage + leakage.T,
    )
    return Venues(*(jnp.asarray(x, dtype) for x in numbers))


@pytest.mark.parametrize("share", [0.05, 0.4, 0.9])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_split_is_the_cheapest(share, dtype):
    """SLSQP ends within 1e-6 of the cost; quantities are flat around the optimum."""
    v = some_venues(dtype=dtype)
    fees, impacts, caps = (np.asarray(x, float) for x in (v.fees, v.impacts, v.capacities))
    quantity = share * caps.sum()
    found = water_filling(quantity, v.fees, v.impacts, v.capacities)
    assert found.feasible
    assert found.quantities.dtype == dtype
    np.testing.assert_allclose(found.quantities.sum(), quantity, rtol={"float64": 1e-14, "float32": 1e-6}[dtype])

    def cost(share):
        q = share * quantity
        return (fees * q + 0.5 * impacts * q * q).sum() / quantity

    reference = minimize(
        cost,
        caps / caps.sum(),
        bounds=[(0, c / quantity) for c in caps],
        constraints={"type": "eq", "fun": lambda q: q.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    np.testing.assert_allclose(found.cost, reference.fun * quantity, rtol=1e-6)
    # KKT: equal marginal cost inside, cheaper at capacity, dearer at zero.
    q, marginal = np.asarray(found.quantities, float), float(found.marginal_cost)
    level, near = fees + impacts * q, 1e-5
    inside = (q > 0) & (q < caps)
    np.testing.assert_allclose(level[inside], marginal, rtol=near)
    assert (level[q >= caps] <= marginal + near).all()
    assert (level[q <= 0] >= marginal - near).all()


def test_orders_at_every_edge():
    """Nothing, exactly one kink, exactly all, and too much."""
    fees, impacts, caps = jnp.asarray([0.1, 0.2]), jnp.asarray([1e-3, 1e-3]), jnp.asarray([100.0, 300.0])
    for quantity, expected in ((0.0, [0, 0]), (100.0, [100, 0]), (400.0, [100, 300]), (200.0, [100, 100])):
        found = water_filling(quantity, fees, impacts, caps)
        assert found.feasible
        np.testing.assert_allclose(found.quantities, expected, atol=1e-12)
    assert np.isnan(water_filling(400.0, fees, impacts, caps).marginal_cost)
    for quantity in (400.1, -1.0):
        found = water_filling(quantity, fees, impacts, caps)
        assert not found.feasible
        assert not found.quantities.any()
        assert found.cost == np.inf


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_flat_and_steep_books_beside_large_fees_still_sum_to_the_order(dtype):
    """Impact times capacity from 1e-6 of the fees to many times them: sums of fee/impact would lose the order."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(60):
        fees, capacities = rng.uniform(-1, 10, 4), rng.uniform(50, 500, 4)
        impacts = 10 ** rng.uniform(-8, 0, 4)
        quantity = rng.uniform(0.01, 0.99) * capacities.sum()
        arrays = [jnp.asarray(x, dtype) for x in (fees, impacts, capacities)]
        found = water_filling(quantity, *arrays)
        assert found.feasible
        worst = max(worst, abs(float(found.quantities.sum()) / quantity - 1))
        best = water_filling(quantity, *(jnp.asarray(x) for x in (fees, impacts, capacities)))
        np.testing.assert_allclose(found.cost, best.cost, rtol={"float64": 1e-12, "float32": 1e-5}[dtype], atol=1e-3)
    assert worst <= {"float64": 1e-14, "float32": 1e-6}[dtype]


@pytest.mark.parametrize(
    ("quantity", "slope", "takers"),
    [(0.0, 0.1, [1, 0]), (100.0, 0.2, [1, 0]), (200.0, 0.3, [0, 1]), (400.0, 0.5, [0, 1])],
)
def test_derivatives_where_a_venue_reaches_a_bound_are_those_of_a_smaller_order(quantity, slope, takers):
    """Venue 1 fills at 100 for 0.2, venue 2 starts there; at nothing they are those of a larger order."""
    fees, impacts, caps = jnp.asarray([0.1, 0.2]), jnp.asarray([1e-3, 1e-3]), jnp.asarray([100.0, 300.0])
    at = jnp.asarray(quantity)
    np.testing.assert_allclose(jax.grad(lambda q: water_filling(q, fees, impacts, caps).cost)(at), slope, rtol=1e-12)
    moved = jax.jacfwd(lambda q: water_filling(q, fees, impacts, caps).quantities)(at)
    np.testing.assert_allclose(moved, takers, atol=1e-12)


def test_derivatives_of_full_sets_with_unused_and_with_equal_venues():
    fees, impacts = jnp.asarray([0.3, 0.1, 0.1]), jnp.asarray([1e-3, 1e-3, 1e-3])
    full = jnp.asarray([0.0, 100.0, 100.0])  # the first is not used
    found = jax.grad(lambda q: water_filling(q, fees, impacts, full).cost)(jnp.asarray(200.0))
    np.testing.assert_allclose(found, 0.2, rtol=1e-12)
    assert np.isfinite(jax.jacrev(lambda f: water_filling(200.0, f, impacts, full).quantities)(fees)).all()


def test_whatever_is_asked_the_split_sums_to_the_order_or_says_that_it_cannot():
    v = some_venues(seed=4)
    sets = bits_of(jnp.arange(32), 5)
    quantities = jnp.linspace(1, 1.1 * float(v.capacities.sum()), 40)
    found = jax.vmap(lambda q: jax.vmap(lambda s: route(s, v, q))(sets))(quantities)
    sums, feasible = found.split.quantities.sum(axis=-1), np.asarray(found.split.feasible)
    np.testing.assert_allclose(sums[feasible], np.broadcast_to(quantities[:, None], sums.shape)[feasible], rtol=1e-13)
    assert (np.asarray(sums)[~feasible] == 0).all()
    np.testing.assert_array_equal(feasible, quantities[:, None] <= sets @ v.capacities)
    assert (np.asarray(found.split.quantities) * (1 - sets) == 0).all()
    assert (found.split.quantities <= v.capacities).all()
    assert (found.split.quantities >= 0).all()


def test_the_derivative_of_the_cost_in_the_order_is_the_marginal_cost():
    v = some_venues(seed=1)
    quantity = jnp.asarray(700.0)
    found = water_filling(quantity, v.fees, v.impacts, v.capacities)
    slope = jax.grad(lambda q: water_filling(q, v.fees, v.impacts, v.capacities).cost)(quantity)
    np.testing.assert_allclose(slope, found.marginal_cost, rtol=1e-12)
    by_fee = jax.grad(lambda f: water_filling(quantity, f, v.impacts, v.capacities).cost)(v.fees)
    np.testing.assert_allclose(by_fee, found.quantities, atol=1e-9)  # envelope


def test_derivatives_of_the_split_are_those_of_differences():
    v = some_venues(seed=2)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=5))

    def value(fees, impacts, capacities, quantity):
        return water_filling(quantity, fees, impacts, capacities).quantities @ weights

    given = v.fees, 1e3 * v.impacts, 1e-3 * v.capacities, jnp.asarray(0.9)
    check_grads(jax.jit(value), given, order=1, modes=["fwd", "rev"])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_jit_vmap_and_loop_agree(dtype):
    v = some_venues(dtype=dtype)
    sets = bits_of(jnp.arange(20, 32), 5)
    quantities = jnp.linspace(100, 900, 12, dtype=dtype)

    def cost(active, quantity):
        return finite(route(active, v, quantity).cost)

    assert_jit_vmap_loop_agree(cost, sets, quantities)


def finite(x):
    return jnp.where(jnp.isfinite(x), x, -1.0)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(4))
def test_the_best_set_is_that_of_plain_enumeration(seed):
    v = some_venues(seed=seed)
    quantity = 0.5 * float(v.capacities.sum())
    costs = []
    for bits in itertools.product((0, 1), repeat=5):
        on = np.array(bits, bool)
        if np.asarray(v.capacities)[on].sum() < quantity:
            costs.append(np.inf)
            continue
        # Bisection on the marginal cost.
        fees, impacts, caps = (np.asarray(x)[on] for x in (v.fees, v.impacts, v.capacities))
        low, high = fees.min(), (fees + impacts * caps).max()
        for _ in range(200):
            middle = 0.5 * (low + high)
            enough = np.clip((middle - fees) / impacts, 0, caps).sum() >= quantity
            low, high = (low, middle) if enough else (middle, high)
        q = np.clip((high - fees) / impacts, 0, caps)
        pairs = np.asarray(v.leakage)[np.ix_(on, on)].sum() / 2
        costs.append((fees * q + 0.5 * impacts * q * q).sum() + np.asarray(v.activation_costs)[on].sum() + pairs)
    best, second, count = best_route(v, quantity)
    ordered = np.sort(costs)
    np.testing.assert_allclose([best.cost, second], ordered[:2], rtol=1e-9)
    assert count == np.isfinite(costs).sum()
    np.testing.assert_array_equal(best.active, bits_of(jnp.asarray(int(np.argmin(costs))), 5))
    # The split over all venues is a route like another, so it cannot be better.
    assert convex_split(v, quantity).cost >= best.cost - 1e-9
    # Searches see the same costs.
    cost = searchable_cost(v, quantity)
    found = jax.vmap(cost)(bits_of(jnp.arange(32), 5))
    np.testing.assert_allclose(np.asarray(found)[np.isfinite(costs)], np.array(costs)[np.isfinite(costs)], rtol=1e-9)
    assert np.asarray(found)[~np.isfinite(costs)].min() > np.array(costs)[np.isfinite(costs)].max()
    greedy = greedy_descent(cost, jnp.zeros(5, jnp.int32))
    assert greedy.cost >= best.cost - 1e-9
    chains = jax.vmap(lambda k: anneal(cost, 5, k, n_sweeps=40))(jax.random.split(jax.random.key(0), 16))
    np.testing.assert_allclose(chains.cost.min(), best.cost, rtol=1e-9)


def test_costs_of_a_circuit_are_finite_and_in_order():
    v = some_venues()
    quantity = 0.6 * float(v.capacities.sum())
    routes = every_route(v, quantity)
    costs, feasible = np.asarray(finite_costs(routes, v, quantity)), np.asarray(routes.split.feasible)
    np.testing.assert_allclose(costs[feasible], np.asarray(routes.cost)[feasible])
    assert np.isfinite(costs).all()
    assert costs[~feasible].min() > costs[feasible].max()
    # The empty set misses the whole order.
    assert costs.argmax() == 0
    # One feasible set: the others cost as much more as the order they miss, in no particular unit.
    for unit in (1.0, 1e4):
        scaled = Venues(unit * v.fees, unit * v.impacts, v.capacities, unit * v.activation_costs, unit * v.leakage)
        only = every_route(scaled, float(v.capacities.sum()))
        costs = np.asarray(finite_costs(only, scaled, float(v.capacities.sum())))
        assert only.split.feasible.sum() == 1
        np.testing.assert_allclose(costs[0], 2 * costs[-1], rtol=1e-12)
    nothing_fits = every_route(v, 1.1 * float(v.capacities.sum()))
    assert np.isfinite(finite_costs(nothing_fits, v, 1.1 * float(v.capacities.sum()))).all()


def test_leakage_counts_a_pair_once():
    v = some_venues(3)
    expected = float(v.activation_costs[0] + v.activation_costs[2] + v.leakage[0, 2])
    np.testing.assert_allclose(fixed_cost(jnp.asarray([1, 0, 1]), v), expected)


def test_bad_venues_and_orders_are_named():
    good = some_venues(3)
    arrays = {name: getattr(good, name) for name in ("fees", "impacts", "capacities", "activation_costs", "leakage")}

    def broken(**change):
        return Venues(**(arrays | {k: jnp.asarray(x, jnp.float64) for k, x in change.items()}))

    with pytest.raises(ValueError, match=r"Venues\.capacities is -1, expected >= 0"):
        broken(capacities=[1, -1, 2])
    with pytest.raises(ValueError, match=r"Venues\.impacts is 0, expected > 0"):
        broken(impacts=[1, 0, 2])
    with pytest.raises(ValueError, match=r"Venues\.fees is NaN"):
        broken(fees=[1, np.nan, 2])
    with pytest.raises(ValueError, match=r"Venues\.leakage is NaN"):
        broken(leakage=np.full((3, 3), np.nan))
    with pytest.raises(ValueError, match=r"leakage\[0, 1\] is 2 and \[1, 0\] 3, expected a symmetric"):
        broken(leakage=[[0, 2, 0], [3, 0, 0], [0, 0, 0]])
    with pytest.raises(ValueError, match=r"leakage\[1, 1\] is 2 .* zeros on the diagonal"):
        broken(leakage=np.diag([0, 2.0, 0]))
    with pytest.raises(ValueError, match="an impact is 0, expected > 0"):
        water_filling(1.0, good.fees, 0 * good.impacts, good.capacities)
    with pytest.raises(ValueError, match="order of 5000 exceeds the capacity of all venues together"):
        check_order(good, 5000.0)
    for order in (0.0, -3.0, np.nan):
        with pytest.raises(ValueError, match="expected a positive number"):
            check_order(good, order)
    with pytest.raises(ValueError, match="expected at most 20 venues"):
        every_route(some_venues(21), 100.0)
