"""4-bit floats (E2M1) in blocks with a scale: MXFP4 and NVFP4, which GGUF has types for.

Byte j of a row holds values 2j (low bits) and 2j + 1. MXFP4 has a scale ``2**(e - 127)`` for 32 values (OCP
Microscaling Formats 1.0), NVFP4 one in E4M3 for 16 and a number for the whole tensor. What is stored is kept bit for
bit where the same type is asked for (`Float4.read_blocks`); else values are computed of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.blocks.float4 import E2M1_DOUBLED
from gguflike.checkpoint import float8
from gguflike.checkpoint.quantized.pool import expect_shape
from gguflike.checkpoint.quantized.tensors import Computed, Floats, computed, unpacked
from gguflike.checkpoint.safetensors import LazyTensor
from gguflike.errors import CheckpointError


class Kind(NamedTuple):
    """The type of GGUF that says the same; values that have one scale, the kind of its code and the largest one that is
    a number and not negative; groups in a block of GGUF."""

    name: str
    group: int
    scales: str
    largest: int
    groups: int


MX = Kind("MXFP4", 32, "F8_E8M0", 0xFE, 1)
NV = Kind("NVFP4", 16, "F8_E4M3", 0x7E, 4)
_E2M1: Floats = E2M1_DOUBLED.astype(np.float32) / np.float32(2)


@dataclass(frozen=True)
class Float4(Computed):
    """``e2m1(codes) * scale of the group * factor``, where ``factor`` is one number, or with ``inverse`` is divided
    by."""

    codes: LazyTensor
    scales: LazyTensor
    of: Kind
    factor: LazyTensor | None = None
    inverse: bool = False

    @property
    def whole_blocks(self) -> bool:
        """Whether rows are whole blocks of GGUF's type, so that ``read_blocks`` gives them."""
        return self.shape[-1] % (self.of.groups * self.of.group) == 0

    def read_f32(self, start: int = 0, stop: int | None = None) -> Floats:
        codes, scales = self._stored(start, self.rows if stop is None else stop)
        table = float8.values(self.of.scales)
        grouped = _E2M1[codes].reshape(*scales.shape, -1) * table[scales][..., None]
        values: Floats = grouped.reshape(codes.shape)
        return values if self.factor is None else values * np.float32(self.number())

    def read_blocks(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Rows as blocks of GGUF: (rows, ..., bytes of a row). CheckpointError for scales that the type has not.

        Where a byte has two values that follow each other, MXFP4's byte j has values j and j + 16, and that of NVFP4,
        in each group of 16, values j and j + 8 behind the scales of four groups.
        """
        codes, scales = self._stored(start, stop)
        self._check_scales(scales)
        halves = codes.reshape(*scales.shape, 2, self.of.group // 2)
        packed = halves[..., 0, :] | halves[..., 1, :] << 4
        heads = scales.reshape(*scales.shape[:-1], -1, self.of.groups)
        bodies = packed.reshape(*heads.shape[:-1], -1)
        return np.concatenate([heads, bodies], axis=-1).reshape(*scales.shape[:-1], -1)

    def number(self) -> float:
        """What all values are multiplied by. CheckpointError where it is no positive number."""
        if self.factor is None:
            return 1.0
        stored = float(self.factor.read_f32().reshape(-1)[0])
        if not 0 < stored < np.inf:
            raise CheckpointError(
                "scale of a tensor is no positive number", path=self.path, tensor=self.factor.name, got=stored
            )
        return float(np.float32(1) / np.float32(stored)) if self.inverse else stored

    def _stored(self, start: int, stop: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        codes = unpacked(self.codes.read(start, stop), 4).reshape(stop - start, *self.shape[1:])
        return codes, self.scales.read(start, stop)

    def _check_scales(self, scales: npt.NDArray[np.uint8]) -> None:
        wrong = scales > self.of.largest
        if wrong.any():
            raise CheckpointError(
                "scale is negative or not a number",
                path=self.path,
                tensor=self.scales.name,
                got=f"code {int(scales[wrong][0])} at index {tuple(int(i) for i in np.argwhere(wrong)[0])}",
                remedy="the checkpoint is damaged",
            )


def float4(
    name: str,
    codes: LazyTensor,
    scales: LazyTensor,
    kind: Kind,
    factor: LazyTensor | None = None,
    inverse: bool = False,
) -> Float4:
    """`Float4` of what is stored. CheckpointError where shapes do not fit, or the factor is not one number."""
    codes = _in_bytes(codes)
    columns = 2 * codes.shape[-1] if codes.shape else 0
    shape = (*codes.shape[:-1], columns)
    expect_shape(scales, (*shape[:-1], -(-columns // kind.group)))
    if columns % kind.group:
        raise CheckpointError(
            "rows are no whole groups of 4-bit floats",
            path=codes.path,
            tensor=codes.name,
            expected=f"a multiple of {kind.group} values",
            got=columns,
        )
    if factor is not None and factor.size != 1:
        raise CheckpointError("scale is not one number", path=factor.path, tensor=factor.name, got=factor.shape)
    fields: dict[str, Any] = {"of": kind, "factor": factor, "inverse": inverse}
    return computed(Float4, name, shape, codes, codes=codes, scales=scales, **fields)


def _in_bytes(codes: LazyTensor) -> LazyTensor:
    """Codes as bytes of two, whatever dtype the file calls them."""
    count = codes.nbytes // max(1, prod(codes.shape[:-1]))
    place = (codes.path, codes.offset, codes.file_bytes)
    return LazyTensor(codes.name, "U8", (*codes.shape[:-1], count), *place) if codes.dtype in ("F4", "U32") else codes


def stack(blocks: LazyTensor, scales: LazyTensor) -> Float4:
    """`Float4` of MXFP4 as gpt-oss is published: matrices of (rows, groups, 16) bytes, and of (rows, groups) scales."""
    expect_shape(scales, blocks.shape[:-1])
    shape = (*scales.shape[:-1], MX.group * scales.shape[-1])
    return computed(Float4, blocks.name, shape, blocks, codes=blocks, scales=scales, of=MX)
