"""Experiment `imbalance_training`: the planted signal is found, nothing leaks, a killed training loses nothing."""

import json
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from mfamm_jax.experiments.config import ConfigError, load_config
from mfamm_jax.experiments.imbalance_data import BLOCKS, GridSettings, Labels, Split, build_samples
from mfamm_jax.experiments.imbalance_fit import (
    MEASURES,
    Training,
    batch_loss,
    batch_rows,
    scored,
    with_prototype,
)
from mfamm_jax.experiments.imbalance_scores import (
    Calibration,
    area,
    area_estimate,
    gain_estimate,
    linear_weights,
    reliability,
    time_blocks,
)
from mfamm_jax.experiments.imbalance_train import train, training_data
from mfamm_jax.experiments.imbalance_training import UNTRAINED_KEY, network_for, odd_part
from mfamm_jax.experiments.record import RunFolder
from mfamm_jax.experiments.runner import DONE, INTERRUPTED, run
from mfamm_jax.features.imbalance_grid import GridScale, book_channels, mirror, snapshot_grid
from mfamm_jax.market.events import DataError
from mfamm_jax.market.planted import generate_planted
from mfamm_jax.models.imbalance_network import NetworkSizes
from mfamm_jax.solvers.triplet import TripletLoss, embedding_spread

from ..checks import assert_close

SHORT = [
    "market.duration=600.0",
    "training.n_steps=30",
    "training.n_between=10",
    "precision=float64",
    "network.n_filters=3",
]


def run_short(root, *overrides, say=lambda _: None, fresh=False):
    config = load_config("imbalance_training", [*SHORT, *overrides])
    folder = RunFolder(root, config)
    folder.open(fresh=fresh)
    return run(config, folder, say=say)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return run_short(tmp_path_factory.mktemp("runs") / "one")


def arrays(outcome):
    return np.load(outcome.folder / "arrays/base.npz")


def test_the_run_folder_has_numbers_pictures_and_weights(outcome):
    assert outcome.code == DONE
    assert outcome.metrics["odd_to_the_last_bit"]
    found = arrays(outcome)
    assert found["imbalance/history"].shape == (3, len(MEASURES))
    assert {"imbalance/weights/direction", "imbalance/scale/location", "imbalance/calibration/hit"} <= set(found)
    page = (outcome.folder / "report.html").read_text()
    for text in ("AUC of the stopping block", "first direction", "predicted probability of up", "untrained network"):
        assert text in page
    assert (outcome.folder / "figures/training.svg").is_file()
    rows = {row[0]: row for row in outcome.metrics["tables"][0]["rows"]}
    assert abs(rows["network"][1] - outcome.metrics["test_auc"]) < 1e-12
    assert rows["planted truth"][1] == outcome.metrics["bayes_auc"]


@pytest.mark.thorough
def test_a_killed_training_continues_to_the_same_weights(outcome, tmp_path):
    def kill(text):
        if "step 20" in text:
            raise KeyboardInterrupt

    killed = run_short(tmp_path / "killed", say=kill)
    assert killed.code == INTERRUPTED
    said = []
    again = run_short(tmp_path / "killed", say=said.append)
    assert again.code == DONE
    assert any("continuing at step 20" in text for text in said)
    one, two = arrays(outcome), arrays(again)
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


def rebuilt(found):
    """The network's weights from arrays/base.npz alone."""
    params: dict = {}
    for name in found:
        if name.startswith("imbalance/weights/"):
            *path, last = name.split("/", 2)[2].split(".")
            table = params
            for key in path:
                table = table.setdefault(int(key) if key.isdigit() else key, {})
            table[last] = jnp.asarray(found[name])
    return network_for(GridSettings(), NetworkSizes(n_filters=3)), params


def stopping_area(found):
    """Of the weights that a run kept."""
    net, params = rebuilt(found)
    session, _ = generate_planted(600, 4.0, 0)
    stopping = build_samples(session, GridSettings(), Labels(), Split())[0].part("stopping")
    embedding, score = jax.jit(net.apply)(params, jnp.asarray(stopping.grid))
    return area(np.asarray(score), stopping.label), embedding_spread(embedding, jnp.asarray(stopping.label))


@pytest.mark.thorough
def test_kept_weights_scaling_and_calibration_reproduce_the_scores_from_the_recorded_books(outcome):
    """From nothing but the session and arrays/base.npz: what somebody who uses the network elsewhere has."""
    found = arrays(outcome)
    session, _ = generate_planted(600, 4.0, 0)
    net, params = rebuilt(found)
    scale = GridScale(*(jnp.asarray(found[f"imbalance/scale/{name}"]) for name in ("location", "scale")))
    books, rows = session.books, np.round(found["imbalance/seconds"] / 0.1).astype(int)
    sides = (books.bid_ticks, books.bid_size.astype(float), books.ask_ticks, books.ask_size.astype(float))
    channels = scale(*jax.jit(book_channels)(*(jnp.asarray(x) for x in sides)))
    grid = snapshot_grid(channels, jnp.asarray(rows[:, None] + np.arange(-9, 1)))
    embedding, score = jax.jit(net.apply)(params, grid)
    assert_close(embedding, found["imbalance/embedding"], 1e-9)
    assert_close(score, found["imbalance/score"], 1e-9)
    calibration = Calibration(*(jnp.asarray(found[f"imbalance/calibration/{name}"]) for name in ("strength", "hit")))
    quality = reliability(np.asarray(calibration(score)), found["imbalance/label"])
    assert_close(outcome.metrics["brier"], quality.brier)
    assert_close(quality.predicted, found["imbalance/reliability/predicted"])
    assert outcome.metrics["test_auc"] == pytest.approx(area(np.asarray(score), found["imbalance/label"]))
    looks = found["imbalance/history"][:, MEASURES.index("stopping_area")]
    best, spread = stopping_area(found)
    assert best == pytest.approx(looks.max())
    look = dict(zip(MEASURES, found["imbalance/history"][looks.argmax()]))
    for name in ("mean_distance", "positive_distance", "negative_distance", "n_dimensions", "active_share"):
        assert_close(look[name], getattr(spread, name), 1e-9)


def test_the_untrained_rival_has_random_weights_and_the_prototypes_of_the_fit_block(outcome):
    session, _ = generate_planted(600, 4.0, 0)
    samples, _ = build_samples(session, GridSettings(), Labels(), Split())
    fit, test = samples.part("fit"), samples.part("test")
    net = network_for(GridSettings(), NetworkSizes(n_filters=3, head="prototype"))
    params = net.init(jax.random.fold_in(jax.random.key(0), UNTRAINED_KEY))
    embedding = jax.jit(net.embedding)
    up = np.mean(np.asarray(embedding(params, jnp.asarray(fit.grid))) * fit.label[:, None], axis=0)
    where = np.asarray(embedding(params, jnp.asarray(test.grid)))
    score = np.linalg.norm(where + up, axis=1) - np.linalg.norm(where - up, axis=1)
    score /= np.linalg.norm(where + up, axis=1) + np.linalg.norm(where - up, axis=1)
    rows = {row[0]: row for row in outcome.metrics["tables"][0]["rows"]}
    assert rows["untrained network"][1] == pytest.approx(area(score, test.label))
    assert rows["queue imbalance"][1] == pytest.approx(area(test.queue_imbalance, test.label))
    assert rows["microprice move"][1] == pytest.approx(area(test.microprice_move, test.label))


def test_a_finished_training_is_not_repeated(outcome):
    before, said = (outcome.folder / "metrics.json").read_bytes(), []
    run_short(outcome.folder, say=said.append)
    assert any("continuing at step 30" in text for text in said)
    assert not any("train     step" in text for text in said)
    assert (outcome.folder / "metrics.json").read_bytes() == before


@pytest.mark.thorough
def test_training_stops_when_looks_bring_nothing_more(tmp_path):
    outcome = run_short(tmp_path / "run", "training.n_between=2", "training.patience=1")
    history = dict(zip(MEASURES, arrays(outcome)["imbalance/history"].T))
    looks = history["stopping_area"]
    assert 1 < len(looks) < 15
    assert looks.argmax() == len(looks) - 2
    assert stopping_area(arrays(outcome))[0] == pytest.approx(looks.max())  # the weights are not the last ones
    assert outcome.metrics["best_step"] == history["step"][-2]
    np.testing.assert_array_equal(history["step"], 2 * np.arange(1, len(looks) + 1))
    assert np.isfinite(list(history.values())).all()


@pytest.mark.slow
@pytest.mark.parametrize("head", ["linear", "prototype"])
def test_training_in_single_precision_on_two_channels_leaves_the_score_odd(head, tmp_path):
    two = ["precision=float32", "grid.n_channels=2", "training.mining=batch_hard", f"network.head={head}"]
    with jax.enable_x64(False):
        metrics = run_short(tmp_path / head, *two).metrics
    assert metrics["odd_to_the_last_bit"]
    assert metrics["test_auc_low"] < metrics["test_auc"] < metrics["test_auc_high"]


@pytest.mark.slow
def test_a_sweep_trains_a_network_per_value(tmp_path):
    outcome = run_short(tmp_path / "sweep", "sweep.triplet.margin=[0.2,0.5]", "training.n_steps=10")
    rows = pl.concat([pl.read_parquet(p) for p in sorted((outcome.folder / "parts").glob("*.parquet"))])
    assert rows["ok"].all()
    assert rows["test_area"][0] != rows["test_area"][1]
    assert (rows["looks"] == 1).all()


@pytest.mark.thorough
def test_what_cannot_be_trained_is_said(outcome, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"training\.head_weight is 0, expected > 0"):
        run_short(tmp_path / "a", "training.head_weight=0.0")
    with pytest.raises(ValueError, match=r"training\.learning_rate 1e\+30: the loss is nan"):
        run_short(tmp_path / "b", "training.learning_rate=1e30", "training.clip=1e30")
    with pytest.raises(DataError, match="use a longer session"):
        run_short(tmp_path / "c", "market.duration=100.0")
    for missing in ("flax", "orbax.checkpoint"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            with pytest.raises(ValueError, match=r'pip install "mfamm-jax\[full\]"'):
                run_short(tmp_path / missing)
    with pytest.raises(ConfigError, match=r"training\.mining"):
        run_short(tmp_path / "d", "training.mining=hardest")
    config = load_config("imbalance_training", [*SHORT, "network.n_hidden=9"])
    folder = RunFolder(tmp_path / "e", config)
    folder.open(fresh=False)
    os.symlink(outcome.folder / "checkpoints", folder.root / "checkpoints")
    with pytest.raises(ValueError, match="a checkpoint of other settings; run again with --fresh"):
        run(config, folder, say=lambda _: None)


def small(seed=0, n=600, strength=4.0, labels=None):
    session, truth = generate_planted(n, strength, seed)
    samples, facts = build_samples(session, GridSettings(), labels or Labels(), Split(embargo=5.0), truth)
    return [samples.part(name) for name in BLOCKS], facts


@pytest.mark.thorough
def test_batches_are_balanced_and_the_loss_is_the_sum_of_its_parts():
    (fit, _, _), facts = small()
    data, net, training = training_data(fit, facts), network_for(GridSettings(), NetworkSizes()), Training()
    rows = batch_rows(data, 16, jax.random.key(0))
    label = np.asarray(data.label)[np.asarray(rows)]
    assert (label == [1] * 16 + [-1] * 16).all()
    params, loss = net.init(jax.random.key(1)), TripletLoss()
    embedding = jax.jit(net.embedding)(params, data.grid[rows])
    triplet = loss.of_batch(embedding, data.label[rows], data.seconds[rows], data.gap, "semi_hard")
    head = np.mean(np.log1p(np.exp(-2 * np.asarray(embedding)[:, 0] * label)))
    total = jax.jit(lambda p, d, r: batch_loss(p, net, training, loss, d, r))(params, data, rows)
    np.testing.assert_allclose(total, triplet + head, rtol=1e-9)
    near = np.abs(np.subtract.outer(fit.seconds, fit.seconds)) < facts.gap
    assert near.any()


def test_prototypes_are_means_of_up_samples_and_mirrored_down_samples():
    embedding, label = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), jnp.array([1, 1, -1])
    found = with_prototype({"body": {}, "direction": jnp.zeros(2)}, embedding, label)
    np.testing.assert_allclose(found["direction"], [2 / 3, 1 / 3])


def test_the_learning_rate_warms_up_and_falls_to_a_fiftieth():
    rate = Training(n_steps=200, learning_rate=0.5).schedule()
    np.testing.assert_allclose([rate(0), rate(5), rate(10), rate(105), rate(200)], [0.01, 0.255, 0.5, 0.255, 0.01])
    assert np.isfinite(Training(n_steps=1).schedule()(1))


def test_scores_do_not_depend_on_how_many_are_scored_at_once(monkeypatch):
    (fit, _, _), _ = small()
    net = network_for(GridSettings(), NetworkSizes(n_filters=3))
    params, grid = net.init(jax.random.key(2)), jnp.asarray(fit.grid[:50])
    at_once = jax.jit(net.score)(params, grid)
    monkeypatch.setattr("mfamm_jax.experiments.imbalance_fit.N_AT_ONCE", 16)
    assert_close(jax.jit(lambda p, x: scored(net, p, x))(params, grid), at_once, 1e-12)


def test_an_odd_embedding_cannot_shrink_to_one_point():
    """Opposite samples stay 2 apart, so of books and their mirror images two are 1 apart on average, whatever the weights."""
    (fit, _, _), _ = small()
    net = network_for(GridSettings(), NetworkSizes())
    grid = jnp.asarray(fit.grid[:40])
    both, label = jnp.concatenate([grid, mirror(grid)]), jnp.asarray(np.repeat([1, -1], 40))
    for scale in (1.0, 0.01, 100.0):
        params = jax.tree.map(lambda x, s=scale: s * x, net.init(jax.random.key(3)))
        spread = embedding_spread(jax.jit(net.embedding)(params, both), label)
        assert float(spread.mean_distance) >= 1
        assert not spread.is_collapsed


def trained_area(root, seed, n, strength, labels=None, n_steps=600, n_between=50, head="linear"):
    """Area on the test block with its interval, that of the planted probability, and what the network has over each rival."""
    (fit, stopping, test), facts = small(seed, n, strength, labels)
    net = network_for(GridSettings(), NetworkSizes(head=head))
    training = Training(n_steps=n_steps, n_between=n_between, n_per_class=32, learning_rate=6e-3)
    key = jax.random.key(seed)
    trained = train(net, training, TripletLoss(), training_data(fit, facts), stopping, key, root, lambda _: None)
    score_all = jax.jit(lambda x: scored(net, trained.params, x))
    score = np.asarray(score_all(jnp.asarray(test.grid)))
    where = (test.label, time_blocks(test.seconds, 20), 20)
    odd = [np.asarray(odd_part(jnp.asarray(part.grid)), float) for part in (fit, stopping, test)]
    linear = odd[2] @ linear_weights(odd[0], fit.label, odd[1], stopping.label)
    np.testing.assert_array_equal(score_all(mirror(jnp.asarray(test.grid))), -score)
    rivals = [gain_estimate(score, rival, *where) for rival in (linear, test.microprice_move, test.queue_imbalance)]
    return area_estimate(score, *where), area_estimate(test.up_probability, *where), rivals


@pytest.mark.slow
def test_a_strong_signal_is_found_and_beats_what_looks_at_less(tmp_path):
    with jax.enable_x64(False):
        found, best, rivals = trained_area(tmp_path, 0, 5000, 8.0, n_steps=300, n_between=100)
    assert found.low > 0.6
    assert best.value > found.value
    assert all(gain.low > 0.05 for gain in rivals)


@pytest.mark.slow
def test_labels_moved_beyond_the_signals_memory_leave_nothing_to_find(tmp_path):
    """If windows or scaling leaked, a label some seconds later would still be foreseen."""
    with jax.enable_x64(False):
        now = trained_area(tmp_path / "now", 1, 10_000, 8.0)[0]
        later, best, _ = trained_area(tmp_path / "later", 1, 10_000, 8.0, Labels(delay=5.0))
    assert now.low > 0.6
    assert not later.excludes(0.5)
    assert best.low > 0.8  # who saw the book of the later decision would know


@pytest.mark.slow
def test_without_a_signal_hardly_any_seed_is_significant(tmp_path):
    """Twenty fair coins at 5 % give more than three heads one time in sixty."""
    with jax.enable_x64(False):
        found = [trained_area(tmp_path / str(s), s, 2500, 0.0, n_steps=200, n_between=20)[0] for s in range(20)]
    assert sum(one.excludes(0.5) for one in found) <= 3


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "head"), [(0, "linear"), (1, "linear"), (0, "prototype"), (1, "prototype")])
def test_the_planted_interaction_is_found_to_nine_tenths_and_beats_every_baseline(tmp_path, seed, head):
    config = load_config("imbalance_training", [f"seed={seed}", f"network.head={head}"])
    folder = RunFolder(tmp_path / "run", config)
    folder.open(fresh=False)
    metrics = run(config, folder, say=lambda _: None).metrics
    assert metrics["bayes_auc"] >= 0.65
    assert metrics["share_of_bayes"] >= 0.9
    assert metrics["beats_every_baseline"]
    assert metrics["calibration_error"] < 0.03


@pytest.mark.slow
@pytest.mark.skipif("MFAMM_DATA" not in os.environ, reason="MFAMM_DATA is not set: no recorded data")
def test_a_recorded_hour_runs_end_to_end(tmp_path):
    path = os.path.join(os.environ["MFAMM_DATA"], "lobster_aapl_20120621")
    config = load_config("imbalance_training", [f"market={{kind='lobster', path='{path}'}}", "training.n_steps=300"])
    folder = RunFolder(tmp_path / "aapl", config)
    folder.open(fresh=False)
    outcome = run(config, folder, say=lambda _: None)
    assert outcome.code == DONE
    assert 0.4 < outcome.metrics["test_auc"] < 0.65
    json.loads((outcome.folder / "metrics.json").read_text())
    assert len(outcome.metrics["tables"][0]["rows"]) == 5
