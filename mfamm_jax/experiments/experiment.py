"""What the runner asks of every experiment."""

import abc
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, PRNGKeyArray

from mfamm_jax.fields import Checked

Arrays = dict[str, Any]
Stage = Callable[[Any, Any, Arrays, PRNGKeyArray], Arrays]


class ConfigError(ValueError):
    """A config, or a file it names, cannot be used."""


class AbstractExperiment(Checked):
    """Built from a config; arrays in it may be swept.

    `prepare` is host work (loading, fitting); `stages` and `row` are pure functions of (experiment, prepared, ...).
    """

    @abc.abstractmethod
    def prepare(self, folder: Any, seed: int, say: Callable[[str], None], progress: Any = None) -> Any:
        """Loads what the run needs. `folder` may receive generated data and checkpoints; `say` reports, `progress` is a rich bar."""

    @abc.abstractmethod
    def plan(self, batch: Any, prepared: Any) -> tuple[Any, str]:
        """Static choices (hashable) for a batch of experiments stacked along axis 0, and why they were made."""

    @abc.abstractmethod
    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """Named pure functions (experiment, prepared, results so far, key) -> new results, run in order."""

    @abc.abstractmethod
    def row(self, plan: Any, prepared: Any, key: PRNGKeyArray) -> dict[str, Array]:
        """Scalar metrics of one sweep row; `ok` says whether every solver succeeded."""

    def metrics(self, plan: Any, prepared: Any, results: Arrays, key: PRNGKeyArray) -> dict[str, Any]:
        """Numbers of the base run for `metrics.json`, possibly nested; `ok` decides the exit code."""
        return dict(jax.jit(lambda *args: self.row(plan, *args))(prepared, key))

    def kept(self, prepared: Any, results: Arrays) -> Arrays:
        """Which results go to arrays/base.npz."""
        return results

    def logs(self, prepared: Any, results: Arrays) -> dict[str, dict[str, Any]]:
        """Tables for logs/NAME.parquet: column name -> array. The manifest has their hashes."""
        return {}

    def sessions(self, prepared: Any, results: Arrays) -> dict[str, Any]:
        """Market data that the run found worth keeping, for data/NAME.parquet: `market.events.Session`s without book rows."""
        return {}

    @abc.abstractmethod
    def numbers_per_row(self) -> int:
        """About how many numbers a sweep row holds in memory at once."""

    def provenance(self, prepared: Any) -> dict[str, Any]:
        """What the manifest says about the data."""
        return {}

    def surface(self, plan: Any, prepared: Any, key: PRNGKeyArray) -> dict[str, Array]:
        """Curves over inventory whose sensitivities a report shows; `inventory` itself among them."""
        return {}

    def tolerances(self) -> dict[str, tuple[float, float]]:
        """Relative and absolute differences that another machine or version may make, by pattern of `metrics/...`, `arrays/...`, `sweep/...`."""
        return {}

    @classmethod
    def prepared_paths(cls) -> tuple[str, ...]:
        """Tables that `prepare` uses: sweeping over them prepares again, one group per value."""
        return ()
