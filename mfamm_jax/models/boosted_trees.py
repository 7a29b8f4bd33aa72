r"""A model fitted by XGBoost as arrays: $m(x) = ((b + \ell_1(x)) + \ell_2(x)) + \dots$, evaluated in JAX to the last bit.

XGBoost compares and adds in float32, in tree order, starting at the base margin b. So does `margin`, whatever the precision in
force: it is the CPU predictor's number, bit for bit. Trees are flat between their thresholds: derivatives in the features come
from `soft_margin`, in which every threshold is a logistic step. Source: docs/equations.md, section on boosted trees.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mfamm_jax.models.curves import TabulatedIntensity

# Up to this depth every node is compared and leaves are selected without a lookup: on a CPU two to five times as fast as walking.
MOST_SELECTED_DEPTH = 6
# How the margin becomes the prediction; the base score is stored as a prediction.
LINKS = {
    "identity": (
        *("reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "reg:squaredlogerror", "reg:quantileerror"),
        *("rank:pairwise", "rank:ndcg", "rank:map", "binary:logitraw"),
    ),
    "log": ("count:poisson", "reg:gamma", "reg:tweedie", "survival:cox", "survival:aft"),
    "logit": ("binary:logistic", "reg:logistic"),
}
LINK_OF = {objective: link for link, objectives in LINKS.items() for objective in objectives}


class CompleteTrees(eqx.Module):
    """Trees padded to the same depth: node n has the children 2n + 1 and 2n + 2; an early leaf fills all the leaves below it.

    Args:
        feature: Which feature a node compares.
        threshold: It goes left below this value.
        missing_left: Whether it goes left without a value.
        leaf: Values of the last level, from left to right.
        depth: Comparisons on the way to a leaf.
    """

    feature: Int[Array, "tree node"]
    threshold: Float[Array, "tree node"]
    missing_left: Bool[Array, "tree node"]
    leaf: Float[Array, "tree leaf"]
    depth: int = eqx.field(static=True)

    def margin(self, rows: Float[Array, "row feature"], offset: Float[Array, ""]) -> Float[Array, " row"]:
        """Sum of the leaves in tree order."""

        def choose(tree: "CompleteTrees", node: int, x: Float[Array, " row"], left: Array, right: Array) -> Array:
            goes_left = jnp.where(jnp.isnan(x), tree.missing_left[node], x < tree.threshold[node])
            return jnp.where(goes_left, left, right)

        return self._sum(rows, offset, choose)

    def soft_margin(
        self, rows: Float[Array, "row feature"], offset: Float[Array, ""], softness: Float[Array, " width"]
    ) -> Float[Array, " row"]:
        """The same with logistic steps of the given width."""

        def choose(tree: "CompleteTrees", node: int, x: Float[Array, " row"], left: Array, right: Array) -> Array:
            width, missing = softness[tree.feature[node]], jnp.isnan(x)
            distance = tree.threshold[node] - jnp.where(missing, 0.0, x)
            soft = jax.nn.sigmoid(distance / jnp.where(width > 0, width, 1.0))
            # In float64 a value that ties with its threshold would fall on either side of it.
            hard = jnp.where(x.astype(tree.threshold.dtype) < tree.threshold[node], 1.0, 0.0)
            share = jnp.where(width > 0, soft, hard)
            share = jnp.where(missing, jnp.where(tree.missing_left[node], 1.0, 0.0), share)
            return share * left + (1 - share) * right

        return self._sum(rows, offset, choose)

    def _sum(self, rows: Float[Array, "row feature"], offset: Float[Array, ""], choose: Callable) -> Array:
        columns, first_leaf = rows.T, 2**self.depth - 1

        def value(tree: "CompleteTrees", node: int) -> Array:
            if node >= first_leaf:
                return tree.leaf[node - first_leaf].astype(rows.dtype)
            x = jax.lax.dynamic_index_in_dim(columns, tree.feature[node], keepdims=False)
            return choose(tree, node, x, value(tree, 2 * node + 1), value(tree, 2 * node + 2))

        def add(total: Array, tree: "CompleteTrees") -> tuple[Array, None]:
            return total + value(tree, 0), None

        return jax.lax.scan(add, jnp.full(rows.shape[:1], offset, rows.dtype), self)[0]


class LinkedTrees(eqx.Module):
    """Trees of any shape, padded to the same number of nodes; a leaf is its own child.

    Args:
        feature, threshold, missing_left: As in `CompleteTrees`.
        left, right: Children.
        leaf: Value of a node that is a leaf.
        depth: Of the deepest tree.
    """

    feature: Int[Array, "tree node"]
    threshold: Float[Array, "tree node"]
    missing_left: Bool[Array, "tree node"]
    left: Int[Array, "tree node"]
    right: Int[Array, "tree node"]
    leaf: Float[Array, "tree node"]
    depth: int = eqx.field(static=True)

    def margin(self, rows: Float[Array, "row feature"], offset: Float[Array, ""]) -> Float[Array, " row"]:
        """Sum of the leaves in tree order."""

        def add(total: Array, tree: "LinkedTrees") -> tuple[Array, None]:
            def step(_: Array, node: Int[Array, " row"]) -> Int[Array, " row"]:
                x = jnp.take_along_axis(rows, tree.feature[node][:, None], axis=1)[:, 0]
                goes_left = jnp.where(jnp.isnan(x), tree.missing_left[node], x < tree.threshold[node])
                return jnp.where(goes_left, tree.left[node], tree.right[node])

            node = jax.lax.fori_loop(0, self.depth, step, jnp.zeros(rows.shape[0], tree.left.dtype))
            return total + tree.leaf[node], None

        return jax.lax.scan(add, jnp.full(rows.shape[:1], offset, rows.dtype), self)[0]


class BoostedTrees(eqx.Module):
    """A boosted-tree model. Feature 0 is the depth of the quote [price] where the model is a fill rate.

    Args:
        trees: Padded arrays.
        offset: b, float32.
        objective: XGBoost's name of what was fitted.
        rate_sign: The log fill rate is this times the margin: 1 for counts, -1 for exponential waiting times, 0 if there is none.
        feature_names: In order.
    """

    trees: CompleteTrees | LinkedTrees
    offset: Float[Array, ""]
    objective: str = eqx.field(static=True)
    rate_sign: int = eqx.field(static=True)
    feature_names: tuple[str, ...] = eqx.field(static=True)

    @property
    def n_trees(self) -> int:
        """How many leaves are summed."""
        return self.trees.feature.shape[0]

    def margin(self, features: Float[Array, "*batch feature"]) -> Float[Array, "*batch"]:
        """`Booster.predict(..., output_margin=True)` bit for bit, in float32; NaN = missing."""
        self._check_count(features)
        rows = jnp.asarray(features, jnp.float32).reshape(-1, features.shape[-1])
        return self.trees.margin(rows, self.offset).reshape(features.shape[:-1])

    def soft_margin(
        self, features: Float[Array, "*batch feature"], softness: Float[Array, " width"]
    ) -> Float[Array, "*batch"]:
        r"""Differentiable margin: a node with threshold c passes the share $1/(1 + e^{(x - c)/w})$ to its left branch.

        What a monotone constraint orders stays ordered: the shares mix leaves that are ordered themselves.

        Args:
            features: As in `margin`; computed in their precision.
            softness: $w \ge 0$ in units of each feature; 0 = a step, right for features on a grid, whose values tie with thresholds.
        """
        self._check_count(features)
        if not isinstance(self.trees, CompleteTrees):
            raise ValueError(
                f"trees of depth {self.trees.depth} have no soft margin, which visits every node: fit with a depth of at most "
                f"{MOST_SELECTED_DEPTH}"
            )
        if softness.shape != features.shape[-1:]:
            raise ValueError(
                f"softness has shape {softness.shape}, expected one width for each of {features.shape[-1]}"
            )
        rows = features.reshape(-1, features.shape[-1])
        return self.trees.soft_margin(rows, self.offset, softness).reshape(features.shape[:-1])

    def __call__(self, features: Float[Array, "*batch feature"]) -> Float[Array, "*batch"]:
        """The prediction, in the precision in force."""
        margin = self.margin(features).astype(jnp.result_type(float))
        return {"identity": lambda m: m, "log": jnp.exp, "logit": jax.nn.sigmoid}[LINK_OF[self.objective]](margin)

    def log_rate(
        self, features: Float[Array, "*batch feature"], softness: Float[Array, " width"] | None = None
    ) -> Float[Array, "*batch"]:
        """Logarithm of the fill rate [1/s], of the soft trees if widths are given."""
        if self.rate_sign == 0:
            raise ValueError(
                f"{self.objective} gives no fill rate: fit count:poisson, or survival:aft with the extreme distribution of scale 1"
            )
        margin = self.margin(features) if softness is None else self.soft_margin(features, softness)
        return self.rate_sign * margin.astype(jnp.result_type(float))

    def _check_count(self, features: Float[Array, "*batch feature"]) -> None:
        expected = len(self.feature_names)
        if features.shape[-1:] != (expected,):
            got = features.shape[-1] if features.ndim else "a number"
            raise ValueError(f"{got} features, expected {expected}: {', '.join(self.feature_names)}")


def at_depths(
    features: Float[Array, "*batch feature"], depths: Float[Array, " depth"]
) -> Float[Array, "depth *batch feature"]:
    """Feature rows with each of the depths in place of feature 0."""
    shape = (depths.shape[0], *features.shape)
    column = jnp.broadcast_to(depths.reshape(-1, *(1,) * (features.ndim - 1)), shape[:-1])
    return jnp.broadcast_to(features, shape).at[..., 0].set(column.astype(features.dtype))


def depth_table(
    trees: BoostedTrees,
    features: Float[Array, "*batch feature"],
    depths: Float[Array, " depth"],
    softness: Float[Array, " width"] | None = None,
) -> TabulatedIntensity:
    """The fill curve in a market state, on the depths that may be quoted: what the HJB equation consumes exactly.

    Depths belong inside the range of the fit: beyond it trees are flat and a deeper quote would seem to earn without end.

    Args:
        trees: Fill rate; feature 0 is the depth.
        features: State; feature 0 is ignored. A batch of states gives tables with trailing axes.
        depths: Tick grid [price], increasing.
        softness: Widths of `soft_margin`: the table then has derivatives in the features.
    """
    rates = jnp.exp(trees.log_rate(at_depths(features, depths), softness))
    column = depths.reshape(-1, *(1,) * (rates.ndim - 1))
    return TabulatedIntensity(jnp.broadcast_to(column, rates.shape), rates)


def surrogate_error(
    trees: BoostedTrees, features: Float[Array, "*batch feature"], softness: Float[Array, " width"]
) -> dict[str, Float[Array, ""]]:
    """How far the soft margin is from the trees over feature rows: mean, root mean square and largest difference."""
    difference = trees.soft_margin(features, softness) - trees.margin(features)
    return {
        "mean": jnp.mean(difference),
        "rms": jnp.sqrt(jnp.mean(difference**2)),
        "largest": jnp.max(jnp.abs(difference)),
    }


def from_json(model: dict[str, Any], offset: float | None = None) -> BoostedTrees:
    """Arrays of a booster saved as JSON (`json.loads(booster.save_raw("json"))`).

    Args:
        model: The whole document.
        offset: Base margin; unset = from the stored base score, whose float32 logarithm may differ from the predictor's in the
            last bit (0.2 % of scores). A model trained with a base margin of its own must be told which one to start from.

    Raises:
        ValueError: No JSON model of XGBoost, or one with categorical splits, DART, several outputs, or an unknown objective.
    """
    try:
        learner = model["learner"]
        _refuse(learner)
        stored = learner["gradient_booster"]["model"]["trees"]
        shared, objective = learner["learner_model_param"], learner["objective"]
        names = tuple(learner["feature_names"]) or tuple(f"f{i}" for i in range(int(shared["num_feature"])))
        trees = _padded([_Tree(tree) for tree in stored])
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f'not a JSON model of XGBoost (missing {error}): expected json.loads(booster.save_raw("json"))'
        ) from error
    start = _base_margin(shared["base_score"], LINK_OF[objective["name"]]) if offset is None else offset
    return BoostedTrees(trees, jnp.asarray(start, jnp.float32), objective["name"], _rate_sign(objective), names)


def _refuse(learner: dict[str, Any]) -> None:
    """What would be evaluated wrongly."""
    booster, shared = learner["gradient_booster"], learner["learner_model_param"]
    if booster["name"] != "gbtree":
        raise ValueError(f'booster "{booster["name"]}" is not supported, expected "gbtree": DART reweights its trees')
    trees = booster["model"]["trees"]
    outputs = max([int(shared["num_class"]), int(shared.get("num_target", 1))])
    if outputs > 1 or any(int(tree["tree_param"]["size_leaf_vector"]) > 1 for tree in trees):
        raise ValueError(f"{outputs} outputs are not supported, expected one: fit a model for each")
    kinds = learner.get("feature_types") or []
    if "c" in kinds or any(any(tree.get("split_type", ())) for tree in trees):
        raise ValueError("categorical splits are not supported: encode the categories as numbers before the fit")
    name = learner["objective"]["name"]
    if name not in LINK_OF:
        raise ValueError(f'objective "{name}" is not supported, expected one of {", ".join(sorted(LINK_OF))}')


def _base_margin(score: str, link: str) -> np.float32:
    """The stored base score on the scale of the margin; logarithms as XGBoost takes them, of float32 numbers."""
    base = np.float32(score.strip("[]"))
    if link == "identity":
        return base
    if link == "log":
        return np.float32(math.log(base))
    return np.float32(-math.log(np.float32(1) / base - np.float32(1)))


def _rate_sign(objective: dict[str, Any]) -> int:
    if objective["name"] == "count:poisson":
        return 1
    loss = objective.get("aft_loss_param", {})
    is_exponential = loss.get("aft_loss_distribution") == "extreme" and float(loss["aft_loss_distribution_scale"]) == 1
    return -1 if is_exponential else 0


class _Tree:
    """One stored tree."""

    def __init__(self, stored: dict[str, Any]):
        self.left = np.asarray(stored["left_children"], np.int32)
        self.right = np.asarray(stored["right_children"], np.int32)
        self.feature = np.asarray(stored["split_indices"], np.int32)
        self.value = np.asarray(stored["split_conditions"], np.float32)  # of a leaf: what it adds
        self.missing_left = np.asarray(stored["default_left"], bool)
        self.depth = self._depth()

    def _depth(self) -> int:
        level, depth = np.array([0]), 0
        while (inner := level[self.left[level] >= 0]).size:
            level, depth = np.concatenate([self.left[inner], self.right[inner]]), depth + 1
        return depth


def _padded(trees: Sequence[_Tree]) -> CompleteTrees | LinkedTrees:
    depth = max((tree.depth for tree in trees), default=0)
    if depth > MOST_SELECTED_DEPTH:
        return _linked(trees, depth)
    n = 2**depth - 1
    feature, threshold = np.zeros((len(trees), n), np.int32), np.zeros((len(trees), n), np.float32)
    missing_left, leaf = np.zeros((len(trees), n), bool), np.zeros((len(trees), n + 1), np.float32)
    for number, tree in enumerate(trees):
        stored = [0]  # of every place on a level: the stored node, or the leaf above
        for level in range(depth):
            below = []
            for place, node in enumerate(stored, 2**level - 1):
                is_leaf = tree.left[node] < 0
                if not is_leaf:
                    feature[number, place], threshold[number, place] = tree.feature[node], tree.value[node]
                    missing_left[number, place] = tree.missing_left[node]
                below += [node, node] if is_leaf else [tree.left[node], tree.right[node]]
            stored = below
        leaf[number] = tree.value[stored]
    arrays = [jnp.asarray(x) for x in (feature, threshold, missing_left, leaf)]
    return CompleteTrees(*arrays, depth=depth)


def _linked(trees: Sequence[_Tree], depth: int) -> LinkedTrees:
    size = max(len(tree.left) for tree in trees)
    columns = []
    for tree in trees:
        own, is_leaf = np.arange(len(tree.left), dtype=np.int32), tree.left < 0
        left, right = np.where(is_leaf, own, tree.left), np.where(is_leaf, own, tree.right)
        row = (tree.feature, tree.value, tree.missing_left, left, right, tree.value)
        columns.append([np.pad(x, (0, size - len(x))) for x in row])
    arrays = [jnp.asarray(np.stack(x)) for x in zip(*columns)]
    return LinkedTrees(*arrays, depth=depth)
