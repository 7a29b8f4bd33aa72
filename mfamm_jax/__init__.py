"""Market-making models as pure, differentiable JAX functions.

Names are loaded on first use, so that the command line can answer `--help` without importing jax.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "ExponentialIntensity": "mfamm_jax.models",
    "LogLinearScale": "mfamm_jax.models",
    "LogisticIntensity": "mfamm_jax.models",
    "PowerLawIntensity": "mfamm_jax.models",
    "SmoothIntensity": "mfamm_jax.models",
    "TabulatedIntensity": "mfamm_jax.models",
    "TriangularIntensity": "mfamm_jax.models",
    "BinomialMid": "mfamm_jax.models",
    "BrownianMid": "mfamm_jax.models",
    "GeometricMid": "mfamm_jax.models",
    "HawkesArrivals": "mfamm_jax.models",
    "HestonMid": "mfamm_jax.models.mid_sde",
    "JumpMid": "mfamm_jax.models",
    "MeanRevertingMid": "mfamm_jax.models",
    "SeasonalArrivals": "mfamm_jax.models",
    "ShortTermAlphaMid": "mfamm_jax.models.mid_sde",
    "BoxGrid": "mfamm_jax.solvers.hjb",
    "Ergodic": "mfamm_jax.solvers.hjb",
    "ExplicitRK": "mfamm_jax.solvers.hjb",
    "Diffrax": "mfamm_jax.solvers.hjb.cross_check",
    "Grid": "mfamm_jax.solvers.hjb",
    "HJBProblem": "mfamm_jax.solvers.hjb",
    "HanWong": "mfamm_jax.solvers.hjb",
    "Implicit": "mfamm_jax.solvers.hjb",
    "MultiAssetProblem": "mfamm_jax.solvers.hjb",
    "RegimeProblem": "mfamm_jax.solvers.hjb",
    "Strang": "mfamm_jax.solvers.hjb",
    "TaylorAction": "mfamm_jax.solvers.hjb",
    "Uniformization": "mfamm_jax.solvers.hjb",
    "choose_scheme": "mfamm_jax.solvers.hjb",
    "optimal_depths": "mfamm_jax.solvers.hjb",
    "rulebook_penalty": "mfamm_jax.solvers.hjb",
    "signal_generator": "mfamm_jax.solvers.hjb",
    "solve_hjb": "mfamm_jax.solvers.hjb",
    "solve_intervals": "mfamm_jax.solvers.hjb",
    "solve_sweep": "mfamm_jax.solvers.hjb",
    "fit_poisson": "mfamm_jax.solvers.likelihood",
    "TripletLoss": "mfamm_jax.solvers.triplet",
    "fit_reach": "mfamm_jax.solvers.reach",
    "load_lobster": "mfamm_jax.market.loaders.lobster",
    "write_lobster": "mfamm_jax.market.loaders.lobster",
    "load_binance": "mfamm_jax.market.loaders.binance",
    "load_bitstamp": "mfamm_jax.market.loaders.bitstamp",
    "load_databento": "mfamm_jax.market.loaders.databento",
    "load_hftbacktest": "mfamm_jax.market.loaders.hftbacktest",
    "load_hftbacktest_raw": "mfamm_jax.market.loaders.hftbacktest_raw",
    "load_itch": "mfamm_jax.market.loaders.itch",
    "load_latencies": "mfamm_jax.market.loaders.latencies",
    "load_parquet": "mfamm_jax.market.loaders.parquet",
    "load_tardis": "mfamm_jax.market.loaders.tardis",
    "write_parquet": "mfamm_jax.market.loaders.parquet",
    "build_ladder": "mfamm_jax.market.ladder",
    "with_books": "mfamm_jax.market.thinning",
    "generate_session": "mfamm_jax.market.synthetic",
    "session_facts": "mfamm_jax.market.facts",
    "AvellanedaStoikovPolicy": "mfamm_jax.policies",
    "Covariates": "mfamm_jax.policies",
    "MarketState": "mfamm_jax.policies",
    "QuoteRules": "mfamm_jax.policies",
    "Quotes": "mfamm_jax.policies",
    "RuledPolicy": "mfamm_jax.policies",
    "SkewedPolicy": "mfamm_jax.policies",
    "SymmetricPolicy": "mfamm_jax.policies",
    "ValueTablePolicy": "mfamm_jax.policies",
    "tabulate": "mfamm_jax.policies",
    "Episodes": "mfamm_jax.simulation.episode",
    "episode_law": "mfamm_jax.simulation.episode",
    "simulate_episode": "mfamm_jax.simulation.episode",
    "simulate_episodes": "mfamm_jax.simulation.episode",
    "Environment": "mfamm_jax.simulation.environment",
    "Bot": "mfamm_jax.simulation.hummingbot",
    "PoissonMarket": "mfamm_jax.simulation.step",
    "ReplayConfig": "mfamm_jax.simulation.execution",
    "ConstantLatency": "mfamm_jax.simulation.latency",
    "RandomLatency": "mfamm_jax.simulation.latency",
    "RecordedLatency": "mfamm_jax.simulation.latency",
    "merge_tapes": "mfamm_jax.simulation.merge",
    "replay": "mfamm_jax.simulation.replay",
    "replay_strategy": "mfamm_jax.simulation.replay",
    "replay_together": "mfamm_jax.simulation.replay",
    "stack_replays": "mfamm_jax.simulation.padding",
    "build_tape": "mfamm_jax.simulation.tape",
    "RESULTS": "mfamm_jax.results",
    "Solution": "mfamm_jax.results",
}

__all__ = list(_HOME)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mfamm_jax' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
