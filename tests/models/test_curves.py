"""Fill curves against bounded scalar search, closed forms and the reference table."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models import (
    ExponentialIntensity,
    LogisticIntensity,
    PowerLawIntensity,
    SmoothIntensity,
    TabulatedIntensity,
    TriangularIntensity,
)
from mfamm_jax.models.curves import lambert_w_of_exp

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "hjb.json").read_text())["curves"]
FREE = (-np.inf, np.inf)
CURVES = ["exponential", "logistic", "power", "triangular", "smooth"]


def curve(name):
    return {
        "exponential": lambda: ExponentialIntensity(2.0, 1.2),
        "logistic": lambda: LogisticIntensity(2.0, -0.5, 1.3),
        "power": lambda: PowerLawIntensity(2.0, 0.5, 3.0),
        "triangular": lambda: TriangularIntensity(2.0, 2.0),
        # log-rate with a growing slope: far out fills die faster than exponentially
        "smooth": lambda: SmoothIntensity(
            lambda d, p: p[0] - jnp.logaddexp(p[1] * d, 2 * p[1] * d), jnp.array([0.6, 0.7])
        ),
    }[name]()


def limits(risk_aversion=0.0, low=-np.inf, high=np.inf):
    return tuple(jnp.asarray(x, dtype=jnp.result_type(float)) for x in (risk_aversion, low, high))


def searched(intensity, cost, risk_aversion, low, high):
    """Best gain on a fine grid, refined twice around the best node."""
    low, high = max(low, cost - 2.0 if np.isfinite(low) else cost), min(high, cost + 12.0)
    for _ in range(4):
        depths = np.linspace(low, high, 4001)
        margin = depths - cost
        gains = np.asarray(intensity(jnp.asarray(depths))) * (
            -np.expm1(-risk_aversion * margin) / risk_aversion if risk_aversion else margin
        )
        best, width = int(gains.argmax()), depths[1] - depths[0]
        low, high = max(low, depths[best] - 2 * width), min(high, depths[best] + 2 * width)
    return depths[best], gains[best]


@pytest.mark.thorough
@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("risk_aversion", [0.0, 0.4])
@pytest.mark.parametrize(("low", "high"), [FREE, (0.0, 0.9)])
def test_best_depth_is_the_best_of_a_fine_search(name, risk_aversion, low, high):
    intensity = curve(name)
    for cost in (-0.3, 0.1, 0.6, 1.5):
        if high < cost:
            continue  # every allowed quote loses: the search below looks at winning quotes
        bounds = limits(risk_aversion, low, high)
        depth = cost + intensity.best_margin(jnp.asarray(cost), *bounds)
        expected_depth, expected_gain = searched(intensity, cost, risk_aversion, low, high)
        assert_close(intensity.hamiltonian(jnp.asarray(cost), *bounds), expected_gain, float64=1e-9)
        assert float(depth) == pytest.approx(expected_depth, abs=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize(("low", "high"), [FREE, (0.0, 0.8)])
def test_slope_of_the_hamiltonian_is_minus_the_rate(name, low, high):
    intensity = curve(name)
    for risk_aversion in (0.0, 0.4):
        bounds = limits(risk_aversion, low, high)
        costs = jnp.array([-0.3, 0.2, 0.7])
        slope = jax.vmap(jax.grad(lambda p, b=bounds: intensity.hamiltonian(p, *b)))(costs)
        assert_close(slope, -intensity.hamiltonian_and_rate(costs, *bounds)[1], float64=1e-10)


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("risk_aversion", [0.0, 0.4])
@pytest.mark.slow
def test_depths_and_gains_have_gradients_in_every_parameter(name, risk_aversion):
    intensity = curve(name)
    bounds = limits(risk_aversion)

    def both(cost, intensity):
        return intensity.best_margin(cost, *bounds), intensity.hamiltonian(cost, *bounds)

    check_grads(jax.jit(both), (jnp.asarray(0.4), intensity), order=1, modes=["fwd", "rev"], rtol=1e-6)


@pytest.mark.parametrize("name", CURVES)
def test_fill_risk_aversion_is_continuous_at_zero(name):
    intensity, cost = curve(name), jnp.asarray(0.3)
    margins = [intensity.best_margin(cost, *limits(xi)) for xi in (0.0, 1e-8)]
    assert_close(margins[1], margins[0], float64=1e-7)


@pytest.mark.thorough
def test_reference_logistic_and_power_law(precision):
    case = REFERENCE["logistic"]
    intensity, cost = LogisticIntensity(case["A"], case["a"], case["k"]), jnp.asarray(case["p"])
    assert_close(cost + intensity.best_margin(cost, *limits()), case["delta"], float64=1e-11, float32=2e-6)
    assert_close(intensity.hamiltonian(cost, *limits()), case["h"], float64=1e-11, float32=1e-6)
    case = REFERENCE["power"]
    intensity, cost = PowerLawIntensity(case["A"], case["c"], case["n"]), jnp.asarray(case["p"])
    assert_close(cost + intensity.best_margin(cost, *limits()), case["delta"], float64=1e-11, float32=2e-6)
    assert_close(intensity.hamiltonian(cost, *limits()), case["h"], float64=1e-11, float32=1e-6)


def test_reference_table_and_smallest_depth_on_ties():
    case = REFERENCE["table"]
    table = TabulatedIntensity(jnp.array(case["delta"]), jnp.array(case["lam"]))
    cost = jnp.asarray(case["p"])
    assert_close(cost + table.best_margin(cost, *limits()), case["delta"][case["argmax"]])
    assert_close(table.hamiltonian(cost, *limits()), case["h"])
    tied = TabulatedIntensity(jnp.array([0.5, 1.0]), jnp.array([2.0, 1.0]))
    assert_close(tied.best_margin(jnp.asarray(0.0), *limits()), 0.5)


def test_table_respects_limits_and_is_zero_beyond_its_end():
    table = TabulatedIntensity(jnp.array([0.1, 0.2, 0.5]), jnp.array([1.5, 1.2, 0.6]))
    assert_close(table.best_margin(jnp.asarray(0.0), *limits(0.0, 0.0, 0.3)), 0.2)
    assert np.isnan(table.best_margin(jnp.asarray(0.0), *limits(0.0, 0.21, 0.3)))
    assert_close(table(jnp.array([0.0, 0.1, 0.15, 0.5, 0.51])), [1.5, 1.5, 1.2, 0.6, 0.0])
    gradient = jax.grad(lambda t: t.hamiltonian(jnp.asarray(0.05), *limits()))(table)
    assert_close(gradient.intensities, [0.0, 0.0, 0.45])


def test_random_tables_against_every_node():
    rng = np.random.default_rng(0)
    for _ in range(50):
        depths, rates = np.sort(rng.uniform(0, 2, 12)), np.sort(rng.uniform(0, 3, 12))[::-1].copy()
        table = TabulatedIntensity(jnp.asarray(depths), jnp.asarray(rates))
        costs = rng.uniform(-1, 2, 7)
        assert_close(table.hamiltonian(jnp.asarray(costs), *limits()), (rates * (depths - costs[:, None])).max(axis=1))


def test_lambert_function_solves_its_equation(precision):
    x = jnp.linspace(-60.0, 60.0, 241)
    w = lambert_w_of_exp(x)
    scale = 1e-14 if precision == "float64" else 1e-6
    # In logarithms, where rounding of x itself limits what can be asked.
    assert np.max(np.abs(np.asarray(w + jnp.log(w) - x))) < 60 * 4 * scale
    check_grads(
        jax.jit(lambert_w_of_exp),
        (jnp.array([-2.0, 0.5, 3.0]),),
        order=1,
        rtol=1e-2 if precision == "float32" else 1e-6,
    )


@pytest.mark.thorough
@pytest.mark.parametrize("name", CURVES)
def test_jit_vmap_and_loop_agree(name):
    intensity = curve(name)
    assert_jit_vmap_loop_agree(
        lambda cost: intensity.hamiltonian(cost, *limits(0.3, 0.0, 2.0)), jnp.array([0.1, 0.5, 1.1])
    )


@pytest.mark.parametrize("name", CURVES)
def test_scaling_multiplies_every_rate(name):
    intensity = curve(name)
    assert_close(intensity.scaled(2.5)(jnp.array([0.1, 1.0])), 2.5 * intensity(jnp.array([0.1, 1.0])), float64=1e-12)


def test_absurd_curves_are_refused_by_name():
    with pytest.raises(ValueError, match=r"PowerLawIntensity\.exponent"):
        PowerLawIntensity(1.0, 0.5, 1.0)
    with pytest.raises(ValueError, match="depths must increase"):
        TabulatedIntensity(jnp.array([0.2, 0.1]), jnp.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="as many intensities"):
        TabulatedIntensity(jnp.array([0.1, 0.2]), jnp.array([1.0]))
    with pytest.raises(ValueError, match=r"LogisticIntensity\.decay"):
        LogisticIntensity(1.0, 0.0, -1.0)


def test_curves_may_be_built_under_a_trace():
    @jax.jit
    def gain(cost):
        return TabulatedIntensity(jnp.array([0.1, 0.2]), jnp.array([1.0, 0.5])).hamiltonian(cost, *limits())

    assert_close(gain(jnp.asarray(0.0)), 0.1)
    assert_close(
        jax.jit(
            lambda: TabulatedIntensity(np.array([0.1, 0.2]), np.array([1.0, 0.5])).hamiltonian(jnp.zeros(()), *limits())
        )(),
        0.1,
    )


@pytest.mark.thorough
@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize(("cost", "at"), [(0.2, "free"), (-0.6, "min"), (0.9, "max")])
@pytest.mark.parametrize("risk_aversion", [pytest.param(0.0, marks=pytest.mark.slow), 0.4])
def test_gains_have_both_derivatives_in_cost_parameters_and_limits(name, cost, at, risk_aversion):
    intensity = curve(name)
    low, high = {"free": (-0.3, 9.0), "min": (0.8, 9.0), "max": (-0.3, 1.0)}[at]
    best = cost + intensity.best_margin(jnp.asarray(cost), *limits(risk_aversion, low, high))
    assert float(best) == pytest.approx({"free": best, "min": 0.8, "max": 1.0}[at])

    def gain(cost, low, high, intensity):
        return intensity.hamiltonian(cost, jnp.asarray(risk_aversion), low, high)

    # Second derivatives differentiate the rule of the first.
    check_grads(jax.jit(gain), (*(jnp.asarray(x) for x in (cost, low, high)), intensity), order=2, rtol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("risk_aversion", [0.0, 0.5, 20.0])
def test_a_smooth_curve_finds_the_depth_at_any_cost(risk_aversion, precision):
    # Beyond -12 float32 has no slope to speak of: NaN.
    costs = jnp.array([-12.0, 0.0, 1.0, 30.0] + [-100.0, -30.0] * (precision == "float64"))
    bounds = limits(risk_aversion)
    exact = LogisticIntensity(1.0, 0.3, 1.5, n_iterations=40)
    smooth = SmoothIntensity(lambda d, p: -jax.nn.softplus(p[0] + p[1] * d), jnp.array([0.3, 1.5]))
    assert_close(smooth.best_margin(costs, *bounds), exact.best_margin(costs, *bounds), float64=1e-10, float32=1e-5)
    for curve in (
        SmoothIntensity(smooth.curve, smooth.parameters, n_iterations=1),
        SmoothIntensity(lambda d, p: p * d, jnp.asarray(0.5)),
    ):
        # Too few steps, and more fills further out: no answer rather than a wrong one.
        assert np.isnan(curve.best_margin(jnp.asarray(-12.0), *bounds))
