"""How each block type lies in memory for the matmul kernels. Imports neither numba nor llvmlite.

A kernel gives every lane of a vector its own row of the weight matrix, so no sum ever crosses lanes. Sixteen rows form
a *group*; a group is a run of *records*, one per ``Layout.weights`` columns, each holding 16 rows by that many columns:

    super-scales   float16 (16,)                       where ``scale`` is an integer kind
    super-minima   float16 (16,)                       where ``minimum`` is an integer kind
    scales         (weights / scale_weights, 16)       see ``Layout.scale``
    minima         (weights / scale_weights, 16)       see ``Layout.minimum``
    planes         for each plane of p bits, low bits first: (weights * p / 32, 64) bytes

Four consecutive columns make a *step*, the unit of the dot product instructions: 16 lanes x 4 bytes. A plane of p bits
keeps the p bits of 8 / p successive steps in one 64-byte vector: byte ``4 * row + i`` holds column ``4 * step + i`` in
bits ``p * (step % (8 / p))`` and up. So a code is a shift and a mask, or two joined.

Rows are padded with zeros to whole groups. Floating-point types are not repacked: their ops read rows as the file has
them.

    plan = linear_plan(tensor.format)           # -> LinearPlan: names of the ops, work items, argument words
    packed = plan.allocate(rows, columns)       # 64-byte aligned uint8; None where the file's rows serve as they are
    native.call(plan.repack)(args, 0, 0, groups)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gguflike.blocks import BlockFormat
from gguflike.errors import UnsupportedError
from gguflike.kernels.vector.sizes import BLOCK, LANES

ScaleKind = Literal["f16", "u8", "i8", "nibble", "e8m0", "ue4m3"]
MinimumKind = Literal["f16", "u8", "nibble"]


@dataclass(frozen=True)
class Plane:
    """``bits`` of every code. ``run`` steps follow each other in successive vectors at one bit position, the next run
    in the same vectors at the next position, and so on until the bytes are full."""

    bits: int
    run: int

    def vectors(self, weights: int) -> int:
        """64-byte vectors that hold this plane of ``weights`` columns."""
        return weights * self.bits // 32

    def place(self, step: int) -> tuple[int, int]:
        """(vector, lowest bit) of a step."""
        chunk, rest = divmod(step, self.run * (8 // self.bits))
        return chunk * self.run + rest % self.run, self.bits * (rest // self.run)


@dataclass(frozen=True)
class Layout:
    """One row of the table of layouts.

    ``weights`` columns per record; ``planes`` the bits of each plane; ``levels`` maps codes to integers where they are
    not the integers themselves; the machine multiplies unsigned bytes, code (or level) + ``offset``. ``scale_weights``
    columns share a scale, whose ``scale`` kind is

        f16     float16 (16,)
        u8, i8  uint8 / int8 (16,), times the super-scale
        nibble  low half of a uint8 (16,), times the super-scale; the high half is the minimum
        e8m0    uint8 (16,), a power of two
        ue4m3   uint8 (16,), unsigned float8

    times the constant ``unit``. ``minimum`` kinds are alike, times ``minimum_unit``. A weight is
    ``scale * integer + minimum``.

    Where scale * integer of every sub-block fits in 8 bits once ``folded_offset`` is added, the blocked matmul unpacks
    these products, and only the super-scale is left to multiply by.
    """

    name: str
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
        return self.scale in ("u8", "i8", "nibble")

    @property
    def super_minima(self) -> bool:
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
        return {None: 0, "nibble": 0, "f16": 2 * LANES, "u8": LANES}[self.minimum]

    @property
    def minima_at(self) -> int:
        return self.scales_at + self.weights // self.scale_weights * self.scale_bytes

    def plane_at(self, index: int) -> int:
        """Byte offset of a plane in a record."""
        start = self.minima_at + self.weights // self.scale_weights * self.minimum_bytes
        return start + 64 * sum(plane.vectors(self.weights) for plane in self.planes[:index])

    @property
    def record_bytes(self) -> int:
        return self.plane_at(len(self.planes))


_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_FLOAT4 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def _signed(*magnitudes: int) -> tuple[int, ...]:
    """Levels of codes whose top bit is the sign."""
    return magnitudes + tuple(-m for m in magnitudes)


_ROWS = (
    Layout("Q4_0", 32, (Plane(4, 4),), "f16", offset=8),
    Layout("Q4_1", 32, (Plane(4, 4),), "f16", minimum="f16"),
    Layout("Q5_0", 32, (Plane(4, 4), Plane(1, 1)), "f16", offset=16),
    Layout("Q5_1", 32, (Plane(4, 4), Plane(1, 1)), "f16", minimum="f16"),
    Layout("Q8_0", 32, (Plane(8, 8),), "f16", offset=128),
    Layout("Q2_K", 256, (Plane(2, 8),), "nibble", 16, minimum="nibble", minimum_unit=-1.0, folded_offset=0),
    Layout("Q3_K", 256, (Plane(2, 8), Plane(1, 8)), "i8", 16, offset=4, folded_offset=127),
    Layout("Q4_K", 256, (Plane(4, 8),), "u8", minimum="u8", minimum_unit=-1.0),
    Layout("Q5_K", 256, (Plane(4, 8), Plane(1, 8)), "u8", minimum="u8", minimum_unit=-1.0),
    Layout("Q6_K", 256, (Plane(4, 16), Plane(2, 8)), "i8", 16, offset=32),
    Layout("IQ4_NL", 32, (Plane(4, 4),), "f16", offset=127, levels=_IQ4),
    Layout("IQ4_XS", 256, (Plane(4, 4),), "i8", offset=127, levels=_IQ4),
    Layout("MXFP4", 32, (Plane(4, 4),), "e8m0", offset=12, levels=_FLOAT4),
    Layout("NVFP4", 64, (Plane(4, 2),), "ue4m3", 16, offset=12, levels=_FLOAT4, unit=0.5),
    # Base-3 digits take longer to unpack than two bits take to read: 1.22 times the file's bytes, twice as fast.
    Layout("TQ1_0", 256, (Plane(2, 8),), "f16", 256, offset=1),
    Layout("TQ2_0", 256, (Plane(2, 8),), "f16", 256, offset=1),
    Layout("Q1_0", 128, (Plane(1, 1),), "f16", 128, offset=1, levels=(-1, 1)),
    Layout("Q2_0", 64, (Plane(2, 1),), "f16", 64, offset=1),
    # The codebook types are looked up when they are repacked: a level per weight, which costs 1.3 to 2.1 times the
    # file's bytes per weight, but a fraction of the work of looking up vectors for every token.
    Layout("IQ2_XXS", 256, (Plane(2, 8), Plane(1, 8)), "u8", offset=43, levels=_signed(8, 25, 43, 0), unit=0.125),
    Layout("IQ2_XS", 256, (Plane(2, 8), Plane(1, 8)), "u8", 16, offset=43, levels=_signed(8, 25, 43, 0), unit=0.125),
    Layout("IQ2_S", 256, (Plane(2, 8), Plane(1, 8)), "u8", 16, offset=43, levels=_signed(8, 25, 43, 0), unit=0.125),
    Layout("IQ3_XXS", 256, (Plane(4, 8),), "u8", offset=62, levels=_signed(4, 12, 20, 28, 36, 44, 52, 62), unit=0.25),
    Layout("IQ3_S", 256, (Plane(4, 8),), "u8", offset=15, levels=_signed(1, 3, 5, 7, 9, 11, 13, 15)),
    Layout("IQ1_S", 256, (Plane(2, 8), Plane(1, 8)), "u8", offset=9, levels=(-7, 1, 9, 0, -9, -1, 7, 0), unit=0.125),
    Layout(
        "IQ1_M", 256, (Plane(2, 8), Plane(1, 8)), "u8", 16, offset=9, levels=(-7, 1, 9, 0, -9, -1, 7, 0), unit=0.125
    ),
)

LAYOUTS: Mapping[str, Layout] = {row.name: row for row in _ROWS}
FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class LinearPlan:
    """How to multiply by weights of one block type. Ops are named as in native.py; integer.py has their arguments.

    ``activations`` says what the ops read: "int8" (codes, scales and sums from ``matmul:quantize``) or "float32".
    ``repack`` is None where the file's own bytes are used.
    """

    name: str
    matvec: str
    matmul: str
    activations: Literal["int8", "float32"]
    repack: str | None
    layout: Layout | None

    def matvec_items(self, rows: int) -> int:
        """Work items of ``matvec``: groups of 16 rows."""
        return -(-rows // LANES)

    def matmul_items(self, rows: int) -> int:
        """Work items of ``matmul``: 32 rows each."""
        return -(-rows // (2 * LANES))

    def packed_bytes(self, rows: int, columns: int) -> int:
        """Bytes of the repacked weights (0 without ``repack``). Groups come in pairs, as ``matmul`` takes them."""
        if self.layout is None:
            return 0
        return self.matmul_items(rows) * 2 * (columns // self.layout.weights) * self.layout.record_bytes

    def allocate(self, rows: int, columns: int) -> npt.NDArray[np.uint8] | None:
        """Zeroed memory for the repacked weights, aligned to 64 bytes."""
        size = self.packed_bytes(rows, columns)
        if not size:
            return None
        raw = np.zeros(size + 64, np.uint8)
        start = -raw.ctypes.data % 64
        return raw[start : start + size]

    def repack_args(self, source: int, target: int, rows: int, columns: int) -> tuple[int, ...]:
        """Argument words of ``repack``, whose items are groups of 16 rows. Addresses: the file's blocks, the target."""
        return (source, target, rows, columns)


def linear_plan(format: BlockFormat) -> LinearPlan:
    """The plan for a block type. UnsupportedError for types that are no matrix weights (integers, Q8_1, ...)."""
    name = format.name
    if name in LAYOUTS:
        ops = f"matmul.integer:matvec_{name}", f"matmul.integer:matmul_{name}"
        return LinearPlan(name, *ops, "int8", f"matmul.repack:{name}", LAYOUTS[name])
    if name in FLOATS:
        ops = f"matmul.floating:matvec_{name}", f"matmul.floating:matmul_{name}"
        return LinearPlan(name, *ops, "float32", None, None)
    raise UnsupportedError(f"no matmul on {name}", expected="one of " + ", ".join((*LAYOUTS, *FLOATS)), got=name)


def activation_arrays(tokens: int, columns: int) -> dict[str, npt.NDArray[Any]]:
    """Memory for quantized activations: codes int8 (tokens, columns), scales float32 (tokens, columns / 32), sums int32
    (tokens, columns / 16)."""
    return {
        "codes": np.empty((tokens, columns), np.int8),
        "scales": np.empty((tokens, columns // BLOCK), np.float32),
        "sums": np.empty((tokens, columns // 16), np.int32),
    }
