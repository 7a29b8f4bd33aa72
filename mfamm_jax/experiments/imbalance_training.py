"""Experiment `imbalance_training`: trains the imbalance network (6) by the triplet loss (12) and judges it on later data.

Host code: training is a loop of compiled steps that leaves checkpoints. A run that was killed continues at the last one and ends with
the same weights as one that was not.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from mfamm_jax.experiments.experiment import AbstractExperiment, Stage
from mfamm_jax.experiments.imbalance_data import (
    BLOCKS,
    GridSettings,
    Labels,
    SampleFacts,
    Samples,
    Split,
    build_samples,
)
from mfamm_jax.experiments.imbalance_fit import (
    MEASURES,
    N_WATCHED,
    Training,
    TrainingData,
    TrainingState,
    make_step,
    start_state,
    watch,
    with_prototype,
)
from mfamm_jax.experiments.imbalance_scores import area, linear_weights
from mfamm_jax.experiments.imbalance_tables import imbalance_metrics, kept_arrays
from mfamm_jax.experiments.quoting_run import HostReport
from mfamm_jax.features.imbalance_grid import MIRRORS
from mfamm_jax.fields import Checked
from mfamm_jax.market.facts import session_facts
from mfamm_jax.market.thinning import with_books
from mfamm_jax.models.imbalance_network import ImbalanceNetwork, NetworkSizes, Params
from mfamm_jax.solvers.triplet import TripletLoss

N_AT_ONCE = 2048  # samples scored together
TRAINING_KEY, START_KEY, UNTRAINED_KEY = 0, 1, 2


class Prepared(eqx.Module):
    """Trained weights and the samples of the test block; host facts ride along.

    Args:
        params: Of the looks at the stopping block the one with the largest AUC.
        untrained: Random weights with the prototypes of the fit block.
        linear: Weights of the linear score on the odd part of the grid.
        grid, label: Labelled samples of the test block.
        history: (look, measure) in the order of `MEASURES`.
        report: Samples and facts.
    """

    params: Params
    untrained: Params
    linear: Array
    grid: Array
    label: Array
    history: Array
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
        """Tables used by `prepare`: every one trains another network."""
        return ("market", "grid", "labels", "split", "network", "triplet", "training")

    def numbers_per_row(self) -> int:
        """The grids of a chunk and the first layer's output."""
        size = self.grid.n_snapshots * self.grid.n_levels
        return N_AT_ONCE * size * (self.grid.n_channels + self.network.n_filters)

    def net(self) -> ImbalanceNetwork:
        """The network for this grid."""
        order, signs = MIRRORS[self.grid.n_channels]
        return ImbalanceNetwork(self.network, self.grid.n_snapshots, self.grid.n_levels, order, signs)

    def prepare(self, folder: Path, seed: int, say: Callable[[str], None], progress: Any = None) -> Prepared:
        """Loads, cuts samples, trains (or continues to), fits the competitors."""
        net = self.net()
        key = jax.random.key(seed)
        state = start_state(net, self.training, jax.random.fold_in(key, START_KEY))  # a missing extra is said at once
        _checkpoints()
        recorded, truth = self.market.load(folder, seed)
        session, _ = with_books(recorded, self.grid.n_levels)
        say(f"{session.name}: {len(recorded.updates):,} events")
        samples, facts = build_samples(session, self.grid, self.labels, self.split, truth)
        fit, stopping, test = (samples.part(name) for name in BLOCKS)
        say(f"{len(fit):,} labelled samples to fit, {len(stopping):,} to stop, {len(test):,} to test")
        data = training_data(fit, facts)
        history, params, is_collapsed = train(self, net, state, data, stopping, key, folder, say, progress)
        start = with_prototype(net, net.init(jax.random.fold_in(key, UNTRAINED_KEY)), data.grid, data.label)
        report = HostReport(
            session=session.name,
            clock=session.clock,
            source=session.source,
            notes=(*session.notes, *facts.notes),
            facts=session_facts(recorded),
            samples=samples,
            sample_facts=facts,
            is_collapsed=is_collapsed,
        )
        linear = linear_weights(odd_part(fit), fit.label, odd_part(stopping), stopping.label)
        real = jnp.result_type(float)
        return Prepared(
            params=params,
            untrained=start,
            linear=jnp.asarray(linear, real),
            grid=jnp.asarray(test.grid),
            label=jnp.asarray(test.label),
            history=jnp.asarray(history, real),
            report=report,
        )

    def plan(self, batch: Any, prepared: Prepared) -> tuple[tuple, str]:
        """Nothing to choose."""
        return (), f"{len(prepared.label):,} test samples"

    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """Scores of the test block."""
        return [("score", score_stage)]

    def metrics(self, plan: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
        """Everything the report prints."""
        return imbalance_metrics(self, prepared, results)

    def kept(self, prepared: Prepared, results: dict[str, Any]) -> dict[str, Any]:
        """Arrays of the figures, the weights and the scaling."""
        return kept_arrays(self, prepared, results)

    def provenance(self, prepared: Prepared) -> dict[str, Any]:
        """Data files with their hashes, clock and loader notes."""
        return {"data": {name: prepared.report[name] for name in ("session", "clock", "source", "notes")}}

    def row(self, plan: Any, prepared: Prepared, key: PRNGKeyArray) -> dict[str, Array]:
        """AUC on the test block, and looks at the stopping block."""
        score = score_all(lambda x: self.net().score(prepared.params, x), prepared.grid)
        up, down = prepared.label > 0, prepared.label < 0
        order = jnp.argsort(score)
        rank = jnp.zeros_like(score).at[order].set(jnp.arange(1, len(score) + 1, dtype=score.dtype))
        n_up, n_down = jnp.sum(up), jnp.sum(down)
        test_area = (jnp.sum(jnp.where(up, rank, 0)) - n_up * (n_up + 1) / 2) / (n_up * n_down)
        best = jnp.max(prepared.history[:, MEASURES.index("stopping_area")])
        looks = jnp.asarray(len(prepared.history))
        return {"test_area": test_area, "stopping_area": best, "looks": looks, "ok": jnp.isfinite(test_area)}


def score_all(score: Callable[[Array], Any], grid: Array) -> Any:
    """Scores of any number of samples in the memory of a few."""
    return jax.lax.map(score, grid, batch_size=N_AT_ONCE)


def score_stage(experiment: Any, prepared: Any, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """Embedding and scores of the test block: the network, and its architecture with random weights."""
    net = experiment.net()
    embedding, score = score_all(lambda x: net.apply(prepared.params, x), prepared.grid)
    prototype = eqx.tree_at(lambda n: n.sizes, net, NetworkSizes(**vars(net.sizes) | {"head": "prototype"}))
    untrained = score_all(lambda x: prototype.score(prepared.untrained, x), prepared.grid)
    swapped = score_all(lambda x: net.score(prepared.params, net.mirror(x)), prepared.grid)
    return {"embedding": embedding, "score": score, "untrained": untrained, "mirrored": swapped}


def odd_part(samples: Samples) -> np.ndarray:
    """What changes sign when the book is mirrored, as rows for a linear score."""
    order, signs = MIRRORS[samples.grid.shape[-1]]
    grid = samples.grid.astype(float)
    return (grid - grid[..., list(order)] * np.array(signs)).reshape(len(samples), -1) / 2


def training_data(fit: Samples, facts: SampleFacts) -> TrainingData:
    """On the device."""
    real = jnp.result_type(float)
    return TrainingData(
        grid=jnp.asarray(fit.grid),
        label=jnp.asarray(fit.label),
        seconds=jnp.asarray(fit.seconds, real),
        up=jnp.asarray(np.flatnonzero(fit.label > 0)),
        down=jnp.asarray(np.flatnonzero(fit.label < 0)),
        gap=jnp.asarray(facts.gap * (1 - 1e-6), real),
    )


class Progress(eqx.Module):
    """All that a resumed training needs.

    Args:
        state: Weights and optimiser.
        best: Weights of the best look.
        best_area: Their AUC on the stopping block.
        history: (look, measure), NaN for looks to come.
        look: How many there were.
        since_best: Looks since the best one.
        is_collapsed: Whether the last look saw all embeddings in one point.
    """

    state: TrainingState
    best: Params
    best_area: Array
    history: Array
    look: Array
    since_best: Array
    is_collapsed: Array


def train(
    experiment: ImbalanceTraining,
    net: ImbalanceNetwork,
    state: TrainingState,
    data: TrainingData,
    stopping: Samples,
    key: PRNGKeyArray,
    folder: Path,
    say: Callable[[str], None],
    progress: Any = None,
) -> tuple[np.ndarray, Params, bool]:
    """History of the looks, the best weights, and whether the embedding collapsed."""
    settings = experiment.training
    n_looks = -(-settings.n_steps // settings.n_between)
    real = jnp.result_type(float)
    now = Progress(
        state, state.params, jnp.asarray(-1.0, real), jnp.full((n_looks, len(MEASURES)), jnp.nan), *_zeros(3)
    )
    ocp = _checkpoints()
    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    step, look_at = make_step(net, settings, experiment.triplet), _looker(experiment, net, data, stopping)
    with ocp.CheckpointManager((folder / "checkpoints").resolve(), options=options) as manager:
        if manager.latest_step() is not None:
            now = _restored(ocp, manager, now)
            say(f"continuing at step {int(now.state.step):,}")
        task = progress.add_task("train", total=settings.n_steps) if progress else None
        batch_key = jax.random.fold_in(key, TRAINING_KEY)
        while int(now.look) < n_looks and int(now.since_best) < settings.patience:
            state, losses = now.state, []
            for _ in range(min(settings.n_between, settings.n_steps - int(state.step))):
                state, loss = step(state, data, batch_key)
                losses.append(loss)
                if progress:
                    progress.advance(task)
            now = look_at(now, state, jnp.mean(jnp.stack(losses)))
            manager.save(int(now.look), args=ocp.args.StandardSave(_leaves(now)))
            say(_line(now, n_looks))
        if progress:
            progress.remove_task(task)
    return np.asarray(now.history)[: int(now.look)], now.best, bool(now.is_collapsed)


def _looker(
    experiment: ImbalanceTraining, net: ImbalanceNetwork, data: TrainingData, stopping: Samples
) -> Callable[[Progress, TrainingState, Array], Progress]:
    """Function that judges new weights on the stopping block."""
    settings, loss = experiment.training, experiment.triplet
    score = jax.jit(lambda params, grid: score_all(lambda x: net.score(params, x), grid))
    prototype = jax.jit(lambda params: with_prototype(net, params, data.grid, data.label))
    every = max(len(stopping) // N_WATCHED, 1)
    watched = [jnp.asarray(x[::every][:N_WATCHED]) for x in (stopping.grid, stopping.label, stopping.seconds)]
    watched[2] = watched[2].astype(data.gap.dtype)
    measure = jax.jit(lambda params: watch(net, settings, loss, params, *watched, data.gap))
    grid, schedule = jnp.asarray(stopping.grid), settings.schedule()

    def look(before: Progress, state: TrainingState, mean_loss: Array) -> Progress:
        params = prototype(state.params) if net.sizes.head == "prototype" else state.params
        found = jnp.asarray(area(np.asarray(score(params, grid)), stopping.label), data.gap.dtype)
        triplet_loss, spread = measure(params)
        is_best = bool(found > before.best_area)
        row = [state.step, mean_loss, triplet_loss, found, schedule(state.step), *(spread[n] for n in MEASURES[5:])]
        return Progress(
            state,
            params if is_best else before.best,
            found if is_best else before.best_area,
            before.history.at[before.look].set(jnp.stack([jnp.asarray(x, data.gap.dtype) for x in row])),
            before.look + 1,
            jnp.zeros_like(before.look) if is_best else before.since_best + 1,
            spread["is_collapsed"].astype(before.look.dtype),
        )

    return look


def _line(now: Progress, n_looks: int) -> str:
    row = dict(zip(MEASURES, np.asarray(now.history)[int(now.look) - 1]))
    done = round(20 * int(now.look) / n_looks)
    text = f"train     [{'#' * done}{'.' * (20 - done)}] step {int(row['step']):,} loss {row['loss']:.3f} "
    text += f"stopping AUC {row['stopping_area']:.4f} (best {float(now.best_area):.4f})"
    return text + (" COLLAPSED: all embeddings are nearly one point" if int(now.is_collapsed) else "")


def _zeros(n: int) -> list[Array]:
    return [jnp.zeros((), jnp.int32) for _ in range(n)]


def _leaves(tree: Any) -> dict[str, Array]:
    """Leaves by number: what a checkpoint stores, free of the classes that hold them."""
    return {f"{i:03d}": leaf for i, leaf in enumerate(jax.tree.leaves(tree))}


def _restored(ocp: Any, manager: Any, like: Progress) -> Progress:
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _leaves(like))
    try:
        found = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(shapes))
    except (ValueError, KeyError) as error:
        raise ValueError(f"{manager.directory}: a checkpoint of other settings; run again with --fresh") from error
    leaves = [jnp.asarray(np.asarray(found[name]), shape.dtype) for name, shape in shapes.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _checkpoints() -> Any:
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise ValueError('checkpoints of the network need extra packages: pip install "mfamm-jax[full]"') from error
    return orbax.checkpoint
