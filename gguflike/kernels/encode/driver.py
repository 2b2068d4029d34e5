"""The loop that all scalar encoders share: sixteen blocks into the lanes, codec, packing.

A codec is a ``NamedTuple`` of settings and the function that ``@codec`` ties to it; the loop is compiled once for each.
The function fills a tile of symbols: one row per number that a block stores (codes, integer scales, bits of a float16),
one lane per block. A ``Packing`` then says which bits of which symbol go where: packing is data, not code.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.blocks import FORMATS
from gguflike.kernels.encode.args import ENCODE, F16, F32, SCRATCH_BYTES, WAYS
from gguflike.kernels.encode.packing import Field, Packing, plan_packing
from gguflike.kernels.encode.tiles import Array, Floats, Importance, Ints, IntTile, Tile
from gguflike.kernels.engine.atomics import fetch_add, load_args, store_word
from gguflike.kernels.engine.jit import inner, lean, typeof
from gguflike.kernels.vector.arrays import (
    bytes_at,
    floats_at,
    ints_at,
    load,
    load_transposed,
    store,
    store_transposed,
    words_at,
)
from gguflike.kernels.vector.arrays import store_word as store_bytes
from gguflike.kernels.vector.lanes import any_lane, bits, from_bits, maximum, splat, splat_i32, where
from gguflike.kernels.vector.memory import load_f16x16, load_u16x16, prefetch
from gguflike.kernels.vector.sizes import LANES
from gguflike.kernels.vector.types import Address, I32x16

Op = Callable[[Address, Address, int, int], None]
SMALLEST = np.float32(2.0**-100)  # an importance, or a range of values, below it counts as none
NEGLIGIBLE = np.float32(1e-9)  # the least importance, as a share of the largest in the block
LINE = 64  # bytes of a cache line
MAGNITUDE = 0x7FFFFFFF  # the bits of a float32 without its sign


@lean(forceinline=True)
def load_blocks(count: int, size: int, x: Floats, tile: Tile, starts: npt.NDArray[np.int64]) -> None:
    """Load the ``count`` blocks of flat ``x`` into the lanes of ``tile``; unused lanes repeat the last block.

    ``starts`` int64 (16,) receives the index of each lane's first weight.
    """
    for lane in range(LANES):
        starts[lane] = min(lane, count - 1) * size
    for j in range(0, size, LANES):
        load_transposed(tile, j, x, starts, j)


@lean(forceinline=True)
def widen(source: Address, stored: int, weights: int, out: Floats) -> I32x16:
    """Store halves as float32; returns the bits of the largest magnitudes, of which NaN's are above all others."""
    largest = splat_i32(0)
    for i in range(weights // LANES):
        x = load_f16x16(source + 32 * i) if stored == F16 else from_bits(load_u16x16(source + 32 * i) << 16)
        store(out, i, x)
        size = bits(x) & MAGNITUDE
        largest = where(size > largest, size, largest)
    return largest


@lean(forceinline=True)
def load_importance(
    batch: int, blocks: int, size: int, importance: Floats | None, tile: Importance, columns: npt.NDArray[np.int64]
) -> None:
    """Load the importance of the weights that ``load_blocks`` loaded, as shares of the largest in each block.

    ``importance`` is one row's, float32 (columns of the tensor,). No share is quite zero, so that every part of a block
    has a best code; where all importance is zero, all weights count the same. ``columns`` int64 (16,) holds the first
    column of each lane in the last batch, whose importance is in the tile already.
    """
    if importance is not None:
        new = False
        for lane in range(LANES):
            start = min(batch * LANES + lane, blocks - 1) * size % len(importance)
            new |= start != columns[lane]
            columns[lane] = start
        if not new:
            return
        for j in range(0, size, LANES):
            load_transposed(tile, j, importance, columns, j)
        largest = splat(0.0)
        for j in range(size):
            largest = maximum(load(tile, j), largest)
        counts = largest >= SMALLEST
        scale = where(counts, 1.0 / where(counts, largest, splat(1.0)), splat(0.0))
        for j in range(size):
            store(tile, j, where(counts, maximum(load(tile, j) * scale, splat(NEGLIGIBLE)), splat(1.0)))


@lean(forceinline=True)
def gather_word(symbols: IntTile, words: Ints, slots: Ints, w: int) -> I32x16:
    """Word ``w`` of the blocks in the lanes, put together from the symbols."""
    first, end, entire = words[w, 2], words[w, 3], words[w, 4]
    word = splat_i32(0)
    if entire != 0:
        for s in range(first, end):
            word = word | (load(symbols, slots[s, 0]) << slots[s, 3])
    else:
        for s in range(first, end):
            word = word | (((load(symbols, slots[s, 0]) >> slots[s, 1]) & slots[s, 2]) << slots[s, 3])
    return word


@lean(forceinline=True)
def write_blocks(batch: int, blocks: int, symbols: IntTile, packing: Packing, out: Array, scratch: IntTile) -> None:
    """Write the blocks in the lanes to flat ``out`` uint8, as ``packing`` says; ``scratch`` has four rows."""
    words = packing.words
    slots = packing.slots
    block_bytes = packing.block_bytes
    start = batch * LANES * block_bytes
    count = min(LANES, blocks - batch * LANES)
    transposed = block_bytes // 16 if count == LANES else 0  # 16 bytes at once: the first words are four bytes each
    for i in range(transposed):
        row = packing.copies[i]
        if row >= 0:
            store_transposed(out, start + 16 * i, block_bytes, symbols, row)
        else:
            for k in range(4):
                store(scratch, k, gather_word(symbols, words, slots, 4 * i + k))
            store_transposed(out, start + 16 * i, block_bytes, scratch, 0)
    for w in range(4 * transposed, words.shape[0]):
        store(scratch, 0, gather_word(symbols, words, slots, w))
        at = start + words[w, 0]
        if words[w, 1] == 4:
            for lane in range(count):
                store_bytes(out, at + lane * block_bytes, np.uint32(scratch[lane]))
        elif words[w, 1] == 2:
            for lane in range(count):
                store_bytes(out, at + lane * block_bytes, np.uint16(scratch[lane]))
        else:
            for lane in range(count):
                store_bytes(out, at + lane * block_bytes, np.uint8(scratch[lane]))


class Codec(NamedTuple):
    """Settings of a codec, the weights of a block, the rows of its tile of symbols (those that are scratch included),
    and their packing."""

    settings: Any
    size: int
    rows: int
    packing: Packing


class BlockEncoder(NamedTuple):
    """The codecs of a block type by the ways of encoding it (WAYS)."""

    absmax: Codec
    search: Codec
    weighted: Codec


def _encode_lanes(batch: int, tile: Tile, importance: Importance, symbols: IntTile, s: Any) -> None:
    """Stand for the codec's function in the loop below; ``encode_ops`` puts it in this place."""
    raise NotImplementedError


def _codec_of(number: int) -> Codec:
    """Stand for the choice among the codecs of a loop."""
    raise NotImplementedError


def _importance_at(address: Address, columns: int) -> Floats | None:
    """Stand for the importance, or None in a loop that knows none."""
    raise NotImplementedError


def _encode_batches(args: Address, state: Address, start: int, stop: int) -> None:
    """Encode batches of sixteen blocks, by way of symbols. Items are batches; words: ``ENCODE``."""
    a = load_args(ENCODE, args)
    codec = _codec_of(a.codec)
    size, packing, blocks = codec.size, codec.packing, a.blocks
    importance = _importance_at(a.importance, a.columns)
    out = bytes_at(a.out, blocks * packing.block_bytes)
    tile_bytes = 4 * LANES * size
    tile, shares = floats_at(a.scratch, LANES * size), _importance_at(a.scratch + tile_bytes, LANES * size)
    widened = floats_at(a.scratch + 2 * tile_bytes, LANES * size)
    starts = words_at(a.scratch + 3 * tile_bytes, LANES)
    columns = words_at(a.scratch + 3 * tile_bytes + 8 * LANES, LANES)
    scratch = ints_at(a.scratch + 3 * tile_bytes + 16 * LANES, 4 * LANES)
    symbols = ints_at(a.scratch + 3 * tile_bytes + 32 * LANES, codec.rows * LANES)
    for lane in range(LANES):
        columns[lane] = -1
    largest = splat_i32(0)
    reserved = a.common  # the first batch of this thread's own
    while True:
        first = fetch_add(a.taken, a.claim)
        last = min(first + a.claim, a.common)
        if first >= a.common:
            first, last, reserved = reserved, stop, stop
            if first == last:
                break
        for batch in range(first, last):
            count = min(LANES, blocks - batch * LANES)
            if a.stored == F32:
                at = a.x + batch * tile_bytes
                for j in range(0, tile_bytes, LINE):
                    prefetch(at + tile_bytes + j)
                x = floats_at(at, count * size)
            else:
                size_of_largest = widen(a.x + batch * (tile_bytes // 2), a.stored, count * size, widened)
                largest = where(size_of_largest > largest, size_of_largest, largest)
                x = widened
            load_blocks(count, size, x, tile, starts)
            load_importance(batch, blocks, size, importance, shares, columns)
            _encode_lanes(batch, tile, shares, symbols, codec.settings)
            write_blocks(batch, blocks, symbols, packing, out, scratch)
    if any_lane(largest > splat_i32(a.limit)):  # bits of magnitudes are ordered as these are, NaN above all
        store_word(a.beyond, 1)


_CODECS: dict[type, Callable[..., None]] = {}


def codec(settings: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: ``function(batch, tile, importance, symbols, s)`` encodes the blocks in the lanes of ``tile``.

    ``tile`` has a row per weight, ``importance`` too (or is None), ``symbols`` a row per number to store; ``s`` is an
    instance of ``settings``.
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        _CODECS[settings] = function
        return function

    return add


def block_encoder(
    size: int, rows: int, fields: Iterable[Field], search: Any, absmax: Any, unweighted: Codec | None = None
) -> BlockEncoder:
    """Make the encoder of a block type of ``size`` weights; a row of kernels/table.py names it.

    ``search`` and ``absmax`` are the settings of the codecs that serve these methods; both fill the same symbols.
    ``unweighted`` serves instead of ``search`` where there is no importance.
    """
    packing = plan_packing(fields)
    weighted = Codec(search, size, rows, packing)
    return BlockEncoder(Codec(absmax, size, rows, packing), unweighted or weighted, weighted)


def encode_ops(encoders: Mapping[str, BlockEncoder]) -> dict[str, Op]:
    """The ops of types by way and type (``op_name``). Types whose settings are alike share one, compiled once."""
    alike: dict[Any, list[tuple[str, str, Codec]]] = defaultdict(list)
    for name, encoder in encoders.items():
        for way, each in zip(WAYS, encoder, strict=True):
            alike[type(each.settings), typeof(each.settings), way == "weighted"].append((name, way, each))
    ops = {}
    for (settings, _, weighted), members in alike.items():
        numbers = [len(WAYS) * FORMATS[name].id + WAYS.index(way) for name, way, _ in members]
        loop = _loop(_CODECS[settings], numbers, [each for _, _, each in members], weighted)
        ops.update({f"{way}_{name}": loop for name, way, _ in members})
    return ops


def _loop(function: Callable[..., None], numbers: Sequence[int], codecs: Sequence[Codec], weighted: bool) -> Op:
    """``_encode_batches`` around the text of a codec's function: as a function of its own, that would be optimized
    twice, in half as much time again."""
    for each in codecs:
        assert 4 * LANES * (3 * each.size + each.rows + 8) <= SCRATCH_BYTES, "give encoders more scratch memory"
    scope = _encode_batches.__globals__ | {
        "_encode_lanes": inner(function, inline="always"),
        "_codec_of": _chooser(numbers, codecs),
        "_importance_at": floats_at if weighted else _no_importance,
    }
    return FunctionType(_encode_batches.__code__, scope)


def _chooser(numbers: Sequence[int], codecs: Sequence[Codec]) -> Any:
    """The choice among codecs by their numbers; where there is one, the kernel is compiled for it alone."""
    only, several, table = codecs[0], tuple(codecs), np.array(numbers)

    def the_only(number: int) -> Codec:
        return only

    def chosen(number: int) -> Codec:
        index = 0
        for i in range(len(table)):
            if table[i] == number:
                index = i
        return several[index]

    return lean(the_only if len(codecs) == 1 else chosen)


@lean
def _no_importance(address: Address, columns: int) -> None:
    """Where all weights count the same."""
    return
