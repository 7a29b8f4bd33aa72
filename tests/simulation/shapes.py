"""Tapes in common shapes, so that many sessions share one compilation for each set of static options."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp

from mfamm_jax.simulation.replay import replay
from mfamm_jax.simulation.tape import Action

ROOM = {"steps": 800, "changes": 900, "decisions": 400, "ladder": 400, "pending": 64, "window": 32}


def padded(tape):
    """The same tape in shapes that all sessions of this file share: one compilation for each set of static options."""

    def longer(array, n):
        extra = n - array.shape[0]
        assert extra >= 0, (array.shape, n)
        return jnp.concatenate([array, jnp.broadcast_to(array[-1:], (extra, *array.shape[1:]))])

    width, room = tape.ladder.shape[0] // 2, ROOM["ladder"]
    assert width <= room
    bids, asks = (jnp.pad(part, (0, room - width)) for part in jnp.split(tape.ladder, 2))
    slot = jnp.where(tape.change_slot >= width, tape.change_slot + room - width, tape.change_slot)
    moment = jax.tree.map(lambda x: longer(x, ROOM["steps"]), tape.moment)
    old = tape.moment.action.shape[0]
    idle = jnp.arange(ROOM["steps"]) >= old  # further steps change nothing and take no time
    moment = dataclasses.replace(
        moment,
        action=jnp.where(idle, int(Action.LEVELS), moment.action),
        seconds=jnp.where(idle, 0.0, moment.seconds),
        n_changes=jnp.where(idle, 0, moment.n_changes),
        first_change=jnp.where(idle, 0, moment.first_change),
    )
    grown = {
        name: longer(getattr(tape, name), ROOM["decisions"])
        for name in (
            [
                "decision_mid",
                "decision_bid",
                "decision_ask",
                "sees_market",
                "time_left",
                "answered",
                "arrival_event",
                "refused",
            ]
        )
    }
    changes = {
        name: getattr(tape, name)
        for name in ("change_size", "change_removed", "change_placed")
    } | {"change_slot": slot}  # fmt: skip
    changes = {name: jnp.pad(x, (0, ROOM["changes"] - x.shape[0])) for name, x in changes.items()}
    return dataclasses.replace(
        tape,
        moment=moment,
        ladder=jnp.concatenate([bids, asks]),
        n_pending=ROOM["pending"],
        width=ROOM["window"],
        first_row=0,
        **grown,
        **changes,
    )


recorded = eqx.filter_jit(lambda policy, tape, now, config: replay(policy, tape, now, config, record="path"))
