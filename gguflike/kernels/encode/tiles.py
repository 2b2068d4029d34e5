"""Names of the types that encoders work on, besides those of vector/types.py.

A *tile* is a flat array of vectors: its row j is elements ``16 j .. 16 j + 15``, one lane per block (vector/lanes.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int32]
Tile: TypeAlias = npt.NDArray[np.float32]
IntTile: TypeAlias = npt.NDArray[np.int32]
ShortTile: TypeAlias = npt.NDArray[np.int16]
Importance: TypeAlias = Tile | None  # one row per weight, as a share of the largest in the block; None: all count 1
# encode(x float32 (rows, columns), out uint8 (rows, row bytes), importance float32 (columns,) | None, method, threads)
Encode: TypeAlias = Callable[[Array, Array, "Array | None", str, "int | None"], None]
F32: TypeAlias = Any  # in kernels: one float32, as functions of vectors return it
