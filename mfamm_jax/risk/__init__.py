"""P&L turned into numbers."""

from mfamm_jax.risk.attribution import Attribution, attribute, relative_residual
from mfamm_jax.risk.cvar import TailRisk, bootstrap_interval, empirical_tail_risk
from mfamm_jax.risk.drawdown import max_drawdown
from mfamm_jax.risk.metrics import (
    InventoryStatistics,
    Moments,
    inventory_statistics,
    markouts,
    moments,
    moments_by_horizon,
)

__all__ = [
    "Attribution",
    "InventoryStatistics",
    "Moments",
    "TailRisk",
    "attribute",
    "bootstrap_interval",
    "empirical_tail_risk",
    "inventory_statistics",
    "markouts",
    "max_drawdown",
    "moments",
    "moments_by_horizon",
    "relative_residual",
]
