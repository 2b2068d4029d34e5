"""Matrix products straight on quantized blocks: ``out[t, n] = sum over k of x[t, k] * w[n, k]``.

Ops, in the sense of native.py: ``op(args, state, start, stop)``. Names, work items and memory come from
``dispatch.linear_plan(format)``, so that a caller never names a block type.

    matvec_<type>   one token; items are groups of 16 rows
    matmul_<type>   any number of tokens; items are 32 rows each

and, in vector/quantize.py, ``rows``: activations to int8; items are tokens.

Argument words are those of ``MATMUL`` (args.py). Of the state, ``matmul`` uses the tokens of the pass and the thread's
scratch memory; ``matvec`` computes one token without either.

Activations are quantized per token and 32 columns: ``code = round(x / s)`` with ``s = max|x| / 127``, and ``scale`` is
s rounded to the 11 bits of mantissa that a float16 has (llama.cpp's Q8_0 does the same, so results agree closely). The
short mantissa is what lets the kernels turn an integer sum into a float and scale it in one fma (see tile.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

from gguflike.kernels.engine.atomics import load_args, load_word
from gguflike.kernels.engine.jit import inner
from gguflike.kernels.engine.memory import STATE
from gguflike.kernels.matmul import tile
from gguflike.kernels.matmul.args import MATMUL
from gguflike.kernels.matmul.output import bias_rows, panel_tokens, put_bias, put_rows, put_unit
from gguflike.kernels.matmul.reader import STEPS, Record, sub_blocks
from gguflike.kernels.matmul.records import RecordFormat
from gguflike.kernels.vector.dot import ByteSums
from gguflike.kernels.vector.emitter import F32, I32, V16F32, V16I32, V64I8, Emitter
from gguflike.kernels.vector.lanes import f32x16, int64, operation, void
from gguflike.kernels.vector.memory import prefetch
from gguflike.kernels.vector.sizes import BLOCK

Op = Callable[[int, int, int, int], None]

AHEAD = 8192  # bytes that matvec asks for memory in advance; 1 to 24 KiB were measured
UNIT_SUMS = tile.PANEL_TOKENS * tile.ROW_BYTES  # bytes of the sums of one unit


def _dot_record(e: Emitter, layout: RecordFormat, record: Any, codes: Any, scales: Any, sums: Any, total: Any) -> Any:
    """Adds to ``total`` (V16F32) the product of one record by one token.

    Every rounding is that of the blocked matmul (tile.py), so that a token's result does not depend on how many are
    computed with it.
    """
    reader = Record(e, layout, record)
    codes, scales, sums = e.pointer(codes), e.pointer(scales), e.pointer(sums)
    blocks = layout.weights // BLOCK
    lines = layout.record_bytes // 64

    def add(block: int, total: Any) -> Any:
        for line in range(block * lines // blocks, (block + 1) * lines // blocks):
            e.prefetch(record, AHEAD + 64 * line)
        reader.forget()
        return _add_block(e, layout, reader, block, codes, scales, sums, total)

    return e.in_turn(total, [partial(add, block) for block in range(blocks)])


def _add_block(
    e: Emitter, layout: RecordFormat, reader: Record, block: int, codes: Any, scales: Any, sums: Any, total: Any
) -> Any:
    """Adds block number ``block`` of a record to ``total``."""
    subs = sub_blocks(layout)
    activation_scale = e.load(F32, scales, 4 * block)
    every_scale = e.splat(V16F32, activation_scale)
    folded, minima = None, []
    for sub in range(subs):
        halves = range(2 * block, 2 * block + 2) if subs == 1 else (2 * block + sub,)
        activation_sum = e.const(I32, 0)
        if layout.offset or layout.minimum:
            for half in halves:
                activation_sum = e.b.add(activation_sum, e.load(I32, sums, 4 * half))
        product = e.to_float(_dot_sub_block(e, layout, reader, codes, activation_sum, block, sub))
        if layout.folded_offset is None:
            total = e.fma(e.b.fmul(product, every_scale), reader.scale(block, sub), total)
        else:  # integers below 2**24: exact
            product = e.b.fmul(product, reader.folded_scale(block, sub))
            folded = product if folded is None else e.b.fadd(folded, product)
        if layout.minimum:
            scaled_sum = e.b.fmul(e.b.sitofp(activation_sum, F32), activation_scale)
            minima.append((reader.minimum(block, sub), e.splat(V16F32, scaled_sum)))
    if folded is not None:
        total = e.fma(e.b.fmul(folded, every_scale), reader.super_scale(), total)
    for minimum, scaled_sum in minima:
        total = e.fma(minimum, scaled_sum, total)
    return total


def _dot_sub_block(
    e: Emitter, layout: RecordFormat, reader: Record, codes: Any, total: Any, block: int, sub: int
) -> Any:
    """V16I32: signed weights times activations."""
    subs = sub_blocks(layout)
    start = e.b.mul(total, e.const(I32, -layout.offset))
    sums = ByteSums(e, layout.largest)
    totals = [sums.begin(e.splat(V16I32, start) if layout.offset else e.zero(V16I32))]
    totals += [sums.begin(e.zero(V16I32)) for _ in range(1, sums.chains)]
    for count, step in enumerate(range(sub * STEPS // subs, (sub + 1) * STEPS // subs)):
        turn = count % sums.chains
        if count // sums.chains and count // sums.chains % sums.run == 0:
            totals[turn] = sums.settle(totals[turn])
        four = e.load_splat(V64I8, codes, block * BLOCK + 4 * step)
        weights = (reader.nibbles if sums.halved else reader.codes)(block * STEPS + step)
        totals[turn] = sums.add(totals[turn], weights, four)
    return reduce(e.b.add, (sums.value(total) for total in totals))


def matvec_op(layout: RecordFormat) -> Op:
    @operation(f32x16, int64, int64, int64, int64, f32x16)
    def dot_record(e: Emitter, record: Any, codes: Any, scales: Any, sums: Any, total: Any) -> Any:
        return _dot_record(e, layout, record, codes, scales, sums, total)

    weights, record_bytes = layout.weights, layout.record_bytes

    def matvec(args: int, state: int, start: int, stop: int) -> None:
        a = load_args(MATMUL, args)
        records = a.columns // weights
        record = a.weights + start * records * record_bytes
        for group in range(start, stop):
            total = bias_rows(args, group)
            for r in range(records):
                total = dot_record(
                    record, a.codes + r * weights, a.scales + r * (weights // 8), a.sums + r * (weights // 4), total
                )
                record += record_bytes
            put_rows(args, group, 0, total)

    return matvec


def matmul_op(layout: RecordFormat) -> Op:
    @operation(void, int64, int64, int64)
    def unpack(e: Emitter, record: Any, codes: Any, scales: Any) -> None:
        tile.unpack(e, layout, record, codes, scales)

    @operation(void, int64, int64, int64, int64, int64)
    def prepare(e: Emitter, codes: Any, scales: Any, sums: Any, blocks: Any, panel: Any) -> None:
        tile.prepare(e, layout, codes, scales, sums, blocks, panel)

    @operation(void, int64, int64, int64, int64)
    def prepare_whole(e: Emitter, codes: Any, scales: Any, sums: Any, panel: Any) -> None:
        tile.prepare(e, layout, codes, scales, sums, None, panel)

    @operation(void, int64, int64, int64, int64, int64)
    def multiply(e: Emitter, scratch: Any, panel: Any, start: Any, sums: Any, blocks: Any) -> None:
        tile.multiply(e, layout, scratch, panel, start, sums, blocks)

    weights, record_bytes = layout.weights, layout.record_bytes
    tile_tokens = tile.tile_tokens(layout)
    record_blocks, sub_bytes = weights // BLOCK, sub_blocks(layout) * tile.SUB_BYTES
    token_bytes, block_codes, most = tile.token_bytes(layout), tile.block_codes(layout), tile.chunk(layout)

    @inner
    def unpack_unit(packed: int, columns: int, unit: int, column: int, chunk: int, scratch: int) -> None:
        """32 rows of the columns from ``column`` on."""
        for group in range(2):
            record = packed + ((2 * unit + group) * columns + column) // weights * record_bytes
            for r in range(chunk // weights):
                block = r * record_blocks
                unpack(
                    record + r * record_bytes,
                    scratch + tile.CODES_AT + block * block_codes + group * 64,
                    scratch + tile.SCALES_AT + block * sub_bytes + group * 64,
                )

    @inner
    def prepare_panel(args: int, first: int, count: int, column: int, blocks: int, scratch: int) -> None:
        """``count`` tokens from ``first`` on, ``blocks`` blocks from ``column`` on."""
        a = load_args(MATMUL, args)
        for t in range(count):
            at = (first + t) * a.columns + column
            panel = scratch + tile.PANEL_AT + t * token_bytes
            if blocks == tile.CHUNK_BLOCKS:
                prepare_whole(a.codes + at, a.scales + at // 8, a.sums + at // 4, panel)
            else:
                prepare(a.codes + at, a.scales + at // 8, a.sums + at // 4, blocks, panel)

    @inner
    def multiply_panel(args: int, scratch: int, start: int, stop: int, first: int, count: int) -> None:
        """Units start to stop, at most UNITS, by tokens first to first + count, at most PANEL_TOKENS."""
        columns, packed = load_word(args + MATMUL.columns), load_word(args + MATMUL.weights)
        # What is unpacked next comes from afar, so a piece of it is asked for with every tile.
        tiles = (count + tile_tokens - 1) // tile_tokens
        piece = most // weights * record_bytes // tiles + 64
        sums = scratch + tile.SUMS_AT
        for column in range(0, columns, most):
            chunk = min(most, columns - column)
            blocks = chunk // BLOCK
            prepare_panel(args, first, count, column, blocks, scratch)
            for unit in range(start, stop):
                unpack_unit(packed, columns, unit, column, chunk, scratch)
                if unit + 1 < stop:
                    ahead = packed + (2 * (unit + 1) * columns + column) // weights * record_bytes
                else:
                    ahead = packed + (2 * start * columns + column + most) // weights * record_bytes
                if column == 0:
                    put_bias(args, unit, scratch + tile.BIAS_AT)
                row = sums + (unit - start) * UNIT_SUMS
                for t in range(0, count, tile_tokens):
                    panel = scratch + tile.PANEL_AT + t * token_bytes
                    for line in range(ahead, ahead + piece, 64):
                        prefetch(line)
                        prefetch(line + columns // weights * record_bytes)
                    ahead += piece
                    multiply(scratch, panel, column == 0, row + t * tile.ROW_BYTES, blocks)
        for unit in range(start, stop):
            put_unit(args, sums + (unit - start) * UNIT_SUMS, unit, first, count)

    def matmul(args: int, state: int, start: int, stop: int) -> None:
        tokens, scratch = load_word(state + STATE.tokens), load_word(state + STATE.scratch)
        panel = panel_tokens(tokens, tile.PANEL_TOKENS)
        for unit in range(start, stop, tile.UNITS):
            for first in range(0, tokens, panel):
                count = min(panel, tokens - first)
                multiply_panel(args, scratch, unit, min(unit + tile.UNITS, stop), first, count)

    return matmul
