"""Numbers and tables of experiment `calibration`."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

# A direction whose error is larger than this share of its parameters' values is called open.
OPEN = 0.25
# Part of a direction that is worth a name.
SHOWN = 0.2
# Standard error of what is not known, where a number must stand; and relative errors that are called so.
UNKNOWN, NOT_KNOWN = 1e30, 1e3
# A search has arrived when it lies within a tenth of a standard error: half a hundredth of log likelihood.
ARRIVED = 0.005


def scalars(experiment: Any, results: dict[str, Any]) -> dict[str, Array]:
    """Numbers of a sweep row: estimates, errors, and for planted parameters the distance in errors."""
    found, known = results["fit"], results["known"]["both"]
    n_open = jnp.sum(known.direction_errors > OPEN)
    out = {"loss": found.loss, "deviation": results["deviation"], "open_directions": n_open}
    truth = planted(experiment)
    z = (found.parameters - truth) / known.standard_errors
    for i, name in enumerate(experiment.free):
        # Of an open parameter: a number, since a row is fine although it leaves something open.
        error = jnp.minimum(known.standard_errors[i], UNKNOWN)
        out |= {name: found.parameters[i], f"{name}_error": error}
        out |= {f"{name}_z": z[i]} if is_planted(experiment) else {}
    return out | {"ok": results["fit_ok"] & ~jnp.any(found.at_bound)}


def planted(experiment: Any) -> Array:
    """Values of the free parameters in [parameters]."""
    return jnp.exp(0.5 * (jnp.log(experiment.box().low) + jnp.log(experiment.box().high)))


def is_planted(experiment: Any) -> bool:
    """Whether the truth is known."""
    return hasattr(experiment.observed, "n_quotes")


def calibration_metrics(experiment: Any, results: dict[str, Any]) -> dict[str, Any]:
    """Headline numbers, then estimates, directions, methods and sources."""
    found, known = results["fit"], results["known"]["both"]
    names, estimates = experiment.free, np.asarray(found.parameters, float)
    gradient, difference = (np.asarray(results[f"gradient_{kind}"], float) for kind in ("autodiff", "difference"))
    error = np.max(np.abs(gradient - difference)) / max(np.max(np.abs(difference)), 1e-300)
    open_directions = directions(names, known)
    single = {name: float(x) for name, x in zip(names, estimates, strict=True)}
    at_bound = [name for name, bound in zip(names, np.asarray(found.at_bound), strict=True) if bound]
    headline = {
        "ok": bool(results["fit_ok"]) and not at_bound,
        "negative_log_likelihood": float(found.loss),
        "quote_deviation": float(results["deviation"]),
        "gradient_error": float(error),
        "open_directions": len(open_directions),
        "n_evaluations": int(np.sum(np.asarray(found.n_evaluations))),
    }
    tables = [_estimates(experiment, found, known), _directions(names, known, open_directions)]
    tables += [_methods(experiment, results)] if "evolution" in results else []
    tables += [_sources(names, results["known"], estimates)] if results["data"]["observed"].fills is not None else []
    tables[0]["notes"] += [f"{name} ended at a bound of its range: raise search.width, or fix it." for name in at_bound]
    return headline | single | {"tables": tables}


def directions(names: tuple[str, ...], known: Any) -> list[str]:
    """Open directions in words, the worst first."""
    said = []
    for error, vector in zip(
        np.asarray(known.direction_errors, float), np.asarray(known.directions, float), strict=True
    ):
        if error > OPEN:
            vector = vector * np.sign(vector[np.argmax(np.abs(vector))])
            parts = [f"{name} {x:+.2f}" for name, x in zip(names, vector, strict=True) if abs(x) > SHOWN]
            said.append(", ".join(parts))
    return said


def _known(error: float, value: float) -> list[Any]:
    """Absolute and relative error, or that there is none."""
    return [float(error), float(error / value)] if error < NOT_KNOWN * value else ["not known", "not known"]


def _estimates(experiment: Any, found: Any, known: Any) -> dict[str, Any]:
    truth = np.asarray(planted(experiment), float)
    values, errors = np.asarray(found.parameters, float), np.asarray(known.standard_errors, float)
    z = (values - truth) / errors
    rows = []
    for i, name in enumerate(experiment.free):
        row = [name, float(values[i]), *_known(errors[i], values[i])]
        rows.append([*row, float(truth[i]), float(z[i])] if is_planted(experiment) else row)
    header = ["parameter", "estimate", "std. error", "relative"]
    return {
        "title": "Parameters that explain the quotes best",
        "header": [*header, "planted", "errors off"] if is_planted(experiment) else header,
        "rows": rows,
        "notes": [
            "Standard errors from the expected information, for independent normal noise on the quotes.",
            *(
                ["The truth is the middle of the box; starts are drawn over all of it."]
                if is_planted(experiment)
                else []
            ),
        ],
    }


def _directions(names: tuple[str, ...], known: Any, said: list[str]) -> dict[str, Any]:
    rows = []
    vectors, errors = np.asarray(known.directions, float), np.asarray(known.direction_errors, float)
    for eigenvalue, vector, error in zip(np.asarray(known.eigenvalues, float), vectors, errors, strict=True):
        said_error = float(error) if np.isfinite(error) else "not known"
        rows.append([float(eigenvalue), *(float(x) for x in vector), said_error, "open" if error > OPEN else ""])
    notes = ["Eigenvectors of the information about relative changes; the error of 0.01 means known to 1 %."]
    notes += [f"The quotes do not tell this combination: {text}." for text in said]
    header = ["eigenvalue", *names, "error", ""]
    return {"title": "What is known, direction by direction", "header": header, "rows": rows, "notes": notes}


def _methods(experiment: Any, results: dict[str, Any]) -> dict[str, Any]:
    found, evolution = results["fit"], results["evolution"]
    best = float(min(np.min(np.asarray(found.losses, float)), np.min(np.asarray(evolution.history, float))))
    counts, losses = np.asarray(found.n_evaluations), np.asarray(found.losses, float)
    good = losses < best + ARRIVED
    history = np.minimum.accumulate(np.asarray(evolution.history, float)[0])
    arrived = np.flatnonzero(history < best + ARRIVED)
    needed = (arrived[0] + 1) * experiment.search.population if arrived.size else None
    typical = int(np.median(counts[good])) if good.any() else None
    rows = [
        ["L-BFGS, a start that arrives", typical, f"{int(good.sum())} of {good.size} starts", float(found.loss) - best],
        ["L-BFGS, all starts", int(counts.sum()), f"{int(good.sum())} of {good.size} starts", float(found.loss) - best],
        ["CMA-ES", needed or "not within its generations", "yes" if needed else "no", float(history[-1] - best)],
    ]
    notes = [
        "Evaluations: of the loss, those of line searches included; of L-BFGS each brings the gradient, one tangent a parameter, and counts until it has "
        f"converged: up to {1 + len(experiment.free)} times the work of one without. Arrived: within a tenth of a standard error of the best."
    ]
    if needed and typical:
        notes.append(f"CMA-ES needs {needed / typical:.3g} times the evaluations of a start by gradient.")
    return {
        "title": "Methods",
        "header": ["method", "evaluations", "arrived", "loss above the best"],
        "rows": rows,
        "notes": notes,
    }


def _sources(names: tuple[str, ...], known: dict[str, Any], estimates: np.ndarray) -> dict[str, Any]:
    errors = {name: np.asarray(part.standard_errors, float) for name, part in known.items()}
    values = zip(names, errors["quotes"], errors["fills"], errors["both"], strict=True)
    size = dict(zip(names, estimates, strict=True))
    return {
        "title": "What quotes and fills know, as standard errors at the joint estimate",
        "header": ["parameter", "quotes alone", "fills alone", "both"],
        "rows": [[name, *(_known(x, size[name])[0] for x in row)] for name, *row in values],
        "notes": ["Fills by the censored likelihood (11); orders without fills count by their exposure."],
    }
