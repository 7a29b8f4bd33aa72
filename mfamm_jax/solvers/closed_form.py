r"""Closed-form quotes: fast answers, and references for the grid solvers."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mfamm_jax.models.intensity import ExponentialIntensity, log1p_ratio


def stationary_depths(
    intensity: ExponentialIntensity,
    inventory_penalty: Float[Array, ""] | float,
    inventory: Float[Array, "*b"],
    fill_risk_aversion: Float[Array, ""] | float = 0.0,
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    r"""Gueant-Lehalle-Fernandez-Tapia approximation far from the horizon and from the inventory limits.

    $\delta^{b,a} = \frac1\xi\ln(1+\xi/k) + \frac{1 \pm 2q}{2}\sqrt{\frac{\phi}{k\Lambda}(1+\xi/k)^{1+k/\xi}}$,
    with $(1+\xi/k)^{1+k/\xi} \to e$ as $\xi \to 0$. Good when $\sqrt{\phi k e/\Lambda} \ll 1$. Source: GL-3 of docs/equations.md
    with $\phi = \gamma_C\sigma^2/2$.

    Returns:
        Bid depth and ask depth [price].
    """
    w = jnp.asarray(fill_risk_aversion) / intensity.decay
    margin = log1p_ratio(w) / intensity.decay
    log_power = jnp.log1p(w) + log1p_ratio(w)
    slope = jnp.sqrt(inventory_penalty / (intensity.decay * intensity.scale) * jnp.exp(log_power))
    return margin + (1 + 2 * inventory) / 2 * slope, margin + (1 - 2 * inventory) / 2 * slope


def quadratic_value(
    inventory_penalty: Float[Array, "*b"] | float,
    terminal_penalty: Float[Array, "*b"] | float,
    curvature: Float[Array, "*b"] | float,
    time_left: Float[Array, "*b"] | float,
) -> Float[Array, "*b"]:
    r"""B of $H \approx a - B q^2/2$: $B' = 2\phi - G B^2$, $B(0) = 2\alpha$, by its hyperbolic tangent. Source: hjb-mathematics 2.6.

    Args:
        inventory_penalty: $\phi$ > 0 [price/(lot s)].
        terminal_penalty: $\alpha$ [price/lot].
        curvature: $G = h_+''(0) + h_-''(0)$ [1/(price s)], `hamiltonian_curvature` of each side.
        time_left: $\tau$ [s].

    Returns:
        $B(\tau)$; quotes are margin + adverse selection + B/2 (1 + 2q) for the bid, (1 - 2q) for the ask.
    """
    limit = jnp.sqrt(2 * inventory_penalty / curvature)
    start = 2 * terminal_penalty / limit
    rise = jnp.tanh(curvature * limit * time_left)
    return limit * (rise + start) / (1 + start * rise)


def hamiltonian_curvature(
    intensity: ExponentialIntensity,
    fill_risk_aversion: Float[Array, ""] | float = 0.0,
    adverse_selection: Float[Array, ""] | float = 0.0,
) -> Float[Array, ""]:
    r"""$h''(0) = \Lambda k C_\xi e^{-k\epsilon}$ of an unclamped exponential side [1/(price s)]."""
    log_coupling = intensity.log_coupling(jnp.asarray(fill_risk_aversion))
    return intensity.decay * jnp.exp(log_coupling - intensity.decay * adverse_selection)


def stationary_quadratic_value(
    penalty_matrix: Float[Array, "asset asset"], curvature: Float[Array, " asset"]
) -> Float[Array, "asset asset"]:
    r"""A of the stationary $H \approx -q^\top A q$ for many assets: $\Gamma = 2 A D A$ with $D = diag(G_i)$.

    $A = D^{-1/2}\,(D^{1/2}\,\Gamma\,D^{1/2}/2)^{1/2}\,D^{-1/2}$; bid depth of asset i: margin + 2 (A q)_i + A_ii, ask depth: margin
    - 2 (A q)_i + A_ii. Source: Bergault, Evangelista, Gueant, Vieira, arXiv:1810.04383; hjb-mathematics 2.10.

    Args:
        penalty_matrix: $\Gamma = \gamma\Sigma$ [price/(lot s)], positive semidefinite.
        curvature: $G_i$ [1/(price s)], the sum of `hamiltonian_curvature` over an asset's sides.
    """
    root = jnp.sqrt(curvature)
    values, vectors = jnp.linalg.eigh(0.5 * root[:, None] * penalty_matrix * root)
    square_root = (vectors * jnp.sqrt(jnp.maximum(values, 0.0))) @ vectors.T
    return square_root / root[:, None] / root


def fluid_stationary_slope(
    intensity: ExponentialIntensity, inventory_penalty: Float[Array, ""] | float, inventory: Float[Array, "*b"]
) -> Float[Array, "*b"]:
    r"""$H_q = -\mathrm{sign}(q)\,\frac1k\,\mathrm{arccosh}(1 + \phi q^2 e k/(2\Lambda))$ of the stationary fluid equation, equal sides."""
    penalty = inventory_penalty * inventory**2
    return (
        -jnp.sign(inventory)
        * _arccosh_of_one_plus(jnp.e * intensity.decay * penalty / (2 * intensity.scale))
        / intensity.decay
    )


def _arccosh_of_one_plus(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Without the cancellation of forming 1 + x; slope zero instead of infinite at x = 0."""
    safe = jnp.where(x > 0, x, 1.0)
    return jnp.where(x > 0, jnp.log1p(safe + jnp.sqrt(safe * (safe + 2))), 0.0)


def ambiguity_penalties(
    drift_ambiguity: Float[Array, ""] | float,
    fill_ambiguity: Float[Array, ""] | float,
    volatility: Float[Array, ""] | float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    r"""`inventory_penalty` and `fill_risk_aversion` of a maker who distrusts the model: no other equation is needed.

    Entropic doubt $\chi_S$ about the drift costs $\chi_S\sigma^2 q^2/2$ per second, so the rulebook's $\gamma$ is $\chi_S/2$; doubt
    $\chi$ about fill rates values a margin x at $(1 - e^{-\chi x})/\chi$. Source: hjb-mathematics 2.7.
    """
    return jnp.asarray(drift_ambiguity * volatility**2 / 2), jnp.asarray(fill_ambiguity)
