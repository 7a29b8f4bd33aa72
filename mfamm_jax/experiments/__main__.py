"""`python -m mfamm_jax.experiments` is `mfamm`."""

from mfamm_jax.experiments.cli import main

main()
