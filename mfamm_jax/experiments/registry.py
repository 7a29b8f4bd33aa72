"""Which name in a config file means which class."""

from mfamm_jax.experiments.hjb_sweep import HJBExperiment

EXPERIMENTS: dict[str, type] = {"hjb": HJBExperiment}

# Tables whose `kind` picks the class; the first is the default.
KINDS: dict[str, dict[str, type]] = {}
