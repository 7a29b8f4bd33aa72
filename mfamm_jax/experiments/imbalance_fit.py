"""Training of the imbalance network, in pure steps: batches, loss, one optimiser step, a look at the stopping block."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mfamm_jax.experiments.imbalance_data import MEASURES
from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.models.flax_function import Params
from mfamm_jax.models.imbalance_network import ImbalanceNetwork
from mfamm_jax.solvers.triplet import Mining, TripletLoss, embedding_spread

N_AT_ONCE = 2048  # samples scored together
N_WATCHED = 256  # labelled samples of the stopping block whose embedding is watched for collapse


class Training(Checked):
    """How the network is trained."""

    mining: Mining = static_field(
        default="semi_hard", source="(12)", help="which triplets of a batch; batch_hard learns late on noisy labels"
    )
    head_weight: Float[Array, ""] = real_field(
        default=1.0, lower=0.0, help="weight of the linear head's logistic loss next to (12); 0 = triplets alone"
    )
    n_per_class: int = static_field(default=64, lower=2, help="up and down samples in a batch, each")
    n_steps: int = static_field(default=2000, lower=1, help="most optimiser steps")
    n_between: int = static_field(
        default=100, lower=1, help="steps between looks at the stopping block, and checkpoints"
    )
    patience: int = static_field(default=12, lower=1, help="looks without a better stopping AUC before the end")
    learning_rate: float = static_field(default=3e-3, lower=0.0, strict=True, help="largest, after warming up")
    weight_decay: float = static_field(default=0.3, lower=0.0, help="of AdamW")
    clip: float = static_field(default=1.0, lower=0.0, strict=True, help="largest norm of a gradient")

    def check_head(self, head: str) -> None:
        """A linear head that no loss trains would keep its random direction."""
        if head == "linear" and float(self.head_weight) == 0:
            raise ValueError(
                'training.head_weight is 0, expected > 0 with network.head = "linear"; or use head = "prototype"'
            )

    def schedule(self) -> optax.Schedule:
        """Warm-up over a twentieth of the steps, then half a cosine down to a fiftieth."""
        n_warm = max(self.n_steps // 20, 1)
        low = self.learning_rate / 50
        return optax.warmup_cosine_decay_schedule(low, self.learning_rate, n_warm, max(self.n_steps, n_warm + 1), low)

    def optimiser(self) -> optax.GradientTransformation:
        """AdamW with clipped gradients."""
        return optax.chain(
            optax.clip_by_global_norm(self.clip), optax.adamw(self.schedule(), weight_decay=self.weight_decay)
        )


class TrainingData(eqx.Module):
    """Labelled samples of the fit block.

    Args:
        grid: (N, snapshot, level, channel).
        label: +1, -1.
        seconds: Since the start.
        up, down: Rows of each class.
        gap: Anchor and positive are at least so far apart [s].
    """

    grid: Float[Array, "sample snapshot level channel"]
    label: Int[Array, " sample"]
    seconds: Float[Array, " sample"]
    up: Int[Array, " up"]
    down: Int[Array, " down"]
    gap: Float[Array, ""]


class TrainingState(eqx.Module):
    """What a checkpoint holds."""

    params: Params
    optimiser: Any
    step: Int[Array, ""]


def batch_rows(data: TrainingData, n_per_class: int, key: PRNGKeyArray) -> Int[Array, " batch"]:
    """As many up as down samples, drawn with replacement."""
    keys = jax.random.split(key)
    classes = zip(keys, (data.up, data.down))
    return jnp.concatenate([rows[jax.random.randint(k, (n_per_class,), 0, rows.shape[0])] for k, rows in classes])


def batch_loss(
    params: Params,
    network: ImbalanceNetwork,
    training: Training,
    loss: TripletLoss,
    data: TrainingData,
    rows: Int[Array, " batch"],
) -> Float[Array, ""]:
    """(12) on the batch, plus the logistic loss of the linear head."""
    embedding, label = network.embedding(params, data.grid[rows]), data.label[rows]
    total = loss.of_batch(embedding, label, data.seconds[rows], data.gap, training.mining)
    if network.sizes.head == "linear":
        # P(up) = (1 + DOI)/2 has log odds 2 artanh DOI.
        margin = 2 * network.logit(params, embedding) * label
        total += training.head_weight * jnp.mean(jax.nn.softplus(-margin))
    return total


def start_state(network: ImbalanceNetwork, training: Training, key: PRNGKeyArray) -> TrainingState:
    """Random weights."""
    params = network.init(key)
    return TrainingState(params, training.optimiser().init(params), jnp.zeros((), jnp.int32))


def make_step(
    network: ImbalanceNetwork, training: Training, loss: TripletLoss
) -> Callable[[TrainingState, TrainingData, PRNGKeyArray], tuple[TrainingState, Float[Array, ""]]]:
    """One compiled optimiser step. Batch i is drawn from `fold_in(key, i)`: a resumed run sees the same batches."""
    optimiser = training.optimiser()

    @jax.jit
    def step(state: TrainingState, data: TrainingData, key: PRNGKeyArray) -> tuple[TrainingState, Float[Array, ""]]:
        rows = batch_rows(data, training.n_per_class, jax.random.fold_in(key, state.step))
        value, slope = jax.value_and_grad(batch_loss)(state.params, network, training, loss, data, rows)
        change, optimiser_state = optimiser.update(slope, state.optimiser, state.params)
        return TrainingState(optax.apply_updates(state.params, change), optimiser_state, state.step + 1), value

    return step


def embedded(
    network: ImbalanceNetwork, params: Params, grid: Float[Array, "sample snapshot level channel"]
) -> Float[Array, "sample n"]:
    """Embeddings of any number of samples in the memory of a few."""
    return jax.lax.map(lambda x: network.embedding(params, x), grid, batch_size=N_AT_ONCE)


def scored(
    network: ImbalanceNetwork, params: Params, grid: Float[Array, "sample snapshot level channel"]
) -> Float[Array, " sample"]:
    """Scores of any number of samples."""
    return network.head_score(params, embedded(network, params, grid))


def with_prototype(params: Params, embedding: Float[Array, "sample n"], label: Int[Array, " sample"]) -> Params:
    """The up prototype: mean embedding of up samples and mirrored down samples."""
    return params | {"direction": jnp.mean(embedding * label[:, None], axis=0)}


def watch(
    network: ImbalanceNetwork,
    training: Training,
    loss: TripletLoss,
    params: Params,
    watched: tuple[Array, Array, Array],
    gap: Float[Array, ""],
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Triplet loss and collapse measures of a fixed set of samples: grid, label and seconds."""
    grid, label, seconds = watched
    embedding = network.embedding(params, grid)
    spread = embedding_spread(embedding, label, loss.margin)
    names = (*MEASURES[5:], "is_collapsed")
    return loss.of_batch(embedding, label, seconds, gap, training.mining), {n: getattr(spread, n) for n in names}
