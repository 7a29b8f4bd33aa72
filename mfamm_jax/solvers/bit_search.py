"""Searches over bitstrings without a quantum computer: what QAOA has to beat. Costs are functions of bits, to be minimised."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

N_TRIED = 64  # flips of random bits, for the temperatures
COLDEST = 0.1  # of the hottest temperature
Cost = Callable[[Int[Array, " bit"]], Float[Array, ""]]


class Found(eqx.Module):
    """A bitstring and what it costs.

    Args:
        bits: 0 or 1.
        cost: Of the bits.
    """

    bits: Int[Array, "*batch bit"]
    cost: Float[Array, "*batch"]


def greedy_descent(cost: Cost, start: Int[Array, " bit"]) -> Found:
    """From `start` always the single flip that lowers the cost most, until none does."""
    n = start.shape[0]
    flips = jnp.eye(n, dtype=start.dtype)

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        bits, now, _ = state
        candidates = bits[None] ^ flips
        costs = jax.vmap(cost)(candidates)
        best = jnp.argmin(costs)
        better = costs[best] < now
        return jnp.where(better, candidates[best], bits), jnp.where(better, costs[best], now), better

    bits, value, _ = jax.lax.while_loop(lambda s: s[2], step, (start, cost(start), jnp.asarray(True)))
    return Found(bits, value)


def anneal(
    cost: Cost,
    n_bits: int,
    key: PRNGKeyArray,
    *,
    n_sweeps: int = 100,
    hottest: Float[Array, ""] | float | None = None,
    coldest: Float[Array, ""] | float | None = None,
) -> Found:
    """Simulated annealing from random bits: flips by Metropolis, temperatures falling geometrically. `vmap` over keys.

    Args:
        cost: To be minimised.
        n_bits: Length.
        key: Of one chain.
        n_sweeps: Flips tried, over the number of bits.
        hottest, coldest: Temperatures in units of cost; unset = what a flip of random bits typically changes, and a tenth of it.

    Returns:
        The best bits that the chain met.
    """
    bits = jax.random.bernoulli(jax.random.fold_in(key, 0), 0.5, (n_bits,)).astype(jnp.int32)
    sample = jax.random.bernoulli(jax.random.fold_in(key, 1), 0.5, (N_TRIED, n_bits)).astype(jnp.int32)
    flipped = sample ^ jax.nn.one_hot(jnp.arange(N_TRIED) % n_bits, n_bits, dtype=jnp.int32)
    change = jnp.median(jnp.abs(jax.vmap(cost)(flipped) - jax.vmap(cost)(sample)))
    change = jnp.maximum(change, jnp.finfo(change.dtype).tiny)
    hot = change if hottest is None else jnp.asarray(hottest, change.dtype)
    cold = COLDEST * hot if coldest is None else jnp.asarray(coldest, change.dtype)
    n_steps = n_sweeps * n_bits
    places = jax.random.randint(jax.random.fold_in(key, 2), (n_steps,), 0, n_bits)
    draws = jax.random.exponential(jax.random.fold_in(key, 3), (n_steps,), hot.dtype)
    cooling = (cold / hot) ** (jnp.arange(n_steps, dtype=hot.dtype) / max(1, n_steps - 1))

    def step(
        state: tuple[Array, Array, Found], now: tuple[Array, Array, Array]
    ) -> tuple[tuple[Array, Array, Found], None]:
        bits, value, best = state
        place, draw, temperature = now
        other = bits.at[place].set(1 - bits[place])
        proposed = cost(other)
        # exp(-rise/T) beats a uniform draw if and only if an exponential one beats rise/T.
        accepted = proposed - value <= draw * temperature
        bits, value = jnp.where(accepted, other, bits), jnp.where(accepted, proposed, value)
        better = value < best.cost
        best = Found(jnp.where(better, bits, best.bits), jnp.where(better, value, best.cost))
        return (bits, value, best), None

    first = cost(bits)
    (_, _, best), _ = jax.lax.scan(step, (bits, first, Found(bits, first)), (places, draws, hot * cooling))
    return best
