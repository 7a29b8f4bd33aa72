"""The pure part of experiment `quoting`: policy from the fit, Poisson episodes, replay, sensitivities, risk."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.experiments.fit import SideFit
from mfamm_jax.models.intensity import ExponentialIntensity
from mfamm_jax.policies import (
    AbstractPolicy,
    Covariates,
    MarketState,
    RuledPolicy,
    SymmetricPolicy,
    tabulate,
)
from mfamm_jax.results import RESULTS
from mfamm_jax.risk import (
    bootstrap_interval,
    empirical_tail_risk,
    inventory_statistics,
    markouts,
    max_drawdown,
    moments,
    moments_by_horizon,
)
from mfamm_jax.simulation.account import fee_of_fills
from mfamm_jax.simulation.episode import EpisodeResult, episode_law, simulate_episodes
from mfamm_jax.simulation.execution import ReplayConfig
from mfamm_jax.simulation.replay import ReplayPath, replay
from mfamm_jax.simulation.step import PoissonMarket
from mfamm_jax.simulation.tape import Tape
from mfamm_jax.solvers.closed_form import stationary_depths
from mfamm_jax.solvers.hjb import AbstractScheme, Grid, HJBProblem, optimal_depths, rulebook_penalty, solve_hjb

Arrays = dict[str, Any]
Plan = tuple[AbstractScheme, Grid, AbstractScheme]  # the table's scheme, its grid, a second method to compare with
MARKOUT_SECONDS = (0.0, 1.0, 5.0, 30.0, 60.0)
GRADIENT_NAMES = ("risk_aversion", "decay", "volatility")


class HostReport:
    """Host facts that ride along in a pytree: hashed by identity, never traced."""

    def __init__(self, **content: Any):
        self.content = content

    def __getitem__(self, name: str) -> Any:
        return self.content[name]


def session_provenance(report: HostReport) -> dict[str, Any]:
    """For the manifest: data files with their hashes, clock and loader notes."""
    return {"data": {name: report[name] for name in ("session", "clock", "source", "notes")}}


class Prepared(eqx.Module):
    """Arrays of the run that no swept parameter changes.

    Args:
        bid, ask: Fitted sides.
        reference: Covariates of an average training moment.
        tape: Recorded events of the test part.
        decisions: Covariates at every decision of the test part.
        training_tape: Recorded events of the training part.
        training_decisions: Covariates at every decision of it.
        tick_size: [price].
        report: What the report shows about the data; host objects, static.
        has_one_decay: Whether both sides were fitted with one decay with depth; what is known before compiling saves the linear schemes
            the derivative in the difference of the decays.
    """

    bid: SideFit
    ask: SideFit
    reference: Covariates
    tape: Tape
    decisions: Covariates
    training_tape: Tape
    training_decisions: Covariates
    tick_size: Float[Array, ""]
    report: HostReport = eqx.field(static=True)
    has_one_decay: bool = eqx.field(static=True, default=False)


def fitted_intensities(control: Any, prepared: Any) -> tuple[ExponentialIntensity, ExponentialIntensity]:
    """Bid and ask intensity in the reference state."""

    def side(fit: SideFit) -> ExponentialIntensity:
        reference = prepared.reference
        log_scale = fit.scale(reference.book_features, reference.vpin, reference.imbalance)
        return ExponentialIntensity(control.intensity_scale * jnp.exp(log_scale), control.decay_scale * fit.decay)

    bid, ask = side(prepared.bid), side(prepared.ask)
    return (ExponentialIntensity(bid.scale, ask.decay) if prepared.has_one_decay else bid), ask


class FillCosts(NamedTuple):
    """What a fill costs beyond the config's adverse selection, per lot [price]; negative = a gain, as a rebate is."""

    bid: Float[Array, ""]
    ask: Float[Array, ""]


def fee_costs(rules: ReplayConfig, tape: Tape) -> FillCosts:
    """Maker fees of the replay per lot; a rebate is a negative cost."""
    notional = tape.reference_price
    if rules.contract == "inverse":
        notional = 1 / notional
    one = jnp.ones_like(notional)
    fee = fee_of_fills(rules.fee_model, rules.maker_fee, notional, one)
    return FillCosts(fee, fee)


def reference_problem(control: Any, prepared: Any, costs: FillCosts) -> HJBProblem:
    """The control problem in the reference state of the training part."""
    bid, ask = fitted_intensities(control, prepared)
    return HJBProblem(
        bid=bid,
        ask=ask,
        inventory_penalty=rulebook_penalty(control.risk_aversion, prepared.reference.volatility),
        terminal_penalty=control.terminal_penalty,
        horizon=control.horizon,
        bid_adverse_selection=control.adverse_selection + costs.bid,
        ask_adverse_selection=control.adverse_selection + costs.ask,
        fill_risk_aversion=control.fill_risk_aversion,
        min_depth=control.min_depth,
        max_depth=control.max_depth,
    )


@eqx.filter_jit  # traced once for all stages and the sweep; a plan may hold arrays (tolerances)
def build_policy(
    experiment: Any, plan: Any, prepared: Any, costs: FillCosts | None = None
) -> tuple[AbstractPolicy, Array]:
    """The HJB value table inside the quote rules, and whether every node was solved. Costs: the replay's fees by default."""
    scheme, grid, _ = plan
    costs = fee_costs(experiment.execution.replay, prepared.tape) if costs is None else costs
    control = experiment.hjb
    shift = jnp.log(control.intensity_scale)
    scales = [
        eqx.tree_at(lambda s: s.intercept, fit.scale, fit.scale.intercept + shift)
        for fit in (prepared.bid, prepared.ask)
    ]
    solution = tabulate(
        reference_problem(control, prepared, costs),
        scheme,
        grid,
        control.axes,
        risk_aversion=control.risk_aversion,
        bid_scale=scales[0],
        ask_scale=scales[1],
    )
    ok = jnp.all(solution.result == RESULTS.successful)
    return RuledPolicy(solution.value, experiment.quotes), ok


def poisson_market(experiment: Any, prepared: Prepared) -> PoissonMarket:
    """The market the fit describes, in the reference state, with the replay's maker fee."""
    bid, ask = fitted_intensities(experiment.hjb, prepared)
    return PoissonMarket(
        bid=bid,
        ask=ask,
        volatility=prepared.reference.volatility,
        bid_adverse_selection=experiment.hjb.adverse_selection,
        ask_adverse_selection=experiment.hjb.adverse_selection,
        maker_fee=fee_costs(experiment.execution.replay, prepared.tape).bid,
    )


def start_state(control: Any, prepared: Any) -> MarketState:
    """Flat, with the whole horizon left, in the reference state."""
    return MarketState(0.0, 0.0, 0.0, control.horizon, prepared.reference)


def solve_stage(plan: Plan, experiment: Any, prepared: Prepared, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """Reference solution for the figures, the policy table's verdict and the closed form beside it."""
    scheme, grid, second = plan
    control = experiment.hjb
    problem = reference_problem(control, prepared, fee_costs(experiment.execution.replay, prepared.tape))
    # The table's scheme is sized for its stiffest node, so it covers the reference problem too.
    solution = solve_hjb(problem, scheme, grid)
    bid, ask = optimal_depths(problem, solution.value.relative_value)
    other = solve_hjb(problem, second, grid).value.value
    policy, ok = build_policy(experiment, plan, prepared)
    neutral = policy(start_state(control, prepared))
    inventory = grid.inventory
    closed = stationary_depths(_balanced(problem), problem.inventory_penalty, inventory, problem.fill_risk_aversion)
    return {
        "time_left": solution.value.time_left,
        "inventory": inventory,
        "value": solution.value.value,
        "value_difference": solution.value.value - other,
        "bid_depth": bid,
        "ask_depth": ask,
        "closed_form_bid_depth": closed[0] + problem.bid_adverse_selection,
        "closed_form_ask_depth": closed[1] + problem.ask_adverse_selection,
        "inventory_penalty": problem.inventory_penalty,
        "half_spread": 0.5 * (neutral.bid_depth + neutral.ask_depth),
        "table_error": jnp.abs(neutral.bid_depth - _within(experiment.quotes, bid[-1, grid.max_inventory])),
        "bid_intensity": problem.bid.scale,
        "ask_intensity": problem.ask.scale,
        "bid_decay": problem.bid.decay,
        "ask_decay": problem.ask.decay,
        "tick_size": prepared.tick_size,
        "solver_ok": ok & (solution.result == RESULTS.successful),
        "fit": {"bid": prepared.bid, "ask": prepared.ask},
        "_policy": policy,  # for the next stages, not for the run folder
    }


def _balanced(problem: HJBProblem) -> ExponentialIntensity:
    """Geometric mean of both sides: what the symmetric closed form can know."""
    return ExponentialIntensity(
        jnp.sqrt(problem.bid.scale * problem.ask.scale), 0.5 * (problem.bid.decay + problem.ask.decay)
    )


def _within(rules: Any, depth: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.clip(depth, rules.min_half_spread, rules.max_half_spread)


def baseline_policy(experiment: Any, results: Arrays) -> AbstractPolicy:
    """The policy's own half spread, quoted symmetrically whatever the inventory, inside the same rules."""
    limit = jnp.asarray(experiment.hjb.max_inventory, results["half_spread"].dtype)
    return RuledPolicy(SymmetricPolicy(results["half_spread"], limit), experiment.quotes)


def simulate_stage(plan: Plan, experiment: Any, prepared: Prepared, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """Poisson episodes of the policy and the baseline on the same random numbers, and the policy's exact law."""
    policy = results["_policy"]
    market, episodes = poisson_market(experiment, prepared), experiment.simulation
    limit = experiment.hjb.max_inventory

    def paths(quoting: AbstractPolicy) -> EpisodeResult:
        penalty = results["inventory_penalty"]
        return simulate_episodes(quoting, market, episodes, prepared.reference, penalty, key)

    law = episode_law(policy, market, episodes, prepared.reference, limit)
    ours, baseline = paths(policy), paths(baseline_policy(experiment, results))
    return {
        "simulation": {
            "summary": simulation_summary(experiment, ours, key),
            "baseline": simulation_summary(experiment, baseline, key),
            "gain": moments(ours.pnl - baseline.pnl),
            "horizon": episodes.horizon,
            "law_mean": law.mean,
            "law_std": law.std,
            "law_bid_fills": law.bid_fills,
            "law_ask_fills": law.ask_fills,
            "identity_residual": jnp.max(jnp.abs(ours.pnl - (ours.capture + ours.revaluation - ours.fees))),
            "pnl": ours.pnl,
            "baseline_pnl": baseline.pnl,
            "example_inventory": ours.inventory[:20],
            "inventory_quantiles": jnp.quantile(ours.inventory, jnp.array([0.05, 0.25, 0.5, 0.75, 0.95]), axis=0),
        }
    }


def simulation_summary(experiment: Any, paths: EpisodeResult, key: PRNGKeyArray) -> Arrays:
    """Risk numbers of simulated paths."""
    level = experiment.risk.tail_level
    tail = empirical_tail_risk(paths.pnl, level)
    interval = bootstrap_interval(
        lambda sample: empirical_tail_risk(sample, level).cvar,
        paths.pnl,
        experiment.risk.n_bootstrap,
        jax.random.fold_in(key, experiment.simulation.n_paths),
    )
    return {
        "pnl": moments(paths.pnl),
        "by_horizon": moments_by_horizon(paths.value),
        "value_at_risk": tail.value_at_risk,
        "cvar": tail.cvar,
        "cvar_interval": interval,
        "max_drawdown": moments(max_drawdown(paths.value)),
        "inventory": inventory_statistics(paths.inventory, experiment.hjb.max_inventory),
        "capture": jnp.mean(paths.capture),
        "revaluation": jnp.mean(paths.revaluation),
        "fees": jnp.mean(paths.fees),
        "objective": moments(paths.objective),
        "bid_fills": jnp.mean(paths.bid_fills),
        "ask_fills": jnp.mean(paths.ask_fills),
    }


def execution_rules(experiment: Any) -> ReplayConfig:
    """The config's rules; the control problem's inventory limit holds at the exchange as well."""
    limit = jnp.minimum(experiment.execution.replay.max_inventory, experiment.hjb.max_inventory)
    return eqx.tree_at(lambda c: c.max_inventory, experiment.execution.replay, limit)


def replay_stage(plan: Plan, experiment: Any, prepared: Prepared, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """The policy and the baseline against the recorded events of the test part."""
    policy = results["_policy"]
    config = execution_rules(experiment)

    def run(quoting: AbstractPolicy) -> Any:
        return replay(quoting, prepared.tape, prepared.decisions, config, record="path")

    ours = run(policy)
    return {
        "replay": ours,
        "replay_seconds": jnp.cumsum(prepared.tape.moment.seconds),
        "replay_markouts": replay_markouts(ours.path, jnp.cumsum(prepared.tape.moment.seconds)),
        "replay_baseline": run(baseline_policy(experiment, results)),
    }


def replay_markouts(path: ReplayPath, seconds: Float[Array, " step"]) -> Float[Array, " horizon"]:
    """Mean gain per lot of our fills against the mid `MARKOUT_SECONDS` later."""
    later = seconds + jnp.asarray(MARKOUT_SECONDS, seconds.dtype)[:, None]
    row = jnp.searchsorted(seconds, later.ravel(), side="right").reshape(later.shape) - 1
    both = [jnp.concatenate([x[..., 0], x[..., 1]], axis=-1) for x in (path.fill, path.fill_price)]
    side = jnp.where(both[0] > 0, jnp.repeat(jnp.array([1, -1]), seconds.shape[0]), 0)
    mid, known = path.mid[row], later <= seconds[-1]
    return markouts(side, both[1], both[0], jnp.tile(mid, (1, 2)), jnp.tile(known, (1, 2)))


def gradient_stage(plan: Plan, experiment: Any, prepared: Prepared, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """d E[P&L] / d (risk_aversion, decay, volatility) through the HJB and the exact law, beside central differences."""
    one = jnp.ones((), results["half_spread"].dtype)

    def expected(factors: Float[Array, " parameter"]) -> Float[Array, ""]:
        risk_aversion, decay, volatility = factors
        changed = eqx.tree_at(
            lambda e: (e.hjb.risk_aversion, e.hjb.decay_scale),
            experiment,
            (experiment.hjb.risk_aversion * risk_aversion, experiment.hjb.decay_scale * decay),
        )
        moved = eqx.tree_at(lambda p: p.reference.volatility, prepared, prepared.reference.volatility * volatility)
        policy, _ = build_policy(changed, plan, moved)
        market = poisson_market(changed, moved)
        return episode_law(policy, market, experiment.simulation, moved.reference, experiment.hjb.max_inventory).mean

    expected = jax.jit(expected)  # one trace for values and tangents
    factors = jnp.stack([one, one, one])
    base = jnp.stack([experiment.hjb.risk_aversion, results["ask_decay"], prepared.reference.volatility])
    # Relative steps: the best central difference errs by eps^(2/3).
    step = jnp.finfo(factors.dtype).eps ** (1 / 3) * 10
    shifts = jnp.concatenate([jnp.eye(3), -jnp.eye(3)]).astype(factors.dtype) * step
    values = jax.lax.map(lambda shift: expected(factors + shift), shifts)
    return {
        "gradient": {
            "values": base,
            # Forward mode: three tangents need no memory of the steps, which an explicit scheme takes by the thousand.
            "autodiff": jax.jacfwd(expected)(factors) / base,
            "finite_difference": (values[:3] - values[3:]) / (2 * step) / base,
        }
    }
