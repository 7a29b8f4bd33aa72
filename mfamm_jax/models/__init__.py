"""What is assumed about the market."""

from mfamm_jax.models.curves import LogisticIntensity, PowerLawIntensity, SmoothIntensity, TabulatedIntensity
from mfamm_jax.models.intensity import AbstractIntensity, ExponentialIntensity, LogLinearScale, gate_factor

__all__ = [
    "AbstractIntensity",
    "ExponentialIntensity",
    "LogLinearScale",
    "LogisticIntensity",
    "PowerLawIntensity",
    "SmoothIntensity",
    "TabulatedIntensity",
    "gate_factor",
]
