"""einsum of one or two arrays, by BLAS where two are contracted."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def parse(subscripts: str) -> tuple[list[str], str]:
    """The letters of each operand and of the result: "ij,jk->ik" is (["ij", "jk"], "ik")."""
    operands, result = subscripts.replace(" ", "").split("->")
    return operands.split(","), result


def contract(first: str, a: Array, second: str, b: Array, result: str) -> Array:
    """``einsum(f"{first},{second}->{result}", a, b)``; no letter occurs twice in an operand."""
    a, first = _summed(a, first, second + result)
    b, second = _summed(b, second, first + result)
    batch = [letter for letter in result if letter in first and letter in second]
    inner = [letter for letter in first if letter in second and letter not in result]
    rows = [letter for letter in first if letter not in second]
    columns = [letter for letter in second if letter not in first]
    sizes = dict(zip(first, a.shape, strict=True)) | dict(zip(second, b.shape, strict=True))
    left = _arranged(a, first, (batch, rows, inner))
    right = _arranged(b, second, (batch, inner, columns))
    order = [*batch, *rows, *columns]
    product = (left @ right).reshape([sizes[letter] for letter in order])
    arranged: Array = product.transpose([order.index(letter) for letter in result])
    return arranged


def _summed(x: Array, letters: str, others: str) -> tuple[Array, str]:
    """Summed over the letters that nothing else has."""
    lonely = tuple(axis for axis, letter in enumerate(letters) if letter not in others)
    return (x.sum(axis=lonely) if lonely else x), "".join(letter for letter in letters if letter in others)


def _arranged(x: Array, letters: str, groups: tuple[list[str], ...]) -> Array:
    """``x`` with one axis for each group of letters."""
    sizes = dict(zip(letters, x.shape, strict=True))
    turned: Array = x.transpose([letters.index(letter) for group in groups for letter in group])
    grouped: Array = turned.reshape(
        [int(np.prod([sizes[letter] for letter in group], dtype=np.int64)) for group in groups]
    )
    return grouped
