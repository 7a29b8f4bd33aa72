"""Ising costs: bits, diagonals, binary forms and the ancilla, against enumeration in numpy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models.ising import (
    Ising,
    bits_of,
    cost_diagonal,
    index_of,
    ising,
    ising_of_matrix,
    ising_to_qubo,
    qubo_to_ising,
    random_regular_graph,
    with_ancilla,
    without_ancilla,
)

from ..checks import assert_close, check_grads

EDGES = [(0, 2), (3, 1), (1, 2), (0, 4)]


def model(dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    found = ising(5, EDGES, rng.normal(size=4), rng.normal(size=5), 0.3)
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, found)


def by_hand(found):
    """H of all bitstrings, vertex 0 slowest."""
    costs = []
    for bits in itertools.product((0, 1), repeat=found.n_vertices):
        z = 1 - 2 * np.array(bits)
        pairs = sum(float(w) * z[u] * z[v] for w, (u, v) in zip(found.couplings, np.asarray(found.edges)))
        costs.append(pairs + float(np.asarray(found.fields) @ z) + float(found.offset))
    return np.array(costs)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_diagonal_is_the_cost_of_every_bitstring(dtype):
    found = model(dtype)
    diagonal = cost_diagonal(found)
    assert diagonal.dtype == dtype
    assert_close(diagonal, by_hand(found), float32=1e-6)
    bits = bits_of(jnp.arange(32), 5)
    np.testing.assert_array_equal(bits, list(itertools.product((0, 1), repeat=5)))
    assert_close(found.energy(bits), diagonal, float32=1e-6)
    np.testing.assert_array_equal(index_of(bits), np.arange(32))


def test_derivatives_of_the_diagonal_are_those_of_a_linear_map():
    found = model()
    weights = jnp.asarray(np.random.default_rng(1).normal(size=32))

    def total(couplings, fields, offset):
        numbers = map(jnp.asarray, (couplings, fields, offset))  # differences are taken in numpy
        return jnp.sum(cost_diagonal(Ising(*numbers, found.edges)) * weights)

    check_grads(total, (found.couplings, found.fields, found.offset), order=1, modes=["rev"])


def test_one_compile_serves_graphs_and_weights_in_batches():
    many = [model(seed=s) for s in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *many)
    stacked = Ising(stacked.couplings, stacked.fields, stacked.offset, stacked.edges.at[1].set(stacked.edges[0, ::-1]))
    together = jax.jit(jax.vmap(cost_diagonal))(stacked)
    for i in range(3):
        alone = jax.tree.map(lambda x, i=i: x[i], stacked)
        np.testing.assert_allclose(together[i], by_hand(alone), atol=1e-12)


def test_binary_form_and_back():
    rng = np.random.default_rng(2)
    linear, quadratic = rng.normal(size=5), rng.normal(size=4)
    found = qubo_to_ising(jnp.asarray(linear), jnp.asarray(EDGES, jnp.int32), jnp.asarray(quadratic), 0.7)
    costs = [
        0.7 + linear @ x + sum(w * x[u] * x[v] for w, (u, v) in zip(quadratic, EDGES))
        for x in map(np.array, itertools.product((0, 1), repeat=5))
    ]
    np.testing.assert_allclose(cost_diagonal(found), costs, atol=1e-12)
    back = ising_to_qubo(found)
    for got, wanted in zip(back, (linear, quadratic, 0.7)):
        np.testing.assert_allclose(got, wanted, atol=1e-12)


def test_without_fields_a_complement_costs_the_same_and_the_ancilla_breaks_that():
    """(22) as printed cannot express a choice; with one vertex more it expresses every one."""
    found = model()
    plain = Ising(found.couplings, jnp.zeros(5), found.offset, found.edges)
    diagonal = cost_diagonal(plain)
    np.testing.assert_allclose(diagonal, diagonal[::-1], atol=1e-12)
    printed = with_ancilla(found)
    assert printed.n_vertices == 6
    assert not printed.fields.any()
    bits = bits_of(jnp.arange(64), 6)
    np.testing.assert_allclose(cost_diagonal(printed), found.energy(without_ancilla(bits)), atol=1e-12)
    ground = np.flatnonzero(cost_diagonal(printed) <= cost_diagonal(printed).min() + 1e-9)
    assert len(ground) == 2
    choices = without_ancilla(bits[ground])
    np.testing.assert_array_equal(choices[0], choices[1])


def test_a_matrix_counts_every_pair_once():
    weights = np.array([[0, 1.5, 0], [1.5, 0, -2], [0, -2, 0]])
    found = ising_of_matrix(weights, [0.1, 0, 0])
    np.testing.assert_array_equal(found.edges, [[0, 1], [1, 2]])
    np.testing.assert_array_equal(found.couplings, [1.5, -2])


@pytest.mark.parametrize("degree", [1, 3, 4, 9])
def test_regular_graphs_are_regular_and_seeded(degree):
    edges = random_regular_graph(12, degree, 5)
    assert (np.bincount(edges.ravel(), minlength=12) == degree).all()
    assert len({tuple(sorted(e)) for e in edges.tolist()}) == len(edges) == 6 * degree
    assert (edges[:, 0] != edges[:, 1]).all()
    np.testing.assert_array_equal(edges, random_regular_graph(12, degree, 5))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"weights\[0, 1\] is 1 and weights\[1, 0\] 2, expected a symmetric"):
        ising_of_matrix([[0, 1], [2, 0]])
    with pytest.raises(ValueError, match=r"weights\[0, 1\] is nan"):
        ising_of_matrix([[0, np.nan], [np.nan, 0]])
    with pytest.raises(ValueError, match="diagonal"):
        ising_of_matrix([[1, 0], [0, 0]])
    with pytest.raises(ValueError, match="square"):
        ising_of_matrix([[0, 1, 2], [1, 0, 2]])
    with pytest.raises(ValueError, match=r"edges have shape \(2, 3\), expected pairs .* weights go into couplings"):
        ising(5, [(0, 1, 2), (3, 1, 4)])
    with pytest.raises(ValueError, match="expected pairs of whole numbers"):
        ising(5, [(0.7, 1.9)])
    with pytest.raises(ValueError, match=r"couplings have shape \(3,\), expected one number or 1"):
        ising(3, [(0, 1)], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="quadratic hold nan"):
        qubo_to_ising(jnp.zeros(2), jnp.asarray([[0, 1]]), jnp.asarray([jnp.nan]))
    with pytest.raises(ValueError, match="couplings hold nan"):
        ising(3, [(0, 1)], np.nan)
    with pytest.raises(ValueError, match=r"edge 1 is \(1, 1\)"):
        ising(3, [(0, 1), (1, 1)])
    with pytest.raises(ValueError, match=r"edge 0 is \(0, 3\)"):
        ising(3, [(0, 3)])
    with pytest.raises(ValueError, match=r"edge \(0, 1\) occurs twice"):
        ising(3, [(0, 1), (1, 0)])
    with pytest.raises(ValueError, match="expected 0 < degree < vertices and an even product"):
        random_regular_graph(5, 3, 0)


def test_too_many_vertices_say_how_much_memory_they_need():
    with pytest.raises(ValueError, match=r"40 vertices need 73,728\.0 GiB .* limit of 32\.0 GiB"):
        cost_diagonal(ising(40, [(0, 1)]), memory_limit=2**35)
    with pytest.raises(ValueError, match=r"2000 vertices need 9 x 2\^2000 numbers .* one_layer_energy"):
        cost_diagonal(ising(2000, [(0, 1)]))
    with pytest.raises(ValueError, match=r"20 vertices need 0\.1 GiB"):
        cost_diagonal(ising(20, [(0, 1)]), memory_limit=2**20)
