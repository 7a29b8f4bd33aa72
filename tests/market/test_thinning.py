import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.market.events import NS, BookSnapshots, DataError, Kind
from mfamm_jax.market.ladder import NO_BID, book_rows, build_ladder
from mfamm_jax.market.thinning import with_books
from mfamm_jax.policies import Covariates, SymmetricPolicy
from mfamm_jax.simulation.execution import ReplayConfig
from mfamm_jax.simulation.tape import build_tape

from ..simulation.random_sessions import level_session, order_session
from ..simulation.shapes import padded, recorded
from .sessions import make_session

BID, ASK = 1, -1
ALONE = {Kind.TRADE, Kind.HIDDEN_TRADE, Kind.CROSS, Kind.HALT}


def feed(kind, rows, received=None):
    """Session without books from rows (t_ns, kind, side, price, size[, order id])."""
    updates = [(*row[:5], row[5] if len(row) > 5 else 0) for row in rows]
    session = make_session(updates, [(0, 0, 0, 0)] * len(rows))
    local = None if received is None else np.array(received, np.int64)
    return dataclasses.replace(
        session, books=None, feed=kind, updates=dataclasses.replace(session.updates, local_ns=local)
    )


def side(ticks, sizes):
    """Levels shown in each row, best first."""
    return [[(t, s) for t, s in zip(*row) if s > 0] for row in zip(ticks.tolist(), sizes.tolist())]


LEVELS = [
    (10, Kind.SNAPSHOT, BID, 100, 5),
    (10, Kind.SNAPSHOT, BID, 98, 6),
    (10, Kind.SNAPSHOT, ASK, 103, 4),
    (20, Kind.LEVEL, BID, 101, 1),
    (20, Kind.TRADE, ASK, 103, 4),  # between the rows of one message
    (20, Kind.LEVEL, ASK, 103, 0),
    (20, Kind.LEVEL, ASK, 104, 2),
    (30, Kind.TRADE, BID, 101, 1),
    (30, Kind.TRADE, BID, 100, 5),
    (30, Kind.LEVEL, BID, 101, 0),
    (30, Kind.LEVEL, BID, 100, 0),
    (40, Kind.HALT, 0, -1, 0),
    (50, Kind.CLEAR, BID, 98, 0),
]


def test_the_last_row_of_a_message_and_every_trade_are_book_rows():
    session, ladder = with_books(feed("levels", LEVELS), n_levels=2)
    updates, books = session.updates, session.books
    trade, shown = Kind.TRADE, Kind.SNAPSHOT
    columns = (updates.t_ns, updates.kind, updates.side, updates.price_ticks, updates.size)
    assert list(zip(*(column.tolist() for column in columns))) == [
        (10, shown, 0, 0, 0),
        (20, shown, 0, 0, 0),
        (20, trade, ASK, 103, 4),
        (20, shown, 0, 0, 0),
        (30, trade, BID, 101, 1),
        (30, trade, BID, 100, 5),
        (30, shown, 0, 0, 0),
        (40, Kind.HALT, 0, -1, 0),
        (50, shown, 0, 0, 0),
    ]
    before, after = [(101, 1), (100, 5)], [(98, 6)]
    assert side(books.bid_ticks, books.bid_size) == [[(100, 5), (98, 6)], *[before] * 5, after, after, []]
    assert side(books.ask_ticks, books.ask_size) == [[(103, 4)]] * 3 + [[(104, 2)]] * 6
    # Changes stand in the row that shows them.
    assert ladder.row.tolist() == [0, 0, 0, 1, 3, 3, 6, 6, 8]
    assert ladder.best_bid.tolist() == [100, *[101] * 5, 98, 98, NO_BID]
    assert (ladder.placed == -1).all()
    assert session.notes == ("9 book rows of 2 levels from 13 level messages",)
    assert session.feed == "levels"


def test_rows_sent_together_but_received_apart_are_two_messages():
    rows = [(10, Kind.LEVEL, BID, 100, 5), (10, Kind.LEVEL, BID, 99, 5), (10, Kind.LEVEL, ASK, 103, 4)]
    session, _ = with_books(feed("levels", rows, received=[15, 16, 16]), n_levels=1)
    assert session.updates.local_ns.tolist() == [15, 16]
    assert session.books.ask_size[:, 0].tolist() == [0, 4]


ORDERS = [
    (10, Kind.ADD, BID, 100, 5, 1),
    (10, Kind.ADD, BID, 100, 7, 2),
    (10, Kind.ADD, ASK, 103, 4, 3),
    (20, Kind.HIDDEN_TRADE, BID, 101, 9, 0),
    (20, Kind.CANCEL, BID, 100, 2, 2),
    (20, Kind.TRADE, BID, 100, 5, 1),
    (20, Kind.DELETE, ASK, 103, 4, 3),
]


def test_every_row_of_an_order_feed_is_a_message_and_keeps_what_it_says():
    bare = feed("orders", ORDERS)
    session, ladder = with_books(bare, n_levels=3)
    for name, values in vars(bare.updates).items():
        np.testing.assert_array_equal(getattr(session.updates, name), values, err_msg=name)
    assert side(session.books.bid_ticks, session.books.bid_size) == [
        [(100, size)] for size in (5, 12, 12, 12, 10, 5, 5)
    ]
    assert side(session.books.ask_ticks, session.books.ask_size) == [[], [], *[[(103, 4)]] * 4, []]
    assert ladder.removed.tolist() == [-5, -7, -4, 2, 5, 4]
    assert ladder.placed.tolist() == [0, 1, 2, 1, 0, 2]


def test_a_session_with_books_stays_as_it_is():
    session = make_session([(0, Kind.ADD, BID, 100, 5, 1)], [(100, 5, 103, 9)])
    same, ladder = with_books(session)
    assert same is session
    assert ladder.best_ask.tolist() == [103]


def test_trades_alone_have_no_books():
    with pytest.raises(DataError, match="trades without a book"):
        with_books(feed("trades", [(0, Kind.TRADE, BID, 100, 5)]))


def test_levels_are_found_however_far_away():
    ticks = [100_000, 90_000, 89_999, 50_000, 7]
    rows = [(t, Kind.LEVEL, BID, tick, 1) for t, tick in enumerate(ticks)]
    rows += [(9, Kind.LEVEL, BID, 100_000, 0), (10, Kind.LEVEL, BID, 50_000, 3)]
    session, _ = with_books(feed("levels", rows), n_levels=4)
    shown = side(session.books.bid_ticks, session.books.bid_size)
    assert shown[4] == [(tick, 1) for tick in ticks[:4]]
    assert shown[5] == [(90_000, 1), (89_999, 1), (50_000, 1), (7, 1)]
    assert shown[6] == [(90_000, 1), (89_999, 1), (50_000, 3), (7, 1)]


def coarse(session, step):
    """Times rounded down, received a fixed time later: messages of several rows."""
    t_ns = session.updates.t_ns // step * step
    return dataclasses.replace(session, updates=dataclasses.replace(session.updates, t_ns=t_ns, local_ns=t_ns + 1000))


@pytest.mark.parametrize("n_levels", [1, 3, 12])
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_random_level_feeds_show_the_rebuilt_book_in_every_row(seed, n_levels):
    bare = coarse(level_session(seed), NS // 2)
    session, ladder = with_books(bare, n_levels)
    updates, whole = bare.updates, build_ladder(bare)
    kinds, times = updates.kind.tolist(), updates.t_ns.tolist()
    n = len(kinds)
    kept = [
        row
        for row in range(n)
        if kinds[row] in ALONE or row == n - 1 or kinds[row + 1] in ALONE or times[row + 1] != times[row]
    ]
    assert 0.3 * n < len(kept) < 0.9 * n
    np.testing.assert_array_equal(session.updates.t_ns, updates.t_ns[kept])
    expected = book_rows(whole, np.array(kept), n_levels)
    for name, values in vars(expected).items():
        np.testing.assert_array_equal(getattr(session.books, name), values, err_msg=name)
    again = book_rows(ladder, np.arange(len(kept)), n_levels)
    for name, values in vars(expected).items():
        np.testing.assert_array_equal(getattr(again, name), values, err_msg=name)
    for name in ("best_bid", "best_ask"):
        np.testing.assert_array_equal(getattr(ladder, name), getattr(whole, name)[kept], err_msg=name)
    alone = np.isin(updates.kind, list(ALONE))
    still = np.isin(session.updates.kind, list(ALONE))
    for name in ("kind", "side", "price_ticks", "size", "t_ns"):
        one, other = getattr(updates, name)[alone], getattr(session.updates, name)[still]
        np.testing.assert_array_equal(one, other, err_msg=name)
    assert set(session.updates.kind[~still].tolist()) == {int(Kind.SNAPSHOT)}


@pytest.mark.parametrize("seed", [0, 1])
def test_random_order_feeds_show_the_rebuilt_book_in_every_row(seed):
    bare = order_session(seed)
    session, ladder = with_books(bare, 4)
    expected = book_rows(build_ladder(bare), np.arange(len(bare.updates)), 4)
    for name, values in vars(expected).items():
        np.testing.assert_array_equal(getattr(session.books, name), values, err_msg=name)
    for name, values in vars(build_ladder(bare)).items():
        np.testing.assert_array_equal(getattr(ladder, name), values, err_msg=name)


def single(session):
    """One row a message: no two share a time."""
    t_ns = session.updates.t_ns + np.arange(len(session.updates))
    return dataclasses.replace(
        session, updates=dataclasses.replace(session.updates, t_ns=t_ns, local_ns=t_ns + 2_000_000)
    )


def calm(tape):
    n = tape.decision_mid.shape[0]
    return Covariates(jnp.ones(n), jnp.zeros(n), jnp.zeros(n), jnp.zeros((n, 6)))


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [0, 1])
def test_messages_of_single_rows_are_replayed_as_without_books(seed):
    bare = single(level_session(seed))
    session, ladder = with_books(bare, 5)
    assert len(session.updates) == len(bare.updates)
    timing = {"decision_interval": 0.2, "order_latency": 0.03, "response_latency": 0.02, "depth_ticks": 60}
    tape, _ = build_tape(bare, **timing)
    thinned, _ = build_tape(session, ladder=ladder, **timing)
    jax.tree.map(np.testing.assert_array_equal, thinned, tape)
    filled = []
    for half_spread, size in ((0.01, 1.0), (0.02, 3.0), (0.005, 2.0)):
        policy = SymmetricPolicy(jnp.array(half_spread), jnp.array(10.0), jnp.array(size))
        results = [
            recorded(policy, padded(one), calm(padded(one)), ReplayConfig(lot_size=100.0, queue_power=3.0))
            for one in (tape, thinned)
        ]
        for name in ("bid_fills", "ask_fills", "pnl", "n_bid_orders"):
            np.testing.assert_array_equal(*(getattr(result, name) for result in results), err_msg=name)
        np.testing.assert_array_equal(*(result.path.fill for result in results))
        filled.append(float(results[0].bid_fills + results[0].ask_fills))
    assert min(filled) > 0
    assert len(set(filled)) == 3


def test_single_orders_keep_their_places_in_the_queue():
    bare = single(order_session(3))
    session, ladder = with_books(bare, 5)
    timing = {"decision_interval": 0.2, "order_latency": 0.03, "depth_ticks": 60}
    jax.tree.map(
        np.testing.assert_array_equal,
        build_tape(session, ladder=ladder, **timing)[0],
        build_tape(bare, **timing)[0],
    )


def test_a_message_of_many_rows_is_one_change_of_the_touch():
    """Between its rows the book would be crossed or empty for an instant that nobody saw."""
    rows = [(0, Kind.SNAPSHOT, BID, 100, 300), (0, Kind.SNAPSHOT, ASK, 102, 300)]
    rows += [(NS, Kind.LEVEL, BID, 100, 0), (NS, Kind.LEVEL, BID, 101, 300), (NS, Kind.LEVEL, ASK, 103, 300)]
    rows += [(NS, Kind.LEVEL, ASK, 102, 0), (2 * NS, Kind.LEVEL, BID, 99, 1)]
    session, ladder = with_books(feed("levels", rows), 3)
    assert ladder.two_sided.tolist() == [True] * 3
    assert ladder.row.tolist() == [0, 0, 1, 1, 1, 1, 2]
    assert isinstance(session.books, BookSnapshots)
    assert session.books.bid_ticks[:, 0].tolist() == [100, 101, 101]
    assert session.books.ask_ticks[:, 0].tolist() == [102, 103, 103]
