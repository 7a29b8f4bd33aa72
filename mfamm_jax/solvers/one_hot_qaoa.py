r"""QAOA under a sum constraint: every lot is on exactly one of V venues, and the mixer moves it between them.

One qubit per lot and venue with $\frac12\sum(X_aX_b + Y_aY_b)$ as mixer never leaves the states with one excitation per lot. On those the circuit is
an evolution of $V^L$ amplitudes, L lots, each mixed by $e^{-i\beta A}$ with A the adjacency matrix of the venues (ring or complete graph); that is
what is simulated, exactly. The start, uniform over all assignments, is the mixer's own state.

Source: Hadfield et al. (2019); Wang, Rubin, Dominy & Rieffel (2020).
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int

from mfamm_jax.models.ising import device_bytes
from mfamm_jax.results import Solution
from mfamm_jax.solvers.qaoa import Angles, minimise_scaled

Moves = Literal["ring", "complete"]


def one_hot_state(
    cost: Float[Array, " assignment"], n_venues: int, angles: Angles, moves: Moves = "complete"
) -> Complex[Array, " assignment"]:
    """Amplitudes after all layers.

    Args:
        cost: Of every assignment: $V^L$ numbers, the venue of the first lot the most significant digit.
        n_venues: V.
        angles: Of every layer.
        moves: Which venues exchange a lot in one move.
    """
    n_lots = lots_of(cost.shape[0], n_venues)
    values, vectors = (jnp.asarray(x, cost.dtype) for x in np.linalg.eigh(adjacency(n_venues, moves)))

    def layer(state: Array, angle: tuple[Array, Array]) -> tuple[Array, None]:
        gamma, beta = angle
        state = state * jnp.exp(-1j * gamma * cost)
        matrix = (vectors * jnp.exp(-1j * beta * values)) @ vectors.T.astype(state.dtype)
        for _ in range(n_lots):
            state = jnp.matmul(matrix, state.reshape(-1, n_venues).T, precision="highest").reshape(-1)
        return state, None

    uniform = jnp.full(cost.shape, cost.shape[0] ** -0.5, cost.dtype) * (1 + 0j)
    each = angles.cost_angles.astype(cost.dtype), angles.mixer_angles.astype(cost.dtype)
    return jax.lax.scan(layer, uniform, each)[0]


def one_hot_energy(
    cost: Float[Array, " assignment"], n_venues: int, angles: Angles, moves: Moves = "complete"
) -> Float[Array, ""]:
    """Expected cost of an assignment."""
    return jnp.sum(cost * jnp.abs(one_hot_state(cost, n_venues, angles, moves)) ** 2)


def optimise_one_hot(
    cost: Float[Array, " assignment"],
    n_venues: int,
    starts: Angles,
    *,
    moves: Moves = "complete",
    max_iterations: int = 200,
    gradient_limit: float | None = None,
) -> tuple[Solution, Float[Array, " assignment"]]:
    """As `qaoa.optimise_angles`; also the probability of every assignment at the answer."""
    solution = minimise_scaled(
        cost, lambda unit, x: one_hot_energy(unit, n_venues, x, moves), starts, max_iterations, gradient_limit
    )
    return solution, jnp.abs(one_hot_state(cost, n_venues, solution.value, moves)) ** 2


def assignments(n_lots: int, n_venues: int, memory_limit: int | None = None) -> Int[Array, "assignment lot"]:
    """The venue of every lot, in the order of the amplitudes.

    Raises:
        ValueError: If the vectors over all assignments exceed the limit.
    """
    needed = 16 * n_venues**n_lots * (n_lots + 4)
    limit = device_bytes() if memory_limit is None else memory_limit
    if needed > limit or n_venues**n_lots >= 2**31:
        amount = f"{needed / 2**30:,.1f} GiB" if needed < 2**90 else f"over 10^{len(str(needed)) - 1} bytes"
        raise ValueError(
            f"{n_venues}^{n_lots} assignments need {amount}, more than the limit of {limit / 2**30:,.1f} GiB: use fewer lots"
        )
    index = jnp.arange(n_venues**n_lots, dtype=jnp.int32)
    places = jnp.asarray([n_venues**k for k in range(n_lots - 1, -1, -1)], jnp.int32)
    return (index[:, None] // places) % n_venues


def adjacency(n_venues: int, moves: Moves) -> np.ndarray:
    """Which venues exchange a lot."""
    if moves == "complete":
        return np.ones((n_venues, n_venues)) - np.eye(n_venues)
    steps = np.eye(n_venues, k=1) + np.eye(n_venues, k=1 - n_venues)
    return np.minimum(steps + steps.T, 1) * (1 - np.eye(n_venues))


def lots_of(n_assignments: int, n_venues: int) -> int:
    """L from $V^L$."""
    if n_venues < 2:
        raise ValueError(f"{n_venues} venue, expected at least two to choose from")
    n_lots = round(np.log(n_assignments) / np.log(n_venues))
    if n_venues**n_lots != n_assignments:
        raise ValueError(f"{n_assignments} costs of assignments, expected a power of {n_venues}, the number of venues")
    return n_lots
