r"""QAOA (24) with one layer in closed form, for any weighted graph with fields and of any size: no state vector.

With g the cost angle, b the mixer angle and absent J = 0,

$$\langle Z_u\rangle = \sin 2b\,\sin 2gh_u \prod_w \cos 2gJ_{uw},$$
$$\langle Z_uZ_v\rangle = \tfrac12\sin 4b\,\sin 2gJ_{uv}\Big[\cos 2gh_u \prod_{w\ne v}\cos 2gJ_{uw} + \cos 2gh_v \prod_{w\ne u}\cos 2gJ_{vw}\Big]
  + \tfrac12\sin^2 2b\,\Big[\cos 2g(h_u - h_v)\prod_{w\ne u,v}\cos 2g(J_{uw} - J_{vw}) - \cos 2g(h_u + h_v)\prod_{w\ne u,v}\cos 2g(J_{uw} + J_{vw})\Big].$$

Source: Ozaeta, van Dam & McMahon (2022); Wang et al. (2018) without fields.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mfamm_jax.models.ising import Ising
from mfamm_jax.results import RESULTS, Solution, when
from mfamm_jax.solvers.descent import minimise
from mfamm_jax.solvers.qaoa import Angles

N_GRID = 48  # cost angles tried before the search
FURTHEST = 6.0  # of them, over the reciprocal of a vertex's typical weight


class Neighbours(eqx.Module):
    """Edges around edges and around vertices; the number of edges stands for "none".

    Args:
        at_edge: For every edge (u, v) and every other neighbour w of either: the edges (u, w) and (v, w).
        at_vertex: Edges of every vertex.
    """

    at_edge: Int[Array, "edge other 2"]
    at_vertex: Int[Array, "vertex degree"]


def neighbours_of(edges: Any, n_vertices: int) -> Neighbours:
    """Lists made once per graph, on the host; their width is that of the busiest edge and vertex."""
    pairs = np.asarray(edges, np.int64).reshape(-1, 2).tolist()
    around: list[dict[int, int]] = [{} for _ in range(n_vertices)]
    for number, (u, v) in enumerate(pairs):
        around[u][v] = around[v][u] = number
    none = len(pairs)
    others = [
        [
            (around[u].get(w, none), around[v].get(w, none))
            for w in sorted((around[u].keys() | around[v].keys()) - {u, v})
        ]
        for u, v in pairs
    ]
    at_edge = np.full((len(pairs), max(map(len, others), default=0), 2), none, np.int32)
    for number, row in enumerate(others):
        at_edge[number, : len(row)] = np.array(row, np.int32).reshape(-1, 2)
    at_vertex = np.full((n_vertices, max(map(len, around), default=0)), none, np.int32)
    for vertex, mine in enumerate(around):
        at_vertex[vertex, : len(mine)] = list(mine.values())
    return Neighbours(jnp.asarray(at_edge), jnp.asarray(at_vertex))


def one_layer_expectations(
    model: Ising, neighbours: Neighbours, cost_angle: Float[Array, ""], mixer_angle: Float[Array, ""]
) -> tuple[Float[Array, " vertex"], Float[Array, " edge"]]:
    r"""$\langle Z_v\rangle$ of every vertex and $\langle Z_uZ_v\rangle$ of every edge."""
    turn = 2 * jnp.asarray(cost_angle, model.fields.dtype)
    padded = jnp.concatenate([model.couplings, jnp.zeros(1, model.couplings.dtype)])
    at_vertex = padded[neighbours.at_vertex]
    sine, double = jnp.sin(2 * mixer_angle), jnp.sin(4 * mixer_angle)
    vertices = sine * jnp.sin(turn * model.fields) * jnp.prod(jnp.cos(turn * at_vertex), axis=1)

    others = padded[neighbours.at_edge]
    first, second = others[..., 0], others[..., 1]
    h_u, h_v = model.fields[model.edges[:, 0]], model.fields[model.edges[:, 1]]

    def product(weights: Array) -> Array:
        return jnp.prod(jnp.cos(turn * weights), axis=1)

    single = jnp.cos(turn * h_u) * product(first) + jnp.cos(turn * h_v) * product(second)
    both = jnp.cos(turn * (h_u - h_v)) * product(first - second) - jnp.cos(turn * (h_u + h_v)) * product(first + second)
    return vertices, 0.5 * (double * jnp.sin(turn * model.couplings) * single + sine**2 * both)


def one_layer_energy(
    model: Ising, neighbours: Neighbours, cost_angle: Float[Array, ""], mixer_angle: Float[Array, ""]
) -> Float[Array, ""]:
    """(24) with one layer, offset included."""
    vertices, edges = one_layer_expectations(model, neighbours, cost_angle, mixer_angle)
    return model.couplings @ edges + model.fields @ vertices + model.offset


def one_layer_angles(model: Ising, neighbours: Neighbours, n_starts: int = 8) -> Solution:
    r"""The best angles of one layer: a grid of cost angles, each with its best mixer angle, then L-BFGS from the lowest.

    For given g the energy is $A\sin 4b + B\sin 2b + C\sin^2 2b$, so the grid is fine in g only.

    Returns:
        `Solution` of `Angles` with one layer. Stats: energy.
    """
    # A vertex turns by 2 g times the root of its squared weights: beyond a few of its reciprocals products of cosines are noise.
    squares = jnp.mean(model.fields**2) + 2 * jnp.sum(model.couplings**2) / model.n_vertices
    size = jnp.sqrt(jnp.where(squares > 0, squares, 1))
    costs = jnp.linspace(0, FURTHEST, N_GRID + 1, dtype=model.fields.dtype)[1:] / (2 * size)
    mixers = jnp.linspace(-jnp.pi / 2, jnp.pi / 2, 33, dtype=model.fields.dtype)[:-1]

    scale = size * model.n_vertices

    def energy(scaled: Angles) -> Array:
        return one_layer_energy(model, neighbours, scaled.cost_angles[0] / size, scaled.mixer_angles[0]) / scale

    table = jax.lax.map(
        lambda g: jax.vmap(lambda b: one_layer_energy(model, neighbours, g, b))(mixers), costs
    )  # one cost angle at a time: large graphs
    lowest = jnp.argsort(jnp.min(table, axis=1))[:n_starts]
    starts = Angles((costs[lowest] * size)[:, None], mixers[jnp.argmin(table[lowest], axis=1)][:, None])
    limit = {8: 1e-9, 4: 1e-4}[model.fields.dtype.itemsize]
    found, norms, *_ = jax.lax.map(lambda start: minimise(energy, start, 100, limit), starts)
    energies = scale * jax.lax.map(energy, found)
    best = jnp.argmin(energies)
    answer = Angles(found.cost_angles[best] / size, found.mixer_angles[best])
    good = when(norms[best] <= limit, RESULTS.successful, RESULTS.not_converged)
    return Solution(answer, good, {"energy": energies[best]})


def regular_angles(degree: int) -> Angles:
    r"""Best angles of one layer for max-cut on a triangle-free regular graph of unit weights: $\tan 2\gamma = 1/\sqrt{D - 1}$, $\beta = -\pi/8$.

    Gives each edge $\tfrac12 + \tfrac1{2\sqrt D}(1 - 1/D)^{(D-1)/2}$ of a cut. Source: Wang et al. (2018).
    """
    if degree < 1:
        raise ValueError(f"degree is {degree}, expected at least 1")
    real = jnp.result_type(float)
    gamma = 0.5 * jnp.arctan2(jnp.asarray(1, real), jnp.sqrt(jnp.asarray(degree - 1, real)))
    return Angles(gamma[None], jnp.full(1, -jnp.pi / 8, real))
