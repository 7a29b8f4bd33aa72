"""Sphinx: these pages and, from the docstrings, the reference of every public module.

python -m sphinx docs docs/_build
"""

import dataclasses
import inspect
import pkgutil
import re
import typing
from importlib import import_module
from pathlib import Path

import jax
from docutils import nodes
from jaxtyping import PRNGKeyArray
from sphinx import addnodes
from sphinx.util.inspect import stringify_signature
from sphinx.util.typing import stringify_annotation

import mfamm_jax

project, author = "mfamm_jax", "the mfamm_jax authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "furo"
toc_object_entries = False  # thousands, copied into every page
html_title = "mfamm_jax"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "special-members": "__call__", "member-order": "bysource"}
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_param = False  # one entry may name several arguments
napoleon_use_rtype = False


# One page for every package: nothing to keep in step by hand.


def public_modules(package):
    """Full names of a package's own modules, in order."""
    found = pkgutil.iter_modules(package.__path__, package.__name__ + ".")
    return [module.name for module in found if not module.name.rpartition(".")[2].startswith("_")]


def pages(package):
    """Name and text of the page of a package and of those in it."""
    name, subpackages, sections = package.__name__, [], []
    for module in map(import_module, public_modules(package)):
        if hasattr(module, "__path__"):
            subpackages.append(module)
        else:
            show_derived(module)
            sections += [_heading(module.__name__, "-"), f".. automodule:: {module.__name__}\n"]
    listed = [f"   {module.__name__}" for module in subpackages]
    toctree = [".. toctree::\n   :maxdepth: 1\n", *listed, ""] if listed else []
    exported = ", ".join(f":py:obj:`~{_home(package, name)}`" for name in getattr(package, "__all__", []))
    exports = [f"To be imported from the package itself: {exported}.\n"] if exported else []
    own = f".. automodule:: {name}\n   :no-members:\n"
    yield name, "\n".join([_heading(name, "="), own, *toctree, *exports, *sections])
    for module in subpackages:
        yield from pages(module)


def show_derived(module):
    """Functions with derivatives of their own are no functions to autodoc: it is given what they wrap."""
    for name, value in list(vars(module).items()):
        if isinstance(value, jax.custom_jvp | jax.custom_vjp):
            setattr(module, name, inspect.unwrap(value))


def _heading(name, line):
    return f"{name}\n{line * len(name)}\n"


def _home(package, name):
    """Where an exported object is described."""
    found = getattr(package, name)
    return f"{getattr(found, '__module__', package.__name__)}.{getattr(found, '__qualname__', name)}"


def write_pages(app):
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    wanted = {folder / f"{name}.rst": text for name, text in pages(mfamm_jax)}
    for stale in set(folder.glob("*.rst")) - wanted.keys():
        stale.unlink()
    for path, text in wanted.items():
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)


# Docstrings are Google's form in Markdown, with formulas between dollars: napoleon and docutils want reStructuredText.

PIECES = re.compile(r"(?P<block>\$\$.+?\$\$)|(?P<math>\$[^$]+\$)|(?P<code>`[^`]+`)|(?P<text>[^$`]+|.)", re.DOTALL)
EMPHASIS = re.compile(r"(?<![\w*])(?P<stars>\*\*?)\w[^*\n]*(?P=stars)(?!\w)|(?P<special>[\\*|]|(?<=\w)_(?!\w))")
TABLE = re.compile(r"(?:^ *\|.*\| *(?:\n|$))+", re.MULTILINE)


def as_rst(text):
    """A docstring's tables, formulas, code and plain text as reStructuredText."""
    text = TABLE.sub(_table, text)
    return "".join(_piece(match, text) for match in PIECES.finditer(text))


def _table(match):
    rows = [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in match.group().strip().splitlines()]
    out = [".. list-table::", "   :header-rows: 1", ""]
    for row in [rows[0], *rows[2:]]:
        out += [f"   {'  ' if number else '- '}- {cell}" for number, cell in enumerate(row)]
    return "\n".join([*out, ""])


def _piece(match, text):
    piece = match.group()
    if match["block"]:
        line = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
        indent = re.match(r"\s*", line).group()
        body = [f"{indent}   {row.strip()}" for row in piece.strip("$").strip().splitlines()]
        return "\n".join(["", "", f"{indent}.. math::", "", *body, "", indent])
    if match["text"]:
        return EMPHASIS.sub(lambda found: f"\\{found.group()}" if found["special"] else found.group(), piece)
    # Inline markup stands between spaces or punctuation; an escaped space is none to the reader.
    before = "" if re.search(r"(^|[\s'\"(\[{<\-/:])$", text[: match.start()][-1:]) else "\\ "
    after = "" if re.match(r"$|[\s'\")\]}>\-/\\:.,;!?]", text[match.end() :]) else "\\ "
    inner = f":math:`{' '.join(piece.strip('$').split())}`" if match["math"] else f"`{piece}`"
    return before + inner + after


def convert_docstring(app, what, name, obj, options, lines):
    text = as_rst("\n".join(lines))
    # Napoleon takes what stands before a colon in a first line for a type; an escaped line end is none to the reader.
    lines[:] = re.sub(r"^( *)Returns:\n( +)", r"\1Returns:\n\2\\\n\2", text, flags=re.MULTILINE).splitlines()
    if what in ("property", "attribute", "data"):
        lines.insert(0, "\\")
    if what == "class" and dataclasses.is_dataclass(obj):
        lines += _settings(obj, "\n".join(lines))


def _settings(cls, text):
    """What the fields say of themselves, where the docstring does not name them."""
    said = []
    for field in dataclasses.fields(cls):
        meaning = field.metadata.get("meaning")
        if meaning is not None and not re.search(rf"^\s+(\w+, )*{field.name}(, \w+)*:", text, re.MULTILINE):
            unit = f" [{meaning.unit}]" if meaning.unit else ""
            source = f"; {meaning.source}" if meaning.source else ""
            if meaning.help or unit or source:
                said.append(f"    {field.name}: " + as_rst(f"{meaning.help}{unit}{source}".strip("; ")))
    if not said:
        return []
    return said if re.search(r"^Args:$", text.rstrip().rpartition("\n\n")[2], re.MULTILINE) else ["", "Args:", *said]


# Shapes as they are written: Float[Array, "step"]; and of a field that converts what it is given, what it becomes.


KEY = stringify_annotation(PRNGKeyArray, "smart")


def field_types(app, what, name, obj, options, signature, returns):
    if signature and what == "class" and dataclasses.is_dataclass(obj):
        for field in dataclasses.fields(obj):
            shown = f"{field.name}: {stringify_annotation(field.type, 'smart')}"
            signature = re.sub(rf"\b{field.name}: (~?typing\.)?Any\b", lambda _, shown=shown: shown, signature)
    if signature and "Annotated[" in signature:  # options of the command line
        hints = typing.get_type_hints(obj)
        given = inspect.signature(obj)
        plain = [x.replace(annotation=hints.get(x.name, x.annotation)) for x in given.parameters.values()]
        signature, returns = stringify_signature(given.replace(parameters=plain)).split(" -> ")[0], returns
    return tuple(text and text.replace(KEY, "PRNGKeyArray") for text in (signature, returns))


def short_names(app, doctree):
    for signature in doctree.findall(addnodes.desc_signature):
        for text in list(signature.findall(nodes.Text)):
            if (short := re.sub(r"\b(?:jaxtyping|jaxlib\._jax|jax)\.(?=[A-Z])", "", text)) != text:
                text.parent.replace(text, nodes.Text(short))


def outside_links(app, docname, source):
    """Links to folders of the repository lead nowhere in these pages: their text stays."""
    source[0] = re.sub(r"\[([^\]]+)\]\((?:\.\./)+[\w/-]+\)", r"\1", source[0])


def setup(app):
    app.connect("builder-inited", write_pages)
    app.connect("source-read", outside_links)
    app.connect("autodoc-process-docstring", convert_docstring, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", field_types)
    app.connect("doctree-read", short_names)
