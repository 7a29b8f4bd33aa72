"""What the whole strategy knows: which components are on, what was learned, where the clocks stand, and what it remembers."""

import dataclasses
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mfamm_jax.models.hyperbolic import AllocationNetwork
from mfamm_jax.models.loss_flow import ConditionalLossFlow
from mfamm_jax.policies import AbstractPolicy, Covariates
from mfamm_jax.policies.routing import Venues
from mfamm_jax.solvers.allocation_training import AllocationTask
from mfamm_jax.solvers.mean_reversion import Reversion
from mfamm_jax.solvers.qaoa import Angles


class Components(eqx.Module):
    """Weights of the components, 0 = off, 1 = on.

    Args:
        control: Quotes of the HJB equation; off = one half spread, whatever the inventory.
        imbalance: In the intensities (3).
        toxicity: VPIN, in the intensities and at the gate.
        arbitrage: The pair trade.
        allocation: Capital by the network; off = equal shares.
        tail_risk: CVaR limit.
        drawdown: Drawdown limit.
        schedule: Transport schedule; off = all at once.
        routing: Chosen venues; off = all of them in proportion to their capacities.
    """

    control: Float[Array, ""]
    imbalance: Float[Array, ""]
    toxicity: Float[Array, ""]
    arbitrage: Float[Array, ""]
    allocation: Float[Array, ""]
    tail_risk: Float[Array, ""]
    drawdown: Float[Array, ""]
    schedule: Float[Array, ""]
    routing: Float[Array, ""]


COMPONENTS = tuple(Components.__annotations__)


def components(*without: str, only: tuple[str, ...] = COMPONENTS) -> Components:
    """All on, or `only` those, `without` some."""
    unknown = {*without, *only} - set(COMPONENTS)
    if unknown:
        raise ValueError(f"no component {', '.join(sorted(unknown))}; expected some of {', '.join(COMPONENTS)}")
    real = jnp.result_type(float)
    return Components(**{name: jnp.asarray(float(name in only and name not in without), real) for name in COMPONENTS})


class Model(eqx.Module):
    """What was learned before the session.

    Args:
        policies: HJB value tables, by asset; the quote rules come after the mixture with the baseline.
        symmetric: Their baseline.
        reference: Average conditions.
        persistence: What is left, on average over the next interval, of an imbalance and of every book feature seen now; by asset.
        weights: Combination of prices that reverts, its largest entry 1.
        reversion: Of it, as long as the window is not full.
        half_spreads: Average of each asset [price].
        variance: Of each asset's price per interval [price^2].
        impact: Immediate impact of a lot of each asset on each other's price (Kyle) [price/lot].
        network, task: Of the allocation.
        flow: Loss of an interval given `risk_factors` [price lot].
        value_at_risk, cvar: Of an interval on average [price lot].
        deviation: Of an interval's P&L [price lot].
        venues, angles: Of the router.
    """

    policies: tuple[AbstractPolicy, ...]
    symmetric: tuple[AbstractPolicy, ...]
    reference: tuple[Covariates, ...]
    persistence: Float[Array, "asset feature"]
    weights: Float[Array, " asset"]
    reversion: Reversion
    half_spreads: Float[Array, " asset"]
    variance: Float[Array, " asset"]
    impact: Float[Array, "asset asset"]
    network: AllocationNetwork | None
    task: AllocationTask | None
    flow: ConditionalLossFlow | None
    value_at_risk: Float[Array, ""]
    cvar: Float[Array, ""]
    deviation: Float[Array, ""]
    venues: Venues
    angles: Angles


class Clock(eqx.Module):
    """Where each decision stands in the intervals.

    Args:
        starts: Whether it is the first one after an interval ended.
        slot: Slot of its interval.
        seconds: Since the decision before [s].
        intervals_left: From the interval it lies in to the end, itself included.
        number: Of the interval.
        half_spread: Shown at the decision, by asset [price].
        is_shown: Whether the decision sees both sides of an asset's book.
        n_intervals: In all.
    """

    starts: Bool[Array, " decision"]
    slot: Int[Array, " decision"]
    seconds: Float[Array, " decision"]
    intervals_left: Float[Array, " decision"]
    number: Int[Array, " decision"]
    half_spread: Float[Array, "decision asset"]
    is_shown: Bool[Array, "decision asset"]
    n_intervals: int = eqx.field(static=True)


def stack_clocks(clocks: Sequence[Clock]) -> Clock:
    """Of several sessions, as `stack_replays` stacks the rest: decisions that never come are copies of the last one and start nothing."""
    n = max(clock.starts.shape[0] for clock in clocks)

    def longer(x: Array) -> Array:
        return jnp.concatenate([x, jnp.broadcast_to(x[-1:], (n - x.shape[0], *x.shape[1:]))])

    padded = []
    for clock in clocks:
        full = jax.tree.map(longer, clock)
        starts = full.starts & (jnp.arange(n) < clock.starts.shape[0])
        padded.append(dataclasses.replace(full, starts=starts))
    return jax.tree.map(lambda *x: jnp.stack(x), *padded)


class Memory(eqx.Module):
    """What the strategy remembers. Strategies are the quotes of each asset, the pair trade and cash.

    Args:
        seen: What the last decision knew: mids, worth of every strategy, conditions.
        worth: Of every strategy when the last interval ended [price lot].
        averages: Of past P&L, for the network.
        residuals: Latest ones, oldest first; n_residuals of them are real.
        side, is_stopped: Of the pair trade.
        capital: Of every strategy, 1 = an equal share.
        scale: Of all sizes, from the two risk limits.
        position: Held by the pair trade [lots].
        cash: Paid and received by it [price lot].
        due: Of this interval's order by the end of each slot [lots].
        sent: Of it so far [lots].
        split: Of every asset's order over the venues.
        fixed: Cost of using them, charged with the first child [price lot].
        disturbance: Impact that has not decayed, by term of the kernel [price].
        half_spread_cost, impact_cost, venue_cost: Paid by the pair trade [price lot].
        fingerprint: Of all orders so far.
        totals: Worth of everything when each interval ended, the last one known after that [price lot].
    """

    seen: dict[str, Array]
    worth: Float[Array, " strategy"]
    averages: Float[Array, "strategy memory"]
    residuals: Float[Array, " window"]
    n_residuals: Int[Array, ""]
    side: Float[Array, ""]
    is_stopped: Bool[Array, ""]
    capital: Float[Array, " strategy"]
    scale: Float[Array, " limit"]
    position: Float[Array, " asset"]
    cash: Float[Array, ""]
    due: Float[Array, "slot asset"]
    sent: Float[Array, " asset"]
    split: Float[Array, "asset venue"]
    fixed: Float[Array, " asset"]
    disturbance: Float[Array, "term asset"]
    half_spread_cost: Float[Array, ""]
    impact_cost: Float[Array, ""]
    venue_cost: Float[Array, ""]
    fingerprint: Array
    totals: Float[Array, " interval"]
