"""A policy in the Poisson market over a horizon: one random episode, or its exact law."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.policies.quotes import AbstractPolicy, Covariates, MarketState, Quotes
from mfamm_jax.simulation.step import PoissonMarket, step_with


class Episodes(Checked):
    """How long and how fine to simulate.

    Args:
        n_paths: Independent episodes.
        n_steps: Steps per episode.
        horizon: Length [s].
        terminal_penalty: $\\alpha$ of (9), charged on the final inventory in the objective only.
    """

    n_paths: int = static_field(default=4096, lower=2, help="independent episodes")
    n_steps: int = static_field(default=600, lower=1, help="steps per episode")
    horizon: Float[Array, ""] = real_field(default=300.0, lower=0.0, strict=True, unit="s", help="length of an episode")
    terminal_penalty: Float[Array, ""] = real_field(
        default=1e-4, lower=0.0, unit="price/lot", source="(9)", help="charged on the final inventory in the objective"
    )


class EpisodeResult(eqx.Module):
    """Sums over an episode and, per step, the paths a report draws.

    Args:
        pnl: Cash plus inventory at the final mid [price lot].
        capture, revaluation, fees: Their sum (fees negative) is `pnl`: the P&L identity.
        objective: (1) with (9): spread captured minus running and terminal penalties (adverse moves included).
        bid_fills, ask_fills: Lots.
        final_inventory: [lots].
        inventory: After every step [lots].
        value: Mark-to-mid P&L after every step [price lot].
    """

    pnl: Float[Array, ""]
    capture: Float[Array, ""]
    revaluation: Float[Array, ""]
    fees: Float[Array, ""]
    objective: Float[Array, ""]
    bid_fills: Float[Array, ""]
    ask_fills: Float[Array, ""]
    final_inventory: Float[Array, ""]
    inventory: Float[Array, " step"]
    value: Float[Array, " step"]


def simulate_episode(
    policy: AbstractPolicy,
    market: PoissonMarket,
    episodes: Episodes,
    covariates: Covariates,
    inventory_penalty: Float[Array, ""],
    key: PRNGKeyArray,
) -> EpisodeResult:
    """One episode; vmap over policies or markets for a sweep. `simulate_episodes` is faster than a vmap over keys."""
    advance = _stepper(policy, market, episodes, inventory_penalty)

    def tick(state, index):
        uniforms = jax.random.uniform(jax.random.fold_in(key, index), (market.n_uniforms,), state.cash.dtype)
        return advance(state, index, uniforms)

    start = market.start(episodes.horizon, covariates)
    end, paths = jax.lax.scan(tick, start, jnp.arange(episodes.n_steps))
    return _summed(episodes, end, *paths)


def simulate_episodes(
    policy: AbstractPolicy,
    market: PoissonMarket,
    episodes: Episodes,
    covariates: Covariates,
    inventory_penalty: Float[Array, ""],
    key: PRNGKeyArray,
) -> EpisodeResult:
    """`episodes.n_paths` independent ones, with paths in front of every axis; a step draws for all of them at once."""
    advance = _stepper(policy, market, episodes, inventory_penalty)
    first = market.start(episodes.horizon, covariates)
    shape = market.n_uniforms, episodes.n_paths

    def tick(state, index):
        uniforms = jax.random.uniform(jax.random.fold_in(key, index), shape, first.cash.dtype)
        return jax.vmap(advance, in_axes=(0, None, 1))(state, index, uniforms)

    start = jax.tree.map(lambda x: jnp.broadcast_to(x, (episodes.n_paths, *x.shape)), first)
    end, paths = jax.lax.scan(tick, start, jnp.arange(episodes.n_steps))
    return jax.vmap(lambda end, paths: _summed(episodes, end, *paths), in_axes=(0, 1))(end, paths)


def _stepper(policy, market, episodes, inventory_penalty):
    """Function of state, index and uniform numbers: the next state, and what an episode sums and keeps."""
    time_step = episodes.horizon / episodes.n_steps

    def advance(state: MarketState, index, uniforms):
        state, record = step_with(market, state, policy(state), time_step, inventory_penalty, uniforms)
        # Countdown by multiplication: subtracting the step thousands of times drifts in float32.
        left = time_step * (episodes.n_steps - 1 - index)
        state = eqx.tree_at(lambda s: s.time_left, state, left)
        return state, (record, state.inventory, state.cash + state.inventory * state.mid)

    return advance


def _summed(episodes, end, records, inventory, value) -> EpisodeResult:
    total = jax.tree.map(jnp.sum, records)
    return EpisodeResult(
        pnl=end.cash + end.inventory * end.mid,
        capture=total.capture,
        revaluation=total.revaluation,
        fees=total.fees,
        objective=total.reward - total.fees - episodes.terminal_penalty * end.inventory**2,
        bid_fills=total.bid_fill,
        ask_fills=total.ask_fill,
        final_inventory=end.inventory,
        inventory=inventory,
        value=value,
    )


class EpisodeLaw(eqx.Module):
    """Exact moments of an episode with quotes of one lot, and the law of the inventory.

    Args:
        mean: E[pnl] [price lot].
        std: Standard deviation of pnl.
        bid_fills, ask_fills: Expected lots filled.
        inventory: P(inventory = q) after every step.
    """

    mean: Float[Array, ""]
    std: Float[Array, ""]
    bid_fills: Float[Array, ""]
    ask_fills: Float[Array, ""]
    inventory: Float[Array, "step inventory"]


def episode_law(
    policy: AbstractPolicy,
    market: PoissonMarket,
    episodes: Episodes,
    covariates: Covariates,
    max_inventory: int,
) -> EpisodeLaw:
    r"""Forward recursion over inventory for the very scheme `simulate_episode` samples: no sampling error, differentiable.

    The Brownian part of the mid is independent of the fills, so with G the sum of captured spreads, fees and fill-driven revaluations,
    $E[pnl] = E[G]$ and $Var[pnl] = Var[G] + \sigma^2 dt \sum E[q^2]$. Quotes must have size one or zero and respect
    |inventory| <= max_inventory. Source: AS-S5 of docs/equations.md, with drift, fees per lot and adverse selection added; NaN where
    the market has an `impact_recovery` or a `fee_rate`, whose effects are not in it.
    """
    if market.mid is not None or market.arrivals is not None:
        raise ValueError(
            "episode_law knows a Brownian mid and Poisson arrivals only: drop mid and arrivals, or simulate"
        )
    time_step = episodes.horizon / episodes.n_steps
    q = jnp.arange(-max_inventory, max_inventory + 1, dtype=time_step.dtype)
    zero = jnp.zeros_like(time_step)

    def quotes_at(inventory, left):
        return policy(MarketState(zero, inventory, zero, left, covariates))

    def advance(carry, index):
        mass, first, second = carry
        left = time_step * (episodes.n_steps - index)
        quotes = jax.vmap(quotes_at, (0, None))(q, left)
        bid, ask = market.fill_probabilities(quotes, time_step)
        moments = [jnp.zeros_like(mass)] * 3
        fills = jnp.zeros(2, mass.dtype)
        for outcome in step_outcomes(market, quotes, (bid, ask), q, time_step, market.drift):
            gain = outcome.gain
            carried = (mass, first + gain * mass, second + 2 * gain * first + gain**2 * mass)
            moments = [m + shifted(outcome.probability * x, outcome.shift) for m, x in zip(moments, carried)]
            hits = jnp.array([outcome.bid_hit, outcome.ask_hit], mass.dtype)
            fills = fills + jnp.sum(outcome.probability * mass) * hits
        mass = moments[0]
        return tuple(moments), (mass, fills, jnp.sum(mass * q**2))

    start = (jnp.where(q == 0, 1.0, 0.0) + zero, 0.0 * q + zero, 0.0 * q + zero)
    (_, first, second), (inventory, fills, squares) = jax.lax.scan(advance, start, jnp.arange(episodes.n_steps))
    known = (market.impact_recovery == 0) & (market.fee_rate == 0)
    mean = jnp.sum(first)
    variance = jnp.sum(second) - mean**2 + market.volatility**2 * time_step * jnp.sum(squares)
    # Quotes that always fill leave no variance: rounding must not make it negative, nor its root's slope infinite.
    is_random = variance > 0
    std = jnp.where(is_random, jnp.sqrt(jnp.where(is_random, variance, 1.0)), 0.0)
    mean, std = (jnp.where(known, x, jnp.nan) for x in (mean, std))
    total = jnp.sum(fills, axis=0)
    return EpisodeLaw(mean, std, total[0], total[1], inventory)


class StepOutcome(NamedTuple):
    """One of the four things that may happen to a bid and an ask of one lot within a step, at every inventory.

    Args:
        bid_hit, ask_hit: 1 or 0.
        probability: Of it.
        gain: Of P&L without the mid's noise: spread, fee, and what the inventory after the fills gains by drift and adverse moves.
    """

    bid_hit: int
    ask_hit: int
    probability: Float[Array, " inventory"]
    gain: Float[Array, " inventory"]

    @property
    def shift(self) -> int:
        """Change of the inventory (2)."""
        return self.bid_hit - self.ask_hit


def step_outcomes(
    market: PoissonMarket,
    quotes: Quotes,
    chances: tuple[Float[Array, " inventory"], Float[Array, " inventory"]],
    inventory: Float[Array, " inventory"],
    time_step: Float[Array, ""],
    drift: Float[Array, "*inventory"],
) -> list[StepOutcome]:
    """All four, for a bid and an ask that fill with these chances."""
    bid, ask = chances
    found = []
    for bid_hit in (0, 1):
        for ask_hit in (0, 1):
            probability = (bid if bid_hit else 1 - bid) * (ask if ask_hit else 1 - ask)
            move = drift * time_step + ask_hit * market.ask_adverse_selection - bid_hit * market.bid_adverse_selection
            gain = (
                bid_hit * quotes.bid_depth
                + ask_hit * quotes.ask_depth
                - (bid_hit + ask_hit) * market.maker_fee
                + (inventory + bid_hit - ask_hit) * move
            )
            found.append(StepOutcome(bid_hit, ask_hit, probability, gain))
    return found


def shifted(x: Float[Array, " inventory"], by: int) -> Float[Array, " inventory"]:
    """x moved by one inventory step; the quotes at the limits make the dropped entry zero."""
    if by == 0:
        return x
    return jnp.pad(x[:-1], (1, 0)) if by > 0 else jnp.pad(x[1:], (0, 1))
