"""The architecture as rules: which part imports which, and which files may touch the outside world."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mfamm_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

BASE = {"fields", "results"}
MAY_IMPORT = {
    "fields": set(),
    "results": set(),
    "market": BASE,
    "features": BASE | {"market"},
    "models": BASE,
    "solvers": BASE | {"models"},
    "policies": BASE | {"models", "solvers"},
    "simulation": BASE | {"market", "features", "models", "policies"},
    "risk": BASE | {"models"},
    "fpga_export": BASE | {"models", "solvers", "policies"},
    "experiments": BASE | {"market", "features", "models", "solvers", "policies", "simulation", "risk", "fpga_export"},
}
OUTSIDE = {
    *("os", "sys", "io", "pathlib", "time", "subprocess", "shutil", "gzip", "zipfile", "logging", "platform"),
    *("polars", "matplotlib", "rich", "typer", "jinja2", "tomllib", "yaml"),
}
# Files, clock, processes and printing live here.
HOST = {
    *(
        "cli",
        "compiled",
        "config",
        "figures",
        "hummingbot_file",
        "observed_quotes",
        "launch",
        "printed",
        "record",
        "report",
        "report_parts",
        "report_sweep",
        "reproduce",
        "runner",
        "sources",
        "sweep",
        "verify",
    ),
    *("verify_replay", "calibration_figures", "replay_figures", "fpga_project"),
    "__main__",
}
# `prepare` receives a folder; these only pass it on.
NAMES_PATHS = {
    "adversarial",
    "flows",
    "fpga_kernel",
    "gate_search",
    "imbalance_train",
    "imbalance_training",
    "intensity_trees",
    "mfamm",
    "quoting",
    "replay_run",
    "signal_quotes",
    "venues",
}
HEAVY = ("ott", "distrax", "evosax", "pennylane", "xgboost", "pywt")
BANNED_NAMES = {"utils", "helpers", "common", "misc", "manager", "handler", "engine", "process_data"}


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def is_host(path: Path) -> bool:
    relative = path.relative_to(PACKAGE).parts
    if relative[0] == "fpga_export":
        return path.stem in ("emit", "verify")
    return relative[:2] == ("market", "loaders") or (relative[0] == "experiments" and path.stem in HOST)


def imports(tree: ast.AST) -> list[str]:
    """Dotted names of every import, also inside functions."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append("." * node.level + (node.module or ""))
    return found


def wrong_directions(name: str, source: str) -> list[str]:
    mine = [m.split(".")[1] for m in imports(ast.parse(source)) if m.startswith("mfamm_jax.")]
    return [other for other in mine if other != name and other not in MAY_IMPORT[name]]


def outside_contacts(source: str) -> list[str]:
    tree = ast.parse(source)
    touched = [name for name in imports(tree) if name.split(".")[0] in OUTSIDE]
    calls = [node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    return touched + [name for name in calls if name in ("print", "open", "input")]


def offences(source: str) -> list[str]:
    """What no file may contain."""
    tree = ast.parse(source)
    found = [name for name in imports(tree) if name.startswith(".") or name.startswith("jax._src")]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name.lower() in BANNED_NAMES:
            found.append(node.name)
    found += re.findall(r"/(?:work|home|tmp|root)/\w+|sys\.path", source)
    return found


def plain_init(source: str) -> list[str]:
    """Statements of an `__init__.py` other than docstring, imports and `__all__`."""
    bad = []
    for node in ast.parse(source).body:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_all = isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
        if not (is_text or is_all or isinstance(node, ast.Import | ast.ImportFrom)):
            bad.append(ast.dump(node)[:60])
    return bad


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_file_keeps_the_rules(path):
    source = path.read_text()
    assert not offences(source)
    assert source.count("\n") <= 500
    assert path.stem not in BANNED_NAMES
    if path.name == "__init__.py" and path.parent != PACKAGE:
        assert not plain_init(source)
    if path.parent != PACKAGE or path.stem in BASE:
        assert not wrong_directions(part(path), source)
    if not is_host(path):
        contacts = outside_contacts(source)
        assert [name for name in contacts if not (name == "pathlib" and path.stem in NAMES_PATHS)] == []


@pytest.mark.thorough
def test_slow_libraries_are_imported_by_one_file_each():
    for library in HEAVY:
        users = [p for p in FILES if any(n.split(".")[0] == library for n in imports(ast.parse(p.read_text())))]
        assert len(users) <= 1, (library, users)


def test_one_place_sets_the_flags_of_jax():
    users = {path.stem for path in FILES if "jax.config.update" in path.read_text()}
    assert users == {"runner", "verify"} or users == {"runner"}


def test_documentation_tags_named_in_the_code_exist():
    equations = (ROOT / "docs" / "equations.md").read_text()
    missing = set()
    for path in FILES:
        for sentence in re.findall(
            r"docs/equations\.md[^\"]{0,60}|[^\"]{0,40} of docs/equations\.md", path.read_text()
        ):
            missing |= {tag for tag in re.findall(r"\b(?:AS|Q|F|GL)-S?\d+\b", sentence) if tag not in equations}
    assert not missing


def test_the_rules_can_fail():
    assert wrong_directions("models", "from mfamm_jax.market.book import mid") == ["market"]
    assert wrong_directions("solvers", "def f():\n    import mfamm_jax.simulation.replay") == ["simulation"]
    assert outside_contacts("import os.path\nprint(1)") == ["os.path", "print"]
    assert offences("from .x import y") == [".x"]
    assert offences("def helpers(): pass") == ["helpers"]
    assert offences("p = '/" + "home/me/x'")
    assert plain_init("x = 1")
    assert not plain_init('"""Doc."""\nfrom a import b\n__all__ = ["b"]')
