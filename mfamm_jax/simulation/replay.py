"""A policy's quotes against recorded events: latency, queue position, partial fills, fees, in one scan.

Our orders never move the recorded book. Several instruments share one clock: their steps are merged, each has its own book,
orders and account, and one policy decides for all of them.

Source: docs/equations.md, Q-1 to Q-3 (queue), F-1 to F-3 (fees).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mfamm_jax.policies.quotes import AbstractPolicy, Covariates, MarketState, Quotes
from mfamm_jax.simulation.account import Account
from mfamm_jax.simulation.desk import Desk, empty_desk, market_state, send
from mfamm_jax.simulation.execution import ReplayConfig
from mfamm_jax.simulation.tape import Moment, Tape
from mfamm_jax.simulation.venue import Exchange, Ladder, Outcome, Venue


class ReplayPath(eqx.Module):
    """State after every step of the tape, and fills in it. Sides are (bid, ask); several levels are a last axis.

    Args:
        inventory: [lots].
        value: Cash plus inventory at the mid [price lot].
        mid: [price], relative.
        order_ticks: Resting prices; meaningless where `order_size` is 0.
        order_size: [lots].
        order_front: Quantity in front of each order [recorded units]; inf = not visible.
        fill: [lots].
        fill_price: [price], relative.
        fill_mid: Mid just before the step [price].
        accepted: Orders that the exchange accepted at the step.
        refused: Orders that it refused.
    """

    inventory: Float[Array, "*step"]
    value: Float[Array, "*step"]
    mid: Float[Array, "*step"]
    order_ticks: Int[Array, "..."]
    order_size: Float[Array, "..."]
    order_front: Float[Array, "..."]
    fill: Float[Array, "..."]
    fill_price: Float[Array, "..."]
    fill_mid: Float[Array, "*step"]
    accepted: Bool[Array, "..."]
    refused: Bool[Array, "..."]


class ReplayResult(eqx.Module):
    """Final numbers of one policy. For inverse contracts money is in the coin.

    Args:
        pnl: Cash plus inventory at the last mid [price lot]; = capture + revaluation - fees + residual.
        capture: Fills' distance from the mid just before, times lots.
        revaluation: Inventory times changes of the mid.
        fees: Paid.
        residual: Rounding error of the identity.
        inventory: Final [lots].
        max_inventory: Largest absolute inventory [lots].
        max_drawdown: Largest fall of the value from its peak.
        bid_fills, ask_fills: Lots bought and sold.
        n_bid_fills, n_ask_fills: Number of fills.
        n_bid_orders, n_ask_orders: Orders the exchange accepted; fills per order are the fill ratio.
        bid_quoted, ask_quoted: Share of time with a resting order.
        rejected: Orders refused (post-only, inventory limit, halt, no book).
        bid_markouts, ask_markouts: Mean gain per lot against the mid at each of the tape's later moments.
        path: Every step; only with `record = "path"`.
    """

    pnl: Float[Array, ""]
    capture: Float[Array, ""]
    revaluation: Float[Array, ""]
    fees: Float[Array, ""]
    residual: Float[Array, ""]
    inventory: Float[Array, ""]
    max_inventory: Float[Array, ""]
    max_drawdown: Float[Array, ""]
    bid_fills: Float[Array, ""]
    ask_fills: Float[Array, ""]
    n_bid_fills: Int[Array, ""]
    n_ask_fills: Int[Array, ""]
    n_bid_orders: Int[Array, ""]
    n_ask_orders: Int[Array, ""]
    bid_quoted: Float[Array, ""]
    ask_quoted: Float[Array, ""]
    rejected: Int[Array, ""]
    bid_markouts: Float[Array, " later"]
    ask_markouts: Float[Array, " later"]
    path: ReplayPath | None


JointPolicy = Callable[[tuple[MarketState, ...]], tuple[Quotes, ...]]
# (what it remembers, the instruments' states, the decision's number) -> (what it remembers then, quotes, anything to keep)
Strategy = Callable[[Any, tuple[MarketState, ...], Int[Array, ""]], tuple[Any, tuple[Quotes, ...], Any]]


def replay(
    policy: AbstractPolicy,
    tape: Tape,
    covariates: Covariates,
    config: ReplayConfig,
    *,
    record: Literal["summary", "path"] = "summary",
) -> ReplayResult:
    """Replays one policy; `vmap` over policies or configs shares the tape.

    A decision sees the market and its own fills as late as the tape's latencies say, keeps a resting order that is
    near enough and young enough (and its place in the queue), and otherwise replaces it when the message arrives.

    Args:
        policy: Quotes for a state; time left counts to the end of the tape.
        tape: From `build_tape`.
        covariates: One row per decision, known at that decision.
        config: Fill and fee rules.
        record: "path" also returns every step.
    """
    venues = (_venue(tape, config),)
    strategy = _without_memory(lambda states: (policy(states[0]),))
    return _scan(strategy, (), venues, tape.moment, (covariates,), record)[0][0]


def replay_together(
    policy: JointPolicy,
    tapes: tuple[Tape, ...],
    moment: Moment,
    covariates: tuple[Covariates, ...],
    configs: tuple[ReplayConfig, ...],
    *,
    record: Literal["summary", "path"] = "summary",
) -> tuple[ReplayResult, ...]:
    """Replays several instruments on one clock: a decision knows all of them and quotes in each.

    Args:
        policy: The instruments' states to the instruments' quotes, in the order of the tapes.
        tapes: One of each instrument, with the same decision times.
        moment: Their steps in order of time, from `merge_tapes`.
        covariates: Of each instrument.
        configs: Of each instrument.
        record: "path" also returns every step.
    """
    venues = tuple(_venue(tape, config) for tape, config in zip(tapes, configs, strict=True))
    return _scan(_without_memory(policy), (), venues, moment, covariates, record)[0]


class StrategyResult(NamedTuple):
    """What a strategy did.

    Args:
        instruments: Result of each.
        memory: What the strategy remembers at the end.
        said: What it said at every decision; only with `record = "path"`.
    """

    instruments: tuple[ReplayResult, ...]
    memory: Any
    said: Any


def replay_strategy(
    strategy: Strategy,
    memory: Any,
    tapes: tuple[Tape, ...],
    moment: Moment,
    covariates: tuple[Covariates, ...],
    configs: tuple[ReplayConfig, ...],
    *,
    record: Literal["summary", "path"] = "summary",
) -> StrategyResult:
    """As `replay_together` for a strategy that remembers: slow clocks, positions of its own, budgets.

    Args:
        strategy: (memory, the instruments' states, number of the decision) -> (memory, quotes, anything worth keeping).
        memory: At the start; arrays of fixed shapes.
        tapes, moment, covariates, configs: As in `replay_together`.
        record: "path" keeps every step of the instruments and what the strategy said at every decision.
    """
    venues = tuple(_venue(tape, config) for tape, config in zip(tapes, configs, strict=True))
    results, end, said = _scan(strategy, memory, venues, moment, covariates, record)
    if record == "path":
        n_decisions = tapes[0].time_left.shape[0]
        (rows,) = jnp.nonzero(moment.action == 3 * len(tapes), size=n_decisions, fill_value=-1)
        said = jax.tree.map(lambda x: x[rows], said)
    return StrategyResult(results, end, said)


def _without_memory(policy: JointPolicy) -> Strategy:
    return lambda memory, states, index: (memory, policy(states), ())


def _venue(tape: Tape, config: ReplayConfig) -> Venue:
    if config.queue_model == "fifo" and not tape.has_orders:
        raise ValueError('queue_model = "fifo" needs a feed with order ids; use "power" or another estimate')
    return Venue(tape, config)


class _State(NamedTuple):
    """Of one instrument."""

    book: Ladder
    exchange: Exchange
    desk: Desk
    quoted: Float[Array, "2"]


def _scan(
    strategy: Strategy,
    memory: Any,
    venues: tuple[Venue, ...],
    steps: Moment,
    covariates: tuple[Covariates, ...],
    record: str,
) -> tuple[tuple[ReplayResult, ...], Any, Any]:
    """The actions of instrument number i are `3 i + action`; deciding comes after those of the last one."""
    decide = 3 * len(venues)

    def start(venue: Venue) -> _State:
        desk = empty_desk(venue.tape, venue.config.n_levels)
        return _State(venue.empty_book(), venue.empty_exchange(), desk, jnp.zeros(2, steps.mid.dtype))

    def states_at(accounts: list[Account], index: Int[Array, ""]) -> tuple[MarketState, ...]:
        known = zip(venues, covariates, accounts)
        return tuple(market_state(venue.tape, c, account, index) for venue, c, account in known)

    def advance(carry: tuple[tuple[_State, ...], Any], step: tuple) -> tuple[tuple, tuple | None]:
        states, remembered = carry
        number, moment = step
        books, quoted = [], []
        for i, (venue, state) in enumerate(zip(venues, states)):
            own = (moment.action >= 3 * i) & (moment.action < 3 * i + 3)
            changes = moment.n_changes if len(venues) == 1 else jnp.where(own, moment.n_changes, 0)
            books.append(venue.change_book(state.book, moment, number, changes))
            resting = jnp.stack([jnp.any(orders.size > 0) for orders in state.exchange.orders])
            quoted.append(state.quoted + jnp.where(resting, moment.seconds, 0.0))
        exchanges = tuple(state.exchange for state in states)
        desks = tuple(state.desk for state in states)
        nothing = tuple(venue.nothing() for venue in venues)

        def at(i: int, happens: Callable[[], tuple[Exchange, Outcome]]) -> Callable:
            def branch() -> tuple:
                exchange, outcome = happens()
                after = (*exchanges[:i], exchange, *exchanges[i + 1 :])
                return (after, (*nothing[:i], outcome, *nothing[i + 1 :])) if record == "path" else (after, None)

            return branch

        branches = []
        for i, venue in enumerate(venues):
            own = (exchanges[i], books[i], desks[i], venue)
            branches += [
                at(i, lambda own=own: own[3].trade(own[0], moment)),
                at(i, lambda own=own: own[3].levels(own[0], own[1], moment, number)),
                at(i, lambda own=own: own[3].arrive(own[0], own[2], own[1], moment, number)),
            ]
        branches.append(lambda: (exchanges, nothing if record == "path" else None))
        after, outcomes = jax.lax.switch(moment.action, branches)

        def decided() -> tuple[tuple[Desk, ...], Any, Any]:
            now = states_at([exchange.account for exchange in exchanges], moment.index)
            then, quotes, said = strategy(remembered, now, moment.index)
            sent = tuple(
                send(venue.tape, venue.config, desk, exchange.orders, quote, moment.index)
                for venue, desk, exchange, quote in zip(venues, desks, exchanges, quotes, strict=True)
            )
            return sent, then, said

        desks, then, said = jax.lax.cond(moment.action == decide, decided, lambda: (desks, remembered, silence))
        new = tuple(_State(*parts) for parts in zip(books, after, desks, quoted))
        path = None if outcomes is None else (tuple(_record(a, o) for a, o in zip(after, outcomes)), said)
        return (new, then), path

    begin = tuple(start(venue) for venue in venues)
    first = states_at([state.exchange.account for state in begin], jnp.zeros((), jnp.int32))
    shapes = jax.eval_shape(strategy, memory, first, jnp.zeros((), jnp.int32))[2]
    silence = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)  # between decisions
    n_steps = steps.action.shape[0]
    numbers = jnp.arange(1, n_steps + 1, dtype=jnp.int32)
    (ends, memory), recorded = jax.lax.scan(advance, (begin, memory), (numbers, steps))
    paths, said = (None, None) if recorded is None else recorded
    seconds = jnp.sum(steps.seconds)
    results = []
    for i, end in enumerate(ends):
        path = None if paths is None else _path(paths[i], _mids(steps, i, len(venues)))
        results.append(_result(end.exchange.account, end.quoted, seconds, path))
    return tuple(results), memory, said


def _mids(steps: Moment, instrument: int, n_instruments: int) -> Float[Array, " step"]:
    """An instrument's mid after every step: steps of the others leave it."""
    if n_instruments == 1:
        return steps.mid
    own = (steps.action >= 3 * instrument) & (steps.action < 3 * instrument + 3)
    number = jnp.arange(own.shape[0])
    first = jnp.argmax(own)
    return steps.mid[jax.lax.cummax(jnp.where(own, number, first))]


def _path(recorded: dict[str, Array], mid: Float[Array, " step"]) -> ReplayPath:
    return ReplayPath(mid=mid, fill_mid=jnp.concatenate([mid[:1], mid[:-1]]), **recorded)


def _both(pair: tuple[Array, Array]) -> Array:
    """(bid, ask) as an axis; without the axis of levels when there is one."""
    stacked = jnp.stack(pair)
    return stacked[:, 0] if stacked.shape[1] == 1 else stacked


def _record(after: Exchange, outcome: Outcome) -> dict[str, Array]:
    """What a path keeps of a step; its mids are the same for all policies."""
    account, orders = after.account, after.orders
    return {
        "inventory": account.inventory,
        "value": account.cash + account.inventory * account.worth,
        "order_ticks": _both((orders[0].ticks, orders[1].ticks)),
        "order_size": _both((orders[0].size, orders[1].size)),
        "order_front": _both((orders[0].front, orders[1].front)),
        "fill": _both((outcome.fills[0].lots, outcome.fills[1].lots)),
        "fill_price": _both((outcome.fills[0].price, outcome.fills[1].price)),
        "accepted": _both(outcome.accepted),
        "refused": _both(outcome.refused),
    }


def _positive(lots: Float[Array, ""]) -> Float[Array, ""]:
    """Without fills a mean over them is zero."""
    return jnp.where(lots > 0, lots, 1.0)


def _result(
    account: Account, quoted: Float[Array, "2"], seconds: Float[Array, ""], path: ReplayPath | None
) -> ReplayResult:
    pnl = account.cash + account.inventory * account.worth
    share = quoted / jnp.maximum(seconds, jnp.finfo(seconds.dtype).tiny)
    return ReplayResult(
        pnl=pnl,
        capture=account.capture,
        revaluation=account.revaluation,
        fees=account.fees,
        residual=pnl - (account.capture + account.revaluation - account.fees),
        inventory=account.inventory,
        max_inventory=account.most,
        max_drawdown=account.drawdown,
        bid_fills=account.lots[0],
        ask_fills=account.lots[1],
        n_bid_fills=account.n_fills[0],
        n_ask_fills=account.n_fills[1],
        n_bid_orders=account.n_orders[0],
        n_ask_orders=account.n_orders[1],
        bid_quoted=share[0],
        ask_quoted=share[1],
        rejected=account.rejected,
        bid_markouts=account.marked_out[0] / _positive(account.lots[0]),
        ask_markouts=account.marked_out[1] / _positive(account.lots[1]),
        path=path,
    )
