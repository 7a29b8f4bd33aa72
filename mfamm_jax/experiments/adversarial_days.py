"""Days of experiment `adversarial`: a session as it was, and the same one with bad days planted in its test part."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mfamm_jax.experiments.adversarial_flaws import known_names
from mfamm_jax.experiments.experiment import ConfigError
from mfamm_jax.experiments.observe import Observed, observe
from mfamm_jax.experiments.quoting import replay_part
from mfamm_jax.fields import Checked, static_field
from mfamm_jax.market.events import NS, DataError, Session
from mfamm_jax.market.scenarios import SCENARIOS, plant
from mfamm_jax.market.thinning import level_messages, with_books
from mfamm_jax.simulation.merge import merge_tapes
from mfamm_jax.simulation.padding import Replayable, stack_replays

IN_SECONDS = ("stale_quotes", "latency_spike", "clock_skew")


class Scenarios(Checked):
    """Which bad days are planted, and how bad; every draw is between half and twice as long and as large."""

    names: str = static_field(default=", ".join(SCENARIOS), help="bad days that are planted, separated by commas")
    n_draws: int = static_field(default=3, lower=1, upper=1000, help="draws of every scenario")
    seconds: float = static_field(default=15.0, lower=0.1, unit="s", help="length of the window of a bad day")
    ticks: float = static_field(default=30.0, lower=0.0, unit="ticks", help="size of the scenarios that move prices")
    delay: float = static_field(default=2.0, lower=0.0, unit="s", help="size of the scenarios that delay messages")

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names; a ConfigError where one is unknown."""
        return known_names("scenarios.names", self.names, SCENARIOS)


class Day(NamedTuple):
    """A session that is replayed.

    Args:
        scenario: "" = as it was recorded.
        start: Of the window, from the session's first event [s].
        seconds: Length of the window.
        size: As `market.scenarios.plant` takes it.
        levels: The session as a level feed: what a file of it holds.
    """

    scenario: str
    start: float
    seconds: float
    size: float
    levels: Session


def draw_days(session: Session, scenarios: Scenarios, test_start_ns: int, seed: int) -> list[Day]:
    """The recorded day, then every draw of every scenario; windows lie in the test part."""
    first, last = int(session.updates.t_ns[0]), int(session.updates.t_ns[-1])
    begin, end = (test_start_ns - first) / NS, (last - first) / NS
    if end - begin < 3 * scenarios.seconds:
        raise ConfigError(
            f"scenarios.seconds is {scenarios.seconds:g} and the test part has {end - begin:.0f} s, expected at least three times as many: "
            "shorten the window or use a longer session"
        )
    days = [Day("", 0.0, 0.0, 0.0, level_messages(session))]
    for number, name in enumerate(SCENARIOS):
        if name not in scenarios.kinds:
            continue
        # Of a scenario's own, so that the draws of one do not depend on which others are asked for.
        rng = np.random.default_rng([seed, number])
        usual = scenarios.delay if name in IN_SECONDS else scenarios.ticks
        for _ in range(scenarios.n_draws):
            where, length, scale = rng.random(), *2 ** rng.uniform(-1, 1, 2)
            seconds = scenarios.seconds * float(length)
            start = begin + float(where) * (end - begin - seconds)
            size = usual * float(scale)
            try:
                planted = plant(session, name, start, seconds, size)
            except ValueError as error:
                raise DataError(f"scenarios: {error}") from error
            days.append(Day(name, start, seconds, size, level_messages(planted)))
    return days


def lay_out_days(
    experiment: Any, days: list[Day], n_levels: int, observed: Observed, say: Callable[[str], None], progress: Any
) -> tuple[Replayable, list[int]]:
    """Test parts of all days in one shape, with covariates on the recorded day's scales, and the number of steps of each."""
    parts, n_steps = [], []
    task = progress.add_task("days", total=len(days)) if progress else None
    for day in days:
        session, ladder = with_books(day.levels, n_levels)
        seen = observe(session, experiment.features, train_end_ns=observed.train_end_ns, like=observed)
        tape, known, _, timeline = replay_part(session, ladder, seen, experiment.execution, observed.train_end_ns, None)
        parts.append(((tape,), merge_tapes([(tape, timeline)]), (known,)))
        n_steps.append(len(timeline.tape_ns))
        if progress:
            progress.advance(task)
    if progress:
        progress.remove_task(task)
    say(f"{len(days)} days of up to {max(n_steps):,} steps")
    return stack_replays(parts), n_steps
