import jax
import jax.numpy as jnp
import numpy as np
import pytest
import statsmodels.api as sm
from scipy.optimize import minimize
from scipy.stats import mannwhitneyu, norm

from mfamm_jax.experiments.imbalance_scores import (
    Calibration,
    area,
    area_estimate,
    gain_estimate,
    linear_weights,
    reliability,
    ridge_logistic,
    time_blocks,
)
from mfamm_jax.experiments.imbalance_training import rank_area

from ..checks import assert_close


def sample(n=400, seed=0, strength=1.0, ties=False):
    rng = np.random.default_rng(seed)
    label = rng.choice([-1, 1], n)
    score = strength * label + 2 * rng.standard_normal(n)
    return (np.round(score) if ties else score), label


@pytest.mark.parametrize("ties", [False, True])
def test_the_area_is_the_share_of_ordered_pairs(ties):
    score, label = sample(60, ties=ties)
    pairs = [(a > b) + 0.5 * (a == b) for a in score[label > 0] for b in score[label < 0]]
    assert abs(area(score, label) - np.mean(pairs)) < 1e-12
    statistic = mannwhitneyu(score[label > 0], score[label < 0]).statistic
    assert abs(area(score, label) - statistic / len(pairs)) < 1e-12
    assert abs(float(rank_area(jnp.asarray(score), jnp.asarray(label))) - area(score, label)) < 1e-12


def test_leaving_out_a_block_is_the_area_without_it():
    score, label = sample(200)
    block = np.arange(200) // 20
    found = area_estimate(score, label, block, 10)
    left = np.array([area(score[block != b], label[block != b]) for b in range(10)])
    error = np.sqrt(9 / 10 * np.sum((left - left.mean()) ** 2))
    assert abs(found.value - area(score, label)) < 1e-12
    assert abs(found.error - error) < 1e-12
    assert abs(found.high - found.value - 2.2621571628 * error) < 1e-9  # Student's t, 9 degrees


@pytest.mark.parametrize("common", [0.0, 0.5])
def test_intervals_cover_as_often_as_they_say(common):
    """95 % intervals, 400 times: four standard deviations of the count are 4.4 %."""
    rng, hits = np.random.default_rng(1), 0
    block = np.repeat(np.arange(20), 20)
    # Two normals 1 apart; a pair within a block (one in twenty) shares the block's part of the score.
    truth = 0.95 * norm.cdf(1 / np.sqrt(2 + 2 * common)) + 0.05 * norm.cdf(1 / np.sqrt(2))
    for _ in range(400):
        label = rng.choice([-1, 1], 400)
        score = 0.5 * label + rng.standard_normal(400) + np.sqrt(common) * rng.standard_normal(20)[block]
        found = area_estimate(score, label, block, 20)
        hits += found.low < truth < found.high
    assert 0.906 < hits / 400 < 0.994


def test_a_gain_that_is_none_is_found_one_time_in_twenty():
    rng, block = np.random.default_rng(2), np.repeat(np.arange(20), 20)
    found = 0
    for _ in range(400):
        label = rng.choice([-1, 1], 400)
        shared = 0.5 * label + rng.standard_normal(400)
        one, two = (shared + rng.standard_normal(400) for _ in range(2))
        found += gain_estimate(one, two, label, block, 20).excludes(0)
    assert 0.006 < found / 400 < 0.094


def test_empty_blocks_are_no_evidence():
    score, label = sample(40)
    block = np.repeat([0, 1, 2], [10, 10, 20])
    few, spread = area_estimate(score, label, block, 3), area_estimate(score, label, 7 * block, 20)
    assert (few.low, few.high) == (spread.low, spread.high)
    gain = gain_estimate(score, -score, label, 7 * block, 20)
    assert gain.error == pytest.approx(gain_estimate(score, -score, label, block, 3).error)


def test_what_cannot_be_estimated_is_nan_without_a_warning():
    score, label = sample(40)
    at_once = area_estimate(score, label, np.where(label > 0, 3, np.arange(40) % 3), 20)
    assert at_once.value == area(score, label)
    for found in (at_once, area_estimate(score, np.ones(40, int), np.arange(40) % 5, 5)):
        assert np.isnan([found.error, found.low, found.high]).all()
        assert not found.excludes(0.5)
    assert np.isnan(area(score, np.ones(40, int)))


def test_the_compiled_area_is_right_for_many_samples(precision):
    """A product of two counts beyond int32, in both precisions."""
    score, label = sample(200_000, ties=True)
    score = score.astype(precision)
    found = jax.jit(rank_area)(jnp.asarray(score), jnp.asarray(label))
    assert_close(found, area(score, label), 1e-12, 1e-5)


def test_a_gain_is_paired():
    score, label = sample()
    other = score + 0.1 * np.random.default_rng(5).standard_normal(400)
    block = np.arange(400) // 20
    gain = gain_estimate(score, other, label, block, 20)
    assert abs(gain.value - (area(score, label) - area(other, label))) < 1e-12
    assert gain.error < 0.5 * area_estimate(score, label, block, 20).error
    same = gain_estimate(score, score, label, block, 20)
    assert same.value == same.error == 0
    assert not same.excludes(0)


def test_ridge_logistic_is_statsmodels():
    rng = np.random.default_rng(2)
    features = rng.standard_normal((500, 4))
    label = np.where(rng.random(500) < 1 / (1 + np.exp(-features @ [1.0, -0.5, 0, 2.0])), 1, -1)
    plain = sm.Logit((label > 0).astype(float), features).fit(disp=0).params
    np.testing.assert_allclose(ridge_logistic(features, label, 0.0), plain, rtol=1e-6, atol=1e-8)

    def loss(w, ridge):
        return np.log1p(np.exp(-label * (features @ w))).mean() + ridge / 2 * w @ w

    for ridge in (0.01, 0.1, 1.0):
        best = minimize(loss, np.zeros(4), (ridge,), tol=1e-12)
        np.testing.assert_allclose(ridge_logistic(features, label, ridge), best.x, atol=1e-5)
    chosen = linear_weights(features[:250], label[:250], features[250:], label[250:])
    assert area(features[250:] @ chosen, label[250:]) > 0.8


def test_separable_labels_have_finite_weights():
    features = np.linspace(-1, 1, 50)[:, None]
    assert np.isfinite(ridge_logistic(features, np.where(features[:, 0] > 0, 1, -1), 1e-4)).all()


def test_calibration_recovers_a_known_curve():
    rng = np.random.default_rng(3)
    score = rng.uniform(-1, 1, 40_000)

    def truth(s):
        return 0.5 + 0.4 * np.sign(s) * np.abs(s) ** 2

    label = np.where(rng.random(40_000) < truth(score), 1, -1)
    found = Calibration.fit(score, label)
    at = np.linspace(-0.95, 0.95, 39)
    got = np.asarray(found(jnp.asarray(at)))
    np.testing.assert_allclose(got, truth(at), atol=0.035)  # bins of 2,000: standard error 0.011
    np.testing.assert_allclose(got, 1 - got[::-1], atol=1e-15)
    assert (np.diff(np.asarray(found.hit)) >= 0).all()
    assert float(found(jnp.asarray(0.0))) == 0.5


def test_calibration_rises_even_where_the_score_is_noise_or_wrong():
    rng, at = np.random.default_rng(4), jnp.linspace(-1.2, 1.2, 241)
    for seed in range(20):
        score = rng.uniform(-1, 1, 1000)
        noise = Calibration.fit(score, rng.choice([-1, 1], 1000))
        assert (np.diff(np.asarray(noise(at))) >= 0).all(), seed
        np.testing.assert_allclose(noise(-at), 1 - noise(at), atol=1e-15)
    # Of all rising odd curves the flat one fits a score with the wrong sign best.
    np.testing.assert_array_equal(Calibration.fit(score, -np.sign(score).astype(int))(at), np.full(241, 0.5))


def test_calibration_is_the_best_rising_odd_curve():
    """Against isotonic regression of scikit-learn's kind, by brute force: pooled with its mirror image, one score a bin."""
    rng = np.random.default_rng(6)
    score, label = rng.uniform(-1, 1, 60), rng.choice([-1, 1], 60)
    found = Calibration.fit(score, label, n_bins=60)
    both, up = np.concatenate([score, -score]), np.concatenate([label, -label]) > 0
    order = np.argsort(both)
    y = up[order].astype(float)
    # Max-min formula of isotonic regression.
    best = [max(min(y[i : j + 1].mean() for j in range(k, 120)) for i in range(k + 1)) for k in range(120)]
    np.testing.assert_allclose(found(jnp.asarray(both[order])), best, atol=1e-12)


def test_a_score_of_zero_is_half_a_hit():
    found = Calibration.fit(np.array([0.0, 0.0, 0.0, 0.0, 0.5, -0.5]), np.array([1, 1, 1, 1, 1, -1]), n_bins=2)
    np.testing.assert_allclose(found.strength, [0.0, 1 / 3])
    np.testing.assert_allclose(found.hit, [0.5, (0.5 + 1 + 1) / 3])


def test_reliability_by_hand():
    found = reliability(np.array([0.1, 0.9, 0.2, 0.8]), np.array([-1, 1, 1, 1]), n_bins=2)
    np.testing.assert_allclose(found.predicted, [0.15, 0.85])
    np.testing.assert_allclose(found.observed, [0.5, 1.0])
    assert found.count.tolist() == [2, 2]
    assert abs(found.brier - np.mean([0.01, 0.01, 0.64, 0.04])) < 1e-12
    assert abs(found.log_loss + np.mean(np.log([0.9, 0.9, 0.2, 0.8]))) < 1e-12
    assert abs(found.error - 0.5 * (0.35 + 0.15)) < 1e-12
    assert np.isfinite(reliability(np.array([0.0, 1.0]), np.array([1, -1])).log_loss)


def test_blocks_of_time_are_equally_long():
    block = time_blocks(np.array([10.0, 10.5, 14.9, 19.99, 20.0]), 10)
    assert block.tolist() == [0, 0, 4, 9, 9]
