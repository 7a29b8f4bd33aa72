"""The worst market: it is the worst in closed form, no search without derivatives beats it, and gradients do."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models.curves import PowerLawIntensity
from mfamm_jax.models.intensity import ExponentialIntensity
from mfamm_jax.policies import SkewedPolicy
from mfamm_jax.policies.quotes import Covariates
from mfamm_jax.simulation.adversary import (
    PARAMETERS,
    Ambiguity,
    certainty_equivalent,
    parameters_of,
    random_markets,
    worst_market,
)
from mfamm_jax.simulation.episode import Episodes, simulate_episodes
from mfamm_jax.simulation.step import PoissonMarket

pytestmark = pytest.mark.thorough
EPISODES = Episodes(horizon=20.0, n_steps=40, n_paths=40_000)
KNOWN = Covariates.neutral(0.05)
LIMIT = 4
POLICY = SkewedPolicy(0.04, 0.004, LIMIT)


def a_market(dtype=None):
    side = ExponentialIntensity(2.0, 25.0), ExponentialIntensity(1.7, 24.0)
    market = PoissonMarket(*side, 0.05, drift=0.001, bid_adverse_selection=0.002, ask_adverse_selection=0.001)
    return market if dtype is None else jax.tree.map(lambda x: x.astype(dtype), market)


def worth(market, weight=0.5):
    return certainty_equivalent(POLICY, market, EPISODES, KNOWN, LIMIT, weight)


@pytest.fixture(scope="module")
def found():
    return jax.jit(lambda key: worst_market(worth, a_market(), Ambiguity(), key))(jax.random.key(0))


def test_it_lies_on_the_ellipsoid_where_no_first_order_step_helps(found):
    assert float(jnp.linalg.norm(found.z)) == pytest.approx(2.0, rel=1e-9)
    # The last steps are a thousandth of the radius long: the gap is of second order in them.
    assert 0 <= float(found.gap) < 1e-3 * float(found.nominal - found.value)
    assert float(found.value) == pytest.approx(float(worth(found.market)), rel=1e-12)
    assert float(found.nominal) == pytest.approx(float(worth(a_market())), rel=1e-12)


def test_no_random_search_does_better(found):
    key = jax.random.key(1)
    random = jax.jit(lambda: random_markets(worth, a_market(), Ambiguity(), key, 3000))()
    assert float(found.value) < float(random.min()) < float(found.nominal)
    inside = jax.jit(lambda: random_markets(worth, a_market(), Ambiguity(radius=1.0), key, 1000))()
    assert float(found.value) < float(inside.min())


def test_a_finer_search_of_the_plane_of_two_parameters_finds_the_same():
    ambiguity = Ambiguity(volatility=0, fill_rate=0, decay=0.1, drift=0, adverse_selection=0)
    found = jax.jit(lambda: worst_market(worth, a_market(), ambiguity, jax.random.key(0)))()
    angle = np.linspace(0, 2 * np.pi, 721)
    z = np.zeros((len(angle), len(PARAMETERS)))
    z[:, 3], z[:, 4] = 2 * np.cos(angle), 2 * np.sin(angle)
    values = jax.jit(jax.vmap(lambda z: worth(ambiguity.market(a_market(), z))))(jnp.asarray(z))
    # Half a degree of a smooth function.
    assert float(found.value) == pytest.approx(float(values.min()), abs=1e-5)


def test_drift_alone_goes_against_the_mean_inventory():
    """P&L is linear in the drift: mean + drift sum E[q] dt, so the worst is the end against the sum's sign."""
    ambiguity = Ambiguity(volatility=0, fill_rate=0, decay=0, adverse_selection=0, drift=0.05)
    found = jax.jit(lambda: worst_market(lambda m: worth(m, 0.0), a_market(), ambiguity, jax.random.key(0)))()
    slope = jax.grad(lambda d: worth(eqx.tree_at(lambda m: m.drift, a_market(), d), 0.0))(a_market().drift)
    expected = worth(a_market(), 0.0) - 0.05 * 0.05 * 2 * jnp.abs(slope)
    assert float(found.value) == pytest.approx(float(expected), rel=1e-9)
    assert float(found.z[5]) == pytest.approx(-2 * np.sign(float(slope)), rel=1e-6)


def test_what_it_claims_is_what_simulated_episodes_give(found):
    paths = simulate_episodes(POLICY, found.market, EPISODES, KNOWN, jnp.asarray(0.0), jax.random.key(2))
    mean, std = float(paths.pnl.mean()), float(paths.pnl.std())
    assert mean - 0.5 * std == pytest.approx(float(found.value), abs=4 * std / np.sqrt(EPISODES.n_paths))


def test_a_certain_market_and_a_radius_of_zero_leave_the_nominal_one():
    for ambiguity in (Ambiguity(radius=0.0), Ambiguity(2.0, 0, 0, 0, 0, 0)):
        found = jax.jit(lambda a: worst_market(worth, a_market(), a, jax.random.key(0), n_steps=3))(ambiguity)
        assert float(found.value) == pytest.approx(float(found.nominal), rel=1e-12)
        for old, new in zip(parameters_of(a_market()), parameters_of(found.market)):
            np.testing.assert_allclose(np.asarray(new), np.asarray(old), rtol=1e-12)


def test_a_worse_policy_has_a_worse_worst_market():
    def worst(skew):
        policy = SkewedPolicy(0.04, skew, LIMIT)
        return worst_market(
            lambda m: certainty_equivalent(policy, m, EPISODES, KNOWN, LIMIT, 0.5),
            a_market(),
            Ambiguity(),
            jax.random.key(0),
        ).value

    values = jax.jit(jax.vmap(worst))(jnp.array([-0.004, 0.0, 0.004]))
    assert (np.diff(values) > 0).all()


def test_single_precision_finds_the_same_market():
    with jax.enable_x64(False):
        single = jax.jit(lambda: worst_market(worth32, a_market(jnp.float32), small(), jax.random.key(0)))()
    double = jax.jit(lambda: worst_market(worth, a_market(), Ambiguity(), jax.random.key(0)))()
    assert single.value.dtype == jnp.float32
    # A law of 40 steps: some hundred roundings of 6e-8.
    assert float(single.value) == pytest.approx(float(double.value), rel=2e-4)


def small():
    return jax.tree.map(lambda x: x.astype(jnp.float32), Ambiguity())


def worth32(market):
    policy, episodes, known = jax.tree.map(lambda x: x.astype(jnp.float32), (POLICY, EPISODES, KNOWN))
    return certainty_equivalent(policy, market, episodes, known, LIMIT, 0.5)


def test_where_no_law_is_known_neither_value_nor_gap_is_a_number():
    market = eqx.tree_at(lambda m: m.fee_rate, a_market(), jnp.asarray(0.01))
    found = jax.jit(lambda: worst_market(worth, market, Ambiguity(), jax.random.key(0), n_steps=3))()
    assert np.isnan(float(found.value))
    assert np.isnan(float(found.gap))


def test_other_fill_curves_are_refused():
    curve = PowerLawIntensity(2.0, 0.05, 3.0)
    market = eqx.tree_at(lambda m: m.bid, a_market(), curve)
    with pytest.raises(ValueError, match="PowerLawIntensity fills, expected ExponentialIntensity"):
        Ambiguity().market(market, jnp.zeros(len(PARAMETERS)))
