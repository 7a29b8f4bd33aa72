r"""What must hold after every step, whatever the market does: checked on fuzzed steps and on replayed paths.

The fuzz plays a policy in markets it was never made for. Per path the market is drawn, orders of magnitude around the given one; per step the
conditions (volatility, VPIN, imbalance, book features, time left) are drawn anew with their extremes, half of all quotes are filled for
certain, and the mid jumps. Nothing of this can excuse a violation.

Source: docs/equations.md, adversarial testing.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.policies.quotes import N_BOOK_FEATURES, AbstractPolicy, Covariates, MarketState, Quotes
from mfamm_jax.simulation.replay import ReplayResult
from mfamm_jax.simulation.step import PoissonMarket, StepRecord, step_with

N_CONDITIONS = 9 + N_BOOK_FEATURES  # random numbers that a step's conditions take
INVARIANTS = ("finite", "own quotes do not cross", "inventory limit", "P&L identity")


class Fuzz(Checked):
    """How much is tried, and how far from the given market."""

    n_paths: int = static_field(default=1024, lower=1, help="fuzzed paths, each in a market of its own")
    n_steps: int = static_field(default=1000, lower=1, help="steps of each")
    decades: Float[Array, ""] = real_field(
        default=3.0, lower=0.0, upper=8.0, help="powers of ten around the given market and conditions"
    )
    jump: Float[Array, ""] = real_field(
        default=10.0, lower=0.0, help="largest jump of the mid, in what the volatility moves it within the horizon"
    )


class Broken(eqx.Module):
    """What happened in fuzzed steps, in the order of `INVARIANTS`.

    Args:
        n_steps: Checked.
        counts: Steps that violate each.
        state: The policy's state where each was violated first, on one path; zeros where it never was.
        quotes: What was quoted there.
    """

    n_steps: Int[Array, ""]
    counts: Int[Array, " invariant"]
    state: MarketState
    quotes: Quotes


def step_violations(
    before: MarketState,
    quotes: Quotes,
    after: MarketState,
    record: StepRecord,
    max_inventory: Float[Array, ""] | float | int,
) -> Bool[Array, " invariant"]:
    """Which invariants a step of a simulated market breaks.

    Rounding is allowed for: the identity may be off by 64 units in the last place of the largest number in it. Numbers that are not finite break the
    first invariant alone; with several levels a side the nearest one decides whether quotes cross.
    """
    sizes = [jnp.atleast_1d(size) for size in (quotes.bid_size, quotes.ask_size)]
    depths = [jnp.broadcast_to(x, size.shape) for x, size in zip((quotes.bid_depth, quotes.ask_depth), sizes)]
    nearest = [jnp.min(jnp.where(size > 0, depth, jnp.inf)) for size, depth in zip(sizes, depths)]
    parts = jnp.stack([record.capture, record.revaluation, -record.fees])
    worth = [state.cash + state.inventory * state.mid for state in (before, after)]
    quoted, money = jnp.concatenate([*depths, *sizes]), jnp.stack([after.cash, after.mid, *worth, *parts])
    quoted_finite, money_finite = jnp.all(jnp.isfinite(quoted)), jnp.all(jnp.isfinite(money))
    rounding = jnp.finfo(parts.dtype)
    largest = jnp.max(jnp.abs(jnp.stack([*worth, after.cash, before.cash, *parts])))
    off = jnp.abs(worth[1] - worth[0] - jnp.sum(parts))
    return jnp.stack(
        [
            ~(quoted_finite & money_finite),
            quoted_finite & (nearest[0] + nearest[1] <= 0),
            jnp.abs(after.inventory) > max_inventory * (1 + 8 * rounding.eps),
            money_finite & (off > 64 * rounding.eps * largest + rounding.tiny),
        ]
    )


def fuzz_policy(
    policy: AbstractPolicy,
    market: PoissonMarket,
    horizon: Float[Array, ""],
    covariates: Covariates,
    max_inventory: Float[Array, ""] | float | int,
    fuzz: Fuzz,
    key: PRNGKeyArray,
) -> Broken:
    """Plays a policy through `n_paths` times `n_steps` fuzzed steps and counts what breaks.

    Args:
        policy: Quotes.
        market: What the fuzz starts from.
        horizon: Usual time left [s]; drawn from 0 to ten times it.
        covariates: Usual conditions.
        max_inventory: Limit that must hold [lots].
        fuzz: How much and how far.
        key: Of all draws.
    """
    dtype = horizon.dtype

    def path(key: PRNGKeyArray) -> tuple[Array, Any, Any]:
        world = _fuzzed_market(market, fuzz.decades, jax.random.fold_in(key, 0))
        state = world.start(horizon, covariates)
        n_uniforms = world.n_uniforms
        n_draws = N_CONDITIONS + 3 + n_uniforms

        def tick(carry: tuple, index: Array) -> tuple[tuple, None]:
            state, counts, seen, quoted = carry
            draws = jax.random.uniform(jax.random.fold_in(key, 1 + index), (n_draws,), dtype)
            known, left = _fuzzed_conditions(covariates, horizon, fuzz.decades, draws[:N_CONDITIONS])
            state = eqx.tree_at(lambda s: (s.covariates, s.time_left), state, (known, left))
            quotes = policy(state)
            certain, jumps, uniforms = (
                draws[N_CONDITIONS : -n_uniforms - 1],
                draws[-n_uniforms - 1],
                draws[-n_uniforms:],
            )
            uniforms = uniforms.at[:2].set(jnp.where(certain < 0.5, 0.0, uniforms[:2]))
            time_step = jnp.maximum(left, horizon * 1e-3) / 100
            after, record = step_with(world, state, quotes, time_step, jnp.zeros((), dtype), uniforms)
            broken = step_violations(state, quotes, after, record, max_inventory)
            first = broken & (counts == 0)
            seen, quoted = _kept((seen, quoted), (state, quotes), first)
            # A jump of the mid, and cash that starts anew with it: rounding of a long past must not hide a broken step.
            jump = fuzz.jump * market.volatility * jnp.sqrt(horizon)
            moved = jump * (2 * jumps - 1)
            fresh = MarketState(moved, after.inventory, -after.inventory * moved, left, known, after.hidden)
            keeps = jnp.all(jnp.isfinite(jnp.stack([after.inventory, after.cash])))
            fresh = jax.tree.map(lambda new, old: jnp.where(keeps, new, old), fresh, world.start(horizon, covariates))
            return (fresh, counts + broken, seen, quoted), None

        none = jnp.zeros(len(INVARIANTS), jnp.int32)
        nothing = jax.tree.map(lambda x: jnp.zeros((len(INVARIANTS), *x.shape), x.dtype), (state, policy(state)))
        start = (state, none, *nothing)
        (_, counts, seen, quoted), _ = jax.lax.scan(tick, start, jnp.arange(fuzz.n_steps))
        return counts, seen, quoted

    counts, seen, quoted = jax.vmap(path)(jax.random.split(key, fuzz.n_paths))
    which = jnp.argmax(counts > 0, axis=0)  # the first path that broke it
    each = jnp.arange(len(INVARIANTS))
    n_steps = jnp.asarray(fuzz.n_paths * fuzz.n_steps, jnp.int32)
    seen, quoted = jax.tree.map(lambda x: x[which, each], (seen, quoted))
    return Broken(n_steps, jnp.sum(counts, axis=0), seen, quoted)


def _kept(old: Any, new: Any, first: Bool[Array, " invariant"]) -> Any:
    """The new numbers where an invariant is violated for the first time."""

    def chosen(before: Array, now: Array) -> Array:
        return jnp.where(first.reshape(-1, *[1] * now.ndim), now, before)

    return jax.tree.map(chosen, old, new)


def _factor(key: PRNGKeyArray, decades: Float[Array, ""]) -> Float[Array, ""]:
    return 10.0 ** (decades * jax.random.uniform(key, (), decades.dtype, -1.0, 1.0))


def _fuzzed_market(market: PoissonMarket, decades: Float[Array, ""], key: PRNGKeyArray) -> PoissonMarket:
    """Every real parameter times a factor of its own."""
    moving, fixed = eqx.partition(market, eqx.is_inexact_array)
    leaves, tree = jax.tree.flatten(moving)
    moved = [x * _factor(jax.random.fold_in(key, i), decades) for i, x in enumerate(leaves)]
    return eqx.combine(jax.tree.unflatten(tree, moved), fixed)


def _fuzzed_conditions(
    usual: Covariates, horizon: Float[Array, ""], decades: Float[Array, ""], draws: Float[Array, " draw"]
) -> tuple[Covariates, Float[Array, ""]]:
    """Conditions and time left: anything that is possible, and often an end of what is."""
    volatility, quiet, factor, *pairs = draws[: N_CONDITIONS - N_BOOK_FEATURES]

    def drawn(value: Array, decides: Array, low: float) -> Float[Array, ""]:
        value = low + (1 - low) * value
        end = jnp.where(value > 0.5 * (low + 1), 1.0, low)
        return jnp.where(decides < 0.3, end, value)

    volatility = usual.volatility * 10 ** (decades * (2 * volatility - 1))
    volatility = jnp.where(quiet < 0.05, 0.0, volatility)
    features = (2 * draws[N_CONDITIONS - N_BOOK_FEATURES :] - 1) * 10 ** (decades * (2 * factor - 1))
    left = horizon * 10 * drawn(pairs[0], pairs[1], 0.0) ** 3
    return Covariates(volatility, drawn(pairs[2], pairs[3], 0.0), drawn(pairs[4], pairs[5], -1.0), features), left


def replay_violations(
    result: ReplayResult,
    max_inventory: Float[Array, ""] | float | int,
    n_steps: Int[Array, ""] | int | None = None,
) -> Int[Array, " invariant"]:
    """Steps of a replayed path that break each of `INVARIANTS`; the identity is judged on the sums over the path, as one step.

    Args:
        result: With its path.
        max_inventory: Limit that must hold [lots].
        n_steps: Steps that count; the rest only makes sessions equally long. None = all.
    """
    path = result.path
    if path is None:
        raise ValueError('the replay kept no path; replay with record="path"')
    dtype = path.value.dtype
    resting = path.order_size > 0
    ticks = path.order_ticks if path.order_ticks.ndim == 3 else path.order_ticks[..., None]
    resting = resting if resting.ndim == 3 else resting[..., None]
    best_bid = jnp.max(jnp.where(resting[:, 0], ticks[:, 0], -(2**30)), axis=-1)
    best_ask = jnp.min(jnp.where(resting[:, 1], ticks[:, 1], 2**30), axis=-1)
    counts = jnp.arange(path.value.shape[0]) < (path.value.shape[0] if n_steps is None else n_steps)
    finite = jnp.isfinite(path.value) & jnp.isfinite(path.inventory)
    eps = jnp.finfo(dtype).eps
    terms = jnp.stack([result.capture, result.revaluation, result.fees, result.pnl])
    scale = jnp.max(jnp.abs(path.value)) + jnp.max(jnp.abs(path.inventory * path.mid)) + jnp.max(jnp.abs(terms))
    # Rounding grows with the number of sums.
    off = jnp.abs(result.residual) > eps * (64 + path.value.shape[0]) * scale + jnp.finfo(dtype).tiny
    broken = (
        jnp.sum(counts & ~finite),
        jnp.sum(counts & (best_bid >= best_ask)),
        jnp.sum(counts & (jnp.abs(path.inventory) > max_inventory * (1 + 64 * eps))),
        off.astype(int),
    )
    return jnp.stack([jnp.asarray(x, jnp.int32) for x in broken])
