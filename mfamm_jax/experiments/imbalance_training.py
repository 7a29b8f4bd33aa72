"""Experiment `imbalance_training`: trains the imbalance network (6) by the triplet loss (12) and judges it on later data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mfamm_jax.experiments.experiment import AbstractExperiment, Stage
from mfamm_jax.experiments.imbalance_data import (
    BLOCKS,
    MEASURES,
    GridSettings,
    Labels,
    Split,
    build_samples,
)
from mfamm_jax.experiments.imbalance_fit import Training, embedded, scored, with_prototype
from mfamm_jax.experiments.imbalance_scores import Calibration, linear_weights
from mfamm_jax.experiments.imbalance_tables import imbalance_metrics, kept_arrays
from mfamm_jax.experiments.imbalance_train import checkpoints, train, training_data
from mfamm_jax.experiments.quoting_run import HostReport, session_provenance
from mfamm_jax.features.imbalance_grid import MIRRORS, mirror
from mfamm_jax.fields import Checked
from mfamm_jax.market.facts import session_facts
from mfamm_jax.market.thinning import with_books
from mfamm_jax.models.flax_function import Params
from mfamm_jax.models.imbalance_network import ImbalanceNetwork, NetworkSizes
from mfamm_jax.solvers.triplet import TripletLoss

TRAINING_KEY, UNTRAINED_KEY = 0, 1


class Prepared(eqx.Module):
    """Trained weights and the samples of the test block; host facts ride along.

    Args:
        params: Of the looks at the stopping block the one with the largest AUC.
        untrained: Random weights with the prototypes of the fit block.
        linear: Weights of the linear score on the odd part of the grid.
        calibration: Fitted on the stopping block.
        grid, label: Labelled samples of the test block.
        history: (look, measure) in the order of `MEASURES`.
        report: Samples and facts.
    """

    params: Params
    untrained: Params
    linear: Float[Array, " entry"]
    calibration: Calibration
    grid: Float[Array, "sample snapshot level channel"]
    label: Int[Array, " sample"]
    history: Float[Array, "look measure"]
    report: HostReport = eqx.field(static=True)


class ImbalanceTraining(AbstractExperiment):
    """The learned order-book imbalance.

    Args:
        market: Source of books.
        grid: The picture of the book (6).
        labels: What the score is to foresee.
        split: Blocks of time.
        network: Sizes.
        triplet: Loss (12).
        training: How it is minimised.
    """

    market: Checked
    grid: GridSettings
    labels: Labels
    split: Split
    network: NetworkSizes
    triplet: TripletLoss
    training: Training

    @classmethod
    def prepared_paths(cls) -> tuple[str, ...]:
        """Tables used by `prepare`: every value trains another network."""
        return ("market", "grid", "labels", "split", "network", "triplet", "training")

    def __check_init__(self) -> None:
        self.training.check_head(self.network.head)

    def numbers_per_row(self) -> int:
        """The grids of a chunk and the first layer's output."""
        size = self.grid.n_snapshots * self.grid.n_levels
        return 2048 * size * (self.grid.n_channels + self.network.n_filters)

    def net(self) -> ImbalanceNetwork:
        """The network for this grid."""
        return network_for(self.grid, self.network)

    def prepare(self, folder: Path, seed: int, say: Callable[[str], None], progress: Any = None) -> Prepared:
        """Loads, cuts samples, trains (or continues to), fits the competitors."""
        net, key = self.net(), jax.random.key(seed)
        untrained = net.init(jax.random.fold_in(key, UNTRAINED_KEY))  # a missing extra is said at once
        checkpoints()
        recorded, truth = self.market.load(folder, seed)
        session, _ = with_books(recorded, self.grid.n_levels)
        say(f"{session.name}: {len(recorded.updates):,} events")
        samples, facts = build_samples(session, self.grid, self.labels, self.split, truth)
        fit, stopping, test = (samples.part(name) for name in BLOCKS)
        say(f"{len(fit):,} labelled samples to fit, {len(stopping):,} to stop, {len(test):,} to test")
        data = training_data(fit, facts)
        training_key = jax.random.fold_in(key, TRAINING_KEY)
        trained = train(net, self.training, self.triplet, data, stopping, training_key, folder, say, progress)
        stopping_score = jax.jit(lambda p, x: scored(net, p, x))(trained.params, jnp.asarray(stopping.grid))
        report = HostReport(
            session=session.name,
            clock=session.clock,
            source=session.source,
            notes=(*session.notes, *facts.notes),
            facts=session_facts(recorded),
            samples=samples,
            sample_facts=facts,
            is_collapsed=trained.is_collapsed,
        )
        real = jnp.result_type(float)
        odd = [np.asarray(odd_part(jnp.asarray(x.grid)), float) for x in (fit, stopping)]
        linear = linear_weights(odd[0], fit.label, odd[1], stopping.label)
        return Prepared(
            params=trained.params,
            untrained=with_prototype(
                untrained, jax.jit(lambda p, x: embedded(net, p, x))(untrained, data.grid), data.label
            ),
            linear=jnp.asarray(linear, real),
            calibration=Calibration.fit(np.asarray(stopping_score), stopping.label),
            grid=jnp.asarray(test.grid),
            label=jnp.asarray(test.label),
            history=jnp.asarray(trained.history, real),
            report=report,
        )

    def plan(self, batch: Any, prepared: Prepared) -> tuple[tuple, str]:
        """Nothing to choose."""
        return (), f"none: {len(prepared.label):,} test samples to score"

    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """Scores of the test block."""
        return [("score", score_stage)]

    def metrics(self, plan: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
        """Everything the report prints."""
        return imbalance_metrics(self, prepared, results)

    def kept(self, prepared: Prepared, results: dict[str, Any]) -> dict[str, Any]:
        """Arrays of the figures, the weights and the scaling."""
        return kept_arrays(prepared, results)

    def provenance(self, prepared: Prepared) -> dict[str, Any]:
        """Data files with their hashes, clock and loader notes."""
        return session_provenance(prepared.report)

    def row(self, plan: Any, prepared: Prepared, key: PRNGKeyArray) -> dict[str, Array]:
        """AUC on the test block, and looks at the stopping block."""
        test_area = rank_area(scored(self.net(), prepared.params, prepared.grid), prepared.label)
        best = jnp.max(prepared.history[:, MEASURES.index("stopping_area")])
        looks = jnp.asarray(len(prepared.history))
        return {"test_area": test_area, "stopping_area": best, "looks": looks, "ok": jnp.isfinite(test_area)}


def network_for(grid: GridSettings, sizes: NetworkSizes) -> ImbalanceNetwork:
    """The network that takes such grids."""
    order, signs = MIRRORS[grid.n_channels]
    return ImbalanceNetwork(sizes, grid.n_snapshots, grid.n_levels, order, signs)


def score_stage(experiment: Any, prepared: Any, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """Embedding and scores of the test block: the network, and its architecture with random weights."""
    net, grid = experiment.net(), prepared.grid
    prototype = network_for(experiment.grid, NetworkSizes(**vars(experiment.network) | {"head": "prototype"}))
    score = scored(net, prepared.params, grid)
    return {
        "embedding": embedded(net, prepared.params, grid),
        "score": score,
        "probability": prepared.calibration(score),
        "mirrored": scored(net, prepared.params, mirror(grid)),
        "untrained": scored(prototype, prepared.untrained, grid),
        "linear": odd_part(grid) @ prepared.linear,
    }


def rank_area(score: Float[Array, " sample"], label: Int[Array, " sample"]) -> Float[Array, ""]:
    """Area under the curve from ranks; ties count half."""
    up = label > 0
    ordered = jnp.sort(score)
    below, upto = (jnp.searchsorted(ordered, score, side=side).astype(score.dtype) for side in ("left", "right"))
    n_up, n_down = (jnp.sum(x, dtype=score.dtype) for x in (up, label < 0))  # their product is too large for int32
    return (jnp.sum(jnp.where(up, (below + upto + 1) / 2, 0)) / n_up - (n_up + 1) / 2) / n_down


def odd_part(grid: Float[Array, "sample snapshot level channel"]) -> Float[Array, "sample entry"]:
    """What changes sign when the book is mirrored, as rows for a linear score."""
    return ((grid - mirror(grid)) / 2).reshape(len(grid), -1)
