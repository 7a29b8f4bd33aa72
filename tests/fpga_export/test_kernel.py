"""The integer model against Python's own integers, in both precisions of floats, under jit and vmap."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfamm_jax.fpga_export import Book, Registers, State, quote
from mfamm_jax.fpga_export.kernel import quote_many
from mfamm_jax.fpga_export.vectors import (
    BLOCK,
    INPUTS,
    counted_stimuli,
    digests,
    directed_stimuli,
    golden,
    n_node_vectors,
    register_sets,
)

from . import oracle
from .kernels import project, quantized

NAMES = [field.name for field in dataclasses.fields(Registers)]
KINDS = ["slope", "axis", "stationary", "tabulated"]


def registers_of_set(sets, i):
    return {name: int(getattr(sets, name)[i]) for name in NAMES}


@pytest.mark.parametrize("kind", ["slope", *(pytest.param(k, marks=pytest.mark.thorough) for k in KINDS[1:])])
def test_kernel_is_the_oracle(kind, precision):
    found = project(kind)
    form, table = found.form, found.quantized.table
    sets = register_sets(form, found.registers)
    random = counted_stimuli(form, n_node_vectors(form), 600)
    nodes = counted_stimuli(form, 0, 300)
    for stimuli in (directed_stimuli(form), nodes, dataclasses.replace(random, register_set=np.arange(600) % 4)):
        outputs = golden(form, jnp.asarray(table), sets, stimuli).view(np.int32)
        for i in range(0, len(stimuli), 1 if len(stimuli) == 600 else 3):
            row = {name: int(stimuli.columns[name][i]) for name in INPUTS}
            registers = registers_of_set(sets, stimuli.register_set[i])
            expected = oracle.quote(form, table, registers, row, {"bid": row["bid"], "ask": row["ask"]})
            got = outputs[i]
            assert got[0] == expected["bid"]
            assert got[1] == expected["ask"]
            assert got[2].astype(np.uint32) == np.uint32(expected["bid_size"] << 16 | expected["ask_size"])
            assert got[3] == expected["flags"]
            assert got[8:].tolist() == [expected["ask_depth"], expected["bid_depth"]]


def test_jit_and_vmap_and_loop_agree_in_int32_without_x64():
    found = project()
    form = found.form
    with jax.enable_x64(False):
        table = jnp.asarray(found.quantized.table)
        stimuli = counted_stimuli(form, n_node_vectors(form), 64)
        columns = [jnp.asarray(stimuli.columns[name]) for name in INPUTS]
        states, books = State(*columns[:5]), Book(*columns[5:])
        together = quote_many(form, table, found.registers, states, books)
        mapped = jax.vmap(lambda s, b: quote(form, table, found.registers, s, b))(states, books)
        one = [
            quote(form, table, found.registers, *jax.tree.map(lambda x, i=i: x[i], (states, books))) for i in range(64)
        ]
        for a, b, *rows in zip(
            *(jax.tree.leaves(t) for t in (together, mapped)), *map(jax.tree.leaves, one), strict=True
        ):
            assert a.dtype == jnp.int32
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, np.stack(rows))


def test_digests_see_a_single_bit():
    outputs = np.arange(2 * BLOCK * 10, dtype=np.uint32).reshape(2 * BLOCK, 10)
    before = digests(outputs)
    outputs[BLOCK + 17, 3] ^= 1
    after = digests(outputs)
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_every_node_and_its_neighbours_are_among_the_vectors():
    form = quantized().form
    stimuli = counted_stimuli(form, 0, n_node_vectors(form))
    seen = set(zip(*(stimuli.columns[name].tolist() for name in ("inventory", "time", "risk")), strict=True))
    for time in form.spec.time.codes()[1:-1]:
        for risk in form.spec.risk.codes()[1:-1]:
            for step in (-1, 0, 1):
                assert (2, int(time) + step, int(risk) + step) in seen


def test_registers_make_every_flag_and_limit_act():
    found = project()
    sets = register_sets(found.form, found.registers)
    random = counted_stimuli(found.form, n_node_vectors(found.form), 4 * BLOCK)
    outputs = golden(found.form, jnp.asarray(found.quantized.table), sets, random)
    flags = outputs[:, 3]
    for bit in (1, 2, 4, 8, 16):
        assert 0.01 < np.mean(flags & bit > 0) < 0.99
    for s, name in ((2, "depth_min"), (3, "depth_max")):
        depth = outputs[random.register_set == s][:, 8].view(np.int32)
        assert (depth == int(getattr(sets, name)[s])).any()
