"""Sources of 4-bit floats: MXFP4 and NVFP4 of a checkpoint, which GGUF's types of these names hold bit for bit.

What a file must say beside NVFP4 is a number for each matrix, by which its product is multiplied: the tensor of the
matrix's name with ``.scale`` for ``.weight`` (llama.cpp, conversion/base.py and llama-model.cpp).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import lcm
from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.blocks import format_by_name
from gguflike.checkpoint.elsewhere import Extent
from gguflike.checkpoint.quantized.float4 import Float4
from gguflike.convert.sources import Floats, Source, check, places
from gguflike.families.inert import SCALED_ROLES
from gguflike.families.origins import Piece
from gguflike.families.parts import role_of
from gguflike.tensor import QuantizedTensor


@dataclass(frozen=True)
class Float4Source:
    """Matrices put together of such of a checkpoint: as values, or in blocks of the type that says the same."""

    name: str
    shape: tuple[int, ...]
    pieces: tuple[tuple[Float4, Piece], ...]

    @property
    def origin(self) -> str:
        return self.pieces[0][0].name

    @property
    def stored(self) -> str:
        return self.pieces[0][0].of.name

    @property
    def group(self) -> int:
        return lcm(*(piece.via.group for _, piece in self.pieces))

    def extents(self) -> list[Extent]:
        """Where what is read stands, in the order of reading."""
        return [each for tensor, piece in self.pieces for each in tensor.extents(*places(piece, 0, piece.rows))]

    def read(self, start: int, stop: int, limit: float) -> Floats:
        parts = []
        for tensor, piece, low, high in self._shares(start, stop):
            rows = tensor.read_f32(low, high)
            check(rows, tensor.name, low, limit)
            parts.append(_made(piece, rows))
        return np.ascontiguousarray(np.concatenate(parts))

    def part(self, start: int, stop: int) -> QuantizedTensor:
        """Rows of the first axis in blocks. CheckpointError where a scale is none that the type has."""
        parts = [_made(piece, tensor.read_blocks(low, high)) for tensor, piece, low, high in self._shares(start, stop)]
        data = np.ascontiguousarray(np.concatenate(parts)).reshape(-1)
        return QuantizedTensor(self.name, format_by_name(self.stored), (stop - start, *self.shape[1:]), data)

    def beside(self) -> list[Source]:
        """What a file must hold beside the blocks."""
        tensors = tuple(tensor for tensor, _ in self.pieces)
        return [ScaleSource(self.name.removesuffix("weight") + "scale", tensors)] if tensors[0].factor else []

    def _shares(self, start: int, stop: int) -> Iterator[tuple[Float4, Piece, int, int]]:
        """The tensors that the rows come from, and which of their rows."""
        first = 0
        for tensor, piece in self.pieces:
            low, high = max(start - first, 0), min(stop - first, piece.rows)
            if low < high:
                yield tensor, piece, *places(piece, low, high)
            first += piece.rows


def _made(piece: Piece, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    made: npt.NDArray[Any] = piece.via.apply(rows)
    return made[None] if piece.stacked else made


@dataclass(frozen=True)
class ScaleSource:
    """A number for each of several matrices."""

    name: str
    tensors: tuple[Float4, ...]
    stored: str = "F32"
    group: int = 1

    @property
    def origin(self) -> str:
        factor = self.tensors[0].factor
        return factor.name if factor is not None else self.tensors[0].name

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.tensors),)

    def read(self, start: int, stop: int, limit: float) -> Floats:
        numbers = np.array([tensor.number() for tensor in self.tensors[start:stop]], np.float32)
        check(numbers, self.origin, start, limit)
        return numbers


def float4_source(name: str, shape: tuple[int, ...], pieces: tuple[tuple[Any, Piece], ...]) -> Float4Source | None:
    """The source of a tensor whose pieces are all 4-bit floats, in rows that are whole blocks and stay whole, with
    numbers beside them that a file can say; else None, so that they are taken as floats."""
    tensors = [tensor for tensor, _ in pieces]
    if not all(isinstance(tensor, Float4) and tensor.whole_blocks and tensor.of == tensors[0].of for tensor in tensors):
        return None
    if not all(piece.via.moves_rows for _, piece in pieces) or not name.endswith(".weight"):
        return None
    if any(tensor.factor for tensor in tensors):
        one_each = len(shape) == 3 and all(piece.stacked for _, piece in pieces)
        if not all(tensor.factor for tensor in tensors) or not (one_each or (len(pieces) == 1 and len(shape) == 2)):
            return None
        if role_of(name)[0] not in SCALED_ROLES:
            return None
    return Float4Source(name, shape, pieces)
