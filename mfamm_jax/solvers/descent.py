"""Minimisation of smooth functions of any pytree by optax's L-BFGS, as one compiled loop."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def minimise(
    loss: Callable[[Any], Float[Array, ""]], start: Any, max_iterations: int, gradient_limit: float
) -> tuple[Any, Float[Array, ""], Int[Array, ""]]:
    """Steps until the gradient's norm is within the limit. `vmap` over starts.

    Returns:
        Where it ended, norm of the gradient at the last step's beginning, steps.
    """
    optimiser = optax.lbfgs()
    slope = optax.value_and_grad_from_state(loss)

    def step(state: tuple) -> tuple:
        x, memory, _, count = state
        value, gradient = slope(x, state=memory)
        change, memory = optimiser.update(gradient, memory, x, value=value, grad=gradient, value_fn=loss)
        return optax.apply_updates(x, change), memory, optax.tree.norm(gradient), count + 1

    dtype = jnp.result_type(*jax.tree.leaves(start))
    first = (start, optimiser.init(start), jnp.asarray(jnp.inf, dtype), jnp.zeros((), jnp.int32))
    x, _, norm, count = jax.lax.while_loop(lambda s: (s[2] > gradient_limit) & (s[3] < max_iterations), step, first)
    return x, norm, count
