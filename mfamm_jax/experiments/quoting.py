"""Experiment `quoting`: order flow in, optimal quotes, simulated and replayed fills, risk out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.experiments.experiment import AbstractExperiment, Stage
from mfamm_jax.experiments.fit import Calibration, calibrate_sides
from mfamm_jax.experiments.hjb_sweep import SchemeName, named_scheme
from mfamm_jax.experiments.observe import Features, Observed, intensity_rows, observe
from mfamm_jax.experiments.quoting_feedback import Feedback, feedback_stage
from mfamm_jax.experiments.quoting_metrics import quoting_metrics
from mfamm_jax.experiments.quoting_run import (
    HostReport,
    Plan,
    Prepared,
    build_policy,
    execution_rules,
    fee_costs,
    gradient_stage,
    poisson_market,
    reference_problem,
    replay_stage,
    session_provenance,
    simulate_stage,
    solve_stage,
    start_state,
)
from mfamm_jax.experiments.replay_log import fill_table, order_table
from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.market.events import Session
from mfamm_jax.market.facts import session_facts
from mfamm_jax.market.ladder import Ladder
from mfamm_jax.market.thinning import with_books
from mfamm_jax.policies import Covariates, QuoteRules, TableAxes, largest_problem
from mfamm_jax.policies.quotes import N_BOOK_FEATURES
from mfamm_jax.simulation.episode import Episodes, episode_law
from mfamm_jax.simulation.execution import ReplayConfig
from mfamm_jax.simulation.replay import replay
from mfamm_jax.simulation.tape import Tape, build_tape
from mfamm_jax.simulation.timeline import Timeline
from mfamm_jax.solvers.hjb import ExplicitRK, Grid, optimal_depths, rulebook_penalty, solve_hjb


class Control(Checked):
    """The control problem (1), (8)-(10) with intensities from the fit."""

    axes: TableAxes
    scheme: SchemeName = static_field(default="auto", source="(8)", help="how the HJB equation is integrated")
    risk_aversion: Float[Array, ""] = real_field(
        default=0.1, lower=0.0, unit="1/(price lot)", source="(1) gamma", help="weight of inventory risk"
    )
    terminal_penalty: Float[Array, ""] = real_field(
        default=1e-4, lower=0.0, unit="price/lot", source="(9) alpha", help="penalty on the final inventory squared"
    )
    fill_risk_aversion: Float[Array, ""] = real_field(
        default=0.0, lower=0.0, unit="1/price", help="CARA weight on single fills; 0 = the rulebook"
    )
    adverse_selection: Float[Array, ""] = real_field(
        default=0.0, unit="price", help="expected move of the mid against a fill"
    )
    decay_scale: Float[Array, ""] = real_field(
        default=1.0, lower=0.0, strict=True, help="multiplies the fitted decay with depth"
    )
    intensity_scale: Float[Array, ""] = real_field(
        default=1.0, lower=0.0, strict=True, help="multiplies the fitted fill rates"
    )
    min_depth: Float[Array, ""] = real_field(
        default=-jnp.inf, unit="price", source="set A", help="smallest depth; -inf = no limit"
    )
    max_depth: Float[Array, ""] = real_field(
        default=jnp.inf, unit="price", source="set A", help="largest depth; inf = no limit"
    )
    horizon: Float[Array, ""] = real_field(
        default=300.0, lower=0.0, strict=True, unit="s", source="(1) T", help="how far ahead the quotes look"
    )
    max_inventory: int = static_field(default=10, lower=1, unit="lots", help="largest position")
    n_steps: int = static_field(default=64, lower=1, help="rows of the value table in time")


class Execution(Checked):
    """How quotes become orders in the replay."""

    replay: ReplayConfig
    decision_interval: float = static_field(
        default=0.5, lower=0.0, strict=True, unit="s", help="time between decisions"
    )
    order_latency: float = static_field(default=0.001, lower=0.0, unit="s", help="from us to the exchange")
    response_latency: float = static_field(default=0.001, lower=0.0, unit="s", help="our fills, exchange to us")
    feed_latency: float = static_field(default=0.001, lower=0.0, unit="s", help="market data, exchange to us")


class Risk(Checked):
    """Risk numbers of the report."""

    tail_level: Float[Array, ""] = real_field(
        default=0.95, lower=0.5, upper=0.9999, source="(18) alpha", help="level of VaR and CVaR"
    )
    n_bootstrap: int = static_field(default=200, lower=10, help="bootstrap resamples of the CVaR interval")


def replay_part(
    session: Session,
    ladder: Ladder,
    observed: Observed,
    execution: Execution,
    start_ns: int | None,
    end_ns: int | None,
    decision_ns: np.ndarray | None = None,
) -> tuple[Tape, Covariates, np.ndarray, Timeline]:
    """A part of the session laid out for replay, the covariates known at each of its decisions, the events they are from, and when all that is.

    Decisions every `execution.decision_interval`, or at the times given.
    """
    tape, timeline = build_tape(
        session,
        decision_interval=execution.decision_interval if decision_ns is None else decision_ns,
        order_latency=execution.order_latency,
        response_latency=execution.response_latency,
        feed_latency=execution.feed_latency,
        start_ns=start_ns,
        end_ns=end_ns,
        reference_ticks=observed.reference_ticks,
        ladder=ladder,
    )
    row = np.maximum(timeline.feature_row, 0) + tape.first_row
    known = (observed.volatility[row], observed.vpin[row], observed.imbalance[row], observed.book_features[row])
    return tape, Covariates(*(jnp.asarray(x, jnp.result_type(float)) for x in known)), row, timeline


class PreparedSession(NamedTuple):
    """What the run needs, and what it was made from.

    Args:
        prepared: Arrays.
        observed: Covariates of the session.
        training_row, test_row: Events that the decisions of each part know of.
    """

    prepared: Prepared
    observed: Observed
    training_row: np.ndarray
    test_row: np.ndarray


def prepare_session(experiment: Any, folder: Path, seed: int, say: Callable[[str], None]) -> PreparedSession:
    """Loads a session, computes features, fits on the first half and lays out both halves for replay.

    Args:
        experiment: Has the tables `market`, `features`, `intensity` and `execution`.
        folder: Receives generated data.
        seed: Of generated data.
        say: Reports.
    """
    recorded, truth = experiment.market.load(folder, seed)
    return lay_out_session(experiment, recorded, truth, say)


def lay_out_session(
    experiment: Any, recorded: Session, truth: dict[str, Any] | None, say: Callable[[str], None]
) -> PreparedSession:
    """As `prepare_session`, for a session that is loaded already."""
    session, ladder = with_books(recorded)
    say(f"{session.name}: {len(recorded.updates):,} events")
    observed = observe(session, experiment.features)
    say(f"{len(observed.trades.t_ns):,} marketable orders, bucket volume {observed.bucket_volume:.0f}")
    bid, ask = calibrate_sides(intensity_rows(session, observed), experiment.intensity)
    split = observed.train_end_ns
    tape, decisions, test_row, timeline = replay_part(session, ladder, observed, experiment.execution, split, None)
    training = replay_part(session, ladder, observed, experiment.execution, None, split)
    training_tape, training_decisions, training_row, _ = training
    train = session.updates.t_ns < observed.train_end_ns
    reference = Covariates(
        float(np.median(observed.volatility[train])),
        float(np.mean(observed.vpin[train])),
        0.0,
        jnp.zeros(N_BOOK_FEATURES),
    )
    report = HostReport(
        session=session.name,
        clock=session.clock,
        source=session.source,
        notes=session.notes,
        facts=session_facts(recorded),
        truth=truth,
        bucket_volume=observed.bucket_volume,
        train_end_ns=observed.train_end_ns,
        tape_ns=timeline.tape_ns,
        epoch_ns=session.epoch_ns,
    )
    prepared = Prepared(
        bid=bid,
        ask=ask,
        reference=reference,
        tape=tape,
        decisions=decisions,
        training_tape=training_tape,
        training_decisions=training_decisions,
        tick_size=jnp.asarray(session.tick_size, jnp.result_type(float)),
        report=report,
        has_one_decay=experiment.intensity.common_decay,
    )
    return PreparedSession(prepared, observed, training_row, test_row)


class Quoting(AbstractExperiment):
    """The market maker end to end.

    Args:
        market: Source of order flow.
        features: How covariates are computed.
        intensity: How (3) is fitted.
        hjb: Control problem.
        quotes: Limits and gates.
        simulation: Poisson episodes.
        execution: Replay of recorded events.
        feedback: Measured adverse selection as a cost.
        risk: Risk numbers.
    """

    market: Checked
    features: Features
    intensity: Calibration
    hjb: Control
    quotes: QuoteRules
    simulation: Episodes
    execution: Execution
    feedback: Feedback
    risk: Risk

    @classmethod
    def prepared_paths(cls) -> tuple[str, ...]:
        """Tables used by `prepare`."""
        return ("market", "features", "intensity")

    def numbers_per_row(self) -> int:
        """A value table and a step matrix per node of the policy's axes."""
        size = 2 * self.hjb.max_inventory + 1
        nodes = self.hjb.axes.n_risk * self.hjb.axes.n_skew
        return nodes * (4 * (self.hjb.n_steps + 1) * size + 2 * size**2)

    def prepare(self, folder: Path, seed: int, say: Callable[[str], None], progress: Any = None) -> Prepared:
        """Loads, computes features, fits on the first half and lays out the second half for replay."""
        return prepare_session(self, folder, seed, say).prepared

    def plan(self, batch: Any, prepared: Prepared) -> tuple[Plan, str]:
        """One scheme that serves every row and every node of the table."""
        grid = Grid(self.hjb.max_inventory, self.hjb.n_steps)
        problems = jax.vmap(
            lambda e: largest_problem(
                reference_problem(e.hjb, prepared, fee_costs(e.execution.replay, prepared.tape)), e.hjb.axes
            )
        )(batch)
        scheme, reason = named_scheme(self.hjb.scheme, problems, grid)
        if isinstance(scheme, ExplicitRK):
            return (scheme, grid, ExplicitRK(2 * scheme.n_substeps)), reason
        reference = jax.vmap(
            lambda e: reference_problem(e.hjb, prepared, fee_costs(e.execution.replay, prepared.tape))
        )(batch)
        return (scheme, grid, named_scheme("explicit", reference, grid)[0]), reason

    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """Solve, simulate, replay, differentiate."""
        return [
            ("solve", lambda *args: solve_stage(plan, *args)),
            ("simulate", lambda *args: simulate_stage(plan, *args)),
            ("replay", lambda *args: replay_stage(plan, *args)),
            ("feedback", lambda *args: feedback_stage(plan, *args)),
            ("gradient", lambda *args: gradient_stage(plan, *args)),
        ]

    def metrics(self, plan: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
        """Everything the report prints."""
        return quoting_metrics(prepared, results)

    def logs(self, prepared: Prepared, results: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Orders and fills of the replayed policy."""
        path, report = results["replay"].path, prepared.report
        where = (prepared.tape, report["tape_ns"], report["epoch_ns"])
        return {"orders": order_table(path, *where), "fills": fill_table(path, *where)}

    def provenance(self, prepared: Prepared) -> dict[str, Any]:
        """Data files with their hashes, clock and loader notes."""
        return session_provenance(prepared.report)

    def row(self, plan: Any, prepared: Prepared, key: PRNGKeyArray) -> dict[str, Array]:
        """Quotes, exact expected P&L in the Poisson market and the replayed P&L."""
        policy, ok = build_policy(self, plan, prepared)
        neutral = policy(start_state(self.hjb, prepared))
        law = episode_law(
            policy, poisson_market(self, prepared), self.simulation, prepared.reference, self.hjb.max_inventory
        )
        result = replay(policy, prepared.tape, prepared.decisions, execution_rules(self))
        return {
            "half_spread": 0.5 * (neutral.bid_depth + neutral.ask_depth),
            "inventory_penalty": rulebook_penalty(self.hjb.risk_aversion, prepared.reference.volatility),
            "expected_pnl": law.mean,
            "pnl_std": law.std,
            "expected_fills": law.bid_fills + law.ask_fills,
            "replay_pnl": result.pnl,
            "replay_fills": result.bid_fills + result.ask_fills,
            "replay_drawdown": result.max_drawdown,
            "ok": ok,
        }

    def surface(self, plan: Any, prepared: Prepared, key: PRNGKeyArray) -> dict[str, Array]:
        """Value and quotes in the reference state with the whole horizon left."""
        scheme, grid, _ = plan
        problem = reference_problem(self.hjb, prepared, fee_costs(self.execution.replay, prepared.tape))
        table = solve_hjb(problem, scheme, grid).value
        bid, ask = optimal_depths(problem, table.relative_value[-1])
        return {"inventory": grid.inventory, "value": table.initial_value, "bid_depth": bid, "ask_depth": ask}
