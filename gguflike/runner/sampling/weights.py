"""Whole vocabularies at a time: what logits weigh, which is in proportion to the probabilities of their tokens, and
what is left of them.

Ops do that (kernels/shares.py) where numpy takes twice as long or more.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from gguflike.errors import ArgumentError
from gguflike.kernels.args import LIST_FLAGGED, MASK, SHARE_COLUMNS, WEIGH
from gguflike.kernels.engine import native
from gguflike.kernels.engine.args import float_bits

if TYPE_CHECKING:
    import numpy.typing as npt

    from gguflike.kernels.engine.args import Word

    Logits = npt.NDArray[np.float32]
    Mask = npt.NDArray[np.uint32]

    Floats = npt.NDArray[np.floating]
    Doubles = npt.NDArray[np.float64]

FEW = 2 * SHARE_COLUMNS  # values that are not summed up in columns


def weigh(logits: Floats, most: float) -> tuple[Floats, Doubles]:
    """e ** (logit - most) of each, ``most`` being the greatest, and what `sums` makes of these. Of float32, those that
    are too small to have all their digits are 0, and they hold until the thread weighs again."""
    if len(logits) <= FEW or logits.dtype != np.float32:
        weights = np.exp(logits - logits.dtype.type(most))
        return weights, sums(weights)
    weights, added = weigh_by_op(logits, most)
    return weights, added[0]


def mean_below(logits: Floats, most: float) -> float:
    """How far the mean logit, each counted as often as it is likely, is from ``most``, the greatest: 0 or less."""
    if len(logits) <= FEW or logits.dtype != np.float32:
        below = logits.astype(np.float64, copy=False) - most
        total = np.exp(below)
        products = total * np.maximum(below, -1e30)  # 0 times infinity is no number
    else:
        _, (total, products) = weigh_by_op(logits, most)
    return float(products.sum() / total.sum())


def weigh_by_op(logits: Floats, most: float) -> tuple[Floats, Doubles]:
    """The weights of float32 logits, and the sums of columns of these and of their products with logit - most, float64
    (2, SHARE_COLUMNS)."""
    logits = np.ascontiguousarray(logits)
    weights, added = room("weights", len(logits), np.float32), np.zeros((2, SHARE_COLUMNS), np.float32)
    words = WEIGH.pack(
        logits=logits.ctypes.data,
        n=len(logits),
        most=float_bits(most),
        weights=weights.ctypes.data,
        sums=added.ctypes.data,
    )
    run("shares:weigh", words)
    return weights, added.astype(np.float64)


def sums(values: Floats) -> Doubles:
    """The values themselves where they are few, or sums of columns: value i is of column i modulo their number."""
    if len(values) <= FEW:
        return values.astype(np.float64, copy=False)
    whole = len(values) // SHARE_COLUMNS * SHARE_COLUMNS
    columns: Floats = values[:whole].reshape(-1, SHARE_COLUMNS).sum(axis=0)
    columns[: len(values) - whole] += values[whole:]
    return columns.astype(np.float64, copy=False)


def masked(logits: Floats, flags: npt.NDArray[np.uint8 | np.bool_]) -> npt.NDArray[np.float32]:
    """A copy of float32 ``logits`` with minus infinity where the flag, 0 or 1, is 0."""
    logits, flags = np.ascontiguousarray(logits), np.ascontiguousarray(flags)
    out = np.empty(len(logits), np.float32)
    words = MASK.pack(logits=logits.ctypes.data, flags=flags.ctypes.data, n=len(logits), out=out.ctypes.data)
    run("shares:mask", words)
    return out


def flagged(flags: npt.NDArray[np.uint8 | np.bool_], count: int) -> npt.NDArray[np.int64]:
    """The places of the ``count`` contiguous flags that are 1, in order."""
    if count < len(flags) // 64:
        return np.flatnonzero(flags)  # which takes four times as long as this op where one flag in ten is set
    places = np.empty(count + 1, np.int64)
    words = LIST_FLAGGED.pack(flags=flags.ctypes.data, n=len(flags), places=places.ctypes.data)
    run("shares:list_flagged", words)
    return places[:count]


_rooms = threading.local()


def room(name: str, count: int, kind: type) -> npt.NDArray[Any]:
    """An array of ``count`` numbers that is the thread's, and the same each time that it asks for this name: a
    megabyte that is taken anew for each token costs as much as what is done with it."""
    array: npt.NDArray[Any] | None = getattr(_rooms, name, None)
    if array is None or len(array) < count:
        array = np.empty(count, kind)
        setattr(_rooms, name, array)
    return array[:count]


def run(name: str, words: tuple[Word, ...]) -> None:
    """Call an op of one item."""
    packed = np.array(words, np.int64)
    native.call(name)(packed.ctypes.data, 0, 0, 1)


def mask_bits(mask: Mask, size: int) -> npt.NDArray[np.uint8]:
    """The mask as a 0 or 1 for each of ``size`` tokens."""
    bits = np.unpackbits(mask.astype("<u4", copy=False).view(np.uint8), bitorder="little")[:size]
    return bits if len(bits) == size else np.pad(bits, (0, size - len(bits)))


def nothing_left() -> ArgumentError:
    """What to raise where grammar and bias leave nothing."""
    return ArgumentError("no token is left to choose: the grammar and the bias exclude all")
