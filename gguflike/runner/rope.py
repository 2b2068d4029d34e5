"""The cosines and sines that attention's ops read, from the rotations of a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gguflike.families.parts import Rope
from gguflike.families.rope import frequencies

if TYPE_CHECKING:
    import numpy.typing as npt


class Rotation(NamedTuple):
    """``frequencies`` float64 (n_rot / 2,) in radians per position; ``magnitude`` scales cosines and sines (YaRN).

    ``interleaved``: pairs are values 2j and 2j + 1, else j and j + n_rot / 2.
    """

    frequencies: npt.NDArray[np.float64]
    interleaved: bool
    magnitude: float = 1.0

    def fill_cos_sin(self, start: int, count: int, out: npt.NDArray[np.float32]) -> None:
        """Fill ``out`` (count, 2, n_rot) for positions from ``start``: the factor of each value, and of its partner.

        Angles are computed in float64 (they are few) and rounded once.
        """
        angles = np.arange(start, start + count, dtype=np.float64)[:, None] * self.frequencies
        cosines, sines = np.cos(angles) * self.magnitude, np.sin(angles) * self.magnitude
        half = len(self.frequencies)
        first, second = (np.s_[0::2], np.s_[1::2]) if self.interleaved else (np.s_[:half], np.s_[half:])
        out[:count, 0, first] = out[:count, 0, second] = cosines
        out[:count, 1, first] = -sines
        out[:count, 1, second] = sines


def rotation(rope: Rope, factors: npt.NDArray[Any] | None) -> Rotation:
    """How a model turns queries and keys. ``factors`` are the values of rope_freqs.weight."""
    omega, magnitude = frequencies(rope, factors)
    return Rotation(omega, rope.pairs == "norm", magnitude)
