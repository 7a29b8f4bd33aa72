r"""Drawdown and ruin (19): first passage of P&L below a barrier, and falls from the running maximum.

(19) as printed, $P(\exists t: PnL_t < -\eta VaR_t)$, is a first-passage probability from zero: `barrier`. A fall from the running maximum is
another event: `max_drawdown`. $VaR_t$ must be of a fixed horizon: with $VaR_t \propto \sqrt t$ the barrier starts at 0 and is crossed almost
surely in continuous time, in 4 to 20 % of cases in discrete time depending only on the number of steps (`square_root_barrier` warns).

Counting grid points that lie below a barrier misses crossings between them; a Brownian bridge gives their probability, which is also
differentiable (Karatzas & Shreve 1991, 4.3.40).

Source: docs/equations.md, (19).
"""

import warnings
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mfamm_jax.fields import in_precision


def max_drawdown(value: Float[Array, "*batch step"]) -> Float[Array, "*batch"]:
    """Largest fall from a running maximum that starts at zero, the value before the first step."""
    peak = jnp.maximum(jax.lax.cummax(value, axis=value.ndim - 1), 0.0)
    return jnp.max(peak - value, axis=-1)


def barrier_probability(
    drift: Float[Array, ""] | float,
    volatility: Float[Array, ""] | float,
    barrier: Float[Array, ""] | float,
    horizon: Float[Array, ""] | float,
) -> Float[Array, ""]:
    r"""$P(\min_{t \le T} \mu t + \sigma B_t < -b)$, in logarithms: an adverse drift must not overflow.

    Args:
        drift, volatility: Of the P&L [money/s, money/sqrt(s)].
        barrier: b > 0 [money].
        horizon: T [s].
    """
    drift, volatility, barrier, horizon = (in_precision(x) for x in (drift, volatility, barrier, horizon))
    spread = volatility * jnp.sqrt(horizon)
    log_cdf = jax.scipy.special.log_ndtr
    direct = log_cdf((-barrier - drift * horizon) / spread)
    reflected = log_cdf((-barrier + drift * horizon) / spread) - 2 * drift * barrier / volatility**2
    return jnp.exp(jnp.logaddexp(direct, reflected))


def barrier_scale(
    volatility: Float[Array, ""] | float,
    height: Float[Array, ""] | float,
    horizon: Float[Array, ""] | float,
    breach: Float[Array, ""] | float,
) -> Float[Array, ""]:
    r"""Largest share of all positions, at most 1, at which a P&L without drift falls by `height` with at most the admitted probability.

    $P = 2\Phi(-h/(c\sigma\sqrt T)) \le \epsilon$, (19) solved for c. 0 at or below the barrier.

    Args:
        volatility: Of the P&L of whole positions [money/sqrt(s)].
        height: Of the P&L over the barrier [money].
        horizon: T [s].
        breach: $\epsilon$ in (0, 1].
    """
    height, volatility = (in_precision(x) for x in (height, volatility))
    reach = -jax.scipy.special.ndtri(0.5 * jnp.asarray(breach, height.dtype)) * volatility * jnp.sqrt(horizon)
    some = reach > 0
    return jnp.where(some, jnp.clip(height / jnp.where(some, reach, 1.0), 0.0, 1.0), jnp.where(height > 0, 1.0, 0.0))


def bridge_breach(
    path: Float[Array, "*batch point"],
    step_variances: Float[Array, "*other step"],
    barrier: Float[Array, ""] | float,
) -> Float[Array, "*batch"]:
    r"""Probability that Brownian bridges through the points go below -barrier: $1 - \prod_i[1 - e^{-2(x_i+b)(x_{i+1}+b)/v_i}]$.

    1 where a point is at or below the barrier. A step of no variance is a straight line.

    Args:
        path: Values at the ends of the steps, the first point included [money].
        step_variances: $v_i$ of the value within each step [money^2].
        barrier: b [money].
    """
    over = path + barrier
    crossed = (over[..., :-1] <= 0) | (over[..., 1:] <= 0)
    return -jnp.expm1(log_bridge_survival(over[..., :-1], over[..., 1:], step_variances, crossed))


def log_bridge_survival(
    start: Float[Array, "*batch step"],
    end: Float[Array, "*batch step"],
    variances: Float[Array, "*other step"],
    crossed: Array,
) -> Float[Array, "*batch"]:
    """log P(no step goes below 0) of bridges between heights over the barrier; -inf where one has crossed."""
    log_stay = log_bridge_stay(start, end, variances, crossed)
    return jnp.where(jnp.any(crossed, axis=-1), -jnp.inf, jnp.sum(log_stay, axis=-1))


def log_bridge_stay(start: Array, end: Array, variances: Array, crossed: Array) -> Array:
    """log P(a bridge between two heights stays above 0), elementwise; 0 where it has crossed and nothing is left to ask."""
    moves = variances > 0
    exponent = -2 * jnp.where(crossed, 1.0, start * end) / jnp.where(moves, variances, 1.0)
    # log(1 - e^x): log(-expm1(x)) for small -x, log1p(-e^x) else.
    log_stay = jnp.where(
        exponent > -0.7,
        jnp.log(-jnp.expm1(jnp.maximum(exponent, -0.7))),
        jnp.log1p(-jnp.exp(jnp.minimum(exponent, -0.7))),
    )
    return jnp.where(moves & ~crossed, log_stay, 0)


def barrier_survival(
    start: Float[Array, "step path"],
    end: Float[Array, "step path"],
    variances: Float[Array, "step path"],
    barrier: Float[Array, ""] | float,
) -> Float[Array, "step path"]:
    """P(never below -barrier until the end of each step), given paths that jump from one `end` to the next `start`."""
    return _survival(start + barrier, end + barrier, variances)


def drawdown_survival(
    start: Float[Array, "step path"],
    end: Float[Array, "step path"],
    variances: Float[Array, "step path"],
    threshold: Float[Array, ""] | float,
    key: PRNGKeyArray,
) -> Float[Array, "step path"]:
    """P(no drawdown above the threshold until the end of each step), by a draw of every step's maximum; the running maximum starts at 0.

    As in `bridge_drawdown_breach`, steps must be small against the threshold.
    """
    top = _bridge_top(start, end, variances, key)
    peak = jnp.maximum(jax.lax.cummax(top, axis=0), 0)
    before = jnp.maximum(start, jnp.concatenate([jnp.zeros_like(peak[:1]), peak[:-1]]))
    return _survival(start - before + threshold, end - peak + threshold, variances)


def _survival(start: Array, end: Array, variances: Array) -> Array:
    crossed = (start <= 0) | (end <= 0)
    stays = jnp.exp(jnp.cumsum(log_bridge_stay(start, end, variances, crossed), axis=0))
    return jnp.where(jnp.cumsum(crossed, axis=0) > 0, 0, stays)


def _bridge_top(start: Array, end: Array, variances: Array, key: PRNGKeyArray) -> Array:
    """A draw of the maximum of each bridge, exact: its square over the mean of the ends is exponential."""
    uniform = jax.random.uniform(key, start.shape, start.dtype, minval=jnp.finfo(start.dtype).tiny)
    rise = (end - start) ** 2 - 2 * variances * jnp.log(uniform)
    return 0.5 * (start + end + jnp.where(rise > 0, jnp.sqrt(jnp.where(rise > 0, rise, 1)), 0))


def breach_probability(survival: Float[Array, "step path"], weight: Float[Array, "step path"]) -> Float[Array, " path"]:
    r"""$1 - S_n$ of every path, with derivatives whose mean is that of the probability: $\sum_i (S_{i-1} - S_i) w_i$.

    Each step's loss of survival is weighted by the fills up to it alone: later ones only add noise to the score.

    Args:
        survival: S at the end of every step, from `barrier_survival` or `drawdown_survival`.
        weight: 1 with the score as derivative, e.g. `PnlPaths.weight()`.
    """
    lost = jnp.concatenate([1 - survival[:1], survival[:-1] - survival[1:]])
    return jnp.sum(lost * weight, axis=0)


def bridge_drawdown_breach(
    path: Float[Array, "*batch point"],
    step_variances: Float[Array, "*other step"],
    threshold: Float[Array, ""] | float,
    key: PRNGKeyArray,
) -> Float[Array, "*batch"]:
    r"""Probability of a drawdown above `threshold`, given the points and a draw of every step's maximum.

    The maximum of a bridge is $\tfrac12[x_i + x_{i+1} + \sqrt{(x_{i+1}-x_i)^2 - 2v_i\log U}]$ exactly. Left out is a new maximum *and* a fall of the
    whole threshold within one step, so take steps whose standard deviation is a small part of it.
    """
    start, end = path[..., :-1], path[..., 1:]
    top = _bridge_top(start, end, step_variances, key)
    peak = jax.lax.cummax(jnp.concatenate([path[..., :1], top], axis=-1), axis=path.ndim - 1)
    floor_before, floor_after = peak[..., :-1] - threshold, peak[..., 1:] - threshold
    crossed = (start <= floor_before) | (end <= floor_after)
    return -jnp.expm1(log_bridge_survival(start - floor_before, end - floor_before, step_variances, crossed))


@partial(jax.jit, static_argnames="n_terms")
def max_drawdown_probability(
    volatility: Float[Array, ""] | float,
    horizon: Float[Array, ""] | float,
    threshold: Float[Array, "*x"],
    n_terms: int = 30,
) -> Float[Array, "*x"]:
    r"""P(max drawdown > threshold) of a Brownian motion without drift: reflection makes it the first exit of |B|.

    Two series, each where it converges fast. Source: Magdon-Ismail, Atiya, Pratap & Abu-Mostafa (2004).
    """
    x = in_precision(threshold) / (volatility * jnp.sqrt(in_precision(horizon)))
    odd = 2.0 * jnp.arange(n_terms, dtype=x.dtype) + 1
    sign = jnp.where(jnp.arange(n_terms) % 2 == 0, 1.0, -1.0).astype(x.dtype)
    low, high = jnp.minimum(x, 1.5)[..., None], jnp.maximum(x, 1.5)[..., None]
    stays = 4 / jnp.pi * jnp.sum(sign / odd * jnp.exp(-(odd**2) * jnp.pi**2 / (8 * low**2)), axis=-1)
    leaves = 4 * jnp.sum(sign * jax.scipy.special.ndtr(-odd * high), axis=-1)
    return jnp.where(x < 1.5, 1 - stays, leaves)


def expected_max_drawdown(volatility: Float[Array, ""] | float, horizon: Float[Array, ""] | float) -> Float[Array, ""]:
    r"""$\sqrt{\pi/2}\,\sigma\sqrt T$: of a Brownian motion without drift."""
    return volatility * jnp.sqrt(0.5 * jnp.pi * in_precision(horizon))


def square_root_barrier(
    times: Float[Array, " step"], volatility: Float[Array, ""] | float, quantile: Float[Array, ""] | float
) -> Float[Array, " step"]:
    """VaR of the P&L so far, as (19) can be read. Warns: such a barrier is crossed at once, whatever the strategy."""
    warnings.warn(
        "a barrier that grows with sqrt(t) starts at 0 and is crossed almost surely (law of the iterated logarithm); the breach probability "
        "then depends on the number of steps: take a VaR of a fixed horizon",
        stacklevel=2,
    )
    return quantile * volatility * jnp.sqrt(times)


class ProbabilityBounds(eqx.Module):
    """Interval of a probability that was counted.

    Args:
        low, high: Two-sided bounds.
        upper: One-sided bound, of the same coverage.
    """

    low: Float[Array, "*n"]
    high: Float[Array, "*n"]
    upper: Float[Array, "*n"]


def clopper_pearson(
    hits: Int[Array, "*n"] | int, n: int, coverage: Float[Array, ""] | float = 0.95
) -> ProbabilityBounds:
    """Exact bounds from `hits` in n independent trials; none in n still leaves 3/n.

    Quantiles of beta laws, by bisection of the incomplete beta function.
    """
    dtype = jnp.result_type(float)
    k, rest = jnp.asarray(hits, dtype), jnp.asarray(1 - coverage, dtype)
    one = jnp.ones_like(k)

    def upper(tail: Array) -> Array:
        return jnp.where(k >= n, 1.0, _beta_quantile(k + 1, jnp.maximum(n - k, one), 1 - tail))

    low = jnp.where(k <= 0, 0.0, _beta_quantile(jnp.maximum(k, one), n - k + 1, rest / 2))
    return ProbabilityBounds(low, upper(rest / 2), upper(rest))


def _beta_quantile(a: Array, b: Array, probability: Array) -> Array:
    """x with I_x(a, b) = probability; bisection of log x keeps small ones exact."""
    a, b, probability = jnp.broadcast_arrays(a, b, probability)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        below = jax.lax.betainc(a, b, jnp.exp(middle)) < probability
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    start = jnp.full_like(a, np.log(1e-30)), jnp.zeros_like(a)
    low, high = jax.lax.fori_loop(0, 60, halve, start)
    return jnp.exp(0.5 * (low + high))


def mean_upper_bound(values: Float[Array, " path"], z: Float[Array, ""] | float = 1.645) -> Float[Array, ""]:
    """One-sided bound of the mean of bounded values, as probabilities per path are: mean + z standard errors; never below 3/n."""
    n = values.shape[0]
    bound = jnp.mean(values) + z * jnp.std(values) / jnp.sqrt(jnp.asarray(n, values.dtype))
    return jnp.maximum(bound, 3.0 / n)
