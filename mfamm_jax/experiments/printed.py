"""What the commands print: results, comparisons and settings as tables. Imports jax only where it lists settings."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

# Brackets are units and lists, never colours.
stderr, stdout = (Console(stderr=to_stderr, highlight=False, markup=False) for to_stderr in (True, False))
MOST_SHOWN = 20


def say(text: str) -> None:
    """To the user, not part of the answer."""
    stderr.print(text, soft_wrap=True)


def warn(texts: Any) -> None:
    """One line each."""
    for text in texts:
        say(f"warning: {text}")


def table_of(*header: str, title: str | None = None) -> Table:
    """A table whose cells fold: a number or a name that is cut off cannot be used."""
    table = Table(*header, title=title)
    for column in table.columns:
        column.overflow = "fold"
    return table


def metrics_table(metrics: dict[str, Any]) -> Table:
    """Numbers by name."""
    table = table_of("metric", "value")
    for name, value in metrics.items():
        if name == "gradient":
            for parameter, row in value.items():
                shown = f"{row['autodiff']:.6g} (finite difference {row['finite_difference']:.6g})"
                table.add_row(f"d expected_pnl / d {parameter}", shown)
        if value is None or (isinstance(value, dict | list) and name != "sweep"):
            continue  # in metrics.json and the report
        table.add_row(name, f"{value:.6g}" if isinstance(value, float) else str(value))
    return table


def show_outcome(outcome: Any) -> None:
    """Of a run."""
    stdout.print(metrics_table(outcome.metrics))
    for table in outcome.metrics.get("tables", []):
        shown = table_of(*table["header"], title=table["title"])
        for row in table["rows"]:
            shown.add_row(*(f"{x:.6g}" if isinstance(x, float) else str(x) for x in row))
        stdout.print(shown)
        for note in table["notes"]:
            stdout.print(note, soft_wrap=True)
    if outcome.metrics.get("sweep", {}).get("failed"):
        stdout.print(f"failed  {outcome.folder / 'failed.parquet'} has every failed row with its reason")
    if (outcome.folder / "report.html").is_file():
        stdout.print(f"report  {outcome.folder / 'report.html'}")


def show_comparison(answer: dict[str, Any]) -> None:
    """Of a run with its repetition."""
    counts = ", ".join(f"{n:,} {name}" for name, n in answer["compared"].items() if n)
    differences = sorted(answer["differences"], key=lambda d: d["within"])
    if differences:
        table = table_of("what", "was", "is", "allowed difference", "verdict")
        for d in differences[:MOST_SHOWN]:
            cells = [f"{x:.9g}" if isinstance(x, float) else str(x) for x in (d["before"], d["after"], d["allowed"])]
            table.add_row(d["what"], *cells, "within" if d["within"] else "DIFFERS")
        stdout.print(table)
        if len(differences) > MOST_SHOWN:
            stdout.print(f"and {len(differences) - MOST_SHOWN} more; --json has all")
    for reason in answer["reasons"]:
        stdout.print(f"changed since: {reason}", soft_wrap=True)
    wanted = "to the bit" if answer["exact"] else "within tolerances"
    if differences and answer["exact"]:
        stdout.print(
            "nothing that the manifest knows of has changed; if no file of the package was edited, this is a fault"
        )
    stdout.print(f"{'reproduced' if answer['same'] else 'NOT reproduced'} {wanted}: {counts} compared")


def size_of(n_bytes: int) -> str:
    """For people."""
    return f"{n_bytes / 2**30:,.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:,.0f} MiB"


def show_configs() -> None:
    """Shipped configs, a line each."""
    from mfamm_jax.experiments.config import config_summary, shipped_configs

    table = table_of("config", "experiment", "what it does")
    table.box, table.pad_edge = None, False
    for column in table.columns[:2]:
        column.no_wrap = True
    for name in shipped_configs():
        table.add_row(name, *config_summary(name))
    stdout.print(table)
    stdout.print("\nmfamm run CONFIG     runs one\nmfamm list NAME      settings of a config, an experiment or a table")
    stdout.print("mfamm list --all     settings of everything")


def show_everything() -> None:
    """Settings of every experiment, then those of the tables whose kind is a choice, once each."""
    from mfamm_jax.experiments.config import describe_kinds, describe_settings
    from mfamm_jax.experiments.registry import EXPERIMENTS, KINDS

    for name, cls in EXPERIMENTS.items():
        _show_settings(f'experiment = "{name}"', describe_settings(cls, expand=False))
    for name in KINDS:
        _show_settings(f"[{name}]", describe_kinds(name, name, expand=False))


def show_named(name: str) -> None:
    """Settings of a config's experiment, an experiment or a table; imports what it needs."""
    from mfamm_jax.experiments.config import config_summary, describe_kinds, describe_settings, shipped_configs
    from mfamm_jax.experiments.registry import EXPERIMENTS, KINDS

    if name not in EXPERIMENTS and (name in shipped_configs() or Path(name).is_file()):
        name, _ = config_summary(name)
    if name in EXPERIMENTS:
        _show_settings(f'experiment = "{name}"', describe_settings(EXPERIMENTS[name]))
    elif name in KINDS:
        _show_settings(f"[{name}]", describe_kinds(name, name))
    else:
        _show_table(name)


def _show_table(name: str) -> None:
    """A table of settings, once for all experiments that have the same."""
    from mfamm_jax.experiments.config import describe_settings, shipped_configs, suggest
    from mfamm_jax.experiments.registry import EXPERIMENTS, KINDS

    settings = {experiment: describe_settings(cls, expand=False) for experiment, cls in EXPERIMENTS.items()}
    users: dict[tuple, list[str]] = {}
    for experiment, rows in settings.items():
        mine = tuple(row for row in rows if row[0].startswith(f"{name}."))
        if mine:
            users.setdefault(mine, []).append(experiment)
    for rows, experiments in users.items():
        _show_settings(f"[{name}] of {', '.join(experiments)}", rows)
    if not users:
        tables = {row[0].split(".")[0] for rows in settings.values() for row in rows if "." in row[0]}
        known = [*EXPERIMENTS, *shipped_configs(), *KINDS, *sorted(tables)]
        raise ValueError(f'"{name}": no such config, experiment or table{suggest(name, known)}; see `mfamm list`')


def _show_settings(title: str, rows: Any) -> None:
    table = table_of("setting", "default", "unit", "equation", "meaning", title=title)
    for row in rows:
        table.add_row(*row)
    stdout.print(table)
