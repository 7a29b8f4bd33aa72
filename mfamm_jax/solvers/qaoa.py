r"""QAOA (24) on a state vector:

$$|\psi\rangle = \prod_l e^{-i\beta_l \sum_v X_v}\, e^{-i\gamma_l H_C}\,|+\rangle^{\otimes n}, \qquad \min_{\gamma,\beta}\ \langle\psi|H_C|\psi\rangle,$$

with the cost angles $\gamma$ of layer 0 applied first. The simulator sees $H_C$ as its diagonal alone: `models.ising.cost_diagonal` for (22), or
any cost of bitstrings ("exact diagonal", not of the form (22)).

In the basis $i^{|x|}|x\rangle$, |x| the number of ones, $e^{-i\beta X}$ is a real rotation. So real and imaginary part are mixed apart, by real matrix products
for groups of qubits at a time: half the work of complex ones. Phases, probabilities and energies do not know the basis.

Source: docs/equations.md, (22)-(24); Farhi, Goldstone & Gutmann (2014); Jones & Gacon (2020) for the adjoint derivatives.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int, PRNGKeyArray

from mfamm_jax.fields import as_real
from mfamm_jax.results import RESULTS, Solution, when
from mfamm_jax.solvers.descent import minimise
from mfamm_jax.solvers.qaoa_phase import cosine_sine

GROUP = 4  # qubits mixed by one product; on one core 4 and 5 were fastest from 12 to 18 qubits
Planes = tuple[Array, ...]  # real and imaginary part, perhaps of several vectors


class Angles(eqx.Module):
    r"""$\gamma$ and $\beta$ of every layer [rad, cost angles per unit of cost].

    Args:
        cost_angles, mixer_angles: Layer 0 first.
    """

    cost_angles: Float[Array, "*batch layer"]
    mixer_angles: Float[Array, "*batch layer"]


def qaoa_energy(
    diagonal: Float[Array, " bitstring"], angles: Angles, *, adjoint: bool = True, group: int = GROUP
) -> Float[Array, ""]:
    r"""$\langle\psi|H_C|\psi\rangle$ (24).

    Args:
        diagonal: Cost of every bitstring, $2^n$ of them.
        angles: Of all layers.
        adjoint: Whether the derivatives undo the layers one by one, in the memory of four vectors whatever the number of layers. Otherwise they
            are traced, which takes memory for every layer and also gives second and forward derivatives.
        group: Qubits that one matrix product mixes; 5 or 6 may be faster on an accelerator.
    """
    each = _checked(diagonal, angles)
    if adjoint:
        return _adjoint_energy(group, diagonal, *each)
    return _expectation(diagonal, *_evolve(diagonal, *each, group))


def qaoa_probabilities(
    diagonal: Float[Array, " bitstring"], angles: Angles, *, group: int = GROUP
) -> Float[Array, " bitstring"]:
    r"""$|\langle x|\psi\rangle|^2$ of every bitstring."""
    real, imaginary = _evolve(diagonal, *_checked(diagonal, angles), group)
    return real**2 + imaginary**2


def qaoa_state(
    diagonal: Float[Array, " bitstring"], angles: Angles, *, group: int = GROUP
) -> Complex[Array, " bitstring"]:
    r"""Amplitudes $\langle x|\psi\rangle$."""
    real, imaginary = _evolve(diagonal, *_checked(diagonal, angles), group)
    turn = jnp.asarray([1, -1j, -1, 1j])[_ones(diagonal) % 4]
    return (real + 1j * imaginary) * turn.astype((1j * real[:0]).dtype)


def sample_indices(
    probabilities: Float[Array, " bitstring"], key: PRNGKeyArray, n_samples: int
) -> Int[Array, " sample"]:
    """Basis indices drawn with the probabilities, as measuring all qubits does. `models.ising.bits_of` gives their bits."""
    cumulative = jnp.cumsum(probabilities)
    draws = jax.random.uniform(key, (n_samples,), probabilities.dtype) * cumulative[-1]
    found = jnp.searchsorted(cumulative, draws, side="right")
    return jnp.minimum(found, probabilities.shape[0] - 1).astype(jnp.int32)


def linear_ramp(n_layers: int, cost_step: Any, mixer_step: Any) -> Angles:
    r"""Discretised annealing: $\gamma_l = \frac{l + 1/2}{p}\,$`cost_step`, $\beta_l = -(1 - \frac{l+1/2}{p})\,$`mixer_step`.

    With positive steps it leads from the mixer's best state to low cost. Source: Sack & Serbyn (2021).
    """
    cost, mixer = as_real(cost_step), as_real(mixer_step)
    share = (jnp.arange(n_layers, dtype=cost.dtype) + 0.5) / n_layers
    return Angles(share * cost, -(1 - share) * mixer)


def ramp_starts(diagonal: Float[Array, " bitstring"], n_layers: int, n_starts: int) -> Angles:
    """Linear ramps from gentle to steep for `optimise_angles`, in units of the cost's deviation over all bitstrings."""
    deviation = jnp.std(diagonal)
    scales = jnp.geomspace(0.3, 2.5, n_starts, dtype=diagonal.dtype) / jnp.where(deviation > 0, deviation, 1)
    mixers = 0.4 + 0.5 * (jnp.arange(n_starts, dtype=diagonal.dtype) % 2)
    return jax.vmap(lambda scale, mixer: linear_ramp(n_layers, scale, mixer))(scales, mixers)


def one_layer_landscape(
    diagonal: Float[Array, " bitstring"], n_points: int
) -> tuple[Float[Array, " point"], Float[Array, " point"], Float[Array, "point point"]]:
    """Cost angles (three deviations of the cost either way), mixer angles (a period) and the energy of one layer: rows are mixer angles."""
    deviation = jnp.std(diagonal)
    gammas = jnp.linspace(-3, 3, n_points, dtype=diagonal.dtype) / jnp.where(deviation > 0, deviation, 1)
    betas = jnp.linspace(-jnp.pi / 2, jnp.pi / 2, n_points, dtype=diagonal.dtype)

    def row(beta: Array) -> Array:
        return jax.vmap(lambda gamma: qaoa_energy(diagonal, Angles(gamma[None], beta[None])))(gammas)

    return gammas, betas, jax.lax.map(row, betas)


def interpolate_angles(angles: Angles, n_layers: int) -> Angles:
    """Angles for another number of layers, read off the straight lines through those given. Source: Zhou et al. (2020)."""
    old = angles.cost_angles.shape[-1]
    at = (jnp.arange(n_layers, dtype=angles.cost_angles.dtype) + 0.5) / n_layers
    nodes = (jnp.arange(old, dtype=at.dtype) + 0.5) / old
    return jax.tree.map(lambda x: jnp.interp(at, nodes, x), angles)


def optimise_angles(
    diagonal: Float[Array, " bitstring"],
    starts: Angles,
    *,
    max_iterations: int = 200,
    gradient_limit: float | None = None,
    group: int = GROUP,
) -> Solution:
    """Minimises (24) by L-BFGS from several starts at once; `vmap` over diagonals.

    Args:
        diagonal: As in `qaoa_energy`.
        starts: Batch of starts along the first axis.
        max_iterations: Of each.
        gradient_limit: Norm of the gradient to stop at, over the cost's standard deviation over all bitstrings; 1e-7 in float64 and 1e-4 in
            float32 by default.
        group: As in `qaoa_energy`.

    Returns:
        `Solution` of the best start's `Angles`; `not_converged` if that one did not reach the limit. Stats: energy, energies and iterations
        of all starts.
    """
    return minimise_scaled(
        diagonal, lambda unit, x: qaoa_energy(unit, x, group=group), starts, max_iterations, gradient_limit
    )


def minimise_scaled(
    diagonal: Float[Array, " state"],
    energy: Callable[[Array, Angles], Array],
    starts: Angles,
    max_iterations: int,
    gradient_limit: float | None,
) -> Solution:
    """The search of `optimise_angles` for any energy of a diagonal that is linear in it: costs are brought to deviation one first."""
    limit = {8: 1e-7, 4: 1e-4}[diagonal.dtype.itemsize] if gradient_limit is None else gradient_limit
    spread = jnp.std(diagonal)
    spread = jnp.where(spread > 0, spread, 1)
    # In units of the cost's deviation, so that both angles and the energy are of order one.
    unit = (diagonal - jnp.mean(diagonal)) / spread

    def loss(scaled: Angles) -> Array:
        return energy(unit, scaled)

    def one(start: Angles) -> tuple[Angles, Array, Array, Array]:
        found, norm, count, _ = minimise(loss, start, max_iterations, limit)
        return found, loss(found), norm, count

    scaled = Angles(starts.cost_angles * spread, starts.mixer_angles)
    found, energies, norms, counts = jax.vmap(one)(scaled)
    best = jnp.argmin(jnp.where(jnp.isfinite(energies), energies, jnp.inf))
    answer = Angles(found.cost_angles[best] / spread, found.mixer_angles[best])
    energies = jnp.mean(diagonal) + spread * energies
    good = when(norms[best] <= limit, RESULTS.successful, RESULTS.not_converged)
    good = when(jnp.isfinite(energies[best]), good, RESULTS.nonfinite)
    return Solution(answer, good, {"energy": energies[best], "energies": energies, "iterations": counts})


def _checked(diagonal: Array, angles: Angles) -> tuple[Array, Array]:
    """Cost and mixer angles in the precision of the diagonal."""
    n = diagonal.shape[0]
    if diagonal.ndim != 1 or not jnp.issubdtype(diagonal.dtype, jnp.floating):
        raise ValueError(
            f"the diagonal is {diagonal.dtype}{list(diagonal.shape)}, expected one vector of floats; vmap over batches"
        )
    if n < 2 or n & (n - 1):
        raise ValueError(f"the diagonal has {n} entries, expected 2^n: one cost per bitstring of n bits")
    if angles.cost_angles.shape != angles.mixer_angles.shape:
        raise ValueError(
            f"{angles.cost_angles.shape[-1]} cost angles and {angles.mixer_angles.shape[-1]} mixer angles, expected one of each per layer"
        )
    return angles.cost_angles.astype(diagonal.dtype), angles.mixer_angles.astype(diagonal.dtype)


def _groups(n: int, group: int) -> list[int]:
    """Qubits per product, nearly equal."""
    n_groups = -(-n // max(1, group))
    return [n // n_groups + (i < n % n_groups) for i in range(n_groups)]


def _n_qubits(diagonal: Array) -> int:
    return diagonal.shape[0].bit_length() - 1


@functools.cache
def _rotation_parts(k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the product of k rotations: how many qubits differ, the sign, and the generator's matrix."""
    index = np.arange(2**k)
    ones = np.array([bin(i).count("1") for i in index])
    differ = ones[index[:, None] ^ index[None]]
    falls = ones[~index[:, None] & index[None] & (2**k - 1)]  # 1 -> 0 takes -sin
    sign = 1 - 2 * (falls % 2)
    return differ, sign, np.where(differ == 1, sign, 0)


def _rotation(k: int, angle: Array) -> Float[Array, "to start"]:
    """exp(-i angle X) of k qubits in the basis of the module."""
    differ, sign, _ = _rotation_parts(k)
    powers = jnp.arange(k + 1)
    # Whole exponents: a power with a traced one has no derivative at 0.
    cosines = jnp.stack([jnp.cos(angle) ** int(m) for m in range(k + 1)])
    sines = jnp.stack([jnp.sin(angle) ** int(m) for m in range(k + 1)])
    weight = cosines[k - powers] * sines
    return weight[differ] * sign


def _turn(matrix: Array, x: Array) -> Array:
    """Acts on the last qubits and brings them to the front: after all groups they stand as before."""
    k = matrix.shape[0]
    contract = (((1,), (1,)), ((), ()))
    return jax.lax.dot_general(matrix, x.reshape(-1, k), contract, precision="highest").reshape(-1)


def _mix(planes: tuple[Array, ...], angle: Array, group: int) -> tuple[Array, ...]:
    n = _n_qubits(planes[0])
    for k in _groups(n, group):
        matrix = _rotation(k, angle).astype(planes[0].dtype)
        planes = tuple(_turn(matrix, x) for x in planes)
    return planes


def _phase(planes: Planes, cosine: Array, sine: Array) -> Planes:
    """exp(-i theta): the cosine and sine of theta are given."""
    real, imaginary = planes
    return cosine * real + sine * imaginary, cosine * imaginary - sine * real


def _ones(diagonal: Array) -> Array:
    return jax.lax.population_count(jnp.arange(diagonal.shape[0], dtype=jnp.uint32))


def _first_state(diagonal: Array) -> Planes:
    """|+>: amplitudes i^|x| / sqrt(2^n)."""
    size = diagonal.shape[0] ** -0.5
    power = _ones(diagonal) & 3
    # Comparisons, not a table of four: gathers are slow.
    signs = (power == 0, power == 2), (power == 1, power == 3)
    return tuple(size * (up.astype(diagonal.dtype) - down.astype(diagonal.dtype)) for up, down in signs)


def _evolve(diagonal: Array, cost_angles: Array, mixer_angles: Array, group: int) -> Planes:
    def layer(planes: Planes, angles: tuple[Array, Array]) -> tuple[Planes, None]:
        gamma, beta = angles
        return _mix(_phase(planes, *cosine_sine(gamma * diagonal)), beta, group), None

    return jax.lax.scan(layer, _first_state(diagonal), (cost_angles, mixer_angles))[0]


def _expectation(diagonal: Array, real: Array, imaginary: Array) -> Array:
    return jnp.sum(diagonal * (real**2 + imaginary**2))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _adjoint_energy(group: int, diagonal: Array, cost_angles: Array, mixer_angles: Array) -> Array:
    return _expectation(diagonal, *_evolve(diagonal, cost_angles, mixer_angles, group))


def _forward(group: int, diagonal: Array, cost_angles: Array, mixer_angles: Array) -> tuple[Array, tuple]:
    planes = _evolve(diagonal, cost_angles, mixer_angles, group)
    return _expectation(diagonal, *planes), (diagonal, cost_angles, mixer_angles, planes)


def _backward(group: int, kept: tuple, slope: Array) -> tuple[Array, Array, Array]:
    """Undoes the layers, last first, on the state and on its cotangent at once."""
    diagonal, cost_angles, mixer_angles, (real, imaginary) = kept

    def layer(carry: tuple[Array, ...], angles: tuple[Array, Array]) -> tuple[tuple[Array, ...], tuple[Array, Array]]:
        *planes, through_phases = carry
        gamma, beta = angles
        planes, mixer_slope = _unmix(tuple(planes), beta, group)
        (real, imaginary), (left, right) = planes[:2], planes[2:]
        turn = left * imaginary - right * real  # of the cotangent against -i times the state
        cosine, sine = cosine_sine(-gamma * diagonal)
        before = (*_phase((real, imaginary), cosine, sine), *_phase((left, right), cosine, sine))
        return (*before, through_phases + gamma * turn), (jnp.sum(diagonal * turn), mixer_slope)

    start = (real, imaginary, 2 * diagonal * real, 2 * diagonal * imaginary, jnp.zeros_like(diagonal))
    end, (by_cost, by_mixer) = jax.lax.scan(layer, start, (cost_angles, mixer_angles), reverse=True)
    by_diagonal = real**2 + imaginary**2 + end[-1]
    return slope * by_diagonal, slope * by_cost, slope * by_mixer


def _unmix(planes: tuple[Array, ...], angle: Array, group: int) -> tuple[tuple[Array, ...], Array]:
    """State and cotangent before the mixer, and the derivative in its angle.

    The mixer commutes with its generator, group by group: the derivative may be read off before a group is undone.
    """
    n = _n_qubits(planes[0])
    total = jnp.zeros((), planes[0].dtype)
    for k in _groups(n, group):
        back = _rotation(k, -angle).astype(planes[0].dtype)
        rows = [x.reshape(-1, 2**k) for x in planes]
        products = [
            jax.lax.dot_general(rows[i + 2], rows[i], (((0,), (0,)), ((), ())), precision="highest") for i in (0, 1)
        ]
        total = total + jnp.sum((products[0] + products[1]) * _rotation_parts(k)[2])
        planes = tuple(_turn(back, x) for x in planes)
    return planes, total


_adjoint_energy.defvjp(_forward, _backward)
