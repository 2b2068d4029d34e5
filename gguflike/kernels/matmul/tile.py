"""The inner kernel of the blocked matmul: 32 rows x a few tokens x a chunk of columns, on unpacked weights.

A thread's scratch memory holds what the kernel reads and writes:

    codes    uint8 (blocks, steps, 2 row blocks, 64): weights + offset, unpacked; where words are multiplied, int16
             (blocks, steps, even or odd columns, 2 row blocks, 32): weights
    scales   float32 (blocks, sub-blocks, 2 row blocks, 16), then minima alike
    bias     float32 (2 row blocks, 16), what sums start from
    sums     float32 (UNITS, PANEL_TOKENS, 2 row blocks, 16), which the chunks of columns add to
    panel    panels.py

Where tokens are few (few.py), one row block stands there instead of two, and panels of all columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import NamedTuple

from gguflike.kernels.matmul.panels import (
    CHUNK_BLOCKS,
    center,
    field_at,
    integer_sums,
    is_exact,
    largest,
    token_bytes,
    vectors_per_step,
)
from gguflike.kernels.matmul.reader import STEPS, Record, sub_blocks
from gguflike.kernels.matmul.records import RecordFormat
from gguflike.kernels.vector.dot import MULTIPLY_ADD, ByteSums, ShortSums, Sums, WordSums, byte_run
from gguflike.kernels.vector.emitter import V16F32, V16I32, V32I16, V64I8, Emitter, target
from gguflike.kernels.vector.sizes import BLOCK, LANES
from gguflike.kernels.vector.types import Value

ROW_BLOCKS = 2

TILE_ROW_BLOCKS = 2 if "avx512f" in target()[1] else 1
FEW_REGISTERS = MULTIPLY_ADD and "avx512f" not in target()[1]
LONG_RUN = 4  # additions of products in 16 bits; where fewer can follow each other, sums stand in 32 bits all the time

# A panel of tokens is prepared once for some units of 32 rows, whose sums stay in scratch until the last column:
# writing them to the output for every chunk costs a third of the time, since its rows are far apart in memory.
PANEL_TOKENS, UNITS = 120, 8  # tokens: a multiple of every tile's

STEP_CODES = ROW_BLOCKS * 64  # bytes of the unpacked weights of a step
SUB_BYTES = ROW_BLOCKS * LANES * 4
ROW_BYTES = ROW_BLOCKS * LANES * 4

# Byte offsets in scratch; sizes allow for two sub-blocks.
CODES_AT = 0
SCALES_AT = CODES_AT + CHUNK_BLOCKS * STEPS * STEP_CODES
MINIMA_AT = SCALES_AT + CHUNK_BLOCKS * 2 * SUB_BYTES
BIAS_AT = MINIMA_AT + CHUNK_BLOCKS * 2 * SUB_BYTES
SUMS_AT = BIAS_AT + ROW_BYTES
PANEL_AT = SUMS_AT + UNITS * PANEL_TOKENS * ROW_BYTES


def tile_tokens(record_format: RecordFormat) -> int:
    """Return the tokens of a tile: registers should hold a sum for each of them and each row, and the factors."""
    if not MULTIPLY_ADD or vectors_per_step(record_format) == 2:
        return 6
    run = byte_run(largest(record_format))
    return 6 if center(record_format) is not None or run >= LONG_RUN else 3 if run > 1 else 4  # measured


def block_codes(record_format: RecordFormat, row_blocks: int = ROW_BLOCKS) -> int:
    """Return the bytes of the unpacked weights of a block."""
    return STEPS * vectors_per_step(record_format) * row_blocks * 64


def block_factors(record_format: RecordFormat, row_blocks: int = ROW_BLOCKS) -> int:
    """Return the bytes of the scales of a block, or of its minima."""
    return sub_blocks(record_format) * row_blocks * LANES * 4


def packed_bytes(record_format: RecordFormat) -> int:
    """Return the bytes of 32 columns of a record."""
    return record_format.record_bytes * BLOCK // record_format.weights


def unpack(
    e: Emitter, record_format: RecordFormat, record: Value, codes: Value, scales: Value, row_blocks: int = ROW_BLOCKS
) -> None:
    """Unpack one record of one row block: its codes, scales and minima.

    ``codes`` and ``scales`` are the addresses of its first block's; so many ``row_blocks`` stand there side by side.
    """
    reader = Record(e, record_format, record)
    codes, scales = e.pointer(codes), e.pointer(scales)
    blocks = record_format.weights // BLOCK

    def unpack_block(block: int, _: list[Value]) -> list[Value]:
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

    ``ahead`` is the address of packed blocks, as many as are multiplied, which are asked for meanwhile; or None.
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
    values = [e.load(V16F32, place, row_block * 64) for place in places for row_block in row_blocks]
    offsets = [t * ROW_BYTES + row_block * 64 for t, row_block in product(range(tokens), row_blocks)]
    if FEW_REGISTERS:
        _store_all(e, values, sums, offsets)

    def add_block(index: Value, values: list[Value]) -> list[Value]:
        if unpacked.ahead is not None:
            place = e.pointer(unpacked.ahead, e.b.mul(index, e.int64(packed_bytes(record_format))))
            for line in range(0, packed_bytes(record_format), 64):
                e.prefetch(place, line, second_level=True)
        if FEW_REGISTERS:
            e.forget_memory()
        totals = Totals(e, values, sums, offsets)
        _add_block(record_format, unpacked, e.pointer(panel), index, e.b.add(first, index), totals)
        return totals.values

    values = e.loop(e.int64(0), blocks, 1, [] if FEW_REGISTERS else values, add_block)
    if not FEW_REGISTERS:
        _store_all(e, values, sums, offsets)


def _store_all(e: Emitter, values: Sequence[Value], place: Value, offsets: Sequence[int]) -> None:
    for value, offset in zip(values, offsets, strict=True):
        e.store(value, place, offset)


class Totals(NamedTuple):
    """What a tile's products add up to: a V16F32 for each token and row block, row blocks running fastest.

    They are ``values``; or, where there are none, they stay at ``offsets`` from ``place``: where registers are few,
    LLVM would put all of them aside for every block, and additions read them from memory as they go.
    """

    e: Emitter
    values: list[Value]
    place: Value
    offsets: Sequence[int]

    def add(self, index: int, products: Sequence[tuple[Value, Value]]) -> None:
        """Add the products of pairs to one of them, one after the other."""
        total = self.values[index] if self.values else self.e.load(V16F32, self.place, self.offsets[index])
        for a, b in products:
            total = self.e.fma(a, b, total)
        if self.values:
            self.values[index] = total
        else:
            self.e.store(total, self.place, self.offsets[index])


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
    record_format: RecordFormat, unpacked: Unpacked, panel: Value, here: Value, index: Value, totals: Totals
) -> None:
    """Add block number ``index`` of the panel, ``here`` among those unpacked, to ``totals``."""
    e, row_blocks, all_blocks = unpacked.e, unpacked.row_blocks, unpacked.width
    subs, scales_of, per_step = sub_blocks(record_format), integer_sums(record_format), vectors_per_step(record_format)
    stride, width = token_bytes(record_format), len(row_blocks)
    tokens, step_codes, sub_factors = range(len(totals.offsets) // width), all_blocks * 64, all_blocks * LANES * 4
    base = e.pointer(unpacked.scratch)
    codes, factors = (
        e.pointer(base, e.b.add(e.b.mul(here, e.int64(size)), e.int64(at)))
        for size, at in (
            (block_codes(record_format, all_blocks), CODES_AT),
            (block_factors(record_format, all_blocks), SCALES_AT),
        )
    )
    activations = e.pointer(panel, e.b.mul(index, e.int64(BLOCK * per_step)))
    panel = e.pointer(panel, e.b.mul(index, e.int64(4)))
    steps, exact = STEPS * per_step // scales_of, is_exact(record_format)
    arithmetic = _arithmetic(e, record_format)
    # A 32-bit start that only meets the sum at its end would cost a register, or a way through one, until then.
    late = isinstance(arithmetic, ShortSums) or (per_step == 1 and arithmetic.loop and arithmetic.run >= LONG_RUN)

    def of_token(token: int, name: str, sub: int = 0) -> Value:
        kind = V16I32 if name in ("start", "short") else V16F32
        return e.load_splat(kind, panel, token * stride + field_at(record_format, name, sub))

    minima: list[list[Value]] = []  # of each sub-block, for the rows

    def load_minima() -> None:
        for sub in range(subs if record_format.minimum else 0):
            at = MINIMA_AT - SCALES_AT + sub * sub_factors
            minima.append([e.load(V16F32, factors, at + row_block * 64) for row_block in row_blocks])

    def of_minimum(t: int, i: int) -> list[tuple[Value, Value]]:
        return [(of_rows[i], of_token(t, "minimum", sub)) for sub, of_rows in enumerate(minima)]

    for sub in range(scales_of):
        if center(record_format):
            begins = [e.b.bitcast(of_token(t, "short", sub), V32I16) for t in tokens]
        elif late or exact:
            begins = [e.zero(V32I16 if isinstance(arithmetic, ShortSums) else V16I32)] * len(tokens)
        else:
            begins = [of_token(t, "start", sub) for t in tokens]
        sums = TileSums([arithmetic.begin(begin) for begin in begins for _ in row_blocks], width)
        vectors, four = e.pointer(codes, sub * steps * step_codes + row_blocks.start * 64), 4 * sub * steps
        sums = _add_steps(e, arithmetic, vectors, step_codes, e.pointer(activations, four), stride, steps, sums)
        scales = [e.load(V16F32, factors, sub * sub_factors + row_block * 64) for row_block in row_blocks]
        if not totals.values and sub == scales_of - 1:  # all at once, or totals were read and written again
            load_minima()
        for t in tokens:
            values = [arithmetic.value(each) for each in sums.of_token(t)]
            scale = of_token(t, "scale")
            if exact:
                values = [e.b.fmul(e.to_float(value), scale) for value in values]
            else:
                if late:
                    start = of_token(t, "start", sub)
                    values = [e.b.add(value, start) for value in values]
                bias = of_token(t, "bias")
                values = [e.fma(e.b.bitcast(value, V16F32), scale, bias) for value in values]
            for i, value in enumerate(values):
                totals.add(t * width + i, [(value, scales[i]), *of_minimum(t, i)])
    if totals.values:
        load_minima()
        for t, i in product(tokens, range(width)):
            totals.add(t * width + i, of_minimum(t, i))


def _arithmetic(e: Emitter, record_format: RecordFormat) -> Sums:
    """Return how to add up the products of a type."""
    if vectors_per_step(record_format) == 2:
        return WordSums(e)
    return ByteSums(e, largest(record_format)) if center(record_format) is None else ShortSums(e)
