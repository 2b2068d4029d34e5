"""The loop all codecs here share: sixteen blocks into the lanes, a codec turns them into symbols, symbols are packed.

A codec is a ``NamedTuple`` of settings and the function that ``@codec`` ties to it; the loop is compiled once for each.
The function fills a "symbol" tile, one row per number a block stores (codes, integer scales, float16 bits), one lane
per block. A ``Packing`` then says which bits of which symbol go where: packing is data, not code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gguflike.kernels.encode.packing import Packing, Slot, layout
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

Array = npt.NDArray[Any]
Encode = Callable[[Array, Array, Array | None, str, int | None], None]
SMALLEST = np.float32(2.0**-100)  # an importance, or a range of values, below it counts as none
LINE = 16  # float32 in a cache line
NEGLIGIBLE = np.float32(1e-9)
LEAST_WEIGHTS = 1 << 16  # of a thread: to wake one for fewer costs more than it saves
CLAIMS = 64  # parts of a thread's share, what is taken at a time


def importance_tile(importance: Any, rows: int) -> Any:  # resolved inside kernels only
    """A tile for the importance, or None without importance."""
    raise NotImplementedError


@overload(importance_tile)
def _importance_tile(importance: Any, rows: int) -> Any:
    def absent(importance: Any, rows: int) -> Any:
        return None

    def present(importance: Any, rows: int) -> Any:
        return make_tile(rows)

    return absent if importance == types.none else present


@lean(forceinline=True)
def load_blocks(batch: int, blocks: int, size: int, x: Any, tile: Any, starts: Any) -> None:
    """Blocks ``16*batch ..`` of flat ``x`` into the lanes of ``tile``; the last one is repeated in unused lanes."""
    for j in range(0, LANES * size, LINE):
        prefetch(x.ctypes.data + 4 * ((batch + 1) * LANES * size + j))
    for lane in range(LANES):
        starts[lane] = min(batch * LANES + lane, blocks - 1) * size
    for j in range(0, size, LANES):
        load_transposed(tile, j, x, starts, j)


@lean(forceinline=True)
def load_importance(batch: int, blocks: int, size: int, importance: Any, tile: Any, starts: Any) -> None:
    """The importance of the columns that ``load_blocks`` loaded, as a share of the largest in the block.

    None is quite zero, so that every part of a block has a best code; where all are, all count the same. ``starts``:
    the columns of the last group, whose importance is in the tile.
    """
    if importance is not None:
        new = False
        for lane in range(LANES):
            start = min(batch * LANES + lane, blocks - 1) * size % len(importance)
            new |= start != starts[lane]
            starts[lane] = start
        if not new:
            return
        for j in range(0, size, LANES):
            load_transposed(tile, j, importance, starts, j)
        largest = splat(0.0)
        for j in range(size):
            largest = maximum(load(tile, j), largest)
        counts = largest >= SMALLEST
        scale = where(counts, 1.0 / where(counts, largest, splat(1.0)), splat(0.0))
        for j in range(size):
            store(tile, j, where(counts, maximum(load(tile, j) * scale, splat(NEGLIGIBLE)), splat(1.0)))


@lean(forceinline=True)
def gather_word(symbols: Any, words: Any, slots: Any, w: int) -> Any:
    """Word ``w`` of the blocks in the lanes."""
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
def pack(batch: int, blocks: int, symbols: Any, places: Any, out: Any, tile: Any) -> None:
    """Write the blocks in the lanes as the ``Packing`` ``places`` says; ``tile``: an int tile of four rows to use."""
    words = places.words
    slots = places.slots
    block_bytes = places.block_bytes
    start = batch * LANES * block_bytes
    count = min(LANES, blocks - batch * LANES)
    fours = block_bytes // 16 if count == LANES else 0  # the first words are four bytes each
    for f in range(fours):
        row = places.fours[f]
        if row >= 0:
            store_transposed(out, start + 16 * f, block_bytes, symbols, row)
        else:
            for k in range(4):
                store(tile, k, gather_word(symbols, words, slots, 4 * f + k))
            store_transposed(out, start + 16 * f, block_bytes, tile, 0)
    for w in range(4 * fours, words.shape[0]):
        store(tile, 0, gather_word(symbols, words, slots, w))
        at = start + words[w, 0]
        if words[w, 1] == 4:
            for lane in range(count):
                store_word(out, at + lane * block_bytes, np.uint32(tile[lane]))
        elif words[w, 1] == 2:
            for lane in range(count):
                store_word(out, at + lane * block_bytes, np.uint16(tile[lane]))
        else:
            for lane in range(count):
                store_word(out, at + lane * block_bytes, np.uint8(tile[lane]))


def _encode_lanes(batch: int, tile: Any, importance: Any, symbols: Any, s: Any) -> None:
    raise NotImplementedError  # ``codec`` puts its function in this place


def _encode_batches(
    claims: Any, stop: int, x: Any, importance: Any, out: Any, size: int, rows: int, settings: Any, places: Any
) -> None:
    """Encode groups of sixteen blocks of ``size`` weights by way of ``rows`` symbols.

    ``claims`` int64 (3,): how many groups threads have taken so far, take at a time, and take in all. Those from there
    to ``stop`` are this thread's own.
    """
    each, shared = claims[1], claims[2]
    blocks = len(x) // size
    tile = make_tile(size)
    wtile = importance_tile(importance, size)
    symbols = make_int_tile(rows)
    scratch = make_int_tile(4)
    starts = np.empty(LANES, np.int64)
    columns = np.full(LANES, -1)
    own = shared
    while True:
        first = fetch_add(claims.ctypes.data, each)
        last = min(first + each, shared)
        if first >= shared:
            first, last, own = own, stop, stop
            if first == last:
                return
        for batch in range(first, last):
            load_blocks(batch, blocks, size, x, tile, starts)
            load_importance(batch, blocks, size, importance, wtile, columns)
            _encode_lanes(batch, tile, wtile, symbols, settings)
            pack(batch, blocks, symbols, places, out, scratch)


_LOOPS: dict[type, Callable[..., None]] = {}


def codec(settings: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: ``function(batch, tile, importance, symbols, s)`` encodes the blocks in the lanes of ``tile``.

    ``importance`` is a tile of importance or None, ``s`` an instance of ``settings``. The loop is compiled around the
    function's text: as a function of its own, or an overload, it would be optimized twice, in half as much time again.
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        scope = _encode_batches.__globals__ | {"_encode_lanes": inner(function, inline="always")}
        loop = FunctionType(_encode_batches.__code__, scope)
        loop.__qualname__ = f"{function.__module__}.{function.__name__}"  # names the file in the cache
        _LOOPS[settings] = jit(loop)
        return function

    return add


class Codec(NamedTuple):
    """Settings of a codec, and which symbols it puts where in a block: ``rows`` of them, with rows that are scratch."""

    settings: Any
    rows: int
    places: Packing


def block_encoder(
    size: int, rows: int, fields: Iterable[list[list[Slot]]], search: Any, absmax: Any, unweighted: Codec | None = None
) -> Encode:
    """Make the encoder of a block type of ``size`` weights; a row of kernels/table.py names it.

    ``search`` and ``absmax`` are the settings of the codecs that serve these methods; both fill the same symbols.
    ``unweighted`` serves instead of ``search`` where there is no importance.
    """
    places = layout(fields)

    def encode(x: Array, out: Array, importance: Array | None, method: str, threads: int | None = None) -> None:
        if method == "absmax":
            encode_blocks(x, None, out, size, Codec(absmax, rows, places), threads)
        else:
            codec = unweighted if unweighted and importance is None else Codec(search, rows, places)
            encode_blocks(x, importance, out, size, codec, threads)

    return encode


def encode_blocks(x: Array, importance: Array | None, out: Array, size: int, codec: Codec, threads: int | None) -> None:
    """Encode ``x`` into ``out``."""
    groups = -(-x.size // (size * LANES))
    workers = max(1, min(thread_count(threads), x.size // LEAST_WEIGHTS))
    each = -(-groups // (CLAIMS * workers))
    shared = max(0, groups - 2 * each)  # the rest is for this thread, so that it ends last
    claims, loop = np.array([0, each, shared]), _LOOPS[type(codec.settings)]
    args = (x.reshape(-1), importance, out.reshape(-1), size, codec.rows, codec.settings, codec.places)
    together(lambda last: loop(claims, groups if last else shared, *args), workers)
