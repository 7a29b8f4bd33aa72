import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.features import vpin_at_trades
from mfamm_jax.market.book import queue_imbalance
from mfamm_jax.market.events import NS, DataError, Kind, merge_marketable_orders
from mfamm_jax.market.facts import session_facts
from mfamm_jax.market.loaders.lobster import load_lobster, write_lobster
from mfamm_jax.market.synthetic import generate_session
from mfamm_jax.solvers.likelihood import fit_poisson
from mfamm_jax.solvers.reach import fit_reach

jitted_fit = jax.jit(fit_poisson)


@functools.cache
def generated(preset, duration, seed):
    return generate_session(preset, duration, seed)


def vpin_after_orders(session, truth):
    trades = merge_marketable_orders(session.updates)
    buckets = int(trades.size.sum() / truth["bucket_volume"]) + 1
    values = vpin_at_trades(
        jnp.asarray(trades.size, float),
        jnp.asarray(trades.aggressor),
        float(truth["bucket_volume"]),
        truth["vpin_smoothing"],
        n_buckets=buckets,
        start=truth["vpin_start"],
    )
    return trades, np.asarray(values)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_calibration_recovers_the_planted_intensities_within_three_standard_errors(seed):
    """The Poisson likelihood (11) on the displayed book; every coefficient of both sides."""
    session, truth = generated("small_tick", 1800.0, seed)
    t_ns, books = session.updates.t_ns, session.books
    trades, vpin = vpin_after_orders(session, truth)
    last = np.searchsorted(trades.last_event, np.arange(len(t_ns)), side="right") - 1
    vpin = np.where(last < 0, truth["vpin_start"], vpin[np.maximum(last, 0)])
    imbalance = queue_imbalance(jnp.asarray(books.bid_size[:, 0]), jnp.asarray(books.ask_size[:, 0]))
    half_spread = (books.ask_ticks[:, 0] - books.bid_ticks[:, 0]) / 2
    design = np.column_stack([np.ones(len(t_ns)), imbalance, vpin, -half_spread])[:-1]
    row = np.searchsorted(t_ns, trades.t_ns) - 1
    for side, sign in (("ask", 1), ("bid", -1)):
        count = np.bincount(row[(trades.aggressor == sign) & (row >= 0)], minlength=len(t_ns))[: len(t_ns) - 1]
        fit = jitted_fit(
            jnp.asarray(design), jnp.asarray(count, float), jnp.asarray(np.diff(t_ns) / NS), ridge=0.0
        ).value
        planted = [truth[side]["intercept"], truth[side]["imbalance"], truth[side]["vpin"], truth["decay_per_tick"]]
        score = (np.asarray(fit.coefficients) - planted) / np.asarray(fit.standard_errors)
        assert np.abs(score).max() < 3, (side, score)
        # The errors are small enough for the test to mean something.
        assert fit.standard_errors[3] < 0.1 * truth["decay_per_tick"]


@pytest.mark.thorough
def test_the_reach_of_sweeps_recovers_the_decay():
    """An order that emptied its last level reached one tick further at least (see the module's text)."""
    session, truth = generated("small_tick", 1800.0, 1)
    trades, books = merge_marketable_orders(session.updates), session.books
    keep = trades.event > 0
    before, after = trades.event[keep] - 1, trades.last_event[keep]
    sign, worst = trades.aggressor[keep].astype(int), trades.worst_ticks[keep]
    touch = np.where(sign > 0, books.ask_ticks[before, 0], books.bid_ticks[before, 0])
    following = np.where(sign > 0, books.ask_ticks[after, 0], books.bid_ticks[after, 0])
    stopped = following == worst
    lower = sign * (worst - touch) + np.where(stopped, 0, 1)
    upper = np.where(stopped, lower + 1, np.maximum(sign * (following - touch), lower + 1))
    fit = fit_reach(jnp.asarray(lower, float), jnp.asarray(upper, float)).value
    assert abs(fit.decay - truth["decay_per_tick"]) < 3 * fit.standard_error
    assert fit.standard_error < 0.05 * truth["decay_per_tick"]


TARGETS = {
    # events per second, marketable orders per second, time-weighted spread, depth of five levels
    "small_tick": ((16, 26), (0.8, 1.2), (15, 20), (600, 1000)),
    "quiet_small_tick": ((5.5, 8), (0.22, 0.34), (11, 16), (500, 1000)),
    "large_tick": ((100, 400), (30, 60), (1, 1.05), (1000, 9000)),
}


@pytest.mark.thorough
@pytest.mark.parametrize("preset", TARGETS)
def test_presets_look_like_the_markets_they_imitate(preset):
    session, truth = generated(
        preset, 1800.0 if preset == "small_tick" else 100.0 if preset == "large_tick" else 900.0, 1
    )
    facts = session_facts(session)
    values = (
        facts["n_events"] / facts["duration_s"],
        facts["marketable_orders_per_s"],
        facts["spread_ticks_time_mean"],
        0.5 * (facts["depth5_ask_event_mean"] + facts["depth5_bid_event_mean"]),
    )
    for value, (low, high) in zip(values, TARGETS[preset]):
        assert low < value < high, values
    assert facts["crossed_or_locked_rows"] == 0
    assert facts["one_tick_share_time"] > 0.98 or preset != "large_tick"
    hidden = facts["exec_hidden_rows"] / (facts["exec_hidden_rows"] + facts["exec_visible_rows"])
    assert 0.01 < hidden < 0.4
    assert truth["counts"] == facts["events_by_kind"]


def test_same_seed_same_session_other_seed_another():
    first, second, other = (generate_session("small_tick", 30.0, seed)[0] for seed in (5, 5, 6))
    for part in ("updates", "books"):
        for name, values in vars(getattr(first, part)).items():
            np.testing.assert_array_equal(values, getattr(getattr(second, part), name))
    assert len(other.updates) != len(first.updates) or (other.updates.t_ns != first.updates.t_ns).any()


@pytest.mark.thorough
def test_messages_explain_every_change_of_the_displayed_book():
    """What a message says happened at its price is exactly what the book row after it shows."""
    session, _ = generated("small_tick", 1800.0, 1)
    updates, books = session.updates, session.books
    shown = {1: (books.bid_ticks, books.bid_size), -1: (books.ask_ticks, books.ask_size)}
    change = {Kind.ADD: 1, Kind.CANCEL: -1, Kind.DELETE: -1, Kind.TRADE: -1}
    checked = 0
    for row in range(1, 4000):
        if updates.kind[row] == Kind.HIDDEN_TRADE:
            np.testing.assert_array_equal(books.bid_size[row], books.bid_size[row - 1])
            continue
        ticks, size = shown[int(updates.side[row])]
        price = updates.price_ticks[row]
        before, after = (size[r][ticks[r] == price].sum() for r in (row - 1, row))
        deepest = ticks[row][size[row] > 0][-1]
        if updates.side[row] * (price - deepest) < 0:
            continue  # it was the last level shown, which a better one pushed out of view
        assert after - before == change[Kind(updates.kind[row])] * updates.size[row]
        checked += 1
    assert checked > 3000


def test_a_sweep_executes_the_oldest_order_of_the_best_level_first():
    session, _ = generated("small_tick", 1800.0, 1)
    updates, books = session.updates, session.books
    rows = np.flatnonzero(updates.kind == Kind.TRADE)
    rows = rows[rows > 0]
    best = np.where(updates.side[rows] > 0, books.bid_ticks[rows - 1, 0], books.ask_ticks[rows - 1, 0])
    np.testing.assert_array_equal(updates.price_ticks[rows], best)
    same = (np.diff(updates.price_ticks[rows]) == 0) & (np.diff(updates.t_ns[rows]) == 0)
    assert same.sum() > 5
    assert (np.diff(updates.order_id[rows].astype(np.int64))[same] > 0).all()


def ties_of_limit_orders(session):
    added = session.updates.kind == Kind.ADD
    return np.sum(added[1:] & (np.diff(session.updates.t_ns) == 0))


@pytest.mark.thorough
@pytest.mark.parametrize("pitfall", ["halts", "dummy_levels", "ties", "crossed_row"])
def test_pitfalls_are_planted_and_survive_the_loader(tmp_path, pitfall):
    session, _ = generate_session("small_tick", 120.0, 3, pitfalls=(pitfall,))
    clean, _ = generate_session("small_tick", 120.0, 3)
    message, _ = write_lobster(session, tmp_path, "GEN", "2000-01-03")
    if pitfall == "crossed_row":
        with pytest.raises(DataError, match="best bid"):
            load_lobster(message)
        assert len(load_lobster(message, crossed="drop").updates) == len(session.updates) - 1
        return
    facts, plain = session_facts(load_lobster(message)), session_facts(clean)
    if pitfall == "halts":
        assert facts["events_by_kind"]["halt"] == 3
    elif pitfall == "dummy_levels":
        assert facts["absent_level_cells"] > plain["absent_level_cells"] + 10
    else:
        assert ties_of_limit_orders(session) > 20
        assert ties_of_limit_orders(clean) == 0


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="preset is 'medium'"):
        generate_session("medium", 10.0, 0)
    with pytest.raises(ValueError, match="unknown pitfalls floods"):
        generate_session("small_tick", 10.0, 0, pitfalls=("floods",))
    with pytest.raises(ValueError, match="duration is -1"):
        generate_session("small_tick", -1.0, 0)
