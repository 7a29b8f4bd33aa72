"""Numbers and tables of experiment `fpga_quote_kernel`."""

from typing import Any

from mfamm_jax.experiments.fpga_run import KEPT, NAMES, agreement, order_logs
from mfamm_jax.experiments.signal_tables import verdict


def kernel_metrics(experiment: Any, prepared: Any, results: dict[str, Any]) -> dict[str, Any]:
    """Headline numbers, then tables."""
    outcome = prepared.report["outcome"]
    quantized, errors = outcome.quantized, outcome.errors
    gain = {name: float(x) for name, x in results["difference"].items()}
    agrees = agreement(order_logs(prepared, results))
    form = quantized.form
    return {
        "ok": errors.unexplained == 0,
        "pnl_float": float(results["both"]["float"]["pnl"]),
        "pnl_kernel": float(results["both"]["kernel"]["pnl"]),
        "cost_of_quantisation": 0.0 - gain["total"],
        "error_bound_ticks": quantized.bound.total,
        "error_observed_ticks": errors.largest,
        "max_skew": form.spec.max_skew,
        "difference": gain,
        "agreement": agrees,
        "facts": prepared.report["facts"],
        "truth": prepared.report["truth"],
        "tables": [
            _profit(experiment, prepared, results, gain),
            _orders(agrees),
            _errors(quantized, errors),
            _widths(form),
        ],
    }


def _profit(experiment: Any, prepared: Any, results: dict[str, Any], gain: dict[str, float]) -> dict[str, Any]:
    rows: list[list[Any]] = [
        [name.replace("_", " "), *(float(results["both"][policy][name]) for policy in NAMES)] for name in KEPT
    ]
    rows.append(["kernel makes more", "", gain["total"]])
    rows.append(["95 % interval", "", f"{gain['low']:.4g} to {gain['high']:.4g}"])
    rows.append(["is", "", verdict(gain["low"], gain["high"])])
    return {
        "title": "Test part: the same market maker with float and with integer quotes",
        "header": ["", "float policy", "integer kernel"],
        "rows": rows,
        "notes": [
            f"Replay. Paired block bootstrap over {prepared.n_blocks} stretches of {experiment.comparison.block_seconds:g} s. The float policy has "
            "axes of its own, so the difference holds both tables' interpolation as well as the kernel's rounding. One session is one sample."
        ],
    }


def _orders(agrees: dict[str, Any]) -> dict[str, Any]:
    return {
        "title": "Order by order",
        "header": ["", "share"],
        "rows": [
            ["decisions with the same inventory", agrees["same_inventory"]],
            ["same price", agrees["same_price"]],
            ["one tick apart", agrees["one_tick_apart"]],
            ["further apart", agrees["further_apart"]],
            ["fills that both had", agrees["same_fills"]],
        ],
        "notes": [
            f"Prices of {agrees['quotes']:,} resting quotes at decisions where both policies hold the same inventory; after one fill that only one "
            "of them had, their quotes differ by intent. Data: logs/orders.parquet."
        ],
    }


def _errors(quantized: Any, errors: Any) -> dict[str, Any]:
    bound = quantized.bound
    return {
        "title": "Error of a depth [ticks]",
        "header": ["", "ticks"],
        "rows": [
            ["bound: interpolation", bound.interpolation],
            ["bound: arithmetic", bound.arithmetic],
            ["bound: rounding of inputs", bound.inputs],
            ["bound: total", bound.total],
            [f"observed at {errors.n_states} random states: largest", errors.largest],
            ["observed: 99 %", errors.p99],
            ["observed: mean", errors.mean],
            ["second method's disagreement at the table's states", quantized.residual],
        ],
        "notes": [
            f"The problem solved anew at every state, {quantized.scheme}. Quotes in whole ticks differ from those of the exact depth in "
            f"{errors.off_by_one:.2%} of random cases, by one tick and within the bound of a boundary; unexplained: {errors.unexplained}."
        ],
    }


def _widths(form: Any) -> dict[str, Any]:
    widest = max(form.operations, key=lambda o: o.bits)
    return {
        "title": "Kernel",
        "header": ["", "value"],
        "rows": [
            ["numbers of the table", str(form.depth)],
            ["derivatives in the skew", str(form.slope)],
            ["depth behind the interpolation", str(form.depth_limit)],
            ["widest operation", f"{widest.name}, {widest.bits} bits"],
            [
                "nodes",
                " x ".join(str(axis.n_nodes) for axis in form.spec.axes)
                + f" at {2 * form.spec.max_inventory + 1} inventories",
            ],
            ["state to offsets", f"{form.slow_cycles} cycles"],
            ["book to quote", f"{form.fast_cycles} cycles"],
        ],
        "notes": ["`mfamm export` writes the hardware project of this config."],
    }
