r"""Training of an allocation network on the reward (17): by its own gradient, or by the score function where the reward has none.

- `train_pathwise`: the reward is smooth in the shares, so its gradient goes through them (and through the shares of the step before, in the
  divergence) into the network.
- `train_by_score`: the logits get normal noise; what noise earns more than no noise on the *same* P&L raises its probability. That baseline
  takes the market's noise away. Advantages are summed forward with a decay (Schulman et al. 2016, with the value known), steps are clipped
  (Schulman et al. 2017).

Both draw P&L afresh for every update through `draw(key) -> (path, step, strategy)`: generated, or windows of a record.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mfamm_jax.models.hyperbolic import AllocationNetwork
from mfamm_jax.solvers.allocation import Risk, allocation_reward, simplex_allocation

Draw = Callable[[PRNGKeyArray], Float[Array, "path step strategy"]]
MEMORIES = (0.6, 0.85, 0.95)


class AllocationTask(eqx.Module):
    """What is rewarded, and what the network is told.

    Args:
        exposures: Of every strategy on a unit of capital.
        covariance: Of the assets.
        risk_weight: lambda.
        divergence_weight: mu.
        scale: Deviation of every strategy's P&L, for the features.
        edges: Graph of the strategies.
        risk: Which rho.
        n_warm: First steps that are not rewarded: the averages know too little.
    """

    exposures: Float[Array, "strategy asset"]
    covariance: Float[Array, "asset asset"]
    risk_weight: Float[Array, ""]
    divergence_weight: Float[Array, ""]
    scale: Float[Array, " strategy"]
    edges: Bool[Array, "strategy strategy"]
    risk: Risk = eqx.field(static=True)
    n_warm: int = eqx.field(static=True)

    @property
    def risk_covariance(self) -> Float[Array, "strategy strategy"]:
        """C with rho = sqrt(p' C p): without covariances where the risk is the trace."""
        full = self.exposures @ self.covariance @ self.exposures.T
        return full if self.risk == "portfolio" else jnp.diag(jnp.diag(full))

    def rewards(
        self, shares: Float[Array, "step strategy"], pnl: Float[Array, "step strategy"]
    ) -> Float[Array, " rewarded"]:
        """(17) of every rewarded step; before the first one capital is spread evenly."""
        before = jnp.concatenate([jnp.full_like(shares[:1], 1 / shares.shape[1]), shares[:-1]])
        return allocation_reward(
            shares,
            before,
            pnl,
            jnp.broadcast_to(self.exposures, (shares.shape[0], *self.exposures.shape)),
            self.covariance,
            risk_weight=self.risk_weight,
            divergence_weight=self.divergence_weight,
            risk=self.risk,
            smoothing=1e-6,
        )[self.n_warm :]

    def features(self, pnl: Float[Array, "step strategy"]) -> Float[Array, "step strategy feature"]:
        """Known before each step: averages of past P&L over three memories, with variance about 1, and which strategy it is."""
        n_steps, k = pnl.shape
        memory = jnp.asarray(MEMORIES, pnl.dtype)
        gain = jnp.sqrt((1 - memory) * (1 + memory))

        def step(state: Array, row: Array) -> tuple[Array, Array]:
            return memory * state + gain * (row / self.scale)[:, None], state

        _, averages = jax.lax.scan(step, jnp.zeros((k, memory.size), pnl.dtype), pnl)
        names = jnp.broadcast_to(jnp.eye(k, dtype=pnl.dtype), (n_steps, k, k))
        return jnp.concatenate([averages, names], axis=-1)

    def logits(self, network: AllocationNetwork, pnl: Float[Array, "step strategy"]) -> Float[Array, "step strategy"]:
        """Of the network, at every step of one path."""
        return jax.vmap(lambda x: network.logits(x, self.edges))(self.features(pnl))

    def shares(self, network: AllocationNetwork, pnl: Float[Array, "step strategy"]) -> Float[Array, "step strategy"]:
        """Of the network, at every step of one path."""
        return jax.nn.softmax(self.logits(network, pnl))


def train_pathwise(
    network: AllocationNetwork,
    task: AllocationTask,
    draw: Draw,
    key: PRNGKeyArray,
    *,
    n_updates: int = 500,
    learning_rate: float = 0.02,
) -> tuple[AllocationNetwork, Float[Array, " update"]]:
    """Adam on the mean reward of fresh paths. `vmap` over networks and keys.

    Returns:
        The network, and the mean reward at every update.
    """
    optimiser = _optimiser(n_updates, learning_rate)

    def loss(network: AllocationNetwork, pnl: Float[Array, "path step strategy"]) -> Float[Array, ""]:
        return -jnp.mean(jax.vmap(lambda x: task.rewards(task.shares(network, x), x))(pnl))

    def update(state: tuple, index: Array) -> tuple[tuple, Array]:
        network, memory = state
        value, slope = jax.value_and_grad(loss)(network, draw(jax.random.fold_in(key, index)))
        change, memory = optimiser.update(slope, memory, network)
        return (optax.apply_updates(network, change), memory), -value

    (network, _), rewards = jax.lax.scan(update, (network, optimiser.init(network)), jnp.arange(n_updates))
    return network, rewards


def train_by_score(
    network: AllocationNetwork,
    task: AllocationTask,
    draw: Draw,
    key: PRNGKeyArray,
    *,
    n_updates: int = 500,
    learning_rate: float = 0.02,
    noise: float = 0.5,
    n_epochs: int = 4,
    clip: float = 0.2,
    decay: float = 0.9,
) -> tuple[AllocationNetwork, Float[Array, " update"]]:
    """As `train_pathwise` from rewards alone.

    Args:
        network, task, draw, key: As there.
        n_updates: Each of `n_epochs` steps on the same draws.
        learning_rate: Of Adam.
        noise: Deviation of the logits while training.
        n_epochs: Steps per draw.
        clip: Ratio of probabilities beyond which a draw pushes no further.
        decay: Of later advantages that count for an earlier step; more than 0 because the divergence looks one step back.
    """
    optimiser = _optimiser(n_updates * n_epochs, learning_rate)

    def advantages(network: AllocationNetwork, pnl: Array, k: PRNGKeyArray) -> tuple[Array, Array, Array]:
        mean = task.logits(network, pnl)
        drawn = mean + noise * jax.random.normal(k, mean.shape, mean.dtype)
        plain = task.rewards(jax.nn.softmax(mean), pnl)
        gained = task.rewards(jax.nn.softmax(drawn), pnl) - plain
        _, summed = jax.lax.scan(
            lambda later, x: (x + decay * later,) * 2, jnp.zeros_like(gained[0]), gained, reverse=True
        )
        return drawn, summed, plain

    def surrogate(network: AllocationNetwork, pnl: Array, drawn: Array, old: Array, gains: Array) -> Array:
        def of_path(pnl: Array, drawn: Array, old: Array, gain: Array) -> Array:
            now = _log_probability(task.logits(network, pnl), drawn, noise)
            ratio = jnp.exp(now - old)[task.n_warm :]
            return jnp.mean(jnp.minimum(ratio * gain, jnp.clip(ratio, 1 - clip, 1 + clip) * gain))

        return -jnp.mean(jax.vmap(of_path)(pnl, drawn, old, gains))

    def update(state: tuple, index: Array) -> tuple[tuple, Array]:
        network, memory = state
        pnl = draw(jax.random.fold_in(key, 2 * index))
        keys = jax.random.split(jax.random.fold_in(key, 2 * index + 1), pnl.shape[0])
        drawn, gains, plain = jax.vmap(advantages, (None, 0, 0))(network, pnl, keys)
        gains = gains / (jnp.std(gains) + jnp.finfo(gains.dtype).tiny)
        old = jax.vmap(lambda x, y: _log_probability(task.logits(network, x), y, noise))(pnl, drawn)

        def epoch(state: tuple, _: None) -> tuple[tuple, None]:
            network, memory = state
            slope = jax.grad(surrogate)(network, pnl, drawn, old, gains)
            change, memory = optimiser.update(slope, memory, network)
            return (optax.apply_updates(network, change), memory), None

        state, _ = jax.lax.scan(epoch, (network, memory), None, length=n_epochs)
        return state, jnp.mean(plain)

    (network, _), rewards = jax.lax.scan(update, (network, optimiser.init(network)), jnp.arange(n_updates))
    return network, rewards


def _log_probability(mean: Array, drawn: Array, noise: float) -> Array:
    return -0.5 * jnp.sum(((drawn - mean) / noise) ** 2, axis=-1)


def _optimiser(n_steps: int, learning_rate: float) -> optax.GradientTransformation:
    schedule = optax.cosine_decay_schedule(learning_rate, n_steps, alpha=0.02)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


def constant_allocations(
    pnl: Float[Array, "row strategy"], task: AllocationTask
) -> dict[str, Float[Array, " strategy"]]:
    """Shares that never change, from past P&L: even, inverse variance, mean-variance (under the task's own risk), best single."""
    mean, variance = jnp.mean(pnl, axis=0), jnp.var(pnl, axis=0)
    inverse = 1 / jnp.maximum(variance, jnp.finfo(pnl.dtype).tiny)
    covariance = task.risk_covariance
    each = mean - task.risk_weight * jnp.sqrt(jnp.diag(covariance))
    return {
        "equal weight": jnp.full_like(mean, 1 / mean.size),
        "inverse variance": inverse / jnp.sum(inverse),
        "mean-variance": simplex_allocation(mean, covariance, task.risk_weight),
        "best single": jax.nn.one_hot(jnp.argmax(each), mean.size, dtype=mean.dtype),
    }
