"""The circuit of (22)-(24) in PennyLane, through its numpy interface: a second definition to compare with, drawings, OpenQASM.

PennyLane's JAX interface fails from jax 0.11 on; its numpy interface does not touch jax. `IsingZZ(2 gamma J)`, `RZ(2 gamma h)` and `RX(2 beta)` are the gates.
"""

from typing import Any, Literal

import numpy as np
import pennylane as qml
from jax.interpreters.partial_eval import DynamicJaxprTracer
from pennylane import numpy as qnp

from mfamm_jax.models.ising import Ising
from mfamm_jax.solvers.qaoa import Angles

# PennyLane makes traced numbers hashable, for wires that are traced. jax then compares functions that hold such numbers, which fails far away
# from here: its own rule is restored.
if getattr(vars(DynamicJaxprTracer).get("__hash__"), "__module__", "").startswith("pennylane"):
    del DynamicJaxprTracer.__hash__

Device = Literal["default.qubit", "lightning.qubit"]


def apply_circuit(model: Ising, cost_angles: Any, mixer_angles: Any) -> None:
    """Queues the gates on wires 0 .. n - 1, vertex 0 first; usable inside any QNode."""
    edges, couplings, fields = (np.asarray(x) for x in (model.edges, model.couplings, model.fields))
    for wire in range(model.n_vertices):
        qml.Hadamard(wire)
    for gamma, beta in zip(cost_angles, mixer_angles):
        for (u, v), weight in zip(edges.tolist(), couplings.tolist()):
            qml.IsingZZ(2 * gamma * weight, wires=(u, v))
        for vertex, field in enumerate(fields.tolist()):
            if field:
                qml.RZ(2 * gamma * field, vertex)
        for wire in range(model.n_vertices):
            qml.RX(2 * beta, wire)


def hamiltonian(model: Ising) -> qml.Hamiltonian:
    """(22) with fields, without the offset."""
    edges, couplings, fields = (np.asarray(x, float) for x in (model.edges, model.couplings, model.fields))
    terms = [(w, qml.PauliZ(int(u)) @ qml.PauliZ(int(v))) for (u, v), w in zip(edges, couplings)]
    terms += [(h, qml.PauliZ(v)) for v, h in enumerate(fields) if h]
    terms = terms or [(0.0, qml.PauliZ(0))]
    return qml.Hamiltonian([w for w, _ in terms], [op for _, op in terms])


def energy_and_gradient(
    model: Ising, angles: Angles, device: Device = "default.qubit"
) -> tuple[float, np.ndarray, np.ndarray]:
    """(24), offset included, and its derivatives in cost and mixer angles, by PennyLane in float64."""

    @qml.qnode(qml.device(device, wires=model.n_vertices), interface="autograd", diff_method="adjoint")
    def energy(cost_angles: Any, mixer_angles: Any) -> Any:
        apply_circuit(model, cost_angles, mixer_angles)
        return qml.expval(hamiltonian(model))

    given = [qnp.array(np.asarray(x, float), requires_grad=True) for x in (angles.cost_angles, angles.mixer_angles)]
    by_cost, by_mixer = (np.asarray(qml.grad(energy, argnums=i)(*given)) for i in (0, 1))
    return float(energy(*given)) + float(model.offset), by_cost, by_mixer


def draw(model: Ising, angles: Angles) -> str:
    """The circuit as text, one line per vertex."""
    return qml.draw(_circuit(model, angles), max_length=120)()


def to_openqasm(model: Ising, angles: Angles) -> str:
    """OpenQASM 2.0 with a measurement of every qubit: what a quantum computer would be given."""
    text: Any = qml.to_openqasm(_circuit(model, angles), measure_all=True)
    return text()


def _circuit(model: Ising, angles: Angles) -> Any:
    """A QNode of numbers, as drawings and OpenQASM need them."""
    cost_angles, mixer_angles = (np.asarray(x, float).tolist() for x in (angles.cost_angles, angles.mixer_angles))

    @qml.qnode(qml.device("default.qubit", wires=model.n_vertices))
    def circuit() -> Any:
        apply_circuit(model, cost_angles, mixer_angles)
        return qml.probs(wires=range(model.n_vertices))

    return circuit
