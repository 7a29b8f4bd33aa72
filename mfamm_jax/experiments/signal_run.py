"""The pure part of experiment `signal_quotes`: regime tables, replays of every policy, and paired differences.

All policies are one program with other numbers: one that does not listen to a signal has the same parameters in all of its regimes.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mfamm_jax.experiments.quoting_run import Arrays, execution_rules, fee_costs
from mfamm_jax.models.intensity import ExponentialIntensity
from mfamm_jax.policies import AbstractPolicy, RuledPolicy
from mfamm_jax.policies.regime_table import RegimeMap, at_risk, tabulate_regimes
from mfamm_jax.results import RESULTS
from mfamm_jax.risk import bootstrap_interval
from mfamm_jax.simulation.replay import ReplayPath, replay
from mfamm_jax.solvers.hjb import AbstractScheme, Grid, HJBProblem, choose_scheme, optimal_depths, rulebook_penalty
from mfamm_jax.solvers.hjb.states import RegimeProblem

# Which signals split the regimes, and whether the gates hold. The first one is the base of comparison.
POLICIES: dict[str, tuple[dict[str, bool], bool]] = {
    "without": ({"uses_imbalance": False, "uses_vpin": False}, False),
    "gates": ({"uses_imbalance": False, "uses_vpin": False}, True),
    "imbalance": ({"uses_imbalance": True, "uses_vpin": False}, False),
    "imbalance_vpin": ({"uses_imbalance": True, "uses_vpin": True}, False),
    "imbalance_vpin_gates": ({"uses_imbalance": True, "uses_vpin": True}, True),
}
KEPT = ("pnl", "capture", "revaluation", "fees", "bid_fills", "ask_fills", "max_inventory", "max_drawdown")
Plan = tuple[AbstractScheme, Grid]


def regime_map(experiment: Any) -> RegimeMap:
    """The finest map, which serves every policy."""
    return RegimeMap(experiment.signal.imbalance, experiment.signal.vpin)


def choose_plan(batch: Any, prepared: Any) -> tuple[Plan, str]:
    """One scheme that serves every row, every policy and every node of the risk axis."""
    grid = Grid(batch.hjb.max_inventory, batch.hjb.n_steps)

    def largest(experiment: Any, found: dict[str, Array]) -> RegimeProblem:
        problem = at_risk(regime_problem(experiment, prepared, found), experiment.hjb.risk[-1])
        n = found["drift"].shape[0]
        wide = jax.tree.map(lambda x: jnp.broadcast_to(x, (n,)), problem.regimes)
        return eqx.tree_at(lambda p: p.regimes, problem, wide)

    every = jax.vmap(jax.vmap(largest, (None, 0)), (0, None))
    scheme, reason = choose_scheme(every(batch, prepared.regimes), grid)
    return (scheme, grid), reason


def regime_problem(experiment: Any, prepared: Any, found: dict[str, Array]) -> RegimeProblem:
    """The control problem of one policy at the reference volatility."""
    control = experiment.hjb
    fees = fee_costs(experiment.execution.replay, prepared.tape)
    return RegimeProblem(  # pyrefly: ignore[missing-argument]
        regimes=HJBProblem(
            bid=ExponentialIntensity(found["bid_scale"], prepared.decay),
            ask=ExponentialIntensity(found["ask_scale"], prepared.decay),
            inventory_penalty=rulebook_penalty(control.risk_aversion, prepared.volatility),
            terminal_penalty=control.terminal_penalty,
            horizon=control.horizon,
            drift=control.drift_share * found["drift"],
            bid_adverse_selection=control.adverse_selection + fees.bid,
            ask_adverse_selection=control.adverse_selection + fees.ask,
            fill_risk_aversion=control.fill_risk_aversion,
        ),
        generator=found["generator"],
    )


def build_policy(
    plan: Plan, experiment: Any, prepared: Any, found: dict[str, Array], has_gates: Bool[Array, ""]
) -> tuple[AbstractPolicy, Array]:
    """One policy inside its rules, and whether every node was solved."""
    solution = tabulate_regimes(
        regime_problem(experiment, prepared, found),
        *plan,
        regime_map(experiment),
        risk=experiment.hjb.risk,
        risk_aversion=experiment.hjb.risk_aversion,
    )
    rules = experiment.quotes
    sizes = tuple(jnp.where(has_gates, x, 1.0) for x in (rules.vpin_reduced_size, rules.imbalance_reduced_size))
    rules = eqx.tree_at(lambda r: (r.vpin_reduced_size, r.imbalance_reduced_size), rules, sizes)
    return RuledPolicy(solution.value, rules), jnp.all(solution.result == RESULTS.successful)


def build_policies(plan: Plan, experiment: Any, prepared: Any) -> tuple[AbstractPolicy, Bool[Array, " policy"]]:
    """All of them, stacked in the order of `POLICIES`."""
    has_gates = jnp.array([gates for _, gates in POLICIES.values()])
    return jax.vmap(lambda found, gates: build_policy(plan, experiment, prepared, found, gates))(
        prepared.regimes, has_gates
    )


def solve_stage(plan: Plan, experiment: Any, prepared: Any, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """Quotes at the reference volatility with the whole horizon left, per policy, inventory and regime."""
    scheme, grid = plan

    def depths(found: dict[str, Array]) -> tuple[Array, Array, Array]:
        problem = regime_problem(experiment, prepared, found)
        solution = scheme.solve(problem, grid)
        bid, ask = optimal_depths(problem.regimes, solution.value.relative_value[-1], axis=0)
        return bid, ask, solution.result == RESULTS.successful

    bid, ask, ok = jax.vmap(depths)(prepared.regimes)
    return {"regimes": {"inventory": grid.inventory, "bid_depth": bid, "ask_depth": ask, "ok": jnp.all(ok)}}


def block_pnl(path: ReplayPath, prepared: Any, block_seconds: float) -> Float[Array, " block"]:
    """P&L per block of time; the last one takes the rest."""
    seconds = jnp.cumsum(prepared.tape.moment.seconds)
    edges = block_seconds * jnp.arange(1, prepared.n_blocks, dtype=seconds.dtype)
    last = jnp.searchsorted(seconds, edges, side="right") - 1
    value = jnp.concatenate([jnp.where(last >= 0, path.value[jnp.maximum(last, 0)], 0.0), path.value[-1:]])
    return jnp.diff(value, prepend=0.0)


def compare_stage(plan: Plan, experiment: Any, prepared: Any, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """Every policy on the same events, and 95 % paired block-bootstrap intervals of what it makes more than the first."""
    policies, ok = build_policies(plan, experiment, prepared)
    rules, settings = execution_rules(experiment), experiment.comparison

    def one(policy: AbstractPolicy) -> Arrays:
        result = replay(policy, prepared.tape, prepared.decisions, rules, record="path")
        assert result.path is not None
        blocks = block_pnl(result.path, prepared, settings.block_seconds)
        return {name: getattr(result, name) for name in KEPT} | {"blocks": blocks}

    found = jax.vmap(one)(policies)
    more = found["blocks"] - found["blocks"][0]
    interval = jax.vmap(lambda x: bootstrap_interval(jnp.sum, x, settings.n_bootstrap, key))(more)
    seen = regime_map(experiment).of(prepared.decisions)
    n = prepared.regimes["drift"].shape[-1]
    return {
        "policies": found | {"ok": ok & jnp.isfinite(found["pnl"])},
        "gain": {"total": jnp.sum(more, axis=1), "low": interval[:, 0], "high": interval[:, 1]},
        "share_of_decisions": jnp.mean((seen[:, None] == jnp.arange(n)).astype(more.dtype), axis=0),
    }


def summary(plan: Plan, experiment: Any, prepared: Any, key: PRNGKeyArray) -> dict[str, Array]:
    """Scalars of a sweep row."""
    compared = compare_stage(plan, experiment, prepared, {}, key)
    names = list(POLICIES)
    row = {f"{name}_pnl": compared["policies"]["pnl"][i] for i, name in enumerate(names)}
    row |= {f"{name}_gain": compared["gain"]["total"][i] for i, name in enumerate(names) if i}
    row |= {f"gain_{end}": compared["gain"][end][-1] for end in ("low", "high")}
    return row | {"ok": jnp.all(compared["policies"]["ok"])}
