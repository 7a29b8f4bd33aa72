"""Cosine and sine without branches against numpy's in extended precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.solvers.qaoa_phase import cosine_sine


@pytest.mark.parametrize(("dtype", "furthest", "tolerance"), [("float32", 6e3, 1e-7), ("float64", 1e5, 2.5e-16)])
def test_the_values_are_right_to_the_last_place(dtype, furthest, tolerance):
    rng = np.random.default_rng(0)
    for size in (1e-3, 1, 10, furthest):
        at = jnp.asarray(np.concatenate([rng.uniform(-size, size, 100_000), [0, size, -size]]), dtype)
        exact = np.asarray(at).astype(np.longdouble)
        cosine, sine = cosine_sine(at)
        assert cosine.dtype == sine.dtype == dtype
        assert np.abs(np.asarray(cosine) - np.cos(exact)).max() <= tolerance
        assert np.abs(np.asarray(sine) - np.sin(exact)).max() <= tolerance


def test_beyond_it_is_right_to_the_spacing_of_angles_and_then_not_a_number():
    for dtype, sizes in (("float32", (1e5, 1e7, 1e10)), ("float64", (1e10, 1e13, 1e18))):
        for size in sizes:
            at = jnp.asarray(np.random.default_rng(1).uniform(0.5 * size, size, 10_000), dtype)
            sine = np.asarray(cosine_sine(at)[1])
            error = np.abs(sine - np.sin(np.asarray(at).astype(np.longdouble)))
            spacing = np.spacing(np.asarray(size, dtype))
            if spacing < 0.5:
                assert (error <= 2 * spacing).all()
            else:
                assert (np.isnan(sine) | (np.abs(sine) <= 1.01)).all()


def test_multiples_of_quarter_turns():
    cosine, sine = cosine_sine(jnp.arange(-6, 7) * (np.pi / 2))
    np.testing.assert_allclose(cosine, np.cos(np.arange(-6, 7) * np.pi / 2), atol=1e-15)
    np.testing.assert_allclose(sine, np.sin(np.arange(-6, 7) * np.pi / 2), atol=1e-15)


def test_derivatives_of_both_orders():
    for x in (0.3, 4.0, -np.pi / 4):
        at = jnp.asarray(x)
        np.testing.assert_allclose(jax.grad(lambda a: cosine_sine(a)[0])(at), -np.sin(x), atol=1e-15)
        np.testing.assert_allclose(jax.grad(jax.grad(lambda a: cosine_sine(a)[1]))(at), -np.sin(x), atol=1e-15)


def test_what_is_not_a_number_stays_so():
    assert np.isnan(cosine_sine(jnp.asarray([np.nan, np.inf]))[0]).all()
