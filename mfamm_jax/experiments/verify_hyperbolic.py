"""Reference cases of the Poincare ball (16) and of the allocation reward (17)."""

from collections.abc import Callable
from typing import Any

import jax

from mfamm_jax.fields import in_precision
from mfamm_jax.models import ball
from mfamm_jax.models.hyperbolic import aggregate
from mfamm_jax.solvers.allocation import exposure_risk, jensen_shannon, mean_std_allocation

Answer = tuple[dict[str, Any], bool]


def maps(inputs: dict[str, Any], steps: int) -> Answer:
    """`ball_maps`."""
    x, y, tangent = (in_precision(inputs[name]) for name in ("x", "y", "tangent"))
    c = in_precision(inputs["curvature"])
    return {
        "mobius_x_y": ball.mobius_add(x, y, c),
        "mobius_y_x": ball.mobius_add(y, x, c),
        "distance": ball.distance(x, y, c),
        "exp_origin": ball.exp_origin(tangent, c),
        "log_origin_x": ball.log_origin(x, c),
        "exp_x": ball.exp_at(x, tangent, c),
        "log_x_y": ball.log_at(x, y, c),
    }, True


def layer(inputs: dict[str, Any], steps: int) -> Answer:
    """`ball_layer`."""
    points, attention = in_precision(inputs["points"]), in_precision(inputs["attention"])
    for _ in range(inputs["n_layers"]):
        points = aggregate(points, attention, in_precision(inputs["curvature"]), inputs["mode"])
    return {"points": points}, True


def mean(inputs: dict[str, Any], steps: int) -> Answer:
    """`ball_midpoint`."""
    return {
        "midpoint": ball.midpoint(*(in_precision(inputs[name]) for name in ("points", "weights", "curvature")))
    }, True


def divergence(inputs: dict[str, Any], steps: int) -> Answer:
    """`jensen_shannon`."""
    return {"divergence": jensen_shannon(in_precision(inputs["p"]), in_precision(inputs["q"]))}, True


def risk(inputs: dict[str, Any], steps: int) -> Answer:
    """`allocation_risk`."""
    exposures, covariance = in_precision(inputs["exposures"]), in_precision(inputs["covariance"])
    found = {}
    for kind in ("trace", "portfolio"):
        value = jax.value_and_grad(exposure_risk)(exposures, covariance, kind, inputs["smoothing"])
        found[f"{kind}_risk"], found[f"{kind}_gradient"] = value
    return found, True


def bandit(inputs: dict[str, Any], steps: int) -> Answer:
    """`softmax_bandit`."""
    logits, rewards = in_precision(inputs["logits"]), in_precision(inputs["rewards"])
    value, slope = jax.value_and_grad(lambda x: jax.nn.softmax(x) @ rewards)(logits)
    return {"probabilities": jax.nn.softmax(logits), "expected_reward": value, "gradient": slope}, True


def mean_std(inputs: dict[str, Any], steps: int) -> Answer:
    """`mean_std_allocation`."""
    names = ("expected_returns", "covariance", "risk_weight")
    weights, objective = mean_std_allocation(*(in_precision(inputs[name]) for name in names))
    return {"weights": weights, "objective": objective}, True


HYPERBOLIC_KINDS: dict[str, Callable[[dict[str, Any], int], Answer]] = {
    "ball_maps": maps,
    "ball_layer": layer,
    "ball_midpoint": mean,
    "jensen_shannon": divergence,
    "allocation_risk": risk,
    "softmax_bandit": bandit,
    "mean_std_allocation": mean_std,
}
