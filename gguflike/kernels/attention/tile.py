"""The two products of attention, for a tile of queries: with a panel of keys, and of weights with a panel of values.

    queries   float32 (dim, rows): what the rows of a tile have in one dimension stands together
    panel     float32 (dim, 16): sixteen keys, or (keys, 16): sixteen dimensions of values; expanded from the cache. A
              tile that is alone reads float16 from the cache itself
    scores    float32 (rows, ATTENTION_KEYS), or weights (softmax.py)

A lane is a key, then a dimension of the output, so that nothing is summed across lanes. Every element of a result is
one chain of fma in the order of dimensions or keys, whatever the tile, so that a token's result does not depend on the
others that it is computed with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gguflike.kernels.attention.softmax import GROW, ROW, SHRINK
from gguflike.kernels.vector.emitter import V16F32, V16I16, Emitter, target
from gguflike.kernels.vector.lanes import int64, operation, void
from gguflike.kernels.vector.types import Value

# Rows of a tile of many: a sum for each of them, a vector of the panel and one query fit in the registers.
HEIGHT = 12 if "avx512f" in target()[1] else 6
PANEL = 64  # bytes of a row of a panel

Load = Callable[[Emitter, Value, Value], Value]  # (emitter, address, offset) -> V16F32


def columns(rows: int) -> int:
    """Return the panels that a tile of ``rows`` takes at a time: two where one chain of sums a row would wait."""
    return 2 if 2 * rows < HEIGHT else 1


def _parts(rows: int) -> list[range]:
    """Divide the rows into ranges of HEIGHT at most."""
    count = -(-rows // HEIGHT)
    return [range(i * rows // count, (i + 1) * rows // count) for i in range(count)]


def floats(e: Emitter, place: Value, offset: Value) -> Value:
    """Load sixteen float32 of an expanded panel."""
    return e.load(V16F32, place, offset)


def halves(e: Emitter, place: Value, offset: Value) -> Value:
    """Load sixteen float16 of the cache, widened."""
    return e.f16_to_f32(e.load(V16I16, place, offset))


def make_scores(rows: int, columns: int, load: Load = floats) -> Any:
    """Return a kernel (queries, panels, dim, scores) that writes the scores of ``columns`` panels side by side."""
    width = _width(load)

    @operation(void, int64, int64, int64, int64)
    def scores(e: Emitter, queries: Value, panel: Value, dim: Value, out: Value) -> None:
        queries, out = e.pointer(queries), e.pointer(out)
        panels = [e.pointer(panel, e.b.mul(dim, e.int64(c * width))) for c in range(columns)]
        for part in _parts(rows):

            def add(d: Value, sums: list[Value], part: range = part) -> list[Value]:
                keys = [load(e, each, e.b.mul(d, e.int64(width))) for each in panels]
                here = e.pointer(queries, e.b.mul(d, e.int64(4 * rows)))
                return _add_products(e, keys, [e.load_splat(V16F32, here, 4 * r) for r in part], sums)

            sums = e.loop(e.int64(0), dim, 1, [e.zero(V16F32)] * (len(part) * columns), add)
            for i, total in enumerate(sums):
                e.store(total, out, ROW * part[i // columns] + 64 * (i % columns))

    return scores


def make_values(rows: int, columns: int, load: Load = floats, merged: bool = False) -> Any:
    """Return a kernel (weights, panel, step, count, state, out, stride): the weighted sums of ``count`` values by row.

    Values are ``step`` bytes apart, and the ``columns`` panels side by side. ``out`` has rows ``stride`` bytes apart.
    ``merged``: the sums are merged into it as ``state`` says (softmax.py); else they replace it.
    """
    width = _width(load)

    @operation(void, int64, int64, int64, int64, int64, int64, int64)
    def values(
        e: Emitter, weights: Value, panel: Value, step: Value, count: Value, state: Value, out: Value, stride: Value
    ) -> None:
        weights, panel, state = e.pointer(weights), e.pointer(panel), e.pointer(state)
        for part in _parts(rows):

            def add(key: Value, sums: list[Value], part: range = part) -> list[Value]:
                place = e.pointer(panel, e.b.mul(key, step))
                vectors = [load(e, place, c * width) for c in range(columns)]
                here = e.pointer(weights, e.b.mul(key, e.int64(4)))
                return _add_products(e, vectors, [e.load_splat(V16F32, here, ROW * r) for r in part], sums)

            sums = e.loop(e.int64(0), count, 1, [e.zero(V16F32)] * (len(part) * columns), add)
            for i, total in enumerate(sums):
                row = part[i // columns]
                place = e.pointer(e.pointer(out, e.b.mul(stride, e.int64(row))), 64 * (i % columns))
                if merged:
                    grown = e.b.fmul(total, e.load_splat(V16F32, state, GROW + 4 * row))
                    total = e.fma(e.load(V16F32, place), e.load_splat(V16F32, state, SHRINK + 4 * row), grown)
                e.store(total, place)

    return values


def _width(load: Load) -> int:
    """Return the bytes that ``load`` takes."""
    return PANEL if load is floats else PANEL // 2


def _add_products(e: Emitter, vectors: list[Value], factors: list[Value], sums: list[Value]) -> list[Value]:
    """Add the product of each factor by each vector to the sums, the vectors running faster."""
    terms = [(vector, factor) for factor in factors for vector in vectors]
    return [e.fma(*term, total) for term, total in zip(terms, sums, strict=True)]


@operation(void, int64, int64, int64, int64, int64)
def merge_row(e: Emitter, out: Value, part: Value, dim: Value, state: Value, row: Value) -> None:
    """Merge ``dim`` sums of a block at ``part`` into ``out``, as ``make_values`` does, for a row of the state's."""
    out, part = e.pointer(out), e.pointer(part)
    lane = e.pointer(state, e.b.mul(row, e.int64(4)))
    shrink, grow = e.load_splat(V16F32, lane, SHRINK), e.load_splat(V16F32, lane, GROW)

    def add(index: Value, nothing: list[Value]) -> list[Value]:
        at = e.b.mul(index, e.int64(4))
        e.store(e.fma(e.load(V16F32, out, at), shrink, e.b.fmul(e.load(V16F32, part, at), grow)), out, at)
        return nothing

    e.loop(e.int64(0), dim, 16, [], add)
