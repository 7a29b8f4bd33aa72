r"""Hummingbot's trading-intensity indicator: traded volume per distance from the mid, fitted by $A e^{-\kappa x}$ (H-E2).

Reproduced for comparison. Its A is volume in a window of unstated length, no arrival rate, and each distance counts what traded *at*
it, a density: $\kappa$ is the decay of the probability of reaching a depth only if that is exactly exponential. Least squares of
unequal volumes weights the touch most. `solvers.reach` estimates the decay by likelihood instead.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mfamm_jax.results import RESULTS, Solution, when

N_ITERATIONS = 60
CONVERGED = 1e-6


def fit_volume_decay(
    depth: Float[Array, " trade"], amount: Float[Array, " trade"], traded: Bool[Array, " trade"] | None = None
) -> Solution:
    r"""Least squares of amounts against $A e^{-\kappa x}$, both at least zero.

    Given $\kappa$, A is a linear regression; $\kappa$ follows by safeguarded Newton on the remaining sum of squares
    (variable projection), from the log-linear fit.

    Args:
        depth: Distance of each traded price from the previous mid [price].
        amount: Traded there in the window [lots].
        traded: Entries that count; the indicator knows no distances without a trade. None = all.

    Returns:
        `Solution` with (A, kappa) [lots, 1/price].
    """

    one = jnp.ones_like(depth) if traded is None else traded.astype(depth.dtype)
    amount = amount * one

    def scale_of(decay):
        wave = one * jnp.exp(-decay * depth)
        return jnp.sum(wave * amount) / jnp.sum(wave**2)

    def squares(decay):
        return jnp.sum(one * (amount - scale_of(decay) * jnp.exp(-decay * depth)) ** 2)

    def iterate(carry, _):
        decay, damping, _ = carry
        slope, curvature = jax.grad(squares)(decay), jax.grad(jax.grad(squares))(decay)
        wanted = decay - slope / (jnp.abs(curvature) * (1 + damping) + jnp.finfo(decay.dtype).tiny)
        wanted = jnp.maximum(wanted, 0.0)
        better = squares(wanted) <= squares(decay)
        moved = jnp.abs(wanted - decay)
        decay = jnp.where(better, wanted, decay)
        damping = jnp.where(better, 0.2 * damping, 4 * damping + 0.1)
        return (decay, damping, moved), None

    logarithm = jnp.log(jnp.maximum(amount, jnp.finfo(amount.dtype).tiny))
    centred = one * (depth - jnp.sum(one * depth) / jnp.maximum(jnp.sum(one), 1.0))
    spread = jnp.sum(centred**2)
    first = jnp.maximum(-jnp.sum(centred * logarithm) / jnp.where(spread > 0, spread, 1.0), 0.0)
    zero = jnp.zeros_like(first)
    (decay, _, moved), _ = jax.lax.scan(iterate, (first, zero, zero), length=N_ITERATIONS)
    scale = jnp.maximum(scale_of(decay), 0.0)
    # One depth alone, or rounding that still moves it, decides nothing.
    known = (spread > 0) & (moved <= CONVERGED * (decay + 1 / jnp.maximum(jnp.max(depth), jnp.finfo(depth.dtype).tiny)))
    return Solution((scale, decay), when(known, RESULTS.successful, RESULTS.not_converged), {"moved": moved})
