"""Rows of a sweep: stacked array leaves under one vmap, static leaves in an outer loop."""

import dataclasses
import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from mfamm_jax.experiments.config import Config, construct
from mfamm_jax.experiments.experiment import AbstractExperiment


def sweep_rows(config: Config) -> list[dict[str, Any]]:
    """One dict path -> value per row; the last axis varies fastest."""
    return [dict(zip(config.sweep, values)) for values in itertools.product(*config.sweep.values())]


def leaf(experiment: Any, path: str) -> Any:
    """What a dotted path names."""
    for name in path.split("."):
        experiment = getattr(experiment, name)
    return experiment


def static_paths(config: Config, experiment: AbstractExperiment) -> list[str]:
    """Swept paths that need another compile or another preparation for each value."""
    before = experiment.prepared_paths()
    return [p for p in config.sweep if not eqx.is_array(leaf(experiment, p)) or p.split(".")[0] in before]


def with_values(config: Config, values: dict[str, Any]) -> AbstractExperiment:
    """The experiment with some settings replaced."""
    tables = _replaced(config.tables, {tuple(path.split(".")): value for path, value in values.items()})
    return construct(dataclasses.replace(config, tables=tables))


def _replaced(table: dict[str, Any], values: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    out = dict(table)
    for (head, *rest), value in values.items():
        out[head] = _replaced(out[head], {tuple(rest): value}) if rest else value
    return out


def stack(experiment: AbstractExperiment, rows: list[dict[str, Any]], paths: list[str]) -> AbstractExperiment:
    """Every array leaf gets a leading row axis; the swept ones their values."""
    n = len(rows)

    def repeat(x: Any) -> Any:
        return jnp.broadcast_to(x, (n, *x.shape)) if eqx.is_array(x) else x

    batch = jax.tree.map(repeat, experiment)
    for path in paths:
        dtype = leaf(experiment, path).dtype
        values = jnp.asarray(np.array([row[path] for row in rows]), dtype)
        batch = eqx.tree_at(lambda e, p=path: leaf(e, p), batch, values)
    return batch
