"""Experiment `replay`: one quoting rule, or a thousand, against a recorded session with latency, queue and fees."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.experiments.experiment import AbstractExperiment, Stage
from mfamm_jax.experiments.quoting_run import HostReport, session_provenance
from mfamm_jax.experiments.replay_log import fill_table, order_table
from mfamm_jax.experiments.replay_tables import MARKOUT_SECONDS, replay_metrics
from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.market.facts import session_facts
from mfamm_jax.market.loaders.latencies import load_latencies
from mfamm_jax.policies import Covariates, SkewedPolicy
from mfamm_jax.policies.quotes import N_BOOK_FEATURES
from mfamm_jax.simulation.execution import ReplayConfig
from mfamm_jax.simulation.latency import AbstractLatency, ConstantLatency, RandomLatency, RecordedLatency
from mfamm_jax.simulation.replay import ReplayResult, replay
from mfamm_jax.simulation.tape import Tape, build_tape


class Rule(Checked):
    """Quotes at a half spread around the mid, shifted against the inventory."""

    half_spread: Float[Array, ""] = real_field(default=5.0, unit="ticks", help="distance of both quotes from the mid")
    skew: Float[Array, ""] = real_field(
        default=0.5, lower=0.0, unit="ticks/lot", help="shift of both quotes for each lot held"
    )
    size: Float[Array, ""] = real_field(default=1.0, lower=0.0, strict=True, unit="lots", help="of every order")
    max_inventory: Float[Array, ""] = real_field(
        default=10.0,
        lower=0.0,
        unit="lots",
        help="a side stops quoting at it; orders on their way may exceed it, but not exchange.max_inventory",
    )


class Timing(Checked):
    """When decisions are made and how long messages take."""

    decision_interval: float = static_field(
        default=0.1, lower=0.0, unit="s", help="between decisions; 0 = at every event received"
    )
    order_latency: float = static_field(default=0.01, lower=0.0, unit="s", help="from us to the exchange")
    response_latency: float = static_field(default=0.01, lower=0.0, unit="s", help="our fills, exchange to us")
    feed_latency: float = static_field(
        default=0.0, lower=0.0, unit="s", help="market data, exchange to us, on top of recorded times of receipt"
    )
    latency_spread: float = static_field(
        default=0.0, lower=0.0, upper=5.0, help="standard deviation of the logarithm of random latencies; 0 = constant"
    )
    latency_file: str | None = static_field(
        default=None, help="measured latencies (req_ts, exch_ts, resp_ts); replaces the order and response latency"
    )
    depth_ticks: int = static_field(
        default=1000, lower=1, unit="ticks", help="how far from the market queues are followed"
    )
    start: float | None = static_field(default=None, lower=0.0, unit="s after midnight", help="unset = first event")
    end: float | None = static_field(default=None, lower=0.0, unit="s after midnight", help="unset = last event")

    def latency(self, seed: int, epoch_ns: int) -> AbstractLatency:
        """The same draws for every policy and every median: paired comparisons."""
        if self.latency_file is not None:
            request, exchange, response = load_latencies(self.latency_file)
            handled = np.where(exchange > 0, exchange - epoch_ns, 0)
            return RecordedLatency(request - epoch_ns, handled, response - epoch_ns)
        if self.latency_spread == 0:
            return ConstantLatency(self.order_latency, self.response_latency)
        return RandomLatency(self.order_latency, self.response_latency, self.latency_spread, seed)


class Prepared(eqx.Module):
    """The tape, and host facts that ride along."""

    tape: Tape
    covariates: Covariates
    report: HostReport = eqx.field(static=True)


class Replay(AbstractExperiment):
    """A quoting rule against recorded events.

    Args:
        market: Source of order flow.
        rule: Quotes.
        timing: Clock and latencies.
        exchange: Fill and fee rules.
    """

    market: Checked
    rule: Rule
    timing: Timing
    exchange: ReplayConfig

    @classmethod
    def prepared_paths(cls) -> tuple[str, ...]:
        """Tables used by `prepare`."""
        return ("market", "timing")

    def numbers_per_row(self) -> int:
        """The state of a replay is small; its tape is shared."""
        return 200 * self.exchange.n_levels

    def prepare(self, folder: Path, seed: int, say: Callable[[str], None], progress: Any = None) -> Prepared:
        """Loads the session and lays it out for replay."""
        session, _ = self.market.load(folder, seed)
        timing = self.timing
        say(f"{session.name}: {len(session.updates):,} events")
        start, end = (None if t is None else round(t * 1e9) for t in (timing.start, timing.end))
        tape, timeline = build_tape(
            session,
            decision_interval=timing.decision_interval or None,
            order_latency=timing.latency(seed, session.epoch_ns),
            feed_latency=timing.feed_latency,
            start_ns=start,
            end_ns=end,
            depth_ticks=timing.depth_ticks,
            markout_seconds=MARKOUT_SECONDS,
        )
        n_steps, n_decisions = len(timeline.tape_ns), len(timeline.decision_ns)
        n_events = int((timeline.kind == 0).sum())
        say(f"{n_events:,} events and {n_decisions:,} decisions in {n_steps:,} steps")
        zeros = jnp.zeros(n_decisions)
        covariates = Covariates(zeros, zeros, zeros, jnp.zeros((n_decisions, N_BOOK_FEATURES)))
        report = HostReport(
            session=session.name,
            clock=session.clock,
            source=session.source,
            notes=session.notes,
            facts=session_facts(session),
            tape_ns=timeline.tape_ns,
            epoch_ns=session.epoch_ns,
            n_events=n_events,
        )
        return Prepared(tape, covariates, report)

    def plan(self, batch: Any, prepared: Prepared) -> tuple[tuple, str]:
        """Nothing to choose."""
        return (), f"{prepared.tape.moment.action.shape[0]:,} steps for every policy"

    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """One replay, every step kept."""
        return [("replay", replay_stage)]

    def metrics(self, plan: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
        """Everything the report prints."""
        return replay_metrics(self, prepared, results["replay"])

    def kept(self, prepared: Prepared, results: dict[str, Any]) -> dict[str, Any]:
        """The path at the decisions; every fill and order is in the logs."""
        path = results["replay"].path
        tape, tape_ns = prepared.tape, prepared.report["tape_ns"]
        at = np.flatnonzero(np.asarray(tape.moment.action) == 3)
        columns = {name: np.asarray(getattr(path, name))[at] for name in ("inventory", "value", "mid", "order_ticks")}
        columns["order_size"] = np.asarray(path.order_size)[at]
        columns["mid"] = columns["mid"] + float(tape.reference_price)
        columns["seconds"] = (tape_ns[at] - tape_ns[0]) / 1e9
        scale = {"tick_size": tape.tick_size, "reference_price": tape.reference_price}
        return {"trading": {name: np.asarray(x) for name, x in (columns | scale).items()}}

    def logs(self, prepared: Prepared, results: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
        """Orders and fills."""
        path, report = results["replay"].path, prepared.report
        where = (prepared.tape, report["tape_ns"], report["epoch_ns"])
        return {"orders": order_table(path, *where), "fills": fill_table(path, *where)}

    def provenance(self, prepared: Prepared) -> dict[str, Any]:
        """Data files with their hashes, clock and loader notes."""
        return session_provenance(prepared.report)

    def row(self, plan: Any, prepared: Prepared, key: PRNGKeyArray) -> dict[str, Array]:
        """Profit, fills and markouts of one policy."""
        result = run_rule(self, prepared)
        return {
            "pnl": result.pnl,
            "capture": result.capture,
            "revaluation": result.revaluation,
            "fees": result.fees,
            "max_drawdown": result.max_drawdown,
            "inventory": result.inventory,
            "largest_inventory": result.max_inventory,
            "fills": result.n_bid_fills + result.n_ask_fills,
            "lots": result.bid_fills + result.ask_fills,
            "orders": result.n_bid_orders + result.n_ask_orders,
            "rejected": result.rejected,
            **{f"markout_{seconds:g}s": _mean_markout(result, i) for i, seconds in enumerate(MARKOUT_SECONDS)},
            "residual": result.residual,
            "ok": jnp.isfinite(result.pnl),
        }


def _mean_markout(result: ReplayResult, which: int) -> Float[Array, ""]:
    """Over the lots of both sides."""
    lots = result.bid_fills + result.ask_fills
    total = result.bid_fills * result.bid_markouts[which] + result.ask_fills * result.ask_markouts[which]
    return total / jnp.where(lots > 0, lots, 1.0)


def rule_policy(rule: Rule, tick_size: Float[Array, ""]) -> SkewedPolicy:
    """The rule in prices."""
    return SkewedPolicy(rule.half_spread * tick_size, rule.skew * tick_size, rule.max_inventory, rule.size)


def run_rule(experiment: Replay, prepared: Prepared, record: Any = "summary") -> ReplayResult:
    """One replay."""
    policy = rule_policy(experiment.rule, prepared.tape.tick_size)
    return replay(policy, prepared.tape, prepared.covariates, experiment.exchange, record=record)


def replay_stage(experiment: Any, prepared: Any, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """The base policy with its whole path."""
    return {"replay": run_rule(experiment, prepared, "path")}
