import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models import ExponentialIntensity, LogLinearScale, gate_factor
from mfamm_jax.policies import (
    Covariates,
    MarketState,
    QuoteRules,
    Quotes,
    RuledPolicy,
    SymmetricPolicy,
    TableAxes,
    apply_rules,
    largest_problem,
    round_to_ticks,
    tabulate,
)
from mfamm_jax.solvers.hjb import Grid, HJBProblem, choose_scheme, optimal_depths, rulebook_penalty, solve_hjb

SCALE, DECAY, VOLATILITY, RISK_AVERSION = 2.0, 15.0, 0.05, 0.1
GRID, AXES = Grid(10, 32), TableAxes()
TICK = 0.01


def reference_problem():
    fills = ExponentialIntensity(SCALE, DECAY)
    return HJBProblem(
        bid=fills, ask=fills, inventory_penalty=rulebook_penalty(RISK_AVERSION, VOLATILITY), horizon=300.0
    )


@pytest.fixture(scope="module")
def policy():
    problem = reference_problem()
    scheme = choose_scheme(largest_problem(problem, AXES), GRID)[0]
    book = jnp.array([0.1, -0.1, 0.0, 0.05, 0.0, 0.0])
    bid = LogLinearScale(jnp.log(SCALE), -book, -0.3, -0.4)
    ask = LogLinearScale(jnp.log(SCALE), book, -0.3, 0.4)
    return eqx.filter_jit(tabulate)(
        problem, scheme, GRID, AXES, risk_aversion=RISK_AVERSION, bid_scale=bid, ask_scale=ask
    ).value


def quote(policy, inventory=0.0, volatility=VOLATILITY, vpin=0.0, imbalance=0.0, book=None):
    covariates = Covariates(volatility, vpin, imbalance, jnp.zeros(6) if book is None else book)
    return policy(MarketState(0.0, inventory, 0.0, 300.0, covariates))


@pytest.mark.thorough
@pytest.mark.parametrize(("risk", "imbalance", "vpin"), [(1.0, 0.0, 0.0), (1.3, 0.6, 0.5), (2.2, -0.5, -1.0)])
def test_interpolated_quotes_agree_with_a_new_solution_to_a_twentieth_of_a_tick(policy, risk, imbalance, vpin):
    problem = HJBProblem(
        bid=ExponentialIntensity(SCALE * np.exp(-0.4 * imbalance - 0.3 * vpin), DECAY),
        ask=ExponentialIntensity(SCALE * np.exp(0.4 * imbalance - 0.3 * vpin), DECAY),
        inventory_penalty=RISK_AVERSION * (risk * VOLATILITY) ** 2,
        horizon=300.0,
    )
    grid = Grid(10, 1)
    table = solve_hjb(problem, choose_scheme(problem, grid)[0], grid).value
    bid, ask = optimal_depths(problem, table.relative_value[-1])
    for inventory in (-9, -3, 0, 4, 9):
        got = quote(policy, float(inventory), risk * VOLATILITY, vpin, imbalance)
        assert abs(float(got.bid_depth - bid[inventory + 10])) < TICK / 20
        assert abs(float(got.ask_depth - ask[inventory + 10])) < TICK / 20


def test_every_covariate_moves_the_quote_in_the_right_direction(policy):
    base = quote(policy)
    pressure = quote(policy, imbalance=0.5)  # buyers ahead: bid up (nearer), ask up (further)
    assert pressure.bid_depth < base.bid_depth
    assert pressure.ask_depth > base.ask_depth
    wild = quote(policy, volatility=2 * VOLATILITY)
    assert wild.bid_depth > base.bid_depth
    long = quote(policy, inventory=3.0)
    assert long.bid_depth > base.bid_depth
    assert long.ask_depth < base.ask_depth
    more_wild = quote(policy, inventory=3.0, volatility=2 * VOLATILITY)
    assert more_wild.bid_depth - more_wild.ask_depth > long.bid_depth - long.ask_depth
    for feature, sign in ((0, 1), (1, -1), (3, 1)):  # sign of the planted ask coefficient
        moved = quote(policy, book=jnp.zeros(6).at[feature].set(2.0))
        assert sign * float(moved.ask_depth - base.ask_depth) > 0
    slow = quote(policy, vpin=0.9)  # fewer fills on both sides: inventory risk per fill grows
    assert float(slow.bid_depth + slow.ask_depth) > float(base.bid_depth + base.ask_depth)


def test_no_quote_at_the_inventory_limits(policy):
    assert quote(policy, 10.0).bid_size == 0
    assert quote(policy, 10.0).ask_size == 1
    assert quote(policy, -10.0).ask_size == 0
    assert quote(policy, -10.0).bid_size == 1


def test_gradients_of_quotes_are_finite(policy):
    gradient = jax.grad(lambda v: quote(policy, 2.0, v).bid_depth)(jnp.asarray(VOLATILITY))
    assert float(gradient) > 0


def test_drift_is_rejected():
    problem = eqx.tree_at(lambda p: p.drift, reference_problem(), jnp.asarray(0.1))
    with pytest.raises(ValueError, match="drift"):
        tabulate(problem, choose_scheme(problem, GRID)[0], GRID, AXES, risk_aversion=0.1)


def quotes_at(bid, ask):
    one = jnp.ones(())
    return Quotes(jnp.asarray(bid), jnp.asarray(ask), one, one)


def test_tick_rounding_never_gives_a_tick_away(precision):
    real = jnp.result_type(float)
    for mid, depth in ((0.005, 0.013), (0.0, 0.03), (-0.015, 0.0249)):
        quotes = jax.tree.map(lambda x: x.astype(real), quotes_at(depth, depth))
        rounded = round_to_ticks(quotes, jnp.asarray(mid, real), jnp.asarray(TICK, real))
        for side in ("bid_depth", "ask_depth"):
            assert -1e-5 <= float(getattr(rounded, side)) - depth < TICK
        ticks = (mid - float(rounded.bid_depth)) / TICK
        assert abs(ticks - round(ticks)) < 1e-3
    on_grid = round_to_ticks(quotes_at(0.03, 0.03), jnp.zeros(()), jnp.asarray(TICK))
    np.testing.assert_allclose([on_grid.bid_depth, on_grid.ask_depth], 0.03, atol=1e-5)


def test_gates_reduce_the_right_side():
    rules = QuoteRules(imbalance_reduced_size=0.25)
    toxic = apply_rules(rules, quotes_at(0.1, 0.1), jnp.asarray(0.71), jnp.zeros(()))
    assert (float(toxic.bid_size), float(toxic.ask_size)) == (0, 0)
    calm = apply_rules(rules, quotes_at(0.1, 0.1), jnp.asarray(0.7), jnp.asarray(0.3))
    assert (float(calm.bid_size), float(calm.ask_size)) == (1, 1)
    buyers = apply_rules(rules, quotes_at(0.1, 0.1), jnp.zeros(()), jnp.asarray(0.31))
    assert (float(buyers.bid_size), float(buyers.ask_size)) == (1, 0.25)
    sellers = apply_rules(rules, quotes_at(0.1, 0.1), jnp.zeros(()), jnp.asarray(-0.31))
    assert (float(sellers.bid_size), float(sellers.ask_size)) == (0.25, 1)


def test_smooth_gate_is_half_way_at_the_gate_and_has_a_gradient():
    gate, width, reduced = jnp.asarray(0.7), jnp.asarray(0.05), jnp.asarray(0.2)
    assert float(gate_factor(gate, gate, width, reduced)) == pytest.approx(0.6)
    assert float(jax.grad(gate_factor)(gate, gate, width, reduced)) == pytest.approx(-0.8 / 4 / 0.05)
    assert np.isfinite(jax.grad(gate_factor, 2)(gate, gate, jnp.zeros(()), reduced))


def test_spread_limits_clip_depths():
    policy = RuledPolicy(SymmetricPolicy(0.2, 5.0), QuoteRules(min_half_spread=0.01, max_half_spread=0.15))
    quotes = policy(MarketState(0.0, 5.0, 0.0, 1.0, Covariates.neutral(0.1)))
    assert float(quotes.ask_depth) == pytest.approx(0.15)
    assert float(quotes.bid_size) == 0
