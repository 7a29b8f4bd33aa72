import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models.intensity import ExponentialIntensity
from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.calibrate import (
    Box,
    fit,
    fit_noisy,
    forward_gradient,
    identify,
    residual_information,
    squared_residual_loss,
)
from mfamm_jax.solvers.descent import minimise
from mfamm_jax.solvers.hjb import Grid, HJBProblem, choose_scheme, optimal_depths, solve_hjb

from ..checks import assert_close, check_grads


def box():
    return Box(jnp.array([0.01, -2.0]), jnp.array([10.0, 3.0]), is_log=(True, False))


def test_coordinates_of_a_box_are_inverse_to_each_other_and_end_at_its_bounds(precision):
    x = jnp.array([[0.02, -1.9], [0.5, 0.0], [9.0, 2.9]])
    assert_close(box().inside(box().free(x)), x, 1e-12, 1e-5)
    assert_close(box().at_share(box().share(x)), x, 1e-12, 1e-5)
    far = box().inside(jnp.array([[-200.0, -200.0], [200.0, 200.0]]))
    assert_close(far, jnp.stack([box().low, box().high]), 1e-12, 1e-5)
    # The middle of a range of scales is its geometric mean.
    assert_close(box().inside(jnp.zeros(2)), jnp.array([np.sqrt(0.01 * 10.0), 0.5]), 1e-12, 1e-5)
    assert bool(jnp.all(jnp.isfinite(box().free(jnp.stack([box().low, box().high])))))


def test_a_box_has_gradients_everywhere_inside():
    for way in (box().inside, box().free):
        check_grads(lambda x, way=way: way(jnp.asarray(x)), (jnp.array([0.3, -0.7]),), order=2, rtol=1e-3)


@pytest.mark.parametrize(
    ("low", "high", "is_log"), [([1.0], [1.0], (False,)), ([0.0], [1.0], (True,)), ([0.0, 0.0], [1.0, 1.0], (False,))]
)
def test_an_impossible_box_is_refused(low, high, is_log):
    with pytest.raises(ValueError, match="Box"):
        Box(jnp.array(low), jnp.array(high), is_log)


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def test_every_start_finds_the_minimum_of_a_curved_valley(precision):
    solution = jax.jit(lambda starts: fit(rosenbrock, box(), starts))(box().draw(jax.random.key(0), 6))
    assert solution.result == RESULTS.successful
    assert_close(solution.value.parameters, jnp.ones(2), 1e-5, 2e-2)
    assert solution.value.losses.shape == (6,)
    assert not bool(solution.value.at_bound.any())


def test_a_minimum_outside_ends_at_the_bound_and_says_so():
    solution = fit(lambda x: jnp.sum((x - jnp.array([20.0, 0.5])) ** 2) / 100, box(), box().draw(jax.random.key(1), 4))
    assert solution.value.at_bound.tolist() == [True, False]
    assert_close(solution.value.parameters[0], 10.0, 1e-2)


@pytest.mark.thorough
def test_the_best_of_several_minima_is_taken_and_a_start_that_fails_does_not_spoil_it():
    def loss(x):
        bad = jnp.where(x[1] > 2.5, jnp.nan, 0.0)
        return jnp.cos(3 * x[1]) + 0.1 * x[1] ** 2 + (jnp.log(x[0])) ** 2 + bad

    solution = fit(loss, box(), jnp.array([[1.0, 2.9], [1.0, 2.0], [1.0, -1.2], [0.5, 1.2]]))
    assert solution.result == RESULTS.successful
    grid = jnp.linspace(-2, 2.5, 20001)
    best = grid[jnp.argmin(jax.vmap(lambda y: loss(jnp.array([1.0, y])))(grid))]
    assert_close(solution.value.loss, loss(jnp.array([1.0, best])), 1e-6)


def test_evaluations_are_counted_with_those_of_line_searches():
    seen = []

    def loss(x):
        jax.debug.callback(lambda: seen.append(1))
        return rosenbrock(x)

    found = minimise(loss, jnp.array([-1.2, 1.0]), 100, 1e-6)
    jax.effects_barrier()
    assert int(found.n_evaluations) > int(found.n_steps)
    assert len(seen) == int(found.n_evaluations)


def line(parameters, x):
    return parameters[0] + parameters[1] * x


def test_standard_errors_are_those_of_linear_regression():
    rng = np.random.default_rng(0)
    x = np.linspace(0, 1, 40)
    y = 2 - 3 * x + 0.1 * rng.normal(size=40)
    design = np.stack([np.ones(40), x], 1)
    beta, rss = np.linalg.lstsq(design, y)[:2]
    expected = np.sqrt(np.diagonal(rss[0] / 38 * np.linalg.inv(design.T @ design)))

    def residuals(parameters):
        return line(parameters, jnp.asarray(x)) - y

    space = Box(jnp.array([-10.0, -10.0]), jnp.array([10.0, 10.0]), (False, False))
    found = fit(squared_residual_loss(residuals), space, jnp.zeros((1, 2)) + 0.1).value
    np.testing.assert_allclose(found.parameters, beta, rtol=1e-6)
    information, deviation = residual_information(residuals, found.parameters)
    np.testing.assert_allclose(deviation, np.sqrt(rss[0] / 38), rtol=1e-8)
    np.testing.assert_allclose(identify(information, jnp.ones(2)).standard_errors, expected, rtol=1e-6)
    # The observed information of the profiled likelihood: the same up to the degrees of freedom of the deviation.
    hessian = jax.hessian(squared_residual_loss(residuals))(found.parameters)
    np.testing.assert_allclose(hessian * 38 / 40, information, rtol=1e-5)


def test_a_product_leaves_one_direction_open():
    """Only a b is seen: the data know the sum of relative changes and nothing about their difference."""
    x = jnp.linspace(0, 1, 30)

    def residuals(p):
        return p[0] * p[1] * x + 1e-3 * jnp.sin(40 * x)

    at = jnp.array([2.0, 0.5])
    information, _ = residual_information(lambda p: residuals(p) - x, at)
    found = identify(information, at)
    assert found.direction_errors[0] > 1e4 * found.direction_errors[1]
    assert_close(jnp.abs(found.directions[0]), jnp.full(2, np.sqrt(0.5)), 1e-6)
    assert found.directions[0, 0] * found.directions[0, 1] < 0
    assert_close(found.correlation[0, 1], -1.0, 1e-5)


def test_what_the_data_say_nothing_about_has_no_error(precision):
    information = jnp.diag(jnp.array([4.0, 0.0, 100.0]))
    found = identify(information, jnp.array([1.0, 1.0, 2.0]))
    assert_close(found.standard_errors[jnp.array([0, 2])], jnp.array([0.5, 0.1]), 1e-12, 1e-5)
    assert jnp.isinf(found.standard_errors[1])
    assert jnp.isinf(found.direction_errors[0])
    assert bool(jnp.isinf(identify(jnp.zeros((2, 2)), jnp.ones(2)).standard_errors).all())


def test_a_gradient_by_tangents_is_the_gradient_also_mapped_and_differentiated_along():
    x = jnp.array([[0.3, 0.8], [1.2, -0.4]])
    value, slope = jax.vmap(jax.value_and_grad(forward_gradient(rosenbrock)))(x)
    assert_close(value, jax.vmap(rosenbrock)(x), 1e-12)
    assert_close(slope, jax.vmap(jax.grad(rosenbrock))(x), 1e-12)
    scaled = jax.grad(lambda x: 3 * forward_gradient(rosenbrock)(2 * x))(x[0])
    assert_close(scaled, 6 * jax.grad(rosenbrock)(2 * x[0]), 1e-12)


@pytest.mark.thorough
def test_a_noisy_loss_is_minimised_in_the_mean_and_bad_draws_are_left_out():
    def loss(x, key):
        draw = jax.random.normal(key, (2,))
        bad = jnp.where(jax.random.uniform(key) < 0.05, jnp.nan, 1.0)
        return bad * jnp.sum((jnp.log(x[0]) - 0.5 + 0.3 * draw[0]) ** 2 + (x[1] - 1.0 + 0.3 * draw[1]) ** 2)

    found, path = fit_noisy(loss, box(), jnp.array([0.1, -1.0]), jax.random.key(3), n_steps=600)
    assert path.shape == (600, 2)
    np.testing.assert_allclose(jnp.log(found[0]), 0.5, atol=0.1)
    np.testing.assert_allclose(found[1], 1.0, atol=0.1)


def quotes_of(parameters, scheme, grid):
    risk, scale, decay = parameters
    side = ExponentialIntensity(scale, decay)
    problem = HJBProblem(bid=side, ask=side, inventory_penalty=0.09 * risk, horizon=10.0)
    bid, ask = optimal_depths(problem, solve_hjb(problem, scheme, grid).value.relative_value[-1])
    return jnp.concatenate([bid[:-1], ask[1:]])


def control():
    grid = Grid(5, 1)
    side = ExponentialIntensity(5.0, 5.0)
    scheme, _ = choose_scheme(HJBProblem(bid=side, ask=side, inventory_penalty=0.9, horizon=10.0), grid)
    return scheme, grid


@pytest.mark.thorough
def test_risk_aversion_and_intensity_come_back_from_quotes_without_noise():
    scheme, grid = control()
    truth = jnp.array([0.3, 1.2, 1.7])
    observed = quotes_of(truth, scheme, grid)
    space = Box(truth / 5, truth * 5, (True, True, True))

    def loss(p):
        return 1e4 * jnp.sum((quotes_of(p, scheme, grid) - observed) ** 2)

    solution = jax.jit(lambda s: fit(loss, space, s, max_iterations=300))(space.draw(jax.random.key(2), 4))
    np.testing.assert_allclose(solution.value.parameters, truth, rtol=1e-4)


@pytest.mark.thorough
def test_gradients_of_a_quote_fit_are_central_differences():
    scheme, grid = control()
    truth = jnp.array([0.3, 1.2, 1.7])
    observed = quotes_of(truth, scheme, grid)
    loss = squared_residual_loss(lambda p: quotes_of(p, scheme, grid) - observed)
    at = truth * jnp.array([1.3, 0.8, 1.1])
    gradient = jax.grad(loss)(at)
    for i in range(3):
        step = 1e-5 * jnp.zeros(3).at[i].set(at[i])
        # Richardson: the error of a plain central difference is larger than what is tested.
        one = (loss(at + step) - loss(at - step)) / (2 * step[i])
        half = (loss(at + step / 2) - loss(at - step / 2)) / step[i]
        assert_close(gradient[i], (4 * half - one) / 3, 1e-6)
