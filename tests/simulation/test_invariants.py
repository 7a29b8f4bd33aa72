"""Fuzzed steps: a sound policy breaks nothing, and every kind of fault is seen, counted and placed."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models.intensity import ExponentialIntensity
from mfamm_jax.policies import AbstractPolicy, Quotes, SkewedPolicy, TableAxes, largest_problem, tabulate
from mfamm_jax.policies.quotes import Covariates
from mfamm_jax.simulation.invariants import INVARIANTS, Fuzz, fuzz_policy, replay_violations, step_violations
from mfamm_jax.simulation.step import PoissonMarket, step_with
from mfamm_jax.solvers.hjb import Grid, HJBProblem, choose_scheme

from .tapes import ADD, ASK, BID, START, TRADE, quote, run

SIDE = ExponentialIntensity(1.0, 30.0)
MARKET = PoissonMarket(SIDE, SIDE, 0.05, maker_fee=0.001)
KNOWN = Covariates.neutral(0.05)
LIMIT = 10
FEW = Fuzz(n_paths=32, n_steps=200)


class Faulty(AbstractPolicy):
    """A skewed policy in which something breaks where the inventory or the conditions say so."""

    fault: str = eqx.field(static=True)
    sound: SkewedPolicy = SkewedPolicy(0.05, 0.003, LIMIT)

    def __call__(self, state):
        quotes = self.sound(state)
        toxic = state.covariates.vpin > 0.95
        if self.fault == "NaN":
            return dataclasses.replace(quotes, bid_depth=jnp.where(toxic, jnp.nan, quotes.bid_depth))
        if self.fault == "crossed":
            return dataclasses.replace(quotes, ask_depth=jnp.where(toxic, -0.2, quotes.ask_depth))
        if self.fault == "limit":
            return dataclasses.replace(quotes, bid_size=jnp.where(toxic, 1.0, quotes.bid_size))
        return quotes


def fuzzed(policy, fuzz=FEW, seed=0):
    run = jax.jit(lambda p, k: fuzz_policy(p, MARKET, jnp.asarray(60.0), KNOWN, LIMIT, fuzz, k))
    return run(policy, jax.random.key(seed))


@pytest.mark.parametrize(("fault", "which"), [("none", None), ("NaN", 0), ("crossed", 1), ("limit", 2)])
def test_every_fault_is_counted_where_it_happens(fault, which):
    policy = Faulty(fault)
    found = fuzzed(policy)
    assert int(found.n_steps) == 32 * 200
    broken = [i for i, count in enumerate(found.counts) if count]
    assert which is None or which in broken
    assert set(broken) <= {which}  # one fault is no other one
    if which is not None:
        state, quotes = jax.tree.map(lambda x: x[which], (found.state, found.quotes))
        assert state.covariates.vpin > 0.95
        # The state that is kept is the whole of it: the policy quotes the same again.
        again = policy(state)
        np.testing.assert_array_equal(jax.tree.leaves(again), jax.tree.leaves(quotes))
        if fault == "limit":
            assert state.inventory == LIMIT


def test_fuzz_reaches_the_limits_and_the_ends_of_all_conditions():
    """A policy that breaks on purpose at the corner of everything is found, so the corner is visited."""

    class Corner(AbstractPolicy):
        def __call__(self, state):
            known = state.covariates
            extreme = (
                (jnp.abs(state.inventory) == LIMIT)
                & (known.vpin == 1)
                & (known.imbalance == -1)
                & (known.volatility > 5 * 0.05)
                & (jnp.max(jnp.abs(known.book_features)) > 10)
            )
            return dataclasses.replace(Faulty("none")(state), ask_depth=jnp.where(extreme, jnp.nan, 0.05))

    assert int(fuzzed(Corner(), Fuzz(n_paths=64, n_steps=500)).counts[0]) > 0


def test_a_world_whose_money_does_not_add_up_is_caught():
    state = MARKET.start(jnp.asarray(60.0), KNOWN)
    state = eqx.tree_at(lambda s: (s.inventory, s.cash), state, (jnp.asarray(2.0), jnp.asarray(-1.0)))
    quotes = Faulty("none")(state)
    after, record = step_with(MARKET, state, quotes, jnp.asarray(0.5), jnp.asarray(0.0), jnp.array([0.0, 0.9, 0.3]))
    assert not step_violations(state, quotes, after, record, LIMIT).any()
    stolen = eqx.tree_at(lambda s: s.cash, after, after.cash - 1e-9)
    np.testing.assert_array_equal(step_violations(state, quotes, stolen, record, LIMIT), [False, False, False, True])
    unknown = eqx.tree_at(lambda r: r.fees, record, jnp.asarray(jnp.nan))
    np.testing.assert_array_equal(step_violations(state, quotes, after, unknown, LIMIT), [True, False, False, False])


def test_with_several_levels_the_nearest_decides():
    class Levels(AbstractPolicy):
        nearest: float = eqx.field(static=True)

        def __call__(self, state):
            far = jnp.array([self.nearest, 0.5])
            return Quotes(far, far, jnp.ones(2), jnp.where(state.inventory > -LIMIT, 1.0, 0.0) * jnp.ones(2))

    assert int(fuzzed(Levels(0.1), Fuzz(n_paths=4, n_steps=20)).counts[1]) == 0
    assert int(fuzzed(Levels(-0.1), Fuzz(n_paths=4, n_steps=20)).counts[1]) > 0


def test_the_same_key_gives_the_same_steps_and_another_one_others():
    first, again, other = (fuzzed(Faulty("crossed"), seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.counts, again.counts)
    for one, same in zip(jax.tree.leaves(first.state), jax.tree.leaves(again.state)):
        np.testing.assert_array_equal(one, same)
    assert not np.array_equal(first.state.covariates.book_features, other.state.covariates.book_features)


def a_value_table():
    problem = HJBProblem(bid=SIDE, ask=SIDE, inventory_penalty=2e-4, terminal_penalty=1e-4, horizon=60.0)
    grid, axes = Grid(LIMIT, 16), TableAxes()
    scheme, _ = choose_scheme(largest_problem(problem, axes), grid)
    scales = {"risk_aversion": 0.1}
    return tabulate(problem, scheme, grid, axes, **scales).value


def with_covariates(policy):
    """Coefficients that make quotes react to everything."""
    weights = jnp.array([0.3, -0.2, 0.1, 0.2, -0.3, 0.1])
    return eqx.tree_at(
        lambda p: (p.bid_scale.book, p.ask_scale.book, p.bid_scale.vpin, p.ask_scale.imbalance),
        policy,
        (weights, 0.5 * weights, jnp.asarray(0.5), jnp.asarray(0.7)),
    )


@pytest.mark.parametrize("is_double", [pytest.param(True, marks=pytest.mark.thorough), False])
def test_value_table_quotes_break_nothing(is_double):
    table, horizon = with_covariates(a_value_table()), jnp.asarray(60.0)
    with jax.enable_x64(is_double):
        dtype = jnp.result_type(float)

        def cast(tree):
            return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, tree)

        policy, market, known, fuzz, horizon = (cast(x) for x in (table, MARKET, KNOWN, FEW, horizon))
        run = jax.jit(lambda: fuzz_policy(policy, market, horizon, known, LIMIT, fuzz, jax.random.key(0)))
        found = run()
    assert found.quotes.bid_depth.dtype == dtype
    np.testing.assert_array_equal(found.counts, np.zeros(len(INVARIANTS)))


def test_a_replayed_path_is_checked_too():
    book = (100, 300, 102, 300)
    rows = (START, (1.0, TRADE, BID, 100, 400, book), (2.0, ADD, ASK, 102, 1, book))
    policy = quote(0.01, size=1.0, max_inventory=10.0)
    result = run(rows, policy, record="path", post_only=True)
    assert float(result.bid_fills) == 1
    np.testing.assert_array_equal(replay_violations(result, 10.0), [0, 0, 0, 0])
    # A tighter limit than the one it traded with is exceeded from the fill on.
    assert int(replay_violations(result, 0.5)[2]) > 0
    crossed = eqx.tree_at(lambda r: r.path.order_ticks, result, jnp.zeros_like(result.path.order_ticks))
    assert int(replay_violations(crossed, 10.0)[1]) > 0
    lost = eqx.tree_at(lambda r: r.residual, result, jnp.asarray(1e-6))
    np.testing.assert_array_equal(replay_violations(lost, 10.0), [0, 0, 0, 1])
    hidden = eqx.tree_at(lambda r: r.path.value, result, result.path.value.at[1].set(jnp.nan))
    assert int(replay_violations(hidden, 10.0)[0]) == 1
    with pytest.raises(ValueError, match="record="):
        replay_violations(run(rows, policy), 10.0)
