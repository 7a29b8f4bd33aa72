"""Tables: exact where a second method says so, wrong solvers are caught, and fits are better than samples."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.fpga_export import TableSpec, UniformAxis, solve_lattice, tables
from mfamm_jax.fpga_export.axes import cell_samples
from mfamm_jax.fpga_export.model import check_model
from mfamm_jax.fpga_export.tables import SAMPLES, fit_nodes, largest_range, monotonicity_violations, on_lattice
from mfamm_jax.solvers.hjb import Grid, HanWong, optimal_depths, solve_hjb

from .kernels import TICK, lattice, model, spec


@pytest.mark.thorough
def test_lattice_is_another_solver_s_answer():
    """Against adaptive implicit steps, state by state; 1e-4 ticks is their own tolerance."""
    found, axes = lattice(), spec()
    times, risks = cell_samples(axes.time, SAMPLES), cell_samples(axes.risk, SAMPLES)
    for i, j in ((3, 2), (20, 8), (100, 15), (len(times) - 1, 0)):
        problem = model().at(jnp.array(-2.0 + 1.0 * risks[j] / 256), jnp.zeros(()))
        problem = eqx.tree_at(lambda p: p.horizon, problem, 30.0 * times[i] / 65536)
        value = solve_hjb(problem, HanWong(1e-7), Grid(2, 1)).value.relative_value[-1]
        bid, ask = optimal_depths(problem, value)
        np.testing.assert_allclose(found.depth[1:, i, j, 0], ask[1:] / TICK, atol=1e-4)
        np.testing.assert_allclose(found.depth[:-1, i, j, 1], bid[:-1] / TICK, atol=1e-4)


def test_slope_is_the_derivative_in_the_skew():
    """Central differences of the judged skews: their own error is of second order in 0.05."""
    found = lattice()
    step = (found.skewed[5] - found.skewed[3]) / (found.skews[5] - found.skews[3])
    assert found.skews[5] == pytest.approx(0.05)
    np.testing.assert_allclose(found.slope, step, atol=5e-3)
    assert np.abs(found.slope).max() > 1.0


def test_far_from_the_close_the_stationary_table_is_the_other_one():
    """After some 45 time constants of the quickest mode; the slowest forgets the close within 1e-3 of a tick."""
    np.testing.assert_allclose(lattice("stationary").depth[:, 8:], lattice().depth[:, -1, 8:], atol=2e-3)


def test_asymmetry_without_a_close_is_a_constant_shift():
    """With exponential intensities and stationary quotes it is exactly a/k a side."""
    slope = lattice("stationary").slope
    np.testing.assert_allclose(slope[1:, ..., 0], 1 / 0.3, atol=1e-8)
    np.testing.assert_allclose(slope[:-1, ..., 1], -1 / 0.3, atol=1e-8)


def test_at_the_close_asymmetry_moves_nothing():
    np.testing.assert_allclose(lattice().slope[:, 0], 0.0, atol=1e-12)


def test_quotes_rise_and_fall_with_inventory():
    depth = lattice().depth
    assert monotonicity_violations(depth, 1e-9) == 0
    assert monotonicity_violations(depth[::-1], 1e-9) > 1000


def test_least_squares_fits_are_better_than_samples():
    found, axes = lattice(), spec()
    error = {}
    for fit in (False, True):
        nodes = fit_nodes(found.depth, axes, SAMPLES, fit)
        assert nodes.shape == (5, 41, 5, 2)
        error[fit] = np.abs(on_lattice(nodes, axes, SAMPLES) - found.depth).max()
    assert error[True] < 0.75 * error[False]


def test_corners_bound_a_table_that_jumps():
    steps = np.floor(np.linspace(0, 7, 15))[None, :, None] + np.array([0.0, 2.0])[None, None, :]
    assert largest_range(steps[..., None], 2) == 3.0


@pytest.mark.parametrize("kind", ["noise", "shift"])
def test_a_solver_that_is_wrong_at_the_edge_is_caught(kind, monkeypatch):
    """As an eigendecomposition would be, whose last rows are noise."""
    true = tables.kernel_scheme

    def spoiled(*args):
        scheme, why = true(*args)

        class Wrong(type(scheme)):
            def solve(self, problem, grid, start=None):
                solution = super().solve(problem, grid, start)
                error = (
                    0.5 * TICK * (jnp.arange(solution.value.relative_value.shape[0]) % 7 if kind == "noise" else 1.0)
                )
                edge = solution.value.relative_value.at[:, -1].add(error)
                return eqx.tree_at(lambda s: s.value.relative_value, solution, edge)

        return Wrong(**{f.name: getattr(scheme, f.name) for f in dataclasses.fields(scheme)}), why

    monkeypatch.setattr(tables, "kernel_scheme", spoiled)
    with pytest.raises(ValueError, match=r"differ by .* ticks from a second method"):
        solve_lattice(model(), spec(n_risk=2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: eqx.tree_at(lambda m: m.tick_size, m, jnp.array(0.0)), "tick_size is 0"),
        (lambda m: eqx.tree_at(lambda m: m.tick_size, m, jnp.array(jnp.nan)), "tick_size: nan is not finite"),
        (lambda m: eqx.tree_at(lambda m: m.problem.drift, m, jnp.array(0.1)), "drift is 0.1"),
        (lambda m: eqx.tree_at(lambda m: m.problem.inventory_penalty, m, jnp.array(0.0)), "inventory_penalty is 0"),
        (lambda m: eqx.tree_at(lambda m: m.problem.horizon, m, jnp.array(30.0, jnp.float32)), "float64"),
        (lambda m: eqx.tree_at(lambda m: m.problem.horizon, m, jnp.ones(3)), "one parameter set"),
        (lambda m: eqx.tree_at(lambda m: m.problem.terminal_penalty, m, jnp.array(jnp.inf)), "not finite"),
    ],
)
def test_models_that_cannot_be_tabulated_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        check_model(change(model()))


def test_a_withdrawing_model_is_refused():
    with pytest.raises(ValueError, match="may_withdraw"):
        check_model(model(may_withdraw=True))


def test_a_domain_without_the_reference_is_refused():
    off = dataclasses.replace(spec(), risk=UniformAxis(3, 0.5, 1.0, 8, "risk"))
    with pytest.raises(ValueError, match="does not cover the reference"):
        solve_lattice(model(), off)


@pytest.mark.parametrize("bad", [0, 128])
def test_inventories_beyond_the_index_are_refused(bad):
    with pytest.raises(ValueError, match=f"max_inventory is {bad}"):
        TableSpec(bad, None, UniformAxis(3, -1.0, 1.0, 8, "risk"), None, 0.2)


def test_depths_can_be_differentiated():
    """The penalty's share of a depth, by autodiff and by a difference."""
    ours = model()
    scheme, _ = tables.kernel_scheme(ours, spec())

    def depth(risk):
        return ours.depths(scheme, 2, jnp.ones(()), risk, jnp.zeros(()))[0][-1, 3, 0]

    step = 1e-5
    found = jax.grad(depth)(jnp.zeros(()))
    np.testing.assert_allclose(found, (depth(jnp.array(step)) - depth(jnp.array(-step))) / (2 * step), rtol=1e-6)
