r"""The joint law of several losses: $L = m + A\,\phi_K \circ \dots \circ \phi_1(z)$, z multivariate Student's t.

Every $\phi_k$ is a coupling layer: half of the coordinates stay, and a network of them gives each of the others a scale, a shift and a monotone
spline. The networks see $z/\sqrt{1 + z^2}$, so that far out every layer is affine and the tail is the base's: one exponent for all, with extreme
losses that come together (a product of independent tails would have none).

Source: Dinh, Sohl-Dickstein & Bengio (2017), coupling; Durkan et al. (2019), splines in it; Jaini et al. (2020), tails of such flows.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.models.loss_flow import freedom_of, tail_number
from mfamm_jax.models.perceptron import Perceptron, silent_perceptron
from mfamm_jax.models.spline import Spline, spline_forward, spline_inverse


class JointLossFlow(eqx.Module):
    """Parameters of the law of a vector of losses.

    Args:
        location: m [loss].
        factor: A, lower triangular; the logarithms of its diagonal stand on the diagonal.
        tail: Of the base's degrees of freedom, any number.
        networks: One per layer; layer k moves the first half of the coordinates if k is even, else the second.
        n_bins, bound: Of the splines.
    """

    location: Float[Array, " loss"]
    factor: Float[Array, "loss loss"]
    tail: Float[Array, ""]
    networks: tuple[Perceptron, ...]
    n_bins: int = eqx.field(static=True)
    bound: float = eqx.field(static=True)

    @property
    def degrees_of_freedom(self) -> Float[Array, ""]:
        """Of the base, and of every tail."""
        return freedom_of(self.tail)

    def log_density(self, losses: Float[Array, "n loss"]) -> Float[Array, " n"]:
        """[log 1/loss^d]."""
        z, log_slope = jax.vmap(self._to_base)(losses)
        nu, d = self.degrees_of_freedom, losses.shape[-1]
        constant = jax.lax.lgamma(0.5 * (nu + d)) - jax.lax.lgamma(0.5 * nu) - 0.5 * d * jnp.log(jnp.pi * nu)
        return constant - 0.5 * (nu + d) * jnp.log1p(jnp.sum(z**2, axis=-1) / nu) + log_slope

    def sample(self, key: PRNGKeyArray, n: int) -> Float[Array, "n loss"]:
        """Vectors of losses; differentiable in every parameter."""
        nu, dtype, d = self.degrees_of_freedom, self.location.dtype, self.location.size
        normal_key, gamma_key = jax.random.split(key)
        spread = jax.random.gamma(gamma_key, 0.5 * nu, (n, 1), dtype) / (0.5 * nu)
        return jax.vmap(self._from_base)(jax.random.normal(normal_key, (n, d), dtype) / jnp.sqrt(spread))

    def triangle(self) -> Float[Array, "loss loss"]:
        """A."""
        return jnp.tril(self.factor, -1) + jnp.diag(jnp.exp(jnp.diag(self.factor)))

    def _from_base(self, z: Float[Array, " loss"]) -> Float[Array, " loss"]:
        for layer, network in enumerate(self.networks):
            kept, moved, moves_first = _halves(z, layer)
            scale, shift, spline = self._numbers(network, kept, moved.size)
            y, _ = jax.vmap(spline_forward, (0, 0, None))(moved, spline.bins, self.bound)
            z = _join(kept, y * jnp.exp(scale) + shift, moves_first)
        return self.location + self.triangle() @ z

    def _to_base(self, loss: Float[Array, " loss"]) -> tuple[Float[Array, " loss"], Float[Array, ""]]:
        x = jax.scipy.linalg.solve_triangular(self.triangle(), loss - self.location, lower=True)
        log_slope = -jnp.trace(self.factor)
        for layer, network in reversed(list(enumerate(self.networks))):
            kept, moved, moves_first = _halves(x, layer)
            scale, shift, spline = self._numbers(network, kept, moved.size)
            z, slopes = jax.vmap(spline_inverse, (0, 0, None))(
                (moved - shift) * jnp.exp(-scale), spline.bins, self.bound
            )
            log_slope = log_slope + jnp.sum(slopes - scale)
            x = _join(kept, z, moves_first)
        return x, log_slope

    def _numbers(self, network: Perceptron, kept: Array, n: int) -> tuple[Array, Array, Spline]:
        raw = network(kept / jnp.sqrt(1 + kept**2)).reshape(n, 3 * self.n_bins + 1)
        widths, heights, slopes, ends = jnp.split(raw, np.cumsum([self.n_bins, self.n_bins, self.n_bins - 1]), axis=1)
        return 2 * jnp.tanh(ends[:, 0]), ends[:, 1], Spline(widths, heights, slopes, self.bound)


def _halves(x: Array, layer: int) -> tuple[Array, Array, bool]:
    """What stays, what moves, and whether the latter comes first."""
    half = x.size // 2
    return (x[half:], x[:half], True) if layer % 2 == 0 else (x[:half], x[half:], False)


def _join(kept: Array, moved: Array, moves_first: bool) -> Array:
    return jnp.concatenate([moved, kept] if moves_first else [kept, moved])


def first_joint_flow(
    losses: Float[Array, "n loss"],
    key: PRNGKeyArray,
    *,
    n_layers: int = 4,
    n_bins: int = 8,
    bound: float = 3.0,
    width: int = 16,
    degrees_of_freedom: float = 5.0,
) -> JointLossFlow:
    """A multivariate Student's t with the sample's medians and rank correlations: where a fit starts.

    Raises:
        ValueError: Fewer than two columns, losses that are not finite, columns that repeat each other or do not change.
    """
    if losses.ndim != 2 or losses.shape[1] < 2:
        raise ValueError(f"losses have shape {losses.shape}, expected (n, d) with d >= 2: use LossFlow for one")
    d, dtype = losses.shape[1], losses.dtype
    if not isinstance(losses, jax.core.Tracer) and not np.isfinite(np.asarray(losses)).all():
        row, column = np.argwhere(~np.isfinite(np.asarray(losses)))[0]
        raise ValueError(f"loss {column + 1} of row {row + 1} is not finite: drop or fill gaps first")
    low, middle, high = jnp.quantile(losses, jnp.asarray([0.25, 0.5, 0.75], dtype), axis=0)
    spread = (high - low) / 1.45  # middle half of t with 5 degrees of freedom
    # Squashed losses have correlations that extreme rows do not rule.
    squashed = jnp.tanh((losses - middle) / jnp.where(spread > 0, spread, 1))
    correlation = jnp.corrcoef(squashed, rowvar=False)
    if not isinstance(losses, jax.core.Tracer):
        if not (np.asarray(spread) > 0).all():
            raise ValueError(f"column {int(np.argmin(np.asarray(spread))) + 1}: half of its losses are the same")
        if not np.linalg.eigvalsh(np.asarray(correlation))[0] > 1e-6:
            raise ValueError("the losses' correlations are singular: a column is a combination of others, leave it out")
    lower = spread[:, None] * jnp.linalg.cholesky(correlation)
    factor = jnp.tril(lower, -1) + jnp.diag(jnp.log(jnp.diag(lower)))
    networks = []
    for layer in range(n_layers):
        kept, moved, _ = _halves(jnp.zeros(d), layer)
        n_numbers = moved.size * (3 * n_bins + 1)
        networks.append(silent_perceptron(jax.random.fold_in(key, layer), kept.size, n_numbers, width))
    return JointLossFlow(middle, factor, tail_number(degrees_of_freedom, dtype), tuple(networks), n_bins, bound)
