"""Numbers, findings and tables of experiment `adversarial`."""

from typing import Any

import jax
import numpy as np

from mfamm_jax.experiments.adversarial_days import IN_SECONDS, Day
from mfamm_jax.experiments.adversarial_flaws import AS_GIVEN, FLAWS
from mfamm_jax.experiments.adversarial_run import HEARD
from mfamm_jax.simulation.adversary import PARAMETERS, parameters_of
from mfamm_jax.simulation.invariants import INVARIANTS

# Mean change of a log fill rate, per side and inventory other than 0, that counts as leaning.
LEANS = 0.01
# Smallest change of a depth, in half spreads, or of a size that counts as hearing something.
HEARS = 1e-6
BROKEN = (
    "quotes or P&L that are not numbers",
    "crosses its own quotes",
    "exceeds its inventory limit",
    "P&L that does not add up",
)
WITH, NOT, DEAF = (FLAWS[name][1] for name in ("inventory_sign", "ignores_inventory", "deaf"))
SILENT = "does not quote both ways in an average state"


def worst_days(days: list[Day], pnl: np.ndarray) -> dict[str, int]:
    """Scenario -> the draw with the least P&L."""
    found: dict[str, int] = {}
    for number, day in enumerate(days):
        if day.scenario and (day.scenario not in found or pnl[number] < pnl[found[day.scenario]]):
            found[day.scenario] = number
    return found


def _host(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


class _Policy:
    """Everything that the attacks found about one policy."""

    def __init__(self, number: int, name: str, results: dict[str, Any]):
        self.number, self.name = number, name
        fuzz, row = (results["fuzz"]["given"], ()) if number == 0 else (results["fuzz"]["flawed"], (number - 1,))
        self.n_fuzzed = int(fuzz.n_steps[row])
        self.fuzzed = fuzz.counts[row]
        self.state, self.quotes = jax.tree.map(lambda x: x[row], (fuzz.state, fuzz.quotes))
        self.replayed = results["days"]["violations"][:, number].sum(axis=0)
        probe = {key: value[number] for key, value in results["probe"].items()}
        self.lean, self.n_probed, self.differs = float(probe["lean"]), int(probe["n_probed"]), float(probe["differs"])
        self.unheard = [heard for heard, change in zip(HEARD, probe["hears"]) if change < HEARS]
        self.ratio = probe["ratio"]
        games, found = results["opponents"], results["markets"]["found"]
        self.nobody, self.learned, self.worst = (float(games[x][number]) for x in ("nobody", "learned", "worst"))
        self.recorded = float(results["days"]["pnl"][0, number])
        self.fitted, self.worst_market = float(found.nominal[number]), float(found.value[number])

    def findings(self, given: "_Policy") -> list[list[Any]]:
        """Weakness, what shows it, and which attack did."""
        rows = []
        if self.n_probed == 0:
            rows.append(
                [SILENT, "no quote at average conditions that another inventory could be compared with", "probe"]
            )
        elif self.lean <= LEANS:
            rows.append([WITH if self.lean < -LEANS else NOT, self._leaning(given), "probe"])
        if len(self.unheard) == len(HEARD):
            rows.append([DEAF, "the same quotes at VPIN 0 and 1, imbalance -1 and 1, and any book", "probe"])
        elif self.unheard:
            rows.append([f"does not hear {' and '.join(self.unheard)}", "the same quotes whatever it is", "probe"])
        if self.worst_market < 0 < self.fitted:
            rows.append(
                ["loses in its worst market", f"{self.fitted:.3g} becomes {self.worst_market:.3g}", "worst market"]
            )
        if self.worst < 0 < self.nobody:
            evidence = (
                f"{self.nobody:.3g} becomes {self.worst:.3g}, or {self.learned:.3g} by one who sees the quotes only"
            )
            rows.append(["loses to its worst opponent", evidence, "opponent"])
        if self.recorded < 0 < self.nobody:
            evidence = f"the fitted market promises {self.nobody:.3g} an episode, the recorded test part gave {self.recorded:.3g}"
            rows.append(["loses on the recorded day", evidence, "days"])
        for i, weakness in enumerate(BROKEN):
            counts = {"fuzz": int(self.fuzzed[i]), "days": int(self.replayed[i])}
            if not any(counts.values()):
                continue
            evidence = [self._first(i)] if counts["fuzz"] else []
            unit = "days" if i == len(BROKEN) - 1 else "replayed steps"
            evidence += [f"{counts['days']:,} {unit}"] if counts["days"] else []
            rows.append([weakness, "; ".join(evidence), " and ".join(name for name, n in counts.items() if n)])
        return [[self.name, *row] for row in rows]

    def _leaning(self, given: "_Policy") -> str:
        """How fast it buys when it holds something, beside flat, and what that costs."""
        n = len(self.ratio) // 2
        held = [i for i in range(n + 1, 2 * n + 1) if np.isfinite(self.ratio[i])]
        text = ""
        if held and np.isfinite(self.ratio[n]):
            i = held[len(held) // 2]
            text = f"holding {i - n} lots it buys {1 / self.ratio[i]:.3g} times as fast as it sells, flat {1 / self.ratio[n]:.3g} times; "
        text += f"the worst opponent takes {self.nobody - self.worst:.3g}"
        return text + (f", {given.nobody - given.worst:.3g} from the policy as given" if self.number else "")

    def _first(self, i: int) -> str:
        """Where the fuzz broke an invariant first."""
        state, quotes = jax.tree.map(lambda x: x[i], (self.state, self.quotes))
        known = state.covariates
        return (
            f"{self.fuzzed[i]:,} fuzzed steps, first at inventory {state.inventory:g}, {state.time_left:.2g} s left, volatility {known.volatility:.2g}, VPIN "
            f"{known.vpin:.2g}, imbalance {known.imbalance:.2g}, book features up to {np.abs(known.book_features).max():.2g}: depths {quotes.bid_depth:.3g} and "
            f"{quotes.ask_depth:.3g} for {quotes.bid_size:g} and {quotes.ask_size:g}"
        )


def _is_named(flaw: str, findings: list[list[Any]]) -> bool:
    """Whether the findings name a planted flaw; with a lot or two at most a wrong sign shows as no lean."""
    named, weakness = {row[1] for row in findings}, FLAWS[flaw][1]
    return weakness in named or (weakness == WITH and NOT in named)


def adversarial_metrics(experiment: Any, prepared: Any, results: dict[str, Any]) -> dict[str, Any]:
    """Headline numbers, the robustness table, findings, worst market, bad days, fuzz."""
    results = _host({name: value for name, value in results.items() if not name.startswith("_")})
    names = (AS_GIVEN, *experiment.flawed)
    policies = [_Policy(i, name, results) for i, name in enumerate(names)]
    given = policies[0]
    findings = {policy.name: policy.findings(given) for policy in policies}
    # A flaw that changes no quote here is no flaw here.
    planted = {p.name: _is_named(p.name, findings[p.name]) for p in policies[1:] if p.differs > 0}
    violations = int(given.fuzzed.sum() + given.replayed.sum())
    markets, days = results["markets"], prepared.report["days"]
    worst = worst_days(days, results["days"]["pnl"][:, 0])
    change = {name: float(results["days"]["pnl"][n, 0] - results["days"]["pnl"][0, 0]) for name, n in worst.items()}
    worst_day = min(change, key=lambda name: change[name]) if change else ""
    numbers = (
        given.fitted,
        given.worst_market,
        given.nobody,
        given.learned,
        given.worst,
        *results["days"]["pnl"][:, 0],
    )
    ok = bool(results["solver_ok"]) and violations == 0 and all(planted.values()) and bool(np.isfinite(numbers).all())
    return {
        "ok": ok,
        "mean_pnl": float(markets["mean"][0]),
        "certainty_equivalent": float(markets["found"].nominal[0]),
        "worst_market": float(markets["found"].value[0]),
        "best_random_search": float(markets["random"][0]),
        "worst_market_gap": float(markets["found"].gap[0]),
        "objective": given.nobody,
        "learned_opponent": given.learned,
        "worst_opponent": given.worst,
        "worst_day": worst_day,
        "worst_day_change": change.get(worst_day, 0.0),
        "violations": violations,
        "fuzzed_steps": given.n_fuzzed,
        "replayed_steps": int(results["days"]["n_steps"]),
        "planted_flaws": len(planted),
        "planted_flaws_found": sum(planted.values()),
        "weaknesses": [row[1] for row in findings[AS_GIVEN]],
        "tables": [
            _robustness(experiment, policies, results, days),
            _found(experiment.flawed, findings, planted),
            _worst_market(markets, experiment),
            _bad_days(results["days"], days, worst),
            _invariants(policies, int(results["days"]["n_steps"])),
        ],
    }


def _robustness(experiment: Any, policies: list[_Policy], results: dict[str, Any], days: list[Day]) -> dict[str, Any]:
    found = results["markets"]["found"]
    rows = []
    for policy in policies:
        i = policy.number
        pnl = results["days"]["pnl"][:, i]
        worst = int(np.argmin(pnl))
        rows.append(
            [
                policy.name,
                *(
                    float(f"{x:.4g}")
                    for x in (found.nominal[i], found.value[i], policy.nobody, policy.learned, policy.worst, pnl[0])
                ),
                f"{pnl[worst]:.4g} ({days[worst].scenario or 'as recorded'})",
                int(policy.fuzzed.sum() + policy.replayed.sum()),
            ]
        )
    weight = float(experiment.attack.risk_weight)
    drift, flow = (float(x) for x in results["opponents"]["limits"][:2])
    return {
        "title": "What is left of a policy under attack",
        "header": [
            *("policy", "fitted market", "worst market", "unopposed", "learned opponent", "worst opponent"),
            *("recorded day", "worst day", "violations"),
        ],
        "rows": rows,
        "notes": [
            f"Markets: mean P&L less {weight:g} standard deviations over {float(experiment.simulation.horizon):g} s, at the fitted market and at the worst "
            f"within {float(experiment.ambiguity.radius):g} standard errors. Opponents: expected P&L less the penalties of (1) and (9), when nobody, a "
            f"learned or the worst opponent pushes the mid by up to {drift:.3g} a second and fill rates by factors up to {np.exp(flow):.3g}; the worst one "
            "knows the inventory, the learned one sees the quotes. Days: replayed P&L of the test part.",
        ],
    }


def _found(flaws: tuple[str, ...], findings: dict[str, list], planted: dict[str, bool]) -> dict[str, Any]:
    notes = ["The policy as given: no weakness found."] if not findings[AS_GIVEN] else []
    missed = [f"{name} ({FLAWS[name][1]})" for name, found in planted.items() if not found]
    if planted:
        text = f"Planted flaws: {len(planted) - len(missed)} of {len(planted)} found"
        notes.append(text + (f"; missed: {', '.join(missed)}." if missed else "."))
    if idle := [name for name in flaws if name not in planted]:
        notes.append(
            f"No quote of these differs from the policy as given, so there is nothing to find: {', '.join(idle)}."
        )
    return {
        "title": "Weaknesses found",
        "header": ["policy", "weakness", "evidence", "found by"],
        "rows": [row for rows in findings.values() for row in rows],
        "notes": notes,
    }


def _worst_market(markets: dict[str, Any], experiment: Any) -> dict[str, Any]:
    nominal, found = parameters_of(markets["nominal"]), parameters_of(markets["found"].market)
    rows = [
        [name, float(a), float(b[0]), float(z)]
        for name, a, b, z in zip(PARAMETERS, nominal, found, markets["found"].z[0])
    ]
    value, random = float(markets["found"].value[0]), float(markets["random"][0])
    return {
        "title": "The worst market of the policy as given",
        "header": ["parameter", "fitted", "worst", "standard errors"],
        "rows": rows,
        "notes": [
            f"{value:.4g} there; the best of {experiment.attack.n_random:,} random markets at the same distance gives {random:.4g}. To first order the "
            f"value could fall by {float(markets['found'].gap[0]):.2g} more."
        ],
    }


def _bad_days(found: dict[str, np.ndarray], days: list[Day], worst: dict[str, int]) -> dict[str, Any]:
    def row(number: int, label: str) -> list[Any]:
        day = days[number]
        unit = "s" if day.scenario in IN_SECONDS else "ticks"
        planted = f"{day.start:.1f} s, {day.seconds:.1f} s, {day.size:.3g} {unit}" if day.scenario else ""
        return [
            label,
            planted,
            float(found["pnl"][number, 0]),
            float(found["pnl"][number, 0] - found["pnl"][0, 0]),
            float(found["max_drawdown"][number, 0]),
            float(found["max_inventory"][number, 0]),
            int(found["fills"][number, 0]),
        ]

    rows = [row(0, "as recorded")]
    for name, number in sorted(worst.items(), key=lambda item: found["pnl"][item[1], 0]):
        rows.append(row(number, name))
    n_draws = (len(days) - 1) // max(len(worst), 1)
    return {
        "title": f"The worst of {n_draws} draws of every bad day, the policy as given",
        "header": ["day", "start, length, size", "pnl", "change", "max drawdown", "max inventory", "fills"],
        "rows": rows,
        "notes": [
            "The days can be replayed: mfamm run quickstart --set market.kind=parquet --set market.path=data/worst_DAY.parquet. Recorded books do not react to our orders, so a day is "
            "a shock from outside. One session is one sample."
        ],
    }


def _invariants(policies: list[_Policy], n_replayed: int) -> dict[str, Any]:
    rows = [[p.name, f"{p.n_fuzzed:,}", *(int(a) + int(b) for a, b in zip(p.fuzzed, p.replayed))] for p in policies]
    return {
        "title": "Violated invariants",
        "header": ["policy", "fuzzed steps", *INVARIANTS],
        "rows": rows,
        "notes": [f"Also checked: {n_replayed:,} replayed steps for every policy, counted with the fuzzed ones."],
    }
