import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfamm_jax.features.vpin import bucket_volumes as eager_bucket_volumes
from mfamm_jax.features.vpin import (
    bulk_buy_fraction,
    vpin_at_trades,
    vpin_ewma,
    vpin_literal,
    vpin_window,
)

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads

bucket_volumes = jax.jit(eager_bucket_volumes, static_argnums=3)

BUY = (60.0, 85.0, 20.0, 50.0, 95.0)
SELL = (40.0, 15.0, 80.0, 50.0, 5.0)


def test_a_trade_is_split_at_the_bucket_edge(precision):
    size, aggressor = jnp.array([60.0, 70.0, 90.0, 30.0]), jnp.array([1, -1, 1, -1], jnp.int8)
    buckets = bucket_volumes(size, aggressor, 100.0, 4)
    assert_close(buckets.buy, [60.0, 70.0, 0.0, 0.0])  # 60 | 40 sold; 30 sold, 70 bought; 50 of 100 not complete
    assert_close(buckets.sell, [40.0, 30.0, 0.0, 0.0])
    assert buckets.n_complete == 2


def test_a_large_trade_fills_several_buckets_and_an_exact_end_completes_one():
    buckets = bucket_volumes(jnp.array([30.0, 0.0, 270.0]), jnp.array([-1, 1, 1]), 100.0, 3)
    assert_close(buckets.buy, [70.0, 100.0, 100.0])
    assert_close(buckets.sell, [30.0, 0.0, 0.0])
    assert buckets.n_complete == 3


def test_no_trades_no_buckets():
    buckets = bucket_volumes(jnp.zeros(0), jnp.zeros(0), 100.0, 2)
    assert_close(buckets.buy + buckets.sell, [0.0, 0.0])
    assert vpin_at_trades(jnp.zeros(0), jnp.zeros(0), 100.0, 0.25, 2).shape == (0,)


def test_the_three_definitions_on_five_buckets(precision):
    buy, sell = jnp.array(BUY), jnp.array(SELL)
    assert_close(vpin_ewma(buy, sell, 0.25)[-1], 0.446484375)
    assert_close(vpin_window(buy, sell, 5)[-1], 0.48)
    assert_close(vpin_literal(buy / 100, sell / 100, 0.25), 1.92)
    assert_close(vpin_literal(buy, sell, 100.0), 0.48)


def test_window_uses_what_there_is_at_the_start():
    assert_close(vpin_window(jnp.array(BUY), jnp.array(SELL), 2), [0.2, 0.45, 0.65, 0.3, 0.45])


def test_a_given_start_replaces_the_first_imbalance():
    assert_close(vpin_ewma(jnp.array(BUY[:2]), jnp.array(SELL[:2]), 0.25, start=0.6), [0.5, 0.55])


def test_empty_buckets_leave_the_average_alone():
    buy, sell = jnp.array([0.0, 60.0, 0.0, 85.0]), jnp.array([0.0, 40.0, 0.0, 15.0])
    assert_close(vpin_ewma(buy, sell, 0.25), [0.0, 0.2, 0.2, 0.325])


def test_bulk_classification(precision):
    change = jnp.array([0.02, -0.01, 0.05, 0.0, -0.03])
    fraction = bulk_buy_fraction(change, 0.025)
    assert_close(fraction, [0.788144601417, 0.34457825839, 0.977249868052, 0.5, 0.115069670222])
    bars = bucket_volumes(jnp.full(5, 100.0), 2 * fraction - 1, 100.0, 5)
    assert_close(vpin_window(bars.buy, bars.sell, 5)[-1], 0.522298616343)


def test_bulk_classification_without_scale_is_the_sign():
    assert_close(bulk_buy_fraction(jnp.array([2.0, 0.0, -1.0]), 0.0), [1.0, 0.5, 0.0])
    assert jnp.isfinite(jax.grad(lambda s: bulk_buy_fraction(jnp.ones(1), s)[0])(jnp.array(0.0)))


@pytest.mark.thorough
def test_value_after_each_trade_counts_complete_buckets_only(precision):
    size, aggressor = jnp.array([50.0, 50.0, 99.0, 1.0, 150.0]), jnp.array([1, -1, 1, 1, -1])
    values = vpin_at_trades(size, aggressor, 100.0, 0.25, 4)
    assert_close(values, [0.0, 0.0, 0.0, 0.25, 0.4375])  # imbalances 0, 1, 1; the fourth bucket is half full


def test_value_is_nan_once_buckets_run_out():
    values = vpin_at_trades(jnp.full(4, 100.0), jnp.ones(4), 100.0, 0.25, 2)
    np.testing.assert_array_equal(jnp.isnan(values), [False, False, True, True])


def test_random_signs_give_the_half_normal_level():
    rng = np.random.default_rng(0)
    signs = jnp.asarray(rng.choice([-1, 1], 50 * 400))
    buckets = bucket_volumes(jnp.ones(50 * 400), signs, 50.0, 400)
    level = np.mean(np.abs(buckets.buy - buckets.sell)) / 50
    assert abs(level - np.sqrt(2 / (np.pi * 50))) < 4 * 0.085 / np.sqrt(400)


@jax.jit
def value_sum(size, aggressor):
    return jnp.sum(vpin_at_trades(size, aggressor, 100.0, 0.25, 6) * jnp.arange(1, 1 + size.shape[0]))


@pytest.mark.thorough
def test_gradient_in_the_sizes():
    size, aggressor = jnp.array([60.0, 70.0, 90.0, 35.0, 80.0, 25.0]), jnp.array([1, -1, 1, -1, -1, 1])
    check_grads(lambda s: value_sum(s, aggressor), (size,), order=1, modes=["fwd", "rev"], eps=1e-4)
    check_grads(
        lambda s: vpin_window(jnp.asarray(s), jnp.asarray(s[::-1]), 3), (size,), order=1, modes=["fwd", "rev"], eps=1e-4
    )


@pytest.mark.parametrize("size", [[0.0, 0.0, 0.0], [0.0, 100.0, 0.0], [50.0, 50.0, 0.0]])
def test_gradient_is_finite_with_padding_and_ties(size):
    gradient = jax.grad(value_sum)(jnp.array(size), jnp.array([1.0, -1.0, 0.0]))
    assert jnp.all(jnp.isfinite(gradient))


@pytest.mark.thorough
def test_jit_vmap_and_loop_agree(precision):
    rng = np.random.default_rng(1)
    size = jnp.asarray(rng.exponential(10.0, (3, 40)), float)
    sign = jnp.asarray(rng.choice([-1.0, 1.0], (3, 40)), float)
    assert_jit_vmap_loop_agree(jax.jit(lambda s, a: vpin_at_trades(s, a, 50.0, 0.25, 20)), size, sign)


AT_TRADES = jax.jit(lambda size, sign: vpin_at_trades(size, sign, 37.0, 0.25, 80))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 59), st.integers(0, 2**32 - 1))
def test_later_trades_change_no_earlier_value(last, seed):
    rng = np.random.default_rng(seed)
    size, sign = rng.exponential(10.0, 60) * rng.integers(0, 2, 60), rng.choice([-1.0, 1.0], 60)
    other_size, other_sign = size.copy(), sign.copy()
    other_size[last + 1 :] = rng.exponential(30.0, 59 - last)
    other_sign[last + 1 :] *= -1
    before = AT_TRADES(jnp.asarray(size), jnp.asarray(sign))
    after = AT_TRADES(jnp.asarray(other_size), jnp.asarray(other_sign))
    np.testing.assert_array_equal(before[: last + 1], after[: last + 1])
