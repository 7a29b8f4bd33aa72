"""TOML -> validated tables -> objects. The classes are the schema; every complaint says where, what and what to do."""

import dataclasses
import difflib
import itertools
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import equinox as eqx

from mfamm_jax.experiments.experiment import AbstractExperiment, ConfigError
from mfamm_jax.experiments.registry import EXPERIMENTS, KINDS
from mfamm_jax.experiments.rows import METHODS, MOST_ROWS, Sweep, read_axis
from mfamm_jax.experiments.toml_text import toml_value

LARGEST_FLOAT32 = 3.4e38


@dataclasses.dataclass(frozen=True)
class Settings:
    """What belongs to the run rather than to the experiment."""

    name: str
    seed: int
    precision: str
    batch_rows: int
    chunk_size: int
    sensitivities: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Config:
    """A validated config.

    Args:
        settings: Run settings.
        tables: Experiment tables with every default filled in.
        sweep: Which rows are visited.
        warnings: Unusual values, one line each.
        text: The file as given.
        place: File name for messages.
    """

    settings: Settings
    tables: dict[str, Any]
    sweep: Sweep
    warnings: tuple[str, ...]
    text: str
    place: str

    def resolved(self) -> dict[str, Any]:
        """Everything needed to run again, as one table."""
        top = {"experiment": self.tables["experiment"], "name": self.settings.name, "seed": self.settings.seed}
        top |= {name: getattr(self.settings, name) for name in ("precision", "batch_rows", "chunk_size")}
        top |= {"sensitivities": self.settings.sensitivities} if self.settings.sensitivities else {}
        body = {key: value for key, value in self.tables.items() if key != "experiment"}
        return top | body | ({"sweep": self.sweep.given()} if self.sweep.n_rows else {})


def find_config(name: str) -> Path:
    """A path, or the bare name of a shipped experiment."""
    path = Path(name)
    if path.is_file():
        return path
    package = Path(__file__).parent
    for folder in (package / "configs", package.parent.parent / "experiments"):
        for candidate in (folder / name, folder / f"{name}.toml", folder / name.removeprefix("experiments/")):
            if candidate.is_file():
                return candidate
    raise ConfigError(f"{name}: no such config file or shipped experiment{suggest(name, shipped_configs())}")


def shipped_configs() -> list[str]:
    """Names of the experiments that come with the package."""
    package = Path(__file__).parent
    folders = (package / "configs", package.parent.parent / "experiments")
    return sorted({file.stem for folder in folders if folder.is_dir() for file in folder.glob("*.toml")})


def config_summary(name: str) -> tuple[str, str]:
    """Experiment of a config file, and the comment that it begins with up to its first full stop or colon."""
    text, table = _read(find_config(name))
    comment = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    said = " ".join(line.lstrip("# ") for line in comment)
    return str(table.get("experiment", "")), re.split(r"(?<=[.?:])\s", said, maxsplit=1)[0].rstrip(".:")


def load_config(name: str, overrides: list[str] | None = None) -> Config:
    """Reads, overrides and validates a config file."""
    path = find_config(name)
    text, table = _read(path)
    # A table's kind first: another kind starts from its own defaults, not from the file's settings of the old one.
    ordered = sorted(overrides or [], key=lambda item: not item.split("=")[0].endswith(".kind"))
    overridden = {_override(table, item) for item in ordered}
    return parse_config(table, _Place(str(path), text, frozenset(overridden)), default_name=path.stem)


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """Text and content."""
    try:
        text = path.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


@dataclasses.dataclass(frozen=True)
class _Place:
    """Finds the line of a key for messages, and what else may have been meant among the settings of `schema`."""

    file: str
    text: str
    overridden: frozenset[str] = frozenset()
    schema: type | None = None

    def __call__(self, dotted: str) -> str:
        if dotted in self.overridden:
            return f"--set {dotted}"
        section, _, _ = dotted.rpartition(".")
        current = ""
        for number, line in enumerate(self.text.splitlines(), 1):
            line = line.strip()
            if line.startswith("["):
                current = line.strip("[] ").split("]")[0]
                if current == dotted:
                    return f"{self.file}:{number}: {dotted}"
            name = line.split("=")[0].strip().strip('"')
            if "=" in line and (f"{current}.{name}" if current else name) in (dotted, section):
                return f"{self.file}:{number}: {dotted}"
        return f"{self.file}: {dotted}"


def parse_config(table: dict[str, Any], place: _Place, default_name: str = "run") -> Config:
    """Validates a table and fills in the defaults."""
    table = dict(table)
    experiment = table.pop("experiment", None)
    if not isinstance(experiment, str) or experiment not in EXPERIMENTS:
        known = ", ".join(EXPERIMENTS) + ', or "module:Class" from outside'
        given = f"unknown experiment {experiment!r}" if experiment else "missing"
        raise ConfigError(f"{place('experiment')}: {given}; known: {known}{suggest(str(experiment), EXPERIMENTS)}")
    cls = _named(EXPERIMENTS, experiment, place("experiment"))
    place = dataclasses.replace(place, schema=cls)
    sweep_table = table.pop("sweep", {})
    settings = _settings(table, place, default_name)
    sweep = _sweep(sweep_table, place, settings.seed)
    warnings: list[str] = []
    tables = {"experiment": experiment} | resolve(cls, table, place, "", warnings)
    if settings.precision == "float32":
        _check_size(tables, place)
        _check_size({"sweep": {path: axis.values or axis.ends for path, axis in sweep.axes.items()}}, place)
    axes = dict(sweep.axes)
    for path, axis in sweep.axes.items():
        checked = _check_swept(cls, tables, place, path, axis.values or axis.ends)
        axes[path] = dataclasses.replace(axis, values=checked) if axis.values else axis
    sweep = dataclasses.replace(sweep, axes=axes)
    return Config(settings, tables, sweep, tuple(warnings), place.text, place.file)


def _named(classes: Mapping[str, type], name: str, place: str) -> type:
    try:
        return classes[name]
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error


def _check_size(table: Any, place: _Place, path: str = "") -> None:
    """Numbers that would become infinite on their way into a float32 array."""
    items = table.items() if isinstance(table, dict) else ((None, x) for x in table)
    for key, value in items:
        inside = path if key is None else _join(path, key)
        if isinstance(value, dict | list | tuple):
            _check_size(value, place, inside)
        elif _is_number(value) and LARGEST_FLOAT32 < abs(value) < float("inf"):
            raise ConfigError(f'{place(inside)}: {value:g} is too large for float32; use precision = "float64"')


def _settings(table: dict[str, Any], place: _Place, default_name: str) -> Settings:
    name, seed = table.pop("name", default_name), table.pop("seed", 0)
    precision = table.pop("precision", "float32")
    sizes = {key: table.pop(key, 0) for key in ("batch_rows", "chunk_size")}
    if not isinstance(name, str) or not name or any(c in name for c in "/\\ "):
        raise ConfigError(f"{place('name')}: expected a word without slashes or spaces, got {name!r}")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**31:
        raise ConfigError(f"{place('seed')}: expected an integer in [0, 2^31), got {seed!r}")
    if not isinstance(precision, str) or precision not in ("float32", "float64"):
        raise ConfigError(f'{place("precision")}: expected "float32" or "float64", got {precision!r}')
    for key, value in sizes.items():
        if not _is_count(value, 0):
            raise ConfigError(f"{place(key)}: expected rows, or 0 to choose them by memory; got {value!r}")
    paths = table.pop("sensitivities", ())
    if not isinstance(paths, list | tuple) or not all(isinstance(path, str) for path in paths):
        raise ConfigError(
            f'{place("sensitivities")}: expected a list of settings, e.g. ["hjb.risk_aversion"], got {paths!r}'
        )
    return Settings(name, seed, precision, **sizes, sensitivities=tuple(paths))


def _sweep(table: Any, place: _Place, seed: int) -> Sweep:
    """The [sweep] table."""
    if not isinstance(table, dict):
        raise ConfigError(f"{place('sweep')}: expected a table of settings, got {table!r}")
    table = dict(table)
    method, n_points, n_seeds = table.pop("method", "grid"), table.pop("n_points", 0), table.pop("n_seeds", 0)
    if not isinstance(method, str) or method not in METHODS:
        raise ConfigError(f"{place('sweep.method')}: expected one of {', '.join(METHODS)}, got {method!r}")
    if not _is_count(n_seeds, 0):
        raise ConfigError(f"{place('sweep.n_seeds')}: expected an integer >= 0, got {n_seeds!r}")
    if method == "grid" and n_points:
        raise ConfigError(
            f"{place('sweep.n_points')}: belongs to random and sobol points; a grid takes what its axes list"
        )
    if method != "grid" and not (_is_count(n_points, 1) and table):
        raise ConfigError(
            f"{place('sweep.n_points')}: expected an integer >= 1 and at least one axis, got {n_points!r}"
        )
    if method == "sobol" and n_points & (n_points - 1):
        raise ConfigError(
            f"{place('sweep.n_points')}: expected a power of two (Sobol points are balanced then), got {n_points}"
        )
    num = ", num = n" if method == "grid" else ""
    axes = {}
    for path, value in table.items():
        axis = read_axis(value, method)
        if axis is None:
            raise ConfigError(
                f"{place(f'sweep.{path}')}: expected a non-empty list, {{ log = [low, high]{num} }} with positive ends, or "
                f"{{ linear = [low, high]{num} }}{' with 2 <= num' if num else ''}; got {value!r}"
            )
        axes[path] = axis
    sweep = Sweep(axes, method, n_points, n_seeds, seed)
    if sweep.n_rows > MOST_ROWS:
        raise ConfigError(f"{place('sweep')}: {sweep.n_rows:,} rows, expected at most {MOST_ROWS:,}")
    return sweep


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**31


def resolve(cls: type, table: Any, place: _Place, path: str, warnings: list[str]) -> dict[str, Any]:
    """Table with every field of the class: given values checked, missing ones from the defaults."""
    if not isinstance(table, dict):
        raise ConfigError(f"{place(path)}: expected a table of settings, got {table!r}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in table:
        if key not in fields:
            given, hint = _elsewhere(place.schema, _join(path, key), table[key])
            known = ", ".join(fields)
            raise ConfigError(f"{place(given)}: unknown key{hint or suggest(key, fields)}; known keys: {known}")
    out = {}
    for name, field in fields.items():
        dotted = _join(path, name)
        kinds = KINDS.get(name)
        if kinds is not None and isinstance(field.type, type) and issubclass(field.type, eqx.Module):
            out[name] = _resolve_kind(kinds, table.get(name, {}), place, dotted, warnings)
        elif isinstance(field.type, type) and issubclass(field.type, eqx.Module):
            out[name] = resolve(field.type, table.get(name, {}), place, dotted, warnings)
        elif name in table:
            out[name] = _checked(field, table[name], place, dotted, warnings)
        elif field.default is dataclasses.MISSING:
            raise ConfigError(
                f"{place(dotted)}: missing; {_describe(field)}; give it in the file or by --set {dotted}=..."
            )
        else:
            out[name] = field.default
    return out


def _resolve_kind(
    kinds: Mapping[str, type], table: Any, place: _Place, path: str, warnings: list[str]
) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ConfigError(f"{place(path)}: expected a table of settings, got {table!r}")
    kind = table.get("kind", next(iter(kinds)))
    if not isinstance(kind, str) or kind not in kinds:
        known = ", ".join(kinds)
        raise ConfigError(f'{place(path + ".kind")}: unknown kind "{kind}"{suggest(str(kind), kinds)}; known: {known}')
    rest = {key: value for key, value in table.items() if key != "kind"}
    return {"kind": kind} | resolve(_named(kinds, kind, place(f"{path}.kind")), rest, place, path, warnings)


def _checked(field: dataclasses.Field, value: Any, place: _Place, path: str, warnings: list[str]) -> Any:
    """The value if its type and range are right."""
    expected = _expected_type(field.type)
    if not _has_type(value, field.type):
        raise ConfigError(f"{place(path)}: expected {expected}, got {value!r}")
    meaning = field.metadata.get("meaning")
    if isinstance(value, list | tuple):
        value = _frozen(value)
    elif _is_number(value) and float in (field.type, *get_args(field.type)):
        value = float(value)  # 120 means 120.0, as everywhere
    if meaning is not None and (_is_number(value) or (isinstance(value, tuple) and all(map(_is_number, value)))):
        problem = meaning.complaint(value)
        if problem:
            raise ConfigError(f"{place(path)}: {problem}{f' [{meaning.unit}]' if meaning.unit else ''}")
        unusual = meaning.warning(value)
        if unusual:
            warnings.append(f"{path} {unusual}")
    return value


def _frozen(value: Any) -> Any:
    """Lists as tuples, whole numbers in them as floats: settings are hashed."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _has_type(value: Any, annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return value in get_args(annotation)
    if get_origin(annotation) is tuple:
        return isinstance(value, list | tuple) and all(_has_type(item, get_args(annotation)[0]) for item in value)
    if get_origin(annotation) in (types.UnionType, typing.Union):
        return any(_has_type(value, option) for option in get_args(annotation))
    if annotation is type(None):
        return value is None
    if annotation is bool or annotation is str:
        return isinstance(value, annotation)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return _is_number(value)


def _expected_type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"a list, each entry {_expected_type(get_args(annotation)[0])}"
    if get_origin(annotation) in (types.UnionType, typing.Union):
        return " or ".join(_expected_type(option) for option in get_args(annotation) if option is not type(None))
    names = {bool: "true or false", str: "a string", int: "an integer"}
    return names.get(annotation, "a number")


def _describe(field: dataclasses.Field) -> str:
    meaning = field.metadata.get("meaning")
    text = _expected_type(field.type)
    return f"{text} ({meaning.help})" if meaning is not None and meaning.help else text


def describe_kinds(name: str, path: str, expand: bool = True) -> list[tuple[str, str, str, str, str]]:
    """As `describe_settings`, of every kind of the table `name`."""
    rows = []
    for kind, source in KINDS[name].items():
        rows.append((f'{path}.kind = "{kind}"', "", "", "", (source.__doc__ or "").splitlines()[0]))
        rows += describe_settings(source, path + ".", expand)
    return rows


def describe_settings(cls: type, prefix: str = "", expand: bool = True) -> list[tuple[str, str, str, str, str]]:
    """(path, default, unit, equation, meaning) of every setting of an experiment or table; without `expand` tables of KINDS are only named."""
    rows = []
    for field in dataclasses.fields(cls):
        path, meaning = prefix + field.name, field.metadata.get("meaning")
        is_table = isinstance(field.type, type) and issubclass(field.type, eqx.Module)
        if is_table and field.name in KINDS and expand:
            rows += describe_kinds(field.name, path)
        elif is_table and field.name in KINDS:
            kinds = list(KINDS[field.name])
            rows.append((f"{path}.kind", kinds[0], "", "", f"one of {', '.join(kinds)}: see [{field.name}]"))
        elif is_table:
            rows += describe_settings(field.type, path + ".", expand)
        elif meaning is not None:
            given = field.default
            shown = (
                toml_value(given) if isinstance(given, tuple) or given == "" else str(given)
            )  # as it is written in a file
            default = "required" if given is dataclasses.MISSING else shown
            usual = f" (usual {meaning.usual[0]:g} to {meaning.usual[1]:g})" if meaning.usual else ""
            rows.append((path, default, meaning.unit, meaning.source, meaning.help + usual))
    return rows


def construct(config: Config) -> AbstractExperiment:
    """The experiment object of a validated config."""
    return _construct(EXPERIMENTS[config.tables["experiment"]], config.tables, config.place)


def _construct(cls: type, table: dict[str, Any], place: str) -> Any:
    values = {}
    for field in dataclasses.fields(cls):
        value = table[field.name]
        if isinstance(value, dict):
            kinds = KINDS.get(field.name)
            value = _construct(kinds[value["kind"]] if kinds else field.type, value, place)
        values[field.name] = value
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from error


def resolve_market(table: dict[str, Any], overrides: list[str]) -> Any:
    """A source of market data from its settings alone, as `[market]` of a config file would make it."""
    table = {"market": dict(table)}
    for item in overrides:
        _override(table, f"market.{item}")
    place = _Place("--set", "")
    resolved = _resolve_kind(KINDS["market"], table["market"], place, "market", [])
    return _construct(KINDS["market"][resolved["kind"]], {k: v for k, v in resolved.items() if k != "kind"}, "market")


def _check_swept(
    cls: type, tables: dict[str, Any], place: _Place, path: str, values: tuple[Any, ...]
) -> tuple[Any, ...]:
    """The path must exist and every value must be valid for it; returns the values as the setting takes them."""
    dotted = f"sweep.{path}"
    current: Any = cls
    table: Any = tables
    *parents, last = path.split(".")
    for name in parents:
        known = {field.name: field for field in dataclasses.fields(current)}
        if name not in known or not isinstance(table.get(name), dict):
            raise ConfigError(f"{place(dotted)}: no such table to sweep over{_suggest_path(path, _paths(tables))}")
        table = table[name]
        current = KINDS[name][table["kind"]] if name in KINDS else known[name].type
    fields = {field.name: field for field in dataclasses.fields(current)}
    if last not in fields or isinstance(table.get(last), dict):
        raise ConfigError(f"{place(dotted)}: no such setting to sweep over{_suggest_path(path, _paths(tables))}")
    if get_origin(fields[last].type) is tuple:
        raise ConfigError(f"{place(dotted)}: a list of numbers cannot be swept over; use one file for each")
    return tuple(_checked(fields[last], value, place, dotted, []) for value in values)


def _paths(tables: dict[str, Any], prefix: str = "") -> list[str]:
    out = []
    for key, value in tables.items():
        out += _paths(value, _join(prefix, key)) if isinstance(value, dict) else [_join(prefix, key)]
    return out


def _override(table: dict[str, Any], item: str) -> str:
    """Applies one --set a.b=value in place; returns its path."""
    path, equals, text = item.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {item}: expected PATH=VALUE, e.g. --set hjb.risk_aversion=0.2")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word or a file path
    *parents, last = path.split(".") if not path.startswith("sweep.") else ("sweep", path.removeprefix("sweep."))
    for name in parents:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {path}: {name} is a value, not a table")
    kinds = KINDS.get(parents[-1], {}) if parents else {}
    # Without a kind the table's settings are those of the first one.
    if last == "kind" and kinds and table.get("kind", next(iter(kinds))) != value:
        table.clear()
    table[last] = value
    return path


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def suggest(word: str, known: Iterable[str]) -> str:
    """What may have been meant, for the end of a complaint."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f' (did you mean "{close[0]}"?)' if close else ""


def _suggest_path(path: str, known: Iterable[str]) -> str:
    """A setting of the same name in another table, else the closest path."""
    return _same_name(path, known) or suggest(path, known)


def _same_name(path: str, known: Iterable[str]) -> str:
    name = path.rpartition(".")[2]
    same = [other for other in known if other != path and other.rpartition(".")[2] == name]
    closest = [f'"{other}"' for other in difflib.get_close_matches(path, same, n=3, cutoff=0)]
    return f" (did you mean {' or '.join(closest)}?)" if same else ""


def _elsewhere(schema: type | None, path: str, value: Any) -> tuple[str, str]:
    """An unknown key, or the first setting in an unknown table, that has a namesake in the experiment; with the suggestion."""
    if schema is not None:
        of_run = {field.name for field in dataclasses.fields(Settings)}
        known = of_run | {row[0].partition(" = ")[0] for row in describe_settings(schema)}
        for given in _paths(value, path) if isinstance(value, dict) else [path]:
            if hint := _same_name(given, known):
                return given, hint
    return path, ""
