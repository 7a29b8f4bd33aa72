r"""Goodness of fit of an intensity by time rescaling.

If the intensity is right, the integrals $\int \lambda\,dt$ between successive arrivals are independent standard
exponentials. Source: Papangelou (1972); Brown et al. (2002), Neural Computation 14.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Real

from mfamm_jax.fields import in_precision


class GoodnessOfFit(eqx.Module):
    """Ordered residuals against a standard exponential; entries from `n_residuals` on are padding (0).

    Args:
        theoretical: Quantile of the exponential at (i - 1/2)/n.
        empirical: Residuals in increasing order: the two make the QQ plot.
        n_residuals: Number of arrivals n.
        distance: Kolmogorov-Smirnov distance; 1 without arrivals.
        critical_value: Its 5 % critical value. Intensities fitted to the same rows fit too well, so for them the test
            is conservative.
    """

    theoretical: Float[Array, " row"]
    empirical: Float[Array, " row"]
    n_residuals: Int[Array, ""]
    distance: Float[Array, ""]
    critical_value: Float[Array, ""]


def rescaled_residuals(
    intensity: Float[Array, " row"], exposure: Float[Array, " row"], count: Real[Array, " row"]
) -> tuple[Float[Array, " row"], Int[Array, ""]]:
    """Integrated intensity between successive arrivals, in order, zeros behind them; and their number.

    Rows are those of (11), in time order and cut at every arrival, so an arrival is at the end of its row. The spell
    after the last arrival is not complete and left out.

    Args:
        intensity: Rate during each row [1/s].
        exposure: Length of each row [s].
        count: Above 0 if the row ends in an arrival.
    """
    arrives = count > 0
    earlier = jnp.cumsum(arrives) - arrives
    n_rows, n_arrivals = count.shape[0], jnp.sum(arrives)
    spells = jax.ops.segment_sum(intensity * exposure, earlier, n_rows)
    return jnp.where(jnp.arange(n_rows) < n_arrivals, spells, 0), n_arrivals


def goodness_of_fit(
    intensity: Float[Array, " row"], exposure: Float[Array, " row"], count: Real[Array, " row"]
) -> GoodnessOfFit:
    """QQ points and Kolmogorov-Smirnov distance of the rescaled times; arguments as in `rescaled_residuals`."""
    residuals, n = rescaled_residuals(intensity, exposure, count)
    rank = jnp.arange(residuals.shape[0])
    is_used = rank < n
    ordered = jnp.where(is_used, jnp.sort(jnp.where(is_used, residuals, jnp.inf)), 0)
    level = jnp.where(is_used, (rank + 0.5) / jnp.maximum(n, 1), 0).astype(residuals.dtype)
    distance = _distance(ordered, rank / jnp.maximum(n, 1), (rank + 1) / jnp.maximum(n, 1), is_used)
    return GoodnessOfFit(-jnp.log1p(-level), ordered, n, jnp.where(n > 0, distance, 1), critical_value(n))


def critical_value(n: Int[Array, ""] | int) -> Float[Array, ""]:
    r"""5 % point of the distance for n >= 5, $1.3581 / (\sqrt n + 0.12 + 0.11/\sqrt n)$ (Stephens 1970)."""
    root = jnp.sqrt(jnp.maximum(in_precision(n), 1))
    return 1.3581 / (root + 0.12 + 0.11 / root)


def _distance(
    ordered: Float[Array, " row"], below: Float[Array, " row"], upto: Float[Array, " row"], is_used: Bool[Array, " row"]
) -> Float[Array, ""]:
    """Largest gap between the exponential distribution and the steps of the empirical one."""
    probability = -jnp.expm1(-ordered)
    gap = jnp.maximum(jnp.abs(probability - below), jnp.abs(upto - probability))
    return jnp.max(jnp.where(is_used, gap, 0))
