"""The mixer that keeps the sum, against the whole circuit on all qubits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.one_hot_qaoa import (
    adjacency,
    assignments,
    lots_of,
    one_hot_energy,
    one_hot_state,
    optimise_one_hot,
)
from mfamm_jax.solvers.qaoa import Angles, ramp_starts

from ..checks import assert_jit_vmap_loop_agree, check_grads

V, L = 3, 2
X, Y = np.array([[0, 1], [1, 0]]), np.array([[0, -1j], [1j, 0]])


def given(dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    angles = Angles(jnp.asarray(rng.normal(size=2), dtype), jnp.asarray(rng.normal(size=2), dtype))
    return jnp.asarray(rng.normal(size=V**L), dtype), angles


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("moves", ["ring", "complete"])
def test_amplitudes_are_those_of_one_qubit_per_lot_and_venue(moves, dtype):
    cost, angles = given(dtype)
    n = V * L

    def on(*qubits):
        out = np.eye(1)
        for q in range(n):
            out = np.kron(out, dict(qubits).get(q, np.eye(2)))
        return out

    mixer = np.zeros((2**n, 2**n), complex)
    for lot in range(L):
        for a in range(V):
            for b in range(a):
                if adjacency(V, moves)[a, b]:
                    i, j = lot * V + a, lot * V + b
                    mixer += 0.5 * (on((i, X), (j, X)) + on((i, Y), (j, Y)))
    places = np.asarray(assignments(L, V))
    index = [sum(1 << (n - 1 - lot * V - venue) for lot, venue in enumerate(row)) for row in places.tolist()]
    diagonal, state = np.zeros(2**n), np.zeros(2**n, complex)
    diagonal[index] = cost
    state[index] = V ** (-L / 2)
    for gamma, beta in zip(np.asarray(angles.cost_angles, float), np.asarray(angles.mixer_angles, float)):
        state = expm(-1j * beta * mixer) @ (np.exp(-1j * gamma * diagonal) * state)
    found = one_hot_state(cost, V, angles, moves)
    np.testing.assert_allclose(found, state[index], atol={"float64": 1e-13, "float32": 2e-6}[dtype])
    np.testing.assert_allclose(jnp.sum(jnp.abs(found) ** 2), 1, atol=1e-5)


def test_derivatives_and_jit_vmap_loop():
    cost, angles = given()

    def energy(cost, gammas, betas):  # differences are taken in numpy
        return one_hot_energy(jnp.asarray(cost), V, Angles(jnp.asarray(gammas), jnp.asarray(betas)))

    check_grads(energy, (cost, angles.cost_angles, angles.mixer_angles), order=1, modes=["fwd", "rev"])
    many = [given(seed=s) for s in range(3)]
    costs, every = (jax.tree.map(lambda *x: jnp.stack(x), *part) for part in zip(*many))
    assert_jit_vmap_loop_agree(lambda c, a: one_hot_energy(c, V, a), costs, every)


@pytest.mark.thorough
def test_the_search_for_angles_finds_the_cheap_assignments():
    cost = jnp.asarray(np.random.default_rng(1).normal(size=V**L))
    found, probabilities = optimise_one_hot(cost, V, ramp_starts(cost, 4, 6))
    assert found.result == RESULTS.successful
    np.testing.assert_allclose(probabilities @ cost, found.stats["energy"], atol=1e-9)
    assert float(cost.min()) <= found.stats["energy"] < 0.6 * float(cost.min()) + 0.4 * float(cost.mean())


def test_assignments_and_errors():
    np.testing.assert_array_equal(assignments(2, 3)[:4], [[0, 0], [0, 1], [0, 2], [1, 0]])
    assert lots_of(81, 3) == 4
    np.testing.assert_array_equal(adjacency(2, "ring"), [[0, 1], [1, 0]])
    with pytest.raises(ValueError, match="10 costs of assignments, expected a power of 3"):
        lots_of(10, 3)
    with pytest.raises(ValueError, match="1 venue, expected at least two"):
        lots_of(1, 1)
    with pytest.raises(ValueError, match=r"5\^500 assignments need over 10\^35\d bytes"):
        assignments(500, 5)
    with pytest.raises(ValueError, match=r"5\^20 assignments need .* use fewer lots"):
        assignments(20, 5)
