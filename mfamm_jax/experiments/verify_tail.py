"""Reference cases of tail risk (18) and of drawdowns (19)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mfamm_jax.fields import in_precision
from mfamm_jax.models import student_t
from mfamm_jax.risk.cvar import loss_tail_risk, quadrature_tail_risk
from mfamm_jax.risk.drawdown import (
    barrier_probability,
    bridge_breach,
    expected_max_drawdown,
    max_drawdown_probability,
)

Answer = tuple[dict[str, Any], bool]


def _normal(p: jax.Array) -> jax.Array:
    return -jax.scipy.special.ndtri(p)


def _mixture(given: dict[str, Any]) -> Callable[[jax.Array], jax.Array]:
    """By bisection."""
    weights, means, volatilities = (in_precision(given[name]) for name in ("weights", "means", "volatilities"))

    def survival(x: jax.Array) -> jax.Array:
        return jnp.sum(weights * jax.scipy.special.ndtr(-(x[..., None] - means) / volatilities), axis=-1)

    def quantile(p: jax.Array) -> jax.Array:
        def halve(_: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            middle = 0.5 * (bounds[0] + bounds[1])
            above = survival(middle) > p
            return jnp.where(above, middle, bounds[0]), jnp.where(above, bounds[1], middle)

        reach = jnp.max(jnp.abs(means)) + 40 * jnp.max(volatilities)
        bounds = jax.lax.fori_loop(0, 80, halve, (jnp.full_like(p, -reach), jnp.full_like(p, reach)))
        return 0.5 * (bounds[0] + bounds[1])

    return quantile


def _quantile(given: dict[str, Any]) -> Callable[[jax.Array], jax.Array]:
    """The loss exceeded with a probability."""
    name = given["name"]
    if name == "normal":
        return lambda p: given["mean"] + given["volatility"] * _normal(p)
    if name == "student_t":
        freedom = in_precision(given["degrees_of_freedom"])
        return lambda p: given["location"] + given["scale"] * student_t.survival_quantile(p, freedom)
    if name == "lognormal":
        return lambda p: jnp.exp(given["log_mean"] + given["log_volatility"] * _normal(p))
    if name == "normal_mixture":
        return _mixture(given)
    if name == "generalized_pareto":
        return lambda p: given["location"] + given["scale"] * jnp.expm1(-given["shape"] * jnp.log(p)) / given["shape"]
    if name == "laplace":
        tail = lambda p: jnp.where(p < 0.5, -jnp.log(2 * jnp.minimum(p, 0.5)), jnp.log(2 * (1 - jnp.maximum(p, 0.5))))  # noqa: E731
        return lambda p: given["location"] + given["scale"] * tail(p)
    raise ValueError(f'distribution "{name}" is not known')


def _by_level(inputs: dict[str, Any], n_nodes: int) -> Answer:
    quantile = _quantile(inputs["distribution"])
    risk = jax.vmap(lambda level: quadrature_tail_risk(quantile, level, n_nodes))(in_precision(inputs["tail_levels"]))
    return {"value_at_risk": risk.value_at_risk, "conditional_value_at_risk": risk.cvar}, True


def distribution(inputs: dict[str, Any], steps: int) -> Answer:
    """`distribution_tail_risk`, by as many nodes as its tolerance needs."""
    return _by_level(inputs, 64)


def quadrature(inputs: dict[str, Any], steps: int) -> Answer:
    """`quadrature_tail_risk`."""
    return _by_level(inputs, inputs["n_nodes"])


def empirical(inputs: dict[str, Any], steps: int) -> Answer:
    """`empirical_tail_risk`."""
    weights = None if inputs["sample_weights"] is None else in_precision(inputs["sample_weights"])
    risk = loss_tail_risk(in_precision(inputs["losses"]), in_precision(inputs["tail_level"]), weights)
    return {"value_at_risk": risk.value_at_risk, "conditional_value_at_risk": risk.cvar}, True


def barrier(inputs: dict[str, Any], steps: int) -> Answer:
    """`barrier_hitting`."""
    names = ("drift", "volatility", "barrier", "horizon")
    return {"probability": barrier_probability(*(in_precision(inputs[name]) for name in names))}, True


def bridge(inputs: dict[str, Any], steps: int) -> Answer:
    """`bridge_hitting`."""
    names = ("path", "step_variances", "barrier")
    return {"probability": bridge_breach(*(in_precision(inputs[name]) for name in names))}, True


def drawdown(inputs: dict[str, Any], steps: int) -> Answer:
    """`max_drawdown`."""
    volatility, horizon = in_precision(inputs["volatility"]), in_precision(inputs["horizon"])
    return {
        "probability": max_drawdown_probability(volatility, horizon, in_precision(inputs["thresholds"])),
        "expected_max_drawdown": expected_max_drawdown(volatility, horizon),
    }, True


TAIL_KINDS: dict[str, Callable[[dict[str, Any], int], Answer]] = {
    "distribution_tail_risk": distribution,
    "quadrature_tail_risk": quadrature,
    "empirical_tail_risk": empirical,
    "barrier_hitting": barrier,
    "bridge_hitting": bridge,
    "max_drawdown": drawdown,
}
