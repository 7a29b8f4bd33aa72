"""Numbers a desk reads first: P&L moments, Sharpe ratios, inventory, fills and markouts."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Moments(eqx.Module):
    """Mean, standard deviation (n - 1) and their ratio; `error` is the standard error of the mean."""

    mean: Float[Array, "*b"]
    std: Float[Array, "*b"]
    sharpe: Float[Array, "*b"]
    error: Float[Array, "*b"]


def moments(pnl: Float[Array, "path *b"]) -> Moments:
    """Over the leading axis. Sharpe is per horizon, not annualised; 0 when nothing varies."""
    mean, std = jnp.mean(pnl, axis=0), jnp.std(pnl, axis=0, ddof=1)
    safe = jnp.where(std > 0, std, 1.0)
    return Moments(mean, std, jnp.where(std > 0, mean / safe, 0.0), std / jnp.sqrt(pnl.shape[0]))


def moments_by_horizon(
    value: Float[Array, "path step"], fractions: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
) -> Moments:
    """Moments of the value after the given fractions of the steps."""
    n = value.shape[1]
    columns = jnp.array([max(round(fraction * n), 1) - 1 for fraction in fractions])
    return moments(value[:, columns])


class InventoryStatistics(eqx.Module):
    """Of inventory paths [lots].

    Args:
        mean, std, largest: Over paths and steps; `largest` of the absolute value.
        share_at_limit: Share of steps with |inventory| at the limit.
        final_std: Standard deviation of the last step over paths.
    """

    mean: Float[Array, ""]
    std: Float[Array, ""]
    largest: Float[Array, ""]
    share_at_limit: Float[Array, ""]
    final_std: Float[Array, ""]


def inventory_statistics(
    inventory: Float[Array, "path step"], max_inventory: Float[Array, ""] | int
) -> InventoryStatistics:
    """Statistics over all paths and steps."""
    return InventoryStatistics(
        mean=jnp.mean(inventory),
        std=jnp.std(inventory),
        largest=jnp.max(jnp.abs(inventory)),
        share_at_limit=jnp.mean((jnp.abs(inventory) >= max_inventory).astype(inventory.dtype)),
        final_std=jnp.std(inventory[:, -1]),
    )


def markouts(
    side: Int[Array, " fill"],
    price: Float[Array, " fill"],
    size: Float[Array, " fill"],
    later_mid: Float[Array, "horizon fill"],
    known: Bool[Array, "horizon fill"],
) -> Float[Array, " horizon"]:
    """Size-weighted mean gain per lot of fills against the mid some time later; negative = adverse selection.

    Args:
        side: +1 we bought, -1 we sold, 0 no fill.
        price: Fill price [price].
        size: [lots].
        later_mid: Mid at each horizon after the fill [price].
        known: Whether the record reaches that far.
    """
    weight = jnp.where(known & (side != 0), size, 0.0)
    gain = side * (later_mid - price)
    total = jnp.sum(weight, axis=1)
    return jnp.where(total > 0, jnp.sum(weight * gain, axis=1) / jnp.where(total > 0, total, 1.0), jnp.nan)
