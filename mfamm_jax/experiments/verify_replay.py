"""Reference cases that replay a recorded file, found under the folder that the environment variable MFAMM_DATA names."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfamm_jax.fields import real_field
from mfamm_jax.market.events import NS, Session
from mfamm_jax.market.ladder import Ladder, build_ladder
from mfamm_jax.market.loaders.hftbacktest_raw import load_hftbacktest_raw
from mfamm_jax.policies import AbstractPolicy, Covariates, MarketState, Quotes
from mfamm_jax.simulation.execution import ReplayConfig
from mfamm_jax.simulation.replay import ReplayResult, replay
from mfamm_jax.simulation.tape import Tape, build_tape


class DataMissing(Exception):
    """The case's file is not on this machine: the case is skipped."""


class NearestTickRule(AbstractPolicy):
    """The quoting rule of the cases, rounded to the nearest tick as an absolute price in floating point.

    With a spread of one tick the prices lie half way between two ticks, so that the last bit of the arithmetic decides:
    the rule repeats it operation by operation. The absolute mid comes as the first book feature.
    """

    half_spread: Float[Array, ""] = real_field()
    skew_per_order: Float[Array, ""] = real_field()
    size: Float[Array, ""] = real_field()
    max_position: Float[Array, ""] = real_field()
    tick_size: Float[Array, ""] = real_field()
    reference_ticks: Float[Array, ""] = real_field()

    def __call__(self, state: MarketState) -> Quotes:
        """One order a side while the position allows it."""
        reservation = state.covariates.book_features[0] - self.skew_per_order * state.inventory / self.size
        bid, ask = (
            (jnp.round((reservation + sign * self.half_spread) / self.tick_size) - self.reference_ticks)
            * self.tick_size
            for sign in (-1, 1)
        )
        return Quotes(
            bid_depth=state.mid - bid,
            ask_depth=ask - state.mid,
            bid_size=jnp.where(state.inventory < self.max_position, self.size, 0.0),
            ask_size=jnp.where(state.inventory > -self.max_position, self.size, 0.0),
        )


def _recording(file: str) -> Path:
    folder = os.environ.get("MFAMM_DATA")
    if not folder:
        raise DataMissing(f"{file} is looked for under MFAMM_DATA, which is not set")
    path = Path(folder) / file
    if not path.is_file():
        raise DataMissing(f"MFAMM_DATA has no {file}")
    return path


@lru_cache(maxsize=1)
def _loaded(path: Path, tick_size: float, lot_size: float) -> tuple[Session, Ladder]:
    session = load_hftbacktest_raw(path, tick_size=tick_size, size_unit=lot_size)
    return session, build_ladder(session)


def case_tape(inputs: dict[str, Any], *, reduce: bool = True) -> tuple[Tape, Covariates, int]:
    """The recorded file as hftbacktest's clock steps through it, the absolute mid at every decision, their number.

    The clock starts at the exchange's first time stamp, and the first decision is one interval later.
    """
    session, ladder = _loaded(_recording(inputs["file"]), inputs["tick_size"], inputs["lot_size"])
    interval = inputs["interval_ns"]
    entry, response = (ns / NS for ns in inputs["order_latency_ns"])
    received = session.updates.local_ns
    assert received is not None
    tape, timeline = build_tape(
        session,
        decision_interval=interval / NS,
        order_latency=entry,
        response_latency=response,
        start_ns=session.counts["first_exchange_ns"] - session.epoch_ns + interval,
        end_ns=int(received.max()) + 1,
        ladder=ladder,
        reduce=reduce,
    )
    tick, reference = session.tick_size, round(float(tape.reference_price) / session.tick_size)
    bid, ask = (np.asarray(x).astype(float) + reference for x in (tape.decision_bid, tape.decision_ask))
    zeros = jnp.zeros(len(timeline.decision_ns))
    features = jnp.zeros((len(zeros), 6)).at[:, 0].set((bid * tick + ask * tick) / 2)
    return tape, Covariates(zeros, zeros, zeros, features), len(zeros)


def case_policy(inputs: dict[str, Any], tape: Tape) -> NearestTickRule:
    """The rule with the case's numbers; lots are whole coins."""
    tick = inputs["tick_size"]
    return NearestTickRule(
        half_spread=inputs["half_spread"],
        skew_per_order=inputs["skew_per_order"],
        size=inputs["order_quantity"],
        max_position=inputs["max_position"],
        tick_size=tick,
        reference_ticks=round(float(tape.reference_price) / tick),
    )


def case_config(inputs: dict[str, Any]) -> ReplayConfig:
    """The case's exchange: sizes in coins, in multiples of the venue's lot."""
    return ReplayConfig(
        queue_model=inputs["queue_model"],
        queue_power=inputs["queue_exponent"],
        partial_fills=inputs["partial_fills"],
        rounding="nearest",
        improves_touch=False,
        fee_model="value",
        maker_fee=inputs["maker_fee"],
        taker_fee=inputs["taker_fee"],
        lot_size=1 / inputs["lot_size"],
        size_increment=inputs["lot_size"],
    )


@jax.jit
def _replayed(policy: NearestTickRule, tape: Tape, covariates: Covariates, config: ReplayConfig) -> ReplayResult:
    return replay(policy, tape, covariates, config)


def hft_replay(inputs: dict[str, Any], _: int) -> tuple[dict[str, Any], bool]:
    """`hft_replay`: hftbacktest's trades, profit and fees for the same rule on the same file."""
    tape, covariates, decisions = case_tape(inputs)
    result = _replayed(case_policy(inputs, tape), tape, covariates, case_config(inputs))
    answer = {
        "decisions": decisions,
        "trades": result.n_bid_fills + result.n_ask_fills,
        "profit": result.pnl,
        "fee": result.fees,
        "position": result.inventory,
    }
    return answer, bool(abs(result.residual) < 1e-9)


REPLAY_KINDS = {"hft_replay": hft_replay}
