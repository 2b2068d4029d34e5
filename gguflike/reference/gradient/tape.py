"""The tape of a computation, the arrays that are recorded on it, and the walk back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.mixins import NDArrayOperatorsMixin

Array = npt.NDArray[Any]


class Placed(NamedTuple):
    """A contribution to the gradient of ``operand[index]``; the rest of the operand gets none."""

    index: Any
    gradient: Array


#: From the gradient of a result to that of one operand.
Pull = Callable[[Array], "Array | Placed"]


class Matrix(NamedTuple):
    """What is followed of a watched matrix: its name, which member of a stack it is, and whether it is transposed."""

    name: str
    member: int | None = None
    transposed: bool = False


class Product(NamedTuple):
    """A product ``inputs @ matrix.T`` with a watched matrix, seen on the way back.

    ``inputs`` is (tokens, k), ``gradient`` (tokens, n) that of the product. ``member`` says which matrix of a stack it
    was and ``rows`` which of the caller's tokens came to it (None: a plain matrix, all tokens).
    """

    name: str
    inputs: Array
    gradient: Array
    member: int | None
    rows: Array | None


class Gradients:
    """Gradients by the slot of what they are of. A sum is accumulated in a buffer of our own."""

    def __init__(self) -> None:
        self._by_slot: dict[int, Array] = {}
        self._owned: set[int] = set()

    def add(self, slot: int, shape: tuple[int, ...], dtype: Any, contribution: Array | Placed) -> None:
        """Add a contribution, which is summed over axes along which what it is of was broadcast."""
        if isinstance(contribution, Placed):
            self._place(slot, shape, dtype, contribution)
            return
        contribution = unbroadcast(contribution, shape).astype(dtype, copy=False)
        found = self._by_slot.get(slot)
        if found is None:
            self._by_slot[slot] = contribution
        elif slot in self._owned:
            found += contribution
        else:
            self._by_slot[slot] = np.asarray(found + contribution)  # also of what has no axes
            self._owned.add(slot)

    def _place(self, slot: int, shape: tuple[int, ...], dtype: Any, placed: Placed) -> None:
        if slot not in self._owned:
            found = self._by_slot.get(slot)
            self._by_slot[slot] = np.zeros(shape, dtype) if found is None else found.copy()
            self._owned.add(slot)
        target = self._by_slot[slot]
        if repeats(placed.index) and not _distinct(placed.index):
            np.add.at(target, placed.index, placed.gradient)
        else:
            target[placed.index] += placed.gradient

    def take(self, slot: int) -> Array | None:
        """The gradient of a slot, which is forgotten."""
        self._owned.discard(slot)
        return self._by_slot.pop(slot, None)

    def reached(self, traced: Traced) -> bool:
        """Whether a leaf has a gradient."""
        return traced.slot in self._by_slot

    def of(self, traced: Traced) -> Array:
        """The gradient of a leaf; zeros for one that the result does not depend on."""
        found = self._by_slot.get(traced.slot)
        return np.zeros(traced.shape, traced.dtype) if found is None else found


def repeats(index: Any) -> bool:
    """Whether an index may name an element twice: one with arrays of integers."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, np.ndarray | list) and np.asarray(part).dtype != bool for part in parts)


def unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array:
    """The sum of a gradient over the axes along which an operand of ``shape`` was broadcast."""
    if gradient.shape == shape:
        return gradient
    gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))
    stretched = tuple(axis for axis, size in enumerate(shape) if size == 1 and gradient.shape[axis] != 1)
    return np.broadcast_to(gradient.sum(axis=stretched, keepdims=True) if stretched else gradient, shape)


class _Operand(NamedTuple):
    slot: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pull: Pull


class _Node(NamedTuple):
    slot: int
    operands: tuple[_Operand, ...]


class Tape:
    """A record of operations on `Traced` arrays.

    ``watch``: called on the way back with each `Product` with a matrix made by `matrix`.
    """

    def __init__(self, watch: Callable[[Product], None] | None = None) -> None:
        self.watch = watch
        self._nodes: list[_Node] = []
        self._slots = 0

    def leaf(self, value: Array) -> Traced:
        """An array whose gradient is wanted."""
        return Traced(value, self, self._slot())

    def matrix(self, name: str, value: Array) -> Traced:
        """A matrix (n, k), or a stack of them, whose products ``watch`` is told of, and its gradient is not."""
        return Traced(value, self, self._slot(), matrix=Matrix(name))

    def record(self, value: Array, operands: Iterable[tuple[Traced, Pull]]) -> Traced:
        """The result of an operation, with how a gradient goes back to each of its operands."""
        slot, found = self._slot(), []
        for each, pull in operands:
            if each.matrix is not None and each.matrix != Matrix(each.matrix.name):
                raise TypeError(f"{each.matrix.name} is watched: it can only be multiplied, as x @ matrix.T")
            each._shared = True  # what goes back may need its values
            found.append(_Operand(each.slot, each.shape, each.dtype, pull))
        self._nodes.append(_Node(slot, tuple(found)))
        return Traced(value, self, slot)

    def backward(self, results: Iterable[tuple[Traced, Array]]) -> Gradients:
        """The gradients of the leaves, given those of results. The tape is empty afterwards."""
        gradients = Gradients()
        for result, gradient in results:
            gradients.add(result.slot, result.shape, result.dtype, gradient)
        while self._nodes:
            node = self._nodes.pop()
            gradient_here = gradients.take(node.slot)
            if gradient_here is not None:
                for slot, shape, dtype, pull in node.operands:
                    gradients.add(slot, shape, dtype, pull(gradient_here))
        return gradients

    def _slot(self) -> int:
        self._slots += 1
        return self._slots


class Traced(NDArrayOperatorsMixin):
    """An array on a tape. numpy's functions take it where `rules` knows their derivative.

    ``value`` is the array, ``matrix`` says what is followed of a watched matrix, ``rows`` which rows of another array
    these are, where it was selected by its first axis. Assigning to elements changes this array and no other.
    """

    __slots__ = ("_shared", "matrix", "rows", "slot", "tape", "value")

    def __init__(
        self, value: Array, tape: Tape, slot: int, matrix: Matrix | None = None, rows: Array | None = None
    ) -> None:
        self.value, self.tape, self.slot, self.matrix, self.rows = value, tape, slot, matrix, rows
        self._shared = True  # whether others may read the buffer

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **settings: Any) -> Any:
        from gguflike.reference.gradient.rules import apply_ufunc

        return apply_ufunc(self.tape, ufunc, method, inputs, settings)

    def __array_function__(self, function: Any, types: Any, args: Any, settings: Any) -> Any:
        from gguflike.reference.gradient.rules import apply_function

        return apply_function(self.tape, function, args, settings)

    def __array__(self, *_: Any, **__: Any) -> Array:
        raise TypeError("a traced array does not become a plain one: its gradient would be lost; use constant(x)")

    def __repr__(self) -> str:
        return f"Traced({self.value!r})"

    def __len__(self) -> int:
        return len(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def ndim(self) -> int:
        return self.value.ndim

    @property
    def size(self) -> int:
        return self.value.size

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.value.dtype

    @property
    def T(self) -> Traced:
        if self.matrix is not None and self.ndim == 2:
            turned = self.matrix._replace(transposed=not self.matrix.transposed)
            return Traced(self.value.T, self.tape, self.slot, turned)
        return self.transpose()

    def transpose(self, *axes: Any) -> Traced:
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        order = tuple(order) or tuple(reversed(range(self.ndim)))
        back = tuple(int(axis) for axis in np.argsort(order))
        return self.tape.record(self.value.transpose(order), [(self, lambda g: g.transpose(back))])

    def reshape(self, *shape: Any) -> Traced:
        before = self.shape
        return self.tape.record(self.value.reshape(*shape), [(self, lambda g: g.reshape(before))])

    def astype(self, dtype: Any) -> Traced:
        return self.tape.record(self.value.astype(dtype), [(self, lambda g: g)])

    def copy(self) -> Traced:
        made = self.tape.record(self.value.copy(), [(self, lambda g: g)])
        made._shared = False
        return made

    def sum(self, **settings: Any) -> Any:
        return np.sum(self, **settings)

    def mean(self, **settings: Any) -> Any:
        return np.mean(self, **settings)

    def max(self, **settings: Any) -> Any:
        return np.max(self, **settings)

    def argmax(self, *args: Any, **settings: Any) -> Any:
        return self.value.argmax(*args, **settings)

    def __getitem__(self, index: Any) -> Traced:
        value = self.value[index]
        if self.matrix is not None and self.ndim == 3 and isinstance(index, int | np.integer):
            return Traced(value, self.tape, self.slot, self.matrix._replace(member=int(index)))
        self._shared = True  # the result may be a view
        made = self.tape.record(value, [(self, lambda g: Placed(index, g))])
        if isinstance(index, np.ndarray) and index.ndim == 1:
            made.rows = np.flatnonzero(index) if index.dtype == bool else index
        return made

    def __setitem__(self, index: Any, values: Any) -> None:
        """Elements set: of them the gradient goes to ``values``, of the others to what was there."""
        assert not repeats(index) or _distinct(index), "an element is set twice"
        before = Traced(self.value, self.tape, self.slot)
        if self._shared:
            self.value = self.value.copy()
            self._shared = False
        self.value[index] = constant(values)

        def of_others(gradient: Array) -> Array:
            rest: Array = gradient.copy()
            rest[index] = 0
            return rest

        operands: list[tuple[Traced, Pull]] = [(before, of_others)]
        if isinstance(values, Traced):
            operands.append((values, lambda g: g[index]))
        self.slot = self.tape.record(self.value, operands).slot


def _distinct(index: Any) -> bool:
    """Whether the arrays of integers in an index name every place once."""
    arrays = [part for part in (index if isinstance(index, tuple) else (index,)) if isinstance(part, np.ndarray | list)]
    return len(arrays) == 1 and len(np.unique(arrays[0])) == np.size(arrays[0])


def constant(x: Any) -> Any:
    """The plain array of a traced one, which no gradient goes back through; anything else as it is."""
    return x.value if isinstance(x, Traced) else x
