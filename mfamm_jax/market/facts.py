"""Facts about a recorded session, to compare with published ones before trusting any model of it."""

from typing import Any, NamedTuple

import numpy as np

from mfamm_jax.market.events import NS, BookSnapshots, BookUpdates, Kind, Session, merge_marketable_orders
from mfamm_jax.market.ladder import build_ladder

TRADING_SECONDS = {True: 86_400.0, False: 6.5 * 3600}  # of a market that never closes, of a stock exchange
TRADING_NAMES = {True: "24h", False: "6h30"}


def session_facts(session: Session) -> dict[str, Any]:
    """Counts, clocks, spreads, volumes and realised volatility.

    Names ending in `event_mean` weigh every row equally, `time_mean` by the seconds to the next row. Rows without both a
    bid and an ask do not enter spreads and mids. Where best quotes were recorded as a stream of their own, spreads and mids
    are theirs, by the time of receipt. Sizes are in shares, coins or contracts.
    """
    updates, books = session.updates, session.books
    top = _best(session)
    facts = {"session": session.name, "feed": session.feed, "clock": session.clock, "tick_size": session.tick_size}
    facts |= {"size_unit": session.size_unit} if session.size_unit != 1.0 else {}
    facts |= {"levels": books.n_levels} if books is not None else {}
    facts |= _clock(updates)
    facts |= _prices(top, session.tick_size) if top is not None else {}
    facts |= _depth(books, session.size_unit) if books is not None else {}
    facts |= _executions(updates, session.size_unit, top)
    facts |= {"hidden_px_off_tick_grid": session.n_off_tick}
    facts |= _volatility(top, session.epoch_ns > 0) if top is not None else {}
    return facts | session.counts


class _Best(NamedTuple):
    """Best prices over time [ticks], where both sides are there, and how many rows lack one."""

    t_ns: np.ndarray
    bid: np.ndarray
    ask: np.ndarray
    seconds: np.ndarray  # until the next row
    n_one_sided: int
    counts: dict[str, int]
    starts_at_first: bool  # whether the volatility's grid starts at the first row, or at the next whole second


def _series(
    t_ns: np.ndarray, shown: np.ndarray, bid: np.ndarray, ask: np.ndarray, starts_at_first: bool, **counts: int
) -> _Best:
    seconds = np.diff(t_ns, append=t_ns[-1:]) / NS
    sides = (bid[shown].astype(np.int64), ask[shown].astype(np.int64))
    return _Best(t_ns[shown], *sides, seconds[shown], int((~shown).sum()), counts, starts_at_first)


def _best(session: Session) -> _Best | None:
    quotes, books = session.best_quotes, session.books
    if quotes is not None:
        t_ns = quotes.t_ns if quotes.local_ns is None else quotes.local_ns
        shown = _two_sided(quotes.books)
        counts = {"best_quote_rows": len(t_ns)}
        return _series(t_ns, shown, quotes.books.bid_ticks[:, 0], quotes.books.ask_ticks[:, 0], True, **counts)
    t_ns = session.updates.t_ns
    if books is not None:
        return _series(t_ns, _two_sided(books), books.bid_ticks[:, 0], books.ask_ticks[:, 0], False)
    if session.feed == "trades":
        return None
    ladder = build_ladder(session)
    counts = {"crossing_messages": ladder.n_crossed, "messages_on_unknown_orders": ladder.n_unknown}
    return _series(t_ns, ladder.two_sided, ladder.best_bid, ladder.best_ask, False, **counts)


def _clock(updates: BookUpdates) -> dict[str, Any]:
    t_ns = updates.t_ns
    gap = np.diff(t_ns)
    facts = {
        "n_events": len(t_ns),
        "events_by_kind": {kind.name.lower(): int(n) for kind in Kind if (n := (updates.kind == kind).sum())},
        "t_first_s": t_ns[0] / NS,
        "t_last_s": t_ns[-1] / NS,
        "duration_s": (t_ns[-1] - t_ns[0]) / NS,
        "rows_sharing_previous_timestamp": int((gap == 0).sum()),
        "max_gap_s": gap.max(initial=0) / NS,
    }
    if updates.local_ns is not None:
        latency = (updates.local_ns - t_ns) / 1e6
        facts["feed_latency_ms"] = {"min": latency.min(), "median": np.median(latency), "max": latency.max()}
        facts["received_out_of_order"] = int((np.diff(updates.local_ns) < 0).sum())
    return facts


def _two_sided(books: BookSnapshots) -> np.ndarray:
    return (books.bid_size[:, 0] > 0) & (books.ask_size[:, 0] > 0)


def _prices(best: _Best, tick_size: float) -> dict[str, Any]:
    width, mid = best.ask - best.bid, 0.5 * (best.bid + best.ask) * tick_size
    facts: dict[str, Any] = {"one_sided_rows": best.n_one_sided, "crossed_or_locked_rows": int((width <= 0).sum())}
    facts |= best.counts
    if len(width):
        total = max(best.seconds.sum(), 1e-9)
        facts |= {
            "spread_ticks_event_mean": width.mean(),
            "spread_ticks_time_mean": (width * best.seconds).sum() / total,
            "spread_ticks_min": int(width.min()),
            "spread_ticks_max": int(width.max()),
            "one_tick_share_events": (width == 1).mean(),
            "one_tick_share_time": ((width == 1) * best.seconds).sum() / total,
            "mid_first": mid[0],
            "mid_last": mid[-1],
            "mid_min": mid.min(),
            "mid_max": mid.max(),
        }
    return facts


def _depth(books: BookSnapshots, size_unit: float) -> dict[str, Any]:
    facts: dict[str, Any] = {"absent_level_cells": int((books.bid_size == 0).sum() + (books.ask_size == 0).sum())}
    for side, size in (("ask", books.ask_size), ("bid", books.bid_size)):
        facts[f"best_{side}_size_event_mean"] = size[:, 0].mean(dtype=float) * size_unit
        for depth in (5, 10):
            if books.n_levels >= depth:
                facts[f"depth{depth}_{side}_event_mean"] = size[:, :depth].sum(1, dtype=float).mean() * size_unit
    both = (books.ask_size[:, 1:] > 0) & (books.ask_size[:, :-1] > 0)
    facts["level_gap_gt_1tick_share_ask"] = (np.diff(books.ask_ticks, axis=1) > 1)[both].mean() if both.any() else 0.0
    return facts


def _executions(updates: BookUpdates, size_unit: float, best: _Best | None) -> dict[str, Any]:
    visible, hidden = updates.kind == Kind.TRADE, updates.kind == Kind.HIDDEN_TRADE
    volume = updates.size.astype(float) * size_unit
    buys, sells = updates.aggressor > 0, updates.aggressor < 0
    orders = len(merge_marketable_orders(updates).t_ns)
    t_ns = updates.t_ns if best is None or len(best.t_ns) == 0 else best.t_ns
    seconds = max((t_ns[-1] - t_ns[0]) / NS, 1e-9)
    return {
        "exec_visible_rows": int(visible.sum()),
        "exec_hidden_rows": int(hidden.sum()),
        "exec_rows_per_s": visible.sum() / seconds,
        "visible_volume": volume[visible].sum(),
        "hidden_volume": volume[hidden].sum(),
        "buy_initiated_visible_volume": volume[visible & buys].sum(),
        "sell_initiated_visible_volume": volume[visible & sells].sum(),
        "buy_initiated_share_of_rows": (visible & buys).sum() / max(visible.sum(), 1),
        "marketable_orders": orders,
        "marketable_orders_per_s": orders / max((updates.t_ns[-1] - updates.t_ns[0]) / NS, 1e-9),
        "mean_exec_size": volume[visible].mean() if visible.any() else 0.0,
        "hidden_rows_with_order_id_0": int((updates.order_id[hidden] == 0).sum()),
    }


def _volatility(best: _Best, never_closes: bool) -> dict[str, Any]:
    """Realised volatility of the log mid: root of the sum of squared changes on a grid, last value carried."""
    if len(best.t_ns) == 0:
        return {}
    if (best.bid + best.ask <= 0).any():  # prices of spreads between contracts
        return {}
    log_mid = np.log(0.5 * (best.bid + best.ask))
    start = int(best.t_ns[0])
    first = start if best.starts_at_first else -(-start // NS) * NS

    def realised(step: int) -> float:
        # Number of the grid's first point at or after each row; between rows the mid stands, however long that is.
        point = np.maximum(-((first - best.t_ns) // (step * NS)), 0)
        last = np.append(point[1:] != point[:-1], True) & (point <= (best.t_ns[-1] - first) // (step * NS))
        return float(np.sqrt(np.sum(np.diff(log_mid[last]) ** 2)))

    window = max((best.t_ns[-1] - start) / NS, 1e-9)
    scaled = realised(1) * np.sqrt(TRADING_SECONDS[never_closes] / window)
    return {
        "rv_1s_log_over_window": realised(1),
        f"rv_1s_scaled_to_{TRADING_NAMES[never_closes]}": scaled,
        "rv_5min_log_over_window": realised(300),
    }
