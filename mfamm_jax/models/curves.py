r"""Fill curves other than the exponential: logistic, power law, triangular, any smooth function, and a table of ticks.

For a smooth decreasing curve the best margin $m = \delta - p$ solves $m = w\,\ln(1 + \xi w)/(\xi w)$ with
$w(\delta) = -\lambda/\lambda'$ ($m = w$ at $\xi = 0$). The solution is unique where $\lambda\lambda'' < 2\lambda'^2$; the objective is then
unimodal and clipping to the depth limits is exact. Source: docs/equations.md, the HJB equation.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfamm_jax.fields import real_field, static_field
from mfamm_jax.models.intensity import AbstractIntensity, log1p_ratio, utility

LAMBERT_ITERATIONS = 5
# A last step below this share of the margin leaves an error of its square.
NEWTON_STEP = 1e-3


@jax.custom_jvp
def lambert_w_of_exp(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    r"""$W_0(e^x)$, the solution of $w + \ln w = x$, without forming $e^x$ where it would overflow."""
    large = jnp.maximum(x, 1.0)
    small = jnp.exp(jnp.minimum(x, 1.0))
    w = jnp.where(x > 1, large - jnp.log(large), small / (1 + 0.6 * small))
    tiny = jnp.finfo(w.dtype).tiny
    for _ in range(LAMBERT_ITERATIONS):
        w = jnp.maximum(w * (1 + x - jnp.log(jnp.maximum(w, tiny))) / (1 + w), 0.0)
    return w


@lambert_w_of_exp.defjvp
def _lambert_jvp(primals, tangents):
    w = lambert_w_of_exp(*primals)
    return w, tangents[0] * w / (1 + w)


def newton_margin(
    log_intensity: Callable[[Float[Array, "*b"]], Float[Array, "*b"]],
    cost: Float[Array, "*b"],
    fill_risk_aversion: Float[Array, "..."],
    start: Float[Array, "*b"],
    n_iterations: int,
) -> Float[Array, "*b"]:
    """Unclamped best margin by safeguarded Newton: a fixed count under `stop_gradient`, then one step that carries the derivative.

    The equation is solved in logarithms, in which it is nearly linear both where fills hardly react to depth and where they decay
    exponentially. A step that leaves the bracket found so far is replaced by its midpoint, or by doubling while no upper
    end is known. NaN where the last step still moved: the count was too small, or the curve is not decreasing.
    """

    def excess(margin, cost):
        slope = jax.jvp(log_intensity, (cost + margin,), (jnp.ones_like(margin),))[1]
        w = -1 / slope
        return jnp.log(margin) - jnp.log(w * log1p_ratio(fill_risk_aversion * w))

    def with_slope(margin, cost):
        return jax.jvp(lambda m: excess(m, cost), (margin,), (jnp.ones_like(margin),))

    def iterate(_, carry):
        margin, low, high = carry
        value, slope = jax.lax.stop_gradient(with_slope(margin, cost))
        low, high = jnp.where(value < 0, margin, low), jnp.where(value < 0, high, margin)
        proposal = margin - value / slope
        # Slack: near the root rounding moves the ends of the bracket by more than the step left to take.
        inside = (proposal > 0.99 * low) & (proposal < 1.01 * high) & (slope > 0)
        fallback = jnp.where(jnp.isfinite(high), 0.5 * (low + jnp.where(jnp.isfinite(high), high, 0.0)), 2 * margin)
        return jnp.where(value == 0, margin, jnp.where(inside, proposal, fallback)), low, high

    start = jax.lax.stop_gradient(start)
    carry = (start, jnp.zeros_like(start), jnp.full_like(start, jnp.inf))
    margin = jax.lax.stop_gradient(jax.lax.fori_loop(0, n_iterations, iterate, carry)[0])
    value, slope = with_slope(margin, cost)
    step = value / jax.lax.stop_gradient(slope)
    return jnp.where(jnp.abs(step) <= NEWTON_STEP * margin, margin - step, jnp.nan)


class LogisticIntensity(AbstractIntensity):
    r"""$\lambda(\delta) = A/(1 + e^{a + k\delta})$: exponential far from the mid, at most A inside the spread.

    Args:
        scale: $A$, the largest fill rate [1/s].
        offset: $a$.
        decay: $k$ [1/price].
        n_iterations: Newton steps where fills are weighted by a CARA utility; without one the Lambert function answers.
    """

    scale: Float[Array, ""] = real_field(lower=0.0, strict=True, unit="1/s", help="largest fill rate")
    offset: Float[Array, ""] = real_field(help="log odds against a fill at the mid")
    decay: Float[Array, ""] = real_field(lower=0.0, strict=True, unit="1/price", help="decay far from the mid")
    n_iterations: int = static_field(default=6, lower=1, help="Newton steps of the best depth")

    def log_intensity(self, depth: Float[Array, "..."]) -> Float[Array, "..."]:
        """Logarithm of the fill rate."""
        return jnp.log(self.scale) - jax.nn.softplus(self.offset + self.decay * depth)

    def scaled(self, factor: Float[Array, "..."] | float) -> "LogisticIntensity":
        """Multiplies the scale."""
        return LogisticIntensity(self.scale * factor, self.offset, self.decay, self.n_iterations)

    def best_margin(
        self,
        cost: Float[Array, "*b"],
        fill_risk_aversion: Float[Array, "..."],
        min_depth: Float[Array, "..."],
        max_depth: Float[Array, "..."],
    ) -> Float[Array, "*b"]:
        r"""$(1 + W_0(e^{-1-a-kp}))/k$ at $\xi = 0$."""
        start = (1 + lambert_w_of_exp(-1 - self.offset - self.decay * cost)) / self.decay
        averse = start * log1p_ratio(fill_risk_aversion * start)
        margin = newton_margin(self.log_intensity, cost, fill_risk_aversion, averse, self.n_iterations)
        return jnp.clip(jnp.where(fill_risk_aversion > 0, margin, start), min_depth - cost, max_depth - cost)


class PowerLawIntensity(AbstractIntensity):
    r"""$\lambda(\delta) = A(1 + \delta/c)^{-n}$ for depths above $-c$: set `min_depth` where costs may fall below it.

    Args:
        scale: $A$, fill rate at the mid [1/s].
        width: $c$ [price].
        exponent: $n$ > 1, else wider quotes earn more without end.
        n_iterations: Newton steps where fills are weighted by a CARA utility.
    """

    scale: Float[Array, ""] = real_field(lower=0.0, strict=True, unit="1/s", help="fill rate at the mid")
    width: Float[Array, ""] = real_field(lower=0.0, strict=True, unit="price", help="depth where decay sets in")
    exponent: Float[Array, ""] = real_field(lower=1.0, strict=True, help="tail exponent")
    n_iterations: int = static_field(default=6, lower=1, help="Newton steps of the best depth")

    def log_intensity(self, depth: Float[Array, "..."]) -> Float[Array, "..."]:
        """Logarithm of the fill rate; +inf where the law has none, at or below -width."""
        inside = depth > -self.width
        log_ratio = jnp.log1p(jnp.where(inside, depth, 0.0) / self.width)
        return jnp.where(inside, jnp.log(self.scale) - self.exponent * log_ratio, jnp.inf)

    def scaled(self, factor: Float[Array, "..."] | float) -> "PowerLawIntensity":
        """Multiplies the scale."""
        return PowerLawIntensity(self.scale * factor, self.width, self.exponent, self.n_iterations)

    def best_margin(
        self,
        cost: Float[Array, "*b"],
        fill_risk_aversion: Float[Array, "..."],
        min_depth: Float[Array, "..."],
        max_depth: Float[Array, "..."],
    ) -> Float[Array, "*b"]:
        r"""$(p + c)/(n - 1)$ at $\xi = 0$; costs below -c pull the quote to the lower limit."""
        start = (cost + self.width) / (self.exponent - 1)
        inside = start > 0
        safe_cost, safe_start = jnp.where(inside, cost, 0.0), jnp.where(inside, start, self.width / self.exponent)
        safe_start = safe_start * log1p_ratio(fill_risk_aversion * safe_start)
        margin = newton_margin(self.log_intensity, safe_cost, fill_risk_aversion, safe_start, self.n_iterations)
        margin = jnp.where(inside & (fill_risk_aversion > 0), margin, start)
        return jnp.clip(margin, min_depth - cost, max_depth - cost)


class TriangularIntensity(AbstractIntensity):
    r"""$\lambda(\delta) = \Lambda\max(0, 1 - \delta/D)$: orders reach uniformly deep, none deeper than D.

    Args:
        scale: $\Lambda$, fill rate at the mid [1/s].
        reach: $D$ [price].
        n_iterations: Newton steps where fills are weighted by a CARA utility.
    """

    scale: Float[Array, ""] = real_field(lower=0.0, strict=True, unit="1/s", help="fill rate at the mid")
    reach: Float[Array, ""] = real_field(lower=0.0, strict=True, unit="price", help="depth that nothing reaches")
    n_iterations: int = static_field(default=6, lower=1, help="Newton steps of the best depth")

    def log_intensity(self, depth: Float[Array, "..."]) -> Float[Array, "..."]:
        """Logarithm of the fill rate, -inf from the reach on."""
        inside = depth < self.reach
        share = jnp.where(inside, 1 - depth / self.reach, 1.0)
        return jnp.where(inside, jnp.log(self.scale) + jnp.log(share), -jnp.inf)

    def __call__(self, depth: Float[Array, "..."]) -> Float[Array, "..."]:
        """Without the logarithm, which has no derivative at the reach."""
        return self.scale * jnp.maximum(1 - depth / self.reach, 0.0)

    def scaled(self, factor: Float[Array, "..."] | float) -> "TriangularIntensity":
        """Multiplies the scale."""
        return TriangularIntensity(self.scale * factor, self.reach, self.n_iterations)

    def best_margin(
        self,
        cost: Float[Array, "*b"],
        fill_risk_aversion: Float[Array, "..."],
        min_depth: Float[Array, "..."],
        max_depth: Float[Array, "..."],
    ) -> Float[Array, "*b"]:
        r"""$(D - p)/2$ at $\xi = 0$; 0 where the cost exceeds the reach: quoted at cost, never filled."""
        start = 0.5 * (self.reach - cost)
        inside = start > 0
        safe_cost, safe_start = jnp.where(inside, cost, 0.0), jnp.where(inside, start, 0.5 * self.reach)
        averse = safe_start * log1p_ratio(fill_risk_aversion * safe_start)
        margin = newton_margin(self.log_intensity, safe_cost, fill_risk_aversion, averse, self.n_iterations)
        margin = jnp.where(inside & (fill_risk_aversion > 0), margin, jnp.maximum(start, 0.0))
        return jnp.clip(margin, min_depth - cost, max_depth - cost)


class SmoothIntensity(AbstractIntensity):
    r"""Any smooth decreasing curve with $\lambda\lambda'' < 2\lambda'^2$ (else the best depth may not be unique).

    Args:
        curve: `curve(depth, parameters)` -> logarithm of the fill rate; elementwise in depth.
        parameters: Its arrays.
        log_factor: Added to the logarithm.
        n_iterations: Newton steps; 12 reach rounding for the curves of this module at any cost. Too few give NaN.
    """

    curve: Callable[[Float[Array, "..."], Any], Float[Array, "..."]] = eqx.field(static=True)
    parameters: Any
    log_factor: Float[Array, ""] = real_field(default=0.0, help="log of a factor on the fill rate")
    n_iterations: int = static_field(default=12, lower=1, help="Newton steps of the best depth")

    def __check_init__(self) -> None:
        for number in jax.tree.leaves(self.parameters):
            if not isinstance(number, jax.core.Tracer) and not np.all(np.isfinite(np.asarray(number))):
                raise ValueError(f"SmoothIntensity.parameters hold {number}, expected finite numbers")

    def log_intensity(self, depth: Float[Array, "..."]) -> Float[Array, "..."]:
        """Logarithm of the fill rate."""
        return self.curve(depth, self.parameters) + self.log_factor

    def scaled(self, factor: Float[Array, "..."] | float) -> "SmoothIntensity":
        """Multiplies the curve."""
        return SmoothIntensity(self.curve, self.parameters, self.log_factor + jnp.log(factor), self.n_iterations)

    def best_margin(
        self,
        cost: Float[Array, "*b"],
        fill_risk_aversion: Float[Array, "..."],
        min_depth: Float[Array, "..."],
        max_depth: Float[Array, "..."],
    ) -> Float[Array, "*b"]:
        """Newton from below the root: the smaller of the decay lengths at the cost and one such length further out."""

        def length(depth):
            return -1 / jax.jvp(self.log_intensity, (depth,), (jnp.ones_like(depth),))[1]

        near = length(cost)
        start = jnp.minimum(near, length(cost + near))
        start = start * log1p_ratio(fill_risk_aversion * start)
        margin = newton_margin(self.log_intensity, cost, fill_risk_aversion, start, self.n_iterations)
        return jnp.clip(margin, min_depth - cost, max_depth - cost)


class TabulatedIntensity(AbstractIntensity):
    r"""Fill rates on a grid of depths - order-book ticks, boosted trees: $h(p) = \max_j \lambda_j\,\psi_\xi(\delta_j - p)$, exact.

    Needs no regularity. Ties go to the smallest depth. Between the nodes the rate is a step function, constant up to and
    including each node; beyond the last node nothing fills.

    Args:
        depths: $\delta_j$ [price], increasing.
        intensities: $\lambda_j$ [1/s].
    """

    depths: Float[Array, " depth"] = real_field(unit="price", help="depths that may be quoted")
    intensities: Float[Array, " depth"] = real_field(lower=0.0, unit="1/s", help="fill rate at each depth")

    def __check_init__(self) -> None:
        if isinstance(self.depths, jax.core.Tracer):
            return
        depths = np.asarray(self.depths)
        if self.depths.shape != self.intensities.shape:
            raise ValueError(
                f"TabulatedIntensity: {self.depths.shape[0]} depths need as many intensities, got {self.intensities.shape[0]}"
            )
        if depths.size == 0 or not np.isfinite(depths).all():
            raise ValueError(f"TabulatedIntensity.depths must be finite numbers, at least one, got {depths}")
        if (np.diff(depths, axis=0) <= 0).any():
            raise ValueError(f"TabulatedIntensity.depths must increase, got {depths}")

    def log_intensity(self, depth: Float[Array, "..."]) -> Float[Array, "..."]:
        """Logarithm of the rate at the next node at or above the depth."""
        node = jnp.searchsorted(self.depths, depth)
        rate = jnp.where(node < self.depths.size, self.intensities[jnp.minimum(node, self.depths.size - 1)], 0.0)
        return jnp.log(rate)

    def scaled(self, factor: Float[Array, "..."] | float) -> "TabulatedIntensity":
        """Multiplies the rates."""
        return TabulatedIntensity(self.depths, self.intensities * factor)

    def _best(self, cost, fill_risk_aversion, min_depth, max_depth):
        """Depth and rate of the best node; nodes lead, axes of a batch of tables trail."""
        between = (1,) * (jnp.ndim(cost) - (self.depths.ndim - 1))
        shape = (self.depths.shape[0], *between, *self.depths.shape[1:])
        depths, rates = self.depths.reshape(shape), self.intensities.reshape(shape)
        gains = rates * utility(depths - cost, fill_risk_aversion)
        allowed = (depths >= min_depth) & (depths <= max_depth)
        best = jnp.argmax(jnp.where(allowed, gains, -jnp.inf), axis=0)[None]

        def chosen(nodes):
            return jnp.take_along_axis(jnp.broadcast_to(nodes, gains.shape), best, axis=0)[0]

        found = chosen(jnp.broadcast_to(allowed, gains.shape))
        return jnp.where(found, chosen(depths), jnp.nan), chosen(rates)

    def best_margin(
        self,
        cost: Float[Array, "*b"],
        fill_risk_aversion: Float[Array, "..."],
        min_depth: Float[Array, "..."],
        max_depth: Float[Array, "..."],
    ) -> Float[Array, "*b"]:
        """Of the best node within the limits; NaN where no node lies within them."""
        return self._best(cost, fill_risk_aversion, min_depth, max_depth)[0] - cost

    def hamiltonian(
        self,
        cost: Float[Array, "*b"],
        fill_risk_aversion: Float[Array, "..."],
        min_depth: Float[Array, "..."],
        max_depth: Float[Array, "..."],
    ) -> Float[Array, "*b"]:
        """Of the best node, which moves with no limit."""
        return self.hamiltonian_and_rate(cost, fill_risk_aversion, min_depth, max_depth)[0]

    def hamiltonian_and_rate(
        self,
        cost: Float[Array, "*b"],
        fill_risk_aversion: Float[Array, "..."],
        min_depth: Float[Array, "..."],
        max_depth: Float[Array, "..."],
    ) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
        """Of the best node: a subgradient, and differentiable in the node's own depth and rate."""
        depth, rate = self._best(cost, fill_risk_aversion, min_depth, max_depth)
        margin = depth - cost
        return rate * utility(margin, fill_risk_aversion), rate * jnp.exp(-fill_risk_aversion * margin)
