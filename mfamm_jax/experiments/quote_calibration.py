"""Experiment `calibration`: which risk aversion, penalties and intensities explain the quotes (and fills) that were seen."""

import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.experiments.calibration_tables import calibration_metrics, scalars
from mfamm_jax.experiments.experiment import AbstractExperiment, Arrays, ConfigError, Stage
from mfamm_jax.experiments.hjb_sweep import Parameters, SchemeName, free_field, named_scheme, width_field
from mfamm_jax.experiments.observed_quotes import ObservedFills, ObservedQuotes, PlantedQuotes, load_quotes
from mfamm_jax.experiments.quoting_run import HostReport
from mfamm_jax.fields import Checked, listed, static_field
from mfamm_jax.results import RESULTS
from mfamm_jax.solvers.calibrate import (
    Box,
    fit,
    forward_gradient,
    identify,
    residual_information,
    squared_residual_loss,
)
from mfamm_jax.solvers.cma import evolve
from mfamm_jax.solvers.hjb import AbstractScheme, Grid, optimal_depths, solve_hjb

# Free parameters that are one number for both sides.
BOTH = {"intensity": ("bid_intensity", "ask_intensity"), "decay": ("bid_decay", "ask_decay")}
MAY_BE_FREE = (
    *("risk_aversion", "volatility", "terminal_penalty", "fill_risk_aversion"),
    *("bid_intensity", "ask_intensity", "bid_decay", "ask_decay"),
    *BOTH,
)
# A planted table of quotes is this much finer in time than the one that is fitted.
FINER = 4

Plan = tuple[AbstractScheme, Grid, AbstractScheme, Grid]


class Search(Checked):
    """What is free, and how it is looked for."""

    free: str = free_field("risk_aversion, intensity, decay", MAY_BE_FREE)
    width: float = width_field(10.0)
    n_starts: int = static_field(default=8, lower=1, help="searches by gradient, spread over the box")
    max_iterations: int = static_field(default=200, lower=1, help="steps of each")
    population: int = static_field(default=16, lower=4, help="of CMA-ES, which is run for comparison")
    n_generations: int = static_field(default=0, lower=0, help="of CMA-ES; 0 = none")


class Data(eqx.Module):
    """What is to be explained. `scale` is the mean half spread, in which residuals are measured [price]."""

    quotes: ObservedQuotes
    fills: ObservedFills | None
    scale: Float[Array, ""]


class Prepared(eqx.Module):
    """Data of a file, if there is one, and what the manifest says about it."""

    data: Data | None
    report: HostReport = eqx.field(static=True)


class QuoteCalibration(AbstractExperiment):
    """Quotes in, parameters with standard errors out.

    Args:
        parameters: Planted truth, or the middle of the box; what is not free keeps its value.
        observed: Quotes and fills.
        search: What is free.
        scheme: Method of the HJB equation, or "auto".
        max_inventory: Largest position.
        n_steps: Rows of the table in time, between which quotes are interpolated.
    """

    parameters: Parameters
    observed: Checked
    search: Search
    scheme: SchemeName = static_field(default="auto", source="(8)", help="how the HJB equation is integrated")
    max_inventory: int = static_field(default=10, lower=1, unit="lots", help="largest position")
    n_steps: int = static_field(default=64, lower=3, help="rows of the value table")

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the free parameters."""
        return listed(self.search.free)

    def numbers_per_row(self) -> int:
        """Tables of every start, kept for the way back."""
        return 12 * self.search.n_starts * (self.n_steps + 1) * (2 * self.max_inventory + 1)

    def prepare(self, folder: Any, seed: int, say: Callable[[str], None], progress: Any = None) -> Prepared:
        """Checks names and reads the file."""
        names = [side for name in self.free for side in BOTH.get(name, (name,))]
        for name in self.free:
            if name not in MAY_BE_FREE:
                raise ConfigError(f'search.free names "{name}", expected names of {", ".join(MAY_BE_FREE)}')
        for name in names:
            if not float(getattr(self.parameters, name)) > 0:
                raise ConfigError(
                    f"parameters.{name} is 0, expected > 0: free parameters are searched by factors from their value"
                )
        for name, (bid, ask) in BOTH.items():
            sides = [float(getattr(self.parameters, side)) for side in (bid, ask)]
            if name in self.free and sides[0] != sides[1]:
                raise ConfigError(
                    f"search.free names {name}, one number for both sides, but parameters.{bid} is {sides[0]:g} and {ask} {sides[1]:g}: name the sides"
                )
        if not names or len(set(names)) < len(names):
            raise ConfigError(f'search.free is "{self.search.free}", expected at least one name, each parameter once')
        if isinstance(self.observed, PlantedQuotes):
            return Prepared(None, HostReport(source=()))
        quotes, fills, files = load_quotes(self.observed, self.max_inventory, float(self.parameters.horizon))
        n = int(jnp.isfinite(quotes.depths).sum())
        say(f"{n:,} quotes" + ("" if fills is None else f", {fills.depth.size:,} orders"))
        if n <= len(self.free):
            raise ConfigError(f"{self.observed.path}: {n} quotes cannot tell {len(self.free)} free parameters")
        return Prepared(Data(quotes, fills, _half_spread(quotes)), HostReport(source=files))

    def provenance(self, prepared: Prepared) -> dict[str, Any]:
        """The files."""
        return {"data": {"source": prepared.report["source"]}}

    def box(self) -> Box:
        """Around [parameters]."""
        middle = jnp.stack([getattr(self.parameters, BOTH.get(name, (name,))[0]) for name in self.free])
        return Box(middle / self.search.width, middle * self.search.width, (True,) * len(self.free))

    def plan(self, batch: Any, prepared: Any) -> tuple[Plan, str]:
        """One scheme for every corner of every box, and one for planted quotes."""
        corners = list(itertools.product((0.0, 1.0), repeat=len(self.free)))

        def problems(experiment: Any) -> Any:
            box = experiment.box()
            at = jnp.stack([box.at_share(jnp.asarray(corner, box.low.dtype)) for corner in corners])
            return jax.vmap(lambda x: experiment.with_free(x).problem())(at)

        grid, fine = Grid(self.max_inventory, self.n_steps), Grid(self.max_inventory, FINER * self.n_steps)
        scheme, reason = named_scheme(self.scheme, jax.vmap(problems)(batch), grid)
        planted = jax.vmap(lambda experiment: experiment.parameters.problem())(batch)
        return (scheme, grid, named_scheme(self.scheme, planted, fine)[0], fine), reason

    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """See, fit by gradient, fit without."""
        stages: list[tuple[str, Stage]] = [
            ("observe", lambda *args: observe_stage(plan, *args)),
            ("fit", lambda *args: fit_stage(plan, *args)),
        ]
        return [*stages, ("evolve", lambda *args: evolve_stage(plan, *args))] if self.search.n_generations else stages

    def metrics(self, plan: Any, prepared: Any, results: Arrays, key: PRNGKeyArray) -> dict[str, Any]:
        """Everything the report prints."""
        return calibration_metrics(self, results)

    def kept(self, prepared: Any, results: Arrays) -> Arrays:
        """Under a name of its own."""
        return {"calibration": {name: part for name, part in results.items() if name != "data"} | results["data"]}

    def row(self, plan: Any, prepared: Any, key: PRNGKeyArray) -> dict[str, Array]:
        """Estimates with their errors; of planted parameters also how many errors they are off."""
        results: Arrays = {}
        for number, (_, stage) in enumerate(self.stages(plan)[:2]):
            results |= stage(self, prepared, results, jax.random.fold_in(key, number))
        return scalars(self, results)

    def with_free(self, values: Float[Array, " free"]) -> Parameters:
        """Parameters with the free ones replaced; sides that share one share the array, which the linear schemes use."""
        pairs = [(side, x) for name, x in zip(self.free, values) for side in BOTH.get(name, (name,))]
        return eqx.tree_at(lambda p: [getattr(p, name) for name, _ in pairs], self.parameters, [x for _, x in pairs])


def _half_spread(quotes: ObservedQuotes) -> Float[Array, ""]:
    return jnp.nanmean(quotes.depths)


def quotes_at(
    scheme: AbstractScheme, grid: Grid, parameters: Parameters, inventory: Array, time_left: Array
) -> Float[Array, "quote side"]:
    """Optimal depths, cubic in time through the four nearest rows of a table: a straight line's error would bias what is fitted.

    NaN where a side is not quoted.
    """
    problem = parameters.problem()
    depths = jnp.stack(optimal_depths(problem, solve_hjb(problem, scheme, grid).value.relative_value), axis=-1)
    place = jnp.clip(time_left / problem.horizon, 0.0, 1.0) * grid.n_steps
    first = jnp.clip(jax.lax.stop_gradient(jnp.floor(place)).astype(int) - 1, 0, grid.n_steps - 3)
    x = (place - first)[:, None]
    weights = (  # Lagrange's, for nodes 0, 1, 2, 3
        -(x - 1) * (x - 2) * (x - 3) / 6,
        x * (x - 2) * (x - 3) / 2,
        -x * (x - 1) * (x - 3) / 2,
        x * (x - 1) * (x - 2) / 6,
    )
    column = inventory + grid.max_inventory
    quoted = jnp.isfinite(depths)
    known = jnp.where(quoted, depths, 0.0)  # a weight's derivative times NaN would be NaN
    found = sum(weight * known[first + i, column] for i, weight in enumerate(weights))
    return jnp.where(quoted[first, column], found, jnp.nan)


def _is_solved(plan: Plan, parameters: Parameters) -> Array:
    return solve_hjb(parameters.problem(), *plan[:2]).result == RESULTS.successful


def _log_rates(parameters: Parameters, fills: ObservedFills) -> Float[Array, " order"]:
    """Logarithms of expected fills."""
    problem = parameters.problem()
    by_side = [side.log_intensity(fills.depth) for side in (problem.bid, problem.ask)]
    return jnp.where(fills.is_ask == 1, by_side[1], by_side[0]) + jnp.log(fills.exposure)


def observe_stage(plan: Plan, experiment: Any, prepared: Prepared, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """Data of the file, or planted ones."""
    if prepared.data is not None:
        return {"data": {"observed": prepared.data}}
    _, _, scheme, grid = plan
    source, truth = experiment.observed, experiment.parameters
    keys = jax.random.split(key, 5)
    limit = experiment.max_inventory
    inventory = jax.random.randint(keys[0], (source.n_quotes,), -limit, limit + 1)
    time_left = truth.horizon * jax.random.uniform(keys[1], (source.n_quotes,), truth.horizon.dtype)
    exact = quotes_at(scheme, grid, truth, inventory, time_left)
    half = _half_spread(ObservedQuotes(inventory, time_left, exact))
    noise = source.noise * half * jax.random.normal(keys[2], exact.shape, exact.dtype)
    quotes = ObservedQuotes(inventory, time_left, exact + noise)
    fills = None
    if source.n_orders:
        is_ask = (jnp.arange(source.n_orders) % 2).astype(inventory.dtype)
        depth = 3 * half * jax.random.uniform(keys[3], is_ask.shape, half.dtype)
        exposure = jnp.full_like(depth, source.order_seconds)
        orders = ObservedFills(is_ask, depth, exposure, jnp.zeros_like(depth))
        count = jax.random.poisson(keys[4], jnp.exp(_log_rates(truth, orders)))
        fills = eqx.tree_at(lambda f: f.fills, orders, count.astype(depth.dtype))
    return {"data": {"observed": Data(quotes, fills, _half_spread(quotes))}}


def residuals_of(plan: Plan, experiment: Any, data: Data) -> Callable[[Array], Array]:
    """Differences in half spreads, one per side and quote; 0 where a side was not quoted."""
    scheme, grid = plan[:2]
    seen = jnp.isfinite(data.quotes.depths)
    observed = jnp.where(seen, data.quotes.depths, 0.0)

    def residuals(values: Float[Array, " free"]) -> Float[Array, " residual"]:
        found = quotes_at(scheme, grid, experiment.with_free(values), data.quotes.inventory, data.quotes.time_left)
        return jnp.where(seen, (jnp.where(seen, found, 0.0) - observed) / data.scale, 0.0).ravel()

    return residuals


def losses_of(plan: Plan, experiment: Any, data: Data) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """Negative log likelihoods of the quotes, their deviation profiled out, and of the fills (11)."""
    residuals, n_seen = residuals_of(plan, experiment, data), jnp.sum(jnp.isfinite(data.quotes.depths))

    def of_quotes(values: Float[Array, " free"]) -> Float[Array, ""]:
        return squared_residual_loss(residuals)(values) * n_seen / data.quotes.depths.size

    def of_fills(values: Float[Array, " free"]) -> Float[Array, ""]:
        if data.fills is None:
            return jnp.zeros((), values.dtype)
        log_rates = _log_rates(experiment.with_free(values), data.fills)
        return jnp.sum(jnp.exp(log_rates) - data.fills.fills * log_rates)

    return of_quotes, of_fills


def information_of(plan: Plan, experiment: Any, data: Data, at: Array) -> tuple[Array, Array, Array]:
    """Expected information of quotes and of fills, and the deviation of the quotes [half spread]."""
    residuals = residuals_of(plan, experiment, data)
    quotes, deviation = residual_information(residuals, at)
    n_seen, n = jnp.sum(jnp.isfinite(data.quotes.depths)), data.quotes.depths.size
    freedom = (n - at.size) / jnp.maximum(n_seen - at.size, 1)  # entries that were not quoted are no residuals
    quotes, deviation = quotes / freedom, deviation * jnp.sqrt(freedom)
    if data.fills is None:
        return quotes, jnp.zeros_like(quotes), deviation
    fills = data.fills
    slopes = jax.jacfwd(lambda x: _log_rates(experiment.with_free(x), fills))(at)
    rates = jnp.exp(_log_rates(experiment.with_free(at), fills))
    return quotes, slopes.T @ (rates[:, None] * slopes), deviation


def fit_stage(plan: Plan, experiment: Any, prepared: Prepared, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """Search by gradient, standard errors, open directions, and the gradient beside central differences."""
    data, box, search = results["data"]["observed"], experiment.box(), experiment.search
    of_quotes, of_fills = losses_of(plan, experiment, data)

    def loss(values: Float[Array, " free"]) -> Float[Array, ""]:
        return of_quotes(values) + of_fills(values)

    solution = fit(loss, box, box.draw(key, search.n_starts), max_iterations=search.max_iterations)
    found = solution.value
    quotes, fills, deviation = information_of(plan, experiment, data, found.parameters)
    parts = {"both": quotes + fills, "quotes": quotes, "fills": fills}
    known = {name: identify(information, found.parameters) for name, information in parts.items()}
    # Away from the minimum, where the gradient is none.
    at = found.parameters * 1.2
    names = jnp.eye(at.size, dtype=at.dtype)
    step = jnp.asarray(2 * jnp.finfo(at.dtype).eps ** (1 / 5), at.dtype)

    def along(direction: Array) -> Array:
        def central(h: Array) -> Array:
            return (loss(at * jnp.exp(h * direction)) - loss(at * jnp.exp(-h * direction))) / (2 * h)

        return (4 * central(step / 2) - central(step)) / 3  # Richardson: error of the fourth order

    residuals = residuals_of(plan, experiment, data)(found.parameters)
    return {
        "fit": found,
        "fit_ok": (solution.result == RESULTS.successful) & _is_solved(plan, experiment.with_free(found.parameters)),
        "known": known,
        "deviation": deviation,
        "residuals": jnp.where(jnp.isfinite(data.quotes.depths), residuals.reshape(-1, 2), jnp.nan),
        "gradient_at": at,
        "gradient_autodiff": jax.grad(forward_gradient(loss))(at) * at,
        "gradient_difference": jax.lax.map(along, names),
    }


def evolve_stage(plan: Plan, experiment: Any, prepared: Prepared, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """The same loss without its gradient."""
    box, search = experiment.box(), experiment.search
    of_quotes, of_fills = losses_of(plan, experiment, results["data"]["observed"])
    found = evolve(
        lambda values, _: of_quotes(values) + of_fills(values),
        box,
        box.draw(key, 1),
        key,
        population=search.population,
        n_generations=search.n_generations,
    )
    return {"evolution": found}
