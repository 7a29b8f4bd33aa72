r"""Boosted trees as a fill rate: the fit by XGBoost on the host, and its result as arrays.

Counts with exposure are the nonparametric form of (11): the gradient of `count:poisson` started at $\ln\tau_i$ is
$\tau_i e^{m(x_i)} - d_i$. Waiting times of orders, censored where they were cancelled, are an accelerated-failure-time model with
the extreme distribution of scale 1, whose rate is $e^{-m(x)}$. Both start at the logarithm of the mean rate, are monotone in feature
0, the depth, and stop when a later stretch of time says so.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from mfamm_jax.fields import Checked, static_field
from mfamm_jax.market.events import DataError
from mfamm_jax.models.boosted_trees import MOST_SELECTED_DEPTH, BoostedTrees, from_json

MIN_EVENTS, MIN_STOPPING_EVENTS = 50, 10
SHORTEST = 1e-9  # [s]; an event in a row of no length still counts
# XGBoost's Poisson curvature is e^0.7 times the expected count, which damps its steps.
POISSON_CURVATURE = float(np.exp(0.7))
N_COMPARED = 1000
_margin = jax.jit(lambda trees, features: trees.margin(features))


class Boosting(Checked):
    """How the trees are grown."""

    objective: Literal["count:poisson", "survival:aft"] = static_field(
        default="count:poisson", source="(11)", help="counts with exposure, or censored waiting times"
    )
    n_trees: int = static_field(default=1000, lower=1, help="most trees; the stopping block may want fewer")
    depth: int = static_field(default=4, lower=1, upper=MOST_SELECTED_DEPTH, help="comparisons to a leaf")
    learning_rate: float = static_field(
        default=0.05, lower=0.0, strict=True, upper=1.0, help="share of each step taken"
    )
    min_events: float = static_field(
        default=20.0, lower=0.0, help="expected events in a leaf, at least; an order counts at every depth"
    )
    leaf_penalty: float = static_field(default=1.0, lower=0.0, help="ridge on the leaves")
    patience: int = static_field(default=25, lower=1, help="trees without gain on the stopping block before the end")
    n_bins: int = static_field(default=256, lower=2, help="thresholds tried per feature")


@dataclasses.dataclass(frozen=True)
class Counts:
    """Rows of (11): features (R, F), events (R,), exposure (R,) [s]."""

    features: np.ndarray
    count: np.ndarray
    exposure: np.ndarray

    @property
    def events(self) -> float:
        """How many."""
        return float(self.count.sum())

    @property
    def seconds(self) -> float:
        """Total exposure."""
        return float(self.exposure.sum())


@dataclasses.dataclass(frozen=True)
class Lives:
    """Orders: features (R, F) when they were placed, seconds (R,) until filled or cancelled, whether filled (R,)."""

    features: np.ndarray
    seconds_alive: np.ndarray
    filled: np.ndarray

    @property
    def events(self) -> float:
        """How many fills."""
        return float(self.filled.sum())

    @property
    def seconds(self) -> float:
        """Total time alive."""
        return float(self.seconds_alive.sum())


@dataclasses.dataclass(frozen=True)
class TreeFit:
    """A fit.

    Args:
        trees: The fill rate in JAX.
        losses: (n,) negative log-likelihood per row of the stopping block after each tree grown.
        gain: Share of each feature in the likelihood gained.
    """

    trees: BoostedTrees
    losses: np.ndarray
    gain: dict[str, float]


def fit_trees(
    training: Counts | Lives, stopping: Counts | Lives, boosting: Boosting, names: Sequence[str], seed: int = 0
) -> TreeFit:
    """Grows trees on one block of time until another no longer gains.

    Args:
        training: Rows to fit; `Counts` for `count:poisson`, `Lives` for `survival:aft`.
        stopping: Later rows of the same kind.
        boosting: Settings.
        names: Of the features; the first is the depth of the quote, in which the rate may only fall.
        seed: Of XGBoost.

    Raises:
        DataError: XGBoost is missing, events are too few, a feature is constant, numbers make no sense.
    """
    xgboost = _xgboost()
    _check(training, stopping, boosting, names)
    log_rate = np.log(training.events / training.seconds)
    is_aft = boosting.objective == "survival:aft"
    falls = "1" if is_aft else "-1"  # a waiting time rises where its rate falls
    curvature = 1.0 if is_aft else POISSON_CURVATURE
    settings = {
        "objective": boosting.objective,
        "max_depth": boosting.depth,
        "learning_rate": boosting.learning_rate,
        "min_child_weight": boosting.min_events * curvature,
        "reg_lambda": boosting.leaf_penalty,
        "max_bin": boosting.n_bins,
        "monotone_constraints": "(" + ",".join([falls] + ["0"] * (len(names) - 1)) + ")",
        "tree_method": "hist",
        "nthread": 1,
        "seed": seed,
    }
    if is_aft:
        settings |= {"aft_loss_distribution": "extreme", "aft_loss_distribution_scale": 1.0}
    losses: dict[str, Any] = {}
    booster = xgboost.train(
        settings,
        _matrix(xgboost, training, names, log_rate),
        boosting.n_trees,
        evals=[(_matrix(xgboost, stopping, names, log_rate), "stopping")],
        evals_result=losses,
        early_stopping_rounds=boosting.patience,
        verbose_eval=False,
    )
    booster = booster[: booster.best_iteration + 1]
    start = np.float32(-log_rate if is_aft else log_rate)
    trees = in_jax(booster, training.features[:N_COMPARED], start)
    gain = booster.get_score(importance_type="total_gain")
    total = sum(gain.values())
    shares = {name: float(gain.get(name, 0.0)) / total if total else 0.0 for name in names}
    return TreeFit(trees, np.asarray(next(iter(losses["stopping"].values()))), shares)


def in_jax(booster: Any, rows: np.ndarray, base_margin: np.float32 | None = None) -> BoostedTrees:
    """Any supported booster as arrays, compared with its own predictor on some feature rows.

    Args:
        booster: `xgboost.Booster`.
        rows: Features to compare on.
        base_margin: Where a model starts that was trained with a base margin; unset = at its base score.

    Raises:
        DataError: A margin differs by one bit or more: this version of XGBoost adds in another order.
    """
    xgboost = _xgboost()
    model = json.loads(bytes(booster.save_raw("json")))
    trees = from_json(model)
    matrix = xgboost.DMatrix(rows, feature_names=booster.feature_names)
    if base_margin is None:
        base_margin = _base_margin(xgboost, model, matrix)
    else:
        matrix.set_base_margin(np.full(len(rows), base_margin, np.float32))
    trees = from_json(model, float(base_margin))
    ours = np.asarray(_margin(trees, jnp.asarray(rows)))
    theirs = booster.predict(matrix, output_margin=True)
    if not np.array_equal(ours, theirs):
        raise DataError(
            f"the trees in JAX differ from XGBoost {xgboost.__version__} by {np.abs(ours - theirs).max():.3g}, expected no "
            "difference on a CPU; use xgboost 3.2"
        )
    return trees


def _base_margin(xgboost: Any, model: dict[str, Any], matrix: Any) -> np.float32:
    """What the predictor starts from: the margin of the same model with every leaf at zero."""
    silent = json.loads(json.dumps(model))
    for tree in silent["learner"]["gradient_booster"]["model"]["trees"]:
        pairs = zip(tree["left_children"], tree["split_conditions"])
        tree["split_conditions"] = [0.0 if child < 0 else value for child, value in pairs]
    booster = xgboost.Booster(model_file=bytearray(json.dumps(silent).encode()))
    return booster.predict(matrix, output_margin=True)[0]


def _xgboost() -> Any:
    try:
        import xgboost
    except ImportError as error:
        raise DataError('boosted trees need an extra package: pip install "mfamm-jax[full]"') from error
    return xgboost


def _matrix(xgboost: Any, sample: Counts | Lives, names: Sequence[str], log_rate: float) -> Any:
    matrix = xgboost.DMatrix(sample.features, feature_names=list(names))
    if isinstance(sample, Counts):
        matrix.set_label(sample.count)
        matrix.set_base_margin(np.log(np.maximum(sample.exposure, SHORTEST)) + log_rate)
    else:
        seconds = np.maximum(sample.seconds_alive, SHORTEST)
        matrix.set_float_info("label_lower_bound", seconds)
        matrix.set_float_info("label_upper_bound", np.where(sample.filled, seconds, np.inf))
        matrix.set_base_margin(np.full(len(seconds), -log_rate))
    return matrix


def _check(training: Counts | Lives, stopping: Counts | Lives, boosting: Boosting, names: Sequence[str]) -> None:
    kind = Counts if boosting.objective == "count:poisson" else Lives
    for block, sample, least in (("fit", training, MIN_EVENTS), ("stopping", stopping, MIN_STOPPING_EVENTS)):
        if not isinstance(sample, kind):
            raise DataError(f"{boosting.objective} needs {kind.__name__}, got {type(sample).__name__}")
        if sample.features.shape[1:] != (len(names),):
            raise DataError(
                f"{block} rows have shape {sample.features.shape}, expected {len(names)} features: {', '.join(names)}"
            )
        values = [x for x in vars(sample).values() if x is not sample.features]
        if any(not np.isfinite(x).all() or (x < 0).any() for x in values) or np.isinf(sample.features).any():
            raise DataError(f"{block} rows hold negative or infinite numbers, expected counts and seconds >= 0")
        if sample.events < least or not sample.seconds > 0:
            raise DataError(
                f"{sample.events:.0f} events in the {block} block, expected at least {least}; use a longer session"
            )
    constant = constant_features(training.features, names)
    if constant:
        raise DataError(f"constant features tell nothing: {', '.join(constant)}; leave them out")


def constant_features(features: np.ndarray, names: Sequence[str]) -> list[str]:
    """Names of columns with one value, or none."""
    columns = np.where(np.isnan(features), np.inf, features), np.where(np.isnan(features), -np.inf, features)
    return [name for name, low, high in zip(names, columns[0].min(axis=0), columns[1].max(axis=0)) if not low < high]
