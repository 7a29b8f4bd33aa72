"""Reference cases against the solvers on this machine. Expected values never come from this package."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mfamm_jax.experiments.config import ConfigError
from mfamm_jax.experiments.verify_hyperbolic import HYPERBOLIC_KINDS
from mfamm_jax.experiments.verify_impact import IMPACT_KINDS
from mfamm_jax.experiments.verify_kinds import KINDS
from mfamm_jax.experiments.verify_market_making import MARKET_MAKING_KINDS
from mfamm_jax.experiments.verify_qaoa import QAOA_KINDS
from mfamm_jax.experiments.verify_replay import REPLAY_KINDS, DataMissing
from mfamm_jax.experiments.verify_tail import TAIL_KINDS
from mfamm_jax.experiments.verify_transport import TRANSPORT_KINDS
from mfamm_jax.experiments.verify_wavelet import WAVELET_KINDS
from mfamm_jax.models.intensity import ExponentialIntensity
from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.hjb import ExplicitRK, Grid, HJBProblem, choose_scheme, optimal_depths, solve_hjb

ALL_KINDS = (
    KINDS
    | MARKET_MAKING_KINDS
    | REPLAY_KINDS
    | WAVELET_KINDS
    | TRANSPORT_KINDS
    | IMPACT_KINDS
    | TAIL_KINDS
    | HYPERBOLIC_KINDS
    | QAOA_KINDS
)
SHIPPED, SHIPPED_MARKET_MAKING, SHIPPED_SOLVERS = (
    Path(__file__).parent / name for name in ("cases.json", "cases_market_making.json", "cases_solvers.json")
)
GRADIENT_TOLERANCE = {"float64": 1e-7, "float32": 1e-3}
MAX_REFINEMENTS = 4
FIRST_STEPS = 128

Entry = tuple[float, float, str]


def verify_cases(files: list[Path], precision: str) -> dict[str, Any]:
    """Runs every case of the files (default: the shipped tables).

    Returns:
        {"cases": [{id, kind, status, error, tolerance, reason}], "passed", "failed", "skipped"}; `error` and `tolerance` belong to
        the entry that comes nearest to failing.
    """
    if precision not in GRADIENT_TOLERANCE:
        raise ConfigError(f'--precision: expected "float32" or "float64", got {precision!r}')
    jax.config.update("jax_enable_x64", precision == "float64")
    cases = [
        _verify(case, precision)
        for file in files or [SHIPPED, SHIPPED_MARKET_MAKING, SHIPPED_SOLVERS]
        for case in _read(file)
    ]
    counts = {
        name: sum(case["status"] == status for case in cases)
        for name, status in (("passed", "pass"), ("failed", "fail"), ("skipped", "skip"))
    }
    return {"cases": cases} | counts


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as a case table: {error}") from error
    if not isinstance(table, dict) or table.get("schema") != 1 or not isinstance(table.get("cases"), list):
        raise ConfigError(f'{file}: expected {{"schema": 1, "cases": [...]}}')
    return table["cases"]


def _verify(case: dict[str, Any], precision: str) -> dict[str, Any]:
    answer = {"id": case["id"], "kind": case["kind"], "error": None, "tolerance": None, "reason": ""}
    if case["kind"] not in ("hjb_finite_horizon", *ALL_KINDS):
        return answer | {"status": "skip", "reason": f"no check for kind {case['kind']}"}
    suffix = "" if precision == "float64" else "_float32"
    if not any(f"{name}{suffix}" in case["tolerance"] for name in ("rel", "abs")):
        return answer | {"status": "skip", "reason": "no float32 tolerance"}
    try:
        compare = _compare_kind if case["kind"] in ALL_KINDS else _compare
        entries, solved = compare(case, precision, suffix)
    except DataMissing as missing:
        return answer | {"status": "skip", "reason": str(missing)}
    except (KeyError, TypeError, ValueError) as error:
        return answer | {"status": "fail", "reason": f"{type(error).__name__}: {error}"}
    error, tolerance, name = max(entries, key=lambda entry: entry[0] / entry[1] if np.isfinite(entry[0]) else np.inf)
    good = solved and error <= tolerance
    reason = "" if good else f"{name} is off" if solved else "the solver reports failure"
    return answer | {"status": "pass" if good else "fail", "error": error, "tolerance": tolerance, "reason": reason}


def _problem(inputs: dict[str, Any]) -> HJBProblem:
    names = ("inventory_penalty", "terminal_penalty", "horizon", "drift", "fill_risk_aversion")
    names += ("bid_adverse_selection", "ask_adverse_selection")
    return HJBProblem(
        bid=ExponentialIntensity(inputs["bid_intensity"], inputs["bid_decay"]),
        ask=ExponentialIntensity(inputs["ask_intensity"], inputs["ask_decay"]),
        min_depth=-np.inf if inputs["min_depth"] is None else inputs["min_depth"],
        max_depth=np.inf if inputs["max_depth"] is None else inputs["max_depth"],
        **{name: inputs[name] for name in names},
    )


def _entry(name: str, got: Any, wanted: Any, rel: float, absolute: float) -> Entry:
    """The number that comes nearest to failing; None = not quoted."""
    # Nested lists with None become floats with NaN.
    if isinstance(wanted, dict):
        got, wanted = [got[key] for key in wanted], list(wanted.values())
    wanted = np.array(wanted, dtype=float).ravel()
    got = np.ravel(np.asarray(got, float))
    if got.shape != wanted.shape or (np.isnan(got) != np.isnan(wanted)).any():
        return np.inf, absolute, name
    error, allowed = np.abs(got - wanted), np.maximum(rel * np.abs(wanted), absolute)
    if not np.isfinite(error).any():
        return 0.0, absolute, name
    worst = int(np.nanargmax(error / allowed))
    return float(error[worst]), float(allowed[worst]), name


def _compare_kind(case: dict[str, Any], precision: str, suffix: str) -> tuple[list[Entry], bool]:
    """As `_compare` for the other kinds; steps are doubled until the tolerance holds."""
    expected, given = dict(case["expected"]), dict(case["inputs"])
    inventory = expected.pop("inventory", None)
    if inventory is not None:
        given["inventory"] = inventory
    given_tolerance = case["tolerance"]
    rel, absolute = (float(given_tolerance.get(f"{name}{suffix}", given_tolerance[name])) for name in ("rel", "abs"))
    steps, entries, solved = FIRST_STEPS, [], False
    for _ in range(MAX_REFINEMENTS + 1):
        numbers, solved = ALL_KINDS[case["kind"]](given, steps)
        missing = [name for name in expected if name not in numbers]
        if missing:
            raise KeyError(f"no answer for the expected entry {missing[0]!r}")
        entries = [
            _entry(name, numbers[name], wanted, *_tolerance(name, rel, absolute, precision))
            for name, wanted in expected.items()
        ]
        if solved and all(error <= allowed for error, allowed, _ in entries):
            break
        steps *= 2
    return entries, solved


def _tolerance(name: str, rel: float, absolute: float, precision: str) -> tuple[float, float]:
    if name.startswith("d_"):
        return GRADIENT_TOLERANCE[precision], 0.0
    # In float32 the common offset of the value carries fewer digits than its differences.
    return (max(rel, 1e-4) if name == "value" and precision == "float32" else rel), absolute


def _compare(case: dict[str, Any], precision: str, suffix: str) -> tuple[list[Entry], bool]:
    """(error, tolerance, name) of every entry, relative to where it stands, and whether the solver succeeded."""
    problem, grid = _problem(case["inputs"]), Grid(case["inputs"]["max_inventory"], 1)
    rel, absolute = case["tolerance"][f"rel{suffix}"], case["tolerance"][f"abs{suffix}"]
    expected, middle = case["expected"], case["inputs"]["max_inventory"]
    value = np.asarray(expected["value"], float)

    def entry(name: str, got: Any, wanted: Any, rel: float = rel) -> Entry:
        return _entry(name, got, wanted, rel, absolute)

    def entries(scheme: Any) -> tuple[list[Entry], bool]:
        solution = solve_hjb(problem, scheme, grid)
        table = solution.value
        bid, ask = optimal_depths(problem, table.relative_value[-1])
        # In float32 the common offset of the value carries fewer digits than its differences.
        offset_rel = rel if precision == "float64" else max(rel, 1e-4)
        found = [
            entry("value", table.relative_value[-1], value - value[middle]),
            entry("value offset", table.offset[-1:], value[middle : middle + 1], offset_rel),
            entry("bid_depth", bid, expected["bid_depth"]),
            entry("ask_depth", ask, expected["ask_depth"]),
        ]
        return found, bool(solution.result == RESULTS.successful)

    scheme = choose_scheme(problem, grid)[0]
    found, solved = entries(scheme)
    for _ in range(MAX_REFINEMENTS):
        if solved and all(error <= allowed for error, allowed, _ in found):
            break
        if not isinstance(scheme, ExplicitRK):
            break
        scheme = ExplicitRK(2 * scheme.n_substeps)
        found, solved = entries(scheme)
    return found + _gradients(case, problem, grid, GRADIENT_TOLERANCE[precision]), solved


def _gradients(case: dict[str, Any], problem: HJBProblem, grid: Grid, tolerance: float) -> list[Entry]:
    """Derivatives of the value; by Runge-Kutta, which alone knows the decay of each side."""
    explicit = choose_scheme(problem, grid, ExplicitRK)[0]
    scheme = ExplicitRK(4 * explicit.n_substeps) if isinstance(explicit, ExplicitRK) else explicit
    out = []
    for inventory in (0, 2):
        wanted = case["expected"].get(f"value_gradient_at_inventory_{inventory}", {})
        if not wanted:
            continue

        def at(p: HJBProblem, row: int = grid.max_inventory + inventory) -> jax.Array:
            return solve_hjb(p, scheme, grid).value.initial_value[row]

        gradient = jax.jit(jax.grad(at))(problem)
        for name, number in wanted.items():
            side, _, what = name.partition("_")
            got = getattr(gradient, name, None)
            if got is None:
                got = getattr(getattr(gradient, side), {"intensity": "scale", "decay": "decay"}[what])
            out.append((abs(float(got) - number), tolerance * abs(number), f"gradient {name} at {inventory}"))
    return out
