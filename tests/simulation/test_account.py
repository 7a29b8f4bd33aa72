import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.simulation.account import Fills, after_fills, fee_of_fills, marked, new_account, revalued, worth

from ..checks import assert_close, assert_jit_vmap_loop_agree

REFERENCE = 50_000.0


def real(x):
    return jnp.asarray(x, float)


def account(contract="linear", mid=0.0, n_later=0):
    return new_account(worth(contract, real(mid), real(REFERENCE)), n_later)


def traded(before, bid=(), ask=(), *, contract="linear", rate=0.0, fee_model="quantity", later=()):
    """After fills (lots, price) at absolute prices."""
    fills = []
    for side in (bid, ask):
        lots, price = zip(*side) if side else ((0.0,), (REFERENCE,))
        fills.append(Fills(real(lots), real(price) - REFERENCE))
    later = jnp.asarray(later, float) - REFERENCE
    return after_fills(before, tuple(fills), real(rate), fee_model, contract, real(REFERENCE), later)


def value(state):
    return state.cash + state.inventory * state.worth


def moved(state, price, contract):
    return revalued(state, worth(contract, real(price - REFERENCE), real(REFERENCE)))


def test_a_bid_fill_raises_inventory_and_an_ask_fill_lowers_it():
    state = traded(account(), bid=[(3.0, 49_990.0)], ask=[(1.0, 50_010.0)])
    assert (state.inventory, state.lots[0], state.lots[1]) == (2, 3, 1)
    assert_close(state.capture, 3 * 10 + 1 * 10)
    assert_close(value(state), 40)


def test_linear_profit_by_hand():
    # Two bought at 50,000, one sold at 50,100; the rest is worth 50,050.
    state = traded(account(), bid=[(2.0, 50_000.0)])
    state = moved(state, 50_100.0, "linear")
    state = traded(state, ask=[(1.0, 50_100.0)], rate=0.5)
    state = moved(state, 50_050.0, "linear")
    assert_close(value(state), 100 + 50 - 0.5)


def test_inverse_profit_by_hand():
    """Equity in the coin: -balance - position / price - fee, where a purchase of q at p adds -q/p to the balance."""
    state = traded(account("inverse"), bid=[(100.0, 50_000.0)], contract="inverse")
    state = moved(state, 60_000.0, "inverse")
    assert_close(value(state), 100 / 50_000 - 100 / 60_000, float64=1e-14)
    state = traded(state, ask=[(40.0, 60_000.0)], contract="inverse", fee_model="value", rate=0.0004)
    state = moved(state, 55_000.0, "inverse")
    fee = 0.0004 * 40 / 60_000
    balance = -100 / 50_000 + 40 / 60_000
    assert_close(state.fees, fee, float64=1e-14)
    assert_close(value(state), -balance - 60 / 55_000 - fee, float64=1e-14)


def test_a_short_inverse_position_gains_when_the_price_falls():
    state = traded(account("inverse"), ask=[(100.0, 50_000.0)], contract="inverse")
    state = moved(state, 40_000.0, "inverse")
    assert_close(value(state), 100 / 40_000 - 100 / 50_000, float64=1e-14)


def test_worth_rises_with_the_price_and_is_zero_at_the_reference():
    prices = real([-10_000.0, 0.0, 10_000.0])
    np.testing.assert_array_equal(worth("linear", prices, real(REFERENCE)), prices)
    inverse = np.asarray(worth("inverse", prices, real(REFERENCE)))
    assert_close(inverse, 1 / REFERENCE - 1 / (REFERENCE + np.asarray(prices)), float64=1e-14)
    assert (np.diff(inverse) > 0).all()


@pytest.mark.parametrize(
    ("model", "expected"), [("quantity", 0.5 * 3), ("value", 0.5 * 3 * 2.0), ("flat", 0.5)]
)  # rate 0.5, three lots at 2
def test_fee_models_by_hand(model, expected):
    assert_close(fee_of_fills(model, real(0.5), real(2.0), real(3.0)), expected)
    assert fee_of_fills(model, real(0.5), real(2.0), real(0.0)) == 0
    assert_close(fee_of_fills(model, real(-0.5), real(2.0), real(3.0)), -expected)


def test_a_flat_fee_is_paid_for_every_fill():
    state = traded(account(), bid=[(3.0, 49_990.0), (0.0, 49_980.0), (1.0, 49_970.0)], rate=0.25, fee_model="flat")
    assert state.fees == 0.5
    assert state.n_fills == (2, 0)


@pytest.mark.parametrize("contract", ["linear", "inverse"])
@pytest.mark.parametrize("fee_model", ["quantity", "value", "flat"])
def test_capture_revaluation_and_fees_make_the_profit(contract, fee_model):
    rng = np.random.default_rng(5)
    state, price = account(contract, 20.0), REFERENCE + 20
    cash = inventory = paid = 0.0
    for _ in range(60):
        sides = []
        for sign in (1, -1):
            lots, price_of = rng.integers(0, 4, 2).astype(float), price - sign * rng.uniform(-20, 60, 2)
            sides.append(list(zip(lots, price_of)))
            for n, at in zip(lots, price_of):
                unit = at if contract == "linear" else 1 / at
                fee = {"quantity": n, "value": n * unit, "flat": float(n > 0)}[fee_model] * 2e-4
                cash -= sign * n * (at if contract == "linear" else -1 / at) + fee
                paid += fee
                inventory += sign * n
        state = traded(state, *sides, contract=contract, rate=2e-4, fee_model=fee_model)
        price += rng.normal() * 50
        state = moved(state, price, contract)
    assert_close(value(state), state.capture + state.revaluation - state.fees, float64=1e-12)
    assert_close(state.fees, paid, float64=1e-12)
    assert_close(state.inventory, inventory)
    direct = cash + inventory * (price if contract == "linear" else -1 / price)
    assert_close(value(state), direct, float64=1e-8 if contract == "linear" else 1e-12)


def test_markouts_measure_each_fill_against_the_later_mids():
    later = (50_005.0, 49_000.0)
    state = traded(account(n_later=2), bid=[(2.0, 49_990.0)], ask=[(1.0, 50_010.0)], later=later)
    assert_close(state.marked_out[0], [2 * 15, 2 * -990])
    assert_close(state.marked_out[1], [5, 1010])


def test_the_drawdown_is_the_largest_fall_from_the_peak():
    state = traded(account(), bid=[(1.0, 50_000.0)])
    for price, fall in ((50_010, 0), (50_004, 6), (50_030, 6), (50_020, 10), (50_029, 10), (49_990, 40)):
        state = marked(moved(state, price, "linear"))
        assert_close(state.drawdown, fall)
    assert_close(state.peak, 30)
    assert state.most == 1


def test_jit_vmap_and_loop_agree():
    def profit(lots, price):
        state = traded_at(lots, price)
        return state.cash, state.capture, state.fees

    def traded_at(lots, price):
        fills = (Fills(lots[None], price[None]), Fills(0 * lots[None], price[None]))
        return after_fills(account("inverse"), fills, real(0.001), "value", "inverse", real(REFERENCE), real([]))

    assert_jit_vmap_loop_agree(profit, jnp.array([1.0, 0.0, 3.0]), jnp.array([-5.0, 2.0, 7.0]))
