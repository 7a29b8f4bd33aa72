"""One self-contained HTML page per run, made from its folder alone."""

import json
import os
import tomllib
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import polars as pl

from mfamm_jax.experiments import (
    allocation_figures,
    calibration_figures,
    cointegration_figures,
    figures,
    fpga_figures,
    imbalance_figures,
    impact_figures,
    replay_figures,
    risk_figures,
    routing_figures,
    schedule_figures,
    signal_figures,
    tail_figures,
    transport_figures,
    tree_figures,
)
from mfamm_jax.experiments.config import ConfigError

PAGE = jinja2.Template(
    """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>{{ manifest.name }}</title><style>
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1c2330}
h1{margin-bottom:.2rem}h2{margin-top:2.2rem;border-bottom:1px solid #dde}.meta{color:#556}
table{border-collapse:collapse;margin:.6rem 0;font-variant-numeric:tabular-nums}
td,th{padding:.15rem .8rem;border-bottom:1px solid #e6e8ee;text-align:right}td{white-space:nowrap}
td:first-child,th:first-child{text-align:left}thead th{border-bottom:2px solid #ccd}
figure{margin:1rem 0}figcaption,.note{color:#556;font-size:13px}svg{max-width:100%;height:auto}
pre{background:#f4f5f8;padding:.8rem;overflow:auto}.warn{background:#fff4d6;padding:.4rem .8rem}
.wide{overflow-x:auto}</style></head><body>
<h1>{{ manifest.name }}</h1>
<p class="meta">{{ manifest.status }} &middot; {{ manifest.started }} &middot; {{ manifest.wall_seconds }} s &middot; seed {{ manifest.seed }}
&middot; {{ manifest.precision }} &middot; {{ manifest.device }}{% if manifest.git_commit %} &middot; commit {{ manifest.git_commit }}{% endif %}<br>
{% for name, v in manifest.versions.items() %}{{ name }} {{ v }}{{ ", " if not loop.last }}{% endfor %}</p>
<p>Reproduce: <code>mfamm reproduce FOLDER</code>, or <code>mfamm run resolved.toml</code> from this file of the folder.</p>
{% for warning in manifest.warnings %}<p class="warn">Unusual: {{ warning | e }}</p>{% endfor %}
{% for section in sections %}<h2>{{ section.title }}</h2>{{ section.body }}{% endfor %}
<h2>Config with every default</h2><pre>{{ resolved | e }}</pre></body></html>"""
)


MOST_ROWS = 50_000  # of a sweep in its figures
MOST_PARTS = 6  # figures, when the sweep has axes of words
FRONTIERS = (("expected_pnl", "pnl_std"), ("mean_pnl", "cvar"))  # columns of a sweep that make a Pareto front
VERDICTS = {
    True: "agree",
    False: "DISAGREE",
    None: "not solved where moved",
}  # of a derivative and its finite difference
COARSE = 0.5  # expected fills per step


class Run:
    """What a run folder holds."""

    def __init__(self, root: Path):
        if not (root / "manifest.json").is_file() or not (root / "metrics.json").is_file():
            raise ConfigError(f"{root}: no finished run here; expected manifest.json and metrics.json")
        self.root = root
        self.manifest = json.loads((root / "manifest.json").read_text())
        self.metrics = json.loads((root / "metrics.json").read_text())
        self.resolved = (root / "resolved.toml").read_text()
        with np.load(root / "arrays" / "base.npz") as file:
            self.arrays = dict(file)
        given = tomllib.loads(self.resolved).get("sweep", {})
        self.axes = [path for path in given if path not in ("method", "n_points", "n_seeds")]
        parts = sorted((root / "parts").glob("part-*.parquet"))
        self.all_rows = (
            pl.concat([pl.scan_parquet(part) for part in parts], how="diagonal") if parts else pl.LazyFrame()
        )
        self.rows = self._shown() if parts else pl.DataFrame()

    def _shown(self) -> pl.DataFrame:
        """Rows for the figures: of millions every so many, and means over seeds."""
        n_rows = self.metrics["sweep"]["rows"]
        rows = self.all_rows.filter(pl.col("config_id") % -(-n_rows // MOST_ROWS) == 0).sort("config_id").collect()
        if "seed" not in rows.columns:
            return rows
        numbers = [name for name in rows.columns if name not in (*self.axes, "ok", "reason", "seed")]
        summary = [pl.col("ok").all(), *[pl.col(name).mean() for name in numbers if name != "config_id"]]
        return rows.group_by(self.axes, maintain_order=True).agg(pl.col("config_id").first(), *summary)


def write_report(root: Path) -> Path:
    """Writes report.html and the figures of a run folder."""
    run = Run(root)
    folder = root / "figures"
    folder.mkdir(exist_ok=True)
    sections = []
    for title, build in SECTIONS:
        try:
            body = build(run)
        except KeyError as error:
            raise ConfigError(f"{root}: lacks {error}: made by another version? Run it again with --fresh") from error
        if body:
            sections.append({"title": f"{len(sections) + 1}. {title}", "body": body})
    html = PAGE.render(manifest=run.manifest, sections=sections, resolved=run.resolved)
    partial = root / "report.html.partial"
    partial.write_text(html, encoding="utf-8")
    os.replace(partial, root / "report.html")
    return root / "report.html"


def _table(header: list[str], rows: list[list[Any]]) -> str:
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{number(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def number(value: Any) -> str:
    """Four significant digits; text as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _figure(run: Run, name: str, svg: str, caption: str) -> str:
    (run.root / "figures" / f"{name}.svg").write_text(svg, encoding="utf-8")
    return f"<figure>{svg}<figcaption>{caption}</figcaption></figure>"


def _note(text: str) -> str:
    return f'<p class="note">{text}</p>'


def _summary(run: Run) -> str:
    simple = [[name, value] for name, value in run.metrics.items() if not isinstance(value, dict | list | None)]
    data = run.manifest.get("data")
    text = ""
    if data and "facts" in run.metrics:
        facts = run.metrics["facts"]
        files = ", ".join(f"{name} (sha256 {digest[:12]})" for name, digest in data["source"])
        text = f"<p>{data['session']}: {files or 'generated'}. Clock: {data['clock']}.</p>" + "".join(
            _note(note) for note in data["notes"]
        )
        names = ("n_events", "duration_s", "marketable_orders", "spread_ticks_time_mean", "spread_ticks_event_mean")
        names = tuple(name for name in names if name in facts)
        text += _table([name.replace("_", " ") for name in names], [[facts[name] for name in names]])
        if "fit" in run.metrics:
            text += _note("Fitted on the first half of the session, replayed on the second.")
    return text + _table(["metric", "value"], simple) + _times(run)


def _times(run: Run) -> str:
    """Where the time went."""
    names = ("total", "trace", "compile", "run")
    rows = [
        [name, *[times.get(part, "") for part in names], _cached(times)]
        for name, times in run.manifest["stages"].items()
    ]
    for number, times in enumerate(run.manifest.get("sweep", {}).get("compile_groups", [])[:MOST_PARTS]):
        rows.append([f"sweep, group {number}", "", *[times.get(part, "") for part in names[1:]], _cached(times)])
    return _table(["seconds", *names, "compiled program"], rows)


def _cached(times: dict[str, Any]) -> str:
    return {True: "from the cache", False: "new", None: ""}[times.get("cached")]


def _tables(run: Run) -> str:
    text = ""
    for table in run.metrics.get("tables", []):
        text += f"<h3>{escape(table['title'])}</h3>" + _table(table["header"], table["rows"])
        text += "".join(_note(escape(note)) for note in table["notes"])
    if "fit/metaorder" in run.arrays:
        caption = "Left: decay of impact. Middle: impact of a size. Right: trading at the mean size for 50 steps. Data: arrays/base.npz, fit."
        text += _figure(run, "impact", impact_figures.kernel_and_curve(run.arrays, run.metrics), caption)
    if "forms/exact diagonal/sampled" in run.arrays:
        caption = "Left: mean cost of one layer by its angles, exact diagonal. Middle: costs of the sets measured. Right: the split. Data: arrays/base.npz."
        text += _figure(run, "routing", routing_figures.routing(run.arrays, run.metrics), caption)
    if "tree_share" in run.arrays:
        caption = "Left: bands reach from the worst to the best graph. Right: first graph. Data: arrays/base.npz."
        text += _figure(run, "maxcut", routing_figures.maxcut(run.arrays, run.metrics), caption)
    if "pro_rata/plan" in run.arrays:
        caption = "Left: when each asset is traded. Middle: what is left of the basket. Right: costs by regularization. Data: arrays/base.npz."
        text += _figure(run, "execution", transport_figures.execution(run.arrays, run.metrics), caption)
    if "linear/trades" in run.arrays:
        caption = "Left: what is left of the order. Middle: an opponent who knows the schedule, and one that learned it. Right: programmes under the "
        caption += "given impact. Data: arrays/base.npz, linear, opponents and search."
        text += _figure(run, "schedules", schedule_figures.schedules_and_opponents(run.arrays, run.metrics), caption)
    if "draw/threshold" in run.arrays:
        caption = "Left: expected P&amp;L against the probability of a breach, with 95 % intervals. Middle: breaches by step. Right: what "
        caption += "the searches tried. Data: arrays/base.npz, judge, draw and search."
        text += _figure(run, "frontier", risk_figures.frontier(run.arrays, run.metrics), caption)
    if "estimate/curve_flow" in run.arrays:
        caption = "Left: how often losses are larger. Middle: CVaR by level. Right: the last forecasts. Data: arrays/base.npz, estimate and forecast."
        text += _figure(run, "tail", tail_figures.tail_and_forecasts(run.arrays, run.metrics), caption)
    if "calibration/residuals" in run.arrays:
        caption = "Data: arrays/base.npz, calibration."
        text += _figure(run, "calibration", calibration_figures.fit_and_residuals(run.arrays), caption)
    if "search/judge/objective" in run.arrays:
        names = [row[0] for row in run.metrics["tables"][0]["rows"]]
        text += _figure(
            run, "searches", calibration_figures.searches(run.arrays, names), "Data: arrays/base.npz, search."
        )
    if "gates/judge/objective" in run.arrays:
        names = [row[0] for row in run.metrics["tables"][0]["rows"]]
        text += _figure(run, "gates", calibration_figures.gates(run.arrays, names), "Data: arrays/base.npz, gates.")
    if "kernel_errors" in run.arrays:
        caption = "P&amp;L of both, and the kernel's errors at random states. Data: arrays/base.npz, values and kernel_errors."
        text += _figure(run, "kernel", fpga_figures.profit_and_errors(run.arrays, run.metrics), caption)
    if "judge/points" in run.arrays:
        caption = "Left: rewards while learning. Right: where the ball network puts the strategies over a judging path. Data: arrays/base.npz, learn and judge."
        text += _figure(run, "allocation", allocation_figures.allocation(run.arrays, run.metrics), caption)
        caption = "Shares of capital over the first judging path. Data: arrays/base.npz, judge/shares."
        text += _figure(run, "shares", allocation_figures.shares(run.arrays, run.metrics), caption)
    if "walk/used" in run.arrays:
        caption = "Left: how much less the quietest combination moves than the liveliest. Middle: its residual, with mean and deviation "
        caption += "of the window before. Right: profit. Data: arrays/base.npz, estimate, walk and look_ahead."
        text += _figure(run, "relation", cointegration_figures.relation_and_trading(run.arrays, run.metrics), caption)
    if "gain/total" in run.arrays:
        caption = "Left: P&amp;L of the test block. Right: depths without inventory at the reference volatility, one point a regime. "
        caption += "Data: arrays/base.npz, policies and regimes."
        text += _figure(run, "signals", signal_figures.gains_and_quotes(run.arrays, run.metrics), caption)
    if "imbalance/history" in run.arrays:
        text += _figure(
            run, "training", imbalance_figures.training(run.arrays), "Data: arrays/base.npz, imbalance/history."
        )
        caption = "Test block. Left: embeddings on their two main axes. Right: calibrated probability of up against what happened, "
        caption += "with 95 % intervals that take samples as independent. Data: arrays/base.npz, imbalance."
        text += _figure(run, "embedding", imbalance_figures.embedding_and_reliability(run.arrays), caption)
    if "effect/depths" in run.arrays:
        names, gain = run.metrics["features"]["used"][1:], run.metrics["gain"]
        caption = (
            "Trees (solid) and log-linear rate (dashed) at quantiles of a covariate. Data: arrays/base.npz, effect."
        )
        text += _figure(run, "effects", tree_figures.effects(run.arrays, names, gain), caption)
        caption = (
            "Last block: fills, trees (solid), log-linear (dashed); quotes. Data: arrays/base.npz, judge, control."
        )
        text += _figure(run, "fills_and_quotes", tree_figures.fills_and_quotes(run.arrays), caption)
    if "quotes/share" in run.arrays:
        caption = "Bid, ask and (dotted) reservation price at the start of a cycle. Data: arrays/base.npz, quotes."
        text += _figure(run, "bot_quotes", figures.bot_quotes(run.arrays), caption)
        caption = "P&amp;L per path: quartiles, whiskers at 5 and 95 %. Data: arrays/base.npz, paths."
        text += _figure(run, "bot_profits", figures.bot_profits(run.arrays), caption)
    return text


def _trading(run: Run) -> str:
    if "trading/value" not in run.arrays:
        return ""
    fills, orders = (pl.read_parquet(run.root / "logs" / f"{name}.parquet") for name in ("fills", "orders"))
    start = run.metrics["replayed"]["first_ns"]
    fills = fills.with_columns(seconds=(pl.col("time_ns") - start) / 1e9)
    text = _figure(
        run, "trading", replay_figures.trading(run.arrays, fills), "Data: arrays/base.npz, logs/fills.parquet."
    )
    text += _figure(
        run, "close_up", replay_figures.close_up(run.arrays, fills), "Resting orders where fills are most frequent."
    )
    return text + _figure(run, "queue", replay_figures.queue(orders), "Data: logs/orders.parquet.")


def _profit(run: Run) -> str:
    if "simulation" not in run.metrics:
        return ""
    simulation = run.metrics["simulation"]
    rows = []
    for label, part in (("solved quotes", simulation["summary"]), ("symmetric quotes", simulation["baseline"])):
        pnl, interval = part["pnl"], part["cvar_interval"]
        rows.append(
            [
                label,
                f"{number(pnl['mean'])} &plusmn; {number(pnl['error'])}",
                pnl["std"],
                pnl["sharpe"],
                part["value_at_risk"],
                f"{number(part['cvar'])} [{number(interval[0])}, {number(interval[1])}]",
                part["max_drawdown"]["mean"],
            ]
        )
    text = _table(["simulated", "mean", "std", "Sharpe", "VaR", "CVaR [95 % interval]", "mean drawdown"], rows)
    text += _note(
        f"Exact law of the same market: mean {number(simulation['law_mean'])}, std {number(simulation['law_std'])}. "
        "VaR and CVaR are losses: negative = a gain even in the tail."
    )
    fills = run.metrics["fills_per_step"]
    if fills > COARSE:
        text += (
            f'<p class="warn">{number(fills)} fills per simulated step: above {COARSE} the simulated market differs from '
            "the continuous one the quotes are solved for; raise simulation.n_steps.</p>"
        )
    by = simulation["summary"]["by_horizon"]
    steps = zip(("1/4", "1/2", "3/4", "1"), by["mean"], by["std"], by["sharpe"])
    text += _table(["share of the horizon", "mean", "std", "Sharpe"], [list(row) for row in steps])
    return text + _figure(run, "profit", figures.profit(run.arrays), "Data: arrays/base.npz, simulation/pnl.")


def _attribution(run: Run) -> str:
    if "simulation" not in run.metrics:
        return ""
    simulated, replayed = run.metrics["simulation"], run.metrics["replay"]
    rows = [
        [label, part["capture"], part["revaluation"], part["fees"], part["pnl"]["mean"], residual]
        for label, part, residual in (
            ("simulated, mean", simulated["summary"], f"max {number(simulated['identity_residual'])}"),
            ("simulated, symmetric", simulated["baseline"], ""),
        )
    ]
    for label, part in (("replayed", replayed), ("replayed, symmetric", run.metrics["replay_baseline"])):
        rows.append([label, part["capture"], part["revaluation"], part["fees"], part["pnl"], part["residual"]])
    header = ["price lot", "spread capture", "inventory revaluation", "fees", "P&amp;L", "residual"]
    return _table(header, rows) + _note("Capture + revaluation - fees = P&amp;L; the residual is rounding error.")


def _inventory(run: Run) -> str:
    if "simulation/inventory_quantiles" not in run.arrays:
        return ""
    rows = []
    for label, name in (("solved quotes", "summary"), ("symmetric quotes", "baseline")):
        part = run.metrics["simulation"][name]["inventory"]
        rows.append([label, part["mean"], part["std"], part["largest"], part["share_at_limit"], part["final_std"]])
    text = _table(["lots", "mean", "std", "largest", "share of time at the limit", "final std"], rows)
    caption = "Simulated inventory with 20 paths. Data: arrays/base.npz, simulation/inventory_quantiles."
    return text + _figure(run, "inventory", figures.inventory(run.arrays), caption)


def _quotes(run: Run) -> str:
    if "bid_depth" not in run.arrays:
        return ""
    caption = "Dashed: stationary closed form (GL-3). Data: arrays/base.npz, bid_depth, ask_depth."
    return _figure(run, "quotes", figures.quotes(run.arrays), caption)


def _value(run: Run) -> str:
    if "value" not in run.arrays:
        return ""
    text = ""
    if "scheme_difference" in run.metrics:
        text = _note(
            "Largest difference between the two numerical methods: "
            f"{number(run.metrics['scheme_difference'])} price lot; largest distance of the quotes from the closed form "
            f"for half the inventory limit: {number(run.metrics['closed_form_difference'])} price."
        )
    return text + _figure(
        run,
        "value",
        figures.value(run.arrays),
        "H(q, time left) without its value at zero inventory. Data: arrays/base.npz, value.",
    )


def _fills(run: Run) -> str:
    if "replay/path/fill" not in run.arrays:
        return ""
    replayed = run.metrics["replay"]
    rows = []
    for side in ("bid", "ask"):
        names = (f"{side}_fills", f"n_{side}_fills", f"n_{side}_orders")
        ratio = run.metrics["fill_ratio"][side]
        rows.append([side, *[replayed[name] for name in names], ratio, replayed[f"{side}_quoted"]])
    text = _table(["replayed", "lots", "fills", "orders", "fills per order", "share of time quoted"], rows)
    text += _note(f"{replayed['rejected']} orders refused; largest inventory {number(replayed['max_inventory'])} lots.")
    text += _figure(
        run,
        "fill_rates",
        figures.fill_rates(run.arrays),
        "Replayed fills with 95 % intervals against the fitted intensity in the average state. The book never saw our "
        "quotes, so inside the recorded spread the fitted curve is an extrapolation that no replay can confirm. "
        "Data: arrays/base.npz, replay/path.",
    )
    text += _figure(
        run, "markouts", figures.markouts(run.metrics["markouts"]), "Mean gain per lot against the later mid."
    )
    return text


def _fit(run: Run) -> str:
    if "fit" not in run.metrics:
        return ""
    fit, truth = run.metrics["fit"], run.metrics["truth"] or {}
    text = ""
    for side in ("bid", "ask"):
        planted = truth.get(side, {})
        rows = []
        for name, row in fit[side]["coefficients"].items():
            error, clustered = row["standard_error"], row["clustered_error"]
            rows.append([name, row["value"], error, clustered, number(planted[name]) if name in planted else ""])
        own, error = fit[side]["own_decay"], fit[side]["own_decay_error"]
        rows.append(["decay with depth, this side", own, error, "", number(truth["decay"]) if truth else ""])
        rows.append(["decay with depth, used", fit[side]["decay"], "", "", ""])
        text += _table([f"{side} fills", "estimate", "std. error", "clustered by minute", "planted"], rows)
        distance, critical = fit[side]["ks_distance"], fit[side]["ks_critical"]
        verdict = "consistent with the data" if distance < critical else "rejected by the data"
        text += _note(
            f"{number(fit[side]['n_orders'])} orders; Kolmogorov-Smirnov distance of the residuals {number(distance)}, "
            f"5 % critical value {number(critical)}: {verdict}."
        )
    text += _note("Coefficients whose covariate never moved keep their prior (value 0, large error): not identified.")
    caption = "Time-rescaling residuals of the training part. Data: arrays/base.npz, fit/*/goodness."
    return text + _figure(run, "residuals", figures.residuals(run.arrays), caption)


def _sweep(run: Run) -> str:
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
    text = _note(f"{total['rows']:,} rows, {total['failed']} failed. Data: parts/.")
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
        text += _note(f"Figures show {len(run.rows):,} points{mean}.")
    words = [name for name in run.axes if name not in numeric]
    parts = rows.partition_by(words, maintain_order=True)[:MOST_PARTS] if words else [rows]
    for i, part in enumerate(parts):
        if numeric and len(part) > 1:
            caption = ", ".join(f"{name} = {part[name][0]}" for name in words)
            text += _figure(run, f"sweep-{i}" if words else "sweep", figures.sweep(part, numeric, shown), caption)
    for mean, risk in FRONTIERS:
        if {mean, risk} <= set(rows.columns):
            caption = f"Every point by {risk} and {mean}; joined: those that no other beats in both."
            text += _figure(run, f"frontier-{risk}", figures.frontier(rows, mean, risk), caption)
    best = run.all_rows.filter(pl.col("ok")).top_k(5, by=shown[0]).collect().sort(shown[0], descending=True)
    columns = [*run.axes, *[name for name in best.columns if name not in (*run.axes, "config_id", "ok", "reason")]]
    return (
        text + _note(f"Largest {shown[0]}:") + _table(columns, [list(row) for row in best.select(columns).iter_rows()])
    )


def _sensitivities(run: Run) -> str:
    text = _gradient(run)
    told = run.metrics.get("sensitivities", {})
    disagree = 0
    for metric, by_path in told.items():
        rows = []
        for path, row in by_path.items():
            disagree += row["agree"] is False
            numbers = [row[name] for name in ("at", "autodiff", "finite_difference", "relative_error")]
            rows.append([path, *numbers, VERDICTS[row["agree"]]])
        text += _table([f"d {metric} / d", "at", "autodiff", "finite difference", "relative error", ""], rows)
    if disagree:
        text += _note(
            "Where they disagree the metric jumps with the parameter, as counts of replayed fills do: the derivative between jumps says nothing "
            "about them, and a finite difference is one draw."
        )
    shown = {metric: rows for metric, rows in told.items() if any(row["autodiff"] for row in rows.values())}
    if shown:
        first = dict(list(shown.items())[:MOST_PARTS])
        text += _figure(
            run, "tornado", figures.tornado(first), "Change for +1 % of each parameter; of one that is 0, for +0.01."
        )
    if "sensitivity/tangent/surface/value" in run.arrays:
        caption = (
            "Change for +1 % of each parameter, over inventory. Data: arrays/base.npz, sensitivity/tangent/surface."
        )
        text += _figure(
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
    return _table(header, rows) + _figure(run, "sensitivities", figures.sensitivities(run.metrics["gradient"]), "")


def _baseline(run: Run) -> str:
    if "replay_baseline" not in run.metrics:
        return ""
    names = ("pnl", "bid_fills", "ask_fills", "max_inventory", "max_drawdown", "inventory")
    rows = [
        [label, *[run.metrics[part][name] for name in names]]
        for label, part in (("solved quotes", "replay"), ("symmetric quotes", "replay_baseline"))
    ]
    text = _table(["replayed on the test part", *[name.replace("_", " ") for name in names]], rows)
    gain = run.metrics["simulation"]["gain"]
    text += _note(
        f"Simulated on common random numbers: {number(gain['mean'])} &plusmn; {number(gain['error'])} price lot more per episode "
        "than quoting the same half spread whatever the inventory. One replayed session is one sample."
    )
    return text + _figure(run, "replay", figures.replay(run.arrays), "Data: arrays/base.npz, replay/path.")


SECTIONS: list[tuple[str, Callable[[Run], str]]] = [
    ("What was run", _summary),
    ("Results", _tables),
    ("Trading", _trading),
    ("Profit and loss", _profit),
    ("Where it comes from", _attribution),
    ("Inventory", _inventory),
    ("Quotes", _quotes),
    ("Value function", _value),
    ("Fills", _fills),
    ("Calibration", _fit),
    ("Sweep", _sweep),
    ("Sensitivities", _sensitivities),
    ("Against symmetric quotes", _baseline),
]
