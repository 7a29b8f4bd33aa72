r"""What a quote kernel tabulates: a control problem and how market states move it.

Dividing the equation by the speed $r$ of both sides' intensities relative to the reference leaves three numbers: the time $r\tau$, the risk
$\rho = \phi/(r\phi_{ref})$ and the skew $a = \tfrac12\ln(\Lambda^+/\Lambda^-)$ relative to the reference. One table over them, and over
inventory, serves every state of a symbol. Source: docs/equations.md, K-1.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfamm_jax.fields import real_field
from mfamm_jax.models.intensity import ExponentialIntensity, LogLinearScale
from mfamm_jax.policies.quotes import AbstractPolicy, MarketState
from mfamm_jax.policies.value_table import ValueTablePolicy
from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.hjb import AbstractScheme, Grid, HJBProblem, optimal_depths


class QuoteModel(eqx.Module):
    r"""A reference problem and the covariate models around it.

    Args:
        problem: Reference; any fill curves that scale, no drift, one parameter set.
        tick_size: [price].
        risk_aversion: $\gamma$ of (1): a state's penalty is `risk_aversion * volatility**2`.
        bid_scale: Log fill rate of bids as a function of the covariates.
        ask_scale: Same for asks.
        reference: Log fill rates (bid, ask) at which `problem` holds.
    """

    problem: HJBProblem
    tick_size: Float[Array, ""] = real_field()
    risk_aversion: Float[Array, ""] = real_field()
    bid_scale: LogLinearScale
    ask_scale: LogLinearScale
    reference: Float[Array, "2"] = real_field()

    def coordinates(self, state: MarketState) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
        r"""$r\tau$ as a share of the horizon, $\log_2\rho$ and $a$ of a state."""
        seen = state.covariates
        features = (seen.book_features, seen.vpin, seen.imbalance)
        log_bid = self.bid_scale(*features) - self.reference[0]
        log_ask = self.ask_scale(*features) - self.reference[1]
        log_speed = 0.5 * (log_bid + log_ask)
        share = state.time_left * jnp.exp(log_speed) / self.problem.horizon
        penalty = self.risk_aversion * seen.volatility**2 / self.problem.inventory_penalty
        return share, jnp.log2(penalty) - log_speed / jnp.log(2.0), 0.5 * (log_ask - log_bid)

    def depths(
        self,
        scheme: AbstractScheme,
        max_inventory: int,
        share: Float[Array, ""],
        log_risk: Float[Array, ""],
        skew: Float[Array, ""],
        n_steps: int = 1,
    ) -> tuple[Float[Array, "time inventory 2"], Float[Array, "time inventory"], RESULTS]:
        """(ask, bid) depths in ticks at `n_steps` + 1 equal times up to `share` of the horizon, the value, and how it ended.

        Sides that are not quoted (bid at the largest inventory, ask at the smallest) repeat their neighbour's depth.
        """
        problem = self.at(log_risk, skew)
        problem = eqx.tree_at(lambda p: p.horizon, problem, problem.horizon * share)
        solution = scheme.solve(problem, Grid(max_inventory, n_steps))
        value = solution.value.relative_value
        bid, ask = optimal_depths(problem, value)
        ask = ask.at[:, 0].set(ask[:, 1])
        bid = bid.at[:, -1].set(bid[:, -2])
        return jnp.stack([ask, bid], axis=-1) / self.tick_size, value, solution.result

    def at(self, log_risk: Float[Array, ""], skew: Float[Array, ""]) -> HJBProblem:
        """The problem at a risk and a skew, at the reference speed."""
        problem = self.problem
        changed = (
            problem.bid.scaled(jnp.exp(-skew)),
            problem.ask.scaled(jnp.exp(skew)),
            problem.inventory_penalty * 2.0**log_risk,
        )
        # A decay that both sides share stays shared: the linear schemes then need no correction.
        if problem.bid is problem.ask or getattr(problem.bid, "decay", 0) is getattr(problem.ask, "decay", 1):
            bid, ask, penalty = changed
            if isinstance(bid, ExponentialIntensity) and isinstance(ask, ExponentialIntensity):
                changed = eqx.tree_at(lambda s: s.decay, bid, ask.decay), ask, penalty
        return eqx.tree_at(lambda p: (p.bid, p.ask, p.inventory_penalty), problem, changed)


def model_of(policy: AbstractPolicy, tick_size: Float[Array, ""] | float) -> QuoteModel:
    """What a value-table policy says about states, for the kernel to tabulate anew on its own axes.

    Raises:
        ValueError: For any other policy, networks and boosted trees among them.
    """
    if not isinstance(policy, ValueTablePolicy):
        raise ValueError(
            f"a {type(policy).__name__} cannot be tabulated. Networks and boosted trees stay off the chip: they deliver fill rates, which become "
            "time, risk and skew of a state; a curve of theirs can be tabulated as a TabulatedIntensity in a QuoteModel"
        )
    problem = eqx.tree_at(lambda p: p.horizon, policy.problem, policy.table_horizon)
    reference = jnp.log(jnp.stack([problem.bid.scale, problem.ask.scale]))
    return QuoteModel(problem, tick_size, policy.risk_aversion, policy.bid_scale, policy.ask_scale, reference)


def check_model(model: QuoteModel) -> None:
    """ValueError naming what a kernel cannot hold."""
    problem = model.problem
    if problem.batch_shape:
        raise ValueError(f"one kernel holds one parameter set, got a batch of shape {problem.batch_shape}")
    for path, leaf in jax.tree_util.tree_leaves_with_path(model):
        x, where = np.asarray(leaf), jax.tree_util.keystr(path).lstrip(".")
        unlimited = where in ("problem.min_depth", "problem.max_depth") and np.isinf(x).all()
        if not np.isfinite(x).all() and not unlimited:
            raise ValueError(f"{where}: {x} is not finite")
    if not float(model.tick_size) > 0:
        raise ValueError(f"tick_size is {float(model.tick_size):g}, expected > 0")
    if float(problem.drift) != 0:
        raise ValueError(f"drift is {float(problem.drift):g}: its time cannot be rescaled, a kernel needs drift = 0")
    if not float(problem.inventory_penalty) > 0:
        raise ValueError("the reference's inventory_penalty is 0: the table's risk axis counts multiples of it")
    if problem.may_withdraw:
        raise ValueError("may_withdraw: a table of depths cannot hold a withdrawn side; set may_withdraw = false")
    if np.asarray(problem.horizon).dtype != np.float64:
        raise ValueError('tables are solved in float64: set precision = "float64"')
