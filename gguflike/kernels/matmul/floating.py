"""Matrix products for F32, F16 and BF16 weights, on the file's rows as they are: float32, weights converted on the fly.

Argument and state words are those of integer.py, with float32 activations in ``codes``; columns may have any number.
``matvec`` takes one row after the other, as they lie, since memory is fastest when it is read in order; its lanes run
along the columns and are added up at the end of each row. ``matmul`` converts a strip of rows by CHUNK columns to
float32 in scratch, transposed so that every lane owns a row, and multiplies those by tile after tile of tokens.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from gguflike.kernels.engine.atomics import load_args, load_word
from gguflike.kernels.engine.jit import inner
from gguflike.kernels.engine.memory import SCRATCH_BYTES, STATE
from gguflike.kernels.matmul.args import MATMUL
from gguflike.kernels.matmul.output import panel_tokens, put_rows, put_start, put_unit, start_rows
from gguflike.kernels.vector.emitter import F32, I16, I32, V16F32, V16I16, V16I32, Emitter, target
from gguflike.kernels.vector.lanes import f32x16, int64, operation, void
from gguflike.kernels.vector.memory import prefetch
from gguflike.kernels.vector.sizes import LANES
from gguflike.kernels.vector.types import Address, Value

Op = Callable[[Address, Address, int, int], None]

AHEAD = 1024  # bytes that matvec prefetches in advance, beside what the machine guesses from reading in order
CHAINS = 4  # sums of 16 lanes in matvec: more in flight than an fma takes cycles

# Registers decide the tile: a sum for every token and row should stay in them.
TILE_TOKENS, TILE_ROW_BLOCKS = (12, 2) if "avx512f" in target()[1] else (6, 1)
# Rows that are converted at a time, by at most CHUNK columns: half of a first-level cache of 32 KiB.
STRIP = TILE_ROW_BLOCKS * LANES
STRIP_BYTES = 4 * STRIP  # of one column
CHUNK = 192 if TILE_ROW_BLOCKS == 1 else 128
UNIT = 2 * LANES  # rows of a work item
ROW_BYTES = 4 * UNIT  # of one token's sums

# A panel of tokens meets some units before the next columns, so that its activations stay in the second-level cache,
# and the units' sums in scratch. Activations are read where they lie if the machine has registers for the addresses of
# a tile's tokens, unless these are a multiple of 4 KiB apart, for which a first-level cache has but a few places. Else
# the panel is copied.
PANEL_TOKENS = 180
IN_PLACE = TILE_TOKENS < 12
CROWDED = 1024  # columns, a multiple of which is copied
TOKEN_BYTES = CHUNK * 4 + 64
UNIT_SUMS = PANEL_TOKENS * ROW_BYTES

# Byte offsets in scratch, after the converted weights.
BIAS_AT = CHUNK * STRIP_BYTES
PANEL_AT = BIAS_AT + ROW_BYTES
SUMS_AT = PANEL_AT + PANEL_TOKENS * TOKEN_BYTES
UNITS = (SCRATCH_BYTES - SUMS_AT) // UNIT_SUMS


def _element_bytes(kind: str) -> int:
    """Return the bytes of a weight."""
    return 4 if kind == "f32" else 2


def _widened(e: Emitter, kind: str, weights: Value) -> Value:
    """Convert sixteen weights to V16F32."""
    if kind == "f32":
        return weights
    if kind == "f16":
        return e.f16_to_f32(weights)
    return e.b.bitcast(e.b.shl(e.b.zext(weights, V16I32), e.const(V16I32, 16)), V16F32)


def _load(e: Emitter, kind: str, place: Value, mask: Value = None) -> Value:
    """Load 16 weights as V16F32, zero outside the mask if there is one."""
    if kind == "f32":
        return e.load(V16F32, place) if mask is None else e.load_masked(V16F32, place, 0, mask)
    return _widened(e, kind, e.load(V16I16, place) if mask is None else e.load_masked(V16I16, place, 0, mask))


def _dot_row(e: Emitter, kind: str, row: Value, x: Value, columns: Value) -> Value:
    """Return V16F32 whose lanes add up to the product of a row by ``x``."""
    size = _element_bytes(kind)
    row, x = e.pointer(row), e.pointer(x)

    def add(at: Value, total: Value, mask: Value = None) -> Value:
        values = e.pointer(x, e.b.mul(at, e.int64(4)))
        values = e.load(V16F32, values) if mask is None else e.load_masked(V16F32, values, 0, mask)
        return e.fma(_load(e, kind, e.pointer(row, e.b.mul(at, e.int64(size))), mask), values, total)

    def chains(at: Value, totals: list[Value]) -> list[Value]:
        here = e.pointer(row, e.b.mul(at, e.int64(size)))
        for line in range(0, CHAINS * LANES * size, 64):
            e.prefetch(here, AHEAD + line)
        return [add(e.b.add(at, e.int64(i * LANES)), total) for i, total in enumerate(totals)]

    def single(at: Value, totals: list[Value]) -> list[Value]:
        return [add(at, totals[0])]

    def rest(at: Value, totals: list[Value]) -> list[Value]:
        return [add(at, totals[0], e.first_lanes(e.b.sub(columns, at)))]

    many, whole = e.b.and_(columns, e.int64(-CHAINS * LANES)), e.b.and_(columns, e.int64(-LANES))
    totals = e.loop(e.int64(0), many, CHAINS * LANES, [e.zero(V16F32)] * CHAINS, chains, unroll=False)
    while len(totals) > 1:
        totals = [e.b.fadd(a, b) for a, b in zip(totals[::2], totals[1::2], strict=True)]
    totals = e.loop(many, whole, LANES, totals, single)
    return e.loop(whole, columns, LANES, totals, rest)[0]


def matvec_op(kind: str) -> Op:
    """Return the op that multiplies rows by one token. Items are row blocks; words: ``MATMUL``."""
    size = _element_bytes(kind)

    @operation(f32x16, int64, int64, int64, int64)
    def dot_rows(e: Emitter, weights: Value, rows: Value, x: Value, columns: Value) -> Value:
        """Return V16F32: the products of at most 16 rows by x."""
        lanes, row_bytes = e.const(V16I32, range(LANES)), e.b.mul(columns, e.int64(size))

        def dot_row(r: Value, results: list[Value]) -> list[Value]:
            product = e.reduce_add(_dot_row(e, kind, e.b.add(weights, e.b.mul(r, row_bytes)), x, columns))
            is_here = e.b.icmp_signed("==", lanes, e.splat(V16I32, e.b.trunc(r, I32)))
            return [e.b.select(is_here, e.splat(V16F32, product), results[0])]

        count = e.smin(rows, e.int64(LANES))
        return e.loop(e.int64(0), count, 1, [e.zero(V16F32)], dot_row, unroll=False)[0]

    def matvec(args: Address, state: Address, start: int, stop: int) -> None:
        a = load_args(MATMUL, args)
        for row_block in range(start, stop):
            row = LANES * row_block
            product = dot_rows(a.weights + row * a.columns * size, a.rows - row, a.codes, a.columns)
            put_rows(args, row_block, 0, product + start_rows(args, row_block))

    return matvec


def _convert(e: Emitter, kind: str, rows: Value, stride: Value, last: Value, count: Value, target_: Value) -> None:
    """``count`` columns of 16 rows ``stride`` bytes apart (those after number ``last`` repeat it), transposed to V16F32
    that lie ``STRIP_BYTES`` apart in ``target_``."""
    size = _element_bytes(kind)
    element, step = (F32, 4) if size == 4 else (I16, 8)
    places = [e.pointer(rows, e.b.mul(e.smin(e.int64(r), last), stride)) for r in range(LANES)]
    target_ = e.pointer(target_)

    def put(column: Value, vectors: list[Value]) -> None:
        here = e.pointer(target_, e.b.mul(column, e.int64(STRIP_BYTES)))
        for i, value in enumerate(e.transposed(vectors)):
            e.store(_widened(e, kind, value), here, i * STRIP_BYTES)

    def whole(column: Value, _: list[Value]) -> list[Value]:
        offset = e.b.mul(column, e.int64(size))
        put(column, [e.load(ir.VectorType(element, step), place, offset) for place in places])
        return []

    def single(column: Value, _: list[Value]) -> list[Value]:
        offset = e.b.mul(column, e.int64(size))
        value = ir.Constant(ir.VectorType(element, LANES), ir.Undefined)
        for r, place in enumerate(places):
            value = e.b.insert_element(value, e.load(element, place, offset), e.const(I32, r))
        e.store(_widened(e, kind, value), target_, e.b.mul(column, e.int64(STRIP_BYTES)))
        return []

    stop = e.b.and_(count, e.int64(-step))
    e.loop(e.int64(0), stop, step, [], whole, unroll=False)
    e.loop(stop, count, 1, [], single, unroll=False)


@operation(void, int64, int64, int64)
def _copy(e: Emitter, x: Value, count: Value, place: Value) -> None:
    """Copy ``count`` float32."""
    x, place = e.pointer(x), e.pointer(place)

    def whole(column: Value, _: list[Value]) -> list[Value]:
        at = e.b.mul(column, e.int64(4))
        e.store(e.load(V16F32, x, at), place, at)
        return []

    def single(column: Value, _: list[Value]) -> list[Value]:
        at = e.b.mul(column, e.int64(4))
        e.store(e.load(F32, x, at), place, at)
        return []

    stop = e.b.and_(count, e.int64(-LANES))
    e.loop(e.int64(0), stop, LANES, [], whole)
    e.loop(stop, count, 1, [], single, unroll=False)


@operation(void, int64, int64, int64, int64, int64, int64)
def _multiply(e: Emitter, strip: Value, x: Value, stride: Value, columns: Value, start: Value, sums: Value) -> None:
    """Multiply converted weights by a tile of tokens, adding to ``sums``, or to ``start`` where that is not 0.

    ``x`` and ``sums`` are the addresses of the first token's; activations lie ``stride`` bytes apart.
    """
    strip, x, sums = e.pointer(strip), e.pointer(x), e.pointer(sums)
    is_start = e.b.icmp_signed("!=", start, e.int64(0))
    source = e.b.select(is_start, e.pointer(start), sums)
    step = e.b.select(is_start, e.int64(0), e.int64(ROW_BYTES))
    stride = stride if IN_PLACE else e.int64(TOKEN_BYTES)
    tokens = [e.pointer(x, e.b.mul(e.int64(t), stride)) for t in range(TILE_TOKENS)]

    def body(column: Value, totals: list[Value]) -> list[Value]:
        here = e.pointer(strip, e.b.mul(column, e.int64(STRIP_BYTES)))
        weights = [e.load(V16F32, here, row_block * LANES * 4) for row_block in range(TILE_ROW_BLOCKS)]
        at = e.b.mul(column, e.int64(4))
        results = []
        for t, token in enumerate(tokens):  # one at a time, or registers run out
            value = e.load_splat(V16F32, token, at)
            old = totals[t * TILE_ROW_BLOCKS : (t + 1) * TILE_ROW_BLOCKS]
            results += [e.fma(w, value, total) for w, total in zip(weights, old, strict=True)]
        return results

    # From zero, so that no product waits for what earlier columns left in memory.
    totals = e.loop(e.int64(0), columns, 1, [e.zero(V16F32)] * (TILE_TOKENS * TILE_ROW_BLOCKS), body)
    for i, total in enumerate(totals):
        t, at = i // TILE_ROW_BLOCKS, i % TILE_ROW_BLOCKS * LANES * 4
        before = e.load(V16F32, e.pointer(source, e.b.mul(e.int64(t), step)), at)
        e.store(e.b.fadd(before, total), sums, t * ROW_BYTES + at)


@inner
def _chunk(columns: int) -> int:
    """Return the columns converted at a time, at most CHUNK: chunks are alike, or the last would be dear."""
    chunks = (columns + CHUNK - 1) // CHUNK
    return ((columns + chunks - 1) // chunks + LANES - 1) // LANES * LANES


def matmul_op(kind: str) -> Op:
    """Return the op that multiplies rows by any number of tokens. A strip of rows at a time is made float32 first.

    Items are units of 32 rows; words: ``MATMUL``.
    """
    size = _element_bytes(kind)

    @operation(void, int64, int64, int64, int64, int64)
    def convert(e: Emitter, rows: Value, stride: Value, last: Value, count: Value, place: Value) -> None:
        _convert(e, kind, rows, stride, last, count, place)

    @inner
    def convert_strip(args: Address, first: int, column: int, count: int, scratch: Address) -> None:
        """Convert STRIP rows from ``first`` on, ``count`` columns from ``column`` on."""
        a = load_args(MATMUL, args)
        for row_block in range(TILE_ROW_BLOCKS):
            # Row blocks past the end repeat the last row; nothing of them is stored.
            row = min(first + LANES * row_block, a.rows - 1)
            source = a.weights + (row * a.columns + column) * size
            convert(source, a.columns * size, a.rows - row - 1, count, scratch + row_block * LANES * 4)

    @inner
    def prefetch_row(args: Address, row: int, column: int, count: int) -> None:
        """Prefetch ``count`` columns of a row."""
        a = load_args(MATMUL, args)
        line = a.weights + (row * a.columns + column) * size
        for at in range(0, count * size, 64):
            prefetch(line + at)

    @inner
    def multiply_panel(args: Address, scratch: Address, start: int, stop: int, first: int, count: int) -> None:
        """Multiply units start to stop, at most UNITS, by tokens first to first + count, at most PANEL_TOKENS."""
        columns = load_word(args + MATMUL.columns)
        tiles = (count + TILE_TOKENS - 1) // TILE_TOKENS
        # A tile that is not full is copied too: it must not read behind the last token.
        in_place = count // TILE_TOKENS * TILE_TOKENS if IN_PLACE and columns % CROWDED else 0
        chunk = _chunk(columns)
        for column in range(0, columns, chunk):
            width = min(chunk, columns - column)
            x = load_word(args + MATMUL.codes) + (first * columns + column) * 4
            for t in range(in_place, count):
                _copy(x + t * columns * 4, width, scratch + PANEL_AT + (t - in_place) * TOKEN_BYTES)
            for row in range(UNIT * start, UNIT * stop, STRIP):
                place = row % UNIT * 4
                convert_strip(args, row, column, width, scratch)
                if column == 0:
                    put_start(args, row // UNIT, scratch + BIAS_AT)
                bias = 0 if column else scratch + BIAS_AT + place
                sums = scratch + SUMS_AT + (row // UNIT - start) * UNIT_SUMS + place
                is_last = row + STRIP >= UNIT * stop
                next_row, next_column = (UNIT * start, column + chunk) if is_last else (row + STRIP, column)
                for tile in range(tiles):
                    # What is converted next comes from memory, so some rows of it are prefetched with every tile.
                    for r in range(tile, STRIP, tiles):
                        prefetch_row(args, next_row + r, next_column, chunk)
                    t = tile * TILE_TOKENS
                    here, stride = x + t * columns * 4, columns * 4
                    if t >= in_place:
                        here, stride = scratch + PANEL_AT + (t - in_place) * TOKEN_BYTES, TOKEN_BYTES
                    _multiply(scratch, here, stride, width, bias, sums + t * ROW_BYTES)
        for unit in range(start, stop):
            put_unit(args, scratch + SUMS_AT + (unit - start) * UNIT_SUMS, unit, first, count)

    def matmul(args: Address, state: Address, start: int, stop: int) -> None:
        tokens, scratch = load_word(state + STATE.tokens), load_word(state + STATE.scratch)
        panel = panel_tokens(tokens, PANEL_TOKENS)
        for unit in range(start, stop, UNITS):
            for first in range(0, tokens, panel):
                count = min(panel, tokens - first)
                multiply_panel(args, scratch, unit, min(unit + UNITS, stop), first, count)

    return matmul
