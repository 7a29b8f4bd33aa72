"""Shared checks."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads  # noqa: F401


def assert_close(actual, expected, float64=1e-10, float32=1e-4):
    """|actual - expected| <= tolerance (1 + |expected|), the tolerance by the dtype of `actual`."""
    tolerance = float64 if jnp.asarray(actual).dtype == jnp.float64 else float32
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=tolerance, atol=tolerance)


def assert_jit_vmap_loop_agree(function, *batched, float64=1e-12, float32=1e-5):
    """jit(vmap(f)) = vmap(f) = a plain Python loop over the leading axis of every argument."""
    n = jax.tree.leaves(batched)[0].shape[0]
    loop = [function(*jax.tree.map(lambda x, i=i: x[i], batched)) for i in range(n)]
    looped = jax.tree.map(lambda *rows: jnp.stack(rows), *loop)
    for result in (jax.vmap(function)(*batched), jax.jit(jax.vmap(function))(*batched)):
        jax.tree.map(lambda a, b: assert_close(a, b, float64, float32), result, looped)
