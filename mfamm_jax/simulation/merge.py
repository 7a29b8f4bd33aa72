"""Tapes of several instruments as one sequence of steps."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mfamm_jax.market.events import NS
from mfamm_jax.simulation.tape import Action, Moment, Tape
from mfamm_jax.simulation.timeline import Timeline


def merge_tapes(parts: Sequence[tuple[Tape, Timeline]]) -> Moment:
    """Steps of all tapes in order of time, for `replay_together`; the actions of tape number i are `3 i + action`.

    Args:
        parts: What `build_tape` returned for each instrument, with the same start, end, decision interval and response latency,
            and times that count from the same midnight.

    Raises:
        ValueError: The instruments do not decide at the same times.
    """
    _, first = parts[0]
    for number, (_, timeline) in enumerate(parts):
        if not np.array_equal(timeline.decision_ns, first.decision_ns):
            raise ValueError(
                f"tape {number} decides at other times than tape 0; give all the same start, end and interval"
            )
    actions = [np.asarray(tape.moment.action) for tape, _ in parts]
    decides = [timeline.tape_ns[action == Action.DECIDE] for action, (_, timeline) in zip(actions, parts)]
    if any(not np.array_equal(times, decides[0]) for times in decides):
        raise ValueError("the instruments' response latencies differ, expected the same constant for all")
    keys = []
    for number, (action, (_, timeline)) in enumerate(zip(actions, parts)):
        keep = (action != Action.DECIDE) | (number == len(parts) - 1)
        rows = np.flatnonzero(keep)
        keys.append((timeline.tape_ns[rows], _ranks(action, timeline.tape_ns)[rows], np.full(len(rows), number), rows))
    t_ns, rank, number, row = (np.concatenate(column) for column in zip(*keys))
    order = np.lexsort((row, number, rank, t_ns))
    t_ns, number, row = t_ns[order], number[order], row[order]

    starts = np.concatenate([[0], np.cumsum([len(action) for action in actions])])[:-1]
    moments = [
        jax.tree.map(np.asarray, tape.moment) for tape, _ in parts
    ]  # on the host, where a new shape costs no compile
    moment = jax.tree.map(lambda *columns: jnp.asarray(np.concatenate(columns)[starts[number] + row]), *moments)
    action = np.concatenate(actions)[starts[number] + row]
    action = np.where(action == Action.DECIDE, 3 * len(parts), 3 * number + action)
    seconds = np.diff(t_ns, prepend=t_ns[:1]) / NS
    changed = {"action": jnp.asarray(action, jnp.int32), "seconds": jnp.asarray(seconds, moment.seconds.dtype)}
    return Moment(**{name: changed.get(name, getattr(moment, name)) for name in vars(moment)})


def _ranks(action: np.ndarray, t_ns: np.ndarray) -> np.ndarray:
    """Order among the steps of one nanosecond: events, then decisions and arrivals as they follow one another."""
    is_decision = action == Action.DECIDE
    before = np.cumsum(is_decision) - is_decision
    start = np.searchsorted(t_ns, t_ns, side="left")
    earlier = before - before[start]
    return np.where(action <= Action.LEVELS, 0, 1 + 2 * earlier + is_decision)
