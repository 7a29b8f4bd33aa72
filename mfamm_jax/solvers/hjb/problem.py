r"""The market maker's control problem (1)-(2), (8)-(10) on integer inventory, its grid and its answer.

With $p^+(q) = H(q) - H(q-1)$, $p^-(q) = H(q) - H(q+1)$ and $\tau$ the time left,

$$\frac{dH}{d\tau}(q) = \mu q - \phi q^2 + 1_{q>-Q}\,h^+(p^+(q) + \epsilon^+) + 1_{q<Q}\,h^-(p^-(q) + \epsilon^-),
  \qquad H(q, 0) = -\alpha q^2.$$

$+$ is the ask side (a fill sells one lot), $-$ the bid side. The rulebook's (8), read literally, is the fluid limit of this equation,
in which volatility cannot widen the spread; docs/equations.md has the derivation.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.models.intensity import AbstractIntensity
from mfamm_jax.results import Solution


class HJBProblem(Checked):
    r"""What the market maker maximises, over prices and seconds in consistent units, inventory in lots.

    Args:
        bid: Fill intensity of the bid quote.
        ask: Fill intensity of the ask quote.
        inventory_penalty: $\phi$, running penalty [price/(lot s)]; the rulebook's is $\gamma\sigma^2$ (see `inventory_penalty`),
            a CARA utility's is $\gamma_C\sigma^2/2$ together with `fill_risk_aversion` $= \gamma_C$.
        terminal_penalty: $\alpha$ in (9) [price/lot].
        horizon: $T$ [s].
        drift: $\mu$ of the mid [price/s].
        bid_adverse_selection: Expected fall of the mid after a bid fill [price].
        ask_adverse_selection: Expected rise of the mid after an ask fill [price].
        fill_risk_aversion: $\xi$ [1/price]; 0 = risk-neutral in fills.
        min_depth: Smallest depth that may be quoted [price]; -inf = none.
        max_depth: Largest depth that may be quoted [price]; inf = none.
    """

    bid: AbstractIntensity
    ask: AbstractIntensity
    inventory_penalty: Float[Array, ""] = real_field(lower=0.0, unit="price/(lot s)", source="(1)")
    terminal_penalty: Float[Array, ""] = real_field(default=1e-4, lower=0.0, unit="price/lot", source="(9)")
    horizon: Float[Array, ""] = real_field(default=10.0, lower=0.0, strict=True, unit="s", source="(1)")
    drift: Float[Array, ""] = real_field(default=0.0, unit="price/s")
    bid_adverse_selection: Float[Array, ""] = real_field(default=0.0, unit="price")
    ask_adverse_selection: Float[Array, ""] = real_field(default=0.0, unit="price")
    fill_risk_aversion: Float[Array, ""] = real_field(default=0.0, lower=0.0, unit="1/price")
    min_depth: Float[Array, ""] = real_field(default=-jnp.inf, unit="price", source="(1), set A")
    max_depth: Float[Array, ""] = real_field(default=jnp.inf, unit="price", source="(1), set A")

    def margin(self, cost: Float[Array, "*b"], side: str) -> Float[Array, "*b"]:
        """Depth minus cost of the best quote of a side, `"bid"` or `"ask"`."""
        return getattr(self, side).best_margin(cost, self.fill_risk_aversion, self.min_depth, self.max_depth)

    def hamiltonian(self, cost: Float[Array, "*b"], side: str) -> Float[Array, "*b"]:
        """$h(cost)$ of a side."""
        return getattr(self, side).hamiltonian(cost, self.fill_risk_aversion, self.min_depth, self.max_depth)


def rulebook_penalty(
    risk_aversion: Float[Array, "*b"] | float, volatility: Float[Array, "*b"] | float
) -> Float[Array, "*b"]:
    r"""$\phi = \gamma\sigma^2$ of (1). Avellaneda-Stoikov's CARA $\gamma_C$ is twice the rulebook's $\gamma$."""
    return jnp.asarray(risk_aversion * volatility**2, dtype=jnp.result_type(float))


class Grid(Checked):
    """Where the answer is wanted: inventories -max_inventory..max_inventory, `n_steps` + 1 equally spaced times."""

    max_inventory: int = static_field(default=10, lower=1, unit="lots", help="largest position")
    n_steps: int = static_field(default=1, lower=1, help="time steps of the table")

    @property
    def inventory(self) -> Float[Array, " inventory"]:
        """-max_inventory..max_inventory."""
        return jnp.arange(-self.max_inventory, self.max_inventory + 1, dtype=jnp.result_type(float))


class ValueTable(eqx.Module):
    r"""The value function in the gauge $H(q) - H(0)$; in float32 its differences would drown in the common offset.

    Args:
        time_left: $\tau$ = 0..horizon [s].
        relative_value: $H(q, \tau) - H(0, \tau)$ [price lot].
        offset: $H(0, \tau)$ [price lot].
    """

    time_left: Float[Array, " time"]
    relative_value: Float[Array, "time inventory"]
    offset: Float[Array, " time"]

    @property
    def value(self) -> Float[Array, "time inventory"]:
        """$H(q, \tau)$."""
        return self.relative_value + self.offset[:, None]

    @property
    def initial_value(self) -> Float[Array, " inventory"]:
        """$H(q)$ with the whole horizon left."""
        return self.relative_value[-1] + self.offset[-1]


class AbstractScheme(Checked):
    """How the equation is integrated."""

    @abc.abstractmethod
    def solve(self, problem: HJBProblem, grid: Grid) -> Solution:
        """Solution whose value is a `ValueTable`."""


def solve_hjb(problem: HJBProblem, scheme: AbstractScheme, grid: Grid) -> Solution:
    """Solves the market maker's HJB equation. Pure: jit, vmap and differentiate it as needed.

    Args:
        problem: What is solved; every array in it may be swept and differentiated.
        scheme: How; `choose_scheme(problem, grid)` picks one and says why.
        grid: Inventories and times of the answer.

    Returns:
        `Solution` with a `ValueTable`; `result` says whether the scheme applied.
    """
    return scheme.solve(problem, grid)


def indifference_costs(
    problem: HJBProblem, relative_value: Float[Array, "*t inventory"]
) -> tuple[Float[Array, "*t less"], Float[Array, "*t less"]]:
    r"""$p^\pm + \epsilon^\pm$: what a fill costs. Bid costs belong to inventories -Q..Q-1, ask costs to -Q+1..Q."""
    rise = relative_value[..., 1:] - relative_value[..., :-1]
    return problem.bid_adverse_selection - rise, problem.ask_adverse_selection + rise


def optimal_depths(
    problem: HJBProblem, relative_value: Float[Array, "*t inventory"]
) -> tuple[Float[Array, "*t inventory"], Float[Array, "*t inventory"]]:
    """(10): best bid and ask depth [price]; NaN where a side is not quoted (bid at Q, ask at -Q)."""
    bid_cost, ask_cost = indifference_costs(problem, relative_value)
    unquoted = jnp.full((*relative_value.shape[:-1], 1), jnp.nan, relative_value.dtype)
    bid = jnp.concatenate([bid_cost + problem.margin(bid_cost, "bid"), unquoted], axis=-1)
    ask = jnp.concatenate([unquoted, ask_cost + problem.margin(ask_cost, "ask")], axis=-1)
    return bid, ask
