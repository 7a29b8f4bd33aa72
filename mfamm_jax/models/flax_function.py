"""A flax module as a pure function of its weights, a dictionary of arrays. flax is needed to build or apply one, not to import this file."""

import abc
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from mfamm_jax.fields import Checked

Params = dict[str, Any]


class AbstractFlaxFunction(Checked):
    """Static settings that say how to build a module; hashable."""

    @abc.abstractmethod
    def build(self, rngs: Any) -> Any:
        """The module, in the precision in force."""


def initial_weights(network: AbstractFlaxFunction, key: PRNGKeyArray) -> Params:
    """Random weights in the precision in force."""
    nnx = flax_nnx()
    return nnx.to_pure_dict(nnx.split(network.build(nnx.Rngs(key)))[1])


@cache
def apply_function(network: AbstractFlaxFunction, dtype: str) -> Callable[[Params, Array], Array]:
    """(weights, input) -> output. flax's module is only a description here, without arrays."""
    nnx = flax_nnx()
    with jax.enable_x64(dtype == "float64"):
        graph, state = nnx.split(nnx.eval_shape(lambda: network.build(nnx.Rngs(0))))

    def apply(params: Params, x: Array) -> Array:
        filled = nnx.clone(state)
        nnx.replace_by_pure_dict(filled, params)
        return nnx.merge(graph, filled)(x)

    return apply


def n_parameters(params: Params) -> int:
    """How many numbers a network has."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def layer_options(rngs: Any) -> dict[str, Any]:
    """What every layer gets: the precision in force, products at full precision."""
    dtype = jnp.result_type(float)
    return {"rngs": rngs, "param_dtype": dtype, "dtype": dtype, "precision": "highest"}


def flax_nnx() -> Any:
    """flax.nnx, or which command installs it."""
    try:
        from flax import nnx
    except ImportError as error:
        raise ValueError('a network needs an extra package: pip install "mfamm-jax[full]"') from error
    return nnx
