"""Generated sessions of assets that belong together."""

import numpy as np
import pytest

from mfamm_jax.market.events import NS
from mfamm_jax.market.related import generate_related
from mfamm_jax.market.synthetic import START_NS, OutsidePrice, generate_session


def mids(sessions, seconds):
    at = START_NS + (seconds * NS).astype(np.int64)
    rows = [np.searchsorted(s.updates.t_ns, at, side="right") - 1 for s in sessions]
    return np.stack([0.5 * (s.books.bid_ticks[r, 0] + s.books.ask_ticks[r, 0]) for s, r in zip(sessions, rows)])


@pytest.mark.thorough
def test_the_planted_combination_reverts_and_the_others_walk():
    """Deviation of the residual against that of the steps: prices that walk are farther from their mean than their steps would let a stationary one be."""
    sessions, truth = generate_related("small_tick", 3, 600.0, 0, volatility=6.0, residual_deviation=60.0)
    prices = mids(sessions, np.arange(5.0, 600.0, 5.0))
    residual = np.asarray(truth["weights"]) @ prices
    kept = np.corrcoef(residual[:-1], residual[1:])[0, 1]
    assert 0.5 < kept < 0.97  # exp(-5 ln 2/30) = 0.89, less what bouncing takes, estimated from 119 rows
    assert abs(residual.mean()) < 60
    assert 30 < residual.std() < 90  # 60 planted, of about ten independent draws
    moved = np.diff(prices, axis=1)
    correlation = np.corrcoef(moved)
    assert abs(correlation[0, 2]) < 0.3
    assert abs(correlation[1, 2]) < 0.3


def test_same_seed_same_sessions_and_other_seeds_others():
    one, _ = generate_related("quiet_small_tick", 2, 40.0, 5)
    same, _ = generate_related("quiet_small_tick", 2, 40.0, 5)
    other, _ = generate_related("quiet_small_tick", 2, 40.0, 6)
    for a, b in zip(one, same):
        np.testing.assert_array_equal(a.updates.t_ns, b.updates.t_ns)
        np.testing.assert_array_equal(a.books.bid_ticks, b.books.bid_ticks)
    assert not np.array_equal(one[0].updates.t_ns, other[0].updates.t_ns)
    assert not np.array_equal(one[0].updates.t_ns, one[1].updates.t_ns)


def test_the_flow_follows_an_outside_price():
    steps = np.repeat([58_500.0, 58_800.0], 300)
    session, _ = generate_session("small_tick", 60.0, 1, outside=OutsidePrice(steps, 0.1, 2.0))
    before, after = mids([session], np.array([29.0, 40.0]))[0]
    assert abs(before - 58_500) < 40
    assert abs(after - 58_800) < 40


def test_an_outside_price_is_straight_between_its_points_and_constant_after_them():
    price = OutsidePrice(np.array([10.0, 20.0]), 0.5, 1.0)
    assert [price.at(t) for t in (0.0, 0.25, 0.5, 9.0)] == [10.0, 15.0, 20.0, 20.0]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"preset": "x"}, "expected one of"),
        ({"n_assets": 1}, "at least 2"),
        ({"loading": 0.0}, "not 0"),
        ({"half_life": 0.0}, "half_life is 0"),
        ({"duration": np.inf}, "duration is inf"),
    ],
)
def test_impossible_sessions_are_refused(changed, said):
    given = {"preset": "small_tick", "n_assets": 2, "duration": 30.0, "seed": 0} | changed
    with pytest.raises(ValueError, match=said):
        generate_related(**given)
