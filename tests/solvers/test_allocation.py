import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from mfamm_jax.solvers.allocation import (
    allocation_reward,
    exposure_risk,
    jensen_shannon,
    mean_std_allocation,
    simplex_allocation,
)

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads


def _shares(seed, n=50, k=4):
    return jax.random.dirichlet(jax.random.key(seed), jnp.ones(k), (n,))


def _covariance(seed, k=4):
    root = jax.random.normal(jax.random.key(seed), (k, k))
    return root @ root.T / k + 0.1 * jnp.eye(k)


@pytest.mark.thorough
def test_divergence_is_bounded_symmetric_and_the_square_of_a_metric(precision):
    p, q, r = (_shares(seed) for seed in (1, 2, 3))
    apart = jensen_shannon(p, q)
    assert_close(apart, jensen_shannon(q, p), 1e-14, 1e-6)
    assert bool(jnp.all((apart > 0) & (apart < np.log(2))))
    assert_close(jensen_shannon(p, p), np.zeros(50), 1e-15, 1e-6)
    sides = jnp.asarray([1.0, 0.0, 0.0]), jnp.asarray([0.0, 0.5, 0.5])
    assert_close(jensen_shannon(*sides), np.log(2), 1e-14, 1e-6)
    root = [jnp.sqrt(jensen_shannon(*pair)) for pair in ((p, q), (p, r), (r, q))]
    assert bool(jnp.all(root[0] <= root[1] + root[2] + 1e-6))


@pytest.mark.thorough
def test_derivatives_of_the_divergence_are_finite_at_its_corners():
    p, q = jnp.asarray([0.5, 0.5, 0.0]), jnp.asarray([0.2, 0.8, 0.0])
    slopes = jax.grad(jensen_shannon, (0, 1))(p, q)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in slopes)
    with jax.enable_x64(False):
        for small in (1e-40, 1e-20):
            tiny = jnp.asarray([1.0, small], jnp.float32), jnp.asarray([1.0, 3 * small], jnp.float32)
            assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.grad(jensen_shannon, (0, 1))(*tiny))
    # Where the shares stay, the divergence is flat along the simplex.
    slope = jax.grad(jensen_shannon)(q, q)
    assert_close(slope[0] - slope[1], 0.0, 1e-14)
    inside, other = (0.1 + 0.6 * _shares(seed, 3) for seed in (4, 5))
    check_grads(jax.jit(jensen_shannon), (inside, other), order=1, modes=["fwd", "rev"], rtol=1e-6, atol=1e-7)


def test_trace_risk_ignores_what_portfolio_risk_sees():
    """Two opposite exposures hedge each other; the trace adds their variances."""
    covariance = _covariance(6, 3)
    exposures = jnp.asarray([[1.0, 0.5, 0.0], [-1.0, -0.5, 0.0]])
    assert_close(exposure_risk(exposures, covariance, "portfolio"), 0.0)
    one = exposure_risk(exposures[:1], covariance, "trace")
    assert_close(exposure_risk(exposures, covariance, "trace"), np.sqrt(2) * one, 1e-12)
    assert_close(exposure_risk(exposures[:1], covariance, "portfolio"), one, 1e-12)
    slope = jax.grad(exposure_risk)(exposures * 0, covariance, "portfolio", 1e-3)
    assert_close(slope, np.zeros((2, 3)))


def test_moving_capital_earns_with_a_positive_weight_and_costs_with_a_negative_one():
    shares, last = jnp.asarray([0.7, 0.3]), jnp.asarray([0.2, 0.8])
    given = (shares, last, jnp.asarray([1.0, -1.0]), jnp.eye(2), jnp.eye(2))
    still = allocation_reward(*given, risk_weight=0.1)
    assert_close(still, 0.4 - 0.1 * np.sqrt(0.7**2 + 0.3**2), 1e-14)
    apart = jensen_shannon(shares, last)
    assert_close(allocation_reward(*given, risk_weight=0.1, divergence_weight=2.0), still + 2 * apart, 1e-14)
    assert_close(allocation_reward(*given, risk_weight=0.1, divergence_weight=-2.0), still - 2 * apart, 1e-14)


def test_shares_that_do_not_sum_to_one_are_refused():
    given = (jnp.asarray([0.5, 0.5]), jnp.ones(2), jnp.eye(2), jnp.eye(2))
    for shares, text in ([0.5, 0.6], "sum to 1.1"), ([1.5, -0.5], "least -0.5"), ([jnp.nan, 1.0], "sum to nan"):
        with pytest.raises(ValueError, match=text):
            allocation_reward(jnp.asarray(shares), *given, risk_weight=0.1)


def test_mean_std_weights_are_stationary_and_the_multiplier_is_the_maximum():
    expected, covariance = jnp.asarray([0.05, 0.02, -0.01, 0.03]), 0.04 * _covariance(7)

    def value(w):
        return w @ expected - 2.0 * jnp.sqrt(w @ covariance @ w)

    weights, best = mean_std_allocation(expected, covariance, 2.0)
    assert_close(value(weights), best, 1e-12)
    slope = jax.grad(value)(weights)
    assert_close(slope, np.full(4, float(best)), 1e-10)
    tried = minimize(
        lambda w: -float(value(jnp.asarray(w))),
        np.full(4, 0.25),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    assert_close(weights, tried.x, 1e-4)
    # Too little risk aversion for a maximum: NaN, not numbers.
    assert bool(jnp.isnan(mean_std_allocation(expected, covariance, 1e-3)[1]))


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(6))
def test_simplex_allocation_is_slsqps(seed, precision):
    """To 1e-6 of the spread of the expected returns in value, 1e-4 in float32."""
    key = jax.random.key(seed)
    expected = 0.1 * jax.random.normal(key, (5,))
    covariance = 0.01 * _covariance(seed, 5)
    risk_weight = [0.0, 0.3, 1.0, 3.0, 0.1, 0.6][seed]
    wide = np.asarray(expected, float), np.asarray(covariance, float)

    def loss(p):
        return -(p @ wide[0] - risk_weight * np.sqrt(p @ wide[1] @ p))

    tried = min(
        minimize(
            loss,
            start,
            bounds=[(0, 1)] * 5,
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        ).fun
        for start in (np.full(5, 0.2), 0.05 + 0.75 * np.eye(5)[np.argmax(wide[0])])
    )
    shares = np.asarray(simplex_allocation(expected, covariance, risk_weight), float)
    assert abs(shares.sum() - 1) < 1e-5
    assert (shares >= 0).all()
    tolerance = 1e-6 if precision == "float64" else 1e-4
    assert loss(shares) <= tried + tolerance * np.ptp(wide[0])


@pytest.mark.thorough
def test_score_function_estimates_the_bandits_gradient():
    """Likelihood ratios with a baseline, within 4 standard errors of the closed form; the baseline only takes noise away."""
    rewards, logits = jnp.asarray([1.0, 0.2, -0.5]), jnp.asarray([0.1, 0.4, -0.2])
    exact = jax.grad(lambda x: jax.nn.softmax(x) @ rewards)(logits)
    drawn = jax.random.categorical(jax.random.key(1), logits, shape=(200_000,))
    noise = jax.random.normal(jax.random.key(2), drawn.shape)

    def estimates(baseline):
        score = jax.nn.one_hot(drawn, 3) - jax.nn.softmax(logits)
        return (rewards[drawn] + noise - baseline)[:, None] * score

    spread = []
    for baseline in (0.0, jax.nn.softmax(logits) @ rewards):
        each = estimates(baseline)
        error = jnp.std(each, axis=0) / np.sqrt(len(each))
        assert bool(jnp.all(jnp.abs(jnp.mean(each, axis=0) - exact) < 4 * error))
        spread.append(float(jnp.sum(jnp.var(each, axis=0))))
    assert spread[1] < spread[0]


@pytest.mark.thorough
def test_both_estimators_give_the_mean_deviation_gradient():
    """Near the closed-form optimum, from drawn P&L, within 4 standard errors: through the weights, and by noise on them alone.

    Noise of 0.02 smooths the objective; by how much is 2e-4 of its curvature, far below the errors.
    """
    expected, covariance, n, noise = jnp.asarray([0.05, 0.02, 0.03]), 0.04 * _covariance(9, 3), 100_000, 0.02
    weights, best = mean_std_allocation(expected, covariance, 2.0)
    weights = weights + jnp.asarray([0.2, -0.1, 0.1])
    pnl = expected + jax.random.normal(jax.random.key(1), (n, 3)) @ jnp.linalg.cholesky(covariance).T

    def reward(w, x):
        return w @ x - 2.0 * jnp.sqrt(w @ covariance @ w)

    exact = jax.grad(reward)(weights, expected)
    shifts = jax.random.normal(jax.random.key(2), (n, 3))
    # The reward without noise on the same P&L is the baseline.
    gained = jax.vmap(lambda z, x: reward(weights + noise * z, x) - reward(weights, x))(shifts, pnl)
    estimates = {
        "pathwise": jax.vmap(jax.grad(reward), (None, 0))(weights, pnl),
        "score": gained[:, None] * shifts / noise,
    }
    for name, each in estimates.items():
        error = jnp.std(each, axis=0) / np.sqrt(n)
        assert bool(jnp.all(jnp.abs(jnp.mean(each, axis=0) - exact) < 4 * error)), name
    # At the optimum itself every component is the multiplier.
    at_best = jax.grad(reward)(mean_std_allocation(expected, covariance, 2.0)[0], expected)
    assert_close(at_best, np.full(3, float(best)), 1e-10)


@pytest.mark.thorough
def test_jit_vmap_and_loop_agree():
    expected = 0.1 * jax.random.normal(jax.random.key(1), (4, 3))
    covariance = jnp.stack([0.01 * _covariance(seed, 3) for seed in range(4)])
    weight = jnp.asarray([0.1, 0.5, 1.0, 3.0])
    assert_jit_vmap_loop_agree(simplex_allocation, expected, covariance, weight)
    assert_jit_vmap_loop_agree(mean_std_allocation, expected, covariance, 10 * weight)
