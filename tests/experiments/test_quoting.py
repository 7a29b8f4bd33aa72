"""The market maker end to end, in this process, so that shapes and types are checked as well."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from mfamm_jax.experiments.config import construct, load_config
from mfamm_jax.experiments.fit import Calibration, calibrate_sides
from mfamm_jax.experiments.hjb_sweep import HJBExperiment
from mfamm_jax.experiments.observe import Features, intensity_rows, observe
from mfamm_jax.experiments.plain import flatten
from mfamm_jax.experiments.quoting import Execution, replay_part
from mfamm_jax.experiments.quoting_run import HostReport, Prepared, build_policy, execution_rules, start_state
from mfamm_jax.experiments.record import RunFolder
from mfamm_jax.experiments.runner import DONE, run
from mfamm_jax.experiments.sweep import stack
from mfamm_jax.market.events import BookSnapshots, BookUpdates, DataError, Session
from mfamm_jax.market.ladder import build_ladder
from mfamm_jax.market.synthetic import generate_session
from mfamm_jax.policies import Covariates, SymmetricPolicy
from mfamm_jax.simulation.execution import ReplayConfig
from mfamm_jax.simulation.replay import replay
from mfamm_jax.solvers.hjb import HanWong

SMALL = [
    "market.duration=240.0",
    "simulation.n_paths=256",
    "simulation.n_steps=300",
    "hjb.n_steps=16",
    "hjb.max_inventory=4",
    "hjb.axes.n_risk=5",
    "hjb.axes.n_skew=5",
    "risk.n_bootstrap=20",
    "sweep.hjb.risk_aversion=[0.05,0.2]",
    "sweep.hjb.decay_scale=[0.8,1.0,1.25]",
]


def run_small(root, *overrides):
    config = load_config("quickstart", [*SMALL, *overrides])
    folder = RunFolder(root, config)
    folder.open(fresh=False)
    return run(config, folder, say=lambda _: None)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return run_small(tmp_path_factory.mktemp("runs") / "one")


def test_the_run_succeeds_and_its_numbers_agree_with_each_other(outcome):
    metrics = outcome.metrics
    assert outcome.code == DONE
    # Two numerical methods, the stationary closed form, the exact law and the simulation tell the same story.
    assert metrics["scheme_difference"] < 1e-7
    # The closed form knows neither the inventory limit of 4 nor the difference of the sides' intensities.
    assert metrics["closed_form_difference"] < 0.03
    simulated = metrics["simulation"]["summary"]["pnl"]
    assert abs(simulated["mean"] - metrics["expected_pnl"]) < 4 * simulated["error"]
    assert abs(simulated["std"] / metrics["pnl_std"] - 1) < 0.2
    assert metrics["identity_residual"] < 1e-9
    # d E[P&L] / d (risk aversion, decay, volatility) by autodiff beside central differences.
    assert metrics["gradient_error"] < 1e-6
    assert metrics["gradient"]["decay"]["autodiff"] < 0
    assert metrics["replay_fills"] > 10
    assert metrics["replay"]["max_inventory"] <= 4


def test_the_run_folder_is_complete(outcome):
    root = outcome.folder
    manifest = json.loads((root / "manifest.json").read_text())
    assert manifest["status"] == "done"
    assert {"prepare", "solve", "simulate", "replay", "feedback", "gradient", "sweep"} <= set(manifest["stages"])
    assert len(manifest["data"]["source"]) == 2
    rows = pl.concat([pl.read_parquet(p) for p in sorted((root / "parts").glob("*.parquet"))])
    assert len(rows) == 6
    assert rows["ok"].all()
    page = (root / "report.html").read_text()
    for title in (
        "Profit and loss",
        "Where it comes from",
        "Calibration",
        "Sweep",
        "Sensitivities",
        "Against symmetric",
    ):
        assert title in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert json.loads((root / "data" / "truth.json").read_text())["preset"] == "small_tick"


def test_the_logs_hold_every_order_and_fill_of_the_replay(outcome):
    fills, orders = (pl.read_parquet(outcome.folder / "logs" / f"{name}.parquet") for name in ("fills", "orders"))
    assert len(fills) == outcome.metrics["replay_fills"]
    assert orders["filled_lots"].sum() == fills["lots"].sum()
    lots = np.where(fills["side"] == "bid", 1, -1) * fills["lots"].to_numpy()
    np.testing.assert_array_equal(np.cumsum(lots), fills["inventory_after"].to_numpy())
    with np.load(outcome.folder / "arrays" / "base.npz") as arrays:
        path = {name: arrays[f"replay/path/{name}"] for name in ("mid", "fill_mid", "fill")}
    first = np.flatnonzero(path["fill"].sum(axis=1) > 0)[0]
    reference = fills["mid_before"][0] - path["fill_mid"][first]  # the arrays' prices are relative to it
    pnl = -(lots * (fills["price"].to_numpy() - reference)).sum() + lots.sum() * path["mid"][-1]
    np.testing.assert_allclose(pnl, outcome.metrics["replay_pnl"], rtol=1e-9)


@pytest.mark.slow
def test_a_sweep_row_is_the_base_run_with_that_parameter(outcome, tmp_path):
    rows = pl.concat([pl.read_parquet(p) for p in sorted((outcome.folder / "parts").glob("*.parquet"))])
    row = rows.filter((pl.col("hjb.risk_aversion") == 0.2) & (pl.col("hjb.decay_scale") == 1.25)).row(0, named=True)
    alone = run_small(
        tmp_path / "alone", "hjb.risk_aversion=0.2", "hjb.decay_scale=1.25", "sweep.hjb.decay_scale=[1.25]"
    )
    for name in ("half_spread", "expected_pnl", "pnl_std", "replay_pnl", "replay_fills"):
        # The sweep sizes one scheme for all its rows, the base run for its own.
        assert row[name] == pytest.approx(alone.metrics[name], rel=1e-9), name


@pytest.mark.slow
def test_the_same_config_and_seed_give_the_same_metrics(outcome, tmp_path):
    again = run_small(tmp_path / "two")
    assert (again.folder / "metrics.json").read_bytes() == (outcome.folder / "metrics.json").read_bytes()


def test_resolved_config_alone_repeats_the_run(outcome, tmp_path):
    config = load_config(str(outcome.folder / "resolved.toml"))
    assert RunFolder(tmp_path, config).resolved == (outcome.folder / "resolved.toml").read_text()


def test_one_compile_serves_the_whole_sweep(tmp_path, monkeypatch):
    traced = []
    original = HJBExperiment.row

    def counted(self, *args):
        traced.append(self)
        return original(self, *args)

    monkeypatch.setattr(HJBExperiment, "row", counted)
    axes = [
        "sweep.parameters.volatility=[0.2,0.4]",
        "sweep.parameters.risk_aversion=[0.1,0.2]",
        "batch_rows=16",
        "chunk_size=16",
    ]
    config = load_config("hjb_sweep", axes)
    folder = RunFolder(tmp_path / "sweep", config)
    folder.open(fresh=False)
    outcome = run(config, folder, say=lambda _: None)
    assert outcome.metrics["sweep"] == {"rows": 64, "failed": 0}
    assert len(list((tmp_path / "sweep" / "parts").glob("*.parquet"))) == 4
    assert len(traced) == 2  # once for the base run's metrics, once for the sweep


@pytest.mark.slow
def test_replayed_quotes_react_to_the_state_at_each_decision(sessions):
    """The same tape with more volatility, toxicity or imbalance at the decisions: other orders."""
    config = load_config("quickstart", SMALL)
    experiment = construct(config)
    observed = observe(sessions[0], experiment.features)
    tape, decisions, *_ = replay_part(
        sessions[0], build_ladder(sessions[0]), observed, experiment.execution, observed.train_end_ns, None
    )
    bid, ask = calibrate_sides(intensity_rows(sessions[0], observed), experiment.intensity)
    reference = Covariates(0.05, 0.3, 0.0, jnp.zeros(6))
    prepared = Prepared(bid, ask, reference, tape, decisions, tape, decisions, jnp.asarray(0.01), HostReport())
    plan, _ = experiment.plan(stack(experiment, {}, 1), prepared)
    policy, ok = build_policy(experiment, plan, prepared)
    assert ok

    @jax.jit
    def resting(decisions):
        path = replay(policy, tape, decisions, execution_rules(experiment), record="path").path
        return path.order_ticks, path.order_size

    ticks, size = resting(decisions)
    for change in (
        lambda d: eqx.tree_at(lambda c: c.volatility, d, 3 * d.volatility),
        lambda d: eqx.tree_at(lambda c: c.imbalance, d, -d.imbalance),
        lambda d: eqx.tree_at(lambda c: c.book_features, d, d.book_features + 1),
    ):
        other, _ = resting(change(decisions))
        assert (np.asarray(other) != np.asarray(ticks)).mean() > 0.1
    _, gated = resting(eqx.tree_at(lambda c: c.vpin, decisions, 0 * decisions.vpin + 0.9))
    assert np.asarray(size).sum() > 0
    assert np.asarray(gated).sum() == 0  # VPIN above the gate of 0.7: nothing is quoted


def part(session: Session, rows: np.ndarray) -> Session:
    """Some rows of a session."""
    updates = BookUpdates(*(x[rows] for x in vars(session.updates).values() if x is not None))
    books = BookSnapshots(*(x[rows] for x in vars(session.books).values()))
    return Session(session.name, session.tick_size, updates, books, session.clock)


def with_other_future(session: Session, other: Session, row: int) -> Session:
    """Rows up to `row`, then the other session's rows later in time."""
    after = other.updates.t_ns > session.updates.t_ns[row]
    head, tail = part(session, np.arange(row + 1)), part(other, np.flatnonzero(after))
    join = {
        name: type(a)(
            *(np.concatenate(pair) for pair in zip(vars(a).values(), vars(b).values()) if pair[0] is not None)
        )
        for name, a, b in (("updates", head.updates, tail.updates), ("books", head.books, tail.books))
    }
    return Session(session.name, session.tick_size, join["updates"], join["books"], session.clock)


@pytest.fixture(scope="module")
def sessions():
    return [generate_session("small_tick", 240.0, seed)[0] for seed in (1, 2)]


@jax.jit
def replayed_path(tape, decisions):
    return replay(SymmetricPolicy(0.06, 5.0), tape, decisions, ReplayConfig(), record="path").path


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(4))
def test_the_future_changes_no_feature_quote_or_fill_before_it(sessions, seed):
    """Bit-identical up to a random event of the test part, from raw events to fills."""
    first, other = sessions
    # Both recordings end together, so that halves and horizons are the same.
    end = min(s.updates.t_ns[-1] for s in sessions)
    rng = np.random.default_rng(seed)
    n = len(first.updates)
    cut = int(rng.integers(0.55 * n, 0.95 * n))
    features = Features(bucket_volume=2000.0)
    seen = []
    for session in (first, with_other_future(first, other, cut)):
        session = part(session, session.updates.t_ns <= end)
        updates = session.updates
        updates.t_ns[-1] = end
        observed = observe(session, features)
        tape, decisions, *_ = replay_part(
            session, build_ladder(session), observed, Execution(replay=ReplayConfig()), observed.train_end_ns, None
        )
        path = replayed_path(tape, decisions)
        seen.append((updates, observed, decisions, tape, flatten({"path": path})))
    t_cut = first.updates.t_ns[cut]
    (updates, before, decisions, tape, path), (_, after, later_decisions, later_tape, later_path) = seen
    rows = updates.t_ns <= t_cut
    for name in ("mid_ticks", "half_spread_ticks", "imbalance", "vpin", "volatility", "book_features"):
        x, y = getattr(before, name), getattr(after, name)
        np.testing.assert_array_equal(x[: rows.sum()], y[: rows.sum()], err_msg=name)
    seconds = np.cumsum(np.asarray(tape.moment.seconds)), np.cumsum(np.asarray(later_tape.moment.seconds))
    n_steps = int((seconds[0] * 1e9 + before.train_end_ns < t_cut - 1e7).sum())
    assert n_steps > 50
    np.testing.assert_array_equal(seconds[0][:n_steps], seconds[1][:n_steps])
    for name, values in path.items():
        np.testing.assert_array_equal(values[:n_steps], later_path[name][:n_steps], err_msg=name)
    n_decisions = int((before.train_end_ns + 0.5e9 * np.arange(len(decisions.vpin)) < t_cut).sum())
    for x, y in zip(jax.tree.leaves(decisions), jax.tree.leaves(later_decisions)):
        np.testing.assert_array_equal(x[:n_decisions], y[:n_decisions])


@pytest.mark.thorough
@pytest.mark.parametrize("decay_from", ["touch", "reach", "mid"])
def test_every_calibration_mode_gives_positive_intensities_and_errors(sessions, decay_from):
    session = sessions[0]
    observed = observe(session, Features(bucket_volume=2000.0))
    sides = calibrate_sides(intensity_rows(session, observed), Calibration(decay_from=decay_from))
    for side in sides:
        assert side.decay > 0
        assert side.own_decay_error > 0
        assert jnp.isfinite(side.fit.coefficients).all()
        assert (side.fit.standard_errors > 0).all()
    assert sides[0].decay == sides[1].decay
    # Buyers come when bids outweigh asks, sellers in the opposite case.
    assert sides[1].fit.coefficients[8] > 0 > sides[0].fit.coefficients[8]


def test_a_session_too_short_to_fit_says_so():
    session, _ = generate_session("quiet_small_tick", 40.0, 0)
    with pytest.raises(DataError, match="marketable orders in the training part, expected at least 20"):
        observe(session, Features())


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("lobster_aapl_20120621", marks=pytest.mark.slow),
        pytest.param(
            "lobster_amzn_20120621/LOBSTER_SampleFile_AMZN_2012-06-21_5.zip", marks=pytest.mark.slow, id="amzn"
        ),
    ],
)
def test_the_lobster_experiment_runs_on_real_data(data_folder, tmp_path, path):
    overrides = [
        f"market.path={data_folder / path}",
        "simulation.n_paths=256",
        "sweep.hjb.risk_aversion=[0.001]",
    ]
    config = load_config("lobster", overrides)
    folder = RunFolder(tmp_path / "real", config)
    folder.open(fresh=False)
    metrics = run(config, folder, say=lambda _: None).metrics
    assert metrics["ok"]
    assert metrics["identity_residual"] < 1e-9
    assert metrics["replay_fills"] > 50
    for side in ("bid", "ask"):
        rows = metrics["fit"][side]["coefficients"]
        assert all(np.isfinite(row["value"]) and row["standard_error"] > 0 for row in rows.values())
    page = (tmp_path / "real" / "report.html").read_text()
    assert "Fitted on the first half of the session, replayed on the second" in page
    assert metrics["gradient_error"] < 1e-5


@pytest.mark.slow
def test_a_scheme_with_tolerances_of_its_own_makes_the_same_policy(tmp_path):
    """Adaptive implicit steps, whose tolerances are arrays: what a limited depth over a long horizon needs."""
    overrides = ["hjb.axes.n_risk=2", "hjb.axes.n_skew=1", "hjb.horizon=60.0"]
    experiment = construct(load_config("quickstart", [*SMALL, *overrides]))
    prepared = experiment.prepare(tmp_path, 0, lambda _: None)
    (scheme, grid, second), _ = experiment.plan(stack(experiment, {}, 1), prepared)
    found = []
    for chosen in (scheme, HanWong(1e-6, order=4)):
        policy, ok = build_policy(experiment, (chosen, grid, second), prepared)
        assert ok
        found.append(policy(start_state(experiment.hjb, prepared)))
    for side in ("bid_depth", "ask_depth"):
        np.testing.assert_allclose(*(getattr(quotes, side) for quotes in found), atol=1e-4)
