r"""Maximum likelihood of the fill intensity (11) as a Poisson regression.

Time is cut at every event and change of a covariate; row i has exposure $\tau_i$ [s], covariates $x_i$ and count $d_i$.
With $\lambda = e^{x \beta + o}$ the logarithm of (11) is

$$\ln L(\beta) = \sum_i d_i (x_i \beta + o_i) - \tau_i e^{x_i \beta + o_i},$$

concave in $\beta$. A cancelled order is a row without count (right censoring), a new quote starts a new row (left
truncation): exposure handles both. Cutting a row in two changes nothing. Bid and ask are fitted separately.
Source: rulebook (11), docs/equations.md.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Real

from mfamm_jax.results import RESULTS, Solution


class IntensityFit(eqx.Module):
    """Fitted log-linear intensity.

    Args:
        coefficients: Maximiser of (11), less the ridge penalty if there is one.
        standard_errors: From the curvature; right if the events are Poisson given the covariates.
        clustered_standard_errors: Allow any dependence within a cluster (sandwich); None without clusters.
        covariance: Inverse of the negative Hessian, the square of `standard_errors` on its diagonal.
        log_likelihood: (11) at the coefficients, without penalty; rates per second as in the exposure.
    """

    coefficients: Float[Array, " covariate"]
    standard_errors: Float[Array, " covariate"]
    clustered_standard_errors: Float[Array, " covariate"] | None
    covariance: Float[Array, "covariate covariate"]
    log_likelihood: Float[Array, ""]


class _Rows(eqx.Module):
    """Regression rows; covariates divided by their root mean square, rows that say nothing blanked out."""

    design: Float[Array, "row covariate"]
    count: Float[Array, " row"]
    exposure: Float[Array, " row"]
    offset: Float[Array, " row"]
    penalty: Float[Array, " covariate"]

    def log_likelihood(self, coefficients: Float[Array, " covariate"]) -> Float[Array, ""]:
        return log_likelihood(coefficients, self.design, self.count, self.exposure, self.offset)

    def objective(self, coefficients: Float[Array, " covariate"]) -> Float[Array, ""]:
        return self.log_likelihood(coefficients) - jnp.sum(self.penalty * coefficients**2) / 2

    def expected(self, coefficients: Float[Array, " covariate"]) -> Float[Array, " row"]:
        return _expected(self.design @ coefficients + self.offset, self.exposure)

    def gradient(self, coefficients: Float[Array, " covariate"]) -> Float[Array, " covariate"]:
        surprise = self.count - self.expected(coefficients)
        return surprise @ self.design - self.penalty * coefficients

    def information(self, coefficients: Float[Array, " covariate"]) -> Float[Array, "covariate covariate"]:
        """Negative Hessian, plus a few rounding errors so that a singular one still has an inverse."""
        weighted = self.design * self.expected(coefficients)[:, None]
        return _regularised(self.design.T @ weighted + jnp.diag(self.penalty))


def log_likelihood(
    coefficients: Float[Array, " covariate"],
    design: Float[Array, "row covariate"],
    count: Real[Array, " row"],
    exposure: Float[Array, " row"],
    offset: Float[Array, " row"] | Float[Array, ""] | float = 0.0,
) -> Float[Array, ""]:
    """Logarithm of (11) for piecewise constant intensities; arguments as in `fit_poisson`."""
    log_rate = design @ coefficients + offset
    return jnp.sum(count * log_rate - _expected(log_rate, exposure))  # (11)


def fit_poisson(
    design: Float[Array, "row covariate"],
    count: Real[Array, " row"],
    exposure: Float[Array, " row"],
    *,
    ridge: Float[Array, ""] | float = 0.0,
    offset: Float[Array, " row"] | Float[Array, ""] | float = 0.0,
    n_iterations: int = 25,
    cluster: Int[Array, " row"] | None = None,
    n_clusters: int | None = None,
) -> Solution:
    r"""Maximises (11) by Newton's method; works under jit and vmap, and its optimum has first derivatives in the data.

    The clustered covariance is $\frac{G}{G-1} H^{-1} (\sum_g s_g s_g^T) H^{-1}$ with G the clusters that occur and
    $s_g$ their scores. The factor $(N-1)/(N-p)$ that some programs add is left out: it changes when rows are cut.

    Args:
        design: Covariates $x_i$, including a column of ones if an intercept is wanted.
        count: Events $d_i \ge 0$ in (or at the end of) each row.
        exposure: $\tau_i \ge 0$ [s]. A row with neither exposure nor events is ignored, whatever its covariates; an
            event in a row of no length counts, as (11) has it.
        ridge: $\rho$ of the penalty $\rho |\beta|^2 / 2$; 1e-6 keeps a covariate without events finite.
        offset: Known part of the log-intensity.
        n_iterations: Newton steps; about 7 are needed, the rest cost time only.
        cluster: Number of each row's cluster, e.g. its minute, in [0, n_clusters).
        n_clusters: Static number of clusters.

    Returns:
        `Solution` of an `IntensityFit`; `not_converged` if the covariates are collinear or separate the events, or if
        `n_iterations` is too small. `stats`: `last_step`, `reciprocal_condition`.
    """
    if (cluster is None) != (n_clusters is None):
        raise ValueError("cluster and n_clusters belong together, expected both or neither")
    rows, scale, is_used = _rows(design, count, exposure, ridge, offset)
    found = _maximise(jax.lax.stop_gradient(rows), n_iterations)
    information = rows.information(found)
    # The step is 0 in value; it carries the implicit-function derivative of the optimum.
    step = jnp.linalg.solve(jax.lax.stop_gradient(information), rows.gradient(found))
    coefficients = found + step
    inverse = jnp.linalg.inv(rows.information(coefficients))
    clustered = None
    if cluster is not None and n_clusters is not None:
        scores = rows.design * (rows.count - rows.expected(coefficients))[:, None]
        clustered = _clustered_errors(inverse, scores, cluster, n_clusters, is_used) / scale
    fit = IntensityFit(
        coefficients / scale,
        jnp.sqrt(jnp.diag(inverse)) / scale,
        clustered,
        inverse / (scale[:, None] * scale),
        rows.log_likelihood(coefficients),
    )
    result, stats = _verdict(fit, step, coefficients, information)
    return Solution(fit, result, stats)


def _expected(log_rate: Float[Array, " row"], exposure: Float[Array, " row"]) -> Float[Array, " row"]:
    """Expected count of each row; 0 without exposure even if the rate overflows."""
    positive = exposure > 0
    return jnp.where(positive, exposure, 0) * jnp.exp(jnp.where(positive, log_rate, 0))


def _rows(
    design: Array, count: Array, exposure: Array, ridge: Array | float, offset: Array | float
) -> tuple[_Rows, Float[Array, " covariate"], Bool[Array, " row"]]:
    """Scaled rows, the scale of each covariate, and which rows say anything."""
    is_used = (exposure > 0) | (count > 0)
    design = jnp.where(is_used[:, None], design, 0)
    n_used = jnp.maximum(jnp.sum(is_used), 1)
    mean_square = jnp.sum(jax.lax.stop_gradient(design) ** 2, axis=0) / n_used
    scale = jnp.sqrt(jnp.where(mean_square > 0, mean_square, 1))
    offset = jnp.where(is_used, jnp.broadcast_to(jnp.asarray(offset, design.dtype), is_used.shape), 0)
    count = jnp.where(is_used, count, 0).astype(design.dtype)
    return _Rows(design / scale, count, exposure, offset, ridge / scale**2), scale, is_used


def _maximise(rows: _Rows, n_iterations: int) -> Float[Array, " covariate"]:
    """Newton's method from a constant rate; a step that lowers the objective is halved and tried again."""
    rounding = 10 * jnp.finfo(rows.design.dtype).eps

    def iterate(_: Int[Array, ""], state: tuple[Array, Array]) -> tuple[Array, Array]:
        coefficients, fraction = state
        direction = jnp.linalg.solve(rows.information(coefficients), rows.gradient(coefficients))
        trial = coefficients + fraction * direction
        value = rows.objective(coefficients)
        is_better = rows.objective(trial) >= value - rounding * (jnp.abs(value) + jnp.sum(rows.count))
        return jnp.where(is_better, trial, coefficients), jnp.where(is_better, 1.0, fraction / 2)

    start = (_constant_rate(rows), jnp.ones((), rows.design.dtype))
    return jax.lax.fori_loop(0, n_iterations, iterate, start)[0]


def _constant_rate(rows: _Rows) -> Float[Array, " covariate"]:
    """Coefficients nearest to a constant rate in exposure-weighted least squares."""
    seconds = rows.expected(jnp.zeros_like(rows.penalty))
    n_events, duration = jnp.sum(rows.count), jnp.sum(seconds)
    is_informed = (n_events > 0) & (duration > 0)
    log_rate = jnp.log(jnp.where(is_informed, n_events / jnp.where(duration > 0, duration, 1), 1))
    weighted = rows.design * (rows.exposure / jnp.where(is_informed, jnp.sum(rows.exposure), 1))[:, None]
    return jnp.linalg.solve(_regularised(weighted.T @ rows.design), log_rate * jnp.sum(weighted, axis=0))


def _regularised(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Adds a few rounding errors to the diagonal; the identity replaces a matrix of zeros."""
    size = jnp.trace(matrix)
    return matrix + jnp.where(size > 0, jnp.finfo(matrix.dtype).eps * size, 1) * jnp.eye(matrix.shape[0])


def _clustered_errors(
    inverse: Float[Array, "covariate covariate"],
    scores: Float[Array, "row covariate"],
    cluster: Int[Array, " row"],
    n_clusters: int,
    is_used: Bool[Array, " row"],
) -> Float[Array, " covariate"]:
    """Square roots of the sandwich's diagonal; NaN if a cluster is outside [0, n_clusters) or only one occurs."""
    summed = jax.ops.segment_sum(scores, cluster, n_clusters)
    occurs = jax.ops.segment_sum(is_used.astype(scores.dtype), cluster, n_clusters) > 0
    n_occurring = jnp.sum(occurs)
    is_valid = jnp.all(~is_used | ((cluster >= 0) & (cluster < n_clusters))) & (n_occurring > 1)
    factor = n_occurring / jnp.maximum(n_occurring - 1, 1)
    variance = factor * jnp.sum((summed @ inverse) ** 2, axis=0)
    positive = is_valid & (variance > 0)
    errors = jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1)), 0)
    return jnp.where(is_valid, errors, jnp.nan)


def _verdict(
    fit: IntensityFit,
    step: Float[Array, " covariate"],
    coefficients: Float[Array, " covariate"],
    information: Float[Array, "covariate covariate"],
) -> tuple[RESULTS, dict[str, Array]]:
    """A separated covariate moves by about 1 in every step for ever; collinear ones make the information singular."""
    eps = jnp.finfo(step.dtype).eps
    last_step = jnp.max(jnp.abs(step) / (1 + jnp.abs(coefficients)))
    eigenvalues = jnp.linalg.eigvalsh(jax.lax.stop_gradient(information))
    reciprocal_condition = eigenvalues[0] / eigenvalues[-1]
    is_settled = (last_step < eps**0.5) & (reciprocal_condition > 4 * eps * step.shape[0])
    is_finite = jnp.all(jnp.isfinite(fit.coefficients)) & jnp.isfinite(fit.log_likelihood)
    result = RESULTS.where(is_settled, RESULTS.successful, RESULTS.not_converged)
    result = RESULTS.where(is_finite, result, RESULTS.nonfinite)
    return result, {"last_step": last_step, "reciprocal_condition": reciprocal_condition}
