r"""Quotes read off HJB solutions, reacting to volatility and to both sides' intensities at every decision.

Dividing the equation by $r = \bar\Lambda/\bar\Lambda_{ref}$, $\bar\Lambda = \sqrt{\Lambda^+\Lambda^-}$, shows that (without drift) the
value depends on $\phi/r$, on $u = \tfrac12\ln(\Lambda^+/\Lambda^-)$ and on $r\tau$ alone. The table therefore needs one axis for risk and one
for skew besides time and inventory; interpolation is linear in $\sqrt{\phi/(r\phi_{ref})}$ (in which the premium is nearly linear), u and
$r\tau$, and exact in inventory.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.models.intensity import ExponentialIntensity, LogLinearScale
from mfamm_jax.policies.quotes import AbstractPolicy, MarketState, Quotes
from mfamm_jax.results import Solution
from mfamm_jax.solvers.hjb.problem import AbstractScheme, Grid, HJBProblem, solve_hjb


def risk_nodes(max_risk: Float[Array, ""] | float, n_nodes: int) -> Float[Array, " risk"]:
    """Volatilities over the reference where tables are solved; a single node sits at the reference."""
    return jnp.ones(1) if n_nodes == 1 else max_risk * jnp.linspace(0.0, 1.0, n_nodes)


class TableAxes(Checked):
    """Where the table is solved.

    Args:
        n_risk: Nodes of the risk axis, sqrt(penalty/reference) from 0 to `max_risk`.
        n_skew: Nodes of the skew axis, half the log ratio of ask to bid intensity from -max_skew to max_skew.
        max_risk: About the largest volatility relative to the reference.
        max_skew: About the largest half log ratio.
        max_speed: Largest ratio of intensities to the reference; the table's horizon is as much longer.
    """

    n_risk: int = static_field(default=9, lower=1, help="nodes of the risk (volatility) axis")
    n_skew: int = static_field(default=7, lower=1, help="nodes of the intensity-skew axis")
    max_risk: Float[Array, ""] = real_field(default=3.0, lower=0.0, strict=True, help="largest volatility / reference")
    max_skew: Float[Array, ""] = real_field(default=1.5, lower=0.0, help="largest half log ratio of intensities")
    max_speed: Float[Array, ""] = real_field(default=2.0, lower=1.0, help="largest intensity / reference")

    @property
    def risk(self) -> Float[Array, " risk"]:
        """Nodes; a single node sits at the reference."""
        return risk_nodes(self.max_risk, self.n_risk)

    @property
    def skew(self) -> Float[Array, " skew"]:
        """Nodes; a single node sits at balance."""
        return jnp.zeros(1) if self.n_skew == 1 else self.max_skew * jnp.linspace(-1.0, 1.0, self.n_skew)


class ValueTablePolicy(AbstractPolicy):
    r"""(8)-(10) with $\phi = \gamma\sigma_t^2$ and (3) evaluated at every decision.

    Args:
        problem: Reference problem; its intensities' decays, adverse selection and depth limits hold in every state.
        rise: $H(q+1) - H(q)$ over (risk, skew, time, inventory -Q..Q-1) [price].
        axes: Nodes of risk and skew.
        table_horizon: Time span of the table [s at the reference intensity].
        risk_aversion: $\gamma$ of (1) [1/(price lot)].
        bid_scale: Log fill rate of bids at the mid as a function of the covariates.
        ask_scale: Same for asks.
        size: Size of every quote [lots].
    """

    problem: HJBProblem
    rise: Float[Array, "risk skew time less"]
    axes: TableAxes
    table_horizon: Float[Array, ""]
    risk_aversion: Float[Array, ""] = real_field()
    bid_scale: LogLinearScale
    ask_scale: LogLinearScale
    size: Float[Array, ""] = real_field()

    def __call__(self, state: MarketState) -> Quotes:
        """Best quotes for the state; no bid at the largest inventory, no ask at the smallest."""
        covariates = state.covariates
        features = (covariates.book_features, covariates.vpin, covariates.imbalance)
        log_bid, log_ask = self.bid_scale(*features), self.ask_scale(*features)
        rise = self._rise(covariates.volatility, log_bid, log_ask, state.time_left)
        n = rise.shape[-1] + 1
        position = jnp.round(state.inventory).astype(int) + n // 2
        bid_cost = self.problem.bid_adverse_selection - rise[jnp.clip(position, 0, n - 2)]
        ask_cost = self.problem.ask_adverse_selection + rise[jnp.clip(position - 1, 0, n - 2)]
        return Quotes(
            bid_depth=bid_cost + self.problem.margin(bid_cost, "bid"),
            ask_depth=ask_cost + self.problem.margin(ask_cost, "ask"),
            bid_size=jnp.where(position < n - 1, self.size, 0.0),
            ask_size=jnp.where(position > 0, self.size, 0.0),
        )

    def _rise(
        self,
        volatility: Float[Array, ""],
        log_bid: Float[Array, ""],
        log_ask: Float[Array, ""],
        time_left: Float[Array, ""],
    ) -> Float[Array, " less"]:
        """Interpolated $H(q+1) - H(q)$."""
        reference = 0.5 * (jnp.log(self.problem.bid.scale) + jnp.log(self.problem.ask.scale))
        # Beyond e^50 times the usual speed nothing changes any more, but 0 times infinity would.
        log_speed = jnp.clip(0.5 * (log_bid + log_ask) - reference, -50.0, 50.0)
        # sqrt(phi / (r phi_ref)): the reference penalty may be zero only together with the risk aversion.
        penalty = self.problem.inventory_penalty
        root = jnp.sqrt(self.risk_aversion / jnp.where(penalty > 0, penalty, 1.0))
        risk = jnp.where(penalty > 0, volatility * root, 1.0) * jnp.exp(-0.5 * log_speed)
        skew = 0.5 * (log_ask - log_bid)
        time = time_left * jnp.exp(log_speed) / self.table_horizon * (self.rise.shape[2] - 1)
        table = self.rise
        for low, weight in (
            bracket(risk, self.axes.risk),
            bracket(skew, self.axes.skew),
            between(time, table.shape[2]),
        ):
            high = jnp.minimum(low + 1, table.shape[0] - 1)
            table = table[low] * (1 - weight) + table[high] * weight
        return table


def between(position: Float[Array, ""], n: int) -> tuple[Int[Array, ""], Float[Array, ""]]:
    """Lower node and weight of the upper one on nodes 0..n-1; held constant outside."""
    position = jnp.clip(position, 0.0, n - 1.0)
    low = jnp.clip(jnp.floor(position), 0, max(n - 2, 0)).astype(int)
    return low, position - low


def bracket(x: Float[Array, ""], nodes: Float[Array, " node"]) -> tuple[Int[Array, ""], Float[Array, ""]]:
    """As `between` on equally spaced nodes."""
    if nodes.size == 1:
        return jnp.zeros((), int), jnp.zeros_like(x)
    return between((x - nodes[0]) / (nodes[1] - nodes[0]), nodes.size)


def tabulate(
    problem: HJBProblem,
    scheme: AbstractScheme,
    grid: Grid,
    axes: TableAxes,
    *,
    risk_aversion: Float[Array, ""] | float,
    bid_scale: LogLinearScale | None = None,
    ask_scale: LogLinearScale | None = None,
    size: Float[Array, ""] | float = 1.0,
) -> Solution:
    """Solves the problem at every node of the axes and returns the quoting policy.

    Args:
        problem: Reference; needs exponential intensities and no drift (time could not be rescaled).
        scheme: From `choose_scheme(largest_problem(problem, axes), grid)`.
        grid: Inventories and times of the table.
        axes: Nodes of risk and skew.
        risk_aversion: $\\gamma$ of (1); at a decision the penalty is `risk_aversion * volatility**2`.
        bid_scale: Covariate model of the bid intensity; None = constant at the reference.
        ask_scale: Same for the ask.
        size: Quote size [lots].

    Returns:
        `Solution` whose value is a `ValueTablePolicy`; `result` has one entry per node.
    """
    if not isinstance(problem.drift, jax.core.Tracer) and np.any(np.asarray(problem.drift) != 0):
        raise ValueError(f"a value table needs drift = 0, got {problem.drift}")

    def solve(risk, skew):
        return solve_hjb(_at_node(problem, axes, risk, skew), scheme, grid)

    solution = jax.vmap(jax.vmap(solve, (None, 0)), (0, None))(axes.risk, axes.skew)
    relative = solution.value.relative_value
    policy = ValueTablePolicy(
        problem=problem,
        rise=relative[..., 1:] - relative[..., :-1],
        axes=axes,
        table_horizon=problem.horizon * axes.max_speed,
        risk_aversion=risk_aversion,
        bid_scale=constant_scale(problem.bid) if bid_scale is None else bid_scale,
        ask_scale=constant_scale(problem.ask) if ask_scale is None else ask_scale,
        size=size,
    )
    return Solution(policy, solution.result, solution.stats)


def _at_node(problem: HJBProblem, axes: TableAxes, risk: Float[Array, ""], skew: Float[Array, ""]) -> HJBProblem:
    mean = jnp.sqrt(problem.bid.scale * problem.ask.scale)
    changed = (
        ExponentialIntensity(mean * jnp.exp(-skew), problem.bid.decay),
        ExponentialIntensity(mean * jnp.exp(skew), problem.ask.decay),
        problem.inventory_penalty * risk**2,
        problem.horizon * axes.max_speed,
    )
    return eqx.tree_at(lambda p: (p.bid, p.ask, p.inventory_penalty, p.horizon), problem, changed)


def largest_problem(problem: HJBProblem, axes: TableAxes) -> HJBProblem:
    """The stiffest node, for `choose_scheme`: largest penalty, intensities and horizon at once."""
    node = _at_node(problem, axes, axes.risk[-1], jnp.zeros(()))
    faster = jnp.exp(axes.skew[-1])
    return eqx.tree_at(lambda p: (p.bid.scale, p.ask.scale), node, (node.bid.scale * faster, node.ask.scale * faster))


def constant_scale(intensity: ExponentialIntensity) -> LogLinearScale:
    """A covariate model that ignores the covariates."""
    return LogLinearScale(jnp.log(intensity.scale), jnp.zeros(6), 0.0, 0.0)
