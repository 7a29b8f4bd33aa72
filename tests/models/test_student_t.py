import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mfamm_jax.models import student_t

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads

FREEDOMS = [1.05, 2.0, 3.0, 5.0, 30.0, 100.0]


@pytest.mark.thorough
@pytest.mark.parametrize("freedom", FREEDOMS)
def test_density_survival_and_quantiles_are_scipys(freedom, precision):
    freedom = jnp.asarray(freedom)
    t = jnp.asarray([-30.0, -5.0, -1.0, -0.1, 0.0, 0.01, 0.5, 2.0, 10.0, 100.0])
    exact = float(freedom)
    assert_close(student_t.log_density(t, freedom), stats.t.logpdf(np.asarray(t, float), exact), 1e-12, 1e-5)
    # The incomplete beta function has about 6 digits in float32.
    expected = stats.t.logsf(np.asarray(t, float), exact)
    assert_close(student_t.log_survival(t, freedom), expected, 1e-12, 3e-5)
    p = jnp.asarray([1e-12, 1e-8, 1e-4, 0.01, 0.3, 0.49, 0.5, 0.7, 0.99, 0.9999])
    expected = stats.t.isf(np.asarray(p, float), exact)
    assert_close(student_t.survival_quantile(p, freedom), expected, 1e-11, 1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("freedom", [1.5, 4.0, 60.0])
def test_derivatives_are_those_of_finite_differences(freedom):
    """In the degrees of freedom too; 1e-6 is what central differences give."""

    @jax.jit
    def survival(t, freedom):
        return student_t.log_survival(jnp.asarray(t), jnp.asarray(freedom))

    @jax.jit
    def quantile(log_p, freedom):
        return student_t.survival_quantile(jnp.exp(jnp.asarray(log_p)), jnp.asarray(freedom))

    for t in (-3.0, -0.4, 0.7, 8.0):
        arguments = jnp.asarray(t), jnp.asarray(freedom)
        check_grads(survival, arguments, order=1, modes=["fwd", "rev"], rtol=1e-6, atol=1e-7)
    for p in (1e-5, 0.02, 0.4, 0.9):
        arguments = jnp.log(jnp.asarray(p)), jnp.asarray(freedom)
        check_grads(quantile, arguments, order=1, modes=["fwd", "rev"], rtol=1e-5, atol=1e-6)


@pytest.mark.thorough
def test_single_precision_has_four_digits_of_the_derivative():
    def slope(freedom):
        return jax.grad(student_t.survival_quantile, 1)(jnp.asarray(0.001), jnp.asarray(freedom))

    expected = slope(3.0)
    with jax.enable_x64(False):
        assert_close(slope(3.0), expected, float32=1e-3)


@pytest.mark.thorough
def test_samples_have_the_law_and_its_derivative():
    """Kolmogorov-Smirnov of 20,000; the derivative of a quantile is that of the sample's quantile within 5 standard errors."""
    key, n = jax.random.key(1), 20_000
    drawn = student_t.sample(key, jnp.asarray(3.0), n)
    assert stats.kstest(np.asarray(drawn), stats.t(3.0).cdf).pvalue > 0.001

    def mean_excess(freedom):
        return jnp.mean(jnp.minimum(jnp.abs(student_t.sample(key, freedom, n)), 5.0))

    def exact(freedom):
        p = (jnp.arange(4000) + 0.5) / 8000
        return jnp.mean(jnp.minimum(student_t.survival_quantile(p, freedom), 5.0))

    at = jnp.asarray(4.0)
    assert_close(jax.grad(mean_excess)(at), jax.grad(exact)(at), 0.003)


@pytest.mark.thorough
def test_jit_vmap_and_loop_agree():
    freedoms, p = jnp.asarray([1.5, 3.0, 40.0]), jnp.asarray([0.01, 0.6, 0.2])
    assert_jit_vmap_loop_agree(
        lambda nu, p: (student_t.survival_quantile(p, nu), student_t.log_survival(p, nu)), freedoms, p
    )
