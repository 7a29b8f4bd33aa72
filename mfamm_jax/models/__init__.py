"""What is assumed about the market."""

from mfamm_jax.models.intensity import AbstractIntensity, ExponentialIntensity, LogLinearScale

__all__ = ["AbstractIntensity", "ExponentialIntensity", "LogLinearScale"]
