"""What is assumed about the market."""

from mfamm_jax.models.arrivals import AbstractArrivals, HawkesArrivals, SeasonalArrivals
from mfamm_jax.models.boosted_trees import BoostedTrees, depth_table
from mfamm_jax.models.curves import (
    LogisticIntensity,
    PowerLawIntensity,
    SmoothIntensity,
    TabulatedIntensity,
    TriangularIntensity,
)
from mfamm_jax.models.intensity import AbstractIntensity, ExponentialIntensity, LogLinearScale, gate_factor
from mfamm_jax.models.mid_price import (
    AbstractMid,
    BinomialMid,
    BrownianMid,
    GeometricMid,
    JumpMid,
    MeanRevertingMid,
)

__all__ = [
    "AbstractArrivals",
    "AbstractIntensity",
    "AbstractMid",
    "BinomialMid",
    "BoostedTrees",
    "BrownianMid",
    "ExponentialIntensity",
    "GeometricMid",
    "HawkesArrivals",
    "JumpMid",
    "LogLinearScale",
    "LogisticIntensity",
    "MeanRevertingMid",
    "PowerLawIntensity",
    "SeasonalArrivals",
    "SmoothIntensity",
    "TabulatedIntensity",
    "TriangularIntensity",
    "depth_table",
    "gate_factor",
]
