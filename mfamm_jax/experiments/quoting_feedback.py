"""Closing the loop: adverse selection measured on the training part becomes a cost of the control problem.

The policy is replayed on the training part; how far the mid moved against its fills, side by side, is what a fill costs
beyond its depth. Solved again with that cost, the policy is replayed on the test part beside the one that does not know it.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.experiments.quoting_run import (
    Arrays,
    FillCosts,
    Plan,
    Prepared,
    build_policy,
    execution_rules,
    fee_costs,
)
from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.risk.adverse import AdverseSelection, adverse_selection
from mfamm_jax.simulation.replay import ReplayPath, replay

BLOCK_SECONDS = 60.0
MOST_BLOCKS = 24 * 60


class Feedback(Checked):
    """How adverse selection is measured."""

    horizon: float = static_field(
        default=5.0, lower=0.0, strict=True, unit="s", help="the mid this long after a fill against the mid before it"
    )
    share: Float[Array, ""] = real_field(
        default=1.0, lower=0.0, upper=2.0, help="share of the measured cost that enters the control problem"
    )


def measured(path: ReplayPath, seconds: Float[Array, " step"], horizon: float) -> dict[str, AdverseSelection]:
    """Adverse selection of each side's fills in a recorded replay; seconds count from its start."""
    later = seconds + jnp.asarray(horizon, seconds.dtype)
    row = jnp.searchsorted(seconds, later, side="right") - 1
    block = jnp.minimum(seconds / BLOCK_SECONDS, MOST_BLOCKS - 1).astype(jnp.int32)
    lots = path.fill if path.fill.ndim == 2 else jnp.sum(path.fill, axis=2)
    return {
        side: adverse_selection(
            sign, lots[:, column], path.fill_mid, path.mid[row], later <= seconds[-1], block, MOST_BLOCKS
        )
        for column, (side, sign) in enumerate((("bid", 1), ("ask", -1)))
    }


def feedback_stage(plan: Plan, experiment: Any, prepared: Prepared, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """Measures on the training part, solves again, and replays both policies on the test part."""
    rules = execution_rules(experiment)
    policy = results["_policy"]
    tape = prepared.training_tape
    training = replay(policy, tape, prepared.training_decisions, rules, record="path")
    assert training.path is not None
    found = measured(training.path, jnp.cumsum(tape.moment.seconds), experiment.feedback.horizon)
    fees, share = fee_costs(rules, prepared.tape), experiment.feedback.share
    # Without an error of the mean, nothing is known that could be charged.
    mean = {side: jnp.where(jnp.isfinite(part.error), part.mean, 0.0) for side, part in found.items()}
    costs = FillCosts(fees.bid + share * mean["bid"], fees.ask + share * mean["ask"])
    informed, ok = build_policy(experiment, plan, prepared, costs)
    after = replay(informed, prepared.tape, prepared.decisions, rules)
    return {
        "feedback": {
            "measured": {side: part._asdict() for side, part in found.items()},
            "training_pnl": training.pnl,
            "cost": {"bid": costs.bid, "ask": costs.ask},
            "fee": {"bid": fees.bid, "ask": fees.ask},
            "with": {name: getattr(after, name) for name in KEPT},
            "ok": ok,
        }
    }


KEPT = ("pnl", "capture", "revaluation", "fees", "bid_fills", "ask_fills", "max_inventory", "max_drawdown")


def feedback_table(metrics: dict[str, Any]) -> dict[str, Any]:
    """Test-part results without and with the measured costs, and the costs themselves."""
    feedback = metrics["feedback"]
    rows = [
        [label, *[float(part[name]) for name in KEPT]]
        for label, part in (("without", metrics["replay"]), ("with", feedback["with"]))
    ]
    notes = []
    for side in ("bid", "ask"):
        one, fee = feedback["measured"][side], float(feedback["fee"][side])
        low, high = (float(one["mean"]) + sign * 1.96 * float(one["error"]) for sign in (-1, 1))
        if not np.isfinite(low):
            notes.append(
                f"{side}: {int(one['n_fills'])} fills on the training part, too few to tell what they cost; fee per lot {fee:.4g} used alone."
            )
            continue
        notes.append(
            f"{side}: the mid moved {float(one['mean']):.4g} [price] against {int(one['n_fills'])} fills on the training part "
            f"(95 % interval {low:.4g} to {high:.4g}); fee per lot {fee:.4g}; cost used {float(feedback['cost'][side]):.4g}."
        )
    return {
        "title": "Replay of the test part without and with the measured adverse selection in the control problem",
        "header": ["adverse selection", *[name.replace("_", " ") for name in KEPT]],
        "rows": rows,
        "notes": [*notes, "One session is one sample: a difference here is an illustration, not evidence."],
    }
