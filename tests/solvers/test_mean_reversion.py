import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from scipy.optimize import minimize_scalar

from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.mean_reversion import LARGEST, Reversion, best_band, fit_reversion, gain_rate, scaled_erfi

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads


def spread(rate=2.0, deviation=1.5):
    return Reversion(*(jnp.asarray(x) for x in (0.0, rate, deviation, 0.1)))


def autoregression(slope, n, seed, mean=0.0):
    rng = np.random.default_rng(seed)
    x = np.zeros(n)
    x[0] = rng.standard_normal() / np.sqrt(1 - slope**2)
    for i in range(1, n):
        x[i] = slope * x[i - 1] + rng.standard_normal()
    return jnp.asarray(x + mean)


def test_parameters_of_a_long_sample():
    found = jax.jit(fit_reversion)(autoregression(0.9, 50_000, 0, mean=3.0), 0.5)
    assert found.result == RESULTS.successful
    value = found.value
    # Standard errors: rate 0.0096, deviation 1.5 %, mean 0.045.
    assert abs(value.rate + np.log(0.9) / 0.5) < 4 * value.rate_error
    assert abs(value.deviation / (1 / np.sqrt(1 - 0.81)) - 1) < 0.06
    assert abs(value.mean - 3) < 0.2
    assert_close(value.half_life, np.log(2) / value.rate)


def test_the_rate_of_short_samples_is_not_biased_and_its_error_is_honest():
    fit = jax.jit(fit_reversion)
    found = [fit(autoregression(0.9, 250, seed)) for seed in range(300)]
    good = [f.value for f in found if f.result == RESULTS.successful]
    slopes = np.array([f.stats["slope"] for f in found])
    assert abs(slopes.mean() - 0.9) < 4 * slopes.std() / np.sqrt(300) + 0.002
    errors = np.median([float(v.rate_error) for v in good])
    assert 0.7 < errors / np.std([float(v.rate) for v in good]) < 1.3


def test_a_random_walk_or_a_constant_does_not_revert():
    trend = jnp.asarray(np.linspace(0.0, 100.0, 200) ** 2)
    for residual in (trend, jnp.zeros(100), jnp.asarray((-1.0) ** np.arange(100))):
        found = fit_reversion(residual)
        assert found.result == RESULTS.not_converged
        assert np.isfinite(found.value.rate)


def test_scaled_erfi_is_scipys():
    x = np.linspace(-5, 5, 201)
    expected = scipy.special.erfi(x) * np.exp(-(x**2))
    assert_close(scaled_erfi(jnp.asarray(x)), expected, 1e-12)
    assert_close(scaled_erfi(jnp.asarray(x, jnp.float32)), expected, float32=1e-5)


@pytest.mark.parametrize("cost", [0.01, 0.3, 2.0])
def test_the_band_gains_most(cost):
    reversion = spread()
    band = best_band(reversion, cost)
    best = minimize_scalar(
        lambda a: -float(gain_rate(reversion, jnp.asarray(a), cost)),
        bounds=(cost / 2, 8.0),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert abs(float(band) - best.x) < 1e-5  # a maximum is flat: the search knows it to the root of its precision
    assert float(gain_rate(reversion, band, cost)) >= -best.fun - 1e-14


def test_gains_of_a_simulated_spread_are_those_of_the_formula():
    """Steps of 0.002 s see crossings late by 0.58 of a step's deviation (Broadie, Glasserman & Kou 1997)."""
    rate, deviation, cost, step = 2.0, 1.5, 0.5, 0.002
    band = float(best_band(spread(), cost))
    rng = np.random.default_rng(1)
    slope = np.exp(-rate * step)
    x, side, trades = np.zeros(400), np.ones(400), 0
    n_steps = 60_000
    for _ in range(n_steps):
        x = slope * x + deviation * np.sqrt(1 - slope**2) * rng.standard_normal(400)
        flips = side * x > band  # +1: bought below, sells above
        side = np.where(flips, -side, side)
        trades += flips.sum()
    per_time = trades / (400 * n_steps * step)
    late = 0.5826 * deviation * np.sqrt(2 * rate * step)
    expected = 1 / (np.pi / rate * scipy.special.erfi((band + late) / (np.sqrt(2) * deviation)))
    assert abs(per_time / expected - 1) < 0.02


def test_limits_and_scaling():
    assert float(best_band(spread(), 0.0)) < 1e-3
    assert_close(best_band(spread(), 1e3), LARGEST * 1.5)
    assert_close(best_band(spread(rate=20.0), 0.3), best_band(spread(), 0.3))  # time does not matter
    assert_close(best_band(spread(deviation=15.0), 3.0), 10 * best_band(spread(), 0.3))
    # Small costs: x^3 = 3 kappa/4.
    assert_close(best_band(spread(deviation=1 / np.sqrt(2)), 1e-6), (0.75e-6) ** (1 / 3), 1e-4)


@pytest.mark.thorough
def test_gradients_and_jit_vmap_loop():
    def band(cost, deviation):
        return best_band(spread(deviation=deviation), jnp.asarray(cost))

    costs, deviations = jnp.array([0.05, 0.4, 1.5]), jnp.array([0.5, 1.0, 2.0])
    assert_jit_vmap_loop_agree(band, costs, deviations)
    for cost, deviation in zip(costs, deviations):
        check_grads(band, (cost, deviation), order=1, modes=["fwd", "rev"])
    assert np.isfinite(jax.grad(band)(jnp.array(0.0), jnp.array(1.0)))
