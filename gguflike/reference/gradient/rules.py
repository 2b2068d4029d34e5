"""How gradients go back through the functions of numpy that reference/ calls.

A rule of an elementwise function gives, from the result and the operands, the pull of each operand; sums over broadcast
axes and dtypes are seen to where contributions are added up. Of two equal operands, maximum and minimum follow the
second, so that max(x, 0) has slope 0 at 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gguflike.reference.formulas import erf
from gguflike.reference.gradient.contraction import contract, parse
from gguflike.reference.gradient.tape import Array, Matrix, Placed, Product, Pull, Tape, Traced, constant


def _same(gradient: Array) -> Array:
    return gradient


def _negative(gradient: Array) -> Array:
    return -gradient


#: Result and operands -> the pull of each operand.
ELEMENTWISE: Mapping[Any, Callable[..., tuple[Pull, ...]]] = {
    np.add: lambda *_: (_same, _same),
    np.subtract: lambda *_: (_same, _negative),
    np.multiply: lambda _, a, b: (lambda g: g * b, lambda g: g * a),
    np.divide: lambda y, _, b: (lambda g: g / b, lambda g: -g * y / b),
    np.negative: lambda *_: (_negative,),
    np.exp: lambda y, _: (lambda g: g * y,),
    np.expm1: lambda y, _: (lambda g: g * (y + 1),),
    np.log: lambda _, x: (lambda g: g / x,),
    np.log1p: lambda _, x: (lambda g: g / (1 + x),),
    np.sqrt: lambda y, _: (lambda g: g / (2 * y),),
    np.square: lambda _, x: (lambda g: 2 * g * x,),
    np.tanh: lambda y, _: (lambda g: g * (1 - y * y),),
    np.abs: lambda _, x: (lambda g: g * np.sign(x),),
    np.maximum: lambda _, a, b: (lambda g: g * np.greater(a, b), lambda g: g * np.less_equal(a, b)),
    np.minimum: lambda _, a, b: (lambda g: g * np.less(a, b), lambda g: g * np.greater_equal(a, b)),
    np.power: lambda _, x, n: (lambda g: g * (n * x ** (n - 1)), _refused("a power's exponent")),
    erf: lambda _, x: (lambda g: g * (2 / math.sqrt(math.pi) * np.exp(-(x * x))),),
}
# What is constant wherever it has a derivative, or of no real numbers.
CONSTANT = {
    np.equal, np.not_equal, np.greater, np.greater_equal, np.less, np.less_equal, np.sign, np.floor, np.isfinite,
    np.isnan, np.argsort, np.argmax, np.result_type, np.zeros_like, np.ones_like, np.shape, np.ndim,
}  # fmt: skip


def _refused(what: str) -> Pull:
    def pull(gradient: Array) -> Array:  # noqa: ARG001
        raise TypeError(f"{what} has no gradient here")

    return pull


def apply_ufunc(tape: Tape, ufunc: np.ufunc, method: str, inputs: Sequence[Any], settings: dict[str, Any]) -> Any:
    """A ufunc of traced arrays. ``out``, which ``+=`` gives, only says what name the result takes."""
    out = settings.pop("out", None)
    if out is not None and not all(isinstance(each, Traced) for each in out):
        raise TypeError(
            f"np.{ufunc.__name__} would write a traced result into a plain array: write x = x + y, not x += y"
        )
    values = [constant(each) for each in inputs]
    if method == "__call__" and ufunc in CONSTANT:
        return ufunc(*values, **settings)
    if method != "__call__" or settings or (ufunc is not np.matmul and ufunc not in ELEMENTWISE):
        raise TypeError(f"np.{ufunc.__name__} ({method}) has no rule of differentiation in reference/gradient/rules.py")
    if ufunc is np.matmul:
        return _matmul(tape, inputs[0], inputs[1])
    value = ufunc(*values)
    if ufunc is erf:
        value = value.astype(np.float64)
    pulls = ELEMENTWISE[ufunc](value, *values)
    return tape.record(value, _of_traced(zip(inputs, pulls, strict=True)))


def apply_function(tape: Tape, function: Any, args: Sequence[Any], settings: dict[str, Any]) -> Any:
    """A function of numpy of traced arrays, which may stand in a list."""
    if function in CONSTANT:
        return function(*_plain(args), **settings)
    rule = FUNCTIONS.get(function)
    if rule is None:
        raise TypeError(f"np.{function.__name__} has no rule of differentiation in reference/gradient/rules.py")
    return rule(tape, *args, **settings)


def _plain(args: Any) -> Any:
    return [_plain(each) if isinstance(each, list | tuple) else constant(each) for each in args]


def _of_traced(pairs: Any) -> list[tuple[Traced, Pull]]:
    return [(each, pull) for each, pull in pairs if isinstance(each, Traced)]


# Products


def _matmul(tape: Tape, a: Any, b: Any) -> Traced:
    """``a @ b``: of vectors, matrices and stacks of these."""
    left, right = constant(a), constant(b)
    value = left @ right
    if isinstance(b, Traced) and b.matrix is not None:
        return tape.record(value, _watched(tape, a, b, b.matrix))

    def to_left(gradient: Array) -> Array:
        if right.ndim == 1:
            return np.asarray(gradient[..., None] * right)
        found: Array = (gradient[..., None, :] if left.ndim == 1 else gradient) @ right.swapaxes(-1, -2)
        return found[..., 0, :] if left.ndim == 1 else found

    def to_right(gradient: Array) -> Array:
        if right.ndim == 1:
            return np.asarray(left.reshape(-1, left.shape[-1]).T @ gradient.reshape(-1))
        if left.ndim == 1:
            return np.asarray(left[:, None] * gradient[..., None, :])
        if right.ndim == 2:
            found: Array = left.reshape(-1, left.shape[-1]).T @ gradient.reshape(-1, gradient.shape[-1])
            return found
        stacked: Array = left.swapaxes(-1, -2) @ gradient
        return stacked

    return tape.record(value, _of_traced(((a, to_left), (b, to_right))))


def _watched(tape: Tape, a: Any, b: Traced, matrix: Matrix) -> list[tuple[Traced, Pull]]:
    """Of a product with a watched matrix: where the gradient comes by, the tape's watch is told."""
    if not (matrix.transposed and tape.watch is not None):
        raise TypeError(f"{matrix.name} is watched, and multiplied otherwise than as x @ matrix.T")
    inputs, watch = constant(a), tape.watch
    product = Product(matrix.name, inputs, inputs, matrix.member, a.rows if isinstance(a, Traced) else None)

    def tell(gradient: Array) -> Array:
        watch(product._replace(gradient=gradient))
        found: Array = gradient @ b.value.T
        return found

    # Inputs that depend on nothing that is traced still have to be told of.
    return [(a if isinstance(a, Traced) else tape.leaf(inputs), tell)]


def _einsum(tape: Tape, subscripts: str, *operands: Any) -> Traced:
    letters, result = parse(subscripts)
    if len(operands) == 3:  # only of small arrays: a product of two first
        both = "".join(dict.fromkeys(letters[0] + letters[1]))
        return _einsum(tape, f"{both},{letters[2]}->{result}", _outer(tape, letters, both, operands), operands[2])
    (first, second), (a, b) = letters, operands
    left, right = constant(a), constant(b)
    pulls = (
        lambda g: contract(result, g, second, right, first),
        lambda g: contract(result, g, first, left, second),
    )
    return tape.record(contract(first, left, second, right, result), _of_traced(zip(operands, pulls, strict=True)))


def _outer(tape: Tape, letters: list[str], both: str, operands: Sequence[Any]) -> Traced | Array:
    a, b = operands[:2]
    if isinstance(a, Traced) or isinstance(b, Traced):
        return _einsum(tape, f"{letters[0]},{letters[1]}->{both}", a, b)
    return contract(letters[0], a, letters[1], b, both)


# Sums


def _sum(tape: Tape, x: Traced, axis: Any = None, keepdims: bool = False) -> Traced:
    shape = x.shape

    def pull(gradient: Array) -> Array:
        return np.broadcast_to(_kept(gradient, axis, keepdims), shape)

    return tape.record(np.asarray(x.value.sum(axis=axis, keepdims=keepdims)), [(x, pull)])


def _mean(tape: Tape, x: Traced, axis: Any = None, keepdims: bool = False) -> Traced:
    shape = x.shape
    value = np.asarray(x.value.mean(axis=axis, keepdims=keepdims))
    share = value.size / x.size

    def pull(gradient: Array) -> Array:
        return np.broadcast_to(_kept(gradient, axis, keepdims) * np.asarray(share, gradient.dtype), shape)

    return tape.record(value, [(x, pull)])


def _max(tape: Tape, x: Traced, axis: Any = None, keepdims: bool = False) -> Traced:
    value = np.asarray(x.value.max(axis=axis, keepdims=True))
    first = value == x.value
    if axis is not None:  # of equal ones the first
        first &= np.cumsum(first, axis=axis) == 1
    kept = value if keepdims else value.squeeze(axis)
    return tape.record(kept, [(x, lambda g: first * _kept(g, axis, keepdims))])


def _kept(gradient: Array, axis: Any, keepdims: bool) -> Array:
    return gradient if keepdims or axis is None else np.expand_dims(gradient, axis)


# Arrangement


def _concatenate(tape: Tape, arrays: Sequence[Any], axis: int = 0) -> Traced:
    sizes = [each.shape[axis] for each in arrays]
    ends = np.cumsum(sizes)

    def part(start: int, stop: int) -> Pull:
        return lambda g: g[_along(axis, g.ndim, slice(start, stop))]

    pulls = [part(int(end) - size, int(end)) for end, size in zip(ends, sizes, strict=True)]
    value = np.concatenate([constant(each) for each in arrays], axis=axis)
    return tape.record(value, _of_traced(zip(arrays, pulls, strict=True)))


def _stack(tape: Tape, arrays: Sequence[Any], axis: int = 0) -> Traced:
    def part(i: int) -> Pull:
        return lambda g: np.take(g, i, axis)

    value = np.stack([constant(each) for each in arrays], axis=axis)
    return tape.record(value, _of_traced((each, part(i)) for i, each in enumerate(arrays)))


def _along(axis: int, ndim: int, index: Any) -> tuple[Any, ...]:
    return (*[slice(None)] * (axis % ndim), index)


def _split(tape: Tape, x: Traced, sections: Any, axis: int = 0) -> list[Traced]:  # noqa: ARG001
    pieces = np.split(np.arange(x.shape[axis]), sections)
    return [x[_along(axis, x.ndim, slice(int(piece[0]), int(piece[-1]) + 1))] for piece in pieces]


def _repeat(tape: Tape, x: Traced, repeats: int, axis: int) -> Traced:
    axis %= x.ndim
    shape = (*x.shape[: axis + 1], repeats, *x.shape[axis + 1 :])
    value = np.repeat(x.value, repeats, axis=axis)
    return tape.record(value, [(x, lambda g: g.reshape(shape).sum(axis=axis + 1))])


def _broadcast_to(tape: Tape, x: Traced, shape: tuple[int, ...]) -> Traced:
    return tape.record(np.broadcast_to(x.value, shape), [(x, _same)])


def _where(tape: Tape, condition: Any, a: Any, b: Any) -> Traced:
    condition = constant(condition)
    pulls: tuple[Pull, Pull] = (lambda g: np.where(condition, g, 0), lambda g: np.where(condition, 0, g))
    value = np.where(condition, constant(a), constant(b))
    return tape.record(value, _of_traced(zip((a, b), pulls, strict=True)))


def _clip(tape: Tape, x: Traced, low: Any, high: Any) -> Traced:
    inside = (x.value >= low) & (x.value <= high)
    return tape.record(np.clip(x.value, low, high), [(x, lambda g: g * inside)])


def _take_along_axis(tape: Tape, x: Traced, indices: Array, axis: int) -> Traced:
    axis %= x.ndim
    index: list[Any] = list(np.indices(indices.shape, sparse=True))
    index[axis] = indices
    value = np.take_along_axis(x.value, indices, axis)
    return tape.record(value, [(x, lambda g: Placed(tuple(index), g))])


def _sort(tape: Tape, x: Traced, axis: int = -1) -> Traced:
    return _take_along_axis(tape, x, np.argsort(x.value, axis=axis, kind="stable"), axis)


#: Function of numpy -> its rule, called with the tape and the function's arguments.
FUNCTIONS: Mapping[Any, Callable[..., Any]] = {
    np.einsum: _einsum,
    np.sum: _sum,
    np.mean: _mean,
    np.max: _max,
    np.concatenate: _concatenate,
    np.stack: _stack,
    np.split: _split,
    np.repeat: _repeat,
    np.broadcast_to: _broadcast_to,
    np.where: _where,
    np.clip: _clip,
    np.take_along_axis: _take_along_axis,
    np.sort: _sort,
}
