"""Minimisation of smooth functions of any pytree by optax's L-BFGS, as one compiled loop."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

Loss = Callable[[Any], Float[Array, ""]]


class Descent(NamedTuple):
    """Where a search ended.

    Args:
        x: Where.
        gradient_norm: At the last step's beginning.
        n_steps: Steps.
        n_evaluations: Of the loss with its gradient, those of the line searches included.
    """

    x: Any
    gradient_norm: Float[Array, ""]
    n_steps: Int[Array, ""]
    n_evaluations: Int[Array, ""]


def minimise(loss: Loss, start: Any, max_iterations: int, gradient_limit: float) -> Descent:
    """Steps until the gradient's norm is within the limit. `vmap` over starts."""
    advance, first = _stepper(loss, start)

    def step(state: tuple) -> tuple:
        x, memory, norm = advance(*state[:2])
        searched = optax.tree.get(memory, "num_linesearch_steps")
        return x, memory, norm, state[3] + 1, state[4] + jnp.asarray(searched, jnp.int32)

    begin = (*first, jnp.asarray(jnp.inf, _dtype(start)), jnp.zeros((), jnp.int32), jnp.ones((), jnp.int32))
    x, _, *ended = jax.lax.while_loop(lambda s: (s[2] > gradient_limit) & (s[3] < max_iterations), step, begin)
    return Descent(x, *ended)


def minimise_until_worse(
    loss: Loss, judge: Loss, start: Any, max_iterations: int, patience: int, least: float = 0.0
) -> tuple[Any, Bool[Array, ""], Int[Array, ""]]:
    """Steps until `judge`, e.g. the loss on data that the search does not see, has not fallen by more than `least` for `patience` of them.

    Returns:
        Where `judge` was lowest, whether the search ended before `max_iterations`, steps.
    """
    advance, first = _stepper(loss, start)

    def step(state: tuple) -> tuple:
        x, memory, best, lowest, since, count = state
        x, memory, _ = advance(x, memory)
        value = judge(x)
        better = value < lowest - least
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), x, best)
        return x, memory, best, jnp.where(better, value, lowest), jnp.where(better, 0, since + 1), count + 1

    zero = jnp.zeros((), jnp.int32)
    begin = (*first, start, judge(start), zero, zero)
    state = jax.lax.while_loop(lambda s: (s[4] < patience) & (s[5] < max_iterations), step, begin)
    return state[2], state[4] >= patience, state[5]


def _stepper(loss: Loss, start: Any) -> tuple[Callable, tuple]:
    """A step of L-BFGS on point and memory, which also gives the gradient's norm before it; and what to begin with."""
    optimiser = optax.lbfgs()
    slope = optax.value_and_grad_from_state(loss)

    def advance(x: Any, memory: Any) -> tuple:
        value, gradient = slope(x, state=memory)
        change, memory = optimiser.update(gradient, memory, x, value=value, grad=gradient, value_fn=loss)
        return optax.apply_updates(x, change), memory, optax.tree.norm(gradient)

    return advance, (start, optimiser.init(start))


def _dtype(start: Any) -> Any:
    return jnp.result_type(*jax.tree.leaves(start))
