"""The table of block types on the kernels' side: one row per row of ``gguflike/blocks/table.py``. Imports no numba.

Kernels are named as text, ``"module:name"`` below ``gguflike.kernels``, and loaded on first use. dispatch.py and the
ops of by_type/ read the table; nothing else knows which kernel serves which type.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any, Literal

from gguflike.blocks import codebooks
from gguflike.blocks.float4 import E2M1_DOUBLED
from gguflike.frozen import frozen
from gguflike.kernels.matmul.records import Plane, RecordFormat

FloatKind = Literal["f32", "f16", "bf16"]


@frozen
class TypeKernels:
    """One row of the table: the kernels of one block type.

    ``decode`` names a jitted ``kernel(start, stop, source, target)``, which writes blocks ``start`` to ``stop`` of the
    blocks at address ``source`` as float32 to address ``target``, allocates nothing and never raises.

    ``encode`` names a ``BlockEncoder``, of whose codecs ops are made (encode/driver.py). Where ``by_rows``, it names
    ``encode(x float32 (rows, columns), out uint8 (rows, row_bytes), importance float32 (columns,) or None, method,
    threads)``; arrays are C-contiguous.

    ``record`` is the layout that matrix products read (matmul/records.py), and ``repack`` names the function
    ``scatter(block, to)`` that moves a block's scales there, and its codes where planes are made of codes
    (matmul/scatter.py).

    ``floats`` is the kind of float that matrix products read from the file's own rows.

    ``cast``: numpy's cast to float32 decodes as fast as memory, so ``dequantize`` needs no kernel.
    """

    name: str
    decode: str | None = None
    encode: str | None = None
    record: RecordFormat | None = None
    repack: str | None = None
    floats: FloatKind | None = None
    cast: bool = False
    by_rows: bool = False


@lru_cache(maxsize=256)
def load(place: str) -> Any:
    """What a column names as ``"module:name"``."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"gguflike.kernels.{module}"), name)


def _signed(*magnitudes: int) -> tuple[int, ...]:
    """Levels of codes whose top bit is the sign."""
    return magnitudes + tuple(-m for m in magnitudes)


_IQ4 = tuple(codebooks.IQ4_LEVELS.tolist())
_E2M1 = tuple(E2M1_DOUBLED.tolist())
_IQ2 = _signed(*codebooks.IQ2_LEVELS, 0)
_IQ3_XXS = _signed(*codebooks.IQ3_XXS_LEVELS)
_IQ3_S = _signed(*codebooks.IQ3_S_LEVELS)
# Eight times the levels of IQ1 moved up by 1/8, then moved down.
_IQ1 = (*(8 * level + 1 for level in codebooks.IQ1_LEVELS), 0, *(8 * level - 1 for level in codebooks.IQ1_LEVELS), 0)

# TQ1_0's base-3 digits take longer to unpack than two bits take to read: 1.22 times the file's bytes, twice as fast.
# The codebook types are looked up when they are repacked: a level per weight, which costs 1.3 to 2.1 times the file's
# bytes per weight, but a fraction of the work of looking up vectors for every token.
# fmt: off
_ROWS = (
    TypeKernels("F32", "decode.plain:decode_f32", "encode.plain:encode_f32", floats="f32", cast=True, by_rows=True),
    TypeKernels("F16", "decode.plain:decode_f16", "encode.plain:encode_f16", floats="f16", by_rows=True),
    TypeKernels("Q4_0", "decode.simple:decode_q4_0", "encode.fixed:encode_q4_0",
                RecordFormat(32, (Plane(4, 4, "qs"),), "f16", offset=8), "matmul.scatter:scatter_q4_0"),
    TypeKernels("Q4_1", "decode.simple:decode_q4_1", "encode.fixed:encode_q4_1",
                RecordFormat(32, (Plane(4, 4, "qs"),), "f16", minimum="f16"), "matmul.scatter:scatter_q4_1"),
    TypeKernels("Q5_0", "decode.simple:decode_q5_0", "encode.fixed:encode_q5_0",
                RecordFormat(32, (Plane(4, 4, "qs"), Plane(1, 1)), "f16", offset=16), "matmul.scatter:scatter_q5_0"),
    TypeKernels("Q5_1", "decode.simple:decode_q5_1", "encode.fixed:encode_q5_1",
                RecordFormat(32, (Plane(4, 4, "qs"), Plane(1, 1)), "f16", minimum="f16"),
                "matmul.scatter:scatter_q5_1"),
    TypeKernels("Q8_0", "decode.simple:decode_q8_0", "encode.fixed:encode_q8_0",
                RecordFormat(32, (Plane(8, 8, "qs"),), "f16", offset=128), "matmul.scatter:scatter_q8_0"),
    TypeKernels("Q8_1", "decode.simple:decode_q8_1", "encode.fixed:encode_q8_1"),
    TypeKernels("Q2_K", "decode.kquants:decode_q2_k", "encode.kaffine:encode_q2_k",
                RecordFormat(256, (Plane(2, 8, "qs"),), "nibble", 16, minimum="nibble", minimum_unit=-1.0,
                             folded_offset=0),
                "matmul.scatter:scatter_q2_k"),
    TypeKernels("Q3_K", "decode.kquants:decode_q3_k", "encode.kscale:encode_q3_k",
                RecordFormat(256, (Plane(2, 8, "qs"), Plane(1, 8, "hmask")), "i8", 16, offset=4, folded_offset=127),
                "matmul.scatter:scatter_q3_k"),
    TypeKernels("Q4_K", "decode.kquants:decode_q4_k", "encode.kaffine:encode_q4_k",
                RecordFormat(256, (Plane(4, 8, "qs"),), "u8", minimum="u8", minimum_unit=-1.0),
                "matmul.scatter:scatter_q4_k"),
    TypeKernels("Q5_K", "decode.kquants:decode_q5_k", "encode.kaffine:encode_q5_k",
                RecordFormat(256, (Plane(4, 8, "qs"), Plane(1, 8, "qh")), "u8", minimum="u8", minimum_unit=-1.0),
                "matmul.scatter:scatter_q5_k"),
    TypeKernels("Q6_K", "decode.kquants:decode_q6_k", "encode.kscale:encode_q6_k",
                RecordFormat(256, (Plane(4, 16, "ql"), Plane(2, 8, "qh")), "i8", 16, offset=32),
                "matmul.scatter:scatter_q6_k"),
    TypeKernels("Q8_K", "decode.simple:decode_q8_k", "encode.q8k:encode_q8_k"),
    TypeKernels("IQ2_XXS", "decode.codebook:decode_iq2_xxs", "encode.lattice.codec:encode_iq2_xxs",
                RecordFormat(256, (Plane(2, 8), Plane(1, 8)), "u8", offset=43, levels=_IQ2, unit=0.125),
                "matmul.scatter:scatter_iq2_xxs", by_rows=True),
    TypeKernels("IQ2_XS", "decode.codebook:decode_iq2_xs", "encode.lattice.codec:encode_iq2_xs",
                RecordFormat(256, (Plane(2, 8), Plane(1, 8)), "u8", 16, offset=43, levels=_IQ2, unit=0.125),
                "matmul.scatter:scatter_iq2_xs", by_rows=True),
    TypeKernels("IQ3_XXS", "decode.codebook:decode_iq3_xxs", "encode.lattice.codec:encode_iq3_xxs",
                RecordFormat(256, (Plane(4, 8),), "u8", offset=62, levels=_IQ3_XXS, unit=0.25),
                "matmul.scatter:scatter_iq3_xxs", by_rows=True),
    TypeKernels("IQ1_S", "decode.codebook:decode_iq1_s", "encode.lattice.codec:encode_iq1_s",
                RecordFormat(256, (Plane(2, 8), Plane(1, 8)), "u8", offset=9, levels=_IQ1, unit=0.125),
                "matmul.scatter:scatter_iq1_s", by_rows=True),
    TypeKernels("IQ4_NL", "decode.codebook:decode_iq4_nl", "encode.scale:encode_iq4_nl",
                RecordFormat(32, (Plane(4, 4, "qs"),), "f16", offset=127, levels=_IQ4),
                "matmul.scatter:scatter_iq4_nl"),
    TypeKernels("IQ3_S", "decode.codebook:decode_iq3_s", "encode.lattice.codec:encode_iq3_s",
                RecordFormat(256, (Plane(4, 8),), "u8", offset=15, levels=_IQ3_S),
                "matmul.scatter:scatter_iq3_s", by_rows=True),
    TypeKernels("IQ2_S", "decode.codebook:decode_iq2_s", "encode.lattice.codec:encode_iq2_s",
                RecordFormat(256, (Plane(2, 8), Plane(1, 8)), "u8", 16, offset=43, levels=_IQ2, unit=0.125),
                "matmul.scatter:scatter_iq2_s", by_rows=True),
    TypeKernels("IQ4_XS", "decode.codebook:decode_iq4_xs", "encode.kscale:encode_iq4_xs",
                RecordFormat(256, (Plane(4, 4, "qs"),), "i8", offset=127, levels=_IQ4),
                "matmul.scatter:scatter_iq4_xs"),
    TypeKernels("I8", encode="encode.plain:encode_i8", cast=True, by_rows=True),
    TypeKernels("I16", encode="encode.plain:encode_i16", cast=True, by_rows=True),
    TypeKernels("I32", encode="encode.plain:encode_i32", cast=True, by_rows=True),
    TypeKernels("I64", encode="encode.plain:encode_i64", cast=True, by_rows=True),
    TypeKernels("F64", encode="encode.plain:encode_f64", cast=True, by_rows=True),
    TypeKernels("IQ1_M", "decode.codebook:decode_iq1_m", "encode.lattice.codec:encode_iq1_m",
                RecordFormat(256, (Plane(2, 8), Plane(1, 8)), "u8", 16, offset=9, levels=_IQ1, unit=0.125),
                "matmul.scatter:scatter_iq1_m", by_rows=True),
    TypeKernels("BF16", "decode.plain:decode_bf16", "encode.plain:encode_bf16", floats="bf16", by_rows=True),
    TypeKernels("TQ1_0", "decode.simple:decode_tq1_0", "encode.ternary:encode_tq1_0",
                RecordFormat(256, (Plane(2, 8),), "f16", 256, offset=1), "matmul.scatter:scatter_tq1_0"),
    TypeKernels("TQ2_0", "decode.simple:decode_tq2_0", "encode.ternary:encode_tq2_0",
                RecordFormat(256, (Plane(2, 8, "qs"),), "f16", 256, offset=1), "matmul.scatter:scatter_tq2_0"),
    TypeKernels("MXFP4", "decode.simple:decode_mxfp4", "encode.float4:encode_mxfp4",
                RecordFormat(32, (Plane(4, 4, "qs"),), "e8m0", offset=12, levels=_E2M1),
                "matmul.scatter:scatter_mxfp4"),
    TypeKernels("NVFP4", "decode.simple:decode_nvfp4", "encode.float4:encode_nvfp4",
                RecordFormat(64, (Plane(4, 2, "qs"),), "ue4m3", 16, offset=12, levels=_E2M1, unit=0.5),
                "matmul.scatter:scatter_nvfp4"),
    TypeKernels("Q1_0", "decode.simple:decode_q1_0", "encode.ternary:encode_q1_0",
                RecordFormat(128, (Plane(1, 1),), "f16", 128, offset=1, levels=(-1, 1)), "matmul.scatter:scatter_q1_0"),
    TypeKernels("Q2_0", "decode.simple:decode_q2_0", "encode.scale:encode_q2_0",
                RecordFormat(64, (Plane(2, 1),), "f16", 64, offset=1), "matmul.scatter:scatter_q2_0"),
)
# fmt: on

KERNELS: dict[str, TypeKernels] = {row.name: row for row in _ROWS}
