"""One self-contained HTML page per run, made from its folder alone."""

import os
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import jinja2
import polars as pl

from mfamm_jax.experiments import (
    adversarial_figures,
    allocation_figures,
    calibration_figures,
    cointegration_figures,
    figures,
    fpga_figures,
    imbalance_figures,
    impact_figures,
    mfamm_figures,
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
from mfamm_jax.experiments.report_parts import MOST_PARTS, Run, html_figure, html_note, html_table, number
from mfamm_jax.experiments.report_sweep import sensitivities_section, sweep_section

PAGE = jinja2.Template(
    """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>{{ manifest.name }}</title><style>
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1c2330}
h1{margin-bottom:.2rem}h2{margin-top:2.2rem;border-bottom:1px solid #dde}.meta{color:#556}
table{border-collapse:collapse;margin:.6rem 0;font-variant-numeric:tabular-nums}
td,th{padding:.15rem .8rem;border-bottom:1px solid #e6e8ee;text-align:right}td{white-space:nowrap}td.text{white-space:normal;text-align:left;min-width:24em}
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


COARSE = 0.5  # expected fills per step


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


def _summary(run: Run) -> str:
    simple = [[name, value] for name, value in run.metrics.items() if not isinstance(value, dict | list | None)]
    data = run.manifest.get("data")
    text = ""
    if data and "facts" in run.metrics:
        facts = run.metrics["facts"]
        files = ", ".join(f"{name} (sha256 {digest[:12]})" for name, digest in data["source"])
        text = f"<p>{data['session']}: {files or 'generated'}. Clock: {data['clock']}.</p>" + "".join(
            html_note(note) for note in data["notes"]
        )
        names = ("n_events", "duration_s", "marketable_orders", "spread_ticks_time_mean", "spread_ticks_event_mean")
        names = tuple(name for name in names if name in facts)
        text += html_table([name.replace("_", " ") for name in names], [[facts[name] for name in names]])
        if "fit" in run.metrics:
            text += html_note("Fitted on the first half of the session, replayed on the second.")
    return text + html_table(["metric", "value"], simple) + _times(run)


def _times(run: Run) -> str:
    """Where the time went."""
    names = ("total", "trace", "compile", "run")
    rows = [
        [name, *[times.get(part, "") for part in names], _cached(times)]
        for name, times in run.manifest["stages"].items()
    ]
    for i, times in enumerate(run.manifest.get("sweep", {}).get("compile_groups", [])[:MOST_PARTS]):
        rows.append([f"sweep, group {i}", "", *[times.get(part, "") for part in names[1:]], _cached(times)])
    return html_table(["seconds", *names, "compiled program"], rows)


def _cached(times: dict[str, Any]) -> str:
    return {True: "from the cache", False: "new", None: ""}[times.get("cached")]


def _tables(run: Run) -> str:
    text = ""
    for table in run.metrics.get("tables", []):
        text += f"<h3>{escape(table['title'])}</h3>" + html_table(table["header"], table["rows"])
        text += "".join(html_note(escape(note)) for note in table["notes"])
    if "fit/metaorder" in run.arrays:
        caption = "Left: decay of impact. Middle: impact of a size. Right: trading at the mean size for 50 steps. Data: arrays/base.npz, fit."
        text += html_figure(run, "impact", impact_figures.kernel_and_curve(run.arrays, run.metrics), caption)
    if "forms/exact diagonal/sampled" in run.arrays:
        caption = "Left: mean cost of one layer by its angles, exact diagonal. Middle: costs of the sets measured. Right: the split. Data: arrays/base.npz."
        text += html_figure(run, "routing", routing_figures.routing(run.arrays, run.metrics), caption)
    if "tree_share" in run.arrays:
        caption = "Left: bands reach from the worst to the best graph. Right: first graph. Data: arrays/base.npz."
        text += html_figure(run, "maxcut", routing_figures.maxcut(run.arrays, run.metrics), caption)
    if "pro_rata/plan" in run.arrays:
        caption = "Left: when each asset is traded. Middle: what is left of the basket. Right: costs by regularization. Data: arrays/base.npz."
        text += html_figure(run, "execution", transport_figures.execution(run.arrays, run.metrics), caption)
    if "linear/trades" in run.arrays:
        caption = "Left: what is left of the order. Middle: an opponent who knows the schedule, and one that learned it. Right: programmes under the "
        caption += "given impact. Data: arrays/base.npz, linear, opponents and search."
        text += html_figure(
            run, "schedules", schedule_figures.schedules_and_opponents(run.arrays, run.metrics), caption
        )
    if "probe/lean" in run.arrays:
        caption = "Left: expected P&amp;L that each attack takes from each policy. Middle: which way the opponents push the mid. Right: P&amp;L through the "
        caption += "worst days. Data: arrays/base.npz, markets, opponents and days."
        text += html_figure(run, "attacks", adversarial_figures.attacks(run.arrays, run.metrics), caption)
    if "draw/threshold" in run.arrays:
        caption = "Left: expected P&amp;L against the probability of a breach, with 95 % intervals. Middle: breaches by step. Right: what "
        caption += "the searches tried. Data: arrays/base.npz, judge, draw and search."
        text += html_figure(run, "frontier", risk_figures.frontier(run.arrays, run.metrics), caption)
    if "estimate/curve_flow" in run.arrays:
        caption = "Left: how often losses are larger. Middle: CVaR by level. Right: the last forecasts. Data: arrays/base.npz, estimate and forecast."
        text += html_figure(run, "tail", tail_figures.tail_and_forecasts(run.arrays, run.metrics), caption)
    if "calibration/residuals" in run.arrays:
        caption = "Data: arrays/base.npz, calibration."
        text += html_figure(run, "calibration", calibration_figures.fit_and_residuals(run.arrays), caption)
    if "search/judge/objective" in run.arrays:
        names = [row[0] for row in run.metrics["tables"][0]["rows"]]
        text += html_figure(
            run, "searches", calibration_figures.searches(run.arrays, names), "Data: arrays/base.npz, search."
        )
    if "gates/judge/objective" in run.arrays:
        names = [row[0] for row in run.metrics["tables"][0]["rows"]]
        text += html_figure(run, "gates", calibration_figures.gates(run.arrays, names), "Data: arrays/base.npz, gates.")
    if "mfamm/ablation/totals" in run.arrays:
        caption = "Left: one point a session, the mean as a bar. Right: mean of all sessions, thin lines single ones. Data: arrays/base.npz, mfamm/ablation."
        text += html_figure(run, "ablation", mfamm_figures.ablation(run.arrays), caption)
        caption = "First test session with every component. Data: arrays/base.npz, mfamm/trade; every order in logs/."
        text += html_figure(run, "session", mfamm_figures.session(run.arrays), caption)
    if "kernel_errors" in run.arrays:
        caption = "P&amp;L of both, and the kernel's errors at random states. Data: arrays/base.npz, values and kernel_errors."
        text += html_figure(run, "kernel", fpga_figures.profit_and_errors(run.arrays, run.metrics), caption)
    if "judge/points" in run.arrays:
        caption = "Left: rewards while learning. Right: where the ball network puts the strategies over a judging path. Data: arrays/base.npz, learn and judge."
        text += html_figure(run, "allocation", allocation_figures.allocation(run.arrays, run.metrics), caption)
        caption = "Shares of capital over the first judging path. Data: arrays/base.npz, judge/shares."
        text += html_figure(run, "shares", allocation_figures.shares(run.arrays, run.metrics), caption)
    if "walk/used" in run.arrays:
        caption = "Left: how much less the quietest combination moves than the liveliest. Middle: its residual, with mean and deviation "
        caption += "of the window before. Right: profit. Data: arrays/base.npz, estimate, walk and look_ahead."
        text += html_figure(
            run, "relation", cointegration_figures.relation_and_trading(run.arrays, run.metrics), caption
        )
    if "gain/total" in run.arrays:
        caption = "Left: P&amp;L of the test block. Right: depths without inventory at the reference volatility, one point a regime. "
        caption += "Data: arrays/base.npz, policies and regimes."
        text += html_figure(run, "signals", signal_figures.gains_and_quotes(run.arrays, run.metrics), caption)
    if "imbalance/history" in run.arrays:
        text += html_figure(
            run, "training", imbalance_figures.training(run.arrays), "Data: arrays/base.npz, imbalance/history."
        )
        caption = "Test block. Left: embeddings on their two main axes. Right: calibrated probability of up against what happened, "
        caption += "with 95 % intervals that take samples as independent. Data: arrays/base.npz, imbalance."
        text += html_figure(run, "embedding", imbalance_figures.embedding_and_reliability(run.arrays), caption)
    if "effect/depths" in run.arrays:
        names, gain = run.metrics["features"]["used"][1:], run.metrics["gain"]
        caption = (
            "Trees (solid) and log-linear rate (dashed) at quantiles of a covariate. Data: arrays/base.npz, effect."
        )
        text += html_figure(run, "effects", tree_figures.effects(run.arrays, names, gain), caption)
        caption = (
            "Last block: fills, trees (solid), log-linear (dashed); quotes. Data: arrays/base.npz, judge, control."
        )
        text += html_figure(run, "fills_and_quotes", tree_figures.fills_and_quotes(run.arrays), caption)
    if "quotes/share" in run.arrays:
        caption = "Bid, ask and (dotted) reservation price at the start of a cycle. Data: arrays/base.npz, quotes."
        text += html_figure(run, "bot_quotes", figures.bot_quotes(run.arrays), caption)
        caption = "P&amp;L per path: quartiles, whiskers at 5 and 95 %. Data: arrays/base.npz, paths."
        text += html_figure(run, "bot_profits", figures.bot_profits(run.arrays), caption)
    return text


def _trading(run: Run) -> str:
    if "trading/value" not in run.arrays:
        return ""
    fills, orders = (pl.read_parquet(run.root / "logs" / f"{name}.parquet") for name in ("fills", "orders"))
    start = run.metrics["replayed"]["first_ns"]
    fills = fills.with_columns(seconds=(pl.col("time_ns") - start) / 1e9)
    text = html_figure(
        run, "trading", replay_figures.trading(run.arrays, fills), "Data: arrays/base.npz, logs/fills.parquet."
    )
    text += html_figure(
        run, "close_up", replay_figures.close_up(run.arrays, fills), "Resting orders where fills are most frequent."
    )
    return text + html_figure(run, "queue", replay_figures.queue(orders), "Data: logs/orders.parquet.")


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
    text = html_table(["simulated", "mean", "std", "Sharpe", "VaR", "CVaR [95 % interval]", "mean drawdown"], rows)
    text += html_note(
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
    text += html_table(["share of the horizon", "mean", "std", "Sharpe"], [list(row) for row in steps])
    return text + html_figure(run, "profit", figures.profit(run.arrays), "Data: arrays/base.npz, simulation/pnl.")


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
    return html_table(header, rows) + html_note(
        "Capture + revaluation - fees = P&amp;L; the residual is rounding error."
    )


def _inventory(run: Run) -> str:
    if "simulation/inventory_quantiles" not in run.arrays:
        return ""
    rows = []
    for label, name in (("solved quotes", "summary"), ("symmetric quotes", "baseline")):
        part = run.metrics["simulation"][name]["inventory"]
        rows.append([label, part["mean"], part["std"], part["largest"], part["share_at_limit"], part["final_std"]])
    text = html_table(["lots", "mean", "std", "largest", "share of time at the limit", "final std"], rows)
    caption = "Simulated inventory with 20 paths. Data: arrays/base.npz, simulation/inventory_quantiles."
    return text + html_figure(run, "inventory", figures.inventory(run.arrays), caption)


def _quotes(run: Run) -> str:
    if "bid_depth" not in run.arrays:
        return ""
    caption = "Dashed: stationary closed form (GL-3). Data: arrays/base.npz, bid_depth, ask_depth."
    return html_figure(run, "quotes", figures.quotes(run.arrays), caption)


def _value(run: Run) -> str:
    if "value" not in run.arrays:
        return ""
    text = ""
    if "scheme_difference" in run.metrics:
        text = html_note(
            "Largest difference between the two numerical methods: "
            f"{number(run.metrics['scheme_difference'])} price lot; largest distance of the quotes from the closed form "
            f"for half the inventory limit: {number(run.metrics['closed_form_difference'])} price."
        )
    return text + html_figure(
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
    text = html_table(["replayed", "lots", "fills", "orders", "fills per order", "share of time quoted"], rows)
    text += html_note(
        f"{replayed['rejected']} orders refused; largest inventory {number(replayed['max_inventory'])} lots."
    )
    text += html_figure(
        run,
        "fill_rates",
        figures.fill_rates(run.arrays),
        "Replayed fills with 95 % intervals against the fitted intensity in the average state. The book never saw our "
        "quotes, so inside the recorded spread the fitted curve is an extrapolation that no replay can confirm. "
        "Data: arrays/base.npz, replay/path.",
    )
    text += html_figure(
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
        text += html_table([f"{side} fills", "estimate", "std. error", "clustered by minute", "planted"], rows)
        distance, critical = fit[side]["ks_distance"], fit[side]["ks_critical"]
        verdict = "consistent with the data" if distance < critical else "rejected by the data"
        text += html_note(
            f"{number(fit[side]['n_orders'])} orders; Kolmogorov-Smirnov distance of the residuals {number(distance)}, "
            f"5 % critical value {number(critical)}: {verdict}."
        )
    text += html_note(
        "Coefficients whose covariate never moved keep their prior (value 0, large error): not identified."
    )
    caption = "Time-rescaling residuals of the training part. Data: arrays/base.npz, fit/*/goodness."
    return text + html_figure(run, "residuals", figures.residuals(run.arrays), caption)


def _baseline(run: Run) -> str:
    if "replay_baseline" not in run.metrics:
        return ""
    names = ("pnl", "bid_fills", "ask_fills", "max_inventory", "max_drawdown", "inventory")
    rows = [
        [label, *[run.metrics[part][name] for name in names]]
        for label, part in (("solved quotes", "replay"), ("symmetric quotes", "replay_baseline"))
    ]
    text = html_table(["replayed on the test part", *[name.replace("_", " ") for name in names]], rows)
    gain = run.metrics["simulation"]["gain"]
    text += html_note(
        f"Simulated on common random numbers: {number(gain['mean'])} &plusmn; {number(gain['error'])} price lot more per episode "
        "than quoting the same half spread whatever the inventory. One replayed session is one sample."
    )
    return text + html_figure(run, "replay", figures.replay(run.arrays), "Data: arrays/base.npz, replay/path.")


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
    ("Sweep", sweep_section),
    ("Sensitivities", sensitivities_section),
    ("Against symmetric quotes", _baseline),
]
