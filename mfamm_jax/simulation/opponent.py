r"""A fast trader who plays against a quoting policy: within bounds it pushes the mid and speeds up or slows down the fills of either side.

On the grid of inventories the policy is fixed and the game is a decision process of the opponent, so the worst one is known exactly: one backward
recursion over time, in which the best action lies in a corner of its powers: what it minimises is linear in the chance of either fill and in the drift, each
for itself. It knows the inventory. A learned opponent sees only what everybody sees - the quotes and the time - and is trained by the gradient
of the same recursion: how much of the exact harm it reaches is how much the quotes give away.

Source: docs/equations.md, adversarial testing.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.fields import Checked, real_field
from mfamm_jax.models.perceptron import Perceptron, silent_perceptron
from mfamm_jax.policies.quotes import AbstractPolicy, Covariates, MarketState, Quotes
from mfamm_jax.simulation.episode import Episodes, shifted, step_outcomes
from mfamm_jax.simulation.step import PoissonMarket

N_SEEN = 5
Action = Float[Array, "3 *inventory"]  # drift [price/s], log factors of the bid's and the ask's fill rate
Chooser = Callable[[Quotes, Float[Array, ""], Float[Array, " inventory"]], Action]


class Powers(Checked):
    """What the opponent can do, at every moment anew."""

    drift: Float[Array, ""] = real_field(default=0.0, lower=0.0, unit="price/s", help="largest push of the mid")
    flow: Float[Array, ""] = real_field(default=0.3, lower=0.0, help="largest log factor on either side's fill rate")

    def limits(self) -> Float[Array, "3"]:
        """Largest absolute action."""
        return jnp.stack([self.drift, self.flow, self.flow])


class Game(eqx.Module):
    """What a policy is worth against an opponent.

    Args:
        value: Expected P&L less penalties from each time and inventory to the end [price lot]; the last row is the terminal penalty.
        actions: Of the opponent.
    """

    value: Float[Array, "time inventory"]
    actions: Float[Array, "step 3 inventory"]

    @property
    def start(self) -> Float[Array, ""]:
        """Worth of the whole episode from a flat start."""
        return self.value[0, self.value.shape[1] // 2]


def play(
    policy: AbstractPolicy,
    market: PoissonMarket,
    episodes: Episodes,
    covariates: Covariates,
    max_inventory: int,
    inventory_penalty: Float[Array, ""] | float,
    choose: Chooser,
) -> Game:
    r"""Backward recursion of $E[pnl - \phi\int q^2 dt - \alpha q_T^2]$ for quotes of one lot that keep to the limit.

    Args:
        policy: Quotes; knows nothing of the opponent.
        market: Without it; Poisson fills and a Brownian mid. As in `episode_law` values are NaN with an `impact_recovery` or a `fee_rate`.
        episodes: Length, steps, terminal penalty.
        covariates: What the policy believes.
        max_inventory: Of the grid [lots].
        inventory_penalty: $\phi$ [price/(lot s)].
        choose: (quotes at every inventory, time left, inventories) -> actions.
    """

    def against(quotes: Quotes, left: Array, inventory: Array, worth: Callable) -> tuple[Array, Action]:
        action = choose(quotes, left, inventory)
        return worth(action), action

    return _recursion(policy, market, episodes, covariates, max_inventory, inventory_penalty, against)


def worst_play(
    policy: AbstractPolicy,
    market: PoissonMarket,
    episodes: Episodes,
    covariates: Covariates,
    max_inventory: int,
    inventory_penalty: Float[Array, ""] | float,
    powers: Powers,
) -> Game:
    """As `play` against the opponent that does most harm; it knows the inventory. Exact."""
    signs = jnp.stack(jnp.meshgrid(*[jnp.array([0.0, -1.0, 1.0])] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    # Doing nothing comes first: among equals the opponent stays quiet.
    corners = signs.astype(episodes.horizon.dtype) * powers.limits()

    def worst(quotes: Quotes, left: Array, inventory: Array, worth: Callable) -> tuple[Array, Action]:
        values = jax.vmap(lambda corner: worth(jnp.broadcast_to(corner[:, None], (3, inventory.shape[0]))))(corners)
        return jnp.min(values, axis=0), corners[jnp.argmin(values, axis=0)].T

    return _recursion(policy, market, episodes, covariates, max_inventory, inventory_penalty, worst)


def _recursion(
    policy: AbstractPolicy,
    market: PoissonMarket,
    episodes: Episodes,
    covariates: Covariates,
    max_inventory: int,
    inventory_penalty: Float[Array, ""] | float,
    decide: Callable[..., tuple[Array, Action]],
) -> Game:
    if market.mid is not None or market.arrivals is not None:
        raise ValueError(
            "an opponent plays in a market with a Brownian mid and Poisson arrivals: drop mid and arrivals"
        )
    time_step = episodes.horizon / episodes.n_steps
    q = jnp.arange(-max_inventory, max_inventory + 1, dtype=time_step.dtype)
    zero = jnp.zeros_like(time_step)

    def back(following: Array, index: Array) -> tuple[Array, tuple[Array, Action]]:
        left = time_step * (episodes.n_steps - index)
        quotes = jax.vmap(lambda inventory: policy(MarketState(zero, inventory, zero, left, covariates)))(q)

        def worth(action: Action) -> Float[Array, " inventory"]:
            drift, bid_flow, ask_flow = action
            factors = jnp.exp(bid_flow), jnp.exp(ask_flow)
            chances = market.fill_probabilities(quotes, time_step, factors)
            total = jnp.zeros_like(q)
            for outcome in step_outcomes(market, quotes, chances, q, time_step, market.drift + drift):
                held = q + outcome.shift
                later = shifted(following, -outcome.shift)
                kept = outcome.gain - inventory_penalty * held**2 * time_step + later
                total = total + outcome.probability * kept
            return total

        value, action = decide(quotes, left, q, worth)
        return value, (value, action)

    # As in `episode_law`: what these two do is not in the recursion.
    known = (market.impact_recovery == 0) & (market.fee_rate == 0)
    end = jnp.where(known, -episodes.terminal_penalty * q**2, jnp.nan)
    order = jnp.arange(episodes.n_steps - 1, -1, -1)
    _, (values, actions) = jax.lax.scan(back, end, order)
    return Game(jnp.concatenate([values[::-1], end[None]]), actions[::-1])


class Opponent(eqx.Module):
    """A perceptron from the quotes and the time to an action.

    Args:
        network: From what is seen to what is done, before the bounds.
        powers: The bounds.
        centre, scale: Of bid and ask depths over all inventories: what it sees is standardised by them.
        horizon: Unit of time [s].
    """

    network: Perceptron
    powers: Powers
    centre: Float[Array, "2"]
    scale: Float[Array, "2"]
    horizon: Float[Array, ""]

    def __call__(self, quotes: Quotes, left: Float[Array, ""], inventory: Float[Array, " inventory"]) -> Action:
        """Actions at every inventory, of which it sees nothing but the quotes."""
        del inventory
        sizes, depths = (quotes.bid_size, quotes.ask_size), (quotes.bid_depth, quotes.ask_depth)
        shown = [(size > 0).astype(left.dtype) for size in sizes]
        standard = [s * (x - c) / d for s, x, c, d in zip(shown, depths, self.centre, self.scale)]
        time = jnp.broadcast_to(2 * left / self.horizon - 1, shown[0].shape)
        seen = jnp.stack([*standard, *shown, time], axis=-1)
        return (jnp.tanh(jax.vmap(self.network)(seen)) * self.powers.limits()).T


def train_opponent(
    policy: AbstractPolicy,
    market: PoissonMarket,
    episodes: Episodes,
    covariates: Covariates,
    max_inventory: int,
    inventory_penalty: Float[Array, ""] | float,
    powers: Powers,
    key: PRNGKeyArray,
    *,
    n_starts: int = 4,
    n_steps: int = 200,
    n_hidden: int = 16,
    learning_rate: float = 0.03,
) -> tuple[Opponent, Float[Array, "start step"]]:
    """Adam on what the policy is worth against it, several times; the best opponent counts.

    Against a lopsided policy the first gradients push one way whatever the quotes say, and a network that has saturated there learns no more: hence
    the starts.

    Args:
        policy, market, episodes, covariates, max_inventory, inventory_penalty: As in `play`.
        powers: Its bounds.
        key: Of the weights.
        n_starts: The first one does nothing, the others something random.
        n_steps: Of Adam.
        n_hidden: Width of the hidden layer.
        learning_rate: The first one; falls to a hundredth.

    Returns:
        The opponent, and what the policy was worth before every step of every start.
    """
    zero = jnp.zeros_like(episodes.horizon)
    q = jnp.arange(-max_inventory, max_inventory + 1, dtype=zero.dtype)
    quotes = jax.vmap(lambda held: policy(MarketState(zero, held, zero, episodes.horizon, covariates)))(q)
    depths = jnp.stack([jnp.broadcast_to(x, q.shape) for x in (quotes.bid_depth, quotes.ask_depth)])
    centre, spread = jnp.mean(depths, axis=1), jnp.std(depths, axis=1)
    scale = jnp.where(spread > 1e-6 * (1 + jnp.abs(centre)), spread, 1.0)
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, n_steps, 0.01))

    def opponent(network: Perceptron) -> Opponent:
        return Opponent(network, powers, centre, scale, episodes.horizon)

    def worth(network: Perceptron) -> Float[Array, ""]:
        return play(policy, market, episodes, covariates, max_inventory, inventory_penalty, opponent(network)).start

    def first(number: Array) -> Perceptron:
        inside, direct = jax.random.split(jax.random.fold_in(key, number))
        network = silent_perceptron(inside, N_SEEN, 3, n_hidden)
        random = jax.random.normal(direct, network.direct.shape, network.direct.dtype)
        network = eqx.tree_at(lambda n: n.direct, network, jnp.where(number > 0, random, 0.0))
        return jax.tree.map(lambda x: x.astype(zero.dtype), network)

    # Adam does not mind units, but for its smallest denominator.
    unit = jnp.maximum(jnp.abs(worth(first(jnp.zeros((), jnp.int32)))), jnp.finfo(zero.dtype).tiny)

    def train(number: Array) -> tuple[Perceptron, Array, Array]:
        def step(state: tuple, _: None) -> tuple[tuple, Array]:
            weights, memory = state
            value, slope = jax.value_and_grad(lambda w: worth(w) / unit)(weights)
            change, memory = optimiser.update(slope, memory)
            return (optax.apply_updates(weights, change), memory), value * unit

        start = first(number)
        (network, _), values = jax.lax.scan(step, (start, optimiser.init(start)), None, length=n_steps)
        return network, worth(network), values

    networks, ends, paths = jax.vmap(train)(jnp.arange(n_starts, dtype=jnp.int32))
    best = jnp.argmin(jnp.where(jnp.isfinite(ends), ends, jnp.inf))
    return opponent(jax.tree.map(lambda x: x[best], networks)), paths
