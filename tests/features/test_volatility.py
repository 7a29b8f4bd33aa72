import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfamm_jax.features.volatility import rolling_volatility as eager_volatility
from mfamm_jax.features.volatility import truncated_variance_share

from ..checks import assert_close, assert_jit_vmap_loop_agree

rolling_volatility = jax.jit(eager_volatility, static_argnames=("n_window", "n_minimum", "truncation"))


def test_consistency_factor_at_99_percent(precision):
    assert_close(truncated_variance_share(jnp.array(0.99)), 0.924756, float64=1e-6)
    z = np.random.default_rng(0).normal(size=400_000)
    kept = z[np.abs(z) <= 1.2815515655]
    assert_close(truncated_variance_share(jnp.array(0.8)), np.mean(kept**2), float64=3e-3, float32=3e-3)


def test_a_spike_is_dropped_and_the_rest_rescaled(precision):
    returns = np.array([1.0, -2.0, 1.0, 40.0, -1.0, 2.0])
    mid = jnp.asarray(np.concatenate([[0.0], np.cumsum(returns)]), float)
    volatility = rolling_volatility(mid, 4.0, 0.01, n_window=6, n_minimum=6)
    # median |r| = 1.5, threshold 5.73: the five others have mean square 11/5; 4 s a step
    assert_close(volatility[-1], np.sqrt(11 / 5 / truncated_variance_share(jnp.array(0.99)) / 4))


def reference(mid, row, n_window, truncation):
    """One window by boolean indexing, in NumPy."""
    returns = np.diff(mid)[max(row - n_window, 0) : row]
    size = np.abs(returns)
    median = np.median(size[size > 0]) if (size > 0).any() else 0.0
    cut = 2.5758293035489 * 1.482602218505602 * median if truncation == "mad" else np.quantile(size, 0.99)
    return np.sqrt(np.mean(returns[size <= cut] ** 2) / 0.92475611)


@pytest.mark.parametrize("truncation", ["mad", "quantile"])
def test_every_window_agrees_with_a_plain_loop(truncation):
    mid = np.round(np.cumsum(np.random.default_rng(1).standard_t(3, 150)))
    got = rolling_volatility(jnp.asarray(mid), 1.0, 1e-3, n_window=40, n_minimum=5, truncation=truncation)
    expected = [reference(mid, row, 40, truncation) for row in range(5, 150)]
    assert_close(got[5:], expected, float64=1e-7)


def test_true_volatility_is_recovered_under_contamination():
    rng = np.random.default_rng(2)
    returns = 0.02 * rng.normal(size=20_000) * np.where(rng.random(20_000) < 0.017, 6.0, 1.0)
    mid = jnp.asarray(np.concatenate([[0.0], np.cumsum(returns)]))
    level = {t: jnp.mean(rolling_volatility(mid, 1.0, 1e-6, truncation=t)[300:]) for t in ("mad", "quantile")}
    assert abs(level["mad"] - 0.0201) < 2e-4
    assert abs(level["quantile"] - 0.0211) < 3e-4


def test_first_rows_are_the_initial_value_and_never_below_the_floor(precision):
    mid = jnp.arange(5.0)
    assert_close(rolling_volatility(mid, 1.0, 0.5, initial=3.0, n_window=4, n_minimum=2)[:2], [3.0, 3.0])
    assert_close(rolling_volatility(mid, 1.0, 0.5, n_window=4, n_minimum=2)[:2], [0.5, 0.5])
    assert_close(rolling_volatility(jnp.zeros(5), 1.0, 0.5, n_window=4, n_minimum=2), jnp.full(5, 0.5))


def test_quiet_markets_keep_their_rare_moves():
    returns = np.tile([0.0, 0.0, 0.0, 1.0, -1.0], 20)
    mid = jnp.asarray(np.concatenate([[0.0], np.cumsum(returns)]))
    volatility = rolling_volatility(mid, 1.0, 1e-3, n_window=100, n_minimum=50)
    assert_close(volatility[-1], np.sqrt(0.4 / 0.92475611), float64=1e-7)


def test_unknown_truncation_is_refused():
    with pytest.raises(Exception, match="truncation"):
        eager_volatility(jnp.zeros(3), 1.0, 0.1, truncation="none")


def test_gradient_is_that_of_the_kept_returns_and_zero_at_the_floor():
    mid = jnp.asarray(np.cumsum(np.random.default_rng(3).normal(size=30)))

    @jax.jit
    def last(mid):
        return rolling_volatility(mid, 1.0, 0.01, n_window=20, n_minimum=5)[-1]

    direction = jnp.cos(jnp.arange(30.0))
    slope = (last(mid + 1e-6 * direction) - last(mid - 1e-6 * direction)) / 2e-6
    assert_close(jnp.vdot(jax.grad(last)(mid), direction), slope, 1e-7)
    assert_close(jax.grad(last)(jnp.zeros(30)), jnp.zeros(30))


def test_jit_vmap_and_loop_agree(precision):
    mid = jnp.asarray(np.cumsum(np.random.default_rng(4).normal(size=(2, 40)), axis=1), float)
    assert_jit_vmap_loop_agree(lambda m: rolling_volatility(m, 1.0, 0.01, n_window=20), mid)


VOLATILITY = jax.jit(lambda mid: rolling_volatility(mid, 1.0, 0.01, n_window=15, n_minimum=5))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 59), st.integers(0, 2**32 - 1))
def test_later_mids_change_no_earlier_value(last, seed):
    mid = np.cumsum(np.random.default_rng(seed).normal(size=60))
    other = np.where(np.arange(60) > last, 100.0 - mid, mid)
    before, after = (VOLATILITY(jnp.asarray(m)) for m in (mid, other))
    np.testing.assert_array_equal(before[: last + 1], after[: last + 1])
