"""Figures of a replay: mid with our quotes and fills, inventory, profit, and the queue."""

from typing import Any

import numpy as np
import polars as pl

from mfamm_jax.experiments.figures import ASK, BID, OURS, Arrays, figure_axes, svg_text, thin

CLOSE_UP = 600  # decisions shown with their quotes


def trading(arrays: Arrays, fills: pl.DataFrame) -> str:
    """Mid with fills over the whole time, then inventory and profit below it."""
    figure, axes = figure_axes(1, 5.6, rows=3)
    seconds, mid = arrays["trading/seconds"], arrays["trading/mid"]
    keep = thin(len(seconds))
    minutes = seconds / 60
    top, middle, bottom = axes[:, 0]
    top.step(minutes[keep], mid[keep], color="black", lw=0.7, where="post", label="mid")
    for side, colour, marker in (("bid", BID, "^"), ("ask", ASK, "v")):
        ours = fills.filter(pl.col("side") == side)
        at = ours["seconds"].to_numpy() / 60
        top.plot(at, ours["price"], marker, ms=3, color=colour, label=f"{side} fills ({len(ours):,})")
    top.set(ylabel="price")
    top.legend(fontsize=7, ncols=3)
    middle.step(minutes[keep], arrays["trading/inventory"][keep], color=OURS, lw=1, where="post")
    middle.set(ylabel="inventory [lots]")
    bottom.step(minutes[keep], arrays["trading/value"][keep], color=OURS, lw=1, where="post")
    bottom.set(xlabel="time [min]", ylabel="P&L at the mid")
    for axis in (middle, bottom):
        axis.axhline(0, color="black", lw=0.5)
    return svg_text(figure)


def close_up(arrays: Arrays, fills: pl.DataFrame) -> str:
    """Quotes around the mid for the stretch of decisions with most fills."""
    seconds = arrays["trading/seconds"]
    count = np.searchsorted(np.sort(fills["seconds"].to_numpy()), seconds)
    n = min(CLOSE_UP, len(seconds))
    start = int(np.argmax(count[n - 1 :] - count[: len(seconds) - n + 1])) if len(seconds) > n else 0
    rows = slice(start, start + n)
    figure, axes = figure_axes(1, 3.2)
    axis = axes[0, 0]
    axis.step(seconds[rows], arrays["trading/mid"][rows], color="black", lw=0.8, where="post", label="mid")
    tick, reference = arrays["trading/tick_size"], arrays["trading/reference_price"]
    ticks, size = (_first_level(arrays[f"trading/{name}"]) for name in ("order_ticks", "order_size"))
    for column, (side, colour, marker) in enumerate((("bid", BID, "^"), ("ask", ASK, "v"))):
        price = np.where(size[rows, column] > 0, ticks[rows, column] * tick + reference, np.nan)
        axis.step(seconds[rows], price, color=colour, lw=0.9, where="post", label=f"our {side}")
        ours = fills.filter(
            (pl.col("side") == side) & pl.col("seconds").is_between(seconds[rows][0], seconds[rows][-1])
        )
        axis.plot(ours["seconds"], ours["price"], marker, ms=5, color=colour)
    axis.set(xlabel="time [s]", ylabel="price")
    axis.legend(ncols=3, fontsize=7)
    return svg_text(figure)


def _first_level(values: Any) -> np.ndarray:
    return values if values.ndim == 2 else values[:, :, 0]


def queue(orders: pl.DataFrame) -> str:
    """How many orders joined behind how much, and which of them filled."""
    figure, axes = figure_axes(1, 2.6)
    axis = axes[0, 0]
    seen = orders.filter(pl.col("queue_in_front").is_finite())
    front, filled = seen["queue_in_front"].to_numpy(), (seen["filled_lots"] > 0).to_numpy()
    edges = np.linspace(0, max(np.quantile(front, 0.99), 1.0), 31) if len(front) else np.linspace(0, 1, 3)
    axis.hist(
        [front[~filled], front[filled]], edges, stacked=True, color=["tab:gray", OURS], label=["not filled", "filled"]
    )
    axis.set(xlabel="quantity in front at arrival [recorded units]", ylabel="orders")
    axis.legend()
    return svg_text(figure)
