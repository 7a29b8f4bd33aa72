"""Experiment `maxcut`: how good QAOA's cuts of regular graphs are by depth, beside published constants and classical searches."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from mfamm_jax.experiments.experiment import AbstractExperiment, ConfigError, Stage
from mfamm_jax.experiments.maxcut_tables import maxcut_metrics
from mfamm_jax.experiments.quoting_run import HostReport
from mfamm_jax.fields import Checked, static_field
from mfamm_jax.models.ising import Ising, cost_diagonal, random_regular_graph
from mfamm_jax.solvers.bit_search import anneal, greedy_descent
from mfamm_jax.solvers.qaoa import (
    Angles,
    interpolate_angles,
    one_layer_landscape,
    optimise_angles,
    qaoa_energy,
    qaoa_probabilities,
    ramp_starts,
)
from mfamm_jax.solvers.qaoa_large_girth import MOST_LAYERS, fixed_angles, large_girth_energy

N_LANDSCAPE = 49


class Graphs(Checked):
    """What is cut."""

    n_vertices: int = static_field(default=12, lower=4, upper=20, help="of every graph")
    degree: int = static_field(default=3, lower=2, upper=12, help="edges at every vertex; 2 = one ring")
    n_graphs: int = static_field(default=10, lower=1, upper=200, help="drawn at random")
    weights: Literal["unit", "normal"] = static_field(default="unit", help="of the edges")


class Depth(Checked):
    """How deep."""

    most_layers: int = static_field(
        default=4, lower=1, upper=MOST_LAYERS, source="(24) p", help="circuits of 1 to this many layers"
    )
    n_starts: int = static_field(
        default=4, lower=1, upper=64, help="ramps, besides the tree's angles and those of one layer less"
    )
    max_iterations: int = static_field(default=150, lower=1, help="of each start")
    n_samples: int = static_field(default=100, lower=1, upper=100_000, help="measurements, the best of which is a cut")


class Prepared(eqx.Module):
    """Graphs stacked.

    Args:
        models: H of every graph, one per row.
        tree_angles: Best for graphs without short cycles, of 1, 2, .. layers.
        report: Host facts.
    """

    models: Ising
    tree_angles: tuple[Angles, ...]
    report: HostReport = eqx.field(static=True)


class MaxCut(AbstractExperiment):
    """Cuts of graphs.

    Args:
        graphs: What is cut.
        depth: How deep.
    """

    graphs: Graphs
    depth: Depth

    @classmethod
    def prepared_paths(cls) -> tuple[str, ...]:
        """Tables used by `prepare`."""
        return ("graphs", "depth")

    def numbers_per_row(self) -> int:
        """States of every graph and start."""
        return 12 * self.graphs.n_graphs * (self.depth.n_starts + 1) * 2**self.graphs.n_vertices

    def prepare(self, folder: Any, seed: int, say: Callable[[str], None], progress: Any = None) -> Prepared:
        """Draws the graphs and finds the tree's angles."""
        graphs = self.graphs
        n, real = graphs.n_vertices, jnp.result_type(float)
        try:
            *seeds, weight_seed = np.random.SeedSequence(seed).spawn(graphs.n_graphs + 1)
            edges = [_edges(n, graphs.degree, each) for each in seeds]
        except ValueError as error:
            raise ConfigError(f"graphs.degree: {error}") from error
        shape = (graphs.n_graphs, len(edges[0]))
        weights = (
            np.random.default_rng(weight_seed).standard_normal(shape) if graphs.weights == "normal" else np.ones(shape)
        )
        models = Ising(
            jnp.asarray(weights, real),
            jnp.zeros((graphs.n_graphs, n), real),
            jnp.zeros(graphs.n_graphs, real),
            jnp.asarray(np.stack(edges), jnp.int32),
        )
        say(f"{graphs.n_graphs} graphs of {n} vertices and {shape[1]} edges")
        angles: list[Angles] = []
        for p in range(1, self.depth.most_layers + 1):
            angles.append(fixed_angles(graphs.degree, p, start=angles[-1] if angles else None).value)
        return Prepared(models, tuple(angles), HostReport(n_edges=shape[1]))

    def plan(self, batch: Any, prepared: Prepared) -> tuple[tuple, str]:
        """Nothing to choose."""
        return (), "L-BFGS from ramps, the tree's angles and those of one layer less"

    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """Largest cuts, circuits, searches."""
        return [("cuts", cuts_stage), ("search", search_stage)]

    def metrics(self, plan: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
        """Everything the report prints."""
        return maxcut_metrics(self, prepared, results)

    def row(self, plan: Any, prepared: Prepared, key: PRNGKeyArray) -> dict[str, Array]:
        """Mean ratios at the largest depth."""
        found = cuts_stage(self, prepared, {}, key)
        return {
            "ratio": jnp.mean(found["optimised"]["ratio"][-1]),
            "ratio_tree_angles": jnp.mean(found["fixed"]["ratio"][-1]),
            "p_largest": jnp.mean(found["optimised"]["p_largest"][-1]),
            "ok": jnp.all(jnp.isfinite(found["optimised"]["ratio"])),
        }


def _edges(n: int, degree: int, seed: np.random.SeedSequence) -> np.ndarray:
    if degree == 2:
        return np.array([(i, (i + 1) % n) for i in range(n)])
    return random_regular_graph(n, degree, seed)


def cuts_stage(experiment: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """Every depth with angles of its own for each graph, and with the tree's for all.

    Ratios are shares of the way from the highest to the lowest energy: of the largest cut where weights are equal, since then nothing cut is the highest.
    """
    models, depth = prepared.models, experiment.depth
    diagonals = jax.lax.map(cost_diagonal, models)
    highest, lowest = jnp.max(diagonals, axis=1), jnp.min(diagonals, axis=1)
    # The tree's angles are for unit weights.
    size = jnp.sqrt(jnp.mean(models.couplings**2, axis=1))

    def judged(angles: Angles) -> dict[str, Array]:
        """Of one set of angles per graph."""
        energy = jax.lax.map(lambda x: qaoa_energy(*x), (diagonals, angles))

        def chance(given: tuple[Array, Angles]) -> Array:
            diagonal, own = given
            near = jnp.min(diagonal) + 1e-4 * (1 + jnp.abs(jnp.min(diagonal)))
            return jnp.sum(jnp.where(diagonal <= near, qaoa_probabilities(diagonal, own), 0))

        p_largest = jax.lax.map(chance, (diagonals, angles))
        return {
            "ratio": (highest - energy) / (highest - lowest),
            "share": 0.5 * (1 - energy / models.couplings.shape[1]),
            "p_largest": p_largest,
            "p_largest_sampled": 1 - (1 - p_largest) ** depth.n_samples,
        }

    optimised, fixed = [], []
    before: Angles | None = None
    for p in range(1, depth.most_layers + 1):
        tree = prepared.tree_angles[p - 1]
        spread = Angles(tree.cost_angles[None] / size[:, None], jnp.broadcast_to(tree.mixer_angles, (len(size), p)))
        fixed.append(judged(spread))

        def best(given: tuple[Array, Angles, Any], p: int = p) -> Angles:
            diagonal, tree, earlier = given
            starts = [ramp_starts(diagonal, p, depth.n_starts), jax.tree.map(lambda x: x[None], tree)]
            if earlier is not None:
                starts.append(jax.tree.map(lambda x: x[None], interpolate_angles(earlier, p)))
            every = jax.tree.map(lambda *x: jnp.concatenate(x), *starts)
            return optimise_angles(diagonal, every, max_iterations=depth.max_iterations).value

        before = jax.lax.map(best, (diagonals, spread, before))
        optimised.append(judged(before))
    stacked = [jax.tree.map(lambda *x: jnp.stack(x), *every) for every in (optimised, fixed)]
    shares = jnp.stack([0.5 * (1 - large_girth_energy(experiment.graphs.degree, a)) for a in prepared.tree_angles])
    gammas, betas, table = one_layer_landscape(diagonals[0], N_LANDSCAPE)
    return {
        "depths": jnp.arange(1, depth.most_layers + 1),
        "highest": highest,
        "lowest": lowest,
        "at_random": highest / (highest - lowest),
        "optimised": stacked[0],
        "fixed": stacked[1],
        "tree_share": shares,
        "landscape": {"energy": table, "cost_angles": gammas, "mixer_angles": betas},
    }


def search_stage(experiment: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """Greedy flips and one annealing chain per graph."""
    models, n = prepared.models, experiment.graphs.n_vertices

    def greedy(model: Ising) -> Array:
        return greedy_descent(model.energy, jnp.zeros(n, jnp.int32)).cost

    def annealed(given: tuple[Ising, Array]) -> Array:
        model, number = given
        return anneal(model.energy, n, jax.random.fold_in(key, number), n_sweeps=50).cost

    numbers = jnp.arange(models.couplings.shape[0])
    energies = jax.lax.map(greedy, models), jax.lax.map(annealed, (models, numbers))
    highest, lowest = results["highest"], results["lowest"]
    return {name: (highest - e) / (highest - lowest) for name, e in zip(("greedy", "annealed"), energies)}
