"""A network with one hidden layer and a linear way past it, as arrays only."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class Perceptron(eqx.Module):
    """$W_2 \\tanh(W_1 x + b_1) + D x + b_2$: what is linear in x stays so beyond the data."""

    hidden: Float[Array, "width input"]
    hidden_bias: Float[Array, " width"]
    outer: Float[Array, "output width"]
    direct: Float[Array, "output input"]
    bias: Float[Array, " output"]

    def __call__(self, x: Float[Array, " input"]) -> Float[Array, " output"]:
        """Of one vector."""
        return self.outer @ jnp.tanh(self.hidden @ x + self.hidden_bias) + self.direct @ x + self.bias


def silent_perceptron(key: PRNGKeyArray, n_inputs: int, n_outputs: int, width: int) -> Perceptron:
    """Random inside, 0 for every input until it is trained."""
    dtype = jnp.result_type(float)
    hidden = jax.random.normal(key, (width, n_inputs), dtype) / jnp.sqrt(jnp.asarray(n_inputs, dtype))
    outer, direct = jnp.zeros((n_outputs, width), dtype), jnp.zeros((n_outputs, n_inputs), dtype)
    return Perceptron(hidden, jnp.zeros(width, dtype), outer, direct, jnp.zeros(n_outputs, dtype))
