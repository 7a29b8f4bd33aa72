"""Small kernels for tests, solved once a process."""

from functools import cache

import jax
import jax.numpy as jnp

from mfamm_jax.fpga_export import (
    KernelProject,
    QuoteModel,
    SegmentedAxis,
    TableSpec,
    UniformAxis,
    make_registers,
    observe_error,
    quantize_lattice,
    solve_lattice,
)
from mfamm_jax.models.curves import TabulatedIntensity
from mfamm_jax.models.intensity import ExponentialIntensity, LogLinearScale
from mfamm_jax.solvers.hjb import HJBProblem

TICK = 0.01


def model(curve=None, **changes):
    """A market maker in ticks of 0.01 with 30 s to the close."""
    curve = ExponentialIntensity(1.5, 0.3 / TICK) if curve is None else curve
    settings = {
        "bid": curve,
        "ask": curve,
        "inventory_penalty": 4e-5,
        "terminal_penalty": 1e-4,
        "horizon": 30.0,
    } | changes
    bid = LogLinearScale(jnp.log(1.5), jnp.zeros(6), 0.2, -0.3)
    ask = LogLinearScale(jnp.log(1.5), jnp.zeros(6), 0.2, 0.3)
    return QuoteModel(HJBProblem(**settings), TICK, 0.1, bid, ask, jnp.log(jnp.array([1.5, 1.5])))


def spec(max_inventory=2, time=True, n_risk=5, skew_axis=False, max_skew=0.2):
    return TableSpec(
        max_inventory=max_inventory,
        time=SegmentedAxis(4, 3) if time else None,
        risk=UniformAxis(n_risk, -2.0, 4.0 / (n_risk - 1), 8, "risk"),
        skew=UniformAxis(5, -max_skew, max_skew / 2, 8, "skew") if skew_axis else None,
        max_skew=max_skew,
    )


def curve_of(kind):
    if kind != "tabulated":
        return None
    return TabulatedIntensity(TICK * (0.5 + jnp.arange(12.0)), 1.5 * jnp.exp(-0.3 * jnp.arange(12.0)))


@cache
def lattice(kind="slope"):
    axes = spec(time=kind != "stationary", skew_axis=kind in ("axis", "tabulated"))
    with jax.enable_x64(True):
        return solve_lattice(model(curve_of(kind)), axes)


@cache
def quantized(kind="slope", arithmetic_budget=0.002):
    budget = 4.0 if kind == "tabulated" else 0.25
    table = quantize_lattice(
        lattice(kind), budget=budget, arithmetic_budget=arithmetic_budget, least_squares=kind != "tabulated"
    )
    return table


@cache
def project(kind="slope", table_mode="ram", n_random=20_000):
    table = quantized(kind)
    registers = make_registers(
        table.form, depth_min=0.5, depth_max=20.0, vpin_gate=0.4, vpin_widen=2.0, vpin_stop=2868, price_low=1
    )
    with jax.enable_x64(True):
        observed = observe_error(model(curve_of(kind)), table, n_states=50)
    return KernelProject(
        name="quote_kernel",
        quantized=table,
        registers=registers,
        max_age=1 << 24,
        clock_ns=6.25,
        part="generic",
        table_mode=table_mode,
        n_random=n_random,
        observed=observed,
        facts={"parameters": {"kind": kind}},
    )
