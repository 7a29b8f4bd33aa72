"""Compiles ahead of time and says how long tracing and compiling took, and whether the compile cache had it."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.monitoring

_hits: list[str] = []


def _remember(event: str, **_: Any) -> None:
    if event == "/jax/compilation_cache/cache_hits":
        _hits.append(event)


jax.monitoring.register_event_listener(_remember)


def compile_cache() -> Path:
    """Where compiled programs are kept unless the environment says otherwise; the user's own folder, since programs are trusted."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mfamm_jax"


def compiled(function: Callable, *args: Any) -> tuple[Callable, dict[str, Any]]:
    """The function compiled for these arguments; seconds of `trace` and `compile`, and whether the latter was `cached`."""
    begin = time.perf_counter()
    lowered = jax.jit(function).trace(*args).lower()
    traced, n_hits = time.perf_counter(), len(_hits)
    program = lowered.compile()
    times = {"trace": round(traced - begin, 3), "compile": round(time.perf_counter() - traced, 3)}
    return program, times | {"cached": len(_hits) > n_hits}
