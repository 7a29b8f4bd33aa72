"""The pure part of experiment `adversarial`: probes, worst markets, opponents, bad days and fuzz, for every policy at once."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.experiments.adversarial_flaws import ExchangeLimit, FlawedPolicy, Flaws, stack_flaws
from mfamm_jax.experiments.quoting_run import build_policy, execution_rules, poisson_market
from mfamm_jax.policies.quotes import N_BOOK_FEATURES, AbstractPolicy, Covariates, MarketState, Quotes
from mfamm_jax.simulation.adversary import WorstMarket, certainty_equivalent, random_markets, worst_market
from mfamm_jax.simulation.episode import episode_law
from mfamm_jax.simulation.invariants import fuzz_policy, replay_violations
from mfamm_jax.simulation.opponent import Powers, play, train_opponent, worst_play
from mfamm_jax.simulation.replay import replay_together
from mfamm_jax.solvers.hjb import rulebook_penalty

Arrays = dict[str, Any]
LEFT = (1.0, 0.3, 0.05)  # shares of the horizon at which a policy is probed
HEARD = ("VPIN", "imbalance", "book")


def flawed(policy: AbstractPolicy, flaws: Flaws) -> AbstractPolicy:
    """One policy of the stack."""
    return FlawedPolicy(policy, flaws)


def solve_stage(plan: Any, experiment: Any, prepared: Any, results: Arrays, key: PRNGKeyArray) -> Arrays:
    """The policy, the flawed ones beside it, and what each quotes."""
    policy, ok = build_policy(experiment, plan, prepared.base)
    flaws = stack_flaws(experiment.flawed, experiment.hjb.horizon.dtype)
    n = experiment.hjb.max_inventory
    inventory = jnp.arange(-n, n + 1, dtype=experiment.hjb.horizon.dtype)
    probed = jax.vmap(lambda f: _probe(experiment, prepared, flawed(policy, f), inventory))(flaws)
    quotes, heard = probed.pop("quotes"), probed.pop("heard")
    differences = [jnp.abs(x - x[:1]).reshape(x.shape[0], -1) for x in jax.tree.leaves((quotes, heard))]
    differs = jnp.max(jnp.stack([jnp.max(x, axis=1) for x in differences]), axis=0)
    probed |= {"bid_depth": quotes.bid_depth[:, 0], "ask_depth": quotes.ask_depth[:, 0], "differs": differs}
    return {"inventory": inventory, "solver_ok": ok, "probe": probed, "_policy": policy, "_flaws": flaws}


def _probe(experiment: Any, prepared: Any, tested: AbstractPolicy, inventory: Float[Array, " inventory"]) -> Arrays:
    """What a policy quotes in an average state, whether it leans, and what it hears."""
    usual, n = prepared.base.reference, inventory.shape[0] // 2
    market = poisson_market(experiment, prepared.base)

    def quotes(share: Array, known: Covariates) -> Quotes:
        left, zero = share * experiment.simulation.horizon, jnp.zeros_like(share)
        return jax.vmap(lambda q: tested(MarketState(zero, q, zero, left, known)))(inventory)

    shown = jax.vmap(lambda share: quotes(share, usual))(jnp.asarray(LEFT, inventory.dtype))
    log_bid, log_ask = market.bid.log_intensity(shown.bid_depth), market.ask.log_intensity(shown.ask_depth)
    # Long, a policy that leans sells faster and buys more slowly than flat; either side counts where it is shown.
    faster_ask, slower_bid = log_ask - log_ask[:, n : n + 1], log_bid[:, n : n + 1] - log_bid
    held = inventory != 0
    asks = held & (shown.ask_size > 0) & (shown.ask_size[:, n : n + 1] > 0)
    bids = held & (shown.bid_size > 0) & (shown.bid_size[:, n : n + 1] > 0)
    leans = jnp.where(asks, jnp.sign(inventory) * faster_ask, 0.0) + jnp.where(
        bids, jnp.sign(inventory) * slower_bid, 0.0
    )
    n_probed = jnp.sum(asks) + jnp.sum(bids)
    both = (shown.bid_size[0] > 0) & (shown.ask_size[0] > 0)
    now = jnp.ones_like(usual.vpin)
    calm = quotes(now, _moved(usual, 0.0, 0.0, 0))
    features = [_moved(usual, 0.0, 0.0, i + 1) for i in range(N_BOOK_FEATURES)]
    moved = {
        "VPIN": [_moved(usual, 1.0, 0.0, 0)],
        "imbalance": [_moved(usual, 0.0, side, 0) for side in (1.0, -1.0)],
        "book": features,
    }
    heard = {name: [quotes(now, known) for known in conditions] for name, conditions in moved.items()}
    unit = jnp.mean(jnp.abs(calm.bid_depth)) + jnp.mean(jnp.abs(calm.ask_depth))

    def change(other: Quotes) -> Float[Array, ""]:
        depths = jnp.abs(jnp.stack([other.bid_depth - calm.bid_depth, other.ask_depth - calm.ask_depth])) / unit
        sizes = jnp.abs(jnp.stack([other.bid_size - calm.bid_size, other.ask_size - calm.ask_size]))
        return jnp.maximum(jnp.max(depths), jnp.max(sizes))

    return {
        "quotes": shown,
        "heard": heard,
        "lean": jnp.sum(leans) / jnp.maximum(n_probed, 1),
        "n_probed": n_probed,
        # Asks filled per bid filled, where both are shown.
        "ratio": jnp.where(both, jnp.exp(log_ask[0] - log_bid[0]), jnp.nan),
        "hears": jnp.stack([jnp.max(jnp.stack([change(x) for x in heard[name]])) for name in HEARD]),
    }


def _moved(usual: Covariates, vpin: float, imbalance: float, feature: int) -> Covariates:
    """Conditions with one of them moved; feature number 0 = none."""
    like = jnp.ones_like(usual.vpin)
    features = usual.book_features + jnp.where(jnp.arange(N_BOOK_FEATURES) == feature - 1, 2.0, 0.0)
    return Covariates(usual.volatility, vpin * like, imbalance * like, features)


def _limited(experiment: Any, policy: AbstractPolicy) -> AbstractPolicy:
    limit = jnp.asarray(experiment.hjb.max_inventory, experiment.hjb.horizon.dtype)
    return ExchangeLimit(policy, limit)


def worst_of(experiment: Any, prepared: Any, policy: AbstractPolicy) -> WorstMarket:
    """The worst market of a policy; the same starts for every policy and sweep row, so that differences are theirs."""
    market, attack = poisson_market(experiment, prepared.base), experiment.attack
    return worst_market(
        lambda moved: _worth(experiment, prepared, policy, moved),
        market,
        experiment.ambiguity,
        jax.random.key(0),
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
        found = worst_of(experiment, prepared, policy)
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
    summary, value, mid = replay_days(experiment, prepared, results["_policy"], results["_flaws"])
    n_steps = jnp.sum(prepared.n_steps)
    return {"days": summary | {"value": value, "mid": mid, "n_steps": n_steps}}


def replay_days(
    experiment: Any, prepared: Any, policy: AbstractPolicy, flaws: Flaws
) -> tuple[dict[str, Array], Float[Array, "day decision"], Float[Array, "day decision"]]:
    """Totals by day and policy; value and mid at the decisions of the first policy."""
    rules = execution_rules(experiment)
    own = experiment.execution.replay.max_inventory
    n_decisions = prepared.days[0][0].time_left.shape[1]

    def on_day(day: Any) -> tuple[dict[str, Array], Array, Array]:
        (tapes, moment, known), n_steps = day

        def run(flaws: Flaws) -> tuple[dict[str, Array], Array, Array]:
            tested = flawed(policy, flaws)
            # A desk that forgot its limit has not told the exchange of it either.
            limit = jnp.where(flaws.limited > 0, rules.max_inventory, own)
            config = eqx.tree_at(lambda c: c.max_inventory, rules, limit)
            (result,) = replay_together(
                lambda states: (tested(states[0]),), tapes, moment, known, (config,), record="path"
            )
            (rows,) = jnp.nonzero(moment.action == 3, size=n_decisions, fill_value=-1)
            summary = {
                "pnl": result.pnl,
                "max_drawdown": result.max_drawdown,
                "max_inventory": result.max_inventory,
                "fills": result.n_bid_fills + result.n_ask_fills,
                "violations": replay_violations(result, rules.max_inventory, n_steps),
            }
            return summary, result.path.value[rows], result.path.mid[rows]

        summary, value, mid = jax.vmap(run)(flaws)
        return summary, value[0], mid[0]

    return jax.lax.map(on_day, (prepared.days, prepared.n_steps))


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
