r"""Cash, inventory and the P&L identity of a replay, for linear and inverse contracts.

Prices enter as their worth: $w = x$ for a linear contract, $w = 1/p_0 - 1/p$ with $p = p_0 + x$ for an inverse one (in the
coin, rising with the price), so that cash, capture and revaluation are the same sums for both.

Source: docs/equations.md, F-1 to F-3 and the attribution identity.
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Contract = Literal["linear", "inverse"]
FeeModel = Literal["quantity", "value", "flat"]
Real = Float[Array, "..."]


class Fills(NamedTuple):
    """One side's fills: lots and relative prices [price]."""

    lots: Float[Array, " level"]
    price: Float[Array, " level"]


class Account(NamedTuple):
    """The account and running statistics; pairs are (bid, ask).

    Args:
        inventory: [lots].
        cash: Worth received minus worth paid minus fees.
        fees: Paid.
        capture: Distance of the fills from the mid just before, times lots.
        revaluation: Inventory times changes of the mid's worth.
        worth: Worth of the mid.
        peak: Highest value so far.
        drawdown: Largest fall from it.
        most: Largest absolute inventory.
        lots: Filled.
        n_fills: Fills.
        n_orders: Orders accepted.
        rejected: Orders refused.
        marked_out: Lots times what they gained against the mid of each later moment.
    """

    inventory: Float[Array, ""]
    cash: Float[Array, ""]
    fees: Float[Array, ""]
    capture: Float[Array, ""]
    revaluation: Float[Array, ""]
    worth: Float[Array, ""]
    peak: Float[Array, ""]
    drawdown: Float[Array, ""]
    most: Float[Array, ""]
    lots: tuple[Float[Array, ""], Float[Array, ""]]
    n_fills: tuple[Int[Array, ""], Int[Array, ""]]
    n_orders: tuple[Int[Array, ""], Int[Array, ""]]
    rejected: Int[Array, ""]
    marked_out: tuple[Float[Array, " later"], Float[Array, " later"]]


def new_account(worth_of_mid: Float[Array, ""], n_later: int) -> Account:
    """Empty."""
    zero, none = jnp.zeros((), worth_of_mid.dtype), jnp.zeros((), jnp.int32)
    later = jnp.zeros(n_later, worth_of_mid.dtype)
    return Account(
        inventory=zero,
        cash=zero,
        fees=zero,
        capture=zero,
        revaluation=zero,
        worth=worth_of_mid,
        peak=zero,
        drawdown=zero,
        most=zero,
        lots=(zero, zero),
        n_fills=(none, none),
        n_orders=(none, none),
        rejected=none,
        marked_out=(later, later),
    )


def worth(contract: Contract, price: Real, reference: Float[Array, ""]) -> Real:
    """Worth of a lot at a relative price: the price itself, or 1/reference - 1/(reference + price)."""
    if contract == "linear":
        return price
    return price / (reference * (reference + price))


def fee_of_fills(model: FeeModel, rate: Float[Array, ""], notional: Real, lots: Real) -> Real:
    """Paid for fills, negative = rebate: per value traded (F-1), per lot (F-2) or per fill (F-3).

    Args:
        model: Fee model.
        rate: Of value, per lot, or per fill.
        notional: Value of one lot at its price.
        lots: Filled.
    """
    if model == "value":
        return rate * notional * lots
    if model == "quantity":
        return rate * lots
    return jnp.where(lots > 0, rate, 0.0)


def after_fills(
    account: Account,
    fills: tuple[Fills, Fills],
    rate: Float[Array, ""],
    fee_model: FeeModel,
    contract: Contract,
    reference: Float[Array, ""],
    later_mid: Float[Array, " later"],
) -> Account:
    """Cash, inventory (2) and fees after fills (bid, ask) at the mid before the step; a bid fill raises inventory."""
    (bought, bid), (sold, ask) = fills
    paid, earned = (worth(contract, price, reference) for price in (bid, ask))
    notional = [reference + price if contract == "linear" else 1 / (reference + price) for price in (bid, ask)]
    fees = sum(jnp.sum(fee_of_fills(fee_model, rate, n, lots)) for n, lots in zip(notional, (bought, sold)))
    bought_lots, sold_lots = jnp.sum(bought), jnp.sum(sold)
    inventory = account.inventory + bought_lots - sold_lots
    mid = account.worth
    later = worth(contract, later_mid, reference)[:, None]
    gained = [jnp.sum(bought * (later - paid), axis=1), jnp.sum(sold * (earned - later), axis=1)]
    return account._replace(
        inventory=inventory,
        cash=account.cash - jnp.sum(bought * paid) + jnp.sum(sold * earned) - fees,
        fees=account.fees + fees,
        capture=account.capture + jnp.sum(bought * (mid - paid)) + jnp.sum(sold * (earned - mid)),
        most=jnp.maximum(account.most, jnp.abs(inventory)),
        lots=(account.lots[0] + bought_lots, account.lots[1] + sold_lots),
        n_fills=tuple(n + jnp.sum(lots > 0, dtype=jnp.int32) for n, lots in zip(account.n_fills, (bought, sold))),
        marked_out=tuple(before + more for before, more in zip(account.marked_out, gained)),
    )


def revalued(account: Account, mid: Float[Array, ""]) -> Account:
    """The mid moves to a new worth."""
    gained = account.inventory * (mid - account.worth)
    return account._replace(revaluation=account.revaluation + gained, worth=mid)


def marked(account: Account) -> Account:
    """Peak and drawdown of the value at the mid."""
    value = account.cash + account.inventory * account.worth
    peak = jnp.maximum(account.peak, value)
    return account._replace(peak=peak, drawdown=jnp.maximum(account.drawdown, peak - value))
