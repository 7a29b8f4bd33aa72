import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.simulation.spread_trading import BandPlan, SpreadRule, trade_spread

from ..checks import assert_close, assert_jit_vmap_loop_agree

HALF_SPREADS = (0.01, 0.02)


def market(n=400, seed=0):
    rng = np.random.default_rng(seed)
    walk, residual = np.cumsum(rng.standard_normal(n)), np.zeros(n)
    for i in range(1, n):
        residual[i] = 0.8 * residual[i - 1] + rng.standard_normal()
    return jnp.asarray(np.column_stack([2 * walk + residual, walk]))


def plan_for(levels, band=1.0, trades=True):
    n = len(levels)
    weights = jnp.asarray(np.tile([1.0, -2.0], (n, 1)))
    ones = jnp.ones(n)
    return BandPlan(weights, 0 * ones, band * ones, 1.7 * ones, 3 * ones, jnp.full(n, trades))


def by_hand(levels, plan, rule):
    """A plain loop with a purse."""
    levels, side, stopped, cash = np.asarray(levels), 0.0, False, 0.0
    held = np.zeros(levels.shape[1])
    wanted, values, sides = [], [], []
    for t in range(len(levels)):
        away = float(np.asarray(plan.weights)[t] @ levels[t] - plan.mean[t])
        if abs(away) > float(rule.stop) * float(plan.deviation[t]):
            stopped = True
        elif abs(away) < float(plan.band[t]):
            stopped = False
        if away > float(plan.band[t]):
            side = -1.0
        elif away < -float(plan.band[t]):
            side = 1.0
        if stopped or not bool(plan.trades[t]):
            side = 0.0
        sides.append(side)
        wanted.append(side * float(plan.size[t]) * np.asarray(plan.weights)[t])
        target = wanted[t - rule.delay] if t >= rule.delay else np.zeros_like(held)
        if t == len(levels) - 1:
            target = np.zeros_like(held)
        cash -= (target - held) @ levels[t] + np.abs(target - held) @ np.array(HALF_SPREADS)
        held = target
        values.append(cash + held @ levels[t])
    return np.array(values), np.array(sides)


@pytest.mark.thorough
@pytest.mark.parametrize("delay", [0, 1, 3])
@pytest.mark.parametrize("stop", [1.5, np.inf])
def test_a_purse_kept_by_hand_holds_the_same(delay, stop):
    levels = market()
    plan, rule = plan_for(levels), SpreadRule(min(stop, 1e6), delay)
    found = jax.jit(trade_spread)(levels, plan, jnp.array(HALF_SPREADS), rule)
    values, sides = by_hand(levels, plan, rule)
    np.testing.assert_array_equal(found.side, sides)
    assert_close(jnp.cumsum(found.pnl), values)
    assert len(set(np.asarray(found.side).tolist())) == (3 if stop == 1.5 else len(set(sides.tolist())))
    assert (np.asarray(found.holdings[-1]) == 0).all()


def test_a_reverting_spread_earns_and_costs_take_from_it():
    levels = market(5000)
    free = trade_spread(levels, plan_for(levels), jnp.zeros(2), SpreadRule(delay=0))
    paid = trade_spread(levels, plan_for(levels), jnp.array(HALF_SPREADS), SpreadRule(delay=0))
    assert float(jnp.sum(free.pnl)) > 0
    assert_close(jnp.sum(free.pnl) - jnp.sum(paid.pnl), jnp.sum(paid.cost))


def test_nothing_is_held_where_the_plan_says_so():
    levels = market()
    found = trade_spread(levels, plan_for(levels, trades=False), jnp.array(HALF_SPREADS))
    assert (np.asarray(found.pnl) == 0).all()


def test_the_future_changes_nothing_before_it():
    levels = market()
    other = levels.at[250:].add(100.0)
    one, two = (trade_spread(x, plan_for(x), jnp.array(HALF_SPREADS)) for x in (levels, other))
    np.testing.assert_array_equal(one.pnl[:250], two.pnl[:250])
    np.testing.assert_array_equal(one.holdings[:250], two.holdings[:250])


def test_jit_vmap_and_loop_agree():
    def total(band):
        levels = market()
        return jnp.sum(trade_spread(levels, plan_for(levels, band), jnp.array(HALF_SPREADS)).pnl)

    assert_jit_vmap_loop_agree(total, jnp.array([0.5, 1.0, 2.0]))


def test_bad_rules_are_refused():
    with pytest.raises(ValueError, match=r"SpreadRule\.stop is 0, expected > 0"):
        SpreadRule(0.0)
    with pytest.raises(ValueError, match=r"SpreadRule\.delay is -1, expected >= 0"):
        SpreadRule(delay=-1)
