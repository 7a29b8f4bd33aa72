import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.stats import wasserstein_distance

from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.transport import (
    gaussian_transport,
    solve_transport,
    symmetric_power,
    transport_on_a_line,
    with_slack,
)

from ..checks import assert_close, assert_jit_vmap_loop_agree


def problem(n=5, m=7, seed=0):
    rng = np.random.default_rng(seed)
    source, sink = rng.random(n) + 0.2, rng.random(m) + 0.2
    return jnp.asarray(rng.random((n, m))), jnp.asarray(source / source.sum()), jnp.asarray(sink / sink.sum())


solve = jax.jit(solve_transport, static_argnames=("plan_gradient", "max_iterations"))


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("regularization", [0.02, 0.3, 10.0])
def test_marginals_hold_and_three_values_belong_together(regularization, precision):
    with jax.enable_x64(precision == "float64"):
        cost, source, sink = (x.astype(jnp.result_type(float)) for x in problem())
        solution = solve(cost, source, sink, regularization)
        assert solution.result == RESULTS.successful
        found, plan = solution.value, np.asarray(solution.value.plan, float)
        assert_close(jnp.sum(found.plan, axis=1), source, 1e-12, 1e-5)
        assert_close(jnp.sum(found.plan, axis=0), sink, 1e-12, 1e-5)
        product = np.outer(source, sink)
        divergence = regularization * np.sum(plan * np.log(plan / product))
        assert_close(found.linear_cost, np.sum(plan * np.asarray(cost)), 1e-10, 1e-5)
        assert_close(found.value, np.sum(plan * np.asarray(cost)) + divergence, 1e-10, 1e-5)
        entropy = regularization * np.sum(plan * np.log(plan))
        assert_close(found.entropy_form_value, np.sum(plan * np.asarray(cost)) + entropy, 1e-10, 1e-4)
        assert_close(jnp.sum(sink * found.sink_potential), 0.0, 1e-12, 1e-5)


def test_the_limits_are_the_linear_programme_and_the_product():
    cost, source, sink = problem()
    n, m = cost.shape
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    exact = linprog(np.ravel(cost), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([source, sink])).fun
    sharp = solve(cost, source, sink, 1e-3)
    assert abs(float(sharp.value.linear_cost) - exact) < 1e-3 * np.log(n * m)
    assert float(sharp.value.linear_cost) >= exact - 1e-12
    assert_close(solve(cost, source, sink, 1e6).value.plan, np.outer(source, sink), 1e-6)
    values = [float(solve(cost, source, sink, x).value.value) for x in (0.01, 0.1, 1.0, 10.0)]
    assert values == sorted(values)


@pytest.mark.thorough
def test_derivatives_of_the_value_are_the_plan_and_the_potentials():
    cost, source, sink = problem()

    def value(cost, source, sink, regularization):
        return solve(cost, source, sink, regularization).value.value

    arguments = cost, source, sink, jnp.asarray(0.1)
    slopes = jax.grad(value, argnums=(0, 1, 2, 3))(*arguments)
    found = solve(*arguments).value
    assert_close(slopes[0], found.plan, 1e-10)
    assert_close(slopes[1] - slopes[1].mean(), found.source_potential - found.source_potential.mean(), 1e-9)
    assert_close(slopes[2] - slopes[2].mean(), found.sink_potential - found.sink_potential.mean(), 1e-9)
    rng, step = np.random.default_rng(3), 1e-6
    for i, size in enumerate([(5, 7), (5,), (7,), ()]):
        along = rng.standard_normal(size)
        along = jnp.asarray(along - along.mean() if 0 < i < 3 else along)  # the masses' sums stay equal
        up, down = ([a + s * step * along if j == i else a for j, a in enumerate(arguments)] for s in (1, -1))
        assert_close(jnp.sum(slopes[i] * along), (value(*up) - value(*down)) / (2 * step), 1e-6)


@pytest.mark.thorough
def test_derivatives_of_the_plan_are_those_of_finite_differences():
    cost, source, sink = problem(4, 3)
    weights = jnp.asarray(np.random.default_rng(1).standard_normal((4, 3)))

    def through(cost, source, sink, regularization):
        found = solve(cost, source, sink, regularization, plan_gradient=True).value
        return jnp.sum(weights * found.plan) + 0.3 * found.sink_potential[0] + 0.2 * found.linear_cost

    arguments = cost, source, sink, jnp.asarray(0.2)
    slopes, step = jax.grad(through, argnums=(0, 1, 2, 3))(*arguments), 1e-5
    rng = np.random.default_rng(3)
    for i, size in enumerate([(4, 3), (4,), (3,), ()]):
        along = rng.standard_normal(size)
        along = jnp.asarray(along - along.mean() if 0 < i < 3 else along)
        up, down = ([a + s * step * along if j == i else a for j, a in enumerate(arguments)] for s in (1, -1))
        assert_close(jnp.sum(slopes[i] * along), (through(*up) - through(*down)) / (2 * step), 1e-6)
    plain = solve(*arguments).value
    assert_close(solve(*arguments, plan_gradient=True).value.plan, plain.plan, 1e-12)


def test_scaling_and_shifts():
    cost, source, sink = problem()
    found = solve(cost, source, sink, 0.1).value
    assert_close(solve(5 * cost, source, sink, 0.5).value.value, 5 * found.value, 1e-9)
    assert_close(solve(cost + 3.0, source, sink, 0.1).value.value, found.value + 3, 1e-10)
    rows = jnp.arange(5.0)[:, None]
    assert_close(solve(cost + rows, source, sink, 0.1).value.plan, found.plan, 1e-10)
    assert_close(solve(cost.T, sink, source, 0.1).value.plan, found.plan.T, 1e-10)


def test_slack_takes_what_does_not_fit():
    cost, source, sink = problem()
    less = 0.6 * sink
    wide, source, masses = with_slack(cost, source, less, 2.0)
    found = solve(wide, source, masses, 0.01).value
    assert_close(jnp.sum(found.plan[:, :-1], axis=0), less, 1e-10)
    assert_close(jnp.sum(found.plan[:, -1]), 0.4, 1e-10)
    with pytest.raises(ValueError, match="swap them, or drop capacity"):
        with_slack(cost, source, 2 * sink, 1.0)


@pytest.mark.thorough
def test_lines_and_normal_laws():
    rng = np.random.default_rng(2)
    x, y, a, b = rng.standard_normal(9), rng.standard_normal(6), rng.random(9), rng.random(6)
    got = transport_on_a_line(*(jnp.asarray(v) for v in (x, y, a, b)))
    assert_close(got, wasserstein_distance(x, y, a, b), 1e-12)
    means = [jnp.asarray(rng.standard_normal(3)) for _ in range(2)]
    halves = [rng.standard_normal((3, 3)) for _ in range(2)]
    laws = [jnp.asarray(h @ h.T + 0.1 * np.eye(3)) for h in halves]
    close, far = (gaussian_transport(means[0], laws[0], means[1], laws[1], r) for r in (1e-7, 1e7))
    bures = gaussian_transport(means[0], laws[0], means[1], laws[1], 0.0)
    assert abs(float(close - bures)) < 1e-5
    assert_close(far, jnp.sum((means[0] - means[1]) ** 2) + jnp.trace(laws[0]) + jnp.trace(laws[1]), 1e-5)
    assert_close(gaussian_transport(means[0], laws[0], means[0], laws[0], 0.0), 0.0, 1e-9)
    root = symmetric_power(laws[0], 0.5)
    assert_close(root @ root, laws[0], 1e-10)
    slope = jax.grad(lambda r: gaussian_transport(means[0], laws[0], means[1], laws[1], r))
    assert np.isfinite(slope(0.0))


@pytest.mark.thorough
def test_jit_vmap_and_loop_agree():
    problems = [problem(seed=s) for s in range(4)]
    batch = [jnp.stack(x) for x in zip(*problems)]
    assert_jit_vmap_loop_agree(lambda c, s, t: solve(c, s, t, 0.1).value.plan, *batch, float64=1e-10)


def test_what_cannot_be_solved_is_said():
    cost, source, sink = problem()
    for arguments, text in (
        ((cost.at[1, 2].set(jnp.nan), source, sink, 0.1), r"cost\[1, 2\] is nan"),
        ((cost, source.at[0].set(-0.1), sink, 0.1), "expected masses > 0"),
        ((cost, 2 * source, sink, 0.1), "expected equal sums: use with_slack or a sink_penalty"),
        ((cost, source, sink, 0.0), "regularization is 0"),
        ((*(x.astype(jnp.float32) for x in (cost, source, sink)), 1e-5), "float32 cannot resolve it"),
    ):
        with pytest.raises(ValueError, match=text):
            solve_transport(*arguments)
    short = solve(cost, source, sink, 1e-4, max_iterations=10)
    assert short.result == RESULTS.not_converged
    assert float(short.stats["marginal_error"]) > 1e-13


def relative_entropy(p, q):
    return jnp.sum(p * jnp.log(p / q) - p + q)


def price(plan, cost, source, sink, scale, source_penalty, sink_penalty):
    """The problem as it is stated, for any plan."""
    total = jnp.sum(plan * cost) + scale * relative_entropy(plan, source[:, None] * sink[None, :])
    for penalty, axis, mass in ((source_penalty, 1, source), (sink_penalty, 0, sink)):
        if np.isfinite(penalty):
            total += penalty * relative_entropy(jnp.sum(plan, axis=axis), mass)
    return total


@pytest.mark.thorough
@pytest.mark.parametrize("penalties", [(0.5, 2.0), (jnp.inf, 0.3), (0.2, jnp.inf)])
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_masses_that_give_have_the_least_price(penalties, precision):
    with jax.enable_x64(precision == "float64"):
        cost, source, sink = (x.astype(jnp.result_type(float)) for x in problem())
        sink = 0.7 * sink
        solution = solve(cost, source, sink, 0.1, source_penalty=penalties[0], sink_penalty=penalties[1])
        assert solution.result == RESULTS.successful
        plan = solution.value.plan
        primal = price(plan, cost, source, sink, 0.1, *penalties)
        # The dual bounds the price of every plan from below: equality proves both.
        assert_close(solution.value.value, primal, 1e-11, 1e-5)
        for axis, mass, penalty in ((1, source, penalties[0]), (0, sink, penalties[1])):
            assert np.isfinite(penalty) or np.allclose(jnp.sum(plan, axis=axis), mass, atol=1e-5)
        if precision == "float64":
            slope = jax.grad(lambda x: price(x, cost, source, sink, 0.1, *penalties))(plan)
            fixed = not np.isfinite(penalties[0]), not np.isfinite(penalties[1])
            slope = slope - fixed[0] * slope.mean(1, keepdims=True) - fixed[1] * slope.mean(0, keepdims=True)
            assert_close(slope, 0.0, 1e-10)


def test_a_high_penalty_fixes_the_masses():
    cost, source, sink = problem()
    fixed, stiff = solve(cost, source, sink, 0.1), solve(cost, source, sink, 0.1, source_penalty=1e8, sink_penalty=1e8)
    assert_close(stiff.value.plan, fixed.value.plan, 1e-7)
    assert_close(stiff.value.value, fixed.value.value, 1e-7)


@pytest.mark.parametrize("penalties", [(jnp.inf, jnp.inf), (0.5, 2.0)])
@pytest.mark.slow
def test_second_derivatives_of_the_value_and_first_of_the_plan(penalties):
    cost, source, sink = problem(4, 3)

    def value(cost):
        given = {"source_penalty": penalties[0], "sink_penalty": penalties[1]}
        return solve(cost, source, sink, 0.2, plan_gradient=True, **given).value

    rng, step = np.random.default_rng(5), 1e-5
    along, across = (jnp.asarray(rng.standard_normal((4, 3))) for _ in range(2))
    slope = jax.grad(lambda c: value(c).value)
    assert_close(slope(cost), value(cost).plan, 1e-10)
    _, curved = jax.jvp(slope, (cost,), (along,))
    planned = (value(cost + step * along).plan - value(cost - step * along).plan) / (2 * step)
    assert_close(curved, planned, 1e-7)
    through = jax.grad(lambda c: jnp.sum(across * value(c).plan))(cost)
    assert_close(jnp.sum(through * along), jnp.sum(across * planned), 1e-7)


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_scalings_beyond_the_range_of_numbers_are_taken_in_logarithms(precision):
    """From potentials 200 lambda wrong, products with the kernel overflow or vanish."""
    with jax.enable_x64(precision == "float64"):
        cost, source, sink = (x.astype(jnp.result_type(float)) for x in problem())
        far = 200 * 0.05 * jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], 7), cost.dtype)
        for scale in (0.05, 0.002):
            far_off = solve(cost, source, sink, scale, start=far)
            near = solve(cost, source, sink, scale)
            assert far_off.result == RESULTS.successful
            assert_close(far_off.value.plan, near.value.plan, 1e-10, 2e-3)
            assert_close(far_off.value.value, near.value.value, 1e-11, 1e-5)


def test_bad_penalties_are_named():
    cost, source, sink = problem()
    with pytest.raises(ValueError, match="sink_penalty is -1, expected a number > 0"):
        solve_transport(cost, source, sink, 0.1, sink_penalty=-1.0)


@pytest.mark.thorough
def test_where_sinkhorn_crawls_newton_finishes():
    """Capacity that just suffices: the optimum's dual is nearly degenerate, and 100,000 iterations leave an error of 1e-11."""
    cost = jnp.concatenate([jnp.tile(jnp.asarray([0.0, 40.0]), 6)[None].repeat(4, axis=0), jnp.zeros((1, 12))])
    source, sink = jnp.asarray([0.125] * 4 + [0.5]), jnp.full(12, 1 / 12)
    solution = solve(cost, source, sink, 1.0)
    assert solution.result == RESULTS.successful
    assert int(solution.stats["iterations"]) <= 2000
    assert_close(jnp.sum(solution.value.plan, axis=1), source, 1e-13)
    assert_close(jnp.sum(solution.value.plan, axis=0), sink, 1e-13)
