"""Experiment `optimal_schedule`: ways to work an order under impact (20), and what opponents who know more or less do to them."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.experiments.experiment import AbstractExperiment, ConfigError, Stage
from mfamm_jax.experiments.optimal_schedule_tables import schedule_metrics
from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.models.impact import (
    AbstractKernel,
    ExponentialKernel,
    InstantImpact,
    PowerKernel,
    ShiftedPowerKernel,
    complaints,
    trading_cost,
)
from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.learned_adversary import best_response, train_adversary
from mfamm_jax.solvers.schedule import almgren_chriss, best_schedule, budget_adversary, schied_zhang
from mfamm_jax.solvers.schedule_search import search_schedule

SCHEDULES = ("even", "front-loaded", "cheapest alone", "equilibrium")


class PowerDecay(Checked):
    """Impact that decays as a power of time, infinite at once."""

    exponent: Float[Array, ""] = real_field(
        default=0.5, lower=0.0, strict=True, upper=0.999, source="(20) f", help="decay of impact"
    )

    def kernel(self) -> AbstractKernel:
        """f."""
        return PowerKernel(self.exponent)


class ShiftedPowerDecay(Checked):
    """Impact that decays as a power of time, finite at once; linear impact only."""

    exponent: Float[Array, ""] = real_field(
        default=0.5, lower=0.0, strict=True, source="(20) f", help="decay of impact"
    )
    time_scale: Float[Array, ""] = real_field(
        default=0.1, lower=0.0, strict=True, unit="time", help="when the decay sets in"
    )

    def kernel(self) -> AbstractKernel:
        """f, 1 at 0."""
        return ShiftedPowerKernel(jnp.ones_like(self.exponent), self.time_scale, self.exponent)


class ExponentialDecay(Checked):
    """Impact that decays at one rate; linear impact only."""

    resilience: Float[Array, ""] = real_field(
        default=5.0, lower=0.0, strict=True, unit="1/time", source="(20) f", help="rate of decay"
    )

    def kernel(self) -> AbstractKernel:
        """f, 1 at 0."""
        return ExponentialKernel(jnp.ones(1, self.resilience.dtype), self.resilience[None])


DECAYS: dict[str, type] = {"power": PowerDecay, "shifted_power": ShiftedPowerDecay, "exponential": ExponentialDecay}


class Order(Checked):
    """What has to be traded."""

    shares: Float[Array, ""] = real_field(default=1.0, lower=0.0, strict=True, help="X, bought")
    horizon: Float[Array, ""] = real_field(default=1.0, lower=0.0, strict=True, unit="time", help="T")
    n_steps: int = static_field(default=20, lower=3, upper=500, help="steps of constant rate")
    half_spread: Float[Array, ""] = real_field(default=0.05, lower=0.0, unit="price", help="paid on every share")
    volatility: Float[Array, ""] = real_field(default=1.0, lower=0.0, unit="price/sqrt(time)", help="of the price")
    risk_aversion: Float[Array, ""] = real_field(
        default=1.0,
        lower=0.0,
        unit="1/price/share",
        help="of the front-loaded schedule, against the variance of its cost",
    )


class Opponents(Checked):
    """Who trades against it under linear impact."""

    quadratic_cost: Float[Array, ""] = real_field(
        default=0.3, lower=0.0, help="theta, of every trade of either, over twice the impact of a step on itself"
    )
    budget: Float[Array, ""] = real_field(default=0.3, lower=0.0, help="length of a disturbance, in the order's shares")
    n_training: int = static_field(default=1500, lower=1, help="steps of the learning opponent")
    n_orders: int = static_field(
        default=64, lower=2, help="directions and sizes it learns from, and as many it is judged on"
    )


class Search(Checked):
    """Programmes under concave impact."""

    n_starts: int = static_field(default=16, lower=1, help="programmes to start from")
    max_iterations: int = static_field(default=500, lower=1, help="of L-BFGS, for each")


class Prepared(eqx.Module):
    """Known grounds for round trips to make money."""

    complaints: tuple[str, ...] = eqx.field(static=True)


class OptimalSchedule(AbstractExperiment):
    """Execution of one order.

    Args:
        decay: Of impact.
        impact: Of a rate, for the search; opponents trade under linear impact of the same scale.
        order: What has to be traded.
        opponents: Who trades against it.
        search: Under concave impact.
    """

    decay: Checked
    impact: InstantImpact
    order: Order
    opponents: Opponents
    search: Search

    def numbers_per_row(self) -> int:
        """Trades of every training order, and memories of every start."""
        return 40 * self.order.n_steps * (self.opponents.n_orders + self.search.n_starts)

    def prepare(self, folder: Any, seed: int, say: Callable[[str], None], progress: Any = None) -> Prepared:
        """Looks whether the model is one in which an optimum exists."""
        found = complaints(self.decay.kernel(), self.impact)
        for complaint in found:
            say(f"round trips may make money: {complaint}")
        if found and float(self.order.half_spread) == 0:
            raise ConfigError(
                f"{'; '.join(found)}: round trips make money; give order.half_spread or change decay or impact"
            )
        return Prepared(found)

    def plan(self, batch: Any, prepared: Any) -> tuple[tuple, str]:
        """Nothing to choose."""
        return (), "closed forms under linear impact, L-BFGS under the given one"

    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """Schedules, opponents, search."""
        return [("schedules", schedule_stage), ("opponents", opponent_stage), ("search", search_stage)]

    def metrics(self, plan: Any, prepared: Any, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
        """Everything the report prints."""
        return schedule_metrics(self, prepared.complaints, results, SCHEDULES)

    def row(self, plan: Any, prepared: Any, key: PRNGKeyArray) -> dict[str, Array]:
        """Costs of the schedules, of the programmes found, and what opponents add to the cheapest."""
        results: dict[str, Any] = {}
        for _, stage in self.stages(plan):
            results |= stage(self, prepared, results, key)
        names = [name.replace(" ", "_").replace("-", "_") for name in SCHEDULES]
        costs = {f"{name}_cost": results["linear"]["cost"][i] for i, name in enumerate(names)}
        harm = {f"{name}_harm": results["opponents"][name][2] for name in ("budget", "informed", "learned")}
        return {
            **costs,
            **harm,
            "concave_even": results["search"]["even_cost"],
            "concave_cost": results["search"]["forward"].cost,
            "ok": results["search"]["solved"],
        }


def step_matrix(experiment: Any) -> Float[Array, "step step"]:
    """G for shares traded at a constant rate in every step, exact: x' G x/2 is their cost under linear impact."""
    n, step = experiment.order.n_steps, experiment.order.horizon / experiment.order.n_steps
    weights = experiment.impact.scale * experiment.decay.kernel().mean_weights(step, n) / step
    lags = jnp.abs(jnp.arange(n)[:, None] - jnp.arange(n)[None])
    return weights.at[0].multiply(2)[lags]


def _theta(experiment: Any, matrix: Float[Array, "step step"]) -> Float[Array, ""]:
    return 0.5 * experiment.opponents.quadratic_cost * matrix[0, 0]


def schedule_stage(experiment: Any, prepared: Any, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """Trades of every schedule, with cost alone and its deviation."""
    order, matrix = experiment.order, step_matrix(experiment)
    n, theta = order.n_steps, _theta(experiment, step_matrix(experiment))
    even = jnp.full(n, order.shares / n)
    # Temporary impact alone, as large as that of a step on itself.
    step = order.horizon / n
    loaded = almgren_chriss(
        order.shares, order.horizon, n, order.volatility, matrix[0, 0] * step, risk_aversion=order.risk_aversion
    )
    own = matrix + 2 * theta * jnp.eye(n, dtype=matrix.dtype)
    trades = jnp.stack(
        [
            even,
            loaded.holdings[:-1] - loaded.holdings[1:],
            best_schedule(own, order.shares).trades,
            schied_zhang(matrix, order.shares, 0.0, theta).schedule,
        ]
    )
    left = order.shares - jnp.cumsum(trades, axis=1)
    cost = 0.5 * jnp.einsum("si,ij,sj->s", trades, own, trades) + order.half_spread * jnp.sum(jnp.abs(trades), axis=1)
    deviation = order.volatility * jnp.sqrt(step * jnp.sum(left**2, axis=1))
    return {"linear": {"trades": trades, "cost": cost, "deviation": deviation}}


def opponent_stage(experiment: Any, prepared: Any, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """What each opponent adds to each schedule's cost, and what it makes."""
    matrix, opponents, shares = step_matrix(experiment), experiment.opponents, experiment.order.shares
    theta, trades = _theta(experiment, matrix), results["linear"]["trades"]
    sizes, fresh = jax.random.normal(jax.random.fold_in(key, 0), (2, opponents.n_orders), dtype=matrix.dtype)
    # The mean square of the sizes is 1, so that numbers compare with those for the order itself.
    sizes, fresh = (x / jnp.sqrt(jnp.mean(x**2)) for x in (sizes, fresh))

    def learned(schedule: Float[Array, " step"]) -> tuple[Array, Array, Array]:
        adversary, _ = train_adversary(
            sizes[:, None] * schedule, matrix, theta, jax.random.fold_in(key, 1), n_steps=opponents.n_training
        )
        found = jax.vmap(lambda x: adversary(x * schedule, matrix, theta))(fresh)
        return jnp.mean(found.harm), jnp.mean(found.profit), adversary(schedule, matrix, theta).trades

    informed = jax.vmap(lambda x: best_response(x, matrix, theta))(trades)
    worst = jax.vmap(lambda x: budget_adversary(x, matrix, opponents.budget * shares))(trades)
    harm, profit, example = jax.lax.map(learned, trades)
    return {
        "opponents": {
            "budget": worst.worst_cost - worst.base_cost,
            "informed": informed.harm,
            "informed_profit": informed.profit,
            "informed_trades": informed.trades,
            "learned": harm,
            "learned_profit": profit,
            "learned_trades": example,
        }
    }


def search_stage(experiment: Any, prepared: Any, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """Programmes under the given impact, forward only and with reversals."""
    order, kernel, found = experiment.order, experiment.decay.kernel(), {}
    how = {
        "n_steps": order.n_steps,
        "n_starts": experiment.search.n_starts,
        "max_iterations": experiment.search.max_iterations,
    }
    given = kernel, experiment.impact, order.shares, order.horizon, order.half_spread, jax.random.fold_in(key, 2)
    forward, both = (search_schedule(*given, may_reverse=reverse, **how) for reverse in (False, True))
    even = jnp.full(order.n_steps, order.shares / order.horizon)
    found["even_cost"] = trading_cost(even, order.horizon / order.n_steps, kernel, experiment.impact, order.half_spread)
    solved = (forward.result == RESULTS.successful) | (forward.result == RESULTS.not_converged)
    paid = both.result == RESULTS.paid_to_trade
    return {"search": found | {"forward": forward.value, "both": both.value, "solved": solved, "paid": paid}}
