"""The pure part of experiment `fpga_quote_kernel`: both policies on the same recorded events, order by order."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from mfamm_jax.experiments.signal_run import block_pnl
from mfamm_jax.fpga_export import ObservedError, QuantizedTable
from mfamm_jax.policies import AbstractPolicy
from mfamm_jax.risk import bootstrap_interval
from mfamm_jax.simulation.replay import ReplayResult, replay

NAMES = ("float", "kernel")
KEPT = ("pnl", "capture", "revaluation", "fees", "bid_fills", "ask_fills", "max_inventory", "max_drawdown", "rejected")


@dataclasses.dataclass(frozen=True)
class KernelOutcome:
    """What quantisation found; rides along in the report."""

    quantized: QuantizedTable
    errors: ObservedError


def run_policies(experiment: Any, prepared: Any) -> dict[str, ReplayResult]:
    """Both replays with their whole paths; the table's inventory limit holds at the exchange as well."""
    limit = jnp.asarray(experiment.table.max_inventory, prepared.tick_size.dtype)
    rules = eqx.tree_at(lambda c: c.max_inventory, experiment.execution.replay, limit)

    def run(policy: AbstractPolicy) -> ReplayResult:
        return replay(policy, prepared.tape, prepared.decisions, rules, record="path")

    return {"float": run(prepared.reference), "kernel": run(prepared.kernel)}


def compare_stage(experiment: Any, prepared: Any, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """Numbers of both, and the 95 % paired block-bootstrap interval of what the kernel makes more."""
    found = run_policies(experiment, prepared)
    settings = experiment.comparison
    blocks = {name: block_pnl(result.path, prepared, settings.block_seconds) for name, result in found.items()}
    more = blocks["kernel"] - blocks["float"]
    interval = bootstrap_interval(jnp.sum, more, settings.n_bootstrap, key)
    numbers = {name: {kept: getattr(result, kept) for kept in KEPT} for name, result in found.items()}
    at_decision = jnp.flatnonzero(prepared.tape.moment.action == 3, size=prepared.decisions.vpin.shape[0])
    values = {name: result.path.value[at_decision] for name, result in found.items()}
    seconds = jnp.cumsum(prepared.tape.moment.seconds)[at_decision]
    return {
        "both": numbers,
        "blocks": blocks,
        "values": values | {"seconds": seconds},
        "kernel_errors": prepared.errors,
        "difference": {"total": jnp.sum(more), "low": interval[0], "high": interval[1]},
        "paths": {name: result.path for name, result in found.items()},
    }


def summary(experiment: Any, prepared: Any, key: PRNGKeyArray) -> dict[str, Array]:
    """Scalars of a sweep row."""
    found = compare_stage(experiment, prepared, {}, key)
    row = {f"{name}_pnl": found["both"][name]["pnl"] for name in NAMES}
    row |= {f"gain_{end}": x for end, x in found["difference"].items()}
    return row | {"ok": jnp.all(jnp.isfinite(jnp.stack(jax.tree.leaves(row))))}


def order_logs(prepared: Any, results: dict[str, Any]) -> dict[str, np.ndarray]:
    """One row per decision and side: resting price, size, inventory and fills since of both policies."""
    action = np.asarray(prepared.tape.moment.action)
    at = np.flatnonzero(action == 3)
    log: dict[str, np.ndarray] = {
        "decision": np.repeat(np.arange(len(at)), 2),
        "side": np.tile(np.array(["bid", "ask"]), len(at)),
    }
    for name in NAMES:
        path = results["paths"][name]
        fills = np.add.reduceat(np.asarray(path.fill), at, axis=0) if len(at) else np.zeros((0, 2))
        log |= {
            f"{name}_ticks": np.asarray(path.order_ticks)[at].ravel(),
            f"{name}_size": np.asarray(path.order_size)[at].ravel(),
            f"{name}_inventory": np.repeat(np.asarray(path.inventory)[at], 2),
            f"{name}_lots": fills.ravel(),
        }
    return log


def agreement(log: dict[str, np.ndarray]) -> dict[str, Any]:
    """Order by order. Quotes are compared where both policies hold the same inventory: after a different fill they must differ."""
    both = (log["float_size"] > 0) & (log["kernel_size"] > 0)
    same = log["float_inventory"] == log["kernel_inventory"]
    apart = np.abs(log["float_ticks"] - log["kernel_ticks"])
    comparable = both & same
    n = max(int(comparable.sum()), 1)
    fills = log["float_lots"] > 0, log["kernel_lots"] > 0
    either = max(int((fills[0] | fills[1]).sum()), 1)
    return {
        "quotes": int(comparable.sum()),
        "same_inventory": float(same.mean()) if len(same) else 1.0,
        "same_price": float((comparable & (apart == 0)).sum() / n),
        "one_tick_apart": float((comparable & (apart == 1)).sum() / n),
        "further_apart": float((comparable & (apart > 1)).sum() / n),
        "same_fills": float((fills[0] & fills[1] & (log["float_lots"] == log["kernel_lots"])).sum() / either),
    }
