"""What every section of a report is made of: the content of a run folder, tables, figures and notes in HTML."""

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mfamm_jax.experiments.config import ConfigError

MOST_ROWS = 50_000  # of a sweep in its figures
MOST_PARTS = 6  # figures, when the sweep has axes of words


class Run:
    """What a run folder holds."""

    def __init__(self, root: Path):
        if not (root / "manifest.json").is_file() or not (root / "metrics.json").is_file():
            raise ConfigError(f"{root}: no finished run here; expected manifest.json and metrics.json")
        self.root = root
        self.manifest = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
        self.metrics = _numbers(json.loads((root / "metrics.json").read_text(encoding="utf-8")))
        self.resolved = (root / "resolved.toml").read_text(encoding="utf-8")
        with np.load(root / "arrays" / "base.npz") as file:
            self.arrays = dict(file)
        given = tomllib.loads(self.resolved).get("sweep", {})
        self.axes = [path for path in given if path not in ("method", "n_points", "n_seeds")]
        parts = sorted((root / "parts").glob("part-*.parquet"))
        self.all_rows = (
            pl.concat([pl.scan_parquet(part) for part in parts], how="diagonal") if parts else pl.LazyFrame()
        )
        self.rows = self._shown() if parts else pl.DataFrame()

    def _shown(self) -> pl.DataFrame:
        """Rows for the figures: of millions every so many, and means over seeds."""
        n_rows = self.metrics["sweep"]["rows"]
        # Whole points, and not every so many: that would show a few values of the last axis only.
        point = pl.col("config_id") // max(tomllib.loads(self.resolved).get("sweep", {}).get("n_seeds", 0), 1)
        rows = self.all_rows.filter(point.hash(0) % -(-n_rows // MOST_ROWS) == 0).sort("config_id").collect()
        if "seed" not in rows.columns:
            return rows
        numbers = [name for name in rows.columns if name not in (*self.axes, "ok", "reason", "seed")]
        summary = [pl.col("ok").all(), *[pl.col(name).mean() for name in numbers if name != "config_id"]]
        return rows.group_by(self.axes, maintain_order=True).agg(pl.col("config_id").first(), *summary)


def _numbers(x: Any) -> Any:
    """JSON has no infinity and no NaN: the record writes them as text."""
    if isinstance(x, dict):
        return {key: _numbers(value) for key, value in x.items()}
    if isinstance(x, list):
        return [_numbers(value) for value in x]
    return float(x) if isinstance(x, str) and x in ("inf", "-inf", "nan") else x


def html_table(header: list[str], rows: list[list[Any]]) -> str:
    """A table that scrolls if it is wide."""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Any) -> str:
    """Sentences are broken; numbers and names are not."""
    is_long = isinstance(value, str) and len(value) > 60
    return f"<td class='text'>{value}</td>" if is_long else f"<td>{number(value)}</td>"


def number(value: Any) -> str:
    """Four significant digits; text as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def html_figure(run: Run, name: str, svg: str, caption: str) -> str:
    """Keeps the figure in the run folder and shows it."""
    (run.root / "figures" / f"{name}.svg").write_text(svg, encoding="utf-8")
    return f"<figure>{svg}<figcaption>{caption}</figcaption></figure>"


def html_note(text: str) -> str:
    """Small print."""
    return f'<p class="note">{text}</p>'
