"""Bad days: each does what it says, and gives a session that replays."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.market.events import NS, Kind
from mfamm_jax.market.ladder import build_ladder
from mfamm_jax.market.loaders.parquet import load_parquet, write_parquet
from mfamm_jax.market.scenarios import SCENARIOS, plant
from mfamm_jax.market.synthetic import generate_session
from mfamm_jax.market.thinning import level_messages, with_books
from mfamm_jax.policies import Covariates, SymmetricPolicy
from mfamm_jax.simulation.execution import ReplayConfig
from mfamm_jax.simulation.tape import build_tape

from ..simulation.tapes import replay_once

START, SECONDS = 20.0, 10.0
SIZES = {"stale_quotes": 0.5, "latency_spike": 2.0, "clock_skew": 3.0}


@pytest.fixture(scope="module")
def session():
    return generate_session("small_tick", 60.0, 4)[0]


def planted(session, name, size=None):
    return plant(session, name, START, SECONDS, SIZES.get(name, 40.0) if size is None else size)


def window(session):
    first = int(session.updates.t_ns[0])
    return first + round(START * NS), first + round((START + SECONDS) * NS)


def mid(session, t_ns):
    row = np.searchsorted(session.updates.t_ns, t_ns, side="right") - 1
    return 0.5 * (session.books.bid_ticks[row, 0] + session.books.ask_ticks[row, 0])


def run(session, half_spread=0.05, **timing):
    tape, timeline = build_tape(session, decision_interval=0.5, order_latency=0.01, **timing)
    n = len(timeline.decision_ns)
    known = Covariates(jnp.ones(n), jnp.zeros(n), jnp.zeros(n), jnp.zeros((n, 6)))
    policy = SymmetricPolicy(jnp.array(half_spread), jnp.array(5.0))
    return replay_once(policy, tape, known, ReplayConfig(max_inventory=5.0), record="path"), timeline


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_planted_session_is_one_that_a_loader_might_have_given(session, name):
    found = planted(session, name)
    t_ns, books = found.updates.t_ns, found.books
    assert (np.diff(t_ns) >= 0).all()
    assert len(t_ns) == len(found.updates.kind) == len(books.bid_ticks) == len(books.ask_size)
    assert (books.bid_ticks[:, 0] < books.ask_ticks[:, 0]).all()
    ladder = build_ladder(found)
    assert (ladder.best_bid < ladder.best_ask).all()
    start, _ = window(session)
    before = session.updates.t_ns < start
    for column in ("t_ns", "kind", "side", "price_ticks", "size"):
        np.testing.assert_array_equal(
            getattr(found.updates, column)[: before.sum()], getattr(session.updates, column)[before]
        )
    assert name in found.name
    assert f"{name}, size" in found.notes[-1]
    if found.updates.local_ns is not None:
        assert (np.diff(found.updates.local_ns) >= 0).all()
        assert (found.updates.local_ns >= t_ns).all()


def test_a_flash_crash_falls_by_its_size_and_comes_back(session):
    found = planted(session, "flash_crash", 100.0)
    start, end = window(session)
    moved = mid(found, session.updates.t_ns) - mid(session, session.updates.t_ns)
    inside = (session.updates.t_ns >= start) & (session.updates.t_ns < end)
    assert moved[inside].min() in (-100, -99)
    assert (moved[~inside] == 0).all()


def test_a_blow_out_widens_both_sides(session):
    found = planted(session, "spread_blow_out", 7.0)
    start, end = window(session)
    inside = (session.updates.t_ns >= start) & (session.updates.t_ns < end)
    wider = (found.books.ask_ticks[:, 0] - found.books.bid_ticks[:, 0]) - (
        session.books.ask_ticks[:, 0] - session.books.bid_ticks[:, 0]
    )
    np.testing.assert_array_equal(wider, np.where(inside, 14, 0))


def test_a_gap_and_a_halt_have_no_trades_and_a_halt_reopens_lower(session):
    start, end = window(session)
    for name in ("feed_gap", "halt"):
        found = planted(session, name, 25.0)
        inside = (found.updates.t_ns >= start) & (found.updates.t_ns < end)
        assert not np.isin(found.updates.kind[inside], (Kind.TRADE, Kind.HIDDEN_TRADE)).any()
    halts = found.updates.kind == Kind.HALT
    np.testing.assert_array_equal(found.updates.price_ticks[halts], [-1, 0, 1])
    np.testing.assert_array_equal(found.updates.t_ns[halts], [start, end, end])
    later = end + 5 * NS
    assert mid(found, later) == mid(session, later) - 25
    result, timeline = run(found)
    at = timeline.tape_ns
    filled = np.asarray(result.path.fill).sum(axis=1) > 0
    assert filled.any()
    assert not filled[(at > start) & (at < end)].any()


def test_late_events_are_received_late_and_decisions_do_not_know_them(session):
    start, end = window(session)
    stale = planted(session, "stale_quotes", 0.5)
    inside = (session.updates.t_ns >= start) & (session.updates.t_ns < end)
    assert (stale.updates.local_ns[inside] == end + NS // 2).all()
    _, timeline = run(stale)
    frozen = (timeline.decision_ns >= start) & (timeline.decision_ns < end)
    assert len(np.unique(timeline.feature_row[frozen])) == 1
    spike = planted(session, "latency_spike", 2.0)
    assert (spike.updates.local_ns[inside] == session.updates.t_ns[inside] + 2 * NS).all()
    assert (spike.updates.local_ns[~inside] >= session.updates.t_ns[~inside]).all()


def test_a_skewed_clock_runs_ahead_and_then_waits(session):
    start, end = window(session)
    found = planted(session, "clock_skew", 3.0)
    inside = (session.updates.t_ns >= start) & (session.updates.t_ns < end)
    np.testing.assert_array_equal(found.updates.t_ns[inside], session.updates.t_ns[inside] + 3 * NS)
    late = session.updates.t_ns > end + 3 * NS
    np.testing.assert_array_equal(found.updates.t_ns[late], session.updates.t_ns[late])


def test_toxic_sellers_take_the_bid_before_every_tick_down_and_it_costs(session):
    found = planted(session, "toxic_flow", 60.0)
    start, end = window(session)
    assert mid(found, end + NS) == mid(session, end + NS) - 60
    assert len(found.updates) == len(session.updates) + 60
    row = np.searchsorted(found.updates.t_ns, end)
    assert found.updates.aggressor[:row].sum() < session.updates.aggressor.sum()
    toxic, timeline = run(found)
    calm, _ = run(session)
    assert toxic.pnl < calm.pnl - 0.5
    inside = (timeline.tape_ns > start) & (timeline.tape_ns <= end)
    assert np.asarray(toxic.path.inventory)[inside].max() == 5  # filled up to the limit on the way down


def test_a_fat_finger_prints_through_every_bid_shown(session):
    found = planted(session, "fat_finger", 30.0)
    start, end = window(session)
    prints = (found.updates.t_ns == start) & (found.updates.kind == Kind.TRADE)
    assert prints.sum() == session.books.n_levels
    assert (np.diff(found.updates.price_ticks[prints]) < 0).all()
    row = np.searchsorted(session.updates.t_ns, start) - 1
    np.testing.assert_array_equal(found.updates.price_ticks[prints], session.books.bid_ticks[row])
    np.testing.assert_array_equal(found.updates.size[prints], session.books.bid_size[row])
    assert mid(found, start + NS) == mid(session, start + NS) - 15
    assert mid(found, end + NS) == mid(session, end + NS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scenario": "earthquake"}, "expected one of flash_crash"),
        ({"start": 55.0}, "does not lie within the session"),
        ({"seconds": 0.0}, "does not lie within the session"),
        ({"size": -1.0}, "expected a finite number >= 0"),
        ({"size": 1e5}, "expected a smaller size"),
    ],
)
def test_impossible_scenarios_are_refused(session, change, said):
    given = {"scenario": "flash_crash", "start": START, "seconds": SECONDS, "size": 10.0} | change
    with pytest.raises(ValueError, match=said):
        plant(session, **given)


def test_a_session_without_book_rows_is_refused(session):
    with pytest.raises(ValueError, match="with_books"):
        planted(dataclasses.replace(session, books=None), "halt")


def at_its_times(session):
    """Best prices and the whole book as it stands when each instant is over."""
    last = np.flatnonzero(np.append(np.diff(session.updates.t_ns) > 0, True))
    ladder = build_ladder(session)
    books = {name: x[last] for name, x in vars(session.books).items()}
    return session.updates.t_ns[last], ladder.best_bid[last], ladder.best_ask[last], books


@pytest.mark.parametrize("name", SCENARIOS)
def test_as_level_messages_and_through_a_file_it_shows_the_same_books_and_trades(session, name, tmp_path):
    day = planted(session, name)
    levels = level_messages(day)
    assert levels.books is None
    shown, _ = with_books(levels, day.books.n_levels)
    loaded, _ = with_books(load_parquet(write_parquet(levels, tmp_path / "day.parquet")), day.books.n_levels)
    for other in (shown, loaded):
        times, bid, ask, books = at_its_times(day)
        now, best_bid, best_ask, rows = at_its_times(other)
        # Instants at which no level changed and nothing traded are gone.
        row = np.searchsorted(now, times, side="right") - 1
        np.testing.assert_array_equal(best_bid[row], bid)
        np.testing.assert_array_equal(best_ask[row], ask)
        for side in ("bid", "ask"):
            size = books[f"{side}_size"]
            np.testing.assert_array_equal(rows[f"{side}_size"][row], size)
            ticks = [np.where(size > 0, x, 0) for x in (rows[f"{side}_ticks"][row], books[f"{side}_ticks"])]
            np.testing.assert_array_equal(*ticks)
        trades = [x.updates.kind == Kind.TRADE for x in (day, other)]
        for column in ("t_ns", "price_ticks", "size", "side"):
            old, new = (getattr(x.updates, column)[traded] for x, traded in zip((day, other), trades))
            np.testing.assert_array_equal(new, old)


def test_messages_that_no_longer_tell_the_book_are_not_written(session, tmp_path):
    with pytest.raises(ValueError, match="level_messages"):
        write_parquet(planted(session, "flash_crash"), tmp_path / "day.parquet")


def test_without_book_rows_there_is_nothing_to_make_levels_of(session):
    with pytest.raises(ValueError, match="no book rows"):
        level_messages(dataclasses.replace(session, books=None))
