"""Experiment `routing`: which venues to use and how much to send to each, by QAOA (22)-(24) and by everything it has to beat."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.experiments.experiment import AbstractExperiment, ConfigError, Stage
from mfamm_jax.experiments.quoting_run import HostReport
from mfamm_jax.experiments.routing_tables import routing_metrics
from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.models.ising import Ising, bits_of, cost_diagonal, index_of, with_ancilla, without_ancilla
from mfamm_jax.policies.routing import (
    Venues,
    best_of,
    check_order,
    convex_split,
    every_route,
    finite_costs,
    route,
    searchable_cost,
)
from mfamm_jax.policies.routing_qubo import (
    LotBits,
    assignment_costs,
    dual_price,
    lot_bits,
    lot_qubo,
    lots_on_venues,
    venue_qubo,
)
from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.bit_search import anneal, greedy_descent
from mfamm_jax.solvers.one_hot_qaoa import assignments, optimise_one_hot
from mfamm_jax.solvers.qaoa import (
    Angles,
    linear_ramp,
    one_layer_landscape,
    optimise_angles,
    qaoa_probabilities,
    ramp_starts,
    sample_indices,
)
from mfamm_jax.solvers.qaoa_one_layer import neighbours_of, one_layer_angles

MOST_VENUES, MOST_QUBITS, MOST_ASSIGNMENTS = 12, 18, 2**18
N_LANDSCAPE = 49


class Order(Checked):
    """What is routed."""

    quantity: Float[Array, ""] = real_field(
        default=1000.0, lower=0.0, strict=True, unit="unit", help="to be sent in all"
    )
    n_lots: int = static_field(
        default=5, lower=1, upper=64, help="equal lots for the forms that send whole ones; 1 = leave those out"
    )


class Circuit(Checked):
    """QAOA."""

    n_layers: int = static_field(default=3, lower=1, upper=64, source="(24) p", help="of the circuit")
    n_starts: int = static_field(default=8, lower=1, upper=256, help="of the search for angles, linear ramps")
    max_iterations: int = static_field(default=150, lower=1, help="of each start")
    n_samples: int = static_field(default=100, lower=1, upper=100_000, help="measurements; the best one is the answer")
    n_slack: int = static_field(
        default=3, lower=0, upper=8, help="bits of unused capacity; 0 = capacities are not in the cost"
    )
    capacity_penalty: Float[Array, ""] = real_field(
        default=4.0, lower=0.0, help="price of missing the whole order, over the range of the costs of sets"
    )
    moves: Literal["complete", "ring"] = static_field(
        default="complete", help="which venues exchange a lot in the mixer that keeps the sum"
    )


class Search(Checked):
    """Simulated annealing."""

    n_chains: int = static_field(default=32, lower=1, upper=4096, help="from random sets")
    n_sweeps: int = static_field(default=20, lower=1, help="flips tried by each, over the number of venues")


class Prepared(eqx.Module):
    """Arrays of the run.

    Args:
        venues: Where it may go.
        bits: Of the form with whole lots; None where there is none.
        report: Host facts.
    """

    venues: Venues
    bits: LotBits | None
    report: HostReport = eqx.field(static=True)


class Routing(AbstractExperiment):
    """Order routing.

    Args:
        venues: Where an order may go.
        order: What is routed.
        circuit: QAOA.
        search: Annealing.
    """

    venues: Checked
    order: Order
    circuit: Circuit
    search: Search

    @classmethod
    def prepared_paths(cls) -> tuple[str, ...]:
        """Tables used by `prepare`."""
        return ("venues",)

    def numbers_per_row(self) -> int:
        """States of the exact diagonal, one per start."""
        return 20 * self.circuit.n_starts * 2**MOST_VENUES

    def prepare(self, folder: Any, seed: int, say: Callable[[str], None], progress: Any = None) -> Prepared:
        """Lists or measures the venues."""
        found = self.venues.load(seed)
        n = len(found.names)
        if n > MOST_VENUES:
            raise ConfigError(f"venues: {n} of them, expected at most {MOST_VENUES}: the report enumerates all sets")
        try:
            check_order(found.venues, self.order.quantity)
        except ValueError as error:
            raise ConfigError(f"order.quantity: {error}") from error
        bits = None
        if self.order.n_lots > 1:
            lot = float(self.order.quantity) / self.order.n_lots
            bits = lot_bits(found.venues, lot)
            n_bits = bits.lots.shape[0]
            # The bits of the lots reach every count up to the capacities.
            whole = int(np.sum(np.asarray(bits.lots)))
            if whole < self.order.n_lots:
                raise ConfigError(
                    f"order.n_lots: the venues hold {whole} whole lots of {lot:g}, the order has "
                    f"{self.order.n_lots}: use more lots, or 1 to leave those forms out"
                )
            if n_bits > MOST_QUBITS or n**self.order.n_lots > MOST_ASSIGNMENTS:
                raise ConfigError(
                    f"order.n_lots: {self.order.n_lots} lots need {n_bits} bits, or {n**self.order.n_lots:,} assignments; expected at most "
                    f"{MOST_QUBITS} and {MOST_ASSIGNMENTS:,}: use fewer lots"
                )
        if n + self.circuit.n_slack + 1 > MOST_QUBITS:
            raise ConfigError(f"circuit.n_slack: {n} venues leave room for {MOST_QUBITS - 1 - n} slack bits")
        say(f"{found.title}: {', '.join(found.names)}; {2**n - 1} sets")
        report = HostReport(found=found, names=found.names)
        return Prepared(found.venues, bits, report)

    def plan(self, batch: Any, prepared: Prepared) -> tuple[tuple, str]:
        """Orders of a sweep must fit as well."""
        quantities = np.asarray(batch.order.quantity, float)
        total = float(np.sum(np.asarray(prepared.venues.capacities)))
        if quantities.max() > total:
            raise ConfigError(
                f"order.quantity: {quantities.max():g} exceeds the capacity of all venues together, {total:g}: nothing can route it"
            )
        return (), f"{self.circuit.n_layers} layers, L-BFGS from {self.circuit.n_starts} ramps"

    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """Enumerate, search, circuits."""
        return [
            ("sets", sets_stage),
            ("search", search_stage),
            ("circuits", circuits_stage),
            ("landscape", landscape_stage),
        ]

    def metrics(self, plan: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
        """Everything the report prints."""
        return routing_metrics(self, prepared, results)

    def provenance(self, prepared: Prepared) -> dict[str, Any]:
        """The books' files."""
        found = prepared.report["found"]
        return {"venues": {"title": found.title, "names": found.names, "source": found.source}}

    def row(self, plan: Any, prepared: Prepared, key: PRNGKeyArray) -> dict[str, Array]:
        """Costs of the ways, with the exact diagonal alone as circuit."""
        sets = sets_stage(self, prepared, {}, key)
        found = {**sets, **search_stage(self, prepared, sets, key)}
        circuit = _measured(
            self, sets["costs"], _starts(self, sets["costs"]), jnp.arange(sets["costs"].shape[0]), sets, key
        )
        return {
            "best_cost": sets["best"].cost,
            "convex_cost": sets["convex"].cost,
            "greedy_cost": found["greedy"].cost,
            "annealed_cost": found["annealed"].cost,
            "lower_bound": sets["lower_bound"],
            "qaoa_mean_cost": circuit["mean"],
            "qaoa_best_cost": circuit["best"],
            "qaoa_p_best": circuit["p_best"],
            "n_venues": jnp.sum(sets["best"].active),
            "ok": sets["best"].split.feasible & circuit["ok"],
        }


def sets_stage(experiment: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """Every set, the best one, the convex split, and the bound from the dual price."""
    venues, quantity = prepared.venues, experiment.order.quantity
    routes = every_route(venues, quantity)
    best, second, count = best_of(routes)
    price, bound = dual_price(venues, quantity)
    return {
        "costs": finite_costs(routes, venues, quantity),
        "feasible": routes.split.feasible,
        "best": best,
        "second_cost": second,
        "n_feasible": count,
        "convex": convex_split(venues, quantity),
        "price": price,
        "lower_bound": jnp.minimum(bound, best.cost),  # by rounding it may exceed what it bounds
    }


def search_stage(experiment: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """Greedy flips from no venue, and annealing."""
    venues, quantity = prepared.venues, experiment.order.quantity
    cost = searchable_cost(venues, quantity)
    greedy = greedy_descent(cost, jnp.zeros(venues.n, jnp.int32))
    keys = jax.random.split(jax.random.fold_in(key, 1), experiment.search.n_chains)
    chains = jax.vmap(lambda k: anneal(cost, venues.n, k, n_sweeps=experiment.search.n_sweeps))(keys)
    first = jnp.argmin(chains.cost)
    return {
        "greedy": route(greedy.bits, venues, quantity),
        "annealed": route(chains.bits[first], venues, quantity),
        "chains_at_best": jnp.mean(chains.cost <= results["best"].cost + _tolerance(results["costs"])),
    }


def circuits_stage(experiment: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """QAOA on every form, decoded to routes."""
    venues, order, circuit = prepared.venues, experiment.order, experiment.circuit
    n, costs = venues.n, results["costs"]
    spread = jnp.max(costs) - jnp.min(costs)
    every = jnp.arange(2**n, dtype=jnp.int32)
    forms = {"exact diagonal": _measured(experiment, costs, _starts(experiment, costs), every, results, key)}

    def add(
        name: str, model: Ising, sets_of: Callable[[Array], Array], number: int, start: Angles | None = None
    ) -> None:
        diagonal = cost_diagonal(model)
        bits = bits_of(jnp.arange(diagonal.shape[0], dtype=jnp.int32), model.n_vertices)
        sets = index_of(sets_of(bits))
        key_of = jax.random.fold_in(key, number)
        starts = _starts(experiment, diagonal)
        if start is not None:
            starts = jax.tree.map(lambda many, one: jnp.concatenate([many, one[None]]), starts, start)
        forms[name] = _measured(experiment, diagonal, starts, sets, results, key_of)

    penalty = circuit.capacity_penalty * spread
    qubo = venue_qubo(venues, order.quantity, results["price"], n_slack=circuit.n_slack, capacity_penalty=penalty)
    # The closed form of one layer starts a ramp of the same mean angles.
    n_bits = n + circuit.n_slack
    one = one_layer_angles(qubo, neighbours_of(np.stack(np.triu_indices(n_bits, 1), axis=1), n_bits)).value
    ramp = linear_ramp(circuit.n_layers, 2 * one.cost_angles[0], -2 * one.mixer_angles[0])
    add("venue QUBO", qubo, lambda bits: bits[:, :n], 2, ramp)
    add("venue QUBO, ancilla (22)", with_ancilla(qubo), lambda bits: without_ancilla(bits)[:, :n], 3)
    if prepared.bits is not None:
        lot = order.quantity / order.n_lots
        lots = prepared.bits
        model = lot_qubo(venues, order.n_lots, lot, lots)
        add("lot QUBO", model, lambda bits: (lots_on_venues(bits, lots, n) > 0).astype(jnp.int32), 4)
        diagonal = assignment_costs(venues, order.n_lots, lot)
        places = assignments(order.n_lots, n)
        used = jnp.max(jax.nn.one_hot(places, n, dtype=jnp.int32), axis=1)
        forms["one-hot lots, XY mixer"] = _measured(
            experiment, diagonal, _starts(experiment, diagonal), index_of(used), results, jax.random.fold_in(key, 5), n
        )
    return {"forms": forms}


def _starts(experiment: Any, diagonal: Array) -> Angles:
    return ramp_starts(diagonal, experiment.circuit.n_layers, experiment.circuit.n_starts)


def _measured(
    experiment: Any,
    diagonal: Array,
    starts: Angles,
    sets: Array,
    results: dict[str, Any],
    key: PRNGKeyArray,
    n_venues: int | None = None,
) -> dict[str, Any]:
    """Angles, what the circuit's bitstrings decode to, and the same for bitstrings at random."""
    circuit = experiment.circuit
    if n_venues is None:
        solution = optimise_angles(diagonal, starts, max_iterations=circuit.max_iterations)
        probabilities = qaoa_probabilities(diagonal, solution.value)
    else:
        solution, probabilities = optimise_one_hot(
            diagonal, n_venues, starts, moves=circuit.moves, max_iterations=circuit.max_iterations
        )
    costs, best = results["costs"], results["best"].cost
    n_sets = costs.shape[0]
    by_set = jnp.zeros(n_sets, diagonal.dtype).at[sets].add(probabilities)
    uniform = jnp.zeros(n_sets, diagonal.dtype).at[sets].add(1 / diagonal.shape[0])
    feasible = results["feasible"]
    is_best = feasible & (costs <= best + _tolerance(costs))
    true_costs = jnp.where(feasible, costs, jnp.inf)
    drawn = sets[sample_indices(probabilities, jax.random.fold_in(key, 0), circuit.n_samples)]
    guessed = sample_indices(uniform, jax.random.fold_in(key, 1), circuit.n_samples)
    first = drawn[jnp.argmin(costs[drawn])]
    return {
        "angles": solution.value,
        "ok": (solution.result == RESULTS.successful) | (solution.result == RESULTS.not_converged),
        "converged": solution.result == RESULTS.successful,
        "energy": solution.stats["energy"],
        "ground_decoded": costs[sets[jnp.argmin(diagonal)]],
        "mean": by_set @ costs,
        "mean_at_random": uniform @ costs,
        "p_best": by_set @ is_best,
        "p_best_at_random": uniform @ is_best,
        "p_feasible": by_set @ feasible,
        "best": true_costs[first],
        "best_set": first,
        "best_at_random": jnp.min(true_costs[guessed]),
        "best_set_at_random": guessed[jnp.argmin(costs[guessed])],
        "sampled": costs[drawn],
        "n_states": jnp.asarray(diagonal.shape[0]),
    }


def _tolerance(costs: Array) -> Array:
    """What counts as the same cost."""
    return 100 * jnp.finfo(costs.dtype).eps * jnp.max(jnp.abs(costs))


def landscape_stage(experiment: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """Energy of one layer on the exact diagonal over both angles."""
    gammas, betas, table = one_layer_landscape(results["costs"], N_LANDSCAPE)
    return {"landscape": {"energy": table, "cost_angles": gammas, "mixer_angles": betas}}
