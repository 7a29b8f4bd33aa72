r"""One step of the market maker's world: fills (4), inventory (2), the mid, fees and the reward (1)."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.models.arrivals import AbstractArrivals
from mfamm_jax.models.intensity import AbstractIntensity
from mfamm_jax.models.mid_price import AbstractMid, BrownianMid
from mfamm_jax.policies.quotes import Covariates, MarketState, Quotes


class PoissonMarket(Checked):
    r"""Fills arrive as Poisson processes whose rate depends on the depth; the mid is a Brownian motion that fills may push.

    Args:
        bid: Fill intensity of bids.
        ask: Fill intensity of asks.
        volatility: $\sigma$ of the mid [price/sqrt(s)]; without effect where `mid` is given, as is `drift`.
        drift: [price/s].
        bid_adverse_selection: Fall of the mid after a bid fill [price].
        ask_adverse_selection: Rise of the mid after an ask fill [price].
        impact_recovery: Rate at which the mid recovers from what our fills did to it [1/s]; 0 = never.
        maker_fee: Fee per lot filled, negative = rebate [price].
        fee_rate: Fee as a fraction of the price paid or received; needs a mid that is a price, not a distance from the first.
        mid: Another model of the mid.
        arrivals: Arrivals that are not Poisson: factors on both intensities.
        fill_rule: What (4) becomes over a finite step: `"poisson"` $1 - e^{-\lambda dt}$; `"clip_product"` $\min(1, \lambda dt)$, the
            paper's of 2008; `"product_of_clips"` $\min(1, \Lambda dt)\min(1, \lambda/\Lambda)$ with $\Lambda$ at the mid, mbt_gym's.
    """

    bid: AbstractIntensity
    ask: AbstractIntensity
    volatility: Float[Array, ""] = real_field(lower=0.0, unit="price/sqrt(s)", source="(1)")
    drift: Float[Array, ""] = real_field(default=0.0, unit="price/s")
    bid_adverse_selection: Float[Array, ""] = real_field(default=0.0, unit="price")
    ask_adverse_selection: Float[Array, ""] = real_field(default=0.0, unit="price")
    impact_recovery: Float[Array, ""] = real_field(default=0.0, lower=0.0, unit="1/s")
    maker_fee: Float[Array, ""] = real_field(default=0.0, unit="price")
    fee_rate: Float[Array, ""] = real_field(default=0.0, help="fee as a fraction of the price")
    mid: AbstractMid | None = None
    arrivals: AbstractArrivals | None = None
    fill_rule: Literal["poisson", "clip_product", "product_of_clips"] = static_field(
        default="poisson", source="(4), AS-S2", help="probability of a fill in a finite step"
    )

    def fill_probabilities(
        self, quotes: Quotes, time_step: Float[Array, ""], factors: tuple[Any, Any] = (1.0, 1.0)
    ) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
        r"""(4) over a finite step; with the Poisson rule that at least one order reaches the quote; 0 where not quoted."""

        def probability(intensity, depth, size, factor):
            rate = factor * intensity(depth)
            if self.fill_rule == "poisson":
                chance = -jnp.expm1(-rate * time_step)
            elif self.fill_rule == "clip_product":
                chance = jnp.minimum(rate * time_step, 1.0)  # AS-S2
            else:
                at_mid = factor * intensity(jnp.zeros_like(depth))
                share = rate / jnp.where(at_mid > 0, at_mid, 1.0)  # a quiet moment (activity 0) has no orders to share
                chance = jnp.minimum(at_mid * time_step, 1.0) * jnp.minimum(share, 1.0)
            return jnp.where(size > 0, chance, 0.0)

        return (
            probability(self.bid, quotes.bid_depth, quotes.bid_size, factors[0]),
            probability(self.ask, quotes.ask_depth, quotes.ask_size, factors[1]),
        )

    @property
    def own_mid(self) -> AbstractMid:
        """The mid's model, Brownian unless given."""
        return BrownianMid(self.volatility, self.drift) if self.mid is None else self.mid

    @property
    def n_uniforms(self) -> int:
        """Random numbers per step: one per side, and the mid's."""
        return 2 + self.own_mid.n_uniforms

    def start(self, time_left: Float[Array, ""], covariates: Covariates) -> MarketState:
        """Flat, no cash, at the mid's first price (0 where the mid is a distance from it)."""
        zero = jnp.zeros_like(time_left)
        own_mid = self.own_mid
        hidden = own_mid.start(), () if self.arrivals is None else self.arrivals.start(zero), zero
        return MarketState(own_mid.start_price + zero, zero, zero, time_left, covariates, hidden)


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
    """One random step; see `step_with`."""
    uniforms = jax.random.uniform(key, (market.n_uniforms,), state.cash.dtype)
    return step_with(market, state, quotes, time_step, inventory_penalty, uniforms)


def step_with(
    market: PoissonMarket,
    state: MarketState,
    quotes: Quotes,
    time_step: Float[Array, ""],
    inventory_penalty: Float[Array, ""],
    uniforms: Float[Array, " number"],
) -> tuple[MarketState, StepRecord]:
    """Fills happen at the mid the quotes were made for, then the mid moves; a bid fill raises inventory (2).

    `state` comes from `PoissonMarket.start`. Quotes may have several levels along one axis: an order that reaches a level reaches
    every nearer one.
    """
    mid, arrivals, impact = state.hidden
    uniform = uniforms[:2]
    if market.arrivals is None:
        bid_probability, ask_probability = market.fill_probabilities(quotes, time_step)
    else:
        zero = jnp.zeros_like(state.cash)
        at_mid = jnp.stack(jnp.broadcast_arrays(market.bid(zero), market.ask(zero)))
        factors = market.arrivals.factors(arrivals, at_mid)
        bid_probability, ask_probability = market.fill_probabilities(quotes, time_step, (factors[0], factors[1]))
        # An order that reaches deeper than the mid has arrived at the mid: one number decides both.
        reached = market.fill_probabilities(Quotes(zero, zero, zero + 1, zero + 1), time_step, (factors[0], factors[1]))
        arrivals = market.arrivals.advance(arrivals, uniform < jnp.stack(reached), time_step)
    bid_hit, ask_hit = uniform[0] < bid_probability, uniform[1] < ask_probability
    bid_fill = jnp.where(bid_hit, quotes.bid_size, 0.0)
    ask_fill = jnp.where(ask_hit, quotes.ask_size, 0.0)
    mid, move = market.own_mid.advance(mid, time_step, uniforms[2:])
    push = jnp.where(jnp.any(ask_hit), market.ask_adverse_selection, 0.0)
    push = push - jnp.where(jnp.any(bid_hit), market.bid_adverse_selection, 0.0)
    # What earlier fills left of their impact recovers; what this step's leave starts to.
    recovery = impact * jnp.expm1(-market.impact_recovery * time_step)
    move = move + push + recovery
    bid, ask = state.mid - quotes.bid_depth, state.mid + quotes.ask_depth
    paid, received = jnp.sum(bid_fill * bid), jnp.sum(ask_fill * ask)
    capture = jnp.sum(bid_fill * quotes.bid_depth + ask_fill * quotes.ask_depth)
    bid_fill, ask_fill = jnp.sum(bid_fill), jnp.sum(ask_fill)
    inventory = state.inventory + bid_fill - ask_fill  # (2)
    fees = market.maker_fee * (bid_fill + ask_fill) + market.fee_rate * (paid + received)
    after = MarketState(
        mid=state.mid + move,
        inventory=inventory,
        cash=state.cash + received - paid - fees,
        time_left=state.time_left - time_step,
        covariates=state.covariates,
        hidden=(mid, arrivals, impact + push + recovery),
    )
    record = StepRecord(
        bid_fill=bid_fill,
        ask_fill=ask_fill,
        capture=capture,
        revaluation=inventory * move,
        fees=fees,
        penalty=inventory_penalty * inventory**2 * time_step,
    )
    return after, record
