"""Opponents of a policy: the exact worst one against enumeration, a learned one below it, both against simulation."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models.intensity import ExponentialIntensity
from mfamm_jax.models.mid_price import BinomialMid
from mfamm_jax.policies import SkewedPolicy, SymmetricPolicy
from mfamm_jax.policies.quotes import Covariates
from mfamm_jax.simulation.episode import Episodes, episode_law
from mfamm_jax.simulation.opponent import Powers, play, train_opponent, worst_play
from mfamm_jax.simulation.step import PoissonMarket, step_with

pytestmark = pytest.mark.thorough
KNOWN = Covariates.neutral(0.05)
LIMIT = 4
PENALTY = 0.0003
EPISODES = Episodes(horizon=30.0, n_steps=60, terminal_penalty=0.002)
POWERS = Powers(drift=0.004, flow=0.3)
SKEWED, SYMMETRIC = SkewedPolicy(0.04, 0.004, LIMIT), SymmetricPolicy(0.04, LIMIT)


def a_market():
    side = ExponentialIntensity(2.0, 25.0), ExponentialIntensity(1.7, 24.0)
    return PoissonMarket(
        *side, 0.05, drift=0.001, bid_adverse_selection=0.002, ask_adverse_selection=0.001, maker_fee=0.001
    )


def game(policy, episodes=EPISODES, limit=LIMIT):
    return policy, a_market(), episodes, KNOWN, limit, PENALTY


def nobody(quotes, left, inventory):
    return jnp.zeros((3, *inventory.shape))


def test_without_an_opponent_it_is_the_exact_law_less_penalties():
    law = episode_law(SKEWED, a_market(), EPISODES, KNOWN, LIMIT)
    squares = np.asarray(law.inventory) @ np.arange(-LIMIT, LIMIT + 1) ** 2
    penalties = PENALTY * 0.5 * squares.sum() + 0.002 * squares[-1]
    expected = float(law.mean) - penalties
    assert float(play(*game(SKEWED), nobody).start) == pytest.approx(expected, rel=1e-12)


def test_a_constant_opponent_is_a_market_with_other_parameters():
    moved = eqx.tree_at(
        lambda m: (m.drift, m.bid.scale, m.ask.scale), a_market(), (0.003, 2.0 * np.exp(0.2), 1.7 * np.exp(-0.1))
    )
    elsewhere = play(SKEWED, moved, EPISODES, KNOWN, LIMIT, PENALTY, nobody)
    action = jnp.array([0.002, 0.2, -0.1])[:, None]
    same = play(*game(SKEWED), lambda quotes, left, q: jnp.broadcast_to(action, (3, q.shape[0])))
    np.testing.assert_allclose(same.value, elsewhere.value, rtol=1e-12)


def test_the_worst_one_is_that_of_all_opponents():
    """Three inventories, two steps: every table of corner actions, and 2,000 random ones from within the bounds."""
    episodes = Episodes(horizon=1.0, n_steps=2, terminal_penalty=0.002)
    policy = SkewedPolicy(0.04, 0.004, 1)
    worst = worst_play(*game(policy, episodes, 1), POWERS)

    @jax.jit
    @jax.vmap
    def against(table):
        def choose(quotes, left, q):
            return table[(left > 0.75).astype(int)]

        return play(*game(policy, episodes, 1), choose).start

    # Only the flat start matters in the first step: 8 corners there, and 8 at each of three inventories afterwards.
    corners = np.array(list(itertools.product((-1, 1), repeat=3))) * np.asarray(POWERS.limits())
    tables = []
    for first, *later in itertools.product(corners, repeat=4):
        tables.append(np.stack([np.stack(later, axis=1), np.repeat(first[:, None], 3, axis=1)]))
    values = against(jnp.asarray(np.array(tables)))
    assert float(worst.start) == pytest.approx(float(values.min()), rel=1e-12)
    rng = np.random.default_rng(0)
    random = rng.uniform(-1, 1, (2000, 2, 3, 3)) * np.asarray(POWERS.limits())[:, None]
    assert float(against(jnp.asarray(random)).min()) > float(worst.start)


def test_the_worst_push_without_flow_goes_against_the_inventory():
    worst = worst_play(*game(SKEWED), Powers(drift=0.004, flow=0.0))
    q = np.arange(-LIMIT, LIMIT + 1)
    drift = np.asarray(worst.actions[:, 0])
    # A lot or more outweighs what half a second's fills may change.
    np.testing.assert_array_equal(
        drift[:, np.abs(q) >= 2], np.broadcast_to(-0.004 * np.sign(q[np.abs(q) >= 2]), (60, 6))
    )


def test_more_power_does_more_harm():
    drifts = jnp.array([0.0, 0.002, 0.004, 0.008])
    values = jax.vmap(lambda d: worst_play(*game(SKEWED), Powers(d, 0.2)).start)(drifts)
    assert (np.diff(values) < 0).all()
    none = worst_play(*game(SKEWED), Powers(0.0, 0.0)).start
    assert float(none) == pytest.approx(float(play(*game(SKEWED), nobody).start), rel=1e-12)


@pytest.fixture(scope="module")
def learned():
    train = jax.jit(lambda policy, key: train_opponent(*game(policy), POWERS, key))
    return {name: train(policy, jax.random.key(0)) for name, policy in (("skewed", SKEWED), ("symmetric", SYMMETRIC))}


def test_a_learned_one_does_nearly_the_worst_to_quotes_that_give_the_inventory_away(learned):
    opponent, path = learned["skewed"]
    value, worst = (float(x.start) for x in (play(*game(SKEWED), opponent), worst_play(*game(SKEWED), POWERS)))
    unopposed = float(play(*game(SKEWED), nobody).start)
    assert float(path[0, 0]) == pytest.approx(unopposed, rel=1e-12)
    assert worst <= value < worst + 0.01 * (unopposed - worst)


def test_quotes_that_give_nothing_away_leave_it_in_the_dark(learned):
    opponent, _ = learned["symmetric"]
    value, worst = (float(x.start) for x in (play(*game(SYMMETRIC), opponent), worst_play(*game(SYMMETRIC), POWERS)))
    unopposed = float(play(*game(SYMMETRIC), nobody).start)
    assert worst + 0.1 * (unopposed - worst) < value < unopposed


def test_what_it_does_in_simulated_episodes_is_what_it_claims(learned):
    opponent, _ = learned["skewed"]
    n_paths, n_steps = 20_000, EPISODES.n_steps
    dt = EPISODES.horizon / n_steps
    market = a_market()

    def path(key):
        def tick(state, index):
            quotes = SKEWED(state)
            left = dt * (n_steps - index)
            drift, bid, ask = opponent(
                jax.tree.map(lambda x: jnp.asarray(x)[None], quotes), left, state.inventory[None]
            )[:, 0]
            moved = eqx.tree_at(
                lambda m: (m.drift, m.bid.scale, m.ask.scale),
                market,
                (market.drift + drift, market.bid.scale * jnp.exp(bid), market.ask.scale * jnp.exp(ask)),
            )
            uniforms = jax.random.uniform(jax.random.fold_in(key, index), (moved.n_uniforms,))
            state, record = step_with(moved, state, quotes, dt, jnp.asarray(PENALTY), uniforms)
            return state, record.penalty

        end, penalties = jax.lax.scan(tick, market.start(EPISODES.horizon, KNOWN), jnp.arange(n_steps))
        return end.cash + end.inventory * end.mid - penalties.sum() - 0.002 * end.inventory**2

    totals = np.asarray(jax.jit(jax.vmap(path))(jax.random.split(jax.random.key(3), n_paths)))
    expected = float(play(*game(SKEWED), opponent).start)
    assert totals.mean() == pytest.approx(expected, abs=4 * totals.std() / np.sqrt(n_paths))


def test_its_worth_has_the_derivative_of_differences():
    def worst(half_spread):
        return worst_play(*game(SkewedPolicy(half_spread, 0.004, LIMIT)), POWERS).start

    step = 1e-5
    difference = (worst(0.04 + step) - worst(0.04 - step)) / (2 * step)
    # Actions do not change within the step, so the minimum is as smooth as the recursion.
    assert float(jax.grad(worst)(jnp.asarray(0.04))) == pytest.approx(float(difference), rel=1e-6)


def test_jit_vmap_and_loop_agree_and_single_precision_is_near():
    spreads = jnp.array([0.03, 0.04, 0.05])

    def worst(half_spread):
        return worst_play(*game(SkewedPolicy(half_spread, 0.004, LIMIT)), POWERS).start

    looped = jnp.stack([worst(x) for x in spreads])
    np.testing.assert_allclose(jax.jit(jax.vmap(worst))(spreads), looped, rtol=1e-12)
    single = jax.tree.map(
        lambda x: x.astype(jnp.float32) if eqx.is_inexact_array(x) else x,
        (*game(SKEWED)[:4], jnp.asarray(PENALTY), POWERS),
    )
    policy, market, episodes, known, penalty, powers = single
    value = worst_play(policy, market, episodes, known, LIMIT, penalty, powers).start
    assert value.dtype == jnp.float32
    assert float(value) == pytest.approx(float(worst_play(*game(SKEWED), POWERS).start), rel=1e-4)


def test_what_the_recursion_does_not_know_gives_no_number():
    for changes in ({"fee_rate": 0.01}, {"impact_recovery": 1.0}):
        market = PoissonMarket(a_market().bid, a_market().ask, 0.05, **changes)
        assert np.isnan(float(worst_play(SKEWED, market, EPISODES, KNOWN, LIMIT, PENALTY, POWERS).start))


def test_a_mid_of_its_own_is_refused():
    market = PoissonMarket(a_market().bid, a_market().ask, 0.05, mid=BinomialMid(0.05))
    with pytest.raises(ValueError, match="drop mid and arrivals"):
        worst_play(SKEWED, market, EPISODES, KNOWN, LIMIT, PENALTY, POWERS)
