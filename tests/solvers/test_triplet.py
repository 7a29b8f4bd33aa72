import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.solvers.triplet import TripletLoss

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads


def test_hand_computed_triplets(precision):
    anchor, near, far = jnp.array([0.0, 0.0]), jnp.array([3.0, 4.0]), jnp.array([0.0, 5.1])
    # Distances 5 and 5.1: the negative is 0.1 further, 0.3 was asked for.
    assert_close(TripletLoss()(anchor, near, far), 0.2, float32=1e-6)
    assert TripletLoss()(anchor, near, 2 * far) == 0
    assert_close(TripletLoss(margin=0.5)(anchor, far, near), 0.6, float32=1e-6)


def test_gradients_are_right_and_finite_for_equal_points():
    points = jax.random.normal(jax.random.key(0), (3, 5))
    check_grads(jax.jit(lambda *p: TripletLoss(margin=2.0)(*p)), tuple(points), order=1, modes=["fwd", "rev"])
    same = jnp.ones(5)
    slopes = jax.grad(lambda *p: TripletLoss()(*p), argnums=(0, 1, 2))(same, same, same)
    assert all(np.isfinite(slope).all() for slope in slopes)


def test_jit_vmap_and_loop_agree():
    batch = jax.random.normal(jax.random.key(1), (3, 6, 4))
    assert_jit_vmap_loop_agree(lambda a, p, n: TripletLoss()(a, p, n), *batch)


def test_a_negative_margin_is_refused():
    with pytest.raises(ValueError, match=r"TripletLoss\.margin is -0\.1, expected >= 0"):
        TripletLoss(margin=-0.1)
