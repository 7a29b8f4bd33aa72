r"""The whole strategy as one function of (memory, states): quotes on the fast clock, everything else once an interval.

At the first decision after an interval ends, with what was known at the last decision inside it:

1. the relation's residual joins its window; reversion and bands (14), side of the pair trade;
2. P&L of every strategy in the interval; shares of capital from the network on the ball (16), (17);
3. CVaR of the next interval from the conditional flow (18), and the scale at which the barrier (19) is reached with the admitted probability;
4. the pair's new target, spread over the interval by transport (15) and over venues by QAOA or the convex split (22)-(24).

At every decision: quotes of every asset from its value table (8)-(10) with imbalance and VPIN in (3), sized by capital and risk; what the schedule
says is due is bought or sold at the mid plus half a spread plus impact (20) plus the venues' costs.

Every component has a weight between 0 (off) and 1 in the traced `Components`: one compile serves all ablations.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mfamm_jax.experiments.mfamm_state import Clock, Components, Memory, Model
from mfamm_jax.policies import Covariates, MarketState, Quotes
from mfamm_jax.policies.routing import convex_split, every_route, finite_costs, fixed_cost
from mfamm_jax.policies.rules import apply_rules
from mfamm_jax.results import RESULTS
from mfamm_jax.risk import barrier_scale, quadrature_tail_risk
from mfamm_jax.solvers.allocation_training import MEMORIES
from mfamm_jax.solvers.mean_reversion import best_band, fit_reversion
from mfamm_jax.solvers.qaoa import qaoa_probabilities, sample_indices
from mfamm_jax.solvers.transport_execution import SlotCosts, plan_execution

# P&L of a strategy is told per unit of capital; below this much capital it says nothing.
LEAST_CAPITAL = 0.25
HASH_BASE = 16_777_619  # FNV's prime


class WholeStrategy(eqx.Module):
    """`replay_strategy`'s strategy.

    Args:
        settings: The experiment: tables `arbitrage`, `rebalancing`, `limits`, `circuit`.
        model: What was learned.
        weights: Of the components.
        clock: Of the session.
        tick_size: Of each asset [price].
        offset: What the session's prices are relative to, over what the model's were [price].
        increment: Orders are whole multiples of it [lots].
        key: Of the router's measurements.
    """

    settings: Any
    model: Model
    weights: Components
    clock: Clock
    tick_size: Float[Array, " asset"]
    offset: Float[Array, " asset"]
    increment: Float[Array, ""]
    key: PRNGKeyArray

    def start(self) -> Memory:
        """Nothing held, nothing known."""
        settings, n = self.settings, len(self.model.policies)
        real = self.model.weights.dtype
        zero, assets = jnp.zeros((), real), jnp.zeros(n, real)
        k, n_venues = n + 2, self.model.venues.n
        capital = jnp.ones(k, real)
        n_terms = settings.rebalancing.kernel.rates.shape[0]
        return Memory(
            seen={"mid": assets, "worth": jnp.zeros(k, real), "factors": jnp.zeros(2, real)},
            worth=jnp.zeros(k, real),
            averages=jnp.zeros((k, len(MEMORIES)), real),
            residuals=jnp.zeros(settings.arbitrage.window, real),
            n_residuals=jnp.zeros((), jnp.int32),
            side=zero,
            is_stopped=jnp.zeros((), bool),
            capital=capital,
            scale=jnp.ones(2, real),
            position=assets,
            cash=zero,
            due=jnp.zeros((settings.rebalancing.n_slots, n), real),
            sent=assets,
            split=jnp.full((n, n_venues), 1 / n_venues, real),
            fixed=assets,
            disturbance=jnp.zeros((n_terms, n), real),
            half_spread_cost=zero,
            impact_cost=zero,
            venue_cost=zero,
            fingerprint=jnp.asarray(2_166_136_261, jnp.uint32),
            totals=jnp.zeros(self.clock.n_intervals, real),
        )

    def __call__(
        self, memory: Memory, states: tuple[MarketState, ...], index: Int[Array, ""]
    ) -> tuple[Memory, tuple[Quotes, ...], dict[str, Array]]:
        """One decision."""
        mids = jnp.stack([state.mid for state in states])
        memory = jax.lax.cond(self.clock.starts[index], lambda m: self.end_interval(m, index), lambda m: m, memory)
        memory, child = self.execute(memory, mids, index)
        quotes = tuple(self.quotes(i, memory, state) for i, state in enumerate(states))
        worth = jnp.stack(
            [state.cash + state.inventory * state.mid for state in states]
            + [memory.cash + memory.position @ mids, jnp.zeros_like(memory.cash)]
        )
        seen = {"mid": mids, "worth": worth, "factors": self.risk_factors(memory, states)}
        orders = self.order_numbers(mids, quotes, child, memory.split)
        memory = dataclasses.replace(memory, seen=seen, fingerprint=_hashed(memory.fingerprint, orders))
        said = {
            "mid": mids,
            "worth": worth,
            "factors": seen["factors"],
            "inventory": jnp.stack([state.inventory for state in states]),
            "position": memory.position,
            "child": child,
            "split": memory.split,
            "capital": memory.capital,
            "scale": memory.scale,
            "side": memory.side,
            "residual": self.model.weights @ (mids + self.offset),
            "depth": jnp.stack([jnp.stack([q.bid_depth, q.ask_depth]) for q in quotes]),
            "size": jnp.stack([jnp.stack([q.bid_size, q.ask_size]) for q in quotes]),
        }
        return memory, quotes, said

    def risk_factors(self, memory: Memory, states: tuple[MarketState, ...]) -> Float[Array, "2"]:
        """What the next interval's loss depends on: volatility over its average, and what everything held moves in an interval."""
        ratio = jnp.stack(
            [jnp.log(s.covariates.volatility / r.volatility) for s, r in zip(states, self.model.reference)]
        )
        held = memory.position + jnp.stack([state.inventory for state in states])
        return jnp.stack([jnp.mean(ratio), jnp.sqrt(jnp.sum(held**2 * self.model.variance))])

    # Once an interval.

    def end_interval(self, memory: Memory, index: Int[Array, ""]) -> Memory:
        """From what the last decision of the interval knew."""
        number, ended = self.clock.number[index], self.clock.number[index - 1]
        pnl = memory.seen["worth"] - memory.worth
        total = jnp.sum(memory.seen["worth"])
        side, is_stopped, residuals, n_residuals = self.pair_side(memory)
        averages, capital = self.allocate(memory, pnl)
        scale = self.risk_scale(memory.seen["factors"], total, self.clock.intervals_left[index])
        amount = self.settings.arbitrage.lots * capital[-2] * jnp.prod(scale) * self.weights.arbitrage * side
        wanted = _whole(amount * self.model.weights, self.increment)
        # Capital and risk move every interval; following them closely would pay the spread every interval.
        near = jnp.sum(jnp.abs(wanted - memory.position)) <= self.settings.arbitrage.tolerance * jnp.sum(
            jnp.abs(memory.position)
        )
        # A limit that tightens is followed.
        follows = (jnp.prod(scale) < jnp.prod(memory.scale)) & (
            jnp.sum(jnp.abs(wanted)) < jnp.sum(jnp.abs(memory.position))
        )
        order = jnp.where((side == memory.side) & near & ~follows, 0.0, wanted - memory.position)
        # No more than all venues take, both legs alike; the rest is ordered again next time.
        room = jnp.sum(self.model.venues.capacities) / jnp.maximum(jnp.max(jnp.abs(order)), self.increment)
        order = _whole(order * jnp.minimum(room, 1.0), self.increment)
        split, fixed = self.route(order, number)
        return dataclasses.replace(
            memory,
            worth=memory.seen["worth"],
            totals=jnp.where(jnp.arange(memory.totals.size) >= ended, total, memory.totals),
            side=side,
            is_stopped=is_stopped,
            residuals=residuals,
            n_residuals=n_residuals,
            averages=averages,
            capital=capital,
            scale=scale,
            due=self.schedule(order),
            sent=jnp.zeros_like(order),
            split=split,
            fixed=fixed,
        )

    def pair_side(self, memory: Memory) -> tuple[Array, Array, Array, Array]:
        """Bands from the window of residuals, once it is full; as `simulation.spread_trading` decides."""
        rule = self.settings.arbitrage
        residual = self.model.weights @ (memory.seen["mid"] + self.offset)
        residuals = jnp.concatenate([memory.residuals[1:], residual[None]])
        n = memory.n_residuals + 1
        fitted = fit_reversion(residuals)
        usable = (n >= rule.window) & (fitted.result == RESULTS.successful)
        reversion = jax.tree.map(lambda a, b: jnp.where(usable, a, b), fitted.value, self.model.reversion)
        band = best_band(reversion, 2 * jnp.abs(self.model.weights) @ self.model.half_spreads)
        away = residual - reversion.mean
        is_stopped = (memory.is_stopped & (jnp.abs(away) >= band)) | (jnp.abs(away) > rule.stop * reversion.deviation)
        wanted = jnp.where(away > band, -1.0, jnp.where(away < -band, 1.0, memory.side))
        return jnp.where(is_stopped, 0.0, wanted), is_stopped, residuals, n

    def allocate(self, memory: Memory, pnl: Float[Array, " strategy"]) -> tuple[Array, Array]:
        """Averages of P&L per unit of capital, and capital: the least, and the network's shares of the rest."""
        model = self.model
        if model.network is None or model.task is None:
            return memory.averages, memory.capital
        used = jnp.maximum(memory.capital * jnp.prod(memory.scale), LEAST_CAPITAL)
        forget = jnp.asarray(MEMORIES, pnl.dtype)
        gain = jnp.sqrt((1 - forget) * (1 + forget))
        averages = forget * memory.averages + gain * (pnl / used / model.task.scale)[:, None]
        features = jnp.concatenate([averages, jnp.eye(pnl.size, dtype=pnl.dtype)], axis=1)
        shares = model.network(features, model.task.edges)
        least = self.settings.learning.least
        capital = least + (1 - least) * pnl.size * shares
        return averages, 1 + self.weights.allocation * (capital - 1)

    def risk_scale(self, factors: Array, total: Float[Array, ""], intervals_left: Float[Array, ""]) -> Array:
        """Of the CVaR limit and of the barrier, each in [0, 1]."""
        limits, model = self.settings.limits, self.model
        by_tail = jnp.ones_like(total)
        if model.flow is not None:
            law = model.flow.at(factors)
            found = quadrature_tail_risk(law.survival_quantile, limits.tail_level).cvar
            by_tail = jnp.clip(limits.cvar * model.cvar / jnp.maximum(found, 1e-6 * model.cvar), 0.0, 1.0)
        height = limits.barrier * model.value_at_risk + total
        by_barrier = barrier_scale(model.deviation, height, intervals_left, limits.breach)
        w = jnp.stack([self.weights.tail_risk, self.weights.drawdown])
        return 1 + w * (jnp.stack([by_tail, by_barrier]) - 1)

    def schedule(self, order: Float[Array, " asset"]) -> Float[Array, "slot asset"]:
        """Lots due by the end of each slot: transport of the order into the interval's slots, against its own impact."""
        rules, model, n = self.settings.rebalancing, self.model, order.size
        lots = jnp.sum(jnp.abs(order))
        # An asset without an order takes part with a trace, which is nobody's.
        mass = jnp.abs(order) / jnp.where(lots > 0, lots, 1.0) + 1e-6
        mass = mass / jnp.sum(mass)
        slots = jnp.arange(rules.n_slots, dtype=order.dtype)
        time = (slots + 0.5) / rules.n_slots
        cost = SlotCosts(
            half_spread=model.half_spreads,
            fee=jnp.zeros_like(time),
            temporary_impact=jnp.zeros(n, order.dtype),
            volume=jnp.ones((n, rules.n_slots), order.dtype),
            variance=model.variance / jnp.mean(model.variance),
            time=time,
            risk_aversion=rules.urgency,
        ).matrix()
        signs = jnp.where(order < 0, -1.0, 1.0)
        impact = lots * signs[:, None] * model.impact * signs
        apart = jnp.abs(time[:, None] - time) * self.settings.clock.interval
        decay = rules.kernel(apart.ravel()).reshape(apart.shape) / rules.kernel(jnp.zeros(1, apart.dtype))
        # Any slot may take everything: the capacities are as many whole orders, and what is not used stays with a parcel of its own.
        spare = jnp.asarray([rules.n_slots - 1.0], order.dtype)
        cost = jnp.concatenate([cost, jnp.zeros((1, rules.n_slots), order.dtype)])
        source = jnp.concatenate([mass, spare]) / rules.n_slots
        sink = jnp.full(rules.n_slots, 1 / rules.n_slots, order.dtype)
        scale = jnp.asarray(rules.n_slots, order.dtype)
        padded = jnp.pad(impact, (0, 1)) * scale**2
        plan = plan_execution(
            scale * cost, source, sink, padded, decay, scale * rules.regularization, mode=rules.mode
        ).value.transport.plan[:n]
        shares = plan / jnp.sum(plan, axis=1, keepdims=True)
        at_once = jnp.where(slots == 0, 1.0, 0.0)
        shares = self.weights.schedule * shares + (1 - self.weights.schedule) * at_once
        due = _whole(jnp.cumsum(shares, axis=1).T * order, self.increment)
        return due.at[-1].set(order)

    def route(self, order: Float[Array, " asset"], number: Int[Array, ""]) -> tuple[Array, Array]:
        """Split of every asset's order over the venues, and what using them costs."""
        venues, circuit = self.model.venues, self.settings.circuit
        even = venues.capacities / jnp.sum(venues.capacities)

        def one(quantity: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
            some = jnp.clip(quantity, self.increment, 0.999 * jnp.sum(venues.capacities))
            if circuit.router == "convex":
                found = convex_split(venues, some)
            else:
                routes = every_route(venues, some)
                if circuit.router == "qaoa":
                    costs = finite_costs(routes, venues, some)
                    probabilities = qaoa_probabilities(standardised(costs), self.model.angles)
                    measured = sample_indices(probabilities, key, circuit.n_samples)
                    best = measured[jnp.argmin(costs[measured])]
                else:
                    best = jnp.argmin(routes.cost)
                found = jax.tree.map(lambda x: x[best], routes)
                # Every set measured may be too small for the order.
                good, whole = found.split.feasible, convex_split(venues, some)
                found = jax.tree.map(lambda a, b: jnp.where(good, a, b), found, whole)
            share = found.split.quantities / some
            w = self.weights.routing
            mixed = w * share + (1 - w) * even
            fixed = fixed_cost((mixed > 0).astype(jnp.int32), venues)
            return mixed, jnp.where(quantity > 0, fixed, 0.0)

        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(self.key, number), i))(jnp.arange(order.size))
        return jax.vmap(one)(jnp.abs(order), keys)

    # At every decision.

    def execute(
        self, memory: Memory, mids: Float[Array, " asset"], index: Int[Array, ""]
    ) -> tuple[Memory, Float[Array, " asset"]]:
        """Trades what is due by now, at the mid plus half a spread plus impact plus the venues' costs."""
        rules, clock, venues = self.settings.rebalancing, self.clock, self.model.venues
        child = _whole(memory.due[clock.slot[index]] - memory.sent, self.increment)
        child = jnp.where(clock.is_shown[index], child, 0.0)  # nobody trades against half a book
        lots = jnp.abs(child)
        rates, amplitudes = rules.kernel.rates, rules.kernel.amplitudes
        left = memory.disturbance * jnp.exp(-rates * clock.seconds[index])[:, None]
        pushed = amplitudes[:, None] * jnp.matmul(self.model.impact, rules.curve(child), precision="highest")
        # A child is filled on its own way up, on average at g/(1 + exponent) of the jump g that it makes.
        price_move = jnp.sum(left + pushed / (1 + rules.exponent), axis=0)
        spread, impact = lots @ clock.half_spread[index], child @ price_move
        by_venue = lots[:, None] * memory.split
        used = jnp.where(lots > 0, memory.fixed, 0.0)
        venue = jnp.sum(venues.fees * by_venue + 0.5 * venues.impacts * by_venue**2) + jnp.sum(used)
        after = dataclasses.replace(
            memory,
            position=_whole(memory.position + child, self.increment),
            cash=memory.cash - child @ mids - spread - impact - venue,
            sent=_whole(memory.sent + child, self.increment),
            fixed=jnp.where(lots > 0, 0.0, memory.fixed),
            disturbance=left + pushed,
            half_spread_cost=memory.half_spread_cost + spread,
            impact_cost=memory.impact_cost + impact,
            venue_cost=memory.venue_cost + venue,
        )
        return after, child

    def quotes(self, asset: int, memory: Memory, state: MarketState) -> Quotes:
        """Of one asset; the side that brings the inventory back keeps all of it, at most a lot, whatever capital, limits and gates say."""
        model, w, reference = self.model, self.weights, self.model.reference[asset]
        now, lasts = state.covariates, model.persistence[asset]
        # A table solves for intensities that last: of what passes only the lasting part is told to it.
        known = Covariates(
            now.volatility,
            reference.vpin + w.toxicity * (now.vpin - reference.vpin),
            w.imbalance * lasts[0] * now.imbalance,
            lasts[1:] * now.book_features,
        )
        state = eqx.tree_at(lambda s: s.covariates, state, known)
        best, even = model.policies[asset](state), model.symmetric[asset](state)
        mixed = jax.tree.map(lambda a, b: w.control * a + (1 - w.control) * b, best, even)
        ruled = apply_rules(self.settings.quotes, mixed, known.vpin, w.imbalance * now.imbalance)
        size = memory.capital[asset] * jnp.prod(memory.scale)
        back = jnp.minimum(jnp.abs(state.inventory), 1.0)
        bid = jnp.maximum(ruled.bid_size * size, jnp.where(state.inventory < 0, back, 0.0))
        ask = jnp.maximum(ruled.ask_size * size, jnp.where(state.inventory > 0, back, 0.0))
        return Quotes(ruled.bid_depth, ruled.ask_depth, bid, ask)

    def order_numbers(
        self, mids: Array, quotes: tuple[Quotes, ...], child: Array, split: Array
    ) -> Int[Array, " number"]:
        """Every order of this decision as whole numbers: ticks and increments of the quotes, children by venue."""
        bid, ask = (jnp.stack([getattr(q, name) for q in quotes]) for name in ("bid_depth", "ask_depth"))
        sizes = jnp.stack([jnp.stack([q.bid_size, q.ask_size]) for q in quotes])
        ticks = jnp.stack(
            [jnp.floor((mids - bid) / self.tick_size + 1e-3), jnp.ceil((mids + ask) / self.tick_size - 1e-3)], axis=1
        )
        whole = jnp.floor(sizes / self.increment + 1e-3)
        children = jnp.round(child[:, None] * split / (0.01 * self.increment))
        return jnp.concatenate([jnp.where(whole > 0, ticks, 0).ravel(), whole.ravel(), children.ravel()]).astype(
            jnp.int32
        )


def standardised(costs: Float[Array, " bitstring"]) -> Float[Array, " bitstring"]:
    """Mean 0 and deviation 1: the same angles then serve orders of any size."""
    centred = costs - jnp.mean(costs)
    deviation = jnp.std(costs)
    return centred / jnp.where(deviation > 0, deviation, 1.0)


def _whole(lots: Float[Array, "..."], increment: Float[Array, ""]) -> Float[Array, "..."]:
    """To the nearest multiple."""
    return jnp.round(lots / increment) * increment


def _hashed(fingerprint: Array, numbers: Int[Array, " n"]) -> Array:
    """A polynomial in the hash's base, modulo 2^32: other orders, other fingerprint, but for one case in four billion."""
    n = numbers.shape[0]
    powers = np.array([pow(HASH_BASE, n - 1 - i, 2**32) for i in range(n)], np.uint32)
    words = jax.lax.bitcast_convert_type(numbers, jnp.uint32)
    return fingerprint * jnp.uint32(pow(HASH_BASE, n, 2**32)) + jnp.sum(words * powers, dtype=jnp.uint32)
