"""The replay against a plain exchange on random sessions, fill by fill."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from mfamm_jax.policies import AbstractPolicy, Covariates, Quotes
from mfamm_jax.simulation.latency import RandomLatency, RecordedLatency
from mfamm_jax.simulation.replay import ReplayConfig, replay
from mfamm_jax.simulation.tape import Action, build_tape

from .oracle import simulate
from .oracle_books import ASK, BID
from .random_sessions import SESSIONS
from .shapes import ROOM, padded, recorded


class Wandering(AbstractPolicy):
    """Depths and sizes from a table, skewed by all that a policy may look at."""

    half: Float[Array, ""]
    skew: Float[Array, ""]
    size: Float[Array, ""]

    def __call__(self, state):
        now = state.covariates
        lean = self.skew * state.inventory + 1e-4 * jnp.tanh(state.cash) + 1e-5 * state.time_left + 1e-5 * state.mid
        return Quotes(
            self.half * (1 + now.imbalance) + lean,
            self.half * (1 + now.vpin) - lean,
            self.size * now.book_features[0],
            self.size * now.book_features[1],
        )


def table(seed, n, width):
    """Covariates that stay for a few decisions, so that orders rest."""
    rng = np.random.default_rng((seed, 7))
    blocks = np.repeat(np.arange(n), rng.integers(1, 12, n))[:n]
    lean = rng.uniform(-width, width, (n, 2))[blocks]
    sizes = rng.choice([0.0, 0.6, 1.0, 1.0, 1.7], (n, 2))[blocks]
    return lean, sizes


def scripted(half, skew, size, lean, sizes):
    """`Wandering` in plain Python."""

    def quote(decision, mid, inventory, cash, time_left):
        moved = skew * inventory + 1e-4 * math.tanh(cash) + 1e-5 * time_left + 1e-5 * mid
        return (
            half * (1 + lean[decision, 0]) + moved,
            half * (1 + lean[decision, 1]) - moved,
            size * sizes[decision, 0],
            size * sizes[decision, 1],
        )

    return quote


def covariates(tape, lean, sizes):
    n = tape.decision_mid.shape[0]
    lean, sizes = (np.resize(x, (n, 2)) for x in (lean, sizes))
    features = np.concatenate([sizes, np.zeros((n, 4))], axis=1)
    return Covariates(jnp.ones(n), jnp.asarray(lean[:, 1]), jnp.asarray(lean[:, 0]), jnp.asarray(features))


def path_fills(result, timeline, tape):
    """(ns, side, price in ticks, lots) of every fill, as the oracle writes them."""
    n = len(timeline.tape_ns)
    lots = np.asarray(result.path.fill)[:n].reshape(n, 2, -1)
    price = np.asarray(result.path.fill_price)[:n].reshape(n, 2, -1)
    reference = round(float(tape.reference_price / tape.tick_size))
    step, side, level = np.nonzero(lots > 0)
    ticks = price[step, side, level] / float(tape.tick_size) + reference
    return sorted(
        (int(timeline.tape_ns[s]), (BID, ASK)[d], round(float(p), 6), round(float(q), 6))
        for s, d, p, q in zip(step, side, ticks, lots[step, side, level])
    )


BASE = {"half": 0.012, "skew": 0.0017, "size": 2.0, "width": 0.8}
TAKER = {"half": 0.008, "skew": 0.0017, "size": 2.0, "width": 2.5}
# Static options: each set is compiled once.
OPTIONS = {
    "power": {},
    "log": {"queue_model": "log", "hidden_fills": True, "fee_model": "value"},
    "whole": {"queue_model": "power2", "partial_fills": False, "rounding": "nearest", "fee_model": "flat"},
    "grid": {"queue_model": "power3", "n_levels": 3},
    "taking": {"post_only": False, "queue_model": "log2", "fee_model": "value"},
    "taking_whole": {"post_only": False, "partial_fills": False, "queue_model": "risk_averse", "contract": "inverse"},
    "joining": {"improves_touch": False, "contract": "inverse", "fee_model": "value", "queue_model": "risk_averse"},
    "fifo": {"queue_model": "fifo"},
    "fifo_grid": {"queue_model": "fifo", "n_levels": 3, "partial_fills": False, "improves_touch": False},
}


def numbers(seed):
    """Random values of what needs no compilation."""
    rng = np.random.default_rng((seed, 3))
    choice = {
        "queue_power": [0.7, 1.0, 2.0, 3.0],
        "level_ticks": [1.0, 2.0, 1.5],
        "maker_fee": [-0.0002, 0.0, 0.001],
        "taker_fee": [0.0007],
        "lot_size": [50.0, 100.0, 120.0],
        "size_increment": [0.1, 0.5, 1.0],
        "refresh_ticks": [1.0, 1.0, 2.0, 3.0],
        "max_age": [math.inf, 0.6, 1.5],
        "max_inventory": [math.inf, 3.0, 5.0],
        "max_notional": [math.inf, 35.0],
    }
    return {name: float(rng.choice(values)) for name, values in choice.items()}


def measured(rng):
    """Round trips of which the venue refused some."""
    request = np.arange(0, 40_000_000_000, 700_000_000) + rng.integers(0, 300_000_000, 58)
    one_way = rng.integers(1_000_000, 150_000_000, 58)
    refused = rng.random(58) < 0.1
    return RecordedLatency(request, np.where(refused, 0, request + one_way), request + 2 * one_way)


def timing(seed):
    rng = np.random.default_rng((seed, 5))
    kind = seed % 5
    if kind == 4:
        return {"decision_interval": 0.1, "order_latency": measured(rng)}
    if kind == 0:
        return {"decision_interval": 0.1}
    if kind == 1:
        return {"decision_interval": None, "order_latency": 0.01, "response_latency": 0.013}
    if kind == 2:
        return {
            "decision_interval": 0.1,
            "order_latency": RandomLatency(0.05, 0.08, 1.0, seed),
            "feed_latency": 0.011,
        }
    return {
        "decision_interval": float(rng.choice([0.1, 0.25])),
        "order_latency": float(rng.choice([0.0, 0.03, 0.3])),
        "response_latency": float(rng.choice([0.0, 0.02, 0.15])),
        "feed_latency": float(rng.choice([0.0, 0.005])),
        "start_ns": 3_000_000_000,
        "end_ns": 24_000_000_000,
    }


def compare(feed, options, seed):
    session = SESSIONS[feed](seed)
    rules = OPTIONS[options] | numbers(seed)
    behaviour = TAKER if "taking" in options or seed % 3 == 0 else BASE
    half, skew, size, width = behaviour.values()
    when = timing(seed)
    tape, timeline = build_tape(session, depth_ticks=60, **when)
    lean, sizes = table(seed, ROOM["decisions"], width)
    reference = round(float(tape.reference_price / tape.tick_size))
    expected = simulate(session, scripted(half, skew, size, lean, sizes), when, rules, reference)
    wide = padded(tape)
    policy = Wandering(jnp.array(half), jnp.array(skew), jnp.array(size))
    result = recorded(policy, wide, covariates(wide, lean, sizes), ReplayConfig(**rules))
    fills = path_fills(result, timeline, tape)
    theirs = sorted((t, side, round(p, 6), round(q, 6)) for t, side, p, q in expected.fills)
    first = next((pair for pair in zip(fills, theirs) if pair[0] != pair[1]), None)
    assert fills == theirs, (len(fills), len(theirs), first)
    scale = {"rtol": 1e-9, "atol": 1e-9}
    for name, ours, other in (
        ("inventory", result.inventory, expected.inventory),
        ("pnl", result.pnl, expected.pnl),
        ("fees", result.fees, expected.fees),
        ("capture", result.capture, expected.capture),
        ("max_inventory", result.max_inventory, expected.most),
        ("max_drawdown", result.max_drawdown, expected.drawdown),
    ):
        np.testing.assert_allclose(ours, other, err_msg=name, **scale)
    assert abs(float(result.residual)) < 1e-9, float(result.residual)
    assert int(result.rejected) == expected.rejected, (int(result.rejected), expected.rejected)
    counts = [int(n) for n in (result.n_bid_orders, result.n_ask_orders, result.n_bid_fills, result.n_ask_fills)]
    theirs = [*expected.n_orders.values(), *expected.n_fills.values()]
    assert counts == theirs, (counts, theirs)
    seconds = float(jnp.sum(tape.moment.seconds))
    shares = [expected.quoted(side, int(timeline.tape_ns[-1])) / seconds for side in (BID, ASK)]
    np.testing.assert_allclose([result.bid_quoted, result.ask_quoted], shares, **scale)
    return len(fills)


FAST = [
    ("levels", "power", 0),
    ("books", "power", 1),
    ("orders", "power", 2),
    ("levels", "log", 3),
    ("books", "grid", 4),
    ("levels", "grid", 5),
    ("orders", "taking", 6),
    ("levels", "taking", 0),
    ("books", "taking", 3),
    ("books", "joining", 7),
    ("orders", "fifo", 8),
    ("orders", "fifo", 9),
]
FEEDS = {name: ("orders",) if "fifo" in name else ("levels", "books", "orders") for name in OPTIONS}
SLOW = [(feed, name, 20 + 5 * n + k) for k in range(3) for n, name in enumerate(OPTIONS) for feed in FEEDS[name]]


@pytest.mark.thorough
@pytest.mark.parametrize(("feed", "options", "seed"), FAST)
def test_fills_and_account_are_those_of_a_plain_exchange(feed, options, seed):
    assert compare(feed, options, seed) > 0


@pytest.mark.slow
@pytest.mark.parametrize(("feed", "options", "seed"), SLOW)
def test_fills_and_account_are_those_of_a_plain_exchange_for_all_options(feed, options, seed):
    compare(feed, options, seed)


PLAIN = {"decision_interval": 0.1, "order_latency": 0.03, "response_latency": 0.02, "feed_latency": 0.005}


def several(n):
    """Policies from tight to wide, some of them crossing."""
    spread = jnp.linspace(0.0, 0.03, n)
    return Wandering(spread, 0.002 * jnp.cos(9.0 * jnp.arange(n)), 1.0 + jnp.arange(n) % 3)


swept = eqx.filter_jit(
    lambda policies, tape, now, config: jax.vmap(lambda one: replay(one, tape, now, config))(policies)
)


def sweep(session, policies, config, reduce=True, **when):
    tape, _ = build_tape(session, depth_ticks=60, reduce=reduce, **(PLAIN | when))
    lean, sizes = table(1, ROOM["decisions"], 1.0)
    return tape, swept(policies, padded(tape), covariates(padded(tape), lean, sizes), config)


@pytest.mark.thorough
@pytest.mark.parametrize("feed", SESSIONS)
def test_the_event_reducer_changes_no_fill(feed):
    """A hundred policies each: one compilation serves all feeds, reduced or not."""
    config = ReplayConfig(max_age=0.9, max_inventory=6.0, maker_fee=0.001)
    session = SESSIONS[feed](77)
    whole, expected = sweep(session, several(100), config, reduce=False)
    short, result = sweep(session, several(100), config)
    assert short.moment.action.shape[0] < whole.moment.action.shape[0]
    assert int(jnp.sum(result.n_bid_fills + result.n_ask_fills)) > 500
    for name in ("bid_fills", "ask_fills", "n_bid_fills", "n_ask_fills", "n_bid_orders", "n_ask_orders", "rejected"):
        np.testing.assert_array_equal(getattr(result, name), getattr(expected, name), err_msg=name)
    for name in ("pnl", "fees", "capture", "inventory", "max_inventory", "max_drawdown"):
        np.testing.assert_allclose(getattr(result, name), getattr(expected, name), atol=1e-12, err_msg=name)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_future_changes_nothing_before_it_when_messages_overtake_one_another(seed):
    """Other messages after t leave fills, orders, queue positions and values up to t bit-identical."""
    first, other = (SESSIONS["levels"](30 + seed + more).updates for more in (0, 50))
    t_cut = int(first.t_ns[80 + 30 * seed])
    kept, new = first.t_ns <= t_cut, other.t_ns > t_cut

    def joined(name):
        return np.concatenate([getattr(first, name)[kept], getattr(other, name)[new]])

    changed = dataclasses.replace(first, **{field.name: joined(field.name) for field in dataclasses.fields(first)})
    assert len(changed) != len(first) or (changed.price_ticks != first.price_ticks).any()
    lean, sizes = table(seed, ROOM["decisions"], 0.8)
    seen = []
    for updates in (first, changed):
        session = dataclasses.replace(SESSIONS["levels"](30 + seed), updates=updates)
        when = PLAIN | {"end_ns": int(min(first.t_ns[-1], changed.t_ns[-1])), "reference_ticks": 1000}
        tape, timeline = build_tape(session, depth_ticks=60, **when)
        wide = padded(tape)
        policy = Wandering(jnp.array(0.012), jnp.array(0.0017), jnp.array(2.0))
        path = recorded(policy, wide, covariates(wide, lean, sizes), ReplayConfig(**numbers(seed))).path
        n = len(timeline.tape_ns)
        # Changes on both sides of t may be applied together: what our messages meet and what is filled may not differ.
        ours = np.asarray(tape.moment.action) >= Action.ARRIVE
        ours |= np.asarray(path.fill)[:n].sum(1) > 0
        at = np.flatnonzero(ours & (timeline.tape_ns <= t_cut))
        seen.append([timeline.tape_ns[at], *(np.asarray(x)[:n][at] for x in jax.tree.leaves(path))])
    assert len(seen[0][0]) > 50
    for before, after in zip(*seen):
        np.testing.assert_array_equal(before, after)


@pytest.mark.thorough
def test_jit_vmap_and_loop_give_the_same_fills():
    config = ReplayConfig(max_age=0.9, max_inventory=6.0, maker_fee=0.001)
    policies = several(100)
    tape, together = sweep(SESSIONS["levels"](77), policies, config)
    lean, sizes = table(1, ROOM["decisions"], 1.0)
    wide = padded(tape)
    for n in range(0, 100, 17):
        alone = recorded(jax.tree.map(lambda x, n=n: x[n], policies), wide, covariates(wide, lean, sizes), config)
        for name in ("pnl", "bid_fills", "ask_fills", "n_bid_fills", "n_ask_fills", "rejected", "capture"):
            np.testing.assert_allclose(getattr(together, name)[n], getattr(alone, name), atol=1e-12, err_msg=name)


@pytest.mark.thorough
def test_single_precision_gives_the_same_fills():
    """Sizes are whole numbers and prices a few digits: only depths within rounding of a tick may differ."""
    session = SESSIONS["levels"](77)
    counts = {}
    for precise in (True, False):
        with jax.enable_x64(precise):
            config = ReplayConfig(max_age=0.9, max_inventory=6.0, maker_fee=0.001)
            _, result = sweep(session, several(100), config)
            assert result.pnl.dtype == (jnp.float64 if precise else jnp.float32)
            counts[precise] = np.asarray(result.n_bid_fills + result.n_ask_fills)
            pnl = np.asarray(result.pnl)
            assert np.abs(np.asarray(result.residual)).max() < (1e-10 if precise else 1e-4 * (1 + np.abs(pnl).max()))
    assert np.mean(counts[True] != counts[False]) < 0.05
    assert abs(counts[True].sum() - counts[False].sum()) < 0.01 * counts[True].sum()
