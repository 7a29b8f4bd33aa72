import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from mfamm_jax.models import ball
from mfamm_jax.models.hyperbolic import (
    COLDEST,
    aggregate,
    attention_by_distance,
    check_connected,
    correlation_edges,
    first_network,
)

from ..checks import assert_close, assert_jit_vmap_loop_agree

RING = jnp.asarray(np.roll(np.eye(5), 1, axis=1) + np.roll(np.eye(5), -1, axis=1) > 0)


def _nodes(seed=0, n=5, dim=3):
    return ball.exp_origin(0.7 * jax.random.normal(jax.random.key(seed), (n, dim)), 1.0)


def _attention(points):
    return attention_by_distance(points, RING, jnp.asarray(1.0), 1.0)


@pytest.mark.thorough
def test_attention_sums_to_one_along_the_edges_only():
    attention = _attention(_nodes())
    assert_close(jnp.sum(attention, axis=1), np.ones(5), 1e-14)
    assert not np.asarray(attention)[~(np.asarray(RING) | np.eye(5, dtype=bool))].any()
    assert bool(jnp.all(jnp.diagonal(attention) == jnp.max(attention, axis=1)))


@pytest.mark.thorough
def test_layers_of_the_rulebook_collapse_into_one():
    """(16) as printed: L layers are exp_0(attention^L log_0 h); the default layers are not."""
    points = _nodes()
    attention = _attention(points)
    moved = {"rulebook": points, "midpoint": points, "local_tangent": points}
    for _ in range(4):
        moved = {mean: aggregate(x, attention, 1.0, mean) for mean, x in moved.items()}
    collapsed = ball.exp_origin(np.linalg.matrix_power(attention, 4) @ ball.log_origin(points, 1.0), 1.0)
    assert_close(moved["rulebook"], collapsed, 1e-13)
    for mean in ("midpoint", "local_tangent"):
        assert float(jnp.max(jnp.abs(moved[mean] - collapsed))) > 1e-3


def test_true_means_move_with_the_isometries_and_the_rulebooks_does_not():
    points, by = _nodes(1), jnp.asarray([0.5, -0.2, 0.3])
    attention = _attention(points)
    shifted = ball.mobius_add(by[None], points, 1.0)

    def off(mean):
        wanted = ball.mobius_add(by[None], aggregate(points, attention, 1.0, mean), 1.0)
        return float(jnp.max(jnp.abs(aggregate(shifted, attention, 1.0, mean) - wanted)))

    assert off("midpoint") < 1e-13
    assert off("local_tangent") < 1e-13
    assert off("rulebook") > 1e-3


@pytest.mark.thorough
@pytest.mark.parametrize(
    "mean", ["midpoint", *(pytest.param(mean, marks=pytest.mark.slow) for mean in ("local_tangent", "rulebook"))]
)
def test_shares_are_positive_sum_to_one_and_have_finite_derivatives(mean, precision):
    network = first_network(jax.random.key(1), n_nodes=5, n_features=4, dim=3, mean=mean)

    @eqx.filter_jit
    def look(network, x):
        return network(x, RING), network.embed(x, RING), eqx.filter_grad(lambda net: net(x, RING)[0])(network)

    for features in (jax.random.normal(jax.random.key(2), (5, 4)), jnp.zeros((5, 4)), jnp.full((5, 4), 1e3)):
        shares, points, slopes = look(network, jnp.asarray(features, jnp.result_type(float)))
        assert_close(jnp.sum(shares), 1.0, 1e-12, 1e-6)
        assert bool(jnp.all(shares > 0))
        assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(slopes))
        assert bool(jnp.all(jnp.sum(points**2, axis=1) < 1))


@pytest.mark.thorough
def test_derivatives_in_the_weights_are_those_of_finite_differences():
    features = jax.random.normal(jax.random.key(3), (5, 4))
    for curvature in (0.0, 1.0):
        network = first_network(jax.random.key(1), n_nodes=5, n_features=4, dim=3, curvature=curvature)
        flat, build = ravel_pytree(network)
        score = jax.jit(lambda x, build=build: build(x)(features, RING) @ jnp.arange(5.0))
        along = jax.random.normal(jax.random.key(4), flat.shape)
        difference = (score(flat + 1e-5 * along) - score(flat - 1e-5 * along)) / 2e-5
        assert_close(jax.grad(score)(flat) @ along, difference, 1e-6)


def test_small_curvature_is_almost_the_euclidean_network():
    """Distances in the ball are twice those of the plane at c -> 0: temperatures scaled by 4 and 2 make the two one network."""
    features = jax.random.normal(jax.random.key(5), (5, 4))
    ball_network = first_network(jax.random.key(1), n_nodes=5, n_features=4, dim=3, curvature=1e-8)
    plane = first_network(jax.random.key(1), n_nodes=5, n_features=4, dim=3, curvature=0.0)

    def hotter(log_temperature, factor):
        return jnp.log(factor * (COLDEST + jnp.exp(log_temperature)) - COLDEST)

    layers = tuple(
        eqx.tree_at(lambda x: x.log_temperature, layer, hotter(layer.log_temperature, 4))
        for layer in ball_network.layers
    )
    matched = eqx.tree_at(
        lambda x: (x.layers, x.log_temperature), ball_network, (layers, hotter(ball_network.log_temperature, 2))
    )
    assert_close(matched(features, RING), plane(features, RING), 1e-6)


@pytest.mark.thorough
def test_jit_vmap_and_loop_agree():
    network = first_network(jax.random.key(1), n_nodes=5, n_features=4)
    assert_jit_vmap_loop_agree(
        jax.jit(lambda x: network(x, RING)), jax.random.normal(jax.random.key(6), (3, 5, 4)), float64=1e-11
    )


def test_graphs_in_parts_are_refused():
    correlation = jnp.asarray([[1, 0.5, 0.1], [0.5, 1, 0.05], [0.1, 0.05, 1]])
    assert np.asarray(correlation_edges(correlation, 0.1)).sum() == 4
    with pytest.raises(ValueError, match=r"node 3 is not reached from node 1\): lower the threshold, 0.2"):
        correlation_edges(correlation)
    check_connected(RING, "")
