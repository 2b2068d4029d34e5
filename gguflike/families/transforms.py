"""What happens to a tensor's rows between the checkpoint and GGUF, and back.

A transform works on whole groups of ``group`` consecutive rows, so that a large tensor can be streamed in slabs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gguflike.families.parts import Tensor
from gguflike.frozen import frozen, replace

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]


class Window(NamedTuple):
    """The part of a matrix of the checkpoint that makes some rows of the one in GGUF: rows or, of an ``axis`` -1,
    columns ``start`` to ``stop``, and what happens to them."""

    axis: int
    start: int
    stop: int
    via: Transform


@frozen
class Transform:
    """The identity, and the base of the others. `bound` fills in sizes from the tensor that is made."""

    group: int = 1

    def window(self, low: int, high: int, rows: int) -> Window | None:  # noqa: ARG002 - part of the interface
        """What makes rows ``low`` to ``high`` of the ``rows`` of a matrix, or of each of a stack, that is too large to
        be made at once. None for what works on a matrix as a whole, or on groups of rows."""
        return Window(-2, low, high, self) if type(self) in _BY_VALUE else None

    @property
    def moves_rows(self) -> bool:
        """Whether it changes no row of a matrix, only which rows there are and in what order."""
        return type(self) is Transform

    def bound(self, tensor: Tensor) -> Transform:  # noqa: ARG002 - part of the interface
        return self

    def hf_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape in the checkpoint of a tensor that has ``shape`` in GGUF."""
        return shape

    def apply(self, rows: Array) -> Array:
        """Checkpoint to GGUF, on a multiple of ``group`` rows."""
        return rows

    def undo(self, rows: Array) -> Array:
        """GGUF to checkpoint."""
        return rows

    def factored(self, a: Array, b: Array) -> tuple[Array, Array] | None:
        """The factors of ``apply(b @ a)``, of (rank, columns) and (rows, rank), of a whole matrix; None where that is
        no such product."""
        return (a, b) if type(self) is Transform else None


@frozen
class PlusOne(Transform):
    """Gemma and others store a norm's weight less 1."""

    def apply(self, rows: Array) -> Array:
        one: Array = rows + 1
        return one

    def undo(self, rows: Array) -> Array:
        less: Array = rows - 1
        return less


@frozen
class Scaled(Transform):
    """Multiplied by numbers that config.json has and GGUF does not, one after the other."""

    factors: tuple[float, ...] = ()

    def apply(self, rows: Array) -> Array:
        for factor in self.factors:
            rows = rows * rows.dtype.type(factor)
        return rows

    def undo(self, rows: Array) -> Array:
        for factor in self.factors:
            rows = rows / rows.dtype.type(factor)
        return rows

    def factored(self, a: Array, b: Array) -> tuple[Array, Array]:
        return a, self.apply(b)


@frozen
class NegExp(Transform):
    """State-space models store the logarithm of a decay rate: GGUF has ``-exp(A_log)``."""

    def apply(self, rows: Array) -> Array:
        rates: Array = -np.exp(rows)
        return rates

    def undo(self, rows: Array) -> Array:
        logarithms: Array = np.log(-rows)
        return logarithms


@frozen
class Squeezed(Transform):
    """A depthwise convolution's weight (channels, 1, kernel) without the axis between."""

    def hf_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0], 1, *shape[1:])

    def apply(self, rows: Array) -> Array:
        return rows.reshape(len(rows), *rows.shape[2:])

    def undo(self, rows: Array) -> Array:
        return rows[:, None]


@frozen
class Unsqueezed(Transform):
    """The opposite: the axis between is only in GGUF."""

    def hf_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0], *shape[2:])

    def apply(self, rows: Array) -> Array:
        return rows[:, None]

    def undo(self, rows: Array) -> Array:
        return rows.reshape(len(rows), *rows.shape[2:])


@frozen
class Flattened(Transform):
    """The checkpoint has as a vector what GGUF has as rows of ``width`` values."""

    width: int = 1

    def bound(self, tensor: Tensor) -> Transform:
        return Flattened(width=tensor.shape[1])

    def hf_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0] * shape[1],)

    def apply(self, rows: Array) -> Array:
        return rows.reshape(-1, self.width)

    def undo(self, rows: Array) -> Array:
        return rows.reshape(-1)


@frozen
class Columns(Transform):
    """Groups of columns in another order: group i of GGUF is group ``order[i]`` of the checkpoint."""

    order: tuple[int, ...] = ()

    def apply(self, rows: Array) -> Array:
        return self._taken(rows, np.asarray(self.order))

    def undo(self, rows: Array) -> Array:
        return self._taken(rows, np.argsort(self.order))

    def factored(self, a: Array, b: Array) -> tuple[Array, Array]:
        return self.apply(a), b

    def _taken(self, rows: Array, order: Array) -> Array:
        taken: Array = rows.reshape(len(rows), len(order), -1)[:, order].reshape(rows.shape)
        return taken


@frozen
class Chain(Transform):
    """One transform after the other; none of them needs rows in groups."""

    steps: tuple[Transform, ...] = ()

    @property
    def moves_rows(self) -> bool:
        return all(step.moves_rows for step in self.steps)

    def bound(self, tensor: Tensor) -> Transform:
        return Chain(steps=tuple(step.bound(tensor) for step in self.steps))

    def hf_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        for step in reversed(self.steps):
            shape = step.hf_shape(shape)
        return shape

    def apply(self, rows: Array) -> Array:
        for step in self.steps:
            rows = step.apply(rows)
        return rows

    def undo(self, rows: Array) -> Array:
        for step in reversed(self.steps):
            rows = step.undo(rows)
        return rows

    def factored(self, a: Array, b: Array) -> tuple[Array, Array] | None:
        made: tuple[Array, Array] | None = (a, b)
        for step in self.steps:
            made = step.factored(*made) if made is not None else None
        return made


@frozen
class Transposed(Transform):
    """The last two axes change places: a whole matrix, or each of a stack."""

    def bound(self, tensor: Tensor) -> Transform:
        return Transposed(group=1 if len(tensor.shape) > 2 else tensor.shape[0])

    def window(self, low: int, high: int, rows: int) -> Window | None:  # noqa: ARG002
        return Window(-1, low, high, self)

    def hf_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-2], shape[-1], shape[-2])

    def apply(self, rows: Array) -> Array:
        swapped: Array = rows.swapaxes(-1, -2)
        return swapped

    def undo(self, rows: Array) -> Array:
        swapped: Array = rows.swapaxes(-1, -2)
        return swapped

    def factored(self, a: Array, b: Array) -> tuple[Array, Array]:
        return b.T, a.T


@frozen
class Row(Transform):
    """The checkpoint has a vector as the one row of a matrix."""

    def bound(self, tensor: Tensor) -> Transform:
        return Row(group=tensor.shape[0])

    def hf_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (1, *shape)

    def apply(self, rows: Array) -> Array:
        return rows.reshape(-1)

    def undo(self, rows: Array) -> Array:
        return rows[None]


@frozen
class Share(Transform):
    """One of ``of`` tensors of GGUF whose rows share those of each matrix of a stack: the first of them has the first
    rows, or, where they ``alternate``, every ``of``-th. ``transposed``: the matrices are so in the checkpoint.

    An export puts the shares together again: see `woven`.
    """

    index: int = 0
    of: int = 2
    alternate: bool = False
    transposed: bool = False

    @property
    def moves_rows(self) -> bool:
        return not self.transposed

    def bound(self, tensor: Tensor) -> Transform:
        is_matrix = len(tensor.shape) > 2  # not a bias
        return replace(self, transposed=self.transposed and is_matrix)

    def window(self, low: int, high: int, rows: int) -> Window | None:
        axis = -1 if self.transposed else -2
        if self.alternate:
            return Window(axis, low * self.of, high * self.of, self)
        alone = replace(self, index=0, of=1)
        return Window(axis, self.index * rows + low, self.index * rows + high, alone)

    def hf_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        first, rows, *rest = shape
        whole = (first, rows * self.of, *rest)
        return (*whole[:-2], whole[-1], whole[-2]) if self.transposed else whole

    def apply(self, rows: Array) -> Array:
        matrices = rows.swapaxes(-1, -2) if self.transposed else rows
        size = matrices.shape[1] // self.of
        if self.alternate:
            return matrices[:, self.index :: self.of]
        return matrices[:, self.index * size : (self.index + 1) * size]

    def undo(self, rows: Array) -> Array:  # noqa: ARG002 - part of the interface
        raise ValueError("a share is put together with the others (woven)")

    def woven(self, shares: Sequence[Array]) -> Array:
        """The rows of the checkpoint that these shares, in order, are of."""
        axis = 2 if self.alternate else 1
        whole = np.stack(shares, axis=axis)
        made: Array = whole.reshape(len(whole), -1, *whole.shape[3:])
        return made.swapaxes(-1, -2) if self.transposed else made


@frozen
class RopePermute(Transform):
    """Rows of each attention head from the half-split order of Transformers to adjacent pairs.

    Transformers rotates dimension j of the ``turned`` first of a head (0: of all) together with j + turned / 2;
    llama.cpp's rope type "norm" rotates 2j with 2j + 1. Row 2j of a head in GGUF is therefore row j in the checkpoint,
    row 2j + 1 is row j + turned / 2.
    """

    turned: int = 0

    @property
    def moves_rows(self) -> bool:
        return True

    def bound(self, tensor: Tensor) -> Transform:
        return replace(self, group=tensor.shape[0] // tensor.heads)

    def apply(self, rows: Array) -> Array:
        return self._swapped(rows, (2, -1))  # (half, pair)

    def undo(self, rows: Array) -> Array:
        return self._swapped(rows, (-1, 2))  # (pair, half)

    def factored(self, a: Array, b: Array) -> tuple[Array, Array]:
        return a, self.apply(b)

    def _swapped(self, rows: Array, order: tuple[int, int]) -> Array:
        """The rows that turn of each head with both axes of ``order`` exchanged."""
        turned, heads = self.turned or self.group, len(rows) // self.group
        if turned == self.group:  # one copy, not two: rows may be all that memory is meant for
            alone: Array = rows.reshape(heads, *order, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
            return alone
        made = rows.reshape(heads, self.group, *rows.shape[1:]).copy()
        first = made[:, :turned]
        first[:] = first.reshape(heads, *order, *rows.shape[1:]).swapaxes(1, 2).reshape(first.shape)
        whole: Array = made.reshape(rows.shape)
        return whole


@frozen
class RopeSplit(RopePermute):
    """The opposite, where the checkpoint turns adjacent pairs and GGUF has them half apart; ``1 / part`` of a head
    turns."""

    part: int = 1

    def bound(self, tensor: Tensor) -> Transform:
        size = tensor.shape[0] // tensor.heads
        return replace(self, group=size, turned=size // self.part)

    def apply(self, rows: Array) -> Array:
        return self._swapped(rows, (-1, 2))  # (pair, half)

    def undo(self, rows: Array) -> Array:
        return self._swapped(rows, (2, -1))  # (half, pair)


IDENTITY = Transform()
_BY_VALUE = {Transform, PlusOne, Scaled, NegExp}  # of which each value is made alone
