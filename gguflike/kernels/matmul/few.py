"""The blocked matmul for a few tokens: one row block after the other, as it lies in memory.

What is prepared of the tokens (panels.py) stands in scratch for all columns, so that the weights of a row block are
read in order, at the speed of memory, as long as the products hide behind it; a stretch of them is unpacked at a time,
and stays in the first-level cache while all tokens meet it. Tiles are as small as their tokens are few.
"""

from __future__ import annotations

from typing import Any

from gguflike.kernels.engine.atomics import load_args, load_word, store_word
from gguflike.kernels.engine.jit import inner
from gguflike.kernels.engine.memory import SCRATCH_BYTES, STATE
from gguflike.kernels.matmul import panels, tile
from gguflike.kernels.matmul.args import MATMUL
from gguflike.kernels.matmul.output import put_rows, start_rows
from gguflike.kernels.matmul.records import RecordFormat
from gguflike.kernels.vector.emitter import Emitter
from gguflike.kernels.vector.lanes import int64, operation, void
from gguflike.kernels.vector.memory import load_f32x16, store_f32x16
from gguflike.kernels.vector.sizes import BLOCK
from gguflike.kernels.vector.types import Address, Value

MOST = 32  # tokens
TILES = (6, 4, 2)  # tokens of a tile
STRETCH = 256
AHEAD = 16384  # bytes that are prefetched in advance; 2 to 32 KiB were measured

# Where in scratch the sums and the panel are, behind what tile.py keeps before its own.
SUMS_AT = tile.SUMS_AT
PANEL_AT = SUMS_AT + MOST * tile.ROW_BYTES


def make_few(record_format: RecordFormat) -> tuple[Any, Any]:
    """Return two kernels: whether so many tokens of so many columns are a few, and the products of these."""
    weights, record_bytes = record_format.weights, record_format.record_bytes
    record_blocks, token_bytes, chunk = weights // BLOCK, panels.token_bytes(record_format), panels.chunk(record_format)
    block_codes, block_factors = tile.block_codes(record_format, 1), tile.block_factors(record_format, 1)

    @operation(void, int64, int64, int64)
    def unpack(e: Emitter, record: Value, codes: Value, scales: Value) -> None:
        tile.unpack(e, record_format, record, codes, scales, 1)

    @operation(void, int64, int64, int64, int64, int64)
    def prepare(e: Emitter, codes: Value, scales: Value, sums: Value, blocks: Value, panel: Value) -> None:
        panels.prepare(e, record_format, codes, scales, sums, blocks, panel)

    def make_multiply(tokens: int) -> Any:
        @operation(void, int64, int64, int64, int64, int64, int64, int64)
        def multiply(
            e: Emitter,
            scratch: Value,
            panel: Value,
            start: Value,
            sums: Value,
            first: Value,
            blocks: Value,
            record: Value,
        ) -> None:
            unpacked = tile.Unpacked(e, scratch, range(1), 1, e.pointer(record, AHEAD))
            tile.multiply_rows(record_format, unpacked, panel, start, sums, first, blocks, tokens)

        return multiply

    by_six, by_four, by_two = (make_multiply(tokens) for tokens in TILES)

    @inner
    def is_few(tokens: int, columns: int) -> bool:
        chunks = (columns + chunk - 1) // chunk
        few: bool = tokens <= MOST and PANEL_AT + chunks * ((tokens + 1) // 2 * 2) * token_bytes <= SCRATCH_BYTES
        return few

    @inner
    def prepare_all(args: Address, state: Address, panel: Address, tokens: int, panel_bytes: int) -> None:
        """Write the panels of all columns, one chunk after the other, unless the call before has left them: an op's
        items come piece by piece, and several matrices read the same activations."""
        a, series = load_args(MATMUL, args), load_word(state + STATE.series)
        is_left = series != 0 and load_word(state + STATE.panel_series) == series
        of_these = load_word(state + STATE.panel_codes) == a.codes
        if is_left and of_these and load_word(state + STATE.panel_columns) == a.columns:
            return
        store_word(state + STATE.panel_series, series)
        store_word(state + STATE.panel_codes, a.codes)
        store_word(state + STATE.panel_columns, a.columns)
        for column in range(0, a.columns, chunk):
            blocks = min(chunk, a.columns - column) // BLOCK
            for t in range(tokens):
                at = t * a.columns + column
                prepare(a.codes + at, a.scales + at // 8, a.sums + at // 4, blocks, panel + t * token_bytes)
            panel += panel_bytes

    @inner
    def multiply_stretch(
        scratch: Address, panel: Address, tokens: int, start: int, first: int, blocks: int, record: Address
    ) -> None:
        """Multiply what is unpacked, from block ``first`` of the panel on, by all tokens."""
        t = 0
        while t < tokens:
            left = tokens - t
            here, sums = panel + t * token_bytes, scratch + SUMS_AT + t * tile.ROW_BYTES
            if left > 8 or left == 6 or left == 5:
                by_six(scratch, here, start, sums, first, blocks, record)
                t += 6
            elif left > 2:
                by_four(scratch, here, start, sums, first, blocks, record)
                t += 4
            else:
                by_two(scratch, here, start, sums, first, blocks, record)
                t += 2

    @inner
    def few(args: Address, state: Address, tokens: int, start: int, stop: int) -> None:
        """Multiply row blocks ``start`` to ``stop`` by the tokens."""
        a, scratch = load_args(MATMUL, args), load_word(state + STATE.scratch)
        panel_bytes = (tokens + 1) // 2 * 2 * token_bytes
        prepare_all(args, state, scratch + PANEL_AT, tokens, panel_bytes)
        record = a.weights + start * (a.columns // weights) * record_bytes
        for row_block in range(start, stop):
            store_f32x16(scratch + tile.BIAS_AT, start_rows(args, row_block))
            for column in range(0, a.columns, STRETCH):
                count, packed = min(STRETCH, a.columns - column), record
                for r in range(count // weights):
                    codes = scratch + tile.CODES_AT + r * record_blocks * block_codes
                    unpack(record, codes, scratch + tile.SCALES_AT + r * record_blocks * block_factors)
                    record += record_bytes
                panel, first = scratch + PANEL_AT + column // chunk * panel_bytes, column % chunk // BLOCK
                multiply_stretch(scratch, panel, tokens, column == 0, first, count // BLOCK, packed)
            for t in range(tokens):
                put_rows(args, row_block, t, load_f32x16(scratch + SUMS_AT + t * tile.ROW_BYTES))

    return is_few, few
