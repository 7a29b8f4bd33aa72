"""Which name in a config file means which class."""

from mfamm_jax.experiments.hjb_sweep import HJBExperiment
from mfamm_jax.experiments.hummingbot import Hummingbot
from mfamm_jax.experiments.intensity_trees import IntensityTrees
from mfamm_jax.experiments.paper_tables import PaperTables
from mfamm_jax.experiments.quoting import Quoting
from mfamm_jax.experiments.replay_run import Replay
from mfamm_jax.experiments.sources import SOURCES
from mfamm_jax.solvers.triplet import TripletLoss

EXPERIMENTS: dict[str, type] = {
    "quoting": Quoting,
    "hjb": HJBExperiment,
    "avellaneda_stoikov_2008": PaperTables,
    "hummingbot": Hummingbot,
    "replay": Replay,
    "intensity_trees": IntensityTrees,
}

# Tables whose `kind` picks the class; the first is the default.
KINDS: dict[str, dict[str, type]] = {"market": SOURCES}

# Parameter objects with rulebook defaults that no experiment reads yet: `mfamm list` shows them, Python uses them.
FROM_PYTHON: dict[str, type] = {"triplet": TripletLoss}
