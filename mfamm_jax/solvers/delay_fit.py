r"""Fits of (20) and (21) to rates of trading and what the price did.

Least squares on prices, or on their changes where the noise is a random walk, as that of a market's mid. The structured fit is by L-BFGS;
`rank_one_fit` needs no search: y is linear in the products of lags and basis functions of g, and only structured models give coefficients
that are one vector times another.

Source: docs/equations.md, (21); Bai (1998) for the rank-one form.
"""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.models.delay_network import FreeDelayNetwork, HammersteinNetwork, hinge_basis
from mfamm_jax.models.flax_function import Params
from mfamm_jax.results import RESULTS, Solution, when
from mfamm_jax.solvers.descent import minimise

Noise = Literal["white", "random_walk"]
SETTLED = {"float64": 1e-5, "float32": 1e-3}  # norm of the gradient of a mean square in units of the response's


def choose_knots(rates: Float[Array, " step"], n_knots: int) -> Float[Array, " knot"]:
    """Sizes that split the non-zero rates into equally many; fewer where sizes repeat. Host."""
    sizes = np.abs(np.asarray(rates, float))
    sizes = sizes[sizes > 0]
    if len(sizes) == 0:
        raise ValueError("every rate is 0, expected some trading")
    return jnp.asarray(np.unique(np.quantile(sizes, np.arange(1, n_knots + 1) / (n_knots + 1))), rates.dtype)


def fit_hammerstein(
    rates: Float[Array, " step"],
    response: Float[Array, " step"],
    knots: Float[Array, " knot"],
    *,
    n_terms: int = 6,
    longest: float = 200.0,
    noise: Noise = "white",
    max_iterations: int = 300,
) -> Solution:
    """The structured network with least squared error.

    Args:
        rates: v by step.
        response: Price less its start, after every step [price].
        knots: Of g, by `choose_knots`.
        n_terms: Exponentials of the kernel; starts spread evenly between one step and `longest`.
        longest: Time constant to start from [steps]; found ones may differ.
        noise: "white" on prices, or "random_walk" of them.
        max_iterations: Of L-BFGS.

    Returns:
        `Solution` of a `HammersteinNetwork`; stats: share of variance explained, iterations, norm of the gradient.
    """
    _check(rates, response)
    rate_unit, unit = _size(rates), _size(seen(response, noise))
    target = seen(response / unit, noise)
    scaled, knots = rates / rate_unit, knots / rate_unit

    def network(trained: tuple[Array, Array, Array]) -> HammersteinNetwork:
        return HammersteinNetwork(knots, *trained)

    def loss(trained: tuple[Array, Array, Array]) -> Float[Array, ""]:
        return jnp.mean((seen(network(trained).response(scaled), noise) - target) ** 2)

    log_rates = -jnp.linspace(0.0, jnp.log(jnp.asarray(longest)), n_terms, dtype=rates.dtype)
    flat = jnp.zeros(knots.shape[0] + 1, rates.dtype), jnp.zeros(n_terms, rates.dtype)
    # The best common slope for the first guess of the kernel: g must not start orders of magnitude away.
    guess = seen(network((*flat, log_rates)).response(scaled), noise)
    slope = jnp.maximum(jnp.sum(guess * target) / jnp.sum(guess**2), 1e-3)
    start = flat[0] + jnp.log(slope), flat[1], log_rates
    trained, gradient, count, _ = minimise(loss, start, max_iterations, SETTLED[rates.dtype.name])
    log_slopes, log_amplitudes, log_rates = trained
    found = HammersteinNetwork(knots * rate_unit, log_slopes + jnp.log(unit / rate_unit), log_amplitudes, log_rates)
    explained = 1 - loss(trained) / jnp.var(target)
    stats = {"explained": explained, "iterations": count, "gradient": gradient}
    settled = gradient <= SETTLED[rates.dtype.name]
    return Solution(found, when(settled, RESULTS.successful, RESULTS.not_converged), stats)


class RankOneFit(eqx.Module):
    """Kernel and impact without a search.

    Args:
        kernel: f at lags 0 to `n_lags` - 1; 1 at lag 0.
        slopes: Of g, by segment.
        singular_values: Of the matrix of coefficients, lags by segments: all but the first are 0 if (20) holds.
    """

    kernel: Float[Array, " lag"]
    slopes: Float[Array, " segment"]
    singular_values: Float[Array, " value"]


def rank_one_fit(
    rates: Float[Array, " step"], response: Float[Array, " step"], knots: Float[Array, " knot"], n_lags: int
) -> RankOneFit:
    """Least squares on lags times segments, then the nearest product; impact older than `n_lags` counts as noise."""
    _check(rates, response)
    basis = hinge_basis(rates, knots)
    n, n_segments = basis.shape

    def lagged(k: Array) -> Array:
        return jnp.where(jnp.arange(n)[:, None] >= k, jnp.roll(basis, k, axis=0), 0)

    design = jax.vmap(lagged, out_axes=1)(jnp.arange(n_lags)).reshape(n, n_lags * n_segments)
    scale = jnp.sqrt(jnp.sum(design**2, axis=0))
    coefficients = jnp.linalg.lstsq(design / scale, response)[0] / scale
    left, values, right = jnp.linalg.svd(coefficients.reshape(n_lags, n_segments), full_matrices=False)
    return RankOneFit(left[:, 0] / left[0, 0], left[0, 0] * values[0] * right[0], values)


class FreeFit(eqx.Module):
    """A trained free network in the units of its data.

    Args:
        params: Weights.
        rate_unit, unit: Sizes of rates and responses it was trained in.
        losses: Mean squared error of every step's batch, in units of the response's.
    """

    params: Params
    rate_unit: Float[Array, ""]
    unit: Float[Array, ""]
    losses: Float[Array, " step"]

    def response(self, network: FreeDelayNetwork, rates: Float[Array, " step"]) -> Float[Array, " step"]:
        """What it was trained on: y, or its changes, after every step."""
        return self.unit * network.response(self.params, rates / self.rate_unit)


def fit_free(
    network: FreeDelayNetwork,
    rates: Float[Array, " step"],
    response: Float[Array, " step"],
    key: PRNGKeyArray,
    *,
    noise: Noise = "white",
    n_steps: int = 4000,
    n_batch: int = 256,
    learning_rate: float = 3e-3,
    weight_decay: float = 1e-2,
) -> FreeFit:
    """Trains the free network by AdamW on batches of rows; on changes of the price where the noise is a random walk."""
    _check(rates, response)
    target = seen(response, noise)
    rate_unit, unit = _size(rates), _size(target)
    padded = jnp.concatenate([jnp.zeros(network.n_lags - 1, rates.dtype), rates / rate_unit])
    target = target / unit
    optimiser = optax.adamw(optax.cosine_decay_schedule(learning_rate, n_steps, 0.01), weight_decay=weight_decay)
    params = network.init(jax.random.fold_in(key, 0))

    def step(state: tuple, number: Array) -> tuple[tuple, Array]:
        params, memory = state
        rows = jax.random.randint(jax.random.fold_in(key, number + 1), (n_batch,), 0, rates.shape[0])

        def loss(params: Params) -> Float[Array, ""]:
            found = jax.vmap(lambda t: network.at(params, padded, t))(rows)
            return jnp.mean((found - target[rows]) ** 2)

        value, slope = jax.value_and_grad(loss)(params)
        change, memory = optimiser.update(slope, memory, params)
        return (optax.apply_updates(params, change), memory), value

    (params, _), losses = jax.lax.scan(step, (params, optimiser.init(params)), jnp.arange(n_steps))
    return FreeFit(params, rate_unit, unit, losses)


def explained_share(found: Float[Array, " step"], target: Float[Array, " step"]) -> Float[Array, ""]:
    """1 - mean squared error over the target's variance."""
    return 1 - jnp.mean((found - target) ** 2) / jnp.var(target)


def seen(response: Float[Array, " step"], noise: Noise) -> Float[Array, " step"]:
    """What the noise is white on."""
    if noise == "white":
        return response
    if noise == "random_walk":
        return jnp.diff(response, prepend=0.0)
    raise ValueError(f'noise is {noise!r}, expected "white" or "random_walk"')


def _size(x: Float[Array, " step"]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.mean(x**2))


def _check(rates: Array, response: Array) -> None:
    """Concrete arguments; tracers pass."""
    if rates.shape != response.shape:
        raise ValueError(f"{rates.shape} rates and {response.shape} responses, expected as many")
    if any(isinstance(x, jax.core.Tracer) for x in (rates, response)):
        return
    for name, x in (("rates", rates), ("response", response)):
        finite = np.isfinite(np.asarray(x))
        if not finite.all():
            raise ValueError(f"{name}[{int(np.argmin(finite))}] is not finite: fill gaps before the fit")
        if not np.asarray(x).any():
            raise ValueError(f"every value of {name} is 0: nothing to fit")
