"""Experiment `hjb`: optimal quotes and their expected profit for given parameters, no data needed."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.experiments.experiment import AbstractExperiment, Arrays, Stage
from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.models.intensity import ExponentialIntensity
from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.closed_form import stationary_depths
from mfamm_jax.solvers.hjb import (
    AbstractScheme,
    ExplicitRK,
    Grid,
    HJBProblem,
    Implicit,
    TaylorAction,
    Uniformization,
    choose_scheme,
    optimal_depths,
    rulebook_penalty,
    solve_hjb,
)

SchemeName = Literal["auto", "uniformization", "taylor", "explicit", "implicit"]

SCHEMES = {
    "uniformization": Uniformization,
    "taylor": TaylorAction,
    "explicit": ExplicitRK,
    "implicit": Implicit,
}


class Parameters(Checked):
    """The problem in its own numbers.

    Args:
        bid_intensity, ask_intensity: Fill rates at the mid.
        bid_decay, ask_decay: Decay with depth.
    """

    risk_aversion: Float[Array, ""] = real_field(
        default=0.1, lower=0.0, unit="1/(price lot)", source="(1) gamma", help="weight of inventory risk"
    )
    volatility: Float[Array, ""] = real_field(
        default=0.3, lower=0.0, unit="price/sqrt(s)", source="(1) sigma", help="volatility of the mid"
    )
    terminal_penalty: Float[Array, ""] = real_field(
        default=1e-4, lower=0.0, unit="price/lot", source="(9) alpha", help="penalty on the final inventory squared"
    )
    bid_intensity: Float[Array, ""] = real_field(
        default=1.0, lower=0.0, strict=True, unit="1/s", source="(3)", help="bid fills per second at the mid"
    )
    ask_intensity: Float[Array, ""] = real_field(
        default=1.0, lower=0.0, strict=True, unit="1/s", source="(3)", help="ask fills per second at the mid"
    )
    bid_decay: Float[Array, ""] = real_field(
        default=1.5, lower=0.0, strict=True, unit="1/price", source="(3)", help="decay of bid fills with depth"
    )
    ask_decay: Float[Array, ""] = real_field(
        default=1.5, lower=0.0, strict=True, unit="1/price", source="(3)", help="decay of ask fills with depth"
    )
    horizon: Float[Array, ""] = real_field(
        default=10.0, lower=0.0, strict=True, unit="s", source="(1) T", help="time to the end"
    )
    drift: Float[Array, ""] = real_field(default=0.0, unit="price/s", help="drift of the mid")
    bid_adverse_selection: Float[Array, ""] = real_field(
        default=0.0, unit="price", help="expected fall of the mid after a bid fill"
    )
    ask_adverse_selection: Float[Array, ""] = real_field(
        default=0.0, unit="price", help="expected rise of the mid after an ask fill"
    )
    fill_risk_aversion: Float[Array, ""] = real_field(
        default=0.0, lower=0.0, unit="1/price", help="CARA weight on single fills; 0 = the rulebook"
    )
    min_depth: Float[Array, ""] = real_field(
        default=-jnp.inf, unit="price", source="set A", help="smallest depth; -inf = no limit"
    )
    max_depth: Float[Array, ""] = real_field(
        default=jnp.inf, unit="price", source="set A", help="largest depth; inf = no limit"
    )

    def problem(self) -> HJBProblem:
        """The control problem."""
        return HJBProblem(
            bid=ExponentialIntensity(self.bid_intensity, self.bid_decay),
            ask=ExponentialIntensity(self.ask_intensity, self.ask_decay),
            inventory_penalty=rulebook_penalty(self.risk_aversion, self.volatility),
            terminal_penalty=self.terminal_penalty,
            horizon=self.horizon,
            drift=self.drift,
            bid_adverse_selection=self.bid_adverse_selection,
            ask_adverse_selection=self.ask_adverse_selection,
            fill_risk_aversion=self.fill_risk_aversion,
            min_depth=self.min_depth,
            max_depth=self.max_depth,
        )


def free_field(default: str, names: tuple[str, ...]) -> Any:
    """A setting that lists which parameters a search may move."""
    return static_field(default=default, help=f"names separated by commas, of {', '.join(names)}")


def width_field(default: float) -> Any:
    """A setting that says how far it may move them."""
    return static_field(
        default=default,
        lower=1.0,
        strict=True,
        help="each may rise and fall by this factor from its value in [parameters]",
    )


class HJBExperiment(AbstractExperiment):
    """Solves (8)-(10) for given parameters.

    Args:
        parameters: The problem.
        scheme: Method, or "auto".
        max_inventory: Largest position.
        n_steps: Rows of the value table in time.
    """

    parameters: Parameters
    scheme: SchemeName = static_field(default="auto", source="(8)", help="how the HJB equation is integrated")
    max_inventory: int = static_field(default=10, lower=1, unit="lots", help="largest position")
    n_steps: int = static_field(default=50, lower=1, help="rows of the value table")

    def numbers_per_row(self) -> int:
        """The value table, its quotes, and the step matrix."""
        size = 2 * self.max_inventory + 1
        return 4 * (self.n_steps + 1) * size + 2 * size**2

    def prepare(self, folder: Any, seed: int, say: Callable[[str], None], progress: Any = None) -> None:
        """Nothing to load."""

    def plan(self, batch: Any, prepared: Any) -> tuple[tuple[AbstractScheme, Grid], str]:
        """One scheme that serves every row."""
        grid = Grid(self.max_inventory, self.n_steps)
        problems = jax.vmap(lambda experiment: experiment.parameters.problem())(batch)
        scheme, reason = named_scheme(self.scheme, problems, grid)
        return (scheme, grid), reason

    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """Solve, then compare with the closed form."""
        return [("solve", lambda *args: _solve(plan, *args))]

    def row(self, plan: Any, prepared: Any, key: PRNGKeyArray) -> dict[str, Array]:
        """Quotes at zero inventory, skew per lot and expected objective."""
        return _scalars(_solve(plan, self, prepared, {}, key))

    def surface(self, plan: Any, prepared: Any, key: PRNGKeyArray) -> dict[str, Array]:
        """Value and quotes with the whole horizon left."""
        results = _solve(plan, self, prepared, {}, key)
        names = ("value", "bid_depth", "ask_depth")
        return {"inventory": results["inventory"]} | {name: results[name][-1] for name in names}


def named_scheme(name: str, problem: HJBProblem, grid: Grid) -> tuple[AbstractScheme, str]:
    """The scheme a config names, sized for the problem (or batch), and why."""
    if name == "auto":
        return choose_scheme(problem, grid)
    return choose_scheme(problem, grid, SCHEMES[name])


def _solve(plan: Any, experiment: HJBExperiment, prepared: None, results: Arrays, key: PRNGKeyArray) -> Arrays:
    scheme, grid = plan
    problem = experiment.parameters.problem()
    solution = solve_hjb(problem, scheme, grid)
    table = solution.value
    bid, ask = optimal_depths(problem, table.relative_value)
    inventory = grid.inventory
    closed_bid, closed_ask = stationary_depths(
        problem.ask, problem.inventory_penalty, inventory, problem.fill_risk_aversion
    )
    return {
        "time_left": table.time_left,
        "inventory": inventory,
        "value": table.value,
        "bid_depth": bid,
        "ask_depth": ask,
        "closed_form_bid_depth": closed_bid,
        "closed_form_ask_depth": closed_ask,
        "inventory_penalty": problem.inventory_penalty,
        "solver_ok": solution.result == RESULTS.successful,
        "solver_result": solution.result,
    }


def _scalars(results: Arrays) -> dict[str, Array]:
    middle = results["inventory"].size // 2
    bid, ask = results["bid_depth"][-1], results["ask_depth"][-1]
    lot = 1 if middle >= 1 else 0
    return {
        "value": results["value"][-1, middle],
        "bid_depth": bid[middle],
        "ask_depth": ask[middle],
        "spread": bid[middle] + ask[middle],
        "skew_per_lot": (bid[middle] - bid[middle - lot]) / lot,
        "inventory_penalty": results["inventory_penalty"],
        "ok": results["solver_ok"],
    }
