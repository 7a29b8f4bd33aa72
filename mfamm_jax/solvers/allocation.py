r"""Reward of an allocation over strategies (17), and the allocations that are known to be best.

$$r_t = \sum_k p_t^k\,\pi_t^k - \lambda\,\rho(\Omega_t) + \mu\,JS(p_t\,\|\,p_{t-1}).$$

P&L $\pi^k$ is weighted by the allocation: as printed the action would not enter. $\rho$ is the risk of the exposures $\Omega$ (strategies by assets):
`trace`, $\sqrt{tr(\Omega\Sigma\Omega^\top)}$, adds the strategies' variances and ignores their covariances; `portfolio`,
$\sqrt{1^\top\Omega\Sigma\Omega^\top 1}$, does not. With $\mu > 0$, as printed, changing the allocation is rewarded (exploration); with $\mu < 0$ it costs.

Source: docs/equations.md, (17).
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

Risk = Literal["trace", "portfolio"]


def jensen_shannon(p: Float[Array, "*batch k"], q: Float[Array, "*batch k"]) -> Float[Array, "*batch"]:
    """In nats: between 0 (equal) and log 2 (nothing in common). Finite derivatives where a share is 0 or both are equal."""
    middle = 0.5 * (p + q)

    def relative(x: Array) -> Array:
        # Not the logarithm of a ratio, in whose derivative small shares are squared; denormal ones count as 0.
        there = x > 4 * jnp.finfo(x.dtype).tiny
        safe, around = jnp.where(there, x, 1), jnp.where(there, middle, 1)
        return jnp.sum(jnp.where(there, x, 0) * (jnp.log(safe) - jnp.log(around)), axis=-1)

    return 0.5 * (relative(p) + relative(q))


def exposure_risk(
    exposures: Float[Array, "*batch k asset"],
    covariance: Float[Array, "asset asset"],
    risk: Risk = "portfolio",
    smoothing: Float[Array, ""] | float = 0.0,
) -> Float[Array, "*batch"]:
    """rho [money]. `smoothing` is added in quadrature: without it the slope at no exposure has no size."""
    if risk == "trace":
        square = jnp.einsum("...ka,ab,...kb->...", exposures, covariance, exposures)
    elif risk == "portfolio":
        total = jnp.sum(exposures, axis=-2)
        square = jnp.einsum("...a,ab,...b->...", total, covariance, total)
    else:
        raise ValueError(f'risk is {risk!r}, expected "trace" or "portfolio"')
    square = square + jnp.asarray(smoothing) ** 2
    some = square > 0
    return jnp.where(some, jnp.sqrt(jnp.where(some, square, 1)), 0)


def allocation_reward(
    shares: Float[Array, "*batch k"],
    last_shares: Float[Array, "*batch k"],
    pnl: Float[Array, "*batch k"],
    exposures: Float[Array, "*batch k asset"],
    covariance: Float[Array, "asset asset"],
    *,
    risk_weight: Float[Array, ""] | float,
    divergence_weight: Float[Array, ""] | float = 0.0,
    risk: Risk = "portfolio",
    smoothing: Float[Array, ""] | float = 0.0,
) -> Float[Array, "*batch"]:
    """(17).

    Args:
        shares: p_t, sum 1.
        last_shares: p_(t-1).
        pnl: Of every strategy on a unit of capital [money].
        exposures: Of every strategy on a unit of capital, per asset; Omega is these times the shares.
        covariance: Of the assets over the period.
        risk_weight: lambda >= 0.
        divergence_weight: mu; below 0 turnover costs, above it is rewarded.
        risk: Which rho.
        smoothing: Of rho.
    """
    check_shares(shares)
    held = shares[..., None] * exposures
    gain = jnp.sum(shares * pnl, axis=-1) - risk_weight * exposure_risk(held, covariance, risk, smoothing)
    return gain + divergence_weight * jensen_shannon(shares, last_shares)


def check_shares(shares: Float[Array, "*batch k"]) -> None:
    """Raises ValueError for concrete shares that are negative or do not sum to 1."""
    if isinstance(shares, jax.core.Tracer):
        return
    values = np.asarray(shares)
    total = values.sum(axis=-1)
    if not (np.abs(total - 1) < 1e-4).all() or not (values >= 0).all():
        worst = total.ravel()[np.argmax(np.abs(total.ravel() - 1))]
        raise ValueError(f"shares sum to {worst:g} with the least {values.min():g}, expected shares >= 0 with sum 1")


def mean_std_allocation(
    expected_returns: Float[Array, " k"], covariance: Float[Array, "k k"], risk_weight: Float[Array, ""] | float
) -> tuple[Float[Array, " k"], Float[Array, ""]]:
    r"""Weights of any sign, sum 1, that maximise $w^\top\mu - \lambda\sqrt{w^\top\Sigma w}$, and the maximum.

    $w \propto \Sigma^{-1}(\mu - \nu 1)$ with $\nu$ the smaller root of $(\mu - \nu 1)^\top\Sigma^{-1}(\mu - \nu 1) = \lambda^2$; the maximum is $\nu$.
    NaN where the risk weight is too small for a maximum to exist.
    """
    root = jax.scipy.linalg.cho_factor(covariance)
    ones = jnp.ones_like(expected_returns)
    solved = jax.scipy.linalg.cho_solve(root, jnp.stack([expected_returns, ones], axis=1))
    a, b = ones @ solved[:, 1], ones @ solved[:, 0]
    # Centred at the mean of least variance: mu'S mu - b^2/a loses digits otherwise.
    centred = expected_returns - b / a
    spread = centred @ jax.scipy.linalg.cho_solve(root, centred)
    nu = b / a - jnp.sqrt((jnp.asarray(risk_weight) ** 2 - spread) / a)
    direction = jax.scipy.linalg.cho_solve(root, expected_returns - nu)
    return direction / jnp.sum(direction), nu


def simplex_allocation(
    expected_returns: Float[Array, " k"],
    covariance: Float[Array, "k k"],
    risk_weight: Float[Array, ""] | float,
    n_steps: int = 300,
) -> Float[Array, " k"]:
    r"""Shares >= 0, sum 1, that maximise $p^\top\mu - \lambda\sqrt{p^\top\Sigma p}$: what the best allocator without shorts does.

    The covariance must be positive definite. Nesterov's projected gradient with restarts (O'Donoghue & Candes 2015). The slope's Lipschitz constant is at most
    $\lambda\,\lambda_{max}(\Sigma)\sqrt{1^\top\Sigma^{-1}1}$, so the maximum is met to twice that over n_steps^2, and mostly to far better.
    """
    risk_weight = jnp.asarray(risk_weight, expected_returns.dtype)

    def slope(p: Array) -> Array:
        return expected_returns - risk_weight * covariance @ p / jnp.sqrt(p @ covariance @ p)

    ones = jnp.ones_like(expected_returns)
    precision = ones @ jax.scipy.linalg.solve(covariance, ones, assume_a="pos")
    steepest = risk_weight * jnp.linalg.eigvalsh(covariance)[-1] * jnp.sqrt(precision)
    # Without risk the problem is linear: any finite step leads to the best vertex.
    rate = 1 / (steepest + 0.05 * jnp.ptp(expected_returns) + jnp.finfo(ones.dtype).tiny)

    def step(state: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], None]:
        p, ahead, t = state
        moved = optax.projections.projection_simplex(ahead + rate * slope(ahead))
        t = jnp.where((ahead - moved) @ (moved - p) > 0, 1.0, t)
        longer = 0.5 * (1 + jnp.sqrt(1 + 4 * t**2))
        # The point ahead may leave the simplex; the risk stays positive there.
        return (moved, moved + (t - 1) / longer * (moved - p), longer), None

    even = ones / ones.size
    return jax.lax.scan(step, (even, even, ones[0]), None, length=n_steps)[0][0]
