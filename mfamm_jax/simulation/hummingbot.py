r"""The three generations of Hummingbot's strategy as a bot that trades: frozen parameters, cycles, resting orders, pauses after fills.

A quote of `policies.avellaneda_stoikov` is what the bot would send if it started now; a bot has memory. `Bot.act` is one tick: pure, a
step of a scan. Orders rest at their *price* until `refresh_time` has passed; a fill leaves the other orders and opens a pause of
`fill_delay`, after which everything is replaced, as the code does. Hanging orders and the refresh tolerance are left out.
"""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mfamm_jax.features.volatility import population_volatility, tick_volatility
from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.policies.avellaneda_stoikov import (
    Limits2021,
    ModelQuotes,
    SpreadParameters,
    Wallet,
    margin_of_decay,
    needs_recalculation,
    parameters_2021,
    parameters_of_limits,
    quotes_2021,
    relative_quotes,
    text_quotes,
)
from mfamm_jax.policies.orders import levels, levels_2021, with_costs, within_budget
from mfamm_jax.policies.quotes import MarketState, Quotes

Model = Literal["text", "hummingbot-2021", "hummingbot-2021-12", "hummingbot-2022", "hjb"]


class DepthTable(eqx.Module):
    """Depths of an HJB solution: rows of time left, columns -Q..Q lots, NaN where a side is not quoted.

    Args:
        time_left: Increasing [s].
        bid: [price].
        ask: [price].
    """

    time_left: Float[Array, " time"]
    bid: Float[Array, "time inventory"]
    ask: Float[Array, "time inventory"]

    def at(self, time_left: Float[Array, ""], lots: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Bid and ask depth, linear in time, at the nearest whole inventory within the table."""
        largest = self.bid.shape[1] // 2
        column = jnp.clip(jnp.round(lots), -largest, largest).astype(int) + largest
        bid, ask = (jnp.interp(time_left, self.time_left, table[:, column]) for table in (self.bid, self.ask))
        return bid, ask


class Orders(eqx.Module):
    """Resting orders: prices and sizes per level, size 0 = none.

    Args:
        bid, ask: [price].
        bid_size, ask_size: [base].
    """

    bid: Float[Array, " level"]
    ask: Float[Array, " level"]
    bid_size: Float[Array, " level"]
    ask_size: Float[Array, " level"]

    @property
    def any(self) -> Bool[Array, ""]:
        """Whether something rests."""
        return jnp.any(self.bid_size > 0) | jnp.any(self.ask_size > 0)


class BotMemory(eqx.Module):
    """What a bot carries from tick to tick.

    Args:
        parameters: Frozen until the cycle ends; NaN before the first calculation.
        ticks: Since the cycle began; counted, since a fraction counted down would end late in float32.
        orders: Resting.
        cancel_in: Until resting orders are cancelled [s].
        create_in: Until new ones may be sent [s].
        mids: The last ones, newest last; NaN until seen.
        calculated_at: Volatility of the last recalculation [price].
    """

    parameters: SpreadParameters
    ticks: Int[Array, ""]
    orders: Orders
    cancel_in: Float[Array, ""]
    create_in: Float[Array, ""]
    mids: Float[Array, " tick"]
    calculated_at: Float[Array, ""]


class Bot(Checked):
    r"""One model with its settings. Sizes and inventories in units of the base asset.

    Args:
        model: Whose quotes.
        base, quote: Wallet at the start [base], [price base].
        target: Wanted share of the base asset.
        order_amount: [base].
        volatility: Where the model does not measure it itself, i.e. for "text": over the whole cycle [price].
        min_spread: Fraction of the mid: per side for "text" and 2021, total for the later ones.
        max_spread: Per side, "text" and 2021.
        inventory_risk_aversion: "text" and 2021.
        vol_to_spread_multiplier: 2021.
        volatility_sensibility: Change of the volatility that makes 2021 recalculate (H1-10).
        risk_factor: $\gamma$ of the later two.
        intensity_decay: $\kappa$ of the later two [1/price].
        order_shape: $\eta$ of the later two.
        closing_time: Length of a cycle or session [s].
        maker_fee: Fraction of the price.
        refresh_time: Life of an order [s].
        fill_delay: Pause after a fill [s].
        level_distance_pct: H-L2.
        depths: "hjb" only.
        n_buffered: Mids that the volatility is measured from; every model waits until it has seen so many.
        n_levels: Orders per side.
        infinite: Whether the later two have no closing time.
        adds_costs: Whether prices earn the fee back (H-P2).
    """

    base: Float[Array, ""] = real_field(lower=0.0)
    quote: Float[Array, ""] = real_field(lower=0.0)
    target: Float[Array, ""] = real_field(lower=0.0, upper=1.0)
    order_amount: Float[Array, ""] = real_field(lower=0.0, strict=True)
    volatility: Float[Array, ""] = real_field(lower=0.0, strict=True)
    min_spread: Float[Array, ""] = real_field(lower=0.0)
    max_spread: Float[Array, ""] = real_field(lower=0.0)
    inventory_risk_aversion: Float[Array, ""] = real_field(lower=0.0, upper=1.0)
    vol_to_spread_multiplier: Float[Array, ""] = real_field(lower=0.0)
    volatility_sensibility: Float[Array, ""] = real_field(lower=0.0)
    risk_factor: Float[Array, ""] = real_field(lower=0.0, strict=True)
    intensity_decay: Float[Array, ""] = real_field(lower=0.0, strict=True)
    order_shape: Float[Array, ""] = real_field(lower=0.0)
    closing_time: Float[Array, ""] = real_field(lower=0.0, strict=True)
    maker_fee: Float[Array, ""] = real_field()
    refresh_time: Float[Array, ""] = real_field(lower=0.0, strict=True)
    fill_delay: Float[Array, ""] = real_field(lower=0.0)
    level_distance_pct: Float[Array, ""] = real_field(lower=0.0)
    depths: DepthTable | None = None
    model: Model = static_field(default="text")
    n_buffered: int = static_field(default=60, lower=2)
    n_levels: int = static_field(default=1, lower=1)
    infinite: bool = static_field(default=False)
    adds_costs: bool = static_field(default=False)

    def start(self) -> BotMemory:
        """Nothing calculated, nothing resting."""
        unknown, zero = jnp.full_like(self.volatility, jnp.nan), jnp.zeros_like(self.volatility)
        none = jnp.zeros((self.n_levels,), self.volatility.dtype)
        parameters = SpreadParameters(unknown, unknown, unknown)
        mids = jnp.full((self.n_buffered,), jnp.nan, self.volatility.dtype)
        return BotMemory(parameters, jnp.zeros((), jnp.int32), Orders(none, none, none, none), zero, zero, mids, zero)

    def wallet(self, state: MarketState) -> Wallet:
        """Balances after what was traded."""
        return Wallet(self.base + state.inventory, self.quote + state.cash, self.target)

    def _limits(self) -> Limits2021:
        return Limits2021(self.inventory_risk_aversion, self.min_spread, self.max_spread, self.vol_to_spread_multiplier)

    def measured(self, mids: Float[Array, " tick"]) -> Float[Array, ""]:
        """Volatility as the model estimates it; NaN until the buffer is full (H1-11, H-E1)."""
        if self.model == "hummingbot-2021":
            return population_volatility(mids)
        if self.model in ("hummingbot-2021-12", "hummingbot-2022"):
            return tick_volatility(mids)
        return self.volatility

    def parameters(self, mid: Float[Array, ""], wallet: Wallet, volatility: Float[Array, ""]) -> SpreadParameters:
        """What a recalculation in this state would freeze."""
        if self.model == "hummingbot-2021":
            return parameters_2021(mid, volatility, wallet, self._limits())
        if self.model == "text":
            total = wallet.total(mid)
            found, _, _ = parameters_of_limits(
                wallet.base - self.target * total,
                volatility,
                self.inventory_risk_aversion,
                self.min_spread * mid,
                self.max_spread * mid,
                self.inventory_risk_aversion / total,
            )
            return found
        margin = margin_of_decay(self.risk_factor, self.intensity_decay)
        return SpreadParameters(self.risk_factor, margin, self.order_shape)

    def quotes(
        self,
        mid: Float[Array, ""],
        wallet: Wallet,
        cycle_left: Float[Array, ""],
        parameters: SpreadParameters,
        volatility: Float[Array, ""],
    ) -> ModelQuotes:
        """One level, from frozen parameters; NaN where the model has no quote."""
        if self.model == "text":
            inventory = wallet.base - self.target * wallet.total(mid)
            return text_quotes(
                mid,
                inventory,
                volatility,
                cycle_left,
                parameters,
                self.min_spread,
                self.max_spread,
                self.order_amount,
            )
        if self.model == "hummingbot-2021":
            return quotes_2021(mid, volatility, wallet, cycle_left, parameters, self._limits(), self.order_amount)
        if self.model == "hjb":
            return self._solved_quotes(mid, wallet, cycle_left)
        left = None if self.infinite else cycle_left
        compat = "hummingbot-2022" if self.model == "hummingbot-2022" else "hummingbot-2021-12"
        percent = 100 * self.min_spread
        return relative_quotes(mid, volatility, wallet, left, parameters, percent, self.order_amount, compat)

    def _solved_quotes(self, mid, wallet, cycle_left):
        if self.depths is None:
            raise ValueError('a Bot of model "hjb" needs depths')
        lots = (wallet.base - self.target * wallet.total(mid)) / self.order_amount
        bid, ask = self.depths.at(cycle_left * self.closing_time, lots)
        size = self.order_amount + jnp.zeros_like(bid)
        return ModelQuotes(mid + 0.5 * (ask - bid), bid + ask, mid - bid, mid + ask, size, size)

    def orders(
        self, mid: Float[Array, ""], wallet: Wallet, quotes: ModelQuotes, volatility: Float[Array, ""]
    ) -> Orders:
        """Levels, costs and budget (H-L1, H-L2, H-P2, H-P3); nothing where a price is NaN."""
        bid, ask = (x[None] for x in (quotes.bid, quotes.ask))
        if self.n_levels > 1:
            if self.model == "hummingbot-2021":
                bid, ask = levels_2021(
                    mid, quotes.bid, quotes.ask, self._limits().depths(mid, volatility)[1], self.n_levels
                )
            else:
                bid, ask = levels(quotes.bid, quotes.ask, quotes.spread, self.n_levels, self.level_distance_pct)
        if self.adds_costs:
            bid, ask = with_costs(bid, ask, self.maker_fee)
        # Each level is sent while the balances last, the nearest first.
        wanted = tuple(jnp.broadcast_to(size, bid.shape) for size in (quotes.bid_size, quotes.ask_size))

        def send(balances, level):
            base, money = balances
            price, buy, ask_price, sell = level
            safe = jnp.where(price > 0, price, 1.0)
            buy, sell = within_budget(safe, buy, sell, jnp.maximum(base, 0.0), jnp.maximum(money, 0.0), self.maker_fee)
            # False for NaN; what rounding leaves of a balance is no order.
            dust = 1e-6 * self.order_amount
            buy = jnp.where((price > 0) & (buy > dust), buy, 0.0)
            sell = jnp.where((ask_price > 0) & (sell > dust), sell, 0.0)
            return (base - sell, money - buy * safe * (1 + self.maker_fee)), (buy, sell)

        _, (buy, sell) = jax.lax.scan(send, (wallet.base, wallet.quote), (bid, wanted[0], ask, wanted[1]))
        bid, ask = (jnp.where(size > 0, price, mid) for price, size in ((bid, buy), (ask, sell)))
        return Orders(bid, ask, buy, sell)

    def act(self, memory: BotMemory, state: MarketState, time_step: Float[Array, ""]) -> tuple[BotMemory, Quotes]:
        """One tick: recalculate if due, cancel, send; the quotes are what rests during the coming step."""
        wallet = self.wallet(state)
        mids = jnp.append(memory.mids[1:], state.mid)
        cycle_left = 1 - memory.ticks.astype(time_step.dtype) * time_step / self.closing_time
        volatility = self.measured(mids)
        fresh = self.parameters(state.mid, wallet, volatility)
        due = jnp.isnan(memory.parameters.margin) | (memory.ticks == 0)
        if self.model == "hummingbot-2021":
            due = due | needs_recalculation(volatility, memory.calculated_at, self.volatility_sensibility)
        # At its target the code of 2021 has no parameters and keeps what it had.
        due = due & ~jnp.isnan(fresh.margin)
        parameters = jax.tree.map(lambda new, old: jnp.where(due, new, old), fresh, memory.parameters)
        calculated_at = jnp.where(due, volatility, memory.calculated_at)
        quotes = self.quotes(state.mid, wallet, cycle_left, parameters, volatility)
        ready = ~jnp.isnan(mids[0])
        fresh_orders = jax.tree.map(
            lambda x: jnp.where(ready, x, 0.0), self.orders(state.mid, wallet, quotes, volatility)
        )
        # Rounding of the countdown must not cost a tick.
        slack = 1e-3 * time_step
        kept = jax.tree.map(lambda x: jnp.where(memory.cancel_in <= slack, 0.0, x), memory.orders)
        sends = (memory.create_in <= slack) & ~kept.any
        orders = jax.tree.map(lambda new, old: jnp.where(sends, new, old), fresh_orders, kept)
        sent = sends & fresh_orders.any
        cancel_in = jnp.where(sent, self.refresh_time, memory.cancel_in) - time_step
        create_in = jnp.where(sent, self.refresh_time, memory.create_in) - time_step
        # TX-8: a new cycle instead of a quote with no time left.
        over = (memory.ticks + 1).astype(time_step.dtype) * time_step >= self.closing_time - slack
        ticks = jnp.where(over, 0, memory.ticks + 1)
        depths = (
            jnp.where(orders.bid_size > 0, state.mid - orders.bid, 0.0),
            jnp.where(orders.ask_size > 0, orders.ask - state.mid, 0.0),
        )
        after = BotMemory(parameters, ticks, orders, cancel_in, create_in, mids, calculated_at)
        return after, Quotes(*depths, orders.bid_size, orders.ask_size)

    def filled(self, memory: BotMemory, bid_fill: Float[Array, ""], ask_fill: Float[Array, ""]) -> BotMemory:
        """After a step: filled levels are gone, the nearest first, and the pause begins."""

        def rest(sizes, fill):
            slack = 1e-4 * self.order_amount
            return jnp.where(jnp.cumsum(sizes) <= fill + slack, 0.0, sizes)

        orders = Orders(
            memory.orders.bid,
            memory.orders.ask,
            rest(memory.orders.bid_size, bid_fill),
            rest(memory.orders.ask_size, ask_fill),
        )
        traded = (bid_fill > 0) | (ask_fill > 0)
        create_in = jnp.where(traded, self.fill_delay, memory.create_in)
        cancel_in = jnp.where(traded, jnp.minimum(memory.cancel_in, create_in), memory.cancel_in)
        return eqx.tree_at(lambda m: (m.orders, m.cancel_in, m.create_in), memory, (orders, cancel_in, create_in))
