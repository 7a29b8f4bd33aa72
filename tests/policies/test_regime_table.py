import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models import ExponentialIntensity
from mfamm_jax.policies import Covariates, MarketState, TableAxes, tabulate
from mfamm_jax.policies.regime_table import RegimeMap, tabulate_regimes
from mfamm_jax.solvers.hjb import ExplicitRK, Grid, HJBProblem, choose_scheme, optimal_depths, solve_hjb
from mfamm_jax.solvers.hjb.states import RegimeProblem

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads

DECAY, PENALTY, HORIZON, RISK_AVERSION = 15.0, 0.1 * 0.05**2, 20.0, 0.1
GRID = Grid(4, 8)
SELLING, NEITHER, BUYING = -0.5, 0.0, 0.5


def drifting(drift=0.02, switching=0.5, penalty=PENALTY):
    """Selling, neither, buying: the mid falls, stays, rises; bids fill faster while it falls."""
    generator = switching * np.array([[-1.0, 1.0, 0.0], [0.5, -1.0, 0.5], [0.0, 1.0, -1.0]])
    return RegimeProblem(
        regimes=HJBProblem(
            bid=ExponentialIntensity(jnp.array([3.0, 2.0, 1.0]), DECAY),
            ask=ExponentialIntensity(jnp.array([1.0, 2.0, 3.0]), DECAY),
            inventory_penalty=penalty,
            drift=drift * jnp.array([-1.0, 0.0, 1.0]),
            horizon=HORIZON,
        ),
        generator=generator,
    )


quote = eqx.filter_jit(lambda policy, state: policy(state))


def solved(problem, regimes=None, risk=(1.0,), risk_aversion=RISK_AVERSION, scheme=None):
    scheme = choose_scheme(problem, GRID)[0] if scheme is None else scheme
    regimes = RegimeMap(0.3, 0.7, True, False) if regimes is None else regimes
    return eqx.filter_jit(tabulate_regimes)(
        problem, scheme, GRID, regimes, risk=jnp.asarray(risk), risk_aversion=risk_aversion
    ).value


def state(imbalance=0.0, inventory=0.0, vpin=0.0, volatility=0.05, time_left=HORIZON):
    return MarketState(0.0, inventory, 0.0, time_left, Covariates(volatility, vpin, imbalance, jnp.zeros(6)))


def test_thresholds_number_the_regimes_and_the_mirror_is_its_own_inverse():
    both = RegimeMap(0.3, 0.7)
    numbers = both(jnp.array([-0.31, -0.3, 0.0, 0.3, 0.31, 0.31]), jnp.array([0.0, 0.71, 0.7, 0.0, 0.0, 0.8]))
    assert numbers.tolist() == [0, 3, 2, 2, 4, 5]
    assert both.names[0] == "selling calm"
    assert both.names[5] == "buying toxic"
    for uses in ((True, True), (True, False), (False, True), (False, False)):
        regimes = RegimeMap(0.3, 0.7, *uses)
        mirrored = np.array(regimes.mirrored)
        assert (mirrored[mirrored] == np.arange(regimes.n_regimes)).all()
        signal, vpin = jnp.linspace(-1, 1, 41), jnp.linspace(0, 1, 41)
        assert (mirrored[regimes(signal, vpin)] == regimes(-signal, vpin)).all()
    assert RegimeMap(0.3, 0.7, False, False).names == ("always",)


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_quotes_are_those_of_the_regime_at_the_nodes(precision):
    with jax.enable_x64(precision == "float64"):
        problem = drifting()
        policy = solved(problem)
        table = solve_hjb(problem, choose_scheme(problem, GRID)[0], GRID).value
        bid, ask = optimal_depths(problem.regimes, table.relative_value, axis=1)
        for row in (0, 3, 8):
            for regime, imbalance in enumerate((SELLING, NEITHER, BUYING)):
                for inventory in (-4, -1, 0, 4):
                    got = quote(policy, state(imbalance, inventory, time_left=HORIZON * row / 8))
                    if inventory < 4:
                        assert_close(got.bid_depth, bid[row, inventory + 4, regime], 1e-12, 1e-5)
                    if inventory > -4:
                        assert_close(got.ask_depth, ask[row, inventory + 4, regime], 1e-12, 1e-5)
                    assert (float(got.bid_size), float(got.ask_size)) == (inventory < 4, inventory > -4)


@pytest.mark.thorough
def test_one_regime_quotes_as_the_plain_value_table():
    one = HJBProblem(
        bid=ExponentialIntensity(2.0, DECAY),
        ask=ExponentialIntensity(2.0, DECAY),
        inventory_penalty=PENALTY,
        horizon=HORIZON,
    )
    axes, scheme = TableAxes(n_risk=4, n_skew=1, max_risk=2.0, max_speed=1.0), ExplicitRK(200)
    plain = eqx.filter_jit(tabulate)(one, scheme, GRID, axes, risk_aversion=RISK_AVERSION).value
    regimes = RegimeProblem(regimes=one, generator=jnp.zeros((1, 1)))
    policy = solved(regimes, RegimeMap(0.3, 0.7, False, False), axes.risk, scheme=scheme)
    for volatility in (0.01, 0.05, 0.07, 0.5):
        for inventory in (-4.0, 0.0, 3.0):
            for time_left in (0.1, 7.0, 20.0):
                where = state(0.9, inventory, 0.9, volatility, time_left)
                jax.tree.map(lambda a, b: assert_close(a, b, 1e-9), quote(policy, where), quote(plain, where))


def test_mirrored_signals_and_inventory_mirror_the_quotes():
    policy = solved(drifting())
    for imbalance, inventory in ((BUYING, 0.0), (BUYING, 2.0), (SELLING, -3.0), (NEITHER, 1.0)):
        here, there = quote(policy, state(imbalance, inventory)), quote(policy, state(-imbalance, -inventory))
        assert_close(here.bid_depth, there.ask_depth, 1e-12)
        assert_close(here.ask_depth, there.bid_depth, 1e-12)


def test_buying_pressure_raises_both_quotes():
    policy = solved(drifting())
    rising, quiet = quote(policy, state(BUYING)), quote(policy, state(NEITHER))
    assert rising.ask_depth > quiet.ask_depth
    assert rising.bid_depth < quiet.bid_depth


@pytest.mark.slow
def test_regimes_that_never_change_are_problems_of_their_own():
    problem, scheme = drifting(switching=0.0), ExplicitRK(200)
    policy = solved(problem, scheme=scheme)
    for regime, imbalance in enumerate((SELLING, NEITHER, BUYING)):
        alone = jax.tree.map(lambda x, i=regime: x[i] if x.ndim else x, problem.regimes)
        bid, ask = optimal_depths(alone, solve_hjb(alone, scheme, GRID).value.relative_value[-1])
        for inventory in (-3, 0, 2):
            got = quote(policy, state(imbalance, inventory))
            assert_close(got.bid_depth, bid[inventory + 4], 1e-12)
            assert_close(got.ask_depth, ask[inventory + 4], 1e-12)


@pytest.mark.slow
def test_the_signal_is_worth_what_the_equation_says():
    """A plain simulation of regimes, drift and fills: the policy earns H, and one that ignores the drift earns less.

    Steps of 0.02 s with at most one fill a side bias the mean by less than half a percent of it; 4 standard errors on top.
    """
    problem, blind = drifting(), drifting(drift=0.0)
    values = solve_hjb(problem, choose_scheme(problem, GRID)[0], GRID).value.value[-1]
    expected = float(values[4, 1])
    found = {name: simulate(problem, table) for name, table in (("knows", depths(problem)), ("ignores", depths(blind)))}
    mean, error = found["knows"].mean(), found["knows"].std() / np.sqrt(len(found["knows"]))
    assert abs(mean - expected) < 4 * error + 0.005 * abs(expected)
    more = found["knows"] - found["ignores"]
    assert more.mean() > 4 * more.std() / np.sqrt(len(more))


def depths(problem):
    """(time, inventory, regime) depths of bid and ask by calendar step, at the rows of the table."""
    table = solve_hjb(problem, choose_scheme(problem, GRID)[0], Grid(4, 64)).value
    return [np.asarray(x) for x in optimal_depths(problem.regimes, table.relative_value, axis=1)]


def simulate(problem, table, n_paths=20_000, step=0.02):
    rng = np.random.default_rng(5)
    n_steps = round(HORIZON / step)
    rates = [np.asarray(problem.regimes.bid.scale), np.asarray(problem.regimes.ask.scale)]
    drift, generator = np.asarray(problem.regimes.drift), np.asarray(problem.generator)
    regime, inventory, value = np.ones(n_paths, int), np.zeros(n_paths, int), np.zeros(n_paths)
    for number in range(n_steps):
        row = round((HORIZON - number * step) / HORIZON * 64)
        uniform = rng.random((4, n_paths))
        fills = []
        for side, limit in ((0, 4), (1, -4)):
            depth = table[side][row, inventory + 4, regime]
            quoted = inventory != limit
            chance = np.where(quoted, 1 - np.exp(-step * rates[side][regime] * np.exp(-DECAY * depth)), 0)
            fills.append(uniform[side] < chance)
            value += np.where(fills[side], np.nan_to_num(depth), 0)
        value += step * (drift[regime] * inventory - PENALTY * inventory**2)
        inventory = inventory + fills[0] - fills[1]
        leaves = uniform[2] < 1 - np.exp(step * np.diag(generator)[regime])
        away = np.where(regime == 1, np.where(uniform[3] < 0.5, 0, 2), 1)
        regime = np.where(leaves, away, regime)
    return value


@pytest.mark.slow
def test_gradients_and_jit_vmap_loop():
    policy = solved(drifting(), risk=(0.0, 1.0, 2.0))

    def quotes(imbalance, inventory, volatility):
        got = quote(policy, state(imbalance, inventory, volatility=volatility))
        return got.bid_depth, got.ask_depth

    where = jnp.array([SELLING, NEITHER, BUYING]), jnp.array([0.0, 3.0, -4.0]), jnp.array([0.04, 0.06, 0.07])
    assert_jit_vmap_loop_agree(quotes, *where)
    check_grads(lambda v: quotes(BUYING, 1.0, v), (jnp.array(0.06),), order=1, modes=["fwd", "rev"])

    scheme = ExplicitRK(20)

    @jax.jit
    def through_the_solver(drift):
        return solved(drifting(drift), scheme=scheme)(state(BUYING)).ask_depth

    drift, step = jnp.array(0.02), 1e-4
    difference = (through_the_solver(drift + step) - through_the_solver(drift - step)) / (2 * step)
    assert_close(jax.grad(through_the_solver)(drift), difference, 1e-6)


def test_one_compile_serves_all_thresholds():
    traced = []

    @eqx.filter_jit
    def counted(policy, state):
        traced.append(1)
        return policy(state)

    policy = solved(drifting())
    for threshold in (0.1, 0.3, 0.6):
        counted(eqx.tree_at(lambda p: p.regimes.imbalance, policy, jnp.asarray(threshold)), state(0.4))
    assert len(traced) == 1


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match="has 3 regimes, expected 6: selling calm"):
        solved(drifting(), RegimeMap())
    with pytest.raises(ValueError, match="one number for all regimes"):
        solved(drifting(penalty=PENALTY * jnp.ones(3)))
    with pytest.raises(ValueError, match=r"RegimeMap\.vpin is 1\.5, expected <= 1"):
        RegimeMap(vpin=1.5)
