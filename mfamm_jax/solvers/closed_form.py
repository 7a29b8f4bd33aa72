r"""Closed-form quotes: fast answers, and references for the grid solvers."""

import jax
import jax.numpy as jnp
import numpy as np
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
    r"""B of $H \approx a - B q^2/2$: $B' = 2\phi - G B^2$, $B(0) = 2\alpha$, by its hyperbolic tangent. Source: docs/equations.md, the HJB equation.

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
    - 2 (A q)_i + A_ii. Source: Bergault, Evangelista, Gueant, Vieira, arXiv:1810.04383; docs/equations.md.

    Args:
        penalty_matrix: $\Gamma = \gamma\Sigma$ [price/(lot s)], positive semidefinite.
        curvature: $G_i$ [1/(price s)], the sum of `hamiltonian_curvature` over an asset's sides.
    """
    _check_covariance(penalty_matrix)
    root = jnp.sqrt(curvature)
    values, vectors = jnp.linalg.eigh(0.5 * root[:, None] * penalty_matrix * root)
    square_root = (vectors * jnp.sqrt(jnp.maximum(values, 0.0))) @ vectors.T
    return square_root / root[:, None] / root


def _check_covariance(penalty_matrix: Float[Array, "asset asset"]) -> None:
    """Refuses a concrete matrix that is not positive semidefinite, whose negative directions the root would lose."""
    if isinstance(penalty_matrix, jax.core.Tracer):
        return
    matrix = np.asarray(penalty_matrix)
    scale = np.abs(matrix).max()
    symmetric = np.abs(matrix - matrix.T).max() <= 1e-6 * scale
    if not (symmetric and np.linalg.eigvalsh(matrix).min() >= -1e-6 * scale):
        raise ValueError("penalty_matrix must be symmetric and positive semidefinite")


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
    $\chi$ about fill rates values a margin x at $(1 - e^{-\chi x})/\chi$. Source: docs/equations.md, the HJB equation.
    """
    return jnp.asarray(drift_ambiguity * volatility**2 / 2), jnp.asarray(fill_ambiguity)


def quadratic_skew(
    inventory_penalty: Float[Array, "*b"] | float,
    terminal_penalty: Float[Array, "*b"] | float,
    drift: Float[Array, "*b"] | float,
    bid: tuple[Float[Array, "*b"] | float, Float[Array, "*b"] | float],
    ask: tuple[Float[Array, "*b"] | float, Float[Array, "*b"] | float],
    time_left: Float[Array, "*b"] | float,
) -> Float[Array, "*b"]:
    r"""c of $H \approx a - Bq^2/2 + cq$: $c' = \mu - G B c + B(a_1^- - a_1^+) + B^2(a_2^- - a_2^+)/2$, $c(0) = 0$.

    With $u = \cosh\omega\tau + b_0\sinh\omega\tau$, $B = B_\infty u'/(\omega u)$ and $(uc)' = u\,(c' + GBc)$ integrates in closed form.
    Source: docs/equations.md, the HJB equation.

    Args:
        inventory_penalty: $\phi$ > 0 [price/(lot s)].
        terminal_penalty: $\alpha$ [price/lot].
        drift: $\mu$ [price/s].
        bid: $(h'(0), h''(0))$ of the bid side, `hamiltonian_slope` and `hamiltonian_curvature`.
        ask: Of the ask side.
        time_left: $\tau$ [s].

    Returns:
        $c(\tau)$ [price]; the ask depth is margin + adverse selection + c + B/2 (1 - 2q), the bid depth has -c.
    """
    curvature = bid[1] + ask[1]
    limit = jnp.sqrt(2 * inventory_penalty / curvature)
    omega, start = curvature * limit, 2 * terminal_penalty / limit
    # Everything is divided by exp(omega tau), which would overflow for long horizons.
    fade = jnp.exp(-omega * time_left)
    sinh, cosh, cosh_less_1 = (1 - fade**2) / 2, (1 + fade**2) / 2, (1 - fade) ** 2 / 2
    u = cosh + start * sinh
    of_u = (sinh + start * (cosh - fade)) / omega
    of_slope = (cosh_less_1 + start * sinh) / omega
    # (u'/omega)^2/u = u - (1 - b0^2)/u, and 1/u integrates to an arctangent (b0 < 1) or a logarithm (b0 > 1).
    t = jnp.tanh(omega * time_left / 2)
    below, above = jnp.where(start < 1, start, 0.0), jnp.where(start > 1, start, 2.0)
    root, other = jnp.sqrt(1 - below**2), jnp.sqrt(above**2 - 1)
    circular = 2 * root * (jnp.arctan((t + below) / root) - jnp.arctan(below / root))
    hyperbolic = -other * jnp.log((t + above - other) * (above + other) / ((t + above + other) * (above - other)))
    of_inverse = jnp.where(start < 1, circular, jnp.where(start > 1, hyperbolic, 0.0)) / omega
    total = drift * of_u + limit * (bid[0] - ask[0]) * of_slope
    total = total + limit**2 * (bid[1] - ask[1]) / 2 * (of_u - fade * of_inverse)
    return total / u


def hamiltonian_slope(
    intensity: ExponentialIntensity,
    fill_risk_aversion: Float[Array, ""] | float = 0.0,
    adverse_selection: Float[Array, ""] | float = 0.0,
) -> Float[Array, ""]:
    r"""$h'(0) = -\Lambda C_\xi e^{-k\epsilon}$ of an unclamped exponential side [1/s]."""
    return -hamiltonian_curvature(intensity, fill_risk_aversion, adverse_selection) / intensity.decay


def matrix_quadratic_value(
    penalty_matrix: Float[Array, "asset asset"],
    curvature: Float[Array, " asset"],
    terminal_penalty: Float[Array, " asset"],
    time_left: Float[Array, ""] | float,
) -> Float[Array, "asset asset"]:
    r"""A of $H \approx -q^\top A q$ with time $\tau$ left: $A' = \Gamma - 2ADA$, $A(0) = diag(\alpha)$. Source: docs/equations.md, the HJB equation.

    The linear-fractional solution around the stationary one, in which only decaying exponentials occur.

    Args:
        penalty_matrix: $\Gamma$ [price/(lot s)], positive semidefinite.
        curvature: Diagonal of D [1/(price s)], the sum of `hamiltonian_curvature` over an asset's sides.
        terminal_penalty: $\alpha_i$ [price/lot].
        time_left: $\tau$ [s].
    """
    _check_covariance(penalty_matrix)
    root = jnp.sqrt(curvature)
    values, vectors = jnp.linalg.eigh(0.5 * root[:, None] * penalty_matrix * root)
    rate = jnp.sqrt(jnp.maximum(values, 0.0))
    # M = sqrt(D) A sqrt(D) obeys M' = 2 (R^2 - M^2) with R = diag(rate) in this basis; W = M - R.
    start = (vectors.T * (curvature * terminal_penalty)) @ vectors - jnp.diag(rate)
    fade = jnp.exp(-2 * rate * time_left)
    safe = jnp.where(rate > 0, rate, 1.0)
    paid = jnp.where(rate > 0, -jnp.expm1(-4 * safe * time_left) / (2 * safe), 2 * time_left)
    eye = jnp.eye(rate.size, dtype=rate.dtype)
    moving = jnp.linalg.solve((eye + paid[:, None] * start).T, start.T).T
    m = jnp.diag(rate) + fade[:, None] * moving * fade
    return (vectors @ m @ vectors.T) / root[:, None] / root


def cartea_jaimungal_value(
    bid_intensity: Float[Array, ""] | float,
    ask_intensity: Float[Array, ""] | float,
    decay: Float[Array, ""] | float,
    inventory_penalty: Float[Array, ""] | float,
    terminal_penalty: Float[Array, ""] | float,
    time_left: Float[Array, ""] | float,
    max_inventory: int,
) -> Float[Array, " inventory"]:
    r"""$h(q) = \frac1k\ln\big(e^{A\tau} e^{-k\alpha q^2}\big)_q$ by the general matrix exponential.

    Best depths: $1/k + h(q) - h(q-1)$ (ask), $1/k + h(q) - h(q+1)$ (bid). A reference for moderate $k\phi Q^2\tau$, where nothing
    overflows; the solvers in `solvers.hjb` do the same in a form that never does. Source: Cartea, Jaimungal and Penalva,
    Algorithmic and High-Frequency Trading (2015), section 10.2.
    """
    q = jnp.arange(-max_inventory, max_inventory + 1, dtype=jnp.result_type(float))
    ask, bid = (jnp.full(2 * max_inventory, rate / jnp.e) for rate in (ask_intensity, bid_intensity))
    generator = jnp.diag(-decay * inventory_penalty * q**2) + jnp.diag(ask, -1) + jnp.diag(bid, 1)
    return jnp.log(jax.scipy.linalg.expm(generator * time_left) @ jnp.exp(-decay * terminal_penalty * q**2)) / decay


def avellaneda_stoikov_depths(
    cara_risk_aversion: Float[Array, "*b"] | float,
    volatility: Float[Array, "*b"] | float,
    decay: Float[Array, "*b"] | float,
    inventory: Float[Array, "*b"],
    time_left: Float[Array, "*b"] | float,
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    r"""$\delta^{b,a} = \frac1{\gamma_C}\ln(1 + \gamma_C/k) + \frac{1 \pm 2q}{2}\gamma_C\sigma^2\tau$, bid with +.

    An approximation that ignores that inventory reverts, so it skews too much for long $\tau$; never a reference.
    Source: Avellaneda and Stoikov (2008), (AS-1)-(AS-2) of docs/equations.md. $\gamma_C$ is twice the rulebook's $\gamma$.

    Returns:
        Bid depth and ask depth [price].
    """
    margin = log1p_ratio(jnp.asarray(cara_risk_aversion / decay)) / decay
    slope = cara_risk_aversion * jnp.asarray(volatility) ** 2 * time_left
    return margin + (1 + 2 * inventory) / 2 * slope, margin + (1 - 2 * inventory) / 2 * slope


def frozen_inventory_prices(
    cara_risk_aversion: Float[Array, "*b"] | float,
    volatility: Float[Array, "*b"] | float,
    inventory: Float[Array, "*b"],
    time_left: Float[Array, "*b"] | float,
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    r"""AS-3: $s + (\mp 1 - 2q)\,\gamma_C\sigma^2\tau/2$, relative to the mid, of a maker who trades once and then holds.

    Returns:
        Reservation bid and ask prices minus the mid [price]; their mean is AS-1.
    """
    width = cara_risk_aversion * jnp.asarray(volatility) ** 2 * time_left / 2
    return (-1 - 2 * inventory) * width, (1 - 2 * inventory) * width


def stationary_inventory_prices(
    cara_risk_aversion: Float[Array, "*b"] | float, inventory: Float[Array, "*b"], max_inventory: int
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    r"""AS-4: $\frac1{\gamma_C}\ln(1 + (\mp 1 - 2q)/((q_{max}+1)^2 - q^2))$, relative to the mid.

    The discount rate is the paper's $\gamma_C^2\sigma^2(q_{max}+1)^2/2$, with which the volatility cancels.

    Returns:
        Reservation bid and ask prices minus the mid [price].
    """
    bid, ask = (jnp.log1p((sign - 2 * inventory) / ((max_inventory + 1) ** 2 - inventory**2)) for sign in (-1, 1))
    return bid / cara_risk_aversion, ask / cara_risk_aversion


def glft_coefficients(
    intensity: ExponentialIntensity,
    cara_risk_aversion: Float[Array, "*b"] | float,
    fill_risk_aversion: Float[Array, "*b"] | float,
    order_size: Float[Array, "*b"] | float = 1.0,
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    r"""GL-4: half spread $c_1 + \tfrac{\Delta}{2}\sigma c_2$ and skew $\sigma c_2$ per lot, for orders of $\Delta$ lots.

    $c_1 = \frac{1}{\xi\Delta}\ln(1 + \xi\Delta/k)$, $c_2 = \sqrt{\frac{\gamma}{2A\Delta k}(1 + \xi\Delta/k)^{k/(\xi\Delta) + 1}}$; $\xi = \gamma$ and
    $\Delta = 1$ is `stationary_depths`. Source: Gueant, Lehalle and Fernandez-Tapia; hftbacktest's GLFT notebook.

    Returns:
        $c_1$ [price] and $c_2$ [sqrt(s)/lot], which times the volatility is a price per lot.
    """
    w = jnp.asarray(fill_risk_aversion * order_size) / intensity.decay
    power = jnp.exp(jnp.log1p(w) + log1p_ratio(w))
    second = jnp.sqrt(cara_risk_aversion / (2 * intensity.scale * order_size * intensity.decay) * power)
    return log1p_ratio(w) / intensity.decay, second


def uneven_stationary_depths(
    bid: ExponentialIntensity,
    ask: ExponentialIntensity,
    inventory_penalty: Float[Array, "*b"] | float,
    inventory: Float[Array, "*b"],
    fill_risk_aversion: Float[Array, "*b"] | float = 0.0,
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    r"""GL-3 for $\Lambda^+ \ne \Lambda^-$ and one decay: $\sqrt{\Lambda^+\Lambda^-}$ for the scale, $\pm\ln(\Lambda^+/\Lambda^-)/(2k)$ on ask and bid.

    Returns:
        Bid depth and ask depth [price].
    """
    middle = ExponentialIntensity(jnp.sqrt(bid.scale * ask.scale), ask.decay)
    lower, upper = stationary_depths(middle, inventory_penalty, inventory, fill_risk_aversion)
    tilt = jnp.log(ask.scale / bid.scale) / (2 * ask.decay)
    return lower - tilt, upper + tilt
