import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mfamm_jax.models import student_t
from mfamm_jax.risk.backtest import acerbi_szekely, christoffersen, kupiec, shortfall_statistics

from ..checks import assert_close


def hits(n, where):
    return jnp.zeros(n, bool).at[jnp.asarray(where)].set(True)


def test_kupiec_by_hand_and_his_table():
    """Kupiec (1995): of 255 days at 99 % up to 6 exceedances pass at 5 %, 7 do not; 0 pass."""
    found = kupiec(hits(255, [3, 50, 80, 100, 140, 200, 254]), 0.99)
    p = 7 / 255
    by_hand = -2 * (248 * np.log(0.99) + 7 * np.log(0.01) - 248 * np.log(1 - p) - 7 * np.log(p))
    assert_close(found.statistic, by_hand, 1e-10)
    assert_close(found.p_value, stats.chi2.sf(by_hand, 1), 1e-10)
    accepted = [float(kupiec(jnp.arange(255) < k, 0.99).p_value) > 0.05 for k in range(12)]
    assert accepted == [False] + [True] * 6 + [False] * 5


def test_clusters_are_found():
    spread = christoffersen(hits(1000, np.arange(10, 1000, 50)), 0.98)
    packed = christoffersen(hits(1000, np.arange(100, 120)), 0.98)
    assert float(spread.independence.p_value) > 0.05
    assert float(packed.independence.p_value) < 1e-6
    assert float(packed.conditional_coverage.p_value) < 1e-6
    none = christoffersen(jnp.zeros(100, bool), 0.99)
    assert float(none.independence.statistic) == 0


def test_p_values_are_uniform_under_right_forecasts():
    """2,000 samples of 500 at 90 %: rejections at 5 % are 5 % within 5 standard errors (0.5 %), the discreteness of counts apart."""
    exceeded = jax.random.uniform(jax.random.key(0), (2000, 500)) > 0.9
    coverage = jax.vmap(lambda x: kupiec(x, 0.9).p_value)(exceeded)
    both = jax.vmap(lambda x: christoffersen(x, 0.9).conditional_coverage.p_value)(exceeded)
    for p in (coverage, both):
        assert 0.025 < float(jnp.mean(p < 0.05)) < 0.085


def t_forecast(freedom, level):
    q = student_t.survival_quantile(jnp.asarray(1 - level), freedom)
    density = jnp.exp(student_t.log_density(q, freedom))
    return q, density / (1 - level) * (freedom + q**2) / (freedom - 1)


@pytest.mark.thorough
@pytest.mark.parametrize("freedom", [5.0, 100.0])
def test_the_critical_value_of_the_second_test_is_the_published_one(freedom):
    """Acerbi & Szekely (2014): at 97.5 % over 250 days, -0.7 is the 5 % critical value for tails from t with 5 degrees to normal."""
    freedom, level = jnp.asarray(freedom), 0.975
    q, shortfall = t_forecast(freedom, level)

    def draw(key):
        return student_t.sample(key, freedom, 250)

    keys = jax.random.split(jax.random.key(0), 20_000)
    rows = jnp.ones(250)
    null = jax.lax.map(lambda k: shortfall_statistics(draw(k), q * rows, shortfall * rows, level)[1], keys)
    assert -0.85 < float(jnp.quantile(null, 0.05)) < -0.6
    assert abs(float(jnp.mean(null))) < 5 * float(jnp.std(null)) / np.sqrt(20_000)


def test_too_thin_a_forecast_is_refused_and_a_right_one_is_not():
    level, n = 0.975, 1000
    losses = student_t.sample(jax.random.key(3), jnp.asarray(3.0), n)
    for freedom, refused in ((3.0, False), (100.0, True)):
        q, shortfall = t_forecast(jnp.asarray(freedom), level)
        rows = jnp.ones(n)

        def draw(key, freedom=freedom):
            return student_t.sample(key, jnp.asarray(freedom), n)

        test = acerbi_szekely(losses, q * rows, shortfall * rows, level, draw, jax.random.key(4), 500)
        assert (float(test.unconditional_p_value) < 0.01) == refused
        assert (float(test.conditional_p_value) < 0.01) == refused


def test_no_exceedance_is_no_evidence_of_size():
    first, second = shortfall_statistics(jnp.zeros(50), jnp.ones(50), 2 * jnp.ones(50), 0.95)
    assert float(first) == 0
    assert float(second) == 1
