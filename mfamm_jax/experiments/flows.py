"""Trading and what the price did, step by step: planted with known impact, or binned from recorded order flow."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from mfamm_jax.experiments.observe import touch
from mfamm_jax.features.clock import carry, regular_grid
from mfamm_jax.fields import Checked, static_field
from mfamm_jax.market.events import NS, DataError, merge_marketable_orders
from mfamm_jax.market.thinning import with_books
from mfamm_jax.models.delay_network import causal_convolution
from mfamm_jax.solvers.delay_fit import Noise


@dataclasses.dataclass(frozen=True)
class Flow:
    """What `impact_fit` is fitted to.

    Args:
        name: For titles.
        rates: (n,) signed volume traded in a step; + = bought.
        response: (n,) price less its start after the step.
        noise: What the price's own noise is like.
        clean: (n,) response without noise, where known.
        kernel: (n,) true f by lag, where known.
        exponent: True exponent of g, where known.
        source, notes, clock: Of the data.
    """

    name: str
    rates: np.ndarray
    response: np.ndarray
    noise: Noise
    clean: np.ndarray | None = None
    kernel: np.ndarray | None = None
    exponent: float | None = None
    source: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    clock: str = "steps"


class PlantedFlow(Checked):
    """Heavy-tailed trading under concave impact that decays with two time scales."""

    n_steps: int = static_field(default=70_000, lower=1000, help="length of the flow")
    impact_exponent: float = static_field(
        default=0.5, lower=0.1, upper=2.0, source="(20) g", help="power of the trading rate in the impact"
    )
    fast: float = static_field(
        default=2.0, lower=0.1, unit="steps", source="(20) f", help="time constant of the transient 40 %"
    )
    slow: float = static_field(default=20.0, lower=0.1, unit="steps", source="(20) f", help="time constant of the rest")
    persistence: float = static_field(
        default=0.3, lower=0.0, upper=0.99, help="correlation of one step's direction with the next one's"
    )
    noise: Noise = static_field(default="white", help="noise of the price: on its level, or accumulating")
    noise_ratio: float = static_field(
        default=1.0, lower=0.0, help="standard deviation of the noise over that of the signal it is added to"
    )

    def load(self, folder: Path, seed: int) -> Flow:
        """Draws it."""
        rng = np.random.default_rng(seed)
        n = self.n_steps
        kept = rng.random(n) < self.persistence
        last = np.maximum.accumulate(np.where(kept, 0, np.arange(n)))
        direction = np.where(rng.random(n) < 0.5, 1.0, -1.0)[last]
        rates = direction * np.abs(rng.standard_t(4, n)) * (rng.random(n) < 0.7)
        lags = np.arange(n)
        kernel = 0.4 * np.exp(-lags / self.fast) + 0.6 * np.exp(-lags / self.slow)
        push = np.sign(rates) * np.abs(rates) ** self.impact_exponent
        clean = np.asarray(causal_convolution(jnp.asarray(kernel), jnp.asarray(push)), float)
        draws = rng.standard_normal(n)
        if self.noise == "white":
            response = clean + self.noise_ratio * clean.std() * draws
        else:
            response = clean + np.cumsum(self.noise_ratio * np.diff(clean, prepend=0.0).std() * draws)
        return Flow(f"planted seed {seed}", rates, response, self.noise, clean, kernel, self.impact_exponent)


class RecordedFlow(Checked):
    """Marketable orders and mids of recorded order flow, in steps of equal length."""

    market: Checked
    step: float = static_field(default=1.0, lower=0.001, unit="s", help="length of a step")

    def load(self, folder: Path, seed: int) -> Flow:
        """Loads the session and bins it: volume of a step, mid at its end."""
        session, _ = with_books(self.market.load(folder, seed)[0])
        t_ns = session.updates.t_ns
        grid_ns, index = regular_grid(t_ns, round(self.step * NS))
        if len(grid_ns) < 200:
            raise DataError(
                f"{session.name}: {len(grid_ns)} steps of {self.step:g} s, expected at least 200; use shorter steps"
            )
        trades = merge_marketable_orders(session.updates)
        # A trade at a step's end belongs to it, as the mid there has seen it.
        step = np.searchsorted(grid_ns, trades.t_ns, side="left")
        inside = (step > 0) & (step < len(grid_ns))
        volume = np.bincount(step[inside], (trades.aggressor * trades.size)[inside].astype(float), len(grid_ns))
        mid = carry(touch(session)[0], index) * session.tick_size
        return Flow(
            f"{session.name}, steps of {self.step:g} s",
            volume[1:],
            (mid - mid[0])[1:],
            "random_walk",
            source=session.source,
            notes=session.notes,
            clock=session.clock,
        )


FLOWS: dict[str, type] = {"planted": PlantedFlow, "recorded": RecordedFlow}


def provenance_of(flow: Flow) -> dict[str, Any]:
    """For the manifest."""
    return {"flow": {"name": flow.name, "clock": flow.clock, "source": flow.source, "notes": flow.notes}}
