r"""Books with a planted signal: the mid's next move depends on how the near and the deep levels of earlier snapshots go together.

With u the mean volume imbalance (6) of the first three levels in the last three snapshots and v that of four deeper levels in older
ones, both standardised, the next block's move is up with probability $\sigma(s\,u\,(|v| - E|v|))$: what the near book says holds
when the deep book was lopsided, and the opposite when it was balanced. u alone says nothing, nor does v, nor any linear score.
"""

from typing import Any

import numpy as np

from mfamm_jax.market.events import NS, BookSnapshots, BookUpdates, Kind, Session

START_NS = 34_200 * NS
STEP_NS, BLOCK_STEPS = NS // 10, 10
N_LEVELS = 10
FIRST_TICK, TICK_SIZE, LOT = 10_000, 0.01, 100
PERSISTENCE = 0.8  # of the log size ratios from one snapshot to the next
N_NEAR = 4  # levels that move together, as the deeper ones do
COMMON = 0.9  # correlation of a level's log size ratio with the common part of its group
NEAR = (slice(-3, None), slice(0, 3))  # snapshots and levels of u within a block
DEEP = (slice(2, 6), slice(4, 8))  # of v


def generate_planted(n_blocks: int, strength: float, seed: int) -> tuple[Session, dict[str, Any]]:
    """A snapshot every 0.1 s; the mid moves one tick at the start of every second, up or down.

    Args:
        n_blocks: Seconds.
        strength: s, log odds per unit of the standardised signal; 0 plants nothing.
        seed: Same seed, same session.

    Returns:
        The session, and when each move was decided (`decision_ns`) with what probability of up (`up_probability`).
    """
    if n_blocks < 2 or not np.isfinite(strength):
        raise ValueError(f"n_blocks is {n_blocks}, strength {strength}; expected at least 2 blocks and a finite number")
    rng = np.random.default_rng(seed)
    n_rows = n_blocks * BLOCK_STEPS
    bid_size, ask_size = _sizes(rng, n_rows)
    probability = up_probability(bid_size, ask_size, strength)
    moves = np.where(rng.random(n_blocks) < probability, 1, -1)
    mid = FIRST_TICK + np.repeat(np.cumsum(np.concatenate([[0], moves[:-1]])), BLOCK_STEPS)
    half_spread = rng.geometric(0.6, n_rows)
    bid, ask = mid - half_spread, mid + half_spread
    books = BookSnapshots(
        bid_ticks=(bid[:, None] - _gaps(rng, n_rows)).astype(np.int32),
        bid_size=bid_size,
        ask_ticks=(ask[:, None] + _gaps(rng, n_rows)).astype(np.int32),
        ask_size=ask_size,
    )
    t_ns = START_NS + STEP_NS * np.arange(n_rows)
    updates = BookUpdates(
        t_ns=t_ns,
        kind=np.full(n_rows, Kind.SNAPSHOT, np.int8),
        side=np.zeros(n_rows, np.int8),
        price_ticks=np.zeros(n_rows, np.int32),
        size=np.zeros(n_rows, np.float32),
        order_id=np.zeros(n_rows, np.uint64),
    )
    session = Session(f"planted seed {seed}", TICK_SIZE, updates, books, "simulated time, ns after midnight", "levels")
    decision_ns = t_ns[BLOCK_STEPS - 1 :: BLOCK_STEPS]
    return session, {"strength": strength, "decision_ns": decision_ns, "up_probability": probability}


def up_probability(bid_size: np.ndarray, ask_size: np.ndarray, strength: float) -> np.ndarray:
    """Of each block's next move, from the sizes of its snapshots; float64 (block,)."""
    imbalance = (bid_size - ask_size) / np.maximum(bid_size, ask_size)
    blocks = imbalance.reshape(-1, BLOCK_STEPS, imbalance.shape[1]).astype(np.float64)
    near, deep = (blocks[:, rows, levels].mean(axis=(1, 2)) for rows, levels in (NEAR, DEEP))
    near, deep = near / near.std(), np.abs(deep / deep.std())
    return 1 / (1 + np.exp(-strength * near * (deep - deep.mean())))


def _sizes(rng: np.random.Generator, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Bid and ask sizes in whole lots; log ratios have variance one, a near and a deep common part and memory."""
    group = (np.arange(N_LEVELS) >= N_NEAR).astype(int)
    own, common = _autoregressive(rng, n_rows, N_LEVELS), _autoregressive(rng, n_rows, 2)
    ratio = COMMON * common[:, group] + np.sqrt(1 - COMMON**2) * own
    depth = 8 * np.exp(0.5 * rng.standard_normal((n_rows, N_LEVELS)))
    bid, ask = (np.maximum(np.rint(depth * np.exp(sign * ratio / 2)), 1) * LOT for sign in (1, -1))
    return bid.astype(np.float32), ask.astype(np.float32)


def _autoregressive(rng: np.random.Generator, n_rows: int, n: int) -> np.ndarray:
    """Columns of variance one whose neighbouring rows have correlation `PERSISTENCE`."""
    out = rng.standard_normal((n_rows, n))
    shock = np.sqrt(1 - PERSISTENCE**2)
    for row in range(1, n_rows):
        out[row] = PERSISTENCE * out[row - 1] + shock * out[row]
    return out


def _gaps(rng: np.random.Generator, n_rows: int) -> np.ndarray:
    """Ticks from the touch to each level."""
    return np.cumsum(np.column_stack([np.zeros(n_rows, int), rng.geometric(0.6, (n_rows, N_LEVELS - 1))]), axis=1)
