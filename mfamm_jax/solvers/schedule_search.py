r"""Optimal execution where no formula is known: concave impact, half spreads, no selling on the way.

$$\min_v\ \int v_t (S_t - S_0)\,dt + s\int |v_t|\,dt, \qquad \int v_t\,dt = X$$

over rates that are constant within a step. A programme is written as what it buys less what it sells,
$X\big[(1 + e^b)\,\mathrm{softmax}(p) - e^b\,\mathrm{softmax}(q)\big]$ in shares of X, which meets the constraint for any numbers, so that L-BFGS
can run free; with selling forbidden only the first softmax remains. With concave impact the problem has local minima: several starts.

A solver exploits whatever the model gets wrong: see `models.impact.complaints`, and keep the half spread in.

Source: docs/equations.md, (20); Curato, Gatheral & Lillo (2017) for what concave impact does to optimal programmes.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.fields import in_precision
from mfamm_jax.models.impact import AbstractKernel, InstantImpact, trading_cost
from mfamm_jax.results import RESULTS, Solution, when
from mfamm_jax.solvers.descent import minimise

SETTLED = {"float64": 1e-6, "float32": 1e-3}  # norm of the gradient in units of the cost of trading evenly


class FoundSchedule(eqx.Module):
    """A programme and what it costs.

    Args:
        rates: v by step [shares/time].
        cost: Impact and half spread.
        sold_share: What is traded against the order's direction, as a share of it.
        start_costs: Of the best programme from every start.
    """

    rates: Float[Array, " step"]
    cost: Float[Array, ""]
    sold_share: Float[Array, ""]
    start_costs: Float[Array, " start"]


def search_schedule(
    kernel: AbstractKernel,
    impact: InstantImpact,
    shares: Float[Array, ""] | float,
    horizon: Float[Array, ""] | float,
    half_spread: Float[Array, ""] | float,
    key: PRNGKeyArray,
    *,
    n_steps: int,
    may_reverse: bool = False,
    n_starts: int = 8,
    max_iterations: int = 500,
) -> Solution:
    """The cheapest programme found.

    Derivatives of its cost are those of the minimum (envelope theorem); those of its rates take the programme's shares of X as given.

    Args:
        kernel, impact: Of (20).
        shares: X; negative = sell.
        horizon: T.
        half_spread: Price of trading one share, >= 0.
        key: Of the starts; the first one trades evenly.
        n_steps: Steps of constant rate.
        may_reverse: Whether the programme may trade against its direction on the way.
        n_starts: Programmes to start from.
        max_iterations: Of L-BFGS, for each start.

    Returns:
        `Solution` of a `FoundSchedule`; `not_converged` where the best start had not settled, `paid_to_trade` where the model has no cheapest
        programme: trading earns money, without bound.
    """
    given = tuple(in_precision(x) for x in (shares, horizon, half_spread))
    _check(*given)
    shares, horizon, half_spread = given
    # The search itself has no reverse derivative and needs none.
    still_kernel, still_impact = jax.lax.stop_gradient((kernel, impact))
    still = jax.lax.stop_gradient(given)

    def rates(numbers: Array, shares: Array, horizon: Array) -> Array:
        bought, against = _shares(numbers, n_steps, may_reverse)
        return shares * n_steps / horizon * (bought - against)

    def cost(numbers: Array) -> Float[Array, ""]:
        shares, horizon, half_spread = still
        # The half spread is paid on what is bought and sold within a step too: never less than the truth, and smooth.
        turnover = jnp.sum(jnp.stack(_shares(numbers, n_steps, may_reverse)))
        total = trading_cost(rates(numbers, shares, horizon), horizon / n_steps, still_kernel, still_impact)
        return (total + half_spread * jnp.abs(shares) * turnover) / unit

    even = jnp.full(n_steps, still[0] / still[1])
    unit = jnp.abs(trading_cost(even, still[1] / n_steps, still_kernel, still_impact, still[2]))
    unit = jnp.where(unit > 0, unit, 1)
    n_numbers = 2 * n_steps + 1 if may_reverse else n_steps
    starts = jax.random.normal(key, (n_starts, n_numbers), dtype=given[0].dtype).at[0].set(0)
    if may_reverse:
        starts = starts.at[:, -1].add(-4.0)  # little selling to begin with
    numbers, slope, counts, _ = jax.vmap(lambda x: minimise(cost, x, max_iterations, SETTLED[x.dtype.name]))(starts)
    found = jax.vmap(lambda x: rates(x, shares, horizon))(numbers)
    costs = jax.vmap(lambda v: trading_cost(v, horizon / n_steps, kernel, impact, half_spread))(found)
    best = jnp.argmin(jnp.where(jnp.isfinite(costs), costs, jnp.inf))
    signed = found[best] * jnp.sign(shares)
    sold = horizon / n_steps * jnp.sum(jnp.maximum(-signed, 0)) / jnp.abs(shares)
    answer = FoundSchedule(found[best], costs[best], sold, costs)
    settled = slope[best] <= SETTLED[slope.dtype.name]
    stats = {"iterations": counts[best], "gradient": slope[best]}
    result = when(settled, RESULTS.successful, RESULTS.not_converged)
    return Solution(answer, when(costs[best] < 0, RESULTS.paid_to_trade, result), stats)


def _shares(numbers: Float[Array, " number"], n: int, may_reverse: bool) -> tuple[Array, Array]:
    """Bought and sold in every step, in shares of the order."""
    bought = jax.nn.softmax(numbers[:n])
    if not may_reverse:
        return bought, jnp.zeros_like(bought)
    extra = jnp.exp(numbers[-1])
    return (1 + extra) * bought, extra * jax.nn.softmax(numbers[n : 2 * n])


def _check(shares: Array, horizon: Array, half_spread: Array) -> None:
    """Concrete arguments; tracers pass."""
    if any(isinstance(x, jax.core.Tracer) for x in (shares, horizon, half_spread)):
        return
    if not np.isfinite(float(shares)) or float(shares) == 0:
        raise ValueError(f"shares is {float(shares):g}, expected a finite number other than 0")
    if not float(horizon) > 0 or not np.isfinite(float(horizon)):
        raise ValueError(f"horizon is {float(horizon):g}, expected a finite number > 0")
    if not float(half_spread) >= 0:
        raise ValueError(f"half_spread is {float(half_spread):g}, expected >= 0: below it trading would be paid for")
