"""Hand-made sessions."""

import numpy as np

from mfamm_jax.market.events import BookSnapshots, BookUpdates, Session


def make_session(updates, books, tick_size=0.01):
    """Session from rows (t_ns, kind, side, price_ticks, size, order_id) and (bid, bid size, ask, ask size)."""
    t_ns, kind, side, price, size, order = (np.array(column) for column in zip(*updates))
    levels = np.array(books, float)
    if levels.ndim == 2:
        levels = levels[:, None, :]
    return Session(
        name="HAND 2000-01-03",
        tick_size=tick_size,
        updates=BookUpdates(
            t_ns.astype(np.int64),
            kind.astype(np.int8),
            side.astype(np.int8),
            price.astype(np.int32),
            size.astype(np.float32),
            order.astype(np.uint64),
        ),
        books=BookSnapshots(
            levels[..., 0].astype(np.int32),
            levels[..., 1].astype(np.float32),
            levels[..., 2].astype(np.int32),
            levels[..., 3].astype(np.float32),
        ),
        clock="exchange event time, ns",
    )
