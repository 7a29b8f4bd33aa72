r"""P&L of a quoting policy path by path, in a form from which probabilities of falling below a limit can be differentiated.

Fills are jumps: which of them happen is drawn with the derivative cut, and every path carries the logarithm of its probability, so that
$\partial E[f] = E[\partial f + f\,\partial\log p]$ (score function). Depths act on the money earned path by path. The P&L between fills is a
Brownian motion of known variance, so a bridge can tell what happens between the ends of a step.

Source: docs/equations.md, (19).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.policies.quotes import AbstractPolicy, Covariates, MarketState
from mfamm_jax.simulation.episode import Episodes
from mfamm_jax.simulation.step import PoissonMarket


class PnlPaths(eqx.Module):
    """Marked to the mid, path by path.

    Args:
        start: Right after the fills of a step, before the mid moves [price lot].
        end: At the end of the step.
        variance: Of the P&L within the step, given the inventory [(price lot)^2].
        log_probability: Of the fills so far; its derivative is the score.
        inventory: Held over the step [lots].
    """

    start: Float[Array, "step path"]
    end: Float[Array, "step path"]
    variance: Float[Array, "step path"]
    log_probability: Float[Array, "step path"]
    inventory: Float[Array, "step path"]

    def weight(self) -> Float[Array, "step path"]:
        """1, with the score as its derivative: multiply what is known at the end of a step by it before averaging over paths."""
        return jnp.exp(self.log_probability - jax.lax.stop_gradient(self.log_probability))


def simulate_pnl(
    policy: AbstractPolicy,
    market: PoissonMarket,
    episodes: Episodes,
    covariates: Covariates,
    max_inventory: int,
    key: PRNGKeyArray,
) -> PnlPaths:
    """`episodes.n_paths` paths of the scheme whose law `episode_law` gives: quotes of one lot, |inventory| <= max_inventory.

    Adverse moves of the mid are part of its move within the step, so that the P&L jumps only by what a fill captures. Derivatives of
    breach probabilities are exact where captured spreads are positive; a quote across the mid makes the P&L jump down, perhaps over the
    limit, which no path's derivative sees. Arrays are (step, path): call it under `jit`, and for many paths in batches with keys of their own.

    Raises:
        ValueError: A market with a mid or arrivals of its own, since the bridge is Brownian, with a `fee_rate` or an `impact_recovery`.
    """
    for name in ("fee_rate", "impact_recovery"):
        value = getattr(market, name)
        if not isinstance(value, jax.core.Tracer) and float(value) != 0:
            raise ValueError(f"market.{name} is {float(value):g}, expected 0: simulate_pnl has no part for it")
    if market.mid is not None or market.arrivals is not None:
        raise ValueError("simulate_pnl knows a Brownian mid and Poisson arrivals only: drop mid and arrivals")
    time_step = episodes.horizon / episodes.n_steps
    levels = jnp.arange(-max_inventory, max_inventory + 1, dtype=time_step.dtype)
    zero = jnp.zeros_like(time_step)
    spread = market.volatility * jnp.sqrt(time_step)

    def advance(carry: tuple[Array, Array, Array], index: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        position, value, log_probability = carry
        left = time_step * (episodes.n_steps - index)
        quotes = jax.vmap(lambda q: policy(MarketState(zero, q, zero, left, covariates)))(levels)
        chances = jnp.stack(market.fill_probabilities(quotes, time_step))[:, position]
        depths = jnp.stack([quotes.bid_depth, quotes.ask_depth])[:, position]
        draw, drift = jax.random.fold_in(key, 2 * index), jax.random.fold_in(key, 2 * index + 1)
        filled = jax.random.uniform(draw, chances.shape, chances.dtype) < jax.lax.stop_gradient(chances)
        log_probability = log_probability + jnp.sum(_log_chance(chances, filled), axis=0)
        bid, ask = filled.astype(value.dtype)
        start = value + jnp.sum(jnp.where(filled, depths - market.maker_fee, 0), axis=0)
        position = position + filled[0].astype(int) - filled[1].astype(int)
        inventory = position.astype(value.dtype) - max_inventory
        push = ask * market.ask_adverse_selection - bid * market.bid_adverse_selection
        noise = spread * jax.random.normal(drift, value.shape, value.dtype)
        end = start + inventory * (push + market.drift * time_step + noise)
        kept = start, end, (inventory * spread) ** 2, log_probability, inventory
        return (position, end, log_probability), kept

    nothing = jnp.zeros(episodes.n_paths, time_step.dtype) + 0 * zero
    begin = jnp.full(episodes.n_paths, max_inventory), nothing, nothing
    return PnlPaths(*jax.lax.scan(advance, begin, jnp.arange(episodes.n_steps))[1])


def _log_chance(chance: Float[Array, "side path"], happened: Array) -> Float[Array, "side path"]:
    """Of what was drawn; probabilities of 0 and 1 have no alternative to be told from."""
    certain = (chance <= 0) | (chance >= 1)
    safe = jnp.where(certain, 0.5, chance)
    return jnp.where(certain, 0.0, jnp.where(happened, jnp.log(safe), jnp.log1p(-safe)))
