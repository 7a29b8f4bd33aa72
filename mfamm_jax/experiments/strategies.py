"""Where P&L of strategies comes from: generated with hidden regimes, or a recorded panel."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mfamm_jax.fields import Checked, in_precision, listed, static_field
from mfamm_jax.market.events import DataError
from mfamm_jax.market.loaders.panel import load_panel
from mfamm_jax.models.regime_returns import RegimeReturns

# Market makers earn in quiet markets and lose to trends; pair trades earn while spreads come back; cash hardly moves.
NAMES = ("market making A", "market making B", "pair trade A", "pair trade B", "cash")
REGIMES = ("quiet", "trending", "reverting")
MEANS = [[0.75, 0.6, 0.0, 0.15, 0.0], [-1.05, -0.75, 0.15, -0.45, 0.0], [0.3, 0.45, 1.05, 0.9, 0.0]]
EXPOSURES = [[0.4, 0.0], [0.0, 0.4], [0.3, -0.3], [-0.2, 0.2], [0.0, 0.0]]
OWN_DEVIATIONS = [0.7, 0.7, 0.9, 0.9, 0.05]


@dataclasses.dataclass(frozen=True)
class Strategies:
    """P&L per period and unit of capital.

    Args:
        name: For titles.
        names: Of the strategies.
        history: (row, strategy) what baselines, covariances and the graph are estimated on.
        test: (path, step, strategy) what everything is judged on.
        exposures, covariance: Of the risk.
        law: Of generated P&L; None = recorded.
        source: File and its sha256.
    """

    name: str
    names: tuple[str, ...]
    history: np.ndarray
    test: np.ndarray
    exposures: np.ndarray
    covariance: np.ndarray
    law: RegimeReturns | None = None
    source: tuple[tuple[str, str], ...] = ()


class RegimeStrategies(Checked):
    """Five strategies in three regimes."""

    strength: float = static_field(default=1.0, lower=0.0, help="factor on the regimes' mean P&L; 0 = nothing to find")
    switching: float = static_field(
        default=0.045, lower=0.0, strict=True, upper=0.66, help="probability that a regime ends after a period"
    )
    n_history: int = static_field(default=4000, lower=200, unit="periods", help="record that baselines are made from")
    n_test: int = static_field(default=128, lower=2, help="paths that judge")
    n_test_steps: int = static_field(default=300, lower=50, unit="periods", help="length of each judging path")

    def load(self, seed: int, n_steps: int) -> Strategies:
        """Draws the record and the judging paths."""
        exposures = np.concatenate([EXPOSURES, np.diag(OWN_DEVIATIONS)], axis=1)
        covariance = np.eye(exposures.shape[1])
        covariance[0, 1] = covariance[1, 0] = 0.5
        n = len(REGIMES)
        switching = np.full((n, n), self.switching / (n - 1)) + np.eye(n) * (1 - self.switching * n / (n - 1))
        law = RegimeReturns(self.strength * np.array(MEANS), exposures, covariance, switching)
        key = jax.random.key(seed)
        history, _ = jax.jit(lambda k: law.sample(k, self.n_history))(jax.random.fold_in(key, 1))
        keys = jax.random.split(jax.random.fold_in(key, 2), self.n_test)
        test = jax.jit(jax.vmap(lambda k: law.sample(k, self.n_test_steps)[0]))(keys)
        name = f"generated regimes, seed {seed}"
        return Strategies(name, NAMES, np.asarray(history), np.asarray(test), exposures, covariance, law)


class RecordedStrategies(Checked):
    """A table of P&L, one column per strategy, one row per period."""

    path: str = static_field(help="csv, csv.gz, zip or Parquet")
    columns: str | None = static_field(
        default=None, help="names of columns, separated by commas; unset = every numeric column"
    )
    share: float = static_field(default=0.6, lower=0.1, upper=0.9, help="first part, which is learned from")

    def load(self, seed: int, n_steps: int) -> Strategies:
        """Reads the file; P&L in units of its mean deviation."""
        panel = load_panel(self.path, listed(self.columns), prices=False)
        n = int(len(panel.levels) * self.share)
        if n < 2 * n_steps:
            raise DataError(
                f"{panel.name}: {n} rows to learn from, expected at least {2 * n_steps} for windows of training.n_steps = {n_steps}; use shorter "
                "windows or more rows"
            )
        deviation = np.std(panel.levels[:n], axis=0)
        if not (deviation > 0).all():
            raise DataError(
                f'{panel.name}: column "{panel.columns[int(np.argmin(deviation))]}" does not change in the first part'
            )
        pnl = panel.levels / np.mean(deviation)
        covariance = np.cov(pnl[:n].T)
        if not np.linalg.eigvalsh(covariance)[0] > 1e-9 * np.trace(covariance):
            raise DataError(f"{panel.name}: a strategy's P&L is a combination of others': leave it out")
        eye = np.eye(pnl.shape[1])
        return Strategies(panel.name, panel.columns, pnl[:n], pnl[None, n:], eye, covariance, None, panel.source)


STRATEGIES: dict[str, type] = {"regimes": RegimeStrategies, "file": RecordedStrategies}


def correlation_of(strategies: Strategies) -> jnp.ndarray:
    """Of the record."""
    return in_precision(np.corrcoef(strategies.history.T))
