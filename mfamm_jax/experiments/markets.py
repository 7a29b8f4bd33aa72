"""Where several assets come from: generated with a planted relation, or recorded files."""

import dataclasses
from typing import Any

from mfamm_jax.experiments.sources import Preset, load_file
from mfamm_jax.fields import Checked, listed, static_field
from mfamm_jax.market.events import NS, DataError, Session
from mfamm_jax.market.related import generate_related


@dataclasses.dataclass(frozen=True)
class Recording:
    """The same hours of several assets.

    Args:
        sessions: One per asset.
        train_end_ns: Where every session's part ends that anything is learned from.
        training, test: [ns] from, to; what is learned from and what is traded; None where the recording has no such part.
    """

    sessions: tuple[Session, ...]
    train_end_ns: int
    training: tuple[int, int] | None
    test: tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class Recordings:
    """What a run learns from, and what it trades.

    Args:
        name: For titles.
        training: Has a training part.
        tests: Each with a test part; sessions of their own, or the rest of the training one.
        truth: Of generated ones.
    """

    name: str
    training: Recording
    tests: tuple[Recording, ...]
    truth: dict[str, Any] | None


class RelatedMarkets(Checked):
    """Generated order flow; the second asset less `loading` times the first reverts."""

    preset: Preset = static_field(default="small_tick", help="order flow of every asset")
    n_assets: int = static_field(
        default=3, lower=2, upper=8, help="number of assets; the third and further ones are unrelated"
    )
    training: float = static_field(default=1800.0, lower=60.0, unit="s", help="session that is learned from")
    test: float = static_field(default=600.0, lower=30.0, unit="s", help="traded part of every test session")
    warm_up: float = static_field(
        default=150.0, lower=20.0, unit="s", help="time before the traded part: features need a past"
    )
    n_sessions: int = static_field(default=6, lower=1, upper=200, help="test sessions, each with seeds of its own")
    volatility: float = static_field(
        default=8.0,
        lower=0.0,
        strict=True,
        unit="ticks/sqrt(s)",
        help="volatility of the common factor and the unrelated walks",
    )
    loading: float = static_field(default=1.0, help="loading of the second asset on the first")
    residual_deviation: float = static_field(
        default=90.0, lower=0.0, strict=True, unit="ticks", help="stationary deviation of the residual"
    )
    half_life: float = static_field(default=30.0, lower=0.0, strict=True, unit="s", help="half-life of the residual")

    def load(self, seed: int) -> Recordings:
        """Generates all sessions in memory."""
        how = {
            "volatility": self.volatility,
            "loading": self.loading,
            "residual_deviation": self.residual_deviation,
            "half_life": self.half_life,
        }

        def recording(number: int, duration: float, *, is_training: bool) -> tuple[Recording, dict[str, Any]]:
            seconds = self.warm_up + duration
            sessions, truth = generate_related(self.preset, self.n_assets, seconds, 1000 * seed + number, **how)
            start = int(max(s.updates.t_ns[0] for s in sessions)) + round(self.warm_up * NS)
            # Every session trades for exactly as long: one shape, and comparable numbers.
            part = start, start + round(duration * NS)
            if is_training:
                return Recording(sessions, part[1], part, None), truth
            return Recording(sessions, part[0], None, part), truth

        training, truth = recording(0, self.training, is_training=True)
        tests = tuple(recording(1 + i, self.test, is_training=False)[0] for i in range(self.n_sessions))
        return Recordings(f"{self.n_assets} generated assets", training, tests, truth)


class RecordedMarkets(Checked):
    """A file or folder per asset, any format that `mfamm data inspect` tells, of the same hours."""

    paths: str = static_field(help="files or folders, one per asset, separated by commas")
    share: float = static_field(default=0.5, lower=0.1, upper=0.9, help="first part, which is learned from")

    def load(self, seed: int) -> Recordings:
        """Loads the files; the rest of the common hours is traded."""
        paths = listed(self.paths)
        if len(paths) < 2:
            raise DataError(f"markets.paths names {len(paths)} file, expected at least two, separated by commas")
        sessions = tuple(load_file(path) for path in paths)
        if len({session.epoch_ns for session in sessions}) > 1:
            days = ", ".join(f"{session.name}: {session.epoch_ns}" for session in sessions)
            raise DataError(f"markets.paths: the files count their times from different midnights ({days})")
        start = max(int(s.updates.t_ns[0]) for s in sessions)
        end = min(int(s.updates.t_ns[-1]) for s in sessions)
        if end - start < 60 * NS:
            raise DataError(
                f"markets.paths: the files have {max(end - start, 0) / NS:.0f} s in common, expected at least 60"
            )
        split = start + round(self.share * (end - start))
        recording = Recording(sessions, split, (start, split), (split, end))
        name = ", ".join(session.name for session in sessions)
        return Recordings(name, recording, (recording,), None)


MARKETS: dict[str, type] = {"related": RelatedMarkets, "files": RecordedMarkets}
