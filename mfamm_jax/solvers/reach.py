r"""How deep marketable orders reach: the decay k of $A e^{-k \delta}$ from interval-censored distances.

An order that stops after consuming a level is only known to have reached beyond that level and not the next occupied
one. With $P(\text{reach} \ge \delta) = e^{-k \delta}$ and the reach of order i in $[L_i, U_i)$,

$$\ln L(k) = \sum_i \ln\big(e^{-k L_i} - e^{-k U_i}\big).$$

Source: docs/equations.md, section on (11); distances in ticks, so k is per tick (divide by the tick size for 1/price).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mfamm_jax.fields import in_precision
from mfamm_jax.results import RESULTS, Solution


class ReachFit(eqx.Module):
    """Fitted depth decay.

    Args:
        decay: k [1/unit of the distances]; `intensity_decay` once per price.
        standard_error: From the observed information; infinite when nothing is known.
    """

    decay: Float[Array, ""]
    standard_error: Float[Array, ""]


def fit_reach(lower: Float[Array, " order"], upper: Float[Array, " order"], n_iterations: int = 40) -> Solution:
    r"""Maximum likelihood of the decay from distances known up to an interval.

    With $w = U - L$ and $b(x) = x/(e^x - 1)$ the score times k is $\sum b(k w_i) - k \sum L_i$, convex and decreasing,
    so Newton's method from 0 rises to the root without ever passing it. If every $w = h$ the root is
    $\ln(1 + h/\bar L)/h$; as $w \to 0$ it is $n / \sum L$.

    Args:
        lower: L >= 0 from the truncation point (see `reach_intervals`) [ticks].
        upper: U >= L; equal = distance known exactly, infinite = deeper than could be seen. [0, inf) is padding.
        n_iterations: Newton steps.

    Returns:
        `Solution` of a `ReachFit`; `not_converged` if all orders stop at once (k infinite) or none is seen to stop
        (k = 0).
    """
    stops = jnp.isfinite(upper)
    width = jnp.where(stops, upper - lower, 0)
    fixed = jax.lax.stop_gradient((lower, width))

    def newton(decay: Float[Array, ""], lower: Array, width: Array) -> Float[Array, ""]:
        score = jnp.sum(jnp.where(stops, _bernoulli(decay * width), 0)) - decay * jnp.sum(lower)
        slope = jnp.sum(jnp.where(stops, width * _bernoulli_slope(decay * width), 0)) - jnp.sum(lower)
        return -score / jnp.where(slope < 0, jax.lax.stop_gradient(slope), -1)

    def iterate(_: Int[Array, ""], decay: Float[Array, ""]) -> Float[Array, ""]:
        return decay + newton(decay, *fixed)

    found = jax.lax.fori_loop(0, n_iterations, iterate, jnp.zeros((), lower.dtype))
    # The step is 0 in value; it carries the implicit-function derivative of the optimum.
    step = newton(found, lower, width)
    decay = found + step
    return _solution(decay, step, width, stops)


def _solution(
    decay: Float[Array, ""], step: Float[Array, ""], width: Float[Array, " order"], stops: Bool[Array, " order"]
) -> Solution:
    x = decay * width
    information = jnp.sum(jnp.where(stops, _bernoulli(x) * (_bernoulli(x) + x), 0))
    is_informed = information > 0
    error = jnp.where(is_informed, decay / jnp.sqrt(jnp.where(is_informed, information, 1)), jnp.inf)
    is_settled = is_informed & (decay > 0) & (jnp.abs(step) <= jnp.finfo(decay.dtype).eps ** 0.5 * decay)
    result = RESULTS.where(is_settled, RESULTS.successful, RESULTS.not_converged)
    result = RESULTS.where(jnp.isfinite(decay), result, RESULTS.nonfinite)
    return Solution(ReachFit(decay, error), result, {"last_step": step, "n_stops": jnp.sum(stops)})


def reach_intervals(
    aggressor: Int[Array, " order"],
    worst_ticks: Int[Array, " order"],
    origin_ticks: Float[Array, " order"],
    next_ticks: Int[Array, " order"],
    next_size: Float[Array, " order"],
) -> tuple[Float[Array, " order"], Float[Array, " order"]]:
    """Interval [lower, upper) of the distance each marketable order would have walked [ticks].

    With L the distance of its worst execution: [L, L + 1) if it left volume at that price, [L, next occupied level) if
    it emptied it, [L, inf) if no deeper level was visible. Orders without a side, and those that ended short of the
    origin altogether, say nothing: [0, inf).

    Args:
        aggressor: +1 buyer-initiated (walks up the asks), -1 seller-initiated, 0 unknown.
        worst_ticks: Worst price executed [ticks].
        origin_ticks: Where distances start [ticks]. The mid before the order gives the depth of a quote as the models
            mean it, and a low k, since no visible order stops inside the spread; the best opposite quote before the
            order removes that truncation.
        next_ticks: Best price of the side that was hit, after the order [ticks].
        next_size: Volume there; 0 = that side of the visible book is empty.
    """
    lower = aggressor * (worst_ticks - origin_ticks)
    gap = aggressor * (next_ticks - worst_ticks)
    upper = jnp.where(next_size > 0, lower + jnp.maximum(gap, 1), jnp.inf)
    is_known = (aggressor != 0) & (upper > 0)
    return jnp.where(is_known, jnp.maximum(lower, 0), 0), jnp.where(is_known, upper, jnp.inf)


def arrival_rate(
    n_orders: Int[Array, ""] | int, duration: Float[Array, ""] | float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    r"""A = n/T of a Poisson stream and its standard error $A/\sqrt{n}$ [1/s]; the error is infinite for n = 0."""
    count = in_precision(n_orders)
    rate = count / duration
    return rate, jnp.where(count > 0, rate / jnp.sqrt(jnp.maximum(count, 1)), jnp.inf)


def _bernoulli(x: Float[Array, " order"]) -> Float[Array, " order"]:
    """x / (e^x - 1), in decaying exponentials; its series where that is 0/0."""
    is_small = x < 0.01
    safe = jnp.where(is_small, 1, x)
    series = 1 - x / 2 + x**2 / 12 - x**4 / 720
    return jnp.where(is_small, series, safe * jnp.exp(-safe) / -jnp.expm1(-safe))


def _bernoulli_slope(x: Float[Array, " order"]) -> Float[Array, " order"]:
    """b'(x) = b (1 - b - x) / x; its series where that is 0/0."""
    is_small = x < 0.01
    safe = jnp.where(is_small, 1, x)
    value = _bernoulli(safe)
    return jnp.where(is_small, -0.5 + x / 6 - x**3 / 180, value * (1 - value - safe) / safe)
