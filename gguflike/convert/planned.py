"""One tensor of a file that is to be written."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from gguflike.blocks import BlockFormat
from gguflike.convert.sources import Floats, Source, stored_as


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the file. ``wanted`` is the type the recipe asks for, where the shape does not allow it."""

    source: Source
    format: BlockFormat
    wanted: BlockFormat
    importance: Floats | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def weights(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.format.tensor_bytes(self.shape)

    @property
    def kept(self) -> bool:
        """Whether the source holds the very blocks, which are copied."""
        return self.format.is_quantized and stored_as(self.source, self.format.name) is not None

    @property
    def substituted(self) -> bool:
        return self.format.name != self.wanted.name
