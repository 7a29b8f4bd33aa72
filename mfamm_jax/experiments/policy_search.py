"""Experiment `policy_search`: the best parameters of the optimal quotes for a mean-deviation objective, by four methods on one problem."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mfamm_jax.experiments.experiment import AbstractExperiment, Arrays, Stage
from mfamm_jax.experiments.hjb_sweep import Parameters, SchemeName, free_field, width_field
from mfamm_jax.experiments.policy_search_tables import search_metrics
from mfamm_jax.experiments.risk_constrained import (
    MAY_BE_FREE,
    RiskConstrained,
    check_free,
    law_of,
    market_of,
    policy_of,
    solved_policy,
)
from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.policies.quotes import Covariates
from mfamm_jax.results import RESULTS
from mfamm_jax.risk.cvar import empirical_tail_risk
from mfamm_jax.simulation.breach import simulate_pnl
from mfamm_jax.simulation.episode import Episodes
from mfamm_jax.solvers.calibrate import Box, fit, fit_noisy
from mfamm_jax.solvers.cma import evolve

TAIL_LEVEL = 0.95  # of the CVaR in sweeps


class Search(Checked):
    """What is free, what is wanted, and how long each method looks."""

    free: str = free_field("risk_aversion, fill_risk_aversion", MAY_BE_FREE)
    width: float = width_field(30.0)
    risk_weight: Float[Array, ""] = real_field(
        default=0.5, lower=0.0, help="objective = mean P&L - risk_weight x its standard deviation"
    )
    n_starts: int = static_field(default=4, lower=1, help="of the search by the exact law's gradient")
    max_iterations: int = static_field(default=100, lower=1, help="steps of each")
    n_steps: int = static_field(default=150, lower=4, help="draws of the search by simulated gradients")
    n_paths: int = static_field(default=1024, lower=16, help="paths of a draw, and of a member of CMA-ES")
    learning_rate: float = static_field(default=0.2, lower=0.0, strict=True, help="first step of simulated gradients")
    population: int = static_field(default=12, lower=4, help="members of a generation of CMA-ES")
    n_generations: int = static_field(default=40, lower=1, help="of CMA-ES")
    n_fresh: int = static_field(default=16384, lower=100, help="held-out paths that judge what was found")


class PolicySearch(AbstractExperiment):
    """Mean P&L less a multiple of its deviation, maximised over the problem's own parameters.

    The market stays as [parameters] say; what is free is what the market maker believes or wants.

    Args:
        parameters: Market, and where the search begins.
        search: Objective and methods.
        scheme: Method of the HJB equation, or "auto".
        max_inventory: Largest position.
        n_steps: Of the simulation; a quarter as many rows in the value table.
    """

    parameters: Parameters
    search: Search
    scheme: SchemeName = static_field(default="auto", source="(8)", help="how the HJB equation is integrated")
    max_inventory: int = static_field(default=8, lower=1, unit="lots", help="largest position")
    n_steps: int = static_field(default=120, lower=10, help="steps of a simulated path")

    free = RiskConstrained.free
    with_free = RiskConstrained.with_free
    plan = RiskConstrained.plan

    def numbers_per_row(self) -> int:
        """Paths of a generation."""
        return 12 * self.n_steps * self.search.n_paths * self.search.population

    def prepare(self, folder: Any, seed: int, say: Callable[[str], None], progress: Any = None) -> None:
        """Nothing to load, but names to check."""
        check_free(self)

    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """Four searches on the same objective, then judges."""
        return [
            ("law_gradient", lambda *args: law_gradient_stage(plan, *args)),
            ("simulated_gradient", lambda *args: simulated_gradient_stage(plan, *args)),
            ("law_evolution", lambda *args: law_evolution_stage(plan, *args)),
            ("simulated_evolution", lambda *args: simulated_evolution_stage(plan, *args)),
            ("judge", lambda *args: judge_stage(plan, *args)),
        ]

    def metrics(self, plan: Any, prepared: Any, results: Arrays, key: PRNGKeyArray) -> dict[str, Any]:
        """Everything the report prints."""
        return search_metrics(self, results)

    def kept(self, prepared: Any, results: Arrays) -> Arrays:
        """Under a name of its own."""
        return {"search": results}

    def row(self, plan: Any, prepared: Any, key: PRNGKeyArray) -> dict[str, Array]:
        """The given parameters, without a search: exact mean and deviation, and the CVaR of held-out paths."""
        x = self.box().at_share(jnp.full(len(self.free), 0.5))
        mean, std = law_of(plan, self, jnp.log(x))
        pnl = pnl_of(plan, self, x, self.search.n_fresh, key)
        return {
            "mean_pnl": mean,
            "pnl_std": std,
            "cvar": empirical_tail_risk(pnl, TAIL_LEVEL).cvar,
            "objective": mean - self.search.risk_weight * std,
            "ok": is_solved(plan, self, x),
        }

    def box(self) -> Box:
        """Around the given values."""
        middle = jnp.stack([getattr(self.parameters, name) for name in self.free])
        return Box(middle / self.search.width, middle * self.search.width, (True,) * len(self.free))


def is_solved(plan: Any, experiment: Any, x: Float[Array, " free"]) -> Bool[Array, ""]:
    """Whether the control problem was solved at every node of the table."""
    return jnp.all(solved_policy(plan, experiment, jnp.log(x)).result == RESULTS.successful)


def law_objective(plan: Any, experiment: Any) -> Callable[[Array], Array]:
    """The objective's negative by the exact law: no noise."""

    def loss(x: Float[Array, " free"]) -> Float[Array, ""]:
        mean, std = law_of(plan, experiment, jnp.log(x))
        return experiment.search.risk_weight * std - mean

    return loss


def pnl_of(
    plan: Any, experiment: Any, x: Float[Array, " free"], n_paths: int, key: PRNGKeyArray
) -> Float[Array, " path"]:
    """P&L of simulated episodes."""
    paths = _paths(plan, experiment, x, n_paths, key)
    return paths.end[-1]


def _paths(plan: Any, experiment: Any, x: Array, n_paths: int, key: PRNGKeyArray) -> Any:
    episodes = Episodes(n_paths=n_paths, n_steps=experiment.n_steps, horizon=experiment.parameters.horizon)
    covariates = Covariates.neutral(experiment.parameters.volatility)
    policy, market = policy_of(plan, experiment, jnp.log(x)), market_of(experiment)
    return simulate_pnl(policy, market, episodes, covariates, experiment.max_inventory, key)


def simulated_objective(plan: Any, experiment: Any) -> Callable[[Array, PRNGKeyArray], Array]:
    """The objective's negative on simulated paths, with the score as derivative of which fills happen."""

    def loss(x: Float[Array, " free"], key: PRNGKeyArray) -> Float[Array, ""]:
        paths = _paths(plan, experiment, x, experiment.search.n_paths, key)
        pnl, weight = paths.end[-1], paths.weight()[-1]
        # What is averaged is centred first: a constant has no score in expectation, but noise.
        centre = jax.lax.stop_gradient(jnp.mean(pnl))
        square = (pnl - centre) ** 2
        typical = jax.lax.stop_gradient(jnp.mean(square))
        mean = centre + jnp.mean((pnl - centre) * weight)
        variance = typical + jnp.mean((square - typical) * weight)
        return experiment.search.risk_weight * jnp.sqrt(variance) - mean

    return loss


def law_gradient_stage(plan: Any, experiment: Any, prepared: None, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """L-BFGS through the exact law."""
    box, search = experiment.box(), experiment.search
    loss = law_objective(plan, experiment)
    solution = fit(loss, box, box.draw(key, search.n_starts), max_iterations=search.max_iterations)
    return {"law_gradient": solution.value, "solver_ok": solution.result == RESULTS.successful}


def simulated_gradient_stage(plan: Any, experiment: Any, prepared: None, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """Adam on fresh draws."""
    box, search = experiment.box(), experiment.search
    mean, path = fit_noisy(
        simulated_objective(plan, experiment),
        box,
        box.draw(key, 1)[0],
        key,
        n_steps=search.n_steps,
        learning_rate=search.learning_rate,
    )
    return {"simulated_gradient": {"parameters": mean, "path": path}}


def law_evolution_stage(plan: Any, experiment: Any, prepared: None, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """CMA-ES on the exact law."""
    box, search = experiment.box(), experiment.search
    loss = law_objective(plan, experiment)
    sizes = {"population": search.population, "n_generations": search.n_generations}
    return {"law_evolution": evolve(lambda x, _: loss(x), box, box.draw(key, 1), key, **sizes)}


def simulated_evolution_stage(plan: Any, experiment: Any, prepared: None, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """CMA-ES on simulated paths, the same ones for all members of a generation."""
    box, search = experiment.box(), experiment.search
    loss = simulated_objective(plan, experiment)
    sizes = {"population": search.population, "n_generations": search.n_generations}
    return {"simulated_evolution": evolve(loss, box, box.draw(key, 1), key, **sizes)}


def judge_stage(plan: Any, experiment: Any, prepared: None, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """Exact and held-out objective of the start and of what every method found, on the same fresh paths."""
    search = experiment.search
    found = jnp.stack(
        [
            experiment.box().at_share(jnp.full(len(experiment.free), 0.5)),
            results["law_gradient"].parameters,
            results["simulated_gradient"]["parameters"],
            results["law_evolution"].parameters[0],
            results["simulated_evolution"].parameters[0],
        ]
    )

    def judge(x: Array) -> dict[str, Array]:
        mean, std = law_of(plan, experiment, jnp.log(x))
        pnl = pnl_of(plan, experiment, x, search.n_fresh, key)
        seen = jnp.mean(pnl) - search.risk_weight * jnp.std(pnl)
        # Of mean and deviation by the delta method: what each path contributes.
        part = (pnl - jnp.mean(pnl)) - search.risk_weight * ((pnl - jnp.mean(pnl)) ** 2 / (2 * jnp.std(pnl)))
        error = jnp.std(part) / jnp.sqrt(jnp.asarray(search.n_fresh, pnl.dtype))
        found = {
            "mean": mean,
            "std": std,
            "objective": mean - search.risk_weight * std,
            "held_out": seen,
            "error": error,
        }
        return found | {"is_solved": is_solved(plan, experiment, x)}

    return {"judge": jax.lax.map(judge, found) | {"parameters": found}}
