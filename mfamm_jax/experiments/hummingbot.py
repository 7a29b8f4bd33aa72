"""Experiment `hummingbot`: one strategy file, five models - what each would quote, and what each would have earned."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.experiments.experiment import AbstractExperiment, Arrays, ConfigError, Stage
from mfamm_jax.experiments.hummingbot_file import BotFile, LoadedFile, load_bot_file
from mfamm_jax.experiments.hummingbot_tables import (
    HJB_ROWS,
    MODELS,
    MOST_LOTS,
    N_LEVELS,
    N_WINDOWS,
    PER_SIDE,
    SHARES,
    SHOWN_SHARES,
    TIMES_LEFT,
    VOLATILITY_FACTORS,
    beside_target,
    earned_row,
    estimates_table,
    quote_tables,
    settings_table,
)
from mfamm_jax.features.volatility import population_volatility, rolling_volatility, tick_volatility
from mfamm_jax.fields import Checked, real_field, static_field
from mfamm_jax.models.intensity import ExponentialIntensity
from mfamm_jax.models.mid_price import BrownianMid
from mfamm_jax.policies.quotes import Covariates
from mfamm_jax.results import RESULTS
from mfamm_jax.simulation.hummingbot import Bot, DepthTable
from mfamm_jax.simulation.step import PoissonMarket, step_with
from mfamm_jax.solvers.hjb import Grid, HJBProblem, choose_scheme, optimal_depths, rulebook_penalty, solve_hjb
from mfamm_jax.solvers.volume_decay import fit_volume_decay


class PolicyFile(Checked):
    """The strategy file, and what the models need that its generation does not say."""

    file: str = static_field(default="conf_avellaneda.yml", help="strategy file of Hummingbot")
    min_spread: Float[Array, ""] = real_field(
        default=0.001,
        lower=0.0,
        strict=True,
        help="where the file's is 0: smallest depth of 2021, a fraction of the mid",
    )
    max_spread: Float[Array, ""] = real_field(
        default=0.02, lower=0.0, strict=True, help="where the file has none: largest depth as a fraction of the mid"
    )
    inventory_risk_aversion: Float[Array, ""] = real_field(
        default=0.5, lower=0.0, upper=1.0, help="where the file has none"
    )
    vol_to_spread_multiplier: Float[Array, ""] = real_field(default=1.3, lower=0.0, help="where the file has none")
    volatility_sensibility: Float[Array, ""] = real_field(
        default=0.2, lower=0.0, help="where the file has none: change of volatility that makes 2021 recalculate"
    )
    risk_factor: Float[Array, ""] = real_field(
        default=1.0, lower=0.0, strict=True, help="where the file has none: gamma of the later generations"
    )
    hjb_risk_aversion: Float[Array, ""] = real_field(
        default=0.01, lower=0.0, unit="1/(price base)", source="(1) gamma", help="of the exact solution"
    )
    hjb_terminal_penalty: Float[Array, ""] = real_field(
        default=0.0, lower=0.0, unit="price/base", source="(9) alpha", help="of the exact solution"
    )


class World(Checked):
    """The market in which all of them trade."""

    mid: Float[Array, ""] = real_field(default=100.0, lower=0.0, strict=True, unit="price", help="mid at the start")
    volatility: Float[Array, ""] = real_field(
        default=0.02, lower=0.0, strict=True, unit="price/sqrt(s)", help="of the mid"
    )
    intensity: Float[Array, ""] = real_field(
        default=0.2, lower=0.0, strict=True, unit="1/s", source="(3)", help="orders per second and side at the mid"
    )
    decay: Float[Array, ""] = real_field(
        default=10.0, lower=0.0, strict=True, unit="1/price", source="(3)", help="decay of the fill rate with depth"
    )
    tick_size: Float[Array, ""] = real_field(
        default=0.01, lower=0.0, strict=True, unit="price", help="of the trades that the estimators see"
    )
    adverse_selection: Float[Array, ""] = real_field(default=0.0, unit="price", help="move of the mid against a fill")
    maker_fee: Float[Array, ""] = real_field(
        default=0.0, lower=-0.05, upper=0.05, usual=(-0.001, 0.002), help="fraction of the price, negative = rebate"
    )


class Purse(Checked):
    """Balances at the start."""

    base: Float[Array, ""] = real_field(default=10.0, lower=0.0, unit="base", help="base asset")
    quote: Float[Array, ""] = real_field(default=1000.0, lower=0.0, unit="price base", help="money")


class Trial(Checked):
    """How long and how often they trade."""

    n_paths: int = static_field(default=1000, lower=2, help="paths, the same random numbers for every model")
    time_step: Float[Array, ""] = real_field(default=1.0, lower=0.0, strict=True, unit="s", help="the bot's tick")
    n_steps: int = static_field(default=3600, lower=1, help="ticks per path")


class PreparedFile(eqx.Module):
    """What a run reads once."""

    facts: LoadedFile = eqx.field(static=True)


class Hummingbot(AbstractExperiment):
    """Reads the bot's own file and compares.

    Args:
        policy: The file and what it leaves open.
        world: Market.
        wallet: Balances.
        trial: Length and number of paths.
    """

    policy: PolicyFile
    world: World
    wallet: Purse
    trial: Trial

    @classmethod
    def prepared_paths(cls) -> tuple[str, ...]:
        """The file is read again when it changes."""
        return ("policy.file",)

    def numbers_per_row(self) -> int:
        """Paths and memory of every model."""
        return len(MODELS) * self.trial.n_paths * 64

    def prepare(self, folder: Any, seed: int, say: Callable[[str], None], progress: Any = None) -> PreparedFile:
        """Reads the file and keeps a copy in the run folder."""
        loaded = load_bot_file(self.policy.file, folder)
        say(f"{loaded.name}: {loaded.file.compat}, {loaded.file.market}")
        self._check(loaded.name, loaded.file)
        return PreparedFile(loaded)

    def _check(self, name: str, file: BotFile) -> None:
        total = float(self.wallet.base + self.wallet.quote / self.world.mid)
        if total <= 0:
            raise ConfigError("wallet: base and quote are both 0: there is nothing to trade with")
        if file.order_amount > total:
            raise ConfigError(
                f"{name}: order_amount is {file.order_amount:g}, but wallet.base and wallet.quote are worth {total:g} base only"
            )
        smallest = self.min_spread(file, "hummingbot-2021")
        if file.max_spread is None and float(self.policy.max_spread) <= float(smallest):
            raise ConfigError(
                f"policy.max_spread is {float(self.policy.max_spread):g}, expected more than min_spread = {float(smallest):g} "
                f"per side of {name}"
            )
        if self.trial.n_steps <= file.n_buffered:
            raise ConfigError(
                f"trial.n_steps is {self.trial.n_steps}, expected more than volatility_buffer_size = {file.n_buffered} of {name}: "
                "the bots would never begin"
            )

    def plan(self, batch: Any, prepared: PreparedFile) -> tuple[Any, str]:
        """Grid and scheme of the exact solution."""
        file = prepared.facts.file
        totals = np.asarray(batch.wallet.base + batch.wallet.quote / batch.world.mid)
        grid = Grid(int(np.clip(np.max(totals) / (file.order_amount * file.n_levels), 1, MOST_LOTS)), HJB_ROWS)
        problems = jax.vmap(lambda e: e.problem(file))(batch)
        scheme, reason = choose_scheme(problems, grid)
        return (scheme, grid), reason

    def min_spread(self, file: BotFile, model: str) -> Float[Array, ""] | float:
        """In the model's own convention: per side for the text and 2021, in total since; 2021 needs one."""
        own, given = model in PER_SIDE, file.compat in PER_SIDE
        value = file.min_spread * (1.0 if own == given else 0.5 if own else 2.0)
        return self.policy.min_spread if model == "hummingbot-2021" and value == 0 else value

    @property
    def horizon(self) -> Float[Array, ""]:
        """Length of a path [s]."""
        return self.trial.time_step * self.trial.n_steps

    def problem(self, file: BotFile) -> HJBProblem:
        """The exact problem of this world, with all levels of a side as one lot; a fee is a cost of every fill."""
        lot = file.order_amount * file.n_levels
        side = ExponentialIntensity(self.world.intensity, self.world.decay)
        cost = self.world.adverse_selection + self.world.maker_fee * self.world.mid
        penalty = rulebook_penalty(self.policy.hjb_risk_aversion, self.world.volatility)
        return HJBProblem(
            side,
            side,
            penalty * lot,
            self.policy.hjb_terminal_penalty * lot,
            self.horizon,
            bid_adverse_selection=cost,
            ask_adverse_selection=cost,
        )

    def market(self) -> PoissonMarket:
        """The world as the simulator knows it."""
        side = ExponentialIntensity(self.world.intensity, self.world.decay)
        world = self.world
        return PoissonMarket(
            side,
            side,
            world.volatility,
            bid_adverse_selection=world.adverse_selection,
            ask_adverse_selection=world.adverse_selection,
            fee_rate=world.maker_fee,
            mid=BrownianMid(volatility=world.volatility, start_price=world.mid),
        )

    def bot(self, model: str, file: BotFile, depths: DepthTable | None = None) -> Bot:
        """One of `MODELS` with the file's settings; what the file lacks comes from the config."""
        later = model in ("hummingbot-2021-12", "hummingbot-2022")
        closing = self.horizon if file.closing_time is None else jnp.asarray(file.closing_time, self.horizon.dtype)
        if model == "hjb":
            closing = self.horizon

        def given(name):
            value = getattr(file, name)
            return getattr(self.policy, name) if value is None else value

        return Bot(
            base=self.wallet.base,
            quote=self.wallet.quote,
            target=file.target,
            order_amount=file.order_amount * (file.n_levels if model == "hjb" else 1),
            volatility=self.world.volatility * jnp.sqrt(closing),
            min_spread=self.min_spread(file, model),
            max_spread=given("max_spread"),
            inventory_risk_aversion=given("inventory_risk_aversion"),
            vol_to_spread_multiplier=given("vol_to_spread_multiplier"),
            volatility_sensibility=given("volatility_sensibility"),
            risk_factor=given("risk_factor"),
            intensity_decay=self.world.decay,
            order_shape=file.order_shape or 0.0,
            closing_time=closing,
            maker_fee=self.world.maker_fee,
            refresh_time=file.order_refresh_time,
            fill_delay=file.filled_order_delay,
            level_distance_pct=file.level_distance_pct,
            depths=depths,
            model=model,
            n_buffered=file.n_buffered,
            n_levels=1 if model == "hjb" else file.n_levels,
            infinite=later and file.closing_time is None,
            adds_costs=file.add_transaction_costs and model != "hjb",
        )

    def expected_volatility(self, model: str, file: BotFile, factor: float = 1.0) -> Float[Array, ""]:
        """What a model measures in this world, in expectation of the square [price]."""
        tick = factor * self.world.volatility * jnp.sqrt(self.trial.time_step)
        n = file.n_buffered
        if model == "hummingbot-2021":
            # The variance of n points of a random walk is (n^2 - 1)/(6 n) of a step's.
            return tick * np.sqrt((n**2 - 1) / (6 * n))
        if model in ("hummingbot-2021-12", "hummingbot-2022"):
            return tick * np.sqrt((n - 1) / n)
        return factor * self.bot(model, file).volatility

    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """Solve, quote over inventory, volatility and time, trade."""
        return [
            ("solve", lambda e, p, results, key: e.solve(plan, p.facts.file)),
            ("quote", lambda e, p, results, key: {"quotes": e.curves(p.facts.file, results)}),
            ("estimate", lambda e, p, results, key: {"estimates": e.estimate(p.facts.file, key)}),
            ("trade", lambda e, p, results, key: {"paths": e.trade(p.facts.file, results, key)}),
        ]

    def solve(self, plan: Any, file: BotFile) -> Arrays:
        """Exact depths per time left and lots, and at other volatilities."""
        scheme, grid = plan

        def depths(factor):
            scaled = eqx.tree_at(lambda e: e.world.volatility, self, factor * self.world.volatility)
            problem = scaled.problem(file)
            solution = solve_hjb(problem, scheme, grid)
            bid, ask = optimal_depths(problem, solution.value.relative_value, axis=1)
            table = {"time_left": solution.value.time_left, "bid": bid, "ask": ask}
            return table, solution.result == RESULTS.successful

        factors = jnp.asarray(VOLATILITY_FACTORS, self.horizon.dtype)
        tables, ok = jax.vmap(depths)(factors)
        own = VOLATILITY_FACTORS.index(1.0)
        return {"depths": jax.tree.map(lambda x: x[own], tables), "by_volatility": tables, "solver_ok": ok[own]}

    def curves(self, file: BotFile, results: Arrays) -> Arrays:
        """Distances of bid, reservation price and ask from the mid, and sizes, per model."""
        mid = self.world.mid
        total = self.wallet.base + self.wallet.quote / mid
        shares = jnp.asarray(SHARES, mid.dtype)

        def at(model, share, row, left):
            depths = DepthTable(**jax.tree.map(lambda x: x[row], results["by_volatility"]))
            bot, volatility = (
                self.bot(model, file, depths),
                self.expected_volatility(model, file, VOLATILITY_FACTORS[row]),
            )
            bot = eqx.tree_at(lambda b: (b.base, b.quote), bot, (share * total, (1 - share) * total * mid))
            wallet = bot.wallet(self.market().start(self.horizon, Covariates.neutral(self.world.volatility)))
            # Frozen at the start of the cycle with this very inventory.
            parameters = bot.parameters(mid, wallet, volatility)
            quotes = bot.quotes(mid, wallet, jnp.asarray(left, mid.dtype), parameters, volatility)
            values = quotes.bid, quotes.reservation_price, quotes.ask
            return jnp.stack([*(x - mid for x in values), quotes.bid_size, quotes.ask_size])

        usual, beside = VOLATILITY_FACTORS.index(1.0), beside_target(file)
        out: Arrays = {"share": shares}
        for model in MODELS:
            out[model] = {
                "inventory": jax.vmap(lambda share, m=model: at(m, share, usual, 1.0))(shares),
                "shown": jnp.stack([at(model, share, usual, 1.0) for share in SHOWN_SHARES]),
                "volatility": jnp.stack([at(model, beside, row, 1.0) for row in range(len(VOLATILITY_FACTORS))]),
                "time": jnp.stack([at(model, beside, usual, left) for left in TIMES_LEFT]),
            }
        return out

    def estimate(self, file: BotFile, key: PRNGKeyArray) -> Arrays:
        """What the bot's estimators and ours say of windows of this world: of the buffered mids and their time."""
        world, n = self.world, file.n_buffered
        window = n * self.trial.time_step
        # Coarser where the levels would not hold all but e^-12 of the orders.
        tick_size = jnp.maximum(world.tick_size, 12 / (N_LEVELS * world.decay))
        levels = jnp.arange(N_LEVELS, dtype=window.dtype) * tick_size
        # An order reaches a level and not the next; half of its last step is unknown to all.
        share = jnp.exp(-world.decay * levels) * -jnp.expm1(-world.decay * tick_size)

        def one(key):
            keys = jax.random.split(key, 2)
            steps = jax.random.normal(keys[0], (n - 1,), window.dtype)
            mids = jnp.cumsum(jnp.concatenate([jnp.zeros(1, window.dtype), steps]))
            mids = mids * world.volatility * jnp.sqrt(self.trial.time_step)
            orders = jax.random.poisson(keys[1], 2 * world.intensity * window * share).astype(window.dtype)
            fitted = fit_volume_decay(levels, orders, orders > 0)
            counts = jnp.sum(orders)
            # The likelihood of orders that stopped within a tick; every order counts, so the mean distance decides.
            mean = jnp.sum(orders * levels) / jnp.maximum(counts, 1.0)
            ours = jnp.log1p(tick_size / mean) / tick_size
            robust = rolling_volatility(mids, self.trial.time_step, 1e-12 * world.mid, n_window=n, n_minimum=2)[-1]
            sizes = fitted.value
            return {
                "population": population_volatility(mids),
                "tick": tick_volatility(mids),
                "robust": robust,
                "kappa": jnp.where(fitted.result == RESULTS.successful, sizes[1], jnp.nan),
                "alpha": jnp.where(fitted.result == RESULTS.successful, sizes[0], jnp.nan),
                "decay": jnp.where(mean > 0, ours, jnp.nan),
                "rate": counts / (2 * window),
            }

        return jax.vmap(one)(jax.random.split(key, N_WINDOWS))

    def trade(self, file: BotFile, results: Arrays, key: PRNGKeyArray) -> Arrays:
        """P&L beyond holding the wallet, fees, fills, inventory per path: the same random numbers for every model."""
        depths = DepthTable(**results["depths"])
        return {model: self.paths(self.bot(model, file, depths), key) for model in MODELS}

    def paths(self, bot: Bot, key: PRNGKeyArray) -> Arrays:
        """All paths of one bot."""
        market, n_paths = self.market(), self.trial.n_paths
        zero = jnp.zeros_like(self.horizon)

        def tick(carry, uniforms):
            state, memory = carry
            memory, quotes = bot.act(memory, state, self.trial.time_step)
            state, record = step_with(market, state, quotes, self.trial.time_step, zero, uniforms)
            memory = bot.filled(memory, record.bid_fill, record.ask_fill)
            quoted = jnp.any(quotes.bid_size > 0) & jnp.any(quotes.ask_size > 0)
            fills = (record.bid_fill > 0).astype(zero.dtype) + (record.ask_fill > 0)
            seen = record.capture, record.revaluation, record.fees, fills, quoted.astype(zero.dtype), state.inventory**2
            return (state, memory), seen

        def all_paths(carry, index):
            carry, sums = carry
            uniforms = jax.random.uniform(jax.random.fold_in(key, index), (market.n_uniforms, n_paths), zero.dtype)
            carry, seen = jax.vmap(tick, in_axes=(0, 1))(carry, uniforms)
            return (carry, tuple(total + x for total, x in zip(sums, seen, strict=True))), None

        start = market.start(self.horizon, Covariates.neutral(self.world.volatility)), bot.start()
        start = jax.tree.map(lambda x: jnp.broadcast_to(x, (n_paths, *x.shape)), start)
        sums = (jnp.zeros((n_paths,), zero.dtype),) * 6
        ((state, _), sums), _ = jax.lax.scan(all_paths, (start, sums), jnp.arange(self.trial.n_steps))
        capture, revaluation, fees, fills, quoted, square = sums
        return {
            "pnl": state.cash + state.inventory * state.mid,
            "capture": capture,
            "revaluation": revaluation,
            "fees": fees,
            "fills": fills,
            "quoted": quoted / self.trial.n_steps,
            "inventory_rms": jnp.sqrt(square / self.trial.n_steps),
            "final_inventory": state.inventory,
        }

    def metrics(self, plan: Any, prepared: PreparedFile, results: Arrays, key: PRNGKeyArray) -> dict[str, Any]:
        """Tables of the report and the differences with their intervals."""
        file = prepared.facts.file
        paths = {m: {k: np.asarray(x, float) for k, x in results["paths"][m].items()} for m in MODELS}
        residual = max(
            float(np.max(np.abs(p["pnl"] - p["capture"] - p["revaluation"] + p["fees"]))) for p in paths.values()
        )
        earned = [earned_row(model, paths[model], paths[file.compat], file.compat) for model in MODELS]
        return {
            "generation": file.compat,
            "pair": file.market,
            "identity_residual": residual,
            "tables": [
                settings_table(self, file),
                estimates_table(self, file, results["estimates"]),
                *quote_tables(file, results["quotes"]),
                {
                    "title": f"Earned over {float(self.horizon):,.0f} s, {self.trial.n_paths:,} paths with common random numbers",
                    "header": [
                        "model",
                        "P&L beyond holding",
                        "std",
                        f"minus {file.compat}",
                        "95 % interval",
                        "spread captured",
                        "fees",
                        "fills",
                        "both sides quoted",
                        "rms inventory",
                    ],
                    "rows": earned,
                    "notes": [
                        "P&L in the quote currency: cash and inventory traded, at the last mid; holding the wallet earns 0. "
                        "Inventory is counted from the wallet at the start: a wallet off its target is also being rebalanced.",
                        f"The difference is taken path by path, on the same random numbers. The first {file.n_buffered} ticks of "
                        "every path are spent filling the buffer of the volatility.",
                        "hjb solves the continuous-time problem of this market: it knows nothing of the life of orders, of the pause "
                        "after a fill or of the limits of the wallet, and weighs inventory by policy.hjb_risk_aversion, so that "
                        "another model may earn more here.",
                    ],
                },
            ],
            "pnl": {m: float(paths[m]["pnl"].mean()) for m in MODELS},
            "ok": bool(results["solver_ok"]) and all(np.isfinite(p["pnl"]).all() for p in paths.values()),
        }

    def provenance(self, prepared: PreparedFile) -> dict[str, Any]:
        """The file and its hash."""
        return {"strategy_file": {"name": prepared.facts.name, "sha256": prepared.facts.digest}}

    def row(self, plan: Any, prepared: PreparedFile, key: PRNGKeyArray) -> dict[str, Array]:
        """Mean and standard deviation of every model's P&L."""
        file = prepared.facts.file
        results = self.solve(plan, file)
        paths = self.trade(file, results, key)
        out: dict[str, Array] = {}
        for model in MODELS:
            pnl = paths[model]["pnl"]
            out |= {f"pnl_{model}": pnl.mean(), f"std_{model}": pnl.std()}
        return out | {"ok": results["solver_ok"]}
