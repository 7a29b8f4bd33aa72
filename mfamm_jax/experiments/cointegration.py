"""Experiment `cointegration`: which assets move together, at which time scales, and what trading that would have made."""

import itertools
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.experiments.cointegration_run import estimate, family_p_values, look_ahead, null_ratios, walk_forward
from mfamm_jax.experiments.cointegration_tables import cointegration_metrics
from mfamm_jax.experiments.experiment import AbstractExperiment, Stage
from mfamm_jax.experiments.panels import panel_provenance
from mfamm_jax.experiments.quoting_run import HostReport
from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.market.events import DataError
from mfamm_jax.models.cointegration import p_values
from mfamm_jax.risk import bootstrap_interval
from mfamm_jax.simulation.spread_trading import SpreadRule, SpreadTrades


class Scales(Checked):
    """Octaves of the Mexican hat, in rows."""

    smallest: float = static_field(default=2.0, lower=2.0, unit="rows", source="(13) a", help="smallest scale")
    n_scales: int = static_field(default=6, lower=2, upper=20, source="(14) K", help="each twice the one before")
    edge: float = static_field(default=3.0, lower=1.0, upper=10.0, help="scales left out at both ends of a window")

    @property
    def values(self) -> tuple[float, ...]:
        """a_k."""
        return tuple(self.smallest * 2.0**k for k in range(self.n_scales))


class Testing(Checked):
    """When a relation counts."""

    groups: Literal["all", "pairs"] = static_field(
        default="all", help="one relation among all assets, or every pair, corrected for their number"
    )
    level: Float[Array, ""] = real_field(default=0.05, lower=0.0, strict=True, upper=0.5, help="of the tests")
    n_draws: int = static_field(default=999, lower=99, help="panels without a relation that are drawn")
    block: int = static_field(
        default=10, lower=1, unit="rows", help="increments kept together in a draw: short memory that is no relation"
    )
    log: bool = static_field(default=True, help="logarithms of the prices")


class Strategy(Checked):
    """Walk-forward trading of the common combination; groups = "all" only."""

    rule: SpreadRule
    window: int = static_field(default=1000, lower=50, unit="rows", help="past that an estimate sees")
    every: int = static_field(default=100, lower=1, unit="rows", help="from one estimate to the next")
    half_spread: Float[Array, ""] = real_field(
        default=5e-5, lower=0.0, unit="of the price (log) or price", help="cost of trading one unit of any asset"
    )
    risk: Float[Array, ""] = real_field(
        default=1.0, lower=0.0, strict=True, help="money per stationary deviation of the residual"
    )
    only_significant: bool = static_field(default=True, help="hold nothing where the past shows no relation")
    n_bootstrap: int = static_field(default=2000, lower=100, help="resamples of the blocks between estimates")


class Prepared(eqx.Module):
    """The panel and the null.

    Args:
        levels: (row, asset) what is tested: prices or their logarithms.
        groups: (group, member) columns of each test.
        null: Of the whole sample.
        window_null: Of the strategy's window.
        report: Host facts.
    """

    levels: Float[Array, "row asset"]
    groups: Array
    null: Float[Array, "draw group test"]
    window_null: Float[Array, "draw *test"]
    report: HostReport = eqx.field(static=True)


class CointegrationExperiment(AbstractExperiment):
    """Relations between assets (14).

    Args:
        panel: Prices.
        scales: Time scales.
        test: When a relation counts.
        strategy: Trading it.
    """

    panel: Checked
    scales: Scales
    test: Testing
    strategy: Strategy

    @classmethod
    def prepared_paths(cls) -> tuple[str, ...]:
        """Tables used by `prepare`."""
        return ("panel", "scales", "test")

    def numbers_per_row(self) -> int:
        """Coefficients of a batch of windows."""
        return 16 * 3 * self.strategy.window * self.scales.n_scales

    def prepare(self, folder: Any, seed: int, say: Callable[[str], None], progress: Any = None) -> Prepared:
        """Loads the panel and draws the nulls."""
        panel, truth = self.panel.load(seed)
        n, n_assets = panel.levels.shape
        pairs = self.test.groups == "pairs"
        groups = list(itertools.combinations(range(n_assets), 2)) if pairs else [tuple(range(n_assets))]
        say(f"{panel.name}: {n:,} rows of {n_assets} assets, {len(groups):,} tests")
        scales, edge = self.scales.values, self.scales.edge
        shortest = n if pairs else min(n, self.strategy.window)
        most = 2 * edge * scales[-1] + 10
        if shortest < most:
            what = "panel" if pairs else "shorter of panel and strategy.window"
            raise DataError(
                f"the {what} has {shortest} rows, expected at least {most:.0f} for the scale {scales[-1]:g} with scales.edge = {edge:g} on both "
                "sides; use fewer scales or more rows"
            )
        if not pairs and n < self.strategy.window + 2 * self.strategy.every:
            raise DataError(
                f"{n} rows, expected at least strategy.window + 2 strategy.every = {self.strategy.window + 2 * self.strategy.every}"
            )
        if self.test.block > 0.5 * scales[-1]:
            raise DataError(
                f"test.block = {self.test.block} rows: expected at most half the largest scale ({scales[-1]:g}), beyond which a relation would "
                "survive in the draws; use more scales or shorter blocks"
            )
        key, real = jax.random.key(seed), jnp.result_type(float)
        values = np.log(panel.levels) if self.test.log else panel.levels
        levels, members = jnp.asarray(values - values[0], real), jnp.asarray(groups)
        simulate = jax.jit(null_ratios, static_argnums=(3, 4, 5, 6))
        settings = (members, scales, edge, self.test.block, self.test.n_draws)
        null = simulate(jax.random.fold_in(key, 0), levels, *settings)
        # What the walk forward calls significant is decided by its first window: the past of every trade.
        window_null = null
        if not pairs:
            window_null = simulate(jax.random.fold_in(key, 1), levels[: self.strategy.window], *settings)[:, 0]
        return Prepared(levels, members, null, window_null, HostReport(panel=panel, truth=truth, groups=groups))

    def plan(self, batch: Any, prepared: Prepared) -> tuple[tuple, str]:
        """Nothing to choose."""
        return (), f"none: scales {', '.join(f'{a:g}' for a in self.scales.values)} rows"

    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """Estimate, and trade where there is one relation."""
        return [("estimate", estimate_stage), *([("trade", trade_stage)] if self.test.groups == "all" else [])]

    def metrics(self, plan: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
        """Everything the report prints."""
        return cointegration_metrics(self, prepared, results)

    def provenance(self, prepared: Prepared) -> dict[str, Any]:
        """The panel's file."""
        return panel_provenance(prepared.report["panel"])

    def row(self, plan: Any, prepared: Prepared, key: PRNGKeyArray) -> dict[str, Array]:
        """Smallest corrected p-value, and what the walk made."""
        found = estimate_stage(self, prepared, {}, key)
        row = {"p": jnp.min(found["family_p"]), "ok": jnp.all(jnp.isfinite(found["p"]))}
        if self.test.groups == "all":
            summary = trade_stage(self, prepared, {}, key)["summary"]["walk"]
            row |= {name: summary[name] for name in ("pnl", "low", "high", "cost", "n_trades")}
        return row


def estimate_stage(experiment: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """Every group, against the null."""
    scales = experiment.scales
    found = estimate(prepared.levels, scales.values, scales.edge, experiment.test.block, prepared.groups)
    quantile = jnp.quantile(prepared.null, experiment.test.level, axis=0)
    p = jax.vmap(p_values, (0, 1))(found.ratio, prepared.null)
    family = family_p_values(p[:, -1], prepared.null[:, :, -1])
    return {"estimate": found, "p": p, "family_p": family, "critical": quantile}


def trade_stage(experiment: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """The walk forward, and the backtest that knows the future."""
    how = experiment.scales.values, experiment.scales.edge, experiment.test.block
    strategy = experiment.strategy
    walk = walk_forward(prepared.levels, prepared.window_null, *how, strategy, experiment.test.level)
    ahead = look_ahead(prepared.levels, *how, strategy)
    summary = {name: _summary(t, strategy, key) for name, t in (("walk", walk.trades), ("look_ahead", ahead))}
    return {"walk": walk, "look_ahead": ahead, "summary": summary}


def _summary(trades: SpreadTrades, strategy: Any, key: PRNGKeyArray) -> dict[str, Array]:
    """Totals, with a block-bootstrap interval of the P&L."""
    n_blocks = trades.pnl.shape[0] // strategy.every
    blocks = jnp.sum(trades.pnl[: n_blocks * strategy.every].reshape(n_blocks, strategy.every), axis=1)
    rest = jnp.sum(trades.pnl[n_blocks * strategy.every :])
    low, high = bootstrap_interval(jnp.sum, blocks, strategy.n_bootstrap, key)
    flips = jnp.sum(jnp.abs(jnp.diff(trades.side, prepend=0.0)) > 0)
    held = jnp.mean((trades.side != 0).astype(blocks.dtype))
    deviation = jnp.std(blocks, ddof=1)
    return {
        "pnl": jnp.sum(trades.pnl),
        "low": low + rest,
        "high": high + rest,
        "cost": jnp.sum(trades.cost),
        "n_trades": flips,
        "share_held": held,
        "sharpe_per_block": jnp.where(deviation > 0, jnp.mean(blocks) / jnp.where(deviation > 0, deviation, 1), 0),
    }
