"""Simulated P&L against its exact law, and derivatives of breach probabilities against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models.intensity import ExponentialIntensity
from mfamm_jax.policies.quotes import AbstractPolicy, Covariates, MarketState, Quotes
from mfamm_jax.risk.drawdown import barrier_survival, breach_probability, bridge_breach, drawdown_survival
from mfamm_jax.simulation.breach import simulate_pnl
from mfamm_jax.simulation.episode import Episodes, episode_law
from mfamm_jax.simulation.step import PoissonMarket

from ..checks import assert_close

MAX_INVENTORY, N_PATHS, N_BATCHES = 4, 4096, 24


class Leaning(AbstractPolicy):
    """Depths that lean against the inventory."""

    width: jax.Array
    lean: jax.Array

    def __call__(self, state: MarketState) -> Quotes:
        shift = self.lean * state.inventory
        one = jnp.ones_like(state.inventory)
        return Quotes(
            self.width + shift,
            self.width - shift,
            jnp.where(state.inventory < MAX_INVENTORY, one, 0),
            jnp.where(state.inventory > -MAX_INVENTORY, one, 0),
        )


def market(**given):
    side = ExponentialIntensity(1.0, 1.2)
    return PoissonMarket(side, side, 0.4, bid_adverse_selection=0.05, ask_adverse_selection=0.02, **given)


def episodes():
    return Episodes(n_paths=N_PATHS, n_steps=40, horizon=20.0)


def paths_of(theta, key, **given):
    return simulate_pnl(Leaning(*theta), market(**given), episodes(), Covariates.neutral(0.4), MAX_INVENTORY, key)


def batches(function, *arguments):
    """Mean over independent batches, and its standard error."""
    keys = jax.random.split(jax.random.key(5), N_BATCHES)
    rows = np.asarray(jax.lax.map(jax.jit(lambda key: function(*arguments, key)), keys), float)
    return rows.mean(axis=0), rows.std(axis=0, ddof=1) / np.sqrt(N_BATCHES)


THETA = jnp.asarray([0.9, 0.12])


@pytest.mark.thorough
def test_profit_has_the_exact_law_and_its_derivatives(precision):
    """Within 4 standard errors: means, deviations, and the score-function derivative of the mean."""
    theta = jnp.asarray(THETA, jnp.result_type(float))
    given = {"maker_fee": 0.01, "drift": 0.02}

    def law(theta):
        return episode_law(Leaning(*theta), market(**given), episodes(), Covariates.neutral(0.4), MAX_INVENTORY)

    def simulated(theta, key):
        paths = paths_of(theta, key, **given)
        last = paths.end[-1]
        mean = jnp.mean(last * paths.weight()[-1])
        return mean, (mean, jnp.std(last), jnp.mean(paths.inventory[-1] == 0))

    def looked(theta, key):
        slope, seen = jax.grad(simulated, has_aux=True)(theta, key)
        return jnp.concatenate([jnp.stack(seen), slope])

    exact, slope = jax.jit(lambda x: (law(x), jax.grad(lambda x: law(x).mean)(x)))(theta)
    wanted = [exact.mean, exact.std, exact.inventory[-1, MAX_INVENTORY], *slope]
    mean, error = batches(looked, theta)
    assert (np.abs(mean - np.asarray(wanted, float)) < 4 * error + 1e-5).all(), (mean, wanted, error)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["barrier", "max_drawdown"])
def test_derivatives_of_breach_probabilities_are_those_of_differences(kind):
    """Central differences with common numbers, 5 % either way; both within 4 joint standard errors."""

    def breach(theta, key):
        paths = paths_of(theta, key)
        given = paths.start, paths.end, paths.variance
        if kind == "barrier":
            survival = barrier_survival(*given, 1.5)
        else:
            survival = drawdown_survival(*given, 3.0, jax.random.fold_in(key, 7))
        return jnp.mean(breach_probability(survival, paths.weight()))

    def difference(key):
        steps = 0.05 * jnp.diag(THETA)
        return jnp.stack([(breach(THETA + s, key) - breach(THETA - s, key)) / (2 * s[i]) for i, s in enumerate(steps)])

    slope, error = batches(jax.grad(breach), THETA)
    wanted, spread = batches(difference)
    assert (np.abs(slope - wanted) < 4 * np.hypot(error, spread)).all(), (slope, wanted, error, spread)
    assert (np.abs(wanted) > 4 * spread).any()

    def without_score(theta, key):
        paths = paths_of(theta, key)
        given = paths.start, paths.end, paths.variance
        survival = (
            barrier_survival(*given, 1.5)
            if kind == "barrier"
            else drawdown_survival(*given, 3.0, jax.random.fold_in(key, 7))
        )
        return jnp.mean(1 - survival[-1])

    biased, _ = batches(jax.grad(without_score), THETA)
    assert (np.abs(biased - wanted) > 4 * np.hypot(error, spread)).any()


@pytest.mark.thorough
def test_survival_of_continuous_paths_is_the_bridges():
    path = jnp.cumsum(0.3 * jax.random.normal(jax.random.key(1), (30, 50)), axis=0)
    path = jnp.concatenate([jnp.zeros((1, 50)), path])
    variance = jnp.full((30, 50), jnp.asarray(0.09))
    survival = barrier_survival(path[:-1], path[1:], variance, 1.0)
    assert_close(1 - survival[-1], bridge_breach(path.T, variance.T, 1.0), 1e-12)
    assert bool(jnp.all(survival[1:] <= survival[:-1]))
    flat = jnp.ones_like(survival)
    assert_close(breach_probability(survival, flat), 1 - survival[-1], 1e-14)
    # From a running maximum a breach is likelier than from the start.
    key = jax.random.key(2)
    assert bool(jnp.all(drawdown_survival(path[:-1], path[1:], variance, 1.0, key)[-1] <= survival[-1] + 1e-12))


def test_jumps_over_the_barrier_count():
    start, end = jnp.asarray([[1.0, 1.0], [-3.0, 1.0]]), jnp.asarray([[1.0, 1.0], [1.0, 1.0]])
    survival = barrier_survival(start, end, jnp.zeros((2, 2)), 2.0)
    assert_close(survival, [[1, 1], [0, 1]])


def test_other_mids_are_refused():
    from mfamm_jax.models.mid_price import BrownianMid

    with pytest.raises(ValueError, match="drop mid and arrivals"):
        paths_of(THETA, jax.random.key(0), mid=BrownianMid(0.4, 0.0))
    with pytest.raises(ValueError, match=r"market.fee_rate is 0.001, expected 0"):
        paths_of(THETA, jax.random.key(0), fee_rate=0.001)
