"""Decoding: blocks to float32, bit for bit what ``gguflike/blocks`` says.

``KERNELS[name]`` is the jitted ``kernel(start, stop, source, target)``: it decodes blocks ``start`` to ``stop`` of the
blocks at address ``source`` into the float32 values at address ``target``, allocates nothing and never raises, so other
kernels and the runner's ops call it too, for one row say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from gguflike.blocks import FORMATS, BlockFormat
from gguflike.errors import QuantizationError
from gguflike.kernels.decode import codebook, kquants, plain, simple
from gguflike.kernels.dispatch import register
from gguflike.kernels.engine.threads import run_rows

KERNELS: Mapping[str, Callable[[int, int, int, int], None]] = {
    "F32": plain.decode_f32,
    "F16": plain.decode_f16,
    "BF16": plain.decode_bf16,
    "Q1_0": simple.decode_q1_0,
    "Q2_0": simple.decode_q2_0,
    "Q4_0": simple.decode_q4_0,
    "Q4_1": simple.decode_q4_1,
    "Q5_0": simple.decode_q5_0,
    "Q5_1": simple.decode_q5_1,
    "Q8_0": simple.decode_q8_0,
    "Q8_1": simple.decode_q8_1,
    "Q8_K": simple.decode_q8_k,
    "TQ1_0": simple.decode_tq1_0,
    "TQ2_0": simple.decode_tq2_0,
    "MXFP4": simple.decode_mxfp4,
    "NVFP4": simple.decode_nvfp4,
    "Q2_K": kquants.decode_q2_k,
    "Q3_K": kquants.decode_q3_k,
    "Q4_K": kquants.decode_q4_k,
    "Q5_K": kquants.decode_q5_k,
    "Q6_K": kquants.decode_q6_k,
    "IQ4_NL": codebook.decode_iq4_nl,
    "IQ4_XS": codebook.decode_iq4_xs,
    "IQ2_XXS": codebook.decode_iq2_xxs,
    "IQ2_XS": codebook.decode_iq2_xs,
    "IQ2_S": codebook.decode_iq2_s,
    "IQ3_XXS": codebook.decode_iq3_xxs,
    "IQ3_S": codebook.decode_iq3_s,
    "IQ1_S": codebook.decode_iq1_s,
    "IQ1_M": codebook.decode_iq1_m,
}

# Below this many weights another thread costs more than it saves.
_LEAST_WEIGHTS = 1 << 16

Rows = npt.NDArray[np.uint8]
Out = npt.NDArray[np.float32]


def _on_lanes(
    fmt: BlockFormat, kernel: Callable[[int, int, int, int], None]
) -> Callable[[Rows, Out, int | None], None]:
    def decode(blocks: Rows, out: Out, threads: int | None = None) -> None:
        _check(fmt, blocks, out)
        count = out.size // fmt.block_size
        least = -(-_LEAST_WEIGHTS // fmt.block_size)
        run_rows(kernel, count, blocks.ctypes.data, out.ctypes.data, threads=threads, least=least)

    return decode


def _by_cast(fmt: BlockFormat) -> Callable[[Rows, Out, int | None], None]:
    """F32, F64 and integers: numpy's cast to float32 (to nearest) is already as fast as memory."""

    def decode(blocks: Rows, out: Out, threads: int | None = None) -> None:  # one signature for all
        _check(fmt, blocks, out)
        np.copyto(out, blocks.view(fmt.dtype)["x"], casting="unsafe")

    return decode


def _check(fmt: BlockFormat, blocks: Rows, out: Out) -> None:
    """QuantizationError unless the sizes are right: kernels write through addresses, nothing else would notice."""
    right = blocks.dtype == np.uint8 and out.dtype == np.float32 and blocks.ndim == out.ndim == 2
    right = right and blocks.shape == (out.shape[0], fmt.row_bytes(out.shape[1]))
    if not (right and blocks.flags.c_contiguous and out.flags.c_contiguous and out.flags.writeable):
        raise QuantizationError(
            f"arrays do not fit {fmt.name}",
            expected="C-contiguous uint8 (rows, row_bytes) and writable float32 (rows, columns)",
            got=f"{blocks.dtype} {blocks.shape} and {out.dtype} {out.shape}",
        )


_BY_CAST = ("F32", "F64", "I8", "I16", "I32", "I64")
for _name in _BY_CAST:
    register("decode", _name)(_by_cast(FORMATS[_name]))
for _name in KERNELS.keys() - set(_BY_CAST):
    register("decode", _name)(_on_lanes(FORMATS[_name], KERNELS[_name]))
