"""Solutions turned into quotes."""

from mfamm_jax.policies.avellaneda_stoikov import AvellanedaStoikovPolicy
from mfamm_jax.policies.quotes import AbstractPolicy, Covariates, MarketState, Quotes
from mfamm_jax.policies.rules import (
    QuoteRules,
    RuledPolicy,
    SkewedPolicy,
    SymmetricPolicy,
    WidenedPolicy,
    apply_rules,
    round_to_ticks,
)
from mfamm_jax.policies.value_table import (
    TableAxes,
    ValueTablePolicy,
    constant_scale,
    largest_problem,
    tabulate,
)

__all__ = [
    "AbstractPolicy",
    "AvellanedaStoikovPolicy",
    "Covariates",
    "MarketState",
    "QuoteRules",
    "Quotes",
    "RuledPolicy",
    "SkewedPolicy",
    "SymmetricPolicy",
    "TableAxes",
    "ValueTablePolicy",
    "WidenedPolicy",
    "apply_rules",
    "constant_scale",
    "largest_problem",
    "round_to_ticks",
    "tabulate",
]
