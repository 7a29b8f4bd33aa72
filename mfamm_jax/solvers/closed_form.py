r"""Closed-form quotes: fast answers, and references for the grid solvers."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mfamm_jax.models.intensity import ExponentialIntensity, log1p_ratio


def stationary_depths(
    intensity: ExponentialIntensity,
    inventory_penalty: Float[Array, ""] | float,
    inventory: Float[Array, "*b"],
    fill_risk_aversion: Float[Array, ""] | float = 0.0,
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    r"""Gueant-Lehalle-Fernandez-Tapia approximation far from the horizon and from the inventory limits.

    $\delta^{b,a} = \frac1\xi\ln(1+\xi/k) + \frac{1 \pm 2q}{2}\sqrt{\frac{\phi}{k\Lambda}(1+\xi/k)^{1+k/\xi}}$,
    with $(1+\xi/k)^{1+k/\xi} \to e$ as $\xi \to 0$. Good when $\sqrt{\phi k e/\Lambda} \ll 1$. Source: GL-3 of docs/equations.md
    with $\phi = \gamma_C\sigma^2/2$.

    Returns:
        Bid depth and ask depth [price].
    """
    w = jnp.asarray(fill_risk_aversion) / intensity.decay
    margin = log1p_ratio(w) / intensity.decay
    log_power = jnp.log1p(w) + log1p_ratio(w)
    slope = jnp.sqrt(inventory_penalty / (intensity.decay * intensity.scale) * jnp.exp(log_power))
    return margin + (1 + 2 * inventory) / 2 * slope, margin + (1 - 2 * inventory) / 2 * slope
