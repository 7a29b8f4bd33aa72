r"""Execution as transport (15): parcels of assets to slots of time and venue, with their own costs and each other's impact.

$$J(\pi) = \langle C, \pi\rangle + \tfrac12\langle \pi, \Lambda \pi G\rangle + \lambda\,KL(\pi\|\mu\otimes\nu)$$

$\Lambda$ is the impact of one asset's trades on another's price, G how impact lingers from slot to slot. With a cost that depends on the plan
(15) is no longer linear: `frozen` prices the impact of a given plan and stays linear, `full` minimises J by mirror descent, which
converges because $\Lambda$ and G are positive semidefinite - without which round trips would make money.

Source: docs/equations.md, (15); Benzaquen et al. (2017) for the propagator, del Molino et al. (2020) for the Kyle matrix.
"""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfamm_jax.fields import Checked, real_field
from mfamm_jax.results import RESULTS, Solution, when
from mfamm_jax.solvers.transport import TOLERANCE as TRANSPORT_TOLERANCE
from mfamm_jax.solvers.transport import Transport, solve_transport, symmetric_power

TOLERANCE = {"float64": 1e-11, "float32": 1e-6}  # of a share, as far as the last round's change tells


class SlotCosts(Checked):
    """Own cost of executing a parcel in a slot, per unit of notional.

    Args:
        half_spread: Of each parcel's asset.
        fee: Of each slot's venue.
        temporary_impact: Per share of the slot's volume, of each asset.
        volume: (parcel, slot) volume available.
        variance: Of each asset per unit of time.
        time: Of each slot.
        risk_aversion: Weight of the variance until execution.
    """

    half_spread: Float[Array, " parcel"] = real_field(lower=0.0, unit="of notional")
    fee: Float[Array, " slot"] = real_field(unit="of notional")
    temporary_impact: Float[Array, " parcel"] = real_field(lower=0.0)
    volume: Float[Array, "parcel slot"] = real_field(lower=0.0, strict=True)
    variance: Float[Array, " parcel"] = real_field(lower=0.0, unit="1/time")
    time: Float[Array, " slot"] = real_field(lower=0.0, unit="time")
    risk_aversion: Float[Array, ""] = real_field(default=0.0, lower=0.0)

    def matrix(self) -> Float[Array, "parcel slot"]:
        """C."""
        trading = self.half_spread[:, None] + self.fee[None, :] + self.temporary_impact[:, None] / self.volume
        return trading + self.risk_aversion * self.variance[:, None] * self.time[None, :]


def kyle_matrix(flow_covariance: Float[Array, "n n"], return_covariance: Float[Array, "n n"]) -> Float[Array, "n n"]:
    r"""The symmetric positive definite $\Lambda$ with $\Lambda\,\Omega\,\Lambda = \Sigma$: the map of optimal transport between the two."""
    _check_definite("flow_covariance", flow_covariance, strictly=True)
    _check_definite("return_covariance", return_covariance, strictly=False)
    root, inverse = symmetric_power(flow_covariance, 0.5), symmetric_power(flow_covariance, -0.5)
    inner = jnp.matmul(root, jnp.matmul(return_covariance, root, precision="highest"), precision="highest")
    middle = symmetric_power(0.5 * (inner + inner.T), 0.5)
    return jnp.matmul(inverse, jnp.matmul(middle, inverse, precision="highest"), precision="highest")


def impact_cost(
    plan: Float[Array, "parcel slot"], impact: Float[Array, "parcel parcel"], decay: Float[Array, "slot slot"]
) -> Float[Array, ""]:
    r"""$\tfrac12\langle \pi, \Lambda\pi G\rangle$."""
    return 0.5 * jnp.einsum("ij,ik,kl,lj->", plan, impact, plan, decay, precision="highest")


def _impact_price(plan: Array, impact: Array, decay: Array) -> Array:
    return jnp.einsum("ik,kl,lj->ij", impact, plan, decay, precision="highest")


class ExecutionPlan(eqx.Module):
    """A plan with what it costs.

    Args:
        transport: Plan and potentials of the last linear problem.
        objective: J.
        linear_cost, impact_cost, entropy_cost: Its three parts.
    """

    transport: Transport
    objective: Float[Array, ""]
    linear_cost: Float[Array, ""]
    impact_cost: Float[Array, ""]
    entropy_cost: Float[Array, ""]


def plan_execution(
    cost: Float[Array, "parcel slot"],
    source: Float[Array, " parcel"],
    sink: Float[Array, " slot"],
    impact: Float[Array, "parcel parcel"],
    decay: Float[Array, "slot slot"],
    regularization: Float[Array, ""] | float,
    *,
    mode: Literal["full", "frozen"] = "full",
    max_rounds: int = 20_000,
) -> Solution:
    r"""The best plan of J, or the best one against the impact of trading pro rata.

    Args:
        cost: Own cost, e.g. `SlotCosts.matrix`.
        source, sink: Shares of the parcels and capacities of the slots, equal sums.
        impact: $\Lambda$, symmetric positive semidefinite.
        decay: G, likewise.
        regularization: $\lambda$.
        mode: "frozen": C + $\Lambda\bar\pi G$ with $\bar\pi = \mu\otimes\nu$, linear. "full": minimises J; derivatives of the
            objective in every argument are those of the envelope theorem.
        max_rounds: Of mirror descent.

    Returns:
        `Solution` of an `ExecutionPlan`.
    """
    _check_definite("impact", impact, strictly=False)
    _check_definite("decay", decay, strictly=False)
    regularization = jnp.asarray(regularization, cost.dtype)
    pro_rata = source[:, None] * sink[None, :] / jnp.sum(source)
    if mode == "frozen":
        solution = solve_transport(cost + _impact_price(pro_rata, impact, decay), source, sink, regularization)
        found = _priced(solution.value, solution.value.plan, cost, source, sink, impact, decay, regularization)
        return Solution(found, solution.result, solution.stats)
    if mode != "full":
        raise ValueError(f'mode is {mode!r}, expected "full" or "frozen"')
    arguments = jax.lax.stop_gradient((cost, source, sink, impact, decay, regularization))
    plan, change, rounds = _descend(*arguments, most=max_rounds)
    solution = solve_transport(cost + _impact_price(plan, impact, decay), source, sink, regularization)
    # J at the minimum: the linear problem's value with the impact priced at the plan, less half of that price.
    objective = solution.value.value - impact_cost(plan, impact, decay)
    found = _priced(solution.value, plan, cost, source, sink, impact, decay, regularization)
    found = eqx.tree_at(lambda p: p.objective, found, objective)
    good = (change <= TOLERANCE[cost.dtype.name]) & (solution.result == RESULTS.successful)
    stats = solution.stats | {"rounds": rounds, "change": change}
    return Solution(found, when(good, RESULTS.successful, RESULTS.not_converged), stats)


def _descend(
    cost: Array, source: Array, sink: Array, impact: Array, decay: Array, regularization: Array, most: int
) -> tuple[Array, Array, Array]:
    r"""Mirror descent: each round adds $s\,KL(\pi\|\pi_{old})$ to the linearised problem, which is one of Sinkhorn's at $\lambda + s$.

    J falls in every round in which $\frac12\langle\Delta, \Lambda\Delta G\rangle \le s\,KL(\pi\|\pi_{old})$ [Bauschke, Bolte & Teboulle 2017]; s starts
    from the impact's curvature at the pro-rata plan and doubles where that fails. Returns plan, error estimate, rounds.
    """
    limit, floor = TOLERANCE[cost.dtype.name], 2 * TRANSPORT_TOLERANCE[cost.dtype.name]
    mass = jnp.sum(source)

    def largest(matrix: Array, weights: Array) -> Array:
        root = jnp.sqrt(weights)
        return jnp.linalg.eigvalsh(root[:, None] * matrix * root[None, :])[-1]

    def target(s: Array) -> Array:
        # A small step changes little, however far the end is: what is left is a round's change times (lambda + s)/lambda.
        return jnp.maximum(limit * regularization / (regularization + s), floor)

    def body(state: tuple) -> tuple:
        plan, log_ratio, g, s, _, rounds = state
        priced = cost + _impact_price(plan, impact, decay) - s * log_ratio
        found = solve_transport(priced, source, sink, regularization + s, start=g).value
        new_ratio = (found.source_potential[:, None] + found.sink_potential[None, :] - priced) / (regularization + s)
        move, change = found.plan - plan, jnp.max(jnp.abs(found.plan - plan)) / mass
        good = (impact_cost(move, impact, decay) <= s * _divergence(plan, new_ratio - log_ratio)) | (
            change <= target(s)
        )
        kept = (found.plan, new_ratio, found.sink_potential, s, change)
        refused = (plan, log_ratio, g, 2 * s + 0.01 * regularization, jnp.asarray(jnp.inf, cost.dtype))
        return (*(jnp.where(good, x, y) for x, y in zip(kept, refused)), rounds + 1)

    curvature = jnp.maximum(largest(impact, source) * largest(decay, sink) / mass, 0)
    first = (
        source[:, None] * sink[None, :] / mass,
        jnp.full_like(cost, -jnp.log(mass)),
        jnp.zeros_like(sink),
        0.5 * curvature,
        jnp.asarray(jnp.inf, cost.dtype),
        jnp.zeros((), jnp.int32),
    )
    plan, _, _, s, change, rounds = jax.lax.while_loop(lambda x: (x[4] > target(x[3])) & (x[5] < most), body, first)
    return plan, jnp.where(change <= target(s), jnp.minimum(change, limit), change), rounds


def _divergence(old: Array, d: Array) -> Array:
    """KL(new || old) for new = old e^d, without cancellation where d is small."""
    near = jnp.abs(d) < 1e-2
    far = jnp.where(near, 1, d)
    series = d**2 * (0.5 + d * (1 / 3 + d * (1 / 8 + d / 30)))
    return jnp.sum(old * jnp.where(near, series, jnp.exp(far) * (far - 1) + 1))


def _priced(transport, plan, cost, source, sink, impact, decay, regularization) -> ExecutionPlan:
    linear, mutual = jnp.sum(plan * cost), impact_cost(plan, impact, decay)
    product = source[:, None] * sink[None, :]
    safe = jnp.where(plan > 0, plan, product)
    # For masses other than 1 the relative entropy has these two terms, as the dual's value does.
    excess = jnp.sum(product) - jnp.sum(plan)
    entropy = regularization * (jnp.sum(jnp.where(plan > 0, plan * jnp.log(safe / product), 0)) + excess)
    return ExecutionPlan(transport, linear + mutual + entropy, linear, mutual, entropy)


def _check_definite(name: str, matrix: Array, strictly: bool) -> None:
    """Symmetric and positive (semi)definite; tracers pass."""
    if isinstance(matrix, jax.core.Tracer):
        return
    values = np.asarray(matrix, float)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} is not finite")
    scale = max(np.abs(values).max(), 1e-300)
    if np.abs(values - values.T).max() > 1e-5 * scale:
        raise ValueError(f"{name} is not symmetric: round trips would make money")
    smallest = float(np.linalg.eigvalsh(0.5 * (values + values.T))[0])
    if smallest < -1e-6 * scale:
        raise ValueError(
            f"{name} has the eigenvalue {smallest:.3g}, expected none below 0: round trips would make money"
        )
    if strictly and smallest <= 1e-12 * scale:
        raise ValueError(
            f"{name} is singular (smallest eigenvalue {smallest:.3g}): leave out assets that others replicate"
        )
