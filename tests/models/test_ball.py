import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models import ball

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads

CURVATURE = 2.0


def _points(seed, n, curvature, reach=0.9, dim=3):
    """Uniform directions, at up to `reach` of the ball's radius."""
    key = jax.random.key(seed)
    direction = jax.random.normal(key, (n, dim))
    direction = direction / jnp.linalg.norm(direction, axis=1, keepdims=True)
    radius = reach * jax.random.uniform(jax.random.fold_in(key, 1), (n, 1))
    return direction * radius / np.sqrt(curvature)


@pytest.mark.thorough
def test_moebius_addition_cancels_on_the_left_and_turns_with_rotations(precision):
    x, y = _points(1, 50, CURVATURE), _points(2, 50, CURVATURE)
    # Near the edge the ball stretches rounding by lambda, 10 at 0.9 of the radius.
    assert_close(ball.mobius_add(-x, ball.mobius_add(x, y, CURVATURE), CURVATURE), y, 1e-13, 1e-4)
    assert_close(ball.mobius_add(jnp.zeros_like(x), y, CURVATURE), y, 1e-15, 1e-7)
    turn = jnp.linalg.qr(jax.random.normal(jax.random.key(3), (3, 3)))[0]
    turned = ball.mobius_add(x @ turn, y @ turn, CURVATURE)
    assert_close(turned, ball.mobius_add(x, y, CURVATURE) @ turn, 1e-13, 1e-4)
    # The order matters: only the lengths agree.
    other = ball.mobius_add(y, x, CURVATURE)
    assert float(jnp.max(jnp.abs(other - ball.mobius_add(x, y, CURVATURE)))) > 0.05
    assert_close(jnp.linalg.norm(other, axis=1), jnp.linalg.norm(ball.mobius_add(x, y, CURVATURE), axis=1), 1e-13, 1e-5)


def test_distance_is_a_metric_that_additions_keep(precision):
    x, y, z = (_points(seed, 50, CURVATURE) for seed in (4, 5, 6))
    apart = ball.distance(x, y, CURVATURE)
    assert_close(ball.distance(y, x, CURVATURE), apart, 1e-12, 1e-4)
    moved = ball.distance(ball.mobius_add(z, x, CURVATURE), ball.mobius_add(z, y, CURVATURE), CURVATURE)
    assert_close(moved, apart, 1e-11, 2e-3)
    assert bool(jnp.all(apart <= ball.distance(x, z, CURVATURE) + ball.distance(z, y, CURVATURE) + 1e-5))
    root = np.sqrt(CURVATURE)
    from_origin = 2 / root * np.arctanh(root * np.linalg.norm(np.asarray(x, float), axis=1))
    assert_close(ball.distance(jnp.zeros_like(x), x, CURVATURE), from_origin, 1e-12, 1e-4)
    # A second formula: arcosh(1 + 2c|x - y|^2/((1 - c|x|^2)(1 - c|y|^2)))/sqrt(c).
    square = [np.sum(np.asarray(p, float) ** 2, axis=1) for p in (x - y, x, y)]
    ratio = 2 * CURVATURE * square[0] / ((1 - CURVATURE * square[1]) * (1 - CURVATURE * square[2]))
    assert_close(apart, np.arccosh(1 + ratio) / root, 1e-10, 1e-3)


def test_exponentials_and_logarithms_undo_each_other(precision):
    x, y = _points(7, 50, CURVATURE), _points(8, 50, CURVATURE)
    assert_close(ball.exp_at(x, ball.log_at(x, y, CURVATURE), CURVATURE), y, 1e-12, 1e-4)
    assert_close(ball.exp_origin(ball.log_origin(y, CURVATURE), CURVATURE), y, 1e-13, 1e-5)
    # |log| in the metric at x is the distance.
    speed = ball.conformal_factor(x, CURVATURE) * jnp.linalg.norm(ball.log_at(x, y, CURVATURE), axis=1)
    assert_close(speed, ball.distance(x, y, CURVATURE), 1e-11, 1e-3)
    doubled = ball.mobius_scale(2.0, y, CURVATURE)
    assert_close(doubled, ball.mobius_add(y, y, CURVATURE), 1e-12, 1e-4)
    matrix = jax.random.normal(jax.random.key(9), (2, 3))
    by_maps = ball.exp_origin(ball.log_origin(y, CURVATURE) @ matrix.T, CURVATURE)
    assert_close(ball.mobius_matvec(matrix, y, CURVATURE), by_maps, 1e-13, 1e-5)


def test_without_curvature_it_is_twice_the_euclidean_space():
    """lambda is 2 at the origin, hence the factor."""
    x, y = 0.3 * _points(10, 20, 1.0), 0.3 * _points(11, 20, 1.0)
    assert_close(ball.mobius_add(x, y, 1e-10), x + y, 1e-9)
    assert_close(ball.distance(x, y, 1e-10), 2 * jnp.linalg.norm(x - y, axis=1), 1e-9)
    weights = jnp.linspace(0.1, 1.0, 20)
    assert_close(ball.midpoint(x, weights, 1e-10), weights @ x / jnp.sum(weights), 1e-8)


def test_midpoint_of_two_is_halfway_and_moves_with_isometries():
    x, y, z = (_points(seed, 1, 1.0)[0] for seed in (12, 13, 14))
    half = ball.midpoint(jnp.stack([x, y]), jnp.ones(2), 1.0)
    halfway = ball.exp_at(x, 0.5 * ball.log_at(x, y, 1.0), 1.0)
    assert_close(half, halfway, 1e-12)
    points, weights = _points(15, 6, 1.0), jnp.asarray([0.3, 1.0, 0.2, 0.7, 0.1, 2.0])
    moved = ball.midpoint(ball.mobius_add(z[None], points, 1.0), weights, 1.0)
    assert_close(moved, ball.mobius_add(z, ball.midpoint(points, weights, 1.0), 1.0), 1e-12)


@pytest.mark.thorough
def test_derivatives_are_finite_where_lengths_have_none_and_right_elsewhere():
    """Central differences give 1e-6."""
    x, y = _points(16, 4, 1.0), _points(17, 4, 1.0)
    for function in (
        lambda x, y: ball.distance(x, y, 1.0),
        lambda x, y: ball.exp_at(x, y, 1.0),
        lambda x, y: ball.log_at(x, y, 1.0),
        lambda x, y: ball.midpoint(jnp.stack([x, y], axis=1), jnp.full((4, 2), jnp.asarray(0.3)), 1.0),
    ):
        check_grads(jax.jit(function), (x, y), order=1, modes=["fwd", "rev"], rtol=1e-6, atol=1e-7)
    zero = jnp.zeros(3)
    for slope in (
        jax.jacrev(lambda v: ball.exp_origin(v, 1.0))(zero),
        jax.jacrev(lambda v: ball.log_origin(v, 1.0))(zero),
    ):
        assert_close(slope, np.eye(3), 1e-12)
    assert_close(jax.grad(lambda a: ball.distance(a, x[0], 1.0))(x[0]), np.zeros(3))
    assert_close(jax.grad(lambda c: ball.distance(x, y, c).sum())(1.0), _slope_in_curvature(x, y), 1e-6)


def _slope_in_curvature(x, y):
    step = 1e-5
    return (ball.distance(x, y, 1 + step).sum() - ball.distance(x, y, 1 - step).sum()) / (2 * step)


@pytest.mark.thorough
def test_points_are_pulled_back_to_distances_that_the_precision_can_tell(precision):
    edge = ball.project(jnp.asarray([[3.0, 4.0], [0.1, 0.2]]), 0.25)
    assert_close(edge[1], [0.1, 0.2])
    far = float(ball.distance(jnp.zeros(2), edge[0], 0.25)) / 2  # In units of the curvature's length, 1/sqrt(c) = 2.
    assert_close(jnp.asarray(far), 12.2 if precision == "float64" else 6.2, 1e-2, 1e-2)
    assert_close(edge[0] / jnp.linalg.norm(edge[0]), [0.6, 0.8], 1e-12, 1e-6)
    back = ball.exp_origin(ball.log_origin(edge, 0.25), 0.25)
    assert_close(back, edge, 1e-9, 1e-5)


def test_gradient_steps_on_the_ball_reach_the_mean():
    """The Karcher mean minimises the squared distances: its gradient is 0 there, and descent along exp stays in the ball."""
    points = _points(18, 5, 1.0)

    def cost(x):
        return jnp.sum(ball.distance(jnp.broadcast_to(x, points.shape), points, 1.0) ** 2)

    def step(x, _):
        return ball.exp_at(x, -0.02 * ball.riemannian_gradient(x, jax.grad(cost)(x), 1.0), 1.0), None

    mean = jax.lax.scan(step, points[0], None, length=400)[0]
    towards = ball.log_at(jnp.broadcast_to(mean, points.shape), points, 1.0)
    assert_close(jnp.sum(towards, axis=0), np.zeros(3), 1e-7)


def test_jit_vmap_and_loop_agree():
    x, y = _points(19, 7, 1.0), _points(20, 7, 1.0)
    c = jnp.linspace(0.2, 1.0, 7)
    assert_jit_vmap_loop_agree(ball.distance, x, y, c)
    assert_jit_vmap_loop_agree(ball.exp_at, x, y, c)


def test_points_outside_are_named():
    with pytest.raises(ValueError, match=r"point 2 has sqrt\(c\)\|x\| = 1.2"):
        ball.check_points(jnp.asarray([[0.1, 0.2], [1.2, 0.0]]), 1.0)
    with pytest.raises(ValueError, match="point 1 has"):
        ball.check_points(jnp.asarray([jnp.nan, 0.0]), 1.0)
    with pytest.raises(ValueError, match="curvature is -1"):
        ball.check_points(jnp.zeros(2), -1.0)
    ball.check_points(jnp.asarray([0.6, 0.0]), 1.0)
