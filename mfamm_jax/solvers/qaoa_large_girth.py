r"""QAOA (24) for max-cut on regular graphs without short cycles: the same number for every edge of every such graph, and the angles that are best for it.

Around an edge a graph of girth above 2p + 1 is a tree as far as p layers see. With a path $a = (a_1, .., a_p, a_0, a_{-p}, .., a_{-1})$ of signs
per vertex, its weight f(a) under the mixers and $\Gamma = (\gamma_1, .., \gamma_p, -\gamma_p, .., -\gamma_1)$,

$$H_0 = 1, \quad H_m(a) = \Big[\sum_b f(b) H_{m-1}(b) \cos\Gamma\!\cdot\!ab\Big]^{D-1}, \quad
  \langle Z_uZ_v\rangle = -i\sum_{a,b} a_0 b_0 f(a) f(b) H_p(a) H_p(b) \sin\Gamma\!\cdot\!ab.$$

Source: Basso, Farhi, Marwaha, Villalonga & Zhou (2022), section 3; Wurtz & Lykov (2021) for angles fixed in advance.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfamm_jax.results import RESULTS, Solution, when
from mfamm_jax.solvers.descent import minimise
from mfamm_jax.solvers.qaoa import Angles, interpolate_angles
from mfamm_jax.solvers.qaoa_one_layer import regular_angles

MOST_LAYERS = 5  # 4^p x 4^p numbers


def large_girth_energy(degree: int, angles: Angles) -> Float[Array, ""]:
    r"""$\langle Z_uZ_v\rangle$ of an edge under $H = \sum Z_uZ_v$; the share of edges cut is half of one minus it.

    Args:
        degree: D of every vertex.
        angles: At most `MOST_LAYERS` of them.
    """
    p = angles.cost_angles.shape[-1]
    if p > MOST_LAYERS:
        raise ValueError(f"{p} layers need {16**p:,} numbers, expected at most {MOST_LAYERS} layers")
    # Bits of an index: a_1 .. a_p, a_-p .. a_-1; a_0 is summed where it does not matter.
    dtype = angles.cost_angles.dtype
    signs = jnp.asarray(1 - 2 * ((np.arange(4**p)[:, None] >> np.arange(2 * p - 1, -1, -1)) & 1), dtype)
    # exp(-i beta X) between equal and opposite signs.
    stay, move = jnp.cos(angles.mixer_angles), -1j * jnp.sin(angles.mixer_angles)

    def step(a: Array, b: Array | int, layer: int, conjugate: bool) -> Array:
        weight = jnp.where(a == b, stay[layer], move[layer])
        return jnp.conj(weight) if conjugate else weight

    weight = jnp.full(4**p, 0.5, dtype) + 0j
    for layer in range(p - 1):
        weight = weight * step(signs[:, layer], signs[:, layer + 1], layer, False)
        weight = weight * step(signs[:, -1 - layer], signs[:, -2 - layer], layer, True)
    by_end = jnp.stack(
        [weight * step(signs[:, p - 1], z, p - 1, False) * step(signs[:, p], z, p - 1, True) for z in (1, -1)]
    )
    even, odd = by_end[0] + by_end[1], by_end[0] - by_end[1]

    turns = (signs * jnp.concatenate([angles.cost_angles, -angles.cost_angles[::-1]])) @ signs.T
    branch = jnp.ones(4**p, even.dtype)
    cosine = jnp.cos(turns)
    for _ in range(p):
        branch = jnp.matmul(cosine, even * branch, precision="highest") ** (degree - 1)
    ends = odd * branch
    return jnp.imag(ends @ jnp.matmul(jnp.sin(turns), ends, precision="highest"))


def fixed_angles(degree: int, n_layers: int, start: Angles | None = None) -> Solution:
    """Angles that are best for max-cut on every D-regular graph of unit weights and large girth, layer by layer from the closed form of one.

    A start, or an answer that needs no search, for any graph of about this degree; divide the cost angles by the size of its weights.

    Args:
        degree: D.
        n_layers: At most `MOST_LAYERS`.
        start: The answer for fewer layers, to go on from.

    Returns:
        `Solution` of `Angles`. Stats: energy of an edge.
    """
    if n_layers > MOST_LAYERS:
        raise ValueError(f"n_layers is {n_layers}, expected at most {MOST_LAYERS}: use linear_ramp beyond")
    now = regular_angles(degree) if start is None else start
    limit = {8: 1e-9, 4: 1e-4}[now.cost_angles.dtype.itemsize]
    norm = jnp.zeros((), now.cost_angles.dtype)
    for p in range(now.cost_angles.shape[-1] + 1, n_layers + 1):
        now, norm, *_ = jax.jit(lambda start: minimise(lambda x: large_girth_energy(degree, x), start, 300, limit))(
            interpolate_angles(now, p)
        )
    good = when(norm <= limit, RESULTS.successful, RESULTS.not_converged)
    return Solution(now, good, {"energy": large_girth_energy(degree, now)})
