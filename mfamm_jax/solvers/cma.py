r"""CMA-ES for losses without useful gradients: gates, switches, simulated fills under common random numbers.

evosax's implementation of Hansen's tutorial (arXiv:1604.00772) in the free coordinates of a `Box`. Every generation draws one key, which all of
its members share: they are compared on the same luck. Limits enter as $\text{loss} + \text{penalty}\sum_i \max(g_i, 0)$.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mfamm_jax.solvers.calibrate import Box, NoisyLoss

LimitedLoss = Callable[[Float[Array, " parameter"], PRNGKeyArray], tuple[Float[Array, ""], Float[Array, " limit"]]]

# Deviation of the first generation in free coordinates: covers most of the box around its start.
FIRST_DEVIATION = 1.0
# For members whose loss is not finite: worse than any other, and finite, as ranking needs it.
WORST = 1e30


class Evolution(eqx.Module):
    """What a search found, restarts in front.

    Args:
        parameters: Mean of the last generation: with a noisy loss the luckiest member is not the best.
        history: Smallest loss of every generation.
        means: Mean of every generation.
        deviation: Step size at the end, in free coordinates.
        best: Member with the smallest loss of all.
        best_loss: That loss.
        n_evaluations: Of a restart.
    """

    parameters: Float[Array, "restart parameter"]
    history: Float[Array, "restart generation"]
    means: Float[Array, "restart generation parameter"]
    deviation: Float[Array, " restart"]
    best: Float[Array, "restart parameter"]
    best_loss: Float[Array, " restart"]
    n_evaluations: Int[Array, ""]


@lru_cache(maxsize=32)
def _strategy(population: int, n_parameters: int, dtype: str) -> tuple[Any, Any]:
    """evosax compiles per instance: one for each size. Its constants must not belong to the trace that first asks for them."""
    from evosax.algorithms import CMA_ES  # a second that other solvers need not wait for

    with jax.ensure_compile_time_eval():
        strategy = CMA_ES(population_size=population, solution=jnp.zeros(n_parameters, dtype))
        return strategy, strategy.default_params


def penalised(found: Any, penalty: Float[Array, ""] | float) -> Float[Array, ""]:
    """A loss, or a pair of loss and limits as one number."""
    if not isinstance(found, tuple):
        return found
    value, limits = found
    return value + penalty * jnp.sum(jnp.maximum(limits, 0.0))


def evolve(
    loss: NoisyLoss | LimitedLoss,
    box: Box,
    starts: Float[Array, "restart parameter"],
    key: PRNGKeyArray,
    *,
    population: int,
    n_generations: int,
    penalty: Float[Array, ""] | float = 1e3,
) -> Evolution:
    """Searches for the smallest loss from every start, one restart after the other in one compiled program.

    Args:
        loss: Of parameters and a key; a pair of loss and values that may not exceed 0, if there are limits.
        box: Bounds.
        starts: First means, inside it.
        key: Of members and of the losses' draws.
        population: Members of a generation, at least 4.
        n_generations: Per restart.
        penalty: Loss per unit of a violated limit; an exact penalty if it is larger than the limit's shadow price.
    """
    if population < 4 or n_generations < 1:
        raise ValueError(f"population {population} and n_generations {n_generations}, expected at least 4 and 1")
    strategy, params = _strategy(population, starts.shape[-1], starts.dtype.name)
    params = params.replace(std_init=jnp.asarray(FIRST_DEVIATION, starts.dtype))

    def judged(free: Float[Array, " parameter"], draw: PRNGKeyArray) -> Float[Array, ""]:
        value = penalised(loss(box.inside(free), draw), penalty)
        return jnp.where(jnp.isfinite(value), value, WORST)

    def one(numbered: tuple[Array, Array]) -> tuple[Array, ...]:
        number, start = numbered
        mine = jax.random.fold_in(key, number)

        def generation(state: Any, index: Array) -> tuple[Any, tuple[Array, Array]]:
            ask, draw, tell = (jax.random.fold_in(jax.random.fold_in(mine, index), use) for use in range(3))
            members, state = strategy.ask(ask, state, params)
            fitness = jax.vmap(judged, in_axes=(0, None))(members, draw)
            state, _ = strategy.tell(tell, members, fitness, state, params)
            return state, (jnp.min(fitness), box.inside(state.mean))

        first = strategy.init(mine, box.free(start), params)
        last, (history, means) = jax.lax.scan(generation, first, jnp.arange(n_generations))
        return means[-1], history, means, last.std, box.inside(last.best_solution), last.best_fitness

    found = jax.lax.map(one, (jnp.arange(starts.shape[0]), starts))
    return Evolution(*found, n_evaluations=jnp.asarray(population * n_generations, jnp.int32))
