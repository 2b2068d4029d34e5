"""Second moments of what matrices multiply, and what stands in for those of experts that few tokens reach."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from gguflike.calibrate import files
from gguflike.errors import ArgumentError
from gguflike.frozen import frozen
from gguflike.kernels.engine.memory import give_back

Floats = npt.NDArray[np.float32]
FEW = 100
"""Tokens below which an expert has no statistics of its own: it is taken to see what its layer's experts see."""


@frozen
class Statistics:
    """Of the inputs of one matrix (n, k), or of one expert's.

    ``gram``: H = sum(x_q x_q^T) / tokens, float32 (k, k), of the inputs x_q that reach the matrix when all before it is
    quantized. ``cross``: C = sum(x_f x_q^T) / tokens, where x_f is what reaches it in the float model; None where only
    one of the two was run. A column that is always 0 has zeros in both. ``output``: the second factor of a loss-aware
    Hessian, by rows of the matrix, float32 (n, n).
    """

    gram: Floats
    cross: Floats | None
    tokens: int
    output: Floats | None = None

    @property
    def importance(self) -> Floats | None:
        """How much columns matter to a plain encoder; None where nothing was seen of the inputs."""
        diagonal: Floats = np.maximum(self.gram.diagonal(), 0)
        return diagonal if self.tokens > 0 and diagonal.any() else None


def merge(parts: Sequence[Statistics]) -> Statistics:
    """The statistics of all inputs of several, by their numbers of tokens. ``cross`` and ``output`` where all have it.

    ArgumentError unless they are of matrices with as many columns.
    """
    shapes = {part.gram.shape for part in parts}
    if len(shapes) != 1:
        raise ArgumentError("statistics of different matrices", field="parts", expected="one shape", got=sorted(shapes))
    tokens = sum(part.tokens for part in parts)

    def mean(of: Callable[[Statistics], Floats | None]) -> Floats | None:
        found = [of(part) for part in parts]
        if any(each is None for each in found):
            return None
        total = sum(part.tokens * each for part, each in zip(parts, found, strict=True) if each is not None)
        return np.asarray(total / np.float32(max(tokens, 1)), np.float32)

    gram = mean(lambda part: part.gram)
    assert gram is not None
    return Statistics(gram, mean(lambda part: part.cross), tokens, mean(lambda part: part.output))


def shrunk(own: Statistics, layer: Statistics, kappa: float | None = None) -> Statistics:
    """An expert's statistics, drawn to those of all experts of its layer the more, the fewer tokens reached it.

    ``(N H + kappa H_layer) / (N + kappa)`` with N its tokens and kappa as many as there are columns, unless given;
    below `FEW` tokens it is H_layer alone. There is no ``cross``: which tokens reach an expert differs between the
    float and the quantized model.
    """
    if own.tokens < FEW:
        return Statistics(layer.gram, None, own.tokens, own.output)
    kappa = float(len(own.gram)) if kappa is None else kappa
    weight = np.float32(own.tokens / (own.tokens + kappa))
    return Statistics(weight * own.gram + (1 - weight) * layer.gram, None, own.tokens, own.output)


class Stack(Sequence[Statistics]):
    """Statistics of the matrices of a stack, each made when it is asked for, so that one is in memory at a time."""

    @overload
    def __getitem__(self, index: int) -> Statistics: ...
    @overload
    def __getitem__(self, index: slice) -> list[Statistics]: ...
    def __getitem__(self, index: int | slice) -> Statistics | list[Statistics]:
        if isinstance(index, slice):
            return [self[each] for each in range(len(self))[index]]
        return self.member(range(len(self))[index])

    @abstractmethod
    def member(self, index: int) -> Statistics:
        """Those of the matrix with this number."""


class StackStatistics(Stack):
    """Statistics of the matrices of a stack, `shrunk`, whose Grams are in a file: one is in memory at a time.

    They are appended in order; what all inputs come to is known, and any can be asked for, when all are there.
    """

    def __init__(self, path: Path, count: int, columns: int) -> None:
        self._grams = files.zeros(path, (count, columns, columns))
        self._sum = np.zeros((columns, columns), np.float32)
        self._tokens: list[int] = []

    def append(self, one: Statistics) -> None:
        self._grams[len(self._tokens)] = one.gram
        give_back(self._grams)  # the memory, which the system writes
        self._sum += np.float32(one.tokens) * one.gram
        self._tokens.append(one.tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    def member(self, index: int) -> Statistics:
        return shrunk(self.own(index), self.layer)

    def own(self, index: int) -> Statistics:
        """Those of a matrix alone."""
        return Statistics(np.array(self._grams[index]), None, self._tokens[index])

    @property
    def layer(self) -> Statistics:
        """Those of all inputs of the stack."""
        tokens = sum(self._tokens)
        return Statistics(self._sum / np.float32(max(tokens, 1)), None, tokens)
