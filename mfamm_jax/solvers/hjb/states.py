r"""Problems with more state than one inventory: regimes or a signal, several assets, parameters that change with time.

They are built from `HJBProblem`s and offer the same methods, so any general scheme solves them.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.models.intensity import utility
from mfamm_jax.results import Solution
from mfamm_jax.solvers.hjb.problem import AbstractProblem, AbstractScheme, Grid, HJBProblem, column


class RegimeProblem(AbstractProblem):
    r"""Parameters that follow a Markov chain: $dH_z/d\tau = F_z(H_z) + \sum_{z'} G_{zz'}\,\psi_\zeta(H_{z'} - H_z)$.

    Values have shape (inventory, regime). With few regimes: states of the order-book imbalance or of toxicity. With the
    generator of `signal_generator`: a diffusive signal on its nodes. Source: docs/equations.md, the HJB equation.

    Args:
        regimes: Parameters; arrays of shape (regime,) where they differ. Horizon and terminal penalty are shared.
        generator: $G$ [1/s]: rates of change off the diagonal, rows that sum to zero.
        regime_risk_aversion: $\zeta$ [1/(price lot)]: $\gamma_C$ for a CARA utility, 0 = risk-neutral in the regime.
    """

    regimes: HJBProblem
    generator: Float[Array, "regime regime"] = real_field(unit="1/s", help="rates between regimes")
    regime_risk_aversion: Float[Array, ""] = real_field(default=0.0, lower=0.0, unit="1/(price lot)")

    def __check_init__(self) -> None:
        if isinstance(self.generator, jax.core.Tracer):
            return
        generator = np.asarray(self.generator)
        if generator.ndim != 2 or generator.shape[0] != generator.shape[1]:
            raise ValueError(f"RegimeProblem.generator must be square, got shape {generator.shape}")
        if (generator - np.diag(np.diag(generator)) < 0).any():
            raise ValueError("RegimeProblem.generator has a negative rate off its diagonal")
        sums = generator.sum(axis=1)
        worst = int(np.abs(sums).argmax())
        if abs(sums[worst]) > 1e-5 * np.abs(generator[worst]).max():
            raise ValueError(f"RegimeProblem.generator: row {worst} sums to {sums[worst]:g}, expected 0")
        n, shape = generator.shape[0], self.regimes.batch_shape
        if shape not in ((), (n,)) or self.regimes.horizon.ndim:
            raise ValueError(
                f"RegimeProblem.regimes needs one horizon and parameters of shape () or ({n},), as generator has {n} regimes: "
                f"got shape {shape}, horizon {self.regimes.horizon.shape}"
            )

    @property
    def horizon(self) -> Float[Array, "*batch"]:  # pyrefly: ignore[bad-override]
        """Shared by the regimes."""
        return self.regimes.horizon

    def terminal_value(self, grid: Grid) -> Float[Array, "inventory regime"]:
        """(9) in every regime."""
        value = self.regimes.terminal_value(grid)
        value = value if value.ndim == 2 else value[:, None]
        return jnp.broadcast_to(value, (value.shape[0], self.generator.shape[0]))

    def value_rate(self, value: Float[Array, "inventory regime"]) -> Float[Array, "inventory regime"]:
        """Quotes within a regime plus the change of regime."""
        change = value[:, None, :] - value[:, :, None]
        switching = jnp.sum(self.generator * utility(change, self.regime_risk_aversion), axis=-1)
        return self.regimes.value_rate(value) + switching

    def exit_rate(self, value: Float[Array, "inventory regime"]) -> Float[Array, "inventory regime"]:
        """Fills and changes of regime."""
        return self.regimes.exit_rate(value) - jnp.diagonal(self.generator)

    def gauge(self, value: Float[Array, "inventory regime"]) -> Float[Array, ""]:
        """Inventory 0 in the first regime."""
        return value[value.shape[0] // 2, 0]


def signal_generator(
    nodes: Float[Array, " node"], mean_reversion: Float[Array, ""] | float, volatility: Float[Array, ""] | float
) -> Float[Array, "node node"]:
    r"""Ornstein-Uhlenbeck signal $dz = -\theta z\,dt + \eta\,dW$ as a Markov chain on equally spaced nodes.

    Central differences where both rates stay positive, $|\theta z|\,\Delta z \le \eta^2$, upwind elsewhere; reflected at the ends.
    """
    for name, value in (("mean_reversion", mean_reversion), ("volatility", volatility)):
        if not isinstance(value, jax.core.Tracer) and not np.all(np.asarray(value) >= 0):
            raise ValueError(f"signal_generator: {name} is {value}, expected >= 0")
    nodes = jnp.asarray(nodes, dtype=jnp.result_type(float))
    if not isinstance(nodes, jax.core.Tracer):
        gaps = np.diff(np.asarray(nodes))
        if gaps.size == 0 or not gaps.min() > 0 or np.ptp(gaps) > 1e-4 * gaps.max():
            raise ValueError(f"signal_generator: nodes must be at least two, rising in equal steps, got steps {gaps}")
    width = nodes[1] - nodes[0]
    drift = -mean_reversion * nodes
    spread = volatility**2 / (2 * width**2)
    central = jnp.abs(drift) * width <= volatility**2
    up = spread + jnp.where(central, drift / (2 * width), jnp.maximum(drift, 0.0) / width)
    down = spread + jnp.where(central, -drift / (2 * width), jnp.maximum(-drift, 0.0) / width)
    up, down = up.at[-1].set(0.0), down.at[0].set(0.0)
    return jnp.diag(up[:-1], 1) + jnp.diag(down[1:], -1) - jnp.diag(up + down)


class BoxGrid(Checked):
    """As `Grid`, one inventory limit per asset."""

    max_inventories: tuple[int, ...] = static_field(help="largest position of each asset")
    n_steps: int = static_field(default=1, lower=1, help="time steps of the table")

    def __check_init__(self) -> None:
        if not self.max_inventories or min(self.max_inventories) < 1:
            raise ValueError(f"BoxGrid.max_inventories is {self.max_inventories}, expected one limit >= 1 per asset")


class MultiAssetProblem(AbstractProblem):
    r"""Assets that share inventory risk: running penalty $q^\top \Gamma q$, $\Gamma = \gamma\Sigma$, fills asset by asset.

    Values have one axis per asset. Source: docs/equations.md, the HJB equation; memory grows as the product of the grids.

    Args:
        assets: Their own problems, with one common horizon; their `inventory_penalty` comes on top of $\Gamma$.
        penalty_matrix: $\Gamma$ [price/(lot s)], positive semidefinite.
    """

    assets: tuple[HJBProblem, ...]
    penalty_matrix: Float[Array, "asset asset"] = real_field(unit="price/(lot s)", help="risk aversion x covariance")

    def __check_init__(self) -> None:
        matrix, n = self.penalty_matrix, len(self.assets)
        if isinstance(matrix, jax.core.Tracer):
            return
        matrix = np.asarray(matrix)
        if matrix.shape != (n, n):
            raise ValueError(f"MultiAssetProblem.penalty_matrix: {n} assets need shape {(n, n)}, got {matrix.shape}")
        scale = np.abs(matrix).max()
        if np.abs(matrix - matrix.T).max() > 1e-6 * scale or np.linalg.eigvalsh(matrix).min() < -1e-6 * scale:
            raise ValueError("MultiAssetProblem.penalty_matrix must be symmetric and positive semidefinite")
        horizons = [asset.horizon for asset in self.assets]
        if not any(isinstance(h, jax.core.Tracer) for h in horizons) and len({float(h) for h in horizons}) > 1:
            raise ValueError(f"MultiAssetProblem.assets must share one horizon, got {[float(h) for h in horizons]}")

    @property
    def horizon(self) -> Float[Array, ""]:  # pyrefly: ignore[bad-override]
        """Shared by the assets."""
        return self.assets[0].horizon

    def terminal_value(self, grid: BoxGrid) -> Float[Array, "inventory *rest"]:
        """(9) summed over assets."""
        if len(grid.max_inventories) != len(self.assets):
            raise ValueError(
                f"BoxGrid.max_inventories {grid.max_inventories}: expected {len(self.assets)}, one per asset"
            )
        total = jnp.zeros(tuple(2 * q + 1 for q in grid.max_inventories))
        for i, (asset, q) in enumerate(zip(self.assets, grid.max_inventories, strict=True)):
            total = total + _along(asset.terminal_value(Grid(q)), i, total.ndim)
        return total

    def value_rate(self, value: Float[Array, "inventory *rest"]) -> Float[Array, "inventory *rest"]:
        """Each asset along its own axis, and the shared penalty."""
        inventories = [
            _along(jnp.arange(size, dtype=value.dtype) - size // 2, i, value.ndim) for i, size in enumerate(value.shape)
        ]
        rate = jnp.zeros_like(value)
        for i, asset in enumerate(self.assets):
            rate = rate + jnp.moveaxis(asset.value_rate(jnp.moveaxis(value, i, 0)), 0, i)
            for j in range(len(self.assets)):
                rate = rate - self.penalty_matrix[i, j] * inventories[i] * inventories[j]
        return rate

    def exit_rate(self, value: Float[Array, "inventory *rest"]) -> Float[Array, "inventory *rest"]:
        """Fills of all assets."""
        rates = [jnp.moveaxis(asset.exit_rate(jnp.moveaxis(value, i, 0)), 0, i) for i, asset in enumerate(self.assets)]
        return sum(rates[1:], rates[0])

    def gauge(self, value: Float[Array, "inventory *rest"]) -> Float[Array, ""]:
        """No inventory in any asset."""
        return value[tuple(size // 2 for size in value.shape)]


def _along(x: Float[Array, " inventory"], axis: int, ndim: int) -> Float[Array, "..."]:
    return jnp.expand_dims(column(x, ndim - 1 - axis), tuple(range(axis)))


def solve_intervals(intervals: AbstractProblem, scheme: AbstractScheme, grid: Any) -> Solution:
    """Parameters that change at known times: volatility in steps, intraday seasonality.

    Args:
        intervals: A problem whose arrays may have a leading axis, one entry per interval in calendar order; `horizon` are
            the durations [s]. The terminal penalty is the last one's.
        scheme: Solves each interval from the value at its end.
        grid: `n_steps` rows per interval.

    Returns:
        `Solution` with one `ValueTable` over all intervals, time left increasing; `stats` per interval, in that order too.
    """
    n = np.shape(intervals.horizon)
    if len(n) != 1:
        raise ValueError(f"intervals.horizon must hold one duration per interval, got shape {n}")
    flipped = jax.tree.map(lambda x: x[::-1] if jnp.ndim(x) else jnp.broadcast_to(x, n), intervals)
    terminal = jax.tree.map(lambda x: x[0], flipped).terminal_value(grid)

    def interval(carry, problem):
        value, before, elapsed = carry
        solution = scheme.solve(problem, grid, value)
        table = solution.value
        # The value is handed on in the gauge: the offset only accumulates apart.
        table = eqx.tree_at(
            lambda t: (t.offset, t.time_left), table, (table.offset + before, table.time_left + elapsed)
        )
        return (table.relative_value[-1], table.offset[-1], table.time_left[-1]), (
            table,
            solution.result,
            solution.stats,
        )

    # One interval's shapes decide the carry, whatever axes its parameters bring.
    one = jax.eval_shape(lambda p: scheme.solve(p, grid, terminal).value, jax.tree.map(lambda x: x[0], flipped))
    start = jnp.zeros(one.relative_value.shape[1:], one.relative_value.dtype) + terminal
    zero = jnp.zeros(one.offset.shape[1:], one.offset.dtype)
    _, (table, result, stats) = jax.lax.scan(interval, (start, zero, jnp.zeros_like(flipped.horizon[0])), flipped)
    joined = jax.tree.map(lambda x: jnp.concatenate([x[0], *x[1:, 1:]]), table)
    return Solution(joined, result, stats)
