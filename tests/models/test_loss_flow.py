import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.models import student_t
from mfamm_jax.models.joint_loss_flow import first_joint_flow
from mfamm_jax.models.loss_flow import LossFlow, conditional_flow, first_flow
from mfamm_jax.models.spline import Spline, spline_forward, spline_inverse
from mfamm_jax.risk.cvar import quadrature_tail_risk

from ..checks import assert_close, assert_jit_vmap_loop_agree, check_grads


def shaken(tree, size=0.5, seed=0):
    """Every number moved at random."""
    numbers, rebuild = jax.flatten_util.ravel_pytree(tree)
    return rebuild(numbers + size * jax.random.normal(jax.random.key(seed), numbers.shape, numbers.dtype))


def flow(n_layers=2):
    losses = student_t.sample(jax.random.key(3), jnp.asarray(4.0), 500)
    return shaken(first_flow(losses, n_layers=n_layers))


@pytest.mark.thorough
def test_splines_invert_rise_and_are_the_identity_outside(precision):
    spline = shaken(Spline(jnp.zeros(8), jnp.zeros(8), jnp.zeros(7), 3.0), 1.0)
    x = jnp.linspace(-4.0, 4.0, 401)
    y, slope = spline_forward(x, spline.bins, 3.0)
    back, back_slope = spline_inverse(y, spline.bins, 3.0)
    assert_close(back, x, 1e-10, 2e-4)
    assert_close(slope + back_slope, 0.0, 1e-9, 2e-3)
    assert (jnp.diff(y) > 0).all()
    np.testing.assert_array_equal(y[jnp.abs(x) >= 3], x[jnp.abs(x) >= 3])
    # Knots are met from both sides with one slope.
    knots = spline.bins[1:, 0]
    around = [spline_forward(knots + e, spline.bins, 3.0)[1] for e in (-1e-8, 1e-8)]
    assert_close(around[0], around[1], 1e-5, 1e-2)
    zero = Spline(jnp.zeros(8), jnp.zeros(8), jnp.zeros(7), 3.0)
    assert_close(spline_forward(x, zero.bins, 3.0)[0], x, 1e-12, 1e-5)


@pytest.mark.thorough
def test_slopes_are_derivatives():
    spline = shaken(Spline(jnp.zeros(6), jnp.zeros(6), jnp.zeros(5), 2.0), 1.0)
    for x in (-2.5, -1.3, 0.2, 1.9):
        value, slope = jax.value_and_grad(lambda x: spline_forward(x, spline.bins, 2.0)[0])(jnp.asarray(x))
        assert_close(jnp.exp(spline_forward(jnp.asarray(x), spline.bins, 2.0)[1]), slope, 1e-12)
        assert_close(jnp.exp(spline_inverse(value, spline.bins, 2.0)[1]), 1 / slope, 1e-10)


@pytest.mark.thorough
def test_a_flow_is_a_law():
    """Its density integrates to 1, its survival is the integral, quantiles invert it, samples follow it."""
    law = flow()
    edges = law.survival_quantile(jnp.asarray([1 - 1e-5, 1e-5]))
    x = jnp.linspace(*edges, 200_001)
    density = jnp.exp(law.log_density(x))
    # What lies outside is 2e-5; the trapezium rule errs by 1e-6 where splines meet.
    assert_close(jnp.trapezoid(density, x), 1 - 2e-5, 3e-6)
    assert_close(jnp.trapezoid(density[100_000:], x[100_000:]) + 1e-5, jnp.exp(law.log_survival(x[100_000])), 3e-6)
    p = jnp.asarray([1e-6, 0.01, 0.3, 0.9])
    assert_close(jnp.exp(law.log_survival(law.survival_quantile(p))), p, 1e-9)
    drawn = law.sample(jax.random.key(5), 40_000)
    for level in (0.1, 0.5, 0.9):
        share = float(jnp.mean(drawn > law.survival_quantile(jnp.asarray(1 - level))))
        assert abs(share - (1 - level)) < 5 * np.sqrt(level * (1 - level) / 40_000)


@pytest.mark.thorough
def test_without_layers_moved_it_is_students_t():
    losses = 2.0 + 3.0 * student_t.sample(jax.random.key(0), jnp.asarray(5.0), 20_001)
    law = first_flow(losses)
    assert_close(law.degrees_of_freedom, 5.0, 1e-9)
    z = (losses - law.location) / jnp.exp(law.log_scale)
    assert_close(law.log_density(losses), student_t.log_density(z, jnp.asarray(5.0)) - law.log_scale, 1e-9)
    assert abs(float(law.location) - 2.0) < 0.15
    assert abs(float(jnp.exp(law.log_scale)) - 3.0) < 0.15


@pytest.mark.slow
def test_gradients_and_jit_vmap_loop():
    law, x = flow(), jnp.asarray([-3.0, 0.1, 7.0])
    numbers, rebuild = jax.flatten_util.ravel_pytree(law)
    check_grads(
        jax.jit(lambda p: rebuild(p).log_density(x)), (numbers,), order=1, modes=["fwd", "rev"], rtol=1e-5, atol=1e-6
    )

    @jax.jit
    def risk(p):
        return quadrature_tail_risk(rebuild(p).survival_quantile, 0.97).cvar

    check_grads(risk, (numbers,), order=1, modes=["fwd", "rev"], rtol=1e-5, atol=1e-6)
    many = jnp.stack([numbers, numbers + 0.1, numbers - 0.2])
    assert_jit_vmap_loop_agree(lambda p: (rebuild(p).log_density(x), risk(p)), many)


@pytest.mark.thorough
def test_single_precision_agrees_with_double():
    law, x = flow(), jnp.asarray([-3.0, 0.1, 7.0])
    expected = law.log_density(x), quadrature_tail_risk(law.survival_quantile, 0.99).cvar
    with jax.enable_x64(False):
        single = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float32), law)
        found = (
            single.log_density(jnp.asarray([-3.0, 0.1, 7.0])),
            quadrature_tail_risk(single.survival_quantile, 0.99).cvar,
        )
    assert_close(found[0], expected[0], float32=1e-4)
    assert_close(found[1], expected[1], float32=1e-4)


@pytest.mark.thorough
def test_a_silent_network_changes_nothing_and_a_loud_one_moves_the_law():
    base = flow(1)
    covariates = jax.random.normal(jax.random.key(0), (50, 2))
    conditional = conditional_flow(base, covariates, jax.random.key(1))
    assert_close(
        jax.flatten_util.ravel_pytree(conditional.at(covariates[3]))[0], jax.flatten_util.ravel_pytree(base)[0], 1e-15
    )
    loud = shaken(conditional, 0.1)
    densities = loud.log_density(jnp.ones(50), covariates)
    assert_close(densities[7], loud.at(covariates[7]).log_density(jnp.asarray(1.0)), 1e-12)
    assert float(jnp.std(densities)) > 0.01
    assert isinstance(loud.at(covariates[0]), LossFlow)


def joint(d=3):
    rows = jax.random.normal(jax.random.key(2), (300, d)) @ jnp.tril(0.3 + jnp.eye(d)) / jnp.sqrt(0.7)
    return shaken(first_joint_flow(rows, jax.random.key(4), n_layers=3, n_bins=4), 0.2)


@pytest.mark.thorough
@pytest.mark.parametrize("d", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_joint_flow_inverts_and_its_density_is_that_of_the_jacobian(d):
    law = joint(d)
    z = jax.random.normal(jax.random.key(9), (d,)) * 1.5
    loss = law._from_base(z)
    back, log_slope = law._to_base(loss)
    assert_close(back, z, 1e-9)
    determinant = jnp.linalg.slogdet(jax.jacfwd(law._from_base)(z))[1]
    assert_close(log_slope, -determinant, 1e-8)


@pytest.mark.thorough
def test_a_joint_density_integrates_to_one_and_samples_follow_it():
    law = joint(2)
    drawn = law.sample(jax.random.key(0), 50_000)
    # Importance sampling of 1 with a wider law whose density is known: another joint flow.
    wide = first_joint_flow(3.0 * drawn, jax.random.key(1), degrees_of_freedom=2.0)
    points = wide.sample(jax.random.key(2), 50_000)
    weights = jnp.exp(law.log_density(points) - wide.log_density(points))
    assert abs(float(jnp.mean(weights)) - 1) < 5 * float(jnp.std(weights)) / np.sqrt(50_000)
    inside = drawn[:, 0] + drawn[:, 1] > 1.0
    weighted = weights * (points[:, 0] + points[:, 1] > 1.0)
    error = float(jnp.std(weighted)) / np.sqrt(50_000)
    assert abs(float(jnp.mean(inside)) - float(jnp.mean(weighted))) < 5 * error + 0.01


@pytest.mark.thorough
def test_what_has_no_density_is_said():
    with pytest.raises(ValueError, match=r"loss 2 is nan, expected finite numbers"):
        first_flow(jnp.asarray([1.0, jnp.nan, 2.0]))
    with pytest.raises(ValueError, match="half of the losses are 1"):
        first_flow(jnp.ones(20))
    with pytest.raises(ValueError, match="1 losses, expected at least 2"):
        first_flow(jnp.ones(1))
    rows = jax.random.normal(jax.random.key(0), (100, 2))
    with pytest.raises(ValueError, match="singular"):
        first_joint_flow(jnp.concatenate([rows, rows[:, :1]], axis=1), jax.random.key(0))
    with pytest.raises(ValueError, match="d >= 2"):
        first_joint_flow(rows[:, :1], jax.random.key(0))
    with pytest.raises(ValueError, match="column 2: half of its losses are the same"):
        first_joint_flow(rows.at[:, 1].set(0.0), jax.random.key(0))
