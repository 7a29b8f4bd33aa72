"""The pure part of experiment `mfamm`: from recordings to a model, and from the model to sessions with every component on and off."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.experiments.cointegration_run import estimate
from mfamm_jax.experiments.mfamm_state import COMPONENTS, Clock, Components, Memory, Model, components
from mfamm_jax.experiments.mfamm_strategy import WholeStrategy, standardised
from mfamm_jax.experiments.quoting_run import build_policy, execution_rules, fee_costs, start_state
from mfamm_jax.models.hyperbolic import first_network
from mfamm_jax.policies import Covariates, SymmetricPolicy
from mfamm_jax.policies.routing import every_route, finite_costs
from mfamm_jax.results import RESULTS
from mfamm_jax.risk import loss_tail_risk, max_drawdown, quadrature_tail_risk
from mfamm_jax.simulation.replay import StrategyResult, replay_strategy
from mfamm_jax.solvers.allocation_training import MEMORIES, AllocationTask, train_pathwise
from mfamm_jax.solvers.flow_fit import fit_conditional_flow
from mfamm_jax.solvers.mean_reversion import fit_reversion
from mfamm_jax.solvers.qaoa import optimise_angles, ramp_starts
from mfamm_jax.solvers.transport_execution import kyle_matrix

Arrays = dict[str, Any]
# What the rehearsal trades with: what is learned from it is off.
REHEARSED = tuple(name for name in COMPONENTS if name not in ("allocation", "tail_risk", "drawdown"))
# Cash earns nothing; the network's features and reward need a deviation for it.
CASH_DEVIATION = 0.05


def variants() -> tuple[tuple[str, ...], Components]:
    """Names, and weights along the first axis: everything, everything but one, nothing."""
    names = ("full", *(f"without {name}" for name in COMPONENTS), "none")
    each = [components(), *(components(name) for name in COMPONENTS), components(only=())]
    return names, jax.tree.map(lambda *x: jnp.stack(x), *each)


def tables_stage(plan: Any, experiment: Any, prepared: Any, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """Value tables of every asset, and the combination of prices that reverts, from prices at the ends of intervals."""
    policies, symmetric, solved = [], [], []
    for fit, tape in zip(prepared.fits, prepared.training.tapes, strict=True):
        policy, ok = build_policy(experiment, plan, fit, fee_costs(experiment.execution.replay, tape))
        neutral = policy(start_state(experiment.hjb, fit))
        half_spread = 0.5 * (neutral.bid_depth + neutral.ask_depth)
        limit = jnp.asarray(experiment.hjb.max_inventory, half_spread.dtype)
        policies.append(policy.policy)  # the rules come after the mixture
        symmetric.append(SymmetricPolicy(half_spread, limit))
        solved.append(ok)
    levels = interval_mids(prepared.training)
    rule = experiment.arbitrage
    scales = tuple(rule.smallest_scale * 2.0**k for k in range(rule.n_scales))
    found = estimate(levels, scales, rule.edge, 1, jnp.arange(levels.shape[1])[None])
    weights = found.common[0]
    reversion = fit_reversion(levels @ weights)
    change = jnp.diff(levels, axis=0)
    covariance = change.T @ change / change.shape[0]
    n = levels.shape[1]
    rho = experiment.rebalancing.flow_correlation
    flow = (1 - rho) * jnp.eye(n, dtype=levels.dtype) + rho
    matrix = kyle_matrix(flow, covariance / jnp.mean(jnp.diag(covariance)))
    impact = experiment.rebalancing.impact * matrix / jnp.mean(jnp.diag(matrix))
    half_spreads = jnp.mean(prepared.training.clock.half_spread, axis=0)
    typical = jnp.maximum(experiment.arbitrage.lots, experiment.execution.replay.size_increment)
    costs = standardised(finite_costs(every_route(prepared.venues, typical), prepared.venues, typical))
    circuit = experiment.circuit
    starts = ramp_starts(costs, circuit.n_layers, circuit.n_starts)
    angles = optimise_angles(costs, starts, max_iterations=circuit.max_iterations)
    nothing = jnp.zeros((), levels.dtype)
    model = Model(
        policies=tuple(policies),
        symmetric=tuple(symmetric),
        reference=tuple(fit.reference for fit in prepared.fits),
        persistence=jnp.stack([persistence(c, prepared.training.clock) for c in prepared.training.covariates]),
        weights=weights,
        reversion=reversion.value,
        half_spreads=half_spreads,
        variance=jnp.diag(covariance),
        impact=impact,
        network=None,
        task=None,
        flow=None,
        value_at_risk=nothing,
        cvar=nothing + 1,
        deviation=nothing,
        venues=prepared.venues,
        angles=angles.value,
    )
    relation = {
        "weights": weights,
        "ratio": found.ratio[0],
        "levels": levels,
        "residual": levels @ weights,
        "mean": reversion.value.mean,
        "half_life": reversion.value.half_life * experiment.clock.interval,
        "deviation": reversion.value.deviation,
        "reverts": reversion.result == RESULTS.successful,
        "half_spreads": half_spreads,
        "impact": impact,
        "persistence": model.persistence,
        "angles_converged": angles.result == RESULTS.successful,
    }
    return {"relation": relation, "tables_ok": jnp.all(jnp.stack(solved)), "_model": model}


def interval_mids(traded: Any) -> Float[Array, "interval asset"]:
    """Prices at the last decision of every interval."""
    return jnp.stack([tape.decision_mid for tape in traded.tapes], axis=1)[last_of_intervals(traded.clock)]


def last_of_intervals(clock: Clock) -> Array:
    """Last decision of every interval, or of the one before where it has none."""
    return jnp.maximum(jnp.searchsorted(clock.number, jnp.arange(clock.n_intervals), side="right") - 1, 0)


def persistence(covariates: Covariates, clock: Clock) -> Float[Array, " feature"]:
    """Slope of the mean over the next interval on what is seen now, of the imbalance and of the book features; between 0 and 1."""
    seen = jnp.concatenate([covariates.imbalance[:, None], covariates.book_features], axis=1)
    n = seen.shape[0]
    ahead = max(n // clock.n_intervals, 1)  # decisions of an interval
    sums = jnp.concatenate([jnp.zeros_like(seen[:1]), jnp.cumsum(seen, axis=0)])
    later = (sums[ahead + 1 :] - sums[1:-ahead]) / ahead
    now = seen[: n - ahead]
    away, then = now - jnp.mean(now, axis=0), later - jnp.mean(later, axis=0)
    variance = jnp.sum(away**2, axis=0)
    slope = jnp.sum(away * then, axis=0) / jnp.where(variance > 0, variance, 1.0)
    return jnp.clip(slope, 0.0, 1.0)


def trade(
    experiment: Any,
    prepared: Any,
    traded: Any,
    model: Model,
    weights: Components,
    key: PRNGKeyArray,
    record: Any = "summary",
) -> StrategyResult:
    """One session with some components."""
    offset = jnp.stack(
        [tape.reference_price - first.reference_price for tape, first in zip(traded.tapes, prepared.training.tapes)]
    )
    rules = execution_rules(experiment)
    strategy = WholeStrategy(
        experiment, model, weights, traded.clock, prepared.tick_size, offset, rules.size_increment, key
    )
    configs = (rules,) * len(traded.tapes)
    return replay_strategy(
        strategy, strategy.start(), traded.tapes, traded.moment, traded.covariates, configs, record=record
    )


def parts_of(result: StrategyResult) -> dict[str, Array]:
    """Where the money came from; they add up to the total."""
    memory: Memory = result.memory
    capture, revaluation, fees = (
        jnp.sum(jnp.stack([getattr(r, name) for r in result.instruments]))
        for name in ("capture", "revaluation", "fees")
    )
    pair = memory.cash + memory.position @ memory.seen["mid"]
    costs = memory.half_spread_cost + memory.impact_cost + memory.venue_cost
    return {
        "capture": capture,
        "revaluation": revaluation,
        "fees": -fees,
        "pair": pair,
        "pair revaluation": pair + costs,
        "pair half spreads": -memory.half_spread_cost,
        "pair impact": -memory.impact_cost,
        "pair venues": -memory.venue_cost,
    }


def rehearse_stage(experiment: Any, prepared: Any, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """The training session without what is to be learned from it: P&L of every strategy and conditions, by interval."""
    model = results["_model"]
    found = trade(experiment, prepared, prepared.training, model, components(only=REHEARSED), key, "path")
    rows = last_of_intervals(prepared.training.clock)
    worth, factors = found.said["worth"][rows], found.said["factors"][rows]
    pnl = jnp.diff(worth, axis=0, prepend=jnp.zeros_like(worth[:1]))
    return {"rehearsal": {"pnl": pnl, "factors": factors, "position": found.said["position"][rows]}}


def learn_stage(experiment: Any, prepared: Any, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """The network that distributes capital, and the law of an interval's loss given conditions at its start."""
    model, pnl, factors = results["_model"], results["rehearsal"]["pnl"], results["rehearsal"]["factors"]
    settings, shape = experiment.learning, experiment.network
    k = pnl.shape[1]
    own = jnp.std(pnl, axis=0)
    unit = jnp.mean(own[:-1])
    floor = CASH_DEVIATION * unit
    deviation = jnp.maximum(own, floor)
    history = pnl / unit
    covariance = jnp.cov(history.T) + jnp.diag(jnp.where(own < floor, CASH_DEVIATION**2, 1e-6))
    correlation = covariance / jnp.sqrt(jnp.diag(covariance)[:, None] * jnp.diag(covariance))
    edges = (jnp.abs(correlation) >= shape.edge_threshold) & ~jnp.eye(k, dtype=bool)
    task = AllocationTask(
        jnp.eye(k, dtype=pnl.dtype),
        covariance,
        experiment.reward.risk_weight,
        experiment.reward.divergence_weight,
        deviation / unit,
        edges,
        experiment.reward.risk,
        settings.n_steps // 4,
    )
    begin, steps, flow_key = jax.random.split(key, 3)
    network = first_network(
        begin,
        n_nodes=k,
        n_features=k + len(MEMORIES),
        dim=shape.dim,
        n_layers=shape.n_layers,
        curvature=shape.curvature,
        mean=shape.mean,
    )

    def windows(draw: PRNGKeyArray) -> Array:
        starts = jax.random.randint(draw, (settings.n_paths,), 0, history.shape[0] - settings.n_steps + 1)
        return jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(history, start, settings.n_steps))(starts)

    network, rewards = train_pathwise(
        network, task, windows, steps, n_updates=settings.n_updates, learning_rate=settings.learning_rate
    )
    shares = task.shares(network, history)
    task = eqx.tree_at(lambda t: t.scale, task, deviation)  # from here on in money
    losses = -jnp.sum(pnl, axis=1)
    level = experiment.limits.tail_level
    # Conditions at the start of an interval are those at the end of the one before.
    flow = fit_conditional_flow(losses[1:], factors[:-1], flow_key, width=8)
    average = loss_tail_risk(losses, level)
    known = {"value_at_risk": average.value_at_risk, "cvar": average.cvar, "deviation": jnp.std(losses)}
    model = eqx.tree_at(
        lambda m: (m.network, m.task, m.flow, m.value_at_risk, m.cvar, m.deviation),
        model,
        (network, task, flow.value, *known.values()),
        is_leaf=lambda x: x is None,
    )
    # The law of the calmest and the wildest conditions of the rehearsal must give numbers.
    ends = [jnp.min(factors, axis=0), jnp.mean(factors, axis=0), jnp.max(factors, axis=0)]
    told = [quadrature_tail_risk(flow.value.at(x).survival_quantile, level).cvar for x in ends]
    known_law = jnp.all(jnp.isfinite(jnp.stack(told)))
    learned = {
        "flow_converged": flow.result == RESULTS.successful,
        "rewards": rewards,
        "shares": shares,
        **known,
        "held_out": flow.stats["held_out_log_density"],
    }
    positive = (average.value_at_risk > 0) & jnp.isfinite(average.cvar)
    ok = results["tables_ok"] & results["relation"]["reverts"] & positive & known_law & jnp.all(jnp.isfinite(rewards))
    return {"learned": learned | {"ok": ok}, "_model": model}


def trade_stage(experiment: Any, prepared: Any, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """The full strategy on the first test session, with everything that it said."""
    first = jax.tree.map(lambda x: x[0], prepared.tests)
    found = trade(experiment, prepared, first, results["_model"], components(), key, "path")
    seconds = jnp.cumsum(first.clock.seconds)
    paths = tuple(result.path for result in found.instruments)  # for the logs
    return {"trade": {**found.said, "seconds": seconds, "parts": parts_of(found)}, "_paths": paths}


def ablate_stage(
    experiment: Any, prepared: Any, results: Arrays, key: PRNGKeyArray, *, only_full: bool = False
) -> Arrays:
    """Every test session with everything, with everything but one component, and with nothing; paired by session."""
    model, weights = results["_model"], variants()[1]
    if only_full:
        weights = jax.tree.map(lambda x: x[:1], weights)

    def session(traded: Any) -> dict[str, Any]:
        def one(chosen: Components) -> dict[str, Any]:
            found = trade(experiment, prepared, traded, model, chosen, key)
            parts = parts_of(found)
            pnl = sum(r.pnl for r in found.instruments) + parts["pair"]
            totals = found.memory.totals.at[-1].set(pnl)
            return {
                "pnl": pnl,
                "parts": parts,
                "totals": totals,
                "max_drawdown": max_drawdown(totals),
                "fills": sum(r.n_bid_fills + r.n_ask_fills for r in found.instruments),
                "fingerprint": found.memory.fingerprint,
                "largest_inventory": jnp.max(jnp.stack([r.max_inventory for r in found.instruments])),
                "residual": pnl - sum(r.capture + r.revaluation - r.fees for r in found.instruments) - parts["pair"],
            }

        return jax.vmap(one)(weights)

    return {"ablation": jax.lax.map(session, prepared.tests)}
