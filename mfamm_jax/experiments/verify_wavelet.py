"""Reference cases of the wavelet transform (13) and of multi-scale cointegration (14)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mfamm_jax.features.wavelet import (
    AbstractWavelet,
    DerivativeOfGaussian,
    Morlet,
    mexican_hat_energy,
    outside_cone,
    wavelet_transform,
)
from mfamm_jax.fields import in_precision
from mfamm_jax.models.cointegration import (
    cointegrate,
    generalised_eigenvalues,
    increment_covariance,
    log_slope,
    scale_covariance,
    scaled_weights,
)

Answer = tuple[dict[str, Any], bool]


def _signal(signal: dict[str, Any], times: np.ndarray) -> np.ndarray:
    if signal["form"] == "gaussian_pulse":
        return signal["amplitude"] * np.exp(-((times - signal["center"]) ** 2) / (2 * signal["width"] ** 2))
    if signal["form"] == "cosine":
        return signal["amplitude"] * np.cos(signal["angular_frequency"] * times + signal["phase"])
    return np.polynomial.polynomial.polyval(times, signal["coefficients"])


def _wavelet(inputs: dict[str, Any]) -> AbstractWavelet:
    return DerivativeOfGaussian() if inputs["wavelet"] == "mexican_hat" else Morlet(inputs["central_frequency"])


def transform(inputs: dict[str, Any], steps: int) -> Answer:
    """`wavelet_of_gaussian_pulse`, `wavelet_of_cosine`, `wavelet_of_polynomial`: W at the case's scales and positions."""
    grid, wavelet = inputs["sample_grid"], _wavelet(inputs)
    times = grid["start_time"] + grid["time_step"] * np.arange(grid["n_samples"])
    scales = in_precision(inputs["scales"])
    found = wavelet_transform(in_precision(_signal(inputs["signal"], times)), scales, wavelet, grid["time_step"])
    at = np.rint((np.asarray(inputs["positions"]) - grid["start_time"]) / grid["time_step"]).astype(int)
    coefficient = found[:, at]
    numbers = {"coefficient": coefficient, "real": jnp.real(coefficient), "imag": jnp.imag(coefficient)}
    numbers["modulus"] = jnp.abs(coefficient)
    if inputs["signal"]["form"] == "cosine":
        numbers["ridge_scale"] = wavelet.ridge_scale(in_precision(inputs["signal"]["angular_frequency"]))
    return numbers, True


def energy(inputs: dict[str, Any], steps: int) -> Answer:
    """`wavelet_energy`."""
    rate = 1.0 if inputs["mean_reversion_rate"] is None else inputs["mean_reversion_rate"]
    found = mexican_hat_energy(in_precision(inputs["scales"]), inputs["process"], inputs["volatility"], rate)
    return {"energy": found}, True


def population(inputs: dict[str, Any], steps: int) -> Answer:
    """`population_cointegration`."""
    matrix, metric = in_precision(inputs["scale_covariance"]), in_precision(inputs["increment_covariance"])
    found = cointegrate(matrix, metric)
    slopes = jax.grad(lambda g, n: generalised_eigenvalues(g, n)[0], argnums=(0, 1))(matrix, metric)
    return {
        "eigenvalues": found.eigenvalues,
        "ratio": found.ratio,
        "cointegration_weights": scaled_weights(found.weights[0]),
        "gradient_scale_covariance": slopes[0],
        "gradient_increment_covariance": slopes[1],
    }, True


def sample(inputs: dict[str, Any], steps: int) -> Answer:
    """`sample_cointegration`: three generated assets."""
    draws = np.random.default_rng(inputs["seed"]).standard_normal((inputs["n_samples"], 3))
    walk, residual = np.cumsum(draws[:, 0]), np.zeros(inputs["n_samples"])
    for t in range(1, inputs["n_samples"]):
        residual[t] = inputs["autoregression"] * residual[t - 1] + inputs["noise_scale"] * draws[t, 1]
    levels = np.column_stack([walk, inputs["loading"] * walk + residual, np.cumsum(draws[:, 2])])
    scales = in_precision(inputs["scales"])
    coefficients = wavelet_transform(in_precision((levels - levels.mean(axis=0)).T), scales)
    known = outside_cone(len(levels), scales, multiple=float(inputs["edge_multiple"]))
    metric = increment_covariance(in_precision(levels))
    found = cointegrate(scale_covariance(jnp.swapaxes(coefficients, 0, 1), known), metric)
    return {
        "first_row": levels[0],
        "last_row": levels[-1],
        "increment_covariance": metric,
        "smallest_eigenvalue": found.eigenvalues[:, 0],
        "largest_eigenvalue": found.eigenvalues[:, -1],
        "cointegration_weights": scaled_weights(found.weights[:, 0]),
        "log_slope": log_slope(found.eigenvalues[:, 0], scales),
    }, True


WAVELET_KINDS: dict[str, Callable[[dict[str, Any], int], Answer]] = {
    "wavelet_of_gaussian_pulse": transform,
    "wavelet_of_cosine": transform,
    "wavelet_of_polynomial": transform,
    "wavelet_energy": energy,
    "population_cointegration": population,
    "sample_cointegration": sample,
}
