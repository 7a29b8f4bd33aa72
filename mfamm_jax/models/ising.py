r"""Ising costs (22) on a graph and their binary form (QUBO):

$$H = \sum_{(u,v)\in E} J_{uv} Z_u Z_v + \sum_v h_v Z_v + \text{offset}, \qquad
  x_v = \tfrac12(1 - Z_v) \in \{0, 1\}.$$

Printed (22) has no fields h, so that a bitstring and its complement cost the same and no choice can be expressed; `with_ancilla` brings
any H into the printed form with one vertex more. Bit 0 is Z = +1; vertex 0 is the most significant bit of a basis index and comes
first in lists. A maximum cut is a minimum of $\sum w_{uv} Z_u Z_v$: cut = $\sum w_{uv}(1 - Z_uZ_v)/2$.

Source: docs/equations.md, (22); Lucas (2014) for the binary forms.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

MOST_VERTICES = 31  # basis indices are 32 bits, one of which is never set
MOST_BYTES = (
    2**34
)  # of vectors over all bitstrings, where the device does not say how much it has and the caller allows no more


class Ising(eqx.Module):
    """H of the module's formula; sums over edges run over the rows of `edges`. Batches share their edges or not, as you vmap.

    Args:
        couplings: J of every edge.
        fields: h of every vertex.
        offset: Constant.
        edges: Pairs of different vertices, each pair once. An array, so that one compile serves graphs of equal size.
    """

    couplings: Float[Array, "*batch edge"]
    fields: Float[Array, "*batch vertex"]
    offset: Float[Array, "*batch"]
    edges: Int[Array, "*shared edge 2"]

    @property
    def n_vertices(self) -> int:
        """Spins."""
        return self.fields.shape[-1]

    def energy(self, bits: Int[Array, "*sets vertex"]) -> Float[Array, "*sets"]:
        """H of bitstrings."""
        z = 1 - 2 * bits.astype(self.fields.dtype)
        pairs = z[..., self.edges[:, 0]] * z[..., self.edges[:, 1]]
        return pairs @ self.couplings + z @ self.fields + self.offset


def ising(
    n_vertices: int,
    edges: Any,
    couplings: Any = 1.0,
    fields: Any = 0.0,
    offset: Any = 0.0,
) -> Ising:
    """H from concrete edges, one number or one per edge and vertex.

    Raises:
        ValueError: Names the first edge or number that cannot be.
    """
    real = jnp.result_type(float)
    given = np.asarray(edges)
    if given.size and (given.ndim != 2 or given.shape[1] != 2 or (given != np.floor(given)).any()):
        raise ValueError(f"edges have shape {given.shape}, expected pairs of whole numbers; weights go into couplings")
    pairs = given.reshape(-1, 2).astype(np.int64)
    for name, numbers, n in (("couplings", couplings, len(pairs)), ("fields", fields, n_vertices)):
        if np.shape(numbers) not in ((), (n,)):
            raise ValueError(f"{name} have shape {np.shape(numbers)}, expected one number or {n}")
    ordered = np.sort(pairs, axis=1)
    for row, (u, v) in enumerate(ordered):
        if not 0 <= u < v < n_vertices:
            raise ValueError(
                f"edge {row} is {tuple(pairs[row].tolist())}, expected two vertices of 0..{n_vertices - 1}"
            )
    unique, counts = np.unique(ordered, axis=0, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"edge {tuple(unique[np.argmax(counts > 1)].tolist())} occurs twice, expected every pair once")
    answer = Ising(
        jnp.broadcast_to(jnp.asarray(couplings, real), (len(pairs),)),
        jnp.broadcast_to(jnp.asarray(fields, real), (n_vertices,)),
        jnp.asarray(offset, real),
        jnp.asarray(pairs, jnp.int32),
    )
    _check_finite(couplings=answer.couplings, fields=answer.fields, offset=answer.offset)
    return answer


def _check_finite(**numbers: Array) -> None:
    """Concrete ones; tracers pass."""
    for name, x in numbers.items():
        if isinstance(x, jax.core.Tracer):
            continue
        values = np.asarray(x)  # plain numpy: under a trace jax would trace the check as well
        if not np.isfinite(values).all():
            raise ValueError(f"{name} hold {values[~np.isfinite(values)].flat[0]}, expected finite numbers")


def ising_of_matrix(weights: Any, fields: Any = 0.0) -> Ising:
    """H of a symmetric matrix of couplings, every pair once: $\\sum_{u<v} w_{uv} Z_u Z_v$.

    Raises:
        ValueError: If the matrix is not square, symmetric and finite with a zero diagonal.
    """
    matrix = np.asarray(weights, float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"weights have shape {matrix.shape}, expected a square matrix")
    if not np.isfinite(matrix).all():
        u, v = np.argwhere(~np.isfinite(matrix))[0]
        raise ValueError(f"weights[{u}, {v}] is {matrix[u, v]}, expected a finite number")
    uneven = np.abs(matrix - matrix.T) > 1e-12 * np.abs(matrix).max(initial=0)
    if uneven.any():
        u, v = np.argwhere(uneven)[0]
        raise ValueError(
            f"weights[{u}, {v}] is {matrix[u, v]:g} and weights[{v}, {u}] {matrix[v, u]:g}, expected a symmetric matrix: "
            "each pair counts once"
        )
    if np.diag(matrix).any():
        raise ValueError("weights have a diagonal, expected zeros: Z Z = 1 is a constant")
    edges = np.argwhere(np.triu(matrix != 0, 1))
    return ising(len(matrix), edges, matrix[edges[:, 0], edges[:, 1]], fields)


def qubo_to_ising(
    linear: Float[Array, " variable"],
    pairs: Int[Array, "pair 2"],
    quadratic: Float[Array, " pair"],
    offset: Float[Array, ""] | float = 0.0,
) -> Ising:
    r"""$\min \sum q_v x_v + \sum R_{uv} x_u x_v$ as H: $J = R/4$, $h_v = -(q_v/2 + \sum_u R_{uv}/4)$. Differentiable."""
    _check_finite(linear=linear, quadratic=quadratic)
    shares = 0.25 * quadratic
    at_vertex = jnp.zeros_like(linear).at[pairs[:, 0]].add(shares).at[pairs[:, 1]].add(shares)
    constant = offset + 0.5 * jnp.sum(linear) + jnp.sum(shares)
    return Ising(shares, -(0.5 * linear + at_vertex), constant, pairs)


def ising_to_qubo(
    model: Ising,
) -> tuple[Float[Array, " vertex"], Float[Array, " edge"], Float[Array, ""]]:
    """Linear and quadratic coefficients (in the order of the edges) and offset of the same cost in bits."""
    at_vertex = jnp.zeros_like(model.fields)
    for end in (0, 1):
        at_vertex = at_vertex.at[model.edges[:, end]].add(model.couplings)
    constant = model.offset + jnp.sum(model.couplings) + jnp.sum(model.fields)
    return -2 * (model.fields + at_vertex), 4 * model.couplings, constant


def with_ancilla(model: Ising) -> Ising:
    """The same costs in the printed form (22): a new vertex 0 is coupled to every vertex by its field.

    Both ground states decode to one choice: `without_ancilla` of their bits.
    """
    n = model.n_vertices
    new = jnp.stack([jnp.zeros(n, jnp.int32), jnp.arange(1, n + 1, dtype=jnp.int32)], axis=1)
    fields = jnp.zeros(n + 1, model.fields.dtype)
    couplings = jnp.concatenate([model.fields, model.couplings])
    return Ising(couplings, fields, model.offset, jnp.concatenate([new, model.edges.astype(jnp.int32) + 1]))


def without_ancilla(bits: Int[Array, "*sets vertex"]) -> Int[Array, "*sets choice"]:
    """x_v = (1 - Z_0 Z_v)/2: a choice from bits with the ancilla first."""
    return bits[..., 1:] ^ bits[..., :1]


def cost_diagonal(model: Ising, memory_limit: int | None = None) -> Float[Array, " bitstring"]:
    """H of every bitstring, vertex 0 the most significant bit: the diagonal of $H_C$. Its minimum is the best cost there is.

    Args:
        model: H.
        memory_limit: Bytes for a state and what its derivatives need; None = what the device says it has, or `MOST_BYTES`.

    Raises:
        ValueError: If such vectors exceed the memory limit; says by how much.
    """
    n = model.n_vertices
    needed = bytes_needed(n, model.fields.dtype)
    limit = device_bytes() if memory_limit is None else memory_limit
    if needed > limit or n > MOST_VERTICES:
        amount = f"{needed / 2**30:,.1f} GiB" if n < 64 else f"9 x 2^{n} numbers"
        raise ValueError(
            f"{n} vertices need {amount} for vectors over all bitstrings, more than the limit of "
            f"{limit / 2**30:,.1f} GiB: use fewer vertices, one_layer_energy (any size), or raise memory_limit"
        )
    index = jnp.arange(2**n, dtype=jnp.uint32)

    def sign(shift: Array) -> Array:
        return 1 - 2 * ((index >> shift) & 1).astype(model.fields.dtype)

    # Signs are made again for derivatives: kept, they would take the number of edges times 2^n.
    @jax.checkpoint
    def add(total: Array, term: tuple[Array, Array, Array]) -> tuple[Array, None]:
        weight, first, second = term
        return total + weight * sign(first) * sign(second), None

    # A field is a coupling to a shift beyond the last bit, which is always +1.
    beyond = jnp.full(n, MOST_VERTICES, jnp.uint32)
    ends = (n - 1 - model.edges).astype(jnp.uint32)
    weights = jnp.concatenate([model.couplings, model.fields])
    first = jnp.concatenate([ends[:, 0], jnp.arange(n - 1, -1, -1, dtype=jnp.uint32)])
    second = jnp.concatenate([ends[:, 1], beyond])
    start = jnp.broadcast_to(model.offset, index.shape).astype(model.fields.dtype)
    return jax.lax.scan(add, start, (weights, first, second))[0]


def bytes_needed(n_vertices: int, dtype: Any) -> int:
    """For the diagonal, a state, its cotangent and their copies in the mixer: nine vectors."""
    return 9 * 2**n_vertices * np.dtype(dtype).itemsize


def device_bytes() -> int:
    """Memory of the device where it says so, otherwise `MOST_BYTES`."""
    facts = jax.local_devices()[0].memory_stats()
    return int(facts["bytes_limit"]) if facts and "bytes_limit" in facts else MOST_BYTES


def bits_of(index: Int[Array, "*sets"], n_vertices: int) -> Int[Array, "*sets vertex"]:
    """The bitstring of a basis index."""
    shifts = jnp.arange(n_vertices - 1, -1, -1, dtype=index.dtype)
    return ((index[..., None] >> shifts) & 1).astype(jnp.int32)


def index_of(bits: Int[Array, "*sets vertex"]) -> Int[Array, "*sets"]:
    """The basis index of a bitstring."""
    n = bits.shape[-1]
    return bits.astype(jnp.int32) @ (1 << jnp.arange(n - 1, -1, -1, dtype=jnp.int32))


def random_regular_graph(n_vertices: int, degree: int, seed: int | np.random.SeedSequence) -> np.ndarray:
    """Edges of a graph without loops or double edges, by pairing half edges until it works.

    Source: Steger & Wormald (1999); nearly uniform for small degrees.
    """
    if degree < 1 or degree >= n_vertices or n_vertices * degree % 2:
        raise ValueError(
            f"no {degree}-regular graph of {n_vertices} vertices: expected 0 < degree < vertices and an even product"
        )
    rng = np.random.default_rng(seed)
    while True:
        edges: set[tuple[int, int]] = set()
        free = np.repeat(np.arange(n_vertices), degree)
        while len(free):
            rng.shuffle(free)
            left = []
            for u, v in zip(free[::2].tolist(), free[1::2].tolist()):
                pair = (min(u, v), max(u, v))
                if u == v or pair in edges:
                    left += [u, v]
                else:
                    edges.add(pair)
            if not _can_pair(left, edges):
                break
            free = np.array(left, np.int64)
        if not len(free):
            return np.array(sorted(edges), np.int64)


def _can_pair(left: Sequence[int], edges: set[tuple[int, int]]) -> bool:
    """Whether any two half edges that are left may still be joined."""
    ends = sorted(set(left))
    return not left or any((u, v) not in edges for i, u in enumerate(ends) for v in ends[i + 1 :])
