import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models.delay_network import FreeDelayNetwork, HammersteinNetwork, causal_convolution, hinge_basis
from mfamm_jax.models.impact import ExponentialKernel, InstantImpact, price_path_by_state

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads

KNOTS = (0.5, 1.0, 2.5)


def network(dtype=float):
    numbers = ([0.2, -0.3, 0.1, -1.0], [0.0, 0.7], [-0.5, -3.0])
    return HammersteinNetwork(jnp.asarray(KNOTS, dtype), *(jnp.asarray(x, dtype) for x in numbers))


def rates(n=60, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_t(4, n))


def test_the_basis_adds_up_to_the_rate_and_the_curve_is_piecewise_linear_odd_and_rising():
    v = rates()
    assert_close(jnp.sum(hinge_basis(v, jnp.asarray(KNOTS)), axis=-1), v, 1e-14)
    net, slopes = network(), np.exp([0.2, -0.3, 0.1, -1.0])
    at = np.concatenate([[0.0], np.cumsum(np.diff([0.0, *KNOTS]) * slopes[:3])])
    assert_close(net.impact(jnp.asarray([0.0, *KNOTS])), at, 1e-14)
    assert_close(net.impact(jnp.asarray(10.0)), at[-1] + 7.5 * slopes[3], 1e-13)
    assert_close(net.impact(-v), -net.impact(v), 0.0)
    assert (np.diff(net.impact(jnp.linspace(-5, 5, 300))) > 0).all()


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_the_response_is_the_sum_it_claims_to_be(precision):
    with jax.enable_x64(precision == "float64"):
        net, v = network(jnp.result_type(float)), rates().astype(jnp.result_type(float))
        f, g = np.asarray(net.kernel(jnp.arange(60.0, dtype=v.dtype)), float), np.asarray(net.impact(v), float)
        assert_close(f[0], 1.0, 1e-14, 1e-6)
        assert (np.diff(f) < 0).all()
        expected = [sum(f[k] * g[t - k] for k in range(t + 1)) for t in range(60)]
        assert_close(net.response(v), expected, 1e-12, 1e-5)


def test_it_is_the_impact_model_of_equation_20_sampled():
    """With g linear and one exponential, (20) over unit steps is (21) times the kernel's integral over a step."""
    v, rho = rates(), 0.3
    linear = HammersteinNetwork(
        jnp.asarray([1.0]), jnp.log(jnp.full(2, 2.0)), jnp.zeros(1), jnp.log(jnp.asarray([rho]))
    )
    path = price_path_by_state(v, 1.0, ExponentialKernel(jnp.ones(1), jnp.asarray([rho])), InstantImpact(2.0, 1.0))
    assert_close(path[1:], linear.response(v) * (1 - np.exp(-rho)) / rho, 1e-12)


def test_a_longer_kernel_than_the_signal_is_cut():
    assert_close(causal_convolution(jnp.ones(9), jnp.arange(3.0)), [0.0, 1.0, 3.0], 1e-13)


@pytest.mark.thorough
def test_gradients_and_jit_vmap_loop():
    v = rates(20)

    def cost(*numbers):
        *weights, v = (jnp.asarray(x) for x in numbers)
        return jnp.sum(HammersteinNetwork(jnp.asarray(KNOTS), *weights).response(v) ** 2)

    net = network()
    check_grads(cost, (net.log_slopes, net.log_amplitudes, net.log_rates, v), order=1, modes=["fwd", "rev"])
    assert_jit_vmap_loop_agree(net.response, jnp.stack([rates(20, s) for s in range(3)]))


@pytest.mark.thorough
def test_the_free_network_sees_its_lags_and_nothing_else():
    net = FreeDelayNetwork(n_lags=5, n_hidden=4)
    params, v = net.init(jax.random.key(0)), rates(30)
    before = net.response(params, v)
    assert before.shape == v.shape
    after = net.response(params, v.at[10].add(1.0))
    assert np.flatnonzero(np.asarray(before != after)).tolist() == [10, 11, 12, 13, 14]
    assert_close(net.response(params, v[7:])[10:], before[17:], 1e-13)
