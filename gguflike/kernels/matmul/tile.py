"""The inner kernel of the blocked matmul: 32 rows x a few tokens x a chunk of columns, on unpacked weights.

A thread's scratch memory holds what the kernel reads and writes:

    codes    uint8 (blocks, steps, 2 groups, 64): weights + offset, unpacked; where words are multiplied, int16
             (blocks, steps, even or odd columns, 2 groups, 32): weights
    scales   float32 (blocks, sub-blocks, 2 groups, 16), then minima alike
    bias     float32 (2 groups, 16), what sums start from
    sums     float32 (UNITS, PANEL_TOKENS, 2 groups, 16), which the chunks of columns add to
    panel    per token: CHUNK_BYTES of the activations' codes, int8 or int16, then fields of float32 or int32
             (CHUNK_BLOCKS,): their scales, those times -MAGIC, then per sub-block the start of the integer sum, then
             per sub-block the float sum for the minima

The integer sums of a block start at MAGIC's bits - offset * sum(activations), so that they end as the bits of the float
MAGIC + s, where s is the dot product with the signed weights (|s| < 2**22). One fma then gives scale * s:
``(MAGIC + s) * scale - MAGIC * scale`` is exact before its only rounding, since MAGIC = 3 * 2**22 and the scale has at
most 22 bits of mantissa, which makes MAGIC * scale a float. This saves a conversion and the correction for the offset.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from llvmlite import ir

from gguflike.kernels.matmul.reader import STEPS, Record, sub_blocks
from gguflike.kernels.matmul.records import RecordFormat
from gguflike.kernels.vector.dot import LARGEST_SIGNED, MULTIPLY_ADD, ByteSums, Sums, WordSums, byte_run
from gguflike.kernels.vector.emitter import I8, I16, I32, V16F32, V16I32, V32I16, V64I8, Emitter, target
from gguflike.kernels.vector.sizes import BLOCK, LANES

CHUNK_BYTES = 512  # of a row unpacked at a time: 32 rows of them fill half of a 32 KiB first-level cache
CHUNK_BLOCKS = CHUNK_BYTES // BLOCK  # at most
MAGIC = 3.0 * 2**22
MAGIC_BITS = 0x4B400000
GROUPS = 2
CODES = ir.VectorType(I8, BLOCK)

TILE_GROUPS = 2 if "avx512f" in target()[1] else 1
LONG_RUN = 4  # additions of products in 16 bits; where fewer can follow each other, sums stand in 32 bits all the time

# A panel of tokens is prepared once for some units of 32 rows, whose sums stay in scratch until the last column:
# writing them to the output for every chunk costs a third of the time, since its rows are far apart in memory.
PANEL_TOKENS, UNITS = 120, 8  # tokens: a multiple of every tile's

STEP_CODES = GROUPS * 64
SUB_BYTES = GROUPS * LANES * 4
FIELD_BYTES = 4 * CHUNK_BLOCKS
ROW_BYTES = GROUPS * LANES * 4

# Byte offsets in scratch; sizes allow for two sub-blocks.
CODES_AT = 0
SCALES_AT = CODES_AT + CHUNK_BLOCKS * STEPS * STEP_CODES
MINIMA_AT = SCALES_AT + CHUNK_BLOCKS * 2 * SUB_BYTES
BIAS_AT = MINIMA_AT + CHUNK_BLOCKS * 2 * SUB_BYTES
SUMS_AT = BIAS_AT + ROW_BYTES
PANEL_AT = SUMS_AT + UNITS * PANEL_TOKENS * ROW_BYTES


def integer_sums(layout: RecordFormat) -> int:
    """Sums of integers per block: one for each scale."""
    return sub_blocks(layout) if layout.folded_offset is None else 1


def fields(layout: RecordFormat) -> int:
    """Fields per token of a panel."""
    return 2 + integer_sums(layout) + (sub_blocks(layout) if layout.minimum else 0)


def token_bytes(layout: RecordFormat) -> int:
    """Bytes per token of a panel."""
    return CHUNK_BYTES + fields(layout) * FIELD_BYTES


def largest(layout: RecordFormat) -> int:
    """The largest byte that weights are unpacked to."""
    if layout.folded_offset is None:
        return layout.largest
    return layout.largest * 15 if layout.scale == "nibble" else 255


def vectors_per_step(layout: RecordFormat) -> int:
    """1 where bytes are multiplied, 2 where words are."""
    return 2 if MULTIPLY_ADD and largest(layout) > LARGEST_SIGNED else 1


def tile_tokens(layout: RecordFormat) -> int:
    """Tokens of a tile: registers should hold a sum for each of them and each row, and what is multiplied."""
    if not MULTIPLY_ADD or vectors_per_step(layout) == 2:
        return 6
    run = byte_run(largest(layout))
    return 6 if run >= LONG_RUN else 3 if run > 1 else 4  # measured


def chunk(layout: RecordFormat) -> int:
    """Columns unpacked at a time."""
    return CHUNK_BYTES // vectors_per_step(layout)


def block_codes(layout: RecordFormat) -> int:
    """Bytes of the unpacked weights of a block."""
    return STEPS * vectors_per_step(layout) * STEP_CODES


def unpack(e: Emitter, layout: RecordFormat, record: Any, codes: Any, scales: Any) -> None:
    """Writes codes, scales and minima of one record of one group: ``codes`` and ``scales`` are the addresses of its
    first block's."""
    reader = Record(e, layout, record)
    subs, folded, per_step = sub_blocks(layout), layout.folded_offset is not None, vectors_per_step(layout)
    codes, scales = e.pointer(codes), e.pointer(scales)
    for block in range(layout.weights // BLOCK):
        for step in range(block * STEPS, (block + 1) * STEPS):
            if per_step == 2:
                vectors = list(reader.words(step, folded))
            else:
                vectors = [reader.folded_codes(step) if folded else reader.codes(step)]
            for i, value in enumerate(vectors):
                e.store(value, codes, (step * per_step + i) * STEP_CODES)
        for sub in range(subs):
            at = (block * subs + sub) * SUB_BYTES
            e.store(reader.super_scale() if folded else reader.scale(block, sub), scales, at)
            if layout.minimum:
                e.store(reader.minimum(block, sub), scales, MINIMA_AT - SCALES_AT + at)


def prepare(e: Emitter, layout: RecordFormat, codes: Any, scales: Any, sums: Any, blocks: Any, panel: Any) -> None:
    """Writes a token's part of the panel, for up to CHUNK_BLOCKS blocks (None: for all). The addresses are those of the
    token's first block of the chunk."""
    codes, panel = e.pointer(codes), e.pointer(panel)
    copy = _copy_words if vectors_per_step(layout) == 2 else _copy_bytes
    if blocks is None:
        for block in range(CHUNK_BLOCKS):
            copy(e, codes, panel, e.int64(block * BLOCK))
        scale = e.load(V16F32, scales)
        first, second = e.load(V16I32, sums), e.load(V16I32, sums, 4 * LANES)
    else:
        e.loop(e.int64(0), e.b.mul(blocks, e.int64(BLOCK)), BLOCK, [], lambda at, _: copy(e, codes, panel, at))
        scale = e.load_masked(V16F32, scales, 0, e.first_lanes(blocks))
        halves = e.b.mul(blocks, e.int64(2))
        first = e.load_masked(V16I32, sums, 0, e.first_lanes(halves))
        second = e.load_masked(V16I32, sums, 4 * LANES, e.first_lanes(e.b.sub(halves, e.int64(LANES))))
    panel = e.pointer(panel, CHUNK_BYTES)
    e.store(scale, panel)
    e.store(e.b.fmul(scale, e.const(V16F32, -MAGIC)), panel, FIELD_BYTES)
    per_sub = [e.shuffle(first, second, range(odd, 32, 2)) for odd in (0, 1)]
    whole = [e.b.add(*per_sub)]
    offset = layout.offset if layout.folded_offset is None else layout.folded_offset
    if vectors_per_step(layout) == 2:
        offset = 0
    values = [
        e.b.sub(e.const(V16I32, MAGIC_BITS), e.b.mul(total, e.const(V16I32, offset)))
        for total in (whole if integer_sums(layout) == 1 else per_sub)
    ]
    if layout.minimum:
        values += [e.b.fmul(e.to_float(total), scale) for total in (whole if sub_blocks(layout) == 1 else per_sub)]
    for field, value in enumerate(values):
        e.store(value, panel, (2 + field) * FIELD_BYTES)


def _copy_bytes(e: Emitter, source: Any, place: Any, at: Any) -> list[Any]:
    """Copies the codes of the block at column ``at``."""
    e.store(e.load(CODES, source, at), place, at)
    return []


def _copy_words(e: Emitter, source: Any, place: Any, at: Any) -> list[Any]:
    """As ``_copy_bytes``; every four bytes become their even ones, then their odd ones, as words."""
    words, eight = ir.VectorType(I16, BLOCK // 2), ir.VectorType(I32, STEPS)
    pairs = e.b.bitcast(e.load(CODES, source, at), words)
    bits = e.const(words, 8)
    even, odd = (e.b.bitcast(e.b.ashr(v, bits), eight) for v in (e.b.shl(pairs, bits), pairs))
    order = [index for step in range(STEPS) for index in (step, STEPS + step)]
    e.store(e.shuffle(even, odd, order), place, e.b.mul(at, e.int64(2)))
    return []


def multiply(e: Emitter, layout: RecordFormat, scratch: Any, panel: Any, start: Any, sums: Any, blocks: Any) -> None:
    """Multiplies the unpacked weights by a tile of tokens, adding to ``sums``, or to the bias where ``start`` is not 0.

    ``panel`` and ``sums`` are the addresses of the first token's parts.
    """
    base = e.pointer(scratch)
    is_start = e.b.icmp_signed("!=", start, e.int64(0))
    source = e.pointer(e.b.select(is_start, e.b.add(scratch, e.int64(BIAS_AT)), sums))
    stride = e.b.select(is_start, e.int64(0), e.int64(ROW_BYTES))
    places = [e.pointer(source, e.b.mul(e.int64(t), stride)) for t in range(tile_tokens(layout))]
    sums = e.pointer(sums)
    for first in range(0, GROUPS, TILE_GROUPS):
        groups = range(first, first + TILE_GROUPS)
        starts = [[e.load(V16F32, place, group * 64) for group in groups] for place in places]
        totals = _over_blocks(e, layout, base, e.pointer(panel), groups, blocks, starts)
        for t, row in enumerate(totals):
            for group, value in zip(groups, row, strict=True):
                e.store(value, sums, t * ROW_BYTES + group * 64)


def _over_blocks(
    e: Emitter, layout: RecordFormat, base: Any, panel: Any, groups: range, blocks: Any, starts: list[list[Any]]
) -> list[list[Any]]:
    """The loop over blocks: adds to ``starts``, V16F32 [token][group]."""
    width = len(groups)

    def body(index: Any, values: list[Any]) -> list[Any]:
        totals = _rows(values, width)
        _add_block(e, layout, base, panel, groups, index, totals)
        return _flat(totals)

    return _rows(e.loop(e.int64(0), blocks, 1, _flat(starts), body), width)


def _over_steps(
    e: Emitter, arithmetic: Sums, codes: Any, activations: Any, row: int, steps: int, sums: list[list[list[Any]]]
) -> list[list[list[Any]]]:
    """Adds the products of ``steps`` vectors of weights and as many times four bytes of activations, ``row`` bytes from
    token to token, to ``sums`` [token][group]."""
    kind = V32I16 if isinstance(arithmetic, WordSums) else V64I8
    tokens, groups = range(len(sums)), range(len(sums[0]))
    parts = len(sums[0][0])

    def flat(sums: list[list[list[Any]]]) -> list[Any]:
        return _flat(_flat(sums))

    def nested(values: list[Any]) -> list[list[list[Any]]]:
        return _rows(_rows(values, parts), len(groups))

    def step(codes: Any, activations: Any, sums: list[list[list[Any]]]) -> list[list[list[Any]]]:
        weights = [e.load(kind, codes, group * 64) for group in groups]
        result = []
        for t in tokens:
            four = e.b.bitcast(e.load_splat(V16I32, activations, t * row), kind)
            result.append([arithmetic.add(sums[t][i], weights[i], four) for i in groups])
        return result

    def steps_from(index: Any, count: int, sums: list[list[list[Any]]]) -> list[list[list[Any]]]:
        here = e.pointer(codes, e.b.mul(index, e.int64(STEP_CODES)))
        four = e.pointer(activations, e.b.mul(index, e.int64(4)))
        for i in range(count):
            sums = step(e.pointer(here, i * STEP_CODES), e.pointer(four, 4 * i), sums)
        return sums

    def settled(sums: list[list[list[Any]]]) -> list[list[list[Any]]]:
        return [[arithmetic.settle(total) for total in totals] for totals in sums]

    def two(index: Any, values: list[Any]) -> list[Any]:
        return flat(steps_from(index, 2, nested(values)))

    def some(index: Any, values: list[Any]) -> list[Any]:
        sums = [[arithmetic.begin(value) for value in totals] for totals in _rows(values, len(groups))]
        sums = settled(steps_from(index, run, sums))
        return [total[0] for totals in sums for total in totals]

    if not arithmetic.loop:
        return steps_from(e.int64(0), steps, sums)
    run = 1 << (min(arithmetic.run, steps).bit_length() - 1)  # a power of two divides the steps, which are one
    if run < LONG_RUN:
        values = [total[0] for totals in sums for total in totals]
        values = e.loop(e.int64(0), e.int64(steps), run, values, some, unroll=False)
        return [[arithmetic.begin(value) for value in totals] for totals in _rows(values, len(groups))]
    for first in range(0, steps, run):
        stop = e.int64(first + run)
        sums = settled(nested(e.loop(e.int64(first), stop, 2, flat(sums), two, unroll=False)))
    return sums


def _flat(rows: list[list[Any]]) -> list[Any]:
    return [value for row in rows for value in row]


def _rows(values: list[Any], width: int) -> list[list[Any]]:
    """The reverse of ``_flat`` for rows of ``width``."""
    return [values[i : i + width] for i in range(0, len(values), width)]


def _add_block(
    e: Emitter, layout: RecordFormat, base: Any, panel: Any, groups: range, index: Any, totals: list[list[Any]]
) -> None:
    """Adds block number ``index`` to ``totals`` [token][group]."""
    subs, scales_of, per_step = sub_blocks(layout), integer_sums(layout), vectors_per_step(layout)
    row, tokens = token_bytes(layout), tile_tokens(layout)
    codes = e.pointer(base, e.b.add(e.b.mul(index, e.int64(block_codes(layout))), e.int64(CODES_AT)))
    factors = e.pointer(base, e.b.add(e.b.mul(index, e.int64(subs * SUB_BYTES)), e.int64(SCALES_AT)))
    activations = e.pointer(panel, e.b.mul(index, e.int64(BLOCK * per_step)))
    panel = e.pointer(panel, e.b.add(e.b.mul(index, e.int64(4)), e.int64(CHUNK_BYTES)))
    steps = STEPS * per_step // scales_of
    arithmetic = WordSums(e) if per_step == 2 else ByteSums(e, largest(layout))
    # A 32-bit start that only meets the sum at its end would cost a register, or a way through one, until then.
    late = per_step == 1 and arithmetic.loop and arithmetic.run >= LONG_RUN
    for sub in range(scales_of):
        starts = [partial(e.load_splat, V16I32, panel, t * row + (2 + sub) * FIELD_BYTES) for t in range(tokens)]
        begins = [e.zero(V16I32) if late else start() for start in starts]
        sums = [[arithmetic.begin(begin) for _ in groups] for begin in begins]
        here = e.pointer(codes, sub * steps * STEP_CODES + groups.start * 64)
        four = e.pointer(activations, 4 * sub * steps)
        sums = _over_steps(e, arithmetic, here, four, row, steps, sums)
        scales = [e.load(V16F32, factors, sub * SUB_BYTES + group * 64) for group in groups]
        for t in range(tokens):
            values = [arithmetic.value(total) for total in sums[t]]
            if late:
                start = starts[t]()
                values = [e.b.add(value, start) for value in values]
            scale = e.load_splat(V16F32, panel, t * row)
            bias = e.load_splat(V16F32, panel, t * row + FIELD_BYTES)
            for i, value in enumerate(values):
                scaled = e.fma(e.b.bitcast(value, V16F32), scale, bias)
                totals[t][i] = e.fma(scaled, scales[i], totals[t][i])
    for sub in range(subs if layout.minimum else 0):
        at = MINIMA_AT - SCALES_AT + sub * SUB_BYTES
        minima = [e.load(V16F32, factors, at + group * 64) for group in groups]
        for t in range(tokens):
            total = e.load_splat(V16F32, panel, t * row + (2 + scales_of + sub) * FIELD_BYTES)
            totals[t] = [e.fma(minimum, total, value) for minimum, value in zip(minima, totals[t], strict=True)]
