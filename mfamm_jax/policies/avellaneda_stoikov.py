r"""Quotes of the Avellaneda-Stoikov write-up and of the three generations of Hummingbot's `avellaneda_market_making`.

Four different models under one name. All quote $r \pm \tfrac12 spread$ around a reservation price; what differs:

| `compat` | risk aversion, decay | inventory | r and spread use | spread limits |
|---|---|---|---|---|
| `"text"` | from the spread limits and the inventory risk aversion | base - target | variance | distance of each quote from the mid |
| `"hummingbot-2021"` | the same, of inventory x 1e5/total | scaled base - target | variance | the same, inflated by volatility |
| `"hummingbot-2021-12"` | typed in, and fitted | relative, in [-1, 1] | variance, none if infinite | smallest total spread in percent |
| `"hummingbot-2022"` | typed in, and fitted | relative, in [-1, 1] | **volatility** | smallest total spread in percent |

The decay enters through the margin $\frac1\gamma\ln(1 + \gamma/\kappa)$ alone. It is carried instead of $\kappa$, which spans a hundred decades
in harmless settings; with the write-up's $\kappa$ it is $(m - \gamma\sigma^2)/2$, exact at $\gamma = 0$ too. Depths may be negative near full
inventory: no quote is floored at the mid. Source: AS-1 to AS-4, TX-1 to TX-9, H1 to H3 of docs/equations.md.
"""

from typing import Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mfamm_jax.fields import as_real, real_field, static_field
from mfamm_jax.models.intensity import log1p_ratio
from mfamm_jax.policies.quotes import AbstractPolicy, MarketState, Quotes

Real = Float[Array, "..."]  # elementwise: arguments broadcast
# The code of 2021 measures inventory in hundred-thousandths of its total.
INVENTORY_SCALE_2021 = 1e5


class SpreadParameters(eqx.Module):
    r"""What a recalculation freezes until the next one.

    Args:
        risk_aversion: $\gamma$ of AS-2 [1/(price lot)], CARA's: twice the rulebook's.
        margin: $\frac1\gamma\ln(1+\gamma/\kappa)$, half spread of a maker without inventory risk [price].
        order_shape: $\eta$, decay of the order size with inventory [1/lot, or 1 for relative inventory].
    """

    risk_aversion: Real = eqx.field(converter=as_real)
    margin: Real = eqx.field(converter=as_real)
    order_shape: Real = eqx.field(converter=as_real)

    @property
    def intensity_decay(self) -> Real:
        r"""$\kappa = \gamma/(e^{\gamma\,margin} - 1)$, for display: infinite at margin 0, $1/margin$ at $\gamma = 0$ [1/price]."""
        exponent = self.risk_aversion * self.margin
        small = jnp.abs(exponent) < 1e-8
        safe = jnp.where(small, 1.0, exponent)
        ratio = jnp.where(small, 1 - 0.5 * exponent, safe / jnp.expm1(safe))
        positive = self.margin > 0
        return jnp.where(positive, ratio / jnp.where(positive, self.margin, 1.0), jnp.inf)


class ModelQuotes(eqx.Module):
    """Prices and sizes of one level, and what they come from.

    Args:
        reservation_price: [price].
        spread: Ask minus bid before limits [price].
        bid, ask: Prices within the limits.
        bid_size, ask_size: [lots].
    """

    reservation_price: Real
    spread: Real
    bid: Real
    ask: Real
    bid_size: Real
    ask_size: Real

    @property
    def bid_unclamped(self) -> Real:
        """Bid before limits."""
        return self.reservation_price - 0.5 * self.spread

    @property
    def ask_unclamped(self) -> Real:
        """Ask before limits."""
        return self.reservation_price + 0.5 * self.spread


def margin_of_decay(risk_aversion: Real, intensity_decay: Real) -> Real:
    r"""$\frac1\gamma\ln(1 + \gamma/\kappa)$, $1/\kappa$ at $\gamma = 0$ [price]."""
    return log1p_ratio(risk_aversion / intensity_decay) / intensity_decay


def parameters_of_limits(
    inventory: Real,
    volatility: Real,
    inventory_risk_aversion: Real,
    min_depth: Real,
    max_depth: Real,
    order_shape: Real,
) -> tuple[SpreadParameters, Real, Bool[Array, "..."]]:
    r"""TX-2 to TX-4: parameters whose quotes at the start of a cycle reach from the widest to the narrowest allowed depth.

    $\gamma = IRA\,(Max - Min)/(2|q|\sigma^2)$, and $\kappa$ such that the spread starts at $m = (2 - IRA)\,Max + IRA\,Min$. A positive
    $\kappa$ needs $\gamma \le m/\sigma^2$: below $|q| = IRA (Max - Min)/(2m)$, where the text is silent, $\gamma$ is capped there.

    Args:
        inventory: q, distance from the target [lots].
        volatility: $\sigma$ > 0 over a whole cycle [price].
        inventory_risk_aversion: IRA in [0, 1]; 0 is pure market making at +-Max.
        min_depth: Min, allowed depth of either quote [price].
        max_depth: Max [price].
        order_shape: $\eta$, kept with the parameters.

    Returns:
        The parameters, $\gamma_{max}$ and whether the cap acted.
    """
    held, some = jnp.abs(inventory), inventory != 0
    room, variance = max_depth - min_depth, volatility**2
    largest = jnp.where(some, room / (2 * jnp.where(some, held, 1.0) * variance), jnp.inf)
    widest = widest_spread(inventory_risk_aversion, min_depth, max_depth)  # TX-3
    capped = inventory_risk_aversion * room > 2 * held * widest
    # Without infinities, which would have no derivative: TX-2.
    wanted = inventory_risk_aversion * room / (2 * jnp.where(some & ~capped, held, 1.0) * variance)
    risk_aversion = jnp.where(capped, widest / variance, wanted)
    margin = jnp.where(capped, 0.0, 0.5 * (widest - risk_aversion * variance))  # TX-4
    return SpreadParameters(risk_aversion, margin, order_shape), largest, capped


def widest_spread(inventory_risk_aversion: Real, min_depth: Real, max_depth: Real) -> Real:
    """TX-3: total spread at the start of a cycle [price]."""
    return (2 - inventory_risk_aversion) * max_depth + inventory_risk_aversion * min_depth


def around_reservation_price(
    mid: Real,
    inventory: Real,
    parameters: SpreadParameters,
    risk: Real,
) -> tuple[Real, Real]:
    r"""AS-1 and AS-2 with `risk` = $\sigma^2\tau$: $r = s - q\gamma\sigma^2\tau$, $spread = \gamma\sigma^2\tau + \frac2\gamma\ln(1 + \gamma/\kappa)$.

    Returns:
        Reservation price and spread [price].
    """
    width = parameters.risk_aversion * risk
    return mid - inventory * width, width + 2 * parameters.margin


def stationary_offsets(inventory: Real, max_inventory: Real | float) -> tuple[Real, Real]:
    r"""AS-4 in units of $1/\gamma$: $\ln(1 + (\pm 1 - 2q)/((q_{max}+1)^2 - q^2))$ for ask and bid; the volatility cancels."""
    room = (max_inventory + 1.0) ** 2 - inventory**2
    return jnp.log1p((1 - 2 * inventory) / room), jnp.log1p((-1 - 2 * inventory) / room)


def shaped_sizes(order_amount: Real, inventory: Real, order_shape: Real) -> tuple[Real, Real]:
    r"""TX-6: bid and ask size; the side that would move inventory further from its target is $e^{-\eta|q|}$ times as large."""
    reduced = order_amount * jnp.exp(-order_shape * jnp.abs(inventory))
    full = order_amount + jnp.zeros_like(reduced)
    return jnp.where(inventory > 0, reduced, full), jnp.where(inventory < 0, reduced, full)


def text_quotes(
    mid: Real,
    inventory: Real,
    volatility: Real,
    time_left: Real,
    parameters: SpreadParameters,
    min_spread: Real,
    max_spread: Real,
    order_amount: Real,
) -> ModelQuotes:
    """TX-1, TX-6 and TX-9 with frozen parameters.

    Args:
        mid: [price].
        inventory: Base minus target [lots].
        volatility: Over a whole cycle [price].
        time_left: Fraction of the cycle, in (0, 1].
        parameters: Of `parameters_of_limits` with limits x mid and order shape `inventory risk aversion / total inventory`.
        min_spread: Smallest distance of a quote from the mid, as a fraction of it.
        max_spread: Largest.
        order_amount: Size of an order [lots].
    """
    price, spread = around_reservation_price(mid, inventory, parameters, volatility**2 * time_left)
    sizes = shaped_sizes(order_amount, inventory, parameters.order_shape)
    return _within(mid, price, spread, min_spread * mid, max_spread * mid, sizes)


def _within(mid, price, spread, min_depth, max_depth, sizes) -> ModelQuotes:
    """Each quote between its smallest and largest distance from the mid: TX-9, H1-8."""
    ask = jnp.clip(price + 0.5 * spread, mid + min_depth, mid + max_depth)
    bid = jnp.clip(price - 0.5 * spread, mid - max_depth, mid - min_depth)
    return ModelQuotes(price, spread, bid, ask, *sizes)


class Wallet(eqx.Module):
    """What the bot owns.

    Args:
        base: [lots].
        quote: [price lot].
        target: Wanted share of the base asset in the total value, in (0, 1).
    """

    base: Real = eqx.field(converter=as_real)
    quote: Real = eqx.field(converter=as_real)
    target: Real = eqx.field(converter=as_real)

    def total(self, mid: Real) -> Real:
        """Everything in lots of the base asset."""
        return self.base + self.quote / mid

    def target_base(self, mid: Real, quantum: Float[Array, ""] | float) -> Real:
        """H1-1: wanted lots, rounded down to the amount step."""
        # A quotient within a billionth of a step is that step.
        return jnp.floor(self.target * self.total(mid) / quantum + 1e-9) * quantum

    def relative_inventory(self, mid: Real) -> Real:
        """H2-1: distance from the target over the total, in [-1, 1]."""
        return self.base / self.total(mid) - self.target


class Limits2021(eqx.Module):
    """Settings of `"hummingbot-2021"`.

    Args:
        inventory_risk_aversion: In (0, 1].
        min_spread: Smallest distance of a quote from the mid, as a fraction of it.
        max_spread: Largest.
        vol_to_spread_multiplier: Both grow so that the smallest is at least this many volatilities.
        amount_quantum: Step of order amounts [lots].
        inventory_scale: Units of inventory per lot; None = the code's 1e5 over the total.
    """

    inventory_risk_aversion: Real = eqx.field(converter=as_real)
    min_spread: Real = eqx.field(converter=as_real)
    max_spread: Real = eqx.field(converter=as_real)
    vol_to_spread_multiplier: Real = eqx.field(converter=as_real)
    amount_quantum: Float[Array, ""] = eqx.field(converter=as_real, default=1e-6)
    inventory_scale: Real | None = None

    def depths(self, mid: Real, volatility: Real) -> tuple[Real, Real]:
        """H1-2: smallest and largest depth [price]."""
        low = jnp.maximum(self.min_spread * mid, self.vol_to_spread_multiplier * volatility)
        return low, self.max_spread / self.min_spread * low

    def inventory(self, mid: Real, wallet: Wallet) -> tuple[Real, Real]:
        """H1-1: excess over the target [lots], and the same in the code's units."""
        excess = wallet.base - wallet.target_base(mid, self.amount_quantum)
        scale = INVENTORY_SCALE_2021 / wallet.total(mid) if self.inventory_scale is None else self.inventory_scale
        return excess, excess * scale


def parameters_2021(mid: Real, volatility: Real, wallet: Wallet, limits: Limits2021) -> SpreadParameters:
    """H1-1 to H1-5. NaN at the target itself, where the code keeps its last quotes."""
    excess, inventory = limits.inventory(mid, wallet)
    shape = limits.inventory_risk_aversion * jnp.log(10.0) / wallet.target_base(mid, limits.amount_quantum)
    # The second term of H1-3 is the cap of the text.
    parameters, _, _ = parameters_of_limits(
        inventory, volatility, limits.inventory_risk_aversion, *limits.depths(mid, volatility), shape
    )
    # The bot counts in decimals: what rounding leaves of a zero is one.
    dust = jnp.maximum(1e-6 * limits.amount_quantum, 8 * jnp.finfo(excess.dtype).eps * wallet.total(mid))
    known = jnp.where(jnp.abs(excess) <= dust, jnp.nan, 1.0)
    return SpreadParameters(parameters.risk_aversion * known, parameters.margin * known, shape)


def quotes_2021(
    mid: Real,
    volatility: Real,
    wallet: Wallet,
    time_left: Real,
    parameters: SpreadParameters,
    limits: Limits2021,
    order_amount: Real,
) -> ModelQuotes:
    """H1-6 to H1-9 with frozen parameters."""
    excess, inventory = limits.inventory(mid, wallet)
    price, spread = around_reservation_price(mid, inventory, parameters, volatility**2 * time_left)
    sizes = shaped_sizes(order_amount, excess, parameters.order_shape)
    return _within(mid, price, spread, *limits.depths(mid, volatility), sizes)


def relative_quotes(
    mid: Real,
    volatility: Real,
    wallet: Wallet,
    time_left: Real | None,
    parameters: SpreadParameters,
    min_spread_pct: Real,
    order_amount: Real,
    compat: Literal["hummingbot-2021-12", "hummingbot-2022"],
) -> ModelQuotes:
    """H2 and H3: relative inventory, typed risk aversion, fitted decay.

    Args:
        mid: [price].
        volatility: Per square root of a second, as the code measures it [price].
        wallet: Balances and target.
        time_left: Fraction of the session; None = infinite horizon, which the code of 2022 treats as 1. The code of December
            2021 takes AS-4 with one lot there; its spread diverges near the target and does not exist at it (NaN).
        parameters: Typed or fitted; margin from `margin_of_decay`.
        min_spread_pct: Smallest total spread [percent of the mid].
        order_amount: Size of an order [lots].
        compat: Which generation.
    """
    inventory = wallet.relative_inventory(mid)
    if compat == "hummingbot-2022":
        risk = volatility * (1.0 if time_left is None else time_left)  # H3-2, H3-3: not the variance
        price, spread = around_reservation_price(mid, inventory, parameters, risk)
    elif time_left is not None:
        price, spread = around_reservation_price(mid, inventory, parameters, volatility**2 * time_left)  # H2-2
    else:
        ask, bid = stationary_offsets(inventory, 1.0)  # H2-3: times gamma, where AS-4 has 1/gamma
        both = parameters.risk_aversion * (ask + bid)
        away = inventory != 0
        twice = 2 * jnp.where(away, inventory, 1.0)
        price, spread = mid + 0.5 * both, jnp.where(away, -both / twice, jnp.nan) + 2 * parameters.margin
    half = 0.5 * min_spread_pct / 100 * mid
    ask, bid = jnp.maximum(price + 0.5 * spread, mid + half), jnp.minimum(price - 0.5 * spread, mid - half)
    sizes = shaped_sizes(order_amount, inventory, parameters.order_shape)
    return ModelQuotes(price, spread, bid, ask, *sizes)


def needs_recalculation(volatility: Real, last_volatility: Real, threshold: Real) -> Bool[Array, "..."]:
    """TX-7, H1-10: volatility moved by more than a share of its value at the last recalculation; never from zero."""
    known = last_volatility > 0
    return known & (jnp.abs(volatility - last_volatility) > threshold * last_volatility)


def advance_cycle(time_left: Real, time_step: Real, closing_time: Real) -> tuple[Real, Bool[Array, "..."]]:
    """TX-8: fraction of the cycle left after a tick, and whether a new cycle began, which recalculates. Never zero."""
    after = time_left - time_step / closing_time
    # Rounding of the division must not leave a sliver of a cycle.
    ended = after <= 8 * jnp.finfo(after.dtype).eps
    return jnp.where(ended, 1.0, after), ended


class AvellanedaStoikovPolicy(AbstractPolicy):
    r"""The paper's quotes of one lot on both sides, whatever the inventory.

    Args:
        risk_aversion: $\gamma$ of the paper [1/(price lot)], CARA's: twice the rulebook's.
        volatility: [price/sqrt(s)].
        intensity_decay: $k$ [1/price].
        strategy: `"inventory"` quotes around the reservation price, `"symmetric"` with the same spread around the mid.
        spread: `"time_varying"` as in the journal (AS-2), `"constant"` $\frac2\gamma\ln(1+\gamma/k)$ as in the preprint of 2006.
    """

    risk_aversion: Float[Array, ""] = real_field(lower=0.0, unit="1/(price lot)", source="AS-1")
    volatility: Float[Array, ""] = real_field(lower=0.0, unit="price/sqrt(s)")
    intensity_decay: Float[Array, ""] = real_field(lower=0.0, strict=True, unit="1/price")
    strategy: Literal["inventory", "symmetric"] = static_field(default="inventory", help="centre of the quotes")
    spread: Literal["time_varying", "constant"] = static_field(default="time_varying", help="journal or preprint")

    def half_spread(self, time_left: Real) -> Real:
        """Half of AS-2, or of its part that does not depend on time."""
        margin = margin_of_decay(self.risk_aversion, self.intensity_decay)
        return margin + 0.5 * self._width(time_left) * (self.spread == "time_varying")

    def _width(self, time_left):
        return self.risk_aversion * self.volatility**2 * time_left

    def __call__(self, state: MarketState) -> Quotes:
        """Depths from the mid; negative ones are possible."""
        half = self.half_spread(state.time_left)
        shift = state.inventory * self._width(state.time_left) * (self.strategy == "inventory")
        size = jnp.ones_like(half + shift)
        return Quotes(half + shift, half - shift, size, size)
