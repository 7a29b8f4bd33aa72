"""Which name in a config file means which class. A module is imported when its first name is asked for: a run needs few of them.

Where a class is named, `"module:Class"` names one outside the package; docs/extending.md shows how to write it.
"""

import hashlib
import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from mfamm_jax.experiments.experiment import AbstractExperiment, ConfigError


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


class Classes(Mapping[str, type]):
    """Registered classes by name, and those of other packages by "module:Class"; the latter are not listed.

    Args:
        registered: Name -> class.
        base: What a class from outside must be.
    """

    def __init__(self, registered: Mapping[str, type], base: type):
        self.registered, self.base = registered, base

    def __getitem__(self, name: str) -> type:
        return _from_outside(name, self.base) if ":" in name else self.registered[name]

    def __contains__(self, name: object) -> bool:
        return name in self.registered or (isinstance(name, str) and ":" in name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.registered)

    def __len__(self) -> int:
        return len(self.registered)


def _from_outside(name: str, base: type) -> type:
    """The class that "module:Class" means."""
    path, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*path.split("."), attribute)):
        raise ConfigError(f'"{name}" is no place of a class, expected "module:Class"')
    try:
        module = import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise  # a fault inside the module: its traceback is wanted
        raise ConfigError(f'"{name}": no module "{path}"; install it, or put its folder on PYTHONPATH') from error
    found = getattr(module, attribute, None)
    if found is None:
        own = sorted(key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, base))
        raise ConfigError(f'"{name}": {path} has no "{attribute}"; it has {", ".join(own) or f"no {base.__name__}"}')
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(f'"{name}" is no {base.__name__} of {base.__module__}: derive it from that class')
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise ConfigError(f'"{name}" cannot be used: it does not define {missing}')
    return found


def outside_sources(tables: Mapping[str, Any]) -> dict[str, str]:
    """Module -> sha256 of its text, for every class from outside that the tables name: an edited one is another experiment."""
    found = {}
    for key, value in tables.items():
        if isinstance(value, dict):
            found |= outside_sources(value)
        elif key in ("experiment", "kind") and ":" in str(value):
            module = value.partition(":")[0]
            found[module] = hashlib.sha256(_text(module).encode()).hexdigest()
    return found


def _text(module: str) -> str:
    try:
        return inspect.getsource(import_module(module))
    except (OSError, TypeError):  # a compiled one
        return ""


_EXPERIMENTS = _OnDemand(
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
        "adversarial": "adversarial.Adversarial",
    }
)
EXPERIMENTS = Classes(_EXPERIMENTS, AbstractExperiment)

# Tables whose `kind` picks the class; the first is the default.
KINDS: Mapping[str, Mapping[str, type]] = _OnDemand(
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
