"""Whether the floats in a tensor's blocks (scales, minima, plain weights) are finite."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.blocks import BlockFormat, Field
from gguflike.blocks.spec import Encoding

Mask = npt.NDArray[np.bool_]


class NotFinite(NamedTuple):
    """The first bad float: its block within what was checked, and the field it stands in."""

    block: int
    field: str


def _native(values: npt.NDArray[Any]) -> Mask:
    if values.dtype.itemsize == 2:  # the exponent's bits: several times faster than isfinite on float16
        return _half(values.view(values.dtype.str.replace("f", "u")))
    mask: Mask = ~np.isfinite(values)
    return mask


def _half(bits: npt.NDArray[Any]) -> Mask:
    mask: Mask = (bits & 0x7C00) == 0x7C00
    return mask


def _nibbles(values: npt.NDArray[Any]) -> Mask:
    """IQ1_M: the float16 scale lies in the upper 4 bits of the four 16-bit words of scales, lowest bits first."""
    words = values.view("<u2").astype(np.uint16) >> 12  # (blocks, 4)
    return _half(words[:, 0] | words[:, 1] << 4 | words[:, 2] << 8 | words[:, 3] << 12)


# NaN in OCP Microscaling is 0xFF for E8M0, and all ones behind the (ignored) sign for E4M3; neither has infinities.
_CHECKS: dict[Encoding, Callable[[npt.NDArray[Any]], Mask]] = {
    "native": _native,
    "bf16": lambda values: (values & 0x7F80) == 0x7F80,
    "e8m0": lambda values: values == 0xFF,
    "ue4m3": lambda values: (values & 0x7F) == 0x7F,
    "nibbles": _nibbles,
}


@cache
def float_fields(fmt: BlockFormat) -> tuple[Field, ...]:
    """The fields of a block that hold floats, natively or in integers."""
    return tuple(f for f in fmt.fields if f.encoding != "native" or np.dtype(f.dtype).kind == "f")


def first_not_finite(data: npt.NDArray[np.uint8], fmt: BlockFormat, order: str = "<") -> NotFinite | None:
    """The first NaN or infinity among the floats of whole blocks; ``order`` is the file's byte order."""
    blocks = data.view(fmt.dtype if order == "<" else fmt.dtype.newbyteorder(">"))
    found = []
    for field in float_fields(fmt):
        bad = _CHECKS[field.encoding](blocks[field.name])
        if bad.any():
            found.append(NotFinite(int(np.argwhere(bad)[0][0]), field.name))
    return min(found, default=None)
