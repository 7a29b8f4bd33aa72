"""Axes: every code lies in its cell at its place, and interpolation weights are those of straight lines."""

import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.fpga_export import SegmentedAxis, UniformAxis
from mfamm_jax.fpga_export.axes import cell_samples, hat_weights


@pytest.mark.parametrize("axis", [SegmentedAxis(6, 3), SegmentedAxis(1, 1), SegmentedAxis(12, 2), SegmentedAxis(8, 4)])
def test_every_time_code_is_located(axis):
    code = np.arange(1 << 16)
    node, place = (np.asarray(x) for x in axis.locate(jnp.asarray(code, jnp.int32)))
    codes = axis.codes()
    assert len(codes) == axis.n_nodes
    assert (np.diff(codes) > 0).all()
    assert codes[0] == 0
    assert codes[-1] == 1 << 16
    np.testing.assert_array_equal(node, np.searchsorted(codes, code, side="right") - 1)
    np.testing.assert_array_equal(
        place, (code - codes[node]) * 2**axis.fraction_bits // (codes[node + 1] - codes[node])
    )
    assert place.max() < 2**axis.fraction_bits


def test_uniform_codes_are_located():
    axis = UniformAxis(11, -2.0, 0.5, 6, "risk")
    code = np.arange(axis.last_code + 1)
    node, place = axis.locate(jnp.asarray(code, jnp.int32))
    np.testing.assert_allclose(axis.low + axis.spacing * (node + place / 64), -2.0 + 0.5 * code / 64)
    assert int(node[-1]) == axis.n_nodes - 2
    assert axis.code_bits == 10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UniformAxis(1, 0.0, 1.0, 8, "risk"), "risk: 1 nodes"),
        (lambda: UniformAxis(4, 0.0, 0.0, 8, "risk"), "do not increase"),
        (lambda: UniformAxis(4, np.nan, 1.0, 8, "risk"), "do not increase"),
        (lambda: UniformAxis(4, 0.0, 1.0, 13, "risk"), "fraction bits"),
        (lambda: SegmentedAxis(0, 3), "octaves"),
        (lambda: SegmentedAxis(12, 4), "at most 15 bits"),
    ],
)
def test_axes_that_cannot_be_built_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_weights_interpolate_straight_lines_exactly():
    axis = SegmentedAxis(3, 2)
    codes = cell_samples(axis, 4)
    weights = hat_weights(codes, axis.codes())
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    np.testing.assert_allclose(weights @ (3.0 + 2.0 * axis.codes()), 3.0 + 2.0 * codes)
    assert set(axis.codes()) <= set(codes)
    with pytest.raises(ValueError, match="too few for 64 points"):
        cell_samples(SegmentedAxis(8, 4), 64)
