"""How every metric of a row, and the quotes over inventory, answer to a parameter: by autodiff, beside finite differences."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.experiments.experiment import AbstractExperiment, Arrays, ConfigError
from mfamm_jax.experiments.sweep import leaf

# Relative difference up to which both count as the same, and the part of a metric below which a difference is rounding.
AGREE = {"float64": 1e-5, "float32": 5e-2}
ROUNDING = {"float64": 1e-9, "float32": 1e-4}


def _step(dtype: Any) -> float:
    """Relative, for differences of the fourth order."""
    return float(2 * jnp.finfo(dtype).eps ** (1 / 5))


def moved_columns(experiment: AbstractExperiment, paths: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Every parameter moved up and down alone, for a plan that serves the finite differences too."""
    at = np.array([float(leaf(experiment, path)) for path in paths])
    unit = np.where(at == 0, 1.0, at) * _step(leaf(experiment, paths[0]).dtype)
    rows = np.concatenate([at + np.diag(unit), at - np.diag(unit), at[None]])
    return dict(zip(paths, rows.T, strict=True))


def differentiated(
    experiment: AbstractExperiment, plan: Any, prepared: Any, key: PRNGKeyArray, paths: tuple[str, ...]
) -> Arrays:
    """Pure: values, tangents and differences of the row's real numbers and of `surface`, per unit relative change of a parameter.

    A parameter that is 0 is moved by itself instead.
    """
    at = jnp.stack([leaf(experiment, path) for path in paths])
    unit = jnp.where(at == 0, 1.0, at)

    def found(shift: Float[Array, " parameter"]) -> tuple[Arrays, Array]:
        moved = eqx.tree_at(lambda e: [leaf(e, path) for path in paths], experiment, list(at + unit * shift))
        everything = moved.row(plan, prepared, key)
        row = {name: x for name, x in everything.items() if jnp.issubdtype(x.dtype, jnp.floating)}
        return {"row": row, "surface": moved.surface(plan, prepared, key)}, everything["ok"]

    basis, step = jnp.eye(len(paths), dtype=at.dtype), jnp.asarray(_step(at.dtype), at.dtype)

    def difference(direction: Float[Array, " parameter"]) -> tuple[Arrays, Array]:
        def central(h: Array) -> tuple[Arrays, Array]:
            (above, fine), (below, also) = found(h * direction), found(-h * direction)
            return jax.tree.map(lambda a, b: (a - b) / (2 * h), above, below), fine & also

        (half, fine), (whole, also) = central(step / 2), central(step)
        # Richardson: error of the fourth order.
        return jax.tree.map(lambda a, b: (4 * a - b) / 3, half, whole), fine & also

    zero = jnp.zeros_like(at)
    tangents = jax.vmap(lambda t: jax.jvp(lambda x: found(x)[0], (zero,), (t,))[1])(basis)
    differences, fine = jax.lax.map(difference, basis)
    return {
        "at": at,
        "unit": unit,
        "value": found(zero)[0],
        "tangent": tangents,
        "difference": differences,
        "is_solved": fine,
    }


def check_paths(experiment: AbstractExperiment, paths: tuple[str, ...]) -> None:
    """Every path must name a number that can be differentiated."""
    before = experiment.prepared_paths()
    for path in paths:
        try:
            found = leaf(experiment, path)
        except AttributeError:
            raise ConfigError(f"sensitivities: no setting {path}; `mfamm list` names them") from None
        if eqx.is_inexact_array(found) and not np.isfinite(found).all():
            raise ConfigError(f"sensitivities: {path} is {float(found):g}, expected a finite number")
        if not eqx.is_inexact_array(found) or path.split(".")[0] in before:
            raise ConfigError(
                f"sensitivities: {path} is chosen before anything is compiled, expected a setting that may be swept in one compile"
            )


def sensitivity_metrics(found: Arrays, paths: tuple[str, ...]) -> dict[str, Any]:
    """Per metric and parameter: derivative, finite difference, and whether they agree; None where the moved parameters were not solved."""
    out: dict[str, Any] = {}
    at, unit = np.asarray(found["at"]), np.asarray(found["unit"], float)
    kind, solved = at.dtype.name, np.asarray(found["is_solved"])
    for name, value in found["value"]["row"].items():
        tangent, difference = (np.asarray(found[part]["row"][name], float) for part in ("tangent", "difference"))
        out[name] = {}
        for i, path in enumerate(paths):
            gap, size = abs(tangent[i] - difference[i]), max(abs(tangent[i]), abs(difference[i]))
            small = gap <= ROUNDING[kind] * max(abs(float(value)), 1.0)
            out[name][path] = {
                "at": float(at[i]),
                "autodiff": tangent[i] / unit[i],
                "finite_difference": difference[i] / unit[i],
                "relative_error": gap / size if size else 0.0,
                "agree": bool(small or gap <= AGREE[kind] * size) if solved[i] else None,
            }
    return out
