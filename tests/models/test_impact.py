import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from mfamm_jax.models.impact import (
    ExponentialKernel,
    InstantImpact,
    PowerKernel,
    ShiftedPowerKernel,
    complaints,
    metaorder,
    price_path,
    price_path_by_state,
    trading_cost,
)

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads


def kernels():
    return (
        PowerKernel(0.4),
        ShiftedPowerKernel(2.0, 0.7, 0.6),
        ShiftedPowerKernel(1.0, 1.0, 1.0),
        ExponentialKernel(jnp.array([1.0, 0.5]), jnp.array([2.0, 0.1])),
    )


def rates(n=40, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(n))


def test_integrals_are_those_of_the_kernels():
    for kernel in kernels():
        for t in (0.1, 1.0, 5.0):
            expected = quad(lambda s, k=kernel: float(k(jnp.asarray(s))), 0, t, limit=200)[0]
            assert_close(kernel.integral(jnp.asarray(t)), expected, 1e-7)
        assert float(kernel.integral(jnp.asarray(0.0))) == 0


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_paths_are_direct_sums(precision):
    with jax.enable_x64(precision == "float64"):
        v, step, impact = rates().astype(jnp.result_type(float)), 0.3, InstantImpact(0.5, 0.6)
        for kernel in kernels():
            total = np.asarray(kernel.integral(step * jnp.arange(41, dtype=v.dtype)), float)
            push = 0.5 * np.sign(v) * np.abs(np.asarray(v, float)) ** 0.6
            direct = [sum((total[k - j] - total[k - j - 1]) * push[j] for j in range(k)) for k in range(41)]
            assert_close(price_path(v, step, kernel, impact), np.array(direct), 1e-10, 2e-5)
        exponential = kernels()[-1]
        by_state = price_path_by_state(v, step, exponential, impact)
        assert_close(by_state, price_path(v, step, exponential, impact), 1e-10, 2e-5)


def test_a_metaorder_rises_with_a_power_and_its_path_is_the_closed_form():
    kernel, impact = PowerKernel(0.5), InstantImpact(1.0, 0.5)
    times = 0.05 * jnp.arange(101.0)
    order = metaorder(2.0, 1.0, times, kernel, impact)
    v = jnp.where(jnp.arange(100) < 20, 2.0, 0.0)
    assert_close(price_path(v, 0.05, kernel, impact), order.price_change, 1e-10)
    assert_close(order.price_change[20], order.peak, 1e-10)
    assert float(order.price_change[100]) < 0.3 * float(order.peak)
    price = quad(lambda t: 2 * np.sqrt(2) * np.sqrt(t), 0, 1)[0]
    assert_close(order.mean_cost_per_share, price, 1e-9)


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_weights_are_the_double_integrals(precision):
    """Also where the kernel falls within a step, and where it hardly moves in one."""
    with jax.enable_x64(precision == "float64"):
        for kernel in kernels():
            for step in (1e-3, 0.3, 20.0):
                got = kernel.mean_weights(jnp.asarray(step), 12)
                for k in (0, 1, 2, 7, 8, 11):
                    # f(lag) against the length of the pairs of times so far apart, by half.
                    parts = [(max(k - 1, 0), k, lambda u, k=k: u - k + 1), (k, k + 1, lambda u, k=k: k + 1 - u)]
                    expected = 0.0
                    for low, high, length in parts[1 if k == 0 else 0 :]:
                        value = quad(
                            lambda u, f=kernel, c=length, h=step: float(f(jnp.asarray(h * max(u, 1e-300)))) * c(u),
                            low,
                            high,
                            limit=400,
                        )
                        expected += step * value[0]
                    assert abs(float(got[k]) / expected - 1) < (1e-6 if precision == "float64" else 3e-5)


@pytest.mark.thorough
def test_costs_are_integrals():
    impact = InstantImpact(1.0, 1.0)
    kernel = ExponentialKernel(jnp.array([1.0]), jnp.array([2.0]))
    # Constant rate v on [0, 1]: v^2 integral of (1 - e^{-2t})/2, however many steps.
    exact = 9 * quad(lambda t: (1 - np.exp(-2 * t)) / 2, 0, 1)[0]
    for n in (1, 4, 37):
        assert_close(trading_cost(jnp.full(n, 3.0), 1 / n, kernel, impact), exact, 1e-12)
    order = metaorder(2.0, 1.0, jnp.ones(1), PowerKernel(0.4), InstantImpact(1.5, 0.6))
    paid = trading_cost(jnp.full(23, 2.0), 1 / 23, PowerKernel(0.4), InstantImpact(1.5, 0.6))
    assert_close(paid / 2, order.mean_cost_per_share, 1e-9)
    spread = trading_cost(jnp.full(8, -3.0), 1 / 8, kernel, impact, 0.1)
    assert_close(spread - trading_cost(jnp.full(8, -3.0), 1 / 8, kernel, impact), 0.3)


def test_round_trips_cost_where_nothing_is_complained_about():
    rng = np.random.default_rng(1)
    kernel, impact = PowerKernel(0.5), InstantImpact(1.0, 0.6)
    assert complaints(kernel, impact) == ()
    cost = jax.jit(lambda v: trading_cost(v, 0.1, kernel, impact))
    for _ in range(100):
        v = rng.standard_normal(30)
        assert float(cost(jnp.asarray(v - v.mean()))) > 0
    linear = InstantImpact(1.0, 1.0)
    for kernel in kernels():
        v = rng.standard_normal(30)
        assert float(trading_cost(jnp.asarray(v - v.mean()), 0.1, kernel, linear)) > 0


def test_what_lets_round_trips_make_money_is_said():
    for kernel in kernels()[1:]:
        assert "no impact but a linear one" in complaints(kernel, InstantImpact(1.0, 0.5))[0]
    assert all(complaints(kernel, InstantImpact()) == () for kernel in kernels())
    both = complaints(PowerKernel(0.3), InstantImpact(1.0, 0.5))
    assert len(both) == 2
    assert "below 1" in both[0]
    assert "0.415" in both[1]


@pytest.mark.thorough
def test_gradients_and_jit_vmap_loop():
    kernel = ShiftedPowerKernel(1.0, 1.0, 0.5)

    def cost(v, delta):
        return trading_cost(jnp.asarray(v), 0.1, kernel, InstantImpact(1.0, jnp.asarray(delta)), 0.01)

    check_grads(cost, (rates(12), jnp.array(0.7)), order=1, modes=["fwd", "rev"])
    slope = jax.grad(cost)(jnp.zeros(5), 0.5)
    assert np.isfinite(slope).all()
    assert_close(jax.vmap(jax.grad(InstantImpact(3.0, 1.0)))(jnp.asarray([-1.0, 0.0, 2.0])), 3.0, 1e-14)
    assert_jit_vmap_loop_agree(lambda v: price_path(v, 0.1, kernel, InstantImpact(1.0, 0.5)), rates().reshape(4, 10))


def test_bad_kernels_are_refused():
    with pytest.raises(ValueError, match=r"PowerKernel\.exponent is 1, expected <= 0\.999"):
        PowerKernel(1.0)
    with pytest.raises(ValueError, match=r"ExponentialKernel\.rates is -1, expected > 0"):
        ExponentialKernel(jnp.array([1.0]), jnp.array([-1.0]))
    with pytest.raises(ValueError, match="expected as many"):
        ExponentialKernel(jnp.array([1.0]), jnp.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="is NaN"):
        ShiftedPowerKernel(jnp.nan)
