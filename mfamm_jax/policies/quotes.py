"""What a quoting policy sees and what it answers."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfamm_jax.fields import as_real

N_BOOK_FEATURES = 6


class Covariates(eqx.Module):
    """Market conditions at a decision, all known at that moment.

    Args:
        volatility: Robust rolling volatility of the mid [price/sqrt(s)].
        vpin: EWMA of the bucket imbalances, in [0, 1].
        imbalance: In [-1, 1]; positive = buying pressure.
        book_features: Standardised order-book shape (7).
    """

    volatility: Float[Array, "*batch"] = eqx.field(converter=as_real)
    vpin: Float[Array, "*batch"] = eqx.field(converter=as_real)
    imbalance: Float[Array, "*batch"] = eqx.field(converter=as_real)
    book_features: Float[Array, "*batch 6"] = eqx.field(converter=as_real)

    @classmethod
    def neutral(cls, volatility: Float[Array, ""] | float) -> "Covariates":
        """No toxicity, no imbalance, an average book."""
        return cls(volatility, 0.0, 0.0, jnp.zeros(N_BOOK_FEATURES))


class MarketState(eqx.Module):
    """What the next step needs.

    Args:
        mid: Mid price, possibly relative to a reference [price].
        inventory: Signed position [lots].
        cash: Money received minus paid [price lot].
        time_left: Time to the end of the horizon [s].
        covariates: Market conditions.
        hidden: What a simulated market remembers beyond that (states of its mid, arrivals and impact); nothing in a replay.
    """

    mid: Float[Array, ""] = eqx.field(converter=as_real)
    inventory: Float[Array, ""] = eqx.field(converter=as_real)
    cash: Float[Array, ""] = eqx.field(converter=as_real)
    time_left: Float[Array, ""] = eqx.field(converter=as_real)
    covariates: Covariates
    hidden: Any = ()


class Quotes(eqx.Module):
    """Depths from the mid and sizes; a size of 0 means that the side is not quoted (its depth stays finite).

    Args:
        bid_depth: mid - bid price [price].
        ask_depth: ask price - mid [price].
        bid_size: [lots].
        ask_size: [lots].
    """

    bid_depth: Float[Array, "*batch"]
    ask_depth: Float[Array, "*batch"]
    bid_size: Float[Array, "*batch"]
    ask_size: Float[Array, "*batch"]


class AbstractPolicy(eqx.Module):
    """Maps a state to quotes; closed forms, HJB tables, learned and fixed-point policies all fit it."""

    @abc.abstractmethod
    def __call__(self, state: MarketState) -> Quotes:
        """Quotes for one state."""
