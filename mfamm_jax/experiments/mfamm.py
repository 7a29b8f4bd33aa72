"""Experiment `mfamm`: the whole strategy on several assets, learned on one session, traded on others, with every component switched off in turn."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mfamm_jax.experiments.allocation import Network, Reward
from mfamm_jax.experiments.experiment import AbstractExperiment, ConfigError, Stage
from mfamm_jax.experiments.fit import Calibration, SideFit, calibrate_sides
from mfamm_jax.experiments.hjb_sweep import named_scheme
from mfamm_jax.experiments.markets import Recording
from mfamm_jax.experiments.mfamm_log import order_logs
from mfamm_jax.experiments.mfamm_run import ablate_stage, learn_stage, rehearse_stage, tables_stage, trade_stage
from mfamm_jax.experiments.mfamm_state import Clock, stack_clocks
from mfamm_jax.experiments.mfamm_tables import mfamm_metrics
from mfamm_jax.experiments.observe import Features, Observed, intensity_rows, observe
from mfamm_jax.experiments.quoting import Control, Execution, replay_part
from mfamm_jax.experiments.quoting_run import HostReport, fee_costs, reference_problem
from mfamm_jax.fields import Checked, in_precision, real_field, static_field
from mfamm_jax.market.events import NS, DataError
from mfamm_jax.market.ladder import NO_ASK, Ladder
from mfamm_jax.market.thinning import with_books
from mfamm_jax.models.impact import ExponentialKernel, InstantImpact
from mfamm_jax.policies import Covariates, QuoteRules, largest_problem
from mfamm_jax.policies.quotes import N_BOOK_FEATURES
from mfamm_jax.policies.routing import Venues
from mfamm_jax.simulation.merge import merge_tapes
from mfamm_jax.simulation.padding import stack_replays
from mfamm_jax.simulation.tape import Tape
from mfamm_jax.solvers.hjb import Grid

LEAST_INTERVALS = 63  # a fifth is held out of a flow's fit


class SlowClock(Checked):
    """When relation, capital, risk and orders of the pair trade are looked at."""

    interval: float = static_field(default=5.0, lower=0.0, strict=True, unit="s", help="time from one look to the next")
    every_event: bool = static_field(
        default=False, help="quotes at every event of any asset instead of every execution.decision_interval"
    )


class Arbitrage(Checked):
    """The pair trade."""

    lots: Float[Array, ""] = real_field(
        default=2.0,
        lower=0.0,
        unit="lots",
        help="position in the asset with the largest weight, at an equal share of capital",
    )
    tolerance: Float[Array, ""] = real_field(
        default=0.5,
        lower=0.0,
        upper=0.95,
        help="a position is left alone while the wanted one is off by less than this share",
    )
    window: int = static_field(default=90, lower=20, unit="intervals", help="past that the bands are made from")
    stop: Float[Array, ""] = real_field(
        default=4.0,
        lower=0.0,
        strict=True,
        unit="stationary deviations",
        help="beyond it the relation counts as broken",
    )
    smallest_scale: float = static_field(
        default=2.0, lower=2.0, unit="intervals", source="(13) a", help="smallest scale of the wavelets"
    )
    n_scales: int = static_field(
        default=4, lower=2, upper=12, source="(14) K", help="number of scales, each twice the one before"
    )
    edge: float = static_field(default=3.0, lower=1.0, upper=10.0, help="scales left out at both ends")


class Learning(Checked):
    """How the allocation network learns from the rehearsal."""

    n_updates: int = static_field(default=60, lower=1, help="gradient steps")
    n_paths: int = static_field(default=16, lower=1, help="windows of the rehearsal drawn for each gradient step")
    n_steps: int = static_field(
        default=60, lower=20, unit="intervals", help="length of a window; the first quarter is not rewarded"
    )
    learning_rate: float = static_field(
        default=0.01, lower=0.0, strict=True, upper=1.0, help="learning rate of Adam at first"
    )
    least: Float[Array, ""] = real_field(
        default=0.4, lower=0.0, upper=1.0, help="capital that every strategy keeps, over an equal share"
    )


class Limits(Checked):
    """Risk limits on all strategies together."""

    tail_level: Float[Array, ""] = real_field(
        default=0.95, lower=0.5, upper=0.999, source="(18) alpha", help="level of VaR and CVaR of an interval's loss"
    )
    cvar: Float[Array, ""] = real_field(
        default=0.9, lower=0.0, strict=True, source="(18)", help="admitted CVaR of an interval over its average"
    )
    barrier: Float[Array, ""] = real_field(
        default=12.0, lower=0.0, strict=True, source="(19) eta", help="barrier below 0, over the VaR of an interval"
    )
    breach: Float[Array, ""] = real_field(
        default=0.05, lower=0.0, strict=True, upper=0.5, source="(19) epsilon", help="admitted probability to reach it"
    )


class Rebalancing(Checked):
    """How the pair trade's orders are worked within an interval."""

    n_slots: int = static_field(default=5, lower=1, upper=100, help="slots that an interval is divided into")
    mode: Literal["frozen", "full"] = static_field(
        default="frozen", source="(15)", help="impact priced at trading pro rata, or found with the plan"
    )
    regularization: Float[Array, ""] = real_field(
        default=0.005, lower=0.0, strict=True, unit="price", source="(15) lambda", help="price of not trading pro rata"
    )
    urgency: Float[Array, ""] = real_field(
        default=0.01, lower=0.0, unit="price", help="price of trading at an interval's end instead of its start"
    )
    impact: Float[Array, ""] = real_field(
        default=0.01,
        lower=0.0,
        strict=True,
        unit="price",
        source="(20) g",
        help="impact of the first lot, average asset",
    )
    exponent: Float[Array, ""] = real_field(
        default=0.7,
        lower=0.0,
        strict=True,
        upper=1.0,
        source="(20) g",
        help="power by which the impact of larger orders grows; 1 = linear",
    )
    resilience: Float[Array, ""] = real_field(
        default=0.3, lower=0.0, strict=True, unit="1/s", source="(20) f", help="rate at which impact decays"
    )
    flow_correlation: float = static_field(
        default=0.3,
        lower=0.0,
        upper=0.99,
        source="(15)",
        help="correlation of any two assets' order flow, for cross impact",
    )

    @property
    def kernel(self) -> ExponentialKernel:
        """f of (20), 1 at once."""
        return ExponentialKernel(jnp.ones_like(self.resilience)[None], self.resilience[None])

    def curve(self, lots: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """g of (20), in lots that push linearly."""
        return InstantImpact(jnp.ones_like(self.exponent), self.exponent)(lots)


class Router(Checked):
    """How venues are chosen."""

    router: Literal["qaoa", "convex", "enumeration"] = static_field(
        default="qaoa", source="(22)-(24)", help="how venues are chosen; convex is blind to what using a venue costs"
    )
    n_layers: int = static_field(default=3, lower=1, upper=32, source="(24) p", help="layers of the circuit")
    n_starts: int = static_field(
        default=6, lower=1, upper=64, help="starts of the search for angles, on a typical order"
    )
    max_iterations: int = static_field(default=100, lower=1, help="iterations of the search from each start")
    n_samples: int = static_field(default=16, lower=1, upper=10_000, help="measurements per order")


class AssetFit(eqx.Module):
    """One asset's intensities and average conditions, as `build_policy` wants them."""

    bid: SideFit
    ask: SideFit
    reference: Covariates
    has_one_decay: bool = eqx.field(static=True)


class Traded(eqx.Module):
    """What a replay needs, of one session or of several along the first axis."""

    tapes: tuple[Tape, ...]
    moment: Any
    covariates: tuple[Covariates, ...]
    clock: Clock


class Prepared(eqx.Module):
    """Arrays of the run.

    Args:
        fits: Of each asset.
        training: The session that is learned from.
        tests: Test sessions, stacked.
        venues: Where orders may go.
        tick_size: Of each asset [price].
        report: Host facts.
    """

    fits: tuple[AssetFit, ...]
    training: Traded
    tests: Traded
    venues: Venues
    tick_size: Float[Array, " asset"]
    report: HostReport = eqx.field(static=True)


class MFAMM(AbstractExperiment):
    """Predictive market making, cross-asset arbitrage and meta-allocation under risk limits.

    Args:
        markets: Several assets.
        features, intensity, hjb, quotes, execution: As in `quoting`, of every asset.
        clock: The slow one.
        arbitrage: Pair trade.
        reward, network, learning: Allocation.
        limits: Risk.
        rebalancing: Orders of the pair trade.
        venues: Where they may go.
        circuit: How that is decided.
    """

    markets: Checked
    features: Features
    intensity: Calibration
    hjb: Control
    quotes: QuoteRules
    execution: Execution
    clock: SlowClock
    arbitrage: Arbitrage
    reward: Reward
    network: Network
    learning: Learning
    limits: Limits
    rebalancing: Rebalancing
    venues: Checked
    circuit: Router

    @classmethod
    def prepared_paths(cls) -> tuple[str, ...]:
        """Tables used by `prepare`."""
        return ("markets", "features", "intensity", "clock", "venues")

    def numbers_per_row(self) -> int:
        """A value table per asset and the state of a replay."""
        size = 2 * self.hjb.max_inventory + 1
        nodes = self.hjb.axes.n_risk * self.hjb.axes.n_skew
        return 8 * nodes * (4 * (self.hjb.n_steps + 1) * size + 2 * size**2)

    def prepare(self, folder: Path, seed: int, say: Callable[[str], None], progress: Any = None) -> Prepared:
        """Loads or generates all sessions, fits the first one, and lays everything out for replay."""
        self._check()
        found = self.markets.load(seed)
        venues = self.venues.load(seed)
        say(f"{found.name}: {1 + sum(t is not found.training for t in found.tests)} sessions")
        known: dict[int, list[tuple[Any, Any, Any]]] = {}

        def observed(recording: Recording) -> list[tuple[Any, Ladder, Observed]]:
            if id(recording) not in known:
                # Tests are seen on the scales of the training session, on which the coefficients were fitted.
                first = known.get(id(found.training), [(None, None, None)] * len(recording.sessions))
                books, end = [with_books(session) for session in recording.sessions], recording.train_end_ns
                known[id(recording)] = [
                    (s, ladder, observe(s, self.features, train_end_ns=end, like=like))
                    for (s, ladder), (_, _, like) in zip(books, first, strict=True)
                ]
            return known[id(recording)]

        fits = tuple(self._fit(session, seen) for session, _, seen in observed(found.training))
        training, _ = self._traded(observed(found.training), found.training.training)
        tests, times = zip(*(self._traded(observed(recording), recording.test) for recording in found.tests))
        n_training, n_test = training.clock.n_intervals, tests[0].clock.n_intervals
        room, lots = float(jnp.sum(venues.venues.capacities)), float(self.arbitrage.lots)
        if room < max(lots, float(self.execution.replay.size_increment)):
            raise ConfigError(
                f"venues.capacities add up to {room:g} lots, expected at least arbitrage.lots = {lots:g}: the pair trade could not be made"
            )
        if n_training < LEAST_INTERVALS or n_training < 2 * self.learning.n_steps:
            raise DataError(
                f"{n_training} intervals to learn from, expected at least {max(LEAST_INTERVALS, 2 * self.learning.n_steps)}: use more data, a "
                "shorter clock.interval or fewer learning.n_steps"
            )
        most = 2 * self.arbitrage.edge * self.arbitrage.smallest_scale * 2 ** (self.arbitrage.n_scales - 1) + 10
        if n_training < most:
            raise DataError(
                f"{n_training} intervals to learn from, expected at least {most:.0f} for arbitrage.n_scales = {self.arbitrage.n_scales}"
            )
        stacked = stack_replays([(x.tapes, x.moment, x.covariates) for x in tests])
        clock = stack_clocks([x.clock for x in tests])
        n_steps = stacked[1].action.shape[1]
        say(f"{n_training} intervals to learn from, {n_test} to trade, {n_steps:,} steps")
        tick_size = jnp.stack([tape.tick_size for tape in training.tapes])
        report = HostReport(
            name=found.name,
            names=tuple(session.name for session in found.training.sessions),
            truth=found.truth,
            source=tuple(s for session in found.training.sessions for s in session.source),
            venue_names=venues.names,
            n_sessions=len(tests),
            times=times[0],
            epoch_ns=found.tests[0].sessions[0].epoch_ns,
        )
        return Prepared(fits, training, Traded(*stacked, clock), venues.venues, tick_size, report)

    def _check(self) -> None:
        """What the fields cannot say alone."""
        slot = self.clock.interval / self.rebalancing.n_slots
        if not self.clock.every_event and self.execution.decision_interval > slot * (1 + 1e-9):
            raise ConfigError(
                f"execution.decision_interval is {self.execution.decision_interval:g} s, expected at most clock.interval / rebalancing.n_slots = "
                f"{slot:g} s: every slot needs a decision"
            )
        if self.execution.replay.contract != "linear":
            raise ConfigError(
                f'execution.replay.contract is "{self.execution.replay.contract}", expected "linear": worths of all assets are added up in one currency'
            )

    def _fit(self, session: Any, seen: Observed) -> AssetFit:
        bid, ask = calibrate_sides(intensity_rows(session, seen), self.intensity)
        train = session.updates.t_ns < seen.train_end_ns
        volatility, vpin = float(np.median(seen.volatility[train])), float(np.mean(seen.vpin[train]))
        reference = Covariates(volatility, vpin, 0.0, jnp.zeros(N_BOOK_FEATURES))
        return AssetFit(bid, ask, reference, self.intensity.common_decay)

    def _traded(
        self, assets: list[tuple[Any, Ladder, Observed]], part: tuple[int, int] | None
    ) -> tuple[Traded, dict[str, np.ndarray]]:
        """One session's part, and when its first step and its decisions are [ns]."""
        assert part is not None
        start, end = part
        execution = self.execution
        if self.clock.every_event:
            feed, updates = round(execution.feed_latency * NS), [session.updates for session, _, _ in assets]
            received = [(u.t_ns if u.local_ns is None else u.local_ns) + feed for u in updates]
            times = np.unique(np.concatenate(received))
            times = times[(times >= start) & (times < end)]
        else:
            times = np.arange(start, end, round(execution.decision_interval * NS), dtype=np.int64)
        parts = [replay_part(s, ladder, seen, execution, start, end, times) for s, ladder, seen in assets]
        tapes = tuple(tape for tape, *_ in parts)
        moment = merge_tapes([(tape, timeline) for tape, *_, timeline in parts])
        interval = round(self.clock.interval * NS)
        number = (times - start) // interval
        n = max(-(-(end - start) // interval), 1)
        slot = ((times - start) % interval) * self.rebalancing.n_slots // interval
        clock = Clock(
            starts=jnp.asarray(np.diff(number, prepend=number[:1]) > 0),
            slot=jnp.asarray(slot, jnp.int32),
            seconds=in_precision(np.diff(times, prepend=times[0]) / NS),
            intervals_left=in_precision(n - number),
            number=jnp.asarray(number, jnp.int32),
            half_spread=jnp.stack([_half_spreads(tape) for tape in tapes], axis=1),
            is_shown=jnp.stack([_is_shown(tape) for tape in tapes], axis=1),
            n_intervals=int(n),
        )
        first = min(int(timeline.tape_ns[0]) for *_, timeline in parts)
        traded = Traded(tapes, moment, tuple(covariates for _, covariates, *_ in parts), clock)
        return traded, {"first": np.array(first), "decisions": times}

    def plan(self, batch: Any, prepared: Prepared) -> tuple[Any, str]:
        """One scheme for every asset and every node of its table."""
        grid = Grid(self.hjb.max_inventory, self.hjb.n_steps)

        def problems(experiment: Any) -> Any:
            found = []
            for fit, tape in zip(prepared.fits, prepared.training.tapes, strict=True):
                costs = fee_costs(experiment.execution.replay, tape)
                found.append(largest_problem(reference_problem(experiment.hjb, fit, costs), experiment.hjb.axes))
            return jax.tree.map(lambda *x: jnp.stack(x), *found)

        several = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), jax.vmap(problems)(batch))
        scheme, reason = named_scheme(self.hjb.scheme, several, grid)
        return (scheme, grid, None), reason

    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """Quote tables and relation; rehearsal; learning from it; trading; every component off in turn."""
        return [
            ("tables", lambda *args: tables_stage(plan, *args)),
            ("rehearse", rehearse_stage),
            ("learn", learn_stage),
            ("trade", trade_stage),
            ("ablate", ablate_stage),
        ]

    def metrics(self, plan: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
        """Everything the report prints."""
        return mfamm_metrics(self, prepared, results)

    def kept(self, prepared: Prepared, results: dict[str, Any]) -> dict[str, Any]:
        """What was said at every decision, and all sessions' totals."""
        return {"mfamm": {name: results[name] for name in ("relation", "rehearsal", "learned", "trade", "ablation")}}

    def logs(self, prepared: Prepared, results: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Orders and fills of the quotes, and the pair trade's children by venue, in the first test session."""
        return order_logs(prepared, results)

    def provenance(self, prepared: Prepared) -> dict[str, Any]:
        """Names and files."""
        return {"markets": {"name": prepared.report["name"], "source": [list(x) for x in prepared.report["source"]]}}

    def row(self, plan: Any, prepared: Prepared, key: PRNGKeyArray) -> dict[str, Array]:
        """Of the full strategy over all sessions."""
        results: dict[str, Any] = {}
        for number, stage in enumerate((lambda *args: tables_stage(plan, *args), rehearse_stage, learn_stage)):
            results |= stage(self, prepared, results, jax.random.fold_in(key, number))
        found = ablate_stage(self, prepared, results, key, only_full=True)["ablation"]
        pnl = found["pnl"][:, 0]
        return {
            "pnl": jnp.mean(pnl),
            "pnl_deviation": jnp.std(pnl),
            "pair_pnl": jnp.mean(found["parts"]["pair"][:, 0]),
            "max_drawdown": jnp.mean(found["max_drawdown"][:, 0]),
            "ok": results["learned"]["ok"] & jnp.all(jnp.isfinite(pnl)),
        }


def _is_shown(tape: Tape) -> Bool[Array, " decision"]:
    """Whether both sides of the book are."""
    return (jnp.abs(tape.decision_bid) < NO_ASK) & (jnp.abs(tape.decision_ask) < NO_ASK) & tape.sees_market


def _half_spreads(tape: Tape) -> Float[Array, " decision"]:
    """Half of what is shown; the average where a side is empty."""
    is_shown = _is_shown(tape)
    half = 0.5 * tape.tick_size * jnp.where(is_shown, tape.decision_ask - tape.decision_bid, 0)
    mean = jnp.sum(half) / jnp.maximum(jnp.sum(is_shown), 1)
    return jnp.where(is_shown, half, mean)
