import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mfamm_jax.risk.drawdown import (
    barrier_probability,
    barrier_scale,
    bridge_breach,
    bridge_drawdown_breach,
    clopper_pearson,
    expected_max_drawdown,
    max_drawdown,
    max_drawdown_probability,
    mean_upper_bound,
    square_root_barrier,
)

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads

STEPS = 250


def walks(n, steps=STEPS, seed=0, drift=0.0):
    """Brownian paths over a unit of time, from 0."""
    moves = jax.random.normal(jax.random.key(seed), (n, steps)) / np.sqrt(steps) + drift / steps
    return jnp.concatenate([jnp.zeros((n, 1)), jnp.cumsum(moves, axis=1)], axis=1)


@pytest.mark.thorough
@pytest.mark.parametrize("drift", [0.0, 0.5])
def test_bridges_have_no_bias_where_counting_has(drift):
    """200,000 paths of 250 steps, barrier 2; 4 standard errors. The counted share is off by 20."""
    exact = float(barrier_probability(drift, 1.0, 2.0, 1.0))

    @jax.jit
    def estimate(seed):
        path = walks(20_000, seed=seed, drift=drift)
        breach = bridge_breach(path, jnp.asarray(np.full(STEPS, 1 / STEPS)), 2.0)
        return breach, jnp.min(path, axis=1) < -2.0

    found = [estimate(seed) for seed in range(10)]
    breach, counted = (np.concatenate([np.asarray(f[i], float) for f in found]) for i in (0, 1))
    assert abs(breach.mean() - exact) < 4 * breach.std() / np.sqrt(breach.size)
    assert abs(counted.mean() - exact) > 4 * counted.std() / np.sqrt(counted.size)
    if drift == 0:  # Broadie, Glasserman & Kou: counting sees a barrier that is 0.5826 steps further
        shifted = float(barrier_probability(0.0, 1.0, 2.0 + 0.5826 / np.sqrt(STEPS), 1.0))
        assert abs(counted.mean() - shifted) < 4 * counted.std() / np.sqrt(counted.size)


@pytest.mark.thorough
def test_drawdowns_between_steps_count_too():
    """Threshold 1.5: the closed form within 4 standard errors, counting is far off."""
    exact = float(max_drawdown_probability(1.0, 1.0, jnp.asarray(1.5)))

    @jax.jit
    def estimate(seed):
        path = walks(20_000, seed=seed)
        breach = bridge_drawdown_breach(path, jnp.asarray(np.full(STEPS, 1 / STEPS)), 1.5, jax.random.key(100 + seed))
        return breach, max_drawdown(path[:, 1:]) > 1.5

    found = [estimate(seed) for seed in range(5)]
    breach, counted = (np.concatenate([np.asarray(f[i], float) for f in found]) for i in (0, 1))
    assert abs(breach.mean() - exact) < 4 * breach.std() / np.sqrt(breach.size)
    assert abs(counted.mean() - exact) > 10 * counted.std() / np.sqrt(counted.size)


def test_both_series_of_the_drawdown_agree_where_they_meet():
    around = max_drawdown_probability(2.0, 3.0, 1.5 * 2 * np.sqrt(3) * jnp.asarray([1 - 1e-9, 1 + 1e-9]))
    assert_close(around[0], around[1], 1e-8)
    thresholds = jnp.linspace(1e-3, 30.0, 4000)
    # The mean is the integral of the survival.
    mean = jnp.trapezoid(max_drawdown_probability(1.0, 1.0, thresholds), thresholds) + 1e-3
    assert_close(mean, expected_max_drawdown(1.0, 1.0), 1e-5)


@pytest.mark.thorough
def test_derivatives_of_the_breach_are_those_of_finite_differences():
    path, variances = walks(1, 20)[0] * 0.5, jnp.full(20, 0.02)
    check_grads(
        lambda *x: bridge_breach(*map(jnp.asarray, x)),
        (path, variances, jnp.asarray(1.0)),
        order=1,
        rtol=1e-6,
        atol=1e-8,
    )
    check_grads(
        lambda *x: barrier_probability(*map(jnp.asarray, x)),
        tuple(jnp.asarray(x) for x in (0.2, 1.1, 2.0, 0.7)),
        order=2,
        rtol=1e-5,
    )
    key = jax.random.key(0)
    check_grads(
        lambda path: bridge_drawdown_breach(jnp.asarray(path), variances, 0.8, key),
        (path,),
        order=1,
        rtol=1e-5,
        atol=1e-7,
    )


def test_gradients_stay_finite_where_a_path_has_crossed_or_does_not_move():
    path = jnp.asarray([0.0, -2.0, 0.5, 0.5])
    variances = jnp.asarray([0.1, 0.1, 0.0])
    value, slopes = jax.value_and_grad(bridge_breach, (0, 1))(path, variances, 1.0)
    assert float(value) == 1
    assert all(np.isfinite(np.asarray(s)).all() for s in slopes)
    still = jax.value_and_grad(bridge_breach, (0, 1))(path.at[1].set(0.2), variances, 1.0)
    assert 0 < float(still[0]) < 1
    assert all(np.isfinite(np.asarray(s)).all() for s in still[1])


@pytest.mark.thorough
def test_jit_vmap_and_loop_agree(precision):
    paths, variances = 0.5 * walks(4, 30), jnp.full((4, 30), 0.01)
    assert_jit_vmap_loop_agree(lambda p, v: bridge_breach(p, v, 0.8), paths, variances)
    assert_close(
        bridge_breach(paths, variances, 0.8), jax.vmap(lambda p, v: bridge_breach(p, v, 0.8))(paths, variances)
    )


@pytest.mark.thorough
def test_a_barrier_of_the_past_volatility_is_crossed_at_once_and_warns():
    """(19) with VaR_t ~ sqrt(t): the same strategy breaches the more often the finer time is cut."""
    shares = []
    for steps in (10, 1000):
        times = jnp.arange(1, steps + 1) / steps
        with pytest.warns(UserWarning, match="crossed almost surely"):
            barrier = square_root_barrier(times, 1.0, 2.326)
        shares.append(float(jnp.mean(jnp.any(walks(4000, steps)[:, 1:] < -barrier, axis=1))))
    assert abs(shares[0] - 0.044) < 0.015
    assert abs(shares[1] - 0.144) < 0.03


@pytest.mark.thorough
@pytest.mark.parametrize(("hits", "n"), [(0, 3000), (1, 100), (17, 40), (40, 40), (5, 100_000)])
def test_bounds_are_quantiles_of_beta_laws(hits, n, precision):
    bounds = clopper_pearson(hits, n)
    low, high = (
        (0.0 if hits == 0 else stats.beta.ppf(0.025, hits, n - hits + 1)),
        stats.beta.ppf(0.975, hits + 1, n - hits),
    )
    upper = 1.0 if hits == n else stats.beta.ppf(0.95, hits + 1, n - hits)
    assert_close(bounds.low, low, 1e-10, 1e-4)
    assert_close(bounds.high, 1.0 if hits == n else high, 1e-10, 1e-4)
    assert_close(bounds.upper, upper, 1e-10, 1e-4)
    if hits == 0:
        assert_close(bounds.upper, 3 / n, 1e-5, 1e-4)  # the rule of three


@pytest.mark.thorough
def test_bounds_hold_as_often_as_they_say():
    hits = jax.random.binomial(jax.random.key(0), 200.0, 0.03, (4000,)).astype(int)
    upper = clopper_pearson(hits, 200).upper
    assert float(jnp.mean(upper >= 0.03)) >= 0.95 - 5 * np.sqrt(0.95 * 0.05 / 4000)


def test_bounds_of_means_of_probabilities_never_claim_certainty():
    assert_close(mean_upper_bound(jnp.zeros(1000)), 0.003, 1e-12)
    values = jnp.concatenate([jnp.zeros(500), jnp.ones(500)])
    assert_close(mean_upper_bound(values), 0.5 + 1.645 * 0.5 / np.sqrt(1000), 1e-9)


@pytest.mark.parametrize("breach", [0.01, 0.05, 0.4])
def test_the_scale_of_a_barrier_is_where_its_probability_is_the_admitted_one(breach):
    for volatility, height, horizon in ((1.0, 1.5, 4.0), (0.3, 0.2, 9.0)):
        scale = barrier_scale(volatility, height, horizon, breach)
        found = barrier_probability(0.0, jnp.maximum(scale, 1e-3) * volatility, height, horizon)
        if scale < 1:
            assert_close(found, breach)
        else:
            assert found <= breach
    assert barrier_scale(1.0, -0.1, 1.0, breach) == 0
    assert barrier_scale(1.0, 100.0, 1.0, breach) == 1
    assert barrier_scale(0.0, 1.0, 1.0, breach) == 1
    assert barrier_scale(0.0, 0.0, 1.0, breach) == 0
    check_grads(
        lambda *x: barrier_scale(*map(jnp.asarray, x), breach),
        tuple(map(jnp.asarray, (1.0, 0.3, 2.0))),
        order=1,
        modes=["fwd", "rev"],
    )
