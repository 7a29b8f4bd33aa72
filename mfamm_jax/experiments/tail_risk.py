"""Experiment `tail_risk`: value at risk and conditional value at risk of losses (18), by several estimators, judged on later losses."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.experiments.experiment import AbstractExperiment, ConfigError, Stage
from mfamm_jax.experiments.losses import known_before
from mfamm_jax.experiments.quoting_run import HostReport
from mfamm_jax.experiments.tail_risk_tables import tail_metrics
from mfamm_jax.fields import Checked, static_field
from mfamm_jax.market.events import DataError
from mfamm_jax.models import student_t
from mfamm_jax.models.loss_flow import ConditionalLossFlow, LossFlow
from mfamm_jax.results import RESULTS
from mfamm_jax.risk.backtest import acerbi_szekely, christoffersen, kupiec
from mfamm_jax.risk.cvar import (
    check_sample,
    cvar_standard_error,
    loss_tail_risk,
    quadrature_tail_risk,
    reweighted_tail_risk,
)
from mfamm_jax.solvers.flow_fit import fit_conditional_flow, fit_loss_flow

FORECASTERS = ("history", "moving normal", "flow", "conditional flow", "truth")
EWMA_MEMORY = 0.94
N_CURVE = 200


class Estimation(Checked):
    """What is estimated, and how finely."""

    tail_levels: tuple[float, ...] = static_field(
        default=(0.95, 0.99), source="(18) alpha", help="levels of the value at risk, rising"
    )
    share: float = static_field(default=0.5, lower=0.1, upper=0.9, help="of the losses that laws are fitted on")
    n_draws: int = static_field(default=100_000, lower=1000, help="of the flow, for the sampling estimators")
    n_null: int = static_field(default=500, lower=99, help="simulated samples for the tests of the shortfall")
    widening: float = static_field(
        default=1.5, lower=1.0, strict=True, upper=10.0, help="scale of the proposal whose draws are reweighted"
    )

    @property
    def levels(self) -> tuple[float, ...]:
        """Checked."""
        found = self.tail_levels
        if not found or not all(0 < x < 1 for x in found) or list(found) != sorted(set(found)):
            raise ConfigError(f"estimation.tail_levels is {list(found)}, expected rising numbers in (0, 1)")
        return found


class Prepared(eqx.Module):
    """Losses and what was known before them.

    Args:
        losses: In order of time.
        covariates: Of every row.
        scales: Of the true law; NaN = not known.
        report: Host facts; `n_fit` rows are fitted on.
    """

    losses: Float[Array, " row"]
    covariates: Float[Array, "row covariate"]
    scales: Float[Array, " row"]
    degrees_of_freedom: Float[Array, ""]
    report: HostReport = eqx.field(static=True)


class TailRisk(AbstractExperiment):
    """Tail risk of one series of losses.

    Args:
        losses: Where they come from.
        estimation: What is estimated.
    """

    losses: Checked
    estimation: Estimation

    @classmethod
    def prepared_paths(cls) -> tuple[str, ...]:
        """Tables used by `prepare`."""
        return ("losses", "estimation")

    def numbers_per_row(self) -> int:
        """Draws, and the laws of every row."""
        return 20 * self.estimation.n_draws

    def prepare(self, folder: Any, seed: int, say: Callable[[str], None], progress: Any = None) -> Prepared:
        """Loads the losses."""
        series = self.losses.load(seed)
        values, n_fit = series.values, int(series.values.size * self.estimation.share)
        if np.unique(values[:n_fit]).size < 20:
            raise DataError(
                f"{series.name}: {np.unique(values[:n_fit]).size} different losses, expected at least 20: constant losses have no law to fit"
            )
        for level in self.estimation.levels:
            try:
                check_sample(n_fit, level)
            except ValueError as error:
                raise DataError(f"{series.name}, estimation.tail_levels: {error}") from error
        say(f"{series.name}: {values.size:,} losses, laws fitted on the first {n_fit:,}")
        covariates, names = known_before(values)
        real = jnp.result_type(float)
        scales = np.full(values.size, np.nan) if series.scales is None else series.scales
        report = HostReport(
            name=series.name,
            n_fit=n_fit,
            covariates=names,
            source=series.source,
            is_constant=series.is_constant,
            known=series.scales is not None,
        )
        losses, known, scales = (jnp.asarray(x, real) for x in (values, covariates, scales))
        return Prepared(losses, known, scales, jnp.asarray(series.degrees_of_freedom, real), report)

    def plan(self, batch: Any, prepared: Any) -> tuple[tuple, str]:
        """Nothing to choose."""
        return (), "maximum likelihood by L-BFGS, quadrature of quantiles"

    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """Fit, estimate, forecast."""
        return [("fit", fit_stage), ("estimate", estimate_stage), ("forecast", forecast_stage)]

    def metrics(self, plan: Any, prepared: Any, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
        """Everything the report prints."""
        return tail_metrics(self, prepared.report, results, FORECASTERS)

    def row(self, plan: Any, prepared: Any, key: PRNGKeyArray) -> dict[str, Array]:
        """The flow's tail risk at the last level."""
        n = prepared.report["n_fit"]
        solution = fit_loss_flow(prepared.losses[:n])
        flow, level = solution.value, self.estimation.levels[-1]
        risk = quadrature_tail_risk(flow.survival_quantile, level)
        return {
            "value_at_risk": risk.value_at_risk,
            "cvar": risk.cvar,
            "empirical_cvar": loss_tail_risk(prepared.losses[:n], level).cvar,
            "degrees_of_freedom": flow.degrees_of_freedom,
            "ok": solution.result == RESULTS.successful,
        }

    def provenance(self, prepared: Any) -> dict[str, Any]:
        """Names the file, if any."""
        return {"losses": {"name": prepared.report["name"], "source": list(prepared.report["source"])}}


def fit_stage(experiment: Any, prepared: Any, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """Laws of the first part: one for all rows, and one that knows the covariates."""
    n = prepared.report["n_fit"]
    losses, covariates = prepared.losses[:n], prepared.covariates[:n]
    plain, moving = fit_loss_flow(losses), fit_conditional_flow(losses, covariates, key)
    later, known = prepared.losses[n:], prepared.covariates[n:]
    return {
        "fit": {
            "flow": plain.value,
            "conditional": moving.value,
            "solved": jnp.stack([x.result == RESULTS.successful for x in (plain, moving)]),
            "iterations": jnp.stack([x.stats["iterations"] for x in (plain, moving)]),
            "fitted_log_density": jnp.stack([x.stats["log_density"] for x in (plain, moving)]),
            "later_log_density": jnp.stack(
                [jnp.mean(plain.value.log_density(later)), jnp.mean(moving.value.log_density(later, known))]
            ),
        }
    }


def _standard_error(flow: LossFlow, losses: Float[Array, " n"], level: float) -> Float[Array, ""]:
    """Of the quadrature's CVaR, from the sample the flow was fitted to: delta method, information from the scores' outer product."""
    numbers, rebuild = jax.flatten_util.ravel_pytree(flow)
    scores = jax.vmap(jax.grad(lambda x, loss: rebuild(x).log_density(loss)), (None, 0))(numbers, losses)
    slope = jax.grad(lambda x: quadrature_tail_risk(rebuild(x).survival_quantile, level).cvar)(numbers)
    information = scores.T @ scores
    # Unit diagonal: what counts as no information must not depend on the losses' unit. Directions without any are left where the fit left them.
    size = jnp.sqrt(jnp.maximum(jnp.diag(information), jnp.finfo(losses.dtype).tiny))
    inverse = jnp.linalg.pinv(information / (size[:, None] * size), rtol=1e-6, hermitian=True)
    return jnp.sqrt((slope / size) @ inverse @ (slope / size))


def estimate_stage(experiment: Any, prepared: Any, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """Tail risk of the first part, by every estimator: value at risk, CVaR, standard error."""
    n, settings = prepared.report["n_fit"], experiment.estimation
    flow, losses = results["fit"]["flow"], prepared.losses[:n]
    drawn = flow.sample(jax.random.fold_in(key, 1), settings.n_draws)
    wide = eqx.tree_at(lambda f: f.log_scale, flow, flow.log_scale + np.log(settings.widening))
    proposed = wide.sample(jax.random.fold_in(key, 2), settings.n_draws)
    log_weights = flow.log_density(proposed) - wide.log_density(proposed)
    rows, sizes = [], []
    for level in settings.levels:
        sample, direct = loss_tail_risk(losses, level), loss_tail_risk(drawn, level)
        again, exact = (
            reweighted_tail_risk(proposed, log_weights, level),
            quadrature_tail_risk(flow.survival_quantile, level),
        )
        excess = jnp.maximum(proposed - again.value_at_risk, 0) / (1 - level)
        share = jax.nn.softmax(log_weights)
        again_error = jnp.sqrt(jnp.sum(share**2 * (excess - jnp.sum(share * excess)) ** 2))
        normal = jnp.mean(losses) + jnp.std(losses) * _normal_tail(level, losses.dtype)
        zero = jnp.zeros((), losses.dtype)
        rows.append(
            jnp.stack(
                [
                    jnp.stack([sample.value_at_risk, sample.cvar, cvar_standard_error(losses, level)]),
                    jnp.stack([exact.value_at_risk, exact.cvar, _standard_error(flow, losses, level)]),
                    jnp.stack([direct.value_at_risk, direct.cvar, cvar_standard_error(drawn, level)]),
                    jnp.stack([again.value_at_risk, again.cvar, again_error]),
                    jnp.stack([*normal, zero]),
                ]
            )
        )
        sizes.append(again.effective_size)
    x = jnp.quantile(losses, jnp.asarray(0.8, losses.dtype)) + jnp.linspace(0, 1, N_CURVE) ** 2 * (
        jnp.max(losses) - jnp.quantile(losses, jnp.asarray(0.8, losses.dtype))
    )
    return {
        "estimate": {
            "levels": jnp.asarray(settings.levels, losses.dtype),
            "risk": jnp.stack(rows),
            "effective_size": jnp.stack(sizes),
            "truth": _true_risk(prepared, settings.levels),
            "curve_loss": x,
            "curve_flow": jnp.exp(flow.log_survival(x)),
            "curve_normal": jax.scipy.special.ndtr(-(x - jnp.mean(losses)) / jnp.std(losses)),
            "sorted": jnp.sort(losses)[::-1][: n // 5],
        }
    }


def _normal_tail(level: float, dtype: Any) -> Float[Array, "2"]:
    """Value at risk and CVaR of a standard normal."""
    quantile = jax.scipy.special.ndtri(jnp.asarray(level, dtype))
    return jnp.stack([quantile, jax.scipy.stats.norm.pdf(quantile) / (1 - level)])


def _unit_risk(prepared: Any, levels: tuple[float, ...]) -> Float[Array, "level 2"]:
    """Of the true Student's t with scale 1."""
    risks = [
        quadrature_tail_risk(lambda p: student_t.survival_quantile(p, prepared.degrees_of_freedom), x) for x in levels
    ]
    return jnp.stack([jnp.stack([risk.value_at_risk, risk.cvar]) for risk in risks])


def _true_risk(prepared: Any, levels: tuple[float, ...]) -> Float[Array, "level 2"]:
    """NaN where not every row has one known law."""
    known = prepared.report["known"] and prepared.report["is_constant"]
    return (prepared.scales[0] if known else jnp.nan) * _unit_risk(prepared, levels)


def forecast_stage(experiment: Any, prepared: Any, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """Tail risk of every later row before it happened, and what the tests say of it."""
    n, settings = prepared.report["n_fit"], experiment.estimation
    flow, moving = results["fit"]["flow"], results["fit"]["conditional"]
    past, later, known = prepared.losses[:n], prepared.losses[n:], prepared.covariates[n:]
    volatility = _moving_volatility(prepared.losses)[n:]
    levels = jnp.asarray(settings.levels, later.dtype)

    def of_row(covariates: Array) -> Array:
        law = moving.at(covariates)
        risks = [quadrature_tail_risk(law.survival_quantile, level) for level in settings.levels]
        return jnp.stack([jnp.stack([risk.value_at_risk, risk.cvar]) for risk in risks])

    ones = jnp.ones_like(later)[:, None, None]
    history, plain = (
        jnp.stack([jnp.stack([risk.value_at_risk, risk.cvar]) for risk in risks])
        for risks in (
            [loss_tail_risk(past, level) for level in settings.levels],
            [quadrature_tail_risk(flow.survival_quantile, level) for level in settings.levels],
        )
    )
    normal = jnp.stack([_normal_tail(level, later.dtype) for level in settings.levels])
    forecasts = [
        ones * history,
        volatility[:, None, None] * normal,
        ones * plain,
        jax.vmap(of_row)(known),
        prepared.scales[n:, None, None] * _unit_risk(prepared, settings.levels),
    ]
    draws = _drawers(prepared, past, volatility, flow, moving, known, later)
    tests = []
    for forecast, draw in zip(forecasts, draws):
        by_level = [
            _judged(later, forecast[:, i, 0], forecast[:, i, 1], levels[i], draw, key, settings.n_null)
            for i in range(len(settings.levels))
        ]
        tests.append(jnp.stack(by_level))
    return {"forecast": {"risk": jnp.stack(forecasts), "tests": jnp.stack(tests), "losses": later}}


def _moving_volatility(losses: Float[Array, " row"]) -> Float[Array, " row"]:
    """Of every row from those before it: exponential weights, RiskMetrics' memory."""

    def step(square: Array, loss: Array) -> tuple[Array, Array]:
        return EWMA_MEMORY * square + (1 - EWMA_MEMORY) * loss**2, square

    return jnp.sqrt(jax.lax.scan(step, jnp.mean(losses[:50] ** 2), losses)[1])


def _drawers(
    prepared: Any,
    past: Array,
    volatility: Array,
    flow: LossFlow,
    moving: ConditionalLossFlow,
    known: Array,
    later: Array,
) -> list[Callable[[PRNGKeyArray], Array]]:
    """Samples of all later rows under each forecaster's law."""
    laws = jax.vmap(moving.at)(known)

    def from_laws(key: PRNGKeyArray) -> Array:
        keys = jax.random.split(key, known.shape[0])
        return jax.vmap(lambda law, k: law.sample(k, 1)[0])(laws, keys)

    scales, freedom = prepared.scales[prepared.report["n_fit"] :], prepared.degrees_of_freedom
    return [
        lambda key: past[jax.random.randint(key, later.shape, 0, past.size)],
        lambda key: volatility * jax.random.normal(key, later.shape, later.dtype),
        lambda key: flow.sample(key, later.size),
        from_laws,
        lambda key: scales * student_t.sample(key, jnp.where(jnp.isnan(freedom), 5.0, freedom), later.size),
    ]


def _judged(
    losses: Array,
    value_at_risk: Array,
    cvar: Array,
    level: Array,
    draw: Callable[[PRNGKeyArray], Array],
    key: PRNGKeyArray,
    n_null: int,
) -> Float[Array, "7"]:
    """Exceedances, p-values of coverage, independence and both, shortfall statistics' p-values, mean CVaR."""
    exceeded = losses > value_at_risk
    clusters = christoffersen(exceeded, level)
    shortfall = acerbi_szekely(losses, value_at_risk, cvar, level, draw, key, n_null)
    return jnp.stack(
        [
            jnp.mean(exceeded, dtype=losses.dtype),
            kupiec(exceeded, level).p_value,
            clusters.independence.p_value,
            clusters.conditional_coverage.p_value,
            shortfall.conditional_p_value,
            shortfall.unconditional_p_value,
            jnp.mean(cvar),
        ]
    )
