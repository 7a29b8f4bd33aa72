"""Which name in a config file means which class. A module is imported when its first name is asked for: a run needs few of them."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any


class _OnDemand(Mapping[str, Any]):
    """Name -> what "module.attribute" of this package means."""

    def __init__(self, places: dict[str, str]):
        self.places = places

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = self.places[name].partition(".")
        return getattr(import_module(f"mfamm_jax.experiments.{module}"), attribute)

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


EXPERIMENTS: Mapping[str, type] = _OnDemand(
    {
        "quoting": "quoting.Quoting",
        "hjb": "hjb_sweep.HJBExperiment",
        "calibration": "quote_calibration.QuoteCalibration",
        "policy_search": "policy_search.PolicySearch",
        "gate_search": "gate_search.GateSearch",
        "avellaneda_stoikov_2008": "paper_tables.PaperTables",
        "hummingbot": "hummingbot.Hummingbot",
        "replay": "replay_run.Replay",
        "intensity_trees": "intensity_trees.IntensityTrees",
        "imbalance_training": "imbalance_training.ImbalanceTraining",
        "signal_quotes": "signal_quotes.SignalQuotes",
        "cointegration": "cointegration.CointegrationExperiment",
        "transport_execution": "transport_execution.TransportExecution",
        "impact_fit": "impact_fit.ImpactFit",
        "optimal_schedule": "optimal_schedule.OptimalSchedule",
        "risk_constrained": "risk_constrained.RiskConstrained",
        "tail_risk": "tail_risk.TailRisk",
        "allocation": "allocation.Allocation",
        "routing": "routing.Routing",
        "maxcut": "maxcut.MaxCut",
        "fpga_quote_kernel": "fpga_kernel.FPGAQuoteKernel",
        "mfamm": "mfamm.MFAMM",
    }
)

# Tables whose `kind` picks the class; the first is the default.
KINDS: Mapping[str, dict[str, type]] = _OnDemand(
    {
        "market": "sources.SOURCES",
        "markets": "markets.MARKETS",
        "panel": "panels.PANELS",
        "flow": "flows.FLOWS",
        "decay": "optimal_schedule.DECAYS",
        "losses": "losses.LOSSES",
        "strategies": "strategies.STRATEGIES",
        "venues": "venues.VENUES",
        "observed": "observed_quotes.OBSERVED",
        "curve": "fpga_kernel.CURVES",
    }
)
