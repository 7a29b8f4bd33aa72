"""Fields of parameter objects: what a number means, its unit, its bounds, and where it comes from.

A config table is turned into an object whose class *is* the schema, so everything a user may be told about a key
(`mfamm list`) is said once, where the field is declared.
"""

import dataclasses
import math
import typing
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def as_real(x: Any) -> jax.Array:
    """Turns a number into a float array of the precision in force; floating arrays keep their dtype.

    An explicit dtype avoids weak types, which would compile a second time for the same shapes.
    """
    if isinstance(x, jax.Array | np.ndarray) and jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.asarray(x)
    if isinstance(x, str):  # numpy would read it
        raise TypeError(f"expected a number, got the text {x!r}")
    return in_precision(x)


def in_precision(x: Any) -> jax.Array:
    """Numbers in the precision in force, whatever they come in."""
    return jnp.asarray(x, dtype=jnp.result_type(float))


def listed(text: str | None) -> tuple[str, ...]:
    """What a setting lists, separated by commas."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What `mfamm list` prints about a field and what the border of a run checks.

    Args:
        unit: Physical unit, e.g. "price/sqrt(s)".
        source: Equation or section, e.g. "(9)".
        lower: Smallest admissible value; `strict` excludes it.
        upper: Largest admissible value.
        strict: Whether `lower` itself is excluded.
        usual: Range outside which a run warns.
        infinite: Whether an infinite value means something ("no limit").
        help: One line in plain words.
    """

    unit: str = ""
    source: str = ""
    lower: float | int = -math.inf
    upper: float | int = math.inf
    strict: bool = False
    usual: tuple[float | int, float | int] | None = None
    infinite: bool = False
    help: str = ""

    def complaint(self, value: Any) -> str | None:
        """Says what is wrong with `value`, or None. NaN is always wrong."""
        values = np.asarray(value, dtype=float)
        if np.isnan(values).any():
            return "is NaN"
        if np.isinf(values).any() and not self.infinite:
            return "is infinite"
        bad_low = values <= self.lower if self.strict else values < self.lower
        if bad_low.any():
            return f"is {values[bad_low].flat[0]:g}, expected {'>' if self.strict else '>='} {self.lower:g}"
        if (values > self.upper).any():
            return f"is {values[values > self.upper].flat[0]:g}, expected <= {self.upper:g}"
        return None

    def warning(self, value: Any) -> str | None:
        """Says that `value` is unusual, or None."""
        if self.usual is None:
            return None
        low, high = self.usual
        values = np.asarray(value, dtype=float)
        if ((values < low) | (values > high)).any():
            return f"is {values.flat[0]:g}; usual values lie in [{low:g}, {high:g}]"
        return None


def _field(meaning: Meaning, default: Any, **kwargs: Any) -> Any:
    if default is not dataclasses.MISSING:
        kwargs["default"] = default
    return eqx.field(metadata={"meaning": meaning}, **kwargs)


def real_field(*, default: Any = dataclasses.MISSING, converter: Callable = as_real, **meaning: Any) -> Any:
    """A float-array parameter: may be swept, vmapped and differentiated. `meaning`: fields of `Meaning`."""
    infinite = default is not dataclasses.MISSING and bool(np.isinf(default))
    return _field(Meaning(infinite=infinite, **meaning), default, converter=converter)


def static_field(*, default: Any = dataclasses.MISSING, **meaning: Any) -> Any:
    """A size or a choice: changing it compiles again. `meaning`: fields of `Meaning`."""
    return _field(Meaning(**meaning), default, static=True)


def _expectation(annotation: Any) -> tuple[str, Callable[[Any], bool]] | None:
    """What a size or a choice must be, in words and as a test."""
    if annotation is int:
        return "a whole number", lambda x: isinstance(x, int) and not isinstance(x, bool)
    if typing.get_origin(annotation) is Literal:
        choices = typing.get_args(annotation)
        return f"one of {choices}", lambda x: x in choices
    return None


class Checked(eqx.Module):
    """Raises ValueError when a concrete field lies outside its declared bounds. Tracers pass."""

    def __check_init__(self) -> None:
        for field in dataclasses.fields(self):
            meaning, value = field.metadata.get("meaning"), getattr(self, field.name)
            if meaning is None or isinstance(value, jax.core.Tracer):
                continue
            expected = _expectation(field.type)
            if expected is not None and not expected[1](value):
                raise ValueError(f"{type(self).__name__}.{field.name} is {value!r}, expected {expected[0]}")
            if isinstance(value, str | bool | None):
                continue
            if isinstance(value, jax.Array | np.ndarray | int | float):
                problem = meaning.complaint(value)
                if problem is not None:
                    raise ValueError(f"{type(self).__name__}.{field.name} {problem}")
