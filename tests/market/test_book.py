import jax
import jax.numpy as jnp
import numpy as np

from mfamm_jax.market.book import microprice, mid, queue_imbalance, spread

from ..checks import assert_close, assert_jit_vmap_loop_agree


def test_hand_computed_book(precision):
    bid, ask = jnp.array(98), jnp.array(102)
    assert mid(bid, ask) == 100
    assert spread(bid, ask) == 4
    sizes = jnp.array(300.0), jnp.array(100.0)
    assert_close(queue_imbalance(*sizes), 0.5)
    # Three quarters of the volume bids, so the price leans three quarters of the way to the ask.
    assert_close(microprice(bid, ask, *sizes), 101.0)


def test_an_empty_touch_has_no_imbalance_and_finite_gradients(precision):
    zero = jnp.zeros(())
    assert queue_imbalance(zero, zero) == 0
    assert all(np.isfinite(jax.grad(queue_imbalance, argnums=(0, 1))(zero, zero)))
    assert microprice(jnp.array(98), jnp.array(102), zero, zero) == 100


def test_mirroring_the_book_flips_the_imbalance():
    bid, ask = jnp.array([1.0, 5.0, 0.0]), jnp.array([3.0, 0.0, 2.0])
    np.testing.assert_array_equal(queue_imbalance(bid, ask), -queue_imbalance(ask, bid))
    np.testing.assert_array_equal(queue_imbalance(bid, ask), [-0.5, 1.0, -1.0])


def test_jit_vmap_and_loop_agree():
    key = jax.random.key(0)
    assert_jit_vmap_loop_agree(queue_imbalance, jax.random.uniform(key, (5,)), jax.random.uniform(key, (5,)) + 1)
