"""Types that store each weight on its own: F32, F16, BF16, F64 and the integers. Rounding is to nearest, ties to even.

Method "absmax" is the plain conversion, as numpy and gguf do it. "search", the default, differs where a value is beyond
the type's range: it takes the type's largest value instead of infinity, which is nearer and finite.
"""

from __future__ import annotations

import numpy as np

from gguflike.kernels.encode.tiles import Array, Encode, Floats
from gguflike.kernels.engine.jit import jit
from gguflike.kernels.engine.threads import run_rows
from gguflike.kernels.vector.lanes import f32_to_f16

_BF16_MAX = np.array([0x7F7F0000], np.uint32).view(np.float32)[0]
_F16_MAX = np.float32(65504.0)


@jit
def to_f16(start: int, stop: int, x: Floats, out: Array, limit: np.float32) -> None:
    """Round rows ``start .. stop - 1``, clamped to +-limit, to float16: its bits go to ``out``, uint16."""
    for r in range(start, stop):
        for c in range(x.shape[1]):
            out[r, c] = f32_to_f16(min(max(x[r, c], -limit), limit))


@jit
def to_bf16(start: int, stop: int, x: Floats, out: Array, limit: np.float32) -> None:
    """Round rows ``start .. stop - 1``, clamped to +-limit, to the upper half of their bits: into ``out``, uint16."""
    for r in range(start, stop):
        for c in range(x.shape[1]):
            raw = np.float32(min(max(x[r, c], -limit), limit)).view(np.uint32)
            out[r, c] = np.uint16((raw + np.uint32(0x7FFF) + ((raw >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


def encode_f16(x: Array, out: Array, importance: Array | None, method: str, threads: int | None = None) -> None:
    """Round to float16, saturating at 65504 unless ``method`` is "absmax"."""
    limit = np.float32(np.inf) if method == "absmax" else _F16_MAX
    run_rows(to_f16, len(x), x, out.view(np.uint16), limit, threads=threads)


def encode_bf16(x: Array, out: Array, importance: Array | None, method: str, threads: int | None = None) -> None:
    """Round to bfloat16, saturating at its largest value unless ``method`` is "absmax"."""
    limit = np.float32(np.inf) if method == "absmax" else _BF16_MAX
    run_rows(to_bf16, len(x), x, out.view(np.uint16), limit, threads=threads)


def encode_f32(x: Array, out: Array, importance: Array | None, method: str, threads: int | None = None) -> None:
    """Copy."""
    np.copyto(out.view("<f4"), x)


def encode_f64(x: Array, out: Array, importance: Array | None, method: str, threads: int | None = None) -> None:
    """Widen to float64, which is exact."""
    np.copyto(out.view("<f8"), x)


def _integer_encoder(dtype: str) -> Encode:
    """Make the encoder that rounds to the nearest integer and saturates."""
    info = np.iinfo(dtype)
    # The largest float32 that does not exceed the type's maximum: float32(2**63 - 1) would be 2**63.
    top = np.float32(info.max)
    top = top if int(top) <= info.max else np.nextafter(top, np.float32(0.0))

    def encode(x: Array, out: Array, importance: Array | None, method: str, threads: int | None = None) -> None:
        np.copyto(out.view(dtype), np.clip(np.rint(x), np.float32(info.min), top).astype(dtype))

    return encode


encode_i8, encode_i16 = _integer_encoder("<i1"), _integer_encoder("<i2")
encode_i32, encode_i64 = _integer_encoder("<i4"), _integer_encoder("<i8")
