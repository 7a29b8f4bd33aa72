r"""The Poincare ball of curvature -c: $|x| < 1/\sqrt c$ with the metric $\lambda_x^2 |dx|^2$, $\lambda_x = 2/(1 - c|x|^2)$ (16).

Maps are safe at their limits: tanh(x)/x and atanh(x)/x by series near 0, where |v| itself has no derivative, and points projected to
$|x| \le (1 - \epsilon)/\sqrt c$ with $\epsilon$ = 4e-3 in float32 and 1e-5 in float64, that is within a distance of 6.2 and 12.2 from the origin
for c = 1. (float32 numbers end at 17; distances lose their digits before.)

Beware of sources with $\lambda = 1/(1 - c|x|^2)$.

Source: docs/equations.md, (16); Ganea, Becigneul & Hofmann (2018); Ungar (2008) for the gyromidpoint.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

MARGIN = {"float32": 4e-3, "float64": 1e-5}

Point = Float[Array, "*#batch dim"]  # Arguments broadcast.
Curvature = Float[Array, ""] | float


def project(x: Point, curvature: Curvature) -> Point:
    """The point itself, or the nearest one that far from the edge; its derivative there is that of the projection."""
    largest = (1 - MARGIN[x.dtype.name]) / jnp.sqrt(jnp.asarray(curvature, x.dtype))
    square = jnp.sum(x**2, axis=-1, keepdims=True)
    outside = square > largest**2
    return jnp.where(outside, x * largest / jnp.sqrt(jnp.where(outside, square, 1)), x)


def conformal_factor(x: Point, curvature: Curvature) -> Float[Array, "*#batch"]:
    """lambda_x."""
    return 2 / (1 - curvature * jnp.sum(x**2, axis=-1))


def mobius_add(x: Point, y: Point, curvature: Curvature) -> Point:
    """$x \\oplus y$: not commutative; $(-x) \\oplus (x \\oplus y) = y$."""
    c = curvature
    xy = jnp.sum(x * y, axis=-1, keepdims=True)
    xx, yy = jnp.sum(x**2, axis=-1, keepdims=True), jnp.sum(y**2, axis=-1, keepdims=True)
    return ((1 + 2 * c * xy + c * yy) * x + (1 - c * xx) * y) / (1 + 2 * c * xy + c**2 * xx * yy)


def mobius_scale(factor: Float[Array, "*#batch"] | float, x: Point, curvature: Curvature) -> Point:
    """$r \\otimes x$: r times as far from the origin."""
    root = jnp.sqrt(jnp.asarray(curvature, x.dtype))
    length = _length(root * x)
    scaled = jnp.asarray(factor, x.dtype)[..., None] * atanh_over(length) * x
    return tanh_over(_length(root * scaled)) * scaled


def mobius_matvec(matrix: Float[Array, "out dim"], x: Point, curvature: Curvature) -> Float[Array, "*batch out"]:
    """$W \\otimes x = exp_0(W log_0 x)$."""
    return exp_origin(log_origin(x, curvature) @ matrix.T, curvature)


def distance(x: Point, y: Point, curvature: Curvature) -> Float[Array, "*#batch"]:
    """$(2/\\sqrt c)\\,\\mathrm{atanh}(\\sqrt c\\,|(-x) \\oplus y|)$; its derivative at x = y is taken as 0."""
    root = jnp.sqrt(jnp.asarray(curvature, x.dtype))
    return 2 / root * jnp.squeeze(_atanh(_length(root * mobius_add(-x, y, curvature))), -1)


def exp_origin(tangent: Point, curvature: Curvature) -> Point:
    """From the tangent space at 0 to the ball."""
    root = jnp.sqrt(jnp.asarray(curvature, tangent.dtype))
    return tanh_over(_length(root * tangent)) * tangent


def log_origin(x: Point, curvature: Curvature) -> Point:
    """Inverse of `exp_origin`."""
    root = jnp.sqrt(jnp.asarray(curvature, x.dtype))
    return atanh_over(_length(root * x)) * x


def exp_at(x: Point, tangent: Point, curvature: Curvature) -> Point:
    """Where the geodesic from x with this first velocity is after a unit of time."""
    half = 0.5 * conformal_factor(x, curvature)[..., None] * tangent
    return mobius_add(x, exp_origin(half, curvature), curvature)


def log_at(x: Point, y: Point, curvature: Curvature) -> Point:
    """Inverse of `exp_at`: first velocity of the geodesic from x to y."""
    across = log_origin(mobius_add(-x, y, curvature), curvature)
    return 2 * across / conformal_factor(x, curvature)[..., None]


def midpoint(
    points: Float[Array, "*batch point dim"], weights: Float[Array, "*batch point"], curvature: Curvature
) -> Float[Array, "*batch dim"]:
    r"""Gyromidpoint $\tfrac12 \otimes \frac{\sum w\lambda x}{\sum w(\lambda - 1)}$: moves with the isometries of the ball, as a mean should.

    Weights are positive.
    """
    factor = conformal_factor(points, curvature)
    total = jnp.sum((weights * factor)[..., None] * points, axis=-2)
    return mobius_scale(0.5, total / jnp.sum(weights * (factor - 1), axis=-1)[..., None], curvature)


def riemannian_gradient(x: Point, gradient: Point, curvature: Curvature) -> Point:
    r"""$\nabla/\lambda_x^2$: what an optimiser of points on the ball follows, by `exp_at`."""
    return gradient / conformal_factor(x, curvature)[..., None] ** 2


def check_points(points: Float[Array, "*batch dim"], curvature: Curvature) -> None:
    """Raises ValueError for concrete points outside the ball."""
    if isinstance(points, jax.core.Tracer) or isinstance(curvature, jax.core.Tracer):
        return
    if not float(curvature) > 0:
        raise ValueError(f"curvature is {float(curvature):g}, expected c > 0 (the ball has curvature -c)")
    lengths = np.sqrt(float(curvature)) * np.linalg.norm(np.asarray(points), axis=-1).ravel()
    if not (lengths < 1).all():
        row = int(np.flatnonzero(~(lengths < 1))[0])
        raise ValueError(
            f"point {row + 1} has sqrt(c)|x| = {lengths[row]:g}, expected < 1: it is not in the ball; use `project`"
        )


def _length(x: Array) -> Array:
    """|x| along the last axis, kept; 0 with derivative 0 at 0."""
    square = jnp.sum(x**2, axis=-1, keepdims=True)
    moved = square > 0
    return jnp.where(moved, jnp.sqrt(jnp.where(moved, square, 1)), 0)


def _small(x: Array) -> Array:
    return x < (0.02 if x.dtype == jnp.float64 else 0.1)


def tanh_over(x: Array) -> Array:
    """tanh(x)/x for x >= 0."""
    near, square = jnp.where(_small(x), 1.0, x), jnp.where(_small(x), x, 0) ** 2
    series = 1 - square * (1 / 3 - square * (2 / 15 - square * (17 / 315 - square * 62 / 2835)))
    return jnp.where(_small(x), series, jnp.tanh(near) / near)


def _atanh(x: Array) -> Array:
    """atanh up to the last number below 1."""
    return jnp.arctanh(jnp.minimum(x, 1 - jnp.finfo(x.dtype).epsneg))


def atanh_over(x: Array) -> Array:
    """atanh(x)/x for 0 <= x < 1."""
    near, square = jnp.where(_small(x), 0.5, x), jnp.where(_small(x), x, 0) ** 2
    series = 1 + square * (1 / 3 + square * (1 / 5 + square * (1 / 7 + square / 9)))
    return jnp.where(_small(x), series, _atanh(near) / near)
