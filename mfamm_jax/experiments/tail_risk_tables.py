"""Numbers and tables of experiment `tail_risk`."""

from typing import Any

import numpy as np

ESTIMATORS = ("sample", "flow, quadrature (E3)", "flow, draws (E1)", "flow, reweighted draws (E2)", "normal law")


def tail_metrics(experiment: Any, report: Any, results: dict[str, Any], forecasters: tuple[str, ...]) -> dict[str, Any]:
    """Headline numbers, then tables."""
    fit, estimate, forecast = results["fit"], results["estimate"], results["forecast"]
    levels = experiment.estimation.levels
    risk, truth = np.asarray(estimate["risk"], float), np.asarray(estimate["truth"], float)
    tests, later = np.asarray(forecast["tests"], float), np.asarray(fit["later_log_density"], float)
    solved = np.asarray(fit["solved"])
    freedom = float(fit["flow"].degrees_of_freedom)
    return {
        "ok": bool(solved[0] and np.isfinite(risk).all()),
        "losses": report["name"],
        "fitted_on": report["n_fit"],
        "degrees_of_freedom": freedom,
        "cvar": float(risk[-1, 1, 1]),
        "cvar_standard_error": float(risk[-1, 1, 2]),
        "empirical_cvar": float(risk[-1, 0, 1]),
        "later_log_density_flow": float(later[0]),
        "later_log_density_conditional": float(later[1]),
        "conditional_fit_ended": bool(solved[1]),
        "known_law": bool(report["known"]),
        "tables": [
            _estimates(
                levels,
                risk,
                truth,
                np.asarray(estimate["effective_size"], float),
                report,
                freedom,
                experiment.estimation.n_draws,
            ),
            _backtests(levels, tests, forecasters, report, np.asarray(forecast["losses"]).size),
        ],
    }


def _estimates(
    levels: tuple[float, ...],
    risk: np.ndarray,
    truth: np.ndarray,
    sizes: np.ndarray,
    report: Any,
    freedom: float,
    n_draws: int,
) -> dict[str, Any]:
    rows: list[list[Any]] = []
    for i, level in enumerate(levels):
        for name, (quantile, cvar, error) in zip(ESTIMATORS, risk[i]):
            interval = "" if name == "normal law" else f"{cvar - 1.96 * error:.4g} to {cvar + 1.96 * error:.4g}"
            rows.append([level, name, float(quantile), float(cvar), interval])
        if np.isfinite(truth[i]).all():
            rows.append([level, "truth", float(truth[i, 0]), float(truth[i, 1]), ""])
    return {
        "title": f"Tail risk of the first {report['n_fit']:,} losses",
        "header": ["level", "estimator", "value at risk", "CVaR", "95 % interval"],
        "rows": rows,
        "notes": [
            f"The flow's tail falls as a power of {freedom:.3g}. Intervals of sample and quadrature are of the losses' chance; those of draws of the "
            "flow of the draws' alone. They take losses as independent, and a heavy tail makes them too short.",
            f"The {n_draws:,} reweighted draws are worth {sizes[0]:,.0f} equal ones.",
        ],
    }


def _backtests(
    levels: tuple[float, ...], tests: np.ndarray, forecasters: tuple[str, ...], report: Any, n: int
) -> dict[str, Any]:
    rows: list[list[Any]] = []
    for i, level in enumerate(levels):
        for name, row in zip(forecasters, tests[:, i]):
            if name == "truth" and not report["known"]:
                continue
            share, *p_values, mean = (float(x) for x in row)
            rows.append([level, name, f"{100 * share:.2f} %", mean, *(f"{x:.3f}" for x in p_values)])
    return {
        "title": f"Forecasts of the last {n:,} losses, made before each; p-values",
        "header": [
            "level",
            "forecaster",
            "exceeded",
            "mean CVaR",
            "coverage",
            "independence",
            "both",
            "size beyond VaR",
            "size and number",
        ],
        "rows": rows,
        "notes": [
            "Coverage: Kupiec. Independence: Christoffersen. Sizes: Acerbi and Szekely's tests 1 and 2, by simulation under the forecast. A small "
            "p-value refuses the forecast.",
            "History: the sample of the first part. Moving normal: exponentially weighted volatility (0.94) and a normal law. The conditional flow "
            f"knows, of the rows before: {', '.join(report['covariates'])}.",
        ],
    }
