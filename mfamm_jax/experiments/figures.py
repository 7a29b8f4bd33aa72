"""Figures of the report, each from the arrays of a run folder to an SVG string."""

import io
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl

mpl.use("svg")
import matplotlib.pyplot as plt

STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.fonttype": "none",
    "svg.hashsalt": "mfamm",  # equal figures, equal bytes
    "legend.frameon": False,
}
BID, ASK, OURS, BASELINE = "tab:blue", "tab:red", "tab:green", "tab:gray"
Arrays = dict[str, np.ndarray]
MAX_POINTS = 1500


def figure_axes(n: int = 1, height: float = 3.2, rows: int = 1, one_clock: bool = True) -> tuple[Any, Any]:
    """Panels side by side, or below one another, by default on one time axis."""
    plt.rcParams.update(STYLE)
    size = {"figsize": (8.5, height), "squeeze": False, "layout": "constrained"}
    return plt.subplots(rows, n, sharex=rows > 1 and one_clock, **size)


def svg_text(figure: Any) -> str:
    """The figure as SVG."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def _heat(figure: Any, axis: Any, x: np.ndarray, y: np.ndarray, values: np.ndarray, label: str) -> None:
    mesh = axis.pcolormesh(x, y, values, shading="nearest", cmap="viridis")
    mesh.set_rasterized(True)
    axis.grid(False)
    figure.colorbar(mesh, ax=axis, label=label)


def quotes(arrays: Arrays) -> str:
    """Depths against inventory at three times, the closed form dashed, and the reservation price."""
    figure, axes = figure_axes(2)
    left, right = axes[0]
    q, rows = arrays["inventory"], len(arrays["time_left"])
    for side, colour in (("bid", BID), ("ask", ASK)):
        depth = arrays[f"{side}_depth"]
        for row, alpha in {rows - 1: 1.0, min(3, rows - 1): 0.55, min(1, rows - 1): 0.3}.items():
            alpha = 1.0 if row == rows - 1 else alpha
            label = f"{side}, {arrays['time_left'][row]:.3g} s left"
            left.plot(q, np.where(np.isfinite(depth[row]), depth[row], np.nan), color=colour, alpha=alpha, label=label)
        left.plot(q, arrays[f"closed_form_{side}_depth"], "--", color=colour, lw=0.8)
    left.set(xlabel="inventory [lots]", ylabel="depth from the mid [price]")
    left.legend(fontsize=7)
    shift = 0.5 * (arrays["ask_depth"][-1] - arrays["bid_depth"][-1])
    closed = 0.5 * (arrays["closed_form_ask_depth"] - arrays["closed_form_bid_depth"])
    right.plot(q, np.where(np.isfinite(shift), shift, np.nan), "o-", ms=3, color="black", label="solved")
    right.plot(q, closed, "--", color="black", lw=0.8, label="closed form")
    right.set(xlabel="inventory [lots]", ylabel="reservation price - mid [price]")
    right.legend()
    return svg_text(figure)


def value(arrays: Arrays) -> str:
    """Value relative to zero inventory, and the difference of two numerical methods where both were run."""
    middle = arrays["inventory"].size // 2
    if len(arrays["time_left"]) < 3:
        figure, axes = figure_axes()
        axes[0, 0].plot(
            arrays["inventory"], arrays["value"][-1] - arrays["value"][-1, middle], "o-", ms=3, color="black"
        )
        axes[0, 0].set(xlabel="inventory [lots]", ylabel="H(q) - H(0) [price lot]")
        return svg_text(figure)
    panels = [(arrays["value"] - arrays["value"][:, [middle]], "H(q) - H(0) [price lot]")]
    if "value_difference" in arrays:
        panels.append((arrays["value_difference"], "difference to the second method"))
    figure, axes = figure_axes(len(panels))
    for axis, (table, label) in zip(axes[0], panels):
        _heat(figure, axis, arrays["time_left"], arrays["inventory"], table.T, label)
        axis.set(xlabel="time left [s]", ylabel="inventory [lots]")
    return svg_text(figure)


def profit(arrays: Arrays) -> str:
    """Histograms of the simulated P&L."""
    figure, axes = figure_axes()
    axis = axes[0, 0]
    ours, baseline = arrays["simulation/pnl"], arrays["simulation/baseline_pnl"]
    bins = np.histogram_bin_edges(np.concatenate([ours, baseline]), bins=60)
    axis.hist(baseline, bins, color=BASELINE, alpha=0.5, label="symmetric quotes")
    axis.hist(ours, bins, color=OURS, alpha=0.6, label="solved quotes")
    axis.set(xlabel="P&L of an episode [price lot]", ylabel="episodes")
    axis.legend()
    return svg_text(figure)


def inventory(arrays: Arrays) -> str:
    """Quantile fan of the simulated inventory with example paths."""
    figure, axes = figure_axes()
    axis = axes[0, 0]
    fan = arrays["simulation/inventory_quantiles"]
    t = float(arrays["simulation/horizon"]) * np.arange(1, fan.shape[1] + 1) / fan.shape[1]
    keep = thin(len(t), 300)
    for path in arrays["simulation/example_inventory"]:
        axis.step(t[keep], path[keep], color="black", lw=0.3, alpha=0.35)
    axis.fill_between(t[keep], fan[0, keep], fan[4, keep], color=OURS, alpha=0.2, label="5-95 %", step="post")
    axis.fill_between(t[keep], fan[1, keep], fan[3, keep], color=OURS, alpha=0.35, label="25-75 %", step="post")
    axis.plot(t[keep], fan[2, keep], color=OURS, label="median")
    axis.set(xlabel="time [s]", ylabel="inventory [lots]")
    axis.legend(ncols=3)
    return svg_text(figure)


def thin(n: int, most: int = MAX_POINTS) -> np.ndarray:
    """Rows to draw, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))


def replay(arrays: Arrays) -> str:
    """Value and inventory over the replayed part."""
    figure, axes = figure_axes(2)
    minutes = arrays["replay_seconds"] / 60
    keep = thin(len(minutes))
    for name, colour, label in (("replay", OURS, "solved"), ("replay_baseline", BASELINE, "symmetric")):
        for axis, what in zip(axes[0], ("value", "inventory")):
            axis.step(minutes[keep], arrays[f"{name}/path/{what}"][keep], color=colour, lw=1, label=label, where="post")
    axes[0, 0].set(xlabel="time in the test part [min]", ylabel="cash + inventory at the mid [price lot]")
    axes[0, 1].set(xlabel="time in the test part [min]", ylabel="inventory [lots]")
    axes[0, 0].legend()
    return svg_text(figure)


def fill_rates(arrays: Arrays) -> str:
    """Realised fills per second of resting order, by depth, with 95 % intervals, against the fitted curve."""
    figure, axes = figure_axes(2)
    seconds = np.diff(arrays["replay_seconds"])
    tick, mid = float(arrays["tick_size"]), arrays["replay/path/mid"][:-1]
    for axis, column, side, sign, colour in ((axes[0, 0], 0, "bid", 1, BID), (axes[0, 1], 1, "ask", -1, ASK)):
        resting = arrays["replay/path/order_size"][:-1, column] > 0
        depth = sign * (mid - arrays["replay/path/order_ticks"][:-1, column] * tick)[resting]
        hits = (arrays["replay/path/fill"][1:, column] > 0)[resting]
        if hits.sum() > 0:
            edges = np.unique(np.quantile(depth[hits], np.linspace(0, 1, 7)))
            edges[-1] += 1e-9
            exposure = np.histogram(depth, edges, weights=seconds[resting])[0]
            count = np.histogram(depth, edges, weights=hits.astype(float))[0]
            shown = exposure > 0
            centre = 0.5 * (edges[1:] + edges[:-1])[shown]
            rate, error = (
                (count / np.maximum(exposure, 1e-9))[shown],
                (np.sqrt(count) / np.maximum(exposure, 1e-9))[shown],
            )
            axis.errorbar(centre, rate, 1.96 * error, fmt="o", ms=4, color=colour, label="replayed fills")
            grid = np.linspace(min(0.0, edges[0]), edges[-1], 100)
            model = float(arrays[f"{side}_intensity"]) * np.exp(-float(arrays[f"{side}_decay"]) * grid)
            axis.plot(grid, model, color="black", label=r"fitted $\lambda(\delta)$, average state")
            axis.set(xlabel=f"{side} depth [price]", ylabel="fills per second", ylim=(0, None))
            axis.legend()
    return svg_text(figure)


def residuals(arrays: Arrays) -> str:
    """QQ plot of the time-rescaling residuals."""
    figure, axes = figure_axes(2)
    for axis, side, colour in ((axes[0, 0], "bid", BID), (axes[0, 1], "ask", ASK)):
        prefix = f"fit/{side}/goodness"
        n = int(arrays[f"{prefix}/n_residuals"])
        x, y = arrays[f"{prefix}/theoretical"][:n], arrays[f"{prefix}/empirical"][:n]
        keep = thin(n)
        axis.plot(x[keep], y[keep], ".", ms=3, color=colour)
        axis.plot([0, x.max()], [0, x.max()], color="black", lw=0.8)
        axis.set(xlabel="standard exponential", ylabel="rescaled interarrival", title=f"{side} side")
    return svg_text(figure)


def markouts(values: dict[str, Any]) -> str:
    """Mean gain per lot of our fills some time later."""
    figure, axes = figure_axes(height=2.4)
    heights = [float(x) for x in values.values()]
    axes[0, 0].bar(list(values), heights, color=[OURS if x >= 0 else ASK for x in heights], width=0.5)
    axes[0, 0].axhline(0, color="black", lw=0.8)
    axes[0, 0].set(xlabel="time after the fill", ylabel="gain per lot [price]")
    return svg_text(figure)


def sensitivities(gradient: dict[str, dict[str, Any]]) -> str:
    """Change of the expected P&L for one percent more of each parameter."""
    figure, axes = figure_axes(height=2.2)
    names = list(gradient)
    change = [float(gradient[n]["autodiff"]) * float(gradient[n]["at"]) * 0.01 for n in names]
    difference = [float(gradient[n]["finite_difference"]) * float(gradient[n]["at"]) * 0.01 for n in names]
    axes[0, 0].barh(names, change, color=[OURS if x >= 0 else ASK for x in change], height=0.5)
    axes[0, 0].plot(difference, names, "k|", ms=14, label="finite difference")
    axes[0, 0].axvline(0, color="black", lw=0.8)
    axes[0, 0].set(xlabel="change of E[P&L] for +1 % [price lot]")
    axes[0, 0].legend()
    return svg_text(figure)


def tornado(told: dict[str, dict[str, dict[str, float]]]) -> str:
    """Bars of what +1 % of each parameter does to each metric, the longest on top; ticks mark finite differences."""
    n = len(told)
    rows = -(-n // 2)
    figure, axes = figure_axes(min(n, 2), 0.6 + 1.7 * rows, rows, one_clock=False)
    for axis, (metric, by_path) in zip(axes.ravel(), told.items(), strict=False):
        share = {path: 0.01 * (row["at"] if row["at"] else 1.0) for path, row in by_path.items()}
        order = sorted(by_path, key=lambda path: abs(by_path[path]["autodiff"] * share[path]))
        change = [by_path[path]["autodiff"] * share[path] for path in order]
        other = [by_path[path]["finite_difference"] * share[path] for path in order]
        labels = [path.removeprefix("parameters.") for path in order]
        axis.barh(labels, change, color=[OURS if x >= 0 else ASK for x in change], height=0.55)
        axis.plot(other, labels, "k|", ms=12)
        axis.axvline(0, color="black", lw=0.8)
        axis.tick_params(labelsize=7)
        axis.locator_params(axis="x", nbins=5)
        axis.set_title(metric, fontsize=8)
    for axis in axes.ravel()[n:]:
        axis.set_visible(False)
    return svg_text(figure)


def surface_sensitivities(arrays: Arrays, names: list[str]) -> str:
    """Value and quotes over inventory: what +1 % of each parameter changes."""
    figure, axes = figure_axes(3, 3.2)
    inventory = arrays["sensitivity/value/surface/inventory"]
    for axis, curve in zip(axes[0], ("value", "bid_depth", "ask_depth")):
        for name, change in zip(names, 0.01 * arrays[f"sensitivity/tangent/surface/{curve}"]):
            axis.plot(inventory, change, "o-", ms=2, lw=1, label=name.split(".")[-1])
        axis.axhline(0, color="black", lw=0.8)
        axis.set(xlabel="inventory [lots]", title=curve.replace("_", " "))
    axes[0, 0].legend(fontsize=6)
    return svg_text(figure)


def _scale(axis: Any, which: str, values: np.ndarray) -> None:
    positive = values.min() > 0 and values.max() / values.min() > 20
    getattr(axis, f"set_{which}scale")("log" if positive else "linear")


def sweep(rows: pl.DataFrame, names: list[str], metrics: list[str]) -> str:
    """Heat maps over two parameters, lines over one, parallel coordinates over more beside a map of the two that matter most."""
    if len(names) > 2 or len(rows) != np.prod([rows[name].n_unique() for name in names]):
        return _drawn(rows, names, metrics[0])
    figure, axes = figure_axes(len(metrics))
    for axis, metric in zip(axes[0], metrics):
        table = rows.sort(names)
        x = np.unique(table[names[0]].to_numpy())
        values = table[metric].to_numpy()
        if len(names) == 1:
            axis.plot(table[names[0]], values, "o-", ms=3, color=OURS)
            axis.set(xlabel=names[0], ylabel=metric)
        else:
            y = np.unique(table[names[1]].to_numpy())
            _heat(figure, axis, x, y, values.reshape(len(x), len(y)).T, metric)
            axis.set(xlabel=names[0], ylabel=names[1])
            _scale(axis, "y", y)
        _scale(axis, "x", x)
    return svg_text(figure)


def _drawn(rows: pl.DataFrame, names: list[str], metric: str) -> str:
    """Points that are no full grid of two parameters."""
    figure, axes = figure_axes(2 if len(names) > 1 else 1, 3.6)
    if len(names) == 1:
        axes[0, 0].plot(rows[names[0]], rows[metric], ".", color=OURS, ms=3)
        axes[0, 0].set(xlabel=names[0], ylabel=metric)
        return svg_text(figure)
    _parallel(axes[0, 0], rows, names, metric)
    ranks = {name: abs(np.nan_to_num(_correlation(rows[name], rows[metric]))) for name in names}
    x, y = sorted(names, key=lambda name: -ranks[name])[:2]
    _means(figure, axes[0, 1], rows, x, y, metric)
    return svg_text(figure)


def _correlation(x: pl.Series, y: pl.Series) -> float:
    """Of ranks."""
    pair = np.stack([x.rank().to_numpy(), y.rank().to_numpy()])
    return float(np.corrcoef(pair)[0, 1]) if np.all(np.ptp(pair, axis=1) > 0) else 0.0


def _means(figure: Any, axis: Any, rows: pl.DataFrame, x: str, y: str, metric: str) -> None:
    """Heat map of the mean in boxes of two parameters, whatever the others are."""
    edges = []
    for name, which in ((x, "x"), (y, "y")):
        values = rows[name].to_numpy()
        _scale(axis, which, values)
        n = min(24, rows[name].n_unique() + 1)
        is_log = getattr(axis, f"get_{which}scale")() == "log"
        edges.append((np.geomspace if is_log else np.linspace)(values.min(), values.max(), n))
    columns = [rows[name].to_numpy() for name in (x, y)]
    total, _, _ = np.histogram2d(*columns, bins=edges, weights=rows[metric].to_numpy())
    count, _, _ = np.histogram2d(*columns, bins=edges)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    mesh = axis.pcolormesh(*edges, mean.T, cmap="viridis")
    mesh.set_rasterized(True)
    axis.grid(False)
    axis.set(xlabel=x, ylabel=y)
    figure.colorbar(mesh, ax=axis, label=f"mean {metric}")


def _parallel(axis: Any, rows: pl.DataFrame, names: list[str], metric: str) -> None:
    """One line per row; the colour is the metric."""
    rows = rows.sort(metric)[thin(len(rows), 400)]
    columns = [rows[name].to_numpy() for name in (*names, metric)]
    scaled = [(c - c.min()) / max(np.ptp(c), 1e-300) for c in columns]
    for line, shade in zip(np.array(scaled).T, scaled[-1]):
        axis.plot(line, color=plt.get_cmap("viridis")(shade), lw=0.6, alpha=0.7)
    labels = [name.split(".")[-1].replace("_", "\n") for name in (*names, metric)]
    axis.set_xticks(range(len(columns)), labels, fontsize=7)
    axis.set_yticks([0, 1], ["smallest", "largest"])


def frontier(rows: pl.DataFrame, metric: str, risk: str) -> str:
    """Every row by risk and mean, and the rows that no other beats in both."""
    figure, axes = figure_axes()
    axis = axes[0, 0]
    table = rows.filter(pl.col("ok")).sort(risk)
    x, y = table[risk].to_numpy(), table[metric].to_numpy()
    best = y >= np.maximum.accumulate(y)
    some = thin(len(x), 3000)
    axis.plot(x[some], y[some], ".", color=BASELINE, ms=4, label="points")
    axis.plot(x[best], y[best], "o-", color=OURS, ms=4, label="not beaten in both")
    axis.set(xlabel=risk, ylabel=metric)
    axis.legend()
    return svg_text(figure)


BOT_COLOURS = ("tab:purple", "tab:orange", "tab:brown", "tab:blue", "tab:green")


def _bots(arrays: Arrays) -> list[str]:
    return [name.split("/")[1] for name in arrays if name.startswith("quotes/") and name.endswith("/inventory")]


def bot_quotes(arrays: Arrays) -> str:
    """Bid and ask of every model over the share of base in the wallet; the second panel without those that dwarf the rest."""
    figure, axes = figure_axes(2, 3.6)
    share, models = arrays["quotes/share"], _bots(arrays)
    widest = {m: np.nanmax(np.abs(arrays[f"quotes/{m}/inventory"][:, [0, 2]])) for m in models}
    near = 3 * min(widest.values())
    for axis, shown in ((axes[0, 0], models), (axes[0, 1], [m for m in models if widest[m] <= near])):
        for model in shown:
            values = arrays[f"quotes/{model}/inventory"]
            colour = BOT_COLOURS[models.index(model) % len(BOT_COLOURS)]
            axis.plot(share, values[:, 2], color=colour, label=model)
            axis.plot(share, values[:, 0], color=colour)
            axis.plot(share, values[:, 1], ":", color=colour, lw=0.8)
        axis.set(xlabel="share of base in the wallet", ylabel="price - mid")
        axis.axhline(0, color="black", lw=0.5)
    axes[0, 0].legend(fontsize=7)
    axes[0, 1].set_title("the narrow ones", fontsize=9)
    return svg_text(figure)


def bot_profits(arrays: Arrays) -> str:
    """Distribution of the P&L per path: quartiles, whiskers at 5 and 95 %."""
    figure, axes = figure_axes(1, 3.2)
    models = _bots(arrays)
    data = [arrays[f"paths/{model}/pnl"] for model in models]
    boxes = axes[0, 0].boxplot(data, tick_labels=models, whis=(5, 95), showfliers=False, patch_artist=True)
    for box, colour in zip(boxes["boxes"], BOT_COLOURS, strict=False):
        box.set(facecolor=colour, alpha=0.5)
    axes[0, 0].axhline(0, color="black", lw=0.5)
    axes[0, 0].set(ylabel="P&L beyond holding [quote currency]")
    return svg_text(figure)
