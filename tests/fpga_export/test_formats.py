"""Fixed-point numbers: rounding, ranges, proofs by intervals, and derivatives that pass through rounding."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.fpga_export import FixedFormat, Interval, quantize_straight_through, smallest_format


def test_rounding_is_half_up():
    form = FixedFormat(True, 8, 2)
    found = form.quantize(np.array([0.125, -0.125, 0.374, -0.375, 31.75, -32.0]))
    assert found.tolist() == [1, 0, 1, -1, 127, -128]
    assert form.real(found)[0] == 0.25


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, r"depth\[1, 0\] = nan is not finite"),
        (np.inf, "is not finite"),
        (32.0, r"depth\[1, 0\] = 32 does not fit s8 F2"),
    ],
)
def test_what_does_not_fit_is_named(value, message):
    table = np.zeros((2, 2))
    table[1, 0] = value
    with pytest.raises(ValueError, match=message):
        FixedFormat(True, 8, 2).quantize(table, "depth")


@pytest.mark.parametrize(
    ("low", "high", "width"), [(-6.58, 13.25, 13), (-8.0, 7.99, 12), (-8.0, 8.0, 13), (0.0, 0.0, 2)]
)
def test_the_narrowest_format_holds_the_range(low, high, width):
    form = smallest_format(low, high, 8)
    assert form.width == width
    form.quantize(np.array([low, high]))
    if width > 2:
        with pytest.raises(ValueError, match="does not fit"):
            FixedFormat(True, width - 1, 8).quantize(np.array([low, high]))


def test_a_range_that_is_no_range_is_refused():
    for ends in ((np.nan, 1.0), (2.0, 1.0), (0.0, np.inf)):
        with pytest.raises(ValueError, match="two finite numbers in order"):
            smallest_format(*ends, 4)


def test_intervals_hold_every_result_and_no_more():
    a, b = Interval("a", -5, 3, 2), Interval("b", -2, 7, 2)
    pairs = list(itertools.product(range(a.low, a.high + 1), range(b.low, b.high + 1)))
    for made, results in (
        (a.plus(b, "sum"), [x + y for x, y in pairs]),
        (a.minus(b, "difference"), [x - y for x, y in pairs]),
        (a.times(b, "product"), [x * y for x, y in pairs]),
        (a.rounded(1, "rounded"), [(x + 1) >> 1 for x in range(a.low, a.high + 1)]),
        (a.raised(3, "raised"), [x << 3 for x in range(a.low, a.high + 1)]),
        (a.within(-1, 9, "clamped"), [max(-1, min(9, x)) for x in range(a.low, a.high + 1)]),
    ):
        assert (made.low, made.high) == (min(results), max(results))
    assert a.times(b, "p").fraction == 4
    assert a.rounded(1, "r").fraction == 1


@pytest.mark.parametrize(("low", "high", "bits"), [(0, 0, 1), (-1, 0, 1), (-128, 127, 8), (-129, 0, 9), (0, 128, 9)])
def test_bits_of_an_interval(low, high, bits):
    assert Interval("x", low, high).bits == bits


def test_an_operation_beyond_32_bits_is_refused_by_name():
    # The specification's own example just fits, one more does not.
    place = Interval("place", 0, 8191, 13)
    difference = Interval("difference", -262143 // 2, 262143 // 2)
    assert difference.times(place, "product").bits <= 32
    with pytest.raises(ValueError, match=r"far product: the interval .* needs 3[3-9] bits"):
        Interval("far product", 0, 1 << 32)
    with pytest.raises(ValueError, match="wide has 19 bits, a multiplier 18"):
        Interval("wide", -(1 << 18), 0).times(place, "product")
    with pytest.raises(ValueError, match="fraction bits"):
        Interval("a", 0, 1, 2).plus(Interval("b", 0, 1, 3), "sum")


def test_straight_through_derivative_is_one_inside_and_zero_outside(precision):
    form = FixedFormat(True, 6, 2)  # -8 .. 7.75
    x = jnp.array([-9.0, -7.9, -0.3, 0.1, 7.7, 8.5])
    value, slope = jax.vmap(jax.value_and_grad(lambda v: quantize_straight_through(v, form)))(x)
    np.testing.assert_array_equal(value, form.real(np.clip(np.floor(np.asarray(x) * 4 + 0.5), -32, 31)))
    np.testing.assert_array_equal(slope, [0, 1, 1, 1, 1, 0])


def test_nodes_trained_through_rounding_beat_sampled_ones():
    form = FixedFormat(True, 10, 5)
    x = jnp.linspace(0.0, 1.0, 65)
    target, nodes = jnp.exp(2 * x), jnp.linspace(0.0, 1.0, 5)

    def error(values):
        return jnp.max(jnp.abs(jnp.interp(x, nodes, quantize_straight_through(values, form)) - target))

    def loss(values):
        return jnp.mean((jnp.interp(x, nodes, quantize_straight_through(values, form)) - target) ** 2)

    sampled = jnp.exp(2 * nodes)
    values = sampled
    for _ in range(200):
        values = values - 0.5 * jax.grad(loss)(values)
    assert loss(values) < 0.4 * loss(sampled)
    assert error(values) < 0.9 * error(sampled)
