"""Experiment `intensity_trees`: fill rates by boosted trees, judged against the log-linear rate, quoted by the HJB equation."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.experiments.experiment import AbstractExperiment, Stage
from mfamm_jax.experiments.observe import Features, Observed, observe
from mfamm_jax.experiments.quoting_run import HostReport, session_provenance
from mfamm_jax.experiments.tree_fit import Boosting, constant_features, fit_trees
from mfamm_jax.experiments.tree_judge import (
    QUANTILES,
    LastBlock,
    LogLinear,
    Prepared,
    SideModel,
    control_problem,
    effect_stage,
    intensities,
    judge_stage,
    solve_stage,
    surrogate_stage,
    table_scheme,
)
from mfamm_jax.experiments.tree_rows import STATE, DepthRows, depth_rows, tick_depths
from mfamm_jax.experiments.tree_tables import tree_metrics
from mfamm_jax.fields import Checked, as_real, in_precision, real_field, static_field
from mfamm_jax.market.events import NS, DataError, Session
from mfamm_jax.market.facts import session_facts
from mfamm_jax.market.thinning import with_books
from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.hjb import Grid
from mfamm_jax.solvers.likelihood import fit_poisson

LEAST_CLUSTERS = 8
ON_GRID = ("half_spread", "fat_finger")  # values tie with thresholds, which half a step would move: no soft ones
RIDGE = 1e-6  # of the rival
_fit_poisson = jax.jit(fit_poisson)


class Blocks(Checked):
    """Which part of the session does what: fit first, then stop, then judge."""

    fit_share: float = static_field(default=0.6, lower=0.1, upper=0.9, help="share of time the trees are fitted on")
    stop_share: float = static_field(default=0.15, lower=0.02, upper=0.5, help="share after it that says when to stop")
    n_depths: int = static_field(
        default=32,
        lower=2,
        upper=256,
        help="most depths of the fit and of the quotes, from one tick to the deepest reach",
    )
    most_rows: int = static_field(
        default=2_000_000, lower=10_000, help="more rows than that are thinned where no order came"
    )
    life: float = static_field(
        default=5.0, lower=0.0, strict=True, unit="s", help="of an order before it is cancelled; for survival:aft"
    )
    cluster_seconds: float = static_field(
        default=30.0, lower=0.0, strict=True, unit="s", help="stretches of the last block taken as independent"
    )
    softness: float = static_field(
        default=0.1,
        lower=0.0,
        help="width of soft thresholds in standard deviations; ticks and flags keep hard ones",
    )

    def __check_init__(self) -> None:
        used = self.fit_share + self.stop_share
        if used > 0.95:
            raise ValueError(
                f"blocks.fit_share + blocks.stop_share is {used:g}, expected at most 0.95: something must be left to judge on"
            )


class TableControl(Checked):
    """The control problem (1), (8)-(10) in the median state of the fit block."""

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
    horizon: Float[Array, ""] = real_field(
        default=300.0, lower=0.0, strict=True, unit="s", source="(1) T", help="how far ahead the quotes look"
    )
    max_inventory: int = static_field(default=10, lower=1, unit="lots", help="largest position")


class IntensityTrees(AbstractExperiment):
    """Boosted trees as the fill rate.

    Args:
        market: Source of order flow.
        features: How covariates are computed.
        blocks: Fit, stop, judge.
        boosting: How the trees are grown.
        control: What is done with the rate.
    """

    market: Checked
    features: Features
    blocks: Blocks
    boosting: Boosting
    control: TableControl

    @classmethod
    def prepared_paths(cls) -> tuple[str, ...]:
        """Tables used by `prepare`."""
        return ("market", "features", "blocks", "boosting")

    def numbers_per_row(self) -> int:
        """Three values and their gains at every tick."""
        return 3 * (2 * self.control.max_inventory + 1) * 256

    def prepare(self, folder: Path, seed: int, say: Callable[[str], None], progress: Any = None) -> Prepared:
        """Loads, computes features, and fits both models of both sides."""
        recorded, truth = self.market.load(folder, seed)
        session, _ = with_books(recorded)
        say(f"{session.name}: {len(recorded.updates):,} events")
        blocks = self.blocks
        observed = observe(session, self.features, blocks.fit_share)
        depths = tick_depths(session, observed, blocks.n_depths)
        sides = {name: depth_rows(session, observed, sign, depths) for name, sign in (("bid", -1), ("ask", 1))}
        edges = _edges(session, blocks)
        fit_rows = sides["ask"].between(*edges[:2])
        constant = constant_features(fit_rows.state, STATE)
        kept = [i for i, name in enumerate(STATE) if name not in constant]
        names = ("depth", *(STATE[i] for i in kept))
        if constant:
            say(f"left out, constant in the fit block: {', '.join(constant)}")
        fitted, details = {}, {}
        for name, rows in sides.items():
            fitted[name], details[name] = self._side(rows.keep(kept), edges, names, seed, name)
            say(f"{name}: {fitted[name].trees.n_trees} trees on {details[name]['fit_fills']:,} fills")
        report = HostReport(
            session=session.name,
            clock=session.clock,
            source=session.source,
            notes=session.notes,
            facts=session_facts(recorded),
            truth=truth,
            names=names,
            constant=constant,
            sides=details,
            tick_size=session.tick_size,
        )
        return _prepared(session, observed, fit_rows.keep(kept), fitted, blocks, report)

    def _side(
        self, rows: DepthRows, edges: tuple[float, ...], names: tuple[str, ...], seed: int, side: str
    ) -> tuple[SideModel, dict[str, Any]]:
        """Trees on the first block, stopped by the second; the rival, which needs no stopping, on both."""
        fit, stop, last = (rows.between(low, high) for low, high in itertools.pairwise(edges))
        is_counts = self.boosting.objective == "count:poisson"
        most = self.blocks.most_rows
        training, stopping = (x.thinned(most).counts() if is_counts else x.lives(self.blocks.life) for x in (fit, stop))
        try:
            grown = fit_trees(training, stopping, self.boosting, names, seed)
        except DataError as error:
            raise DataError(f"{side} fills: {error}") from error
        both = rows.between(edges[0], edges[2])
        if not last.count.any():
            raise DataError(f"no {side} fill in the last block, nothing to judge on; use a longer session")
        cluster = ((last.start - edges[2]) / self.blocks.cluster_seconds).astype(np.int32)
        model = SideModel(
            grown.trees,
            LogLinear(_log_linear(both.thinned(most), side)),
            in_precision(np.maximum(both.count.sum(axis=0), 0.5) / both.exposure.sum()),
            LastBlock(
                in_precision(last.state), in_precision(last.exposure), in_precision(last.count), jnp.asarray(cluster)
            ),
        )
        details = {
            "fit_fills": int(fit.count.sum()),
            "stop_fills": int(stop.count.sum()),
            "gain": grown.gain,
            "losses": grown.losses,
        }
        return model, details

    def plan(self, batch: Any, prepared: Prepared) -> tuple[tuple, str]:
        """One scheme that serves every row."""
        grid = Grid(self.control.max_inventory, 1)
        bid, ask = (jax.tree.map(lambda x: x[0], intensities(prepared, side)) for side in (prepared.bid, prepared.ask))
        problems = jax.vmap(lambda e: control_problem(e.control, prepared, bid, ask))(batch)
        scheme, reason = table_scheme(batch.control.horizon, prepared, problems, grid)
        return (scheme, grid), reason

    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """Judge, show, replace, quote."""
        return [
            ("judge", judge_stage),
            ("effect", effect_stage),
            ("surrogate", surrogate_stage),
            ("solve", lambda *args: solve_stage(plan, *args)),
        ]

    def metrics(self, plan: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
        """Everything the report prints."""
        return tree_metrics(prepared, results)

    def provenance(self, prepared: Prepared) -> dict[str, Any]:
        """Data files with their hashes, clock and loader notes."""
        return session_provenance(prepared.report)

    def row(self, plan: Any, prepared: Prepared, key: PRNGKeyArray) -> dict[str, Array]:
        """Quotes with the fill curves of the trees and of the log-linear rate."""
        control = solve_stage(plan, self, prepared, {}, key)["control"]
        middle = self.control.max_inventory
        half = 0.5 * (control["bid_depth"] + control["ask_depth"])[:, middle]
        shift = 0.5 * (control["ask_depth"] - control["bid_depth"])[:, middle]
        return {
            "half_spread": half[0],
            "log_linear_half_spread": half[1],
            "reservation_shift": shift[0],
            "value": control["value"][0, middle],
            "log_linear_value": control["value"][1, middle],
            "ok": jnp.all(control["ok"]),
        }


def _edges(session: Session, blocks: Blocks) -> tuple[float, ...]:
    """Seconds at which the blocks begin and the last one ends."""
    t_ns = session.updates.t_ns
    seconds = float(t_ns[-1] - t_ns[0]) / NS
    shares = (0.0, blocks.fit_share, blocks.fit_share + blocks.stop_share, 1.0)
    edges = tuple(share * seconds for share in shares)
    n_clusters = int((edges[3] - edges[2]) / blocks.cluster_seconds)
    if n_clusters < LEAST_CLUSTERS:
        raise DataError(
            f"the last block has {n_clusters} stretches of blocks.cluster_seconds = {blocks.cluster_seconds:g} s, expected at least "
            f"{LEAST_CLUSTERS} for an interval; use a longer session or shorter stretches"
        )
    return edges


def _log_linear(rows: DepthRows, side: str) -> Float[Array, " coefficient"]:
    sample = rows.counts()
    design = np.column_stack([np.ones(len(sample.count)), sample.features])
    solution = _fit_poisson(
        in_precision(design), in_precision(sample.count), in_precision(sample.exposure), ridge=RIDGE
    )
    if not bool(solution.result == RESULTS.successful):
        reason = RESULTS[solution.result]  # pyrefly: ignore
        raise DataError(f"log-linear fit of the {side} intensity (11): {reason}")
    return solution.value.coefficients


def _prepared(
    session: Session,
    observed: Observed,
    rows: DepthRows,
    sides: dict[str, SideModel],
    blocks: Blocks,
    report: HostReport,
) -> Prepared:
    """Reference state and quantiles are those of time, not of events."""
    quantiles = np.quantile(rows.state, QUANTILES, axis=0, weights=rows.exposure, method="inverted_cdf")
    mean = np.average(rows.state, axis=0, weights=rows.exposure)
    spread = np.sqrt(np.average((rows.state - mean) ** 2, axis=0, weights=rows.exposure))
    on_grid = np.isin(report["names"][1:], ON_GRID)
    fitted = session.updates.t_ns < observed.train_end_ns
    return Prepared(
        bid=sides["bid"],
        ask=sides["ask"],
        depths=in_precision(rows.depths),
        reference=in_precision(np.concatenate([rows.depths[:1], quantiles[QUANTILES.index(0.5)]])),
        quantiles=in_precision(quantiles.T),
        softness=in_precision(blocks.softness * np.concatenate([[0.0], np.where(on_grid, 0.0, spread)])),
        volatility=as_real(float(np.median(observed.volatility[fitted]))),
        n_clusters=int(max(side.last.cluster.max() for side in sides.values())) + 1,
        report=report,
    )
