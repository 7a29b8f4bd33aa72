"""Which name in a config file means which class."""

from mfamm_jax.experiments.allocation import Allocation
from mfamm_jax.experiments.cointegration import CointegrationExperiment
from mfamm_jax.experiments.flows import FLOWS
from mfamm_jax.experiments.fpga_kernel import CURVES, FPGAQuoteKernel
from mfamm_jax.experiments.hjb_sweep import HJBExperiment
from mfamm_jax.experiments.hummingbot import Hummingbot
from mfamm_jax.experiments.imbalance_training import ImbalanceTraining
from mfamm_jax.experiments.impact_fit import ImpactFit
from mfamm_jax.experiments.intensity_trees import IntensityTrees
from mfamm_jax.experiments.losses import LOSSES
from mfamm_jax.experiments.maxcut import MaxCut
from mfamm_jax.experiments.optimal_schedule import DECAYS, OptimalSchedule
from mfamm_jax.experiments.panels import PANELS
from mfamm_jax.experiments.paper_tables import PaperTables
from mfamm_jax.experiments.quoting import Quoting
from mfamm_jax.experiments.replay_run import Replay
from mfamm_jax.experiments.risk_constrained import RiskConstrained
from mfamm_jax.experiments.routing import Routing
from mfamm_jax.experiments.signal_quotes import SignalQuotes
from mfamm_jax.experiments.sources import SOURCES
from mfamm_jax.experiments.strategies import STRATEGIES
from mfamm_jax.experiments.tail_risk import TailRisk
from mfamm_jax.experiments.transport_execution import TransportExecution
from mfamm_jax.experiments.venues import VENUES

EXPERIMENTS: dict[str, type] = {
    "quoting": Quoting,
    "hjb": HJBExperiment,
    "avellaneda_stoikov_2008": PaperTables,
    "hummingbot": Hummingbot,
    "replay": Replay,
    "intensity_trees": IntensityTrees,
    "imbalance_training": ImbalanceTraining,
    "signal_quotes": SignalQuotes,
    "cointegration": CointegrationExperiment,
    "transport_execution": TransportExecution,
    "impact_fit": ImpactFit,
    "optimal_schedule": OptimalSchedule,
    "risk_constrained": RiskConstrained,
    "tail_risk": TailRisk,
    "allocation": Allocation,
    "routing": Routing,
    "maxcut": MaxCut,
    "fpga_quote_kernel": FPGAQuoteKernel,
}

# Tables whose `kind` picks the class; the first is the default.
KINDS: dict[str, dict[str, type]] = {
    "market": SOURCES,
    "panel": PANELS,
    "flow": FLOWS,
    "decay": DECAYS,
    "losses": LOSSES,
    "strategies": STRATEGIES,
    "venues": VENUES,
    "curve": CURVES,
}
