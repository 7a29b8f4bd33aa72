import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mfamm_jax.models import student_t
from mfamm_jax.risk.cvar import (
    check_sample,
    cvar_standard_error,
    empirical_tail_risk,
    loss_tail_risk,
    quadrature_tail_risk,
    reweighted_tail_risk,
    rulebook_tail_risk,
)

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads

LEVEL = 0.99


def normal_cvar(level):
    return stats.norm.pdf(stats.norm.ppf(level)) / (1 - level)


def t_cvar(level, freedom):
    q = stats.t.ppf(level, freedom)
    return stats.t.pdf(q, freedom) / (1 - level) * (freedom + q**2) / (freedom - 1)


def test_it_is_the_minimum_of_rockafellar_and_uryasev(precision):
    rng = np.random.default_rng(0)
    losses, weights = np.round(rng.standard_normal(50), 1), rng.random(50)  # rounding makes atoms
    for given in (None, weights):
        share = np.full(50, 0.02) if given is None else weights / weights.sum()
        c = np.sort(losses)
        objective = c + (share * np.maximum(losses - c[:, None], 0)).sum(axis=1) / 0.15
        risk = loss_tail_risk(jnp.asarray(losses), 0.85, None if given is None else jnp.asarray(given))
        assert_close(risk.cvar, objective.min(), 1e-12, 1e-5)
        assert_close(risk.value_at_risk, c[np.argmin(objective.round(5))], 1e-12, 1e-6)
    assert_close(empirical_tail_risk(jnp.asarray(-losses), 0.85).cvar, loss_tail_risk(jnp.asarray(losses), 0.85).cvar)


def test_equal_weights_are_no_weights_and_order_does_not_matter():
    losses = jax.random.normal(jax.random.key(0), (200,))
    plain = loss_tail_risk(losses, 0.9)
    weighted = loss_tail_risk(losses[::-1], 0.9, jnp.full(200, 7.0))
    assert_close(weighted.cvar, plain.cvar, 1e-12)
    assert_close(weighted.value_at_risk, plain.value_at_risk, 1e-12)


def test_it_is_coherent():
    """Shifts, scales, monotone in the level, never below the quantile, subadditive."""
    a, b = jax.random.t(jax.random.key(1), 3.0, (2, 1000))
    risks = [loss_tail_risk(a, level) for level in (0.5, 0.8, 0.95, 0.99)]
    assert all(x.cvar < y.cvar for x, y in itertools.pairwise(risks))
    assert all(x.cvar >= x.value_at_risk for x in risks)
    assert_close(loss_tail_risk(2 * a + 3, 0.95).cvar, 2 * risks[2].cvar + 3, 1e-12)
    assert float(loss_tail_risk(a + b, 0.95).cvar) <= float(risks[2].cvar + loss_tail_risk(b, 0.95).cvar)


@pytest.mark.thorough
@pytest.mark.parametrize("level", [0.95, 0.99, 0.999])
def test_sixteen_nodes_give_six_digits(level):
    normal = quadrature_tail_risk(lambda p: -jax.scipy.special.ndtri(p), level)
    assert_close(normal.cvar, normal_cvar(level), 1e-6)
    heavy = quadrature_tail_risk(lambda p: student_t.survival_quantile(p, jnp.asarray(3.0)), level)
    assert_close(heavy.cvar, t_cvar(level, 3.0), 1e-12)
    assert_close(heavy.value_at_risk, stats.t.ppf(level, 3.0), 1e-12)


def test_direct_and_reweighted_draws_agree_with_the_exact_value_within_five_standard_errors():
    """sqrt(n) sd = 4.59 for a normal law at 99 %; the reweighted draws come from N(2, 1.2)."""
    n = 200_000
    direct = loss_tail_risk(jax.random.normal(jax.random.key(0), (n,)), LEVEL)
    assert abs(float(direct.cvar) - normal_cvar(LEVEL)) < 5 * 4.59 / np.sqrt(n)
    drawn = 2.0 + 1.2 * jax.random.normal(jax.random.key(1), (n,))
    log_weights = -0.5 * drawn**2 + 0.5 * ((drawn - 2) / 1.2) ** 2
    repaired = reweighted_tail_risk(drawn, log_weights, LEVEL)
    # Found over 20 keys: standard deviation 0.0017.
    assert abs(float(repaired.cvar) - normal_cvar(LEVEL)) < 5 * 0.0017
    assert 1000 < float(repaired.effective_size) < n
    equal = reweighted_tail_risk(drawn, jnp.zeros(n), LEVEL)
    assert_close(equal.cvar, loss_tail_risk(drawn, LEVEL).cvar, 1e-9)
    assert_close(equal.effective_size, n, 1e-9)


def test_the_printed_equation_estimates_nothing():
    """One layer mu + s z: exact values of both literal readings, and neither is the conditional value at risk."""
    mu, s, n = 1.0, 2.0, 400_000
    z = jax.random.normal(jax.random.key(0), (n,))
    losses, true = mu + s * z, mu + s * normal_cvar(0.95)
    at_base = rulebook_tail_risk(losses, (z - mu) / s, 0.95)
    at_loss = rulebook_tail_risk(losses, z, 0.95)
    # Standard deviation of l f is at most 5: 5/sqrt(n)/0.05 = 0.16.
    assert abs(float(at_base) - (1 - mu**2 / s) / 0.05) < 5 * 0.16
    assert abs(float(at_loss) - s / 0.05) < 5 * 0.16
    assert abs(float(loss_tail_risk(losses, 0.95).cvar) - true) < 0.05
    for literal in (at_base, at_loss):
        assert abs(float(literal) - true) > 4


@pytest.mark.thorough
def test_the_standard_error_is_the_one_found_over_samples():
    """sqrt(n) sd = 4.59 (normal) and 17.3 (t with 5 degrees) at 99 %."""
    for draw, expected in (
        (lambda k: jax.random.normal(k, (10_000,)), 4.59),
        (lambda k: student_t.sample(k, jnp.asarray(5.0), 10_000), 17.3),
    ):
        keys = jax.random.split(jax.random.key(0), 400)
        found = jax.lax.map(lambda k, draw=draw: loss_tail_risk(draw(k), LEVEL).cvar, keys)
        said = jax.lax.map(lambda k, draw=draw: cvar_standard_error(draw(k), LEVEL), keys[:50])
        # 400 samples know a standard deviation to 3.5 %, heavy tails to less.
        assert abs(float(jnp.std(found)) * 100 / expected - 1) < 0.15
        assert abs(float(jnp.mean(said)) * 100 / expected - 1) < 0.15


@pytest.mark.thorough
def test_gradients_need_no_derivative_of_the_quantile():
    """d CVaR = E[dL | L >= q], and central differences agree; jit = vmap = loop."""
    z = jax.random.normal(jax.random.key(0), (1000,))

    def risk(numbers):
        return loss_tail_risk(numbers[0] + numbers[1] * z + 0.1 * numbers[1] ** 2 * z**3, 0.95).cvar

    at = jnp.asarray([0.3, 1.2])
    losses = at[0] + at[1] * z + 0.1 * at[1] ** 2 * z**3
    worst = jnp.argsort(losses)[-50:]
    by_hand = jnp.stack([jnp.ones(()), jnp.mean((z + 0.2 * at[1] * z**3)[worst])])
    assert_close(jax.grad(risk)(at), by_hand, 1e-10)
    check_grads(risk, (at,), order=1, modes=["fwd", "rev"], rtol=1e-6, atol=1e-7)
    assert_jit_vmap_loop_agree(risk, jnp.stack([at, 2 * at]))
    weights = jnp.abs(z) + 0.1
    check_grads(lambda s: loss_tail_risk(s * z, 0.95, weights).cvar, (jnp.asarray(1.5),), order=1, rtol=1e-6)


def test_absurd_levels_and_small_samples_are_refused():
    with pytest.raises(ValueError, match=r"tail_level is 1\.0, expected a number in \(0, 1\)"):
        loss_tail_risk(jnp.ones(5), 1.0)
    with pytest.raises(ValueError, match=r"tail_level is -0\.1"):
        quadrature_tail_risk(lambda p: p, -0.1)
    with pytest.raises(
        ValueError, match=r"100 losses leave 1\.0 beyond the level 0\.99, expected at least 10: bring 1000 losses"
    ):
        check_sample(100, 0.99)
    check_sample(1000, 0.99)
