import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.solvers.calibrate import Box
from mfamm_jax.solvers.cma import evolve

from ..checks import assert_close

BOX = ([0.01, -2.0, -2.0], [10.0, 3.0, 3.0], (True, False, False))


def box():
    return Box(jnp.array(BOX[0]), jnp.array(BOX[1]), BOX[2])


def bowl(x, key):
    return jnp.log(x[0]) ** 2 + 10 * (x[1] - 1.0) ** 2 + (x[2] - x[1]) ** 2


def search(loss, starts, seed=0, **options):
    settings = {"population": 12, "n_generations": 80} | options
    return jax.jit(lambda s, key: evolve(loss, box(), s, key, **settings))(starts, jax.random.key(seed))


def test_it_finds_the_minimum_of_a_bowl_from_every_start(precision):
    found = search(bowl, box().draw(jax.random.key(1), 3))
    assert found.parameters.shape == (3, 3)
    assert found.history.shape == (3, 80)
    assert int(found.n_evaluations) == 12 * 80
    for row in found.parameters:
        assert_close(row, jnp.ones(3), 1e-6, 1e-3)
    assert bool(jnp.all(found.history[:, -1] < found.history[:, 0]))


def test_it_copes_with_steps_and_with_losses_that_are_not_finite():
    def stairs(x, key):
        value = jnp.floor(20 * jnp.abs(x[1] - 1.0)) + bowl(x, key)
        return jnp.where(x[2] > 2.0, jnp.nan, value)

    found = search(stairs, jnp.array([[1.0, 0.0, 1.9]]))
    assert bool(jnp.isfinite(found.best_loss).all())
    assert_close(found.parameters[0, 1], 1.0, 5e-2)


def test_members_of_a_generation_share_their_luck():
    """A draw that only shifts the loss changes nothing of the search; fresh draws for every member would."""
    starts = jnp.array([[0.1, 0.0, 0.0]])
    plain = search(bowl, starts, n_generations=20)
    shifted = search(lambda x, key: bowl(x, key) + 100 * jax.random.normal(key), starts, n_generations=20)
    np.testing.assert_allclose(shifted.parameters, plain.parameters, rtol=1e-6)


def test_a_limit_holds_at_the_minimum_that_it_cuts_off():
    """Smallest bowl with x1 <= 0: the price of the limit is 20, the penalty larger."""
    found = search(lambda x, key: (bowl(x, key), x[1:2]), jnp.array([[1.0, -1.0, 0.0]]), penalty=100.0)
    assert_close(found.parameters[0], jnp.array([1.0, 0.0, 0.0]), 1e-3)


@pytest.mark.thorough
def test_the_mean_is_better_than_the_luckiest_member_when_draws_are_noisy():
    def noisy(x, key):
        seed = jax.random.fold_in(key, jnp.asarray(1e6 * jnp.sum(x), jnp.int32))
        return bowl(x, key) + 0.5 * jax.random.normal(seed)

    found = search(noisy, jnp.tile(jnp.array([[1.0, 0.0, 0.0]]), (12, 1)), population=24, n_generations=60)
    mean, luckiest = (jax.vmap(lambda x: bowl(x, None))(x) for x in (found.parameters, found.best))
    assert float(jnp.mean(mean)) < 0.5 * float(jnp.mean(luckiest))


@pytest.mark.thorough
def test_two_searches_of_one_size_share_a_strategy_and_jit_equals_no_jit():
    starts = jnp.array([[1.0, 0.0, 0.0]])
    compiled = search(bowl, starts, n_generations=5)
    plain = evolve(bowl, box(), starts, jax.random.key(0), population=12, n_generations=5)
    np.testing.assert_allclose(compiled.parameters, plain.parameters, rtol=1e-9)


@pytest.mark.parametrize("options", [{"population": 3}, {"n_generations": 0}])
def test_impossible_sizes_are_refused(options):
    with pytest.raises(ValueError, match="population"):
        search(bowl, jnp.array([[1.0, 0.0, 0.0]]), **options)
