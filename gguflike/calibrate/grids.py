"""Block types whose weights are scalars, as numbers: codes, integer scales and minima, super-scales; and back to bytes.

A weight is ``(d * scale) * level - m * minimum`` in float32, in this order, as every decoder computes it: ``level`` is
what its code stands for, ``scale`` and ``minimum`` are small integers of its sub-block, ``d`` and ``m`` float16 numbers
of its block. Where a type lacks one of them, it is the constant 1 (a minimum: 0). Types whose blocks have a scale of 4
or 8 bits and no float16 have ``d`` = 1 and a table of scales.

Where the bits of a number stand in a block is data, too: one table of positions serves both directions, so that what is
packed parses to the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.blocks import FORMATS, BlockFormat
from gguflike.blocks.codebooks import IQ4_LEVELS
from gguflike.blocks.float4 import E2M1_DOUBLED, UE4M3_NAN, half_e8m0, half_ue4m3
from gguflike.blocks.ternary import trits
from gguflike.frozen import frozen

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]  # (numbers, bits): where each bit of each number stands in a block, lowest first

NO_PLACES: Places = np.empty((0, 0), np.int64)
ONE = np.ones(1, np.float32)
ZERO = np.zeros(1, np.float32)


class Numbers(NamedTuple):
    """A matrix (n, k) on a grid. All arrays are C-contiguous.

    ``codes`` uint8 (n, k): positions in ``grid.levels``, which ascend. ``scales`` and ``minima`` uint8
    (n, k / grid.size): positions in ``grid.scales`` and ``grid.minima``. ``d`` and ``m`` float32 (n, k / block): values
    that float16 holds, or 1 (``m``: 0) where the type has none.
    """

    codes: Bytes
    scales: Bytes
    minima: Bytes
    d: Floats
    m: Floats


@frozen
class Grid:
    """What the numbers of a block type stand for, and where in a block they are.

    ``size`` columns share a scale and a minimum. ``table`` float32: the level of each code of the file. ``scales`` and
    ``minima`` float32: what integer scales and minima stand for, ascending. The others are the places of the numbers,
    empty where the type has none. ``flipped`` is what the file's scale is combined with by exclusive or (signed ones),
    ``added`` says that the file has ``-m``. ``split`` and ``join`` unpack and pack codes that are no whole bits.
    """

    format: BlockFormat
    size: int
    table: Floats
    codes_at: Places
    d_at: Places = NO_PLACES
    m_at: Places = NO_PLACES
    scales: Floats = ONE
    scales_at: Places = NO_PLACES
    minima: Floats = ZERO
    minima_at: Places = NO_PLACES
    flipped: int = 0
    added: bool = False
    split: Callable[[Bytes], Bytes] | None = None
    join: Callable[[Bytes], Bytes] | None = None

    @property
    def block(self) -> int:
        """Columns of a block."""
        return self.format.block_size

    @cached_property
    def levels(self) -> Floats:
        """What codes may stand for, float32, ascending."""
        return np.unique(self.table)

    @cached_property
    def step(self) -> float:
        """The distance of neighbouring levels where all are equally far apart, else 0."""
        steps = np.diff(self.levels)
        return float(steps[0]) if (steps == steps[0]).all() else 0.0

    @cached_property
    def _stored(self) -> Bytes:
        """The code of the file for each level: the first that stands for it."""
        return np.array([np.flatnonzero(self.table == level)[0] for level in self.levels], np.uint8)

    @cached_property
    def _positions(self) -> Bytes:
        """The position in ``levels`` for each code of the file; codes that no encoder writes count as the last."""
        position = np.full(256, len(self.levels) - 1, np.uint8)
        position[: len(self.table)] = np.searchsorted(self.levels, self.table)
        return position

    def parse(self, data: Bytes) -> Numbers:
        """The numbers of rows of blocks, ``data`` uint8 (n, row bytes)."""
        n = data.shape[0]
        blocks = data.reshape(-1, self.format.block_bytes)
        bits = np.unpackbits(blocks, axis=1, bitorder="little")
        codes = self.split(blocks) if self.split else _gather(bits, self.codes_at)
        count = len(blocks)
        per = self.block // self.size
        zeros = np.zeros((count, per), np.uint8)
        scales = _gather(bits, self.scales_at) ^ np.uint8(self.flipped) if self.scales_at.size else zeros
        minima = _gather(bits, self.minima_at) if self.minima_at.size else zeros
        d, m = _halves(bits, self.d_at, 1.0), _halves(bits, self.m_at, 0.0)
        parts = self._positions[codes], scales, minima, d, -m if self.added else m
        rows: list[Any] = [np.ascontiguousarray(part.reshape(n, -1)) for part in parts]
        return Numbers(*rows)

    def pack(self, numbers: Numbers) -> Bytes:
        """The blocks that hold ``numbers``: uint8 (n, row bytes)."""
        n, k = numbers.codes.shape
        count = n * (k // self.block)
        codes = self._stored[numbers.codes].reshape(count, -1)
        bits = np.zeros((count, 8 * self.format.block_bytes), np.uint8)
        if self.join is None:
            _scatter(bits, self.codes_at, codes)
        _scatter(bits, self.scales_at, numbers.scales.reshape(count, -1) ^ np.uint8(self.flipped))
        _scatter(bits, self.minima_at, numbers.minima.reshape(count, -1))
        _scatter_halves(bits, self.d_at, numbers.d)
        _scatter_halves(bits, self.m_at, -numbers.m if self.added else numbers.m)
        blocks = np.packbits(bits, axis=1, bitorder="little")
        if self.join is not None:
            packed = self.join(codes)
            blocks[:, : packed.shape[1]] = packed
        return blocks.reshape(n, -1)

    def factors(self, numbers: Numbers) -> tuple[Floats, Floats]:
        """``d * scale`` and ``m * minimum`` of each sub-block: two float32 (n, k / size)."""
        per = self.block // self.size
        factor = np.repeat(numbers.d, per, axis=1) * self.scales[numbers.scales]
        return factor, np.repeat(numbers.m, per, axis=1) * self.minima[numbers.minima]

    def values(self, numbers: Numbers) -> Floats:
        """The weights, float32 (n, k): bit for bit what the blocks decode to."""
        factor, shift = self.factors(numbers)
        weights: Floats = np.repeat(factor, self.size, axis=1)
        weights *= self.levels[numbers.codes]
        weights -= np.repeat(shift, self.size, axis=1)
        return weights


def _gather(bits: Bytes, places: Places) -> Bytes:
    """Numbers of up to eight bits: (n, bits of a block) -> uint8 (n, numbers)."""
    numbers = bits[:, places[:, 0]]
    for bit in range(1, places.shape[1]):
        numbers |= bits[:, places[:, bit]] << np.uint8(bit)
    return numbers


def _scatter(bits: Bytes, places: Places, numbers: Bytes) -> None:
    for bit in range(places.shape[1]):
        bits[:, places[:, bit]] = (numbers >> np.uint8(bit)) & np.uint8(1)


def _halves(bits: Bytes, places: Places, absent: float) -> Floats:
    if not places.size:
        return np.full((len(bits), 1), absent, np.float32)
    packed = np.packbits(bits[:, places[0]], axis=1, bitorder="little")
    return np.ascontiguousarray(packed).view("<f2").astype(np.float32)


def _scatter_halves(bits: Bytes, places: Places, values: Floats) -> None:
    if places.size:
        halves = np.ascontiguousarray(values.reshape(-1, 1).astype("<f2"))
        bits[:, places[0]] = np.unpackbits(halves.view(np.uint8), axis=1, bitorder="little")


def _planes(first: int, size: int, width: int, run: int) -> Places:
    """Places of numbers of ``width`` bits in ``size`` bytes from ``first``: planes as blocks/bits.py describes them."""
    byte = first + np.arange(size).reshape(-1, 1, run)  # (chunks, 1, run)
    lowest = 8 * byte + np.arange(0, 8, width)[:, None]  # (chunks, numbers in a byte, run)
    places: Places = lowest.reshape(-1, 1) + np.arange(width)
    return places


def _field(name: str, field: str, width: int, run: int) -> Places:
    """Places of the numbers that fill a field of a block type."""
    fmt = FORMATS[name]
    size = sum(each.count * np.dtype(each.dtype).itemsize for each in fmt.fields if each.name == field)
    return _planes(getattr(fmt.offsets, field), size, width, run)


def _half(fmt: BlockFormat, name: str) -> Places:
    return np.arange(16)[None] + 8 * int(getattr(fmt.offsets, name))


def _joined(*parts: Places) -> Places:
    """Numbers whose low bits stand in the first part, the others in the next."""
    return np.concatenate(parts, axis=1)


def _integers(least: int, most: int) -> Floats:
    return np.arange(least, most + 1, dtype=np.float32)


def _six_bits(name: str) -> tuple[Places, Places]:
    """The scales and the minima of Q4_K and Q5_K, as blocks/kquants.py describes them."""
    first, second, nibbles = np.split(_field(name, "scales", 8, 1), 3)
    scales = np.concatenate([first[:, :6], _joined(nibbles[:, :4], first[:, 6:])])
    return scales, np.concatenate([second[:, :6], _joined(nibbles[:, 4:], second[:, 6:])])


def _one_scale(name: str, table: Floats, codes: Places, added: str = "") -> Grid:
    """A type of blocks with one float16 scale, and perhaps one float16 number, ``added``."""
    fmt = FORMATS[name]
    m_at, minima = (_half(fmt, added), ONE) if added else (NO_PLACES, ZERO)
    return Grid(fmt, fmt.block_size, table, codes, _half(fmt, "d"), m_at, minima=minima, added=bool(added))


def _super(
    name: str, size: int, table: Floats, codes: Places, scales: Floats, scales_at: Places,
    minima_at: Places = NO_PLACES, flipped: int = 0,
) -> Grid:  # fmt: skip
    """A type of super-blocks: integer scales, and perhaps minima of the same range, of ``size`` columns each."""
    fmt = FORMATS[name]
    m_at, minima = (_half(fmt, "dmin"), scales) if minima_at.size else (NO_PLACES, ZERO)
    return Grid(fmt, size, table, codes, _half(fmt, "d"), m_at, scales, scales_at, minima, minima_at, flipped)


def _split_trits(blocks: Bytes) -> Bytes:
    """The codes of TQ1_0, base-3 digits in three groups of planes."""
    parts = trits(blocks[:, :32], 5, 32), trits(blocks[:, 32:48], 5, 16), trits(blocks[:, 48:52], 4, 4)
    return np.concatenate(parts, axis=1)


def _join_trits(codes: Bytes) -> Bytes:
    """The first 52 bytes of TQ1_0: a byte is the fraction of the range of its five digits, in 256ths, rounded up."""
    parts = []
    for first, digits, run in ((0, 5, 32), (160, 5, 16), (240, 4, 4)):
        planes = codes[:, first : first + digits * run].reshape(len(codes), digits, run).astype(np.uint32)
        powers = np.uint32(3) ** np.arange(4, 4 - digits, -1, dtype=np.uint32)
        parts.append(((planes * powers[:, None]).sum(axis=1) * 256 + 242) // 243)
    return np.concatenate(parts, axis=1).astype(np.uint8)


def _rows() -> Iterable[Grid]:
    iq4, e2m1 = IQ4_LEVELS.astype(np.float32), E2M1_DOUBLED.astype(np.float32)
    int8 = np.arange(256).astype(np.int8).astype(np.float32)
    yield _one_scale("Q4_0", _integers(-8, 7), _field("Q4_0", "qs", 4, 16))
    yield _one_scale("Q4_1", _integers(0, 15), _field("Q4_1", "qs", 4, 16), "m")
    yield _one_scale("Q5_0", _integers(-16, 15), _joined(_field("Q5_0", "qs", 4, 16), _field("Q5_0", "qh", 1, 1)))
    yield _one_scale("Q5_1", _integers(0, 31), _joined(_field("Q5_1", "qs", 4, 16), _field("Q5_1", "qh", 1, 1)), "m")
    yield _one_scale("Q8_0", int8, _field("Q8_0", "qs", 8, 1))
    yield _one_scale("Q1_0", _integers(-1, 1)[::2], _field("Q1_0", "qs", 1, 1))
    yield _one_scale("Q2_0", _integers(-1, 2), _field("Q2_0", "qs", 2, 1))
    yield _one_scale("IQ4_NL", iq4, _field("IQ4_NL", "qs", 4, 16))
    yield _one_scale("TQ2_0", _integers(-1, 1), _field("TQ2_0", "qs", 2, 32))
    tq1 = FORMATS["TQ1_0"]
    yield Grid(tq1, 256, _integers(-1, 1), NO_PLACES, _half(tq1, "d"), split=_split_trits, join=_join_trits)

    nibble_scales, nibble_minima = _field("Q2_K", "scales", 8, 1)[:, :4], _field("Q2_K", "scales", 8, 1)[:, 4:]
    q2 = _field("Q2_K", "qs", 2, 32)
    yield _super("Q2_K", 16, _integers(0, 3), q2, _integers(0, 15), nibble_scales, nibble_minima)
    scales = FORMATS["Q3_K"].offsets.scales  # sixteen low nibbles, then the high bits
    six = _joined(_planes(scales, 8, 4, 8), _planes(scales + 8, 4, 2, 4))
    q3 = _joined(_field("Q3_K", "qs", 2, 32), _field("Q3_K", "hmask", 1, 32))
    yield _super("Q3_K", 16, _integers(-4, 3), q3, _integers(-32, 31), six)
    q4, six_bits = _field("Q4_K", "qs", 4, 32), _integers(0, 63)
    yield _super("Q4_K", 32, _integers(0, 15), q4, six_bits, *_six_bits("Q4_K"))
    q5 = _joined(_field("Q5_K", "qs", 4, 32), _field("Q5_K", "qh", 1, 32))
    yield _super("Q5_K", 32, _integers(0, 31), q5, six_bits, *_six_bits("Q5_K"))
    q6 = _joined(_field("Q6_K", "ql", 4, 64), _field("Q6_K", "qh", 2, 32))
    yield _super("Q6_K", 16, _integers(-32, 31), q6, _integers(-128, 127), _field("Q6_K", "scales", 8, 1), flipped=128)
    xs = _joined(_field("IQ4_XS", "scales_l", 4, 1), _field("IQ4_XS", "scales_h", 2, 1))
    yield _super("IQ4_XS", 32, iq4, _field("IQ4_XS", "qs", 4, 16), _integers(-32, 31), xs)

    exponents, ue4m3 = half_e8m0(np.arange(256)), half_ue4m3(np.arange(UE4M3_NAN))
    mx, nv = FORMATS["MXFP4"], FORMATS["NVFP4"]
    e, d = _field("MXFP4", "e", 8, 1), _field("NVFP4", "d", 8, 1)[:, :7]  # readers ignore the top bit of d
    yield Grid(mx, 32, e2m1, _field("MXFP4", "qs", 4, 16), scales=exponents, scales_at=e)
    yield Grid(nv, 16, e2m1, _field("NVFP4", "qs", 4, 8), scales=ue4m3, scales_at=d)


GRIDS: Mapping[str, Grid] = {row.format.name: row for row in _rows()}
"""The block types whose levels are scalars, by name."""
