"""What the values of a tensor are like, from its blocks alone, by the numpy reference of its type.

Tensors are read in pieces, so that memory does not grow with them; a file elsewhere is read by ranges.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gguflike.container.scales import magnitudes, of_blocks

if TYPE_CHECKING:
    import numpy.typing as npt

    from gguflike.blocks import BlockFormat, Field
    from gguflike.container import GGUFFile, TensorInfo

    Floats = npt.NDArray[np.float64]

WEIGHTS = 1 << 20  # decoded at a time
BINS = 16  # of a histogram
_LEVELS = 8  # of a code that is a number: fewer are always at an end
_UPPER_BITS = ("qh", "hmask")
FILLS = tuple(0x11 * number for number in range(16))  # bytes in which all codes of 1, 2 and 4 bits occur


class Statistics(NamedTuple):
    """Figures of one tensor.

    ``weights``, of which ``bad`` are NaN or infinite and ``zeros`` 0; the others give ``minimum``, ``maximum``,
    ``mean``, ``deviation`` (None where there are none) and ``histogram``: counts in BINS bins of equal width from
    minimum to maximum. ``scales`` are the least, the median and the largest magnitude of the blocks' scales that are
    not 0, None for types without them. ``saturated`` is the share of codes at one of the ends of their range, None for
    types whose codes are no numbers.
    """

    weights: int
    bad: int
    zeros: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    deviation: float | None
    histogram: tuple[int, ...]
    scales: tuple[float, float, float] | None
    saturated: float | None

    def document(self) -> dict[str, Any]:
        """The figures as JSON."""
        return self._asdict()


def statistics(file: GGUFFile, name: str) -> Statistics:
    """The figures of the tensor ``name``, which is read twice: for the range, and for the histogram in it.

    GGUFError where the file has become shorter, OSError and RemoteError where it cannot be read.
    """
    info = file.infos[name]
    count = bad = zeros = 0
    low, high = math.inf, -math.inf
    scales: list[npt.NDArray[np.float32]] = []
    codes = saturated = 0
    for blocks in _pieces(file, info):
        values = decoded(blocks, info.format)
        finite = values[np.isfinite(values)]
        count, bad, zeros = count + values.size, bad + values.size - finite.size, zeros + int((finite == 0).sum())
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
        if (found := magnitudes(of_blocks(blocks, info.format))) is not None:
            scales.append(found.astype(np.float32))
        if (ends := _at_ends(blocks, values, info.format)) is not None:
            codes, saturated = codes + ends.size, saturated + int(ends.sum())
    good = count - bad
    mean = deviation = None
    histogram = np.zeros(BINS, np.int64)
    if good:
        power = exponent(max(abs(low), abs(high)))
        first, last = math.ldexp(low, -power), math.ldexp(high, -power)
        first, last = (first, last) if last > first else (first - 0.5, last + 0.5)
        edges = np.linspace(first, last, BINS + 1)[1:-1]
        total = square = 0.0
        for blocks in _pieces(file, info):
            values = decoded(blocks, info.format)
            scaled = np.ldexp(values[np.isfinite(values)], -power)
            total, square = total + float(scaled.sum()), square + float(scaled @ scaled)
            histogram += np.bincount(np.searchsorted(edges, scaled, "right"), minlength=BINS)
        mean = math.ldexp(total / good, power)
        deviation = math.ldexp(math.sqrt(max(square / good - (total / good) ** 2, 0.0)), power)
    return Statistics(
        weights=count,
        bad=bad,
        zeros=zeros,
        minimum=low if good else None,
        maximum=high if good else None,
        mean=mean,
        deviation=deviation,
        histogram=tuple(histogram.tolist()),
        scales=_spread(scales),
        saturated=saturated / codes if codes else None,
    )


def first_values(file: GGUFFile, name: str, count: int) -> list[float]:
    """The first ``count`` weights of a tensor, in file order; fewer where it has fewer."""
    info, found = file.infos[name], np.empty(0)
    for blocks in _pieces(file, info, count):
        found = np.concatenate([found, decoded(blocks, info.format)])
        if len(found) >= count:
            break
    return [float(value) for value in found[:count]]


def sample(file: GGUFFile, name: str, count: int, stretches: int = 16) -> Floats:
    """About ``count`` weights of a tensor, float64: those of so many ``stretches`` of whole blocks that lie evenly in
    it, or all where it has no more. Errors as of ``statistics``."""
    info = file.infos[name]
    fmt = info.format
    blocks = info.nbytes // fmt.block_bytes
    stretch = -(-count // (stretches * fmt.block_size))
    if blocks <= stretches * stretch:
        starts, stretch = [0] if blocks else [], blocks
    else:
        starts = [number * (blocks - stretch) // max(stretches - 1, 1) for number in range(stretches)]
    found = [
        decoded(file.read(name, start * fmt.block_bytes, (start + stretch) * fmt.block_bytes).view(fmt.dtype), fmt)
        for start in starts
    ]
    return np.concatenate([np.empty(0), *found])


def exponent(magnitude: float) -> int:
    """The power of two to divide values of at most this magnitude by, which changes no digit of theirs, so that their
    squares and sums neither overflow nor vanish."""
    return math.frexp(magnitude)[1]


def decoded(blocks: npt.NDArray[Any], fmt: BlockFormat) -> Floats:
    """The weights of blocks in file order, float64 (weights,), by the reference decoder."""
    return np.asarray(_decode(blocks, fmt), np.float64).reshape(-1)


def _pieces(file: GGUFFile, info: TensorInfo, most: int = WEIGHTS) -> Iterator[npt.NDArray[Any]]:
    """The blocks of a tensor, so many weights at a time."""
    fmt = info.format
    step = -(-min(most, WEIGHTS) // fmt.block_size) * fmt.block_bytes
    for start in range(0, info.nbytes, step):
        yield file.read(info.name, start, min(start + step, info.nbytes)).view(fmt.dtype)


def _spread(scales: list[npt.NDArray[np.float32]]) -> tuple[float, float, float] | None:
    if not scales:
        return None
    found = np.concatenate(scales)
    found = found[np.isfinite(found) & (found > 0)]
    return (float(found.min()), float(np.median(found)), float(found.max())) if found.size else None


def _at_ends(blocks: npt.NDArray[Any], values: Floats, fmt: BlockFormat) -> npt.NDArray[np.bool_] | None:
    """Which weights, whose ``values`` are known, have the least or the largest code that their type has; None where
    codes are no numbers."""
    signed = [f for f in fmt.fields if f.role == "codes" and f.dtype == "i1"]
    if fmt.is_quantized and signed:
        return np.concatenate([np.abs(blocks[f.name].astype(np.int16)) >= 127 for f in signed], axis=-1)
    ends = _ends(fmt)
    if ends is None:
        return None
    low, high = (decoded(_filled(blocks, fmt, fills), fmt) for fills in ends)
    at: npt.NDArray[np.bool_] = (low != high) & ((values == low) | (values == high))
    return at


def _filled(blocks: npt.NDArray[Any], fmt: BlockFormat, fills: Sequence[int]) -> npt.NDArray[Any]:
    """The blocks with each byte of a field of codes as given for that field."""
    made: npt.NDArray[Any] = blocks.copy()
    for field, fill in zip(_codes(fmt), fills, strict=True):
        made[field.name] = np.full(np.dtype(field.dtype).itemsize, fill, np.uint8).view(field.dtype)[0]
    return made


def _codes(fmt: BlockFormat) -> list[Field]:
    """The fields that hold codes, or their upper bits."""
    return [field for field in fmt.fields if field.role == "codes" or field.name in _UPPER_BITS]


@cache
def _ends(fmt: BlockFormat) -> tuple[Sequence[int], Sequence[int]] | None:
    """The bytes of codes that stand for the least and for the largest value of a block; None for types without blocks,
    for those of less than eight values, and where codes are no numbers: entries of codebooks.

    Found by decoding: where all codes of a block are one, all of its values are.
    """
    if not fmt.is_quantized or not 1 <= len(_codes(fmt)) <= 2:
        return None
    probe = np.zeros(1, fmt.dtype)
    codes = _codes(fmt)
    for field in fmt.fields:
        if field not in codes:
            kind = np.dtype(field.dtype)
            one = np.ones((), kind) if kind.kind == "f" else np.full(kind.itemsize, 0xFF, np.uint8).view(kind)[0]
            probe[field.name] = one
    found: dict[float, Sequence[int]] = {}
    alike = 0
    for fills in product(FILLS, repeat=len(codes)):
        values = _decode(_filled(probe, fmt, fills), fmt).reshape(-1)
        if len(set(values.tolist())) == 1:
            alike += 1
            found.setdefault(float(values[0]), fills)
    return (found[min(found)], found[max(found)]) if min(alike, len(found)) >= _LEVELS else None


def _decode(blocks: npt.NDArray[Any], fmt: BlockFormat) -> npt.NDArray[Any]:
    assert fmt.decode is not None  # every row of the table has one
    with np.errstate(invalid="ignore", over="ignore"):  # which is what is looked for
        values: npt.NDArray[Any] = fmt.decode(blocks)
    return values
