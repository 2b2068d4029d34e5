"""The inner kernel of the blocked matmul: 32 rows x a few tokens x up to 512 columns, on unpacked weights.

A thread's scratch memory holds what the kernel reads and writes:

    codes    uint8 (blocks, steps, 2 groups, 64): weights + offset, unpacked
    scales   float32 (blocks, sub-blocks, 2 groups, 16), then minima alike
    bias     float32 (2 groups, 16), what sums start from
    sums     float32 (UNITS, PANEL_TOKENS, 2 groups, 16), which the chunks of columns add to
    panel    per token: int8 (CHUNK,) codes of the activations, then fields of float32 or int32 (CHUNK_BLOCKS,): their
             scales, those times -MAGIC, then per sub-block the start of the integer sum, then per sub-block the float
             sum for the minima

The integer sums of a block start at MAGIC's bits - offset * sum(activations), so that they end as the bits of the float
MAGIC + s, where s is the dot product with the signed weights (|s| < 2**22). One fma then gives scale * s:
``(MAGIC + s) * scale - MAGIC * scale`` is exact before its only rounding, since MAGIC = 3 * 2**22 and the scale has at
most 22 bits of mantissa, which makes MAGIC * scale a float. This saves a conversion and the correction for the offset.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from gguflike.kernels.layout import BLOCK, LANES, Layout
from gguflike.kernels.records import STEPS, Record, sub_blocks
from gguflike.kernels.simd import BYTES, FLOATS, I8, INTS, Emitter, target

CHUNK = 512  # columns unpacked at a time: 32 rows of them fill half of a 32 KiB first-level cache
CHUNK_BLOCKS = CHUNK // BLOCK
MAGIC = 3.0 * 2**22
MAGIC_BITS = 0x4B400000
GROUPS = 2
CODES = ir.VectorType(I8, BLOCK)

# Registers decide the tile: sums of integers and of floats for every token and row should stay in them.
TILE_TOKENS, TILE_GROUPS = (6, 2) if "avx512f" in target()[1] else (3, 1)

# A panel of tokens is prepared once for some units of 32 rows, whose sums stay in scratch until the last column:
# writing them to the output for every chunk costs a third of the time, since its rows are far apart in memory.
PANEL_TOKENS, UNITS = 120, 8

BLOCK_CODES = STEPS * GROUPS * 64
SUB_BYTES = GROUPS * LANES * 4
FIELD_BYTES = 4 * CHUNK_BLOCKS
ROW_BYTES = GROUPS * LANES * 4

# Byte offsets in scratch; sizes allow for two sub-blocks.
CODES_AT = 0
SCALES_AT = CODES_AT + CHUNK_BLOCKS * BLOCK_CODES
MINIMA_AT = SCALES_AT + CHUNK_BLOCKS * 2 * SUB_BYTES
BIAS_AT = MINIMA_AT + CHUNK_BLOCKS * 2 * SUB_BYTES
SUMS_AT = BIAS_AT + ROW_BYTES
PANEL_AT = SUMS_AT + UNITS * PANEL_TOKENS * ROW_BYTES


def integer_sums(layout: Layout) -> int:
    """Sums of integers per block: one for each scale."""
    return sub_blocks(layout) if layout.folded_offset is None else 1


def fields(layout: Layout) -> int:
    """Fields per token of a panel."""
    return 2 + integer_sums(layout) + (sub_blocks(layout) if layout.minimum else 0)


def token_bytes(layout: Layout) -> int:
    """Bytes per token of a panel."""
    return CHUNK + fields(layout) * FIELD_BYTES


def unpack(e: Emitter, layout: Layout, record: Any, codes: Any, scales: Any) -> None:
    """Writes codes, scales and minima of one record of one group: ``codes`` and ``scales`` are the addresses of its
    first block's."""
    reader = Record(e, layout, record)
    subs, folded = sub_blocks(layout), layout.folded_offset is not None
    codes, scales = e.pointer(codes), e.pointer(scales)
    for block in range(layout.weights // BLOCK):
        for step in range(block * STEPS, (block + 1) * STEPS):
            value = reader.folded_codes(step) if folded else reader.codes(step)
            e.store(value, codes, block * BLOCK_CODES + step % STEPS * GROUPS * 64)
        for sub in range(subs):
            at = (block * subs + sub) * SUB_BYTES
            e.store(reader.super_scale() if folded else reader.scale(block, sub), scales, at)
            if layout.minimum:
                e.store(reader.minimum(block, sub), scales, MINIMA_AT - SCALES_AT + at)


def prepare(e: Emitter, layout: Layout, codes: Any, scales: Any, sums: Any, blocks: Any, panel: Any) -> None:
    """Writes a token's part of the panel, for up to CHUNK_BLOCKS blocks (None: for all). The addresses are those of the
    token's first block of the chunk."""
    codes, panel = e.pointer(codes), e.pointer(panel)
    if blocks is None:
        for at in range(0, CHUNK, 64):
            e.store(e.load(BYTES, codes, at), panel, at)
        scale = e.load(FLOATS, scales)
        first, second = e.load(INTS, sums), e.load(INTS, sums, 4 * LANES)
    else:
        e.loop(e.int64(0), e.b.mul(blocks, e.int64(BLOCK)), BLOCK, [], _copier(e, codes, panel))
        scale = e.load_masked(FLOATS, scales, 0, e.first_lanes(blocks))
        halves = e.b.mul(blocks, e.int64(2))
        first = e.load_masked(INTS, sums, 0, e.first_lanes(halves))
        second = e.load_masked(INTS, sums, 4 * LANES, e.first_lanes(e.b.sub(halves, e.int64(LANES))))
    panel = e.pointer(panel, CHUNK)
    e.store(scale, panel)
    e.store(e.b.fmul(scale, e.const(FLOATS, -MAGIC)), panel, FIELD_BYTES)
    per_sub = [e.b.shuffle_vector(first, second, e.const(INTS, list(range(odd, 32, 2)))) for odd in (0, 1)]
    whole = [e.b.add(*per_sub)]
    offset = layout.offset if layout.folded_offset is None else layout.folded_offset
    values = [
        e.b.sub(e.const(INTS, MAGIC_BITS), e.b.mul(total, e.const(INTS, offset)))
        for total in (whole if integer_sums(layout) == 1 else per_sub)
    ]
    if layout.minimum:
        values += [e.b.fmul(e.to_float(total), scale) for total in (whole if sub_blocks(layout) == 1 else per_sub)]
    for field, value in enumerate(values):
        e.store(value, panel, (2 + field) * FIELD_BYTES)


def _copier(e: Emitter, source: Any, place: Any) -> Callable[[Any, list[Any]], list[Any]]:
    """The body of a loop that copies blocks of codes."""

    def copy(at: Any, _: list[Any]) -> list[Any]:
        e.store(e.load(CODES, source, at), place, at)
        return []

    return copy


def multiply(e: Emitter, layout: Layout, scratch: Any, panel: Any, start: Any, sums: Any, blocks: Any) -> None:
    """Multiplies the unpacked weights by a tile of tokens, adding to ``sums``, or to the bias where ``start`` is not 0.

    ``panel`` and ``sums`` are the addresses of the first token's parts.
    """
    base = e.pointer(scratch)
    is_start = e.b.icmp_signed("!=", start, e.int64(0))
    source = e.pointer(e.b.select(is_start, e.b.add(scratch, e.int64(BIAS_AT)), sums))
    stride = e.b.select(is_start, e.int64(0), e.int64(ROW_BYTES))
    places = [e.pointer(source, e.b.mul(e.int64(t), stride)) for t in range(TILE_TOKENS)]
    sums = e.pointer(sums)
    for first in range(0, GROUPS, TILE_GROUPS):
        groups = range(first, first + TILE_GROUPS)
        starts = [[e.load(FLOATS, place, group * 64) for group in groups] for place in places]
        totals = _over_blocks(e, layout, base, e.pointer(panel), groups, blocks, starts)
        for t, row in enumerate(totals):
            for group, value in zip(groups, row, strict=True):
                e.store(value, sums, t * ROW_BYTES + group * 64)


def _over_blocks(
    e: Emitter, layout: Layout, base: Any, panel: Any, groups: range, blocks: Any, starts: list[list[Any]]
) -> list[list[Any]]:
    """The loop over blocks: adds to ``starts``, FLOATS [token][group]."""
    width = len(groups)

    def body(index: Any, values: list[Any]) -> list[Any]:
        totals = [values[i : i + width] for i in range(0, len(values), width)]
        _add_block(e, layout, base, panel, groups, index, totals)
        return [value for row in totals for value in row]

    values = e.loop(e.int64(0), blocks, 1, [value for row in starts for value in row], body)
    return [values[i : i + width] for i in range(0, len(values), width)]


def _add_block(
    e: Emitter, layout: Layout, base: Any, panel: Any, groups: range, index: Any, totals: list[list[Any]]
) -> None:
    """Adds block number ``index`` to ``totals`` [token][group]."""
    subs, scales_of = sub_blocks(layout), integer_sums(layout)
    wide = layout.largest > 127 if layout.folded_offset is None else layout.folded_offset > 0
    row = token_bytes(layout)
    codes = e.pointer(base, e.b.add(e.b.mul(index, e.int64(BLOCK_CODES)), e.int64(CODES_AT)))
    factors = e.pointer(base, e.b.add(e.b.mul(index, e.int64(subs * SUB_BYTES)), e.int64(SCALES_AT)))
    activations = e.pointer(panel, e.b.mul(index, e.int64(BLOCK)))
    panel = e.pointer(panel, e.b.add(e.b.mul(index, e.int64(4)), e.int64(CHUNK)))
    for sub in range(scales_of):
        sums = [[e.broadcast(INTS, panel, t * row + (2 + sub) * FIELD_BYTES)] * len(groups) for t in range(TILE_TOKENS)]
        for step in range(sub * STEPS // scales_of, (sub + 1) * STEPS // scales_of):
            weights = [e.load(BYTES, codes, (step * GROUPS + group) * 64) for group in groups]
            for t in range(TILE_TOKENS):
                four = e.broadcast(BYTES, activations, t * row + 4 * step)
                sums[t] = [e.dot(acc, w, four, wide) for acc, w in zip(sums[t], weights, strict=True)]
        scales = [e.load(FLOATS, factors, sub * SUB_BYTES + group * 64) for group in groups]
        for t in range(TILE_TOKENS):
            scale = e.broadcast(FLOATS, panel, t * row)
            bias = e.broadcast(FLOATS, panel, t * row + FIELD_BYTES)
            for i, acc in enumerate(sums[t]):
                scaled = e.fma(e.b.bitcast(acc, FLOATS), scale, bias)
                totals[t][i] = e.fma(scaled, scales[i], totals[t][i])
    for sub in range(subs if layout.minimum else 0):
        at = MINIMA_AT - SCALES_AT + sub * SUB_BYTES
        minima = [e.load(FLOATS, factors, at + group * 64) for group in groups]
        for t in range(TILE_TOKENS):
            total = e.broadcast(FLOATS, panel, t * row + (2 + scales_of + sub) * FIELD_BYTES)
            totals[t] = [e.fma(minimum, total, value) for minimum, value in zip(minima, totals[t], strict=True)]
