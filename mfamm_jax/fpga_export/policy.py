"""The kernel as a policy: float states in, quotes on the tick grid out, integers in between."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mfamm_jax.fpga_export.axes import TIME_BITS
from mfamm_jax.fpga_export.kernel import Book, Registers, State, fast_path, slow_path
from mfamm_jax.fpga_export.model import QuoteModel
from mfamm_jax.fpga_export.plan import PRICE_BITS, SIZE_BITS, VPIN_BITS, WIDEN, KernelFormat
from mfamm_jax.policies.quotes import AbstractPolicy, MarketState, Quotes
from mfamm_jax.policies.rules import QuoteRules

NEVER = 1 << VPIN_BITS
CENTRE = 1 << (PRICE_BITS - 3)


class KernelPolicy(AbstractPolicy):
    """Quotes of the integer kernel; fits simulation and replay in the place of the float policy.

    Args:
        model: Turns covariates into the table's coordinates, as the host of a board does.
        table: (inventory, *axes, channel).
        registers: Limits and gates.
        form: Widths; static.
    """

    model: QuoteModel
    table: Int[Array, "inventory ..."]
    registers: Registers
    form: KernelFormat = eqx.field(static=True)

    def encode(self, state: MarketState) -> State:
        """Codes of a state, nearest and within the inputs' width."""
        share, log_risk, skew = self.model.coordinates(state)
        # What is not a number becomes the highest risk code, which lies beyond the axis and is flagged.
        log_risk = jnp.where(jnp.isnan(share + log_risk + skew), jnp.inf, log_risk)
        risk = self.form.spec.risk
        return State(
            inventory=_code(state.inventory, 1.0, self.form.inventory.low, self.form.inventory.high),
            time=_code(share, 1 << TIME_BITS, 0, (1 << TIME_BITS) - 1),
            risk=_code((log_risk - risk.low) / risk.spacing, 1 << risk.fraction_bits, 0, (1 << risk.code_bits) - 1),
            skew=_code(skew, 1 / self.form.skew_step, self.form.skew.low, self.form.skew.high),
            vpin=_code(state.covariates.vpin, 1 << VPIN_BITS, 0, (1 << VPIN_BITS) - 1),
        )

    def __call__(self, state: MarketState) -> Quotes:
        """Depths of prices on the tick grid. A mid between two ticks stands for a book one tick wide, one on a tick for two."""
        offsets = slow_path(self.form, self.table, self.registers, self.encode(state))
        # Mids are relative to a reference price: it lies in the middle of the kernel's range.
        middle = 2 * CENTRE
        total = jnp.round(jnp.clip(2 * state.mid / self.model.tick_size, -middle, middle)).astype(jnp.int32)
        bid = (total - 1) >> 1
        quotes = fast_path(self.registers, offsets, Book(bid + CENTRE, total - bid + CENTRE))
        # Differences of whole half ticks first: floats of large prices have no room for them.
        bid_half, ask_half = (
            x.astype(state.mid.dtype) for x in (middle + total - 2 * quotes.bid, 2 * quotes.ask - total - middle)
        )
        off_grid = state.mid - 0.5 * total.astype(state.mid.dtype) * self.model.tick_size
        # A side that is not quoted keeps a finite depth.
        bid_depth = jnp.where(
            quotes.bid_size > 0, 0.5 * bid_half * self.model.tick_size + off_grid, self.model.tick_size
        )
        ask_depth = jnp.where(
            quotes.ask_size > 0, 0.5 * ask_half * self.model.tick_size - off_grid, self.model.tick_size
        )
        sizes = (x.astype(state.mid.dtype) for x in (quotes.bid_size, quotes.ask_size))
        return Quotes(bid_depth, ask_depth, *sizes)


def _code(x: Float[Array, "*b"], scale: float | int, low: int, high: int) -> Int[Array, "*b"]:
    """Nearest code within the ends; a number that is not finite goes to an end instead of wrapping."""
    clean = jnp.nan_to_num(x * scale, nan=float(low), posinf=float(high), neginf=float(low))
    return jnp.round(jnp.clip(clean, float(low), float(high))).astype(jnp.int32)


def make_registers(
    form: KernelFormat,
    *,
    depth_min: float,
    depth_max: float,
    vpin_gate: float = 1.0,
    vpin_widen: float = 0.0,
    vpin_stop: int = NEVER,
    order_size: int = 1,
    max_order_size: int | None = None,
    inventory_limit: int | None = None,
    price_low: int = 1,
    price_high: int = (1 << PRICE_BITS - 1) - 1,
    saturated_stops: bool = False,
) -> Registers:
    """Registers from ticks, lots and shares; ValueError naming what a register cannot hold.

    Args:
        form: Widths.
        depth_min: Smallest depth, at least one unit of the last bit: at zero bid and ask could meet [ticks].
        depth_max: Largest depth; more than any depth can reach means no limit [ticks].
        vpin_gate: VPIN above which quotes widen.
        vpin_widen: By how much for each unit of VPIN above [ticks].
        vpin_stop: Code from which on nothing is quoted.
        order_size: [lots].
        max_order_size: Default: the order size [lots].
        inventory_limit: Default: the table's [lots].
        price_low: Smallest price quoted [ticks].
        price_high: Largest price quoted [ticks].
        saturated_stops: Quote nothing on states outside the table's domain, instead of the domain's edge.
    """
    limit = form.depth_limit
    low = int(limit.quantize(np.array(depth_min), "depth_min"))
    high = int(limit.quantize(np.array(min(depth_max, limit.real(np.array(limit.high)))), "depth_max"))
    if low < 1:
        raise ValueError(
            f"depth_min is {depth_min:g} ticks, expected at least {limit.step:g}: at 0 bid and ask could meet"
        )
    if low > high:
        raise ValueError(f"depth_min is {depth_min:g} ticks, above depth_max, {depth_max:g}")
    end = 1 << (PRICE_BITS - 1)
    if not 0 <= price_low <= price_high < end:
        raise ValueError(
            f"price_low is {price_low} and price_high {price_high}, expected 0 <= the first <= the second < 2^30 ticks"
        )
    most = (1 << SIZE_BITS) - 1
    inventory_limit = form.spec.max_inventory if inventory_limit is None else inventory_limit
    for name, value, top in (
        ("order_size", order_size, most),
        ("max_order_size", order_size if max_order_size is None else max_order_size, most),
        ("inventory_limit", inventory_limit, form.spec.max_inventory),
    ):
        if not 1 <= value <= top:
            raise ValueError(f"{name} is {value}, expected 1 to {top} lots")
    if max_order_size is not None and order_size > max_order_size:
        raise ValueError(
            f"order_size is {order_size}, above max_order_size, {max_order_size}: nothing would ever be quoted"
        )
    if not 0 <= vpin_stop <= NEVER:
        raise ValueError(f"vpin_stop is {vpin_stop}, expected a code of 0 to {NEVER}, which means never")
    if not 0.0 <= vpin_gate <= 1.0:
        raise ValueError(f"vpin_gate is {vpin_gate:g}, expected a share of 0 to 1")
    return Registers(
        *(
            jnp.asarray(int(x), jnp.int32)
            for x in (
                low,
                high,
                _gate_code(vpin_gate),
                WIDEN.quantize(np.array(vpin_widen), "vpin_widen"),
                vpin_stop,
                order_size,
                order_size if max_order_size is None else max_order_size,
                inventory_limit,
                price_low,
                price_high,
                saturated_stops,
            )
        )
    )


def _gate_code(gate: float) -> int:
    """Code of a gate, at most one below the whole range."""
    return min(int(np.floor(gate * NEVER + 0.5)), NEVER - 1)


def stop_code(gate: float) -> int:
    """First code at which nothing is quoted: the rule still quotes at the gate itself; from 1 on never."""
    return NEVER if gate >= 1 else int(np.floor(gate * NEVER + 0.5)) + 1


def registers_of(form: KernelFormat, rules: QuoteRules, tick_size: float, **settings: float) -> Registers:
    """Registers that do what `rules` say; ValueError naming a rule the kernel does not have."""
    rule = {field.name: float(getattr(rules, field.name)) for field in dataclasses.fields(rules)}
    if rule["vpin_width"] != 0 or rule["vpin_reduced_size"] != 0:
        raise ValueError(
            "the kernel stops quoting at the VPIN gate: set quotes.vpin_width = 0 and quotes.vpin_reduced_size = 0"
        )
    if rule["imbalance_reduced_size"] != 1:
        raise ValueError("the kernel has no gate on the imbalance: set quotes.imbalance_reduced_size = 1")
    low, high = rule["min_half_spread"] / tick_size, rule["max_half_spread"] / tick_size
    return make_registers(form, depth_min=low, depth_max=high, vpin_stop=stop_code(rule["vpin_gate"]), **settings)


def check_same_model(policy: KernelPolicy, other: QuoteModel) -> None:
    """ValueError if another model's states cannot use this table: what is baked in differs.

    One table serves every risk aversion, volatility, speed and skew; decay in ticks, terminal penalty, costs and inventory limit
    are part of it.
    """
    mine, theirs = ((_baked(model)) for model in (policy.model, other))
    for name, value in mine.items():
        if not np.allclose(value, theirs[name], rtol=1e-9, atol=1e-12, equal_nan=True):
            raise ValueError(f"{name} is {theirs[name]}, the table was made for {value}: make a new table")


def _baked(model: QuoteModel) -> dict[str, np.ndarray]:
    """What a table depends on besides its coordinates, in ticks and in units of the reference speed."""
    problem, tick = model.problem, model.tick_size
    speed = jnp.exp(0.5 * (model.reference[0] + model.reference[1]))
    leaves = {
        "terminal_penalty / tick_size": problem.terminal_penalty / tick,
        "horizon * speed": problem.horizon * speed,
        "inventory_penalty / (speed * tick_size)": problem.inventory_penalty / (speed * tick),
        "bid_adverse_selection / tick_size": problem.bid_adverse_selection / tick,
        "ask_adverse_selection / tick_size": problem.ask_adverse_selection / tick,
        "fill_risk_aversion * tick_size": problem.fill_risk_aversion * tick,
        "min_depth / tick_size": problem.min_depth / tick,
        "max_depth / tick_size": problem.max_depth / tick,
        "reference skew": model.reference[1] - model.reference[0],
    }
    depths = jnp.linspace(0.0, 10.0, 11) * tick
    for side in ("bid", "ask"):
        curve = getattr(problem, side).log_intensity(depths)
        level = model.reference[0 if side == "bid" else 1]
        leaves[f"{side} decay over 10 ticks"] = curve[1:] - curve[:-1]
        # Speed may differ, a level beside it may not.
        leaves[f"{side} fill rate per speed"] = (curve - level)[:1]
    return {name: np.asarray(jax.device_get(x)) for name, x in leaves.items()}
