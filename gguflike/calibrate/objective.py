"""What rounding minimizes: tr((W* - Q) H (W* - Q)^T), its Hessian made ready and its target W*."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.kernels.rounding.factor import factor, solve
from gguflike.kernels.rounding.products import product

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
_AT_ONCE = 1024  # columns of the difference of two matrices


class Objective(NamedTuple):
    """The Hessian of a matrix with k columns, as the rounding of its rows needs it.

    ``hessian`` float32 (k, k): the Gram matrix in its own memory, as far as that can be written; with ``diagonal`` (k,)
    in place of its own, as it has it within `damped`, it is the damped one. ``order`` int64 (k,): the columns in the
    order in which they are rounded; those of a block stand together. ``b`` (k, k), ``d`` (k,): in this order, the
    damped Hessian is B diag(d) B^T, B unit upper triangular.
    """

    hessian: Floats
    diagonal: Floats
    order: Indices
    b: Floats
    d: Floats

    @contextmanager
    def damped(self) -> Iterator[None]:
        """Within, ``hessian`` is damped; then it is as it was. A copy would be as large as all that there is."""
        at, plain = np.diag_indices_from(self.hessian), self.hessian.diagonal().copy()
        self.hessian[at] = self.diagonal
        try:
            yield
        finally:
            self.hessian[at] = plain

    def without_factor(self) -> Objective:
        """The same without ``b`` and ``d``."""
        return self._replace(b=np.empty((0, 0), np.float32), d=np.empty(0, np.float32))


class _Factored(NamedTuple):
    """What an `Objective` has beside the Gram matrix."""

    diagonal: Floats
    order: Indices
    b: Floats
    d: Floats


class Prepared:
    """What is made of the last Gram matrix that was asked for: matrices that multiply the same inputs share it. It is
    let go of with it."""

    def __init__(self) -> None:
        self._of: weakref.ref[Floats] | None = None
        self._made: dict[Any, _Factored] = {}

    def objective(
        self, gram: Floats, damping: float, sizes: tuple[int, ...], ordered: bool, threads: int | None
    ) -> Objective:
        """As `objective`. What it gives must not be changed, and neither may ``gram``, but by `Objective.damped`."""
        if self._of is None or self._of() is not gram:
            self._made.clear()
            self._of = weakref.ref(gram, lambda _: self._made.clear())
        key = damping, sizes, ordered
        if key not in self._made:
            self._made[key] = _factored(gram, damping, sizes, ordered, threads)
        return Objective(np.require(gram, np.float32, ("C", "W")), *self._made[key])

    def let_go(self) -> None:
        """Let go of what was made: the next matrix has it made again."""
        self._made.clear()


def objective(
    gram: Floats, damping: float, sizes: tuple[int, ...], ordered: bool, threads: int | None
) -> Objective:  # fmt: skip
    """Make a Gram matrix ready: ``damping`` of its mean diagonal is added to its diagonal.

    With ``ordered``, columns are visited by decreasing diagonal value; those of a group stay together (GAR, arXiv
    2505.14638). The errors of columns that matter most can then be made up for by all the others. ``sizes``: of the
    groups, which are nested, the largest first.
    """
    return Prepared().objective(gram, damping, sizes, ordered, threads)


def _factored(gram: Floats, damping: float, sizes: tuple[int, ...], ordered: bool, threads: int | None) -> _Factored:
    diagonal = gram.diagonal().astype(np.float32)
    diagonal += np.float32(damping * diagonal.astype(np.float64).mean())
    order = visiting_order(diagonal, sizes) if ordered else np.arange(len(diagonal))
    damped = gram[np.ix_(order, order)].astype(np.float32, copy=False)
    damped[np.diag_indices_from(damped)] = diagonal[order]
    return _Factored(diagonal, order, *factor(damped, threads))


def visiting_order(diagonal: Floats, sizes: tuple[int, ...]) -> Indices:
    """Columns by decreasing diagonal value: groups of each size by their largest, within the group around them."""
    columns = np.arange(len(diagonal))
    keys = [columns]
    for size in reversed(sizes):
        keys += [columns // size, np.repeat(-diagonal.reshape(-1, size).max(axis=1), size)]
    return np.lexsort(keys)


def corrected(
    weights: Floats, goal: Objective, gram: Floats, cross: Floats, strength: float, cap: float, threads: int | None
) -> Floats:
    """The target W* = W + strength W (C - H) (H + damping)^-1 of rows ``weights`` (n, k).

    It is what the quantized inputs have to be multiplied with to give the float model's outputs (Qronos, arXiv
    2505.11695; QEP), in the sense of least squares. A row moves by ``cap`` of its norm at most.
    """
    change = np.empty_like(weights)
    for start in range(0, len(goal.order), _AT_ONCE):
        columns = goal.order[start : start + _AT_ONCE]
        change[:, start : start + _AT_ONCE] = product(weights, cross[:, columns] - gram[:, columns], threads)
    solve(goal.b, goal.d, change, threads)
    moved = np.empty_like(change)
    moved[:, goal.order] = change
    moved *= np.float32(strength)
    norms, sizes = (np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1)) for rows in (moved, weights))
    most = cap * sizes
    moved *= np.divide(most, norms, out=np.ones_like(norms), where=norms > most)[:, None].astype(np.float32)
    moved += weights
    return moved
