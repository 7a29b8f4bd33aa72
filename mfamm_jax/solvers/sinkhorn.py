r"""Sinkhorn's iteration for (15), fast and safe at once: matrix products with the kernel re-centred at the current potentials,

$$\tilde K_{ij} = e^{(f_i + g_j - C_{ij})/\lambda},\quad u = (\tilde K(\nu v))^{-\rho},\ v = (\tilde K^\top(\mu u))^{-\rho},\quad
  f \mathrel{+}= \lambda\ln u,\ g \mathrel{+}= \lambda\ln v,$$

which costs no exponentials but those of re-centring, and in logarithms wherever u or v would leave the range of numbers. $\lambda$ is
lowered in stages first. $\rho = 1/(1 + \lambda/\tau)$ is 1 where masses are fixed ($\tau = \infty$).

Sources: docs/equations.md, (15); Schmitzer (2019) for re-centring ("absorption"); Chizat et al. (2018) for masses that give.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Bool, Float, Int

N_STAGES, STAGE_ITERATIONS = 10, 8  # of annealing
BLOCK = 20  # iterations between two re-centrings, and between two looks at the error
MOST_LOG_SCALING = 40.0  # of u and v; their products with each other and the kernel stay within float32


class Masses(eqx.Module):
    r"""What is moved from and to.

    Args:
        source, sink: $\mu$ and $\nu$ > 0.
        source_give, sink_give: $1/\tau$ [1/cost], 0 where masses are fixed.
    """

    source: Float[Array, " source"]
    sink: Float[Array, " sink"]
    source_give: Float[Array, ""]
    sink_give: Float[Array, ""]


class Potentials(eqx.Module):
    """Where the iteration stands.

    Args:
        f, g: Of sources and sinks [cost].
        error: Largest change the next half step would make to a source's mass, relative to all mass.
        iterations: So far, without annealing.
    """

    f: Float[Array, " source"]
    g: Float[Array, " sink"]
    error: Float[Array, ""]
    iterations: Int[Array, ""]


def _exponent(give: Float[Array, ""], scale: Float[Array, ""]) -> Float[Array, ""]:
    return 1 / (1 + give * scale)


def log_sweep(
    g: Float[Array, " sink"], cost: Float[Array, "source sink"], masses: Masses, scale: Float[Array, ""]
) -> tuple[Float[Array, " source"], Float[Array, " sink"]]:
    """One iteration in logarithms: safe anywhere, two exponentials per entry."""
    source, sink = _exponent(masses.source_give, scale), _exponent(masses.sink_give, scale)
    f = -source * scale * logsumexp((g[None, :] - cost) / scale + jnp.log(masses.sink), axis=1)
    g = -sink * scale * logsumexp((f[:, None] - cost) / scale + jnp.log(masses.source)[:, None], axis=0)
    return f, g


def _kernel_block(
    f: Float[Array, " source"],
    g: Float[Array, " sink"],
    cost: Float[Array, "source sink"],
    masses: Masses,
    scale: Float[Array, ""],
    n: int,
) -> tuple[Float[Array, " source"], Float[Array, " sink"], Float[Array, ""], Bool[Array, ""]]:
    """n iterations at one centre: potentials, error, and whether every number stayed in range."""
    kernel = jnp.exp((f[:, None] + g[None, :] - cost) / scale)
    source, sink = _exponent(masses.source_give, scale), _exponent(masses.sink_give, scale)
    # What pulls potentials back to 0 where masses give: 1 where they do not.
    source_pull, sink_pull = jnp.exp((source - 1) * f / scale), jnp.exp((sink - 1) * g / scale)

    def rows(v: Array) -> Array:
        return source_pull * jnp.matmul(kernel, masses.sink * v, precision="highest") ** -source

    def iterate(_: Int[Array, ""], scaling: tuple[Array, Array]) -> tuple[Array, Array]:
        u = rows(scaling[1])
        return u, sink_pull * jnp.matmul(masses.source * u, kernel, precision="highest") ** -sink

    u, v = jax.lax.fori_loop(0, n, iterate, (jnp.ones_like(f), jnp.ones_like(g)))
    error = jnp.max(jnp.abs(u / rows(v) - 1) * masses.source) / jnp.sum(masses.source)
    log_u, log_v = jnp.log(u), jnp.log(v)
    largest = jnp.maximum(jnp.max(jnp.abs(log_u)), jnp.max(jnp.abs(log_v)))  # NaN where either has one
    return f + scale * log_u, g + scale * log_v, error, (largest <= MOST_LOG_SCALING) & jnp.isfinite(error)


def find_potentials(
    cost: Float[Array, "source sink"],
    masses: Masses,
    regularization: Float[Array, ""],
    tolerance: float,
    max_iterations: Int[Array, ""] | int,
    start: Float[Array, " sink"] | None,
) -> Potentials:
    """Iterates until the error is within tolerance; from the sinks' potentials `start`, or through stages of lower and lower lambda."""
    if start is None:
        start = _annealed(cost, masses, regularization)
    first = Potentials(
        *log_sweep(start, cost, masses, regularization), jnp.asarray(jnp.inf, cost.dtype), jnp.zeros((), jnp.int32)
    )

    def body(state: Potentials) -> Potentials:
        f, g, error, good = _kernel_block(state.f, state.g, cost, masses, regularization, BLOCK)

        def kept() -> Potentials:
            return Potentials(f, g, error, state.iterations + BLOCK)

        def in_logarithms() -> Potentials:
            f, g = log_sweep(state.g, cost, masses, regularization)
            return Potentials(f, g, state.error, state.iterations + 1)

        return jax.lax.cond(good, kept, in_logarithms)

    return jax.lax.while_loop(lambda s: (s.error > tolerance) & (s.iterations < max_iterations), body, first)


def _annealed(
    cost: Float[Array, "source sink"], masses: Masses, regularization: Float[Array, ""]
) -> Float[Array, " sink"]:
    largest = jnp.maximum(jnp.max(cost) - jnp.min(cost), regularization)

    def stage(number: Int[Array, ""], g: Float[Array, " sink"]) -> Float[Array, " sink"]:
        scale = largest * (regularization / largest) ** ((number + 1) / N_STAGES)
        f, g = log_sweep(g, cost, masses, scale)
        _, new, _, good = _kernel_block(f, g, cost, masses, scale, STAGE_ITERATIONS - 1)
        return jnp.where(good, new, g)

    return jax.lax.fori_loop(0, N_STAGES, stage, jnp.zeros_like(masses.sink))
