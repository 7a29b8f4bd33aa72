"""Each mid against the moments of its own law, by 100,000 paths, and against the closed form of a noiseless path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models import BinomialMid, BrownianMid, GeometricMid, JumpMid, MeanRevertingMid
from mfamm_jax.models.mid_sde import HestonMid, ShortTermAlphaMid

N_PATHS, N_STEPS, HORIZON = 100_000, 8, 2.0


def ends(model, n_steps=N_STEPS, seed=0):
    """Change of the mid over the horizon and last state, per path."""

    def path(key):
        def advance(carry, index):
            state, total = carry
            uniforms = jax.random.uniform(jax.random.fold_in(key, index), (model.n_uniforms,), jnp.result_type(float))
            state, change = model.advance(state, jnp.asarray(HORIZON / n_steps), uniforms)
            return (state, total + change), None

        start = model.start(), jnp.zeros(())
        return jax.lax.scan(advance, start, jnp.arange(n_steps))[0]

    state, total = jax.jit(jax.vmap(path))(jax.random.split(jax.random.key(seed), N_PATHS))
    return np.asarray(total), state


def alpha_variance(sigma, eta, kappa, t):
    """Var of s: sigma^2 t + eta^2/kappa^2 (t - 2 (1 - e^-kt)/k + (1 - e^-2kt)/(2k))."""
    decay = -np.expm1(-kappa * t)
    double = -np.expm1(-2 * kappa * t) / 2
    return sigma**2 * t + eta**2 / kappa**2 * (t - 2 * decay / kappa + double / kappa)


LAWS = {
    # model, mean and variance of the change over the horizon
    "brownian": (lambda: BrownianMid(0.3, 0.1), 0.2, 0.18),
    "binomial": (lambda: BinomialMid(0.3), 0.0, 0.18),
    "geometric": (lambda: GeometricMid(100.0, 0.1, 0.05), 100 * np.expm1(0.1), 1e4 * np.exp(0.2) * np.expm1(0.02)),
    "reverting": (
        lambda: MeanRevertingMid(0.3, 0.8, 5.0, 4.0),
        -np.expm1(-1.6),
        0.09 * -np.expm1(-3.2) / 1.6,
    ),
    "jumps": (lambda: JumpMid(0.3, 1.5, 0.4, -0.2, 0.1), 0.2 - 0.2 * 3, 0.18 + 3 * (0.16 + 0.04)),
    "alpha": (
        lambda: ShortTermAlphaMid(0.3, 0.5, 0.8, 0.2, n_substeps=8),
        0.2 * -np.expm1(-1.6) / 0.8,
        alpha_variance(0.3, 0.5, 0.8, 2.0),
    ),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", LAWS)
def test_moments(name, precision):
    model, mean, variance = LAWS[name]
    change, _ = ends(model())
    # Five standard errors of either; Euler steps of 1/32 s leave the alpha 1% more.
    bias = 0.02 if name == "alpha" else 0.0
    assert abs(change.mean() - mean) < 5 * np.sqrt(variance / N_PATHS) + bias * abs(mean)
    kurtosis = np.mean((change - change.mean()) ** 4) / variance**2
    assert abs(change.var() - variance) < (5 * np.sqrt((kurtosis - 1) / N_PATHS) + bias) * variance


def test_heston_has_its_mean_variance_and_price():
    """E[v] = v' + (v0 - v') e^-kt; the discounted price is a martingale; a correlation below zero skews it down."""
    model = HestonMid(100.0, 0.04, 0.09, 2.0, 0.4, -0.7, 0.05, n_substeps=4)
    change, state = ends(model)
    variance = np.asarray(state[:, 1])
    expected = 0.09 - 0.05 * np.exp(-4.0)
    # Euler's weak error at steps of 1/16 s comes on top of five standard errors.
    assert abs(variance.mean() - expected) < 5 * variance.std() / np.sqrt(N_PATHS) + 0.01 * expected
    np.testing.assert_allclose(np.asarray(state[:, 0]), 100 + change, rtol=1e-5)
    assert abs(change.mean() - 100 * np.expm1(0.1)) < 5 * change.std() / np.sqrt(N_PATHS) + 0.1
    logs = np.log(np.asarray(state[:, 0]))
    assert np.mean((logs - logs.mean()) ** 3) < -0.1 * logs.std() ** 3


def test_a_quiet_variance_makes_heston_geometric():
    """Without noise of its own the variance stays, and the price is log-normal to the order of the steps."""
    change, _ = ends(HestonMid(100.0, 0.01, 0.01, 1.0, 0.0, 0.0, 0.05, n_substeps=8))
    variance = 1e4 * np.exp(0.2) * np.expm1(0.02)
    assert change.std() == pytest.approx(np.sqrt(variance), rel=0.015)


@pytest.mark.parametrize("name", ["reverting", "geometric"])
def test_the_law_does_not_depend_on_the_number_of_steps(name):
    model = LAWS[name][0]()
    coarse, _ = ends(model, 1)
    fine, _ = ends(model, 16, seed=1)
    error = np.sqrt(2 * fine.var() / N_PATHS)
    assert abs(coarse.mean() - fine.mean()) < 5 * error
    assert coarse.std() == pytest.approx(fine.std(), rel=0.02)


@pytest.mark.thorough
def test_no_jump_comes_of_rounding(precision):
    """The largest uniform numbers there are, at rates down to none."""
    dtype = jnp.result_type(float)
    last = jnp.asarray(1.0, dtype) - jnp.finfo(dtype).eps / 2
    for rate in (0.0, 1e-6, 0.01, 0.1):
        model = JumpMid(0.0, rate, 0.0, jump_mean=1.0)
        number = model.advance((), jnp.asarray(0.5), jnp.stack([jnp.asarray(0.5, dtype), last]))[1]
        assert float(number) <= (0 if rate == 0 else 9)


def test_steps_are_differentiable():
    def end(volatility):
        model = HestonMid(100.0, volatility**2, 0.09, 2.0, 0.4)
        return model.advance(model.start(), jnp.asarray(0.1), jnp.asarray([0.2, 0.7]))[1]

    step = 1e-6
    slope = (end(jnp.asarray(0.2) + step) - end(jnp.asarray(0.2) - step)) / (2 * step)
    assert float(jax.grad(end)(jnp.asarray(0.2))) == pytest.approx(float(slope), rel=1e-6)


def test_bad_parameters_are_named():
    with pytest.raises(ValueError, match=r"GeometricMid\.start_price"):
        GeometricMid(0.0, 0.1)
    with pytest.raises(ValueError, match=r"HestonMid\.correlation"):
        HestonMid(100.0, 0.04, 0.04, 1.0, 0.1, 1.5)
