r"""The market maker's control problem (1)-(2), (8)-(10) on integer inventory, its grid and its answer.

With $p^+(q) = H(q) - H(q-1)$, $p^-(q) = H(q) - H(q+1)$ and $\tau$ the time left,

$$\frac{dH}{d\tau}(q) = \mu q - \phi q^2 + 1_{q>-Q}\,h^+(p^+(q) + \epsilon^+) + 1_{q<Q}\,h^-(p^-(q) + \epsilon^-),
  \qquad H(q, 0) = -\alpha q^2.$$

$+$ is the ask side (a fill sells one lot), $-$ the bid side. The rulebook's (8), read literally, is the fluid limit of this equation,
in which volatility cannot widen the spread; docs/equations.md has the derivation.
"""

import abc
import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.models.intensity import AbstractIntensity
from mfamm_jax.results import Solution


class AbstractProblem(Checked):
    """Dynamics of a value function. Its array leads with inventory; axes of a batch of parameters, if any, trail.

    In such a batch `horizon` has the batch's axes, and every other parameter has them or none.

    Every scheme that is not tied to one structure works on any of these through the methods below.
    """

    horizon: eqx.AbstractVar[Float[Array, "*batch"]]

    @abc.abstractmethod
    def terminal_value(self, grid: Any) -> Float[Array, "inventory *rest"]:
        """H with no time left [price lot]."""

    @abc.abstractmethod
    def value_rate(self, value: Float[Array, "inventory *rest"]) -> Float[Array, "inventory *rest"]:
        r"""$dH/d\tau$ [price lot/s]; a constant added to the value changes nothing."""

    @abc.abstractmethod
    def exit_rate(self, value: Float[Array, "inventory *rest"]) -> Float[Array, "inventory *rest"]:
        """Rate [1/s] at which the state is left under the optimal quotes: half the bound on the generator's eigenvalues."""

    @abc.abstractmethod
    def gauge(self, value: Float[Array, "inventory *rest"]) -> Float[Array, "*batch"]:
        """The entry that is carried apart: inventory 0."""


class HJBProblem(AbstractProblem):
    r"""What the market maker maximises, over prices and seconds in consistent units, inventory in lots.

    Args:
        bid: Fill intensity of the bid quote.
        ask: Fill intensity of the ask quote.
        inventory_penalty: $\phi$, running penalty [price/(lot s)]; the rulebook's is $\gamma\sigma^2$ (`rulebook_penalty`),
            a CARA utility's is $\gamma_C\sigma^2/2$ together with `fill_risk_aversion` $= \gamma_C$.
        terminal_penalty: $\alpha$ in (9) [price/lot].
        horizon: $T$ [s].
        drift: $\mu$ of the mid [price/s].
        bid_adverse_selection: Expected fall of the mid after a bid fill [price].
        ask_adverse_selection: Expected rise of the mid after an ask fill [price].
        fill_risk_aversion: $\xi$ [1/price]; 0 = risk-neutral in fills.
        min_depth: Smallest depth that may be quoted [price]; -inf = none.
        max_depth: Largest depth that may be quoted [price]; inf = none.
        may_withdraw: Leave a side unquoted where every allowed depth loses; the rulebook's set A has no such choice.
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

    may_withdraw: bool = static_field(default=False, help="leave a side unquoted where every allowed depth loses")

    def __check_init__(self) -> None:
        for side in ("bid", "ask"):
            if not isinstance(getattr(self, side), AbstractIntensity):
                raise ValueError(f"HJBProblem.{side} is {getattr(self, side)!r}, expected a fill intensity")
        limits = self.min_depth, self.max_depth
        if any(isinstance(limit, jax.core.Tracer) for limit in limits):
            return
        # numpy: under a trace jax would turn even constants into tracers.
        low, high = (np.asarray(limit) for limit in limits)
        if np.any(low > high) or np.any(low == np.inf) or np.any(high == -np.inf):
            raise ValueError(f"HJBProblem.min_depth {low} and max_depth {high} leave no quote that is allowed")

    def margin(self, cost: Float[Array, "*b"], side: str) -> Float[Array, "*b"]:
        """Depth minus cost of the best quote of a side, `"bid"` or `"ask"`; NaN where the side is withdrawn."""
        limits = self.fill_risk_aversion, self.min_depth, self.max_depth
        margin = getattr(self, side).best_margin(cost, *limits)
        return jnp.where(margin > 0, margin, jnp.nan) if self.may_withdraw else margin

    def hamiltonian(self, cost: Float[Array, "*b"], side: str) -> Float[Array, "*b"]:
        """$h(cost)$ of a side."""
        limits = self.fill_risk_aversion, self.min_depth, self.max_depth
        gain = getattr(self, side).hamiltonian(cost, *limits)
        # NaN, where a table has no node within the limits, is a loss too.
        return jnp.where(gain > 0, gain, 0.0) if self.may_withdraw else gain

    def hamiltonian_and_rate(
        self, cost: Float[Array, "*b"], side: str
    ) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
        """$h(cost)$ and $-h'(cost)$ of a side."""
        gain, rate = getattr(self, side).hamiltonian_and_rate(
            cost, self.fill_risk_aversion, self.min_depth, self.max_depth
        )
        if not self.may_withdraw:
            return gain, rate
        return jnp.where(gain > 0, gain, 0.0), jnp.where(gain > 0, rate, 0.0)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Trailing axes that the parameters bring to a value."""
        fields = [getattr(self, field.name) for field in dataclasses.fields(self)]
        depth = jax.ShapeDtypeStruct((), self.horizon.dtype)
        # Not the bound methods: jax keeps what it traced by comparing functions, and these compare by their arrays.
        shapes = [
            jax.eval_shape(lambda d, side=side: side.log_intensity(d), depth).shape for side in (self.bid, self.ask)
        ]
        return jnp.broadcast_shapes(*shapes, *(x.shape for x in fields if eqx.is_array(x)))

    def terminal_value(self, grid: "Grid") -> Float[Array, "inventory *rest"]:
        """(9)."""
        shape = self.batch_shape
        return jnp.broadcast_to(
            -self.terminal_penalty * column(grid.inventory, len(shape)) ** 2, (grid.inventory.size, *shape)
        )

    def value_rate(self, value: Float[Array, "inventory *rest"]) -> Float[Array, "inventory *rest"]:
        """The right-hand side above."""
        inventory = column(jnp.arange(value.shape[0], dtype=value.dtype) - value.shape[0] // 2, value.ndim - 1)
        bid_cost, ask_cost = indifference_costs(self, value, axis=0)
        gain = _shift(self.hamiltonian(ask_cost, "ask"), 1) + _shift(self.hamiltonian(bid_cost, "bid"), -1)
        return self.drift * inventory - self.inventory_penalty * inventory**2 + gain

    def exit_rate(self, value: Float[Array, "inventory *rest"]) -> Float[Array, "inventory *rest"]:
        """Total fill rate of the optimal quotes."""
        bid_cost, ask_cost = indifference_costs(self, value, axis=0)
        ask, bid = (self.hamiltonian_and_rate(c, side)[1] for c, side in ((ask_cost, "ask"), (bid_cost, "bid")))
        return _shift(ask, 1) + _shift(bid, -1)

    def gauge(self, value: Float[Array, "inventory *rest"]) -> Float[Array, "*batch"]:
        """Inventory 0."""
        return value[value.shape[0] // 2]


def column(x: Float[Array, " inventory"], n_trailing: int) -> Float[Array, "inventory *ones"]:
    """Appends axes of length one, so that parameters with trailing axes broadcast."""
    return x.reshape(-1, *(1,) * n_trailing)


def _shift(x: Float[Array, "less *rest"], by: int) -> Float[Array, "inventory *rest"]:
    """Zero in place of the missing first (by = 1) or last (by = -1) inventory: no ask at -Q, no bid at Q."""
    return jnp.pad(x, [(1, 0) if by > 0 else (0, 1)] + [(0, 0)] * (x.ndim - 1))


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

    time_left: Float[Array, "time *batch"]
    relative_value: Float[Array, "time inventory *rest"]
    offset: Float[Array, "time *batch"]

    @property
    def value(self) -> Float[Array, "time inventory *rest"]:
        r"""$H(q, \tau)$."""
        between = (1,) * (self.relative_value.ndim - self.offset.ndim)
        return self.relative_value + self.offset.reshape(self.offset.shape[0], *between, *self.offset.shape[1:])

    @property
    def initial_value(self) -> Float[Array, "inventory *rest"]:
        """$H(q)$ with the whole horizon left."""
        return self.relative_value[-1] + self.offset[-1]


class AbstractScheme(Checked):
    """How the equation is integrated."""

    @abc.abstractmethod
    def solve(
        self, problem: AbstractProblem, grid: Any, start: Float[Array, "inventory *rest"] | None = None
    ) -> Solution:
        """Solution whose value is a `ValueTable`; `start` replaces the value with no time left."""


def solve_hjb(problem: AbstractProblem, scheme: AbstractScheme, grid: Any) -> Solution:
    """Solves the market maker's HJB equation. Pure: jit, vmap and differentiate it as needed.

    Args:
        problem: What is solved; every array in it may be swept and differentiated.
        scheme: How; `choose_scheme(problem, grid)` picks one and says why.
        grid: Inventories and times of the answer.

    Returns:
        `Solution` with a `ValueTable`; `result` says whether the scheme applied, `stats` how trustworthy the table is:
        `concavity_violation` and `monotonicity_violation` [price], `clamp_activity` (share of quotes at a depth limit) and
        what the scheme reports about its own steps.
    """
    if not isinstance(scheme, AbstractScheme):
        raise ValueError(f"expected a scheme, got {type(scheme).__name__}: solve_hjb(problem, scheme, grid)")
    return scheme.solve(problem, grid)


def indifference_costs(
    problem: HJBProblem, relative_value: Float[Array, "..."], axis: int = -1
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    r"""$p^\pm + \epsilon^\pm$: what a fill costs. Bid costs belong to inventories -Q..Q-1, ask costs to -Q+1..Q of `axis`."""
    size = relative_value.shape[axis]
    upper = jax.lax.slice_in_dim(relative_value, 1, size, axis=axis)
    rise = upper - jax.lax.slice_in_dim(relative_value, 0, size - 1, axis=axis)
    return problem.bid_adverse_selection - rise, problem.ask_adverse_selection + rise


def optimal_depths(
    problem: HJBProblem, relative_value: Float[Array, "..."], axis: int = -1
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """(10): best bid and ask depth [price]; NaN where a side is not quoted (bid at Q, ask at -Q).

    Args:
        problem: One asset; parameters with a regime axis broadcast against the axes after `axis`.
        relative_value: Value, up to a constant.
        axis: Of the inventory.
    """
    if isinstance(relative_value, Solution | ValueTable):
        raise ValueError("expected the values: pass solution.value.relative_value, or a row of it")
    bid_cost, ask_cost = indifference_costs(problem, relative_value, axis)
    unquoted = jnp.full_like(jax.lax.slice_in_dim(relative_value, 0, 1, axis=axis), jnp.nan)
    bid = jnp.concatenate([bid_cost + problem.margin(bid_cost, "bid"), unquoted], axis=axis)
    ask = jnp.concatenate([unquoted, ask_cost + problem.margin(ask_cost, "ask")], axis=axis)
    return bid, ask
