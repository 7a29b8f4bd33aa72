import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from scipy.stats import false_discovery_control
from statsmodels.stats.multitest import multipletests

from mfamm_jax.models.cointegration import (
    adjusted_p_values,
    cointegrate,
    common_vector,
    generalised_eigenvalues,
    increment_covariance,
    log_slope,
    p_values,
    projector,
    scale_covariance,
    scaled_weights,
)

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads


def spd(seed, *shape):
    half = np.random.default_rng(seed).standard_normal((*shape, shape[-1]))
    return jnp.asarray(half @ np.swapaxes(half, -1, -2) + 0.3 * np.eye(shape[-1]))


def test_eigenpairs_are_lapacks():
    matrix, metric = spd(0, 3, 4), spd(1, 4)
    found = cointegrate(matrix, metric, rank=4)
    for k in range(3):
        values, vectors = scipy.linalg.eigh(np.asarray(matrix[k]), np.asarray(metric))
        assert_close(found.eigenvalues[k], values, 1e-12)
        assert_close(scaled_weights(found.weights[k]), scaled_weights(jnp.asarray(vectors.T)), 1e-9)
        gram = found.weights[k] @ metric @ found.weights[k].T
        assert_close(gram, np.eye(4), 1e-10)


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_brownian_motion_and_reversion_have_the_weights_of_theory(precision):
    """X1 Brownian, X2 = 2 X1 + OU: (-2, 1) at every scale, whatever the energies."""
    with jax.enable_x64(precision == "float64"):
        walk, reverting = jnp.array([0.67, 10.7, 170.0]), jnp.array([0.16, 1.3, 1.5])
        ones = jnp.array([[1.0, 2.0], [2.0, 4.0]])
        matrix = walk[:, None, None] * ones + reverting[:, None, None] * jnp.array([[0.0, 0.0], [0.0, 1.0]])
        metric = ones + jnp.array([[0.0, 0.0], [0.0, 0.25]])
        found = cointegrate(matrix, metric)
        assert_close(scaled_weights(found.weights[:, 0], unit=1)[:, 0], -2 * np.ones(3), 1e-9, 2e-4)
        together = common_vector(matrix, metric)
        assert_close(scaled_weights(together.weights[0], unit=1), np.array([-2.0, 1.0]), 1e-9, 2e-4)
        # With the identity instead of N the weights are biased, as the specification measured at a = 1: -2.095.
        biased = cointegrate(matrix[:1], jnp.eye(2))
        assert float(scaled_weights(biased.weights[0, 0], unit=1)[0]) < -2.05


def test_no_choice_of_units_changes_the_eigenvalues():
    matrix, metric, mix = spd(2, 2, 3), spd(3, 3), np.random.default_rng(4).standard_normal((3, 3))
    moved = cointegrate(mix @ matrix @ mix.T, jnp.asarray(mix @ metric @ mix.T))
    still = cointegrate(matrix, metric)
    assert_close(moved.eigenvalues, still.eigenvalues, 1e-9)
    assert_close(scaled_weights(moved.weights[:, 0] @ mix), scaled_weights(still.weights[:, 0]), 1e-8)


def test_without_normalisation_zero_weights_satisfy_the_printed_equation():
    """(14) as printed: the sum is below any epsilon at beta = 0, so the constraint is not optional."""
    matrix = spd(5, 3)
    assert float(jnp.zeros(3) @ matrix @ jnp.zeros(3)) == 0
    found = cointegrate(matrix, spd(6, 3))
    assert_close(found.weights[0] @ spd(6, 3) @ found.weights[0], 1.0)
    assert_close(found.weights[0] @ matrix @ found.weights[0], found.eigenvalues[0])


def test_gradients_of_eigenvalues_and_projector():
    matrix, metric = spd(7, 4), spd(8, 4)

    def values(g, n):
        return generalised_eigenvalues(jnp.asarray(g + g.T), jnp.asarray(n + n.T))

    check_grads(values, (matrix, metric), order=1, modes=["fwd", "rev"])
    for rank in (1, 2, 3):
        check_grads(
            lambda g, n, r=rank: projector(jnp.asarray(g + g.T), jnp.asarray(n + n.T), r),
            (matrix, metric),
            order=1,
            modes=["fwd", "rev"],
        )


def test_equal_eigenvalues_do_not_blow_up():
    matrix, metric = jnp.diag(jnp.array([1.0, 1.0, 3.0])), jnp.eye(3)
    slope = jax.grad(lambda g: jnp.sum(generalised_eigenvalues(g, metric)[:2]))(matrix)
    assert_close(slope, np.diag([1.0, 1.0, 0.0]))
    jacobian = jax.jacfwd(lambda g: projector(g, metric, 2))(matrix)
    assert np.isfinite(jacobian).all()
    p = projector(matrix, metric, 2)
    assert_close(p @ p, p)
    assert_close(jnp.trace(p), 2.0)


def test_jit_vmap_and_loop_agree():
    def values(matrix):
        return cointegrate(matrix, spd(9, 3)).eigenvalues

    assert_jit_vmap_loop_agree(values, spd(10, 5, 3))


def test_covariances_by_hand():
    rng = np.random.default_rng(0)
    levels = np.cumsum(rng.standard_normal((50, 3)), axis=0)
    expected = np.cov(np.diff(levels, axis=0).T, bias=True) / 0.25
    assert_close(increment_covariance(jnp.asarray(levels), 0.25), expected)
    w = rng.standard_normal((2, 3, 20)) + 1j * rng.standard_normal((2, 3, 20))
    known = rng.random((2, 20)) < 0.7
    found = scale_covariance(jnp.asarray(w), jnp.asarray(known))
    for k in range(2):
        rows = [np.real(np.outer(w[k, :, b], np.conj(w[k, :, b]))) for b in range(20) if known[k, b]]
        assert_close(found[k], np.mean(rows, axis=0))


def test_the_slope_of_a_power_is_its_exponent():
    scales = jnp.array([2.0, 4.0, 8.0, 16.0])
    assert_close(log_slope(3 * scales**1.4, scales), 1.4)
    assert_close(log_slope(jnp.stack([scales**2, scales**0]), scales), np.array([2.0, 0.0]))


def test_p_values_count_the_sample_itself():
    null = jnp.asarray(np.linspace(0.1, 1.0, 10))[:, None]
    assert_close(p_values(jnp.array([0.05]), null), np.array([1 / 11]))
    assert_close(p_values(jnp.array([0.1]), null), np.array([2 / 11]))
    assert_close(p_values(jnp.array([2.0]), null), np.array([1.0]))


@pytest.mark.parametrize("seed", range(3))
def test_adjusted_p_values_are_statsmodels_and_scipys(seed):
    p = np.random.default_rng(seed).random(20) ** 3
    p[3] = p[7]  # ties
    assert_close(adjusted_p_values(jnp.asarray(p), "holm"), multipletests(p, method="holm")[1])
    assert_close(adjusted_p_values(jnp.asarray(p), "benjamini_hochberg"), false_discovery_control(p))
    with pytest.raises(ValueError, match="holm"):
        adjusted_p_values(jnp.asarray(p), "bonferoni")


def test_normal_steps_have_unit_increments():
    walks = jnp.cumsum(jax.random.normal(jax.random.key(0), (20_000, 2)), axis=0)
    # Standard errors of a variance are sqrt(2/n) = 0.01.
    assert_close(increment_covariance(walks), np.eye(2), 0.05)


def test_what_cannot_be_whitened_is_said():
    good = spd(11, 3)
    flat = jnp.zeros((3, 3)).at[0, 0].set(1.0)
    with pytest.raises(ValueError, match="increment covariance is singular"):
        cointegrate(good, flat)
    copied = jnp.asarray(np.cov(np.random.default_rng(0).standard_normal((2, 50))[[0, 1, 1]]))
    with pytest.raises(ValueError, match="leave it out"):
        cointegrate(good, copied)
    with pytest.raises(ValueError, match="not finite"):
        cointegrate(good.at[0, 0].set(jnp.nan), good)
    with pytest.raises(ValueError, match="rank is 4, expected 1 to 3"):
        cointegrate(good, good, rank=4)
    with pytest.raises(ValueError, match=r"expected \(\.\.\., n, n\)"):
        cointegrate(good[:2, :2], good)
