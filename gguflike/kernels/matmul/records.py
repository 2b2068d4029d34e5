"""How each block type's weights lie in memory for the matrix products. Imports neither numba nor llvmlite.

A kernel gives every lane of a vector its own row of the weight matrix, so no sum ever crosses lanes. Sixteen rows are a
*row block*, whose columns are cut into *records*, one after the other in memory. A record holds, for 16 rows by
``RecordFormat.weights`` columns (a block of the file each):

    super-scales   float16 (16,)                       where ``scale`` is an integer kind
    super-minima   float16 (16,)                       where ``minimum`` is an integer kind
    scales         (weights / scale_weights, 16)       see ``RecordFormat``
    minima         (weights / scale_weights, 16)       see ``RecordFormat``
    planes         for each plane of p bits, low bits first: (weights * p / 32, 64) bytes

Four consecutive columns are a *step*, what a dot product instruction takes: 16 lanes x 4 bytes. A *plane* of p bits
keeps p bits of every code, those of 8 / p steps in one 64-byte vector: byte ``4 * row + i`` holds column
``4 * step + i`` in the bits that ``Plane.place`` says. So a code is a shift and a mask, or two joined.

Rows are padded with zeros to whole row blocks. Floating-point types are not repacked: their ops read rows as the
file has them.

    plan = dispatch.linear_plan(tensor.format)  # -> LinearPlan: names of the ops, work items
    packed = plan.allocate(rows, columns)       # 64-byte aligned uint8; None where the file's rows serve as they are
    words = np.array(REPACK.pack(blocks=..., records=..., rows=rows, columns=columns))
    native.call(plan.repack)(words.ctypes.data, 0, 0, plan.matvec_items(rows))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gguflike.frozen import frozen
from gguflike.kernels.vector.sizes import BLOCK, LANES

if TYPE_CHECKING:
    import numpy.typing as npt

ScaleKind = Literal["f16", "u8", "i8", "nibble", "e8m0", "ue4m3"]
MinimumKind = Literal["f16", "u8", "nibble"]


@frozen
class Plane:
    """Where a record keeps ``bits`` of every code.

    ``run`` consecutive steps lie in as many consecutive vectors, all at one bit position; the next run lies in the same
    vectors at the next position, and so on until the bytes are full. ``field`` names the field of the file's block that
    is packed like that already, so that it moves as words; without one, the plane is made from codes.
    """

    bits: int
    run: int
    field: str | None = None

    def vectors(self, weights: int) -> int:
        """Number of 64-byte vectors that hold this plane of ``weights`` columns."""
        return weights * self.bits // 32

    def place(self, step: int) -> tuple[int, int]:
        """Number of the vector, and lowest bit in its bytes, that hold a step."""
        chunk, rest = divmod(step, self.run * (8 // self.bits))
        return chunk * self.run + rest % self.run, self.bits * (rest // self.run)


@frozen
class RecordFormat:
    """How records of a block type are laid out: the ``record`` column of kernels/table.py.

    A weight is ``scale * integer + minimum``. Its code is kept in ``planes``; the integer is ``levels[code]``, or
    ``code - offset`` where there are no levels. Dot products multiply unsigned bytes: integer + ``offset``.

    A record has ``weights`` columns. Every ``scale_weights`` of them share a scale of the kind ``scale``, times the
    constant ``unit``:

        f16     float16 (16,)
        u8, i8  uint8 / int8 (16,), times the super-scale
        nibble  low half of a uint8 (16,), times the super-scale; the high half is the minimum
        e8m0    uint8 (16,), a power of two
        ue4m3   uint8 (16,), unsigned float8

    and, unless ``minimum`` is None, a minimum of that kind, times the constant ``minimum_unit`` (and the super-minimum
    for integer kinds).

    Where scale * integer of every sub-block fits in 8 bits once ``folded_offset`` is added, the blocked matmul unpacks
    these products, and only the super-scale is left to multiply by.
    """

    weights: int
    planes: tuple[Plane, ...]
    scale: ScaleKind
    scale_weights: int = 32
    offset: int = 0
    unit: float = 1.0
    levels: tuple[int, ...] | None = None
    minimum: MinimumKind | None = None
    minimum_unit: float = 1.0
    folded_offset: int | None = None

    @property
    def largest(self) -> int:
        """The largest unsigned byte that reaches the dot product."""
        if self.levels is not None:
            return max(self.levels) + self.offset
        return (1 << sum(plane.bits for plane in self.planes)) - 1

    @property
    def super_scales(self) -> bool:
        """Whether scales are integers, times a float16 super-scale."""
        return self.scale in ("u8", "i8", "nibble")

    @property
    def super_minima(self) -> bool:
        """Whether minima are integers, times a float16 super-minimum."""
        return self.minimum in ("u8", "nibble")

    @property
    def scales_at(self) -> int:
        """Byte offset of the scales in a record."""
        return 2 * LANES * (self.super_scales + self.super_minima)

    @property
    def scale_bytes(self) -> int:
        """Bytes of the scales of one sub-block of 16 rows."""
        return 2 * LANES if self.scale == "f16" else LANES

    @property
    def minimum_bytes(self) -> int:
        """Bytes of the minima of one sub-block of 16 rows, beside those of its scales."""
        return {None: 0, "nibble": 0, "f16": 2 * LANES, "u8": LANES}[self.minimum]

    @property
    def minima_at(self) -> int:
        """Byte offset of the minima in a record."""
        return self.scales_at + self.weights // self.scale_weights * self.scale_bytes

    def plane_at(self, index: int) -> int:
        """Byte offset of a plane in a record."""
        start = self.minima_at + self.weights // self.scale_weights * self.minimum_bytes
        return start + 64 * sum(plane.vectors(self.weights) for plane in self.planes[:index])

    @property
    def record_bytes(self) -> int:
        """Bytes of a record."""
        return self.plane_at(len(self.planes))


@frozen
class LinearPlan:
    """How to multiply by weights of one block type. Ops are named as in native.py; args.py has their arguments.

    ``activations`` says what the ops read: "int8" (codes, scales and sums made by op ``vector.quantize:rows``) or
    "float32". ``repack`` is None where the file's own bytes are used, and so is ``refine``, which adds what refined
    blocks of activations give to products of the others.
    """

    name: str
    matvec: str
    matmul: str
    activations: Literal["int8", "float32"]
    repack: str | None
    record: RecordFormat | None
    refine: str | None = None

    def matvec_items(self, rows: int) -> int:
        """Work items of ``matvec`` and ``repack``: row blocks of 16 rows."""
        return -(-rows // LANES)

    def matmul_items(self, rows: int) -> int:
        """Work items of ``matmul``: 32 rows each."""
        return -(-rows // (2 * LANES))

    def packed_bytes(self, rows: int, columns: int) -> int:
        """Bytes of the repacked weights (0 without ``repack``). Row blocks come in pairs, as ``matmul`` takes them."""
        if self.record is None:
            return 0
        return self.matmul_items(rows) * 2 * (columns // self.record.weights) * self.record.record_bytes

    def allocate(self, rows: int, columns: int) -> npt.NDArray[np.uint8] | None:
        """Zeroed memory for the repacked weights, aligned to 64 bytes."""
        size = self.packed_bytes(rows, columns)
        if not size:
            return None
        raw = np.zeros(size + 64, np.uint8)
        start = -raw.ctypes.data % 64
        return raw[start : start + size]


def activation_arrays(tokens: int, columns: int) -> dict[str, npt.NDArray[Any]]:
    """Allocates quantized activations, in the order of the ops' arguments.

    codes int8 (tokens, columns), scales float32 (tokens, columns / 32), sums int32 (tokens, columns / 16).
    """
    return {
        "codes": np.empty((tokens, columns), np.int8),
        "scales": np.empty((tokens, columns // BLOCK), np.float32),
        "sums": np.empty((tokens, columns // 16), np.int32),
    }
