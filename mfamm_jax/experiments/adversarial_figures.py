"""Figure of experiment `adversarial`: what each attack takes, what the opponents do, and the bad days."""

from typing import Any

import numpy as np

from mfamm_jax.experiments.figures import BASELINE, OURS, Arrays, figure_axes, svg_text

N_DAYS = 4  # lines in the right panel


def attacks(arrays: Arrays, metrics: dict[str, Any]) -> str:
    """Three panels."""
    figure, axes = figure_axes(3, 3.2)
    harm, opponent, days = axes[0]
    names = [row[0] for row in metrics["tables"][0]["rows"]]
    taken = {
        "worst market": arrays["markets/found/nominal"] - arrays["markets/found/value"],
        "learned opponent": arrays["opponents/nobody"] - arrays["opponents/learned"],
        "worst opponent": arrays["opponents/nobody"] - arrays["opponents/worst"],
    }
    place = np.arange(len(names))
    for i, (label, colour) in enumerate(zip(taken, ("tab:purple", BASELINE, OURS))):
        harm.barh(place + 0.27 * (i - 1), taken[label], 0.27, color=colour, label=label)
    harm.set_yticks(place, [name.replace("_", " ") for name in names], fontsize=7)
    harm.invert_yaxis()
    harm.set(xlabel="taken from the policy [price lot]")
    harm.legend(fontsize=6)
    inventory = arrays["inventory"]
    for name, style, label in (("worst", "o", "knows the inventory"), ("learned", "-", "sees the quotes")):
        opponent.plot(inventory, arrays[f"opponents/{name}_actions"][0, 0], style, ms=3, color=OURS, label=label)
    opponent.set(xlabel="inventory of the policy as given [lots]", ylabel="drift at the start [price/s]")
    opponent.legend(fontsize=6)
    value, pnl = arrays["days/value"], arrays["days/pnl"][:, 0]
    worst = {name.removeprefix("worst_days/"): int(n) for name, n in arrays.items() if name.startswith("worst_days/")}
    days.plot(value[0], color="black", lw=1, label="as recorded")
    for name in sorted(worst, key=lambda name: pnl[worst[name]])[:N_DAYS]:
        days.plot(value[worst[name]], lw=0.8, label=name.replace("_", " "))
    days.set(xlabel="decision of the test part", ylabel="P&L of the policy as given")
    days.legend(fontsize=6)
    return svg_text(figure)
