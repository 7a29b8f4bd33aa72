r"""From a control problem to the table of a kernel: solved on a fine lattice, checked, and fitted by its nodes.

The table holds depths in ticks over (inventory, time, risk) and their derivatives in the skew, all interpolated linearly: the
control and not the value, whose differences would cancel. Node values are a least-squares fit to the lattice, which about halves the
largest error of a table that is right at its nodes.
"""

import dataclasses
from math import ceil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from mfamm_jax.fpga_export.axes import TIME_BITS, SegmentedAxis, UniformAxis, cell_samples, hat_weights
from mfamm_jax.fpga_export.model import QuoteModel, check_model
from mfamm_jax.models.curves import TabulatedIntensity
from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.hjb import AbstractScheme, Ergodic, ExplicitRK, Grid, HJBProblem, choose_scheme
from mfamm_jax.solvers.hjb.choose import why_not_linear

SAMPLES = 4  # lattice points a cell
SOLVE_STEP, CHECK_STEP = 0.25, 0.1  # fills a step, of explicit steps and of the second method's
MOST_STEPS = 2_000_000
# Where a linear correction in the skew is judged, as shares of the largest skew.
SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)
# Over one row's step both methods agree to about 1e-7 ticks where the solver is sound, and to 1e-4 for curves with jumps, whose
# kinks cost explicit steps their order; an eigendecomposition is off by tenths.
RESIDUAL_TICKS, JUMP_RESIDUAL_TICKS = 1e-4, 1e-3


@dataclasses.dataclass(frozen=True)
class TableSpec:
    """Axes of a table.

    Args:
        max_inventory: Q: inventories -Q..Q [lots].
        time: Axis of the time left; None = stationary quotes.
        risk: Axis of log2 of the risk.
        skew: A third axis, or None for the linear correction by the derivative.
        max_skew: Largest |skew| that is not clamped, with `skew = None`.
    """

    max_inventory: int
    time: SegmentedAxis | None
    risk: UniformAxis
    skew: UniformAxis | None
    max_skew: float

    def __post_init__(self) -> None:
        if not 1 <= self.max_inventory <= 127:
            raise ValueError(
                f"max_inventory is {self.max_inventory}, expected 1 to 127 lots: the kernel's index ends there"
            )

    @property
    def axes(self) -> tuple[SegmentedAxis | UniformAxis, ...]:
        """Those that are interpolated, in the order of the table."""
        return tuple(axis for axis in (self.time, self.risk, self.skew) if axis is not None)


@dataclasses.dataclass(frozen=True)
class Lattice:
    """Exact depths between and at the nodes.

    Args:
        spec: Axes.
        per_cell: Sample points of a cell along each axis; 1 = the nodes alone, for curves whose quotes jump.
        depth: (inventory, *axes, side) at the sample points of every axis, at skew 0 if skew is no axis [ticks].
        slope: Derivative in the skew at the same points; None if skew is an axis [ticks].
        skewed: (skew, inventory, time, risk, side) exact depths at `skews`, to judge the slope by.
        skews: Of `skewed`.
        residual: Largest disagreement of the depths with a second method that starts from every node [ticks].
        scheme: What solved it.
    """

    spec: TableSpec
    per_cell: int
    depth: np.ndarray
    slope: np.ndarray | None
    skewed: np.ndarray
    skews: np.ndarray
    residual: float
    scheme: str


def kernel_scheme(model: QuoteModel, spec: TableSpec, n_steps: int = 1) -> tuple[AbstractScheme, str]:
    """A scheme that serves every state of the domain."""
    if spec.time is None:
        return Ergodic(), "stationary quotes, policy iteration"
    worst = model.at(jnp.asarray(spec.risk.nodes()[-1]), jnp.asarray(largest_skew(spec)))
    if not why_not_linear(worst):
        return choose_scheme(worst, Grid(spec.max_inventory, n_steps))
    # One scheme for hundreds of solves: equal explicit steps, short against the fastest fills of the worst corner.
    rate = _fastest_fills(worst, spec)
    steps = max(ceil(rate * float(worst.horizon) / n_steps / SOLVE_STEP), 1)
    if steps * n_steps > MOST_STEPS:
        raise ValueError(
            f"{steps * n_steps:.3g} steps would be needed for fills of up to {rate:.3g} a second: shorten the horizon, or narrow the risk axis or "
            "the inventory limit"
        )
    return ExplicitRK(steps), f"explicit Runge-Kutta, {steps} steps a row"


def _fastest_fills(problem: HJBProblem, spec: TableSpec) -> float:
    """Bound on the rate [1/s] at which a state is left under optimal quotes."""
    sides = problem.bid, problem.ask
    if all(isinstance(side, TabulatedIntensity) for side in sides):
        return sum(float(jnp.max(side.intensities)) for side in sides)
    grid = Grid(spec.max_inventory, 16)
    value = choose_scheme(problem, grid)[0].solve(problem, grid).value.relative_value
    # Between rows it may be somewhat faster.
    return 1.5 * float(jnp.max(problem.exit_rate(value.T)))


def quotes_jump(model: QuoteModel) -> bool:
    """Whether quotes are whole steps of a list of depths."""
    return isinstance(model.problem.bid, TabulatedIntensity) or isinstance(model.problem.ask, TabulatedIntensity)


def largest_skew(spec: TableSpec) -> float:
    """Absolute end of the skews."""
    return spec.max_skew if spec.skew is None else float(np.abs(spec.skew.nodes()).max())


def solve_lattice(model: QuoteModel, spec: TableSpec) -> Lattice:
    """Solves the problem wherever the table is fitted or judged; ValueError if a solve fails or a second method disagrees."""
    check_model(model)
    if not spec.risk.nodes()[0] <= 0.0 <= spec.risk.nodes()[-1]:
        raise ValueError(
            f"the risk axis, {spec.risk.nodes()[0]:g} to {spec.risk.nodes()[-1]:g}, does not cover the reference, 0"
        )
    per_cell = 1 if quotes_jump(model) else SAMPLES
    if spec.time is None:
        n_steps, rows = 1, np.array([1])
    else:
        codes = cell_samples(spec.time, per_cell)
        step = int(np.diff(codes).min())
        n_steps, rows = (1 << TIME_BITS) // step, codes // step
    scheme, why = kernel_scheme(model, spec, n_steps)
    check = _second_method(model, spec, n_steps)
    risks = spec.risk.low + spec.risk.spacing * cell_samples(spec.risk, per_cell) / 2**spec.risk.fraction_bits
    one = jnp.ones(())

    def solve(risk, skew):
        depth, value, result = model.depths(scheme, spec.max_inventory, one, risk, skew, n_steps)
        return depth[rows], value, result

    @jax.jit
    def over_risks(skew):
        def one_risk(risk):
            depth, value, result = solve(risk, skew)
            return depth, _disagreement(model, spec, check, value, risk, skew, rows), result

        depth, residual, result = jax.lax.map(one_risk, jnp.asarray(risks))
        return jnp.moveaxis(depth, 2, 0), residual, result == RESULTS.successful

    @jax.jit
    def slopes():
        # Central differences would lose half the digits: the solver is differentiated.
        tangent = lambda risk: jax.jacfwd(lambda skew: solve(risk, skew)[0])(jnp.zeros(()))  # noqa: E731
        return jnp.moveaxis(jax.lax.map(tangent, jnp.asarray(risks)), 2, 0)

    def checked(skew):
        depth, residual, ok = (np.asarray(x) for x in over_risks(jnp.asarray(float(skew))))
        # (inventory, risk, time, side) -> (inventory, time, risk, side)
        depth = np.moveaxis(depth, 1, 2)
        if not ok.all() or not np.isfinite(depth).all():
            bad = np.argwhere(~ok)[0][0] if not ok.all() else np.argwhere(~np.isfinite(depth))[0][2]
            raise ValueError(
                f"the table could not be solved ({why}) at log2 risk {risks[bad]:g}, skew {float(skew):g}: narrow the risk axis or the "
                "inventory limit"
            )
        return depth, float(np.max(residual))

    if spec.skew is None:
        skews = spec.max_skew * np.array([*(-s for s in SHARES), *SHARES[-2::-1]])
    else:
        skews = spec.skew.low + spec.skew.spacing * cell_samples(spec.skew, per_cell) / 2**spec.skew.fraction_bits
    solved = [checked(skew) for skew in skews]
    skewed, residual = np.stack([depth for depth, _ in solved]), float(np.max([error for _, error in solved]))
    allowed = JUMP_RESIDUAL_TICKS if quotes_jump(model) else RESIDUAL_TICKS
    if not residual <= allowed:  # NaN, where the second method blew up, is no agreement
        raise ValueError(
            f"the table's depths differ by {residual:.3g} ticks from a second method, more than {allowed:g}: the solver ({why}) "
            "is not accurate there; narrow the risk axis or the inventory limit"
        )
    if spec.skew is None:
        slope = np.moveaxis(np.asarray(slopes()), 1, 2)
        depth = skewed[len(SHARES) - 1]
    else:
        slope, depth = None, np.moveaxis(skewed, 0, 3)
    if spec.time is None:
        depth = depth[:, 0]
        skewed = skewed[:, :, 0]
        slope = None if slope is None else slope[:, 0]
    return Lattice(spec, per_cell, depth, slope, skewed, skews, residual, why)


def _second_method(model: QuoteModel, spec: TableSpec, n_steps: int) -> AbstractScheme:
    """Explicit steps for one row of the lattice; finer ones where explicit steps made it."""
    if spec.time is None:
        return ExplicitRK(32)
    worst = model.at(jnp.asarray(spec.risk.nodes()[-1]), jnp.asarray(largest_skew(spec)))
    steps = _fastest_fills(worst, spec) * float(worst.horizon) / n_steps / CHECK_STEP
    return ExplicitRK(max(ceil(min(steps, MOST_STEPS)), 1))


def _disagreement(model, spec, check, value, risk, skew, rows):
    """Ticks by which inventory costs differ from those of explicit steps that start from every sampled row's value.

    A row that does not solve the equation moves towards the one that does, by the share of a step in its time scale.
    """
    problem = model.at(risk, skew)
    if spec.time is None:
        gap, start, expected = 1.0 / problem.exit_rate(value[-1]).max(), value[-1:], value[-1:]
    else:
        inner = np.minimum(rows, value.shape[0] - 2)
        gap, start, expected = problem.horizon / (value.shape[0] - 1), value[inner], value[inner + 1]
    moved = eqx.tree_at(lambda p: p.horizon, problem, gap)
    grid = Grid(spec.max_inventory, 1)
    again = jax.vmap(lambda row: check.solve(moved, grid, row).value.relative_value[-1])(start)
    return jnp.max(jnp.abs(jnp.diff(again - expected, axis=-1))) / model.tick_size


def fit_nodes(samples: np.ndarray, spec: TableSpec, per_cell: int, least_squares: bool) -> np.ndarray:
    """Node values (inventory, *axes, ...) from samples on the lattice: their own values, or the least-squares fit axis by axis."""
    for number, axis in enumerate(spec.axes, start=1):
        if least_squares:
            solve = np.linalg.pinv(hat_weights(cell_samples(axis, per_cell), axis.codes()))
            samples = np.moveaxis(np.tensordot(solve, samples, axes=(1, number)), 0, number)
        else:
            samples = np.take(samples, np.arange(axis.n_nodes) * per_cell, axis=number)
    return samples


def on_lattice(nodes: np.ndarray, spec: TableSpec, per_cell: int) -> np.ndarray:
    """Node values back on the lattice."""
    for number, axis in enumerate(spec.axes, start=1):
        weights = hat_weights(cell_samples(axis, per_cell), axis.codes())
        nodes = np.moveaxis(np.tensordot(weights, nodes, axes=(1, number)), 0, number)
    return nodes


def largest_range(nodes: np.ndarray, n_axes: int) -> float:
    """Largest difference between corners of a cell: bounds the error of a table that is monotone along every axis, jumps included."""
    high = low = nodes
    for axis in range(1, n_axes + 1):
        pairs = [np.stack([np.delete(x, -1, axis), np.delete(x, 0, axis)]) for x in (high, low)]
        high, low = pairs[0].max(axis=0), pairs[1].min(axis=0)
    return float((high - low).max())


def monotonicity_violations(depth: np.ndarray, tolerance: float) -> int:
    """Pairs of neighbouring inventories where the ask depth rises, or the bid depth falls, with inventory [count]."""
    rise = np.diff(depth, axis=0)
    return int((rise[..., 0] > tolerance).sum() + (rise[..., 1] < -tolerance).sum())
