"""Experiment `avellaneda_stoikov_2008`: the paper's Tables 1 to 3, simulated and by their exact law, next to its figures."""

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.experiments.experiment import AbstractExperiment, Arrays, Stage
from mfamm_jax.fields import real_field, static_field
from mfamm_jax.models.intensity import ExponentialIntensity
from mfamm_jax.models.mid_price import BinomialMid
from mfamm_jax.policies.avellaneda_stoikov import AvellanedaStoikovPolicy
from mfamm_jax.policies.quotes import AbstractPolicy, Covariates
from mfamm_jax.policies.rules import SymmetricPolicy
from mfamm_jax.simulation.episode import Episodes, episode_law, simulate_episodes
from mfamm_jax.simulation.step import PoissonMarket

PRINTED_PATHS = 1000
NUMBERS = ("spread", "profit", "std of profit", "final inventory", "std of inventory")
# Average spread, profit, its standard deviation, final inventory, its standard deviation; as printed.
PAPER = {
    # Quantitative Finance 8(3), 2008, Tables 1 to 3: spread AS-2.
    ("journal", 0.1): {"inventory": (1.49, 65.0, 6.6, 0.08, 2.9), "symmetric": (1.49, 68.4, 12.7, 0.26, 8.4)},
    ("journal", 0.01): {"inventory": (1.35, 68.6, 8.7, 0.12, 5.1), "symmetric": (1.35, 68.8, 12.8, 0.09, 8.7)},
    ("journal", 1.0): {"inventory": (3.02, 31.4, 5.0, 0.02, 1.7), "symmetric": (3.02, 44.0, 11.0, 0.00, 5.1)},
    # Preprint of 2006: the constant part of the spread.
    ("preprint", 0.1): {"inventory": (1.29, 62.94, 5.89, 0.10, 2.80), "symmetric": (1.29, 67.21, 13.43, -0.018, 8.66)},
    ("preprint", 0.01): {"inventory": (1.33, 66.78, 8.76, -0.02, 4.70), "symmetric": (1.33, 67.36, 13.40, -0.31, 8.65)},
    ("preprint", 0.5): {"inventory": (1.15, 33.92, 4.72, -0.02, 1.88), "symmetric": (1.15, 66.20, 14.53, 0.25, 9.06)},
}
UNITS = {"journal": (0.01, 0.1, 0.1, 0.01, 0.1), "preprint": (0.01, 0.01, 0.01, 0.01, 0.01)}
TABLE_NUMBERS = {0.1: 1, 0.01: 2, 1.0: 3, 0.5: 3}
MOST_INVENTORY = 260
# Beyond so many standard errors of 1,000 paths, and half a unit of the last printed digit, a figure is not this model's.
MOST_ERRORS = 4.0


class PaperTables(AbstractExperiment):
    """Simulation of section 3.3 of Avellaneda and Stoikov (2008).

    Args:
        edition: Which printing; the preprint quotes another spread and takes another risk aversion in Table 3.
    """

    edition: Literal["journal", "preprint"] = static_field(
        default="journal", help="the journal's tables or the preprint's of 2006"
    )
    volatility: Float[Array, ""] = real_field(
        default=2.0, lower=0.0, unit="price/sqrt(s)", source="AS-S1 sigma", help="volatility of the mid"
    )
    intensity: Float[Array, ""] = real_field(
        default=140.0, lower=0.0, strict=True, unit="1/s", source="AS-S2 A", help="fill rate at the mid"
    )
    decay: Float[Array, ""] = real_field(
        default=1.5, lower=0.0, strict=True, unit="1/price", source="AS-S2 k", help="decay with depth"
    )
    horizon: Float[Array, ""] = real_field(
        default=1.0, lower=0.0, strict=True, unit="s", source="AS-S1 T", help="length of a path"
    )
    n_steps: int = static_field(default=200, lower=1, help="steps of a path")
    n_paths: int = static_field(default=200_000, lower=2, help="paths for precision; 1,000 more are run as printed")
    fill_rule: Literal["poisson", "clip_product", "product_of_clips"] = static_field(
        default="clip_product", source="AS-S2", help="probability of a fill in a step"
    )

    @property
    def _cases(self) -> list[tuple[float, str]]:
        return [
            (gamma, strategy)
            for edition, gamma in PAPER
            if edition == self.edition
            for strategy in ("inventory", "symmetric")
        ]

    def _policy(self, gamma: float, strategy: str) -> tuple[AbstractPolicy, Float[Array, ""]]:
        """Quotes, and their average spread over time."""
        spread = "time_varying" if self.edition == "journal" else "constant"
        policy = AvellanedaStoikovPolicy(gamma, self.volatility, self.decay, strategy=strategy, spread=spread)
        # Linear in time, so that its mean is that of its ends.
        half = 0.5 * (policy.half_spread(self.horizon) + policy.half_spread(0.0 * self.horizon))
        if strategy == "symmetric":
            # "uses the average spread of the inventory strategy": one number for the whole path.
            return SymmetricPolicy(half, 1.0 * MOST_INVENTORY), 2 * half
        return policy, 2 * half

    def _market(self, mid: Any) -> PoissonMarket:
        side = ExponentialIntensity(self.intensity, self.decay)
        return PoissonMarket(side, side, self.volatility, mid=mid, fill_rule=self.fill_rule)

    def _episodes(self) -> Episodes:
        return Episodes(2, self.n_steps, self.horizon, 0.0)

    def prepare(self, folder: Any, seed: int, say: Callable[[str], None], progress: Any = None) -> None:
        """Nothing to load."""

    def plan(self, batch: Any, prepared: Any) -> tuple[None, str]:
        """Nothing to choose."""
        return (
            None,
            f"{len(self._cases)} rows of tables by exact law and by {PRINTED_PATHS:,} and {self.n_paths:,} paths",
        )

    def numbers_per_row(self) -> int:
        """Final profit and inventory per path."""
        return 2 * len(self._cases) * (self.n_paths + PRINTED_PATHS)

    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """Law, then both sizes of simulation."""

        def law(experiment, prepared, results, key):
            return {"law": experiment.laws()}

        def simulate(name, n_paths):
            def stage(experiment, prepared, results, key):
                runs = [experiment.simulated(*case, n_paths, key) for case in self._cases]
                kurtosis = jnp.stack([jnp.stack([_kurtosis(x) for x in run]) for run in runs])
                return {name: jnp.stack([_numbers(*run) for run in runs]), f"{name}_kurtosis": kurtosis}

            return stage

        return [
            ("law", law),
            ("as printed", simulate("printed_paths", PRINTED_PATHS)),
            ("precise", simulate("many_paths", self.n_paths)),
        ]

    def laws(self) -> Float[Array, "case number"]:
        """AS-S5: `NUMBERS` without sampling error."""
        rows = []
        inventory = jnp.arange(-MOST_INVENTORY, MOST_INVENTORY + 1, dtype=self.horizon.dtype)
        for case in self._cases:
            policy, spread = self._policy(*case)
            covariates = Covariates.neutral(self.volatility)
            law = episode_law(policy, self._market(None), self._episodes(), covariates, MOST_INVENTORY)
            mean = law.inventory[-1] @ inventory
            std = jnp.sqrt(law.inventory[-1] @ inventory**2 - mean**2)
            rows.append(jnp.stack([spread, law.mean, law.std, mean, std]))
        return jnp.stack(rows)

    def simulated(
        self, gamma: float, strategy: str, n_paths: int, key: PRNGKeyArray
    ) -> tuple[Float[Array, " path"], Float[Array, " path"]]:
        """Final profit and inventory of every path."""
        policy, market = self._policy(gamma, strategy)[0], self._market(BinomialMid(self.volatility))
        episodes = Episodes(n_paths, self.n_steps, self.horizon, 0.0)
        covariates = Covariates.neutral(self.volatility)
        result = simulate_episodes(policy, market, episodes, covariates, jnp.zeros_like(self.horizon), key)
        return result.pnl, result.final_inventory

    def metrics(self, plan: Any, prepared: Any, results: Arrays, key: PRNGKeyArray) -> dict[str, Any]:
        """The tables, and how far simulation and law are apart."""
        law, few, many = (np.asarray(results[name], float) for name in ("law", "printed_paths", "many_paths"))
        kurtosis = np.asarray(results["many_paths_kurtosis"], float)
        errors = np.abs(many[:, 0] - law[:, 1]) / (law[:, 2] / np.sqrt(self.n_paths))
        spread_of_std = np.abs(many[:, 1] / law[:, 2] - 1)
        tables = []
        for start in range(0, len(self._cases), 2):
            gamma = self._cases[start][0]
            paper = PAPER[self.edition, gamma]
            rows, notes = [], []
            for offset, strategy in enumerate(("inventory", "symmetric")):
                i = start + offset
                printed = paper[strategy]
                rows.append([strategy, "paper", *printed])
                rows.append(["", "exact law", *(round(x, 4) + 0.0 for x in law[i])])
                for name, numbers in (("1,000 paths", few), (f"{self.n_paths:,} paths", many)):
                    rows.append(["", name, "", *(round(x, 4) + 0.0 for x in numbers[i])])
                notes += [f"{strategy}: {text}" for text in _not_reproduced(self.edition, printed, law[i], kurtosis[i])]
            title = f"Table {TABLE_NUMBERS[gamma]} of the {self.edition}: risk aversion {gamma:g}"
            header = ["strategy", "source", *NUMBERS]
            notes = notes or ["Every figure lies within the sampling error of 1,000 paths."]
            tables.append({"title": title, "header": header, "rows": rows, "notes": notes})
        return {
            "largest_error_of_mean": float(errors.max()),
            "largest_relative_error_of_std": float(spread_of_std.max()),
            "tables": tables,
            "ok": bool(errors.max() < MOST_ERRORS and np.all(np.isfinite(law))),
        }

    def row(self, plan: Any, prepared: Any, key: PRNGKeyArray) -> dict[str, Array]:
        """Exact profit and its standard deviation per table and strategy."""
        law = self.laws()
        names = [f"{strategy}_{gamma:g}" for gamma, strategy in self._cases]
        out = {f"profit_{name}": law[i, 1] for i, name in enumerate(names)}
        return out | {f"std_{name}": law[i, 2] for i, name in enumerate(names)} | {"ok": jnp.asarray(True)}


def _numbers(profit: Float[Array, " path"], inventory: Float[Array, " path"]) -> Float[Array, " number"]:
    return jnp.stack([profit.mean(), profit.std(), inventory.mean(), inventory.std()])


def _kurtosis(x: Float[Array, " path"]) -> Float[Array, ""]:
    away = x - x.mean()
    return jnp.mean(away**4) / jnp.mean(away**2) ** 2


def _not_reproduced(edition: str, printed: tuple, law: np.ndarray, kurtosis: np.ndarray) -> list[str]:
    """The figures that 1,000 paths of this model do not give, each with its distance."""
    root = np.sqrt(PRINTED_PATHS)
    # Of a standard deviation: sqrt((kurtosis - 1)/4) of that of the mean.
    wide = np.sqrt((kurtosis - 1) / 4)
    errors = 0.0, law[2] / root, law[2] * wide[0] / root, law[4] / root, law[4] * wide[1] / root
    texts = []
    for name, figure, exact, error, unit in zip(NUMBERS, printed, law, errors, UNITS[edition], strict=True):
        distance = abs(figure - exact) - 0.5 * unit
        if distance > MOST_ERRORS * error + 1e-9:
            count = f", {distance / error:.1f} standard errors of 1,000 paths away" if error else ""
            texts.append(
                f"{name} {figure:g} cannot be reproduced: the exact law of the printed parameters and formulas gives "
                f"{exact:.4g}{count}"
            )
    return texts
