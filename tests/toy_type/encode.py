"""Goes to gguflike/kernels/encode/toy.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gguflike.blocks import FORMATS

Array = npt.NDArray[Any]


def encode_toy(x: Array, out: Array, importance: Array | None, method: str, threads: int | None = None) -> None:
    """Scales the largest magnitude of a block to 7 and rounds."""
    blocks = out.reshape(-1).view(FORMATS["TOY"].dtype)
    values = x.reshape(-1, 32)
    d = (np.abs(values).max(axis=1) / np.float32(7)).astype(np.float16)
    scale = np.where(d == 0, np.float32(1), d.astype(np.float32))[:, None]
    codes = np.clip(np.rint(values / scale) + 8, 0, 15).astype(np.uint8)
    blocks["d"] = d
    blocks["qs"] = codes[:, ::2] | codes[:, 1::2] << 4
