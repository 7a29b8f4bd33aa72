import numpy as np
import pytest

from mfamm_jax.features.clock import carry, durations, last_index, regular_grid


def test_grid_takes_the_last_event_at_or_before_each_multiple():
    t_ns = np.array([7, 10, 10, 19, 31], dtype=np.int64)
    grid_ns, index = regular_grid(t_ns, 10)
    np.testing.assert_array_equal(grid_ns, [10, 20, 30])
    np.testing.assert_array_equal(index, [2, 3, 3])


def test_grid_keeps_single_nanoseconds_of_an_epoch():
    t_ns = np.array([1_700_000_000_000_000_001, 1_700_000_001_000_000_000], dtype=np.int64)
    grid_ns, index = regular_grid(t_ns, 500_000_000)
    np.testing.assert_array_equal(grid_ns, [1_700_000_000_500_000_000, 1_700_000_001_000_000_000])
    np.testing.assert_array_equal(index, [0, 1])


def test_grid_is_empty_between_two_multiples():
    grid_ns, index = regular_grid(np.array([1, 9], dtype=np.int64), 10)
    assert len(grid_ns) == len(index) == 0


@pytest.mark.parametrize(("t_ns", "step"), [([1, 2], 0), ([], 10)])
def test_grid_refuses_no_step_and_no_events(t_ns, step):
    with pytest.raises(ValueError, match="expected"):
        regular_grid(np.array(t_ns, dtype=np.int64), step)


def test_durations_are_exact_where_float_epochs_are_not():
    t_ns = np.array([1_700_000_000_000_000_001, 1_700_000_000_000_000_004], dtype=np.int64)
    assert durations(t_ns).tolist() == [3e-9]


def test_carry_repeats_the_last_value_and_marks_what_precedes_it():
    index = last_index(np.array([5, 8], dtype=np.int64), np.array([4, 5, 7, 9], dtype=np.int64))
    np.testing.assert_array_equal(index, [-1, 0, 0, 1])
    np.testing.assert_array_equal(carry(np.array([0.25, 0.75]), index, before=0.0), [0.0, 0.25, 0.25, 0.75])
    np.testing.assert_array_equal(carry(np.array([[1, 2], [3, 4]]), index[1:]), [[1, 2], [1, 2], [3, 4]])
    with pytest.raises(ValueError, match="1 queries precede"):
        carry(np.array([0.25, 0.75]), index)


def test_carrying_is_adapted():
    rng = np.random.default_rng(0)
    t_ns = np.sort(rng.integers(0, 1000, 200)).astype(np.int64)
    grid_ns, index = regular_grid(t_ns, 13)
    for row, time in zip(index, grid_ns):
        assert t_ns[row] <= time
        assert row + 1 == len(t_ns) or t_ns[row + 1] > time
