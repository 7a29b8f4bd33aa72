import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.reach import arrival_rate, fit_reach, reach_intervals

from ..checks import assert_close, assert_jit_vmap_loop_agree

fit = jax.jit(fit_reach)


@pytest.mark.parametrize("decay", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("step", [0.5, 1.0])
def test_equal_steps_have_the_closed_form(precision, decay, step):
    lower = step * np.floor(np.random.default_rng(0).exponential(1 / decay, 500) / step)
    solution = fit(jnp.asarray(lower, float), jnp.asarray(lower + step, float))
    assert_close(solution.value.decay, np.log1p(step / lower.mean()) / step)
    assert solution.result == RESULTS.successful


def test_exact_distances_give_count_over_sum(precision):
    distance = jnp.array([0.5, 2.0, 1.5, 4.0])
    solution = fit(distance, distance)
    assert_close(solution.value.decay, 0.5)
    assert_close(solution.value.standard_error, 0.25)  # k / sqrt(n)
    assert_close(fit(distance, distance + 1e-6).value.decay, 0.5, 1e-6, 1e-5)


def test_censored_exact_distances_are_exposure():
    lower, upper = jnp.array([1.0, 3.0, 6.0]), jnp.array([1.0, 3.0, jnp.inf])
    assert_close(fit(lower, upper).value.decay, 2 / 10)


def mixed(seed, decay=0.4, n=300):
    """True distances seen through uneven levels, the deepest at 5."""
    rng = np.random.default_rng(seed)
    edges = np.array([0.0, 1.0, 1.5, 3.0, 5.0, np.inf])
    level = np.searchsorted(edges, rng.exponential(1 / decay, n), side="right") - 1
    return edges[level], edges[level + 1]


def test_uneven_intervals_agree_with_direct_maximisation():
    lower, upper = mixed(1)

    def negative(decay):
        return -np.sum(np.log(np.exp(-decay * lower) - np.exp(-decay * upper)))

    best = minimize_scalar(negative, bounds=(0.01, 3), method="bounded", options={"xatol": 1e-10}).x
    curvature = (negative(best + 1e-3) - 2 * negative(best) + negative(best - 1e-3)) / 1e-6
    value = fit(jnp.asarray(lower), jnp.asarray(upper)).value
    assert_close(value.decay, best, 1e-6)
    assert_close(value.standard_error, curvature**-0.5, 1e-5)


def test_errors_describe_the_scatter_of_estimates():
    batch = [jnp.asarray(np.stack(x)) for x in zip(*(mixed(seed) for seed in range(200)))]
    value = jax.jit(jax.vmap(fit_reach))(*batch).value
    z = (value.decay - 0.4) / value.standard_error
    assert abs(jnp.mean(z)) < 0.3
    assert 0.85 < jnp.std(z) < 1.15


def test_padding_says_nothing():
    lower, upper = map(jnp.asarray, mixed(2))
    padded = fit(jnp.append(lower, 0.0), jnp.append(upper, jnp.inf))
    assert_close(padded.value.decay, fit(lower, upper).value.decay)


def test_orders_that_never_or_always_stop_at_once_are_reported(precision):
    assert fit(jnp.zeros(4), jnp.ones(4)).result == RESULTS.not_converged
    nothing = fit(jnp.ones(4), jnp.full(4, jnp.inf))
    assert nothing.result == RESULTS.not_converged
    assert nothing.value.decay == 0
    assert jnp.isinf(nothing.value.standard_error)


def test_gradient_of_the_decay_is_that_of_refitting():
    lower, upper = map(jnp.asarray, mixed(3, n=40))

    def decay(stretch):
        return fit_reach(lower * stretch, upper + 2 * (stretch - 1)).value.decay

    decay = jax.jit(decay)
    slope = (decay(jnp.array(1 + 1e-5)) - decay(jnp.array(1 - 1e-5))) / 2e-5
    assert_close(jax.grad(decay)(jnp.array(1.0)), slope, 1e-7)


@pytest.mark.thorough
def test_jit_vmap_and_loop_agree(precision):
    lower, upper = (jnp.asarray(np.stack(x), float) for x in zip(mixed(4, n=20), mixed(5, n=20)))
    assert_jit_vmap_loop_agree(lambda a, b: fit(a, b).value.decay, lower, upper)


def test_intervals_of_each_way_to_stop(precision):
    lower, upper = reach_intervals(
        aggressor=jnp.array([1, 1, -1, 1, -1, 0], jnp.int8),
        worst_ticks=jnp.array([102, 102, 97, 104, 99, 102], jnp.int32),
        origin_ticks=jnp.full(6, 100.5),
        next_ticks=jnp.array([102, 105, 93, 0, 99, 102], jnp.int32),
        next_size=jnp.array([7.0, 7.0, 7.0, 0.0, 7.0, 7.0]),
    )
    # left volume | emptied, next ask at 105 | sold through 97, next bid at 93 | nothing deeper seen | left | no side
    assert_close(lower, [1.5, 1.5, 3.5, 3.5, 1.5, 0.0])
    assert_close(upper, [2.5, 4.5, 7.5, jnp.inf, 2.5, jnp.inf])


def test_executions_short_of_the_origin_are_clipped():
    lower, upper = reach_intervals(
        jnp.array([1, 1]), jnp.array([100, 97]), jnp.full(2, 100.5), jnp.array([100, 97]), jnp.ones(2)
    )
    assert_close(lower, [0.0, 0.0])
    assert_close(upper, [0.5, jnp.inf])


def test_arrival_rate_and_its_error(precision):
    rate, error = arrival_rate(400, 200.0)
    assert_close(rate, 2.0)
    assert_close(error, 0.1)
    assert jnp.isinf(arrival_rate(0, 200.0)[1])
