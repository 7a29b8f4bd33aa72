"""Experiment `fpga_quote_kernel`: a control problem as an integer kernel - what it costs in P&L, and the project it becomes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mfamm_jax.experiments.experiment import AbstractExperiment, ConfigError, Stage
from mfamm_jax.experiments.fpga_run import KernelOutcome, compare_stage, order_logs, summary
from mfamm_jax.experiments.fpga_tables import kernel_metrics
from mfamm_jax.experiments.observe import Features, observe
from mfamm_jax.experiments.quoting import Execution, replay_part
from mfamm_jax.experiments.quoting_run import HostReport, session_provenance
from mfamm_jax.experiments.signal_quotes import Comparison
from mfamm_jax.fields import Checked, in_precision, static_field
from mfamm_jax.fpga_export import (
    KernelPolicy,
    KernelProject,
    ObservedError,
    QuantizedTable,
    QuoteModel,
    SegmentedAxis,
    TableSpec,
    UniformAxis,
    make_registers,
    observe_error,
    quantize,
    stop_code,
)
from mfamm_jax.market.events import NS, DataError
from mfamm_jax.market.facts import session_facts
from mfamm_jax.market.thinning import with_books
from mfamm_jax.models.curves import TabulatedIntensity
from mfamm_jax.models.intensity import AbstractIntensity, ExponentialIntensity, LogLinearScale
from mfamm_jax.policies import (
    AbstractPolicy,
    Covariates,
    QuoteRules,
    RuledPolicy,
    TableAxes,
    WidenedPolicy,
    largest_problem,
    tabulate,
)
from mfamm_jax.results import RESULTS
from mfamm_jax.simulation.tape import Tape
from mfamm_jax.solvers.hjb import Grid, HJBProblem, choose_scheme, rulebook_penalty


class ExponentialCurve(Checked):
    """(3) with known coefficients: log-linear in VPIN and imbalance, exponential in depth."""

    scale: float = static_field(
        default=2.0, lower=0.0, strict=True, unit="1/s", source="(3)", help="fill rate at the mid"
    )
    decay: float = static_field(
        default=0.2, lower=0.0, strict=True, unit="1/ticks", source="(3)", help="decay of the fill rate with depth"
    )
    vpin: float = static_field(default=0.0, source="(3) beta_2", help="of both sides")
    imbalance: float = static_field(default=0.0, source="(3) beta_3", help="of asks; bids have its negative")

    def intensity(self, tick_size: float) -> AbstractIntensity:
        """At the reference: VPIN and imbalance 0."""
        return ExponentialIntensity(self.scale, self.decay / tick_size)

    @property
    def reference(self) -> float:
        """Log fill rate at the reference."""
        return float(np.log(self.scale))


class TabulatedCurve(Checked):
    """Fill rates at a list of depths, as a fitted curve of boosted trees or of a queue model gives them."""

    depths: tuple[float, ...] = static_field(
        default=(1.0, 2.0, 3.0, 4.0, 5.0), unit="ticks", help="depths that may be quoted"
    )
    rates: tuple[float, ...] = static_field(
        default=(1.0, 0.7, 0.5, 0.3, 0.2), unit="1/s", help="fill rate at each depth"
    )
    vpin: float = static_field(default=0.0, source="(3) beta_2", help="log factor of both sides")
    imbalance: float = static_field(default=0.0, source="(3) beta_3", help="log factor of asks; bids have its negative")

    def intensity(self, tick_size: float) -> AbstractIntensity:
        """At the reference."""
        return TabulatedIntensity(jnp.asarray(self.depths) * tick_size, jnp.asarray(self.rates))

    @property
    def reference(self) -> float:
        """Log factor at the reference."""
        return 0.0


CURVES: dict[str, type] = {"exponential": ExponentialCurve, "tabulated": TabulatedCurve}


class KernelControl(Checked):
    """The control problem (1), (8)-(10) at the reference; distances in ticks."""

    risk_aversion: float = static_field(
        default=0.1, lower=0.0, strict=True, unit="1/(price lot)", source="(1) gamma", help="weight of inventory risk"
    )
    volatility: float = static_field(
        default=2.0, lower=0.0, strict=True, unit="ticks/sqrt(s)", help="reference: middle of the risk axis"
    )
    terminal_penalty: float = static_field(
        default=0.01, lower=0.0, unit="ticks/lot", source="(9) alpha", help="penalty on the final inventory squared"
    )
    fill_risk_aversion: float = static_field(
        default=0.0, lower=0.0, unit="1/price", help="CARA weight on single fills; 0 = the rulebook"
    )
    adverse_selection: float = static_field(default=0.0, unit="ticks", help="expected move of the mid against a fill")
    horizon: float = static_field(
        default=300.0, lower=0.0, strict=True, unit="s", source="(1) T", help="largest time to the close"
    )
    tick_size: float = static_field(default=0.01, lower=0.0, strict=True, unit="price", help="of the instrument")


class TableSettings(Checked):
    """Axes and error budget of the kernel's table."""

    max_inventory: int = static_field(default=3, lower=1, upper=127, unit="lots", help="largest position")
    time: Literal["segmented", "stationary"] = static_field(
        default="segmented", help="stationary = the quotes far from the close, at all times"
    )
    time_octaves: int = static_field(
        default=6, lower=1, upper=12, help="octaves of the time axis behind its first segment"
    )
    log2_intervals: int = static_field(default=3, lower=1, upper=6, help="intervals of a segment, as a power of two")
    n_risk: int = static_field(default=16, lower=2, upper=128, help="nodes of the risk axis")
    risk_octaves: float = static_field(
        default=4.0,
        lower=0.1,
        upper=12.0,
        help="log2 of risk / reference on both sides; risk is variance over fill rate",
    )
    skew: Literal["slope", "axis"] = static_field(
        default="slope", help="asymmetry of the sides: linear by the solver's derivative, or an axis of its own"
    )
    max_skew: float = static_field(
        default=0.2, lower=0.01, upper=3.0, help="largest half log ratio of ask to bid fill rate"
    )
    n_skew: int = static_field(default=9, lower=3, upper=33, help='nodes of the skew axis, odd; with skew = "axis"')
    budget: float = static_field(
        default=0.25, lower=0.0, strict=True, unit="ticks", help="largest total error of a depth"
    )
    arithmetic_budget: float = static_field(
        default=0.01, lower=0.0, strict=True, unit="ticks", help="part of it for rounding inside the kernel"
    )
    max_width: int = static_field(default=16, lower=4, upper=16, unit="bits", help="of a number of the table")

    def spec(self) -> TableSpec:
        """Axes of the kernel."""
        if self.skew == "axis" and self.n_skew % 2 == 0:
            raise ConfigError(f"table.n_skew is {self.n_skew}, expected an odd number: no skew is its middle node")
        spacing = 2 * self.risk_octaves / (self.n_risk - 1)
        skew_spacing = 2 * self.max_skew / (self.n_skew - 1)
        return TableSpec(
            max_inventory=self.max_inventory,
            time=SegmentedAxis(self.time_octaves, self.log2_intervals) if self.time == "segmented" else None,
            risk=UniformAxis(self.n_risk, -self.risk_octaves, spacing, 8, "risk"),
            skew=UniformAxis(self.n_skew, -self.max_skew, skew_spacing, 8, "skew") if self.skew == "axis" else None,
            max_skew=self.max_skew,
        )


class Limits(Checked):
    """Registers after reset."""

    depth_min: float = static_field(default=0.5, lower=0.0, strict=True, unit="ticks", help="smallest depth of a quote")
    depth_max: float = static_field(default=20.0, lower=0.0, strict=True, unit="ticks", help="largest depth of a quote")
    vpin_gate: float = static_field(default=1.0, lower=0.0, upper=1.0, help="VPIN above which quotes widen")
    vpin_widen: float = static_field(
        default=0.0, lower=0.0, upper=15.9, unit="ticks", help="widening for a VPIN one above the gate"
    )
    vpin_stop: float = static_field(
        default=0.7, lower=0.0, upper=1.0, source="glossary", help="VPIN above which nothing is quoted; 1 = never"
    )
    order_size: int = static_field(default=1, lower=1, upper=65535, unit="lots", help="of a quote")
    max_order_size: int = static_field(
        default=1, lower=1, upper=65535, unit="lots", help="a larger order size is not quoted"
    )
    saturated_stops: bool = static_field(
        default=False, help="quote nothing on states outside the table's domain, instead of the domain's edge"
    )
    price_low: int = static_field(default=1, lower=0, unit="ticks", help="no quote below")
    price_high: int = static_field(
        default=(1 << 30) - 1, lower=1, upper=(1 << 30) - 1, unit="ticks", help="no quote above"
    )


class Hardware(Checked):
    """The project that `mfamm export` writes."""

    top: str = static_field(default="quote_kernel", help="name of the top module")
    clock_ns: float = static_field(default=6.25, lower=0.0, strict=True, unit="ns", help="period asked of the tools")
    part: str = static_field(default="generic", help="of the Xilinx scripts")
    table_mode: Literal["ram", "rom"] = static_field(
        default="ram", help="ram = two pages that the host loads; rom = part of the bitstream"
    )
    max_age: float = static_field(
        default=1.0, lower=0.0, strict=True, unit="s", help="a state this old is not quoted on"
    )
    n_random: int = static_field(default=1_000_000, lower=1000, help="random vectors of the test benches")


class FloatTable(Checked):
    """The float policy beside it."""

    axes: TableAxes
    n_steps: int = static_field(default=256, lower=1, help="rows of the float policy's table in time")


class Prepared(eqx.Module):
    """Both policies and the recorded events."""

    kernel: KernelPolicy
    reference: AbstractPolicy
    tape: Tape
    decisions: Covariates
    tick_size: Float[Array, ""]
    errors: Float[Array, " error"]
    n_blocks: int = eqx.field(static=True)
    report: HostReport = eqx.field(static=True)


class FPGAQuoteKernel(AbstractExperiment):
    """Integer quotes against float quotes.

    Args:
        market: Source of order flow.
        features: How covariates are computed.
        curve: Fill rates.
        control: Control problem at the reference.
        table: Axes and error budget.
        limits: Registers.
        hardware: Project.
        float_table: The float policy.
        execution: Replay of recorded events.
        comparison: How the difference is judged.
    """

    market: Checked
    features: Features
    curve: Checked
    control: KernelControl
    table: TableSettings
    limits: Limits
    hardware: Hardware
    float_table: FloatTable
    execution: Execution
    comparison: Comparison

    @classmethod
    def prepared_paths(cls) -> tuple[str, ...]:
        """Everything but fees and queues of the replay."""
        return ("market", "features", "curve", "control", "table", "limits", "hardware", "float_table", "comparison")

    def numbers_per_row(self) -> int:
        """The state of two replays."""
        return 1000

    def problem(self) -> HJBProblem:
        """At the reference."""
        control, curve = self.control, self.curve.intensity(self.control.tick_size)
        tick = control.tick_size
        return HJBProblem(  # pyrefly: ignore[missing-argument]
            bid=curve,
            ask=curve,
            inventory_penalty=rulebook_penalty(control.risk_aversion, control.volatility * tick),
            terminal_penalty=control.terminal_penalty * tick,
            horizon=control.horizon,
            bid_adverse_selection=control.adverse_selection * tick,
            ask_adverse_selection=control.adverse_selection * tick,
            fill_risk_aversion=control.fill_risk_aversion,
        )

    def scales(self) -> tuple[LogLinearScale, LogLinearScale]:
        """Log fill rates of bids and asks as functions of the covariates."""
        curve, zeros = self.curve, jnp.zeros(6)
        return tuple(LogLinearScale(curve.reference, zeros, curve.vpin, sign * curve.imbalance) for sign in (-1.0, 1.0))  # pyrefly: ignore[bad-return]

    def model(self) -> QuoteModel:
        """What the kernel tabulates."""
        reference = jnp.full(2, self.curve.reference)
        return QuoteModel(self.problem(), self.control.tick_size, self.control.risk_aversion, *self.scales(), reference)

    def quantized(self) -> tuple[QuoteModel, QuantizedTable, ObservedError]:
        """Table, widths and errors."""
        model, table = self.model(), self.table
        found = quantize(
            model,
            table.spec(),
            budget=table.budget,
            arithmetic_budget=table.arithmetic_budget,
            max_width=table.max_width,
            least_squares=isinstance(self.curve, ExponentialCurve),
        )
        return model, found, observe_error(model, found)

    def project(self, facts: dict[str, Any]) -> KernelProject:
        """What `mfamm export` writes; `facts` go to the manifest."""
        _, quantized, observed = self.quantized()
        limits, hardware = self.limits, self.hardware
        registers = self.registers(quantized, limits.price_low, limits.price_high)
        control = {name: float(getattr(self.control, name)) for name in type(self.control).__annotations__}
        curve = {name: getattr(self.curve, name) for name in type(self.curve).__annotations__}
        parameters = {
            "control": control,
            "curve": {name: list(x) if isinstance(x, tuple) else x for name, x in curve.items()},
        }
        return KernelProject(
            name=hardware.top,
            quantized=quantized,
            registers=registers,
            max_age=self.max_age,
            clock_ns=hardware.clock_ns,
            part=hardware.part,
            table_mode=hardware.table_mode,
            n_random=hardware.n_random,
            observed=observed,
            facts={"parameters": parameters, **facts},
        )

    @property
    def max_age(self) -> int:
        """Of a state [cycles]."""
        return round(min(self.hardware.max_age * NS / self.hardware.clock_ns, 2.0**33))

    def registers(self, quantized: QuantizedTable, price_low: int, price_high: int) -> Any:
        """From the limits."""
        limits = self.limits
        return make_registers(
            quantized.form,
            depth_min=limits.depth_min,
            depth_max=limits.depth_max,
            vpin_gate=limits.vpin_gate,
            vpin_widen=limits.vpin_widen,
            vpin_stop=stop_code(limits.vpin_stop),
            order_size=limits.order_size,
            max_order_size=limits.max_order_size,
            price_low=price_low,
            price_high=price_high,
            saturated_stops=limits.saturated_stops,
        )

    def float_policy(self) -> AbstractPolicy:
        """The value table with the same limits."""
        if not isinstance(self.curve, ExponentialCurve):
            raise ConfigError('the float policy needs curve.kind = "exponential"; `mfamm export` takes every curve')
        problem, grid = self.problem(), Grid(self.table.max_inventory, self.float_table.n_steps)
        axes, tick, limits = self.float_table.axes, self.control.tick_size, self.limits
        scheme, _ = choose_scheme(largest_problem(problem, axes), grid)
        bid, ask = self.scales()
        solution = tabulate(
            problem,
            scheme,
            grid,
            axes,
            risk_aversion=self.control.risk_aversion,
            bid_scale=bid,
            ask_scale=ask,
            size=float(limits.order_size),
        )
        if not bool(jnp.all(solution.result == RESULTS.successful)):
            raise ConfigError("the float policy's table could not be solved: narrow float_table.axes")
        widened = WidenedPolicy(solution.value, limits.vpin_gate, limits.vpin_widen * tick)
        rules = QuoteRules(  # pyrefly: ignore[missing-argument]
            min_half_spread=limits.depth_min * tick, max_half_spread=limits.depth_max * tick, vpin_gate=limits.vpin_stop
        )
        return RuledPolicy(widened, rules)

    def prepare(self, folder: Path, seed: int, say: Callable[[str], None], progress: Any = None) -> Prepared:
        """Loads, solves both policies, lays out the second half for replay."""
        recorded, truth = self.market.load(folder, seed)
        session, ladder = with_books(recorded)
        if not np.isclose(session.tick_size, self.control.tick_size, rtol=1e-9):
            raise DataError(
                f"{session.name}: its tick size is {session.tick_size:g}, control.tick_size is {self.control.tick_size:g}"
            )
        say(f"{session.name}: {len(recorded.updates):,} events")
        observed = observe(session, self.features)
        model, quantized, errors = self.quantized()
        bound = quantized.bound.total
        say(f"table: {quantized.scheme}; error at most {bound:.3g} ticks, observed {errors.largest:.3g}")
        registers = self.registers(quantized, 1, (1 << 30) - 1)
        kernel = KernelPolicy(model, jnp.asarray(quantized.table), registers, quantized.form)
        tape, decisions, *_ = replay_part(session, ladder, observed, self.execution, observed.train_end_ns, None)
        seconds = (int(session.updates.t_ns[-1]) - observed.train_end_ns) / NS
        n_blocks = int(seconds / self.comparison.block_seconds)
        if n_blocks < 8:
            raise DataError(
                f"the test part has {n_blocks} stretches of comparison.block_seconds = {self.comparison.block_seconds:g} s, expected at "
                "least 8 for an interval; use a longer session or shorter stretches"
            )
        report = HostReport(
            session=session.name,
            clock=session.clock,
            source=session.source,
            notes=session.notes,
            facts=session_facts(recorded),
            truth=truth,
            outcome=KernelOutcome(quantized, errors),
        )
        tick = in_precision(session.tick_size)
        drawn = jnp.asarray(errors.sample, tick.dtype)
        return Prepared(kernel, self.float_policy(), tape, decisions, tick, drawn, n_blocks, report)

    def plan(self, batch: Any, prepared: Prepared) -> tuple[tuple, str]:
        """Nothing to choose."""
        form = prepared.kernel.form
        return (), f"depths {form.depth}, slow path {form.slow_cycles} cycles, fast path {form.fast_cycles}"

    def stages(self, plan: Any) -> list[tuple[str, Stage]]:
        """Both policies on the same events."""
        return [("compare", compare_stage)]

    def metrics(self, plan: Any, prepared: Prepared, results: dict[str, Any], key: PRNGKeyArray) -> dict[str, Any]:
        """Everything the report prints."""
        return kernel_metrics(self, prepared, results)

    def kept(self, prepared: Prepared, results: dict[str, Any]) -> dict[str, Any]:
        """Differences and values; the paths are in the logs."""
        return {name: x for name, x in results.items() if name != "paths"}

    def logs(self, prepared: Prepared, results: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
        """Orders at the decisions, side by side."""
        return {"orders": order_logs(prepared, results)}

    def provenance(self, prepared: Prepared) -> dict[str, Any]:
        """Data files with their hashes, clock and loader notes."""
        return session_provenance(prepared.report)

    def row(self, plan: Any, prepared: Prepared, key: PRNGKeyArray) -> dict[str, Array]:
        """P&L of both and the difference."""
        return summary(self, prepared, key)
