r"""Maximise a known objective under a limit on a probability that can only be simulated: augmented Lagrangian, stochastic gradients.

$$\max_\theta J(\theta) \quad\text{subject to}\quad g(\theta) = \log\frac{P(\theta)}{\text{limit}} \le 0.$$

The logarithm makes limits of 0.3 and of 0.001 one kind of problem. Every step draws P and its gradient afresh; the multiplier follows a
running mean of g, and the answer is the mean of the last iterates, whose noise the draws cannot bend.

Source: Nocedal & Wright (2006), 17.4, for the Lagrangian; Ruppert (1988), Polyak & Juditsky (1992) for the mean.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

Objective = Callable[[Float[Array, " parameter"]], Float[Array, ""]]
Probability = Callable[[Float[Array, " parameter"], PRNGKeyArray], Float[Array, ""]]

# Share of a running mean that a new draw gets, and what the multiplier gains of it: slow enough not to swing.
_NEW, _GAIN = 0.15, 0.02


class ConstrainedOptimum(eqx.Module):
    """Where the search ended and how it got there.

    Args:
        parameters: Mean of the last quarter of the iterates.
        price: Of the limit: objective gained per unit of log limit; about 0 where it does not bind, 0 without one.
        path: Iterates.
        objective: At each.
        probability: Drawn at each.
    """

    parameters: Float[Array, " parameter"]
    price: Float[Array, ""]
    path: Float[Array, "step parameter"]
    objective: Float[Array, " step"]
    probability: Float[Array, " step"]


def maximise_within_limit(
    objective: Objective,
    probability: Probability,
    limit: Float[Array, ""] | float,
    low: Float[Array, " parameter"],
    high: Float[Array, " parameter"],
    start: Float[Array, " parameter"],
    key: PRNGKeyArray,
    *,
    n_steps: int = 200,
    learning_rate: float = 0.2,
) -> ConstrainedOptimum:
    """Scaled gradient steps on the logistic coordinates of the box. `vmap` or `lax.map` over limits gives a frontier.

    Args:
        objective: Of the parameters, without noise.
        probability: Of the parameters and a key; unbiased, with an unbiased gradient (reverse mode).
        limit: In (0, 1]; 1 = none.
        low, high: Box.
        start: Inside it.
        key: Draws.
        n_steps: Of the search.
        learning_rate: First step in logistic coordinates; it falls to a tenth.
    """
    limit = jnp.asarray(limit, start.dtype)
    rate = optax.cosine_decay_schedule(learning_rate, n_steps, alpha=0.1)

    def inside(x: Array) -> Array:
        return low + (high - low) * jax.nn.sigmoid(x)

    def step(state: tuple, index: Array) -> tuple[tuple, tuple]:
        x, usual, multiplier, sizes = state
        gain, rise = jax.value_and_grad(lambda x: objective(inside(x)))(x)
        value, fall = jax.value_and_grad(lambda x: probability(inside(x), jax.random.fold_in(key, index)))(x)
        # The logarithm of a mean of draws: the mean of logarithms would read rare events as rarer than they are. A hundredth of the limit
        # is added, since the first draws may have no hit at all.
        usual = jnp.where(index == 0, value, usual + _NEW * (value - usual))
        excess, fall = jnp.log((usual + 0.01 * limit) / (1.01 * limit)), fall / (usual + 0.01 * limit)
        # Both gradients in units of their usual sizes: the multiplier is then about 1 where the limit binds.
        new = jnp.stack([jnp.linalg.norm(rise), jnp.linalg.norm(fall)])
        sizes = jnp.where(index == 0, new, sizes + _NEW * (new - sizes))
        tiny = jnp.finfo(x.dtype).tiny
        pressure = jnp.where(limit < 1, jnp.maximum(multiplier + excess, 0), 0)
        change = rate(index) * (rise / (sizes[0] + tiny) - pressure * fall / (sizes[1] + tiny))
        change = change * jnp.minimum(1, 2 * rate(index) / (jnp.linalg.norm(change) + tiny))
        multiplier = jnp.maximum(multiplier + _GAIN * excess, 0)
        falls = sizes[1] > 0
        price = jnp.where(falls, pressure * sizes[0] / jnp.where(falls, sizes[1], 1), 0)
        return (x + change, usual, multiplier, sizes), (inside(x), gain, value, price)

    unit = jnp.clip((start - low) / (high - low), 1e-3, 1 - 1e-3)
    x = jnp.log(unit) - jnp.log1p(-unit)
    zero = jnp.zeros((), x.dtype)
    begin = (x, zero, zero + 1, jnp.zeros(2, x.dtype))
    _, (path, gain, value, price) = jax.lax.scan(step, begin, jnp.arange(n_steps))
    last = n_steps - max(n_steps // 4, 1)
    return ConstrainedOptimum(jnp.mean(path[last:], axis=0), jnp.mean(price[last:]), path, gain, value)
