"""Every pure entry point lowers for CUDA and TPU in single precision, on a machine that has neither.

Lowering is what jax does before the device's compiler: it fails on primitives that a platform lacks and on host
callbacks, and shows numbers of 64 bits, which a TPU does not have. What its compiler says, only a device can tell.
"""

import functools
import importlib
import inspect
import re
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from .lowering_cases import PLAIN, SMOOTH

PLATFORMS = ("cuda", "tpu")
CASES = SMOOTH | PLAIN

# The others are thorough.
QUICK = {
    *("solvers.hjb.problem:solve_hjb " + by for by in ("Uniformization", "TaylorAction", "ExplicitRK", "HanWong")),
    *("solvers.hjb.problem:solve_hjb " + by for by in ("Implicit", "Ergodic", "Strang RegimeProblem")),
    *("simulation.episode:simulate_episodes", "simulation.episode:episode_law", "simulation.replay:replay"),
    *("solvers.qaoa:qaoa_energy", "solvers.transport:solve_transport"),
}
QUICK_SLOPES = {
    *("solvers.hjb.problem:solve_hjb TaylorAction", "solvers.hjb.problem:solve_hjb HanWong"),
    *("solvers.qaoa:qaoa_energy", "solvers.transport:solve_transport", "simulation.episode:episode_law"),
}

NOT_LOWERED = {
    "solvers.hjb.problem:solve_hjb Diffrax": "diffrax checks the times to save at by `eqx.error_if`, a host callback",
}

# Packages whose every export, and modules (docs/contents.md's and some beside them) whose every function has a case or a reason.
PACKAGES = ("", "solvers", "solvers.hjb", "models", "features", "policies", "simulation", "risk", "market")
MODULES = {
    "features": "book_shape clock imbalance_grid volatility vpin wavelet wavelet_bank",
    "fpga_export": "kernel",
    "market": "book related",
    "models": "ball boosted_trees cointegration curves delay_network hyperbolic imbalance_network impact intensity "
    "ising joint_loss_flow loss_flow mid_price regime_returns spline student_t",
    "policies": "avellaneda_stoikov orders regime_table routing routing_qubo rules value_table",
    "risk": "adverse attribution backtest cvar drawdown metrics",
    "simulation": "adversary breach environment episode hummingbot invariants merge opponent padding replay spread_trading step tape",
    "solvers": "allocation allocation_training bit_search calibrate closed_form cma constrained delay_fit flow_fit "
    "learned_adversary likelihood mean_reversion one_hot_qaoa qaoa qaoa_large_girth qaoa_one_layer reach residuals "
    "schedule schedule_search transport transport_execution transport_ott triplet volume_decay",
}

# Why a public function has no case.
HOST = {
    "files": "market.loaders.binance:load_binance market.loaders.bitstamp:load_bitstamp "
    "market.loaders.databento:load_databento market.loaders.hftbacktest:load_hftbacktest "
    "market.loaders.hftbacktest_raw:load_hftbacktest_raw market.loaders.itch:load_itch "
    "market.loaders.latencies:load_latencies market.loaders.lobster:load_lobster "
    "market.loaders.lobster:write_lobster market.loaders.parquet:load_parquet market.loaders.parquet:write_parquet "
    "market.loaders.tardis:load_tardis",
    "recorded events in numpy, nanoseconds in 64 bits": "features.clock:carry features.clock:durations "
    "features.clock:last_index features.clock:regular_grid market.facts:session_facts market.ladder:build_ladder "
    "market.related:generate_related market.scenarios:plant market.synthetic:OutsidePrice market.synthetic:generate_session "
    "market.thinning:with_books simulation.merge:merge_tapes simulation.padding:stack_replays simulation.tape:build_tape",
    "latencies in numpy": "simulation.latency:ConstantLatency simulation.latency:RandomLatency "
    "simulation.latency:RecordedLatency",
    "looks at concrete parameters to choose a method": "solvers.hjb.choose:choose_scheme "
    "solvers.hjb.sweep:solve_sweep solvers.delay_fit:choose_knots",
    "checks concrete numbers": "models.ball:check_points models.hyperbolic:check_connected models.impact:complaints "
    "models.loss_flow:check_losses policies.routing:check_order risk.cvar:check_level risk.cvar:check_sample "
    "solvers.allocation:check_shares",
    "makes a graph or lists of bits in numpy": "models.hyperbolic:correlation_edges models.ising:ising "
    "models.ising:ising_of_matrix models.ising:random_regular_graph policies.routing_qubo:lot_bits "
    "solvers.one_hot_qaoa:adjacency solvers.qaoa_one_layer:neighbours_of",
    "Python numbers in, Python numbers out": "features.wavelet_bank:level_width models.ising:bytes_needed "
    "models.ising:device_bytes models.loss_flow:tail_number solvers.one_hot_qaoa:lots_of",
    "reads a document": "models.boosted_trees:from_json",
    "asks PyWavelets": "features.wavelet_bank:wavelet_filters",
    "returns a function, with which `anneal` is lowered": "policies.routing:searchable_cost",
    "returns a loss, with which `fit` is lowered": "solvers.calibrate:forward_gradient "
    "solvers.calibrate:squared_residual_loss",
}
# Exported classes without a computation of their own, which the cases take or return.
CONTAINERS = {
    *("Attribution", "Covariates", "Episodes", "Grid", "HJBProblem", "InventoryStatistics", "MarketState", "Moments"),
    *("PoissonMarket", "QuoteRules", "Quotes", "RESULTS", "ReplayConfig", "Solution", "TableAxes", "TailRisk"),
    *("ValueTable", "VolumeBuckets"),
}


def function_of(name):
    module, path = name.split()[0].split(":")
    return functools.reduce(getattr, path.split("."), importlib.import_module(f"mfamm_jax.{module}"))


def traced(name):
    """A function of arrays alone, and those arrays."""
    args, kwargs = CASES[name]()
    function = function_of(name)
    arrays, fixed = eqx.partition((args, kwargs), eqx.is_array)

    def of_arrays(arrays):
        args, kwargs = eqx.combine(arrays, fixed)
        return function(*args, **kwargs)

    return of_arrays, arrays


def slope_of(function, arrays):
    """The derivative of the sum of all real numbers that it returns, in all that it takes."""
    numbers, rest = eqx.partition(arrays, eqx.is_inexact_array)

    def total(numbers, rest):
        answer = function(eqx.combine(numbers, rest))
        return sum(jnp.sum(x).real for x in jax.tree.leaves(eqx.filter(answer, eqx.is_inexact_array)))

    return jax.grad(total), numbers, rest


def check_lowers(function, *arguments):
    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
    assert exported.platforms == PLATFORMS
    found = re.findall(r"(?:\b|x)f64\b|custom_call @\S*callback\S*|stablehlo\.(?:send|recv)\b", exported.mlir_module())
    assert not found, set(found)


def cases(names, quick):
    return [
        pytest.param(name, marks=() if name in quick else pytest.mark.thorough)
        for name in names
        if name not in NOT_LOWERED
    ]


@pytest.mark.filterwarnings("ignore:a barrier that grows")  # square_root_barrier says so whenever it is called
@pytest.mark.parametrize("name", cases(CASES, QUICK))
def test_it_lowers_for_cuda_and_tpu(name):
    with jax.enable_x64(False):
        check_lowers(*traced(name))


@pytest.mark.filterwarnings("ignore:a barrier that grows")
@pytest.mark.parametrize("name", cases(SMOOTH, QUICK_SLOPES))
def test_its_gradient_lowers_for_cuda_and_tpu(name):
    with jax.enable_x64(False):
        check_lowers(*slope_of(*traced(name)))


@pytest.mark.thorough
@pytest.mark.parametrize("name", NOT_LOWERED)
def test_what_is_said_not_to_lower_does_not(name):
    with jax.enable_x64(False), pytest.raises(NotImplementedError, match="callback"):
        check_lowers(*traced(name))


def public(module):
    """Functions and classes by name, private ones and those of other packages left out."""
    names = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
    found = {name: getattr(module, name) for name in names}
    return {n: f for n, f in found.items() if callable(f) and getattr(f, "__module__", "").startswith("mfamm_jax.")}


def path_of(name, thing):
    return f"{thing.__module__.removeprefix('mfamm_jax.')}:{name}"


def test_no_public_function_is_forgotten():
    paths = {name.split()[0] for name in CASES} | {path for paths in HOST.values() for path in paths.split()}
    words = CONTAINERS | set(re.findall(r"\w+", " ".join(CASES)))
    forgotten = set()
    for package in PACKAGES:
        for name, thing in public(importlib.import_module(f"mfamm_jax.{package}".rstrip("."))).items():
            known = path_of(name, thing) in paths
            if inspect.isclass(thing):
                known = known or name in words or inspect.isabstract(thing)
            forgotten |= set() if known else {path_of(name, thing)}
    for package, modules in MODULES.items():
        for stem in modules.split():
            if stem == "transport_ott":  # loads slowly; its two functions have cases
                continue
            module = importlib.import_module(f"mfamm_jax.{package}.{stem}")
            for name, thing in public(module).items():
                if not inspect.isclass(thing) and thing.__module__ == module.__name__:
                    forgotten |= {path_of(name, thing)} - paths
    assert not forgotten


def test_the_modules_of_the_contents_are_looked_at():
    table = (Path(__file__).parents[1] / "docs/contents.md").read_text().split("\n\n")[1]
    looked_at = {f"mfamm_jax.{package}.{stem}" for package, stems in MODULES.items() for stem in stems.split()}
    looked_at |= {f"mfamm_jax.{package}" for package in PACKAGES} | {"mfamm_jax.experiments", "mfamm_jax.fpga_export"}
    package = ""
    for found in re.findall(r"`((?:mfamm_jax)?\.[a-z_.]+)`", table):
        full = found if found.startswith("mfamm_jax") else package + found
        package = full.rpartition(".")[0]
        assert full in looked_at


def test_the_reasons_are_of_functions_that_exist():
    listed = [path for paths in HOST.values() for path in paths.split()]
    assert len(set(listed)) == len(listed)
    assert not set(listed) & {name.split()[0] for name in CASES}
    assert all(callable(function_of(path)) for path in listed)
    assert QUICK | QUICK_SLOPES | set(NOT_LOWERED) <= set(CASES)


def test_the_checks_can_fail():
    two = np.ones(2, np.float32)
    with jax.enable_x64(True), pytest.raises(AssertionError, match="f64"):
        check_lowers(lambda x: x + jnp.linspace(0.0, 1.0, 2), two)
    with pytest.raises(NotImplementedError, match="callback"):
        check_lowers(lambda x: jax.pure_callback(np.sin, x, x), two)
    with pytest.raises(NotImplementedError, match="tpu"):
        check_lowers(jnp.linalg.eigvals, np.eye(2, dtype=np.float32))
