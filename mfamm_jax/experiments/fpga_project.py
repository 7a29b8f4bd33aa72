"""`mfamm export`: a config or a run becomes a kernel project, and projects are checked."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mfamm_jax.experiments.config import ConfigError, construct, load_config
from mfamm_jax.experiments.runner import set_precision


def export_project(
    name: str, overrides: list[str], out: Path, overwrite: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    """Solves, quantises and writes; returns numbers to show.

    Args:
        name: A config, the name of a shipped one, or a run folder.
        overrides: a.b=value.
        out: New or empty folder.
        overwrite: Replace the files of an older export.
        say: Reports.
    """
    given = Path(name) / "resolved.toml" if Path(name).is_dir() else name
    config = load_config(str(given), overrides)
    if config.tables["experiment"] != "fpga_quote_kernel":
        raise ConfigError(
            f'{config.place}: its experiment is "{config.tables["experiment"]}"; `mfamm export` takes "fpga_quote_kernel"'
        )
    if config.settings.precision != "float64":
        raise ConfigError(
            f'{config.place}: precision = "{config.settings.precision}"; tables are solved in float64: precision = "float64"'
        )
    set_precision(config)
    from mfamm_jax.fpga_export.emit import check_settings, check_target, write_project

    experiment = construct(config)
    # What needs no solve is refused before one.
    hardware = experiment.hardware
    check_target(out, overwrite)
    check_settings(hardware.top, hardware.part, hardware.table_mode, hardware.clock_ns, experiment.max_age)
    parts = {name: config.tables[name] for name in ("curve", "control", "table", "limits", "hardware")}
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
    say("solving and rounding the table")
    project = experiment.project({"config_sha256": digest})
    say(f"{project.quantized.scheme}; computing golden vectors")
    warnings = write_project(project, out, overwrite=overwrite)
    form, bound = project.form, project.quantized.bound
    return {
        "folder": str(out),
        "depth": str(form.depth),
        "nodes": " x ".join(str(axis.n_nodes) for axis in form.spec.axes),
        "error_bound_ticks": bound.total,
        "error_observed_ticks": project.observed.largest,
        "book_to_quote_cycles": form.fast_cycles,
        "state_to_offsets_cycles": form.slow_cycles,
        "warnings": warnings,
    }
