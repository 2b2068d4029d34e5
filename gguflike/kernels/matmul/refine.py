"""What refined blocks of activations add to products that are there already (vector/refine.py).

    refine_<type>   any number of tokens; items are row blocks of 16 rows

The blocks of a token are taken in the order of its list, so that its sums are the same bits alone and with others.
"""

from __future__ import annotations

from collections.abc import Callable

from gguflike.kernels.engine.atomics import load_args, load_word
from gguflike.kernels.engine.jit import inner
from gguflike.kernels.engine.memory import STATE
from gguflike.kernels.matmul.args import REFINE
from gguflike.kernels.matmul.integer import Op, add_block
from gguflike.kernels.matmul.output import put_rows
from gguflike.kernels.matmul.reader import Record
from gguflike.kernels.matmul.records import RecordFormat
from gguflike.kernels.vector.emitter import Emitter
from gguflike.kernels.vector.lanes import f32x16, int64, operation, splat
from gguflike.kernels.vector.memory import load_i32
from gguflike.kernels.vector.sizes import BLOCK, BLOCKS_AT, CODES_AT, LANES, LISTS_AT, SUMS_AT, refined_bytes
from gguflike.kernels.vector.types import Address, Value

_list_bytes = inner(refined_bytes)


def _one_of(e: Emitter, index: Value, count: int, emit: Callable[[int], Value]) -> Value:
    """Emit ``emit(index)`` for an index below ``count``, which is known at run time only."""
    if count == 1:
        return emit(0)
    end = e.b.append_basic_block("end")
    cases = [e.b.append_basic_block("case") for _ in range(count)]
    switch = e.b.switch(index, cases[0])
    results = []
    for number, case in enumerate(cases):
        if number:
            switch.add_case(e.int64(number), case)
        e.b.position_at_end(case)
        results.append((emit(number), e.b.block))
        e.b.branch(end)
    e.b.position_at_end(end)
    result = e.b.phi(results[0][0].type)
    for value, block in results:
        result.add_incoming(value, block)
    return result


def refine_op(record_format: RecordFormat) -> Op:
    """Return the op that adds the products of records and refined blocks. Words: ``REFINE``."""
    weights, record_bytes = record_format.weights, record_format.record_bytes
    per_record = weights // BLOCK

    @operation(f32x16, int64, int64, int64, int64, int64, f32x16)
    def dot_block(
        e: Emitter, record: Value, block: Value, codes: Value, scale: Value, sums: Value, total: Value
    ) -> Value:
        """Add the product of a block of a record to ``total``; codes, scale and sums are of that block alone."""

        def add(number: int) -> Value:
            at = (
                e.pointer(codes, -BLOCK * number),
                e.pointer(scale, -4 * number),
                e.pointer(sums, -8 * number),
            )
            return add_block(e, record_format, Record(e, record_format, record), number, *at, total)

        return _one_of(e, block, per_record, add)

    def refine(args: Address, state: Address, start: int, stop: int) -> None:
        a = load_args(REFINE, args)
        tokens, blocks, stride = load_word(state + STATE.tokens), a.columns // BLOCK, _list_bytes(a.columns)
        for row_block in range(start, min(stop, (a.rows + LANES - 1) // LANES)):
            first = a.weights + row_block * (a.columns // weights) * record_bytes
            for t in range(tokens):
                count, lists = load_word(a.refined + stride * t), a.refined + stride * t + LISTS_AT
                if count == 0:
                    continue
                total = splat(0.0)
                for i in range(count):
                    block = load_i32(lists + BLOCKS_AT * blocks + 4 * i)
                    record = first + block // per_record * record_bytes
                    codes, sums = lists + CODES_AT * blocks + BLOCK * i, lists + SUMS_AT * blocks + 8 * i
                    total = dot_block(record, block % per_record, codes, lists + 4 * i, sums, total)
                put_rows(args, row_block, t, total)

    return refine
