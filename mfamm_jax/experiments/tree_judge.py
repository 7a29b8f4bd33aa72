"""The pure part of experiment `intensity_trees`: trees against the log-linear rate out of sample, feature effects, quotes."""

from math import ceil
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mfamm_jax.experiments.quoting_run import HostReport
from mfamm_jax.models import BoostedTrees, TabulatedIntensity, depth_table
from mfamm_jax.models.boosted_trees import at_depths, surrogate_error
from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.hjb import (
    AbstractScheme,
    ExplicitRK,
    Grid,
    HJBProblem,
    choose_scheme,
    optimal_depths,
    rulebook_penalty,
    solve_hjb,
)
from mfamm_jax.solvers.likelihood import fit_poisson

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
EVERY = 20  # rows of the last block skipped to the next one on which the surrogate is compared
STEPS_PER_FILL, MOST_STEPS = 2.5, 20_000  # of the explicit scheme
MODELS = ("trees", "log-linear", "soft trees")
GAINS = {
    "trees over log-linear": ("trees", "log-linear"),
    "trees over depth alone": ("trees", "depth alone"),
    "log-linear over depth alone": ("log-linear", "depth alone"),
}
Arrays = dict[str, Any]


class LogLinear(eqx.Module):
    """The rival: (3) with the same features.

    Args:
        coefficients: Intercept, depth, then the state.
    """

    coefficients: Float[Array, " coefficient"]

    def log_rate(self, features: Float[Array, "*batch feature"]) -> Float[Array, "*batch"]:
        """Logarithm of the fill rate."""
        return self.coefficients[0] + features @ self.coefficients[1:]


class LastBlock(eqx.Module):
    """Rows that no model has seen.

    Args:
        state: Covariates of each interval.
        exposure: Its length [s].
        count: Orders that reach each depth.
        cluster: Number of the interval's stretch of time.
    """

    state: Float[Array, "row state"]
    exposure: Float[Array, " row"]
    count: Float[Array, "row depth"]
    cluster: Int[Array, " row"]


class SideModel(eqx.Module):
    """One side: both models, and what they are judged on.

    Args:
        trees: Boosted trees.
        linear: Log-linear rate.
        profile: Mean rate at each depth: what depth alone tells.
        last: Rows of the last block.
    """

    trees: BoostedTrees
    linear: LogLinear
    profile: Float[Array, " depth"]
    last: LastBlock


class Prepared(eqx.Module):
    """Arrays of the run that no swept parameter changes.

    Args:
        bid, ask: Models.
        depths: Depths of the fit, which are the depths that may be quoted: between them the trees know nothing [price].
        reference: Features of the median moment of the fit block; feature 0 is free.
        quantiles: Of each covariate in the fit block.
        softness: Widths of the soft thresholds; 0 for the depth and whatever else is discrete.
        volatility: Median of the fit block [price/sqrt(s)].
        n_clusters: Stretches of the last block.
        report: What the report shows about the data; host objects, static.
    """

    bid: SideModel
    ask: SideModel
    depths: Float[Array, " depth"]
    reference: Float[Array, " feature"]
    quantiles: Float[Array, "state quantile"]
    softness: Float[Array, " feature"]
    volatility: Float[Array, ""]
    n_clusters: int = eqx.field(static=True)
    report: HostReport = eqx.field(static=True)


def judge_stage(experiment: Any, prepared: Prepared, results: Arrays, key: Array) -> Arrays:
    """Log-likelihood per fill on the last block, and expected against observed fills at each depth."""
    return {"judge": {side: _judge(getattr(prepared, side), prepared) for side in ("bid", "ask")}}


def _judge(side: SideModel, prepared: Prepared) -> Arrays:
    last = side.last
    front = jnp.zeros((last.state.shape[0], 1), last.state.dtype)
    features = at_depths(jnp.concatenate([front, last.state], axis=1), prepared.depths)  # depth, row, feature
    count, exposure = last.count.T, last.exposure
    log_rates = {
        "trees": side.trees.log_rate(features),
        "log-linear": side.linear.log_rate(features),
        "depth alone": jnp.broadcast_to(jnp.log(side.profile)[:, None], count.shape),
    }
    likelihood = {name: count * rate - exposure * jnp.exp(rate) for name, rate in log_rates.items()}  # (11)
    n_fills = _by_cluster(jnp.sum(count, axis=0), last, prepared)
    gains = {}
    for name, (one, other) in GAINS.items():
        difference = jnp.sum(likelihood[one] - likelihood[other], axis=0)
        gains[name] = _ratio(_by_cluster(difference, last, prepared), n_fills)
    return {
        "gains": gains,
        "fills": jnp.sum(count, axis=1),
        "expected": {name: jnp.exp(rate) @ exposure for name, rate in log_rates.items()},
        "seconds": jnp.sum(exposure),
        "likelihood": {name: jnp.sum(value, axis=1) for name, value in likelihood.items()},
        "clusters": jnp.sum(_by_cluster(exposure, last, prepared) > 0),
    }


def _by_cluster(values: Float[Array, " row"], last: LastBlock, prepared: Prepared) -> Float[Array, " cluster"]:
    return jax.ops.segment_sum(values, last.cluster, prepared.n_clusters)


def _ratio(total: Float[Array, " cluster"], size: Float[Array, " cluster"]) -> Arrays:
    """Sum over sum, with the standard error of a ratio over clusters that may depend inside in any way."""
    mean = jnp.sum(total) / jnp.sum(size)
    n = total.shape[0]
    error = jnp.sqrt(n / (n - 1) * jnp.sum((total - mean * size) ** 2)) / jnp.sum(size)
    return {"mean": mean, "error": error}


def effect_stage(experiment: Any, prepared: Prepared, results: Arrays, key: Array) -> Arrays:
    """Fill rate against depth with one covariate at each of its quantiles, the others at their median."""
    n_states, n_quantiles = prepared.quantiles.shape
    states = jnp.broadcast_to(prepared.reference, (n_states, n_quantiles, prepared.reference.shape[0]))
    which = jnp.arange(n_states)
    states = states.at[which, :, 1 + which].set(prepared.quantiles)
    features = at_depths(states, prepared.depths)
    out: Arrays = {"depths": prepared.depths, "quantiles": prepared.quantiles}
    for name in ("bid", "ask"):
        side = getattr(prepared, name)
        out[name] = {
            "trees": jnp.exp(side.trees.log_rate(features)),
            "log-linear": jnp.exp(side.linear.log_rate(features)),
        }
    return {"effect": out}


def surrogate_stage(experiment: Any, prepared: Prepared, results: Arrays, key: Array) -> Arrays:
    """What a differentiable stand-in costs: soft thresholds over the last block, and one exponential for the reference table."""
    out: Arrays = {}
    for name in ("bid", "ask"):
        side = getattr(prepared, name)
        some = side.last.state[::EVERY]
        front = jnp.zeros((some.shape[0], 1), some.dtype)
        features = at_depths(jnp.concatenate([front, some], axis=1), prepared.depths)
        table = depth_table(side.trees, prepared.reference, prepared.depths)
        design = jnp.stack([jnp.ones_like(prepared.depths), -prepared.depths], axis=1)
        # Expected fills in equal times at every node, as if they had been observed.
        fit = fit_poisson(design, table.intensities, jnp.ones_like(prepared.depths)).value.coefficients
        difference = design @ fit - jnp.log(table.intensities)
        exponential = {
            "mean": jnp.mean(difference),
            "rms": jnp.sqrt(jnp.mean(difference**2)),
            "largest": jnp.max(jnp.abs(difference)),
        }
        out[name] = {
            "soft trees": surrogate_error(side.trees, features, prepared.softness),
            "exponential": exponential,
            "scale": jnp.exp(fit[0]),
            "decay": fit[1],
        }
    return {"surrogate": out}


def intensities(prepared: Prepared, side: SideModel) -> TabulatedIntensity:
    """Fill curves of `MODELS` in the reference state, stacked along axis 0."""
    depths, reference = prepared.depths, prepared.reference
    linear = TabulatedIntensity(depths, jnp.exp(side.linear.log_rate(at_depths(reference, depths))))
    soft = depth_table(side.trees, reference, depths, prepared.softness)
    return jax.tree.map(lambda *x: jnp.stack(x), depth_table(side.trees, reference, depths), linear, soft)


def control_problem(control: Any, prepared: Prepared, bid: TabulatedIntensity, ask: TabulatedIntensity) -> HJBProblem:
    """(8)-(10) with these fill curves."""
    return HJBProblem(
        bid=bid,
        ask=ask,
        inventory_penalty=rulebook_penalty(control.risk_aversion, prepared.volatility),
        terminal_penalty=control.terminal_penalty,
        horizon=control.horizon,
        bid_adverse_selection=control.adverse_selection,
        ask_adverse_selection=control.adverse_selection,
        fill_risk_aversion=control.fill_risk_aversion,
        may_withdraw=True,
    )


def table_scheme(horizon: Any, prepared: Prepared, problem: HJBProblem, grid: Grid) -> tuple[AbstractScheme, str]:
    """Explicit steps while they are few: no quote is filled faster than the first node of its table."""
    fastest = sum(float(jnp.max(intensities(prepared, side).intensities)) for side in (prepared.bid, prepared.ask))
    steps = max(ceil(float(jnp.max(horizon)) * fastest * STEPS_PER_FILL), 16)
    if steps > MOST_STEPS:
        return choose_scheme(problem, grid)
    return ExplicitRK(steps), f"explicit Runge-Kutta, {steps} steps: at most {fastest:.3g} fills per second"


def solve_stage(plan: Any, experiment: Any, prepared: Prepared, results: Arrays, key: Array) -> Arrays:
    """Quotes of `MODELS` in the reference state; axis 0 is the model."""
    scheme, grid = plan

    def quotes(bid: TabulatedIntensity, ask: TabulatedIntensity) -> Arrays:
        problem = control_problem(experiment.control, prepared, bid, ask)
        solution = solve_hjb(problem, scheme, grid)
        bid_depth, ask_depth = optimal_depths(problem, solution.value.relative_value[-1])
        return {
            "value": solution.value.initial_value,
            "bid_depth": bid_depth,
            "ask_depth": ask_depth,
            "ok": solution.result == RESULTS.successful,
        }

    tables = intensities(prepared, prepared.bid), intensities(prepared, prepared.ask)
    return {"control": {"inventory": grid.inventory, **jax.vmap(quotes)(*tables)}}
