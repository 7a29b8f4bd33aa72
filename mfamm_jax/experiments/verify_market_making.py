"""What this package answers for the market-making kinds of reference cases: paper, write-up, Hummingbot, GLFT, queue, fees.

As in `verify_kinds`: a function takes a case's inputs (and a number of steps, unused by closed forms) and returns numbers under the
names of `expected`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mfamm_jax.features.volatility import population_volatility, tick_volatility
from mfamm_jax.features.vpin import vpin_literal, vpin_window
from mfamm_jax.fields import in_precision
from mfamm_jax.models.intensity import ExponentialIntensity
from mfamm_jax.policies.avellaneda_stoikov import (
    AvellanedaStoikovPolicy,
    Limits2021,
    ModelQuotes,
    SpreadParameters,
    Wallet,
    advance_cycle,
    around_reservation_price,
    margin_of_decay,
    needs_recalculation,
    parameters_2021,
    parameters_of_limits,
    quotes_2021,
    relative_quotes,
    text_quotes,
)
from mfamm_jax.policies.orders import (
    just_inside_the_book,
    levels,
    levels_2021,
    override_price,
    with_costs,
    within_budget,
)
from mfamm_jax.policies.quotes import Covariates, MarketState
from mfamm_jax.results import RESULTS
from mfamm_jax.simulation.account import fee_of_fills
from mfamm_jax.simulation.episode import Episodes, episode_law
from mfamm_jax.simulation.queue import behind_probability, front_after_change, lots_reached
from mfamm_jax.simulation.step import PoissonMarket, StepRecord
from mfamm_jax.solvers.closed_form import (
    frozen_inventory_prices,
    glft_coefficients,
    stationary_depths,
    stationary_inventory_prices,
)
from mfamm_jax.solvers.hjb import Grid, HJBProblem, choose_scheme, optimal_depths, rulebook_penalty, solve_hjb
from mfamm_jax.solvers.volume_decay import fit_volume_decay

Answer = tuple[dict[str, Any], bool]
# Inventories of the exact law of the 2008 simulation.
MOST_INVENTORY = 260


def _reals(inputs: dict[str, Any], *names: str) -> list[jax.Array]:
    return [in_precision(inputs[name]) for name in names]


def _prices(quotes: ModelQuotes) -> dict[str, Any]:
    names = ("reservation_price", "spread", "bid", "ask", "bid_size", "ask_size", "bid_unclamped", "ask_unclamped")
    return {name: getattr(quotes, name) for name in names}


def as_quotes(inputs: dict[str, Any], _: int) -> Answer:
    """`as_quotes`."""
    mid, inventory, risk_aversion, volatility, time_left, decay = _reals(
        inputs, "mid", "inventory", "risk_aversion", "volatility", "time_left", "intensity_decay"
    )
    parameters = SpreadParameters(risk_aversion, margin_of_decay(risk_aversion, decay), 0.0)
    price, spread = around_reservation_price(mid, inventory, parameters, volatility**2 * time_left)
    half = 0.5 * spread
    return {"reservation_price": price, "spread": spread, "bid": price - half, "ask": price + half}, True


def as_spread_limit(inputs: dict[str, Any], _: int) -> Answer:
    """`as_spread_limit`."""
    return {"log_term": 2 * margin_of_decay(*_reals(inputs, "risk_aversion", "intensity_decay"))}, True


def as_frozen_inventory(inputs: dict[str, Any], _: int) -> Answer:
    """`as_frozen_inventory`."""
    bid, ask = frozen_inventory_prices(*_reals(inputs, "risk_aversion", "volatility", "inventory", "time_left"))
    return {"reservation_bid": inputs["mid"] + bid, "reservation_ask": inputs["mid"] + ask}, True


def as_stationary(inputs: dict[str, Any], _: int) -> Answer:
    """`as_stationary`."""
    risk_aversion, inventory = _reals(inputs, "risk_aversion", "inventory")
    bid, ask = stationary_inventory_prices(risk_aversion, inventory, inputs["max_inventory"])
    return {"reservation_bid": inputs["mid"] + bid, "reservation_ask": inputs["mid"] + ask}, True


def as_writeup(inputs: dict[str, Any], _: int) -> Answer:
    """`as_writeup`."""
    mid, inventory, volatility, averse, low, high, time_left, amount, total = _reals(
        inputs,
        *("mid", "inventory", "volatility", "inventory_risk_aversion", "min_spread", "max_spread", "time_left"),
        *("order_amount", "total_inventory"),
    )
    parameters, largest, _capped = parameters_of_limits(
        inventory, volatility, averse, low * mid, high * mid, averse / total
    )
    quotes = text_quotes(mid, inventory, volatility, time_left, parameters, low, high, amount)
    numbers = _prices(quotes) | {"bid_clamped": quotes.bid, "ask_clamped": quotes.ask}
    numbers |= {"bid": quotes.bid_unclamped, "ask": quotes.ask_unclamped, "risk_aversion_max": largest}
    return numbers | _parameters(parameters), True


def _parameters(parameters: SpreadParameters) -> dict[str, Any]:
    names = ("risk_aversion", "intensity_decay", "order_shape")
    return {name: getattr(parameters, name) for name in names}


def hb_gen1(inputs: dict[str, Any], _: int) -> Answer:
    """`hb_gen1` and, with given parameters, `hb_gen1_quotes`."""
    mid, volatility, time_left, amount = _reals(inputs, "mid", "volatility", "time_left", "order_amount")
    wallet = Wallet(inputs["base"], inputs["quote"], inputs["inventory_target_base"])
    scale = inputs.get("inventory_scale")
    limits = Limits2021(
        inventory_risk_aversion=inputs.get("inventory_risk_aversion", 1.0),
        min_spread=inputs["min_spread"],
        max_spread=inputs["max_spread"],
        vol_to_spread_multiplier=inputs["vol_to_spread_multiplier"],
        amount_quantum=inputs.get("amount_quantum", 1e-6),
        inventory_scale=None if scale is None else _reals(inputs, "inventory_scale")[0],
    )
    if "risk_aversion" in inputs:
        risk_aversion, decay = _reals(inputs, "risk_aversion", "intensity_decay")
        parameters = SpreadParameters(risk_aversion, margin_of_decay(risk_aversion, decay), inputs["order_shape"])
    else:
        parameters = parameters_2021(mid, volatility, wallet, limits)
    low, high = limits.depths(mid, volatility)
    numbers = {"target": wallet.target_base(mid, limits.amount_quantum), "min_spread_price": low}
    numbers |= {"max_spread_price": high} | _parameters(parameters)
    return numbers | _prices(quotes_2021(mid, volatility, wallet, time_left, parameters, limits, amount)), True


def _relative(compat: Any) -> Callable[[dict[str, Any], int], Answer]:
    def answer(inputs: dict[str, Any], _: int) -> Answer:
        mid, volatility, risk_aversion, decay, amount, low = _reals(
            inputs, "mid", "volatility", "risk_aversion", "intensity_decay", "order_amount", "min_spread_pct"
        )
        wallet = Wallet(inputs["base"], inputs["quote"], inputs["inventory_target_base"])
        time_left = None if inputs["time_left"] is None else _reals(inputs, "time_left")[0]
        parameters = SpreadParameters(risk_aversion, margin_of_decay(risk_aversion, decay), inputs["order_shape"])
        quotes = relative_quotes(mid, volatility, wallet, time_left, parameters, low, amount, compat)
        return {"relative_inventory": wallet.relative_inventory(mid)} | _prices(quotes), True

    return answer


def hb_levels(inputs: dict[str, Any], _: int) -> Answer:
    """`hb_levels`."""
    bid, ask = _reals(inputs, "bid", "ask")
    if inputs["compat"] == "hummingbot-2021":
        mid, deepest = _reals(inputs, "mid", "max_spread_price")
        bids, asks = levels_2021(mid, bid, ask, deepest, inputs["n_levels"])
    else:
        spread, distance = _reals(inputs, "spread", "level_distance_pct")
        bids, asks = levels(bid, ask, spread, inputs["n_levels"], distance)
    return {"bids": bids, "asks": asks}, True


def hb_order_optimization(inputs: dict[str, Any], _: int) -> Answer:
    """`hb_order_optimization`."""
    bid, ask = just_inside_the_book(*_reals(inputs, "bid", "ask", "best_bid", "best_ask", "price_quantum"))
    return {"bid": bid, "ask": ask}, True


def hb_fees_and_budget(inputs: dict[str, Any], _: int) -> Answer:
    """`hb_fees_and_budget`."""
    bid, ask, fee, amount, base, quote = _reals(
        inputs, "bid", "ask", "maker_fee", "order_amount", "base_balance", "quote_balance"
    )
    bid, ask = with_costs(bid, ask, fee)
    bid_size, ask_size = within_budget(bid, amount, amount, base, quote, fee)
    return {"bid": bid, "ask": ask, "bid_size": bid_size, "ask_size": ask_size}, True


def hb_order_override(inputs: dict[str, Any], _: int) -> Answer:
    """`hb_order_override`."""
    (mid,) = _reals(inputs, "mid")
    prices = [override_price(mid, side, jnp.asarray(distance)) for side, distance, _ in inputs["orders"]]
    return {"prices": jnp.stack(prices), "sizes": [size for _, _, size in inputs["orders"]]}, True


def hb_intensity_fit(inputs: dict[str, Any], _: int) -> Answer:
    """`hb_intensity_fit`."""
    quote, prices, amounts = _reals(inputs, "quote", "trade_prices", "amounts")
    solution = fit_volume_decay(jnp.abs(prices - quote), amounts)
    scale, decay = solution.value
    return {"intensity_scale": scale, "intensity_decay": decay}, bool(solution.result == RESULTS.successful)


def hb_volatility(inputs: dict[str, Any], _: int) -> Answer:
    """`hb_volatility`."""
    (prices,) = _reals(inputs, "prices")
    return {"tick_volatility": tick_volatility(prices), "population_std": population_volatility(prices)}, True


def hb_cycle(inputs: dict[str, Any], _: int) -> Answer:
    """`hb_cycle`."""
    tick, closing_time = _reals(inputs, "tick", "closing_time")
    left, rows = jnp.ones_like(tick), []
    for _ in range(inputs["n_ticks"]):
        left, ended = advance_cycle(left, tick, closing_time)
        rows.append((left, ended))
    return {"time_left": [row[0] for row in rows], "recalculated": [row[1] for row in rows]}, True


def hb_recalculate(inputs: dict[str, Any], _: int) -> Answer:
    """`hb_recalculate`."""
    return {"recalculate": needs_recalculation(*_reals(inputs, "volatility", "volatility_last", "threshold"))}, True


def as_simulation(inputs: dict[str, Any], _: int) -> Answer:
    """`as_simulation`, by its exact law."""
    side = ExponentialIntensity(inputs["intensity_scale"], inputs["intensity_decay"])
    market = PoissonMarket(side, side, inputs["volatility"], fill_rule=inputs["fill_rule"])
    policy = AvellanedaStoikovPolicy(
        *(inputs[name] for name in ("risk_aversion", "volatility", "intensity_decay")),
        strategy=inputs["strategy"],
        spread=inputs["spread"],
    )
    n = inputs["n_steps"]
    episodes, covariates = Episodes(2, n, inputs["horizon"], 0.0), Covariates.neutral(inputs["volatility"])
    law = jax.jit(lambda: episode_law(policy, market, episodes, covariates, MOST_INVENTORY))()
    inventory = jnp.arange(-MOST_INVENTORY, MOST_INVENTORY + 1, dtype=law.mean.dtype)
    time_left = episodes.horizon * (1 - jnp.arange(n) / n)
    before = jnp.concatenate([(inventory == 0)[None].astype(law.mean.dtype), law.inventory[:-1]])
    zero = jnp.zeros_like(law.mean)
    quotes = jax.vmap(lambda t: jax.vmap(lambda q: policy(MarketState(zero, q, zero, t, covariates)))(inventory))(
        time_left
    )
    # Whatever the rule, a step counts where the paper's product would exceed one.
    least = jnp.log(side.scale * inputs["horizon"] / n) / side.decay
    clipped = (quotes.bid_depth < least) | (quotes.ask_depth < least)
    mean = law.inventory[-1] @ inventory
    return {
        "mean_spread": 2 * jnp.mean(policy.half_spread(time_left)),
        "profit_mean": law.mean,
        "profit_std": law.std,
        "inventory_mean": mean,
        "inventory_std": jnp.sqrt(law.inventory[-1] @ inventory**2 - mean**2),
        "share_of_steps_with_clipped_probability": jnp.mean(jnp.sum(before * clipped, axis=1)),
    }, True


def _finite(problem: HJBProblem, max_inventory: int) -> tuple[Any, Any, Any, bool]:
    """Value at zero, depths over inventory and success of a problem with one decay or two."""
    grid = Grid(max_inventory)
    solution = solve_hjb(problem, choose_scheme(problem, grid)[0], grid)
    bid, ask = optimal_depths(problem, solution.value.relative_value[-1])
    return solution.value.offset[-1], bid, ask, bool(solution.result == RESULTS.successful)


def glft_exact(inputs: dict[str, Any], _: int) -> Answer:
    """`glft_exact`: CARA weight on fills, half the variance as penalty, no terminal penalty."""
    side = ExponentialIntensity(inputs["intensity_scale"], inputs["intensity_decay"])
    risk_aversion, left = inputs["risk_aversion"], inputs["horizon"] - inputs["time"]
    penalty = 0.5 * risk_aversion * inputs["volatility"] ** 2
    row = inputs["max_inventory"] + inputs["inventory"]
    if left == 0:
        # Nothing left to earn: no premium.
        margin = side.natural_margin(jnp.asarray(risk_aversion))
        return {"bid": margin, "ask": margin}, True
    problem = HJBProblem(side, side, penalty, 0.0, left, fill_risk_aversion=risk_aversion)
    _, bid, ask, solved = _finite(problem, inputs["max_inventory"])
    return {"bid": bid[row], "ask": ask[row]}, solved


def glft_asymptotic(inputs: dict[str, Any], _: int) -> Answer:
    """`glft_asymptotic`."""
    side = ExponentialIntensity(inputs["intensity_scale"], inputs["intensity_decay"])
    inventory, risk_aversion, volatility = _reals(inputs, "inventory", "risk_aversion", "volatility")
    bid, ask = stationary_depths(side, 0.5 * risk_aversion * volatility**2, inventory, risk_aversion)
    return {"bid": bid, "ask": ask}, True


def glft_coefficients_case(inputs: dict[str, Any], _: int) -> Answer:
    """`glft_coefficients`."""
    side = ExponentialIntensity(inputs["intensity_scale"], inputs["intensity_decay"])
    first, second = glft_coefficients(side, *_reals(inputs, "gamma", "xi", "delta"))
    skew = inputs["volatility"] * second
    return {"c1": first, "c2": second, "half_spread": first + 0.5 * inputs["delta"] * skew, "skew": skew}, True


def cartea_jaimungal(inputs: dict[str, Any], _: int) -> Answer:
    """`cj` and `cj_from_rulebook`."""
    bid, ask = (ExponentialIntensity(inputs[f"{s}_intensity"], inputs[f"{s}_decay"]) for s in ("bid", "ask"))
    penalty = inputs.get("running_penalty")
    if penalty is None:
        penalty = rulebook_penalty(*_reals(inputs, "risk_aversion", "volatility"))
    problem = HJBProblem(bid, ask, penalty, inputs["terminal_penalty"], inputs["horizon"])
    value, bids, asks, solved = _finite(problem, inputs["max_inventory"])
    at = {f"{name}_depth_at": _by_inventory(depths) for name, depths in (("bid", bids), ("ask", asks))}
    return {"value_at_zero": value, "bid_depth": bids, "ask_depth": asks} | at, solved


def _by_inventory(depths: jax.Array) -> dict[str, Any]:
    middle = depths.shape[0] // 2
    return {str(row - middle): depth for row, depth in enumerate(depths)}


def reward_pnl(inputs: dict[str, Any], _: int) -> Answer:
    """`reward_pnl`: change of wealth minus the penalty on the inventory after the step, for a penalty of order 2."""
    cash, inventory, mid = (inputs[name] for name in ("cash", "inventory", "mid"))
    after = [inputs[f"next_{name}"] for name in ("cash", "inventory", "mid")]
    bought = max(after[1] - inventory, 0.0)
    sold = max(inventory - after[1], 0.0)
    zero = jnp.zeros(())
    record = StepRecord(
        bid_fill=jnp.asarray(bought),
        ask_fill=jnp.asarray(sold),
        # Cash against the mid before the step, then the move of what is held.
        capture=jnp.asarray(after[0] - cash + (after[1] - inventory) * mid),
        revaluation=jnp.asarray(after[1] * (after[2] - mid)),
        fees=zero,
        penalty=jnp.asarray(inputs["running_penalty"] * abs(after[1]) ** inputs["exponent"] * inputs["step"]),
    )
    return {"reward": record.capture + record.revaluation - record.penalty}, True


def queue_probability(inputs: dict[str, Any], _: int) -> Answer:
    """`queue_probability`."""
    power = jnp.asarray(inputs["exponent"] or 1.0)
    front, back = _reals(inputs, "front", "back")
    return {"probability": behind_probability(inputs["model"], front, back, power)}, True


def queue_sequence(inputs: dict[str, Any], _: int) -> Answer:
    """`queue_sequence`: Q-2 and Q-3 event by event."""
    power, lot = jnp.asarray(inputs["exponent"] or 1.0), jnp.asarray(inputs["lot_size"])
    front = traded = jnp.zeros_like(lot)
    rows = []
    for kind, *numbers in inputs["events"]:
        filled = jnp.zeros_like(lot)
        before, *after = (jnp.asarray(x) for x in numbers)
        if kind == "new":
            front, traded = before, jnp.zeros_like(lot)
        elif kind == "trade":
            front, traded = front - before, traded + before
            filled = lots_reached(front, lot) * lot
            front = jnp.where(filled > 0, 0.0, front)
        else:
            front = front_after_change(inputs["model"], front, traded, before, after[0], power)
            traded = jnp.zeros_like(lot)
        rows.append([front, filled])
    return {"front_and_filled": rows}, True


def vpin(inputs: dict[str, Any], _: int) -> Answer:
    """`vpin`."""
    buy, sell = _reals(inputs, "buy", "sell")
    numbers = {"vpin": vpin_window(buy, sell, buy.size)[-1]}
    if inputs["kappa"] is not None:
        numbers["literal"] = vpin_literal(
            buy / inputs["bucket_volume"], sell / inputs["bucket_volume"], inputs["kappa"]
        )
    return numbers, True


def fee(inputs: dict[str, Any], _: int) -> Answer:
    """`fee`: both sides pay alike here."""
    rate = inputs["maker_fee"] if inputs["maker"] else inputs["taker_fee"]
    rate += inputs["buyer_fee"] if inputs["side"] == "buy" else inputs["seller_fee"]
    price, quantity = _reals(inputs, "price", "quantity")
    return {"fee": fee_of_fills(inputs["model"], jnp.asarray(rate), price, quantity)}, True


MARKET_MAKING_KINDS: dict[str, Callable[[dict[str, Any], int], Answer]] = {
    "as_quotes": as_quotes,
    "as_spread_limit": as_spread_limit,
    "as_frozen_inventory": as_frozen_inventory,
    "as_stationary": as_stationary,
    "as_writeup": as_writeup,
    "as_simulation": as_simulation,
    "hb_gen1": hb_gen1,
    "hb_gen1_quotes": hb_gen1,
    "hb_gen2": _relative("hummingbot-2021-12"),
    "hb_gen3": _relative("hummingbot-2022"),
    "hb_levels": hb_levels,
    "hb_order_optimization": hb_order_optimization,
    "hb_fees_and_budget": hb_fees_and_budget,
    "hb_order_override": hb_order_override,
    "hb_intensity_fit": hb_intensity_fit,
    "hb_volatility": hb_volatility,
    "hb_cycle": hb_cycle,
    "hb_recalculate": hb_recalculate,
    "glft_exact": glft_exact,
    "glft_asymptotic": glft_asymptotic,
    "glft_coefficients": glft_coefficients_case,
    "cj": cartea_jaimungal,
    "cj_from_rulebook": cartea_jaimungal,
    "reward_pnl": reward_pnl,
    "queue_probability": queue_probability,
    "queue_sequence": queue_sequence,
    "vpin": vpin,
    "fee": fee,
}
