r"""The simulated market as a functional environment for reinforcement learning: `reset(key)`, `step(state, action, key)`.

Pure: jit, vmap over keys for many markets at once, scan for whole episodes. The world is `simulation.step`'s, so an agent and a quoting
policy play the same game with the same random numbers.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.policies.quotes import Covariates, MarketState, Quotes
from mfamm_jax.simulation.episode import Episodes
from mfamm_jax.simulation.step import PoissonMarket, StepRecord, step


class EnvironmentState(eqx.Module):
    """Between two steps.

    Args:
        market: Mid, inventory, cash, time left.
        index: Steps taken.
    """

    market: MarketState
    index: Int[Array, ""]


class Environment(Checked):
    r"""One asset, quotes of one lot on both sides.

    The action is the pair (bid depth, ask depth) [price]. The observation is the triple (inventory / `max_inventory`, share of the
    horizon left, change of the mid since the start in standard deviations of a Brownian mid over the horizon). The reward is (R-1),
    $d(X + qs) - \phi q^2 dt$ with the inventory after the fills, and $-\alpha q_T^2$ with the last step.

    Args:
        market: What fills quotes and moves the mid.
        episodes: Length, number of steps, $\alpha$.
        inventory_penalty: $\phi$ [price/(lot s)].
        max_inventory: A side that would exceed it is withdrawn [lots].
    """

    market: PoissonMarket
    episodes: Episodes
    inventory_penalty: Float[Array, ""] = real_field(default=0.0, lower=0.0, unit="price/(lot s)", source="(1)")
    max_inventory: int = static_field(default=10, lower=1, unit="lots", help="largest position")

    def reset(self, key: PRNGKeyArray) -> tuple[EnvironmentState, Float[Array, " observation"]]:
        """A flat start; `key` is there for interface's sake, since every start is the same."""
        market = self.market.start(self.episodes.horizon, Covariates.neutral(self.market.volatility))
        state = EnvironmentState(market, jnp.zeros((), jnp.int32))
        return state, self.observe(state)

    def step(
        self, state: EnvironmentState, action: Float[Array, " side"], key: PRNGKeyArray
    ) -> tuple[EnvironmentState, Float[Array, " observation"], Float[Array, ""], Bool[Array, ""], StepRecord]:
        """State, observation, reward, whether the episode ended, and what happened. Steps after the end are the caller's to avoid."""
        before = state.market
        dtype = before.cash.dtype
        limit = self.max_inventory
        sizes = (jnp.where(x, 1.0, 0.0).astype(dtype) for x in (before.inventory < limit, before.inventory > -limit))
        quotes = Quotes(action[0], action[1], *sizes)
        time_step = self.episodes.horizon / self.episodes.n_steps
        after, record = step(self.market, before, quotes, time_step, self.inventory_penalty, key)
        index = state.index + 1
        done = index >= self.episodes.n_steps
        # By multiplication, as in `simulate_episode`.
        left = time_step * (self.episodes.n_steps - index)
        after = eqx.tree_at(lambda s: s.time_left, after, left)
        state = EnvironmentState(after, index)
        reward = record.capture + record.revaluation - record.fees - record.penalty
        reward = reward - jnp.where(done, self.episodes.terminal_penalty * after.inventory**2, 0.0)
        return state, self.observe(state), reward, done, record

    def observe(self, state: EnvironmentState) -> Float[Array, " observation"]:
        """What an agent sees."""
        first = self.market.start(self.episodes.horizon, state.market.covariates).mid
        scale = self.market.volatility * jnp.sqrt(self.episodes.horizon)
        moved = (state.market.mid - first) / jnp.where(scale > 0, scale, 1.0)
        inventory = state.market.inventory / self.max_inventory
        return jnp.stack([inventory, state.market.time_left / self.episodes.horizon, moved])
