"""Trees in JAX against XGBoost's own predictor, bit for bit, and against trees written and evaluated by hand."""

import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before xgboost starts its threads

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xgboost

from mfamm_jax.models.boosted_trees import (
    MOST_SELECTED_DEPTH,
    CompleteTrees,
    LinkedTrees,
    at_depths,
    depth_table,
    from_json,
    surrogate_error,
)

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads

N_ROWS, N_FEATURES = 100_000, 6
OBJECTIVES = ("reg:squarederror", "count:poisson", "survival:aft", "binary:logistic")


@pytest.fixture(scope="module")
def rows():
    """Features with 5 % missing; some values tie with thresholds, since the fit sees the same grid."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(N_ROWS, N_FEATURES)).astype(np.float32)
    features[:, 2] = np.round(features[:, 2], 1)
    features[rng.random(features.shape) < 0.05] = np.nan
    return features


def labelled(features, objective, seed=1):
    rng = np.random.default_rng(seed)
    signal = np.sin(2 * np.nan_to_num(features[:, 0])) + 0.5 * np.nan_to_num(features[:, 2])
    matrix = xgboost.DMatrix(features)
    if objective == "survival:aft":
        waiting = rng.exponential(np.exp(signal)) + 1e-6
        matrix.set_float_info("label_lower_bound", np.minimum(waiting, 2.0))
        matrix.set_float_info("label_upper_bound", np.where(waiting < 2.0, waiting, np.inf))
    elif objective == "binary:logistic":
        matrix.set_label(rng.random(len(signal)) < 1 / (1 + np.exp(-signal)))
    else:
        matrix.set_label(rng.poisson(np.exp(signal)))
    return matrix


def booster(features, objective, n_trees=20, **parameters):
    parameters = {"objective": objective, "nthread": 1, "max_depth": 4} | parameters
    return xgboost.train(parameters, labelled(features, objective), n_trees)


def document(model):
    return json.loads(bytes(model.save_raw("json")))


def in_jax(model, **kwargs):
    return from_json(document(model), **kwargs)


@jax.jit
def evaluate(trees, features):
    return trees.margin(features)


def own_margin(model, features):
    return model.inplace_predict(features, predict_type="margin")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_margins_of_100000_rows_are_bit_equal(rows, objective, precision):
    model = booster(rows[:3000], objective)
    margin = evaluate(in_jax(model), jnp.asarray(rows))
    assert margin.dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(margin), own_margin(model, rows))


@pytest.mark.parametrize("tree_method", ["hist", "exact"])
@pytest.mark.parametrize("max_depth", [1, 3, 6, 9])
def test_margins_are_bit_equal_for_every_depth_and_way_of_growing(rows, tree_method, max_depth):
    model = booster(rows[:2000], "count:poisson", 8, max_depth=max_depth, tree_method=tree_method, min_child_weight=0.1)
    trees = in_jax(model)
    assert isinstance(trees.trees, CompleteTrees if max_depth <= MOST_SELECTED_DEPTH else LinkedTrees)
    assert trees.trees.depth == max_depth
    np.testing.assert_array_equal(np.asarray(evaluate(trees, jnp.asarray(rows))), own_margin(model, rows))


@pytest.mark.parametrize(
    "parameters",
    [
        {"min_child_weight": 1e9},  # nothing may be split: every tree is one leaf
        {"grow_policy": "lossguide", "max_leaves": 20, "max_depth": 0},
        {"num_parallel_tree": 3, "subsample": 0.5},
        {"base_score": 0.37},
    ],
)
def test_unusual_forests_are_bit_equal(rows, parameters):
    model = booster(rows[:2000], "count:poisson", 5, **parameters)
    trees = in_jax(model)
    np.testing.assert_array_equal(np.asarray(trees.margin(jnp.asarray(rows[:5000]))), own_margin(model, rows[:5000]))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "objective",
    [
        "reg:absoluteerror",
        "reg:pseudohubererror",
        "reg:gamma",
        "reg:tweedie",
        "survival:cox",
        "reg:logistic",
        "binary:logitraw",
    ],
)
def test_every_link_starts_at_the_right_base_margin(rows, objective):
    features = rows[:1000]
    label = np.clip(np.abs(np.nan_to_num(features[:, 0])), 0.01, 1.0) if "log" not in objective else features[:, 0] > 0
    parameters = {"objective": objective, "nthread": 1, "max_depth": 2}
    model = xgboost.train(parameters, xgboost.DMatrix(features, label), 4)
    trees = in_jax(model)
    assert_close(trees.margin(jnp.asarray(features)), own_margin(model, features), float32=3e-7)
    assert_close(trees(jnp.asarray(features)).astype(jnp.float32), model.inplace_predict(features), float32=1e-6)


def test_a_float64_row_is_rounded_as_xgboost_rounds_it(rows):
    model = booster(rows[:2000], "reg:squarederror")
    rng = np.random.default_rng(5)
    features = rng.normal(size=(2000, N_FEATURES))
    threshold = float(in_jax(model).trees.threshold[0, 0])
    features[:1000] = threshold * (
        1 + 1e-9 * rng.normal(size=(1000, N_FEATURES))
    )  # on both sides of it before rounding
    np.testing.assert_array_equal(np.asarray(in_jax(model).margin(jnp.asarray(features))), own_margin(model, features))


def stump(feature=0, threshold=0.5, left=1.0, right=-1.0, missing_left=1):
    return {
        "left_children": [1, -1, -1],
        "right_children": [2, -1, -1],
        "split_indices": [feature, 0, 0],
        "split_conditions": [threshold, left, right],
        "default_left": [missing_left, 0, 0],
        "split_type": [0, 0, 0],
        "tree_param": {"size_leaf_vector": "1"},
    }


def handwritten(trees, objective="count:poisson", base="[1E0]", n_features=2, **learner):
    return {
        "learner": {
            "feature_names": [],
            "feature_types": [],
            "gradient_booster": {"name": "gbtree", "model": {"trees": trees}},
            "learner_model_param": {
                "base_score": base,
                "num_class": "0",
                "num_target": "1",
                "num_feature": str(n_features),
            },
            "objective": {"name": objective},
        }
        | learner
    }


LOPSIDED = {  # x1 < 0 ? (x0 < 2 ? 0.25 : 0.5) : 4
    "left_children": [1, 3, -1, -1, -1],
    "right_children": [2, 4, -1, -1, -1],
    "split_indices": [1, 0, 0, 0, 0],
    "split_conditions": [0.0, 2.0, 4.0, 0.25, 0.5],
    "default_left": [0, 1, 0, 0, 0],
    "split_type": [0] * 5,
    "tree_param": {"size_leaf_vector": "1"},
}


def test_handwritten_trees_are_what_a_hand_computes():
    trees = from_json(handwritten([stump(), LOPSIDED]))
    nan = np.nan
    cases = {
        (0.0, -1.0): 1.25,
        (0.5, -1.0): -0.75,
        (2.0, -1.0): -0.5,
        (0.0, 0.0): 5.0,
        (nan, -1.0): 1.25,
        (0.0, nan): 5.0,
    }
    assert_close(trees.margin(jnp.array(list(cases))), list(cases.values()), float32=0)
    assert_close(trees(jnp.array([0.0, 0.0])), np.exp(5.0))
    assert trees.n_trees == 2
    # Base score 2 of a Poisson model is a rate, of a squared error the value itself.
    assert_close(from_json(handwritten([stump()], base="2E0")).margin(jnp.zeros(2)), 1 + np.log(2.0), float32=1e-7)
    assert_close(from_json(handwritten([stump()], "reg:squarederror", "[2E0]")).margin(jnp.zeros(2)), 3.0, float32=0)
    assert_close(from_json(handwritten([stump()], base="[2E0]"), offset=0.0).margin(jnp.zeros(2)), 1.0, float32=0)
    assert_close(from_json(handwritten([])).margin(jnp.zeros((3, 2))), np.zeros(3), float32=0)


def test_walking_and_selecting_give_the_same_leaves(rows):
    shallow = booster(rows[:2000], "count:poisson", 6, max_depth=3)
    content = document(shallow)
    chain = {
        "left_children": [1, -1] * 8 + [-1],
        "right_children": [x for i in range(8) for x in (2 * i + 2, -1)] + [-1],
        "split_indices": [0] * 17,
        "split_conditions": [0.0] * 17,
        "default_left": [0] * 17,
        "split_type": [0] * 17,
        "tree_param": {"size_leaf_vector": "1"},
    }
    chain["left_children"] = [2 * (i // 2) + 1 if i % 2 == 0 and i < 16 else -1 for i in range(17)]
    plain = from_json(content)
    content["learner"]["gradient_booster"]["model"]["trees"].append(chain)  # eight deep, adds nothing
    walked = from_json(content)
    assert isinstance(walked.trees, LinkedTrees)
    some = jnp.asarray(rows[:5000])
    np.testing.assert_array_equal(walked.margin(some), plain.margin(some))
    with pytest.raises(ValueError, match="no soft margin"):
        walked.soft_margin(jnp.zeros(N_FEATURES), jnp.ones(N_FEATURES))


@pytest.mark.thorough
def test_jit_vmap_and_loop_agree(rows):
    trees = in_jax(booster(rows[:2000], "count:poisson", 10))
    some = jnp.asarray(rows[:20])
    deep = in_jax(booster(rows[:2000], "count:poisson", 5, max_depth=9))
    for each in (trees, deep):
        assert_jit_vmap_loop_agree(jax.jit(lambda x, each=each: each.margin(x)), some, float32=0)
    assert_jit_vmap_loop_agree(jax.jit(lambda x: trees(x)), some)
    np.testing.assert_array_equal(trees.margin(some.reshape(4, 5, -1)), trees.margin(some).reshape(4, 5))


def refused(change, match):
    content = handwritten([stump()])
    change(content["learner"])
    with pytest.raises(ValueError, match=match):
        from_json(content)


def test_models_that_would_be_evaluated_wrongly_are_refused():
    refused(lambda m: m["gradient_booster"].update(name="dart"), "DART")
    refused(lambda m: m["gradient_booster"].update(name="gblinear"), "gblinear")
    refused(lambda m: m["learner_model_param"].update(num_class="3"), "3 outputs")
    refused(lambda m: m["learner_model_param"].update(num_target="2"), "2 outputs")
    refused(lambda m: m["objective"].update(name="binary:hinge"), 'objective "binary:hinge"')
    refused(lambda m: m["gradient_booster"]["model"]["trees"][0].update(split_type=[1, 0, 0]), "categorical")
    refused(lambda m: m.update(feature_types=["c", "float"]), "categorical")
    refused(lambda m: m.pop("objective"), "not a JSON model of XGBoost")


def test_real_models_of_the_refused_kinds_are_refused(rows):
    label = (np.nan_to_num(rows[:300, 0]) > 0).astype(float)
    with pytest.raises(ValueError, match="DART"):
        in_jax(booster(rows[:300], "reg:squarederror", 3, booster="dart"))
    many = xgboost.train({"objective": "multi:softprob", "num_class": 3}, xgboost.DMatrix(rows[:300], label), 2)
    with pytest.raises(ValueError, match="3 outputs"):
        in_jax(many)
    for strategy in ("one_output_per_tree", "multi_output_tree"):
        both = xgboost.DMatrix(rows[:300], np.column_stack([label, label]))
        with pytest.raises(ValueError, match="2 outputs"):
            in_jax(xgboost.train({"multi_strategy": strategy, "tree_method": "hist"}, both, 2))
    kinds = np.random.default_rng(0).integers(0, 4, (300, 1)).astype(float)
    matrix = xgboost.DMatrix(kinds, kinds[:, 0] % 2, feature_types=["c"], enable_categorical=True)
    with pytest.raises(ValueError, match="categorical"):
        in_jax(xgboost.train({"max_cat_to_onehot": 1}, matrix, 2))


def test_a_wrong_number_of_features_is_named(rows):
    trees = in_jax(booster(rows[:300], "count:poisson", 2))
    with pytest.raises(ValueError, match="3 features, expected 6: f0, f1"):
        trees.margin(jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match="one width for each of 6"):
        trees.soft_margin(jnp.zeros(6), jnp.ones(2))


def test_only_rates_have_a_rate(rows):
    with pytest.raises(ValueError, match="gives no fill rate"):
        in_jax(booster(rows[:300], "binary:logistic", 2)).log_rate(jnp.zeros(6))
    aft = {"aft_loss_distribution": "extreme", "aft_loss_distribution_scale": 1.0}
    trees = in_jax(booster(rows[:300], "survival:aft", 2, **aft))
    assert_close(trees.log_rate(jnp.zeros(6)), -trees.margin(jnp.zeros(6)), float32=0)
    with pytest.raises(ValueError, match="gives no fill rate"):
        in_jax(booster(rows[:300], "survival:aft", 2, aft_loss_distribution="normal")).log_rate(jnp.zeros(6))


@pytest.fixture(scope="module")
def falling():
    """Counts that fall with feature 0, constrained to."""
    rng = np.random.default_rng(3)
    features = rng.uniform(0, 1, (5000, 3)).astype(np.float32)
    counts = rng.poisson(3 * np.exp(-2 * features[:, 0]) * (1 + features[:, 1]))
    parameters = {"objective": "count:poisson", "monotone_constraints": "(-1,0,0)", "nthread": 1, "max_depth": 3}
    return in_jax(xgboost.train(parameters, xgboost.DMatrix(features, counts), 30))


@pytest.mark.thorough
def test_the_depth_table_holds_the_rates_of_the_trees(falling):
    state, depths = jnp.array([9.0, 0.3, 0.6]), jnp.linspace(0.05, 0.95, 10)
    table = depth_table(falling, state, depths)
    rate = jax.jit(lambda x: falling(x))
    by_hand = [float(rate(state.at[0].set(d))) for d in depths]
    assert_close(table(depths), by_hand)
    assert (np.diff(by_hand) <= 0).all()
    limits = (jnp.asarray(0.0), jnp.asarray(-jnp.inf), jnp.asarray(jnp.inf))
    assert_close(table.hamiltonian(jnp.asarray(0.1), *limits), max(np.array(by_hand) * (np.asarray(depths) - 0.1)))
    batch = depth_table(falling, jnp.stack([state, 2 * state]), depths)
    assert batch.intensities.shape == (10, 2)
    assert_close(batch.intensities[:, 0], by_hand)
    assert at_depths(state, depths).shape == (10, 3)


@pytest.mark.thorough
def test_the_soft_trees_tend_to_the_trees_and_keep_their_order(falling):
    rng = np.random.default_rng(4)
    features = jnp.asarray(rng.uniform(0, 1, (2000, 3)))
    errors = [surrogate_error(falling, features, w * jnp.ones(3)) for w in (0.1, 0.02, 1e-3, 1e-7, 0.0)]
    sizes = [float(error["rms"]) for error in errors]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] < 0.1
    assert float(errors[-1]["largest"]) < 2e-6  # float32 sums against float64 sums
    assert float(errors[0]["largest"]) >= sizes[0] >= abs(float(errors[0]["mean"]))
    states = jnp.asarray(rng.uniform(0, 1, (50, 3)))
    soft = falling.soft_margin(at_depths(states, jnp.linspace(0.0, 1.0, 101)), jnp.array([0.05, 0.1, 0.0]))
    assert (np.diff(np.asarray(soft), axis=0) <= 1e-12).all()


def test_a_soft_stump_is_a_logistic_step():
    trees = from_json(handwritten([stump(threshold=0.5, left=1.0, right=-1.0)]))
    x = jnp.array([[0.3, 0.0], [0.5, 0.0], [np.nan, 0.0]])
    share = np.array([1 / (1 + np.exp(-2.0)), 0.5, 1.0])
    assert_close(trees.soft_margin(x, jnp.array([0.1, 1.0])), 2 * share - 1)
    assert_close(trees.soft_margin(x, jnp.array([0.0, 1.0])), [1.0, -1.0, 1.0])


@pytest.mark.thorough
def test_soft_margins_and_tables_have_gradients(falling):
    softness = jnp.array([0.05, 0.1, 0.1])
    state = jnp.array([0.4, 0.3, 0.6])
    check_grads(jax.jit(lambda x: falling.soft_margin(x, softness)), (state,), order=1, modes=["rev"], rtol=1e-6)
    depths = jnp.linspace(0.05, 0.95, 10)
    limits = (jnp.asarray(0.0), jnp.asarray(-jnp.inf), jnp.asarray(jnp.inf))

    @jax.jit
    def gain(state):
        return depth_table(falling, state, depths, softness).hamiltonian(jnp.asarray(0.1), *limits)

    check_grads(gain, (state,), order=1, modes=["fwd", "rev"], rtol=1e-6)
    assert_close(jax.grad(gain)(state)[0], 0.0)  # feature 0 is the depth: the grid has its own
    # Steps have none, with or without a missing value, and no NaN either.
    slopes = jax.jit(jax.grad(lambda x: falling.margin(x) + jnp.nan_to_num(falling.soft_margin(x, 0 * softness))))
    assert_close(slopes(state), jnp.zeros(3), float64=0)
    assert_close(slopes(state.at[1].set(jnp.nan)), jnp.zeros(3), float64=0)
