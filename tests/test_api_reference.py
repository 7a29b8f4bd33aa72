"""The pages of docs/ and the reference build without a warning, and every public module and name is in them."""

import ast
import html
import importlib.util
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mfamm_jax

DOCS = Path(__file__).parents[1] / "docs"
CODE = re.compile(r"<(pre|code|script|style|dt)\b.*?</\1>", re.DOTALL)
MATH = re.compile(r'<(span|div) class="math.*?</\1>', re.DOTALL)


@pytest.fixture(scope="module")
def conf():
    """docs/conf.py."""
    spec = importlib.util.spec_from_file_location("docs_conf", DOCS / "conf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("Value $x_1 *  y$, or `name`s.", r"Value :math:`x_1 * y`, or ``name``\ s."),
        ("2^`bits` codes, |q| <= 3, a*b", r"2^\ ``bits`` codes, \|q\| <= 3, a\*b"),
        ("that *is* **all**, of kind_ and some_name", r"that *is* **all**, of kind\_ and some_name"),
        (
            "    With\n    $$a \\\\\n      = b$$ so.",
            "    With\n    \n\n    .. math::\n\n       a \\\\\n       = b\n\n     so.",
        ),
        ("`$readmemh` costs `a$`", "``$readmemh`` costs ``a$``"),
        (
            "| a | b |\n|---|---|\n| `x` | $y$ |\n",
            ".. list-table::\n   :header-rows: 1\n\n   - - a\n     - b\n   - - ``x``\n     - :math:`y`\n",
        ),
    ],
)
def test_docstrings_become_restructured_text(conf, written, expected):
    assert conf.as_rst(written) == expected


def public_modules():
    found = pkgutil.walk_packages(mfamm_jax.__path__, "mfamm_jax.")
    return ["mfamm_jax", *(module.name for module in found if not re.search(r"\._", module.name))]


def public_names(path):
    """Classes and functions that a module defines."""
    module = ".".join(path.relative_to(DOCS.parent).with_suffix("").parts)
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield f"{module}.{node.name}"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Page -> HTML of a build in which a warning is an error."""
    out = tmp_path_factory.mktemp("html")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(out / "doctrees"), str(DOCS)]
    done = subprocess.run([*command, str(out / "html")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return {str(path.relative_to(out / "html")): path.read_text() for path in (out / "html").rglob("*.html")}


@pytest.mark.thorough
def test_every_public_module_and_name_has_its_place(pages):
    anchors = {found for page in pages.values() for found in re.findall(r'\bid="([\w.-]+)"', page)}
    modules = public_modules()
    assert len(modules) > 200
    assert not [name for name in modules if f"module-{name}" not in anchors]
    names = [name for path in (DOCS.parent / "mfamm_jax").rglob("[!_]*.py") for name in public_names(path)]
    assert len(names) > 1000
    assert not [name for name in names if name not in anchors]


@pytest.mark.thorough
def test_every_page_of_the_repository_is_there_with_a_way_to_it(pages):
    written = [path.relative_to(DOCS) for folder in (".", "tutorials") for path in (DOCS / folder).glob("*.md")]
    assert len(written) > 10
    for path in written:
        assert str(path.with_suffix(".html")) in pages
        assert path.stem == "index" or f'href="{path.with_suffix(".html")}"' in pages["index.html"]


@pytest.mark.thorough
def test_no_markup_is_left_in_the_text(pages):
    for name, page in pages.items():
        text = html.unescape(re.sub(r"<[^>]+>", "", CODE.sub("", MATH.sub("", page))))
        left = re.search(r".{0,60}(\$\$|:math:|:py:|``|\.\. \w+::|`\w|\$\\\w).{0,60}", text)
        assert left is None, (name, left.group())


@pytest.mark.thorough
def test_formulas_settings_and_shapes_are_shown(pages):
    models = html.unescape(re.sub(r"<[^>]+>", "", pages["api/mfamm_jax.models.html"]))
    assert r"\(\lambda(\delta) = \Lambda e^{-k\delta}\)" in models
    assert "ExponentialIntensity(scale: Float[Array, ''], decay: Float[Array, ''])" in models
    experiments = html.unescape(re.sub(r"<[^>]+>", "", pages["api/mfamm_jax.experiments.html"]))
    assert "risk_aversion – weight of inventory risk [1/(price lot)]; (1) gamma" in experiments
    for page in pages.values():
        assert "_jax.Array" not in page
        assert "OptionInfo" not in page
        # No colon of a sentence makes a type of what stands before it.
        assert not re.search(r'<dt class="field-\w+">Type', page)
