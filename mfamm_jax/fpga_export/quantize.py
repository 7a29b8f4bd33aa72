"""A control problem in, a kernel with proven errors out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mfamm_jax.fpga_export.axes import TIME_BITS, cell_samples, hat_weights
from mfamm_jax.fpga_export.kernel import State, clamp_state, depths_of
from mfamm_jax.fpga_export.model import QuoteModel
from mfamm_jax.fpga_export.plan import LANE_BITS, KernelFormat, choose_format
from mfamm_jax.fpga_export.tables import (
    SHARES,
    Lattice,
    TableSpec,
    fit_nodes,
    kernel_scheme,
    largest_range,
    monotonicity_violations,
    on_lattice,
    solve_lattice,
)
from mfamm_jax.results import RESULTS

# Between lattice points, four a cell, an interpolation error exceeds its largest sample by at most this factor.
MARGIN = 1.25


@dataclasses.dataclass(frozen=True)
class ErrorBound:
    """Largest error of a depth in ticks, by cause.

    Args:
        interpolation: Linear interpolation and, without a skew axis, the linear correction, over the domain.
        arithmetic: Rounding of the table and inside the kernel.
        inputs: Rounding of time, risk and skew to their codes.
    """

    interpolation: float
    arithmetic: float
    inputs: float

    @property
    def total(self) -> float:
        """Sum."""
        return self.interpolation + self.arithmetic + self.inputs


@dataclasses.dataclass(frozen=True)
class QuantizedTable:
    """Integer table with its widths and what is known about its errors.

    Args:
        form: Widths.
        table: int32 (inventory, *axes, channel).
        bound: Before anything is observed.
        scheme: What solved the problem.
        residual: Disagreement with a second method [ticks].
        shrunk_from: Largest skew asked for, where the budget did not allow it.
        monotonicity_violations: Neighbouring inventories whose quotes are in the wrong order [count].
    """

    form: KernelFormat
    table: np.ndarray
    bound: ErrorBound
    scheme: str
    residual: float
    shrunk_from: float | None
    monotonicity_violations: int


def quantize(
    model: QuoteModel,
    spec: TableSpec,
    *,
    budget: float = 0.25,
    arithmetic_budget: float = 0.01,
    max_width: int = LANE_BITS,
    least_squares: bool = True,
) -> QuantizedTable:
    """Solves, fits and rounds a table whose total error stays within the budget.

    Without a skew axis the largest skew is lowered where the budget asks for it, and the answer says so.

    Args:
        model: What is tabulated.
        spec: Axes.
        budget: Total error of a depth [ticks].
        arithmetic_budget: Part of it for rounding inside the kernel [ticks].
        max_width: Of a table's number.
        least_squares: Fit nodes to the lattice instead of sampling it.

    Raises:
        ValueError: What does not fit, with the interval or the smallest axes that would do.
    """
    if not budget > 0 or not arithmetic_budget < budget:
        raise ValueError(
            f"budget is {budget:g} and arithmetic_budget {arithmetic_budget:g}, expected 0 < the second < the first"
        )
    return quantize_lattice(
        solve_lattice(model, spec),
        budget=budget,
        arithmetic_budget=arithmetic_budget,
        max_width=max_width,
        least_squares=least_squares,
    )


def quantize_lattice(
    lattice: Lattice, *, budget: float, arithmetic_budget: float, max_width: int = LANE_BITS, least_squares: bool = True
) -> QuantizedTable:
    """The part of `quantize` behind the solver: plain arithmetic on the host, the same bytes on every device and precision."""
    spec = lattice.spec
    depth = fit_nodes(lattice.depth, spec, lattice.per_cell, least_squares)
    slope = None if lattice.slope is None else fit_nodes(lattice.slope, spec, lattice.per_cell, least_squares)
    errors = _errors_by_skew(lattice, depth, slope)

    def within(share: float) -> tuple[KernelFormat, ErrorBound]:
        smaller = dataclasses.replace(spec, max_skew=spec.max_skew * share)
        form = choose_format(smaller, depth, slope, arithmetic_budget, max_width)
        inside = [error for skew, error in errors if spec.skew is not None or abs(skew) <= smaller.max_skew + 1e-12]
        return form, ErrorBound(MARGIN * max(inside), form.arithmetic_bound(), _input_error(form, depth, slope))

    tried = [within(share) for share in (SHARES if spec.skew is None else SHARES[:1])]
    fitting = [(form, bound) for form, bound in tried if bound.total <= budget]
    if not fitting:
        raise ValueError(_what_would_do(lattice, tried[-1][1], budget))
    form, bound = fitting[0]
    channels = [form.depth.quantize(depth, "depth")]
    if slope is not None and form.slope is not None:
        channels.append(form.slope.quantize(slope, "slope"))
    return QuantizedTable(
        form=form,
        table=np.concatenate(channels, axis=-1),
        bound=bound,
        scheme=lattice.scheme,
        residual=lattice.residual,
        shrunk_from=spec.max_skew if form.spec.max_skew < spec.max_skew else None,
        monotonicity_violations=monotonicity_violations(lattice.depth, form.depth.step),
    )


def _errors_by_skew(lattice: Lattice, depth: np.ndarray, slope: np.ndarray | None) -> list[tuple[float, float]]:
    """(skew, largest difference of the interpolated table from the exact depths on the lattice) [ticks]."""
    if lattice.per_cell == 1:
        if slope is not None:
            raise ValueError(
                'quotes that jump have no derivative in the skew: give the table a skew axis (table.skew = "axis")'
            )
        return [(0.0, largest_range(depth, len(lattice.spec.axes)) / MARGIN)]
    value = on_lattice(depth, lattice.spec, lattice.per_cell)
    if slope is None:
        exact = lattice.depth
        return [(float(s), float(np.abs(value - exact)[:, ..., i, :].max())) for i, s in enumerate(lattice.skews)]
    tilt = on_lattice(slope, lattice.spec, lattice.per_cell)
    return [
        (float(s), float(np.abs(value + s * tilt - exact).max()))
        for s, exact in zip(lattice.skews, lattice.skewed, strict=True)
    ]


def _input_error(form: KernelFormat, depth: np.ndarray, slope: np.ndarray | None) -> float:
    """Half a code of every input times the steepest slope along its axis [ticks]."""
    total = 0.0
    # What is interpolated is the skewed depth: steepest at one end of the skews.
    skewed = [depth] if slope is None else [depth + s * form.spec.max_skew * slope for s in (-1.0, 1.0)]
    for number, axis in enumerate(form.spec.axes, start=1):
        widths = np.diff(axis.codes()).reshape(-1, *(1,) * (depth.ndim - number - 1))
        total += 0.5 * max(float(np.max(np.abs(np.diff(x, axis=number)) / widths)) for x in skewed)
    if slope is not None:
        total += 0.5 * form.skew_step * float(np.abs(slope).max())
    return total


def _what_would_do(lattice: Lattice, bound: ErrorBound, budget: float) -> str:
    """The axis that costs most, and how many nodes it would need."""
    spec, costs = lattice.spec, []
    for number, axis in enumerate(spec.axes, start=1):
        weights = hat_weights(cell_samples(axis, lattice.per_cell), axis.codes())
        nodes = np.take(lattice.depth, np.arange(axis.n_nodes) * lattice.per_cell, axis=number)
        again = np.moveaxis(np.tensordot(weights, nodes, axes=(1, number)), 0, number)
        costs.append((float(np.abs(again - lattice.depth).max()), axis))
    error, axis = max(costs, key=lambda pair: pair[0])
    rest = bound.total - MARGIN * error
    factor = 2
    while factor < 64 and rest + MARGIN * error / factor**2 > budget:
        factor *= 2
    enough = f"{(axis.n_nodes - 1) * factor + 1} nodes" if factor < 64 else "no number of nodes"
    return (
        f"the error bound is {bound.total:.3g} ticks, above the budget of {budget:g} (interpolation {bound.interpolation:.3g}, arithmetic "
        f"{bound.arithmetic:.3g}, inputs {bound.inputs:.3g}): {enough} on the {axis.name} axis, which has {axis.n_nodes}, would about do; "
        "or narrow the domain"
    )


@dataclasses.dataclass(frozen=True)
class ObservedError:
    """Depths of the integer kernel against the problem solved anew at random states.

    Args:
        n_states: States, every inventory at each.
        largest, p99, mean: Absolute error of a depth [ticks].
        off_by_one: Share of quotes in whole ticks that differ from those of the exact depth, on random books.
        unexplained: Such quotes that differ by more than a tick, or whose exact depth is farther than the bound from a tick boundary.
        sample: All errors [ticks].
    """

    n_states: int
    largest: float
    p99: float
    mean: float
    off_by_one: float
    unexplained: int
    sample: np.ndarray = dataclasses.field(repr=False, compare=False)


def observe_error(model: QuoteModel, quantized: QuantizedTable, n_states: int = 1000, seed: int = 0) -> ObservedError:
    """Solves the problem anew at states drawn over the domain; ValueError if an error exceeds the bound."""
    form, spec = quantized.form, quantized.form.spec
    draw = np.random.default_rng(seed)
    share = draw.uniform(2.0**-TIME_BITS, 1.0 - 2.0**-TIME_BITS, n_states)
    # Half of them close to the end, where quotes move fastest.
    share = np.where(np.arange(n_states) % 2 == 0, share, 2.0 ** draw.uniform(-10, -1e-4, n_states))
    top = (spec.risk.last_code + 0.5) / 2**spec.risk.fraction_bits
    risk = spec.risk.low + spec.risk.spacing * draw.uniform(0, top, n_states)
    skew = draw.uniform(-1, 1, n_states) * (form.skew_limit - 1) * form.skew_step
    scheme, _ = kernel_scheme(model, spec)
    solve = jax.jit(lambda x: model.depths(scheme, spec.max_inventory, *x))
    depth, _, result = jax.lax.map(solve, tuple(jnp.asarray(x) for x in (share, risk, skew)), batch_size=100)
    if not bool(jnp.all(result == RESULTS.successful)):
        raise ValueError("a random state could not be solved: narrow the domain")
    exact = np.asarray(depth)[:, -1]

    def codes(x: np.ndarray, scale: float | int, top: int) -> jax.Array:
        nearest = np.minimum(np.floor(x * scale + 0.5), top).astype(np.int32)
        return jnp.broadcast_to(jnp.asarray(nearest)[:, None], exact.shape[:2])

    inventory = jnp.arange(-spec.max_inventory, spec.max_inventory + 1, dtype=jnp.int32)
    state = State(
        inventory=jnp.broadcast_to(inventory, exact.shape[:2]),
        time=codes(share, 1 << TIME_BITS, (1 << TIME_BITS) - 1),
        risk=codes((risk - spec.risk.low) / spec.risk.spacing, 1 << spec.risk.fraction_bits, spec.risk.last_code),
        skew=codes(skew, 1 / form.skew_step, form.skew_limit),
        vpin=codes(np.zeros(n_states), 1.0, 0),
    )
    ours = np.asarray(jax.jit(depth_before_limits, static_argnums=0)(form, jnp.asarray(quantized.table), state))
    got = ours * 2.0**-form.fraction
    # A side that is not quoted holds its neighbour's depth.
    got[:, 0, 0], got[:, -1, 1] = exact[:, 0, 0], exact[:, -1, 1]
    error = np.abs(got - exact)
    if error.max() > quantized.bound.total:
        at = np.unravel_index(error.argmax(), error.shape)
        raise ValueError(
            f"an observed error of {error.max():.3g} ticks exceeds the bound of {quantized.bound.total:.3g} (share {share[at[0]]:.4g}, log2 "
            f"risk {risk[at[0]]:.4g}, skew {skew[at[0]]:.4g}, inventory {at[1] - spec.max_inventory}): the bound or the solver is wrong"
        )
    half = draw.integers(0, 2, n_states)[:, None, None] / 2.0
    whole, whole_exact = np.ceil(got + half), np.ceil(exact + half)
    differs = whole != whole_exact
    away = np.abs(exact + half - np.round(exact + half))
    unexplained = differs & ((np.abs(whole - whole_exact) > 1) | (away > quantized.bound.total))
    return ObservedError(
        n_states=n_states,
        largest=float(error.max()),
        p99=float(np.quantile(error, 0.99)),
        mean=float(error.mean()),
        off_by_one=float(differs.mean()),
        unexplained=int(unexplained.sum()),
        sample=(got - exact).ravel(),
    )


def depth_before_limits(form: KernelFormat, table: jax.Array, state: State) -> jax.Array:
    """(..., side) depths without widening and limits, in units of 2^-`form.fraction`."""
    state, _ = clamp_state(form, state)
    return depths_of(form, table, state)
