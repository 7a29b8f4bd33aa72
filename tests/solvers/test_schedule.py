import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize

from mfamm_jax.models.impact import ExponentialKernel, PowerKernel, ShiftedPowerKernel
from mfamm_jax.solvers.schedule import (
    almgren_chriss,
    best_schedule,
    budget_adversary,
    impact_matrix,
    obizhaeva_wang,
    obizhaeva_wang_trades,
    power_law_schedule,
    schied_zhang,
)

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads


def exponential(rate=1.0):
    return ExponentialKernel(jnp.array([1.0]), jnp.array([rate]))


def grid(n=11, horizon=1.0):
    return jnp.linspace(0.0, horizon, n)


def test_no_other_schedule_is_cheaper():
    matrix = impact_matrix(ShiftedPowerKernel(1.0, 0.5, 0.6), grid())
    best = best_schedule(matrix, 2.0)
    assert_close(jnp.sum(best.trades), 2.0, 1e-12)
    assert_close(0.5 * best.trades @ matrix @ best.trades, best.cost, 1e-10)
    rng = np.random.default_rng(0)
    for _ in range(50):
        other = rng.standard_normal(11)
        other = best.trades + jnp.asarray(other - other.mean())
        assert float(0.5 * other @ matrix @ other) > float(best.cost)


def test_obizhaeva_wang_is_the_best_schedule_and_its_limit():
    x, horizon, rate, impact = (jnp.asarray(v) for v in (3.0, 2.0, 1.5, 0.7))
    for n in (1, 2, 10):
        edge, inner, cost = obizhaeva_wang_trades(x, horizon, rate, impact, n)
        matrix = impact * impact_matrix(exponential(1.5), grid(n + 1, 2.0))
        best = best_schedule(matrix, 3.0)
        assert_close(best.trades[0], edge, 1e-10)
        assert_close(best.cost, cost, 1e-10)
        assert np.isnan(inner) if n == 1 else abs(float(best.trades[1] - inner)) < 1e-10
    block, between, cost = obizhaeva_wang(x, horizon, rate, impact)
    edge, inner, fine = obizhaeva_wang_trades(x, horizon, rate, impact, 4000)
    assert_close(edge, block, 1e-3)
    assert_close(inner * 2000, between, 1e-3)
    assert_close(fine, cost, 1e-3)
    assert_close(2 * block + between * horizon, x, 1e-12)


@pytest.mark.slow
def test_the_power_law_density_sums_to_the_shares_and_keeps_its_impact_constant():
    for gamma in (0.3, 0.5, 0.8):

        def density(t, gamma=gamma):
            return float(power_law_schedule(jnp.array([t]), 2.0, 3.0, gamma).density[0])

        # t = 1 + cos(angle) takes the ends away.
        total = quad(lambda a: density(1 + np.cos(a)) * np.sin(a), 0, np.pi)[0]
        assert_close(total, 3.0, 1e-6)
        constant = float(power_law_schedule(jnp.array([1.0]), 2.0, 3.0, gamma).constant_impact)
        for s in (0.4, 1.0):
            parts = [
                quad(lambda t, s=s, g=gamma: abs(t - s) ** -g * density(t), a, b, limit=300)[0]
                for a, b in ((1e-12, s), (s, 2 - 1e-12))
            ]
            assert abs(sum(parts) / constant - 1) < 2e-3  # the quadrature's doing, at two singular ends


def test_almgren_chriss_is_the_mean_variance_optimum():
    given = {"shares": 10.0, "horizon": 2.0, "n_steps": 6, "volatility": 0.5, "temporary_impact": 0.3}
    given |= {"permanent_impact": 0.1, "half_spread": 0.05}
    tau = 2 / 6

    def cost(inner, aversion):
        x = np.concatenate([[10.0], inner, [0.0]])
        sold = -np.diff(x)
        mean = 0.05 * 100 + 0.05 * np.abs(sold).sum() + (0.3 - 0.05 * tau) / tau * np.sum(sold**2)
        return mean + aversion * 0.25 * tau * np.sum(x[1:] ** 2), mean

    for aversion in (0.0, 0.3, 3.0):
        found = almgren_chriss(**given, risk_aversion=aversion)
        inner = np.asarray(found.holdings[1:-1])
        best = minimize(lambda x, a=aversion: cost(x, a)[0], inner + 0.3, tol=1e-12)
        np.testing.assert_allclose(inner, best.x, atol=2e-4)
        assert_close(found.expected_cost, cost(inner, aversion)[1], 1e-10)
    twap = almgren_chriss(**given).holdings
    assert_close(twap, np.linspace(10, 0, 7), 1e-12)
    near = almgren_chriss(**given, risk_aversion=1e-12).holdings
    assert_close(near, twap, 1e-6)
    steep = almgren_chriss(**given, risk_aversion=1e9).holdings
    assert np.isfinite(steep).all()
    assert float(steep[1]) < 1e-3


@pytest.mark.parametrize("cost", [0.0, 0.1, 0.25])
def test_neither_player_gains_by_changing_alone(cost):
    matrix = impact_matrix(exponential(), grid(9))
    game = schied_zhang(matrix, 1.0, -0.4, cost)
    own = matrix + 2 * cost * jnp.eye(9)
    lower = jnp.tril(matrix, -1) + 0.5 * jnp.diag(jnp.diag(matrix))
    for mine, other, total in (
        (game.schedule, game.opponent_schedule, 1.0),
        (game.opponent_schedule, game.schedule, -0.4),
    ):
        assert_close(jnp.sum(mine), total, 1e-10)
        marginal = own @ mine + lower @ other
        assert_close(marginal - marginal[0], np.zeros(9), 1e-9)  # the best response's condition
    changes = np.sign(np.diff(np.asarray(game.schedule)))
    assert (np.abs(np.diff(changes)).sum() > 4) == (cost < 0.2)  # oscillates below G(0)/4


def test_no_disturbance_within_the_budget_is_worse():
    matrix = impact_matrix(exponential(), grid())
    schedule = best_schedule(matrix, 1.0).trades
    worst = budget_adversary(schedule, matrix, 0.3)
    lower = np.tril(np.asarray(matrix), -1)
    assert_close(jnp.linalg.norm(worst.worst_disturbance), 0.3, 1e-12)
    assert_close(worst.base_cost + schedule @ lower @ worst.worst_disturbance, worst.worst_cost, 1e-10)
    rng = np.random.default_rng(0)
    for _ in range(100):
        y = rng.standard_normal(11)
        y *= 0.3 / np.linalg.norm(y)
        assert float(schedule @ lower @ y) <= float(worst.worst_cost - worst.base_cost) + 1e-12
    slope = jax.grad(lambda x: budget_adversary(x, matrix, 0.3).worst_cost)(jnp.zeros(11))
    assert np.isfinite(slope).all()


@pytest.mark.thorough
def test_gradients_and_jit_vmap_loop():
    times = grid(6)

    def cost(rate, shares):
        return best_schedule(
            impact_matrix(ExponentialKernel(jnp.ones(1), jnp.asarray(rate)[None]), times), jnp.asarray(shares)
        ).cost

    check_grads(cost, (jnp.array(1.3), jnp.array(2.0)), order=1, modes=["fwd", "rev"])
    assert_jit_vmap_loop_agree(cost, jnp.array([0.5, 1.0, 2.0]), jnp.array([1.0, -2.0, 3.0]))
    check_grads(
        lambda a: almgren_chriss(1.0, 1.0, 4, 0.5, 0.3, risk_aversion=jnp.asarray(a)).expected_cost,
        (jnp.array(0.7),),
        1,
        ["rev"],
    )
    slope = jax.grad(lambda a: almgren_chriss(1.0, 1.0, 4, 0.5, 0.3, risk_aversion=a).expected_cost)(jnp.array(0.0))
    assert np.isfinite(slope)


def test_what_makes_no_sense_is_said():
    with pytest.raises(ValueError, match="infinite at 0: use ShiftedPowerKernel"):
        impact_matrix(PowerKernel(0.5), grid())
    with pytest.raises(ValueError, match="times must rise"):
        impact_matrix(exponential(), jnp.array([0.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match=r"permanent_impact tau/2 is -0\.2, expected > 0"):
        almgren_chriss(1.0, 2.0, 2, 0.5, 0.3, permanent_impact=1.0)
