"""Tables of experiment `hummingbot`: the file, the estimators, the quotes, the earnings."""

from typing import Any

import numpy as np

from mfamm_jax.experiments.experiment import Arrays
from mfamm_jax.experiments.hummingbot_file import BotFile

MODELS = ("text", "hummingbot-2021", "hummingbot-2021-12", "hummingbot-2022", "hjb")
# Whose min_spread is a distance per side; the others' is a total.
PER_SIDE = ("text", "hummingbot-2021")
# Figures and tables: wallets from all money to all base, volatility factors, shares of the cycle left.
SHARES = np.linspace(0.05, 0.95, 37)
SHOWN_SHARES = (0.2, 0.4, 0.5, 0.6, 0.8)
VOLATILITY_FACTORS = (0.5, 1.0, 2.0)
TIMES_LEFT = (1.0, 0.5, 0.1)
HJB_ROWS = 50
MOST_LOTS = 500
# Windows and price levels of the comparison of estimators.
N_WINDOWS, N_LEVELS = 400, 256
# Settings that one generation or another lacks.
ASSUMED = (
    "max_spread",
    "inventory_risk_aversion",
    "vol_to_spread_multiplier",
    "volatility_sensibility",
    "risk_factor",
)


def beside_target(file: BotFile) -> float:
    """A wallet with too much base, but some money."""
    return min(file.target + 0.1, 0.5 * (1 + file.target))


def settings_table(experiment: Any, file: BotFile) -> dict[str, Any]:
    """The file as given, what has no effect, and what was assumed."""
    rows = [[key, str(value), file.without_effect.get(key, "")] for key, value in file.given.items()]
    notes = ["Rows with a remark have no effect on the comparison, for the reason given."]
    for name in ASSUMED:
        if getattr(file, name) is None:
            value = float(getattr(experiment.policy, name))
            notes.append(f"The file has no {name}: models that need it take policy.{name} = {value:g} of this config.")
    if file.min_spread:
        notes.append(
            "min_spread is a distance per side for the text and 2021 and a total since: halved or doubled between them."
        )
    else:
        smallest = float(experiment.policy.min_spread)
        notes.append(
            f"min_spread is 0: 2021, which divides by it, takes policy.min_spread = {smallest:g} of this config."
        )
    if file.closing_time is None:
        notes.append("The file has no closing time: the text and 2021 take the length of a path as their cycle.")
    elif file.closing_time < float(experiment.horizon):
        notes.append("A path is longer than the cycle: it begins anew, where a dated session would stop.")
    if file.n_levels > 1:
        notes.append(
            "hjb sends all levels of a side as one order; models without a distance between levels send them at one price."
        )
    lots = float(experiment.wallet.base + experiment.wallet.quote / experiment.world.mid) / (
        file.order_amount * file.n_levels
    )
    if lots > MOST_LOTS:
        notes.append(
            f"hjb is solved for {MOST_LOTS} lots either way and quotes one side only beyond; the wallet holds {lots:,.0f}."
        )
    shown = ", ".join(f"{m} {float(experiment.expected_volatility(m, file)):.4g}" for m in MODELS[:4])
    notes.append(
        f"Volatility as each model sees it, in price: {shown}. The text's is that of a whole cycle; 2021 takes the standard "
        "deviation of the buffered mids, the later ones the root mean square change per tick. The decay of the later two is the "
        "market's own."
    )
    title = f"The file: {file.compat}, {file.market}"
    return {"title": title, "header": ["key", "value", "remark"], "rows": rows, "notes": notes}


def estimates_table(experiment: Any, file: BotFile, found: Arrays) -> dict[str, Any]:
    """Bias and scatter of the bot's estimators and of ours."""
    world = experiment.world
    tick = float(world.volatility * np.sqrt(experiment.trial.time_step))
    window = float(file.n_buffered * experiment.trial.time_step)
    rows = []
    for label, name, truth in (
        ("volatility of 2021: standard deviation of the mids", "population", tick),
        ("volatility since: root mean square change", "tick", tick),
        ("ours: rolling, coarse returns dropped", "robust", float(world.volatility)),
        ("kappa of the bot: volumes by distance", "kappa", float(world.decay)),
        ("ours: likelihood of the distances", "decay", float(world.decay)),
        ("alpha of the bot", "alpha", float(world.intensity)),
        ("ours: orders per second and side", "rate", float(world.intensity)),
    ):
        x = np.asarray(found[name], float)
        x = x[np.isfinite(x)]
        mean, std = (float(x.mean()), float(x.std())) if x.size else (float("nan"), float("nan"))
        rows.append([label, truth, mean, std, f"{mean / truth - 1:+.1%}", f"{1 - x.size / N_WINDOWS:.1%}"])
    return {
        "title": f"Estimators over {N_WINDOWS} windows of {window:g} s",
        "header": ["estimator", "truth", "mean", "std", "bias", "no answer"],
        "rows": rows,
        "notes": [
            "The standard deviation of a random walk's levels grows with the window, by sqrt(n/6) over a step's: it is not a "
            "volatility per tick. The root mean square change divides n - 1 changes by n.",
            "kappa: least squares of what traded at each distance where anything did. Distances without a trade are left out, "
            "so the far end never falls below one order and the decay reads low; alpha is volume at the touch in a window of "
            "unstated length, not a rate.",
        ],
    }


def earned_row(model: str, own: dict[str, np.ndarray], base: dict[str, np.ndarray], compat: str) -> list[Any]:
    """P&L of a model and its difference to the file's own."""
    n = len(own["pnl"])
    difference = own["pnl"] - base["pnl"]
    half = 1.96 * difference.std(ddof=1) / np.sqrt(n)
    interval = "" if model == compat else f"[{difference.mean() - half:.4g}, {difference.mean() + half:.4g}]"
    error = own["pnl"].std(ddof=1) / np.sqrt(n)
    return [
        model,
        f"{own['pnl'].mean():.4g} +- {error:.2g}",
        float(own["pnl"].std(ddof=1)),
        "" if model == compat else float(difference.mean()),
        interval,
        float(own["capture"].mean()),
        float(own["fees"].mean()),
        float(own["fills"].mean()),
        float(own["quoted"].mean()),
        float(own["inventory_rms"].mean()),
    ]


def quote_tables(file: BotFile, quotes: Arrays) -> list[dict[str, Any]]:
    """Bid and ask from the mid, side by side."""
    tables = []
    for title, name, labels in (
        ("Quotes by share of base in the wallet, from the mid", "shown", [f"{share:.0%}" for share in SHOWN_SHARES]),
        (
            f"Quotes by volatility, at {beside_target(file):.0%} base",
            "volatility",
            [f"x {f:g}" for f in VOLATILITY_FACTORS],
        ),
        (
            f"Quotes by share of the cycle left, at {beside_target(file):.0%} base",
            "time",
            [f"{x:.0%}" for x in TIMES_LEFT],
        ),
    ):
        rows = []
        for model in MODELS:
            values = np.asarray(quotes[model][name], float)
            rows.append(
                [model, *(" / ".join("none" if np.isnan(x) else f"{x:+.4f}" for x in v[[0, 2]]) for v in values)]
            )
        notes = []
        if name == "shown":
            notes = [
                f"Bid / ask minus mid [price] at the start of a cycle; the target is {file.target:.0%}. Parameters of text and 2021 "
                "are calculated afresh in every cell, as after a recalculation; 2021 has none at its target. The infinite horizon "
                "of 2021-12 diverges near its target."
            ]
        tables.append({"title": title, "header": ["model", *labels], "rows": rows, "notes": notes})
    return tables
