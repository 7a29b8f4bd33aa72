import numpy as np
import pytest

from mfamm_jax.experiments.signal_regimes import SignalClock, coarser, estimate_regimes, on_finest
from mfamm_jax.models import ExponentialIntensity
from mfamm_jax.policies.regime_table import RegimeMap
from mfamm_jax.solvers.hjb import ExplicitRK, Grid, HJBProblem, solve_hjb
from mfamm_jax.solvers.hjb.states import RegimeProblem

from ..checks import assert_close

STEP, RATES, DRIFT = 0.05, np.array([1.0, 2.0, 4.0]), np.array([-0.03, 0.0, 0.03])
GENERATOR = np.array([[-0.8, 0.6, 0.2], [0.5, -1.0, 0.5], [0.2, 0.6, -0.8]])


def imbalance_only():
    return RegimeMap(0.3, 0.7, True, False)


def planted(n=200_000, seed=0, half_spread=0.1, decay=0.0):
    """A chain of three regimes, exact in the interval between rows; the mid drifts and diffuses; asks fill at RATES."""
    rng = np.random.default_rng(seed)
    stay = np.exp(STEP * np.diag(GENERATOR))
    away = np.where(np.eye(3) > 0, 0, GENERATOR)
    away = np.cumsum(away / away.sum(axis=1, keepdims=True), axis=1)
    regime = np.ones(n, int)
    uniform = rng.random((2, n))
    for k in range(1, n):
        before = regime[k - 1]
        moves = uniform[0, k] > stay[before]
        regime[k] = np.searchsorted(away[before], uniform[1, k]) if moves else before
    mid = np.concatenate([[0.0], np.cumsum(DRIFT[regime] * STEP + 0.01 * np.sqrt(STEP) * rng.standard_normal(n))[:-1]])
    reach = np.exp(-decay * half_spread) * STEP
    buys, sells = rng.poisson(RATES[regime] * reach), rng.poisson(RATES[::-1][regime] * reach)
    return SignalClock(STEP, regime, mid, np.full(n, half_spread), buys, sells)


@pytest.fixture(scope="module")
def clock():
    return planted()


def test_a_planted_chain_is_recovered(clock):
    found = estimate_regimes(clock, imbalance_only(), horizon=1.0, decay=0.0)
    # About 10,000 s: rates between regimes to a few per cent, drifts to a tenth.
    np.testing.assert_allclose(found.generator, GENERATOR, atol=0.05)
    np.testing.assert_allclose(found.generator.sum(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(found.ask_scale, RATES, rtol=0.03)
    np.testing.assert_allclose(found.bid_scale, RATES[::-1], rtol=0.03)
    np.testing.assert_allclose(found.drift, DRIFT, atol=0.003)
    np.testing.assert_allclose(found.sojourn, [1.25, 1.0, 1.25], rtol=0.05)


def test_the_moves_horizon_does_not_change_the_drift(clock):
    drifts = [estimate_regimes(clock, imbalance_only(), horizon, 0.0).drift for horizon in (STEP, 0.5, 2.0)]
    for drift in drifts:
        np.testing.assert_allclose(drift, DRIFT, atol=0.004)


def test_orders_counted_at_the_touch_are_carried_to_the_mid():
    found = estimate_regimes(planted(100_000, decay=8.0), imbalance_only(), 1.0, 8.0)
    np.testing.assert_allclose(found.ask_scale, RATES, rtol=0.06)


def test_a_market_and_its_mirror_image_give_the_same_estimates(clock):
    mirrored = SignalClock(STEP, 2 - clock.regime, -clock.mid, clock.half_spread, clock.sells, clock.buys)
    for name, value in vars(estimate_regimes(clock, imbalance_only(), 1.0, 0.0)).items():
        other = getattr(estimate_regimes(mirrored, imbalance_only(), 1.0, 0.0), name)
        expected = value[::-1] if name == "share" else value
        np.testing.assert_allclose(other, expected, rtol=1e-9, atol=1e-12)


def test_a_trend_of_the_past_is_no_signal():
    quiet = planted(50_000)
    trend = SignalClock(
        STEP, np.ones(50_000, int), 0.01 * np.arange(50_000.0), quiet.half_spread, quiet.buys, quiet.sells
    )
    found = estimate_regimes(trend, imbalance_only(), 1.0, 0.0)
    assert (found.drift == 0).all()


def test_noise_is_hardly_believed():
    rng = np.random.default_rng(3)
    n = 50_000
    noise = SignalClock(
        STEP, rng.integers(0, 3, n), np.cumsum(0.002 * rng.standard_normal(n)), np.ones(n), *np.ones((2, n), int)
    )
    found = estimate_regimes(noise, imbalance_only(), 1.0, 0.0)
    believed, measured = np.abs(found.move[[0, 2]]), np.abs(found.measured[[0, 2]])
    expected = measured * measured**2 / (measured**2 + found.error[[0, 2]] ** 2)
    np.testing.assert_allclose(believed, expected, rtol=1e-9)
    assert (measured < 4 * found.error[[0, 2]]).all()


def test_the_error_of_a_move_is_its_scatter_over_repetitions():
    regimes, moves, errors = imbalance_only(), [], []
    for seed in range(30):
        found = estimate_regimes(planted(8_000, seed), regimes, 1.0, 0.0)
        moves.append(found.measured[2])
        errors.append(found.error[2])
    # 30 repetitions know a standard deviation to 13 %; clusters of 30 s over 400 s add as much again.
    assert 0.6 < np.mean(errors) / np.std(moves, ddof=1) < 1.6


def test_a_regime_never_seen_falls_back_on_the_coarser_map(clock):
    fine = RegimeMap(0.3, 0.7)
    coarse = estimate_regimes(clock, imbalance_only(), 1.0, 0.0)
    calm = SignalClock(STEP, 2 * clock.regime, clock.mid, clock.half_spread, clock.buys, clock.sells)
    found = estimate_regimes(calm, fine, 1.0, 0.0, (imbalance_only(), coarse))
    np.testing.assert_allclose(found.move[1::2], coarse.move, rtol=1e-9)
    np.testing.assert_allclose(found.ask_scale[1::2], coarse.ask_scale, rtol=1e-9)
    assert np.isfinite(found.drift).all()
    assert np.isfinite(found.generator).all()


def test_one_regime_knows_nothing_of_drift(clock):
    always = RegimeMap(0.3, 0.7, False, False)
    one = SignalClock(STEP, 0 * clock.regime, clock.mid, clock.half_spread, clock.buys, clock.sells)
    found = estimate_regimes(one, always, 1.0, 0.0)
    assert found.drift.tolist() == [0.0]
    assert found.generator.tolist() == [[0.0]]
    assert_close(found.bid_scale, found.ask_scale)


def test_coarser_maps_are_numbered_by_what_they_listen_to():
    fine = RegimeMap(0.3, 0.7)
    assert coarser(imbalance_only(), fine).tolist() == [0, 0, 1, 1, 2, 2]
    assert coarser(RegimeMap(0.3, 0.7, False, True), fine).tolist() == [0, 1, 0, 1, 0, 1]
    assert coarser(RegimeMap(0.3, 0.7, False, False), imbalance_only()).tolist() == [0, 0, 0]
    assert coarser(fine, fine).tolist() == list(range(6))


@pytest.mark.slow
def test_a_coarser_map_solved_on_the_finest_is_itself(clock):
    coarse = imbalance_only()
    found = estimate_regimes(clock, coarse, 1.0, 0.0)
    fine = on_finest(found, coarse)
    own = {"generator": found.generator, "drift": found.drift, "bid": found.bid_scale, "ask": found.ask_scale}
    large = {"generator": fine["generator"], "drift": fine["drift"], "bid": fine["bid_scale"], "ask": fine["ask_scale"]}
    small, big = (_value(x) for x in (own, large))
    for i, number in enumerate(coarser(coarse, RegimeMap(0.3, 0.7))):
        assert_close(big[:, i] - big[:, 0], small[:, number] - small[:, 0], 1e-9)


def _value(numbers):
    problem = RegimeProblem(
        regimes=HJBProblem(
            bid=ExponentialIntensity(numbers["bid"], 15.0),
            ask=ExponentialIntensity(numbers["ask"], 15.0),
            inventory_penalty=1e-3,
            drift=numbers["drift"],
            horizon=10.0,
        ),
        generator=numbers["generator"],
    )
    return np.asarray(solve_hjb(problem, ExplicitRK(30), Grid(3, 1)).value.relative_value[-1])
