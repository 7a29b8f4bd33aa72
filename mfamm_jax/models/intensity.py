r"""Fill intensities (3): how often an order resting at a depth is filled, and the best depth against a given cost.

A quote at depth $\delta$ that costs $p$ when filled (the indifference premium plus adverse selection) earns the margin
$\delta - p$, valued by $\psi_\xi(x) = (1 - e^{-\xi x})/\xi$, $\psi_0(x) = x$. The Hamiltonian is
$h(p) = \sup_{\delta \in [\delta_{min}, \delta_{max}]} \lambda(\delta)\,\psi_\xi(\delta - p)$.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfamm_jax.fields import Checked, real_field

# Below this argument the closed forms of `utility` and `log1p_ratio` are replaced by their series: values agree to rounding
# and the derivatives stay exact through zero.
SERIES_BELOW = 1e-2


def _polynomial(x: Float[Array, "*b"], coefficients: list[float]) -> Float[Array, "*b"]:
    total = jnp.zeros_like(x)
    for coefficient in coefficients:
        total = total * x + coefficient
    return total


def utility(margin: Float[Array, "*b"], fill_risk_aversion: Float[Array, "..."]) -> Float[Array, "*b"]:
    r"""$\psi_\xi(x) = (1 - e^{-\xi x})/\xi$, continuous with all first derivatives at $\xi = 0$."""
    u = fill_risk_aversion * margin
    small = jnp.abs(u) < SERIES_BELOW
    safe = jnp.where(small, 1.0, u)
    series = _polynomial(u, [-1 / 5040, 1 / 720, -1 / 120, 1 / 24, -1 / 6, 1 / 2, -1.0])
    return -margin * jnp.where(small, series, jnp.expm1(-safe) / safe)


def log1p_ratio(w: Float[Array, "*b"]) -> Float[Array, "*b"]:
    r"""$\ln(1 + w)/w$, continuous with its derivative at $w = 0$."""
    small = jnp.abs(w) < SERIES_BELOW
    safe = jnp.where(small, 1.0, w)
    series = _polynomial(w, [1 / 9, -1 / 8, 1 / 7, -1 / 6, 1 / 5, -1 / 4, 1 / 3, -1 / 2, 1.0])
    return jnp.where(small, series, jnp.log1p(safe) / safe)


class AbstractIntensity(Checked):
    """Fills per second as a function of the depth [price] of a quote; decreasing.

    Derivatives through a solver hold the best depth (Danskin): they are right where the best depth is no kink of the curve.
    """

    @abc.abstractmethod
    def log_intensity(self, depth: Float[Array, "..."]) -> Float[Array, "..."]:
        """Logarithm of the fill rate [1/s]."""

    @abc.abstractmethod
    def best_margin(
        self,
        cost: Float[Array, "*b"],
        fill_risk_aversion: Float[Array, "..."],
        min_depth: Float[Array, "..."],
        max_depth: Float[Array, "..."],
    ) -> Float[Array, "*b"]:
        """Depth minus cost of the best quote within the limits; +-inf = no limit."""

    def __call__(self, depth: Float[Array, "..."]) -> Float[Array, "..."]:
        """Fills per second at a depth."""
        return jnp.exp(self.log_intensity(depth))

    @abc.abstractmethod
    def scaled(self, factor: Float[Array, "..."] | float) -> "AbstractIntensity":
        """The same curve with every fill rate multiplied."""

    def hamiltonian(
        self,
        cost: Float[Array, "*b"],
        fill_risk_aversion: Float[Array, "..."],
        min_depth: Float[Array, "..."],
        max_depth: Float[Array, "..."],
    ) -> Float[Array, "*b"]:
        r"""$h(p)$. Its derivative in p is minus the (utility-weighted) fill rate, clamped or not (envelope)."""
        return _hamiltonian(self, cost, fill_risk_aversion, min_depth, max_depth)

    def hamiltonian_and_rate(
        self,
        cost: Float[Array, "*b"],
        fill_risk_aversion: Float[Array, "..."],
        min_depth: Float[Array, "..."],
        max_depth: Float[Array, "..."],
    ) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
        r"""$h(p)$ and $-h'(p) = \lambda(\delta^*)\,e^{-\xi(\delta^* - p)}$, the fill rate at $\xi = 0$ [1/s]."""
        margin = self.best_margin(cost, fill_risk_aversion, min_depth, max_depth)
        rate = self(cost + margin)
        return rate * utility(margin, fill_risk_aversion), rate * jnp.exp(-fill_risk_aversion * margin)


@jax.custom_jvp
def _hamiltonian(intensity, cost, fill_risk_aversion, min_depth, max_depth):
    return intensity.hamiltonian_and_rate(cost, fill_risk_aversion, min_depth, max_depth)[0]


@_hamiltonian.defjvp
def _hamiltonian_jvp(primals, tangents):
    """Danskin: the best depth moves only with a limit it sits at, which leaves nothing of its search to differentiate.

    The depth itself stays differentiable, so that this rule has the right derivatives in turn.
    """
    intensity, cost, fill_risk_aversion, min_depth, max_depth = primals
    by_intensity, by_cost, by_aversion, by_min, by_max = tangents
    margin = intensity.best_margin(cost, fill_risk_aversion, min_depth, max_depth)
    moves = jnp.where(margin >= max_depth - cost, by_max, jnp.zeros_like(margin))
    moves = jnp.where(margin <= min_depth - cost, by_min, moves)

    def reward(intensity, fill_risk_aversion, depth, margin):
        return intensity(depth) * utility(margin, fill_risk_aversion)

    at = intensity, fill_risk_aversion, cost + margin, margin
    return jax.jvp(reward, at, (by_intensity, by_aversion, moves, moves - by_cost))


class ExponentialIntensity(AbstractIntensity):
    r"""$\lambda(\delta) = \Lambda e^{-k\delta}$.

    The objective is unimodal in the depth, so clipping the unconstrained optimum $p + \ln(1+\xi/k)/\xi$ is exact.
    Source: (3) with a depth term; docs/equations.md.

    Args:
        scale: $\Lambda$, fills per second at the mid [1/s].
        decay: $k$ [1/price].
    """

    scale: Float[Array, ""] = real_field(lower=0.0, strict=True, unit="1/s", source="(3)", help="fill rate at the mid")
    decay: Float[Array, ""] = real_field(
        lower=0.0, strict=True, unit="1/price", source="(3)", help="decay of the fill rate with depth"
    )

    def log_intensity(self, depth: Float[Array, "..."]) -> Float[Array, "..."]:
        """Logarithm of the fill rate."""
        return jnp.log(self.scale) - self.decay * depth

    def scaled(self, factor: Float[Array, "..."] | float) -> "ExponentialIntensity":
        """Multiplies the scale."""
        return ExponentialIntensity(self.scale * factor, self.decay)

    def natural_margin(self, fill_risk_aversion: Float[Array, "..."]) -> Float[Array, "..."]:
        r"""Margin of an unclamped quote: $1/k$, or $\ln(1 + \xi/k)/\xi$ with CARA weight on fills."""
        return log1p_ratio(fill_risk_aversion / self.decay) / self.decay

    def log_coupling(self, fill_risk_aversion: Float[Array, "..."]) -> Float[Array, "..."]:
        r"""$\ln(\Lambda C_\xi)$ with $C_\xi = (1+\xi/k)^{-(1+k/\xi)}$: unclamped, $k\,h(p) = \Lambda C_\xi e^{-kp}$."""
        w = fill_risk_aversion / self.decay
        return jnp.log(self.scale) - jnp.log1p(w) - log1p_ratio(w)

    def best_margin(
        self,
        cost: Float[Array, "*b"],
        fill_risk_aversion: Float[Array, "..."],
        min_depth: Float[Array, "..."],
        max_depth: Float[Array, "..."],
    ) -> Float[Array, "*b"]:
        """The natural margin, clipped: clipping the margin rather than the depth does not cancel digits."""
        return jnp.clip(self.natural_margin(fill_risk_aversion), min_depth - cost, max_depth - cost)


def gate_factor(
    value: Float[Array, ""], gate: Float[Array, ""], width: Float[Array, ""], reduced: Float[Array, ""]
) -> Float[Array, ""]:
    r"""$1 - (1 - s_{min})\,\mathrm{sigmoid}((x - gate)/w)$; a step (full size at the gate itself) when w = 0.

    Multiplies the size of a quote, or the fill intensity in the solver: `intensity.scaled(gate_factor(vpin, ...))`.
    """
    safe = jnp.where(width > 0, width, 1.0)
    above = jnp.where(width > 0, jax.nn.sigmoid((value - gate) / safe), jnp.where(value > gate, 1.0, 0.0))
    return 1.0 - (1.0 - reduced) * above


class LogLinearScale(eqx.Module):
    r"""Covariates of (3): $\ln \Lambda = \beta_0 + \beta_1\cdot\Theta + \beta_2\,VPIN + \beta_3\,imbalance$, for one side.

    The rulebook prints one set of coefficients for both sides, which could never skew a quote: each side has its own.

    Args:
        intercept: $\beta_0$, log fill rate at the mid of a neutral market [log 1/s].
        book: $\beta_1$, on the standardised book features (7).
        vpin: $\beta_2$.
        imbalance: $\beta_3$; positive for the ask side, negative for the bid side.
    """

    intercept: Float[Array, ""] = real_field()
    book: Float[Array, " feature"] = real_field()
    vpin: Float[Array, ""] = real_field()
    imbalance: Float[Array, ""] = real_field()

    def __call__(
        self, book_features: Float[Array, " feature"], vpin: Float[Array, ""], imbalance: Float[Array, ""]
    ) -> Float[Array, ""]:
        """Log of the fill rate at the mid."""
        return self.intercept + self.book @ book_features + self.vpin * vpin + self.imbalance * imbalance
