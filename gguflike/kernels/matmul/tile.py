"""The inner kernel of the blocked matmul: 32 rows x a few tokens x a chunk of columns, on unpacked weights.

A thread's scratch memory holds what the kernel reads and writes:

    codes    uint8 (blocks, steps, 2 row blocks, 64): weights + offset, unpacked; where words are multiplied, int16
             (blocks, steps, even or odd columns, 2 row blocks, 32): weights
    scales   float32 (blocks, sub-blocks, 2 row blocks, 16), then minima alike
    bias     float32 (2 row blocks, 16), what sums start from
    sums     float32 (UNITS, PANEL_TOKENS, 2 row blocks, 16), which the chunks of columns add to
    panel    per token: CHUNK_BYTES of the activations' codes, int8 or int16, then fields of float32 or int32
             (CHUNK_BLOCKS,): their scales, those times -MAGIC, then per sub-block the start of the integer sum, then
             per sub-block the float sum for the minima

Where tokens are few (few.py), one row block stands there instead of two, and panels of all columns.

The integer sums of a block start at MAGIC's bits - offset * sum(activations), so that they end as the bits of the float
MAGIC + s, where s is the dot product with the signed weights (|s| < 2**22). One fma then gives scale * s:
``(MAGIC + s) * scale - MAGIC * scale`` is exact before its only rounding, since MAGIC = 3 * 2**22 and the scale has at
most 22 bits of mantissa, which makes MAGIC * scale a float. This saves a conversion and the correction for the offset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import NamedTuple

from llvmlite import ir

from gguflike.kernels.matmul.reader import STEPS, Record, sub_blocks
from gguflike.kernels.matmul.records import RecordFormat
from gguflike.kernels.vector.dot import LARGEST_SIGNED, MULTIPLY_ADD, ByteSums, Sums, WordSums, byte_run
from gguflike.kernels.vector.emitter import I8, I16, I32, V16F32, V16I32, V32I16, V64I8, Emitter, target
from gguflike.kernels.vector.sizes import BLOCK, LANES
from gguflike.kernels.vector.types import Value

CHUNK_BYTES = 512  # of a row unpacked at a time: 32 rows of them fill half of a 32 KiB first-level cache
CHUNK_BLOCKS = CHUNK_BYTES // BLOCK  # at most
MAGIC = 3.0 * 2**22
MAGIC_BITS = 0x4B400000
ROW_BLOCKS = 2
CODES = ir.VectorType(I8, BLOCK)

TILE_ROW_BLOCKS = 2 if "avx512f" in target()[1] else 1
LONG_RUN = 4  # additions of products in 16 bits; where fewer can follow each other, sums stand in 32 bits all the time

# A panel of tokens is prepared once for some units of 32 rows, whose sums stay in scratch until the last column:
# writing them to the output for every chunk costs a third of the time, since its rows are far apart in memory.
PANEL_TOKENS, UNITS = 120, 8  # tokens: a multiple of every tile's

# Lines of a packed block that are prefetched at a time: as many as can be on their way together.
WHILE_UNPACKING, WHILE_MULTIPLYING = slice(0, None, 2), slice(1, None, 2)

STEP_CODES = ROW_BLOCKS * 64  # bytes of the unpacked weights of a step
SUB_BYTES = ROW_BLOCKS * LANES * 4
FIELD_BYTES = 4 * CHUNK_BLOCKS
ROW_BYTES = ROW_BLOCKS * LANES * 4

# Byte offsets in scratch; sizes allow for two sub-blocks.
CODES_AT = 0
SCALES_AT = CODES_AT + CHUNK_BLOCKS * STEPS * STEP_CODES
MINIMA_AT = SCALES_AT + CHUNK_BLOCKS * 2 * SUB_BYTES
BIAS_AT = MINIMA_AT + CHUNK_BLOCKS * 2 * SUB_BYTES
SUMS_AT = BIAS_AT + ROW_BYTES
PANEL_AT = SUMS_AT + UNITS * PANEL_TOKENS * ROW_BYTES


def integer_sums(record_format: RecordFormat) -> int:
    """Return how many integer sums a block has: one for each scale that is not folded into the weights."""
    return sub_blocks(record_format) if record_format.folded_offset is None else 1


def fields(record_format: RecordFormat) -> int:
    """Return how many fields a token has in the panel, besides its codes."""
    return 2 + integer_sums(record_format) + (sub_blocks(record_format) if record_format.minimum else 0)


def token_bytes(record_format: RecordFormat) -> int:
    """Return the bytes of a token in the panel."""
    return CHUNK_BYTES + fields(record_format) * FIELD_BYTES


def largest(record_format: RecordFormat) -> int:
    """Return the largest byte that weights are unpacked to."""
    if record_format.folded_offset is None:
        return record_format.largest
    return record_format.largest * 15 if record_format.scale == "nibble" else 255


def vectors_per_step(record_format: RecordFormat) -> int:
    """Return how many vectors a step of four columns is unpacked to: 1 of bytes, or 2 of int16."""
    return 2 if MULTIPLY_ADD and largest(record_format) > LARGEST_SIGNED else 1


def tile_tokens(record_format: RecordFormat) -> int:
    """Return the tokens of a tile: registers should hold a sum for each of them and each row, and the factors."""
    if not MULTIPLY_ADD or vectors_per_step(record_format) == 2:
        return 6
    run = byte_run(largest(record_format))
    return 6 if run >= LONG_RUN else 3 if run > 1 else 4  # measured


def chunk(record_format: RecordFormat) -> int:
    """Return how many columns are unpacked at a time."""
    return CHUNK_BYTES // vectors_per_step(record_format)


def block_codes(record_format: RecordFormat, row_blocks: int = ROW_BLOCKS) -> int:
    """Return the bytes of the unpacked weights of a block."""
    return STEPS * vectors_per_step(record_format) * row_blocks * 64


def block_factors(record_format: RecordFormat, row_blocks: int = ROW_BLOCKS) -> int:
    """Return the bytes of the scales of a block, or of its minima."""
    return sub_blocks(record_format) * row_blocks * LANES * 4


def packed_bytes(record_format: RecordFormat) -> int:
    """Return the bytes of 32 columns of a record."""
    return record_format.record_bytes * BLOCK // record_format.weights


def prefetch_block(e: Emitter, record_format: RecordFormat, place: Value, lines: slice) -> None:
    """Ask for some of the cache lines of the packed block at ``place``."""
    for at in range(0, packed_bytes(record_format), 64)[lines]:
        e.prefetch(place, at)


def unpack(
    e: Emitter,
    record_format: RecordFormat,
    record: Value,
    codes: Value,
    scales: Value,
    ahead: Value = None,
    row_blocks: int = ROW_BLOCKS,
) -> None:
    """Unpack one record of one row block: its codes, scales and minima.

    ``codes`` and ``scales`` are the addresses of its first block's; so many ``row_blocks`` stand there side by side.
    Of what is ``ahead`` bytes behind it, if that is given, the lines WHILE_UNPACKING of each block are asked for.
    """
    reader = Record(e, record_format, record)
    codes, scales = e.pointer(codes), e.pointer(scales)
    blocks = record_format.weights // BLOCK

    def unpack_block(block: int, _: list[Value]) -> list[Value]:
        if ahead is not None:
            following = e.pointer(e.b.add(record, ahead), block * packed_bytes(record_format))
            prefetch_block(e, record_format, following, WHILE_UNPACKING)
        reader.forget()
        here = e.pointer(codes, block * block_codes(record_format, row_blocks))
        factors = e.pointer(scales, block * block_factors(record_format, row_blocks))
        _unpack_block(e, record_format, reader, block, here, factors, row_blocks)
        return []

    e.in_turn([], [partial(unpack_block, block) for block in range(blocks)])


def _unpack_block(
    e: Emitter,
    record_format: RecordFormat,
    reader: Record,
    block: int,
    codes: Value,
    scales: Value,
    row_blocks: int,
) -> None:
    """Unpack one block of a record."""
    folded, per_step = record_format.folded_offset is not None, vectors_per_step(record_format)
    for step in range(STEPS):
        if per_step == 2:
            vectors = list(reader.words(block * STEPS + step, folded))
        else:
            vectors = [(reader.folded_codes if folded else reader.codes)(block * STEPS + step)]
        for i, value in enumerate(vectors):
            e.store(value, codes, (step * per_step + i) * row_blocks * 64)
    for sub in range(sub_blocks(record_format)):
        at = sub * row_blocks * LANES * 4
        e.store(reader.super_scale() if folded else reader.scale(block, sub), scales, at)
        if record_format.minimum:
            e.store(reader.minimum(block, sub), scales, MINIMA_AT - SCALES_AT + at)


def prepare(
    e: Emitter, record_format: RecordFormat, codes: Value, scales: Value, sums: Value, blocks: Value, panel: Value
) -> None:
    """Write a token's part of the panel, for up to CHUNK_BLOCKS blocks (None: for all of them).

    ``codes``, ``scales`` and ``sums`` are the addresses of the token's first block of the chunk.
    """
    codes, panel = e.pointer(codes), e.pointer(panel)
    copy = _copy_words if vectors_per_step(record_format) == 2 else _copy_bytes
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
    offset = record_format.offset if record_format.folded_offset is None else record_format.folded_offset
    if vectors_per_step(record_format) == 2:
        offset = 0
    values = [
        e.b.sub(e.const(V16I32, MAGIC_BITS), e.b.mul(total, e.const(V16I32, offset)))
        for total in (whole if integer_sums(record_format) == 1 else per_sub)
    ]
    if record_format.minimum:
        values += [
            e.b.fmul(e.to_float(total), scale) for total in (whole if sub_blocks(record_format) == 1 else per_sub)
        ]
    for field, value in enumerate(values):
        e.store(value, panel, (2 + field) * FIELD_BYTES)


def _copy_bytes(e: Emitter, source: Value, place: Value, at: Value) -> list[Value]:
    """Copy the codes of the block at column ``at``."""
    e.store(e.load(CODES, source, at), place, at)
    return []


def _copy_words(e: Emitter, source: Value, place: Value, at: Value) -> list[Value]:
    """Do as ``_copy_bytes``; of every four bytes, first the even ones and then the odd ones become int16."""
    words, eight = ir.VectorType(I16, BLOCK // 2), ir.VectorType(I32, STEPS)
    pairs = e.b.bitcast(e.load(CODES, source, at), words)
    bits = e.const(words, 8)
    even, odd = (e.b.bitcast(e.b.ashr(v, bits), eight) for v in (e.b.shl(pairs, bits), pairs))
    order = [index for step in range(STEPS) for index in (step, STEPS + step)]
    e.store(e.shuffle(even, odd, order), place, e.b.mul(at, e.int64(2)))
    return []


def multiply(
    e: Emitter, record_format: RecordFormat, scratch: Value, panel: Value, start: Value, sums: Value, blocks: Value
) -> None:
    """Multiply the unpacked weights by a tile of tokens, adding to ``sums``, or to the bias where ``start`` is not 0.

    ``panel`` and ``sums`` are the addresses of the first token's parts; ``blocks`` is how many to multiply.
    """
    for first in range(0, ROW_BLOCKS, TILE_ROW_BLOCKS):
        unpacked = Unpacked(e, scratch, range(first, first + TILE_ROW_BLOCKS))
        multiply_rows(record_format, unpacked, panel, start, sums, e.int64(0), blocks, tile_tokens(record_format))


class Unpacked(NamedTuple):
    """Unpacked weights, in the scratch memory at an address: those of some ``row_blocks`` of ``width`` that there are.

    ``ahead`` is the address of packed blocks, as many as are multiplied, whose lines WHILE_MULTIPLYING are asked for
    meanwhile; or None.
    """

    e: Emitter
    scratch: Value
    row_blocks: range
    width: int = ROW_BLOCKS
    ahead: Value = None


def multiply_rows(
    record_format: RecordFormat,
    unpacked: Unpacked,
    panel: Value,
    start: Value,
    sums: Value,
    first: Value,
    blocks: Value,
    tokens: int,
) -> None:
    """Do as ``multiply`` for so many tokens and some row blocks; what is unpacked begins with block ``first`` of the
    panel."""
    e, row_blocks = unpacked.e, unpacked.row_blocks
    is_start = e.b.icmp_signed("!=", start, e.int64(0))
    source = e.pointer(e.b.select(is_start, e.b.add(unpacked.scratch, e.int64(BIAS_AT)), sums))
    stride = e.b.select(is_start, e.int64(0), e.int64(ROW_BYTES))
    places = [e.pointer(source, e.b.mul(e.int64(t), stride)) for t in range(tokens)]
    sums = e.pointer(sums)
    totals = [e.load(V16F32, place, row_block * 64) for place in places for row_block in row_blocks]

    def add_block(index: Value, totals: list[Value]) -> list[Value]:
        if unpacked.ahead is not None:
            place = e.pointer(unpacked.ahead, e.b.mul(index, e.int64(packed_bytes(record_format))))
            prefetch_block(e, record_format, place, WHILE_MULTIPLYING)
        return _add_block(record_format, unpacked, e.pointer(panel), index, e.b.add(first, index), totals)

    totals = e.loop(e.int64(0), blocks, 1, totals, add_block)
    for (t, row_block), total in zip(product(range(tokens), row_blocks), totals, strict=True):
        e.store(total, sums, t * ROW_BYTES + row_block * 64)


@dataclass(frozen=True)
class TileSums:
    """Unfinished integer sums of a tile (``Sums`` in vector/dot.py): one for each token and row block.

    Row blocks run fastest. Every sum is as many LLVM values as the others.
    """

    sums: list[list[Value]]
    row_blocks: int

    def map(self, function: Callable[[list[Value]], list[Value]]) -> TileSums:
        """Return ``function`` of every sum."""
        return TileSums([function(each) for each in self.sums], self.row_blocks)

    def of_token(self, token: int) -> list[list[Value]]:
        """Return a token's sums, one for each row block."""
        return self.sums[token * self.row_blocks : (token + 1) * self.row_blocks]

    def flat(self) -> list[Value]:
        """Return all values, as a loop carries them."""
        return [value for each in self.sums for value in each]

    def with_values(self, values: list[Value]) -> TileSums:
        """Return sums of the same form with other values, as ``flat`` gives them."""
        parts = len(self.sums[0])
        return TileSums([values[i : i + parts] for i in range(0, len(values), parts)], self.row_blocks)


def _add_steps(
    e: Emitter,
    arithmetic: Sums,
    codes: Value,
    step_codes: int,
    activations: Value,
    stride: int,
    steps: int,
    sums: TileSums,
) -> TileSums:
    """Add the products of ``steps`` vectors of weights and as many times four bytes of activations to ``sums``.

    Vectors lie ``step_codes`` bytes apart, and a token's activations ``stride`` bytes after those of the one before.
    """
    kind = V32I16 if isinstance(arithmetic, WordSums) else V64I8
    tokens = range(len(sums.sums) // sums.row_blocks)

    def add(index: Value, count: int, sums: TileSums) -> TileSums:
        """Add ``count`` steps from number ``index`` on."""
        here = e.pointer(codes, e.b.mul(index, e.int64(step_codes)))
        four = e.pointer(activations, e.b.mul(index, e.int64(4)))
        for step in range(count):
            vectors, step_activations = e.pointer(here, step * step_codes), e.pointer(four, 4 * step)
            weights = [e.load(kind, vectors, row_block * 64) for row_block in range(sums.row_blocks)]
            added = []
            for t in tokens:
                factor = e.b.bitcast(e.load_splat(V16I32, step_activations, t * stride), kind)
                added += [arithmetic.add(each, w, factor) for each, w in zip(sums.of_token(t), weights, strict=True)]
            sums = TileSums(added, sums.row_blocks)
        return sums

    def begun(values: list[Value]) -> TileSums:
        return TileSums([arithmetic.begin(value) for value in values], sums.row_blocks)

    def add_run(index: Value, values: list[Value]) -> list[Value]:
        """Add a whole run to sums that stand in 32 bits in between."""
        return [each[0] for each in add(index, run, begun(values)).map(arithmetic.settle).sums]

    def add_two(index: Value, values: list[Value]) -> list[Value]:
        return add(index, 2, sums.with_values(values)).flat()

    if not arithmetic.loop:
        return add(e.int64(0), steps, sums)
    run = 1 << (min(arithmetic.run, steps).bit_length() - 1)  # a power of two divides the steps, which are one
    if run < LONG_RUN:
        values = [each[0] for each in sums.sums]
        return begun(e.loop(e.int64(0), e.int64(steps), run, values, add_run, unroll=False))
    for first in range(0, steps, run):
        values = e.loop(e.int64(first), e.int64(first + run), 2, sums.flat(), add_two, unroll=False)
        sums = sums.with_values(values).map(arithmetic.settle)
    return sums


def _add_block(
    record_format: RecordFormat, unpacked: Unpacked, panel: Value, here: Value, index: Value, totals: list[Value]
) -> list[Value]:
    """Add block number ``index`` of the panel, ``here`` among those unpacked, to ``totals``: a V16F32 for each token
    and row block, row blocks running fastest."""
    e, row_blocks, all_blocks = unpacked.e, unpacked.row_blocks, unpacked.width
    subs, scales_of, per_step = sub_blocks(record_format), integer_sums(record_format), vectors_per_step(record_format)
    stride, width = token_bytes(record_format), len(row_blocks)
    tokens, step_codes, sub_factors = range(len(totals) // width), all_blocks * 64, all_blocks * LANES * 4
    base = e.pointer(unpacked.scratch)
    codes, factors = (
        e.pointer(base, e.b.add(e.b.mul(here, e.int64(size)), e.int64(at)))
        for size, at in (
            (block_codes(record_format, all_blocks), CODES_AT),
            (block_factors(record_format, all_blocks), SCALES_AT),
        )
    )
    activations = e.pointer(panel, e.b.mul(index, e.int64(BLOCK * per_step)))
    panel = e.pointer(panel, e.b.add(e.b.mul(index, e.int64(4)), e.int64(CHUNK_BYTES)))
    steps = STEPS * per_step // scales_of
    arithmetic = WordSums(e) if per_step == 2 else ByteSums(e, largest(record_format))
    # A 32-bit start that only meets the sum at its end would cost a register, or a way through one, until then.
    late = per_step == 1 and arithmetic.loop and arithmetic.run >= LONG_RUN
    totals = list(totals)
    for sub in range(scales_of):
        starts = [partial(e.load_splat, V16I32, panel, t * stride + (2 + sub) * FIELD_BYTES) for t in tokens]
        begins = [e.zero(V16I32) if late else start() for start in starts]
        sums = TileSums([arithmetic.begin(begin) for begin in begins for _ in row_blocks], width)
        vectors, four = e.pointer(codes, sub * steps * step_codes + row_blocks.start * 64), 4 * sub * steps
        sums = _add_steps(e, arithmetic, vectors, step_codes, e.pointer(activations, four), stride, steps, sums)
        scales = [e.load(V16F32, factors, sub * sub_factors + row_block * 64) for row_block in row_blocks]
        for t in tokens:
            values = [arithmetic.value(each) for each in sums.of_token(t)]
            if late:
                start = starts[t]()
                values = [e.b.add(value, start) for value in values]
            scale = e.load_splat(V16F32, panel, t * stride)
            bias = e.load_splat(V16F32, panel, t * stride + FIELD_BYTES)
            for i, value in enumerate(values):
                scaled = e.fma(e.b.bitcast(value, V16F32), scale, bias)
                totals[t * width + i] = e.fma(scaled, scales[i], totals[t * width + i])
    for sub in range(subs if record_format.minimum else 0):
        at = MINIMA_AT - SCALES_AT + sub * sub_factors
        minima = [e.load(V16F32, factors, at + row_block * 64) for row_block in row_blocks]
        for t in tokens:
            total = e.load_splat(V16F32, panel, t * stride + (2 + scales_of + sub) * FIELD_BYTES)
            for i, minimum in enumerate(minima):
                totals[t * width + i] = e.fma(minimum, total, totals[t * width + i])
    return totals
