r"""What the linear schemes share: the generator A of $dv/d\tau = A v$, its action, and how many Taylor terms that takes."""

from math import ceil
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfamm_jax.models.intensity import ExponentialIntensity
from mfamm_jax.solvers.hjb.problem import HJBProblem, column


def linear_generator(
    problem: HJBProblem,
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"], Float[Array, "*batch"], Float[Array, "*batch"]]:
    r"""A by its four numbers [1/s]: $k\mu$ and $k\phi$ of the diagonal, A[q, q-1] (ask fills) and A[q, q+1] (bid fills)."""
    decay = common_decay(problem)
    drift, penalty = decay * problem.drift, decay * problem.inventory_penalty
    to_lower = jnp.exp(log_coupling_at(problem, "ask", decay) - decay * problem.ask_adverse_selection)
    to_upper = jnp.exp(log_coupling_at(problem, "bid", decay) - decay * problem.bid_adverse_selection)
    drift, penalty, to_lower, to_upper, _ = jnp.broadcast_arrays(drift, penalty, to_lower, to_upper, problem.horizon)
    return drift, penalty, to_lower, to_upper


def log_coupling_at(problem: HJBProblem, side: str, decay: Float[Array, "..."]) -> Float[Array, "..."]:
    """Of a side with another decay: what both sides share must not depend on the difference of theirs."""
    intensity = eqx.tree_at(lambda x: x.decay, getattr(problem, side), decay)
    return intensity.log_coupling(problem.fill_risk_aversion)


def diagonal_of(
    drift: Float[Array, "*batch"], penalty: Float[Array, "*batch"], n_inventories: int
) -> Float[Array, "inventory *batch"]:
    """Diagonal of A."""
    q = inventories(n_inventories, drift)
    return drift * q - penalty * q**2


def inventories(n: int, like: Float[Array, "*batch"]) -> Float[Array, "inventory *ones"]:
    """-n//2..n//2, with the trailing axes of `like`."""
    return column(jnp.arange(n, dtype=like.dtype) - n // 2, like.ndim)


def common_decay(problem: HJBProblem) -> Float[Array, "*batch"]:
    """Mean of both, so that each side carries half of the derivative."""
    bid, ask = problem.bid, problem.ask
    if not (isinstance(bid, ExponentialIntensity) and isinstance(ask, ExponentialIntensity)):
        raise ValueError(f"a linear scheme needs ExponentialIntensity on both sides, got {bid} and {ask}")
    return ask.decay if bid.decay is ask.decay else 0.5 * (bid.decay + ask.decay)


def tridiagonal(v: Array, diagonal: Array, below: Array, above: Array) -> Array:
    """N v; `below` multiplies the entry before, `above` the one after."""
    zero = jnp.zeros_like(v[:1])
    return diagonal * v + below * jnp.concatenate([zero, v[:-1]]) + above * jnp.concatenate([v[1:], zero])


def inverse_orders(n_terms: int, dtype: Any) -> Float[Array, " term"]:
    """1/n..1: the order in which Horner's form needs them."""
    return 1 / jnp.arange(n_terms, 0, -1, dtype=dtype)


def taylor_action(start: Array, diagonal: Array, below: Array, above: Array, n_terms: int) -> Array:
    """The Taylor sum of e^N applied to a vector."""

    def nest(v, inverse_order):
        # Horner's form v + N/1 (v + N/2 (v + ...)) carries one vector where term and sum would be two.
        return start + tridiagonal(v, diagonal, below, above) * inverse_order, None

    return jax.lax.scan(nest, start, inverse_orders(n_terms, start.dtype))[0]


def most_norm(n_terms: int) -> float:
    r"""Largest shifted norm $\rho$ with $\rho + 7\sqrt\rho + 8 \le$ `n_terms`: then the neglected tail is below 1e-15."""
    root = (-7 + (49 + 4 * max(n_terms - 8, 0)) ** 0.5) / 2
    return root**2


def terms_for(norm: float) -> int:
    """Inverse of `most_norm`."""
    return ceil(norm + 7 * norm**0.5 + 8)
