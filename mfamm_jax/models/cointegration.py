r"""Combinations of assets that stay put, scale by scale: (14) with the normalisation that it needs.

With $G_k$ the covariance of the assets' wavelet coefficients at scale $a_k$ and N the covariance of their increments per unit of time,

$$\beta^{(k)} = \arg\min_\beta \beta^\top G_k \beta \quad\text{s.t.}\quad \beta^\top N \beta = 1:$$

the smallest generalised eigenvector. As printed, without the constraint, $\beta = 0$ satisfies (14) for every $\epsilon$. $\epsilon$ itself,
a price squared, is replaced by the ratio $\rho_k$ of the smallest to the largest eigenvalue, which no choice of units changes:
$G \to A G A^\top$, $N \to A N A^\top$ leave the eigenvalues alone. For the same reason the null of no cointegration is one distribution
per number of assets, of rows and scales: that of independent random walks.

Source: docs/equations.md, (14).
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Inexact


class Cointegration(eqx.Module):
    """Eigenvalues and weights of one or several scales.

    Args:
        eigenvalues: Ascending; energy of each combination relative to its increments [time^2 for a price squared].
        weights: $(rank, asset)$ combinations of the smallest eigenvalues, each with $\\beta^\\top N \\beta = 1$.
    """

    eigenvalues: Float[Array, "*scale asset"]
    weights: Float[Array, "*scale rank asset"]

    @property
    def ratio(self) -> Float[Array, "*scale"]:
        """rho: smallest over largest eigenvalue, in (0, 1]; small = cointegrated at this scale."""
        return self.eigenvalues[..., 0] / self.eigenvalues[..., -1]


def cointegrate(
    scale_covariance: Float[Array, "*scale asset asset"],
    increment_covariance: Float[Array, "other other"],
    rank: int = 1,
) -> Cointegration:
    """The `rank` most mean-reverting combinations of every scale.

    Derivatives of the eigenvalues are exact, also where some are equal; weights carry none (single vectors have none near a
    degeneracy: differentiate `projector`).

    Args:
        scale_covariance: G [price^2 time].
        increment_covariance: N [price^2/time], positive definite.
        rank: How many combinations.
    """
    n = _check(scale_covariance, increment_covariance)
    if not 1 <= rank <= n:
        raise ValueError(f"rank is {rank}, expected 1 to {n}, the number of assets")
    values = generalised_eigenvalues(scale_covariance, increment_covariance)
    vectors = jax.lax.stop_gradient(_eigenpairs(scale_covariance, increment_covariance)[1])
    return Cointegration(values, jnp.swapaxes(vectors[..., :rank], -1, -2))


def common_vector(
    scale_covariance: Float[Array, "scale asset asset"],
    increment_covariance: Float[Array, "asset asset"],
    rank: int = 1,
) -> Cointegration:
    """One combination for all scales: that of the sum of G_k/lambda_max(G_k), which makes scales comparable."""
    largest = generalised_eigenvalues(scale_covariance, increment_covariance)[..., -1]
    total = jnp.sum(scale_covariance / largest[..., None, None], axis=-3)
    return cointegrate(total, increment_covariance, rank)


@jax.custom_jvp
def generalised_eigenvalues(matrix: Float[Array, "*b n n"], metric: Float[Array, "n n"]) -> Float[Array, "*b n"]:
    r"""Eigenvalues of $G v = \lambda N v$, ascending, by whitening with the Cholesky factor of N.

    $d\lambda = v^\top (dG - \lambda\,dN) v$, entries taken as independent: nothing blows up at equal eigenvalues.
    """
    return _eigenpairs(matrix, metric)[0]


@generalised_eigenvalues.defjvp
def _eigenvalues_jvp(primals: tuple, tangents: tuple) -> tuple:
    (matrix, metric), (d_matrix, d_metric) = primals, tangents
    values, vectors = _eigenpairs(matrix, metric)
    first = jnp.einsum("...ia,...ij,...ja->...a", vectors, d_matrix, vectors)
    second = jnp.einsum("...ia,ij,...ja->...a", vectors, d_metric, vectors)
    return values, first - values * second


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def projector(matrix: Float[Array, "*b n n"], metric: Float[Array, "n n"], rank: int) -> Float[Array, "*b n n"]:
    r"""$V V^\top N$ on the space of the `rank` smallest eigenvectors, whatever the choice of vectors within it.

    Its derivative divides by the gap between that space and the rest only.
    """
    vectors = _eigenpairs(matrix, metric)[1][..., :rank]
    return vectors @ jnp.swapaxes(vectors, -1, -2) @ metric


@projector.defjvp
def _projector_jvp(rank: int, primals: tuple, tangents: tuple) -> tuple:
    (matrix, metric), (d_matrix, d_metric) = primals, tangents
    values, vectors = _eigenpairs(matrix, metric)
    # In the eigenbasis, V' N V = 1: the change of G and N and what it mixes.
    first = jnp.einsum("...ia,...ij,...jb->...ab", vectors, d_matrix, vectors)
    second = jnp.einsum("...ia,ij,...jb->...ab", vectors, d_metric, vectors)
    inside = jnp.arange(values.shape[-1]) < rank
    across = inside[:, None] != inside[None, :]
    gap = jnp.where(across, values[..., None, :] - values[..., :, None], 1)
    # Column b of dV has the component ([dG]_ab - lambda_b [dN]_ab)/(lambda_b - lambda_a) along a.
    turn = jnp.where(across, (first - values[..., None, :] * second) / gap, 0)
    basis_change = _on(turn, inside) + jnp.swapaxes(_on(turn, inside), -1, -2) - _inside(second, inside)
    outer = vectors @ basis_change @ jnp.swapaxes(vectors, -1, -2)
    kept = vectors[..., :rank]
    p = kept @ jnp.swapaxes(kept, -1, -2)
    return p @ metric, outer @ metric + p @ d_metric


def _on(turn: Float[Array, "*b n n"], inside: Bool[Array, " n"]) -> Float[Array, "*b n n"]:
    """Columns of the kept space, rows of the rest."""
    return jnp.where(inside[None, :] & ~inside[:, None], turn, 0)


def _inside(x: Float[Array, "*b n n"], inside: Bool[Array, " n"]) -> Float[Array, "*b n n"]:
    return jnp.where(inside[None, :] & inside[:, None], x, 0)


def _eigenpairs(
    matrix: Float[Array, "*b n n"], metric: Float[Array, "n n"]
) -> tuple[Float[Array, "*b n"], Float[Array, "*b n n"]]:
    """Ascending eigenvalues; eigenvectors in columns, normalised in the metric. `eigh` knows no second matrix."""
    factor = jnp.linalg.cholesky(metric)
    inverse = jax.scipy.linalg.solve_triangular(factor, jnp.eye(metric.shape[-1], dtype=metric.dtype), lower=True)
    product = partial(jnp.matmul, precision="highest")
    white = product(product(inverse, matrix), inverse.T)
    values, vectors = jnp.linalg.eigh(0.5 * (white + jnp.swapaxes(white, -1, -2)))
    return values, product(inverse.T, vectors)


def _check(matrix: Array, metric: Array) -> int:
    """Shapes, and that N can be whitened; returns the number of assets."""
    n = metric.shape[-1]
    if metric.shape != (n, n) or matrix.shape[-2:] != (n, n) or n < 2:
        raise ValueError(
            f"scale covariance {matrix.shape} and increment covariance {metric.shape}: expected (..., n, n) and (n, n), n >= 2"
        )
    if isinstance(metric, jax.core.Tracer) or isinstance(matrix, jax.core.Tracer):
        return n
    for name, x in (("scale covariance", matrix), ("increment covariance", metric)):
        if not np.isfinite(x).all():
            raise ValueError(f"the {name} is not finite")
    spread = np.linalg.eigvalsh(np.asarray(metric, float))
    if not spread[0] > 1e-12 * spread[-1]:
        raise ValueError(
            f"the increment covariance is singular (eigenvalues {spread[0]:.3g} to {spread[-1]:.3g}): an asset that never moves, or one that "
            "is a combination of others, has no weight of its own; leave it out"
        )
    return n


def scale_covariance(
    coefficients: Inexact[Array, "scale asset position"], known: Bool[Array, "scale position"]
) -> Float[Array, "scale asset asset"]:
    """G_k: mean over the known positions of Re(w w^H), not centred.

    Args:
        coefficients: W of each asset.
        known: Positions outside the cone of influence.
    """
    weight = known / jnp.maximum(jnp.sum(known, axis=-1, keepdims=True), 1)
    weighted = coefficients * weight[:, None, :]
    return jnp.real(jnp.einsum("kit,kjt->kij", weighted, jnp.conj(coefficients), precision="highest"))


def increment_covariance(
    levels: Float[Array, "row asset"], time_step: Float[Array, ""] | float = 1.0
) -> Float[Array, "asset asset"]:
    """N: covariance of the increments (centred, divided by their number) per unit of time."""
    change = jnp.diff(levels, axis=0)
    change = change - jnp.mean(change, axis=0)
    return jnp.matmul(change.T, change, precision="highest") / change.shape[0] / time_step


def scaled_weights(weights: Float[Array, "*b asset"], unit: int | None = None) -> Float[Array, "*b asset"]:
    """Weights with one entry at +1: that of `unit`, or the one of largest modulus."""
    if unit is not None:
        return weights / weights[..., unit : unit + 1]
    largest = jnp.argmax(jnp.abs(weights), axis=-1, keepdims=True)
    return weights / jnp.take_along_axis(weights, largest, axis=-1)


def log_slope(energy: Float[Array, "*b scale"], scales: Float[Array, " scale"]) -> Float[Array, "*b"]:
    """Least-squares slope of log energy on log scale, 2d for a residual integrated d times: 2 = random walk, 0 = stationary."""
    x = jnp.log(scales) - jnp.mean(jnp.log(scales))
    return jnp.sum(x * jnp.log(energy), axis=-1) / jnp.sum(x**2)


def p_values(ratio: Float[Array, "*b scale"], null: Float[Array, "draw scale"]) -> Float[Array, "*b scale"]:
    """Share of draws without cointegration whose ratio is as small, counting the sample itself among them: never 0."""
    below = jnp.sum(null <= ratio[..., None, :], axis=-2)
    return (1 + below) / (1 + null.shape[0])


def adjusted_p_values(p: Float[Array, " test"], method: str = "holm") -> Float[Array, " test"]:
    """P-values for many tests at once.

    Args:
        p: Of each test.
        method: "holm": chance of a single false rejection, whatever the dependence [1]. "benjamini_hochberg": expected share of
            false ones among the rejections, for independent or positively dependent tests [2].

    Sources: [1] Holm (1979); [2] Benjamini & Hochberg (1995).
    """
    n = p.shape[0]
    order = jnp.argsort(p)
    rank = jnp.arange(1, n + 1)
    if method == "holm":
        stepped = jax.lax.cummax(p[order] * (n + 1 - rank))
    elif method == "benjamini_hochberg":
        stepped = jax.lax.cummin(p[order] * n / rank, reverse=True)
    else:
        raise ValueError(f'method is {method!r}, expected "holm" or "benjamini_hochberg"')
    return jnp.minimum(jnp.zeros_like(p).at[order].set(stepped), 1)
