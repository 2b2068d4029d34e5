"""Decoding: blocks to float32, bit for bit what ``gguflike/blocks`` says. table.py names the kernel of each type.

Kernels of this package are jitted functions ``kernel(start, stop, source, target)``: they decode blocks ``start`` to
``stop`` of the blocks at address ``source`` into the float32 values at address ``target``, allocate nothing and never
raise, so other kernels and the runner's ops call them too, for one row say. by_type/decode.py makes an op of each.

    simple    types with one scale per block: legacy, ternary and 4-bit floats
    kquants   the K types: integer scales of sub-blocks
    codebook  the IQ types, whose codes point into tables
    plain     F32, F16 and BF16
    op        the op of a kernel
    args      its argument words
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gguflike.blocks import BlockFormat
from gguflike.errors import QuantizationError
from gguflike.kernels.decode.args import DECODE
from gguflike.kernels.engine.threads import run_rows

# Below this many weights another thread costs more than it saves.
_LEAST_WEIGHTS = 1 << 16

Rows = npt.NDArray[np.uint8]
Out = npt.NDArray[np.float32]


def decode_rows(fmt: BlockFormat, op: str, blocks: Rows, out: Out, threads: int | None = None) -> None:
    """Decodes uint8 (rows, row_bytes) into float32 (rows, columns) on several threads. QuantizationError on misfits."""
    from gguflike.kernels.engine.native import call

    _check(fmt, blocks, out)
    args, decode = np.array(DECODE.pack(source=blocks.ctypes.data, target=out.ctypes.data), np.int64), call(op)
    place = args.ctypes.data
    run_rows(
        lambda start, stop: decode(place, 0, start, stop),
        out.size // fmt.block_size,
        threads=threads,
        least=-(-_LEAST_WEIGHTS // fmt.block_size),
    )


def cast_rows(fmt: BlockFormat, blocks: Rows, out: Out, threads: int | None = None) -> None:
    """Does the same for plain numbers by numpy's cast to float32 (to nearest), which is as fast as memory."""
    _check(fmt, blocks, out)
    np.copyto(out, blocks.view(fmt.dtype)["x"], casting="unsafe")


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
