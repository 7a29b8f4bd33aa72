"""Numbers, findings and tables of experiment `adversarial`."""

from typing import Any

import jax
import numpy as np

from mfamm_jax.experiments.adversarial_days import IN_SECONDS, Day
from mfamm_jax.experiments.adversarial_flaws import AS_GIVEN, FLAWS
from mfamm_jax.simulation.adversary import PARAMETERS, parameters_of
from mfamm_jax.simulation.invariants import INVARIANTS

# An odds ratio of ask to bid fills that counts as leaning, per inventory other than 0.
LEANS = 0.01
BROKEN = (
    "quotes or P&L that are not numbers",
    "crosses its own quotes",
    "exceeds its inventory limit",
    "P&L that does not add up",
)
WITH, NOT, DEAF = (FLAWS[name][1] for name in ("inventory_sign", "ignores_inventory", "deaf"))


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
        self.state, self.quotes = fuzz.state[row], fuzz.quotes[row]
        self.replayed = results["days"]["violations"][:, number].sum(axis=0)
        self.lean = float(results["probe"]["lean"][number])
        self.hears = float(results["probe"]["hears"][number])
        self.ratio = np.exp(results["probe"]["ratio"][number])
        games = results["opponents"]
        self.nobody, self.learned, self.worst = (float(games[x][number]) for x in ("nobody", "learned", "worst"))

    def findings(self, given: "_Policy") -> list[list[Any]]:
        """Weakness, what shows it, and which attack did."""
        rows = []
        harm, usual = self.nobody - self.worst, given.nobody - given.worst
        if self.lean < -LEANS or abs(self.lean) <= LEANS:
            middle = (len(self.ratio) // 2 + len(self.ratio)) // 2
            ratio = float(self.ratio[middle])
            held = middle - len(self.ratio) // 2
            times = "" if abs(ratio - 1) < 1e-3 else f"{1 / ratio:.3g} times "
            evidence = f"holding {held} lots it buys {times}as fast as it sells; the worst opponent takes {harm:.3g}"
            evidence += f", {usual:.3g} from the policy as given" if self.number else ""
            attack = "opponent" if harm > 1.2 * usual else "probe"
            rows.append([self.name, WITH if self.lean < -LEANS else NOT, evidence, attack])
        if self.hears == 0:
            rows.append([self.name, DEAF, "the same quotes at VPIN 0 and 1 and at imbalance -1 and 1", "probe"])
        for i, weakness in enumerate(BROKEN):
            hit = [name for name, count in (("fuzz", self.fuzzed[i]), ("days", self.replayed[i])) if count]
            if not hit:
                continue
            evidence = ""
            if self.fuzzed[i]:
                inventory, left, _, vpin, imbalance = self.state[i]
                bid, ask, bid_size, ask_size = self.quotes[i]
                evidence = (
                    f"{self.fuzzed[i]:,} fuzzed steps, first at inventory {inventory:g}, {left:.2g} s left, VPIN {vpin:.2g}, imbalance {imbalance:.2g}: "
                    f"depths {bid:.3g} and {ask:.3g} for {bid_size:g} and {ask_size:g}"
                )
            if self.replayed[i]:
                evidence += ("; " if evidence else "") + f"{self.replayed[i]:,} replayed steps"
            rows.append([self.name, weakness, evidence, " and ".join(hit)])
        return rows


def adversarial_metrics(experiment: Any, prepared: Any, results: dict[str, Any]) -> dict[str, Any]:
    """Headline numbers, the robustness table, findings, worst market, bad days, fuzz."""
    results = _host({name: value for name, value in results.items() if not name.startswith("_")})
    names = (AS_GIVEN, *experiment.flawed)
    policies = [_Policy(i, name, results) for i, name in enumerate(names)]
    given = policies[0]
    findings = {policy.name: policy.findings(given) for policy in policies}
    planted = {name: FLAWS[name][1] in [row[1] for row in findings[name]] for name in experiment.flawed}
    violations = int(given.fuzzed.sum() + given.replayed.sum())
    markets, days = results["markets"], prepared.report["days"]
    worst = worst_days(days, results["days"]["pnl"][:, 0])
    change = {name: float(results["days"]["pnl"][n, 0] - results["days"]["pnl"][0, 0]) for name, n in worst.items()}
    worst_day = min(change, key=lambda name: change[name]) if change else ""
    return {
        "ok": bool(results["solver_ok"]) and violations == 0 and all(planted.values()),
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
            _found(experiment, findings, planted),
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


def _found(experiment: Any, findings: dict[str, list], planted: dict[str, bool]) -> dict[str, Any]:
    notes = ["The policy as given: no weakness found." if not findings[AS_GIVEN] else ""]
    missed = [name for name, found in planted.items() if not found]
    if planted:
        notes.append(
            f"Planted flaws: {len(planted) - len(missed)} of {len(planted)} found"
            + (f"; missed: {', '.join(f'{name} ({FLAWS[name][1]})' for name in missed)}." if missed else ".")
        )
    return {
        "title": "Weaknesses found",
        "header": ["policy", "weakness", "evidence", "found by"],
        "rows": [row for rows in findings.values() for row in rows],
        "notes": [note for note in notes if note],
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
