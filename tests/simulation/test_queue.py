import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.simulation.queue import behind_probability, front_after_change, lots_reached

from ..checks import assert_close, assert_jit_vmap_loop_agree

MODELS = ("power", "power2", "power3", "log", "log2")
# F = 3, B = 1, n = 2, worked by hand from Q-1.
REFERENCE = {
    "power": 0.1,
    "power2": 1 / 16,
    "power3": 0.4375,
    "log": math.log(2) / (math.log(2) + math.log(4)),
    "log2": math.log(2) / math.log(5),
}


def real(*values):
    return [jnp.asarray(value, float) for value in values]


@pytest.mark.parametrize("model", MODELS)
def test_reference_values(model, precision):
    assert_close(behind_probability(model, *real(3, 1, 2)), REFERENCE[model], float32=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_with_nothing_in_front_every_decrease_is_behind(model):
    for front, back in ((0, 0), (0, 5), (-2, 5), (-2, 0)):
        assert behind_probability(model, *real(front, back, 0.5)) == 1


@pytest.mark.parametrize("model", MODELS)
def test_with_nothing_behind_every_decrease_is_in_front(model):
    for back in (0, -3):
        assert behind_probability(model, *real(7, back, 2)) == 0


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("front", "back"), [(0, 0), (0, 1), (3, 0), (-1, 2), (1e9, 1e9), (3, 1)])
def test_probabilities_and_gradients_are_finite_at_the_limits(model, front, back, precision):
    value, slopes = jax.value_and_grad(lambda f, b: behind_probability(model, f, b, *real(0.5)), argnums=(0, 1))(
        *real(front, back)
    )
    assert 0 <= value <= 1
    assert np.isfinite(slopes).all()


@pytest.mark.parametrize("model", [*MODELS, "risk_averse"])
def test_a_growing_level_changes_nothing_in_front(model):
    assert front_after_change(model, *real(3, 0, 4, 9, 2)) == 3


@pytest.mark.parametrize("model", [*MODELS, "risk_averse"])
def test_the_front_is_never_more_than_what_is_shown(model):
    assert front_after_change(model, *real(8, 0, 10, 2, 2)) <= 2


def test_cancels_move_us_forward_by_the_expected_share():
    # F = 3, B = 1: of 2 cancelled, P = 0.1 were behind: 3 - 0.9 x 2.
    assert_close(front_after_change("power", *real(3, 0, 4, 2, 2)), 1.2)
    assert_close(front_after_change("risk_averse", *real(3, 0, 4, 2, 2)), 2.0)
    # F = 0.5, B = 1.5: P = 0.9; of 2 cancelled 1.8 are expected behind, 0.3 more than stood there: the front pays.
    assert_close(front_after_change("power", *real(0.5, 0, 2, 0.6, 2)), 0.5 - 0.1 * 1.4)
    assert_close(front_after_change("power", *real(0.5, 0, 2, 0.0, 2)), 0.5 - 0.1 * 2 + (1.5 - 0.9 * 2))


def test_trades_already_counted_are_no_cancels():
    # 4 shown, 1 executed, 3 shown: nothing was cancelled.
    assert front_after_change("power", *real(2, 1, 4, 3, 2)) == 2


def test_lots_reached_round_half_up_and_are_never_negative():
    fronts = jnp.array([10.0, -49.0, -50.0, -149.0, -150.0])
    np.testing.assert_array_equal(lots_reached(fronts, jnp.array(100.0)), [0, 0, 1, 1, 2])


def test_jit_vmap_and_loop_agree():
    key = jax.random.key(0)
    front, back = jax.random.uniform(key, (2, 6), minval=-1, maxval=5)
    assert_jit_vmap_loop_agree(lambda f, b: behind_probability("power", f, b, jnp.asarray(1.5)), front, back)
