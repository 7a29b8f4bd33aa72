"""Experiment `allocation`: capital over strategies by a graph network on the Poincare ball (16), trained on the reward (17)."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.experiments.allocation_tables import allocation_metrics
from mfamm_jax.experiments.experiment import AbstractExperiment, ConfigError, Stage
from mfamm_jax.experiments.quoting_run import HostReport
from mfamm_jax.experiments.strategies import correlation_of
from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.models.hyperbolic import AllocationNetwork, correlation_edges, first_network
from mfamm_jax.models.regime_returns import RegimeReturns
from mfamm_jax.solvers.allocation import simplex_allocation
from mfamm_jax.solvers.allocation_training import (
    MEMORIES,
    AllocationTask,
    constant_allocations,
    train_by_score,
    train_pathwise,
)

LEARNED = ("ball", "Euclidean", "ball, score function")


class Reward(Checked):
    """(17)."""

    risk: Literal["portfolio", "trace"] = static_field(
        default="portfolio",
        source="(17) Omega",
        help="deviation of the sum, or the printed trace, which ignores covariances",
    )
    risk_weight: Float[Array, ""] = real_field(default=0.1, lower=0.0, source="(17) lambda", help="price of risk")
    divergence_weight: Float[Array, ""] = real_field(
        default=0.0, source="(17) mu", help="of moving capital: above 0 it is rewarded (exploration), below 0 it costs"
    )


class Network(Checked):
    """Shape of the networks."""

    dim: int = static_field(default=8, lower=1, upper=64, help="of the ball")
    n_layers: int = static_field(default=2, lower=1, upper=8, help="graph layers")
    curvature: float = static_field(default=1.0, lower=0.0, strict=True, source="(16) c", help="of the ball is -c")
    mean: Literal["midpoint", "local_tangent", "rulebook"] = static_field(
        default="midpoint", source="(16)", help="how neighbours are averaged; rulebook = as printed, which collapses"
    )
    edge_threshold: float = static_field(
        default=0.0, lower=0.0, upper=1.0, help="least correlation of an edge; 0 = every pair"
    )


class Training(Checked):
    """How they learn."""

    n_updates: int = static_field(default=300, lower=1, help="gradient steps")
    n_paths: int = static_field(default=12, lower=1, help="drawn for each")
    n_steps: int = static_field(default=120, lower=20, unit="periods", help="of a path; a quarter is not rewarded")
    learning_rate: float = static_field(default=0.03, lower=0.0, strict=True, upper=1.0, help="of Adam at first")
    n_seeds: int = static_field(default=3, lower=1, upper=100, help="networks trained from as many beginnings")


class Prepared(eqx.Module):
    """P&L, the task, and who could know best.

    Args:
        history, test: As in `Strategies`.
        task: Reward and features.
        law: Of generated P&L.
        report: Host facts.
    """

    history: Float[Array, "row strategy"]
    test: Float[Array, "path step strategy"]
    task: AllocationTask
    law: RegimeReturns | None
    report: HostReport = eqx.field(static=True)


class Allocation(AbstractExperiment):
    """Meta-allocation.

    Args:
        strategies: Where P&L comes from.
        reward: What is maximised.
        network: Shape.
        training: How it learns.
    """

    strategies: Checked
    reward: Reward
    network: Network
    training: Training

    @classmethod
    def prepared_paths(cls) -> tuple[str, ...]:
        """Tables used by `prepare`."""
        return ("strategies", "network", "training", "reward")

    def numbers_per_row(self) -> int:
        """Activations of a batch, forward and back."""
        return 400 * self.training.n_paths * self.training.n_steps * self.training.n_seeds * self.network.dim

    def prepare(self, folder: Any, seed: int, say: Callable[[str], None], progress: Any = None) -> Prepared:
        """Loads or draws the P&L."""
        found = self.strategies.load(seed, self.training.n_steps)
        n_warm = self.training.n_steps // 4
        if found.test.shape[1] < 2 * n_warm:
            raise ConfigError(
                f"{found.test.shape[1]} steps to judge, expected at least {2 * n_warm}: half of training.n_steps"
            )
        real = jnp.result_type(float)
        try:
            edges = correlation_edges(correlation_of(found), self.network.edge_threshold)
        except ValueError as error:
            raise ConfigError(f"network.edge_threshold: {error}") from error
        exposures, covariance = jnp.asarray(found.exposures, real), jnp.asarray(found.covariance, real)
        scale = jnp.asarray(found.history.std(axis=0), real)
        weights = self.reward.risk_weight, self.reward.divergence_weight
        task = AllocationTask(exposures, covariance, *weights, scale, edges, self.reward.risk, n_warm)
        say(f"{found.name}: {len(found.names)} strategies, {len(found.history):,} periods of record")
        history, test = jnp.asarray(found.history, real), jnp.asarray(found.test, real)
        return Prepared(
            history, test, task, found.law, HostReport(name=found.name, names=found.names, source=found.source)
        )

    def plan(self, batch: Any, prepared: Any) -> tuple[tuple, str]:
        """Nothing to choose."""
        return (), "Adam on the reward itself, and by the score function"

    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """Learn, judge."""
        return [("learn", learn_stage), ("judge", judge_stage)]

    def metrics(self, plan: Any, prepared: Any, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
        """Everything the report prints."""
        return allocation_metrics(self, prepared.report, results, LEARNED)

    def row(self, plan: Any, prepared: Any, key: PRNGKeyArray) -> dict[str, Array]:
        """Mean rewards of the ball network, of equal weights and of the filter, if there is one."""
        results: dict[str, Any] = {}
        for number, (_, stage) in enumerate(self.stages(plan)):
            results |= stage(self, prepared, results, jax.random.fold_in(key, number))
        judged = results["judge"]
        learned = {
            name.replace(", ", "_").replace(" ", "_").lower(): jnp.mean(judged["learned"][i])
            for i, name in enumerate(LEARNED)
        }
        fixed = {name.replace(" ", "_").replace("-", "_"): jnp.mean(x) for name, x in judged["fixed"].items()}
        return learned | fixed | {"ok": jnp.all(jnp.isfinite(judged["learned"]))}

    def provenance(self, prepared: Any) -> dict[str, Any]:
        """Names the file, if any."""
        return {"strategies": {"name": prepared.report["name"], "source": list(prepared.report["source"])}}


def _draw(experiment: Any, prepared: Any) -> Callable[[PRNGKeyArray], Array]:
    """Fresh paths of the law, or windows of the record."""
    n_paths, n_steps = experiment.training.n_paths, experiment.training.n_steps
    if prepared.law is not None:
        return lambda key: jax.vmap(lambda k: prepared.law.sample(k, n_steps)[0])(jax.random.split(key, n_paths))

    def windows(key: PRNGKeyArray) -> Array:
        starts = jax.random.randint(key, (n_paths,), 0, prepared.history.shape[0] - n_steps + 1)
        return jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(prepared.history, start, n_steps))(starts)

    return windows


def learn_stage(experiment: Any, prepared: Any, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """Networks of every kind and seed, with their rewards while learning."""
    settings, shape, draw = experiment.training, experiment.network, _draw(experiment, prepared)
    k = prepared.history.shape[1]
    how = {"n_updates": settings.n_updates, "learning_rate": settings.learning_rate}

    def begin(seed: PRNGKeyArray, curvature: float) -> AllocationNetwork:
        return first_network(
            seed,
            n_nodes=k,
            n_features=k + len(MEMORIES),
            dim=shape.dim,
            n_layers=shape.n_layers,
            curvature=curvature,
            mean=shape.mean,
        )

    def learn(train: Callable, curvature: float) -> tuple[AllocationNetwork, Array]:
        def one(seed: PRNGKeyArray) -> tuple[AllocationNetwork, Array]:
            start, steps = jax.random.split(seed)
            return train(begin(start, curvature), prepared.task, draw, steps, **how)

        return jax.lax.map(one, jax.random.split(key, settings.n_seeds))

    found = [learn(train_pathwise, shape.curvature), learn(train_pathwise, 0.0), learn(train_by_score, shape.curvature)]
    return {
        "learn": {"networks": tuple(net for net, _ in found), "rewards": jnp.stack([reward for _, reward in found])}
    }


def judge_stage(experiment: Any, prepared: Any, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """Mean reward of every allocator on every judging path; shares and embeddings of the first."""
    task, test = prepared.task, prepared.test
    law = prepared.law

    def mean_reward(shares: Array) -> Array:
        return jax.vmap(lambda p, pnl: jnp.mean(task.rewards(p, pnl)))(shares, test)

    constant = constant_allocations(prepared.history, task)
    fixed = {name: mean_reward(jnp.broadcast_to(p, test.shape)) for name, p in constant.items()}
    shares = {}
    if law is not None:
        # Best where moving capital is free (mu = 0); else what the same observer would hold without regard to it.
        known = jax.lax.map(law.filtered, test)
        best = jax.vmap(jax.vmap(lambda p: simplex_allocation(p @ law.means, task.risk_covariance, task.risk_weight)))(
            known
        )
        fixed["optimal filter"] = mean_reward(best)
        shares["optimal filter"] = best[0]
    learned = []
    for name, networks in zip(LEARNED, results["learn"]["networks"]):

        def judge(network: AllocationNetwork) -> tuple[Array, Array]:
            held = jax.lax.map(lambda pnl: task.shares(network, pnl), test)
            return mean_reward(held), held[0]

        rewards, held = jax.lax.map(judge, networks)
        learned.append(rewards)
        shares[name] = held[0]
    first = jax.tree.map(lambda x: x[0], results["learn"]["networks"][0])
    points = jax.vmap(lambda x: first.embed(x, task.edges))(task.features(test[0]))
    return {
        "judge": {"fixed": fixed, "learned": jnp.stack(learned), "shares": shares, "points": points, "pnl": test[0]}
    }
