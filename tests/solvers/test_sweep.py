"""The sweep entry: every row is what it would be alone."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models import ExponentialIntensity, LogisticIntensity
from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.hjb import Grid, HanWong, HJBProblem, solve_hjb, solve_sweep

from .cases import symmetric

solve = eqx.filter_jit(solve_hjb)


def mixed_rows():
    """Mild, stiff, long, limited without effect, limited, unequal decays."""
    real = lambda *x: jnp.array(x, dtype=jnp.result_type(float))  # noqa: E731
    bid = ExponentialIntensity(real(1.0, 1.3, 0.8, 1.0, 1.0, 0.9), real(1.5, 1.5, 1.2, 1.5, 1.5, 1.4))
    ask = ExponentialIntensity(real(1.0, 0.9, 0.8, 1.0, 1.0, 1.1), real(1.5, 1.5, 1.2, 1.5, 1.5, 1.6))
    return HJBProblem(
        bid,
        ask,
        inventory_penalty=real(0.01, 0.6, 0.01, 0.01, 0.05, 0.02),
        horizon=real(5.0, 8.0, 900.0, 5.0, 6.0, 5.0),
        drift=0.01,
        min_depth=real(-np.inf, -np.inf, -np.inf, -5.0, 0.4, -np.inf),
    )


@pytest.mark.thorough
def test_every_row_is_what_it_would_be_alone(precision):
    rows, grid = mixed_rows(), Grid(6, 2)
    solution, said = solve_sweep(rows, grid, chunk_rows=4)
    assert (np.asarray(jax.tree.leaves(solution.result)[0]) == 0).all()
    assert sum(int(line.split()[0]) for line in said) == 7  # the limited row is solved twice
    assert any("Runge-Kutta" in line for line in said)
    assert solution.stats["clamp_activity"][4] > 0
    assert (solution.stats["clamp_activity"][np.array([0, 1, 2, 3, 5])] == 0).all()
    rtol = 1e-7 if precision == "float64" else 1e-5
    every = jax.tree.map(lambda x: jnp.broadcast_to(x, (6,)), rows)
    for i in range(6):
        alone = solve(jax.tree.map(lambda x, i=i: x[i], every), HanWong(rtol), grid).value
        difference = np.diff(np.asarray(alone.relative_value), axis=1) - np.diff(
            solution.value.relative_value[..., i], axis=1
        )
        # RK4 at 0.4 fills per step is the coarsest of the schemes.
        assert np.abs(difference).max() < (1e-5 if precision == "float64" else 1e-4)
        np.testing.assert_allclose(solution.value.offset[:, i], alone.offset, rtol=2e-5, atol=1e-4)
        np.testing.assert_allclose(solution.value.time_left[:, i], alone.time_left, rtol=1e-6)


@pytest.mark.slow
def test_a_row_does_not_depend_on_its_company():
    rows, grid = mixed_rows(), Grid(4)
    together = solve_sweep(rows, grid, chunk_rows=4)[0]
    every = jax.tree.map(lambda x: jnp.broadcast_to(x, (6,)), rows)
    for part in (slice(0, 3), slice(3, 6)):
        apart = solve_sweep(jax.tree.map(lambda x, p=part: x[p], every), grid, chunk_rows=4)[0]
        np.testing.assert_allclose(apart.value.value, together.value.value[..., part], rtol=1e-6, atol=1e-6)


@pytest.mark.thorough
def test_a_broken_row_says_so_and_harms_no_other():
    rows, grid = mixed_rows(), Grid(4)
    sound = solve_sweep(rows, grid)[0]
    broken = eqx.tree_at(lambda p: p.inventory_penalty, rows, rows.inventory_penalty.at[1].set(jnp.nan))
    found = solve_sweep(broken, grid)[0]
    others = np.array([0, 2, 3, 4, 5])
    np.testing.assert_allclose(found.value.value[..., others], sound.value.value[..., others], rtol=1e-9)
    assert np.isnan(found.value.value[..., 1]).all()
    codes = jax.tree.leaves(found.result)[0]
    assert codes[1] == jax.tree.leaves(RESULTS.nonfinite)[0]
    assert (codes[others] == 0).all()


@pytest.mark.slow
def test_other_fill_curves_and_wrong_shapes():
    side = LogisticIntensity(1.2, 0.3, 1.5)
    rows = HJBProblem(side, side, inventory_penalty=jnp.array([0.01, 0.05]), horizon=4.0)
    solution, said = solve_sweep(rows, Grid(3))
    assert "Han-Wong" in said[0]
    alone = solve(HJBProblem(side, side, 0.05, horizon=4.0), HanWong(), Grid(3)).value
    np.testing.assert_allclose(solution.value.value[..., 1], alone.value, rtol=1e-9)
    with pytest.raises(ValueError, match="shape"):
        solve_sweep(symmetric(), Grid(3))
    with pytest.raises(ValueError, match="finite"):
        solve_sweep(eqx.tree_at(lambda p: p.drift, rows, jnp.asarray(jnp.nan)), Grid(3))
