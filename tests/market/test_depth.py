"""Half spread, depth and slope of books whose numbers are known."""

import numpy as np
import pytest

from mfamm_jax.market.depth import measure_depth
from mfamm_jax.market.events import BookSnapshots, BookUpdates, DataError, Session


def session(size=10.0, n=5):
    """Asks at 101, 102, 103 and bids at 99, 98, 97, all of one size; ticks of one."""
    rows = np.ones((n, 1))
    updates = BookUpdates(
        np.arange(n) * 10**9,
        np.zeros(n, np.int8),
        np.ones(n, np.int8),
        np.full(n, 99, np.int32),
        np.full(n, size),
        np.arange(n).astype(np.uint64),
    )
    books = BookSnapshots(
        (rows * [99, 98, 97]).astype(np.int32),
        (rows * [size, size, size]).astype(np.float32),
        (rows * [101, 102, 103]).astype(np.int32),
        (rows * [size, size, size]).astype(np.float32),
    )
    return Session("known", 1.0, updates, books, "test", size_unit=0.5)


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_a_known_book(side):
    """Mid 100: levels at 100, 200 and 300 bp; taking all three costs 200 bp on average, that is a slope of 2 (200 - 100)/15."""
    found = measure_depth(session(), side, 300.0)
    assert found.mid == 100
    np.testing.assert_allclose([found.half_spread, found.capacity, found.slope], [100, 15, 200 / 15])
    narrow = measure_depth(session(), side, 100.0)
    np.testing.assert_allclose([narrow.capacity, narrow.slope], [5, 0])


def test_contracts_of_a_fixed_value_become_units():
    found = measure_depth(session(), "buy", 100.0, contract_value=100.0)
    np.testing.assert_allclose(found.capacity, 5 * 100 / 101)


def test_nothing_within_the_band_is_said():
    with pytest.raises(DataError, match="no depth within 50 bp of the mid, expected a wider band"):
        measure_depth(session(), "buy", 50.0)


@pytest.mark.thorough
def test_recorded_books(data_folder):
    """BTC on three venues: one tick of spread, and the perpetual is deeper than spot."""
    from mfamm_jax.experiments.sources import load_file

    folder = data_folder / "binance_btc_20240808"
    spot = measure_depth(load_file(str(folder / "spot_btcusdt_20240808.gz")), "buy", 5.0, n_moments=20)
    coin = measure_depth(load_file(str(folder / "cm_btcusd_perp_20240808.gz")), "buy", 5.0, 100.0, 20)
    for found in (spot, coin):
        assert 50_000 < found.mid < 70_000
        assert 0 < found.half_spread < 0.1
        assert found.slope > 0
    assert 1 < spot.capacity < 1000
    assert 1 < coin.capacity < 1000
