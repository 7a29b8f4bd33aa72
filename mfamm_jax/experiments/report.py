"""One self-contained HTML page per run."""

import io
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
import polars as pl

from mfamm_jax.experiments.record import RunFolder

mpl.use("svg")
import matplotlib.pyplot as plt

PAGE = jinja2.Template(
    """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{{ manifest.name }}</title><style>
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c2330}
table{border-collapse:collapse}td,th{padding:.2rem .8rem;border-bottom:1px solid #dde;text-align:left}
figure{margin:1.5rem 0}figcaption{color:#556}svg{max-width:100%;height:auto}pre{background:#f4f5f8;padding:.8rem;overflow:auto}
</style></head><body><h1>{{ manifest.name }}</h1>
<p>Status {{ manifest.status }} &middot; seed {{ manifest.seed }} &middot; {{ manifest.precision }} &middot;
{{ manifest.device }}{% for name, v in manifest.versions.items() %} &middot; {{ name }} {{ v }}{% endfor %}</p>
{% for warning in manifest.warnings %}<p><strong>Unusual:</strong> {{ warning }}</p>{% endfor %}
<h2>Metrics</h2><table>{% for name, value in metrics.items() %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>{% endfor %}</table>
{% for title, svg, caption in figures %}<h2>{{ title }}</h2><figure>{{ svg }}<figcaption>{{ caption }}</figcaption></figure>{% endfor %}
<h2>Config</h2><pre>{{ resolved | e }}</pre></body></html>"""
)


def write_report(
    folder: RunFolder,
    manifest: dict[str, Any],
    metrics: dict[str, Any],
    arrays: dict[str, np.ndarray],
    rows: pl.DataFrame,
    axes: list[str],
) -> None:
    """Writes report.html."""
    figures = [
        (
            "Optimal quotes",
            _quotes(arrays),
            "Depths with the whole horizon left; dashed: stationary closed form. Data: arrays/base.npz.",
        )
    ]
    figures += [("Value function", _value(arrays), "H(q, time left) [price lot]. Data: arrays/base.npz.")]
    if len(axes) == 2:
        caption = "Spread over the two swept parameters. Data: parts/."
        figures += [("Sweep", _heat(rows, *axes), caption)]
    html = PAGE.render(manifest=manifest, metrics=metrics, figures=figures, resolved=folder.resolved)
    folder.write_text("report.html", html)


def _svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def _quotes(arrays: dict[str, np.ndarray]) -> str:
    figure, axis = plt.subplots(figsize=(7, 4))
    q = arrays["inventory"]
    for side, colour in (("bid", "tab:blue"), ("ask", "tab:red")):
        axis.plot(q, arrays[f"{side}_depth"][-1], "o-", color=colour, ms=3, label=f"{side} depth")
        axis.plot(q, arrays[f"closed_form_{side}_depth"], "--", color=colour, lw=1)
    axis.set(xlabel="inventory [lots]", ylabel="depth from the mid [price]")
    axis.legend()
    return _svg(figure)


def _value(arrays: dict[str, np.ndarray]) -> str:
    figure, axis = plt.subplots(figsize=(7, 4))
    mesh = axis.pcolormesh(arrays["time_left"], arrays["inventory"], arrays["value"].T, shading="nearest")
    mesh.set_rasterized(True)
    figure.colorbar(mesh, label="H [price lot]")
    axis.set(xlabel="time left [s]", ylabel="inventory [lots]")
    return _svg(figure)


def _heat(rows: pl.DataFrame, first: str, second: str) -> str:
    figure, axis = plt.subplots(figsize=(7, 4))
    x, y = (np.unique(rows[name].to_numpy()) for name in (first, second))
    table = rows.sort([first, second])["spread"].to_numpy().reshape(len(x), len(y))
    mesh = axis.pcolormesh(x, y, table.T, shading="nearest")
    mesh.set_rasterized(True)
    figure.colorbar(mesh, label="spread [price]")
    axis.set(xlabel=first, ylabel=second, xscale="log" if x[0] > 0 and x[-1] / x[0] > 30 else "linear")
    return _svg(figure)
