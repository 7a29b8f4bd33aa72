"""Where order flow comes from: generated or recorded, through the same loader."""

import json
from pathlib import Path
from typing import Literal

from mfamm_jax.fields import Checked, static_field
from mfamm_jax.market.events import Session
from mfamm_jax.market.loaders.lobster import load_lobster, write_lobster
from mfamm_jax.market.synthetic import generate_session

Preset = Literal["small_tick", "quiet_small_tick", "large_tick"]


class SyntheticSource(Checked):
    """Seeded order flow with known intensities, written to and read back from LOBSTER files."""

    preset: Preset = static_field(default="small_tick", help="market regime of the generated flow")
    duration: float = static_field(default=600.0, lower=30.0, unit="s", help="length of the session")

    def load(self, folder: Path, seed: int) -> tuple[Session, dict | None]:
        """Generates the session into `folder` and loads it from there, as recorded data would be."""
        message, _, truth = generate_files(self.preset, self.duration, seed, folder / "data")
        content = json.loads(truth.read_text())
        return load_lobster(message, tick_size=content["tick_size"]), content


def generate_files(
    preset: str, duration: float, seed: int, folder: Path, pitfalls: tuple[str, ...] = ()
) -> tuple[Path, Path, Path]:
    """Writes message, order-book and truth files; returns their paths."""
    session, truth = generate_session(preset, duration, seed, pitfalls=pitfalls)
    name = preset.replace("_", "").upper()
    message, book = write_lobster(session, folder, ticker=name, date="2000-01-03")
    path = folder / "truth.json"
    path.write_text(json.dumps(truth, indent=1) + "\n")
    return message, book, path


class LobsterSource(Checked):
    """LOBSTER message and order-book files."""

    path: str = static_field(help="folder, message file or the vendor's zip")
    tick_size: float | None = static_field(default=None, lower=0.0, strict=True, unit="price", help="unset = detected")
    crossed: Literal["error", "drop"] = static_field(default="error", help="what to do with crossed or locked books")

    def load(self, folder: Path, seed: int) -> tuple[Session, dict | None]:
        """Loads the files; nothing is known about the truth."""
        return load_lobster(self.path, tick_size=self.tick_size, crossed=self.crossed), None
