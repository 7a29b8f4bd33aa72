"""Formats chosen from budgets, bounds that hold, and refusals that say what would do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.fpga_export import FixedFormat, choose_format, observe_error, quantize, quantize_lattice
from mfamm_jax.fpga_export.plan import audit
from mfamm_jax.fpga_export.tables import SAMPLES, fit_nodes

from .kernels import curve_of, lattice, model, quantized, spec


@pytest.mark.parametrize("kind", ["slope", "axis", "stationary", pytest.param("tabulated", marks=pytest.mark.thorough)])
def test_observed_errors_stay_within_the_bound(kind):
    table = quantized(kind)
    seen = observe_error(model(curve_of(kind)), table, n_states=100)
    assert 0 < seen.largest <= table.bound.total
    assert seen.unexplained == 0
    assert seen.sample.shape == (100 * 5 * 2,)
    if kind == "slope":
        # The bound is not idle: the worst of a hundred states comes to a third of it.
        assert seen.largest > table.bound.total / 3
    assert seen.off_by_one < 0.05 or kind == "tabulated"


@pytest.mark.thorough
def test_a_thousand_states_of_the_reference_kernel_are_within_a_quarter_tick():
    """57 times, 16 risks over eight octaves, skews up to 0.2: the specification's claim."""
    from mfamm_jax.experiments.config import construct, load_config

    ours, table, seen = construct(load_config("fpga_quote_kernel")).quantized()
    assert seen.n_states == 1000
    assert seen.largest <= table.bound.total <= 0.25
    assert seen.unexplained == 0
    assert [axis.n_nodes for axis in table.form.spec.axes] == [57, 16]
    assert table.form.spec.max_skew == 0.2
    assert table.shrunk_from is None
    again = observe_error(ours, table, n_states=1000, seed=7)
    assert again.largest <= table.bound.total


def test_fraction_bits_follow_the_budget():
    widths = []
    for budget in (0.1, 0.01, 0.001):
        form = quantized(arithmetic_budget=budget).form
        assert form.arithmetic_bound() <= budget
        fewer = dataclasses.replace(
            form,
            depth=FixedFormat(True, form.depth.width - 1, form.depth.fraction - 1),
            slope=FixedFormat(True, form.slope.width - 1, form.slope.fraction - 1),
        )
        assert fewer.arithmetic_bound() > budget
        widths.append(form.depth.fraction)
    assert widths == sorted(set(widths))


def test_arithmetic_bound_holds_against_unrounded_interpolation():
    """Depths of the integer kernel against float interpolation of the unrounded nodes, at random codes."""
    from mfamm_jax.fpga_export.kernel import State
    from mfamm_jax.fpga_export.quantize import depth_before_limits

    table = quantized(arithmetic_budget=0.01)
    form, found = table.form, lattice()
    depth = fit_nodes(found.depth, spec(), SAMPLES, True)
    slope = fit_nodes(found.slope, spec(), SAMPLES, True)
    rng = np.random.default_rng(1)
    n = 4000
    code = [rng.integers(-2, 3, n), rng.integers(0, 1 << 16, n), rng.integers(0, form.spec.risk.last_code + 1, n)]
    skew = rng.integers(-form.skew_limit, form.skew_limit + 1, n)
    state = State(*(jnp.asarray(x, jnp.int32) for x in (*code, skew, np.zeros(n, int))))
    got = np.asarray(depth_before_limits(form, jnp.asarray(table.table), state)) * 2.0**-form.fraction

    def interpolated(nodes):
        times, risks = form.spec.time.codes(), form.spec.risk.codes()
        i, j = (np.searchsorted(a, c, side="right") - 1 for a, c in ((times, code[1]), (risks, code[2])))
        u, v = ((c - a[k]) / (a[k + 1] - a[k]) for a, c, k in ((times, code[1], i), (risks, code[2], j)))
        row, u, v = code[0] + 2, u[:, None], v[:, None]
        low = nodes[row, i, j] * (1 - u) + nodes[row, i + 1, j] * u
        return low * (1 - v) + (nodes[row, i, j + 1] * (1 - u) + nodes[row, i + 1, j + 1] * u) * v

    exact = interpolated(depth) + interpolated(slope) * skew[:, None] * form.skew_step
    error = np.abs(got - exact).max()
    assert form.arithmetic_bound() / 4 < error <= form.arithmetic_bound()


def test_the_domain_shrinks_before_the_budget_breaks():
    whole = quantized()
    budget = whole.bound.total * 0.8
    small = quantize_lattice(lattice(), budget=budget, arithmetic_budget=0.002)
    assert small.shrunk_from == 0.2
    assert small.form.spec.max_skew < 0.2
    assert small.bound.total <= budget
    assert whole.shrunk_from is None
    assert small.form.skew_limit == int(small.form.spec.max_skew * 1024)


def test_budgets_that_cannot_hold_say_what_would_do():
    with pytest.raises(ValueError, match=r"above the budget of 0.012 .* nodes on the (time|risk) axis, which has"):
        quantize_lattice(lattice(), budget=0.012, arithmetic_budget=0.002)
    with pytest.raises(
        ValueError, match=r"no format keeps rounding within arithmetic_budget = 1e-05 .* fraction bits would do"
    ):
        quantize_lattice(lattice(), budget=0.25, arithmetic_budget=1e-5)
    with pytest.raises(ValueError, match="arithmetic_budget"):
        quantize(model(), spec(), budget=0.1, arithmetic_budget=0.2)
    with pytest.raises(ValueError, match="max_width is 6"):
        quantize_lattice(lattice(), budget=0.25, arithmetic_budget=0.01, max_width=6)


def test_tables_with_holes_are_refused_by_index():
    found = lattice()
    nodes = fit_nodes(found.depth, spec(), SAMPLES, False)
    nodes[1, 2, 3, 0] = np.nan
    with pytest.raises(ValueError, match=r"depth\[1, 2, 3, 0\] is not finite"):
        choose_format(spec(), nodes, None, 0.01)


def test_jumping_quotes_need_a_skew_axis():
    found = dataclasses.replace(
        lattice(), per_cell=1, depth=lattice().depth[:, ::4, ::4], slope=lattice().slope[:, ::4, ::4]
    )
    with pytest.raises(ValueError, match='skew = "axis"'):
        quantize_lattice(found, budget=4.0, arithmetic_budget=0.01)


def test_every_operation_is_proved_to_fit_32_bits():
    form = quantized().form
    assert max(operation.bits for operation in form.operations) <= 32
    assert len({operation.name for operation in form.operations}) == len(form.operations)
    wide = dataclasses.replace(form, depth=FixedFormat(True, 18, 12))
    with pytest.raises(ValueError, match="a multiplier 18"):
        audit(wide, np.zeros(1), np.zeros(1))


def test_the_same_bytes_in_every_precision():
    """Behind the solver everything is host arithmetic."""
    found = [jax.enable_x64(flag) for flag in (True, False)]
    tables = []
    for context in found:
        with context:
            tables.append(quantize_lattice(lattice(), budget=0.25, arithmetic_budget=0.002))
    assert tables[0].form == tables[1].form
    np.testing.assert_array_equal(tables[0].table, tables[1].table)
    assert tables[0].table.dtype == np.int32


def test_errors_beyond_the_bound_are_a_bug_that_is_reported():
    spoiled = dataclasses.replace(quantized(), table=quantized().table + 200)
    with pytest.raises(ValueError, match="the bound or the solver is wrong"):
        observe_error(model(), spoiled, n_states=20)


@pytest.mark.thorough
def test_a_curve_of_boosted_trees_is_tabulated_with_more_axes():
    """Trees deliver a curve; its kernel has a skew axis, and its error is measured."""
    from mfamm_jax.fpga_export import solve_lattice
    from mfamm_jax.models.boosted_trees import depth_table, from_json

    splits = [
        {"depth": d, "left": low, "right": high}
        for d, low, high in ((1.0, 0.3, -0.2), (3.0, 0.4, -0.5), (6.0, 0.2, -0.9))
    ]
    trees = [
        {
            "left_children": [1, -1, -1],
            "right_children": [2, -1, -1],
            "parents": [2147483647, 0, 0],
            "split_indices": [0, 0, 0],
            "split_conditions": [s["depth"], s["left"], s["right"]],
            "split_type": [0, 0, 0],
            "default_left": [0, 0, 0],
            "categories": [],
            "base_weights": [0.0, s["left"], s["right"]],
            "tree_param": {"num_nodes": "3", "size_leaf_vector": "1"},
        }
        for s in splits
    ]
    booster = {
        "learner": {
            "feature_names": ["depth"],
            "feature_types": ["float"],
            "gradient_booster": {"name": "gbtree", "model": {"trees": trees, "tree_info": [0] * 3}},
            "learner_model_param": {"base_score": "8E-1", "num_class": "0", "num_feature": "1", "num_target": "1"},
            "objective": {"name": "count:poisson"},
        },
        "version": [3, 2, 0],
    }
    fitted = from_json(booster)
    curve = depth_table(fitted, jnp.zeros(1), 0.5 + jnp.arange(10.0))
    assert float(curve.intensities[0]) > float(curve.intensities[-1]) > 0
    ours = model(type(curve)(curve.depths * 0.01, curve.intensities))
    axes = spec(skew_axis=True)
    table = quantize_lattice(solve_lattice(ours, axes), budget=6.0, arithmetic_budget=0.01, least_squares=False)
    seen = observe_error(ours, table, n_states=60)
    assert 0 < seen.mean < 0.5
    assert seen.largest <= table.bound.total
