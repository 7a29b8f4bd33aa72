"""Transport (15) through ott-jax: an independent answer to `solve_transport`'s problem, and the variants whose plan is too large to hold.

Source: Cuturi et al. (2022), ott-jax; Scetbon et al. (2021) for low rank.
"""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray
from ott.geometry.geometry import Geometry
from ott.geometry.pointcloud import PointCloud
from ott.problems.linear.linear_problem import LinearProblem
from ott.solvers.linear.sinkhorn import Sinkhorn
from ott.solvers.linear.sinkhorn_lr import LRSinkhorn

from mfamm_jax.results import RESULTS, Solution, when
from mfamm_jax.solvers.sinkhorn import Masses
from mfamm_jax.solvers.transport import TOLERANCE, in_gauge, priced_transport


def solve_by_ott(
    cost: Float[Array, "source sink"],
    source: Float[Array, " source"],
    sink: Float[Array, " sink"],
    regularization: Float[Array, ""] | float,
    *,
    source_penalty: float = math.inf,
    sink_penalty: float = math.inf,
    tolerance: float | None = None,
    max_iterations: int = 100_000,
) -> Solution:
    """As `solve_transport`; plan and potentials carry derivatives by ott-jax's implicit differentiation, matrix-free.

    Finite penalties need a regularization that is not traced.
    """
    scale = jnp.asarray(regularization, cost.dtype)
    shares = [1.0 if math.isinf(p) else p / (p + float(regularization)) for p in (source_penalty, sink_penalty)]
    limit = TOLERANCE[cost.dtype.name] if tolerance is None else tolerance
    # Their entropy is relative to counting measure; a shifted cost makes it ours, also where masses give.
    shifted = cost - scale * (jnp.log(source)[:, None] + jnp.log(sink)[None, :])
    problem = LinearProblem(Geometry(cost_matrix=shifted, epsilon=scale), source, sink, *shares)
    found = Sinkhorn(threshold=limit, max_iterations=max_iterations)(problem)
    penalties = jnp.asarray(source_penalty, cost.dtype), jnp.asarray(sink_penalty, cost.dtype)
    masses = Masses(source, sink, 1 / penalties[0], 1 / penalties[1])
    answer = priced_transport(*in_gauge(found.f, found.g, masses), cost=cost, masses=masses, regularization=scale)
    errors = jnp.asarray(found.errors)
    last = jnp.argmax(jnp.where(errors >= 0, jnp.arange(errors.shape[0]), -1))
    stats = {"iterations": found.n_iters, "marginal_error": errors[last]}
    return Solution(answer, when(found.converged, RESULTS.successful, RESULTS.not_converged), stats)


class LowRankTransport(eqx.Module):
    r"""A plan $Q\,\mathrm{diag}(1/w)\,R^\top$ that is never written out.

    Args:
        source_factor, sink_factor: Q and R.
        weights: w, sums to one.
        linear_cost: $\langle C, \pi\rangle$, at least the best plan's.
    """

    source_factor: Float[Array, "source rank"]
    sink_factor: Float[Array, "sink rank"]
    weights: Float[Array, " rank"]
    linear_cost: Float[Array, ""]


def solve_low_rank(
    x: Float[Array, "source axis"],
    y: Float[Array, "sink axis"],
    source: Float[Array, " source"],
    sink: Float[Array, " sink"],
    rank: int,
    *,
    key: PRNGKeyArray,
    tolerance: float = 1e-5,
    max_iterations: int = 2000,
) -> Solution:
    """Plan between two clouds of points under squared distances, in memory and time linear in their number: samples too many for a matrix.

    Args:
        x, y: Points.
        source, sink: Their weights, equal sums.
        rank: Of the plan; the cost falls towards that of the best plan as it grows.
        key: Of the start.
        tolerance: Relative change of the cost at which to stop.
        max_iterations: Of mirror descent.

    Returns:
        `Solution` of a `LowRankTransport`.
    """
    solver = LRSinkhorn(rank=rank, threshold=tolerance, max_iterations=max_iterations)
    found = solver(LinearProblem(PointCloud(x, y), source, sink), rng=key)
    answer = LowRankTransport(found.q, found.r, found.g, found.primal_cost)
    result = when(found.converged, RESULTS.successful, RESULTS.not_converged)
    return Solution(answer, result, {"iterations": found.n_iters})
