"""Products with activations of which some blocks are refined (vector/refine.py).

    refine_<type>   any number of tokens; items are those of matvec or matmul

Of one token, the op computes the products of each row block and adds what the refined blocks give at once. Of several
it has another op compute the products, a few row blocks at a time, and adds the rest while the weights are in the
cache. Blocks of a token are added in their order, each to what is in the output, so that its sums are the same bits
alone and with others. Of several tokens, those that refine the same block of a row meet its weights together: these are
unpacked once. Which tokens that are is sorted out in scratch, for as many as there is room for.
"""

from __future__ import annotations

from collections.abc import Callable

from gguflike.kernels.engine.atomics import call_op, load_args, load_word, store_word
from gguflike.kernels.engine.jit import inner
from gguflike.kernels.engine.memory import SCRATCH_BYTES, STATE
from gguflike.kernels.matmul.args import REFINE
from gguflike.kernels.matmul.direct import Token, add_block, dot_records
from gguflike.kernels.matmul.integer import Op
from gguflike.kernels.matmul.output import put_rows, start_rows
from gguflike.kernels.matmul.reader import STEPS, Record, sub_blocks
from gguflike.kernels.matmul.records import RecordFormat
from gguflike.kernels.matmul.tile import UNITS
from gguflike.kernels.vector.emitter import I32, I64, V16F32, Emitter
from gguflike.kernels.vector.lanes import f32x16, int64, operation, splat, void
from gguflike.kernels.vector.memory import (
    load_f32,
    load_f32x16,
    load_first,
    load_i32,
    store_f32x16,
    store_first,
    store_i32,
)
from gguflike.kernels.vector.sizes import BLOCK, BLOCKS_AT, CODES_AT, LANES, LISTS_AT, SUMS_AT, refined_bytes
from gguflike.kernels.vector.types import Address, F32x16, Value

ENTRY_BYTES = 8  # in scratch: number of a token and place in its list, int32 each

_list_bytes = inner(refined_bytes)


def _one_of(e: Emitter, index: Value, count: int, emit: Callable[[int], Value]) -> Value:
    """Emit ``emit(index)`` for an index below ``count``, which is known at run time only, and return what it gives."""
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
    if results[0][0] is None:
        return None
    result = e.b.phi(results[0][0].type)
    for value, block in results:
        result.add_incoming(value, block)
    return result


@inner
def _sort(refined: Address, stride: int, blocks: int, first: int, last: int, ends: Address, entries: Address) -> None:
    """Write the ``entries`` of tokens ``first`` to ``last``, by block and token, and where those of each block end,
    int32 (blocks,)."""
    for block in range(blocks):
        store_i32(ends + 4 * block, 0)
    for t in range(first, last):
        numbers = refined + stride * t + LISTS_AT + BLOCKS_AT * blocks
        for i in range(load_word(refined + stride * t)):
            place = ends + 4 * load_i32(numbers + 4 * i)
            store_i32(place, load_i32(place) + 1)
    total = 0
    for block in range(blocks):  # counts become places of the next entry, which are ends when all are there
        count = load_i32(ends + 4 * block)
        store_i32(ends + 4 * block, total)
        total += count
    for t in range(first, last):
        numbers = refined + stride * t + LISTS_AT + BLOCKS_AT * blocks
        for i in range(load_word(refined + stride * t)):
            place = ends + 4 * load_i32(numbers + 4 * i)
            entry = entries + ENTRY_BYTES * load_i32(place)
            store_i32(entry, t)
            store_i32(entry + 4, i)
            store_i32(place, load_i32(place) + 1)


def _add_all(
    e: Emitter,
    record_format: RecordFormat,
    number: int,
    record: Value,
    lists: tuple[Value, Value],
    blocks: Value,
    entries: Value,
    count: Value,
    out: tuple[Value, Value],
) -> None:
    """Add the products of block ``number`` of a record to the outputs of all tokens that have one of ``count`` entries.

    ``lists`` and ``out``: address of token 0's, and bytes from one token's to the next's.
    """
    reader = Record(e, record_format, record)
    for step in range(number * STEPS, (number + 1) * STEPS):
        reader.codes(step)  # loaded here, and kept
    for sub in range(sub_blocks(record_format)):
        reader.scale(number, sub)

    def add(index: Value, _: list[Value]) -> list[Value]:
        entry = e.pointer(entries, e.b.mul(index, e.int64(ENTRY_BYTES)))
        t, i = (e.b.zext(e.load(I32, entry, at), I64) for at in (0, 4))
        here = e.b.add(lists[0], e.b.mul(t, lists[1]))
        arrays = ((CODES_AT, BLOCK), (0, 4), (SUMS_AT, 8))
        token = Token(
            *(
                e.pointer(
                    e.b.add(here, e.b.mul(blocks, e.int64(start))),
                    e.b.mul(e.b.sub(i, e.int64(number)), e.int64(size)),
                )
                for start, size in arrays
            )
        )
        place = e.pointer(e.b.add(out[0], e.b.mul(t, out[1])))
        e.store(add_block(e, record_format, reader, number, [token], [e.load(V16F32, place)])[0], place)
        return []

    e.loop(e.int64(0), count, 1, [], add, unroll=False)


def refine_op(record_format: RecordFormat) -> Op:
    """Return the op that multiplies records by activations with refined blocks. Words: ``REFINE``."""
    weights, record_bytes = record_format.weights, record_format.record_bytes
    per_record, dot = weights // BLOCK, dot_records(record_format)

    @operation(void, int64, int64, int64, int64, int64, int64, int64, int64, int64)
    def add_entries(
        e: Emitter,
        record: Value,
        block: Value,
        lists: Value,
        list_bytes: Value,
        blocks: Value,
        entries: Value,
        count: Value,
        out: Value,
        out_bytes: Value,
    ) -> None:
        """Add the products of a block of a record to sixteen outputs of each token that has an entry."""

        def add(number: int) -> None:
            _add_all(e, record_format, number, record, (lists, list_bytes), blocks, entries, count, (out, out_bytes))

        _one_of(e, block, per_record, add)

    @operation(f32x16, int64, int64, int64, int64, int64, f32x16)
    def add_one(
        e: Emitter, record: Value, block: Value, codes: Value, scale: Value, sums: Value, total: Value
    ) -> Value:
        """Add the product of a block of a record to ``total``."""

        def add(number: int) -> Value:
            arrays = ((codes, BLOCK), (scale, 4), (sums, 8))
            token = Token(*(e.pointer(place, -size * number) for place, size in arrays))
            return add_block(e, record_format, Record(e, record_format, record), number, [token], [total])[0]

        return _one_of(e, block, per_record, add)

    @inner
    def add_blocks(first: Address, blocks: int, refined: Address, total: F32x16) -> F32x16:
        """Add to ``total`` the products of all blocks of a list by the row block whose records begin at ``first``."""
        lists = refined + LISTS_AT
        for i in range(load_word(refined)):
            block = load_i32(lists + BLOCKS_AT * blocks + 4 * i)
            codes, sums = lists + CODES_AT * blocks + BLOCK * i, lists + SUMS_AT * blocks + 8 * i
            record = first + block // per_record * record_bytes
            total = add_one(record, block % per_record, codes, lists + 4 * i, sums, total)
        return total

    @inner
    def add_list(args: Address, row_block: int, refined: Address, out: Address) -> None:
        """Add the products of all blocks of a list to sixteen outputs."""
        a = load_args(REFINE, args)
        first = a.weights + row_block * (a.columns // weights) * record_bytes
        count = LANES if a.rows >= LANES * (row_block + 1) else a.rows - LANES * row_block
        before = load_f32x16(out) if count == LANES else load_first(out, count)
        total = add_blocks(first, a.columns // BLOCK, refined, splat(0.0) if a.factor else before)
        if a.factor:
            total = before + total * splat(load_f32(a.factor))
        if count == LANES:
            store_f32x16(out, total)
        else:
            store_first(out, total, count)

    @inner
    def multiply_one(args: Address, start: int, stop: int) -> None:
        """Multiply row blocks by one token and its list, while each is in the nearest cache: fetching it from farther
        away again would wait for what is being fetched from memory for the next."""
        a = load_args(REFINE, args)
        records, of_product = a.columns // weights, args + REFINE.weights
        for row_block in range(start, stop):
            first, out = a.weights + row_block * records * record_bytes, a.out + 4 * LANES * row_block
            total = dot(first, records, a.codes, a.scales, a.sums, start_rows(of_product, row_block))
            if a.factor or a.rows < LANES * (row_block + 1):
                put_rows(of_product, row_block, 0, total)
                add_list(args, row_block, a.refined, out)
                continue
            if a.add:
                total = total + load_f32x16(out)
            store_f32x16(out, add_blocks(first, a.columns // BLOCK, a.refined, total))

    @inner
    def add_sorted(args: Address, scratch: Address, tokens: int, start: int, stop: int) -> None:
        """Add the products of row blocks of sixteen rows, of several tokens."""
        a = load_args(REFINE, args)
        blocks, list_bytes, lists = a.columns // BLOCK, _list_bytes(a.columns), a.refined + LISTS_AT
        entries = scratch + (4 * blocks + 63) // 64 * 64
        at_once = max(1, (scratch + SCRATCH_BYTES - entries) // (ENTRY_BYTES * blocks))
        for first in range(0, tokens, at_once):
            _sort(a.refined, list_bytes, blocks, first, min(first + at_once, tokens), scratch, entries)
            for row_block in range(start, stop):
                begin, out = 0, a.out + 4 * LANES * row_block
                for block in range(blocks):
                    end = load_i32(scratch + 4 * block)
                    if begin == end:
                        continue
                    record = a.weights + (row_block * (a.columns // weights) + block // per_record) * record_bytes
                    here = entries + ENTRY_BYTES * begin
                    add_entries(
                        record, block % per_record, lists, list_bytes, blocks, here, end - begin, out, 4 * a.stride
                    )
                    begin = end

    @inner
    def add_lists(args: Address, tokens: int, start: int, stop: int) -> None:
        """Add the products of row blocks, token by token."""
        a = load_args(REFINE, args)
        list_bytes = _list_bytes(a.columns)
        for row_block in range(start, stop):
            for t in range(tokens):
                refined = a.refined + list_bytes * t
                if load_word(refined):
                    add_list(args, row_block, refined, a.out + 4 * (t * a.stride + LANES * row_block))

    def refine(args: Address, state: Address, start: int, stop: int) -> None:
        a = load_args(REFINE, args)
        tokens, scratch, row_blocks = load_word(state + STATE.tokens), load_word(state + STATE.scratch), a.row_blocks
        if tokens == 1 and row_blocks == 1:
            multiply_one(args, start, stop)
            return
        for item in range(start, stop, UNITS):
            last = min(item + UNITS, stop)
            call_op(a.function, args + REFINE.weights, state, item, last)
            first, end = item * row_blocks, min(last * row_blocks, (a.rows + LANES - 1) // LANES)
            whole = first if row_blocks == 1 or a.factor else max(first, min(end, a.rows // LANES))
            if first < whole:
                store_word(state + STATE.panel_series, 0)  # of the product, which is overwritten
                add_sorted(args, scratch, tokens, first, whole)
            add_lists(args, tokens, whole, end)

    return refine
