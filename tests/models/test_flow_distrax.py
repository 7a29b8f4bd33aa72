import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models.flow_distrax import as_distrax, distrax, spline_as_distrax, spline_from_distrax
from mfamm_jax.models.spline import Spline, spline_forward, spline_inverse

from ..checks import assert_close
from .test_loss_flow import flow, shaken


@pytest.mark.thorough
def test_a_flow_is_a_distrax_distribution():
    law = flow()
    theirs, x = as_distrax(law), jnp.linspace(-8.0, 12.0, 101)
    assert_close(theirs.log_prob(x), law.log_density(x), 1e-12)
    drawn, log_prob = theirs.sample_and_log_prob(seed=jax.random.key(0), sample_shape=(1000,))
    assert_close(log_prob, law.log_density(drawn), 1e-7)
    assert abs(float(jnp.mean(drawn > law.survival_quantile(jnp.asarray(0.5)))) - 0.5) < 5 * 0.5 / np.sqrt(1000)
    # Chained with a bijector of distrax: twice the loss.
    double = distrax.Transformed(theirs, distrax.ScalarAffine(0.0, 2.0))
    assert_close(double.log_prob(2 * x), law.log_density(x) - jnp.log(2.0), 1e-9)


@pytest.mark.thorough
@pytest.mark.parametrize("n_bins", [2, 8, 16])
def test_splines_are_distraxs_both_ways(n_bins):
    layer = shaken(Spline(jnp.zeros(n_bins), jnp.zeros(n_bins), jnp.zeros(n_bins - 1), 3.0), 1.0)
    theirs, x = spline_as_distrax(layer), jnp.linspace(-4.0, 4.0, 201)
    for ours, other in (
        (spline_forward(x, layer.bins, 3.0), theirs.forward_and_log_det(x)),
        (spline_inverse(x, layer.bins, 3.0), theirs.inverse_and_log_det(x)),
    ):
        assert_close(ours[0], other[0], 1e-8)
        assert_close(ours[1], other[1], 1e-7)
    back = spline_from_distrax(theirs)
    assert_close(back.bins, layer.bins, 1e-8)


def test_splines_that_are_not_the_identity_outside_are_refused():
    numbers = jax.random.normal(jax.random.key(0), (25,))
    with pytest.raises(ValueError, match=r"maps \[-1, 2\].*expected one symmetric interval"):
        spline_from_distrax(distrax.RationalQuadraticSpline(numbers, -1.0, 2.0, boundary_slopes="identity"))
    with pytest.raises(ValueError, match="slopes 1"):
        spline_from_distrax(distrax.RationalQuadraticSpline(numbers, -2.0, 2.0))
