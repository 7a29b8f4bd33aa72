r"""A spread that reverts: its Ornstein-Uhlenbeck parameters from a window of the past, and where to trade it.

$$dX = \theta(m - X)\,dt + \eta\,dW, \qquad s = \eta/\sqrt{2\theta}.$$

Buying at $m - a$ and selling at $m + a$, both ways, with cost c per round trip of one direction, a cycle of $2a - c$ takes

$$E[T] = \frac{\pi}{\theta}\,\mathrm{erfi}\!\left(\frac{a}{\sqrt2\,s}\right)$$

from one side to the other, and the gain per unit of time is largest where $\big(2a - c\big)\,\frac{d}{da}\ln E[T] = 2$.

Source: Bertram (2010), "Analytic solutions for optimal statistical arbitrage trading".
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfamm_jax.results import RESULTS, Solution, when

# erfi(x) e^{-x^2} = 2/sqrt(pi) x integral_0^1 exp(-x^2 (1 - u^2)) du: smooth, so a fixed rule does.
N_NODES = 48
N_ITERATIONS = 60
LARGEST = 6.0  # stationary deviations; beyond it nothing ever trades


class Reversion(eqx.Module):
    """Fitted parameters.

    Args:
        mean: $m$.
        rate: $\\theta$ [1/time].
        deviation: $s$, stationary standard deviation.
        rate_error: Standard error of the rate.
    """

    mean: Float[Array, "*b"]
    rate: Float[Array, "*b"]
    deviation: Float[Array, "*b"]
    rate_error: Float[Array, "*b"]

    @property
    def half_life(self) -> Float[Array, "*b"]:
        """Time in which a deviation halves."""
        return jnp.log(2.0) / self.rate


def fit_reversion(residual: Float[Array, " row"], time_step: Float[Array, ""] | float = 1.0) -> Solution:
    r"""Maximum likelihood given the first row: a regression of each row on the one before.

    With slope b: $\theta = -\ln b/\Delta$, $s^2 = \sigma_e^2/(1 - b^2)$. The slope is biased towards reversion by about
    $(1 + 3b)/n$, which is added back.

    Args:
        residual: Past values, equally spaced.
        time_step: Between rows.

    Returns:
        `Solution` of a `Reversion`; `not_converged` where the slope is not between 0 and 1: nothing reverts.
    """
    before, after = residual[:-1], residual[1:]
    n = before.shape[0]
    x, y = before - jnp.mean(before), after - jnp.mean(after)
    total = jnp.sum(x**2)
    safe = jnp.where(total > 0, total, 1)
    slope = jnp.sum(x * y) / safe
    noise = jnp.sum((y - slope * x) ** 2) / (n - 2)
    slope = slope + (1 + 3 * slope) / n
    reverts = (slope > 0) & (slope < 1) & (total > 0)
    kept = jnp.where(reverts, slope, 0.5)
    rate = -jnp.log(kept) / time_step
    error = jnp.sqrt(noise / safe) / kept / time_step
    mean = jnp.mean(before) + (jnp.mean(after) - jnp.mean(before)) / (1 - kept)
    fitted = Reversion(mean, rate, jnp.sqrt(noise / (1 - kept**2)), error)
    return Solution(fitted, when(reverts, RESULTS.successful, RESULTS.not_converged), {"slope": slope})


def scaled_erfi(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    r"""$e^{-x^2}\,\mathrm{erfi}(x)$, within 1e-13 for |x| <= 5."""
    nodes, weights = (jnp.asarray(part, x.dtype) for part in np.polynomial.legendre.leggauss(N_NODES))
    u, w = 0.5 * (nodes + 1), 0.5 * weights
    return 2 / jnp.sqrt(jnp.pi) * x * jnp.sum(w * jnp.exp(-(x[..., None] ** 2) * (1 - u**2)), axis=-1)


def best_band(reversion: Reversion, cost: Float[Array, "*b"] | float) -> Float[Array, "*b"]:
    r"""a: distance from the mean at which to trade [units of the residual].

    In units $x = a/(\sqrt2 s)$, $\kappa = c/(\sqrt2 s)$ the condition is $(2x - \kappa) = \sqrt\pi\,e^{-x^2}\mathrm{erfi}(x)$; without costs
    its solution is 0, trading all the time. Derivatives by the implicit function.

    Args:
        reversion: Fitted parameters.
        cost: Of trading one unit of the residual and back, >= 0; the band reaches `LARGEST` deviations where it is prohibitive.
    """
    unit = jnp.sqrt(2.0) * reversion.deviation
    kappa = jnp.asarray(cost, unit.dtype) / unit
    fixed = jax.lax.stop_gradient(kappa)

    def excess(x: Float[Array, "*b"], kappa: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return 2 * x - kappa - jnp.sqrt(jnp.pi) * scaled_erfi(x)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        above = excess(middle, fixed) > 0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    low = jnp.zeros_like(fixed)
    top = jnp.full_like(fixed, LARGEST / jnp.sqrt(2.0))
    low, high = jax.lax.fori_loop(0, N_ITERATIONS, halve, (low, top))
    root = jax.lax.stop_gradient(0.5 * (low + high))
    # d excess/dx = 2 x sqrt(pi) e^{-x^2} erfi(x): zero only at x = 0, where the band is not differentiable.
    slope = 2 * root * jnp.sqrt(jnp.pi) * scaled_erfi(root)
    step = (kappa - fixed) / jnp.where(slope > 0, slope, jnp.inf)
    return unit * jnp.minimum(root + jnp.where(high < top, step, 0), LARGEST / jnp.sqrt(2.0))


def gain_rate(reversion: Reversion, band: Float[Array, "*b"], cost: Float[Array, "*b"] | float) -> Float[Array, "*b"]:
    """Expected gain per unit of time of trading one unit at the band, both ways [units of the residual/time]."""
    x = band / (jnp.sqrt(2.0) * reversion.deviation)
    cycle = jnp.pi / reversion.rate * scaled_erfi(x) * jnp.exp(x**2)
    return (2 * band - cost) / cycle
