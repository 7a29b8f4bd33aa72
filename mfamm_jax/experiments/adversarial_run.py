"""The pure part of experiment `adversarial`: probes, worst markets, opponents, bad days and fuzz, for every policy at once."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.experiments.adversarial_flaws import ExchangeLimit, FlawedPolicy, Flaws, stack_flaws
from mfamm_jax.experiments.quoting_run import build_policy, execution_rules, poisson_market
from mfamm_jax.policies.quotes import AbstractPolicy, Covariates, MarketState, Quotes
from mfamm_jax.simulation.adversary import WorstMarket, certainty_equivalent, random_markets, worst_market
from mfamm_jax.simulation.episode import episode_law
from mfamm_jax.simulation.invariants import fuzz_policy, replay_violations
from mfamm_jax.simulation.opponent import Powers, play, train_opponent, worst_play
from mfamm_jax.simulation.replay import replay_together
from mfamm_jax.solvers.hjb import rulebook_penalty

Arrays = dict[str, Any]
LEFT = (1.0, 0.3, 0.05)  # shares of the horizon at which a policy is probed


def flawed(policy: AbstractPolicy, flaws: Flaws) -> AbstractPolicy:
    """One policy of the stack."""
    return FlawedPolicy(policy, flaws)


def solve_stage(plan: Any, experiment: Any, prepared: Any, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """The policy, the flawed ones beside it, and what each quotes."""
    policy, ok = build_policy(experiment, plan, prepared.base)
    flaws = stack_flaws(experiment.flawed, experiment.hjb.horizon.dtype)
    n = experiment.hjb.max_inventory
    inventory = jnp.arange(-n, n + 1, dtype=experiment.hjb.horizon.dtype)
    usual = prepared.base.reference

    def probe(flaws: Flaws) -> dict[str, Array]:
        tested = flawed(policy, flaws)

        def quotes(share: Array, known: Covariates) -> Quotes:
            left = share * experiment.simulation.horizon
            return jax.vmap(lambda q: tested(MarketState(jnp.zeros_like(q), q, jnp.zeros_like(q), left, known)))(
                inventory
            )

        market = poisson_market(experiment, prepared.base)
        shown = jax.vmap(lambda share: quotes(share, usual))(jnp.asarray(LEFT, inventory.dtype))
        # Fills of asks over fills of bids: above 1 the inventory falls.
        both = (shown.bid_size > 0) & (shown.ask_size > 0) & (inventory != 0)
        ratio = jnp.log(market.ask(shown.ask_depth)) - jnp.log(market.bid(shown.bid_depth))
        flat = ratio[:, n : n + 1]  # a market may be lopsided
        lean = jnp.sum(jnp.where(both, jnp.sign(inventory) * (ratio - flat), 0.0)) / jnp.maximum(jnp.sum(both), 1)
        ends = [_known(usual, vpin, imbalance) for vpin, imbalance in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.0, -1.0))]
        heard = [quotes(jnp.ones_like(usual.vpin), known) for known in ends]
        moves = [
            jnp.max(jnp.abs(a - b)) for x in heard[1:] for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(heard[0]))
        ]
        return {
            "bid_depth": shown.bid_depth[0],
            "ask_depth": shown.ask_depth[0],
            "lean": lean,
            "ratio": ratio[0] - flat[0],
            "hears": jnp.max(jnp.stack(moves)),
        }

    return {
        "inventory": inventory,
        "solver_ok": ok,
        "probe": jax.vmap(probe)(flaws),
        "_policy": policy,
        "_flaws": flaws,
    }


def _known(usual: Covariates, vpin: float, imbalance: float) -> Covariates:
    like = jnp.ones_like(usual.vpin)
    return Covariates(usual.volatility, vpin * like, imbalance * like, usual.book_features)


def _limited(experiment: Any, policy: AbstractPolicy) -> AbstractPolicy:
    limit = jnp.asarray(experiment.hjb.max_inventory, experiment.hjb.horizon.dtype)
    return ExchangeLimit(policy, limit)


def worst_of(experiment: Any, prepared: Any, policy: AbstractPolicy, key: PRNGKeyArray) -> WorstMarket:
    """The worst market of a policy."""
    market, attack = poisson_market(experiment, prepared.base), experiment.attack
    return worst_market(
        lambda moved: _worth(experiment, prepared, policy, moved),
        market,
        experiment.ambiguity,
        key,
        n_starts=attack.n_starts,
        n_steps=attack.n_steps,
    )


def _worth(experiment: Any, prepared: Any, policy: AbstractPolicy, market: Any) -> Float[Array, ""]:
    return certainty_equivalent(
        _limited(experiment, policy),
        market,
        experiment.simulation,
        prepared.base.reference,
        experiment.hjb.max_inventory,
        experiment.attack.risk_weight,
    )


def markets_stage(plan: Any, experiment: Any, prepared: Any, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """The worst market in the ellipsoid for every policy, and the best that as many random points would have found."""
    market = poisson_market(experiment, prepared.base)

    def attack(flaws: Flaws) -> tuple[WorstMarket, Array, Array, Array]:
        policy = flawed(results["_policy"], flaws)
        found = worst_of(experiment, prepared, policy, key)
        random = random_markets(
            lambda moved: _worth(experiment, prepared, policy, moved),
            market,
            experiment.ambiguity,
            jax.random.fold_in(key, 1),
            experiment.attack.n_random,
        )
        law = episode_law(
            _limited(experiment, policy),
            market,
            experiment.simulation,
            prepared.base.reference,
            experiment.hjb.max_inventory,
        )
        return found, jnp.min(random), law.mean, law.std

    found, random, mean, std = jax.vmap(attack)(results["_flaws"])
    return {"markets": {"found": found, "random": random, "nominal": market, "mean": mean, "std": std}}


def powers_of(experiment: Any, prepared: Any) -> Powers:
    """The opponent's bounds in prices."""
    settings = experiment.opponent
    return Powers(settings.drift * prepared.base.reference.volatility, settings.flow)


def opponents_stage(plan: Any, experiment: Any, prepared: Any, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """Nobody, a learned opponent and the exact worst one against every policy."""
    powers, settings = powers_of(experiment, prepared), experiment.opponent

    def against(flaws: Flaws) -> dict[str, Array]:
        game = _game(experiment, prepared, flawed(results["_policy"], flaws))
        nobody = play(**game, choose=lambda quotes, left, q: jnp.zeros((3, q.shape[0]), q.dtype))
        worst = worst_play(**game, powers=powers)
        learned, path = train_opponent(
            **game,
            powers=powers,
            key=key,
            n_starts=settings.n_starts,
            n_steps=settings.n_steps,
            n_hidden=settings.n_hidden,
        )
        answer = play(**game, choose=learned)
        return {
            "nobody": nobody.start,
            "learned": answer.start,
            "worst": worst.start,
            "path": path,
            "learned_actions": answer.actions[0],
            "worst_actions": worst.actions[0],
        }

    return {"opponents": jax.vmap(against)(results["_flaws"]) | {"limits": powers.limits()}}


def _game(experiment: Any, prepared: Any, policy: AbstractPolicy) -> dict[str, Any]:
    """What `play` and its like take."""
    return {
        "policy": _limited(experiment, policy),
        "market": poisson_market(experiment, prepared.base),
        "episodes": experiment.simulation,
        "covariates": prepared.base.reference,
        "max_inventory": experiment.hjb.max_inventory,
        "inventory_penalty": rulebook_penalty(experiment.hjb.risk_aversion, prepared.base.reference.volatility),
    }


def worst_game(experiment: Any, prepared: Any, policy: AbstractPolicy) -> Float[Array, ""]:
    """What a policy is worth against the exact worst opponent."""
    return worst_play(**_game(experiment, prepared, policy), powers=powers_of(experiment, prepared)).start


def days_stage(plan: Any, experiment: Any, prepared: Any, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """Every policy replayed on every day."""
    rules = execution_rules(experiment)
    own = experiment.execution.replay.max_inventory
    n_decisions = prepared.days[0][0].time_left.shape[1]

    def on_day(day: Any) -> tuple[dict[str, Array], Array, Array]:
        tapes, moment, known = day

        def run(flaws: Flaws) -> tuple[dict[str, Array], Array, Array]:
            policy = flawed(results["_policy"], flaws)
            # A desk that forgot its limit has not told the exchange of it either.
            limit = jnp.where(flaws.limited > 0, rules.max_inventory, own)
            config = eqx.tree_at(lambda c: c.max_inventory, rules, limit)
            (result,) = replay_together(
                lambda states: (policy(states[0]),), tapes, moment, known, (config,), record="path"
            )
            (rows,) = jnp.nonzero(moment.action == 3, size=n_decisions, fill_value=-1)
            summary = {
                "pnl": result.pnl,
                "max_drawdown": result.max_drawdown,
                "max_inventory": result.max_inventory,
                "fills": result.n_bid_fills + result.n_ask_fills,
                "violations": replay_violations(result, rules.max_inventory),
            }
            return summary, result.path.value[rows], result.path.mid[rows]

        summary, value, mid = jax.vmap(run)(results["_flaws"])
        return summary, value[0], mid[0]

    summary, value, mid = jax.lax.map(on_day, prepared.days)
    n_steps = jnp.asarray(prepared.days[1].action.size, jnp.int32)
    return {"days": summary | {"value": value, "mid": mid, "n_steps": n_steps}}


def fuzz_stage(plan: Any, experiment: Any, prepared: Any, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """The policy as given through all fuzzed steps, the flawed ones through a sixteenth of them."""
    fuzz, base = experiment.fuzz, prepared.base
    market, limit = poisson_market(experiment, base), experiment.hjb.max_inventory
    sound = jax.tree.map(lambda x: x[0], results["_flaws"])

    def run(flaws: Flaws, much: Any) -> Any:
        policy = flawed(results["_policy"], flaws)
        return fuzz_policy(policy, market, experiment.simulation.horizon, base.reference, limit, much, key)

    found = {"given": run(sound, fuzz)}
    if experiment.flawed:
        less = dataclasses.replace(fuzz, n_paths=max(fuzz.n_paths // 16, 1))
        rest = jax.tree.map(lambda x: x[1:], results["_flaws"])
        found["flawed"] = jax.vmap(lambda flaws: run(flaws, less))(rest)
    return {"fuzz": found}
