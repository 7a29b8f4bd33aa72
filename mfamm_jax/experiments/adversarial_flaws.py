"""Policies with a deliberate flaw: an adversary that does not find what was planted proves nothing by finding nothing.

Every flaw is a number, so that one compile serves the policy as it is and all flawed ones.
"""

from collections.abc import Iterable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfamm_jax.experiments.experiment import ConfigError
from mfamm_jax.fields import listed
from mfamm_jax.policies.quotes import AbstractPolicy, Covariates, MarketState, Quotes

AS_GIVEN = "as given"


class Flaws(eqx.Module):
    """What is wrong with a policy; the last axis of a stack counts policies.

    Args:
        inventory: Factor on the inventory that its depths are made for: 1 sound, 0 not looked at, -1 of the wrong sign.
        limited: Whether its sizes know the inventory limit.
        hearing: Factor on the distance of VPIN, imbalance and book features from neutral.
        narrowing: Taken off both depths, in half spreads.
    """

    inventory: Float[Array, "*policy"]
    limited: Float[Array, "*policy"]
    hearing: Float[Array, "*policy"]
    narrowing: Float[Array, "*policy"]


# Name -> what differs from a sound policy, and the weakness that must be found.
FLAWS: dict[str, tuple[dict[str, float], str]] = {
    "ignores_inventory": ({"inventory": 0.0}, "does not lean against its inventory"),
    "inventory_sign": ({"inventory": -1.0}, "leans with its inventory"),
    "no_limit": ({"limited": 0.0}, "exceeds its inventory limit"),
    "crossed": ({"narrowing": 1.5}, "crosses its own quotes"),
    "deaf": ({"hearing": 0.0}, "does not hear VPIN, imbalance and the book"),
}
SOUND = {"inventory": 1.0, "limited": 1.0, "hearing": 1.0, "narrowing": 0.0}


def known_names(setting: str, text: str, known: Iterable[str]) -> tuple[str, ...]:
    """Names separated by commas.

    Raises:
        ConfigError: One is unknown or named twice.
    """
    names = listed(text)
    for name in names:
        if name not in known:
            raise ConfigError(f'{setting} has "{name}", expected names of {", ".join(known)}')
    if len(set(names)) < len(names):
        raise ConfigError(f'{setting} is "{text}", expected each name once')
    return names


def flaw_names(text: str) -> tuple[str, ...]:
    """Of the setting `flaws`."""
    return known_names("flaws", text, FLAWS)


def stack_flaws(names: tuple[str, ...], dtype: jnp.dtype) -> Flaws:
    """The sound policy, then one for every name."""
    rows = [SOUND] + [SOUND | FLAWS[name][0] for name in names]
    return Flaws(**{key: jnp.asarray([row[key] for row in rows], dtype) for key in SOUND})


class FlawedPolicy(AbstractPolicy):
    """A policy with flaws."""

    policy: AbstractPolicy
    flaws: Flaws

    def __call__(self, state: MarketState) -> Quotes:
        """Its depths and sizes, each for what the flaws let it see."""
        flaws, known = self.flaws, state.covariates
        neutral = Covariates.neutral(known.volatility)
        heard = jax.tree.map(lambda x, calm: calm + flaws.hearing * (x - calm), known, neutral)
        depths = self.policy(_seen(state, flaws.inventory * state.inventory, heard))
        sizes = self.policy(_seen(state, jnp.where(flaws.limited > 0, state.inventory, 0.0), heard))
        narrower = flaws.narrowing * 0.5 * (depths.bid_depth + depths.ask_depth)
        return Quotes(depths.bid_depth - narrower, depths.ask_depth - narrower, sizes.bid_size, sizes.ask_size)


def _seen(state: MarketState, inventory: Float[Array, ""], covariates: Covariates) -> MarketState:
    return eqx.tree_at(lambda s: (s.inventory, s.covariates), state, (inventory, covariates))


class ExchangeLimit(AbstractPolicy):
    """A policy whose orders the exchange refuses where they could take the inventory beyond the limit."""

    policy: AbstractPolicy
    max_inventory: Float[Array, ""]

    def __call__(self, state: MarketState) -> Quotes:
        """The quotes that remain."""
        quotes, q = self.policy(state), state.inventory
        return Quotes(
            quotes.bid_depth,
            quotes.ask_depth,
            jnp.where(q < self.max_inventory, quotes.bid_size, 0.0),
            jnp.where(q > -self.max_inventory, quotes.ask_size, 0.0),
        )
