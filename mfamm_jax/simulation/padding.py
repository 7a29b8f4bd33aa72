"""Replays of one shape, so that one compile serves several sessions and `vmap` or `lax.map` can run through them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from mfamm_jax.policies.quotes import Covariates
from mfamm_jax.simulation.tape import Moment, Tape

BY_DECISION = (
    *("decision_mid", "decision_bid", "decision_ask", "sees_market"),
    *("time_left", "answered", "arrival_event", "refused"),
)
Replayable = tuple[tuple[Tape, ...], Moment, tuple[Covariates, ...]]


def stack_replays(replays: Sequence[Replayable]) -> Replayable:
    """Sessions of the same instruments along a new first axis: (tapes, merged moments, covariates), as `replay_strategy` takes them.

    Shorter ones end with steps in which nothing happens, narrower ladders get room that no order reaches, and decisions that never come are
    copies of the last one: results do not change.

    Args:
        replays: Of each session; the moments from `merge_tapes`.

    Raises:
        ValueError: Different numbers of instruments, or feeds with and without order ids.
    """
    if len({len(tapes) for tapes, _, _ in replays}) != 1:
        raise ValueError("sessions have different numbers of instruments, expected the same instruments in each")
    columns = list(zip(*(tapes for tapes, _, _ in replays), strict=True))
    if any(len({tape.has_orders for tape in column}) != 1 for column in columns):
        raise ValueError("some sessions of an instrument have order ids and some have not, expected one kind of feed")
    tapes = tuple(_stack([_padded(tape, column) for tape in column]) for column in columns)
    n_steps = max(moment.action.shape[0] for _, moment, _ in replays)
    moments = _stack([_with_idle_steps(moment, n_steps) for _, moment, _ in replays])
    n_decisions = tapes[0].time_left.shape[1]
    known = [jax.tree.map(lambda x: _longer(x, n_decisions), covariates) for _, _, covariates in replays]
    return tapes, moments, _stack(known)


def _stack(trees: list) -> Any:
    return jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *trees)


def _longer(x: Any, n: int) -> np.ndarray:
    """The last row again until there are n. On the host: every session has another shape, and would compile another program."""
    x = np.asarray(x)
    return np.concatenate([x, np.broadcast_to(x[-1:], (n - x.shape[0], *x.shape[1:]))])


def _with_idle_steps(moment: Moment, n: int) -> Moment:
    """Trades of nothing by nobody, at the last state of the book."""
    longer = jax.tree.map(lambda x: _longer(x, n), moment)
    idle = np.arange(n) >= moment.action.shape[0]
    names = ("action", "index", "seconds", "n_changes", "first_change", "aggressor", "trade_size")
    changed = {name: np.where(idle, 0, getattr(longer, name)).astype(getattr(longer, name).dtype) for name in names}
    longer = eqx.tree_at(lambda m: [getattr(m, name) for name in names], longer, list(changed.values()))
    return jax.tree.map(jnp.asarray, longer)


def _padded(tape: Tape, others: Sequence[Tape]) -> Tape:
    """One tape with the largest sizes of all, without its own steps: the merged ones replace them."""
    half, most = tape.ladder.shape[0] // 2, max(other.ladder.shape[0] // 2 for other in others)
    old = np.asarray(tape.ladder)
    room = np.zeros(most - half, old.dtype)
    ladder = np.concatenate([old[:half], room, old[half:], room])
    width = max(other.width for other in others)
    n_changes = max(other.change_slot.shape[0] for other in others) + width
    n_decisions = max(other.time_left.shape[0] for other in others)

    def with_room(x: Any) -> np.ndarray:
        return np.concatenate([np.asarray(x), np.zeros(n_changes - x.shape[0], x.dtype)])

    by_order = {"change_removed": tape.change_removed, "change_placed": tape.change_placed}
    if not tape.has_orders:  # one step's width of nothing
        by_order = {name: np.zeros(n_changes, x.dtype) for name, x in by_order.items()}
    slot = np.asarray(tape.change_slot)
    slot = np.where(slot >= half, slot + (most - half), slot).astype(slot.dtype)
    by_change = by_order | {"change_slot": slot, "change_size": tape.change_size}
    return dataclasses.replace(
        tape,
        moment=jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[:1]), tape.moment),  # only its first mid is read
        ladder=jnp.asarray(ladder),
        **{name: jnp.asarray(with_room(x)) for name, x in by_change.items()},
        **{name: jnp.asarray(_longer(getattr(tape, name), n_decisions)) for name in BY_DECISION},
        n_pending=max(other.n_pending for other in others),
        width=width,
        first_row=0,
    )
