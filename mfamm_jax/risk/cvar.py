r"""Tail risk: value at risk and conditional value at risk (expected shortfall) of losses, by five routes.

With L a loss (positive = lost), $\alpha$ the tail level and $q = VaR_\alpha$,

$$CVaR_\alpha = \min_c\; c + \frac{E[(L - c)^+]}{1 - \alpha} = \frac{1}{1-\alpha}\int_\alpha^1 F^{-1}(u)\,du.$$

- `loss_tail_risk`: a sample, with weights if wanted (Rockafellar-Uryasev; the estimator E1 on draws of a flow).
- `reweighted_tail_risk` (E2): draws of a proposal, weighted by density ratios. This is (18) repaired.
- `quadrature_tail_risk` (E3): one dimension, a quantile function; no sampling error, and the default for flows.
- `rulebook_tail_risk`: (18) as printed, which estimates nothing (docs/equations.md); kept to show it.

All are differentiable in whatever made the losses.

Source: docs/equations.md, (18); Rockafellar & Uryasev (2000, 2002).
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.fields import in_precision


class TailRisk(eqx.Module):
    """Loss quantile and mean loss beyond it; losses are positive numbers.

    Args:
        value_at_risk: Smallest loss not exceeded with probability `tail_level` [P&L units].
        cvar: Expected loss in the worst 1 - tail_level of cases [P&L units].
    """

    value_at_risk: Float[Array, "*level"]
    cvar: Float[Array, "*level"]


def empirical_tail_risk(pnl: Float[Array, " path"], tail_level: Float[Array, ""] | float) -> TailRisk:
    """`loss_tail_risk` of P&L: a loss is its negative."""
    return loss_tail_risk(-pnl, tail_level)


def loss_tail_risk(
    losses: Float[Array, " path"],
    tail_level: Float[Array, ""] | float,
    weights: Float[Array, " path"] | None = None,
) -> TailRisk:
    r"""Rockafellar-Uryasev on a sample: $VaR = $ smallest loss whose cumulative weight reaches $\alpha$, $CVaR = VaR + E[(L - VaR)^+]/(1-\alpha)$.

    The formula stays exact where the quantile is an atom or $n\alpha$ no integer, where averaging the worst samples is not.

    Args:
        losses: Any order.
        tail_level: $\alpha$ in (0, 1).
        weights: Probabilities of the losses, scaled to sum to 1; None = equal.
    """
    check_level(tail_level)
    n = losses.shape[0]
    level = jnp.asarray(tail_level, losses.dtype)
    if weights is None:
        ordered = jnp.sort(losses)
        # Rounding guards against n * 0.95 landing a hair above an integer.
        index = jnp.clip(jnp.ceil(n * level - 1e-3).astype(int) - 1, 0, n - 1)
        share = jnp.full((n,), 1 / n, losses.dtype)
    else:
        order = jnp.argsort(losses)
        ordered, share = losses[order], (weights / jnp.sum(weights))[order]
        reached = jnp.cumsum(share) >= level - 8 * jnp.finfo(losses.dtype).eps
        index = jnp.where(jnp.any(reached), jnp.argmax(reached), n - 1)
    quantile = ordered[index]
    excess = jnp.sum(share * jnp.maximum(ordered - quantile, 0.0)) / (1.0 - level)
    return TailRisk(quantile, quantile + excess)


class ReweightedTailRisk(eqx.Module):
    """As `TailRisk`, with what the weights left of the sample.

    Args:
        effective_size: $(\\sum w)^2/\\sum w^2$: so many equal draws would be worth as much.
    """

    value_at_risk: Float[Array, ""]
    cvar: Float[Array, ""]
    effective_size: Float[Array, ""]


def reweighted_tail_risk(
    losses: Float[Array, " draw"], log_weights: Float[Array, " draw"], tail_level: Float[Array, ""] | float
) -> ReweightedTailRisk:
    """E2: draws of a proposal q, with log p/q of each up to a constant (self-normalised)."""
    weights = jax.nn.softmax(log_weights)
    risk = loss_tail_risk(losses, tail_level, weights)
    return ReweightedTailRisk(risk.value_at_risk, risk.cvar, 1 / jnp.sum(weights**2))


def quadrature_tail_risk(
    survival_quantile: Callable[[Float[Array, " node"]], Float[Array, " node"]],
    tail_level: Float[Array, ""] | float,
    n_nodes: int = 16,
) -> TailRisk:
    r"""E3: $CVaR = \int_0^1 3 s^2\, T((1-\alpha)s^3)\,ds$ by Gauss-Legendre, T the quantile at a survival probability.

    The substitution takes the tail's singularity away; 16 nodes give 8 digits for a normal law, 14 for t with 3 degrees of freedom.

    Args:
        survival_quantile: T(p), the loss exceeded with probability p; e.g. `LossFlow.survival_quantile`.
        tail_level: $\alpha$ in (0, 1).
        n_nodes: Of the rule.
    """
    check_level(tail_level)
    level = in_precision(tail_level)
    nodes, weights = np.polynomial.legendre.leggauss(n_nodes)
    s = jnp.asarray(0.5 * (nodes + 1), level.dtype)
    share = jnp.asarray(0.5 * weights, level.dtype) * 3 * s**2
    # One call: the quantile function may be a root search.
    quantiles = survival_quantile((1 - level) * jnp.concatenate([jnp.ones(1, level.dtype), s**3]))
    return TailRisk(quantiles[0], jnp.sum(share * quantiles[1:]))


def rulebook_tail_risk(
    losses: Float[Array, " draw"], factors: Float[Array, " draw"], tail_level: Float[Array, ""] | float
) -> Float[Array, ""]:
    r"""(18) as printed: $\frac{1}{(1-\alpha)N}\sum_i l_i \prod_k \phi_k^{-1}$. Not an estimator of anything: see docs/equations.md.

    For one layer $\mu + \sigma z$ of a normal base it tends to $(1 - \mu^2/\sigma)/(1-\alpha)$ or $\sigma/(1-\alpha)$, by where the inverse is taken.

    Args:
        losses: Draws of the flow.
        factors: What the product is read as, at each.
        tail_level: $\alpha$.
    """
    return jnp.mean(losses * factors) / (1 - jnp.asarray(tail_level, losses.dtype))


def cvar_standard_error(losses: Float[Array, " path"], tail_level: Float[Array, ""] | float) -> Float[Array, ""]:
    r"""Of `loss_tail_risk`: $\sqrt{[Var(L|L>q) + \alpha(CVaR - q)^2]/((1-\alpha)n)}$, asymptotically. Infinite variance shows as a large number, not as infinity."""
    risk = loss_tail_risk(losses, tail_level)
    level = jnp.asarray(tail_level, losses.dtype)
    excess = jnp.maximum(losses - risk.value_at_risk, 0)
    # Var of (L - q)^+ / (1 - level), which is the expression above.
    return jnp.std(excess) / (1 - level) / jnp.sqrt(jnp.asarray(losses.shape[0], losses.dtype))


def check_sample(n: int, tail_level: float, n_beyond: float = 10.0) -> None:
    """Raises ValueError where a sample of n has fewer than `n_beyond` losses beyond the level."""
    check_level(tail_level)
    if n * (1 - tail_level) < n_beyond - 1e-9:
        needed = int(np.ceil(n_beyond / (1 - tail_level) - 1e-9))
        raise ValueError(
            f"{n} losses leave {n * (1 - tail_level):.1f} beyond the level {tail_level:g}, expected at least {n_beyond:g}: bring {needed} losses, "
            "lower the level or fit a LossFlow"
        )


def check_level(tail_level: Float[Array, ""] | float) -> None:
    """Concrete ones; tracers pass."""
    if not isinstance(tail_level, jax.core.Tracer) and not np.all(
        (np.asarray(tail_level) > 0) & (np.asarray(tail_level) < 1)
    ):
        raise ValueError(f"tail_level is {tail_level}, expected a number in (0, 1), near 1 for losses")


def bootstrap_interval(
    statistic, samples: Float[Array, " path"], n_bootstrap: int, key: PRNGKeyArray, coverage: float = 0.95
) -> Float[Array, "2"]:
    """Percentile bootstrap interval of `statistic(samples) -> scalar`."""

    def resample(index):
        rows = jax.random.randint(jax.random.fold_in(key, index), samples.shape, 0, samples.shape[0])
        return statistic(samples[rows])

    values = jax.lax.map(resample, jnp.arange(n_bootstrap))
    return jnp.quantile(values, jnp.array([(1 - coverage) / 2, (1 + coverage) / 2], samples.dtype))
