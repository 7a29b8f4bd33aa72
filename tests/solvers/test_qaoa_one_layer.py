"""One layer in closed form against the state vector, and beyond any state vector."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models.ising import Ising, bits_of, cost_diagonal, ising, random_regular_graph
from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.qaoa import Angles, qaoa_energy, qaoa_probabilities
from mfamm_jax.solvers.qaoa_large_girth import fixed_angles, large_girth_energy
from mfamm_jax.solvers.qaoa_one_layer import (
    neighbours_of,
    one_layer_angles,
    one_layer_energy,
    one_layer_expectations,
    regular_angles,
)

from ..checks import check_grads


def dense(n=8, seed=0, share=0.6):
    """A random graph with weights, fields and triangles."""
    rng = np.random.default_rng(seed)
    edges = [(u, v) for u in range(n) for v in range(u) if rng.random() < share]
    return ising(n, edges, rng.normal(size=len(edges)), rng.normal(size=n), 0.4), neighbours_of(edges, n)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_expectations_are_those_of_the_state_vector(dtype, share):
    found, neighbours = dense(share=share)
    found = Ising(*(x.astype(dtype) for x in (found.couplings, found.fields, found.offset)), edges=found.edges)
    at = jnp.asarray(0.7, dtype), jnp.asarray(-0.45, dtype)
    vertices, edges = one_layer_expectations(found, neighbours, *at)
    assert vertices.dtype == dtype
    diagonal = cost_diagonal(found)
    angles = Angles(at[0][None], at[1][None])
    probabilities = np.asarray(qaoa_probabilities(diagonal, angles), float)
    z = 1 - 2 * np.asarray(bits_of(jnp.arange(256), 8))
    pairs = z[:, np.asarray(found.edges)[:, 0]] * z[:, np.asarray(found.edges)[:, 1]]
    tolerance = {"float64": 1e-13, "float32": 3e-6}[dtype]
    np.testing.assert_allclose(vertices, probabilities @ z, atol=tolerance)
    np.testing.assert_allclose(edges, probabilities @ pairs, atol=tolerance)
    energy = one_layer_energy(found, neighbours, *at)
    np.testing.assert_allclose(energy, qaoa_energy(diagonal, angles), atol=50 * tolerance)


@pytest.mark.thorough
def test_derivatives_also_where_a_cosine_vanishes():
    found, neighbours = dense(5)
    weights = found.couplings.at[0].set(np.pi / 2)  # cos(2 g J) = 0 at g = 1/2

    def energy(couplings, fields, g, b):
        couplings, fields, g, b = map(jnp.asarray, (couplings, fields, g, b))  # differences are taken in numpy
        return one_layer_energy(Ising(couplings, fields, found.offset, found.edges), neighbours, g, b)

    check_grads(energy, (weights, found.fields, jnp.asarray(0.5), jnp.asarray(0.3)), order=1, modes=["fwd", "rev"])


@pytest.mark.thorough
def test_the_best_angles_beat_a_fine_grid():
    found, neighbours = dense(7, seed=3)
    best = one_layer_angles(found, neighbours)
    assert best.result == RESULTS.successful
    diagonal = cost_diagonal(found)
    gammas, betas = jnp.meshgrid(jnp.linspace(0, 2, 81), jnp.linspace(-np.pi / 2, np.pi / 2, 81))
    grid = jax.vmap(lambda g, b: qaoa_energy(diagonal, Angles(g[None], b[None])))(gammas.ravel(), betas.ravel())
    assert best.stats["energy"] <= grid.min() + 1e-9
    np.testing.assert_allclose(qaoa_energy(diagonal, best.value), best.stats["energy"], atol=1e-9)


@pytest.mark.parametrize("degree", [2, 3, 5])
def test_regular_graphs_without_triangles_have_the_known_share(degree):
    """1/2 + (1 - 1/D)^((D-1)/2)/(2 sqrt D), on complete bipartite graphs."""
    edges = [(u, degree + v) for u in range(degree) for v in range(degree)]
    found, angles = ising(2 * degree, edges), regular_angles(degree)
    energy = one_layer_energy(found, neighbours_of(edges, 2 * degree), angles.cost_angles[0], angles.mixer_angles[0])
    expected = 0.5 + (1 - 1 / degree) ** ((degree - 1) / 2) / (2 * np.sqrt(degree))
    np.testing.assert_allclose((len(edges) - energy) / (2 * len(edges)), expected, atol=1e-12)
    np.testing.assert_allclose(0.5 * (1 - large_girth_energy(degree, angles)), expected, atol=1e-12)


@pytest.mark.thorough
def test_two_thousand_vertices_need_no_state_vector():
    edges = random_regular_graph(2000, 3, 0)
    found, neighbours = ising(2000, edges), neighbours_of(edges, 2000)
    best = one_layer_angles(found, neighbours, n_starts=1)
    share = (3000 - float(best.stats["energy"])) / 6000
    # A few short cycles cost a little of the tree's 0.692450.
    assert 0.690 < share < 0.6925


@pytest.mark.parametrize(("degree", "layers", "share"), [(2, 3, 7 / 8), (3, 2, 0.7559064585), (3, 3, 0.7923984288)])
def test_fixed_angles_give_the_published_shares(degree, layers, share):
    """Rings: (2p + 1)/(2p + 2). Degree 3: Wurtz & Lykov (2021), 0.7559 and 0.7924."""
    found = fixed_angles(degree, layers)
    assert found.result == RESULTS.successful
    np.testing.assert_allclose(0.5 * (1 - found.stats["energy"]), share, atol=1e-8)


def test_the_tree_is_what_a_graph_without_short_cycles_sees():
    """Two layers on the Heawood graph, girth 6, away from the optimum."""
    edges = [(i, (i + 1) % 14) for i in range(14)] + [(i, (i + 5) % 14) for i in range(0, 14, 2)]
    angles = Angles(jnp.asarray([0.3, -0.7]), jnp.asarray([0.2, 0.5]))
    energy = qaoa_energy(cost_diagonal(ising(14, edges)), angles)
    np.testing.assert_allclose(large_girth_energy(3, angles), energy / 21, atol=1e-13)
    check_grads(
        lambda g, b: large_girth_energy(3, Angles(jnp.asarray(g), jnp.asarray(b))),
        (angles.cost_angles, angles.mixer_angles),
        order=1,
        modes=["rev"],
    )


def test_too_many_layers_of_the_tree_are_refused():
    with pytest.raises(ValueError, match="expected at most 5"):
        fixed_angles(3, 6)
    with pytest.raises(ValueError, match="expected at most 5 layers"):
        large_girth_energy(3, Angles(jnp.zeros(6), jnp.zeros(6)))
