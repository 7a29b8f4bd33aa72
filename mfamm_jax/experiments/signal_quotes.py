"""Experiment `signal_quotes`: the same market maker with and without the signals, replayed on the same later events.

The signals are a score of the book (6) and VPIN (5). Thresholds cut them into regimes; how long these last, where the mid goes
and who trades is estimated on the past, and the HJB equation over regimes turns that into quotes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.experiments.experiment import AbstractExperiment, Stage
from mfamm_jax.experiments.fit import Calibration, common_decay
from mfamm_jax.experiments.imbalance_data import BLOCKS, GridSettings, Labels, Split, build_samples
from mfamm_jax.experiments.imbalance_fit import Training
from mfamm_jax.experiments.imbalance_train import train, training_data
from mfamm_jax.experiments.imbalance_training import TRAINING_KEY, network_for
from mfamm_jax.experiments.observe import Features, Observed, intensity_rows, observe
from mfamm_jax.experiments.quoting import Execution, replay_part
from mfamm_jax.experiments.quoting_run import HostReport, session_provenance
from mfamm_jax.experiments.signal_path import (
    ScoreName,
    SignalPath,
    at_events,
    network_scores,
    signal_clock,
    signal_path,
)
from mfamm_jax.experiments.signal_regimes import Regimes, estimate_regimes, on_finest
from mfamm_jax.experiments.signal_run import POLICIES, Plan, choose_plan, compare_stage, solve_stage, summary
from mfamm_jax.experiments.signal_tables import signal_metrics
from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.market.events import NS, DataError, Session
from mfamm_jax.market.facts import session_facts
from mfamm_jax.market.thinning import with_books
from mfamm_jax.models.imbalance_network import NetworkSizes
from mfamm_jax.policies import Covariates, QuoteRules
from mfamm_jax.policies.regime_table import RegimeMap
from mfamm_jax.policies.value_table import risk_nodes
from mfamm_jax.simulation.tape import Tape
from mfamm_jax.solvers.triplet import TripletLoss


class Signal(Checked):
    """What the quotes listen to."""

    score: ScoreName = static_field(
        default="queue_imbalance", source="(6)", help="the touch's imbalance, or the network trained on the fit block"
    )
    imbalance: float = static_field(
        default=0.3, lower=0.0, upper=1.0, source="glossary", help="|score| beyond it is buying or selling pressure"
    )
    vpin: float = static_field(
        default=0.7, lower=0.0, upper=1.0, source="glossary", help="VPIN beyond it is toxic flow"
    )
    horizon: float = static_field(
        default=1.0, lower=0.0, strict=True, unit="s", help="over which a regime's move of the mid is measured"
    )


class RegimeControl(Checked):
    """The control problem (1), (8)-(10) over regimes."""

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
        default=0.0, unit="price", help="expected move of the mid against a fill, in every regime"
    )
    horizon: Float[Array, ""] = real_field(
        default=60.0, lower=0.0, strict=True, unit="s", source="(1) T", help="how far ahead the quotes look"
    )
    drift_share: Float[Array, ""] = real_field(
        default=1.0, lower=0.0, upper=2.0, help="share of the estimated drifts that the quotes believe in"
    )
    max_inventory: int = static_field(default=10, lower=1, unit="lots", help="largest position")
    n_steps: int = static_field(default=8, lower=1, help="rows of the value table in time")
    n_risk: int = static_field(default=3, lower=1, help="nodes of the volatility axis; 1 = the reference only")
    max_risk: float = static_field(default=2.0, lower=1.0, help="largest volatility / reference")

    @property
    def risk(self) -> Float[Array, " risk"]:
        """Nodes; a single node sits at the reference."""
        return risk_nodes(self.max_risk, self.n_risk)


class Comparison(Checked):
    """How the difference is judged."""

    block_seconds: float = static_field(
        default=30.0, lower=0.0, strict=True, unit="s", help="stretches of the test part that are resampled together"
    )
    n_bootstrap: int = static_field(default=2000, lower=100, help="resamples")


class Prepared(eqx.Module):
    """Arrays of the run that no swept parameter changes.

    Args:
        regimes: Parameters of each policy in every regime.
        decay: Of fill rates with depth [1/price].
        volatility: Reference [price/sqrt(s)].
        tape: Recorded events of the test part.
        decisions: Covariates at every decision of it; `imbalance` is the score.
        tick_size: [price].
        n_blocks: Of the comparison.
        report: Host facts.
    """

    regimes: dict[str, Array]
    decay: Float[Array, ""]
    volatility: Float[Array, ""]
    tape: Tape
    decisions: Covariates
    tick_size: Float[Array, ""]
    n_blocks: int = eqx.field(static=True)
    report: HostReport = eqx.field(static=True)


class SignalQuotes(AbstractExperiment):
    """What the signals are worth to a market maker.

    Args:
        market: Source of order flow.
        features: How VPIN and volatility are computed.
        signal: Score and thresholds.
        split: Fit block (network), stopping block (network, regimes), test block (replay).
        intensity: What identifies the decay with depth.
        hjb: Control problem.
        quotes: Gates and limits; those of the policies with gates.
        execution: Replay of recorded events.
        comparison: How the difference is judged.
        grid, labels, network, triplet, training: Of the network, as in `imbalance_training`.
    """

    market: Checked
    features: Features
    signal: Signal
    split: Split
    intensity: Calibration
    hjb: RegimeControl
    quotes: QuoteRules
    execution: Execution
    comparison: Comparison
    grid: GridSettings
    labels: Labels
    network: NetworkSizes
    triplet: TripletLoss
    training: Training

    def __check_init__(self) -> None:
        self.training.check_head(self.network.head)

    @classmethod
    def prepared_paths(cls) -> tuple[str, ...]:
        """Tables used by `prepare`."""
        mine = ("market", "features", "signal", "split", "intensity", "comparison")
        return (*mine, "grid", "labels", "network", "triplet", "training")

    def numbers_per_row(self) -> int:
        """A value table per policy."""
        size = 2 * self.hjb.max_inventory + 1
        return len(POLICIES) * self.hjb.n_risk * (self.hjb.n_steps + 1) * size * 6

    def prepare(self, folder: Path, seed: int, say: Callable[[str], None], progress: Any = None) -> Prepared:
        """Loads, computes the signals, estimates their regimes, lays out the test block for replay."""
        recorded, truth = self.market.load(folder, seed)
        session, ladder = with_books(recorded, self.grid.n_levels)
        say(f"{session.name}: {len(recorded.updates):,} events")
        past = self.split.fit_share + self.split.stopping_share
        observed = observe(session, self.features, past)
        t_ns = session.updates.t_ns
        fit_end = int(t_ns[0] + self.split.fit_share * (t_ns[-1] - t_ns[0]))
        path, notes = signal_path(session, observed, self.grid.step), ()
        if self.signal.score == "network":
            path, notes = self._network(session, path, folder, seed, say, progress)
        decay = float(common_decay(intensity_rows(session, observed), self.intensity))
        # The network's score flatters itself on the block it was fitted on.
        start = fit_end if self.signal.score == "network" else int(t_ns[0])
        regimes, solved = self._regimes(session, observed, path, start, decay)
        begin = int(observed.train_end_ns + self.split.embargo * NS)
        tape, decisions, rows, _ = replay_part(session, ladder, observed, self.execution, begin, None)
        score = jnp.asarray(at_events(path, t_ns, rows), decisions.imbalance.dtype)
        report = HostReport(
            session=session.name,
            clock=session.clock,
            source=session.source,
            notes=(*session.notes, *notes),
            facts=session_facts(recorded),
            truth=truth,
            regimes=regimes,
            seconds={"past": (observed.train_end_ns - start) / NS, "test": (int(t_ns[-1]) - begin) / NS},
        )
        train_rows = t_ns < observed.train_end_ns
        real = jnp.result_type(float)
        return Prepared(
            regimes={name: jnp.asarray(np.stack([one[name] for one in solved]), real) for name in solved[0]},
            decay=jnp.asarray(decay, real),
            volatility=jnp.asarray(np.median(observed.volatility[train_rows]), real),
            tape=tape,
            decisions=eqx.tree_at(lambda d: d.imbalance, decisions, score),
            tick_size=jnp.asarray(session.tick_size, real),
            n_blocks=self._n_blocks(report["seconds"]["test"]),
            report=report,
        )

    def _n_blocks(self, seconds: float) -> int:
        n = int(seconds / self.comparison.block_seconds)
        if n < 8:
            raise DataError(
                f"the test block has {n} stretches of comparison.block_seconds = {self.comparison.block_seconds:g} s, expected at least 8 "
                "for an interval; use a longer session or shorter stretches"
            )
        return n

    def _regimes(
        self, session: Session, observed: Observed, path: SignalPath, start: int, decay: float
    ) -> tuple[Regimes, list[dict[str, np.ndarray]]]:
        """Estimates of the last policy's map, and parameters of every policy."""
        at_touch = decay if self.intensity.decay_from != "mid" else 0.0
        solved, coarse = [], None
        for uses, _ in POLICIES.values():
            regimes = RegimeMap(self.signal.imbalance, self.signal.vpin, **uses)
            clock = signal_clock(session, observed, path, regimes, self.grid.step, start, observed.train_end_ns)
            if not (clock.buys.any() or clock.sells.any()):
                raise DataError(
                    f"{session.name}: no marketable order to estimate the fill rates from; use a longer session"
                )
            if coarse is None or coarse[0].n_regimes < regimes.n_regimes:
                coarse = regimes, estimate_regimes(clock, regimes, self.signal.horizon, at_touch, coarse)
            solved.append(on_finest(coarse[1], regimes))
        assert coarse is not None
        return coarse[1], solved

    def _network(
        self, session: Session, path: SignalPath, folder: Path, seed: int, say: Callable[[str], None], progress: Any
    ) -> tuple[SignalPath, tuple[str, ...]]:
        """Trains the network and scores the session with it."""
        net = network_for(self.grid, self.network)
        samples, facts = build_samples(session, self.grid, self.labels, self.split)
        data = training_data(samples.part(BLOCKS[0]), facts)
        key = jax.random.fold_in(jax.random.key(seed), TRAINING_KEY)
        trained = train(net, self.training, self.triplet, data, samples.part(BLOCKS[1]), key, folder, say, progress)
        return network_scores(path, session, self.grid, facts.scale, net, trained.params), facts.notes

    def plan(self, batch: Any, prepared: Prepared) -> tuple[Plan, str]:
        """One scheme."""
        return choose_plan(batch, prepared)

    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """Solve, replay and compare."""
        return [
            ("solve", lambda *args: solve_stage(plan, *args)),
            ("compare", lambda *args: compare_stage(plan, *args)),
        ]

    def metrics(self, plan: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
        """Everything the report prints."""
        return signal_metrics(self, prepared, results)

    def provenance(self, prepared: Prepared) -> dict[str, Any]:
        """Data files with their hashes, clock and loader notes."""
        return session_provenance(prepared.report)

    def row(self, plan: Any, prepared: Prepared, key: PRNGKeyArray) -> dict[str, Array]:
        """P&L of every policy and its difference to the one without signals."""
        return summary(plan, self, prepared, key)
