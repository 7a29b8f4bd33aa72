"""Experiment avellaneda_stoikov_2008: simulation against the exact law, the law against the reference, the paper beside."""

import json

import pytest

from mfamm_jax.experiments.paper_tables import PAPER, PaperTables
from mfamm_jax.experiments.plain import flatten, plain

from .test_runner import run_config


def tables(tmp_path, edition, n_paths):
    folder = run_config(
        tmp_path, f'experiment = "avellaneda_stoikov_2008"\nprecision = "float64"\nedition = "{edition}"\nn_paths = {n_paths}\n'
    )
    return json.loads((folder / "metrics.json").read_text()), (folder / "report.html").read_text()
