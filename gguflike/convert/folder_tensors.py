"""The tensors of a checkpoint as the file that it would be has them, unrounded: for who compares the two."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from math import prod

import numpy as np

from gguflike.blocks import FORMATS
from gguflike.container import Typed, ValueType
from gguflike.container.values import typed
from gguflike.convert.floats import LARGEST, SLAB_BYTES
from gguflike.convert.from_checkpoint import plan_conversion
from gguflike.convert.slabs import Slab, read_slab, slabs
from gguflike.convert.sources import Floats, Source


class FolderTensors:
    """``sources`` by their names in the file, ``metadata`` as the file would have them. Errors as of `convert`."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        plan = plan_conversion(folder, None, "F32", tokenizer_proof="warn")
        self.metadata: Mapping[str, Typed] = {key: _stored(typed(value)) for key, value in plan.metadata.items()}
        self.sources: Mapping[str, Source] = {tensor.name: tensor.source for tensor in plan.tensors}
        self._whole: tuple[str, Floats] | None = None  # a tensor that is read otherwise than it is stored

    def nbytes(self, name: str) -> int:
        """Bytes of a tensor as it is stored."""
        source = self.sources[name]
        if source.stored in FORMATS:
            return FORMATS[source.stored].tensor_bytes(source.shape)
        bits = re.search(r"\d+", source.stored)  # F64, F8_E4M3
        return prod(source.shape) * int(bits[0]) // 8 if bits else 0

    def spans(self, name: str) -> list[range]:
        """Numbers of rows that are read together, all rows of a tensor in turn."""
        source = self.sources[name]
        if len(source.shape) < 2:
            return [range(1)]
        return [self._span(source, slab) for slab in slabs(source, SLAB_BYTES)]

    def rows(self, name: str, span: range) -> Floats:
        """Rows of a tensor, float32 (rows, columns). QuantizationError where a value is not finite."""
        source = self.sources[name]
        columns = source.shape[-1] if source.shape else 1
        for slab in slabs(source, SLAB_BYTES):
            if len(source.shape) > 1 and self._span(source, slab) == span:
                return read_slab(source, slab, LARGEST, compiled=True).reshape(-1, columns)
        if self._whole is None or self._whole[0] != name:
            parts = [read_slab(source, slab, LARGEST, compiled=True).reshape(-1) for slab in slabs(source, SLAB_BYTES)]
            self._whole = name, np.concatenate(parts).reshape(-1, columns)
        return self._whole[1][span.start : span.stop]

    @staticmethod
    def _span(source: Source, slab: Slab) -> range:
        each = prod(source.shape[1:-1])  # rows of one along the first axis
        if slab.rows is None:
            return range(slab.start * each, slab.stop * each)
        low, high = slab.rows
        return range(slab.start * each + low, slab.start * each + high)


def _stored(value: Typed) -> Typed:
    """A value as it is read back from a file."""
    kind = value.type if value.item_type is None else value.item_type
    if kind is not ValueType.FLOAT32:
        return value
    rounded = np.asarray(value.value, np.float32)
    return Typed(rounded.item() if value.item_type is None else rounded, value.type, value.item_type)
