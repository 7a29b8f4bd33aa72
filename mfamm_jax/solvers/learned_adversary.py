r"""An adversary that learns to trade against schedules it has not been told (20): a stress test, without any guarantee.

It sees what has happened so far - the time, the price impact of past trades, its own position - and trades $y_i$, flat at the end. Its profit
against a schedule x is that of Schied and Zhang's game,

$$-\tfrac12 y^\top (G + 2\theta I) y - y^\top \tilde G x,$$

with $\tilde G$ the lower triangle of G with half its diagonal. Training is gradient ascent on the mean profit over many schedules. What an opponent
who knew the schedule would make, `best_response`, bounds it for every schedule.

Source: docs/equations.md, (20); Schied & Zhang (2019) for the market.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

N_SEEN = 5


class Response(eqx.Module):
    """What an opponent does to a schedule.

    Args:
        trades: y.
        profit: Of the opponent.
        harm: What it adds to the schedule's cost.
    """

    trades: Float[Array, "*b time"]
    profit: Float[Array, "*b"]
    harm: Float[Array, "*b"]


def _response(
    trades: Float[Array, " time"], schedule: Float[Array, " time"], matrix: Array, quadratic_cost: Array
) -> Response:
    half = 0.5 * jnp.diag(jnp.diag(matrix))
    before, after = jnp.tril(matrix, -1) + half, jnp.triu(matrix, 1) + half
    own = 0.5 * trades @ matrix @ trades + quadratic_cost * jnp.sum(trades**2)
    return Response(trades, -own - trades @ before @ schedule, trades @ after @ schedule)


def best_response(
    schedule: Float[Array, " time"], matrix: Float[Array, "time time"], quadratic_cost: Float[Array, ""] | float
) -> Response:
    """The most profitable trades, flat at the end, of an opponent who knows the whole schedule."""
    cost = jnp.asarray(quadratic_cost, matrix.dtype)
    own = matrix + 2 * cost * jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    before = jnp.tril(matrix, -1) + 0.5 * jnp.diag(jnp.diag(matrix))
    pushed, ones = jnp.linalg.solve(own, jnp.stack([before @ schedule, jnp.ones_like(schedule)], axis=1)).T
    return _response(ones * jnp.sum(pushed) / jnp.sum(ones) - pushed, schedule, matrix, cost)


class LearnedAdversary(eqx.Module):
    """A perceptron from what has been seen to a trade.

    Args:
        layers: In units of the schedules' size.
        shares, price: Those units.
    """

    layers: tuple[eqx.nn.Linear, ...]
    shares: Float[Array, ""]
    price: Float[Array, ""]

    def __call__(
        self,
        schedule: Float[Array, " time"],
        matrix: Float[Array, "time time"],
        quadratic_cost: Float[Array, ""] | float,
    ) -> Response:
        """Its trades against a schedule, of which it sees only the past."""
        n = schedule.shape[0]
        strict = jnp.tril(matrix, -1)
        theirs = strict @ schedule / self.price
        last = jnp.concatenate([jnp.zeros(1, schedule.dtype), schedule[:-1]]) / self.shares

        def step(trades: Array, i: Array) -> tuple[Array, None]:
            ours = strict[i] @ trades / self.price
            position = jnp.sum(trades) / self.shares
            seen = jnp.stack([i / n, last[i], theirs[i], ours, position])
            for layer in self.layers[:-1]:
                seen = jnp.tanh(layer(seen))
            trade = jnp.where(i == n - 1, -position, self.layers[-1](seen)[0])
            return trades.at[i].set(self.shares * trade), None

        trades, _ = jax.lax.scan(step, jnp.zeros_like(schedule), jnp.arange(n))
        return _response(trades, schedule, matrix, jnp.asarray(quadratic_cost, matrix.dtype))


def train_adversary(
    schedules: Float[Array, "schedule time"],
    matrix: Float[Array, "time time"],
    quadratic_cost: Float[Array, ""] | float,
    key: PRNGKeyArray,
    *,
    n_steps: int = 2000,
    n_hidden: int = 16,
    learning_rate: float = 1e-2,
) -> tuple[LearnedAdversary, Float[Array, " step"]]:
    """Adam on the mean profit over the schedules.

    Args:
        schedules: What it may meet: the more alike, the more it can know in advance.
        matrix: G, positive definite.
        quadratic_cost: theta >= 0 of trading itself.
        key: Of the weights.
        n_steps: Of Adam.
        n_hidden: Width of two hidden layers.
        learning_rate: The first one; falls to a hundredth.

    Returns:
        The adversary, and the mean profit before every step.
    """
    shares = jnp.sqrt(jnp.mean(jnp.sum(schedules, axis=1) ** 2))
    shares = jnp.where(shares > 0, shares, 1)
    widths = (N_SEEN, n_hidden, n_hidden, 1)
    keys = jax.random.split(key, 3)
    layers = [eqx.nn.Linear(widths[i], widths[i + 1], dtype=schedules.dtype, key=keys[i]) for i in range(3)]
    layers[-1] = jax.tree.map(jnp.zeros_like, layers[-1])  # it starts by doing nothing
    price, unit = matrix[0, 0] * shares, matrix[0, 0] * shares**2
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, n_steps, 0.01))

    def loss(layers: tuple[eqx.nn.Linear, ...]) -> Float[Array, ""]:
        adversary = LearnedAdversary(layers, shares, price)
        return -jnp.mean(jax.vmap(lambda x: adversary(x, matrix, quadratic_cost).profit)(schedules)) / unit

    def step(state: tuple, _: None) -> tuple[tuple, Array]:
        weights, memory = state
        value, slope = jax.value_and_grad(loss)(weights)
        change, memory = optimiser.update(slope, memory)
        return (optax.apply_updates(weights, change), memory), -value * unit

    start = tuple(layers)
    (weights, _), profits = jax.lax.scan(step, (start, optimiser.init(start)), None, length=n_steps)
    return LearnedAdversary(weights, shares, price), profits
