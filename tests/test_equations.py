"""The table of docs/equations.md: every equation of the rulebook and each point of its appendix, its function, tests and experiment.

The function must be named in code that the experiment's module reaches by imports (`test_mfamm` looks in addition at what really ran), the first test
must import it from the package. What else the page names - functions, tests, labels - must exist, and every label that the code cites must be there.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import mfamm_jax
from mfamm_jax.experiments.config import load_config
from mfamm_jax.experiments.registry import EXPERIMENTS

PACKAGE, TESTS = Path(mfamm_jax.__file__).parent, Path(__file__).parent
TEXT = (TESTS.parent / "docs" / "equations.md").read_text()
HEADER = "| equation | in words | function | tests | experiment |"
PARTS = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
LABEL = re.compile(r"\b(?:AS-S?|TX-|GL-|Q-|F-|R-|K-|H[123]-|H-[A-Z])\d+\b")


def table_below(header, text):
    """Cells of a Markdown table, row by row."""
    lines = iter(text.splitlines())
    assert header in lines, f"no table {header}"
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def quoted(cell):
    return re.findall(r"`([^`]+)`", cell)


ROWS = table_below(HEADER, TEXT)
# Equation -> (module, function or class that has it, shipped experiment that uses it).
EQUATIONS = {row[0]: (*quoted(row[2])[0].rpartition(".")[::2], quoted(row[4])[0]) for row in ROWS}
# Equation -> test files, the one that checks the function first.
CHECKED_BY = {row[0]: quoted(row[3]) for row in ROWS}


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


@cache
def names_of(module):
    """What the module defines or passes on, with the attributes of its classes as Class.attribute."""
    found = set()
    for node in tree(module).body:
        if isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{n.name}" for n in node.body if isinstance(n, ast.FunctionDef)}
    return found


def exists(path):
    """Whether a dotted path is a module of the package or a name in one."""
    parts = path.split(".")
    n = max(n for n in range(1, len(parts) + 1) if tree(".".join(parts[:n])) is not None)
    return n == len(parts) or ".".join(parts[n:]) in names_of(".".join(parts[:n]))


def imports_it(file, module, name):
    """Whether a test file imports the name from its module or from a package above that passes it on."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            source = (node.module or "").removeprefix("mfamm_jax.")
            if f"{module}.".startswith(f"{source}."):
                return True
    return False


def test_the_list_is_that_of_the_rulebook():
    numbers = [f"({i})" for i in range(1, 25)]
    assert [row[0] for row in ROWS] == [*numbers, "FPGA", "colocation", "CMA-ES", "adversarial"]
    assert all(3 <= len(row[1].split()) <= 8 for row in ROWS), [row[1] for row in ROWS]


@pytest.mark.parametrize("equation", EQUATIONS)
def test_a_test_imports_the_function(equation):
    files = [TESTS / name for name in CHECKED_BY[equation]]
    assert files
    assert [file.name for file in files if not file.is_file()] == []
    module, name, _ = EQUATIONS[equation]
    assert imports_it(files[0], module, name), f"{files[0].name} does not import {name}"


def test_what_the_page_names_exists():
    named = set(quoted(TEXT))
    functions = {name for name in named if name.split(".")[0] in PARTS and re.fullmatch(r"[\w.]+", name)}
    assert len(functions) > 60
    assert [name for name in sorted(functions) if not exists(name)] == []
    assert exists("solvers.hjb.HJBProblem")
    assert not exists("solvers.nothing")
    assert not exists("solvers.hjb.nothing")
    tests = {name for name in named if re.fullmatch(r"(?!tests/)\w+/test_\w+\.py", name)}
    assert len(tests) > 60
    assert [name for name in sorted(tests) if not (TESTS / name).is_file()] == []


def test_labels_that_the_code_cites_are_on_the_page():
    # "-Q..Q-1" are inventories.
    code = "\n".join(file.read_text() for file in sorted(PACKAGE.rglob("*.py"))).replace("..Q-1", "")
    cited = set(LABEL.findall(code))
    assert len(cited) > 30
    assert sorted(cited - set(LABEL.findall(TEXT))) == []


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


def test_the_readme_shows_the_same_table_with_the_first_test_of_each_row():
    shown = table_below(HEADER.replace("tests", "test"), (TESTS.parent / "README.md").read_text())
    assert shown == [[*row[:3], f"`{quoted(row[3])[0]}`", row[4]] for row in ROWS]
