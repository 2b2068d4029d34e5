"""How far values lie from what they should be."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def rmse(x: npt.ArrayLike, y: npt.ArrayLike, importance: Any = None) -> float:
    """Root of the mean squared difference; ``importance`` weighs the columns."""
    squares = (np.asarray(x, np.float64) - np.asarray(y, np.float64)) ** 2
    return float(np.sqrt(np.average(squares.reshape(-1, squares.shape[-1]).mean(axis=0), weights=importance)))


def relative_error(got: npt.ArrayLike, want: npt.ArrayLike) -> float:
    """Euclidean norm of the difference over that of ``want``."""
    difference = np.asarray(got, np.float64) - np.asarray(want, np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(np.asarray(want, np.float64)))


def largest_error(got: npt.ArrayLike, want: npt.ArrayLike) -> float:
    """Largest difference over the largest magnitude in ``want``."""
    difference = np.asarray(got, np.float64) - np.asarray(want, np.float64)
    return float(np.abs(difference).max() / np.abs(np.asarray(want, np.float64)).max())
