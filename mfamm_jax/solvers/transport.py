r"""Entropic optimal transport (15), the kernel of transport-based execution:

$$\min_{\pi}\ \langle C, \pi\rangle + \lambda\,KL(\pi\,\|\,\mu\otimes\nu), \qquad \pi 1 = \mu,\ \pi^\top 1 = \nu,
  \qquad \pi_{ij} = \mu_i \nu_j\, e^{(f_i + g_j - C_{ij})/\lambda}.$$

Masses may also give: then the marginals are not constraints but cost $\tau\,KL(\pi 1\|\mu)$ and $\tau\,KL(\pi^\top 1\|\nu)$.

Solved by `sinkhorn.find_potentials`, finished by Newton's method where that crawls. The value is the dual objective at the potentials, so that its derivatives are those of the envelope
theorem: $\pi$ in C, f and g in the masses; nothing is unrolled. The plan's own derivatives, and second ones of the value, come from one
Newton step at the solution (implicit function theorem).

Sources: docs/equations.md, (15); Cuturi (2013); Peyre & Cuturi (2019), chapter 4; Chizat et al. (2018); Janati et al. (2020) for normal laws.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy
from jaxtyping import Array, Float

from mfamm_jax.results import RESULTS, Solution, when
from mfamm_jax.solvers.sinkhorn import Masses, Potentials, find_potentials

EARLY_ITERATIONS = 2000  # of Sinkhorn before Newton's method tries to finish
MOST_NEWTON = 3000  # potentials in one linear system
TOLERANCE = {"float64": 1e-13, "float32": 1e-6}  # of the marginals
SMALLEST_IN_FLOAT32 = 1e-3  # lambda over the range of the cost


class Transport(eqx.Module):
    r"""A plan and its price.

    Args:
        plan: $\pi$, shares that move from row to column.
        source_potential, sink_potential: f and g, with $\sum_j \nu_j g_j = 0$.
        value: Minimum, $\langle C, \pi\rangle + \lambda KL(\pi\|\mu\otimes\nu)$.
        linear_cost: $\langle C, \pi\rangle$.
        entropy_form_value: $\langle C, \pi\rangle + \lambda\sum\pi\ln\pi$, as other libraries count.
    """

    plan: Float[Array, "source sink"]
    source_potential: Float[Array, " source"]
    sink_potential: Float[Array, " sink"]
    value: Float[Array, ""]
    linear_cost: Float[Array, ""]
    entropy_form_value: Float[Array, ""]


def solve_transport(
    cost: Float[Array, "source sink"],
    source: Float[Array, " source"],
    sink: Float[Array, " sink"],
    regularization: Float[Array, ""] | float,
    *,
    source_penalty: Float[Array, ""] | float = jnp.inf,
    sink_penalty: Float[Array, ""] | float = jnp.inf,
    tolerance: float | None = None,
    max_iterations: int = 100_000,
    plan_gradient: bool = False,
    start: Float[Array, " sink"] | None = None,
) -> Solution:
    r"""Solves (15) for one problem; `vmap` for many.

    Args:
        cost: C, finite.
        source, sink: $\mu$ and $\nu$, > 0, equal sums where both are fixed. For unequal sums add a slack column, `with_slack`, or let one give.
        regularization: $\lambda$ > 0 [as the cost].
        source_penalty, sink_penalty: $\tau$ > 0 [as the cost] of the masses that give; infinite = fixed.
        tolerance: Largest error of a marginal, relative to the total mass; 1e-13 in float64 and 1e-6 in float32 by default.
        max_iterations: Of Sinkhorn after annealing.
        plan_gradient: Whether `plan` and the potentials carry derivatives, and the value second ones (a linear system of all masses);
            first derivatives of the value always come.
        start: Sink potential to start from; skips annealing.

    Returns:
        `Solution` of a `Transport`; `not_converged` after `max_iterations`. Stats: iterations and marginal error.
    """
    penalties = jnp.asarray(source_penalty, cost.dtype), jnp.asarray(sink_penalty, cost.dtype)
    _check(cost, source, sink, regularization, *penalties)
    regularization = jnp.asarray(regularization, cost.dtype)
    masses = Masses(source, sink, 1 / penalties[0], 1 / penalties[1])
    fixed = jax.lax.stop_gradient((cost, masses, regularization))
    limit = TOLERANCE[cost.dtype.name] if tolerance is None else tolerance
    found = find_potentials(*fixed, tolerance=limit, max_iterations=min(max_iterations, EARLY_ITERATIONS), start=start)
    if limit > 0 and sum(cost.shape) <= MOST_NEWTON:
        found = _polished(found, *fixed, limit=limit)
    if max_iterations > EARLY_ITERATIONS:
        done = found.error <= limit
        rest = jnp.where(done, 0, max_iterations - EARLY_ITERATIONS)
        more = find_potentials(*fixed, tolerance=limit, max_iterations=rest, start=found.g)
        more = eqx.tree_at(lambda p: p.iterations, more, found.iterations + more.iterations)
        found = jax.tree.map(lambda x, y: jnp.where(done, x, y), found, more)
    f, g = jax.lax.stop_gradient(in_gauge(found.f, found.g, masses))
    if plan_gradient:
        f, g = _newton_step(f, g, cost, masses, regularization)
    answer = priced_transport(f, g, cost, masses, regularization)
    stats = {"iterations": found.iterations, "marginal_error": found.error}
    return Solution(answer, when(found.error <= limit, RESULTS.successful, RESULTS.not_converged), stats)


def priced_transport(
    f: Float[Array, " source"],
    g: Float[Array, " sink"],
    cost: Float[Array, "source sink"],
    masses: Masses,
    regularization: Float[Array, ""],
) -> Transport:
    """Plan and values that belong to optimal potentials."""
    source, sink = masses.source, masses.sink
    plan = source[:, None] * sink[None, :] * jnp.exp((f[:, None] + g[None, :] - cost) / regularization)
    value = _dual(f, g, cost, masses, regularization)
    entropy = regularization * (jnp.sum(xlogy(source, source)) + jnp.sum(xlogy(sink, sink)))
    return Transport(plan, f, g, value, jnp.sum(plan * cost), value + entropy)


def in_gauge(f: Array, g: Array, masses: Masses) -> tuple[Array, Array]:
    """Fixed masses leave f + c, g - c open: the sinks' mean potential is 0."""
    both_fixed = (masses.source_give == 0) & (masses.sink_give == 0)
    shift = jnp.where(both_fixed, jnp.sum(masses.sink * g) / jnp.sum(masses.sink), 0)
    return f + shift, g - shift


def _mass_term(potential: Array, mass: Array, give: Array) -> Array:
    r"""$\tau\sum\mu(1 - e^{-f/\tau})$, or its limit $\sum\mu f$."""
    safe = jnp.where(give > 0, give, 1)
    return jnp.sum(mass * jnp.where(give > 0, -jnp.expm1(-safe * potential) / safe, potential))


def _dual(
    f: Float[Array, " source"],
    g: Float[Array, " sink"],
    cost: Float[Array, "source sink"],
    masses: Masses,
    regularization: Float[Array, ""],
) -> Float[Array, ""]:
    """<mu, f> + <nu, g> - lambda (mass of the plan - mass): its maximum over f and g is the value."""
    kernel = jnp.exp((f[:, None] + g[None, :] - cost) / regularization)
    excess = jnp.einsum("i,j,ij->", masses.source, masses.sink, kernel - 1, precision="highest")
    terms = _mass_term(f, masses.source, masses.source_give) + _mass_term(g, masses.sink, masses.sink_give)
    return terms - regularization * excess


def _polished(found: Potentials, cost: Array, masses: Masses, regularization: Array, limit: float) -> Potentials:
    """Newton's method on the marginals, from where Sinkhorn's iteration crawls: as long as the error halves."""

    def error_of(f: Array, g: Array) -> Array:
        plan = (
            masses.source[:, None] * masses.sink[None, :] * jnp.exp((f[:, None] + g[None, :] - cost) / regularization)
        )
        rows = jnp.sum(plan, axis=1) - masses.source * jnp.exp(-masses.source_give * f)
        columns = jnp.sum(plan, axis=0) - masses.sink * jnp.exp(-masses.sink_give * g)
        return jnp.maximum(jnp.max(jnp.abs(rows)), jnp.max(jnp.abs(columns))) / jnp.sum(masses.source)

    def step(state: tuple[Potentials, Array]) -> tuple[Potentials, Array]:
        now, _ = state
        f, g = in_gauge(*_newton_step(now.f, now.g, cost, masses, regularization), masses=masses)
        error = error_of(f, g)
        better = error <= 0.5 * now.error
        kept = jax.tree.map(lambda x, y: jnp.where(better, x, y), Potentials(f, g, error, now.iterations), now)
        return kept, better

    return jax.lax.while_loop(lambda s: (s[0].error > limit) & s[1], step, (found, jnp.asarray(True)))[0]


def _newton_step(f: Array, g: Array, cost: Array, masses: Masses, regularization: Array) -> tuple[Array, Array]:
    """The potentials with their derivatives: a step of Newton's method on the marginals, which changes nothing else."""
    source, sink = masses.source, masses.sink
    kernel = source[:, None] * sink[None, :] * jnp.exp((f[:, None] + g[None, :] - cost) / regularization)
    given = source * jnp.exp(-masses.source_give * f), sink * jnp.exp(-masses.sink_give * g)
    gauge = jnp.sum(sink * g)
    residual = jnp.concatenate([jnp.sum(kernel, axis=1) - given[0], jnp.sum(kernel, axis=0) - given[1]])
    here, (rows, columns), scale, gives = jax.lax.stop_gradient(
        (kernel, given, regularization, (masses.source_give, masses.sink_give))
    )
    matrix = jnp.block([[jnp.diag(jnp.sum(here, axis=1)), here], [here.T, jnp.diag(jnp.sum(here, axis=0))]]) / scale
    matrix = matrix + jnp.diag(jnp.concatenate([gives[0] * rows, gives[1] * columns]))
    # Under fixed masses (1, -1) changes no plan: its rank-one term makes the matrix regular, and the gauge picks the right multiple.
    both_fixed = (gives[0] == 0) & (gives[1] == 0)
    null = jnp.concatenate([jnp.ones_like(f), -jnp.ones_like(g)]) * jnp.where(both_fixed, 1, 0)
    size = jnp.trace(matrix) / matrix.shape[0] ** 2
    step = jnp.linalg.solve(matrix + size * jnp.outer(null, null), -residual)
    df, dg = step[: f.shape[0]], step[f.shape[0] :]
    still = jax.lax.stop_gradient(sink)
    drift = jnp.where(both_fixed, (gauge + jnp.sum(still * dg)) / jnp.sum(still), 0)
    drift = drift - jax.lax.stop_gradient(drift)
    return f + df + drift, g + dg - drift


def _check(
    cost: Array, source: Array, sink: Array, regularization: Array | float, source_penalty: Array, sink_penalty: Array
) -> None:
    """Concrete arguments; tracers pass."""
    given = (cost, source, sink, regularization, source_penalty, sink_penalty)
    if any(isinstance(x, jax.core.Tracer) for x in given):
        return
    if not np.isfinite(np.asarray(cost)).all():
        row, column = np.argwhere(~np.isfinite(np.asarray(cost)))[0]
        raise ValueError(f"cost[{row}, {column}] is {float(cost[row, column])}, expected a finite number")
    for name, x in (("source", source), ("sink", sink)):
        if not (np.asarray(x) > 0).all():
            raise ValueError(
                f"{name} has an entry of {float(np.min(np.asarray(x)))}, expected masses > 0: leave empty ones out"
            )
    masses = float(jnp.sum(source)), float(jnp.sum(sink))
    for name, penalty in (("source_penalty", source_penalty), ("sink_penalty", sink_penalty)):
        if not float(penalty) > 0:
            raise ValueError(f"{name} is {float(penalty):g}, expected a number > 0; infinite = masses are fixed")
    fixed = np.isinf(float(source_penalty)) and np.isinf(float(sink_penalty))
    if fixed and abs(masses[0] - masses[1]) > 1e-5 * max(masses):
        raise ValueError(
            f"source has mass {masses[0]:g} and sink {masses[1]:g}, expected equal sums: use with_slack or a sink_penalty"
        )
    scale = float(regularization)
    if not scale > 0 or not np.isfinite(scale):
        raise ValueError(f"regularization is {scale}, expected a finite number > 0")
    spread = float(jnp.max(cost) - jnp.min(cost))
    if cost.dtype == jnp.float32 and scale < SMALLEST_IN_FLOAT32 * spread:
        raise ValueError(
            f"regularization {scale:g} is below {SMALLEST_IN_FLOAT32:g} of the cost's range {spread:g}: float32 cannot resolve it; use float64 or "
            "a larger one"
        )


def with_slack(
    cost: Float[Array, "source sink"],
    source: Float[Array, " source"],
    sink: Float[Array, " sink"],
    penalty: Float[Array, ""] | float,
) -> tuple[Float[Array, "source more"], Float[Array, " source"], Float[Array, " more"]]:
    """A last column that takes what the sinks cannot, at a price per unit: for sources of more mass than sinks."""
    room = jnp.sum(source) - jnp.sum(sink)
    if not isinstance(room, jax.core.Tracer) and not float(room) > 0:
        raise ValueError(f"the sinks' mass exceeds the sources' by {-float(room):g}: swap them, or drop capacity")
    column = jnp.full((cost.shape[0], 1), penalty, cost.dtype)
    return jnp.concatenate([cost, column], axis=1), source, jnp.concatenate([sink, room[None]])


def transport_on_a_line(
    x: Float[Array, " source"],
    y: Float[Array, " sink"],
    source: Float[Array, " source"] | None = None,
    sink: Float[Array, " sink"] | None = None,
    exponent: Float[Array, ""] | float = 1.0,
) -> Float[Array, ""]:
    r"""Exact $\min \sum \pi_{ij}|x_i - y_j|^p$, p >= 1, by the monotone coupling; weights are normalised, None = equal."""
    parts = []
    for points, weights in ((x, source), (y, sink)):
        order = jnp.argsort(points)
        weights = jnp.ones_like(points) if weights is None else weights
        parts.append((points[order], jnp.cumsum(weights[order]) / jnp.sum(weights)))
    (x, x_mass), (y, y_mass) = parts
    edges = jnp.sort(jnp.concatenate([jnp.zeros(1, x.dtype), x_mass, y_mass]))
    middle = 0.5 * (edges[1:] + edges[:-1])
    i, j = (jnp.minimum(jnp.searchsorted(mass, middle), mass.shape[0] - 1) for mass in (x_mass, y_mass))
    return jnp.sum(jnp.diff(edges) * jnp.abs(x[i] - y[j]) ** exponent)


def gaussian_transport(
    source_mean: Float[Array, " n"],
    source_covariance: Float[Array, "n n"],
    sink_mean: Float[Array, " n"],
    sink_covariance: Float[Array, "n n"],
    regularization: Float[Array, ""] | float,
) -> Float[Array, ""]:
    r"""$\min E|x - y|^2 + \lambda KL$ between normal laws in closed form; $\lambda = 0$ is the Bures distance [Janati et al. 2020]."""
    shift = jnp.sum((source_mean - sink_mean) ** 2) + jnp.trace(source_covariance) + jnp.trace(sink_covariance)
    root = symmetric_power(source_covariance, 0.5)
    inner = jnp.matmul(root, jnp.matmul(sink_covariance, root, precision="highest"), precision="highest")
    spectrum = jnp.maximum(jnp.linalg.eigvalsh(0.5 * (inner + inner.T)), 0)
    s = jnp.asarray(regularization, source_mean.dtype) / 2
    # Per axis: d - s - s log((d + s)/(2 s)), d = sqrt(4 e + s^2); without cancellation for large s.
    d = jnp.sqrt(4 * spectrum + s**2)
    gap = 4 * spectrum / jnp.where(d + s > 0, d + s, 1)  # d - s
    safe = jnp.where(s > 0, s, 1)
    entropy = jnp.where(s > 0, s * jnp.log1p(gap / (2 * safe)), 0)
    return shift - jnp.sum(gap - entropy)


def symmetric_power(matrix: Float[Array, "n n"], power: float) -> Float[Array, "n n"]:
    """A power of a symmetric positive (semi)definite matrix."""
    values, vectors = jnp.linalg.eigh(matrix)
    return jnp.matmul(vectors * jnp.maximum(values, 0) ** power, vectors.T, precision="highest")
