"""What this package answers for the kinds of reference cases beyond the plain finite-horizon problem.

Each function takes a case's inputs and the number of Runge-Kutta steps and returns numbers under the names of `expected`, and
whether every solve succeeded.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mfamm_jax.fields import in_precision
from mfamm_jax.models.curves import LogisticIntensity
from mfamm_jax.models.intensity import ExponentialIntensity
from mfamm_jax.results import RESULTS, Solution
from mfamm_jax.solvers.closed_form import fluid_stationary_slope
from mfamm_jax.solvers.hjb import (
    BoxGrid,
    Ergodic,
    ExplicitRK,
    Grid,
    HJBProblem,
    MultiAssetProblem,
    RegimeProblem,
    optimal_depths,
    rulebook_penalty,
    solve_hjb,
    solve_intervals,
)

Answer = tuple[dict[str, Any], bool]


def _answer(problem: HJBProblem, solution: Solution, axis: int = 0) -> Answer:
    """Value and quotes with the whole horizon left; regimes first, as the case tables have them."""
    table = solution.value
    bid, ask = optimal_depths(problem, table.relative_value[-1], axis)
    numbers = {"value": table.initial_value, "bid_depth": bid, "ask_depth": ask}
    solved = bool(jnp.all(solution.result == RESULTS.successful))
    return {name: number.T for name, number in numbers.items()}, solved


def logistic(inputs: dict[str, Any], steps: int) -> Answer:
    """`hjb_logistic`."""
    side = LogisticIntensity(inputs["intensity_scale"], inputs["logit_offset"], inputs["decay"])
    names = ("inventory_penalty", "terminal_penalty", "horizon")
    problem = HJBProblem(side, side, **{name: inputs[name] for name in names})
    return _answer(problem, solve_hjb(problem, ExplicitRK(steps), Grid(inputs["max_inventory"])))


def regimes(inputs: dict[str, Any], steps: int) -> Answer:
    """`hjb_regimes`."""
    sides = [
        ExponentialIntensity(in_precision(inputs[f"{side}_intensity"]), inputs["decay"]) for side in ("bid", "ask")
    ]
    names = ("inventory_penalty", "terminal_penalty", "horizon")
    problem = HJBProblem(*sides, drift=in_precision(inputs["drift"]), **{name: inputs[name] for name in names})
    chain = RegimeProblem(problem, in_precision(inputs["generator"]))
    return _answer(problem, solve_hjb(chain, ExplicitRK(steps), Grid(inputs["max_inventory"])))


def time_varying(inputs: dict[str, Any], steps: int) -> Answer:
    """`hjb_time_varying`."""
    bid, ask = (ExponentialIntensity(inputs[f"{s}_intensity"], inputs[f"{s}_decay"]) for s in ("bid", "ask"))
    penalty = rulebook_penalty(inputs["risk_aversion"], in_precision(inputs["volatility"]))
    durations = jnp.diff(in_precision(inputs["volatility_breaks"]))
    problem = HJBProblem(bid, ask, penalty, inputs["terminal_penalty"], durations)
    solution = solve_intervals(problem, ExplicitRK(steps), Grid(inputs["max_inventory"]))
    return _answer(problem, solution)


def two_asset(inputs: dict[str, Any], steps: int) -> Answer:
    """`hjb_two_asset`."""
    assets = []
    for intensity, decay in zip(inputs["intensity"], inputs["decay"], strict=True):
        side = ExponentialIntensity(intensity, decay)
        assets.append(HJBProblem(side, side, 0.0, inputs["terminal_penalty"], inputs["horizon"]))
    volatility = in_precision(inputs["volatility"])
    correlation = in_precision([[1.0, inputs["correlation"]], [inputs["correlation"], 1.0]])
    matrix = inputs["risk_aversion"] * jnp.outer(volatility, volatility) * correlation
    problem = MultiAssetProblem(tuple(assets), matrix)
    solution = solve_hjb(problem, ExplicitRK(steps), BoxGrid(tuple(inputs["max_inventory"])))
    return {"value": solution.value.initial_value}, bool(solution.result == RESULTS.successful)


def ergodic(inputs: dict[str, Any], steps: int) -> Answer:
    """`hjb_ergodic`; policy iteration has no steps."""
    bid, ask = (ExponentialIntensity(inputs[f"{s}_intensity"], inputs[f"{s}_decay"]) for s in ("bid", "ask"))
    low = -jnp.inf if inputs["min_depth"] is None else inputs["min_depth"]
    high = jnp.inf if inputs["max_depth"] is None else inputs["max_depth"]
    grid = Grid(inputs["max_inventory"])

    def solve(penalty: jax.Array) -> tuple[HJBProblem, Solution]:
        problem = HJBProblem(bid, ask, penalty, min_depth=low, max_depth=high)
        return problem, solve_hjb(problem, Ergodic(), grid)

    penalty = in_precision(inputs["inventory_penalty"])
    problem, solution = solve(penalty)
    numbers, solved = _answer(problem, solution)
    slope = jax.grad(lambda phi: solve(phi)[1].stats["gain"])(penalty)
    numbers |= {
        "ergodic_value": solution.stats["gain"],
        "relative_value": solution.value.relative_value[-1],
        "d_ergodic_value_d_inventory_penalty": slope,
    }
    return numbers, solved


def fluid_ergodic(inputs: dict[str, Any], steps: int) -> Answer:
    """`hjb_fluid_ergodic`, by its closed form: the scheme tends to it only with the first power of the cell."""
    side = ExponentialIntensity(inputs["intensity"], inputs["decay"])
    inventory = inputs["inventory"]
    slope = fluid_stationary_slope(side, inputs["inventory_penalty"], in_precision(inventory))
    return {"minus_value_slope": -slope}, True


KINDS: dict[str, Callable[[dict[str, Any], int], Answer]] = {
    "hjb_logistic": logistic,
    "hjb_regimes": regimes,
    "hjb_time_varying": time_varying,
    "hjb_two_asset": two_asset,
    "hjb_ergodic": ergodic,
    "hjb_fluid_ergodic": fluid_ergodic,
}
