"""Experiment `mfamm`: the whole strategy, its clocks, its accounts and its components."""

import dataclasses
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

import mfamm_jax
from mfamm_jax.experiments import mfamm_figures
from mfamm_jax.experiments.config import ConfigError, construct, load_config
from mfamm_jax.experiments.mfamm_run import (
    ablate_stage,
    last_of_intervals,
    learn_stage,
    parts_of,
    persistence,
    rehearse_stage,
    tables_stage,
    trade,
    variants,
)
from mfamm_jax.experiments.mfamm_state import COMPONENTS, Clock, components
from mfamm_jax.experiments.mfamm_tables import paired_differences
from mfamm_jax.experiments.plain import flatten
from mfamm_jax.market.events import DataError
from mfamm_jax.policies import Covariates

from ..test_equations import EQUATIONS

pytestmark = pytest.mark.thorough
SMALL = ["clock.interval=2.0", "execution.decision_interval=0.4", "markets.training=260.0", "markets.warm_up=60.0"]
SMALL += ["markets.test=60.0", "markets.n_sessions=2", "features.volatility_window=40", "learning.n_steps=20"]
SMALL += ["learning.n_updates=5", "hjb.max_inventory=3", "hjb.n_steps=16", "hjb.axes.n_risk=2", "hjb.axes.n_skew=3"]
SMALL += ["arbitrage.window=20", "limits.barrier=6.0"]


class Called:
    """Which functions of the package run, by (module, name)."""

    def __enter__(self):
        self.codes = set()
        sys.setprofile(lambda frame, event, _: self.codes.add(frame.f_code) if event == "call" else None)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)
        root = str(Path(mfamm_jax.__file__).parent)
        inside = [code for code in self.codes if code.co_filename.startswith(root)]
        self.found = {
            (Path(code.co_filename).relative_to(root).with_suffix("").as_posix().replace("/", "."), part)
            for code in inside
            for part in code.co_qualname.split(".")
        }


class Ready:
    """A prepared experiment with its model."""

    def __init__(self, root, *overrides):
        self.experiment = construct(load_config("mfamm", [*SMALL, *overrides]))
        self.prepared = self.experiment.prepare(root, 0, lambda _: None)
        self.key = jax.random.key(0)
        batch = jax.tree.map(lambda x: jnp.asarray(x)[None], self.experiment)
        plan, _ = self.experiment.plan(batch, self.prepared)
        results = {}
        for stage in (lambda *args: tables_stage(plan, *args), rehearse_stage, learn_stage):
            results |= eqx.filter_jit(stage)(self.experiment, self.prepared, results, self.key)
        self.results, self.model = results, results["_model"]
        self._path = eqx.filter_jit(lambda *args: trade(self.experiment, self.prepared, *args, self.key, "path"))
        self.session = jax.tree.map(lambda x: x[0], self.prepared.tests)

    def path(self, session=None, weights=None):
        """The first session with everything that was said."""
        weights = components() if weights is None else weights
        return self._path(self.session if session is None else session, self.model, weights)


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    with jax.enable_x64(True):
        with Called() as called:
            ready = Ready(tmp_path_factory.mktemp("mfamm"))
            ready.path()
        ready.called = called.found
        yield ready


@pytest.fixture(scope="module")
def many(ready):
    """Every variant on every session."""
    return eqx.filter_jit(ablate_stage)(ready.experiment, ready.prepared, ready.results, ready.key)["ablation"]


def test_every_component_changes_the_order_log_and_its_worth_is_told(ready, many):
    found = ready.path()
    trade_results = {**found.said, "seconds": jnp.cumsum(ready.session.clock.seconds), "parts": parts_of(found)}
    paths = tuple(result.path for result in found.instruments)
    results = ready.results | {"trade": trade_results, "ablation": many, "_paths": paths}
    metrics = ready.experiment.metrics(None, ready.prepared, results, ready.key)
    assert set(metrics["orders_changed"]) == {*COMPONENTS, "none"}
    assert all(n == 2 for n in metrics["orders_changed"].values()), metrics["orders_changed"]
    assert metrics["ok"]
    assert abs(metrics["identity_residual"]) < 1e-9
    assert metrics["largest_inventory"] <= 3 + 1e-9
    assert [row[0].partition(":")[0] for row in metrics["tables"][0]["rows"]] == [
        *("everything", *(f"without {name}" for name in COMPONENTS), "no component")
    ]
    parts = {row[0]: row[1] for row in metrics["tables"][1]["rows"]}
    assert parts["all"] == pytest.approx(metrics["pnl"], abs=1e-9)
    arrays = flatten(ready.experiment.kept(ready.prepared, results))
    for figure in (mfamm_figures.ablation, mfamm_figures.session):
        assert figure(arrays).startswith("<svg")
    logs = ready.experiment.logs(ready.prepared, results)
    orders, fills, children = (pl.DataFrame(logs[name]) for name in ("orders", "fills", "children"))
    assert set(fills["asset"].unique()) <= {1, 2, 3}
    assert len(orders) > len(fills) > 5
    lots = sum(r.bid_fills + r.ask_fills for r in found.instruments)
    assert fills["lots"].sum() == pytest.approx(float(lots))
    assert children["lots"].sum() == pytest.approx(float(jnp.sum(jnp.abs(found.said["child"]))))
    assert set(children["venue"].unique()) <= {"A", "B", "C", "D"}


def test_what_the_list_of_equations_says_of_this_experiment_really_ran(ready):
    mine = {name: (module, function) for name, (module, function, config) in EQUATIONS.items() if config == "mfamm"}
    assert len(mine) >= 19
    missing = {name: place for name, place in mine.items() if place not in ready.called}
    # A class whose methods are inherited runs under its own name only when it is made.
    assert not missing


def test_no_slow_decision_knows_anything_of_an_unfinished_interval(ready):
    """Prices and conditions of interval k change capital, risk and position from interval k + 1 on, and never in k."""
    base = ready.path().said
    number = np.asarray(ready.session.clock.number)
    for k in (3, 11, 22):
        later = jnp.asarray(number >= k)
        tapes = tuple(
            dataclasses.replace(t, decision_mid=jnp.where(later, t.decision_mid + 0.37, t.decision_mid))
            for t in ready.session.tapes
        )
        shocked = tuple(
            Covariates(jnp.where(later, 2.5 * c.volatility, c.volatility), c.vpin, c.imbalance, c.book_features)
            for c in ready.session.covariates
        )
        moved = ready.path(dataclasses.replace(ready.session, tapes=tapes, covariates=shocked)).said
        for name in ("capital", "scale", "side"):
            np.testing.assert_array_equal(base[name][number <= k], moved[name][number <= k], err_msg=name)
        # What the schedule sends within k was ordered before k.
        np.testing.assert_array_equal(base["child"][number <= k], moved["child"][number <= k])
        assert not np.array_equal(base["scale"][number == k + 1], moved["scale"][number == k + 1])


def test_the_pair_trade_s_account_is_what_its_children_say(ready):
    """Position, half spreads, impact and venues computed again from the children, one by one."""
    found = ready.path()
    said, memory, session = found.said, found.memory, ready.session
    child, mid, split = (np.asarray(said[name], float) for name in ("child", "mid", "split"))
    np.testing.assert_allclose(said["position"], np.cumsum(child, axis=0), atol=1e-9)
    assert np.abs(child).sum() > 1
    revaluation = np.sum(np.cumsum(child, axis=0)[:-1] * np.diff(mid, axis=0))
    half_spreads = np.sum(np.abs(child) * np.asarray(session.clock.half_spread))
    rules, matrix, impact = ready.experiment.rebalancing, np.asarray(ready.model.impact), 0.0
    state = np.zeros(3)
    for lots, seconds in zip(child, np.asarray(session.clock.seconds)):
        state = state * np.exp(-float(rules.resilience) * seconds)
        push = matrix @ (np.sign(lots) * np.abs(lots) ** float(rules.exponent))
        impact += lots @ (state + push / (1 + float(rules.exponent)))
        state = state + push
    np.testing.assert_allclose(memory.half_spread_cost, half_spreads, rtol=1e-9)
    np.testing.assert_allclose(memory.impact_cost, impact, rtol=1e-9)
    parts = parts_of(found)
    np.testing.assert_allclose(parts["pair revaluation"], revaluation, atol=1e-9)
    venues = ready.model.venues
    by_venue = np.abs(child)[:, :, None] * split
    fees = np.sum(np.asarray(venues.fees) * by_venue + 0.5 * np.asarray(venues.impacts) * by_venue**2)
    fixed = float(memory.venue_cost) - fees
    assert 0 < fixed < (np.abs(child) > 0).sum() * float(jnp.sum(venues.activation_costs) + jnp.sum(venues.leakage))
    np.testing.assert_allclose(split.sum(axis=2), 1, atol=1e-9)


def test_orders_are_worked_off_within_their_interval(ready):
    said, clock = ready.path().said, ready.session.clock
    at = np.asarray(last_of_intervals(clock))
    position, side = np.asarray(said["position"])[at], np.asarray(said["side"])[at]
    amount = 2.0 * np.asarray(said["capital"])[at, -2] * np.prod(np.asarray(said["scale"])[at], axis=1) * side
    wanted = np.round(amount[:, None] * np.asarray(ready.model.weights) / 0.1) * 0.1
    held = np.concatenate([np.zeros((1, 3)), position[:-1]])
    off = np.abs(wanted - held).sum(axis=1)
    total = np.prod(np.asarray(said["scale"])[at], axis=1)
    follows = (np.diff(total, prepend=1) < 0) & (np.abs(wanted).sum(axis=1) < np.abs(held).sum(axis=1))
    stays = (np.diff(side, prepend=0) == 0) & (off <= 0.5 * np.abs(held).sum(axis=1)) & ~follows
    assert stays[side != 0].any()
    np.testing.assert_allclose(position, np.where(stays[:, None], held, wanted), atol=1e-9)


def test_capital_and_risk_stay_in_their_bounds(ready):
    said = ready.path().said
    capital, scale = np.asarray(said["capital"]), np.asarray(said["scale"])
    np.testing.assert_allclose(capital.sum(axis=1), 5, atol=1e-9)
    assert (capital >= 0.4 - 1e-12).all()
    assert ((scale >= 0) & (scale <= 1)).all()
    assert (scale < 1).any(axis=0).all()
    assert (np.abs(np.asarray(said["inventory"])) <= 3 + 1e-9).all()
    size = np.asarray(said["size"])
    assert ((size >= 0) & np.isfinite(np.asarray(said["depth"]))).all()


def test_the_barrier_s_scale_is_admitted_by_the_formula_of_first_passage(ready):
    """(19): at the scale that binds the probability to reach the barrier is the admitted one."""
    from mfamm_jax.experiments.mfamm_strategy import WholeStrategy
    from mfamm_jax.risk.drawdown import barrier_probability

    strategy = WholeStrategy(
        ready.experiment,
        ready.model,
        components(),
        ready.session.clock,
        ready.prepared.tick_size,
        jnp.zeros(3),
        jnp.asarray(0.1),
        ready.key,
    )
    model = ready.model
    for total, left in ((0.0, 30.0), (-2.0, 20.0), (1.0, 400.0)):
        scale = strategy.risk_scale(jnp.zeros(2), jnp.asarray(total), jnp.asarray(left))[1]
        assert 0 < scale < 1
        height = float(ready.experiment.limits.barrier * model.value_at_risk) + total
        found = barrier_probability(0.0, scale * model.deviation, height, left)
        np.testing.assert_allclose(found, 0.05, rtol=1e-6)
    assert strategy.risk_scale(jnp.zeros(2), jnp.asarray(-1e6), jnp.asarray(5.0))[1] == 0


def test_all_variants_at_once_give_what_each_gives_alone(ready, many):
    """vmap = loop, and one compile for all."""
    names, _ = variants()
    single = eqx.filter_jit(
        lambda session, w: trade(ready.experiment, ready.prepared, session, ready.model, w, ready.key)
    )
    for number, weights in ((0, components()), (4, components("arbitrage")), (len(names) - 1, components(only=()))):
        for s in range(2):
            session = jax.tree.map(lambda x, s=s: x[s], ready.prepared.tests)
            found = single(session, weights)
            assert found.memory.fingerprint == many["fingerprint"][s, number]
            pnl = sum(r.pnl for r in found.instruments) + parts_of(found)["pair"]
            np.testing.assert_allclose(pnl, many["pnl"][s, number], atol=1e-9)
    # Recording does not change what is done.
    assert ready.path().memory.fingerprint == many["fingerprint"][0, 0]
    assert float(many["parts"]["pair"][0, 4]) == 0.0


def test_differences_are_paired_by_session_or_block():
    totals = np.cumsum(np.random.default_rng(0).normal(size=(5, 3, 40)), axis=2)
    sessions, said = paired_differences({"totals": totals})
    np.testing.assert_allclose(sessions, totals[:, :1, -1] - totals[:, 1:, -1])
    assert said == "5 sessions"
    blocks, said = paired_differences({"totals": totals[:1]})
    assert blocks.shape == (10, 2)
    np.testing.assert_allclose(blocks.sum(axis=0), totals[0, 0, -1] - totals[0, 1:, -1])
    assert said == "10 blocks of 1 session"


def test_persistence_is_the_slope_of_the_next_interval_s_mean():
    rng = np.random.default_rng(3)
    n, decay = 60_000, np.exp(-1 / 8)
    x = np.zeros(n)
    for i in range(1, n):
        x[i] = decay * x[i - 1] + rng.normal()
    zeros = jnp.zeros(n)
    covariates = Covariates(zeros, zeros, jnp.asarray(x), jnp.stack([jnp.asarray(x)] * 6, axis=1))
    none = jnp.zeros(0)
    clock = Clock(
        none > 0, none.astype(int), none, none, none.astype(int), jnp.zeros((0, 1)), jnp.zeros((0, 1), bool), n // 10
    )
    found = persistence(covariates, clock)
    np.testing.assert_allclose(
        found, np.mean(decay ** np.arange(1, 11)), atol=0.03
    )  # of about 4,000 independent values


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("venues.capacities=[0.5,0.2,0.2,0.1]", "venues.capacities add up to 1 lots"),
        ("learning.n_steps=90", "intervals to learn from"),
        ("arbitrage.n_scales=8", "for arbitrage.n_scales = 8"),
    ],
)
def test_impossible_clocks_are_refused(tmp_path, override, said):
    with pytest.raises((ConfigError, DataError), match=said):
        construct(load_config("mfamm", [*SMALL, "markets.n_sessions=1", override])).prepare(tmp_path, 0, lambda _: None)


def test_orders_stay_within_the_venues_and_leave_no_dust(ready):
    """Capacities of one lot in all: both legs are cut alike, and every position is a whole number of increments."""
    small = eqx.tree_at(lambda m: m.venues.capacities, ready.model, jnp.array([0.5, 0.2, 0.2, 0.1]))
    found = eqx.filter_jit(
        lambda model: trade(ready.experiment, ready.prepared, ready.session, model, components(), ready.key, "path")
    )(small)
    child, at = np.asarray(found.said["child"]), np.asarray(last_of_intervals(ready.session.clock))
    traded = np.abs(np.diff(np.asarray(found.said["position"])[at], axis=0, prepend=0))
    assert 0.9 < traded.max() < 1.05 + 1e-9  # one lot, to the nearest increment
    for lots in (child, np.asarray(found.said["position"]), np.asarray(ready.path().said["child"])):
        assert set(np.round(np.abs(lots[lots != 0]) / 0.1, 9) % 1) <= {0.0}
        assert np.abs(lots[lots != 0]).min() > 0.099


def test_an_unknown_component_is_named():
    with pytest.raises(ValueError, match="no component scheduling"):
        components("scheduling")
