import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mfamm_jax.models import student_t
from mfamm_jax.results import RESULTS
from mfamm_jax.risk.cvar import quadrature_tail_risk
from mfamm_jax.solvers.flow_fit import fit_conditional_flow, fit_joint_flow, fit_loss_flow

from ..checks import assert_close

LEVELS = np.array([0.95, 0.99, 0.999])


def t_cvar(level, freedom=3.0):
    q = stats.t.ppf(level, freedom)
    return stats.t.pdf(q, freedom) / (1 - level) * (freedom + q**2) / (freedom - 1)


def risks(flow):
    return jnp.stack([quadrature_tail_risk(flow.survival_quantile, level).cvar for level in LEVELS])


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
def test_the_quantiles_of_a_law_give_its_tail_risk(precision):
    """4,000 quantiles of t with 3 degrees at equal steps of probability: no chance, but nothing beyond 1/8,000 either."""
    with jax.enable_x64(precision == "float64"):
        p = (jnp.arange(4000) + 0.5) / 4000
        solution = jax.jit(fit_loss_flow)(student_t.survival_quantile(p, jnp.asarray(3.0)))
        assert solution.result == RESULTS.successful
        found = np.asarray(risks(solution.value))
        np.testing.assert_allclose(found[:2], t_cvar(LEVELS[:2]), rtol=0.02)
        np.testing.assert_allclose(found[2], t_cvar(LEVELS[2]), rtol=0.06)
        assert abs(float(solution.value.degrees_of_freedom) - 3) < 0.4


@pytest.mark.slow
def test_tail_risk_of_twenty_samples_is_unbiased():
    """20,000 draws of t with 3 degrees each; one sample's error is 1.6, 3.7 and 7.6 % (standard deviation)."""

    @jax.jit
    @jax.vmap
    def fit(key):
        return risks(fit_loss_flow(student_t.sample(key, jnp.asarray(3.0), 20_000)).value)

    error = np.asarray(fit(jax.random.split(jax.random.key(0), 20))) / t_cvar(LEVELS) - 1
    assert (abs(error.mean(axis=0)) <= [0.03, 0.03, 0.06]).all(), error.mean(axis=0)


@pytest.mark.thorough
def test_skewed_and_light_laws_are_found_too():
    """A mixture of normals: quantiles within 3 %, the tail light."""
    key = jax.random.key(0)
    from_second = jax.random.uniform(key, (8000,)) < 0.3
    z = jax.random.normal(jax.random.key(1), (8000,))
    losses = jnp.where(from_second, 2.0 + 0.5 * z, -1.0 + z)
    flow = jax.jit(fit_loss_flow)(losses).value
    assert float(flow.degrees_of_freedom) > 8
    for p in (0.5, 0.1, 0.02):
        share = float(jnp.mean(losses > flow.survival_quantile(jnp.asarray(p))))
        assert abs(share - p) < 5 * np.sqrt(p * (1 - p) / 8000) + 0.005


def garch(n, seed=0):
    """Losses whose variance follows the last loss, and the logarithm of the variance known before each."""
    shocks = student_t.sample(jax.random.key(seed), jnp.asarray(5.0), n) / np.sqrt(5 / 3)

    def step(variance, shock):
        loss = jnp.sqrt(variance) * shock
        return 0.05 + 0.1 * loss**2 + 0.85 * variance, (loss, jnp.log(variance))

    return jax.lax.scan(step, jnp.ones(()), shocks)[1]


@pytest.mark.slow
def test_covariates_that_matter_are_used():
    """Volatility known before every loss: on later rows most of what can be known is."""
    losses, log_variance = garch(4000)
    n = 3000
    fit = jax.jit(lambda x, c: fit_conditional_flow(x, c, jax.random.key(1)))
    solution = fit(losses[:n], log_variance[:n, None])
    assert solution.result == RESULTS.successful
    later, known = losses[n:], log_variance[n:]
    found = float(jnp.mean(solution.value.log_density(later, known[:, None])))
    blind = float(jnp.mean(fit_loss_flow(losses[:n]).value.log_density(later)))
    scale = jnp.exp(0.5 * known) / np.sqrt(5 / 3)
    best = float(jnp.mean(student_t.log_density(later / scale, jnp.asarray(5.0)) - jnp.log(scale)))
    assert found - blind > 0.6 * (best - blind)
    calm, wild = (
        quadrature_tail_risk(solution.value.at(jnp.asarray([x])).survival_quantile, 0.99).cvar for x in (-0.5, 0.5)
    )
    # A unit of log variance: sqrt(e) = 1.65 times the risk.
    assert 1.4 < float(wild / calm) < 1.95


@pytest.mark.slow
def test_losses_that_come_together_are_found():
    """Multivariate t with 4 degrees: the risk of the sum, where independent tails would have two thirds of it."""
    n, freedom = 6000, 4.0
    normal = jax.random.normal(jax.random.key(0), (n, 2)) @ jnp.asarray([[1.0, 0.6], [0.0, 0.8]])
    rows = normal / jnp.sqrt(jax.random.gamma(jax.random.key(1), freedom / 2, (n, 1)) / (freedom / 2))
    solution = jax.jit(lambda x, k: fit_joint_flow(x, k))(rows, jax.random.key(2))
    assert solution.result == RESULTS.successful
    assert abs(float(solution.value.degrees_of_freedom) - freedom) < 1.0
    total = jnp.sort(jnp.sum(solution.value.sample(jax.random.key(3), 100_000), axis=1))
    found = float(jnp.mean(total[-1000:]))
    # The sum is t with scale sqrt(2 + 2 * 0.6).
    assert abs(found / (np.sqrt(3.2) * t_cvar(0.99, freedom)) - 1) < 0.15


def test_what_cannot_be_fitted_is_said():
    losses = jax.random.normal(jax.random.key(0), (100,))
    with pytest.raises(ValueError, match="90 rows of covariates for 100 losses"):
        fit_conditional_flow(losses, jnp.zeros((90, 1)), jax.random.key(0))
    with pytest.raises(ValueError, match="covariate 2 of row 3 is not finite"):
        fit_conditional_flow(losses, jnp.zeros((100, 2)).at[2, 1].set(jnp.inf), jax.random.key(0))
    with pytest.raises(ValueError, match="40 rows, expected at least 63"):
        fit_joint_flow(jnp.ones((40, 2)), jax.random.key(0))
    with pytest.raises(ValueError, match="half of the losses are 0"):
        fit_loss_flow(jnp.zeros(100))


@pytest.mark.slow
def test_the_unit_of_the_losses_does_not_matter():
    """Basis points or fractions: the same law, and a search that ends in either."""
    key = jax.random.key(8)
    losses = student_t.sample(key, jnp.asarray(4.0), 600)
    covariates = jax.random.normal(jax.random.fold_in(key, 1), (600, 1))
    pairs = jnp.stack([losses, jax.random.normal(jax.random.fold_in(key, 2), (600,))], axis=1)
    fits = {
        "one": lambda unit: fit_loss_flow(unit * losses + unit),
        "conditional": lambda unit: fit_conditional_flow(unit * losses + unit, covariates, key, width=2),
        "joint": lambda unit: fit_joint_flow(unit * pairs + unit, key, n_layers=1, width=2),
    }
    for name, fit in fits.items():
        small, large = jax.jit(fit)(jnp.asarray(1e-3)), jax.jit(fit)(jnp.asarray(10.0))
        assert bool(small.result == RESULTS.successful), name
        n_losses = 2 if name == "joint" else 1
        moved = np.log(1e4) * n_losses
        assert_close(small.stats["log_density"] - moved, large.stats["log_density"], 1e-3)
    quantile = [fit_loss_flow(unit * losses).value.survival_quantile(jnp.asarray(0.01)) / unit for unit in (1e-3, 10.0)]
    # A search that ends near the top of a flat likelihood: a fraction of the 7 % by which samples of this size differ.
    assert_close(quantile[0], quantile[1], 1e-2)
