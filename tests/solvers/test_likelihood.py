import jax
import jax.numpy as jnp
import numpy as np
import pytest
import statsmodels.api as sm

from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.likelihood import fit_poisson, log_likelihood

from ..checks import assert_close, assert_jit_vmap_loop_agree

BETA = np.array([-1.0, 0.8, -0.5])


def simulated(seed, n_rows=400):
    """Rows with a known intensity: design, count, exposure."""
    rng = np.random.default_rng(seed)
    design = np.column_stack([np.ones(n_rows), rng.normal(size=n_rows), rng.uniform(0, 2, n_rows)])
    exposure = rng.exponential(1.0, n_rows)
    return design, rng.poisson(exposure * np.exp(design @ BETA)).astype(float), exposure


def device(*arrays):
    return tuple(jnp.asarray(array, float) for array in arrays)


fit = jax.jit(fit_poisson, static_argnames=("n_iterations", "n_clusters"))


@pytest.mark.thorough
def test_eight_rows_against_published_digits(precision):
    covariates = [[0.4, 0.3], [0.5, 0.8], [0.7, 0.1], [0.2, 1.2], [0.9, 0.6], [0.1, 0.4], [0.6, 0.2], [0.3, 1.0]]
    design = np.column_stack([np.ones(8), covariates])
    solution = fit(*device(design, [2, 0, 3, 1, 0, 1, 2, 1], [1.5, 0.7, 2.0, 3.0, 1.0, 0.5, 1.2, 2.5]))
    assert solution.result == RESULTS.successful
    assert_close(solution.value.coefficients, [2.0730755595, -2.1550940307, -2.5055645755], float64=1e-9)
    assert_close(solution.value.standard_errors, [1.2094205736, 1.8040941565, 1.140899383], 1e-7, 1e-3)
    assert_close(solution.value.log_likelihood, -9.169888194, float64=1e-9)


@pytest.mark.thorough
def test_agrees_with_statsmodels_in_value_and_both_errors(precision):
    design, count, exposure = simulated(0)
    cluster = np.arange(400) // 20
    model = sm.GLM(count, design, family=sm.families.Poisson(), exposure=exposure)
    plain = model.fit(tol=1e-14)
    clustered = model.fit(tol=1e-14, cov_type="cluster", cov_kwds={"groups": cluster, "use_correction": False})
    solution = fit(*device(design, count, exposure), cluster=jnp.asarray(cluster), n_clusters=20)
    assert_close(solution.value.coefficients, plain.params, float64=1e-9)
    assert_close(solution.value.standard_errors, plain.bse, 1e-7, 1e-3)
    assert_close(solution.value.covariance, plain.cov_params(), 1e-7, 1e-3)
    assert_close(solution.value.clustered_standard_errors, clustered.bse * np.sqrt(20 / 19), 1e-7, 1e-3)


def test_a_wide_range_of_covariate_scales_does_no_harm(precision):
    design, count, exposure = simulated(1)
    scale = np.array([1.0, 1e4, 1e-4])
    expected = sm.GLM(count, design, family=sm.families.Poisson(), exposure=exposure).fit(tol=1e-14)
    got = fit(*device(design * scale, count, exposure)).value
    assert_close(got.coefficients * scale, expected.params, float64=1e-9)
    assert_close(got.standard_errors * scale, expected.bse, 1e-7, 1e-3)


def test_true_coefficients_lie_within_three_errors():
    solution = fit(*device(*simulated(2, n_rows=5000)))
    assert np.all(np.abs(solution.value.coefficients - BETA) < 3 * solution.value.standard_errors)
    assert np.all(solution.value.standard_errors < 0.06)


def test_an_offset_is_a_known_part_of_the_intensity():
    design, count, exposure = device(*simulated(3))
    whole = fit(design, count, exposure).value
    part = fit(design[:, :2], count, exposure, offset=design[:, 2] * whole.coefficients[2]).value
    assert_close(part.coefficients, whole.coefficients[:2])
    assert_close(part.log_likelihood, whole.log_likelihood)


@pytest.mark.thorough
def test_cutting_rows_in_two_changes_nothing():
    design, count, exposure = simulated(4)
    cluster = np.arange(400) // 25
    share = np.random.default_rng(0).uniform(0, 1, 400)
    cut_exposure = np.concatenate([exposure * share, exposure * (1 - share)])
    cut = device(np.concatenate([design, design]), np.concatenate([0 * count, count]), cut_exposure)
    whole = fit(*device(design, count, exposure), cluster=jnp.asarray(cluster), n_clusters=16).value
    parts = fit(*cut, cluster=jnp.asarray(np.tile(cluster, 2)), n_clusters=16).value
    for a, b in zip(jax.tree.leaves(parts), jax.tree.leaves(whole)):
        assert_close(a, b)


@pytest.mark.thorough
def test_rows_without_exposure_and_events_are_ignored():
    design, count, exposure = device(*simulated(5))
    padded = (
        jnp.concatenate([design, jnp.full((3, 3), jnp.nan)]),
        jnp.concatenate([count, jnp.zeros(3)]),
        jnp.concatenate([exposure, jnp.zeros(3)]),
    )
    cluster = jnp.concatenate([jnp.arange(400) % 8, jnp.full(3, 99)])
    expected = fit(design, count, exposure, cluster=cluster[:400], n_clusters=8).value
    got = fit(*padded, cluster=cluster, n_clusters=8).value
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        assert_close(a, b)
    gradient = jax.grad(lambda e: fit(padded[0], padded[1], e).value.coefficients.sum())(padded[2])
    assert jnp.all(jnp.isfinite(gradient))


def test_an_event_at_the_time_of_the_one_before_still_counts():
    # Two events in 4 s, the second in a row of no length: the rate is 2/4.
    solution = fit(jnp.ones((2, 1)), jnp.ones(2), jnp.array([4.0, 0.0]))
    assert_close(solution.value.coefficients, [np.log(0.5)])


@pytest.mark.thorough
def test_a_covariate_without_events_is_reported(precision):
    design, count, exposure = simulated(6, 60)
    rare = (np.arange(60) < 6).astype(float)
    arrays = device(np.column_stack([design, rare]), np.where(rare > 0, 0.0, count), exposure)
    assert fit(*arrays).result == RESULTS.not_converged
    ridged = fit(*arrays, ridge=1e-4)
    assert ridged.result == RESULTS.successful
    assert jnp.all(jnp.isfinite(ridged.value.standard_errors))


def test_collinear_covariates_are_reported(precision):
    design, count, exposure = simulated(7)
    arrays = device(np.column_stack([design, design[:, 1] - 2 * design[:, 2]]), count, exposure)
    assert fit(*arrays).result == RESULTS.not_converged
    assert fit(*device(np.column_stack([design, 0 * count]), count, exposure)).result == RESULTS.not_converged


def test_no_events_or_too_few_iterations_are_reported():
    design, count, exposure = device(*simulated(8))
    assert fit(design, 0 * count, exposure).result == RESULTS.not_converged
    assert fit(design, count, exposure, n_iterations=1).result == RESULTS.not_converged


def test_a_far_start_is_reached_by_halving_steps():
    # A few seconds at a huge rate: the full first Newton step from the mean rate overshoots by far.
    design, exposure = np.array([[1.0, 0.0], [1.0, 30.0]]), np.array([1000.0, 1.0])
    count = np.array([2.0, 50_000.0])
    expected = [np.log(0.002), (np.log(50_000.0) - np.log(0.002)) / 30]
    assert_close(fit(*device(design, count, exposure), n_iterations=60).value.coefficients, expected)


@pytest.mark.thorough
def test_ridge_is_that_of_the_original_coefficients():
    design, count, exposure = device(*simulated(9))
    found = fit(design, count, exposure, ridge=3.0).value.coefficients
    gradient = jax.grad(lambda b: log_likelihood(b, design, count, exposure) - 1.5 * jnp.sum(b**2))(found)
    assert_close(gradient, jnp.zeros(3), float64=1e-9)


@pytest.mark.thorough
def test_gradient_of_the_optimum_is_that_of_refitting():
    design, count, exposure = device(*simulated(10, 60))

    @jax.jit
    def outcome(shift):
        rows = fit_poisson(
            design + shift * jnp.sin(design), count, exposure * (1 + shift), ridge=0.1 + shift, offset=shift
        )
        return jnp.concatenate([rows.value.coefficients, rows.value.standard_errors])

    slope = (outcome(jnp.array(1e-5)) - outcome(jnp.array(-1e-5))) / 2e-5
    assert_close(jax.jacfwd(outcome)(jnp.array(0.0)), slope, 1e-7)
    assert_close(jax.jacrev(outcome)(jnp.array(0.0)), slope, 1e-7)


@pytest.mark.thorough
def test_jit_vmap_and_loop_agree(precision):
    batches = [np.stack(arrays) for arrays in zip(*(simulated(seed, 50) for seed in (11, 12)))]
    assert_jit_vmap_loop_agree(
        lambda *rows: fit(*rows).value.coefficients, *device(*batches), float64=1e-10, float32=1e-4
    )


def test_clusters_out_of_range_give_no_error_bars():
    design, count, exposure = device(*simulated(13, 50))
    value = fit(design, count, exposure, cluster=jnp.arange(50) % 6, n_clusters=5).value
    assert jnp.all(jnp.isnan(value.clustered_standard_errors))
    with pytest.raises(ValueError, match="belong together"):
        fit_poisson(design, count, exposure, cluster=jnp.arange(50))


def test_likelihood_of_a_constant_rate():
    # Three events in 6 s at 0.5 a second: 3 ln 0.5 - 3.
    value = log_likelihood(jnp.log(jnp.array([0.5])), jnp.ones((2, 1)), jnp.array([1, 2]), jnp.array([2.0, 4.0]))
    assert_close(value, 3 * np.log(0.5) - 3)
