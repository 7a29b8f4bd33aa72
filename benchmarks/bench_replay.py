"""Replay of a recorded session: events x policies per CPU second, ours and hftbacktest's in one run, and every fill compared.

    uv run --extra bench python benchmarks/bench_replay.py [CAPTURE.gz]

Without a capture of hftbacktest's collector it takes the BTC perpetual one under $MFAMM_DATA. Both programs read the events
that hftbacktest's converter makes of it, quote the same rule every 100 ms (half spread around the mid skewed by the
inventory, one order a side, post-only), with 10 ms latencies, the power queue model (n = 2), no partial fills and fees by
value. The policies of a sweep differ in half spread and skew. `--memory` instead replays a generated day of ten million
events and prints the most memory used.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import contextlib
import io
import resource
import sys
import tempfile
import time
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from machine import write_results

from mfamm_jax.experiments.verify_replay import NearestTickRule
from mfamm_jax.market.events import BookUpdates, Kind, Session
from mfamm_jax.market.ladder import build_ladder
from mfamm_jax.market.loaders.hftbacktest import load_hftbacktest
from mfamm_jax.policies import Covariates, SkewedPolicy
from mfamm_jax.simulation.execution import ReplayConfig
from mfamm_jax.simulation.replay import replay
from mfamm_jax.simulation.tape import build_tape

TICK, LOT, ORDER, LIMIT = 0.1, 0.001, 0.01, 0.1
INTERVAL_NS, LATENCY_NS = 100_000_000, 10_000_000
MAKER, TAKER = -5e-5, 7e-4
COUNTS = (1, 64, 1024)


def grid(n):
    """Half spreads x skews."""
    if n == 1:
        return np.array([[5.0, 0.5]])
    side = round(n**0.5)
    half, skew = np.meshgrid(np.linspace(2.0, 8.0, side), np.linspace(0.0, 0.5, side), indexing="ij")
    return np.stack([half.ravel(), skew.ravel()], axis=1)


def hftbacktest_runner(data):
    """Function (half spread, skew) -> positions at decisions, fills (time, side, price tick), and final numbers."""
    from hftbacktest import BUY, FILLED, GTX, BacktestAsset, HashMapMarketDepthBacktest
    from hftbacktest import LIMIT as LIMIT_ORDER
    from numba import njit

    @njit
    def note_fills(hbt, fills, n):
        values = hbt.orders(0).values()
        while values.has_next():
            order = values.get()
            if order.status == FILLED:
                fills[n, 0] = order.exch_timestamp
                fills[n, 1] = 1 if order.side == BUY else -1
                fills[n, 2] = order.exec_price_tick
                n += 1
        return n

    @njit
    def quote(hbt, half, skew, log, fills):
        n = n_fills = 0
        position = 0.0
        while hbt.elapse(INTERVAL_NS) == 0:
            n_fills = note_fills(hbt, fills, n_fills)
            hbt.clear_inactive_orders(0)
            depth = hbt.depth(0)
            position = hbt.position(0)
            mid = (depth.best_bid + depth.best_ask) / 2
            reservation = mid - skew * position / ORDER
            bid = min(round((reservation - half) / TICK), depth.best_bid_tick)
            ask = max(round((reservation + half) / TICK), depth.best_ask_tick)
            wants_bid, wants_ask = position < LIMIT, position > -LIMIT
            has_bid = has_ask = False
            values = hbt.orders(0).values()
            while values.has_next():
                order = values.get()
                if order.side == BUY and order.price_tick == bid and wants_bid:
                    has_bid = True
                elif order.side != BUY and order.price_tick == ask and wants_ask:
                    has_ask = True
                elif order.cancellable:
                    hbt.cancel(0, order.order_id, False)
            if wants_bid and not has_bid:
                hbt.submit_buy_order(0, bid, bid * TICK, ORDER, GTX, LIMIT_ORDER, False)
            if wants_ask and not has_ask:
                hbt.submit_sell_order(0, 1_000_000_000 + ask, ask * TICK, ORDER, GTX, LIMIT_ORDER, False)
            log[n] = position
            n += 1
        return n, note_fills(hbt, fills, n_fills)

    log, fills = np.zeros(1_000_000), np.zeros((1_000_000, 3), np.int64)

    def run(half, skew):
        asset = (
            BacktestAsset()
            .data([data])
            .linear_asset(1.0)
            .constant_order_latency(LATENCY_NS, LATENCY_NS)
            .power_prob_queue_model(2.0)
            .no_partial_fill_exchange()
            .trading_value_fee_model(MAKER, TAKER)
            .tick_size(TICK)
            .lot_size(LOT)
        )
        hbt = HashMapMarketDepthBacktest([asset])
        n, n_fills = quote(hbt, half, skew, log, fills)
        state, depth = hbt.state_values(0), hbt.depth(0)
        mid = (depth.best_bid + depth.best_ask) / 2
        profit = state.balance + state.position * mid - state.fee
        return log[:n].copy(), fills[:n_fills].copy(), (state.num_trades, profit, state.fee, state.position)

    return run


def prepared(session, ladder, reduce):
    """Tape, the times of its steps, the absolute mid at every decision, and the reference tick."""
    start = int(session.updates.t_ns[0]) + INTERVAL_NS
    end = int(session.updates.local_ns.max()) + 1
    latency = LATENCY_NS / 1e9
    tape, timeline = build_tape(
        session,
        decision_interval=INTERVAL_NS / 1e9,
        order_latency=latency,
        response_latency=latency,
        start_ns=start,
        end_ns=end,
        reduce=reduce,
        ladder=ladder,
    )
    reference = round(float(tape.reference_price) / TICK)
    bid, ask = (np.asarray(x).astype(float) + reference for x in (tape.decision_bid, tape.decision_ask))
    zeros = jnp.zeros(len(timeline.decision_ns))
    features = jnp.zeros((len(zeros), 6)).at[:, 0].set((bid * TICK + ask * TICK) / 2)
    return tape, timeline.tape_ns + session.epoch_ns, Covariates(zeros, zeros, zeros, features), reference


def rules():
    """The exchange of both programs; sizes in coins."""
    return ReplayConfig(
        queue_power=2.0,
        partial_fills=False,
        rounding="nearest",
        improves_touch=False,
        fee_model="value",
        maker_fee=MAKER,
        taker_fee=TAKER,
        lot_size=1 / LOT,
        size_increment=LOT,
    )


def ours(tape, covariates, reference, settings, precision, record="summary"):
    """Results, CPU and wall seconds of the best of three, and compile seconds."""
    n = len(settings)
    numbers = [jnp.asarray(settings[:, 0]), jnp.asarray(settings[:, 1])]
    numbers += [jnp.full(n, x) for x in (ORDER, LIMIT, TICK, float(reference))]
    arguments = (NearestTickRule(*numbers), tape, covariates, rules())
    if precision == "float32":
        arguments = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, arguments)

    def every(policies, tape, covariates, config):
        return jax.vmap(lambda p: replay(p, tape, covariates, config, record=record))(policies)

    begin = time.perf_counter()
    with jax.enable_x64(precision == "float64"):
        compiled = jax.jit(every).lower(*arguments).compile()
        compile_s = time.perf_counter() - begin
        best = (np.inf, np.inf)
        for _ in range(3 if n < 1024 else 2):
            wall, cpu = time.perf_counter(), time.process_time()
            result = jax.block_until_ready(compiled(*arguments))
            best = min(best, (time.process_time() - cpu, time.perf_counter() - wall))
    return result, best, compile_s


def compare(run, tape, tape_ns, covariates, reference, settings):
    """How many policies differ from hftbacktest in a fill's time, side or price, a position, the profit or the fees."""
    result, _, _ = ours(tape, covariates, reference, settings, "float64", record="path")
    decides = np.asarray(tape.moment.action) == 3
    different = 0
    for number, (half, skew) in enumerate(settings):
        log, fills, (trades, profit, fee, position) = run(half, skew)
        inventory = np.asarray(result.path.inventory[number])[decides]
        same = len(log) == len(inventory) and np.array_equal(inventory, log)
        step, side = np.nonzero(np.asarray(result.path.fill[number]) > 0)
        price = np.asarray(result.path.fill_price[number])[step, side] / TICK + reference
        found = np.stack([tape_ns[step], 1 - 2 * side, np.rint(price).astype(np.int64)], axis=1)
        # Within one nanosecond the order of fills is arbitrary there.
        same &= np.array_equal(found[np.lexsort(found.T)], fills[np.lexsort(fills.T)])
        same &= int(result.n_bid_fills[number] + result.n_ask_fills[number]) == trades
        found = (result.pnl[number], result.fees[number], result.inventory[number])
        same &= np.allclose(found, (profit, fee, position), rtol=1e-9, atol=1e-9)
        different += not same
    return different


def main():
    """Speed table."""
    from hftbacktest.data.utils import binancefutures

    arguments = [a for a in sys.argv[1:] if not a.startswith("--")]
    name = "binance_btc_20240808/usdm_btcusdt_20240808.gz"
    capture = Path(arguments[0]) if arguments else Path(os.environ.get("MFAMM_DATA", "")) / name
    if not capture.is_file():
        sys.exit(f"{capture}: no such file; give a capture or set MFAMM_DATA")
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as folder:
        data = binancefutures.convert(str(capture), buffer_size=20_000_000)
        np.savez(Path(folder) / "events.npz", data=data)
        session = load_hftbacktest(Path(folder) / "events.npz", tick_size=TICK, size_unit=LOT)
    n_events = len(data)
    run = hftbacktest_runner(data)
    run(5.0, 0.5)  # compiles
    cpu = time.process_time()
    ladder = build_ladder(session)
    tape, tape_ns, covariates, reference = prepared(session, ladder, True)
    prepare_s = time.process_time() - cpu
    n_steps = tape.moment.action.shape[0]
    print(f"{capture.name}: {n_events:,} events, {n_steps:,} steps after reduction, laid out in {prepare_s:.1f} CPU s")
    different = compare(run, tape, tape_ns, covariates, reference, grid(64))
    print(f"policies of 64 that differ from hftbacktest in any fill, position, profit or fee: {different}")
    rows = [{"events": n_events, "steps": n_steps, "prepare_cpu_s": prepare_s, "different_of_64": different}]
    peer = {}
    for n in COUNTS:
        settings = grid(n)
        best = np.inf
        for _ in range(3 if n == 1 else 1):
            cpu = time.process_time()
            for half, skew in settings:
                run(half, skew)
            best = min(best, time.process_time() - cpu)
        peer[n] = best
        rows.append({"program": "hftbacktest", "policies": n, "cpu_s": best, "rate": n_events * n / best})
        print(
            f"hftbacktest                 {n:5} policies: {best:8.3f} CPU s, {n_events * n / best / 1e6:8.1f} million events x policies/CPU s"
        )
    unreduced = prepared(session, ladder, False)[0]
    for reducer, laid_out in (("reduced", tape), ("every event", unreduced)):
        for precision in ("float64", "float32"):
            for n in COUNTS:
                _, (cpu, wall), compile_s = ours(laid_out, covariates, reference, grid(n), precision)
                row = {"program": "mfamm_jax", "tape": reducer, "precision": precision, "policies": n, "cpu_s": cpu}
                row |= {
                    "wall_s": wall,
                    "compile_s": compile_s,
                    "rate": n_events * n / cpu,
                    "times_faster": peer[n] / cpu,
                }
                rows.append(row)
                print(
                    f"ours, {reducer:11} {precision} {n:5} policies: {cpu:8.3f} CPU s, {n_events * n / cpu / 1e6:8.1f} million, "
                    f"{peer[n] / cpu:6.2f} times hftbacktest (compile {compile_s:.1f} s)",
                    flush=True,
                )
    write_results("replay", rows)


def generated_day(n):
    """A session of about n level changes and trades around a random walk of the mid."""
    rng = np.random.default_rng(0)
    moves = np.where(rng.random(n) < 0.02, rng.choice([-1, 1], n), 0)
    mid = np.cumsum(moves)
    side = rng.choice(np.array([1, -1], np.int8), n)
    away = 1 + rng.geometric(0.05, n)
    ticks = 100_000 + mid - side * away
    kind = np.full(n, Kind.LEVEL, np.int8)
    size = rng.integers(1, 500, n).astype(float)
    # A move takes the best level of one side away and puts a new one on the other.
    up, down = moves > 0, moves < 0
    ticks[up], side[up], size[up] = 100_000 + mid[up], -1, 0.0
    ticks[down], side[down], size[down] = 100_000 + mid[down], 1, 0.0
    trade = (moves == 0) & (rng.random(n) < 0.05)
    kind[trade], ticks[trade] = Kind.TRADE, 100_000 + mid[trade] - side[trade]
    t_ns = np.sort(rng.integers(0, 86_400_000_000_000, n))
    columns = (t_ns, kind, side, ticks.astype(np.int32), size, np.zeros(n, np.uint64))
    updates = BookUpdates(*columns, local_ns=t_ns + 1_000_000)
    return Session("GENERATED", 0.01, updates, None, "exchange time, ns", feed="levels")


def memory():
    """Peak memory of a ten-million-event day."""
    begin = time.perf_counter()
    session = generated_day(10_000_000)
    tape, timeline = build_tape(session, decision_interval=1.0, order_latency=0.01, response_latency=0.01)
    laid_out = time.perf_counter() - begin
    n = 16
    zeros = jnp.zeros(len(timeline.decision_ns))
    covariates = Covariates(zeros, zeros, zeros, jnp.zeros((len(zeros), 6)))
    policies = SkewedPolicy(jnp.linspace(0.02, 0.1, n), jnp.full(n, 0.001), jnp.full(n, 10.0), jnp.ones(n))
    run = jax.jit(jax.vmap(lambda p, t, c: replay(p, t, c, ReplayConfig(lot_size=10.0)), (0, None, None)))
    result = jax.block_until_ready(run(policies, tape, covariates))
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    fills = float(jnp.mean(result.n_bid_fills + result.n_ask_fills))
    print(
        f"{len(session.updates):,} events, {tape.moment.action.shape[0]:,} steps, {n} policies, {fills:,.0f} fills each: "
        f"{peak:.2f} GiB at most, {laid_out:.0f} s to lay out, {seconds:.0f} s in all"
    )
    write_results("replay_memory", [{"events": len(session.updates), "peak_gib": peak, "seconds": seconds}])


if __name__ == "__main__":
    memory() if "--memory" in sys.argv else main()
