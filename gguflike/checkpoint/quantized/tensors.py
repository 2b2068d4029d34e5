"""Tensors that are computed of others when they are read: what the schemes of quantized checkpoints are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from gguflike.checkpoint.elsewhere import Extent
from gguflike.checkpoint.safetensors import LazyTensor
from gguflike.errors import CheckpointError

Floats = npt.NDArray[np.float32]
Kind = TypeVar("Kind", bound="Computed")


@dataclass(frozen=True)
class Computed(LazyTensor):
    """Float32 values that are computed of those of other tensors; place and file are those of the main one."""

    def read(self, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        return self.read_f32(start, stop)

    def extents(self, start: int, stop: int) -> list[Extent]:
        """What of files is read for the tensors that this is computed of: the same rows, where they have as many."""
        held = (getattr(self, each.name) for each in fields(self))
        parts = [each.stored if isinstance(each, Scales) else each for each in held]
        found: list[Extent] = []
        for part in parts:
            if isinstance(part, LazyTensor):
                found += part.extents(*(start, stop) if part.rows == self.rows else (0, part.rows))
        return found


def computed(kind: type[Kind], name: str, shape: Sequence[int], main: LazyTensor, **fields: Any) -> Kind:
    """A tensor of ``kind`` with its own ``fields``, which stands where ``main`` does."""
    return kind(name, "F32", tuple(shape), main.path, main.offset, main.file_bytes, **fields)


@dataclass(frozen=True)
class Scales:
    """One number for each block of a tensor of as many axes as ``shape``, which counts the blocks along each.

    A block has ``sizes[i]`` values along axis i, the last one fewer.
    """

    stored: LazyTensor
    shape: tuple[int, ...]
    sizes: tuple[int, ...]

    def spread(self, start: int, stop: int, shape: Sequence[int]) -> Floats:
        """The number of each value of the rows ``start`` to ``stop`` of a tensor of ``shape``, or less of what numpy
        repeats by itself."""
        first, last = (0, 1) if self.shape[0] == 1 else (start // self.sizes[0], -(-stop // self.sizes[0]))
        numbers = self._numbers(first, last).reshape(-1, *self.shape[1:])
        for axis, (count, size) in enumerate(zip(self.shape, self.sizes, strict=True)):
            if count > 1 and size > 1:
                numbers = np.repeat(numbers, size, axis)
                if axis > 0 and count * size > shape[axis]:
                    numbers = np.take(numbers, np.arange(shape[axis]), axis)
        return numbers if self.shape[0] == 1 else numbers[start - first * self.sizes[0] :][: stop - start]

    def _numbers(self, first: int, last: int) -> Floats:
        in_rows = self.stored.rows == self.shape[0]
        rows = (first, last) if in_rows else (0, self.stored.rows)
        numbers = as_floats(self.stored, *rows)
        return numbers if in_rows else numbers.reshape(self.shape[0], -1)[first:last]


@dataclass(frozen=True)
class Scaled(Computed):
    """``(values - zeros) * scales * factor``."""

    values: LazyTensor
    scales: Scales
    zeros: Scales | None = None
    factor: float = 1.0

    def read_f32(self, start: int = 0, stop: int | None = None) -> Floats:
        stop = self.rows if stop is None else stop
        values = as_floats(self.values, start, stop)
        if self.zeros is not None:
            values = values - self.zeros.spread(start, stop, self.shape)
        values = values * self.scales.spread(start, stop, self.shape)
        return values if self.factor == 1 else values * np.float32(self.factor)


def as_floats(tensor: LazyTensor, start: int = 0, stop: int | None = None) -> Floats:
    """Rows as float32, of integers, too."""
    if tensor.dtype.startswith(("I", "U")):
        return tensor.read(start, stop).astype(np.float32)
    return tensor.read_f32(start, stop)


def groups_of_columns(stored: LazyTensor, count: int) -> npt.NDArray[np.int64]:
    """The group of each column, as ``stored`` says it. CheckpointError for one that is none of ``count``."""
    groups = stored.read().astype(np.int64)
    if groups.size and not 0 <= groups.min() <= groups.max() < count:
        raise CheckpointError(
            "group of a column is not there",
            path=stored.path,
            tensor=stored.name,
            expected=f"0 to {count - 1}",
            got=f"{groups.min()} to {groups.max()}",
        )
    return groups


def scales_of(
    values: LazyTensor,
    stored: LazyTensor,
    block: Sequence[int] | None = None,
    *,
    exponents: bool = False,
    even: bool = False,
    shape: Sequence[int] | None = None,
) -> Scales:
    """The scales ``stored`` of ``values``: one for all, one for each slice of the first axes, one for each of any axis,
    or one for each ``block`` of the last axes. ``exponents``: they are stored as bytes e that stand for ``2**(e -
    127)``. ``even``: or of what blocks of one size the shapes say. ``shape``: that of the values, where it is not that
    of ``values``, which packs several.

    CheckpointError where the shapes are none of these.
    """
    whole = tuple(values.shape if shape is None else shape)
    counts = _counts(whole, stored.shape)
    if counts is not None:
        sizes = _sizes(whole, counts, block, even)
        if sizes is not None:
            return Scales(replace(stored, dtype="F8_E8M0") if exponents else stored, counts, sizes)
    expected = "one scale, or one for each row" + (f" or block {tuple(block)}" if block else "")
    raise CheckpointError(
        "scales do not fit the weights",
        path=stored.path,
        tensor=stored.name,
        expected=f"{expected} of {whole}",
        got=f"shape {stored.shape}",
    )


def _counts(shape: tuple[int, ...], stored: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape of scales in the axes of what they scale: (rows,) is (rows, 1), and (a, 1, b, 1) is (a, b)."""
    if prod(stored) == 1:
        return (1,) * len(shape)
    if len(stored) < len(shape) and stored == shape[: len(stored)]:
        return (*stored, *(1 for _ in shape[len(stored) :]))
    if len(stored) > len(shape):
        stored = tuple(size for size in stored if size > 1)
    return stored if len(stored) == len(shape) else None


def _sizes(
    shape: tuple[int, ...], counts: tuple[int, ...], block: Sequence[int] | None, even: bool
) -> tuple[int, ...] | None:
    """The size of blocks, of which there are so many along each axis; None where there are not."""
    if block is not None and len(block) <= len(shape):
        sizes = (*(1 for _ in shape[len(block) :]), *block)
        if counts == tuple(-(-size // each) for size, each in zip(shape, sizes, strict=True)):
            return sizes
    pairs = list(zip(counts, shape, strict=True))
    if all(count in (1, size) for count, size in pairs) or (
        even and all(count and size % count == 0 for count, size in pairs)
    ):
        return tuple(size // count for count, size in pairs)
    return None


def unpacked(words: npt.NDArray[Any], bits: int) -> npt.NDArray[np.uint8]:
    """The unsigned numbers of ``bits`` bits (1 to 8) that follow each other in the bits of the last axis, lowest bits
    first. The words of the last axis, in little-endian order, must hold whole numbers."""
    stored: npt.NDArray[np.uint8] = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return stored
    mask = (1 << bits) - 1
    count = stored.shape[-1] * 8 // bits
    numbers = np.empty((*stored.shape[:-1], count), np.uint8)
    if 8 % bits == 0:
        for place in range(8 // bits):
            numbers[..., place :: 8 // bits] = stored >> np.uint8(bits * place) & np.uint8(mask)
        return numbers
    groups = stored.reshape(*stored.shape[:-1], -1, bits)  # eight numbers in as many bytes as a number has bits
    joined = np.zeros(groups.shape[:-1], np.uint64)
    for index in range(bits):
        joined |= groups[..., index].astype(np.uint64) << np.uint64(8 * index)
    for place in range(8):
        numbers[..., place::8] = joined >> np.uint64(bits * place) & np.uint64(mask)
    return numbers


@dataclass(frozen=True)
class OfStack(LazyTensor):
    """Element ``index`` of the first axis of ``stack``, of its dtype."""

    stack: LazyTensor
    index: int

    def extents(self, start: int, stop: int) -> list[Extent]:  # noqa: ARG002 - it is read whole
        return self.stack.extents(self.index, self.index + 1)

    def read(self, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = self.stack.read(self.index, self.index + 1)[0][start:stop]
        return values

    def read_f32(self, start: int = 0, stop: int | None = None) -> Floats:
        values: Floats = self.stack.read_f32(self.index, self.index + 1)[0][start:stop]
        return values


def of_stack(name: str, stack: LazyTensor, index: int) -> OfStack:
    """Element ``index`` of a stack, by a name of its own."""
    place = (stack.path, stack.offset, stack.file_bytes)
    return OfStack(name, stack.dtype, stack.shape[1:], *place, stack, index)
