import dataclasses

import numpy as np
import pytest

from mfamm_jax.market.events import BookSnapshots, DataError, Kind
from mfamm_jax.market.ladder import NO_ASK, NO_BID, book_rows, build_ladder, placed_rows

from .sessions import make_session

BID, ASK = 1, -1


def messages(feed, rows):
    """Session without books from rows (kind, side, price, size[, order id])."""
    updates = [(t, *row[:4], row[4] if len(row) > 4 else 0) for t, row in enumerate(rows)]
    return dataclasses.replace(make_session(updates, [(0, 0, 0, 0)] * len(rows)), books=None, feed=feed)


def best(ladder):
    return list(zip(ladder.best_bid.tolist(), ladder.best_ask.tolist()))


def test_levels_are_set_and_removed_and_trades_leave_the_book():
    ladder = build_ladder(
        messages(
            "levels",
            [
                (Kind.SNAPSHOT, BID, 100, 5),
                (Kind.SNAPSHOT, BID, 99, 7),
                (Kind.SNAPSHOT, ASK, 103, 4),
                (Kind.LEVEL, ASK, 102, 1),
                (Kind.TRADE, ASK, 102, 1),
                (Kind.LEVEL, ASK, 102, 0),
                (Kind.LEVEL, BID, 100, 0),
                (Kind.LEVEL, BID, 99, 9),
            ],
        )
    )
    none = (NO_BID, NO_ASK)
    assert (
        best(ladder)
        == [(100, none[1]), (100, none[1]), (100, 103), (100, 102), (100, 102), (100, 103)] + [(99, 103)] * 2
    )
    assert ladder.row.tolist() == [0, 1, 2, 3, 5, 6, 7]
    assert ladder.size.tolist() == [5, 7, 4, 1, 0, 0, 9]
    assert (ladder.placed == -1).all()
    assert ladder.two_sided.tolist() == [False, False, *[True] * 6]
    assert ladder.n_crossed == 0


def test_a_crossed_level_feed_believes_the_newer_level_for_good():
    ladder = build_ladder(
        messages(
            "levels",
            [
                (Kind.LEVEL, ASK, 101, 5),
                (Kind.LEVEL, ASK, 103, 5),
                (Kind.LEVEL, BID, 101, 2),  # locked: the ask at 101 is stale
                (Kind.LEVEL, BID, 101, 0),
                (Kind.LEVEL, BID, 100, 1),
                (Kind.LEVEL, ASK, 101, 3),  # until it is heard of again
            ],
        )
    )
    assert best(ladder) == [
        (NO_BID, 101),
        (NO_BID, 101),
        (101, 103),
        (NO_BID, 103),
        (100, 103),
        (100, 101),
    ]
    assert ladder.n_crossed == 1


def test_orders_make_levels_and_know_their_place_in_the_queue():
    ladder = build_ladder(
        messages(
            "orders",
            [
                (Kind.ADD, BID, 100, 5, 1),
                (Kind.ADD, BID, 100, 7, 2),
                (Kind.ADD, BID, 98, 1, 3),
                (Kind.CANCEL, BID, 100, 2, 2),
                (Kind.TRADE, BID, 100, 4, 1),
                (Kind.HIDDEN_TRADE, BID, 100, 50, 0),
                (Kind.TRADE, BID, 99, 1, 1),  # printed off the order's own price
                (Kind.DELETE, BID, 100, 5, 2),
            ],
        )
    )
    assert ladder.row.tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert ladder.ticks.tolist() == [100, 100, 98, 100, 100, 100, 100]
    assert ladder.size.tolist() == [5, 12, 1, 10, 6, 5, 0]
    assert ladder.removed.tolist() == [-5, -7, -1, 2, 4, 1, 5]
    assert ladder.placed.tolist() == [0, 1, 2, 1, 0, 0, 1]
    assert ladder.best_bid.tolist() == [100] * 7 + [98]
    assert ladder.n_unknown == 0


def test_messages_about_unknown_orders_change_nothing_and_are_counted():
    rows = [(Kind.ADD, BID, 100, 5, 1)]
    rows += [(kind, BID, 100, 5, 9) for kind in (Kind.CANCEL, Kind.DELETE, Kind.TRADE)]
    rows += [(Kind.TRADE, BID, 100, 5, 0)]  # an execution without an id is no error
    ladder = build_ladder(messages("orders", rows))
    assert ladder.n_unknown == 3
    assert ladder.row.tolist() == [0]


def test_orders_that_a_marketable_order_crossed_count_again_once_it_has_left():
    ladder = build_ladder(
        messages(
            "orders",
            [
                (Kind.ADD, ASK, 101, 5, 1),
                (Kind.ADD, ASK, 102, 5, 2),
                (Kind.ADD, ASK, 104, 5, 3),
                (Kind.ADD, BID, 103, 9, 4),  # takes 101 and part of 102
                (Kind.TRADE, ASK, 101, 5, 1),
                (Kind.TRADE, ASK, 102, 4, 2),  # its rest does not yet come back
                (Kind.DELETE, BID, 103, 9, 4),
                (Kind.DELETE, ASK, 102, 1, 2),
            ],
        )
    )
    asks = [101, 101, 101, 104, 104, 104, 102, 104]
    assert best(ladder) == list(zip([NO_BID] * 3 + [103] * 3 + [NO_BID] * 2, asks))
    assert ladder.n_crossed == 1


def test_only_the_orders_that_are_no_longer_crossed_count_again():
    ladder = build_ladder(
        messages(
            "orders",
            [
                (Kind.ADD, BID, 100, 1, 1),
                (Kind.ADD, BID, 102, 1, 2),
                (Kind.ADD, ASK, 102, 1, 3),
                (Kind.ADD, ASK, 99, 1, 4),
                (Kind.DELETE, ASK, 99, 1, 4),
                (Kind.DELETE, ASK, 102, 1, 3),
            ],
        )
    )
    assert best(ladder)[2:] == [(100, 102), (NO_BID, 99), (100, 102), (102, NO_ASK)]
    assert ladder.n_crossed == 2


def test_clear_takes_one_sides_levels_down_to_its_price_or_everything():
    rows = [(Kind.LEVEL, BID, tick, 1) for tick in (98, 99, 100)] + [(Kind.LEVEL, ASK, tick, 1) for tick in (102, 103)]
    rows += [(Kind.CLEAR, BID, 99, 0), (Kind.CLEAR, ASK, 102, 0), (Kind.CLEAR, 0, 0, 0)]
    ladder = build_ladder(messages("levels", rows))
    assert best(ladder)[5:] == [(98, 102), (98, 103), (NO_BID, NO_ASK)]
    books = book_rows(ladder, np.array([4, 5, 7]), 3)
    assert books.bid_ticks[0].tolist() == [100, 99, 98]
    assert books.bid_size.tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]


def test_clear_forgets_orders():
    rows = [(Kind.ADD, BID, 100, 5, 1), (Kind.CLEAR, 0, 0, 0), (Kind.DELETE, BID, 100, 5, 1)]
    ladder = build_ladder(messages("orders", rows))
    assert ladder.size.tolist() == [5, 0]
    assert ladder.n_unknown == 1


def test_clearing_one_side_forgets_its_orders_and_leaves_the_others():
    ladder = build_ladder(
        messages(
            "orders",
            [
                (Kind.ADD, 1, 100, 5, 1),
                (Kind.ADD, 1, 98, 7, 2),
                (Kind.ADD, -1, 103, 4, 3),
                (Kind.CLEAR, 1, 99, 0, 0),
                (Kind.CANCEL, 1, 100, 2, 1),
                (Kind.CANCEL, 1, 98, 3, 2),
                (Kind.CANCEL, -1, 103, 1, 3),
            ],
        )
    )
    assert ladder.best_bid.tolist() == [100, 100, 100, 98, 98, 98, 98]
    assert ladder.n_unknown == 1
    assert ladder.size[-2:].tolist() == [4, 3]


def test_the_next_level_is_found_however_far_away():
    rows = [(Kind.LEVEL, BID, tick, 1) for tick in (10, 5000, 9000)] + [
        (Kind.LEVEL, BID, tick, 0) for tick in (9000, 5000)
    ]
    ladder = build_ladder(messages("levels", rows))
    assert ladder.best_bid.tolist() == [10, 5000, 9000, 5000, 10]


def test_trades_alone_have_no_book():
    with pytest.raises(DataError, match="trades without a book"):
        build_ladder(messages("trades", [(Kind.TRADE, BID, 100, 5)]))


def random_books(n_rows, n_levels, seed):
    """Rows of distinct levels best first, some of them absent."""
    rng = np.random.default_rng(seed)

    def side(sign, base):
        steps = rng.integers(1, 4, (n_rows, n_levels)).cumsum(1)
        shown = np.arange(n_levels) < rng.integers(0, n_levels + 1, (n_rows, 1))
        return np.where(shown, base - sign * steps, 0), np.where(shown, rng.integers(1, 4, steps.shape), 0)

    return BookSnapshots(*side(BID, 1000), *side(ASK, 1000))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_book_rows_undo_the_level_changes_of_random_books(seed):
    n_rows, n_levels = 200, 4
    books = random_books(n_rows, n_levels, seed)
    session = messages("levels", [(Kind.SNAPSHOT, 0, 0, 0)] * n_rows)
    ladder = build_ladder(dataclasses.replace(session, books=books))
    rebuilt = book_rows(ladder, np.arange(n_rows), n_levels)
    for name, values in vars(books).items():
        np.testing.assert_array_equal(getattr(rebuilt, name), values, err_msg=name)
    some = np.array([3, 3, 50, n_rows - 1])
    np.testing.assert_array_equal(book_rows(ladder, some, 1).bid_size, books.bid_size[some, :1])
    np.testing.assert_array_equal(ladder.best_ask, np.where(books.ask_size[:, 0] > 0, books.ask_ticks[:, 0], NO_ASK))
    full = books.bid_size[:, -1] > 0
    np.testing.assert_array_equal(ladder.lowest_bid, np.where(full, books.bid_ticks[:, -1], NO_BID))


def test_changes_of_book_rows_know_what_their_message_removed():
    updates = [(0, Kind.ADD, BID, 100, 5, 1), (1, Kind.CANCEL, BID, 100, 2, 1), (2, Kind.TRADE, ASK, 103, 4, 0)]
    ladder = build_ladder(make_session(updates, [(100, 5, 103, 9), (100, 3, 103, 9), (100, 3, 103, 5)]))
    changes = zip(ladder.row, ladder.side, ladder.ticks, ladder.size, ladder.removed, ladder.placed)
    assert sorted(tuple(float(x) for x in change) for change in changes) == [
        (0, ASK, 103, 9, 0, -1),
        (0, BID, 100, 5, -5, 0),
        (1, BID, 100, 3, 2, 0),
        (2, ASK, 103, 5, 4, -1),
    ]


def random_orders(n_rows, seed):
    """Random messages about random orders; bids stay below 1000, asks above."""
    rng = np.random.default_rng(seed)
    rows, alive = [], {}
    for order in range(1, n_rows + 1):
        if not alive or rng.random() < 0.5:
            side = int(rng.choice([BID, ASK]))
            alive[order] = [side, 1000 - side * int(rng.integers(1, 8)), int(rng.integers(2, 9))]
            rows.append((Kind.ADD, *alive[order], order))
            continue
        chosen = int(rng.choice(list(alive)))
        side, price, left = alive[chosen]
        kind = [Kind.CANCEL, Kind.TRADE, Kind.DELETE][rng.integers(3)]
        taken = left if kind == Kind.DELETE else int(rng.integers(1, left + 1))
        rows.append((kind, side, price, taken, chosen))
        alive[chosen][2] -= taken
        if taken == left:
            del alive[chosen]
    return rows


@pytest.mark.parametrize("seed", [0, 1])
def test_books_of_random_orders_are_the_sums_of_those_alive(seed):
    rows = random_orders(300, seed)
    ladder = build_ladder(messages("orders", rows))
    books = book_rows(ladder, np.arange(len(rows)), 8)
    left = {}
    for number, (kind, side, price, size, order) in enumerate(rows):
        left[order] = (side, price, size if kind == Kind.ADD else left[order][2] - size)
        for sign, ticks, sizes in ((BID, books.bid_ticks, books.bid_size), (ASK, books.ask_ticks, books.ask_size)):
            expected = {}
            for one_side, level, quantity in left.values():
                if one_side == sign and quantity:
                    expected[level] = expected.get(level, 0) + quantity
            shown = sizes[number] > 0
            assert dict(zip(ticks[number][shown].tolist(), sizes[number][shown].tolist())) == expected
            best_first = (-sign * ticks[number][shown]).tolist()
            assert best_first == sorted(best_first)
    assert ladder.n_crossed == ladder.n_unknown == 0


def test_placed_rows_are_those_of_the_last_addition():
    session = messages(
        "orders",
        [
            (Kind.CANCEL, BID, 100, 1, 5),  # placed before the recording
            (Kind.ADD, BID, 100, 5, 1),
            (Kind.CANCEL, BID, 100, 1, 1),
            (Kind.DELETE, BID, 100, 4, 1),
            (Kind.ADD, BID, 101, 4, 1),  # replaced under its id
            (Kind.TRADE, BID, 101, 4, 1),
            (Kind.ADD, BID, 101, 4, 0),  # without an id
            (Kind.TRADE, BID, 101, 4, 0),
        ],
    )
    assert placed_rows(session.updates).tolist() == [-1, 1, 1, 1, 4, 4, -1, -1]


def test_placed_rows_of_nothing_are_nothing():
    session = messages("orders", [(Kind.ADD, BID, 100, 5, 1)])
    empty = dataclasses.replace(
        session.updates, **{f: v[:0] for f, v in vars(session.updates).items() if v is not None}
    )
    assert placed_rows(empty).tolist() == []
