import numpy as np
import pytest
from scipy.stats import chi2

from mfamm_jax.experiments.imbalance_scores import area
from mfamm_jax.market.planted import BLOCK_STEPS, generate_planted, up_probability


@pytest.fixture(scope="module")
def planted():
    return generate_planted(6000, 4.0, seed=0)


def moves(session, truth):
    """Of the mid at each decision, and the books of the decision's row."""
    mid = (session.books.bid_ticks[:, 0] + session.books.ask_ticks[:, 0]) / 2
    row = np.arange(BLOCK_STEPS - 1, len(mid) - 1, BLOCK_STEPS)
    return np.sign(mid[row + 1] - mid[row]), row, truth["up_probability"][:-1]


def test_the_books_are_books(planted):
    books = planted[0].books
    assert (books.bid_ticks[:, 0] < books.ask_ticks[:, 0]).all()
    assert (np.diff(books.bid_ticks, axis=1) < 0).all()
    assert (np.diff(books.ask_ticks, axis=1) > 0).all()
    assert (books.bid_size > 0).all()
    assert (books.ask_size > 0).all()
    assert (np.diff(planted[0].updates.t_ns) > 0).all()


def test_the_planted_probability_is_that_of_a_plain_loop(planted):
    """Level by level from what the module says: three near levels of the last three snapshots, four deep ones of older snapshots."""
    books, near, deep = planted[0].books, [], []
    for first in range(0, len(books.bid_size), 10):

        def mean(snapshots, levels, first=first):
            pairs = [
                (float(books.bid_size[first + s, k]), float(books.ask_size[first + s, k]))
                for s in snapshots
                for k in levels
            ]
            return np.mean([(b - a) / max(b, a) for b, a in pairs])

        near.append(mean((7, 8, 9), (0, 1, 2)))
        deep.append(mean((2, 3, 4, 5), (4, 5, 6, 7)))
    u, v = np.array(near) / np.std(near), np.abs(deep) / np.std(deep)
    expected = 1 / (1 + np.exp(-4.0 * u * (v - v.mean())))
    np.testing.assert_allclose(planted[1]["up_probability"], expected, atol=1e-6)


def test_moves_follow_the_planted_probability(planted):
    move, _, probability = moves(*planted)
    assert set(np.unique(move)) == {-1.0, 1.0}
    # Standardised sum of independent coins, within 4 standard deviations, overall and where the signal is strong.
    for chosen in (np.ones(len(move), bool), probability > 0.8, probability < 0.2):
        expected, got = probability[chosen], move[chosen] > 0
        z = (got - expected).sum() / np.sqrt((expected * (1 - expected)).sum())
        assert abs(z) < 4
    assert 0.65 < area(probability, move) < 0.9


def test_what_looks_at_one_level_or_adds_levels_up_is_at_chance(planted):
    session, truth = planted
    move, row, _ = moves(session, truth)
    books = session.books
    imbalance = (books.bid_size - books.ask_size) / np.maximum(books.bid_size, books.ask_size)
    near = np.mean([imbalance[row - k, :3].mean(axis=1) for k in range(3)], axis=0)
    # Standard error of the area of 6,000 samples at chance: 0.0075.
    for score in (imbalance[row, 0], near, imbalance[row, 4:8].mean(axis=1), imbalance[row].sum(axis=1)):
        assert abs(area(score, move) - 0.5) < 4 * 0.0075


def test_moves_come_as_often_as_planted_in_every_tenth(planted):
    """Chi-square over deciles of the probability, at 0.1 %."""
    move, _, probability = moves(*planted)
    tenths = np.array_split(np.argsort(probability), 10)
    z = [
        ((move[t] > 0) - probability[t]).sum() / np.sqrt((probability[t] * (1 - probability[t])).sum()) for t in tenths
    ]
    assert np.sum(np.square(z)) < chi2.ppf(0.999, 10)


def test_nothing_of_the_past_but_the_deciding_block_tells_anything(planted):
    """The probability of the block before, and of the one after, are at chance; so are moves among themselves."""
    move, _, probability = moves(*planted)
    assert abs(area(probability[:-1], move[1:]) - 0.5) < 4 * 0.0075
    assert abs(area(probability[1:], move[:-1]) - 0.5) < 4 * 0.0075
    assert abs(np.corrcoef(move[1:], move[:-1])[0, 1]) < 4 / np.sqrt(len(move))


def test_levels_have_memory_and_go_in_two_groups(planted):
    books = planted[0].books
    ratio = np.log(books.bid_size / books.ask_size)
    for level in (0, 5, 9):
        assert 0.6 < np.corrcoef(ratio[1:, level], ratio[:-1, level])[0, 1] < 0.8  # depth adds noise to 0.8
    together = np.corrcoef(ratio.T)
    assert together[0, 3] > 0.4
    assert together[4, 9] > 0.4
    assert abs(together[3, 4]) < 0.05


def test_no_strength_no_signal():
    session, truth = generate_planted(50, 0.0, seed=1)
    assert (truth["up_probability"] == 0.5).all()
    assert len(session.updates.t_ns) == 500


def test_a_seed_is_a_session_and_mirrored_books_have_the_opposite_probability(planted):
    one, two, other = (generate_planted(50, 2.0, seed=s)[0].books for s in (3, 3, 4))
    np.testing.assert_array_equal(one.bid_size, two.bid_size)
    assert (one.bid_size != other.bid_size).any()
    books = planted[0].books
    here, there = (
        up_probability(books.bid_size, books.ask_size, 4.0),
        up_probability(books.ask_size, books.bid_size, 4.0),
    )
    np.testing.assert_allclose(here, 1 - there, atol=1e-6)


def test_bad_settings_are_refused():
    for n, strength in ((1, 1.0), (10, np.nan), (10, np.inf)):
        with pytest.raises(ValueError, match="expected at least 2 blocks and a finite number"):
            generate_planted(n, strength, 0)
