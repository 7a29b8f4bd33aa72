"""The training loop of the imbalance network: compiled steps, looks at the stopping block, checkpoints.

Host code. A training that was killed continues at its last checkpoint and ends with the same weights as one that was not.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from mfamm_jax.experiments.imbalance_data import MEASURES, SampleFacts, Samples
from mfamm_jax.experiments.imbalance_fit import (
    N_WATCHED,
    Training,
    TrainingData,
    TrainingState,
    embedded,
    make_step,
    scored,
    start_state,
    watch,
    with_prototype,
)
from mfamm_jax.experiments.imbalance_scores import area
from mfamm_jax.models.flax_function import Params
from mfamm_jax.models.imbalance_network import ImbalanceNetwork
from mfamm_jax.solvers.triplet import TripletLoss

COLLAPSE = "all embeddings are nearly one point"


class Trained(eqx.Module):
    """Result of a training.

    Args:
        params: Of the looks at the stopping block the weights with the largest AUC.
        history: (look, measure) in the order of `MEASURES`.
        is_collapsed: Whether the last look saw all embeddings in one point.
    """

    params: Params
    history: np.ndarray
    is_collapsed: bool


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
        is_collapsed: 1 = the last look saw all embeddings in one point.
    """

    state: TrainingState
    best: Params
    best_area: Array
    history: Array
    look: Array
    since_best: Array
    is_collapsed: Array


def train(
    net: ImbalanceNetwork,
    training: Training,
    triplet: TripletLoss,
    data: TrainingData,
    stopping: Samples,
    key: PRNGKeyArray,
    folder: Path,
    say: Callable[[str], None],
    progress: Any = None,
) -> Trained:
    """Trains, or continues to.

    Args:
        net, training, triplet: What is trained, how, and on which loss.
        data: Labelled samples of the fit block.
        stopping: Labelled samples of the block after it.
        key: Of the first weights and the batches.
        folder: Checkpoints go to a folder in it.
        say: Gets one line per look.
        progress: A rich progress bar.
    """
    ocp, real = checkpoints(), jnp.result_type(float)
    state = start_state(net, training, jax.random.fold_in(key, 0))
    n_looks = -(-training.n_steps // training.n_between)
    nothing = jnp.full((n_looks, len(MEASURES)), jnp.nan, real)
    now = Progress(state, state.params, jnp.asarray(-1.0, real), nothing, *(jnp.zeros((), jnp.int32) for _ in range(3)))
    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    step, look = make_step(net, training, triplet), _looker(net, training, triplet, data, stopping)
    where, handler = (folder / "checkpoints").resolve(), ocp.StandardCheckpointHandler()
    with ocp.CheckpointManager(where, item_handlers=handler, options=options) as manager:
        if manager.latest_step() is not None:
            now = _restored(ocp, manager, now)
            say(f"train     continuing at step {int(now.state.step):,}")
        task = progress.add_task("train", total=training.n_steps, completed=int(now.state.step)) if progress else None
        while int(now.look) < n_looks and int(now.since_best) < training.patience:
            state, losses = now.state, []
            for _ in range(min(training.n_between, training.n_steps - int(state.step))):
                state, loss = step(state, data, jax.random.fold_in(key, 1))
                losses.append(loss)
                if progress:
                    progress.advance(task)
            mean_loss = jnp.mean(jnp.stack(losses))
            if not np.isfinite(float(mean_loss)):
                raise ValueError(
                    f"training.learning_rate {training.learning_rate:g}: the loss is {float(mean_loss)} at step {int(state.step):,}, "
                    "expected a finite number; use a smaller rate"
                )
            now = look(now, state, mean_loss)
            manager.save(int(now.look), args=ocp.args.StandardSave(_leaves(now)))
            say(_line(now))
        if progress:
            progress.remove_task(task)
    return Trained(now.best, np.asarray(now.history)[: int(now.look)], bool(now.is_collapsed))


def _looker(
    net: ImbalanceNetwork, training: Training, triplet: TripletLoss, data: TrainingData, stopping: Samples
) -> Callable[[Progress, TrainingState, Array], Progress]:
    """Function that judges new weights on the stopping block."""
    every = max(len(stopping) // N_WATCHED, 1)
    seconds = jnp.asarray(stopping.seconds[::every][:N_WATCHED], data.gap.dtype)
    watched = (*(jnp.asarray(x[::every][:N_WATCHED]) for x in (stopping.grid, stopping.label)), seconds)
    grid, schedule = jnp.asarray(stopping.grid), training.schedule()

    @jax.jit
    def judged(params: Params, data: TrainingData, grid: Array, watched: tuple) -> tuple[Params, Array, Any]:
        if net.sizes.head == "prototype":
            params = with_prototype(params, embedded(net, params, data.grid), data.label)
        measures = watch(net, training, triplet, params, watched, data.gap)
        return params, scored(net, params, grid), measures

    def look(before: Progress, state: TrainingState, mean_loss: Array) -> Progress:
        params, score, (triplet_loss, spread) = judged(state.params, data, grid, watched)
        found = jnp.asarray(area(np.asarray(score), stopping.label), data.gap.dtype)
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


def _line(now: Progress) -> str:
    row = dict(zip(MEASURES, np.asarray(now.history)[int(now.look) - 1]))
    text = f"train     step {int(row['step']):,} loss {row['loss']:.3f} "
    text += f"stopping AUC {row['stopping_area']:.4f} (best {float(now.best_area):.4f})"
    return text + (f" COLLAPSED: {COLLAPSE}" if int(now.is_collapsed) else "")


def _leaves(tree: Any) -> dict[str, Array]:
    """Leaves by number: what a checkpoint stores, free of the classes that hold them."""
    return {f"{i:03d}": leaf for i, leaf in enumerate(jax.tree.leaves(tree))}


def _restored(ocp: Any, manager: Any, like: Progress) -> Progress:
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _leaves(like))
    # Asked first: a restore that fails half way leaves threads behind.
    stored = manager.item_metadata(manager.latest_step()).tree
    kinds = {name: (tuple(x.shape), np.dtype(x.dtype)) for name, x in stored.items()}
    if kinds != {name: (x.shape, np.dtype(x.dtype)) for name, x in shapes.items()}:
        raise ValueError(f"{manager.directory}: a checkpoint of other settings; run again with --fresh")
    found = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(shapes))
    leaves = [jnp.asarray(np.asarray(found[name]), shape.dtype) for name, shape in shapes.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def checkpoints() -> Any:
    """orbax, or an error that says how to get it."""
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise ValueError('checkpoints of the network need extra packages: pip install "mfamm-jax[full]"') from error
    return orbax.checkpoint
