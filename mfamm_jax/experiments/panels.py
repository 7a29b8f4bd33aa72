"""Where panels of prices come from: generated with a known relation, or a file."""

from typing import Any

import numpy as np

from mfamm_jax.fields import Checked, listed, static_field
from mfamm_jax.market.loaders.panel import Panel, load_panel


class PlantedPanel(Checked):
    """Random walks, the second of which follows the first times `loading` up to a residual that reverts."""

    n_rows: int = static_field(default=4000, lower=100, help="length of the panel")
    n_assets: int = static_field(
        default=3, lower=2, upper=50, help="number of assets; the third and further ones are unrelated walks"
    )
    autoregression: float = static_field(
        default=0.9, lower=0.0, upper=1.0, help="autoregression of the residual from row to row; 1 = no relation"
    )
    noise: float = static_field(
        default=1.0, lower=0.0, strict=True, help="standard deviation of the residual's shocks, per row"
    )
    loading: float = static_field(default=2.0, help="loading of the second asset on the first")

    def load(self, seed: int) -> tuple[Panel, dict[str, Any] | None]:
        """Levels around 1000 with steps of one."""
        draws = np.random.default_rng(seed).standard_normal((self.n_rows, self.n_assets))
        walk, residual = np.cumsum(draws[:, 0]), np.zeros(self.n_rows)
        for t in range(1, self.n_rows):
            residual[t] = self.autoregression * residual[t - 1] + self.noise * draws[t, 1]
        others = np.cumsum(draws[:, 2:], axis=0)
        levels = 1000 + np.column_stack([walk, self.loading * walk + residual, others])
        names = tuple(f"asset {i + 1}" for i in range(self.n_assets))
        related = self.autoregression < 1
        truth = {"weights": [1.0, -1 / self.loading, *[0.0] * (self.n_assets - 2)]} if related else None
        return Panel(f"planted seed {seed}", names, levels), truth


class PanelFile(Checked):
    """Prices in a csv or Parquet file, one column per asset."""

    path: str = static_field(help="csv, csv.gz, zip or Parquet")
    columns: str | None = static_field(
        default=None, help="names of columns, separated by commas; unset = every numeric column but times"
    )

    def load(self, seed: int) -> tuple[Panel, dict[str, Any] | None]:
        """Reads the file."""
        return load_panel(self.path, listed(self.columns)), None


def panel_provenance(panel: Panel) -> dict[str, Any]:
    """For the manifest: the panel's file."""
    return {"panel": {"name": panel.name, "source": panel.source, "columns": panel.columns}}


PANELS: dict[str, type] = {"planted": PlantedPanel, "file": PanelFile}
