r"""Calibration of (3) by (11) on the training part: covariate coefficients per side and the decay with depth."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfamm_jax.experiments.observe import IntensityRows
from mfamm_jax.features import BOOK_FEATURES
from mfamm_jax.fields import Checked, in_precision, static_field
from mfamm_jax.market.events import DataError
from mfamm_jax.models.intensity import LogLinearScale
from mfamm_jax.results import RESULTS, Solution
from mfamm_jax.solvers.likelihood import IntensityFit, fit_poisson
from mfamm_jax.solvers.reach import fit_reach
from mfamm_jax.solvers.residuals import GoodnessOfFit, goodness_of_fit

# Both sides have the same shapes: one compilation serves them.
_fit_poisson = jax.jit(fit_poisson, static_argnames=("n_iterations", "n_clusters"))
_fit_reach, _goodness_of_fit = jax.jit(fit_reach), jax.jit(goodness_of_fit)

COVARIATES = ("intercept", *BOOK_FEATURES, "vpin", "imbalance")


class Calibration(Checked):
    r"""How the intensity $\lambda^s(\delta) = e^{\beta^s x - k^s \delta}$ is estimated.

    `decay_from`: "touch" - jointly with the coefficients, from how arrivals react to the half spread (exact for (3));
    "reach" - from how far orders walk beyond the touch; "mid" - from how far they walk from the mid, which assumes no extra
    orders for quotes inside the spread (conservative, and the usual choice on small-tick stocks).
    """

    kind: Literal["exponential"] = static_field(default="exponential", source="(3)", help="fill curve")
    decay_from: Literal["touch", "reach", "mid"] = static_field(
        default="touch", source="(3), (11)", help="what identifies the decay with depth"
    )
    common_decay: bool = static_field(default=True, help="one decay for both sides (allows the linear HJB schemes)")
    ridge: float = static_field(
        default=1e-2, lower=0.0, source="(11)", help="penalty that keeps idle covariates finite"
    )


class SideFit(eqx.Module):
    """One side's fit.

    Args:
        scale: Covariate model of the log fill rate at the mid.
        decay: k used [1/price].
        own_decay, own_decay_error: This side's own estimate.
        fit: Coefficients in the order of `COVARIATES` with errors; the last one is -half spread when `decay_from = "touch"`.
        goodness: Time-rescaling residuals.
    """

    scale: LogLinearScale
    decay: Float[Array, ""]
    own_decay: Float[Array, ""]
    own_decay_error: Float[Array, ""]
    fit: IntensityFit
    goodness: GoodnessOfFit


def calibrate_sides(rows: IntensityRows, calibration: Calibration) -> tuple[SideFit, SideFit]:
    """Bid and ask fits: sellers' orders fill bids, buyers' orders fill asks."""
    sides = _sides(rows)
    own = {name: _own_decay(rows, calibration, count, sign, name) for name, (count, sign) in sides.items()}
    decays = {name: value for name, (value, _) in own.items()}
    if calibration.common_decay:
        decays = dict.fromkeys(own, _common(own))
    bid, ask = (_side(rows, calibration, sides[name][0], decays[name], own[name], name) for name in ("bid", "ask"))
    return bid, ask


def common_decay(rows: IntensityRows, calibration: Calibration) -> Float[Array, ""]:
    """Decay with depth, one for both sides [1/price]."""
    return _common({name: _own_decay(rows, calibration, *side, name) for name, side in _sides(rows).items()})


def _sides(rows: IntensityRows) -> dict[str, tuple[np.ndarray, int]]:
    return {"bid": (rows.sells, -1), "ask": (rows.buys, 1)}


def _common(own: dict[str, tuple[Float[Array, ""], Float[Array, ""]]]) -> Float[Array, ""]:
    """Weighted by the inverse variances."""
    decays, errors = (jnp.stack(x) for x in zip(*own.values()))
    return jnp.sum(decays / errors**2) / jnp.sum(1 / errors**2)


def _poisson(rows: IntensityRows, calibration: Calibration, design, count, offset, side: str) -> IntensityFit:
    if count.sum() == 0:
        raise DataError(f"no marketable order fills the {side} in the training part; use a longer session")
    solution: Solution = _fit_poisson(
        in_precision(design),
        in_precision(count),
        in_precision(rows.exposure),
        ridge=calibration.ridge,
        offset=in_precision(offset),
        cluster=jnp.asarray(rows.minute.astype(np.int32)),
        n_clusters=int(rows.minute.max()) + 1,
    )
    if not bool(solution.result == RESULTS.successful):
        reason = RESULTS[solution.result]  # pyrefly: ignore
        raise DataError(f"fit of the {side} intensity (11): {reason}")
    return solution.value


def _design(rows: IntensityRows) -> np.ndarray:
    return np.column_stack([np.ones(len(rows.exposure)), rows.covariates])


def _own_decay(
    rows: IntensityRows, calibration: Calibration, count: np.ndarray, sign: int, side: str
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Decay of one side and its standard error [1/price]."""
    if calibration.decay_from == "touch":
        design = np.column_stack([_design(rows), -rows.half_spread])
        fit = _poisson(rows, calibration, design, count, np.zeros(len(count)), side)
        decay, error = fit.coefficients[-1], fit.standard_errors[-1]
    else:
        lower, upper = (
            (rows.lower, rows.upper) if calibration.decay_from == "reach" else (rows.lower_mid, rows.upper_mid)
        )
        mine = rows.aggressor == sign
        solution = _fit_reach(in_precision(lower[mine]), in_precision(upper[mine]))
        decay, error = solution.value.decay, solution.value.standard_error
    if not float(decay) > 0 or not np.isfinite(float(error)):
        raise DataError(
            f"the {side} side's decay with depth comes out as {float(decay):.3g} +- {float(error):.3g} per price unit, "
            f'expected > 0; use intensity.decay_from = "mid" or a longer session'
        )
    return decay, error


def _side(rows: IntensityRows, calibration: Calibration, count: np.ndarray, decay, own, side: str) -> SideFit:
    """Refits the coefficients with the decay held fixed."""
    # Measured from the mid, an order that reaches the touch counts for every quote nearer to the mid.
    offset = np.zeros(len(count)) if calibration.decay_from == "mid" else -float(decay) * rows.half_spread
    fit = _poisson(rows, calibration, _design(rows), count, offset, side)
    beta = fit.coefficients
    intensity = jnp.exp(in_precision(_design(rows)) @ beta + in_precision(offset))
    goodness = _goodness_of_fit(intensity, in_precision(rows.exposure), in_precision(count))
    scale = LogLinearScale(beta[0], beta[1:7], beta[7], beta[8])
    return SideFit(scale, decay, own[0], own[1], fit, goodness)
