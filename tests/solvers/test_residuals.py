import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest, kstwo

from mfamm_jax.solvers.residuals import critical_value, goodness_of_fit, rescaled_residuals

from ..checks import assert_close, assert_jit_vmap_loop_agree


def arrivals(seed, n_rows=4000):
    """Rows of a rate that switches, cut on a fine grid: rate, exposure, arrival flag."""
    rng = np.random.default_rng(seed)
    rate = np.where(np.arange(n_rows) // 200 % 2, 4.0, 0.3)
    exposure = np.full(n_rows, 0.02)
    return rate, exposure, (rng.random(n_rows) < -np.expm1(-rate * exposure)).astype(float)


def test_integrals_between_arrivals_by_hand(precision):
    intensity, exposure = jnp.array([1.0, 2.0, 0.5, 3.0, 1.0]), jnp.array([1.0, 0.5, 2.0, 1.0, 7.0])
    residuals, n = rescaled_residuals(intensity, exposure, jnp.array([0, 1, 1, 1, 0]))
    assert_close(residuals, [2.0, 1.0, 3.0, 0.0, 0.0])
    assert n == 3


def test_distance_agrees_with_scipy(precision):
    rate, exposure, count = (jnp.asarray(x, float) for x in arrivals(0))
    residuals, n = rescaled_residuals(rate, exposure, count)
    fit = goodness_of_fit(rate, exposure, count)
    assert_close(fit.distance, kstest(np.asarray(residuals[:n], float), "expon").statistic)


def test_the_true_intensity_passes_and_a_constant_one_fails():
    rate, exposure, count = map(jnp.asarray, arrivals(1))
    good = goodness_of_fit(rate, exposure, count)
    assert good.distance < good.critical_value
    constant = jnp.full_like(rate, count.sum() / exposure.sum())
    bad = goodness_of_fit(constant, exposure, count)
    assert bad.distance > bad.critical_value


def test_quantile_points_of_exact_exponential_quantiles_lie_on_the_diagonal():
    exposure = -jnp.diff(jnp.log1p(-(jnp.arange(5) + 0.5) / 5), prepend=0.0)
    spells = jnp.cumsum(exposure)[::-1]
    fit = goodness_of_fit(jnp.ones(6), jnp.append(spells, 1.0), jnp.array([1, 1, 1, 1, 1, 0]))
    assert fit.n_residuals == 5
    assert_close(fit.empirical, fit.theoretical)
    assert_close(fit.distance, 0.1)


@pytest.mark.parametrize("n", [5, 20, 100, 1000])
def test_critical_value_is_the_exact_five_percent_point(n):
    assert_close(critical_value(n), kstwo.ppf(0.95, n), 3e-3, 3e-3)


def test_no_arrivals_are_no_evidence_of_fit():
    fit = goodness_of_fit(jnp.ones(3), jnp.ones(3), jnp.zeros(3))
    assert fit.distance == 1
    assert fit.n_residuals == 0
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(fit))


def test_jit_vmap_and_loop_agree(precision):
    rows = [jnp.asarray(np.stack(x), float) for x in zip(arrivals(2, 100), arrivals(3, 100))]
    assert_jit_vmap_loop_agree(jax.jit(goodness_of_fit), *rows)
