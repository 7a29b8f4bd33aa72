import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from mfamm_jax.features.wavelet import (
    DerivativeOfGaussian,
    Morlet,
    _fast_length,
    mexican_hat_energy,
    outside_cone,
    wavelet_transform,
)

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads

C = 2 / (np.sqrt(3) * np.pi**0.25)


def hat(t):
    return C * (1 - t**2) * np.exp(-(t**2) / 2)


def slope_of_gaussian(t):
    return -t * np.exp(-(t**2) / 2) / np.sqrt(np.sqrt(np.pi) / 2)  # (-1)^2 d/dt exp(-t^2/2), unit energy


def morlet(t):
    return np.pi**-0.25 * np.exp(6j * t - t**2 / 2)


def directly(series, scales, psi, step):
    """The sum that the integral of (13) becomes on samples, with nothing beyond the ends."""
    t = step * np.arange(len(series))
    return np.array(
        [[np.sum(series * np.conj(psi((t - b) / a))) * step / np.sqrt(a) for b in t] for a in np.asarray(scales)]
    )


def series(n=150, seed=0):
    return np.random.default_rng(seed).standard_normal(n)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize(
    ("make", "psi"),
    [(DerivativeOfGaussian, hat), (lambda: DerivativeOfGaussian(1), slope_of_gaussian), (Morlet, morlet)],
)
def test_the_transform_is_the_direct_sum(make, psi, precision):
    """Scales of three steps and more: there the wavelet's spectrum ends before the Nyquist frequency, to 1e-12 (Morlet: from 5)."""
    with jax.enable_x64(precision == "float64"):
        x, scales = series(), jnp.array([2.5, 4.0, 9.0])
        got = wavelet_transform(jnp.asarray(x, jnp.result_type(float)), scales, make(), 0.5)
        assert_close(got, directly(x, scales, psi, 0.5), 1e-9, 2e-5)


def test_wavelets_have_unit_energy_and_their_spectra_are_transforms():
    for wavelet, psi in (
        (DerivativeOfGaussian(), hat),
        (DerivativeOfGaussian(1), slope_of_gaussian),
        (Morlet(), morlet),
    ):
        assert_close(quad(lambda t, p=psi: abs(p(t)) ** 2, -12, 12)[0], 1.0, 1e-9)
        for w in (0.3, 1.0, 5.0):
            real = quad(lambda t, p=psi, w=w: np.real(p(t) * np.exp(-1j * w * t)), -12, 12, limit=200)[0]
            imag = quad(lambda t, p=psi, w=w: np.imag(p(t) * np.exp(-1j * w * t)), -12, 12, limit=200)[0]
            assert_close(wavelet.response(jnp.asarray(w)), real + 1j * imag, 1e-8)


def test_the_ridge_of_a_cosine_is_where_theory_has_it():
    t = 0.1 * np.arange(4000)
    for wavelet in (DerivativeOfGaussian(), DerivativeOfGaussian(4), Morlet()):
        expected = float(wavelet.ridge_scale(jnp.asarray(0.9)))
        scales = jnp.asarray(expected * np.linspace(0.9, 1.1, 201))
        found = wavelet_transform(jnp.asarray(np.cos(0.9 * t)), scales, wavelet, 0.1)
        energy = np.mean(np.abs(np.asarray(found)[:, 1000:3000]) ** 2, axis=1)
        assert abs(float(scales[np.argmax(energy)]) / expected - 1) < 2e-3


def test_trends_vanish_and_a_symmetric_wavelet_sees_the_future():
    t = np.arange(400.0)
    found = wavelet_transform(jnp.asarray(3 + 0.2 * t), jnp.array([4.0, 8.0]))
    known = np.asarray(outside_cone(400, jnp.array([4.0, 8.0]), multiple=8.0))
    assert np.abs(np.asarray(found)[known]).max() < 1e-10
    x = series(400)
    y = x.copy()
    y[200:] += 10.0
    one, two = (np.asarray(wavelet_transform(jnp.asarray(v), jnp.array([8.0]))) for v in (x, y))
    # Trading on it would be looking ahead: coefficients before the change differ.
    assert np.abs(one - two)[0, 190] > 1.0


def test_reflection_extends_a_random_walk_where_zeros_tear_it():
    walk = 50 + np.cumsum(series(600))
    scales = jnp.array([4.0])
    torn, whole = (wavelet_transform(jnp.asarray(walk), scales, edge=edge) for edge in ("zero", "reflect"))
    assert np.abs(torn[0, :3]).max() > 5 * np.abs(whole[0, :3]).max()
    assert_close(torn[0, 100:500], whole[0, 100:500], 1e-10)
    twice = np.concatenate([walk[1:21][::-1], walk, walk[-21:-1][::-1]])  # 5 scales
    assert_close(whole[0], directly(twice, scales, hat, 1.0)[0, 20:-20], 1e-10)


def test_energies_of_simulated_processes_are_those_of_theory():
    n, scales = 8192, jnp.array([4.0, 8.0, 16.0, 32.0])
    rng = np.random.default_rng(5)
    rate, volatility = 0.1, 0.7
    noise = rng.standard_normal((40, n))
    walk = np.cumsum(noise, axis=1)
    reverting, decay = np.zeros((40, n)), np.exp(-rate)
    for i in range(1, n):
        reverting[:, i] = decay * reverting[:, i - 1] + volatility * np.sqrt((1 - decay**2) / (2 * rate)) * noise[:, i]
    for x, process in ((noise, "white_noise"), (walk, "brownian"), (reverting, "ornstein_uhlenbeck")):
        found = np.asarray(wavelet_transform(jnp.asarray(x - x.mean(axis=1, keepdims=True)), scales))[:, :, 600:-600]
        energy = np.mean(found**2, axis=2)
        expected = mexican_hat_energy(scales, process, volatility if process[0] == "o" else 1.0, rate)
        error = energy.std(axis=0) / np.sqrt(40)
        # Sampling adds the walk's steps, below 1/a^2 of it at these scales.
        allowed = 5 * error + np.asarray(expected) / np.asarray(scales) ** 2
        assert (np.abs(energy.mean(axis=0) - expected) < allowed).all(), process


def test_ornstein_uhlenbeck_energy_is_the_integral_at_every_rate():
    for k in (0.01, 0.5, 1.9, 2.1, 10.0, 300.0):
        integral = quad(lambda x, k=k: x**4 * np.exp(-(x**2)) / (x**2 + k**2), 0, 12, points=(min(k, 5.0),))[0]
        expected = 2 * C**2 * 4.0 * 0.49 * integral
        assert_close(mexican_hat_energy(jnp.asarray(2.0), "ornstein_uhlenbeck", 0.7, k / 2.0), expected, 1e-9)
    with pytest.raises((ValueError, TypeError), match="white_noise"):
        mexican_hat_energy(jnp.asarray(1.0), "pink")


@pytest.mark.thorough
def test_gradients_and_jit_vmap_loop():
    scales = jnp.array([3.0, 6.0])

    def energy(x):
        return jnp.mean(wavelet_transform(jnp.asarray(x), scales) ** 2)

    check_grads(energy, (jnp.asarray(series(60)),), order=1, modes=["fwd", "rev"])
    check_grads(
        lambda s: jnp.sum(
            jnp.abs(wavelet_transform(jnp.asarray(series(60)), jnp.asarray(s), Morlet(), n_padding=80)) ** 2
        ),
        (scales,),
        order=1,
        modes=["rev"],
    )
    assert_jit_vmap_loop_agree(lambda x: wavelet_transform(x, scales), jnp.asarray(series(300).reshape(5, 60)))


def test_fast_lengths_have_small_factors_and_are_the_next_ones():
    smooth = sorted(2**a * 3**b * 5**c for a in range(14) for b in range(9) for c in range(6))
    for n in (*range(1, 400), 1025, 4097, 7777):
        assert _fast_length(n) == min(m for m in smooth if m >= n)


def test_rows_near_the_ends_are_inside_the_cone():
    known = np.asarray(outside_cone(101, jnp.array([2.0, 10.0]), 0.5, 4.0))
    assert known[0].sum() == 101 - 2 * 16
    assert known[1].sum() == 0  # 40 time units from both ends of 50


def test_what_cannot_be_transformed_is_said():
    x = jnp.asarray(series())
    for scales, text in (
        ([1.0, 4.0], "below two steps"),
        ([4.0, 3.0], "rising list"),
        ([4.0, np.nan], "rising list"),
        ([4.0, 100.0], r"150 rows of 1 cannot hold the scale 100: expected at least 200"),
    ):
        with pytest.raises(ValueError, match=text):
            wavelet_transform(x, jnp.asarray(scales))
    with pytest.raises(ValueError, match="row 7 of the series is not finite"):
        wavelet_transform(x.at[7].set(jnp.nan), jnp.array([4.0]))
    with pytest.raises(ValueError, match="time_step is 0"):
        wavelet_transform(x, jnp.array([4.0]), time_step=0.0)
    with pytest.raises(ValueError, match="n_padding is needed"):
        jax.jit(wavelet_transform)(x, jnp.array([4.0]))
