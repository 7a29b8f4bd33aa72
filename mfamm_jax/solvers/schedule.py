r"""Optimal execution schedules and what an adversary does to them, in closed form.

A schedule x trades $x_i$ at times $t_i$ against $G_{ij} = f(|t_i - t_j|)$ at the cost $\frac12 x^\top G x$ (linear impact).

Sources: docs/equations.md, (20); Almgren & Chriss (2001), Obizhaeva & Wang (2013), Gatheral, Schied & Slynko (2012), Schied & Zhang (2019).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jaxtyping import Array, Float

from mfamm_jax.models.impact import AbstractKernel


class Schedule(eqx.Module):
    """Trades and their cost."""

    trades: Float[Array, " time"]
    cost: Float[Array, ""]


def impact_matrix(kernel: AbstractKernel, times: Float[Array, " time"]) -> Float[Array, "time time"]:
    """G; the kernel must be finite at 0."""
    matrix = kernel(jnp.abs(times[:, None] - times[None, :]))
    if not isinstance(matrix, jax.core.Tracer):
        if (np.diff(np.asarray(times)) <= 0).any():
            raise ValueError("times must rise")
        if not np.isfinite(np.asarray(matrix)).all():
            raise ValueError(
                "the kernel is infinite at 0: use ShiftedPowerKernel, or `power_law_density` in continuous time"
            )
        smallest = float(np.linalg.eigvalsh(np.asarray(matrix, float))[0])
        if smallest <= 0:
            raise ValueError(
                f"the impact matrix has the eigenvalue {smallest:.3g}: round trips would make money, or times are too close"
            )
    return matrix


def best_schedule(matrix: Float[Array, "time time"], shares: Float[Array, ""] | float) -> Schedule:
    r"""$\min \frac12 x^\top G x$, $\sum x$ = shares: $x = X G^{-1}1/(1^\top G^{-1}1)$; of either sign."""
    solved = _solve(matrix, jnp.ones(matrix.shape[0], matrix.dtype))
    total = jnp.sum(solved)
    return Schedule(shares * solved / total, 0.5 * jnp.asarray(shares, matrix.dtype) ** 2 / total)


def _solve(matrix: Float[Array, "n n"], right: Float[Array, " n"]) -> Float[Array, " n"]:
    return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix), True), right)


def obizhaeva_wang(
    shares: Float[Array, ""], horizon: Float[Array, ""], resilience: Float[Array, ""], impact: Float[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    r"""Block at each end, rate between, and cost, for $f = \text{impact}\,e^{-\rho t}$ in continuous time."""
    stretch = resilience * horizon + 2
    return shares / stretch, resilience * shares / stretch, impact * shares**2 / stretch


def obizhaeva_wang_trades(
    shares: Float[Array, ""],
    horizon: Float[Array, ""],
    resilience: Float[Array, ""],
    impact: Float[Array, ""],
    n_steps: int,
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """First and last trade, each trade between (NaN without any), and cost, for n_steps + 1 equidistant trades."""
    a = jnp.exp(-resilience * horizon / n_steps)
    edge, inner = 1 / (1 + a), (1 - a) / (1 + a)
    total = 2 * edge + (n_steps - 1) * inner
    interior = shares * inner / total if n_steps > 1 else jnp.full_like(total, jnp.nan)
    return shares * edge / total, interior, 0.5 * impact * shares**2 / total


class PowerLawSchedule(eqx.Module):
    """Density of trading, the price impact it keeps constant, and the cost."""

    density: Float[Array, " time"]
    constant_impact: Float[Array, ""]
    cost: Float[Array, ""]


def power_law_schedule(
    times: Float[Array, " time"],
    horizon: Float[Array, ""] | float,
    shares: Float[Array, ""] | float,
    decay_exponent: Float[Array, ""] | float,
) -> PowerLawSchedule:
    r"""$f = t^{-\gamma}$ in continuous time: density $\propto [t(T-t)]^{-(1-\gamma)/2}$ [Gatheral, Schied & Slynko 2012].

    Args:
        times: Inside (0, T).
        horizon: T.
        shares: X.
        decay_exponent: $\gamma$ in (0, 1).
    """
    horizon, gamma = (jnp.asarray(x, times.dtype) for x in (horizon, decay_exponent))
    half = 0.5 * (1 + gamma)
    log_beta = 2 * gammaln(half) - gammaln(2 * half)
    coefficient = shares * jnp.exp(-log_beta) / horizon**gamma
    density = coefficient * (times * (horizon - times)) ** (-0.5 * (1 - gamma))
    constant = coefficient * jnp.pi / jnp.cos(0.5 * jnp.pi * gamma)
    return PowerLawSchedule(density, constant, 0.5 * shares * constant)


class AlmgrenChriss(eqx.Module):
    """Holdings at the ends of the steps, their decay, mean and standard deviation of the cost."""

    holdings: Float[Array, " point"]
    decay_rate: Float[Array, ""]
    expected_cost: Float[Array, ""]
    cost_standard_deviation: Float[Array, ""]


def almgren_chriss(
    shares: Float[Array, ""] | float,
    horizon: Float[Array, ""] | float,
    n_steps: int,
    volatility: Float[Array, ""] | float,
    temporary_impact: Float[Array, ""] | float,
    permanent_impact: Float[Array, ""] | float = 0.0,
    half_spread: Float[Array, ""] | float = 0.0,
    risk_aversion: Float[Array, ""] | float = 0.0,
) -> AlmgrenChriss:
    r"""Mean-variance liquidation: holdings $X\sinh\kappa(T - t)/\sinh\kappa T$, linear at $\kappa = 0$ [Almgren & Chriss 2001]."""
    given = (shares, horizon, volatility, temporary_impact, permanent_impact, half_spread, risk_aversion)
    real = jnp.result_type(float)
    shares, horizon, volatility, temporary, permanent, spread, aversion = (jnp.asarray(x, real) for x in given)
    tau = horizon / n_steps
    effective = temporary - 0.5 * permanent * tau
    if not isinstance(effective, jax.core.Tracer) and not float(effective) > 0:
        raise ValueError(
            f"temporary_impact - permanent_impact tau/2 is {float(effective):g}, expected > 0: use more steps"
        )
    square = aversion * volatility**2 / effective
    some = square > 0
    kappa = jnp.where(some, 2 / tau * jnp.arcsinh(0.5 * tau * jnp.sqrt(jnp.where(some, square, 1))), 0)
    left = horizon - tau * jnp.arange(n_steps + 1, dtype=real)
    safe = jnp.where(some, kappa, 1)
    # sinh(k l)/sinh(k T) without overflow.
    curved = jnp.exp(safe * (left - horizon)) * jnp.expm1(-2 * safe * left) / jnp.expm1(-2 * safe * horizon)
    holdings = shares * jnp.where(some, curved, left / horizon)
    sold = holdings[:-1] - holdings[1:]
    expected = 0.5 * permanent * shares**2 + spread * shares + effective / tau * jnp.sum(sold**2)
    deviation = volatility * jnp.sqrt(tau * jnp.sum(holdings[1:] ** 2))
    return AlmgrenChriss(holdings, kappa, expected, deviation)


class Game(eqx.Module):
    """Two traders who know of each other: neither gains by changing alone."""

    schedule: Float[Array, " time"]
    opponent_schedule: Float[Array, " time"]
    cost: Float[Array, ""]
    opponent_cost: Float[Array, ""]


def schied_zhang(
    matrix: Float[Array, "time time"],
    shares: Float[Array, ""] | float,
    opponent_shares: Float[Array, ""] | float,
    quadratic_cost: Float[Array, ""] | float = 0.0,
) -> Game:
    r"""Nash equilibrium of two traders in one market.

    With $G_\theta = G + 2\theta I$ and $\tilde G$ the lower triangle of G with half its diagonal, v and w solve
    $(G_\theta \pm \tilde G) x \propto 1$; schedules are $\frac{X+Y}{2} v \pm \frac{X-Y}{2} w$. Below $\theta = G(0)/4$ they oscillate.

    Args:
        matrix: G.
        shares, opponent_shares: X and Y.
        quadratic_cost: $\theta$, of trading itself.
    """
    n = matrix.shape[0]
    own = matrix + 2 * quadratic_cost * jnp.eye(n, dtype=matrix.dtype)
    lower = jnp.tril(matrix, -1) + 0.5 * jnp.diag(jnp.diag(matrix))
    ones = jnp.ones(n, matrix.dtype)
    v, w = (jnp.linalg.solve(own + sign * lower, ones) for sign in (1, -1))
    v, w = v / jnp.sum(v), w / jnp.sum(w)
    mean = 0.5 * (jnp.asarray(shares, matrix.dtype) + opponent_shares)
    half = 0.5 * (jnp.asarray(shares, matrix.dtype) - opponent_shares)
    x, y = mean * v + half * w, mean * v - half * w
    costs = (0.5 * a @ own @ a + a @ lower @ b for a, b in ((x, y), (y, x)))
    return Game(x, y, *costs)


class WorstCase(eqx.Module):
    """What an adversary of bounded means can add to the cost of a schedule."""

    base_cost: Float[Array, ""]
    worst_cost: Float[Array, ""]
    worst_disturbance: Float[Array, " time"]


def budget_adversary(
    schedule: Float[Array, " time"], matrix: Float[Array, "time time"], budget: Float[Array, ""] | float
) -> WorstCase:
    r"""$\sup_{\|y\|_2 \le B} x^\top L y = B\|L^\top x\|$, L the strict lower triangle of G: an adversary who trades just before us."""
    push = jnp.tril(matrix, -1).T @ schedule
    square = jnp.sum(push**2)
    size = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    base = 0.5 * schedule @ matrix @ schedule
    return WorstCase(base, base + budget * size, budget * push / jnp.where(size > 0, size, 1))
