"""Every equation of the rulebook, and each point of its appendix, is used by an experiment that ships.

The function that has the equation must be named in code that the experiment's module reaches by imports. `test_mfamm` looks in addition at what really
ran.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

import mfamm_jax
from mfamm_jax.experiments.config import load_config
from mfamm_jax.experiments.registry import EXPERIMENTS

PACKAGE = Path(mfamm_jax.__file__).parent
# Equation -> (module, function or class that has it, shipped experiment that uses it).
EQUATIONS = {
    "(1)": ("solvers.hjb.problem", "solve_hjb", "mfamm"),
    "(2)": ("simulation.account", "after_fills", "mfamm"),
    "(3)": ("policies.value_table", "ValueTablePolicy", "mfamm"),
    "(4)": ("simulation.episode", "simulate_episodes", "quickstart"),
    "(5)": ("features.vpin", "vpin_at_trades", "mfamm"),
    "(6)": ("models.imbalance_network", "ImbalanceNetwork", "imbalance_training"),
    "(7)": ("features.book_shape", "book_shape", "mfamm"),
    "(8)": ("policies.value_table", "tabulate", "mfamm"),
    "(9)": ("solvers.hjb.problem", "HJBProblem", "mfamm"),
    "(10)": ("policies.value_table", "ValueTablePolicy", "mfamm"),
    "(11)": ("solvers.likelihood", "fit_poisson", "mfamm"),
    "(12)": ("solvers.triplet", "TripletLoss", "imbalance_training"),
    "(13)": ("features.wavelet", "wavelet_transform", "mfamm"),
    "(14)": ("models.cointegration", "common_vector", "mfamm"),
    "(15)": ("solvers.transport_execution", "plan_execution", "mfamm"),
    "(16)": ("models.hyperbolic", "aggregate", "mfamm"),
    "(17)": ("solvers.allocation", "allocation_reward", "mfamm"),
    "(18)": ("risk.cvar", "quadrature_tail_risk", "mfamm"),
    "(19)": ("risk.drawdown", "barrier_scale", "mfamm"),
    "(20)": ("models.impact", "InstantImpact", "mfamm"),
    "(21)": ("solvers.delay_fit", "fit_hammerstein", "impact_fit"),
    "(22)": ("models.ising", "cost_diagonal", "maxcut_benchmark"),
    "(23)": ("solvers.qaoa", "qaoa_probabilities", "mfamm"),
    "(24)": ("solvers.qaoa", "optimise_angles", "mfamm"),
    "FPGA": ("fpga_export.kernel", "slow_path", "fpga_quote_kernel"),
    "colocation": ("simulation.latency", "ConstantLatency", "latency"),
    "CMA-ES": ("solvers.cma", "evolve", "calibrate_gates"),
    "adversarial": ("solvers.learned_adversary", "train_adversary", "optimal_schedule"),
}


@cache
def tree(module):
    path = PACKAGE.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text()) if file.is_file() else None


@cache
def names_in(module):
    """Every name and attribute that the module's code mentions, but for imports and definitions."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found


@cache
def imported(module):
    """Modules of the package that it imports, and those that packages pass names on from."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mfamm_jax"):
            base = node.module.removeprefix("mfamm_jax").strip(".")
            found.add(base)
            found |= {f"{base}.{alias.name}".strip(".") for alias in node.names}
    return {name for name in found if name and tree(name) is not None}


def reached(module):
    seen, todo = set(), [module]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += imported(name)
    return seen


def test_the_list_is_that_of_the_rulebook():
    assert list(EQUATIONS)[:24] == [f"({i})" for i in range(1, 25)]
    assert list(EQUATIONS)[24:] == ["FPGA", "colocation", "CMA-ES", "adversarial"]


@pytest.mark.parametrize("equation", EQUATIONS)
def test_an_experiment_uses_it(equation):
    module, name, config = EQUATIONS[equation]
    definitions = [n.name for n in tree(module).body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    assert name in definitions, f"{module} has no {name}"
    experiment = EXPERIMENTS[load_config(config).tables["experiment"]]
    modules = reached(experiment.__module__.removeprefix("mfamm_jax."))
    assert module in modules, f"{config} does not reach {module}"
    users = {m for m in modules if name in names_in(m)}
    assert users, f"nothing that {config} reaches mentions {name}"
