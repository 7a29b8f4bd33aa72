"""Where quotes to be explained come from: planted ones with known parameters, or a file."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import polars as pl
from jaxtyping import Array, Float, Int

from mfamm_jax.experiments.experiment import ConfigError
from mfamm_jax.fields import Checked, static_field
from mfamm_jax.market.loaders.files import file_hash


class ObservedQuotes(eqx.Module):
    """What a market maker quoted.

    Args:
        inventory: When it did [lots].
        time_left: To the horizon [s].
        depths: Bid and ask distance from the mid [price]; NaN = side not quoted.
    """

    inventory: Int[Array, " quote"]
    time_left: Float[Array, " quote"]
    depths: Float[Array, "quote side"]


class ObservedFills(eqx.Module):
    """What happened to resting orders: a cancelled one is a row without fills, its exposure the time it rested.

    Args:
        is_ask: Side.
        depth: Distance from the mid [price].
        exposure: Seconds at this depth.
        fills: Number of fills.
    """

    is_ask: Int[Array, " order"]
    depth: Float[Array, " order"]
    exposure: Float[Array, " order"]
    fills: Float[Array, " order"]


class PlantedQuotes(Checked):
    """Quotes and fills that follow from [parameters], with noise on the quotes: calibration must find them again."""

    n_quotes: int = static_field(default=200, lower=10, help="moments, both sides each")
    noise: float = static_field(default=0.01, lower=0.0, strict=True, help="deviation in half spreads")
    n_orders: int = static_field(default=0, lower=0, help="resting orders whose fills are seen; 0 = quotes only")
    order_seconds: float = static_field(default=1.0, lower=0.0, strict=True, unit="s", help="how long an order rests")


class QuoteFile(Checked):
    """Csv or Parquet with the columns inventory, time_left, bid_depth, ask_depth; empty = side not quoted."""

    path: str = static_field(help="csv or Parquet")
    fills: str = static_field(
        default="", help="csv or Parquet with side (bid, ask), depth, exposure, fills; empty = quotes only"
    )


OBSERVED: dict[str, type] = {"planted": PlantedQuotes, "file": QuoteFile}


def load_quotes(
    source: QuoteFile, max_inventory: int, horizon: float
) -> tuple[ObservedQuotes, ObservedFills | None, list[list[str]]]:
    """Quotes, fills if there are any, and files with their sha256."""
    real = jnp.result_type(float)
    table = _columns(source.path, ("inventory", "time_left", "bid_depth", "ask_depth"), may_be_empty=2)
    inventory = table["inventory"]
    _refuse(source.path, inventory != np.round(inventory), inventory, "inventory", "whole lots")
    outside = np.abs(inventory) > max_inventory
    _refuse(source.path, outside, inventory, "inventory", f"at most max_inventory = {max_inventory} lots")
    _refuse(source.path, table["time_left"] < 0, table["time_left"], "time_left", "seconds >= 0")
    late = table["time_left"] > horizon
    _refuse(source.path, late, table["time_left"], "time_left", f"at most parameters.horizon = {horizon:g} s; raise it")
    depths = np.stack([table["bid_depth"], table["ask_depth"]], axis=1)
    if np.isfinite(depths).sum() < 2:
        raise ConfigError(f"{source.path}: no quotes; expected depths in bid_depth and ask_depth")
    # The limits of inventory quote one side only.
    depths[inventory == max_inventory, 0] = np.nan
    depths[inventory == -max_inventory, 1] = np.nan
    if not np.nanmean(depths) > 0:
        raise ConfigError(
            f"{source.path}: the mean depth is {np.nanmean(depths):g}, expected > 0: depths are measured away from the mid"
        )
    quotes = ObservedQuotes(
        jnp.asarray(inventory, int), jnp.asarray(table["time_left"], real), jnp.asarray(depths, real)
    )
    files = [[Path(source.path).name, file_hash(Path(source.path))]]
    if not source.fills:
        return quotes, None, files
    rows = _columns(source.fills, ("side", "depth", "exposure", "fills"), may_be_empty=0)
    _refuse(source.fills, rows["exposure"] <= 0, rows["exposure"], "exposure", "seconds > 0")
    _refuse(source.fills, rows["fills"] < 0, rows["fills"], "fills", "a number >= 0")
    fills = ObservedFills(
        jnp.asarray(rows["side"], int), *(jnp.asarray(rows[n], real) for n in ("depth", "exposure", "fills"))
    )
    return quotes, fills, [*files, [Path(source.fills).name, file_hash(Path(source.fills))]]


def _columns(path: str, names: tuple[str, ...], may_be_empty: int) -> dict[str, np.ndarray]:
    """Columns as numbers; the last `may_be_empty` of them may have gaps."""
    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such file")
    try:
        table = pl.read_parquet(path) if path.endswith(".parquet") else pl.read_csv(path, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    missing = [name for name in names if name not in table.columns]
    if missing or table.is_empty():
        raise ConfigError(
            f"{path}: {'no rows' if table.is_empty() else f'no column {missing[0]}'}; expected rows of {', '.join(names)}"
        )
    out = {}
    for number, name in enumerate(names):
        text = table[name].cast(pl.String).str.strip_chars()
        if name == "side":
            text = text.replace({"bid": "0", "ask": "1"})
        values = text.cast(pl.Float64, strict=False).to_numpy()
        blank = text.fill_null("").is_in(["", "nan", "NaN"]).to_numpy()
        optional = number >= len(names) - may_be_empty
        bad = ~np.isfinite(values) & ~(blank & optional) | ((name == "side") & ~np.isin(values, (0.0, 1.0)))
        _refuse(path, bad, text.to_numpy(), name, "bid or ask" if name == "side" else "a finite number")
        out[name] = values
    return out


def _refuse(path: str, bad: np.ndarray, values: Any, name: str, expected: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise ConfigError(f"{path}: row {row + 1}: {name} is {values[row]}, expected {expected}")
