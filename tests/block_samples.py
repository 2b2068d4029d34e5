"""Blocks to decode, and independent decoders to compare with: the ``gguf`` package, else libgguf, else the formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import libgguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, quants

from gguflike.blocks import FORMATS, BlockFormat

Rows = npt.NDArray[np.uint8]

ALL = list(FORMATS.values())
# ggml converts to these; the other plain types are their own values.
WITH_VECTORS = [f for f in ALL if f.is_quantized or f.name in ("F16", "BF16")]
VECTORS = Path(__file__).parent.parent / "spec" / "vectors" / "good"
VECTOR_SHAPE = (3, 512)

# float16 scales at the edges: zeros, least and greatest subnormal, least normal, one, greatest, infinities, NaN.
EDGE_HALVES = np.array([0, 0x8000, 1, 0x3FF, 0x400, 0x3C00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00], np.uint16)


def ids(formats: list[BlockFormat]) -> list[str]:
    return [f.name for f in formats]


def random_rows(fmt: BlockFormat, rows: int = 24, blocks: int = 5, seed: int = 0) -> Rows:
    """Every bit random, so also NaN and infinite scales."""
    bits = np.random.default_rng([seed, fmt.id]).integers(0, 256, (rows, blocks * fmt.block_bytes), dtype=np.uint8)
    return read_only(bits)


def vector(fmt: BlockFormat, name: str) -> bytes:
    """A file of the golden vectors; a missing one fails the test."""
    return (VECTORS / fmt.name.lower() / name).read_bytes()


def encoded_rows(fmt: BlockFormat) -> Rows:
    """What ggml's own encoder wrote: the golden vectors."""
    return np.frombuffer(vector(fmt, "blocks.bin"), np.uint8).reshape(VECTOR_SHAPE[0], fmt.row_bytes(VECTOR_SHAPE[1]))


def edge_rows(fmt: BlockFormat) -> Rows:
    """One block per pair of edge values in each scale, with random codes."""
    pairs = np.stack(np.meshgrid(EDGE_HALVES, EDGE_HALVES), -1).reshape(-1, 2)
    blocks = random_rows(fmt, len(pairs), 1, seed=2).copy().reshape(-1).view(fmt.dtype)
    scales = [f for f in fmt.fields if f.role in ("scale", "min")]
    for which, member in enumerate(scales):
        halves = pairs[:, which].view(np.float16)
        with np.errstate(all="ignore"):
            blocks[member.name] = halves.astype(np.dtype(member.dtype))
    for member in fmt.fields:
        if member.encoding == "nibbles":  # a float16 in the top bits of four words
            words = blocks[member.name].copy().view("<u2")
            words = (words & 0xFFF) | (pairs[:, :1] >> np.array([0, 4, 8, 12]) << 12)
            blocks[member.name] = words.astype("<u2").view(np.uint8)
        if member.encoding == "e8m0":
            blocks[member.name] = np.resize(np.array([0, 1, 2, 3, 127, 253, 254, 255], np.uint8), len(blocks))
    return read_only(blocks.view(np.uint8).reshape(len(blocks), -1))


def read_only(rows: Rows) -> Rows:
    rows.setflags(write=False)
    return rows


def reference(fmt: BlockFormat, rows: Rows) -> npt.NDArray[Any]:
    assert fmt.decode is not None
    with np.errstate(all="ignore"):
        return fmt.decode(rows.reshape(-1).view(fmt.dtype)).reshape(len(rows), -1)


def oracle(fmt: BlockFormat, rows: Rows) -> npt.NDArray[Any]:
    """What others decode."""
    with np.errstate(all="ignore"):
        if fmt.name in BY_FORMULA:
            return np.array([BY_FORMULA[fmt.name](row.tobytes()) for row in rows], np.float32)
        try:
            return quants.dequantize(rows, GGMLQuantizationType(fmt.id))
        except (NotImplementedError, ValueError):
            columns = rows.shape[1] // fmt.block_bytes * fmt.block_size
            raw = libgguf.dequantize_rows_raw(fmt.id, rows, len(rows), columns)
            return np.frombuffer(raw, np.float32).reshape(len(rows), columns)


def _q8_1(row: bytes) -> list[np.float32]:
    """block_q8_1 { half d; half s; int8 qs[32]; }: d * q."""
    values = []
    for at in range(0, len(row), 36):
        d = np.frombuffer(row, "<f2", 1, at)[0].astype(np.float32)
        values += [d * np.float32(q) for q in np.frombuffer(row, np.int8, 32, at + 4)]
    return values


def _q8_k(row: bytes) -> list[np.float32]:
    """block_q8_K { float d; int8 qs[256]; int16 bsums[16]; }: d * q."""
    values = []
    for at in range(0, len(row), 292):
        d = np.frombuffer(row, "<f4", 1, at)[0]
        values += [d * np.float32(q) for q in np.frombuffer(row, np.int8, 256, at + 4)]
    return values


def _q2_0(row: bytes) -> list[np.float32]:
    """block_q2_0 { half d; uint8 qs[16]; }: d * (q - 1), weight j in bits 2 * (j % 4) of byte j / 4."""
    values = []
    for at in range(0, len(row), 18):
        d = np.frombuffer(row, "<f2", 1, at)[0].astype(np.float32)
        values += [d * np.float32((row[at + 2 + j // 4] >> 2 * (j % 4) & 3) - 1) for j in range(64)]
    return values


# Types that neither gguf nor libgguf decodes. Integers and F64 are their own values; the interop suite asks llama.cpp
# about Q2_0 and Q8_K.
BY_FORMULA = {"Q8_1": _q8_1, "Q8_K": _q8_k, "Q2_0": _q2_0} | {
    name: lambda row, kind=kind: np.frombuffer(row, kind).tolist()
    for name, kind in {"I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "F64": "<f8"}.items()
}


def assert_same_bits(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    """Equal bit for bit, signs of zeros included; NaNs at the same places (their payloads are nobody's promise)."""
    with np.errstate(over="ignore"):  # F64
        got, expected = np.ascontiguousarray(got, np.float32), np.ascontiguousarray(expected, np.float32)
    assert got.shape == expected.shape
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(got), nan)
    np.testing.assert_array_equal(got.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])
