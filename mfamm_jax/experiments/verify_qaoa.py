"""Reference cases of QAOA and of order routing (22)-(24)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mfamm_jax.fields import in_precision
from mfamm_jax.models.ising import bits_of, cost_diagonal, ising, qubo_to_ising
from mfamm_jax.policies.routing import Split, Venues, best_route, water_filling
from mfamm_jax.solvers.qaoa import Angles, qaoa_energy
from mfamm_jax.solvers.qaoa_one_layer import neighbours_of, one_layer_energy, one_layer_expectations

Answer = tuple[dict[str, Any], bool]
VENUE_NAMES = ("fees", "impacts", "capacities", "activation_costs", "leakage")


def energy(inputs: dict[str, Any], steps: int) -> Answer:
    """`qaoa_energy`."""
    model = ising(inputs["n_vertices"], inputs["edges"], inputs["weights"], inputs["fields"])
    diagonal = cost_diagonal(model)
    angles = Angles(in_precision(inputs["cost_angles"]), in_precision(inputs["mixer_angles"]))
    value, slope = jax.value_and_grad(lambda x: qaoa_energy(diagonal, x))(angles)
    # Equal costs of different bitstrings differ in their last digits.
    ground = jnp.min(diagonal)
    near = 1e3 * jnp.finfo(ground.dtype).eps * (1 + jnp.max(jnp.abs(diagonal)))
    count = jnp.sum(diagonal <= ground + near)
    return {
        "energy": value,
        "gradient_cost_angles": slope.cost_angles,
        "gradient_mixer_angles": slope.mixer_angles,
        "ground_energy": ground,
        "n_ground_states": count,
        "ground_bits": bits_of(jnp.argmin(diagonal), model.n_vertices) if count == 1 else jnp.nan,
    }, True


def one_layer(inputs: dict[str, Any], steps: int) -> Answer:
    """`qaoa_one_layer`."""
    model = ising(inputs["n_vertices"], inputs["edges"], inputs["weights"], inputs["fields"])
    neighbours = neighbours_of(inputs["edges"], inputs["n_vertices"])
    at = in_precision(inputs["cost_angle"]), in_precision(inputs["mixer_angle"])
    value, slopes = jax.value_and_grad(one_layer_energy, argnums=(2, 3))(model, neighbours, *at)
    vertices, edges = one_layer_expectations(model, neighbours, *at)
    return {
        "energy": value,
        "vertex_expectations": vertices,
        "edge_correlations": edges,
        "gradient_cost_angle": slopes[0],
        "gradient_mixer_angle": slopes[1],
    }, True


def qubo(inputs: dict[str, Any], steps: int) -> Answer:
    """`qubo_to_ising`."""
    pairs = jnp.asarray(inputs["pairs"], jnp.int32).reshape(-1, 2)
    model = qubo_to_ising(in_precision(inputs["linear"]), pairs, in_precision(inputs["quadratic"]))
    diagonal = cost_diagonal(model)
    return {
        "couplings": model.couplings,
        "fields": model.fields,
        "offset": model.offset,
        "minimizer": bits_of(jnp.argmin(diagonal), model.n_vertices),
        "minimum": jnp.min(diagonal),
    }, True


def split(inputs: dict[str, Any], steps: int) -> Answer:
    """`water_filling_split`."""
    given = (in_precision(inputs[name]) for name in VENUE_NAMES[:3])
    found = water_filling(inputs["quantity"], *given)
    marginal = found.marginal_cost if found.feasible else jnp.nan
    return _shown(found) | {"marginal_cost": marginal, "cost": found.cost if found.feasible else jnp.nan}, True


def routing(inputs: dict[str, Any], steps: int) -> Answer:
    """`venue_routing`."""
    venues = Venues(*(in_precision(inputs[name]) for name in VENUE_NAMES))
    best, second, count = best_route(venues, inputs["quantity"])
    costs = {
        "active": best.active if best.split.feasible else jnp.nan,
        "cost": best.cost if best.split.feasible else jnp.nan,
        "second_cost": second if jnp.isfinite(second) else jnp.nan,
        "n_feasible_sets": count,
    }
    return _shown(best.split) | costs, True


def _shown(found: Split) -> dict[str, Any]:
    return {"feasible": found.feasible, "split": found.quantities if found.feasible else jnp.nan}


QAOA_KINDS: dict[str, Callable[[dict[str, Any], int], Answer]] = {
    "qaoa_energy": energy,
    "qaoa_one_layer": one_layer,
    "qubo_to_ising": qubo,
    "water_filling_split": split,
    "venue_routing": routing,
}
