import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfamm_jax.features.book_shape import (
    BOOK_FEATURES,
    RobustScale,
    ask_convexity,
    book_shape,
    fat_finger,
    mean_slope,
    volume_entropy,
)
from mfamm_jax.policies.quotes import N_BOOK_FEATURES

from ..checks import assert_close, assert_jit_vmap_loop_agree

ASK_TICKS, ASK = jnp.array([101, 102, 105, 106, 110, 111], jnp.int32), (2.0, 4.0, 6.0, 1.0, 3.0, 9.0)
BID_TICKS, BID = jnp.array([99, 97, 95, 93, 91, 89], jnp.int32), (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)


@pytest.mark.thorough
def test_one_book_by_hand(precision):
    shape = book_shape(BID_TICKS, jnp.array(BID), ASK_TICKS, jnp.array(ASK), jnp.array(1.0))
    # Mid-volumes 1, 4, 9: slopes 1/3 and 3/5, so 2 (3/5 - 1/3) / 8 = 1/15.
    volume, distance = np.cumsum(ASK), np.array([0, 1, 4, 5, 9, 10])
    slope = (2 + np.polyfit(volume, distance, 1)[0]) / 2  # the bids fall by 2 ticks a lot
    share = np.array(BID + ASK) / 31
    entropy = -np.sum(share * np.log(share)) / np.log(12)
    assert_close(shape, [np.log(6), np.log(17), 1 / 15, slope, 1.0, entropy])
    assert len(BOOK_FEATURES) == N_BOOK_FEATURES == shape.shape[-1]


def test_slope_on_distances_from_the_mid_is_the_same():
    distance_from_mid = np.array([1, 2, 5, 6, 10, 11])
    expected = np.polyfit(np.cumsum(ASK), distance_from_mid, 1)[0]
    assert_close(mean_slope(BID_TICKS, jnp.zeros(6), ASK_TICKS, jnp.array(ASK)), expected)


def test_volumes_are_floored_at_one_lot_in_the_convexity():
    small = jnp.array([0.1, 0.5, 1.0])
    assert_close(ask_convexity(jnp.array([1, 2, 5]), small), 2.0)  # 2 (3 - 1) / 2


def test_shares_and_lots_give_the_same_shape():
    bid, ask, flag = jnp.array(BID), jnp.array(ASK), jnp.array(0.0)
    lots = book_shape(BID_TICKS, bid, ASK_TICKS, ask, flag)
    assert_close(book_shape(BID_TICKS, 100 * bid, ASK_TICKS, 100 * ask, flag, lot_size=100.0), lots)


def test_equal_levels_have_entropy_one_and_a_single_level_zero():
    assert_close(volume_entropy(jnp.full(3, 7.0), jnp.full(3, 7.0)), 1.0)
    assert_close(volume_entropy(jnp.array([5.0, 0, 0]), jnp.zeros(3)), 0.0)


@pytest.mark.thorough
@pytest.mark.parametrize("n_bid", [0, 1, 3])
@pytest.mark.parametrize("n_ask", [0, 1, 2, 3])
def test_short_ladders_are_finite_and_ignore_absent_ticks(precision, n_bid, n_ask):
    bid, ask = (jnp.where(jnp.arange(3) < n, 2.0, 0.0) for n in (n_bid, n_ask))

    def shape(bid, ask, junk):
        bid_ticks = jnp.where(bid > 0, jnp.array([9, 8, 7]), junk)
        ask_ticks = jnp.where(ask > 0, jnp.array([11, 13, 14]), -junk)
        return book_shape(bid_ticks, bid, ask_ticks, ask, jnp.array(0.0))

    assert jnp.array_equal(shape(bid, ask, 0), shape(bid, ask, -9_999))
    for gradient in jax.jit(jax.jacrev(shape, argnums=(0, 1)))(bid, ask, 0):
        assert jnp.all(jnp.isfinite(gradient))


def test_gradient_of_the_shape():
    @jax.jit
    def total(sizes):
        weights = jnp.array([1.0, -2.0, 3.0, 4.0, 0.0, 5.0])
        return book_shape(BID_TICKS, sizes[0], ASK_TICKS, sizes[1], jnp.array(0.0)) @ weights

    sizes, direction = 1.3 * jnp.array([BID, ASK]), jnp.cos(jnp.arange(12.0)).reshape(2, 6)
    slope = (total(sizes + 1e-5 * direction) - total(sizes - 1e-5 * direction)) / 2e-5
    assert_close(jnp.sum(jax.grad(total)(sizes) * direction), slope, 1e-8)


def test_jit_vmap_and_loop_agree(precision):
    rng = np.random.default_rng(0)
    bid, ask = jnp.asarray(rng.integers(0, 50, (2, 4, 6)), float)
    shape = jax.jit(lambda b, a: book_shape(BID_TICKS, b, ASK_TICKS, a, jnp.array(0.0)))
    assert_jit_vmap_loop_agree(shape, bid, ask)


def test_a_fat_finger_is_both_large_and_violent(precision):
    size = jnp.array([1.0, 2.0, 3.0, 9.0, 9.5, 1.0])
    move = jnp.array([9.0, 9.0, 0.0, -6.0, 1.0, 9.0])
    assert_close(fat_finger(size, move, jnp.ones(6), n_window=3), [0, 0, 0, 1.0, 0, 0])


def test_fat_finger_threshold_is_the_quantile_of_earlier_trades():
    rng = np.random.default_rng(0)
    size = rng.integers(1, 60, 400).astype(float)
    quantile = np.array([np.quantile(size[i - 100 : i], 0.97) for i in range(100, 400)])
    flags = fat_finger(jnp.asarray(size), jnp.ones(400), jnp.full(400, 0.1), n_window=100, level=0.97)
    np.testing.assert_array_equal(flags, np.concatenate([np.zeros(100), size[100:] > quantile]))
    assert 0 < flags.sum() < 50


def test_nothing_is_flagged_before_the_window_is_full_and_the_flag_has_no_gradient():
    size, move, scale = jnp.arange(1.0, 6.0), jnp.full(5, 9.0), jnp.ones(5)
    assert_close(fat_finger(size, move, scale, n_window=5), jnp.zeros(5))
    assert_close(jax.grad(lambda s: fat_finger(s, move, scale, n_window=2).sum())(size), jnp.zeros(5))


def test_robust_scale_ignores_an_outlier_and_keeps_constant_features(precision):
    rows = jnp.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0], [4.0, 5.0], [1e6, 7.0]])
    scale = RobustScale.fit(rows)
    assert_close(scale.location, [3.0, 5.0])
    assert_close(scale.scale, [1.482602218505602, 1.0])
    assert_close(scale(rows)[0], [-2 / 1.482602218505602, 0.0])


FLAGS = jax.jit(lambda size, move: fat_finger(size, move, jnp.full(60, 0.1), n_window=10, level=0.9))
SHAPES = jax.jit(
    lambda bid, flag: book_shape(jnp.tile(BID_TICKS, (60, 1)), bid, jnp.tile(ASK_TICKS, (60, 1)), bid, flag)
)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 59), st.integers(0, 2**32 - 1))
def test_later_rows_change_no_earlier_value(last, seed):
    rng = np.random.default_rng(seed)
    size, move, bid = rng.exponential(1.0, 60), rng.normal(size=60), rng.integers(0, 9, (60, 6)).astype(float)
    later = np.arange(60) > last
    others = size * np.where(later, 50.0, 1.0), np.where(later, 7.0, move), np.where(later[:, None], 3.0, bid)
    results = []
    for s, m, b in ((size, move, bid), others):
        flag = FLAGS(jnp.asarray(s), jnp.asarray(m))
        results.append(SHAPES(jnp.asarray(b), flag)[: last + 1])
    np.testing.assert_array_equal(*results)
