import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import pywt
import scipy.stats

from mfamm_jax.features.wavelet_bank import (
    WaveletVariance,
    decimated_transform,
    inverse_decimated,
    inverse_undecimated,
    level_width,
    scaling_exponent,
    undecimated_transform,
    wavelet_filters,
    wavelet_variance,
)

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads

NAMES = ("haar", "db4", "sym5", "coif2")


def series(n=256, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(n))


@pytest.mark.parametrize("name", NAMES)
def test_filters_are_orthonormal(name):
    filters = wavelet_filters(name)
    h, g = np.asarray(filters.wavelet), np.asarray(filters.scaling)
    assert_close(h.sum(), 0.0, 1e-9)
    assert_close(g.sum(), np.sqrt(2), 1e-9)
    for shift in range(0, len(h), 2):
        expected = float(shift == 0)
        assert_close(np.sum(h[shift:] * h[: len(h) - shift]), expected, 1e-9)
        assert_close(np.sum(g[shift:] * g[: len(g) - shift]), expected, 1e-9)


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_coefficients_are_those_of_the_recursion(precision):
    with jax.enable_x64(precision == "float64"):
        filters, x = wavelet_filters("db4"), jnp.asarray(series(128), jnp.result_type(float))
        found = undecimated_transform(x, filters, 3)
        smooth = np.asarray(x, float)
        for level in range(3):
            lags = 2**level * np.arange(len(filters.wavelet))
            rows = (np.arange(128)[:, None] - lags) % 128
            detail = smooth[rows] @ np.asarray(filters.wavelet, float) / np.sqrt(2)
            smooth = smooth[rows] @ np.asarray(filters.scaling, float) / np.sqrt(2)
            assert_close(found.details[level], detail, 1e-12, 1e-6)
        assert_close(found.smooth, smooth, 1e-12, 1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_energy_and_series_come_back(name):
    filters, x = wavelet_filters(name), series()
    found = undecimated_transform(x, filters, 4)
    assert_close(jnp.sum(found.details**2) + jnp.sum(found.smooth**2), jnp.sum(x**2), 1e-8)
    assert_close(inverse_undecimated(found, filters), x, 1e-8)
    parts = decimated_transform(x, filters, 4)
    assert_close(sum(jnp.sum(p**2) for p in parts), jnp.sum(x**2), 1e-8)
    assert_close(inverse_decimated(parts, filters), x, 1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_levels_are_pywavelets_up_to_where_they_start(name):
    """PyWavelets centres its periodic filters: equal sets of numbers, turned around the circle."""
    filters, x = wavelet_filters(name), series(64)
    found = undecimated_transform(x, filters, 2)
    for level, (_, detail) in enumerate(reversed(pywt.swt(np.array(x), name, 2, norm=True))):
        theirs = np.asarray(detail)
        turned = [np.abs(np.roll(theirs, k) - np.asarray(found.details[level])).max() for k in range(64)]
        assert min(turned) < 1e-9
    parts = decimated_transform(x, filters, 2)
    theirs = pywt.wavedec(np.array(x), name, "periodization", 2)[::-1]
    odd = [np.abs(np.roll(theirs[0], k) - np.asarray(parts[0])).max() for k in range(32)]
    even = decimated_transform(jnp.roll(x, 1), filters, 2)
    shifted = [np.abs(np.roll(theirs[0], k) - np.asarray(even[0])).max() for k in range(32)]
    assert min(odd + shifted) < 1e-9


def test_a_coefficient_knows_only_the_past():
    filters, x = wavelet_filters("db4"), series()
    found, later = (undecimated_transform(v, filters, 3) for v in (x, x.at[150:].add(5.0)))
    known = np.asarray(found.known)
    for level in range(3):
        before = known[level] & (np.arange(256) < 150)
        assert before.sum() == 150 - level_width(filters, level + 1) + 1
        np.testing.assert_array_equal(found.details[level][before], later.details[level][before])
    early = undecimated_transform(x.at[255].add(5.0), filters, 3)
    np.testing.assert_array_equal(early.details[:, :255][:, known[2][:255]], found.details[:, :255][:, known[2][:255]])


def test_variances_of_white_noise_halve_and_intervals_cover():
    filters = wavelet_filters("haar")
    draws = jnp.asarray(np.random.default_rng(1).standard_normal((400, 1024)))
    found = wavelet_variance(jax.jit(lambda x: undecimated_transform(x, filters, 5))(draws))
    expected = 0.5 ** np.arange(1, 6)
    assert_close(jnp.mean(found.variance, axis=0) / expected, np.ones(5), 0.03)  # standard error of level 5: 1 %
    inside = np.mean((np.asarray(found.low) < expected) & (np.asarray(found.high) > expected), axis=0)
    assert (inside > 0.9).all()  # 95 % or more: the degrees of freedom are those of a wide band


def test_chi_square_quantiles_are_scipys():
    count = np.array([[True] * 64, [True] * 64, [True] * 64])
    levels = undecimated_transform(series(64), wavelet_filters("haar"), 3)
    found = wavelet_variance(type(levels)(levels.details, levels.smooth, jnp.asarray(count)))
    for ratio, p in ((found.variance / found.low, 0.975), (found.variance / found.high, 0.025)):
        exact = scipy.stats.chi2.ppf(p, np.asarray(found.freedom)) / np.asarray(found.freedom)
        assert_close(ratio, exact, 0.01)


@pytest.mark.thorough
@pytest.mark.parametrize(("integrate", "slope"), [(0, -1.0), (1, 1.0)])
def test_slopes_of_noise_and_of_its_sum(integrate, slope):
    x = np.random.default_rng(2).standard_normal((100, 4096))
    x = np.cumsum(x, axis=1) if integrate else x
    filters = wavelet_filters("db4")
    levels = jax.jit(lambda v: undecimated_transform(v, filters, 7))(jnp.asarray(x))
    found = scaling_exponent(wavelet_variance(levels), first_level=3)
    assert abs(float(jnp.mean(found.slope)) - slope) < 0.03
    assert_close(found.memory, (found.slope + 1) / 2)
    assert 0.6 < float(jnp.mean(found.error)) / float(jnp.std(found.slope)) < 1.7


def test_a_power_law_has_its_exponent():
    freedom = jnp.full(6, 1e9)
    variance = 3.0 * 2.0 ** (0.7 * jnp.arange(6.0))
    found = scaling_exponent(WaveletVariance(variance, variance, variance, freedom), 1)
    assert_close(found.slope, 0.7, 1e-6)


@pytest.mark.thorough
def test_gradients_and_jit_vmap_loop():
    filters = wavelet_filters("haar")

    def energy(x):
        return jnp.sum(wavelet_variance(undecimated_transform(jnp.asarray(x), filters, 3)).variance)

    check_grads(energy, (series(32),), order=1, modes=["fwd", "rev"])
    assert_jit_vmap_loop_agree(lambda x: undecimated_transform(x, filters, 3).details, series(160).reshape(5, 32))
    assert_jit_vmap_loop_agree(lambda x: decimated_transform(x, filters, 3), series(160).reshape(5, 32))


def test_what_does_not_fit_is_said(monkeypatch):
    filters = wavelet_filters("db4")
    with pytest.raises(ValueError, match="its filter has 218 taps"):
        undecimated_transform(series(200), filters, 5)
    with pytest.raises(ValueError, match=r"100 rows: expected a multiple of 2\^n_levels = 8"):
        decimated_transform(series(100), filters, 3)
    with pytest.raises(ValueError, match=r"wavelet 'bior2\.2': expected one of haar"):
        wavelet_filters("bior2.2")
    monkeypatch.setitem(sys.modules, "pywt", None)
    with pytest.raises(ValueError, match=r'pip install "mfamm-jax\[full\]"'):
        wavelet_filters()
