"""Matrix products for F32, F16 and BF16 weights, on the file's rows as they are: float32, weights converted on the fly.

Argument and state words are those of matmul.py, with float32 activations in CODES; columns may have any number.
``matvec`` takes one row after the other, as they lie, since memory is fastest when it is read in order; its lanes run
along the columns and are added up at the end of each row. ``matmul`` converts 32 rows by CHUNK columns to float32 in
scratch, transposed so that every lane owns a row, and multiplies those by a tile of tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gguflike.kernels._jit import inner, op
from gguflike.kernels.atomics import load_word
from gguflike.kernels.layout import FLOATS as FLOAT_TYPES
from gguflike.kernels.layout import LANES
from gguflike.kernels.output import add_floats, bias_rows, panel_tokens, prefetch, put_bias, put_rows, put_unit
from gguflike.kernels.simd import FLOATS, I32, INTS, SHORTS, Emitter, address, floats16, operation, target, void

Op = Callable[[int, int, int, int], None]

CHUNK = 128  # columns converted at a time: 32 rows of them fill half of a 32 KiB first-level cache
AHEAD = 1024  # bytes that matvec asks for memory in advance, beside what the machine guesses from reading in order
CHAINS = 4  # sums of 16 lanes in matvec: more in flight than an fma takes cycles
GROUPS = 2
# Registers decide the tile: a sum for every token and row should stay in them.
TILE_TOKENS, TILE_GROUPS = (12, 2) if "avx512f" in target()[1] else (6, 1)
ROW_BYTES = GROUPS * LANES * 4

# As in tile.py, a panel of tokens is copied once for some units of 32 rows, whose sums stay in scratch. Its rows are
# not a power of two bytes apart, as activations may be: those would fall into the same places of the cache.
PANEL_TOKENS, UNITS = 96, 8
TOKEN_BYTES = CHUNK * 4 + 64
UNIT_SUMS = PANEL_TOKENS * ROW_BYTES

# Byte offsets in scratch, after the converted weights.
BIAS_AT = CHUNK * ROW_BYTES
SUMS_AT = BIAS_AT + ROW_BYTES
PANEL_AT = SUMS_AT + UNITS * UNIT_SUMS


def _element_bytes(kind: str) -> int:
    return 4 if kind == "F32" else 2


def _load(e: Emitter, kind: str, place: Any, mask: Any = None) -> Any:
    """FLOATS: 16 weights, those outside the mask (if any) zero."""
    if kind == "F32":
        return e.load(FLOATS, place) if mask is None else e.load_masked(FLOATS, place, 0, mask)
    bits = e.load(SHORTS, place) if mask is None else e.load_masked(SHORTS, place, 0, mask)
    if kind == "F16":
        return e.halves_to_float(bits)
    return e.b.bitcast(e.b.shl(e.b.zext(bits, INTS), e.const(INTS, 16)), FLOATS)


def _dot_row(e: Emitter, kind: str, row: Any, x: Any, columns: Any) -> Any:
    """FLOATS whose lanes add up to the product of a row by ``x``."""
    size = _element_bytes(kind)
    row, x = e.pointer(row), e.pointer(x)

    def add(at: Any, total: Any, mask: Any = None) -> Any:
        values = e.pointer(x, e.b.mul(at, e.int64(4)))
        values = e.load(FLOATS, values) if mask is None else e.load_masked(FLOATS, values, 0, mask)
        return e.fma(_load(e, kind, e.pointer(row, e.b.mul(at, e.int64(size))), mask), values, total)

    def chains(at: Any, totals: list[Any]) -> list[Any]:
        here = e.pointer(row, e.b.mul(at, e.int64(size)))
        for line in range(0, CHAINS * LANES * size, 64):
            e.prefetch(here, AHEAD + line)
        return [add(e.b.add(at, e.int64(i * LANES)), total) for i, total in enumerate(totals)]

    def single(at: Any, totals: list[Any]) -> list[Any]:
        return [add(at, totals[0])]

    def rest(at: Any, totals: list[Any]) -> list[Any]:
        return [add(at, totals[0], e.first_lanes(e.b.sub(columns, at)))]

    many, whole = e.b.and_(columns, e.int64(-CHAINS * LANES)), e.b.and_(columns, e.int64(-LANES))
    totals = e.loop(e.int64(0), many, CHAINS * LANES, [e.zero(FLOATS)] * CHAINS, chains, unroll=False)
    while len(totals) > 1:
        totals = [e.b.fadd(a, b) for a, b in zip(totals[::2], totals[1::2], strict=True)]
    totals = e.loop(many, whole, LANES, totals, single)
    return e.loop(whole, columns, LANES, totals, rest)[0]


def _matvec(kind: str) -> Op:
    size = _element_bytes(kind)

    @operation(floats16, address, address, address, address)
    def dot_rows(e: Emitter, weights: Any, rows: Any, x: Any, columns: Any) -> Any:
        """Lane r: the product of row r by x, for at most 16 rows."""
        lanes, row_bytes = e.const(INTS, range(LANES)), e.b.mul(columns, e.int64(size))

        def dot_row(r: Any, results: list[Any]) -> list[Any]:
            product = e.sum(_dot_row(e, kind, e.b.add(weights, e.b.mul(r, row_bytes)), x, columns))
            is_here = e.b.icmp_signed("==", lanes, e.splat(INTS, e.b.trunc(r, I32)))
            return [e.b.select(is_here, e.splat(FLOATS, product), results[0])]

        count = e.minimum(rows, e.int64(LANES))
        return e.loop(e.int64(0), count, 1, [e.zero(FLOATS)], dot_row)[0]

    def matvec(args: int, state: int, start: int, stop: int) -> None:
        weights, rows, columns, x = load_word(args), load_word(args + 8), load_word(args + 16), load_word(args + 24)
        for group in range(start, stop):
            row = LANES * group
            product = dot_rows(weights + row * columns * size, rows - row, x, columns)
            put_rows(args, group, 0, add_floats(product, bias_rows(args, group)))

    return matvec


def _convert(e: Emitter, kind: str, rows: Any, stride: Any, last: Any, count: Any, target_: Any) -> None:
    """16 rows (``stride`` bytes apart; those after number ``last`` repeat it) by up to 16 columns, transposed to FLOATS
    in ``target_``, ``GROUPS`` vectors apart."""
    mask = e.first_lanes(count)
    vectors = []
    for r in range(LANES):
        number = e.minimum(e.int64(r), last)
        vectors.append(_load(e, kind, e.b.add(rows, e.b.mul(number, stride)), mask))
    for column, value in enumerate(e.transposed(vectors)):
        e.store(value, target_, column * GROUPS * LANES * 4)


@operation(void, address, address, address)
def _copy(e: Emitter, x: Any, count: Any, place: Any) -> None:
    """``count`` floats, rounded up to 16 with zeros."""
    x, place = e.pointer(x), e.pointer(place)

    def copy(column: Any, _: list[Any]) -> list[Any]:
        at = e.b.mul(column, e.int64(4))
        e.store(e.load_masked(FLOATS, x, at, e.first_lanes(e.b.sub(count, column))), place, at)
        return []

    e.loop(e.int64(0), count, LANES, [], copy)


@operation(void, address, address, address, address, address)
def _multiply(e: Emitter, scratch: Any, panel: Any, columns: Any, start: Any, sums: Any) -> None:
    """Converted weights by a tile of tokens, added to ``sums``, or to the bias where ``start`` is not 0.

    ``panel`` and ``sums`` are the addresses of the first token's parts.
    """
    base, panel = e.pointer(scratch), e.pointer(panel)
    is_start = e.b.icmp_signed("!=", start, e.int64(0))
    source = e.pointer(e.b.select(is_start, e.b.add(scratch, e.int64(BIAS_AT)), sums))
    stride = e.b.select(is_start, e.int64(0), e.int64(ROW_BYTES))
    sources = [e.pointer(source, e.b.mul(e.int64(t), stride)) for t in range(TILE_TOKENS)]
    for first in range(0, GROUPS, TILE_GROUPS):
        groups = range(first, first + TILE_GROUPS)

        def body(column: Any, totals: list[Any], groups: range = groups) -> list[Any]:
            here = e.pointer(base, e.b.mul(column, e.int64(ROW_BYTES)))
            weights = [e.load(FLOATS, here, group * LANES * 4) for group in groups]
            values = e.pointer(panel, e.b.mul(column, e.int64(4)))
            results = []
            for t in range(TILE_TOKENS):
                value = e.broadcast(FLOATS, values, t * TOKEN_BYTES)
                old = totals[t * TILE_GROUPS : (t + 1) * TILE_GROUPS]
                results += [e.fma(w, value, total) for w, total in zip(weights, old, strict=True)]
            return results

        starts = [e.load(FLOATS, place, group * LANES * 4) for place in sources for group in groups]
        for i, value in enumerate(e.loop(e.int64(0), columns, 1, starts, body)):
            t, group = divmod(i, TILE_GROUPS)
            e.store(value, e.pointer(sums), t * ROW_BYTES + (first + group) * LANES * 4)


def _matmul(kind: str) -> Op:
    size = _element_bytes(kind)

    @operation(void, address, address, address, address, address)
    def convert(e: Emitter, rows: Any, stride: Any, last: Any, count: Any, place: Any) -> None:
        _convert(e, kind, rows, stride, last, count, place)

    @inner
    def convert_unit(args: int, unit: int, column: int, count: int, scratch: int) -> None:
        """32 rows of ``count`` columns from ``column`` on."""
        weights, rows, columns = load_word(args), load_word(args + 8), load_word(args + 16)
        for group in range(GROUPS):
            # A second group past the end repeats the last row; nothing of it is stored.
            row = min(LANES * (GROUPS * unit + group), rows - 1)
            for k in range(0, count, LANES):
                source = weights + (row * columns + column + k) * size
                place = scratch + (k * GROUPS + group) * LANES * 4
                convert(source, columns * size, rows - row - 1, count - k, place)

    @inner
    def multiply_panel(args: int, scratch: int, start: int, stop: int, first: int, count: int) -> None:
        """Units start to stop, at most UNITS, by tokens first to first + count, at most PANEL_TOKENS."""
        columns, x = load_word(args + 16), load_word(args + 24)
        panel, sums = scratch + PANEL_AT, scratch + SUMS_AT
        tiles = (count + TILE_TOKENS - 1) // TILE_TOKENS
        for column in range(0, columns, CHUNK):
            width = min(CHUNK, columns - column)
            for t in range(count):
                _copy(x + ((first + t) * columns + column) * 4, width, panel + t * TOKEN_BYTES)
            for unit in range(start, stop):
                convert_unit(args, unit, column, width, scratch)
                if column == 0:
                    put_bias(args, unit, scratch + BIAS_AT)
                row = sums + (unit - start) * UNIT_SUMS
                ahead = unit + 1 if unit + 1 < stop else start
                ahead_at = column if unit + 1 < stop else column + CHUNK
                for t in range(0, count, TILE_TOKENS):
                    # What is converted next comes from afar, so some rows of it are asked for with every tile.
                    for r in range(t // TILE_TOKENS, 2 * LANES, tiles):
                        line = load_word(args) + ((2 * LANES * ahead + r) * columns + ahead_at) * size
                        for at in range(0, CHUNK * size, 64):
                            prefetch(line + at)
                    _multiply(scratch, panel + t * TOKEN_BYTES, width, column == 0, row + t * ROW_BYTES)
        for unit in range(start, stop):
            put_unit(args, sums + (unit - start) * UNIT_SUMS, unit, first, count)

    def matmul(args: int, state: int, start: int, stop: int) -> None:
        tokens, scratch = load_word(state), load_word(state + 24)
        panel = panel_tokens(tokens, PANEL_TOKENS)
        for unit in range(start, stop, UNITS):
            for first in range(0, tokens, panel):
                count = min(panel, tokens - first)
                multiply_panel(args, scratch, unit, min(unit + UNITS, stop), first, count)

    return matmul


for _kind in FLOAT_TYPES:
    op(f"matmul_float:matvec_{_kind}")(_matvec(_kind))
    op(f"matmul_float:matmul_{_kind}")(_matmul(_kind))
