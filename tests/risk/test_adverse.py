import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.risk.adverse import adverse_selection

from ..checks import assert_close, check_grads

ROOM, BLOCKS = 300, 20  # one shape, one compilation
measured = jax.jit(adverse_selection, static_argnums=(0, 6))


def measure(sign, lots, before, later, counts=None, block=None, n_blocks=BLOCKS):
    """What the fills cost; rows without lots fill up to the common shape."""
    n = len(lots)
    counts, block = (np.ones(n) if counts is None else counts), (np.zeros(n) if block is None else block)
    columns = ((lots, float), (before, float), (later, float), (counts, bool), (block, np.int32))
    arrays = [jnp.array(np.pad(np.array(x, dtype), (0, ROOM - n))) for x, dtype in columns]
    return measured(sign, *arrays, n_blocks)


def test_the_mean_is_weighted_by_lots():
    # Bought 2 and 1 lots; the mid fell by 3 and rose by 1 afterwards.
    found = measure(1, [2, 0, 1], [100, 50, 100], [97, 60, 101])
    assert_close(found.mean, (2 * 3 - 1 * 1) / 3)
    assert int(found.n_fills) == 2


def test_what_costs_a_buyer_pays_a_seller():
    bid, ask = (measure(sign, [2, 1, 4], [10, 11, 12], [9, 13, 12], block=[0, 1, 3]) for sign in (1, -1))
    assert_close(bid.mean, (2 * 1 - 1 * 2) / 7)
    assert_close(ask.mean, -bid.mean)
    assert_close(ask.error, bid.error)


def test_fills_without_a_later_mid_do_not_count():
    found = measure(1, [2, 5, 1], [100, 100, 100], [99, np.nan, 98], [True, False, True], [0, 1, 2])
    assert_close(found.mean, (2 * 1 + 1 * 2) / 3)
    assert (int(found.n_fills), int(found.n_blocks)) == (2, 2)
    assert np.isfinite(found.error)


def test_the_error_of_two_blocks_by_hand():
    # Blocks of 3 and 1 lots, losses 5 and 3: epsilon 2, residuals -1 and +1, error sqrt(2/1 * 2) / 4.
    found = measure(1, [1, 2, 1], [10, 10, 10], [9, 8, 7], block=[1, 1, 3])
    assert_close(found.mean, 2.0)
    assert_close(found.error, 0.5)
    assert int(found.n_blocks) == 2


def test_nothing_filled_costs_nothing_and_is_not_known():
    for found in (measure(1, [0, 0], [10, 10], [9, 8]), measure(-1, [1, 1], [1, 1], [2, 2], [False, False])):
        assert_close(found.mean, 0.0)
        assert np.isinf(found.error)
        assert (int(found.n_fills), int(found.n_blocks)) == (0, 0)


def test_one_block_has_no_error_to_measure():
    found = measure(1, [1, 2, 3], [10, 10, 10], [9, 8, 7], block=[2, 2, 2])
    assert np.isinf(found.error)
    assert int(found.n_blocks) == 1
    assert_close(found.mean, (1 + 4 + 9) / 6)


def random_fills(seed, n=ROOM, n_blocks=BLOCKS):
    rng = np.random.default_rng(seed)
    block = np.sort(rng.integers(0, n_blocks, n)).astype(np.int32)
    lots = rng.choice([0.0, 1.0, 2.5], n)
    lots[block % 7 == 3] = 0.0  # blocks without fills do not count
    before = 100 + rng.normal(size=n)
    later = before - 0.3 + rng.normal(size=n_blocks)[block] + 0.1 * rng.normal(size=n)
    return lots, before, later, rng.random(n) < 0.9, block, n_blocks


def brute_force(sign, lots, before, later, counts, block, n_blocks):
    lots_of, loss_of = {}, {}
    for q, m, m_later, used, b in zip(lots.tolist(), before.tolist(), later.tolist(), counts.tolist(), block.tolist()):
        if used and q > 0:
            lots_of[b] = lots_of.get(b, 0.0) + q
            loss_of[b] = loss_of.get(b, 0.0) + q * sign * (m - m_later)
    n, total = len(lots_of), sum(lots_of.values())
    mean = sum(loss_of.values()) / total
    residuals = [loss_of[b] - mean * lots_of[b] for b in lots_of]
    return mean, (n / (n - 1) * sum(r * r for r in residuals)) ** 0.5 / total, n


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_clustered_error_is_that_of_a_ratio_over_blocks(sign, seed):
    fills = random_fills(seed)
    found = measure(sign, *fills)
    mean, error, n_blocks = brute_force(sign, *fills)
    assert_close(found.mean, mean)
    assert_close(found.error, error)
    assert int(found.n_blocks) == n_blocks < 20
    assert int(found.n_fills) == int((fills[3] & (fills[0] > 0)).sum())
    # Fills of a block move together: counted one by one they would seem to say more than they do.
    alone = measure(sign, *fills[:4], np.arange(ROOM), ROOM)
    assert alone.error < 0.5 * found.error


def test_the_error_is_the_spread_of_the_mean_over_repetitions():
    found = [measure(1, *random_fills(seed)) for seed in range(100, 200)]
    spread = np.std([float(one.mean) for one in found], ddof=1)
    # A hundred repetitions know it to about 7 %, 17 blocks with fills to some 20 %, and their mean much better.
    assert np.mean([float(one.error) for one in found]) == pytest.approx(spread, rel=0.25)


def test_jit_and_precision_agree(precision):
    fills = random_fills(4)
    *arrays, n_blocks = fills
    arrays = [jnp.array(x) for x in arrays]
    plain = adverse_selection(1, *arrays, n_blocks)
    jitted = measured(1, *arrays, n_blocks)
    exact = brute_force(1, *fills)
    for one in (plain, jitted):
        assert one.mean.dtype == jnp.result_type(float)
        assert_close(one.mean, exact[0], float32=1e-4)
        assert_close(one.error, exact[1], float32=1e-4)
    many = jax.vmap(lambda later: measured(1, *arrays[:2], later, *arrays[3:], n_blocks).mean)
    assert_close(many(jnp.array([fills[2], fills[2] + 1]))[1], plain.mean - 1, float32=1e-4)


def test_the_mean_has_a_gradient_in_the_mids():
    lots, before, later, counts, block, n_blocks = random_fills(5, n=12, n_blocks=4)
    arrays = jnp.array(lots), jnp.array(counts), jnp.array(block)

    def both(before, later):
        mids = jnp.asarray(before), jnp.asarray(later)
        found = measured(1, arrays[0], *mids, arrays[1], arrays[2], n_blocks)
        return found.mean, found.error

    check_grads(both, (jnp.array(before), jnp.array(later)), order=1, modes=["fwd", "rev"])
