"""Experiment `risk_constrained`: the most profitable HJB parameters whose probability of a drawdown keeps to a limit (19)."""

import itertools
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.experiments.experiment import AbstractExperiment, ConfigError, Stage
from mfamm_jax.experiments.hjb_sweep import Parameters, SchemeName, free_field, named_scheme, width_field
from mfamm_jax.experiments.risk_constrained_tables import risk_metrics
from mfamm_jax.fields import Checked, listed, real_field, static_field
from mfamm_jax.policies.quotes import Covariates
from mfamm_jax.policies.value_table import TableAxes, ValueTablePolicy, tabulate
from mfamm_jax.results import Solution
from mfamm_jax.risk.drawdown import barrier_survival, breach_probability, clopper_pearson, drawdown_survival
from mfamm_jax.simulation.breach import PnlPaths, simulate_pnl
from mfamm_jax.simulation.episode import Episodes, episode_law
from mfamm_jax.simulation.step import PoissonMarket
from mfamm_jax.solvers.constrained import maximise_within_limit
from mfamm_jax.solvers.hjb import AbstractScheme, Grid

MAY_BE_FREE = ("risk_aversion", "fill_risk_aversion", "terminal_penalty")
# Of the one-sided bound, and how much more the search leaves for the luck of fresh draws.
BOUND, LUCK = 1.645, 2.0


class Limit(Checked):
    """What must seldom happen: a loss of `multiple` times the value at risk of the largest position over `var_horizon`."""

    kind: Literal["barrier", "max_drawdown"] = static_field(
        default="barrier", source="(19)", help="a fall below the start, or below the highest point so far"
    )
    breach_probability: Float[Array, ""] = real_field(
        default=0.003, lower=0.0, strict=True, upper=0.5, source="(19) epsilon", help="largest probability of a breach"
    )
    multiple: Float[Array, ""] = real_field(
        default=1.0, lower=0.0, strict=True, source="(19) eta", help="limit in units of the value at risk"
    )
    tail_level: Float[Array, ""] = real_field(
        default=0.99, lower=0.5, strict=True, upper=0.99999, source="(19) VaR", help="of the value at risk"
    )
    var_horizon: Float[Array, ""] = real_field(
        default=0.1, lower=0.0, strict=True, unit="s", source="(19) VaR", help="of the value at risk; fixed"
    )


class Search(Checked):
    """Which parameters are free, and how long the search is."""

    free: str = free_field("risk_aversion, fill_risk_aversion", MAY_BE_FREE)
    width: float = width_field(30.0)
    n_iterations: int = static_field(default=200, lower=10, help="gradient steps for every limit")
    n_paths: int = static_field(default=1024, lower=16, help="drawn for every step")
    n_fresh: int = static_field(default=32768, lower=1000, help="paths that judge what was found")
    n_frontier: int = static_field(default=5, lower=1, upper=50, help="limits, from the loosest to the given one")
    loosest: float = static_field(default=0.05, lower=0.0, strict=True, upper=0.9, help="the first of them")


class RiskConstrained(AbstractExperiment):
    """Optimal quotes under a chance constraint.

    Args:
        parameters: The problem; its free parameters are where the search begins.
        limit: On drawdowns.
        search: How the best is found.
        scheme: Method of the HJB equation, or "auto".
        max_inventory: Largest position.
        n_steps: Of the simulation; a quarter as many rows in the value table.
    """

    parameters: Parameters
    limit: Limit
    search: Search
    scheme: SchemeName = static_field(default="auto", source="(8)", help="how the HJB equation is integrated")
    max_inventory: int = static_field(default=8, lower=1, unit="lots", help="largest position")
    n_steps: int = static_field(default=240, lower=10, help="steps of a simulated path")

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the free parameters."""
        return listed(self.search.free)

    @property
    def threshold(self) -> Float[Array, ""]:
        """eta VaR [price lot]."""
        deviation = self.parameters.volatility * jnp.sqrt(self.limit.var_horizon) * self.max_inventory
        return self.limit.multiple * jax.scipy.special.ndtri(self.limit.tail_level) * deviation

    def limits(self) -> Float[Array, " limit"]:
        """No limit, then from the loosest to the given one."""
        aim, n = self.limit.breach_probability, self.search.n_frontier
        share = jnp.linspace(0, 1, n) if n > 1 else jnp.ones(1)
        between = jnp.exp((1 - share) * jnp.log(jnp.maximum(self.search.loosest, aim)) + share * jnp.log(aim))
        return jnp.concatenate([jnp.ones(1), between]).astype(aim.dtype)

    def numbers_per_row(self) -> int:
        """Paths of a step of the search, forward and back, and those that judge."""
        return 40 * self.n_steps * self.search.n_paths

    def prepare(self, folder: Any, seed: int, say: Callable[[str], None], progress: Any = None) -> None:
        """Nothing to load, but names to check."""
        check_free(self)
        expected = float(self.limit.breach_probability) * self.search.n_fresh
        if expected < 10:
            raise ConfigError(
                f"search.n_fresh is {self.search.n_fresh}: {expected:.2g} breaches at the limit, expected 10 or more to judge it; "
                "raise n_fresh or limit.breach_probability"
            )
        say(f"{1 + self.search.n_frontier} searches of {self.search.n_iterations} steps: minutes on a small machine")

    def plan(self, batch: Any, prepared: Any) -> tuple[tuple[AbstractScheme, Grid, bool], str]:
        """One scheme for every corner of every box."""
        grid = Grid(self.max_inventory, max(self.n_steps // 4, 2))
        reach = np.log(self.search.width)

        def corner(experiment: Any, signs: tuple[int, ...]) -> Any:
            moved = [jnp.log(getattr(experiment.parameters, name)) + s * reach for name, s in zip(self.free, signs)]
            return experiment.with_free(jnp.stack(moved)).problem()

        problems = [
            jax.vmap(lambda experiment, s=s: corner(experiment, s))(batch)
            for s in itertools.product((-1, 1), repeat=len(self.free))
        ]
        scheme, reason = named_scheme(self.scheme, jax.tree.map(lambda *x: jnp.stack(x), *problems), grid)
        decays = batch.parameters
        # Known to be one array, the linear schemes need no derivative in the difference of the decays.
        return (scheme, grid, bool(np.all(np.asarray(decays.bid_decay) == np.asarray(decays.ask_decay)))), reason

    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """Search, judge, draw."""
        return [
            ("search", lambda *args: search_stage(plan, *args)),
            ("judge", lambda *args: judge_stage(plan, *args)),
            ("draw", lambda *args: draw_stage(plan, *args)),
        ]

    def metrics(self, plan: Any, prepared: Any, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
        """Everything the report prints."""
        return risk_metrics(self, results)

    def row(self, plan: Any, prepared: Any, key: PRNGKeyArray) -> dict[str, Array]:
        """The optimum under the given limit, as fresh paths see it."""
        results: dict[str, Any] = {}
        for number, (_, stage) in enumerate(self.stages(plan)[:2]):
            results |= stage(self, prepared, results, jax.random.fold_in(key, number))
        judged = results["judge"]
        chosen = {name: results["search"]["parameters"][-1, i] for i, name in enumerate(self.free)}
        names = ("mean", "std", "breach", "upper")
        return (
            chosen
            | {name: judged[name][-1] for name in names}
            | {"ok": judged["upper"][-1] <= self.limit.breach_probability}
        )

    def with_free(self, log_values: Float[Array, " free"]) -> Parameters:
        """Parameters with the free ones replaced."""
        return eqx.tree_at(
            lambda p: [getattr(p, name) for name in self.free], self.parameters, list(jnp.exp(log_values))
        )


def check_free(experiment: Any) -> None:
    """Names of free parameters, and a market without drift."""
    for name in experiment.free:
        if name not in MAY_BE_FREE:
            raise ConfigError(f'search.free names "{name}", expected names of {", ".join(MAY_BE_FREE)}')
        if not float(getattr(experiment.parameters, name)) > 0:
            raise ConfigError(
                f"parameters.{name} is 0, expected > 0: the search moves free parameters by factors; give a value or fix it in search.free"
            )
    if not experiment.free or len(set(experiment.free)) < len(experiment.free):
        raise ConfigError(f'search.free is "{experiment.search.free}", expected at least one name, each once')
    if float(experiment.parameters.drift) != 0:
        raise ConfigError("parameters.drift is not 0, expected 0: expected profits without limit reward bets on it")


def market_of(experiment: Any) -> PoissonMarket:
    """The market that the problem describes."""
    problem = experiment.parameters.problem()
    return PoissonMarket(
        problem.bid,
        problem.ask,
        experiment.parameters.volatility,
        drift=experiment.parameters.drift,
        bid_adverse_selection=problem.bid_adverse_selection,
        ask_adverse_selection=problem.ask_adverse_selection,
    )


def policy_of(plan: Any, experiment: Any, log_values: Float[Array, " free"]) -> ValueTablePolicy:
    """Optimal quotes for other free parameters."""
    return solved_policy(plan, experiment, log_values).value


def solved_policy(plan: Any, experiment: Any, log_values: Float[Array, " free"]) -> Solution:
    """`policy_of` with the verdict of the solver."""
    scheme, grid, has_one_decay = plan
    parameters = experiment.with_free(log_values)
    if has_one_decay:
        parameters = eqx.tree_at(lambda p: p.bid_decay, parameters, parameters.ask_decay)
    alone = TableAxes(n_risk=1, n_skew=1, max_speed=1.0)
    return tabulate(parameters.problem(), scheme, grid, alone, risk_aversion=parameters.risk_aversion)


def paths_of(
    plan: Any, experiment: RiskConstrained, log_values: Float[Array, " free"], n_paths: int, key: PRNGKeyArray
) -> tuple[PnlPaths, Float[Array, "step path"]]:
    """Simulated paths and their probability of survival after every step."""
    episodes = Episodes(n_paths=n_paths, n_steps=experiment.n_steps, horizon=experiment.parameters.horizon)
    covariates = Covariates.neutral(experiment.parameters.volatility)
    policy = policy_of(plan, experiment, log_values)
    paths = simulate_pnl(policy, market_of(experiment), episodes, covariates, experiment.max_inventory, key)
    given = paths.start, paths.end, paths.variance, experiment.threshold
    if experiment.limit.kind == "barrier":
        return paths, barrier_survival(*given)
    return paths, drawdown_survival(*given, jax.random.fold_in(key, 1 << 30))


def law_of(plan: Any, experiment: Any, log_values: Float[Array, " free"]) -> tuple[Array, Array]:
    """Exact mean and standard deviation of the P&L."""
    episodes = Episodes(n_steps=experiment.n_steps, horizon=experiment.parameters.horizon)
    covariates = Covariates.neutral(experiment.parameters.volatility)
    policy = policy_of(plan, experiment, log_values)
    law = episode_law(policy, market_of(experiment), episodes, covariates, experiment.max_inventory)
    return law.mean, law.std


def aim_for(limit: Float[Array, "*n"], n_fresh: int) -> Float[Array, "*n"]:
    """Probability whose bound on fresh paths will keep to the limit: p + (1.645 + 2) sqrt(p/n) = limit."""
    half = 0.5 * (BOUND + LUCK) / jnp.sqrt(jnp.asarray(n_fresh, limit.dtype))
    return (jnp.sqrt(limit + half**2) - half) ** 2


def _aim_per_limit(limit: Float[Array, " limit"], n_fresh: int) -> Float[Array, " limit"]:
    """d log aim / d log limit."""
    return jax.vmap(jax.grad(lambda x: jnp.log(aim_for(jnp.exp(x), n_fresh))))(jnp.log(limit))


def search_stage(plan: Any, experiment: Any, prepared: None, results: dict[str, Any], key: PRNGKeyArray) -> Any:
    """The optimum for every limit, one after the other."""
    search, names = experiment.search, experiment.free
    start = jnp.stack([jnp.log(getattr(experiment.parameters, name)) for name in names])
    width = jnp.log(jnp.asarray(search.width, start.dtype))

    def probability(x: Array, draw: PRNGKeyArray) -> Array:
        paths, survival = paths_of(plan, experiment, x, search.n_paths, draw)
        return jnp.mean(breach_probability(survival, paths.weight()))

    def best(limit: Array) -> Any:
        return maximise_within_limit(
            lambda x: law_of(plan, experiment, x)[0],
            probability,
            jnp.where(limit < 1, aim_for(limit, search.n_fresh), limit),
            start - width,
            start + width,
            start,
            key,
            n_steps=search.n_iterations,
        )

    found = jax.lax.map(best, experiment.limits())
    return {
        "search": {
            "limits": experiment.limits(),
            "start": jnp.exp(start),
            "parameters": jnp.exp(found.parameters),
            "path": jnp.exp(found.path),
            # The search keeps to the aim: per unit of the limit's logarithm, not of the aim's.
            "price": found.price * _aim_per_limit(experiment.limits(), search.n_fresh),
            "probability": found.probability,
        }
    }


def judge_stage(plan: Any, experiment: Any, prepared: None, results: dict[str, Any], key: PRNGKeyArray) -> Any:
    """Exact P&L and breaches on paths that no search has seen, of the start and of every optimum."""
    search = experiment.search
    n_batches = -(-search.n_fresh // search.n_paths)
    n = n_batches * search.n_paths

    def judge(values: Array) -> dict[str, Array]:
        x = jnp.log(values)

        def batch(index: Array) -> tuple[Array, ...]:
            paths, survival = paths_of(plan, experiment, x, search.n_paths, jax.random.fold_in(key, index))
            breach = 1 - survival[-1]
            return jnp.sum(breach), jnp.sum(breach**2), jnp.sum(_counted(experiment, paths))

        total, square, counted = (jnp.sum(part) for part in jax.lax.map(batch, jnp.arange(n_batches)))
        mean, std = law_of(plan, experiment, x)
        breach = total / n
        error = jnp.sqrt(jnp.maximum(square / n - breach**2, 0) / n)
        bounds = clopper_pearson(counted.astype(int), n)
        return {
            "mean": mean,
            "std": std,
            "breach": breach,
            "error": error,
            # Never below what not a single hit would prove.
            "upper": jnp.maximum(breach + BOUND * error, 3.0 / n),
            "counted": counted / n,
            "counted_low": bounds.low,
            "counted_high": bounds.high,
        }

    rows = jnp.concatenate([results["search"]["start"][None], results["search"]["parameters"]])
    return {"judge": jax.lax.map(judge, rows)}


def _counted(experiment: RiskConstrained, paths: PnlPaths) -> Array:
    """Breaches seen at the ends of steps only: what counting without a bridge reports."""
    if experiment.limit.kind == "barrier":
        return jnp.any(paths.end <= -experiment.threshold, axis=0)
    peak = jnp.maximum(jax.lax.cummax(paths.end, axis=0), 0)
    return jnp.any(peak - paths.end >= experiment.threshold, axis=0)


def draw_stage(plan: Any, experiment: Any, prepared: None, results: dict[str, Any], key: PRNGKeyArray) -> Any:
    """P(breach) by the end of every step, of the start and of the optimum under the given limit."""
    drawn = {}
    for name, values in (("start", results["search"]["start"]), ("best", results["search"]["parameters"][-1])):
        _, survival = paths_of(plan, experiment, jnp.log(values), 8 * experiment.search.n_paths, key)
        drawn[name] = 1 - jnp.mean(survival, axis=1)
    return {"draw": drawn | {"threshold": experiment.threshold}}
