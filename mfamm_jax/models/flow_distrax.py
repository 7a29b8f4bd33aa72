"""Loss flows as distrax distributions and back; the only file that imports distrax (extra `full`).

A `LossFlow` is `distrax.Transformed` of a Student's t by a bijector that distrax may chain with its own. A spline that distrax made or trained
(`RationalQuadraticSpline` with boundary slopes "identity" on a symmetric interval) becomes a layer.
"""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfamm_jax.models import student_t
from mfamm_jax.models.loss_flow import LossFlow
from mfamm_jax.models.spline import SMALLEST, Spline

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TensorFlow Probability, about JAX
        import distrax
except ImportError as error:
    raise ValueError('distrax interoperation needs an extra package: pip install "mfamm-jax[full]"') from error


class StudentT(distrax.Distribution):
    """Standard Student's t, which distrax lacks."""

    def __init__(self, degrees_of_freedom: Float[Array, ""]) -> None:
        """Takes the degrees of freedom, above 0."""
        self.degrees_of_freedom = degrees_of_freedom

    @property
    def event_shape(self) -> tuple[int, ...]:
        """A scalar."""
        return ()

    def _sample_n(self, key: Any, n: int) -> Array:
        return student_t.sample(key, self.degrees_of_freedom, n)

    def log_prob(self, value: Any) -> Array:
        """Log density."""
        return student_t.log_density(value, self.degrees_of_freedom)


class FlowBijector(distrax.Bijector):
    """T of a `LossFlow`: from the base to losses."""

    def __init__(self, flow: LossFlow) -> None:
        """Takes the flow; its base is left out."""
        super().__init__(event_ndims_in=0)
        self.flow = flow

    def forward_and_log_det(self, x: Any) -> tuple[Array, Array]:
        """Losses and log T'."""
        return self.flow.from_base(x)

    def inverse_and_log_det(self, y: Any) -> tuple[Array, Array]:
        """Base and minus log T'."""
        return self.flow.to_base(y)


def as_distrax(flow: LossFlow) -> distrax.Transformed:
    """The law as distrax has it."""
    return distrax.Transformed(StudentT(flow.degrees_of_freedom), FlowBijector(flow))


def spline_as_distrax(layer: Spline) -> distrax.RationalQuadraticSpline:
    """One layer, without leading axes, as distrax's spline."""
    inner = SMALLEST + jax.nn.softplus(layer.slopes + jnp.log(jnp.expm1(1 - SMALLEST)))
    numbers = jnp.concatenate([layer.widths, layer.heights, _raw_slopes(jnp.pad(inner, 1, constant_values=1.0))])
    return distrax.RationalQuadraticSpline(
        numbers,
        -layer.bound,
        layer.bound,
        boundary_slopes="identity",
        min_bin_size=2 * layer.bound * SMALLEST,
        min_knot_slope=SMALLEST,
    )


def _raw_slopes(slopes: Array) -> Array:
    """distrax's numbers for slopes: softplus(raw + offset) + smallest, 1 at raw = 0."""
    return jnp.log(jnp.expm1(slopes - SMALLEST)) - jnp.log(jnp.expm1(1 - SMALLEST))


def spline_from_distrax(spline: distrax.RationalQuadraticSpline) -> Spline:
    """One layer with the same knots and slopes.

    Raises:
        ValueError: An interval that is not symmetric or slopes at its ends other than 1: beyond them it is not the identity.
    """
    x, y, slopes = (jnp.asarray(part) for part in (spline.x_pos, spline.y_pos, spline.knot_slopes))
    ends = jnp.stack([x[0] + x[-1], y[0] + y[-1], x[-1] - y[-1], slopes[0] - 1, slopes[-1] - 1])
    if not bool(jnp.all(jnp.abs(ends) < 1e-5)):
        raise ValueError(
            f"the spline maps [{float(x[0]):g}, {float(x[-1]):g}] to [{float(y[0]):g}, {float(y[-1]):g}] with end slopes {float(slopes[0]):g} and "
            f'{float(slopes[-1]):g}: expected one symmetric interval and slopes 1 (boundary_slopes="identity")'
        )
    bound, n = float(x[-1]), x.shape[0] - 1

    def raw(positions: Array) -> Array:
        shares = jnp.diff(positions) / (2 * bound)
        return jnp.log((shares - SMALLEST) / (1 - n * SMALLEST))

    return Spline(raw(x), raw(y), _raw_slopes(slopes[1:-1]), bound)
