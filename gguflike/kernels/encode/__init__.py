"""Encoders: float32 weights to the blocks of each type, of least squared error. kernels/table.py names one per type.

Blocks with scalar levels are encoded sixteen at a time, one block per lane of a vector::

    x float32 (rows, columns)                        out uint8 (rows, row bytes)
        |  driver.load_blocks, load_importance           ^  driver.write_blocks
        v                                                |  as a Packing says (packing.py)
    tile: row j is weight j of sixteen blocks  -->  symbols: row i is number i that a block stores
    importance: row j is its importance, or None         (codes, integer scales, bits of float16 scales)
                                               codec

A codec is a NamedTuple of settings and a function; files are ordered by what a block stores besides its codes:

    plain.py        nothing: F32, F16, BF16, F64 and the integers, one value at a time
    scale.py        a float16 scale: Q2_0, IQ4_NL, and with importance Q4_0, Q5_0, Q8_0, Q8_1
    affine.py       a float16 scale and minimum, with importance: Q4_1, Q5_1
    fixed.py        these six without importance, searched in 16-bit fixed point (pairs.py)
    ternary.py      a float16 scale, two or three levels, by exact optimum: Q1_0, TQ1_0, TQ2_0
    float4.py       levels that are 4-bit floats, scales that are small floats: MXFP4, NVFP4
    q8k.py          a float32 scale and sums of codes: Q8_K
    kscale.py       super-blocks of integer scales: Q3_K, Q6_K, IQ4_XS
    kaffine.py      super-blocks of integer scales and minima: Q2_K, Q4_K, Q5_K
    lattice/        super-blocks of points of a codebook: IQ1, IQ2 and IQ3 types

    rounding.py     nearest levels, float16 scales, importance; leastsquares.py: lines fitted to codes
    driver.py       the loop that all codecs but those of lattice/ share; tiles.py: names of types

Words:

    absmax          the plain method: the scale comes from the largest magnitude, codes by rounding to nearest; byte for
                    byte what the gguf package makes where it encodes the type. "search", the other method, takes it
                    where it finds nothing better.
    batch           the sixteen blocks in the lanes
    code            the integer stored for a weight; its *level* is what it stands for before the scale
    d, m, dmin      scales and minima as stored, the names of ggml's fields
    explained       by how much codes lower sum w x^2, the squared error of zeros
    extreme value   the value of largest magnitude, with its sign
    importance, w   how much the squared error of a column counts: sum w (x - decoded)^2 is minimized
    moments         sums over the nearest codes q: xq = sum w x q, qq = sum w q^2, sq = sum w q
    sub-block       16 or 32 weights of a super-block (256) with an integer scale of their own
    symbol          an integer that a block stores
    target          a level to which a candidate scale maps the extreme value
    tile            a flat array of vectors, the rows

The searches rest on one fact: for given codes the best scale is a least-squares problem with a closed form, and for a
given scale the best codes are the nearest. Candidates for the scale are compared after their own fit, then codes and
scale alternate (Lloyd 1982), the scales are rounded as they are stored, and what is stored decides.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from gguflike.blocks import BlockFormat
from gguflike.blocks.spec import F32_MAX
from gguflike.kernels.encode.args import BF16, ENCODE, F16, F32, SCRATCH_BYTES, WAYS
from gguflike.kernels.engine.args import float_bits
from gguflike.kernels.engine.host import thread_count
from gguflike.kernels.engine.threads import together
from gguflike.kernels.vector.sizes import LANES

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

LEAST_WEIGHTS = 1 << 16  # of a thread: to wake one for fewer costs more than it saves
CLAIMS = 64  # claims in which a thread takes its part of the batches
_STORED = {"f4": F32, "f2": F16, "u2": BF16}


def op_name(fmt: BlockFormat, weighted: bool, method: str) -> str:
    """The op that encodes a type with codecs by a method, with importance or without."""
    return f"by_type.encode:{_way(weighted, method)}_{fmt.name}"


def _way(weighted: bool, method: str) -> str:
    return WAYS[0] if method == "absmax" else WAYS[2 if weighted else 1]


def encode_rows(
    fmt: BlockFormat, x: Array, out: Array, importance: Array | None, method: str, threads: int | None = None,
    limit: float = F32_MAX,
) -> bool:  # fmt: skip
    """Encode ``x`` (rows, columns) into ``out`` uint8 (rows, row bytes) by the op of a block type with codecs.

    ``x`` is float32, float16 or, as uint16, bfloat16. Whether all halves are within +-``limit``: what comes of those
    that are not means nothing. Float32 is not looked at, and must be finite.
    """
    from gguflike.kernels.engine.native import call

    batches = -(-x.size // (fmt.block_size * LANES))
    workers = max(1, min(thread_count(threads), x.size // LEAST_WEIGHTS))
    claim = -(-batches // (CLAIMS * workers))
    common = max(0, batches - 2 * claim)  # the rest is for the calling thread, so that it ends last
    shared = np.zeros(2, np.int64)
    scratch = np.empty((workers + 1) * SCRATCH_BYTES, np.uint8)
    first = -(-scratch.ctypes.data // 64) * 64
    weighted = importance is not None and method != "absmax"
    words = ENCODE.pack(
        codec=len(WAYS) * fmt.id + WAYS.index(_way(weighted, method)),
        x=x.ctypes.data,
        stored=_STORED[x.dtype.str[1:]],
        blocks=x.size // fmt.block_size,
        importance=importance.ctypes.data if weighted and importance is not None else 0,
        columns=x.shape[-1],
        out=out.ctypes.data,
        scratch=0,
        taken=shared.ctypes.data,
        claim=claim,
        common=common,
        limit=float_bits(limit),
        beyond=shared.ctypes.data + 8,
    )
    args = np.array([words] * workers, np.int64)
    args[:, ENCODE.scratch // 8] = first + SCRATCH_BYTES * np.arange(workers)
    op, helpers = call(op_name(fmt, importance is not None, method)), count(1)

    def work(is_caller: bool) -> None:
        own = 0 if is_caller else next(helpers)
        op(args[own].ctypes.data, 0, common, batches if is_caller else common)

    together(work, workers)
    return not shared[1]
