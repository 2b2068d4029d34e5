"""Matrix products for F32, F16 and BF16 weights, on the file's rows as they are: float32, weights converted on the fly.

Argument and state words are those of matmul.py, with float32 activations in CODES; columns may have any number.
``matvec`` runs its lanes along the columns, four rows at a time, and adds the lanes up at the end. ``matmul`` converts
32 rows by CHUNK columns to float32 in scratch, transposed so that every lane owns a row, and multiplies those by a tile
of tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from gguflike.kernels._jit import inner, op
from gguflike.kernels.atomics import load_word
from gguflike.kernels.layout import FLOATS as FLOAT_TYPES
from gguflike.kernels.layout import LANES
from gguflike.kernels.output import add_floats, bias_rows, panel_tokens, prefetch, put_bias, put_rows, put_unit
from gguflike.kernels.simd import FLOATS, I32, INTS, SHORTS, Emitter, address, floats16, operation, target, void

Op = Callable[[int, int, int, int], None]

CHUNK = 128  # columns converted at a time: 32 rows of them fill half of a 32 KiB first-level cache
ROWS_AT_ONCE = 4
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


def _dot_rows(e: Emitter, kind: str, rows: list[Any], x: Any, columns: Any) -> list[Any]:
    """FLOATS per row (addresses), whose lanes add up to its product by ``x``."""
    size = _element_bytes(kind)
    whole = e.b.and_(columns, e.int64(-LANES))
    x = e.pointer(x)
    pointers = [e.pointer(row) for row in rows]

    def body(at: Any, totals: list[Any]) -> list[Any]:
        values = e.load(FLOATS, x, e.b.mul(at, e.int64(4)))
        offset = e.b.mul(at, e.int64(size))
        loads = [_load(e, kind, e.pointer(p, offset)) for p in pointers]
        return [e.fma(w, values, total) for w, total in zip(loads, totals, strict=True)]

    totals = e.loop(e.int64(0), whole, LANES, [e.zero(FLOATS)] * len(rows), body)
    mask = e.first_lanes(e.b.sub(columns, whole))
    values = e.load_masked(FLOATS, x, e.b.mul(whole, e.int64(4)), mask)
    offset = e.b.mul(whole, e.int64(size))
    loads = [_load(e, kind, e.pointer(p, offset), mask) for p in pointers]
    return [e.fma(w, values, total) for w, total in zip(loads, totals, strict=True)]


def _matvec(kind: str) -> Op:
    size = _element_bytes(kind)

    @operation(floats16, address, address, address, address)
    def dot_group(e: Emitter, weights: Any, last: Any, x: Any, columns: Any) -> Any:
        """Lane r: the product of row min(r, last) by x."""
        result = e.zero(FLOATS)
        for first in range(0, LANES, ROWS_AT_ONCE):
            rows = []
            for r in range(first, first + ROWS_AT_ONCE):
                number = e.minimum(e.int64(r), last)
                rows.append(e.b.add(weights, e.b.mul(number, e.b.mul(columns, e.int64(size)))))
            for r, total in enumerate(_dot_rows(e, kind, rows, x, columns)):
                result = e.b.insert_element(result, e.sum(total), ir.Constant(I32, first + r))
        return result

    def matvec(args: int, state: int, start: int, stop: int) -> None:
        weights, rows, columns, x = load_word(args), load_word(args + 8), load_word(args + 16), load_word(args + 24)
        for group in range(start, stop):
            row = LANES * group
            product = dot_group(weights + row * columns * size, rows - row - 1, x, columns)
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
