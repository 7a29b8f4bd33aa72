"""Experiment `gate_search`: gates, widths, smoothing, limits and horizon by CMA-ES on recorded events, scored on events it has not seen."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mfamm_jax.experiments.experiment import AbstractExperiment, Arrays, ConfigError, Stage
from mfamm_jax.experiments.fit import Calibration
from mfamm_jax.experiments.gate_search_tables import gate_metrics
from mfamm_jax.experiments.hjb_sweep import named_scheme
from mfamm_jax.experiments.observe import Features
from mfamm_jax.experiments.quoting import Control, Execution, prepare_session
from mfamm_jax.experiments.quoting_run import (
    Plan,
    Prepared,
    build_policy,
    execution_rules,
    fee_costs,
    reference_problem,
    session_provenance,
)
from mfamm_jax.features.vpin import vpin_at_trades
from mfamm_jax.fields import Checked, in_precision, real_field, static_field
from mfamm_jax.policies import Covariates, QuoteRules, largest_problem
from mfamm_jax.simulation.replay import replay
from mfamm_jax.solvers.calibrate import Box
from mfamm_jax.solvers.cma import evolve, penalised
from mfamm_jax.solvers.hjb import Grid

# Range -> table that has the setting, and whether it is searched in logarithms.
HOMES = {
    "vpin_gate": ("quotes", False),
    "vpin_width": ("quotes", True),
    "vpin_reduced_size": ("quotes", False),
    "imbalance_gate": ("quotes", False),
    "imbalance_reduced_size": ("quotes", False),
    "min_half_spread": ("quotes", False),
    "max_half_spread": ("quotes", True),
    "vpin_smoothing": ("features", False),
    "risk_aversion": ("hjb", True),
    "fill_risk_aversion": ("hjb", True),
    "horizon": ("hjb", True),
}


def _range(unit: str, help: str) -> Any:
    return static_field(default=(), unit=unit, help=f"[low, high] of {help}; [] = stays as it is")


class Ranges(Checked):
    """What may move, and how far."""

    vpin_gate: tuple[float, ...] = _range("", "quotes.vpin_gate")
    vpin_width: tuple[float, ...] = _range("", "quotes.vpin_width")
    vpin_reduced_size: tuple[float, ...] = _range("", "quotes.vpin_reduced_size")
    imbalance_gate: tuple[float, ...] = _range("", "quotes.imbalance_gate")
    imbalance_reduced_size: tuple[float, ...] = _range("", "quotes.imbalance_reduced_size")
    min_half_spread: tuple[float, ...] = _range("price", "quotes.min_half_spread")
    max_half_spread: tuple[float, ...] = _range("price", "quotes.max_half_spread")
    vpin_smoothing: tuple[float, ...] = _range("", "features.vpin_smoothing")
    risk_aversion: tuple[float, ...] = _range("1/(price lot)", "hjb.risk_aversion")
    fill_risk_aversion: tuple[float, ...] = _range("1/price", "hjb.fill_risk_aversion")
    horizon: tuple[float, ...] = _range("s", "hjb.horizon")

    @property
    def free(self) -> tuple[str, ...]:
        """What has a range."""
        return tuple(field.name for field in dataclasses.fields(self) if getattr(self, field.name))


class Search(Checked):
    """Objective and size of the search."""

    drawdown_weight: Float[Array, ""] = real_field(
        default=0.5, lower=0.0, help="objective = P&L - drawdown_weight x largest drawdown"
    )
    max_drawdown: Float[Array, ""] = real_field(
        default=jnp.inf, lower=0.0, unit="price lot", help="largest drawdown allowed on the training part; inf = any"
    )
    penalty: Float[Array, ""] = real_field(default=100.0, lower=0.0, help="objective lost per unit of a violated limit")
    n_restarts: int = static_field(default=2, lower=1, help="searches; the best on the training part is taken")
    population: int = static_field(default=16, lower=4, help="members of a generation")
    n_generations: int = static_field(default=20, lower=1, help="of a search")


class Buckets(eqx.Module):
    """What VPIN is made from, so that its smoothing can be searched.

    Args:
        size, aggressor: Of every marketable order.
        volume: Of a bucket.
        training_order, test_order: Last order that a decision knows of; -1 = none yet.
        n_buckets: In the session.
    """

    size: Float[Array, " order"]
    aggressor: Int[Array, " order"]
    volume: Float[Array, ""]
    training_order: Int[Array, " decision"]
    test_order: Int[Array, " decision"]
    n_buckets: int = eqx.field(static=True)


class PreparedGates(eqx.Module):
    """As of `quoting`, with the orders behind VPIN."""

    session: Prepared
    buckets: Buckets


class GateSearch(AbstractExperiment):
    """Quotes of `quoting` whose rules are searched on the first half of a session and judged on the second.

    Args:
        market: Source of order flow.
        features: How covariates are computed.
        intensity: How (3) is fitted; the fit stays as it is.
        hjb: Control problem.
        quotes: Limits and gates.
        execution: Replay of recorded events.
        ranges: What is searched.
        search: How.
    """

    market: Checked
    features: Features
    intensity: Calibration
    hjb: Control
    quotes: QuoteRules
    execution: Execution
    ranges: Ranges
    search: Search

    @classmethod
    def prepared_paths(cls) -> tuple[str, ...]:
        """Tables used by `prepare`."""
        return ("market", "features", "intensity", "execution")

    def numbers_per_row(self) -> int:
        """A value table and a step matrix per node and member."""
        size = 2 * self.hjb.max_inventory + 1
        nodes = self.hjb.axes.n_risk * self.hjb.axes.n_skew
        return self.search.population * nodes * (4 * (self.hjb.n_steps + 1) * size + 2 * size**2)

    def prepare(self, folder: Path, seed: int, say: Callable[[str], None], progress: Any = None) -> PreparedGates:
        """As `quoting`, and checks the ranges."""
        if not self.ranges.free:
            raise ConfigError(f"ranges: nothing to search, expected [low, high] for some of {', '.join(HOMES)}")
        for name in self.ranges.free:
            given, is_log = getattr(self.ranges, name), HOMES[name][1]
            if len(given) != 2 or not given[0] < given[1] or (is_log and given[0] <= 0):
                raise ConfigError(
                    f"ranges.{name} is {list(given)}, expected [low, high] with low < high{' and low > 0' if is_log else ''}"
                )
            table = type(getattr(self, HOMES[name][0]))
            meaning = next(f for f in dataclasses.fields(table) if f.name == name).metadata["meaning"]
            problem = meaning.complaint(given) or ("" if np.isfinite(given).all() else "is not finite")
            if problem:
                raise ConfigError(f"ranges.{name} {problem}")
        loaded = prepare_session(self, folder, seed, say)
        observed, trades = loaded.observed, loaded.observed.trades
        last = np.searchsorted(trades.last_event, np.arange(len(observed.vpin)), side="right") - 1
        real = jnp.result_type(float)
        buckets = Buckets(
            size=jnp.asarray(trades.size, real),
            aggressor=jnp.asarray(trades.aggressor),
            volume=jnp.asarray(observed.bucket_volume, real),
            training_order=jnp.asarray(last[loaded.training_row]),
            test_order=jnp.asarray(last[loaded.test_row]),
            n_buckets=int(trades.size.sum() / observed.bucket_volume) + 1,
        )
        return PreparedGates(loaded.prepared, buckets)

    def provenance(self, prepared: PreparedGates) -> dict[str, Any]:
        """Data files with their hashes."""
        return session_provenance(prepared.session.report)

    def box(self) -> Box:
        """Of the ranges."""
        pairs = in_precision([getattr(self.ranges, name) for name in self.ranges.free])
        return Box(pairs[:, 0], pairs[:, 1], tuple(HOMES[name][1] for name in self.ranges.free))

    def given(self) -> Float[Array, " free"]:
        """Settings as the config has them."""
        values = [jnp.asarray(getattr(getattr(self, HOMES[name][0]), name)) for name in self.ranges.free]
        return jnp.stack(values).astype(self.box().low.dtype)

    def with_free(self, values: Float[Array, " free"]) -> tuple["GateSearch", Float[Array, ""] | None]:
        """The experiment with other settings, and the smoothing of VPIN if it is searched."""
        found = dict(zip(self.ranges.free, values, strict=True))
        smoothing = found.pop("vpin_smoothing", None)
        places = [(HOMES[name][0], name) for name in found]
        if not places:
            return self, smoothing
        changed = eqx.tree_at(
            lambda e: [getattr(getattr(e, table), name) for table, name in places], self, list(found.values())
        )
        return changed, smoothing

    def plan(self, batch: Any, prepared: PreparedGates) -> tuple[Plan, str]:
        """One scheme for every corner of the control problem's ranges."""
        session, grid = prepared.session, Grid(self.hjb.max_inventory, self.hjb.n_steps)
        box = self.box()
        moving = [i for i, name in enumerate(self.ranges.free) if HOMES[name][0] == "hjb"]
        corners = []
        for signs in itertools.product((0.0, 1.0), repeat=len(moving)):
            share = jnp.full(len(self.ranges.free), 0.5).at[jnp.asarray(moving, int)].set(jnp.asarray(signs))
            corners.append(box.at_share(share.astype(box.low.dtype)))

        def problem(experiment: Any, values: Array) -> Any:
            changed, _ = experiment.with_free(values)
            costs = fee_costs(changed.execution.replay, session.tape)
            return largest_problem(reference_problem(changed.hjb, session, costs), changed.hjb.axes)

        problems = [jax.vmap(lambda e, v=values: problem(e, v))(batch) for values in corners]
        scheme, reason = named_scheme(self.hjb.scheme, jax.tree.map(lambda *x: jnp.stack(x), *problems), grid)
        return (scheme, grid, scheme), reason

    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """Search on the training part, judge on both."""
        return [
            ("evolve", lambda *args: evolve_stage(plan, *args)),
            ("judge", lambda *args: judge_stage(plan, *args)),
        ]

    def metrics(self, plan: Any, prepared: Any, results: Arrays, key: PRNGKeyArray) -> dict[str, Any]:
        """Everything the report prints."""
        return gate_metrics(self, prepared, results)

    def kept(self, prepared: Any, results: Arrays) -> Arrays:
        """Under a name of its own."""
        return {"gates": results}

    def row(self, plan: Any, prepared: Any, key: PRNGKeyArray) -> dict[str, Array]:
        """What a search finds, on both parts; sweep over seeds to see how much of it is luck."""
        results = evolve_stage(plan, self, prepared, {}, key)
        results |= judge_stage(plan, self, prepared, results, key)
        judged = {name: x[:, 1] for name, x in results["judge"].items()}
        found = dict(zip(self.ranges.free, results["chosen"], strict=True))
        part = {f"{name}_{label}": x[i] for name, x in judged.items() for i, label in enumerate(("training", "test"))}
        return found | part | {"ok": jnp.isfinite(part["objective_test"])}


def covariates_with(
    decisions: Covariates, buckets: Buckets, order: Array, smoothing: Array | None, start: float
) -> Covariates:
    """Covariates of a part's decisions with VPIN smoothed otherwise."""
    if smoothing is None:
        return decisions
    vpin = vpin_at_trades(
        buckets.size, buckets.aggressor, buckets.volume, smoothing, n_buckets=buckets.n_buckets, start=start
    )
    known = jnp.where(order >= 0, vpin[jnp.maximum(order, 0)], start)
    return eqx.tree_at(lambda c: c.vpin, decisions, known.astype(decisions.vpin.dtype))


def replayed(
    plan: Plan, experiment: GateSearch, prepared: PreparedGates, values: Array, is_test: bool
) -> dict[str, Array]:
    """P&L, largest drawdown, fills and objective of settings on one part."""
    changed, smoothing = experiment.with_free(values)
    session, buckets = prepared.session, prepared.buckets
    tape, decisions, order = (
        (session.tape, session.decisions, buckets.test_order)
        if is_test
        else (session.training_tape, session.training_decisions, buckets.training_order)
    )
    covariates = covariates_with(decisions, buckets, order, smoothing, experiment.features.vpin_start)
    policy, ok = build_policy(changed, plan, session)
    result = replay(policy, tape, covariates, execution_rules(changed))
    objective = result.pnl - experiment.search.drawdown_weight * result.max_drawdown
    return {
        "pnl": result.pnl,
        "drawdown": result.max_drawdown,
        "fills": result.bid_fills + result.ask_fills,
        "objective": jnp.where(ok, objective, jnp.nan),
    }


def evolve_stage(plan: Plan, experiment: Any, prepared: Any, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """CMA-ES on the training part, from the given settings and from drawn ones; limits enter by penalty."""
    box, search = experiment.box(), experiment.search

    def loss(values: Array, _: Array) -> tuple[Array, Array]:
        found = replayed(plan, experiment, prepared, values, is_test=False)
        rules = experiment.with_free(values)[0].quotes
        limits = jnp.stack([found["drawdown"] - search.max_drawdown, rules.min_half_spread - rules.max_half_spread])
        return -found["objective"], jnp.where(jnp.isfinite(limits), limits, 0.0)  # without a limit it is -inf

    # Well inside: at a bound a step in free coordinates moves nothing.
    first = box.at_share(jnp.clip(jnp.nan_to_num(box.share(experiment.given())), 0.1, 0.9))
    starts = jnp.concatenate([first[None], box.draw(key, search.n_restarts - 1)])
    sizes = {"population": search.population, "n_generations": search.n_generations}
    found = evolve(loss, box, starts, key, penalty=search.penalty, **sizes)
    # The mean of the last generation: events are the same for all members, so the best member is the most fitted to them.
    at_end = jax.lax.map(lambda x: penalised(loss(x, key), search.penalty), found.parameters)
    restart = jnp.nanargmin(at_end)
    return {"evolution": found, "chosen": found.parameters[restart], "restart": restart}


def judge_stage(plan: Plan, experiment: Any, prepared: Any, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """(part, settings) numbers: training and test; as given, mean of the best search, its best member."""
    evolution = results["evolution"]
    best = evolution.best[results["restart"]]
    rows = jnp.stack([experiment.given(), results["chosen"], best])
    parts = [jax.lax.map(lambda x, t=t: replayed(plan, experiment, prepared, x, t), rows) for t in (False, True)]
    return {"judge": jax.tree.map(lambda *x: jnp.stack(x), *parts), "judged": rows}
