r"""Graph network on the Poincare ball (16): nodes are strategies, edges say which strategies listen to each other, the answer is an allocation.

Layer: $m_j = (W \otimes h_j) \oplus b$, then node i moves to the mean of its neighbours' m with weights $\alpha_{ij}$, softmax of minus the squared
distance over the edges (itself included). Three means:

- `midpoint` (default): the gyromidpoint;
- `local_tangent`: $\exp_{m_i}\sum_j \alpha_{ij}\log_{m_i} m_j$;
- `rulebook`: $\exp_0\sum_j \alpha_{ij}\log_0 m_j$, (16) as printed. $\log_0$ undoes the $\exp_0$ of the layer before, so L layers without weights
  are one, $\exp_0(\alpha^L \log_0 h)$: Euclidean message passing in other words.

The same class with curvature 0 is the Euclidean network of the same size.

Source: docs/equations.md, (16); Chami, Ying, Re & Leskovec (2019) for the layer's parts.
"""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mfamm_jax.models import ball

Mean = Literal["midpoint", "local_tangent", "rulebook"]
# Below it a softmax is a maximum in any precision, and training would find no way back.
COLDEST = 0.01


def aggregate(
    points: Float[Array, "node dim"],
    attention: Float[Array, "node node"],
    curvature: Float[Array, ""] | float,
    mean: Mean,
) -> Float[Array, "node dim"]:
    """Every node moves to the mean of the nodes, with its row of `attention` as weights (they sum to 1)."""
    if mean == "midpoint":
        return jax.vmap(lambda w: ball.midpoint(points, w, curvature))(attention)
    if mean == "local_tangent":
        towards = ball.log_at(points[:, None], points[None], curvature)
        return ball.exp_at(points, jnp.einsum("ij,ijd->id", attention, towards), curvature)
    if mean == "rulebook":
        return ball.exp_origin(attention @ ball.log_origin(points, curvature), curvature)
    raise ValueError(f'mean is {mean!r}, expected "midpoint", "local_tangent" or "rulebook"')


def attention_by_distance(
    points: Float[Array, "node dim"],
    edges: Bool[Array, "node node"],
    temperature: Float[Array, ""],
    curvature: Float[Array, ""] | float,
) -> Float[Array, "node node"]:
    """Softmax of minus squared distance over temperature, along the edges and to itself."""
    apart = ball.distance(points[:, None], points[None], curvature)
    allowed = edges | jnp.eye(points.shape[0], dtype=bool)
    return jax.nn.softmax(-(apart**2) / temperature, axis=1, where=allowed)


class Layer(eqx.Module):
    """Weights of one layer.

    Args:
        matrix: W.
        offset: b, in the tangent space at the origin.
        log_temperature: Of the attention.
    """

    matrix: Float[Array, "out dim"]
    offset: Float[Array, " out"]
    log_temperature: Float[Array, ""]


class AllocationNetwork(eqx.Module):
    """Features of every strategy -> shares of capital.

    Args:
        entrance: From features to the tangent space at the origin.
        layers: Of the graph network, applied in turn.
        prototype: Point, in the tangent space, to whose nearness capital goes.
        log_temperature: Of the softmax over minus the distances to it.
        bias: By node: what a strategy is worth whatever its features say.
        curvature: c; 0 = Euclid.
        mean: How neighbours are averaged.
    """

    entrance: Float[Array, "dim feature"]
    layers: tuple[Layer, ...]
    prototype: Float[Array, " dim"]
    log_temperature: Float[Array, ""]
    bias: Float[Array, " node"]
    curvature: float = eqx.field(static=True)
    mean: Mean = eqx.field(static=True)

    def logits(self, features: Float[Array, "node feature"], edges: Bool[Array, "node node"]) -> Float[Array, " node"]:
        """Before the softmax."""
        return self.bias - self._distances(self.embed(features, edges)) / _temperature(self.log_temperature)

    def __call__(
        self, features: Float[Array, "node feature"], edges: Bool[Array, "node node"]
    ) -> Float[Array, " node"]:
        """Shares of capital, positive, with sum 1."""
        return jax.nn.softmax(self.logits(features, edges))

    def embed(
        self, features: Float[Array, "node feature"], edges: Bool[Array, "node node"]
    ) -> Float[Array, "node dim"]:
        """Points of the strategies on the ball (or in the plane)."""
        start = features @ self.entrance.T
        return self._euclidean(start, edges) if self.curvature == 0 else self._hyperbolic(start, edges)

    def _hyperbolic(self, tangents: Array, edges: Array) -> Array:
        c = self.curvature
        points = ball.project(ball.exp_origin(tangents, c), c)
        for layer in self.layers:
            moved = ball.mobius_add(ball.mobius_matvec(layer.matrix, points, c), ball.exp_origin(layer.offset, c), c)
            moved = ball.project(moved, c)
            attention = attention_by_distance(moved, edges, _temperature(layer.log_temperature), c)
            averaged = ball.project(aggregate(moved, attention, c, self.mean), c)
            points = ball.project(ball.exp_origin(jnp.tanh(ball.log_origin(averaged, c)), c), c)
        return points

    def _euclidean(self, points: Array, edges: Array) -> Array:
        allowed = edges | jnp.eye(points.shape[0], dtype=bool)
        for layer in self.layers:
            moved = points @ layer.matrix.T + layer.offset
            apart = jnp.sum((moved[:, None] - moved[None]) ** 2, axis=-1)
            attention = jax.nn.softmax(-apart / _temperature(layer.log_temperature), axis=1, where=allowed)
            points = jnp.tanh(attention @ moved)
        return points

    def _distances(self, points: Array) -> Array:
        if self.curvature == 0:
            square = jnp.sum((points - self.prototype) ** 2, axis=-1)
            return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
        prototype = ball.project(ball.exp_origin(self.prototype, self.curvature), self.curvature)
        return ball.distance(points, jnp.broadcast_to(prototype, points.shape), self.curvature)


def _temperature(logarithm: Float[Array, ""]) -> Float[Array, ""]:
    return COLDEST + jnp.exp(jnp.minimum(logarithm, 10.0))


def first_network(
    key: PRNGKeyArray,
    *,
    n_nodes: int,
    n_features: int,
    dim: int = 8,
    n_layers: int = 2,
    curvature: float = 1.0,
    mean: Mean = "midpoint",
) -> AllocationNetwork:
    """Random weights; the shares start near equal."""
    dtype = jnp.result_type(float)

    def normal(index: int, shape: tuple[int, ...], scale: float) -> Array:
        return scale * jax.random.normal(jax.random.fold_in(key, index), shape, dtype)

    layers = tuple(
        Layer(
            jnp.eye(dim, dtype=dtype) + normal(3 * i, (dim, dim), 0.1),
            normal(3 * i + 1, (dim,), 0.05),
            jnp.zeros((), dtype),
        )
        for i in range(n_layers)
    )
    return AllocationNetwork(
        entrance=normal(1001, (dim, n_features), 0.3 / np.sqrt(n_features)),
        layers=layers,
        prototype=normal(1002, (dim,), 0.3),
        log_temperature=jnp.asarray(-1.5, dtype),
        bias=jnp.zeros(n_nodes, dtype),
        curvature=curvature,
        mean=mean,
    )


def correlation_edges(correlation: Float[Array, "node node"], threshold: float = 0.2) -> Bool[Array, "node node"]:
    """An edge where the correlation is at least the threshold in size. Host.

    Raises:
        ValueError: A graph in parts that never hear of each other: a lower threshold joins them.
    """
    size = np.abs(np.asarray(correlation))
    edges = (size >= threshold) & ~np.eye(len(size), dtype=bool)
    check_connected(edges, f"lower the threshold, {threshold:g}")
    return jnp.asarray(edges)


def check_connected(edges: Bool[Array, "node node"] | np.ndarray, remedy: str) -> None:
    """Raises ValueError naming a node that cannot be reached from the first."""
    edges = np.asarray(edges)
    reached = np.zeros(len(edges), bool)
    reached[0] = True
    for _ in range(len(edges)):
        reached |= (edges[reached].any(axis=0)) | (edges[:, reached].any(axis=1))
    if not reached.all():
        node = int(np.flatnonzero(~reached)[0])
        raise ValueError(
            f"the graph has parts without an edge between them (node {node + 1} is not reached from node 1): {remedy}"
        )
