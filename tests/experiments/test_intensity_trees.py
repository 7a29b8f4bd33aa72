"""Trees recover what a log-linear rate cannot; what cannot be fitted is named; the experiment runs end to end."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before xgboost starts its threads

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
import xgboost

from mfamm_jax.experiments.config import ConfigError, construct, load_config
from mfamm_jax.experiments.observe import Features, intensity_rows, observe
from mfamm_jax.experiments.quoting_run import HostReport
from mfamm_jax.experiments.record import RunFolder
from mfamm_jax.experiments.rows import Sweep
from mfamm_jax.experiments.runner import DONE, run
from mfamm_jax.experiments.tree_fit import Boosting, Counts, Lives, constant_features, fit_trees, in_jax
from mfamm_jax.experiments.tree_judge import LastBlock, LogLinear, Prepared, SideModel, _judge, _ratio
from mfamm_jax.experiments.tree_rows import STATE, depth_rows, order_reach, tick_depths
from mfamm_jax.market.events import DataError
from mfamm_jax.market.synthetic import generate_session
from mfamm_jax.models import depth_table
from mfamm_jax.models.boosted_trees import surrogate_error
from mfamm_jax.solvers.hjb import ExplicitRK, Grid, HJBProblem, solve_hjb
from mfamm_jax.solvers.likelihood import fit_poisson

from ..checks import assert_close, check_grads

pytestmark = pytest.mark.thorough

NAMES = ("depth", "imbalance", "other")
SETTINGS = Boosting(depth=3, learning_rate=0.1, min_events=200.0)


def planted(features):
    """Flat near the touch, then dying fast; one jump in the imbalance: no exponential of a sum."""
    depth, imbalance = features[:, 0], features[:, 1]
    return 2.0 / (1 + (depth / 0.5) ** 4) * np.where(imbalance > 0.2, 3.0, 1.0)


def sample(n, seed, seconds=10.0):
    rng = np.random.default_rng(seed)
    features = np.column_stack([rng.integers(1, 21, n) / 20, rng.uniform(-1, 1, (n, 2))])
    exposure = rng.exponential(seconds, n)
    return Counts(features, rng.poisson(exposure * planted(features)).astype(float), exposure)


_log_rate = jax.jit(lambda trees, features: trees.log_rate(features))


def log_rate(trees, features):
    return np.asarray(_log_rate(trees, jnp.asarray(features)))


@pytest.fixture(scope="module")
def grown():
    training, stopping = sample(100_000, 1), sample(30_000, 2)
    return training, fit_trees(training, stopping, SETTINGS, NAMES)


def test_trees_recover_a_rate_within_5_percent_where_log_linear_is_off_by_more_than_20(grown):
    training, fit = grown
    depths = np.arange(1, 21) / 20
    grid = np.array([[d, i, 0.0] for d in depths for i in (-0.5, 0.0, 0.5, 0.8)])
    true = planted(grid)
    ours = np.exp(log_rate(fit.trees, grid)) / true - 1
    design = jnp.asarray(np.column_stack([np.ones(len(training.count)), training.features]))
    solution = jax.jit(fit_poisson)(design, jnp.asarray(training.count), jnp.asarray(training.exposure))
    linear = np.exp(np.column_stack([np.ones(len(grid)), grid]) @ np.asarray(solution.value.coefficients)) / true - 1
    assert np.abs(ours).max() < 0.05
    assert np.mean(np.abs(linear)) > 0.2
    assert np.abs(linear).max() > 0.5
    assert fit.gain["other"] < 0.01 < fit.gain["imbalance"] < fit.gain["depth"]
    assert sum(fit.gain.values()) == pytest.approx(1)


def test_the_rate_falls_with_depth_and_the_export_is_bit_equal(grown):
    training, fit = grown
    state = jnp.array([0.0, 0.5, 0.1])
    table = depth_table(fit.trees, state, jnp.arange(1, 21) / 20)
    assert (np.diff(np.asarray(table.intensities)) <= 0).all()
    # The offset is the mean rate that the fit started from, not the base score.
    start = np.float32(np.log(training.events / training.seconds))
    assert float(fit.trees.offset) == start
    assert fit.trees.feature_names == NAMES
    assert fit.losses.min() < fit.losses[0]
    assert fit.trees.n_trees == fit.losses.argmin() + 1


def test_steps_left_hard_are_the_trees_on_a_grid_that_ties_with_the_thresholds(grown):
    training, fit = grown
    error = surrogate_error(fit.trees, jnp.asarray(training.features[:5000]), jnp.zeros(3))
    assert float(error["largest"]) < 1e-5  # tenths are no float32 numbers


def test_cutting_exposure_in_two_changes_nothing_in_the_likelihood_and_little_in_the_trees(grown):
    training, fit = grown
    halves = Counts(
        np.repeat(training.features, 2, axis=0),
        np.where(np.arange(2 * len(training.count)) % 2, 0.0, np.repeat(training.count, 2)),
        np.repeat(training.exposure / 2, 2),
    )
    again = fit_trees(halves, sample(30_000, 2), SETTINGS, NAMES)
    probe = sample(2000, 3).features
    assert np.sqrt(np.mean((log_rate(again.trees, probe) - log_rate(fit.trees, probe)) ** 2)) < 0.02


def lives(n, seed, longest=1.0):
    rng = np.random.default_rng(seed)
    features = np.column_stack([rng.integers(1, 21, n) / 20, rng.uniform(-1, 1, (n, 2))])
    waiting = rng.exponential(1 / planted(features))
    return Lives(features, np.minimum(waiting, longest), waiting < longest)


def test_censored_waiting_times_give_the_same_rate():
    settings = Boosting(objective="survival:aft", depth=3, learning_rate=0.1)
    fit = fit_trees(lives(60_000, 5), lives(20_000, 6), settings, NAMES)
    probe = sample(4000, 7).features
    error = log_rate(fit.trees, probe) - np.log(planted(probe))
    assert np.sqrt(np.mean(error**2)) < 0.12
    assert abs(np.mean(error)) < 0.03
    table = depth_table(fit.trees, jnp.array([0.0, 0.5, 0.1]), jnp.arange(1, 21) / 20)
    assert (np.diff(np.asarray(table.intensities)) <= 0).all()


def test_any_base_score_is_exported_to_the_bit():
    rng = np.random.default_rng(0)
    features, label = rng.normal(size=(400, 2)).astype(np.float32), rng.poisson(1.0, 400)
    for objective, scores in (
        ("count:poisson", np.exp(rng.uniform(-5, 5, 30))),
        ("binary:logistic", rng.uniform(0.01, 0.99, 30)),
    ):
        matrix = xgboost.DMatrix(features, np.minimum(label, 1))
        for score in scores:
            settings = {"objective": objective, "base_score": float(score), "max_depth": 2, "nthread": 1}
            in_jax(xgboost.train(settings, matrix, 2), features)  # raises where one bit differs


def test_what_cannot_be_fitted_is_named(monkeypatch):
    good, settings = sample(2000, 1), Boosting()
    with pytest.raises(DataError, match="0 events in the fit block, expected at least 50"):
        fit_trees(dataclasses.replace(good, count=0 * good.count), good, settings, NAMES)
    with pytest.raises(DataError, match="events in the stopping block, expected at least 10"):
        fit_trees(good, Counts(good.features[:2], good.count[:2] * 0 + 1, good.exposure[:2]), settings, NAMES)
    constant = good.features.copy()
    constant[:, 1], constant[:, 2] = 0.3, np.nan
    with pytest.raises(DataError, match="constant features tell nothing: imbalance, other"):
        fit_trees(dataclasses.replace(good, features=constant), good, settings, NAMES)
    assert constant_features(np.array([[1.0, np.nan], [1.0, 2.0], [2.0, np.nan]]), ("a", "b")) == ["b"]
    with pytest.raises(DataError, match="expected 2 features: depth, imbalance"):
        fit_trees(good, good, settings, NAMES[:2])
    with pytest.raises(DataError, match="negative or infinite"):
        fit_trees(dataclasses.replace(good, exposure=-good.exposure), good, settings, NAMES)
    with pytest.raises(DataError, match="survival:aft needs Lives, got Counts"):
        fit_trees(good, good, Boosting(objective="survival:aft"), NAMES)
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(DataError, match=r'pip install "mfamm-jax\[full\]"'):
        fit_trees(good, good, settings, NAMES)


@pytest.fixture(scope="module")
def session():
    return generate_session("small_tick", 300.0, 3)[0]


def test_rows_count_every_order_at_the_depths_it_reaches(session):
    observed = observe(session, Features(bucket_volume=2000.0), 0.6)
    depths = tick_depths(session, observed, 32)
    reach, known = order_reach(observed)
    for sign in (-1, 1):
        rows = depth_rows(session, observed, sign, depths)
        mine = reach[known & (observed.trades.aggressor == sign)] * session.tick_size
        expected = [(mine >= d - 1e-9).sum() for d in depths]
        assert np.abs(rows.count.sum(axis=0) - expected).max() <= 1  # an order before the first interval has none
        assert (np.diff(rows.count, axis=1) <= 0).all()
        assert rows.exposure.sum() == pytest.approx((session.updates.t_ns[-1] - session.updates.t_ns[0]) / 1e9)
    # At the shallowest depth every order counts: the rows are those of the log-linear fit.
    theirs = intensity_rows(session, observed)
    training = rows.between(0.0, 0.6 * rows.exposure.sum())
    assert abs(training.count[:, 0].sum() - theirs.buys.sum()) <= 1
    assert tuple(STATE[1:]) == (
        "bid_volume",
        "ask_volume",
        "ask_convexity",
        "mean_slope",
        "fat_finger",
        "volume_entropy",
        "vpin",
        "imbalance",
    )
    assert rows.state.shape[1] == len(STATE)
    counts = training.counts()
    assert counts.features.shape == (len(training.exposure) * len(depths), 1 + len(STATE))
    assert_close(counts.features[: len(depths), 0], depths)
    assert counts.events == training.count.sum()


def test_thinning_keeps_every_order_and_the_time(session):
    observed = observe(session, Features(bucket_volume=2000.0), 0.6)
    rows = depth_rows(session, observed, 1, tick_depths(session, observed, 8))
    thin = rows.thinned(20_000)
    assert len(thin.exposure) * 8 < 22_000 < len(rows.exposure) * 8
    np.testing.assert_array_equal(thin.count.sum(axis=0), rows.count.sum(axis=0))
    assert thin.exposure.sum() == pytest.approx(rows.exposure.sum(), rel=0.05)
    assert rows.thinned(10**9) is rows


def test_lives_end_with_a_fill_or_at_their_limit(session):
    observed = observe(session, Features(bucket_volume=2000.0), 0.6)
    rows = depth_rows(session, observed, 1, tick_depths(session, observed, 4))
    orders = rows.lives(2.0)
    assert orders.seconds_alive.max() == 2.0
    assert (orders.seconds_alive > 0).all()
    # Deaths over time alive is the rate that counts over exposure give.
    for i, depth in enumerate(rows.depths):
        mine = orders.features[:, 0] == depth
        rate = orders.filled[mine].sum() / orders.seconds_alive[mine].sum()
        other = rows.count[:, i].sum() / rows.exposure.sum()
        assert rate == pytest.approx(other, rel=0.25, abs=0.02)


def test_a_market_whose_orders_hardly_walk_is_refused():
    session = generate_session("large_tick", 10.0, 0)[0]
    observed = observe(session, Features(), 0.6)
    with pytest.raises(DataError, match="reach no deeper than 0 ticks"):
        tick_depths(session, observed, 8)


def test_the_judgement_is_the_likelihood_of_11_added_up_by_hand(grown):
    trees, rng = grown[1].trees, np.random.default_rng(8)
    n, depths, seconds = 60, np.array([0.2, 0.5]), 3
    state, exposure = rng.uniform(-1, 1, (n, 2)), rng.exponential(1.0, n)
    count, cluster = rng.poisson(1.0, (n, 2)), np.sort(rng.integers(0, seconds, n))
    beta, profile = np.array([0.3, -2.0, 0.4, 0.1]), np.array([1.5, 0.7])
    last = LastBlock(*(jnp.asarray(x) for x in (state, exposure, count.astype(float), cluster.astype(np.int32))))
    side = SideModel(trees, LogLinear(jnp.asarray(beta)), jnp.asarray(profile), last)
    zero = jnp.asarray(0.0)
    vectors = jnp.asarray(depths), jnp.zeros(3), jnp.zeros((2, 5)), jnp.zeros(3)
    found = jax.jit(_judge)(side, Prepared(side, side, *vectors, zero, seconds, HostReport()))
    total, fills = np.zeros((3, seconds)), np.zeros(seconds)
    tree_rates = log_rate(trees, np.array([[[depth, *row] for depth in depths] for row in state]))
    for i in range(n):
        for j, depth in enumerate(depths):
            features = np.array([depth, *state[i]])
            rates = float(tree_rates[i, j]), beta[0] + features @ beta[1:], np.log(profile[j])
            total[:, cluster[i]] += [count[i, j] * r - exposure[i] * np.exp(r) for r in rates]
            fills[cluster[i]] += count[i, j]
    gain = (total[0] - total[1]).sum() / fills.sum()
    assert float(found["gains"]["trees over log-linear"]["mean"]) == pytest.approx(gain)
    assert_close(sum(found["likelihood"]["trees"]), total[0].sum())
    assert_close(sum(found["fills"]), fills.sum())
    assert int(found["clusters"]) == seconds


@pytest.mark.slow
def test_the_value_has_derivatives_in_the_market_state(grown):
    """Through soft trees, their table and the HJB equation."""
    trees, depths, softness = grown[1].trees, jnp.arange(1, 21) / 20, jnp.array([0.0, 0.1, 0.1])

    @jax.jit
    def value(state):
        table = depth_table(trees, state, depths, softness)
        problem = HJBProblem(bid=table, ask=table, inventory_penalty=0.05, horizon=1.0)
        return solve_hjb(problem, ExplicitRK(40), Grid(2, 1)).value.initial_value[2]

    state = jnp.array([0.0, 0.15, 0.3])
    check_grads(value, (state,), order=1, modes=["fwd"], rtol=1e-5)
    assert float(jax.jit(jax.jacfwd(value))(state)[1]) > 0.1  # more fills beyond the planted jump at 0.2


def test_the_error_of_the_gain_is_that_of_a_ratio_over_clusters():
    rng = np.random.default_rng(0)
    size = rng.integers(1, 9, 400).astype(float)
    shared = np.repeat(rng.normal(size=200), 2)  # both stretches of a pair share a shock
    total = size * (0.1 + shared)
    error = float(_ratio(jnp.asarray(total), jnp.asarray(size))["error"])
    residual = total - size * total.sum() / size.sum()
    assert error == pytest.approx(np.sqrt(400 / 399 * (residual**2).sum()) / size.sum())
    assert float(_ratio(jnp.asarray(0.1 * size), jnp.asarray(size))["error"]) < 1e-12


SMALL = [
    "market.duration=400.0",
    "boosting.depth=2",
    "boosting.learning_rate=0.2",
    "boosting.n_trees=40",
    "blocks.cluster_seconds=10.0",
    "blocks.n_depths=6",
    "control.max_inventory=3",
    "control.horizon=20.0",
]


def run_small(root, *overrides, sweep=False):
    config = load_config("intensity_trees", [*SMALL, *overrides])
    if not sweep:
        config = dataclasses.replace(config, sweep=Sweep({}))
    folder = RunFolder(root, config)
    folder.open(fresh=False)
    return run(config, folder, say=lambda _: None)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return run_small(tmp_path_factory.mktemp("runs") / "trees")


def test_the_experiment_runs_and_its_numbers_agree_with_each_other(outcome):
    metrics = outcome.metrics
    assert outcome.code == DONE
    for side in ("bid", "ask"):
        gains = {name: gain["mean"] for name, gain in metrics["gains"][side].items()}
        assert gains["trees over depth alone"] == pytest.approx(
            gains["trees over log-linear"] + gains["log-linear over depth alone"], abs=1e-9
        )
        assert all(gain["error"] > 0 for gain in metrics["gains"][side].values())
        assert sum(metrics["gain"][side].values()) == pytest.approx(1)
        assert metrics["surrogate"][side]["soft trees"]["rms"] < 1.0
    assert metrics["features"]["used"][0] == "depth"
    assert "fat_finger" in metrics["features"]["constant"]
    with np.load(outcome.folder / "arrays" / "base.npz") as arrays:
        inventory, bid = arrays["control/inventory"], arrays["control/bid_depth"]
        assert bid.shape == (3, len(inventory))
        assert (np.diff(bid[0][:-1]) > -1e-12).all()  # a longer position bids further away
        on_grid = np.abs(bid[0][:-1, None] - arrays["effect/depths"]).min(axis=1)
        assert on_grid.max() < 1e-12
        imbalance = metrics["features"]["used"].index("imbalance") - 1
        for side, sign in (("bid", -1), ("ask", 1)):
            rates = arrays[f"effect/{side}/trees"]
            assert (np.diff(rates, axis=0) <= 1e-12).all()
            assert sign * (rates[0, imbalance, -1] - rates[0, imbalance, 0]) > 0  # planted


def test_the_run_folder_shows_effects_fit_and_quotes(outcome):
    page = (outcome.folder / "report.html").read_text()
    for title in (
        "log-likelihood gained per fill",
        "Feature effects",
        "Quotes without inventory",
        "differentiable fill rate",
    ):
        assert title in page
    assert {"effects.svg", "fills_and_quotes.svg"} <= {path.name for path in (outcome.folder / "figures").iterdir()}
    assert json.loads((outcome.folder / "manifest.json").read_text())["status"] == "done"


@pytest.mark.slow
def test_a_sweep_row_is_the_base_run_with_that_parameter(tmp_path):
    outcome = run_small(tmp_path / "sweep", "sweep.control.risk_aversion=[0.1,1.0]", sweep=True)
    rows = pl.read_parquet(outcome.folder / "parts" / "part-00000.parquet")
    assert rows["half_spread"][0] == pytest.approx(outcome.metrics["half_spread_trees"])
    assert rows["value"][1] < rows["value"][0]
    assert outcome.metrics["sweep"] == {"rows": 2, "failed": 0}


def test_too_short_a_session_and_too_greedy_blocks_are_named(tmp_path):
    with pytest.raises(DataError, match=r"stretches of blocks\.cluster_seconds = 10 s, expected at least 8"):
        run_small(tmp_path / "short", "market.duration=120.0")
    with pytest.raises(ConfigError, match="something must be left to judge on"):
        construct(load_config("intensity_trees", ["blocks.fit_share=0.9", "blocks.stop_share=0.1"]))


@pytest.mark.slow
def test_waiting_times_run_end_to_end_too(tmp_path):
    metrics = run_small(tmp_path / "aft", "boosting.objective=survival:aft").metrics
    assert metrics["ok"]
    assert metrics["gains"]["ask"]["trees over depth alone"]["mean"] > -0.1
