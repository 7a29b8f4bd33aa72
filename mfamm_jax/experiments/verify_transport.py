"""Reference cases of optimal transport (15)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mfamm_jax.fields import in_precision
from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.transport import gaussian_transport, solve_transport, transport_on_a_line
from mfamm_jax.solvers.transport_execution import kyle_matrix, plan_execution

Answer = tuple[dict[str, Any], bool]


def entropic(inputs: dict[str, Any], steps: int) -> Answer:
    """`entropic_transport`."""
    arrays = (in_precision(inputs[name]) for name in ("cost", "source_weights", "sink_weights"))
    solution = solve_transport(*arrays, regularization=inputs["entropic_regularization"])
    names = ("plan", "linear_cost", "value", "entropy_form_value")
    return {name: getattr(solution.value, name) for name in names}, bool(solution.result == RESULTS.successful)


def on_a_line(inputs: dict[str, Any], steps: int) -> Answer:
    """`exact_transport_1d`."""
    names = ("source_points", "sink_points", "source_weights", "sink_weights")
    arrays = [None if inputs[name] is None else in_precision(inputs[name]) for name in names]
    return {"cost": jnp.stack([transport_on_a_line(*arrays, exponent=float(p)) for p in inputs["exponents"]])}, True


def gaussian(inputs: dict[str, Any], steps: int) -> Answer:
    """`gaussian_entropic_transport`."""
    laws = [in_precision(inputs[name]) for name in ("source_mean", "source_covariance", "sink_mean", "sink_covariance")]
    shift = jnp.sum((laws[0] - laws[2]) ** 2) + jnp.trace(laws[1]) + jnp.trace(laws[3])
    value = gaussian_transport(*laws, regularization=inputs["entropic_regularization"])
    return {
        "value": value,
        "unregularized_value": gaussian_transport(*laws, regularization=0.0),
        "independent_value": shift,
    }, True


def discretized(inputs: dict[str, Any], steps: int) -> Answer:
    """`discretized_gaussian_transport`."""
    x = jnp.linspace(inputs["grid_start"], inputs["grid_stop"], inputs["n_points"], dtype=jnp.result_type(float))
    masses, laws = [], []
    for side in ("source", "sink"):
        mean, variance = inputs[f"{side}_mean"], inputs[f"{side}_variance"]
        density = jax.nn.softmax(-((x - mean) ** 2) / (2 * variance))
        masses.append(jnp.maximum(density, jnp.finfo(x.dtype).tiny))
        laws += [in_precision([mean]), in_precision([[variance]])]
    solution = solve_transport(
        (x[:, None] - x[None, :]) ** 2, *masses, regularization=inputs["entropic_regularization"]
    )
    found = {"value": solution.value.value, "linear_cost": solution.value.linear_cost}
    closed = gaussian_transport(*laws, regularization=inputs["entropic_regularization"])
    return found | {"closed_form_value": closed}, bool(solution.result == RESULTS.successful)


def cross_impact(inputs: dict[str, Any], steps: int) -> Answer:
    """`cross_impact_plan`."""
    names = ("cost", "source_weights", "sink_weights", "impact_matrix", "decay_matrix")
    arrays, scale = [in_precision(inputs[name]) for name in names], inputs["entropic_regularization"]
    solution = plan_execution(*arrays, regularization=scale)
    cost, source, sink, impact, decay = arrays
    alone = plan_execution(cost, source, sink, jnp.zeros_like(impact), jnp.zeros_like(decay), scale)
    plan = alone.value.transport.plan
    mutual = 0.5 * jnp.sum(plan * (impact @ plan @ decay))
    solved = bool((solution.result == RESULTS.successful) & (alone.result == RESULTS.successful))
    return {
        "plan": solution.value.transport.plan,
        "objective": solution.value.objective,
        "objective_ignoring_cross_impact": alone.value.objective + mutual,
    }, solved


def kyle(inputs: dict[str, Any], steps: int) -> Answer:
    """`kyle_matrix`."""
    return {
        "impact_matrix": kyle_matrix(*(in_precision(inputs[f"{name}_covariance"]) for name in ("flow", "return")))
    }, True


TRANSPORT_KINDS: dict[str, Callable[[dict[str, Any], int], Answer]] = {
    "entropic_transport": entropic,
    "exact_transport_1d": on_a_line,
    "gaussian_entropic_transport": gaussian,
    "discretized_gaussian_transport": discretized,
    "cross_impact_plan": cross_impact,
    "kyle_matrix": kyle,
}
