r"""One step of the market maker's world: fills (4), inventory (2), the mid, fees and the reward (1)."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.models.intensity import AbstractIntensity
from mfamm_jax.policies.quotes import Covariates, MarketState, Quotes


class PoissonMarket(Checked):
    r"""Fills arrive as Poisson processes whose rate depends on the depth; the mid is a Brownian motion that fills may push.

    Args:
        bid: Fill intensity of bids.
        ask: Fill intensity of asks.
        volatility: $\sigma$ of the mid [price/sqrt(s)].
        drift: [price/s].
        bid_adverse_selection: Fall of the mid after a bid fill [price].
        ask_adverse_selection: Rise of the mid after an ask fill [price].
        maker_fee: Fee per lot filled, negative = rebate [price].
        fill_rule: What (4) becomes over a finite step: `"poisson"` $1 - e^{-\lambda dt}$; `"clip_product"` $\min(1, \lambda dt)$, the
            paper's of 2008; `"product_of_clips"` $\min(1, \Lambda dt)\min(1, \lambda/\Lambda)$ with $\Lambda$ at the mid, mbt_gym's.
    """

    bid: AbstractIntensity
    ask: AbstractIntensity
    volatility: Float[Array, ""] = real_field(lower=0.0, unit="price/sqrt(s)", source="(1)")
    drift: Float[Array, ""] = real_field(default=0.0, unit="price/s")
    bid_adverse_selection: Float[Array, ""] = real_field(default=0.0, unit="price")
    ask_adverse_selection: Float[Array, ""] = real_field(default=0.0, unit="price")
    maker_fee: Float[Array, ""] = real_field(default=0.0, unit="price")
    fill_rule: Literal["poisson", "clip_product", "product_of_clips"] = static_field(
        default="poisson", source="(4), AS-S2", help="probability of a fill in a finite step"
    )

    def fill_probabilities(
        self, quotes: Quotes, time_step: Float[Array, ""]
    ) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
        r"""(4) over a finite step; with the Poisson rule that at least one order reaches the quote; 0 where not quoted."""

        def probability(intensity, depth, size):
            rate = intensity(depth)
            if self.fill_rule == "poisson":
                chance = -jnp.expm1(-rate * time_step)
            elif self.fill_rule == "clip_product":
                chance = jnp.minimum(rate * time_step, 1.0)  # AS-S2
            else:
                at_mid = intensity(jnp.zeros_like(depth))
                chance = jnp.minimum(at_mid * time_step, 1.0) * jnp.minimum(rate / at_mid, 1.0)
            return jnp.where(size > 0, chance, 0.0)

        return (
            probability(self.bid, quotes.bid_depth, quotes.bid_size),
            probability(self.ask, quotes.ask_depth, quotes.ask_size),
        )


class StepRecord(eqx.Module):
    """What happened in a step.

    Args:
        bid_fill: Lots bought.
        ask_fill: Lots sold.
        capture: Half spreads earned against the mid before the step [price lot].
        revaluation: Inventory held over the step times the change of the mid [price lot].
        fees: Paid [price lot].
        penalty: $\\phi q^2 dt$ with the inventory held over the step.
    """

    bid_fill: Float[Array, ""]
    ask_fill: Float[Array, ""]
    capture: Float[Array, ""]
    revaluation: Float[Array, ""]
    fees: Float[Array, ""]
    penalty: Float[Array, ""]

    @property
    def reward(self) -> Float[Array, ""]:
        """(1): spread earned minus running penalty."""
        return self.capture - self.penalty


def step(
    market: PoissonMarket,
    state: MarketState,
    quotes: Quotes,
    time_step: Float[Array, ""],
    inventory_penalty: Float[Array, ""],
    key: PRNGKeyArray,
) -> tuple[MarketState, StepRecord]:
    """Fills happen at the mid the quotes were made for, then the mid moves; a bid fill raises inventory (2)."""
    bid_probability, ask_probability = market.fill_probabilities(quotes, time_step)
    dtype = state.cash.dtype
    uniform = jax.random.uniform(jax.random.fold_in(key, 0), (2,), dtype)
    noise = jax.random.normal(jax.random.fold_in(key, 1), (), dtype)
    bid_hit, ask_hit = uniform[0] < bid_probability, uniform[1] < ask_probability
    bid_fill = jnp.where(bid_hit, quotes.bid_size, 0.0)
    ask_fill = jnp.where(ask_hit, quotes.ask_size, 0.0)
    move = (
        market.drift * time_step
        + market.volatility * jnp.sqrt(time_step) * noise
        + jnp.where(ask_hit, market.ask_adverse_selection, 0.0)
        - jnp.where(bid_hit, market.bid_adverse_selection, 0.0)
    )
    inventory = state.inventory + bid_fill - ask_fill  # (2)
    fees = market.maker_fee * (bid_fill + ask_fill)
    bought = bid_fill * (state.mid - quotes.bid_depth)
    sold = ask_fill * (state.mid + quotes.ask_depth)
    after = MarketState(
        mid=state.mid + move,
        inventory=inventory,
        cash=state.cash + sold - bought - fees,
        time_left=state.time_left - time_step,
        covariates=state.covariates,
    )
    record = StepRecord(
        bid_fill=bid_fill,
        ask_fill=ask_fill,
        capture=bid_fill * quotes.bid_depth + ask_fill * quotes.ask_depth,
        revaluation=inventory * move,
        fees=fees,
        penalty=inventory_penalty * inventory**2 * time_step,
    )
    return after, record


def start_state(time_left: Float[Array, ""], covariates: Covariates) -> MarketState:
    """Flat, no cash, mid 0 (prices are relative to the first mid)."""
    zero = jnp.zeros_like(time_left)
    return MarketState(zero, zero, zero, time_left, covariates)
