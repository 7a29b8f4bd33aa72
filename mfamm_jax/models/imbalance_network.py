r"""Deep order-book imbalance (6): a small convolutional network from a grid of the book to an embedding and a score in [-1, 1].

With g the convolutional network and $\bar x$ the grid with bid and ask swapped,

$$\phi(x) = \frac{g(x) - g(\bar x)}{\|g(x) - g(\bar x)\|}, \qquad \phi(\bar x) = -\phi(x),$$

and both heads are odd functions of $\phi$, so that $DOI(\bar x) = -DOI(x)$ to the last bit: rounding is symmetric in the sign, and
the two passes through g are the same program on inputs of one shape.
"""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.fields import Checked, static_field
from mfamm_jax.models.flax_function import (
    AbstractFlaxFunction,
    Params,
    apply_function,
    flax_nnx,
    initial_weights,
    layer_options,
)


class NetworkSizes(Checked):
    """Widths of the layers and the head."""

    n_filters: int = static_field(default=8, lower=1, source="(6)", help="channels of the first convolution")
    n_filters_second: int = static_field(default=8, lower=1, source="(6)", help="channels of the second, stride 2")
    n_hidden: int = static_field(default=8, lower=1, source="(6)", help="width of the dense layer")
    n_embedding: int = static_field(default=8, lower=2, source="(12) phi", help="dimension of the embedding")
    head: Literal["linear", "prototype"] = static_field(
        default="linear", source="(6)", help="tanh(w . phi), or distances to the up and down prototypes"
    )


class ImbalanceNetwork(AbstractFlaxFunction):
    """The network as pure functions of its weights, a dictionary of arrays.

    Args:
        sizes: Widths.
        n_snapshots, n_levels: Of the grid.
        mirror_order, mirror_signs: Which channel each channel becomes, and its sign, when bid and ask are swapped.
    """

    sizes: NetworkSizes = eqx.field(default=NetworkSizes(), static=True)
    n_snapshots: int = static_field(default=10, lower=1)
    n_levels: int = static_field(default=10, lower=1)
    mirror_order: tuple[int, ...] = eqx.field(default=(1, 0, 2), static=True)
    mirror_signs: tuple[int, ...] = eqx.field(default=(1, 1, -1), static=True)

    def __check_init__(self) -> None:
        order, signs = self.mirror_order, self.mirror_signs
        twice = [order[i] if 0 <= i < len(order) else None for i in order]
        if twice != list(range(len(order))) or [signs[i] for i in order] != list(signs) or set(signs) - {1, -1}:
            raise ValueError(f"ImbalanceNetwork: swapping twice must change nothing, got {order} with signs {signs}")

    def init(self, key: PRNGKeyArray) -> Params:
        """Random weights in the precision in force."""
        direction = jnp.zeros(self.sizes.n_embedding).at[0].set(1)
        return {"body": initial_weights(self, key), "direction": direction}

    def embedding(
        self, params: Params, grid: Float[Array, "*batch snapshot level channel"]
    ) -> Float[Array, "*batch n"]:
        """phi, of length one; 0 for a grid that is its own mirror."""
        self._check(grid)
        body = apply_function(self, str(grid.dtype))
        # Barriers keep the compiler from merging the two passes, or one of them with what comes before or after.
        ours, swapped = jax.lax.optimization_barrier((grid, self.mirror(grid)))
        here, there = jax.lax.optimization_barrier((body(params["body"], ours), body(params["body"], swapped)))
        difference = here - there
        square = jnp.sum(difference**2, axis=-1, keepdims=True)
        is_zero = square == 0
        return jnp.where(is_zero, 0, difference / jnp.sqrt(jnp.where(is_zero, 1, square)))

    def logit(self, params: Params, embedding: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
        """artanh of the score of an embedding: what training sees, unbounded for the linear head."""
        if self.sizes.head == "linear":
            return jnp.sum(embedding * params["direction"], axis=-1)
        return jnp.arctanh(jnp.clip(self._prototype_score(params, embedding), -1 + 1e-6, 1 - 1e-6))

    def head_score(self, params: Params, embedding: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
        """Score in [-1, 1] of an embedding."""
        if self.sizes.head == "linear":
            projection = jnp.sum(embedding * params["direction"], axis=-1)
            return (jnp.tanh(projection) - jnp.tanh(-projection)) / 2
        return self._prototype_score(params, embedding)

    def apply(
        self, params: Params, grid: Float[Array, "*batch snapshot level channel"]
    ) -> tuple[Float[Array, "*batch n"], Float[Array, "*batch"]]:
        """Embedding and DOI of grids. > 0.3 is buying pressure, < -0.3 selling pressure."""
        embedding = self.embedding(params, grid)
        return embedding, self.head_score(params, embedding)  # (6)

    def score(self, params: Params, grid: Float[Array, "*batch snapshot level channel"]) -> Float[Array, "*batch"]:
        """DOI of grids."""
        return self.apply(params, grid)[1]

    def mirror(self, grid: Float[Array, "*batch channel"]) -> Float[Array, "*batch channel"]:
        """The grid with bid and ask swapped."""
        return grid[..., jnp.array(self.mirror_order)] * jnp.array(self.mirror_signs, grid.dtype)

    def _prototype_score(self, params: Params, embedding: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
        """(d_down - d_up)/(d_down + d_up); the down prototype is the mirror image of the up one."""
        up, down = (_length(embedding - sign * params["direction"]) for sign in (1, -1))
        total = up + down
        return (down - up) / jnp.where(total > 0, total, 1)

    def _check(self, grid: Array) -> None:
        expected = (self.n_snapshots, self.n_levels, len(self.mirror_order))
        if grid.shape[-3:] != expected:
            raise ValueError(f"grid has shape {grid.shape}, expected (..., {', '.join(map(str, expected))})")

    def build(self, rngs: Any) -> Any:
        """g of (6) in flax."""
        nnx, kinds = flax_nnx(), layer_options(rngs)
        n_flat = -(-self.n_snapshots // 2) * -(-self.n_levels // 2) * self.sizes.n_filters_second
        return nnx.Sequential(
            nnx.Conv(len(self.mirror_order), self.sizes.n_filters, (3, 3), **kinds),
            jax.nn.gelu,
            nnx.Conv(self.sizes.n_filters, self.sizes.n_filters_second, (3, 3), strides=2, **kinds),
            jax.nn.gelu,
            lambda x: x.reshape(*x.shape[:-3], n_flat),
            nnx.Linear(n_flat, self.sizes.n_hidden, **kinds),
            jax.nn.gelu,
            nnx.Linear(self.sizes.n_hidden, self.sizes.n_embedding, **kinds),
        )


def _length(x: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
    """Euclidean, with slope zero at zero."""
    square = jnp.sum(x**2, axis=-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
