"""Derivatives in the two sides' own decays on the linear path, which itself knows one decay only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models import ExponentialIntensity
from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.hjb import ExplicitRK, Grid, HanWong, HJBProblem, TaylorAction, Uniformization, solve_hjb

from ..checks import assert_close


@pytest.mark.slow
def test_decays_that_differ_in_the_derivative_only():
    """k+ -> k-: the explicit scheme is continuous there, and its derivative across is the linear path's."""
    grid = Grid(4, 1)

    def value(difference, scheme):
        sides = ExponentialIntensity(1.2, 1.5 - difference), ExponentialIntensity(0.8, 1.5 + difference)
        return solve_hjb(HJBProblem(*sides, 0.02, horizon=4.0), scheme, grid).value.initial_value

    linear, explicit = TaylorAction(1, 60), ExplicitRK(200)
    assert_close(value(1e-9, explicit), value(0.0, linear), float64=1e-8)
    slopes = [jax.jit(jax.jacfwd(lambda d, s=s: value(d, s)))(jnp.asarray(0.0)) for s in (linear, explicit)]
    assert_close(slopes[0], slopes[1], float64=1e-7)
    assert float(jnp.abs(slopes[0]).max()) > 0.05


def _value_of_decays(decays, scheme, **changes):
    """Everything that a side's own decay enters: fills, adverse selection, the weight on them; three rows."""
    bid, ask = ExponentialIntensity(1.2, decays[0]), ExponentialIntensity(0.8, decays[1])
    more = {"bid_adverse_selection": 0.2, "ask_adverse_selection": 0.1, "fill_risk_aversion": 0.5, "horizon": 3.0}
    value = solve_hjb(HJBProblem(bid, ask, 0.02, **more | changes), scheme, Grid(3, 3)).value.value
    return jnp.sum(value * jnp.cos(jnp.arange(value.size, dtype=value.dtype)).reshape(value.shape))


@pytest.mark.parametrize(
    "scheme",
    [
        pytest.param(TaylorAction(1, 50), marks=pytest.mark.slow),
        pytest.param(TaylorAction(1, 50, adjoint=True), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_second_derivatives_in_either_decay(scheme):
    decays = jnp.asarray([1.5, 1.5])
    results = [
        jax.jit(lambda x, s=s: (jax.grad(_value_of_decays)(x, s), jax.hessian(_value_of_decays)(x, s)))(decays)
        for s in (scheme, ExplicitRK(100))
    ]
    (gradient, hessian), (expected_gradient, expected_hessian) = results
    assert_close(gradient, expected_gradient, float64=1e-7)
    # The second derivative in the difference of the decays is of second order in the gaps between Gauss nodes.
    assert_close(hessian, expected_hessian, float64=1e-3)
    assert_close(hessian[0, 1], hessian[1, 0], float64=1e-9)
    # Which this does not contain: it is the derivative in the mean and the difference, once each.
    assert_close(hessian[0, 0] - hessian[1, 1], expected_hessian[0, 0] - expected_hessian[1, 1], float64=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [TaylorAction(1, 60), Uniformization(4, 24)], ids=str)
def test_decays_under_a_steep_terminal_penalty(scheme):
    """The fill rates start at e^11 per second, which no explicit step survives."""

    def value(decays, scheme):
        bid, ask = ExponentialIntensity(1.2, decays[0]), ExponentialIntensity(0.8, decays[1])
        problem = HJBProblem(bid, ask, 0.009, terminal_penalty=0.4, horizon=2.0)
        return solve_hjb(problem, scheme, Grid(10)).value.initial_value[13]

    decays, step = jnp.asarray([1.5, 1.5]), 1e-4
    found = jax.jit(jax.grad(value), static_argnums=1)(decays, scheme)
    with jax.enable_x64(True):
        implicit = jax.jit(lambda x: value(x, HanWong(1e-9)))
        expected = [
            (implicit(np.add(decays, step * e)) - implicit(np.subtract(decays, step * e))) / (2 * step)
            for e in np.eye(2)
        ]
    # Central differences of a solution to about 1e-8.
    np.testing.assert_allclose(found, expected, rtol=2e-4)


@pytest.mark.thorough
def test_the_steepest_terminal_value_leaves_derivatives_finite():
    """Its neighbours are e^1000 apart. Two decay arrays or one: the derivatives in everything else are the same."""

    def value(numbers, shared):
        horizon, penalty = numbers
        decay = jnp.asarray(2.0)
        bid = ExponentialIntensity(1.2, decay)
        ask = ExponentialIntensity(0.8, decay if shared else 1.0 * decay)
        problem = HJBProblem(bid, ask, 0.009, terminal_penalty=penalty, horizon=horizon)
        return solve_hjb(problem, TaylorAction(1, 60), Grid(3)).value.initial_value[4]

    numbers = jnp.asarray([2.0, 100.0])
    together, apart = (jax.jit(jax.grad(lambda x, s=s: value(x, s)))(numbers) for s in (True, False))
    assert_close(apart, together, float64=1e-9)
    assert float(apart[0]) > 0.1


@pytest.mark.thorough
def test_a_solve_does_not_pay_for_derivatives_it_does_not_take():
    """Thirty squarings allow a norm of 1e10: panels for it would fill the memory."""
    decays = jnp.asarray([2.0, 2.0])
    problem = HJBProblem(ExponentialIntensity(1.0, decays[0]), ExponentialIntensity(1.0, decays[1]), 0.01, horizon=2.0)
    assert solve_hjb(problem, Uniformization(30, 24), Grid(4)).result == RESULTS.successful
