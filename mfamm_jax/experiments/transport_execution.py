"""Experiment `transport_execution`: a basket worked over times and venues as entropic transport (15), with cross impact."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.experiments.experiment import AbstractExperiment, Stage
from mfamm_jax.experiments.panels import panel_provenance
from mfamm_jax.experiments.quoting_run import HostReport
from mfamm_jax.experiments.transport_tables import execution_metrics
from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.market.events import DataError
from mfamm_jax.solvers.transport import with_slack
from mfamm_jax.solvers.transport_execution import ExecutionPlan, SlotCosts, impact_cost, kyle_matrix, plan_execution

N_PATH = 9
SOLVED = {"float64": 1e-9, "float32": 1e-5}  # largest error of a share


class Basket(Checked):
    """What is traded: every asset of the panel, in equal notionals."""

    sides: Literal["buy", "long_short"] = static_field(
        default="long_short", help="buy everything, or buy and sell in turn: hedged impact"
    )
    half_spread: Float[Array, ""] = real_field(default=2.0, lower=0.0, unit="bp", help="of every asset")
    temporary_impact: Float[Array, ""] = real_field(
        default=5.0, lower=0.0, unit="bp", source="(15) C", help="of trading as much as the average slot's volume"
    )
    kyle_scale: Float[Array, ""] = real_field(
        default=60.0,
        lower=0.0,
        unit="bp",
        source="(15) cross impact",
        help="lasting impact of the whole basket in its dearest direction",
    )
    flow_correlation: float = static_field(
        default=0.3, lower=0.0, upper=0.99, help="of the order flow of any two assets, for the Kyle matrix"
    )


class Slots(Checked):
    """When and where it is traded."""

    n_times: int = static_field(default=12, lower=2, upper=500, help="slots of time, of equal length")
    n_venues: int = static_field(default=2, lower=1, upper=20, help="venues in every slot")
    fee_step: Float[Array, ""] = real_field(
        default=0.3, unit="bp", help="fee of each venue over that of the one before"
    )
    u_shape: Float[Array, ""] = real_field(
        default=1.0, lower=0.0, help="extra volume at the ends of the day over that at its middle"
    )
    capacity: float = static_field(
        default=2.0, lower=0.05, help="what all slots can take, over the basket; below 1 the rest stays, at a price"
    )
    rest_penalty: Float[Array, ""] = real_field(default=100.0, lower=0.0, unit="bp", help="price of what is not traded")
    resilience: Float[Array, ""] = real_field(
        default=6.0,
        lower=0.0,
        strict=True,
        unit="1/day",
        source="(15) cross impact",
        help="rate at which impact decays",
    )


class Objective(Checked):
    """What is minimised."""

    risk_aversion: Float[Array, ""] = real_field(
        default=10.0, lower=0.0, unit="bp", help="price of waiting for the day's end in the average asset"
    )
    regularization: Float[Array, ""] = real_field(
        default=1.0,
        lower=0.0,
        strict=True,
        unit="bp",
        source="(15) lambda",
        help="price of departing from trading pro rata",
    )


class Prepared(eqx.Module):
    """What the panel says.

    Args:
        variance: Of each asset over their mean.
        impact: Kyle matrix of the signed basket, largest eigenvalue 1.
        report: Host facts.
    """

    variance: Float[Array, " asset"]
    impact: Float[Array, "asset asset"]
    report: HostReport = eqx.field(static=True)


class TransportExecution(AbstractExperiment):
    """Execution of a basket.

    Args:
        panel: Prices, for covariances.
        basket: What is traded.
        slots: When and where.
        objective: What is minimised.
    """

    panel: Checked
    basket: Basket
    slots: Slots
    objective: Objective

    @classmethod
    def prepared_paths(cls) -> tuple[str, ...]:
        """Tables used by `prepare`."""
        return ("panel",)

    def numbers_per_row(self) -> int:
        """Plans of every mode and regularization."""
        return 100 * self.slots.n_times * self.slots.n_venues * (N_PATH + 3)

    def prepare(self, folder: Any, seed: int, say: Callable[[str], None], progress: Any = None) -> Prepared:
        """Covariances of log returns."""
        panel, _ = self.panel.load(seed)
        if (panel.levels <= 0).any():
            raise DataError(f"{panel.name}: a price is not positive, expected prices for log returns")
        returns = np.diff(np.log(panel.levels), axis=0)
        n_rows, n = returns.shape
        if n_rows < 5 * n:
            raise DataError(f"{panel.name}: {n_rows} returns of {n} assets, expected at least {5 * n} for a covariance")
        covariance = np.cov(returns.T)
        deviation = np.sqrt(np.diag(covariance))
        if not (deviation > 0).all():
            raise DataError(
                f"{panel.name}: {panel.columns[int(np.argmin(deviation))]} never moves, expected prices that do"
            )
        rho = self.basket.flow_correlation
        flow = (1 - rho) * np.eye(n) + rho
        real = jnp.result_type(float)
        # In units of each asset's deviation, so that equal notionals are comparable; then per unit of notional.
        matrix = np.asarray(kyle_matrix(jnp.asarray(flow, real), jnp.asarray(covariance / np.mean(deviation**2), real)))
        signs = np.ones(n) if self.basket.sides == "buy" else np.where(np.arange(n) % 2, -1.0, 1.0)
        signed = signs[:, None] * matrix * signs[None]
        signed = 0.5 * (signed + signed.T) / np.linalg.eigvalsh(signed)[-1]
        say(f"{panel.name}: {n_rows:,} returns of {n} assets")
        variance = deviation**2 / np.mean(deviation**2)
        return Prepared(jnp.asarray(variance, real), jnp.asarray(signed, real), HostReport(panel=panel, signs=signs))

    def plan(self, batch: Any, prepared: Prepared) -> tuple[tuple, str]:
        """Nothing to choose."""
        return (), f"{len(prepared.variance)} parcels into {self.slots.n_times} times x {self.slots.n_venues} venues"

    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """Plans, and how they change with the regularization."""
        return [("plans", plan_stage), ("regularizations", path_stage)]

    def metrics(self, plan: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
        """Everything the report prints."""
        return execution_metrics(self, prepared, results)

    def provenance(self, prepared: Prepared) -> dict[str, Any]:
        """The panel's file."""
        return panel_provenance(prepared.report["panel"])

    def row(self, plan: Any, prepared: Prepared, key: PRNGKeyArray) -> dict[str, Array]:
        """Costs of the three ways."""
        found = plan_stage(self, prepared, {}, key)
        costs = {f"{name}_cost": found[name]["own"] + found[name]["impact"] for name in ("pro_rata", "frozen", "full")}
        return {**costs, "objective": found["full"]["objective"], "ok": found["solved"]}


def problem(experiment: Any, prepared: Prepared) -> tuple[tuple[Array, ...], Array]:
    """Own cost, masses of parcels and slots, cross impact and decay for masses of 1, and the mass in baskets that they stand for.

    Capacity nobody needs is a parcel of its own, what does not fit a slot of its own.
    """
    basket, slots, n = experiment.basket, experiment.slots, prepared.variance.shape[0]
    real = prepared.variance.dtype
    time = (jnp.arange(slots.n_times, dtype=real) + 0.5) / slots.n_times
    volume = 1 + slots.u_shape * (2 * time - 1) ** 2
    volume = volume / jnp.mean(volume)
    times, volumes = (jnp.repeat(x, slots.n_venues) for x in (time, volume))
    fees = jnp.tile(slots.fee_step * jnp.arange(slots.n_venues), slots.n_times)
    ones = jnp.ones(n, real)
    cost = SlotCosts(
        half_spread=basket.half_spread * ones,
        fee=fees,
        temporary_impact=basket.temporary_impact * ones,
        volume=jnp.broadcast_to(volumes, (n, times.shape[0])),
        variance=prepared.variance,
        time=times,
        risk_aversion=experiment.objective.risk_aversion,
    ).matrix()
    source, sink = ones / n, slots.capacity * volumes / jnp.sum(volumes)
    impact = basket.kyle_scale * prepared.impact
    decay = jnp.exp(-slots.resilience * jnp.abs(times[:, None] - times[None]))
    if slots.capacity > 1:
        unused = jnp.asarray([slots.capacity - 1], real)
        cost = jnp.concatenate([cost, jnp.zeros((1, cost.shape[1]), real)])
        source, impact = jnp.concatenate([source, unused]), jnp.pad(impact, (0, 1))
    if slots.capacity < 1:
        cost, source, sink = with_slack(cost, source, sink, slots.rest_penalty)
        decay = jnp.pad(decay, (0, 1))
    mass = jnp.sum(source)
    return (mass * cost, source / mass, sink / mass, mass**2 * impact, decay), mass


def plan_stage(experiment: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """The best plan, the best against the impact of trading pro rata, and trading pro rata."""
    given, mass = problem(experiment, prepared)
    cost, source, sink, impact, decay = given
    n, scale = prepared.variance.shape[0], experiment.objective.regularization
    full, frozen = (plan_execution(*given, regularization=scale, mode=mode) for mode in ("full", "frozen"))
    even = source[:, None] * sink[None]

    def summary(plan: Float[Array, "parcel slot"], objective: Array) -> dict[str, Array]:
        # The parcel of unused capacity costs nothing.
        own, mutual = jnp.sum(plan[:n] * cost[:n]), impact_cost(plan, impact, decay)
        return {"plan": mass * plan[:n], "own": own, "impact": mutual, "objective": objective}

    def priced(found: ExecutionPlan) -> dict[str, Array]:
        return summary(found.transport.plan, found.objective)

    zero = jnp.sum(even * cost) + impact_cost(even, impact, decay)
    # Capacity that just suffices makes Sinkhorn's last digits slow; no one trades them.
    errors = (full.stats["marginal_error"], full.stats["change"], frozen.stats["marginal_error"])
    solved = jnp.max(jnp.stack(errors)) <= SOLVED[cost.dtype.name]
    return {
        "full": priced(full.value),
        "frozen": priced(frozen.value),
        "pro_rata": summary(even, zero),
        "solved": solved,
    }


def path_stage(experiment: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """The best plan from a tenth to ten times the regularization."""
    given, _ = problem(experiment, prepared)
    cost, _, _, impact, decay = given
    n = prepared.variance.shape[0]
    scales = experiment.objective.regularization * jnp.logspace(-1, 1, N_PATH, dtype=cost.dtype)

    def one(scale: Array) -> Array:
        plan = plan_execution(*given, regularization=scale).value.transport.plan
        return jnp.stack([jnp.sum(plan[:n] * cost[:n]), impact_cost(plan, impact, decay)])

    return {"path": {"regularization": scales, "costs": jax.lax.map(one, scales)}}
