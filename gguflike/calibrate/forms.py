"""The block types whose numbers are trained, of scalar levels and of points of a codebook alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gguflike.blocks import FORMATS, BlockFormat
from gguflike.calibrate.codebook import kind
from gguflike.calibrate.grids import GRIDS, Grid, Numbers
from gguflike.calibrate.points import Codebook, TrainedPoints
from gguflike.calibrate.trained import Moves, Trained
from gguflike.kernels.encode.lattice.codec import LATTICES
from gguflike.kernels.rounding.octets import Blocks

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Stored = Numbers | Blocks
"""The numbers of a matrix: of a `Grid` or of a `Codebook`."""


class Form(Protocol):
    """What a block type's numbers are: those of a `Grid` or of a `Codebook`."""

    @property
    def format(self) -> BlockFormat: ...

    def parse(self, data: Bytes) -> Any:
        """The numbers of rows of blocks, ``data`` uint8 (n, row bytes)."""

    def pack(self, numbers: Any) -> Bytes:
        """The blocks that hold ``numbers``: uint8 (n, row bytes)."""

    def values(self, numbers: Any) -> Floats:
        """The weights, float32 (n, k): bit for bit what the blocks decode to."""


class Moving(Protocol):
    """A matrix while it is trained: `Trained` or `TrainedPoints`."""

    parameters: dict[str, Floats]
    distance: float

    def numbers(self) -> Any:
        """The parameters as a file holds them."""

    def pull(self, numbers: Any, gradient: Floats) -> dict[str, Floats]:
        """The gradient by each parameter, from that by the values (n, k) of ``numbers``."""


def _codebooks() -> dict[str, Codebook]:
    kinds = {name: kind(FORMATS[name]) for name in LATTICES}
    return {name: Codebook(found) for name, found in kinds.items() if found is not None}


FORMS: Mapping[str, Form] = {**GRIDS, **_codebooks()}
"""By name of the type."""


def trained(form: Form, numbers: Stored, moves: Moves, floats: Floats | None = None) -> Moving:
    """What moves of a matrix (n, k), whose ``floats`` are what codes move towards."""
    if isinstance(form, Codebook):
        assert isinstance(numbers, Blocks)
        return TrainedPoints(form, numbers, moves, floats)
    assert isinstance(form, Grid)
    assert isinstance(numbers, Numbers)
    return Trained(form, numbers, moves, floats)


def stored(arrays: Mapping[str, Any]) -> Stored:
    """The numbers of which these are the arrays, by their names."""
    return Numbers(**arrays) if set(arrays) == set(Numbers._fields) else Blocks(**arrays)
