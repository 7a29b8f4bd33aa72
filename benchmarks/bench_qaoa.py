"""QAOA (24) on one core: milliseconds per energy and per energy with its gradient, against PennyLane's default.qubit and lightning.qubit.

    uv run --extra full python benchmarks/bench_qaoa.py [--gpu]

Max-cut on random 3-regular graphs of unit weights. default.qubit runs compiled by jax with backpropagation (in complex64 and complex128, where
PennyLane's JAX interface works: jax < 0.11); lightning.qubit by its adjoint derivatives, in complex64 and complex128. Every row says how far its energy
is from ours in complex128. Compile time is printed apart and not counted.

`bytes_per_layer` is what a layer has to read and write at least: both planes once per product of the mixer and once for the phase, the diagonal
once. `gb_per_s` is that over the time of a forward layer (from 4 and 8 layers); beside it the bandwidth of a copy of the same size in the same run.

With --gpu: 20 to 26 qubits and a batch of 1,024 weight sets at 12 qubits, without peers.
"""

import os
import sys

GPU = "--gpu" in sys.argv
if not GPU:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


import jax
import jax.numpy as jnp
import numpy as np
from machine import compiled, timed, write_results

from mfamm_jax.models.ising import Ising, cost_diagonal, ising, random_regular_graph
from mfamm_jax.solvers.qaoa import GROUP, linear_ramp, qaoa_energy

SIZES = ((12, 4), (14, 4), (14, 8), (16, 4), (16, 8), (18, 4))
MOST_DEFAULT = 16  # qubits: its compile time grows with the gates


def problem(n, p, dtype):
    """Graph, diagonal and angles."""
    model = ising(n, random_regular_graph(n, 3, 0))
    angles = linear_ramp(p, 0.5, 0.6)
    cast = lambda x: x.astype(dtype)  # noqa: E731
    return model, cast(cost_diagonal(model)), jax.tree.map(cast, angles)


def by_default_qubit(model):
    """Energy by default.qubit under jit, in the precision that jax has."""
    import pennylane as qml

    from mfamm_jax.solvers.qaoa_pennylane import apply_circuit, hamiltonian

    observable = hamiltonian(model)

    @qml.qnode(qml.device("default.qubit", wires=model.n_vertices), interface="jax", diff_method="backprop")
    def energy(cost_angles, mixer_angles):
        apply_circuit(model, cost_angles, mixer_angles)
        return qml.expval(observable)

    return lambda angles: energy(angles.cost_angles, angles.mixer_angles)


def by_lightning(model, dtype):
    """Energy, and energy with gradient, by lightning.qubit on numpy angles."""
    import pennylane as qml
    from pennylane import numpy as qnp

    from mfamm_jax.solvers.qaoa_pennylane import apply_circuit, hamiltonian

    complex_type = {"float32": np.complex64, "float64": np.complex128}[dtype]
    observable = hamiltonian(model)
    device = qml.device("lightning.qubit", wires=model.n_vertices, c_dtype=complex_type)

    @qml.qnode(device, interface="autograd", diff_method="adjoint")
    def energy(cost_angles, mixer_angles):
        apply_circuit(model, cost_angles, mixer_angles)
        return qml.expval(observable)

    slope = qml.grad(energy, argnums=[0, 1])

    def given(angles):
        return [qnp.array(np.asarray(x, float), requires_grad=True) for x in (angles.cost_angles, angles.mixer_angles)]

    def both(angles):
        found = slope(*given(angles))
        return slope.forward, found

    return lambda angles: energy(*given(angles)), both


def copy_bandwidth(n, dtype):
    """Bytes per second of reading and writing as much as a state."""
    x = jnp.ones(2 * 2**n, dtype)
    run, _ = compiled(lambda y: y + 1, x)
    return 2 * x.nbytes / timed(lambda: run(x), 20)[1]


def bytes_per_layer(n, dtype):
    """Least traffic of a forward layer."""
    planes = 2 * 2**n * np.dtype(dtype).itemsize
    return 2 * planes * (-(-n // GROUP) + 1) + planes // 2


def main():
    """Prints and writes the table."""
    rows = []

    def add(what, n, p, dtype, forward, both, compile_s, energy, exact, **more):
        row = {"what": what, "n": n, "layers": p, "dtype": dtype, "energy_ms": round(1e3 * float(forward[1]), 4)}
        row |= {"gradient_ms": round(1e3 * float(both[1]), 4), "gradient_cpu_ms": round(1e3 * float(both[0]), 4)}
        row |= {
            "compile_s": round(compile_s, 2),
            "relative_error": float(f"{abs(float(energy) / exact - 1):.1e}"),
            **more,
        }
        rows.append(row)
        print(row, flush=True)
        return row

    for n, p in SIZES:
        exact = None
        for dtype in ("float64", "float32"):
            with jax.enable_x64(True):
                model, diagonal, angles = problem(n, p, dtype)
                forward, _ = compiled(qaoa_energy, diagonal, angles)
                both, compile_s = compiled(jax.value_and_grad(lambda a, d: qaoa_energy(d, a)), angles, diagonal)
                energy = forward(diagonal, angles)
                exact = float(energy) if exact is None else exact
                times = timed(lambda: forward(diagonal, angles)), timed(lambda: both(angles, diagonal))
                traffic = bytes_per_layer(n, dtype)
                deeper, _ = compiled(qaoa_energy, diagonal, linear_ramp_of(2 * p, dtype))
                ramp = linear_ramp_of(2 * p, dtype)
                layer = (timed(lambda: deeper(diagonal, ramp))[1] - times[0][1]) / p
                ours = add(
                    "ours",
                    n,
                    p,
                    dtype,
                    *times,
                    compile_s,
                    energy,
                    exact,
                    bytes_per_layer=traffic,
                    gb_per_s=round(traffic / layer / 1e9, 1),
                    copy_gb_per_s=round(copy_bandwidth(n, dtype) / 1e9, 1),
                )
            theirs, both_theirs = by_lightning(model, dtype)
            energy = theirs(angles)
            times = timed(lambda: theirs(angles), 3), timed(lambda: both_theirs(angles), 3)
            row = add("lightning.qubit, adjoint", n, p, dtype, *times, 0.0, energy, exact)
            row["over_ours"] = round(row["gradient_ms"] / ours["gradient_ms"], 2)
            if n <= MOST_DEFAULT and (n, p) != (16, 8):
                try:
                    with jax.enable_x64(dtype == "float64"):
                        given = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), dtype), angles)
                        function = by_default_qubit(model)
                        forward, _ = compiled(function, given)
                        both, compile_s = compiled(jax.value_and_grad(function), given)
                        times = timed(lambda: forward(given), 3), timed(lambda: both(given), 3)
                        row = add("default.qubit, jit", n, p, dtype, *times, compile_s, forward(given), exact)
                        row["over_ours"] = round(row["gradient_ms"] / ours["gradient_ms"], 2)
                except Exception as error:  # PennyLane's JAX interface fails from jax 0.11 on
                    print(f"default.qubit under jit: {type(error).__name__}: {str(error).splitlines()[0]}")
    for row in rows:
        if "over_ours" in row:
            print(f"{row['what']}, n = {row['n']}, p = {row['layers']}, {row['dtype']}: {row['over_ours']} x our time")
    write_results("qaoa", rows)


def linear_ramp_of(p, dtype):
    """The ramp in a precision."""
    return jax.tree.map(lambda x: x.astype(dtype), linear_ramp(p, 0.5, 0.6))


def on_gpu():
    """Larger states, and a batch of weight sets."""
    rows = []
    for n in (20, 22, 24, 26):
        for group in (4, 5, 6):
            diagonal = cost_diagonal(ising(n, random_regular_graph(n, 3, 0))).astype("float32")
            angles = linear_ramp_of(8, "float32")
            forward, _ = compiled(lambda d, a, g=group: qaoa_energy(d, a, group=g), diagonal, angles)
            both, compile_s = compiled(
                jax.value_and_grad(lambda a, d, g=group: qaoa_energy(d, a, group=g)), angles, diagonal
            )
            times = timed(lambda: forward(diagonal, angles)), timed(lambda: both(angles, diagonal))
            bound = 8 * (2**n * (16 * (-(-n // group) + 1) + 4)) / copy_bandwidth(n, "float32")
            rows.append(
                {
                    "what": "ours, GPU",
                    "n": n,
                    "layers": 8,
                    "group": group,
                    "energy_ms": round(1e3 * float(times[0][1]), 3),
                    "gradient_ms": round(1e3 * float(times[1][1]), 3),
                    "compile_s": round(compile_s, 2),
                    "over_copy_bound": round(float(times[0][1]) / float(bound), 2),
                }
            )
            print(rows[-1], flush=True)
    edges = jnp.asarray(random_regular_graph(12, 3, 0), jnp.int32)
    weights = jax.random.normal(jax.random.key(0), (1024, 18))
    angles = linear_ramp_of(4, "float32")

    def one(w, a):
        return qaoa_energy(cost_diagonal(Ising(w, jnp.zeros(12), jnp.zeros(()), edges)), a)

    batch, compile_s = compiled(jax.vmap(jax.value_and_grad(one, argnums=1), in_axes=(0, None)), weights, angles)
    seconds = timed(lambda: batch(weights, angles))
    rows.append(
        {
            "what": "ours, GPU, 1,024 weight sets",
            "n": 12,
            "layers": 4,
            "gradient_ms": round(1e3 * float(seconds[1]), 3),
            "compile_s": round(compile_s, 2),
        }
    )
    print(rows[-1])
    write_results("qaoa_gpu", rows)


if __name__ == "__main__":
    on_gpu() if GPU else main()
