"""Tail risk of P&L samples: empirical value at risk and expected shortfall with bootstrap intervals."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class TailRisk(eqx.Module):
    """Loss quantile and mean loss beyond it; losses are positive numbers.

    Args:
        value_at_risk: Smallest loss not exceeded with probability `tail_level` [P&L units].
        cvar: Expected loss in the worst 1 - tail_level of cases [P&L units].
    """

    value_at_risk: Float[Array, ""]
    cvar: Float[Array, ""]


def empirical_tail_risk(pnl: Float[Array, " path"], tail_level: Float[Array, ""] | float) -> TailRisk:
    r"""Rockafellar-Uryasev: $VaR = L_{(\lceil n\alpha\rceil)}$, $CVaR = VaR + E[(L - VaR)^+]/(1-\alpha)$, $L = -pnl$.

    The formula stays exact when $n\alpha$ is no integer, where averaging the worst samples is not. Source: Rockafellar & Uryasev (2000).
    """
    loss = jnp.sort(-pnl)
    n = pnl.shape[0]
    # Rounding guards against n * 0.95 landing a hair above an integer.
    index = jnp.clip(jnp.ceil(n * jnp.asarray(tail_level, pnl.dtype) - 1e-3).astype(int) - 1, 0, n - 1)
    quantile = loss[index]
    excess = jnp.mean(jnp.maximum(loss - quantile, 0.0)) / (1.0 - tail_level)
    return TailRisk(quantile, quantile + excess)


def bootstrap_interval(
    statistic, samples: Float[Array, " path"], n_bootstrap: int, key: PRNGKeyArray, coverage: float = 0.95
) -> Float[Array, "2"]:
    """Percentile bootstrap interval of `statistic(samples) -> scalar`."""

    def resample(index):
        rows = jax.random.randint(jax.random.fold_in(key, index), samples.shape, 0, samples.shape[0])
        return statistic(samples[rows])

    values = jax.lax.map(resample, jnp.arange(n_bootstrap))
    return jnp.quantile(values, jnp.array([(1 - coverage) / 2, (1 + coverage) / 2], samples.dtype))
