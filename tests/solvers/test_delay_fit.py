import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models.delay_network import FreeDelayNetwork, HammersteinNetwork, causal_convolution
from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.delay_fit import choose_knots, explained_share, fit_free, fit_hammerstein, rank_one_fit

from ..checks import assert_close


def heavy_rates(n, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_t(4, n) * (rng.random(n) < 0.7))


def planted(n, decay=0.05, exponent=0.5, seed=0):
    """Concave impact with two time scales: rates, response without noise."""
    v, lags = heavy_rates(n, seed), jnp.arange(float(n))
    kernel = 0.6 * jnp.exp(-decay * lags) + 0.4 * jnp.exp(-10 * decay * lags)
    return v, causal_convolution(kernel, jnp.sign(v) * jnp.abs(v) ** exponent)


def noisy(clean, seed=1):
    return clean + jnp.std(clean) * jnp.asarray(np.random.default_rng(seed).standard_normal(len(clean)), clean.dtype)


@pytest.mark.thorough
def test_without_noise_kernel_and_curve_come_back_exactly_and_only_up_to_a_factor():
    v = heavy_rates(3000)
    knots = choose_knots(v, 3)
    true = HammersteinNetwork(
        knots, jnp.log(jnp.asarray([2.0, 1.0, 0.5, 0.1])), jnp.zeros(1), jnp.log(jnp.asarray([0.2]))
    )
    y = true.response(v)
    found = rank_one_fit(v, y, knots, 90)
    # What lies beyond 90 lags, e^-18, is all that is not explained.
    assert float(found.singular_values[1] / found.singular_values[0]) < 1e-7
    assert_close(found.kernel[:20], true.kernel(jnp.arange(20.0)), 1e-6)
    assert_close(found.slopes, jnp.exp(true.log_slopes), 1e-6)
    doubled = rank_one_fit(v, 2 * y, knots, 90)
    assert_close(doubled.kernel, found.kernel, 1e-9)
    assert_close(doubled.slopes, 2 * found.slopes, 1e-9)


def test_a_response_without_the_structure_is_not_of_rank_one():
    v = heavy_rates(3000)
    lags = jnp.arange(3000.0)
    fast, slow = causal_convolution(jnp.exp(-lags), v), causal_convolution(jnp.exp(-0.1 * lags), jnp.tanh(v))
    values = rank_one_fit(v, fast + slow, choose_knots(v, 3), 90).singular_values
    assert float(values[1] / values[0]) > 0.05


@pytest.mark.thorough
def test_the_search_finds_what_least_squares_finds():
    v = heavy_rates(4000)
    knots = choose_knots(v, 3)
    true = HammersteinNetwork(
        knots, jnp.log(jnp.asarray([2.0, 1.0, 0.5, 0.1])), jnp.asarray([0.0, 0.5]), jnp.log(jnp.asarray([0.03, 0.5]))
    )
    solution = fit_hammerstein(v, true.response(v), knots, n_terms=2, longest=50.0, max_iterations=1000)
    assert solution.result == RESULTS.successful
    assert float(solution.stats["explained"]) > 1 - 1e-8
    lags = jnp.arange(100.0)
    assert_close(solution.value.kernel(lags), true.kernel(lags), 1e-3)
    assert_close(jnp.exp(solution.value.log_slopes), jnp.exp(true.log_slopes), 1e-3)


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
def test_the_kernel_is_recovered_under_noise_as_large_as_the_signal(precision):
    with jax.enable_x64(precision == "float64"):
        v, clean = (x.astype(jnp.result_type(float)) for x in planted(50_000))
        solution = fit_hammerstein(v, noisy(clean), choose_knots(v, 8), n_terms=4)
        assert solution.result == RESULTS.successful
        found = solution.value
        assert float(explained_share(found.response(v), clean)) > 0.995
        other, unseen = (x.astype(v.dtype) for x in planted(20_000, seed=5))
        assert float(explained_share(found.response(other), unseen)) > 0.995
        assert abs(float(solution.stats["explained"]) - 0.5) < 0.02
        lags = jnp.asarray([0.0, 1, 3, 10, 30], v.dtype)
        true = 0.6 * jnp.exp(-0.05 * lags) + 0.4 * jnp.exp(-0.5 * lags)
        assert_close(found.kernel(lags), true, 0.03, 0.03)


@pytest.mark.slow
def test_noise_that_accumulates_is_fitted_on_changes():
    v, clean = planted(20_000)
    steps = jnp.diff(clean, prepend=0.0)
    walk = jnp.cumsum(jnp.asarray(np.random.default_rng(2).standard_normal(20_000))) * jnp.std(steps)
    found = fit_hammerstein(v, clean + walk, choose_knots(v, 6), n_terms=3, noise="random_walk").value
    assert float(explained_share(jnp.diff(found.response(v), prepend=0.0), steps)) > 0.99
    on_levels = fit_hammerstein(v, clean + walk, choose_knots(v, 6), n_terms=3).value
    assert float(explained_share(jnp.diff(on_levels.response(v), prepend=0.0), steps)) < 0.9


@pytest.mark.slow
def test_structure_beats_the_free_network():
    v, clean = planted(50_000, decay=0.2)
    y = noisy(clean)
    structured = fit_hammerstein(v, y, choose_knots(v, 8), n_terms=4).value.response(v)
    network = FreeDelayNetwork()
    free = fit_free(network, v, y, jax.random.key(0)).response(network, v)
    assert float(explained_share(structured, clean)) > 0.99
    assert 0.5 < float(explained_share(free, clean)) < float(explained_share(structured, clean))


@pytest.mark.thorough
def test_the_free_network_learns_a_short_memory():
    v, clean = planted(8000, decay=1.0)
    network = FreeDelayNetwork(n_lags=8, n_hidden=16)
    found = fit_free(network, 100 * v, 0.01 * clean, jax.random.key(0), n_steps=1500)
    assert float(explained_share(found.response(network, 100 * v), 0.01 * clean)) > 0.95
    again = fit_free(network, 100 * v, 0.01 * clean, jax.random.key(0), n_steps=1500)
    assert_close(found.losses, again.losses, 0.0)


def test_knots_split_the_trades_and_repeat_none():
    v = jnp.asarray([0.0, 0.0, 1.0, -1.0, 1.0, 2.0, 3.0, -4.0, 5.0])
    knots = np.asarray(choose_knots(v, 5))
    assert (np.diff(knots) > 0).all()
    assert knots[0] == 1.0
    assert len(choose_knots(jnp.ones(10), 4)) == 1


def test_what_cannot_be_fitted_is_said():
    v, clean = planted(200)
    knots = choose_knots(v, 2)
    for arguments, text in (
        ((v, clean.at[7].set(jnp.nan)), r"response\[7\] is not finite"),
        ((v, 0 * clean), "every value of response is 0"),
    ):
        with pytest.raises(ValueError, match=text):
            fit_hammerstein(*arguments, knots=knots)
    with pytest.raises(ValueError, match="every rate is 0"):
        choose_knots(0 * v, 3)
