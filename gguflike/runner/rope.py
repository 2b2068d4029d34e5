"""Rotary position embedding: the frequencies of one model, from its GGUF settings.

Angles are computed in float64 per pass (they are few) and handed to the kernels as float32 cosines and sines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.errors import UnsupportedError

BETA_FAST, BETA_SLOW = 32.0, 1.0  # llama.cpp's and Transformers' defaults


class Rope(NamedTuple):
    """``frequencies`` float64 (n_rot / 2,) in radians per position; ``magnitude`` scales cosines and sines (YaRN).

    ``interleaved``: pairs are values 2i and 2i + 1 ("norm"), else i and i + n_rot / 2 ("neox").
    """

    frequencies: npt.NDArray[np.float64]
    interleaved: bool
    magnitude: float = 1.0

    def fill_cos_sin(self, start: int, count: int, out: npt.NDArray[np.float32]) -> None:
        """Fill ``out`` (count, 2, n_rot) for positions from ``start``: each dimension's factor, and its partner's."""
        angles = np.arange(start, start + count, dtype=np.float64)[:, None] * self.frequencies
        cosines, sines = np.cos(angles) * self.magnitude, np.sin(angles) * self.magnitude
        half = len(self.frequencies)
        first, second = (np.s_[0::2], np.s_[1::2]) if self.interleaved else (np.s_[:half], np.s_[half:])
        out[:count, 0, first] = out[:count, 0, second] = cosines
        out[:count, 1, first] = -sines
        out[:count, 1, second] = sines


def from_hparams(h: Mapping[str, Any], kind: str, factors: npt.NDArray[np.float32] | None) -> Rope:
    """The model's rotation, of ``kind`` "norm" or "neox". ``factors`` (rope_freqs.weight) divide the frequencies."""
    interleaved = kind == "norm"
    n_rot, base = int(h["n_rot"]), float(h["rope_base"])
    plain = base ** (-np.arange(0, n_rot, 2, dtype=np.float64) / n_rot)
    if factors is not None:
        plain = plain / factors.astype(np.float64)
    scaling = h.get("rope_scaling") or "none"
    factor = float(h.get("rope_factor") or 1.0)
    if scaling == "none":
        return Rope(plain, interleaved)
    if scaling == "linear":
        return Rope(plain / factor, interleaved)
    if scaling == "yarn":
        mix = _extrapolated_share(h, n_rot, base)
        return Rope(plain / factor * (1.0 - mix) + plain * mix, interleaved, 1.0 + 0.1 * math.log(factor))
    raise UnsupportedError(
        "rope scaling", field="rope.scaling.type", expected="none, linear or yarn", got=repr(scaling)
    )


def _extrapolated_share(h: Mapping[str, Any], n_rot: int, base: float) -> npt.NDArray[np.float64]:
    """YaRN: 1 for the fast dimensions, kept as they are; 0 for the slow ones, interpolated; a ramp between them."""
    context = float(h.get("rope_context") or h["n_ctx"])

    def dimension(turns: float) -> float:
        """The pair that turns ``turns`` times within the original context."""
        return n_rot * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(base))

    low = max(0, math.floor(dimension(float(h.get("yarn_beta_fast") or BETA_FAST))))
    high = min(n_rot - 1, math.ceil(dimension(float(h.get("yarn_beta_slow") or BETA_SLOW))))
    ramp = (np.arange(n_rot // 2) - low) / max(0.001, high - low)
    return 1.0 - np.clip(ramp, 0.0, 1.0)
