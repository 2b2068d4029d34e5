"""A file of which some tensors are those of another: what would be if they were, without writing it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from gguflike.container.layout import TensorInfo
from gguflike.container.reader import GGUFFile
from gguflike.container.view import Lazy
from gguflike.tensor import QuantizedTensor

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Overlay(GGUFFile):
    """``file`` with the tensors called ``names`` from ``other``, and without those called ``hidden``.

    Everything else is the file's, which stays open when this is closed, and so does the other.
    """

    def __init__(
        self, file: GGUFFile, other: GGUFFile, names: Collection[str], hidden: Collection[str] = frozenset()
    ) -> None:
        self.path, self.version, self.byteorder = file.path, file.version, file.byteorder
        self.alignment, self.data_offset, self.header_bytes = file.alignment, file.data_offset, file.header_bytes
        self.file_bytes, self.metadata = file.file_bytes, file.metadata
        owners = {name: other if name in names else file for name in file.infos if name not in hidden}
        self.infos: Mapping[str, TensorInfo] = Lazy(owners, lambda name: owners[name].infos[name])
        self.tensors: Mapping[str, QuantizedTensor] = Lazy(owners, lambda name: owners[name].tensors[name])
        self._owners = owners

    def read_into(self, name: str, start: int, data: npt.NDArray[np.uint8]) -> None:
        self._owners[name].read_into(name, start, data)

    def close(self) -> None:
        """Nothing: the files belong to who opened them."""
