"""The table of block types. Adding a type is adding a row here and one in kernels/table.py; nothing branches on names.

CONTRIBUTING.md lists the steps.
"""

from __future__ import annotations

from collections.abc import Mapping

from gguflike.blocks import codebook, float4, kquants, legacy, scalar, ternary
from gguflike.blocks.spec import BlockFormat, Field
from gguflike.errors import ArgumentError, check_text, did_you_mean

D = Field("d", "<f2", role="scale")
DMIN = Field("dmin", "<f2", role="min")
M = Field("m", "<f2", role="min")


def _packed(name: str, count: int, dtype: str = "u1") -> Field:
    return Field(name, dtype, count, role="packed")


def _codes(count: int, name: str = "qs", dtype: str = "u1") -> Field:
    return Field(name, dtype, count)


# Fallbacks are the types with blocks of 32 that come nearest, as in llama.cpp. For Q2_K and Q3_K it lately takes Q4_0
# instead of IQ4_NL, which has the same size and more error.
# fmt: off
_ROWS = (
    BlockFormat(0, "F32", 1, (Field("x", "<f4"),), "x", scalar.decode_float, encode=scalar.encode_f32),
    BlockFormat(1, "F16", 1, (Field("x", "<f2"),), "x", scalar.decode_float,
                encode=scalar.encode_f16, largest=scalar.F16_LARGEST),
    BlockFormat(2, "Q4_0", 32, (D, _codes(16)), "d * (q - 8)", legacy.decode_q4_0),
    BlockFormat(3, "Q4_1", 32, (D, M, _codes(16)), "d * q + m", legacy.decode_q4_1),
    BlockFormat(6, "Q5_0", 32, (D, _packed("qh", 4), _codes(16)), "d * (q - 16)", legacy.decode_q5_0),
    BlockFormat(7, "Q5_1", 32, (D, M, _packed("qh", 4), _codes(16)), "d * q + m", legacy.decode_q5_1),
    BlockFormat(8, "Q8_0", 32, (D, _codes(32, dtype="i1")), "d * q", legacy.decode_q8),
    BlockFormat(9, "Q8_1", 32, (D, Field("s", "<f2", role="min"), _codes(32, dtype="i1")), "d * q", legacy.decode_q8),
    BlockFormat(10, "Q2_K", 256, (_packed("scales", 16), _codes(64), D, DMIN),
                "d * scale * q - dmin * min", kquants.decode_q2_k, "IQ4_NL"),
    BlockFormat(11, "Q3_K", 256, (_packed("hmask", 32), _codes(64), _packed("scales", 12), D),
                "d * (scale - 32) * (q - 4)", kquants.decode_q3_k, "IQ4_NL"),
    BlockFormat(12, "Q4_K", 256, (D, DMIN, _packed("scales", 12), _codes(128)),
                "d * scale * q - dmin * min", kquants.decode_q4_k, "Q5_0"),
    BlockFormat(13, "Q5_K", 256, (D, DMIN, _packed("scales", 12), _packed("qh", 32), _codes(128)),
                "d * scale * q - dmin * min", kquants.decode_q5_k, "Q5_1"),
    BlockFormat(14, "Q6_K", 256, (_codes(128, "ql"), _packed("qh", 64), _packed("scales", 16, "i1"), D),
                "d * scale * (q - 32)", kquants.decode_q6_k, "Q8_0"),
    BlockFormat(15, "Q8_K", 256,
                (Field("d", "<f4", role="scale"), _codes(256, dtype="i1"), _packed("bsums", 16, "<i2")),
                "d * q", legacy.decode_q8),
    BlockFormat(16, "IQ2_XXS", 256, (D, _codes(32, dtype="<u2")),
                "d * (0.5 + scale) / 4 * grid[q] * sign", codebook.decode_iq2_xxs, "IQ4_NL"),
    BlockFormat(17, "IQ2_XS", 256, (D, _codes(32, dtype="<u2"), _packed("scales", 8)),
                "d * (0.5 + scale) / 4 * grid[q] * sign", codebook.decode_iq2_xs, "IQ4_NL"),
    BlockFormat(18, "IQ3_XXS", 256, (D, _codes(96)),
                "d * (0.5 + scale) / 2 * grid[q] * sign", codebook.decode_iq3_xxs, "IQ4_NL"),
    BlockFormat(19, "IQ1_S", 256, (D, _codes(32), _packed("qh", 8, "<u2")),
                "d * (2 * scale + 1) * (grid[q] + delta)", codebook.decode_iq1_s, "IQ4_NL"),
    BlockFormat(20, "IQ4_NL", 32, (D, _codes(16)), "d * level[q]", codebook.decode_iq4_nl),
    BlockFormat(21, "IQ3_S", 256, (D, _codes(64), _packed("qh", 8), _packed("signs", 32), _packed("scales", 4)),
                "d * (1 + 2 * scale) * grid[q] * sign", codebook.decode_iq3_s, "IQ4_NL"),
    BlockFormat(22, "IQ2_S", 256, (D, _codes(64), _packed("qh", 8), _packed("scales", 8)),
                "d * (0.5 + scale) / 4 * grid[q] * sign", codebook.decode_iq2_s, "IQ4_NL"),
    BlockFormat(23, "IQ4_XS", 256, (D, Field("scales_h", "<u2", role="packed"), _packed("scales_l", 4), _codes(128)),
                "d * (scale - 32) * level[q]", codebook.decode_iq4_xs, "IQ4_NL"),
    BlockFormat(24, "I8", 1, (Field("x", "i1"),), "x", scalar.decode_native),
    BlockFormat(25, "I16", 1, (Field("x", "<i2"),), "x", scalar.decode_native),
    BlockFormat(26, "I32", 1, (Field("x", "<i4"),), "x", scalar.decode_native),
    BlockFormat(27, "I64", 1, (Field("x", "<i8"),), "x", scalar.decode_native),
    BlockFormat(28, "F64", 1, (Field("x", "<f8"),), "x", scalar.decode_native),
    BlockFormat(29, "IQ1_M", 256,
                (_codes(32), _packed("qh", 16), Field("scales", "u1", 8, "packed", "nibbles")),
                "d * (2 * scale + 1) * (grid[q] + delta)", codebook.decode_iq1_m, "IQ4_NL"),
    BlockFormat(30, "BF16", 1, (Field("x", "<u2", encoding="bf16"),),
                "float32 with x as its upper 16 bits", scalar.decode_bf16,
                encode=scalar.encode_bf16, largest=scalar.BF16_LARGEST),
    BlockFormat(34, "TQ1_0", 256, (_codes(48), _codes(4, "qh"), D), "d * (q - 1)", ternary.decode_tq1_0, "Q4_0"),
    BlockFormat(35, "TQ2_0", 256, (_codes(64), D), "d * (q - 1)", ternary.decode_tq2_0, "Q4_0"),
    BlockFormat(39, "MXFP4", 32, (Field("e", "u1", 1, "packed", "e8m0"), _codes(16)),
                "2**(e - 128) * level[q]", float4.decode_mxfp4),
    BlockFormat(40, "NVFP4", 64, (Field("d", "u1", 4, "packed", "ue4m3"), _codes(32)),
                "ue4m3(d) / 2 * level[q]", float4.decode_nvfp4, "Q4_0"),
    BlockFormat(41, "Q1_0", 128, (D, _codes(16)), "d * (2 * q - 1)", legacy.decode_q1_0, "Q4_0"),
    BlockFormat(42, "Q2_0", 64, (D, _codes(16)), "d * (q - 1)", legacy.decode_q2_0, "Q4_0"),
)
# fmt: on

FORMATS: Mapping[str, BlockFormat] = {row.name: row for row in _ROWS}
_BY_ID: Mapping[int, BlockFormat] = {row.id: row for row in _ROWS}


def format_by_name(name: str) -> BlockFormat:
    """The row called ``name`` (any case). ArgumentError lists the known names."""
    check_text("block type", name)
    row = FORMATS.get(name.upper())
    if row is None:
        raise ArgumentError(
            "unknown block type",
            expected="one of " + ", ".join(FORMATS),
            got=repr(name),
            remedy=did_you_mean(name, FORMATS),
        )
    return row


def format_by_id(type_id: int) -> BlockFormat | None:
    """The row with ggml's type id, or None; the caller knows where in which file the id stands."""
    return _BY_ID.get(type_id)
