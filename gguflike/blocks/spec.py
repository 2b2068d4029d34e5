"""What a block type is: one frozen row, from which everything else about it derives."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from gguflike.errors import QuantizationError
from gguflike.frozen import frozen

if TYPE_CHECKING:
    import numpy.typing as npt

    Decode = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
    Encode = Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]

Role = Literal["codes", "scale", "min", "packed"]
Encoding = Literal["native", "bf16", "e8m0", "ue4m3", "nibbles"]

F16_MAX = 65504.0
F32_MAX = float(np.finfo(np.float32).max)


@frozen
class Field:
    """One member of a block, in file order.

    ``dtype`` is a little-endian numpy type string. ``role`` says how to read it: ``codes`` hold the
    quantized weights, ``scale`` and ``min`` are floating-point factors that must be finite, and
    ``packed`` is anything bit-packed (6-bit scales, sign bits) whose values are always valid.
    ``encoding`` says where integers hold a float: ``bf16``, the 8-bit exponent ``e8m0``, the 8-bit float ``ue4m3``,
    or ``nibbles``, a float16 in the upper four bits of four 16-bit words. Such a field must be finite, too.
    """

    name: str
    dtype: str
    count: int = 1
    role: Role = "codes"
    encoding: Encoding = "native"


@frozen
class BlockFormat:
    """One row of the table of block types.

    ``decode`` is the numpy reference: structured blocks of shape (n,) and dtype ``self.dtype`` in,
    float32 of shape (n, block_size) out (plain integer and float64 types keep their own dtype).
    ``formula`` is the decoding rule as one line of text.

    ``fallback`` names the type that recipes take instead where rows are no multiple of the block. ``encode`` rounds
    finite float32 of any shape to the stored numbers of a type without blocks; ``largest`` is the largest magnitude
    that this rounding keeps finite. Types with blocks are encoded by the kernels.
    """

    id: int
    name: str
    block_size: int
    fields: tuple[Field, ...]
    formula: str = ""
    decode: Decode | None = None
    fallback: str = "F16"
    encode: Encode | None = None
    largest: float | None = None

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Packed little-endian structured dtype of one block."""
        return np.dtype([(f.name, f.dtype, (f.count,)) if f.count > 1 else (f.name, f.dtype) for f in self.fields])

    @cached_property
    def offsets(self) -> Any:
        """Named constants for kernels: the byte offset of each field, ``block_bytes``, and ``float_bytes``, decoded."""
        places = {name: place[1] for name, place in (self.dtype.fields or {}).items()}
        make = cast("Any", namedtuple)("Offsets", [*places, "block_bytes", "float_bytes"])
        return make(*places.values(), self.block_bytes, 4 * self.block_size)

    @cached_property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        return self.dtype.itemsize

    @property
    def bits_per_weight(self) -> float:
        """Bits of a block per weight, scales included."""
        return 8 * self.block_bytes / self.block_size

    @property
    def is_quantized(self) -> bool:
        """True where several weights share a block."""
        return self.block_size > 1

    @property
    def is_float(self) -> bool:
        """True for types without blocks that hold floating-point numbers."""
        first = self.fields[0]
        return not self.is_quantized and (first.encoding == "bf16" or np.dtype(first.dtype).kind == "f")

    @property
    def is_integer(self) -> bool:
        """True for types without blocks that hold integers: positions and lookup tables, not weights."""
        return not self.is_quantized and not self.is_float

    @property
    def limit(self) -> float:
        """The largest magnitude that encoding stores as a finite number.

        Block types have float16 scales, beyond which encoders saturate; no code of theirs is below 1, so 65504 fits.
        """
        return self.largest or (F16_MAX if self.is_quantized else F32_MAX)

    def row_bytes(self, columns: int) -> int:
        """Bytes of one row of ``columns`` weights. QuantizationError where the block does not divide it."""
        if columns % self.block_size:
            raise QuantizationError(
                f"rows of {columns} weights cannot be stored as {self.name}",
                expected=f"a multiple of {self.block_size}",
                got=columns,
                remedy="choose a type with smaller blocks for this tensor",
            )
        return columns // self.block_size * self.block_bytes

    def tensor_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor of ``shape`` (numpy order: the last axis is the row)."""
        return prod(shape[:-1]) * self.row_bytes(shape[-1]) if shape else self.row_bytes(1)
