"""Matrix products straight on quantized blocks: ``out[t, n] = sum over k of x[t, k] * w[n, k]``.

Ops, in the sense of native.py: ``op(args, state, start, stop)``. Names, work items and memory come from
``dispatch.linear_plan(format)``, so that a caller never names a block type.

    matvec_<type>   one token; items are row blocks of 16 rows
    matmul_<type>   any number of tokens; items are 32 rows each

and, in vector/quantize.py, ``rows``: activations to int8; items are tokens.

Argument words are those of ``MATMUL`` (args.py). Of the state, ``matmul`` uses the tokens of the pass and the thread's
scratch memory; ``matvec`` computes one token without either.

Activations are quantized per token and 32 columns: ``code = round(x / s)`` with ``s = max|x| / 127``, and ``scale`` is
s rounded to the 11 bits of mantissa that a float16 has (llama.cpp's Q8_0 does the same, so results agree closely). The
short mantissa is what lets the kernels turn an integer sum into a float and scale it in one fma (see panels.py).
"""

from __future__ import annotations

from collections.abc import Callable

from gguflike.kernels.engine.atomics import load_args, load_word
from gguflike.kernels.engine.jit import inner
from gguflike.kernels.engine.memory import STATE
from gguflike.kernels.matmul import panels, tile
from gguflike.kernels.matmul.args import MATMUL
from gguflike.kernels.matmul.direct import MOST, dot_records, make_direct
from gguflike.kernels.matmul.few import make_few
from gguflike.kernels.matmul.output import panel_tokens, put_rows, put_start, put_unit, start_rows
from gguflike.kernels.matmul.reader import sub_blocks
from gguflike.kernels.matmul.records import RecordFormat
from gguflike.kernels.vector.emitter import Emitter
from gguflike.kernels.vector.lanes import int64, operation, void
from gguflike.kernels.vector.memory import prefetch
from gguflike.kernels.vector.sizes import BLOCK, LANES
from gguflike.kernels.vector.types import Address, Value

Op = Callable[[Address, Address, int, int], None]

UNIT_SUMS = tile.PANEL_TOKENS * tile.ROW_BYTES  # bytes of the sums of one unit


def matvec_op(record_format: RecordFormat) -> Op:
    """Return the op that multiplies records by one token. Items are row blocks; words: ``MATMUL``."""
    dot, weights, record_bytes = dot_records(record_format), record_format.weights, record_format.record_bytes

    def matvec(args: Address, state: Address, start: int, stop: int) -> None:
        a = load_args(MATMUL, args)
        records = a.columns // weights
        for row_block in range(start, stop):
            record = a.weights + row_block * records * record_bytes
            total = dot(record, records, a.codes, a.scales, a.sums, start_rows(args, row_block))
            put_rows(args, row_block, 0, total)

    return matvec


def matmul_op(record_format: RecordFormat) -> Op:
    """Return the op that multiplies records by any number of tokens. Items are units of 32 rows; words: ``MATMUL``."""

    @operation(void, int64, int64, int64)
    def unpack(e: Emitter, record: Value, codes: Value, scales: Value) -> None:
        tile.unpack(e, record_format, record, codes, scales)

    @operation(void, int64, int64, int64, int64, int64)
    def prepare(e: Emitter, codes: Value, scales: Value, sums: Value, blocks: Value, panel: Value) -> None:
        panels.prepare(e, record_format, codes, scales, sums, blocks, panel)

    @operation(void, int64, int64, int64, int64)
    def prepare_whole(e: Emitter, codes: Value, scales: Value, sums: Value, panel: Value) -> None:
        panels.prepare(e, record_format, codes, scales, sums, None, panel)

    @operation(void, int64, int64, int64, int64, int64)
    def multiply(e: Emitter, scratch: Value, panel: Value, start: Value, sums: Value, blocks: Value) -> None:
        tile.multiply(e, record_format, scratch, panel, start, sums, blocks)

    weights, record_bytes = record_format.weights, record_format.record_bytes
    tile_tokens = tile.tile_tokens(record_format)
    record_blocks, sub_bytes = weights // BLOCK, sub_blocks(record_format) * tile.SUB_BYTES
    token_bytes, block_codes = panels.token_bytes(record_format), tile.block_codes(record_format)
    most = panels.chunk(record_format)  # columns of a panel

    @inner
    def unpack_unit(packed: Address, columns: int, unit: int, column: int, chunk: int, scratch: Address) -> None:
        """Unpack ``chunk`` columns of 32 rows from ``column`` on."""
        for row_block in range(2):
            record = packed + ((2 * unit + row_block) * columns + column) // weights * record_bytes
            for r in range(chunk // weights):
                block = r * record_blocks
                unpack(
                    record + r * record_bytes,
                    scratch + tile.CODES_AT + block * block_codes + row_block * 64,
                    scratch + tile.SCALES_AT + block * sub_bytes + row_block * 64,
                )

    @inner
    def prepare_panel(args: Address, first: int, count: int, column: int, blocks: int, scratch: Address) -> None:
        """Write the panel of ``count`` tokens from ``first`` on, ``blocks`` blocks from ``column`` on."""
        a = load_args(MATMUL, args)
        for t in range(count):
            at = (first + t) * a.columns + column
            panel = scratch + tile.PANEL_AT + t * token_bytes
            if blocks == panels.CHUNK_BLOCKS:
                prepare_whole(a.codes + at, a.scales + at // 8, a.sums + at // 4, panel)
            else:
                prepare(a.codes + at, a.scales + at // 8, a.sums + at // 4, blocks, panel)

    @inner
    def multiply_panel(args: Address, scratch: Address, start: int, stop: int, first: int, count: int) -> None:
        """Multiply units start to stop, at most UNITS, by tokens first to first + count, at most PANEL_TOKENS."""
        columns, packed = load_word(args + MATMUL.columns), load_word(args + MATMUL.weights)
        # What is unpacked next comes from memory, so a piece of it is prefetched with every tile.
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
                    put_start(args, unit, scratch + tile.BIAS_AT)
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

    @inner
    def many(args: Address, scratch: Address, tokens: int, start: int, stop: int) -> None:
        """Multiply units start to stop by all tokens, panel by panel."""
        panel = panel_tokens(tokens, tile.PANEL_TOKENS)
        for unit in range(start, stop, tile.UNITS):
            for first in range(0, tokens, panel):
                count = min(panel, tokens - first)
                multiply_panel(args, scratch, unit, min(unit + tile.UNITS, stop), first, count)

    direct, (is_few, few) = make_direct(record_format), make_few(record_format)

    def matmul(args: Address, state: Address, start: int, stop: int) -> None:
        tokens, scratch = load_word(state + STATE.tokens), load_word(state + STATE.scratch)
        row_blocks = (load_word(args + MATMUL.rows) + LANES - 1) // LANES
        if tokens <= MOST:
            direct(args, scratch, tokens, 2 * start, min(2 * stop, row_blocks))
        elif is_few(tokens, load_word(args + MATMUL.columns)):
            few(args, state, tokens, 2 * start, min(2 * stop, row_blocks))
        else:
            many(args, scratch, tokens, start, stop)

    return matmul
