r"""Rules every desk puts around model quotes: spread limits and the VPIN and imbalance gates."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mfamm_jax.fields import Checked, real_field
from mfamm_jax.models.intensity import gate_factor
from mfamm_jax.policies.quotes import AbstractPolicy, MarketState, Quotes


class QuoteRules(Checked):
    """Limits and gates, applied after the model.

    Args:
        min_half_spread: Smallest depth of either quote [price].
        max_half_spread: Largest depth of either quote [price].
        vpin_gate: VPIN above which quoting is reduced.
        vpin_width: Width of the transition; 0 = a step.
        vpin_reduced_size: Fraction of the size quoted well above the gate; 0 = stop quoting.
        imbalance_gate: |imbalance| beyond which the side about to be run over is reduced.
        imbalance_reduced_size: Fraction of that side's size.
    """

    min_half_spread: Float[Array, ""] = real_field(default=-jnp.inf, unit="price", help="smallest depth quoted")
    max_half_spread: Float[Array, ""] = real_field(default=jnp.inf, unit="price", help="largest depth quoted")
    vpin_gate: Float[Array, ""] = real_field(
        default=0.7, lower=0.0, source="glossary", help="VPIN above which quoting is reduced"
    )
    vpin_width: Float[Array, ""] = real_field(default=0.0, lower=0.0, help="width of the gate's transition; 0 = a step")
    vpin_reduced_size: Float[Array, ""] = real_field(
        default=0.0, lower=0.0, upper=1.0, help="fraction of the size quoted above the gate"
    )
    imbalance_gate: Float[Array, ""] = real_field(
        default=0.3,
        lower=0.0,
        source="glossary",
        help="imbalance beyond which the threatened side is reduced",
    )
    imbalance_reduced_size: Float[Array, ""] = real_field(
        default=1.0, lower=0.0, upper=1.0, help="fraction of the threatened side's size; 1 = gate off"
    )


def apply_rules(rules: QuoteRules, quotes: Quotes, vpin: Float[Array, ""], imbalance: Float[Array, ""]) -> Quotes:
    """Clips depths, then scales sizes. Buying pressure (imbalance > 0) threatens asks, selling pressure bids."""
    toxic = gate_factor(vpin, rules.vpin_gate, rules.vpin_width, rules.vpin_reduced_size)
    ask = gate_factor(imbalance, rules.imbalance_gate, jnp.zeros(()), rules.imbalance_reduced_size)
    bid = gate_factor(-imbalance, rules.imbalance_gate, jnp.zeros(()), rules.imbalance_reduced_size)
    return Quotes(
        bid_depth=jnp.clip(quotes.bid_depth, rules.min_half_spread, rules.max_half_spread),
        ask_depth=jnp.clip(quotes.ask_depth, rules.min_half_spread, rules.max_half_spread),
        bid_size=quotes.bid_size * toxic * bid,
        ask_size=quotes.ask_size * toxic * ask,
    )


def round_to_ticks(quotes: Quotes, mid: Float[Array, ""], tick_size: Float[Array, ""]) -> Quotes:
    """Moves both prices to the tick grid away from the mid: a market maker never gives a tick away by rounding.

    `mid` is relative to a reference price that lies on the grid.
    """
    # A price within a millionth of a tick of the grid is on it: rounding error must not cost a whole tick.
    slack = 1e-6 if quotes.bid_depth.dtype == jnp.float64 else 1e-3
    bid = jnp.floor((mid - quotes.bid_depth) / tick_size + slack) * tick_size
    ask = jnp.ceil((mid + quotes.ask_depth) / tick_size - slack) * tick_size
    return Quotes(mid - bid, ask - mid, quotes.bid_size, quotes.ask_size)


class RuledPolicy(AbstractPolicy):
    """A policy inside rules."""

    policy: AbstractPolicy
    rules: QuoteRules

    def __call__(self, state: MarketState) -> Quotes:
        """The wrapped policy's quotes, limited and gated."""
        return apply_rules(self.rules, self.policy(state), state.covariates.vpin, state.covariates.imbalance)


class WidenedPolicy(AbstractPolicy):
    """A policy whose depths grow with VPIN above a gate.

    Args:
        policy: Quotes without widening.
        vpin_gate: VPIN above which depths grow.
        widening: Growth for each unit of VPIN above [price].
    """

    policy: AbstractPolicy
    vpin_gate: Float[Array, ""] = real_field()
    widening: Float[Array, ""] = real_field()

    def __call__(self, state: MarketState) -> Quotes:
        """The wrapped policy's quotes, both moved away from the mid."""
        quotes = self.policy(state)
        more = self.widening * jnp.maximum(state.covariates.vpin - self.vpin_gate, 0.0)
        return Quotes(quotes.bid_depth + more, quotes.ask_depth + more, quotes.bid_size, quotes.ask_size)


class SymmetricPolicy(AbstractPolicy):
    """The baseline: one half spread around the mid, whatever the inventory; stops at the limit.

    Args:
        half_spread: Depth of both quotes [price].
        max_inventory: [lots].
        size: [lots].
    """

    half_spread: Float[Array, ""] = real_field()
    max_inventory: Float[Array, ""] = real_field()
    size: Float[Array, ""] = real_field(default=1.0)

    def __call__(self, state: MarketState) -> Quotes:
        """Symmetric quotes."""
        return Quotes(
            bid_depth=self.half_spread,
            ask_depth=self.half_spread,
            bid_size=jnp.where(state.inventory < self.max_inventory, self.size, 0.0),
            ask_size=jnp.where(state.inventory > -self.max_inventory, self.size, 0.0),
        )


class SkewedPolicy(AbstractPolicy):
    """A half spread around the mid shifted against the inventory: the workhorse of replays and sweeps.

    Args:
        half_spread: [price].
        skew: Shift of both quotes for each lot held [price/lot].
        max_inventory: [lots]; a side stops at it.
        size: [lots].
    """

    half_spread: Float[Array, ""] = real_field()
    skew: Float[Array, ""] = real_field()
    max_inventory: Float[Array, ""] = real_field()
    size: Float[Array, ""] = real_field(default=1.0)

    def __call__(self, state: MarketState) -> Quotes:
        """Quotes around mid - skew * inventory."""
        shift = self.skew * state.inventory
        return Quotes(
            bid_depth=self.half_spread + shift,
            ask_depth=self.half_spread - shift,
            bid_size=jnp.where(state.inventory < self.max_inventory, self.size, 0.0),
            ask_size=jnp.where(state.inventory > -self.max_inventory, self.size, 0.0),
        )
