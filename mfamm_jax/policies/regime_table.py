r"""Quotes that react to signals: an HJB value table per regime of the imbalance (6) and of VPIN (5).

Thresholds on the two signals cut the market's states into regimes; `RegimeProblem` says how each of them trades and how they
follow one another. A decision reads the table of the regime it sees. Volatility enters as in `value_table`: linear
interpolation in $\sqrt{\phi/\phi_{ref}}$.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.policies.quotes import AbstractPolicy, Covariates, MarketState, Quotes
from mfamm_jax.policies.value_table import between, bracket
from mfamm_jax.results import Solution
from mfamm_jax.solvers.hjb.problem import AbstractScheme, Grid, solve_hjb
from mfamm_jax.solvers.hjb.states import RegimeProblem


class RegimeMap(Checked):
    """Regime number of the signals: imbalance regimes from selling to buying pressure, each split by VPIN.

    Args:
        imbalance: |imbalance| beyond it is pressure.
        vpin: VPIN beyond it is toxic.
        uses_imbalance, uses_vpin: Whether the signal splits at all.
    """

    imbalance: Float[Array, ""] = real_field(
        default=0.3, lower=0.0, upper=1.0, source="(6)", help="|imbalance| beyond it is buying or selling pressure"
    )
    vpin: Float[Array, ""] = real_field(
        default=0.7, lower=0.0, upper=1.0, source="(5)", help="VPIN beyond it is toxic flow"
    )
    uses_imbalance: bool = static_field(default=True, help="selling pressure, neither, buying pressure")
    uses_vpin: bool = static_field(default=True, help="calm, toxic")

    @property
    def n_regimes(self) -> int:
        """3 x 2 with both signals, 1 with none."""
        return (3 if self.uses_imbalance else 1) * (2 if self.uses_vpin else 1)

    @property
    def names(self) -> tuple[str, ...]:
        """In the order of the numbers."""
        pressure = ("selling", "neither", "buying") if self.uses_imbalance else ("",)
        toxicity = ("calm", "toxic") if self.uses_vpin else ("",)
        return tuple(" ".join(x for x in (a, b) if x) or "always" for a in pressure for b in toxicity)

    @property
    def mirrored(self) -> tuple[int, ...]:
        """Which regime each one becomes when bid and ask are swapped."""
        n_vpin = 2 if self.uses_vpin else 1
        return tuple(int(i) for i in np.arange(self.n_regimes).reshape(-1, n_vpin)[::-1].ravel())

    def __call__(self, imbalance: Float[Array, "*b"], vpin: Float[Array, "*b"]) -> Int[Array, "*b"]:
        """Regime number; a signal at its threshold is not beyond it."""
        number = jnp.zeros(jnp.shape(imbalance), int)
        if self.uses_imbalance:
            number = 1 + (imbalance > self.imbalance).astype(int) - (imbalance < -self.imbalance).astype(int)
        if self.uses_vpin:
            number = 2 * number + (vpin > self.vpin).astype(int)
        return number

    def of(self, covariates: Covariates) -> Int[Array, "*b"]:
        """Regime at a decision."""
        return self(covariates.imbalance, covariates.vpin)


class RegimeTablePolicy(AbstractPolicy):
    r"""(8)-(10) with $\phi = \gamma\sigma_t^2$ in the regime of the moment.

    Args:
        problem: Reference problem; one regime per number of `regimes`.
        rise: $H(q+1) - H(q)$ over (risk, time, inventory -Q..Q-1, regime) [price].
        risk: Nodes of $\sqrt{\phi/\phi_{ref}}$.
        regimes: Signals to regime.
        risk_aversion: $\gamma$ of (1) [1/(price lot)].
        size: Size of every quote [lots].
    """

    problem: RegimeProblem
    rise: Float[Array, "risk time less regime"]
    risk: Float[Array, " risk"]
    regimes: RegimeMap
    risk_aversion: Float[Array, ""] = real_field()
    size: Float[Array, ""] = real_field()

    def __call__(self, state: MarketState) -> Quotes:
        """Best quotes for the state; no bid at the largest inventory, no ask at the smallest."""
        regime = self.regimes.of(state.covariates)
        here = jax.tree.map(lambda x: x[regime] if jnp.ndim(x) else x, self.problem.regimes)
        rise = self._rise(state.covariates.volatility, state.time_left, here.inventory_penalty)[:, regime]
        n = rise.shape[0] + 1
        position = jnp.round(state.inventory).astype(int) + n // 2
        bid_cost = here.bid_adverse_selection - rise[jnp.clip(position, 0, n - 2)]
        ask_cost = here.ask_adverse_selection + rise[jnp.clip(position - 1, 0, n - 2)]
        return Quotes(
            bid_depth=bid_cost + here.margin(bid_cost, "bid"),
            ask_depth=ask_cost + here.margin(ask_cost, "ask"),
            bid_size=jnp.where(position < n - 1, self.size, 0.0),
            ask_size=jnp.where(position > 0, self.size, 0.0),
        )

    def _rise(
        self, volatility: Float[Array, ""], time_left: Float[Array, ""], penalty: Float[Array, ""]
    ) -> Float[Array, "less regime"]:
        """Interpolated $H(q+1) - H(q)$ of every regime."""
        # The reference penalty may be zero only together with the risk aversion.
        root = jnp.sqrt(self.risk_aversion / jnp.where(penalty > 0, penalty, 1.0))
        risk = jnp.where(penalty > 0, volatility * root, 1.0)
        time = time_left / self.problem.horizon * (self.rise.shape[1] - 1)
        table = self.rise
        for low, weight in (bracket(risk, self.risk), between(time, table.shape[1])):
            high = jnp.minimum(low + 1, table.shape[0] - 1)
            table = table[low] * (1 - weight) + table[high] * weight
        return table


def at_risk(problem: RegimeProblem, risk: Float[Array, ""]) -> RegimeProblem:
    """The problem at one node of the risk axis."""
    return eqx.tree_at(lambda p: p.regimes.inventory_penalty, problem, problem.regimes.inventory_penalty * risk**2)


def tabulate_regimes(
    problem: RegimeProblem,
    scheme: AbstractScheme,
    grid: Grid,
    regimes: RegimeMap,
    *,
    risk: Float[Array, " risk"],
    risk_aversion: Float[Array, ""] | float,
    size: Float[Array, ""] | float = 1.0,
) -> Solution:
    r"""Solves the problem at every node of the risk axis and returns the quoting policy.

    Args:
        problem: Reference, with one common inventory penalty.
        scheme: From `choose_scheme(at_risk(problem, risk[-1]), grid)`.
        grid: Inventories and times of the table.
        regimes: Signals to regime.
        risk: Nodes of $\sqrt{\phi/\phi_{ref}}$, equally spaced; one node serves every volatility.
        risk_aversion: $\gamma$ of (1); at a decision the penalty is `risk_aversion * volatility**2`.
        size: Quote size [lots].

    Returns:
        `Solution` whose value is a `RegimeTablePolicy`; `result` has one entry per node.
    """
    n = problem.generator.shape[0]
    if n != regimes.n_regimes:
        raise ValueError(f"the problem has {n} regimes, expected {regimes.n_regimes}: {', '.join(regimes.names)}")
    if problem.regimes.inventory_penalty.ndim:
        raise ValueError(
            "problem.regimes.inventory_penalty must be one number for all regimes: volatility is read at decisions"
        )
    solution = jax.vmap(lambda node: solve_hjb(at_risk(problem, node), scheme, grid))(risk)
    relative = solution.value.relative_value
    policy = RegimeTablePolicy(
        problem=problem,
        rise=relative[:, :, 1:] - relative[:, :, :-1],
        risk=risk,
        regimes=regimes,
        risk_aversion=risk_aversion,
        size=size,
    )
    return Solution(policy, solution.result, solution.stats)
