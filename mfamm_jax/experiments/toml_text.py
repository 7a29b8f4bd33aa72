"""Settings as TOML text: the standard library only reads it."""

import json
from typing import Any


def to_toml(table: dict[str, Any], path: str = "") -> str:
    """Writes nested tables of plain values as TOML; None is left out (TOML has no null)."""
    # A sweep's ranges stay on one line: [sweep."a.b"] is hard to read.
    inline = path == "sweep"
    plain = {k: v for k, v in table.items() if (inline or not isinstance(v, dict)) and v is not None}
    lines = [f"{_toml_key(key)} = {toml_value(value)}" for key, value in plain.items()]
    for key, value in table.items():
        if isinstance(value, dict) and not inline:
            dotted = f"{path}.{_toml_key(key)}" if path else _toml_key(key)
            lines += ["", f"[{dotted}]", to_toml(value, dotted)]
    return "\n".join(lines)


def _toml_key(key: str) -> str:
    return key if key.replace("_", "").isalnum() and key.isascii() else toml_value(key)


def toml_value(value: Any) -> str:
    """As it is written in a file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # a JSON string is one of TOML's
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml_value(item)}" for key, item in value.items()) + " }"
    return repr(float(value)) if isinstance(value, float) else str(value)
