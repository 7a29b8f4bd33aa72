"""P&L turned into numbers."""

from mfamm_jax.risk.attribution import Attribution, attribute, relative_residual
from mfamm_jax.risk.backtest import acerbi_szekely, christoffersen, kupiec
from mfamm_jax.risk.cvar import (
    TailRisk,
    bootstrap_interval,
    cvar_standard_error,
    empirical_tail_risk,
    loss_tail_risk,
    quadrature_tail_risk,
    reweighted_tail_risk,
)
from mfamm_jax.risk.drawdown import (
    barrier_probability,
    barrier_scale,
    bridge_breach,
    bridge_drawdown_breach,
    clopper_pearson,
    max_drawdown,
    max_drawdown_probability,
)
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
    "acerbi_szekely",
    "attribute",
    "barrier_probability",
    "barrier_scale",
    "bootstrap_interval",
    "bridge_breach",
    "bridge_drawdown_breach",
    "christoffersen",
    "clopper_pearson",
    "cvar_standard_error",
    "empirical_tail_risk",
    "inventory_statistics",
    "kupiec",
    "loss_tail_risk",
    "markouts",
    "max_drawdown",
    "max_drawdown_probability",
    "moments",
    "moments_by_horizon",
    "quadrature_tail_risk",
    "relative_residual",
    "reweighted_tail_risk",
]
