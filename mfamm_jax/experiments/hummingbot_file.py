"""Reads the strategy file of Hummingbot's `avellaneda_market_making`, of any of its three generations.

Host code: files and messages. Percentages become fractions and days seconds here, and nowhere else.
"""

import dataclasses
import datetime
import difflib
import hashlib
import math
from pathlib import Path
from typing import Any

import yaml

from mfamm_jax.experiments.experiment import ConfigError

STRATEGY = "avellaneda_market_making"
DAY = 86_400.0
INFINITE, DATED = "infinite", ("from_date_to_date", "daily_between_times")

# Keys that every generation knows.
COMMON = frozenset(
    [
        "template_version",
        "strategy",
        "exchange",
        "market",
        "order_amount",
        "order_optimization_enabled",
        "order_refresh_time",
        "max_order_age",
        "order_refresh_tolerance_pct",
        "filled_order_delay",
        "inventory_target_base_pct",
        "add_transaction_costs",
        "min_spread",
        "volatility_buffer_size",
        "order_override",
        "risk_factor",
        "order_amount_shape_factor",
    ]
)
KEYS = {
    "hummingbot-2021": frozenset(
        [
            "parameters_based_on_spread",
            "max_spread",
            "vol_to_spread_multiplier",
            "volatility_sensibility",
            "inventory_risk_aversion",
            "order_book_depth_factor",
            "closing_time",
            "order_levels",
            "hanging_orders_enabled",
            "hanging_orders_cancel_pct",
        ]
    ),
    "hummingbot-2021-12": frozenset(
        [
            "execution_timeframe",
            "start_time",
            "end_time",
            "trading_intensity_buffer_size",
            "order_levels",
            "level_distances",
            "hanging_orders_enabled",
            "hanging_orders_cancel_pct",
            "should_wait_order_cancel_confirmation",
        ]
    ),
    "hummingbot-2022": frozenset(
        [
            "execution_timeframe_mode",
            "trading_intensity_buffer_size",
            "order_levels_mode",
            "hanging_orders_mode",
            "should_wait_order_cancel_confirmation",
        ]
    ),
}
# What makes a file one of a generation.
MARKS = {
    "hummingbot-2022": ("execution_timeframe_mode", "order_levels_mode", "hanging_orders_mode"),
    "hummingbot-2021-12": ("execution_timeframe", "level_distances", "trading_intensity_buffer_size"),
    "hummingbot-2021": ("max_spread", "inventory_risk_aversion", "closing_time", "vol_to_spread_multiplier"),
}
# Read and checked, but the comparison has no use for them: a simulated order book has one price level of others' orders.
WITHOUT_EFFECT = {
    "order_refresh_tolerance_pct": "orders are always replaced when their time is over",
    "max_order_age": "as long as it exceeds order_refresh_time",
    "order_optimization_enabled": "there is no book of others' orders to undercut",
    "hanging_orders_enabled": "hanging orders are not modelled",
    "hanging_orders_cancel_pct": "hanging orders are not modelled",
    "hanging_orders_mode": "hanging orders are not modelled",
    "trading_intensity_buffer_size": "the fit is replaced by the market's own parameters",
    "order_book_depth_factor": "the market's decay is used instead",
    "should_wait_order_cancel_confirmation": "cancellations are immediate",
    "order_override": "orders typed in by hand bypass the model",
}


@dataclasses.dataclass(frozen=True)
class BotFile:
    """One strategy file in consistent units; None where its generation lacks the key.

    Args:
        compat: Generation.
        market: Trading pair.
        order_amount: Size of an order [base].
        order_refresh_time: [s].
        filled_order_delay: Pause after a fill [s].
        target: Wanted share of the base asset, a fraction.
        add_transaction_costs: Whether prices earn the fee back.
        n_levels: Orders per side.
        level_distance_pct: Of half the optimal spread.
        min_spread: Fraction of the mid: distance per side in 2021, total since.
        max_spread: Fraction, per side.
        inventory_risk_aversion: IRA.
        vol_to_spread_multiplier: H1-2.
        volatility_sensibility: H1-10.
        n_buffered: Mids that the volatility is measured from.
        closing_time: Length of a cycle or session [s]; None = infinite.
        risk_factor: Typed-in risk aversion.
        order_shape: Typed-in eta.
        given: Every key as the file has it.
    """

    compat: str
    market: str
    order_amount: float
    order_refresh_time: float
    filled_order_delay: float
    target: float
    add_transaction_costs: bool
    n_levels: int
    level_distance_pct: float
    min_spread: float
    max_spread: float | None
    inventory_risk_aversion: float | None
    vol_to_spread_multiplier: float | None
    volatility_sensibility: float | None
    n_buffered: int
    closing_time: float | None
    risk_factor: float | None
    order_shape: float | None
    given: dict[str, Any]

    @property
    def without_effect(self) -> dict[str, str]:
        """Keys of the file that the comparison does not use, and why."""
        return {key: WITHOUT_EFFECT[key] for key, value in self.given.items() if key in WITHOUT_EFFECT and value}


class LoadedFile:
    """A file of a run: hashed by identity, so that it may ride along in a pytree."""

    def __init__(self, file: BotFile, name: str, digest: str):
        self.file, self.name, self.digest = file, name, digest


def load_bot_file(name: str, folder: Path) -> LoadedFile:
    """Finds and reads a file, and keeps a copy of it in the run folder."""
    path = find_bot_file(name)
    file, content = read_bot_file(path), path.read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "strategy.yml").write_bytes(content)
    return LoadedFile(file, path.name, hashlib.sha256(content).hexdigest())


class _Reader:
    """Takes keys out of a table with checks that name file, key, value and what was expected."""

    def __init__(self, path: Path, table: dict[str, Any]):
        self.path, self.table = path, table

    def fail(self, key: str, text: str) -> ConfigError:
        return ConfigError(f"{self.path}: {key}: {text}")

    def number(
        self,
        key: str,
        default: float | int | None = None,
        *,
        low: float | int = -math.inf,
        high: float | int = math.inf,
        strict: bool = False,
        needed: bool = False,
    ) -> float | None:
        value = self.table.get(key)
        if value is None:
            if needed:
                raise self.fail(key, "missing; the strategy cannot quote without it")
            return None if default is None else float(default)
        if isinstance(value, str):
            value = _float(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.fail(key, f"expected a number, got {self.table[key]!r}")
        if value < low or value > high or (strict and value == low):
            end = f" and <= {high:g}" if math.isfinite(high) else ""
            raise self.fail(key, f"is {value:g}, expected {'>' if strict else '>='} {low:g}{end}")
        return float(value)

    def whole(self, key: str, default: int, low: int) -> int:
        value = self.number(key, default, low=low)
        if value is None or value != int(value):
            raise self.fail(key, f"expected a whole number, got {self.table[key]!r}")
        return int(value)

    def choice(self, key: str, default: bool) -> bool:
        value = self.table.get(key)
        if value is None:
            return default
        if isinstance(value, str) and value.lower() in ("true", "yes", "false", "no"):
            return value.lower() in ("true", "yes")
        if not isinstance(value, bool):
            raise self.fail(key, f"expected true or false, got {value!r}")
        return value


def _float(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def find_bot_file(name: str) -> Path:
    """A path, or the example that comes with the shipped experiments."""
    package = Path(__file__).parent
    for path in (Path(name), package / "configs" / name, package.parent.parent / "experiments" / name):
        if path.is_file():
            return path
    raise ConfigError(
        f"{name}: no such file; expected a strategy file of Hummingbot (conf/strategies/*.yml): --set policy.file=PATH"
    )


class _NoDuplicates(yaml.SafeLoader):
    """YAML keeps the last of two equal keys without a word; here the file is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"{key} is given twice")
        return super().construct_mapping(node, deep)


def read_bot_file(path: Path) -> BotFile:
    """The file, or a ConfigError that names what is wrong with it."""
    try:
        table = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_NoDuplicates)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(table, dict) or not table:
        raise ConfigError(f"{path}: expected keys and values of a strategy file, got {type(table).__name__}")
    read = _Reader(path, table)
    strategy = table.get("strategy")
    if strategy != STRATEGY:
        raise read.fail(
            "strategy", f"is {strategy!r}, expected {STRATEGY}: a file of another strategy has no such model"
        )
    compat = _generation(read)
    levels, distances = _levels(read, compat)
    first = compat == "hummingbot-2021"
    percent = read.number("min_spread", 0.0, low=0.0, high=100.0, strict=first, needed=first) or 0.0
    largest = averse = None
    if first:
        if not read.choice("parameters_based_on_spread", True):
            raise read.fail(
                "parameters_based_on_spread",
                "is false: gamma, kappa and eta typed in by hand leave nothing of the 2021 model to compare; set it to true",
            )
        largest = read.number("max_spread", low=0.0, high=100.0, strict=True, needed=True)
        if largest is not None and largest <= percent:
            raise read.fail("max_spread", f"is {largest:g}, expected more than min_spread = {percent:g}")
        averse = read.number("inventory_risk_aversion", low=0.0, high=1.0, strict=True, needed=True)
    return BotFile(
        compat=compat,
        market=str(table.get("market") or "unnamed pair"),
        order_amount=read.number("order_amount", low=0.0, strict=True, needed=True) or 0.0,
        order_refresh_time=read.number("order_refresh_time", low=0.0, strict=True, needed=True) or 0.0,
        filled_order_delay=read.number("filled_order_delay", 60.0, low=0.0) or 0.0,
        target=_target(read),
        add_transaction_costs=read.choice("add_transaction_costs", False),
        n_levels=levels,
        level_distance_pct=distances,
        min_spread=percent / 100,
        max_spread=None if largest is None else largest / 100,
        inventory_risk_aversion=averse,
        vol_to_spread_multiplier=read.number("vol_to_spread_multiplier", 1.3, low=0.0) if first else None,
        volatility_sensibility=read.number("volatility_sensibility", 0.2, low=0.0) if first else None,
        n_buffered=max(read.whole("volatility_buffer_size", 60 if first else 200, 1), 2),
        closing_time=_closing_time(read, compat),
        risk_factor=read.number("risk_factor", None if first else 1.0, low=0.0, strict=True),
        order_shape=read.number("order_amount_shape_factor", None if first else 0.0, low=0.0, high=1.0),
        given={key: value for key, value in table.items() if value is not None},
    )


def _generation(read: _Reader) -> str:
    """By the keys that only one generation has; unknown keys are named."""
    given = {key for key, value in read.table.items() if value is not None}
    marked = [compat for compat, marks in MARKS.items() if any(mark in given for mark in marks)]
    if not marked:
        names = "; ".join(f"{compat}: {', '.join(marks)}" for compat, marks in MARKS.items())
        raise ConfigError(f"{read.path}: cannot tell the generation of the strategy; expected a key of one ({names})")
    compat = marked[0]
    known = COMMON | KEYS[compat]
    for key in read.table:
        if key in known:
            continue
        others = [other for other, keys in KEYS.items() if key in keys]
        hint = f"it belongs to {others[0]}, but the file is of {compat}" if others else "unknown key"
        close = difflib.get_close_matches(str(key), sorted(known), n=1, cutoff=0.6)
        suggestion = f' (did you mean "{close[0]}"?)' if close and not others else ""
        raise read.fail(str(key), f"{hint}{suggestion}; known keys: {', '.join(sorted(known))}")
    return compat


def _target(read: _Reader) -> float:
    percent = read.number("inventory_target_base_pct", 50.0, low=0.0, high=100.0)
    if percent in (0.0, 100.0):
        raise read.fail("inventory_target_base_pct", f"is {percent:g}: a wallet of one asset cannot quote both sides")
    return (percent or 50.0) / 100


def _levels(read: _Reader, compat: str) -> tuple[int, float]:
    if compat != "hummingbot-2022":
        # Zero levels is the bot's word for one.
        return max(read.whole("order_levels", 1, 0), 1), read.number("level_distances", 0.0, low=0.0) or 0.0
    mode = read.table.get("order_levels_mode")
    if mode in (None, "single_order_level", {}):
        return 1, 0.0
    inner = _mode(read, "order_levels_mode", mode, {"order_levels", "level_distances"})
    return inner.whole("order_levels", 2, 2), inner.number("level_distances", 0.0, low=0.0) or 0.0


def _mode(read: _Reader, key: str, mode: Any, known: set[str]) -> _Reader:
    """A nested table, with its keys under their full name."""
    if not isinstance(mode, dict) or not set(mode) <= known:
        raise read.fail(key, f"is {mode!r}, expected a table with {', '.join(sorted(known))}")
    return _Reader(Path(f"{read.path}: {key}"), mode)


def _closing_time(read: _Reader, compat: str) -> float | None:
    """Length of a cycle [s]; None = infinite."""
    if compat == "hummingbot-2021":
        days = read.number("closing_time", 1.0, low=0.0, strict=True) or 1.0
        return days * DAY
    if compat == "hummingbot-2021-12":
        frame = read.table.get("execution_timeframe")
        if frame in (None, INFINITE):
            return None
        if frame not in DATED:
            raise read.fail("execution_timeframe", f"is {frame!r}, expected {', '.join((INFINITE, *DATED))}")
        return _span(read, "start_time", "end_time", daily=frame == "daily_between_times")
    mode = read.table.get("execution_timeframe_mode")
    if mode in (None, INFINITE, {}):
        return None
    names = ({"start_time", "end_time"}, {"start_datetime", "end_datetime"})
    if not isinstance(mode, dict) or set(mode) not in names:
        raise read.fail(
            "execution_timeframe_mode",
            f"is {mode!r}, expected infinite or a table with start_time and end_time, or start_datetime and end_datetime",
        )
    inner = _Reader(Path(f"{read.path}: execution_timeframe_mode"), mode)
    daily = "start_time" in mode
    return _span(inner, *(("start_time", "end_time") if daily else ("start_datetime", "end_datetime")), daily=daily)


def _span(read: _Reader, start: str, end: str, daily: bool) -> float:
    first, last = (_moment(read, key, daily) for key in (start, end))
    length = (last - first).total_seconds()
    if daily and length < 0:  # over midnight
        length += DAY
    if length <= 0:
        raise read.fail(end, f"is {read.table[end]}, expected after {start} = {read.table[start]}")
    return length


def _moment(read: _Reader, key: str, daily: bool) -> datetime.datetime:
    value = read.table.get(key)
    # YAML takes 10:30:00 and 10:30 for numbers in base 60, seconds and minutes; times before ten stay text.
    if daily and isinstance(value, int) and not isinstance(value, bool) and 0 <= value < DAY:
        return datetime.datetime(2000, 1, 1) + datetime.timedelta(seconds=value * (60 if value < 24 * 60 else 1))
    if isinstance(value, datetime.datetime) and not daily:
        return value.replace(tzinfo=None)
    text = str(value)
    try:
        if daily:
            return datetime.datetime.combine(datetime.date(2000, 1, 1), datetime.time.fromisoformat(text))
        return datetime.datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        form = "HH:MM:SS" if daily else "YYYY-MM-DD HH:MM:SS"
        raise read.fail(key, f"is {value!r}, expected {form}") from None
