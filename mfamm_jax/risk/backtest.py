r"""Were the risk forecasts right? Backtests of value at risk and of conditional value at risk.

- `kupiec`: as many exceedances as the level promises (Kupiec 1995), likelihood ratio, chi-square with 1 degree.
- `christoffersen`: exceedances that do not come in clusters (Christoffersen 1998), first-order Markov, 1 degree; and both together, 2 degrees.
- `acerbi_szekely`: losses beyond the forecast as large as promised (Acerbi & Szekely 2014), tests 1 and 2; distribution under the forecast by
  simulation, because nothing else about it is known.

Losses are positive; an exceedance is a loss above the forecast of its own row.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray


class LikelihoodRatio(eqx.Module):
    """Statistic and its chi-square p-value.

    Args:
        statistic: Twice the log likelihood ratio.
        p_value: Small = the forecast is refused.
    """

    statistic: Float[Array, ""]
    p_value: Float[Array, ""]


def _chi_square(statistic: Array, degrees: int) -> LikelihoodRatio:
    # Rounding may leave a hair below 0.
    statistic = jnp.maximum(statistic, 0)
    return LikelihoodRatio(statistic, jax.scipy.special.gammaincc(0.5 * degrees, 0.5 * statistic))


def _log_likelihood(hits: Array, n: Array, probability: Array) -> Array:
    """Of `hits` in n; 0 log 0 = 0."""
    return jax.scipy.special.xlogy(hits, probability) + jax.scipy.special.xlog1py(n - hits, -probability)


def kupiec(exceeded: Bool[Array, " row"], tail_level: Float[Array, ""] | float) -> LikelihoodRatio:
    """Unconditional coverage."""
    dtype = jnp.result_type(float)
    n, hits = jnp.asarray(exceeded.shape[0], dtype), jnp.sum(exceeded, dtype=dtype)
    promised = 1 - jnp.asarray(tail_level, dtype)
    return _chi_square(2 * (_log_likelihood(hits, n, hits / n) - _log_likelihood(hits, n, promised)), 1)


class Christoffersen(eqx.Module):
    """Independence, and coverage with independence."""

    independence: LikelihoodRatio
    conditional_coverage: LikelihoodRatio


def christoffersen(exceeded: Bool[Array, " row"], tail_level: Float[Array, ""] | float) -> Christoffersen:
    """Whether an exceedance makes the next row's likelier."""
    dtype = jnp.result_type(float)
    before, after = exceeded[:-1], exceeded[1:]
    from_hit, from_calm = jnp.sum(before, dtype=dtype), jnp.sum(~before, dtype=dtype)
    hit_hit, calm_hit = jnp.sum(before & after, dtype=dtype), jnp.sum(~before & after, dtype=dtype)
    together = (hit_hit + calm_hit) / (from_hit + from_calm)
    apart = [hits / jnp.maximum(n, 1) for hits, n in ((hit_hit, from_hit), (calm_hit, from_calm))]
    free = _log_likelihood(hit_hit, from_hit, apart[0]) + _log_likelihood(calm_hit, from_calm, apart[1])
    bound = _log_likelihood(hit_hit + calm_hit, from_hit + from_calm, together)
    independence = _chi_square(2 * (free - bound), 1)
    both = _chi_square(independence.statistic + kupiec(exceeded, tail_level).statistic, 2)
    return Christoffersen(independence, both)


class ShortfallTest(eqx.Module):
    """Acerbi and Szekely's statistics; 0 is expected, below 0 means losses worse than promised.

    Args:
        conditional: Z1, given that the value at risk is right: size of the losses beyond it.
        unconditional: Z2: their size and number.
        conditional_p_value, unconditional_p_value: Share of simulated samples with a statistic as low.
    """

    conditional: Float[Array, ""]
    unconditional: Float[Array, ""]
    conditional_p_value: Float[Array, ""]
    unconditional_p_value: Float[Array, ""]


def shortfall_statistics(
    losses: Float[Array, " row"],
    value_at_risk: Float[Array, " row"],
    cvar: Float[Array, " row"],
    tail_level: Float[Array, ""] | float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    r"""$Z_1 = 1 - \frac{\sum L_t I_t/ES_t}{\sum I_t}$ and $Z_2 = 1 - \frac{1}{T(1-\alpha)}\sum L_t I_t/ES_t$; $Z_1$ is 0 without exceedances."""
    hit = losses > value_at_risk
    sum_ratio = jnp.sum(jnp.where(hit, losses / cvar, 0))
    n_hits = jnp.sum(hit, dtype=losses.dtype)
    first = jnp.where(n_hits > 0, 1 - sum_ratio / jnp.maximum(n_hits, 1), 0)
    return first, 1 - sum_ratio / (losses.shape[0] * (1 - jnp.asarray(tail_level, losses.dtype)))


def acerbi_szekely(
    losses: Float[Array, " row"],
    value_at_risk: Float[Array, " row"],
    cvar: Float[Array, " row"],
    tail_level: Float[Array, ""] | float,
    draw: Callable[[PRNGKeyArray], Float[Array, " row"]],
    key: PRNGKeyArray,
    n_draws: int = 1000,
) -> ShortfallTest:
    """Both tests; `draw(key)` gives losses of all rows under the forecast laws."""
    found = jnp.stack(shortfall_statistics(losses, value_at_risk, cvar, tail_level))

    def simulated(index: Array) -> Array:
        drawn = draw(jax.random.fold_in(key, index))
        return jnp.stack(shortfall_statistics(drawn, value_at_risk, cvar, tail_level))

    null = jax.lax.map(simulated, jnp.arange(n_draws))
    p_values = (1 + jnp.sum(null <= found, axis=0)) / (n_draws + 1)
    return ShortfallTest(found[0], found[1], p_values[0], p_values[1])
