"""From one pair of quotes to the orders Hummingbot's `avellaneda_market_making` sends: levels, book, costs, budget, override.

In this order, H-L1 to H-P4 of docs/equations.md. Hanging orders - filled sides' counterparts left in the book after a refresh - are
left out: they are state of the bot, not of a quote.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float


def levels_2021(
    mid: Float[Array, ""], bid: Float[Array, ""], ask: Float[Array, ""], max_depth: Float[Array, ""], n_levels: int
) -> tuple[Float[Array, " level"], Float[Array, " level"]]:
    r"""H-L1: from the optimal quotes to the largest depth in steps that grow exponentially.

    Offsets $e^{j\ln(Max - depth + 1)/(n-1)} - 1$, j = 0..n-1 [price]; the unit inside the logarithm is the code's.
    """
    share = jnp.arange(n_levels, dtype=mid.dtype) / max(n_levels - 1, 1)

    def offsets(price):
        return jnp.expm1(share * jnp.log1p(jnp.maximum(max_depth - jnp.abs(price - mid), 0.0)))

    return bid - offsets(bid), ask + offsets(ask)


def levels(
    bid: Float[Array, ""],
    ask: Float[Array, ""],
    spread: Float[Array, ""],
    n_levels: int,
    level_distance_pct: Float[Array, ""],
) -> tuple[Float[Array, " level"], Float[Array, " level"]]:
    """H-L2: levels apart by a percentage of half the optimal spread."""
    offsets = jnp.arange(n_levels, dtype=spread.dtype) * (0.5 * spread * level_distance_pct / 100)
    return bid - offsets, ask + offsets


def just_inside_the_book(
    bid: Float[Array, "*b"],
    ask: Float[Array, "*b"],
    best_bid: Float[Array, ""],
    best_ask: Float[Array, ""],
    tick_size: Float[Array, ""],
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """H-P1: no better than one tick inside the book's best prices (optimised orders)."""
    # A price within a millionth of a tick of the grid is on it.
    slack = 1e-6 if best_bid.dtype == jnp.float64 else 1e-2
    highest = (jnp.ceil(best_bid / tick_size - slack) + 1) * tick_size
    lowest = (jnp.floor(best_ask / tick_size + slack) - 1) * tick_size
    return jnp.minimum(bid, highest), jnp.maximum(ask, lowest)


def with_costs(
    bid: Float[Array, "*b"], ask: Float[Array, "*b"], maker_fee: Float[Array, ""]
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """H-P2: prices that earn the fee (a fraction) back."""
    return bid * (1 - maker_fee), ask * (1 + maker_fee)


def within_budget(
    bid: Float[Array, "*b"],
    bid_size: Float[Array, "*b"],
    ask_size: Float[Array, "*b"],
    base_balance: Float[Array, ""],
    quote_balance: Float[Array, ""],
    maker_fee: Float[Array, ""],
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """H-P3: sizes of a level that the balances pay for, the fee of the purchase included."""
    return jnp.minimum(bid_size, quote_balance / (bid * (1 + maker_fee))), jnp.minimum(ask_size, base_balance)


def override_price(
    mid: Float[Array, ""], side: Literal["buy", "sell"], distance_pct: Float[Array, ""]
) -> Float[Array, ""]:
    """H-P4: price of an order typed in by hand, which bypasses levels and size shaping."""
    sign = {"buy": -1.0, "sell": 1.0}[side]
    return mid * (1 + sign * distance_pct / 100)
