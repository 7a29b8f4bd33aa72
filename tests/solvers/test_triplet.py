import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.solvers.triplet import TripletLoss, embedding_spread, mine, pair_distances

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads


def test_hand_computed_triplets(precision):
    anchor, near, far = jnp.array([0.0, 0.0]), jnp.array([3.0, 4.0]), jnp.array([0.0, 5.1])
    # Distances 5 and 5.1: the negative is 0.1 further, 0.3 was asked for.
    assert_close(TripletLoss()(anchor, near, far), 0.2, float32=1e-6)
    assert TripletLoss()(anchor, near, 2 * far) == 0
    assert_close(TripletLoss(margin=0.5)(anchor, far, near), 0.6, float32=1e-6)


def test_gradients_are_right_and_finite_for_equal_points():
    points = jax.random.normal(jax.random.key(0), (3, 5))
    check_grads(jax.jit(lambda *p: TripletLoss(margin=2.0)(*p)), tuple(points), order=1, modes=["fwd", "rev"])
    same = jnp.ones(5)
    slopes = jax.grad(lambda *p: TripletLoss()(*p), argnums=(0, 1, 2))(same, same, same)
    assert all(np.isfinite(slope).all() for slope in slopes)


def test_jit_vmap_and_loop_agree():
    batch = jax.random.normal(jax.random.key(1), (3, 6, 4))
    assert_jit_vmap_loop_agree(lambda a, p, n: TripletLoss()(a, p, n), *batch)


def test_a_negative_margin_is_refused():
    with pytest.raises(ValueError, match=r"TripletLoss\.margin is -0\.1, expected >= 0"):
        TripletLoss(margin=-0.1)


# Case batch_hard of the reference fixtures: six points on the circle, three of each class, margin 0.3.
POINTS = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8], [-1.0, 0.0], [0.6, -0.8]]
HARDEST_POSITIVE = [1.41421356237, 0.894427191, 1.41421356237, 2.0, 1.788854382, 2.0]
HARDEST_NEGATIVE = [0.894427191, 1.41421356237, 0.632455532034, 0.632455532034, 1.41421356237, 0.894427191]


@pytest.mark.thorough
def test_batch_hard_mining_is_that_of_the_reference(precision):
    embedding, label = jnp.array(POINTS), jnp.array([-1, -1, -1, 1, 1, 1])
    found = mine(embedding, label, mining="batch_hard")
    assert_close(found.positive, HARDEST_POSITIVE, 1e-10, 1e-6)
    assert_close(found.negative, HARDEST_NEGATIVE, 1e-10, 1e-6)
    assert_close(TripletLoss().of_batch(embedding, label, mining="batch_hard"), 0.941550416384, 1e-10, 1e-6)


def batch(n=12, seed=0):
    rng = np.random.default_rng(seed)
    embedding = rng.standard_normal((n, 3))
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    return jnp.asarray(embedding), jnp.asarray(rng.integers(-1, 2, n)), jnp.asarray(rng.uniform(0, 10, n))


def by_loops(embedding, label, seconds, gap, mining, margin=0.3):
    """Every triplet in turn; each way of mining in its own words."""
    x, y, t = (np.asarray(a) for a in (embedding, label, seconds))
    n, losses = len(y), []

    def d(i, j):
        return np.linalg.norm(x[i] - x[j])

    for a in range(n):
        positives = [p for p in range(n) if p != a and y[p] * y[a] > 0 and abs(t[p] - t[a]) >= gap]
        negatives = [q for q in range(n) if y[q] * y[a] < 0]
        if not positives or not negatives:
            continue
        if mining == "batch_hard":
            losses.append(max(d(a, p) for p in positives) - min(d(a, q) for q in negatives) + margin)
            continue
        for p in positives:
            if mining == "batch_all":
                losses += [d(a, p) - d(a, q) + margin for q in negatives]
            else:
                beyond = [d(a, q) for q in negatives if d(a, q) > d(a, p)]
                chosen = min(beyond) if beyond else max(d(a, q) for q in negatives)
                losses.append(d(a, p) - chosen + margin)
    return np.mean(np.maximum(losses, 0)) if losses else 0.0


@pytest.mark.parametrize("mining", ["batch_all", "semi_hard", "batch_hard"])
def test_mining_agrees_with_plain_loops(mining, precision):
    loss = jax.jit(lambda *args: TripletLoss().of_batch(*args, mining))
    for seed, gap in itertools.product(range(4), (0.0, 2.0, 7.0)):
        embedding, label, seconds = batch(seed=seed)
        got = loss(embedding, label, seconds, jnp.asarray(gap))
        assert_close(got, by_loops(embedding, label, seconds, gap, mining), 1e-10, 1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("mining", ["batch_all", "semi_hard", "batch_hard"])
def test_gradients_of_a_batch_are_right_and_finite_where_nothing_can_be_mined(mining):
    embedding, label, seconds = batch(8)
    check_grads(jax.jit(lambda e: TripletLoss(1.0).of_batch(e, label, seconds, 1.0, mining)), (embedding,), 1, ["rev"])
    slope = jax.jit(jax.value_and_grad(lambda e, y: TripletLoss().of_batch(e, y, mining=mining)))
    for labels in (jnp.ones(8, int), jnp.zeros(8, int), jnp.array([1, -1] + 6 * [0])):
        value, change = slope(embedding, labels)
        assert value == 0
        assert (np.asarray(change) == 0).all()
    value, change = slope(jnp.ones((8, 3)), jnp.array([1, 1, 1, 1, -1, -1, -1, -1]))
    assert_close(value, 0.3)  # collapsed: the margin, and no way out
    assert np.isfinite(change).all()


@pytest.mark.parametrize("mining", ["batch_all", "semi_hard", "batch_hard"])
def test_batches_under_jit_vmap_and_in_a_loop_agree(mining):
    stacked = [jnp.stack(parts) for parts in zip(*(batch(seed=seed) for seed in range(3)))]
    assert_jit_vmap_loop_agree(jax.jit(lambda e, y, t: TripletLoss().of_batch(e, y, t, 1.0, mining)), *stacked)


@pytest.mark.parametrize("mining", ["batch_all", "semi_hard", "batch_hard"])
def test_flat_samples_and_pairs_close_in_time_are_in_no_triplet(mining):
    embedding, label, seconds = batch()
    loss = jax.jit(jax.value_and_grad(lambda e, y, t, gap: TripletLoss().of_batch(e, y, t, gap, mining)))
    value, slope = loss(embedding, label, seconds, 1.0)
    elsewhere = jnp.where((label == 0)[:, None], 7.0, embedding)
    assert value > 0
    assert loss(elsewhere, label, seconds, 1.0)[0] == value
    assert (np.asarray(slope)[np.asarray(label) == 0] == 0).all()
    assert loss(embedding, label, seconds, 11.0)[0] == 0  # all of them within ten seconds
    assert loss(embedding, label, jnp.zeros(12), 1.0)[0] == 0


def test_distances_are_euclidean():
    embedding = batch()[0]
    expected = np.linalg.norm(np.asarray(embedding)[:, None] - np.asarray(embedding)[None], axis=-1)
    assert_close(pair_distances(embedding), expected)


def test_collapse_is_seen():
    embedding, label, _ = batch(30, 1)
    spread = jax.jit(embedding_spread)
    lively = spread(embedding, label)
    distance = np.asarray(pair_distances(embedding))
    off = ~np.eye(30, dtype=bool)
    product = np.outer(label, label)
    assert_close(lively.mean_distance, distance[off].mean())
    assert_close(lively.positive_distance, distance[(product > 0) & off].mean())
    assert_close(lively.negative_distance, distance[product < 0].mean())
    spectrum = np.linalg.eigvalsh(np.cov(np.asarray(embedding).T))
    assert_close(lively.n_dimensions, spectrum.sum() ** 2 / (spectrum**2).sum())
    assert not lively.is_collapsed
    point = spread(jnp.ones((30, 3)), label)
    assert point.is_collapsed
    assert_close(point.active_share, 1.0)
    assert_close(point.mean_distance, 0.0)


def test_an_unknown_way_of_mining_is_said():
    with pytest.raises((ValueError, TypeError), match="batch_all"):
        mine(*batch()[:2], mining="hardest")
