import jax.numpy as jnp
import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import mannwhitneyu

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


def test_intervals_cover_as_often_as_they_say():
    """Blocks with a common part: 95 % intervals should hold 300 times out of 300 x 0.95, 4 standard deviations about 5 %."""
    rng, hits = np.random.default_rng(1), 0
    block = np.repeat(np.arange(20), 20)
    # With two normals 1 apart at variances 1 + 0.5: area = Phi(1/sqrt(3)).
    truth = 0.7181486
    for _ in range(300):
        label = rng.choice([-1, 1], 400)
        score = 0.5 * label + rng.standard_normal(400) + np.sqrt(0.5) * rng.standard_normal(20)[block]
        found = area_estimate(score, label, block, 20)
        hits += found.low < truth < found.high
    # Pairs within a block share its common part: the estimate is a little above the formula's.
    assert 0.88 < hits / 300 <= 0.99


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
    weights = ridge_logistic(features, label, 0.1)
    slope = (
        -(label[:, None] * features / (1 + np.exp(label * (features @ weights)))[:, None]).mean(axis=0) + 0.1 * weights
    )
    assert np.abs(slope).max() < 1e-8
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


def test_a_score_that_is_wrong_is_calibrated_against_itself():
    rng = np.random.default_rng(4)
    score = rng.uniform(-1, 1, 5000)
    found = Calibration.fit(score, -np.sign(score).astype(int))
    assert float(found(jnp.asarray(0.9))) < 0.1


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
