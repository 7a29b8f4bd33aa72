import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.features.imbalance_grid import GRID_LIMIT, GridScale, book_channels, mirror, snapshot_grid

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads


def books(n=200, n_levels=4, seed=0, missing=0.2):
    rng = np.random.default_rng(seed)
    mid = 1000 + np.cumsum(rng.integers(-1, 2, n))
    gaps = [np.cumsum(rng.integers(1, 4, (n, n_levels)), axis=1) for _ in range(2)]
    sizes = [np.where(rng.random((n, n_levels)) < missing, 0, rng.integers(1, 50, (n, n_levels))) for _ in range(2)]
    bid, ask = mid[:, None] - gaps[0], mid[:, None] + gaps[1]
    return tuple(jnp.asarray(x) for x in (bid, sizes[0] * 1.0, ask, sizes[1] * 1.0))


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_channels_by_hand(precision):
    with jax.enable_x64(precision == "float64"):
        bid, ask = jnp.array([[99, 97, 95]]), jnp.array([[102, 103, 110]])
        bid_size, ask_size = jnp.array([[30.0, 0.0, 10.0]]), jnp.array([[10.0, 0.0, 40.0]])
        values, present = book_channels(bid, bid_size, ask, ask_size)
        # Mid 100.5; level 2 is absent on both sides.
        np.testing.assert_array_equal(values[0, :, 0], [1.5, 0, 9.5])
        np.testing.assert_array_equal(values[0, :, 1], [1.5, 0, 5.5])
        assert_close(values[0, :, 2], np.array([20 / 30, 0, -30 / 40]), 1e-15, 1e-7)
        assert present[0].tolist() == [[True] * 3, [False] * 3, [True] * 3]
        two, there = book_channels(bid, bid_size, ask, ask_size, 2)
        np.testing.assert_array_equal(two[0, :, 0], [0, 0, 4.0])
        assert there[0, :, 0].tolist() == [True, False, True]


def test_without_a_touch_there_are_no_distances():
    bid, ask = jnp.array([[99, 97]]), jnp.array([[102, 103]])
    values, present = book_channels(bid, jnp.array([[0.0, 5.0]]), ask, jnp.array([[10.0, 3.0]]))
    assert not present[..., :2].any()
    assert (np.asarray(values[..., :2]) == 0).all()
    assert_close(values[0, :, 2], np.array([-1.0, 0.4]))


@pytest.mark.thorough
@pytest.mark.parametrize("n_channels", [2, 3])
def test_swapping_the_sides_is_mirroring_the_channels(n_channels):
    bid, bid_size, ask, ask_size = books()
    values, present = book_channels(bid, bid_size, ask, ask_size, n_channels)
    swapped, _ = book_channels(-ask, ask_size, -bid, bid_size, n_channels)
    np.testing.assert_array_equal(swapped, mirror(values))
    np.testing.assert_array_equal(mirror(mirror(values)), values)
    scale = GridScale.fit(values, present)
    order = [1, 0, 2] if n_channels == 3 else [0, 1]
    np.testing.assert_array_equal(scale(mirror(values), present[..., jnp.array(order)]), mirror(scale(values, present)))


def channels_by_loops(bid, bid_size, ask, ask_size, n_channels):
    """One level at a time; None = does not exist."""
    out = []
    for b, vb, a, va in zip(*(np.asarray(x, float) for x in (bid, bid_size, ask, ask_size))):
        mid = (a[0] + b[0]) / 2 if vb[0] > 0 and va[0] > 0 else None
        for k in range(len(b)):
            ask_far = a[k] - mid if mid is not None and va[k] > 0 else None
            bid_far = mid - b[k] if mid is not None and vb[k] > 0 else None
            imbalance = (vb[k] - va[k]) / max(vb[k], va[k]) if max(vb[k], va[k]) > 0 else None
            gap = None if None in (ask_far, bid_far) else ask_far - bid_far
            out.append([ask_far, bid_far, imbalance] if n_channels == 3 else [gap, imbalance])
    return np.array(out, float).reshape(*np.shape(bid), n_channels)


@pytest.mark.parametrize("n_channels", [2, 3])
def test_channels_are_those_of_a_plain_loop(n_channels, precision):
    found = [jnp.asarray(x, precision if x.dtype.kind == "f" else "int32") for x in books(missing=0.4)]
    values, present = book_channels(*found, n_channels)
    expected = channels_by_loops(*found, n_channels)
    np.testing.assert_array_equal(present, ~np.isnan(expected))
    assert_close(values, np.nan_to_num(expected), 1e-15, 1e-7)
    assert values.dtype == precision


@pytest.mark.thorough
@pytest.mark.parametrize("n_channels", [2, 3])
def test_scaling_and_mirroring_commute_to_the_last_bit(n_channels, precision):
    found = [jnp.asarray(x, precision if x.dtype.kind == "f" else "int32") for x in books(501, missing=0.3)]
    values, present = book_channels(*found, n_channels)
    swapped, there = book_channels(-found[2], found[3], -found[0], found[1], n_channels)
    scale = jax.jit(GridScale.fit)(values[:300], present[:300])
    apply = jax.jit(lambda s, x, p: s(x, p))
    np.testing.assert_array_equal(apply(scale, swapped, there), mirror(apply(scale, values, present)))
    # The same from the mirrored session: who is bid and who is ask does not matter.
    other = jax.jit(GridScale.fit)(swapped[:300], there[:300])
    np.testing.assert_array_equal(other.scale, scale.scale)
    np.testing.assert_array_equal(other.location, scale.location)


def test_slopes_are_right_and_finite_where_levels_are_absent():
    bid, bid_size, ask, ask_size = (x[:6] for x in books(missing=0.0))
    bid_size, ask_size = bid_size + 0.3 * jnp.arange(24.0).reshape(6, 4), ask_size + 0.1

    def total(b, a):
        values, present = book_channels(bid, b, ask, a)
        return jnp.sum(GridScale(jnp.zeros((4, 3)), jnp.full((4, 3), 2.0))(values, present) ** 2)

    check_grads(jax.jit(total), (bid_size, ask_size), 1, ["fwd", "rev"])
    for slope in jax.jit(jax.grad(total, (0, 1)))(jnp.zeros((6, 4)), jnp.zeros((6, 4))):
        assert np.isfinite(slope).all()


def test_scales_are_robust_and_those_of_the_rows_given():
    values, present = book_channels(*books())
    scale = GridScale.fit(values[:100], present[:100])
    known = np.where(present[:100], values[:100], np.nan)
    pooled = np.concatenate([known, np.asarray(mirror(jnp.asarray(known)))])
    location = np.nanmedian(pooled, axis=0)
    assert_close(scale.location, location)
    assert_close(scale.scale, 1.4826022185056018 * np.nanmedian(np.abs(pooled - location), axis=0), 1e-6)
    other = values.at[100:].set(1e6)
    np.testing.assert_array_equal(GridScale.fit(other[:100], present[:100]).scale, scale.scale)
    assert np.abs(scale(other, present)).max() <= GRID_LIMIT
    assert (np.asarray(scale(values, present))[~np.asarray(present)] == 0).all()


def test_constant_and_absent_levels_have_a_scale():
    bid, bid_size, ask, ask_size = books(missing=0.0)
    nothing = jnp.zeros_like(bid_size[:, :1])
    sizes = [jnp.concatenate([jnp.full_like(nothing, 7.0), x[:, 1:3], nothing], axis=1) for x in (bid_size, ask_size)]
    values, present = book_channels(bid, sizes[0], ask, sizes[1])
    scale = GridScale.fit(values, present)
    assert (np.asarray(scale.scale) > 0).all()
    assert (np.asarray(scale.location[3]) == 0).all()
    assert (np.asarray(scale(values, present))[:, 3] == 0).all()
    assert (np.asarray(scale(values, present))[:, 0, 2] == 0).all()


def test_a_grid_holds_the_named_snapshots_oldest_first():
    values, _ = book_channels(*books())
    rows = jnp.array([[3, 4, 5], [10, 20, 30]])
    grid = snapshot_grid(values, rows)
    assert grid.shape == (2, 3, 4, 3)
    np.testing.assert_array_equal(grid[1, 2], values[30])


def test_jit_vmap_and_loop_agree():
    bid, bid_size, ask, ask_size = books()
    rows = [x.reshape(20, 10, 4) for x in (bid, bid_size, ask, ask_size)]
    assert_jit_vmap_loop_agree(jax.jit(lambda *x: book_channels(*x)[0]), *rows)
