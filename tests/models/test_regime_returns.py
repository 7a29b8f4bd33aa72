import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mfamm_jax.models.regime_returns import RegimeReturns

from ..checks import assert_close, assert_jit_vmap_loop_agree

LAW = {
    "means": [[0.5, 0.0], [-0.6, 0.2], [0.1, 0.9]],
    "exposures": [[1.0, 0.2, 0.0], [0.3, 0.0, 0.8]],
    "covariance": [[1.0, 0.3, 0.0], [0.3, 1.0, 0.0], [0.0, 0.0, 1.0]],
    "switching": [[0.9, 0.1, 0.0], [0.05, 0.9, 0.05], [0.1, 0.1, 0.8]],
}


@pytest.mark.thorough
def test_the_filter_is_bayes_rule_over_every_path_of_regimes(precision):
    """27 paths of three steps, by enumeration."""
    law = RegimeReturns(**LAW)
    pnl, _ = law.sample(jax.random.key(3), 4)
    means, switching = np.array(LAW["means"]), np.array(LAW["switching"])
    covariance = np.asarray(law.pnl_covariance, float)
    first = np.asarray(law.stationary(), float)
    weight = np.zeros(3)
    for path in itertools.product(range(3), repeat=3):
        chance = first[path[0]]
        for t, regime in enumerate(path):
            chance *= stats.multivariate_normal.pdf(np.asarray(pnl[t], float), means[regime], covariance)
            if t:
                chance *= switching[path[t - 1], regime]
        weight += chance * switching[path[-1]]
    known = law.filtered(pnl)
    assert_close(known[3], weight / weight.sum(), 1e-10, 1e-4)
    assert_close(known[0], first, 1e-10, 1e-5)


def test_samples_have_the_moments_of_the_law():
    """40,000 steps that remember some ten: within 5 standard errors of 1/sqrt(4,000)."""
    law = RegimeReturns(**LAW)
    pnl, regimes = jax.jit(lambda key: law.sample(key, 40_000))(jax.random.key(1))
    share = np.bincount(np.asarray(regimes), minlength=3) / 40_000
    assert np.abs(share - np.asarray(law.stationary())).max() < 0.04
    assert_close(law.stationary() @ law.switching, law.stationary(), 1e-12)
    noise = pnl - law.means[regimes]
    assert np.abs(np.cov(np.asarray(noise).T) - np.asarray(law.pnl_covariance)).max() < 0.05
    moved = np.mean(np.asarray(regimes)[1:][np.asarray(regimes)[:-1] == 2] == 2)
    assert abs(moved - 0.8) < 0.02


@pytest.mark.thorough
def test_jit_vmap_and_loop_agree():
    law = RegimeReturns(**LAW)
    pnl = jnp.stack([law.sample(jax.random.key(i), 6)[0] for i in range(3)])
    assert_jit_vmap_loop_agree(law.filtered, pnl)
