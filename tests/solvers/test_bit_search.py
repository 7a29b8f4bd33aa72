"""Searches over bits: they only go down, and find what enumeration finds."""

import jax
import jax.numpy as jnp
import numpy as np

from mfamm_jax.models.ising import cost_diagonal, ising, random_regular_graph
from mfamm_jax.solvers.bit_search import anneal, greedy_descent


def test_greedy_flips_end_where_no_flip_helps():
    found = ising(10, random_regular_graph(10, 4, 0), np.random.default_rng(0).normal(size=20), 0.1)
    end = greedy_descent(found.energy, jnp.zeros(10, jnp.int32))
    np.testing.assert_allclose(found.energy(end.bits), end.cost, atol=1e-12)
    neighbours = jax.vmap(found.energy)(end.bits ^ jnp.eye(10, dtype=jnp.int32))
    assert (neighbours >= end.cost).all()
    # The first step is the single best flip.
    costs = jax.vmap(found.energy)(jnp.eye(10, dtype=jnp.int32))
    assert end.cost <= costs.min()


def test_annealing_finds_the_minimum_that_enumeration_finds():
    found = ising(12, random_regular_graph(12, 3, 1), np.random.default_rng(1).normal(size=18), 0.1)
    lowest = float(cost_diagonal(found).min())
    keys = jax.random.split(jax.random.key(0), 32)
    chains = jax.jit(jax.vmap(lambda k: anneal(found.energy, 12, k, n_sweeps=50)))(keys)
    np.testing.assert_allclose(jax.vmap(found.energy)(chains.bits), chains.cost, atol=1e-12)
    assert (chains.cost >= lowest - 1e-12).all()
    # Measured: 30 of 32.
    assert (chains.cost <= lowest + 1e-9).mean() > 0.7


def test_cold_chains_do_not_climb():
    """At no temperature the best is the last: a descent by random flips."""
    found = ising(6, [(0, 1), (2, 3), (4, 5)], 1.0, 0.2)
    end = anneal(found.energy, 6, jax.random.key(2), n_sweeps=30, hottest=1e-9, coldest=1e-9)
    neighbours = jax.vmap(found.energy)(end.bits ^ jnp.eye(6, dtype=jnp.int32))
    assert (neighbours >= end.cost).all()


def test_equal_costs_are_no_trouble():
    end = anneal(lambda bits: jnp.zeros(()), 4, jax.random.key(0), n_sweeps=3)
    assert end.cost == 0
