"""The scales of blocks as numbers, whatever way a type stores them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from gguflike.blocks import BlockFormat

    Values = npt.NDArray[Any]


def of_blocks(blocks: Values, fmt: BlockFormat) -> Values | None:
    """The scales, float32 (blocks, scales of a block), not those of minima; None for types without blocks."""
    fields = [field for field in fmt.fields if field.role == "scale" or field.encoding != "native"]
    if not fmt.is_quantized or not fields:
        return None
    field = fields[0]  # what all values of the block are multiplied by
    return _DECODINGS[field.encoding](blocks[field.name]).reshape(len(blocks), -1)


def magnitudes(scales: Values | None) -> Values | None:
    """Their magnitudes, flat."""
    return None if scales is None else np.abs(scales).reshape(-1)


def _native(values: Values) -> Values:
    return np.asarray(values, np.float32)


def _bf16(values: Values) -> Values:
    bits: Values = values.astype(np.uint32) << np.uint32(16)
    return bits.view(np.float32)


def _e8m0(values: Values) -> Values:
    with np.errstate(over="ignore"):
        scales: Values = np.ldexp(np.float32(1), values.astype(np.int32) - 127).astype(np.float32)
    return scales


def _ue4m3(values: Values) -> Values:
    exponent, mantissa = (values >> 3 & 15).astype(np.int32), (values & 7).astype(np.float32)
    normal = np.ldexp(1 + mantissa / 8, exponent - 7)
    return np.asarray(np.where(exponent > 0, normal, np.ldexp(mantissa / 8, -6)), np.float32)


def _nibbles(values: Values) -> Values:
    words: Values = values.view("<u2").astype(np.uint16).reshape(len(values), -1) >> 12
    bits: Values = words[:, 0] | words[:, 1] << 4 | words[:, 2] << 8 | words[:, 3] << 12
    return bits.view(np.float16).astype(np.float32)


_DECODINGS = {"native": _native, "bf16": _bf16, "e8m0": _e8m0, "ue4m3": _ue4m3, "nibbles": _nibbles}
