"""The loop that all scalar encoders share: sixteen blocks into the lanes, codec, packing.

A codec is a ``NamedTuple`` of settings and the function that ``@codec`` ties to it; the loop is compiled once for each.
The function fills a tile of symbols: one row per number that a block stores (codes, integer scales, bits of a float16),
one lane per block. A ``Packing`` then says which bits of which symbol go where: packing is data, not code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.kernels.encode.packing import Field, Packing, plan_packing
from gguflike.kernels.encode.tiles import Array, Floats, Importance, Ints, IntTile, Tile
from gguflike.kernels.engine.atomics import fetch_add
from gguflike.kernels.engine.host import thread_count
from gguflike.kernels.engine.jit import inner, jit, lean, overload, types
from gguflike.kernels.engine.threads import together
from gguflike.kernels.vector.arrays import (
    load,
    load_transposed,
    make_int_tile,
    make_tile,
    store,
    store_transposed,
    store_word,
)
from gguflike.kernels.vector.lanes import maximum, splat, splat_i32, where
from gguflike.kernels.vector.memory import prefetch
from gguflike.kernels.vector.sizes import LANES
from gguflike.kernels.vector.types import I32x16

# encode(x float32 (rows, columns), out uint8 (rows, row bytes), importance float32 (columns,) | None, method, threads)
Encode = Callable[[Array, Array, Array | None, str, int | None], None]
SMALLEST = np.float32(2.0**-100)  # an importance, or a range of values, below it counts as none
NEGLIGIBLE = np.float32(1e-9)  # the least importance, as a share of the largest in the block
LINE = 16  # float32 in a cache line
LEAST_WEIGHTS = 1 << 16  # of a thread: to wake one for fewer costs more than it saves
CLAIMS = 64  # claims in which a thread takes its part of the batches


def importance_tile(importance: Floats | None, rows: int) -> Importance:
    """A tile for the importance, or None where there is none. For kernels only: ``@overload`` resolves it."""
    raise NotImplementedError


@overload(importance_tile)
def _importance_tile(importance: Any, rows: int) -> Any:
    """Choose by the type of ``importance``, so that kernels without it are compiled without it."""

    def absent(importance: Any, rows: int) -> Any:
        return None

    def present(importance: Any, rows: int) -> Any:
        return make_tile(rows)

    return absent if importance == types.none else present


@lean(forceinline=True)
def load_blocks(batch: int, blocks: int, size: int, x: Floats, tile: Tile, starts: npt.NDArray[np.int64]) -> None:
    """Load blocks ``16 * batch ..`` of flat ``x`` into the lanes of ``tile``; unused lanes repeat the last block.

    ``starts`` int64 (16,) receives the index of each lane's first weight.
    """
    for j in range(0, LANES * size, LINE):
        prefetch(x.ctypes.data + 4 * ((batch + 1) * LANES * size + j))
    for lane in range(LANES):
        starts[lane] = min(batch * LANES + lane, blocks - 1) * size
    for j in range(0, size, LANES):
        load_transposed(tile, j, x, starts, j)


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
                store_word(out, at + lane * block_bytes, np.uint32(scratch[lane]))
        elif words[w, 1] == 2:
            for lane in range(count):
                store_word(out, at + lane * block_bytes, np.uint16(scratch[lane]))
        else:
            for lane in range(count):
                store_word(out, at + lane * block_bytes, np.uint8(scratch[lane]))


def _encode_lanes(batch: int, tile: Tile, importance: Importance, symbols: IntTile, s: Any) -> None:
    """Stand for the codec's function in the loop below; ``codec`` puts it in this place."""
    raise NotImplementedError


def _encode_batches(
    claims: npt.NDArray[np.int64], stop: int, x: Floats, importance: Floats | None, out: Array, size: int, rows: int,
    settings: Any, packing: Packing,
) -> None:  # fmt: skip
    """Encode batches of sixteen blocks of ``size`` weights, by way of ``rows`` symbols.

    Threads take batches from a common counter: ``claims`` int64 (3,) holds how many batches have been taken so far,
    how many a claim takes, and how many are to be taken in all. The batches from there to ``stop`` are this thread's
    alone (none where ``stop`` equals their number).
    """
    claim, common = claims[1], claims[2]
    blocks = len(x) // size
    tile = make_tile(size)
    shares = importance_tile(importance, size)
    symbols = make_int_tile(rows)
    scratch = make_int_tile(4)
    starts = np.empty(LANES, np.int64)
    columns = np.full(LANES, -1)
    reserved = common  # the first batch of this thread's own
    while True:
        first = fetch_add(claims.ctypes.data, claim)
        last = min(first + claim, common)
        if first >= common:
            first, last, reserved = reserved, stop, stop
            if first == last:
                return
        for batch in range(first, last):
            load_blocks(batch, blocks, size, x, tile, starts)
            load_importance(batch, blocks, size, importance, shares, columns)
            _encode_lanes(batch, tile, shares, symbols, settings)
            write_blocks(batch, blocks, symbols, packing, out, scratch)


_LOOPS: dict[type, Callable[..., None]] = {}


def codec(settings: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: ``function(batch, tile, importance, symbols, s)`` encodes the blocks in the lanes of ``tile``.

    ``tile`` has a row per weight, ``importance`` too (or is None), ``symbols`` a row per number to store; ``s`` is an
    instance of ``settings``.
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        # The loop is compiled around the function's text: as a function of its own, or an overload, it would be
        # optimized twice, in half as much time again. A copy of the loop with other globals holds it, not a closure:
        # numba's cache key contains a closure's cells, pickled, and a pickled dispatcher holds a random identifier.
        scope = _encode_batches.__globals__ | {"_encode_lanes": inner(function, inline="always")}
        loop = FunctionType(_encode_batches.__code__, scope)
        loop.__qualname__ = f"{function.__module__}.{function.__name__}"  # names the file in the cache
        _LOOPS[settings] = jit(loop)
        return function

    return add


class Codec(NamedTuple):
    """Settings of a codec, the rows of its tile of symbols (those that are scratch included), and their packing."""

    settings: Any
    rows: int
    packing: Packing


def block_encoder(
    size: int, rows: int, fields: Iterable[Field], search: Any, absmax: Any, unweighted: Codec | None = None
) -> Encode:
    """Make the encoder of a block type of ``size`` weights; a row of kernels/table.py names it.

    ``search`` and ``absmax`` are the settings of the codecs that serve these methods; both fill the same symbols.
    ``unweighted`` serves instead of ``search`` where there is no importance.
    """
    packing = plan_packing(fields)

    def encode(x: Array, out: Array, importance: Array | None, method: str, threads: int | None = None) -> None:
        if method == "absmax":
            encode_blocks(x, None, out, size, Codec(absmax, rows, packing), threads)
        else:
            codec = unweighted if unweighted and importance is None else Codec(search, rows, packing)
            encode_blocks(x, importance, out, size, codec, threads)

    return encode


def encode_blocks(
    x: Array, importance: Array | None, out: Array, size: int, codec: Codec, threads: int | None
) -> None:  # fmt: skip
    """Encode ``x`` float32 (rows, columns) into ``out`` uint8 (rows, row bytes), on up to ``threads`` threads."""
    batches = -(-x.size // (size * LANES))
    workers = max(1, min(thread_count(threads), x.size // LEAST_WEIGHTS))
    claim = -(-batches // (CLAIMS * workers))
    common = max(0, batches - 2 * claim)  # the rest is for the calling thread, so that it ends last
    claims, loop = np.array([0, claim, common]), _LOOPS[type(codec.settings)]
    args = (x.reshape(-1), importance, out.reshape(-1), size, codec.rows, codec.settings, codec.packing)
    together(lambda is_caller: loop(claims, batches if is_caller else common, *args), workers)
