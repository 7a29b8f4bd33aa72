"""Facts about a recorded session, to compare with published ones before trusting any model of it."""

from typing import Any

import numpy as np

from mfamm_jax.market.events import NS, BookSnapshots, BookUpdates, Kind, Session, merge_marketable_orders

SESSION_SECONDS = 6.5 * 3600


def session_facts(session: Session) -> dict[str, Any]:
    """Counts, clocks, spreads, volumes and realised volatility.

    Names ending in `event_mean` weigh every row equally, `time_mean` by the seconds to the next row. Rows without both a
    bid and an ask do not enter spreads and mids.
    """
    updates, books = session.updates, session.books
    return (
        {"session": session.name, "clock": session.clock, "tick_size": session.tick_size, "levels": books.n_levels}
        | _clock(updates)
        | _book(session)
        | _executions(updates)
        | {"hidden_px_off_tick_grid": session.n_off_tick}
        | _volatility(session)
    )


def _clock(updates: BookUpdates) -> dict[str, Any]:
    t_ns = updates.t_ns
    gap = np.diff(t_ns)
    return {
        "n_events": len(t_ns),
        "events_by_kind": {kind.name.lower(): int(n) for kind in Kind if (n := (updates.kind == kind).sum())},
        "t_first_s": t_ns[0] / NS,
        "t_last_s": t_ns[-1] / NS,
        "duration_s": (t_ns[-1] - t_ns[0]) / NS,
        "rows_sharing_previous_timestamp": int((gap == 0).sum()),
        "max_gap_s": gap.max(initial=0) / NS,
    }


def _two_sided(books: BookSnapshots) -> np.ndarray:
    return (books.bid_size[:, 0] > 0) & (books.ask_size[:, 0] > 0)


def _book(session: Session) -> dict[str, Any]:
    books = session.books
    shown = _two_sided(books)
    bid, ask = books.bid_ticks[shown, 0].astype(np.int64), books.ask_ticks[shown, 0].astype(np.int64)
    seconds = np.diff(session.updates.t_ns, append=session.updates.t_ns[-1])[shown] / NS
    width, mid = ask - bid, 0.5 * (bid + ask) * session.tick_size
    total = max(seconds.sum(), 1e-9)
    facts: dict[str, Any] = {
        "one_sided_rows": int((~shown).sum()),
        "absent_level_cells": int((books.bid_size == 0).sum() + (books.ask_size == 0).sum()),
        "crossed_or_locked_rows": int((width <= 0).sum()),
    }
    if len(width):
        facts |= {
            "spread_ticks_event_mean": width.mean(),
            "spread_ticks_time_mean": (width * seconds).sum() / total,
            "spread_ticks_min": int(width.min()),
            "spread_ticks_max": int(width.max()),
            "one_tick_share_events": (width == 1).mean(),
            "one_tick_share_time": ((width == 1) * seconds).sum() / total,
            "mid_first": mid[0],
            "mid_last": mid[-1],
            "mid_min": mid.min(),
            "mid_max": mid.max(),
        }
    for side, size in (("ask", books.ask_size), ("bid", books.bid_size)):
        facts[f"best_{side}_size_event_mean"] = size[:, 0].mean(dtype=float)
        for depth in (5, 10):
            if books.n_levels >= depth:
                facts[f"depth{depth}_{side}_event_mean"] = size[:, :depth].sum(1, dtype=float).mean()
    both = (books.ask_size[:, 1:] > 0) & (books.ask_size[:, :-1] > 0)
    facts["level_gap_gt_1tick_share_ask"] = (np.diff(books.ask_ticks, axis=1) > 1)[both].mean() if both.any() else 0.0
    return facts


def _executions(updates: BookUpdates) -> dict[str, Any]:
    visible, hidden = updates.kind == Kind.TRADE, updates.kind == Kind.HIDDEN_TRADE
    volume = updates.size.astype(float)
    buys = updates.aggressor > 0
    orders = len(merge_marketable_orders(updates).t_ns)
    seconds = max((updates.t_ns[-1] - updates.t_ns[0]) / NS, 1e-9)
    return {
        "exec_visible_rows": int(visible.sum()),
        "exec_hidden_rows": int(hidden.sum()),
        "visible_volume": volume[visible].sum(),
        "hidden_volume": volume[hidden].sum(),
        "buy_initiated_visible_volume": volume[visible & buys].sum(),
        "sell_initiated_visible_volume": volume[visible & ~buys].sum(),
        "marketable_orders": orders,
        "marketable_orders_per_s": orders / seconds,
        "mean_exec_size": volume[visible].mean() if visible.any() else 0.0,
        "hidden_rows_with_order_id_0": int((updates.order_id[hidden] == 0).sum()),
    }


def _volatility(session: Session) -> dict[str, Any]:
    """Realised volatility of the log mid: root of the sum of squared changes on a grid, last value carried."""
    shown = np.flatnonzero(_two_sided(session.books))
    if len(shown) == 0:
        return {}
    t_ns = session.updates.t_ns[shown]
    log_mid = np.log(0.5 * (session.books.bid_ticks[shown, 0] + session.books.ask_ticks[shown, 0].astype(float)))
    first = -(-int(t_ns[0]) // NS) * NS

    def realised(step: int) -> float:
        grid = np.arange(first, int(t_ns[-1]) + 1, step * NS)
        row = np.searchsorted(t_ns, grid, side="right") - 1
        return float(np.sqrt(np.sum(np.diff(log_mid[row]) ** 2)))

    window = max((t_ns[-1] - t_ns[0]) / NS, 1e-9)
    return {
        "rv_1s_log_over_window": realised(1),
        "rv_1s_scaled_to_6h30": realised(1) * np.sqrt(SESSION_SECONDS / window),
        "rv_5min_log_over_window": realised(300),
    }
