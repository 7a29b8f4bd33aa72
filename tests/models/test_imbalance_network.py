import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.features.imbalance_grid import MIRRORS, mirror
from mfamm_jax.models.flax_function import n_parameters
from mfamm_jax.models.imbalance_network import ImbalanceNetwork, NetworkSizes

from ..checks import assert_close

SMALL = {"n_filters": 3, "n_filters_second": 4, "n_hidden": 5, "n_embedding": 3}


def network(head="linear", n_channels=3, **sizes):
    order, signs = MIRRORS[n_channels]
    return ImbalanceNetwork(NetworkSizes(head=head, **sizes), mirror_order=order, mirror_signs=signs)


def grids(n=64, n_channels=3, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((n, 10, 10, n_channels)), jnp.result_type(float))


def weights(net, seed=0):
    params = net.init(jax.random.key(seed))
    direction = jax.random.normal(jax.random.key(seed + 1), params["direction"].shape, params["direction"].dtype)
    return params | {"direction": 0.7 * direction}


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("head", ["linear", "prototype"])
@pytest.mark.parametrize("n_channels", [3, 2])
def test_the_score_is_odd_to_the_last_bit(precision, head, n_channels):
    with jax.enable_x64(precision == "float64"):
        net = network(head, n_channels)
        params, grid = weights(net), grids(n_channels=n_channels)
        swapped = mirror(grid)
        for run in (jax.jit(net.score), jax.jit(jax.vmap(net.score, (None, 0)))):
            here, there = np.asarray(run(params, grid)), np.asarray(run(params, swapped))
            assert (here == -there).all()
        both = np.asarray(jax.jit(net.score)(params, jnp.concatenate([grid, swapped])))
        # At another place of a batch the same book may be summed in another order: rounding, and no more.
        np.testing.assert_allclose(both[:64], -both[64:], rtol=0, atol=1e-13 if precision == "float64" else 2e-6)
        assert (np.abs(here) <= 1).all()
        assert np.std(here) > 0.01
        if (head, n_channels, precision) == ("linear", 3, "float32"):  # op by op is slow
            assert (np.asarray(net.score(params, grid[:2])) == -np.asarray(net.score(params, swapped[:2]))).all()


@pytest.mark.thorough
@pytest.mark.parametrize("head", ["linear", "prototype"])
def test_oddness_holds_for_every_size_of_batch_and_every_place_in_it(head, precision):
    net = network(head)
    params, score = weights(net), jax.jit(net.score)
    for n in (1, 7, 33):
        grid = grids(n, seed=n)
        order = np.random.default_rng(n).permutation(n)
        np.testing.assert_array_equal(score(params, grid[order]), -score(params, mirror(grid))[order])


@pytest.mark.thorough
def test_embeddings_have_length_one_and_a_grid_that_is_its_own_mirror_scores_zero():
    net = network()
    params, grid = weights(net), grids()
    embedding = jax.jit(net.embedding)(params, grid)
    assert_close(jnp.sum(embedding**2, axis=-1), np.ones(64), 1e-12)
    np.testing.assert_array_equal(jax.jit(net.embedding)(params, mirror(grid)), -embedding)
    symmetric = grid + mirror(grid)
    apply = jax.jit(net.apply)
    assert (np.asarray(apply(params, symmetric)[0]) == 0).all()
    assert (np.asarray(apply(params, symmetric)[1]) == 0).all()
    slope = jax.jit(jax.grad(lambda p: jnp.sum(net.score(p, symmetric))))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


@pytest.mark.thorough
def test_heads_by_hand():
    embedding = jnp.asarray(np.random.default_rng(1).standard_normal((5, 3)))
    embedding = embedding / jnp.linalg.norm(embedding, axis=1, keepdims=True)
    linear, prototype = network(**SMALL), network("prototype", **SMALL)
    params = weights(linear)
    w = np.asarray(params["direction"])
    assert_close(jax.jit(linear.head_score)(params, embedding), np.tanh(embedding @ w))
    up, down = (np.linalg.norm(np.asarray(embedding) - sign * w, axis=1) for sign in (1, -1))
    head_score = jax.jit(prototype.head_score)
    assert_close(head_score(params, embedding), (down - up) / (down + up))
    assert_close(jnp.tanh(jax.jit(prototype.logit)(params, embedding)), (down - up) / (down + up), 1e-9)
    at = jnp.asarray(w / np.linalg.norm(w))[None]
    exact = params | {"direction": at[0]}
    assert_close(head_score(exact, at), np.ones(1))
    slope = jax.grad(lambda e: head_score(exact, e)[0])(at)
    assert np.isfinite(slope).all()


def test_a_few_thousand_parameters_in_a_plain_dictionary():
    net = network()
    params = net.init(jax.random.key(0))
    assert 1000 < n_parameters(params) < 10_000
    assert all(type(leaf).__module__.startswith("jax") for leaf in jax.tree.leaves(params))
    assert isinstance(params, dict)
    again = net.init(jax.random.key(0))
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(again)))


@pytest.mark.thorough
def test_the_gradient_is_that_of_finite_differences():
    net = network(**SMALL)
    params, grid = weights(net), grids(4)

    @jax.jit
    def loss(params):
        return jnp.sum(net.score(params, grid) ** 2)

    slope, step = jax.jit(jax.grad(loss))(params), 1e-6
    keys = iter(jax.random.split(jax.random.key(3), 100))
    along = jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape, x.dtype), params)
    up, down = (jax.tree.map(lambda x, d, s=sign: x + s * step * d, params, along) for sign in (1, -1))
    expected = (loss(up) - loss(down)) / (2 * step)
    got = sum(jnp.sum(a * b) for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(along)))
    assert_close(got, expected, 1e-6)


def test_one_grid_or_many_is_the_same():
    net = network(**SMALL)
    params, grid = weights(net), grids(6)
    score = jax.jit(net.score)
    assert_close(jnp.stack([score(params, x) for x in grid]), score(params, grid), 1e-12)
    assert_close(score(params, grid.reshape(2, 3, 10, 10, 3)), score(params, grid).reshape(2, 3), 1e-12)


def test_what_does_not_fit_is_said(monkeypatch):
    net = network()
    with pytest.raises(ValueError, match=r"grid has shape \(4, 10, 10, 2\), expected \(\.\.\., 10, 10, 3\)"):
        net.score(net.init(jax.random.key(0)), grids(4, 2))
    with pytest.raises(ValueError, match="swapping twice must change nothing"):
        ImbalanceNetwork(mirror_order=(1, 2, 0), mirror_signs=(1, 1, 1))
    with pytest.raises(ValueError, match=r"NetworkSizes\.n_filters is 0, expected >= 1"):
        NetworkSizes(n_filters=0)
    monkeypatch.setitem(sys.modules, "flax", None)
    with pytest.raises(ValueError, match=r'needs an extra package: pip install "mfamm-jax\[full\]"'):
        net.init(jax.random.key(0))
