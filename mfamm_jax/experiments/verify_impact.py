"""Reference cases of market impact and execution schedules (20)."""

from collections.abc import Callable
from typing import Any

import jax

from mfamm_jax.fields import in_precision
from mfamm_jax.models.impact import (
    AbstractKernel,
    ExponentialKernel,
    InstantImpact,
    PowerKernel,
    ShiftedPowerKernel,
    metaorder,
)
from mfamm_jax.solvers.schedule import (
    almgren_chriss,
    best_schedule,
    budget_adversary,
    impact_matrix,
    obizhaeva_wang,
    obizhaeva_wang_trades,
    power_law_schedule,
    schied_zhang,
)

Answer = tuple[dict[str, Any], bool]


def _kernel(given: dict[str, Any]) -> AbstractKernel:
    if given["form"] == "power":
        return ShiftedPowerKernel(given["amplitude"], given["time_scale"], given["exponent"])
    if given["form"] == "exponential":
        return ExponentialKernel(in_precision([given["amplitude"]]), in_precision([given["rate"]]))
    return ExponentialKernel(in_precision(given["amplitudes"]), in_precision(given["rates"]))


def _matrix(inputs: dict[str, Any]) -> jax.Array:
    return impact_matrix(_kernel(inputs["kernel"]), in_precision(inputs["times"]))


def order(inputs: dict[str, Any], steps: int) -> Answer:
    """`metaorder_price_path`."""
    impact, kernel = (
        InstantImpact(inputs["impact_scale"], inputs["impact_exponent"]),
        PowerKernel(inputs["decay_exponent"]),
    )
    return vars(
        metaorder(inputs["trading_rate"], inputs["duration"], in_precision(inputs["times"]), kernel, impact)
    ), True


def _obizhaeva_wang(inputs: dict[str, Any]) -> tuple[jax.Array, ...]:
    return tuple(in_precision(inputs[name]) for name in ("shares", "horizon", "resilience", "impact"))


def blocks(inputs: dict[str, Any], steps: int) -> Answer:
    """`obizhaeva_wang_continuous`."""
    return dict(zip(("block", "rate", "cost"), obizhaeva_wang(*_obizhaeva_wang(inputs)))), True


def trades(inputs: dict[str, Any], steps: int) -> Answer:
    """`obizhaeva_wang_discrete`."""
    found = obizhaeva_wang_trades(*_obizhaeva_wang(inputs), n_steps=inputs["n_steps"])
    return dict(zip(("edge_trade", "interior_trade", "cost"), found)), True


def propagator(inputs: dict[str, Any], steps: int) -> Answer:
    """`propagator_schedule`."""
    found = best_schedule(_matrix(inputs), inputs["shares"])
    return {"schedule": found.trades, "cost": found.cost}, True


def power_law(inputs: dict[str, Any], steps: int) -> Answer:
    """`power_law_schedule`."""
    names = ("horizon", "shares", "decay_exponent")
    return vars(power_law_schedule(in_precision(inputs["times"]), *(inputs[name] for name in names))), True


def liquidation(inputs: dict[str, Any], steps: int) -> Answer:
    """`almgren_chriss`."""
    return vars(almgren_chriss(**inputs)), True


def game(inputs: dict[str, Any], steps: int) -> Answer:
    """`schied_zhang`."""
    names = ("shares", "opponent_shares", "quadratic_cost")
    return vars(schied_zhang(_matrix(inputs), *(inputs[name] for name in names))), True


def budget(inputs: dict[str, Any], steps: int) -> Answer:
    """`budget_adversary`."""
    return vars(budget_adversary(in_precision(inputs["schedule"]), _matrix(inputs), inputs["budget"])), True


IMPACT_KINDS: dict[str, Callable[[dict[str, Any], int], Answer]] = {
    "metaorder_price_path": order,
    "obizhaeva_wang_continuous": blocks,
    "obizhaeva_wang_discrete": trades,
    "propagator_schedule": propagator,
    "power_law_schedule": power_law,
    "almgren_chriss": liquidation,
    "schied_zhang": game,
    "budget_adversary": budget,
}
