"""From a solved control problem to a verified fixed-point quote kernel."""

from mfamm_jax.fpga_export.axes import SegmentedAxis, UniformAxis
from mfamm_jax.fpga_export.formats import FixedFormat, Interval, quantize_straight_through, smallest_format
from mfamm_jax.fpga_export.kernel import Book, Offsets, Registers, State, TickQuotes, fast_path, quote, slow_path
from mfamm_jax.fpga_export.model import QuoteModel, model_of
from mfamm_jax.fpga_export.plan import KernelFormat, choose_format
from mfamm_jax.fpga_export.policy import KernelPolicy, check_same_model, make_registers, registers_of, stop_code
from mfamm_jax.fpga_export.project import KernelProject
from mfamm_jax.fpga_export.quantize import (
    ErrorBound,
    ObservedError,
    QuantizedTable,
    observe_error,
    quantize,
    quantize_lattice,
)
from mfamm_jax.fpga_export.tables import Lattice, TableSpec, solve_lattice

__all__ = [
    "Book",
    "ErrorBound",
    "FixedFormat",
    "Interval",
    "KernelFormat",
    "KernelPolicy",
    "KernelProject",
    "Lattice",
    "ObservedError",
    "Offsets",
    "QuantizedTable",
    "QuoteModel",
    "Registers",
    "SegmentedAxis",
    "State",
    "TableSpec",
    "TickQuotes",
    "UniformAxis",
    "check_same_model",
    "choose_format",
    "fast_path",
    "make_registers",
    "model_of",
    "observe_error",
    "quantize",
    "quantize_lattice",
    "quantize_straight_through",
    "quote",
    "registers_of",
    "slow_path",
    "smallest_format",
    "solve_lattice",
    "stop_code",
]
