"""Matrix products for F32, F16 and BF16 weights, on the file's rows as they are: float32 fma, weights converted on the fly.

Argument and state words are those of matmul.py, with float32 activations in CODES; columns may have any number.
``matvec`` runs its lanes along the columns, four rows at a time, and adds the lanes up at the end. ``matmul`` converts
32 rows by CHUNK columns to float32 in scratch, transposed so that every lane owns a row, and multiplies those by a tile
of tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from gguflike.kernels._jit import op
from gguflike.kernels.atomics import load_word
from gguflike.kernels.layout import FLOATS as FLOAT_TYPES
from gguflike.kernels.layout import LANES
from gguflike.kernels.output import load_floats, store_rows
from gguflike.kernels.simd import F32, FLOATS, I64, INTS, SHORTS, Emitter, address, floats16, operation, target, void

Op = Callable[[int, int, int, int], None]

CHUNK = 256  # columns converted at a time: 32 KiB of scratch
ROWS_AT_ONCE = 4
GROUPS = 2
# Registers decide the tile: a sum for every token and row should stay in them.
TILE_TOKENS, TILE_GROUPS = (12, 2) if "avx512f" in target()[1] else (6, 1)
OUT_AT = CHUNK * GROUPS * LANES * 4


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
                result = e.b.insert_element(result, e.sum(total), ir.Constant(ir.IntType(32), first + r))
        return result

    def matvec(args: int, state: int, start: int, stop: int) -> None:  # noqa: ARG001  # the signature of ops
        weights, rows, columns, x = load_word(args), load_word(args + 8), load_word(args + 16), load_word(args + 24)
        for group in range(start, stop):
            row = LANES * group
            store_rows(args, group, 0, dot_group(weights + row * columns * size, rows - row - 1, x, columns), True)

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


def _multiply(e: Emitter, scratch: Any, x: Any, stride: Any, last: Any, columns: Any) -> None:
    """Converted weights by a tile of tokens into scratch's ``out``; ``x`` addresses the first token's chunk, tokens are
    ``stride`` bytes apart and those after number ``last`` repeat it."""
    base = e.pointer(scratch)
    tokens = [e.pointer(x, e.b.mul(e.minimum(e.int64(t), last), stride)) for t in range(TILE_TOKENS)]
    for first in range(0, GROUPS, TILE_GROUPS):
        groups = range(first, first + TILE_GROUPS)

        def body(column: Any, totals: list[Any], groups: range = groups) -> list[Any]:
            here = e.pointer(base, e.b.mul(column, e.int64(GROUPS * LANES * 4)))
            weights = [e.load(FLOATS, here, group * LANES * 4) for group in groups]
            results = []
            for t, token in enumerate(tokens):
                value = e.broadcast(FLOATS, token, e.b.mul(column, e.int64(4)))
                old = totals[t * TILE_GROUPS : (t + 1) * TILE_GROUPS]
                results += [e.fma(w, value, total) for w, total in zip(weights, old, strict=True)]
            return results

        sums = e.loop(e.int64(0), columns, 1, [e.zero(FLOATS)] * (TILE_TOKENS * TILE_GROUPS), body)
        for i, value in enumerate(sums):
            t, group = divmod(i, TILE_GROUPS)
            e.store(value, base, OUT_AT + (t * GROUPS + first + group) * LANES * 4)


def _matmul(kind: str) -> Op:
    size = _element_bytes(kind)

    @operation(void, address, address, address, address, address)
    def convert(e: Emitter, rows: Any, stride: Any, last: Any, count: Any, place: Any) -> None:
        _convert(e, kind, rows, stride, last, count, place)

    @operation(void, address, address, address, address, address)
    def multiply(e: Emitter, scratch: Any, x: Any, stride: Any, last: Any, columns: Any) -> None:
        _multiply(e, scratch, x, stride, last, columns)

    def matmul(args: int, state: int, start: int, stop: int) -> None:
        weights, rows, columns, x = load_word(args), load_word(args + 8), load_word(args + 16), load_word(args + 24)
        tokens, scratch = load_word(state), load_word(state + 24)
        for unit in range(start, stop):
            for column in range(0, columns, CHUNK):
                count = min(CHUNK, columns - column)
                for group in range(GROUPS):
                    # A second group past the end repeats the last row; nothing of it is stored.
                    row = min(LANES * (GROUPS * unit + group), rows - 1)
                    for k in range(0, count, LANES):
                        convert(
                            weights + (row * columns + column + k) * size,
                            columns * size,
                            rows - row - 1,
                            count - k,
                            scratch + (k * GROUPS + group) * LANES * 4,
                        )
                for t in range(0, tokens, TILE_TOKENS):
                    last = min(TILE_TOKENS, tokens - t) - 1
                    multiply(scratch, x + (t * columns + column) * 4, columns * 4, last, count)
                    for i in range((last + 1) * GROUPS):
                        value = load_floats(scratch + OUT_AT + i * LANES * 4)
                        store_rows(args, GROUPS * unit + i % GROUPS, t + i // GROUPS, value, column == 0)

    return matmul


for _kind in FLOAT_TYPES:
    op(f"matmul_float:matvec_{_kind}")(_matvec(_kind))
    op(f"matmul_float:matmul_{_kind}")(_matmul(_kind))
