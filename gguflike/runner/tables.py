"""Tables of which a pass looks up rows by its tokens: read from the file row by row, when a token comes first.

Nothing of a model is mapped from its file while it runs: who truncates the file would end the process, and that cannot
be caught. A table of 262,144 tokens has hundreds of megabytes, of which a text needs some hundred rows.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import numpy as np

from gguflike.container import GGUFFile, TensorInfo
from gguflike.tensor import QuantizedTensor

if TYPE_CHECKING:
    import numpy.typing as npt

    from gguflike.kernels.engine.memory import Take


class Table:
    """A ``tensor`` with room for all rows, in whose memory only those are that were fetched."""

    def __init__(self, file: GGUFFile, info: TensorInfo, take: Take) -> None:
        self._file = file
        self._there = np.zeros(info.shape[0], np.bool_)
        self._row_bytes = info.format.row_bytes(info.shape[-1])
        self.tensor = QuantizedTensor(info.name, info.format, info.shape, take(info.nbytes))

    def fetch(self, ids: npt.NDArray[np.int32]) -> None:
        """Have the rows of these tokens. GGUFError where the file has changed since it was opened."""
        missing = ids[~self._there[ids]]
        for row in set(missing.tolist()):
            start = row * self._row_bytes
            self._file.read_into(self.tensor.name, start, self.tensor.data[start : start + self._row_bytes])
            self._there[row] = True

    def resident(self, tokens: int) -> int:
        """Bytes of memory after so many tokens, where none came twice."""
        return min(self.tensor.nbytes, tokens * (self._row_bytes + mmap.PAGESIZE))
