"""PennyLane's circuit is ours: amplitudes, energies, derivatives; what it prints can be read."""

import jax
import jax.numpy as jnp
import numpy as np
import pennylane as qml
import pytest

from mfamm_jax.models.ising import cost_diagonal, ising
from mfamm_jax.solvers.qaoa import Angles, qaoa_energy, qaoa_state
from mfamm_jax.solvers.qaoa_pennylane import apply_circuit, draw, energy_and_gradient, to_openqasm

MODEL = ising(4, [(0, 1), (1, 2), (2, 3), (0, 3)], [0.3, -0.5, 1.0, 0.2], [0.1, 0, -0.4, 0.3], 0.7)
ANGLES = Angles(jnp.asarray([0.3, 0.5]), jnp.asarray([-0.4, 0.2]))


def test_importing_it_leaves_jax_as_it_was():
    """PennyLane makes traced numbers hashable, after which functions of traced modules are compared and jit fails."""

    def traced(x):
        with pytest.raises(TypeError, match="unhashable"):
            hash(x)
        return x

    jax.jit(traced)(1.0)


@pytest.mark.parametrize("device", ["default.qubit", "lightning.qubit"])
def test_energy_and_derivatives_agree(device):
    diagonal = cost_diagonal(MODEL)
    energy, slope = jax.value_and_grad(lambda a: qaoa_energy(diagonal, a))(ANGLES)
    theirs = energy_and_gradient(MODEL, ANGLES, device)
    for got, wanted in zip((energy, slope.cost_angles, slope.mixer_angles), theirs):
        np.testing.assert_allclose(got, wanted, atol=1e-12)


def test_amplitudes_agree_up_to_a_phase_and_in_the_order_of_the_bits():
    @qml.qnode(qml.device("default.qubit", wires=4))
    def state():
        apply_circuit(MODEL, *(np.asarray(x) for x in (ANGLES.cost_angles, ANGLES.mixer_angles)))
        return qml.state()

    theirs, ours = np.asarray(state()), np.asarray(qaoa_state(cost_diagonal(MODEL), ANGLES))
    phase = np.vdot(theirs, ours)
    np.testing.assert_allclose(abs(phase), 1, atol=1e-12)
    np.testing.assert_allclose(ours, phase * theirs, atol=1e-12)


def test_openqasm_has_every_gate_of_every_layer():
    """A coupling is two CNOTs around a rotation; three vertices have a field."""
    lines = to_openqasm(MODEL, ANGLES).splitlines()
    assert lines[0] == "OPENQASM 2.0;"
    counts = {
        gate: sum(line.startswith(f"{gate} ") or line.startswith(f"{gate}(") for line in lines)
        for gate in ("h", "cx", "rz", "rx", "measure")
    }
    assert counts == {"h": 4, "cx": 16, "rz": 14, "rx": 8, "measure": 4}
    assert f"rx({2 * 0.2}) q[3];" in lines


def test_the_drawing_has_a_line_per_vertex():
    text = draw(MODEL, ANGLES)
    assert all(f"{vertex}: " in text for vertex in range(4))
    assert "IsingZZ(0.18)" in text
