import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.experiments.config import ConfigError, construct, load_config
from mfamm_jax.experiments.imbalance_data import BLOCKS, GridSettings, Labels, Split, assign_blocks, build_samples
from mfamm_jax.experiments.imbalance_scores import area, area_estimate, linear_weights, time_blocks
from mfamm_jax.experiments.imbalance_training import odd_part
from mfamm_jax.market.events import DataError
from mfamm_jax.market.planted import generate_planted

GRID = GridSettings(n_snapshots=5, n_levels=4)


@functools.cache
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


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("grid", "labels", "split"),
    [
        (GRID, Labels(), Split(embargo=0.0)),
        (GRID, Labels(delay=3.0, horizon=2.5, sample_every=0.5), Split(fit_share=0.5, embargo=7.3)),
        (GridSettings(n_snapshots=4, n_levels=2, step=0.25), Labels(sample_every=0.25), Split(fit_share=0.61803)),
    ],
)
def test_books_and_mids_of_two_blocks_lie_an_embargo_apart(grid, labels, split):
    """Every instant that a sample looks at, block by block; what was purged could not have stayed."""
    found, _ = session()
    samples, _ = build_samples(found, grid, labels, split)
    reach = round(labels.delay / grid.step) + round(labels.horizon / grid.step)
    steps = np.arange(1 - grid.n_snapshots, reach + 1)
    used = [(samples.seconds[samples.block == k][:, None] + steps * grid.step).ravel() for k in range(3)]
    for before, after in ((0, 1), (1, 2)):
        assert used[after].min() - used[before].max() >= split.embargo - 1e-6
    total = (found.updates.t_ns[-1] - found.updates.t_ns[0]) / 1e9
    for i in np.flatnonzero(samples.block < 0):
        looks_at = samples.seconds[i] + steps * grid.step
        for edge in np.cumsum([split.fit_share, split.stopping_share]) * total:
            if looks_at[0] - split.embargo < edge < looks_at[-1]:
                break
        else:
            raise AssertionError(f"sample {i} at {samples.seconds[i]} was purged for nothing")


def test_no_sample_is_taken_before_there_is_a_mid(built):
    found, samples, _ = built
    late = changed(found, slice(0, 100), bid_size=lambda x: x * 0)
    after, _ = build_samples(late, GRID, Labels(), Split(embargo=2.0))
    assert samples.seconds.min() < 1
    assert after.seconds.min() >= 10
    assert (after.grid[0, 1:, :, :2] != 0).any()
    # One side gone for a while: the last mid stays.
    row = round(samples.seconds[50] / 0.1)
    gap = changed(found, slice(row - 1, row + 3), ask_size=lambda x: x * 0)
    other, _ = build_samples(gap, GRID, Labels(), Split(embargo=2.0))
    mid = (found.books.bid_ticks[:, 0] + found.books.ask_ticks[:, 0]) / 2
    mid[row - 1 : row + 3] = mid[row - 2]
    assert other.move_ticks[50] == np.mean(mid[row + 1 : row + 11]) - mid[row]
    sizes = found.books.bid_size[row - 2, 0], found.books.ask_size[row - 2, 0]
    assert other.queue_imbalance[50] == pytest.approx((sizes[0] - sizes[1]) / sum(sizes))


def test_equal_moves_are_equal_numbers_wherever_the_mid_is():
    found, _ = session()
    far = changed(found, slice(1, None), bid_ticks=lambda x: x + 10_000_003, ask_ticks=lambda x: x + 10_000_003)
    samples, facts = build_samples(far, GRID, Labels(horizon=0.7), Split())
    # Of seven mids after a sample two follow the second's move.
    assert set(np.abs(samples.move_ticks)) == {2 / 7}
    assert facts.counts["fit"]["flat"] == 0


@pytest.mark.thorough
def test_small_moves_have_no_label():
    found, _ = session(1500)
    samples, facts = build_samples(found, GRID, Labels(horizon=4.3, flat_share=0.4), Split())
    size = np.abs(samples.move_ticks)
    fit = samples.block == 0
    assert 0.2 < (samples.label[fit] == 0).mean() <= 0.4
    assert size[samples.label == 0].max() < facts.flat_ticks <= size[samples.label != 0].min()
    fixed, facts = build_samples(found, GRID, Labels(horizon=4.3, flat_ticks=1.0), Split())
    np.testing.assert_array_equal(fixed.label, np.sign(samples.move_ticks) * (size >= 1.0))
    assert facts.flat_ticks == 1.0
    everything, _ = build_samples(found, GRID, Labels(horizon=4.3, flat_share=0.0), Split())
    np.testing.assert_array_equal(everything.label, np.sign(samples.move_ticks) * (size >= size[fit].min()))


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


def test_what_is_flat_is_decided_on_the_fit_block():
    found, _ = session(1500)
    n, labels = len(found.books.bid_size), Labels(horizon=4.3)
    jumps = 5 * np.cumsum(np.random.default_rng(0).integers(-1, 2, n))[int(0.62 * n) :, None]
    late = changed(found, slice(int(0.62 * n), None), bid_ticks=lambda x: x + jumps, ask_ticks=lambda x: x + jumps)
    (samples, facts), (wild, other) = (build_samples(x, GRID, labels, Split()) for x in (found, late))
    assert other.flat_ticks == facts.flat_ticks
    fit = samples.block == 0
    np.testing.assert_array_equal(wild.label[fit], samples.label[fit])
    assert np.abs(wild.move_ticks).max() > 20


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


@pytest.mark.thorough
@pytest.mark.parametrize("delay", [0.0, 3.0])
def test_labels_come_up_as_often_as_the_planted_probability_says(delay):
    samples, _ = build_samples(*session(3000)[:1], GridSettings(), Labels(delay=delay), Split(), session(3000)[1])
    p, up = samples.up_probability, samples.label > 0
    assert (samples.label != 0).all()
    assert np.std(p) > 0.2
    for low, high in ((0, 1), (0, 0.2), (0.4, 0.6), (0.8, 1)):
        chosen = (p >= low) & (p <= high)
        z = (up - p)[chosen].sum() / np.sqrt((p * (1 - p))[chosen].sum())
        assert abs(z) < 3.5  # one of eight by chance: 0.4 %


def test_simple_scores_are_at_chance_on_planted_books():
    samples, _ = build_samples(*session(3000)[:1], GridSettings(), Labels(), Split(), session(3000)[1])
    fit, stopping, test = (samples.part(name) for name in BLOCKS)
    odd = [np.asarray(odd_part(jnp.asarray(part.grid)), float) for part in (fit, stopping, test)]
    linear = odd[2] @ linear_weights(odd[0], fit.label, odd[1], stopping.label)
    for score in (linear, test.microprice_move, test.queue_imbalance):
        found = area_estimate(score, test.label, time_blocks(test.seconds, 20), 20)
        assert abs(found.value - 0.5) < 3.5 * found.error < 0.1
    assert area(test.up_probability, test.label) > 0.8


def test_the_planted_market_is_a_source(tmp_path):
    market = construct(load_config("imbalance_training", ["market.duration=120.0", "market.strength=2.0"])).market
    loaded, truth = market.load(tmp_path, 5)
    same, _ = generate_planted(120, 2.0, 5)
    np.testing.assert_array_equal(loaded.books.bid_size, same.books.bid_size)
    assert truth["strength"] == 2.0
    with pytest.raises(ConfigError, match=r"market\.strength: .*expected >= 0"):
        load_config("imbalance_training", ["market.strength=-1.0"])


def test_blocks_by_hand():
    split = Split(fit_share=0.5, stopping_share=0.25, embargo=1.0)
    seconds = np.array([0.0, 48.0, 49.5, 50.5, 53.0, 74.5, 76.5, 78.0, 99.0])
    assert assign_blocks(seconds, 1.0, 2.0, 100.0, split).tolist() == [0, 0, -1, -1, 1, -1, -1, 2, 2]


@pytest.mark.thorough
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
    for name, seconds in (("delay", 0.04), ("horizon", 0.01), ("sample_every", 0.25)):
        expected = rf"labels\.{name} is {seconds} s, expected a multiple of grid\.step = 0\.1 s"
        with pytest.raises(ValueError, match=expected):
            build_samples(found, GRID, Labels(**{name: seconds}), Split())
    with pytest.raises(ValueError, match="the rest is the test"):
        Split(fit_share=0.9, stopping_share=0.1)
