"""The inner kernel of the blocked matmul: 32 rows x a few tokens x up to 512 columns, on unpacked weights.

A thread's scratch memory holds what the kernel reads and writes:

    codes    uint8 (blocks, steps, 2 groups, 64): weights + offset, unpacked
    scales   float32 (blocks, sub-blocks, 2 groups, 16), then minima alike
    out      float32 (TILE_TOKENS, 2 groups, 16)
    panel    per token, FIELDS x float32 or int32 (CHUNK_BLOCKS,): the activation's scale, its product with -MAGIC,
             then per sub-block the start of the integer sum, then per sub-block the float sum for the minima

The integer sums of a block start at MAGIC's bits - offset * sum(activations), so that they end as the bits of the float
MAGIC + s, where s is the dot product with the signed weights (|s| < 2**22). One fma then gives scale * s:
``(MAGIC + s) * scale - MAGIC * scale`` is exact before its only rounding, since MAGIC = 3 * 2**22 and the scale has at
most 22 bits of mantissa, which makes MAGIC * scale a float. This saves the conversion and the correction for the offset.
"""

from __future__ import annotations

from typing import Any

from gguflike.kernels.layout import BLOCK, LANES, Layout
from gguflike.kernels.records import STEPS, Record, sub_blocks
from gguflike.kernels.simd import BYTES, FLOATS, I64, INTS, Emitter, target

CHUNK = 512  # columns unpacked at a time: 32 rows of them fill half of a 32 KiB first-level cache
CHUNK_BLOCKS = CHUNK // BLOCK
MAGIC = 3.0 * 2**22
MAGIC_BITS = 0x4B400000
GROUPS = 2

# Registers decide the tile: sums of integers and of floats for every token and row should stay in them.
TILE_TOKENS, TILE_GROUPS = (6, 2) if "avx512f" in target()[1] else (3, 1)

BLOCK_CODES = STEPS * GROUPS * 64
SUB_BYTES = GROUPS * LANES * 4
FIELD_BYTES = 4 * CHUNK_BLOCKS
ROW_BYTES = GROUPS * LANES * 4

# Byte offsets in scratch; sizes allow for two sub-blocks.
CODES_AT = 0
SCALES_AT = CODES_AT + CHUNK_BLOCKS * BLOCK_CODES
MINIMA_AT = SCALES_AT + CHUNK_BLOCKS * 2 * SUB_BYTES
OUT_AT = MINIMA_AT + CHUNK_BLOCKS * 2 * SUB_BYTES
PANEL_AT = OUT_AT + 16 * ROW_BYTES
PANEL_TOKENS = 240  # tokens whose panel is prepared at a time; a multiple of both tile heights


def fields(layout: Layout) -> int:
    """Fields per token of a panel."""
    return 2 + sub_blocks(layout) * (2 if layout.minimum else 1)


def unpack(e: Emitter, layout: Layout, record: Any, codes: Any, scales: Any) -> None:
    """Writes codes, scales and minima of one record of one group: ``codes`` and ``scales`` are the addresses of its
    first block's."""
    reader = Record(e, layout, record)
    subs = sub_blocks(layout)
    codes, scales = e.pointer(codes), e.pointer(scales)
    for block in range(layout.weights // BLOCK):
        for step in range(STEPS):
            e.store(reader.codes(block * STEPS + step), codes, block * BLOCK_CODES + step * GROUPS * 64)
        for sub in range(subs):
            at = (block * subs + sub) * SUB_BYTES
            e.store(reader.scale(block, sub), scales, at)
            if layout.minimum:
                e.store(reader.minimum(block, sub), scales, MINIMA_AT - SCALES_AT + at)


def prepare(e: Emitter, layout: Layout, scales: Any, sums: Any, blocks: Any, panel: Any) -> None:
    """Writes a token's part of the panel, for up to CHUNK_BLOCKS blocks; ``scales`` and ``sums`` address the token's."""
    subs = sub_blocks(layout)
    scale = e.load_masked(FLOATS, scales, 0, e.first_lanes(blocks))
    e.store(scale, panel)
    e.store(e.b.fmul(scale, e.const(FLOATS, -MAGIC)), panel, FIELD_BYTES)
    halves = e.b.mul(blocks, e.int64(2))
    first = e.load_masked(INTS, sums, 0, e.first_lanes(halves))
    second = e.load_masked(INTS, sums, 4 * LANES, e.first_lanes(e.b.sub(halves, e.int64(LANES))))
    per_sub = [e.b.shuffle_vector(first, second, e.const(INTS, list(range(odd, 32, 2)))) for odd in (0, 1)]
    if subs == 1:
        per_sub = [e.b.add(*per_sub)]
    for sub, total in enumerate(per_sub):
        start = e.b.sub(e.const(INTS, MAGIC_BITS), e.b.mul(total, e.const(INTS, layout.offset)))
        e.store(start, panel, (2 + sub) * FIELD_BYTES)
        if layout.minimum:
            e.store(e.b.fmul(e.to_float(total), scale), panel, (2 + subs + sub) * FIELD_BYTES)


def multiply(
    e: Emitter, layout: Layout, scratch: Any, panel: Any, activations: Any, stride: Any, last: Any, blocks: Any
) -> None:
    """Multiplies the unpacked weights by a tile of tokens, into scratch's ``out``.

    ``panel`` is the first token's part; ``activations`` the address of its codes of this chunk; ``stride`` bytes lie
    between tokens; tokens after the tile's number ``last`` repeat that one. ``blocks`` >= 1.
    """
    base = e.pointer(scratch)
    tokens = []
    for t in range(TILE_TOKENS):
        tokens.append(e.pointer(e.b.add(activations, e.b.mul(e.minimum(e.int64(t), last), stride))))
    for first in range(0, GROUPS, TILE_GROUPS):
        sums = _over_blocks(e, layout, base, e.pointer(panel), tokens, range(first, first + TILE_GROUPS), blocks)
        for t, row in enumerate(sums):
            for i, value in enumerate(row):
                e.store(value, base, OUT_AT + t * ROW_BYTES + (first + i) * 64)


def _over_blocks(
    e: Emitter, layout: Layout, base: Any, panel: Any, tokens: list[Any], groups: range, blocks: Any
) -> list[Any]:
    """The loop over blocks: FLOATS sums, [token][group]."""
    shape = [len(groups)] * len(tokens)

    def rows(values: list[Any]) -> list[Any]:
        return [values[sum(shape[:t]) : sum(shape[: t + 1])] for t in range(len(shape))]

    def body(index: Any, values: list[Any]) -> list[Any]:
        totals = _one_block(e, layout, base, panel, tokens, groups, index, rows(values))
        return [value for row in totals for value in row]

    return rows(e.loop(e.int64(0), blocks, 1, [e.zero(FLOATS)] * sum(shape), body))


def _one_block(
    e: Emitter, layout: Layout, base: Any, panel: Any, tokens: list[Any], groups: range, index: Any, totals: list[Any]
) -> list[Any]:
    """Adds block number ``index`` to ``totals`` [token][group]."""
    subs = sub_blocks(layout)
    wide = layout.largest > 127
    row = fields(layout) * FIELD_BYTES
    codes = e.pointer(base, e.b.add(e.b.mul(index, e.int64(BLOCK_CODES)), e.int64(CODES_AT)))
    factors = e.pointer(base, e.b.add(e.b.mul(index, e.int64(subs * SUB_BYTES)), e.int64(SCALES_AT)))
    panel = e.pointer(panel, e.b.mul(index, e.int64(4)))
    tokens = [e.pointer(token, e.b.mul(index, e.int64(BLOCK))) for token in tokens]
    for sub in range(subs):
        sums = [[e.broadcast(INTS, panel, t * row + (2 + sub) * FIELD_BYTES)] * len(groups) for t in range(len(tokens))]
        for step in range(sub * STEPS // subs, (sub + 1) * STEPS // subs):
            weights = [e.load(BYTES, codes, (step * GROUPS + group) * 64) for group in groups]
            for t, token in enumerate(tokens):
                four = e.broadcast(BYTES, token, 4 * step)
                sums[t] = [e.dot(acc, w, four, wide) for acc, w in zip(sums[t], weights, strict=True)]
        at = [sub * SUB_BYTES + group * 64 for group in groups]
        scales = [e.load(FLOATS, factors, a) for a in at]
        minima = [e.load(FLOATS, factors, MINIMA_AT - SCALES_AT + a) for a in at] if layout.minimum else []
        for t in range(len(tokens)):
            scale = e.broadcast(FLOATS, panel, t * row)
            bias = e.broadcast(FLOATS, panel, t * row + FIELD_BYTES)
            for i, acc in enumerate(sums[t]):
                scaled = e.fma(e.b.bitcast(acc, FLOATS), scale, bias)
                totals[t][i] = e.fma(scaled, scales[i], totals[t][i])
                if minima:
                    total = e.broadcast(FLOATS, panel, t * row + (2 + subs + sub) * FIELD_BYTES)
                    totals[t][i] = e.fma(minima[i], total, totals[t][i])
    return totals
