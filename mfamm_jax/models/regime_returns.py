r"""P&L of several strategies whose means depend on a hidden regime: $\pi_t = m_{z_t} + E\,a_t$, z a Markov chain, $a_t \sim N(0, \Sigma)$.

A market maker earns while prices go nowhere and loses to trends; a pair trade needs spreads that come back. Which it is, only the P&L tells:
`filtered` is what the best observer of the past knows (Hamilton 1989).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mfamm_jax.fields import as_real


class RegimeReturns(eqx.Module):
    """Law of the P&L per period and unit of capital.

    Args:
        means: Expected P&L.
        exposures: E, of every strategy to every asset (or source of risk).
        covariance: Sigma, of the assets per period.
        switching: Probability of each regime after each, rows sum to 1.
    """

    means: Float[Array, "regime strategy"] = eqx.field(converter=as_real)
    exposures: Float[Array, "strategy asset"] = eqx.field(converter=as_real)
    covariance: Float[Array, "asset asset"] = eqx.field(converter=as_real)
    switching: Float[Array, "regime regime"] = eqx.field(converter=as_real)

    @property
    def pnl_covariance(self) -> Float[Array, "strategy strategy"]:
        """E Sigma E', the same in every regime."""
        return self.exposures @ self.covariance @ self.exposures.T

    def stationary(self) -> Float[Array, " regime"]:
        """Long-run share of every regime."""
        n = self.switching.shape[0]
        system = jnp.concatenate([self.switching.T - jnp.eye(n, dtype=self.switching.dtype), jnp.ones((1, n))])
        target = jnp.zeros(n + 1, self.switching.dtype).at[n].set(1)
        return jnp.linalg.lstsq(system.astype(target.dtype), target)[0]

    def sample(self, key: PRNGKeyArray, n_steps: int) -> tuple[Float[Array, "step strategy"], Int[Array, " step"]]:
        """P&L and regimes, from the long run on."""
        first, steps, noise = (jax.random.fold_in(key, i) for i in range(3))
        log_switching = jnp.log(self.switching)
        start = jax.random.categorical(first, jnp.log(jnp.maximum(self.stationary(), 1e-30)))

        def step(regime: Array, k: PRNGKeyArray) -> tuple[Array, Array]:
            return jax.random.categorical(k, log_switching[regime]), regime

        _, regimes = jax.lax.scan(step, start, jax.random.split(steps, n_steps))
        n_assets = self.covariance.shape[0]
        moves = jax.random.normal(noise, (n_steps, n_assets), self.means.dtype) @ jnp.linalg.cholesky(self.covariance).T
        return self.means[regimes] + moves @ self.exposures.T, regimes

    def filtered(self, pnl: Float[Array, "step strategy"]) -> Float[Array, "step regime"]:
        """P(regime of a step | the P&L of all steps before it)."""
        factor = jnp.linalg.cholesky(self.pnl_covariance)

        def log_likelihood(row: Array) -> Array:
            off = jax.scipy.linalg.solve_triangular(factor, (row - self.means).T, lower=True)
            return -0.5 * jnp.sum(off**2, axis=0)

        def step(prior: Array, row: Array) -> tuple[Array, Array]:
            posterior = jax.nn.softmax(jnp.log(jnp.maximum(prior, 1e-30)) + log_likelihood(row))
            return posterior @ self.switching, prior

        return jax.lax.scan(step, self.stationary(), pnl)[1]
