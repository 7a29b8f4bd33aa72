"""Results as plain names, numbers and arrays."""

from typing import Any

import jax
import numpy as np


def plain(x: Any) -> Any:
    """Plain JSON values; numbers that JSON cannot hold become text."""
    if isinstance(x, dict):
        return {str(key): plain(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [plain(value) for value in x]
    if isinstance(x, str | bool | int | None):
        return x
    array = np.asarray(x)
    if array.ndim:
        return [plain(value) for value in array.tolist()]
    value = array.item()
    return value if not isinstance(value, float) or np.isfinite(value) else repr(value)


def flatten(results: dict[str, Any]) -> dict[str, np.ndarray]:
    """Every array under the path of its names, joined by slashes; names that begin with _ stay inside."""
    leaves = jax.tree_util.tree_flatten_with_path(results)[0]
    named = {"/".join(_part(key) for key in path): leaf for path, leaf in leaves}
    return {name: np.asarray(leaf) for name, leaf in named.items() if "/_" not in f"/{name}"}


def _part(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Tables within tables from slash-joined names."""
    out: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        table = out
        for name in parents:
            table = table.setdefault(name, {})
        table[last] = value
    return out
