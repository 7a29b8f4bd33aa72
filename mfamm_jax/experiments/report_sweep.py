"""Sections of a report about sweeps and sensitivities."""

from html import escape

import polars as pl

from mfamm_jax.experiments import figures
from mfamm_jax.experiments.report_parts import MOST_PARTS, Run, html_figure, html_note, html_table

FRONTIERS = (("expected_pnl", "pnl_std"), ("mean_pnl", "cvar"))  # columns of a sweep that make a Pareto front
VERDICTS = {
    True: "agree",
    False: "DISAGREE",
    None: "not solved where moved",
}  # of a derivative and its finite difference


def sweep_section(run: Run) -> str:
    """Rows, failures, maps, fronts and the best of them."""
    if run.rows.is_empty():
        return ""
    found = [name for name in run.rows.columns if name not in (*run.axes, "config_id", "ok", "reason")]
    preferred = ("expected_pnl", "replay_pnl", "value", "spread", "pnl", "fills", "without_pnl", "imbalance_vpin_gain")
    shown = [name for name in preferred if name in found][:2] or found[:2]
    numeric = [name for name in run.axes if run.rows[name].dtype.is_numeric()]
    if len(numeric) > 2:  # a heat map for each value of the shortest axis
        shortest = min(numeric, key=lambda name: run.rows[name].n_unique())
        numeric = [name for name in numeric if name != shortest or run.rows[name].n_unique() > MOST_PARTS]
    total = run.metrics["sweep"]
    text = html_note(f"{total['rows']:,} rows, {total['failed']} failed. Data: parts/.")
    if total["failed"]:
        failed = pl.read_parquet(run.root / "failed.parquet")
        counts = failed["reason"].value_counts(sort=True).head(5).rows()
        text += (
            '<p class="warn">Failed rows, all in failed.parquet: '
            + "; ".join(f"{n:,} x {escape(r)}" for r, n in counts)
            + "</p>"
        )
    rows = run.rows.filter(pl.col("ok"))
    if not shown or rows.is_empty():
        return text
    if len(run.rows) < total["rows"]:
        mean = ", means over seeds" if "seed" in run.all_rows.collect_schema() else ""
        text += html_note(f"Figures show {len(run.rows):,} points{mean}.")
    words = [name for name in run.axes if name not in numeric]
    parts = rows.partition_by(words, maintain_order=True)[:MOST_PARTS] if words else [rows]
    for i, part in enumerate(parts):
        if numeric and len(part) > 1:
            caption = ", ".join(f"{name} = {part[name][0]}" for name in words)
            text += html_figure(run, f"sweep-{i}" if words else "sweep", figures.sweep(part, numeric, shown), caption)
    for mean, risk in FRONTIERS:
        if {mean, risk} <= set(rows.columns):
            caption = f"Every point by {risk} and {mean}; joined: those that no other beats in both."
            text += html_figure(run, f"frontier-{risk}", figures.frontier(rows, mean, risk), caption)
    best = run.all_rows.filter(pl.col("ok")).top_k(5, by=shown[0]).collect().sort(shown[0], descending=True)
    columns = [*run.axes, *[name for name in best.columns if name not in (*run.axes, "config_id", "ok", "reason")]]
    return (
        text
        + html_note(f"Largest {shown[0]}:")
        + html_table(columns, [list(row) for row in best.select(columns).iter_rows()])
    )


def sensitivities_section(run: Run) -> str:
    """Derivatives beside finite differences."""
    text = _gradient(run)
    told = run.metrics.get("sensitivities", {})
    disagree = 0
    for metric, by_path in told.items():
        rows = []
        for path, row in by_path.items():
            disagree += row["agree"] is False
            numbers = [row[name] for name in ("at", "autodiff", "finite_difference", "relative_error")]
            rows.append([path, *numbers, VERDICTS[row["agree"]]])
        text += html_table([f"d {metric} / d", "at", "autodiff", "finite difference", "relative error", ""], rows)
    if disagree:
        text += html_note(
            "Where they disagree the metric jumps with the parameter, as counts of replayed fills do: the derivative between jumps says nothing "
            "about them, and a finite difference is one draw."
        )
    shown = {metric: rows for metric, rows in told.items() if any(row["autodiff"] for row in rows.values())}
    if shown:
        first = dict(list(shown.items())[:MOST_PARTS])
        text += html_figure(
            run, "tornado", figures.tornado(first), "Change for +1 % of each parameter; of one that is 0, for +0.01."
        )
    if "sensitivity/tangent/surface/value" in run.arrays:
        caption = (
            "Change for +1 % of each parameter, over inventory. Data: arrays/base.npz, sensitivity/tangent/surface."
        )
        text += html_figure(
            run, "surface", figures.surface_sensitivities(run.arrays, list(next(iter(told.values())))), caption
        )
    return text


def _gradient(run: Run) -> str:
    if "gradient" not in run.metrics:
        return ""
    tolerance = 1e-5 if run.manifest["precision"] == "float64" else 5e-2
    rows = []
    for name, row in run.metrics["gradient"].items():
        verdict = "agree" if row["relative_error"] < tolerance else "DISAGREE"
        rows.append([name, row["at"], row["autodiff"], row["finite_difference"], row["relative_error"], verdict])
    header = ["d E[P&amp;L] / d", "at", "autodiff", "finite difference", "relative error", f"within {tolerance:g}"]
    return html_table(header, rows) + html_figure(
        run, "sensitivities", figures.sensitivities(run.metrics["gradient"]), ""
    )
