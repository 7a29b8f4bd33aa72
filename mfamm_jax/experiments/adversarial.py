"""Experiment `adversarial`: what the market, an opponent, a bad day or bad luck can do to a quoting policy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mfamm_jax.experiments.adversarial_days import Scenarios, draw_days, lay_out_days
from mfamm_jax.experiments.adversarial_flaws import FLAWS, flaw_names, stack_flaws
from mfamm_jax.experiments.adversarial_run import (
    days_stage,
    fuzz_stage,
    markets_stage,
    opponents_stage,
    replay_days,
    solve_stage,
    worst_game,
    worst_of,
)
from mfamm_jax.experiments.adversarial_tables import adversarial_metrics, worst_days
from mfamm_jax.experiments.experiment import AbstractExperiment, Stage
from mfamm_jax.experiments.fit import Calibration
from mfamm_jax.experiments.hjb_sweep import named_scheme
from mfamm_jax.experiments.observe import Features
from mfamm_jax.experiments.quoting import Control, Execution, lay_out_session
from mfamm_jax.experiments.quoting_run import (
    HostReport,
    build_policy,
    fee_costs,
    poisson_market,
    reference_problem,
    session_provenance,
)
from mfamm_jax.experiments.quoting_run import Prepared as PreparedQuotes
from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.market.thinning import level_messages, with_books
from mfamm_jax.policies import QuoteRules, largest_problem
from mfamm_jax.simulation.adversary import Ambiguity
from mfamm_jax.simulation.episode import Episodes, episode_law
from mfamm_jax.simulation.invariants import Fuzz
from mfamm_jax.simulation.padding import Replayable
from mfamm_jax.solvers.hjb import Grid


class Attack(Checked):
    """How worst markets are searched."""

    risk_weight: Float[Array, ""] = real_field(
        default=0.5, lower=0.0, help="standard deviations of P&L taken off its mean: what the adversary attacks"
    )
    n_starts: int = static_field(default=4, lower=1, help="descents, one from the fitted market")
    n_steps: int = static_field(default=60, lower=2, help="gradient steps of each")
    n_random: int = static_field(default=500, lower=1, help="random markets beside them")


class OpponentSettings(Checked):
    """What the opponent can do, and how it learns."""

    drift: Float[Array, ""] = real_field(
        default=0.1, lower=0.0, unit="volatility/sqrt(s)", help="largest push of the mid"
    )
    flow: Float[Array, ""] = real_field(default=0.3, lower=0.0, help="largest log factor on either side's fill rate")
    n_starts: int = static_field(default=4, lower=1, help="networks trained; the best counts")
    n_steps: int = static_field(default=200, lower=1, help="of Adam")
    n_hidden: int = static_field(default=16, lower=1, help="width of its network")


class Prepared(eqx.Module):
    """Arrays of the run that no swept parameter changes.

    Args:
        base: The recorded day: fits, conditions, replay.
        days: Test parts of all days, in one shape.
        n_steps: Of each day, without what only makes them equally long.
        report: Host facts.
    """

    base: PreparedQuotes
    days: Replayable
    n_steps: Int[Array, " day"]
    report: HostReport = eqx.field(static=True)


class Adversarial(AbstractExperiment):
    """A quoting policy under attack, with deliberately flawed ones beside it.

    Args:
        market: Source of order flow.
        features: How covariates are computed.
        intensity: How (3) is fitted.
        hjb: Control problem.
        quotes: Limits and gates.
        simulation: Length and steps of the episodes that worst markets and opponents play in.
        execution: Replay of the days.
        ambiguity: Markets that the data do not rule out.
        attack: How the worst of them is searched.
        opponent: The opponent's powers.
        scenarios: Bad days.
        fuzz: Fuzzed steps.
        flaws: Deliberate flaws.
    """

    market: Checked
    features: Features
    intensity: Calibration
    hjb: Control
    quotes: QuoteRules
    simulation: Episodes
    execution: Execution
    ambiguity: Ambiguity
    attack: Attack
    opponent: OpponentSettings
    scenarios: Scenarios
    fuzz: Fuzz
    flaws: str = static_field(
        default=", ".join(FLAWS), help='deliberately flawed policies that must be found, separated by commas; "" = none'
    )

    @property
    def flawed(self) -> tuple[str, ...]:
        """Names of the flaws."""
        return flaw_names(self.flaws)

    @classmethod
    def prepared_paths(cls) -> tuple[str, ...]:
        """Tables used by `prepare`."""
        return ("market", "features", "intensity", "execution", "scenarios")

    def numbers_per_row(self) -> int:
        """Value tables, and a worst market's path backwards."""
        size = 2 * self.hjb.max_inventory + 1
        nodes = self.hjb.axes.n_risk * self.hjb.axes.n_skew
        return nodes * (4 * (self.hjb.n_steps + 1) * size + 2 * size**2) + 60 * self.simulation.n_steps * size

    def prepare(self, folder: Path, seed: int, say: Callable[[str], None], progress: Any = None) -> Prepared:
        """Loads and fits the session, plants the bad days and lays all of them out for replay."""
        checked = self.flawed, self.scenarios.kinds  # before anything is loaded
        say(f"{len(checked[0])} flaws, {len(checked[1])} scenarios")
        recorded, truth = self.market.load(folder, seed)
        base = lay_out_session(self, recorded, truth, say)
        # Days are replayed as level feeds, which is what a planted one can be saved as; the recorded day must be comparable with them.
        shown, _ = with_books(recorded)
        n_levels = shown.books.n_levels
        session, _ = with_books(level_messages(shown), n_levels)
        days = draw_days(session, self.scenarios, base.observed.train_end_ns, seed)
        laid_out, n_steps = lay_out_days(self, days, n_levels, base.observed, say, progress)
        return Prepared(base.prepared, laid_out, jnp.asarray(n_steps, jnp.int32), HostReport(days=days))

    def plan(self, batch: Any, prepared: Prepared) -> tuple[Any, str]:
        """One scheme that serves every row and every node of the table."""
        grid = Grid(self.hjb.max_inventory, self.hjb.n_steps)
        base = prepared.base
        problems = eqx.filter_vmap(
            lambda e: largest_problem(
                reference_problem(e.hjb, base, fee_costs(e.execution.replay, base.tape)), e.hjb.axes
            )
        )(batch)
        scheme, reason = named_scheme(self.hjb.scheme, problems, grid)
        return (scheme, grid, None), reason

    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """Solve, then the four attacks."""
        stages = {
            "solve": solve_stage,
            "markets": markets_stage,
            "opponents": opponents_stage,
            "days": days_stage,
            "fuzz": fuzz_stage,
        }
        return [(name, lambda *args, stage=stage: stage(plan, *args)) for name, stage in stages.items()]

    def metrics(self, plan: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
        """Everything the report prints."""
        return adversarial_metrics(self, prepared, results)

    def kept(self, prepared: Prepared, results: dict[str, Any]) -> dict[str, Any]:
        """Everything, and which day was the worst of each scenario."""
        worst = worst_days(prepared.report["days"], np.asarray(results["days"]["pnl"])[:, 0])
        return results | {"worst_days": {name: np.asarray(number) for name, number in worst.items()}}

    def sessions(self, prepared: Prepared, results: dict[str, Any]) -> dict[str, Any]:
        """The worst day of every scenario for the policy as given."""
        days = prepared.report["days"]
        worst = worst_days(days, np.asarray(results["days"]["pnl"])[:, 0])
        return {f"worst_{name}": days[number].levels for name, number in worst.items()}

    def provenance(self, prepared: Prepared) -> dict[str, Any]:
        """Data files with their hashes, clock and loader notes."""
        return session_provenance(prepared.base.report)

    def row(self, plan: Any, prepared: Prepared, key: PRNGKeyArray) -> dict[str, Array]:
        """What the policy as given is worth, and what the worst market, the worst opponent and the worst day leave of it."""
        policy, ok = build_policy(self, plan, prepared.base)
        usual, limit = prepared.base.reference, self.hjb.max_inventory
        law = episode_law(policy, poisson_market(self, prepared.base), self.simulation, usual, limit)
        found = worst_of(self, prepared, policy)
        days, _, _ = replay_days(self, prepared, policy, stack_flaws((), self.hjb.horizon.dtype))
        return {
            "mean": law.mean,
            "std": law.std,
            "certainty_equivalent": found.nominal,
            "worst_market": found.value,
            "worst_opponent": worst_game(self, prepared, policy),
            "recorded_day": days["pnl"][0, 0],
            "worst_day": jnp.min(days["pnl"][:, 0]),
            "ok": ok,
        }
