import dataclasses

import numpy as np
import pytest

from mfamm_jax.experiments.imbalance_data import BLOCKS, GridSettings, Labels, Split, assign_blocks, build_samples
from mfamm_jax.market.events import DataError
from mfamm_jax.market.planted import generate_planted

GRID = GridSettings(n_snapshots=5, n_levels=4)


def session(n=400, seed=0, strength=4.0):
    return generate_planted(n, strength, seed)


def changed(found, rows, **books):
    new = {}
    for name, value in vars(found.books).items():
        copy = value.copy()
        if name in books:
            copy[rows] = books[name](copy[rows])
        new[name] = copy
    return dataclasses.replace(found, books=type(found.books)(**new))


@pytest.fixture(scope="module")
def built():
    found, truth = session()
    return found, *build_samples(found, GRID, Labels(), Split(embargo=2.0), truth)


def test_labels_are_those_of_a_plain_loop(built):
    found, samples, facts = built
    mid = (found.books.bid_ticks[:, 0] + found.books.ask_ticks[:, 0]) / 2
    for i in range(0, len(samples), 37):
        row = round(samples.seconds[i] / 0.1)
        move = np.mean([mid[row + k] for k in range(1, 11)]) - mid[row]
        assert abs(samples.move_ticks[i] - move) < 1e-9
        assert samples.label[i] == (np.sign(move) if abs(move) >= facts.flat_ticks else 0)
        size = found.books.bid_size[row, 0], found.books.ask_size[row, 0]
        assert abs(samples.queue_imbalance[i] - (size[0] - size[1]) / (size[0] + size[1])) < 1e-6


def test_no_window_and_no_label_reaches_into_another_block(built):
    found, samples, facts = built
    total = (found.updates.t_ns[-1] - found.updates.t_ns[0]) / 1e9
    edges = [0.0, 0.6 * total, 0.8 * total, total]
    for t, block in zip(samples.seconds, samples.block):
        fits = [
            k
            for k in range(3)
            if (k == 0 or t - 0.4 >= edges[k] + 2.0 - 1e-6)
            and (k == 2 or t + 1.0 <= edges[k + 1] + 1e-6)
            and edges[k] <= t < edges[k + 1] + 1e-6
        ]
        assert [block] == fits or (block == -1 and not fits)
    assert facts.n_purged == (samples.block < 0).sum() > 0
    assert facts.gap == pytest.approx(0.4 + 1.0)
    for name in BLOCKS:
        part = samples.part(name)
        assert facts.counts[name]["up"] == (part.label > 0).sum()


def test_the_future_changes_no_grid(built):
    found, samples, _ = built
    j = int(np.flatnonzero(samples.block == 2)[10])  # the scale comes from the fit block alone
    row = round(samples.seconds[j] / 0.1)
    late = changed(found, slice(row + 1, None), bid_size=lambda x: x * 7 + 1, ask_size=lambda x: x * 3 + 2)
    after, _ = build_samples(late, GRID, Labels(), Split(embargo=2.0))
    for name in ("grid", "microprice_move", "queue_imbalance"):
        np.testing.assert_array_equal(getattr(after, name)[: j + 1], getattr(samples, name)[: j + 1])
    assert (after.grid[j + 1 :] != samples.grid[j + 1 :]).any()


def test_later_mids_change_labels_only(built):
    found, samples, _ = built
    j = int(np.flatnonzero(samples.block == 2)[10])
    row = round(samples.seconds[j] / 0.1)
    jump = changed(found, slice(row + 1, row + 11), bid_ticks=lambda x: x + 5, ask_ticks=lambda x: x + 5)
    other, _ = build_samples(jump, GRID, Labels(), Split(embargo=2.0))
    np.testing.assert_array_equal(other.grid[: j + 1], samples.grid[: j + 1])
    assert other.move_ticks[j] == samples.move_ticks[j] + 5
    np.testing.assert_array_equal(other.move_ticks[: j - 1], samples.move_ticks[: j - 1])


def test_the_scale_is_that_of_the_fit_block(built):
    found, _, facts = built
    n = len(found.books.bid_size)
    late = changed(found, slice(int(0.62 * n), None), bid_size=lambda x: x * 100)
    _, other = build_samples(late, GRID, Labels(), Split(embargo=2.0))
    np.testing.assert_array_equal(other.scale.scale, facts.scale.scale)
    np.testing.assert_array_equal(other.scale.location, facts.scale.location)


def test_a_delay_shifts_the_labels():
    found, _ = session()
    now, _ = build_samples(found, GRID, Labels(), Split())
    later, _ = build_samples(found, GRID, Labels(delay=2.0), Split())
    np.testing.assert_allclose(later.move_ticks[:100], now.move_ticks[2:102])
    np.testing.assert_array_equal(later.seconds[:100], now.seconds[:100])


def test_the_planted_probability_comes_along_where_moves_are_decided(built):
    found, truth = session()
    samples, _ = build_samples(found, GridSettings(), Labels(), Split(), truth)  # ten snapshots: a sample per decision
    row = np.round(samples.seconds / 0.1).astype(int)
    np.testing.assert_array_equal(samples.up_probability, truth["up_probability"][(row - 9) // 10])
    assert np.isnan(built[1].up_probability).all()  # half a second away from any decision


def test_blocks_by_hand():
    split = Split(fit_share=0.5, stopping_share=0.25, embargo=1.0)
    seconds = np.array([0.0, 48.0, 49.5, 50.5, 53.0, 74.5, 76.5, 78.0, 99.0])
    assert assign_blocks(seconds, 1.0, 2.0, 100.0, split).tolist() == [0, 0, -1, -1, 1, -1, -1, 2, 2]


def test_what_cannot_be_learned_is_said():
    found, _ = session()
    with pytest.raises(DataError, match="expected more than 14 for one window and one label"):
        build_samples(session(2)[0], GridSettings(n_snapshots=5, step=1.0), Labels(horizon=10.0), Split())
    with pytest.raises(DataError, match=r"use a longer session, a smaller labels\.sample_every"):
        build_samples(session(100)[0], GRID, Labels(), Split())
    rising = changed(
        found,
        slice(None),
        bid_ticks=lambda x: x * 0 + 10 * np.arange(len(x))[:, None] - np.arange(10),
        ask_ticks=lambda x: x * 0 + 10 * np.arange(len(x))[:, None] + 2 + np.arange(10),
    )
    with pytest.raises(DataError, match="labels of the fit block are up, expected both"):
        build_samples(rising, GRID, Labels(), Split())
    frozen = {name: (lambda x: x * 0 + x[:1]) for name in ("bid_ticks", "ask_ticks", "bid_size", "ask_size")}
    with pytest.raises(DataError, match="the shown book never changes in the fit block"):
        build_samples(changed(found, slice(None), **frozen), GRID, Labels(), Split())
    empty = changed(found, slice(None), bid_size=lambda x: x * 0)
    with pytest.raises(DataError, match="no row has both a bid and an ask"):
        build_samples(empty, GRID, Labels(), Split())
    with pytest.raises(ValueError, match="the rest is the test"):
        Split(fit_share=0.9, stopping_share=0.1)
