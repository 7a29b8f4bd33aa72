"""The reference cases and the problems they describe."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from mfamm_jax.models import ExponentialIntensity
from mfamm_jax.solvers.hjb import HJBProblem, RegimeProblem

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "hjb.json").read_text())
CASES = {case["id"]: case for case in REFERENCE["cases"]}


def symmetric(**changes):
    """Both sides alike; `scale` and `decay` are the intensity's, the rest the problem's."""
    side = ExponentialIntensity(changes.pop("scale", 1.0), changes.pop("decay", 1.5))
    return HJBProblem(bid=side, ask=side, **{"inventory_penalty": 0.02, "horizon": 4.0} | changes)


def problem_of(inputs):
    """A finite-horizon case."""
    return HJBProblem(
        bid=ExponentialIntensity(inputs["bid_intensity"], inputs["bid_decay"]),
        ask=ExponentialIntensity(inputs["ask_intensity"], inputs["ask_decay"]),
        inventory_penalty=inputs["inventory_penalty"],
        terminal_penalty=inputs["terminal_penalty"],
        horizon=inputs["horizon"],
        drift=inputs["drift"],
        bid_adverse_selection=inputs["bid_adverse_selection"],
        ask_adverse_selection=inputs["ask_adverse_selection"],
        fill_risk_aversion=inputs["fill_risk_aversion"],
        min_depth=-np.inf if inputs["min_depth"] is None else inputs["min_depth"],
        max_depth=np.inf if inputs["max_depth"] is None else inputs["max_depth"],
    )


def regime_problem(given):
    """A case with regimes."""
    bid, ask = (ExponentialIntensity(jnp.array(given[f"{s}_intensity"]), given["decay"]) for s in ("bid", "ask"))
    regimes = HJBProblem(
        bid, ask, given["inventory_penalty"], given["terminal_penalty"], given["horizon"], jnp.array(given["drift"])
    )
    return RegimeProblem(regimes, jnp.array(given["generator"]))
