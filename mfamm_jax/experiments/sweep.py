"""The rows of a sweep, computed: groups of one compile, batches of one shape, parts of one file.

A batch always has the same rows and the same shape, whatever the size of a part and however many devices or processes share the work:
the same program sees the same numbers, so results agree to the last bit.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mfamm_jax.experiments.compiled import compiled
from mfamm_jax.experiments.config import Config, ConfigError, construct
from mfamm_jax.experiments.experiment import AbstractExperiment
from mfamm_jax.experiments.rows import Sweep

# Without `batch_rows`: at most so many, and at most so much memory by the experiment's own estimate.
MOST_BATCH = {"cpu": (256, 2**30)}
MOST_BATCH_ELSEWHERE = (65536, 2**32)
# Without `chunk_size`: about so many parts, so that progress and resume are fine-grained, of at most so many rows.
N_PARTS, MOST_PART_ROWS = 64, 65536


Ids = np.ndarray | range


def leaf(experiment: Any, path: str) -> Any:
    """What a dotted path names."""
    for name in path.split("."):
        experiment = getattr(experiment, name)
    return experiment


def static_paths(config: Config, experiment: AbstractExperiment) -> list[str]:
    """Swept paths that need another compile or another preparation for each value."""
    before = experiment.prepared_paths()
    static = [p for p in config.sweep.axes if not eqx.is_array(leaf(experiment, p)) or p.split(".")[0] in before]
    for path in static:
        if not config.sweep.axes[path].values:
            raise ConfigError(
                f"{config.place}: sweep.{path}: expected a list, since every value is prepared or compiled anew"
            )
    return static


def with_values(config: Config, values: dict[str, Any]) -> AbstractExperiment:
    """The experiment with some settings replaced."""
    tables = _replaced(config.tables, {tuple(path.split(".")): value for path, value in values.items()})
    return construct(dataclasses.replace(config, tables=tables))


def _replaced(table: dict[str, Any], values: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    out = dict(table)
    for (head, *rest), value in values.items():
        out[head] = _replaced(out[head], {tuple(rest): value}) if rest else value
    return out


def stack(experiment: AbstractExperiment, columns: dict[str, np.ndarray], n_rows: int) -> AbstractExperiment:
    """Every array leaf gets a leading row axis; those of `columns` their values."""

    def repeat(x: Any) -> Any:
        return jnp.broadcast_to(x, (n_rows, *x.shape)) if eqx.is_array(x) else x

    return _with_leaves(jax.tree.map(repeat, experiment), columns)


def _with_leaves(experiment: AbstractExperiment, columns: dict[str, Any]) -> AbstractExperiment:
    for path, values in columns.items():
        value = jnp.asarray(values, leaf(experiment, path).dtype)
        experiment = eqx.tree_at(lambda e, p=path: leaf(e, p), experiment, value)
    return experiment


@dataclasses.dataclass(frozen=True)
class Part:
    """Rows of one group that share a file."""

    number: int
    group: int
    ids: Ids


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which rows lie where; the same for every process of a run.

    Args:
        sweep: The rows.
        inner: Paths that a compiled function takes as arguments.
        groups: Static values and row numbers of every group.
        parts: In order.
        batch_rows: Rows of a compiled call.
        chunk_size: Largest rows of a part.
    """

    sweep: Sweep
    inner: list[str]
    groups: list[tuple[dict[str, Any], Ids]]
    parts: list[Part]
    batch_rows: int
    chunk_size: int


def lay_out(config: Config, experiment: AbstractExperiment) -> Layout:
    """Groups, parts and sizes of a config's sweep."""
    sweep, outer = config.sweep, static_paths(config, experiment)
    inner = [path for path in sweep.axes if path not in outer]
    groups: list[tuple[dict[str, Any], Ids]] = [({}, range(sweep.n_rows))]
    if outer:
        ids = np.arange(sweep.n_rows)
        index = np.stack([sweep.index(path, ids) for path in outer], axis=1)
        kinds, which = np.unique(index, axis=0, return_inverse=True)
        order = np.argsort(which.ravel(), kind="stable")
        members = np.split(order, np.cumsum(np.bincount(which.ravel()))[:-1])
        values = [{p: sweep.axes[p].values[i] for p, i in zip(outer, kind, strict=True)} for kind in kinds]
        groups = list(zip(values, members, strict=True))
    batch = config.settings.batch_rows or _batch_rows(config, experiment)
    chunk = config.settings.chunk_size or min(-(-sweep.n_rows // N_PARTS), MOST_PART_ROWS)
    chunk = -(-chunk // batch) * batch
    parts: list[Part] = []
    for number, (_, ids) in enumerate(groups):
        for first in range(0, len(ids), chunk):
            parts.append(Part(len(parts), number, ids[first : first + chunk]))
    return Layout(sweep, inner, groups, parts, batch, chunk)


def row_bytes(config: Config, experiment: AbstractExperiment) -> int:
    """About how much memory a row needs."""
    return experiment.numbers_per_row() * (8 if config.settings.precision == "float64" else 4)


def _batch_rows(config: Config, experiment: AbstractExperiment) -> int:
    """A power of two that fits the memory."""
    rows, memory = MOST_BATCH.get(jax.default_backend(), MOST_BATCH_ELSEWHERE)
    fitting = max(memory // max(row_bytes(config, experiment), 1), 1)
    return min(rows, 1 << (fitting.bit_length() - 1))


Ready = Callable[[dict[str, Any]], tuple[AbstractExperiment, Any]]
Numbers = dict[str, np.ndarray]
# Name of the column of random seeds: no path has a space.
SEEDS = "random seeds"


@dataclasses.dataclass(frozen=True)
class Group:
    """A compiled group.

    Args:
        experiment: With the group's static settings.
        n_devices: That share a call.
        batch_rows: For each of them.
        call: Numbers of `n_devices` batches -> results on the devices.
    """

    experiment: AbstractExperiment
    n_devices: int
    batch_rows: int
    call: Callable[[Numbers], dict[str, jax.Array]]


def compute_parts(
    layout: Layout,
    todo: Sequence[Part],
    key: jax.Array,
    ready: Ready,
    note: Callable[[dict[str, Any]], None],
    known: dict[int, Group] | None = None,
) -> Iterator[tuple[Part, pl.DataFrame]]:
    """Tables of the given parts in order.

    Args:
        layout: Of the sweep.
        todo: Parts that are wanted.
        key: Of the run.
        ready: Experiment and prepared data for the static values of a group.
        note: Receives what every group cost to compile.
        known: Compiled groups of earlier calls, and of this one for later ones; by default a group is forgotten after its last part.
    """
    for number in sorted({part.group for part in todo}):
        mine = [part for part in todo if part.group == number]
        values, ids = layout.groups[number]
        try:
            batches = (known or {}).get(number) or _group(layout, ready(values), np.asarray(ids), key, note)
        except ValueError as error:  # one impossible setting must not cost the other groups their rows
            if not values:
                raise
            for part in mine:
                yield part, _failed(layout, part, values, str(error))
            continue
        if known is not None:
            known[number] = batches
        yield from _tables(layout, mine, values, batches)


def _group(
    layout: Layout,
    ready: tuple[AbstractExperiment, Any],
    members: np.ndarray,
    key: jax.Array,
    note: Callable[[dict[str, Any]], None],
) -> Group:
    """Plans and compiles for all members."""
    experiment, prepared = ready
    begin = time.perf_counter()
    columns = {path: layout.sweep.column(path, members) for path in layout.inner}
    plan, _ = experiment.plan(stack(experiment, columns, members.size), prepared)
    size = min(layout.batch_rows, members.size)
    devices = jax.local_devices()[: -(-members.size // size)]

    def evaluate(
        experiment: Any, prepared: Any, key: jax.Array, seeds: jax.Array, columns: Any
    ) -> dict[str, jax.Array]:
        def one(values: dict[str, jax.Array], seed: jax.Array) -> dict[str, jax.Array]:
            return _with_leaves(experiment, values).row(plan, prepared, jax.random.fold_in(key, seed))

        return jax.vmap(one)(columns, seeds)

    function: Callable = evaluate
    if len(devices) > 1:
        mesh = jax.make_mesh((len(devices),), ("row",), axis_types=(AxisType.Auto,), devices=devices)
        same, rows = PartitionSpec(), PartitionSpec("row")
        function = jax.shard_map(
            evaluate, mesh=mesh, in_specs=(same, same, same, rows, rows), out_specs=rows, check_vma=False
        )
        everywhere = NamedSharding(mesh, same)
        experiment, prepared, key = jax.tree.map(
            lambda x: jax.device_put(x, everywhere) if eqx.is_array_like(x) else x, (experiment, prepared, key)
        )

    planned = {"rows": int(members.size), "plan": round(time.perf_counter() - begin, 3)}
    first = _arguments(layout, experiment, np.resize(members, size * len(devices)))
    program, times = compiled(function, experiment, prepared, key, first.pop(SEEDS), first)
    note(planned | times)

    def call(numbers: Numbers) -> dict[str, jax.Array]:
        return program(experiment, prepared, key, numbers[SEEDS], {p: x for p, x in numbers.items() if p != SEEDS})

    return Group(experiment, len(devices), size, call)


def _arguments(layout: Layout, experiment: AbstractExperiment, ids: np.ndarray) -> Numbers:
    """What a compiled batch gets for some rows; row numbers fit 32 bits, whatever the precision."""
    columns = {path: layout.sweep.column(path, ids) for path in layout.inner}
    typed = {path: x.astype(leaf(experiment, path).dtype) for path, x in columns.items()}
    return typed | {SEEDS: layout.sweep.seeds(ids).astype(np.uint32)}


def _batches(layout: Layout, parts: list[Part], group: Group) -> Iterator[tuple[Part, int, Numbers]]:
    """Part, rows and numbers of every batch in order; a short one is filled up with its last row."""
    for part in parts:
        numbers = _arguments(layout, group.experiment, np.asarray(part.ids))
        for at in range(0, len(part.ids), group.batch_rows):
            batch = {name: x[at : at + group.batch_rows] for name, x in numbers.items()}
            n = batch[SEEDS].size
            if n < group.batch_rows:
                batch = {name: np.pad(x, (0, group.batch_rows - n), mode="edge") for name, x in batch.items()}
            yield part, n, batch


def _tables(
    layout: Layout, parts: list[Part], values: dict[str, Any], group: Group
) -> Iterator[tuple[Part, pl.DataFrame]]:
    """Batches stream over the devices, one call ahead of the host; a part is given out when its last batch is there."""

    def calls() -> Iterator[tuple[list[tuple[Part, int]], dict[str, jax.Array]]]:
        batches = _batches(layout, parts, group)
        while some := list(itertools.islice(batches, group.n_devices)):
            # A short call is filled up with its last batch.
            numbers = [numbers for *_, numbers in some] + [some[-1][2]] * (group.n_devices - len(some))
            together = {name: np.concatenate([x[name] for x in numbers]) for name in numbers[0]}
            yield [(part, n) for part, n, _ in some], group.call(numbers[0] if group.n_devices == 1 else together)

    gathered: list[dict[str, np.ndarray]] = []
    for some, results in _one_ahead(calls()):
        found = {name: np.asarray(x) for name, x in results.items()}
        for place, (part, n) in enumerate(some):
            first = place * group.batch_rows
            gathered.append({name: x[first : first + n] for name, x in found.items()})
            if sum(len(batch["ok"]) for batch in gathered) == len(part.ids):
                results = {name: np.concatenate([batch[name] for batch in gathered]) for name in gathered[0]}
                yield part, _table(layout, part, values, results)
                gathered = []


def _one_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Asks for the next item, which starts its computation, before it gives out the last."""
    waiting = next(items, None)
    while waiting is not None:
        following = next(items, None)
        yield waiting
        waiting = following


def _table(layout: Layout, part: Part, values: dict[str, Any], results: dict[str, np.ndarray]) -> pl.DataFrame:
    fine = np.all([np.isfinite(x) for x in results.values()], axis=0)
    results["ok"] = fine & results["ok"]
    return pl.DataFrame(_settings(layout, part, values) | results)


def _settings(layout: Layout, part: Part, values: dict[str, Any]) -> dict[str, Any]:
    ids = np.asarray(part.ids)
    out: dict[str, Any] = {"config_id": ids}
    for path in layout.sweep.axes:
        out[path] = [values[path]] * ids.size if path in values else layout.sweep.column(path, ids)
    return out | ({"seed": layout.sweep.seeds(ids)} if layout.sweep.n_seeds else {})


def _failed(layout: Layout, part: Part, values: dict[str, Any], reason: str) -> pl.DataFrame:
    n = len(part.ids)
    return pl.DataFrame(_settings(layout, part, values) | {"ok": [False] * n, "reason": [reason] * n})
