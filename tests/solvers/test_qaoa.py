"""QAOA's state vector against dense matrices, published constants and its own second derivative path."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from mfamm_jax.experiments.verify import SHIPPED_SOLVERS
from mfamm_jax.models.ising import bits_of, cost_diagonal, index_of, ising, random_regular_graph
from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.qaoa import (
    Angles,
    interpolate_angles,
    linear_ramp,
    optimise_angles,
    qaoa_energy,
    qaoa_probabilities,
    qaoa_state,
    ramp_starts,
    sample_indices,
)

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads

HEAWOOD = [(i, (i + 1) % 14) for i in range(14)] + [(i, (i + 5) % 14) for i in range(0, 14, 2)]


def weighted(n, dtype="float64", seed=0):
    """A diagonal that is not of the form (22), and angles."""
    rng = np.random.default_rng(seed)
    angles = Angles(jnp.asarray(rng.normal(size=3), dtype), jnp.asarray(rng.normal(size=3), dtype))
    return jnp.asarray(rng.normal(size=2**n), dtype), angles


def dense_state(diagonal, angles):
    """The definition, with matrix exponentials."""
    n = int(np.log2(len(diagonal)))
    flips = np.zeros((2**n, 2**n))
    for q in range(n):
        for i in range(2**n):
            flips[i, i ^ (1 << q)] += 1
    state = np.full(2**n, 2 ** (-n / 2), complex)
    for gamma, beta in zip(np.asarray(angles.cost_angles, float), np.asarray(angles.mixer_angles, float)):
        state = expm(-1j * beta * flips) @ (np.exp(-1j * gamma * np.asarray(diagonal, float)) * state)
    return state


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("n", "group"), [(1, 4), (5, 1), (5, 2), (6, 4), (7, 3)])
def test_amplitudes_are_those_of_the_definition(n, group, dtype):
    diagonal, angles = weighted(n, dtype)
    expected = dense_state(diagonal, angles)
    state = qaoa_state(diagonal, angles, group=group)
    assert state.dtype == {"float64": "complex128", "float32": "complex64"}[dtype]
    tolerance = {"float64": 1e-13, "float32": 2e-6}[dtype]
    np.testing.assert_allclose(state, expected, atol=tolerance)
    np.testing.assert_allclose(qaoa_probabilities(diagonal, angles, group=group), np.abs(expected) ** 2, atol=tolerance)
    np.testing.assert_allclose(jnp.sum(jnp.abs(state) ** 2), 1, atol=tolerance)
    energy = np.asarray(diagonal, float) @ np.abs(expected) ** 2
    assert_close(qaoa_energy(diagonal, angles, group=group), energy, 1e-12, 1e-5)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_undoing_the_layers_gives_the_traced_derivatives(dtype):
    """Also in the diagonal. Float32 error grows with the layers undone: measured 3e-6."""
    diagonal, angles = weighted(8, dtype)

    def slopes(adjoint):
        return jax.grad(lambda d, a: 1.7 * qaoa_energy(d, a, adjoint=adjoint), argnums=(0, 1))(diagonal, angles)

    tolerance = {"float64": 1e-13, "float32": 3e-5}[dtype]
    for got, wanted in zip(jax.tree.leaves(slopes(True)), jax.tree.leaves(slopes(False))):
        np.testing.assert_allclose(got, wanted, atol=tolerance)


@pytest.mark.thorough
def test_derivatives_are_those_of_differences():
    diagonal, angles = weighted(5)

    def energy(diagonal, gammas, betas, adjoint=True):  # differences are taken in numpy
        return qaoa_energy(jnp.asarray(diagonal), Angles(jnp.asarray(gammas), jnp.asarray(betas)), adjoint=adjoint)

    given = diagonal, angles.cost_angles, angles.mixer_angles
    check_grads(jax.jit(energy), given, order=1, modes=["rev"])
    check_grads(jax.jit(lambda *x: energy(*x, adjoint=False)), given, order=2, modes=["fwd", "rev"])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_jit_vmap_and_loop_agree_over_angles_and_weights(dtype):
    many = [weighted(6, dtype, seed) for seed in range(3)]
    diagonals, angles = (jax.tree.map(lambda *x: jnp.stack(x), *part) for part in zip(*many))
    assert_jit_vmap_loop_agree(jax.value_and_grad(qaoa_energy, argnums=1), diagonals, angles)


def test_memory_of_the_derivatives_does_not_grow_with_the_layers():
    diagonal, _ = weighted(12)

    def temporary(n_layers, adjoint):
        angles = linear_ramp(n_layers, 0.3, 0.5)
        slope = jax.jit(jax.grad(lambda a: qaoa_energy(diagonal, a, adjoint=adjoint)))
        return slope.lower(angles).compile().memory_analysis().temp_size_in_bytes

    assert temporary(32, True) < temporary(2, True) + 2**14
    assert temporary(32, False) > 3 * temporary(32, True)


@pytest.mark.thorough
def test_published_constants_of_rings_and_of_a_graph_without_short_cycles():
    """(2p + 1)/(2p + 2) of an even ring of more than 2p + 1 vertices; 0.692450 and 0.755906 of 3-regular graphs of girth 6."""
    ring = cost_diagonal(ising(8, [(i, (i + 1) % 8) for i in range(8)]))
    heawood = cost_diagonal(ising(14, HEAWOOD))
    for diagonal, n_edges, p, share in (
        (ring, 8, 1, 3 / 4),
        (ring, 8, 2, 5 / 6),
        (ring, 8, 3, 7 / 8),
        (heawood, 21, 1, 0.6924500897),
        (heawood, 21, 2, 0.7559064585),
    ):
        found = optimise_angles(diagonal, ramp_starts(diagonal, p, 6))
        assert found.result == RESULTS.successful
        np.testing.assert_allclose((n_edges - found.stats["energy"]) / (2 * n_edges), share, atol=1e-9)
        # What is reported is what the angles give.
        np.testing.assert_allclose(qaoa_energy(diagonal, found.value), found.stats["energy"], atol=1e-9)


def test_energy_never_falls_below_the_cheapest_bitstring_and_deep_ramps_reach_it():
    diagonal = cost_diagonal(ising(6, random_regular_graph(6, 3, 1), 1.0, 0.3))
    energies = [float(qaoa_energy(diagonal, linear_ramp(p, 0.5, 0.5))) for p in (1, 4, 16, 64)]
    assert all(energy >= float(diagonal.min()) for energy in energies)
    assert energies == sorted(energies, reverse=True)
    assert energies[-1] < 0.98 * float(diagonal.min())


@pytest.mark.thorough
def test_the_unit_of_the_cost_does_not_matter():
    diagonal, _ = weighted(5)
    small, large = (optimise_angles(s * diagonal + s, ramp_starts(s * diagonal, 2, 4)) for s in (1e-4, 1e4))
    np.testing.assert_allclose(small.stats["energy"] * 1e8, large.stats["energy"], rtol=1e-6)
    np.testing.assert_allclose(small.value.cost_angles, 1e8 * large.value.cost_angles, rtol=1e-3)


@pytest.mark.thorough
def test_the_search_works_in_single_precision_beside_double():
    """The angles come in the diagonal's precision whatever else is in force; four digits of the energy."""
    diagonal, _ = weighted(5)
    wide, narrow = (optimise_angles(d, ramp_starts(d, 2, 3)) for d in (diagonal, diagonal.astype("float32")))
    assert narrow.value.cost_angles.dtype == "float32"
    np.testing.assert_allclose(narrow.stats["energy"], wide.stats["energy"], rtol=1e-4)
    mixed = Angles(jnp.asarray([0.3]), jnp.asarray([0.2]))
    assert qaoa_energy(diagonal.astype("float32"), mixed).dtype == "float32"


def test_equal_costs_leave_nothing_to_find():
    found = optimise_angles(jnp.full(8, 2.5), ramp_starts(jnp.full(8, 2.5), 2, 3))
    np.testing.assert_allclose(found.stats["energy"], 2.5, atol=1e-12)
    assert np.isfinite(found.value.cost_angles).all()


def test_measurements_have_the_probabilities():
    """Every frequency within five standard errors."""
    diagonal, angles = weighted(4)
    probabilities = qaoa_probabilities(diagonal, angles)
    n = 20_000
    drawn = sample_indices(probabilities, jax.random.key(3), n)
    frequency = np.bincount(drawn, minlength=16) / n
    assert (np.abs(frequency - probabilities) <= 5 * np.sqrt(probabilities * (1 - probabilities) / n)).all()
    certain = sample_indices(jnp.zeros(8, jnp.float32).at[5].set(1), jax.random.key(0), 100)
    assert (certain == 5).all()


def test_more_layers_start_where_fewer_ended():
    angles = linear_ramp(2, 1.0, 1.0)
    np.testing.assert_allclose(interpolate_angles(angles, 3).cost_angles, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(linear_ramp(3, 1.0, 1.0).mixer_angles, [-5 / 6, -1 / 2, -1 / 6])


@pytest.mark.thorough
def test_reference_cases_in_both_precisions():
    """Independent state vectors, recomputed with PennyLane."""
    for case in json.loads(SHIPPED_SOLVERS.read_text())["cases"]:
        if case["kind"] != "qaoa_energy":
            continue
        given, expected, allowed = case["inputs"], case["expected"], case["tolerance"]
        found = ising(given["n_vertices"], given["edges"], given["weights"], given["fields"])
        for dtype, suffix in (("float64", ""), ("float32", "_float32")):
            diagonal = cost_diagonal(found).astype(dtype)
            angles = Angles(*(jnp.asarray(given[name], dtype) for name in ("cost_angles", "mixer_angles")))
            energy, slope = jax.value_and_grad(lambda a, d=diagonal: qaoa_energy(d, a))(angles)
            for got, name in (
                (energy, "energy"),
                (slope.cost_angles, "gradient_cost_angles"),
                (slope.mixer_angles, "gradient_mixer_angles"),
            ):
                limits = {"rtol": allowed[f"rel{suffix}"], "atol": allowed[f"abs{suffix}"]}
                np.testing.assert_allclose(got, expected[name], **limits, err_msg=case["id"])
        if expected["ground_bits"] is not None:
            best = bits_of(jnp.argmin(cost_diagonal(found)), found.n_vertices)
            np.testing.assert_array_equal(best, expected["ground_bits"])
            assert index_of(best) == jnp.argmin(cost_diagonal(found))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"diagonal has 6 entries, expected 2\^n"):
        qaoa_energy(jnp.zeros(6), linear_ramp(1, 1.0, 1.0))
    with pytest.raises(ValueError, match=r"the diagonal is float64\[4, 8\], expected one vector of floats; vmap"):
        qaoa_probabilities.__wrapped__(jnp.zeros((4, 8)), linear_ramp(1, 1.0, 1.0))
    uneven = eqx.tree_at(lambda a: a.mixer_angles, linear_ramp(2, 1.0, 1.0), jnp.zeros(1))
    with pytest.raises(ValueError, match="2 cost angles and 1 mixer angles"):
        qaoa_energy(jnp.zeros(8), uneven)
