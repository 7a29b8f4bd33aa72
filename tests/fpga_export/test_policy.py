"""The kernel as a policy: its quotes are the exact ones but for the bound, and its registers say what they hold."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.fpga_export import KernelPolicy, check_same_model, make_registers, model_of, registers_of
from mfamm_jax.fpga_export.tables import kernel_scheme
from mfamm_jax.models.intensity import ExponentialIntensity, LogLinearScale
from mfamm_jax.policies import Covariates, MarketState, QuoteRules, TableAxes, largest_problem, tabulate
from mfamm_jax.solvers.hjb import Grid, choose_scheme

from .kernels import TICK, model, quantized


def kernel(depth_min=0.5, **settings):
    table = quantized()
    registers = make_registers(table.form, depth_min=depth_min, depth_max=30.0, **settings)
    return KernelPolicy(model(), jnp.asarray(table.table), registers, table.form)


def state(inventory=0.0, time_left=20.0, volatility=0.02, vpin=0.1, imbalance=0.1, mid=0.005):
    covariates = Covariates(volatility, vpin, imbalance, jnp.zeros(6))
    return MarketState(mid, inventory, 0.0, time_left, covariates)


@pytest.mark.thorough
def test_quotes_are_the_exact_ones_within_the_bound(precision):
    policy, ours = kernel(), model()
    scheme, _ = kernel_scheme(model(), policy.form.spec)
    bound = quantized().bound.total
    rng = np.random.default_rng(0)
    call = jax.jit(lambda now: policy(now))
    for _ in range(40):
        # Even and odd sums of the book's prices.
        now = state(
            inventory=float(rng.integers(-1, 2)),
            time_left=float(rng.uniform(0.2, 24.0)),
            volatility=float(rng.uniform(0.013, 0.035)),
            imbalance=float(rng.uniform(-0.5, 0.5)),
            mid=0.005 * int(rng.integers(-50, 50)),
        )
        share, log_risk, skew = ours.coordinates(now)
        with jax.enable_x64(True):
            exact = model().depths(scheme, 2, *(jnp.asarray(float(x)) for x in (share, log_risk, skew)))[0][-1]
        ask, bid = np.maximum(np.asarray(exact[int(now.inventory) + 2]), 0.5)
        quotes = call(now)
        half = round(float(now.mid) / TICK * 2) / 2
        slack = bound + (0.02 if precision == "float32" else 1e-9)
        got_ask, got_bid = half + float(quotes.ask_depth) / TICK, half - float(quotes.bid_depth) / TICK
        assert abs(got_ask - round(got_ask)) < 1e-3  # on the tick grid
        assert np.ceil(half + ask - slack) - 1e-3 <= got_ask <= np.ceil(half + ask + slack) + 1e-3
        assert np.floor(half - bid - slack) - 1e-3 <= got_bid <= np.floor(half - bid + slack) + 1e-3


def test_one_side_stops_at_the_limit_and_both_at_the_vpin_stop():
    policy = kernel(vpin_stop=2868)
    assert policy(state(inventory=2.0)).bid_size == 0
    assert policy(state(inventory=2.0)).ask_size == 1
    assert policy(state(inventory=-7.0)).ask_size == 0
    assert policy(state(vpin=0.7)).bid_size == 1
    assert policy(state(vpin=0.7003)).bid_size == 0
    assert np.isfinite(policy(state(vpin=0.9)).bid_depth)


def test_order_sizes_never_pass_the_inventory_limit():
    policy = kernel(order_size=3, inventory_limit=2)
    for inventory in (-2, -1, 0, 1, 2):
        quotes = policy(state(inventory=float(inventory)))
        assert inventory + quotes.bid_size <= 2
        assert inventory - quotes.ask_size >= -2
    with pytest.raises(ValueError, match="above max_order_size"):
        kernel(order_size=3, max_order_size=2)


def test_states_that_are_not_numbers_do_not_wrap():
    strict = kernel(saturated_stops=True)
    assert strict(state()).bid_size == 1
    for outside in ({"volatility": np.nan}, {"volatility": 9.0}, {"imbalance": 5.0}, {"time_left": np.nan}):
        assert strict(state(**outside)).bid_size == 0
    # Below the risk axis and beyond its horizon the table's edge is held: quotes hardly change there.
    for held in ({"volatility": 0.0}, {"time_left": 1e6}):
        assert strict(state(**held)).bid_size == 1
    for bad in (np.nan, np.inf, -np.inf):
        quotes = kernel()(state(time_left=bad))
        assert np.isfinite(quotes.bid_depth)
        assert 0 < quotes.ask_depth < 31 * TICK


def test_widening_moves_both_quotes_away():
    calm, wide = kernel(), kernel(vpin_gate=0.25, vpin_widen=8.0)
    now = state(vpin=0.75)
    # 8 ticks a unit times half a unit; VPIN moves the fill rates alike in both.
    np.testing.assert_allclose(wide(now).ask_depth - calm(now).ask_depth, 4 * TICK, atol=1e-9)
    np.testing.assert_allclose(wide(now).bid_depth - calm(now).bid_depth, 4 * TICK, atol=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth_min": 0.0}, "depth_min is 0 ticks, expected at least"),
        ({"depth_min": 31.0}, "above depth_max"),
        ({"depth_min": np.nan}, "depth_min = nan is not finite"),
        ({"order_size": 0}, "order_size is 0"),
        ({"order_size": 70000}, "order_size is 70000"),
        ({"inventory_limit": 3}, "inventory_limit is 3, expected 1 to 2"),
        ({"price_low": 5, "price_high": 4}, "price_low is 5"),
        ({"price_high": 1 << 30}, "2\\^30"),
        ({"vpin_widen": 16.0}, "vpin_widen = 16 does not fit"),
    ],
)
def test_registers_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        kernel(**settings)


def test_rules_become_registers_or_are_refused():
    form = quantized().form
    plain = {"min_half_spread": 0.01, "max_half_spread": 0.1}
    made = registers_of(form, QuoteRules(**plain, vpin_gate=0.5), TICK)
    assert int(made.depth_min) == 2**form.fraction
    assert int(made.vpin_stop) == 2049
    assert int(registers_of(form, QuoteRules(**plain, vpin_gate=2.0), TICK).vpin_stop) == 4096
    for rule, message in (({"vpin_width": 0.1}, "vpin_width"), ({"imbalance_reduced_size": 0.5}, "imbalance")):
        with pytest.raises(ValueError, match=message):
            registers_of(form, QuoteRules(**plain, **rule), TICK)


def test_a_table_serves_other_states_but_no_other_market():
    policy = kernel()
    check_same_model(policy, model())
    check_same_model(policy, eqx.tree_at(lambda m: m.risk_aversion, model(), jnp.array(0.7)))
    # Twice the fills, half the horizon, twice the penalty: the same problem on another clock.
    faster = model(ExponentialIntensity(3.0, 0.3 / TICK), horizon=15.0, inventory_penalty=8e-5, terminal_penalty=1e-4)
    check_same_model(policy, eqx.tree_at(lambda m: m.reference, faster, faster.reference + jnp.log(2.0)))
    for changes, message in (
        ({"terminal_penalty": 2e-4}, "terminal_penalty"),
        ({"curve": ExponentialIntensity(1.5, 0.31 / TICK)}, "bid decay"),
        ({"bid_adverse_selection": 0.001}, "bid_adverse_selection"),
        ({"horizon": 31.0}, "horizon"),
        ({"fill_risk_aversion": 1.0}, "fill_risk_aversion"),
    ):
        with pytest.raises(ValueError, match=message):
            check_same_model(policy, model(**changes))


def test_the_same_problem_on_another_clock_has_the_same_quotes():
    """K-1: quotes depend on the coordinates alone."""
    ours, now = model(), state()
    quick = eqx.tree_at(
        lambda m: (m.bid_scale.intercept, m.ask_scale.intercept),
        ours,
        (ours.bid_scale.intercept + jnp.log(2.0), ours.ask_scale.intercept + jnp.log(2.0)),
    )
    slow_now = state(time_left=20.0, volatility=0.02)
    fast_now = state(time_left=10.0, volatility=0.02 * np.sqrt(2.0))
    for a, b in zip(ours.coordinates(slow_now), quick.coordinates(fast_now), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    assert float(ours.coordinates(now)[2]) == pytest.approx(0.3 * 0.1)


@pytest.mark.thorough
def test_a_value_table_policy_can_be_tabulated_anew():
    problem, grid, axes = model().problem, Grid(2, 16), TableAxes()
    scheme, _ = choose_scheme(largest_problem(problem, axes), grid)
    bid = LogLinearScale(jnp.log(1.5), jnp.zeros(6), 0.2, -0.3)
    policy = tabulate(problem, scheme, grid, axes, risk_aversion=0.1, bid_scale=bid, ask_scale=bid).value
    found = model_of(policy, TICK)
    assert float(found.problem.horizon) == 60.0  # as long as its fastest state asks for
    np.testing.assert_allclose(found.reference, np.log(1.5))
    with pytest.raises(ValueError, match="off the chip"):
        model_of(kernel(), TICK)
