"""What weights multiply, for who wants to watch.

Every product of an input and a stored matrix is told to the weights that it reads from; only `Watched` ones
listen. They may also compute it, in a way of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Weights = Mapping[str, Array]
Saw = Callable[[str, Array, "npt.NDArray[np.int64] | None"], None]
Multiply = Callable[[str, Array], "Array | None"]


class Watched(Mapping[str, Array]):
    """The ``weights`` of a layer, which call ``saw(name, x, which)`` before a matrix is multiplied.

    ``name`` is that of the tensor in the mapping ("attn_q.weight"), ``x`` (rows, columns) what it multiplies. Of a
    stack of matrices (experts, or the heads of latent attention), row i of ``x`` goes to matrix ``which[i]``; for a
    matrix that stands alone ``which`` is None. Of matrices that multiply the same input the same objects are told.
    ``saw`` may raise, which ends the evaluation. ``multiply(name, x)`` gives x @ matrix.T of a matrix that stands
    alone, or None where it is left to numpy.
    """

    def __init__(self, weights: Weights, saw: Saw | None = None, multiply: Multiply | None = None) -> None:
        self.weights, self.saw, self.multiply = weights, saw, multiply

    def __getitem__(self, name: str) -> Array:
        return self.weights[name]

    def __contains__(self, name: object) -> bool:
        return name in self.weights

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


def tell(weights: Weights, name: str, x: Array, which: Array | None = None) -> None:
    """Tell weights that are watched what the matrix ``name`` is about to multiply."""
    if isinstance(weights, Watched) and weights.saw is not None:
        weights.saw(name, x, which)


def product(weights: Weights, name: str, x: Array) -> Array:
    """``x @ weights[name].T``, which is told, and may be computed, by weights that are watched."""
    tell(weights, name, x)
    if isinstance(weights, Watched) and weights.multiply is not None:
        found = weights.multiply(name, x)
        if found is not None:
            return found
    result: Array = x @ weights[name].T
    return result
