"""Experiment `impact_fit`: how trading moved the price (20)-(21), by a structured network, a free one and two linear models."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.experiments.experiment import AbstractExperiment, Stage
from mfamm_jax.experiments.flows import provenance_of
from mfamm_jax.experiments.impact_fit_tables import impact_metrics
from mfamm_jax.experiments.quoting_run import HostReport
from mfamm_jax.fields import Checked, static_field
from mfamm_jax.market.events import DataError
from mfamm_jax.models.delay_network import FreeDelayNetwork, causal_convolution
from mfamm_jax.results import RESULTS
from mfamm_jax.risk import bootstrap_interval
from mfamm_jax.solvers.delay_fit import (
    Noise,
    choose_knots,
    explained_share,
    fit_free,
    fit_hammerstein,
    rank_one_fit,
    seen,
)

MODELS = ("structured", "free", "linear propagator", "immediate")
MOST_RANK_ROWS = 20_000


class ImpactModel(Checked):
    """The structured network and its fit."""

    n_knots: int = static_field(default=8, lower=1, upper=64, source="(21) g", help="between which g is linear")
    n_terms: int = static_field(default=4, lower=1, upper=16, source="(21) f", help="exponentials of the kernel")
    longest: float = static_field(default=200.0, lower=1.0, unit="steps", help="longest time constant to start from")
    max_iterations: int = static_field(default=500, lower=1, help="of L-BFGS")
    train_share: float = static_field(default=0.7, lower=0.2, upper=0.9, help="first part of the flow, which is fitted")
    n_blocks: int = static_field(default=30, lower=8, help="stretches of the rest, taken as independent for intervals")
    n_bootstrap: int = static_field(default=2000, lower=100, help="resamples of those stretches")


class FreeTraining(Checked):
    """Training of the free network."""

    n_steps: int = static_field(default=4000, lower=1, help="optimiser steps")
    n_batch: int = static_field(default=256, lower=1, help="rows in a step")


class Prepared(eqx.Module):
    """The flow on the device.

    Args:
        rates, response: Of all steps.
        clean: Response without noise; the response itself where unknown.
        knots: Of the structured network.
        noise: Static.
        report: Host facts.
    """

    rates: Float[Array, " step"]
    response: Float[Array, " step"]
    clean: Float[Array, " step"]
    knots: Float[Array, " knot"]
    noise: Noise = eqx.field(static=True)
    report: HostReport = eqx.field(static=True)


class ImpactFit(AbstractExperiment):
    """Impact from trades.

    Args:
        flow: What was traded and what the price did.
        model: Structured network.
        network: Free network.
        training: Of the free network.
    """

    flow: Checked
    model: ImpactModel
    network: FreeDelayNetwork
    training: FreeTraining

    @classmethod
    def prepared_paths(cls) -> tuple[str, ...]:
        """Tables used by `prepare`."""
        return ("flow", "model")

    def numbers_per_row(self) -> int:
        """Windows of the free network's batch, and transforms of the flow."""
        return self.training.n_batch * self.network.n_lags + 20 * 100_000

    def prepare(self, folder: Any, seed: int, say: Callable[[str], None], progress: Any = None) -> Prepared:
        """Loads or draws the flow."""
        flow = self.flow.load(folder, seed)
        n, n_train = len(flow.rates), self._n_train(len(flow.rates))
        say(f"{flow.name}: {n:,} steps, {np.count_nonzero(flow.rates):,} of them with net trading")
        if np.count_nonzero(flow.rates[:n_train]) < 100:
            raise DataError(
                f"{flow.name}: fewer than 100 steps with net trading in the first part, expected more; use longer data"
            )
        if not flow.response[:n_train].any():
            raise DataError(f"{flow.name}: the price never moves in the first part")
        real = jnp.result_type(float)
        rates = jnp.asarray(flow.rates, real)
        clean = flow.response if flow.clean is None else flow.clean
        report = HostReport(flow=flow)
        knots = choose_knots(rates[:n_train], self.model.n_knots)
        return Prepared(rates, jnp.asarray(flow.response, real), jnp.asarray(clean, real), knots, flow.noise, report)

    def plan(self, batch: Any, prepared: Prepared) -> tuple[tuple, str]:
        """Nothing to choose."""
        return (), f"least squares on the price's {'changes' if prepared.noise == 'random_walk' else 'levels'}"

    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """Fit, then judge."""
        return [("structured", structured_stage), ("free", free_stage), ("judge", judge_stage)]

    def metrics(self, plan: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
        """Everything the report prints."""
        return impact_metrics(self, prepared, results)

    def kept(self, prepared: Prepared, results: dict[str, Any]) -> dict[str, Any]:
        """Without the responses of every step."""
        return {name: value for name, value in results.items() if name not in ("found", "free")}

    def provenance(self, prepared: Prepared) -> dict[str, Any]:
        """The flow's files."""
        return provenance_of(prepared.report["flow"])

    def row(self, plan: Any, prepared: Prepared, key: PRNGKeyArray) -> dict[str, Array]:
        """Shares explained in the last part."""
        results: dict[str, Any] = {}
        for _, stage in self.stages(plan):
            results |= stage(self, prepared, results, key)
        shares = {name.replace(" ", "_"): share for name, share in zip(MODELS, results["judge"]["explained"])}
        return {**shares, "ok": results["fit"]["converged"]}

    def _n_train(self, n: int) -> int:
        return int(self.model.train_share * n)


def structured_stage(experiment: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """The structured network, its linear version, and what least squares says about the structure."""
    model, n = experiment.model, experiment._n_train(prepared.rates.shape[0])
    rates, response = prepared.rates[:n], prepared.response[:n]
    given = {"longest": model.longest, "noise": prepared.noise, "max_iterations": model.max_iterations}
    solution = fit_hammerstein(rates, response, prepared.knots, n_terms=model.n_terms, **given)
    straight = fit_hammerstein(rates, response, prepared.knots[:0], n_terms=model.n_terms, **given)
    target = seen(response, prepared.noise)
    slope = jnp.sum(rates * target) / jnp.sum(rates**2)
    rank = rank_one_fit(
        rates[:MOST_RANK_ROWS], target[:MOST_RANK_ROWS], prepared.knots[:: max(len(prepared.knots) // 3, 1)], 30
    )
    lags, network = jnp.arange(201, dtype=rates.dtype), solution.value
    sizes = jnp.linspace(0, jnp.quantile(jnp.abs(rates), 0.999), 60)
    fitted = {
        name: seen(s.value.response(prepared.rates), prepared.noise)
        for name, s in (("structured", solution), ("linear propagator", straight))
    }
    return {
        "fit": {
            "kernel": network.kernel(lags),
            "sizes": sizes,
            "impact": network.impact(sizes),
            "rates_of_decay": jnp.sort(jnp.exp(network.log_rates)),
            "converged": solution.result == RESULTS.successful,
            "iterations": solution.stats["iterations"],
            "singular_values": rank.singular_values,
            "metaorder": network.response(metaorder_rates(prepared)),
        },
        "found": fitted | {"immediate": slope * prepared.rates},
    } | _truth(prepared, sizes)


def _truth(prepared: Prepared, sizes: Float[Array, " size"]) -> dict[str, Any]:
    """Kernel, impact and metaorder, where they are known."""
    flow = prepared.report["flow"]
    if flow.kernel is None:
        return {}
    kernel, order = jnp.asarray(flow.kernel[:201], sizes.dtype), metaorder_rates(prepared)
    metaorder = causal_convolution(kernel[: order.shape[0]], order**flow.exponent)
    return {"truth": {"kernel": kernel, "impact": sizes**flow.exponent, "metaorder": metaorder}}


def metaorder_rates(prepared: Prepared) -> Float[Array, " step"]:
    """Trading at the mean size for 50 steps, then none."""
    size = jnp.mean(jnp.abs(prepared.rates))
    return jnp.where(jnp.arange(150) < 50, size, 0)


def free_stage(experiment: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """The free network."""
    n, training = experiment._n_train(prepared.rates.shape[0]), experiment.training
    fitted = fit_free(
        experiment.network,
        prepared.rates[:n],
        prepared.response[:n],
        key,
        noise=prepared.noise,
        n_steps=training.n_steps,
        n_batch=training.n_batch,
    )
    order = fitted.response(experiment.network, metaorder_rates(prepared))
    if prepared.noise == "random_walk":
        order = jnp.cumsum(order)
    return {"free": fitted.response(experiment.network, prepared.rates), "free_metaorder": order}


def judge_stage(experiment: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
    """Shares of variance explained in the last part, with intervals; of the noiseless response where it is known."""
    n, n_blocks = experiment._n_train(prepared.rates.shape[0]), experiment.model.n_blocks
    target, clean = (seen(x, prepared.noise) for x in (prepared.response, prepared.clean))
    found = jnp.stack([results["free"] if name == "free" else results["found"][name] for name in MODELS])
    length = (target.shape[0] - n) // n_blocks
    last = slice(n, n + n_blocks * length)
    away = target[last] - jnp.mean(target[last])
    total = jnp.mean(away**2)

    def interval(errors: Float[Array, " row"]) -> Float[Array, "2"]:
        gain = jnp.mean((away**2 - errors**2).reshape(n_blocks, length), axis=1) / total
        return bootstrap_interval(jnp.mean, gain, experiment.model.n_bootstrap, key)

    return {
        "judge": {
            "explained": jax.vmap(explained_share, (0, None))(found[:, last], target[last]),
            "interval": jnp.stack([interval(target[last] - x[last]) for x in found]),
            "explained_clean": jax.vmap(explained_share, (0, None))(found[:, last], clean[last]),
        }
    }
